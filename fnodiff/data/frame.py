"""What the dimensions of a labelled array mean: which count samples, which are the grid, which are channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fnodiff.data.rows import Axis
from fnodiff.domain import Domain
from fnodiff.domain.sphere import GLOBES

if TYPE_CHECKING:
    import xarray

TIMES = ("time", "t", "valid_time", "forecast_time", "reftime", "date", "step", "snapshot", "month", "year", "day")
MEMBERS = (
    "sample",
    "samples",
    "member",
    "members",
    "ens",
    "ensemble",
    "number",
    "realization",
    "realisation",
    "batch",
    "run",
)
LEVELS = (
    "lev",
    "level",
    "levels",
    "plev",
    "pressure_level",
    "isobaricinhpa",
    "pressure",
    "height",
    "altitude",
    "depth",
)
LEVELS += ("model_level_number", "hybrid", "channel", "channels", "component", "band", "variable", "field_channel")
NAMES = {
    "latitude": ("lat", "lats", "latitude", "nav_lat", "xlat"),
    "longitude": ("lon", "lons", "longitude", "nav_lon"),
}
UNITS = {
    "latitude": ("degrees_north", "degree_north", "degrees_n"),
    "longitude": ("degrees_east", "degree_east", "degrees_e"),
}
EQUAL = 0.02
"""How far a coordinate may be from its place, in spacings: files round theirs."""


@dataclass
class Frame:
    """The dimensions of some variables.

    Attributes:
        samples: Those that count samples, and how long they are.
        grid: Those of the grid, in order; empty if nothing names them, and their places say what they are.
        flipped: Those of the grid whose coordinates decrease.
        place: Latitudes and longitudes in degrees, of fields on the globe.
        axes: The grid's axes in the file's units, of other fields, if the file has them.
    """

    samples: dict[str, int]
    grid: tuple[str, ...]
    flipped: tuple[str, ...] = ()
    place: tuple[np.ndarray, np.ndarray] | None = None
    axes: tuple[Axis, ...] | None = None


def frame(
    arrays: Sequence[xarray.DataArray],
    domain: Domain | None,
    time: Sequence[str] | None,
    given: Mapping[str, xarray.DataArray],
) -> Frame:
    """The frame of these variables; `given` are the coordinates "latitude" and "longitude", where they are named.

    Raises:
        ValueError: If the dimensions cannot be told apart, or coordinates are not those of a grid.
    """
    first = arrays[0]
    sizes = {dim: array.sizes[dim] for array in arrays for dim in array.dims}
    found = {kind: _degrees(first, kind, given.get(kind)) for kind in NAMES}
    globe = domain is None or domain in GLOBES
    if globe and None in found.values():
        raise ValueError(
            f"from_xarray: expected latitudes and longitudes along two of the dimensions {first.dims}, found none; name them "
            f"with latitude= and longitude=, or pass the domain of another grid, such as domain=Box(2)."
        )
    place = tuple(found[kind][1] for kind in NAMES) if globe else None
    if time is None and all(str(dim).startswith("phony_dim") for dim in sizes):
        return Frame({}, (), (), place)
    unknown = [dim for dim in time or () if dim not in sizes]
    if unknown:
        raise ValueError(
            f"from_xarray: expected time among the dimensions {dict(sizes)}, got {unknown}; name one of these."
        )
    lines = tuple(found[kind][0] for kind in NAMES if found[kind] is not None)
    counted = [dim for dim in sizes if dim in time] if time is not None else [d for d in sizes if _counts(first, d)]
    rest = [dim for dim in sizes if dim not in counted]
    dim = 2 if domain is None else domain.dim
    if dim == 2 and len(set(lines)) == 2 and set(lines) <= set(rest):
        grid = lines
    elif len(rest) > dim and time is not None:
        grid = tuple(rest[-dim:])
    else:
        grid = tuple(rest) if len(rest) <= dim else tuple(d for d in rest if not _is_level(first, d))
    if len(grid) != dim:
        raise ValueError(
            f"from_xarray: expected {dim} dimensions of the grid, got {list(grid)} of {dict(sizes)}; name those that count "
            f"samples with time=, select from the others with xarray, or pass the domain of the grid's dimension."
        )
    if time is None:  # what is neither the grid nor levels are kinds of samples too
        counted += [d for d in rest if d not in grid and not _is_level(first, d)]
    samples = {d: sizes[d] for d in sizes if d in counted}
    if globe:
        return Frame(samples, grid, (), place)
    axes, turned = zip(*(_axis(first, d, domain.periodic[i]) for i, d in enumerate(grid)), strict=True)
    flipped = tuple(d for d, backwards in zip(grid, turned, strict=True) if backwards)
    return Frame(samples, grid, flipped, None, None if None in axes else axes)


def level_names(array: xarray.DataArray, channels: Sequence[str]) -> list[str]:
    """Names of the channels that the dimensions of levels make: their coordinates, or numbers."""
    found = [""]
    for dim in channels:
        values = array[dim].values if dim in array.coords and array[dim].ndim == 1 else np.arange(array.sizes[dim])
        found = [f"{before},{_short(value)}".lstrip(",") for before in found for value in values]
    return found


def is_time(array: xarray.DataArray, dim: str) -> bool:
    """Whether a dimension is one of time."""
    coordinate = array.coords.get(dim)
    attributes = {} if coordinate is None else coordinate.attrs
    dated = coordinate is not None and (coordinate.dtype.kind in "mM" or "since" in str(attributes.get("units", "")))
    named = attributes.get("standard_name") == "time" or attributes.get("axis") == "T"
    return dated or named or str(dim).lower() in TIMES


def _counts(array: xarray.DataArray, dim: str) -> bool:
    """Whether a dimension counts samples: of time, or of an ensemble."""
    coordinate = array.coords.get(dim)
    member = coordinate is not None and coordinate.attrs.get("standard_name") == "realization"
    return member or is_time(array, dim) or str(dim).lower() in MEMBERS


def _is_level(array: xarray.DataArray, dim: str) -> bool:
    coordinate = array.coords.get(dim)
    attributes = {} if coordinate is None else coordinate.attrs
    return attributes.get("axis") == "Z" or "positive" in attributes or str(dim).lower() in LEVELS


def _short(value: Any) -> str:
    return f"{value:g}" if np.asarray(value).dtype.kind in "iuf" else str(value)


def _degrees(array: xarray.DataArray, kind: str, given: xarray.DataArray | None) -> tuple[str, np.ndarray] | None:
    """The dimension along which a variable has its latitudes or longitudes, and these in degrees."""
    candidates = list(array.coords.values()) if given is None else [given]
    for coordinate in candidates if given is not None else sorted(candidates, key=lambda c: c.ndim):
        if given is None and not _is(coordinate, kind):
            continue
        values, dims = coordinate, coordinate.dims
        if coordinate.ndim == 2:  # given for every point: one line of them, if all are alike
            across = dims[1] if kind == "latitude" else dims[0]
            values = coordinate.isel({across: 0})
            if not np.allclose(coordinate.transpose(..., across).values, values.values[:, None], atol=1e-3):
                continue
            dims = values.dims
        if len(dims) != 1 or (given is None and (dims[0] not in array.dims or coordinate.size < 2)):
            continue
        degrees = np.asarray(values.values, dtype=np.float64)
        return str(dims[0]), np.degrees(degrees) if str(coordinate.attrs.get("units", "")).startswith(
            "rad"
        ) else degrees
    if given is not None:
        raise ValueError(
            f"from_xarray: expected {kind}s along one dimension, or alike along the other, got {given.name} of {given.dims}; "
            f"interpolate to a grid of latitudes and longitudes first."
        )
    return None


def _is(coordinate: xarray.DataArray, kind: str) -> bool:
    standard, units = coordinate.attrs.get("standard_name"), str(coordinate.attrs.get("units", "")).lower()
    if standard is not None and standard in ("grid_latitude", "grid_longitude"):  # of a turned pole
        return False
    return standard == kind or units in UNITS[kind] or str(coordinate.name).lower() in NAMES[kind]


def _axis(array: xarray.DataArray, dim: str, periodic: bool) -> tuple[Axis | None, bool]:
    """An axis of a box or a torus in the file's units, and whether it lies backwards; None without coordinates."""
    coordinate = array.coords.get(dim)
    if coordinate is None or coordinate.ndim != 1 or coordinate.dtype.kind not in "iuf" or coordinate.size < 2:
        return None, False
    values = np.asarray(coordinate.values, dtype=np.float64)
    if _is(coordinate, "longitude"):
        values = np.unwrap(values, period=360.0)
    steps = np.diff(values)
    if not np.isfinite(values).all() or np.abs(steps - steps.mean()).max() > EQUAL * abs(steps.mean()):
        raise ValueError(
            f"from_xarray: expected equal steps along {dim}, got {values[:3].tolist()} .. {values[-2:].tolist()}; interpolate "
            f"to a regular grid first, such as dataset.interp."
        )
    step, low = abs(float(steps.mean())), float(values.min())
    origin = low if periodic else low - step / 2  # points of a torus begin at its edge, a box has centres of cells
    kept = {k: v for k, v in coordinate.attrs.items() if k in ("units", "standard_name", "long_name")}
    return Axis(str(dim), origin, step * len(values), kept), bool(steps.mean() < 0)
