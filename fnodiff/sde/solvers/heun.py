"""Heun's method on the probability flow: second order at two evaluations a step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fnodiff.expected import kinds_checked
from fnodiff.sde.denoiser import Denoiser
from fnodiff.sde.solvers.base import Fresh, Solver


@kinds_checked
@dataclass(frozen=True)
class Heun(Solver):
    """Second order: Heun's step of dy / ds = (y - D) / s; 2 steps - 1 evaluations in all.

    With churn, each step first adds noise, which lets later evaluations correct the errors of earlier ones.

    Args:
        steps: Number of noise levels.
        spacing: Where they lie.
        churn: S_churn: before each step the noise level rises by a factor 1 + min(churn / steps, sqrt(2) - 1), though not
            above that of t = 1. 0: deterministic.
        churn_min: S_tmin: no churn below this sigma / alpha.
        churn_max: S_tmax: nor above this one.
        churn_noise: S_noise: the added noise's standard deviation, 1 or a little more.

    Raises:
        ValueError: If a churn setting is negative.

    Source: Karras et al. (2022), algorithms 1 and 2.

    Examples:
        >>> from fnodiff import EDM, FunctionSpaceSDE, GaussianRandomField, Heun, Matern, Torus, sample
        >>> from fnodiff.sde import GaussianDenoiser
        >>> field = GaussianRandomField(Torus(1), Matern(1.0, 0.01))
        >>> x = sample(GaussianDenoiser(field, FunctionSpaceSDE(field, EDM())), (256,), range(8), solver=Heun(18))
        >>> bool(0.8 < x.var() < 1.2)  # the data's is 1
        True
    """

    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = math.inf
    churn_noise: float = 1.0

    evaluations_per_step: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.churn, self.churn_min, self.churn_max, self.churn_noise) < 0 or self.churn_min > self.churn_max:
            raise ValueError(
                f"Heun: expected churn, churn_min, churn_noise >= 0 and churn_max >= churn_min, got {self.churn!r}, "
                f"{self.churn_min!r}, {self.churn_noise!r} and {self.churn_max!r}; 0 is no churn."
            )

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, memory: Any, noise: Fresh
    ) -> tuple[Tensor, Any]:
        sde = denoiser.sde
        if self.churn > 0 and self.churn_min <= float(sde.schedule.ratio(t)) <= self.churn_max:
            x_t, t = self._raise_noise(denoiser, x_t, t, noise)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = sde.marginal(x_t, t), sde.marginal(x_t, s)
        level_t, level_s = sigma_t / alpha_t, sigma_s / alpha_s
        y_t = x_t / alpha_t
        slope_t = (y_t - denoiser(x_t, t)) / level_t
        y_s = y_t + (level_s - level_t) * slope_t
        slope_s = (y_s - denoiser(alpha_s * y_s, s)) / level_s
        return alpha_s * (y_t + (level_s - level_t) * 0.5 * (slope_t + slope_s)), None

    def _raise_noise(self, denoiser: Denoiser, x_t: Tensor, t: Tensor, noise: Fresh) -> tuple[Tensor, Tensor]:
        """The state at a higher noise level, and its time."""
        sde = denoiser.sde
        level, highest = sde.schedule.ratio(torch.stack([t, torch.ones_like(t)]))
        raised = torch.minimum(level * (1 + min(self.churn / self.steps, math.sqrt(2) - 1)), highest)
        time = torch.maximum(sde.schedule.time(raised).clamp(0, 1), t)
        added = (raised.square() - level.square()).clamp(min=0).sqrt().to(x_t) * self.churn_noise
        y = x_t / sde.marginal(x_t, t)[0] + added * noise(x_t)
        return y * sde.marginal(x_t, time)[0], time
