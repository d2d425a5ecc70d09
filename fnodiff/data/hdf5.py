"""Fields at several resolutions in one file, netCDF-4 (which is HDF5): written once, in chunks, and read at random.

The layout, for N samples with C channels on grids of 1 to 3 axes, a group for each grid:

    32x32/x, 48x48/x, ...    (N, C, *shape), float32, float64 or uint8; NaN where it is missing
    32x32/field, ...         (N, K, *shape), likewise: what the samples are conditioned on; optional
    32x32/mask, ...          (N, 1 or C, *shape), uint8: 1 where x was measured, 0 where it is missing; optional
    label                    (N,) integers, or (N, K) floats, shares of K classes; optional
    condition                (N, K) floats: numbers that condition a sample; optional
    attributes               source, licence, grid ("cell averages" or "points"), version (of this layout: 2), and
                             complete: how many of the N samples have been written (all, in a file without it);
                             condition_names: of the K numbers, a line for each

    uint8 stands for value / 127.5 - 1 (a mask's for itself), which its attributes scale_factor and add_offset say.

Dimensions are named: sample, channel, and those of the grid, whose coordinates are beside x. So xarray opens it,

    xarray.open_datatree("fields.h5"),    xarray.open_dataset("fields.h5", group="32x32").

Files of version 1, in which x/32x32 stands for 32x32/x, are read too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from numbers import Integral
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from fnodiff.data.handle import Handle
from fnodiff.data.latlon import LatLon
from fnodiff.data.source import number_names, reading, selected
from fnodiff.domain import Domain, grid_name
from fnodiff.expected import kinds_checked

VERSION = 2
GRIDS = ("cell averages", "points")
_GROUPS = ("x", "field", "mask")


@kinds_checked
class HDF5Fields:
    """Samples from a file that `write_fields` wrote, or one of the same layout.

    The object can be pickled and forked: each process opens the file for itself, at its first read.

    Args:
        path: The file.
        allow_incomplete: Take a file whose writing was interrupted, for as many samples as it has.

    Attributes:
        channels: C.
        condition_channels: K of the conditioning field, 0 without one.
        condition_names: Of the numbers that condition a sample.
        masked: Whether batches have a mask.
        shapes: The grids, coarsest first.
        domain: Of fields around the globe, by the latitudes and longitudes in the file; None of others.
        attributes: The file's attributes, such as source, licence and grid.

    Raises:
        ValueError: If the file is not of that layout, or not complete.
    """

    def __init__(self, path: str | os.PathLike[str], *, allow_incomplete: bool = False) -> None:
        self.path = Path(path)
        self._file = Handle(self.path)
        if not self.path.is_file():
            raise ValueError(f"HDF5Fields: {self.path} is not a file; pass one that write_fields wrote.")
        if not h5py.is_hdf5(self.path):
            raise ValueError(f"HDF5Fields: {self.path} is not an HDF5 file, or a damaged one; write it again.")
        with reading(self.path, "HDF5Fields: ", ValueError), h5py.File(self.path, "r") as file:
            self.shapes, self.channels, self.condition_channels, rows = _check_layout(file, self.path)
            self._labelled, self.masked = "label" in file, any("mask" in name.split("/") for name in datasets(file))
            self.attributes, self._version = dict(file.attrs), layout_version(file)
            numbers = file["condition"][:1] if "condition" in file else None
            self.domain = _globe(file.get(grid_name(self.shapes[-1]), {}))
        names = self.attributes.get("condition_names")
        self.condition_names = number_names("HDF5Fields", numbers, None if names is None else str(names).split("\n"))
        self._length = int(self.attributes.get("complete", rows))
        if self._length < rows and not allow_incomplete:
            raise ValueError(
                f"HDF5Fields: {self.path} is incomplete: {self._length} of {rows} samples; run what wrote it again, "
                f"which continues there, or pass allow_incomplete=True."
            )

    def __len__(self) -> int:
        return self._length

    @property
    def cell_averages(self) -> bool:
        """Whether values are averages over cells, as the file's attribute `grid` says."""
        return self.attributes.get("grid") == "cell averages"

    @property
    def num_classes(self) -> int:
        """How many classes the labels name; 0 without."""
        if not self._labelled:
            return 0
        label = self._file()["label"]
        return label.shape[1] if label.ndim > 1 else int(label[:].max(initial=-1)) + 1

    def __repr__(self) -> str:
        grids = ", ".join(grid_name(shape) for shape in self.shapes)
        return f"HDF5Fields({str(self.path)!r}): {len(self)} samples, {self.channels} channels, at {grids}"

    def image(self, index: int) -> Tensor:
        """Sample (C, *shape) on the finest grid.

        Raises:
            ValueError: If the index is out of range.
        """
        return self.batch([index], self.shapes[-1])["x"][0]

    def batch(self, indices: Sequence[int], shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Samples on one grid.

        Args:
            indices: B of them, in any order, repeated or not; or a slice, or a boolean for each sample.
            shape: One of `shapes`; an int for that of so many points on each side.

        Returns:
            "x", float32 or float64 (B, C, *shape), and if the file has them "label", int64 (B,) or float32 (B, K), "field",
            (B, condition_channels, *shape), "condition", float32 (B, K), and "mask", float32 (B, 1 or C, *shape).

        Raises:
            ValueError: If the file lacks this grid, or an index is out of range.
        """
        shape = (shape,) * len(self.shapes[0]) if isinstance(shape, Integral) else tuple(shape)
        if shape not in self.shapes:
            raise ValueError(
                f"HDF5Fields: {self.path} has no grid {grid_name(shape)}, only {', '.join(map(grid_name, self.shapes))}; "
                f"choose one of these, or write the file again with it."
            )
        index = np.asarray(selected("HDF5Fields", indices, len(self)))
        if index.size == 0:
            raise ValueError("HDF5Fields: expected a sequence of integer indices, at least one, got none; select some.")
        rows, inverse = np.unique(index, return_inverse=True)  # HDF5 selects increasing rows only
        with reading(self.path, "HDF5Fields: "):
            return self._read(rows, inverse, grid_name(shape))

    def _read(self, rows: np.ndarray, inverse: np.ndarray, name: str) -> dict[str, Tensor]:
        file = self._file()
        out = {"x": _decode(file[self._path("x", name)][rows][inverse])}
        if self._labelled:
            label = file["label"][rows][inverse]
            out["label"] = torch.from_numpy(label.astype(np.int64 if label.ndim == 1 else np.float32))
        if self.condition_names:
            out["condition"] = torch.from_numpy(file["condition"][rows][inverse].astype(np.float32))
        if self.condition_channels:
            out["field"] = _decode(file[self._path("field", name)][rows][inverse])
        if self.masked:
            out["mask"] = torch.from_numpy(file[self._path("mask", name)][rows][inverse]).float()
            out["x"] = torch.where(out["mask"] > 0, out["x"], 0.0)
        return out

    def _path(self, key: str, name: str) -> str:
        return f"{key}/{name}" if self._version == 1 else f"{name}/{key}"


def _globe(group: Mapping[str, h5py.Dataset]) -> Domain | None:
    """The sphere whose latitudes and longitudes a grid has."""
    if {"latitude", "longitude"} <= set(group):
        with suppress(ValueError):  # a part of the globe
            return LatLon(group["latitude"][:], group["longitude"][:]).domain
    return None


def _decode(values: np.ndarray) -> Tensor:
    out = torch.from_numpy(values)
    return out.float() / 127.5 - 1 if out.dtype == torch.uint8 else out


def layout_version(file: h5py.File) -> int:
    """Which version of the layout a file has."""
    return int(file.attrs.get("version", 1 if isinstance(file.get("x"), h5py.Group) else VERSION))


def datasets(file: h5py.File) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """The shape and type of every dataset, by name, but those of coordinates."""
    found: dict[str, tuple[tuple[int, ...], np.dtype]] = {}

    def visit(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset) and not item.is_scale:
            found[name] = item.shape, item.dtype

    file.visititems(visit)
    return found


def _check_layout(file: h5py.File, path: Path) -> tuple[list[tuple[int, ...]], int, int, int]:
    """The grids, coarsest first, the channels of x and of the field, and the number of samples."""
    found, version = datasets(file), layout_version(file)

    def wrong(expected: str) -> ValueError:
        listed = ", ".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in found.items()) or "no dataset"
        return ValueError(f"HDF5Fields: {path}: expected {expected}, found {listed}; write the file with write_fields.")

    sizes: dict[str, dict[tuple[int, ...], tuple[int, int]]] = {key: {} for key in _GROUPS}
    for name, (shape, dtype) in found.items():
        if name in ("label", "condition"):
            continue
        first, _, second = name.partition("/")
        size, key = (second, first) if version == 1 else (first, second)
        if key not in _GROUPS or re.fullmatch(r"[1-9]\d*(x[1-9]\d*){0,2}", size) is None:
            raise wrong(
                'datasets named "32x32/x", "32x32/field", "32x32/mask" (any sizes), "label" and "condition" only'
            )
        grid = tuple(int(n) for n in size.split("x"))
        kinds = ["uint8"] if key == "mask" else ["uint8", "float32", "float64"]
        if shape[2:] != grid or len(shape) != 2 + len(grid) or dtype not in map(np.dtype, kinds):
            raise wrong(f"{name} as {' or '.join(kinds)} (N, C, {', '.join(map(str, grid))})")
        sizes[key][grid] = shape[:2]
    if not sizes["x"]:
        raise wrong('at least one dataset "<shape>/x"')
    if any(sizes[key] and set(sizes[key]) != set(sizes["x"]) for key in ("field", "mask")):
        raise wrong("a field, and a mask, on every grid of x and on no other")
    if len({len(grid) for grid in sizes["x"]}) > 1 or any(len(set(s.values())) > 1 for s in sizes.values()):
        raise wrong("as many samples, channels and axes on every grid")
    rows, channels = next(iter(sizes["x"].values()))
    field_rows, condition_channels = next(iter(sizes["field"].values()), (rows, 0))
    mask_rows, mask_channels = next(iter(sizes["mask"].values()), (rows, 1))
    label_shape, label_type = found.get("label", ((rows,), np.dtype(np.int64)))
    if not field_rows == mask_rows == rows or label_shape[:1] != (rows,):
        raise wrong("as many samples in x, field, mask and label")
    if mask_channels not in (1, channels):
        raise wrong(f"a mask of 1 or {channels} channels")
    if (len(label_shape), label_type.kind) not in ((1, "i"), (1, "u"), (2, "f")):
        raise wrong("labels as integers (N,) or floats (N, K)")
    number_shape, number_type = found.get("condition", ((rows, 1), np.dtype(np.float32)))
    if len(number_shape) != 2 or number_shape[0] != rows or number_type.kind != "f":
        raise wrong("condition as floats (N, K)")
    attributes = file.attrs
    if version not in (1, VERSION) or attributes.get("grid", GRIDS[0]) not in GRIDS:
        raise wrong(f"attributes version 1 or {VERSION} and grid one of {GRIDS}, not {dict(attributes)}")
    if not 0 <= attributes.get("complete", rows) <= rows:
        raise wrong(f"an attribute complete from 0 to {rows}, not {attributes['complete']}")
    return sorted(sizes["x"], key=lambda grid: (np.prod(grid), grid)), channels, condition_channels, rows
