"""Samplers: from noise at t = 1 to a sample at t = 0.

In y = x_t / alpha_t and s = sigma_t / alpha_t the probability-flow ODE is the same for every schedule,

    dy / ds = (y - D(x_t, t)) / s,

for any noise: the covariance is in x_t, and samplers never see the domain. A sampler takes equal steps in t from 1 to
0, and returns the denoised estimate at sigma(0); nothing is evaluated at sigma = 0.

Source: Karras et al. (2022), Elucidating the design space of diffusion-based generative models; Song, Meng, Ermon
(2021), Denoising diffusion implicit models.
"""

from __future__ import annotations

import abc
import itertools

import torch
from torch import Tensor
from tqdm.auto import tqdm

from fnodiff.domain import Generators
from fnodiff.sde.denoise import Denoiser


class Sampler(abc.ABC):
    """Steps through decreasing times. Subclasses define `step`, the one override point.

    Args:
        denoiser: E[x | x_t].
        steps: Number of noise levels, from sigma(1) down to sigma(0); the step from the last to zero is the denoised
            estimate there.

    Raises:
        ValueError: If `steps` is not a positive integer.
    """

    def __init__(self, denoiser: Denoiser, steps: int) -> None:
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"{type(self).__name__}: expected steps >= 1, got {steps!r}; 18 is usual for Heun.")
        self.denoiser = denoiser
        self.sde = denoiser.sde
        self.steps = steps

    @abc.abstractmethod
    def step(self, x_t: Tensor, t: Tensor, s: Tensor, *, generator: Generators = None, **condition: Tensor) -> Tensor:
        """x_s from x_t, for times s < t, each ()."""

    def times(self, x: Tensor) -> Tensor:
        """The times (steps,), from 1 down to 0, on x's device; float64, so that no step is lost to rounding."""
        return torch.linspace(1, 0, self.steps, dtype=torch.float64).to(x.device)

    @torch.no_grad()
    def solve(self, x: Tensor, *, generator: Generators = None, progress: bool = False, **condition: Tensor) -> Tensor:
        """The state at t = 0, noise of sigma(0) still in it, from the state x (B, C, *spatial) at t = 1."""
        times = self.times(x)
        for t, s in tqdm(list(itertools.pairwise(times)), disable=not progress, desc="sampling"):
            x = self.step(x, t, s, generator=generator, **condition)
        return x

    @torch.no_grad()
    def __call__(
        self, x: Tensor, *, generator: Generators = None, progress: bool = False, **condition: Tensor
    ) -> Tensor:
        """Samples (B, C, *spatial) in data units.

        Args:
            x: The state at t = 1, from `sde.prior(shape)`; its grid is the samples' grid.
            generator: For stochastic samplers: one, or one per sample.
            progress: Show a bar.
            condition: Given to the denoiser at every evaluation.
        """
        x = self.solve(x, generator=generator, progress=progress, **condition)
        return self.denoiser.normalization.inverse(self.denoiser(x, self.times(x)[-1], **condition))


class DDIM(Sampler):
    """First order: Euler's step of the ODE at eta = 0, ancestral sampling at eta = 1.

        x_s = alpha_s x_hat + sqrt(sigma_s^2 - n^2) z_hat + n z,    n = eta sqrt(1 - (s_s / s_t)^2) sigma_s

    with x_hat = D(x_t, t), z_hat = (x_t - alpha_t x_hat) / sigma_t and noise levels s_t = sigma_t / alpha_t.

    Args:
        denoiser: E[x | x_t].
        steps: Number of noise levels.
        eta: 0 to 1, the share of fresh noise.

    Source: Song, Meng, Ermon (2021), Denoising diffusion implicit models.
    """

    def __init__(self, denoiser: Denoiser, steps: int, eta: float = 0.0) -> None:
        super().__init__(denoiser, steps)
        if not 0 <= eta <= 1:
            raise ValueError(f"DDIM: expected eta in [0, 1], got {eta!r}; 0 is deterministic, 1 ancestral.")
        self.eta = eta

    def step(self, x_t: Tensor, t: Tensor, s: Tensor, *, generator: Generators = None, **condition: Tensor) -> Tensor:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.sde.marginal(x_t, t), self.sde.marginal(x_t, s)
        x_hat = self.denoiser(x_t, t, **condition)
        z_hat = (x_t - alpha_t * x_hat) / sigma_t
        if self.eta == 0:
            return alpha_s * x_hat + sigma_s * z_hat
        fresh = self.eta * sigma_s * (1 - (sigma_s * alpha_t / (sigma_t * alpha_s)).square()).sqrt()
        z = self.sde.noise.sample(x_t.shape, generator=generator, device=x_t.device, dtype=x_t.dtype)
        return alpha_s * x_hat + (sigma_s.square() - fresh.square()).sqrt() * z_hat + fresh * z


class Heun(Sampler):
    """Second order: Heun's step of dy / ds = (y - D) / s; 2 steps - 1 evaluations in all.

    Source: Karras et al. (2022), algorithm 1.
    """

    def step(self, x_t: Tensor, t: Tensor, s: Tensor, *, generator: Generators = None, **condition: Tensor) -> Tensor:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.sde.marginal(x_t, t), self.sde.marginal(x_t, s)
        level_t, level_s = sigma_t / alpha_t, sigma_s / alpha_s
        y_t = x_t / alpha_t
        slope_t = (y_t - self.denoiser(x_t, t, **condition)) / level_t
        y_s = y_t + (level_s - level_t) * slope_t
        slope_s = (y_s - self.denoiser(alpha_s * y_s, s, **condition)) / level_s
        return alpha_s * (y_t + (level_s - level_t) * 0.5 * (slope_t + slope_s))
