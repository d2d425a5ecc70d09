"""Several processes and batches in parts: the same training as one process does."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
import safetensors.torch
import torch
from waves import data, model

from fnodiff import fit
from fnodiff.sde import DenoisingLoss
from fnodiff.train import Adam, Execution, Logging
from fnodiff.train.weights import MovingAverage

JOB = """
import sys
import torch
from accelerate import Accelerator
from fnodiff import fit
from fnodiff.train import Adam, Execution, Logging
from waves import data, model

folder, steps, parts, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), None if sys.argv[4] == "None" else 0
more = eval(sys.argv[5]) if len(sys.argv) > 5 else {}
torch.set_default_dtype(torch.float64)
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=parts)
execution = Execution(accelerator=accelerator, seed=seed, save_every=10**6, shard=more.pop("shard", False))
optimizer = Adam(rampup=10, decay=more.pop("decay", False))
trained, drawn = model(dropout=0.0).double(), []
with torch.no_grad():
    for parameter in trained.parameters():
        parameter.mul_(1 + accelerator.process_index)  # other weights, which are to be the first process'
logging = Logging(progress=False, callback=lambda *_: drawn.append(torch.rand(())))
options = {"optimizer": optimizer, "logging": logging, "execution": execution, "folder": folder, **more}
trained = fit(trained, data(batch_size=8), steps, **options)
torch.save({"weights": trained.state_dict(), "drawn": drawn}, f"{folder}-{accelerator.process_index}.pt")
"""


RESUME, SHARD = {"resume": True}, {"shard": True}


def run(tmp_path, name, processes, *arguments, job=JOB):
    """Start a job of this many processes; returns it and its folder."""
    script = tmp_path / "job.py"
    script.write_text(textwrap.dedent(job))
    command = [sys.executable, str(script)]
    if processes > 1:  # not accelerate launch, which starts one process where there is no GPU
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.path.dirname(__file__)}
    command += [str(tmp_path / name), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True), tmp_path / name


def finish(job, folder):
    """Wait for a job; the weights of its model."""
    _, said = job.communicate(timeout=300)
    assert job.returncode == 0, said[-3000:]
    return safetensors.torch.load_file(folder / "model.safetensors")


def assert_close(ours, theirs, tolerance):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(
            value, theirs[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def train(accelerators, parts=1, **options):
    """The weights after six steps, and the losses on the way."""
    trained, losses = model(dropout=0.0).to(torch.get_default_dtype()), []
    fit(
        trained,
        data(batch_size=8),
        6,
        optimizer=Adam(rampup=1),
        logging=Logging(progress=False, callback=lambda step, shape, loss: losses.append(loss)),
        execution=Execution(accelerator=accelerators(gradient_accumulation_steps=parts), **options),
    )
    return trained.state_dict(), losses


@pytest.mark.parametrize("parts", [2, 8])
def test_a_batch_in_parts_is_the_batch(float64, accelerators, parts):
    whole, losses = train(accelerators, seed=0)
    in_parts, again = train(accelerators, parts, seed=0)
    assert_close(in_parts, whole, 1e-9)
    assert again == pytest.approx(losses, rel=1e-9)


@pytest.mark.parametrize("parts", [1, 4])
def test_parts_make_one_step_and_one_average(accelerators, monkeypatch, parts):
    calls = {"optimizer": 0, "average": 0, "forward": 0}

    def counted(owner, method, name):
        original = getattr(owner, method)

        def call(*arguments, **options):
            calls[name] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(owner, method, call)

    counted(torch.optim.Adam, "step", "optimizer")
    counted(MovingAverage, "update", "average")
    counted(DenoisingLoss, "forward", "forward")
    train(accelerators, parts)
    assert calls == {"optimizer": 6, "average": 6, "forward": 6 * parts}


def test_another_seed_is_another_run(accelerators):
    whole, other = (train(accelerators, seed=seed)[0] for seed in (0, 1))
    assert any(float((other[k] - whole[k]).abs().max()) > 1e-4 for k in whole)


def test_a_seeded_run_is_the_same_whatever_was_drawn_before(accelerators):
    first, _ = train(accelerators, seed=3)
    torch.manual_seed(77)
    second, _ = train(accelerators, seed=3, workers=2)
    assert all(torch.equal(second[k], v) for k, v in first.items())


def test_what_cannot_be_shared_out_is_refused(accelerators):
    with pytest.raises(ValueError, match=r"3 parts share evenly, got 8; make it a multiple of 3"):
        train(accelerators, 3)


STEPS = 20


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The weights that one process finds."""
    return finish(*run(tmp_path_factory.mktemp("one"), "one", 1, STEPS, 1, 0))


