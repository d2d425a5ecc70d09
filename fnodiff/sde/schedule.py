"""Schedules: t in [0, 1] -> (alpha_t, sigma_t), the law of x_t = alpha_t x + sigma_t z.

    EDM     alpha = 1,  sigma = (sigma_min^(1/rho) + t (sigma_max^(1/rho) - sigma_min^(1/rho)))^rho
    VE      alpha = 1,  sigma = sigma_min (sigma_max / sigma_min)^t
    VP      alpha = exp(-B(s) / 2),  sigma^2 = 1 - alpha^2,  B(s) = beta_min s + (beta_max - beta_min) s^2 / 2,
            s = t_min + t (1 - t_min)
    SubVP   alpha = exp(-B(s) / 2),  sigma = 1 - alpha^2
    Cosine  alpha = cos(a),  sigma = sin(a),  a = a_min + t (a_max - a_min)
    RectifiedFlow  alpha = 1 - u,  sigma = u,  u = u_min + t (u_max - u_min)

t = 0 is clean and t = 1 is noise. sigma(0) > 0: nothing is ever evaluated without noise.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fnodiff.expected import kinds_checked


def check_rho(owner: str, rho: float) -> None:
    """Raise a ValueError unless sigma^(1/rho) is a number of use."""
    if not 0.1 <= rho <= 100:
        raise ValueError(f"{owner}: expected rho from 0.1 to 100, got {rho!r}; 7 is usual.")


class Schedule(abc.ABC):
    """t -> (alpha_t, sigma_t). Subclasses define `__call__` and its inverse `time`; sigma / alpha rises with t.

    Attributes:
        even_log_snr: Whether noise levels of a solver that names no spacing lie evenly in ln(alpha^2 / sigma^2), rather than
            in t. Where t was made for training, as in VP, its last steps are too long for a solver of second order.
    """

    even_log_snr: ClassVar[bool] = False

    @abc.abstractmethod
    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t, of t's shape and dtype."""

    @abc.abstractmethod
    def time(self, ratio: Tensor) -> Tensor:
        """The t at which sigma_t / alpha_t = ratio."""

    def ratio(self, t: Tensor) -> Tensor:
        """sigma_t / alpha_t, the noise level in the units of x."""
        alpha_t, sigma_t = self(t)
        return sigma_t / alpha_t

    def _check_order(self, **values: float) -> None:
        """Raise unless the named values are positive and increase in the order given."""
        names = " < ".join(values)
        if not all(a < b for a, b in zip((0.0, *values.values()), (*values.values(), float("inf")), strict=True)):
            name, got = type(self).__name__, ", ".join(f"{key}={value!r}" for key, value in values.items())
            order = "give the smaller one first: " if len(values) > 1 else ""
            raise ValueError(f"{name}: expected 0 < {names} < inf, got {got}; {order}{name}() has the usual ones.")


