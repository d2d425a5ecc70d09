"""Guided denoisers: denoisers made of denoisers, which every solver takes.

Given y = A(x) + noise, the denoiser's estimate E[x | x_t] becomes one of E[x | x_t, y]. By Bayes' rule, with the score
operator's covariance,

    E[x | x_t, y] = x_hat + (sigma^2 / alpha) C grad ln p(y | x_t),

and the methods differ in p(y | x_t), whose exact form is out of reach. Each takes the observation near x_hat as linear, A', and
x given x_t as Gaussian about x_hat with some covariance M:

    x_hat + M' A'^T (A' M A'^T + R)^-1 (y - A(x_hat)),        R = diag(noise_std^2),

    DPS              M = 0 within the brackets, M' = (sigma^2 / alpha) C J^T with the denoiser's Jacobian J
    PiGDM            M = r^2 at every grid point, M' = (sigma^2 / alpha) C J^T
    MomentMatching   M = M' = (sigma^2 / alpha) C J^T, which is the covariance of x given x_t, or a Gaussian's of known spectrum

Products with transposes are of sums, not of integrals: the grid is in them once, by C, so the result is a function.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Integral

import torch
from torch import Tensor, nn

from fnodiff.domain import Domain
from fnodiff.inverse.linearised import Linearised
from fnodiff.inverse.observation import Observation
from fnodiff.sde.denoiser import Denoiser, Wrapper


class Guided(Wrapper, abc.ABC):
    """A denoiser that also knows an observation. Subclasses define `correction`.

    Its samples follow the prior where the observation says nothing; conditions, if the model takes any, are given as ever.

    Args:
        denoiser: The prior's.
        observation: What was measured, in data units.
    """

    one_grid = True

    def __init__(self, denoiser: Denoiser, observation: Observation) -> None:
        super().__init__(denoiser)
        if any(isinstance(module, Guided) for module in denoiser.modules()):
            raise ValueError(
                f"{type(self).__name__}: expected a denoiser without an observation, got one that has its own; put both into "
                f"one, such as Linear with an operator that concatenates what is seen."
            )
        self.observation = observation

    def rows(self, part: slice) -> Denoiser:
        new = self.around(self.denoiser.rows(part))
        new.observation = self.observation.rows(part)
        return new

    def among(self, count: int) -> Denoiser:
        new = self.around(self.denoiser.among(count))
        new.observation = self.observation.among(count)
        return new

    @abc.abstractmethod
    def correction(self, near: Linearised, pull: Callable[[Tensor], Tensor], x_t: Tensor, t: Tensor) -> Tensor:
        """What the observation adds to x_hat, of x_t's shape.

        Args:
            near: The observation near x_hat.
            pull: g -> (sigma^2 / alpha) C J^T g, for g of x_t's shape.
            x_t: The state.
            t: Its times.
        """

    def forward(self, x_t: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        shape = self.sde.domain.check_field(x_t)
        with torch.inference_mode(False), torch.enable_grad(), frozen(self.denoiser):
            x_t, t = x_t.detach().clone().requires_grad_(), t.detach().clone()
            x_hat = self.denoiser(x_t, t, **condition)
            (alpha_t, sigma_t), noise = self.sde.marginal(x_t.detach(), t), self.sde.noise.on(shape)

            def pull(g: Tensor) -> Tensor:
                (g,) = torch.autograd.grad(x_hat, x_t, g, retain_graph=True)
                return sigma_t.square() / alpha_t * covariance(self.sde.domain, g, lambda k: noise.std(k).square())

            return self.corrected(x_hat, pull, x_t.detach(), t)

    @torch.no_grad()
    def corrected(self, x_hat: Tensor, pull: Callable[[Tensor], Tensor], x_t: Tensor, t: Tensor) -> Tensor:
        """x_hat and what the observation adds to it; see `correction`."""
        with torch.autocast(x_t.device.type, enabled=False):
            near = Linearised(self.observation, x_hat.detach(), self.normalization, self.sde.domain)
            return x_hat.detach() + self.correction(near, pull, x_t, t).to(x_hat)


def covariance(domain: Domain, g: Tensor, spectrum: Callable[[Tensor], Tensor]) -> Tensor:
    """The covariance matrix, between grid points, of a process with this variance per mode, times g (B, C, *shape)."""
    weights = domain.weights(tuple(g.shape[2:]), device=g.device, dtype=g.dtype)
    return domain.filter(g / weights, spectrum)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Parameters want no gradients within."""
    wanted = [p for p in module.parameters() if p.requires_grad]
    try:
        for p in wanted:
            p.requires_grad_(False)
        yield
    finally:
        for p in wanted:
            p.requires_grad_(True)


def check_iterations(name: str, iterations: int) -> int:
    """The number of iterations, if it is one: 1 or more."""
    if not isinstance(iterations, Integral) or iterations < 1:
        raise ValueError(f"{name}: expected iterations >= 1, got {iterations!r}; 100 is usual.")
    return iterations
