"""Runs that end and go on: signals, other batch sizes, data, grids and processes, and folders that hold something."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from accelerate import Accelerator
from waves import FAST, QUIET, UNITS, Waves, data, model

from fnodiff import MultiResolution, Torus, fit
from fnodiff.checkpoint import CONFIG, MODEL
from fnodiff.model import Model
from fnodiff.sde import EDMScaling, Normalization, fit_spectrum
from fnodiff.train import STATE, Execution, Logging, MovingAverage, state
from fnodiff.train.signals import interruptible


def kept(folder: Path) -> dict[str, object]:
    return torch.load(folder / STATE, weights_only=True)


def told(callback) -> Logging:
    return Logging(progress=False, callback=callback)


def more(count: int, **options) -> MultiResolution:
    return MultiResolution(Waves(count), Torus(1), **{"shapes": [8, 12, 16], "batch_size": 4, **options})


CHANGES = {
    "a smaller batch": (lambda: data(batch_size=2), r"batch_size 2 \(before 4\)"),
    "more samples": (lambda: more(96), r"samples 96 \(before 64\)"),
    "one finer grid": (
        lambda: data(shapes=[8, 12, 16, 24]),
        r"shapes \[\[8\], \[12\], \[16\], \[24\]\] \(before \[\[8\]",
    ),
    "another order": (lambda: data(seed=3), r"seed 3 \(before 0\)"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_run_goes_on_with_other_data_and_says_so(tmp_path, name):
    make, message = CHANGES[name]
    fit(model(), data(), 2, folder=tmp_path, optimizer=FAST, logging=QUIET)
    before, steps = kept(tmp_path), []
    with pytest.warns(UserWarning, match=message):
        heard = told(lambda step, *_: steps.append((step, kept(tmp_path)["step"])))
        again = fit(model(), make(), 3, folder=tmp_path, resume="auto", optimizer=FAST, logging=heard)
    after = kept(tmp_path)
    assert steps == [(3, 2)] and after["step"] == 3 and int(after["optimizer"]["state"][0]["step"]) == 3
    moments = [state["optimizer"]["state"][0]["exp_avg_sq"] for state in (before, after)]
    assert bool((moments[1] >= 0.99 * moments[0]).all()), "Adam's averages go on"
    assert again.training_shapes == tuple(make().native_shapes)


def test_a_run_keeps_the_units_that_it_began_with(tmp_path):
    spectrum = fit_spectrum(UNITS(Waves().batch(range(64), (16,))["x"]), Torus(1))
    first = model()
    first.spectrum = spectrum
    fit(first, data(), 2, folder=tmp_path, logging=QUIET)
    again = model()
    again.normalization, again.spectrum = Normalization([5.1, 0.0], [4.0, 0.2]), replace(spectrum, exponent=1.0)
    with pytest.warns(UserWarning, match="its own normalization, not that of these data, its own spectrum"):
        fit(again, data(), 3, folder=tmp_path, resume=True, logging=QUIET)
    for one in (again, Model.from_pretrained(tmp_path)):
        assert one.normalization == UNITS and one.spectrum == spectrum


def test_another_model_is_named_by_what_differs(tmp_path):
    fit(model(), data(), 1, folder=tmp_path, logging=QUIET)
    other = model(num_blocks=1)
    other.scaling = EDMScaling(0.25)
    with pytest.raises(
        ValueError, match=r"network\.num_blocks 0, got 1; scaling\.sigma_data 0\.5, got 0\.25; use the same"
    ):
        fit(other, data(), 2, folder=tmp_path, resume=True, logging=QUIET)


def test_other_processes_are_said(tmp_path):
    fit(model(), data(), 1, folder=tmp_path, logging=QUIET)
    was = kept(tmp_path)
    torch.save({**was, "processes": 4}, tmp_path / STATE)
    with pytest.warns(UserWarning, match=r"processes 1 \(before 4\)"):
        fit(model(), data(), 2, folder=tmp_path, resume=True, logging=QUIET)
    assert kept(tmp_path)["processes"] == 1


@pytest.mark.parametrize(("then", "here"), [(4, 1), (1, 2), (0, 1), (2, 0)])
def test_random_numbers_of_other_gpus(then, here):
    given = {**state._random_state(), "cuda": [torch.Generator().manual_seed(i).get_state() for i in range(then)]}
    set_on = []
    with (
        mock.patch("torch.cuda.is_available", lambda: here > 0),
        mock.patch("torch.cuda.device_count", lambda: here),
        mock.patch("torch.cuda.set_rng_state", lambda known, device: set_on.append((device, known))),
    ):
        state._set_random_state(given)
    assert [device for device, _ in set_on] == list(range(min(then, here)))
    assert all(torch.equal(known, given["cuda"][device]) for device, known in set_on)


def test_a_folder_with_a_run_is_left_alone_and_says_how_far_it_is(tmp_path):
    fit(model(), data(), 3, folder=tmp_path, logging=QUIET)
    with pytest.raises(
        ValueError, match=r"holds one; pass resume=True to go on with it from step 3, or another folder="
    ):
        fit(model(), data(), 1, folder=tmp_path, logging=QUIET)


@pytest.mark.parametrize("resume", [False, "auto"])
def test_a_folder_with_a_model_alone_is_left_alone(tmp_path, resume):
    model().save_pretrained(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in (CONFIG, MODEL)}
    with pytest.raises(
        ValueError, match=r"which holds config\.json and model\.safetensors without a run; name another"
    ):
        fit(model(), data(), 1, folder=tmp_path, resume=resume, logging=QUIET)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def end(number: int, at: int):
    return told(lambda step, *_: os.kill(os.getpid(), number) if step == at else None)


def test_sigterm_writes_the_checkpoint_and_leaves_with_its_status(tmp_path, capsys):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        fit(model(), data(), 50, folder=tmp_path, logging=end(signal.SIGTERM, 2))
    assert left.value.code == 143 and kept(tmp_path)["step"] in (2, 3)
    assert f"stopped after step {kept(tmp_path)['step']}; resume from" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_handler_of_the_caller_is_called_after_the_checkpoint(tmp_path):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append((tmp_path / STATE).exists()))
    try:
        trained = fit(model(), data(), 50, folder=tmp_path, logging=end(signal.SIGTERM, 2))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [True] and not trained.training


def test_a_second_signal_acts_as_usual():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt), interruptible() as came:
            signal.raise_signal(signal.SIGINT)
            assert came and came.number == signal.SIGINT
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_signals_are_the_main_threads(tmp_path):
    """In another thread, as in a notebook's, training goes on without handlers."""
    job = threading.Thread(target=fit, args=(model(), data(), 2), kwargs={"folder": tmp_path, "logging": QUIET})
    job.start()
    job.join(60)
    assert not job.is_alive() and kept(tmp_path)["step"] == 2


