"""A source of fields from the arrays of one file, plain or labelled; see `ArrayFields.open`."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
from torch import Tensor

from fnodiff.data.files import found_text, list_arrays, read_arrays
from fnodiff.data.labelled import SUFFIXES, is_labelled
from fnodiff.data.rows import ArrayRows, JoinedRows, Rows, StackedRows, layout
from fnodiff.data.source import numbers_together, reading
from fnodiff.domain import Domain, Sphere

if TYPE_CHECKING:
    from fnodiff.data.arrays import ArrayFields
    from fnodiff.data.chunks import Chunks


def open_arrays(
    cls: type[ArrayFields],
    path: str | os.PathLike[str],
    names: Mapping[str, Any],
    domain: Domain | None,
    channel_axis: int | None,
    chunks: Chunks | None = None,
) -> ArrayFields:
    """What `cls.open` returns; `names` are those of x, field, label, condition, mask, latitude and longitude, None where left
    out."""
    path, names = Path(path), dict(names)
    mask = names.pop("mask")
    apart = mask is not None and Path(mask).suffix != "" and Path(mask).is_file()  # a file of its own
    if not apart:
        names["mask"] = None if mask is None else os.fspath(mask)
    if labelled(path, names["x"]):
        from fnodiff.data.named import from_xarray

        rest = {name: value for name, value in names.items() if name != "x"}
        if apart:
            rest["mask"] = _only(Path(mask))
        return from_xarray(path, names["x"], domain, **rest, channel_axis=channel_axis, chunks=chunks)
    found = list_arrays(path)
    if names["x"] is None and len(found) != 1:
        raise ValueError(f"ArrayFields: expected x, the name of an array of {path}, which has {found_text(found)}.")
    names["x"] = next(iter(found)) if names["x"] is None else names["x"]
    asked = {role: _matching(value, found) for role, value in names.items() if value is not None}
    arrays = read_arrays(path, [name for matches in asked.values() for parts in matches for name in parts])
    known = "latitude" in asked
    given: dict[str, Any] = {}
    try:
        for role, matches in asked.items():
            if role == "condition":
                given |= numbers_together("ArrayFields", {name: arrays[name] for parts in matches for name in parts})
            elif role in ("x", "field") and (len(matches) > 1 or len(matches[0]) > 1):
                given[role] = _together(role, matches, arrays, domain or Sphere(), channel_axis, known)
            else:
                given[{"latitude": "latitudes", "longitude": "longitudes"}.get(role, role)] = arrays[matches[0][0]]
        if apart:
            given["mask"] = _only(Path(mask))
        return cls(**given, domain=domain, channel_axis=channel_axis, chunks=chunks)
    except ValueError as error:
        raise ValueError(f"{error} {path} has {found_text(found)}.") from error


def labelled(path: Path, names: str | Sequence[str] | None) -> bool:
    """Whether xarray reads these arrays of a file: by its suffix, or by their dimensions and packing."""
    if path.suffix.lower() in SUFFIXES:
        return True
    if path.suffix.lower() == ".mat" or not path.is_file() or not h5py.is_hdf5(path):
        return False
    with reading(path), h5py.File(path, "r") as file:
        asked = [names] if isinstance(names, str) else list(names or file)
        items = [file[name] for name in asked if name in file]
        return any(isinstance(item, h5py.Dataset) and is_labelled(item) for item in items)


def _matching(names: str | Sequence[str], found: Mapping[str, Any]) -> list[list[str]]:
    """For each name the arrays that it means: itself, or those that fit a pattern, in the order of their names."""
    out = []
    for name in [names] if isinstance(names, str) else names:
        fits = [name] if name in found or "*" not in name else sorted(fnmatch.filter(found, name))
        out.append(fits or [name])  # which read_arrays refuses
    return out


def _together(
    role: str,
    matches: Sequence[Sequence[str]],
    arrays: Mapping[str, Tensor],
    domain: Domain,
    channel_axis: int | None,
    known: bool,
) -> Rows:
    """Several arrays as channels, each one array or one for each sample."""
    parts: list[Rows] = []
    for names in matches:
        shapes = {name: tuple(arrays[name].shape) for name in names}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"ArrayFields: expected {role} of one shape in each group, got {shapes}; read them apart.")
        shape = shapes[names[0]] if len(names) == 1 else (len(names), *shapes[names[0]])
        made = layout(role, shape, domain, channel_axis, known)
        parts.append(
            ArrayRows(arrays[names[0]], made) if len(names) == 1 else StackedRows([arrays[n] for n in names], made)
        )
    own = [name[0].rpartition("/")[2] for name in matches]
    called = [f"{n}[{i}]" if p.shape[1] > 1 else n for n, p in zip(own, parts, strict=True) for i in range(p.shape[1])]
    return JoinedRows(parts, tuple(called))


def _only(path: Path) -> Tensor:
    """The only array of a file."""
    arrays = list_arrays(path)
    if len(arrays) != 1:
        raise ValueError(f"ArrayFields: expected one array in the mask's file {path}, got {found_text(arrays)}.")
    return read_arrays(path)[next(iter(arrays))]
