"""Bad files: each is a ValueError that says how to mend it, and changes nothing on disk."""

from __future__ import annotations

import json
import pickle
import re
import struct
import zipfile
import zlib
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.torch
import test_bad_models
import test_bad_sampling
import test_bad_training
import torch
from drawn import Drawn
from PIL import Image
from refused import BOX, QUIET, SDE, model, net, refused

from fnodiff import EDMScaling, Model, MultiResolution, fit
from fnodiff.data import ArrayFields, HDF5Fields, ImageFolder, write_fields


def saved(folder: Path) -> Path:
    return model().save_pretrained(folder / "model")


def with_config(change, folder: Path):
    path = saved(folder) / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    return partial(Model.from_pretrained, folder / "model")


def with_tensors(change, folder: Path):
    path = saved(folder) / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path)
    return partial(Model.from_pretrained, folder / "model")


def with_bytes(content: bytes, name: str, folder: Path):
    (saved(folder) / name).write_bytes(content)
    return partial(Model.from_pretrained, folder / "model")


def cut(name: str, folder: Path):
    path = saved(folder) / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return partial(Model.from_pretrained, folder / "model")


def image(folder: Path, name: str = "a.png", keep: float = 1.0) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / name)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(keep * len(content))])
    return folder


def images(folder: Path, keep: float = 1.0, shape=(32, 32)):
    image(folder, keep=keep)
    return lambda: ImageFolder(folder).batch([0], shape)


def not_an_image(folder: Path):
    (folder / "a.png").write_bytes(b"not an image at all")
    return lambda: ImageFolder(folder).batch([0], (32, 32))


def zipped(members, folder: Path):
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return lambda: ImageFolder(folder / "a.zip").batch([0], (32, 32))


def zip_bomb(folder: Path):
    """A member that says it is a terabyte."""
    call = zipped([("a.png", bytes(2**20))], folder)
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(2**20))
        archive.getinfo("a.png").file_size = 2**40  # the directory is written at the end
    return call


