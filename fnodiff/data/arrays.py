"""Fields from arrays, on disk or in memory, and missing values.

Coarser grids are made from the stored one: where there are walls, on `Box` and `Product`, by averages over the cells, elsewhere
by the modes that they hold.
Missing values are left out of an average: with m = 1 where x was measured and 0 elsewhere,

    m_c = 1 if the mean of m over cell c exceeds 1/2, else 0,    x_c = m_c (mean of m x over c) / (mean of m over c).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fnodiff.data.chunks import ChunkedRows, Chunks
from fnodiff.data.latlon import LatLon
from fnodiff.data.look import Look
from fnodiff.data.rows import ArrayRows, Axis, Rows, layout, plain
from fnodiff.data.source import as_numbers, check_shares, number_names, selected
from fnodiff.domain import Domain, Shape
from fnodiff.expected import kinds_checked

_CHUNK = 64  # samples looked through at a time


@kinds_checked
class ArrayFields:
    """Samples from arrays, on any grid no finer than theirs.

    Arrays of d + 1 axes, d = domain.dim, are (N, *grid). Arrays of d + 2 axes are (N, C, *grid), or with channel_axis=-1
    (N, *grid, C), such as the frames (N, n, n, T) of a flow; one whose grid is square, or on the globe twice as long as high,
    only when read the other way is refused until `channel_axis` says what is meant. Arrays of d + 3 axes have frames too,
    (N, T, C, *grid), and every channel of every frame is a channel.

    On `Sphere` arrays come with their latitudes and longitudes, and are read from north to south and east from longitude 0,
    however they lie (`LatLon`); what the grid's degrees do not hold is projected out, on the stored grid too.

    On `Box` and `Product` values count as cell averages, cells of a periodic axis lying around its points i / n; on `Torus` as
    points i / n. Files with points on both edges of a box, such as FNO's 421 x 421 Darcy flow, are off by up to half a cell
    when served so. A periodic axis that is given with its end point twice, first and last value equal in all samples, is
    served without the second one, and a warning says so.

    NaN in `x` are missing values, as is what a NumPy masked array masks; x is read once, at construction, to see whether it
    has any. If it has, or if there is a `mask`, batches have an entry "mask", and x is 0 where that is 0. A coarser cell is
    measured when more than half of it is, and its value is the mean over the measured part (`Domain.average`). As
    `resample` is not local, fields with missing values are averaged on every domain.

    Arrays may have any byte order, strides and real type. They are kept as they are, mapped or not. Batches are float32; they
    are float64 where float32 would round away more than 1e-4 of the spread of a channel, as of a pressure of 101325 Pa with
    ripples of 0.02 Pa. A pickled copy holds the arrays in full.

    Args:
        x: The samples: real numbers.
        field: What they are conditioned on, on the same grid or another. It must be finite.
        label: Integers (N,), or shares of K classes, finite floats (N, K).
        condition: Finite numbers that condition a sample, such as a viscosity or a lead time: (N,) or (N, K). They are scaled
            by the data; of numbers that span decades give the logarithms.
        condition_names: A name for each of the K; by default "condition", or "condition 0", "condition 1", ...
        domain: What the samples are functions on; with latitudes and longitudes it may be left out.
        latitudes, longitudes: Of a grid on the globe, in degrees; the last two axes of the grid are these, in either order.
        mask: True or 1 where x was measured, False or 0 elsewhere: (*grid) for all samples, or like x, with 1 or C channels.
        channel_axis: 1 or -1, for arrays of d + 2 axes or more; by default 1, but -1 where that is a single channel.
        chunks: Read whole chunks, and epochs chunk by chunk: for what is larger than memory.

    Attributes:
        channels, condition_channels: C of x, and of the field, 0 without one.
        shape, masked: The grid of x, and whether batches have a mask.
        channel_names, units, axes: Of the channels, and what a labelled file's axes are called and measured in; None where
            nothing says them.

    Raises:
        ValueError: If the arrays do not fit the domain or each other, or x holds infinite values.

    Warns:
        UserWarning: If a periodic axis is given with its end point twice.

    Examples:
        >>> import torch
        >>> from fnodiff import Box
        >>> from fnodiff.data import ArrayFields
        >>> x = torch.arange(32.0).reshape(2, 4, 4)
        >>> x[0, 0, 0] = torch.nan
        >>> batch = ArrayFields(x, domain=Box(2)).batch([0], (2, 2))
        >>> batch["x"], batch["mask"].min()
        (tensor([[[[ 3.3333,  4.5000],
                  [10.5000, 12.5000]]]]), tensor(1.))
    """

    def __init__(
        self,
        x: Tensor | np.ndarray | Rows,
        field: Tensor | np.ndarray | Rows | None = None,
        label: Tensor | np.ndarray | None = None,
        *,
        condition: Tensor | np.ndarray | Sequence[float] | None = None,
        condition_names: Sequence[str] | str | None = None,
        domain: Domain | None = None,
        latitudes: Sequence[float] | Tensor | None = None,
        longitudes: Sequence[float] | Tensor | None = None,
        mask: Tensor | np.ndarray | None = None,
        channel_axis: int | None = None,
        chunks: Chunks | None = None,
    ) -> None:
        if channel_axis not in (None, 1, -1):
            raise ValueError(f"ArrayFields: expected channel_axis 1 or -1, got {channel_axis!r}; permute the array.")
        if (latitudes is None) != (longitudes is None):
            raise ValueError("ArrayFields: expected both latitudes and longitudes, or neither; pass the other too.")
        self._place = None if latitudes is None else LatLon(latitudes, longitudes)
        if self._place is not None and domain not in (None, self._place.domain):
            raise ValueError(
                f"ArrayFields: expected {self._place.domain}, whose latitudes these are, got {domain}; leave out the domain."
            )
        domain = domain if self._place is None else self._place.domain
        if domain is None:
            raise ValueError("ArrayFields: expected a domain, or latitudes and longitudes, got neither; pass domain=.")
        self.domain, self._channel_axis = domain, channel_axis
        self.channel_names: tuple[str, ...] | None = getattr(x, "names", None)
        self.units: tuple[str | None, ...] | None = getattr(x, "units", None)
        self.axes: tuple[Axis, ...] | None = getattr(x, "axes", None)
        self._masks: list[ArrayRows] = []
        self._x = self._rows("x", x)
        self._field = None if field is None else self._rows("field", field)
        self._label = None if label is None else _as_label(label)
        self._condition = None if condition is None else as_numbers("ArrayFields", condition)
        self.condition_names = number_names("ArrayFields", self._condition, condition_names)
        if mask is not None:
            self._add_mask(mask)
        lengths = [len(values) for values in (self._label, self._condition) if values is not None]
        lengths = [rows.shape[0] for rows in (self._x, self._field) if rows is not None] + lengths
        if len(set(lengths)) > 1:
            raise ValueError(f"ArrayFields: expected as many samples in each array, got {lengths}; cut the longer.")
        if not self._x.shape[0]:
            raise ValueError("ArrayFields: expected one sample or more, got none; look at the selection, or the file.")
        self.channels, self._ends = self._x.shape[1], (slice(None),) * domain.dim
        seen = [*range(len(self))]
        if chunks is not None:
            self._x = chunks.of(self._x)
            self._field = None if self._field is None else chunks.of(self._field)
            seen = self._x.spread(chunks.scan)
        self._trusted = len(seen) < len(self)
        looked = Look(domain.periodic if self._place is None else ())
        for part in _parts(seen):
            looked.at(*self._read(part))
        self.masked, self._double = looked.missing or bool(self._masks), not self._x.single and looked.loses
        self._double_field = self._field is not None and not self._field.single and self._loses(self._field, seen)
        if looked.closed:
            self._leave_out_ends(looked.closed)
        self.shape: Shape = tuple(self._shown(self._x[[0]], self._x.shape).shape[2:])
        self.condition_channels = 0 if self._field is None else self._field.shape[1]

    @property
    def cell_averages(self) -> bool:
        """Whether coarser grids are made by averages over cells: where there are walls."""
        return self.domain.averages_cells

    @property
    def num_classes(self) -> int:
        """How many classes the labels name; 0 without."""
        if self._label is None:
            return 0
        return self._label.shape[1] if self._label.is_floating_point() else int(self._label.max()) + 1

    @classmethod
    @kinds_checked
    def open(
        cls,
        path: str | os.PathLike[str],
        x: str | Sequence[str] | None = None,
        field: str | Sequence[str] | None = None,
        label: str | None = None,
        *,
        condition: str | Sequence[str] | None = None,
        domain: Domain | None = None,
        latitude: str | None = None,
        longitude: str | None = None,
        mask: str | os.PathLike[str] | None = None,
        channel_axis: int | None = None,
        chunks: Chunks | None = None,
    ) -> ArrayFields:
        """A source from the arrays of one file: `ArrayFields.open(path, x="sol", field="coeff", domain=Box(2))`.

        The arrays are given by name, x may be left out if there is one only; the rest is as for the class. Darcy flow is
        "coeff" and "sol" in FNO's files, "x" and "y" in neuralop's, "nu" and "tensor" in PDEBench's; Navier-Stokes is "a" and
        "u" (with channel_axis=-1) in FNO's. Files of fields on the globe have `latitude="lat", longitude="lon"` or the like.

        Several names are channels, as x=["Vx", "Vy", "density", "pressure"] of PDEBench's flows. A pattern such as
        `x="*/data"` is a group for each sample, as of its shallow water.

        Labelled files (netCDF 3 and 4, Zarr, HDF5 with the dimensions or packing of netCDF) are read with xarray by
        `from_xarray`, which finds latitudes and longitudes by itself; it is installed with `pip install fnodiff[xarray]`.

        Args:
            path, x, field, label, domain, channel_axis, chunks: As above. Compressed arrays of plain HDF5 are read whole.
            condition: Of numbers that condition samples, by whose arrays' names they are called.
            latitude, longitude: Names of these arrays.
            mask: Name of the array that is 1 where x was measured; or a file with one array.

        Raises:
            ValueError: As `read_arrays` and the class; what the file holds is listed.
            ImportError: If a labelled file is asked for, and xarray is not installed.
        """
        from fnodiff.data.opened import open_arrays

        names = {"x": x, "field": field, "label": label, "condition": condition, "mask": mask}
        names |= {"latitude": latitude, "longitude": longitude}
        return open_arrays(cls, path, names, domain, channel_axis, chunks)

    def __len__(self) -> int:
        return self._x.shape[0]

    def __repr__(self) -> str:
        grid, masked = " x ".join(map(str, self.shape)), ", some values missing" if self.masked else ""
        return f"ArrayFields: {len(self)} samples, {self.channels} channels, up to {grid}{masked}"

    def batch(self, indices: Sequence[int], shape: Shape) -> dict[str, Tensor]:
        """Samples on one grid.

        Args:
            indices: B of them, in any order, repeated or not; or a slice, or a boolean for each sample.
            shape: No finer than the stored grid along any axis.

        Returns:
            "x", float32 or float64 (B, C, *shape), in the units of the array, and if there are any "mask", float32
            (B, C, *shape), 1 where x was measured, "field", (B, condition_channels, *shape), "label" and "condition", float32
            (B, K).

        Raises:
            ValueError: If the grid is too fine, an index out of range, or the field is not finite.
        """
        rows = selected("ArrayFields", indices, len(self))
        x, there = self._read(rows)
        if self._trusted and (bool((x.isinf() & there).any()) or not (self.masked or bool(there.all()))):
            raise ValueError(
                "ArrayFields: expected finite values without missing ones, as in the samples that were looked at, got others; "
                "mend them, or look at more: Chunks(scan=...)."
            )
        x = x.double() if self._double else x.float()
        if not self.masked:
            out = {"x": self._regrid("x", x, shape)}
        else:
            there = there.to(x.dtype)
            share, total = self._means(there, shape), self._means(torch.where(there > 0, x, 0.0), shape)
            kept = (share > 0.5 + 1e-6).to(x.dtype)  # half a cell is not enough, however the share was rounded
            out = {"x": kept * total / torch.where(kept > 0, share, 1.0), "mask": kept.float()}
        if self._field is not None:
            field = self._shown(self._field[rows], self._field.shape)
            field = field.double() if self._double_field else field.float()
            if not bool(field.isfinite().all()):
                raise ValueError("ArrayFields: expected a finite field, got NaN or infinite values; fill them first.")
            out["field"] = self._regrid("field", field, shape)
        if self._label is not None:
            out["label"] = self._label[torch.tensor(rows, dtype=torch.long)]
        if self._condition is not None:
            out["condition"] = self._condition[torch.tensor(rows, dtype=torch.long)]
        return out

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """The samples of an epoch in a random order, those of a chunk near each other."""
        return self._x.order(rng) if isinstance(self._x, ChunkedRows) else rng.permutation(len(self))

    def _rows(self, name: str, values: Any) -> Rows:
        """An array as rows; what it masks is noted."""
        if isinstance(values, Rows):
            return values
        array, there = plain(name, values)
        made = layout(name, array.shape, self.domain, self._channel_axis, self._place is not None)
        if there is not None:
            if name != "x":
                raise ValueError(f"ArrayFields: expected a {name} without masked values, got some; fill them first.")
            self._masks.append(ArrayRows(there, made))
        return ArrayRows(array, made)

    def _add_mask(self, mask: Any) -> None:
        """A mask (*grid) of all samples, or one like x."""
        array, _ = plain("mask", mask)
        shared = array.ndim == self.domain.dim
        rows = self._rows("mask", array[None] if shared else array)
        samples, channels, *grid = self._x.shape
        fits = [*rows.shape[2:]] == grid and rows.shape[1] in (1, channels)
        if not fits or not (shared or rows.shape[0] == samples):
            raise ValueError(
                f"ArrayFields: expected a mask for x {self._x.shape}, got {tuple(array.shape)}; give it the grid of x."
            )
        for some in _parts([*range(rows.shape[0])]):
            if not bool((((part := rows[some]) == 0) | (part == 1)).all()):
                raise ValueError(
                    "ArrayFields: expected a mask of 1 and 0, or booleans, got other values; use a threshold."
                )
        self._masks.append(rows)

    def _read(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        """x of these samples, and where it was measured, (B, C, *grid)."""
        x = self._shown(self._x[rows], self._x.shape)
        there = ~x.isnan()
        for mask in self._masks:
            there = there & self._shown(mask[rows if mask.shape[0] > 1 else [0]], mask.shape).bool()
        return x, there

    def _shown(self, values: Tensor, stored: Shape) -> Tensor:
        """Values of the stored grid, from north and longitude 0, without end points."""
        return self._placed(values)[(..., *self._ends)] if stored[2:] == self._x.shape[2:] else self._placed(values)

    def _placed(self, values: Tensor) -> Tensor:
        return values if self._place is None else self._place(values)

    def _leave_out_ends(self, axes: list[int]) -> None:
        stored = self._x.shape[2:]
        self._ends = tuple(slice(n - (axis in axes)) for axis, n in enumerate(stored))
        kept = tuple(n - (axis in axes) for axis, n in enumerate(stored))
        if self.axes is not None:
            sizes = zip(self.axes, stored, kept, strict=True)
            self.axes = tuple(replace(one, length=one.length * m / n) for one, n, m in sizes)
        warnings.warn(
            f"ArrayFields: the grid {stored} of {self.domain} has its end point twice: along axis {axes} first and last "
            f"values are equal in all samples; the last is left out, and the grid is {kept}.",
            stacklevel=4,
        )

    def _loses(self, rows: Rows, seen: list[int]) -> bool:
        looked = Look(())
        for part in _parts(seen):
            x = rows[part]
            looked.at(x, torch.ones_like(x, dtype=torch.bool))
        return looked.loses

    def _means(self, values: Tensor, shape: Shape) -> Tensor:
        return self.domain.average(values, self._coarser("x", values, shape))

    def _regrid(self, name: str, values: Tensor, shape: Shape) -> Tensor:
        return self.domain.coarsen(values, self._coarser(name, values, shape))

    def _coarser(self, name: str, values: Tensor, shape: Shape) -> Shape:
        shape, stored = self.domain.check_shape(shape), tuple(values.shape[2:])
        if any(n > m for n, m in zip(shape, stored, strict=True)):
            raise ValueError(
                f"ArrayFields: expected a grid no finer than {stored}, that of {name}, got {shape}; take a coarser one."
            )
        return shape


def _parts(rows: list[int]) -> list[list[int]]:
    return [rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK)]


def _as_label(values: Any) -> Tensor:
    array, _ = plain("label", values)
    label = torch.as_tensor(
        array if isinstance(array, Tensor) else np.array(array, dtype=array.dtype.newbyteorder("="))
    )
    if label.ndim == 1 and not (label.is_floating_point() or label.dtype == torch.bool):
        return label.long()
    if label.ndim == 2 and label.is_floating_point() and bool(label.isfinite().all()):
        return check_shares("ArrayFields", label.float())
    got = f"{label.dtype} {tuple(label.shape)}"
    raise ValueError(f"ArrayFields: expected labels as integers (N,) or finite floats (N, K), got {got}.")
