"""The diffusion of functions: x_t = alpha_t x + sigma_t z, z ~ noise with covariance C.

Its forward SDE has drift and diffusion

    dx = f_t x dt + g_t C^(1/2) dW,    f = d ln(alpha) / dt,    g^2 = d sigma^2 / dt - 2 f sigma^2,

and its score *operator* carries C, so that no inverse covariance appears anywhere:

    C grad log p_t(x_t) = (alpha_t E[x | x_t] - x_t) / sigma_t^2.

Source: Pidstrigach, Marzouk, Reich, Wang (2023), Infinite-dimensional diffusion models; Lim et al. (2023), Score-based
diffusion models in function space.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fnodiff.domain import Domain, Generators
from fnodiff.expected import kinds_checked
from fnodiff.sde.noise import ChannelSpectra, Noise, Spectrum, on_domain
from fnodiff.sde.schedule import Schedule


def over_space(t: Tensor, x: Tensor) -> Tensor:
    """A value per sample, () or (B,), shaped to multiply a field (B, C, *spatial).

    Raises:
        ValueError: If `t` has another shape.
    """
    if t.ndim == 0 or tuple(t.shape) == (x.shape[0],):
        return t.reshape(t.shape + (1,) * (x.ndim - 1)) if t.ndim else t
    raise ValueError(
        f"expected one time for all samples, (), or one per sample, ({x.shape[0]},), got shape {tuple(t.shape)}; "
        f"reshape or expand it."
    )


@kinds_checked
@dataclass(frozen=True)
class FunctionSpaceSDE:
    """x_t = alpha_t x + sigma_t z with z drawn from a noise on a domain.

    Times are tensors () or (B,) in [0, 1], 0 clean and 1 noise; fields are (B, C, *spatial), on any grid.

    Args:
        noise: The law of z.
        schedule: t -> (alpha_t, sigma_t).

    Raises:
        ValueError: If they are something else.

    Examples:
        >>> import torch
        >>> from fnodiff import EDM, Box, FunctionSpaceSDE, WhiteNoise
        >>> sde = FunctionSpaceSDE(WhiteNoise(Box(2), reference=(32, 32)), EDM())
        >>> x_t, z = sde.perturb(torch.zeros(4, 3, 24, 24), torch.tensor([0.0, 0.2, 0.5, 1.0]))
        >>> [round(float((a / b).mean()), 3) for a, b in zip(x_t, z)]  # sigma_t
        [0.002, 0.085, 2.515, 80.0]
    """

    noise: Noise
    schedule: Schedule

    def __post_init__(self) -> None:
        fits = hasattr(self.noise, "sample") and hasattr(self.schedule, "ratio") and callable(self.schedule)
        if not fits or isinstance(self.noise, type) or isinstance(self.schedule, type):
            raise ValueError(
                f"FunctionSpaceSDE: expected a Noise and a Schedule, got {self.noise!r} and {self.schedule!r}; write such as "
                f"FunctionSpaceSDE(WhiteNoise(domain, reference), EDM())."
            )

    @property
    def domain(self) -> Domain:
        """The domain that the noise lives on."""
        return self.noise.domain

    def marginal(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t, shaped to multiply the field `x`.

        Raises:
            ValueError: If `t` is not () or (B,), or has values outside [0, 1].
        """
        if not isinstance(t, Tensor):
            raise ValueError(f"expected times as a tensor, () or (B,), got {t!r}; write torch.tensor({t!r}).")
        if not torch.compiler.is_compiling() and not bool(((t >= 0) & (t <= 1)).all()):
            raise ValueError(
                f"expected times in [0, 1] (0 clean, 1 noise), got values from {float(t.min()):g} to {float(t.max()):g}; "
                f"convert a noise level with schedule.time(sigma / alpha)."
            )
        alpha_t, sigma_t = self.schedule(over_space(t, x))
        return alpha_t.to(x), sigma_t.to(x)

    def perturb(self, x: Tensor, t: Tensor, *, generator: Generators = None) -> tuple[Tensor, Tensor]:
        """x_t and the noise z in it, each of x's shape.

        Raises:
            ValueError: If `x` is not a field on the domain or `t` is not a time.
        """
        self.domain.check_field(x)
        alpha_t, sigma_t = self.marginal(x, t)
        z = self.noise.sample(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return alpha_t * x + sigma_t * z, z

    def prior(self, shape: Sequence[int], *, generator: Generators = None, device=None, dtype=None) -> Tensor:
        """The starting point of sampling, sigma(1) z, of shape (B, C, *spatial)."""
        z = self.noise.sample(shape, generator=generator, device=device, dtype=dtype)
        return self.schedule(torch.ones((), dtype=torch.float64))[1].to(z) * z

    def score(self, x_t: Tensor, t: Tensor, x_hat: Tensor) -> Tensor:
        """C grad log p_t at x_t, from the denoised estimate x_hat = E[x | x_t]."""
        alpha_t, sigma_t = self.marginal(x_t, t)
        return (alpha_t * x_hat - x_t) / sigma_t.square()

    def check(self, spectrum: Spectrum, shape: Sequence[int], *, stacklevel: int = 2) -> dict[str, float]:
        """Do this noise and schedule suit data with this spectrum on this grid? Numbers, and warnings where they do not.

        Args:
            spectrum: The data's variance per mode, such as `fit_spectrum` returns.
            shape: Spatial shape of the grid.
            stacklevel: Whose line the warnings name, as of `warnings.warn`: the caller's.

        Returns:
            A dict with

            - snr_end: the largest alpha^2 S / (sigma^2 C) left at t = 1, which the prior ignores;
            - energy_lost: the share of the data's variance that this costs, sum of S snr / (1 + snr) over sum of S;
            - snr_start: the smallest at t = 0; below 1, some mode is never resolved;
            - unresolved: the share of the modes for which it is below 1;
            - data_exponent: p of S ~ k^-p over the upper half of the wavenumbers (if channels differ, of the one whose noise
              is smoothest beside its data), infinite of data without energy there;
            - noise_exponent: q of C ~ k^-q there; with q > p, noise smoother than the data, their detail would be made
              before their structure;
            - underflow: the share of the modes whose standard deviation is zero, or not normal, in float32.

        Warns:
            UserWarning: If snr_end > 0.01, noise_exponent > data_exponent + 0.1, or modes underflow.
        """
        domain, shape = self.domain, self.domain.check_shape(shape)
        spectrum = on_domain(spectrum, domain)
        eigenvalues, mult = (f(shape, dtype=torch.float64).flatten() for f in (domain.eigenvalues, domain.multiplicity))
        s = spectrum(eigenvalues, domain.dim).reshape(-1, len(eigenvalues))  # a row for each channel that has its own
        std = self.noise.on(shape).std(eigenvalues).reshape(-1, len(eigenvalues))
        s, std = torch.broadcast_tensors(s, std)
        ratio = self.schedule.ratio(torch.tensor([0.0, 1.0], dtype=torch.float64))
        snr_start, snr_end = (s / (r * std).square().clamp(min=1e-300) for r in ratio)
        k = eigenvalues.sqrt()
        upper = k >= k.max() / 2
        counted, exponents = has_data(s, eigenvalues, spectrum), []
        for data, noise, there in zip(s, std.square(), counted & upper, strict=True):
            fall = bool(there.any()) and float(k[there].max()) > float(k[there].min())
            there = there if fall else upper
            p, q = (-_slope(k[there].log(), row[there].clamp(min=1e-300).log(), mult[there]) for row in (data, noise))
            exponents.append((p if fall else math.inf, q))
        worst = max(exponents, key=lambda pair: pair[1] - pair[0])
        found = {
            "snr_end": float(snr_end.max()),
            "energy_lost": float((mult * s * snr_end / (1 + snr_end)).sum() / (mult * s).sum()),
            "snr_start": float(snr_start[counted].min()),
            "unresolved": float((mult * (snr_start < 1) * counted).sum() / (mult * counted).sum()),
            "data_exponent": worst[0],
            "noise_exponent": worst[1],
            "underflow": float((mult * (std < torch.finfo(torch.float32).tiny)).sum() / (mult.sum() * len(std))),
        }
        name = f"{self.noise} with {self.schedule}"
        if found["snr_end"] > 0.01 * (1 + 1e-6):  # levels made by noise_levels lie on the line
            needed = float(ratio[1]) * math.sqrt(found["snr_end"] / 0.01)
            warnings.warn(
                f"{name}: at t = 1 a mode keeps a signal-to-noise ratio of {found['snr_end']:.2g}, and samples lose "
                f"{100 * found['energy_lost']:.2g}% of the data's variance; let sigma / alpha end at {needed:.3g} or more.",
                stacklevel=stacklevel,
            )
        if found["noise_exponent"] > found["data_exponent"] + 0.1:
            smoothness = (found["data_exponent"] - domain.dim) / 2
            fit = f"Matern(smoothness={smoothness:.2g}) or rougher" if smoothness > 0 else "WhiteNoise"
            warnings.warn(
                f"{name}: the noise's modes fall as k^-{found['noise_exponent']:.2f} and the data's as "
                f"k^-{found['data_exponent']:.2f}: noise smoother than the data never destroys their detail; take {fit}.",
                stacklevel=stacklevel,
            )
        if found["underflow"] > 0:
            warnings.warn(
                f"{name}: {100 * found['underflow']:.2g}% of the modes have no noise in float32; take a rougher noise.",
                stacklevel=stacklevel,
            )
        return found

    def drift(self, x_t: Tensor, t: Tensor) -> Tensor:
        """f_t x_t, the drift of the forward SDE."""
        return over_space(self._rates(t)[0], x_t).to(x_t) * x_t

    def diffusion(self, t: Tensor) -> Tensor:
        """g_t, of t's shape: the forward SDE adds g_t^2 C dt of covariance."""
        return self._rates(t)[1]

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        (alpha_t, sigma_t), (d_alpha, d_sigma) = torch.func.jvp(self.schedule, (t,), (torch.ones_like(t),))
        f = d_alpha / alpha_t
        return f, (2 * sigma_t * (d_sigma - f * sigma_t)).sqrt()


def has_data(s: Tensor, eigenvalues: Tensor, spectrum: Spectrum | None = None) -> Tensor:
    """Where S counts: not at the mean of fields that have none, nor where the spectrum that it is of is at its floor."""
    largest = s.amax(tuple(range(-eigenvalues.ndim, 0)), keepdim=True)  # of each channel
    laws = spectrum.channels if isinstance(spectrum, ChannelSpectra) else (spectrum,)
    floor = torch.tensor([getattr(law, "floor", 0.0) for law in laws], dtype=s.dtype, device=s.device)
    floor = floor.reshape(-1, *(1,) * eigenvalues.ndim) if len(laws) > 1 else floor[0]
    return ((eigenvalues > 0) | (s > 1e-6 * largest)) & (s >= 1.001 * floor)


def _slope(x: Tensor, y: Tensor, weight: Tensor) -> float:
    """The slope of the weighted least-squares line."""
    x, y = (v - (v * weight).sum() / weight.sum() for v in (x, y))
    return float((weight * x * y).sum() / (weight * x.square()).sum())
