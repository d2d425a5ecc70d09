"""DPM-Solver++ (2M): second order at one evaluation a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fnodiff.expected import kinds_checked
from fnodiff.sde.denoiser import Denoiser
from fnodiff.sde.solvers.base import Fresh, Solver
from fnodiff.sde.solvers.ddim import check_share


@kinds_checked
@dataclass(frozen=True)
class DPMSolver(Solver):
    """DPM-Solver++ (2M): second order at one evaluation a step, by the estimates of the last two; its SDE form at eta = 1.

        x_s = (sigma_s / sigma_t) e^(-eta h) x_t + alpha_s (1 - e^(-(1 + eta) h)) D + sigma_s sqrt(1 - e^(-2 eta h)) z,
        D = x_hat_t + (x_hat_t - x_hat_u) h / (2 h_u)

    with h = ln(alpha_s / sigma_s) - ln(alpha_t / sigma_t), and h_u the step before, from u to t. Its first step is DDIM's.

    Args:
        steps: Number of noise levels.
        spacing: Where they lie.
        eta: 0 for the ODE, 1 for the reverse SDE, or between.

    Source: Lu et al. (2022), DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models.

    Examples:
        >>> from fnodiff import EDM, DPMSolver, FunctionSpaceSDE, GaussianRandomField, Matern, Torus, sample
        >>> from fnodiff.sde import GaussianDenoiser
        >>> field = GaussianRandomField(Torus(1), Matern(1.0, 0.01))
        >>> x = sample(GaussianDenoiser(field, FunctionSpaceSDE(field, EDM())), (256,), range(8), solver=DPMSolver(18))
        >>> bool(0.8 < x.var() < 1.2)  # the data's is 1
        True
    """

    eta: float = 0.0

    usual_steps = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("DPMSolver", self.eta)

    def step(
        self,
        denoiser: Denoiser,
        x_t: Tensor,
        t: Tensor,
        s: Tensor,
        memory: tuple[Tensor, Tensor] | None,
        noise: Fresh,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = denoiser.sde.marginal(x_t, t), denoiser.sde.marginal(x_t, s)
        h = (alpha_s * sigma_t / (sigma_s * alpha_t)).log()
        x_hat = denoiser(x_t, t)
        estimate = x_hat
        if memory is not None:
            h_before, x_hat_before = memory
            estimate = x_hat + (x_hat - x_hat_before) * (h / (2 * h_before))
        x = sigma_s / sigma_t * (-self.eta * h).exp() * x_t - alpha_s * torch.expm1(-(1 + self.eta) * h) * estimate
        if self.eta > 0:
            x = x + sigma_s * (-torch.expm1(-2 * self.eta * h)).sqrt() * noise(x)
        return x, (h, x_hat)
