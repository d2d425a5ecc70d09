"""Plans: which grids a run goes through, and at which noise levels.

A run is a list of stages, one grid each. It rests on modes that do not mix: at noise level s = sigma_t / alpha_t, mode k of
x_t / alpha_t has variance S_k + s^2 C_k, with S the data's spectrum and C the noise's. Where the signal-to-noise ratio
SNR_k = S_k / (s^2 C_k) is small, the mode is noise to all intents, and need not be computed.

    Direct       one grid, from noise to sample
    Progressive  coarse grids first; the state moves to a finer grid as its modes emerge from the noise
    Cascade      a coarse grid is sampled to its end; a finer one samples the modes that it lacked, the others held

A plan knows a denoiser's process, its spectrum and its training shapes, never a solver's step: any solver runs any plan.
"""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fnodiff.domain import Shape, grid_name
from fnodiff.expected import kinds_checked, plain
from fnodiff.sde.denoiser import Denoiser


@kinds_checked
@dataclass(frozen=True, eq=False)
class Stage:
    """One grid of a run, as data.

    Attributes:
        shape: The grid.
        times: The times that are visited on it, decreasing, (n,): n - 1 steps.
        held: The grid before was sampled to its end, and those of its modes that a grid of this shape has are held; None: the
            state goes on from the stage before, or from noise at the first.
        cells: With `held`: the averages over the cells of the grid before are held instead, where `sample` is given no hold=.
    """

    shape: Shape
    times: Tensor
    held: Shape | None = None
    cells: bool = False

    def __post_init__(self) -> None:
        if self.times.ndim != 1 or not len(self.times) or not bool((self.times.diff() < 0).all()):
            raise ValueError(
                f"Stage: expected times that decrease, (n,), got {self.times}; name each once, noise first."
            )

    @property
    def steps(self) -> int:
        """How many steps are taken on it."""
        return len(self.times) - 1


class Plan(abc.ABC):
    """How a list of stages is made. Subclasses are frozen dataclasses and define `plan`."""

    @abc.abstractmethod
    def plan(self, denoiser: Denoiser, shape: Shape, times: Tensor) -> list[Stage]:
        """The stages of a run.

        Args:
            denoiser: What is sampled.
            shape: The grid of the samples.
            times: A solver's, (steps,), decreasing from 1 to 0.

        Raises:
            ValueError: If the plan does not fit.
        """


def describe(stages: Sequence[Stage]) -> str:
    """The stages in words, such as "16x16 (4 steps), 32x32 (7 steps, its modes below 24x24 then held), 64x64 (6 steps)"."""
    words = []
    for stage, after in itertools.zip_longest(stages, stages[1:]):
        held = ""
        if after is not None and after.held is not None:
            held = f", then its {'cells' if after.cells else f'modes below {grid_name(after.held)}'} held"
        words.append(f"{grid_name(stage.shape)} ({stage.steps} steps{held})")
    return ", ".join(words)


@dataclass(frozen=True)
class Direct(Plan):
    """One grid, from noise to sample.

    Examples:
        >>> from fnodiff import EDM, Box, Direct, DPMSolver, FunctionSpaceSDE, GaussianRandomField, Matern
        >>> from fnodiff.sde import GaussianDenoiser
        >>> field = GaussianRandomField(Box(2), Matern(1.0, 0.3))
        >>> denoiser, times = GaussianDenoiser(field, FunctionSpaceSDE(field, EDM())), DPMSolver(12).times(EDM())
        >>> [(stage.shape, stage.steps) for stage in Direct().plan(denoiser, (32, 32), times)]
        [((32, 32), 11)]
    """

    def plan(self, denoiser: Denoiser, shape: Shape, times: Tensor) -> list[Stage]:
        return [Stage(denoiser.sde.domain.check_shape(shape), times)]


