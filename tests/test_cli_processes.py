"""`fnodiff` in processes of its own: help without torch, killed at any moment, several processes for one job."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest
import torch
from command import drawn, run, state

import fnodiff
from fnodiff import Model
from fnodiff.cli import main
from fnodiff.cli.app import COMMANDS
from fnodiff.cli.drawing import SampleFolder

TRAINED = Path(__file__).parent.parent / "examples" / "models" / "sphere_shallow_water"
QUICK = ["--steps", "3", "--device", "cpu", "--quiet"]


def test_help_and_version_are_there_without_torch():
    code = (
        "import sys\nfrom fnodiff.cli import main\nmain(['--help']), main(['train', '--help']), main(['--version'])\n"
    )
    code += "print([name for name in ('torch', 'neuralop', 'matplotlib', 'h5py') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (
        all(name in done.stdout for name in COMMANDS)
        and "By default a GPU" in done.stdout
        and "default:" in done.stdout
    )
    assert done.stdout.endswith(f"fnodiff {fnodiff.__version__}\n[]\n")


def test_python_m_fnodiff_is_the_command():
    done = subprocess.run([sys.executable, "-m", "fnodiff", "sample"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("fnodiff sample: expected MODEL, got none")


def count_samples(folder):
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
    """SIGKILL at random moments; with batches of one the bits are the same."""
    draw, start = random.Random(0), multiprocessing.get_context("forkserver")
    start.set_forkserver_preload(["fnodiff.nn", "fnodiff.cli.drawing"])  # torch is loaded once
    arguments = [str(models / model), "--size", "16", "--seeds", "0-199", "--batch", "1"]
    whole = ["sample", *arguments, "--steps", "3", "--device", "cpu", "--quiet", "--out", str(tmp_path / "killed")]
    for _ in range(6):
        job, before = start.Process(target=main, args=(whole,)), count_samples(tmp_path / "killed")
        job.start()
        while count_samples(tmp_path / "killed") < before + 3:
            assert job.is_alive(), f"it ended with code {job.exitcode}"
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.02))
        job.kill()
        job.join()
    assert count_samples(tmp_path / "killed") < 200
    for name in ("killed", "whole"):
        assert drawn("sample", *arguments, "--out", tmp_path / name) == 0
    kind = "png" if model == "images" else "hdf5"
    killed, whole = (SampleFolder(tmp_path / name, kind).load((16, 16), range(200)) for name in ("killed", "whole"))
    assert torch.equal(killed, whole) and not list(tmp_path.rglob("*.new"))


def shared(*arguments):
    """What two processes of the command print."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "fnodiff"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("model", ["images", "fields", "trained"])
def test_processes_share_the_seeds(models, tmp_path, model):
    folder, size = (TRAINED, (16, 32)) if model == "trained" else (models / model, (16, 16))
    arguments = [folder, "--size", "x".join(map(str, size)), "--seeds", "0-4"]
    shared("sample", *arguments, *QUICK, "--out", tmp_path / "two")
    assert drawn("sample", *arguments, "--out", tmp_path / "one") == 0
    assert model == "images" or len(list((tmp_path / "two").glob("*.h5"))) == 2, "each process writes its own file"
    kind = "png" if model == "images" else "hdf5"
    two, one = (SampleFolder(tmp_path / name, kind).load(size, range(5)) for name in ("two", "one"))
    # Networks that have learnt nothing pass float32's rounding on, grown; those that have do not.
    tolerance = {"images": 0.0079, "fields": 2e-3, "trained": 1e-5}[model]
    worst = (two - one).abs().amax((0, 2, 3)) / one.abs().amax((0, 2, 3))
    assert float(worst.max()) < tolerance, worst


@pytest.mark.slow
def test_processes_share_an_evaluation(room, tmp_path, capsys):
    arguments = [
        "evaluate",
        room / "run",
        "--data",
        room / "pictures",
        *"--sizes 16 --seeds 0-15".split(),
        *QUICK,
        "--out",
    ]
    two = shared(*arguments, tmp_path / "two")
    assert run(*arguments, tmp_path / "one") == 0
    assert two.count("16x16     sampled") == 1, "printed once"
    two, one = (json.loads((tmp_path / name / "distances.json").read_text())["sizes"] for name in ("two", "one"))
    assert two["16x16"]["sampled"] == pytest.approx(one["16x16"]["sampled"], rel=0.01)


@pytest.mark.slow
def test_processes_share_a_training(room, tmp_path):
    options = ["--config", room / "small.toml", "--reproducible", "--dropout", 0, "--device", "cpu", "--out"]
    shared("train", room / "pictures", *options, tmp_path / "two")
    assert run("train", room / "pictures", *options, tmp_path / "one") == 0
    two, one = (Model.from_pretrained(tmp_path / name).state_dict() for name in ("two", "one"))
    assert state(tmp_path / "two")["step"] == 3
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-5)