def returned(folder):
    """What each of two processes had at the end."""
    return [torch.load(f"{folder}-{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2])
def test_processes_share_a_step_out(tmp_path, one, parts):
    assert_close(finish(*run(tmp_path, "two", 2, STEPS, parts, 0)), one, 1e-9)
    first, second = returned(tmp_path / "two")
    assert_close(second["weights"], first["weights"], 0)  # though the processes began with other weights


@pytest.mark.slow
def test_a_run_goes_on_with_more_processes(tmp_path, one):
    finish(*run(tmp_path, "half", 1, STEPS // 2, 1, 0))
    assert_close(finish(*run(tmp_path, "half", 2, STEPS, 1, 0, RESUME)), one, 1e-9)


@pytest.mark.slow
def test_processes_share_the_weights_out(tmp_path, one):
    finish(*run(tmp_path, "shared", 2, STEPS // 2, 1, 0, SHARD))
    # What was written goes back into shares, and is read by one.
    assert_close(finish(*run(tmp_path, "shared", 2, STEPS, 1, 0, {**SHARD, **RESUME})), one, 1e-9)
    first, second = returned(tmp_path / "shared")
    assert_close(first["weights"], one, 1e-9)
    assert_close(second["weights"], one, 1e-9)


@pytest.mark.slow
def test_one_process_goes_on_from_shared_weights(tmp_path, one):
    finish(*run(tmp_path, "back", 2, STEPS // 2, 2, 0, SHARD))
    assert_close(finish(*run(tmp_path, "back", 1, STEPS, 1, 0, RESUME)), one, 1e-9)


@pytest.mark.slow
def test_without_a_seed_processes_draw_other_noise_and_agree_on_the_end(tmp_path):
    finish(*run(tmp_path, "run", 2, 10**6, 1, None, {"minutes": 0.05, "decay": True}))
    first, second = returned(tmp_path / "run")
    assert_close(second["weights"], first["weights"], 0)
    assert len(first["drawn"]) == len(second["drawn"]) > 2
    assert not set(map(float, first["drawn"])) & set(map(float, second["drawn"])), "the same noise twice"


OWN = """
import sys
import torch
from accelerate import Accelerator
from fnodiff.sde import DenoisingLoss
from torch.utils.data import DataLoader
from waves import data, model

accelerator, batches, trained, seen = Accelerator(cpu=True), data(), model(), []
rank, processes = accelerator.process_index, accelerator.num_processes
steps = batches.steps(rank, len(batches), every=processes)
loss = DenoisingLoss(trained)
adam = torch.optim.Adam(trained.parameters(), lr=1e-3)
loss, adam = accelerator.prepare(loss, adam)
for step, batch in zip(steps, DataLoader(batches, batch_size=None, sampler=steps), strict=True):
    adam.zero_grad()
    accelerator.backward(loss(**batch).mean())
    adam.step()
    seen += batches.indices(step)
torch.save({"weights": trained.state_dict(), "seen": seen}, f"{sys.argv[1]}-{rank}.pt")
"""


@pytest.mark.slow
def test_a_loop_of_ones_own_shares_an_epoch_out(tmp_path):
    job, folder = run(tmp_path, "own", 2, job=OWN)
    _, said = job.communicate(timeout=300)
    assert job.returncode == 0, said[-3000:]
    first, second = returned(folder)
    assert sorted(first["seen"] + second["seen"]) == list(range(64))
    assert_close(second["weights"], first["weights"], 0)
    assert any(
        float((value - model().state_dict()[name]).abs().max()) > 1e-4 for name, value in first["weights"].items()
    )
