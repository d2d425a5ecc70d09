"""Distillation to few evaluations."""

from __future__ import annotations

import copy
from unittest import mock

import pytest
import torch

from fnodiff import (
    DFU,
    EDM,
    VP,
    Box,
    EDMScaling,
    FunctionSpaceSDE,
    Matern,
    Model,
    MultiResolution,
    SpectralScaling,
    WhiteNoise,
    fit,
)
from fnodiff.data import ArrayFields
from fnodiff.domain import uniforms
from fnodiff.sde import ChannelSpectra, Given
from fnodiff.train import Adam, DistillationLoss, Logging, student_of

X = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def teacher(schedule=EDM()) -> Model:  # noqa: B008
    torch.manual_seed(0)
    sde = FunctionSpaceSDE(WhiteNoise(Box(2), (8, 8)), schedule)
    net = DFU.tiny(1, 1, zero_init=False, dropout=0.0)
    return Model(net, sde, EDMScaling(sigma_data=1.0), spectrum=Matern(1.0, 0.2))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_copy_that_takes_the_teachers_own_steps_has_no_error(level: int) -> None:
    loss = DistillationLoss(student_of(made := teacher()), made, evaluations=4, substeps=1)
    with mock.patch("fnodiff.train.distillation.uniforms", return_value=torch.tensor([level / 4 + 0.1])):
        one, other = loss(X), DistillationLoss(loss.model, made, evaluations=4, substeps=2)(X)
    assert one.max() < 1e-8 < 1e-4 < other.min()


def test_the_last_level_learns_the_end_of_the_flow() -> None:
    loss = DistillationLoss(student_of(made := teacher()), made, evaluations=1, substeps=64)
    loss.model.sde = FunctionSpaceSDE(made.sde.noise, EDM(sigma_min=0.3, sigma_max=0.31))
    with mock.patch.object(DistillationLoss, "_flow", return_value=torch.zeros_like(X)):
        error = loss(X, generator=torch.Generator().manual_seed(1))
    t, random = torch.ones(8), torch.Generator().manual_seed(1)
    uniforms(1, generator=random)  # the level's
    x_t, _ = loss.model.sde.perturb(X, t, generator=random)
    weight = loss.model.loss_weight(t, (8, 8)).reshape(8)
    torch.testing.assert_close(error, weight * loss.model(x_t, t).square().mean((1, 2, 3)), rtol=1e-5, atol=1e-6)


def test_seeded_errors_are_the_same_whatever_was_drawn_before() -> None:
    loss, found = DistillationLoss(student_of(made := teacher()), made), []
    for before in range(4):
        torch.manual_seed(before)
        found.append(loss(X, generator=[torch.Generator().manual_seed(seed) for seed in range(8)]))
    assert all(torch.equal(one, found[0]) for one in found)


def test_the_flow_ends_with_the_estimate_at_the_teachers_last_level() -> None:
    made = teacher().eval()
    loss, x = DistillationLoss(student_of(made), made, evaluations=1, substeps=1), 2.0 * X
    with torch.no_grad():
        low = 0.002 / 2 * x + (1 - 0.002 / 2) * made(x, made.sde.schedule.time(torch.tensor(2.0)))
        expected = made(low, torch.tensor(0.0))
        found = loss._flow(Given(made), x, torch.tensor(2.0, dtype=torch.float64), torch.tensor(0.0))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (found - low).abs().max() > 1e-4  # at the last level some noise is left


@pytest.mark.slow
def test_it_learns_and_leaves_the_teacher() -> None:
    made = teacher()
    before = copy.deepcopy(made.state_dict())
    student = student_of(made)
    data = MultiResolution(ArrayFields(X, domain=Box(2)), Box(2), [8], batch_size=8)
    losses: list[float] = []
    loss, quiet = (
        DistillationLoss(student, made, substeps=2),
        Logging(progress=False, callback=lambda *a: losses.append(a[2])),
    )
    fit(student, data, steps=30, loss=loss, optimizer=Adam(lr=3e-3, rampup=1), logging=quiet)
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert all(torch.equal(before[name], value) for name, value in made.state_dict().items())


def test_weights_may_be_of_each_channel() -> None:
    sde, scaling = FunctionSpaceSDE(WhiteNoise(Box(2), (8, 8)), EDM()), SpectralScaling((8, 8))
    net = DFU.tiny(scaling.inputs(2), 2, zero_init=False, dropout=0.0)
    made = Model(net, sde, scaling, spectrum=ChannelSpectra([Matern(1.0, 0.2), Matern(2.0, 0.2)]))
    assert made.loss_weight(torch.ones(3), (8, 8)).shape == (3, 2)
    with mock.patch("torch.randint", return_value=torch.tensor(1)):
        error = DistillationLoss(student_of(made), made, substeps=1)(X[:3].repeat(1, 2, 1, 1))
    assert error.shape == (3,) and error.max() < 1e-6


def test_what_cannot_be_is_said() -> None:
    made = teacher()
    with pytest.raises(ValueError, match=r"sigma_min < 0.3 < sigma_max, got VP"):
        student_of(teacher(VP()))
    with pytest.raises(ValueError, match="another model as teacher"):
        DistillationLoss(made, made)
    with pytest.raises(ValueError, match="evaluations >= 1"):
        DistillationLoss(student_of(made), made, evaluations=0)
    with pytest.raises(ValueError, match="without a mask"):
        DistillationLoss(student_of(made), made)(X, mask=torch.ones_like(X))
