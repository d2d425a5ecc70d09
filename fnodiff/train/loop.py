"""Training: a plain loop on accelerate.

Adam with a linear ramp-up of the learning rate, gradient clipping, and an exponential moving average (EMA) of the weights,
which is the model that comes out. Adam's average of squared gradients spans 100 steps, beta_2 = 0.99; the usual 0.999 comes to
about the same (a row of `benchmarks.surrogate`). A checkpoint folder holds the model (EMA, as `save_pretrained` writes it) and
beside it `training.pt`, the rest of the run's state, which loads with `weights_only=True`.

With several processes (`accelerate launch` on GPUs, `torchrun` on CPUs) each takes its rows of every batch, and with
accelerate's `gradient_accumulation_steps` these are gone through in that many parts: `batch_size` is that of the whole step.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from fnodiff import checkpoint
from fnodiff.cost import keep_freed_memory
from fnodiff.data.loader import MultiResolution
from fnodiff.domain import Shape, Sphere
from fnodiff.sde import Denoiser, DenoisingLoss
from fnodiff.sde.denoise import compile_networks
from fnodiff.train.measure import measure_normalization
from fnodiff.train.preview import Preview, can_show
from fnodiff.train.state import check_writable, load, save
from fnodiff.train.weights import MovingAverage, share_out


def fit(
    denoiser: Denoiser,
    data: MultiResolution,
    steps: int | None = None,
    *,
    minutes: float | None = None,
    loss: DenoisingLoss | None = None,
    lr: float = 1e-3,
    rampup: int = 100,
    decay: bool = False,
    clip: float = 1.0,
    ema_halflife: float = 20_000,
    normalize: bool = False,
    folder: str | os.PathLike[str] | None = None,
    save_every: int = 1000,
    resume: str | os.PathLike[str] | None = None,
    seed: int | None = None,
    workers: int = 0,
    compile: bool = False,
    progress: bool = True,
    callback: Callable[[int, Shape, float], None] | None = None,
    preview: Preview | None = None,
    shard: bool = False,
    accelerator: Accelerator | None = None,
) -> Denoiser:
    """Train a denoiser; returns its exponential moving average, in evaluation mode.

    Args:
        denoiser: The model, trained in place.
        data: Batches, one resolution each.
        steps: Stop after this many in all, those of a resumed run included.
        minutes: Stop after this much wall-clock time of this call; with `steps`, whichever comes first.
        loss: The loss; `DenoisingLoss(denoiser)` by default.
        lr: Learning rate after the ramp-up.
        rampup: Steps of linear ramp-up.
        decay: Let the learning rate fall to zero along half a cosine: over the steps, or without them over the minutes.
        clip: Largest norm of the gradient.
        ema_halflife: Of the moving average, in samples; shorter early on (a twentieth of the samples seen).
        normalize: Measure each channel's mean and spread on the first batches, and scale to standard deviation `sigma_data`;
            those of a conditioning field to 1.
        folder: Where checkpoints go, every `save_every` steps, at the end, and on SIGINT before leaving.
        save_every: Steps between checkpoints.
        resume: A checkpoint folder to continue from: with the same thread count, on one CPU process, to the bit.
        seed: Draw the times and the noise of each sample by a generator of its own, on the CPU, from this seed, the step and
            its place in the batch: the same run for any number of processes and parts of a batch, dropout aside. By default
            they come from torch's generator, another one in each process.
        workers: Processes that prepare batches; the batches are the same for any number.
        compile: Compile the network, once for each resolution that comes up: minutes on a CPU, for long runs on a GPU.
        progress: Show a bar with the loss per resolution.
        callback: Called as callback(step, shape, loss) after each step.
        preview: Samples of the averaged model for the accelerator's trackers, every some steps.
        shard: Leave each of several processes its share of the weights, of Adam's averages and of the moving average (FSDP2),
            for models that one device does not hold. The denoiser stays shared out; what is returned, and written, is whole.
        accelerator: For mixed precision, and a batch in parts (`gradient_accumulation_steps`); by default a GPU where there is
            one. Trackers that it has (`init_trackers`) get each resolution's loss, as the bar, and the learning rate.

    Raises:
        ValueError: If neither steps nor minutes is given, the data are on another domain or none of their grids holds the
            network's modes, the folder cannot be written to or the model not be saved, the
            checkpoint does not belong to this model, a batch cannot be shared out evenly among processes and parts, weights are
            to be shared out in one process or compiled, or no tracker shows previews.
        FloatingPointError: If the loss is not finite, naming the step and the resolution.

    Examples:
        >>> from fnodiff import DFU, EDM, Box, FunctionSpaceSDE, Preconditioned, WhiteNoise
        >>> from fnodiff.data import Faces, MultiResolution
        >>> from fnodiff.train import fit
        >>> sde = FunctionSpaceSDE(WhiteNoise(Box(2), (16, 16)), EDM())
        >>> denoiser = Preconditioned(DFU.tiny(3, 3), sde, sigma_data=0.5)
        >>> data = MultiResolution(Faces(20), Box(2), shapes=[8, 16], batch_size=2)
        >>> model = fit(denoiser, data, steps=2, progress=False)
        >>> model.training_shapes, model.training
        (((8, 8), (16, 16)), False)
    """
    if steps is None and minutes is None:
        raise ValueError("fit: expected steps or minutes, got neither; say when to stop.")
    _check_data(denoiser, data, resume is None)
    accelerator = accelerator or Accelerator()
    share = _Share(
        data, accelerator.process_index, accelerator.num_processes, accelerator.gradient_accumulation_steps, seed
    )
    if shard and compile:
        raise ValueError("fit: expected shard or compile, got both; leave one out.")
    if preview is not None and not can_show(accelerator.trackers):
        raise ValueError(
            f"fit: expected a tracker that shows the preview's pictures, got {[t.name for t in accelerator.trackers]}; take "
            f'Accelerator(log_with="tensorboard", project_dir=...) and call its init_trackers.'
        )
    if folder is not None:
        checkpoint.describe(denoiser)  # what cannot be saved is known before it is trained
    loss = loss or DenoisingLoss(denoiser)
    if loss.denoiser is not denoiser:
        raise ValueError("fit: expected a loss of this denoiser, got one of another; build DenoisingLoss(denoiser).")
    if folder is not None:
        check_writable(Path(folder))
    if normalize and resume is None:
        denoiser.normalization = measure_normalization(data, getattr(denoiser, "sigma_data", 1.0))
        if "field" in data[0]:
            denoiser.field_normalization = measure_normalization(data, key="field")
    denoiser.training_shapes = data.native_shapes

    keep_freed_memory()
    denoiser.train()
    average = MovingAverage(denoiser, accelerator.device)
    if shard:
        share_out(loss, accelerator)
    if compile:
        compile_networks(denoiser)
    fused = not any(p.is_complex() for p in denoiser.parameters())  # a step for all parameters at once; real ones only
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=lr, betas=(0.9, 0.99), fused=fused)
    model, optimizer = (loss, accelerator.prepare(optimizer)) if shard else accelerator.prepare(loss, optimizer)
    if accelerator.num_processes > 1:
        average.follow(denoiser)  # by now all have the first process' weights
    step = load(Path(resume), denoiser, average, optimizer, data) if resume is not None else 0
    if accelerator.num_processes > 1:
        if accelerator.process_index > 0:  # other noise than the first process', though the script seeds all alike
            torch.manual_seed(torch.initial_seed() + accelerator.process_index + (step << 20))

    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    last = step + 10**9 if steps is None else steps
    start = time.monotonic()
    order = range(step, last)
    loader = DataLoader(share, batch_size=None, sampler=order, num_workers=workers, generator=torch.Generator())
    elapsed = 0.0
    recent: dict[Shape, float] = defaultdict(float)
    bar = tqdm(total=steps, initial=step, disable=not (progress and accelerator.is_main_process), desc="training")
    with _interruptible() as interrupted, bar:
        for batch in loader if step < last else ():
            shape = tuple(batch["x"].shape[2:])
            rate = lr * min(1.0, (step + 1) / max(1, rampup))
            if decay:
                done = elapsed / (60 * minutes) if steps is None else step / steps
                rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            value = _backward(model, share.parts(batch, step), accelerator)
            stop = interrupted.is_set() or time.monotonic() >= deadline
            elapsed = time.monotonic() - start
            if accelerator.num_processes > 1:  # all go on, or none, at the same rate
                agreed = torch.tensor([value, stop, elapsed], dtype=torch.float32, device=accelerator.device)
                value, stop, elapsed = accelerator.reduce(agreed, "mean").tolist()
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the loss is {value} at step {step}, resolution {shape}; lower lr (now {lr:g}), or look for "
                    f"values in the data that are not finite: data[{step}]. Checkpoints written before are whole."
                )
            accelerator.clip_grad_norm_(denoiser.parameters(), clip)
            optimizer.step()
            step += 1
            seen = step * data.batch_size
            average.update(denoiser, 0.5 ** (data.batch_size / min(ema_halflife, max(1.0, seen / 20))))

            recent[shape] = value if shape not in recent else 0.98 * recent[shape] + 0.02 * value
            bar.set_postfix({"x".join(map(str, s)): f"{v:.3f}" for s, v in sorted(recent.items())}, refresh=False)
            bar.update()
            if callback is not None:
                callback(step, shape, value)
            done = step >= last or bool(stop) or (accelerator.num_processes == 1 and interrupted.is_set())
            if accelerator.trackers and (done or step % 10 == 0):
                told = {f"loss/{'x'.join(map(str, s))}": v for s, v in sorted(recent.items())}
                accelerator.log({**told, "lr": rate}, step=step)
            saving = folder is not None and (done or step % save_every == 0)
            if saving and (accelerator.is_main_process or shard):
                save(Path(folder), step, denoiser, average, optimizer, data, write=accelerator.is_main_process)
            if preview is not None and (done or step % preview.every == 0):
                ema = average.model()
                if accelerator.is_main_process:
                    preview.show(ema, accelerator.trackers, step)
            if done:
                break
    accelerator.wait_for_everyone()  # what was written can be read by all of them
    if interrupted.is_set():
        raise KeyboardInterrupt(
            f"stopped after step {step}" + (f"; resume from {folder}" if folder is not None else "")
        )
    return average.model()


def _check_data(denoiser: Denoiser, data: MultiResolution, new: bool) -> None:
    """Whether a model, a new one or one that has learnt elsewhere, can learn from these grids."""
    if not isinstance(denoiser, Denoiser) or not all(
        hasattr(data, name) for name in ("batch_size", "domain", "shapes")
    ):
        raise ValueError(
            f"fit: expected a Denoiser and MultiResolution data, got {type(denoiser).__name__} and {type(data).__name__}; "
            f"write such as fit(Preconditioned(network, sde), MultiResolution(fields, domain, shapes), 1000)."
        )
    domain = denoiser.sde.domain
    if data.domain != domain:
        raise ValueError(
            f"fit: expected data on {domain}, as the noise is, got {data.domain}; use one domain for both."
        )
    modes = getattr(getattr(denoiser, "backbone", None), "spectral_modes", None)
    if modes is None or not new or denoiser.training_shapes:
        return
    held = [(domain.degrees(s), 2 * domain.degrees(s)) if isinstance(domain, Sphere) else s for s in data.shapes]
    if not any(all(n <= m for n, m in zip(modes, grid, strict=True)) for grid in held):
        raise ValueError(
            f"fit: expected a network of modes that one of the grids {data.shapes} holds, got n_modes={modes}: the others "
            f"would learn nothing, and show on finer grids; build it with fewer, or train on finer grids too."
        )


class _Share(Dataset):
    """A process' rows of each batch: rank, rank + processes, ...; and these in equal parts."""

    def __init__(self, data: MultiResolution, rank: int, processes: int, parts: int, seed: int | None) -> None:
        if data.batch_size % (processes * parts):
            raise ValueError(
                f"fit: expected a batch_size that {processes} processes and {parts} parts share evenly, got "
                f"{data.batch_size}; make it a multiple of {processes * parts}, as it is that of the whole step."
            )
        if seed is not None and seed < 0:
            raise ValueError(f"fit: expected seed >= 0, got {seed}.")
        self.data, self.rows, self.count, self.seed = data, range(rank, data.batch_size, processes), parts, seed

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        if len(self.rows) == self.data.batch_size:
            return self.data[step]
        indices = self.data.indices(step)
        return self.data.fields.batch([indices[row] for row in self.rows], self.data.shape(step))

    def parts(self, batch: dict[str, Tensor], step: int) -> list[dict[str, Any]]:
        """The batch's parts, with a generator for each sample if they are seeded."""
        size = len(self.rows) // self.count
        cuts = [slice(size * i, size * (i + 1)) for i in range(self.count)]
        parts: list[dict[str, Any]] = [{k: v[cut] for k, v in batch.items()} for cut in cuts]
        if self.seed is not None:
            for part, cut in zip(parts, cuts, strict=True):
                part["generator"] = [self._generator(step, row) for row in self.rows[cut]]
        return parts

    def _generator(self, step: int, row: int) -> torch.Generator:
        state = np.random.SeedSequence([self.seed, step, row]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state[0]))


def _backward(model: torch.nn.Module, parts: list[dict[str, Any]], accelerator: Accelerator) -> float:
    """Gradients of the mean loss over the parts, averaged over processes once; the mean of this process' loss."""
    total = 0.0
    for number, part in enumerate(parts):
        inputs = {k: v.to(accelerator.device) if isinstance(v, Tensor) else v for k, v in part.items()}
        with accelerator.no_sync(model) if number < len(parts) - 1 else nullcontext():
            with accelerator.autocast():
                value = model(**inputs).mean()
            accelerator.backward(value)  # divides by the number of parts
        total += value.item() / len(parts)
    return total


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Set an event at the first SIGINT instead of raising; a second one raises as usual."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.getsignal(signal.SIGINT)

    def stop(*_: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, stop)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
