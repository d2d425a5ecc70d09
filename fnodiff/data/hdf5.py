"""Fields at several resolutions in one HDF5 file: written once, in chunks, and read at random.

The layout, for N samples with C channels on grids of 1 to 3 axes:

    x/32x32, x/48x48, ...    (N, C, *shape), uint8 or float32
    field/32x32, ...         (N, K, *shape), uint8 or float32: what the samples are conditioned on; optional
    mask/32x32, ...          (N, 1 or C, *shape), uint8: 1 where x was measured, 0 where it is missing; optional
    label                    (N,) integers, or (N, K) floats; optional
    attributes               source, licence, grid ("cell averages" or "points"), version (of this layout: 1), and
                             complete: how many of the N samples have been written (all, in a file without it)

    uint8 stands for value / 127.5 - 1 (a mask's for itself),    float32 for itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fnodiff.data.loader import Fields

VERSION = 1
GRIDS = ("cell averages", "points")
_GROUPS = ("x", "field", "mask")


class HDF5Fields:
    """Samples from a file that `write_fields` wrote, or one of the same layout.

    The object can be pickled and forked: each process opens the file for itself, at its first read.

    Args:
        path: The file.
        allow_incomplete: Take a file whose writing was interrupted, for as many samples as it has.

    Attributes:
        channels: C.
        condition_channels: K of the conditioning field, 0 without one.
        masked: Whether batches have a mask.
        shapes: The grids, coarsest first.
        attributes: The file's attributes, such as source, licence and grid.

    Raises:
        ValueError: If the file is not of that layout, or not complete.
    """

    def __init__(self, path: str | os.PathLike[str], *, allow_incomplete: bool = False) -> None:
        self.path = Path(path)
        self._open: tuple[int, h5py.File] | None = None
        if not self.path.is_file():
            raise ValueError(f"HDF5Fields: {self.path} is not a file; pass one that write_fields wrote.")
        if not h5py.is_hdf5(self.path):
            raise ValueError(f"HDF5Fields: {self.path} is not an HDF5 file, or a damaged one; write it again.")
        try:
            opened = h5py.File(self.path, "r")
        except OSError as error:
            raise ValueError(
                f"HDF5Fields: {self.path} cannot be opened ({error}); it may be cut short: write it again."
            ) from error
        with opened as file:
            self.shapes, self.channels, self.condition_channels, rows = _check_layout(file, self.path)
            self._labelled, self.masked = "label" in file, "mask" in file
            self.attributes = dict(file.attrs)
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
        return 0 if label.ndim > 1 or label.dtype.kind == "f" else int(label[:].max(initial=-1)) + 1

    def __repr__(self) -> str:
        grids = ", ".join(_name(shape) for shape in self.shapes)
        return f"HDF5Fields({str(self.path)!r}): {len(self)} samples, {self.channels} channels, at {grids}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def image(self, index: int) -> Tensor:
        """Sample (C, *shape) on the finest grid.

        Raises:
            ValueError: If the index is out of range.
        """
        return self.batch([index], self.shapes[-1])["x"][0]

    def batch(self, indices: Sequence[int], shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Samples on one grid.

        Args:
            indices: B of them, in any order, repeated or not.
            shape: One of `shapes`.

        Returns:
            "x", float32 (B, C, *shape), and if the file has them "label", int64 (B,) or float32 (B, K), "field",
            float32 (B, condition_channels, *shape), and "mask", float32 (B, 1 or C, *shape).

        Raises:
            ValueError: If the file lacks this grid, or an index is out of range.
        """
        if tuple(shape) not in self.shapes:
            raise ValueError(
                f"HDF5Fields: {self.path} has no grid {_name(shape)}, only {', '.join(map(_name, self.shapes))}; "
                f"choose one of these, or write the file again with it."
            )
        index = np.asarray(indices)
        if index.ndim != 1 or index.size == 0 or index.dtype.kind not in "iu":
            raise ValueError(f"HDF5Fields: expected a sequence of integer indices, at least one, got {indices!r}.")
        if index.min() < 0 or index.max() >= len(self):
            raise ValueError(
                f"HDF5Fields: expected indices in 0 .. {len(self) - 1}, got {index.min()} .. {index.max()}."
            )
        rows, inverse = np.unique(index, return_inverse=True)  # HDF5 selects increasing rows only
        file, name = self._file(), _name(shape)
        out = {"x": _decode(file[f"x/{name}"][rows][inverse])}
        if self._labelled:
            label = file["label"][rows][inverse]
            out["label"] = torch.from_numpy(label.astype(np.int64 if label.ndim == 1 else np.float32))
        if self.condition_channels:
            out["field"] = _decode(file[f"field/{name}"][rows][inverse])
        if self.masked:
            out["mask"] = torch.from_numpy(file[f"mask/{name}"][rows][inverse]).float()
        return out

    def _file(self) -> h5py.File:
        # A forked process inherits the handle together with the file position, so it opens its own.
        if self._open is None or self._open[0] != os.getpid():
            if self._open is not None:
                self._open[1].close()
            self._open = os.getpid(), h5py.File(self.path, "r")
        return self._open[1]