@kinds_checked(but=("grids",))
@dataclass(frozen=True)
class Progressive(Plan):
    """The state starts on a coarse grid and moves to finer ones as their modes emerge from the noise.

    At a change of grid the modes that the coarse grid lacked are added with the variance that they have by then,
    alpha^2 S + sigma^2 C. They are the modes of the state at t = 1, rescaled, so that one seed remains one function on every
    grid. For stationary Gaussian laws, whose modes are independent, this is exact in law at any time. For other laws a change
    costs at most half the sum over the new modes of ln(1 + SNR) in divergence; a grid takes over when that sum of SNR reaches
    `budget`.

    `PixelNoise` puts less noise in a mode the finer the grid. One noise level on the finest grid of n points per side is then
    sigma (m / n)^(dim / 2) on a grid of m: the stage's times are translated so that each mode keeps its noise.

    Args:
        grids: Spatial shapes of the coarser grids, coarsest first, an int for as many points on each side; by default the
            smallest and the largest of the model's training shapes. Those that are not coarser than the samples' are left out
            by default, and refused if given.
        budget: The largest sum of SNR that the modes of a band may have when they are added.

    Raises:
        ValueError: If the budget is not positive; when used, if no spectrum is known or the grids are not nested.

    Examples:
        >>> from fnodiff import EDM, Box, DPMSolver, FunctionSpaceSDE, GaussianRandomField, Matern, Progressive, WhiteNoise
        >>> from fnodiff.sde import GaussianDenoiser
        >>> sde = FunctionSpaceSDE(WhiteNoise(Box(2), (32, 32)), EDM())
        >>> denoiser = GaussianDenoiser(GaussianRandomField(Box(2), Matern(1.0, 0.3)), sde)
        >>> plan = Progressive([(8, 8), (16, 16)])
        >>> [(stage.shape, stage.steps) for stage in plan.plan(denoiser, (32, 32), DPMSolver(12).times(sde.schedule))]
        [((8, 8), 4), ((16, 16), 1), ((32, 32), 6)]
    """

    grids: Sequence[Shape | int] | int | None = None
    budget: float = 1.0

    def __post_init__(self) -> None:
        _freeze(self, "grids")
        _check_budget(self)

    def plan(self, denoiser: Denoiser, shape: Shape, times: Tensor) -> list[Stage]:
        shape = denoiser.sde.domain.check_shape(shape)
        if self.grids is None:
            trained = _trained(denoiser, "Progressive")
            coarser = _coarser([trained[0], trained[-1]], shape)
        else:
            coarser = [denoiser.sde.domain.check_shape(grid) for grid in self.grids]
        route = [*coarser, shape]
        _check_nested(self, route)
        starts = _starts(self, denoiser, route, times)
        ends = [*starts[1:], len(times) - 1]
        stages = [
            Stage(grid, _translate(denoiser, times[a : b + 1], grid, shape))
            for grid, a, b in zip(route, starts, ends, strict=True)
        ]
        return [stage for stage in stages[:-1] if stage.steps] + stages[-1:]


