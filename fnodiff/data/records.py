"""Records as samples: dicts or tuples with a picture or an array in them, as Hugging Face's, torchvision's or webdataset's."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fnodiff.data import pixels
from fnodiff.data.rows import layout, plain, single
from fnodiff.data.source import selected
from fnodiff.domain import Box, Domain, Shape, native
from fnodiff.expected import kinds_checked

Key = str | int


class Reader:
    """How a record becomes a sample; see `Records` for the arguments.

    Attributes:
        channels, pictures, domain, num_classes: Of the samples, as the first record has them.
    """

    def __init__(
        self,
        owner: str,
        records: Any,
        first: Any,
        x: Key | None,
        label: Key | None,
        condition: Sequence[Key] | Key | None,
        domain: Domain | None,
        channels: int,
        channel_axis: int | None,
        classes: int | None,
    ) -> None:
        self.owner, self.label, self._axis, self._colours = owner, label, channel_axis, channels
        given = () if condition is None else [condition] if isinstance(condition, str | int) else condition
        if not isinstance(given, Sequence) or not all(isinstance(key, str | int) for key in given):
            raise ValueError(
                f"{owner}: expected condition as a key of the records or several, got {condition!r}; name them."
            )
        self.conditions = tuple(given)
        if channels not in (1, 3) or channel_axis not in (None, 1, -1):
            raise ValueError(
                f"{owner}: expected channels 1 or 3 of pictures, got {channels!r}, and channel_axis 1 or -1 of arrays, got "
                f"{channel_axis!r}; change those."
            )
        self.x = self._only(first) if x is None else x
        value = self._value(first, self.x)
        self.pictures = isinstance(value, Image.Image | bytes)
        if not self.pictures and domain is None:
            raise ValueError(
                f"{owner}: expected a domain, as {self.x!r} holds arrays, not pictures; pass such as domain=Torus(2), or read "
                f"pictures without transforms and formats that make arrays of them."
            )
        self.domain = Box(2) if self.pictures else domain
        self.channels = channels if self.pictures else self._array(value).shape[0]
        self.num_classes = 0 if label is None else classes or _classes(records, label)
        if label is not None and not self.num_classes:
            raise ValueError(f"{owner}: expected classes=, how many there are, as the records do not say; pass it.")

    def __call__(
        self, records: Sequence[Any], places: Sequence[int], shapes: Sequence[Shape]
    ) -> list[dict[str, Tensor]]:
        """The samples of some records on each of the grids; the records' numbers are for errors."""
        grids = [self.domain.check_shape(shape) for shape in shapes]
        if not len(records):
            raise ValueError(f"{self.owner}: expected one index or more, got none.")
        samples = [self._on(grids, record, place) for record, place in zip(records, places, strict=True)]
        extra: dict[str, Tensor] = {}
        if self.label is not None:
            extra["label"] = torch.tensor([self._class(r, place) for r, place in zip(records, places, strict=True)])
        if self.conditions:
            numbers = [[float(_number(self._value(record, key))) for key in self.conditions] for record in records]
            extra["condition"] = torch.tensor(numbers)
        return [{"x": torch.stack(x), **extra} for x in zip(*samples, strict=True)]

    def _on(self, grids: Sequence[Shape], record: Any, place: int) -> list[Tensor]:
        """x of a record on each of the grids."""
        try:
            value = self._value(record, self.x)
            if self.pictures:
                levels = (
                    pixels.decode(value, self._colours)[0]
                    if isinstance(value, bytes)
                    else pixels.opened(value, self._colours)
                )
                return [pixels.averaged(torch.from_numpy(levels), grid) for grid in grids]
            x = self._array(value)
            if x.shape[0] != self.channels or not bool(x.isfinite().all()):
                raise ValueError(f"expected {self.channels} channels of finite values, got {tuple(x.shape)}; mend it")
            if any(n > m for grid in grids for n, m in zip(grid, x.shape[1:], strict=True)):
                raise ValueError(
                    f"expected a grid no finer than {tuple(x.shape[1:])}, got {grids}; choose coarser ones"
                )
            return [self.domain.coarsen(x[None], grid)[0] for grid in grids]
        except (ValueError, AttributeError, OSError) as error:
            raise ValueError(f"{self.owner}: record {place}, {self.x!r}: {error}, or leave it out.") from error

    def _array(self, value: Any) -> Tensor:
        """(C, *grid) in float32, or float64 where that does not hold it."""
        array, _ = plain(self.owner, value)
        made = layout(self.owner, (1, *array.shape), self.domain, self._axis)
        x = made((array if isinstance(array, Tensor) else native(array))[None])[0]
        return x.float() if single(array.dtype) else x.double()

    def _class(self, record: Any, place: int) -> int:
        value = _number(self._value(record, self.label))
        if float(value) != int(value) or not 0 <= int(value) < self.num_classes:
            raise ValueError(
                f"{self.owner}: record {place}: expected a label from 0 to {self.num_classes - 1}, got {value!r}; pass "
                f"classes=, how many there are, or mend it."
            )
        return int(value)

    def _value(self, record: Any, key: Key) -> Any:
        """An entry of a record; "jpg;png" is the first of these that there is."""
        if not isinstance(record, Mapping | Sequence) or isinstance(record, str | bytes):
            raise ValueError(f"{self.owner}: expected records as dicts or tuples, got {type(record).__name__}.")
        names = key.split(";") if isinstance(key, str) else [key]
        known = record if isinstance(record, Mapping) else range(len(record))
        found = next((name for name in names if name in known), None)
        if found is None:
            raise ValueError(f"{self.owner}: expected {key!r} in a record, which has {list(known)}; name one of these.")
        value = record[found]
        if isinstance(value, Mapping) and _is_undecoded(value):
            value = Path(value["path"]).read_bytes() if value.get("bytes") is None else value["bytes"]
        if isinstance(value, bytes) and str(found).rpartition(".")[2] == "npy":
            return np.load(io.BytesIO(value), allow_pickle=False)
        return value

    def _only(self, record: Any) -> Key:
        """The entry that is a picture or an array."""
        keys = list(record) if isinstance(record, Mapping) else [0] if isinstance(record, Sequence) else []
        fits = [key for key in keys if _is_field(key, record[key])]
        if len(fits) != 1:
            raise ValueError(
                f"{self.owner}: expected x, the name of what is a picture or an array, as a record has {keys or record!r}; "
                f"name one."
            )
        return fits[0]


