"""Labelled files and xarray: netCDF 3 and 4, Zarr, and HDF5 with netCDF's dimensions or packing.

xarray decodes the file: packing (scale_factor, add_offset, _Unsigned) and missing values (_FillValue, missing_value). The range
of valid values (valid_range, valid_min, valid_max), which it leaves alone, is applied here: what lies outside is missing.
It is in packed units, unless it is given as real numbers beside whole ones (NetCDF Users' Guide, attribute conventions).
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from torch import Tensor

from fnodiff.data.chunks import chunk_of
from fnodiff.data.rows import Layout, single
from fnodiff.data.source import reading
from fnodiff.domain import Shape, native

if TYPE_CHECKING:
    import xarray

SUFFIXES = (".nc", ".nc4", ".cdf", ".netcdf", ".zarr")
LABELS = ("DIMENSION_LIST", "_FillValue", "missing_value", "scale_factor", "add_offset", "_Unsigned")
LABELS += ("valid_range", "valid_min", "valid_max")
"""Attributes of an HDF5 data set by which it is a labelled one."""


def require(*packages: str) -> None:
    """ImportError that says what to install unless these packages are there."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"expected {' and '.join(missing)} for labelled files such as netCDF, got none; pip install fnodiff[xarray]."
        )


def open_labelled(path: str | os.PathLike[str], group: str | None = None) -> xarray.Dataset:
    """A labelled file as an xarray dataset, opened lazily; times stay numbers, and so do durations.

    Raises:
        ValueError: If the file is missing, damaged or of another kind.
        ImportError: If what reads it is not installed.
    """
    require("xarray")
    import xarray

    path, options = Path(path), {}
    if not path.exists():
        raise ValueError(f"open_labelled: expected a file or a Zarr folder, got {path}, which is not there.")
    if path.suffix.lower() == ".zarr" or path.is_dir():
        require("zarr")
        options["engine"] = "zarr"
    elif h5py.is_hdf5(path):
        with reading(path), h5py.File(path, "r") as file:
            file.visit(lambda _: None)  # what h5netcdf leaves half open prints a traceback of its own
        other = importlib.util.find_spec("h5netcdf") is None and importlib.util.find_spec("netCDF4") is not None
        require(*([] if other else ["h5netcdf"]))
        options |= {"engine": "netcdf4"} if other else {"engine": "h5netcdf", "phony_dims": "sort"}
    else:
        options["engine"] = "scipy"
    with reading(path if group is None else f"{path}, group {group},"):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "variable .* has multiple fill values")  # all of them are missing values
            warnings.filterwarnings("ignore", "The 'phony_dims' kwarg now defaults")
            return xarray.open_dataset(
                path, group=group, decode_times=False, decode_timedelta=False, cache=False, **options
            )


def open_variable(path: str | os.PathLike[str], name: str) -> xarray.DataArray:
    """A variable by its name, "group/name" for one in a group.

    Raises:
        ValueError: As of `open_labelled`, or if there is none.
    """
    group, _, last = name.rpartition("/")
    dataset = open_labelled(path, group or None)
    if last not in dataset.variables:
        found = ", ".join(f"{k} {v.shape}" for k, v in dataset.variables.items())
        raise ValueError(f"expected a variable {name} in {path}, which has {found or 'none'}.")
    return dataset[last]


def is_labelled(item: h5py.Dataset) -> bool:
    """Whether a data set of an HDF5 file is one of netCDF's kind, by its dimensions or its packing."""
    return any(name in item.attrs for name in LABELS)


