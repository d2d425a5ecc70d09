"""Products of intervals: all domains with straight axes, periodic or between walls.

Along a periodic axis of n points, i / n, the eigenfunctions are exp(2 pi i k x), abs(k) < n / 2; between walls, at n cell
centres (i + 1/2) / n, they are 1 and sqrt(2) cos(pi k x), k = 0 .. n - 1, whose slope is zero at the walls. A domain's are the
products of one for each axis. `Torus` has periodic axes, `Box` walls, `fnodiff.domain.Product` both.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fnodiff.domain import axes
from fnodiff.domain.base import Domain, Shape, along, full_precision, product_along
from fnodiff.domain.draws import Generators, normals
from fnodiff.domain.sums import check_trace, lattice_sum


class Intervals(Domain):
    """A product of intervals. Subclasses are frozen dataclasses that call `_set_axes`.

    Coefficients are cosines' along walled axes, k = 0 .. n - 1, and along the others `rfftn(norm="forward")` without an even
    grid's Nyquist frequency: in FFT order (0, 1, .., K, -K, .., -1) with K = (n - 1) // 2 on all periodic axes but the last,
    which holds 0 .. K. They are real if all axes are walled, complex otherwise.

    Attributes:
        edges: What each axis ends in, "periodic" or "wall".
    """

    dim: int
    lengths: tuple[float, ...]
    edges: tuple[str, ...] = ()

    def _set_axes(self, edges: Sequence[str], lengths: Sequence[float] | None) -> None:
        dim = len(edges)
        lengths = 1.0 if lengths is None else lengths
        lengths = (float(lengths),) * dim if isinstance(lengths, Real) else tuple(float(v) for v in lengths)
        if len(lengths) != dim or not all(math.isfinite(v) and v > 0 for v in lengths):
            raise ValueError(
                f"{self._name}: expected {dim} positive side lengths, got {lengths!r}; "
                f"pass one per dimension, such as lengths={(1.0,) * dim}."
            )
        periodic, walls = (tuple(i for i in range(dim) if edges[i] == edge) for edge in ("periodic", "wall"))
        kept: dict[str, Any] = {"edges": tuple(edges), "lengths": lengths, "_periodic": periodic, "_walls": walls}
        for name, value in kept.items():
            object.__setattr__(self, name, value)

    def _check_dim(self, dim: Any) -> int:
        if not isinstance(dim, Integral) or dim not in (1, 2, 3):
            raise ValueError(f"{self._name}: expected dim 1, 2 or 3, got {dim!r}; pass the number of spatial axes.")
        return int(dim)

    @property
    def averages_cells(self) -> bool:
        """Whether coarser grids of measured fields are made by averages over cells: where there is a wall."""
        return bool(self._walls)

    @property
    def _steps(self) -> tuple[float, ...]:
        """Spacing of the frequencies along each axis: eigenvalues are sum (k_i * step_i)^2."""
        turns = ((2 if edge == "periodic" else 1, v) for edge, v in zip(self.edges, self.lengths, strict=True))
        return tuple(turn * math.pi / v for turn, v in turns)

    # ---- grids ----------------------------------------------------------------------------------------------------

    def points(self, shape: Sequence[int], *, device=None, dtype: torch.dtype | None = None) -> Tensor:
        shape, coordinates = self.check_shape(shape), []
        for n, edge, length in zip(shape, self.edges, self.lengths, strict=True):
            first = torch.arange(n, device=device, dtype=dtype or torch.get_default_dtype())
            coordinates.append((first if edge == "periodic" else first + 0.5) / n * length)
        return torch.stack(torch.meshgrid(*coordinates, indexing="ij"))

    def check_points(self, points: Tensor) -> None:
        """Raise a ValueError unless points (dim, ...) lie between the walls; on a periodic axis every finite number does."""
        super().check_points(points)
        for axis in self._walls if points.numel() else ():
            low, high, length = float(points[axis].min()), float(points[axis].max()), self.lengths[axis]
            if not (low >= 0 and high <= length):
                raise ValueError(
                    f"expected points within the box of sides {self.lengths}, got coordinates from {low:g} to {high:g} along "
                    f"axis {axis}; scale them, or give the {self._name} its lengths."
                )

    def derivative(self, x: Tensor, axis: int) -> Tensor:
        shape = self.check_field(x)
        if not 0 <= axis < self.dim:
            raise ValueError(f"derivative: expected an axis from 0 to {self.dim - 1}, of space alone, got {axis}.")
        n, length = shape[axis], self.lengths[axis]
        if n < 2:
            raise ValueError(f"derivative: expected two points or more along axis {axis}, got {tuple(x.shape)}.")
        if self.edges[axis] == "wall":
            return torch.gradient(x, spacing=length / n, dim=axis + 2)[0]  # one-sided at the walls
        return (x.roll(-1, axis + 2) - x.roll(1, axis + 2)) * (n / (2 * length))

    # ---- modes ----------------------------------------------------------------------------------------------------

    def coefficient_shape(self, shape: Sequence[int]) -> Shape:
        shape = self.check_shape(shape)
        bands = [(n - 1) // 2 for n in shape]
        counts = [2 * k + 1 if i in self._periodic[:-1] else k + 1 for i, k in enumerate(bands)]
        return tuple(n if i in self._walls else count for i, (n, count) in enumerate(zip(shape, counts, strict=True)))

    def wavenumbers(self, shape: Sequence[int]) -> list[Tensor]:
        """Integer mode indices along each axis of the coefficients, float64, shaped to broadcast."""
        return [along(k.double(), i, self.dim) for i, k in enumerate(self._indices(shape))]

    def _indices(self, shape: Sequence[int]) -> list[Tensor]:
        indices = []
        for axis, n in enumerate(self.check_shape(shape)):
            band = (n - 1) // 2
            if self.edges[axis] == "wall":
                indices.append(torch.arange(n))
            else:
                indices.append(torch.arange(band + 1) if axis == self._periodic[-1] else axes.signed(2 * band + 1))
        return indices

    def eigenvalues(self, shape: Sequence[int], *, device=None, dtype: torch.dtype | None = None) -> Tensor:
        """Eigenvalues of -Laplacian, in 1 / length^2, one per coefficient of a grid of this shape."""
        total = sum((k * step) ** 2 for k, step in zip(self.wavenumbers(shape), self._steps, strict=True))
        return total.to(device=device, dtype=dtype or torch.get_default_dtype())

    def multiplicity(self, shape: Sequence[int], *, device=None, dtype: torch.dtype | None = None) -> Tensor:
        mult = torch.ones(self.coefficient_shape(shape), device=device, dtype=dtype)
        if self._periodic:
            mult.narrow(self._periodic[-1], 1, mult.shape[self._periodic[-1]] - 1).fill_(2.0)
        return mult

    def attenuation(
        self, shape: Sequence[int], cells: Sequence[int] | None = None, *, device=None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """What averaging over the cells of a grid leaves of each mode, (*coefficient_shape): sinc(kappa h) per axis.

        kappa is in cycles per unit length and h a cell's width: sinc(k / 2n) between walls, sinc(k / n) on periodic axes.

        Args:
            shape: The grid whose modes are meant.
            cells: The grid whose cells average; by default the same.
        """
        factor = torch.ones((), dtype=torch.float64)
        cells = self.check_shape(shape if cells is None else cells)
        for k, step, length, n in zip(self.wavenumbers(shape), self._steps, self.lengths, cells, strict=True):
            factor = factor * torch.sinc(k * (step * length / (2 * math.pi * n)))
        return factor.to(device=device, dtype=dtype or torch.get_default_dtype())

    def shells(self, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Modes of nearly equal wavenumber, gathered: for averages over directions.

        Returns:
            (shell, wavenumber). The shell of each coefficient (*coefficient_shape), 0 for the mean; and sqrt(lambda) of the
            shells that the grid holds in full, (shells,), from 0 for the mean, equally spaced by the largest of the axes'
            first modes. Halves count down. Coefficients in the corners lie in shells beyond these.
        """
        k = self.eigenvalues(shape, dtype=torch.float64).sqrt()
        sides = [k[tuple(slice(None) if i == axis else 0 for i in range(k.ndim))] for axis in range(k.ndim)]
        firsts = [float(side[1:].min()) for side in sides if side.numel() > 1]
        if not firsts:
            raise ValueError(f"expected a grid with modes besides the mean, got {tuple(shape)}; take a finer one.")
        width = max(firsts)
        count = int(min(float(side.max()) for side in sides) / width + 1e-9)
        return (k / width + 0.5 - 1e-9).floor().long(), width * torch.arange(count + 1, dtype=torch.float64)

    def trace(self, f: Callable[[Tensor], Tensor]) -> float:
        # A sum over k >= 0 is, axis by axis, half the sum over all k plus half the term k = 0.
        steps, walls = self._steps, self._walls
        subsets = itertools.chain.from_iterable(itertools.combinations(walls, m) for m in range(len(walls) + 1))
        sums = (lattice_sum(f, [steps[i] for i in (*self._periodic, *some)]) for some in subsets)
        return check_trace(sum(sums) / 2 ** len(walls))

    # ---- transforms -----------------------------------------------------------------------------------------------

    def white(
        self, batch: Sequence[int], shape: Sequence[int], *, generator: Generators = None, device=None, dtype=None
    ) -> Tensor:
        shape = self.check_shape(shape)
        counts = [n if edge == "wall" else 2 * ((n - 1) // 2) + 1 for n, edge in zip(shape, self.edges, strict=True)]
        r = normals(batch, counts, generator=generator, device=device, dtype=dtype)
        if not self._periodic:
            return r
        # Mode k reads normal number 0, 1, 2, 3, .. for k = 0, 1, -1, 2, ..: the same one on every grid.
        for axis in self._periodic:
            k = axes.signed(counts[axis]).to(r.device)
            r = r.index_select(axis + 2, 2 * k.abs() - (k > 0).long())
        mirrored = r
        for axis in self._periodic:
            n = counts[axis]
            mirrored = mirrored.index_select(axis + 2, -torch.arange(n, device=r.device) % n)
        last = self._periodic[-1]
        r, mirrored = (v.narrow(last + 2, 0, counts[last] // 2 + 1) for v in (r, mirrored))
        return torch.complex(r + mirrored, r - mirrored) / 2

    def analyze(self, x: Tensor) -> Tensor:
        shape = self.check_field(x)
        c = full_precision(x)
        with torch.autocast(x.device.type, enabled=False):
            for axis in self._walls:
                c = axes.cosine_transform(c, axis + 2)
        return self._fourier(c, shape)

    def synthesize(self, c: Tensor, shape: Sequence[int]) -> Tensor:
        shape = self.check_shape(shape)
        for axis in self._walls if self._periodic else ():
            c = c.narrow(axis + 2, 0, min(c.shape[axis + 2], shape[axis]))
        c = self._inverse_fourier(c, shape)
        with torch.autocast(c.device.type, enabled=False):
            for axis in self._walls:
                c = axes.inverse_cosine_transform(c, axis + 2, shape[axis])
        return c

    def _fourier(self, x: Tensor, shape: Shape) -> Tensor:
        """Coefficients along the periodic axes."""
        if not self._periodic:
            return x
        *others, last = self._periodic
        c = torch.fft.rfftn(x, dim=tuple(axis + 2 for axis in self._periodic), norm="forward")
        for axis in others:
            c = axes.refit(c, axis + 2, 2 * ((shape[axis] - 1) // 2) + 1)
        return c.narrow(last + 2, 0, (shape[last] - 1) // 2 + 1)

    def _inverse_fourier(self, c: Tensor, shape: Shape) -> Tensor:
        """Values along the periodic axes."""
        if not self._periodic:
            return c
        *others, last = self._periodic
        for axis in others:
            c = axes.refit(c, axis + 2, shape[axis])
        held = min(c.shape[last + 2], (shape[last] - 1) // 2 + 1)  # never the Nyquist frequency; irfftn adds zeros
        sizes, dims = [shape[axis] for axis in self._periodic], [axis + 2 for axis in self._periodic]
        return torch.fft.irfftn(c.narrow(last + 2, 0, held), s=sizes, dim=dims, norm="forward")

    def resample(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        old, shape = self.check_field(x), self.check_shape(shape)
        if old == shape or any(max(old[i], shape[i]) > axes.MOST_BY_PRODUCT for i in self._walls):
            return super().resample(x, shape)
        y = full_precision(x)
        with torch.autocast(x.device.type, enabled=False):
            for axis in reversed(self._walls):
                if old[axis] != shape[axis]:
                    y = axes.resample_axis(y, axis + 2, shape[axis])
        return self._inverse_fourier(self._fourier(y, old), shape).to(x.dtype)

    def basis(self, x: Tensor, shape: Sequence[int]) -> list[Tensor]:
        """Eigenfunctions at points `x` (dim, P), one factor (modes, P) per axis, as `evaluate` contracts them."""
        factors = []
        for axis, (k, step) in enumerate(zip(self._indices(shape), self._steps, strict=True)):
            phase = k.to(x)[:, None] * (x[axis] * step)
            if self.edges[axis] == "periodic":
                factor = torch.complex(phase.cos(), phase.sin())
                if axis == self._periodic[-1]:  # each stands for its conjugate too
                    factor = torch.cat([factor[:1], 2 * factor[1:]])
            else:
                factor = phase.cos() * math.sqrt(2)
                factor = torch.cat([torch.ones_like(factor[:1]), factor[1:]])
            factors.append(factor)
        return factors

    def values(self, c: Tensor, points: Tensor, shape: Shape) -> Tensor:
        *first, last = self.basis(points, shape)
        values = c @ last.to(c.dtype)  # (B, C, k_1, .., k_{d-1}, P)
        for factor in reversed(first):
            values = (values * factor).sum(-2)
        return values.real if values.is_complex() else values

    # ---- averages over cells --------------------------------------------------------------------------------------

    def average(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Cell averages on another grid of a field that is constant on each of its own cells.

        The exact mean over each new cell, cells that overlap it in part counted in proportion: the way images are made smaller.
        It multiplies mode k by sinc(k / 2n) between walls and by sinc(k / n) along periodic axes, and folds what lies above
        the new grid. Cells lie side by side between walls, and around the points i / n of a periodic axis.

        Args:
            x: Field (B, C, *old).
            shape: The new grid, of any size.

        Returns:
            (B, C, *shape).
        """
        self.check_field(x)
        for axis, n in enumerate(self.check_shape(shape)):
            x = axes.average_axis(x, axis + 2, n, self.edges[axis] == "periodic")
        return x

    def pool(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        return self.average(x, shape) if self._walls else self.resample(x, shape)

    def coarsen(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        return self.average(x, shape) if self._walls else self.resample(x, shape)

    def upsample(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        shape, old = self.check_shape(shape), self.check_field(x)
        if not self._walls:
            return self.resample(x, shape)
        for axis in self._periodic:
            if old[axis] != shape[axis]:
                x = product_along(x, axis + 2, axes.lines(old[axis], shape[axis]))
        mode = ("linear", "bilinear", "trilinear")[self.dim - 1]
        return interpolate(x, size=shape, mode=mode)  # from centres of cells; as it is along axes of this size
