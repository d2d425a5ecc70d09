"""Decoupled annealing against closed forms, quadrature, and itself on other grids."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from fnodiff import DFU, EDM, Box, EDMScaling, FunctionSpaceSDE, GaussianRandomField, Matern, Model, Torus
from fnodiff.equations import darcy, navier_stokes
from fnodiff.inverse import Linear, MomentMatching, Nonlinear, PointObservation, annealed, linearised
from fnodiff.sde import GaussianDenoiser, Normalization, Wrapper

F64 = {"dtype": torch.float64}
BOX, LAW = Box(1), GaussianRandomField(Box(1), Matern(1.0, 0.3))
POINTS, VALUES = torch.tensor([[0.2, 0.7]]), torch.tensor([[1.0, -1.5]])
FUNCTIONS = {"linear": lambda v: 1 * v, "exp": torch.exp, "cube": lambda v: v**3}


def prior(law=LAW, noise=0.5, kind=GaussianDenoiser, **known):
    return kind(law, FunctionSpaceSDE(GaussianRandomField(law.domain, Matern(noise, 0.2)), EDM()), **known)


def through(function, values, noise_std):
    """Values of a function of x at the points, as an observation that is not known to be linear."""
    return Nonlinear(lambda x: function(BOX.evaluate(x, POINTS)), values, noise_std)


def exact(n, function, values, noise_std, law=LAW):
    """Mean and standard deviation (n,) of the posterior: by quadrature over x's values at the two points."""
    unit = torch.eye(n, **F64)[:, None]
    covariance = BOX.filter(n * unit, lambda e: law.std(e).square())[:, 0]
    sensing = BOX.evaluate(unit, POINTS.double())[:, 0].T
    seen = sensing @ covariance @ sensing.T
    v = torch.cartesian_prod(*[torch.linspace(-6, 6, 401, **F64)] * 2)
    prior = (v @ torch.linalg.inv(seen) * v).sum(1)
    weights = (-0.5 * (prior + ((values.double() - function(v)) / noise_std).square().sum(1))).softmax(0)
    mean, gain = weights @ v, covariance @ sensing.T @ torch.linalg.inv(seen)
    spread = (v - mean).T @ ((v - mean) * weights[:, None])
    return gain @ mean, (covariance - gain @ sensing @ covariance + gain @ spread @ gain.T).diagonal().sqrt()


def close(x, mean, std, slack=0.0):
    """Whether samples have this mean and spread, up to chance: of N samples 1 / sqrt(N) and 1 / sqrt(2 N)."""
    x, n = x[:, 0].double(), len(x)
    off = float(((x.mean(0) - mean) / std).square().mean().sqrt())
    spread = float((x.var(0) / std.square()).mean().sqrt())
    assert off < 2.5 / n**0.5 + slack and abs(spread - 1) < 2.5 / (2 * n) ** 0.5 + slack, (off, spread)


@pytest.mark.parametrize("n", [16, 33])
def test_linear_observations_are_exact_in_two_levels(n):
    seen = PointObservation(POINTS, VALUES, 0.2)
    x, rates = annealed(prior(), seen, n, range(300), steps=2, batch=300, return_acceptance=True)
    close(x, *exact(n, FUNCTIONS["linear"], VALUES, 0.2))
    assert rates.shape == (300, 2) and bool((rates == 1).all())


