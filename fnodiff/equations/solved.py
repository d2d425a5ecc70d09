"""Data sets that are solved rather than downloaded: once on a fine grid, then seen on coarser ones."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from fnodiff.data.source import selected
from fnodiff.domain import Domain, Shape


class Solved(abc.ABC):
    """A data set whose sample i, a fixed function of (seed, i), is solved once on a fine grid and then seen on coarser ones.

    Samples of one data set never share random numbers (snapshots of one trajectory do); two data sets of different `seed` do
    with probability 2 count / 2^32.

    Args:
        count, seed: Number of samples, and what fixes all of them.
        fine: The solver's grid has fine x fine cells or points.
        keep: Fine solutions to keep in memory, in float32; the longest unused goes first.

    Raises:
        ValueError: For arguments out of their range; from `batch`, for an index that is none of the samples' or a finer grid.
    """

    channels: int
    domain: Domain
    smallest = 2
    num_classes = 0
    condition_channels = 0

    def __init__(self, count: int, seed: int, *, fine: int, keep: int) -> None:
        least = {"count": (count, 0), "seed": (seed, 0), "fine": (fine, self.smallest), "keep": (keep, 0)}
        for name, (value, lowest) in least.items():
            if not isinstance(value, Integral) or isinstance(value, bool) or value < lowest:
                raise ValueError(f"{type(self).__name__}: expected an integer {name} >= {lowest}, got {value!r}.")
        self.count, self.seed, self.fine, self.keep = count, seed, fine, keep
        self._kept: dict[int, Tensor] = {}

    @abc.abstractmethod
    def solution(self, generator: torch.Generator) -> Tensor:
        """Draw and solve one sample: (C, fine, fine)."""

    @abc.abstractmethod
    def view(self, solutions: Tensor, shape: Shape) -> dict[str, Tensor]:
        """A batch on a grid, of solutions (B, C, fine, fine)."""

    def __len__(self) -> int:
        return self.count

    @property
    def cell_averages(self) -> bool:
        """Whether coarser grids show averages over cells: where there are walls."""
        return self.domain.averages_cells

    def batch(self, indices: Sequence[int], shape: Sequence[int]) -> dict[str, Tensor]:
        """Samples on one grid of at most fine x fine, in float32: "x", and "field" if there is one."""
        return self.batches(indices, [shape])[0]

    def batches(self, indices: Sequence[int], shapes: Sequence[Sequence[int]]) -> list[dict[str, Tensor]]:
        """The same samples on several grids, each solved once."""
        name, finest = type(self).__name__, self.fine_shape
        shapes = [self.domain.check_shape(shape) for shape in shapes]
        for shape in shapes:
            if any(n > m for n, m in zip(shape, finest, strict=True)):
                sides = " x ".join(map(str, finest))
                raise ValueError(
                    f"{name}: expected a grid no finer than the solver's {sides}, got {shape}; pass a larger `fine`."
                )
        indices = selected(name, indices, self.count)
        if not indices:
            raise ValueError(f"{name}: expected at least one index, got none.")
        solutions = self._fetch(indices)
        return [self.view(solutions, shape) for shape in shapes]

    @property
    def fine_shape(self) -> Shape:
        """The solver's grid."""
        return self.fine, self.fine

    def solve(self, indices: Sequence[int]) -> dict[int, Tensor]:
        """These samples, (C, *fine_shape) each, and others that come with them."""
        return {i: self.solution(self.generator(i)) for i in indices}

    def _fetch(self, indices: Sequence[int]) -> Tensor:
        asked = list(dict.fromkeys(reversed(indices)))[::-1]  # the last used last
        known = {i: self._kept.pop(i) for i in asked if i in self._kept}
        solved = self.solve([i for i in asked if i not in known])
        known |= {i: solution.float() for i, solution in solved.items()}
        self._kept |= {i: known.pop(i) for i in list(known) if i not in asked} | {i: known[i] for i in asked}
        while len(self._kept) > self.keep:
            del self._kept[next(iter(self._kept))]
        return torch.stack([known[i] for i in indices])

    def generator(self, index: int) -> torch.Generator:
        """What sample `index` is drawn with."""
        # torch's CPU generator keeps 32 bits of a seed: consecutive ones, as hashes would collide within 1e5 samples.
        first = int(np.random.SeedSequence(self.seed).generate_state(1)[0])
        return torch.Generator().manual_seed(int(first + index) % 2**32)


def check_scale(owner: str, scale: float) -> None:
    """ValueError in the owner's name unless the factor of a random field is positive and finite."""
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"{owner}: expected a scale > 0, got {scale!r}; 1 is the law of the paper.")


def check_saves(time: float, save: Sequence[float] | None) -> list[float]:
    """The times to return of a solution up to `time`, by default that alone; ValueError unless they increase."""
    save = [time] if save is None else [float(t) for t in save]
    if not save or save != sorted(set(save)) or not 0 <= save[0] <= save[-1] <= time:
        raise ValueError(f"solve: expected increasing times to save from 0 to {time}, got {save}.")
    return save


def check_bounded(u: Tensor, bound: Tensor, until: float, dt: float | None) -> Tensor:
    """A solution (B, 1, *shape) at a time, if no sample is larger than ten times what it cannot exceed, (B,).

    A solver that blew up may end at finite numbers.
    """
    if not bool((u.detach().abs().flatten(1).amax(1) <= 10 * bound).all()):
        step = "the default" if dt is None else f"{dt:.3g}"
        raise ValueError(f"solve: the solution blew up before time {until}; pass a smaller dt than {step}.")
    return u


def check_choice(owner: str, name: str, value: str, choices: Sequence[str]) -> None:
    """ValueError in the owner's name unless the value is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{owner}: expected {name} one of {', '.join(map(repr, choices))}, got {value!r}.")
