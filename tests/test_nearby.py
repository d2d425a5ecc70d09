"""Observations that are linear only nearby: Gauss-Newton steps, against posteriors by quadrature."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from parts import pairwise
from torch import Tensor

from fnodiff import EDM, Box, FunctionSpaceSDE, GaussianRandomField, Matern
from fnodiff.inverse import MomentMatching, Nonlinear, annealed, moment_matching, nearby, posterior
from fnodiff.inverse.linearised import Linearised
from fnodiff.sde import DPMSolver, GaussianDenoiser

BOX, PLACE = Box(1), torch.tensor([[0.5]])
FIELD = GaussianRandomField(BOX, Matern(1.0, 0.3))
DENOISER = GaussianDenoiser(FIELD, FunctionSpaceSDE(FIELD, EDM()))
FRESH = DPMSolver(24, eta=1.0)


def at_place(x: Tensor) -> Tensor:
    return BOX.evaluate(x, PLACE)


def seen(function: Callable[[Tensor], Tensor], value: float, noise_std: float) -> Nonlinear:
    return Nonlinear(lambda x: function(at_place(x)), torch.tensor([[value]]), noise_std)


def exact(function: Callable[[Tensor], Tensor], value: float, noise_std: float) -> tuple[float, float]:
    """Mean and standard deviation of the value at the place, by quadrature."""
    modes = BOX.synthesize(torch.eye(16)[:, None], (16,)) * FIELD.std(BOX.eigenvalues((16,)))[:, None, None]
    variance = float(at_place(modes).square().sum())
    z = torch.linspace(-8, 8, 100_001, dtype=torch.float64) * variance**0.5
    log = -z.square() / (2 * variance) - (value - function(z)).square() / (2 * noise_std**2)
    weights = (log - log.max()).exp()
    mean = float((weights * z).sum() / weights.sum())
    return mean, float((weights * (z - mean).square()).sum() / weights.sum()) ** 0.5


BENDING = [(lambda z: (2 * z).exp(), 20.0, 1.0), (lambda z: (4 * z).exp(), 100.0, 5.0), (lambda z: z**3, 8.0, 0.5)]


@pytest.mark.parametrize(("function", "value", "noise_std", "method"), pairwise(BENDING, [None, MomentMatching]))
def test_what_bends_is_seen_as_bayes_rule_has_it(function, value, noise_std, method):
    draw = partial(posterior, DENOISER, seen(function, value, noise_std), 16, range(64), method=method, solver=FRESH)
    x = at_place(draw()).flatten()
    mean, std = exact(function, value, noise_std)
    assert abs(float(x.mean()) - mean) < 0.6 * std
    assert 0.7 * std < float(x.std()) < 1.4 * std


@pytest.mark.parametrize("directions", [2, 1])
def test_annealing_is_not_led_astray_by_what_is_steep(directions):
    """Linearised by all derivatives, and by products with fewer."""
    places, z = torch.tensor([[0.2, 0.8]]), torch.tensor([1.1, 0.9])
    steep = Nonlinear(lambda x: (4 * BOX.evaluate(x, places)).exp(), (4 * z).exp()[None], 5.0)
    x = annealed(DENOISER, steep, 16, range(12), directions=directions)
    close = 5.0 / (4 * (4 * z).exp())  # what the values alone tell z to
    assert ((BOX.evaluate(x, places)[:, 0].median(0).values - z).abs() < 3 * close).all()


def refusing(z: Tensor) -> Tensor:
    if bool((z > 3).any()):
        raise ValueError("it blew up")
    return (2 * z).exp()


def breaking(z: Tensor) -> Tensor:
    return torch.where(z > 3, torch.nan, (2 * z).exp())


@pytest.mark.parametrize("function", [refusing, breaking])
def test_a_function_that_cannot_take_every_field_is_not_led_there(function):
    x = posterior(DENOISER, seen(function, 20.0, 1.0), 16, range(8), solver=FRESH)
    free = posterior(DENOISER, seen(lambda z: (2 * z).exp(), 20.0, 1.0), 16, range(8), solver=FRESH)
    assert (at_place(x).flatten() - 1.495).abs().max() < 0.2  # of which the posterior's standard deviation is 0.025
    assert (at_place(free) - at_place(x)).abs().max() < 0.1
    alone = posterior(DENOISER, seen(function, 20.0, 1.0), 16, [5], solver=FRESH)
    torch.testing.assert_close(alone[0], x[5], atol=1e-4, rtol=1e-4)


def test_products_with_derivatives_come_to_the_same(monkeypatch):
    draw = partial(posterior, DENOISER, seen(lambda z: (2 * z).exp(), 20.0, 1.0), 16, range(4), solver=FRESH)
    all_derivatives = draw()
    monkeypatch.setattr(moment_matching, "MOST_VALUES", 0)
    torch.testing.assert_close(draw(), all_derivatives, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("spectrum", [DENOISER.spectrum, None], ids=["spectrum", "derivatives"])
def test_samples_of_own_levels_and_values_stand_alone(spectrum):
    values = torch.tensor([20.0, 1.0, 0.1, 7.0])[:, None, None]
    own = Nonlinear(lambda x: (2 * at_place(x)).exp(), values, 0.1 * values)
    method = MomentMatching(DENOISER, own, spectrum)
    x_t, t = FIELD.sample((4, 1, 16), generator=torch.Generator().manual_seed(0)), torch.tensor([0.9, 0.5, 0.1, 0.7])
    together = method(x_t, t)
    for i in range(4):
        one = slice(i, i + 1)
        torch.testing.assert_close(method.rows(one)(x_t[one], t[one]), together[one], atol=1e-4, rtol=1e-4)


def test_what_is_linear_is_linearised_once(monkeypatch):
    taken = []
    monkeypatch.setattr(Linearised, "at", lambda self, u: taken.append(u))
    method = partial(MomentMatching, spectrum=DENOISER.spectrum)
    straight = posterior(DENOISER, seen(lambda z: 2 * z, 3.0, 0.1), 16, range(4), method=method, solver=FRESH)
    assert not taken
    assert (at_place(straight) - 1.5).abs().max() < 0.2


def test_a_derivative_that_is_not_finite_is_named():
    def seen_once(x: Tensor) -> Tensor:
        return (at_place(x) - at_place(x)).sqrt() + at_place(x)

    with pytest.raises(
        FloatingPointError, match=r"Nonlinear: expected finite derivatives .* in 3 of 3 samples; .*norms"
    ):
        posterior(DENOISER, Nonlinear(seen_once, torch.tensor([[1.0]]), 0.1), 16, range(3), solver=FRESH)


def test_a_step_that_would_not_help_is_not_taken():
    near = Linearised(
        seen(lambda z: z.abs() * 1e6, -1.0, 1.0), torch.zeros(1, 1, 16) + 1e-9, DENOISER.normalization, BOX
    )

    def solver(here: Linearised, part: Tensor):
        uphill = torch.ones_like(here.estimate)
        return lambda r: (torch.zeros_like(r), uphill, uphill), lambda u: torch.zeros_like(here.residual)

    assert not nearby.step(near, solver).any()