class Twice(torch.autograd.Function):
    """2 x, of which PyTorch knows neither many gradients at once nor function transforms."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g


def seen_by_network(learns: bool = True):
    torch.manual_seed(0)
    net = DFU.tiny(1, 1, domain=Box(2), zero_init=False, attention_levels=(1,))
    model = Model(net, FunctionSpaceSDE(GaussianRandomField(Box(2), Matern(0.5, 0.3)), EDM()), EDMScaling(1.0))
    model.eval().requires_grad_(learns)
    return lambda x: model(x, torch.ones(()))


def one_parameter(p, x):
    return darcy.solve(darcy.positive(p * x, 3.0))


SEEN = {
    "solver": lambda: lambda x: darcy.solve(darcy.positive(x, 3.0)),
    "network": seen_by_network,
    "one parameter": lambda: partial(one_parameter, torch.nn.Parameter(torch.tensor(1.0))),
    "frozen": lambda: seen_by_network(learns=False),
    "no rules": lambda: Twice.apply,
    "flow": lambda: lambda x: navier_stokes.solve(x, time=0.1, viscosity=1e-2, dt=0.05),
}


@pytest.mark.parametrize("name", SEEN)
def test_all_gradients_at_once_are_those_one_by_one(name, monkeypatch):
    """In several parts, of samples that have values and errors of their own."""
    domain, see = (Torus(2) if name == "flow" else Box(2)), SEEN[name]()
    monkeypatch.setattr(linearised, "MOST_NUMBERS", 3 * 2 * 12 * 12)
    points, x = torch.rand(2, 7), 3 + torch.randn(2, 1, 12, 12)
    seen = Nonlinear(lambda x: domain.evaluate(see(x), points), torch.randn(2, 1, 7), torch.rand(2, 1, 7) + 0.5)
    near = linearised.Linearised(seen, x, Normalization(1.0, 2.0), domain)
    each = torch.stack([near.transpose(v.expand(2, -1)) for v in torch.eye(7)], 1)
    one_by_one, transpose = [], linearised.Linearised.transpose
    monkeypatch.setattr(linearised.Linearised, "transpose", lambda self, v: one_by_one.append(1) or transpose(self, v))
    rows = near.rows()
    assert rows.shape == (2, 7, 1, 12, 12) and float(each.abs().max()) > 0
    assert len(one_by_one) == (7 if name in ("no rules", "network") else 0)
    torch.testing.assert_close(rows, each, rtol=1e-4, atol=1e-5 * float(each.abs().max()))


def test_a_function_that_is_not_finite_is_named_with_the_fields_that_it_was_given():
    x = torch.stack([torch.full((1, 8), 0.5), torch.full((1, 8), -2.0)])
    seen = Nonlinear(lambda x: x.sqrt(), torch.zeros(1, 8), 0.1)
    message = r"Nonlinear: expected finite values .* in 1 of 2 samples, of estimates up to 3;.*darcy\.positive"
    with pytest.raises(FloatingPointError, match=message):
        linearised.Linearised(seen, x, Normalization(1.0, 2.0), Box(1))
    linearised.Linearised(seen, x[:1], Normalization(1.0, 2.0), Box(1))


def test_linear_observations_need_no_linear_door():
    """All directions of a linear function leave nothing out: every step is accepted, and the draws are exact."""
    seen = through(FUNCTIONS["linear"], VALUES, 0.2)
    x, rates = annealed(prior(), seen, 16, range(300), steps=2, inner=1, batch=300, return_acceptance=True)
    close(x, *exact(16, FUNCTIONS["linear"], VALUES, 0.2))
    assert float(rates.min()) == 1


@pytest.mark.parametrize(
    ("name", "directions"),
    [("linear", 1), pytest.param("exp", 2, marks=pytest.mark.slow), pytest.param("cube", 2, marks=pytest.mark.slow)],
)
def test_steps_make_up_for_what_the_linearisation_leaves_out(name, directions):
    function = FUNCTIONS[name]
    values = function(torch.tensor([[1.0, -0.8]]))
    count, steps = (64, 6) if name == "linear" else (200, 16)
    options = {"steps": steps, "inner": 6, "directions": directions, "batch": count}
    x = annealed(prior(), through(function, values, 0.3), 8, range(count), **options)
    close(x, *exact(8, function, values, 0.3), slack=0.05)


def test_steps_are_accepted_as_often_on_every_grid():
    seen = through(torch.exp, torch.tensor([[3.0, 0.3]]), 0.1)
    options = {"steps": 2, "inner": 6, "step_size": 0.3, "directions": 1, "return_acceptance": True}
    found = [annealed(prior(), seen, n, range(16), **options) for n in (32, 64, 128)]
    rates = torch.stack([rate.mean() for _, rate in found])
    assert 0.1 < float(rates.min()) and float(rates.max() - rates.min()) < 0.03
    coarse, fine = found[0][0], BOX.resample(found[2][0], (32,))  # and one seed is one function
    assert float(BOX.norm(coarse - fine).median()) < 0.05


def test_samples_are_their_seeds_their_observations_and_conditions():
    class Shifted(Wrapper):
        """Two laws, whose means a label tells apart."""

        def forward(self, x_t, t, *, label):
            shift = label.reshape(-1, 1, 1).to(x_t)
            return shift + self.denoiser(x_t - self.sde.marginal(x_t, t)[0] * shift, t)

    values, errors = torch.stack([VALUES, -VALUES, 2 * VALUES]), torch.tensor([0.1, 0.2, 0.4])[:, None, None]
    options, label = {"steps": 4, "label": [3, -2, 0]}, [3, -2, 0]
    for kind in (lambda v, e: PointObservation(POINTS, v, e), lambda v, e: through(torch.sin, v, e)):
        together = annealed(Shifted(prior()), kind(values, errors), 16, [5, 6, 7], **options)
        few = annealed(Shifted(prior()), kind(values, errors), 16, [5, 6, 7], batch=2, **options)
        alone = annealed(Shifted(prior()), kind(values[1], errors[1]), 16, 6, steps=4, label=label[1])
        torch.testing.assert_close(few, together, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(alone, together[1:2], rtol=1e-3, atol=1e-3)


def test_units_are_the_datas():
    scaled, seen = prior(normalization=Normalization([2.0], [5.0])), PointObservation(POINTS, VALUES, 0.1)
    x = annealed(prior(), seen, 16, range(3), steps=3)
    y = annealed(scaled, PointObservation(POINTS, 5 * VALUES + 2, 0.5), 16, range(3), steps=3)
    torch.testing.assert_close(y, 5 * x + 2, rtol=1e-4, atol=1e-3)


def test_every_domain_and_channel():
    law = GaussianRandomField(Torus(2), Matern(1.0, 0.3))
    seen = Linear(lambda x: x[:, 1, ::3, ::3], torch.ones(2, 2), 0.01)
    x = annealed(prior(law, channels=2), seen, (6, 5), range(200), steps=2, batch=200)
    assert float((x[:, 1, ::3, ::3] - 1).abs().max()) < 0.06
    assert float(x[:, 0].mean((1, 2)).mean().abs()) < 0.3 and float(x[:, 0].var(0).mean()) > 0.5


def test_in_inference_mode():
    with torch.inference_mode():
        assert bool(annealed(prior(), through(torch.exp, VALUES.abs(), 0.2), 8, [0], steps=2).isfinite().all())


def test_a_model_that_diverges_is_an_error(monkeypatch):
    monkeypatch.setattr(GaussianDenoiser, "forward", lambda self, x_t, t: x_t * torch.nan)
    with pytest.raises(FloatingPointError, match="the model diverged"):
        annealed(prior(), PointObservation(POINTS, VALUES, 0.2), 8, [0], steps=2)


def test_a_function_that_is_not_finite_is_an_error():
    with pytest.raises(FloatingPointError, match="finite values of what is seen"):
        annealed(prior(), through(lambda v: (v - 100).log(), VALUES, 0.2), 8, [0], steps=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 1}, "steps >= 2"),
        ({"inner": 0}, "inner >= 1"),
        ({"directions": 0}, "directions >= 1"),
        ({"step_size": 1.5}, r"step_size in \(0, 1\], got 1.5"),
        ({"denoiser": MomentMatching(prior(), PointObservation(POINTS, VALUES, 0.2))}, "without an observation"),
        ({"denoiser": prior(spectrum=None)}, "expected the data's spectrum"),
        ({"seeds": range(3), "observation": PointObservation(POINTS, VALUES.expand(2, 1, 2), 0.2)}, "for each of the 3 seeds"),
    ],
)  # fmt: skip
def test_bad_input_is_an_error_that_says_what_was_expected(options, message):
    given = {
        "denoiser": prior(),
        "observation": PointObservation(POINTS, VALUES, 0.2),
        "shape": 8,
        "seeds": [0],
        **options,
    }
    with pytest.raises(ValueError, match=message):
        annealed(given.pop("denoiser"), given.pop("observation"), given.pop("shape"), given.pop("seeds"), **given)