def write_fields(
    path: str | os.PathLike[str],
    source: Fields,
    shapes: Sequence[tuple[int, ...]],
    *,
    attributes: Mapping[str, str | int | float],
    dtype: Literal["uint8", "float32"] = "uint8",
    length: int | None = None,
    chunk: int = 64,
    progress: bool = True,
) -> None:
    """Write a source's samples on several grids to an HDF5 file, or continue where an earlier call was interrupted.

    Samples go to the file `chunk` at a time; after each the count `complete` is updated, so that a stopped program
    loses one chunk at most. A file that is complete already is checked and left as it is. A source with a method
    `batches(indices, shapes)`, which returns one batch per shape, is asked for all grids at once.

    Args:
        path: The file. One that exists must be the beginning of the same: the layout, length and attributes agree.
        source: The samples. They must not change between calls: this is not checked beyond their number.
        shapes: The grids, each of 1 to 3 sizes.
        attributes: At least source, licence and grid ("cell averages" or "points"); more are kept as they are.
        dtype: "uint8" rounds x, and the field if there is one, from [-1, 1] to the nearest of 256 levels; "float32"
            keeps the values.
        length: Write only the first so many samples.
        chunk: Samples per step.
        progress: Show a progress bar.

    Raises:
        ValueError: If the file is something else, or the source hands out something that would be lost: another shape,
            an unknown key, values that are not finite, a mask of numbers other than 1 and 0, or for "uint8" values
            beyond [-1, 1] by more than 1e-3.

    Examples:
        >>> import pathlib, tempfile
        >>> from fnodiff.data import Faces, HDF5Fields, write_fields
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = pathlib.Path(folder.name, "faces.h5")
        >>> about = {"source": "fnodiff.data.Faces", "licence": "MIT", "grid": "cell averages"}
        >>> write_fields(path, Faces(3), [(16, 16), (24, 24)], attributes=about, progress=False)
        >>> fields = HDF5Fields(path)
        >>> len(fields), fields.shapes, fields.attributes["licence"]
        (3, [(16, 16), (24, 24)], 'MIT')
    """
    path = Path(path)
    shapes = _check_shapes(shapes)
    length = len(source) if length is None else length
    if dtype not in ("uint8", "float32"):
        raise ValueError(f'write_fields: expected dtype "uint8" or "float32", got {dtype!r}.')
    if not 1 <= length <= len(source):
        raise ValueError(f"write_fields: expected a length from 1 to the source's {len(source)}, got {length}.")
    if chunk < 1:
        raise ValueError(f"write_fields: expected a chunk of at least one sample, got {chunk}.")
    attributes = _check_attributes(attributes)
    if not path.parent.is_dir():
        raise ValueError(f"write_fields: the folder {path.parent} does not exist; make it first.")
    first = _read(source, range(1), shapes, dtype)  # says which datasets there are, and of which shapes and types
    layout = {name: ((length, *values.shape[1:]), values.dtype) for name, values in first.items()}
    done = _check_same(path, layout, attributes) if path.exists() else _create(path, layout, attributes)
    if done == length:
        return
    with (
        h5py.File(path, "r+") as file,
        tqdm(total=length, initial=done, desc=path.name, unit="sample", disable=not progress) as bar,
    ):
        for start in range(done, length, chunk):
            rows = range(start, min(start + chunk, length))
            data = _read(source, rows, shapes, dtype)
            if _describe(data) != _describe(first):
                raise ValueError(
                    f"write_fields: samples {rows.start} .. {rows.stop - 1} have {_describe(data)}, and the first has "
                    f"{_describe(first)}; every batch of the source needs the same keys, shapes and types."
                )
            for name, values in data.items():
                file[name][rows.start : rows.stop] = values
            file.flush()
            file.attrs.modify("complete", np.int64(rows.stop))
            file.flush()
            bar.update(len(rows))


