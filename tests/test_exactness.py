"""Laws that are not stationary, against closed forms: what replaces, what learns from known modes, and particles."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch

from benchmarks.exactness import known, weighted
from benchmarks.laws import DOMAINS, drawn, spectrum_of
from benchmarks.oracles import Law, Mixture, conditional
from fnodiff import (
    EDM,
    VP,
    Box,
    Cascade,
    FunctionSpaceSDE,
    GaussianRandomField,
    Matern,
    Product,
    Torus,
    WhiteNoise,
    sample,
    upscale,
)
from fnodiff.inverse import MatchModes, MomentMatching, PointObservation, annealed, twisted
from fnodiff.sde import RBF, AnnealedLangevin, DPMSolver, EvenLogSNR, GaussianDenoiser, Given, ReplaceModes, Wrapper

BOX, FINE, SMALL = Box(1), (32,), (8,)


def basis(domain, shape, field):
    """Factors of a stationary law: one function for each mode."""
    unit = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, 1, *shape)
    return domain.filter(unit, field.std) * math.prod(shape) ** 0.5


def amplitude(smoothness=1.0, contrast=0.1):
    """Rough on the left, nearly nothing on the right."""
    factors = basis(BOX, FINE, GaussianRandomField(BOX, Matern(smoothness, 0.1)))
    return Law(BOX, factors * torch.where(BOX.points(FINE)[0] < 0.5, 1.0, contrast))


def one_factor():
    """One random number in mode 1 and in modes 9 to 12."""
    common = torch.zeros(1, 1, *FINE, dtype=torch.float64)
    common[..., 1], common[..., 9:13] = 1.0, 0.5
    factors = 0.3 * basis(BOX, FINE, GaussianRandomField(BOX, Matern(1.0, 0.1)))
    return Law(BOX, torch.cat([factors, BOX.synthesize(common, FINE)]))


def spectrum(law):
    """The variance of each mode."""
    found = BOX.analyze(law.factors).square().sum(0)[0]
    return lambda eigenvalues, dim: found[(eigenvalues.sqrt() / math.pi).round().long()].clamp(min=1e-8)


def process(noise):
    field = WhiteNoise(BOX, FINE) if noise == "white" else GaussianRandomField(BOX, Matern(0.5, 0.2))
    return FunctionSpaceSDE(field, EDM())


@pytest.mark.parametrize("domain", [Box(1), Torus(1), Box(2), Product([Torus(1), Box(1)])])
def test_the_oracle_of_a_stationary_law_is_the_denoiser_of_its_spectrum(domain):
    shape, field = (9,) * domain.dim, GaussianRandomField(domain, Matern(1.0, 0.2))
    sde = FunctionSpaceSDE(WhiteNoise(domain, shape), EDM())
    law = Law(domain, basis(domain, shape, field))
    x_t, t = torch.randn(3, 1, *shape, dtype=torch.float64), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    expected = GaussianDenoiser(field, sde)(x_t, t)
    torch.testing.assert_close(Mixture([law], sde)(x_t, t), expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(Mixture([law, law], sde)(x_t, t), expected, rtol=1e-8, atol=1e-8)


def test_the_oracle_of_a_mixture_is_bayes_rule():
    law, other = amplitude(), Law(BOX, one_factor().factors, torch.ones(1, *FINE))
    oracle, t = Mixture([law, other], process("white"), [0.3, 0.7]), torch.tensor(0.6, dtype=torch.float64)
    clean = torch.cat([v.sample(20_000, FINE, torch.Generator().manual_seed(i)) for i, v in enumerate((law, other))])
    sigma, at = float(oracle.sde.schedule.ratio(t)), torch.randn(1, 1, *FINE, dtype=torch.float64)
    at = at * sigma * FINE[0] ** 0.5 * 0.3
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64).repeat_interleave(20_000).log()
    std = sigma * oracle.sde.noise.on(FINE).std(BOX.eigenvalues(FINE, dtype=torch.float64))
    log_p = weights - 0.5 * (BOX.analyze(clean - at) / std).square().flatten(1).sum(1)
    expected = (log_p.softmax(0)[:, None, None] * clean).sum(0)
    size = 1 / float(log_p.softmax(0).square().sum())  # how many of the draws count
    assert size > 2000
    assert float(BOX.norm(oracle(at, t) - expected)) < 3 * float(BOX.norm(clean).mean()) / size**0.5


@pytest.mark.parametrize("noise", ["white", "matern"])
@pytest.mark.parametrize("make", [amplitude, one_factor])
def test_the_other_modes_learn_what_the_known_ones_say(make, noise):
    law, pairs, members = make(), 12, 40
    denoiser = Mixture([law], process(noise), spectrum=spectrum(law))
    low = BOX.resample(law.sample(pairs, FINE, torch.Generator().manual_seed(1)), SMALL)
    mean, covariance = conditional(law, low, FINE)
    coefficients = BOX.analyze(torch.eye(FINE[0], dtype=torch.float64)[:, None])[:, 0, SMALL[0] :]
    variance = (coefficients.T @ covariance @ coefficients).diagonal().sum()
    high, reached = BOX.analyze(mean)[:, 0, SMALL[0] :], {}
    for hold in (ReplaceModes, MatchModes):
        given, seeds = low.repeat_interleave(members, 0), range(pairs * members)
        x = upscale(denoiser, given, FINE, seeds, solver=DPMSolver(20, EvenLogSNR()), hold=hold, batch=480)
        assert float(BOX.norm(BOX.resample(x, SMALL) - given).max()) < 1e-4
        found = BOX.analyze(x.double()).unflatten(0, (pairs, members))[:, :, 0, SMALL[0] :]
        slope = (found.mean(1) * high).sum() / high.square().sum()
        reached[hold] = float(slope), float(found.var(1).sum(1).mean() / variance)
    # slopes by chance within 0.02, variances within 0.08: 480 samples of some 4 modes that count
    assert reached[MatchModes][0] > 0.95 and abs(reached[MatchModes][1] - 1) < 0.15
    assert reached[ReplaceModes][0] < 0.8 and reached[ReplaceModes][1] > 1.25


LAWS = [
    pytest.param(name, seed, id=f"{name}-{seed}", marks=[] if seed == 3 and "1" in name else pytest.mark.slow)
    for name, seed in itertools.product(DOMAINS, range(10))
]


@pytest.mark.parametrize(("domain", "seed"), LAWS)
def test_modes_are_matched_on_laws_drawn_by_seed(domain, seed):
    domain, shape, small = DOMAINS[domain]
    law, noise, solver = drawn(domain, shape, seed), "white" if seed % 2 else "matern", DPMSolver(24, EvenLogSNR())
    found = known(law, noise, partial(MatchModes, iterations=16), solver, small, pairs=20, members=24)
    assert found.slope > 0.95 and abs(found.variance - 1) < 0.15
    replaced = known(law, noise, ReplaceModes, solver, small, pairs=20, members=24)
    assert replaced.slope < found.slope and replaced.variance > found.variance


@pytest.mark.slow
@pytest.mark.parametrize(("domain", "seed"), LAWS)
def test_particles_are_right_on_laws_drawn_by_seed(domain, seed):
    domain, shape, _ = DOMAINS[domain]
    error, spread = weighted(drawn(domain, shape, seed), "white" if seed % 2 else "matern", particles=128, levels=40)
    assert error < 0.4  # in the posterior's spread, of some 4 x 30 independent particles
    assert 0.75 < spread < 1.1  # ancestral steps make it too small, by the less the more there are


def test_modes_are_matched_for_each_sample_alone_and_in_cascades():
    law = amplitude()
    denoiser = Mixture([law], process("white"), spectrum=spectrum(law))
    low = BOX.resample(law.sample(4, FINE, torch.Generator().manual_seed(1)), SMALL).float()
    options = {"solver": DPMSolver(8), "hold": MatchModes}
    together = upscale(denoiser, low, FINE, range(4), **options)
    alone = torch.cat([upscale(denoiser, low[i], FINE, [i], **options) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        upscale(denoiser, low, FINE, range(4), batch=3, **options), together, rtol=1e-4, atol=1e-4
    )
    once = {**options, "hold": partial(MatchModes, iterations=1)}
    quick = upscale(denoiser, low, FINE, range(4), **once)
    assert float((quick - together).abs().max()) > 1e-2
    torch.testing.assert_close(upscale(denoiser, low, FINE, range(4), batch=3, **once), quick, rtol=1e-4, atol=1e-4)
    part = MatchModes(denoiser, low, iterations=1, tolerance=0.5).rows(slice(1, 3))
    assert (part.iterations, part.tolerance) == (1, 0.5) and torch.equal(part.low, low[1:3])
    plan = Cascade([SMALL], through=())
    coarse = sample(denoiser, SMALL, range(4), solver=DPMSolver(8))
    fine = sample(denoiser, FINE, range(4), plan=plan, **options)
    assert float((BOX.resample(fine, SMALL) - coarse).abs().max()) < 1e-3


@pytest.mark.parametrize(("domain", "modes"), [("Box(1)", 8), ("Sphere()", 25)])
def test_a_match_is_bayes_rule_in_as_many_iterations_as_there_are_modes(domain, modes):
    domain, shape, small = DOMAINS[domain]
    law, sde = drawn(domain, shape, 0), FunctionSpaceSDE(GaussianRandomField(domain, Matern(0.5, 0.2)), EDM())
    t, generator = sde.schedule.time(torch.tensor(0.5, dtype=torch.float64)), torch.Generator().manual_seed(1)
    x = law.sample(2, shape, generator)
    x_t = x + 0.5 * sde.noise.sample(tuple(x.shape), generator=generator, dtype=torch.float64)
    low, (mean, covariance) = domain.resample(x, small), law.moments(shape)
    unit = torch.eye(len(mean), dtype=torch.float64).reshape(-1, 1, *shape)
    weights = domain.weights(shape, dtype=torch.float64)
    noise = 0.25 * domain.filter(unit / weights, lambda e: sde.noise.std(e).square()).flatten(1)
    gain = covariance @ torch.linalg.pinv(covariance + noise, hermitian=True, rtol=1e-10)
    x_hat, left = mean + (x_t.flatten(1) - mean) @ gain.T, covariance - gain @ covariance
    down = domain.resample(unit, small).flatten(1).T
    learn = left @ down.T @ torch.linalg.pinv(down @ left @ down.T, hermitian=True, rtol=1e-10)
    expected = (x_hat + (low.flatten(1) - x_hat @ down.T) @ learn.T).view_as(x)
    denoiser = Mixture([law], sde, spectrum=spectrum_of(law))
    found = MatchModes(denoiser, low, iterations=modes, tolerance=1e-8)(x_t, t)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    rough = MatchModes(denoiser, low, iterations=1)(x_t, t)
    assert float((rough - expected).abs().max()) > 1e-3
    torch.testing.assert_close(domain.resample(rough, small), low)


def by_two_schedules():
    """Processes that differ in alpha alone: the same noise levels, reached by the same steps."""
    low, high = VP().ratio(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    return [FunctionSpaceSDE(process("matern").noise, schedule) for schedule in (EDM(low, high), VP())]


def test_modes_are_matched_alike_by_every_schedule():
    law = amplitude()
    low = BOX.resample(law.sample(2, FINE, torch.Generator().manual_seed(1)), SMALL).float()
    options = {"solver": DPMSolver(8, EvenLogSNR()), "hold": MatchModes}
    x, y = (
        upscale(Mixture([law], s, spectrum=spectrum(law)), low, FINE, range(2), **options) for s in by_two_schedules()
    )
    torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-3)


def test_modes_of_very_smooth_fields_are_matched():
    noise = GaussianRandomField(BOX, Matern(0.5, 0.2))
    denoiser = GaussianDenoiser(GaussianRandomField(BOX, RBF(0.3)), FunctionSpaceSDE(noise, EDM()))
    low = denoiser.data.sample((2, 1, 16), generator=torch.Generator().manual_seed(0))
    solver = DPMSolver(24, EvenLogSNR())
    x, y = (upscale(denoiser, low, 32, range(2), solver=solver, hold=hold) for hold in (MatchModes, ReplaceModes))
    torch.testing.assert_close(x, y, atol=1e-4, rtol=0)  # a stationary law: nothing to learn


@pytest.mark.parametrize("snr", [0.16, 0.5])
def test_langevin_steps_leave_the_bias_that_they_state(snr):
    field = GaussianRandomField(BOX, Matern(1.0, 0.3))
    denoiser = GaussianDenoiser(field, FunctionSpaceSDE(field, EDM(0.01, 1e4)))
    solver, t = AnnealedLangevin(1, corrections=1, snr=snr), torch.ones((), dtype=torch.float64)
    noise = field.sample((1, 1, 16), dtype=torch.float64)
    shrunk = solver.correct(denoiser, noise, t, torch.zeros_like)  # the step is a x + b z
    added = solver.correct(denoiser, torch.zeros_like(noise), t, lambda x: noise)
    a, b = (float((x * noise).sum() / noise.square().sum()) for x in (shrunk, added))
    variance = b**2 / (1 - a**2) / float(denoiser.sde.marginal(noise, t)[1]) ** 2
    assert variance - 1 == pytest.approx(snr**2 / (1 - snr**2), rel=1e-6)


def test_modes_are_not_matched_beside_an_observation():
    law = amplitude()
    denoiser = Mixture([law], process("white"), spectrum=spectrum(law))
    seen = PointObservation(torch.tensor([[0.2]]), torch.tensor([[1.0]]), noise_std=0.2)
    with pytest.raises(ValueError, match="hold modes by ReplaceModes"):
        MatchModes(MomentMatching(denoiser, seen), torch.zeros(1, 1, 8))


def two_kinds(share):
    """A mixture whose means are 4 standard deviations apart, values of a share of one at points, its exact weight."""
    factors = basis(BOX, FINE, GaussianRandomField(BOX, Matern(1.0, 0.1)))
    mean = torch.zeros(1, *FINE, dtype=torch.float64)
    std = GaussianRandomField(BOX, Matern(1.0, 0.1)).std(BOX.eigenvalues(FINE, dtype=torch.float64))
    mean[..., 2], mean[..., 12] = 2 * std[2], 2 * std[12]
    mean = BOX.synthesize(mean[None], FINE)[0]
    laws = [Law(BOX, factors, mean), Law(BOX, factors, -mean)]
    denoiser = Mixture(laws, process("white"), spectrum=spectrum(Law(BOX, torch.cat([factors, mean[None]]))))
    points = (torch.arange(8.0)[None] + 0.5) / 8
    value = share * BOX.evaluate(mean[None], points)[0].float()
    return denoiser, PointObservation(points, value, noise_std=0.3), _weights(laws, points, value, 0.3)


@pytest.mark.slow
def test_particles_weigh_the_components_of_a_mixture():
    (denoiser, seen, exact), runs = two_kinds(0.25), 20
    x = twisted(denoiser, seen, FINE, range(runs), particles=48, steps=20, all_particles=True)
    assert x.shape == (runs, 48, 1, *FINE)
    found = (
        denoiser.components(x.flatten(0, 1).double(), torch.zeros(()))[1].softmax(0)[1].unflatten(0, (runs, 48)).mean(1)
    )
    assert 0.05 < exact < 0.4
    assert abs(float(found.mean()) - exact) < 3 * float(found.std()) / runs**0.5 < 0.1


@pytest.mark.parametrize(
    ("share", "least", "most"),
    [(0.25, 0.13, 0.3), *(pytest.param(*row, marks=pytest.mark.slow) for row in ((0.0, 0.4, 0.6), (1.0, 0.0, 0.03)))],
)
def test_annealing_weighs_the_components_by_what_is_seen(share, least, most):
    """Rightly where both are alike or one is plain, and the rarer one too often in between."""
    denoiser, seen, exact = two_kinds(share)
    x = annealed(denoiser, seen, FINE, range(200), steps=32, spacing=EvenLogSNR(), batch=200)
    found = denoiser.components(x.double(), torch.zeros(()))[1].softmax(0)[1]
    assert least < float(found.mean()) < most and least - 0.02 < exact < most
    assert float((found - 0.5).abs().mean()) > 0.45, "each sample is of one kind or the other"


def _weights(laws, points, value, noise_std):
    """The posterior probability of the second component."""
    log_p = []
    for law in laws:
        sensing = BOX.evaluate(torch.eye(FINE[0], dtype=torch.float64)[:, None], points)[:, 0].T
        mean, covariance = law.moments(FINE)
        total = sensing @ covariance @ sensing.T + noise_std**2 * torch.eye(len(sensing), dtype=torch.float64)
        r = value.double().flatten() - sensing @ mean
        log_p.append(-0.5 * (r @ torch.linalg.solve(total, r) + total.logdet()))
    return float(torch.stack(log_p).softmax(0)[1])


class TestTwisted:
    @pytest.fixture
    def denoiser(self):
        return GaussianDenoiser(GaussianRandomField(BOX, Matern(1.0, 0.3)), process("matern"))

    @pytest.fixture
    def seen(self):
        return PointObservation(torch.tensor([[0.2, 0.7]]), torch.tensor([[1.0, -1.5]]), noise_std=0.2)

    @pytest.mark.parametrize(
        ("n", "sigma_min"),
        [(16, 1.0), (64, 0.002), *(pytest.param(n, 0.002, marks=pytest.mark.slow) for n in (16, 32))],
    )
    def test_mean_and_spread_are_the_posteriors_on_every_grid(self, denoiser, seen, n, sigma_min):
        # where the noise ends at 1, the last guess of the likelihood differs from the likelihood
        denoiser = GaussianDenoiser(denoiser.data, FunctionSpaceSDE(denoiser.sde.noise, EDM(sigma_min)))
        runs, spacing = 12, EvenLogSNR()
        x = twisted(
            denoiser, seen, n, range(runs), particles=32, steps=15, spacing=spacing, all_particles=True
        ).double()
        # the law of the sampler's own samples without an observation, per mode
        sde, e = denoiser.sde, BOX.eigenvalues((n,), dtype=torch.float64)
        data, noise = denoiser.data.std(e).square(), sde.noise.on((n,)).std(e).square()
        times = spacing.times(sde.schedule, 15)
        sigma = sde.schedule.ratio(times)
        variance = sigma[0].square() * noise
        for s_t, s_s in itertools.pairwise(sigma):
            gain, q = data / (data + s_t.square() * noise), s_s / s_t
            variance = ((1 - q**2) * gain + q**2).square() * variance + s_s.square() * (1 - q**2) * noise
        variance = (data / (data + sigma[-1].square() * noise)).square() * variance
        unit = torch.eye(n, dtype=torch.float64)[:, None]
        covariance = BOX.synthesize(BOX.analyze(unit * n) * variance, (n,))[:, 0]
        sensing = BOX.evaluate(unit, seen.points)[:, 0].T
        gain = (
            covariance @ sensing.T @ torch.linalg.inv(sensing @ covariance @ sensing.T + 0.04 * torch.eye(2).double())
        )
        mean, std = gain @ seen.values[0].double(), (covariance - gain @ sensing @ covariance).diagonal().sqrt()
        apart = (x[:, :, 0].mean((0, 1)) - mean) / std
        assert float(apart.square().mean().sqrt()) < 0.15  # some 12 x 10 particles are independent
        assert abs(float((x[:, :, 0].std((0, 1)) / std).mean()) - 1) < 0.1

    def test_a_run_is_its_seeds_and_its_observations(self, denoiser, seen):
        values = torch.stack([seen.values, -seen.values, 2 * seen.values])
        each = PointObservation(seen.points, values, 0.2)
        x = twisted(denoiser, each, 16, [5, 6, 7], particles=8, steps=10)
        alone = twisted(denoiser, PointObservation(seen.points, values[1], 0.2), 16, [6], particles=8, steps=10)
        torch.testing.assert_close(x[1:2], alone)
        all_of_it, ess = twisted(denoiser, seen, 16, 5, particles=8, steps=10, all_particles=True, return_ess=True)
        assert all_of_it.shape == (1, 8, 1, 16) and ess.shape == (1, 10)
        torch.testing.assert_close(all_of_it[:, 0], x[:1])
        assert bool((ess >= 1).all() and (ess <= 8 + 1e-4).all())

    def test_few_particles_at_a_time_are_the_same_run(self, denoiser, seen):
        class Labelled(Wrapper):
            """Two laws, whose means a label tells apart."""

            def forward(self, x_t, t, *, label):
                sizes.append(len(x_t))
                shift = label.reshape(-1, 1, 1).to(x_t)
                return shift + self.denoiser(x_t - self.sde.marginal(x_t, t)[0] * shift, t)

        sizes, options = [], {"particles": 8, "steps": 10, "label": [3, -2], "all_particles": True}
        whole = twisted(Labelled(denoiser), seen, 16, range(2), **options)
        assert set(sizes) == {8}
        sizes.clear()
        few = twisted(Labelled(denoiser), seen, 16, range(2), batch=3, **options)
        assert sizes[:3] == [3, 3, 2] and set(sizes) == {3, 2}
        torch.testing.assert_close(few, whole, rtol=1e-5, atol=1e-5)
        far = torch.tensor([[0.99]])  # where the label says more than the two sensors do
        first, second = (float(BOX.evaluate(x, far).mean()) for x in few)
        assert first > second + 1

    def test_a_run_is_the_same_by_every_schedule(self, denoiser, seen):
        options = {"particles": 8, "steps": 12, "spacing": EvenLogSNR(), "all_particles": True, "return_ess": True}
        x, y = (twisted(GaussianDenoiser(denoiser.data, s), seen, 16, range(2), **options) for s in by_two_schedules())
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-3)

    def test_a_gaussian_law_in_many_steps_keeps_its_particles(self, denoiser, seen):
        options = {"particles": 16, "steps": 80, "spacing": EvenLogSNR(), "return_ess": True}
        _, ess = twisted(denoiser, seen, 16, range(2), **options)
        assert float(ess.min()) > 6  # there the guesses are right, but for the steps

    def test_the_particle_that_is_drawn_is_any_of_them(self, denoiser, seen):
        x = twisted(denoiser, seen, 16, range(4), particles=16, steps=14, all_particles=True)
        twins = sum(16 - len(run.flatten(1).unique(dim=0)) for run in x)
        beside = int((x[:, 1:] == x[:, :-1]).flatten(2).all(2).sum())
        assert twins > 8 and beside < twins / 2, "particles that were taken twice would stand together"

    def test_poor_runs_are_warned_of(self, denoiser):
        exact = PointObservation(torch.tensor([[0.2, 0.7]]), torch.tensor([[5.0, -5.0]]), noise_std=0.001)
        rough = lambda eigenvalues, dim: 0.01 * denoiser.spectrum(eigenvalues, dim) ** 0  # noqa: E731
        with pytest.warns(UserWarning, match="take more particles or more steps"):
            twisted(denoiser, exact, 16, [0], particles=64, steps=6, spectrum=rough)

    def test_smooth_noise_does_not_spoil_the_weights_on_fine_grids(self, seen):
        field = GaussianRandomField(BOX, RBF(0.1))  # of a variance of 1e-12 of the mean's in mode 23
        denoiser = GaussianDenoiser(GaussianRandomField(BOX, RBF(0.2)), FunctionSpaceSDE(field, EDM()))
        options = {"particles": 32, "steps": 10, "return_ess": True}
        coarse, fine = (twisted(denoiser, seen, n, [0], **options)[1] for n in (16, 48))
        torch.testing.assert_close(fine, coarse, rtol=0.02, atol=0.1)

    def test_in_inference_mode(self, denoiser, seen):
        with torch.inference_mode():
            assert bool(twisted(denoiser, seen, 16, [0], particles=4, steps=4).isfinite().all())

    def test_a_model_that_diverges_is_an_error(self, denoiser, seen, monkeypatch):
        monkeypatch.setattr(type(denoiser), "forward", lambda self, x_t, t: x_t * math.nan)
        with pytest.raises(FloatingPointError, match="the model diverged"):
            twisted(denoiser, seen, 16, [0], particles=4, steps=4)

    def test_what_belongs_to_samples_is_counted(self, denoiser, seen):
        five = PointObservation(seen.points, seen.values.expand(5, 1, 2), 0.2)
        with pytest.raises(ValueError, match="one for each of the 3 seeds, got 5"):
            twisted(denoiser, five, 16, range(3), particles=4, steps=4)
        with pytest.raises(ValueError, match="as many samples at a time as there are observations"):
            sample(MomentMatching(denoiser, five), 16, range(8), solver=DPMSolver(2), batch=4)
        with pytest.raises(ValueError, match="pass conditions by name"):
            twisted(Given(denoiser, label=torch.zeros(3)), seen, 16, range(3), particles=3, steps=4)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"particles": 1}, "particles >= 2"),
            ({"steps": 0}, "steps >= 2"),
            ({"batch": 0}, "batch >= 1"),
            ({"seeds": 0.5}, "whole numbers"),
            ({"shape": (8, 8)}, "1 positive sizes"),
        ],
    )
    def test_bad_input_is_an_error_that_says_what_was_expected(self, denoiser, seen, options, message):
        options = {"shape": 16, "seeds": [0], **options}
        with pytest.raises(ValueError, match=message):
            twisted(denoiser, seen, **options)

    def test_a_denoiser_needs_a_spectrum_and_no_observation_of_its_own(self, denoiser, seen):
        with pytest.raises(ValueError, match="without an observation"):
            twisted(MomentMatching(denoiser, seen), seen, 16, [0])
        denoiser.spectrum = None
        with pytest.raises(ValueError, match="expected the data's spectrum"):
            twisted(denoiser, seen, 16, [0])
        with pytest.raises(ValueError, match="expected a denoiser that knows"):
            MatchModes(denoiser, torch.zeros(1, 1, 8))
