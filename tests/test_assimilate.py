"""Assimilation against Kalman's filter and smoother, of linear Gaussian dynamics with an exact denoiser."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fnodiff import EDM, DPMSolver, FunctionSpaceSDE, GaussianRandomField, Matern, Torus
from fnodiff.inverse import PointObservation, Trajectory, annealed, assimilate, smooth
from fnodiff.sde import ChannelSpectra, EvenLogSNR, GaussianDenoiser, Normalization
from fnodiff.sde.spectrum import linear_estimate

CIRCLE, N, KEPT, ERRORS = Torus(1), 5, 0.7, 0.4  # an odd grid has no Nyquist mode
LAW = GaussianRandomField(CIRCLE, Matern(1.0, 0.3))
SDE = FunctionSpaceSDE(LAW, EDM(0.01, 50.0))
F64 = {"dtype": torch.float64}
POINTS = torch.tensor([[0.1, 0.55]])
VALUES = torch.tensor([[1.0, -0.5], [1.5, 0.0], [-0.3, 0.8]])
SEEN = [PointObservation(POINTS, value[None], ERRORS) for value in VALUES]
MANY = 200
SOLVER = {"solver": DPMSolver(8, EvenLogSNR()), "batch": MANY}


class Chain(GaussianDenoiser):
    """Exact for windows of x_{t+1} = KEPT x_t + sqrt(1 - KEPT^2) e, e ~ LAW: the stationary law, or given the state before."""

    def __init__(self, states: int, **known) -> None:
        super().__init__(LAW, SDE, channels=states, **known)
        times = torch.arange(1, states + 1)
        self.powers = KEPT ** times.double()
        self.stationary = KEPT ** (times - times[:, None]).abs().double()

    def forward(self, x_t: Tensor, t: Tensor, field: Tensor | None = None) -> Tensor:
        covariance, mean = self.stationary, torch.zeros(1, 1, 1)
        if field is not None:  # of the window given x_s
            covariance = covariance - self.powers[:, None] * self.powers
            mean = self.powers.to(x_t)[:, None] * CIRCLE.resample(field, x_t.shape[2:])
        values, vectors = torch.linalg.eigh(covariance)
        rotated = torch.einsum("ij,bin->bjn", vectors.to(x_t), x_t - self.sde.marginal(x_t, t)[0] * mean)
        parts = [
            linear_estimate(self.sde, lambda e, dim, v=v: v * LAW.std(e).square(), rotated[:, [i]], t)
            for i, v in enumerate(values)
        ]
        return mean + torch.einsum("ij,bjn->bin", vectors.to(x_t), torch.cat(parts, 1))


def fields(count: int, seed: int = 0) -> Tensor:
    return LAW.sample((count, 1, N), generator=torch.Generator().manual_seed(seed))


def matrices() -> tuple[Tensor, Tensor]:
    """The law's covariance on the grid, and the sensors' rows."""
    unit = torch.eye(N, **F64)[:, None]
    return CIRCLE.filter(N * unit, lambda e: LAW.std(e).square())[:, 0], CIRCLE.evaluate(unit, POINTS)[:, 0].T


def update(mean: Tensor, p: Tensor, value: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Kalman's: mean and covariance given a value."""
    gain = p @ h.T @ torch.linalg.inv(h @ p @ h.T + ERRORS**2 * torch.eye(len(h), **F64))
    return mean + gain @ (value.double() - h @ mean), p - gain @ h @ p