@kinds_checked(but=("grids", "through"))
@dataclass(frozen=True)
class Cascade(Plan):
    """A coarse grid is sampled to its end; finer ones sample the modes that it lacked, with those that it has held.

    One model does both, without having seen the finer grids. What is held of a grid stays as sampled, so a network that was
    trained on coarse grids is asked, on finer ones, for nothing but what they add. A finer grid begins where `Progressive`
    would change to it, with the held modes noised by the same function that began the run; one seed remains one function.
    Of a grid of cell averages whose cells are made of whole ones of the finer grid, as 32x32 of 64x64, the averages are held
    (`ReplaceCells`). Of other grids, the modes (`ReplaceModes`): exact in law for stationary Gaussian data, whose modes are
    independent.

    Args:
        grids: Spatial shapes of the grids that are sampled to their end, coarsest first; by default the largest of the
            model's training shapes, and where cells are held its doubles: 32 and 64 on the way to 128.
        through: Grids coarser still, which the first of `grids` is reached through as by `Progressive`, none of them to its
            end; by default the smallest training shape, and none for a denoiser without training shapes.
        keep: Hold this share of a grid's modes per axis, and no cells; the finer grid samples the others anew. By default,
            where cells cannot be held, 0.75 of cell averages, whose last modes hold what averaging folded onto them; else 1.
        budget: As of `Progressive`.

    Raises:
        ValueError: If keep is not in (0, 1] or the budget not positive; when used, if no spectrum is known or the grids are
            not nested.

    Source: Ho, Saharia, Chan, Fleet, Norouzi, Salimans (2022), Cascaded diffusion models for high fidelity image generation
    (which train a model for each grid).

    Examples:
        >>> from fnodiff import EDM, Box, Cascade, FunctionSpaceSDE, GaussianRandomField, Matern, WhiteNoise, sample
        >>> from fnodiff.sde import GaussianDenoiser
        >>> sde = FunctionSpaceSDE(WhiteNoise(Box(2), (16, 16)), EDM())
        >>> denoiser = GaussianDenoiser(GaussianRandomField(Box(2), Matern(1.0, 0.3)), sde)
        >>> coarse = sample(denoiser, (16, 16), seeds=[0])
        >>> fine = sample(denoiser, (32, 32), seeds=[0], plan=Cascade([(16, 16)], through=()))
        >>> bool((Box(2).resample(fine, (16, 16)) - coarse).abs().max() < 0.01)
        True
    """

    grids: Sequence[Shape | int] | int | None = None
    through: Sequence[Shape | int] | int | None = None
    keep: float | None = None
    budget: float = 1.0

    def __post_init__(self) -> None:
        _freeze(self, "grids")
        _freeze(self, "through")
        _check_budget(self)
        if self.keep is not None and not 0 < self.keep <= 1:
            raise ValueError(f"Cascade: expected keep above 0 and up to 1, got {self.keep!r}; 1 holds all modes.")

    def plan(self, denoiser: Denoiser, shape: Shape, times: Tensor) -> list[Stage]:
        domain = denoiser.sde.domain
        shape = domain.check_shape(shape)
        if self.grids is None:
            grids = _coarser(_trained(denoiser, "Cascade")[-1:], shape)
            doubled = tuple(2 * n for grid in grids for n in grid)
            while doubled and doubled != shape and self._holds_cells(denoiser, doubled, shape):
                grids, doubled = [*grids, doubled], tuple(2 * n for n in doubled)
        else:
            grids = [domain.check_shape(grid) for grid in self.grids]
        route = [*grids, shape]
        _check_nested(self, route)
        keep = (0.75 if denoiser.cell_averages else 1.0) if self.keep is None else self.keep
        starts = _starts(self, denoiser, route, times)
        through = self.through
        if through is None:
            through = _coarser(sorted(denoiser.training_shapes, key=math.prod)[:1], route[0])
        stages = Progressive(through, self.budget).plan(denoiser, route[0], times)
        for (coarse, fine), start in zip(itertools.pairwise(route), starts[1:], strict=True):
            if coarse == fine:
                continue
            translated = torch.unique_consecutive(_translate(denoiser, times[start:], fine, shape))
            held = tuple(max(1, round(keep * n)) for n in coarse)
            stages.append(Stage(fine, translated, held, self._holds_cells(denoiser, coarse, fine)))
        return stages

    def _holds_cells(self, denoiser: Denoiser, coarse: Shape, fine: Shape) -> bool:
        return self.keep is None and denoiser.cell_averages and denoiser.sde.domain.whole_cells(coarse, fine)


def _starts(plan: Progressive | Cascade, denoiser: Denoiser, route: Sequence[Shape], times: Tensor) -> list[int]:
    """The index of the time at which each grid takes over."""
    ratio, finest = denoiser.sde.schedule.ratio(times), route[-1]
    if len(route) > 1 and denoiser.spectrum is None:
        raise ValueError(
            f"{type(plan).__name__}: expected a denoiser that knows the data's spectrum, got none; make the model with "
            f"Model.for_data, or pass spectrum=fit_spectrum(fields, domain) to it."
        )
    totals = [_total(denoiser, grid, finest) for grid in route] if len(route) > 1 else []
    starts = []
    for coarse, (total, finer) in zip(route, itertools.pairwise(totals), strict=False):
        lowest = float(ratio[-1]) / share(denoiser, coarse, finest)  # below it the coarse grid's schedule ends
        lowest = max(lowest, math.sqrt(max(0.0, finer - total) / plan.budget))
        starts.append(max(0, int((ratio >= lowest).sum()) - 1))
    return [0, *list(itertools.accumulate(reversed(starts), min))[::-1]]  # a finer grid's turn may come first


def _total(denoiser: Denoiser, grid: Shape, finest: Shape) -> float:
    """The sum of S / C over a grid's modes, with the noise that the finest grid has in them."""
    domain = denoiser.sde.domain
    eigenvalues, mult = (f(grid, dtype=torch.float64) for f in (domain.eigenvalues, domain.multiplicity))
    c = denoiser.sde.noise.on(finest).std(eigenvalues).square()
    ratio = denoiser.spectrum(eigenvalues, domain.dim) / c
    return float((mult * ratio).sum() * mult.numel() / ratio.numel())  # of a channel, on the average


