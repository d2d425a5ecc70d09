"""What a page to play with a model computes: one function on several grids, a picture upscaled, a field from sensors.

Plain values go in, pictures with captions come out; `fnodiff.page` shows them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import interpolate

from fnodiff.data.pixels import averaged, decode
from fnodiff.domain import Shape, grid_name
from fnodiff.inverse import MomentMatching, PointObservation
from fnodiff.model import Model
from fnodiff.sde import DDIM, ClassifierFree, Denoiser, DPMSolver, sample, upscale
from fnodiff.sde.pictures import are_pictures

Figure = tuple[str, Image.Image]
"""A caption and a picture, one pixel a grid point."""
Sensor = tuple[float, float]
"""How far down and across a picture, both from 0 to below 1."""


class Playground:
    """What the page shows of a model.

    All methods end in the arguments of `asked`: `channel`, 0 by default, the one that is shown (of pictures all are);
    `guidance`, 1 for none; `label`, -1 for none; and a number for each of the model's `condition_names`.

    Args:
        model: Of fields in two dimensions, not conditioned on a field.

    Attributes:
        pictures: Whether samples are pictures in [-1, 1], which can be upscaled here.
        classes: How many classes condition a sample.
        sizes: Points along the first axis of the grids that it was trained on, increasing; 16 and 32 if it was on none.

    Raises:
        ValueError: If the page cannot show such a model.

    Examples:
        >>> from fnodiff import DFU, EDM, Box, EDMScaling, FunctionSpaceSDE, Model, WhiteNoise
        >>> from fnodiff.playground import Playground
        >>> sde = FunctionSpaceSDE(WhiteNoise(Box(2), (16, 16)), EDM())
        >>> playground = Playground(Model(DFU.tiny(3, 3), sde, EDMScaling(), cell_averages=True))
        >>> playground.shape(24), playground.pictures, playground.classes
        ((24, 24), True, 0)
    """

    def __init__(self, model: Model) -> None:
        domain, fields = model.sde.domain, getattr(model.network, "condition_channels", 0)
        if domain.dim != 2 or fields or model.channels is None:
            got = f"one on {domain}" if domain.dim != 2 else "one of a field" if fields else "one without channels"
            raise ValueError(
                f"expected a model of fields in two dimensions, which needs no conditioning field, got {got}; the page cannot "
                f"show it, `fnodiff sample` draws its samples."
            )
        self.model, self.domain, self.pictures = model, domain, are_pictures(model)
        self.classes = int(getattr(model.network, "num_classes", 0))
        shapes = sorted(model.training_shapes, key=math.prod) or [domain.shape_of(16), domain.shape_of(32)]
        self.coarse, self.fine = shapes[0], shapes[-1]
        self.sizes = sorted({shape[0] for shape in shapes})
        self._sampled = functools.lru_cache(64)(
            self._sample
        )  # a size that is moved asks for the same coarse grids again

    def shape(self, size: int) -> Shape:
        """The grid of `size` points along the first axis, in the proportions of the finest training grid."""
        if isinstance(size, bool) or not isinstance(size, int | float) or size != int(size) or size < 4:
            raise ValueError(f"expected a size of 4 points or more, got {size!r}; choose a whole number.")
        return tuple(round(size * n / self.fine[0]) for n in self.fine)

    def resolutions(self, seed: int, size: int, *asked: float) -> list[Figure]:
        """One function on the coarsest and the finest training grid, and on the one asked for."""
        fields, trained = {}, self.model.training_shapes
        for shape in sorted({self.coarse, self.fine, self.shape(size)}, key=math.prod):
            known = "" if not trained else ", trained on" if shape in trained else ", not trained on"
            fields[grid_name(shape) + known] = self._sampled(shape, seed, *asked[1:])
        return self._figures(fields, *asked[:1])

    def upscaled(
        self, picture: str | Path | None, start: int, size: int, seed: int, count: int, *asked: float
    ) -> list[Figure]:
        """A picture file averaged to a grid of size `start`, and several samples of size `size` that fit it.

        Raises:
            ValueError: If there is no picture, it cannot be read or is too small, or the grid asked for is not finer.
        """
        small, shape, seeds = self.shape(start), self.shape(size), range(int(seed), int(seed) + int(count))
        low = self._read(picture, small)
        denoiser, given = self._asked(*asked[1:])
        solver = None if denoiser.cell_averages else DPMSolver(18)
        x = upscale(denoiser, low, shape, seeds, solver=solver, **given)
        fields = {
            f"{grid_name(small)}, given": low,
            f"{grid_name(shape)}, bicubic": interpolate(low, shape, mode="bicubic"),
        }
        fields |= {f"{grid_name(shape)}, seed {s}": x[i : i + 1] for i, s in enumerate(seeds)}
        return self._figures(fields)

    def truth(self, sensors: Sequence[Sensor], seed: int, size: int, *asked: float) -> Image.Image:
        """The sample that sensors measure, made larger, with a ring around each of them."""
        ((_, picture),) = self._figures({"": self._sampled(self.shape(size), seed, *asked[1:])}, *asked[:1])
        times = self._times(size)
        large = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
        draw = ImageDraw.Draw(large)
        for row, column in self._cells(sensors, size):
            x, y = (column + 0.5) * times, (row + 0.5) * times
            for radius, colour in ((9, "black"), (8, "white"), (5, "black")):
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=2)
        return large

    def toggled(self, sensors: Sequence[Sensor], pixel: Sequence[int], size: int) -> list[Sensor]:
        """The sensors with one more at a pixel (across, down) of `truth`, or without the one whose grid point it is on."""
        shape, times = self.shape(size), self._times(size)
        down, across = (min(i / (times * n), 1 - 1e-9) for i, n in zip(reversed(pixel), shape, strict=True))
        (cell,) = self._cells([(down, across)], size)
        others = [s for s, c in zip(sensors, self._cells(sensors, size), strict=True) if c != cell]
        return others if len(others) < len(sensors) else [*sensors, (down, across)]

    def posterior(
        self, sensors: Sequence[Sensor], seed: int, size: int, error: float, measured: int = -1, *asked: float
    ) -> list[Figure]:
        """Mean and spread of eight samples that fit what sensors measure of the sample of a seed, and two of them.

        They are samples of `MomentMatching` at 18 noise levels and 3 iterations, which takes a laptop seconds. More of both
        come nearer to the posterior.

        Args:
            sensors: Where; each stands on the grid point whose cell it is in.
            seed: Of the sample that is measured.
            size: Of the grid.
            error: Standard deviation of the sensors' errors, in those of the data.
            measured: The channel that is measured; -1 for all.
        """
        if not sensors:
            raise ValueError("expected a sensor or more, got none; click on the picture to place one.")
        shape, channel = self.shape(size), int(asked[0]) if asked else 0
        truth = self._sampled(shape, seed, *asked[1:])
        cells = torch.tensor(self._cells(sensors, size))
        points = self.domain.points(shape)[:, cells[:, 0], cells[:, 1]]
        channels = list(range(truth.shape[1])) if measured == -1 else [int(measured)]
        std = torch.as_tensor(self.model.normalization.std).expand(truth.shape[1])[channels] * self.model.sigma_data
        values = self.domain.evaluate(truth, points)[0, channels]
        seen = PointObservation(points, values, error * std[:, None], channels=channels)
        denoiser, given = self._asked(*asked[1:])
        fitting = MomentMatching(denoiser, seen, iterations=3)
        x = sample(fitting, shape, range(1000, 1008), solver=DDIM(18, eta=1.0), **given)
        spread = (x if self.pictures else x[:, [channel]]).var(0).mean(0).sqrt()
        top, fields = float(spread.max()), {"mean": x.mean(0, keepdim=True), "a sample": x[:1], "another": x[1:2]}
        mean, *others = self._figures(fields, channel, truth)
        return [mean, (f"spread, 0 to {top:.2g}", _coloured(spread / (top or 1.0), "inferno")), *others]

    # ---- parts of these -------------------------------------------------------------------------------------------

    def _asked(self, guidance: float = 1.0, label: int = -1, *numbers: float) -> tuple[Denoiser, dict[str, Any]]:
        """The denoiser, guided if asked to, and the conditions that it has to be given."""
        if len(numbers) != len(self.model.condition_names) or not -1 <= label < self.classes:
            raise ValueError(
                f"expected a label from -1 to {self.classes - 1} and numbers for {self.model.condition_names}, got {label} and "
                f"{numbers}; choose others."
            )
        given: dict[str, Any] = {"label": int(label)} if self.classes else {}
        if numbers:
            given["condition"] = [math.nan if number is None else float(number) for number in numbers]
        guided = bool(given) and guidance != 1
        return ClassifierFree(self.model, guidance) if guided else self.model, given

    def _sample(self, shape: Shape, seed: int, *asked: float) -> Tensor:
        denoiser, given = self._asked(*asked)
        return sample(denoiser, shape, [seed], **given)

    def _cells(self, sensors: Sequence[Sensor], size: int) -> list[tuple[int, ...]]:
        """The grid points, by row and column, in whose cells sensors are."""
        return [tuple(int(part * n) for part, n in zip(s, self.shape(size), strict=True)) for s in sensors]

    def _times(self, size: int) -> int:
        """How many times as large as its grid `truth` is."""
        return -(-384 // self.shape(size)[1])

    def _read(self, path: str | Path | None, shape: Shape) -> Tensor:
        """A picture (1, C, *shape), cropped at its centre and averaged over the grid's cells."""
        if not self.pictures:
            raise ValueError(
                f"expected a model of pictures, got one on {self.domain}; it cannot upscale a picture file."
            )
        if path is None:
            raise ValueError("expected a picture, got none; drop one on the page.")
        try:
            levels = torch.from_numpy(decode(Path(path).read_bytes(), self.model.channels)[0])
            return averaged(levels, shape)[None]
        except ValueError as error:
            raise ValueError(
                f"expected a picture of at least {grid_name(shape)} pixels; the one on the page: {error}."
            ) from error

    def _figures(self, fields: Mapping[str, Tensor], channel: int = 0, like: Tensor | None = None) -> list[Figure]:
        """Fields (1, C, *shape) by caption as pictures: colours as they are, else one scale for all, or that of `like`."""
        if self.pictures:
            levels = {name: (x[0].clamp(-1, 1) + 1) / 2 for name, x in fields.items()}
            return [(name, Image.fromarray(_bytes(x.movedim(0, -1).numpy()).squeeze())) for name, x in levels.items()]
        shown = {name: x[0, channel] for name, x in fields.items()}
        span = torch.cat([x.flatten() for x in shown.values()]) if like is None else like[0, channel]
        low, high = float(span.min()), float(span.max())
        scaled = {name: (x - low) / ((high - low) or 1.0) for name, x in shown.items()}
        return [
            (f"{name}, colours from {low:.3g} to {high:.3g}", _coloured(x, "viridis")) for name, x in scaled.items()
        ]


def _bytes(x: np.ndarray) -> np.ndarray:
    return (255 * x).round().astype(np.uint8)


def _coloured(x: Tensor, name: str) -> Image.Image:
    """A field (height, width) of 0 to 1 in the colours of a map of matplotlib's."""
    return Image.fromarray(_bytes(matplotlib.colormaps[name](x.numpy())[..., :3]))
