"""The box with edges."""

from __future__ import annotations

from dataclasses import dataclass

from fnodiff.domain.intervals import Intervals
from fnodiff.expected import kinds_checked


@kinds_checked
@dataclass(frozen=True)
class Box(Intervals):
    """The box with zero slope at its edges; cell centres (i + 1/2) / n and the cosine basis.

    Coefficients are real, k = 0 .. n - 1 on each axis (the type II cosine transform of the field, which is the Fourier
    transform of the field reflected at its edges with the edge repeated).

    Args:
        dim: Number of spatial dimensions, 1 to 3.
        lengths: Side lengths, in the units of `points`; one per dimension, 1 by default. Square pixels on a
            non-square grid need lengths in the ratio of the grid's sides.

    Raises:
        ValueError: If `dim` is not 1, 2 or 3, or the lengths are not `dim` positive numbers.

    Examples:
        >>> from fnodiff import Box
        >>> Box(2).points((2, 3))[1]
        tensor([[0.1667, 0.5000, 0.8333],
                [0.1667, 0.5000, 0.8333]])
        >>> Box(1, lengths=(2.0,)).points((4,))
        tensor([[0.2500, 0.7500, 1.2500, 1.7500]])
    """

    dim: int
    lengths: tuple[float, ...] | float | None = None

    @property
    def pictures(self) -> bool:
        """Whether fields on it can be pictures: in two dimensions."""
        return self.dim == 2

    def __post_init__(self) -> None:
        self._set_axes(("wall",) * self._check_dim(self.dim), self.lengths)
