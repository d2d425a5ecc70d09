"""The SDE, denoisers, the loss and solvers, against closed forms."""

from __future__ import annotations

import math
import time
from functools import partial

import pytest
import torch
from eigenfunctions import on_grid
from parts import STOCHASTIC
from torch import nn

from fnodiff.cost import measure, sampling_cost
from fnodiff.domain import Box, Torus
from fnodiff.model import Model
from fnodiff.nn import DFU
from fnodiff.sde import (
    DDIM,
    EDM,
    RBF,
    VE,
    VP,
    AnnealedLangevin,
    Cosine,
    DenoisingLoss,
    Direct,
    DPMSolver,
    EDMScaling,
    EulerMaruyama,
    EvenLogSNR,
    EvenRho,
    EvenTime,
    FunctionSpaceSDE,
    GaussianDenoiser,
    GaussianRandomField,
    Heun,
    Matern,
    Normalization,
    PixelNoise,
    PredictorCorrector,
    Progressive,
    SubVP,
    WhiteNoise,
    integrate,
    run,
    sample,
    samples,
)

DOMAINS = [Torus(1), Box(1), Torus(2), Box(2)]


class Zero(nn.Module):
    """A network that returns zero and remembers what it saw."""

    def forward(self, x, noise_level, **condition):
        self.seen = x, noise_level, condition
        return torch.zeros_like(x)


def edm(network, sde, sigma_data=0.5, **known):
    """A network under EDM's scalars."""
    return Model(network, sde, EDMScaling(sigma_data), **{"channels": 1, **known})


def sde_on(domain, schedule=None, **kwargs):
    return FunctionSpaceSDE(GaussianRandomField(domain, Matern(1.0, 0.3)), schedule or EDM(**kwargs))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("domain", DOMAINS, ids=str)
@pytest.mark.parametrize("schedule", [EDM(), VP()], ids=str)
def test_oracle_and_score_against_dense_matrices(domain, schedule):
    shape = (7, 9)[: domain.dim]
    phi, eigenvalues = on_grid(domain, shape)
    noise, data = GaussianRandomField(domain, Matern(0.5)), GaussianRandomField(domain, Matern(1.5))
    n, s = ((phi.T * law.std(eigenvalues) ** 2) @ phi for law in (noise, data))
    sde = FunctionSpaceSDE(noise, schedule)
    t = torch.tensor(0.4)
    alpha, sigma = schedule(t)
    x_t = torch.randn(2, 3, *shape)
    precision = torch.linalg.inv(alpha**2 * s + sigma**2 * n)
    x_hat = GaussianDenoiser(data, sde)(x_t, t)
    torch.testing.assert_close(x_hat.flatten(2), x_t.flatten(2) @ (alpha * precision @ s))
    torch.testing.assert_close(sde.score(x_t, t, x_hat).flatten(2), -x_t.flatten(2) @ precision @ n)


@pytest.mark.usefixtures("float64")
def test_oracle_is_exact_for_pixel_noise_too():
    domain, shape = Torus(1), (9,)
    phi, eigenvalues = on_grid(domain, shape)
    data = GaussianRandomField(domain, Matern(1.5))
    s = (phi.T * data.std(eigenvalues) ** 2) @ phi
    x_t, t = torch.randn(2, 1, 9), torch.tensor(0.5)
    _, sigma = EDM()(t)
    expected = x_t @ torch.linalg.inv(s + sigma**2 * torch.eye(9)) @ s
    torch.testing.assert_close(GaussianDenoiser(data, FunctionSpaceSDE(PixelNoise(domain), EDM()))(x_t, t), expected)


