"""The table of calibration: what it scores, and that it can say that an ensemble is wrong."""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path

import pytest
import torch

from benchmarks import calibration, calibration_problems
from benchmarks.calibration_scores import Scores, draw, everyones_ranks, index, interval, sides, widened
from fnodiff import (
    DFU,
    EDM,
    Box,
    EDMScaling,
    FunctionSpaceSDE,
    GaussianRandomField,
    Matern,
    Model,
    Sphere,
    metrics,
    sample,
)
from fnodiff.data import ArrayFields, write_fields
from fnodiff.equations import darcy
from fnodiff.inverse import PointObservation
from fnodiff.sde import DPMSolver, Normalization

LAW = GaussianRandomField(Box(2), Matern(1.0, 0.15))


@cache
def judged(factor: float, shift: float = 0.0) -> Scores:
    """Of 40 truths and 19 members of one law, the members' spread changed by a factor."""
    x = LAW.sample((40, 20, 6, 6), generator=torch.Generator().manual_seed(0))
    return Scores.of(factor * x[:, 1:, None] + shift, x[:, :1], Box(2))


def test_the_right_law_is_calibrated():
    scores = judged(1.0)
    off = scores.covered.mean(0) - scores.nominal
    assert (off.abs() < 3 * scores.means().std(0)).all()
    assert scores.nominal.tolist() == pytest.approx([0.5, 0.8, 0.9])
    assert scores.ratio == pytest.approx(1, abs=0.15)
    assert index(scores.histogram) < index(scores.calibrated()).quantile(0.975)


@pytest.mark.parametrize(("factor", "sign"), [(0.5, -1), (1.8, 1)])
def test_other_spreads_are_found(factor, sign):
    """Too narrow and too wide: the interval leaves nominal out, on the right side, and ranks are not those of chance."""
    scores = judged(factor)
    low, high = interval(scores.means())
    assert ((high < scores.nominal) if sign < 0 else (low > scores.nominal))[:2].all()
    assert sign * math.log(scores.ratio) > 0.3
    assert index(scores.histogram) > index(scores.calibrated()).quantile(0.975)
    ends = scores.histogram[[0, -1]].sum() - 0.1
    assert sign * float(ends) < 0 and scores.crps.mean() > judged(1.0).crps.mean()


def test_a_bias_is_a_slope():
    histogram = judged(1.0, shift=1.0).histogram
    assert histogram[:10].sum() > 0.7


def test_ranks_are_weighted_by_area():
    """A truth above all members near the poles alone: as much of the histogram as these have of the area."""
    domain, generator = Sphere(), torch.Generator().manual_seed(0)
    x = torch.randn(2, 10, 1, 8, 16, generator=generator)
    x[:, 0, :, [0, -1]] = 99.0
    scores = Scores.of(x[:, 1:], x[:, 0], domain)
    caps = float(domain.weights((8, 16))[[0, -1]].sum() / domain.weights((8, 16)).sum())
    rest = float(Scores.of(x[:, 1:, :, 1:-1], x[:, 0, :, 1:-1], Box(2)).histogram[-1])
    assert caps < 0.13 and float(scores.histogram[-1]) == pytest.approx(caps + (1 - caps) * rest, abs=0.04)


def test_every_field_is_ranked_among_the_others():
    """As `metrics.rank_histogram` does, and no rank is taken twice."""
    domain, x = Sphere(), torch.randn(6, 1, 4, 8, generator=torch.Generator().manual_seed(0)).double()
    found = everyones_ranks(x, domain.weights((4, 8), dtype=torch.float64))
    for j in range(6):
        others = torch.cat([x[:j], x[j + 1 :]])
        assert torch.allclose(found[j], metrics.rank_histogram(others[:, None], x[j][None], domain))
    tied = everyones_ranks(torch.zeros(5, 1, 40, 40), torch.ones(40, 40, dtype=torch.float64))
    assert torch.allclose(tied.sum(0), torch.ones(5).double()) and (tied - 0.2).abs().max() < 0.05


def test_widened_members_have_the_spread_of_their_errors():
    x = LAW.sample((40, 20, 6, 6), generator=torch.Generator().manual_seed(0))
    wide, factors = widened(0.5 * x[:, 1:, None], x[:, :1], Box(2))
    assert Scores.of(wide, x[:, :1], Box(2)).ratio == pytest.approx(1, abs=0.15)
    assert factors.tolist() == pytest.approx([2, 2], rel=0.25) and factors[0] != factors[1]


