"""Labelled files: what xarray and netCDF's conventions say of stored numbers, dimensions and coordinates is what is read."""

from __future__ import annotations

import gc
import pickle
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.io import netcdf_file
from torch.utils.data import DataLoader

from fnodiff import Box, MultiResolution, Sphere, Torus
from fnodiff.data import ArrayFields, from_xarray, to_xarray
from fnodiff.data.files import list_arrays, read_arrays

xarray = pytest.importorskip("xarray")
NAN = float("nan")
LAT, LON = np.linspace(90, -90, 5), np.arange(8) * 45.0
T2M = np.arange(3 * 5 * 8, dtype="f4").reshape(3, 5, 8)


def globe(order=("time", "lat", "lon"), south_first=False, west=False, **attributes):
    array = xarray.DataArray(
        T2M, {"time": [0, 1, 2], "lat": LAT, "lon": LON}, ("time", "lat", "lon"), "t2m", attributes
    )
    array = array.isel(lat=slice(None, None, -1)) if south_first else array
    if west:
        array = array.assign_coords(lon=(array.lon + 180) % 360 - 180).sortby("lon")
    return array.transpose(*order)


def stored(fields, rows=(0, 1, 2)):
    """The values on the stored grid, before projection onto the sphere's degrees."""
    return fields._read(list(rows))[0].squeeze(1).numpy()


# ---- formats ------------------------------------------------------------------------------------------------------


FORMATS = {
    "netcdf4.nc": lambda data, path: data.to_netcdf(path, engine="netcdf4"),
    "netcdf3.nc": lambda data, path: data.to_netcdf(path, engine="scipy"),
    "classic.cdf": lambda data, path: data.to_netcdf(path, engine="netcdf4", format="NETCDF3_CLASSIC"),
    "hdf5.h5": lambda data, path: data.to_netcdf(path, engine="h5netcdf"),
    "stored.zarr": lambda data, path: data.to_zarr(path),
}


@pytest.mark.parametrize("part", [b"OHDR", None], ids=["names", "half"])
def test_a_damaged_file_is_said_and_leaves_nothing_half_open(part, tmp_path: Path, capsys) -> None:
    globe().to_dataset().to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    content = (tmp_path / "a.nc").read_bytes()
    damaged = content[: len(content) // 2] if part is None else content.replace(part, b"OHDX")
    (tmp_path / "a.nc").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"a\.nc cannot be read, damaged"):
        ArrayFields.open(tmp_path / "a.nc", "t2m")
    gc.collect()
    assert capsys.readouterr().err == "", "h5netcdf prints a traceback of its own"


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_gives_the_same_fields(name: str, tmp_path: Path) -> None:
    if name.endswith(".zarr"):
        pytest.importorskip("zarr")
    FORMATS[name](globe().to_dataset(), tmp_path / name)
    opened = ArrayFields.open(tmp_path / name, "t2m")
    assert opened.domain == Sphere("equiangular")
    np.testing.assert_array_equal(stored(opened), T2M)
    assert opened.channel_names == ("t2m",)
    np.testing.assert_array_equal(stored(from_xarray(tmp_path / name, "t2m")), T2M)
    assert list_arrays(tmp_path / name)["t2m"] == (3, 5, 8)
    np.testing.assert_array_equal(read_arrays(tmp_path / name, ["t2m"])["t2m"].numpy(), T2M)


def test_a_netcdf_file_without_dimensions_is_read_with_the_names_of_its_coordinates(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.nc", "w") as file:
        file["t2m"], file["lat"], file["lon"] = T2M, LAT[::-1], LON
    fields = ArrayFields.open(tmp_path / "a.nc", "t2m", latitude="lat", longitude="lon")
    np.testing.assert_array_equal(stored(fields), T2M[:, ::-1])
    plain = ArrayFields.open(tmp_path / "a.nc", "t2m", domain=Box(2))
    np.testing.assert_array_equal(plain.batch([1], (5, 8))["x"][0, 0].numpy(), T2M[1])
    with pytest.raises(ValueError, match="latitude= and longitude="):
        ArrayFields.open(tmp_path / "a.nc", "t2m")


def test_classic_files_without_coordinates_along_their_dimensions(tmp_path: Path) -> None:
    with netcdf_file(tmp_path / "a.nc", "w") as file:
        for name, n in (("record", 3), ("j", 5), ("i", 8)):
            file.createDimension(name, n)
        for name, value, dims in (("u", T2M, ("record", "j", "i")), ("ylat", LAT, ("j",)), ("xlon", LON, ("i",))):
            file.createVariable(name, value.dtype, dims)[:] = value
    np.testing.assert_array_equal(
        stored(ArrayFields.open(tmp_path / "a.nc", "u", latitude="ylat", longitude="xlon")), T2M
    )


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_a_truncated_file_is_refused_by_name(share: float, tmp_path: Path) -> None:
    globe().to_dataset().to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    whole = (tmp_path / "a.nc").read_bytes()
    (tmp_path / "a.nc").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"a\.nc"):
        ArrayFields.open(tmp_path / "a.nc", "t2m")


