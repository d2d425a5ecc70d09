"""What every solver promises: its order, its law, and that plans, wrappers and batches leave it as it is."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import pytest
import torch
from oracles import Exact, finishing, moving_on, oracle, planned, stages_of, variances
from parts import EVERY_SOLVER, FLAT, PLANS, SOLVERS, STOCHASTIC, Shifted, Unchanged, name, pairwise
from torch import Tensor

from fnodiff.domain import Box, Sphere, Torus
from fnodiff.sde import (
    EDM,
    VE,
    VP,
    DPMSolver,
    EvenTime,
    FunctionSpaceSDE,
    GaussianDenoiser,
    GaussianRandomField,
    Matern,
    Solver,
    Stage,
    SubVP,
    WhiteNoise,
    integrate,
    run,
    sample,
)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("domain", "solver", "order", "schedule"), pairwise(FLAT, SOLVERS, [EDM(), VP()]), ids=name)
class TestSolver:
    def test_order_against_the_closed_form_flow(self, domain, solver: type[Solver], order, schedule):
        sde = FunctionSpaceSDE(GaussianRandomField(domain, Matern(0.7, 0.3)), schedule)
        denoiser = GaussianDenoiser(GaussianRandomField(domain, Matern(1.5, 0.2)), sde)
        x = sde.prior((2, 1, *(12, 9)[: domain.dim]), generator=torch.Generator().manual_seed(0))
        exact = denoiser.flow(x, torch.ones(()), torch.zeros(()))
        coarse, fine = (
            float(domain.norm(integrate(denoiser, solver(), x, EvenTime().times(schedule, n + 1)) - exact).max())
            for n in (24, 48)
        )
        assert fine < 0.06 * float(domain.norm(exact).max())
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.2)

    def test_last_step_is_the_denoised_estimate(self, domain, solver: type[Solver], order, schedule):
        sde = FunctionSpaceSDE(WhiteNoise(domain, (8,) * domain.dim), schedule)
        denoiser = GaussianDenoiser(GaussianRandomField(domain, Matern(1.5)), sde)
        x, times = sde.prior((2, 1, *(8,) * domain.dim)), solver(5).times(schedule)
        end = run(denoiser, solver(5), [Stage((8,) * domain.dim, times)], x)
        torch.testing.assert_close(end, denoiser(integrate(denoiser, solver(5), x, times), torch.zeros(())))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("solver", "domain", "schedule"), pairwise(STOCHASTIC, [(Torus(1), VE()), (Box(1), SubVP())]), ids=name
)
def test_stochastic_solvers_have_the_right_law_on_gaussian_data(domain, solver, schedule):
    # Samples are the estimates at t = 0: of variance S^2 / (S + s^2 C) in a mode, but for an error that falls with the step.
    sde, shape = FunctionSpaceSDE(GaussianRandomField(domain, Matern(0.5, 0.3)), schedule), (6,)
    denoiser = GaussianDenoiser(GaussianRandomField(domain, Matern(1.5, 0.2)), sde)
    eigenvalues, low = domain.eigenvalues(shape), schedule.ratio(torch.zeros(()))
    data, noise = denoiser.data.std(eigenvalues).square(), sde.noise.std(eigenvalues).square()
    expected = data.square() / (data + low.square() * noise)
    coarse, fine = (
        variances(denoiser, solver(n + 1), [Stage(shape, solver(n + 1).times(schedule))]) / expected - 1
        for n in (16, 32)
    )
    assert bool((fine.abs() < 0.6 * coarse.abs() + 0.02).all()), (coarse, fine)
    assert bool((expected[0] > 2 * expected[-1]).all()), "modes differ: a law that ignored the spectra would fail"


FEW_KINDS = [(Torus(1), "matern"), (Box(2), "pixel"), (Sphere(), "white")]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("domain", "kind", "solver", "order", "stages"), pairwise(FEW_KINDS, SOLVERS, [moving_on, finishing]), ids=name
)
def test_order_through_stages_and_a_wrapper_against_the_closed_form(domain, kind, solver, order, stages):
    denoiser, grids = oracle(domain, kind, EDM(0.01, 50.0))
    wrapped = Shifted(denoiser, 2.0)
    start = denoiser.sde.prior((2, 1, *grids[-1]), generator=torch.Generator().manual_seed(0))
    exact = run(wrapped, Exact(), stages(denoiser.sde, grids, (0.8, 0.5)), start)
    coarse, fine = (
        float(domain.norm(run(wrapped, solver(9), stages(denoiser.sde, grids, (0.8, 0.5), n), start) - exact).max())
        for n in (16, 32)
    )
    assert fine < 0.05 * float(domain.norm(exact).max())
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.3)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("solver", "kind", "stages"), pairwise(STOCHASTIC, [("white", moving_on), ("pixel", finishing)]), ids=name
)
def test_stochastic_solvers_have_the_right_law_through_stages(solver, kind, stages):
    denoiser, _ = oracle(Box(1), kind, EDM(0.01, 50.0))
    expected = denoiser.data.std(Box(1).eigenvalues((6,))).square()
    coarse, fine = (
        variances(denoiser, solver(n + 1), stages(denoiser.sde, [(3,), (6,)], (0.6,), n)) / expected - 1
        for n in (12, 24)
    )
    assert bool((fine.abs() < 0.6 * coarse.abs() + 0.02).all()), (coarse, fine)


SEEDS = [3, 5, 8]


@dataclass(frozen=True)
class Delegating(Solver):
    """A user's solver that leaves its steps to another one."""

    inner: Solver = DPMSolver()

    @property
    def evaluations_per_step(self):
        return self.inner.evaluations_per_step

    def step(self, denoiser, x_t, t, s, memory, noise):
        return self.inner.step(denoiser, x_t, t, s, memory, noise)


