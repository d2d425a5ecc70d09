"""Metrics: closed forms, limits, and what each is blind to."""

from __future__ import annotations

import pytest
import torch

from fnodiff import metrics
from fnodiff.domain import Box, Torus
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
    @pytest.mark.parametrize("domain", [Torus(1), Box(1), Torus(2), Box(2), Torus(2, (1.0, 2.0))], ids=str)
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
class TestNewBand:
    def test_limits(self):
        domain = Box(2)
        x = GaussianRandomField(domain, Matern(0.3, 0.2)).sample((64, 3, 48, 48))
        plain = domain.resample(domain.resample(x, (24, 24)), (48, 48))
        assert metrics.new_band(x, x, domain, (24, 24)) == (pytest.approx(0, abs=1e-6), pytest.approx(1))
        assert metrics.new_band(plain, x, domain, (24, 24)) == (pytest.approx(1, abs=1e-3), pytest.approx(0, abs=1e-9))
        assert metrics.new_band(2 * x, x, domain, (24, 24))[1] == pytest.approx(4)

    def test_it_is_the_only_one_that_sees_missing_detail(self):
        domain = Box(2)
        noise = GaussianRandomField(domain, Matern(1.0, 0.3))
        x, y = (noise.sample((256, 1, 48, 48)) for _ in range(2))
        plain = domain.resample(domain.resample(x, (24, 24)), (48, 48))
        assert metrics.new_band(plain, y, domain, (24, 24))[0] > 10 * metrics.new_band(x, y, domain, (24, 24))[0]
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
        (lambda: metrics.new_band(torch.ones(2, 1, 8, 8), torch.ones(2, 1, 8, 8), Box(2), (8, 8)), "no new band"),
    ],
)
def test_bad_input_is_an_error_that_says_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
