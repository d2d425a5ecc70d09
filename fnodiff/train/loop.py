"""Training: a plain loop on accelerate.

A checkpoint folder holds the model (the moving average, as `Model.save_pretrained` writes it) and beside it `training.pt`, the
rest of the run's state, which loads with `weights_only=True`.

With several processes (`accelerate launch` on GPUs, `torchrun` on CPUs) each takes its rows of every batch, and with
accelerate's `gradient_accumulation_steps` these are gone through in that many parts: `batch_size` is that of the whole step.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from fnodiff import checkpoint
from fnodiff.data.loader import MultiResolution
from fnodiff.domain import moved
from fnodiff.expected import kinds_checked
from fnodiff.model import Model
from fnodiff.sde import DenoisingLoss
from fnodiff.sde.denoiser import NotFinite, check_names
from fnodiff.train.bar import Bar
from fnodiff.train.graphs import check_recordable, recorded
from fnodiff.train.preview import can_show
from fnodiff.train.settings import Adam, Execution, Logging
from fnodiff.train.signals import Interruption, deaf, interruptible
from fnodiff.train.state import STATE, check_writable, load, reached, save
from fnodiff.train.weights import MovingAverage, share_out


@kinds_checked(but=("model", "data", "optimizer"))
def fit(
    model: Model,
    data: MultiResolution,
    steps: int | None = None,
    *,
    minutes: float | None = None,
    folder: str | os.PathLike[str] | None = None,
    resume: bool | Literal["auto"] = False,
    loss: DenoisingLoss | None = None,
    optimizer: Adam | None = None,
    logging: Logging | None = None,
    execution: Execution | None = None,
) -> Model:
    """Train a model in place: afterwards, also when Ctrl-C ended it, it holds the moving average of its weights, and is in
    evaluation mode.

    Args:
        model: What is trained.
        data: Batches, one grid each.
        steps: Stop after this many in all, those of a resumed run included.
        minutes: Stop after this much wall-clock time of this call; with `steps`, whichever comes first.
        folder: Where checkpoints go, every so many steps, at the end, and on SIGINT and SIGTERM before leaving: by a
            KeyboardInterrupt, and with exit status 143 or by a handler of your own.
        resume: Go on from the run in `folder`: with the same thread count, on one CPU process, to the bit. "auto": go on if
            there is one, else begin. False: begin, in a folder that holds no run. Another batch size, another number of
            samples or of processes, other grids or augmentation are said in a warning; units and spectrum stay those that the
            run began with.
        loss: The loss; `DenoisingLoss(model)` by default.
        optimizer: Rate, ramp-up, decay, clipping and moving average.
        logging: What is said on the way.
        execution: Accelerator, workers, seed, interval of checkpoints.

    Returns:
        The model; with `Execution(shard=True)` a whole copy of it.

    Raises:
        ValueError: If neither steps nor minutes is given, or not positive, a setting is of another class, the data are on
            another domain or none of their grids holds the network's modes, the folder holds another run or cannot be written
            to, the model cannot be saved, the checkpoint does not belong to this model, a batch cannot be shared out evenly
            among processes and parts, weights are to be shared out in one process, no tracker shows previews, or no CUDA graph
            can be recorded.
        FloatingPointError: If the loss is not finite, naming the step and the grid.

    Examples:
        >>> import torch
        >>> from fnodiff import DFU, Box, Model, MultiResolution, fit
        >>> from fnodiff.data import ArrayFields
        >>> fields = ArrayFields(torch.rand(64, 3, 16, 16), domain=Box(2))
        >>> data = MultiResolution(fields, Box(2), shapes=[8, 16], batch_size=4)
        >>> model = fit(Model.for_data(data, DFU.tiny), data, steps=2, logging=Logging(progress=False))
        >>> model.training_shapes, model.training
        (((8, 8), (16, 16)), False)
    """
    optimizer = Adam() if optimizer is None else optimizer
    logging, execution = logging or Logging(), execution or Execution()
    _check_settings(steps, minutes, {Adam: optimizer, Logging: logging, Execution: execution})
    going_on = _check_folder(folder, resume)
    _check_data(model, data, new=not going_on)
    # without cpu=True accelerate takes several processes on CPUs for as many runs
    accelerator = execution.accelerator or Accelerator(cpu=not torch.accelerator.is_available())
    if execution.cuda_graphs:
        check_recordable(model, accelerator)
    parts = accelerator.gradient_accumulation_steps
    share = _Share(data, accelerator.process_index, accelerator.num_processes, parts, execution.seed)
    if logging.preview is not None and not can_show(accelerator.trackers):
        raise ValueError(
            f"fit: expected a tracker that shows the preview's pictures, got {[t.name for t in accelerator.trackers]}; take "
            f'Accelerator(log_with="tensorboard", project_dir=...) and call its init_trackers.'
        )
    _check_precision(model, accelerator)
    loss = loss or DenoisingLoss(model)
    if getattr(loss, "model", None) is not model:
        raise ValueError("fit: expected a loss of this model, got one of another; build DenoisingLoss(model).")
    if folder is not None:
        checkpoint.describe(model)  # what cannot be saved is known before it is trained
        check_writable(Path(folder))
    model.training_shapes = data.native_shapes
    model.drop_condition = max(model.drop_condition or 0.0, getattr(loss, "drop_condition", 0.0))

    model.train()
    average = MovingAverage(model, accelerator.device)
    if execution.shard:
        share_out(loss, accelerator)
    fused = not any(p.is_complex() for p in model.parameters())  # a step for all parameters at once; real ones only
    adam = torch.optim.Adam(model.parameters(), lr=optimizer.lr, betas=optimizer.betas, fused=fused)
    prepared, adam = (loss, accelerator.prepare(adam)) if execution.shard else accelerator.prepare(loss, adam)
    if accelerator.num_processes > 1:
        average.follow(model)  # by now all have the first process' weights
    step = load(Path(folder), model, average, adam, data) if going_on else 0
    if accelerator.process_index > 0:  # other noise than the first process', though the script seeds all alike
        torch.manual_seed(torch.initial_seed() + accelerator.process_index + (step << 20))

    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    last = step + 10**9 if steps is None else steps
    start = time.monotonic()
    loader = DataLoader(
        share,
        batch_size=None,
        sampler=data.steps(step, max(step, last)),
        num_workers=execution.workers,
        generator=torch.Generator(),
        worker_init_fn=deaf,
    )
    elapsed = 0.0
    bar = Bar(loss, steps, step, deadline, logging.progress and accelerator.is_main_process)
    graphs = recorded(model.network) if execution.cuda_graphs else nullcontext()
    with interruptible() as interrupted, bar, graphs:
        for batch in _until(loader, interrupted) if step < last else ():
            if batch is None:  # the signal reached the workers too
                if folder is not None and (accelerator.is_main_process or execution.shard):
                    save(Path(folder), step, model, average, adam, data, write=accelerator.is_main_process)
                break
            shape = tuple(batch["x"].shape[2:])
            rate = optimizer.rate(step, elapsed / (60 * minutes) if steps is None else step / steps)
            for group in adam.param_groups:
                group["lr"] = rate
            adam.zero_grad(set_to_none=True)
            value = _backward(prepared, share.parts(batch, step), accelerator)
            stop = bool(interrupted) or time.monotonic() >= deadline
            elapsed = time.monotonic() - start
            if accelerator.num_processes > 1:  # all go on, or none, at the same rate
                agreed = torch.tensor([value, stop, elapsed], dtype=torch.float32, device=accelerator.device)
                value, stop, elapsed = accelerator.reduce(agreed, "mean").tolist()
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the loss is {value} at step {step}, grid {shape}; lower lr (now {optimizer.lr:g}), or look for "
                    f"values in the data that are not finite: data[{step}]. Checkpoints written before are whole."
                )
            accelerator.clip_grad_norm_(model.parameters(), optimizer.clip)
            adam.step()
            step += 1
            average.update(model, optimizer.ema_decay(step, data.batch_size))

            bar.note(shape, value)
            if logging.callback is not None:
                logging.callback(step, shape, value)
            done = step >= last or bool(stop) or (accelerator.num_processes == 1 and bool(interrupted))
            if accelerator.trackers and (done or step % 10 == 0):
                accelerator.log({**bar.losses("loss/"), "lr": rate}, step=step)
            saving = folder is not None and (done or step % execution.save_every == 0)
            if saving and (accelerator.is_main_process or execution.shard):
                save(Path(folder), step, model, average, adam, data, write=accelerator.is_main_process)
            if logging.preview is not None and (done or step % logging.preview.every == 0):
                ema = average.model()
                if accelerator.is_main_process:
                    logging.preview.show(ema, accelerator.trackers, step)
            if done:
                break
    accelerator.wait_for_everyone()  # what was written can be read by all of them
    trained = average.model()
    if not execution.shard:
        model.load_state_dict(trained.state_dict())
        model.eval()
    if interrupted:
        text = f"stopped after step {step}" + (f"; resume from {folder}" if folder is not None else "")
        if interrupted.number == signal.SIGTERM and accelerator.is_main_process:
            tqdm.write(text, file=sys.stderr)
        interrupted.leave(text)
    return trained if execution.shard else model


def _until(loader: DataLoader, interrupted: Interruption) -> Iterator[dict[str, Tensor] | None]:
    """The batches; None, and no more, if a signal ended the workers while one was made."""
    batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:  # torch's, of workers that are gone
            if not interrupted or "DataLoader worker" not in str(error):
                raise
            yield None
            return
        yield batch


def _check_settings(steps: int | None, minutes: float | None, settings: dict[type, object]) -> None:
    """Whether a run has an end, and its settings are settings."""
    if steps is None and minutes is None:
        raise ValueError("fit: expected steps or minutes, got neither; say when to stop.")
    whole = steps is None or (isinstance(steps, Integral) and steps >= 1)
    if not whole or not (minutes is None or minutes > 0):
        raise ValueError(
            f"fit: expected steps >= 1 or minutes > 0, got steps={steps!r} and minutes={minutes!r}; say when to stop."
        )
    for kind, value in settings.items():
        if not isinstance(value, kind):
            got = f"{type(value).__module__}.{type(value).__qualname__}"
            raise ValueError(
                f"fit: expected fnodiff.train.{kind.__name__}, got {got}; write such as {kind.__name__}(), whose arguments are "
                f"the settings."
            )


def _check_folder(folder: str | os.PathLike[str] | None, resume: bool | Literal["auto"]) -> bool:
    """Whether the run goes on from the folder."""
    if resume is not False and folder is None:
        raise ValueError(
            f'fit: expected resume True, False or "auto", with a folder=, got {resume!r} and {folder!r}; name the folder of '
            f"the run."
        )
    there = folder is not None and (Path(folder) / STATE).is_file()
    if there and resume is False:
        raise ValueError(
            f"fit: expected a folder without a run, got {folder}, which holds one; pass resume=True to go on with it"
            f"{reached(Path(folder))}, or another folder=."
        )
    alone = [
        name for name in (checkpoint.CONFIG, checkpoint.MODEL) if folder is not None and (Path(folder) / name).exists()
    ]
    if alone and not there and resume is not True:
        raise ValueError(
            f"fit: expected a folder without a model, got {folder}, which holds {' and '.join(alone)} without a run; name "
            f"another folder=, as this model would be written over."
        )
    return there if resume == "auto" else bool(resume)


def _check_data(model: Model, data: MultiResolution, new: bool) -> None:
    """Whether a model, a new one or one that has learnt elsewhere, can learn from these grids."""
    if not isinstance(model, Model) or not all(hasattr(data, name) for name in ("batch_size", "domain", "shapes")):
        raise ValueError(
            f"fit: expected a Model and MultiResolution data, got {type(model).__name__} and {type(data).__name__}; write such "
            f"as fit(Model.for_data(data, DFU.small), data, 1000)."
        )
    domain = model.sde.domain
    if data.domain != domain:
        raise ValueError(
            f"fit: expected data on {domain}, as the noise is, got {data.domain}; use one domain for both."
        )
    check_names("fit", model, getattr(data, "condition_names", ()))
    modes = getattr(model.network, "spectral_modes", None)
    if modes is None or not new:
        return
    grids = [*data.shapes, *model.training_shapes]  # or one that it has learnt on before
    if not any(all(n <= m for n, m in zip(modes, domain.modes(grid), strict=True)) for grid in grids):
        raise ValueError(
            f"fit: expected a network of modes that one of the grids {data.shapes} holds, got n_modes={modes}: the others "
            f"would learn nothing, and show on finer grids; build it with fewer, or train on finer grids too."
        )


def _check_precision(model: Model, accelerator: Accelerator) -> None:
    """Say what weights of half precision lose, and refuse what torch does."""
    half = {p.dtype for p in model.parameters() if p.dtype in (torch.float16, torch.bfloat16)}
    if not half:
        return
    names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in half))
    mend = 'keep weights in float32, model.float(), and pass Execution(Accelerator(mixed_precision="bf16"))'
    if torch.float16 in half and accelerator.mixed_precision == "fp16":
        raise ValueError(f"fit: expected float32 weights with mixed precision fp16, got {names}; {mend}.")
    warnings.warn(f"fit: small steps are rounded away in weights of {names}; {mend}.", stacklevel=4)


class _Share(Dataset):
    """A process' rows of each batch: rank, rank + processes, ...; and these in equal parts."""

    def __init__(self, data: MultiResolution, rank: int, processes: int, parts: int, seed: int | None) -> None:
        if data.batch_size % (processes * parts):
            raise ValueError(
                f"fit: expected a batch_size that {processes} processes and {parts} parts share evenly, got "
                f"{data.batch_size}; make it a multiple of {processes * parts}, as it is that of the whole step."
            )
        self.data, self.rows, self.count, self.seed = data, range(rank, data.batch_size, processes), parts, seed

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        return self.data[step] if len(self.rows) == self.data.batch_size else self.data.rows(step, self.rows)

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
    total, finite = torch.zeros((), device=accelerator.device), True
    for number, part in enumerate(parts):
        inputs = {k: _moved(k, v, accelerator.device) for k, v in part.items()}
        with accelerator.no_sync(model) if number < len(parts) - 1 else nullcontext():
            with accelerator.autocast():
                try:
                    value = model(**inputs).mean()
                except NotFinite:  # of this process' rows: all have to know, after as many exchanges as theirs
                    finite = False
                    value = model(**{k: _without_nan(v) for k, v in inputs.items()}).mean()
            accelerator.backward(value)  # divides by the number of parts
        total = total + value.detach() / len(parts)
    return total.item() if finite else math.nan  # read once, as a GPU stands still for it


def _moved(name: str, value: Any, device: torch.device) -> Any:
    """A batch's entry on the device. x in float64 stays until the loss has normalised it: not every device has float64."""
    if not isinstance(value, Tensor) or (name == "x" and value.dtype == torch.float64):
        return value
    return moved(value, device)


def _without_nan(value: Any) -> Any:
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return torch.where(value.isfinite(), value, 0.0) if floating else value
