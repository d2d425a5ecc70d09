"""The exact denoiser of stationary Gaussian data: the oracle that solvers, plans and posteriors are measured against."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fnodiff.expected import kinds_checked
from fnodiff.sde.denoiser import Denoiser
from fnodiff.sde.noise import GaussianRandomField, Noise
from fnodiff.sde.process import FunctionSpaceSDE
from fnodiff.sde.spectrum import linear_estimate


@kinds_checked
class GaussianDenoiser(Denoiser):
    """Exact for data ~ N(0, S): per mode, alpha S / (alpha^2 S + sigma^2 C) x_t. The oracle of the tests.

    Args:
        data: The law of the data, on the same domain as the noise.
        sde: The process.
        known: What else is known of the data, as for `Denoiser`: channels=1 and S as the spectrum by default.

    Raises:
        ValueError: If the two domains differ, or the data's law is none.

    Examples:
        >>> import torch
        >>> from fnodiff import EDM, Box, FunctionSpaceSDE, GaussianRandomField, Matern, WhiteNoise
        >>> from fnodiff.sde import GaussianDenoiser
        >>> field = GaussianRandomField(Box(2), Matern(1.0, 0.3))
        >>> denoiser = GaussianDenoiser(field, FunctionSpaceSDE(WhiteNoise(Box(2), (16, 16)), EDM()))
        >>> x, t = field.sample((1, 1, 16, 16), generator=torch.Generator().manual_seed(0)), torch.tensor(0.3)
        >>> x_t, _ = denoiser.sde.perturb(x, t, generator=torch.Generator().manual_seed(1))
        >>> [round(float(Box(2).norm(v - x) / Box(2).norm(x)), 2) for v in (x_t, denoiser(x_t, t))]
        [0.33, 0.17]
    """

    def __init__(self, data: GaussianRandomField, sde: FunctionSpaceSDE, **known: Any) -> None:
        if not isinstance(data, Noise):
            raise ValueError(
                f"GaussianDenoiser: expected the data's law, got {data!r}; write such as GaussianRandomField(sde.domain, "
                f"Matern(1.0))."
            )
        super().__init__(sde, **{"channels": 1, "spectrum": self._spectrum, **known})
        if data.domain != sde.domain:
            raise ValueError(
                f"GaussianDenoiser: expected data on {sde.domain}, got {data.domain}; use one domain for both."
            )
        self.data = data

    def forward(self, x_t: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        if condition:
            raise ValueError(f"GaussianDenoiser: expected no condition, got {sorted(condition)}; leave it out.")
        self.sde.domain.check_field(x_t)
        return linear_estimate(self.sde, self._spectrum, x_t, t)

    def flow(self, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The probability-flow ODE's solution at s from x_t at t, in closed form: per mode, sqrt(N_s / N_t) x_t."""
        shape = self.sde.domain.check_field(x_t)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.sde.marginal(x_t, t), self.sde.marginal(x_t, s)

        def gain(eigenvalues: Tensor) -> Tensor:
            data, noise = self._s(eigenvalues), self.sde.noise.on(shape).std(eigenvalues).square()
            n_t = alpha_t.square() * data + sigma_t.square() * noise
            return ((alpha_s.square() * data + sigma_s.square() * noise) / n_t).sqrt()

        return self.sde.domain.filter(x_t, gain)

    def _spectrum(self, eigenvalues: Tensor, dim: int) -> Tensor:
        return self._s(eigenvalues)

    def _s(self, eigenvalues: Tensor) -> Tensor:
        return self.data.std(eigenvalues).square()
