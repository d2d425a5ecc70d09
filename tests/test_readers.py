"""Arrays from files of every kind: the same numbers in the same axes, missing values left out, and no code run."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import torch

from fnodiff.data import ArrayFields, MultiResolution
from fnodiff.data.files import list_arrays, read_arrays
from fnodiff.domain import Box, Sphere, Torus

rng = np.random.default_rng(0)
COEFF, SOL = rng.integers(3, 13, (5, 8, 6)).astype(float), rng.normal(size=(5, 8, 6))
LABEL = np.arange(5)


def matlab73(path: Path, arrays: dict[str, np.ndarray], **storage: object) -> None:
    """As MATLAB writes v7.3: HDF5 behind a block of 512 bytes, axes reversed, and what else it puts there."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values.T, **storage)
            file[name].attrs["MATLAB_class"] = np.bytes_("double")
        file["title"] = np.frombuffer("Darcy".encode("utf-16-le"), np.uint16)
        file["title"].attrs["MATLAB_class"] = np.bytes_("char")
        file["#refs#/a"] = np.zeros((2, 1))
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(512))


def hdf5(path: Path, arrays: dict[str, np.ndarray], **storage: object) -> None:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, **storage)
        file["text"] = "Darcy"


WRITERS: dict[str, tuple[str, Callable]] = {
    "mat5": ("a.mat", lambda path, arrays: scipy.io.savemat(path, {"text": "Darcy", "cell": [arrays, "x"], **arrays})),
    "mat5 packed": ("a.mat", lambda path, arrays: scipy.io.savemat(path, arrays, do_compression=True)),
    "mat7.3": ("a.mat", matlab73),
    "mat7.3 packed": ("a.mat", lambda path, arrays: matlab73(path, arrays, compression="gzip")),
    "npz": ("a.npz", lambda path, arrays: np.savez(path, **arrays, text=np.array(["Darcy", None]))),
    "npz packed": ("a.npz", lambda path, arrays: np.savez_compressed(path, **arrays)),
    "pt": ("a.pt", lambda path, arrays: torch.save({k: torch.tensor(v) for k, v in arrays.items()} | {"n": 1}, path)),
    "old pt": (
        "a.pt",
        lambda path, arrays: torch.save(
            {k: torch.tensor(v) for k, v in arrays.items()}, path, _use_new_zipfile_serialization=False
        ),
    ),
    "h5": ("a.h5", hdf5),
    "h5 in chunks": ("a.hdf5", lambda path, arrays: hdf5(path, arrays, chunks=True)),
}


