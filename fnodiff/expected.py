"""The kinds of arguments, looked at in one place: `@kinds_checked` reads the annotations of a function or a constructor.

A wrong kind is refused by the argument's name. NumPy's scalars, and arrays and tensors of one number, become plain numbers;
arrays and lists become tensors or tuples where these are meant. NaN is no number. Whether a value is in its range is the
function's own business.
"""

from __future__ import annotations

import ast
import functools
import inspect
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence, Set
from numbers import Integral, Real
from typing import Any, TypeVar, overload

import numpy as np
import torch
from torch import Tensor

Made = TypeVar("Made", bound=Callable)

_WORDS = {"int": "a whole number", "float": "a number", "bool": "True or False", "str": "a text", "Tensor": "a tensor"}
_ALIASES = {"Shape": "Sequence[int]", "Spectrum": "Callable", "Fresh": "Callable"}
_FREE = {
    "Any",
    "Batches",
    "Fields",
    "Forcing",
    "Generators",
    "Hold",
    "Kind",
    "Mapping",
    "Rows",
    "Target",
    "dict",
    "type",
}
_NUMBERS: dict[str, type] = {"int": Integral, "float": Real, "bool": bool}
_NO = object()


class WrongKind(TypeError, ValueError):
    """An argument of another kind than was expected."""


@overload
def kinds_checked(made: Made) -> Made: ...
@overload
def kinds_checked(*, but: Sequence[str]) -> Callable[[Made], Made]: ...
def kinds_checked(made: Callable | None = None, *, but: Sequence[str] = ()) -> Any:
    """The class or the function, which refuses arguments of other kinds than its annotations name.

    Args:
        made: A class, whose constructor is looked at, or a function.
        but: Arguments that it looks at itself.

    A constructor of ours that refuses the argument itself says more, and is heard first.
    """
    if made is None:
        return functools.partial(kinds_checked, but=but)
    call = made.__init__ if isinstance(made, type) else made
    parameters = inspect.signature(call).parameters
    named = {
        name: _alternatives(parameter.annotation)
        for name, parameter in parameters.items()
        if parameter.kind not in (2, 4) and parameter.annotation is not parameter.empty and name not in but
    }
    order, owner = list(parameters), made.__qualname__

    @functools.wraps(call)
    def looked_at(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(order, args, strict=False)), **kwargs}
        found = {name: _first(named[name], value) if name in named else value for name, value in given.items()}
        wrong = [name for name, value in found.items() if value is _NO]
        found |= {name: given[name] for name in wrong}
        first = [found[name] for name in order[: len(args)]]
        call_it = functools.partial(call, *first, *args[len(first) :], **{name: found[name] for name in kwargs})
        if not wrong:
            return call_it()
        wanted = " or ".join(dict.fromkeys(map(_words, named[wrong[0]])))
        refused = WrongKind(f"{owner}: expected {wrong[0]} as {wanted}, got {described(given[wrong[0]])}; pass one.")
        if not isinstance(made, type):
            raise refused
        try:
            call_it()
        except Exception as error:
            if isinstance(error, ValueError) and "expected" in str(error):
                raise
            raise refused from error
        raise refused

    if isinstance(made, type):
        made.__init__ = looked_at
        return made
    return looked_at


def native(values: np.ndarray) -> Tensor:
    """A tensor of an array of any byte order, of types that torch has in full; it shares memory where it can."""
    kind = values.dtype
    wider = {"u2": np.int32, "u4": np.int64, "u8": np.float64}.get(kind.str[1:])
    if kind.kind == "f" and kind.itemsize > 8:
        wider = np.float64
    values = values.astype(kind.newbyteorder("=") if wider is None else wider, copy=False)
    values = np.ascontiguousarray(values).reshape(values.shape)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nor is it written to
        return torch.from_numpy(values)


def as_tensor(value: Any, name: str = "values") -> Tensor:
    """A tensor of a tensor, an array, a number, or lists of these; what a masked array masks is NaN.

    Raises:
        WrongKind: By this name, if it is none of them.
    """
    if isinstance(value, Tensor):
        return value
    try:
        if isinstance(value, list | tuple) and any(_is_array(v) or isinstance(v, list | tuple) for v in value):
            return torch.stack([as_tensor(v, name) for v in value])
        if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
            value = value.astype(np.result_type(value.dtype, np.float32)).filled(np.nan)
        return native(np.asarray(value)) if _is_array(value) else torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise WrongKind(
            f"expected {name} as numbers: a tensor, an array, or lists of equal lengths, got {described(value)}; convert it."
        ) from error


