"""What `fnodiff` says when its arguments are wrong: one line, which names what was expected."""

from __future__ import annotations

import shutil

import h5py
import numpy as np
import pytest
import torch
from command import run

from fnodiff import Box
from fnodiff.cli.app import COMMANDS
from fnodiff.cli.errors import TRACEBACK, one_line, status_of
from fnodiff.data import ArrayFields, write_fields

SHORT = {"TRAIN": "train {pictures} --shapes 16 --steps 1", "SAMPLE": "sample {images} --size 16"}
# The arguments, with names for what `places` makes, and a part of what is said.
WRONG = {
    "no such command": ("trian", "got 'trian'"),
    "no data": ("train", "expected DATA, got none"),
    "no end": ("train {pictures} --shapes 16", "expected --steps >= 1 or --minutes above 0"),
    "no grids": ("train {pictures} --steps 1", "expected --shapes"),
    "no such folder": ("train nowhere --steps 1", "which is not there"),
    "no data at all": ("train {file} --steps 1", "which is none of these"),
    "an empty folder": ("train {empty} --shapes 16 --steps 1", "no image in"),
    "a broken picture": ("train {broken} --shapes 16 --steps 1", "a.png cannot be read"),
    "a word for a grid": ("train {pictures} --shapes big --steps 1", "got 'big'"),
    "an option twice": ("train {pictures} --steps 1 --steps 2", "expected --steps once, got it several times"),
    "a grid twice": ("train {pictures} --shapes 16 16 --steps 1", "name each once"),
    "a grid finer than the data": ("train {pictures} --shapes 64 --steps 1", "images that fill 64x64"),
    "no steps": ("train {pictures} --shapes 16 --steps 0", "expected --steps >= 1"),
    "a word for a number": ("train {pictures} --steps many", "expected --steps to be a whole number, got 'many'"),
    "half a sample": ("TRAIN --batch 2.5", "expected --batch to be a whole number, got '2.5'"),
    "half a step": ("SAMPLE --steps 2.5", "expected --steps to be a whole number, got '2.5'"),
    "half a mode": ("TRAIN --n-modes 2.5", "expected --n-modes to be a whole number, got '2.5'"),
    "no value": ("train {pictures} --steps", "expected a value after --steps"),
    "no values": ("train {pictures} --shapes --steps 1", "expected values after --shapes"),
    "a misspelt option": ("train {pictures} --bathc 3", "got --bathc; take --batch"),
    "no such network": ("train {pictures} --network big", "one of tiny, small, paper, got 'big'"),
    "one argument too many": ("sample {images} more --size 16", "more"),
    "a rate below 0": ("TRAIN --lr -1", "expected lr > 0"),
    "two weights": ("TRAIN --weights 1 2", "2 weights"),
    "no batch": ("TRAIN --batch 0", "batch_size=0"),
    "out is a file": ("TRAIN --out {file}", "File exists"),
    "out below a file": ("TRAIN --out {file}/a", "ot a directory"),
    "out is a model": ("TRAIN --out {images}", "holds a model alone"),
    "a run that is not there": ("TRAIN --resume always", "holds none"),
    "a run that is there": ("train {pictures} --config {toml} --out {run} --resume never", "holds one"),
    "a run of another network": ("train {pictures} --config {toml} --out {run} --num-blocks 1", "--num-blocks 0"),
    "smooth white noise": ("TRAIN --smoothness 1", "expected --smoothness with --noise matern, got it with none"),
    "levels of vp": (
        "TRAIN --schedule vp --sigma-min 1",
        "expected --sigma-min with --schedule edm or ve or cosine or rectified-flow, got it with vp",
    ),
    "an array of pictures": ("train {pictures} --x u --steps 1", "which holds pictures"),
    "no such array": ("train {arrays} --x v --domain box --shapes 8 --steps 1", "which has u (4, 1, 8, 8)"),
    "no such domain": ("train {arrays} --x u --domain channel --shapes 8 --steps 1", "an axis each such as torus-box"),
    "a domain of other axes": (
        "train {arrays} --x u --domain torus-box --dim 3 --shapes 8 --steps 1",
        "expected 2 axes",
    ),
    "arrays without a domain": ("train {arrays} --x u --shapes 8 --steps 1", "expected --domain"),
    "sides of no domain": (
        "train {arrays} --x u --lengths 1 1 --shapes 8 --steps 1",
        "expected --domain with --lengths",
    ),
    "axes of another file": ("train {h5} --dim 3 --shapes 8 --steps 1", "expected 2 axes and lengths"),
    "sides of another file": ("train {h5} --lengths 1 --shapes 8 --steps 1", "got 1; omit --lengths"),
    "an .h5 of other arrays": ("train {plain}.h5 --domain box --shapes 8 --steps 1", "other arrays, name --x"),
    "a cube or channels": ("train {arrays} --x cube --domain torus --shapes 8 --steps 1", "say --dim 3 or --dim 2"),
    "lines of three channels": ("train {arrays} --x lines --domain box --shapes 8 --steps 1", "say --dim 1 or --dim 2"),
    "a cube of one channel": ("train {arrays} --x cubes --domain box --shapes 8 --steps 1", "say --dim 3 or --dim 2"),
    "no file of options": ("train {pictures} --config nowhere.toml", "which is no file"),
    "no TOML": ("train {pictures} --config {file}", "expected a TOML file"),
    "no table": ("sample {images} --config {other}", "with a table [sample]"),
    "a table of no command": ("train {pictures} --config {unknown}", "got train, trian"),
    "an unknown key": ("train {pictures} --config {key}", "got [lrr] in"),
    "a key of another type": ("train {pictures} --config {type}", "got 'many' in"),
    "no model": ("sample nowhere --size 16", "none of these"),
    "a folder without a model": ("sample {empty} --size 16", "expected config.json"),
    "no size": ("sample {images}", "expected --size, got none"),
    "a size of 0": ("sample {images} --size 16x0", "160x96"),
    "three axes": ("sample {images} --size 16x16x16", "a grid of 2 positive sizes"),
    "too small a size": ("sample {images} --size 3", "at least 4 points"),
    "seeds backwards": ("SAMPLE --seeds 3-1", "smaller one first"),
    "some seeds backwards": ("SAMPLE --seeds 0,3-1", "smaller one first"),
    "a seed twice": ("SAMPLE --seeds 1,1", "each seed once"),
    "a seed below 0": ("SAMPLE --seeds -1", "such as 0-63"),
    "no batches": ("SAMPLE --batch 0", "1 or more"),
    "no noise levels": ("SAMPLE --steps 0", "expected steps >= 1"),
    "a label of no class": ("SAMPLE --label 1", "leave it out"),
    "no label": ("sample {classes} --size 16", "expected --label from 0 to 1, or -1 for no class, got None"),
    "a label too high": ("sample {classes} --size 16 --label 2", "from 0 to 1"),
    "guidance by no class": ("sample {classes} --size 16 --label -1 --guidance 2", "from 0 to 1 with --guidance"),
    "a model of a field": ("sample {conditioned} --size 16", "expected --condition-file with the conditioning field"),
    "pictures of fields": ("sample {fields} --size 16 --format png", "use hdf5"),
    "eta of heun": ("SAMPLE --solver heun --eta 1", "--solver dpm or ddim"),
    "eta of 2": ("SAMPLE --eta 2", "expected eta in [0, 1]"),
    "rho of no spacing": ("SAMPLE --rho 3", "expected --rho with --spacing rho"),
    "grids of no plan": ("SAMPLE --grids 8", "expected --grids with --plan"),
    "a plan without a spectrum": ("SAMPLE --plan cascade --grids 8", "data's spectrum"),
    "samples into a file": ("SAMPLE --out {file}", "File exists"),
    "no GPU": ("SAMPLE --device tpu", "one of cpu, cuda"),
    "classes from nowhere": ("SAMPLE --classes-from nowhere.py", "FileNotFoundError"),
    "classes that fail": ("SAMPLE --classes-from {boom}.py", "boom.py: RuntimeError: two lines; mend"),
    "no classes": ("SAMPLE --classes-from json.tool", "expected classes in json.tool, got none"),
    "no picture": ("upscale {run} nowhere.png --size 48", "No such file"),
    "a picture of text": ("upscale {run} {file} --size 48", "cannot be read"),
    "a picture too large": ("upscale {run} {picture} --size 24", "expected a grid finer"),
    "a finer start": ("upscale {run} {picture} --size 48 --from 64", "got 64x64 to fill"),
    "sizes of other proportions": ("upscale {run} {picture} --size 48 48x64", "the same proportions"),
    "a picture for fields": ("upscale {fields} {picture} --size 48", "expected a file of fields"),
    "no truth": ("evaluate {run}", "expected --data, got none"),
    "too little truth": ("evaluate {run} --data {pictures}", "expected 512 true fields"),
    "truth of other channels": ("evaluate {run} --data {h5} --seeds 0-1", "expected fields of 3 channels"),
    "one seed": ("evaluate {run} --data {pictures} --seeds 0", "two seeds or more"),
    "finer than the truth": ("evaluate {run} --data {pictures} --sizes 64 --seeds 0-1", "got 64x64 to fill"),
    "one grid": ("report {run} --shapes 16 --samples 2 --steps 1", "two or more different shapes"),
    "the finest first": ("report {run} --shapes 24 16", "the coarsest first"),
    "unknown grids": ("report {images}", "does not know its training grids"),
    "no old model": ("convert nowhere new", "found none"),
    "no old format": ("convert {images} new", "expected a model of format 2"),
    "an old model of a list": ("convert {listed} new", "got format None"),
    "an old model of nothing": ("convert {emptied} new", "others (KeyError: 'backbone')"),
    "a state of text": ("train {pictures} --config {toml} --out {texts}", "training.pt: not a readable training state"),
    "options of text": ("train {pictures} --config {toml} --out {begun}", "expected a TOML file"),
    "a scaling of a run of fit": (
        "train {pictures} --scaling spectral --shapes 16 24 --steps 9 --out {fitted}",
        "expected no --scaling, as a program other than this command began the run",
    ),
    "a network of no blocks": ("TRAIN --network tiny --num-blocks -1", "num_blocks >= 0"),
    "a seed too large": ("TRAIN --seed 99999999999999999999", "expected --seed from 0"),
    "a broken picture in a worker": (
        "train {one} --shapes 16 --steps 9 --batch 2 --network tiny --num-blocks 0 --workers 1 --no-in-memory",
        "00.png cannot be read",
    ),
    "settings of samples that are text": ("SAMPLE --out {run}/samples", "expected the settings of samples"),
    "conditions of bytes": ("sample {conditioned} --size 16 --condition-file {bytes}.csv", "a line of names and rows"),
    "a figure of no kind": ("report {run} --out figure.npy", "expected --out as a file of .png"),
    "no finer grid": ("finetune {run} {pictures} --size 16 --steps 1", "a grid finer than"),
    "maps that finetune has not": ("finetune {run} {pictures} --size 48 --augment 0.1 --steps 1", "no --augment"),
    "a weight of 2": ("finetune {run} {pictures} --size 48 --weight 2 --steps 1", "between 0 and 1"),
}