class Gone:
    """Batches of workers that a signal reached: the first one comes, the next does not."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __iter__(self):
        yield data()[0]
        signal.raise_signal(signal.SIGINT)
        raise RuntimeError("DataLoader worker (pid(s) 123) exited unexpectedly")


def test_workers_that_the_signal_ended_too_cost_no_step(tmp_path):
    with (
        mock.patch("fnodiff.train.loop.DataLoader", Gone),
        pytest.raises(KeyboardInterrupt, match="after step 1; resume"),
    ):
        fit(model(), data(), 9, folder=tmp_path, logging=QUIET)
    assert kept(tmp_path)["step"] == 1


SCRIPT = """
import os, signal, sys, threading, time
import torch, torch.multiprocessing
from waves import QUIET, Waves, model
from fnodiff import MultiResolution, Torus
from fnodiff.train import Execution, Logging, fit

class Slow(Waves):
    def batch(self, indices, shape):
        time.sleep(0.5)
        return super().batch(indices, shape)

def after(step, shape, loss):
    if step == 2:  # while the next batch is made, as a terminal or a scheduler does: to all processes
        threading.Timer(0.1, os.killpg, (0, int(sys.argv[2]))).start()

if __name__ == "__main__":
    os.setpgrp()
    torch.multiprocessing.set_start_method("spawn")
    data = MultiResolution(Slow(), Torus(1), [8], batch_size=2)
    fit(model(), data, 99, folder=sys.argv[1], logging=Logging(False, after), execution=Execution(workers=1))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "statuses"), [(signal.SIGINT, (-signal.SIGINT, 1)), (signal.SIGTERM, (143,))])
def test_a_signal_to_spawned_workers_too_writes_the_checkpoint(tmp_path, number, statuses):
    (tmp_path / "script.py").write_text(SCRIPT)
    here = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": here, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "run"), str(int(number))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode in statuses and "stopped after step" in done.stderr, done.stderr[-2000:]
    assert kept(tmp_path / "run")["step"] in (2, 3)


def test_half_precision_is_averaged_in_float32_and_warned_of(tmp_path):
    given = model().bfloat16()
    average = MovingAverage(given)
    for _ in range(100):
        with torch.no_grad():
            for p in given.parameters():
                p.add_(0.125)
        average.update(given, 0.999)
    assert all(p.dtype == torch.float32 for p in average.model().parameters())
    moved = [(a - b).mean().item() for a, b in zip(average.model().parameters(), model().parameters(), strict=True)]
    assert min(moved) > 0.4, "of 12.5, at a thousandth a step, a half"
    with pytest.warns(UserWarning, match="rounded away in weights of bfloat16"):
        fit(given, data(), 1, folder=tmp_path, logging=QUIET)
    assert next(given.parameters()).dtype == torch.bfloat16


def test_half_weights_with_a_scaled_loss_are_refused():
    scaled = mock.patch.object(Accelerator, "mixed_precision", "fp16")
    with scaled, pytest.raises(ValueError, match="expected float32 weights with mixed precision fp16, got float16"):
        fit(model().half(), data(), 1, execution=Execution(Accelerator(cpu=True)))
