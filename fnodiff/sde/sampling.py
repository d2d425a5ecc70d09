"""Sampling: one loop for every solver, plan and denoiser.

In y = x_t / alpha_t a run starts at noise of level s(1) and goes through its stages. On each, a solver steps through the
stage's times. Between two, on the finer grid:

- the state goes on: its modes stay, and those that it lacked are added with the variance that they have by then, S + s^2 C;
- or a sample of the grid before is held: its modes c, noised to c + s z, begin the stage, and a denoiser that holds them
  (`ReplaceModes`) is sampled from there.

The modes that are added, and the noise of those that are held, are those of the state at t = 1: one seed is one function. What
the last stage, or a stage that is held from, ends with is one evaluation of the denoiser; no other stage spends one.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, MappingView, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from fnodiff.domain import Shape, as_floats, on_device
from fnodiff.expected import at_least, kinds_checked
from fnodiff.sde.denoiser import Denoiser, channels_of, check_finite, condition_rows, evaluating
from fnodiff.sde.given import Given
from fnodiff.sde.replace import ReplaceCells, ReplaceModes
from fnodiff.sde.solvers import Solver
from fnodiff.sde.solvers.base import Fresh
from fnodiff.sde.stages import Plan, Stage, describe, emerged, on_cells, share
from fnodiff.sde.usual import checked_solver, default_plan, default_solver

Hold = Callable[[Denoiser, Tensor], Denoiser]
"""(denoiser, low modes (B, C, *small), normalised) -> a denoiser that holds them, such as `ReplaceModes`."""


def integrate(denoiser: Denoiser, solver: Solver, x: Tensor, times: Tensor, *, noise: Fresh | None = None) -> Tensor:
    """The state at the last of the times, its noise still in it, from the state x (B, C, *spatial) at the first.

    Args:
        denoiser: Called as denoiser(x_t, t); bind conditions with `Given`.
        solver: Takes the steps.
        x: The state.
        times: Decreasing, (n,), float64.
        noise: Fresh noise for stochastic solvers; by default from torch's global generator.

    Raises:
        ValueError: If a step returns something else than a state of x's shape and what to remember.
    """
    noise = noise or (lambda x: denoiser.sde.noise.sample(x.shape, device=x.device, dtype=x.dtype))
    memory: Any = None
    for t, s in itertools.pairwise(on_device(times, x.device)):
        made = solver.step(denoiser, x, t, s, memory, noise)
        pair = isinstance(made, tuple) and len(made) == 2
        if not pair or not isinstance(made[0], Tensor) or made[0].shape != x.shape:
            got = tuple(getattr(made[0], "shape", ())) if pair else type(made).__name__
            raise ValueError(
                f"{type(solver).__name__}.step: expected a state of shape {tuple(x.shape)} and what to remember, got {got}; "
                f"end it with such as return x_s, None."
            )
        x, memory = made
    return x


@torch.no_grad()
def run(
    denoiser: Denoiser,
    solver: Solver,
    stages: Sequence[Stage],
    start: Tensor,
    *,
    low: Tensor | None = None,
    hold: Hold | None = None,
    noise: Fresh | None = None,
    finer: Solver | None = None,
) -> Tensor:
    """Samples (B, C, *spatial), normalised, by given stages from a given start; in evaluation mode, without dropout.

    Args:
        denoiser: Called as denoiser(x_t, t); bind conditions with `Given`.
        solver: Takes the steps; its own number of steps does not count.
        stages: The plan; the last stage's grid is start's.
        start: The state at t = 1 on the samples' grid, `sde.prior(shape)`.
        low: For a first stage with `held`: what is held, (B, C, *small), normalised.
        hold: How low modes are held; by default by `ReplaceModes`, and cells by `ReplaceCells` where the stage says so.
        noise: Fresh noise for stochastic solvers; by default from torch's global generator.
        finer: Takes the steps of stages that hold something, if not `solver`.

    Raises:
        ValueError: If the stages do not end on start's grid, or hold a field that is not there.
        FloatingPointError: If samples are not finite, naming the solver.
    """
    sde, domain = denoiser.sde, denoiser.sde.domain
    finest, sample = domain.check_field(start), low
    if not stages or tuple(stages[-1].shape) != finest or (stages[0].held is not None and low is None):
        raise ValueError(
            f"run: expected stages that end on the grid {finest} of start, and low= for a first stage with `held`, got "
            f"{[(stage.shape, stage.held) for stage in stages]}; make them with a plan."
        )
    unit = start / sde.marginal(start, torch.ones((), dtype=torch.float64))[1]
    with evaluating(denoiser):
        sample = _through(denoiser, (solver, finer or solver), stages, unit, sample, hold, noise)
    bad = int((~sample.isfinite()).flatten(1).any(1).sum())
    if bad:
        raise FloatingPointError(
            f"expected finite samples of {solver}, got NaN or infinite values in {bad} of {len(sample)}: the model or the "
            f"solver diverged; take more steps, or the weights of an earlier checkpoint."
        )
    return sample


def _through(
    denoiser: Denoiser,
    solvers: tuple[Solver, Solver],
    stages: Sequence[Stage],
    unit: Tensor,
    sample: Tensor | None,
    hold: Hold | None,
    noise: Fresh | None,
) -> Tensor:
    """What `run` returns, from noise of level one on the finest grid and the sample that the first stage holds.

    The first solver is that of stages that hold nothing.
    """
    sde, domain, finest = denoiser.sde, denoiser.sde.domain, tuple(unit.shape[2:])
    y, inner = None, denoiser
    for number, stage in enumerate(stages):
        t = on_device(stage.times[0], unit.device)
        noise_here = domain.resample(unit, stage.shape) / share(denoiser, stage.shape, finest)
        level = sde.schedule.ratio(t).to(unit)
        if stage.held is not None:
            cells = stage.cells and hold is None
            kept = sample if cells else domain.resample(on_cells(denoiser, sample, stage.shape), stage.held)
            small, moved = tuple(kept.shape[2:]), domain.average if cells else domain.resample
            fresh = emerged(denoiser, noise_here, t) if number else level * noise_here
            noisy = kept + level * moved(noise_here, small)
            y = fresh + moved(noisy - moved(fresh, small), stage.shape)
            inner = (hold or (ReplaceCells if cells else ReplaceModes))(denoiser, kept)
        elif y is None:
            y = level * noise_here  # a first stage starts from noise
        else:
            fresh, grid = emerged(denoiser, noise_here, t), tuple(y.shape[2:])
            y = domain.resample(y, stage.shape) + fresh - domain.resample(domain.resample(fresh, grid), stage.shape)
        solver = solvers[stage.held is not None]
        x = integrate(inner, solver, sde.marginal(y, t)[0] * y, stage.times, noise=noise)
        last = on_device(stage.times[-1], unit.device)
        y = x / sde.marginal(x, last)[0]
        if number == len(stages) - 1 or stages[number + 1].held is not None:
            sample = inner(x, last)
            if sample.shape != x.shape:  # what torch has stretched in the solver's steps
                raise ValueError(
                    f"run: expected {type(denoiser).__name__} to return {tuple(x.shape)}, as it was given, got "
                    f"{tuple(sample.shape)}; mend its channels or its padding."
                )
    return sample


@kinds_checked(but=("denoiser", "seeds", "solver", "plan", "shape", "device"))
def samples(
    denoiser: Denoiser,
    shape: Shape | int,
    seeds: Sequence[int] | int,
    *,
    solver: Solver | None = None,
    plan: Plan | None = None,
    hold: Hold | None = None,
    batch: int = 32,
    device: torch.device | str | None = None,
    progress: bool = False,
    **condition: Any,
) -> Iterator[Tensor]:
    """`sample`, `batch` seeds at a time: (up to `batch`, C, *shape) on the CPU, in the order of the seeds.

    Working memory is that of one batch, whatever the number of seeds.

    Examples:
        >>> from fnodiff import EDM, Box, FunctionSpaceSDE, GaussianRandomField, Matern, samples
        >>> from fnodiff.sde import GaussianDenoiser
        >>> field = GaussianRandomField(Box(1), Matern(1.0, 0.3))
        >>> denoiser = GaussianDenoiser(field, FunctionSpaceSDE(field, EDM()))
        >>> [tuple(x.shape) for x in samples(denoiser, (16,), seeds=range(10), batch=4)]
        [(4, 1, 16), (4, 1, 16), (2, 1, 16)]
    """
    check_denoiser(denoiser, plan)
    domain, seeds = denoiser.sde.domain, seed_list(seeds)
    shape = domain.check_shape(shape)
    finer = default_solver(denoiser, upscaling=True) if solver is None else None
    solver = checked_solver(default_solver(denoiser) if solver is None else solver)
    plan = default_plan(denoiser, shape) if plan is None else plan
    stages = plan.plan(denoiser, shape, solver.times(denoiser.sde.schedule))
    bound = Given(denoiser, **condition_rows(denoiser, condition, len(seeds))) if condition else denoiser
    start = (channels_of(denoiser), *shape)
    yield from _batches("sample", bound, solver, stages, start, seeds, batch, device, progress, hold, None, finer)


@kinds_checked(but=("denoiser", "seeds", "solver", "plan", "shape", "device"))
def sample(
    denoiser: Denoiser,
    shape: Shape | int,
    seeds: Sequence[int] | int,
    *,
    solver: Solver | None = None,
    plan: Plan | None = None,
    hold: Hold | None = None,
    batch: int = 32,
    device: torch.device | str | None = None,
    progress: bool = False,
    **condition: Any,
) -> Tensor:
    """Samples (len(seeds), C, *shape) in data units, on the CPU: one for each seed, whatever else is sampled.

    One seed is one function: sampled on two grids it shows the same, as far as the model does not depend on the grid.

    Args:
        denoiser: A model, or a wrapper of one.
        shape: The samples' grid; an int for as many points on each side (latitudes on a sphere).
        seeds: One for each sample, or a single one.
        solver: Takes the steps; by default `DPMSolver(12)`, and `DPMSolver(12, eta=1.0)` where a trained model of cell averages
            adds detail to a coarser grid's sample.
        plan: `Direct()`, `Progressive(...)` or `Cascade(...)`; by default `default_plan(denoiser, shape)`.
        hold: How a cascade holds modes; the replacement method by default.
        batch: Samples at a time.
        device: Where to sample; by default where the denoiser's parameters are.
        progress: Show a bar, and say which plan is run.
        condition: label=, field= or condition=, the latter numbers such as {"viscosity": 1e-3}: one for each seed, or one
            for all.

    Raises:
        ValueError: If the shape, the plan or a condition does not fit.

    Examples:
        >>> from fnodiff import EDM, Box, FunctionSpaceSDE, GaussianRandomField, Matern, sample
        >>> from fnodiff.sde import GaussianDenoiser
        >>> field = GaussianRandomField(Box(2), Matern(1.0, 0.3))
        >>> denoiser = GaussianDenoiser(field, FunctionSpaceSDE(field, EDM()))
        >>> coarse, fine = (sample(denoiser, (n, n), seeds=[7, 8]) for n in (16, 32))
        >>> bool((Box(2).resample(fine, (16, 16)) - coarse).abs().max() < 1e-3)  # one seed is one function
        True
    """
    run_options = {"solver": solver, "plan": plan, "hold": hold, "batch": batch, "device": device, "progress": progress}
    return torch.cat(list(samples(denoiser, shape, seeds, **run_options, **condition)))


@kinds_checked(but=("denoiser", "seeds", "solver", "shape", "device"))
def upscale(
    denoiser: Denoiser,
    low: Tensor,
    shape: Shape | int,
    seeds: Sequence[int] | int,
    *,
    solver: Solver | None = None,
    hold: Hold | None = None,
    batch: int = 32,
    device: torch.device | str | None = None,
    progress: bool = False,
    **condition: Any,
) -> Tensor:
    """Zero-shot super-resolution: fields on a finer grid with the averages over coarse cells, or low modes, of given ones.

    Of cell averages, as images are, the averages are held where the coarse cells are made of whole fine ones, as 32x32 of
    64x64: averaged again, the result is `low`. Elsewhere the modes are held. Of cell averages, mode k of the result is then
    that of `low` divided by what averaging over the coarse cells took, times what the fine cells take; what averaging folded
    onto a mode from above the coarse grid stays in it, so averaged again the result is near `low`, not equal to it.

    Args:
        denoiser: A model of such fields; nothing in it needs to know about super-resolution.
        low: (C, *small) or (B, C, *small), in data units. One field and several seeds are several samples for it.
        shape: The finer grid; an int for as many points on each side.
        seeds: One for each sample, or a single one: other seeds are other fields that fit.
        solver: Takes the steps; by default `DPMSolver(36)`, and `DPMSolver(12, eta=1.0)` of a trained model of cell averages.
        hold: How known modes are held; by default cells, or modes by `ReplaceModes`, as above.
        batch, device, progress, condition: As for `sample`.

    Returns:
        (len(seeds), C, *shape) in data units, on the CPU.

    Raises:
        ValueError: If the finer grid does not hold the modes of the coarse one or has neither its proportions nor those of the
            domain, `low` is not finite, or there is neither one field nor one for each seed.

    Examples:
        >>> import torch
        >>> from fnodiff import EDM, Box, FunctionSpaceSDE, GaussianRandomField, Matern, WhiteNoise, upscale
        >>> from fnodiff.sde import GaussianDenoiser
        >>> field = GaussianRandomField(Box(2), Matern(1.0, 0.3))
        >>> denoiser = GaussianDenoiser(field, FunctionSpaceSDE(WhiteNoise(Box(2), (16, 16)), EDM()))
        >>> low = field.sample((1, 1, 16, 16), generator=torch.Generator().manual_seed(0))
        >>> high = upscale(denoiser, low, (32, 32), seeds=[0, 1])
        >>> bool((Box(2).resample(high, (16, 16)) - low).abs().max() < 0.01)
        True
    """
    check_denoiser(denoiser, None)
    domain, seeds = denoiser.sde.domain, seed_list(seeds)
    shape = domain.check_shape(shape)
    low = as_floats(low, "low")
    low = low[None] if low.ndim == domain.dim + 1 else low
    small = domain.check_field(low)
    if not all(n <= m for n, m in zip(small, shape, strict=True)) or small == shape:
        raise ValueError(f"upscale: expected a grid finer than {small}, got {shape}; pass the shape to upscale to.")
    check_finite(low=low)
    if not (_alike(shape, small, shape[0] / small[0]) or _alike(shape, domain.lengths, 1.0)):
        raise ValueError(
            f"upscale: expected a grid of the same proportions as {small}, got {shape}, which would stretch the field; take "
            f"such as {tuple(2 * n for n in small)}, or a domain with the lengths of its sides."
        )
    if len(low) not in (1, len(seeds)):
        raise ValueError(
            f"upscale: expected one field, or one for each of the {len(seeds)} seeds, got {len(low)}; pass as many seeds."
        )
    low = denoiser.normalization(low).expand(len(seeds), *low.shape[1:])
    solver = checked_solver(default_solver(denoiser, upscaling=True) if solver is None else solver)
    cells = denoiser.cell_averages and domain.whole_cells(small, shape)
    stages = [Stage(shape, solver.times(denoiser.sde.schedule), small, cells)]
    bound = Given(denoiser, **condition_rows(denoiser, condition, len(seeds))) if condition else denoiser
    start = (low.shape[1], *shape)
    return torch.cat(list(_batches("upscale", bound, solver, stages, start, seeds, batch, device, progress, hold, low)))


def _batches(
    name: str,
    denoiser: Denoiser,
    solver: Solver,
    stages: Sequence[Stage],
    shape: Shape,
    seeds: list[int],
    batch: int,
    device: torch.device | str | None,
    progress: bool,
    hold: Hold | None,
    low: Tensor | None,
    finer: Solver | None = None,
) -> Iterator[Tensor]:
    """Samples of a plan, in data units, some seeds at a time."""
    at_least(name, 1, batch=batch)
    if hold is not None and not callable(hold):
        raise ValueError(f"{name}: expected hold as a wrapper such as MatchModes, got {hold!r}; pass the class.")
    sde, device = denoiser.sde, device_of(denoiser, device)
    if progress:
        tqdm.write(f"{name}: {describe(stages)}", file=sys.stderr)
    denoiser = denoiser.among(len(seeds))
    with tqdm(total=len(seeds), disable=not progress, desc=name, unit="sample") as bar:
        for first in range(0, len(seeds), batch):
            part = slice(first, first + batch)
            generators = [torch.Generator().manual_seed(seed) for seed in seeds[part]]

            def noise(x: Tensor, generators: list[torch.Generator] = generators) -> Tensor:
                return sde.noise.sample(x.shape, generator=generators, device=x.device, dtype=x.dtype)

            start = sde.prior((len(generators), *shape), generator=generators, device=device)
            known = None if low is None else low[part].to(start.dtype).to(start.device)
            rows = denoiser.rows(part) if len(seeds) > batch else denoiser
            x = run(rows, solver, stages, start, low=known, hold=hold, noise=noise, finer=finer)
            yield denoiser.normalization.inverse(x).cpu()
            bar.update(len(generators))


def _alike(shape: Shape, sides: Sequence[float], slack: float) -> bool:
    """Whether a grid has as many points for each unit of the sides, to so many points."""
    each = shape[0] / sides[0]
    return all(abs(n - each * side) <= slack for n, side in zip(shape, sides, strict=True))


def device_of(denoiser: Denoiser, device: torch.device | str | None) -> torch.device:
    """Where to sample; by default where the denoiser is."""
    try:
        here = next(denoiser.parameters(), torch.empty(0)).device if device is None else torch.device(device)
        return torch.empty(0, device=here).device
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:  # AssertionError: torch was built without it
        why = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        got = f"{device!r} ({why}); leave it out for the model's"
        raise ValueError(f'expected a device that is there, such as "cpu" or "cuda", got {got}.') from error


def check_denoiser(denoiser: Denoiser, plan: Plan | None) -> None:
    """Whether a denoiser and a plan are that: a network is given for the one, a list of grids for the other."""
    if not isinstance(denoiser, Denoiser):
        raise ValueError(
            f"expected a Denoiser, got {type(denoiser).__name__}; make a network one: Model(network, sde, EDMScaling())."
        )
    if plan is not None and not isinstance(plan, Plan):
        raise ValueError(f"expected a plan, got {plan!r}; pass such as Progressive([(16, 16)]).")


def seed_list(seeds: Sequence[int] | int) -> list[int]:
    """Python integers, one or several."""
    listed = list(seeds) if isinstance(seeds, Iterator | MappingView) else seeds
    given = listed.cpu() if isinstance(listed, Tensor) else listed
    try:
        numbers = np.atleast_1d(np.asarray(given))
    except ValueError:  # lists of different lengths
        numbers = np.zeros(0)
    whole = numbers.dtype.kind in "iu" and numbers.ndim == 1 and len(numbers)
    if not whole or int(numbers.min()) < 0 or int(numbers.max()) >= 2**32:  # torch's generators take no more
        raise ValueError(
            f"expected seeds as whole numbers from 0 to 2**32 - 1, at least one, got {seeds!r}; pass such as seeds=range(16)."
        )
    return [int(seed) for seed in numbers]
