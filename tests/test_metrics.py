"""Metrics: closed forms, limits, and what each is blind to."""

from __future__ import annotations

import math

import pytest
import torch
from parts import CHANNEL

from fnodiff import metrics
from fnodiff.domain import Box, Sphere, Torus
from fnodiff.nn import DFU, SpectralConv
from fnodiff.sde import GaussianRandomField, Matern, WhiteNoise


@pytest.mark.usefixtures("float64")
class TestFrechet:
    def test_closed_form_of_two_gaussians(self):
        # Features with exact sample moments: whitened draws, then a known mean and covariance.
        def exact(mean, cov):
            z = torch.randn(200, 3)
            z = z - z.mean(0)
            z = z @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(z.T))).T
            return z @ torch.linalg.cholesky(cov).T + mean

        a, b = torch.diag(torch.tensor([4.0, 1.0, 9.0])), torch.diag(torch.tensor([1.0, 1.0, 4.0]))
        q, _ = torch.linalg.qr(torch.randn(3, 3))
        shift = torch.tensor([1.0, -2.0, 0.5])
        distance = metrics.frechet_distance(exact(shift, q @ a @ q.T), exact(torch.zeros(3), q @ b @ q.T))
        assert distance == pytest.approx(5.25 + 1 + 0 + 1, rel=1e-6)

    def test_equal_sets_are_at_distance_zero(self):
        x = torch.randn(100, 5)
        assert metrics.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


@pytest.mark.usefixtures("float64")
class TestSpectrum:
    @pytest.mark.parametrize("domain", [Torus(1), Box(1), Torus(2), Box(2), Torus(2, (1.0, 2.0)), CHANNEL], ids=str)
    def test_is_the_spectrum_of_the_field(self, domain):
        noise = GaussianRandomField(domain, Matern(1.0, 0.3))
        wavenumber, power = metrics.radial_spectrum(noise.sample((400, 2, *(24, 40)[: domain.dim])), domain)
        expected = noise.std((2 * torch.pi * wavenumber) ** 2) ** 2
        assert float((power / expected).log().abs().mean()) < 0.12
        assert float((power[3:] / expected[3:] - 1).abs().max()) < 0.3

    def test_error_is_the_log_ratio(self):
        x = WhiteNoise(Box(2), (16, 16)).sample((8, 1, 16, 16))
        assert metrics.spectrum_error(1.2 * x, x, Box(2)) == pytest.approx(2 * torch.tensor(1.2).log())


@pytest.mark.usefixtures("float64")
class TestHighBandDistance:
    def test_limits(self):
        domain = Box(2)
        x = GaussianRandomField(domain, Matern(0.3, 0.2)).sample((64, 3, 48, 48))
        plain = domain.resample(domain.resample(x, (24, 24)), (48, 48))
        assert metrics.high_band_distance(x, x, domain, (24, 24)) == (pytest.approx(0, abs=1e-6), pytest.approx(1))
        assert metrics.high_band_distance(plain, x, domain, (24, 24)) == (
            pytest.approx(1, abs=1e-3),
            pytest.approx(0, abs=1e-9),
        )
        assert metrics.high_band_distance(2 * x, x, domain, (24, 24))[1] == pytest.approx(4)

    def test_it_is_the_only_one_that_sees_missing_detail(self):
        domain = Box(2)
        noise = GaussianRandomField(domain, Matern(1.0, 0.3))
        x, y = (noise.sample((256, 1, 48, 48)) for _ in range(2))
        plain = domain.resample(domain.resample(x, (24, 24)), (48, 48))
        assert (
            metrics.high_band_distance(plain, y, domain, (24, 24))[0]
            > 10 * metrics.high_band_distance(x, y, domain, (24, 24))[0]
        )
        assert metrics.global_coherence(plain, y, domain) < 1.1 * metrics.global_coherence(x, y, domain)