def test_variables_in_groups(tmp_path: Path) -> None:
    globe().to_dataset().to_netcdf(tmp_path / "a.nc", group="surface", engine="netcdf4")
    np.testing.assert_array_equal(stored(ArrayFields.open(tmp_path / "a.nc", "surface/t2m")), T2M)
    with pytest.raises(ValueError, match=r"expected a variable surface/u.*t2m"):
        ArrayFields.open(tmp_path / "a.nc", "surface/u")


def test_without_xarray_it_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    globe().to_dataset().to_netcdf(tmp_path / "a.nc", engine="scipy")
    monkeypatch.setitem(sys.modules, "xarray", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install fnodiff\[xarray\]"):
        ArrayFields.open(tmp_path / "a.nc", "t2m")


# ---- what numbers mean --------------------------------------------------------------------------------------------

# Stored whole numbers, attributes, and what they mean by NetCDF Users' Guide and CF 8.1, by hand.
PACKINGS = {
    "scale and offset": ([0, 10, -10], "i2", {"scale_factor": 0.5, "add_offset": 100.0}, [100, 105, 95]),
    "fill value": ([0, -999, 2], "i2", {"_FillValue": np.int16(-999), "scale_factor": 2.0}, [0, NAN, 4]),
    "missing value": ([0, -999, 2], "i2", {"missing_value": np.int16(-999)}, [0, NAN, 2]),
    "both": ([0, -9, -8], "i2", {"_FillValue": np.int16(-9), "missing_value": np.int16(-8)}, [0, NAN, NAN]),
    "several": ([0, -9, -8], "i2", {"missing_value": np.array([-9, -8], "i2")}, [0, NAN, NAN]),
    "fill of floats": ([0, 1e20, 2], "f4", {"_FillValue": np.float32(1e20)}, [0, NAN, 2]),
    "unsigned": ([-1, 1, -128], "i1", {"_Unsigned": "true"}, [255, 1, 128]),
    "unsigned and packed": ([-1, 1, -2], "i1", {"_Unsigned": "true", "scale_factor": 0.5}, [127.5, 0.5, 127]),
    "valid range": ([0, 10, -10], "i2", {"valid_range": np.array([-5, 10], "i2")}, [0, 10, NAN]),
    "packed valid range": (
        [0, 10, 11],
        "i2",
        {"valid_range": np.array([0, 10], "i2"), "scale_factor": 0.1, "add_offset": 273.15},
        [273.15, 274.15, NAN],
    ),
    "unpacked valid range": (
        [0, 10, 11],
        "i2",
        {"valid_range": np.array([273.0, 274.2]), "scale_factor": 0.1, "add_offset": 273.15},
        [273.15, 274.15, NAN],
    ),
    "falling scale": ([0, 10, 11], "i2", {"valid_max": np.int16(10), "scale_factor": -1.0}, [0, -10, NAN]),
    "valid min": ([0, 10, -1], "i2", {"valid_min": np.int16(0), "scale_factor": 2.0}, [0, 20, NAN]),
    "valid max of floats": ([0.1, 0.3, 0.5], "f4", {"valid_max": 0.3}, [0.1, 0.3, NAN]),
    "unsigned valid range": (
        [-1, -2, 5],
        "i1",
        {"_Unsigned": "true", "valid_range": np.array([0, -2], "i1")},
        [NAN, 254, 5],
    ),
    "range and fill": ([0, -9, 50], "i2", {"_FillValue": np.int16(-9), "valid_max": np.int16(40)}, [0, NAN, NAN]),
}


@pytest.mark.parametrize("kind", PACKINGS)
@pytest.mark.parametrize("suffix", [".nc", ".h5", ".cdf"])
def test_packing_is_undone_and_what_is_not_valid_is_missing(kind: str, suffix: str, tmp_path: Path) -> None:
    values, dtype, attributes, meant = PACKINGS[kind]
    path, raw = tmp_path / f"a{suffix}", np.repeat(np.array(values, dtype)[None], 2, 0)
    if suffix == ".cdf":
        with netcdf_file(path, "w") as file:
            file.createDimension("time", 2)
            file.createDimension("x", 3)
            variable = file.createVariable("u", np.dtype(dtype), ("time", "x"))
            variable[:] = raw
            for name, value in attributes.items():
                setattr(variable, name, value)
    else:
        with h5py.File(path, "w") as file:
            file["u"] = raw
            for name, size in (("time", 2), ("x", 3)) if suffix == ".nc" else ():
                file[name] = np.arange(float(size))
                file[name].make_scale(name)
                file["u"].dims[("time", "x").index(name)].attach_scale(file[name])
            file["u"].attrs.update(attributes)
    fields = ArrayFields.open(path, "u", domain=Box(1))
    batch = fields.batch([1], (3,))
    np.testing.assert_allclose(batch["x"][0, 0].numpy(), np.nan_to_num(meant), rtol=1e-6)
    there = batch.get("mask", torch.ones(1, 1, 3))[0, 0].numpy()
    np.testing.assert_array_equal(there, ~np.isnan(meant))
    np.testing.assert_allclose(read_arrays(path, ["u"])["u"][0].numpy(), meant, rtol=1e-6)


def test_units_such_as_days_stay_numbers(tmp_path: Path) -> None:
    data = xarray.Dataset({"age": (("time", "x"), [[1.0, 2.0, 3.0]], {"units": "days"})})
    data.to_netcdf(tmp_path / "a.nc", engine="scipy")
    fields = ArrayFields.open(tmp_path / "a.nc", "age", domain=Box(1))
    assert (fields.batch([0], (3,))["x"].flatten().tolist(), fields.units) == ([1, 2, 3], ("days",))
    decoded = xarray.open_dataset(tmp_path / "a.nc", decode_timedelta=True)
    with pytest.raises(ValueError, match="decode_timedelta=False"):
        from_xarray(decoded, "age", Box(1))


# ---- dimensions and coordinates -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "order", [("time", "lat", "lon"), ("lon", "lat", "time"), ("lat", "time", "lon")], ids="-".join
)
@pytest.mark.parametrize("south_first", [False, True])
@pytest.mark.parametrize("west", [False, True])
def test_any_order_of_dimensions_and_coordinates(order: tuple, south_first: bool, west: bool) -> None:
    fields = from_xarray(globe(order, south_first, west, units="K"))
    np.testing.assert_array_equal(stored(fields), T2M)
    np.testing.assert_array_equal(stored(fields, [2, 0, 2]), T2M[[2, 0, 2]])
    assert fields.units == ("K",)


