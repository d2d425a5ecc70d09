"""Reading what is larger than memory: chunk by chunk, some of them in memory at once.

An epoch takes the chunks in a random order, m at a time, and the samples of these m in a random order. So each chunk is read
once in an epoch, whatever the batches, and a sample meets those of m - 1 others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fnodiff.data.rows import Rows
from fnodiff.expected import kinds_checked

LEAST = 32
"""Samples of a chunk, at least, where the file says how many it stores together."""


@kinds_checked
@dataclass(frozen=True)
class Chunks:
    """How a data set larger than memory is read.

    Epochs go chunk by chunk in a new order, `together` chunks in memory and shuffled with each other. Memory is that of as
    many chunks on the stored grid, in each process that reads. Each worker of a loader reads all chunks: take one.

    Args:
        size: Samples of a chunk, which are read at once; by default a multiple of what the file stores together, 32 or more.
        together: Chunks that are in memory at a time.
        scan: Samples that are looked at when the source is made, in chunks spread over the file: whether values are missing,
            and whether float32 holds them, is taken from these. A batch that proves it wrong is an error.

    Raises:
        ValueError: If one of them is not positive.

    Examples:
        >>> import numpy as np
        >>> from fnodiff import Torus
        >>> from fnodiff.data import ArrayFields, Chunks
        >>> x = np.random.default_rng(0).normal(size=(8, 4, 4))
        >>> fields = ArrayFields(x, domain=Torus(2), chunks=Chunks(size=2, together=1, scan=2))
        >>> fields.order(np.random.default_rng(0)).tolist()
        [5, 4, 0, 1, 2, 3, 7, 6]
    """

    size: int | None = None
    together: int = 8
    scan: int = 512

    def __post_init__(self) -> None:
        if min(self.together, self.scan, 1 if self.size is None else self.size) < 1:
            raise ValueError(f"Chunks: expected size, together and scan >= 1, got {self}; leave them out.")

    def of(self, rows: Rows) -> ChunkedRows:
        """Rows read so."""
        stored = max(1, int(getattr(rows, "chunk", 1)))
        size = stored * -(-LEAST // stored) if self.size is None else self.size
        return ChunkedRows(rows, min(size, rows.shape[0]), self.together)


class ChunkedRows:
    """Rows of which whole chunks are read, and the last `keep` kept.

    Attributes:
        shape, single: Of the rows.
        size: Rows of a chunk.
    """

    def __init__(self, rows: Rows, size: int, keep: int) -> None:
        self.rows, self.size, self.keep = rows, size, keep
        self.shape, self.single = rows.shape, rows.single
        self._kept: dict[int, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}

    def __getitem__(self, rows: list[int]) -> Tensor:
        asked = dict.fromkeys(row // self.size for row in rows)  # in their order: the last are those that come next
        for chunk in asked:
            kept = self._kept.pop(chunk, None)
            first = chunk * self.size
            stop = min(first + self.size, self.shape[0])
            self._kept[chunk] = self.rows[[*range(first, stop)]] if kept is None else kept
        out = torch.stack([self._kept[row // self.size][row % self.size] for row in rows])
        while len(self._kept) > self.keep:
            del self._kept[next(iter(self._kept))]
        return out

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """The rows of an epoch."""
        chunks = rng.permutation(-(-self.shape[0] // self.size))
        groups = [chunks[i : i + self.keep] for i in range(0, len(chunks), self.keep)]
        rows = (self.size * group[:, None] + np.arange(self.size) for group in groups)
        return np.concatenate([rng.permutation(part[part < self.shape[0]]) for part in rows])

    def spread(self, count: int) -> list[int]:
        """Some `count` rows, in whole chunks spread evenly over all, or all rows."""
        chunks, wanted = -(-self.shape[0] // self.size), -(-count // self.size)
        chosen = np.unique(np.linspace(0, chunks - 1, min(chunks, wanted)).round().astype(int))
        return [row for chunk in chosen for row in range(self.shape[0])[chunk * self.size :][: self.size]]


def run(sizes: Sequence[int], stored: Sequence[int]) -> int:
    """How many samples in a row lie in one chunk of a file, samples being counted along axes of `sizes`."""
    count = 1
    for n, chunk in zip(reversed(sizes), reversed(stored), strict=True):
        count *= min(n, chunk)
        if chunk < n:
            break
    return count


def chunk_of(variable: Any, samples: Mapping[str, int]) -> int:
    """How many samples in a row lie in one chunk of xarray's variable."""
    stored = {str(dim): max(sizes) for dim, sizes in (variable.chunksizes or {}).items()}
    stored = stored or dict(variable.encoding.get("preferred_chunks") or {})
    own = {dim: n for dim, n in samples.items() if dim in variable.dims}
    return run([*own.values()], [int(stored.get(dim, 1)) for dim in own])
