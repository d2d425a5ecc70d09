"""Situations from public bug reports of neighbouring projects, tried here: see reports.md."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from refused import ORACLE, data

from fnodiff import DFU, Box, DPMSolver, Model, MultiResolution, Sphere, Torus, sample
from fnodiff.data import ArrayFields, ImageFolder, from_xarray

xarray = pytest.importorskip("xarray")

LATITUDES, LONGITUDES = np.arange(-75.0, 90, 30), np.arange(0.0, 360, 30)


def warm(count: int = 3, **coords: object) -> xarray.Dataset:
    """A field that a globe's grid of cell centres holds: sin(latitude) + sample."""
    values = np.sin(np.radians(LATITUDES))[:, None] + np.arange(count)[:, None, None] + np.zeros((6, 12))
    named = {"lat": LATITUDES, "lon": LONGITUDES, **coords}
    return xarray.Dataset({"t2m": (("time", "lat", "lon"), values.astype("float32"))}, coords=named)


def is_warm(fields: ArrayFields, count: int = 3) -> None:
    assert fields.domain == Sphere("cell-centred") and len(fields) == count and fields.channels == 1
    x = fields.batch([count - 1], fields.shape)["x"][0, 0, :, 5]
    expected = np.sin(np.radians(LATITUDES[::-1])) + count - 1  # north first
    torch.testing.assert_close(x, torch.from_numpy(expected.copy()).float(), rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    ("values", "attributes"),
    [
        ([58, 59, 60], {"units": "days since 1999-01-01", "calendar": "noleap"}),
        ([58, 59, 60], {"units": "days since 1999-01-01", "calendar": "360_day"}),
        ([0, 1, 2], {"units": "months since 1850-01-01"}),
        ([0, 1, 2], {"units": "fortnights after now"}),
        ([5, 5, 6], {"units": "hours since 1900-01-01"}),  # the same time twice
    ],
    ids=["noleap", "360_day", "months", "nonsense", "twice"],
)
def test_times_of_any_calendar(values: list[int], attributes: dict[str, str], tmp_path: Path) -> None:
    warm(time=("time", values, attributes)).to_netcdf(tmp_path / "a.nc")
    is_warm(ArrayFields.open(tmp_path / "a.nc"))


def test_bounds_of_cells_are_no_fields(tmp_path: Path) -> None:
    dataset = warm()
    dataset["lat_bnds"] = (("lat", "bnds"), np.stack([LATITUDES - 15, LATITUDES + 15], 1))
    dataset["lat"].attrs["bounds"] = "lat_bnds"
    is_warm(from_xarray(dataset))
    dataset.to_netcdf(tmp_path / "a.nc")
    is_warm(ArrayFields.open(tmp_path / "a.nc"))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.assign_coords(height=2.0, number=0),
        lambda d: d.assign(name=("time", np.array(["a", "b", "c"]))),
        lambda d: d.transpose("lon", "lat", "time"),
        lambda d: d.roll(lon=6, roll_coords=True).assign_coords(lon=LONGITUDES - 180),
    ],
    ids=["scalar coordinates", "names", "turned", "from -180"],
)
def test_what_stands_beside_the_field_and_how_it_lies(change: object, tmp_path: Path) -> None:
    change(warm()).to_netcdf(tmp_path / "a.nc")
    is_warm(ArrayFields.open(tmp_path / "a.nc"))


def test_packed_values_are_right_to_their_step(tmp_path: Path) -> None:
    packing = {"dtype": "int16", "scale_factor": 2e-4, "add_offset": 1.0, "_FillValue": -32768}
    warm().to_netcdf(tmp_path / "a.nc", encoding={"t2m": packing})
    is_warm(ArrayFields.open(tmp_path / "a.nc"))


def test_a_file_without_samples_is_refused(tmp_path: Path) -> None:
    warm().isel(time=slice(0, 0)).to_netcdf(tmp_path / "a.nc")
    with pytest.raises(ValueError, match="expected one sample or more, got none"):
        ArrayFields.open(tmp_path / "a.nc")


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 20)).save(path)


def test_hidden_files_and_folders_are_no_classes(tmp_path: Path) -> None:
    for name in ("a/1.PNG", "b/2.JPG", ".ipynb_checkpoints/1.png"):
        picture(tmp_path / name)
    for name in (".DS_Store", "a/.DS_Store", "a/Thumbs.db"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    source = ImageFolder(tmp_path)
    assert len(source) == 2 and source.num_classes == 2
    os.symlink(tmp_path / "a", tmp_path / "link")
    assert len(ImageFolder(tmp_path / "link")) == 1


def test_pictures_are_turned_as_their_camera_says(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:8] = 255  # white above; turned by 90 degrees clockwise: white at the right
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[274] = 6
    image.save(tmp_path / "a.png", exif=exif)
    x = ImageFolder(tmp_path).batch([0], (16, 16))["x"][0, 0]
    assert x[:, 8:].min() == 1 and x[:, :8].max() == -1


def test_a_picture_cut_short_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read.*on_error"):
        ImageFolder(tmp_path).batch([0], (16, 16))


def test_the_third_of_a_batch_is_itself_alone() -> None:
    batch, alone = (sample(ORACLE, 16, seeds, solver=DPMSolver(2)) for seeds in ([5, 6, 7, 7], [7]))
    assert torch.equal(batch[2:3], alone) and torch.equal(batch[2], batch[3])


@pytest.mark.parametrize("shape", [(28, 28), (13, 17), (20, 50), (5, 4)])
def test_networks_take_sizes_that_no_power_of_two_divides(shape: tuple[int, int]) -> None:
    network = DFU.tiny(1, 1, domain=Box(2), zero_init=False)
    out = network(torch.randn(2, 1, *shape), torch.zeros(2))
    assert out.shape == (2, 1, *shape) and float(out.std()) > 1e-4


@pytest.mark.parametrize("suffix", [".h5", ".hdf5", ".he5"])
def test_pdebench_tensors(suffix: str, tmp_path: Path) -> None:
    tensor = np.arange(3 * 5 * 16, dtype="float32").reshape(3, 5, 16)
    with h5py.File(tmp_path / f"a{suffix}", "w") as file:
        file["tensor"], file["x-coordinate"], file["t-coordinate"] = tensor, np.arange(16) / 16, np.arange(6.0)
    fields = ArrayFields.open(tmp_path / f"a{suffix}", "tensor", domain=Torus(1))
    assert (len(fields), fields.channels) == (3, 5)
    assert torch.equal(fields.batch([2], (16,))["x"][0], torch.from_numpy(tensor[2]))


def test_values_of_a_flattened_mesh_are_no_grid_to_train_on() -> None:
    fields = ArrayFields(np.random.default_rng(0).normal(size=(5, 900, 1)), domain=Box(2))
    with pytest.raises(ValueError, match=r"at least 4 points on each side, got \(900, 1\)"):
        MultiResolution(fields, Box(2), [(900, 1)])


def test_a_model_of_half_the_weights_says_which_are_missing(tmp_path: Path) -> None:
    made = Model.for_data(data(), DFU.tiny)
    folder = made.save_pretrained(tmp_path / "m")
    from safetensors.torch import load_file, save_file

    kept = load_file(folder / "model.safetensors")
    kept.pop(next(iter(kept)))
    save_file(kept, folder / "model.safetensors")
    with pytest.raises(ValueError, match="missing"):
        Model.from_pretrained(folder)