# ---- writing ------------------------------------------------------------------------------------------------------


def _read(source: Fields, rows: range, shapes: list[tuple[int, ...]], dtype: str) -> dict[str, np.ndarray]:
    """These rows of every dataset, as they are stored."""
    out: dict[str, np.ndarray] = {}
    indices = list(rows)
    together = getattr(source, "batches", None)
    batches = together(indices, shapes) if together else (source.batch(indices, shape) for shape in shapes)
    for shape, batch in zip(shapes, batches, strict=True):
        unknown = sorted(set(batch) - {"x", "field", "label", "mask"})
        if unknown or "x" not in batch:
            raise ValueError(
                f'write_fields: expected batches with "x" and perhaps "label", "field" and "mask", got {sorted(batch)}; '
                f"wrap the source in one that renames or drops the others."
            )
        for key in sorted(batch):
            name = "label" if key == "label" else f"{key}/{_name(shape)}"
            values = batch[key].detach().cpu().numpy()
            channels = source.channels if key == "x" else values.shape[1] if values.ndim > 1 else 0
            expected = (len(rows), *values.shape[1:]) if key == "label" else (len(rows), channels, *shape)
            if values.shape != expected:
                raise ValueError(
                    f"write_fields: expected {name} of shape {expected}, got {values.shape}; mend the source's batch()."
                )
            if key == "mask" and channels not in (1, source.channels):
                raise ValueError(
                    f"write_fields: expected {name} of 1 or {source.channels} channels, got {channels}; mend the source's "
                    f"batch()."
                )
            encoded = _encode(values, name, rows, dtype)
            if not np.array_equal(out.setdefault(name, encoded), encoded):
                raise ValueError(
                    f"write_fields: expected the same labels on every grid, got others on {_name(shape)}: samples "
                    f"{rows.start} .. {rows.stop - 1}; mend the source, whose samples may be drawn anew at each call."
                )
    return out


def _encode(values: np.ndarray, name: str, rows: range, dtype: str) -> np.ndarray:
    if name == "label":
        if values.ndim == 1 and values.dtype.kind in "iu":
            return values.astype(np.int64)
        if values.ndim == 2 and values.dtype.kind == "f" and np.isfinite(values).all():
            return values.astype(np.float32)
        raise ValueError(
            f"write_fields: expected labels as integers (B,) or finite floats (B, K), got {values.dtype} "
            f"{values.shape}; convert them in the source."
        )
    if name.startswith("mask/"):
        if not ((values == 0) | (values == 1)).all():
            raise ValueError(f"write_fields: expected {name} of 1 and 0 alone, got other values; use a threshold.")
        return values.astype(np.uint8)
    if values.dtype.kind != "f":
        raise ValueError(f"write_fields: expected {name} as floats, got {values.dtype}; convert it in the source.")
    limit = 1 + 1e-3 if dtype == "uint8" else np.finfo(np.float32).max
    bad = ~(np.abs(values) <= limit)  # true for NaN
    if bad.any():
        raise ValueError(
            f"write_fields: {name}, sample {rows[int(np.argwhere(bad)[0, 0])]}: expected finite values"
            + (" in [-1, 1], as uint8 would clip others" if dtype == "uint8" else "")
            + f', got {values[bad][0]}; mend or rescale the source, or write dtype="float32".'
        )
    return np.rint(values * 127.5 + 127.5).astype(np.uint8) if dtype == "uint8" else values.astype(np.float32)