@functools.cache
def plain(kind: str, plan: str, solver: Solver) -> tuple[Tensor, int]:
    """Samples of a solver alone, and how often the model was asked."""
    (denoiser, made, shape), calls = planned(kind, plan), []
    denoiser.register_forward_pre_hook(lambda *_: calls.append(1))
    return sample(denoiser, shape, SEEDS, solver=solver, plan=made), len(calls)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("plan", "kind", "solver"), pairwise(list(PLANS), ["matern", "pixel"], EVERY_SOLVER), ids=name)
class TestEverySolverInEveryPlan:
    def test_a_solver_that_delegates_and_wrappers_that_change_nothing_give_the_same_samples(self, plan, kind, solver):
        expected, _ = plain(kind, plan, solver(10))
        denoiser, plan, shape = planned(kind, plan)
        wrapped, delegating = Unchanged(Unchanged(denoiser)), Delegating(10, inner=solver(10))
        assert torch.equal(sample(wrapped, shape, SEEDS, solver=delegating, plan=plan), expected)

    def test_a_wrapper_that_shifts_the_data_shifts_the_samples(self, plan, kind, solver):
        expected, _ = plain(kind, plan, solver(10))
        denoiser, plan, shape = planned(kind, plan)
        shifted = sample(Shifted(denoiser, 3.0), shape, SEEDS, solver=solver(10), plan=plan) - expected
        torch.testing.assert_close(shifted, torch.full_like(shifted, 3.0), rtol=0, atol=0.15)

    def test_a_sample_depends_on_its_seed_alone(self, plan, kind, solver):
        expected, _ = plain(kind, plan, solver(10))
        denoiser, plan, shape = planned(kind, plan)
        apart = sample(denoiser, shape, SEEDS, solver=solver(10), plan=plan, batch=2)
        torch.testing.assert_close(apart, expected)
        assert float((apart[0] - apart[1]).abs().max()) > 0.1

    def test_evaluations_are_those_of_the_steps_and_one_for_each_grid_that_is_finished(self, plan, kind, solver):
        _, calls = plain(kind, plan, solver(10))
        stages = stages_of(*planned(kind, plan), solver(10))
        finished = 1 + sum(stage.held is not None for stage in stages)
        assert calls == sum(stage.steps for stage in stages) * solver(10).evaluations_per_step + finished
        assert solver(10).evaluations == 9 * solver(10).evaluations_per_step + 1
