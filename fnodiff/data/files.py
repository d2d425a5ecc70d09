"""Arrays from files: MATLAB, NumPy, PyTorch and HDF5; labelled ones, such as netCDF, through `labelled`."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from fnodiff.data.labelled import SUFFIXES as LABELLED
from fnodiff.data.labelled import is_labelled, read_variable, variables
from fnodiff.data.source import reading
from fnodiff.domain import Shape, native

PLAIN = (".mat", ".npy", ".npz", ".pt", ".pth", ".h5", ".hdf5", ".he5")
SUFFIXES = (*PLAIN, *LABELLED)
_UNNAMED = "arr_0"  # numpy's name for an array without one
_Entries = Mapping[str, tuple[Shape, Callable[[], np.ndarray | Tensor]]]


def list_arrays(path: str | os.PathLike[str]) -> dict[str, Shape]:
    """The names and shapes of a file's numeric arrays, read only if PyTorch's old format. Errors as of `read_arrays`."""
    return {name: tuple(shape) for name, (shape, _) in _entries(Path(path)).items()}


def read_arrays(path: str | os.PathLike[str], names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """The numeric arrays of a file; text, cells, structures and other objects are left out.

    .npy, .pt and contiguous HDF5 data sets are mapped: read where and when they are used, and what is written to them never
    reaches the file. The others are read whole. Labelled ones, as of netCDF, come unpacked, missing values as NaN.

    Args:
        path: MATLAB .mat (v7.3 too, whose axes HDF5 has in reverse: they come as MATLAB shows them), NumPy .npy and .npz,
            PyTorch .pt and .pth (a dict of tensors, or a tensor), HDF5 .h5 and .hdf5 ("group/name" for nested ones), or
            netCDF .nc and Zarr. An array without a name is called "arr_0".
        names: Which to read; all by default.

    Raises:
        ValueError: If the file is of another kind, damaged, or holds pickled objects instead of arrays, which are refused
            because loading them can run code; or has no array of such a name: those it has are listed.
        ImportError: If the file is a labelled one, and xarray is not installed.
    """
    path = Path(path)
    entries = _entries(path)
    names = list(entries) if names is None else list(names)
    unknown = [name for name in names if name not in entries]
    if unknown:
        raise ValueError(
            f"read_arrays: expected arrays {unknown} in {path}, which has {found_text(list_arrays(path))}."
        )
    return {name: _attempt(path, lambda name=name: _tensor(entries[name][1]())) for name in names}


def _entries(path: Path) -> _Entries:
    suffix = path.suffix.lower()
    if suffix in LABELLED and path.exists():
        return {name: (shape, lambda name=name: read_variable(path, name)) for name, shape in variables(path).items()}
    if suffix not in PLAIN or not path.is_file():
        raise ValueError(f"read_arrays: expected a file ending in one of {', '.join(SUFFIXES)}, got {path}.")
    matlab = _hdf5 if h5py.is_hdf5(path) else _matlab  # v7.3 is HDF5
    read = {".npy": _npy, ".npz": _npz, ".pt": _torch, ".pth": _torch, ".mat": matlab}.get(suffix, _hdf5)
    return _attempt(path, lambda: read(path))


def _attempt(path: Path, read: Callable[[], Any]) -> Any:
    with reading(path, "read_arrays: "):
        return read()


def found_text(found: Mapping[str, Shape], limit: int = 20) -> str:
    """What a file holds, in words."""
    listed = ", ".join(f"{name} {shape}" for name, shape in list(found.items())[:limit]) or "no numeric array"
    return listed + (f" and {len(found) - limit} more" if len(found) > limit else "")


def _tensor(values: np.ndarray | Tensor) -> Tensor:
    return values if isinstance(values, Tensor) else native(values)


def _numeric(dtype: np.dtype) -> bool:
    return dtype.kind in "biufc" and dtype.itemsize <= (16 if dtype.kind == "c" else 8)


def _npy(path: Path) -> _Entries:
    values = np.load(path, mmap_mode="c", allow_pickle=False)
    return {_UNNAMED: (values.shape, lambda: values)} if _numeric(values.dtype) else {}


def _npz(path: Path) -> _Entries:
    out = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as file:
                old = np.lib.format.read_magic(file) == (1, 0)
                header = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
                shape, _, dtype = header(file)
            if _numeric(dtype):
                out[member.removesuffix(".npy")] = shape, lambda name=member: np.load(path, allow_pickle=False)[name]
    return out


def _matlab(path: Path) -> _Entries:
    from scipy import io

    kinds = {"double", "single", "logical", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}
    return {
        name: (shape, lambda name=name: io.loadmat(path, variable_names=[name])[name])
        for name, shape, kind in io.whosmat(path)
        if kind in kinds
    }


def _hdf5(path: Path) -> _Entries:
    out, step = {}, -1 if path.suffix.lower() == ".mat" else 1

    def visit(name: str, item: h5py.Dataset | h5py.Group) -> None:
        other = name.startswith("#") or item.attrs.get("MATLAB_class") == b"char" or "MATLAB_empty" in item.attrs
        if isinstance(item, h5py.Dataset) and item.shape is not None and _numeric(item.dtype) and not other:
            axes = range(item.ndim)[::step]
            out[name] = item.shape[::step], lambda: _read_hdf5(path, name).transpose(axes)

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return out


def _read_hdf5(path: Path, name: str) -> np.ndarray:
    with h5py.File(path, "r") as file:
        data = file[name]
        if is_labelled(data):
            return read_variable(path, name)
        offset = data.id.get_offset()  # None if it is stored in chunks
        if offset is None or data.size == 0 or data.external:
            return data[()]
        return np.memmap(path, dtype=data.dtype, mode="c", offset=offset, shape=data.shape)


def _torch(path: Path) -> _Entries:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ValueError("expected tensors, got other objects, refused as loading them can run code") from error
    found = {_UNNAMED: found} if isinstance(found, Tensor) else found
    if not isinstance(found, Mapping):
        raise ValueError(f"expected a dict of tensors or a tensor, got {type(found).__name__}")
    return {str(key): (v.shape, lambda v=v: v.detach()) for key, v in found.items() if isinstance(v, Tensor)}
