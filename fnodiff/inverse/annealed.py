"""Decoupled annealing: each noise level draws a clean field, given the noisy one and the values, and adds noise anew.

At each level, from x_t,

    x ~ exp(-|y - A(x)|^2 / 2 noise_std^2) N(x_hat, V),    x_s = alpha_s x + sigma_s z,

with V the covariance of x given x_t that a stationary Gaussian prior of the data's spectrum has. If x_t follows p(x_t | y), and
x is a draw of p(x | x_t, y), then x_s follows p(x_s | y). For other priors the Gaussian is the better an approximation the
less noise is left.

The observation is linearised at the m of the level before, in K of its directions: d = F (x - x_hat) + e, e ~ N(0, R). Given
d the Gaussian is N(m, W),

    m = x_hat + G d,    W = V - G F V,    G = V F^T (F V F^T + R)^-1.

Of a linear observation all directions are taken, and a draw of N(m, W) is the draw. Of others, x begins as that of the level
before. Where the linearisation leaves out too much at its own m, it is taken anew, at the field that Gauss and Newton's steps
lead to (`fnodiff.inverse.nearby`), and the first step has b = 1. Steps of preconditioned Crank-Nicolson,

    x_new = m + sqrt(1 - b^2) (x - m) + b w,    w ~ N(0, W),

are accepted with probability min(1, exp(l(x_new) - l(x))). Here l is what the linearisation leaves out of the
log-likelihood, so that the steps leave the right law as it is, whatever the directions. All is in modes of functions: the rate
of acceptance is the same on every grid.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from fnodiff.domain import Shape, normals, uniforms
from fnodiff.expected import kinds_checked
from fnodiff.inverse import nearby
from fnodiff.inverse.guided import covariance
from fnodiff.inverse.linearised import Linearised
from fnodiff.inverse.observation import Observation
from fnodiff.inverse.prepared import prepare
from fnodiff.sde.denoiser import Denoiser, evaluating
from fnodiff.sde.given import Given
from fnodiff.sde.noise import Spectrum
from fnodiff.sde.process import over_space
from fnodiff.sde.solvers.spacing import Spacing
from fnodiff.sde.spectrum import residual_variance, spectra


@kinds_checked(but=("denoiser", "seeds", "shape", "device"))
def annealed(
    denoiser: Denoiser,
    observation: Observation,
    shape: Shape | int,
    seeds: Sequence[int] | int,
    *,
    steps: int = 24,
    inner: int = 8,
    step_size: float | None = None,
    directions: int = 128,
    spectrum: Spectrum | None = None,
    spacing: Spacing | None = None,
    batch: int = 32,
    return_acceptance: bool = False,
    device: torch.device | str | None = None,
    progress: bool = False,
    **condition: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Samples of a posterior by decoupled annealing.

    For a stationary Gaussian prior of this spectrum it is exact: of a linear observation in any number of levels, of others in
    the limit of many. For other priors it is approximate: blind to what ties one channel to another, and of laws of several
    kinds it weighs these somewhat wrongly, which `twisted` does not. Fields that are far from Gaussian, such as those of two
    values, come out speckled; `MomentMatching` with a spectrum, which `posterior` takes for what is not linear, keeps them
    crisp.

    It takes one evaluation of the network for each level, and never its derivative. What is seen may take the solver of an
    equation, or a surrogate network: `Nonlinear(lambda a: domain.evaluate(solve(a), points), values, noise_std)`. That is
    evaluated `inner` times and a few more for each level, and differentiated once for each value, or twice for each of fewer
    directions. At a level where it is far from linear it is linearised up to six times.

    Args:
        denoiser: The prior's, without an observation of its own.
        observation: What was measured; one for all seeds, or one for each.
        shape: The samples' grid; an int for as many points on each side.
        seeds: One for each sample, or a single one.
        steps: Noise levels.
        inner: Steps of preconditioned Crank-Nicolson at each level, for observations that are not linear.
        step_size: b, in (0, 1]. By default it is changed until about a half of the steps are accepted.
        directions: Of the observation that the linearisation has at most, for observations that are not linear. No fewer than
            there are values: all of them, by backward derivatives. Fewer: the first of Lanczos' method, by a backward and a
            forward one each.
        spectrum: Of the normalised data; the denoiser's by default.
        spacing: Where the levels lie; the schedule's usual spacing by default.
        batch: Samples at a time.
        return_acceptance: Return the rates of acceptance too.
        device: Where to sample; by default where the denoiser's parameters are.
        progress: Show a bar.
        condition: By name, label=, field= or condition=: one row for each seed, or one for all.

    Returns:
        (len(seeds), C, *shape) in data units, on the CPU; with `return_acceptance` also (len(seeds), steps): the share of the
        inner steps that were accepted at each level, 1 of a linear observation.

    Raises:
        ValueError: If no spectrum is known, the denoiser has an observation of its own, or a number is out of its range.

    Source: Zhang, Chu, Berner, Meng, Anandkumar, Song (2024), Improving diffusion inverse problem solving with decoupled noise
    annealing; Cotter, Roberts, Stuart, White (2013), MCMC methods for functions; Rudolf, Sprungk (2018), On a generalization of
    the preconditioned Crank-Nicolson Metropolis algorithm.

    Examples:
        >>> import torch
        >>> from fnodiff import EDM, Box, FunctionSpaceSDE, GaussianRandomField, Matern
        >>> from fnodiff.inverse import Nonlinear, annealed
        >>> from fnodiff.sde import GaussianDenoiser
        >>> field = GaussianRandomField(Box(1), Matern(1.0, 0.3))
        >>> denoiser = GaussianDenoiser(field, FunctionSpaceSDE(field, EDM()))
        >>> seen = Nonlinear(lambda x: x.exp().mean((1, 2)), torch.tensor(3.0), noise_std=0.1)
        >>> x = annealed(denoiser, seen, (16,), seeds=range(8), steps=8)
        >>> bool((x.exp().mean((1, 2)) - 3).square().mean().sqrt() < 0.3)
        True
    """
    given = prepare(
        "annealed", denoiser, observation, shape, seeds, spectrum=spectrum, steps=steps, spacing=spacing, device=device,
        condition=condition, inner=(inner, 1, 8), directions=(directions, 1, 128), batch=(batch, 1, 32),
    )  # fmt: skip
    if step_size is not None and not 0 < step_size <= 1:
        raise ValueError(f"annealed: expected step_size in (0, 1], got {step_size!r}; leave it out to have it found.")
    found, rates = [], []
    with tqdm(total=len(given.seeds) * steps, disable=not progress, desc="annealed", file=sys.stderr) as bar:
        for first in range(0, len(given.seeds), batch):
            part = slice(first, first + batch)
            rows = {name: value[part] for name, value in given.rows.items()}
            bound = Given(denoiser, **rows) if rows else denoiser
            generators = [torch.Generator().manual_seed(seed) for seed in given.seeds[part]]
            seen = observation.rows(part)
            run = _Run(bound, seen, given.spectrum, generators, inner, step_size, directions, bar.update)
            with evaluating(denoiser):
                x, rate = run((len(generators), *given.size), given.times, given.device)
            found.append(denoiser.normalization.inverse(x).cpu())
            rates.append(rate.cpu())
    return (torch.cat(found), torch.cat(rates)) if return_acceptance else torch.cat(found)


