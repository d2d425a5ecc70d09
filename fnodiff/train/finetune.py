"""Fine-tuning: which parameters are trained, and the DFU paper's way to a finer grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from fnodiff.data.loader import MultiResolution, Upsampled
from fnodiff.data.source import Fields
from fnodiff.expected import kinds_checked
from fnodiff.model import Model
from fnodiff.train.loop import fit
from fnodiff.train.settings import Adam

PARTS = ("spectral", "local", "norm", "attention", "embedding")
"""What a network's parameters are part of: see `freeze`."""


def freeze(
    model: torch.nn.Module, levels: Sequence[int | None] | None = None, parts: Sequence[str] | None = None
) -> list[str]:
    """Stop the training of some of a DFU's parameters (requires_grad); the others stay as they are.

    Args:
        model: A DFU, or a model with one in it: any network with `parameter_groups()` as DFU's.
        levels: Which levels, 0 the finest; None among them stands for what belongs to none (the embeddings of noise level
            and label). By default all of them and None.
        parts: Which parts of those, among "spectral", "local", "norm", "attention" and "embedding"; by default all.

    Returns:
        The names of the frozen parameters; `model.requires_grad_(True)` undoes it.

    Raises:
        ValueError: If there is no DFU in it, or a level or part is named that it does not have.

    Examples:
        >>> from fnodiff import DFU
        >>> from fnodiff.train import freeze
        >>> net = DFU.tiny(1, 1)
        >>> frozen = freeze(net, parts=["spectral"])
        >>> len(frozen), frozen[0]
        (22, 'stem.spectral.weight')
    """
    groups = {
        f"{prefix}.{name}" if prefix else name: group
        for prefix, network in _networks(model)
        for name, group in network.parameter_groups().items()
    }
    known = {level for level, _ in groups.values()}
    if not groups:
        raise ValueError(
            f"freeze: expected a model with a DFU in it, got {type(getattr(model, 'network', model)).__name__}; go on with "
            f"it by fit, or `fnodiff train --init`."
        )
    if not set(levels or ()) <= known or not set(parts or ()) <= set(PARTS):
        raise ValueError(
            f"freeze: expected levels among {sorted(known - {None})} and None, and parts among {PARTS}, got {levels} and "
            f"{parts}; leave out what should be all of them."
        )
    frozen = [
        name
        for name, (level, part) in groups.items()
        if (levels is None or level in levels) and (parts is None or part in parts)
    ]
    parameters = dict(model.named_parameters())
    for name in frozen:
        parameters[name].requires_grad_(False)
    return frozen


def _networks(model: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    return [(name, m) for name, m in model.named_modules() if hasattr(m, "parameter_groups")]


@kinds_checked(but=("model", "fields"))
def mixed_finetune(
    model: Model,
    fields: Fields,
    shape: Sequence[int],
    steps: int | None = None,
    *,
    weight: float = 0.3,
    optimizer: Adam | None = None,
    batch_size: int = 32,
    seed: int = 0,
    **options: Any,
) -> Model:
    """Mixed fine-tuning: go on training, with some batches upsampled to a grid for which there is no data.

    Upsampled fields teach coherence there, the native ones keep the detail. Frozen, as in the paper: the first level, and
    norms and spectral weights of the second and third.

    Args:
        model: A trained model with a DFU, as `fit` or `Model.from_pretrained` returned it. It is trained in place.
        fields: What it was trained on.
        shape: The finer grid.
        steps: As of `fit`; or pass minutes=.
        weight: The share of upsampled batches; the rest is shared evenly among the shapes that the model was trained on.
        optimizer: As of `fit`; with a rate of 1e-4 by default.
        batch_size: Samples per batch.
        seed: Of the order of samples and shapes.
        options: Of `fit`.

    Returns:
        As `fit`; its `training_shapes` are those of the native fields, as it has seen no detail at the finer grid.

    Raises:
        ValueError: As `fit`, `freeze` and `Upsampled`; or if the model has no training shapes, or none that `shape` holds.

    Source: Havrilla, Rojas, Liao, Tao (2024), DFU.
    """
    shape = model.sde.domain.check_shape(shape)
    native = list(model.training_shapes)
    largest = max(native, key=math.prod, default=None)
    if largest is None or shape == largest or not all(n >= m for n, m in zip(shape, largest, strict=True)):
        raise ValueError(
            f"mixed_finetune: expected a trained model and a grid finer than those it was trained on, got {native} and "
            f"{shape}; train it with fit first."
        )
    if not 0 < weight < 1:
        raise ValueError(f"mixed_finetune: expected a weight between 0 and 1, got {weight!r}; 0.3 is usual.")
    shares = [(1 - weight) / len(native)] * len(native) + [weight]
    mixed = Upsampled(fields, largest, model.sde.domain)
    data = MultiResolution(mixed, mixed.domain, [*native, shape], shares, batch_size=batch_size, seed=seed)
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    try:
        freeze(model, [0])
        freeze(model, range(1, min(3, max(net.levels for _, net in _networks(model)))), ["norm", "spectral"])
        return fit(model, data, steps, optimizer=optimizer or Adam(lr=1e-4), **options)
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trained[name])
