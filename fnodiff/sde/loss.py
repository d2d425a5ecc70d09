"""Denoising score matching: E over t and z of w(t) |D(alpha_t x + sigma_t z, t) - x|^2.

t is drawn so that the noise level s = sigma_t / alpha_t is log-normal, ln(s) ~ N(p_mean, p_std^2), restricted to the
levels that the schedule spans.

With w = 1 / tr V, V the error per mode that the network starts from, an octave of modes counts by its share of V: at small
noise all of it is in the finest modes, and the coarse ones that hold the picture together count for nothing. Weighted by
octaves, the loss is

    sum_o (v_o n / tr V)^-g |D - x|_o^2 / tr V,

|.|_o the part in octave o, v_o = tr_o V and n the number of octaves: g = 0 is the plain loss, g = 1 counts all octaves alike.

Source: Karras, Aittala, Aila, Laine (2022), Elucidating the design space of diffusion-based generative models.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fnodiff.domain import Generators, Shape, uniforms
from fnodiff.sde.denoise import Preconditioned, SpectralPreconditioned
from fnodiff.sde.process import over_space


class DenoisingLoss(nn.Module):
    """The denoising loss of each sample.

    Args:
        denoiser: The model; its `loss_weight(t, shape)` weights the error.
        p_mean: Mean of ln(s); by default the denoiser's `noise_law`, like p_std.
        p_std: Standard deviation of ln(s).
        octaves: g, from 0 for the plain loss to 1 for octaves that count alike.
        drop_condition: Train for guidance: each condition alone is left out of a sample with this probability, and all of
            them together with the same.

    Raises:
        ValueError: If p_std is not positive, or octaves or drop_condition is out of range.

    Examples:
        >>> import torch
        >>> from fnodiff import DFU, EDM, Box, FunctionSpaceSDE, Preconditioned, WhiteNoise
        >>> from fnodiff.sde import DenoisingLoss
        >>> sde = FunctionSpaceSDE(WhiteNoise(Box(2), (16, 16)), EDM())
        >>> loss = DenoisingLoss(Preconditioned(DFU.tiny(1, 1), sde, sigma_data=0.5))
        >>> x = 0.5 * sde.noise.sample((16, 1, 16, 16), generator=torch.Generator().manual_seed(0))
        >>> round(loss(x, generator=torch.Generator().manual_seed(1)).mean().item(), 1)  # of an untrained network
        1.0
    """

    def __init__(
        self,
        denoiser: Preconditioned | SpectralPreconditioned,
        p_mean: float | None = None,
        p_std: float | None = None,
        *,
        octaves: float = 0.0,
        drop_condition: float = 0.0,
    ) -> None:
        super().__init__()
        p_mean = denoiser.noise_law[0] if p_mean is None else p_mean
        p_std = denoiser.noise_law[1] if p_std is None else p_std
        if not 0 < p_std < math.inf or not math.isfinite(p_mean):
            raise ValueError(
                f"DenoisingLoss: expected a finite p_mean and p_std > 0, got {p_mean!r} and {p_std!r}; pass the mean and "
                f"spread of ln(sigma)."
            )
        if not (0 <= octaves <= 1 and 0 <= drop_condition < 1):
            raise ValueError(
                f"DenoisingLoss: expected octaves in [0, 1] and drop_condition in [0, 1), got {octaves!r} and "
                f"{drop_condition!r}; 0 is the plain loss, 0.1 is usual for drop_condition."
            )
        self.denoiser = denoiser
        self.p_mean, self.p_std = p_mean, p_std
        self.octaves, self.drop_condition = octaves, drop_condition

    def times(self, batch: int, *, generator: Generators = None, device=None) -> Tensor:
        """Training times (batch,), float32; with a generator, each depends on its sample's seed alone."""
        schedule, law = self.denoiser.sde.schedule, torch.distributions.Normal(0.0, 1.0)
        ends = schedule.ratio(torch.tensor([0.0, 1.0], dtype=torch.float64)).log()
        low, high = law.cdf((ends - self.p_mean) / self.p_std)
        if not float(high - low) > 1e-6:
            raise ValueError(
                f"DenoisingLoss: expected noise levels that {schedule} spans, got exp({self.p_mean:g} +- {self.p_std:g}); "
                f"choose p_mean between {float(ends[0]):.2f} and {float(ends[1]):.2f}."
            )
        u = uniforms(batch, generator=generator)
        log_s = self.p_mean + self.p_std * law.icdf(low + u * (high - low))
        return schedule.time(log_s.exp()).clamp(0, 1).to(device=device, dtype=torch.float32)  # against rounding only

    def forward(
        self, x: Tensor, *, mask: Tensor | None = None, generator: Generators = None, **condition: Tensor
    ) -> Tensor:
        """The weighted squared error of each sample, (B,): a mean over the domain, or its measured part, and the channels.

        Args:
            x: Clean fields (B, C, *spatial), in data units.
            mask: (B, 1 or C, *spatial), 1 where x was measured and 0 where it is missing: there the network is shown the
                data's mean, and its error does not count.
            generator: One, or one per sample, for the times and the noise.
            condition: Given to the denoiser.

        Raises:
            ValueError: If the mask does not fit x, or a sample has no measured point.
        """
        sde = self.denoiser.sde
        x = self.denoiser.normalization(x)
        if mask is not None:
            x, mask = self._fill(x, mask)
        t = self.times(x.shape[0], generator=generator, device=x.device)
        x_t, _ = sde.perturb(x, t, generator=generator)
        if self.drop_condition and condition:
            condition = self._drop(condition, x.shape[0], generator)
        error = self.denoiser(x_t, t, **condition) - x
        if mask is not None:
            error = error * mask
        weight = self.denoiser.loss_weight(t, tuple(x.shape[2:])).reshape(
            x.shape[0], -1
        )  # for each channel, or one for all
        return self._square(error, t, weight) / x.shape[1]

    def _fill(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """x with its mean where it is missing, and the mask scaled to mean square one over each sample."""
        if mask.ndim != x.ndim or mask.shape[1] not in (1, x.shape[1]) or mask[:, :1].shape != x[:, :1].shape:
            raise ValueError(
                f"DenoisingLoss: expected a mask (B, 1 or C, *spatial) for x of shape {tuple(x.shape)}, got "
                f"{tuple(mask.shape)}; give it the data's grid."
            )
        measured = (mask > 0).expand_as(x).to(x.dtype)
        share = self.denoiser.sde.domain.norm(measured).square() / x.shape[1]
        if not bool((share > 0).all()):
            raise ValueError(
                f"DenoisingLoss: expected measured points in every sample, got {int((share == 0).sum())} with an empty mask; "
                f"leave them out."
            )
        return torch.where(measured > 0, x, 0.0), measured / over_space(share.sqrt(), x)

    def _square(self, error: Tensor, t: Tensor, weight: Tensor) -> Tensor:
        """|error|^2 of each sample, weighted (B, C or 1) and each octave with its weight."""
        domain, shape = self.denoiser.sde.domain, tuple(error.shape[2:])
        error = error * weight.sqrt().reshape(*weight.shape, *(1,) * len(shape))
        if self.octaves == 0:
            return domain.norm(error).square()
        mult = domain.multiplicity(shape, device=error.device, dtype=torch.float64).flatten()
        variance = self.denoiser.target_variance(t, shape).double().reshape(*weight.shape, -1)
        share = mult * variance * weight[..., None]
        octave = self._octaves(shape, error.device)
        total = share.new_zeros(*weight.shape, int(octave.max()) + 1).index_add(2, octave, share)
        factor = (total * total.shape[2]).pow(-self.octaves)[..., octave] * mult
        power = domain.analyze(error).abs().square().flatten(2)
        return (factor.to(power.dtype) * power).sum((1, 2))

    def _octaves(self, shape: Shape, device: torch.device) -> Tensor:
        """The octave of each mode, flat; those that only a grid's corners reach belong to the last full one."""
        octave = self.denoiser.sde.domain.octaves(shape)
        full = self.denoiser.sde.domain.shells(shape)[1]
        return octave.clamp(max=int(math.log2(max(1, len(full) - 1)) + 1)).flatten().to(device)

    def _drop(self, condition: dict[str, Tensor], batch: int, generator: Generators) -> dict[str, Tensor]:
        """The conditions, some of them left out of some samples."""
        every = uniforms(batch, generator=generator) < self.drop_condition
        for name in sorted(condition):
            alone = uniforms(batch, generator=generator) < self.drop_condition
            left_out = (every | alone).to(condition[name].device)
            condition = self.denoiser.without(condition, [name], left_out)
        return condition
