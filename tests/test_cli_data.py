"""What people bring to the command line: labelled files, variables of their own, grey pictures, small ones, masks."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from test_well import write

from fnodiff import Box, Model, Product, Torus
from fnodiff.cli import main
from fnodiff.cli.data import ArrayOptions, DomainOptions, true_fields

TRAIN = ["--steps", "2", "--batch", "4", "--network", "tiny", "--hidden-channels", "8", "--num-blocks", "0", "--quiet"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*arguments: str) -> Model:
    assert main(["train", *arguments, *TRAIN]) == 0
    return Model.from_pretrained(Path("run"))


def test_a_netcdf_file_of_the_globe(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    xarray = pytest.importorskip("xarray")
    x = np.random.default_rng(0).normal(280, 5, (8, 17, 32))
    x[:, 5:7, 5:9] = np.nan  # such as land
    coordinates = {"lat": np.linspace(-90, 90, 17), "lon": np.arange(32) * 11.25}
    xarray.Dataset({"sst": (("time", "lat", "lon"), x)}, coordinates).to_netcdf("a.nc")
    assert main(["train", "a.nc", "--x", "sst", "--shapes", "9x16", "--lengths", "1", "2", *TRAIN]) == 2
    assert "omit --lengths where a.nc says its domain itself" in capsys.readouterr().err
    model = train("a.nc", "--x", "sst", "--shapes", "9x16", "17x32")
    assert str(model.sde.domain) == "Sphere(grid='equiangular')"
    assert model.normalization.mean[0] == pytest.approx(np.nanmean(x), abs=0.5)
    assert main(["sample", "run", "--size", "9x16", "--seeds", "0-1", "--steps", "2", "--out", "drawn", "--quiet"]) == 0
    (file,) = Path("drawn").glob("*.h5")
    with xarray.open_dataset(file, group="9x16") as data:
        assert data.x.dims == ("sample", "channel", "latitude", "longitude")
        assert data.latitude.values[[0, -1]].tolist() == [90, -90]
    options = [
        "--data",
        "a.nc",
        "--x",
        "sst",
        "--sizes",
        "9x16",
        "--seeds",
        "0-1",
        "--steps",
        "2",
        "--out",
        "drawn",
        "--quiet",
    ]
    assert main(["evaluate", "run", *options]) == 0
    found = json.loads(Path("drawn/distances.json").read_text())["sizes"]["9x16"]
    assert found["other true"]["spectrum"] < 1
    assert found["sampled"]["spectrum"] < 2  # what is missing is no 0 K


def test_files_of_the_well(place: Path, capsys: pytest.CaptureFixture) -> None:
    Path("data").mkdir()
    write(Path("data/a.hdf5"), ("PERIODIC", "WALL"))
    velocity = ArrayOptions(x=("velocity",), numbers=("seed",))
    assert DomainOptions().make("data", velocity) is None, "the files say it"
    fields = velocity.open("data", None)
    assert (fields.domain, fields.channels) == (Product([Torus(1, (2.0,)), Box(1, (1.0,))]), 2)
    assert fields.batch([0, 5], (8, 6))["condition"].tolist() == [[7.0], [8.0]]
    true = true_fields("data", ArrayOptions(x=("density",), field="porosity"), fields.domain, 6, None)
    assert (true.channels, true.batch([0], (4, 3))["field"].shape) == (1, (1, 1, 4, 3))
    assert main(["train", "data/a.hdf5", "--mask", "porosity", "--shapes", "8x6", *TRAIN]) == 2
    assert "expected no --mask with data/a.hdf5" in capsys.readouterr().err


def test_variables_in_arrays_of_their_own(place: Path) -> None:
    with h5py.File("a.hdf5", "w") as file:
        for name in ("Vx", "Vy"):
            file[name] = np.random.default_rng(0).random((8, 16, 16)).astype("f4")
    assert train("a.hdf5", "--x", "Vx", "Vy", "--domain", "torus", "--shapes", "16").channels == 2


def pictures(folder: str, sizes: list[int]) -> None:
    rng = np.random.default_rng(0)
    Path(folder).mkdir()
    for i, n in enumerate(sizes):
        Image.fromarray(rng.integers(0, 256, (n, n), dtype=np.uint8)).save(Path(folder, f"{i}.png"))


def test_grey_pictures_are_trained_on_and_drawn_as_such(place: Path) -> None:
    pictures("in", [16] * 8)
    assert train("in", "--channels", "1", "--shapes", "8", "16").channels == 1
    assert main(["sample", "run", "--size", "16", "--seeds", "0-1", "--steps", "2", "--out", "drawn", "--quiet"]) == 0
    assert [Image.open(file).mode for file in sorted(Path("drawn/16x16").iterdir())] == ["L", "L"]
    options = ["--size", "32", "--seeds", "0", "--out", "finer", "--steps", "2", "--quiet"]
    assert main(["upscale", "run", "in/0.png", *options]) == 0
    assert Image.open("finer/32x32/seed-000000.png").mode == "L"


def test_small_pictures_are_named_or_left_out(place: Path, capsys: pytest.CaptureFixture) -> None:
    pictures("in", [16, 16, 9, 16])
    arguments = ["train", "in", "--shapes", "8", "16", "--out", "run", *TRAIN]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "2.png is 9x9" in said and "--skip" in said and len(said.splitlines()) == 1
    assert main([*arguments, "--skip"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.npy", "--domain", "box", "--skip"], "pictures with --channels and --skip"),
        (["a.nc", "--x", "u"], "cannot be read"),
        (["gone.zarr"], "not there"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str], message: str, place: Path, capsys: pytest.CaptureFixture
) -> None:
    np.save("a.npy", np.zeros((4, 8, 8)))
    Path("a.nc").write_text("nothing of the kind")
    assert main(["train", *arguments, "--shapes", "8", *TRAIN]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1, said
