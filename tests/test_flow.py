"""Flow matching: its schedule, the law and the target of its training, pairs by optimal transport; and log densities."""

from __future__ import annotations

import pytest
import torch

from fnodiff import (
    DDIM,
    DFU,
    EDM,
    VP,
    Box,
    DenoisingLoss,
    FlowScaling,
    FunctionSpaceSDE,
    GaussianRandomField,
    Matern,
    Model,
    MultiResolution,
    RectifiedFlow,
    Torus,
    WhiteNoise,
    fit,
    log_likelihood,
    sample,
)
from fnodiff.data import ArrayFields
from fnodiff.sde import GaussianDenoiser, Given, OptimalTransport
from fnodiff.train import Adam, Logging


def seeds(number):
    return torch.Generator().manual_seed(number)


class Velocity(torch.nn.Module):
    """Remembers what it is given, and returns what it is told to."""

    def forward(self, x, noise_level):
        self.x, self.level = x, noise_level
        return self.out


class TestRectifiedFlow:
    def test_it_is_the_straight_path_cut_off_at_its_levels(self):
        schedule = RectifiedFlow(0.01, 500.0)
        t = torch.linspace(0, 1, 101, dtype=torch.float64)
        alpha, sigma = schedule(t)
        torch.testing.assert_close(alpha + sigma, torch.ones_like(t))
        torch.testing.assert_close(sigma.diff(), sigma.diff()[:1].expand(100))
        assert schedule.ratio(t)[[0, -1]].tolist() == pytest.approx([0.01, 500.0]) and float(alpha[-1]) > 0

    def test_a_network_that_is_the_velocity_is_the_exact_denoiser(self):
        # v = z - x of the pair that made x_t gives x back, at every t, and what the network sees is x_t and u
        noise = GaussianRandomField(Torus(1), Matern(0.5, 0.3))
        sde, net = FunctionSpaceSDE(noise, RectifiedFlow()), Velocity()
        model, x = Model(net, sde, FlowScaling(), channels=1), torch.randn(5, 1, 16)
        t = torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0])
        x_t, z = sde.perturb(x, t)
        net.out = z - x
        torch.testing.assert_close(model(x_t, t), x, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(net.x, x_t)
        torch.testing.assert_close(net.level, sde.schedule(t)[1])

    def test_the_loss_is_that_of_the_velocity_at_uniform_times(self):
        noise = GaussianRandomField(Torus(1), Matern(0.5, 0.3))
        sde, net = FunctionSpaceSDE(noise, RectifiedFlow()), Velocity()
        loss = DenoisingLoss(Model(net, sde, FlowScaling(), channels=1))
        t = loss.times(20000, generator=seeds(0))
        assert float(t.mean()) == pytest.approx(0.5, abs=0.01) and float(t.var()) == pytest.approx(1 / 12, rel=0.03)
        x, net.out = torch.randn(64, 1, 16), torch.zeros(64, 1, 16)
        found = loss(x, generator=[seeds(i) for i in range(64)])
        generators = [seeds(i) for i in range(64)]
        t = loss.times(64, generator=generators)
        z = sde.perturb(x, t, generator=generators)[1]
        torch.testing.assert_close(found, Torus(1).norm(z - x).square(), rtol=1e-3, atol=1e-3)
        named = DenoisingLoss(loss.model, 0.0, 1.0)
        assert float(sde.schedule.ratio(named.times(20000, generator=seeds(1))).log().std()) == pytest.approx(
            1.0, rel=0.03
        )

    @pytest.mark.slow
    def test_functional_flow_matching_learns_and_samples_two_grids(self, tmp_path):
        data_law = GaussianRandomField(Torus(1), Matern(2.0, 0.3))
        x = data_law.sample((512, 1, 32), generator=seeds(0))
        data = MultiResolution(ArrayFields(x, domain=Torus(1)), Torus(1), [16, 32], batch_size=32)
        rough = GaussianRandomField(Torus(1), Matern(1.0, 0.3))
        small = {"noise": rough, "schedule": RectifiedFlow(), "scaling": FlowScaling()}
        model = Model.for_data(data, DFU.tiny, **small)
        loss = DenoisingLoss(model, coupling=OptimalTransport())
        fit(
            model,
            data,
            60,
            loss=loss,
            optimizer=Adam(2e-3, ema_halflife=600),
            logging=Logging(progress=False),
            folder=tmp_path,
        )
        read = Model.from_pretrained(tmp_path)
        assert read.sde.schedule == RectifiedFlow() and read.scaling == FlowScaling()
        for shape in ((32,), (48,)):
            made = sample(read, shape, range(32), solver=DDIM(20))
            assert 0.6 < float(made.std()) < 1.4


class TestOptimalTransport:
    @pytest.mark.parametrize("domain", [Torus(1), Box(2)], ids=str)
    def test_no_exchange_brings_pairs_nearer_and_the_noise_is_the_same(self, domain):
        shape = (8,) * domain.dim
        x, z = torch.randn(12, 2, *shape), torch.randn(12, 2, *shape)
        paired = OptimalTransport()(x, z, domain)
        cost = lambda a, b: float(domain.norm(a - b).square().sum())  # noqa: E731
        assert cost(x, paired) < 0.95 * cost(x, z)
        for i in range(11):
            order = list(range(12))
            order[i], order[i + 1] = order[i + 1], order[i]
            assert cost(x, paired) <= cost(x, paired[order]) + 1e-6
        assert sorted(paired.flatten(1).sum(1).tolist()) == pytest.approx(sorted(z.flatten(1).sum(1).tolist()))

    def test_it_is_refused_with_conditions(self):
        sde = FunctionSpaceSDE(WhiteNoise(Torus(1), (16,)), RectifiedFlow())
        model = Model(DFU.tiny(1, 1, domain=Torus(1), num_classes=2), sde, FlowScaling())
        with pytest.raises(ValueError, match=r"no conditions with a coupling, got \['label'\]"):
            DenoisingLoss(model, coupling=OptimalTransport())(torch.randn(4, 1, 16), label=torch.tensor([0, 1, 0, 1]))
        with pytest.raises(ValueError, match="a coupling such as"):
            DenoisingLoss(model, coupling=OptimalTransport)


def gaussian_log_ratio(denoiser, x):
    """log N(x; 0, S + s^2 C) / N(x; 0, s^2 C) over the modes of the grid."""
    domain, shape = denoiser.sde.domain, tuple(x.shape[2:])
    eigenvalues, mult = (f(shape, dtype=torch.float64) for f in (domain.eigenvalues, domain.multiplicity))
    s, c = denoiser.data.std(eigenvalues).square(), denoiser.sde.noise.on(shape).std(eigenvalues).square()
    noise = denoiser.sde.schedule.ratio(torch.tensor(0.0, dtype=torch.float64)) ** 2 * c
    quadratic = domain.analyze(x.double()).abs().square() * (1 / noise - 1 / (s + noise))
    return (0.5 * mult * (quadratic - torch.log1p(s / noise))).flatten(1).sum(1)


CASES = [
    (Torus(2), WhiteNoise(Torus(2), (16, 16)), Matern(0.8, 0.3), EDM(0.3, 300.0)),
    (Box(1), GaussianRandomField(Box(1), Matern(0.5, 0.3)), Matern(1.5, 0.3), RectifiedFlow(0.3, 1000.0)),
    (Torus(1), GaussianRandomField(Torus(1), Matern(0.5, 0.3)), Matern(1.5, 0.3), VP()),
]


class TestLogLikelihood:
    @pytest.mark.parametrize("known", [True, False], ids=["spectrum", "no spectrum"])
    @pytest.mark.parametrize(("domain", "noise", "law", "schedule"), CASES, ids=["EDM", "RectifiedFlow", "VP"])
    def test_gaussian_laws_to_one_percent(self, domain, noise, law, schedule, known):
        data = GaussianRandomField(domain, law)
        more = {} if known else {"spectrum": None}
        exact = GaussianDenoiser(data, FunctionSpaceSDE(noise, schedule), **more)
        x = data.sample((3, 1, *(24,) * domain.dim), generator=seeds(0), dtype=torch.float64)
        lowest = schedule.ratio(torch.tensor(0.0, dtype=torch.float64))
        x = x + lowest * noise.sample(x.shape, generator=seeds(1), dtype=torch.float64)
        expected = gaussian_log_ratio(exact, x)
        found = log_likelihood(exact, x, noisy=True, probes=1 if known else 8)
        assert float(expected.abs().min()) > 1
        torch.testing.assert_close(found, expected, rtol=0.002 if known else 0.01, atol=0.05 if known else 2.0)

    def test_it_is_the_same_on_two_grids_where_data_and_noise_are_equivalent(self):
        # S ~ k^-2.8 and C ~ k^0 in two dimensions: apart by more than 1
        data = GaussianRandomField(Torus(2), Matern(0.4, 0.3))
        exact = GaussianDenoiser(data, FunctionSpaceSDE(WhiteNoise(Torus(2), (16, 16)), EDM(0.3, 300.0)))
        fine = data.sample((4, 1, 48, 48), generator=seeds(1), dtype=torch.float64)
        on = {n: log_likelihood(exact, Torus(2).resample(fine, (n, n)), steps=32).mean() for n in (24, 48)}
        assert float(on[24]) == pytest.approx(float(on[48]), rel=0.01), "a density per pixel would be a quarter"

    def test_it_warns_where_it_grows_with_the_grid(self):
        white = GaussianDenoiser(
            GaussianRandomField(Torus(2), Matern(0.4, 0.3)),
            FunctionSpaceSDE(GaussianRandomField(Torus(2), Matern(0.3, 0.3)), EDM(0.3, 300.0)),
        )
        with pytest.warns(UserWarning, match="grows with the grid without end"):
            log_likelihood(white, torch.zeros(1, 1, 16, 16), steps=2)

    @pytest.mark.slow
    def test_of_a_nonlinear_denoiser_it_is_the_density_of_its_law(self):
        # One mode, the mean, of two values +-1: noise of level s makes it a mixture of two normals.
        class TwoValues(GaussianDenoiser):
            def forward(self, x_t, t):
                alpha_t, sigma_t = self.sde.marginal(x_t, t)
                y, variance = x_t / alpha_t, (sigma_t / alpha_t) ** 2 * self.sde.noise.mode_variance
                mean = y.mean(-1, keepdim=True)
                return torch.tanh(mean / variance).expand_as(y)

        sde = FunctionSpaceSDE(WhiteNoise(Torus(1), (3,)), EDM(0.6, 100.0))
        exact = TwoValues(GaussianRandomField(Torus(1), Matern(1.0, 0.3)), sde, spectrum=None)
        x = torch.tensor([0.0, 0.3, 1.0, 1.4], dtype=torch.float64).reshape(-1, 1, 1).expand(4, 1, 9)
        variance = 0.6**2 * sde.noise.mode_variance
        at = x[:, 0, 0]
        expected = torch.log(torch.cosh(at / variance)) - 0.5 / variance  # of half the sum of N(+-1) over N(0)
        found = log_likelihood(exact, x.repeat(2048, 1, 1), noisy=True, steps=64, batch=4 * 2048)
        torch.testing.assert_close(found.reshape(2048, 4).mean(0), expected, rtol=0.01, atol=0.05)

    def test_conditions_and_batches(self):
        class Shifted(GaussianDenoiser):
            def forward(self, x_t, t, label=None):
                mean = label.to(x_t).reshape(-1, 1, 1)
                return mean + super().forward(x_t - self.sde.marginal(x_t, t)[0] * mean, t)

        data = GaussianRandomField(Torus(1), Matern(1.0, 0.3))
        exact = Shifted(data, FunctionSpaceSDE(WhiteNoise(Torus(1), (16,)), EDM(0.3, 300.0)))
        x = 2 + data.sample((3, 1, 16), generator=seeds(3), dtype=torch.float64)
        all_at_once = log_likelihood(exact, x, label=[2, 2, 0])
        by_two = log_likelihood(exact, x, label=[2, 2, 0], batch=2)
        torch.testing.assert_close(all_at_once, by_two)
        assert float(log_likelihood(exact, x[2:], label=2)) > float(all_at_once[2])
        torch.testing.assert_close(log_likelihood(Given(exact, label=torch.tensor([2, 2, 0])), x), all_at_once)
        with pytest.raises(ValueError, match="steps >= 1"):
            log_likelihood(exact, x, steps=0)
