"""What one pass over the samples of arrays finds."""

from __future__ import annotations

import torch
from torch import Tensor

from fnodiff.data.rows import loses


class Look:
    """What one pass over the samples finds: missing values, how much float32 would lose, and axes with their end twice."""

    def __init__(self, periodic: tuple[bool, ...]) -> None:
        self.missing, self.loses = False, False
        self._closed = {
            axis: False for axis, closes in enumerate(periodic) if closes
        }  # and whether it is more than flat
        self._sums: Tensor | None = None
        self._shift: Tensor | None = None

    @property
    def closed(self) -> list[int]:
        """The periodic axes whose first and last values are equal in all samples, but not all that lie between."""
        return [axis for axis, varies in self._closed.items() if varies]

    def at(self, x: Tensor, there: Tensor) -> None:
        """Look at samples (B, C, *grid), and where they were measured."""
        if x.is_floating_point() and bool((x.isinf() & there).any()):
            raise ValueError("ArrayFields: expected x finite, or NaN where missing, got infinite values; mend them.")
        self.missing |= not bool(there.all())
        scale = _spread(x, there) if self._closed else 0.0
        for axis in list(self._closed):
            if x.shape[axis + 2] < 3:
                del self._closed[axis]
                continue
            ends = [v.select(axis + 2, i) for v in (x, there) for i in (0, -1, -2)]
            if not _same(ends[0], ends[1], ends[3], ends[4], scale):
                del self._closed[axis]
            else:
                self._closed[axis] |= not _same(ends[1], ends[2], ends[4], ends[5], scale)
        if x.dtype.itemsize > 4 or x.dtype in (torch.int32, torch.uint32):
            self._measure(x.double(), there)

    def _measure(self, x: Tensor, there: Tensor) -> None:
        x, there = (v.transpose(0, 1).flatten(1) for v in (torch.where(there, x, 0.0), there.double()))
        if self._shift is None:
            self._shift = (x * there).sum(1) / there.sum(1).clamp(min=1)
        away = (x - self._shift[:, None]) * there
        found = torch.stack([there.sum(1), away.sum(1), away.square().sum(1), x.abs().amax(1)])
        if self._sums is not None:
            found = torch.cat([found[:3] + self._sums[:3], torch.maximum(found[3:], self._sums[3:])])
        self._sums = found
        count, first, second, most = found[0].clamp(min=1), *found[1:]
        self.loses = loses(most, (second / count - (first / count).square()).clamp(min=0).sqrt())


def _spread(x: Tensor, there: Tensor) -> float:
    """The largest measured value less the smallest."""
    x = torch.where(there, x, x[there][:1].squeeze() if bool(there.any()) else 0).double()
    return float(x.max() - x.min())


def _same(one: Tensor, other: Tensor, there: Tensor, too: Tensor, scale: float) -> bool:
    """Whether values are equal to a solver's rounding, a millionth of their spread, and measured at the same points."""
    one, other = (torch.where(there & too, v, 0).double() for v in (one, other))
    return bool(torch.equal(there, too)) and bool(((one - other).abs() <= 1e-6 * scale).all())
