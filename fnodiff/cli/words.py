"""What the arguments say: seeds, sizes, and classes of the user's own."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from fnodiff.domain import Domain, Shape

Words = Annotated[tuple[str, ...], Parameter(consume_multiple=1)]
"""One or more words after one flag."""
Numbers = Annotated[tuple[int, ...], Parameter(consume_multiple=1)]
Reals = Annotated[tuple[float, ...], Parameter(consume_multiple=1)]


def seeds_of(text: str) -> list[int]:
    """ "0-3,7" as [0, 1, 2, 3, 7]."""
    parts = text.split(",")
    seeds: list[int] = []
    if all(re.fullmatch(r"\d+(-\d+)?", part) for part in parts):
        for part in parts:
            first, _, last = part.partition("-")
            seeds += range(int(first), int(last or first) + 1)
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(
            f"expected --seeds such as 0-63 or 0-3,7, got {text!r}; name each seed once, the smaller one first."
        )
    return seeds


def sizes_of(texts: Sequence[str], domain: Domain | None = None) -> list[Shape]:
    """ "160x96" as (160, 96), and "160" as (160,), or with a domain as its grid of 160 points a side."""
    shapes = []
    for text in texts:
        if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text):
            raise ValueError(f"expected a size such as 160 or 160x96, got {text!r}; write whole numbers above 0.")
        shape = tuple(map(int, text.split("x")))
        if domain is not None:
            shape = domain.shape_of(*shape) if len(shape) == 1 else domain.check_shape(shape)
        shapes.append(shape)
    if len(set(shapes)) != len(shapes):
        raise ValueError(f"expected different sizes, got {' '.join(texts)}; name each once.")
    return shapes


def size_name(shape: Sequence[int]) -> str:
    """ "160x96" of (160, 96)."""
    return "x".join(map(str, shape))


def classes_from(text: str | None) -> list[type]:
    """The classes that are defined in a Python file or a module, which is run."""
    if text is None:
        return []
    path = Path(text)
    try:
        if path.suffix == ".py":
            spec = importlib.util.spec_from_file_location(f"classes_from_{path.stem}", path)
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module  # dataclasses look their module up
            spec.loader.exec_module(module)
        else:
            sys.path.insert(0, "")  # as `python -m` does
            try:
                module = importlib.import_module(text)
            finally:
                sys.path.remove("")
    except Exception as error:  # the file is the user's, and may fail in any way
        raise ValueError(
            f"expected --classes-from PATH.py or a module, got {text}: {type(error).__name__}: {error}; mend or name another."
        ) from error
    found = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
    if not found:
        raise ValueError(f"expected classes in {text}, got none; name the file that defines those of config.json.")
    return found