def test_the_figure(tmp_path):
    draw({"one": {"right": judged(1.0), "narrow": judged(0.5)}}, tmp_path / "ranks.png")
    assert (tmp_path / "ranks.png").stat().st_size > 5000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that has learnt nothing, of two channels that depend on each other, and fields of their law."""
    sde = FunctionSpaceSDE(GaussianRandomField(Box(2), Matern(0.5, 0.3)), EDM(0.02, 30.0))
    units = Normalization((5.0, 0.0), (2.0, 0.1))
    torch.manual_seed(0)
    sizes = {"hidden_channels": 8, "channel_mult": (1,), "spectral_levels": 1, "num_blocks": 0}
    model = Model(DFU.tiny(2, 2, domain=Box(2), **sizes), sde, EDMScaling(1.0), normalization=units)
    model.training_shapes = ((6, 6), (8, 8))
    model.save_pretrained(tmp_path / "model")
    x = LAW.sample((60, 2, 8, 8), generator=torch.Generator().manual_seed(1))
    x = units.inverse(torch.cat([x[:, :1], 0.8 * x[:, :1] + 0.6 * x[:, 1:]], 1)).float()
    about = {"source": "test", "licence": "none", "grid": "points"}
    fields = ArrayFields(x, domain=Box(2))
    write_fields(tmp_path / "fields.h5", fields, [(8, 8)], attributes=about, dtype="float32", progress=False)
    return tmp_path


def small(folder: Path, *more: str) -> list[str]:
    options = ["--problems", "pairs", "--model", f"pairs={folder / 'model'}", "--data", f"pairs={folder / 'fields.h5'}"]
    return ["--out", str(folder / "out"), *options, "--size", "8", "--fields", "60", "--device", "cpu", *more]


def covers(out: str) -> dict[str, list[list[float]]]:
    """Of each row the coverages with their intervals."""
    rows = [line for line in out.splitlines() if line.startswith("pairs ")]
    cells = r"([\d.]+) \[(\d+), (\d+)\]"
    return {line.split("  ")[0]: [[float(v) for v in cell] for cell in re.findall(cells, line)] for line in rows}


def test_exact_posteriors_are_calibrated(folder, capsys):
    """Draws of a Gaussian law's own posterior: nominal, but for three standard errors and the rounding."""
    calibration.main(
        small(folder, "--rows", "exact", "--sources", "gaussian", "--truths", "40", "--members", "39", "--sensors", "4")
    )
    rows = covers(capsys.readouterr().out)
    assert set(rows) == {"pairs 0: exact, gaussian", "pairs 1: exact, gaussian"}
    for row in rows.values():
        assert all(
            abs(value - nominal) < 0.75 * (high - low) + 1
            for nominal, (value, low, high) in zip((50, 80, 95), row, strict=True)
        )


def test_exact_posterior_is_bayes_rule(folder):
    args = calibration.options(small(folder, "--truths", "4"))
    problem = calibration.problem_of("pairs", args)
    truth = problem.fields([3])[0]
    seen = problem.observed(truth, 5, 0.1, torch.Generator().manual_seed(0))
    draws = problem.model.normalization(problem.exact(seen, range(4000))).flatten(1)
    mean, covariance = problem.law.moments((8, 8))
    unit = torch.eye(len(mean), dtype=torch.float64).reshape(-1, 2, 8, 8)
    sensing = Box(2).evaluate(unit, seen.points.double()).flatten(1).T
    values = problem.model.normalization(seen.values[None, ..., None])[0].flatten().double()
    gain = torch.linalg.solve(sensing @ covariance @ sensing.T + 0.01 * torch.eye(10), sensing @ covariance).T
    expected, left = mean + gain @ (values - sensing @ mean), covariance - gain @ sensing @ covariance
    std = left.diagonal().sqrt()
    assert ((draws.mean(0) - expected) / std).square().mean().sqrt() < 2.5 / 4000**0.5
    assert (draws.std(0) / std).mean() == pytest.approx(1, abs=0.03)


