"""Weights: their moving average, and how processes share them out (FSDP)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils._pytree import tree_map

from fnodiff.expected import kinds_checked


@kinds_checked
class MovingAverage:
    """An exponential moving average of a model's weights; of weights that are shared out, each process keeps its share.

    Args:
        model: The model whose weights are averaged. Make the average before the weights are shared out among processes.
        device: Where the average is kept.
    """

    def __init__(self, model: nn.Module, device: torch.device | str = "cpu") -> None:
        try:
            device = torch.empty(0, device=device).device
        except RuntimeError as error:
            raise ValueError(f'MovingAverage: expected a device such as "cpu", got {device!r}.') from error
        self._model = copy.deepcopy(model).eval().requires_grad_(False).to(device)
        for part in self._model.modules():  # half precision would round the small changes of an average away
            for name, weight in part._parameters.items():
                if weight is not None and weight.dtype in (torch.float16, torch.bfloat16):
                    part._parameters[name] = nn.Parameter(weight.float(), False)
        self._weights = list(self._model.parameters())

    def follow(self, model: nn.Module) -> None:
        """Begin anew from these weights, which may be shared out by now."""
        if is_shared_out(model):
            self._weights = [p.detach().clone() for p in model.parameters()]
            self._model.cpu()
        else:
            self._model.load_state_dict(model.state_dict())

    @torch.no_grad()
    def update(self, model: nn.Module, decay: float) -> None:
        """ema <- decay ema + (1 - decay) weights; buffers are copied.

        Raises:
            ValueError: If the decay is not from 0 to 1.
        """
        if not 0 <= decay <= 1:
            raise ValueError(f"MovingAverage: expected decay from 0 to 1, got {decay!r}; 0.999 is usual.")
        now = [p.to(w.dtype) for p, w in zip(model.parameters(), self._weights, strict=True)]
        get_ema_multi_avg_fn(decay)(self._weights, now, None)
        for average, buffer in zip(self._model.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)

    @torch.no_grad()
    def model(self) -> nn.Module:
        """The averaged model, whole: the same object at each call, and all processes have to call."""
        for whole, weight in zip(self._model.parameters(), self._weights, strict=True):
            if isinstance(weight, DTensor):
                whole.copy_(weight.full_tensor())
        return self._model

    @torch.no_grad()
    def load_state_dict(self, tensors: dict[str, torch.Tensor]) -> None:
        """Go on from a whole average."""
        self._model.load_state_dict(tensors)
        for whole, weight in zip(self._model.parameters(), self._weights, strict=True):
            if isinstance(weight, DTensor):
                weight.copy_(placed(whole, weight))


def share_out(loss: nn.Module, accelerator: Accelerator) -> None:
    """Leave each process its share of every weight, by torch's FSDP2: a block's are gathered when it runs.

    All begin with the first process' weights. Spectral weights are stored in the order of their indices then, as FSDP asks,
    rather than with the modes outermost, which is faster.

    Args:
        loss: With the model in it; what is called.
        accelerator: Of several processes.

    Raises:
        ValueError: If there is one process, or weights are factorised or those of the sphere.
    """
    if accelerator.num_processes < 2:
        raise ValueError(
            "fit: expected several processes to share the weights out among, got one; start the program with torchrun or "
            "accelerate launch, or leave shard=True out."
        )
    own = [
        f"{name} ({type(m).__name__})"
        for name, m in loss.named_modules()
        if m._parameters and type(m).__setattr__ is not nn.Module.__setattr__
    ]
    if own:
        raise ValueError(
            f"fit: expected weights that FSDP can share out, got {', '.join(own[:3])} ({len(own)} in all), which set their "
            f"own; leave the factorization dense, or shard=True out."
        )
    loss.to(accelerator.device)
    for tensor in (*loss.parameters(), *loss.buffers()):
        tensor.data = broadcast(tensor.data.contiguous())
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    lists = [m for m in loss.modules() if isinstance(m, nn.ModuleList)]
    for block in (block for blocks in reversed(lists) for block in blocks):  # inner ones first
        if not isinstance(block, nn.ModuleList) and any(True for _ in block.parameters()):
            fully_shard(block, mesh=mesh)
    fully_shard(loss, mesh=mesh)


def is_shared_out(module: nn.Module) -> bool:
    """Whether processes share a module's weights."""
    return any(isinstance(p, DTensor) for p in module.parameters())


def whole(tree: Any) -> Any:
    """Tensors in any container, each put together from its shares; all processes have to call."""
    return tree_map(lambda v: v.full_tensor() if isinstance(v, DTensor) else v, tree)


def placed(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor, shared out and with strides as another one of its shape; fused Adam looks at memory, not at strides."""
    if not isinstance(like, DTensor):
        return torch.empty_like(like, dtype=value.dtype, device=value.device).copy_(value)
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
