"""Twisted sampling: particles whose weights make up for what a guided denoiser gets wrong.

K particles go from noise to sample by ancestral steps. Each step is proposed by a guided estimate,

    x_s ~ N(alpha_s x_g + (sigma_s q / sigma_t) (x_t - alpha_t x_g), n^2 C),
    x_g = x_hat + M A'^T (A' M A'^T + R)^-1 (y - A(x_hat)),

with q = sigma_s alpha_t / (sigma_t alpha_s), n^2 = sigma_s^2 (1 - q^2), and M the covariance of x given x_t that a stationary
Gaussian prior of the data's spectrum has. A particle's weight changes by

    p(x_s | x_t) psi_s(x_s) / (q(x_s | x_t) psi_t(x_t)),    psi_t(x_t) = N(y; A(x_hat), A' M A'^T + R),

where psi guesses how well a particle will fit, and at the end the true likelihood of x_hat takes the guess's place. Whatever
the guesses, in the limit of many particles the weighted ones follow the posterior of the sampler: that of the learned model,
in as many steps as are taken. Good guesses make few particles enough.

All is in modes of functions: a finer grid with the same modes changes neither steps nor weights.
"""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from fnodiff.domain import Shape, in_double, on_device
from fnodiff.expected import kinds_checked
from fnodiff.inverse import nearby
from fnodiff.inverse.guided import covariance
from fnodiff.inverse.linearised import Linearised
from fnodiff.inverse.observation import Observation
from fnodiff.inverse.prepared import prepare
from fnodiff.sde.denoiser import Denoiser, evaluating
from fnodiff.sde.given import Given
from fnodiff.sde.noise import Spectrum
from fnodiff.sde.solvers.spacing import Spacing
from fnodiff.sde.spectrum import residual_variance, spectra, wiener_gain