@pytest.mark.usefixtures("float64")
def test_perturb_and_prior_scale_the_noise():
    sde = sde_on(Box(2), VP())
    x, t = torch.randn(3, 2, 8, 8), torch.tensor([0.1, 0.5, 0.9])
    x_t, z = sde.perturb(x, t, generator=torch.Generator().manual_seed(0))
    alpha, sigma = VP()(t)
    torch.testing.assert_close(x_t, alpha[:, None, None, None] * x + sigma[:, None, None, None] * z)
    torch.testing.assert_close(z, sde.noise.sample(x.shape, generator=torch.Generator().manual_seed(0)))
    prior = sde.prior(x.shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(prior, VP()(torch.ones(()))[1] * z)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("spectrum", "covariance"),
    [
        (Matern(0.5, 0.05), lambda r: (-r / 0.05).exp()),
        (Matern(1.5, 0.05), lambda r: (1 + math.sqrt(3) * r / 0.05) * (-math.sqrt(3) * r / 0.05).exp()),
        (RBF(0.05), lambda r: (-0.5 * (r / 0.05).square()).exp()),
    ],
    ids=["Matern 1/2", "Matern 3/2", "RBF"],
)
def test_spectra_are_those_of_their_covariance_functions(spectrum, covariance):
    # On a torus much longer than the correlation length the covariance function is that of the line.
    domain, shape = Torus(1), (4000,)
    field = GaussianRandomField(domain, spectrum)
    modes = domain.multiplicity(shape) * field.std(domain.eigenvalues(shape)) ** 2
    r = torch.linspace(0, 0.25, 26)
    k = 2 * math.pi * torch.arange(len(modes))
    torch.testing.assert_close((modes * (k * r[:, None]).cos()).sum(1), covariance(r), atol=2e-3, rtol=0)


def test_vp_has_its_published_rates_and_unit_variance():
    t = torch.linspace(0.05, 1, 20, dtype=torch.float64)
    schedule = VP(beta_min=0.1, beta_max=20.0, t_min=1e-12)
    alpha, sigma = schedule(t)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t))
    beta = FunctionSpaceSDE(PixelNoise(Box(1)), schedule).diffusion(t) ** 2
    torch.testing.assert_close(beta, 0.1 + 19.9 * t)


def test_sub_vp_has_its_published_rate():
    t = torch.linspace(0.05, 1, 20, dtype=torch.float64)
    integral = 0.1 * t + 0.5 * 19.9 * t**2
    squared = FunctionSpaceSDE(PixelNoise(Box(1)), SubVP(t_min=1e-12)).diffusion(t) ** 2
    torch.testing.assert_close(squared, (0.1 + 19.9 * t) * -torch.expm1(-2 * integral))


def test_cosine_is_nichols_with_its_offset():
    s = torch.linspace(0, 0.95, 20, dtype=torch.float64)
    alpha = ((s + 0.008) / 1.008 * math.pi / 2).cos()  # theirs, but for the division by its value at 0
    schedule = Cosine()
    found, sigma = schedule(schedule.time((1 - alpha**2).sqrt() / alpha).clamp(0, 1))
    torch.testing.assert_close(found, alpha, atol=2e-6, rtol=0)
    torch.testing.assert_close(found**2 + sigma**2, torch.ones_like(s))


