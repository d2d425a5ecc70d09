"""Fields from arrays, on disk or in memory, and missing values.

Coarser grids are made from the stored one: where there are walls, on `Box` and `Product`, by averages over the cells, elsewhere
by the modes that they hold.
Missing values are left out of an average: with m = 1 where x was measured and 0 elsewhere,

    m_c = 1 if the mean of m over cell c exceeds 1/2, else 0,    x_c = m_c (mean of m x over c) / (mean of m over c).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fnodiff.data.files import found_text, list_arrays, read_arrays
from fnodiff.data.latlon import LatLon
from fnodiff.data.source import check_indices
from fnodiff.domain import Domain, Shape

_CHUNK = 64  # samples looked through at a time


class ArrayFields:
    """Samples from arrays, on any grid no finer than theirs.

    Arrays of d + 1 axes, d = domain.dim, are (N, *grid). Arrays of d + 2 axes are (N, C, *grid), or with channel_axis=-1
    (N, *grid, C), such as the frames (N, n, n, T) of a flow; one whose grid is square, or on the globe twice as long as high,
    only when read the other way is refused until `channel_axis` says what is meant.

    On `Sphere` arrays come with their latitudes and longitudes, and are read from north to south and east from longitude 0,
    however they lie (`LatLon`); what the grid's degrees do not hold is projected out, on the stored grid too.

    On `Box` and `Product` values count as cell averages, cells of a periodic axis lying around its points i / n; on `Torus` as
    points i / n. Files with points on both edges of a box, such as
    FNO's 421 x 421 Darcy flow, are off by up to half a cell when served so.

    NaN in `x` are missing values; x is read once, at construction, to see whether it has any. If it has, or if there is a
    `mask`, batches have an entry "mask", and x is 0 where that is 0. A coarser cell is measured when more than
    half of it is, and its value is the mean over the measured part. `resample` is not local: on other domains such a source
    has the stored grid only.

    Arrays are kept as they are, mapped or not, and become float32 batch by batch. A pickled copy holds them in full.

    Args:
        x: The samples: real numbers.
        field: What they are conditioned on, on the same grid or another. It must be finite.
        label: Integers (N,), or finite floats (N, K).
        domain: What the samples are functions on; with latitudes and longitudes it may be left out.
        latitudes, longitudes: Of a grid on the globe, in degrees; the last two axes of the grid are these, in either order.
        mask: True or 1 where x was measured, False or 0 elsewhere: (*grid) for all samples, or like x, with 1 or C channels.
        channel_axis: 1 or -1, for arrays of d + 2 axes; 1 by default.

    Attributes:
        channels, condition_channels: C of x, and of the field, 0 without one.
        shape, masked: The grid of x, and whether batches have a mask.

    Raises:
        ValueError: If the arrays do not fit the domain or each other, or x holds infinite values.

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
        x: Tensor | np.ndarray,
        field: Tensor | np.ndarray | None = None,
        label: Tensor | np.ndarray | None = None,
        *,
        domain: Domain | None = None,
        latitudes: Sequence[float] | Tensor | None = None,
        longitudes: Sequence[float] | Tensor | None = None,
        mask: Tensor | np.ndarray | None = None,
        channel_axis: int | None = None,
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
        self.domain = domain
        known = self._place is not None
        self._x = _as_fields("x", x, domain, channel_axis, known)
        self._field = None if field is None else _as_fields("field", field, domain, channel_axis, known)
        self._label = None if label is None else _as_label(label)
        everywhere = torch.ones([1] * self._x.ndim)
        self._mask = everywhere if mask is None else self._as_mask(torch.as_tensor(mask), channel_axis)
        self.channels, self.shape = self._x.shape[1], tuple(self._placed(self._x[:1, :1]).shape[2:])
        self.condition_channels = 0 if self._field is None else self._field.shape[1]
        lengths = [len(values) for values in (self._x, self._field, self._label) if values is not None]
        if len(set(lengths)) > 1:
            raise ValueError(f"ArrayFields: expected as many samples in each array, got {lengths}; cut the longer.")
        if self._place is not None:
            for part in self._x.split(_CHUNK):
                self._place(part)  # whose repeated meridian, if there is one, is compared
        self.masked = self._has_missing() or mask is not None

    @property
    def cell_averages(self) -> bool:
        """Whether coarser grids are made by averages over cells: where there are walls."""
        return self.domain.averages_cells

    @property
    def num_classes(self) -> int:
        """How many classes the labels name; 0 without."""
        return 0 if self._label is None or self._label.is_floating_point() else int(self._label.max()) + 1

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        x: str | None = None,
        field: str | None = None,
        label: str | None = None,
        *,
        domain: Domain | None = None,
        latitude: str | None = None,
        longitude: str | None = None,
        mask: str | None = None,
        channel_axis: int | None = None,
    ) -> ArrayFields:
        """A source from the arrays of one file: `ArrayFields.open(path, x="sol", field="coeff", domain=Box(2))`.

        The arrays are given by name, x may be left out if there is one only; the rest is as for the class. Darcy flow is
        "coeff" and "sol" in FNO's files, "x" and "y" in neuralop's, "nu" and "tensor" in PDEBench's; Navier-Stokes is "a" and
        "u" (with channel_axis=-1) in FNO's. Files of fields on the globe have `latitude="lat", longitude="lon"` or the like.

        Raises:
            ValueError: As `read_arrays` and the class; what the file holds is listed.
        """
        found = list_arrays(path)
        if x is None and len(found) != 1:
            raise ValueError(f"ArrayFields: expected x, the name of an array of {path}, which has {found_text(found)}.")
        named = {"x": x or next(iter(found)), "field": field, "label": label, "mask": mask}
        named |= {"latitudes": latitude, "longitudes": longitude}
        named = {role: name for role, name in named.items() if name is not None}
        arrays = read_arrays(path, named.values())
        try:
            return cls(**{role: arrays[name] for role, name in named.items()}, domain=domain, channel_axis=channel_axis)
        except ValueError as error:
            raise ValueError(f"{error} {path} has {found_text(found)}.") from error

    def __len__(self) -> int:
        return len(self._x)

    def __repr__(self) -> str:
        grid, masked = " x ".join(map(str, self.shape)), ", some values missing" if self.masked else ""
        return f"ArrayFields: {len(self)} samples, {self.channels} channels, up to {grid}{masked}"

    def batch(self, indices: Sequence[int], shape: Shape) -> dict[str, Tensor]:
        """Samples on one grid.

        Args:
            indices: B of them, in any order, repeated or not.
            shape: No finer than the stored grid along any axis; the stored grid, if values are missing and it is no Box.

        Returns:
            "x", float32 (B, C, *shape), in the units of the array, and if there are any "mask", float32 (B, C, *shape), 1 where
            x was measured, "field", float32 (B, condition_channels, *shape), and "label".

        Raises:
            ValueError: If the grid is too fine, an index out of range, or the field is not finite.
        """
        check_indices("ArrayFields", indices, len(self))
        rows = torch.as_tensor(list(indices), dtype=torch.long)
        x = self._placed(self._x[rows].float())
        if not self.masked:
            out = {"x": self._regrid("x", x, shape)}
        else:
            mask = self._mask[rows if len(self._mask) > 1 else torch.zeros_like(rows)].float()
            mask = (self._placed(mask) if mask.ndim > 2 and mask.shape[2:].numel() > 1 else mask) * ~x.isnan()
            share, total = self._regrid("mask", mask, shape), self._regrid("x", torch.where(mask > 0, x, 0.0), shape)
            kept = (share > 0.5 + 1e-6).to(x.dtype)  # half a cell is not enough, however the share was rounded
            out = {"x": kept * total / torch.where(kept > 0, share, 1.0), "mask": kept}
        if self._field is not None:
            field = self._placed(self._field[rows].float())
            if not bool(field.isfinite().all()):
                raise ValueError("ArrayFields: expected a finite field, got NaN or infinite values; fill them first.")
            out["field"] = self._regrid("field", field, shape)
        if self._label is not None:
            out["label"] = self._label[rows]
        return out

    def _placed(self, values: Tensor) -> Tensor:
        return values if self._place is None else self._place(values)

    def _regrid(self, name: str, values: Tensor, shape: Shape) -> Tensor:
        shape, stored = self.domain.check_shape(shape), tuple(values.shape[2:])
        if any(n > m for n, m in zip(shape, stored, strict=True)):
            raise ValueError(f"ArrayFields: expected a grid no finer than {stored}, that of {name}, got {shape}.")
        local = self.domain.averages_cells or not self.masked or name == "field"
        if not local and shape == stored:
            return values
        if not local:
            raise ValueError(
                f"ArrayFields: expected {stored}, the stored grid, got {shape}: resampling on {self.domain} is not local and "
                f"would spread missing values; fill them first, or use Box or Product, which average cell by cell."
            )
        return self.domain.coarsen(values, shape)

    def _as_mask(self, mask: Tensor, channel_axis: int | None) -> Tensor:
        """(N or 1, C or 1, *grid)."""
        shared = mask.ndim == self.domain.dim
        out = _as_fields("mask", mask[None] if shared else mask, self.domain, channel_axis, self._place is not None)
        samples, channels, *grid = self._x.shape
        if [*out.shape[2:]] != grid or out.shape[1] not in (1, channels) or not (shared or len(out) == samples):
            raise ValueError(f"ArrayFields: expected a mask for x {tuple(self._x.shape)}, got {tuple(mask.shape)}.")
        if not all(bool(((part == 0) | (part == 1)).all()) for part in out.split(_CHUNK)):
            raise ValueError("ArrayFields: expected a mask of 1 and 0, or booleans, got other values; use a threshold.")
        return out

    def _has_missing(self) -> bool:
        parts = self._x.split(_CHUNK) if self._x.is_floating_point() else ()
        found = [(bool(part.isinf().any()), bool(part.isnan().any())) for part in parts]
        if any(inf for inf, _ in found):
            raise ValueError("ArrayFields: expected x finite, or NaN where missing, got infinite values; mend them.")
        return any(nan for _, nan in found)


