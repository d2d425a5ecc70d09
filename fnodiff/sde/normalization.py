"""Data units, and the units in which diffusion runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fnodiff.domain import Domain, in_double
from fnodiff.expected import kinds_checked


@kinds_checked
@dataclass(frozen=True)
class Normalization:
    """Per-channel affine map between data units and the units in which diffusion runs.

    Mean and std are Python floats, and the map is computed in the precision of the field that it is given: a pressure of
    101,325 Pa loses nothing, whatever the precision of the model. Back in data units, fields are float64 where float32 would
    round away more than 1e-4 of the std, as of that pressure with ripples of 0.02 Pa.

    Args:
        mean: Mean per channel, or one number for all: a float, a list, an array or a tensor.
        std: Standard deviation per channel, likewise; what data are divided by.

    Raises:
        ValueError: If the shapes differ, have more than one axis, or a std is not positive.

    Examples:
        >>> import torch
        >>> from fnodiff.sde import Normalization
        >>> units = Normalization(mean=[10.0], std=[2.0])
        >>> units(torch.tensor([[[8.0, 10.0, 14.0]]]))
        tensor([[[-1.,  0.,  2.]]])
        >>> units.inverse(torch.tensor([[[-1.0, 0.0, 2.0]]]))
        tensor([[[ 8., 10., 14.]]])
    """

    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        mean, std = _plain(self.mean), _plain(self.std)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)
        means, stds = (v if isinstance(v, tuple) else (v,) for v in (mean, std))
        same = isinstance(mean, tuple) == isinstance(std, tuple) and len(means) == len(stds)
        if not same or not all(math.isfinite(m) and 1e-30 <= s < math.inf for m, s in zip(means, stds, strict=True)):
            raise ValueError(
                f"Normalization: expected a finite mean and a positive std, 1e-30 or more, each one number or one per "
                f"channel, got {mean} and {std}; a constant channel has std 0: leave it out or give it std 1."
            )

    def __call__(self, x: Tensor) -> Tensor:
        """From data units."""
        return (x - _per_channel(self.mean, x)) / _per_channel(self.std, x)

    def inverse(self, x: Tensor) -> Tensor:
        """To data units, in float64 where these need it; on the CPU where the device of x has none."""
        if x.dtype != torch.float64 and self._needs_double:
            x = in_double(x)
        return self.scale(x) + _per_channel(self.mean, x)

    @property
    def _needs_double(self) -> bool:
        means, stds = (v if isinstance(v, tuple) else (v,) for v in (self.mean, self.std))
        return any(abs(m) * 2.0**-24 > 1e-4 * s for m, s in zip(means, stds, strict=True))

    def scale(self, x: Tensor) -> Tensor:
        """A difference of fields, to data units."""
        return x * _per_channel(self.std, x)


def _plain(value: Tensor | np.ndarray | Sequence[float] | float) -> float | tuple[float, ...]:
    """A number, or a tuple of numbers."""
    array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, dtype=np.float64)
    if array.ndim > 1:
        raise ValueError(
            f"Normalization: expected one number or one per channel, got shape {array.shape}; average over the other axes."
        )
    return float(array) if array.ndim == 0 else tuple(array.tolist())


def _per_channel(value: float | tuple[float, ...], x: Tensor) -> Tensor | float:
    if not isinstance(value, tuple):
        return value
    if x.ndim < 2 or len(value) != x.shape[1]:
        raise ValueError(
            f"Normalization: expected {len(value)} channels, got shape {tuple(x.shape)}; use the channels that the model was "
            f"trained on."
        )
    return torch.tensor(value, dtype=x.dtype, device=x.device).reshape(-1, *(1,) * (x.ndim - 2))


class Batches(Protocol):
    """Training batches on a domain, by step: `fnodiff.data.MultiResolution`, or your own."""

    domain: Domain

    def __getitem__(self, step: int) -> Mapping[str, Tensor]:
        """{"x": (B, C, *spatial), ...}, on one grid."""


def measure_normalization(data: Batches, std: float = 1.0, *, key: str = "x", batches: int = 16) -> Normalization:
    """The per-channel normalisation under which the first batches, by area, have mean 0 and standard deviation `std`.

    Args:
        data: What is trained on; missing values (those outside a batch's "mask") do not count.
        std: Of the normalised data.
        key: "x", or "field" for a conditioning field, or "condition" for numbers (B, K).
        batches: How many.

    Raises:
        ValueError: If a channel is constant, has no measured values, or has values that are not finite.

    Examples:
        >>> import torch
        >>> from fnodiff import Torus
        >>> from fnodiff.data import ArrayFields, MultiResolution
        >>> from fnodiff.sde import measure_normalization
        >>> x = torch.tensor([0.0, 2.0, 4.0, 6.0]).repeat(8, 1, 4)
        >>> data = MultiResolution(ArrayFields(x, domain=Torus(1)), Torus(1), shapes=[16], batch_size=8)
        >>> measured = measure_normalization(data, std=0.5, batches=4)
        >>> measured.mean, round(measured.std[0], 3)
        ((3.0,), 4.472)
    """
    moments, shift, rounding = [], None, 0.0
    for step in range(batches):
        batch = data[step]
        x = batch[key].double()
        weight = torch.ones_like(x)
        if key == "x" and "mask" in batch:
            weight = (batch["mask"] > 0).expand_as(x).double()
            x = torch.where(weight > 0, x, 0.0)
        if not data.domain.uniform and x.ndim > 2:  # points stand for areas of different size
            weight = weight * data.domain.weights(x.shape[2:], dtype=x.dtype) * x.shape[2:].numel()
        if not bool(x.isfinite().all()):
            raise ValueError(
                f"expected finite values of {key}, got NaN or infinite ones in batch {step}; mend the data, or give the "
                f'batches a "mask" that is 0 where x is missing.'
            )
        if shift is None:  # near the mean, about which little is lost
            shift = (weight * x).transpose(0, 1).flatten(1).sum(1) / weight.transpose(0, 1).flatten(1).sum(1).clamp(
                min=1
            )
        away = x - shift.reshape(-1, *(1,) * (x.ndim - 2))
        moments.append(torch.stack([(weight * away**power).transpose(0, 1).flatten(1).mean(1) for power in range(3)]))
        rounding = max(rounding, torch.finfo(batch[key].dtype).eps)
    measured, first, second = torch.stack(moments).mean(0)
    if not bool((measured > 0).all()):
        raise ValueError(
            f"expected measured values in every channel of {key}, got shares {measured.tolist()} of them; drop the others."
        )
    mean = shift + first / measured
    spread = (second / measured - (first / measured).square()).clamp(min=0).sqrt()
    if not bool((spread > rounding * mean.abs()).all()):
        raise ValueError(
            f"expected every channel of {key} to vary, got standard deviations {spread.tolist()}; drop the constant ones."
        )
    return Normalization(mean, spread / std)
