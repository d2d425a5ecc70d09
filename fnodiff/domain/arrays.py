"""Numbers as people have them: tensors, NumPy arrays of any byte order and strides, lists of these, plain numbers."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

F = TypeVar("F", bound=Callable)
WITHOUT_DOUBLE = ("mps",)
"""Kinds of devices without float64."""


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
        ValueError: By this name, if it is none of them.
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
        got = " ".join(repr(value).split())
        got = got if len(got) < 80 else f"{got[:76]} ..."
        raise ValueError(
            f"expected {name} as numbers: a tensor, an array, or lists of equal lengths, got {got}; convert it."
        ) from error


def as_floats(value: Any, name: str = "values") -> Tensor:
    """As `as_tensor`, with whole numbers made real ones, of torch's default precision."""
    out = as_tensor(value, name)
    if out.is_complex():
        raise ValueError(
            f"expected {name} as real numbers, got {out.dtype}; take real and imaginary parts as channels."
        )
    return out if out.is_floating_point() else out.to(torch.get_default_dtype())


def has_double(device: torch.device) -> bool:
    """Whether a device computes in float64."""
    return device.type not in WITHOUT_DOUBLE


def in_double(x: Tensor) -> Tensor:
    """x in float64: where it is, or on the CPU if its device has none."""
    return x.double() if has_double(x.device) else x.cpu().double()


def on_device(x: Tensor, device: torch.device) -> Tensor:
    """x, such as times in float64, on a device, or on the CPU if that has no float64."""
    return x.to(device) if has_double(device) else x.cpu()


def moved(x: Tensor, device: torch.device) -> Tensor:
    """x on a device, as float32 if it is float64 and the device has none."""
    return (x.float() if x.dtype == torch.float64 and not has_double(device) else x).to(device)


def takes_arrays(function: F) -> F:
    """Make a function of tensors one of arrays, and of lists of arrays and tensors, too."""

    def tensor(value: Any) -> Any:
        listed = isinstance(value, list | tuple) and len(value) > 0 and all(map(_is_array, value))
        return as_floats(value) if listed or (_is_array(value) and not isinstance(value, Tensor)) else value

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*map(tensor, args), **{name: tensor(value) for name, value in kwargs.items()})

    return call


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and not isinstance(value, np.generic | type)
