"""The box with edges."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fnodiff.domain.base import Shape, along, cached, full_precision
from fnodiff.domain.draws import Generators, normals
from fnodiff.domain.product import Product
from fnodiff.domain.sums import check_trace, lattice_sum

MOST_BY_PRODUCT = 256
"""Axes of up to as many cells are transformed by a product with a matrix of cosines: faster there than a reflected FFT."""


@dataclass(frozen=True)
class Box(Product):
    """The box with zero slope at its edges; cell centres (i + 1/2) / n and the cosine basis.

    Coefficients are real, k = 0 .. n - 1 on each axis (the type II cosine transform of the field, which is the Fourier
    transform of the field reflected at its edges with the edge repeated).

    Examples:
        >>> from fnodiff import Box
        >>> Box(2).points((2, 3))[1]
        tensor([[0.1667, 0.5000, 0.8333],
                [0.1667, 0.5000, 0.8333]])
        >>> Box(1, lengths=(2.0,)).points((4,))
        tensor([[0.2500, 0.7500, 1.2500, 1.7500]])
    """

    averages_cells: ClassVar[bool] = True

    def points(self, shape: Sequence[int], *, device=None, dtype: torch.dtype | None = None) -> Tensor:
        shape = self.check_shape(shape)
        axes = [(torch.arange(n, device=device, dtype=dtype or torch.get_default_dtype()) + 0.5) / n for n in shape]
        return torch.stack(torch.meshgrid(*[a * v for a, v in zip(axes, self.lengths, strict=True)], indexing="ij"))

    def derivative(self, x: Tensor, axis: int) -> Tensor:
        n, length = self.check_field(x)[axis], self.lengths[axis]
        if n < 2:
            raise ValueError(f"derivative: expected two points or more along axis {axis}, got {tuple(x.shape)}.")
        return torch.gradient(x, spacing=length / n, dim=axis + 2)[0]  # one-sided at the edges

    def coarsen(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        return self.average(x, shape)

    def upsample(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        shape = self.check_shape(shape)
        self.check_field(x)
        return interpolate(
            x, size=shape, mode=("linear", "bilinear", "trilinear")[self.dim - 1]
        )  # from centres of cells

    def check_points(self, points: Tensor) -> None:
        """Raise a ValueError unless points (dim, ...) lie within the box."""
        for axis, (places, length) in enumerate(zip(points, self.lengths, strict=True)):
            low, high = float(places.min()), float(places.max())
            if not (low >= 0 and high <= length):
                raise ValueError(
                    f"expected points within the box of sides {self.lengths}, got coordinates from {low:g} to {high:g} along "
                    f"axis {axis}; scale them, or give the Box its lengths."
                )

    def coefficient_shape(self, shape: Sequence[int]) -> Shape:
        return self.check_shape(shape)

    def wavenumbers(self, shape: Sequence[int]) -> list[Tensor]:
        return [along(torch.arange(n).double(), i, self.dim) for i, n in enumerate(self.check_shape(shape))]

    def multiplicity(self, shape: Sequence[int], *, device=None, dtype: torch.dtype | None = None) -> Tensor:
        return torch.ones(self.check_shape(shape), device=device, dtype=dtype)

    def white(
        self, batch: Sequence[int], shape: Sequence[int], *, generator: Generators = None, device=None, dtype=None
    ) -> Tensor:
        return normals(batch, self.check_shape(shape), generator=generator, device=device, dtype=dtype)

    def analyze(self, x: Tensor) -> Tensor:
        shape = self.check_field(x)
        c = full_precision(x)
        with torch.autocast(x.device.type, enabled=False):
            for axis, n in enumerate(shape, start=2):
                c = _cosine_transform(c.movedim(axis, -1), n).movedim(-1, axis)
        return c

    def synthesize(self, c: Tensor, shape: Sequence[int]) -> Tensor:
        with torch.autocast(c.device.type, enabled=False):
            for axis, n in enumerate(self.check_shape(shape), start=2):
                c = _inverse_cosine_transform(c.movedim(axis, -1), n).movedim(-1, axis)
        return c

    def resample(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        old, shape = self.check_field(x), self.check_shape(shape)
        if old == shape or max(*old, *shape) > MOST_BY_PRODUCT:
            return super().resample(x, shape)
        y = full_precision(x)
        with torch.autocast(x.device.type, enabled=False):
            for axis in reversed(range(self.dim)):
                if old[axis] != shape[axis]:
                    y = _resample_axis(y, axis + 2, shape[axis])
        return y.to(x.dtype)

    def basis(self, x: Tensor, shape: Sequence[int]) -> list[Tensor]:
        factors = []
        for k, coordinate, step in zip(self.wavenumbers(shape), x, self._steps, strict=True):
            factor = (k.flatten().to(x)[:, None] * (coordinate * step)).cos() * math.sqrt(2)
            factors.append(torch.cat([torch.ones_like(factor[:1]), factor[1:]]))
        return factors

    def trace(self, f: Callable[[Tensor], Tensor]) -> float:
        # A sum over k >= 0 is, axis by axis, half the sum over all k plus half the term k = 0.
        subsets = itertools.chain.from_iterable(itertools.combinations(self._steps, m) for m in range(self.dim + 1))
        return check_trace(sum(lattice_sum(f, steps) for steps in subsets) / 2**self.dim)

    def average(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Cell averages on another grid of a field that is constant on each of its own cells.

        The exact mean over each new cell, cells that overlap it in part counted in proportion: the way images are
        made smaller. It multiplies mode k by sinc(k / 2n) per axis and folds what lies above the new grid.

        Args:
            x: Field (B, C, *old).
            shape: The new grid, of any size.

        Returns:
            (B, C, *shape).
        """
        self.check_field(x)
        for axis, n in enumerate(self.check_shape(shape), start=2):
            x = _average(x, axis, n)
        return x

    def pool(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        return self.average(x, shape)

    @property
    def _steps(self) -> tuple[float, ...]:
        return tuple(math.pi / v for v in self.lengths)


@cached
def _half_sample_shift(modes: int, n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """exp(-i pi k / 2n) for k < modes, times sqrt(2) for k > 0: from a reflected field's spectrum to the cosine basis."""
    phase = torch.arange(modes, dtype=torch.float64) * (math.pi / (2 * n))
    shift = torch.complex(phase.cos(), -phase.sin()) * math.sqrt(2)
    shift[0] = 1.0
    return shift.to(device=device, dtype=torch.complex128 if dtype == torch.float64 else torch.complex64)


@cached
def _cosines(modes: int, n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(modes, n): the basis functions at the cell centres."""
    x = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    waves = (math.pi * torch.arange(modes, dtype=torch.float64)[:, None] * x).cos() * math.sqrt(2)
    waves[0] = 1.0
    return waves.to(device=device, dtype=dtype)


@cached
def _resampling(n: int, m: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(n, m): from the values at n cell centres to those of the same cosines, as many as both hold, at m."""
    held = min(n, m)
    there, back = (_cosines(held, size, torch.device("cpu"), torch.float64) for size in (n, m))
    return (there.t() @ back / n).to(device=device, dtype=dtype)


def _resample_axis(x: Tensor, axis: int, m: int) -> Tensor:
    """One product, which reads its input and writes its result as they lie in memory."""
    before, n, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    matrix = _resampling(n, m, x.device, x.dtype)
    if not after:
        return torch.mm(x.reshape(-1, n), matrix).reshape(*before, m)
    columns = x.reshape(math.prod(before), n, math.prod(after))
    return torch.bmm(matrix.t().expand(len(columns), m, n), columns).reshape(*before, m, *after)


def _cosine_transform(x: Tensor, n: int) -> Tensor:
    if n <= MOST_BY_PRODUCT:
        return x @ (_cosines(n, n, x.device, x.dtype).t() / n)
    spectrum = torch.fft.rfft(torch.cat([x, x.flip(-1)], dim=-1), norm="forward")[..., :n]
    return (spectrum * _half_sample_shift(n, n, x.device, x.dtype)).real


def _inverse_cosine_transform(c: Tensor, n: int) -> Tensor:
    c = c[..., :n]
    if n <= MOST_BY_PRODUCT:
        return c @ _cosines(c.shape[-1], n, c.device, c.dtype)
    spectrum = c / _half_sample_shift(c.shape[-1], n, c.device, c.dtype)
    return torch.fft.irfft(spectrum, n=2 * n, norm="forward")[..., :n]


def _average(x: Tensor, axis: int, n: int) -> Tensor:
    old = x.shape[axis]
    if old == n:
        return x
    if old % n == 0:
        return x.unflatten(axis, (n, old // n)).mean(axis + 1)
    if n % old == 0:
        return x.repeat_interleave(n // old, dim=axis)
    overlap = _overlaps(old, n).to(device=x.device, dtype=full_precision(x).dtype)
    with torch.autocast(x.device.type, enabled=False):
        return (full_precision(x).movedim(axis, -1) @ overlap.T).movedim(-1, axis).to(x.dtype)


@cached
def _overlaps(old: int, new: int) -> Tensor:
    """(new, old): the share of each new cell that each old cell covers."""
    edges = torch.arange(new, dtype=torch.float64)[:, None] * old, torch.arange(old, dtype=torch.float64) * new
    overlap = torch.minimum(edges[0] + old, edges[1] + new) - torch.maximum(edges[0], edges[1])
    return overlap.clamp(min=0) / old
