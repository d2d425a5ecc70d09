"""Mistakes with observations and scores: what once gave numbers in silence is refused, and what is meant works."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from fnodiff import EDM, Box, FunctionSpaceSDE, GaussianRandomField, Matern, Sphere, Torus, metrics, sample
from fnodiff.equations import Burgers, NavierStokes, burgers, darcy, navier_stokes
from fnodiff.inverse import (
    DPS,
    Linear,
    MomentMatching,
    Nonlinear,
    PointObservation,
    Restriction,
    Trajectory,
    annealed,
    assimilate,
    posterior,
    smooth,
    twisted,
)
from fnodiff.metrics.running import SpectrumError
from fnodiff.sde import GaussianDenoiser, Normalization


def oracle(domain=None, **known):
    field = GaussianRandomField(domain or Box(1), Matern(1.0, 0.3))
    return GaussianDenoiser(field, FunctionSpaceSDE(field, EDM()), **known)


def each(count, points=((0.5,),)):
    """One value at one point, of so many samples."""
    return PointObservation(points, torch.arange(float(count))[:, None, None], 0.1)


def velocity(scale=1.0):
    return scale * burgers.initial_velocity((2, 1, 32), generator=torch.Generator().manual_seed(0))


def levels():
    return torch.randint(1, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def scored(x):
    return metrics.inception_distances(x, x, feature=lambda v: v.float().flatten(1)[:, :4])


MEAN = Linear(lambda x: x.mean((1, 2)), 3.0, 0.1)
ROW = torch.ones(2, 1, 1, 16)
NOISY = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
SMOOTH = Box(2).resample(Box(2).resample(NOISY, (8, 8)), (16, 16))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: posterior(oracle(), each(8), 8, range(4), batch=2), "each of the 4 samples, got .8, 1, 1."),
        (lambda: posterior(oracle(), each(8), 8, range(4)), "each of the 4 samples, got .8, 1, 1."),
        (lambda: posterior(oracle(), each(2), 8, range(3), batch=2), "each of the 3 samples, got .2, 1, 1."),
        (
            lambda: posterior(oracle(), Linear(lambda x: x[0, 0, :3], torch.ones(3), 0.1), 8, range(3)),
            "all change with the first",
        ),
        (
            lambda: posterior(oracle(), Linear(lambda x: x[0, 0, :3], torch.ones(3), 0.1), 8, range(2)),
            "keep the batch axis",
        ),
        (
            lambda: posterior(oracle(), Linear(lambda x: (x,), torch.ones(3), 0.1), 8, range(2)),
            "got tuple; let the function",
        ),
        (
            lambda: posterior(oracle(), Linear(lambda x: x.mean(2), 3.0, 0.1), 8, range(2)),
            r"values of shape \(1,\).* got \(\)",
        ),
        (
            lambda: posterior(oracle(Box(2)), PointObservation([[0.5, 0.2]], torch.zeros(1, 2), 0.1), 8, [0]),
            "stored one per row",
        ),
        (
            lambda: posterior(oracle(Sphere()), PointObservation([[0.5]], torch.zeros(1, 1), 0.1), 8, [0]),
            "stored one per row",
        ),
        (lambda: posterior(oracle(Box(2)), Restriction((4,), torch.zeros(1, 4), 0.1), 8, [0]), "one for each axis"),
        (lambda: PointObservation(torch.zeros(2, 0), torch.zeros(1, 0), 0.1), "sample the model alone"),
        (lambda: posterior(oracle(), MEAN, 8, [0], method=MomentMatching(oracle(), MEAN)), "pass the class"),
        (lambda: assimilate(oracle(), [MEAN], 8, [0], field=torch.zeros(1, 1, 8)), "as start=, got field="),
        (lambda: annealed(oracle(), PointObservation([[0.5, 0.5]], torch.zeros(1, 2), 1e-9), 8, [0]), "join sensors"),
        (lambda: burgers.solve(velocity(), 0.5, 1e-3, dt=0.2), "blew up before time 0.5; pass a smaller dt than 0.2"),
        (lambda: burgers.solve(velocity().float(), 0.5, 1e-3, dt=0.2), "blew up"),
        (lambda: Burgers(8, fine=64, dt=0.2).batch([1], (32,)), "blew up"),
        (lambda: Burgers(8, fine=64, dt=0.2).batch([5], (32,)), "blew up"),
        (lambda: navier_stokes.solve(torch.randn(1, 1, 16, 16) * 300, 1.0, 1e-3, dt=0.5), "blew up"),
        (lambda: darcy.residual(ROW.expand(2, 1, 16, 16), ROW.expand(2, 1, 16, 16), 0.0), "not zero everywhere"),
        (lambda: scored(levels()), "levels / 127.5 - 1"),
        (lambda: scored(levels().float()), "levels / 127.5 - 1"),
        (lambda: scored(levels() / 127.5 - 1 + torch.tensor(torch.nan)), "finite images"),
        (lambda: metrics.high_band_distance(NOISY, SMOOTH, Box(2), (8, 8)), "got none; they may have been resampled"),
        (lambda: metrics.high_band_distance(NOISY, 0 * NOISY, Box(2), (8, 8)), "got none"),
        (lambda: metrics.spectrum_error(ROW, ROW, Box(2)), "on a finer one"),
        (lambda: metrics.radial_spectrum(torch.randn(2, 1, 2, 2), Torus(2)), "take a finer one"),
        (lambda: metrics.spectral_slope(ROW, Box(2), band=(0.0, 3.0)), "on a finer one"),
        (lambda: sample(oracle(), 8, [0, 1], label=[[0.5, 0.9, 3.0], [1.0, 0.0, 0.0]]), "sum to one"),
        (lambda: sample(oracle(), 8, [0], label=[-0.5, 1.5, 0.0]), "sum to one"),
        (lambda: sample(oracle(), 8, [0], label=torch.zeros(3)), "sum to one"),
    ],
)
def test_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_as_many_observations_as_seeds_in_any_batches():
    x = posterior(oracle(), each(5), 8, range(5), batch=2)
    torch.testing.assert_close(x, posterior(oracle(), each(5), 8, range(5)), rtol=1e-4, atol=1e-4)
    values = Box(1).evaluate(x, torch.tensor([[0.5]]))[:, 0, 0]
    assert (values - torch.arange(5.0)).abs().max() < 0.6
    assert posterior(oracle(), each(1), 8, range(3), batch=2).shape == (3, 1, 8)


@pytest.mark.parametrize("method", [posterior, annealed, twisted], ids=["posterior", "annealed", "twisted"])
def test_one_number_of_each_sample(method):
    x = method(oracle(), MEAN, 8, range(4))
    assert x.mean((1, 2)).tolist() == pytest.approx([3.0] * 4, abs=0.7)
    if method is not twisted:
        bent = method(oracle(), Nonlinear(lambda x: x.mean((1, 2)) ** 3, 27.0, 1.0), 8, range(2))
        assert bent.mean((1, 2)).tolist() == pytest.approx([3.0] * 2, abs=0.7)


def test_what_a_function_knows_of_each_sample_is_no_lost_axis():
    """One value of each, weighed by something of each."""
    weight = torch.rand(3, 1, 8, generator=torch.Generator().manual_seed(0))
    own = Nonlinear(lambda x: (x * weight).mean((1, 2)), torch.tensor([1.0, 0.0, -1.0]), 0.05)
    x = posterior(oracle(), own, 8, range(3), method=MomentMatching)
    assert (x * weight).mean((1, 2)).tolist() == pytest.approx([1, 0, -1], abs=0.3)


class Weighed(PointObservation):
    """A subclass that cuts its own values."""

    def rows(self, part):
        new = copy.copy(self)
        new.values = self.values[part]
        return new


def test_a_subclass_may_cut_its_values_itself():
    seen = Weighed([[0.5]], torch.arange(4.0)[:, None, None], 0.1)
    assert posterior(oracle(), seen, 8, range(4), batch=2).shape == (4, 1, 8)


def test_one_number_of_each_member_in_time():
    cubed = Nonlinear(lambda x: x.mean((1, 2)) ** 3, 27.0, 1.0)
    x = assimilate(oracle(), [MEAN, cubed], 8, range(3))
    assert (x.mean((2, 3)) - 3).abs().max() < 0.7
    own = Linear(lambda x: x.mean((1, 2)), torch.tensor([3.0, -3.0]), 0.1)
    assert assimilate(oracle(), [own], 8, range(2))[0].mean((1, 2)).tolist() == pytest.approx([3, -3], abs=0.7)


def test_units_that_need_float64():
    """101,325 Pa and a few: the difference is below float32's rounding of a square."""
    air = oracle(normalization=Normalization(101325.0, 10.0))
    seen = Nonlinear(lambda x: (x / 1e5)[..., 4] ** 2, torch.tensor([1.0266]), 1e-5)
    wanted = 1e5 * 1.0266**0.5
    assert float(posterior(air, seen, 8, [0], method=MomentMatching)[0, 0, 4]) == pytest.approx(wanted, abs=4)
    assert float(assimilate(air, [seen], 8, [0])[0, 0, 0, 4]) == pytest.approx(wanted, abs=4)