def test_coordinates_are_known_by_their_attributes_and_may_be_radians() -> None:
    array = xarray.DataArray(
        T2M,
        {
            "a": ("a", np.radians(LAT), {"standard_name": "latitude", "units": "radian"}),
            "b": ("b", LON - 180, {"units": "degrees_east"}),
        },
        ("n", "a", "b"),
        "t",
    )
    np.testing.assert_array_equal(stored(from_xarray(array)), np.roll(T2M, 4, axis=2))


def test_coordinates_given_for_every_point() -> None:
    lat, lon = np.meshgrid(LAT, LON, indexing="ij")
    array = xarray.DataArray(T2M, {"lat": (("j", "i"), lat), "lon": (("j", "i"), lon)}, ("time", "j", "i"), "t")
    np.testing.assert_array_equal(stored(from_xarray(array)), T2M)
    bent = array.assign_coords(lat=(("j", "i"), lat + 0.1 * lon))
    with pytest.raises(ValueError, match="found none; name them"):
        from_xarray(bent)


def test_an_ensemble_counts_samples_and_levels_are_channels() -> None:
    rng = np.random.default_rng(0)
    data = xarray.Dataset(
        {
            "u": (("number", "level", "lat", "lon", "time"), rng.normal(size=(2, 3, 5, 8, 4)), {"units": "m/s"}),
            "p": (("time", "number", "lat", "lon"), rng.normal(size=(4, 2, 5, 8)), {"units": "Pa"}),
            "height": (("lat", "lon"), rng.normal(size=(5, 8))),
        },
        {"lat": LAT, "lon": LON, "level": [1000, 500, 250]},
    )
    fields = from_xarray(data, ["u", "p", "height"])
    assert len(fields) == 8
    assert fields.channel_names == ("u[1000]", "u[500]", "u[250]", "p", "height")
    assert fields.units == ("m/s", "m/s", "m/s", "Pa", None)
    x = fields._read([5])[0][0].numpy()  # the members lie outermost in u: member 1, time 1
    np.testing.assert_array_equal(x[:3], data.u.isel(number=1, time=1))
    np.testing.assert_array_equal(x[3], data.p.isel(number=1, time=1))
    np.testing.assert_array_equal(x[4], data.height)
    some = fields._read([7, 0, 7])[0].numpy()
    np.testing.assert_array_equal(some[0, 3], data.p.isel(number=1, time=3))
    np.testing.assert_array_equal(some[1, 3], data.p.isel(number=0, time=0))


