"""What is larger than memory: whole chunks are read, once in an epoch, and nothing else changes."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from command import run as run_command

from fnodiff import Torus
from fnodiff.data import ArrayFields, Augmented, Chunks, MultiResolution, Part, from_xarray
from fnodiff.data.chunks import run

LINE = Torus(1)
VALUES = torch.arange(22.0)[:, None, None] + torch.rand(22, 1, 8, generator=torch.Generator().manual_seed(0)) / 2


@dataclass
class Counted:
    """Rows of which 4 are stored together, and which were read."""

    values: torch.Tensor = field(default_factory=VALUES.clone)
    read: list = field(default_factory=list)
    single, chunk = True, 4

    @property
    def shape(self):
        return tuple(self.values.shape)

    def __getitem__(self, rows):
        self.read += rows
        return self.values[rows]


def seen(data, steps):
    """The samples of some steps, by what they hold."""
    return [int(v) for step in steps for v in data[step]["x"].mean((1, 2))]


@pytest.mark.parametrize("batch_size", [2, 5, 11])
def test_an_epoch_reads_every_chunk_once(batch_size):
    rows = Counted()
    data = MultiResolution(
        ArrayFields(rows, domain=LINE, chunks=Chunks(4, together=2)), LINE, [8], batch_size=batch_size
    )
    rows.read.clear()
    data.fields._x._kept.clear()
    found = seen(data, range(22 // batch_size))
    assert len(set(found)) == len(found) and sorted(rows.read) == sorted(set(rows.read))
    assert {v // 4 for v in found} == {v // 4 for v in rows.read}


def test_batches_are_those_of_the_arrays():
    chunked, plain = (ArrayFields(VALUES, domain=LINE, chunks=c) for c in (Chunks(4, together=1), None))
    asked = [21, 3, 0, 3, -1, 12]
    torch.testing.assert_close(chunked.batch(asked, (8,))["x"], plain.batch(asked, (8,))["x"], rtol=0, atol=0)
    assert len(chunked._x._kept) == 1
    copy = pickle.loads(pickle.dumps(chunked))
    assert not copy._x._kept and torch.equal(copy.batch([5], (8,))["x"], plain.batch([5], (8,))["x"])


def test_samples_of_chunks_in_memory_together_are_mixed():
    order = ArrayFields(Counted(), domain=LINE, chunks=Chunks(4, together=2)).order(np.random.default_rng(1))
    assert sorted(order) == list(range(22))
    (first,) = {frozenset(v // 4 for v in order[:8])}
    assert len(first) == 2, "eight samples of two chunks"
    assert [v // 4 for v in order[:8]] != sorted(v // 4 for v in order[:8])


@pytest.mark.parametrize(
    "made", [lambda f: Part(f, range(1, 20)), lambda f: Augmented(f, [lambda x: x, lambda x: x.flip(-1)])]
)
def test_sources_made_of_it_keep_its_order(made):
    fields = made(ArrayFields(Counted(), domain=LINE, chunks=Chunks(4, together=1)))
    order = fields.order(np.random.default_rng(0))
    assert sorted(order) == list(range(len(fields)))
    chunks = fields.batch(order, (8,))["x"].mean((1, 2)).int() // 4
    changes = int((chunks[1:] != chunks[:-1]).sum())
    assert changes <= (4 if len(fields) == 19 else 11), "from one chunk to the next once, or once for each map"


def test_what_was_not_looked_at_must_be_like_the_rest():
    values = VALUES.clone()
    values[17, 0, 3] = torch.nan
    fields = ArrayFields(values, domain=LINE, chunks=Chunks(4, scan=4))
    assert not fields.masked and "mask" not in fields.batch([3], (8,))
    with pytest.raises(ValueError, match=r"without missing ones.*Chunks\(scan=\.\.\.\)"):
        fields.batch([17], (8,))
    found = ArrayFields(values, domain=LINE, chunks=Chunks(4, scan=22))
    assert found.batch([17], (8,))["mask"].sum() == 7
    values[17, 0, 3], values[2, 0, 0] = torch.inf, torch.nan
    with pytest.raises(ValueError, match="finite"):
        ArrayFields(values, domain=LINE, chunks=Chunks(4, scan=4)).batch([17], (8,))


def test_the_looked_at_are_spread_over_the_file():
    rows = Counted()
    ArrayFields(rows, domain=LINE, chunks=Chunks(4, scan=8))
    assert sorted(set(rows.read)) == [0, 1, 2, 3, 20, 21]


@pytest.mark.parametrize(
    ("sizes", "stored", "count"), [([20], [6], 6), ([20, 3], [6, 3], 18), ([20, 3], [6, 2], 2), ([4, 3], [9, 9], 12)]
)
def test_samples_in_a_row_of_one_chunk(sizes, stored, count):
    assert run(sizes, stored) == count


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_the_chunks_of_a_zarr_store(tmp_path):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("zarr")
    values = np.random.default_rng(0).normal(size=(70, 8, 6)).astype(np.float32)
    dataset = xarray.Dataset({"t": (("time", "longitude", "latitude"), values)})
    dataset = dataset.assign_coords(
        latitude=np.linspace(-75, 75, 6), longitude=np.arange(0, 360, 45.0), time=np.arange(70)
    )
    dataset.to_zarr(tmp_path / "t.zarr", encoding={"t": {"chunks": (10, 8, 6)}})
    fields = from_xarray(tmp_path / "t.zarr", "t", Torus(2), chunks=Chunks())
    assert fields._x.size == 40, "the multiple of 10 from 32 on"
    expected = torch.from_numpy(values[[69, 0]].transpose(0, 2, 1))[:, None]
    torch.testing.assert_close(fields.batch([69, 0], (6, 8))["x"], expected)


@pytest.mark.parametrize("wrong", [{"size": 0}, {"together": 0}, {"scan": 0}])
def test_numbers_of_chunks_are_positive(wrong):
    with pytest.raises(ValueError, match="size, together and scan >= 1"):
        Chunks(**wrong)


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_the_command_reads_chunk_by_chunk(tmp_path, monkeypatch):
    xarray = pytest.importorskip("xarray")
    values = np.random.default_rng(0).normal(size=(40, 16, 16)).astype(np.float32)
    xarray.Dataset({"u": (("time", "y", "x"), values)}).to_netcdf(tmp_path / "u.nc", engine="h5netcdf")
    made = []
    monkeypatch.setattr(Chunks, "of", lambda self, rows, of=Chunks.of: made.append(of(self, rows)) or made[-1])
    options = [
        "--domain",
        "torus",
        "--shapes",
        8,
        16,
        "--steps",
        1,
        "--batch",
        4,
        "--network",
        "tiny",
        "--quiet",
        "--chunks",
    ]
    assert run_command("train", tmp_path / "u.nc", *options, "--num-blocks", 0, "--out", tmp_path / "run") == 0
    assert [rows.size for rows in made] == [32]
