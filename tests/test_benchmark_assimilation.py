"""The ensemble Kalman filter against Kalman's, and the table of data assimilation."""

from __future__ import annotations

import math
import re

import pytest
import torch

from benchmarks import assimilation
from benchmarks.enkf import EnKF, distances, gaspari_cohn
from fnodiff import DFU, EDM, Box, EDMScaling, FunctionSpaceSDE, GaussianRandomField, Matern, Model, Torus
from fnodiff.inverse import PointObservation
from fnodiff.sde import Normalization

F64 = {"dtype": torch.float64}
SMALL = ["--size", "8", "--sensors", "3", "--times", "3", "--truths", "1", "--members", "3", "--large", "0"]
SMALL += ["--radii", "0.3", "--inflations", "1", "1.1", "--steps", "2", "--iterations", "1"]


def test_the_function_of_gaspari_and_cohn():
    found = gaspari_cohn(torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0], **F64))
    at_half = 1 - 5 / 12 + 5 / 64 + 1 / 32 - 1 / 128
    at_three_halves = 4 - 7.5 + 3.75 + 135 / 64 - 81 / 32 + 243 / 384 - 4 / 9
    assert torch.allclose(found, torch.tensor([1.0, at_half, 5 / 24, at_three_halves, 0.0, 0.0], **F64))


@pytest.mark.parametrize(("domain", "away"), [(Torus(2), 0.2), (Box(2), 0.8), (Torus(2, (2.0, 1.0)), 0.8)])
def test_distances_are_the_short_way(domain, away):
    a, b = torch.tensor([[0.1], [0.5]]), torch.tensor([[0.9, 0.1], [0.5, 0.9]])
    assert torch.allclose(distances(domain, a, b), torch.tensor([[away, 0.4]]))


def test_the_filter_is_kalmans():
    """x' = 0.8 x + e on a circle, two sensors, two times: to 6 standard errors, as the gain is drawn too."""
    n, many, circle = 5, 4000, Torus(1)
    law = GaussianRandomField(circle, Matern(1.0, 0.3))
    unit, points = torch.eye(n, **F64)[:, None], torch.tensor([[0.1, 0.6]])
    s = circle.filter(n * unit, lambda e: law.std(e).square())[:, 0]
    h, values = circle.evaluate(unit, points)[:, 0].T, torch.tensor([[1.0, -0.5], [0.3, 1.2]])
    mean, p = torch.zeros(n, **F64), s
    for value in values:
        mean, p = 0.8 * mean, 0.64 * p + 0.36 * s
        gain = p @ h.T @ torch.linalg.inv(h @ p @ h.T + 0.09 * torch.eye(2, **F64))
        mean, p = mean + gain @ (value - h @ mean), p - gain @ h @ p
    generator = torch.Generator().manual_seed(0)

    def draw() -> torch.Tensor:
        return law.sample((many, 1, n), generator=generator, **F64)

    seen = [PointObservation(points, value[None], 0.3) for value in values]
    x = EnKF(circle).run(draw(), seen, lambda x, t: 0.8 * x + 0.6 * draw(), generator)[-1, :, 0]
    std = p.diagonal().sqrt()
    assert float(((x.mean(0) - mean) / std).abs().max()) < 6 / many**0.5
    assert float(((x.T.cov() - p) / (std[:, None] * std)).abs().max()) < 6 * (2 / many) ** 0.5


