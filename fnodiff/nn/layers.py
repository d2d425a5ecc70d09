"""Layers that are operators, and the pixel convolution beside them.

The spectral convolution multiplies the Fourier modes of a function by a complex matrix per mode,

    (K f)^_k = W_k f^_k    for |k| below n_modes and below both grids' Nyquist frequencies,

and reads the result on any grid: it sees the function, not the grid. The local convolution, 3 x 3 pixels, does not:
its support shrinks as the grid is refined. `DualConv` is their sum.

On the sphere both are those of `fnodiff.nn.spherical`. These two are the only modules that import neuralop (about 5 s); import
them through `fnodiff.nn` when needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import neuralop.layers.spectral_convolution as neuralop_spectral
import torch
from tltorch.factorized_tensors.complex_factorized_tensors import ComplexDenseTensor
from torch import Tensor, nn
from torch.nn import functional

from fnodiff.domain import Box, Domain, Shape, Sphere, Torus
from fnodiff.domain.base import cached
from fnodiff.nn.factors import ModeMajorDense, by_factors, multiply_factors, rows, scale_modes, unrows
from fnodiff.nn.modes import Modes, down, up
from fnodiff.nn.spherical import SphericalConv, SphericalLocalConv

_CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_CONVOLVE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


class SpectralConv(neuralop_spectral.SpectralConv):
    """neuralop's spectral convolution, exact at every pair of grids.

    Constructor, weights and state_dict keys are neuralop's; results equal neuralop's wherever the grid is even, keeps its
    size and holds the modes below its Nyquist frequency. Elsewhere (odd sizes, a change of size, n_modes above the grid)
    neuralop's forward is wrong and this one is exact to rounding on band-limited periodic functions.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        n_modes: neuralop's convention: per axis, counting both signs (rows -n//2 .. n//2 - 1; of the last axis 0 .. n//2).
        domain: `Torus` (points i / n) or `Box` (cell centres, whose half-sample offset turns into a phase when the size
            changes). Box fields are treated as periodic, an error of order 1 / n at edges that do not match.
        factorization: "ComplexDense" or "ComplexTucker" (and CP, TT) store real tensors, which optimisers, GradScaler and
            safetensors handle; neuralop's complex-stored ones are accepted too.
        complex_data: neuralop's; False here.
        options: Everything else that neuralop's constructor takes (rank, bias, separable, init_std, ...).

    Raises:
        ValueError: If n_modes does not fit the domain, or for complex data or reduced precision inside the layer.

    Source: Li et al. (2021), Fourier neural operator for parametric partial differential equations; neuraloperator 2.0.

    Examples:
        >>> from fnodiff import Torus, WhiteNoise
        >>> from fnodiff.nn import SpectralConv
        >>> torus, layer = Torus(1), SpectralConv(1, 1, (6,), domain=Torus(1))
        >>> x = WhiteNoise(torus, (9,)).sample((1, 1, 9))
        >>> here, there = layer(x), layer(torus.resample(x, (32,)))
        >>> bool((torus.resample(there, (9,)) - here).abs().max() < 1e-5)
        True
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        n_modes: Sequence[int] | int,
        complex_data: bool = False,
        *,
        domain: Domain | None = None,
        factorization: str | None = "ComplexDense",
        **options: Any,
    ) -> None:
        n_modes = (n_modes,) if isinstance(n_modes, int) else tuple(n_modes)
        domain = Torus(len(n_modes)) if domain is None else domain
        if len(n_modes) != domain.dim or not all(isinstance(n, int) and n > 0 for n in n_modes):
            raise ValueError(
                f"SpectralConv: expected {domain.dim} positive integers as n_modes on {domain}, got {n_modes}; "
                f"pass one number of modes per spatial axis."
            )
        if complex_data or options.get("fno_block_precision", "full") != "full":
            raise ValueError(
                "SpectralConv: expected real data in full precision, got complex_data or fno_block_precision; leave them "
                "out (under autocast the layer computes in float32 by itself)."
            )
        if not isinstance(domain, Box | Torus):
            raise ValueError(f"SpectralConv: expected a Torus or a Box, got {domain!r}; those have Fourier modes.")
        super().__init__(in_channels, out_channels, n_modes, factorization=factorization, **options)
        if type(self.weight) is ComplexDenseTensor and not self.separable:
            self.weight = ModeMajorDense(self.weight.to_tensor())
        self.domain = domain

    def forward(self, x: Tensor, output_shape: Sequence[int] | None = None) -> Tensor:
        """(B, in_channels, *shape) -> (B, out_channels, *output_shape), by default on the same grid.

        float32 inside for half-precision input; float64 for float64.
        """
        shape = self.domain.check_field(x)
        if output_shape is None:
            scaling = self.resolution_scaling_factor
            output_shape = (
                shape if scaling is None else [round(n * r) for n, r in zip(shape, _flat(scaling), strict=True)]
            )
        output_shape = self.domain.check_shape(output_shape)
        if x.shape[1] != self.in_channels:
            raise ValueError(
                f"SpectralConv: expected {self.in_channels} channels, got a field of shape {tuple(x.shape)}."
            )
        with torch.autocast(x.device.type, enabled=False):
            out = self._spectral(x if x.dtype == torch.float64 else x.float(), shape, output_shape)
            if self.bias is not None:
                out = out + self.bias
        return out.to(x.dtype)

    def _spectral(self, x: Tensor, shape: Shape, output_shape: Shape) -> Tensor:
        plan = _plan.__wrapped__ if torch.compiler.is_compiling() else _plan
        centred = isinstance(self.domain, Box)
        modes, corner, ways = plan(
            tuple(self.n_modes), tuple(self.max_n_modes), shape, output_shape, self.fft_norm, centred
        )
        if self.separable:
            weight = self.weight if torch.is_tensor(self.weight) else self.weight.to_tensor()
            weight = torch.view_as_real(weight[(..., *corner)].flatten(1).resolve_conj())
            return modes.synthesize(
                scale_modes(modes.analyze(x, ways[0]), weight.permute(2, 1, 0).to(x.dtype)), ways[1]
            )
        if not torch.is_tensor(self.weight) and by_factors(self.weight, batch=x.shape[0]):
            return modes.synthesize(multiply_factors(modes.analyze(x, ways[0]), self.weight, corner), ways[1])
        weight = _mode_matrices(self.weight, corner).to(x.dtype)
        if "fft" in ways or not torch.is_grad_enabled() or _is_transformed():
            products = torch.bmm(rows(modes.analyze(x, ways[0])), weight.flatten(1, 2))
            return modes.synthesize(unrows(products), ways[1])
        matrices = modes.analysis(ways[0], x), modes.synthesis(ways[1], x)
        return _SpectralProduct.apply(x, weight, matrices, shape, output_shape)