@pytest.mark.parametrize("method", [MomentMatching, DPS])
def test_an_adjoint_at_one_time_and_a_function_at_another(method):
    pad = torch.nn.functional.pad
    given = Linear(lambda x: x[..., 4], torch.tensor([1.0]), 0.1, adjoint=lambda y, s: pad(y[..., None], (4, s[0] - 5)))
    cubed = Nonlinear(lambda x: x[..., 4] ** 3, torch.tensor([1.0]), 0.1)
    x = smooth(Trajectory(oracle(), 3), [given, None, cubed], 8, range(2), method=method)
    assert (x[[0, 2], :, 0, 4] - 1).abs().max() < (0.4 if method is MomentMatching else 1.5)  # DPS is coarse


def test_a_refused_update_leaves_the_score():
    score = SpectrumError(Box(2), 16)
    score.update(NOISY, NOISY.roll(1, 0) * 1.1)
    before = float(score.compute())
    with pytest.raises(ValueError, match="resample them"):
        score.update(100 * NOISY, NOISY[..., :8])
    assert float(score.compute()) == before > 0


def test_lists_of_ints_as_grids():
    def wave(shape):
        return (2 * torch.pi * Torus(1).points(shape)[None]).sin()

    assert metrics.discretization_error(torch.square, wave, [16, 32], Torus(1)) == pytest.approx([0], abs=1e-5)
    assert darcy.positive(np.array([1.0, 5.0]), np.float32(3)).tolist() == pytest.approx([1.8, 5])


def test_fast_velocities_take_shorter_steps():
    """By default, whatever the scale."""
    x = Burgers(3, scale=3.0, fine=128).batch(range(3), (32,))["x"]
    finer = Burgers(3, scale=3.0, fine=128, dt=2e-4).batch(range(3), (32,))["x"]
    torch.testing.assert_close(x, finer, rtol=1e-3, atol=1e-3)
    assert NavierStokes(1).condition_channels == 1 and NavierStokes(1, target="initial").condition_channels == 0
