"""Arrays on latitudes and longitudes, as files have them, and the sphere's grids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fnodiff.domain import Shape, Sphere
from fnodiff.domain.sphere import GRIDS
from fnodiff.expected import kinds_checked

_TOLERANCE = 0.02
"""How far a coordinate may be from its place, in spacings: files round theirs."""


@kinds_checked
class LatLon:
    """How arrays on these coordinates become fields on a `Sphere`: rows from north to south, columns east from longitude 0.

    Args:
        latitudes: In degrees, from either pole to the other.
        longitudes: In degrees, equally spaced around the globe, east or west, from anywhere (0, -180, ..); the first may be
            repeated at the end.

    Attributes:
        domain: `Sphere("equiangular")` for latitudes from pole to pole, `Sphere("cell-centred")` for centres of equal steps,
            `Sphere()` for Gaussian ones; with `half_longitudes=True` if longitudes are centres of cells that begin at 0.
        shape: Of the fields, (latitudes, longitudes).

    Raises:
        ValueError: If the coordinates are not those of such a grid.

    Examples:
        >>> import torch
        >>> from fnodiff.data import LatLon
        >>> globe = LatLon(latitudes=[-90, 0, 90], longitudes=[-180, -90, 0, 90])
        >>> globe(torch.arange(12.0).reshape(3, 4))  # from the north, from longitude 0
        tensor([[10., 11.,  8.,  9.],
                [ 6.,  7.,  4.,  5.],
                [ 2.,  3.,  0.,  1.]])
    """

    def __init__(self, latitudes: Sequence[float] | Tensor, longitudes: Sequence[float] | Tensor) -> None:
        lat, lon = (np.asarray(v, dtype=np.float64).squeeze() for v in (latitudes, longitudes))
        if lat.ndim != 1 or lon.ndim != 1 or min(len(lat), len(lon)) < 2 or not np.isfinite([*lat, *lon]).all():
            raise ValueError(
                f"LatLon: expected finite latitudes and longitudes, two or more of each, got arrays of shape {lat.shape} and "
                f"{lon.shape}; of coordinates given for every point of the grid, pass one column and one row."
            )
        self._flipped = bool(lat[0] < lat[-1])
        grid = _grid(lat[::-1] if self._flipped else lat)
        self._raw = len(lat), len(lon)
        self._columns, self._repeated, half = _columns(lon)
        self._turned = self._columns.tolist() != list(range(len(lon)))
        self.domain = Sphere(grid, half)
        self.shape: Shape = (len(lat), len(self._columns))

    def __call__(self, x: Tensor) -> Tensor:
        """Arrays (.., latitudes, longitudes) or (.., longitudes, latitudes) as fields (.., *shape).

        Where there are as many of both, the first is meant.

        Raises:
            ValueError: If they are of another shape, or the repeated meridian has other values than the first.
        """
        if x.ndim < 2 or sorted(x.shape[-2:]) != sorted(self._raw):
            raise ValueError(
                f"LatLon: expected arrays with {self._raw[0]} latitudes and {self._raw[1]} longitudes as last axes, in either "
                f"order, got {tuple(x.shape)}."
            )
        if tuple(x.shape[-2:]) != self._raw:
            x = x.transpose(-1, -2)
        if self._repeated and not torch.allclose(
            x[..., 0], x[..., -1], rtol=1e-3, atol=1e-3 * _size(x), equal_nan=True
        ):
            raise ValueError(
                "LatLon: expected the same values on the first meridian and where it is repeated, got others; are the "
                "longitudes right?"
            )
        if self._turned:
            x = x[..., torch.from_numpy(self._columns)]
        return x.flip(-2) if self._flipped else x


def _size(x: Tensor) -> float:
    """The largest absolute value."""
    return float(x.nan_to_num().abs().max())


def _grid(latitudes: np.ndarray) -> str:
    """The sphere's grid whose rows these are, from north to south."""
    count = len(latitudes)
    for grid in GRIDS:
        rows = 90 - np.degrees(Sphere(grid).points((count, 2), dtype=torch.float64)[0, :, 0].numpy())
        if np.abs(rows - latitudes).max() < _TOLERANCE * 180 / count:
            return grid
    raise ValueError(
        f"LatLon: expected {count} latitudes from pole to pole in steps of {180 / (count - 1):g} degrees, the centres of "
        f"{count} equal steps, or the Gaussian ones, got {latitudes[0]:g}, {latitudes[1]:g} .. {latitudes[-1]:g}; "
        f"interpolate to one of these first, such as by xesmf or cdo, or for a part of the globe take Box(2) as its domain."
    )


def _columns(longitudes: np.ndarray) -> tuple[np.ndarray, bool, bool]:
    """The columns in the order of longitudes from 0, whether one was repeated, and whether they are centres of cells."""
    count = len(longitudes)
    first, last = longitudes[0] % 360, longitudes[-1] % 360
    apart = min(abs(first - last), 360 - abs(first - last))
    repeated = bool(apart < _TOLERANCE * 360 / count)
    kept = count - repeated
    spacing = 360 / kept
    ahead = ((longitudes[:kept] - longitudes[0]) / spacing + 0.5) % kept - 0.5  # in steps from the first, east
    steps = np.arange(kept)
    east, west = (np.abs(ahead - way).max() for way in (steps, -steps % kept))
    if kept < 2 or min(east, west) > _TOLERANCE * 2:
        raise ValueError(
            f"LatLon: expected longitudes around the globe in equal steps of {spacing:g} degrees, got {longitudes[0]:g}, "
            f"{longitudes[1]:g} .. {longitudes[-1]:g}, up to {spacing * min(east, west):.3g} degrees off; for a part of "
            f"the globe take Box(2) as its domain."
        )
    place = (longitudes[:kept] % 360) / spacing
    half = bool(np.abs(place - np.floor(place) - 0.5).max() < _TOLERANCE)
    place = place - half / 2
    if np.abs(place - place.round()).max() > _TOLERANCE:
        raise ValueError(
            f"LatLon: expected a longitude 0, or one half a step of {spacing:g} from there, got "
            f"{np.sort(longitudes % 360)[0]:g} as the first east of it; count longitudes from there, which turns the globe, "
            f"those of stations too."
        )
    order = np.empty(kept, dtype=np.int64)
    order[place.round().astype(np.int64) % kept] = np.arange(kept)
    return order, repeated, half
