"""Products of intervals: what the domains with straight axes share."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from fnodiff.domain.base import Domain, Shape


@dataclass(frozen=True)
class Product(Domain):
    """A product of intervals, whose eigenfunctions are products of waves along the axes.

    Args:
        dim: Number of spatial dimensions, 1 to 3.
        lengths: Side lengths, in the units of `points`; one per dimension, 1 by default. Square pixels on a
            non-square grid need lengths in the ratio of the grid's sides.

    Raises:
        ValueError: If `dim` is not 1, 2 or 3, or the lengths are not `dim` positive numbers.
    """

    dim: int
    lengths: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.dim, Integral) or self.dim not in (1, 2, 3):
            raise ValueError(
                f"{self._name}: expected dim 1, 2 or 3, got {self.dim!r}; pass the number of spatial axes."
            )
        lengths = (1.0,) * self.dim if self.lengths is None else tuple(float(v) for v in self.lengths)
        if len(lengths) != self.dim or not all(math.isfinite(v) and v > 0 for v in lengths):
            raise ValueError(
                f"{self._name}: expected {self.dim} positive side lengths, got {self.lengths!r}; "
                f"pass one per dimension, such as lengths={(1.0,) * self.dim}."
            )
        object.__setattr__(self, "lengths", lengths)

    @abc.abstractmethod
    def wavenumbers(self, shape: Sequence[int]) -> list[Tensor]:
        """Integer mode indices along each axis of the coefficients, float64, shaped to broadcast."""

    @abc.abstractmethod
    def basis(self, x: Tensor, shape: Sequence[int]) -> list[Tensor]:
        """Eigenfunctions at points `x` (dim, P), one factor (modes, P) per axis, as `evaluate` contracts them."""

    @property
    @abc.abstractmethod
    def _steps(self) -> tuple[float, ...]:
        """Spacing of the frequencies along each axis: eigenvalues are sum (k_i * step_i)^2."""

    def eigenvalues(self, shape: Sequence[int], *, device=None, dtype: torch.dtype | None = None) -> Tensor:
        """Eigenvalues of -Laplacian, in 1 / length^2, one per coefficient of a grid of this shape."""
        total = sum((k * step) ** 2 for k, step in zip(self.wavenumbers(shape), self._steps, strict=True))
        return total.to(device=device, dtype=dtype or torch.get_default_dtype())

    def attenuation(
        self, shape: Sequence[int], cells: Sequence[int] | None = None, *, device=None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """What averaging over the cells of a grid leaves of each mode, (*coefficient_shape): sinc(kappa h) per axis.

        kappa is in cycles per unit length and h a cell's width: sinc(k / 2n) on Box, sinc(k / n) on Torus.

        Args:
            shape: The grid whose modes are meant.
            cells: The grid whose cells average; by default the same.
        """
        factor = torch.ones((), dtype=torch.float64)
        cells = self.check_shape(shape if cells is None else cells)
        for k, step, length, n in zip(self.wavenumbers(shape), self._steps, self.lengths, cells, strict=True):
            factor = factor * torch.sinc(k * (step * length / (2 * math.pi * n)))
        return factor.to(device=device, dtype=dtype or torch.get_default_dtype())

    def shells(self, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Modes of nearly equal wavenumber, gathered: for averages over directions.

        Returns:
            (shell, wavenumber). The shell of each coefficient (*coefficient_shape), 0 for the mean; and sqrt(lambda) of the
            shells that the grid holds in full, (shells,), from 0 for the mean, equally spaced by the largest of the axes'
            first modes. Coefficients in the corners lie in shells beyond these.
        """
        k = self.eigenvalues(shape, dtype=torch.float64).sqrt()
        axes = [k[tuple(slice(None) if i == axis else 0 for i in range(k.ndim))] for axis in range(k.ndim)]
        width = max(float(axis[1:].min()) for axis in axes if axis.numel() > 1)
        count = int(min(float(axis.max()) for axis in axes) / width + 1e-9)
        return (k / width).round().long(), width * torch.arange(count + 1, dtype=torch.float64)

    def values(self, c: Tensor, points: Tensor, shape: Shape) -> Tensor:
        *first, last = self.basis(points, shape)
        values = c @ last  # (B, C, k_1, .., k_{d-1}, P)
        for factor in reversed(first):
            values = (values * factor).sum(-2)
        return values.real if values.is_complex() else values
