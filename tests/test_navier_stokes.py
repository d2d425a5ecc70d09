"""Two-dimensional flow: exact decay, fourth-order steps, what is conserved, and one truth on every grid."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from fnodiff.data import HDF5Fields
from fnodiff.domain import Torus
from fnodiff.equations.navier_stokes import NavierStokes, benchmark_forcing, initial_vorticity, solve

TORUS = Torus(2)
TAU = 2 * math.pi


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def turbulent(shape: tuple[int, int] = (32, 32), batch: int = 1) -> Tensor:
    """A smooth flow with velocities near 0.3, so that vortices turn about once in a unit time or two."""
    w = initial_vorticity((batch, 1, *shape), generator=generators(*range(batch)))
    return w * (3 / w.square().mean((-2, -1), keepdim=True).sqrt())


def relative(w: Tensor, truth: Tensor) -> float:
    return float(TORUS.norm(w - truth).max() / TORUS.norm(truth).max())


def enstrophy(w: Tensor) -> Tensor:
    return w.square().mean((-2, -1))


def energy(w: Tensor) -> Tensor:
    """Twice the kinetic energy: the mean of w psi."""
    psi = TORUS.filter(w, lambda eigenvalues: torch.where(eigenvalues > 0, 1 / eigenvalues.clamp(min=1), 0))
    return (w * psi).mean((-2, -1))


# ---- the solver ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "l", "shape"), [(1, 1, (16, 16)), (2, 1, (16, 20)), (3, 3, (33, 24))])
def test_a_taylor_green_vortex_decays_at_its_rate(k: int, l: int, shape: tuple[int, int]) -> None:  # noqa: E741
    """One wavenumber: the advection vanishes, and w = w0 exp(-nu |k|^2 t)."""
    x, y = TORUS.points(shape, dtype=torch.float64)
    w0 = ((TAU * k * x).cos() * (TAU * l * y).cos() + (TAU * (k * x - l * y)).sin())[None, None]
    w = solve(w0, 2.0, 1e-2, save=(0.0, 0.5, 2.0))
    decay = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64) * (-1e-2 * TAU**2 * (k**2 + l**2))
    assert relative(w, w0 * decay.exp()[:, None, None]) < 1e-11


def test_the_vorticity_is_carried_by_its_velocity() -> None:
    """The rate of change at time 0 is -(u, v) . grad w + nu Delta w + f, with derivatives taken by hand."""
    x, y = TORUS.points((24, 24), dtype=torch.float64)
    w0 = (TAU * x).sin() + (2 * TAU * y).cos()
    u, v = -(2 * TAU * y).sin() / (2 * TAU), -(TAU * x).cos() / TAU  # psi = sin(tau x) / tau^2 + cos(2 tau y) / 4 tau^2
    advection = u * TAU * (TAU * x).cos() - v * 2 * TAU * (2 * TAU * y).sin()
    diffusion = -(TAU**2) * ((TAU * x).sin() + 4 * (2 * TAU * y).cos())
    f = (TAU * (x + 2 * y)).cos()
    rate = -advection + 1e-2 * diffusion + f
    small = 1e-4
    ahead = solve(w0[None, None], small, 1e-2, forcing=f)
    twice = solve(w0[None, None], 2 * small, 1e-2, forcing=f)
    change = (4 * ahead - twice - 3 * w0) / (2 * small)
    assert relative(change, rate[None, None]) < 1e-6


@pytest.fixture(scope="module")
def truth() -> Tensor:
    """A turbulent flow at time 1, by steps small enough to count as exact."""
    return solve(turbulent(), 1.0, 1e-3, dt=1 / 512, forcing=benchmark_forcing)


def test_steps_are_of_fourth_order(truth: Tensor) -> None:
    steps = torch.tensor([1 / 32, 1 / 64, 1 / 128], dtype=torch.float64)
    errors = [relative(solve(turbulent(), 1.0, 1e-3, dt=float(dt), forcing=benchmark_forcing), truth) for dt in steps]
    slopes = torch.tensor(errors, dtype=torch.float64).log().diff() / steps.log().diff()
    assert slopes.tolist() == pytest.approx([4, 4], abs=0.25)


def test_the_default_steps_are_small_enough(truth: Tensor) -> None:
    assert relative(solve(turbulent(), 1.0, 1e-3, forcing=benchmark_forcing), truth) < 1e-3


def test_a_forced_flow_from_rest_takes_enough_steps() -> None:
    """At rest no speed limits the step; f of one wavenumber drives w = f (1 - exp(-nu |k|^2 t)) / (nu |k|^2)."""
    x, y = TORUS.points((16, 16), dtype=torch.float64)
    f = 0.1 * ((TAU * (x + y)).sin() + (TAU * (x + y)).cos())
    rate = 1e-3 * 2 * TAU**2
    w = solve(torch.zeros(1, 1, 16, 16, dtype=torch.float64), 5.0, 1e-3, forcing=benchmark_forcing)
    assert relative(w, f[None, None] * (1 - math.exp(-5 * rate)) / rate) < 1e-7


def test_without_viscosity_energy_and_enstrophy_stay() -> None:
    w0 = turbulent(batch=2)
    w = solve(w0, 2.0, 0.0, save=(0.0, 1.0, 2.0))
    assert relative(w[:, 2:], w[:, :1]) > 0.5  # it did move
    conserved = torch.stack([enstrophy(w), energy(w)])
    assert float((conserved / conserved[:, :, :1] - 1).abs().max()) < 1e-3
    fine = solve(w0, 2.0, 0.0, dt=1 / 256, save=(0.0, 2.0))
    conserved = torch.stack([enstrophy(fine), energy(fine)])
    assert float((conserved / conserved[:, :, :1] - 1).abs().max()) < 1e-7


def test_with_viscosity_enstrophy_falls_as_palinstrophy_says() -> None:
    """d/dt mean w^2 = -2 nu mean |grad w|^2."""
    times = [i / 50 for i in range(51)]
    w = solve(turbulent(), 1.0, 2e-3, save=times)
    assert bool((enstrophy(w).diff() < 0).all())
    palinstrophy = (w * TORUS.filter(w, lambda eigenvalues: eigenvalues)).mean((-2, -1))
    lost = 4e-3 * torch.trapezoid(palinstrophy, dx=0.02)
    assert float((enstrophy(w)[:, 0] - enstrophy(w)[:, -1]) / lost) == pytest.approx(1, abs=1e-3)


def test_a_shifted_and_turned_flow_is_the_flow_shifted_and_turned() -> None:
    w0 = turbulent((24, 36))
    options = {"dt": 1 / 64, "forcing": None}
    w = solve(w0, 0.5, 1e-3, **options)
    assert torch.allclose(solve(w0.roll((5, 7), (2, 3)), 0.5, 1e-3, **options), w.roll((5, 7), (2, 3)), atol=1e-10)
    mirrored = -w0.mT  # a reflection changes the sign of the vorticity
    assert torch.allclose(solve(mirrored, 0.5, 1e-3, **options), -w.mT, atol=1e-10)


def test_grids_agree_on_a_resolved_flow() -> None:
    w0 = turbulent((16, 16))
    coarse = solve(TORUS.resample(TORUS.resample(w0, (9, 9)), (48, 48)), 0.5, 1e-2)
    fine = solve(TORUS.resample(TORUS.resample(w0, (9, 9)), (64, 50)), 0.5, 1e-2)
    assert relative(TORUS.resample(fine, (31, 31)), TORUS.resample(coarse, (31, 31))) < 1e-5


def test_modes_beyond_two_thirds_are_dropped_and_the_mean_stays() -> None:
    x, _ = TORUS.points((12, 12), dtype=torch.float64)
    kept, dropped = (TAU * 3 * x).cos(), (TAU * 4 * x).cos()  # 3 < 12/3, and 4 is not
    w = solve((2 + kept + dropped)[None, None], 1.0, 1e-9, forcing=torch.tensor(0.5), save=(0.0, 1.0))
    assert torch.allclose(w[0, 0], 2 + kept, atol=1e-12)
    assert float(w[0, 1].mean()) == pytest.approx(2.5)


def test_saved_times_do_not_depend_on_each_other() -> None:
    w0 = turbulent((16, 16))
    several = solve(w0, 1.0, 1e-3, dt=0.01, save=(0.3, 0.71, 1.0))
    assert relative(several[:, 2:], solve(w0, 1.0, 1e-3, dt=0.01)) < 1e-6
    assert torch.equal(several[:, :1], solve(w0, 0.3, 1e-3, dt=0.01))


def test_a_forcing_is_a_function_or_its_values() -> None:
    w0 = turbulent((16, 16)).float()
    values = benchmark_forcing(TORUS.points((16, 16), dtype=torch.float64))
    w = solve(w0, 0.2, 1e-3, forcing=values)
    assert w.dtype == torch.float32
    assert torch.equal(w, solve(w0, 0.2, 1e-3, forcing=benchmark_forcing))
    assert float((w - solve(w0, 0.2, 1e-3)).abs().max()) > 0.01


# ---- the initial law ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(32, 32), (31, 48), (20, 50)])
def test_one_seed_is_one_function_on_every_grid(shape: tuple[int, int]) -> None:
    w, fine = (initial_vorticity((2, 1, *s), generator=generators(5, 6)) for s in (shape, (64, 64)))
    assert torch.allclose(w, TORUS.resample(fine, shape), atol=1e-14)


def test_the_modes_have_the_laws_variance() -> None:
    w = initial_vorticity((3000, 1, 7, 7), generator=torch.Generator().manual_seed(0), scale=2.0)
    k, l = TORUS.wavenumbers((7, 7))  # noqa: E741
    law = 4 * 7**1.5 * (TAU**2 * (k**2 + l**2) + 49) ** -2.5
    ratio = TORUS.analyze(w).abs().square().mean((0, 1)) / law
    assert float(ratio[0, 0]) < 1e-20  # no mean
    ratio[0, 0] = 1.0
    assert float((ratio - 1).abs().max()) < 4.5 / math.sqrt(3000)


# ---- the data set -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flows() -> NavierStokes:
    return NavierStokes(5, seed=1, time=1.0, fine=32, scale=30.0)


def test_a_sample_is_the_solution_of_its_initial_field(flows: NavierStokes) -> None:
    batch = flows.batch([3, 0], (32, 32))
    w0 = initial_vorticity((2, 1, 32, 32), generator=[flows.generator(3), flows.generator(0)], scale=30.0)
    assert torch.allclose(batch["field"], TORUS.resample(TORUS.resample(w0, (21, 21)), (32, 32)).float(), atol=1e-5)
    w = solve(w0, 1.0, 1e-3, dt=1 / 256, forcing=benchmark_forcing)
    assert relative(batch["x"], w.float()) < 1e-3
    assert relative(batch["x"], batch["field"]) > 0.1


def test_every_grid_shows_the_same_functions(flows: NavierStokes) -> None:
    fine = flows.batch([1, 2], (32, 32))
    coarse = flows.batch([1, 2], (22, 27))  # holds all modes: 21 = 2 * 10 + 1
    assert all(torch.allclose(TORUS.resample(coarse[key], (32, 32)), fine[key], atol=1e-5) for key in fine)
    truncated = flows.batch([2], (8, 12))["x"]
    assert torch.allclose(truncated, TORUS.resample(fine["x"][1:], (8, 12)), atol=1e-5)


def test_a_sample_is_a_function_of_the_seed_and_its_index(flows: NavierStokes) -> None:
    x = flows.batch([2, 3], (16, 16))["x"]
    options = {"time": 1.0, "fine": 32, "scale": 30.0}
    assert torch.equal(NavierStokes(4, seed=1, **options).batch([3], (16, 16))["x"][0], x[1])
    assert not torch.equal(x[0], x[1])
    assert not torch.equal(NavierStokes(4, seed=2, **options).batch([3], (16, 16))["x"][0], x[1])


def test_the_step_can_be_set(flows: NavierStokes) -> None:
    options = {"time": 1.0, "fine": 32, "scale": 30.0, "dt": 1 / 128}
    x = NavierStokes(5, seed=1, **options).batch([3], (32, 32))["x"]
    w0 = initial_vorticity((1, 1, 32, 32), generator=flows.generator(3), scale=30.0)
    assert torch.equal(x, solve(w0, 1.0, 1e-3, dt=1 / 128, forcing=benchmark_forcing).float())
    assert not torch.equal(x, flows.batch([3], (32, 32))["x"])


def test_the_initial_field_can_be_left_out(flows: NavierStokes) -> None:
    fields = NavierStokes(5, seed=1, time=1.0, fine=32, scale=30.0, condition=False)
    batch = fields.batch([4], (16, 16))
    assert batch.keys() == {"x"}
    assert torch.equal(batch["x"], flows.batch([4], (16, 16))["x"])


def test_initial_vorticities_alone_are_not_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = NavierStokes(3, 2, fine=16, time=0.1).batch([1], (8, 8))
    monkeypatch.setattr("fnodiff.equations.navier_stokes.solve", None)
    batch = NavierStokes(3, 2, fine=16, target="initial").batch([1], (8, 8))
    assert batch.keys() == {"x"}
    assert torch.allclose(batch["x"], pairs["field"], atol=1e-9)


# ---- mistakes -----------------------------------------------------------------------------------------------------

ZERO = torch.zeros(1, 1, 8, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: solve(ZERO[0], 1, 0), r"\(B, C, \*spatial\)"),
        (lambda: solve(ZERO.repeat(1, 2, 1, 1), 1, 0), r"\(B, 1, n, m\).* got \(1, 2, 8, 8\)"),
        (lambda: solve(ZERO[..., :3], 1, 0), "at least 4"),
        (lambda: solve(ZERO / 0, 1, 0), "finite w0"),
        (lambda: solve(ZERO, 0, 0), "time > 0 and viscosity >= 0, got 0 and 0"),
        (lambda: solve(ZERO, 1, -1e-3), "got 1 and -0.001"),
        (lambda: solve(ZERO, 1, 0, dt=0.0), "dt > 0"),
        (lambda: solve(ZERO, 1, 0, save=(0.5, 0.2)), "increasing times"),
        (lambda: solve(ZERO, 1, 0, save=(0.5, 1.2)), "from 0 to 1"),
        (lambda: solve(ZERO, 1, 0, save=()), "increasing times"),
        (lambda: solve(ZERO, 1, 0, forcing=ZERO[..., :3]), r"broadcasts to w0's shape \(1, 1, 8, 8\), got"),
        (lambda: solve(ZERO, 1, 0, forcing=lambda points: points.sum(0) / 0), "finite forcing"),
        (lambda: solve(turbulent() * 30, 20, 0, dt=0.5), "blew up before time 20.*smaller dt than 0.5"),
        (lambda: initial_vorticity((1, 1, 4)), "expected a grid of 2"),
        (lambda: initial_vorticity((1, 1, 4, 4), scale=-1.0), "scale > 0, got -1.0"),
        (lambda: NavierStokes(1.0), "integer count"),
        (lambda: NavierStokes(1, fine=3), "integer fine >= 4, got 3"),
        (lambda: NavierStokes(1, time=-1.0), "NavierStokes: expected time > 0"),
        (lambda: NavierStokes(1, scale=0.0), "NavierStokes: expected a scale"),
        (lambda: NavierStokes(1, target="start"), "target among .'final', 'initial'.*got 'start'"),
        (lambda: NavierStokes(1, fine=8).batch([0], (9, 8)), r"no finer than the solver's 8 x 8, got \(9, 8\)"),
        (lambda: NavierStokes(1, fine=8).batch([1], (8, 8)), "indices from 0 to 0, got 1"),
    ],
)
def test_mistakes_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# ---- datasets/navier_stokes.py ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).parents[1] / "datasets/navier_stokes.py"
    spec = importlib.util.spec_from_file_location("navier_stokes_script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_writes_the_samples(script: ModuleType, tmp_path: Path) -> None:
    arguments = [str(tmp_path / "a.h5"), "--count", "3", "--fine", "16", "--resolutions", "7", "8", "--seed", "2"]
    script.main([*arguments, "--time", "0.5", "--viscosity", "0.01", "--unforced", "--scale", "30"])
    fields = HDF5Fields(tmp_path / "a.h5")
    source = NavierStokes(3, 2, fine=16, time=0.5, viscosity=0.01, forcing=None, scale=30.0)
    expected, batch = source.batch(range(3), (7, 7)), fields.batch(range(3), (7, 7))
    assert all(torch.equal(batch[key], expected[key]) for key in ("x", "field"))
    attributes = {"licence": "generated", "grid": "points", "fine": 16, "seed": 2, "forcing": "none", "time": 0.5}
    assert {key: fields.attributes[key] for key in attributes} == attributes


def test_the_script_writes_initial_vorticities_alone(script: ModuleType, tmp_path: Path) -> None:
    arguments = ["--target", "initial", "--count", "2", "--fine", "16", "--resolutions", "8"]
    script.main([str(tmp_path / "a.h5"), *arguments])
    fields = HDF5Fields(tmp_path / "a.h5")
    assert fields.attributes["target"] == "initial"
    batch = fields.batch(range(2), (8, 8))
    assert batch.keys() == {"x"}
    assert torch.equal(batch["x"], NavierStokes(2, fine=16, target="initial").batch(range(2), (8, 8))["x"])


def test_the_script_ends_with_a_message_on_a_mistake(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stop:
        script.main([str(tmp_path / "a.h5"), "--count", "3", "--time", "-1"])
    assert stop.value.code == 1
    assert "time > 0" in capsys.readouterr().err