@dataclass
class _Linear:
    """K values d = F u + e of each sample's u = x - x_hat, e ~ N(0, R). F and V F^T are (B, K, C, *shape), or (1, K, ...)."""

    f: Tensor
    vf: Tensor
    d: Tensor  # (B, K)
    r: Tensor  # (B, K) or (1, K), the diagonal of R

    def __post_init__(self) -> None:
        gram = self.f.flatten(2) @ self.vf.flatten(2).mT + torch.diag_embed(self.r)
        self.factor, failed = torch.linalg.cholesky_ex(gram)
        if bool(failed.any()):
            raise ValueError(
                "annealed: expected values that can be told apart, got some that see the same to within rounding, with errors "
                "too small for that; give noise_std a larger value, or join sensors of one place."
            )

    def see(self, u: Tensor) -> Tensor:
        """F u."""
        f, u = self.f.flatten(2), u.double().flatten(1)
        return u @ f[0].T if len(f) == 1 else (f @ u[..., None])[..., 0]

    def learn(self, z: Tensor) -> Tensor:
        """V F^T (F V F^T + R)^-1 z, of fields' shape."""
        z, vf = torch.cholesky_solve(z[..., None], self.factor)[..., 0], self.vf.flatten(2)
        out = z @ vf[0] if len(vf) == 1 else (z[:, None] @ vf)[:, 0]
        return out.view(-1, *self.vf.shape[2:])

    def log_likelihood(self, u: Tensor) -> Tensor:
        """(B,), up to a constant."""
        return -0.5 * ((self.d - self.see(u)).square() / self.r).sum(1)


