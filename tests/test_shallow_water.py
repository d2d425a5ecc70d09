"""The shallow-water flow: its equations, what they conserve, and the data set."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from fnodiff import Sphere
from fnodiff.data import HDF5Fields
from fnodiff.equations import ShallowWater
from fnodiff.equations.shallow_water import _Flow

SMALL = {"fine": 16, "first": 0.5, "snapshots": 2}


def start(flow, count=2, wind=15.0):
    return flow.start([torch.Generator().manual_seed(i) for i in range(count)], wind)


class TestFlow:
    def test_tendency_is_torch_harmonics(self):
        flow = _Flow(16, 600.0, 2000.0)
        u = start(flow)
        u[:, 2] = 0.3 * u[:, 1].roll(1, 0)  # some divergence too
        for state, change in zip(u, flow.change(u), strict=True):
            theirs = flow.solver.dudtspec(state)
            assert float((change - theirs).abs().max()) < 1e-12 * float(theirs.abs().max())

    def test_starts_in_balance(self):
        """No divergence, no tendency to one but what products lose, and the wind that was asked for, on average."""
        flow = _Flow(32, 600.0, 2000.0)
        u = start(flow, 40, wind=12.0)
        assert float(u[:, 2].abs().max()) == 0
        unbalanced = u.clone()
        unbalanced[:, 0, 1:] = 0
        tendency, without = (flow.change(v)[:, 2].abs().square().sum() for v in (u, unbalanced))
        assert float(tendency) < 1e-3 * float(without)
        wind = flow.solver.getuv(u[:, 1:]).square().sum(1)
        mean = float((wind * Sphere().weights((32, 64), dtype=torch.float64)).sum((1, 2)).mean().sqrt())
        assert mean == pytest.approx(12.0, rel=0.1)
        assert float(flow.seen(u)[:, 0].min()) > 0

    def test_solid_rotation_in_balance_is_steady(self):
        """Williamson's second case: u = u0 sin(colatitude), and the height that balances it, for two days."""
        flow, speed = _Flow(16, 800.0, 3000.0), 20.0  # holds it, as harmonics of degree 2 and less
        theta = Sphere().points((16, 32), dtype=torch.float64)[0]
        radius, omega = float(flow.solver.radius), float(flow.solver.omega)
        vorticity = 2 * speed / radius * theta.cos()
        geopotential = 3000.0 * 9.80616 - (radius * omega * speed + speed**2 / 2) * theta.cos().square()
        u = flow.solver.grid2spec(torch.stack([geopotential, vorticity, torch.zeros_like(theta)]))[None]
        before, now = [], u
        for _ in range(216):
            now, before = flow.step(now, before)
        change = (flow.seen(now) - flow.seen(u)).abs().amax((2, 3))[0]
        assert float(change[0]) < 1e-3, "metres"
        assert float(change[1]) < 1e-6 * float(vorticity.abs().max())
        assert float(flow.seen(u)[:, 0].amax() - flow.seen(u)[:, 0].amin()) > 800, "and not because nothing is there"

    def test_damps_the_highest_degree_in_two_hours_and_three_quarters_of_it_in_a_week(self):
        flow = _Flow(48, 400.0, 2000.0)  # 32 degrees
        rate = -flow.solver.hyperdiff[:, 0].log() / 400.0
        assert 1 / float(rate[31]) == pytest.approx(2 * 3600)
        assert 0.5 < 1 / float(rate[24]) / (7 * 86_400) < 2
        u = start(flow)
        still = torch.cat([u[:, :1], torch.zeros_like(u[:, 1:])], dim=1)
        still[:, 1, 31, 5] = 1e-9
        after, _ = flow.step(still, [])
        assert float(after[0, 1, 31, 5].abs()) == pytest.approx(1e-9 * math.exp(-400 / 7200), rel=1e-2)

    def test_conserves_mass_and_nearly_energy(self):
        flow = _Flow(32, 400.0, 2000.0)
        first, before = start(flow), []
        now = first
        for _ in range(216):
            now, before = flow.step(now, before)
        weights = Sphere().weights((32, 64), dtype=torch.float64)

        def energy(u):
            geopotential, wind = flow.solver.spec2grid(u[:, 0]), flow.solver.getuv(u[:, 1:]).square().sum(1)
            return ((geopotential * wind / 2 + geopotential.square() / 2) * weights).sum((1, 2))

        torch.testing.assert_close(now[:, 0, 0, 0], first[:, 0, 0, 0], rtol=1e-12, atol=0)
        rest = (float(first[0, 0, 0, 0].real) / math.sqrt(4 * math.pi)) ** 2 / 2  # of a flow at rest
        assert float(((energy(now) - energy(first)) / (energy(first) - rest)).abs().max()) < 0.02
        vorticity = flow.seen(first)[:, 1]
        assert float((flow.seen(now)[:, 1] - vorticity).square().mean() / vorticity.var()) > 0.2, "something happened"


