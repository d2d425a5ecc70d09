"""The options of training that `train` and `finetune` share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import Group, Parameter

from fnodiff.cli.words import size_name

if TYPE_CHECKING:
    from fnodiff import Model
    from fnodiff.domain import Shape
    from fnodiff.train import Adam


@Parameter(name="*", group=Group("Optimizer", sort_key=5))
@dataclass(frozen=True)
class OptimizerOptions:
    """Adam, and the moving average of the weights."""

    lr: float = 1e-3
    """Learning rate."""

    rampup: int = 100
    """Steps over which it rises linearly."""

    decay: bool = False
    """Let it fall to zero over the run, along half a cosine."""

    clip: float = 1.0
    """Largest norm of the gradient."""

    ema_halflife: float = 20_000
    """Half-life of the moving average of the weights, in samples."""

    def make(self) -> Adam:
        """As `fit` takes it."""
        from fnodiff.train import Adam

        return Adam(self.lr, self.rampup, self.decay, self.clip, self.ema_halflife)


@Parameter(name="*", group=Group("Run", sort_key=6))
@dataclass(frozen=True)
class RunOptions:
    """How long a run takes, where it goes, and how it is carried out."""

    steps: int | None = None
    """Stop after so many in all."""

    minutes: float | None = None
    """Stop after so many from now; with --steps, whichever comes first."""

    out: Path = Path("run")
    """Folder of the model and of the run's state."""

    resume: Literal["auto", "always", "never"] = "auto"
    """Go on with the run in --out, if there is one; refuse if there is none; or if there is one."""

    save_every: int = 1000
    """Steps between checkpoints."""

    seed: int = 0
    """Of the first weights, the order of the data and the noise."""

    reproducible: bool = False
    """Draw each sample's noise from --seed, its step and its place: the same run on any number of processes."""

    workers: int = 0
    """Processes that prepare batches."""

    device: Literal["cpu", "cuda"] | None = None
    """By default a GPU, if there is one."""

    precision: Literal["no", "bf16", "fp16"] | None = None
    """Mixed precision. By default as `accelerate launch` says, or none."""

    parts: int = 1
    """Go through each batch in so many parts, which takes less memory."""

    recompute: bool = False
    """Keep less for the gradient and compute it again: less memory, more time."""

    shard: bool = False
    """Leave each of several processes its share of the weights (FSDP)."""

    def fit_options(self, quiet: bool) -> dict[str, Any]:
        """What `fit` takes beside model, data, loss and optimizer."""
        import torch
        from accelerate import Accelerator

        from fnodiff.train import Execution, Logging

        if self.steps is None and self.minutes is None:
            raise ValueError("expected --steps or --minutes, got neither; say when to stop.")
        if (self.steps is not None and self.steps < 1) or (self.minutes is not None and not self.minutes > 0):
            raise ValueError(
                f"expected --steps >= 1 and --minutes above 0, got {self.steps} and {self.minutes}; take more."
            )
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"expected --out to be a folder, got the file {self.out}; name another one.")
        if self.parts < 1:
            raise ValueError(f"expected --parts >= 1, got {self.parts}; 1 is the whole batch at once.")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("expected --device cpu, as there is no GPU here, got cuda; leave it out.")
        # without cpu=True accelerate takes several processes on CPUs for as many runs
        cpu = self.device == "cpu" or (self.device is None and not torch.accelerator.is_available())
        given: dict[str, Any] = {"cpu": cpu}
        given |= {} if self.precision is None else {"mixed_precision": self.precision}
        given |= {} if self.parts == 1 else {"gradient_accumulation_steps": self.parts}
        seed = self.seed if self.reproducible else None
        return {
            "steps": self.steps,
            "minutes": self.minutes,
            "folder": self.out,
            "resume": {"auto": "auto", "always": True, "never": False}[self.resume],
            "logging": Logging(progress=not quiet),
            "execution": Execution(Accelerator(**given), self.save_every, self.workers, seed, self.shard),
        }


@Parameter(name="*", group=Group("General", sort_key=20))
@dataclass(frozen=True)
class General:
    """What every command has."""

    config: Path | None = None
    """A TOML file with options, below a table of this command's name; flags come first."""

    quiet: bool = False
    """Say nothing but the result."""


def done(model: Model, folder: Path, shape: Shape) -> str:
    """What to say of a model that has been trained: where it is, and how it is sampled on a grid."""
    if getattr(model.network, "condition_channels", 0):
        return f"{folder}: trained. Next, in Python: fnodiff.sample(model, {shape}, seeds, field=...)"
    label = " --label 0" if getattr(model.network, "num_classes", 0) else ""
    return f"{folder}: trained. Next: fnodiff sample {folder} --size {size_name(shape)}{label} --out samples"
