"""Pseudoinverse-guided diffusion."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from fnodiff.expected import kinds_checked
from fnodiff.inverse.guided import Guided, check_iterations
from fnodiff.inverse.krylov import conjugate_residuals
from fnodiff.inverse.linearised import Linearised
from fnodiff.inverse.observation import Observation
from fnodiff.sde.denoiser import Denoiser


@kinds_checked
class PiGDM(Guided):
    """Pseudoinverse-guided diffusion: x given x_t as x_hat plus independent errors of variance r^2 at every grid point.

    r^2 = s^2 sd^2 / (s^2 + sd^2), with s the noise level per point and sd = sigma_data. Errors of functions are not
    independent between points, so the spread is not the posterior's, and depends on the grid. On Gaussian priors
    means were 0.3 to 0.8 posterior standard deviations off, and the spread 1.1 to 1.5 times the posterior's
    (`python -m benchmarks.posterior`).

    Args:
        denoiser: The prior's.
        observation: What was measured.
        sigma_data: Standard deviation of the normalised data; by default the denoiser's own.
        iterations: At most, of the solver for (r^2 A A^T + R)^-1; they cost no evaluations of the network.

    Raises:
        ValueError: If sigma_data is neither given nor known.

    Source: Song, Vahdat, Mardani, Kautz (2023), Pseudoinverse-guided diffusion models for inverse problems.
    """

    def __init__(
        self, denoiser: Denoiser, observation: Observation, sigma_data: float | None = None, *, iterations: int = 100
    ) -> None:
        super().__init__(denoiser, observation)
        sigma_data = denoiser.sigma_data if sigma_data is None else sigma_data
        if sigma_data is None or not 0 < sigma_data < math.inf:
            raise ValueError(
                f"PiGDM: expected sigma_data > 0, got {sigma_data!r}; pass the standard deviation of the normalised data."
            )
        self.spread, self.iterations = float(sigma_data), check_iterations("PiGDM", iterations)

    def correction(self, near: Linearised, pull: Callable[[Tensor], Tensor], x_t: Tensor, t: Tensor) -> Tensor:
        alpha_t, sigma_t = self.sde.marginal(x_t, t)
        std = self.sde.noise.point_std(tuple(x_t.shape[2:])).to(x_t).reshape(-1, *(1,) * self.sde.domain.dim)
        s2 = (std * sigma_t / alpha_t).square()
        r2 = s2 * self.spread**2 / (s2 + self.spread**2)
        v = conjugate_residuals(
            lambda v: v + near.forward(r2 * near.transpose(v)),
            near.residual,
            iterations=self.iterations,
            tolerance=1e-4,
        )
        return pull(near.transpose(v))
