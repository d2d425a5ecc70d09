"""The reverse SDE, by the method of Euler and Maruyama."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fnodiff.expected import kinds_checked
from fnodiff.sde.denoiser import Denoiser
from fnodiff.sde.solvers.base import Fresh, Solver


@kinds_checked
@dataclass(frozen=True)
class EulerMaruyama(Solver):
    """The reverse SDE, dx = (f x - g^2 C grad log p) dt + g C^(1/2) dW, by Euler and Maruyama's step. Wants hundreds of steps.

    Source: Song et al. (2021), Score-based generative modeling through SDEs.

    Examples:
        >>> from fnodiff import VP, EulerMaruyama, FunctionSpaceSDE, GaussianRandomField, Matern, Torus, sample
        >>> from fnodiff.sde import GaussianDenoiser
        >>> field = GaussianRandomField(Torus(1), Matern(1.0, 0.01))
        >>> x = sample(GaussianDenoiser(field, FunctionSpaceSDE(field, VP())), (256,), range(8), solver=EulerMaruyama(30))
        >>> bool(0.8 < x.var() < 1.2)  # the data's is 1
        True
    """

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, memory: Any, noise: Fresh
    ) -> tuple[Tensor, Any]:
        sde = denoiser.sde
        g, h = sde.diffusion(t).to(x_t), (t - s).to(x_t)
        score = sde.score(x_t, t, denoiser(x_t, t))
        backward = sde.drift(x_t, t) - g.square() * score
        return x_t - h * backward + g * h.sqrt() * noise(x_t), None