@kinds_checked(but=("records", "x", "label", "condition"))
class Records:
    """A source over records that are read by their number: a Hugging Face dataset, a torchvision one, a list of dicts.

    A record is a dict or a tuple. Pictures, of Pillow or as the bytes of a file, are taken as by `ImageFolder`: upright, on
    white, cropped to the grid's shape, averaged over its cells, in [-1, 1]. Arrays (*grid) or (C, *grid) keep their values,
    and are made coarser as by `ArrayFields`; they need a domain.

    Args:
        records: With a length, and indexed by numbers.
        x: The entry that holds the sample: a dict's key or a tuple's place. May be left out if there is one only.
        label: The entry that holds the class, a number from 0.
        condition: Entries of numbers that condition a sample.
        domain: What arrays are functions on.
        channels: Of pictures, 3 for colour, 1 for grey.
        channel_axis: Of arrays, -1 where channels come last.
        classes: How many classes there are; by default as the records say (features or classes).

    Raises:
        ValueError: If a record is of another kind or lacks an entry; from `batch` also if one is damaged or too small.

    Examples:
        >>> import numpy as np
        >>> from PIL import Image
        >>> from fnodiff.data import Records
        >>> records = [{"image": Image.new("RGB", (40, 32), colour), "label": i} for i, colour in enumerate(["red", "blue"])]
        >>> fields = Records(records, label="label", classes=2)
        >>> batch = fields.batch([1], (8, 8))
        >>> batch["x"].mean((2, 3)).tolist(), batch["label"].tolist()
        ([[-1.0, -1.0, 1.0]], [1])
    """

    condition_channels = 0

    def __init__(
        self,
        records: Any,
        x: Key | None = None,
        label: Key | None = None,
        *,
        condition: Sequence[Key] | Key | None = None,
        domain: Domain | None = None,
        channels: int = 3,
        channel_axis: int | None = None,
        classes: int | None = None,
    ) -> None:
        if not hasattr(records, "__len__") or not hasattr(records, "__getitem__") or not len(records):
            raise ValueError(
                f"Records: expected records with a length and numbers, got {type(records).__name__}; for those that are read "
                f"one after another write Stream(records)."
            )
        self.records = records
        options = (condition, domain, channels, channel_axis, classes)
        self._reader = Reader("Records", records, records[0], x, label, *options)

    @property
    def channels(self) -> int:
        return self._reader.channels

    @property
    def domain(self) -> Domain:
        return self._reader.domain

    @property
    def pictures(self) -> bool:
        """Whether samples are pictures in [-1, 1]."""
        return self._reader.pictures

    @property
    def cell_averages(self) -> bool:
        """Whether values are averages over cells: of pictures, and where there are walls."""
        return self.domain.averages_cells

    @property
    def num_classes(self) -> int:
        return self._reader.num_classes

    @property
    def condition_names(self) -> tuple[str, ...]:
        return tuple(map(str, self._reader.conditions))

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        classes = f", {self.num_classes} classes" if self.num_classes else ""
        return f"{type(self).__name__}: {len(self)} samples, {self.channels} channels{classes}"

    def batch(self, indices: Sequence[int], shape: Shape) -> dict[str, Tensor]:
        """ "x", (B, channels, *shape), and if asked for "label", int64 (B,), and "condition", (B, K)."""
        return self.batches(indices, [shape])[0]

    def batches(self, indices: Sequence[int], shapes: Sequence[Shape]) -> list[dict[str, Tensor]]:
        """`batch(indices, shape)` for each of the shapes, every record read only once."""
        places = selected(type(self).__name__, indices, len(self))
        return self._reader(self._read(places), places, shapes)

    def _read(self, places: list[int]) -> list[Any]:
        together = getattr(self.records, "__getitems__", None)  # as torch's loaders ask for
        return list(together(places)) if together else [self.records[place] for place in places]


def _is_field(key: Key, value: Any) -> bool:
    """Whether an entry is a picture or an array."""
    if isinstance(value, bytes):
        return f".{key}".rpartition(".")[2] in {*(suffix[1:] for suffix in pixels.SUFFIXES), "npy"}
    if isinstance(value, Mapping):
        return _is_undecoded(value)
    return isinstance(value, Image.Image) or getattr(value, "ndim", 0) > 0 or isinstance(value, list)


def _is_undecoded(value: Mapping[str, Any]) -> bool:
    """Whether this is an image of Hugging Face's datasets with decode=False: the bytes of a file, or its path alone."""
    return value.get("bytes") is not None or isinstance(value.get("path"), str)


def _number(value: Any) -> Any:
    """A number, which webdataset has as text."""
    return float(value) if isinstance(value, bytes | str) else value


def _classes(records: Any, label: Key) -> int:
    """How many classes the records say that there are; 0 if they do not."""
    feature = (getattr(records, "features", None) or {}).get(label)
    known = getattr(feature, "num_classes", None)
    return int(known if known is not None else len(getattr(records, "classes", None) or ()))
