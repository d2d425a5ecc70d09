"""The periodic box."""

from __future__ import annotations

from dataclasses import dataclass

from fnodiff.domain.intervals import Intervals
from fnodiff.expected import kinds_checked


@kinds_checked
@dataclass(frozen=True)
class Torus(Intervals):
    """The periodic box; points i / n and the Fourier basis.

    Coefficients are `rfftn(norm="forward")` without an even grid's Nyquist frequency: complex, in FFT order
    (0, 1, .., K, -K, .., -1) with K = (n - 1) // 2 on all axes but the last, which holds 0 .. K.

    Args:
        dim: Number of spatial dimensions, 1 to 3.
        lengths: Side lengths, in the units of `points`; one per dimension, 1 by default. Square pixels on a
            non-square grid need lengths in the ratio of the grid's sides.

    Raises:
        ValueError: If `dim` is not 1, 2 or 3, or the lengths are not `dim` positive numbers.

    Examples:
        >>> import torch
        >>> from fnodiff import Torus
        >>> torus = Torus(1)
        >>> x = (2 * torch.pi * torus.points((8,))[None]).cos()
        >>> torus.analyze(x).abs().round(decimals=3)
        tensor([[[0.0000, 0.5000, 0.0000, 0.0000]]])
    """

    dim: int
    lengths: tuple[float, ...] | float | None = None

    def __post_init__(self) -> None:
        self._set_axes(("periodic",) * self._check_dim(self.dim), self.lengths)
