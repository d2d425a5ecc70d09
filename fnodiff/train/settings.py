"""The settings of a training run beside the model and the data: its optimizer, what it logs, and how it is carried out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from accelerate import Accelerator

from fnodiff.domain import Shape
from fnodiff.expected import kinds_checked
from fnodiff.train.preview import Preview


@kinds_checked
@dataclass(frozen=True)
class Adam:
    """Adam with a linear ramp-up of the rate, gradient clipping, and a moving average of the weights.

    Args:
        lr: Learning rate after the ramp-up.
        rampup: Steps of linear ramp-up.
        decay: The share of the run, its last part, over which the rate falls to zero along half a cosine: of the steps, or
            without them of the minutes. 1 or True for the whole run. With less, a run whose end is not known yet goes on at the
            full rate, and resumed with other `steps` it falls before those.
        clip: Largest norm of the gradient.
        ema_halflife: Of the moving average, in samples; shorter early on (a twentieth of the samples seen).
        betas: Of Adam. Its average of squared gradients spans 100 steps; the usual 0.999 comes to about the same.

    Raises:
        ValueError: If a number is out of range.
    """

    lr: float = 1e-3
    rampup: int = 100
    decay: float | bool = 0.0
    clip: float = 1.0
    ema_halflife: float = 20_000
    betas: tuple[float, float] = (0.9, 0.99)

    def __post_init__(self) -> None:
        for name in ("lr", "clip", "ema_halflife"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"Adam: expected {name} > 0, got {getattr(self, name)!r}; the default is usual.")
        if not 0 <= self.decay <= 1:
            raise ValueError(
                f"Adam: expected decay from 0 to 1, got {self.decay!r}; 1 lets the rate fall over the whole run."
            )
        if self.rampup < 0 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(
                f"Adam: expected rampup >= 0 and betas in [0, 1), got {self.rampup!r} and {self.betas!r}; leave them out."
            )

    def rate(self, step: int, done: float) -> float:
        """The learning rate of a step, `done` of the run being over."""
        rate = self.lr * min(1.0, (step + 1) / max(1, self.rampup))
        falling = max(0.0, min(1.0, done) - 1 + self.decay)
        return rate * 0.5 * (1 + math.cos(math.pi * falling / self.decay)) if falling else rate

    def ema_decay(self, step: int, batch_size: int) -> float:
        """What a step leaves of the moving average, after so many of them."""
        return 0.5 ** (batch_size / min(self.ema_halflife, max(1.0, step * batch_size / 20)))


@kinds_checked
@dataclass(frozen=True)
class Logging:
    """What a run says of itself.

    Args:
        progress: Show a bar with the loss per grid, beside that of the best linear estimate.
        callback: Called as callback(step, shape, loss) after each step.
        preview: Samples of the averaged model for the accelerator's trackers, every some steps.
    """

    progress: bool = True
    callback: Callable[[int, Shape, float], None] | None = None
    preview: Preview | None = None


@kinds_checked
@dataclass(frozen=True)
class Execution:
    """How a run is carried out.

    Args:
        accelerator: For mixed precision, several processes, and a batch in parts (`gradient_accumulation_steps`); by default
            a GPU where there is one. Trackers that it has (`init_trackers`) get each grid's loss and the learning rate.
        save_every: Steps between checkpoints.
        workers: Processes that prepare batches; the batches are the same for any number.
        seed: Draw the times and the noise of each sample by a generator of its own, on the CPU, from this seed, the step and
            its place in the batch: the same run for any number of processes and parts of a batch, dropout aside. By default
            they come from torch's generator, another one in each process.
        shard: Leave each of several processes its share of the weights, of Adam's averages and of the moving average (FSDP2),
            for models that one device does not hold. The model stays shared out; what is returned, and written, is whole.
        cuda_graphs: Record the network's forward and backward pass on each grid as CUDA graphs, which start all kernels by one
            call: for GPUs that wait for Python. One process, whole batches, without mixed precision. Each grid takes memory
            of its own.

    Raises:
        ValueError: If a number is out of range.
    """

    accelerator: Accelerator | None = field(default=None, compare=False)
    save_every: int = 1000
    workers: int = 0
    seed: int | None = None
    shard: bool = False
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        if self.save_every < 1 or self.workers < 0 or (self.seed is not None and self.seed < 0):
            raise ValueError(
                f"Execution: expected save_every >= 1, workers >= 0 and seed >= 0, got {self.save_every!r}, {self.workers!r} "
                f"and {self.seed!r}; leave them out for the usual ones."
            )
