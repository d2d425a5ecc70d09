"""A device without float64, as Apple's GPUs, in front of the CPU: its tensors carry real numbers, and refuse to be doubles."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")  # which, unlike mps, every build of torch can differentiate on
DOUBLES = (torch.float64, torch.complex128)


class There(Tensor):
    """A tensor on the device; `inner` has its numbers."""

    @staticmethod
    def __new__(cls, inner: Tensor, requires_grad: bool = False) -> There:
        options = {"dtype": inner.dtype, "device": DEVICE, "requires_grad": requires_grad, "strides": inner.stride()}
        return Tensor._make_wrapper_subclass(cls, inner.shape, storage_offset=inner.storage_offset(), **options)

    def __init__(self, inner: Tensor, requires_grad: bool = False) -> None:
        self.inner = inner

    def __repr__(self, **_: Any) -> str:
        return f"There({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return called(func, args, kwargs or {})


class WithoutDouble(TorchDispatchMode):
    """Within it, tensors can be made on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return called(func, args, kwargs or {})


def called(func: Any, args: tuple, kwargs: dict) -> Any:
    """An operation, on the CPU, with its result where it belongs; TypeError for doubles on the device, as torch has it."""
    flat = tree_flatten((args, kwargs))[0]
    tensors = [value for value in flat if isinstance(value, Tensor)]
    there = any(isinstance(value, There) for value in tensors)
    name = func.overloadpacket._qualified_op_name
    moved = kwargs.get("device")
    if moved is not None and torch.device(moved) == torch.device(DEVICE.type):
        kwargs, there = {**kwargs, "device": torch.device("cpu")}, True
    elif moved is not None:
        there = False
    elif there and name not in ("aten::copy_", "aten::_to_copy") and "index" not in name:
        strangers = [v for v in tensors if not isinstance(v, There) and v.ndim > 0]
        if strangers:
            raise RuntimeError(
                f"{name}: expected all tensors on one device, got {DEVICE} and cpu: {strangers[0].shape}"
            )
    if name == "aten::copy_":
        there = isinstance(args[0], There)
    inside = lambda value: value.inner if isinstance(value, There) else value  # noqa: E731
    out = func(*tree_map(inside, args), **tree_map(inside, kwargs))

    def outside(value: Any) -> Any:
        if not isinstance(value, Tensor) or not there:
            return value
        if value.dtype in DOUBLES:
            raise TypeError(f"{name}: cannot convert a tensor to {value.dtype}, as {DEVICE} has none")
        return There(value)

    if name.endswith("_") and isinstance(args[0], Tensor):
        return args[0]
    return tree_map(outside, out)


def there(module: torch.nn.Module) -> torch.nn.Module:
    """A module, its parameters and buffers moved to the device."""
    for part in module.modules():
        for name, value in list(part._parameters.items()):
            if value is not None:
                part._parameters[name] = torch.nn.Parameter(There(value.detach()), value.requires_grad)
        for name, value in list(part._buffers.items()):
            if value is not None:
                part._buffers[name] = There(value)
    return module
