"""What is measured on the data before training."""

from __future__ import annotations

import torch

from fnodiff.data.loader import MultiResolution
from fnodiff.sde import Normalization


def measure_normalization(
    data: MultiResolution, std: float = 1.0, *, key: str = "x", batches: int = 16
) -> Normalization:
    """The per-channel normalisation under which the first batches, by area, have mean 0 and standard deviation `std`.

    Args:
        data: What is trained on; missing values (those outside a batch's "mask") do not count.
        std: Of the normalised data.
        key: "x" or "field".
        batches: How many.

    Raises:
        ValueError: If a channel is constant.

    Examples:
        >>> from fnodiff import Box
        >>> from fnodiff.data import Faces, MultiResolution
        >>> from fnodiff.train import measure_normalization
        >>> measured = measure_normalization(MultiResolution(Faces(64), Box(2), [16], batch_size=16), std=0.5, batches=4)
        >>> measured.mean.round(decimals=2), measured.std.round(decimals=2)
        (tensor([ 0.0100, -0.0800, -0.1500]), tensor([0.7200, 0.7800, 0.7700]))
    """
    moments = []
    for step in range(batches):
        batch = data[step]
        x = batch[key].double()
        weight = torch.ones_like(x)
        if key == "x" and "mask" in batch:
            weight = (batch["mask"] > 0).expand_as(x).double()
            x = torch.where(weight > 0, x, 0.0)
        if not data.domain.uniform:  # points stand for areas of different size
            weight = weight * data.domain.weights(x.shape[2:], dtype=x.dtype) * x.shape[2:].numel()
        moments.append(torch.stack([(weight * x**power).transpose(0, 1).flatten(1).mean(1) for power in range(3)]))
    measured, first, second = torch.stack(moments).mean(0)
    if not bool((measured > 0).all()):
        raise ValueError(
            f"expected measured values in every channel of {key}, got shares {measured.tolist()} of them; drop the others."
        )
    mean = first / measured
    spread = (second / measured - mean.square()).clamp(min=0).sqrt()
    if not bool((spread > 1e-7 * mean.abs()).all()):
        raise ValueError(
            f"expected every channel of {key} to vary, got standard deviations {spread.tolist()}; drop the constant ones."
        )
    return Normalization(mean.float(), (spread / std).float())
