"""Poisson's and Helmholtz's equation: exact on sines, second order elsewhere, and one law on every grid."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from fnodiff.data import HDF5Fields
from fnodiff.domain import Box
from fnodiff.equations import Poisson
from fnodiff.equations.poisson import solve, source
from fnodiff.sde import GaussianRandomField, Matern

SQUARE, PI = Box(2), math.pi
F64 = {"dtype": torch.float64}


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def wave(shape: tuple[int, int]) -> torch.Tensor:
    x, y = SQUARE.points(shape, **F64)
    return ((PI * x).sin() * (2 * PI * y).sin())[None, None]


@pytest.mark.parametrize("wavenumber", [0.0, 1.0, 10.0])
def test_a_sine_is_divided_by_its_symbol(wavenumber):
    a = wave((7, 12))
    assert torch.allclose(solve(a, wavenumber) * (wavenumber**2 - 5 * PI**2), a, atol=1e-13)


def test_the_torsion_of_a_square_is_found_to_second_order():
    exact = sum(  # at the centre, of Delta u = 1
        16 / PI**4 * math.sin(j * PI / 2) * math.sin(k * PI / 2) / (j * k * (j * j + k * k))
        for j in range(1, 400, 2)
        for k in range(1, 400, 2)
    )
    error = [abs(float(solve(torch.ones(1, 1, n, n, **F64))[0, 0, n // 2, n // 2]) + exact) for n in (25, 75)]
    assert math.log(error[0] / error[1]) / math.log(3) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("wavenumber", [0.0, 1.0])
def test_it_is_its_own_adjoint_and_its_own_derivative(wavenumber):
    a, b = torch.randn(2, 1, 2, 6, 9, generator=torch.Generator().manual_seed(0), **F64).transpose(1, 2)
    assert torch.allclose((solve(a, wavenumber) * b).sum(), (a * solve(b, wavenumber)).sum())
    (gradient,) = torch.autograd.grad((solve(a.requires_grad_(), wavenumber) * b).sum(), a)
    assert torch.allclose(gradient, solve(b, wavenumber))


def test_the_source_is_the_matern_field_of_the_benchmark():
    law, e = GaussianRandomField(SQUARE, Matern(1.0, math.sqrt(2) / 3)), SQUARE.eigenvalues((8, 9), **F64)
    a = source((2, 1, 8, 9), generator=generators(3, 4))
    white = SQUARE.white((2, 1), (8, 9), generator=generators(3, 4), **F64)
    assert torch.allclose(SQUARE.analyze(a), white * law.std(e), rtol=1e-5)
    assert torch.allclose(law.std(e), law.std(e)[0, 0] * 9 / (e + 9))


def test_coarse_grids_show_the_same_functions():
    pairs = Poisson(2, seed=1, wavenumber=1.0, fine=96)
    fine, coarse = (batch["x"].double() for batch in pairs.batches([1, 0], [(96, 96), (32, 24)]))
    assert torch.allclose(fine[:, 1:], solve(fine[:, :1], 1.0), atol=1e-7)
    assert torch.allclose(
        coarse[:, :1], source((2, 1, 32, 24), generator=[pairs.generator(i) for i in (1, 0)]), atol=1e-5
    )
    assert (coarse[:, 1] - solve(coarse[:, :1], 1.0)[:, 0]).norm() < 5e-3 * coarse[:, 1].norm()
    third = fine[:, 1, 1::3, :]  # the cell centres that a third of the grid shares
    assert (pairs.batch([1, 0], (32, 96))["x"][:, 1] - third).norm() < 5e-4 * third.norm()


@pytest.mark.parametrize("target", ["pair", "solution", "source"])
def test_the_script_writes_the_samples(target, tmp_path):
    path = Path(__file__).parents[1] / "datasets/poisson.py"
    spec = importlib.util.spec_from_file_location("poisson_script", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    command = [str(tmp_path / "a.h5"), "--helmholtz", "--count", "2", "--fine", "16", "--resolutions", "8"]
    script.main([*command, "--target", target, "--seed", "2"])
    fields = HDF5Fields(tmp_path / "a.h5")
    expected = Poisson(2, 2, wavenumber=1.0, target=target, fine=16).batch(range(2), (8, 8))
    batch = fields.batch(range(2), (8, 8))
    assert batch.keys() == expected.keys() and not fields.cell_averages
    assert all(torch.equal(batch[key], expected[key]) for key in batch)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: solve(torch.ones(1, 4, 4)), "got shape"),
        (lambda: solve(torch.ones(1, 1, 4, 4), PI * math.sqrt(2)), "resonant"),
        (lambda: Poisson(1, wavenumber=-1.0), "wavenumber >= 0, got -1.0"),
        (lambda: Poisson(1, target="u"), "'pair', 'solution', 'source', got 'u'"),
        (lambda: Poisson(1, fine=8).batch([0], (9, 9)), "no finer than the solver's 8 x 8"),
    ],
)
def test_mistakes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
