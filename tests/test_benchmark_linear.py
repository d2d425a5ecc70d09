"""The floor of linear problems, and the table of it."""

from __future__ import annotations

import math
import re

import pytest
import torch

from benchmarks import linear
from fnodiff import DFU, EDM, Box, EDMScaling, FunctionSpaceSDE, GaussianRandomField, Matern, Model

F64 = {"dtype": torch.float64}


@pytest.mark.parametrize("wavenumber", [0.0, 1.0])
def test_the_floor_is_the_gaussian_posterior(wavenumber):
    problem = linear.Problem.drawn(wavenumber, 8, 12, 2, 1e-2, 0)
    unit = torch.eye(64, **F64).reshape(64, 1, 8, 8)
    covariance = Box(2).filter(64 * unit, lambda e: linear.LAW.std(e).square()).flatten(1)
    sensing = linear.solve(unit, wavenumber).flatten(1)[:, problem.cells].T
    total = sensing @ covariance @ sensing.T + problem.noise_std**2 * torch.eye(12, **F64)
    gain = torch.linalg.solve(total, sensing @ covariance).T
    mean, draws = linear.exact(problem, 3000, 0)
    assert torch.allclose(mean.flatten(1), problem.values @ gain.T, rtol=1e-6, atol=1e-8)
    std = (covariance - gain @ sensing @ covariance).diagonal().sqrt()
    assert ((draws.mean(1) - mean).flatten(1) / std).square().mean().sqrt() < 2.5 / 3000**0.5
    assert (draws.std(1).flatten(1) / std).mean() == pytest.approx(1, abs=0.03)


def test_floors_are_those_of_the_oracle():
    basis, std = linear.modes("a constant mode", 6)
    e = Box(2).eigenvalues((6, 6), **F64)
    assert torch.allclose(std / std[0, 0], linear.LAW.std(e) / linear.LAW.std(e)[0, 0])
    field = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(0), **F64)
    assert torch.allclose(basis.T @ Box(2).analyze(field)[0, 0] @ basis, field[0, 0])
    problem = linear.Problem.drawn(0.0, 12, 30, 200, 1e-3, 0)
    exact = 100 * linear.relative_l2(problem.oracle().mean(problem.values), problem.truths, Box(2))
    found = linear.floors("a constant mode", 0.0, 12, 30, 200, 1e-3, False, 1)
    assert (
        abs(float(found.mean() - exact.mean()))
        < 3 * float((found.var() + exact.var()) / 200) ** 0.5 + 0.05 * exact.mean()
    )


def test_the_table_of_floors(capsys):
    linear.main(["--floors", "9", "--size", "8", "--sensors", "12", "--errors", "1e-3", "--equation", "poisson"])
    rows = [line.split()[-4:] for line in capsys.readouterr().out.splitlines() if line.startswith("poisson")]
    assert len(rows) == 4 and all(float(low) < float(mean) < float(high) for mean, low, high, _ in rows)


def test_sources_that_are_zero_on_the_edge_are_sines():
    basis, std = linear.modes("zero on the edge", 5)
    a = basis[1][:, None] * basis[0]  # sin(2 pi x) sin(pi y)
    assert torch.allclose(linear.solve(a[None, None])[0, 0] * -5 * math.pi**2, a)
    assert float(std[1, 0] / std[0, 0]) == pytest.approx((2 * math.pi**2 + 9) / (5 * math.pi**2 + 9))


@pytest.mark.parametrize("channels", [1, 2])
def test_what_is_seen_is_the_solution_at_the_cells(channels):
    problem = linear.Problem.drawn(1.0, 8, 12, 2, 1e-2, 0)
    seen = problem.observation(channels, members=3)
    pairs = torch.cat([problem.truths, linear.solve(problem.truths, 1.0)], 1)[:, :channels]
    residual = seen.residual(seen(pairs.repeat_interleave(3, 0), Box(2))).flatten(1)
    assert residual.shape == (6, 12) and 0.5 < float(residual.square().mean()) < 2


def test_the_table(tmp_path, capsys):
    small = ["--size", "12", "--sensors", "20", "--truths", "2", "--members", "8", "--errors", "1e-3"]
    linear.main([*small, "--steps", "8"])
    out = capsys.readouterr().out
    rows = [
        [float(v) for v in re.findall(r"([\d.]+)%", line)] for line in out.splitlines() if line.startswith("  exact")
    ]
    assert len(rows) == 6 and "20.47%" in out and "17.16%" in out
    for mean, several, single in (rows[0], rows[3]):
        assert several == pytest.approx(mean * math.sqrt(1 + 1 / 8), rel=0.15)
        assert single == pytest.approx(mean * math.sqrt(2), rel=0.15)
    for several, single in rows[1:3] + rows[4:]:
        assert several == pytest.approx(rows[0][1], rel=0.2) and single == pytest.approx(rows[0][2], rel=0.2)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_models_row(channels, tmp_path, capsys):
    sde = FunctionSpaceSDE(GaussianRandomField(Box(2), Matern(0.5, 0.3)), EDM(0.01, 30.0))
    spectrum = Matern(1.0, 0.47)
    Model(DFU.tiny(channels, channels, domain=Box(2)), sde, EDMScaling(1.0), spectrum=spectrum).save_pretrained(
        tmp_path
    )
    small = ["--size", "12", "--sensors", "5", "--truths", "1", "--members", "2", "--errors", "1e-2", "--steps", "3"]
    linear.main([*small, "--equation", "poisson", "--model", str(tmp_path)])
    out = capsys.readouterr().out
    assert out.count("the model, MomentMatching") == 1 and out.count("the model, annealed") == (channels == 1)