@kinds_checked
@dataclass(frozen=True)
class EDM(Schedule):
    """The variance-exploding schedule whose equal steps in t are equal steps of sigma^(1/rho).

    Args:
        sigma_min: Noise level at t = 0, in the units of the (normalised) data.
        sigma_max: Noise level at t = 1.
        rho: How strongly steps crowd towards small noise.

    Source: Karras, Aittala, Aila, Laine (2022), Elucidating the design space of diffusion-based generative models.

    Examples:
        >>> import torch
        >>> from fnodiff import EDM
        >>> alpha, sigma = EDM()(torch.linspace(0, 1, 5))
        >>> [round(float(s), 3) for s in sigma]
        [0.002, 0.17, 2.515, 17.528, 80.0]
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        self._check_order(sigma_min=self.sigma_min, sigma_max=self.sigma_max)
        check_rho("EDM", self.rho)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return torch.ones_like(t), (low + t * (high - low)) ** self.rho

    def time(self, ratio: Tensor) -> Tensor:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return (ratio ** (1 / self.rho) - low) / (high - low)


@kinds_checked
@dataclass(frozen=True)
class VE(Schedule):
    """The variance-exploding schedule whose equal steps in t are equal steps of ln(sigma).

    Args:
        sigma_min: Noise level at t = 0, in the units of the (normalised) data.
        sigma_max: Noise level at t = 1.

    Source: Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole (2021), Score-based generative modeling through SDEs.

    Examples:
        >>> import torch
        >>> from fnodiff import VE
        >>> alpha, sigma = VE()(torch.linspace(0, 1, 5))
        >>> [round(float(s), 3) for s in sigma]
        [0.01, 0.084, 0.707, 5.946, 50.0]
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        self._check_order(sigma_min=self.sigma_min, sigma_max=self.sigma_max)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def time(self, ratio: Tensor) -> Tensor:
        return (ratio / self.sigma_min).log() / math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class _LinearRate(Schedule):
    """A linear rate beta(s) = beta_min + (beta_max - beta_min) s on s = t_min + t (1 - t_min)."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3

    even_log_snr: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._check_order(beta_min=self.beta_min, beta_max=self.beta_max)
        self._check_order(t_min=self.t_min, one=1.0)
        if (both := self.beta_min + self.beta_max) > 340:  # float32 has no smaller alpha
            raise ValueError(
                f"{type(self).__name__}: expected beta_min + beta_max of at most 340, as alpha at t = 1 is "
                f"exp(-(beta_min + beta_max) / 4), got {both!r}; {type(self).__name__}() has 20.1."
            )

    def _integral(self, t: Tensor) -> Tensor:
        """B(s), the integral of beta from 0 to s."""
        s = self.t_min + t * (1 - self.t_min)
        return self.beta_min * s + 0.5 * (self.beta_max - self.beta_min) * s.square()

    def _time(self, b: Tensor) -> Tensor:
        """The t at which B(s) = b."""
        slope = self.beta_max - self.beta_min
        s = 2 * b / (self.beta_min + (self.beta_min**2 + 2 * slope * b).sqrt())  # stable for small b
        return (s - self.t_min) / (1 - self.t_min)


@kinds_checked
@dataclass(frozen=True)
class VP(_LinearRate):
    """The variance-preserving schedule with a linear rate beta.

    Args:
        beta_min: Rate at s = 0.
        beta_max: Rate at s = 1; with beta_min at most 340, as float32 holds no smaller alpha.
        t_min: Where on the time axis s of the source t = 0 lies; it sets sigma(0) = sqrt(1 - exp(-B(t_min))).

    Source: Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole (2021), Score-based generative modeling through SDEs.

    Examples:
        >>> import torch
        >>> from fnodiff import VP
        >>> alpha, sigma = VP()(torch.linspace(0, 1, 5))
        >>> [round(float(s), 3) for s in sigma]
        [0.01, 0.692, 0.96, 0.998, 1.0]
    """

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        b = self._integral(t)
        return (-0.5 * b).exp(), (-torch.expm1(-b)).sqrt()

    def time(self, ratio: Tensor) -> Tensor:
        return self._time(torch.log1p(ratio.square()))


@kinds_checked
@dataclass(frozen=True)
class SubVP(_LinearRate):
    """The sub-variance-preserving schedule: VP's alpha with the smaller noise sigma = 1 - alpha^2.

    Args:
        beta_min: Rate at s = 0.
        beta_max: Rate at s = 1; with beta_min at most 340, as float32 holds no smaller alpha.
        t_min: Where on the time axis s of the source t = 0 lies; it sets sigma(0) = 1 - exp(-B(t_min)).

    Source: Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole (2021), Score-based generative modeling through SDEs.

    Examples:
        >>> import torch
        >>> from fnodiff import SubVP
        >>> alpha, sigma = SubVP()(torch.linspace(0, 1, 5))
        >>> [round(float(s), 3) for s in sigma]
        [0.002, 0.496, 0.925, 0.997, 1.0]
    """

    t_min: float = 0.01  # sigma, not its square, grows like s here: VP's t_min would start ten times cleaner

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        b = self._integral(t)
        return (-0.5 * b).exp(), -torch.expm1(-b)

    def time(self, ratio: Tensor) -> Tensor:
        return self._time(2 * (0.5 * ratio).asinh())  # sigma / alpha = 2 sinh(B / 2)


@kinds_checked
@dataclass(frozen=True)
class Cosine(Schedule):
    """The variance-preserving schedule on a quarter circle, cut where sigma / alpha reaches its ends.

    Args:
        sigma_min: sigma / alpha at t = 0, in the units of the (normalised) data.
        sigma_max: sigma / alpha at t = 1.

    Source: Nichol, Dhariwal (2021), Improved denoising diffusion probabilistic models; their offset 0.008 at the clean
    end is sigma_min = 0.0125 here.

    Examples:
        >>> import torch
        >>> from fnodiff import Cosine
        >>> alpha, sigma = Cosine()(torch.linspace(0, 1, 5))
        >>> [round(float(s), 3) for s in sigma]
        [0.012, 0.388, 0.707, 0.921, 1.0]
    """

    sigma_min: float = 0.0125
    sigma_max: float = 80.0

    even_log_snr: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._check_order(sigma_min=self.sigma_min, sigma_max=self.sigma_max)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        low, high = math.atan(self.sigma_min), math.atan(self.sigma_max)
        angle = low + t * (high - low)
        return angle.cos(), angle.sin()

    def time(self, ratio: Tensor) -> Tensor:
        low, high = math.atan(self.sigma_min), math.atan(self.sigma_max)
        return (ratio.atan() - low) / (high - low)


@kinds_checked
@dataclass(frozen=True)
class RectifiedFlow(Schedule):
    """The straight path of flow matching (rectified flow): alpha = 1 - u, sigma = u.

    u goes from u_min = sigma_min / (1 + sigma_min) to u_max = sigma_max / (1 + sigma_max): it is cut off before alpha = 0,
    where x_t / alpha is infinite, and before sigma = 0. With `FlowScaling` and a Gaussian random field as noise this is
    functional flow matching.

    Args:
        sigma_min: sigma / alpha at t = 0, in the units of the (normalised) data.
        sigma_max: sigma / alpha at t = 1, where alpha = 1 / (1 + sigma_max).

    Source: Liu, Gong, Liu (2023), Flow straight and fast: learning to generate and transfer data with rectified flow; Kerrigan,
    Migliorini, Smyth (2023), Functional flow matching.

    Examples:
        >>> import torch
        >>> from fnodiff import RectifiedFlow
        >>> alpha, sigma = RectifiedFlow()(torch.linspace(0, 1, 5))
        >>> [round(float(s), 3) for s in sigma]
        [0.002, 0.251, 0.5, 0.75, 0.999]
    """

    sigma_min: float = 0.002
    sigma_max: float = 1000.0

    even_log_snr: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._check_order(sigma_min=self.sigma_min, sigma_max=self.sigma_max)

    @property
    def _ends(self) -> tuple[float, float]:
        return self.sigma_min / (1 + self.sigma_min), self.sigma_max / (1 + self.sigma_max)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self._ends
        u = low + t * (high - low)
        return 1 - low - t * (high - low), u

    def time(self, ratio: Tensor) -> Tensor:
        low, high = self._ends
        return (ratio / (1 + ratio) - low) / (high - low)
