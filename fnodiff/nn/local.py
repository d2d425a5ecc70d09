"""The local convolution: of pixels, whose support shrinks as the grid is refined, or of taps at fixed places of the domain.

On the sphere see `fnodiff.nn.spherical`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fnodiff.domain import Domain
from fnodiff.domain.constants import cached
from fnodiff.expected import at_least, kinds_checked
from fnodiff.nn.modes import signed

SMALL = 12
"""Grids with fewer points a side have edges padded by torch alone: our gradient is faster on larger ones."""

_CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_CONVOLVE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


@kinds_checked
class LocalConv(nn.Module):
    """A convolution with 3 (or 1) taps per axis, continued at the edges as the domain is.

    With `reference`, the taps lie at fixed places of the domain, an operator on functions with a convolution's weights,

        (K f)(x) = sum_j w_j f(x + j / n_ref),    j in {-1, 0, 1}^dim,

    by dilation where a grid is a whole multiple of the reference, else by cubic interpolation; on the reference grid itself
    it is the plain convolution. Without, the taps are neighbouring grid points, and shrink with the grid.

    The field goes on by its period along periodic axes; at walls it is reflected with its edge repeated.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        domain: Its dimension and its edges.
        kernel_size: 1 or 3.
        reference: Spatial shape n_ref of the grid whose spacing the taps keep; None for the grid at hand.
        resize: How the input is brought to another grid: "pool" (cell averages where there are walls) or "resample" (exact on
            functions).

    Examples:
        >>> import torch
        >>> from fnodiff import Torus
        >>> from fnodiff.nn import LocalConv
        >>> layer = LocalConv(1, 1, domain=Torus(1), reference=(8,))  # taps an eighth of the circle apart
        >>> x = [(2 * torch.pi * Torus(1).points((n,))[None]).sin() for n in (8, 16)]
        >>> bool((layer(x[1])[..., ::2] - layer(x[0])).abs().max() < 1e-5)
        True
    """

    part = "local"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        domain: Domain,
        kernel_size: int = 3,
        reference: Sequence[int] | None = None,
        resize: str = "pool",
    ) -> None:
        super().__init__()
        at_least("LocalConv", 1, in_channels=in_channels, out_channels=out_channels)
        if resize not in ("pool", "resample"):
            raise ValueError(f'LocalConv: expected resize "pool" or "resample", got {resize!r}.')
        if kernel_size not in (1, 3):
            raise ValueError(f"LocalConv: expected kernel_size 1 or 3, got {kernel_size!r}.")
        # Reflection with the edge repeated, one point wide, is what torch calls "replicate"; it has no mode for mixed edges.
        self.domain, self.walled = domain, set(domain.edges) == {"wall"}
        padding_mode = "circular" if set(domain.edges) == {"periodic"} else "replicate"
        self.reference = None if reference is None or kernel_size == 1 else domain.check_shape(reference)
        self.resize = getattr(domain, resize)
        self.conv = _CONVS[domain.dim](
            in_channels,
            out_channels,
            kernel_size,
            padding=kernel_size // 2,
            padding_mode=padding_mode if kernel_size > 1 else "zeros",
        )

    def forward(self, x: Tensor, output_shape: Sequence[int] | None = None) -> Tensor:
        """(B, in_channels, *shape) -> (B, out_channels, *output_shape), the input brought to that grid first."""
        x = x if output_shape is None else self.resize(x, output_shape)
        shape = tuple(x.shape[2:])
        if self.reference is None or shape == self.reference:
            if self.conv.kernel_size[0] == 1:
                return self.conv(x)
            return _CONVOLVE[self.domain.dim](self._one_more(x), self.conv.weight, self.conv.bias)
        weight, dilation, reach = self.conv.weight, [], []
        for axis, (n, n_ref) in enumerate(zip(shape, self.reference, strict=True), start=2):
            whole = n % n_ref == 0
            dilation.append(n // n_ref if whole else 1)
            if not whole:
                taps = _taps(n, n_ref, weight.dtype, weight.device)
                weight = torch.movedim(torch.movedim(weight, axis, -1) @ taps, -1, axis)
            reach.append(dilation[-1] * (weight.shape[axis] // 2))
        return _CONVOLVE[self.domain.dim](self._extend(x, reach), weight, self.conv.bias, dilation=tuple(dilation))

    def _one_more(self, x: Tensor) -> Tensor:
        """Continue the field by one point at every edge."""
        # The compiler's gradient of replicated edges is wrong about strides (torch 2.14): there by hand.
        if not self.walled or torch.compiler.is_compiling():
            return self._extend(x, (1,) * self.domain.dim)
        if min(x.shape[2:]) < SMALL or not torch.is_grad_enabled():
            return functional.pad(x, (1, 1) * self.domain.dim, mode="replicate")
        return _Replicated.apply(x)

    def _extend(self, x: Tensor, reach: Sequence[int]) -> Tensor:
        """Continue the field by `reach` points at every edge."""
        for axis, r in enumerate(reach, start=2):
            n = x.shape[axis]
            if r > n:
                raise ValueError(
                    f"LocalConv: expected a grid of {r} points or more along axis {axis - 2}, got {n}, as the taps "
                    f"keep the spacing of a grid of {self.reference}; take a finer reference."
                )
            low, high = x.narrow(axis, 0, r), x.narrow(axis, n - r, r)
            periodic = self.domain.edges[axis - 2] == "periodic"
            low, high = (high, low) if periodic else (low.flip(axis), high.flip(axis))
            x = torch.cat([low, x, high], dim=axis)
        return x


@signed
class _Replicated(torch.autograd.Function):
    """One point more at every edge, a copy of the last: as torch pads, with a gradient of its own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return functional.pad(x, (1, 1) * (x.ndim - 2), mode="replicate")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        pass

    @staticmethod
    def jvp(ctx: Any, d_x: Tensor) -> Tensor:
        return functional.pad(d_x, (1, 1) * (d_x.ndim - 2), mode="replicate")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        folded = gradient.clone()
        for axis in range(2, gradient.ndim):
            n = folded.shape[axis]
            for edge, beside in ((0, 1), (n - 1, n - 2)):
                folded.select(axis, beside).add_(folded.select(axis, edge))
        return folded[(..., *(slice(1, -1),) * (gradient.ndim - 2))].contiguous()


@cached
def _taps(n: int, n_ref: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(3, size): the values at -n / n_ref, 0 and n / n_ref points, by cubic (Lagrange) interpolation between grid points."""
    ratio = n / n_ref
    reach = math.ceil(ratio) + 1
    taps = torch.zeros(3, 2 * reach + 1, dtype=torch.float64)
    taps[1, reach] = 1
    first = math.floor(ratio) - 1
    for i in range(first, first + 4):
        others = [j for j in range(first, first + 4) if j != i]
        value = math.prod((ratio - j) / (i - j) for j in others)
        taps[2, reach + i] += value
        taps[0, reach - i] += value
    return taps.to(device, dtype)