def kalman(mean: Tensor, p: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The filter's means and covariances at the times of VALUES, from those at time 0."""
    (s, h), found = matrices(), []
    for value in VALUES:
        mean, p = update(KEPT * mean, KEPT**2 * p + (1 - KEPT**2) * s, value, h)
        found.append((mean, p))
    return found


def agrees(x: Tensor, mean: Tensor, p: Tensor) -> None:
    """Members (M, 1, N) have this mean and covariance, to 3.5 standard errors, and 2% for the sampler's steps."""
    x, std = x[:, 0].double(), p.diagonal().sqrt()
    assert float(((x.mean(0) - mean) / std).abs().max()) < 3.5 / len(x) ** 0.5 + 0.02
    assert float(((x.T.cov() - p) / (std[:, None] * std)).abs().max()) < 3.5 * (2 / len(x)) ** 0.5 + 0.02


def test_windows_from_the_first_time_are_kalmans_filter():
    x = assimilate(Chain(3), SEEN, N, range(MANY), states=3, **SOLVER)
    for members, exact in zip(x, kalman(torch.zeros(N, **F64), matrices()[0]), strict=True):
        agrees(members, *exact)


def test_a_known_start_is_carried_by_kalmans_filter():
    start = fields(1)
    x = assimilate(Chain(3), SEEN, N, range(MANY), states=3, start=start.expand(MANY, -1, -1), **SOLVER)
    for members, exact in zip(x, kalman(start[0, 0].double(), torch.zeros(N, N, **F64)), strict=True):
        agrees(members, *exact)


def test_members_move_by_the_state_before_them():
    """With W = 1 a member is (I - K H) KEPT x + K y plus a draw of (I - K H) Q, whose K is of Q, the noise of one step."""
    (s, h), start = matrices(), fields(MANY) + 1.0
    q = (1 - KEPT**2) * s
    mean, p = start[:, 0].mean(0).double(), start[:, 0].T.cov().double()
    for members, value in zip(assimilate(Chain(1), SEEN, N, range(MANY), start=start, **SOLVER), VALUES, strict=True):
        mean, left = update(KEPT * mean, q, value, h)
        share = left @ torch.linalg.inv(q)  # I - K H
        p = share @ (KEPT**2 * p) @ share.T + left
        agrees(members, mean, p)


def test_longer_windows_come_nearer_to_kalmans_filter():
    start, exact = fields(MANY), kalman(torch.zeros(N, **F64), matrices()[0])[-1][0]
    far = [
        float(
            (
                assimilate(Chain(w), SEEN, N, range(MANY), start=start, states=w, **SOLVER)[-1, :, 0].mean(0) - exact
            ).norm()
        )
        for w in (1, 2)
    ]
    assert far[1] < 0.6 * far[0]


def test_a_trajectory_given_all_sensors_is_the_smoother():
    (s, h), times = matrices(), torch.arange(3)
    joint = torch.kron(KEPT ** (times - times[:, None]).abs().double(), s)
    sensing = torch.block_diag(h, torch.zeros(0, N, **F64), h)
    total = sensing @ joint @ sensing.T + ERRORS**2 * torch.eye(4, **F64)
    gain = joint @ sensing.T @ torch.linalg.inv(total)
    mean, p = gain @ VALUES[[0, 2]].flatten().double(), joint - gain @ sensing @ joint
    x = smooth(Trajectory(Chain(3), 3, states=3), [SEEN[0], None, SEEN[2]], N, range(MANY), **SOLVER)
    for t, members in enumerate(x):
        own = slice(t * N, (t + 1) * N)
        agrees(members, mean[own], p[own, own])


def test_a_states_estimate_is_of_the_window_in_whose_middle_it_stands():
    x, t = torch.randn(2, 5, N, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 0.6])
    whole = Trajectory(Chain(3), length=5, states=3)(x, t)
    windows = [Chain(3)(x[:, j : j + 3], t) for j in range(3)]
    wanted = torch.cat([windows[0][:, :2], windows[1][:, 1:2], windows[2][:, 1:]], 1)
    assert torch.allclose(whole, wanted, atol=1e-6)


def test_a_trajectory_of_windows_is_exact_as_the_noise_vanishes():
    x = KEPT ** torch.arange(6)[:, None] * fields(1)[0] + 0.3 * fields(6, 2)[:, 0]
    exact, made = Chain(6), Trajectory(Chain(3), length=6, states=3)
    off = [float((made(x[None], t) - exact(x[None], t)).norm()) for t in SDE.schedule.time(torch.tensor([1.0, 0.1]))]
    assert 1e-3 < off[0] and off[1] < 0.1 * off[0]


def test_states_of_several_channels_keep_their_units():
    two = Chain(
        4, normalization=Normalization((1.0, 2.0) * 2, (3.0, 4.0) * 2), spectrum=ChannelSpectra((LAW.spectrum,) * 4)
    )
    made = Trajectory(two, length=3, states=2)
    assert made.normalization == Normalization((1.0, 2.0) * 3, (3.0, 4.0) * 3)
    assert made.channels == len(made.spectrum.channels) == 6


def test_a_time_without_sensors_is_a_forecast():
    start = 2 + fields(MANY)
    x = assimilate(Chain(1), [None], N, range(MANY), start=start, **SOLVER)
    s = matrices()[0]
    agrees(x[0], KEPT * start[:, 0].mean(0).double(), KEPT**2 * start[:, 0].T.cov().double() + (1 - KEPT**2) * s)


