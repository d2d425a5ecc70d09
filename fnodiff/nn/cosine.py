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

import torch
from tltorch import FactorizedTensor
from torch import Tensor, nn

from fnodiff.domain import Box, Shape
from fnodiff.domain.base import cached

KERNELS = ("even", "all")
FACTORIZATIONS = (None, "Dense", "Tucker", "CP", "TT")


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
        n_modes = tuple(n_modes)
        if not isinstance(domain, Box) or len(n_modes) != domain.dim or not all(n > 0 for n in n_modes):
            raise ValueError(
                f"CosineConv: expected a Box and a positive number of modes for each of its axes, got {domain!r} and "
                f"{n_modes}; on a Torus use SpectralConv."
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
            full = x if x.dtype == torch.float64 else x.float()
            held = tuple(min(k, n, m) for k, n, m in zip(self.n_modes, shape, output_shape, strict=True))
            out = self._up(self._multiply(self._down(full, held), held), held, output_shape)
            if self.bias is not None:
                out = out + self.bias.to(out.dtype).reshape(-1, *(1,) * self.domain.dim)
        return out.to(x.dtype)

    def _down(self, x: Tensor, held: Shape) -> Tensor:
        """(B, C, *shape) -> (B, modes, C): a product per axis, the last axis first, each as its input lies in memory."""
        batch, channels = x.shape[:2]
        c = x
        for k, n in zip(reversed(held), reversed(x.shape[2:]), strict=True):
            matrix = _analysis(k, n, x.dtype, x.device)
            c = torch.matmul(matrix, c.reshape(batch, -1, n).transpose(1, 2))
        return c.reshape(batch, -1, channels)

    def _multiply(self, c: Tensor, held: Shape) -> Tensor:
        """(B, modes, in) -> (B, modes of every parity, out), the parities of an axis before its modes."""
        weight = (self.weight if torch.is_tensor(self.weight) else self.weight.to_tensor()).to(c.dtype)
        if held != self.n_modes:
            weight = weight[tuple(slice(0, k) for k in held)]
        out = torch.bmm(c.transpose(0, 1), weight.flatten(0, len(held) - 1)).transpose(0, 1)
        if self.kernels == "even":
            return out
        dim = len(held)
        out = out.reshape(len(c), *held, *(2,) * dim, self.out_channels)
        order = [axis for i in range(dim) for axis in (1 + dim + i, 1 + i)]
        return out.permute(0, *order, 1 + 2 * dim).reshape(len(c), -1, self.out_channels)

    def _up(self, c: Tensor, held: Shape, shape: Shape) -> Tensor:
        """(B, modes, C) -> (B, C, *shape)."""
        batch, channels = c.shape[0], c.shape[-1]
        for k, n in zip(held, shape, strict=True):
            matrix = _synthesis(k, n, self.kernels == "all", c.dtype, c.device)
            c = torch.matmul(c.reshape(batch, matrix.shape[0], -1).transpose(1, 2), matrix)
        return c.reshape(batch, channels, *shape)


@cached
def _analysis(k: int, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(k, n): from values at cell centres to the coefficients of 1 and sqrt(2) cos(pi k x)."""
    return (_waves(k, n, torch.cos) / n).to(device, dtype)


@cached
def _synthesis(k: int, n: int, sines: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(k or 2 k, n): the values of the cosines, and of the sines, at cell centres."""
    waves = _waves(k, n, torch.cos)
    return (torch.cat([waves, _waves(k, n, torch.sin)]) if sines else waves).to(device, dtype)


def _waves(k: int, n: int, wave: Callable[[Tensor], Tensor]) -> Tensor:
    x = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    waves = math.sqrt(2) * wave(math.pi * torch.arange(k, dtype=torch.float64)[:, None] * x)
    waves[0] /= math.sqrt(2)
    return waves
