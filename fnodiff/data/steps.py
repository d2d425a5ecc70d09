"""The numbers of a run's steps, as a sampler for a `DataLoader`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from numbers import Integral

from torch.utils.data import Sampler


class Steps(Sampler[int]):
    """The numbers of a run's steps, from `start` to `stop`, every one or one of `every`; see `MultiResolution.steps`.

    Raises:
        ValueError: If they are not whole numbers, start >= 0, stop >= start and every >= 1.
    """

    def __init__(self, start: int = 0, stop: int | None = None, every: int = 1) -> None:
        whole = all(isinstance(n, Integral) for n in (start, every, 0 if stop is None else stop))
        if not whole or start < 0 or every < 1 or (stop is not None and stop < start):
            raise ValueError(
                f"steps: expected 0 <= start <= stop and every >= 1, got {start!r}, {stop!r} and {every!r}; stop=None goes on "
                f"for ever."
            )
        self.start, self.stop, self.every = int(start), None if stop is None else int(stop), int(every)

    def __iter__(self) -> Iterator[int]:
        return iter(itertools.count(self.start, self.every) if self.stop is None else self._range)

    def __len__(self) -> int:
        if self.stop is None:
            raise TypeError("steps without an end have no length; pass stop.")
        return len(self._range)

    @property
    def _range(self) -> range:
        return range(self.start, self.stop, self.every)
