"""Files in the layout of The Well, written with h5py as its specification has them."""

from __future__ import annotations

import pickle

import h5py
import numpy as np
import pytest
import torch

from fnodiff import Box, MultiResolution, Product, Sphere, Torus
from fnodiff.data import Chunks, from_well, to_xarray

RANDOM = np.random.default_rng(0)
DENSITY, VELOCITY = RANDOM.normal(size=(2, 3, 8, 6)), RANDOM.normal(size=(2, 3, 8, 6, 2))
STRAIN, POROSITY = RANDOM.normal(size=(2, 3, 8, 6, 2, 2)), RANDOM.normal(size=(2, 8))


def write(path, edges=("PERIODIC", "WALL"), axes=None, grid_type="cartesian", viscosity=0.5, chunks=None):
    """Two trajectories of three times on 8 x 6 points."""
    axes = {"x": np.arange(8) / 4, "y": (np.arange(6) + 0.5) / 6} if axes is None else axes
    with h5py.File(path, "w") as file:
        file.attrs.update(dataset_name="small", grid_type=grid_type, n_spatial_dims=2, n_trajectories=2)
        file.attrs.update(simulation_parameters=["viscosity"], viscosity=viscosity)
        dimensions = file.create_group("dimensions")
        dimensions.attrs["spatial_dims"] = list(axes)
        dimensions["time"] = np.float32([0.0, 0.1, 0.2])
        dimensions["time"].attrs["sample_varying"] = False
        for name, points in axes.items():
            dimensions[name] = np.float32(points)
            dimensions[name].attrs.update(sample_varying=False, time_varying=False)
        for name, kind in zip(axes, edges, strict=False):
            boundary = file.create_group(f"boundary_conditions/{name}_boundary")
            boundary.attrs.update(associated_dims=[name], associated_fields=[], bc_type=kind, sample_varying=False)
            boundary["mask"] = np.arange(len(axes[name])) % (len(axes[name]) - 1) == 0
        scalars = file.create_group("scalars")
        scalars.attrs["field_names"] = ["viscosity", "heating", "seed"]
        for name, values, varying in [
            ("viscosity", viscosity, (False, False)),
            ("heating", [1.0, 2.0, 3.0], (False, True)),
            ("seed", [7.0, 8.0], (True, False)),
        ]:
            scalars[name] = np.float32(values)
            scalars[name].attrs.update(sample_varying=varying[0], time_varying=varying[1])
        fields = {
            "t0_fields": {"density": (DENSITY, True, [True, True]), "porosity": (POROSITY, False, [True, False])},
            "t1_fields": {"velocity": (VELOCITY, True, [True, True])},
            "t2_fields": {"strain": (STRAIN, True, [True, True])},
        }
        for order, own in fields.items():
            group = file.create_group(order)
            group.attrs["field_names"] = list(own)
            for name, (values, timed, varying) in own.items():
                data = group.create_dataset(name, data=np.float32(values), chunks=chunks if name == "density" else None)
                data.attrs.update(sample_varying=True, time_varying=timed, dim_varying=varying)
        file["t2_fields/strain"].attrs.update(symmetric=True, antisymmetric=False)
    return path


def test_every_time_of_every_trajectory_is_a_sample(tmp_path):
    fields = from_well(write(tmp_path / "a.hdf5"))
    names = ("density", "velocity_x", "velocity_y", "strain_xx", "strain_xy", "strain_yy")
    assert (len(fields), fields.channel_names, fields.shape) == (6, names, (8, 6))
    assert fields.domain == Product([Torus(1, (2.0,)), Box(1, (1.0,))])
    x = fields.batch([4, 0, 5], (8, 6))["x"].numpy()
    np.testing.assert_allclose(x[0, 2], VELOCITY[1, 1, ..., 1], rtol=1e-6)
    np.testing.assert_allclose(x[1, 0], DENSITY[0, 0], rtol=1e-6)
    np.testing.assert_allclose(x[2, 4], STRAIN[1, 2, ..., 0, 1], rtol=1e-6)
    assert torch.equal(pickle.loads(pickle.dumps(fields)).batch([3], (4, 6))["x"], fields.batch([3], (4, 6))["x"])