def test_time_names_what_counts_samples_or_selects() -> None:
    dates = np.array(["2000-01-01", "2000-07-01", "2001-01-01"], "M8[ns]")
    array = globe().assign_coords(time=dates)
    assert len(from_xarray(array, time=slice("2000", "2000"))) == 2
    days = xarray.DataArray(np.zeros((2, 7, 4, 6)), dims=("case", "frame", "y", "x"), name="w")
    named = from_xarray(days, domain=Torus(2), time="case")
    assert (len(named), named.channels) == (2, 7)
    assert named.channel_names[:2] == ("w[0]", "w[1]")
    assert len(from_xarray(days, domain=Torus(2), time=["case", "frame"])) == 14
    with pytest.raises(ValueError, match=r"among the dimensions .*got \['day'\]"):
        from_xarray(days, domain=Torus(2), time="day")


def test_a_part_of_the_globe_is_a_box_whose_coordinates_increase() -> None:
    part = globe().isel(lon=slice(2, 6), lat=slice(0, 4))
    with pytest.raises(ValueError, match=r"around the globe|pole to pole"):
        from_xarray(part)
    fields = from_xarray(part, domain=Box(2))
    np.testing.assert_array_equal(stored(fields), T2M[:, 3::-1, 2:6])  # from the south
    assert [(a.name, a.origin, a.length) for a in fields.axes] == [("lat", -67.5, 180.0), ("lon", 67.5, 180.0)]


def test_longitudes_that_pass_zero_are_one_part() -> None:
    part = xarray.DataArray(T2M[:, :3, :4], {"lat": [0, 1, 2], "lon": [359, 0, 1, 2]}, ("time", "lat", "lon"), "t")
    assert from_xarray(part, domain=Box(2)).axes[1].origin == 358.5


def test_a_period_with_its_end_point_twice_keeps_its_length() -> None:
    x = np.linspace(0, 2, 17)
    array = xarray.DataArray(np.sin(np.pi * (x + np.arange(3)[:, None])), {"x": x}, ("time", "x"), "u")
    with pytest.warns(UserWarning, match="twice"):
        fields = from_xarray(array, domain=Torus(1))
    assert to_xarray(fields.batch([0], (4,)), fields).x.values.tolist() == [0, 0.5, 1, 1.5]


def test_unequal_steps_are_refused() -> None:
    part = xarray.DataArray(T2M[:, :3, :4], {"y": [0, 1, 2], "x": [0, 1, 2, 9]}, ("time", "y", "x"), "t")
    with pytest.raises(ValueError, match=r"equal steps along x, got \[0.0, 1.0, 2.0\] .. \[2.0, 9.0\]"):
        from_xarray(part, domain=Box(2))


def test_dimensions_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 dimensions of the grid, got \['a', 'b', 'c', 'd'\].*time="):
        from_xarray(xarray.DataArray(np.zeros((2, 3, 4, 5)), dims=("a", "b", "c", "d"), name="w"), domain=Box(2))


def test_masks_labels_and_fields_come_along(tmp_path: Path) -> None:
    land = (np.arange(40).reshape(5, 8) % 5 > 0).astype("i1")
    data = (
        globe()
        .to_dataset()
        .assign(sea=(("lon", "lat"), land.T), season=("time", [2, 0, 1]), forcing=(("time", "lat", "lon"), T2M + 1))
    )
    data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    fields = ArrayFields.open(tmp_path / "a.nc", "t2m", "forcing", "season", mask="sea")
    batch = fields.batch([2, 0], (5, 8))
    assert batch["label"].tolist() == [1, 2]
    assert batch["mask"][0, 0].tolist() == land.tolist()
    assert (fields.condition_channels, fields.num_classes) == (1, 3)
    np.save(tmp_path / "sea.npy", land)
    apart = ArrayFields.open(tmp_path / "a.nc", "t2m", mask=tmp_path / "sea.npy").batch([0], (5, 8))
    assert apart["mask"][0, 0].tolist() == land.tolist()


