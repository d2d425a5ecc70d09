"""The spectral convolution: neuralop's layer, exact at every pair of grids.

It multiplies the Fourier modes of a function by a complex matrix per mode,

    (K f)^_k = W_k f^_k    for |k| below n_modes and below both grids' Nyquist frequencies,

and reads the result on any grid: it sees the function, not the grid. `fnodiff.nn` alone imports neuralop, which takes some 5 s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from numbers import Integral
from typing import Any

import neuralop.layers.spectral_convolution as neuralop_spectral
import torch
from tltorch.factorized_tensors.complex_factorized_tensors import ComplexDenseTensor
from torch import Tensor, nn

from fnodiff.domain import Domain, Shape, Torus
from fnodiff.domain.intervals import Intervals
from fnodiff.expected import at_least, kinds_checked
from fnodiff.nn.factors import (
    ModeMajorDense,
    by_factors,
    check_rank,
    keeping_order,
    multiply_factors,
    rows,
    scale_modes,
    unrows,
)
from fnodiff.nn.modes import Modes, down, signed, up


@kinds_checked
class SpectralConv(neuralop_spectral.SpectralConv):
    """neuralop's spectral convolution, exact at every pair of grids.

    Constructor, weights and state_dict keys are neuralop's; results equal neuralop's wherever the grid is even, keeps its
    size and holds the modes below its Nyquist frequency. Elsewhere (odd sizes, a change of size, n_modes above the grid)
    neuralop's forward is wrong and this one is exact to rounding on band-limited periodic functions.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        n_modes: neuralop's convention: per axis, counting both signs (rows -n//2 .. n//2 - 1; of the last axis 0 .. n//2).
        domain: `Torus` (points i / n), `Box` (cell centres, whose half-sample offset turns into a phase when the size
            changes) or `Product`. Fields with walls are treated as periodic: where their edges do not match, two grids of n and
            2 n points get results that differ by an error of order 1 / n^2; see `CosineConv` and `MixedConv`.
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

    part = "spectral"

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
        n_modes = (n_modes,) if isinstance(n_modes, Integral) else tuple(n_modes)
        domain = Torus(len(n_modes)) if domain is None else domain
        if len(n_modes) != domain.dim or not all(isinstance(n, Integral) and n > 0 for n in n_modes):
            raise ValueError(
                f"SpectralConv: expected {domain.dim} positive integers as n_modes on {domain}, got {n_modes}; "
                f"pass one number of modes per spatial axis."
            )
        if complex_data or options.get("fno_block_precision", "full") != "full":
            raise ValueError(
                "SpectralConv: expected real data in full precision, got complex_data or fno_block_precision; leave them "
                "out (under autocast the layer computes in float32 by itself)."
            )
        if not isinstance(domain, Intervals):
            raise ValueError(f"SpectralConv: expected a Torus or a Box, got {domain!r}; those have Fourier modes.")
        check_rank("SpectralConv", options.get("rank", 0.5))
        at_least("SpectralConv", 1, in_channels=in_channels, out_channels=out_channels)
        super().__init__(in_channels, out_channels, n_modes, factorization=factorization, **options)
        if type(self.weight) is ComplexDenseTensor and not self.separable:
            self.weight = ModeMajorDense(self.weight.to_tensor())
        self.domain = domain

    def forward(self, x: Tensor, output_shape: Sequence[int] | None = None) -> Tensor:
        """(B, in_channels, *shape) -> (B, out_channels, *output_shape), by default on the same grid.

        float32 inside for half-precision input; float64 for float64.
        """
        shape = self.domain.check_field(x)
        output_shape = self._output_shape(shape, output_shape)
        if x.shape[1] != self.in_channels:
            raise ValueError(
                f"SpectralConv: expected {self.in_channels} channels, got a field of shape {tuple(x.shape)}."
            )
        with torch.autocast(x.device.type, enabled=False):
            out = self._spectral(x if x.dtype == torch.float64 else x.float(), shape, output_shape)
            if self.bias is not None:
                out = out + self.bias
        return out.to(x.dtype)

    def transform(self, x: Tensor, output_shape: Sequence[int] | None = None) -> Tensor:
        """x on the grid that `forward` would give, by the domain: neuralop's blocks ask for it beside their convolutions."""
        shape = self._output_shape(tuple(x.shape[2:]), output_shape)
        return x if shape == tuple(x.shape[2:]) else self.domain.resample(x, shape)

    def _output_shape(self, shape: Shape, output_shape: Sequence[int] | None) -> Shape:
        if output_shape is None:
            scaling = self.resolution_scaling_factor
            output_shape = (
                shape if scaling is None else [round(n * r) for n, r in zip(shape, _flat(scaling), strict=True)]
            )
        return self.domain.check_shape(output_shape)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        return super()._apply(keeping_order(fn), recurse)

    def _spectral(self, x: Tensor, shape: Shape, output_shape: Shape) -> Tensor:
        plan = _plan.__wrapped__ if torch.compiler.is_compiling() else _plan
        centred = tuple(edge == "wall" for edge in self.domain.edges)
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
        if "fft" in ways or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            products = torch.bmm(rows(modes.analyze(x, ways[0])), weight)
            return modes.synthesize(unrows(products), ways[1])
        matrices = modes.analysis(ways[0], x), modes.synthesis(ways[1], x)
        return _SpectralProduct.apply(x, weight, matrices, shape, output_shape)[0]


@lru_cache(maxsize=256)
def _plan(
    n_modes: Shape, max_n_modes: Shape, shape: Shape, output_shape: Shape, norm: str, centred: tuple[bool, ...]
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


@signed
class _SpectralProduct(torch.autograd.Function):
    """Down, multiply, up, with a gradient that neither transposes nor fills as autograd's does."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, matrices: Any, shape: Shape, output_shape: Shape) -> tuple[Tensor, Tensor]:
        factors = rows(down(x, matrices[0]))
        return up(unrows(torch.bmm(factors, weight)), matrices[1], output_shape), factors

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        weight, *ctx.geometry = inputs[1:]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(weight, output[1])  # an output, so that gradients of gradients know where it came from
        ctx.save_for_forward(weight, output[1])

    @staticmethod
    def jvp(ctx: Any, d_x: Tensor | None, d_weight: Tensor | None, *others: Any) -> tuple[Tensor, Tensor]:
        (weight, factors), (matrices, _, output_shape) = ctx.saved_tensors, ctx.geometry
        d_factors = torch.zeros_like(factors) if d_x is None else rows(down(d_x, matrices[0]))
        change = torch.bmm(d_factors, weight)
        if d_weight is not None:
            change = change + torch.bmm(factors, d_weight)
        return up(unrows(change), matrices[1], output_shape), d_factors

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, d_factors: Tensor | None) -> tuple[Tensor | None, ...]:
        (weight, factors), (matrices, shape, _) = ctx.saved_tensors, ctx.geometry
        d_x = d_weight = None
        if gradient is not None:
            g = down(gradient, matrices[1]).permute(2, 0, 1, 3).flatten(1, 2)
            if ctx.needs_input_grad[1]:
                d_weight = torch.bmm(factors.transpose(1, 2), g)
            if ctx.needs_input_grad[0]:
                own = torch.bmm(g, weight.transpose(1, 2))
                d_factors = own if d_factors is None else own + d_factors
        if ctx.needs_input_grad[0] and d_factors is not None:
            d = (
                d_factors.unflatten(2, (2, -1)).unflatten(1, (-1, 2)).permute(1, 2, 3, 0, 4)
            )  # by what multiplied each part
            d_x = up(torch.stack([d[:, 0, 0] + d[:, 1, 1], d[:, 1, 0] - d[:, 0, 1]], 1), matrices[0], shape)
        return d_x, d_weight, None, None, None


def _mode_matrices(weight: Any, corner: tuple[slice, ...]) -> Tensor:
    """(modes, 2 in, out): the chosen modes' matrices, [[re W], [im W]]."""
    if isinstance(weight, ModeMajorDense):
        matrices = weight.matrices
        if any(c.stop - c.start < n for c, n in zip(corner, matrices.shape, strict=False)):
            matrices = matrices[corner]  # whose gradient fills all the others with zeros
        return matrices.reshape(-1, 2 * matrices.shape[-2], matrices.shape[-1])
    dense = weight if torch.is_tensor(weight) else weight.to_tensor()
    return torch.view_as_real(dense[(..., *corner)].flatten(2).resolve_conj()).permute(2, 3, 0, 1).flatten(1, 2)


def _flat(scaling: Sequence[Any]) -> list[float]:
    """neuralop stores scaling factors as one list per layer, or one number per axis."""
    return [float(v[0]) if isinstance(v, Sequence) else float(v) for v in scaling]