def test_edm_spacing_is_karras():
    sigma = EDM(sigma_min=0.002, sigma_max=80.0, rho=7.0)(torch.linspace(1, 0, 18, dtype=torch.float64))[1]
    i = torch.arange(18, dtype=torch.float64) / 17
    karras = (80 ** (1 / 7) + i * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(sigma, karras)


@pytest.mark.usefixtures("float64")
class TestEDMScaling:
    def test_scalars_at_one_level(self):
        network = Zero()
        sde = FunctionSpaceSDE(WhiteNoise(Box(2), (8, 8)), VP())
        denoiser = edm(network, sde, 0.7)
        x_t, t = torch.randn(2, 1, 16, 16), torch.tensor(0.3)
        alpha, sigma = (float(v) for v in VP()(t))
        s = 2 * sigma / alpha  # per point: a grid twice finer has 4 times the variance of white noise
        torch.testing.assert_close(denoiser(x_t, t), x_t / alpha * 0.49 / (s**2 + 0.49))
        seen, level, _ = network.seen
        torch.testing.assert_close(seen, x_t / alpha / math.sqrt(0.49 + s**2))
        torch.testing.assert_close(level, torch.full((2,), math.log(s) / 4))

    @pytest.mark.parametrize("noise", [PixelNoise(Box(1)), WhiteNoise(Box(1), (2,))], ids=str)
    def test_target_of_the_network_has_unit_variance(self, noise):
        # x = D exactly when F is the target (x - c_skip y) / c_out, which EDM's scalars give unit variance.
        class Ones(nn.Module):
            def forward(self, x, noise_level):
                return torch.ones_like(x)

        sde, t = FunctionSpaceSDE(noise, EDM()), torch.rand(4000)
        x = 0.5 * torch.randn(4000, 1, 8)
        x_t, _ = sde.perturb(x, t)
        skip = edm(Zero(), sde)(x_t, t)
        c_out = edm(Ones(), sde)(x_t, t) - skip
        variance = ((x - skip) / c_out).square().mean()
        assert float(variance) == pytest.approx(1, abs=4 * math.sqrt(2 / x.numel()))

    @pytest.mark.parametrize("shape", [(8, 8), (16, 16), (9, 21)])
    def test_network_sees_unit_variance_on_every_grid(self, shape):
        network = Zero()
        sde = FunctionSpaceSDE(WhiteNoise(Box(2), (8, 8)), EDM())
        t = torch.rand(4000)
        x_t, _ = sde.perturb(0.5 * torch.randn(4000, 1, *shape), t)
        edm(network, sde)(x_t, t)
        assert float(network.seen[0].square().mean()) == pytest.approx(1, abs=0.02)

    def test_condition_reaches_the_network(self):
        network = Zero()
        label = torch.tensor([1, 2])
        edm(network, sde_on(Box(1)))(torch.randn(2, 1, 8), torch.tensor(0.5), label=label)
        assert network.seen[2] == {"label": label}


@pytest.mark.usefixtures("float64")
class TestLoss:
    @pytest.mark.parametrize("noise", [PixelNoise(Box(1)), WhiteNoise(Box(1), (2,))], ids=str)
    def test_is_one_where_no_network_is_needed(self, noise):
        # Data white with variance sd^2 per point: D = c_skip y is the posterior mean, with error variance c_out^2.
        denoiser = edm(Zero(), FunctionSpaceSDE(noise, EDM()))
        values = DenoisingLoss(denoiser)(0.5 * torch.randn(4000, 2, 8))
        assert values.shape == (4000,)
        assert float(values.mean()) == pytest.approx(1, abs=4 * float(values.std()) / math.sqrt(4000))

    def test_normalizes_data(self):
        normalization = Normalization([3.0, -1.0], [20.0, 0.1])
        denoiser = edm(Zero(), FunctionSpaceSDE(PixelNoise(Box(1)), EDM()), 1.0, normalization=normalization)
        x = torch.randn(4000, 2, 8) * torch.tensor([[20.0], [0.1]]) + torch.tensor([[3.0], [-1.0]])
        values = DenoisingLoss(denoiser)(x)
        assert float(values.mean()) == pytest.approx(1, abs=4 * float(values.std()) / math.sqrt(4000))

    def test_noise_levels_are_log_normal_within_the_schedule(self):
        schedule = EDM(sigma_min=0.1, sigma_max=1.0)
        denoiser = edm(Zero(), FunctionSpaceSDE(PixelNoise(Box(1)), schedule))
        log_s = schedule.ratio(DenoisingLoss(denoiser, -1.0, 0.8).times(20000).double()).log().sort().values
        normal = torch.distributions.Normal(-1.0, 0.8)
        low, high = normal.cdf(torch.tensor([math.log(0.1), 0.0]))
        expected = (normal.cdf(log_s) - low) / (high - low)
        empirical = (torch.arange(20000) + 0.5) / 20000
        assert float((expected - empirical).abs().max()) < 1.95 / math.sqrt(20000)  # Kolmogorov-Smirnov, p = 0.001

    def test_generator_fixes_each_sample(self):
        loss = DenoisingLoss(edm(Zero(), sde_on(Box(1))))
        x = torch.randn(3, 1, 8)
        whole = loss(x, generator=[torch.Generator().manual_seed(i) for i in range(3)])
        alone = loss(x[2:], generator=[torch.Generator().manual_seed(2)])
        torch.testing.assert_close(whole[2:], alone)
        assert float((whole[0] - whole[1]).abs()) > 0


def direct(denoiser, solver, x, **options):
    """Samples of one grid from a given start, in data units."""
    stages = Direct().plan(denoiser, tuple(x.shape[2:]), solver.times(denoiser.sde.schedule))
    return denoiser.normalization.inverse(run(denoiser, solver, stages, x, **options))


def seeded(sde, *seeds):
    """Fresh noise by a generator for each sample, or one for all."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return lambda x: sde.noise.sample(x.shape, generator=generators if len(generators) > 1 else generators[0])


class Counting(GaussianDenoiser):
    """Remembers the time and the shape of each evaluation."""

    def __init__(self, *args, seconds=0.0, **known):
        super().__init__(*args, **known)
        self.calls, self.seconds = [], seconds

    def forward(self, x_t, t, **condition):
        self.calls.append((float(t), tuple(x_t.shape[2:])))
        time.sleep(self.seconds)
        return super().forward(x_t, t, **condition)


@pytest.mark.usefixtures("float64")
class TestSolvers:
    @pytest.mark.parametrize(
        ("solver", "evaluations"),
        [
            (Heun, 35),
            (DDIM, 18),
            (DPMSolver, 18),
            (EulerMaruyama, 18),
            (PredictorCorrector, 35),
            (partial(PredictorCorrector, predictor=Heun(2)), 52),
            (AnnealedLangevin, 18),
        ],
    )
    def test_number_of_evaluations(self, solver, evaluations):
        denoiser = Counting(GaussianRandomField(Box(1), RBF()), sde_on(Box(1)))
        direct(denoiser, solver(18), denoiser.sde.prior((1, 1, 8)))
        times = [t for t, _ in denoiser.calls]
        assert len(times) == evaluations == solver(18).evaluations
        assert min(times) == 0
        assert max(times) == 1 or solver is AnnealedLangevin  # which never looks at the level it leaves

    @pytest.mark.parametrize("schedule", [EDM(), VP(), Cosine()], ids=str)
    @pytest.mark.parametrize(
        ("spacing", "scale"),
        [
            (EvenLogSNR(), torch.log),
            (EvenRho(), lambda r: r ** (1 / 7)),
            (EvenRho(1.0), lambda r: r),
        ],
        ids=["log-SNR", "rho 7", "rho 1"],
    )
    def test_spacing(self, schedule, spacing, scale):
        times = Heun(9, spacing).times(schedule)
        levels = scale(schedule.ratio(times))
        torch.testing.assert_close(levels.diff(), levels.diff().mean().expand(8))
        torch.testing.assert_close(levels[[0, -1]], scale(schedule.ratio(torch.tensor([1.0, 0.0]))))
        assert (float(times[0]), float(times[-1])) == (1.0, 0.0)

    @pytest.mark.parametrize("schedule", [EDM(), VE(), VP(), SubVP(), Cosine()], ids=str)
    def test_the_usual_spacing_is_the_schedules(self, schedule):
        spacing = EvenTime() if isinstance(schedule, EDM | VE) else EvenLogSNR()
        torch.testing.assert_close(Heun(9).times(schedule), Heun(9, spacing).times(schedule))

    @pytest.mark.parametrize("spacing", [EvenTime(), EvenLogSNR(), EvenRho()], ids=str)
    @pytest.mark.parametrize("solver", [Heun, DPMSolver])
    def test_second_order_solver_does_not_depend_on_its_spacing(self, spacing, solver):
        sde = sde_on(Box(1))
        denoiser = GaussianDenoiser(GaussianRandomField(Box(1), Matern(1.5)), sde)
        x = sde.prior((2, 1, 8), generator=torch.Generator().manual_seed(0))
        exact = denoiser.flow(x, torch.ones(()), torch.zeros(()))
        end = integrate(denoiser, solver(150, spacing), x, solver(150, spacing).times(sde.schedule))
        torch.testing.assert_close(end, exact, atol=2e-3, rtol=0)

    def test_churn_adds_noise_between_its_bounds_only(self):
        sde = FunctionSpaceSDE(PixelNoise(Box(1)), EDM())
        denoiser = GaussianDenoiser(GaussianRandomField(Box(1), RBF()), sde)
        x = sde.prior((2, 1, 8), generator=torch.Generator().manual_seed(0))
        plain = direct(denoiser, Heun(20), x)
        torch.testing.assert_close(direct(denoiser, Heun(20, churn=40.0, churn_min=90.0), x), plain)
        torch.testing.assert_close(direct(denoiser, Heun(20, churn=40.0, churn_max=0.001), x), plain)
        assert float((direct(denoiser, Heun(20, churn=40.0), x) - plain).abs().max()) > 0.1

    def test_churn_raises_the_level_by_its_factor_with_its_noise(self):
        # With an estimate of zero Heun's step is linear: what it returns is the state before it, rescaled.
        class Nothing(GaussianDenoiser):
            def forward(self, x_t, t, **condition):
                self.level = max(getattr(self, "level", 0.0), float(self.sde.schedule.ratio(t)))
                return torch.zeros_like(x_t)

        denoiser = Nothing(GaussianRandomField(Box(1), RBF()), FunctionSpaceSDE(PixelNoise(Box(1)), EDM()))
        level, (t, s) = EDM().ratio(torch.tensor(0.5)), torch.tensor([0.5, 0.4])
        solver = Heun(20, churn=4.0, churn_noise=1.5)
        x, _ = solver.step(denoiser, torch.zeros(4000, 1, 8), t, s, None, torch.randn_like)
        assert denoiser.level == pytest.approx(1.2 * float(level))
        # Heun's step by hand: Euler's state, and the mean of the slopes at both ends.
        raised, lower = 1.2 * level, EDM().ratio(s)
        h = raised - lower
        shrunk = 1 - h * (1 / raised + (1 - h / raised) / lower) / 2
        added = 1.5 * level * math.sqrt(1.2**2 - 1)
        assert float(x.std()) == pytest.approx(float(abs(shrunk) * added), rel=0.02)

    @pytest.mark.parametrize("solver", STOCHASTIC, ids=str)
    def test_fresh_noise_follows_the_generator(self, solver):
        sde = sde_on(Box(1))
        denoiser, solver = GaussianDenoiser(GaussianRandomField(Box(1), RBF()), sde), solver(12)
        x = sde.prior((2, 1, 16), generator=torch.Generator().manual_seed(0))
        a, b, c = (direct(denoiser, solver, x, noise=seeded(sde, s)) for s in (1, 1, 2))
        torch.testing.assert_close(a, b)
        assert float((a - c).abs().max()) > 1e-3
        alone = direct(denoiser, solver, x[1:], noise=seeded(sde, 1))
        torch.testing.assert_close(direct(denoiser, solver, x, noise=seeded(sde, 5, 1))[1:], alone)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    @pytest.mark.parametrize("domain", [Box(2), Torus(2)], ids=str)
    @pytest.mark.parametrize(
        "make", [lambda d: WhiteNoise(d, (8, 8)), lambda d: GaussianRandomField(d, Matern(1.0)), PixelNoise]
    )
    def test_noise_comes_in_the_precision_asked_for(self, domain, dtype, make):
        x = make(domain).sample((2, 1, 8, 8), dtype=dtype)
        assert x.dtype == dtype
        assert float(x.float().std()) > 0.1

    def test_one_step_is_the_denoised_prior(self):
        sde = sde_on(Box(1))
        denoiser = GaussianDenoiser(GaussianRandomField(Box(1), RBF()), sde)
        x = sde.prior((2, 1, 8))
        torch.testing.assert_close(direct(denoiser, Heun(1), x), denoiser(x, torch.ones(())))

    def test_samples_come_in_data_units(self):
        sde = sde_on(Box(1))
        plain, scaled = (edm(Zero(), sde, normalization=Normalization(*units)) for units in (([0], [1]), ([10], [3])))
        torch.testing.assert_close(sample(scaled, 8, range(2)), 10 + 3 * sample(plain, 8, range(2)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Matern(0.0), "smoothness > 0"),
        (lambda: RBF(-1.0), "length_scale > 0"),
        (lambda: WhiteNoise(Box(2), (32,)), "2 positive sizes"),
        (lambda: PixelNoise(Box(1)).std(torch.ones(3)), "noise.on"),
        (lambda: GaussianRandomField(Box(1), lambda e, d: torch.ones_like(e)).std(torch.ones(2)), "WhiteNoise"),
        (lambda: sde_on(Box(2)).prior((3, 8, 8)), "2 positive sizes"),
        (lambda: sde_on(Box(2)).prior((3,)), "B, C"),
        (lambda: EDM(sigma_min=0.0), "0 < sigma_min"),
        (lambda: EDM(sigma_min=2.0, sigma_max=1.0), "sigma_min < sigma_max"),
        (lambda: VP(t_min=2.0), "t_min"),
        (lambda: sde_on(Box(1)).perturb(torch.randn(2, 1, 8), torch.rand(3)), "one per sample"),
        (lambda: sde_on(Box(1)).perturb(torch.randn(2, 1, 8), torch.tensor(1.5)), r"\[0, 1\]"),
        (lambda: sde_on(Box(1)).perturb(torch.randn(2, 1, 8), torch.tensor(math.nan)), r"\[0, 1\]"),
        (lambda: sde_on(Box(1)).perturb(torch.randn(2, 8), torch.rand(2)), "B, C"),
        (lambda: Heun(0), "steps >= 1"),
        (lambda: DDIM(5, eta=2.0), r"eta in \[0, 1\]"),
        (lambda: Heun(5, spacing="linear"), "EvenLogSNR"),
        (lambda: Heun(5, churn=-1.0), "churn"),
        (lambda: DPMSolver(5, eta=-0.1), r"eta in \[0, 1\]"),
        (lambda: PredictorCorrector(5, corrections=0), "corrections >= 1"),
        (lambda: AnnealedLangevin(5, snr=2.0), r"snr in \(0, 1\)"),
        (lambda: Cosine(sigma_min=-1.0), "0 < sigma_min"),
        (lambda: VE(sigma_max=0.001), "sigma_min < sigma_max"),
        (lambda: EDMScaling(0.0), "sigma_data > 0"),
        (lambda: EDMScaling(math.inf), "sigma_data > 0"),
        (lambda: edm(DFU.tiny(1, 1, domain=Torus(1)), sde_on(Box(1))), "one domain for both"),
        (lambda: GaussianDenoiser(GaussianRandomField(Box(1), RBF()), sde_on(Box(2))), "one domain"),
        (lambda: Normalization([0.0], [0.0]), "positive std"),
        (lambda: Normalization([0.0], [1.0])(torch.randn(2, 3, 8)), "1 channels"),
        (lambda: DenoisingLoss(edm(Zero(), sde_on(Box(1))), p_std=0.0), "p_std > 0"),
    ],
)
def test_bad_input_is_an_error_that_says_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


class TestSamples:
    domain = Box(2)
    sde = FunctionSpaceSDE(WhiteNoise(domain, (8, 8)), EDM())
    denoiser = GaussianDenoiser(GaussianRandomField(domain, Matern(1.0)), sde, channels=2)

    @pytest.mark.parametrize("solver", [Heun(5), DPMSolver(5, eta=1.0)], ids=["heun", "dpm"])
    def test_a_sample_depends_on_its_seed_alone(self, solver):
        whole = sample(self.denoiser, (12, 9), range(7), solver=solver, batch=7)
        torch.testing.assert_close(
            sample(self.denoiser, (12, 9), range(7), solver=solver, batch=3, progress=True), whole
        )
        torch.testing.assert_close(sample(self.denoiser, (12, 9), 4, solver=solver, batch=3), whole[4:5])
        assert whole.shape == (7, 2, 12, 9) and float((whole[0] - whole[1]).abs().max()) > 0.1

    def test_memory_is_that_of_one_batch(self):
        def consume(count):
            parts = [part.shape for part in samples(self.denoiser, 64, range(count), solver=Heun(2), batch=2)]
            assert parts == [(2, 2, 64, 64)] * (count // 2)

        few, many = (measure(partial(consume, count)).bytes for count in (2, 8))
        assert many < 1.3 * few

    @pytest.mark.parametrize(
        ("solver", "plan"),
        [
            (Heun(5), Direct()),
            (DDIM(5), Direct()),
            (PredictorCorrector(5, corrections=2), Direct()),
            (Heun(12), Progressive([(8, 8)])),
        ],
        ids=str,
    )
    def test_cost_counts_evaluations_and_batches(self, solver, plan):
        denoiser = Counting(self.denoiser.data, self.sde, seconds=0.01)
        cost = sampling_cost(denoiser, 16, 10, solver=solver, plan=plan, batch=4)
        denoiser.calls.clear()
        sample(denoiser, 16, range(4), solver=solver, plan=plan)
        assert cost.seconds > 3 * len(denoiser.calls) * 0.01
        assert cost.bytes >= 4 * 1024 * 4 and "MiB" in str(cost)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"batch": 0}, "batch >= 1"),
            ({"label": torch.zeros(2, dtype=torch.long)}, "one row for each of the 3 seeds"),
            ({"solver": Heun}, "expected a solver"),
        ],
    )
    def test_bad_input(self, options, message):
        with pytest.raises(ValueError, match=message):
            sample(self.denoiser, 8, range(3), **options)
