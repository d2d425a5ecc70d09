"""Trained denoisers of other libraries as ours, and ours as theirs: diffusers, azula, deepinv.

    denoiser = DiffusersDenoiser(unet, scheduler)                         # a UNet2DModel with the scheduler it was trained with
    denoiser = AzulaDenoiser(theirs, channels=3)
    denoiser = DeepinvDenoiser(deepinv.models.DRUNet(), channels=3)
    x = sample(denoiser, (64, 64), seeds=range(4), solver=Heun(18))       # our solvers, plans, guidance, observations

    prior = to_deepinv(model)                                             # a deepinv denoiser: prior(x, sigma)

These models were trained with independent noise at each pixel (`PixelNoise`), which is another process on every grid: one noise
level means another thing on a finer grid, and nothing makes their samples functions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fnodiff.domain import Box, Domain, in_double, on_device
from fnodiff.sde import Denoiser, FunctionSpaceSDE, PixelNoise, Schedule
from fnodiff.sde.process import over_space
from fnodiff.sde.schedule import EDM


@dataclass(frozen=True)
class Timesteps(Schedule):
    """The discrete schedule of DDPM: alpha^2 = alphas_cumprod[i] at t = i / (T - 1), and sigma^2 = 1 - alpha^2.

    Between two timesteps ln(sigma / alpha) is linear in t.

    Args:
        alphas_cumprod: (T,), falling, within (0, 1): a diffusers scheduler's `alphas_cumprod`.

    Raises:
        ValueError: If it is not falling within (0, 1).

    Examples:
        >>> import torch
        >>> from fnodiff.exchange import Timesteps
        >>> alpha, sigma = Timesteps((0.99, 0.5, 0.01))(torch.tensor([0.0, 0.5, 1.0]))
        >>> [round(float(s), 3) for s in sigma]
        [0.1, 0.707, 0.995]
    """

    alphas_cumprod: tuple[float, ...]

    even_log_snr = True

    def __post_init__(self) -> None:
        values = tuple(float(v) for v in self.alphas_cumprod)
        object.__setattr__(self, "alphas_cumprod", values)
        falling = all(a > b for a, b in zip((1.0, *values), (*values, 0.0), strict=True))
        if len(values) < 2 or not falling:
            raise ValueError(
                f"Timesteps: expected alphas_cumprod that fall within (0, 1), got {len(values)} values from "
                f"{values[:1]} to {values[-1:]}; pass scheduler.alphas_cumprod."
            )

    def _log_ratios(self, like: Tensor) -> Tensor:
        squares = torch.tensor(self.alphas_cumprod, dtype=torch.float64, device=in_double(like).device)
        return 0.5 * torch.log((1 - squares) / squares)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        known = self._log_ratios(t)
        place = in_double(t) * (len(known) - 1)
        left = place.floor().clamp(0, len(known) - 2).long()
        log_ratio = torch.lerp(known[left], known[left + 1], place - left)
        alpha = torch.sigmoid(-2 * log_ratio).sqrt()  # 1 / (1 + ratio^2)
        sigma = torch.sigmoid(2 * log_ratio).sqrt()
        return alpha.to(t.dtype).to(t.device), sigma.to(t.dtype).to(t.device)

    def time(self, ratio: Tensor) -> Tensor:
        known, at = self._log_ratios(ratio), in_double(ratio).log()
        right = torch.searchsorted(known, at.contiguous()).clamp(1, len(known) - 1)
        share = (at - known[right - 1]) / (known[right] - known[right - 1])
        return ((right - 1 + share) / (len(known) - 1)).to(ratio.dtype).to(ratio.device)


@dataclass(frozen=True, eq=False)
class Inverted(Schedule):
    """A schedule of another library, a function t -> (alpha, sigma) on [0, 1], whose inverse is found by bisection.

    Args:
        schedule: The function, sigma / alpha rising with t.
    """

    schedule: Any

    even_log_snr = True

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.schedule(t)
        return alpha.to(t.dtype).expand_as(t), sigma.to(t.dtype).expand_as(t)

    def time(self, ratio: Tensor) -> Tensor:
        wanted = in_double(ratio)
        low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
        for _ in range(60):
            middle = 0.5 * (low + high)
            above = self.ratio(middle) > wanted
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (0.5 * (low + high)).to(ratio.dtype).to(ratio.device)


class DiffusersDenoiser(Denoiser):
    """A diffusers `UNet2DModel`, or any network called as it is, with the scheduler that it was trained with.

    Args:
        unet: Called as unet(x_t, timestep), or with class_labels= if a label is given; returns a `sample`.
        scheduler: Its `alphas_cumprod`, and `prediction_type` "epsilon", "sample" or "v_prediction".
        domain: What its pictures are functions on; Box(2) by default.
        channels: By default the network's.
        clip: The estimate is clipped to +-clip, as schedulers with clip_sample do; None for not.

    Raises:
        ValueError: If the scheduler is of another kind.

    Source: Ho, Jain, Abbeel (2020), Denoising diffusion probabilistic models.
    """

    def __init__(
        self,
        unet: nn.Module,
        scheduler: Any,
        *,
        domain: Domain | None = None,
        channels: int | None = None,
        clip: float | None = None,
    ) -> None:
        kind = getattr(getattr(scheduler, "config", None), "prediction_type", None)
        if not hasattr(scheduler, "alphas_cumprod") or kind not in ("epsilon", "sample", "v_prediction"):
            raise ValueError(
                f"DiffusersDenoiser: expected a scheduler with alphas_cumprod and a prediction_type, such as DDPMScheduler's, "
                f"got {type(scheduler).__name__}; load the one of the model's folder: DDPMScheduler.from_pretrained(...)."
            )
        schedule = Timesteps(tuple(torch.as_tensor(scheduler.alphas_cumprod).tolist()))
        channels = getattr(getattr(unet, "config", None), "out_channels", None) if channels is None else channels
        sde = FunctionSpaceSDE(PixelNoise(Box(2) if domain is None else domain), schedule)
        super().__init__(sde, cell_averages=True, channels=channels)
        self.network, self.prediction_type, self.clip = unet, kind, clip

    def forward(self, x_t: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        self.sde.domain.check_field(x_t)
        alpha_t, sigma_t = self.sde.marginal(x_t, t)
        timestep = (t * (len(self.sde.schedule.alphas_cumprod) - 1)).to(x_t.dtype).expand(x_t.shape[0])
        given = {} if label is None else {"class_labels": label}
        out = self.network(x_t, timestep, **given)
        out = out if isinstance(out, Tensor) else out.sample
        if self.prediction_type == "epsilon":
            out = (x_t - sigma_t * out) / alpha_t
        elif self.prediction_type == "v_prediction":
            out = alpha_t * x_t - sigma_t * out
        return out if self.clip is None else out.clamp(-self.clip, self.clip)


class AzulaDenoiser(Denoiser):
    """A denoiser of azula: its posterior mean, under its schedule.

    Args:
        denoiser: azula's, with a `schedule`, called as `denoiser(x_t, t, **condition).mean`.
        channels: Of its samples.
        domain: What they are functions on; Box(2) by default.

    Raises:
        ValueError: If it has no schedule.

    Source: Rozet (2024), azula: diffusion models in PyTorch.
    """

    def __init__(self, denoiser: nn.Module, channels: int, *, domain: Domain | None = None) -> None:
        if not callable(getattr(denoiser, "schedule", None)):
            raise ValueError(
                f"AzulaDenoiser: expected a denoiser with a schedule, got {type(denoiser).__name__}; pass such as "
                f"azula.denoise.KarrasDenoiser(backbone, schedule)."
            )
        noise = PixelNoise(Box(2) if domain is None else domain)
        super().__init__(FunctionSpaceSDE(noise, Inverted(denoiser.schedule)), cell_averages=True, channels=channels)
        self.denoiser = denoiser

    def forward(self, x_t: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        self.sde.domain.check_field(x_t)
        return self.denoiser(x_t, t.to(x_t.dtype), **condition).mean


class DeepinvDenoiser(Denoiser):
    """A denoiser of deepinv, which takes a noise level: pictures in [0, 1] there are fields in [-1, 1] here.

    Args:
        denoiser: Called as denoiser(x, sigma), sigma (B,).
        channels: Of its pictures.
        schedule: The noise levels that a run goes through; by default EDM's from 0.02 to 40, in units of [-1, 1].
        domain: What its pictures are functions on; Box(2) by default.
        zero_one: Whether its pictures are in [0, 1], as deepinv's convention is; False for [-1, 1].
    """

    def __init__(
        self,
        denoiser: nn.Module,
        channels: int,
        *,
        schedule: Schedule | None = None,
        domain: Domain | None = None,
        zero_one: bool = True,
    ) -> None:
        noise = PixelNoise(Box(2) if domain is None else domain)
        schedule = EDM(0.02, 40.0) if schedule is None else schedule
        super().__init__(FunctionSpaceSDE(noise, schedule), cell_averages=True, channels=channels)
        self.denoiser, self.zero_one = denoiser, zero_one

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.sde.domain.check_field(x_t)
        y = x_t / self.sde.marginal(x_t, t)[0]
        level = self.sde.schedule.ratio(t).to(x_t).expand(x_t.shape[0])
        if self.zero_one:
            return 2 * self.denoiser(0.5 * y + 0.5, 0.5 * level) - 1
        return self.denoiser(y, level)


def to_deepinv(denoiser: Denoiser, *, zero_one: bool = True, **condition: Any) -> nn.Module:
    """A denoiser of ours as one of deepinv's: called as found(x, sigma), for its priors, plug-and-play and sampling.

    Args:
        denoiser: A model under `PixelNoise` or `WhiteNoise`, whose noise is white on each grid.
        zero_one: Whether pictures are in [0, 1] there and in [-1, 1] here; False if both have the data's units.
        condition: As of `sample`, one for all.

    Returns:
        A `deepinv.models.Denoiser`. Levels beyond the schedule's ends count as the ends.

    Raises:
        ImportError: If deepinv is not installed.
        ValueError: If the noise is smooth, which deepinv's is not.
    """
    from deepinv.models import Denoiser as DeepinvBase

    from fnodiff.sde.denoiser import condition_rows
    from fnodiff.sde.given import Given
    from fnodiff.sde.white import WhiteNoise

    if not isinstance(denoiser.sde.noise, PixelNoise | WhiteNoise):
        raise ValueError(
            f"to_deepinv: expected a model of white noise, as deepinv's is, got {denoiser.sde.noise}; train one with "
            f"noise=WhiteNoise(domain, reference)."
        )
    half = 2.0 if zero_one else 1.0

    class Exchanged(DeepinvBase):
        """One of fnodiff's denoisers."""

        def __init__(self) -> None:
            super().__init__()
            self.denoiser = denoiser

        def forward(self, x: Tensor, sigma: float | Tensor, **_: Any) -> Tensor:
            """The denoised pictures (B, C, *spatial), from x with noise of standard deviation sigma, () or (B,)."""
            units, sde = self.denoiser.normalization, self.denoiser.sde
            spread = (
                units.std if isinstance(units.std, float) else math.exp(sum(map(math.log, units.std)) / len(units.std))
            )
            level = on_device(in_double(torch.as_tensor(sigma)), x.device)
            if level.numel() not in (1, len(x)) or not bool((level >= 0).all()):
                raise ValueError(
                    f"to_deepinv: expected sigma >= 0, one for all or for each of {len(x)} pictures, got {sigma}; give the "
                    f"standard deviation of the noise."
                )
            level = level.flatten().expand(len(x)) * half / spread
            level = level / math.sqrt(sde.noise.variance(tuple(x.shape[2:])))
            t = sde.schedule.time(level.clamp(min=1e-12)).nan_to_num(0.0).clamp(0, 1)
            y = units(half * x - 1 if zero_one else x)
            given = condition_rows(self.denoiser, condition, len(x))
            inner = Given(self.denoiser, **given) if given else self.denoiser
            found = units.inverse(inner(over_space(sde.schedule(t)[0], y).to(y) * y, t))
            return (found + 1) / 2 if zero_one else found

    return Exchanged().to(next(denoiser.parameters(), torch.empty(0)).device)