@dataclass
class VariableRows:
    """A variable: some of its dimensions count samples, others channels, the last are the grid.

    Args:
        variable: As xarray has it.
        samples: The dimensions that count samples, and how long they are; the variable may lack some, and is then the same
            for all of them.
        rest: Its other dimensions, channels first, as they are read.
        flipped: Those of them that are read backwards.
        layout: How (N, *rest) become fields; None to leave them as they are.
        source: The file and the variable's name in it, if it is known: a forked process opens it for itself.
    """

    variable: Any
    samples: Mapping[str, int]
    rest: Sequence[str]
    flipped: Sequence[str]
    layout: Layout | None = None
    source: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        self._limits = valid_limits(self.variable)
        self.single = single(self.variable.dtype)
        self._process = os.getpid()

    @property
    def shape(self) -> Shape:
        return self.layout.fields

    @property
    def chunk(self) -> int:
        """How many samples in a row are stored together."""
        return chunk_of(self._opened(), self.samples)

    def __getstate__(self) -> dict[str, Any]:
        known = {"variable": None, "_process": None} if self.source is not None else {}
        return {**self.__dict__, **known}

    def __getitem__(self, rows: list[int]) -> Tensor:
        with reading("the variable" if self.source is None else self.source[0]):
            return self._read(rows)

    def _read(self, rows: list[int]) -> Tensor:
        variable = self._opened()
        sizes = list(self.samples.values())
        places = dict(zip(self.samples, np.unravel_index(rows, sizes) if sizes else (), strict=True))
        own = {dim: place for dim, place in places.items() if dim in variable.dims}
        if len(own) > 1:
            from xarray import Variable

            values = variable.isel({dim: Variable(("row",), place) for dim, place in own.items()})
            values = _in_order(values, "row", *self.rest)
        elif own:
            ((dim, place),) = own.items()
            needed, back = np.unique(place, return_inverse=True)  # each is read once, in the file's order
            run = len(needed) and needed[-1] - needed[0] + 1 == len(needed)
            index = slice(int(needed[0]), int(needed[-1]) + 1) if run else needed
            values = _in_order(variable.isel({dim: index}), dim, *self.rest)[back]
        else:
            values = _in_order(variable, *self.rest)
            values = np.broadcast_to(values, (len(rows), *values.shape))
        turned = [axis + 1 for axis, dim in enumerate(self.rest) if dim in self.flipped]
        values = native(within(np.flip(values, turned), self._limits))
        return values if self.layout is None else self.layout(values)

    def _opened(self) -> Any:
        if self.source is not None and self._process != os.getpid():
            self.variable, self._process = open_variable(*self.source).variable, os.getpid()
        return self.variable


def _in_order(variable: Any, *dims: str) -> np.ndarray:
    """A variable's values along these dimensions. (What xarray transposes before it reads, it reads point by point.)"""
    return variable.values.transpose([variable.dims.index(dim) for dim in dims])


def valid_limits(variable: Any) -> tuple[float, float] | None:
    """The least and the largest valid value of a decoded variable, in unpacked units; None if it names neither."""
    attributes, encoding = variable.attrs, variable.encoding
    ends = attributes.get("valid_min"), attributes.get("valid_max")
    if "valid_range" in attributes:
        ends = tuple(np.asarray(attributes["valid_range"]).reshape(-1)[[0, -1]])
    if ends == (None, None):
        return None
    limits = [
        np.asarray(side if end is None else end).reshape(-1)[0]
        for end, side in zip(ends, (-np.inf, np.inf), strict=True)
    ]
    whole = np.dtype(encoding.get("dtype", variable.dtype)).kind in "iu"
    defaults = {"scale_factor": 1.0, "add_offset": 0.0}
    scale, offset = (float(np.asarray(encoding.get(k, v)).reshape(-1)[0]) for k, v in defaults.items())
    if whole and all(limit.dtype.kind == "f" for limit, end in zip(limits, ends, strict=True) if end is not None):
        low, high = map(float, limits)  # real numbers beside whole ones are meant unpacked
    else:
        unsigned = str(encoding.get("_Unsigned", "false")).lower() == "true"
        wrapped = (2.0 ** (8 * v.dtype.itemsize) if unsigned and v.dtype.kind == "i" and v < 0 else 0.0 for v in limits)
        low, high = sorted((float(v) + wrap) * scale + offset for v, wrap in zip(limits, wrapped, strict=True))
    if whole:  # a hundredth of a step, for rounding
        return low - 0.01 * abs(scale), high + 0.01 * abs(scale)
    return tuple(float(np.asarray(v, dtype=variable.dtype)) for v in (low, high))


def within(values: np.ndarray, limits: tuple[float, float] | None) -> np.ndarray:
    """The values, NaN where they lie outside of the limits."""
    if limits is None:
        return values
    outside = (values < limits[0]) | (values > limits[1])
    if not outside.any():
        return values
    return np.where(outside, np.nan, values.astype(np.result_type(values.dtype, np.float32)))


def read_variable(path: str | os.PathLike[str], name: str) -> np.ndarray:
    """All of a variable, NaN where it is missing."""
    variable = open_variable(path, name).variable
    return within(variable.values, valid_limits(variable))


def variables(path: str | os.PathLike[str]) -> dict[str, Shape]:
    """The names and shapes of the numeric variables of a labelled file, those of its groups too."""
    found: dict[str, Shape] = {}
    for group in groups(path):
        for name, variable in open_labelled(path, group or None).variables.items():
            if variable.dtype.kind in "biuf":
                found[f"{group}/{name}" if group else str(name)] = variable.shape
    return found


def groups(path: str | os.PathLike[str]) -> Iterable[str]:
    """The groups of a file, the root as ""."""
    found = [""]
    if Path(path).is_file() and h5py.is_hdf5(path):
        with reading(path), h5py.File(path, "r") as file:
            file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Group) else None)
    return found
