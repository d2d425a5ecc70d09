"""The table of 3% observations: what it counts, and that it runs on the models that it is given."""

from __future__ import annotations

import re
import sys

import pytest
import torch
from parts import quick

from benchmarks import pde
from fnodiff import DFU, EDM, Box, EDMScaling, FunctionSpaceSDE, GaussianRandomField, Matern, Model, Torus
from fnodiff.data import HDF5Fields
from fnodiff.equations import Darcy
from fnodiff.sde import Normalization


def test_wrong_cells():
    truth = torch.tensor([3.0, 3.0, 12.0, 12.0]).reshape(1, 1, 2, 2)
    guess = torch.tensor([3.1, 8.0, 20.0, 7.4]).reshape(1, 1, 2, 2)
    assert pde.wrong_cells(guess, truth, Box(2)).tolist() == [0.5]


def test_table(tmp_path, monkeypatch, capsys):
    options = []
    for name, domain in (("darcy", Box(2)), ("navier-stokes", Torus(2))):
        sde = FunctionSpaceSDE(GaussianRandomField(domain, Matern(0.5, 0.3)), EDM(0.01, 30.0))
        model = Model(DFU.tiny(2, 2, domain=domain), sde, EDMScaling(1.0))
        model.training_shapes = ((12, 12), (16, 16))
        model.save_pretrained(tmp_path / name)
        options += [f"--{name}", str(tmp_path / name)]
    small = ["--cases", "2", "--members", "2", "--evaluations", "3", "--iterations", "1"]
    monkeypatch.setattr(sys, "argv", ["pde", *options, *small])
    pde.main()
    out = capsys.readouterr().out
    rows = {name: re.findall(r"([\d.]+)%", out.split(name)[1].splitlines()[0]) for name in ("a sample", "mean of 2")}
    single, mean = ([float(v) for v in row] for row in rows.values())
    assert len(single) == len(mean) == 4
    # The norm of a mean is at most the mean of the norms; a share of wrong cells has no such law.
    assert all(a >= b for a, b in zip(single[:1] + single[2:], mean[:1] + mean[2:], strict=True))
    assert "16x16" in out and "trained on 12, 16" in out


def test_other_ways_are_rows_of_their_own(tmp_path, monkeypatch, capsys):
    """A prior and a surrogate of Darcy alone; the flow, which has neither, has its law."""
    options = []
    for name, inputs, domain in (("darcy", 2, Box(2)), ("navier-stokes", 2, Torus(2)), ("darcy-prior", 1, Box(2))):
        sde = FunctionSpaceSDE(GaussianRandomField(domain, Matern(0.5, 0.3)), EDM(0.01, 30.0))
        units = {"normalization": Normalization(7.5, 4.5), "spectrum": Matern(1.0, 0.3)} if inputs == 1 else {}
        model = Model(DFU.tiny(inputs, inputs, domain=domain), sde, EDMScaling(1.0), **units)
        model.training_shapes = ((8, 8),)
        model.save_pretrained(tmp_path / name)
        options += [f"--{name}", str(tmp_path / name)]
    half = lambda w, *_, save=(), **settings: torch.cat([w, 0.5 * w], 1) if save else 0.5 * w  # noqa: E731
    monkeypatch.setattr(pde.navier_stokes, "solve", half)
    ways = ["--ways", "surrogate", "solver", "law", "--share", "0.1"]
    monkeypatch.setattr(sys, "argv", ["pde", *options, *ways, "--cases", "1", "--members", "2", "--evaluations", "2"])
    pde.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(("surr", "solv", "law"))]
    found = {way: [line for line in rows if line[0] == f"{way},"] for way in ("surrogate", "solver", "law")}
    assert all(len(lines) == 4 for lines in found.values())
    assert all("-" in line and "nan%" not in line for line in found["surrogate"] + found["solver"])
    assert not any("-" in line for line in found["law"])
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--ways", "law", "--directions", "forward"])
    pde.main()
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("law")]
    assert len(lines) == 4 and all(
        [cell == "-" for cell in line if cell[-1] in "%-"] == [False, True] * 2 for line in lines[:2]
    )


