"""The diffusion of functions: x_t = alpha_t x + sigma_t z, z ~ noise with covariance C.

Its forward SDE has drift and diffusion

    dx = f_t x dt + g_t C^(1/2) dW,    f = d ln(alpha) / dt,    g^2 = d sigma^2 / dt - 2 f sigma^2,

and its score *operator* carries C, so that no inverse covariance appears anywhere:

    C grad log p_t(x_t) = (alpha_t E[x | x_t] - x_t) / sigma_t^2.

Source: Pidstrigach, Marzouk, Reich, Wang (2023), Infinite-dimensional diffusion models; Lim et al. (2023), Score-based
diffusion models in function space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fnodiff.domain import Domain, Generators
from fnodiff.sde.noise import Noise
from fnodiff.sde.schedule import Schedule


def over_space(t: Tensor, x: Tensor) -> Tensor:
    """A value per sample, () or (B,), shaped to multiply a field (B, C, *spatial).

    Raises:
        ValueError: If `t` has another shape.
    """
    if t.ndim == 0 or tuple(t.shape) == (x.shape[0],):
        return t.reshape(t.shape + (1,) * (x.ndim - 1)) if t.ndim else t
    raise ValueError(
        f"expected one time for all samples, (), or one per sample, ({x.shape[0]},), got shape {tuple(t.shape)}; "
        f"reshape or expand it."
    )


@dataclass(frozen=True)
class FunctionSpaceSDE:
    """x_t = alpha_t x + sigma_t z with z drawn from a noise on a domain.

    Times are tensors () or (B,) in [0, 1], 0 clean and 1 noise; fields are (B, C, *spatial), on any grid.

    Args:
        noise: The law of z.
        schedule: t -> (alpha_t, sigma_t).
    """

    noise: Noise
    schedule: Schedule

    @property
    def domain(self) -> Domain:
        """The domain that the noise lives on."""
        return self.noise.domain

    def marginal(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t, shaped to multiply the field `x`.

        Raises:
            ValueError: If `t` is not () or (B,), or has values outside [0, 1].
        """
        if not torch.compiler.is_compiling() and not bool(((t >= 0) & (t <= 1)).all()):
            raise ValueError(
                f"expected times in [0, 1] (0 clean, 1 noise), got values from {float(t.min()):g} to {float(t.max()):g}; "
                f"convert a noise level with schedule.time(sigma / alpha)."
            )
        alpha_t, sigma_t = self.schedule(over_space(t, x))
        return alpha_t.to(x), sigma_t.to(x)

    def perturb(self, x: Tensor, t: Tensor, *, generator: Generators = None) -> tuple[Tensor, Tensor]:
        """x_t and the noise z in it, each of x's shape.

        Raises:
            ValueError: If `x` is not a field on the domain or `t` is not a time.
        """
        self.domain.check_field(x)
        alpha_t, sigma_t = self.marginal(x, t)
        z = self.noise.sample(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return alpha_t * x + sigma_t * z, z

    def prior(self, shape: Sequence[int], *, generator: Generators = None, device=None, dtype=None) -> Tensor:
        """The starting point of sampling, sigma(1) z, of shape (B, C, *spatial)."""
        z = self.noise.sample(shape, generator=generator, device=device, dtype=dtype)
        return self.schedule(torch.ones((), dtype=torch.float64))[1].to(z) * z

    def score(self, x_t: Tensor, t: Tensor, x_hat: Tensor) -> Tensor:
        """C grad log p_t at x_t, from the denoised estimate x_hat = E[x | x_t]."""
        alpha_t, sigma_t = self.marginal(x_t, t)
        return (alpha_t * x_hat - x_t) / sigma_t.square()

    def drift(self, x_t: Tensor, t: Tensor) -> Tensor:
        """f_t x_t, the drift of the forward SDE."""
        return over_space(self._rates(t)[0], x_t).to(x_t) * x_t

    def diffusion(self, t: Tensor) -> Tensor:
        """g_t, of t's shape: the forward SDE adds g_t^2 C dt of covariance."""
        return self._rates(t)[1]

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        (alpha_t, sigma_t), (d_alpha, d_sigma) = torch.func.jvp(self.schedule, (t,), (torch.ones_like(t),))
        f = d_alpha / alpha_t
        return f, (2 * sigma_t * (d_sigma - f * sigma_t)).sqrt()