@pytest.mark.usefixtures("float64")
def test_global_coherence_sees_shuffled_halves_and_patches_do_not():
    domain = Box(2)
    noise = GaussianRandomField(domain, Matern(1.0, 0.3))
    x, y = (noise.sample((512, 1, 32, 32)) for _ in range(2))
    shuffled = torch.cat([x[:, :, :16], x.roll(1, 0)[:, :, 16:]], dim=2)
    assert metrics.global_coherence(shuffled, y, domain) > 2 * metrics.global_coherence(x, y, domain)
    assert metrics.patch_distance(shuffled, y) < 0.1 * metrics.patch_distance(x.flip(0) * 1.5, y) + 0.5


def test_discretization_error_is_zero_for_an_operator_and_not_for_pixels():
    domain = Torus(2)
    field = GaussianRandomField(domain, Matern(4.0, 0.5)).sample(
        (1, 2, 64, 64), generator=torch.Generator().manual_seed(0)
    )
    field = domain.resample(field, (16, 16))
    shapes = [(32, 32), (64, 64), (45, 33)]
    layer = SpectralConv(2, 2, (12, 12))
    spectral = metrics.discretization_error(layer, lambda s: domain.resample(field, s), shapes, domain)
    assert max(spectral) < 1e-5
    net = DFU.tiny(2, 2, domain=domain, zero_init=False, spectral_levels=0).eval()
    pixels = metrics.discretization_error(
        lambda x: net(x, torch.zeros(())), lambda s: domain.resample(field, s), shapes, domain
    )
    assert min(pixels) > 0.05


def test_relative_l2():
    x, y = torch.randn(3, 2, 8), torch.randn(3, 2, 8)
    expected = (x - y).flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)
    torch.testing.assert_close(metrics.relative_l2(x, y, Box(1)), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.relative_l2(torch.ones(1, 1, 8), torch.ones(1, 1, 9), Box(1)), "equal shapes"),
        (lambda: metrics.frechet_distance(torch.ones(1, 3), torch.ones(4, 3)), "N >= 2"),
        (lambda: metrics.frechet_distance(torch.ones(4, 2), torch.ones(4, 3)), "same D"),
        (
            lambda: metrics.high_band_distance(torch.ones(2, 1, 8, 8), torch.ones(2, 1, 8, 8), Box(2), (8, 8)),
            "nothing above it",
        ),
    ],
)
def test_bad_input_is_an_error_that_says_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- ensembles ----------------------------------------------------------------------------------------------------


def ensemble(count, batch, spread=1.0, bias=0.0, shape=(4, 6), channels=2):
    """Samples N(bias, spread^2) and a truth N(0, 1), all independent: errors of a mean over fields are known."""
    return spread * torch.randn(count, batch, channels, *shape) + bias, torch.randn(batch, channels, *shape)


def gaussian_crps(y, sigma=1.0):
    """CRPS of N(0, sigma^2) at y, in closed form."""
    z = y / sigma
    density = (-0.5 * z.square()).exp() / math.sqrt(2 * math.pi)
    return sigma * (z * torch.erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))


def assert_mean(values, expected, deviations=4.5):
    """The mean over independent fields, within standard errors."""
    error = float(values.std() / math.sqrt(len(values)))
    assert float(values.mean()) == pytest.approx(float(expected), abs=deviations * error)


DOMAIN = Box(2)


@pytest.mark.usefixtures("float64")
class TestCrps:
    @pytest.mark.parametrize("count", [2, 5, 16])
    @pytest.mark.parametrize("sigma", [0.5, 1.0])
    def test_is_that_of_the_gaussian_whatever_the_number_of_samples(self, count, sigma):
        samples, y = ensemble(count, 1500, sigma)
        expected = gaussian_crps(y, sigma).mean((1, 2, 3))
        assert_mean(metrics.crps(samples, y, DOMAIN) - expected, 0.0)

    def test_is_the_double_sum_over_pairs(self):
        samples, y = ensemble(7, 3)
        pairs = (samples[:, None] - samples[None]).abs().sum((0, 1)) / (2 * 7 * 6)
        expected = ((samples - y).abs().mean(0) - pairs).mean((1, 2, 3))
        torch.testing.assert_close(metrics.crps(samples, y, DOMAIN), expected)

    def test_is_least_for_the_law_of_the_truth(self):
        wrong = [(0.5, 0.0), (2.0, 0.0), (1.0, 0.5)]
        scores = [metrics.crps(*ensemble(4, 1500, spread, bias), DOMAIN) for spread, bias in wrong]
        right = metrics.crps(*ensemble(4, 1500), DOMAIN)
        assert_mean(right, 1 / math.sqrt(math.pi))
        assert min(float(s.mean()) for s in scores) > float(right.mean()) + 0.02


