"""Darcy flow: second order, one coefficient function per seed, and one truth on every grid."""

from __future__ import annotations

import importlib.util
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

import fnodiff.equations.darcy as darcy
from fnodiff import EDM, FunctionSpaceSDE, GaussianRandomField, Matern
from fnodiff.data import HDF5Fields
from fnodiff.domain import Box
from fnodiff.equations.darcy import Darcy, coefficient, residual, solve
from fnodiff.inverse import Nonlinear, annealed
from fnodiff.sde import GaussianDenoiser, Normalization

SQUARE = Box(2)
PI = math.pi


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def order(error: Callable[[int], float], sizes: tuple[int, ...]) -> float:
    """The slope of log error against log cell height, by least squares."""
    x = torch.tensor([-math.log(n) for n in sizes], dtype=torch.float64)
    y = torch.tensor([math.log(error(n)) for n in sizes], dtype=torch.float64)
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


# ---- the solver ---------------------------------------------------------------------------------------------------


def manufactured(shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """a, u and f = -div(a grad u) for a = exp(x - y / 2) and u = sin(pi x) sin(2 pi y)."""
    x, y = SQUARE.points(shape, dtype=torch.float64)
    a, u = (x - y / 2).exp(), (PI * x).sin() * (2 * PI * y).sin()
    u_x, u_y = PI * (PI * x).cos() * (2 * PI * y).sin(), 2 * PI * (PI * x).sin() * (2 * PI * y).cos()
    f = -a * (u_x - u_y / 2 - 5 * PI**2 * u)
    return a[None, None], u[None, None], f[None, None]


@pytest.mark.parametrize("aspect", [1, 2])
def test_a_smooth_solution_is_found_to_second_order(aspect: int) -> None:
    def error(n: int) -> float:
        a, u, f = manufactured((n, aspect * n))
        return float(SQUARE.norm(solve(a, f) - u) / SQUARE.norm(u))

    assert order(error, (12, 24, 48)) == pytest.approx(2, abs=0.1)
    assert error(48) < 2e-3


def layers(shape: tuple[int, int]) -> Tensor:
    """12 in the upper half of the square, 3 in the lower; rows are along the first axis."""
    x, _ = SQUARE.points(shape, dtype=torch.float64)
    return torch.where(x < 0.5, 12.0, 3.0).double()[None, None]


def test_a_jump_along_faces_keeps_the_second_order() -> None:
    truth = solve(layers((192, 192)))

    def error(n: int) -> float:
        return float(SQUARE.norm(solve(layers((n, n))) - SQUARE.average(truth, (n, n))) / SQUARE.norm(truth))

    assert order(error, (8, 16, 32)) == pytest.approx(2, abs=0.1)  # arithmetic means: below 1.5
    assert error(32) < 6e-3


def test_corners_of_jumps_lower_the_order() -> None:
    """As the docstring says: there u has a kink that no grid resolves."""

    def board(n: int) -> Tensor:
        third = torch.arange(n) * 3 // n
        return torch.where((third[:, None] + third) % 2 == 0, 12.0, 3.0).double()[None, None]

    truth = solve(board(192))

    def error(n: int) -> float:
        return float(SQUARE.norm(solve(board(n)) - SQUARE.average(truth, (n, n))) / SQUARE.norm(truth))

    assert order(error, (12, 24, 48)) == pytest.approx(1.35, abs=0.15)


def test_the_flux_through_the_edge_is_the_source() -> None:
    """Integrated over the square, -div(a grad u) = 1 says that what enters leaves: exact for finite volumes."""
    n, m = 20, 14
    a = coefficient((3, 1, n, m), generator=generators(0, 1, 2))
    out = 2 * a * solve(a)  # over half a cell's height 1 / n, times the width 1 / m of a cell's side
    rows = (out[..., 0, :] + out[..., -1, :]).sum(-1) * n / m
    columns = (out[..., 0] + out[..., -1]).sum(-1) * m / n
    assert torch.allclose(rows + columns, torch.ones(3, 1, dtype=torch.float64), atol=1e-10)


def test_the_pressure_is_linear_in_the_source_and_scales_with_the_permeability() -> None:
    a = coefficient((2, 1, 12, 15), generator=generators(3, 4))
    f = torch.randn(2, 1, 12, 15, dtype=torch.float64)
    assert torch.allclose(solve(3 * a, 2 * f + 1), (2 * solve(a, f) + solve(a)) / 3, atol=1e-12)


def test_the_precision_of_the_result_is_that_of_the_coefficient() -> None:
    a = coefficient((1, 1, 32, 32), generator=generators(0))
    assert solve(a.float()).dtype == torch.float32
    assert torch.equal(solve(a.float()), solve(a).float())


def test_the_derivative_is_that_of_differences() -> None:
    """Backwards by the adjoint equation, forwards by the linearised one; in a and in f."""
    a = coefficient((2, 1, 5, 6), "log-normal", generator=generators(0, 1))
    f, da, df, g = torch.rand(4, 2, 1, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()
    change = (solve(a + 1e-5 * da, f + 1e-5 * df) - solve(a - 1e-5 * da, f - 1e-5 * df)) / 2e-5
    _, forwards = torch.func.jvp(solve, (a, f), (da, df))
    assert torch.allclose(forwards, change, rtol=1e-6, atol=1e-10)
    gradients = torch.autograd.grad((solve(a.requires_grad_(), f.requires_grad_()) * g).sum(), (a, f))
    assert float((gradients[0] * da + gradients[1] * df).sum()) == pytest.approx(float((change * g).sum()), rel=1e-6)
    alone, _ = torch.func.jvp(solve, (a.detach(),), (da,))
    assert torch.equal(alone, solve(a.detach()))


# ---- the residual -------------------------------------------------------------------------------------------------


def test_what_is_made_positive_stays_smooth_and_keeps_a_derivative() -> None:
    a = torch.linspace(-4, 14, 1801, dtype=torch.float64)
    made, slope = torch.func.jvp(lambda x: darcy.positive(x, 3.0), (a,), (torch.ones_like(a),))
    torch.testing.assert_close(made[a >= 3], a[a >= 3])
    assert bool((made > 0).all()) and bool((slope > 0.05).all())
    assert float(slope.diff().abs().max()) < 0.007 and float(made.diff().max()) < 0.0101
    assert float(darcy.positive(torch.tensor(-1e6), 3.0)) > 0
    with pytest.raises(ValueError, match=r"positive: expected a of floating point, got torch.int64"):
        darcy.positive(torch.tensor([3]), 3.0)
    with pytest.raises(ValueError, match=r"positive: expected least as a positive number, got 0"):
        darcy.positive(made, 0)


@pytest.mark.slow
def test_sensors_of_the_pressure_find_the_permeability_from_samples_of_a_law_that_leaves_it() -> None:
    """A clamp in place of `positive` holds cells that were negative once: the sensors' misfit stays ten times as large."""
    box, law = Box(2), GaussianRandomField(Box(2), Matern(1.0, 0.3))
    prior = GaussianDenoiser(law, FunctionSpaceSDE(law, EDM()), normalization=Normalization(7.5, 4.5))
    truth = darcy.coefficient(
        (1, 1, 12, 12), generator=[torch.Generator().manual_seed(3)], scale=3, constant_mode=False
    )
    points = torch.rand(2, 24, generator=torch.Generator().manual_seed(0))
    values = box.evaluate(darcy.solve(truth), points)[0]
    error = 0.02 * float(values.std())

    def misfit(change: Callable[[torch.Tensor], torch.Tensor]) -> float:
        def seen(a: torch.Tensor) -> torch.Tensor:
            return box.evaluate(darcy.solve(change(a)), points)

        a = annealed(prior, Nonlinear(seen, values, error), 12, range(4), steps=12, inner=4)
        return float(((seen(a.double()) - values) / error).square().mean())

    smooth, clamped = misfit(lambda a: darcy.positive(a, 3.0)), misfit(lambda a: a.clamp(min=1.5))
    assert smooth < 6 and clamped > 10 * smooth


@pytest.mark.parametrize("kind", ["two-valued", "log-normal"])
def test_solutions_have_no_residual(kind: darcy.Kind) -> None:
    a = coefficient((2, 1, 24, 31), kind, generator=generators(0, 1), scale=3)
    f = 1 + torch.rand(2, 1, 24, 31, dtype=torch.float64)
    assert float(residual(a, solve(a, f), f).max()) < 1e-10


def test_the_residual_is_relative_and_per_sample() -> None:
    a = coefficient((2, 1, 16, 16), generator=generators(0, 1))
    u = solve(a, 5.0) * torch.tensor([1.25, 0.0], dtype=torch.float64)[:, None, None, None]
    assert residual(a, u, 5.0).tolist() == pytest.approx([0.25, 1.0])


def test_the_residual_of_exact_values_falls_as_the_root_of_the_cell_height() -> None:
    """The half cells at the edge leave an error of order one there, which solutions do not feel."""
    assert order(lambda n: float(residual(*manufactured((n, n)))), (32, 64, 128)) == pytest.approx(0.5, abs=0.05)


def test_the_residual_has_the_gradient_of_its_square() -> None:
    a = coefficient((1, 1, 5, 6), "log-normal", generator=generators(0)).requires_grad_()
    u = torch.rand(1, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(residual, (a, u))


# ---- the coefficient ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(32, 32), (31, 48), (20, 50)])
def test_one_seed_is_one_function_on_every_grid(shape: tuple[int, int]) -> None:
    g, fine = (coefficient((2, 1, *s), "log-normal", generator=generators(5, 6)).log() for s in (shape, (64, 64)))
    assert torch.allclose(g, SQUARE.resample(fine, shape), atol=1e-12)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    whole = coefficient((3, 1, 16, 16), generator=generators(5, 6, 7))
    assert torch.equal(whole[1:2], coefficient((1, 1, 16, 16), generator=generators(6)))


def test_the_modes_have_the_operators_own_variance() -> None:
    g = coefficient((4000, 1, 6, 6), "log-normal", generator=torch.Generator().manual_seed(0)).log()
    k = torch.arange(6, dtype=torch.float64)
    law = (PI**2 * (k[:, None] ** 2 + k**2) + 9) ** -2
    ratio = SQUARE.analyze(g).square().mean((0, 1)) / law
    assert float(law[0, 0]) == pytest.approx(1 / 81)
    assert float((ratio - 1).abs().max()) < 4.5 * math.sqrt(2 / 4000)


def test_fnos_own_law_is_three_times_as_large_and_has_no_constant_mode() -> None:
    g, theirs = (
        SQUARE.analyze(coefficient((1, 1, 9, 9), "log-normal", generator=generators(1), **options).log())[0, 0]
        for options in ({}, {"scale": 3.0, "constant_mode": False})
    )
    assert float(theirs[0, 0]) == pytest.approx(0, abs=1e-12)
    theirs[0, 0] = 3 * g[0, 0]
    assert torch.allclose(theirs, 3 * g, atol=1e-12)


def test_the_two_values_are_the_signs_of_the_same_field() -> None:
    kinds: tuple[darcy.Kind, darcy.Kind] = ("two-valued", "log-normal")
    a, g = (coefficient((4, 1, 20, 20), kind, generator=generators(*range(4))) for kind in kinds)
    assert torch.equal(a, torch.where(g >= 1, 12.0, 3.0).double())


def test_layers_are_the_signs_of_a_field_that_is_smooth_along_them() -> None:
    k = torch.arange(20, dtype=torch.float64)
    std = 1 / (PI**2 * (k[:, None] ** 2 + 9 * k**2) + 9)
    white = SQUARE.white((4, 1), (20, 20), generator=generators(*range(4)), dtype=torch.float64)
    a = coefficient((4, 1, 20, 20), "layered", generator=generators(*range(4)))
    assert torch.equal(a, torch.where(SQUARE.synthesize(white * std, (20, 20)) >= 0, 12.0, 3.0).double())


# ---- the data set -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs() -> Darcy:
    return Darcy(6, seed=1, fine=96)


def test_a_coarse_grid_averages_the_fine_solution(pairs: Darcy) -> None:
    fine = pairs.batch([4, 0], (96, 96))["x"]
    assert fine.shape == (2, 2, 96, 96)
    assert float(residual(fine[:, :1].double(), solve(fine[:, :1].double())).max()) < 1e-10
    assert torch.allclose(fine[:, 1:], solve(fine[:, :1]), atol=1e-9)
    assert torch.allclose(pairs.batch([4], (48, 48))["x"], SQUARE.average(fine, (48, 48))[:1], atol=1e-6)
    assert torch.allclose(pairs.batch([0], (36, 25))["x"], SQUARE.average(fine, (36, 25))[1:], atol=1e-6)
    mean = pairs.batch([4, 0], (31, 31))["x"].mean((2, 3))
    assert torch.allclose(mean, fine.mean((2, 3)), rtol=1e-5)


def test_a_sample_is_a_function_of_the_seed_and_its_index(pairs: Darcy) -> None:
    x = pairs.batch([2, 3], (24, 24))["x"]
    assert torch.equal(Darcy(4, seed=1, fine=96).batch([3], (24, 24))["x"][0], x[1])
    assert not torch.equal(x[0], x[1])
    assert not torch.equal(Darcy(4, seed=2, fine=96).batch([3], (24, 24))["x"][0], x[1])


def test_the_targets_show_the_same_pairs(pairs: Darcy) -> None:
    pair = pairs.batch([1, 5], (32, 20))["x"]
    solution = Darcy(6, seed=1, fine=96, target="solution").batch([1, 5], (32, 20))
    alone = Darcy(6, seed=1, fine=96, target="coefficient").batch([1, 5], (32, 20))
    assert (solution.keys(), alone.keys()) == ({"x", "field"}, {"x"})
    assert torch.equal(torch.cat([solution["field"], solution["x"]], dim=1), pair)
    assert torch.equal(alone["x"], pair[:, :1])


def test_the_options_reach_the_coefficient() -> None:
    options = {"kind": "log-normal", "scale": 3.0, "constant_mode": False}
    fields = Darcy(2, fine=16, target="coefficient", **options)
    expected = coefficient((1, 1, 16, 16), generator=fields.generator(1), **options)
    assert torch.equal(fields.batch([1], (16, 16))["x"], expected.float())


def test_each_sample_is_solved_once_while_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    solved = []
    monkeypatch.setattr(darcy, "solve", lambda a, f=1.0: solved.append(a) or solve(a, f))
    fields = Darcy(5, fine=8, keep=2)
    fields.batches([0, 1, 0], [(8, 8), (4, 4)])
    assert len(solved) == 2
    fields.batch([2], (4, 4))  # 1 goes, the longest unused
    fields.batch([0, 2], (4, 4))
    assert len(solved) == 3
    fields.batch([1], (4, 4))  # 0 goes
    assert len(solved) == 4
    fields.batch([1, 2], (4, 4))
    assert len(solved) == 4
    fields.batch([0], (4, 4))
    assert len(solved) == 5


def test_samples_are_drawn_from_different_seeds() -> None:
    fields = Darcy(100_000, seed=3)
    assert len({fields.generator(i).initial_seed() for i in range(2000)}) == 2000
    assert fields.generator(7).initial_seed() != Darcy(8, seed=4).generator(7).initial_seed()


def test_a_pickled_copy_gives_the_same(pairs: Darcy) -> None:
    copy = pickle.loads(pickle.dumps(pairs))
    assert torch.equal(copy.batch([3], (12, 12))["x"], pairs.batch([3], (12, 12))["x"])


# ---- mistakes -----------------------------------------------------------------------------------------------------

ONES = torch.ones(1, 1, 4, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: solve(ONES[0]), r"\(B, C, \*spatial\)"),
        (lambda: solve(ONES.repeat(1, 2, 1, 1)), r"a of shape \(B, 1, n, m\).* got \(1, 2, 4, 5\)"),
        (lambda: solve(ONES[..., :1]), "at least 2"),
        (lambda: solve(ONES - 1), "positive, finite a, got values from 0 to 0"),
        (lambda: solve(ONES / 0), "positive, finite a"),
        (lambda: solve(ONES, ONES[..., :2]), r"broadcasts to a's shape \(1, 1, 4, 5\), got \(1, 1, 4, 2\)"),
        (lambda: solve(ONES, math.nan), "finite f"),
        (lambda: residual(ONES, ONES[..., :2]), r"one shape, got \(1, 1, 4, 5\) and \(1, 1, 4, 2\)"),
        (lambda: residual(-ONES, ONES), "residual: expected a positive"),
        (lambda: coefficient((1, 1, 4)), "expected a grid of 2"),
        (
            lambda: coefficient((1, 1, 4, 4), "three-valued"),
            "'two-valued', 'log-normal', 'layered', got 'three-valued'",
        ),
        (lambda: coefficient((1, 1, 4, 4), scale=0.0), "scale > 0, got 0.0"),
        (lambda: Darcy(-1), "integer count >= 0, got -1"),
        (lambda: Darcy(1, seed=0.5), "integer seed >= 0, got 0.5"),
        (lambda: Darcy(1, fine=1), "integer fine >= 2, got 1"),
        (lambda: Darcy(1, kind="x"), "Darcy: expected kind one of"),
        (lambda: Darcy(1, target="x"), "Darcy: expected target one of"),
        (lambda: Darcy(1, scale=math.inf), "Darcy: expected a scale"),
        (lambda: Darcy(1, fine=8).batch([0], (8, 9)), r"no finer than the solver's 8 x 8, got \(8, 9\)"),
        (lambda: Darcy(1, fine=8).batch([0], (8,)), "expected a grid of 2"),
        (lambda: Darcy(1, fine=8).batch([1], (8, 8)), "indices from 0 to 0, got 1"),
        (lambda: Darcy(1, fine=8).batch([], (8, 8)), "at least one index"),
    ],
)
def test_mistakes_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# ---- datasets/darcy.py --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("darcy_script", Path(__file__).parents[1] / "datasets/darcy.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("target", ["pair", "solution", "coefficient"])
def test_the_script_writes_the_samples(target: darcy.Target, script: ModuleType, tmp_path: Path) -> None:
    arguments = [str(tmp_path / "a.h5"), "--count", "3", "--fine", "16", "--resolutions", "5", "8", "--seed", "2"]
    script.main([*arguments, "--kind", "log-normal", "--target", target, "--no-constant-mode", "--scale", "3"])
    fields = HDF5Fields(tmp_path / "a.h5")
    options = {"kind": "log-normal", "scale": 3.0, "constant_mode": False}
    expected = Darcy(3, 2, fine=16, target=target, **options).batch(range(3), (5, 5))
    batch = fields.batch(range(3), (5, 5))
    assert batch.keys() == expected.keys()
    assert all(torch.equal(batch[key], expected[key]) for key in batch)
    attributes = {"licence": "generated", "grid": "cell averages", "fine": 16, "seed": 2, "constant_mode": 0}
    assert {key: fields.attributes[key] for key in attributes} == attributes


def test_the_script_ends_with_a_message_on_a_mistake(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stop:
        script.main([str(tmp_path / "a.h5"), "--count", "3", "--fine", "16", "--resolutions", "17"])
    assert stop.value.code == 1
    assert "no finer than the solver's 16 x 16, got (17, 17)" in capsys.readouterr().err
