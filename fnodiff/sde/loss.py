"""Denoising score matching: E over t and z of w(t) |D(alpha_t x + sigma_t z, t) - x|^2.

t is drawn so that the noise level s = sigma_t / alpha_t is log-normal, ln(s) ~ N(p_mean, p_std^2), restricted to the
levels that the schedule spans.

Source: Karras, Aittala, Aila, Laine (2022), Elucidating the design space of diffusion-based generative models.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fnodiff.domain import Generators, uniforms
from fnodiff.sde.denoise import Preconditioned


class DenoisingLoss(nn.Module):
    """The denoising loss of each sample.

    Args:
        denoiser: The model; its `loss_weight(t, shape)` weights the error.
        p_mean: Mean of ln(s).
        p_std: Standard deviation of ln(s).

    Raises:
        ValueError: If p_std is not positive.
    """

    def __init__(self, denoiser: Preconditioned, p_mean: float = -1.2, p_std: float = 1.2) -> None:
        super().__init__()
        if not p_std > 0:
            raise ValueError(f"DenoisingLoss: expected p_std > 0, got {p_std!r}; pass the spread of ln(sigma).")
        self.denoiser = denoiser
        self.p_mean, self.p_std = p_mean, p_std

    def times(self, batch: int, *, generator: Generators = None, device=None) -> Tensor:
        """Training times (batch,), float32; with a generator, each depends on its sample's seed alone."""
        schedule, law = self.denoiser.sde.schedule, torch.distributions.Normal(0.0, 1.0)
        ends = schedule.ratio(torch.tensor([0.0, 1.0], dtype=torch.float64)).log()
        low, high = law.cdf((ends - self.p_mean) / self.p_std)
        u = uniforms(batch, generator=generator)
        log_s = self.p_mean + self.p_std * law.icdf(low + u * (high - low))
        return schedule.time(log_s.exp()).clamp(0, 1).to(device=device, dtype=torch.float32)  # against rounding only

    def forward(self, x: Tensor, *, generator: Generators = None, **condition: Tensor) -> Tensor:
        """The weighted squared error of each sample, (B,): a mean over the domain and the channels.

        Args:
            x: Clean fields (B, C, *spatial), in data units.
            generator: One, or one per sample, for the times and the noise.
            condition: Given to the denoiser.
        """
        sde = self.denoiser.sde
        x = self.denoiser.normalization(x)
        t = self.times(x.shape[0], generator=generator, device=x.device)
        x_t, _ = sde.perturb(x, t, generator=generator)
        error = self.denoiser(x_t, t, **condition) - x
        return self.denoiser.loss_weight(t, tuple(x.shape[2:])) * sde.domain.norm(error).square() / x.shape[1]