@kinds_checked(but=("denoiser", "seeds", "shape", "device"))
def twisted(
    denoiser: Denoiser,
    observation: Observation,
    shape: Shape | int,
    seeds: Sequence[int] | int,
    *,
    particles: int = 64,
    spectrum: Spectrum | None = None,
    steps: int = 50,
    spacing: Spacing | None = None,
    all_particles: bool = False,
    return_ess: bool = False,
    batch: int = 32,
    device: torch.device | str | None = None,
    progress: bool = False,
    **condition: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Samples of a posterior by twisted sampling: exact for the sampler of the model, in the limit of many particles.

    Each seed is an independent run of `particles` particles, of which one is drawn. It takes particles x steps evaluations of
    the network and no backward pass. The effective sample size, (sum w)^2 / sum w^2 of the particles' weights w, says whether
    they are enough: a run in which it falls below a tenth of them is warned of.

    Args:
        denoiser: The prior's, without an observation of its own.
        observation: What was measured; one for all seeds, or one for each.
        shape: The samples' grid; an int for as many points on each side.
        seeds: One for each run, or a single one.
        particles: K, of each run; more for more informative observations.
        spectrum: Of the normalised data; the denoiser's by default.
        steps: Noise levels.
        spacing: Where they lie; the schedule's usual spacing by default.
        all_particles: Return all particles of each run, after a last resampling. They are correlated: those that descend from
            one parent are alike, and an estimate from one run is that of its effective sample size at best.
        return_ess: Return the effective sample sizes too.
        batch: Particles through the network at a time. It bounds memory, and changes results by no more than rounding.
        device: Where to sample; by default where the denoiser's parameters are.
        progress: Show a bar.
        condition: By name, label=, field= or condition=: one row for each seed, or one for all.

    Returns:
        (len(seeds), C, *shape) in data units, on the CPU; with `all_particles` (len(seeds), K, C, *shape). With `return_ess`
        also (len(seeds), steps): the effective sample size at each noise level, of K.

    Raises:
        ValueError: If no spectrum is known, the denoiser has an observation of its own, or a number is not positive.

    Source: Wu, Trippe, Naesseth, Blei, Cunningham (2023), Practical and asymptotically exact conditional sampling in diffusion
    models; the covariance M as in Boys et al. (2023), Tweedie moment projected diffusions for inverse problems.

    Examples:
        >>> import torch
        >>> from fnodiff import EDM, Box, FunctionSpaceSDE, GaussianRandomField, Matern
        >>> from fnodiff.inverse import PointObservation, twisted
        >>> from fnodiff.sde import GaussianDenoiser
        >>> field = GaussianRandomField(Box(1), Matern(1.0, 0.3))
        >>> denoiser = GaussianDenoiser(field, FunctionSpaceSDE(field, EDM()))
        >>> seen = PointObservation(points=torch.tensor([[0.5]]), values=torch.tensor([[2.0]]), noise_std=0.1)
        >>> x = twisted(denoiser, seen, (16,), seeds=range(4), particles=8, steps=20)
        >>> bool((Box(1).evaluate(x, torch.tensor([[0.5]])).mean() - 2).abs() < 0.2)
        True
    """
    given = prepare(
        "twisted",
        denoiser,
        observation,
        shape,
        seeds,
        spectrum=spectrum,
        steps=steps,
        spacing=spacing,
        device=device,
        condition=condition,
        particles=(particles, 2, 64),
        batch=(batch, 1, 32),
    )
    found, sizes = [], []
    for i, seed in enumerate(tqdm(given.seeds, disable=not progress, desc="twisted", unit="run", file=sys.stderr)):
        rows = {name: value[i : i + 1].expand(particles, *value.shape[1:]) for name, value in given.rows.items()}
        inner = Given(denoiser, **rows) if rows else denoiser
        run = _Run(inner, observation.alone(i), given.spectrum, particles, batch)
        with evaluating(denoiser):
            x, ess = run(torch.Generator().manual_seed(seed), given.size, given.times, given.device)
        found.append(denoiser.normalization.inverse(x if all_particles else x[:1]).cpu())
        sizes.append(ess)
    ess = torch.stack(sizes)
    poor = ess.min(dim=1).values < 0.1 * particles
    if bool(poor.any()):
        warnings.warn(
            f"twisted: the effective sample size fell to {float(ess.min()):.1f} of {particles} particles ({int(poor.sum())} of "
            f"{len(given.seeds)} runs fell below a tenth), so few of them stand for all; take more particles or more steps.",
            stacklevel=3,
        )
    samples = torch.stack(found) if all_particles else torch.cat(found)
    return (samples, ess) if return_ess else samples


@dataclass
class _State:
    """Particles (K, C, *shape), and what is known of each."""

    x: Tensor
    x_hat: Tensor
    g: Tensor  # x_hat + M g is the guided estimate
    guided: Tensor
    log_psi: Tensor  # (K,), up to what all share
    log_likelihood: Tensor  # (K,), of x_hat

    def at(self, index: Tensor) -> _State:
        return _State(*(value[index] for value in vars(self).values()))


@dataclass
class _Run:
    """One run of K particles."""

    denoiser: Denoiser
    observation: Observation
    spectrum: Spectrum
    particles: int
    batch: int

    @torch.inference_mode(False)
    @torch.no_grad()
    def __call__(
        self, generator: torch.Generator, size: Shape, times: Tensor, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """The particles (K, C, *shape), normalised and resampled into random order, and the effective sample sizes (steps,)."""
        sde, count = self.denoiser.sde, self.particles
        times = on_device(times, torch.device(device))
        x = sde.prior((count, *size), generator=generator, device=device)
        state = self.look(x, times[0])
        log_w, sizes = state.log_psi, []
        for t, s in itertools.pairwise(times):
            sizes.append(_effective(log_w))
            if sizes[-1] < 0.5 * count:
                state, log_w = state.at(_systematic(log_w, generator)), torch.zeros_like(log_w)
            fresh = sde.noise.sample(tuple(state.x.shape), generator=generator, device=device, dtype=state.x.dtype)
            x, log_ratio = self.move(state, t, s, fresh)
            new = self.look(x, s)
            log_w, state = log_w + log_ratio + new.log_psi - state.log_psi, new
        log_w = log_w + state.log_likelihood - state.log_psi
        sizes.append(_effective(log_w))
        chosen = _systematic(log_w, generator)[torch.randperm(count, generator=generator)]
        return state.x_hat[chosen.to(device)], torch.tensor(sizes)

    def look(self, x_t: Tensor, t: Tensor) -> _State:
        """The particles at t, with their estimates."""
        domain, parts = self.denoiser.sde.domain, [slice(i, i + self.batch) for i in range(0, len(x_t), self.batch)]
        x_hat = torch.cat([self.denoiser.rows(part)(x_t[part], t) for part in parts])

        def pull(g: Tensor) -> Tensor:
            return covariance(domain, g, lambda e: self.variances(e, x_t, t)[0])

        with torch.autocast(x_t.device.type, enabled=False):
            near = Linearised(self.observation, x_hat, self.denoiser.normalization, domain)
            r = near.residual
            v, g, moved = nearby.by_products(near, pull, iterations=50, tolerance=1e-4)[0](r)
            log_psi, log_likelihood = -0.5 * in_double(r * v).sum(1), -0.5 * in_double(r).square().sum(1)
        if not bool(log_psi.isfinite().all() and x_hat.isfinite().all()):
            raise FloatingPointError(
                f"twisted: the estimates at t = {float(t):.3g} are not finite: the model diverged."
            )
        return _State(x_t, x_hat, g, x_hat + moved.to(x_hat), log_psi, log_likelihood)

    def move(self, state: _State, t: Tensor, s: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor]:
        """The particles at s, and ln p(x_s | x_t) - ln q(x_s | x_t).

        With x_g - x_hat = M g, of variances V in M and C of the noise, the logarithm is

            -k <g, (V / C) z> - k^2 <g, (V^2 / C) g> / 2,    k = (alpha_s - sigma_s q alpha_t / sigma_t) / n.

        V / C is bounded, so that modes with hardly any noise do no harm.
        """
        sde, domain = self.denoiser.sde, self.denoiser.sde.domain
        (alpha_t, sigma_t), (alpha_s, sigma_s) = sde.marginal(state.x, t), sde.marginal(state.x, s)
        q = sigma_s * alpha_t / (sigma_t * alpha_s)
        n, gain = sigma_s * (1 - q.square()).sqrt(), alpha_s - sigma_s * q * alpha_t / sigma_t
        x = gain * state.guided + sigma_s * q / sigma_t * state.x + n * fresh
        k, g = in_double(gain / n).flatten(), state.g
        first = in_double(g * domain.filter(fresh, lambda e: self.variances(e, state.x, t)[1])).flatten(1).sum(1)
        curved = covariance(domain, g, lambda e: torch.stack(self.variances(e, state.x, t)).prod(0))
        return x, -(k * first + 0.5 * k.square() * in_double(g * curved).flatten(1).sum(1))

    def variances(self, eigenvalues: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """V, what is left of a mode's variance given x_t, and V / C."""
        alpha_t, sigma_t = (v.squeeze() for v in self.denoiser.sde.marginal(x_t, t))
        s, c = spectra(self.denoiser.sde, self.spectrum, eigenvalues, tuple(x_t.shape[2:]))
        of_noise = sigma_t.square() / alpha_t * wiener_gain(s, c, alpha_t, sigma_t)
        return residual_variance(s, c, alpha_t, sigma_t), of_noise


def _effective(log_w: Tensor) -> float:
    return float(1 / log_w.softmax(0).square().sum())


def _systematic(log_w: Tensor, generator: torch.Generator) -> Tensor:
    """Which particles go on: each as often as its weight says, up to rounding."""
    count = len(log_w)
    places = (
        torch.arange(count, dtype=torch.float64) + torch.rand((), generator=generator, dtype=torch.float64)
    ) / count
    return torch.searchsorted(log_w.softmax(0).cpu().cumsum(0), places).clamp(max=count - 1)