def png_bomb(folder: Path):
    """A few hundred bytes that say they are 50,000 x 50,000 pixels."""
    content = bytearray((image(folder) / "a.png").read_bytes())
    content[16:24] = struct.pack(">II", 50_000, 50_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (folder / "a.png").write_bytes(content)
    return lambda: ImageFolder(folder).batch([0], (32, 32))


def masked(name: str, shape: tuple[int, ...], dtype: str, folder: Path):
    return hdf5(lambda file: file.create_dataset(name, data=np.ones(shape, dtype)), folder)


def hdf5(change, folder: Path):
    about = {"source": "a test", "licence": "none", "grid": "cell averages"}
    write_fields(folder / "a.h5", Drawn(3), [(16, 16)], attributes=about, progress=False)
    with h5py.File(folder / "a.h5", "r+") as file:
        change(file)
    return partial(HDF5Fields, folder / "a.h5")


def cut_hdf5(folder: Path):
    hdf5(lambda file: None, folder)
    content = (folder / "a.h5").read_bytes()
    (folder / "a.h5").write_bytes(content[: len(content) // 2])
    return lambda: HDF5Fields(folder / "a.h5")


def damaged_hdf5(folder: Path):
    """A file whose root can be read, and nothing below it."""
    hdf5(lambda file: None, folder)
    content = bytearray((folder / "a.h5").read_bytes())
    for start in range(len(content)):
        if content[start : start + 4] in (b"OHDR", b"TREE", b"SNOD", b"HEAP") and start > 1000:
            content[start + 4 : start + 12] = b"\xff" * 8
    (folder / "a.h5").write_bytes(content)
    return lambda: HDF5Fields(folder / "a.h5")


def grey():
    """Batches that the model could learn from."""
    x = np.random.default_rng(0).normal(size=(4, 1, 16, 16)).astype("float32")
    return MultiResolution(ArrayFields(x, domain=BOX), BOX, [16], batch_size=2)


def resumed(content: bytes | None, folder: Path, resume=True):
    saved(folder)
    if content is not None:
        (folder / "model" / "training.pt").write_bytes(content)
    return lambda: fit(model(), grey(), 2, folder=folder / "model", resume=resume, logging=QUIET)


def gone_on_with(other, batches, folder: Path):
    """A run that is resumed with another model, or on other data."""
    options = {"folder": folder / "model", "logging": QUIET}
    fit(model(), grey(), 1, **options)
    return lambda: fit(other(), batches(), 2, resume=True, **options)


def other_model():
    return Model(net(num_blocks=1), SDE, EDMScaling(0.5))


class Hostile:
    """Would write a file, if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def hostile(name: str, folder: Path):
    return with_bytes(pickle.dumps(Hostile(folder / "owned")), name, folder)


def hostile_state(folder: Path):
    call = resumed(None, folder)
    torch.save({"ema": Hostile(folder / "owned")}, folder / "model" / "training.pt")
    return call


def other_state(folder: Path):
    call = resumed(None, folder)
    torch.save({"step": 3}, folder / "model" / "training.pt")
    return call


def rename(tensors):
    tensors["another"] = tensors.pop(sorted(tensors)[0])


def lose(tensors):
    tensors.pop(sorted(tensors)[0])


def add(tensors):
    tensors["another"] = torch.zeros(3)


def misshape(tensors):
    name = next(k for k in sorted(tensors) if tensors[k].ndim > 1)
    tensors[name] = tensors[name][:1].clone()


FILES = {
    "no such folder": (lambda folder: partial(Model.from_pretrained, folder / "nowhere"), r"none of these"),
    "a folder without a model": (lambda folder: partial(Model.from_pretrained, folder), r"expected config.json"),
    "a config that is no JSON": (partial(with_bytes, b"{", "config.json"), r"not valid JSON"),
    "a config that is no text": (partial(with_bytes, b"\xff\xfe\x00", "config.json"), r"not valid JSON"),
    "a config of another program": (partial(with_bytes, b"[1, 2]", "config.json"), r"format 3.*save it again"),
    "a config of another format": (partial(with_config, lambda c: c.update(format=99)), r"format 3.*save it again"),
    "a config of the format before": (
        partial(with_config, lambda c: c.update(format=2)),
        r"format 3, got format 2; convert it: fnodiff convert",
    ),
    "an unknown class": (partial(with_config, lambda c: c["model"].update({"class": "Unknown"})), r"pass it"),
    "a hostile class": (partial(with_config, lambda c: c["model"].update({"class": "os.system"})), r"not allowed"),
    "a class that is no name": (partial(with_config, lambda c: c["model"].update({"class": ["DFU"]})), r"not allowed"),
    "a config without bottom": (partial(with_bytes, b"[" * 100_000, "config.json"), r"save the model again"),
    "a config of many nests": (
        partial(with_config, lambda c: c["model"].update(network=json.loads("[" * 700 + "]" * 700))),
        r"too deeply nested",
    ),
    "a network of text": (partial(with_config, lambda c: c["model"].update(network="rm")), r"expected a network"),
    "a process of text": (partial(with_config, lambda c: c["model"].update(sde="EDM")), r"expected a process"),
    "a noise of text": (
        partial(with_config, lambda c: c["model"]["sde"]["noise"].update(domain="Box")),
        r"does not take these",
    ),
    "a scaling of text": (partial(with_config, lambda c: c["model"].update(scaling="edm")), r"expected a scaling"),
    "a spectrum of text": (partial(with_config, lambda c: c["model"].update(spectrum="rm")), r"expected a spectrum"),
    "units of text": (partial(with_config, lambda c: c["model"].update(normalization="K")), r"a Normalization"),
    "units of a condition that is none": (
        partial(with_config, lambda c: c["model"].update(condition_normalization={"label": None})),
        r"labels have no units",
    ),
    "grids that are none": (partial(with_config, lambda c: c.update(training_shapes=16)), r"training_shapes"),
    "grids of text": (partial(with_config, lambda c: c.update(training_shapes=["16x16"])), r"positive sizes"),
    "arguments that nothing takes": (partial(with_config, lambda c: c["model"].update(sigma=1)), r"does not take"),
    "a noise as the model": (
        partial(with_config, lambda c: c.update(model=c["model"]["sde"])),
        r"expected a Model, got FunctionSpaceSDE",
    ),
    "tensors cut short": (partial(cut, "model.safetensors"), r"save the model again"),
    "a pickle for tensors": (partial(hostile, "model.safetensors"), r"not a readable safetensors"),
    "a pickle for the config": (partial(hostile, "config.json"), r"config.json"),
    "a tensor too few": (partial(with_tensors, lose), r"missing network"),
    "a tensor too many": (partial(with_tensors, add), r"left over another"),
    "a tensor of another name": (partial(with_tensors, rename), r"missing.*left over another"),
    "a tensor of another shape": (partial(with_tensors, misshape), r"does not fit"),
    "a run without its state": (partial(resumed, None), r"cannot be resumed"),
    "a state that is noise": (partial(resumed, b"noise"), r"not a readable training state"),
    "a state that runs code": (hostile_state, r"not a readable training state"),
    "a folder that holds a run": (partial(resumed, b"", resume=False), r"holds one; pass resume=True"),
    "a state of something else": (other_state, r"not a readable training state"),
    "a run of another model": (
        partial(gone_on_with, other_model, grey),
        r"expected to resume its own model.*use the same",
    ),
    "an image cut short": (partial(images, keep=0.5), r"mend or remove"),
    "an image that is text": (not_an_image, r"mend or remove"),
    "an image too small": (partial(images, shape=(128, 128)), r"averaging cannot invent detail"),
    "a folder without images": (lambda folder: partial(ImageFolder, folder), r"no image in"),
    "a folder that is not there": (lambda folder: partial(ImageFolder, folder / "nowhere"), r"nowhere"),
    "a zip of nothing": (partial(zipped, []), r"no image in"),
    "a zip out of its folder": (partial(zipped, [("../owned.png", b"noise")]), r"no image in"),
    "a zip with a broken image": (partial(zipped, [("a.png", b"\x89PNG noise")]), r"mend or remove"),
    "a zip out of the root": (partial(zipped, [("/tmp/owned.png", b"noise")]), r"mend or remove"),
    "a zip of nothing but zeros": (partial(zipped, [("a.png", bytes(2**24))]), r"mend or remove"),
    "a zip that explodes": (zip_bomb, r"1099511627776 bytes are more.*mend or remove"),
    "an image that explodes": (png_bomb, r"decompression bomb.*mend or remove"),
    "a file that is no HDF5": (lambda folder: partial(HDF5Fields, image(folder) / "a.png"), r"not an HDF5 file"),
    "no HDF5 at all": (lambda folder: partial(HDF5Fields, folder / "a.h5"), r"not a file"),
    "an HDF5 cut short": (cut_hdf5, r"write it again"),
    "an HDF5 of damaged names": (damaged_hdf5, r"a.h5 cannot be read, damaged"),
    "an HDF5 without fields": (partial(hdf5, lambda f: f.pop("16x16")), r"<shape>/x"),
    "an HDF5 of another version": (partial(hdf5, lambda f: f.attrs.modify("version", 9)), r"version"),
    "an HDF5 that was not finished": (partial(hdf5, lambda f: f.attrs.modify("complete", 1)), r"complete"),
    "an HDF5 with half a mask": (partial(masked, "16x16/mask", (2, 1, 16, 16), "uint8"), r"as many samples"),
    "an HDF5 with a mask of numbers": (partial(masked, "16x16/mask", (3, 1, 16, 16), "float32"), r"as uint8 \(N"),
    "an HDF5 of other lengths": (
        partial(hdf5, lambda f: f.create_dataset("label", data=np.zeros(7, dtype="int64"))),
        r"expected",
    ),
}


def contents(folder: Path) -> dict[str, bytes]:
    found = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in found}


@pytest.mark.parametrize("case", FILES)
def test_a_bad_file_is_refused_and_nothing_changes(case, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "inside").mkdir()
    make, message = FILES[case]
    call = make(tmp_path / "inside")
    before = contents(tmp_path)
    refused(call, message)
    assert contents(tmp_path) == before


def test_the_tables_are_as_long_as_they_say():
    tables = (test_bad_models.CALLS, test_bad_sampling.CALLS, test_bad_training.CALLS, FILES)
    names = [name for table in tables for name in table]
    assert len(names) >= 150
    assert len({re.sub(r"\W", "", name) for name in names}) == len(names)
