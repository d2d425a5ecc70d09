"""Objects on disk: safetensors for the tensors, config.json for everything else that makes them.

config.json names classes and their constructor arguments; the classes come from an allow-list that the caller can
extend, and no pickle is read. An object can be saved if it is a dataclass, or has a `config` property that holds its
constructor's arguments. `Model.save_pretrained` and `Model.from_pretrained` write and read whole models by it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import nn

from fnodiff import domain, sde
from fnodiff.expected import WrongKind

MODEL, CONFIG = "model.safetensors", "config.json"
_FILES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".json", ".h5", ".zip")
FORMAT = 3

_CLASSES: tuple[type, ...] = (
    domain.Torus,
    domain.Box,
    domain.Product,
    domain.Sphere,
    sde.Matern,
    sde.RBF,
    sde.GaussianRandomField,
    sde.WhiteNoise,
    sde.PixelNoise,
    sde.EDM,
    sde.VE,
    sde.VP,
    sde.SubVP,
    sde.Cosine,
    sde.RectifiedFlow,
    sde.FunctionSpaceSDE,
    sde.Normalization,
    sde.EDMScaling,
    sde.SpectralScaling,
    sde.FlowScaling,
    sde.ChannelSpectra,
    sde.ChannelNoise,
    sde.DataSpectrum,
)


def write(folder: Path, model: nn.Module, known: dict[str, Any], dtype: torch.dtype | None = None) -> Path:
    """Write a module and what is known of it into a folder, new or not, each file replaced in one move.

    Args:
        folder: Where to.
        model: The module.
        known: Further entries of the description.
        dtype: Of its float32 tensors in the file; None for their own.

    Raises:
        ValueError: If a part of it cannot be described (not a dataclass, no `config`), the dtype is none of weights, or the
            folder is a file.
    """
    if dtype not in (None, torch.float16, torch.bfloat16, torch.float32):
        raise ValueError(f"expected dtype torch.float16, torch.bfloat16 or torch.float32, got {dtype}; leave it out.")
    config = {"format": FORMAT, "model": describe(model), **known}
    text = json.dumps(config, indent=2) + "\n"
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}
    if dtype is not None:
        tensors = {k: v.to(dtype) if v.dtype == torch.float32 else v for k, v in tensors.items()}
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"expected a folder to save a model in, got the file {folder}; name another one.")
    folder.mkdir(parents=True, exist_ok=True)

    def write_config() -> None:
        if not (folder / CONFIG).is_file() or (folder / CONFIG).read_text() != text:
            (folder / MODEL).unlink(missing_ok=True)  # another model's tensors never stand beside this config
            replace_file(folder / CONFIG, lambda new: new.write_text(text))

    replace_file(folder / MODEL, lambda new: safetensors.torch.save_file(tensors, new), write_config)
    return folder


def read(folder: Path, classes: Sequence[type]) -> tuple[Any, dict[str, Any]]:
    """The object of a folder, its tensors not yet filled in, and what is known of it.

    Raises:
        ValueError: If files are missing or broken, or config.json names a class that is not allowed or arguments that it does
            not take.
    """
    for name in (CONFIG, MODEL):
        if not (folder / name).is_file():
            there = sorted(p.name for p in folder.iterdir())
            more = f" and {len(there) - 5} more" if len(there) > 5 else ""
            raise ValueError(
                f"in {folder}: expected {CONFIG} and {MODEL}, found {', '.join(there[:5]) or 'nothing'}{more}, without {name}; "
                f"name the folder that save_pretrained or fit wrote."
            )
    config = read_config(folder)
    if isinstance(config, dict) and config.get("format") in (1, 2):
        raise ValueError(
            f"{folder / CONFIG}: expected an fnodiff model of format {FORMAT}, got format {config['format']}; convert it: "
            f"fnodiff convert {folder} NEW_FOLDER."
        )
    if not isinstance(config, dict) or config.get("format") != FORMAT or "model" not in config:
        raise ValueError(
            f"{folder / CONFIG}: expected an fnodiff model of format {FORMAT}, got {str(config)[:80]}; "
            f"read it with the version of fnodiff that wrote it, and save it again."
        )
    try:
        model = _decode(config["model"], {c.__name__: c for c in (*_CLASSES, *_networks(), *classes)})
    except RecursionError as error:
        raise ValueError(f"{folder / CONFIG}: too deeply nested ({error}); save the model again.") from error
    return model, config


def read_config(folder: Path) -> Any:
    """What config.json holds; ValueError if it is no JSON."""
    try:
        return json.loads((folder / CONFIG).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{folder / CONFIG}: not valid JSON ({error}); save the model again.") from error


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file; ValueError if it is none."""
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error}); save the model again.") from error


