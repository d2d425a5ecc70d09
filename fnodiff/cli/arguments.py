"""What arguments mean: classes of options, seeds, sizes."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, dataclass_transform, get_type_hints

from cyclopts import Group, Parameter, Token

if TYPE_CHECKING:
    from fnodiff.domain import Domain, Shape

C = TypeVar("C", bound=type)


def whole(_: Any, tokens: Sequence[Token]) -> int:
    """The number that is written; the parser would round 2.5."""
    return int(tokens[0].value)


Whole = Annotated[int, Parameter(converter=whole)]
MaybeWhole = Annotated[int | None, Parameter(converter=whole)]
Words = Annotated[tuple[str, ...], Parameter(consume_multiple=1)]
"""One or more words after one flag."""
Numbers = Annotated[tuple[Whole, ...], Parameter(consume_multiple=1)]
Reals = Annotated[tuple[float, ...], Parameter(consume_multiple=1)]
Source = Annotated[
    str, Parameter(help="A folder of `train`, the name of a model that comes with fnodiff, or a hub id.")
]


def option(text: str, default: Any = None) -> Any:
    """An option with its line in `--help`, within a class of `options`."""
    return field(default=default, metadata={"help": text})


@dataclass_transform(frozen_default=True, field_specifiers=(option,))
def options(heading: str, place: int) -> Callable[[C], C]:
    """Make a class one of options: frozen settings, a flag for each, below a heading of `--help`."""

    def make(kind: C) -> C:
        kind = dataclass(frozen=True)(kind)
        kind.__init__.__annotations__ = get_type_hints(kind, include_extras=True)  # each read in its class' module
        lines = [f"    {option.name}: {option.metadata['help']}" for option in fields(kind)]
        kind.__doc__ = "\n".join([kind.__doc__, "", "Args:", *lines])  # which cyclopts reads
        return Parameter(name="*", group=Group(heading, sort_key=place))(kind)

    return make


@options("General", 20)
class General:
    """What every command has."""

    config: Path | None = option("A TOML file with options, below a table of this command's name; flags come first.")
    quiet: bool = option("Say nothing but the result.", False)


def flag(name: str) -> str:
    """ "--n-modes" of "n_modes"."""
    return f"--{name.replace('_', '-')}"


def named(chosen: Any, choice: str, fits: Mapping[str, Sequence[str | None]]) -> dict[str, Any]:
    """Those of the options `fits` that were named; for each it has the values of `choice` that it goes with."""
    found = {name: value for name, value in vars(chosen).items() if name in fits and value is not None}
    for name in found:
        if getattr(chosen, choice) not in fits[name]:
            wanted, got = " or ".join(filter(None, fits[name])), getattr(chosen, choice) or "none"
            raise ValueError(f"expected {flag(name)} with {flag(choice)} {wanted}, got it with {got}; leave it out.")
    return found


def seeds_of(text: str, flag: str = "--seeds") -> list[int]:
    """ "0-3,7" as [0, 1, 2, 3, 7]."""
    parts = text.split(",") if re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text) else []
    ends = [(int(first), int(last or first)) for first, _, last in (part.partition("-") for part in parts)]
    seeds = [seed for first, last in ends for seed in range(first, last + 1)]
    if not seeds or len(set(seeds)) != len(seeds) or any(first > last for first, last in ends):
        raise ValueError(f"expected {flag} such as 0-63 or 0-3,7, got {text!r}; each seed once, smaller one first.")
    return seeds


def sizes_of(texts: Sequence[str], domain: Domain | None = None) -> list[Shape]:
    """ "160x96" as (160, 96), and "160" as (160,), or with a domain as its grid of 160 points a side."""
    wrong = [text for text in texts if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text)]
    if wrong:
        raise ValueError(f"expected a size such as 160 or 160x96, got {wrong[0]!r}; write whole numbers above 0.")
    shapes = [tuple(map(int, text.split("x"))) for text in texts]
    if domain is not None:
        shapes = [domain.check_shape(shape[0] if len(shape) == 1 else shape) for shape in shapes]
    if len(set(shapes)) != len(shapes):
        raise ValueError(f"expected different sizes, got {' '.join(texts)}; name each once.")
    return shapes


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file says; ValueError if it is none."""
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"expected a TOML file, got {path}: {error}; mend it.") from error


def size_name(shape: Sequence[int]) -> str:
    """ "160x96" of (160, 96)."""
    return "x".join(map(str, shape))


def is_finer(shape: Shape, than: Shape) -> bool:
    """Whether a grid has more points than another, and along no axis fewer."""
    return shape != than and all(n >= m for n, m in zip(shape, than, strict=True))
