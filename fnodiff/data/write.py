"""Writing fields at several resolutions to one file, in chunks, so that a stopped program can go on; see `hdf5`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from tqdm import tqdm

from fnodiff.data.exported import CONVENTIONS, grid_coordinates
from fnodiff.data.hdf5 import GRIDS, VERSION, datasets
from fnodiff.data.source import Fields, check_source, own_domain
from fnodiff.domain import Box, Domain, Shape, grid_name
from fnodiff.expected import WrongKind, described, kinds_checked

_DTYPES = ("float32", "float64", "uint8")

_PER_SAMPLE = ("label", "condition")
"""What a batch has once, whatever the grid."""


@kinds_checked(but=("dtype",))
def write_fields(
    path: str | os.PathLike[str],
    source: Fields,
    shapes: Sequence[Sequence[int] | int] | int,
    *,
    attributes: Mapping[str, str | int | float],
    dtype: Literal["float32", "float64", "uint8"] | None = None,
    length: int | None = None,
    chunk: int = 64,
    workers: int = 1,
    progress: bool = True,
) -> None:
    """Write a source's samples on several grids to a netCDF-4 file, or continue where an earlier call was interrupted.

    Samples go to the file `chunk` at a time; after each the count `complete` is updated, so that a stopped program
    loses one chunk at most. A file that is complete already is checked and left as it is. A source with a method
    `batches(indices, shapes)`, which returns one batch per shape, is asked for all grids at once.

    The file opens in xarray: xarray.open_dataset(path, group="32x32"), with the coordinates of the source's domain.

    Args:
        path: The file. One that exists must be the beginning of the same: the layout, length and attributes agree.
        source: The samples. They must not change between calls: this is not checked beyond their number.
        shapes: The grids, each of 1 to 3 sizes; an int is as many points on each side of the source's domain.
        attributes: At least source, licence and grid ("cell averages" or "points"); more are kept as they are.
        dtype: Of x, and the field if there is one. "uint8" rounds them from [-1, 1] to the nearest of 256 levels. By default
            "uint8" of pictures (a source whose `pictures` is true), else what the source hands out: "float32", or "float64"
            where `ArrayFields` needs it.
        length: Write only the first so many samples.
        chunk: Samples per step.
        workers: Processes that make the samples, each a chunk at a time; -1 for as many as there are cores. They are joblib's:
            `with joblib.parallel_config("dask"):` they are those of a cluster. The source is sent to them, pickled.
        progress: Show a progress bar.

    Raises:
        ValueError: If the file is something else, or the source hands out something that would be lost: another shape,
            an unknown key, values that are not finite, a mask of numbers other than 1 and 0, or for "uint8" values
            beyond [-1, 1] by more than 1e-3.

    Examples:
        >>> import pathlib, tempfile, torch
        >>> from fnodiff import Box
        >>> from fnodiff.data import ArrayFields, HDF5Fields, write_fields
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = pathlib.Path(folder.name, "fields.h5")
        >>> about = {"source": "random numbers", "licence": "none", "grid": "cell averages"}
        >>> source = ArrayFields(torch.rand(3, 3, 24, 24), domain=Box(2))
        >>> write_fields(path, source, [(16, 16), (24, 24)], attributes=about, progress=False)
        >>> fields = HDF5Fields(path)
        >>> len(fields), fields.shapes, fields.attributes["licence"]
        (3, [(16, 16), (24, 24)], 'none')
    """
    check_source("write_fields", source)
    path, domain = Path(path), own_domain(source)
    shapes = _check_shapes(shapes, domain)
    length = len(source) if length is None else length
    if not isinstance(dtype, str | None) or dtype not in (None, *_DTYPES):
        raise ValueError(f"write_fields: expected dtype among {_DTYPES}, got {dtype!r}; leave it out.")
    if not 1 <= length <= len(source):
        raise ValueError(f"write_fields: expected a length from 1 to the source's {len(source)}, got {length}.")
    if chunk < 1 or not (workers == -1 or workers >= 1):
        raise ValueError(
            f"write_fields: expected a chunk of at least one sample, and workers >= 1 or -1, got {chunk} and {workers}."
        )
    attributes = _check_attributes(attributes)
    if names := tuple(getattr(source, "condition_names", ())):
        attributes["condition_names"] = "\n".join(names)
    if not path.parent.is_dir():
        raise ValueError(f"write_fields: the folder {path.parent} does not exist; make it first.")
    dtype = ("uint8" if getattr(source, "pictures", False) else None) if dtype is None else dtype
    first = _read(source, range(1), shapes, dtype)  # says which datasets there are, and of which shapes and types
    dtypes = {name: str(values.dtype) for name, values in first.items()}
    layout = {name: ((length, *values.shape[1:]), values.dtype) for name, values in first.items()}
    named = _Names.of(source, domain, shapes, attributes)
    done = _check_same(path, layout, attributes) if path.exists() else _create(path, layout, attributes, named)
    if done == length:
        return
    with (
        h5py.File(path, "r+") as file,
        tqdm(total=length, initial=done, desc=path.name, unit="sample", disable=not progress) as bar,
        closing(_made(source, range(done, length), chunk, shapes, dtypes, workers)) as parts,
    ):
        for rows, data in parts:
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


def _made(
    source: Fields, rows: range, chunk: int, shapes: list[Shape], dtypes: Mapping[str, str], workers: int
) -> Iterator[tuple[range, dict[str, np.ndarray]]]:
    """The rows chunk by chunk, and what `_read` makes of them, in processes if there are several."""
    chunks = [rows[i : i + chunk] for i in range(0, len(rows), chunk)]
    if workers == 1:
        yield from ((part, _read(source, part, shapes, dtypes)) for part in chunks)
        return
    from joblib import Parallel, delayed

    made = Parallel(workers, return_as="generator", batch_size=1)
    with closing(made(delayed(_read)(source, part, shapes, dtypes) for part in chunks)) as found:
        yield from zip(chunks, found, strict=True)


def _read(
    source: Fields, rows: range, shapes: list[Shape], dtypes: Mapping[str, str] | str | None
) -> dict[str, np.ndarray]:
    """These rows of every dataset, as they are stored: each in its own type, or fields all in one."""
    out: dict[str, np.ndarray] = {}
    indices = list(rows)
    together = getattr(source, "batches", None)
    batches = together(indices, shapes) if together else (source.batch(indices, shape) for shape in shapes)
    for shape, batch in zip(shapes, batches, strict=True):
        unknown = sorted(set(batch) - {"x", "field", *_PER_SAMPLE, "mask"})
        if unknown or "x" not in batch:
            raise ValueError(
                f'write_fields: expected batches with "x" and perhaps "label", "condition", "field" and "mask", got '
                f"{sorted(batch)}; wrap the source in one that renames or drops the others."
            )
        for key in sorted(batch):
            name = key if key in _PER_SAMPLE else f"{grid_name(shape)}/{key}"
            values = batch[key].detach().cpu().numpy()
            channels = source.channels if key == "x" else values.shape[1] if values.ndim > 1 else 0
            expected = (len(rows), *values.shape[1:]) if key in _PER_SAMPLE else (len(rows), channels, *shape)
            if values.shape != expected:
                raise ValueError(
                    f"write_fields: expected {name} of shape {expected}, got {values.shape}; mend the source's batch()."
                )
            if key == "mask" and channels not in (1, source.channels):
                raise ValueError(
                    f"write_fields: expected {name} of 1 or {source.channels} channels, got {channels}; mend the source's "
                    f"batch()."
                )
            encoded = _encode(values, name, rows, dtypes.get(name) if isinstance(dtypes, Mapping) else dtypes)
            if not np.array_equal(out.setdefault(name, encoded), encoded):
                raise ValueError(
                    f"write_fields: expected the same {name} on every grid, got others on {grid_name(shape)}: samples "
                    f"{rows.start} .. {rows.stop - 1}; mend the source, whose samples may be drawn anew at each call."
                )
        x, mask = (f"{grid_name(shape)}/{key}" for key in ("x", "mask"))
        if mask in out and out[x].dtype != np.uint8:
            out[x] = np.where(out[mask] > 0, out[x], out[x].dtype.type(np.nan))
    return out


def _encode(values: np.ndarray, name: str, rows: range, dtype: str | None) -> np.ndarray:
    if name == "condition":
        if values.ndim == 2 and np.isfinite(values).all():
            return values.astype(np.float32)
        raise ValueError(f"write_fields: expected condition as finite numbers (B, K), got shape {values.shape}.")
    if name == "label":
        if values.ndim == 1 and values.dtype.kind in "iu":
            return values.astype(np.int64)
        if values.ndim == 2 and values.dtype.kind == "f" and np.isfinite(values).all():
            return values.astype(np.float32)
        raise ValueError(
            f"write_fields: expected labels as integers (B,) or finite floats (B, K), got {values.dtype} "
            f"{values.shape}; convert them in the source."
        )
    if name.endswith("/mask"):
        if not ((values == 0) | (values == 1)).all():
            raise ValueError(f"write_fields: expected {name} of 1 and 0 alone, got other values; use a threshold.")
        return values.astype(np.uint8)
    if values.dtype.kind != "f":
        raise ValueError(f"write_fields: expected {name} as floats, got {values.dtype}; convert it in the source.")
    dtype = ("float64" if values.dtype == np.float64 else "float32") if dtype is None else dtype
    limit = 1 + 1e-3 if dtype == "uint8" else np.finfo(dtype).max
    bad = ~(np.abs(values) <= limit)  # true for NaN
    if bad.any():
        raise ValueError(
            f"write_fields: {name}, sample {rows[int(np.argwhere(bad)[0, 0])]}: expected finite values"
            + (" in [-1, 1], as uint8 would clip others" if dtype == "uint8" else "")
            + f', got {values[bad][0]}; mend or rescale the source, or write dtype="float32".'
        )
    return np.rint(values * 127.5 + 127.5).astype(np.uint8) if dtype == "uint8" else values.astype(dtype)


def _check_shapes(shapes: Sequence[Sequence[int] | int] | int, domain: Domain | None) -> list[Shape]:
    if not isinstance(shapes, Integral | Iterable) or isinstance(shapes, str):
        raise ValueError(f"write_fields: expected shapes such as [16, (24, 24)], got {shapes!r}; name the grids.")
    listed = [shapes] if isinstance(shapes, Integral) else list(shapes)
    if domain is None and any(isinstance(shape, Integral) for shape in listed):
        raise ValueError(
            f"write_fields: expected shapes as tuples, got {listed}, as the source does not know its domain; write such as "
            f"[(16, 16), (24, 24)]."
        )
    if domain is not None:
        out = [domain.check_shape(shape) for shape in listed]
    else:
        out = [
            tuple(int(n) if isinstance(n, Integral) else n for n in s) if isinstance(s, Iterable) else (s,)
            for s in listed
        ]
    right = all(1 <= len(shape) <= 3 and all(isinstance(n, int) and n > 0 for n in shape) for shape in out)
    if not out or not right or len({len(shape) for shape in out}) > 1 or len(set(out)) < len(out):
        raise ValueError(
            f"write_fields: expected shapes of 1 to 3 positive sizes, all with as many axes and none twice, got {out}; name "
            f"each grid once."
        )
    return out


def _check_attributes(attributes: Mapping[str, str | int | float]) -> dict[str, str | int | float]:
    if not isinstance(attributes, Mapping):
        raise WrongKind(f"write_fields: expected attributes as a dict, got {described(attributes)}.")
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


@dataclass
class _Names:
    """What the file's dimensions are called, and the coordinates along them."""

    axes: dict[Shape, dict[str, tuple[np.ndarray | None, dict[str, Any]]]]
    channels: Sequence[str] | None
    numbers: Sequence[str]
    units: str | None

    @classmethod
    def of(
        cls, source: Fields, domain: Domain | None, shapes: Sequence[Shape], attributes: Mapping[str, Any]
    ) -> _Names:
        """Those of a source; one that does not know its domain has coordinates if it is of cell averages."""
        known = domain is not None or attributes["grid"] == GRIDS[0]
        on = Box(len(shapes[0])) if domain is None else domain
        axes = {shape: grid_coordinates(on, shape, getattr(source, "axes", None)) for shape in shapes}
        if not known:
            axes = {shape: {name: (None, {}) for name in names} for shape, names in axes.items()}
        units = set(getattr(source, "units", None) or [None])
        numbers = tuple(getattr(source, "condition_names", ()))
        return cls(axes, getattr(source, "channel_names", None), numbers, units.pop() if len(units) == 1 else None)


