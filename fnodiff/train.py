"""Training: a plain loop on accelerate.

Adam with a linear ramp-up of the learning rate, gradient clipping, and an exponential moving average (EMA) of the weights,
which is the model that comes out. Adam's average of squared gradients spans 100 steps, beta_2 = 0.99; the usual 0.999 comes to
about the same (a row of `benchmarks.surrogate`). A checkpoint folder holds the model (EMA, as `save_pretrained` writes it) and
beside it `training.pt`, the rest of the run's state, which loads with `weights_only=True`.

With several processes (`accelerate launch` on GPUs, `torchrun` on CPUs) each takes its rows of every batch, and with
accelerate's `gradient_accumulation_steps` these are gone through in that many parts: `batch_size` is that of the whole step.
"""

from __future__ import annotations

import copy
import ctypes
import math
import os
import pickle
import random
import signal
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
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
from fnodiff.data.loader import Fields, MultiResolution, Upsampled
from fnodiff.domain import Shape
from fnodiff.sde import Denoiser, DenoisingLoss, Normalization
from fnodiff.sde.denoise import compile_networks

_MEASURED = ("normalization", "field_normalization")
PARTS = ("spectral", "local", "norm", "attention", "embedding")
"""What a network's parameters are part of: see `freeze`."""
STATE = "training.pt"
"""The file with the run's state, beside the model."""


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
        accelerator: For mixed precision, and a batch in parts (`gradient_accumulation_steps`); by default a GPU where there is
            one. Trackers that it has (`init_trackers`) get each resolution's loss, as the bar, and the learning rate.

    Raises:
        ValueError: If neither steps nor minutes is given, the folder cannot be written to or the model not be saved, the
            checkpoint does not belong to this model, or a batch cannot be shared out evenly among processes and parts.
        FloatingPointError: If the loss is not finite, naming the step and the resolution.
    """
    if steps is None and minutes is None:
        raise ValueError("fit: expected steps or minutes, got neither; say when to stop.")
    accelerator = accelerator or Accelerator()
    share = _Share(
        data, accelerator.process_index, accelerator.num_processes, accelerator.gradient_accumulation_steps, seed
    )
    if folder is not None:
        checkpoint.describe(denoiser)  # what cannot be saved is known before it is trained
    loss = loss or DenoisingLoss(denoiser)
    if loss.denoiser is not denoiser:
        raise ValueError("fit: expected a loss of this denoiser, got one of another; build DenoisingLoss(denoiser).")
    if folder is not None:
        _check_writable(Path(folder))
    if normalize and resume is None:
        denoiser.normalization = measure_normalization(data, getattr(denoiser, "sigma_data", 1.0))
        if "field" in data[0]:
            denoiser.field_normalization = measure_normalization(data, key="field")
    denoiser.training_shapes = data.native_shapes

    keep_freed_memory()
    denoiser.train()
    ema = copy.deepcopy(denoiser).eval().requires_grad_(False).to(accelerator.device)
    if compile:
        compile_networks(denoiser)
    fused = not any(p.is_complex() for p in denoiser.parameters())  # a step for all parameters at once; real ones only
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=lr, betas=(0.9, 0.99), fused=fused)
    model, optimizer = accelerator.prepare(loss, optimizer)
    step = _load(Path(resume), denoiser, ema, optimizer, data) if resume is not None else 0
    if accelerator.num_processes > 1:
        if resume is None:
            ema.load_state_dict(denoiser.state_dict())  # by now those of the first process
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
            _average(ema, denoiser, 0.5 ** (data.batch_size / min(ema_halflife, max(1.0, seen / 20))))

            recent[shape] = value if shape not in recent else 0.98 * recent[shape] + 0.02 * value
            bar.set_postfix({"x".join(map(str, s)): f"{v:.3f}" for s, v in sorted(recent.items())}, refresh=False)
            bar.update()
            if callback is not None:
                callback(step, shape, value)
            done = step >= last or bool(stop) or (accelerator.num_processes == 1 and interrupted.is_set())
            if accelerator.trackers and (done or step % 10 == 0):
                told = {f"loss/{'x'.join(map(str, s))}": v for s, v in sorted(recent.items())}
                accelerator.log({**told, "lr": rate}, step=step)
            if folder is not None and accelerator.is_main_process and (done or step % save_every == 0):
                _save(Path(folder), step, denoiser, ema, optimizer, data)
            if done:
                break
    accelerator.wait_for_everyone()  # what was written can be read by all of them
    if interrupted.is_set():
        raise KeyboardInterrupt(
            f"stopped after step {step}" + (f"; resume from {folder}" if folder is not None else "")
        )
    return ema


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


def freeze(
    denoiser: torch.nn.Module, levels: Sequence[int | None] | None = None, parts: Sequence[str] | None = None
) -> list[str]:
    """Stop the training of some of a DFU's parameters (requires_grad); the others stay as they are.

    Args:
        denoiser: A DFU, or a model with one in it: any network with `parameter_groups()` as DFU's.
        levels: Which levels, 0 the finest; None among them stands for what belongs to none (the embeddings of noise level
            and label). By default all of them and None.
        parts: Which parts of those, among "spectral", "local", "norm", "attention" and "embedding"; by default all.

    Returns:
        The names of the frozen parameters; `denoiser.requires_grad_(True)` undoes it.

    Raises:
        ValueError: If there is no DFU in it, or a level or part is named that it does not have.
    """
    groups = {
        f"{prefix}.{name}" if prefix else name: group
        for prefix, network in _networks(denoiser)
        for name, group in network.parameter_groups().items()
    }
    known = {level for level, _ in groups.values()}
    if not groups or not set(levels or ()) <= known or not set(parts or ()) <= set(PARTS):
        raise ValueError(
            f"freeze: expected a model with a DFU in it, levels among {sorted(known - {None})} and None, and parts among "
            f"{PARTS}, got {levels} and {parts}."
        )
    frozen = [
        name
        for name, (level, part) in groups.items()
        if (levels is None or level in levels) and (parts is None or part in parts)
    ]
    parameters = dict(denoiser.named_parameters())
    for name in frozen:
        parameters[name].requires_grad_(False)
    return frozen


def _networks(denoiser: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    return [(name, m) for name, m in denoiser.named_modules() if hasattr(m, "parameter_groups")]


def mixed_finetune(
    denoiser: Denoiser,
    fields: Fields,
    shape: Sequence[int],
    steps: int | None = None,
    *,
    weight: float = 0.3,
    lr: float = 1e-4,
    batch_size: int = 32,
    seed: int = 0,
    **options: Any,
) -> Denoiser:
    """Mixed fine-tuning: go on training, with some batches upsampled to a grid for which there is no data.

    Upsampled fields teach coherence there, the native ones keep the detail. Frozen, as in the paper: the first level, and
    norms and spectral weights of the second and third.

    Args:
        denoiser: A trained model with a DFU, as `fit` or `from_pretrained` returned it. It is trained in place.
        fields: What it was trained on.
        shape: The finer grid.
        steps: As of `fit`; or pass minutes=.
        weight: The share of upsampled batches; the rest is shared evenly among the shapes that the model was trained on.
        lr: Learning rate.
        batch_size: Samples per batch.
        seed: Of the order of samples and shapes.
        options: Of `fit`.

    Returns:
        As `fit`; its `training_shapes` are those of the native fields, as it has seen no detail at the finer grid.

    Raises:
        ValueError: As `fit`, `freeze` and `Upsampled`; or if the model has no training shapes, or none that `shape` holds.

    Source: Havrilla, Rojas, Liao, Tao (2024), DFU.
    """
    shape = denoiser.sde.domain.check_shape(shape)
    native = list(denoiser.training_shapes)
    largest = max(native, key=math.prod, default=None)
    if largest is None or shape == largest or not all(n >= m for n, m in zip(shape, largest, strict=True)):
        raise ValueError(
            f"mixed_finetune: expected a trained model and a grid finer than those it was trained on, got {native} and "
            f"{shape}; train it with fit first."
        )
    if not 0 < weight < 1:
        raise ValueError(f"mixed_finetune: expected a weight between 0 and 1, got {weight!r}.")
    shares = [(1 - weight) / len(native)] * len(native) + [weight]
    mixed = Upsampled(fields, largest, denoiser.sde.domain)
    data = MultiResolution(mixed, mixed.domain, [*native, shape], shares, batch_size=batch_size, seed=seed)
    trained = {name: parameter.requires_grad for name, parameter in denoiser.named_parameters()}
    try:
        freeze(denoiser, [0])
        freeze(denoiser, range(1, min(3, max(net.levels for _, net in _networks(denoiser)))), ["norm", "spectral"])
        return fit(denoiser, data, steps, lr=lr, **options)
    finally:
        for name, parameter in denoiser.named_parameters():
            parameter.requires_grad_(trained[name])


def keep_freed_memory() -> None:
    """Tell glibc to keep what a step frees for the next step, in this process, rather than return it page by page.

    Gradients and activations come and go with every step, and each page that comes back costs a fault.
    """
    try:
        libc = ctypes.CDLL(None)
        keep = libc.mallopt
    except (OSError, TypeError, AttributeError):  # not Linux, or another allocator
        return
    for option, value in ((-1, 2**31 - 1), (-3, 2**30)):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
        keep(option, value)


def measure_normalization(
    data: MultiResolution, std: float = 1.0, *, key: str = "x", batches: int = 16
) -> Normalization:
    """The per-channel normalisation under which the first batches, by area, have mean 0 and standard deviation `std`.

    Args:
        data: What is trained on; missing values (those outside a batch's "mask") do not count.
        std: Of the normalised data.
        key: "x" or "field".
        batches: How many.

    Raises:
        ValueError: If a channel is constant.
    """
    moments = []
    for step in range(batches):
        batch = data[step]
        x = batch[key].double()
        weight = torch.ones_like(x)
        if key == "x" and "mask" in batch:
            weight = (batch["mask"] > 0).expand_as(x).double()
            x = torch.where(weight > 0, x, 0.0)
        if not data.domain.uniform:  # points stand for areas of different size
            weight = weight * data.domain.weights(x.shape[2:], dtype=x.dtype) * x.shape[2:].numel()
        moments.append(torch.stack([(weight * x**power).transpose(0, 1).flatten(1).mean(1) for power in range(3)]))
    measured, first, second = torch.stack(moments).mean(0)
    if not bool((measured > 0).all()):
        raise ValueError(
            f"expected measured values in every channel of {key}, got shares {measured.tolist()} of them; drop the others."
        )
    mean = first / measured
    spread = (second / measured - mean.square()).clamp(min=0).sqrt()
    if not bool((spread > 1e-7 * mean.abs()).all()):
        raise ValueError(
            f"expected every channel of {key} to vary, got standard deviations {spread.tolist()}; drop the constant ones."
        )
    return Normalization(mean.float(), (spread / std).float())


@torch.no_grad()
def _average(ema: Denoiser, denoiser: Denoiser, decay: float) -> None:
    """ema <- decay ema + (1 - decay) denoiser."""
    torch._foreach_lerp_(list(ema.parameters()), list(denoiser.parameters()), 1 - decay)
    for average, buffer in zip(ema.buffers(), denoiser.buffers(), strict=True):
        average.copy_(buffer)


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


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"{folder}: expected a folder that can be written to, got {error}; name another folder=."
        ) from error


def _save(
    folder: Path, step: int, denoiser: Denoiser, ema: Denoiser, optimizer: torch.optim.Optimizer, data: MultiResolution
) -> None:
    state = {
        "step": step,
        "model": checkpoint.describe(denoiser),
        "data": _data_state(data),
        "denoiser": denoiser.state_dict(),
        "ema": ema.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": _random_state(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.replace_file(folder / STATE, lambda new: torch.save(state, new))
    checkpoint.save_pretrained(ema, folder)


def _load(
    folder: Path, denoiser: Denoiser, ema: Denoiser, optimizer: torch.optim.Optimizer, data: MultiResolution
) -> int:
    if not (folder / STATE).is_file():
        raise ValueError(
            f"{folder}: expected {STATE} in it, found none; a model saved without its run cannot be resumed."
        )
    try:
        state = torch.load(folder / STATE, weights_only=True, map_location="cpu")
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"{folder / STATE}: not a readable training state ({error}).") from error
    for name, ours in (("model", checkpoint.describe(denoiser)), ("data", _data_state(data))):
        if _without(state[name]) != _without(ours):
            raise ValueError(
                f"{folder}: expected to resume {name} {_without(state[name])}, got {_without(ours)}; use the same."
            )
    for module, tensors in ((denoiser, state["denoiser"]), (ema, state["ema"])):
        for name in _MEASURED:
            saved = state["model"][name]
            setattr(module, name, Normalization(saved["mean"], saved["std"]).to(tensors[f"{name}.mean"].device))
        module.load_state_dict(tensors)
    optimizer.load_state_dict(state["optimizer"])
    _set_random_state(state["random"])
    return state["step"]


def _without(description: dict[str, Any]) -> dict[str, Any]:
    """A description but for what a run measures for itself."""
    return {k: v for k, v in description.items() if k not in _MEASURED}


def _data_state(data: MultiResolution) -> dict[str, Any]:
    return {
        "samples": len(data.fields),
        "shapes": [list(s) for s in data.shapes],
        "weights": data.weights,
        "batch_size": data.batch_size,
        "warmup": data.warmup,
        "seed": data.seed,
    }


def _random_state() -> dict[str, Any]:
    """The state of every random number generator that training may use, in types that load with weights_only=True."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 (the global state is what is meant)
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(name), torch.from_numpy(keys.astype("int64")), *rest],
        "python": [version, list(internal), gauss],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    """Undo `_random_state`."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype("uint32"), *rest))  # noqa: NPY002
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
