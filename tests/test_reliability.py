"""What may happen to a run: killed at any moment, a full disk, folders that vanish or are read-only; and long runs."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import random
import resource
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from waves import QUIET, data, model

from fnodiff import checkpoint
from fnodiff.domain import Box
from fnodiff.model import Model
from fnodiff.nn import DFU
from fnodiff.sde import EDM, DPMSolver, EDMScaling, FunctionSpaceSDE, WhiteNoise, sample, samples
from fnodiff.train import STATE, Adam, Execution, Logging, fit

KILLS, STEPS = 30, 400
MODELS = Path(__file__).parent.parent / "examples" / "models"


def train(folder, steps, *, logging=QUIET, optimizer=None, **options):
    """Start, or go on with, a run in this folder; options are those of its execution."""
    torch.set_num_threads(1)
    given = model(dropout=0.1)  # the network draws from torch's generator too
    torch.manual_seed(5)
    execution = Execution(**{"accelerator": Accelerator(cpu=True)} | options)
    settings = {"optimizer": optimizer or Adam(rampup=10), "logging": logging, "execution": execution}
    return fit(given, data(), steps, folder=folder, resume="auto", **settings)


def heard(callback):
    return Logging(progress=False, callback=callback)


def readable(folder):
    """Read all that is there; the step of the run, 0 before the first checkpoint."""
    if (folder / checkpoint.MODEL).exists():
        Model.from_pretrained(folder)
    return torch.load(folder / STATE, weights_only=True)["step"] if (folder / STATE).exists() else 0


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_in_the_same_bits(tmp_path):
    draw, steps = random.Random(0), []
    start = multiprocessing.get_context("forkserver")
    start.set_forkserver_preload(["test_reliability"])  # a process a kill, and torch is loaded once
    killed = tmp_path / "killed"
    for _ in range(KILLS):
        job = start.Process(target=train, args=(killed, STEPS), kwargs={"save_every": 1})
        before, began = readable(killed), time.monotonic()
        job.start()
        while readable(killed) == before and time.monotonic() < began + 60:  # a step and its checkpoint at least
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, 0.1))
        assert job.is_alive(), f"the run ended with code {job.exitcode} after {steps}"
        job.kill()
        job.join()
        steps.append(readable(killed))
    assert steps == sorted(steps) and steps[-1] < STEPS, steps
    for folder, options in ((killed, {}), (tmp_path / "whole", {"save_every": 10**6})):
        job = start.Process(target=train, args=(folder, STEPS), kwargs=options)
        job.start()
        job.join()
        assert job.exitcode == 0
    ours, whole = (torch.load(f / STATE, weights_only=True) for f in (killed, tmp_path / "whole"))
    assert ours["step"] == whole["step"] == STEPS
    torch.testing.assert_close(
        [ours[p] for p in ("weights", "ema")], [whole[p] for p in ("weights", "ema")], rtol=0, atol=0
    )
    left = sorted(
        p.name for p in killed.iterdir() if not p.name.startswith(".tmp")
    )  # those that safetensors was writing
    assert left == sorted(p.name for p in (tmp_path / "whole").iterdir())


@pytest.mark.parametrize("name", [STATE, checkpoint.MODEL])
def test_a_full_disk_leaves_the_checkpoint_before_it(tmp_path, monkeypatch, name):
    train(tmp_path, 2)
    kept = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    real = os.fsync

    def full(handle):
        if name in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        train(tmp_path, 4)
    monkeypatch.undo()
    now = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert now.keys() == kept.keys() and now[name] == kept[name]
    assert readable(tmp_path) == (2 if name == STATE else 4)
    whole = train(tmp_path / "whole", 6)
    assert all(torch.equal(v, whole.state_dict()[k]) for k, v in train(tmp_path, 6).state_dict().items())


def test_a_folder_that_vanishes_is_made_again(tmp_path):
    folder = tmp_path / "run"

    def vanish(step, *_):
        if step == 3:
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()

    train(folder, 4, save_every=2, logging=heard(vanish))
    assert readable(folder) == 4


def test_what_cannot_be_written_to_is_known_before_training(tmp_path):
    unheard = heard(lambda *_: pytest.fail("trained before it was known"))
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ValueError, match=r"file: expected a folder that can be written to"):
        train(tmp_path / "file", 2, logging=unheard)
    assert (tmp_path / "file").read_text() == "not a folder"
    read_only = Path("/proc/fnodiff")  # whoever asks: root may write to a folder without permission
    with pytest.raises(ValueError, match=r"another folder="):
        train(read_only, 2, logging=unheard)


def resident():
    """Mebibytes in use."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


@pytest.mark.slow
def test_memory_is_flat_over_a_long_run(tmp_path):
    seen = []
    train(tmp_path, 2000, logging=heard(lambda step, *_: seen.append(resident()) if step % 100 == 0 else None))
    assert max(seen[10:]) - max(seen[:5]) < 8, seen  # MiB


@pytest.mark.slow
def test_memory_is_flat_over_many_samples():
    sde = FunctionSpaceSDE(WhiteNoise(Box(2), (16, 16)), EDM())
    small = Model(DFU.tiny(1, 1, hidden_channels=8), sde, EDMScaling()).eval()
    batches = samples(small, (16, 16), range(10_000), solver=DPMSolver(3), batch=100)
    seen = [(tuple(x.shape), resident()) for x in batches]
    memory = [mebibytes for _, mebibytes in seen]
    assert [shape for shape, _ in seen] == [(100, 1, 16, 16)] * 100
    assert max(memory[50:]) - max(memory[:25]) < 8, memory


@pytest.mark.slow
def test_bf16_autocast_trains_as_float32_does(tmp_path, accelerators):
    def losses(precision):
        heard_of, options = [], {"seed": 0, "accelerator": accelerators(mixed_precision=precision)}
        logging = heard(lambda *told: heard_of.append(told[2]))
        train(tmp_path / precision, 36, optimizer=Adam(lr=1e-2, rampup=5), logging=logging, **options)
        return torch.tensor(heard_of)

    single, half = losses("no"), losses("bf16")
    assert float(single[-12:].mean()) < 0.9 * float(single[:10].mean())
    assert float(half[-12:].mean()) == pytest.approx(float(single[-12:].mean()), rel=0.01)
    assert not torch.equal(half, single), "autocast did nothing"


@pytest.fixture(autouse=True)
def _threads():
    """Those of the other tests."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("name", "shape"), [("terrain_superres", (24, 24)), ("sphere_shallow_water", (16, 32))])
def test_a_trained_models_sample_is_its_seeds_in_any_company(name, shape):
    trained = Model.from_pretrained(MODELS / name)
    together, again, apart = (  # three at once, and two and one
        sample(trained, shape, [3, 1, 4], solver=DPMSolver(2), batch=batch) for batch in (3, 3, 2)
    )
    assert torch.equal(again, together)
    worst = (apart - together).abs().amax((0, 2, 3)) / together.abs().amax((0, 2, 3))
    assert float(worst.max()) < 1e-5, worst  # in float32
