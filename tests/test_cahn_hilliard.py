"""Phase separation: the solver's order, what it conserves, a solution known in closed form, and the data set."""

from __future__ import annotations

import itertools
import math
import runpy
import sys
from pathlib import Path

import pytest
import torch

from fnodiff import Box, Torus
from fnodiff.data import HDF5Fields
from fnodiff.equations import CahnHilliard
from fnodiff.equations.cahn_hilliard import free_energy, initial_mixture, solve

SCRIPT = Path(__file__).parent.parent / "datasets" / "cahn_hilliard.py"


def mixture(domain, n, width, **options):
    generator = torch.Generator().manual_seed(0)
    return initial_mixture(domain, (2, 1, *(n,) * domain.dim), width, generator=generator, **options)


class TestSolve:
    @pytest.mark.parametrize(("steps", "order"), [((64, 128, 256), (3.6, 4.1)), ((1, 2, 4), (2.2, 3.2))])
    def test_is_of_fourth_order_and_of_less_where_modes_are_stiff(self, steps, order):
        u0 = mixture(Torus(1), 8, 0.1, scale=0.5)
        exact, error = solve(u0, 0.01, 0.1, domain=Torus(1), dt=0.01 / 1024), []
        for count in steps:
            error.append(float(Torus(1).norm(solve(u0, 0.01, 0.1, domain=Torus(1), dt=0.01 / count) - exact).mean()))
        orders = [math.log2(a / b) for a, b in itertools.pairwise(error)]
        assert order[0] < min(orders) and max(orders) < order[1], orders

    @pytest.mark.parametrize("domain", [Torus(1), Torus(2, (1.0, 2.0)), Torus(3)], ids=str)
    def test_the_mean_is_kept_and_the_energy_falls(self, domain):
        width = 0.1
        u = solve(mixture(domain, 16, width, mean=0.2), 0.3, width, domain=domain, save=[0.0, 0.01, 0.1, 0.3])
        mean = u.flatten(2).mean(2)
        torch.testing.assert_close(mean, torch.full_like(mean, 0.2), atol=1e-13, rtol=0)
        energy = torch.stack([free_energy(u[:, [i]], width, domain) for i in range(4)])
        assert bool((energy.diff(dim=0) < 0).all()) and float(energy[0].min()) > 1.1 * float(energy[-1].max())

    def test_small_waves_grow_as_the_linear_equation_says(self):
        domain, width, time = Torus(2), 0.1, 0.005
        x, y = domain.points((24, 24), dtype=torch.float64)
        small = 1e-5 * ((2 * math.pi * x).cos() + (2 * math.pi * (x + y)).sin())[None, None]
        k2 = domain.eigenvalues((24, 24), dtype=torch.float64)
        expected = domain.synthesize(domain.analyze(small) * ((k2 - width**2 * k2**2) * time).exp(), (24, 24))
        found = solve(small, time, width, domain=domain, dt=time / 20)
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-5)

    def test_an_interface_at_rest_is_a_tanh(self):
        domain, width = Torus(1), 0.05
        x = domain.points((96,), dtype=torch.float64)[0]
        u = solve((2 * math.pi * x).sin()[None, None], 1.0, width, domain=domain)
        near = (x > 0.4) & (x < 0.6)  # it falls through zero at 1 / 2; the other one is half a side away
        torch.testing.assert_close(u[0, 0, near], -((x[near] - 0.5) / (math.sqrt(2) * width)).tanh(), atol=2e-3, rtol=0)

    def test_free_energy_of_a_wave_is_known(self):
        domain, width = Torus(2, (1.0, 2.0)), 0.3
        u = (math.pi * domain.points((12, 16), dtype=torch.float64)[1]).cos()[
            None, None
        ]  # one wave along the second side
        expected = (1 - 2 / 2 + 3 / 8) / 4 + width**2 / 2 * math.pi**2 / 2
        torch.testing.assert_close(free_energy(u, width, domain), torch.tensor([expected], dtype=torch.float64))

    def test_a_finer_grid_finds_the_same(self):
        domain, width = Torus(2), 0.06
        coarse, fine = (solve(mixture(domain, n, width), 0.06, width, domain=domain) for n in (36, 54))
        assert float(domain.norm(domain.resample(fine, (36, 36)) - coarse).max()) < 2e-3
        assert float(coarse.abs().mean()) > 0.5, "the liquids have parted"

    def test_saved_times_are_those_of_separate_runs(self):
        u0, options = mixture(Torus(1), 16, 0.1), {"domain": Torus(1), "dt": 0.001}
        both = solve(u0, 0.02, 0.1, save=[0.01, 0.02], **options)
        torch.testing.assert_close(both[:, :1], solve(u0, 0.01, 0.1, **options))
        torch.testing.assert_close(both[:, 1:], solve(u0, 0.02, 0.1, **options))


