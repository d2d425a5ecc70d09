"""The sphere."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fnodiff.domain.base import Domain, Shape, cell_bounds, full_precision
from fnodiff.domain.constants import cached
from fnodiff.domain.draws import Generators, normals
from fnodiff.domain.harmonics import harmonics
from fnodiff.domain.sums import check_trace, degree_sum
from fnodiff.expected import kinds_checked

GRIDS = ("legendre-gauss", "equiangular", "cell-centred")


@kinds_checked
@dataclass(frozen=True, repr=False)
class Sphere(Domain):
    """The unit sphere; points (colatitude, longitude) in radians, north first, and real spherical harmonics.

    A grid of shape (latitudes, longitudes) holds the degrees l < L,

        L = min(latitudes, (longitudes + 1) // 2)             legendre-gauss
        L = min((latitudes + 1) // 2, (longitudes + 1) // 2)  equiangular, whose first and last rows are the poles, and
                                                              cell-centred, whose rows are halfway between such

    all orders of each, so that what it holds does not depend on where the poles are; transforms are exact for those degrees.
    32 x 64 points hold 32 degrees, or 16. Longitudes are 2 pi j / longitudes, or 2 pi (j + 1/2) / longitudes.

    The harmonics of degrees below L are stored as a square (L, L) whose shells of max(i, j) are the degrees:

        c[l, m], m <= l        sqrt(2) P_lm(cos theta) cos(m phi), and P_l0(cos theta) for m = 0
        c[m - 1, l], m <= l    sqrt(2) P_lm(cos theta) sin(m phi)

    with P_lm normalised to mean square one over the sphere and eigenvalue l (l + 1). Area averages are no functions of the
    Laplacian here: fields are values at points.

    Args:
        grid: "legendre-gauss", the nodes of Gauss' quadrature; "equiangular", equally spaced from pole to pole; or
            "cell-centred", the centres (i + 1/2) / latitudes of equal steps from pole to pole, by Fejer's quadrature.
        half_longitudes: Whether longitudes are the centres of cells that begin at 0, too.

    Raises:
        ValueError: If the grid is another one.

    Source: torch-harmonics (Bonev et al., 2023, Spherical Fourier neural operators) for nodes, weights and Legendre functions.

    Examples:
        >>> from fnodiff import Sphere
        >>> Sphere().weights((4, 8)).sum(1)  # rows near the poles stand for less area
        tensor([0.1739, 0.3261, 0.3261, 0.1739])
    """

    grid: str = "legendre-gauss"
    half_longitudes: bool = False

    dim: ClassVar[int] = 2
    lengths: ClassVar[tuple[float, ...]] = (math.pi, 2 * math.pi)
    uniform: ClassVar[bool] = False
    edges: ClassVar[tuple[str, ...]] = ("pole", "periodic")

    def __post_init__(self) -> None:
        if self.grid not in GRIDS:
            raise ValueError(
                f"Sphere: expected a grid among {GRIDS}, got {self.grid!r}; resample the fields to one of these."
            )

    def __repr__(self) -> str:
        return f"Sphere(grid={self.grid!r}{', half_longitudes=True' if self.half_longitudes else ''})"

    def degrees(self, shape: Sequence[int]) -> int:
        """How many degrees a grid of this shape holds, L."""
        latitudes, longitudes = self.check_shape(shape)
        return min(latitudes if self.grid == "legendre-gauss" else (latitudes + 1) // 2, (longitudes + 1) // 2)

    def modes(self, shape: Sequence[int]) -> Shape:
        degrees = self.degrees(shape)
        return degrees, 2 * degrees

    def shape_of(self, n: int) -> Shape:
        return self.check_shape((n, 2 * n))

    def check_shape(self, shape: Sequence[int]) -> Shape:
        """`shape` as a tuple, or a ValueError unless it is two positive integers, two latitudes or more if equiangular."""
        out = super().check_shape(shape)
        if self.grid == "equiangular" and out[0] < 2:
            raise ValueError(f"{self}: expected 2 latitudes or more, both poles, got a grid of {out}; add rows.")
        return out

    def points(self, shape: Sequence[int], *, device=None, dtype: torch.dtype | None = None) -> Tensor:
        latitudes, longitudes = self.check_shape(shape)
        theta = _quadrature(self.grid, latitudes)[0]
        phi = (torch.arange(longitudes, dtype=torch.float64) + self.half_longitudes / 2) * (2 * math.pi / longitudes)
        points = torch.stack(torch.meshgrid(theta, phi, indexing="ij"))
        return points.to(device=device, dtype=dtype or torch.get_default_dtype())

    def coarsen(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """The degrees that a grid holds; on the stored grid too: what no degree holds, no noise would reach."""
        return self.synthesize(self.analyze(x), shape)

    def cells(self, shape: Sequence[int]) -> list[Tensor]:
        """Belts of latitude as large as the rows' weights, in shares of the sphere's area from the north; longitudes.

        Of a cell-centred grid they are the cells themselves.
        """
        latitudes, longitudes = self.check_shape(shape)
        meridians = cell_bounds(longitudes, not self.half_longitudes)
        if self.grid == "cell-centred":
            return [(1 - (math.pi * cell_bounds(latitudes, False)).cos()) / 2, meridians]
        return [torch.nn.functional.pad(_quadrature(self.grid, latitudes)[1].cumsum(0), (1, 0)), meridians]

    def coordinates(self, shape: Sequence[int]) -> dict[str, Tensor]:
        colatitude, longitude = super().coordinates(shape).values()
        return {
            "latitude": (90 - colatitude.rad2deg()).round(decimals=10),
            "longitude": longitude.rad2deg().round(decimals=10),
        }

    def is_usual(self, shape: Sequence[int]) -> bool:
        """Twice as many longitudes as latitudes, but for those of the poles."""
        return abs(shape[1] - 2 * shape[0]) <= 2

    def check_points(self, points: Tensor) -> None:
        """Raise a ValueError unless points (2, ...) have colatitudes from 0 to pi; longitudes may be any number."""
        super().check_points(points)
        if not points.numel():
            return
        low, high = float(points[0].min()), float(points[0].max())
        if not (low >= -1e-6 and high <= math.pi + 1e-6):
            raise ValueError(
                f"expected colatitudes from 0, the north pole, to pi, got {low:g} to {high:g}; colatitude = (90 - latitude in "
                f"degrees) * pi / 180, longitude second."
            )

    def weights(self, shape: Sequence[int], *, device=None, dtype: torch.dtype | None = None) -> Tensor:
        """Quadrature weights (*shape), which sum to 1: the share of the sphere's area that a point stands for."""
        latitudes, longitudes = self.check_shape(shape)
        weights = _quadrature(self.grid, latitudes)[1][:, None] / longitudes
        weights = weights.to(device=device, dtype=dtype or torch.get_default_dtype())
        return weights.expand(latitudes, longitudes).contiguous()

    def coefficient_shape(self, shape: Sequence[int]) -> Shape:
        return (self.degrees(shape),) * 2

    def eigenvalues(self, shape: Sequence[int], *, device=None, dtype: torch.dtype | None = None) -> Tensor:
        degree = self._degree(self.degrees(shape)).double()
        return (degree * (degree + 1)).to(device=device, dtype=dtype or torch.get_default_dtype())

    def multiplicity(self, shape: Sequence[int], *, device=None, dtype: torch.dtype | None = None) -> Tensor:
        return torch.ones(self.coefficient_shape(shape), device=device, dtype=dtype)

    def attenuation(
        self, shape: Sequence[int], cells: Sequence[int] | None = None, *, device=None, dtype: torch.dtype | None = None
    ) -> Tensor:
        raise ValueError(
            f"{self}: expected values at points, as averages over the cells of a grid on the sphere are no functions of the "
            f"Laplacian; pass cell_averages=False."
        )

    def shells(self, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The degrees: (degree of each coefficient, sqrt(l (l + 1)) of each degree)."""
        count = self.degrees(shape)
        degree = torch.arange(count, dtype=torch.float64)
        return self._degree(count), (degree * (degree + 1)).sqrt()

    def white(
        self, batch: Sequence[int], shape: Sequence[int], *, generator: Generators = None, device=None, dtype=None
    ) -> Tensor:
        return normals(batch, self.coefficient_shape(shape), generator=generator, device=device, dtype=dtype)

    def analyze(self, x: Tensor) -> Tensor:
        cosines, sines = self.orders(x).unbind(3)  # (orders, B, C, degrees)
        return cosines.permute(1, 2, 3, 0) + _shifted_up(-sines.permute(1, 2, 0, 3))

    def synthesize(self, c: Tensor, shape: Sequence[int]) -> Tensor:
        count = min(self.degrees(shape), c.shape[-1])
        c = c[..., :count, :count]
        parts = [c.tril().movedim(-1, 0), -_shifted_down(c.triu(1)).movedim(-2, 0)]
        return self.from_orders(torch.stack(parts, dim=3), shape)

    def orders(self, x: Tensor, count: int | None = None) -> Tensor:
        """Degrees below `count` as complex coefficients, sorted by orders m >= 0: (orders, B, C, 2, degrees), re and im.

        For m > 0 they are sqrt(2) times those of the complex harmonics; half of the array, m > l, is zero.
        """
        shape = self.check_field(x)
        count = self.degrees(shape) if count is None else count
        with torch.autocast(x.device.type, enabled=False):
            x = full_precision(x)
            waves = torch.fft.rfft(x, norm="forward")[..., :count]  # (B, C, latitudes, orders)
            if self.half_longitudes:
                waves = waves * _half_step(count, shape[1], x.device, x.dtype).conj()
            legendre = _analysis(self.grid, shape[0], count, x.device, x.dtype)
            c = torch.view_as_real(waves).permute(3, 0, 1, 4, 2).flatten(1, 3) @ legendre
        return c.unflatten(1, (*x.shape[:2], 2))

    def from_orders(self, c: Tensor, shape: Sequence[int]) -> Tensor:
        """The field (B, C, *shape) with coefficients as `orders` gives them, no more degrees than the grid holds."""
        shape = self.check_shape(shape)
        with torch.autocast(c.device.type, enabled=False):
            legendre = _synthesis(self.grid, shape[0], c.shape[-1], c.device, c.dtype)
            waves = c.flatten(1, 3) @ legendre  # (orders, B C 2, latitudes)
            waves = torch.view_as_complex(waves.unflatten(1, c.shape[1:4]).permute(1, 2, 4, 0, 3).contiguous())
            if self.half_longitudes:
                waves = waves * _half_step(c.shape[0], shape[1], c.device, c.dtype)
            return torch.fft.irfft(waves, n=shape[1], norm="forward")

    def values(self, c: Tensor, points: Tensor, shape: Shape) -> Tensor:
        count = c.shape[-1]
        if points.requires_grad:
            raise ValueError(f"{self}: expected points without a gradient, which is not known here; detach them.")
        if points.shape[1] > (most := max(1, 2**24 // count**2)):  # the Legendre functions of each take count^2 numbers
            return torch.cat([self.values(c, part, shape) for part in points.split(most, dim=1)], dim=-1)
        legendre = _legendre(count, points[0].double().cos()).to(c)  # (orders, degrees, P)
        phase = torch.arange(count, device=c.device, dtype=c.dtype)[:, None] * points[1]
        cosines = torch.einsum("bclm,mlp->bcmp", c.tril(), legendre)
        sines = torch.einsum("bcml,mlp->bcmp", _shifted_down(c.triu(1)), legendre)
        return (cosines * phase.cos() + sines * phase.sin()).sum(2)

    def trace(self, f: Callable[[Tensor], Tensor]) -> float:
        return check_trace(degree_sum(f))

    @staticmethod
    def _degree(count: int) -> Tensor:
        """max(i, j) of a square."""
        degree = torch.arange(count)
        return torch.maximum(degree[:, None], degree)


def _shifted_up(c: Tensor) -> Tensor:
    """Rows m to m - 1."""
    return torch.nn.functional.pad(c[..., 1:, :], (0, 0, 0, 1))


def _shifted_down(c: Tensor) -> Tensor:
    """Rows m - 1 to m."""
    return torch.nn.functional.pad(c[..., :-1, :], (0, 0, 1, 0))


@cached
def _quadrature(grid: str, latitudes: int) -> tuple[Tensor, Tensor]:
    """Colatitudes from the north, and the share of the sphere's area that each row stands for; float64."""
    if grid == "cell-centred":  # Fejer's first rule, exact for polynomials in cos(theta) of degree below `latitudes`
        theta = (torch.arange(latitudes, dtype=torch.float64) + 0.5) * (math.pi / latitudes)
        k = torch.arange(1, latitudes // 2 + 1, dtype=torch.float64)
        ripple = (2 * k * theta[:, None]).cos() / (4 * k.square() - 1)
        return theta, (1 - 2 * ripple.sum(1)) / latitudes
    theta, weights = harmonics("quadrature").precompute_latitudes(latitudes, grid=grid)
    return theta.double(), weights.double() / 2


@cached
def _half_step(count: int, longitudes: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """exp(i pi m / longitudes) for orders m < count: half a step to the east."""
    angle = torch.arange(count, dtype=torch.float64) * (math.pi / longitudes)
    return torch.complex(angle.cos(), angle.sin()).to(
        device, torch.complex128 if dtype == torch.float64 else torch.complex64
    )


def _legendre(count: int, x: Tensor) -> Tensor:
    """(orders, degrees, points): sqrt(2) P_lm(x), and P_l0(x), of mean square one over the sphere; float64."""
    legendre = harmonics("legendre").legpoly(count, count, x, csphase=False) * math.sqrt(8 * math.pi)
    legendre[0] /= math.sqrt(2)
    return legendre


@cached
def _analysis(grid: str, latitudes: int, count: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(orders, latitudes, degrees)."""
    theta, weights = _quadrature(grid, latitudes)
    return (_legendre(count, theta.cos()) * weights).transpose(1, 2).to(device=device, dtype=dtype).contiguous()


@cached
def _synthesis(grid: str, latitudes: int, count: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(orders, degrees, latitudes), halved but for order 0, as a real transform counts those twice."""
    legendre = _legendre(count, _quadrature(grid, latitudes)[0].cos()) / 2
    legendre[0] *= 2
    return legendre.to(device=device, dtype=dtype).contiguous()


GLOBES = tuple(Sphere(grid, half) for grid in GRIDS for half in (False, True))
"""All globes."""