@dataclass
class _Run:
    """A batch of samples."""

    denoiser: Denoiser
    observation: Observation
    spectrum: Spectrum
    generators: list[torch.Generator]
    inner: int
    step_size: float | None
    directions: int
    update: Callable[[int], Any]

    @torch.inference_mode(False)
    @torch.no_grad()
    def __call__(self, size: Shape, times: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """The samples, normalised, and the rates of acceptance (B, steps)."""
        sde, rates, x = self.denoiser.sde, [], None
        self.b = torch.full((size[0],), self.step_size or 1.0, dtype=torch.float64, device=device)
        self.rows: Tensor | None = None
        self.mean: Tensor | None = None
        x_t = sde.prior(size, generator=self.generators, device=device)
        for number, t in enumerate(times.to(device)):
            if number:
                alpha, sigma = sde.marginal(x_t, t)
                noise = sde.noise.sample(size, generator=self.generators, device=device, dtype=x_t.dtype)
                x_t = alpha * x + sigma * noise
            x_hat = self.denoiser(x_t, t)
            if not bool(x_hat.isfinite().all()):
                raise FloatingPointError(
                    f"annealed: the estimates at t = {float(t):.3g} are not finite: the model diverged."
                )
            with torch.autocast(device.type, enabled=False):
                x, rate = self.draw(x_hat.to(x_t), x, t)
            rates.append(rate)
            self.update(size[0])
        return x, torch.stack(rates, 1)

    def draw(self, x_hat: Tensor, before: Tensor | None, t: Tensor) -> tuple[Tensor, Tensor]:
        """A clean field given the noisy one, whose estimate is x_hat, and the values; and the rates of acceptance (B,)."""
        linear, at = self.observation.linear, x_hat if self.mean is None else self.mean
        near = self.linearised(x_hat, at, t)
        mean = x_hat + near.learn(near.d)

        def fluctuation() -> Tensor:
            """A draw of N(0, W)."""
            domain, size = self.denoiser.sde.domain, tuple(x_hat.shape)
            double = {"device": x_hat.device, "dtype": torch.float64}
            white = domain.white(size[:2], size[2:], generator=self.generators, **double)
            std = self.variance(domain.eigenvalues(size[2:], **double), x_hat, t).sqrt()
            u = domain.synthesize(white * std, size[2:])
            errors = normals((size[0], 1), near.d.shape[1:], generator=self.generators, **double)[:, 0]
            return u - near.learn(near.see(u) + near.r.sqrt() * errors)

        def left_out(x: Tensor) -> Tensor:
            residual = self.observation.residual(self.seen(x.to(x_hat))).double()
            found = -0.5 * residual.square().sum(1) - near.log_likelihood(x - x_hat)
            return torch.where(found.isfinite(), found, -torch.inf)

        if linear:
            return (mean + fluctuation()).to(x_hat), torch.ones_like(self.b)
        bent = left_out(mean).abs() > max(1.0, 0.5 * nearby.OFF * near.d.shape[1])
        if bool(bent.any()):
            at = self.likeliest(x_hat, at, bent.nonzero()[:, 0], t)
            near = self.linearised(x_hat, at, t)
            mean = x_hat + near.learn(near.d)
        self.mean = mean.to(x_hat)
        x = mean + fluctuation() if before is None else before.double()
        log_l, rate = left_out(x), torch.zeros_like(self.b)
        for number in range(self.inner):
            b = over_space(torch.where(bent, 1.0, self.b) if number == 0 else self.b, x)
            new = mean + (1 - b.square()).sqrt() * (x - mean) + b * fluctuation()
            new_l = left_out(new)
            accepted = uniforms(len(x), generator=self.generators).to(new_l).log() < new_l - log_l
            x, log_l = torch.where(over_space(accepted, x), new, x), torch.where(accepted, new_l, log_l)
            rate += accepted / self.inner
            if self.step_size is None:
                self.b = (self.b * (0.5 * (accepted.double() - 0.5)).exp()).clamp(max=1)
        return x.to(x_hat), rate

    def likeliest(self, x_hat: Tensor, at: Tensor, samples: Tensor, t: Tensor) -> Tensor:
        """`at` with the least unlikely fields of these samples, by Gauss and Newton's steps from their estimates."""
        units, domain = self.denoiser.normalization, self.denoiser.sde.domain
        near = Linearised(self.observation.rows(samples), x_hat[samples], units, domain)

        def solver(here: Linearised, _: Tensor) -> nearby.Solver:
            if here.residual.shape[1] <= self.directions:
                rows = here.rows()
                return nearby.by_derivatives(rows, self.spread(rows, x_hat, t))
            pull = partial(covariance, domain, spectrum=lambda e: self.variance(e, x_hat, t))
            return nearby.by_products(here, pull, iterations=self.directions, tolerance=1e-3)

        return at.index_put((samples,), x_hat[samples] + nearby.step(near, solver))

    def linearised(self, x_hat: Tensor, at: Tensor, t: Tensor) -> _Linear:
        """The observation at fields, of what x differs from x_hat in; both (B, C, *shape)."""
        observation, units, domain = self.observation, self.denoiser.normalization, self.denoiser.sde.domain
        if observation.linear:
            if self.rows is None:
                first = Linearised(observation.alone(0), torch.zeros_like(x_hat[:1]), units, domain)
                each = torch.eye(first.residual.shape[1], device=x_hat.device)[:, None]
                self.rows = torch.stack([first.transpose(one) for one in each], 1).double()
            seen = self.seen(x_hat)
            errors = observation.errors(seen).expand_as(seen).reshape(len(seen), -1).double()
            r = (errors / errors[:1]).square()
            r = r[:1] if bool((r == 1).all()) else r
            d = observation.residual(seen).double() * r.sqrt()
            return _Linear(self.rows, self.spread(self.rows, x_hat, t), d, r)
        near = Linearised(observation, at, units, domain)
        residual = near.residual.double()
        if residual.shape[1] <= self.directions:
            f = near.rows().double()
            vf, d = self.spread(f, x_hat, t), residual
        else:
            f, vf, d = self.lanczos(near, x_hat, t)
        d = d - (f.flatten(2) @ (x_hat - at).double().flatten(1)[..., None])[..., 0]
        return _Linear(f, vf, d, torch.ones_like(d[:1]))

    def lanczos(self, near: Linearised, x_hat: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """F, V F^T and d of the first directions that Lanczos' method takes from the residual."""
        new, q, f, vf = near.residual.double(), [], [], []
        largest = new.norm(dim=1, keepdim=True)
        for _ in range(self.directions):
            for old in [*q, *q]:  # twice, against rounding
                new = new - (new * old).sum(1, keepdim=True) * old
            length = new.norm(dim=1, keepdim=True)
            q.append(torch.where(length > 1e-6 * largest, new / length, 0.0))
            f.append(near.transpose(q[-1]).double())
            vf.append(self.spread(f[-1][:, None], x_hat, t)[:, 0])
            new = near.forward(vf[-1].to(x_hat)).double()
            largest = torch.maximum(largest, new.norm(dim=1, keepdim=True))
        d = (torch.stack(q, 1) @ near.residual.double()[..., None])[..., 0]
        return torch.stack(f, 1), torch.stack(vf, 1), d

    def spread(self, f: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """V f, of fields (b, K, C, *shape)."""
        domain = self.denoiser.sde.domain
        return covariance(domain, f.flatten(0, 1), lambda e: self.variance(e, x_t, t)).view_as(f)

    def variance(self, eigenvalues: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """V of the modes."""
        sde = self.denoiser.sde
        alpha, sigma = (v.squeeze() for v in sde.marginal(x_t, t))
        return residual_variance(*spectra(sde, self.spectrum, eigenvalues, tuple(x_t.shape[2:])), alpha, sigma)

    def seen(self, x: Tensor) -> Tensor:
        """A(x)."""
        return self.observation(self.denoiser.normalization.inverse(x), self.denoiser.sde.domain)