def _check_shapes(shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    out = [tuple(shape) for shape in shapes]
    right = all(1 <= len(shape) <= 3 and all(isinstance(n, int) and n > 0 for n in shape) for shape in out)
    if not out or not right or len({len(shape) for shape in out}) > 1 or len(set(out)) < len(out):
        raise ValueError(
            f"write_fields: expected shapes of 1 to 3 positive sizes, all with as many axes and none twice, got {out}."
        )
    return out


def _check_attributes(attributes: Mapping[str, str | int | float]) -> dict[str, str | int | float]:
    missing = [key for key in ("source", "licence", "grid") if key not in attributes]
    reserved = [key for key in ("complete", "version") if key in attributes]
    if missing or reserved or attributes["grid"] not in GRIDS:
        raise ValueError(
            f"write_fields: expected attributes source, licence and grid (one of {GRIDS}), but no version or complete, "
            f"which are the writer's; got {dict(attributes)}."
        )
    wrong = {key: value for key, value in attributes.items() if not isinstance(value, (str, int, float))}
    if wrong:
        raise ValueError(f"write_fields: expected attributes that are text or numbers, got {wrong}.")
    return {**attributes, "version": VERSION}


def _create(path: Path, layout: Mapping[str, tuple], attributes: Mapping[str, Any]) -> int:
    """Make an empty file of this layout, under its name only once it is whole, and return 0: the samples in it."""
    partial = path.with_name(f".{path.name}.partial")
    with h5py.File(partial, "w") as file:
        for name, (shape, dtype) in layout.items():
            file.create_dataset(
                name, shape, dtype
            )  # contiguous: rows are read at random, and one write touches no index
        file.attrs.update(attributes)
        file.attrs["complete"] = np.int64(0)
    os.replace(partial, path)
    return 0


def _check_same(path: Path, layout: Mapping[str, tuple], attributes: Mapping[str, Any]) -> int:
    """How many samples the file has, or a ValueError unless it is of this layout."""
    if not h5py.is_hdf5(path):
        raise ValueError(f"write_fields: {path} exists and is not an HDF5 file; remove it or choose another name.")
    with h5py.File(path, "r") as file:
        if "complete" not in file.attrs:
            raise ValueError(
                f"write_fields: {path} exists and is not from write_fields; remove it or choose another name."
            )
        done = int(file.attrs["complete"])
        found = {f"attribute {k}": v for k, v in file.attrs.items() if k != "complete"} | _datasets(file)
    wanted = {f"attribute {k}": v for k, v in attributes.items()} | dict(layout)
    differ = {k: (found.get(k), wanted.get(k)) for k in sorted({*found, *wanted}) if found.get(k) != wanted.get(k)}
    if differ:
        raise ValueError(
            f"write_fields: {path} exists and is not the beginning of the same: "
            + "; ".join(f"{key} is {there}, expected {here}" for key, (there, here) in differ.items())
            + ". Remove it, choose another name, or continue with what it was begun with."
        )
    return done


def _describe(data: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {values.dtype} {values.shape[1:]}" for name, values in data.items())


# ---- the layout ---------------------------------------------------------------------------------------------------


def _name(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _decode(values: np.ndarray) -> Tensor:
    out = torch.from_numpy(values)
    return out.float() / 127.5 - 1 if out.dtype == torch.uint8 else out


def _datasets(file: h5py.File) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """The shape and type of every dataset, by name."""
    found: dict[str, tuple[tuple[int, ...], np.dtype]] = {}

    def visit(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item.shape, item.dtype

    file.visititems(visit)
    return found


def _check_layout(file: h5py.File, path: Path) -> tuple[list[tuple[int, ...]], int, int, int]:
    """The grids, coarsest first, the channels of x and of the field, and the number of samples."""
    found = _datasets(file)

    def wrong(expected: str) -> ValueError:
        listed = ", ".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in found.items()) or "no dataset"
        return ValueError(f"HDF5Fields: {path}: expected {expected}, found {listed}; write the file with write_fields.")

    sizes: dict[str, dict[tuple[int, ...], tuple[int, int]]] = {key: {} for key in _GROUPS}
    for name, (shape, dtype) in found.items():
        if name == "label":
            continue
        match = re.fullmatch(r"(x|field|mask)/([1-9]\d*(?:x[1-9]\d*){0,2})", name)
        if match is None:
            raise wrong('datasets named "x/32x32", "field/32x32", "mask/32x32" (any sizes) and "label" only')
        grid = tuple(int(n) for n in match[2].split("x"))
        kinds = ["uint8"] if match[1] == "mask" else ["uint8", "float32"]
        if shape[2:] != grid or len(shape) != 2 + len(grid) or dtype not in map(np.dtype, kinds):
            raise wrong(f"{name} as {' or '.join(kinds)} (N, C, {', '.join(map(str, grid))})")
        sizes[match[1]][grid] = shape[:2]
    if not sizes["x"]:
        raise wrong('at least one dataset "x/<shape>"')
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
    attributes = file.attrs
    if attributes.get("version", VERSION) != VERSION or attributes.get("grid", GRIDS[0]) not in GRIDS:
        raise wrong(f"attributes version {VERSION} and grid one of {GRIDS}, not {dict(attributes)}")
    if not 0 <= attributes.get("complete", rows) <= rows:
        raise wrong(f"an attribute complete from 0 to {rows}, not {attributes['complete']}")
    return sorted(sizes["x"], key=lambda grid: (np.prod(grid), grid)), channels, condition_channels, rows
