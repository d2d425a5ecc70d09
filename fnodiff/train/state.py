"""A run's state in a folder: beside the model (the moving average), all that training needs to go on to the bit."""

from __future__ import annotations

import random
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fnodiff import checkpoint
from fnodiff.data.loader import MultiResolution
from fnodiff.model import Model
from fnodiff.train.weights import MovingAverage, placed, whole

STATE = "training.pt"
"""The file with the run's state, beside the model."""
MEASURED = ("condition_normalization", "normalization", "spectrum")
"""What of a model is measured on its data."""


def check_writable(folder: Path) -> None:
    """Make the folder if there is none, and write to it, so that a ValueError comes before the training."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"{folder}: expected a folder that can be written to, got {error}; name another folder=."
        ) from error


def save(
    folder: Path,
    step: int,
    model: Model,
    average: MovingAverage,
    optimizer: torch.optim.Optimizer,
    data: MultiResolution,
    write: bool = True,
) -> None:
    """Write the model and the run's state; of weights that are shared out, by one process, but all have to call."""
    ema = average.model()
    state = {
        "step": step,
        "model": checkpoint.describe(model),
        "data": _data_state(data),
        "processes": _processes(),
        "weights": whole(model.state_dict()),
        "ema": ema.state_dict(),
        "optimizer": whole(optimizer.state_dict()),
        "random": _random_state(),
    }
    if not write:
        return
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.replace_file(folder / STATE, lambda new: torch.save(state, new))
    ema.training_shapes, ema.condition_names = model.training_shapes, model.condition_names
    ema.drop_condition = model.drop_condition
    ema.save_pretrained(folder)


def load(
    folder: Path,
    model: Model,
    average: MovingAverage,
    optimizer: torch.optim.Optimizer,
    data: MultiResolution,
) -> int:
    """Go on from what `save` wrote, by any number of processes, with weights whole or shared out; returns the step.

    Raises:
        ValueError: If there is nothing, it cannot be read, or the run was one of another model.

    Warns:
        UserWarning: If data or processes are others than they were.
    """
    if not (folder / STATE).is_file():
        raise ValueError(
            f"{folder}: expected {STATE} in it, found none; a model saved without its run "
            f"cannot be resumed, but trained anew: read it with Model.from_pretrained."
        )
    try:
        state = torch.load(folder / STATE, weights_only=True, map_location="cpu")
        _check_entries(state)
    except Exception as error:  # damaged bytes make the reader raise errors of nearly every kind
        # torch's own message advises weights_only=False, which runs whatever code a file holds
        raise ValueError(
            f"{folder / STATE}: not a readable training state: cut short, or not from fit; go on from a copy of the folder, or "
            f"train anew from its model, Model.from_pretrained({str(folder)!r})."
        ) from error
    changed = _changed({**state["data"], "processes": state.get("processes", _processes())}, data)
    changed += _units_kept(folder, state["model"], model, average)
    if changed:
        warnings.warn(f"{folder}: the run goes on with {', '.join(changed)}.", stacklevel=4)
    own = model.state_dict()
    model.load_state_dict({name: placed(value, own[name]) for name, value in state["weights"].items()})
    average.load_state_dict(state["ema"])
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    for index, moments in state["optimizer"]["state"].items():
        like = weights[index]
        moments |= {k: placed(v, like) for k, v in moments.items() if v.shape == like.shape}
    optimizer.load_state_dict(state["optimizer"])
    _set_random_state(state["random"])
    return state["step"]


def reached(folder: Path) -> str:
    """ " from step 1200", where the run in a folder is, if that can be read."""
    try:
        return f" from step {int(torch.load(folder / STATE, weights_only=True, map_location='cpu', mmap=True)['step'])}"
    except Exception:  # damaged bytes make the reader raise errors of nearly every kind; `load` says so
        return ""


def _changed(was: dict[str, Any], data: MultiResolution) -> list[str]:
    """What of data and processes is another than it was, in words."""
    now = {**_data_state(data), "processes": _processes()}
    return [f"{name} {now[name]} (before {was[name]})" for name in now if name in was and was[name] != now[name]]


def _units_kept(folder: Path, was: dict[str, Any], model: Model, average: MovingAverage) -> list[str]:
    """Give a model the units and the spectrum that the run in a folder began with, which more data measure otherwise.

    Raises:
        ValueError: If the model is another one.
    """
    ours = checkpoint.describe(model)
    other = sorted(name for name in {*was, *ours} if was.get(name) != ours.get(name))
    try:
        kept = {name: checkpoint.decode(was[name]) for name in other if name in MEASURED}
    except ValueError:  # of a class of the user's own
        kept = {}
    if len(kept) < len(other):
        names = [name for name in other if name not in kept]
        raise ValueError(
            f"{folder}: expected to resume its own model, got one of another {' and '.join(names)}: "
            f"{'; '.join(_apart(name, was.get(name), ours.get(name)) for name in names)}; use the same: "
            f"Model.from_pretrained({str(folder)!r})."
        )
    for name, value in kept.items():
        for one in (model, average.model()):
            setattr(one, name, value)
    return [f"its own {name.replace('_', ' ')}, not that of these data" for name in kept]


def _apart(name: str, was: Any, got: Any) -> str:
    """Where two descriptions differ first: "network.num_blocks 0, got 1"."""
    if isinstance(was, dict) and isinstance(got, dict):
        for key in {**was, **got}:
            if was.get(key) != got.get(key):
                return _apart(f"{name}.{key}", was.get(key), got.get(key))
    return f"{name} {str(was)[:80]}, got {str(got)[:80]}"


def _processes() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def _check_entries(state: Any) -> None:
    """Raise unless it has what `save` wrote."""
    missing = {"step", "model", "data", "weights", "ema", "optimizer", "random"} - set(state)
    if missing:
        raise ValueError(f"no {', '.join(sorted(missing))}")


def _data_state(data: MultiResolution) -> dict[str, Any]:
    return {
        "samples": len(data.fields),
        "shapes": [list(s) for s in data.shapes],
        "weights": data.weights,
        "batch_size": data.batch_size,
        "warmup": data.warmup,
        "seed": data.seed,
        "augmentation": repr(data.augmentation),
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
    for device, known in enumerate(state["cuda"][: torch.cuda.device_count()] if torch.cuda.is_available() else ()):
        torch.cuda.set_rng_state(known, device)  # of as many as there are here
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype("uint32"), *rest))  # noqa: NPY002
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