class TestDataSet:
    def test_sample_depends_on_seed_and_index_alone(self):
        data, again = (ShallowWater(10, 3, **SMALL) for _ in range(2))
        first = data.batch([0, 5, 9], (16, 32))["x"]
        alone = again.batch([5], (16, 32))["x"]
        scale = first.std((0, 2, 3))[None, :, None, None]
        torch.testing.assert_close(first[1:2] / scale, alone / scale, atol=1e-5, rtol=1e-5)
        other = ShallowWater(10, 4, **SMALL).batch([5], (16, 32))["x"]
        assert float(((other - alone) / scale).abs().mean()) > 0.1

    def test_snapshots_follow_one_another(self):
        data = ShallowWater(6, 0, every=0.25, **SMALL)
        x = data.batch(range(6), (16, 32))["x"][:, 1]
        x = x - x.mean((1, 2), keepdim=True)
        alike = torch.corrcoef(x.flatten(1))
        assert float(alike[0, 1]) > 0.5
        assert abs(float(alike[0, 2])) < 0.5

    def test_snapshots_are_days_apart_and_in_order(self):
        """The second snapshot is the first of a data set that begins so much later, but for the first step's lower order."""
        data = ShallowWater(2, 0, fine=16, first=0.5, every=0.5, snapshots=2)
        later = ShallowWater(1, 0, fine=16, first=1.0, every=0.5, snapshots=1)
        (first, second), (same,) = data.batch([0, 1], (16, 32))["x"][:, 1], later.batch([0], (16, 32))["x"][:, 1]
        assert float((second - same).std()) < 0.03 * float(same.std())
        assert float((first - same).std()) > 0.2 * float(same.std())

    def test_is_seen_on_any_grid_of_either_kind(self):
        data, other = ShallowWater(2, 0, **SMALL), ShallowWater(2, 0, domain=Sphere("equiangular"), **SMALL)
        fine, coarse = (data.batch([1], shape)["x"] for shape in ((16, 32), (11, 22)))
        scale = fine.std((0, 2, 3))[None, :, None, None]
        torch.testing.assert_close(Sphere().resample(fine, (11, 22)) / scale, coarse / scale, atol=1e-4, rtol=1e-4)
        x = other.batch([1], (16, 31))["x"]
        torch.testing.assert_close(
            Sphere("equiangular").analyze(x)[..., :6, :6] / scale, Sphere().analyze(fine)[..., :6, :6] / scale,
            atol=1e-4, rtol=1e-4,
        )  # fmt: skip
        assert fine.dtype == torch.float32
        assert fine.shape == (1, 2, 16, 32)

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"fine": 8}, "fine >= 16"),
            ({"wind": 0.0}, "wind > 0"),
            ({"snapshots": 0}, "one snapshot"),
            ({"every": -1.0}, "every > 0"),
        ],
    )
    def test_bad_arguments(self, arguments, match):
        with pytest.raises(ValueError, match=match):
            ShallowWater(2, **arguments)

    def test_keeps_as_many_as_it_may(self):
        whole, asked = ShallowWater(6, 0, **SMALL), ([0, 3, 5], [3, 3], [1])
        y, first = whole.batch([0, 3, 5, 3, 3, 1], (8, 16))["x"], whole.generator(0).initial_seed()
        for keep, trajectories in ((1, [0, 1, 2, 1, 0]), (6, [0, 1, 2])):
            data = Counted(6, 0, keep=keep, **SMALL)
            x = torch.cat([data.batch(indices, (8, 16))["x"] for indices in asked])
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4 * float(y[:, 1].abs().max()))
            assert [seed - first for seed in data.seeds] == trajectories

    def test_too_fine_a_grid(self):
        with pytest.raises(ValueError, match="16 x 32"):
            ShallowWater(2, **SMALL).batch([0], (32, 64))

    def test_a_flow_too_strong_blows_up_loudly(self):
        with pytest.raises(ValueError, match="lower the wind"):
            ShallowWater(1, wind=80.0, depth=200.0, **SMALL).batch([0], (8, 16))

    def test_a_flow_that_falls_dry_is_no_sample(self):
        with pytest.raises(ValueError, match="fell dry"):
            ShallowWater(4, wind=30.0, depth=1000.0, **SMALL).batch([0, 2], (8, 16))


class Counted(ShallowWater):
    """It notes the seeds of the trajectories that it solves."""

    def trajectories(self, generators):
        self.seeds = [*getattr(self, "seeds", []), *(g.initial_seed() for g in generators)]
        return super().trajectories(generators)


# ---- datasets/shallow_water.py ------------------------------------------------------------------------------------


@pytest.fixture
def script():
    path = Path(__file__).parents[1] / "datasets/shallow_water.py"
    spec = importlib.util.spec_from_file_location("shallow_water_script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_script_writes_what_the_source_gives(script, tmp_path):
    out = tmp_path / "a.h5"
    options = ["--fine", "16", "--first", "0.5", "--snapshots", "2", "--grid", "equiangular"]
    script.main([str(out), "--count", "3", "--resolutions", "9", "16", *options])
    fields, source = HDF5Fields(out), ShallowWater(3, 0, domain=Sphere("equiangular"), **SMALL)
    assert fields.shapes == [(9, 18), (16, 32)]
    assert fields.attributes["latitudes"] == "equiangular"
    x, y = ([data.batch([0, 2], shape)["x"] for shape in fields.shapes] for data in (fields, source))
    scales = [field.std((0, 2, 3), keepdim=True) for field in y]
    torch.testing.assert_close(
        [a / scale for a, scale in zip(x, scales, strict=True)], [b / scale for b, scale in zip(y, scales, strict=True)]
    )


def test_script_ends_with_a_message(script, tmp_path, capsys):
    with pytest.raises(SystemExit):
        script.main([str(tmp_path / "a.h5"), "--count", "2", "--fine", "16", "--resolutions", "32"])
    assert "no finer than the solver's 16 x 32" in capsys.readouterr().err