def test_the_table_its_causes_and_its_files(folder, capsys, monkeypatch):
    short = ["--truths", "2", "--members", "9", "--sensors", "3", "--steps", "3", "--iterations", "2"]
    options = small(folder, *short, "--rows", "default", "--figure", str(folder / "ranks.png"))
    calibration.main(options)
    out = capsys.readouterr().out
    assert len(covers(out)) == 6 and (folder / "ranks.png").exists()
    causes = [line for line in out.splitlines() if line.startswith("cause, pairs 0, default")]
    heads = [f"{float(head):.0f}%" for head in re.findall(r"([\d.]+)%", out.splitlines()[0])]
    assert len(heads) == 2, "9 members have no central 95%"
    assert [line.split(", ")[3].partition(":")[0] for line in causes] == heads
    for line in causes:
        total, *parts = (float(v) for v in re.findall(r"(?:by|model|guidance|solver) ([+-][\d.]+)", line))
        assert len(parts) == 3 and sum(parts) == pytest.approx(total, abs=0.21)
    seconds = re.compile(r" +[\d.]+$", re.M)
    monkeypatch.setattr(calibration, "ways", lambda *args: dict.fromkeys(calibration.ROWS))
    calibration.main(options)  # what is there is not made again
    assert seconds.sub("", capsys.readouterr().out) == seconds.sub("", out)
    with pytest.raises(SystemExit, match="another --out"):
        calibration.main([*options, "--noise", "0.3"])
    with pytest.raises(SystemExit, match="true fields"):
        calibration.main([*options, "--truths", "61"])


@pytest.mark.parametrize("row", ["default", "spectrum"])
def test_truths_of_the_model_are_its_samples(folder, row):
    """Sensors that say nothing leave the samples as they are."""
    args = calibration.options(small(folder, "--truths", "4", "--steps", "4"))
    problem = calibration.problem_of("pairs", args)
    silent = problem.observed(None, 3, 0.1, torch.Generator().manual_seed(0))
    found = calibration.ways(args, problem)[row](problem.model, silent, [5])
    expected = sample(problem.model, (8, 8), [5], solver=DPMSolver(4))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_sensors_see_the_truth_with_errors(folder):
    problem = calibration.problem_of("pairs", calibration.options(small(folder, "--truths", "4")))
    truth = problem.fields([0])[0]
    seen = problem.observed(truth, 500, 0.05, torch.Generator().manual_seed(0))
    assert isinstance(seen, PointObservation) and seen.values.shape == (2, 500)
    residual = seen.residual(seen(truth[None], Box(2)))
    assert float(residual.square().mean()) == pytest.approx(1, abs=0.15)
    assert seen.noise_std.flatten().tolist() == pytest.approx([0.1, 0.005])


def test_sensors_of_a_permeability_see_what_the_solver_makes_of_it(tmp_path, capsys):
    options = ["--out", str(tmp_path), "--problems", "permeability", "--size", "8", "--truths", "2", "--members", "9"]
    problem = calibration.problem_of("permeability", calibration.options(options))
    truth = problem.fields([0])[0]
    seen = problem.observed(truth, 400, 0.05, torch.Generator().manual_seed(0))
    u = darcy.solve(truth[None])
    residual = (seen.values - Box(2).evaluate(u, seen_points(problem, 400))) / seen.noise_std
    assert float(residual.square().mean()) == pytest.approx(1, abs=0.15)
    assert float(seen.residual(seen(truth[None], Box(2))).square().mean()) == pytest.approx(1, abs=0.15)
    short = ["--sensors", "3", "--steps", "2", "--device", "cpu"]
    calibration.main([*options, *short, "--rows", "fresh noise", "exact"])
    out = capsys.readouterr().out
    assert [line.split("  ")[0] for line in out.splitlines() if line.startswith("permeability")] == [
        "permeability a: fresh noise, data",
        "permeability a: fresh noise, model",
    ]
    assert out.count("  either value; ") == 2


def seen_points(problem: calibration_problems.Problem, count: int) -> torch.Tensor:
    """Where the sensors of seed 0 are."""
    return calibration_problems.places(problem.domain, count, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("shift", "calibrated"), [(0.0, True), (0.7, False)])
def test_sides_say_whether_two_values_are_calibrated(shift, calibrated):
    """Members that are smooth are not, where truths have two values; which side they are on may be."""
    x = LAW.sample((80, 40, 6, 6), generator=torch.Generator().manual_seed(0)).double()
    truths = (x[:, :1] > 0).double()
    (above, true), share = sides(x[:, 1:, None] + shift, truths - 0.5, 0.0)
    scores = Scores.of(above, true, Box(2))
    assert set(above.unique().tolist()) == {0.0, 1.0} and torch.equal(true, truths) and 0.9 < share <= 1
    assert (index(scores.histogram) < index(scores.calibrated()).quantile(0.975)) == calibrated
    assert index(Scores.of(x[:, 1:, None], truths - 0.5, Box(2)).histogram) > 0.3


def test_places_are_even_over_the_sphere():
    points = calibration_problems.places(Sphere(), 20_000, torch.Generator().manual_seed(0))
    assert float((points[0].cos() > 0.5).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert float((points[1] < math.pi / 2).float().mean()) == pytest.approx(0.25, abs=0.02)