def share(denoiser: Denoiser, grid: Shape, finest: Shape) -> float:
    """The noise level on a grid that puts into each mode what level one puts on the finest: 1 for functions."""
    zero, noise = torch.zeros(1, dtype=torch.float64), denoiser.sde.noise
    return float((noise.on(finest).std(zero) / noise.on(grid).std(zero)).max())


def _translate(denoiser: Denoiser, times: Tensor, grid: Shape, finest: Shape) -> Tensor:
    """Times on a grid, from those on the finest."""
    part = share(denoiser, grid, finest)
    if part == 1:
        return times
    schedule = denoiser.sde.schedule
    return schedule.time(part * schedule.ratio(times)).clamp(0, 1)  # against rounding only


def _trained(denoiser: Denoiser, name: str) -> list[Shape]:
    """The training shapes, from the fewest points to the most."""
    shapes = sorted(denoiser.training_shapes, key=math.prod)
    if not shapes:
        raise ValueError(
            f"{name}: expected a model that knows its training shapes, got none; name the grids: {name}([(32, 32)])."
        )
    return shapes


def _coarser(shapes: Sequence[Shape], shape: Shape) -> list[Shape]:
    """Those that are coarser than `shape`, each once."""
    return [grid for grid in dict.fromkeys(shapes) if _within(grid, shape) and grid != shape]


def _within(coarse: Shape, fine: Shape) -> bool:
    return all(n <= m for n, m in zip(coarse, fine, strict=True))


def _check_nested(plan: Plan, route: Sequence[Shape]) -> None:
    if not all(_within(coarse, fine) for coarse, fine in itertools.pairwise(route)):
        raise ValueError(
            f"{type(plan).__name__}: expected each grid to hold the one before, got {list(route)}; sort the grids, coarsest "
            f"first, none finer than the samples' {route[-1]}."
        )


def _check_budget(plan: Progressive | Cascade) -> None:
    if not 0 < plan.budget < math.inf:
        raise ValueError(f"{type(plan).__name__}: expected a budget > 0, got {plan.budget!r}; 1 is usual.")


def _freeze(plan: Plan, name: str) -> None:
    """Shapes as tuples, or as the ints that were given, in a frozen dataclass; one int is one grid."""
    value = plain(getattr(plan, name))
    if value is not None:
        grids = tuple(value) if isinstance(value, Iterable) else (value,)
        grids = tuple(map(plain, grids))
        lists = (isinstance(grid, Iterable) and not isinstance(grid, str) for grid in grids)
        object.__setattr__(
            plan, name, tuple(tuple(s) if several else s for s, several in zip(grids, lists, strict=True))
        )


def emerged(denoiser: Denoiser, noise: Tensor, t: Tensor) -> Tensor:
    """x_t / alpha_t with every mode of the variance that it has at t, from the noise that began the run."""
    sde, shape = denoiser.sde, tuple(noise.shape[2:])
    level = sde.schedule.ratio(t).to(noise)
    if denoiser.spectrum is None:
        raise ValueError(
            "run: expected a denoiser that knows the data's spectrum, as the stages change the grid, got none; pass "
            "spectrum= to the model, or one stage."
        )

    def gain(eigenvalues: Tensor) -> Tensor:
        c = sde.noise.on(shape).std(eigenvalues).square()
        return (denoiser.spectrum(eigenvalues, sde.domain.dim) / c + level.square()).sqrt()

    return sde.domain.filter(noise, gain)


def on_cells(denoiser: Denoiser, low: Tensor, shape: Shape) -> Tensor:
    """A coarse grid's field, as a finer grid shows the same modes, on the coarse grid: averages over the finer cells."""
    domain, small = denoiser.sde.domain, tuple(low.shape[2:])
    if not denoiser.cell_averages:
        return low
    c = domain.analyze(low)
    fine, coarse = (domain.attenuation(small, cells, device=c.device, dtype=c.real.dtype) for cells in (shape, small))
    return domain.synthesize(c * (fine / coarse), small).to(low.dtype)
