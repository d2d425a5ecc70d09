"""Measured terrain: the field is what its documentation says, and held-out windows share no cell with those to train on."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path
from types import ModuleType

import pytest
import torch
from matplotlib import cbook

from fnodiff.data.hdf5 import HDF5Fields
from fnodiff.data.loader import MultiResolution
from fnodiff.data.terrain import CELL, SHAPE, Terrain, elevation
from fnodiff.domain import Box


def test_the_field_is_the_one_documented() -> None:
    field, file = elevation(), cbook.get_sample_data("jacksboro_fault_dem.npz")
    assert (tuple(field.shape), float(field.min()), float(field.max())) == (SHAPE, 236, 1076)
    assert float(file["dx"]) == float(file["dy"]) == pytest.approx(1 / 1200)
    assert float(file["xmax"] - file["xmin"]) * 1200 == pytest.approx(SHAPE[1])
    # The summit, Cross Mountain, shows that rows go south from ymax, and that ymin, north of it, has the wrong sign.
    row, column = divmod(int(field.argmax()), SHAPE[1])
    assert float(file["ymin"] - file["ymax"]) * 1200 == pytest.approx(SHAPE[0])
    assert float(file["ymax"]) - (row + 0.5) / 1200 == pytest.approx(36.1983, abs=1 / 1200)
    assert float(file["xmin"]) + (column + 0.5) / 1200 == pytest.approx(-84.2306, abs=1 / 1200)
    assert CELL == pytest.approx((92.66, 74.68), abs=0.01)


# ---- windows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [96, 48, 32, 24, 40])
def test_a_window_is_the_average_of_its_cells(n: int) -> None:
    terrain = Terrain(8, seed=3)
    batch = terrain.batch([5, 2], (n, n))
    assert (list(batch), batch["x"].dtype, tuple(batch["x"].shape)) == (["x"], torch.float32, (2, 1, n, n))
    top, left = terrain.corner(2)
    window = elevation()[None, None, top : top + 96, left : left + 96]
    torch.testing.assert_close(batch["x"][1:], Box(2).average(window, (n, n)).float())


def test_places_depend_on_seed_and_index_alone() -> None:
    corners = [Terrain(50).corner(i) for i in range(50)]
    assert corners == [Terrain(9999).corner(i) for i in range(50)]
    assert len(set(corners)) > 45
    assert len({*corners, *(Terrain(50, seed=1).corner(i) for i in range(50))}) > 90
    assert torch.equal(Terrain(50).batch([7], (24, 24))["x"], Terrain(50).batch([3, 7, 7], (24, 24))["x"][2:])


@pytest.mark.parametrize("strip", [(0, 120), (283, 403), (150, 250), (300, 396)])
def test_windows_to_train_on_and_held_out_share_no_cell(strip: tuple[int, int]) -> None:
    seen = torch.zeros(2, *SHAPE, dtype=torch.bool)
    for part, held_out in enumerate((False, True)):
        terrain = Terrain(1500, held_out=held_out, strip=strip)
        for index in range(len(terrain)):
            top, left = terrain.corner(index)
            assert 0 <= top <= SHAPE[0] - 96
            assert 0 <= left <= SHAPE[1] - 96
            seen[part, top : top + 96, left : left + 96] = True
    columns = torch.zeros(SHAPE[1], dtype=torch.bool)
    columns[slice(*strip)] = True
    assert torch.equal(seen[1].any(0), columns)  # all of the strip is used, and nothing else
    assert not seen[0][:, columns].any()
    assert seen[0].any(1).all()


def test_both_sides_of_a_strip_are_used() -> None:
    left = torch.tensor([Terrain(400, strip=(150, 250)).corner(i)[1] for i in range(400)])
    west = (left <= 150 - 96).double().mean()
    assert float(west) == pytest.approx(55 / (55 + 58), abs=4 * (0.25 / 400) ** 0.5)
    assert bool(((left <= 54) | (left >= 250)).all())


@pytest.mark.parametrize("n", [96, 40])
def test_centred_windows_have_mean_zero_on_every_grid_and_keep_their_relief(n: int) -> None:
    plain, centred = Terrain(6), Terrain(6, centre=True, scale=100.0)
    x = centred.batch(range(6), (n, n))["x"]
    torch.testing.assert_close(x.mean((2, 3)), torch.zeros(6, 1), atol=1e-5, rtol=0)
    y = plain.batch(range(6), (n, n))["x"]
    torch.testing.assert_close(100 * x, y - y.mean((2, 3), keepdim=True), atol=1e-2, rtol=0)


def test_mirrored_windows_are_the_same_windows() -> None:
    plain, flipped = (Terrain(60, flip=flip).batch(range(60), (32, 32))["x"] for flip in (False, True))
    turned = [plain, plain.flip(2), plain.flip(3), plain.flip(2, 3)]
    found = torch.stack([(t - flipped).abs().amax((1, 2, 3)) < 1e-3 for t in turned])
    assert torch.equal(found.sum(0), torch.ones(60, dtype=torch.long))
    assert int(found.sum(1).min()) >= 5  # 15 expected, and a standard deviation of 3.4
    again = Terrain(60, flip=True).batch([11], (32, 32))["x"]
    assert torch.equal(again, flipped[11:12])


def test_it_is_a_source_to_train_from_and_can_be_pickled() -> None:
    terrain = Terrain(20)
    batch = MultiResolution(terrain, Box(2), [24, 48], batch_size=4)[3]
    assert batch["x"].shape[:2] == (4, terrain.channels)
    assert torch.equal(pickle.loads(pickle.dumps(terrain)).batch([3], (24, 24))["x"], terrain.batch([3], (24, 24))["x"])
    assert terrain.domain.lengths == pytest.approx((96 * CELL[0], 96 * CELL[1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count >= 1"),
        ({"seed": -1}, "seed >= 0"),
        ({"scale": 0.0}, "positive scale"),
        ({"strip": (300, 404)}, "strip 0 <= first < last <= 403"),
        ({"strip": (120, 120)}, "strip 0 <= first"),
        ({"window": 121, "held_out": True}, "fits in the columns 0 to 120, got 121"),
        ({"window": 284}, "fits in the columns 0 to 0 or 120 to 403, got 284"),
        ({"window": 1}, "from 2 to 344"),
        ({"window": 345, "strip": (0, 1)}, "from 2 to 344"),
    ],
)
def test_wrong_arguments_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Terrain(**{"count": 5, **options})


@pytest.mark.parametrize(
    ("index", "shape", "message"),
    [
        (5, (24, 24), "indices from 0 to 4, got 5"),
        (-6, (24, 24), "got -6"),
        (0, (97, 24), "at most 96 x 96, as averaging cannot invent detail, got"),
        (0, (24,), "2 positive sizes"),
    ],
)
def test_batches_that_cannot_be_are_refused(index: int, shape: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Terrain(5).batch([index], shape)


def test_a_matplotlib_without_its_sample_data_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise FileNotFoundError

    elevation.cache_clear()
    monkeypatch.setattr(cbook, "get_sample_data", gone)
    with pytest.raises(ValueError, match="without its sample data"):
        Terrain(5)


# ---- datasets/terrain.py ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("terrain", Path(__file__).parents[1] / "datasets/terrain.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_writes_the_windows(script: ModuleType, tmp_path: Path) -> None:
    script.main([str(tmp_path / "a.h5"), "--count", "5", "--resolutions", "24", "32", "--held-out", "--seed", "2"])
    fields, terrain = HDF5Fields(tmp_path / "a.h5"), Terrain(5, 2, held_out=True, centre=True, scale=100.0)
    assert (fields.shapes, fields.attributes["grid"]) == ([(24, 24), (32, 32)], "cell averages")
    assert fields.attributes["unit"] == "100 m above the window's mean"
    assert torch.equal(fields.batch(range(5), (32, 32))["x"], terrain.batch(range(5), (32, 32))["x"])


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--resolutions", "97"], "averaging cannot invent detail"),
        (["--window", "200", "--held-out"], "fits in the columns"),
        (["--seed", "1"], "attribute windows is seed 0"),
    ],
)
def test_the_script_ends_with_a_message_on_a_mistake(
    extra: list[str], message: str, script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = [str(tmp_path / "a.h5"), "--count", "3", "--resolutions", "24"]
    script.main(arguments)
    with pytest.raises(SystemExit) as stop:
        script.main(arguments + extra)
    assert stop.value.code != 0
    assert message in capsys.readouterr().err
