"""The page on trainers: its blocks train models."""

from __future__ import annotations

import pytest
import torch
from test_documentation import blocks, pictures, smaller  # noqa: F401 (a fixture)

from fnodiff import DPMSolver, Model, MultiResolution, sample

ACCELERATE, LIGHTNING, DEEPINV = blocks("docs/trainers.md", "python")


def test_accelerate_writes_losses_and_pictures(pictures, accelerators):  # noqa: F811
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accelerators()
    text = smaller(ACCELERATE).replace("Accelerator(", "Accelerator(cpu=True, ")
    exec(text.replace("Preview([16, 32],", "Preview([16, 24], solver=DPMSolver(2),"), {"DPMSolver": DPMSolver})
    tags = EventAccumulator(str(pictures / "runs" / "portraits")).Reload().Tags()
    assert "lr" in tags["scalars"] and set(tags["images"]) == {"samples/16x16", "samples/24x24"}


@pytest.mark.slow
def test_lightning_trains_and_averages(pictures, monkeypatch):  # noqa: F811
    lightning = pytest.importorskip("lightning")
    real, steps, weights = lightning.Trainer, [], []
    quiet = {"enable_progress_bar": False, "logger": False, "enable_model_summary": False, "accelerator": "cpu"}
    monkeypatch.setattr(lightning, "Trainer", lambda **options: real(**options, **quiet, enable_checkpointing=False))
    names: dict[str, object] = {"__name__": __name__}
    text = smaller(LIGHTNING).replace("max_steps=10_000", "max_steps=6")
    before, after = text.split("trainer.fit(")
    exec(before, names)
    step, read = names["Diffusion"].training_step, MultiResolution.__getitem__
    last = list(names["model"].parameters())[-1]

    def noting(self, batch, number):
        weights.append(last.detach().clone())
        return step(self, batch, number)

    monkeypatch.setattr(names["Diffusion"], "training_step", noting)
    monkeypatch.setattr(MultiResolution, "__getitem__", lambda self, n: steps.append(n) or read(self, n))
    exec(f"trainer.fit({after}", names)
    assert names["trainer"].global_step == 6 and steps == list(range(6)), "the steps of the run, in their order"
    trained = list(Model.from_pretrained("run").parameters())[-1]
    assert (trained - weights[1]).norm() < 0.1 * (weights[5] - weights[1]).norm(), (
        "the average, which began after a step"
    )
    assert sample(Model.from_pretrained("run"), 16, [0]).shape == (1, 3, 16, 16)


def test_deepinv_guides_a_model(models):
    pytest.importorskip("deepinv")
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    text = DEEPINV.replace("range(4)", "[0]").replace("shape=", "solver=DPMSolver(2), shape=")
    text = text.replace("(physics, y))", "(physics, y), iterations=2)")
    exec(text, names := {"model": Model.from_pretrained(models / "images"), "picture": picture, "DPMSolver": DPMSolver})
    assert names["posterior"].shape == (1, 3, 32, 32) and names["posterior"].isfinite().all()
