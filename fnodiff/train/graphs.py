"""CUDA graphs: a network's forward and backward pass on each grid, recorded once, and then started by one call.

A small batch on a fast GPU waits for Python to start hundreds of kernels. A recording starts them all at once.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#partial-network-capture
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DynamoBackend, is_compiled_module
from torch import Tensor, nn

from fnodiff.domain.constants import constants_in


class _InOrder(nn.Module):
    """A network whose conditions are given in order rather than by name, as recordings want them."""

    def __init__(self, network: nn.Module, call: Callable[..., Tensor], names: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.call, self.names = network, call, names

    def forward(self, x: Tensor, noise_level: Tensor, *conditions: Tensor) -> Tensor:
        return self.call(x, noise_level, **dict(zip(self.names, conditions, strict=True)))


class _Player:
    """What stands in for a network's forward: records at the first training call on a grid, and plays after that."""

    def __init__(self, network: nn.Module) -> None:
        self.network, self.plain = network, network.forward
        self.recordings: dict[tuple, Callable[..., Tensor]] = {}
        self.constants: list[Any] = []  # recordings read them where they are: they have to stay there
        self.waiting: set[tuple] = set()  # for their backward pass, which reads what a second play would write over

    def __call__(self, x: Tensor, noise_level: Tensor, **conditions: Tensor) -> Tensor:
        inputs = (x, noise_level, *conditions.values())
        key = tuple(conditions), tuple((tuple(v.shape), v.dtype) for v in inputs)
        training = self.network.training and torch.is_grad_enabled()
        if not training or key in self.waiting or any(v.requires_grad for v in inputs):
            return self.plain(x, noise_level, **conditions)
        if key not in self.recordings:
            self.recordings[key] = self._record(inputs, tuple(conditions))
        out = self.recordings[key](*inputs)
        self.waiting.add(key)
        out.register_hook(lambda _: self.waiting.discard(key))
        return out

    def _record(self, inputs: tuple[Tensor, ...], names: tuple[str, ...]) -> Callable[..., Tensor]:
        in_order, like = _InOrder(self.network, self.plain, names), tuple(v.detach().clone() for v in inputs)
        try:
            with constants_in(self.constants):
                return torch.cuda.make_graphed_callables(in_order, like, allow_unused_input=True)
        except RuntimeError as error:
            raise ValueError(
                f"fit: expected a network whose passes can be recorded as CUDA graphs, got {type(self.network).__name__}, at "
                f"which torch says: {str(error).splitlines()[0]}; leave cuda_graphs=True out."
            ) from error

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Tensor]:
        network = memo[id(self.network)]  # a copy has weights of its own, which no recording knows
        return type(network).forward.__get__(network)


@contextmanager
def recorded(network: nn.Module) -> Iterator[None]:
    """Within it, training calls of the network are recorded at their first time on a grid, and played again after that.

    Each grid, with each set of conditions, has memory of its own for as long. Evaluation is not recorded.
    """
    own = vars(network).get("forward")
    network.forward = _Player(network)
    try:
        with warnings.catch_warnings():  # of torch, as recordings have a stream of their own: nothing is lost by it
            warnings.filterwarnings("ignore", "The AccumulateGrad node's stream does not match")
            yield
    finally:
        del network.forward
        if own is not None:
            network.forward = own


def check_recordable(model: nn.Module, accelerator: Accelerator) -> None:
    """Raise a ValueError, with what to do, unless this model's network can be recorded in such a run."""
    network = model.network
    compiled = any(m._compiled_call_impl is not None or is_compiled_module(m) for m in model.modules())
    compiled = compiled or accelerator.state.dynamo_plugin.backend != DynamoBackend.NO
    if accelerator.device.type != "cuda":
        got, mend = f"the device {accelerator.device}", "leave cuda_graphs=True out"
    elif accelerator.num_processes > 1 or accelerator.gradient_accumulation_steps > 1:
        parts = accelerator.gradient_accumulation_steps
        got, mend = f"{accelerator.num_processes} processes and {parts} parts", "train in one process, whole batches"
    elif accelerator.mixed_precision != "no":
        got, mend = f"mixed precision {accelerator.mixed_precision}", "leave one of the two out"
    elif getattr(network, "recompute", False):
        got, mend = "one that computes its blocks again", "leave recompute out"
    elif compiled or not isinstance(network, nn.Module):
        got = "a compiled one" if compiled else type(network).__name__
        mend = "take a torch.nn.Module that is not compiled"
    else:
        return
    raise ValueError(
        f"fit: expected a network on one NVIDIA GPU, in one process and its own precision, for cuda_graphs=True, got {got}; "
        f"{mend}."
    )
