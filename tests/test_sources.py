"""The page on data where people keep them: its blocks run against files that the formats' own libraries wrote."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
from pathlib import Path

import h5py
import hugging_face as by_name
import numpy as np
import pytest
from PIL import Image
from test_well import write

from fnodiff import Sphere, Torus
from fnodiff.data import ArrayFields, Chunks, Records, Stream

PAGE = (Path(__file__).parent.parent / "docs" / "sources.md").read_text()
RANDOM = np.random.default_rng(0)
KNOWN = {"ArrayFields": ArrayFields, "Records": Records, "Chunks": Chunks, "Stream": Stream, "Torus": Torus}
"""What the page imports above a block."""


def block(title):
    (text,) = re.findall(rf"^## {title}\n.*?^```python\n(.*?)^```$", PAGE, flags=re.M | re.S)
    return text


def section(title):
    """The names that a section's block defines."""
    names = dict(KNOWN)
    exec(block(title), names)
    return names


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def png(i):
    image = Image.fromarray(RANDOM.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    image.save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def test_the_well(here):
    (here / "active_matter/data/train").mkdir(parents=True)
    write(here / "active_matter/data/train/a.hdf5", ("PERIODIC", "PERIODIC"))
    with h5py.File("active_matter/data/train/a.hdf5", "r+") as file:
        file.attrs["zeta"] = 3.0
    fields = section("The Well")["fields"]
    assert fields.channel_names == ("velocity_x", "velocity_y") and fields.domain == Torus(2, (2.0, 1.0))
    assert fields.batch([0], (4, 4))["condition"].tolist() == [[3.0]]


def test_pdebench(here):
    with h5py.File("2D_CFD.hdf5", "w") as file:
        for name in ("Vx", "Vy", "density", "pressure"):
            file[name] = RANDOM.random((3, 2, 8, 8), dtype=np.float32)
        file["x-coordinate"], file["t-coordinate"] = np.arange(8) / 8 + 1 / 16, np.arange(3.0)
    with h5py.File("2D_rdb_NA_NA.h5", "w") as file:
        for i in range(4):
            file[f"{i:04}/data"] = (
                np.full((5, 8, 8, 1), i, dtype=np.float32) + RANDOM.random((8, 1), dtype=np.float32) / 2
            )
            file[f"{i:04}/grid/x"], file[f"{i:04}/grid/t"] = np.linspace(-2.5, 2.5, 8), np.linspace(0, 1, 5)
    with h5py.File("2D_DarcyFlow_beta1.0_Train.hdf5", "w") as file:
        file["nu"], file["tensor"] = (RANDOM.random(s, dtype=np.float32) for s in [(3, 8, 8), (3, 1, 8, 8)])
        file.attrs["beta"] = 1.0
    names = section("PDEBench")
    with h5py.File("2D_CFD.hdf5") as file:
        expected = file["density"][1, 1]
    assert names["flow"].channel_names[4:6] == ("density[0]", "density[1]")
    np.testing.assert_allclose(names["flow"].batch([1], (8, 8))["x"][0, 5], expected)
    assert (len(names["water"]), names["water"].channels) == (4, 5)
    assert names["water"].batch([2], (8, 8))["x"].int().unique().tolist() == [2]
    assert names["darcy"].condition_channels == 1 and names["darcy"].batch([2], (4, 4))["field"].shape == (1, 1, 4, 4)


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_weather(here):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("zarr")
    place = {"latitude": np.linspace(-90, 90, 9), "longitude": np.arange(0, 360, 22.5), "level": [500, 850]}
    place["time"] = np.arange("2020-01-01", "2020-03-11", dtype="datetime64[D]").astype("datetime64[ns]")
    heights = RANDOM.random((70, 2, 16, 9), dtype=np.float32)
    axes = ("time", "level", "longitude", "latitude")  # as WeatherBench 2 has them
    dataset = xarray.Dataset(
        {"2m_temperature": (("time", *axes[2:]), heights[:, 0] + 273), "geopotential": (axes, heights)}, place
    )
    dataset.to_zarr(
        "era5.zarr", encoding={"geopotential": {"chunks": (20, 2, 16, 9)}, "2m_temperature": {"chunks": (20, 16, 9)}}
    )
    fields = section("Weather and climate")["fields"]
    assert fields.channel_names == ("2m_temperature", "geopotential[500]", "geopotential[850]")
    assert fields.domain == Sphere("equiangular") and len(fields) == 70
    order = fields.order(np.random.default_rng(0))
    assert sorted(order) == list(range(70)), "chunks of 40 and of 30, both in memory"


def test_hugging_face(here, monkeypatch):
    datasets = by_name.package()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", here / "cache")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(2)})
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(100)], "label": [i % 2 for i in range(100)]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet("flowers.parquet")
    names = section("Hugging Face")
    assert (len(names["fields"]), names["fields"].num_classes, names["stream"].num_classes) == (100, 2, 2)
    both = [names[name].batch([7, 2], (4, 4)) for name in ("fields", "stream")]
    assert both[0]["x"].equal(both[1]["x"]) and both[0]["label"].tolist() == [1, 0]


def test_webdataset(here):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter("shard-%02d.tar", maxcount=4, verbose=0) as writer:
        for i in range(10):
            writer.write({"__key__": f"{i}", "png": png(i), "cls": i % 3})
    assert section("webdataset")["fields"].batch([9, 1], (4, 4))["label"].tolist() == [0, 1]


def test_torchvision(here):
    pytest.importorskip("torchvision")
    (here / "mnist/MNIST/raw").mkdir(parents=True)
    for part, count in (("train", 6), ("t10k", 2)):  # the files that MNIST's site has
        pixels = np.repeat(np.arange(count, dtype=np.uint8), 28 * 28)
        raw = here / "mnist/MNIST/raw" / part
        Path(f"{raw}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, count, 28, 28) + pixels.tobytes())
        Path(f"{raw}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + bytes(range(count)))
    fields = section("torchvision")["fields"]
    batch = fields.batch([5], (7, 7))
    assert (fields.num_classes, batch["label"].item()) == (10, 5)
    np.testing.assert_allclose(batch["x"], np.full((1, 1, 7, 7), 5 / 127.5 - 1), rtol=1e-5)


def test_numpy(here):
    values = RANDOM.normal(size=(70, 8, 8)).astype(np.float32)
    np.save("waves.npy", values)
    fields = section("NumPy")["fields"]
    np.testing.assert_array_equal(fields.batch([65], (8, 8))["x"][0, 0], values[65])


@pytest.mark.slow
def test_a_cluster(here):
    """As a script of its own: dask's processes import it."""
    pytest.importorskip("dask.distributed")
    (here / "cluster.py").write_text(block("Make data with several processes"))
    subprocess.run([sys.executable, "cluster.py"], check=True, timeout=120)
    with h5py.File("darcy.h5") as file:
        assert file.attrs["complete"] == 8 and file["32x32/x"].shape == (8, 2, 32, 32)
