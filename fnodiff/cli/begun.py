"""What a run was begun with, kept beside its model: another model or network is refused where it goes on."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from fnodiff.cli.arguments import read_toml

BEGUN = "train.toml"
"""Of `fnodiff train`, whose --config reads it."""

TUNED = "finetune.toml"
"""Of `fnodiff finetune`."""


def write_begun(file: Path, command: str, flags: dict[str, Any]) -> None:
    """Write the options of a command beside the model."""
    from fnodiff.checkpoint import replace_file

    given = {name.removeprefix("--"): value for name, value in flags.items() if value is not None}
    again = " Again: fnodiff train --config FILE --out FOLDER" if command == "train" else ""
    lines = [f"# What this run was begun with.{again}", f"[{command}]"]
    lines += [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in given.items()]
    replace_file(file, lambda new: new.write_text("\n".join([*lines, ""])))


def say_other_data(file: Path, command: str, data: str, main: bool) -> None:
    """Warn if the run was begun on data of another name, which may be the same ones that were moved."""
    begun = read_toml(file).get(command, {}).get("data", data) if file.is_file() else data
    if main and begun != data:
        warnings.warn(f"the run in {file.parent} was begun with --data {begun}, and goes on with {data}.", stacklevel=2)


def check_tuned(folder: Path, model: str) -> None:
    """Raise unless the run in a folder finetunes this model, as far as that is known."""
    file = folder / TUNED
    if not file.is_file() and (folder / BEGUN).is_file():
        raise ValueError(
            f"expected a new --out, or that of a finetuning, got {folder}, a run of fnodiff train; name another."
        )
    begun = read_toml(file).get("finetune", {}).get("model", model) if file.is_file() else model
    if begun != model and Path(begun).resolve() != Path(model).resolve():
        raise ValueError(
            f"expected MODEL {begun}, as the run in {folder}, got {model}; repeat it, or name another --out."
        )


def check_begun(folder: Path, flags: dict[str, Any], usual: dict[str, Any]) -> None:
    """Raise if the run in a folder was begun with other options than these flags."""
    file = folder / BEGUN
    if not file.is_file():  # by `fit`
        for name, now in flags.items():
            if now != usual.get(name):
                raise ValueError(
                    f"expected no {name}, as a program other than this command began the run in {folder}, got {name} {now}; "
                    f"leave it out, or name another --out."
                )
        return
    before = read_toml(file).get("train", {})
    for name, now in flags.items():
        then = before.get(name.removeprefix("--"))
        if then != now and (name, now) != ("--init", None):
            was, got = (f"no {name}" if value is None else f"{name} {value}" for value in (then, now))
            raise ValueError(f"expected {was}, as the run in {folder}, got {got}; repeat it, or name another --out.")