class TestCahnHilliard:
    def test_a_sample_is_one_function_on_every_grid_in_any_batch(self):
        fields = CahnHilliard(5, seed=1, domain=Torus(3), width=0.08, time=0.12, fine=16)
        coarse, fine = fields.batches([3, 0], [(12, 12, 12), (16, 14, 13)])
        assert coarse["x"].shape == (2, 1, 12, 12, 12) and coarse["x"].dtype == torch.float32
        torch.testing.assert_close(Torus(3).resample(fine["x"], (12, 12, 12)), coarse["x"], atol=1e-5, rtol=1e-5)
        alone = CahnHilliard(5, seed=1, domain=Torus(3), width=0.08, time=0.12, fine=16).batch([3], (12, 12, 12))
        torch.testing.assert_close(alone["x"], coarse["x"][:1])
        assert float((coarse["x"][0] - coarse["x"][1]).std()) > 0.5

    def test_making_it_draws_nothing(self):
        before = torch.get_rng_state()
        CahnHilliard(1, domain=Torus(1))
        assert torch.equal(torch.get_rng_state(), before)

    def test_the_script_writes_a_file(self, tmp_path, monkeypatch):
        options = ["--count", "2", "--resolutions", "8", "12", "--width", "0.1", "--time", "0.02", "--fine", "12"]
        monkeypatch.setattr(sys, "argv", ["cahn_hilliard.py", str(tmp_path / "f.h5"), *options])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        file = HDF5Fields(tmp_path / "f.h5")
        assert file.shapes == [(8,) * 3, (12,) * 3] and len(file) == 2 and not file.cell_averages
        expected = CahnHilliard(2, width=0.1, time=0.02, fine=12).batch([1], (8, 8, 8))["x"]
        torch.testing.assert_close(file.batch([1], (8, 8, 8))["x"], expected)


U = torch.zeros(1, 1, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: solve(U, -1.0, 0.1, domain=Torus(1)), "time, width and dt > 0"),
        (lambda: solve(U, 1.0, 0.1, domain=Torus(1), dt=0.0), "time, width and dt > 0"),
        (lambda: solve(U.expand(1, 2, 8), 1.0, 0.1, domain=Torus(1)), "pass one channel"),
        (lambda: solve(U + math.nan, 1.0, 0.1, domain=Torus(1)), "finite u0"),
        (lambda: solve(U, 1.0, 0.1, domain=Torus(1), save=[0.5, 0.2]), "increasing times"),
        (lambda: initial_mixture(Torus(1), (1, 1, 8), 0.1, mean=1.5), "as much of each"),
        (lambda: initial_mixture(Torus(1), (1, 1, 8), 0.1, scale=0.0), "scale > 0"),
        (lambda: CahnHilliard(1, domain=Box(2)), "periodic boxes"),
        (lambda: CahnHilliard(1, mean=-1.0), "as much of each"),
        (lambda: CahnHilliard(1, fine=12).batch([0], (16, 16, 16)), "12 x 12 x 12"),
    ],
)
def test_bad_input_is_an_error_that_says_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
