"""Burgers' equation: Cole and Hopf's solutions, fourth-order steps, what is conserved, and one truth on every grid."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.special import ive
from torch import Tensor

from fnodiff.domain import Torus
from fnodiff.equations import Burgers
from fnodiff.equations.burgers import initial_velocity, solve

CIRCLE, TAU = Torus(1), 2 * math.pi
F64 = {"dtype": torch.float64}


def points(n: int) -> Tensor:
    return CIRCLE.points((n,), **F64)[0]


def cole(x: Tensor, t: float, nu: float) -> Tensor:
    """u of u(0) = sin(tau x): -2 nu d/dx ln p of p = exp((cos(tau x) - 1) / (2 tau nu)), whose Fourier coefficients are
    modified Bessel functions, and which diffuses: dp/dt = nu d^2p/dx^2."""
    k = torch.arange(1, 200, **F64)[:, None]
    p = torch.from_numpy(ive(k.numpy(), 1 / (2 * TAU * nu))) * (-nu * (TAU * k) ** 2 * t).exp()
    constant = float(ive(0, 1 / (2 * TAU * nu)))
    return 4 * nu * TAU * (k * p * (TAU * k * x).sin()).sum(0) / (constant + 2 * (p * (TAU * k * x).cos()).sum(0))


@pytest.mark.parametrize("mean", [0.0, 0.7])
def test_a_sine_becomes_coles_shock_carried_at_the_mean_speed(mean):
    x, nu, times = points(192), 0.01, (0.0, 0.1, 0.4)  # the shock is there from 1 / tau on
    u = solve(mean + (TAU * x).sin()[None, None], 0.4, nu, save=times)[0]
    exact = torch.stack([mean + cole(x - mean * t, t, nu) for t in times])
    assert float(u[2].diff().abs().max()) > 4 * float(u[0].diff().abs().max())
    torch.testing.assert_close(u, exact, atol=2e-5, rtol=0)


def test_steps_are_of_fourth_order():
    u0, error = (TAU * points(64)).sin()[None, None], []
    exact = solve(u0, 0.2, 0.02, dt=0.2 / 1024)
    for steps in (16, 32, 64):
        error.append(float(CIRCLE.norm(solve(u0, 0.2, 0.02, dt=0.2 / steps) - exact)))
    assert all(3.6 < math.log2(a / b) < 4.4 for a, b in itertools.pairwise(error)), error


def test_the_mean_is_kept_and_the_energy_is_lost_to_the_slopes():
    """d/dt of the mean of u^2 / 2 is -nu times that of (du/dx)^2."""
    u0, small, nu = (
        0.3 + initial_velocity((3, 1, 48), generator=[torch.Generator().manual_seed(i) for i in range(3)]),
        1e-4,
        0.02,
    )
    u0 = CIRCLE.filter(u0, lambda e: e <= (TAU * 8) ** 2 + 1)  # what the solver keeps of it
    u = solve(u0, 2 * small, nu, save=(0.0, small, 2 * small))
    torch.testing.assert_close(u.mean(2), torch.full((3, 3), 0.3, **F64), atol=1e-12, rtol=0)
    energy = u.square().mean(2) / 2
    lost = nu * CIRCLE.filter(u0, lambda e: e.sqrt()).square().mean((1, 2))
    torch.testing.assert_close(
        (4 * energy[:, 1] - energy[:, 2] - 3 * energy[:, 0]) / (2 * small), -lost, rtol=1e-4, atol=0
    )


def test_the_law_is_that_of_the_paper():
    u = initial_velocity((4000, 1, 32), generator=torch.Generator().manual_seed(0), scale=2.0)
    power = CIRCLE.analyze(u).abs().square().mean((0, 1))
    k = torch.arange(1, 16, **F64)
    expected = 4 * 625 / ((TAU * k) ** 2 + 25) ** 2
    assert float(power[0]) < 1e-25 and float((power[1:] / expected - 1).abs().max()) < 5 / 4000**0.5


def test_it_is_differentiable():
    u0 = (0.5 * (TAU * points(16)).sin()[None, None]).requires_grad_()
    assert torch.autograd.gradcheck(lambda u: solve(u, 0.05, 0.05, dt=0.01), (u0,))


def test_a_sample_is_one_function_on_every_grid_in_any_batch():
    fields = Burgers(5, seed=1, viscosity=0.01, fine=128)
    coarse, fine = fields.batches([3, 0], [(32,), (128,)])
    torch.testing.assert_close(CIRCLE.resample(fine["x"], (32,)), coarse["x"])
    alone = Burgers(5, seed=1, viscosity=0.01, fine=128).batch([3], (32,))
    torch.testing.assert_close(alone["x"], coarse["x"][:1])
    torch.testing.assert_close(
        alone["field"].double(), initial_velocity((1, 1, 32), generator=fields.generator(3)), atol=1e-6, rtol=1e-5
    )
    assert Burgers(1, condition=False, fine=16).batch([0], (8,)).keys() == {"x"}


U = torch.zeros(1, 1, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: solve(U, -1.0, 0.1), "time and viscosity > 0, got -1.0"),
        (lambda: solve(U, 1.0, 0.0), "shocks need some"),
        (lambda: solve(U, 1.0, 0.1, dt=0.0), "dt > 0"),
        (lambda: solve(U.expand(1, 2, 8), 1.0, 0.1), "pass one channel"),
        (lambda: solve(U[..., :3], 1.0, 0.1), "n at least 4"),
        (lambda: solve(U + math.nan, 1.0, 0.1), "finite u0"),
        (lambda: solve(U[..., None], 1.0, 0.1), "got shape"),
        (lambda: solve(U, 1.0, 0.1, save=[0.5, 0.2]), "increasing times"),
        (lambda: solve(1e3 * initial_velocity((1, 1, 32)), 1.0, 1e-3, dt=0.1), "smaller dt than 0.1"),
        (lambda: initial_velocity((1, 1, 8), scale=0.0), "scale > 0"),
        (lambda: Burgers(1, viscosity=-1.0), "time and viscosity > 0"),
        (lambda: Burgers(1, fine=16).batch([0], (17,)), "no finer than the solver's 16"),
    ],
)
def test_mistakes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
