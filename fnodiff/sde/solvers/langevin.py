"""Langevin steps, dx = C grad log p dt + sqrt(2) C^(1/2) dW, which leave the law at their noise level unchanged."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any

from torch import Tensor

from fnodiff.sde.denoiser import Denoiser
from fnodiff.sde.solvers.base import Fresh, Solver
from fnodiff.sde.solvers.euler_maruyama import EulerMaruyama


@dataclass(frozen=True)
class AnnealedLangevin(Solver):
    """Langevin steps alone, at one noise level after the other. Right only where levels are close and corrections many.

    Args:
        steps: Number of noise levels.
        spacing: Where they lie.
        corrections: Langevin steps per level.
        snr: Their length: 2 (snr sigma)^2, which makes the noise's variance too large by the share snr^2 / (1 - snr^2),
            2.6% at 0.16.

    Raises:
        ValueError: If corrections < 1, or snr is not in (0, 1).

    Source: Song, Ermon (2019), Generative modeling by estimating gradients of the data distribution.

    Examples:
        >>> from fnodiff import EDM, AnnealedLangevin, FunctionSpaceSDE, GaussianRandomField, Matern, Torus, sample
        >>> from fnodiff.sde import GaussianDenoiser
        >>> field = GaussianRandomField(Torus(1), Matern(1.0, 0.01))
        >>> denoiser = GaussianDenoiser(field, FunctionSpaceSDE(field, EDM(0.01, 10.0)))
        >>> x = sample(denoiser, (256,), range(8), solver=AnnealedLangevin(40, corrections=16, snr=0.3))
        >>> bool(0.8 < x.var() < 1.2)  # the data's is 1
        True
    """

    corrections: int = 1
    snr: float = 0.16

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.corrections, Integral) or self.corrections < 1 or not 0 < self.snr < 1:
            raise ValueError(
                f"{type(self).__name__}: expected corrections >= 1 and snr in (0, 1), got {self.corrections!r} and "
                f"{self.snr!r}; 0.16 is usual."
            )

    @property
    def evaluations_per_step(self) -> int:
        return self.corrections

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, memory: Any, noise: Fresh
    ) -> tuple[Tensor, Any]:
        alpha_t, alpha_s = denoiser.sde.marginal(x_t, t)[0], denoiser.sde.marginal(x_t, s)[0]
        return self.correct(denoiser, alpha_s / alpha_t * x_t, s, noise), None

    def correct(self, denoiser: Denoiser, x: Tensor, s: Tensor, noise: Fresh) -> Tensor:
        """The Langevin steps at time s."""
        sigma = denoiser.sde.marginal(x, s)[1]
        length = 2 * (self.snr * sigma).square()
        for _ in range(self.corrections):
            score = denoiser.sde.score(x, s, denoiser(x, s))
            x = x + length * score + (2 * length).sqrt() * noise(x)
        return x


@dataclass(frozen=True)
class PredictorCorrector(AnnealedLangevin):
    """A predictor's step, by default that of the reverse SDE, then Langevin steps at the new level.

    Args:
        steps: Number of noise levels.
        spacing: Where they lie.
        corrections: Langevin steps per level.
        snr: Their length: 2 (snr sigma)^2. As for `AnnealedLangevin` they leave a bias: the noise's variance is too large by up
            to the share snr^2 / (1 - snr^2), 2.6% at 0.16.
        predictor: The solver whose step comes first; its own number of steps and spacing do not count.

    Source: Song et al. (2021), Score-based generative modeling through SDEs, algorithms 2 and 3.

    Examples:
        >>> from fnodiff import VP, FunctionSpaceSDE, GaussianRandomField, Matern, PredictorCorrector, Torus, sample
        >>> from fnodiff.sde import GaussianDenoiser
        >>> field = GaussianRandomField(Torus(1), Matern(1.0, 0.01))
        >>> x = sample(GaussianDenoiser(field, FunctionSpaceSDE(field, VP())), (256,), range(8), solver=PredictorCorrector(30))
        >>> bool(0.8 < x.var() < 1.2)  # the data's is 1
        True
    """

    predictor: Solver = EulerMaruyama()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.predictor, Solver):
            raise ValueError(
                f"PredictorCorrector: expected a solver as predictor, got {self.predictor!r}; pass such as EulerMaruyama()."
            )

    @property
    def evaluations_per_step(self) -> int:
        return self.corrections + self.predictor.evaluations_per_step

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, memory: Any, noise: Fresh
    ) -> tuple[Tensor, Any]:
        x, memory = self.predictor.step(denoiser, x_t, t, s, memory, noise)
        return self.correct(denoiser, x, s, noise), memory
