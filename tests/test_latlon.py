"""Fields on the globe, as files have them."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

from fnodiff import Sphere
from fnodiff.data import ArrayFields, LatLon, MultiResolution, to_xarray
from fnodiff.data.files import read_arrays

GRIDS = ["legendre-gauss", "equiangular", "cell-centred"]


def globe(grid, shape=(16, 32), count=3):
    """Fields, and the degrees of their rows and columns."""
    domain = Sphere(grid)
    x = domain.synthesize(torch.randn(count, 2, 5, 5, generator=torch.Generator().manual_seed(0)), shape)
    theta, phi = domain.points(shape, dtype=torch.float64)
    return domain, x, 90 - theta[:, 0].rad2deg(), phi[0].rad2deg()


@pytest.mark.parametrize("grid", GRIDS)
class TestOrientations:
    @pytest.mark.parametrize("swapped", [False, True])
    @pytest.mark.parametrize("south_first", [False, True])
    @pytest.mark.parametrize("columns", ["east", "from -180", "west", "repeated", "both ends", "float32", "rounded"])
    def test_all_are_read_as_one(self, grid, swapped, south_first, columns):
        domain, x, lat, lon = globe(grid)
        y = x.clone()
        if south_first:
            y, lat = y.flip(-2), lat.flip(0)
        if columns == "from -180":
            y, lon = y.roll(16, -1), (lon.roll(16) + 180) % 360 - 180
        if columns == "west":
            y, lon = y.flip(-1), lon.flip(0)
        if columns == "repeated":
            y, lon = torch.cat([y, y[..., :1]], -1), torch.cat([lon, torch.tensor([360.0])])
        if columns == "both ends":  # 180 .. 0 .. 180
            y, lon = y.roll(16, -1), (lon.roll(16)) % 360
            y, lon = torch.cat([y, y[..., :1]], -1), torch.cat([lon, lon[:1]])
        if columns == "rounded":  # steps of 11.25 degrees
            lon = (lon * 10).round() / 10
        if columns == "float32":
            lat, lon = lat.float(), lon.float()
        fields = ArrayFields(y.transpose(-1, -2) if swapped else y, latitudes=lat, longitudes=lon)
        assert fields.domain == domain
        assert fields.shape == (16, 32)
        torch.testing.assert_close(fields.batch([2, 0], (16, 32))["x"], x[[2, 0]])
        torch.testing.assert_close(fields.batch([1], (11, 22))["x"], domain.resample(x[[1]], (11, 22)))

    def test_from_a_file_of_the_kind_that_weather_centres_write(self, grid, tmp_path):
        domain, x, lat, lon = globe(grid)
        with h5py.File(tmp_path / "height.h5", "w") as file:
            file["z500"], file["latitude"], file["longitude"] = x[:, 0].numpy(), lat.numpy(), lon.numpy()
        fields = ArrayFields.open(tmp_path / "height.h5", "z500", latitude="latitude", longitude="longitude")
        data = MultiResolution(fields, domain, [(8, 16), (16, 32)], batch_size=2)
        assert data[0]["x"].shape[1] == 1
        torch.testing.assert_close(fields.batch([0], (16, 32))["x"], x[:1, :1])

    def test_fields_and_masks_lie_as_x_does(self, grid):
        _, x, lat, lon = globe(grid)
        mask = torch.rand(16, 32) > 0.3
        fields = ArrayFields(x.flip(-2), 2 * x.flip(-2), mask=mask.flip(-2), latitudes=lat.flip(0), longitudes=lon)
        batch = fields.batch([0, 1], (16, 32))
        torch.testing.assert_close(batch["field"], 2 * x[:2])
        torch.testing.assert_close(batch["mask"], mask.expand(2, 1, 16, 32).float().expand_as(batch["mask"]))
        torch.testing.assert_close(batch["x"], torch.where(mask, x[:2], 0.0))
        missing = x.clone()
        missing[:, :, 3, 4] = torch.nan
        fields = ArrayFields(missing.flip(-2), latitudes=lat.flip(0), longitudes=lon)
        assert float(fields.batch([0], (16, 32))["mask"][0, 0, 3, 4]) == 0


def test_what_no_degree_holds_is_projected_out_on_the_stored_grid_too():
    domain, rough = Sphere("equiangular"), torch.randn(2, 1, 17, 32)
    lat, lon = np.linspace(90, -90, 17), np.arange(32) * 11.25
    x = ArrayFields(rough, latitudes=lat, longitudes=lon).batch([0, 1], (17, 32))["x"]
    torch.testing.assert_close(x, domain.synthesize(domain.analyze(rough), (17, 32)))
    assert float((x - rough).std()) > 0.3


def test_channels_are_told_from_the_grid_by_its_coordinates():
    _, x, lat, lon = globe("legendre-gauss")
    many = x[:, :1].expand(-1, 16, -1, -1)  # 16 channels of 16 x 32: square if read the other way
    fields = ArrayFields(many, latitudes=lat, longitudes=lon)
    assert (fields.channels, fields.shape) == (16, (16, 32))


@pytest.mark.parametrize("fill", [-32767, None])
def test_packed_values_are_unpacked(tmp_path, fill):
    lat, lon = np.linspace(90, -90, 5), np.arange(8) * 45.0
    stored = np.arange(80, dtype=np.int16).reshape(2, 5, 8)
    if fill is not None:
        stored[1, 2, 3] = fill
    with h5py.File(tmp_path / "era5.nc.h5", "w") as file:
        file["t"], file["lat"], file["lon"] = stored, lat, lon
        file["t"].attrs.update({"scale_factor": 0.5, "add_offset": 100.0})
        if fill is not None:
            file["t"].attrs["_FillValue"] = np.array([fill], dtype=np.int16)
    expected = np.where(stored == -32767, np.nan, stored * 0.5 + 100)
    np.testing.assert_allclose(read_arrays(tmp_path / "era5.nc.h5", ["t"])["t"].numpy(), expected)
    fields = ArrayFields.open(tmp_path / "era5.nc.h5", "t", latitude="lat", longitude="lon")
    assert fields.masked == (fill is not None)


class TestCellCentres:
    @pytest.mark.parametrize(
        ("lat", "lon", "domain"),
        [
            (np.arange(-87.1875, 90, 5.625), np.arange(64) * 5.625, Sphere("cell-centred")),  # WeatherBench's 32 x 64
            (np.arange(-89.5, 90), np.arange(0.5, 360), Sphere("cell-centred", half_longitudes=True)),
            (np.arange(-89.0, 90, 2), np.arange(-179.0, 180, 2), Sphere("cell-centred", half_longitudes=True)),
            (np.arange(89.5, -90, -1), np.arange(360), Sphere("cell-centred")),
            (np.linspace(90, -90, 9), np.arange(11.25, 360, 22.5), Sphere("equiangular", half_longitudes=True)),
        ],
    )
    def test_they_are_known_by_their_coordinates(self, lat, lon, domain):
        globe = LatLon(lat, lon)
        assert globe.domain == domain
        assert globe.shape == (len(lat), len(lon))
        # A field of its own coordinates comes back as the domain's points have them.
        latitudes, longitudes = (torch.from_numpy(v * 1.0) for v in np.meshgrid(lat, lon % 360, indexing="ij"))
        theta, phi = domain.points(globe.shape, dtype=torch.float64)
        torch.testing.assert_close(globe(latitudes), 90 - theta.rad2deg())
        torch.testing.assert_close(globe(longitudes), phi.rad2deg())

    def test_fields_go_on_to_other_grids_where_they_lie(self):
        lat, lon = np.arange(-87.5, 90, 5), np.arange(2.5, 360, 5)
        theta, phi = np.radians(90 - lat)[:, None], np.radians(lon)
        x = np.cos(theta) + np.sin(theta) * np.cos(
            phi - 1
        )  # of degree 1, highest at colatitude 45 degrees, longitude 1
        fields = ArrayFields(x[None], latitudes=lat, longitudes=lon)
        y = fields.domain.resample(fields.batch([0], (36, 72))["x"], (18, 36))
        theta, phi = fields.domain.points((18, 36))
        torch.testing.assert_close(y[0, 0], theta.cos() + theta.sin() * (phi - 1).cos(), rtol=0, atol=1e-5)

    def test_files_of_them_are_read_and_written(self, tmp_path):
        domain = Sphere("cell-centred", half_longitudes=True)
        x = domain.synthesize(torch.randn(2, 1, 4, 4), (8, 16))
        there = to_xarray(x, domain)
        assert there.latitude.values[:2].tolist() == [78.75, 56.25] and there.longitude.values[0] == 11.25
        there.to_netcdf(tmp_path / "globe.nc")
        fields = ArrayFields.open(tmp_path / "globe.nc")
        assert fields.domain == domain
        torch.testing.assert_close(fields.batch([0, 1], (8, 16))["x"], x)


class TestBadInput:
    def test_part_of_the_globe(self):
        lat = np.linspace(90, -90, 17)
        with pytest.raises(ValueError, match=r"around the globe.*take Box\(2\) as its domain"):
            LatLon(lat, np.linspace(0, 90, 16))
        with pytest.raises(ValueError, match=r"pole to pole.*take Box\(2\) as its domain"):
            LatLon(np.linspace(90, 0, 9), np.arange(16) * 22.5)

    def test_longitudes_out_of_order(self):
        lon = np.arange(16) * 22.5
        lon[[3, 5]] = lon[[5, 3]]
        with pytest.raises(ValueError, match="equal steps"):
            LatLon(np.linspace(90, -90, 9), lon)

    def test_no_zero_meridian(self):
        with pytest.raises(ValueError, match="longitude 0"):
            LatLon(np.linspace(90, -90, 9), np.arange(16) * 22.5 + 5.6)

    def test_coordinates_of_every_point(self):
        with pytest.raises(ValueError, match="one column and one row"):
            LatLon(np.zeros((9, 16)), np.zeros((9, 16)))

    def test_other_values_where_the_meridian_is_repeated(self):
        lat, lon = np.linspace(90, -90, 9), np.linspace(0, 360, 17)
        with pytest.raises(ValueError, match="repeated"):
            ArrayFields(1e-7 * torch.randn(2, 9, 17), latitudes=lat, longitudes=lon)
        x = torch.randn(3, 9, 17)
        x[:2, :, -1] = x[:2, :, 0]
        with pytest.raises(ValueError, match="repeated"):
            ArrayFields(x, latitudes=lat, longitudes=lon)  # the last sample alone is wrong

    def test_another_shape(self):
        with pytest.raises(ValueError, match="9 latitudes and 16 longitudes"):
            ArrayFields(torch.randn(2, 9, 15), latitudes=np.linspace(90, -90, 9), longitudes=np.arange(16) * 22.5)

    def test_one_without_the_other_and_neither(self):
        with pytest.raises(ValueError, match="both latitudes and longitudes"):
            ArrayFields(torch.randn(2, 9, 16), latitudes=np.linspace(90, -90, 9))
        with pytest.raises(ValueError, match="expected a domain"):
            ArrayFields(torch.randn(2, 9, 16))
        with pytest.raises(ValueError, match="leave out the domain"):
            ArrayFields(
                torch.randn(2, 9, 16),
                domain=Sphere(),
                latitudes=np.linspace(90, -90, 9),
                longitudes=np.arange(16) * 22.5,
            )
