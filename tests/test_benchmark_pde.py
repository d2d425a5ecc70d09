"""The table of 3% observations: what it counts, and that it runs on the models that it is given."""

from __future__ import annotations

import re
import sys

import pytest
import torch

from benchmarks import pde
from fnodiff import DFU, EDM, Box, EDMScaling, FunctionSpaceSDE, GaussianRandomField, Matern, Model, Torus


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


def test_errors_are_those_of_the_channel_that_is_not_seen(monkeypatch, capsys):
    def solve(problem, seen, args):
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
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ours")]
    assert len(rows) == 2 and all(re.findall(r"[\d.]+%", row) == ["0.00%"] * 4 for row in rows)


@pytest.mark.parametrize("channel", [0, pytest.param(1, marks=pytest.mark.slow)])
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
