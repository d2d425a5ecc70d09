"""deepinv's blur, inpainting and Radon transform as observations: the posterior of a Gaussian prior is the exact one."""

from __future__ import annotations

import pytest
import torch

from fnodiff import EDM, Box, DPMSolver, FunctionSpaceSDE, GaussianRandomField, Matern, WhiteNoise, sample
from fnodiff.inverse import DPS, DeepinvObservation, MomentMatching
from fnodiff.sde import GaussianDenoiser

SIZE, NOISE = (1, 12, 12), 0.05
DOMAIN = Box(2)
PRIOR = GaussianRandomField(DOMAIN, Matern(1.0, 0.3))
DENOISER = GaussianDenoiser(PRIOR, FunctionSpaceSDE(WhiteNoise(DOMAIN, (12, 12)), EDM()))


@pytest.fixture(scope="module")
def physics():
    """Each by its name, on 12 x 12 pixels."""
    deepinv = pytest.importorskip("deepinv").physics
    noise = deepinv.GaussianNoise(NOISE)
    mask = (torch.rand(SIZE, generator=torch.Generator().manual_seed(1)) < 0.5).double()
    gaussian = pytest.importorskip("deepinv.physics.functional.blur").gaussian_blur
    made = {
        "blur": deepinv.BlurFFT(SIZE, filter=gaussian(sigma=(1.5, 1.0)), noise_model=noise),
        "valid blur": deepinv.Blur(filter=gaussian(sigma=(0.5, 0.5)), noise_model=noise),
        "inpainting": deepinv.Inpainting(SIZE, mask=mask, noise_model=noise),
        "Radon": deepinv.Tomography(6, 12, normalize=False, noise_model=noise),
    }
    return {name: one.double() for name, one in made.items()}


KINDS = ["blur", "valid blur", "inpainting", "Radon"]


def measured(physics, seed=0):
    """A picture in [-1, 1], and what is measured of it."""
    x = PRIOR.sample((1, *SIZE), generator=torch.Generator().manual_seed(seed)).double()
    clean = physics.A(x / 2 + 0.5)
    return x, clean + NOISE * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_the_difference_is_that_of_the_physics(physics, kind):
    x, y = measured(physics[kind])
    seen = DeepinvObservation(physics[kind], y, img_size=SIZE)
    found = seen(x, DOMAIN)
    torch.testing.assert_close(seen.targets(found) - found, y - physics[kind].A(x / 2 + 0.5))
    assert float(seen.noise_std) == pytest.approx(NOISE) and seen.linear


@pytest.mark.parametrize("kind", KINDS)
def test_the_posterior_mean_is_exact(physics, kind):
    _, y = measured(physics[kind])
    seen = DeepinvObservation(physics[kind], y, img_size=SIZE)
    guided = MomentMatching(DENOISER.double(), seen, iterations=400, tolerance=1e-8)
    one = torch.ones((), dtype=torch.float64)
    found = guided(torch.zeros(1, *SIZE, dtype=torch.float64), one)  # pure noise says nothing of x
    units = torch.eye(144, dtype=torch.float64).reshape(144, *SIZE)
    grey = torch.full((1, *SIZE), 0.5, dtype=torch.float64)
    matrix = (physics[kind].A(0.5 * units)).flatten(1).T
    weights = DOMAIN.weights((12, 12), dtype=torch.float64)
    covariance = DOMAIN.filter(units / weights, lambda k: PRIOR.std(k).square()).flatten(1)
    gain = covariance @ matrix.T @ torch.linalg.inv(matrix @ covariance @ matrix.T + NOISE**2 * torch.eye(len(matrix)))
    exact = gain @ (y - physics[kind].A(grey)).flatten()
    assert float((found.flatten() - exact).norm() / exact.norm()) < 2e-3


def test_samples_on_a_finer_grid_fit(physics):
    _, y = measured(physics["inpainting"])
    seen = DeepinvObservation(physics["inpainting"], y)
    x = sample(MomentMatching(DENOISER, seen), (24, 24), [0], solver=DPMSolver(6))
    off = (seen(x, DOMAIN) - seen.targets(seen(x, DOMAIN)))[:, physics["inpainting"].mask[0] > 0]
    assert float(off.square().mean().sqrt()) < 2 * NOISE


@pytest.mark.parametrize("kind", ["blur", "inpainting"])
def test_its_adjoint_is_the_transpose(physics, kind):
    _, y = measured(physics[kind])
    x = torch.zeros(1, *SIZE, dtype=torch.float64, requires_grad=True)
    gradients = []
    for adjoint in (False, True):
        seen = DeepinvObservation(physics[kind], y, adjoint=adjoint)
        gradients += torch.autograd.grad((seen(x, DOMAIN) * y).sum(), x)
    torch.testing.assert_close(*gradients)


class Squared:
    """A physics that is not linear."""

    img_size = SIZE

    def A(self, x):
        return x.square()


def test_a_physics_that_is_not_linear():
    x = 0.3 * PRIOR.sample((1, *SIZE), generator=torch.Generator().manual_seed(0))
    seen = DeepinvObservation(Squared(), (x / 2 + 0.5).square(), 0.01)
    assert not seen.linear and torch.equal(seen(x, DOMAIN), seen.targets(seen(x, DOMAIN)))
    off = (seen(sample(DPS(DENOISER, seen), 12, [0], solver=DPMSolver(8)), DOMAIN) - seen.values).abs().mean()
    assert off < (seen(sample(DENOISER, 12, [0]), DOMAIN) - seen.values).abs().mean() / 2


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (torch.zeros(1, *SIZE), {}, r"noise_std=, got Squared with \(1, 12, 12\) and None"),
        (torch.zeros(1, 1, 6, 6), {"noise_std": 0.1}, r"\(1, 1, 12, 12\), got \(1, 1, 6, 6\)"),
        (torch.zeros(1, *SIZE), {"noise_std": 0.1, "adjoint": True}, "with A_adjoint for adjoint=True"),
    ],
)
def test_what_is_missing_is_named(values, options, message):
    with pytest.raises(ValueError, match=message):
        DeepinvObservation(Squared(), values, **options)
