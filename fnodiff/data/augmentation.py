"""Augmentation that does not leak: fields under maps of their domain, with the numbers of the map given to the network.

A sample f becomes f o g^-1 for a random map g of the domain onto itself, and the network is given the parameters of g. At
sampling they are left out, which stands for the identity, so samples follow the law of the data as they are.

    axis                 maps
    between walls        mirrored; shifted, turned and scaled, with the field reflected at the walls
    periodic             mirrored; shifted by any part of the period
    sphere               mirrored north to south, mirrored east to west, turned about the poles

Source: Karras, Aittala, Aila, Laine (2022), Elucidating the design space of diffusion-based generative models, appendix F.2;
Karras, Aittala, Hellsten, Laine, Lehtinen, Aila (2020), Training generative adversarial networks with limited data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fnodiff.domain import Domain
from fnodiff.expected import kinds_checked


@kinds_checked
@dataclass(frozen=True)
class Augmentation:
    """Random maps of a domain onto itself: `MultiResolution(..., augmentation=Augmentation())`.

    Each map that the domain has is applied with the same probability, independently of the others. The network sees its
    parameters, so a map need not leave the law as it is: faces are not symmetric from top to bottom, and no sample will be
    upside down.

    Args:
        probability: Of each map. 0.12 is EDM's for faces.
        mirror: Mirror each axis.
        shift: Along walls, the standard deviation of the shift, in the axis' length; along periodic axes any shift is as
            likely. 0 for none on either.
        turn: Between two walls, the largest angle in degrees, either way; 0 for none.
        scale: Between walls, the standard deviation of log2 of the scale; 0 for none.

    Raises:
        ValueError: If a number is out of range.

    Examples:
        >>> import numpy as np, torch
        >>> from fnodiff import Box
        >>> from fnodiff.data import Augmentation
        >>> augmentation, x = Augmentation(probability=1.0), torch.randn(3, 16, 16)
        >>> y, numbers = augmentation(x, Box(2), np.random.default_rng(0))
        >>> y.shape, augmentation.count(Box(2)), numbers.shape
        (torch.Size([3, 16, 16]), 7, torch.Size([7]))
    """

    probability: float = 0.12
    mirror: bool = True
    shift: float = 0.125
    turn: float = 15.0
    scale: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.probability <= 1:
            raise ValueError(f"Augmentation: expected probability in (0, 1], got {self.probability!r}; 0.12 is usual.")
        if not all(0 <= v < math.inf for v in (self.shift, self.turn, self.scale)) or self.turn > 180:
            raise ValueError(
                f"Augmentation: expected shift >= 0, turn from 0 to 180 degrees and scale >= 0, got {self.shift!r}, "
                f"{self.turn!r} and {self.scale!r}; leave them out for the usual ones."
            )

    def names(self, domain: Domain) -> tuple[str, ...]:
        """The parameters that the network is given on a domain, one name for each."""
        names: list[str] = []
        for axis, edge in enumerate(domain.edges):
            if self.mirror:
                names.append(f"mirror {axis}")
            if self.shift and edge == "wall":
                names.append(f"shift {axis}")
            if self.shift and edge == "periodic":
                names += [f"cos shift {axis} - 1", f"sin shift {axis}"]
        if self.turn and _turns(domain):
            names += ["cos turn - 1", "sin turn"]
        if self.scale and _walled(domain):
            names.append("scale")
        return tuple(names)

    def count(self, domain: Domain) -> int:
        """How many parameters that are."""
        return len(self.names(domain))

    @property
    def mirrors_only(self) -> bool:
        """Whether values are only moved from point to point, as a mask's can be."""
        return not (self.shift or self.turn or self.scale)

    def __call__(
        self, x: Tensor, domain: Domain, rng: np.random.Generator, others: tuple[Tensor, ...] = ()
    ) -> tuple[Tensor, ...]:
        """A sample (C, *shape) under a random map.

        Args:
            x: The sample.
            domain: What it is a function on.
            rng: Draws the map; the same numbers are drawn whatever the grid.
            others: Further fields (C, *any) that go the same way, such as a conditioning field.

        Returns:
            The sample, of the same shape, the parameters of the map, float32 (count,), and the other fields.
        """
        dim, edges, lengths = domain.dim, domain.edges, domain.lengths
        happens, normal, uniform = rng.random(2 * dim + 2), rng.standard_normal(dim + 1), rng.random(dim + 1)
        happens, given = happens < self.probability, dict.fromkeys(self.names(domain), 0.0)
        mirrored, shifts = [], [0.0] * dim
        for axis, edge in enumerate(edges):
            if self.mirror and happens[axis]:
                mirrored.append(axis)
                given[f"mirror {axis}"] = 1.0
            if self.shift and happens[dim + axis] and edge == "wall":
                shifts[axis] = self.shift * normal[axis] * lengths[axis]
                given[f"shift {axis}"] = normal[axis]
            if self.shift and happens[dim + axis] and edge == "periodic":
                shifts[axis], angle = uniform[axis] * lengths[axis], 2 * math.pi * uniform[axis]
                given[f"cos shift {axis} - 1"], given[f"sin shift {axis}"] = math.cos(angle) - 1, math.sin(angle)
        angle, factor = 0.0, 1.0
        if self.turn and _turns(domain) and happens[2 * dim]:
            angle = math.radians(self.turn) * (2 * uniform[dim] - 1)
            given["cos turn - 1"], given["sin turn"] = math.cos(angle) - 1, math.sin(angle)
        if self.scale and _walled(domain) and happens[2 * dim + 1]:
            factor, given["scale"] = 2 ** (self.scale * normal[dim]), normal[dim]

        def moved(field: Tensor) -> Tensor:
            for axis in mirrored:
                field = field.flip(axis + 1)
                if edges[axis] == "periodic":  # point 0 stays where it is
                    field = field.roll(1, axis + 1)
            if any(shifts) or angle or factor != 1:
                places = _back(domain, tuple(field.shape[1:]), shifts, angle, factor)
                field = domain.evaluate(field[None], places)[0]
            return field

        return moved(x), torch.tensor(list(given.values()), dtype=torch.float32), *map(moved, others)


def _walled(domain: Domain) -> bool:
    return all(edge == "wall" for edge in domain.edges)


def _turns(domain: Domain) -> bool:
    return domain.dim == 2 and _walled(domain)


def _back(domain: Domain, shape: tuple[int, ...], shifts: list[float], angle: float, factor: float) -> Tensor:
    """Where the values of a grid's points come from, (dim, *shape): g^-1, reflected at the walls."""
    points = domain.points(shape, dtype=torch.float64)
    moved = [p - s for p, s in zip(points, shifts, strict=True)]
    if angle or factor != 1:  # about the centre
        centred = [p - length / 2 for p, length in zip(moved, domain.lengths, strict=True)]
        if angle:
            cos, sin = math.cos(angle), math.sin(angle)
            centred = [cos * centred[0] + sin * centred[1], cos * centred[1] - sin * centred[0]]
        moved = [p / factor + length / 2 for p, length in zip(centred, domain.lengths, strict=True)]
    for axis, (edge, length) in enumerate(zip(domain.edges, domain.lengths, strict=True)):
        if edge == "wall":
            there = moved[axis].remainder(2 * length)
            moved[axis] = torch.minimum(there, 2 * length - there).clamp(0, length)
    return torch.stack(moved)
