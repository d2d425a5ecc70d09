"""Spectral convolution on a box: an operator on functions with edges.

A field on Box is a sum of cosines, f = sum_k c_k phi_k with phi_k = prod_i cos(pi k_i x_i). Reflected at its edges it is a
periodic function on a box twice as long, whose convolution with a kernel multiplies its modes; of a kernel that is even along
every axis, each cosine by a number,

    (K f)(x) = sum_k W_k c_k prod_i cos(pi k_i x_i),                             kernels="even"

and of any kernel, each cosine becomes a sum of cosines and sines along each axis, which even and odd parts of the kernel make:

    (K f)(x) = sum_k sum_p W_kp c_k prod_i (cos or sin, by p_i)(pi k_i x_i).     kernels="all"

Of several channels, W is a real matrix for each mode (and parity). Both are the same operator on every grid, to rounding. The
Fourier branch of the DFU paper treats a field as periodic, and on functions with edges its result depends on the grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tltorch import FactorizedTensor
from torch import Tensor, nn

from fnodiff.domain import Box, Shape
from fnodiff.domain.constants import cached
from fnodiff.expected import at_least, kinds_checked
from fnodiff.nn.factors import check_rank, keeping_order
from fnodiff.nn.modes import for_all, signed

KERNELS = ("even", "all")
FACTORIZATIONS = (None, "Dense", "Tucker", "CP", "TT")


@kinds_checked
class CosineConv(nn.Module):
    """A convolution of fields on Box, reflected at the edges, by its lowest modes; from any grid to any.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        n_modes: Modes per axis, half-waves 0 .. n - 1: the same band as so many Fourier modes of both signs.
        domain: A Box.
        kernels: "even" along every axis, one real matrix for each mode; or "all", 2^dim of them. Even kernels keep the slope
            at the edges zero; the others give a function that has a kink there when reflected.
        bias: Add a number to each channel.
        factorization: None for dense weights, or "Tucker", "CP", "TT" (neuralop's names "ComplexTucker", ... mean the same).
        rank: Of a factorisation: a share of the dense weights' number, or ranks.

    Raises:
        ValueError: If the domain is another one, n_modes does not fit it, or the kernels or the factorization are unknown.

    Source: Li et al. (2021), Fourier neural operator for parametric partial differential equations, with cosines for waves;
    Martucci (1994), Symmetric convolution and the discrete sine and cosine transforms.

    Examples:
        >>> from fnodiff import Box, WhiteNoise
        >>> from fnodiff.nn import CosineConv
        >>> box, layer = Box(1), CosineConv(1, 1, (6,), domain=Box(1))
        >>> x = WhiteNoise(box, (9,)).sample((1, 1, 9))
        >>> here, there = layer(x), layer(box.resample(x, (32,)))
        >>> bool((box.resample(there, (9,)) - here).abs().max() < 1e-5)
        True
    """

    part = "spectral"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        n_modes: Sequence[int],
        *,
        domain: Box,
        kernels: str = "even",
        bias: bool = True,
        factorization: str | None = None,
        rank: float | Sequence[int] = 0.5,
    ) -> None:
        super().__init__()
        at_least("CosineConv", 1, in_channels=in_channels, out_channels=out_channels)
        n_modes = tuple(n_modes)
        if not isinstance(domain, Box) or len(n_modes) != domain.dim or not all(n > 0 for n in n_modes):
            raise ValueError(
                f"CosineConv: expected a Box and a positive number of modes for each of its axes, got {domain!r} and "
                f"{n_modes}; on a Torus use SpectralConv, on a Product MixedConv."
            )
        kind = None if factorization is None else factorization.removeprefix("Complex")
        if kernels not in KERNELS or kind not in FACTORIZATIONS:
            raise ValueError(
                f"CosineConv: expected kernels among {KERNELS} and factorization among {FACTORIZATIONS}, got {kernels!r} and "
                f"{factorization!r}; name one of these."
            )
        self.domain, self.n_modes, self.kernels = domain, n_modes, kernels
        self.in_channels, self.out_channels = in_channels, out_channels
        self.parities = 1 if kernels == "even" else 2**domain.dim
        std = math.sqrt(2 / (in_channels + out_channels) / self.parities)
        shape = (*n_modes, in_channels, self.parities * out_channels)
        if kind in (None, "Dense"):
            self.weight = nn.Parameter(std * torch.randn(shape))
        else:
            check_rank("CosineConv", rank)
            self.weight = FactorizedTensor.new(shape, rank=rank, factorization=kind).normal_(0, std)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Tensor, output_shape: Sequence[int] | None = None) -> Tensor:
        """(B, in_channels, *shape) -> (B, out_channels, *output_shape), by default on the same grid.

        float32 inside for half-precision input; float64 for float64.
        """
        shape = self.domain.check_field(x)
        output_shape = shape if output_shape is None else self.domain.check_shape(output_shape)
        if x.shape[1] != self.in_channels:
            raise ValueError(
                f"CosineConv: expected {self.in_channels} channels, got a field of shape {tuple(x.shape)}."
            )
        with torch.autocast(x.device.type, enabled=False):
            out = self._spectral(x if x.dtype == torch.float64 else x.float(), output_shape)
            if self.bias is not None:
                out = out + self.bias.to(out.dtype).reshape(-1, *(1,) * self.domain.dim)
        return out.to(x.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        return super()._apply(keeping_order(fn), recurse)

    def _spectral(self, x: Tensor, output_shape: Shape) -> Tensor:
        sizes = tuple(zip(self.n_modes, x.shape[2:], output_shape, strict=True))
        held = tuple(min(k, n, m) for k, n, m in sizes)
        weight = (self.weight if torch.is_tensor(self.weight) else self.weight.to_tensor()).to(x.dtype)
        if held != self.n_modes:
            weight = weight[tuple(slice(0, k) for k in held)]
        analysis = tuple(analysis_matrix(k, n, x.dtype, x.device) for k, (_, n, _) in zip(held, sizes, strict=True))
        sines = self.kernels == "all"
        synthesis = tuple(
            synthesis_matrix(k, m, sines, x.dtype, x.device) for k, (*_, m) in zip(held, sizes, strict=True)
        )
        weight = weight.flatten(0, len(held) - 1)
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return _from_modes(torch.bmm(_down(x, analysis).transpose(0, 1), weight), synthesis, held, sines)
        return _Product.apply(x, weight, analysis, synthesis, held, sines)[0]


@signed
class _Product(torch.autograd.Function):
    """Down, multiply, up, with a gradient that copies nothing that it does not need."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, analysis: Any, synthesis: Any, held: Shape, sines: bool
    ) -> tuple[Tensor, Tensor]:
        c = _down(x, analysis).transpose(0, 1).contiguous()
        return _from_modes(torch.bmm(c, weight), synthesis, held, sines), c

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        x, weight, *ctx.geometry = inputs
        ctx.shape = tuple(x.shape[2:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(weight, output[1])  # an output, so that gradients of gradients know where it came from
        ctx.save_for_forward(weight, output[1])

    @staticmethod
    def jvp(ctx: Any, d_x: Tensor | None, d_weight: Tensor | None, *others: Any) -> tuple[Tensor, Tensor]:
        (weight, c), (analysis, synthesis, held, sines) = ctx.saved_tensors, ctx.geometry
        d_c = torch.zeros_like(c) if d_x is None else _down(d_x, analysis).transpose(0, 1).contiguous()
        change = torch.bmm(d_c, weight)
        if d_weight is not None:
            change = change + torch.bmm(c, d_weight)
        return _from_modes(change, synthesis, held, sines), d_c

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, d_c: Tensor | None) -> tuple[Tensor | None, ...]:
        (weight, c), (analysis, synthesis, held, sines) = ctx.saved_tensors, ctx.geometry
        d_x = d_weight = None
        if gradient is not None:
            g = _by_mode(_down(gradient, synthesis), held, sines)
            if ctx.needs_input_grad[1]:
                d_weight = torch.bmm(c.transpose(1, 2), g)
            if ctx.needs_input_grad[0]:
                own = torch.bmm(g, weight.transpose(1, 2))
                d_c = own if d_c is None else own + d_c
        if ctx.needs_input_grad[0] and d_c is not None:
            d_x = _up(d_c.transpose(0, 1), analysis, ctx.shape)
        return d_x, d_weight, None, None, None, None


def _down(x: Tensor, matrices: tuple[Tensor, ...]) -> Tensor:
    """(B, C, *shape) -> (B, modes, C): a product per axis, the last axis first, each as its input lies in memory."""
    batch, channels = x.shape[:2]
    for matrix in reversed(for_all(matrices, batch)):
        rows = x.reshape(batch, -1, matrix.shape[2]).transpose(1, 2)
        x = torch.bmm(matrix, rows)
    return x.reshape(batch, -1, channels)


def _up(c: Tensor, matrices: tuple[Tensor, ...], shape: Shape) -> Tensor:
    """The transpose of `_down`: (B, modes, C) -> (B, C, *shape)."""
    batch, channels = c.shape[0], c.shape[-1]
    for matrix in for_all(matrices, batch):
        rows = c.reshape(batch, matrix.shape[1], -1).transpose(1, 2)
        c = torch.bmm(rows, matrix)
    return c.reshape(batch, channels, *shape)


def _from_modes(c: Tensor, synthesis: tuple[Tensor, ...], held: Shape, sines: bool) -> Tensor:
    """(modes, B, parities x out) -> (B, out, *shape)."""
    return _up(_by_axis(c, held, sines), synthesis, tuple(matrix.shape[1] for matrix in synthesis))


def _by_axis(c: Tensor, held: Shape, sines: bool) -> Tensor:
    """(modes, B, parities x out) -> (B, modes of every parity, out): the parities of an axis before its modes."""
    if not sines:
        return c.transpose(0, 1)
    dim = len(held)
    c = c.reshape(*held, c.shape[1], *(2,) * dim, -1)
    order = [axis for i in range(dim) for axis in (dim + 1 + i, i)]
    return c.permute(dim, *order, 2 * dim + 1).flatten(1, 2 * dim)


def _by_mode(c: Tensor, held: Shape, sines: bool) -> Tensor:
    """The inverse of `_by_axis`."""
    if not sines:
        return c.transpose(0, 1)
    dim = len(held)
    c = c.reshape(len(c), *(n for k in held for n in (2, k)), -1)
    order = [2 + 2 * i for i in range(dim)] + [0] + [1 + 2 * i for i in range(dim)]
    return c.permute(*order, 2 * dim + 1).flatten(0, dim - 1).flatten(2)


@cached
def analysis_matrix(k: int, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(k, n): from values at cell centres to the coefficients of 1 and sqrt(2) cos(pi k x)."""
    return (_waves(k, n, torch.cos) / n).to(device, dtype)


@cached
def synthesis_matrix(k: int, n: int, sines: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(k or 2 k, n): the values of the cosines, and of the sines, at cell centres."""
    waves = _waves(k, n, torch.cos)
    return (torch.cat([waves, _waves(k, n, torch.sin)]) if sines else waves).to(device, dtype)


def _waves(k: int, n: int, wave: Callable[[Tensor], Tensor]) -> Tensor:
    x = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    waves = math.sqrt(2) * wave(math.pi * torch.arange(k, dtype=torch.float64)[:, None] * x)
    waves[0] /= math.sqrt(2)
    return waves
