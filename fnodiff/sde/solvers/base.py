"""What every solver is: settings, the times that it visits, and a step.

In y = x_t / alpha_t and s = sigma_t / alpha_t the probability-flow ODE is the same for every schedule,

    dy / ds = (y - D(x_t, t)) / s,

for any noise: the covariance is in x_t, and solvers never see the domain. A run steps through decreasing times from 1 to 0 and
ends with the denoised estimate at sigma(0), which is one Euler step to zero; nothing is evaluated at sigma = 0.

Source: Karras et al. (2022), Elucidating the design space of diffusion-based generative models.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar

from torch import Tensor

from fnodiff.sde.denoiser import Denoiser
from fnodiff.sde.schedule import Schedule
from fnodiff.sde.solvers.spacing import Spacing, usual

Fresh = Callable[[Tensor], Tensor]
"""x (B, C, *spatial) -> a fresh draw of the process' noise of x's shape, by each sample's seed."""


@dataclass(frozen=True)
class Solver(abc.ABC):
    """Settings alone: a solver holds no denoiser and no state. Subclasses are frozen dataclasses and define `step`.

    Args:
        steps: Number of noise levels, from sigma(1) down to sigma(0); the step from the last to zero is the denoised estimate
            there.
        spacing: Where they lie; None for the schedule's usual spacing: `EvenTime` for EDM and VE, `EvenLogSNR` for
            the others.

    Raises:
        ValueError: If `steps` is not a positive integer, or the spacing is none.

    Examples:
        A solver of two estimates a step, each at one time, that keeps nothing from one step to the next:

        >>> from dataclasses import dataclass
        >>> from fnodiff import EDM, Box, FunctionSpaceSDE, GaussianRandomField, Matern, sample
        >>> from fnodiff.sde import GaussianDenoiser, Solver
        >>> @dataclass(frozen=True)
        ... class Euler(Solver):
        ...     def step(self, denoiser, x_t, t, s, memory, noise):
        ...         (alpha_t, sigma_t), (alpha_s, sigma_s) = (denoiser.sde.marginal(x_t, time) for time in (t, s))
        ...         x_hat = denoiser(x_t, t)
        ...         return alpha_s * x_hat + sigma_s / sigma_t * (x_t - alpha_t * x_hat), None
        >>> field = GaussianRandomField(Box(1), Matern(1.0, 0.3))
        >>> sample(GaussianDenoiser(field, FunctionSpaceSDE(field, EDM())), (32,), range(2), solver=Euler(50)).shape
        torch.Size([2, 1, 32])
    """

    steps: int = 18
    spacing: Spacing | None = None

    evaluations_per_step: ClassVar[int] = 1
    """Of the denoiser."""
    usual_steps: ClassVar[int] = 18
    """What errors name."""

    def __post_init__(self) -> None:
        name = type(self).__name__
        if isinstance(self.steps, bool) or not isinstance(self.steps, Integral) or self.steps < 1:
            raise ValueError(f"{name}: expected steps >= 1, got {self.steps!r}; {self.usual_steps} is usual.")
        if self.spacing is not None and not isinstance(self.spacing, Spacing):
            raise ValueError(
                f"{name}: expected a spacing such as EvenTime() or EvenLogSNR(), got {self.spacing!r}; name one of these."
            )

    @abc.abstractmethod
    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, memory: Any, noise: Fresh
    ) -> tuple[Tensor, Any]:
        """The state at s < t from that at t; the one override point.

        Args:
            denoiser: Called as denoiser(x_t, t): conditions are bound, known modes are held, an observation is heeded.
            x_t: (B, C, *spatial).
            t, s: Times, each ().
            memory: What the last step of this stage returned; None at its first.
            noise: Fresh noise: noise(x_t) has x_t's shape.

        Returns:
            x_s, and what the next step should remember.
        """

    def times(self, schedule: Schedule) -> Tensor:
        """The times (steps,), decreasing from 1 to 0, in float64, so that no step is lost to rounding."""
        return (self.spacing or usual(schedule)).times(schedule, self.steps)

    @property
    def evaluations(self) -> int:
        """Of the denoiser, for one sample of a direct run."""
        return (self.steps - 1) * self.evaluations_per_step + 1