def test_files_of_a_folder_follow_each_other_with_their_conditions(tmp_path):
    write(tmp_path / "a.hdf5", viscosity=0.5), write(tmp_path / "b.hdf5", viscosity=0.25)
    numbers = ["viscosity", "heating", "seed", "time"]
    fields = from_well(tmp_path, ["density"], field="porosity", condition=numbers, time=slice(1, None))
    assert len(fields) == 8 and fields.condition_names == tuple(numbers)
    batch = fields.batch([1, 6], (8, 6))
    np.testing.assert_allclose(batch["condition"], [[0.5, 3, 7, 0.2], [0.25, 2, 8, 0.1]], rtol=1e-6)
    np.testing.assert_allclose(batch["x"][:, 0], [DENSITY[0, 2], DENSITY[1, 1]], rtol=1e-6)
    np.testing.assert_allclose(batch["field"][1, 0], np.repeat(POROSITY[1][:, None], 6, 1), rtol=1e-6)


@pytest.mark.parametrize(
    ("edges", "domain"),
    [(("PERIODIC", "PERIODIC"), Torus(2, (2.0, 1.0))), (("WALL", "OPEN"), Box(2, (2.0, 1.0)))],
)
def test_the_domain_is_what_the_boundary_conditions_say(tmp_path, edges, domain):
    fields = from_well(write(tmp_path / "a.hdf5", edges), "velocity", chunks=Chunks())
    assert fields.domain == domain
    assert MultiResolution(fields, fields.domain, [(4, 4), (8, 6)], batch_size=2)[0]["x"].shape[1] == 2


def test_colatitudes_and_longitudes_are_the_sphere(tmp_path):
    path = write(
        tmp_path / "a.hdf5", (), {"theta": np.linspace(0, np.pi, 8), "phi": np.arange(6) / 6 * 2 * np.pi}, "spherical"
    )
    fields = from_well(path, "density")
    assert fields.domain == Sphere("equiangular") and fields.shape == (8, 6)
    named = from_well(path, "density", Sphere("equiangular"))
    assert named.batch([0], (8, 6))["x"].equal(fields.batch([0], (8, 6))["x"]), "the same, as the domain is"


def test_stored_chunks_are_read_whole(tmp_path):
    fields = from_well(write(tmp_path / "a.hdf5", chunks=(1, 3, 8, 6)), "density", chunks=Chunks(together=1))
    np.testing.assert_allclose(fields.batch([5], (8, 6))["x"][0, 0], DENSITY[1, 2], rtol=1e-6)
    assert fields._x.rows.chunk == 3


def test_it_goes_to_xarray_with_its_axes(tmp_path):
    pytest.importorskip("xarray")
    fields = from_well(write(tmp_path / "a.hdf5"), "density")
    out = to_xarray(fields.batch([0], (8, 6))["x"], fields)
    np.testing.assert_allclose(out.x.values, np.arange(8) / 4, atol=1e-6)
    np.testing.assert_allclose(out.y.values, (np.arange(6) + 0.5) / 6, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fields": "pressure"}, r"expected fields among \['density', 'porosity', 'velocity', 'strain'\]"),
        ({"condition": "Mach"}, r"expected condition among \['heating', 'seed', 'time', 'viscosity'\]"),
        ({"time": slice(9, None)}, "one time or more"),
    ],
)
def test_what_is_not_there_is_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        from_well(write(tmp_path / "a.hdf5"), **options)


def test_other_files_and_grids_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"folder of \.hdf5 files"):
        from_well(tmp_path)
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["x"] = np.zeros((2, 8, 8))
    with pytest.raises(ValueError, match="groups t0_fields, t1_fields, t2_fields and dimensions"):
        from_well(tmp_path / "other.hdf5")
    uneven = {"x": np.arange(8) / 4, "y": np.arange(6) ** 2.0}
    with pytest.raises(ValueError, match=r"equal steps along each axis, got others along \['y'\]"):
        from_well(write(tmp_path / "uneven.hdf5", axes=uneven))
    assert from_well(tmp_path / "uneven.hdf5", domain=Box(2)).domain == Box(2)
