"""What every domain is: the interface, and what follows from it."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fnodiff.domain.draws import Generators
from fnodiff.expected import WrongKind, as_floats

Shape = tuple[int, ...]

_WHOLE = (int, np.integer)

LARGEST = 2**38
"""Points that no grid has: a terabyte of one channel."""


class Domain(abc.ABC):
    """A bounded domain with its grids, its Laplacian and its transforms.

    Attributes:
        dim: Number of spatial dimensions.
        lengths: Extent of each coordinate, in the units of `points`.
        uniform: Whether all points of a grid have the same weight.
        averages_cells: Whether coarser grids of measured fields are made by averages over cells (`Box.average`), as an image's.
        pictures: Whether fields on it can be pictures, as on Box(2).
    """

    dim: int
    lengths: tuple[float, ...] | None
    uniform: ClassVar[bool] = True
    averages_cells: bool = False
    pictures: bool = False

    # ---- what a domain defines ------------------------------------------------------------------------------------

    @abc.abstractmethod
    def points(self, shape: Sequence[int], *, device=None, dtype: torch.dtype | None = None) -> Tensor:
        """Coordinates of the grid's points, (dim, *shape), in [0, length]."""

    @abc.abstractmethod
    def coefficient_shape(self, shape: Sequence[int]) -> Shape:
        """Shape of the coefficients of one channel on a grid of this shape."""

    @abc.abstractmethod
    def eigenvalues(self, shape: Sequence[int], *, device=None, dtype: torch.dtype | None = None) -> Tensor:
        """Eigenvalues of -Laplacian, in 1 / length^2, one per coefficient of a grid of this shape."""

    @abc.abstractmethod
    def attenuation(
        self, shape: Sequence[int], cells: Sequence[int] | None = None, *, device=None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """What averaging over the cells of a grid leaves of each mode, (*coefficient_shape).

        Args:
            shape: The grid whose modes are meant.
            cells: The grid whose cells average; by default the same.
        """

    @abc.abstractmethod
    def shells(self, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Modes of nearly equal wavenumber, gathered: for averages over directions.

        Returns:
            (shell, wavenumber). The shell of each coefficient (*coefficient_shape), 0 for the mean; and sqrt(lambda) of the
            shells that the grid holds in full, (shells,), from 0 for the mean. Other coefficients lie in shells beyond these.
        """

    @abc.abstractmethod
    def multiplicity(self, shape: Sequence[int], *, device=None, dtype: torch.dtype | None = None) -> Tensor:
        """How many modes each stored coefficient stands for, (*coefficient_shape)."""

    @abc.abstractmethod
    def white(
        self, batch: Sequence[int], shape: Sequence[int], *, generator: Generators = None, device=None, dtype=None
    ) -> Tensor:
        """Coefficients of white noise, E|c_k|^2 = 1, of shape (*batch, *coefficient_shape).

        Args:
            batch: (B, C).
            shape: The grid's shape: it decides which modes are drawn, never their values.
            generator: One generator, or one per sample. Each call takes one integer per sample from it; that seed, the
                channel and the mode fix the coefficient, on every grid, in every batch, on every device. None: plain
                draws from torch's global generator.

        Raises:
            ValueError: If `generator` is a sequence whose length is not B.
        """

    @abc.abstractmethod
    def analyze(self, x: Tensor) -> Tensor:
        """Coefficients (B, C, *coefficient_shape) of a real field (B, C, *shape); half precision is computed in float32.

        Raises:
            ValueError: If `x` is not a real field of this dimension.
        """

    @abc.abstractmethod
    def synthesize(self, c: Tensor, shape: Sequence[int]) -> Tensor:
        """The field (B, C, *shape) with coefficients `c`, of whatever grid; modes that `shape` cannot hold are dropped."""

    @abc.abstractmethod
    def values(self, c: Tensor, points: Tensor, shape: Shape) -> Tensor:
        """The function with coefficients `c` of a grid at points (dim, P), in full precision: (B, C, P)."""

    @abc.abstractmethod
    def trace(self, f: Callable[[Tensor], Tensor]) -> float:
        """The sum of f(lambda_k) over all modes of the domain, infinitely many, to about 1e-6 for smooth f.

        Raises:
            ValueError: If the sum diverges, is not positive or is not finite.
        """

    # ---- what follows from it -------------------------------------------------------------------------------------

    @property
    def edges(self) -> tuple[str, ...]:
        """What each coordinate ends in: "periodic", "wall" (zero slope), "pole", or "other"."""
        return ("other",) * self.dim

    def weights(self, shape: Sequence[int], *, device=None, dtype: torch.dtype | None = None) -> Tensor:
        """Quadrature weights (*shape), which sum to 1."""
        shape = self.check_shape(shape)
        return torch.full(shape, 1.0 / math.prod(shape), device=device, dtype=dtype)

    @property
    def periodic(self) -> tuple[bool, ...]:
        """Whether each axis closes on itself."""
        return tuple(edge == "periodic" for edge in self.edges)

    def cells(self, shape: Sequence[int]) -> list[Tensor]:
        """The bounds of the cells that a grid's points stand for, for each axis (n + 1,), in shares of it by area; float64.

        On a periodic axis a point is in the middle of its cell, so that the first cell begins below 0.
        """
        return [cell_bounds(n, closed) for n, closed in zip(self.check_shape(shape), self.periodic, strict=True)]

    def whole_cells(self, coarse: Sequence[int], fine: Sequence[int]) -> bool:
        """Whether each cell of a coarse grid is made of whole cells of a fine one: between walls, 32 of 64, not of 48."""
        whole = all(m % n == 0 for n, m in zip(self.check_shape(coarse), self.check_shape(fine), strict=True))
        return whole and all(edge == "wall" for edge in self.edges)

    def average(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Means over the cells of another grid of a field that is constant on each of its own cells: (B, C, *shape).

        Unlike `resample` it is local: no value reaches farther than its cell, and positive fields stay positive.

        Examples:
            >>> import torch
            >>> from fnodiff import Torus
            >>> Torus(1).average(torch.tensor([[[4.0, 8.0, 0.0, 0.0]]]), (2,))  # cells of points 0 and 1/2
            tensor([[[4., 2.]]])
        """
        old, shape = self.check_field(x), self.check_shape(shape)
        bounds = zip(self.cells(old), self.cells(shape), self.periodic, strict=True)
        for axis, (there, here, closed) in enumerate(bounds, start=2):
            if old[axis - 2] != shape[axis - 2]:
                x = product_along(x, axis, cell_shares(there, here, closed))
        return x

    def coordinates(self, shape: Sequence[int]) -> dict[str, Tensor]:
        """The points of each axis by its name, float64, as files have them: a sphere's latitudes and longitudes in degrees."""
        shape = self.check_shape(shape)
        points = self.points(shape, dtype=torch.float64)
        names = ("position",) if self.dim == 1 else ("depth", "row", "column")[-self.dim :]
        lines = (tuple(slice(None) if i == axis else 0 for i in range(self.dim)) for axis in range(self.dim))
        return {name: points[axis][line] for axis, (name, line) in enumerate(zip(names, lines, strict=True))}

    def octaves(self, shape: Sequence[int]) -> Tensor:
        """The octave of each coefficient (*coefficient_shape): 0 for the mean, o for shells from 2^(o-1) to below 2^o."""
        return torch.log2(self.shells(shape)[0].double() + 0.5).ceil().clamp(min=0).long()

    def filter(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """f(-Laplacian) x, projected on the grid's modes.

        Args:
            x: Field (B, C, *shape).
            f: Maps the eigenvalues (*coefficient_shape) to a multiplier that broadcasts against (B, C, *coefficient_shape):
                it may differ per sample and channel.

        Raises:
            ValueError: If the multiplier does not fit, as one for other channels.

        Examples:
            >>> import torch
            >>> from fnodiff import Torus
            >>> x = (2 * torch.pi * Torus(1).points((4,))[None]).cos()
            >>> Torus(1).filter(x, lambda eigenvalues: (-0.01 * eigenvalues).exp())[0, 0, 0]  # heat, after a while
            tensor(0.6738)
        """
        shape = self.check_field(x)
        if not callable(f):
            raise WrongKind(f"filter: expected a function of the eigenvalues, got {f!r}; write lambda e: 1 / (1 + e).")
        c = self.analyze(x)
        gain = torch.as_tensor(f(self.eigenvalues(shape, device=c.device, dtype=c.real.dtype)), device=c.device)
        if gain.ndim > c.ndim or any(n not in (1, m) for n, m in zip(gain.shape[::-1], c.shape[::-1], strict=False)):
            raise ValueError(
                f"filter: expected a multiplier that fits modes {tuple(c.shape)}, got {tuple(gain.shape)}; give it as many "
                f"channels as the fields have, or one."
            )
        return self.synthesize(c * gain.to(c.real.dtype), shape).to(x.dtype)

    def resample(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """The same function on a grid of another shape; exact where both grids hold its modes, else truncated.

        For states, noise and comparisons. Images to train on are cell averages: see `Box.average`.

        Examples:
            >>> import torch
            >>> from fnodiff import Torus
            >>> coarse, fine = ((2 * torch.pi * Torus(1).points((n,))[None]).sin() for n in (5, 12))
            >>> bool((Torus(1).resample(coarse, (12,)) - fine).abs().max() < 1e-5)
            True
        """
        shape = self.check_shape(shape)
        if shape == self.check_field(x):
            return x
        return self.synthesize(self.analyze(x), shape).to(x.dtype)

    def pool(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """The change of grid for a network's local branches: cell averages where there are walls, `resample` elsewhere."""
        return self.resample(x, shape)

    def coarsen(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Measured fields on a grid no finer than theirs: averages over its cells where there are walls, else its modes."""
        return self.resample(x, shape)

    def upsample(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Fields on a finer grid, without new detail: linearly along each axis where there are walls, else the same modes."""
        return self.resample(x, shape)

    def is_usual(self, shape: Sequence[int]) -> bool:
        """Whether a grid has the usual proportions: as many points on each side."""
        return len(set(shape)) == 1

    def evaluate(self, x: Tensor, points: Tensor) -> Tensor:
        """The band-limited function with values `x`, at any points.

        Args:
            x: Field (B, C, *shape).
            points: (dim, *P), in the units of `lengths`.

        Returns:
            (B, C, *P).

        Examples:
            >>> import torch
            >>> from fnodiff import Torus
            >>> x = (2 * torch.pi * Torus(1).points((5,))[None]).sin()
            >>> Torus(1).evaluate(x, torch.tensor([[0.25, 0.75]])).round(decimals=3)
            tensor([[[ 1., -1.]]])
        """
        shape, points = self.check_field(x), as_floats(points, "points")
        if points.ndim < 2 or points.shape[0] != self.dim:
            raise ValueError(
                f"{self._name}.evaluate: expected points of shape ({self.dim}, ...), one row per coordinate, "
                f"got {tuple(points.shape)}; transpose them if they are stored one point per row."
            )
        c = self.analyze(x)
        flat = points.to(device=c.device, dtype=c.real.dtype).flatten(1)
        chunk = max(1, 2**24 // max(1, c.numel() // c.shape[-1]))  # bounds the largest intermediate
        with torch.autocast(c.device.type, enabled=False):
            parts = [self.values(c, p, shape) for p in flat.split(chunk, dim=1)]
        return torch.cat(parts, dim=-1).unflatten(-1, points.shape[1:]).to(x.dtype)

    def norm(self, x: Tensor) -> Tensor:
        """The L2 norm of each sample, (B,): the root of the mean over the domain of the sum over channels of |x|^2."""
        shape = self.check_field(x)
        return (x.square() * self.weights(shape, device=x.device, dtype=x.dtype)).flatten(1).sum(1).sqrt()

    def derivative(self, x: Tensor, axis: int) -> Tensor:
        """dx / d(coordinate `axis`) of fields (B, C, *shape) by central differences, of x's shape.

        Raises:
            ValueError: On a domain without straight axes, or if the axis is none of them or has a single point.
        """
        raise ValueError(f"derivative: expected a domain with straight axes, got {self}; differentiate another way.")

    # ---- checks ---------------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return type(self).__name__

    def shape_of(self, n: int) -> Shape:
        """The grid of n points per side; of n latitudes and 2 n longitudes on a sphere."""
        return self.check_shape((n,) * self.dim)

    def modes(self, shape: Sequence[int]) -> Shape:
        """The n_modes per axis, in neuralop's convention (both signs), that a grid holds."""
        return self.check_shape(shape)

    def check_shape(self, shape: Sequence[int] | int) -> Shape:
        """A grid as a tuple: `dim` positive integers, or an int for as many points on each side (`shape_of`).

        Raises:
            ValueError: If it is neither.
        """
        shape = shape.tolist() if isinstance(shape, (Tensor, np.ndarray)) else shape
        if isinstance(shape, _WHOLE) and not isinstance(shape, bool):
            return self.shape_of(int(shape))
        out = tuple(shape) if isinstance(shape, Iterable) and not isinstance(shape, str) else (shape,)
        if len(out) != self.dim or not all(isinstance(n, _WHOLE) and n > 0 for n in out):
            raise ValueError(
                f"{self._name}(dim={self.dim}): expected a grid of {self.dim} positive sizes, or an int for as many points on "
                f"each side, got {shape!r}; pass the spatial shape alone, without batch and channels."
            )
        if not torch.compiler.is_compiling() and math.prod(map(int, out)) >= LARGEST:
            raise ValueError(
                f"{self._name}: expected a grid of fewer than 2**38 points, got {shape!r}; take a coarser one."
            )
        return tuple(n if isinstance(n, int) else int(n) for n in out)

    def check_points(self, points: Tensor) -> None:
        """Raise a ValueError unless points (dim, ...) lie on the domain; on a periodic axis every finite number does."""
        if not points.ndim or len(points) != self.dim:
            raise ValueError(
                f"expected points ({self.dim}, ...) on {self}, got {tuple(points.shape)}; transpose points that are stored one "
                f"per row."
            )
        if not bool(points.isfinite().all()):
            raise ValueError(
                f"expected finite coordinates on {self}, got NaN or infinite ones; leave those points out."
            )

    def check_field(self, x: Tensor) -> Shape:
        """The spatial shape of a field (B, C, *shape), or a ValueError if `x` is not a real one of this dimension."""
        if not isinstance(x, Tensor):
            raise ValueError(
                f"{self._name}: expected a tensor, got {type(x).__name__}; convert it: torch.as_tensor(x)."
            )
        if x.ndim != self.dim + 2 or not x.shape[1]:
            raise ValueError(
                f"{self._name}(dim={self.dim}): expected a field (B, C, *spatial) with {self.dim} spatial axes, got shape "
                f"{tuple(x.shape)}; add the missing batch or channel axis, or choose the domain of that dimension."
            )
        if not x.is_floating_point():
            raise ValueError(
                f"{self._name}: expected a real floating-point field, got dtype {x.dtype}; convert it first, such as x.float()."
            )
        return self.check_shape(x.shape[2:])


def grid_name(shape: Sequence[int]) -> str:
    """ "32x48" of (32, 48)."""
    return "x".join(map(str, shape))


# ---- helpers of the domains ----


def full_precision(x: Tensor) -> Tensor:
    """float64 as it is, everything else as float32."""
    return x if x.dtype == torch.float64 else x.float()  # FFTs know no bfloat16, and only some float16 sizes


def product_along(x: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """(.., n, ..) times a matrix (m, n) along one axis, in full precision."""
    matrix = matrix.to(device=x.device, dtype=full_precision(x).dtype)
    with torch.autocast(x.device.type, enabled=False):
        return (full_precision(x).movedim(axis, -1) @ matrix.T).movedim(-1, axis).to(x.dtype)


def along(a: Tensor, axis: int, dim: int) -> Tensor:
    """A vector, shaped to broadcast along one axis of `dim`."""
    return a.reshape([-1 if i == axis else 1 for i in range(dim)])


def cell_bounds(n: int, periodic: bool) -> Tensor:
    """The bounds (n + 1,) of n equal cells of an axis, in shares of it, float64; the first around 0 where it is periodic."""
    return (torch.arange(n + 1, dtype=torch.float64) - periodic / 2) / n


def cell_shares(old: Tensor, new: Tensor, closed: bool) -> Tensor:
    """(n, m): the share of each of n cells with bounds `new` that each of m cells with bounds `old` covers."""
    total = torch.zeros(len(new) - 1, len(old) - 1, dtype=torch.float64)
    for turn in (-1, 0, 1) if closed else (0,):
        high = torch.minimum(new[1:, None], old[1:] + turn)
        total += (high - torch.maximum(new[:-1, None], old[:-1] + turn)).clamp(min=0)
    return total / new.diff()[:, None]
