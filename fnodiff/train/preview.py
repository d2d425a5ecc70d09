"""Samples to look at while a model is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import matplotlib
import numpy as np
import torch
from torch import Tensor

from fnodiff.domain import Shape, grid_name
from fnodiff.expected import kinds_checked
from fnodiff.sde import Denoiser, Plan, Solver, sample
from fnodiff.sde.pictures import are_pictures


@kinds_checked
@dataclass(frozen=True)
class Preview:
    """The same seeds, sampled on several grids every some steps, as pictures for accelerate's trackers.

    Args:
        shapes: (height, width) of each picture's samples, or an int for both; those of a grid that the model has not seen as
            well.
        seeds: A column of each picture.
        every: Steps between two; the last step of a run has one too.
        solver, plan: As of `sample`.
        condition: What `sample` needs beside, a row for each seed: label=..., field=....
        batch: Samples at a time.

    Raises:
        ValueError: If a shape is not (height, width), or there is nothing to draw.

    Examples:
        >>> from fnodiff import DFU, EDM, Box, DPMSolver, EDMScaling, FunctionSpaceSDE, Model, WhiteNoise
        >>> from fnodiff.train import Preview
        >>> sde = FunctionSpaceSDE(WhiteNoise(Box(2), (16, 16)), EDM())
        >>> preview = Preview([(8, 8), (16, 16)], seeds=range(4), solver=DPMSolver(2))
        >>> pictures = preview.draw(Model(DFU.tiny(3, 3), sde, EDMScaling()).eval())
        >>> {name: picture.shape for name, picture in pictures.items()}
        {'samples/8x8': (8, 32, 3), 'samples/16x16': (16, 64, 3)}
    """

    shapes: Sequence[Shape | int]
    seeds: Sequence[int] = range(8)
    every: int = 1000
    solver: Solver | None = None
    plan: Plan | None = None
    condition: dict[str, Tensor] = field(default_factory=dict)
    batch: int = 8

    def __post_init__(self) -> None:
        grids = [(int(grid), int(grid)) if isinstance(grid, Integral) else grid for grid in self.shapes]
        object.__setattr__(self, "shapes", grids)
        if not self.shapes or any(len(shape) != 2 or min(shape) < 1 for shape in self.shapes):
            raise ValueError(
                f"Preview: expected shapes (height, width), got {list(self.shapes)}; trackers show pictures of 2-D fields."
            )
        if not len(self.seeds) or self.every < 1 or self.batch < 1:
            raise ValueError(
                f"Preview: expected seeds, every >= 1 and batch >= 1, got {len(self.seeds)} seeds, {self.every} and "
                f"{self.batch}; name one seed at least."
            )

    def draw(self, denoiser: Denoiser) -> dict[str, np.ndarray]:
        """ "samples/32x32" and so on: one picture each, (height, columns * width, 3) in uint8; C rows unless C = 3."""
        pictures, options = {}, {"solver": self.solver, "plan": self.plan, "batch": self.batch, **self.condition}
        for grid in self.shapes:
            x = sample(denoiser, grid, self.seeds, **options)
            pictures[f"samples/{grid_name(grid)}"] = montage(x, grey=are_pictures(denoiser))
        return pictures

    def show(self, denoiser: Denoiser, trackers: Sequence[Any], step: int) -> None:
        """Draw, and hand the pictures to those trackers that take some."""
        pictures = {name: picture[None] for name, picture in self.draw(denoiser).items()}
        for tracker in can_show(trackers):
            if tracker.name == "mlflow":  # accelerate's has no method for pictures
                import mlflow

                for name, picture in pictures.items():
                    mlflow.log_image(picture[0], key=name, step=step)
            else:
                options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images(pictures, step=step, **options)


def can_show(trackers: Sequence[Any]) -> list[Any]:
    """Those of accelerate's trackers that take pictures: TensorBoard, wandb and MLflow."""
    return [tracker for tracker in trackers if hasattr(tracker, "log_images") or tracker.name == "mlflow"]


def montage(x: Tensor, grey: bool = False) -> np.ndarray:
    """Fields (B, C, height, width) side by side, (rows * height, B * width, 3) in uint8.

    Three channels are an image in [-1, 1], clipped to it, and so is one that is grey; of others each is a row, in colours from
    its least to its largest value.
    """
    x = x.detach().float().cpu()
    if grey and x.shape[1] == 1:
        x = x.expand(-1, 3, -1, -1)
    if x.shape[1] == 3:
        rows = [(x.clamp(-1, 1) / 2 + 0.5).permute(2, 0, 3, 1).flatten(1, 2).numpy()]
    else:
        rows = []
        for channel in x.permute(1, 2, 0, 3).flatten(2):
            low, high = channel.min(), channel.max()
            scaled = (channel - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
            rows.append(matplotlib.colormaps["viridis"](scaled.numpy())[..., :3])
    return (255 * np.concatenate(rows)).round().astype(np.uint8)