@lru_cache(maxsize=256)
def _plan(
    n_modes: Shape, max_n_modes: Shape, shape: Shape, output_shape: Shape, norm: str, centred: bool
) -> tuple[Modes, tuple[slice, ...], tuple[str, str]]:
    """The modes that a layer carries between two grids, the corner of its weight that holds them, and both ways."""
    bands = [(n // 2, n - n // 2 - 1) for n in n_modes[:-1]] + [(0, n_modes[-1] - 1)]
    modes = Modes(shape, output_shape, tuple(bands), norm, centred)
    held, every = modes.held(), math.prod(modes.counts)
    # Weights that a grid is too small for are left out, unless they are too few to be worth a copy of the others.
    if math.prod(held.counts) < 0.75 * every or "fft" in (modes.way(shape), modes.way(output_shape)):
        modes = held
    # A weight's mode 0 is at size // 2, on the last axis at 0.
    centres = [*(n // 2 for n in max_n_modes[:-1]), 0]
    corner = tuple(slice(c - low, c + high + 1) for c, (low, high) in zip(centres, modes.bands, strict=True))
    return modes, corner, (modes.way(shape), modes.way(output_shape))


class _SpectralProduct(torch.autograd.Function):
    """Down, multiply, up, with a gradient that neither transposes nor fills as autograd's does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, matrices: Any, shape: Shape, output_shape: Shape) -> Tensor:
        factors = rows(down(x, matrices[0]))
        ctx.save_for_backward(x, weight, factors)
        ctx.geometry = matrices, shape
        return up(unrows(torch.bmm(factors, weight.flatten(1, 2))), matrices[1], output_shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        (x, weight, factors), (matrices, shape) = ctx.saved_tensors, ctx.geometry
        if torch.is_grad_enabled():  # for a gradient of this gradient: what was kept does not know that it came from x
            factors = rows(down(x, matrices[0]))
        g = down(gradient, matrices[1]).permute(2, 0, 1, 3).flatten(1, 2)
        d_x = d_weight = None
        if ctx.needs_input_grad[1]:
            d_weight = torch.bmm(factors.transpose(1, 2), g).view(weight.shape)
        if ctx.needs_input_grad[0]:
            d = torch.bmm(g, weight.flatten(1, 2).transpose(1, 2)).unflatten(2, (2, -1)).unflatten(1, (-1, 2))
            d = d.permute(1, 2, 3, 0, 4)  # (B, 2, 2, modes, C): for each part of the result, by what it multiplied
            d_x = up(torch.stack([d[:, 0, 0] + d[:, 1, 1], d[:, 1, 0] - d[:, 0, 1]], 1), matrices[0], shape)
        return d_x, d_weight, None, None, None


def _is_transformed() -> bool:
    """Whether a compiler, functorch or forward-mode differentiation is at work, which derive their own gradients."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def _mode_matrices(weight: Any, corner: tuple[slice, ...]) -> Tensor:
    """(modes, 2, in, out): the chosen modes' matrices."""
    if isinstance(weight, ModeMajorDense):
        matrices = weight.matrices
        if any(c.stop - c.start < n for c, n in zip(corner, matrices.shape, strict=False)):
            matrices = matrices[corner]  # whose gradient fills all the others with zeros
        return matrices.flatten(0, len(corner) - 1)
    dense = weight if torch.is_tensor(weight) else weight.to_tensor()
    return torch.view_as_real(dense[(..., *corner)].flatten(2).resolve_conj()).permute(2, 3, 0, 1)


def _flat(scaling: Sequence[Any]) -> list[float]:
    """neuralop stores scaling factors as one list per layer, or one number per axis."""
    return [float(v[0]) if isinstance(v, Sequence) else float(v) for v in scaling]


class LocalConv(nn.Module):
    """A convolution with 3 (or 1) taps per axis, continued at the edges as the domain is.

    With `reference`, the taps lie at fixed places of the domain, an operator on functions with a convolution's weights,

        (K f)(x) = sum_j w_j f(x + j / n_ref),    j in {-1, 0, 1}^dim,

    by dilation where a grid is a whole multiple of the reference, else by cubic interpolation; on the reference grid itself
    it is the plain convolution. Without, the taps are neighbouring grid points, and shrink with the grid.

    Periodic on Torus; on Box the field is reflected with its edge repeated.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        domain: Its dimension and its edges.
        kernel_size: 1 or 3.
        reference: Spatial shape n_ref of the grid whose spacing the taps keep; None for the grid at hand.
        resize: How the input is brought to another grid: "pool" (cell averages on Box) or "resample" (exact on functions).

    Examples:
        >>> import torch
        >>> from fnodiff import Torus
        >>> from fnodiff.nn import LocalConv
        >>> layer = LocalConv(1, 1, domain=Torus(1), reference=(8,))  # taps an eighth of the circle apart
        >>> x = [(2 * torch.pi * Torus(1).points((n,))[None]).sin() for n in (8, 16)]
        >>> bool((layer(x[1])[..., ::2] - layer(x[0])).abs().max() < 1e-5)
        True
    """

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
        if kernel_size not in (1, 3):
            raise ValueError(f"LocalConv: expected kernel_size 1 or 3, got {kernel_size!r}.")
        # Reflection with the edge repeated, one point wide, is what torch calls "replicate".
        padding_mode = "circular" if isinstance(domain, Torus) else "replicate"
        self.domain = domain
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
            if not torch.compiler.is_compiling() or self.conv.kernel_size[0] == 1:
                return self.conv(x)
            # The compiler's gradient of replicated edges is wrong about strides (torch 2.14): extend by hand.
            extended = self._extend(x, (1,) * self.domain.dim)
            return _CONVOLVE[self.domain.dim](extended, self.conv.weight, self.conv.bias)
        weight, dilation, reach = self.conv.weight, [], []
        for axis, (n, n_ref) in enumerate(zip(shape, self.reference, strict=True), start=2):
            whole = n % n_ref == 0
            dilation.append(n // n_ref if whole else 1)
            if not whole:
                taps = _taps(n, n_ref, weight.dtype, weight.device)
                weight = torch.movedim(torch.movedim(weight, axis, -1) @ taps, -1, axis)
            reach.append(dilation[-1] * (weight.shape[axis] // 2))
        return _CONVOLVE[self.domain.dim](self._extend(x, reach), weight, self.conv.bias, dilation=tuple(dilation))

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
            low, high = (high, low) if isinstance(self.domain, Torus) else (low.flip(axis), high.flip(axis))
            x = torch.cat([low, x, high], dim=axis)
        return x


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


class DualConv(nn.Module):
    """A local convolution plus a spectral convolution of the same input; either may be left out.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        domain: Torus, Box or Sphere.
        n_modes: Of the spectral branch (neuralop's convention); None: no such branch.
        local: "conv", 3 x 3 pixels; "operator", taps at the spacing of `reference`; "point", one by one, as in a Fourier
            neural operator; or None: no such branch.
        reference: Spatial shape of the grid whose spacing the operator's taps keep.
        resize: How the local branch reaches another grid: "pool" or "resample".
        init_scale: The initial weights' factor; 0 starts the layer at zero.
        spectral: Options for `SpectralConv`, such as dict(factorization="ComplexTucker", rank=0.1).

    Raises:
        ValueError: If both branches are left out, or `local` is unknown.

    Source: Havrilla, Rojas, Liao, Tao (2024), DFU: scale-robust diffusion model for zero-shot super-resolution.

    Examples:
        >>> import torch
        >>> from fnodiff import Box
        >>> from fnodiff.nn import DualConv
        >>> layer = DualConv(2, 4, domain=Box(2), n_modes=(6, 6))
        >>> layer(torch.randn(1, 2, 15, 20), (8, 10)).shape  # any grid to any
        torch.Size([1, 4, 8, 10])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        domain: Domain,
        n_modes: Sequence[int] | None,
        local: str | None = "conv",
        reference: Sequence[int] | None = None,
        resize: str = "pool",
        init_scale: float = 1.0,
        spectral: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if local not in ("conv", "operator", "point", None) or (local is None and n_modes is None):
            raise ValueError(
                f'DualConv: expected local="conv", "operator" or "point", or local=None with n_modes given, got '
                f"local={local!r} and n_modes={n_modes!r}; a layer needs at least one branch."
            )
        if local == "operator" and reference is None:
            raise ValueError(f"DualConv: expected a reference with local={local!r}, got none; name the taps' grid.")
        self.local = None
        if local is not None:
            kind = SphericalLocalConv if isinstance(domain, Sphere) and local != "point" else LocalConv
            options = (
                {"kernel_size": 1} if local == "point" else {"reference": reference if local == "operator" else None}
            )
            self.local = kind(in_channels, out_channels, domain=domain, resize=resize, **options)
        self.spectral = None
        if n_modes is not None:
            options = {"bias": local is None, **(spectral or {})}
            kind = SphericalConv if isinstance(domain, Sphere) else SpectralConv
            self.spectral = kind(in_channels, out_channels, n_modes, domain=domain, **options)
        if init_scale != 1:
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.mul_(init_scale)

    def forward(self, x: Tensor, output_shape: Sequence[int] | None = None) -> Tensor:
        """(B, in_channels, *shape) -> (B, out_channels, *output_shape), by default on the same grid."""
        if self.local is None:
            return self.spectral(x, output_shape)
        out = self.local(x, output_shape)
        return out if self.spectral is None else out + self.spectral(x, output_shape)
