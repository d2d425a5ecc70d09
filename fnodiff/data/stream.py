"""Records that are read one after another: streamed datasets, and shards of webdataset."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info

from fnodiff.data.records import Key, Reader, Records
from fnodiff.domain import Domain
from fnodiff.expected import kinds_checked


@kinds_checked(but=("records", "x", "label", "condition"))
class Stream(Records):
    """A source over records that are read one after another: a streamed Hugging Face dataset, webdataset's shards.

    Records are as those of `Records`. An epoch goes through the first `length` of them in their order, shuffled within
    stretches of `shuffle`; the last two stretches are kept in memory, as read. What lies further back is found by starting
    again, so that sample i is always the i-th record, if the stream is the same each time: let it shuffle its shards with a
    seed. In a loader's workers each reads the whole stream: take one worker at most.

    Args:
        records: What can be gone through again and again, or a function without arguments that returns what can be gone
            through once.
        x, label, condition, domain, channels, channel_axis, classes: As of `Records`.
        length: Records of an epoch; by default the stream's length, if it has one.
        shuffle: Records that are shuffled with each other; 1 leaves them in their order.
        scan: The first records, as many as this, are kept in memory, and units and spectra are measured on these.

    Raises:
        ValueError: As of `Records`, or if the length is not known, the stream can be gone through once only or ends too
            early, or there are several workers.

    Examples:
        >>> import numpy as np
        >>> from fnodiff import Torus
        >>> from fnodiff.data import Stream
        >>> def waves():
        ...     for i in range(100):
        ...         yield {"u": np.full((8, 8), float(i))}
        >>> fields = Stream(waves, length=100, shuffle=4, domain=Torus(2))
        >>> fields.batch([2, 7], (4, 4))["x"][:, 0, 0, 0].tolist()
        [2.0, 7.0]
        >>> fields.order(np.random.default_rng(0))[:8].tolist()
        [2, 0, 1, 3, 7, 6, 5, 4]
    """

    def __init__(
        self,
        records: Iterable[Any] | Callable[[], Iterable[Any]],
        x: Key | None = None,
        label: Key | None = None,
        *,
        length: int | None = None,
        shuffle: int = 1024,
        scan: int = 512,
        condition: Sequence[Key] | Key | None = None,
        domain: Domain | None = None,
        channels: int = 3,
        channel_axis: int | None = None,
        classes: int | None = None,
    ) -> None:
        if isinstance(records, Iterator) or not (callable(records) or isinstance(records, Iterable)):
            raise ValueError(
                f"Stream: expected records that can be gone through again, got {type(records).__name__}; pass a function that "
                f"makes it, such as lambda: read(path)."
            )
        known = len(records) if length is None and hasattr(records, "__len__") else length
        if known is None or min(known, shuffle, scan) < 1:
            raise ValueError(
                f"Stream: expected length, shuffle and scan >= 1, got {length!r}, {shuffle!r} and {scan!r}; length= is how "
                f"many records make an epoch."
            )
        self.records, self.length, self.shuffle, self.scan = records, int(known), shuffle, min(scan, int(known))
        self._first: list[Any] = []
        self._forget()
        options = (condition, domain, channels, channel_axis, classes)
        self._reader = Reader("Stream", records, self._at(0), x, label, *options)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_iterator": None, "_next": 0, "_kept": {}, "_first": []}

    def __len__(self) -> int:
        return self.length

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """The records of an epoch: in their order, shuffled within stretches."""
        stretches = (np.arange(i, min(i + self.shuffle, self.length)) for i in range(0, self.length, self.shuffle))
        return np.concatenate([rng.permutation(stretch) for stretch in stretches])

    def _read(self, places: list[int]) -> list[Any]:
        worker = get_worker_info()
        if worker is not None and worker.num_workers > 1:  # streams give each worker some of their shards
            raise ValueError(f"Stream: expected one worker at most, got {worker.num_workers}; pass workers=1.")
        return [self._at(place) for place in places]

    def _at(self, place: int) -> Any:
        """A record by its place in the stream."""
        if place < len(self._first):
            return self._first[place]
        if place not in self._kept:
            if self._iterator is None or place < self._next:
                self._forget()
                self._iterator = iter(self.records() if callable(self.records) else self.records)
            for record in itertools.islice(self._iterator, place + 1 - self._next):
                if self._next == len(self._first) < self.scan:
                    self._first.append(record)
                self._kept[self._next] = record
                self._kept.pop(self._next - 2 * self.shuffle, None)
                self._next += 1
        if place not in self._kept:
            found = self._next
            raise ValueError(
                f"Stream: expected {self.length} records, the stream ended after {found}; pass length={found}."
            )
        return self._kept[place]

    def _forget(self) -> None:
        self._iterator: Iterator[Any] | None = None
        self._next, self._kept = 0, dict[int, Any]()