@pytest.fixture(scope="module")
def places(room, models, tmp_path_factory):
    """What the wrong arguments name, by the names in braces."""
    folder = tmp_path_factory.mktemp("wrong")
    for name in ("empty", "broken"):
        (folder / name).mkdir()
    (folder / "broken" / "a.png").write_bytes(b"no picture")
    (folder / "file").write_text("text")
    (folder / "boom.py").write_text("raise RuntimeError('two\\nlines')\n")
    tables = {"other": "[train]\nsteps = 1\n", "unknown": "[train]\n[trian]\n", "key": "[train]\nlrr = 1\n"}
    tables["type"] = '[train]\nsteps = "many"\n'
    for name, text in tables.items():
        (folder / name).write_text(text)
    shapes = {"u": (4, 1, 8, 8), "v2": (4, 1, 8, 8), "cube": (1, 8, 8, 8), "cubes": (1, 1, 8, 8, 8), "lines": (4, 3, 8)}
    np.savez(folder / "arrays.npz", **{name: np.zeros(shape) for name, shape in shapes.items()})
    with h5py.File(folder / "plain.h5", "w") as file:
        file["u"] = np.zeros((4, 8, 8))
    about = {"source": "here", "licence": "none", "grid": "cell averages"}
    source = ArrayFields(torch.randn(8, 1, 16, 16), domain=Box(2))
    write_fields(folder / "f.h5", source, [(16, 16)], attributes=about, dtype="float32", progress=False)
    for name in ("listed", "emptied", "texts", "begun", "fitted"):
        shutil.copytree(room / "run", folder / name)
    (folder / "listed" / "config.json").write_text("[]")
    (folder / "emptied" / "config.json").write_text('{"format": 2, "model": {}}')
    (folder / "texts" / "training.pt").write_text("text\n")
    (folder / "begun" / "train.toml").write_text("text\n")
    (folder / "fitted" / "train.toml").unlink()
    shutil.copytree(room / "pictures", folder / "one")
    (folder / "one" / "00.png").write_bytes((folder / "one" / "00.png").read_bytes()[:900])
    (room / "run" / "samples").mkdir()
    (room / "run" / "samples" / "sampling.json").write_text("text")
    (folder / "bytes.csv").write_bytes(bytes(range(128, 256)))
    made = {name: folder / name for name in ("empty", "broken", "file", "one", "bytes", "plain", *tables)}
    made |= {name: folder / name for name in ("listed", "emptied", "texts", "begun", "fitted")}
    made |= {name: models / name for name in ("images", "fields", "classes", "conditioned")}
    made |= {
        "boom": folder / "boom",
        "pictures": room / "pictures",
        "picture": room / "pictures" / "00.png",
        "run": room / "run",
    }
    return made | {"toml": room / "small.toml", "arrays": folder / "arrays.npz", "h5": folder / "f.h5"}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line(places, tmp_path, capsys, monkeypatch, name):
    line, message = WRONG[name]
    first, *rest = line.split(maxsplit=1)
    command, *arguments = [part for text in (SHORT.get(first, first), *rest) for part in text.split()]
    monkeypatch.chdir(tmp_path)
    assert run(command, *[argument.format(**places) for argument in arguments]) == 2
    said = [
        line for line in capsys.readouterr().err.split("\n") if line and "%|" not in line and "DPMSolver: " not in line
    ]
    start = f"fnodiff {command}: " if command in COMMANDS else "fnodiff: "
    assert len(said) == 1 and said[0].startswith(start) and message in said[0], said
    assert not list(tmp_path.rglob("*.png"))


def test_memory_that_does_not_suffice_is_said():
    error = RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried 4 bytes"
    )
    assert status_of(error) == 2 and one_line(error).endswith("take a smaller --batch, or a smaller grid.")


def test_a_fault_of_the_package_is_said_in_one_line_and_raised_where_asked_for(capsys, monkeypatch):
    def fails(old: str, new: str) -> None:
        {}["a\nb"]

    monkeypatch.setattr("fnodiff.cli.convert.convert", fails)
    assert run("convert", "old", "new") == 1
    said = capsys.readouterr().err
    assert said.startswith("fnodiff convert: KeyError: ") and said.count("\n") == 1 and TRACEBACK in said
    monkeypatch.setenv(TRACEBACK, "1")
    with pytest.raises(KeyError):
        run("convert", "old", "new")