def test_numbers_that_condition_samples_come_along(tmp_path: Path) -> None:
    u = np.arange(48.0).reshape(2, 3, 2, 4)
    data = xarray.Dataset(
        {
            "u": (("member", "time", "y", "x"), u),
            "nu": (("member",), [0.1, 0.2]),
            "pair": (("time", "k"), T2M[:, 0, :2]),
        },
        {"time": [6.0, 12.0, 24.0]},
    )
    data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    fields = ArrayFields.open(tmp_path / "a.nc", "u", condition=["nu", "time", "pair"], domain=Box(2))
    assert fields.condition_names == ("nu", "time", "pair 0", "pair 1")
    expected = [
        [0.2, 24.0, *T2M[2, 0, :2]],
        [0.1, 12.0, *T2M[1, 0, :2]],
    ]  # member 1 at its last time, member 0 at its second
    np.testing.assert_allclose(fields.batch([5, 1], (2, 4))["condition"], expected, rtol=1e-6)
    alone = from_xarray(data, "u", Box(2), condition="nu").batch([0, 5], (2, 4))["condition"]
    np.testing.assert_allclose(alone, [[0.1], [0.2]], rtol=1e-6)
    with pytest.raises(ValueError, match=r"expected u, one or a row for each sample, along \['member', 'time'\]"):
        from_xarray(data, "u", Box(2), condition="u")


def test_a_mask_in_a_file_of_its_own(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", T2M)
    np.savez(tmp_path / "mask.npz", there=T2M[0] > 3)
    fields = ArrayFields.open(tmp_path / "x.npy", domain=Box(2), mask=str(tmp_path / "mask.npz"))
    assert fields.batch([1], (5, 8))["mask"][0, 0].tolist() == (T2M[0] > 3).tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_files_are_read_by_workers_and_after_pickling(workers: int, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(16, 12, 12))
    xarray.Dataset({"u": (("time", "y", "x"), x)}).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    fields = ArrayFields.open(tmp_path / "a.nc", "u", domain=Box(2))
    data = MultiResolution(fields, Box(2), [12], batch_size=4)
    loader = DataLoader(data, batch_size=None, sampler=data.steps(0, 4), num_workers=workers)
    found = torch.cat([batch["x"] for batch in loader])
    assert sorted(found.sum((1, 2, 3)).tolist()) == pytest.approx(sorted(x.sum((1, 2)).tolist()), abs=1e-3)
    again = pickle.loads(pickle.dumps(fields))
    assert torch.equal(again.batch([3], (12, 12))["x"], fields.batch([3], (12, 12))["x"])


# ---- variables in arrays or groups of their own -------------------------------------------------------------------


def test_several_arrays_are_channels(tmp_path: Path) -> None:
    names, rng = ["Vx", "Vy", "density", "pressure"], np.random.default_rng(0)
    arrays = {name: rng.random((4, 3, 16, 16)).astype("f4") for name in names}  # (N, T, *grid), as PDEBench has them
    with h5py.File(tmp_path / "cfd.hdf5", "w") as file:
        for name, values in arrays.items():
            file[name] = values
        file["t-coordinate"] = np.arange(4.0)
    fields = ArrayFields.open(tmp_path / "cfd.hdf5", names, domain=Torus(2))
    assert fields.channels == 12
    assert fields.channel_names[:4] == ("Vx[0]", "Vx[1]", "Vx[2]", "Vy[0]")
    x = fields.batch([3, 1], (16, 16))["x"].numpy()
    np.testing.assert_array_equal(x[:, 3:6], arrays["Vy"][[3, 1]])
    np.savez(tmp_path / "cfd.npz", **arrays)
    same = ArrayFields.open(tmp_path / "cfd.npz", names, domain=Torus(2)).batch([3, 1], (16, 16))["x"]
    np.testing.assert_array_equal(same.numpy(), x)


def test_a_group_for_each_sample(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((6, 11, 16, 16, 2)).astype("f4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for i in range(6):
            file[f"{i:04d}/data"] = x[i]
            file[f"{i:04d}/grid/t"] = np.arange(11.0)
    fields = ArrayFields.open(tmp_path / "a.h5", "*/data", domain=Torus(2), channel_axis=-1)
    assert (len(fields), fields.channels) == (6, 22)
    batch = fields.batch([-1, 2], (16, 16))["x"].unflatten(1, (11, 2)).numpy()
    np.testing.assert_array_equal(batch, x[[5, 2]].transpose(0, 1, 4, 2, 3))


def test_names_that_fit_nothing_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", u=T2M, v=T2M[:2])
    with pytest.raises(ValueError, match=r"expected arrays \['\*/data'\]"):
        ArrayFields.open(tmp_path / "a.npz", "*/data", domain=Box(2))
    with pytest.raises(ValueError, match="as many samples on one grid"):
        ArrayFields.open(tmp_path / "a.npz", ["u", "v"], domain=Box(2))