def _as_fields(
    name: str, values: Tensor | np.ndarray, domain: Domain, channel_axis: int | None, known: bool = False
) -> Tensor:
    """A view (N, C, *grid); of a known grid, whose channels cannot be mistaken for it."""
    out, dim = torch.as_tensor(values), domain.dim
    if out.is_complex() or out.ndim not in (dim + 1, dim + 2) or out.numel() == 0:
        raise ValueError(
            f"ArrayFields: expected {name} as real numbers (N, *grid) or (N, C, *grid) with a grid of {dim} axes, got "
            f"{out.dtype} {tuple(out.shape)}; select what is meant, such as one frame, or pass the domain of its dimension."
        )
    if out.ndim == dim + 1:
        return out.unsqueeze(1)
    sides = tuple(out.shape[1:])
    if (
        channel_axis is None
        and dim > 1
        and not known
        and domain.is_usual(sides[:-1])
        and not domain.is_usual(sides[1:])
    ):
        raise ValueError(
            f"ArrayFields: {name} {tuple(out.shape)} has a usual grid only with its channels last; pass channel_axis=-1 for "
            f"{sides[-1]} channels on a grid {sides[:-1]}, or channel_axis=1 for {sides[0]} channels on {sides[1:]}."
        )
    return out.movedim(-1, 1) if channel_axis == -1 else out


def _as_label(values: Tensor | np.ndarray) -> Tensor:
    label = torch.as_tensor(values)
    if label.ndim == 1 and not (label.is_floating_point() or label.is_complex() or label.dtype == torch.bool):
        return label.long()
    if label.ndim == 2 and label.is_floating_point() and bool(label.isfinite().all()):
        return label.float()
    got = f"{label.dtype} {tuple(label.shape)}"
    raise ValueError(f"ArrayFields: expected labels as integers (N,) or finite floats (N, K), got {got}.")