@pytest.fixture(params=WRITERS)
def darcy(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    name, write = WRITERS[request.param]
    write(tmp_path / name, {"coeff": COEFF, "sol": SOL})
    return tmp_path / name


# ---- files --------------------------------------------------------------------------------------------------------


def test_every_kind_of_file_gives_the_same_numbers_in_the_same_axes(darcy: Path) -> None:
    assert list_arrays(darcy) == {"coeff": (5, 8, 6), "sol": (5, 8, 6)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arrays = read_arrays(darcy)
    assert list(arrays) == ["coeff", "sol"]
    np.testing.assert_array_equal(arrays["sol"].numpy(), SOL)
    np.testing.assert_array_equal(arrays["coeff"].numpy(), COEFF)


def test_writing_to_an_array_never_reaches_the_file(darcy: Path) -> None:
    before = darcy.read_bytes()
    read_arrays(darcy)["sol"].zero_()
    assert darcy.read_bytes() == before


def test_an_unknown_name_is_refused_with_those_there_are(darcy: Path) -> None:
    message = r"expected arrays \['u'\] in .*, which has coeff \(5, 8, 6\), sol \(5, 8, 6\)"
    with pytest.raises(ValueError, match=message):
        read_arrays(darcy, ["u"])
    with pytest.raises(ValueError, match=message):
        ArrayFields.open(darcy, x="u", domain=Box(2))


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_a_truncated_file_is_refused_by_name(darcy: Path, share: float) -> None:
    whole = darcy.read_bytes()
    darcy.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=rf"{darcy.name} cannot be read|expected arrays .*{darcy.name}"):
        read_arrays(darcy, ["coeff", "sol"])


@pytest.mark.parametrize("suffix", [".mat", ".npy", ".npz", ".pt", ".h5"])
def test_a_file_of_something_else_is_refused_by_name(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"a{suffix}").write_text("a page that says 404" * 20)
    with pytest.raises(ValueError, match=rf"a\{suffix} cannot be read"):
        read_arrays(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("name", ["a.csv", "gone.npy", ""])
def test_what_is_no_such_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1, 2")
    with pytest.raises(ValueError, match=r"expected a file ending in one of .mat, .*got "):
        read_arrays(tmp_path / name)


class Trap:
    def __reduce__(self) -> tuple:
        return open, (Trap.path, "w")


@pytest.mark.parametrize("suffix", [".pt", ".npy", ".npz"])
def test_a_pickle_is_refused_and_not_run(suffix: str, tmp_path: Path) -> None:
    path, Trap.path = tmp_path / f"a{suffix}", str(tmp_path / "sprung")
    if suffix == ".pt":
        torch.save({"x": torch.ones(2), "y": Trap()}, path)
    elif suffix == ".npz":
        np.savez(path, x=np.array([Trap()]))
    else:
        path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match=r"a\.(pt|npy) cannot be read.*(refused as loading|pickled)|no numeric array"):
        read_arrays(path, ["x"])
    assert not (tmp_path / "sprung").exists()


def test_arrays_without_a_name_and_of_every_type(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", SOL.astype(">f4"))
    torch.save(torch.tensor(SOL), tmp_path / "b.pt")
    np.testing.assert_array_equal(read_arrays(tmp_path / "a.npy")["arr_0"].numpy(), SOL.astype(np.float32))
    np.testing.assert_array_equal(read_arrays(tmp_path / "b.pt")["arr_0"].numpy(), SOL)
    assert ArrayFields.open(tmp_path / "a.npy", domain=Box(2)).channels == 1


def test_nested_hdf5_is_named_by_its_path(tmp_path: Path) -> None:
    hdf5(tmp_path / "a.h5", {"0000/data": SOL, "flags": SOL > 0})
    assert list_arrays(tmp_path / "a.h5") == {"0000/data": SOL.shape, "flags": SOL.shape}
    np.testing.assert_array_equal(read_arrays(tmp_path / "a.h5")["flags"].numpy(), SOL > 0)


# ---- fields -------------------------------------------------------------------------------------------------------


def test_open_serves_pairs_by_cell_averages(darcy: Path) -> None:
    fields = ArrayFields.open(darcy, x="sol", field="coeff", domain=Box(2))
    assert (len(fields), fields.channels, fields.condition_channels, fields.shape) == (5, 1, 1, (8, 6))
    batch = fields.batch([4, 0, 4], (4, 3))
    assert set(batch) == {"x", "field"}
    expected = SOL[[4, 0, 4], None].reshape(3, 1, 4, 2, 3, 2).mean((3, 5))
    np.testing.assert_allclose(batch["x"].numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(batch["field"].numpy().mean((2, 3)), COEFF[[4, 0, 4], None].mean((2, 3)), rtol=1e-6)


def test_pdebench_and_frames_by_their_axes(tmp_path: Path) -> None:
    hdf5(tmp_path / "a.hdf5", {"nu": COEFF, "tensor": SOL[:, None], "x-coordinate": np.arange(6.0)})
    fields = ArrayFields.open(tmp_path / "a.hdf5", x="tensor", field="nu", domain=Box(2))
    np.testing.assert_array_equal(fields.batch([1], (8, 6))["x"][0, 0].numpy(), SOL[1].astype(np.float32))
    u = rng.normal(size=(2, 6, 6, 4))
    np.save(tmp_path / "u.npy", u)
    frames = ArrayFields.open(tmp_path / "u.npy", domain=Torus(2), channel_axis=-1)
    assert (frames.channels, frames.shape) == (4, (6, 6))
    np.testing.assert_array_equal(frames.batch([1], (6, 6))["x"][0, 3].numpy(), u[1, ..., 3].astype(np.float32))


def test_a_torus_is_resampled() -> None:
    domain, generator = Torus(2), torch.Generator().manual_seed(0)
    x = domain.synthesize(domain.white((3, 2), (5, 7), generator=generator), (16, 12))
    fields = ArrayFields(x, domain=domain)
    torch.testing.assert_close(fields.batch([2, 1], (5, 7))["x"], domain.resample(x[[2, 1]], (5, 7)))
    torch.testing.assert_close(domain.resample(fields.batch([0], (5, 7))["x"], (16, 12)), x[:1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.uint16, torch.int64, torch.float16, torch.float64])
def test_every_type_becomes_float32(dtype: torch.dtype) -> None:
    x = torch.arange(32).reshape(2, 4, 4).to(dtype)
    batch = ArrayFields(x, domain=Box(2)).batch([1, 0], (4, 4))["x"]
    assert batch.dtype == torch.float32
    assert torch.equal(batch[:, 0], x.float().flip(0))


def test_labels_and_training_batches() -> None:
    fields = ArrayFields(SOL, label=LABEL, domain=Box(2))
    assert fields.batch([3, 1], (8, 6))["label"].tolist() == [3, 1]
    wide = ArrayFields(np.repeat(SOL, 2, axis=2), label=LABEL, domain=Box(2))
    batch = MultiResolution(wide, Box(2), [(8, 12), (8, 8)], batch_size=2)[0]
    assert batch["x"].shape[:2] == (2, 1)
    shares = np.stack([LABEL, 4 - LABEL], 1) / 4
    found = ArrayFields(SOL, label=shares, domain=Box(2)).batch([3], (8, 6))["label"]
    np.testing.assert_array_equal(found[0].numpy(), shares[3].astype(np.float32))


# ---- missing values -----------------------------------------------------------------------------------------------

NAN = float("nan")


def test_a_coarse_cell_is_the_mean_of_its_measured_part() -> None:
    x = torch.tensor([[1.0, 2.0, NAN, NAN], [3.0, NAN, NAN, 8.0], [5.0, NAN, NAN, NAN], [NAN, 6.0, NAN, NAN]])
    fields = ArrayFields(x[None], domain=Box(2))
    batch = fields.batch([0], (2, 2))
    assert torch.equal(batch["mask"][0, 0], torch.tensor([[1.0, 0.0], [0.0, 0.0]]))  # 3/4, 1/4, 1/2, 0 measured
    torch.testing.assert_close(batch["x"][0, 0], torch.tensor([[2.0, 0.0], [0.0, 0.0]]))
    fine = fields.batch([0], (4, 4))
    assert torch.equal(fine["mask"][0, 0], (~x.isnan()).float())
    assert torch.equal(fine["x"][0, 0], x.nan_to_num(0.0))


def test_cells_that_are_cut_count_in_part() -> None:
    x = torch.tensor([[1.0, NAN, 4.0]])[:, None].expand(1, 3, 3)  # columns 0 and 2; the coarse cells are 1.5 wide
    batch = ArrayFields(x, domain=Box(2)).batch([0], (1, 2))
    torch.testing.assert_close(batch["x"][0, 0], torch.tensor([[1.0, 4.0]]))
    assert torch.equal(batch["mask"], torch.ones(1, 1, 1, 2))


def test_a_constant_stays_the_constant_wherever_it_was_measured() -> None:
    x = torch.full((4, 2, 21, 17), 3.5)
    x[torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.3] = NAN
    batch = ArrayFields(x, domain=Box(2)).batch(range(4), (8, 5))
    assert 0.9 < float(batch["mask"].mean()) <= 1
    torch.testing.assert_close(batch["x"], 3.5 * batch["mask"])


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_mask_joins_the_missing_values(per_sample: bool) -> None:
    x = torch.ones(3, 1, 4, 4)
    x[:, :, 0, 0] = NAN
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[3] = False
    x[:, :, 3] = 1e30  # garbage where it was not measured
    fields = ArrayFields(x, domain=Box(2), mask=mask.expand(3, 4, 4) if per_sample else mask)
    batch = fields.batch([0, 2], (4, 4))
    expected = mask.float()
    expected[0, 0] = 0
    assert torch.equal(batch["mask"], expected.expand(2, 1, 4, 4))
    assert torch.equal(batch["x"], batch["mask"])
    coarse = fields.batch([0], (1, 4))
    assert torch.equal(coarse["mask"][0, 0], torch.tensor([[0.0, 1.0, 1.0, 1.0]]))  # 2/4, then 3/4 measured
    torch.testing.assert_close(coarse["x"], coarse["mask"])


@pytest.mark.parametrize("grid", [(8, 16), (9, 16), (8, 15)])
def test_channels_behind_the_globe_are_told_apart(grid: tuple[int, int]) -> None:
    """Read as (N, C, *grid) these were 8 channels on a grid of 16 x 3."""
    x = torch.rand(2, *grid, 3)
    with pytest.raises(ValueError, match=r"channel_axis=-1 for 3 channels on a grid \(\d+, 1\d\)"):
        ArrayFields(x, domain=Sphere())
    fields = ArrayFields(x, domain=Sphere(), channel_axis=-1)
    assert (fields.channels, fields.shape) == (3, grid)
    assert ArrayFields(x, domain=Sphere(), channel_axis=1).shape == (grid[1], 3)
    assert ArrayFields(x.movedim(-1, 1), domain=Sphere()).shape == grid


def test_masks_of_samples_go_with_their_samples() -> None:
    mask = torch.arange(3)[:, None, None] == torch.arange(4)[:, None].expand(4, 4)
    batch = ArrayFields(torch.ones(3, 4, 4), domain=Box(2), mask=mask).batch([2, 0], (4, 4))
    assert torch.equal(batch["mask"][:, 0], mask[[2, 0]].float())


def test_missing_values_on_a_torus_are_left_out_of_means() -> None:
    x = torch.tensor([[[1.0, 2.0, NAN, 6.0]]])
    fields = ArrayFields(x, x.nan_to_num(2.0), domain=Torus(1))
    stored, coarse = fields.batch([0], (4,)), fields.batch([0], (2,))
    assert stored["x"].tolist() == [[[1.0, 2.0, 0.0, 6.0]]]
    assert stored["mask"].tolist() == [[[1.0, 1.0, 0.0, 1.0]]]
    assert coarse["x"].flatten().tolist() == [(0.5 * 6 + 1 + 0.5 * 2) / 2, 0.0]  # around 1/2 only half is measured
    assert coarse["mask"].flatten().tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": SOL[0]}, r"expected x as real numbers .*got \(8, 6\)"),
        ({"x": SOL + 1j}, "real numbers"),
        (
            {"x": np.zeros((2, 6, 6, 4))},
            r"a usual grid only with its channels last; pass channel_axis=-1 for 4 channels",
        ),
        ({"x": SOL, "field": COEFF[:4]}, r"as many samples in each array, got \[5, 4\]"),
        ({"x": SOL, "label": LABEL[:4]}, r"got \[5, 4\]"),
        ({"x": SOL, "label": LABEL / 2}, r"integers \(N,\) or finite floats \(N, K\), got torch.float64 \(5,\)"),
        ({"x": SOL, "channel_axis": 2}, "channel_axis 1 or -1, got 2"),
        ({"x": SOL, "mask": np.ones((6, 8))}, r"expected a mask for x \(5, 1, 8, 6\), got \(6, 8\)"),
        ({"x": SOL, "mask": np.ones((4, 8, 6))}, r"got \(4, 8, 6\)"),
        ({"x": SOL, "mask": SOL[0]}, "mask of 1 and 0"),
        ({"x": np.where(SOL > 2, np.inf, SOL)}, "infinite values"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArrayFields(**options, domain=Box(2))


@pytest.mark.parametrize(
    ("indices", "shape", "message"),
    [
        ([0], (9, 6), r"no finer than \(8, 6\), that of x, got \(9, 6\)"),
        ([5], (8, 6), "indices from 0 to 4, got 5"),
        ([0], (8,), "2 positive sizes"),
        ([1], (8, 6), "expected a finite field"),
    ],
)
def test_batches_that_cannot_be_are_refused(indices: list[int], shape: tuple, message: str) -> None:
    field = COEFF.copy()
    field[1, 0, 0] = NAN
    with pytest.raises(ValueError, match=message):
        ArrayFields(SOL, field, domain=Box(2)).batch(indices, shape)


def test_wrong_shapes_in_a_file_are_refused_with_what_it_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", sol=SOL, coeff=COEFF[:4])
    with pytest.raises(ValueError, match=r"as many samples .*a.npz has sol \(5, 8, 6\), coeff \(4, 8, 6\)"):
        ArrayFields.open(tmp_path / "a.npz", "sol", "coeff", domain=Box(2))
    with pytest.raises(ValueError, match=r"expected x, the name of an array of .* which has sol \(5, 8, 6\), coeff"):
        ArrayFields.open(tmp_path / "a.npz", domain=Box(2))


def test_a_pickled_copy_serves_the_same(darcy: Path) -> None:
    fields = ArrayFields.open(darcy, "sol", domain=Box(2))
    copy = pickle.load(io.BytesIO(pickle.dumps(fields)))
    assert torch.equal(copy.batch([3], (8, 6))["x"], fields.batch([3], (8, 6))["x"])
