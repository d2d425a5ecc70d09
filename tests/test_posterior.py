"""posterior: one call for every method, and coefficients that are seen through an equation."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from parts import pairwise

from fnodiff import DFU, EDM, Box, DPMSolver, EDMScaling, FunctionSpaceSDE, GaussianRandomField, Matern, Model, sample
from fnodiff.equations.poisson import solve
from fnodiff.inverse import DPS, MomentMatching, Nonlinear, PointObservation, annealed, posterior, twisted
from fnodiff.sde import DDIM, GaussianDenoiser

BOX, SQUARE = Box(1), Box(2)
LAW = GaussianRandomField(BOX, Matern(1.0, 0.3))
PRIOR = GaussianDenoiser(LAW, FunctionSpaceSDE(LAW, EDM()))
SEEN = PointObservation(torch.tensor([[0.2, 0.7]]), torch.tensor([[1.0, -1.5]]), 0.2)
CURVED = Nonlinear(lambda x: BOX.evaluate(x, SEEN.points).sinh(), SEEN.values, 0.2)
KNOWN = MomentMatching(PRIOR, CURVED, PRIOR.spectrum)


@pytest.mark.parametrize(
    ("seen", "method", "options", "expected"),
    [
        (SEEN, None, {}, lambda: sample(MomentMatching(PRIOR, SEEN), 8, [0, 1])),
        (SEEN, DPS, {"solver": DPMSolver(4)}, lambda: sample(DPS(PRIOR, SEEN), 8, [0, 1], solver=DPMSolver(4))),
        (SEEN, partial(DPS, scale=0.5), {}, lambda: sample(DPS(PRIOR, SEEN, 0.5), 8, [0, 1])),
        (SEEN, annealed, {"steps": 3}, lambda: annealed(PRIOR, SEEN, 8, [0, 1], steps=3)),
        (CURVED, None, {}, lambda: sample(KNOWN, 8, [0, 1], solver=DPMSolver(24, eta=1.0))),
        (CURVED, None, {"solver": DDIM(3)}, lambda: sample(KNOWN, 8, [0, 1], solver=DDIM(3))),
        (CURVED, annealed, {"steps": 3}, lambda: annealed(PRIOR, CURVED, 8, [0, 1], steps=3)),
        (CURVED, partial(twisted, particles=4), {"steps": 9}, lambda: twisted(PRIOR, CURVED, 8, [0, 1], particles=4, steps=9)),
    ],
)  # fmt: skip
def test_it_is_the_method_that_it_names(seen, method, options, expected):
    assert torch.equal(posterior(PRIOR, seen, 8, [0, 1], method=method, **options), expected())


def test_without_a_spectrum_the_network_is_differentiated():
    torch.manual_seed(0)
    model = Model(DFU.tiny(1, 1, domain=BOX, zero_init=False), PRIOR.sde, EDMScaling(1.0)).eval()
    x = posterior(model, CURVED, 8, [0], solver=DDIM(2))
    assert torch.equal(x, sample(MomentMatching(model, CURVED), 8, [0], solver=DDIM(2)))


@pytest.mark.parametrize("option", ["steps", "inner", "directions"])
def test_options_of_another_method_are_refused(option):
    with pytest.raises(ValueError, match=rf"got {option}=, which annealed and twisted take; pass method=annealed"):
        posterior(PRIOR, CURVED, 8, [0], **{option: 3})


@pytest.mark.parametrize("times", [0.6, [0.6, 0.3, 0.9]])
@pytest.mark.parametrize("bound", ["MOST_VALUES", "MOST_NUMBERS"])
@pytest.mark.parametrize("values", [1, 7])
def test_all_derivatives_are_the_solution_of_the_iterations(values, bound, times, monkeypatch):
    points = torch.rand(1, values)
    seen = Nonlinear(
        lambda x: BOX.evaluate(x, points).sinh(), torch.randn(1, 1, values), torch.rand(1, 1, values) + 0.1
    )
    x, t = torch.randn(3, 1, 16), torch.tensor(times)
    guided = MomentMatching(PRIOR, seen, PRIOR.spectrum, tolerance=1e-6)
    direct = guided(x, t)
    monkeypatch.setattr(f"fnodiff.inverse.moment_matching.{bound}", values - 1)
    torch.testing.assert_close(direct, guided(x, t), rtol=1e-3, atol=1e-3)
    assert float((direct - PRIOR(x, t)).abs().max()) > 0.1


@pytest.mark.parametrize("method", ["annealed", int, partial(dict, a=1), 3])
def test_other_methods_are_refused(method):
    with pytest.raises(ValueError, match="expected a method such as MomentMatching, annealed or twisted"):
        posterior(PRIOR, SEEN, 8, [0], method=method)


@pytest.mark.parametrize(
    ("sensors", "method"), pairwise(["solution", "source", "both"], [MomentMatching, annealed, None])
)
def test_a_source_is_found_from_sensors_of_itself_and_of_its_solution(sensors, method):
    """Every method gives the mean that the source has, given both kinds of sensors: dense linear algebra."""
    law = GaussianRandomField(SQUARE, Matern(1.0, 0.47))
    prior = GaussianDenoiser(law, FunctionSpaceSDE(GaussianRandomField(SQUARE, Matern(0.5, 0.3)), EDM()))
    shape, generator = (9, 9), torch.Generator().manual_seed(0)
    places = torch.rand(2, 6, generator=generator, dtype=torch.float64)

    def seen(a):
        parts = {"source": SQUARE.evaluate(a, places), "solution": SQUARE.evaluate(30 * solve(a), places)}
        return torch.cat([part for name, part in parts.items() if sensors in (name, "both")], -1)

    unit = torch.eye(81, dtype=torch.float64).reshape(81, 1, *shape)
    covariance = SQUARE.filter(81 * unit, lambda e: law.std(e).square()).flatten(1)
    sensing = seen(unit)[:, 0].T
    errors = torch.where(torch.arange(len(sensing)) < 6, 0.05, 0.1)[None].double()
    values = seen(law.sample((1, 1, *shape), generator=generator, dtype=torch.float64))[0]
    total = sensing @ covariance @ sensing.T + torch.diag(errors[0].square())
    gain = torch.linalg.solve(total, sensing @ covariance).T
    mean, std = gain @ values[0], (covariance - gain @ sensing @ covariance).diagonal().sqrt()
    options = {"method": method, "batch": 64, **({"steps": 2} if method is annealed else {})}
    x = posterior(prior, Nonlinear(seen, values, errors), shape, range(64), **options).double().flatten(1)
    assert float(((x.mean(0) - mean) / std).square().mean().sqrt()) < 2.5 / 8 + (0 if method is annealed else 0.1)
    assert abs(float((x.var(0) / std.square()).mean().sqrt()) - 1) < 2.5 / 128**0.5
