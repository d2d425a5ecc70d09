"""Measured terrain: windows of the elevation model around the Jacksboro fault, Tennessee, that matplotlib ships.

The field has 344 x 403 cells of 3 arc-seconds, rows from north to south, in whole metres above the sea (236 to 1076). It is
from NASA's Shuttle Radar Topography Mission (SRTM), in the public domain, says matplotlib's pull request 3291 of 2014. It
spans 84.078 to 84.414 degrees west and 36.160 to 36.446 north. The file's "ymin", 36.733, lies above its "ymax": one height
added, not subtracted. The summit shows it, Cross Mountain: 36.1983 N, 84.2306 W, 1077 m, and cell (297, 219). A cell is 92.7 m
high and 74.7 m wide: a degree of latitude is pi R / 180, R = 6 371 009 m, and one of longitude that times cos(latitude).

A sample is a window of w x w cells, averaged over the cells of the grid that is asked for,

    x = (elevation - mean) / scale,    mean that of the window if `centre`, else 0.

It is one small field: beside a held-out strip 120 cells wide, six windows of 96 cells lie apart from each other, and in the
strip three. Thousands of windows are as many views of these.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fnodiff.data.source import selected
from fnodiff.domain import Box, Shape
from fnodiff.expected import at_least, kinds_checked

FILE = "jacksboro_fault_dem.npz"
SHAPE = (344, 403)
_DEGREE = math.pi * 6_371_009 / 180  # metres
_STEP, _NORTH = 1 / 1200, 36.44625  # degrees
CELL = (_STEP * _DEGREE, _STEP * _DEGREE * math.cos(math.radians(_NORTH - _STEP * SHAPE[0] / 2)))
"""Height and width of a cell in metres; the width is that at the middle latitude, and 0.2 per cent off at the edges."""


@kinds_checked
class Terrain:
    """Windows of measured terrain at random places, on any grid no finer than they are.

    Window i has its corner at a place that depends on (seed, i) alone, drawn from all whole cells where the window either
    lies inside the strip (`held_out`) or does not touch it. Windows may overlap others of the same kind.

    Args:
        count: Number of windows.
        seed: Fixes the places.
        window: Side of a window in cells of the elevation model.
        held_out: Windows inside the strip, instead of windows that avoid it.
        strip: The columns (first, behind the last) held out, from north to south. The east is flat and no test for the
            rest, so it is the west by default. Windows of 96 cells are then 125 m (root mean square) about their means in
            training and 110 m held out, with mean slopes of 0.22 and 0.27 (`python -m benchmarks.physics`).
        centre: Subtract the mean elevation of each window: the same number on every grid.
        scale: Metres per unit of x.
        flip: Mirror windows in either direction at random, by (seed, i) too. No quarter turns: cells are not square.

    Attributes:
        channels: 1.
        domain: A Box with the window's height and width in metres, for slopes and wavenumbers.

    Raises:
        ValueError: If an argument is out of range, no window fits, or matplotlib was installed without its sample data.
    """

    channels = 1
    cell_averages = True
    num_classes = 0
    condition_channels = 0

    def __init__(
        self,
        count: int,
        seed: int = 0,
        *,
        window: int = 96,
        held_out: bool = False,
        strip: tuple[int, int] = (0, 120),
        centre: bool = False,
        scale: float = 1.0,
        flip: bool = False,
    ) -> None:
        if count < 1 or seed < 0 or not 0 < scale < math.inf:
            raise ValueError(
                f"Terrain: expected count >= 1, seed >= 0 and a positive scale, got {count}, {seed} and {scale}."
            )
        at_least("Terrain", 1, window=window)
        height, width = SHAPE
        first, behind = strip
        if not 0 <= first < behind <= width:
            raise ValueError(f"Terrain: expected a strip 0 <= first < last <= {width} of columns, got {strip}.")
        parts = [(first, behind)] if held_out else [(0, first), (behind, width)]
        self._left = [left for low, high in parts for left in range(low, high - window + 1)]
        if not 2 <= window <= height or not self._left:
            raise ValueError(
                f"Terrain: expected a window from 2 to {height} cells that fits in the columns "
                f"{' or '.join(f'{low} to {high}' for low, high in parts)}, got {window}; change the window or the strip."
            )
        self.count, self.seed, self.window, self.held_out, self.strip = count, seed, window, held_out, (first, behind)
        self.centre, self.scale, self.flip = centre, scale, flip
        self.domain = Box(2, (window * CELL[0], window * CELL[1]))
        elevation()

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        return f"Terrain: {self.count} windows of {self.window} x {self.window} cells{', held out' if self.held_out else ''}"

    def corner(self, index: int) -> tuple[int, int]:
        """The window's first row and column in `elevation()`.

        Raises:
            ValueError: If the index is out of range.
        """
        return self._draw(index)[:2]

    def batch(self, indices: Sequence[int], shape: Shape) -> dict[str, Tensor]:
        """Windows on one grid.

        Args:
            indices: B of them.
            shape: (height, width), each at most `window`.

        Returns:
            "x", float32 (B, 1, *shape), metres / scale: the averages over the grid's cells.

        Raises:
            ValueError: If the grid is finer than the window, or an index out of range.
        """
        shape = self.domain.check_shape(shape)
        if max(shape) > self.window:
            raise ValueError(
                f"Terrain: expected a grid of at most {self.window} x {self.window}, as averaging cannot invent detail, got "
                f"{shape}; take larger windows."
            )
        raw, windows = elevation(), []
        for index in selected("Terrain", indices, len(self)):
            top, left, *flips = self._draw(index)
            window = raw[top : top + self.window, left : left + self.window]
            windows.append(window.flip([axis for axis, turned in enumerate(flips) if turned]))
        x = torch.stack(windows)[:, None]
        if self.centre:
            x = x - x.mean((2, 3), keepdim=True)
        return {"x": self.domain.average(x, shape).float() / self.scale}

    def _draw(self, index: int) -> tuple[int, int, bool, bool]:
        (index,) = selected("Terrain", index, len(self))
        rng = np.random.default_rng([self.seed, index])
        top, place = rng.integers(SHAPE[0] - self.window + 1), rng.integers(len(self._left))
        down, across = self.flip & (rng.integers(2, size=2) > 0)
        return int(top), self._left[place], bool(down), bool(across)


@functools.cache
def elevation() -> Tensor:
    """The whole field (344, 403) in metres, float64; do not write to it.

    Raises:
        ValueError: If matplotlib lacks the file, or holds another one of this name.
    """
    from matplotlib import cbook

    try:
        values = cbook.get_sample_data(FILE)["elevation"]
    except OSError as error:
        raise ValueError(
            f"Terrain: this matplotlib came without its sample data {FILE}; install it from PyPI, whose wheels have it."
        ) from error
    if values.shape != SHAPE:
        raise ValueError(
            f"Terrain: expected {FILE} with {SHAPE} cells, got {values.shape}; install another matplotlib."
        )
    return torch.from_numpy(values.astype(np.float64))