def test_the_raster_has_the_values_at_the_nearest_points():
    points = torch.tensor([[0.1, 0.95], [0.6, 0.3]])
    values = torch.tensor([[[5.0, 7.0]]])
    for domain, first, second in ((Box(2), (0, 2), (3, 1)), (Torus(2), (0, 2), (0, 1))):
        expected = torch.zeros(1, 2, 4, 4)
        expected[0, :, first[0], first[1]] = torch.tensor([5.0, 1.0])
        expected[0, :, second[0], second[1]] = torch.tensor([7.0, 1.0])
        assert torch.equal(pde.raster(domain, points, values, (4, 4)), expected)


def test_direct_networks_and_layers(monkeypatch, capsys, tmp_path):
    """Trained for a moment from cases in a file; DPS, which has no model of layers, has none."""
    monkeypatch.setattr(pde, "Darcy", lambda *args, fine, **law: Darcy(*args, fine=16, **law))
    small = ["--size", "8", "--cases", "2", "--share", "0.2", "--pairs", "8", "--minutes", "0.002", "--device", "cpu"]
    small += ["--evaluations", "4", "--members", "2"]
    monkeypatch.setattr(
        sys,
        "argv",
        ["pde", "--problems", "Layered", "--ways", "direct", "DPS", "law", "--folder", str(tmp_path), *small],
    )
    pde.main()
    out = capsys.readouterr().out
    assert re.search(r"direct, mean of 1 at 8x8 +1 +[\d.]+% +[\d.]+%\n", out)
    assert re.search(r"DPS, a sample at 8x8 +4 +- +-\n", out)
    forward, inverse = re.search(r"law, mean of 2 at 8x8 +4 +([\d.]+)% +([\d.]+)%\n", out).groups()
    assert float(forward) < 30 and float(inverse) < 45  # 100 and 50 by chance
    cases = HDF5Fields(tmp_path / "layered-8.h5").batch([0, 1], (8, 8))["x"]
    law = {"kind": "layered", "scale": 3.0, "constant_mode": False}
    torch.testing.assert_close(cases, Darcy(2, 1, fine=16, **law).batch([0, 1], (8, 8))["x"])


def test_a_direct_network_learns_what_the_values_say(monkeypatch):
    """A number times the mean of what is seen: with u = 3 - 2 a of constant a it has to learn -1, in the data's units."""

    class Mean(torch.nn.Module):
        def __init__(self, options):
            super().__init__()
            self.factor = torch.nn.Parameter(torch.zeros(()))

        def forward(self, shown):
            values, there = shown.flatten(2).sum(2).unbind(1)
            return (self.factor * values / there)[:, None, None, None].expand(-1, 1, *shown.shape[2:])

    def fitted(net, loss, seconds, lr):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
        for _ in range(12):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()

    monkeypatch.setattr(pde, "Regression", Mean)
    monkeypatch.setattr(pde, "fitted", fitted)
    a = torch.linspace(-1, 1, 32)[:, None, None, None].expand(32, 1, 8, 8)
    pairs = torch.cat([a, 3 - 2 * a], 1)
    problem = pde.Problem("levels", None, pairs, 0, pde.wrong_cells, {}, lambda count: pairs)
    args = pde.options(["--device", "cpu"])
    points = torch.rand(2, 4, generator=torch.Generator().manual_seed(1))
    for seen, value, expected in ((0, 0.5, 2.0), (1, 2.0, 0.5)):
        estimate = pde.direct(problem, seen, 4, 0.01, args)
        found = estimate(pde.raster(Box(2), points, torch.full((1, 1, 4), value), (8, 8)))
        torch.testing.assert_close(found, torch.full((1, 1, 8, 8), expected), atol=0.1, rtol=0)