@pytest.mark.usefixtures("float64")
class TestEnergyScore:
    @pytest.mark.parametrize("count", [2, 6])
    def test_is_that_of_the_gaussian_whatever_the_number_of_samples(self, count):
        # |x - y| is sqrt(2 / points) times a chi of D = channels * points degrees, and the score half its mean.
        samples, y = ensemble(count, 1500, shape=(3, 2), channels=2)
        chi = math.sqrt(2) * math.gamma(6.5) / math.gamma(6.0)
        assert_mean(metrics.energy_score(samples, y, DOMAIN), math.sqrt(2 / 6) * chi / 2)

    def test_is_the_crps_of_a_single_number(self):
        samples, y = ensemble(5, 4, shape=(1, 1), channels=1)
        torch.testing.assert_close(metrics.energy_score(samples, y, DOMAIN), metrics.crps(samples, y, DOMAIN))

    def test_sees_correlations_that_the_crps_does_not(self):
        line, common = Box(1), torch.randn(8, 2000, 1, 1).expand(-1, -1, -1, 6)
        y = torch.randn(2000, 1, 1).expand(-1, -1, 6)
        apart = torch.randn(8, 2000, 1, 6)
        assert_mean(metrics.crps(apart, y, line) - metrics.crps(common, y, line), 0.0)
        assert float((metrics.energy_score(apart, y, line) - metrics.energy_score(common, y, line)).mean()) > 0.03

    def test_uses_the_norm_of_the_domain(self):
        samples, y = ensemble(3, 4)
        pairs = sum(DOMAIN.norm(samples[i] - samples[j]) for i, j in [(0, 1), (0, 2), (1, 2)])
        expected = sum(DOMAIN.norm(x - y) for x in samples) / 3 - pairs / 6
        torch.testing.assert_close(metrics.energy_score(samples, y, DOMAIN), expected)


class TestCoverage:
    @pytest.mark.parametrize(
        ("count", "level", "nominal"),
        [(16, 0.9, 15 / 17), (19, 0.9, 0.9), (4, 0.5, 0.6), (99, 0.5, 0.5), (2, 0.3, 1 / 3)],
    )
    def test_of_exchangeable_samples_is_nominal(self, count, level, nominal):
        got, observed = metrics.coverage(*ensemble(count, 800), DOMAIN, level)
        assert got == pytest.approx(nominal)
        assert_mean(observed, nominal)

    @pytest.mark.parametrize(("spread", "sign"), [(0.7, -1), (1.4, 1)])
    def test_of_samples_too_close_or_too_far_apart_is_off(self, spread, sign):
        nominal, observed = metrics.coverage(*ensemble(16, 800, spread), DOMAIN)
        assert sign * (float(observed.mean()) - nominal) > 0.03

    def test_of_values_that_tie_is_nominal_too(self):
        samples, y = (v.round() for v in ensemble(19, 800))
        nominal, observed = metrics.coverage(samples, y, DOMAIN, 0.8)
        assert_mean(observed, nominal)

    def test_is_the_share_of_the_area(self):
        samples = torch.arange(1.0, 20).reshape(19, 1, 1, 1, 1).expand(-1, 1, 1, 1, 4)
        y = torch.tensor([0.5, 1.5, 18.5, 19.5]).reshape(1, 1, 1, 4)  # outside, inside, inside, outside
        assert float(metrics.coverage(samples, y, DOMAIN)[1]) == 0.5