def test_far_sensors_say_nothing_and_inflation_widens():
    x = torch.randn(6, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    seen = PointObservation(torch.tensor([[0.0], [0.0]]), torch.tensor([[3.0]]), 0.1)
    moved = EnKF(Torus(2), radius=0.1).analysis(x, seen, torch.Generator().manual_seed(1)) - x
    away = distances(Torus(2), Torus(2).points((16, 16)).flatten(1), seen.points).view(16, 16)
    assert float(moved[..., away >= 0.2].abs().max()) < 1e-6 and float(moved[..., 0, 0].abs().min()) > 0.1
    far = PointObservation(torch.tensor([[0.0], [0.0]]), torch.tensor([[0.0]]), 1e6)
    wider = EnKF(Torus(2), inflation=1.5).analysis(x, far, torch.Generator().manual_seed(1))
    assert torch.allclose(wider - wider.mean(0), 1.5 * (x - x.mean(0)), atol=1e-3)


def test_scores_by_hand():
    """Members 1 and 3 about a truth of 0 and one of 2 at two times; the truths' deviation is 1."""
    x = torch.tensor([1.0, 3.0])[:, None, None, None, None, None].expand(2, 2, 1, 1, 4, 4)
    truths = torch.tensor([0.0, 2.0])[:, None, None, None, None].repeat(1, 1, 1, 4, 4)
    unit = float(truths.std())
    found = assimilation.scores(x, truths)
    assert torch.allclose(found["error"] * unit, torch.tensor([2.0, 0.0]))
    assert torch.allclose(found["spread"] * unit, torch.tensor([2.0, 2.0]) ** 0.5)
    assert float(found["ratio"][0]) == pytest.approx(math.sqrt(1.5 * 2 / 4))
    assert torch.allclose(found["CRPS"] * unit, torch.tensor([2.0 - 1.0, 1.0 - 1.0]))


def test_members_like_the_truth_are_calibrated():
    draws = torch.randn(5, 6, 40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert float((assimilation.scores(draws[1:], draws[0])["ratio"] - 1).abs().max()) < 0.1


def test_cases_are_fixed_and_what_is_seen_is_of_the_truths():
    args = assimilation.options([*SMALL, "--truths", "2", "--every", "2"])
    case, again = (assimilation.Case.drawn(args, 2, 3, seed=7) for _ in range(2))
    assert torch.equal(case.values, again.values) and torch.equal(case.start, again.start)
    assert [one is None for one in case.seen()] == [True, False, True]
    residual = case.seen(1)[1].residual(case.seen(1)[1](case.truths[2, 1:2], Torus(2)))
    assert float(residual.abs().max()) < 4
    both = case.seen()[1].values
    assert torch.equal(both[2], both[0]) and torch.equal(both[3], case.values[1, 1])
    assert torch.equal(case.by_truth(case.start.flatten(0, 1)[None])[:, 0], case.start.transpose(0, 1))


def test_the_flow_turns_and_shifts_with_its_field():
    w = assimilation.flows(1, 1, 16, seed=3, begin=0)[0]
    turn = {"shift": (3, 6), "turn": 1, "mirror": True}
    there = assimilation.flowed(assimilation.turned(w[0], **turn)[None])[0]
    assert torch.allclose(there, assimilation.turned(assimilation.flowed(w)[0], **turn), atol=1e-4)


def test_the_table(tmp_path, capsys):
    noise = GaussianRandomField(Torus(2), Matern(1.5, 0.25))
    for name, states, fields in (("next", 1, 1), ("window", 3, 0)):
        net = DFU.tiny(states, states, domain=Torus(2), condition_channels=fields, num_blocks=0, positional_modes=0)
        units = {"normalization": Normalization((0.0,) * states, (1.0,) * states), "channels": states}
        Model(net, FunctionSpaceSDE(noise, EDM(0.01, 10.0)), EDMScaling(1.0), **units).save_pretrained(tmp_path / name)
    assimilation.main([*SMALL, "--models", str(tmp_path)])
    out = capsys.readouterr().out
    rows = [
        "free run",
        "next state, spectrum",
        "next state",
        "EnKF, next state",
        "windows, alone",
        "windows, composed",
        "EnKF, solver",
    ]
    assert re.findall(r"^(\S.*): [\d.]+ s$", out, flags=re.M) == rows
    with pytest.raises(SystemExit, match="expected some of free run, next state"):
        assimilation.main([*SMALL, "--models", str(tmp_path), "--rows", "none"])
    numbers = [[float(v) for v in line.split()[1:]] for line in out.splitlines() if line.startswith("  ")]
    assert len(numbers) == 4 * len(rows) and all(len(line) == 4 and all(map(math.isfinite, line)) for line in numbers)


@pytest.mark.slow
def test_training_writes_both_models(tmp_path):
    assimilation.trained(tmp_path, steps=1, count=2, times=6, size=16)
    assert [Model.from_pretrained(tmp_path / name).channels for name in ("next", "window")] == [1, 3]