def _create(path: Path, layout: Mapping[str, tuple], attributes: Mapping[str, Any], names: _Names) -> int:
    """Make an empty file of this layout, under its name only once it is whole, and return 0: the samples in it."""
    partial = path.with_name(f".{path.name}.partial")
    with h5py.File(partial, "w", track_order=True) as file:  # as netCDF-4 asks for
        length = next(iter(layout.values()))[0][0]
        _dimension(file, "sample", length, np.arange(length))
        for shape, axes in names.axes.items():
            group = file.create_group(grid_name(shape), track_order=True)
            for (name, (values, about)), n in zip(axes.items(), shape, strict=True):
                _dimension(group, name, n, values).attrs.update(about)
        for name, (shape, dtype) in layout.items():
            # contiguous: rows are read at random, and one write touches no index
            data = file.create_dataset(name, shape, dtype, track_order=True)
            group, _, key = name.rpartition("/")
            dims = ["sample", *([] if len(shape) == 1 else [_channel_name(key, layout, name)])]
            for axis, dim in enumerate(dims):
                if dim not in file:
                    own = {"channel": names.channels, "number": names.numbers}.get(dim)
                    _dimension(file, dim, shape[axis], None if own is None else np.array(own, dtype=object))
                data.dims[axis].attach_scale(file[dim])
            for axis, dim in enumerate(file[group] if group else ()):
                if axis + 2 < len(shape):
                    data.dims[axis + 2].attach_scale(file[group][dim])
            if key != "mask" and dtype == np.uint8:
                data.attrs.update(scale_factor=np.float32(1 / 127.5), add_offset=np.float32(-1))
            elif key == "x" and f"{group}/mask" in layout:
                data.attrs["_FillValue"] = np.asarray(np.nan, dtype=dtype)
            if key == "x" and names.units is not None:
                data.attrs["units"] = names.units
        file.attrs.update({"Conventions": CONVENTIONS, **attributes})
        file.attrs["complete"] = np.int64(0)
    os.replace(partial, path)
    return 0


def _channel_name(key: str, layout: Mapping[str, tuple], name: str) -> str:
    """The name of a dataset's second dimension: masks share that of x where they have as many channels."""
    if key == "mask" and layout[name][0][1] == layout[name.replace("mask", "x")][0][1]:
        return "channel"
    names = {"x": "channel", "field": "field_channel", "mask": "mask_channel"}
    return {**names, "label": "label_component", "condition": "number"}[key]


def _dimension(group: h5py.Group, name: str, length: int, values: np.ndarray | None) -> h5py.Dataset:
    """A netCDF dimension, with its coordinate if there is one."""
    kind = h5py.string_dtype() if values is not None and values.dtype == object else None
    scale = group.create_dataset(
        name, data=np.zeros(length, np.float32) if values is None else values, dtype=kind, track_order=True
    )
    # what netCDF-4 calls the scale of a dimension without a variable
    scale.make_scale(
        name if values is not None else f"This is a netCDF dimension but not a netCDF variable. {length:10d}"
    )
    return scale


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
        about = {k: v for k, v in file.attrs.items() if k not in ("complete", "Conventions")}
        found = {f"attribute {k}": v for k, v in about.items()} | datasets(file)
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
