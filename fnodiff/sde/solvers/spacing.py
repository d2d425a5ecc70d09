"""Spacings: where on the time axis a solver's noise levels lie.

EvenTime     equal steps of the schedule's own t
EvenLogSNR   equal steps of ln(alpha^2 / sigma^2)
EvenRho      equal steps of (sigma / alpha)^(1 / rho)
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from fnodiff.expected import kinds_checked
from fnodiff.sde.schedule import Schedule, check_rho


class Spacing(abc.ABC):
    """Noise levels from the schedule's highest to its lowest. Subclasses are frozen dataclasses and define `ratios`."""

    @abc.abstractmethod
    def ratios(self, schedule: Schedule, t: Tensor) -> Tensor:
        """sigma / alpha at equally spaced t (steps,) from 1 to 0, float64, decreasing."""

    def times(self, schedule: Schedule, steps: int) -> Tensor:
        """(steps,) times, decreasing from 1 to 0, float64."""
        t = torch.linspace(1, 0, steps, dtype=torch.float64)
        if steps > 2:  # the ends are exact as they are
            t[1:-1] = schedule.time(self.ratios(schedule, t))[1:-1]
        return t


@dataclass(frozen=True)
class EvenTime(Spacing):
    """Equal steps of the schedule's own t: for `EDM`, equal steps of sigma^(1/7)."""

    def ratios(self, schedule: Schedule, t: Tensor) -> Tensor:
        return schedule.ratio(t)

    def times(self, schedule: Schedule, steps: int) -> Tensor:
        return torch.linspace(1, 0, steps, dtype=torch.float64)


@dataclass(frozen=True)
class EvenLogSNR(Spacing):
    """Equal steps of the log signal-to-noise ratio, ln(alpha^2 / sigma^2)."""

    def ratios(self, schedule: Schedule, t: Tensor) -> Tensor:
        low, high = schedule.ratio(torch.tensor([0.0, 1.0], dtype=torch.float64))
        return low * (high / low) ** t


@kinds_checked
@dataclass(frozen=True)
class EvenRho(Spacing):
    """Equal steps of (sigma / alpha)^(1 / rho).

    Args:
        rho: 1 for equal steps of sigma / alpha, more to crowd towards small noise; 7 is EDM's.

    Raises:
        ValueError: If rho is less than 0.1: powers of 1 / rho would overflow.

    Source: Karras, Aittala, Aila, Laine (2022), Elucidating the design space of diffusion-based generative models.
    """

    rho: float = 7.0

    def __post_init__(self) -> None:
        check_rho("EvenRho", self.rho)

    def ratios(self, schedule: Schedule, t: Tensor) -> Tensor:
        low, high = schedule.ratio(torch.tensor([0.0, 1.0], dtype=torch.float64))
        return torch.lerp(low ** (1 / self.rho), high ** (1 / self.rho), t) ** self.rho


def usual(schedule: Schedule) -> Spacing:
    """The spacing of a schedule where none is named."""
    return EvenLogSNR() if schedule.even_log_snr else EvenTime()
