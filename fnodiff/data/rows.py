"""Arrays as rows of samples, (N, C, *grid), whatever their axes, bytes and strides; read when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from fnodiff.domain import Domain, Shape, native

KEPT = 1e-4
"""float32 must keep a channel's values to this share of their spread, or they are handed out in float64."""


@dataclass(frozen=True)
class Axis:
    """An axis of a file: its name, where the domain begins and how far it goes in the file's units, and what these are."""

    name: str
    origin: float
    length: float
    attributes: dict[str, Any]


@runtime_checkable
class Rows(Protocol):
    """Samples (N, C, *grid), of which some are read at a time."""

    shape: Shape
    single: bool
    """Whether float32 holds every value."""

    def __getitem__(self, rows: list[int]) -> Tensor:
        """(len(rows), C, *grid), NaN where missing."""


@dataclass
class Layout:
    """How an array's axes become (N, C, *grid): axes of frames, if there are some, and channels become one."""

    shape: Shape
    dim: int
    last: bool

    def __call__(self, part: Tensor) -> Tensor:
        """Samples (B, ..) of the array as (B, C, *grid)."""
        if part.ndim == self.dim + 1:
            return part.unsqueeze(1)
        if self.last:
            part = part.movedim(-1, -1 - self.dim)
        return part.flatten(1, -1 - self.dim)

    @property
    def fields(self) -> Shape:
        """(N, C, *grid)."""
        return (self.shape[0], *self(torch.empty(1, *self.shape[1:], device="meta")).shape[1:])


def layout(name: str, shape: Sequence[int], domain: Domain, channel_axis: int | None, known: bool = False) -> Layout:
    """The layout of an array (N, *grid), (N, C, *grid) or (N, *grid, C), or such with frames (N, T, ..).

    Of a known grid, as that of latitudes and longitudes, channels cannot be mistaken for it.
    """
    shape, dim = tuple(shape), domain.dim
    if 0 in shape:
        raise ValueError(f"ArrayFields: expected {name} with values, got {shape}; look at the selection, or the file.")
    if not dim + 1 <= len(shape) <= dim + 3:
        raise ValueError(
            f"ArrayFields: expected {name} as real numbers (N, *grid), (N, C, *grid) or (N, T, C, *grid) with a grid of {dim} "
            f"axes, got {shape}; select what is meant, such as one frame, or pass the domain of its dimension."
        )
    before, after = shape[-1 - dim : -1], shape[-dim:]
    square = dim == 1 or known  # says nothing about which axes are the grid's
    last = len(shape) > dim + 1 and (square or (domain.is_usual(before) and not domain.is_usual(after)))
    one = shape[-1] == 1 and min(before) > 1  # as one point is no grid
    if channel_axis is None and last and not square and not one:
        raise ValueError(
            f"ArrayFields: {name} {shape} has a usual grid only with its channels last; pass channel_axis=-1 for "
            f"{shape[-1]} channels on a grid {before}, or channel_axis=1 for {shape[-1 - dim]} channels on {after}."
        )
    return Layout(shape, dim, channel_axis == -1 or (channel_axis is None and last and one))


@dataclass
class ArrayRows:
    """One array: a tensor, or a NumPy array of any byte order and strides, mapped or read-only."""

    array: Tensor | np.ndarray
    layout: Layout

    @property
    def shape(self) -> Shape:
        return self.layout.fields

    @property
    def single(self) -> bool:
        return single(self.array.dtype)

    def __getitem__(self, rows: list[int]) -> Tensor:
        if isinstance(self.array, Tensor):
            return self.layout(self.array[torch.tensor(rows, dtype=torch.long)])
        return self.layout(native(self.array[rows]))


@dataclass
class StackedRows:
    """An array for each sample, all alike."""

    arrays: list[Tensor | np.ndarray]
    layout: Layout

    @property
    def shape(self) -> Shape:
        return self.layout.fields

    @property
    def single(self) -> bool:
        return all(single(array.dtype) for array in self.arrays)

    def __getitem__(self, rows: list[int]) -> Tensor:
        parts = [self.arrays[row] for row in rows]
        return self.layout(torch.stack([p if isinstance(p, Tensor) else native(np.array(p)) for p in parts]))


