"""Layers on the sphere: neuralop's spherical convolution, and torch-harmonics' local one beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import neuralop.layers.spherical_convolution as neuralop_spherical
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch_harmonics import DiscreteContinuousConvS2

from fnodiff.domain import Shape, Sphere

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
        ValueError: If n_modes is not (L, 2 L).

    Source: Bonev et al. (2023), Spherical Fourier neural operators; neuraloperator 2.0.
    """

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
        if len(n_modes) != 2 or not isinstance(n_modes[0], int) or n_modes[0] < 1 or n_modes[1] != 2 * n_modes[0]:
            raise ValueError(
                f"SphericalConv: expected n_modes (L, 2 L) for L degrees, got {n_modes}; pass such as (16, 32)."
            )
        options = {"sht_grids": domain.grid, **options}
        super().__init__(in_channels, out_channels, list(n_modes), factorization=factorization, **options)
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
    `reference`, whatever the grid (an operator on functions), or without one two rows of the grid at hand.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        domain: Its grid.
        reference: Shape of the grid that says how far the filters reach, 2 pi / latitudes radians; None for the grid at hand.
        resize: How the input is brought to another grid; there is one way, `domain.resample`.

    Source: Ocampo, Price, McEwen (2023), Scalable and equivariant spherical CNNs by discrete-continuous convolutions.
    """

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
        plan = DiscreteContinuousConvS2(in_channels, out_channels, (4, 8), (4, 8), KERNEL, theta_cutoff=2.0, bias=True)
        self.weight, self.bias = plan.weight, plan.bias  # (out, in, filters), (out,)

    def forward(self, x: Tensor, output_shape: Sequence[int] | None = None) -> Tensor:
        """(B, in_channels, *shape) -> (B, out_channels, *output_shape), the input brought to that grid first."""
        x = x if output_shape is None else self.resize(x, output_shape)
        shape = self.domain.check_field(x)
        with torch.autocast(x.device.type, enabled=False):
            full = x if x.dtype == torch.float64 else x.float()
            reach = 2 * math.pi / (shape if self.reference is None else self.reference)[0]
            plan = _plan(self.domain, *self.weight.shape[:2], shape, reach, full.device, full.dtype)
            weights = {"weight": self.weight.to(full.dtype), "bias": self.bias.to(full.dtype)}
            return functional_call(plan, weights, full).to(x.dtype)


@lru_cache(maxsize=256)
def _plan(
    domain: Sphere,
    out_channels: int,
    in_channels: int,
    shape: Shape,
    reach: float,
    device: torch.device,
    dtype: torch.dtype,
) -> nn.Module:
    """torch-harmonics' layer for one grid, with weights to be given: its filters' values at this grid's points."""
    with torch.inference_mode(False):
        grids = {"grid_in": domain.grid, "grid_out": domain.grid}
        plan = DiscreteContinuousConvS2(in_channels, out_channels, shape, shape, KERNEL, theta_cutoff=reach, **grids)
        return plan.to(device=device, dtype=dtype)
