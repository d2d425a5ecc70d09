"""Layers on the sphere: neuralop's spherical convolution, and torch-harmonics' local one beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from fnodiff.domain import Shape, Sphere
from fnodiff.domain.base import full_precision
from fnodiff.domain.constants import cached
from fnodiff.domain.harmonics import harmonics
from fnodiff.nn.factors import check_rank, keeping_order

neuralop_spherical = harmonics("layers.spherical_convolution", "neuralop")
DiscreteContinuousConvS2 = harmonics("disco").DiscreteContinuousConvS2

KERNEL = (3, 4)
"""Rings and angles of the local filters: five functions, one at the centre and four around it."""


class SphericalConv(neuralop_spherical.SphericalConv):
    """neuralop's spherical convolution, exact at every pair of grids.

        (K f)_lm = W_l f_lm    for degrees l below n_modes and below what both grids hold,

    a complex matrix for each degree. Constructor, weights and state_dict keys are neuralop's, and results equal neuralop's
    where the grid holds all degrees below n_modes; where it does not, neuralop's are wrong, and here the degrees that are not
    held are left out. A real W_l commutes with all rotations, a complex one with those about the axis.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        n_modes: (L, 2 L): L degrees, orders of both signs.
        domain: `Sphere`, whose grid it is.
        factorization: As for `SpectralConv`.
        options: Everything else that neuralop's constructor takes (rank, bias, ...).

    Raises:
        ValueError: If n_modes is not (L, 2 L), or an option says what the domain or the input does.

    Source: Bonev et al. (2023), Spherical Fourier neural operators; neuraloperator 2.0.
    """

    part = "spectral"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        n_modes: Sequence[int],
        *,
        domain: Sphere | None = None,
        factorization: str | None = "ComplexDense",
        **options: Any,
    ) -> None:
        domain, n_modes = Sphere() if domain is None else domain, tuple(n_modes)
        if len(n_modes) != 2 or not isinstance(n_modes[0], Integral) or n_modes[0] < 1 or n_modes[1] != 2 * n_modes[0]:
            raise ValueError(
                f"SphericalConv: expected n_modes (L, 2 L) for L degrees, got {n_modes}; pass such as (16, 32)."
            )
        given = {"resolution_scaling_factor", "sht_grids", "sht_norm", "fno_block_precision", "complex_data"} & set(
            options
        )
        if given:
            raise ValueError(
                f"SphericalConv: expected neither of {sorted(given)}: the domain says the grid, the input its size and its "
                f"precision; leave them out."
            )
        check_rank("SphericalConv", options.get("rank", 0.5))
        super().__init__(
            in_channels, out_channels, list(n_modes), factorization=factorization, sht_grids=domain.grid, **options
        )
        self.domain = domain

    def forward(self, x: Tensor, output_shape: Sequence[int] | None = None) -> Tensor:
        """(B, in_channels, *shape) -> (B, out_channels, *output_shape), by default on the same grid.

        float32 inside for half-precision input; float64 for float64.
        """
        shape = self.domain.check_field(x)
        output_shape = shape if output_shape is None else self.domain.check_shape(output_shape)
        if x.shape[1] != self.in_channels:
            raise ValueError(
                f"SphericalConv: expected {self.in_channels} channels, got a field of shape {tuple(x.shape)}."
            )
        count = min(self.n_modes[0], self.domain.degrees(shape), self.domain.degrees(output_shape))
        with torch.autocast(x.device.type, enabled=False):
            c = self.domain.orders(x if x.dtype == torch.float64 else x.float(), count)
            out = self.domain.from_orders(self._product(c, count), output_shape)
            if self.bias is not None:
                out = out + self.bias
        return out.to(x.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        return super()._apply(keeping_order(fn), recurse)

    def _product(self, c: Tensor, count: int) -> Tensor:
        """(orders, B, C, 2, degrees) -> the same with out_channels, by a real (2 C, 2 out_channels) matrix per degree."""
        weight = self.weight if torch.is_tensor(self.weight) else self.weight.to_tensor()
        weight = weight[..., :count].to(torch.complex128 if c.dtype == torch.float64 else torch.complex64)
        orders, batch = c.shape[:2]
        rows = c.permute(4, 0, 1, 3, 2).flatten(3).flatten(1, 2)  # (degrees, orders B, 2 C)
        if self.separable:
            real, imag = (v.permute(1, 0)[:, None] for v in (weight.real, weight.imag))
            a, b = rows.chunk(2, dim=2)
            product = torch.cat([a * real - b * imag, a * imag + b * real], dim=2)
        else:
            real, imag = (v.permute(2, 0, 1) for v in (weight.real, weight.imag))
            product = rows @ torch.cat([torch.cat([real, imag], dim=2), torch.cat([-imag, real], dim=2)], dim=1)
        return product.unflatten(2, (2, -1)).unflatten(1, (orders, batch)).permute(1, 2, 4, 3, 0)


class SphericalLocalConv(nn.Module):
    """A convolution with filters of a few points' reach, as far in every direction and everywhere: torch-harmonics' DISCO.

        (K f)(x) = sum_k w_k  integral of psi_k(R_x^-1 y) f(y) dy,

    filters psi_k turned to each point x and integrated by the grid's quadrature. They reach two rows of points of the
    `reference`, whatever the grid (an operator on functions), or without one two rows of the grid at hand. A grid coarser than
    the reference has too few points within reach: fields are brought to the reference and back.

    The filters are torch-harmonics', their sums are taken here: over longitudes they are convolutions, products of Fourier
    coefficients, on any device and differentiable any number of times.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        domain: Its grid.
        reference: Shape of the grid whose two rows the filters reach; None for the grid at hand.
        resize: How the input is brought to another grid; there is one way, `domain.resample`.

    Source: Ocampo, Price, McEwen (2023), Scalable and equivariant spherical CNNs by discrete-continuous convolutions.
    """

    part = "local"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        domain: Sphere,
        reference: Sequence[int] | None = None,
        resize: str = "resample",
    ) -> None:
        super().__init__()
        self.domain, self.resize = domain, getattr(domain, resize)
        self.reference = None if reference is None else domain.check_shape(reference)
        layer = DiscreteContinuousConvS2(in_channels, out_channels, (4, 8), (4, 8), KERNEL, theta_cutoff=2.0, bias=True)
        self.weight, self.bias = layer.weight, layer.bias  # (out, in, filters), (out,)

    def forward(self, x: Tensor, output_shape: Sequence[int] | None = None) -> Tensor:
        """(B, in_channels, *shape) -> (B, out_channels, *output_shape), the input brought to that grid first."""
        x = x if output_shape is None else self.resize(x, output_shape)
        shape = self.domain.check_field(x)
        if self.domain.grid == "cell-centred":  # torch-harmonics has no filters there: on Gauss' grid of the same size
            waves, gauss = self.domain.orders(x), Sphere()
            out = self._on(gauss, gauss.from_orders(waves, shape).to(x.dtype), shape)
            return self.domain.from_orders(gauss.orders(out, waves.shape[0]), shape).to(x.dtype)
        return self._on(self.domain, x, shape)

    def _on(self, domain: Sphere, x: Tensor, shape: Shape) -> Tensor:
        """The convolution of fields on a grid that torch-harmonics has."""
        if self.reference is None:
            return self._convolve(domain, x, shape)
        fine = tuple(max(n, m) for n, m in zip(shape, self.reference, strict=True))
        return domain.resample(self._convolve(domain, domain.resample(x, fine), self.reference), shape)

    def _convolve(self, domain: Sphere, x: Tensor, reference: Shape) -> Tensor:
        shape, rows = tuple(x.shape[2:]), reference[0] - (domain.grid == "equiangular")
        with torch.autocast(x.device.type, enabled=False):
            full = full_precision(x)
            filters = _filters(domain, shape, 2 * math.pi / rows, full.device, full.dtype)
            waves = torch.fft.rfft(full).permute(3, 0, 1, 2)  # (orders, B, in, latitudes)
            seen = (waves @ filters[:, None]).unflatten(3, (-1, shape[0])).flatten(2, 3)  # (.., in filters, latitudes)
            weight = self.weight.flatten(1).to(full.dtype)
            mixed = weight @ torch.view_as_real(seen).flatten(3)
            waves = torch.view_as_complex(mixed.unflatten(3, (-1, 2))).permute(1, 2, 3, 0)
            out = torch.fft.irfft(waves, n=shape[1]) + self.bias.to(full.dtype)[:, None, None]
        return out.to(x.dtype)


@cached
def _filters(domain: Sphere, shape: Shape, reach: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """torch-harmonics' filters on a grid, over longitudes in Fourier coefficients: (orders, latitudes, filters latitudes)."""
    with torch.random.fork_rng(devices=[]):  # the layer draws weights, which are not used
        grids = {"grid_in": domain.grid, "grid_out": domain.grid}
        layer = DiscreteContinuousConvS2(1, 1, shape, shape, KERNEL, theta_cutoff=reach, bias=False, **grids)
    psi = torch.zeros(layer.kernel_size, shape[0], math.prod(shape), dtype=torch.float64)
    psi[layer.psi_ker_idx, layer.psi_row_idx, layer.psi_col_idx] = layer.psi_vals.double()
    waves = torch.fft.rfft(psi.unflatten(2, shape)).conj()  # (filters, latitudes out, latitudes in, orders)
    waves = waves.permute(3, 2, 0, 1).flatten(2).resolve_conj()
    return waves.to(device=device, dtype=torch.complex128 if dtype == torch.float64 else torch.complex64).contiguous()