class TestRankHistogram:
    @pytest.mark.parametrize("rounded", [False, True])
    def test_of_exchangeable_samples_is_flat(self, rounded):
        samples, y = ensemble(9, 400)
        samples, y = (samples.round(), y.round()) if rounded else (samples, y)
        counts = metrics.rank_histogram(samples, y, DOMAIN) * y.numel()
        expected = y.numel() / 10
        assert (counts.shape, round(float(counts.sum()), 1)) == ((10,), y.numel())
        assert (
            float(((counts - expected).square() / expected).sum()) < 30
        )  # chi^2 of 9 degrees: 0.04 per cent are above

    @pytest.mark.parametrize(("spread", "sign"), [(0.7, 1), (1.4, -1)])
    def test_shows_the_spread_by_its_ends(self, spread, sign):
        counts = metrics.rank_histogram(*ensemble(9, 400, spread), DOMAIN)
        ends, middle = counts[[0, 9]].mean(), counts[3:7].mean()
        assert sign * float(ends / middle - 1) > 0.2

    def test_shows_a_bias_by_its_slope(self):
        counts = metrics.rank_histogram(*ensemble(9, 400, bias=0.3), DOMAIN)
        assert float(counts[0]) > 1.5 * float(counts[9])

    def test_a_point_counts_by_its_area(self):
        domain = Sphere()
        y, samples = torch.zeros(1, 1, 16, 32), torch.full((3, 1, 1, 16, 32), -1.0)
        samples[..., [0, -1], :] = 1.0  # above the truth in the rows of the poles alone
        shares = metrics.rank_histogram(samples, y, domain)
        area = float(domain.weights((16, 32))[[0, -1]].sum())
        assert shares.tolist() == pytest.approx([area, 0, 0, 1 - area]) and area < 0.03

    def test_counts_by_hand_and_repeats_with_a_generator(self):
        samples = torch.tensor([1.0, 2.0, 2.0]).reshape(3, 1, 1, 1).expand(-1, 1, 1, 300)
        y = torch.tensor([0.0, 3.0, 2.0]).repeat(100).reshape(1, 1, 300)
        first, again = (
            300 * metrics.rank_histogram(samples, y, Box(1), generator=torch.Generator().manual_seed(5))
            for _ in range(2)
        )
        assert torch.equal(first, again)
        first = first.round().int()
        assert int(first[0]) == 100
        assert (int(first[1:].sum()), int(first[1]) + int(first[2])) == (200, 200 - int(first[3]))
        assert 15 < int(first[1:3].min()) <= int(first[1:3].max()) < 55


SCORES = {
    "relative_l2": lambda samples, y, mask: metrics.relative_l2(samples[0], y, DOMAIN, mask=mask),
    "crps": lambda samples, y, mask: metrics.crps(samples, y, DOMAIN, mask=mask),
    "energy_score": lambda samples, y, mask: metrics.energy_score(samples, y, DOMAIN, mask=mask),
    "coverage": lambda samples, y, mask: metrics.coverage(samples, y, DOMAIN, 0.5, mask=mask)[1],
    "rank_histogram": lambda samples, y, mask: metrics.rank_histogram(samples, y, DOMAIN, mask=mask),
}


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
class TestMasks:
    @pytest.mark.parametrize("garbage", [1e6, float("nan"), float("inf")])
    @pytest.mark.parametrize("channels", [1, 2])
    def test_what_was_not_measured_counts_for_nothing(self, score, garbage, channels):
        samples, y = ensemble(6, 3)
        mask = (torch.rand(3, channels, 4, 6) < 0.6).float()
        spoilt = torch.where(mask > 0, 0.0, garbage)
        torch.testing.assert_close(
            score(samples + spoilt, y - spoilt, mask.bool()), score(samples, y, mask), rtol=0, atol=0
        )

    def test_a_mask_of_half_the_box_is_the_score_of_that_half(self, score):
        samples, y = ensemble(6, 3)
        mask = torch.zeros(3, 1, 4, 6)
        mask[..., :3] = 1
        torch.testing.assert_close(score(samples, y, mask), score(samples[..., :3], y[..., :3], None))

    def test_a_mask_of_everything_changes_nothing(self, score):
        samples, y = ensemble(6, 3)
        torch.testing.assert_close(score(samples, y, torch.ones(3, 1, 4, 6)), score(samples, y, None))

    @pytest.mark.parametrize("mask", [torch.ones(3, 4, 6), torch.ones(1, 1, 4, 6), torch.full((3, 1, 4, 6), 0.5)])
    def test_a_mask_that_does_not_fit_is_refused(self, score, mask):
        samples, y = ensemble(6, 3)
        with pytest.raises(ValueError, match="expected a mask of 1 and 0, or booleans, "):
            score(samples, y, mask)