def as_floats(value: Any, name: str = "values") -> Tensor:
    """As `as_tensor`, with whole numbers made real ones, of torch's default precision."""
    out = as_tensor(value, name)
    if out.is_complex():
        raise WrongKind(f"expected {name} as real numbers, got {out.dtype}; take real and imaginary parts as channels.")
    return out if out.is_floating_point() else out.to(torch.get_default_dtype())


def at_least(owner: str, least: float, below: float = math.inf, /, **values: float) -> None:
    """Raise a ValueError unless the named values are finite, no less than `least`, and less than `below`."""
    for name, value in values.items():
        if not least <= value < below:
            and_below = f" and < {below:g}" if below < math.inf else ""
            raise ValueError(f"{owner}: expected {name} >= {least:g}{and_below}, got {value!r}; pass such a number.")


def described(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} of {str(value.dtype).removeprefix('torch.')}, {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) < 80 and "\n" not in text else type(value).__name__


def plain(value: Any) -> Any:
    """NumPy's scalars, and arrays and tensors of no axes, as Python's numbers; everything else as it is."""
    return value.item() if isinstance(value, np.generic | np.ndarray | Tensor) and not np.ndim(value) else value


@functools.cache
def _alternatives(annotation: str) -> tuple[str, ...]:
    """The kinds between which an annotation leaves the choice."""
    parts, depth = [""], 0
    for letter in annotation.strip("'\""):
        depth += (letter == "[") - (letter == "]")
        if letter == "|" and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return tuple(_ALIASES.get(part.strip(), part.strip()) for part in parts)


def _first(kinds: Sequence[str], value: Any) -> Any:
    """The value as it is, if its class is named; else as the first kind that it fits. Arrays of xarray's become NumPy's."""
    classes = {base.__name__ for base in type(value).__mro__} - {"int", "float", "bool", "tuple", "object"}
    if not classes.isdisjoint(map(_short, kinds)):
        return value
    if _is_array(value) and hasattr(value, "ndim") and not isinstance(value, Tensor | np.ndarray):
        value = np.asarray(value)
    return next((found for kind in kinds if (found := _taken(kind, value)) is not _NO), _NO)


def _short(kind: str) -> str:
    """The name of a kind, without its module and what it holds."""
    return kind.partition("[")[0].rpartition(".")[2]


def _taken(kind: str, value: Any) -> Any:
    """The value as this kind, or _NO."""
    name, inner = _short(kind), kind.partition("[")[2].removesuffix("]")
    if name in _NUMBERS:
        number = plain(value)
        fits = isinstance(number, _NUMBERS[name]) and isinstance(number, bool) == (name == "bool") and number == number
        if fits and name == "float" and isinstance(number, Integral) and abs(number) > 2**53:
            return float(number)
        return number if fits and (name != "int" or abs(number) < 2**63) else _NO
    if name in ("Sequence", "tuple"):
        return _several(inner, value)
    if name == "Tensor" and not isinstance(value, bool):
        try:
            found = as_tensor(value)
            return found if found.dtype == torch.bool else as_floats(found)
        except WrongKind:
            return _NO
    fits = {
        "None": lambda: value is None,
        "Callable": lambda: callable(value) and not isinstance(value, type),
        "Literal": lambda: any(
            value is v or (type(value), value) == (type(v), v) for v in ast.literal_eval(f"({inner},)")
        ),
        "PathLike": lambda: isinstance(value, os.PathLike),
    }.get(name, lambda: name in _FREE)
    return value if fits() else _NO


def _several(inner: str, value: Any) -> Any:
    """A tuple whose entries are of these kinds, or _NO."""
    if isinstance(value, np.ndarray | Tensor) and np.ndim(value):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, str | bytes | Mapping | Set):
        return _NO
    kinds = inner.removesuffix(", ...")
    pair = kinds == inner and "," in kinds and "[" not in kinds
    entries = kinds.split(", ") if pair else [kinds] * len(value)
    out = tuple(_first(_alternatives(kind), entry) for kind, entry in zip(entries, value, strict=False))
    return out if len(entries) == len(value) and _NO not in out else _NO


def _words(kind: str) -> str:
    """A kind, for people."""
    name, inner = _short(kind), kind.partition("[")[2].removesuffix("]")
    if name in ("Sequence", "tuple"):
        return f"a sequence of ({inner.removesuffix(', ...')})"
    if name == "Literal":
        return inner
    return _WORDS.get(name, name)


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and not isinstance(value, np.generic | type)
