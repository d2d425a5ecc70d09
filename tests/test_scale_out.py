"""Several processes and batches in parts: the same training as one process does."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
import safetensors.torch
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from fnodiff.data.loader import MultiResolution
from fnodiff.domain import Torus
from fnodiff.nn import DFU
from fnodiff.sde import EDM, RBF, FunctionSpaceSDE, GaussianRandomField, Preconditioned, WhiteNoise
from fnodiff.train import fit

JOB = """
import sys
import torch
from accelerate import Accelerator
from tests.test_scale_out import data, model
from fnodiff.train import fit

folder, steps, parts, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), None if sys.argv[4] == "None" else 0
torch.set_default_dtype(torch.float64)
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=parts)
options = {"seed": seed, "folder": folder, "accelerator": accelerator, "progress": False, "save_every": 10**6}
options |= eval(sys.argv[5]) if len(sys.argv) > 5 else {}
ema = fit(model(start=accelerator.process_index), data(), steps, rampup=4, **options)
torch.save(ema.state_dict(), f"{folder}-{accelerator.process_index}.pt")
"""


class Waves:
    """Random smooth fields that exist at every resolution."""

    channels = 1

    def __len__(self):
        return 40

    def batch(self, indices, shape):
        noise, generators = (
            GaussianRandomField(Torus(1), RBF(0.2)),
            [torch.Generator().manual_seed(i) for i in indices],
        )
        return {"x": noise.sample((len(indices), 1, *shape), generator=generators)}


def data(**options):
    return MultiResolution(Waves(), Torus(1), **{"shapes": [8, 12, 16], "batch_size": 8, **options})


def model(start=0):
    torch.manual_seed(start)
    net = DFU.tiny(1, 1, domain=Torus(1), hidden_channels=8, dropout=0.0)
    denoiser = Preconditioned(net, FunctionSpaceSDE(WhiteNoise(Torus(1), (16,)), EDM()))
    return denoiser.to(torch.get_default_dtype())


def run(tmp_path, name, processes, *arguments):
    """Start a job of this many processes; returns it and its folder."""
    script = tmp_path / "job.py"
    script.write_text(textwrap.dedent(JOB))
    command = [sys.executable, str(script)]
    if processes > 1:  # not accelerate launch, which starts one process where there is no GPU
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
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


@pytest.fixture
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def parts():
    """Accelerators with this many parts to a batch; accelerate keeps the number for the whole process."""

    def make(count):
        GradientState._reset_state()
        AcceleratorState._reset_state(True)
        return Accelerator(cpu=True, gradient_accumulation_steps=count)

    yield make
    GradientState._reset_state()
    AcceleratorState._reset_state(True)


def train(count, parts, **options):
    denoiser, losses = model(), []
    fit(
        denoiser,
        data(),
        6,
        rampup=1,
        progress=False,
        accelerator=parts(count),
        callback=lambda *told: losses.append(told[2]),
        **options,
    )
    return denoiser.state_dict(), losses


def test_a_batch_in_parts_is_the_batch(double, parts):
    whole, losses = train(1, parts, seed=0)
    for count in (2, 8):
        in_parts, again = train(count, parts, seed=0)
        assert_close(in_parts, whole, 1e-9)
        assert again == pytest.approx(losses, rel=1e-9)
    other, _ = train(1, parts, seed=1)
    assert any(float((other[k] - whole[k]).abs().max()) > 1e-4 for k in whole), "another seed is another run"


def test_a_seeded_run_is_the_same_whatever_was_drawn_before(parts):
    first, _ = train(1, parts, seed=3)
    torch.manual_seed(77)
    second, _ = train(1, parts, seed=3, workers=2)
    assert all(torch.equal(second[k], v) for k, v in first.items())


def test_what_cannot_be_shared_out_is_refused(parts):
    with pytest.raises(ValueError, match=r"3 parts share evenly, got 8; make it a multiple of 3"):
        train(3, parts)
    with pytest.raises(ValueError, match="seed >= 0"):
        train(1, parts, seed=-1)


@pytest.mark.slow
def test_processes_share_a_step_out(tmp_path):
    steps = 20
    one = finish(*run(tmp_path, "one", 1, steps, 1, 0))
    for name, processes, parts in (("two", 2, 1), ("parts", 2, 2)):
        several = finish(*run(tmp_path, name, processes, steps, parts, 0))
        assert_close(several, one, 1e-9)
        returned = [torch.load(f"{tmp_path / name}-{rank}.pt", weights_only=True) for rank in range(processes)]
        assert_close(returned[1], returned[0], 0)  # though the processes began with other weights
    finish(*run(tmp_path, "half", 1, steps // 2, 1, 0))  # gone on with by more processes
    half = finish(*run(tmp_path, "half", 2, steps, 1, 0, {"resume": str(tmp_path / "half")}))
    assert_close(half, one, 1e-9)


@pytest.mark.slow
def test_without_a_seed_processes_draw_other_noise_and_agree_on_the_end(tmp_path):
    finish(*run(tmp_path, "run", 2, 10**6, 1, None, {"minutes": 0.05, "decay": True}))
    returned = [torch.load(f"{tmp_path / 'run'}-{rank}.pt", weights_only=True) for rank in range(2)]
    assert_close(returned[1], returned[0], 0)
