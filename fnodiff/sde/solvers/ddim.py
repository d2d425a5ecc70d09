"""DDIM: first order, from the ODE to ancestral sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fnodiff.expected import kinds_checked
from fnodiff.sde.denoiser import Denoiser
from fnodiff.sde.solvers.base import Fresh, Solver


@kinds_checked
@dataclass(frozen=True)
class DDIM(Solver):
    """First order: Euler's step of the ODE at eta = 0, ancestral sampling at eta = 1.

        x_s = alpha_s x_hat + sqrt(sigma_s^2 - n^2) z_hat + n z,    n = eta sqrt(1 - (s_s / s_t)^2) sigma_s

    with x_hat = D(x_t, t), z_hat = (x_t - alpha_t x_hat) / sigma_t and noise levels s_t = sigma_t / alpha_t.

    Args:
        steps: Number of noise levels.
        spacing: Where they lie.
        eta: 0 to 1, the share of fresh noise.

    Source: Song, Meng, Ermon (2021), Denoising diffusion implicit models.

    Examples:
        >>> from fnodiff import DDIM, EDM, FunctionSpaceSDE, GaussianRandomField, Matern, Torus, sample
        >>> from fnodiff.sde import GaussianDenoiser
        >>> field = GaussianRandomField(Torus(1), Matern(1.0, 0.01))
        >>> x = sample(GaussianDenoiser(field, FunctionSpaceSDE(field, EDM())), (256,), range(8), solver=DDIM(100))
        >>> bool(0.8 < x.var() < 1.2)  # the data's is 1
        True
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("DDIM", self.eta)

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor, memory: Any, noise: Fresh
    ) -> tuple[Tensor, Any]:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = denoiser.sde.marginal(x_t, t), denoiser.sde.marginal(x_t, s)
        x_hat = denoiser(x_t, t)
        z_hat = (x_t - alpha_t * x_hat) / sigma_t
        if self.eta == 0:
            return alpha_s * x_hat + sigma_s * z_hat, None
        fresh = self.eta * sigma_s * (1 - (sigma_s * alpha_t / (sigma_t * alpha_s)).square()).sqrt()
        return alpha_s * x_hat + (sigma_s.square() - fresh.square()).sqrt() * z_hat + fresh * noise(x_t), None


def check_share(name: str, eta: float) -> None:
    """Raise unless eta is a share of fresh noise."""
    if not 0 <= eta <= 1:
        raise ValueError(
            f"{name}: expected eta in [0, 1], got {eta!r}; 0 is deterministic, 1 has all of the noise fresh."
        )
