"""Samplers of the reverse SDE and by Langevin steps.

    EulerMaruyama                         the reverse SDE
    PredictorCorrector, AnnealedLangevin  Langevin steps at each level, after a step of the reverse SDE or alone

Source: Song et al. (2021), Score-based generative modeling through SDEs.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fnodiff.domain import Generators
from fnodiff.sde.denoise import Denoiser
from fnodiff.sde.sample import Sampler


class EulerMaruyama(Sampler):
    """The reverse SDE, dx = (f x - g^2 C grad log p) dt + g C^(1/2) dW, by Euler and Maruyama's step. Wants hundreds of steps.

    Source: Song et al. (2021), Score-based generative modeling through SDEs.

    Examples:
        >>> import torch
        >>> from fnodiff import VP, EulerMaruyama, FunctionSpaceSDE, GaussianRandomField, Matern, Torus
        >>> from fnodiff.sde import GaussianDenoiser
        >>> field = GaussianRandomField(Torus(1), Matern(1.0, 0.01))
        >>> denoiser = GaussianDenoiser(field, FunctionSpaceSDE(field, VP()))
        >>> noise = denoiser.sde.prior((8, 1, 256), generator=torch.Generator().manual_seed(0))
        >>> x = EulerMaruyama(denoiser, steps=30)(noise)
        >>> bool(0.8 < x.var() < 1.2)  # the data's is 1
        True
    """

    def step(self, x_t: Tensor, t: Tensor, s: Tensor, *, generator: Generators = None, **condition: Tensor) -> Tensor:
        g, h = self.sde.diffusion(t).to(x_t), (t - s).to(x_t)
        score = self.sde.score(x_t, t, self.denoiser(x_t, t, **condition))
        backward = self.sde.drift(x_t, t) - g.square() * score
        return x_t - h * backward + g * h.sqrt() * self._noise(x_t, generator)


class _Langevin(Sampler):
    """Samplers with Langevin steps, dx = C grad log p dt + sqrt(2) C^(1/2) dW, which leave the law at their level unchanged.

    Args:
        denoiser: E[x | x_t].
        steps: Number of noise levels.
        corrections: Langevin steps per level.
        snr: Their length: 2 (snr sigma)^2, whose bias in variance is below 2 snr^2.
        spacing: As for `Sampler`, with its rho and compile.

    Raises:
        ValueError: If corrections < 1, or snr is not in (0, 1).
    """

    def __init__(self, denoiser: Denoiser, steps: int, corrections: int = 1, snr: float = 0.16, **spacing: Any) -> None:
        super().__init__(denoiser, steps, **spacing)
        if not isinstance(corrections, int) or corrections < 1 or not 0 < snr < 1:
            raise ValueError(
                f"{type(self).__name__}: expected corrections >= 1 and snr in (0, 1), got {corrections!r} and {snr!r}; "
                f"0.16 is usual."
            )
        self.corrections, self.snr = corrections, snr

    @property
    def evaluations(self) -> int:
        return 1 + (self.steps - 1) * (self.corrections + isinstance(self, EulerMaruyama))

    def _correct(self, x: Tensor, s: Tensor, generator: Generators, condition: dict[str, Tensor]) -> Tensor:
        """The Langevin steps at time s."""
        sigma = self.sde.marginal(x, s)[1]
        length = 2 * (self.snr * sigma).square()
        for _ in range(self.corrections):
            score = self.sde.score(x, s, self.denoiser(x, s, **condition))
            x = x + length * score + (2 * length).sqrt() * self._noise(x, generator)
        return x


class PredictorCorrector(_Langevin, EulerMaruyama):
    """A step of the reverse SDE, then Langevin steps at the new level.

    Source: Song et al. (2021), Score-based generative modeling through SDEs, algorithms 2 and 3.

    Examples:
        >>> import torch
        >>> from fnodiff import VP, FunctionSpaceSDE, GaussianRandomField, Matern, PredictorCorrector, Torus
        >>> from fnodiff.sde import GaussianDenoiser
        >>> field = GaussianRandomField(Torus(1), Matern(1.0, 0.01))
        >>> denoiser = GaussianDenoiser(field, FunctionSpaceSDE(field, VP()))
        >>> noise = denoiser.sde.prior((8, 1, 256), generator=torch.Generator().manual_seed(0))
        >>> x = PredictorCorrector(denoiser, steps=30)(noise)
        >>> bool(0.8 < x.var() < 1.2)  # the data's is 1
        True
    """

    def step(self, x_t: Tensor, t: Tensor, s: Tensor, *, generator: Generators = None, **condition: Tensor) -> Tensor:
        x = super().step(x_t, t, s, generator=generator, **condition)
        return self._correct(x, s, generator, condition)


class AnnealedLangevin(_Langevin):
    """Langevin steps alone, at one noise level after the other. Right only where levels are close and corrections many.

    Source: Song, Ermon (2019), Generative modeling by estimating gradients of the data distribution.

    Examples:
        >>> import torch
        >>> from fnodiff import EDM, AnnealedLangevin, FunctionSpaceSDE, GaussianRandomField, Matern, Torus
        >>> from fnodiff.sde import GaussianDenoiser
        >>> field = GaussianRandomField(Torus(1), Matern(1.0, 0.01))
        >>> denoiser = GaussianDenoiser(field, FunctionSpaceSDE(field, EDM(0.01, 10.0)))
        >>> noise = denoiser.sde.prior((8, 1, 256), generator=torch.Generator().manual_seed(0))
        >>> x = AnnealedLangevin(denoiser, steps=40, corrections=8, snr=0.3)(noise)
        >>> bool(0.8 < x.var() < 1.2)  # the data's is 1
        True
    """

    def step(self, x_t: Tensor, t: Tensor, s: Tensor, *, generator: Generators = None, **condition: Tensor) -> Tensor:
        alpha_t, alpha_s = self.sde.marginal(x_t, t)[0], self.sde.marginal(x_t, s)[0]
        return self._correct(alpha_s / alpha_t * x_t, s, generator, condition)
