"""python -m fnodiff: samples as files."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from fnodiff import DFU, EDM, Box, DPMSolver, FunctionSpaceSDE, Heun, Preconditioned, Torus, WhiteNoise
from fnodiff.__main__ import load, main, seeds_of, size_of
from fnodiff.checkpoint import from_pretrained, save_pretrained
from fnodiff.data import HDF5Fields


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of untrained models: of images, of fields, with classes, with a conditioning field."""
    folder, options = tmp_path_factory.mktemp("models"), {"num_blocks": 0, "zero_init": False}
    for name, domain, channels, more in (
        ("images", Box(2), 3, {}),
        ("fields", Torus(2), 2, {}),
        ("classes", Box(2), 3, {"num_classes": 2}),
        ("conditioned", Box(2), 3, {"condition_channels": 1}),
    ):
        torch.manual_seed(0)
        net = DFU.tiny(channels, channels, domain=domain, **options, **more)
        sde = FunctionSpaceSDE(WhiteNoise(domain, (16, 16)), EDM())
        save_pretrained(Preconditioned(net, sde, 0.5), folder / name)
    return folder


def sample(*arguments: str | Path, steps: int = 3) -> None:
    main(["sample", *map(str, arguments), "--steps", str(steps), "--device", "cpu", "--quiet"])


def test_images_are_the_samplers_and_a_stopped_run_goes_on(models, tmp_path, capsys):
    sample(models / "images", "--size", "16", "24x16", "--seeds", "0-2,7", "--out", tmp_path, "--chunk", 3)
    files = sorted(file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.png"))
    assert files == [f"{size}/seed-{i:06d}.png" for size in ("16x16", "24x16") for i in (0, 1, 2, 7)]
    assert "of the values lay beyond [-1, 1] and were clipped" in capsys.readouterr().out
    x = DPMSolver(from_pretrained(models / "images"), 3).draw((3, 24, 16), [0, 1, 2, 7])
    levels = ((x.clamp(-1, 1) + 1) * 127.5).round()
    found = np.stack([np.asarray(Image.open(tmp_path / file)) for file in files[4:]])
    assert float((torch.from_numpy(found).movedim(-1, 1) - levels).abs().max()) <= 1
    lost, kept = tmp_path / "16x16" / "seed-000001.png", tmp_path / "16x16" / "seed-000002.png"
    before, stamp = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    sample(models / "images", "--size", "16", "--seeds", "0-2,7", "--out", tmp_path)
    assert lost.read_bytes() == before and kept.stat().st_mtime_ns == stamp


def test_fields_keep_their_values_and_a_stopped_run_goes_on(models, tmp_path, monkeypatch):
    arguments = (
        models / "fields",
        "--size",
        "16",
        "--seeds",
        "3-7",
        "--out",
        tmp_path,
        "--sampler",
        "heun",
        "--chunk",
        2,
    )
    draw, calls = Heun.draw, []

    def stopped(self, shape, seeds, **options):
        calls.append(list(seeds))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw(self, shape, seeds, **options)

    monkeypatch.setattr(Heun, "draw", stopped)
    with pytest.raises(KeyboardInterrupt):
        sample(*arguments)
    calls.extend([[]] * 3)
    sample(*arguments)
    assert [3, 4] in calls[:3] and [3, 4] not in calls[6:] and [5, 6] in calls[6:], "what is there is not drawn again"
    x = Heun(from_pretrained(models / "fields"), 3).draw((2, 16, 16), range(3, 8))
    torch.testing.assert_close(load(tmp_path, (16, 16), range(3, 8)), x, rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(load(tmp_path, (16, 16), [6, 4]), x[[3, 1]], rtol=1e-3, atol=2e-3)
    fields = HDF5Fields(tmp_path / "16x16-seeds-3-7.h5")
    assert fields.attributes["seeds"] == "3,4,5,6,7" and fields.attributes["sampler"] == "heun"


def test_evaluate_compares_with_true_fields(models, tmp_path, capsys):
    arguments = [
        "--size",
        "16",
        "--seeds",
        "0-15",
        "--out",
        str(tmp_path),
        "--data",
        "faces",
        "--steps",
        "3",
        "--quiet",
    ]
    main(["evaluate", str(models / "images"), *arguments, "--device", "cpu"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "spectrum" in line]
    assert [line[0] for line in lines] == ["sampled", "other"]
    sampled, true = (dict(zip(line[-6::2], map(float, line[-5::2]), strict=True)) for line in lines)
    assert set(sampled) == {"spectrum", "global", "patches"}
    assert all(sampled[name] > 2 * true[name] for name in sampled), "an untrained model is told from the truth"


def test_progress_is_shown_and_counts_what_was_there(models, tmp_path, capsys):
    command = [
        "sample",
        str(models / "images"),
        "--size",
        "16",
        "--steps",
        "1",
        "--device",
        "cpu",
        "--out",
        str(tmp_path),
    ]
    main([*command, "--seeds", "0"])
    assert re.search(r"16x16: 100%.* 1/1 ", capsys.readouterr().err)
    main([*command, "--seeds", "0-2"])
    assert re.search(r"16x16:  33%.* 1/3 .*16x16: 100%.* 3/3 ", capsys.readouterr().err, re.DOTALL)


def test_classes(models, tmp_path):
    for label in (0, 1, -1):
        sample(models / "classes", "--size", "16", "--seeds", "0", "--out", tmp_path / str(label), "--label", label)
    images = [(tmp_path / name / "16x16" / "seed-000000.png").read_bytes() for name in ("0", "1", "-1")]
    assert len(set(images)) == 3


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("images", ["--size", "16", "--seeds", "3-1"], "smaller one first"),
        ("images", ["--size", "16", "--seeds", "1,1"], "each seed once"),
        ("images", ["--size", "16", "--seeds", "-1"], "such as 0-63"),
        ("images", ["--size", "16x0", "--seeds", "1"], "such as 160x160"),
        ("images", ["--size", "sixteen", "--seeds", "1"], "such as 160x160"),
        ("images", ["--size", "16x16x16", "--seeds", "1"], "2"),
        ("images", ["--size", "4", "--seeds", "1"], "at least 8 points"),
        ("images", ["--size", "16", "--label", "1"], "leave it out"),
        ("images", ["--size", "16", "--chunk", "0"], "1 or more"),
        ("images", ["--size", "16", "--steps", "0"], "1 or more"),
        ("classes", ["--size", "16"], "expected 0 to 1"),
        ("classes", ["--size", "16", "--label", "2"], "expected 0 to 1"),
        ("conditioned", ["--size", "16"], "without a conditioning field"),
        ("fields", ["--size", "16", "--format", "png"], "use hdf5"),
        ("nowhere", ["--size", "16"], "neither is there"),
    ],
)
def test_bad_input_is_refused(models, tmp_path, capsys, model, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(["sample", str(models / model), "--out", str(tmp_path), "--quiet", "--device", "cpu", *arguments])
    said = capsys.readouterr().err if stopped.value.code == 2 else str(stopped.value.code)
    assert message in said and not list(tmp_path.rglob("*.png"))


def test_other_settings_want_another_folder(models, tmp_path):
    sample(models / "images", "--size", "16", "--seeds", "0", "--out", tmp_path)
    with pytest.raises(SystemExit, match="name another --out"):
        sample(models / "images", "--size", "16", "--seeds", "0", "--out", tmp_path, steps=4)


def test_what_the_arguments_mean():
    assert seeds_of("0-3,7") == [0, 1, 2, 3, 7] and size_of("160x96") == (160, 96) and size_of("32") == (32,)


def drawn(folder):
    """How many samples are there, whoever is writing them."""
    count = len(list(folder.rglob("seed-*.png")))
    for file in folder.glob("*.h5"):
        try:
            with h5py.File(file, "r", locking=False) as opened:
                count += int(opened.attrs["complete"])
        except (OSError, KeyError, RuntimeError, ValueError):  # caught in the middle of writing
            pass
    return count


@pytest.mark.slow
@pytest.mark.parametrize("model", ["images", "fields"])
def test_a_run_that_was_killed_goes_on(models, tmp_path, model):
    """SIGKILL at random moments; with chunks of one the bits are the same."""
    draw, start = random.Random(0), multiprocessing.get_context("forkserver")
    start.set_forkserver_preload(["test_command"])  # torch is loaded once
    arguments = [str(models / model), "--size", "16", "--seeds", "0-199", "--chunk", "1"]
    told = ["sample", *arguments, "--steps", "3", "--device", "cpu", "--quiet", "--out", str(tmp_path / "killed")]
    for _ in range(6):
        job, before = start.Process(target=main, args=(told,)), drawn(tmp_path / "killed")
        job.start()
        while drawn(tmp_path / "killed") < before + 3:
            assert job.is_alive(), f"it ended with code {job.exitcode}"
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.02))
        job.kill()
        job.join()
    assert drawn(tmp_path / "killed") < 200
    for name in ("killed", "whole"):
        sample(*arguments, "--out", tmp_path / name)
    killed, whole = (load(tmp_path / name, (16, 16), range(200)) for name in ("killed", "whole"))
    assert torch.equal(killed, whole) and not list(tmp_path.rglob("*.new"))


