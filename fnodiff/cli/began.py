"""What a run was begun with: `train.toml` beside its model, which `fnodiff train --config` reads."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fnodiff import Model

FILE = "train.toml"
ELSEWHERE = ("out", "resume")
"""Options that say where a run is, not what it is."""


def flat(*groups: Any) -> dict[str, Any]:
    """The options of all groups by the names of their flags, those that were left out left out."""
    found = {}
    for group in groups:
        for field in dataclasses.fields(group):
            value = getattr(group, field.name)
            if value is not None and field.name not in ELSEWHERE:
                found[field.name.replace("_", "-")] = list(value) if isinstance(value, tuple) else value
    return found


def write(folder: Path, options: dict[str, Any]) -> None:
    """Write the options beside the model."""
    from fnodiff.checkpoint import replace_file

    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in options.items()]
    text = "\n".join(
        ["# What this run was begun with. Again: fnodiff train --config FILE --out FOLDER", "[train]", *lines, ""]
    )
    replace_file(folder / FILE, lambda new: new.write_text(text))


def goes_on(folder: Path, resume: str) -> bool:
    """Whether the folder holds a run that is to go on.

    Raises:
        ValueError: If a run, or a model, is there that should not be, or none that should.
    """
    from fnodiff.checkpoint import CONFIG
    from fnodiff.train import STATE

    there = (folder / STATE).is_file()
    if there and resume == "never":
        raise ValueError(
            f"expected --out without a run, got {folder}, which holds one; name another, or leave --resume out."
        )
    if not there and resume == "always":
        raise ValueError(
            f"expected --out with a run, got {folder}, which holds none; name another, or leave --resume out."
        )
    if not there and (folder / CONFIG).is_file():
        raise ValueError(
            f"expected --out to be a new folder or one with a run, got {folder}, which holds a model alone; name another."
        )
    return there


def resumed(folder: Path, *groups: Any) -> Model:
    """The model of a run that is to go on, which these groups of options make.

    Raises:
        ValueError: If it was begun with others.
    """
    from fnodiff import Model

    if (folder / FILE).is_file():
        before, now = tomllib.loads((folder / FILE).read_text()).get("train", {}), flat(*groups)
        for name in (field.name.replace("_", "-") for group in groups for field in dataclasses.fields(group)):
            if before.get(name) != now.get(name):
                was, got = (f"--{name} {v[name]}" if name in v else f"no --{name}" for v in (before, now))
                raise ValueError(
                    f"expected the options that the run in {folder} was begun with, {was}, got {got}; repeat them, or name "
                    f"another --out."
                )
    return Model.from_pretrained(folder)
