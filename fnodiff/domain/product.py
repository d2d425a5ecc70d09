"""Domains with mixed edges: periodic along some axes, between walls along others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fnodiff.domain.box import Box
from fnodiff.domain.intervals import Intervals
from fnodiff.domain.torus import Torus
from fnodiff.expected import kinds_checked


@kinds_checked
@dataclass(frozen=True)
class Product(Intervals):
    """A product of periodic axes and walled ones: a channel, a zonal belt, a layer between two plates, a duct.

    Along the axes of a `Torus` it has points i / n and Fourier modes, along those of a `Box` cell centres and cosines. Fields
    count as averages over cells, those of a periodic axis around its points, as the walls' do.

    Args:
        factors: Toruses and boxes, in the order of a field's axes; kept one for each axis. They bring their lengths.

    Raises:
        ValueError: If they are something else, have more than three axes, or all axes are periodic, or none.

    Examples:
        >>> from fnodiff import Box, Product, Torus
        >>> channel = Product([Torus(1, (2.0,)), Box(1)])  # periodic along x, 2 long; walls at y = 0 and y = 1
        >>> channel.edges, channel.lengths
        (('periodic', 'wall'), (2.0, 1.0))
        >>> channel.points((4, 2))[:, :, 0]
        tensor([[0.0000, 0.5000, 1.0000, 1.5000],
                [0.2500, 0.2500, 0.2500, 0.2500]])
        >>> Product([Torus(2), Box(1)]).dim  # between two plates
        3
    """

    factors: tuple[Intervals, ...]

    def __post_init__(self) -> None:
        given = self.factors
        if not isinstance(given, Sequence) or not all(isinstance(f, Intervals) for f in given):
            raise ValueError(
                f"Product: expected a list of toruses and boxes, got {given!r}; write such as Product([Torus(1), Box(1)])."
            )
        edges = [edge for factor in given for edge in factor.edges]
        lengths = [length for factor in given for length in factor.lengths]
        if not 2 <= len(edges) <= 3 or len(set(edges)) == 1:
            pure = {("wall",): "Box", ("periodic",): "Torus"}.get(tuple(set(edges)))
            mend = (
                "have two or three" if pure is None or len(edges) > 3 else f"write {pure}({len(edges)}, {(*lengths,)})"
            )
            raise ValueError(
                f"Product: expected two or three axes, some periodic and some walled, got {tuple(edges)}; {mend}."
            )
        self._set_axes(edges, lengths)
        ones = tuple((Torus if e == "periodic" else Box)(1, (v,)) for e, v in zip(edges, lengths, strict=True))
        object.__setattr__(self, "factors", ones)

    @property
    def dim(self) -> int:
        """Number of spatial dimensions."""
        return len(self.edges)

    def __str__(self) -> str:
        names = (f"{type(f).__name__}(1, {f.lengths})" for f in self.factors)
        return f"Product([{', '.join(names)}])"