# ---- rough surfaces -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("float64")
class TestSlopes:
    def test_of_a_plane_is_its_gradient(self):
        domain = Box(2, (300.0, 500.0))
        y, x = domain.points((12, 20))
        mean, quantiles = metrics.slope_statistics(torch.stack([0.3 * x + 0.4 * y, 0.6 * x])[:, None], domain)
        torch.testing.assert_close(mean, torch.tensor([0.5, 0.6]))
        torch.testing.assert_close(quantiles, torch.tensor([0.5, 0.6])[:, None].expand(2, 3))

    def test_of_a_wave_is_that_of_central_differences(self):
        domain = Torus(1, (2.0,))
        x = (torch.pi * domain.points((64,))).sin()[None]
        mean, quantiles = metrics.slope_statistics(x, domain, (0.0, 1.0))
        peak = torch.pi * math.sin(torch.pi / 32) / (torch.pi / 32)
        torch.testing.assert_close(quantiles, torch.tensor([[0.0, peak]]), atol=1e-12, rtol=1e-12)
        assert float(mean) == pytest.approx(2 / torch.pi * peak, rel=1e-2)

    @pytest.mark.parametrize(("domain", "shape"), [(Torus(2), (64, 64)), (Box(2, (2.0, 1.0)), (96, 48))], ids=str)
    @pytest.mark.parametrize("power", [2.0, 3.5])
    def test_spectral_slope_is_that_of_the_field(self, domain, shape, power):
        noise = domain.white((40, 1), shape)
        k = domain.eigenvalues(shape).sqrt()
        x = domain.synthesize(noise * torch.where(k > 0, k.clamp(min=1e-9) ** (-power / 2), 0.0), shape)
        slope = metrics.spectral_slope(x, domain, band=(2.0, 16.0))
        assert slope == pytest.approx(-power, abs=0.06)

    def test_spectral_slope_reads_the_band_alone(self):
        domain = Torus(2)
        k = domain.eigenvalues((64, 64)).sqrt() / (2 * torch.pi)
        gain = torch.where(k < 8.5, k.clamp(min=1) ** -0.5, 17 * k.clamp(min=1) ** -2)
        x = domain.synthesize(domain.white((40, 1), (64, 64)) * gain, (64, 64))
        assert metrics.spectral_slope(x, domain, band=(2, 8)) == pytest.approx(-1, abs=0.1)
        assert metrics.spectral_slope(x, domain, band=(10, 30)) == pytest.approx(-4, abs=0.1)


ONES = torch.ones(5, 2, 1, 4, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.crps(ONES, ONES, DOMAIN), "crps: expected samples"),
        (lambda: metrics.energy_score(ONES[:1], ONES[0], DOMAIN), "S >= 2"),
        (lambda: metrics.crps(ONES * torch.nan, ONES[0], DOMAIN), "crps: expected finite values"),
        (lambda: metrics.rank_histogram(ONES, ONES[0] * torch.inf, DOMAIN), "expected finite values"),
        (lambda: metrics.crps(ONES, ONES[0], DOMAIN, mask=torch.zeros(2, 1, 4, 4)), "some of them measured"),
        (lambda: metrics.coverage(ONES, ONES[0], DOMAIN, 0.95), "0.333 to 0.667, got 0.95; draw more samples"),
        (lambda: metrics.coverage(ONES, ONES[0], DOMAIN, 0.01), "got 0.01"),
        (lambda: metrics.slope_statistics(torch.ones(1, 1, 1, 8), DOMAIN), "two points or more along axis 0"),
        (lambda: metrics.spectral_slope(torch.randn(1, 1, 8, 8), DOMAIN, band=(1.0, 1.5)), "got 2 in"),
        (lambda: metrics.spectral_slope(torch.zeros(1, 1, 8, 8), DOMAIN, band=(1.0, 3.0)), "all with power"),
    ],
)
def test_bad_ensembles_and_bands_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
