"""xarray's datasets, and the labelled files that it opens, as sources of fields."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from fnodiff.data.arrays import ArrayFields
from fnodiff.data.chunks import Chunks
from fnodiff.data.frame import Frame, frame, is_time, level_names
from fnodiff.data.labelled import VariableRows, open_labelled, require
from fnodiff.data.rows import JoinedRows, Layout, layout
from fnodiff.data.source import numbers_together
from fnodiff.domain import Domain, Sphere
from fnodiff.expected import kinds_checked

if TYPE_CHECKING:
    import xarray


@kinds_checked
def from_xarray(
    dataset: xarray.Dataset | xarray.DataArray | str | os.PathLike[str],
    variables: str | Sequence[str] | None = None,
    domain: Domain | None = None,
    *,
    time: str | Sequence[str] | slice | None = None,
    latitude: str | None = None,
    longitude: str | None = None,
    field: str | Sequence[str] | None = None,
    label: str | None = None,
    condition: str | Sequence[str] | None = None,
    mask: str | Tensor | np.ndarray | None = None,
    channel_axis: int | None = None,
    chunks: Chunks | None = None,
) -> ArrayFields:
    """A source of fields from variables of an xarray dataset, or of a file that xarray opens.

    Each variable is a channel, or several if it has levels; `channel_names` and `units` of the source say which. Dimensions
    are taken in any order. Those of time and of an ensemble count samples. Latitudes and longitudes around the globe make
    `Sphere` fields, from north to south and east from longitude 0, however the file has them. Other grids need their domain:
    `Box`, as for a part of the globe, or `Torus`. Their coordinates have equal steps, and falling ones are turned around.

    Missing values are left out: NaN, what xarray decodes as missing, and what lies outside of valid_range, valid_min and
    valid_max. Data are read when a batch asks for them, once more at construction to see what is missing. Many small
    batches of a compressed file are slow: keep it with `InMemory`, write it with `write_fields`, or if it is larger than
    memory read it chunk by chunk, `chunks=Chunks()`.

    Args:
        dataset: A dataset or an array of xarray, or the path of a file.
        variables: Names, in the order of the channels; "group/name" in a file's group. May be left out if there is only one.
        domain: What the fields are functions on. None for the globe.
        time: The dimensions that count samples, by name; other ones are then channels or the grid. Or a slice, which selects
            times: slice("1990", "2000") of a dataset whose times are decoded. By default those of time and ensemble.
        latitude, longitude: Names of the coordinates, where they cannot be recognised.
        field, label, mask: Variables that the samples are conditioned on, labels, and one that is 1 where x was measured, which
            may be an array too.
        condition: Variables of numbers that condition the samples, one or several for each, along the dimensions that count
            samples or some of them: a coordinate such as a lead time too.
        channel_axis: As of `ArrayFields`, in a file without named dimensions.
        chunks: Read whole chunks, and epochs chunk by chunk.

    Raises:
        ValueError: If names are missing, dimensions cannot be told apart, coordinates are not those of a grid, or as of
            `ArrayFields`.
        ImportError: If xarray is not installed, or what opens the file: pip install fnodiff[xarray].

    Examples:
        >>> import numpy as np
        >>> import xarray
        >>> from fnodiff.data import from_xarray
        >>> temperature = xarray.DataArray(
        ...     np.arange(24.0).reshape(2, 3, 4),
        ...     {"lat": [-90, 0, 90], "lon": [-180, -90, 0, 90]},
        ...     ["time", "lat", "lon"],
        ...     "t",
        ...     {"units": "K"},
        ... )
        >>> fields = from_xarray(temperature)
        >>> fields, fields.domain, fields.channel_names, fields.units
        (ArrayFields: 2 samples, 1 channels, up to 3 x 4, Sphere(grid='equiangular'), ('t',), ('K',))
    """
    require("xarray")
    if hasattr(dataset, "to_dataset") and not hasattr(dataset, "data_vars"):
        name = str(dataset.name) if dataset.name is not None else "x"
        dataset, variables = dataset.rename(name).to_dataset(), name if variables is None else variables
    if not hasattr(dataset, "data_vars") and not isinstance(dataset, str | os.PathLike):
        raise ValueError(
            f"from_xarray: expected a dataset or an array of xarray, or a path, got {type(dataset).__name__}; for plain "
            f"arrays write ArrayFields(x, domain=Box(2))."
        )
    file = _File(dataset)
    names = file.names(variables)
    if isinstance(time, slice):
        file, time = file.during(time, names[0]), None
    given = {"latitude": latitude, "longitude": longitude}
    given = {kind: file[name] for kind, name in given.items() if name is not None}
    found = frame([file[name] for name in names], domain, [time] if isinstance(time, str) else time, given)
    x = _joined(file, names, found, domain, channel_axis)
    extra: dict[str, Any] = {}
    if field is not None:
        fields = [field] if isinstance(field, str) else list(field)
        extra["field"] = _joined(file, fields, found, domain, channel_axis)
    if label is not None:
        extra["label"] = _whole(file, label, found, False)
    if condition is not None:
        conditions = [condition] if isinstance(condition, str) else list(condition)
        extra |= numbers_together("from_xarray", {name: _whole(file, name, found, False) for name in conditions})
    if isinstance(mask, str):
        there = _whole(file, mask, found, True)
        extra["mask"] = there.nan_to_num() if there.is_floating_point() else there
    elif mask is not None:
        extra["mask"] = mask
    if found.place is not None:
        extra["latitudes"], extra["longitudes"] = found.place
    return ArrayFields(x, domain=domain, channel_axis=channel_axis, chunks=chunks, **extra)


class _File:
    """A dataset, or a file and its groups."""

    def __init__(self, dataset: xarray.Dataset | str | os.PathLike[str]) -> None:
        self.path = None if hasattr(dataset, "data_vars") else os.fspath(dataset)
        self._open = {"": dataset} if self.path is None else {}

    def group(self, name: str) -> xarray.Dataset:
        """The dataset of a group, "" the root's."""
        if name not in self._open:
            found = open_labelled(self.path, name or None)
            above = self.group("").coords if name else {}  # which netCDF's groups inherit
            own = {d: above[d] for d in found.sizes if d in above and d not in found.coords and above[d].ndim == 1}
            self._open[name] = found.assign_coords({d: v for d, v in own.items() if v.size == found.sizes[d]})
        return self._open[name]

    def names(self, given: str | Sequence[str] | None) -> list[str]:
        """The variables that are asked for, or the only one there is."""
        if given is None:
            group = self.group("")
            bounds = {
                v.attrs.get(key) or v.encoding.get(key)
                for v in group.coords.values()
                for key in ("bounds", "climatology")
            }
            data = {str(k): v for k, v in group.data_vars.items() if k not in bounds}  # CF's cell bounds are none
            given = [k for k, v in data.items() if v.ndim > 1 and v.dtype.kind in "biuf"]
            if len(given) != 1:
                got = f"{given or 'none'}" + (f" in {self.path}" if self.path else "")
                raise ValueError(f"from_xarray: expected x, names of variables, as there are {got}; name them.")
        names = [given] if isinstance(given, str) else list(given)
        if not names or len(set(names)) < len(names):
            raise ValueError(f"from_xarray: expected different names of variables, got {names}; name each once.")
        return names

    def __getitem__(self, name: str) -> xarray.DataArray:
        group, _, last = str(name).rpartition("/") if self.path is not None else ("", "", name)
        dataset = self.group(group)
        if last not in dataset.variables:
            found = ", ".join(f"{k} {v.shape}" for k, v in dataset.variables.items()) or "none"
            where = "" if self.path is None else f" in {self.path}"
            raise ValueError(f"from_xarray: expected a variable {name}{where}, which has {found}; name one of these.")
        found = dataset[last]
        if found.dtype.kind not in "biuf":
            hint = "open the file with decode_timedelta=False" if found.dtype.kind == "m" else "convert it"
            raise ValueError(f"from_xarray: expected real numbers, got {name} of type {found.dtype}; {hint}.")
        return found

    def during(self, time: slice, name: str) -> _File:
        """The times within a slice."""
        from xarray import decode_cf

        dataset = self.group("") if self.path is None else decode_cf(self.group(""), mask_and_scale=False)
        found = [d for d in dataset[name].dims if is_time(dataset[name], d) and d in dataset.coords]
        if len(found) != 1:
            raise ValueError(
                f"from_xarray: expected one dimension of time with its coordinate, got {found} of {dataset[name].dims}; select "
                f"with xarray first."
            )
        return _File(dataset.sel({found[0]: time}))

    def source(self, name: str) -> tuple[str, str] | None:
        """Where a variable can be opened again."""
        return None if self.path is None else (self.path, name)


