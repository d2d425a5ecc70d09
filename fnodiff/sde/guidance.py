"""Guidance: denoisers that push samples towards a condition, or away from a worse model."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fnodiff.expected import kinds_checked
from fnodiff.sde.denoiser import Denoiser, Wrapper
from fnodiff.sde.process import over_space


@kinds_checked
class ClassifierFree(Wrapper):
    """Classifier-free guidance: D(x_t | nothing) + scale (D(x_t | condition) - D(x_t | nothing)).

    At scale 1 the conditional denoiser, at 0 the unconditional one; above 1 the samples show more of what the condition asks
    for, and vary less: no longer the conditional law. The model has to have seen samples without a condition: train it with
    `DenoisingLoss(model, drop_condition=0.1)`.

    Args:
        denoiser: A model of several conditions, such as `label` and `field`.
        scale: The weight of what the condition says.
        drop: What the guidance is about: these conditions are left out of the second evaluation, and others, if any, are
            given in both. By default all.

    Warns:
        UserWarning: If the model remembers that `fit` trained it without.

    Source: Ho, Salimans (2022), Classifier-free diffusion guidance.

    Examples:
        >>> from fnodiff import DFU, EDM, Box, DPMSolver, EDMScaling, FunctionSpaceSDE, Model, WhiteNoise, sample
        >>> from fnodiff.sde import ClassifierFree
        >>> sde = FunctionSpaceSDE(WhiteNoise(Box(2), (16, 16)), EDM())
        >>> model = Model(DFU.tiny(1, 1, num_classes=2), sde, EDMScaling()).eval()
        >>> sample(ClassifierFree(model, scale=2.0), (16, 16), range(3), solver=DPMSolver(3), label=[0, 1, 1]).shape
        torch.Size([3, 1, 16, 16])
    """

    def __init__(self, denoiser: Denoiser, scale: float, drop: Sequence[str] | str | None = None) -> None:
        super().__init__(denoiser)
        self.scale = float(scale)
        if not math.isfinite(scale):
            raise ValueError(
                f"ClassifierFree: expected a finite scale, got {scale!r}; 1 is the model alone, and 2 is usual."
            )
        if self.scale != 1 and denoiser.drop_condition == 0:
            warnings.warn(
                "ClassifierFree: the model was trained without drop_condition, so that it knows no samples without a "
                "condition; train it with DenoisingLoss(model, drop_condition=0.1), or --drop-condition 0.1.",
                stacklevel=3,
            )
        self.drop = None if drop is None else (drop,) if isinstance(drop, str) else tuple(drop)

    def forward(self, x_t: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        names = tuple(condition) if self.drop is None else self.drop
        missing = [name for name in names if name not in condition]
        if missing or not names:
            raise ValueError(
                f"ClassifierFree: expected the conditions {list(names) or ['label or field']}, got {sorted(condition)}; give "
                f"them to `sample`, such as label=labels."
            )
        conditional = self.denoiser(x_t, t, **condition)
        if self.scale == 1:
            return conditional
        unconditional = self.denoiser(x_t, t, **self.denoiser.without(condition, names))
        return unconditional + self.scale * (conditional - unconditional)


@kinds_checked
class Autoguided(Wrapper):
    """Guidance by a worse model of the same: G(x_t) + scale (D(x_t) - G(x_t)).

    What a model of little training gets wrong, a better one gets wrong too, by less: the difference points away from both.
    Samples show more of what sets one apart from another, and their law is no longer the model's. It acts at noise levels
    sigma_t / alpha_t within `noise_levels`, where a picture's shape is decided; elsewhere D is asked alone.

    Args:
        denoiser: The model, D.
        guide: The worse one, G: the same network after some sixth of the training, or a smaller one.
        scale: The weight of what D says beyond G; 1 for D alone.
        noise_levels: The lowest and the highest noise level, sigma / alpha, at which it acts.

    Raises:
        ValueError: If the guide has another process or other units, or the noise levels are not in order.

    Source: Karras, Aittala, Kynkaanniemi, Lehtinen, Aila, Laine (2024), Guiding a diffusion model with a bad version of
    itself; Kynkaanniemi, Aittala, Karras, Laine, Aila, Lehtinen (2024), Applying guidance in a limited interval.

    Examples:
        >>> from fnodiff import EDM, Box, FunctionSpaceSDE, GaussianRandomField, Matern, sample
        >>> from fnodiff.sde import Autoguided, GaussianDenoiser
        >>> sde = FunctionSpaceSDE(GaussianRandomField(Box(2), Matern(1.0, 0.3)), EDM())
        >>> true, rough = (GaussianRandomField(Box(2), Matern(nu, 0.3)) for nu in (1.0, 0.5))
        >>> guided = Autoguided(GaussianDenoiser(true, sde), GaussianDenoiser(rough, sde))
        >>> sample(guided, (16, 16), seeds=[0]).shape
        torch.Size([1, 1, 16, 16])
    """

    def __init__(
        self, denoiser: Denoiser, guide: Denoiser, scale: float = 1.7, noise_levels: tuple[float, float] = (0.3, 3.0)
    ) -> None:
        super().__init__(denoiser)
        units = denoiser.normalization, guide.normalization
        (mean, std), (own_mean, own_std) = ((np.asarray(u.mean), np.asarray(u.std)) for u in units)
        same = mean.shape == own_mean.shape and std.shape == own_std.shape
        same = same and bool((abs(mean - own_mean) <= 1e-3 * std).all() and (abs(std / own_std - 1) <= 1e-3).all())
        names = tuple(guide.condition_names), tuple(denoiser.condition_names)
        if all(names) and names[0] != names[1]:
            raise ValueError(
                f"Autoguided: expected a guide of the numbers {denoiser.condition_names}, got {guide.condition_names}; train "
                f"it on the model's data."
            )
        if guide.sde != denoiser.sde or not same:
            raise ValueError(
                f"Autoguided: expected a guide of the same process and units, {denoiser.sde} and {units[0]}, got {guide.sde} "
                f"and {units[1]}; train it as the model was, for less time."
            )
        if not (0 <= noise_levels[0] < noise_levels[1] and math.isfinite(scale)):
            raise ValueError(
                f"Autoguided: expected a lowest noise level of 0 or more, a higher one and a finite scale, got {noise_levels} "
                f"and {scale!r}; (0.3, 3) and 1.7 are usual."
            )
        self.guide, self.scale = guide, float(scale)
        self.noise_levels = float(noise_levels[0]), float(noise_levels[1])

    def forward(self, x_t: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        x_hat, level = self.denoiser(x_t, t, **condition), self.sde.schedule.ratio(t)
        acts = (level >= self.noise_levels[0]) & (level <= self.noise_levels[1])
        if self.scale == 1 or not bool(acts.any()):
            return x_hat
        worse = self.guide(x_t, t, **condition)
        return torch.where(over_space(acts, x_hat), worse + self.scale * (x_hat - worse), x_hat)

    def among(self, count: int) -> Denoiser:
        new = self.around(self.denoiser.among(count))
        new.guide = self.guide.among(count)
        return new

    def rows(self, part: slice) -> Denoiser:
        denoiser, guide = self.denoiser.rows(part), self.guide.rows(part)
        if denoiser is self.denoiser and guide is self.guide:
            return self
        new = self.around(denoiser)
        new.guide = guide
        return new
