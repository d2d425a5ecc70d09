"""Denoisers in closed form for laws that are not stationary: a Gaussian of any covariance, and a mixture of them; posteriors.

They know nothing that a trained model would not: E[x | x_t] on any grid, by dense linear algebra over the grid's values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fnodiff.domain import Domain, Shape
from fnodiff.inverse.guided import covariance
from fnodiff.sde import Denoiser, FunctionSpaceSDE, GaussianRandomField


@dataclass
class Law:
    """x = mean + sum_j xi_j f_j with independent normal xi_j: any Gaussian law of functions.

    Args:
        domain: Of the functions.
        factors: f_j on the finest grid, (r, C, *finest).
        mean: (C, *finest); zero by default.
    """

    domain: Domain
    factors: Tensor
    mean: Tensor | None = None

    def __post_init__(self) -> None:
        mean = torch.zeros_like(self.factors[0]) if self.mean is None else self.mean
        self.factors = self.domain.filter(self.factors.double(), torch.ones_like)  # functions of the grid's modes
        self.mean = self.domain.filter(mean[None].double(), torch.ones_like)[0]

    def sample(self, count: int, shape: Shape, generator: torch.Generator | None = None) -> Tensor:
        """(count, C, *shape)."""
        xi = torch.randn(count, len(self.factors), generator=generator, dtype=torch.float64)
        return self.domain.resample(self.mean + torch.tensordot(xi, self.factors, 1), shape)

    def moments(self, shape: Shape) -> tuple[Tensor, Tensor]:
        """Mean (m) and covariance (m, m) of the values on a grid, m of all channels."""
        f = self.domain.resample(self.factors, shape).flatten(1)
        return self.domain.resample(self.mean[None], shape).flatten(), f.T @ f


class Mixture(Denoiser):
    """The exact denoiser of a mixture of Gaussian laws; of one law, a Gaussian's.

    Args:
        laws: Of the components.
        sde: The process.
        weights: Of the components; alike by default.
        known: What else is known of the data, as for `Denoiser`.
    """

    def __init__(
        self, laws: Sequence[Law], sde: FunctionSpaceSDE, weights: Sequence[float] | None = None, **known: Any
    ) -> None:
        super().__init__(sde, **{"channels": laws[0].factors.shape[1], **known})
        self.laws = list(laws)
        self.log_weights = torch.tensor(weights or [1 / len(laws)] * len(laws), dtype=torch.float64).log()
        self._known: dict[Shape, Any] = {}

    def forward(self, x_t: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        estimates, log_p = self.components(x_t, t)
        return (log_p.softmax(0)[..., None] * estimates).sum(0).view_as(x_t).to(x_t)

    def components(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Of each component its estimate (J, B, m), and the logarithm of its weight times its density at x_t (J, B)."""
        shape = self.sde.domain.check_field(x_t)
        alpha, sigma = (v.double().flatten() for v in self.sde.marginal(x_t, t))
        estimates, log_p = [], []
        for (mean, root, inverse, values), log_weight in zip(self._bases(shape), self.log_weights, strict=True):
            u = (
                x_t.double().flatten(1) - alpha[:, None] * mean
            ) @ inverse.T  # independent, of variance a^2 lambda + s^2
            variance = alpha[:, None].square() * values + sigma[:, None].square()
            estimates.append(mean + (alpha[:, None] * values / variance * u) @ root.T)
            log_p.append(log_weight - 0.5 * (u.square() / variance + variance.log()).sum(1))
        return torch.stack(estimates), torch.stack(log_p)

    def _bases(self, shape: Shape) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """For each law its mean; a basis in which noise is the identity and the law diagonal; its inverse; the variances."""
        if shape not in self._known:
            size = (self.channels, *shape)
            unit = torch.eye(math.prod(size), dtype=torch.float64).reshape(-1, *size)
            std = self.sde.noise.on(shape).std
            weights = self.sde.domain.weights(shape, dtype=torch.float64)
            noise = self.sde.domain.filter(unit / weights, lambda e: std(e).square()).flatten(1)
            values, vectors = torch.linalg.eigh(0.5 * (noise + noise.T))
            held = values > 1e-12 * values[-1]  # a grid may have more points than modes
            root, inverse = vectors[:, held] * values[held].sqrt(), (vectors[:, held] / values[held].sqrt()).T
            bases = []
            for law in self.laws:
                mean, c = law.moments(shape)
                values, vectors = torch.linalg.eigh(inverse @ c @ inverse.T)
                bases.append((mean, root @ vectors, vectors.T @ inverse, values.clamp(min=0)))
            self._known[shape] = bases
        return self._known[shape]


def conditional(law: Law, low: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
    """Mean (B, C, *shape) and covariance of the values (m, m) of the law, given its modes below a coarser grid.

    Args:
        law: Gaussian.
        low: (B, C, *small), the function of those modes.
        shape: The grid of the result.
    """
    domain, small = law.domain, tuple(low.shape[2:])
    mean, c = law.moments(shape)
    unit = torch.eye(len(mean), dtype=torch.float64).reshape(-1, low.shape[1], *shape)
    down = domain.resample(unit, small).flatten(1).T  # (small values, values)
    gain = c @ down.T @ torch.linalg.pinv(down @ c @ down.T, hermitian=True, rtol=1e-10)
    difference = low.double().flatten(1) - down @ mean
    return (mean + difference @ gain.T).unflatten(1, (low.shape[1], *shape)), c - gain @ down @ c


@dataclass
class Posterior:
    """A stationary Gaussian law of one channel given y = A x + e of linear sensors: its exact mean and draws of it.

    Args:
        law: Of x.
        sensors: The rows of A, as fields of which products with x are sums over the grid's values: (m, 1, *shape), float64.
        noise_std: Of e.
    """

    law: GaussianRandomField
    sensors: Tensor
    noise_std: float

    def __post_init__(self) -> None:
        spread = covariance(self.law.domain, self.sensors, lambda e: self.law.std(e).square())
        self.learned = spread.flatten(1)  # the covariance of the values with x
        gram = self.sensors.flatten(1) @ self.learned.T
        self.factor = torch.linalg.cholesky(gram + self.noise_std**2 * torch.eye(len(gram), dtype=gram.dtype))

    def mean(self, values: Tensor) -> Tensor:
        """(B, 1, *shape), of values (B, m)."""
        return (torch.cholesky_solve(values.T, self.factor).T @ self.learned).view(-1, *self.sensors.shape[1:])

    def draw(self, values: Tensor, generator: torch.Generator) -> Tensor:
        """One sample for each row of values (B, m): (B, 1, *shape)."""
        x = self.law.sample((len(values), *self.sensors.shape[1:]), generator=generator, dtype=torch.float64)
        errors = self.noise_std * torch.randn(values.shape, generator=generator, dtype=torch.float64)
        return x + self.mean(values - x.flatten(1) @ self.sensors.flatten(1).T - errors)