def _joined(
    file: _File, names: Sequence[str], found: Frame, domain: Domain | None, channel_axis: int | None
) -> JoinedRows:
    """The variables as channels, with their names and units."""
    parts, called, units = [], [], []
    for name in names:
        array = file[name]
        if not found.grid:  # nothing names the dimensions
            samples, rest = {array.dims[0]: array.shape[0]}, array.dims[1:]
            made = layout(name, array.shape, domain or Sphere(), channel_axis, found.place is not None)
        else:
            samples, rest = found.samples, _rest(array, name, found)
            made = Layout((math.prod(samples.values()), *(array.sizes[d] for d in rest)), len(found.grid), False)
        parts.append(VariableRows(array.variable, samples, rest, found.flipped, made, file.source(name)))
        own = parts[-1].shape[1]
        levels = rest[: len(rest) - len(found.grid)] if found.grid else ()
        labels = level_names(array, levels) if levels else list(map(str, range(own)))
        called += [name] if own == 1 and not levels else [f"{name}[{label}]" for label in labels]
        units += [array.attrs.get("units")] * own
    return JoinedRows(parts, tuple(called), tuple(units), found.axes)


def _rest(array: xarray.DataArray, name: str, found: Frame) -> tuple[str, ...]:
    """The dimensions of a variable that do not count samples: channels, then the grid."""
    missing = [d for d in found.grid if d not in array.dims]
    wrong = {d: array.sizes[d] for d, n in found.samples.items() if array.sizes.get(d, n) != n}
    if missing or wrong:
        raise ValueError(
            f"from_xarray: expected {name} on the grid {found.grid} with samples {found.samples}, got {dict(array.sizes)}; "
            f"read it apart, or align it first."
        )
    return (*(d for d in array.dims if d not in found.samples and d not in found.grid), *found.grid)


def _whole(file: _File, name: str, found: Frame, spatial: bool) -> Tensor:
    """A mask, labels or numbers of all samples; of a mask without dimensions that count them, the one of all."""
    array = file[name]
    if not found.grid:
        return VariableRows(array.variable, {}, array.dims, ())[[0]][0]
    rest = _rest(array, name, found) if spatial else tuple(d for d in array.dims if d not in found.samples)
    if not spatial and (len(rest) > 1 or len(rest) == array.ndim):
        raise ValueError(
            f"from_xarray: expected {name}, one or a row for each sample, along {list(found.samples)}, got {array.dims}; name "
            f"another."
        )
    rows = VariableRows(array.variable, found.samples, rest, found.flipped)
    shared = not any(d in found.samples for d in array.dims)
    return rows[[0]][0] if shared else rows[[*range(math.prod(found.samples.values()))]]
