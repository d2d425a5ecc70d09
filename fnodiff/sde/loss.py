"""Denoising score matching: E over t and z of w(t) |D(alpha_t x + sigma_t z, t) - x|^2.

t is drawn so that the noise level s = sigma_t / alpha_t is log-normal, ln(s) ~ N(p_mean, p_std^2), restricted to the
levels that the schedule spans; or, of a scaling such as `FlowScaling`, evenly in [0, 1]. w is
the scaling's: the weight under which the network's error counts alike at all t.

Source: Karras, Aittala, Aila, Laine (2022), Elucidating the design space of diffusion-based generative models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fnodiff.domain import Generators, Shape, uniforms
from fnodiff.expected import kinds_checked
from fnodiff.sde.denoiser import Denoiser, NotFinite
from fnodiff.sde.flow import OptimalTransport
from fnodiff.sde.process import over_space
from fnodiff.sde.spectrum import linear_error


@kinds_checked
class DenoisingLoss(nn.Module):
    """The denoising loss of each sample.

    Args:
        model: What is trained: a denoiser with `loss_weight(t, shape)` and `noise_law`, as `Model` has them.
        p_mean: Mean of ln(s); by default the model's `noise_law`, like p_std, or times evenly in [0, 1] if it has
            `uniform_time`.
        p_std: Standard deviation of ln(s).
        drop_condition: Train for guidance: each condition alone is left out of a sample with this probability, and all of
            them together with the same.
        coupling: How noise is paired with data: `OptimalTransport()`; None for independent pairs.

    Raises:
        ValueError: If p_std is not positive, drop_condition is out of range, or a coupling is not callable.

    Examples:
        >>> import torch
        >>> from fnodiff import DFU, EDM, Box, EDMScaling, FunctionSpaceSDE, Model, WhiteNoise
        >>> from fnodiff.sde import DenoisingLoss
        >>> sde = FunctionSpaceSDE(WhiteNoise(Box(2), (16, 16)), EDM())
        >>> loss = DenoisingLoss(Model(DFU.tiny(1, 1), sde, EDMScaling(sigma_data=0.5)))
        >>> x = 0.5 * sde.noise.sample((16, 1, 16, 16), generator=torch.Generator().manual_seed(0))
        >>> round(loss(x, generator=torch.Generator().manual_seed(1)).mean().item(), 1)  # of an untrained network
        1.0
    """

    def __init__(
        self,
        model: Denoiser,
        p_mean: float | None = None,
        p_std: float | None = None,
        *,
        drop_condition: float = 0.0,
        coupling: OptimalTransport | None = None,
    ) -> None:
        super().__init__()
        if not hasattr(model, "loss_weight") or not hasattr(model, "noise_law"):
            raise ValueError(
                f"DenoisingLoss: expected a model with a loss_weight and a noise_law, got {type(model).__name__}; make a "
                f"network one: Model(network, sde, EDMScaling())."
            )
        self.uniform_time = p_mean is None and p_std is None and bool(getattr(model, "uniform_time", False))
        p_mean = model.noise_law[0] if p_mean is None else float(p_mean)
        p_std = model.noise_law[1] if p_std is None else float(p_std)
        if not 0 < p_std < math.inf or not math.isfinite(p_mean):
            raise ValueError(
                f"DenoisingLoss: expected a finite p_mean and p_std > 0, got {p_mean!r} and {p_std!r}; pass the mean and "
                f"spread of ln(sigma)."
            )
        if not 0 <= drop_condition < 1:
            raise ValueError(
                f"DenoisingLoss: expected drop_condition in [0, 1), got {drop_condition!r}; 0.1 is usual for guidance."
            )
        if coupling is not None and (not callable(coupling) or isinstance(coupling, type)):
            raise ValueError(f"DenoisingLoss: expected a coupling such as OptimalTransport(), got {coupling!r}.")
        self.model = model
        self.p_mean, self.p_std, self.drop_condition = p_mean, p_std, drop_condition
        self.coupling = coupling

    def times(self, batch: int, *, generator: Generators = None, device=None) -> Tensor:
        """Training times (batch,), float32; with a generator, each depends on its sample's seed alone."""
        return self._at(uniforms(batch, generator=generator)).to(device=device, dtype=torch.float32)

    def _at(self, u: Tensor) -> Tensor:
        """The times at these quantiles of the law, float64."""
        if self.uniform_time:
            return u
        schedule, law = self.model.sde.schedule, torch.distributions.Normal(0.0, 1.0)
        ends = schedule.ratio(torch.tensor([0.0, 1.0], dtype=torch.float64)).log()
        low, high = law.cdf((ends - self.p_mean) / self.p_std)
        if not float(high - low) > 1e-6:
            raise ValueError(
                f"DenoisingLoss: expected noise levels that {schedule} spans, got exp({self.p_mean:g} +- {self.p_std:g}); "
                f"choose p_mean between {float(ends[0]):.2f} and {float(ends[1]):.2f}."
            )
        log_s = self.p_mean + self.p_std * law.icdf(low + u * (high - low))
        return schedule.time(log_s.exp()).clamp(0, 1)  # against rounding only

    def linear(self, shape: Shape) -> float | None:
        """The loss of the best linear estimate on a grid, on the average; None if the model has no spectrum.

        A model whose loss is near this one has learnt nothing beyond the data's spectrum.
        """
        sde, spectrum = self.model.sde, self.model.spectrum
        if spectrum is None:
            return None
        t = self._at((torch.arange(64, dtype=torch.float64) + 0.5) / 64)
        error, weight = linear_error(sde, spectrum, t, shape), self.model.loss_weight(t, sde.domain.check_shape(shape))
        error, weight = error.reshape(len(t), -1), weight.double().reshape(len(t), -1)
        return float((error * weight).mean())

    def forward(
        self, x: Tensor, *, mask: Tensor | None = None, generator: Generators = None, **condition: Tensor
    ) -> Tensor:
        """The weighted squared error of each sample, (B,): a mean over the domain, or its measured part, and the channels.

        Args:
            x: Clean fields (B, C, *spatial), in data units.
            mask: (B, 1 or C, *spatial), 1 where x was measured and 0 where it is missing: there the network sees the data's
                mean, and its error does not count.
            generator: One, or one per sample, for the times and the noise.
            condition: Given to the denoiser.

        Raises:
            ValueError: If x is no finite field, the mask does not fit x, or a sample has no measured point.
        """
        if isinstance(x, Mapping):
            raise ValueError(f"DenoisingLoss: expected fields x, got a batch of {sorted(x)}; write loss(**batch).")
        self.model.sde.domain.check_field(x)
        x = self._rounded(self.model.normalization(x))
        if mask is not None:
            x, mask = self._fill(x, mask)
        if not bool(x.isfinite().all()):
            raise NotFinite(
                f"DenoisingLoss: expected finite x, got {int((~x.isfinite()).sum())} of {x.numel()} values NaN or infinite; "
                f"mend the data, or pass a mask= that is 0 where they are missing."
            )
        t = self.times(x.shape[0], generator=generator, device=x.device)
        x_t = self._perturbed(x, t, generator, condition)
        if self.drop_condition and set(condition) - {"augmentation"}:
            condition = self._drop(condition, x.shape[0], generator)
        error = self.model(x_t, t, **condition) - x
        if mask is not None:
            error = error * mask
        return self._weighted(error, t)

    def _weighted(self, error: Tensor, t: Tensor) -> Tensor:
        """The weighted mean square of errors (B, C, *spatial) of estimates at t, (B,)."""
        weight = self.model.loss_weight(t, tuple(error.shape[2:])).reshape(len(error), -1)  # one, or each channel's
        weighted = error * weight.sqrt().reshape(*weight.shape, *(1,) * (error.ndim - 2))
        return self.model.sde.domain.norm(weighted).square() / error.shape[1]

    def _rounded(self, x: Tensor) -> Tensor:
        """Normalised float64 fields, where the model is and as it computes."""
        weight = next(self.model.parameters(), None)
        if x.dtype != torch.float64 or weight is None:
            return x
        return (x if weight.dtype == torch.float64 else x.float()).to(weight.device)

    def _perturbed(self, x: Tensor, t: Tensor, generator: Generators, condition: Mapping[str, Tensor]) -> Tensor:
        if self.coupling is None:
            return self.model.sde.perturb(x, t, generator=generator)[0]
        if condition:
            raise ValueError(
                f"DenoisingLoss: expected no conditions with a coupling, got {sorted(condition)}: noise that is paired across "
                f"conditions depends on them; leave either out."
            )
        _, z = self.model.sde.perturb(x, torch.ones_like(t), generator=generator)
        alpha_t, sigma_t = self.model.sde.marginal(x, t)
        return alpha_t * x + sigma_t * self.coupling(x, z, self.model.sde.domain)

    def _fill(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """x with its mean where it is missing, and the mask scaled to mean square one over each sample."""
        if mask.ndim != x.ndim or mask.shape[1] not in (1, x.shape[1]) or mask[:, :1].shape != x[:, :1].shape:
            raise ValueError(
                f"DenoisingLoss: expected a mask (B, 1 or C, *spatial) for x of shape {tuple(x.shape)}, got "
                f"{tuple(mask.shape)}; give it the data's grid."
            )
        measured = (mask > 0).expand_as(x).to(x.dtype)
        share = self.model.sde.domain.norm(measured).square() / x.shape[1]
        if not bool((share > 0).all()):
            raise ValueError(
                f"DenoisingLoss: expected measured points in every sample, got {int((share == 0).sum())} with an empty mask; "
                f"leave them out."
            )
        return torch.where(measured > 0, x, 0.0), measured / over_space(share.sqrt(), x)

    def _drop(self, condition: dict[str, Tensor], batch: int, generator: Generators) -> dict[str, Tensor]:
        """The conditions, some of them left out of some samples."""
        every = uniforms(batch, generator=generator) < self.drop_condition
        for name in sorted(set(condition) - {"augmentation"}):
            alone = uniforms(batch, generator=generator) < self.drop_condition
            left_out = (every | alone).to(condition[name].device)
            condition = self.model.without(condition, [name], left_out)
        return condition
