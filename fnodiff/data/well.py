"""The Well's files as sources of fields.

The layout (Ohana et al., 2024, "The Well: a Large-Scale Collection of Diverse Physics Simulations for Machine Learning"): HDF5
files of trajectories, with groups t0_fields, t1_fields and t2_fields of scalars (trajectory, time, *grid), vectors
(.., d) and tensors (.., d, d), of which some do not vary in all of these; dimensions, boundary_conditions and scalars; and the
simulation's parameters as attributes.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from torch import Tensor

from fnodiff.data.arrays import ArrayFields
from fnodiff.data.chunks import Chunks, run
from fnodiff.data.frame import EQUAL
from fnodiff.data.handle import Handle
from fnodiff.data.rows import Axis, ChainedRows, JoinedRows, single
from fnodiff.data.source import reading
from fnodiff.domain import Box, Domain, Product, Shape, Torus, native
from fnodiff.domain.sphere import GLOBES

ORDERS = ("t0_fields", "t1_fields", "t2_fields")


def from_well(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    fields: str | Sequence[str] | None = None,
    domain: Domain | None = None,
    *,
    field: str | Sequence[str] | None = None,
    condition: str | Sequence[str] | None = None,
    time: slice | None = None,
    chunks: Chunks | None = None,
) -> ArrayFields:
    """A source of fields from files in the layout of The Well: every time of every trajectory is a sample.

    A vector's components are channels, and a tensor's: of a symmetric one those on and above the diagonal, of an antisymmetric
    one those above. `channel_names` of the source says which: density, velocity_x, velocity_y. Data are read when a batch asks
    for them, once more at construction to see what is missing; `chunks` is for what is larger than memory.

    The domain is that of the file: periodic along axes whose boundary condition is, with walls along others, open boundaries
    too; its lengths are those of the coordinates. On spherical grids of two axes, colatitude theta and longitude phi in
    radians, fields are on `Sphere`.

    Args:
        path: A file, several, or a folder of some, such as data/train.
        fields: Names as in the files, in the order of the channels; all that vary in time by default.
        domain: What the fields are functions on, instead of the files'.
        field: Names of those that the samples are conditioned on, such as a permeability that does not vary in time.
        condition: Names of the simulation's parameters, or of the scalars, which condition the samples; "time" is the
            time of a sample.
        time: Which times: slice(0, None, 10).
        chunks: Read whole chunks, and epochs chunk by chunk.

    Raises:
        ValueError: If there is no file, one is of another layout, names are missing, or the coordinates are not of equal steps.

    Examples:
        >>> from fnodiff.data import from_well
        >>> fields = from_well("active_matter/data/train", ["velocity"], condition=["alpha", "zeta"])  # doctest: +SKIP
        >>> fields.domain, fields.channel_names  # doctest: +SKIP
        (Torus(dim=2, lengths=(10.0, 10.0)), ('velocity_x', 'velocity_y'))
    """
    files = [_Well(file, time) for file in _files(path)]
    names = files[0].varying() if fields is None else _list(fields)
    x = ChainedRows([file.rows(names) for file in files])
    extra: dict[str, Any] = {}
    if (domain is None or domain in GLOBES) and (place := files[0].place()) is not None:
        extra["latitudes"], extra["longitudes"] = place
    elif domain is None:
        domain = files[0].domain()
    if field is not None:
        extra["field"] = ChainedRows([file.rows(_list(field)) for file in files])
    if condition is not None:
        extra["condition"] = np.concatenate([file.numbers(_list(condition)) for file in files])
        extra["condition_names"] = _list(condition)
    return ArrayFields(x, domain=domain, chunks=chunks, **extra)


def in_layout(path: Path) -> bool:
    """Whether this is a file in the layout of The Well, or a folder whose first HDF5 file is."""
    first = next(iter(_inside(path)), path) if path.is_dir() else path
    if not first.is_file() or not h5py.is_hdf5(first):
        return False
    with reading(first), h5py.File(first, "r") as file:
        return {*ORDERS, "dimensions"} <= set(file)


@dataclass
class WellRows:
    """A field of one file: its times of its trajectories are samples, its components channels.

    Args:
        file, name: Where it lies, "t1_fields/velocity".
        count, times: How many trajectories, and which times of each.
        grid: All of it; the field may be the same along some axes.
        components: Which of a vector's (i,) or a tensor's (i, j).
    """

    file: Handle
    name: str
    count: int
    times: Sequence[int]
    grid: Shape
    components: list[tuple[int, ...]]

    def __post_init__(self) -> None:
        data = self._data()
        self.shape = (self.count * len(self.times), len(self.components), *self.grid)
        self.single = single(data.dtype)
        varying = bool(data.attrs["sample_varying"]), bool(data.attrs["time_varying"])
        stored = data.chunks or (1,) * data.ndim
        stored = [stored[sum(varying[:axis])] if varies else 1 for axis, varies in enumerate(varying)]
        self.chunk = run((self.count, len(self.times)), stored)

    def __getitem__(self, rows: list[int]) -> Tensor:
        data = self._data()
        sample, time = (bool(data.attrs[f"{kind}_varying"]) for kind in ("sample", "time"))
        trajectory, number = np.divmod(np.asarray(rows), len(self.times))
        number = np.asarray(self.times)[number]
        out = np.empty((len(rows), len(self.components), *self.grid), dtype=data.dtype)
        for one in np.unique(trajectory) if sample else [0]:
            own = np.flatnonzero(trajectory == one) if sample else np.arange(len(rows))
            needed, back = np.unique(number[own], return_inverse=True)  # each is read once, in the file's order
            apart = len(needed) and needed[-1] - needed[0] + 1 > len(needed)
            index = (needed if apart else slice(needed[0], needed[-1] + 1),) if time else ()
            values = data[(*([one] if sample else []), *index)]
            out[own] = self._fields(values[back] if time else values[None], data.attrs["dim_varying"])
        return native(out)

    def _data(self) -> h5py.Dataset:
        return self.file()[self.name]

    def _fields(self, values: np.ndarray, varies: Sequence[bool]) -> np.ndarray:
        """(B, *varying axes, *components) as (B, C, *grid)."""
        axes = 1 + int(np.sum(varies))
        parts = np.stack([values[(..., *one)] for one in self.components], axis=1)
        if parts.ndim != axes + 1:
            raise ValueError(f"{self.file.path}: expected {self.name} along {axes - 1} axes, got shape {values.shape}.")
        sizes = [n if varying else 1 for n, varying in zip(self.grid, varies, strict=True)]
        return np.broadcast_to(parts.reshape(*parts.shape[:2], *sizes), (*parts.shape[:2], *self.grid))


class _Well:
    """One file, and which times of it."""

    def __init__(self, path: Path, time: slice | None) -> None:
        self.file = Handle(path)
        if not h5py.is_hdf5(path) or not {*ORDERS, "dimensions"} <= set(self.file()):
            raise ValueError(
                f"from_well: expected groups {', '.join(ORDERS)} and dimensions, as The Well's files have, got {path}; read "
                f"others with ArrayFields.open."
            )
        file = self.file()
        self.dims = [_text(name) for name in file["dimensions"].attrs["spatial_dims"]]
        self.found = {name: order for order in ORDERS for name in file[order]}
        self.grid = tuple(file["dimensions"][name].shape[-1] for name in self.dims)
        self.count = int(file.attrs["n_trajectories"])
        self.times = range(file["dimensions/time"].shape[-1])[slice(None) if time is None else time]

    def varying(self) -> list[str]:
        """The fields that vary in time."""
        return [name for name, order in self.found.items() if self.file()[order][name].attrs["time_varying"]]

    def rows(self, names: Sequence[str]) -> JoinedRows:
        """Fields as channels."""
        missing = [name for name in names if name not in self.found]
        if missing or not names or not len(self.times):
            raise ValueError(
                f"from_well: expected fields among {[*self.found]} and one time or more, as {self.file.path} has, got "
                f"{[*names]} and {self.times}; name those."
            )
        chosen = [self._components(name) for name in names]
        called = [
            "_".join([name, *(["".join(self.dims[i] for i in one)] if one else [])])
            for name, components in zip(names, chosen, strict=True)
            for one in components
        ]
        parts = [
            WellRows(self.file, f"{self.found[name]}/{name}", self.count, self.times, self.grid, components)
            for name, components in zip(names, chosen, strict=True)
        ]
        known = self.place() is None and all(self._equal(name) for name in self.dims)
        return JoinedRows(parts, tuple(called), None, tuple(map(self._axis, self.dims)) if known else None)

    def numbers(self, names: Sequence[str]) -> np.ndarray:
        """Parameters and scalars as (samples, K)."""
        file, columns = self.file(), []
        for name in names:
            if name == "time" or name in file.get("scalars", ()):
                data = file["dimensions/time"] if name == "time" else file["scalars"][name]
                sample, time = bool(data.attrs["sample_varying"]), name == "time" or bool(data.attrs["time_varying"])
                values = np.asarray(data, dtype=np.float64).reshape(
                    self.count if sample else 1, data.shape[-1] if time else 1
                )
                values = values[:, list(self.times)] if time else values
            elif name in file.attrs and np.ndim(file.attrs[name]) == 0:
                values = np.full((1, 1), float(file.attrs[name]))
            else:
                known = [_text(one) for one in file.attrs.get("simulation_parameters", ())]
                raise ValueError(
                    f"from_well: expected condition among {sorted({'time', *known, *file.get('scalars', ())})}, as "
                    f"{self.file.path} has, got {name!r}; name one of these."
                )
            columns.append(np.broadcast_to(values, (self.count, len(self.times))).reshape(-1))
        return np.stack(columns, axis=1)

    def place(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Latitudes and longitudes in degrees, of fields on a sphere."""
        spherical = _text(self.file().attrs.get("grid_type", "cartesian")).lower() != "cartesian"
        if not spherical or sorted(self.dims) != ["phi", "theta"]:
            return None
        theta, phi = (np.degrees(np.asarray(self.file()["dimensions"][name])) for name in ("theta", "phi"))
        return 90 - theta, phi

    def domain(self) -> Domain:
        """What the boundary conditions and coordinates say."""
        if _text(self.file().attrs.get("grid_type", "cartesian")).lower() != "cartesian":
            raise ValueError(
                f"from_well: expected a cartesian grid, or one along theta and phi, got {self.dims} in {self.file.path}; pass "
                f"the domain, such as domain=Box({len(self.dims)})."
            )
        periodic = self._periodic()
        unequal = [name for name in self.dims if not self._equal(name)]
        if unequal:
            raise ValueError(
                f"from_well: expected one line of coordinates in equal steps along each axis, got others along {unequal} of "
                f"{self.file.path}; interpolate first, or pass domain= to take the points as equally spaced."
            )
        lengths = tuple(self._axis(name).length for name in self.dims)
        if len({name in periodic for name in self.dims}) == 1:
            return (Torus if self.dims[0] in periodic else Box)(len(self.dims), lengths)
        sides = zip(self.dims, lengths, strict=True)
        return Product([(Torus if name in periodic else Box)(1, (length,)) for name, length in sides])

    def _periodic(self) -> set[str]:
        """The axes that are periodic."""
        conditions = self.file().get("boundary_conditions", {}).values()
        periodic = [one for one in conditions if _text(one.attrs["bc_type"]).lower() == "periodic"]
        return {_text(dim) for one in periodic for dim in one.attrs["associated_dims"]}

    def _components(self, name: str) -> list[tuple[int, ...]]:
        order, data = ORDERS.index(self.found[name]), self.file()[self.found[name]][name]
        every = list(itertools.product(range(len(self.dims)), repeat=order))
        if order == 2 and data.attrs.get("antisymmetric", False):
            return [(i, j) for i, j in every if i < j]
        return [(i, j) for i, j in every if i <= j] if order == 2 and data.attrs.get("symmetric", False) else every

    def _equal(self, name: str) -> bool:
        points = np.asarray(self.file()["dimensions"][name], dtype=np.float64)
        steps = np.diff(points)
        return points.ndim == 1 and bool(np.abs(steps - steps.mean()).max() <= EQUAL * abs(steps.mean()))

    def _axis(self, name: str) -> Axis:
        points = np.asarray(self.file()["dimensions"][name], dtype=np.float64)
        step = abs(points[-1] - points[0]) / (len(points) - 1)
        origin = points.min() - (0 if name in self._periodic() else step / 2)  # or points are centres of cells
        return Axis(name, float(origin), float(f"{step * len(points):.6g}"), {})  # stored in float32


def _inside(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.hdf5"), *folder.glob("*.h5")])


def _files(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    given = [Path(path)] if isinstance(path, str | os.PathLike) else [Path(one) for one in path]
    if len(given) == 1 and given[0].is_dir():
        given = _inside(given[0])
    if not given or not all(one.is_file() for one in given):
        raise ValueError(
            f"from_well: expected files of The Well's layout, or a folder of .hdf5 files such as data/train, got {path}."
        )
    return given


def _list(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
