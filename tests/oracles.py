"""Models whose samples are known, and what their solvers and stages should do with them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from parts import FLAT, PLANS, Shifted
from torch import Tensor

from fnodiff.domain import Box, Domain, Sphere
from fnodiff.sde import (
    EDM,
    Denoiser,
    Direct,
    FunctionSpaceSDE,
    GaussianDenoiser,
    GaussianRandomField,
    Matern,
    PixelNoise,
    Plan,
    ReplaceModes,
    Schedule,
    Solver,
    Stage,
    WhiteNoise,
    run,
)


def oracle(domain: Domain, kind: str, schedule: Schedule | None = None) -> tuple[GaussianDenoiser, list[tuple]]:
    """Gaussian data under one kind of noise, and three grids."""
    noise = {
        "matern": lambda: GaussianRandomField(domain, Matern(0.5, 0.3)),
        "white": lambda: WhiteNoise(domain, (8,) * domain.dim),
        "pixel": lambda: PixelNoise(domain),
    }[kind]()
    grids = [(4, 7), (8, 15), (10, 19)] if isinstance(domain, Sphere) else [(4, 5), (8, 7), (12, 13)]
    sde = FunctionSpaceSDE(noise, EDM(0.01, 1000.0) if schedule is None else schedule)
    return GaussianDenoiser(GaussianRandomField(domain, Matern(1.5, 0.3)), sde), [grid[: domain.dim] for grid in grids]


KINDS = [(domain, kind) for domain in FLAT for kind in ("matern", "white", "pixel")]
KINDS = [(domain, kind) for domain, kind in KINDS if domain.uniform or kind != "pixel"]


def planned(kind: str, plan: str) -> tuple[GaussianDenoiser, Plan, tuple[int, ...]]:
    """A model, a plan and the samples' grid."""
    denoiser, grids = oracle(Box(2), kind)
    return denoiser, PLANS[plan](grids), grids[-1]


def stages_of(denoiser: Denoiser, plan: Plan, shape: tuple[int, ...], solver: Solver) -> list[Stage]:
    """The stages, which are several unless the plan is direct."""
    stages = plan.plan(denoiser, shape, solver.times(denoiser.sde.schedule))
    assert (len(stages) > 1) != isinstance(plan, Direct)
    assert min(stage.steps for stage in stages) > 0
    return stages


# ---- stages of the tests' own -------------------------------------------------------------------------------------


def level_share(sde: FunctionSpaceSDE, grid: tuple[int, ...], finest: tuple[int, ...]) -> float:
    """The noise level on a grid that leaves a mode the noise of level one on the finest: PixelNoise puts 1 / points in each."""
    return math.sqrt(math.prod(grid) / math.prod(finest)) if isinstance(sde.noise, PixelNoise) else 1.0


def on_its_grid(sde: FunctionSpaceSDE, times: Tensor, grid: tuple[int, ...], finest: tuple[int, ...]) -> Tensor:
    """Times of the finest grid, as those of another one."""
    part = level_share(sde, grid, finest)
    return times if part == 1 else sde.schedule.time(part * sde.schedule.ratio(times))


def moving_on(sde: FunctionSpaceSDE, grids: list[tuple], changes: tuple[float, ...], steps: int = 1) -> list[Stage]:
    """The state goes on from grid to grid at these times of the finest."""
    ends = itertools.pairwise([1.0, *changes, 0.0])
    times = [torch.linspace(a, b, steps + 1) if a > b else torch.tensor([a]) for a, b in ends]
    return [Stage(grid, on_its_grid(sde, t, grid, grids[-1])) for grid, t in zip(grids, times, strict=True)]


def finishing(sde: FunctionSpaceSDE, grids: list[tuple], changes: tuple[float, ...], steps: int = 1) -> list[Stage]:
    """Each grid is sampled to its end, and held on the next, which begins at that time of the finest."""
    starts = [on_its_grid(sde, torch.tensor(a), grid, grids[-1]) for a, grid in zip(changes, grids[1:], strict=True)]
    first = Stage(grids[0], torch.linspace(1, 0, steps + 1))
    finer = zip(starts, grids[1:], grids, strict=False)
    return [first, *(Stage(grid, torch.linspace(float(a), 0, steps + 1), held) for a, grid, held in finer)]


# ---- what they should end in --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exact(Solver):
    """The probability flow in closed form: of the oracle, and of what these tests wrap around it."""

    def step(self, denoiser, x_t, t, s, memory, noise):
        return flow(denoiser, x_t, t, s), None


def flow(denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (denoiser.sde.marginal(x_t, time) for time in (t, s))
    if isinstance(denoiser, Shifted):
        shift = denoiser.shift
        return alpha_s * shift + flow(denoiser.denoiser, x_t - alpha_t * shift, t, s)
    if isinstance(denoiser, ReplaceModes):  # a mode c that is held is c + s z on the way
        domain, shape, small = denoiser.sde.domain, tuple(x_t.shape[2:]), denoiser.small
        x_s = flow(denoiser.denoiser, x_t, t, s)
        z = (domain.resample(x_t, small) - alpha_t * denoiser.low) / sigma_t
        return x_s + domain.resample(alpha_s * denoiser.low + sigma_s * z - domain.resample(x_s, small), shape)
    return denoiser.flow(x_t, t, s)


def one_deviation(sde: FunctionSpaceSDE, shape: tuple[int, ...]) -> Tensor:
    """A draw of the noise whose modes have one standard deviation each."""
    domain = sde.domain
    noise = sde.noise.on(shape).std(domain.eigenvalues(shape))
    return domain.synthesize(noise[None, None].to(domain.white((1, 1), shape).dtype), shape)


def first(sde: FunctionSpaceSDE, shape: tuple[int, ...]) -> Tensor:
    """A start whose modes have one standard deviation each."""
    return sde.schedule(torch.ones(()))[1] * one_deviation(sde, shape)


def variances(denoiser: Denoiser, solver: Solver, stages: list[Stage]) -> Tensor:
    """The variance of each mode of the samples, exactly.

    On Gaussian data a solver is linear in every draw of noise, and so are changes of grid: each draw of one deviation is
    followed on its own, as a sample of a batch, and the squares of what becomes of them add up.
    """
    shape, rows = stages[-1].shape, itertools.count(1)
    draws = {stage.shape: one_deviation(denoiser.sde, stage.shape) for stage in stages}

    def impulse(x: Tensor) -> Tensor:
        out, row = torch.zeros_like(x), next(rows)
        out[row : row + 1] = draws[tuple(x.shape[2:])]
        return out

    most = sum(stage.steps for stage in stages) * solver.evaluations_per_step
    start = denoiser.sde.schedule(torch.ones(()))[1] * draws[shape]
    end = run(denoiser, solver, stages, torch.cat([start, torch.zeros(most, 1, *shape)]), noise=impulse)
    assert next(rows) <= most + 1
    return denoiser.sde.domain.analyze(end)[:, 0].abs().square().sum(0)
