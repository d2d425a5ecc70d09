"""What every scaling promises, and the loss of the best linear estimate."""

from __future__ import annotations

import math

import pytest
import torch
from parts import NOISES, SCALINGS
from torch import nn

from fnodiff import Model
from fnodiff.domain import Box, Product, Sphere, Torus
from fnodiff.sde import (
    EDM,
    VP,
    DenoisingLoss,
    EDMScaling,
    FunctionSpaceSDE,
    GaussianRandomField,
    Matern,
    PixelNoise,
    Scaling,
    SpectralScaling,
)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("schedule", [EDM(), VP()], ids=str)
@pytest.mark.parametrize("noise", [NOISES[0], NOISES[3]])
@pytest.mark.parametrize("make", SCALINGS)
@pytest.mark.parametrize("domain", [Torus(1), Box(2), Product([Torus(1), Box(1)]), Sphere()], ids=str)
class TestScaling:
    def setup(self, domain, make, noise, schedule) -> tuple[Scaling, tuple[int, ...], Matern, FunctionSpaceSDE]:
        shape = (10, 19) if isinstance(domain, Sphere) else (9, 8)[: domain.dim]
        return make(shape), shape, Matern(1.0, 0.3), FunctionSpaceSDE(noise(domain), schedule)

    def test_shapes_and_channels(self, domain, make, noise, schedule):
        scaling, shape, spectrum, sde = self.setup(domain, make, noise, schedule)
        scaled = scaling(sde, spectrum, torch.randn(3, 2, *shape), torch.tensor(0.4))
        assert scaled.input.shape == (3, scaling.inputs(2), *shape)
        assert scaled.noise_level.shape == (3,)
        assert scaled.skip.shape == scaled.out(torch.randn(3, 2, *shape)).shape == (3, 2, *shape)

    def test_loss_weight_makes_the_networks_errors_count_alike(self, domain, make, noise, schedule):
        # An error of variance one at a point of the reference grid, the same in every mode, at every noise level.
        scaling, shape, spectrum, sde = self.setup(domain, make, noise, schedule)
        error = torch.ones(1, 1, *domain.coefficient_shape(shape), dtype=domain.white((1, 1), shape).dtype)
        error = domain.synthesize(error, shape)
        x_t, t = torch.zeros(5, 1, *shape), torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0])
        out = scaling(sde, spectrum, x_t, t).out((error / domain.norm(error)).expand_as(x_t))
        weight = scaling.loss_weight(sde, spectrum, t, shape)
        torch.testing.assert_close(domain.norm(out).square() * weight, torch.ones(5))

    def test_noise_law_is_within_the_schedule(self, domain, make, noise, schedule):
        scaling, _, spectrum, sde = self.setup(domain, make, noise, schedule)
        mean, std = scaling.noise_law(sde, spectrum)
        low, high = schedule.ratio(torch.tensor([0.0, 1.0])).log()
        assert float(low) < mean < float(high)
        assert std > 0.9  # a mode alone turns from noise to data within pi / sqrt(12)


class Zero(nn.Module):
    """A network that returns zero."""

    def forward(self, x, noise_level):
        return torch.zeros_like(x)


class ExactlyLinear(nn.Module):
    """What a network under EDM's scalars must return for the linear estimate, which it is given, to be the result."""

    def __init__(self, sigma_data):
        super().__init__()
        self.sigma_data = sigma_data

    def forward(self, x, noise_level):
        y, estimate = x.chunk(2, dim=1)  # c_in y, G x_t / sd
        s, sd = (4 * noise_level).exp().reshape(-1, *(1,) * (x.ndim - 1)), self.sigma_data
        return (estimate * (s.square() + sd**2).sqrt() - sd * y) / s


LINEAR = [
    lambda shape: (Zero(), SpectralScaling(shape, None)),
    lambda shape: (ExactlyLinear(0.7), EDMScaling(0.7, linear_estimate=True)),
]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("make", [NOISES[0], NOISES[3], PixelNoise])
@pytest.mark.parametrize("model", LINEAR)
@pytest.mark.parametrize(
    ("domain", "shape"), [(Torus(1), (15,)), (Box(2), (5, 8)), (Product([Torus(1), Box(1)]), (5, 8))], ids=str
)
def test_the_linear_loss_is_that_of_the_exact_linear_estimator(domain, shape, model, make):
    data, count = GaussianRandomField(domain, Matern(1.0, 0.3)), 8000
    network, scaling = model(shape)
    spectrum = lambda eigenvalues, dim: data.std(eigenvalues).square()  # noqa: E731
    loss = DenoisingLoss(Model(network, FunctionSpaceSDE(make(domain), EDM()), scaling, spectrum=spectrum))
    values = loss(data.sample((count, 1, *shape)))
    assert float(values.mean()) == pytest.approx(loss.linear(shape), abs=4 * float(values.std()) / math.sqrt(count))
