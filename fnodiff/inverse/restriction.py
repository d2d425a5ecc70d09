"""A field on a coarser grid."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from torch import Tensor

from fnodiff.domain import Domain
from fnodiff.expected import kinds_checked
from fnodiff.inverse.observation import Observation


@kinds_checked
class Restriction(Observation):
    """The field on a coarser grid: its cell averages where there are walls, its lowest modes on Torus (`domain.pool`).

    Args:
        shape: The coarse grid.
        values: (C, *shape) or (B, C, *shape).
        noise_std: Standard deviation of each coarse value's error.
        channels: As for `Observation`.

    Examples:
        >>> import torch
        >>> from fnodiff import Box
        >>> from fnodiff.inverse import Restriction
        >>> seen = Restriction((2,), values=torch.zeros(1, 2), noise_std=0.1)
        >>> seen(torch.tensor([[[1.0, 2.0, 3.0, 5.0]]]), Box(1))
        tensor([[[1.5000, 4.0000]]])
    """

    def __init__(self, shape: Sequence[int], values: Tensor, noise_std: float | Tensor, **channels: Any) -> None:
        super().__init__(values, noise_std, **channels)
        if isinstance(shape, Integral):
            raise ValueError(
                f"Restriction: expected the coarse grid's sides, got {shape!r}; write such as ({shape}, {shape})."
            )
        self.shape = tuple(int(n) for n in shape)
        if tuple(self.values.shape[-len(self.shape) :]) != self.shape:
            raise ValueError(
                f"Restriction: expected values (C, {', '.join(map(str, self.shape))}), got {tuple(self.values.shape)}."
            )

    def observe(self, x: Tensor, domain: Domain) -> Tensor:
        return at_grid(x, self.shape, domain)


def at_grid(x: Tensor, shape: Sequence[int], domain: Domain) -> Tensor:
    """Fields on a coarser grid, as `Restriction` sees them; what is coarser along an axis is a function all the same."""
    if len(shape) != x.ndim - 2:
        raise ValueError(
            f"expected a coarse grid of {x.ndim - 2} sides for fields {tuple(x.shape)}, got {tuple(shape)}; pass one "
            f"for each axis."
        )
    if any(n < m for n, m in zip(x.shape[2:], shape, strict=True)):
        x = domain.resample(x, [max(n, m) for n, m in zip(x.shape[2:], shape, strict=True)])
    return domain.pool(x, shape)