def test_the_law_itself_finds_two_values():
    """Seen at half as many points as there are cells, Darcy's a is found but for some cells at its jumps, and u with it."""
    cases = Darcy(1, seed=1, scale=3.0, constant_mode=False, fine=12).batch([0], (12, 12))["x"]
    options = ["--evaluations", "6", "--members", "1", "--noise", "0.02", "--device", "cpu"]
    args = pde.options([*options, "--share", "0.5"])
    prior = pde.Prior(pde.law(Box(2), 3.0, 2.0), pde.pressure, pde.two_valued)
    problem = pde.Problem("Darcy", prior.denoiser, cases, 0, pde.wrong_cells, {"law": prior})
    x, _ = pde.solve(problem, 0, args, "law")
    wrong = pde.wrong_cells(x[:, 0, :1], cases[:, :1], Box(2))
    assert float(wrong.mean()) < 0.15 < float(pde.wrong_cells(0 * cases + 12, cases, Box(2)))
    assert float((x[:, 0, 1:] - cases[:, 1:]).norm() / cases[:, 1:].norm()) < 0.15


@pytest.mark.parametrize(
    ("domain", "tau", "alpha", "std"), [(Box(2), 3.0, 2.0, 1.0), (Torus(2), 7.0, 2.5, 25 * 7**0.75)]
)
def test_the_laws_are_those_that_cases_are_drawn_from(domain, tau, alpha, std):
    found = pde.law(domain, tau, alpha, std)
    e = domain.eigenvalues((9, 9), dtype=torch.float64)
    expected = std**2 * (e + tau**2) ** -alpha
    expected[0, 0] = 0
    assert torch.allclose((found.normalization.std * found.data.std(e)).square(), expected, rtol=1e-5)


def test_errors_are_those_of_the_channel_that_is_not_seen(monkeypatch, capsys):
    def solve(problem, seen, args, way):
        guess = problem.cases.clone()
        guess[:, seen] = 0
        return guess.expand(args.members, *guess.shape), 0.0

    def problems(args):
        cases = 3.0 + 9 * (torch.rand(2, 2, 8, 8) > 0.5)
        model = torch.nn.Module()
        model.sde, model.training_shapes = (
            FunctionSpaceSDE(GaussianRandomField(Torus(2), Matern(0.5)), EDM()),
            ((8, 8),),
        )
        return [pde.Problem(name, model, cases, given, pde.wrong_cells) for name, given in (("a", 0), ("b", 1))]

    monkeypatch.setattr(pde, "solve", solve)
    monkeypatch.setattr(pde, "problems", problems)
    monkeypatch.setattr(sys, "argv", ["pde"])
    pde.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if re.match("joint, (a sample|mean)", line)]
    assert len(rows) == 2 and all(re.findall(r"[\d.]+%", row) == ["0.00%"] * 4 for row in rows)


@pytest.mark.parametrize("channel", quick((0, 1), 0))
def test_samples_fit_what_is_seen(channel):
    """A model that knows nothing but the values: its samples have them, up to the errors."""

    class Zero(torch.nn.Module):
        def forward(self, x, noise_level):
            return 0 * x

    domain = Torus(2)
    sde = FunctionSpaceSDE(GaussianRandomField(domain, Matern(0.5, 0.3)), EDM(0.01, 30.0))
    data = GaussianRandomField(domain, Matern(1.0, 0.3)).sample((2, 2, 16, 16))
    problem = pde.Problem("noise", Model(Zero(), sde, EDMScaling(1.0), channels=2), data, 0, pde.wrong_cells)
    args = pde.options(["--evaluations", "24", "--iterations", "12", "--members", "2", "--device", "cpu"])
    samples, seconds = pde.solve(problem, channel, args)
    points = torch.rand(2, 8, generator=torch.Generator().manual_seed(args.seed))
    seen = domain.evaluate(data[:, [channel]], points)
    found = domain.evaluate(samples.flatten(0, 1)[:, [channel]], points).unflatten(0, (2, 2))
    assert (found - seen).square().mean().sqrt() < 0.1 * seen.square().mean().sqrt()
    assert seconds > 0
