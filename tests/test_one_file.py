"""The one file format, and datasets of xarray: what is written opens there with its coordinates, and comes back equal."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from fnodiff import Box, MultiResolution, Sphere, Torus
from fnodiff.data import ArrayFields, HDF5Fields, ImageFolder, Part, from_xarray, to_xarray, write_fields

ABOUT = {"source": "random numbers", "licence": "none", "grid": "points"}
DOMAINS = {
    "box": (Box(2, (2.0, 3.0)), (8, 12), {"row": [0.125, 0.375], "column": [0.125, 0.375]}),
    "torus": (Torus(1, (4.0,)), (16,), {"position": [0.0, 0.25]}),
    "torus in 3D": (Torus(3), (4, 4, 8), {"depth": [0.0, 0.25], "column": [0.0, 0.125]}),
    "sphere": (Sphere("equiangular"), (5, 8), {"latitude": [90.0, 45.0], "longitude": [0.0, 45.0]}),
}
ENGINES = ["h5netcdf", "netcdf4"]


def fields_on(domain, shape, channels=2, count=5, dtype=torch.float32, **options):
    x = torch.randn(count, channels, *shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return ArrayFields(x, domain=domain, **options)


def written(path: Path, source, shapes, **options) -> Path:
    write_fields(path, source, shapes, attributes=ABOUT, progress=False, **options)
    return path


# ---- write_fields -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", DOMAINS)
def test_a_file_opens_in_xarray_with_its_coordinates(kind: str, engine: str, tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    domain, shape, places = DOMAINS[kind]
    source = fields_on(domain, shape, label=torch.arange(5))
    path = written(tmp_path / "a.h5", source, [shape], chunk=2)
    name = "x".join(map(str, shape))
    with xarray.open_dataset(path, group=name, engine=engine) as data:
        assert data.x.dims == ("sample", "channel", *domain.coordinates(shape))
        np.testing.assert_array_equal(data.x.values, source.batch(range(5), shape)["x"].numpy())
        for axis, first in places.items():
            assert data[axis].values[:2].tolist() == first
    with xarray.open_dataset(path, engine=engine) as root:
        assert root.label.values.tolist() == [0, 1, 2, 3, 4]
        assert (root.attrs["licence"], root.sample.size) == ("none", 5)
    with xarray.open_datatree(path, engine=engine) as tree:
        assert tree[name].x.sizes["sample"] == 5


@pytest.mark.parametrize(
    "domain", [Sphere(), Sphere("equiangular"), Sphere("cell-centred", half_longitudes=True)], ids=str
)
def test_a_file_around_the_globe_says_its_sphere(domain: Sphere, tmp_path: Path) -> None:
    fields = HDF5Fields(written(tmp_path / "a.h5", fields_on(domain, (8, 16)), [(8, 16)]))
    assert fields.domain == domain
    with pytest.raises(ValueError, match=r"expected fields on Box.*got HDF5Fields on Sphere"):
        MultiResolution(fields, Box(2), [(8, 16)])


def test_a_file_of_a_part_of_the_globe_leaves_the_domain_open(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    places = {"latitude": [30.0, 40.0, 50.0, 60.0], "longitude": [0.0, 10.0, 20.0, 30.0]}
    part = xarray.DataArray(np.random.default_rng(0).random((2, 4, 4)), places, ["time", *places], "t")
    fields = HDF5Fields(written(tmp_path / "a.h5", from_xarray(part, domain=Box(2)), [(4, 4)]))
    assert xarray.open_dataset(fields.path, group="4x4").latitude.values.tolist() == places["latitude"]
    assert fields.domain is None


def test_one_line_opens_it_and_gives_it_back(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    domain, shape, _ = DOMAINS["sphere"]
    source = fields_on(domain, shape, channels=1)
    path = written(tmp_path / "a.h5", source, [shape])
    again = from_xarray(xarray.open_dataset(path, group="5x8"), "x")
    torch.testing.assert_close(again.batch([3], shape)["x"], source.batch([3], shape)["x"])
    by_name = ArrayFields.open(path, "5x8/x")
    torch.testing.assert_close(by_name.batch([3], shape)["x"], source.batch([3], shape)["x"])


def test_missing_values_are_nan_there_and_a_mask_here(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    x = torch.rand(3, 2, 8, 8)
    x[1, 0, 2:4, 2:4] = torch.nan
    source = ArrayFields(x, domain=Box(2))
    path = written(tmp_path / "a.h5", source, [(4, 4), (8, 8)])
    back = HDF5Fields(path)
    for shape in ((4, 4), (8, 8)):
        for key in ("x", "mask"):
            assert torch.equal(back.batch(range(3), shape)[key], source.batch(range(3), shape)[key])
    with xarray.open_dataset(path, group="8x8") as data:
        np.testing.assert_array_equal(data.x.values, x.numpy())
    with xarray.open_dataset(path, group="4x4") as data:
        assert int(data.x.isnull().sum()) == 1


def test_small_values_come_back_equal_by_default(tmp_path: Path) -> None:
    source = ArrayFields(1e-9 * torch.rand(4, 8, 8), domain=Box(2))
    back = HDF5Fields(written(tmp_path / "a.h5", source, [8]))
    assert torch.equal(back.batch(slice(None), 8)["x"], source.batch(slice(None), 8)["x"])


def test_what_needs_float64_is_written_so(tmp_path: Path) -> None:
    x = 101325 + 0.01 * torch.randn(4, 8, 8, dtype=torch.float64)
    back = HDF5Fields(written(tmp_path / "a.h5", ArrayFields(x, domain=Box(2)), [8])).batch([0, 1, 2, 3], (8, 8))["x"]
    assert torch.equal(back[:, 0], x)


def test_pictures_are_packed_and_say_so(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    from PIL import Image

    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(tmp_path / "a.png")
    source = Part(ImageFolder(tmp_path), [0])
    path = written(tmp_path / "a.h5", source, [(8, 8)])
    with h5py.File(path) as file:
        assert file["8x8/x"].dtype == np.uint8
    expected = source.batch([0], (8, 8))["x"].numpy()
    np.testing.assert_allclose(HDF5Fields(path).batch([0], (8, 8))["x"].numpy(), expected, atol=1e-6)
    with xarray.open_dataset(path, group="8x8") as data:
        np.testing.assert_allclose(data.x.values, expected, atol=1e-6)


@pytest.mark.parametrize("shapes", [[8, 16], [np.int64(8), (16, 16)], [[8, 8], np.array([16, 16])]], ids=str)
def test_a_grid_may_be_an_int(shapes: list, tmp_path: Path) -> None:
    back = HDF5Fields(written(tmp_path / "a.h5", fields_on(Box(2), (16, 16)), shapes))
    assert back.shapes == [(8, 8), (16, 16)]


@pytest.mark.parametrize("shapes", [None, "16", [8.5], [(8, "a")], [True], [(0, 8)]], ids=str)
def test_what_is_no_grid_is_refused(shapes: object, tmp_path: Path) -> None:
    for source in (fields_on(Box(2), (16, 16)), Unknown()):
        with pytest.raises(ValueError, match=r"expected (shapes|a grid)"):
            written(tmp_path / "a.h5", source, shapes)


class Unknown:
    """A source that does not know its domain."""

    channels, cell_averages = 1, False

    def __len__(self):
        return 2

    def batch(self, indices, shape):
        return {"x": torch.ones(len(indices), 1, *shape)}


def test_an_int_is_refused_where_nobody_knows_the_domain(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected shapes as tuples, got \[16, 24\], .*does not know its domain"):
        written(tmp_path / "a.h5", Unknown(), [16, 24])
    assert HDF5Fields(written(tmp_path / "b.h5", Unknown(), [(8, 8)])).shapes == [(8, 8)]


def test_files_of_the_first_version_are_read(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((3, 2, 4, 4)).astype("f4")
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file["x/4x4"], file["mask/4x4"] = x, (x > 0.2).astype("u1")
        file.attrs.update(version=1, grid="points", complete=3)
    batch = HDF5Fields(tmp_path / "old.h5").batch([-1], (4, 4))
    np.testing.assert_array_equal(batch["x"][0].numpy(), np.where(x[2] > 0.2, x[2], 0))


# ---- to_xarray ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DOMAINS)
def test_samples_become_a_dataset_with_names_units_and_coordinates(kind: str, tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    domain, shape, places = DOMAINS[kind]
    x = torch.randn(3, 2, *shape)
    data = to_xarray(x, domain, names=["u", "v"], units=["m/s", None], seeds=range(7, 10))
    data.to_netcdf(tmp_path / "a.nc")
    with xarray.open_dataset(tmp_path / "a.nc") as opened:
        np.testing.assert_array_equal(opened.v.values, x[:, 1].numpy())
        assert (opened.u.attrs, opened.v.attrs.get("units")) == ({"units": "m/s"}, None)
        assert opened.seed.values.tolist() == [7, 8, 9]
        for axis, first in places.items():
            assert opened[axis].values[:2].tolist() == first


def test_a_globe_goes_round() -> None:
    xarray = pytest.importorskip("xarray")
    values = np.random.default_rng(0).normal(size=(2, 9, 16))
    array = xarray.DataArray(
        values,
        {"lat": np.linspace(-90, 90, 9), "lon": np.arange(-180, 180, 22.5)},
        ("time", "lat", "lon"),
        "t",
        {"units": "K"},
    )
    fields = from_xarray(array)
    batch = fields.batch([0, 1], (9, 16))
    data = to_xarray(batch, fields)
    assert data.t.attrs == {"units": "K"}
    back = from_xarray(data)  # the same degrees again
    torch.testing.assert_close(back.batch([1], (5, 8))["x"], fields.batch([1], (5, 8))["x"])
    lat, lon = np.linspace(90, -90, 9), np.arange(16) * 22.5
    np.testing.assert_allclose(data.latitude, lat, atol=1e-9)
    np.testing.assert_allclose(data.longitude, lon, atol=1e-9)


def test_a_part_of_a_file_keeps_its_coordinates_on_every_grid() -> None:
    xarray = pytest.importorskip("xarray")
    array = xarray.DataArray(
        np.random.default_rng(0).normal(size=(2, 4, 8)),
        {"lat": ("lat", [13.0, 12, 11, 10], {"units": "degrees_north"}), "lon": np.arange(8.0)},
        ("time", "lat", "lon"),
        "sst",
    )
    fields = from_xarray(array, domain=Box(2))
    fine, coarse = (to_xarray(fields.batch([0], shape), fields) for shape in ((4, 8), (2, 4)))
    np.testing.assert_allclose(fine.sst.sel(lat=12, lon=3), array.sel(lat=12, lon=3)[:1], rtol=1e-6)
    assert coarse.lat.values.tolist() == [10.5, 12.5]
    assert coarse.lon.values.tolist() == [0.5, 2.5, 4.5, 6.5]
    assert coarse.lat.attrs["units"] == "degrees_north"


def test_what_was_not_measured_is_nan() -> None:
    pytest.importorskip("xarray")
    x = torch.tensor([[[1.0, torch.nan, 3.0, 4.0]]])
    data = to_xarray(ArrayFields(x, domain=Box(1)).batch([0], (4,)), Box(1))
    np.testing.assert_array_equal(data.x.values, x[:, 0].numpy())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ["u"]}, "expected names for 3 samples of 2 channels"),
        ({"names": ["u", "u"]}, "expected names"),
        ({"units": ["m"]}, "expected units"),
        ({"seeds": [1]}, "expected seeds"),
        ({"mask": torch.ones(3, 1, 4, 4)}, "expected a mask"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict, message: str) -> None:
    pytest.importorskip("xarray")
    with pytest.raises(ValueError, match=message):
        to_xarray(torch.zeros(3, 2, 8, 8), Box(2), **options)
    with pytest.raises(ValueError, match="expected a tensor, an array, or a batch with x, got list"):
        to_xarray([1.0], Box(2))
    with pytest.raises(ValueError, match="expected a domain, or a source"):
        to_xarray(torch.zeros(3, 2, 8, 8), "box")
