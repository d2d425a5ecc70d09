"""Drawn functions: a disc above an edge, in colours of their own, seen as averages over the cells of any grid."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path

import torch
from torch import Tensor

from fnodiff.data import write_fields


def cover(distance: Tensor, side: float) -> Tensor:
    """The share of each cell that lies where `distance` to a line is positive; of a line along the grid exactly."""
    return (distance / side + 0.5).clamp(0, 1)


class Drawn:
    """`count` pictures (3, n, m) from -1 to 1; the same index is the same picture everywhere."""

    channels, cell_averages, num_classes, condition_channels = 3, True, 0, 0

    def __init__(self, count: int, seed: int = 0) -> None:
        random = torch.rand(count, 16, generator=torch.Generator().manual_seed(seed))
        self.place, self.colours = random[:, :4], 2 * random[:, 4:13].reshape(count, 3, 3, 1, 1) - 1

    def __len__(self) -> int:
        return len(self.place)

    def batch(self, indices: Sequence[int], shape: tuple[int, int] | int) -> dict[str, Tensor]:
        """{"x": (B, 3, *shape)}."""
        n, m = (shape, shape) if isinstance(shape, Integral) else shape
        y, x = torch.meshgrid((torch.arange(n) + 0.5) / n, (torch.arange(m) + 0.5) / m, indexing="ij")
        across, down, radius, ground = self.place[list(indices)].T[..., None, None]
        disc = 0.1 + 0.2 * radius - torch.hypot(x - 0.3 - 0.4 * across, y - 0.3 - 0.2 * down)
        out, disc_colour, edge_colour = self.colours[list(indices)].unbind(1)
        for share, colour in ((disc, disc_colour), (y - 0.6 - 0.2 * ground, edge_colour)):
            out = out + cover(share, 1 / n)[:, None] * (colour - out)
        return {"x": out}


def written(path: Path, count: int, sizes: Sequence[int], seed: int = 0) -> Path:
    """An .h5 of drawn functions."""
    about = {"source": "tests/drawn.py", "licence": "MIT", "grid": "cell averages"}
    shapes = [(n, n) for n in sizes]
    write_fields(path, Drawn(count, seed), shapes, attributes=about, dtype="float32", progress=False)
    return path