def load_tensors(module: nn.Module, path: Path) -> None:
    """Fill a module from a safetensors file; ValueError naming every tensor that is missing, left over or misshapen."""
    tensors = read_tensors(path)
    expected = module.state_dict()
    problems = [f"missing {k}" for k in expected if k not in tensors] + [
        f"left over {k}" for k in tensors if k not in expected
    ]
    problems += [
        f"{k}: expected {tuple(v.shape)}, got {tuple(tensors[k].shape)}"
        for k, v in expected.items()
        if k in tensors and tensors[k].shape != v.shape
    ]
    if problems:
        raise ValueError(
            f"{path} does not fit {CONFIG}: {'; '.join(problems[:10])} ({len(problems)} in all); "
            f"save the model again, or restore the {CONFIG} that belongs to it."
        )
    module.load_state_dict(tensors)


def replace_file(path: Path, write: Callable[[Path], object], before: Callable[[], None] | None = None) -> None:
    """Write a file beside its final place and move it there once complete: at no moment is there half a file.

    `before` is called between the two: what fails while writing leaves everything as it was.
    """
    new = path.with_name(f".{path.name}.new")
    try:
        write(new)
        with new.open("rb+") as handle:
            os.fsync(handle.fileno())
        if before is not None:
            before()
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def describe(value: Any) -> Any:
    """An object as JSON types: a dataclass, or what has a `config`, becomes {"class": name, argument: ...}, a class its name,
    and NumPy's and torch's numbers plain ones.

    Raises:
        ValueError: If it, or something inside it, is neither.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic | np.ndarray) or (isinstance(value, torch.Tensor) and value.ndim < 2):
        return describe(value.tolist())
    if isinstance(value, list | tuple):
        return [describe(v) for v in value]
    if isinstance(value, dict):
        return {str(k): describe(v) for k, v in value.items()}
    if isinstance(value, type):
        return {"type": value.__name__}
    if dataclasses.is_dataclass(value):
        arguments = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    elif isinstance(getattr(value, "config", None), dict):
        arguments = value.config
    else:
        named, mend = repr(value), "write it as a frozen dataclass"
        if isinstance(value, nn.Module):
            named, mend = type(value).__name__, "keep them in its __init__, as self.config = {'width': width, ...}"
        raise ValueError(
            f"cannot save {named}: expected a dataclass or an object whose `config` holds its constructor's arguments; {mend}, "
            f"and name its class in from_pretrained(..., classes=[...])."
        )
    return {"class": type(value).__name__, **{k: describe(v) for k, v in arguments.items()}}


def decode(value: Any, classes: Sequence[type] = ()) -> Any:
    """The object of a description. Errors as of `read`."""
    return _decode(value, {c.__name__: c for c in (*_CLASSES, *classes)})


def _decode(value: Any, classes: dict[str, type]) -> Any:
    if isinstance(value, list):
        return [_decode(v, classes) for v in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"type"}:
        return _allowed(value["type"], classes)
    arguments = {k: _decode(v, classes) for k, v in value.items() if k != "class"}
    if "class" not in value:
        return arguments
    made = _allowed(value["class"], classes)
    try:
        return made(**arguments)
    except (ImportError, MemoryError, RecursionError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # arguments of other types make constructors raise errors of nearly every kind
        if (
            isinstance(error, ValueError) and not isinstance(error, WrongKind) and "expected" in str(error)
        ):  # in our words
            raise
        raise ValueError(
            f"{CONFIG}: {value['class']} does not take these arguments ({type(error).__name__}: {error}); save the model "
            f"again, or read it with the version of fnodiff that wrote it."
        ) from error


def _allowed(name: Any, classes: dict[str, type]) -> type:
    """The class of this name; ValueError if it may not be made."""
    if not isinstance(name, str) or name not in classes:
        raise ValueError(
            f"{CONFIG}: class {name!r} is not allowed; allowed are {', '.join(sorted(classes))}. If you trust it, pass it: "
            f"from_pretrained(..., classes=[{name}])."
        )
    return classes[name]


def _networks() -> tuple[type, ...]:
    from fnodiff.nn import DFU, NeuralOperator  # loads neuralop, which takes seconds: only when a model is read
    from fnodiff.nn.families import OPERATORS

    return DFU, NeuralOperator, *OPERATORS


def download(repo: str | Path, revision: str | None, names: Sequence[str] = ()) -> Path:
    """The folder of a model on the hub, "owner/name"; `names` are those of models that need no hub.

    A `Path`, or a text that can only be a path, is never looked for there.
    """
    if isinstance(repo, Path) or repo.count("/") != 1 or repo.startswith((".", "/")) or repo.endswith(_FILES):
        names = f", a model that comes with fnodiff ({', '.join(names)})" if names else ""
        raise ValueError(
            f"expected a folder with a saved model{names}, or a hub id such as owner/name, got {str(repo)!r}, which is none of "
            f"these; name another one."
        )
    try:
        return Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=[CONFIG, MODEL]))
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise ValueError(
            f"expected a folder or a model on the hub, got {repo!r}: there is no such folder, and the hub did not serve it "
            f"({type(error).__name__}); check the name."
        ) from error
