"""Spectral convolution on a domain that is periodic along some axes and has walls along others.

A field is a sum of waves along the periodic axes x and cosines between the walls y,

    f = sum_kl c_kl exp(2 pi i k x) cos(pi l y),

and a convolution of the field, continued by its period and reflected at its walls, multiplies each by a complex number; with a
kernel that is even across the walls or with any,

    (K f)(x, y) = sum_kl W_kl c_kl exp(2 pi i k x) cos(pi l y),                           kernels="even"
    (K f)(x, y) = sum_kl sum_p W_klp c_kl exp(2 pi i k x) (cos or sin, by p)(pi l y).     kernels="all"

It is `SpectralConv` along the periodic axes and `CosineConv` across the walls, and the same operator on every grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from tltorch import FactorizedTensor
from torch import Tensor, nn

from fnodiff.domain import Domain, Product, Shape
from fnodiff.nn.cosine import FACTORIZATIONS, KERNELS, analysis_matrix, synthesis_matrix
from fnodiff.nn.factors import check_rank, keeping_order, rows, unrows
from fnodiff.nn.modes import Modes, for_all


class MixedConv(nn.Module):
    """A convolution of fields on a `Product`, by its lowest modes; from any grid to any.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        n_modes: Modes per axis: of periodic axes in neuralop's convention (both signs), half-waves 0 .. n - 1 between walls.
        domain: A Product.
        kernels: "even" across the walls, which keep the slope there zero; or "all", one complex matrix for each mode and each
            parity, 2^walls of them.
        bias: Add a number to each channel.
        factorization: None for dense weights, or "Tucker", "CP", "TT" (neuralop's names "ComplexTucker", ... mean the same).
        rank: Of a factorisation: a share of the dense weights' number, or ranks.

    Raises:
        ValueError: If the domain is another one, n_modes does not fit it, or the kernels or the factorization are unknown.

    Source: Li et al. (2021), Fourier neural operator for parametric partial differential equations; Martucci (1994), Symmetric
    convolution and the discrete sine and cosine transforms.

    Examples:
        >>> from fnodiff import Box, Product, Torus, WhiteNoise
        >>> from fnodiff.nn import MixedConv
        >>> channel = Product([Torus(1), Box(1)])
        >>> layer = MixedConv(1, 1, (6, 6), domain=channel)
        >>> x = WhiteNoise(channel, (9, 8)).sample((1, 1, 9, 8))
        >>> here, there = layer(x), layer(channel.resample(x, (32, 24)))
        >>> bool((channel.resample(there, (9, 8)) - here).abs().max() < 1e-5)
        True
    """

    part = "spectral"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        n_modes: Sequence[int],
        *,
        domain: Product,
        kernels: str = "even",
        bias: bool = True,
        factorization: str | None = None,
        rank: float | Sequence[int] = 0.5,
    ) -> None:
        super().__init__()
        n_modes = tuple(n_modes)
        if not isinstance(domain, Product) or len(n_modes) != domain.dim or not all(n > 0 for n in n_modes):
            raise ValueError(
                f"MixedConv: expected a Product and a positive number of modes for each of its axes, got {domain!r} and "
                f"{n_modes}; on a Torus use SpectralConv, on a Box CosineConv."
            )
        kind = None if factorization is None else factorization.removeprefix("Complex")
        if kernels not in KERNELS or kind not in FACTORIZATIONS:
            raise ValueError(
                f"MixedConv: expected kernels among {KERNELS} and factorization among {FACTORIZATIONS}, got {kernels!r} and "
                f"{factorization!r}; name one of these."
            )
        self.domain, self.n_modes, self.kernels = domain, n_modes, kernels
        self.in_channels, self.out_channels = in_channels, out_channels
        self.waves, self.walls = axes_by_edge(domain)
        self.parities = 1 if kernels == "even" else 2 ** len(self.walls)
        *others, last = (n_modes[i] for i in self.waves)
        self.bands = (*((n // 2, n - n // 2 - 1) for n in others), (0, last // 2))
        counts = [low + high + 1 for low, high in self.bands] + [n_modes[i] for i in self.walls]
        std = math.sqrt(1 / (in_channels + out_channels) / self.parities)
        shape = (*counts, 2 * in_channels, self.parities * out_channels)  # [[re W], [im W]] of each mode
        if kind in (None, "Dense"):
            self.weight = nn.Parameter(std * torch.randn(shape))
        else:
            check_rank("MixedConv", rank)
            self.weight = FactorizedTensor.new(shape, rank=rank, factorization=kind).normal_(0, std)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Tensor, output_shape: Sequence[int] | None = None) -> Tensor:
        """(B, in_channels, *shape) -> (B, out_channels, *output_shape), by default on the same grid.

        float32 inside for half-precision input; float64 for float64.
        """
        shape = self.domain.check_field(x)
        output_shape = shape if output_shape is None else self.domain.check_shape(output_shape)
        if x.shape[1] != self.in_channels:
            raise ValueError(f"MixedConv: expected {self.in_channels} channels, got a field of shape {tuple(x.shape)}.")
        with torch.autocast(x.device.type, enabled=False):
            out = self._spectral(x if x.dtype == torch.float64 else x.float(), shape, output_shape)
            if self.bias is not None:
                out = out + self.bias.to(out.dtype).reshape(-1, *(1,) * self.domain.dim)
        return out.to(x.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        return super()._apply(keeping_order(fn), recurse)

    def _spectral(self, x: Tensor, shape: Shape, output_shape: Shape) -> Tensor:
        sizes, output_sizes = (tuple(s[i] for i in self.waves) for s in (shape, output_shape))
        modes = Modes(sizes, output_sizes, self.bands, "forward", (False,) * len(sizes)).held()
        cosines = tuple(min(self.n_modes[i], shape[i], output_shape[i]) for i in self.walls)
        weight = (self.weight if torch.is_tensor(self.weight) else self.weight.to_tensor()).to(x.dtype)
        chosen = [slice(low - a, low + b + 1) for (low, _), (a, b) in zip(self.bands, modes.bands, strict=True)]
        weight = weight[(*chosen, *(slice(0, k) for k in cosines))].flatten(0, self.domain.dim - 1)

        c = self._analyze(x, modes, cosines)
        c = unrows(torch.bmm(rows(c), weight))  # (B, 2, modes, parities x out)
        return self._synthesize(c, modes, cosines, output_shape)

    def _analyze(self, x: Tensor, modes: Modes, cosines: Shape) -> Tensor:
        """(B, C, *shape) -> (B, 2, modes, C): cosines across the walls, then waves along the other axes."""
        batch, channels = x.shape[:2]
        x = x.permute(0, 1, *(i + 2 for i in (*self.waves, *self.walls)))
        matrices = [
            analysis_matrix(k, n, x.dtype, x.device)
            for k, n in zip(cosines, x.shape[2 + len(modes.shape) :], strict=True)
        ]
        for matrix in reversed(for_all(tuple(matrices), batch)):
            x = torch.bmm(matrix, x.reshape(batch, -1, matrix.shape[2]).transpose(1, 2))
        x = x.reshape(batch, -1, *modes.shape)  # (B, cosines x C, *periodic)
        return modes.analyze(x).reshape(batch, 2, -1, channels)

    def _synthesize(self, c: Tensor, modes: Modes, cosines: Shape, output_shape: Shape) -> Tensor:
        """(B, 2, modes, parities x out) -> (B, out, *output_shape)."""
        batch, sines, walls = c.shape[0], self.parities > 1, len(self.walls)
        if sines:  # the parity of a walled axis before its modes
            c = c.reshape(batch, 2, math.prod(modes.counts), *cosines, *(2,) * walls, -1)
            order = [axis for i in range(walls) for axis in (3 + walls + i, 3 + i)]
            c = c.permute(0, 1, 2, *order, 3 + 2 * walls)
        x = modes.synthesize(c.reshape(batch, 2, math.prod(modes.counts), -1))
        sizes = tuple(output_shape[i] for i in self.walls)
        matrices = tuple(synthesis_matrix(k, m, sines, x.dtype, x.device) for k, m in zip(cosines, sizes, strict=True))
        for matrix in for_all(matrices, batch):
            x = torch.bmm(x.reshape(batch, matrix.shape[1], -1).transpose(1, 2), matrix)
        x = x.reshape(batch, self.out_channels, *modes.output_shape, *sizes)
        back = sorted(range(self.domain.dim), key=(*self.waves, *self.walls).__getitem__)
        return x.permute(0, 1, *(i + 2 for i in back))


def axes_by_edge(domain: Domain) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The periodic axes, and the walled ones."""
    return tuple(tuple(i for i, e in enumerate(domain.edges) if e == edge) for edge in ("periodic", "wall"))
