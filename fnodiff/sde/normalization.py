"""Data units, and the units in which diffusion runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Normalization(nn.Module):
    """Per-channel affine map between data units and the units in which diffusion runs.

    Args:
        mean: Mean per channel, (C,) or () for all.
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

    def __init__(
        self, mean: Tensor | Sequence[float] | float = 0.0, std: Tensor | Sequence[float] | float = 1.0
    ) -> None:
        super().__init__()
        mean, std = (torch.as_tensor(v, dtype=torch.get_default_dtype()) for v in (mean, std))
        if mean.shape != std.shape or mean.ndim > 1 or not bool(((std > 0) & std.isfinite() & mean.isfinite()).all()):
            raise ValueError(
                f"Normalization: expected a finite mean and a positive std, each () or (channels,), got {mean} and {std}; "
                f"a constant channel has std 0: leave it out or give it std 1."
            )
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    def forward(self, x: Tensor) -> Tensor:
        """From data units."""
        return (x - self._per_channel(self.mean, x)) / self._per_channel(self.std, x)

    def inverse(self, x: Tensor) -> Tensor:
        """To data units."""
        return self.scale(x) + self._per_channel(self.mean, x)

    def scale(self, x: Tensor) -> Tensor:
        """A difference of fields, to data units."""
        return x * self._per_channel(self.std, x)

    @staticmethod
    def _per_channel(value: Tensor, x: Tensor) -> Tensor:
        if value.ndim and value.shape[0] != x.shape[1]:
            raise ValueError(
                f"Normalization: expected fields of {value.shape[0]} channels, got shape {tuple(x.shape)}; "
                f"use the channels that the model was trained on."
            )
        return value.to(x).reshape(-1, *(1,) * (x.ndim - 2))
