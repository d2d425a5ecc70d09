"""FID and KID: distances of images by the features of the Inception network.

How images reach that network's 299 x 299 pixels moves the figures by more than many a paper's gain (Parmar, Zhang, Zhu, 2022,
On aliased resizing and surprising subtleties in GAN evaluation). So it is said: "bilinear" is what the network does by itself,
as TensorFlow 1 did, without averaging over the pixels that it leaves out (Heusel et al. 2017, and torch-fidelity). "clean" is
bicubic with antialiasing by Pillow, in floating point (clean-fid), here rounded to 8 bits, which the network takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fnodiff.expected import kinds_checked
from fnodiff.metrics.distances import frechet_distance, kernel_distance

SIDE = 299
"""Pixels on each side of what Inception takes."""


@kinds_checked
def inception_distances(
    x: Tensor,
    y: Tensor,
    *,
    feature: int | Callable[[Tensor], Tensor] = 2048,
    resize: Literal["bilinear", "clean"] = "bilinear",
) -> tuple[float, float]:
    """FID and KID of images (N, 3, H, W) in [-1, 1] against true ones, on the features of Inception.

    Compare only with figures of the same resizing, number of images and size. KID is that of all images, not of subsets.

    Args:
        x, y: The images, and the true ones.
        feature: 64, 192, 768 or 2048 features of torch-fidelity's Inception, which needs `pip install fnodiff[fid]` and the
            weights that it downloads; or a network that maps uint8 images to features (N, D).
        resize: "bilinear": the network's own, as torch-fidelity has it. "clean": bicubic with antialiasing, as clean-fid.

    Raises:
        ValueError: If they are no such images, or fewer than two, or the resizing is none of these.
    """
    if x.ndim != 4 or y.ndim != 4 or x.shape[1] != 3 or y.shape[1] != 3 or min(len(x), len(y)) < 2:
        raise ValueError(
            f"inception_distances: expected two sets of two images or more of 3 channels, got {tuple(x.shape)} and "
            f"{tuple(y.shape)}."
        )
    for images in (x, y):
        if not images.is_floating_point() or not bool(images.isfinite().all()) or float(images.abs().mean()) > 2:
            raise ValueError(
                f"inception_distances: expected finite images in [-1, 1], got {images.dtype} with a mean size of "
                f"{float(images.double().abs().mean()):.3g}; of levels from 0 to 255 pass levels / 127.5 - 1."
            )
    network = _inception(feature) if isinstance(feature, int) else feature
    features = []
    with torch.no_grad():
        for images in (x, y):
            levels = (((part.clamp(-1, 1) + 1) * 127.5).round() for part in images.split(64))
            sized = (clean(part) if resize == "clean" else part for part in levels)
            features.append(torch.cat([network(part.to(torch.uint8)) for part in sized]))
    return frechet_distance(*features), kernel_distance(*features)


def clean(levels: Tensor, side: int = SIDE) -> Tensor:
    """Images (N, C, H, W) of levels from 0 to 255, to `side` x `side` by Pillow's bicubic with antialiasing; rounded."""

    def one(channel: Tensor) -> Tensor:
        image = Image.fromarray(channel.cpu().float().numpy())
        return torch.from_numpy(np.array(image.resize((side, side), Image.Resampling.BICUBIC)))

    sized = torch.stack([one(channel) for channel in levels.flatten(0, 1)])
    return sized.reshape(*levels.shape[:2], side, side).round().clamp(0, 255).to(levels.device)


def _inception(feature: int) -> Callable[[Tensor], Tensor]:
    from torchmetrics.image.fid import FrechetInceptionDistance  # says what to install

    return FrechetInceptionDistance(feature=feature).inception