def shared(*arguments):
    """What two processes of python -m fnodiff print."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "fnodiff"]
    command += [*map(str, arguments), "--steps", "3", "--device", "cpu", "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


TRAINED = Path(__file__).parent.parent / "examples" / "models" / "sphere_shallow_water"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["images", "fields", "trained"])
def test_processes_share_the_seeds(models, tmp_path, model):
    folder, size = (TRAINED, (16, 32)) if model == "trained" else (models / model, (16, 16))
    arguments = [folder, "--size", "x".join(map(str, size)), "--seeds", "0-4"]
    shared("sample", *arguments, "--out", tmp_path / "two")
    sample(*arguments, "--out", tmp_path / "one")
    assert model == "images" or len(list((tmp_path / "two").glob("*.h5"))) == 2, "each process writes its own file"
    two, one = (load(tmp_path / name, size, range(5)) for name in ("two", "one"))
    # Networks that have learnt nothing pass float32's rounding on, grown; those that have do not.
    tolerance = {"images": 0.0079, "fields": 2e-3, "trained": 1e-5}[model]
    worst = (two - one).abs().amax((0, 2, 3)) / one.abs().amax((0, 2, 3))
    assert float(worst.max()) < tolerance, worst


@pytest.mark.slow
def test_processes_share_an_evaluation(models, tmp_path, capsys):
    arguments = ["evaluate", str(models / "images"), "--size", "16", "--seeds", "0-15", "--data", "faces", "--out"]
    two = shared(*arguments, tmp_path / "two")
    main([*arguments, str(tmp_path / "one"), "--steps", "3", "--device", "cpu", "--quiet"])
    tables = [
        [[float(v) for v in re.findall(r"\d+\.\d+", line)] for line in said.splitlines() if "spectrum" in line]
        for said in (two, capsys.readouterr().out)
    ]
    assert len(tables[0]) == 2, "printed once"
    assert tables[0] == [pytest.approx(row, rel=0.01) for row in tables[1]]