def test_one_seed_is_one_member_on_every_grid_and_in_every_batch():
    options, start = {"states": 2, "solver": DPMSolver(6)}, fields(3)
    coarse, fine = (assimilate(Chain(2), SEEN, n, [3, 4, 5], start=start, **options).flatten(0, 1) for n in (17, 51))
    assert float((CIRCLE.resample(fine, (17,)) - coarse).norm() / coarse.norm()) < 0.05
    x = assimilate(Chain(2), SEEN, N, [3, 4, 5], start=start, **options)
    alone = assimilate(Chain(2), SEEN, N, 4, start=start[1:2], batch=1, **options)
    assert torch.allclose(alone[:, 0], x[:, 1], atol=1e-4)
    assert not torch.allclose(x[0, 0] - start[0], x[1, 0] - x[0, 0], atol=0.1), "noise is fresh at each time"


def test_members_may_have_values_of_their_own():
    own = [PointObservation(POINTS, torch.stack([value, -value])[:, None], ERRORS) for value in VALUES[:2]]
    mixed = [SEEN[0], own[1]]
    options = {"states": 2, "solver": DPMSolver(6)}
    x, y = (assimilate(Chain(2), seen, N, [0, 1], **options) for seen in (mixed, SEEN[:2]))
    assert torch.allclose(x[:, 0], y[:, 0], atol=1e-4) and torch.allclose(x[0], y[0], atol=1e-4)
    assert float((x[1, 1] - y[1, 1]).abs().max()) > 0.1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"observations": SEEN[0]}, "expected a list of observations, one for each time"),
        ({"observations": []}, "one or more times, got none"),
        ({"observations": [SEEN[0], 3.0]}, "expected an observation or None"),
        ({"states": 3}, "expected a model of 3 states as channels, got one of 2"),
        ({"states": 0}, "expected a model of 0 states"),
        ({"method": annealed}, "expected a guided denoiser's class as method"),
        ({"start": fields(3)}, "expected start with 1 channels for each of the 2 members"),
        ({"start": fields(2) * torch.nan}, "expected finite values in start"),
        ({"observations": [PointObservation(POINTS, torch.zeros(3, 1, 2), 0.1)]}, "expected values for all members"),
        ({"observations": [PointObservation(POINTS, torch.zeros(2, 2), 0.1)]}, "expected values of shape"),
        ({"seeds": [0.5, 1.0]}, "expected seeds as whole numbers"),
        ({"denoiser": None}, "expected a Denoiser"),
    ],
)
def test_what_is_wrong_is_said(change, says):
    given = {"denoiser": Chain(2), "observations": SEEN, "shape": N, "seeds": [0, 1], "states": 2, **change}
    with pytest.raises(ValueError, match=says):
        assimilate(given.pop("denoiser"), given.pop("observations"), given.pop("shape"), given.pop("seeds"), **given)


class Rough(Chain):
    """Whose noise has a law for each channel."""

    noise = GaussianRandomField(CIRCLE, ChannelSpectra((Matern(1.0, 0.3), Matern(0.5, 0.3))))

    def __init__(self) -> None:
        super().__init__(2)
        self.sde = FunctionSpaceSDE(self.noise, EDM())


class Louder(Rough):
    """Whose noise has a size for each channel."""

    noise = GaussianRandomField(CIRCLE, Matern(1.0, 0.3), (1.0, 8.0))


@pytest.mark.parametrize(
    ("denoiser", "length", "states", "says"),
    [
        (lambda: Chain(2), 1, 2, "expected a length of 2 states or more, got 1"),
        (lambda: Chain(2), 4, 3, "expected windows of 3 states"),
        (lambda: Chain(2, normalization=Normalization((0.0, 1.0), (1.0, 1.0))), 3, 2, "expected the same mean"),
        (Rough, 3, 2, "expected one law of the noise for all states"),
        (Louder, 3, 2, "expected one law of the noise for all states"),
    ],
)
def test_what_is_no_window_is_refused(denoiser, length, states, says):
    with pytest.raises(ValueError, match=says):
        Trajectory(denoiser(), length, states)


def test_a_trajectory_takes_its_own_channels_and_no_condition():
    made = Trajectory(Chain(2), 3, states=2)
    for x, condition, says in (
        (torch.zeros(1, 2, N), {}, "expected 3 channels"),
        (torch.zeros(1, 3, N), {"field": 0}, "no condition"),
    ):
        with pytest.raises(ValueError, match=says):
            made(x, torch.tensor(0.5), **condition)
