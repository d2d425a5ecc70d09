"""What every wrapper and every observation promises, and fields on a finer grid for given ones."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from oracles import oracle
from parts import DOMAINS, EVERY_SOLVER, GUIDED, LABELS, OBSERVATIONS, PER_SAMPLE, WRAPPERS, labelled, pairwise
from torch import Tensor

from fnodiff.domain import Box, Domain, Torus
from fnodiff.inverse import Linearised, Observation, Restriction
from fnodiff.sde import (
    VE,
    Cascade,
    ClassifierFree,
    Direct,
    DPMSolver,
    FunctionSpaceSDE,
    Matern,
    Normalization,
    Progressive,
    WhiteNoise,
    sample,
    upscale,
)


@pytest.mark.usefixtures("float64")
class TestWrapper:
    @pytest.mark.parametrize("make", [*WRAPPERS.values(), *GUIDED.values()], ids=[*WRAPPERS, *GUIDED])
    def test_reads_its_model_when_it_is_asked(self, make):
        model = labelled()
        wrapper = make(model)
        for name, value in {
            "sde": FunctionSpaceSDE(WhiteNoise(Torus(1), (9,)), VE()),
            "normalization": Normalization(3.0, 2.0),
            "condition_normalization": {"field": Normalization(1.0, 2.0)},
            "spectrum": Matern(2.0),
            "cell_averages": True,
            "channels": 7,
            "training_shapes": ((8,), (16,)),
            "sigma_data": 0.3,
        }.items():
            setattr(model, name, value)
            assert getattr(wrapper, name) is value, name

    @pytest.mark.parametrize("make", WRAPPERS.values(), ids=WRAPPERS)
    def test_samples_follow_the_models_units(self, make):
        model = labelled()
        wrapper = make(model)
        draw = partial(sample, wrapper, (9,), [0, 1], solver=DPMSolver(4))
        condition = {"label": LABELS[1:3]} if isinstance(wrapper, ClassifierFree) else {}
        before = draw(**condition)
        model.normalization = Normalization(3.0, 2.0)
        torch.testing.assert_close(draw(**condition), 3 + 2 * before)

    @pytest.mark.parametrize(
        ("kind", "plan"), pairwise(list(PER_SAMPLE), [Direct(), Cascade([(5,)], through=())]), ids=str
    )
    def test_what_belongs_to_a_sample_stays_with_it_in_any_batch(self, kind, plan):
        wrapper = PER_SAMPLE[kind](labelled())
        together, apart = (sample(wrapper, (9,), range(3), solver=DPMSolver(4), plan=plan, batch=n) for n in (3, 2))
        torch.testing.assert_close(apart, together, rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("plan", [Direct(), Progressive([(5,)], 10.0), Cascade([(5,)], through=())], ids=str)
    def test_conditions_have_one_row_for_each_sample_in_any_batch(self, plan):
        model = labelled()
        draw = partial(sample, model, (9,), range(3), solver=DPMSolver(12), plan=plan)
        found = draw(label=LABELS, batch=2)
        torch.testing.assert_close(draw(label=LABELS, batch=3), found)
        expected = draw() + LABELS.double()[:, None, None]
        torch.testing.assert_close(found, expected, rtol=0, atol=0.2)
        torch.testing.assert_close(draw(label=4, batch=2), draw(label=torch.full((3,), 4)))


@pytest.mark.usefixtures("float64")
class TestUpscale:
    def test_one_field_and_several_seeds_are_several_samples_for_it(self):
        denoiser, grids = oracle(Box(2), "white")
        low = denoiser.data.sample((1, 1, *grids[0]))
        up = partial(upscale, denoiser, shape=grids[-1], solver=DPMSolver(6))
        several = up(low[0], seeds=[4, 5, 6])
        assert several.shape == (3, 1, *grids[-1])
        assert torch.equal(up(low, seeds=[4, 5, 6]), several)
        torch.testing.assert_close(up(low, seeds=5), several[1:2])
        torch.testing.assert_close(up(low.expand(3, -1, -1, -1), seeds=[4, 5, 6], batch=2), several)
        held = Box(2).resample(several, grids[0])
        torch.testing.assert_close(held, low.expand_as(held))
        assert float((several[0] - several[1]).abs().max()) > 0.05

    @pytest.mark.parametrize("solver", EVERY_SOLVER, ids=str)
    def test_a_field_and_its_seed_stay_together_in_any_batch(self, solver):
        denoiser, grids = oracle(Box(2), "pixel")
        low = denoiser.data.sample((5, 1, *grids[0]))
        together, apart = (
            upscale(denoiser, low, grids[-1], range(5), solver=solver(6), batch=batch) for batch in (5, 2)
        )
        torch.testing.assert_close(apart, together)
        torch.testing.assert_close(Box(2).resample(together, grids[0]), low)


@pytest.mark.parametrize("make", OBSERVATIONS)
@pytest.mark.parametrize("domain", [d for d in DOMAINS if d.dim < 3], ids=repr)
class TestObservation:
    def near(self, seen: Observation, x: Tensor, domain: Domain) -> Linearised:
        return Linearised(seen, x, Normalization([0.5, -1.0], [2.0, 3.0]), domain)

    def test_transpose_is_the_transpose(self, domain, make):
        seen, x = make(domain), torch.randn(3, 2, *(9,) * domain.dim)
        near, u = self.near(seen, x, domain), torch.randn_like(x)
        v = torch.randn_like(near.residual)
        torch.testing.assert_close((near.forward(u) * v).sum(1), (u * near.transpose(v)).flatten(1).sum(1))

    def test_residual_is_in_standard_deviations_and_falls_as_predicted(self, domain, make):
        seen, x = make(domain), torch.randn(3, 2, *(9,) * domain.dim)
        near, u = self.near(seen, x, domain), torch.randn_like(x)
        torch.testing.assert_close(self.near(seen, x + u, domain).residual, near.residual - near.forward(u))
        units = Normalization([0.5, -1.0], [2.0, 3.0])
        expected = (seen.values - seen(units.inverse(x), domain)) / seen.noise_std
        torch.testing.assert_close(near.residual, expected.reshape(3, -1))

    def test_sees_the_function_not_the_grid(self, domain, make):
        """A finer grid, and a coarser one that still holds the function, show the same."""
        seen, coarse = make(domain), torch.randn(2, 2, *(5,) * domain.dim)
        coarse = domain.synthesize(domain.analyze(coarse), coarse.shape[2:])
        x = domain.resample(coarse, (9,) * domain.dim)
        if isinstance(seen, Restriction) and domain.averages_cells:  # whose fields are cell averages
            finer = torch.randn(2, 2, *(27,) * domain.dim)
            torch.testing.assert_close(seen(finer, domain), seen(domain.average(finer, (9,) * domain.dim), domain))
            return
        for other in (coarse, domain.resample(x, (27,) * domain.dim)):
            torch.testing.assert_close(seen(other, domain), seen(x, domain))
