"""What every plan promises of its stages, and what a change of grid does to the law of the samples."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from oracles import KINDS, Exact, finishing, first, level_share, moving_on, on_its_grid, oracle, planned, stages_of
from parts import PLANS, Unchanged, pairwise

from fnodiff.domain import Box
from fnodiff.inverse import MomentMatching, PointObservation
from fnodiff.sde import (
    EDM,
    VP,
    Cascade,
    Direct,
    DPMSolver,
    FunctionSpaceSDE,
    GaussianDenoiser,
    GaussianRandomField,
    Heun,
    Matern,
    Progressive,
    ReplaceModes,
    Solver,
    WhiteNoise,
    default_plan,
    run,
    sample,
)

SCHEDULES = [EDM(0.01, 1000.0), VP(beta_max=60.0)]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("domain", "kind", "schedule"), pairwise(KINDS, SCHEDULES), ids=str)
class TestStages:
    """Every step is linear and diagonal in the modes: modes of one standard deviation each end with theirs."""

    @pytest.mark.parametrize("changes", [(0.8, 0.5), (0.3, 0.1), (0.6, 0.6), (1.0, 0.2)])
    def test_going_on_is_exact_in_law_at_any_change_of_grid(self, domain, kind, schedule, changes):
        denoiser, grids = oracle(domain, kind, schedule)
        sde, eigenvalues = denoiser.sde, domain.eigenvalues(grids[-1])
        end = run(denoiser, Exact(), moving_on(sde, grids, changes), first(sde, grids[-1]))
        low, noise = schedule.ratio(torch.zeros(())), sde.noise.on(grids[-1]).std(eigenvalues)
        data = denoiser.data.std(eigenvalues)
        expected = data.square() / (data.square() + (low * noise).square()).sqrt()
        torch.testing.assert_close(domain.analyze(end)[0, 0].abs(), expected, rtol=1e-4, atol=1e-9)

    def test_a_grid_may_take_over_at_the_end(self, domain, kind, schedule):
        denoiser, grids = oracle(domain, kind, schedule)
        if kind == "pixel":  # less noise in a mode than the coarser grid's levels reach
            with pytest.raises(ValueError, match=r"\[0, 1\]"):
                run(denoiser, Exact(), moving_on(denoiser.sde, grids, (1.0, 0.0)), first(denoiser.sde, grids[-1]))
            return
        self.test_going_on_is_exact_in_law_at_any_change_of_grid(domain, kind, schedule, (1.0, 0.0))

    def test_holding_is_exact_in_law_and_keeps_what_was_sampled(self, domain, kind, schedule):
        denoiser, grids = oracle(domain, kind, schedule)
        sde, start, changes = denoiser.sde, first(denoiser.sde, grids[-1]), (0.8, 0.5)
        end = run(denoiser, Exact(), finishing(sde, grids, changes), start)
        # A mode ends on the first grid that has it, with what noise is left there.
        eigenvalues, low = domain.eigenvalues(grids[-1]), schedule.ratio(torch.zeros(()))
        left = sde.noise.on(grids[-1]).std(eigenvalues)
        for grid in reversed(grids[:-1]):
            there = domain.analyze(domain.resample(domain.resample(start, grid), grids[-1]))[0, 0].abs() > 1e-9
            left = torch.where(there, sde.noise.on(grid).std(eigenvalues), left)
        data = denoiser.data.std(eigenvalues)
        expected = data.square() / (data.square() + (low * left).square()).sqrt()
        torch.testing.assert_close(domain.analyze(end)[0, 0].abs(), expected, rtol=1e-4, atol=1e-9)
        if kind != "pixel":  # whose start on a coarser grid is another
            coarse = domain.resample(start, grids[1])
            middle = run(denoiser, Exact(), finishing(sde, grids[:2], changes[:1]), coarse)
            torch.testing.assert_close(domain.resample(end, grids[1]), middle)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ["matern", "white", "pixel"])
@pytest.mark.parametrize("plan", PLANS)
class TestPlan:
    def test_memory_is_what_the_last_step_returned_and_none_at_a_stages_first(self, plan, kind):
        (denoiser, plan, shape), seen = planned(kind, plan), []

        @dataclass(frozen=True)
        class Counting(Solver):
            def step(self, denoiser, x_t, t, s, memory, noise):
                seen.append((tuple(x_t.shape[2:]), float(t), float(s), memory))
                return x_t, 1 if memory is None else memory + 1

        sample(denoiser, shape, [0], solver=Counting(16), plan=plan)
        stages = stages_of(denoiser, plan, shape, Counting(16))
        steps = [
            (stage.shape, t, s, number or None)
            for stage in stages
            for number, (t, s) in enumerate(itertools.pairwise(stage.times.tolist()))
        ]
        assert seen == steps

    def test_stages_meet_and_end_with_the_schedule(self, plan, kind):
        # The noise of a mode is the same on both sides of a change of grid: its level over that grid's share.
        denoiser, plan, shape = planned(kind, plan)
        sde, stages, low = denoiser.sde, stages_of(denoiser, plan, shape, Heun(16)), 0.01
        share = [level_share(sde, stage.shape, shape) for stage in stages]
        first = [float(sde.schedule.ratio(stage.times[0])) / part for stage, part in zip(stages, share, strict=True)]
        last = [float(sde.schedule.ratio(stage.times[-1])) / part for stage, part in zip(stages, share, strict=True)]
        finished = [after.held is not None for after in stages[1:]] + [True]
        visited = sde.schedule.ratio(Heun(16).times(sde.schedule))
        # In a cascade the first grids have times as if the samples were on the last of them.
        whole = next((stage.shape for stage, done in zip(stages, finished, strict=True) if done), shape)
        assert first[0] == pytest.approx(1000.0 / level_share(sde, whole, shape))
        assert last[-1] == pytest.approx(low)
        assert [b == pytest.approx(a) for a, b in zip(last, first[1:], strict=False)] == [not f for f in finished[:-1]]
        assert all(float((visited / first[i + 1] - 1).abs().min()) < 1e-9 for i, f in enumerate(finished[:-1]) if f)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("domain", "kind", "schedule"), pairwise(KINDS, SCHEDULES), ids=str)
class TestPlannedStages:
    @pytest.mark.parametrize("budget", [0.1, 1e-9, 1e9])
    def test_a_grid_takes_over_when_its_new_modes_reach_the_budget(self, domain, kind, schedule, budget):
        denoiser, grids = oracle(domain, kind, schedule)
        times, sde = Heun(200).times(schedule), denoiser.sde
        starts = [0]
        for coarse, fine in itertools.pairwise(grids):
            # The sum over modes of the finer grid that the coarser one lacks, by a field of their standard deviations.
            eigenvalues = domain.eigenvalues(fine)
            roots = denoiser.data.std(eigenvalues) / sde.noise.on(grids[-1]).std(eigenvalues)
            field = domain.synthesize(roots[None, None].to(domain.white((1, 1), fine).dtype), fine)
            band = field - domain.resample(domain.resample(field, coarse), fine)
            snr = float(domain.norm(band).square()) / schedule.ratio(times).square()
            reached = schedule.ratio(times) * level_share(sde, coarse, grids[-1]) >= schedule.ratio(torch.zeros(()))
            starts.append(max(0, int(((snr <= budget) & reached).sum()) - 1))
        starts = [min(starts[i:]) for i in range(len(starts))]
        ends = [*starts[1:], 199]
        expected = [
            (grid, on_its_grid(sde, times[a : b + 1], grid, grids[-1]))
            for grid, a, b in zip(grids, starts, ends, strict=True)
            if b > a or grid == grids[-1]
        ]
        stages = Progressive(grids[:-1], budget).plan(denoiser, grids[-1], times)
        assert [stage.shape for stage in stages] == [grid for grid, _ in expected]
        torch.testing.assert_close(torch.cat([s.times for s in stages]), torch.cat([t for _, t in expected]))

    def test_one_seed_is_one_function(self, domain, kind, schedule):
        if kind == "pixel":
            return  # another process on each grid
        denoiser, grids = oracle(domain, kind, schedule)
        draw = partial(sample, denoiser, seeds=[0, 1], solver=Heun(20), plan=Progressive(grids[:-1]))
        coarse, fine = (draw(shape) for shape in (grids[-1], tuple(2 * n for n in grids[-1])))
        torch.testing.assert_close(domain.resample(fine, grids[0]), domain.resample(coarse, grids[0]))

    @pytest.mark.parametrize(("keep", "averages", "share"), [(None, False, 1.0), (0.5, False, 0.5), (None, True, 0.75)])
    def test_a_cascade_holds_the_share_of_modes_that_it_should(self, domain, kind, schedule, keep, averages, share):
        if averages and not domain.averages_cells:
            return  # whose fields are none
        (denoiser, grids), held = oracle(domain, kind, schedule), []
        denoiser.cell_averages = averages

        def note(denoiser, low):
            held.append(low)
            return ReplaceModes(denoiser, low)

        plan = Cascade(grids[1:-1], through=(), keep=keep)
        x = sample(denoiser, grids[-1], [0], solver=Heun(10), plan=plan, hold=note)
        small = tuple(round(share * n) for n in grids[1])
        assert [tuple(low.shape[2:]) for low in held] == [small]
        torch.testing.assert_close(domain.resample(x, small), held[0])

    def test_a_cascade_reaches_its_first_grid_through_coarser_ones(self, domain, kind, schedule):
        denoiser, grids = oracle(domain, kind, schedule)
        plan, through = Cascade(grids[1:-1], through=grids[:1]), Progressive(grids[:1])
        times = Heun(20).times(schedule)
        stages, first = plan.plan(denoiser, grids[-1], times), through.plan(denoiser, grids[1], times)
        assert [(s.shape, s.held) for s in stages] == [(grids[0], None), (grids[1], None), (grids[2], grids[1])]
        assert all(torch.equal(a.times, b.times) for a, b in zip(first, stages, strict=False))
        if kind != "pixel":
            end, coarse = (
                sample(denoiser, shape, [0, 1], solver=Heun(20), plan=p)
                for shape, p in ((grids[2], plan), (grids[1], through))
            )
            torch.testing.assert_close(domain.resample(end, grids[1]), coarse)


class TestDefaultPlan:
    """`Direct` where coarser grids are not known to help; for images through the training grids, and held above them."""

    def images(self, **known: Any) -> GaussianDenoiser:
        sde = FunctionSpaceSDE(WhiteNoise(Box(2), (16, 16)), EDM())
        data = GaussianRandomField(Box(2), Matern(1.0, 0.3))
        denoiser = GaussianDenoiser(data, sde, **{"cell_averages": True, **known})
        denoiser.training_shapes = ((16, 16), (8, 8), (12, 16))
        return denoiser

    @pytest.mark.parametrize("shape", [(16, 16), (12, 16), (8, 8), (4, 4), (8, 32)])
    def test_images_up_to_the_largest_training_grid(self, shape):
        assert default_plan(self.images(), shape) == Progressive()

    @pytest.mark.parametrize("shape", [(32, 32), (16, 17)])
    def test_images_above_the_largest_training_grid(self, shape):
        assert default_plan(self.images(), shape) == Cascade()

    @pytest.mark.parametrize("known", [{"cell_averages": False}, {"spectrum": None}])
    def test_values_at_points_and_an_unknown_spectrum(self, known):
        assert default_plan(self.images(**known), (32, 32)) == Direct()

    def test_no_training_grids(self):
        denoiser = self.images()
        denoiser.training_shapes = ()
        assert default_plan(denoiser, (32, 32)) == Direct()

    @pytest.mark.parametrize("wrap", [lambda guided: guided, Unchanged])
    def test_an_observation_also_within_a_wrapper(self, wrap):
        seen = PointObservation(torch.tensor([[0.5], [0.5]]), torch.zeros(1, 1), 0.1)
        assert default_plan(wrap(MomentMatching(self.images(), seen)), (32, 32)) == Direct()
        assert default_plan(wrap(self.images()), (32, 32)) == Cascade()

    @pytest.mark.parametrize(
        ("shape", "route"),
        [
            ((32, 32), [((8, 8), None), ((16, 16), None), ((32, 32), (12, 12))]),
            ((16, 16), [((8, 8), None), ((16, 16), None)]),
            ((12, 14), [((8, 8), None), ((12, 14), None)]),
            ((8, 8), [((8, 8), None)]),
            ((8, 32), [((8, 8), None), ((8, 32), None)]),
        ],
    )
    def test_goes_through_the_smallest_and_the_largest_training_grid(self, shape, route):
        denoiser, times = self.images(), DPMSolver(24).times(EDM())
        assert [(s.shape, s.held) for s in default_plan(denoiser, shape).plan(denoiser, shape, times)] == route

    def test_is_what_sample_takes(self):
        denoiser = self.images()
        named = sample(denoiser, 24, [0], solver=Heun(8), plan=Cascade([(16, 16)], through=[(8, 8)], keep=0.75))
        assert torch.equal(sample(denoiser, (24, 24), [0], solver=Heun(8)), named)