class _Parts:
    """Rows made of others."""

    parts: list[Rows]

    @property
    def single(self) -> bool:
        return all(part.single for part in self.parts)

    @property
    def chunk(self) -> int:
        """How many rows are stored together."""
        return max(getattr(part, "chunk", 1) for part in self.parts)


@dataclass
class JoinedRows(_Parts):
    """The channels of several arrays, one after another."""

    parts: list[Rows]
    names: tuple[str, ...] | None = None
    units: tuple[str | None, ...] | None = None
    axes: tuple[Axis, ...] | None = None

    def __post_init__(self) -> None:
        shapes = [part.shape for part in self.parts]
        if len({(shape[0], *shape[2:]) for shape in shapes}) > 1:
            raise ValueError(
                f"ArrayFields: expected arrays of as many samples on one grid, got {shapes}; read them apart."
            )

    @property
    def shape(self) -> Shape:
        first = self.parts[0].shape
        return first[0], sum(part.shape[1] for part in self.parts), *first[2:]

    def __getitem__(self, rows: list[int]) -> Tensor:
        parts = [part[rows] for part in self.parts]
        kind = torch.float32 if self.single else torch.float64
        return torch.cat([part.to(kind) for part in parts], dim=1)


@dataclass
class ChainedRows(_Parts):
    """The samples of several files, one after another, with what the first one's are called."""

    parts: list[Rows]

    def __post_init__(self) -> None:
        shapes = [part.shape[1:] for part in self.parts]
        if len(set(shapes)) > 1:
            raise ValueError(
                f"expected files of the same channels and grid, got {sorted(set(shapes))}; read them apart."
            )
        self._ends = np.cumsum([part.shape[0] for part in self.parts])
        first = self.parts[0]
        self.names, self.units, self.axes = (getattr(first, name, None) for name in ("names", "units", "axes"))

    @property
    def shape(self) -> Shape:
        return int(self._ends[-1]), *self.parts[0].shape[1:]

    def __getitem__(self, rows: list[int]) -> Tensor:
        place = np.searchsorted(self._ends, rows, side="right")
        out = torch.empty(len(rows), *self.shape[1:], dtype=torch.float32 if self.single else torch.float64)
        for number in np.unique(place):
            own = np.flatnonzero(place == number)
            first = self._ends[number] - self.parts[number].shape[0]
            out[own] = self.parts[number][[int(rows[i] - first) for i in own]].to(out.dtype)
        return out


def plain(name: str, values: Any) -> tuple[Tensor | np.ndarray, np.ndarray | None]:
    """An array as it lies in memory, and True where a masked array has values; neither is copied."""
    if hasattr(values, "dims") and hasattr(values, "coords"):
        raise ValueError(
            f"ArrayFields: expected {name} as an array, got an xarray {type(values).__name__}; write from_xarray(dataset, "
            f"variables), which reads its coordinates too."
        )
    if isinstance(values, Tensor):
        array, there = values.detach(), None
        real = not array.is_complex() and array.layout == torch.strided
    else:
        there = None
        try:
            array = np.asanyarray(values)
        except ValueError as error:  # lists of different lengths
            raise ValueError(
                f"ArrayFields: expected {name} as an array, got {type(values).__name__} that is none: {error}; give all "
                f"samples the same grid."
            ) from error
        if isinstance(array, np.ma.MaskedArray):
            if np.ma.is_masked(array):
                there = ~np.ma.getmaskarray(array)
                array = np.where(there, array.data, array.dtype.type(0))  # what is masked may be anything
            else:
                array = array.data
        array = np.asarray(array)
        real = array.dtype.kind in "biuf"
    if not real:
        raise ValueError(
            f"ArrayFields: expected {name} as real numbers, got {array.dtype} {tuple(array.shape)}; convert them first."
        )
    return array, there


def single(dtype: torch.dtype | np.dtype) -> bool:
    """Whether float32 holds every number of this type."""
    if isinstance(dtype, torch.dtype):
        whole = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16}
        return dtype in whole or (dtype.is_floating_point and dtype.itemsize <= 4)
    return dtype.itemsize <= (4 if dtype.kind == "f" else 2)


def loses(most: Tensor, spread: Tensor) -> bool:
    """Whether float32 rounds away more than `KEPT` of the spread of a channel whose values are up to `most`."""
    return bool(((most * 2.0**-24 > KEPT * spread) & (spread > 1e-14 * most)).any())
