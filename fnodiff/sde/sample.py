"""Samplers: from noise at t = 1 to a sample at t = 0.

In y = x_t / alpha_t and s = sigma_t / alpha_t the probability-flow ODE is the same for every schedule,

    dy / ds = (y - D(x_t, t)) / s,

for any noise: the covariance is in x_t, and samplers never see the domain. A sampler steps through decreasing times from 1
to 0, and returns the denoised estimate at sigma(0), which is one Euler step to zero; nothing is evaluated at sigma = 0.

`Heun`, `DDIM` and `DPMSolver` solve it at second, first and second order, each with fresh noise on request; the samplers that
cannot do without noise are in `stochastic`.

Source: Karras et al. (2022), Elucidating the design space of diffusion-based generative models.
"""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from fnodiff.cost import Cost, keep_freed_memory, measure
from fnodiff.domain import Generators, Shape
from fnodiff.sde.denoise import Denoiser, compile_networks


class Sampler(abc.ABC):
    """Steps through decreasing times. Subclasses define `step`, the one override point.

    Args:
        denoiser: E[x | x_t].
        steps: Number of noise levels, from sigma(1) down to sigma(0); the step from the last to zero is the denoised
            estimate there.
        spacing: Equal steps of "time", the schedule's own t; of the "log_snr", ln(alpha^2 / sigma^2); or of "rho",
            (sigma / alpha)^(1/rho).
        rho: For spacing="rho": 1 for equal steps of sigma / alpha, more to crowd towards small noise.
        compile: Compile the denoiser's network, in place, once for each grid: minutes on a CPU, for long runs on a GPU.

    Raises:
        ValueError: If `steps` is not a positive integer, the spacing is unknown or rho is not positive.
    """

    def __init__(
        self, denoiser: Denoiser, steps: int, *, spacing: str = "time", rho: float = 7.0, compile: bool = False
    ) -> None:
        name = type(self).__name__
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"{name}: expected steps >= 1, got {steps!r}; 18 is usual for Heun.")
        if not hasattr(denoiser, "sde"):
            raise ValueError(
                f"{name}: expected a Denoiser, got {type(denoiser).__name__}; wrap a network: Preconditioned(network, sde)."
            )
        if spacing not in ("time", "log_snr", "rho") or not rho > 0:
            raise ValueError(
                f'{name}: expected spacing "time", "log_snr" or "rho" and rho > 0, got {spacing!r}, {rho!r}; "time" is usual.'
            )
        self.denoiser = denoiser
        self.sde = denoiser.sde
        self.steps, self.spacing, self.rho = steps, spacing, rho
        if compile:
            compile_networks(denoiser)

    @abc.abstractmethod
    def step(self, x_t: Tensor, t: Tensor, s: Tensor, *, generator: Generators = None, **condition: Tensor) -> Tensor:
        """x_s from x_t, for times s < t, each ()."""

    def times(self, x: Tensor) -> Tensor:
        """The times (steps,), from 1 down to 0, on x's device; float64, so that no step is lost to rounding."""
        t = torch.linspace(1, 0, self.steps, dtype=torch.float64)
        if self.spacing != "time":
            low, high = self.sde.schedule.ratio(torch.tensor([0.0, 1.0], dtype=torch.float64))
            if self.spacing == "log_snr":
                ratio = low * (high / low) ** t
            else:
                ratio = torch.lerp(low ** (1 / self.rho), high ** (1 / self.rho), t) ** self.rho
            t[1:-1] = self.sde.schedule.time(ratio)[1:-1]  # the ends are exact as they are
        return t.to(x.device)

    @torch.no_grad()
    def solve(
        self,
        x: Tensor,
        *,
        times: Tensor | None = None,
        generator: Generators = None,
        progress: bool = False,
        **condition: Tensor,
    ) -> Tensor:
        """The state at the last of the times, its noise still in it, from the state x (B, C, *spatial) at the first.

        Args:
            x: The state.
            times: Decreasing, (steps,); by default this sampler's own, from 1 to 0.
            generator: As when the sampler is called, like the rest.
        """
        return self._solve(x, times, progress, generator, condition)

    def _solve(
        self, x: Tensor, times: Tensor | None, progress: bool, generator: Generators, condition: dict[str, Tensor]
    ) -> Tensor:
        """`solve`, for subclasses whose steps remember."""
        for t, s in self._pairs(x, times, progress):
            x = self.step(x, t, s, generator=generator, **condition)
        return x

    def _pairs(self, x: Tensor, times: Tensor | None, progress: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """(t, s) of each step."""
        pairs = list(itertools.pairwise(self.times(x) if times is None else times))
        yield from tqdm(pairs, disable=not progress, desc="sampling " + "x".join(map(str, x.shape[2:])))

    def grids(self, x: Tensor) -> list[tuple[Shape, int]]:
        """The grids that a run from the state `x` goes through, with the evaluations of the denoiser on each."""
        return [(tuple(x.shape[2:]), self.evaluations)]

    @property
    def evaluations(self) -> int:
        """Of the denoiser, for one sample."""
        return self.steps

    def estimate(self, shape: Sequence[int], count: int | None = None, *, device=None, **condition: Tensor) -> Cost:
        """What a run will take, from one evaluation of the denoiser on each of its grids.

        Args:
            shape: (B, C, *spatial): the samples of one chunk.
            count: How many samples in all, in chunks of B; by default one chunk.
            device: Where the denoiser is.
            condition: Of one chunk.
        """
        x = self.sde.prior(shape, device=device)
        seconds, most, one = 0.0, 0, torch.ones((), device=x.device)
        for grid, evaluations in self.grids(x):
            y = self.sde.prior((*shape[:2], *grid), device=device)
            with torch.no_grad():
                cost = measure(partial(self.denoiser, y, one, **condition), x.device)
            seconds, most = seconds + evaluations * cost.seconds, max(most, cost.bytes)
        chunks = 1 if count is None else -(-count // shape[0])
        return Cost(chunks * seconds, most + 4 * x.numel() * x.element_size())

    def chunks(
        self,
        shape: Sequence[int],
        seeds: Sequence[int],
        *,
        chunk: int = 32,
        device=None,
        progress: bool = False,
        **condition: Tensor,
    ) -> Iterator[Tensor]:
        """Samples (up to `chunk`, C, *spatial) in data units, on the CPU: one sample per seed, in the order of the seeds.

        Working memory is that of one chunk, whatever the number of samples; a sample does not depend on its chunk.

        Args:
            shape: (C, *spatial) of a sample.
            seeds: One per sample, for its prior and for the noise of stochastic samplers.
            chunk: Samples at a time.
            device: Where the denoiser is.
            progress: Show a bar over the samples.
            condition: Tensors (len(seeds), ...), shared out among the chunks.

        Raises:
            ValueError: If chunk < 1, or a condition does not have one entry per seed.
        """
        seeds = list(seeds)
        if chunk < 1 or any(len(value) != len(seeds) for value in condition.values()):
            sizes = {name: len(value) for name, value in condition.items()}
            raise ValueError(
                f"{type(self).__name__}: expected chunk >= 1 and conditions with one entry for each of the {len(seeds)} seeds, "
                f"got chunk={chunk} and {sizes}; 32 is a usual chunk."
            )
        keep_freed_memory()
        with tqdm(total=len(seeds), disable=not progress, desc="samples " + "x".join(map(str, shape[1:]))) as bar:
            for first in range(0, len(seeds), chunk):
                part = slice(first, first + chunk)
                generators = [torch.Generator().manual_seed(seed) for seed in seeds[part]]
                x = self.sde.prior((len(generators), *shape), generator=generators, device=device)
                told = {name: value[part].to(x.device) for name, value in condition.items()}
                yield self(x, generator=generators, **told).cpu()
                bar.update(len(generators))

    def draw(self, shape: Sequence[int], seeds: Sequence[int], **options: Any) -> Tensor:
        """All of `chunks`' samples at once, (len(seeds), C, *spatial), on the CPU; the same options.

        Examples:
            >>> from fnodiff import EDM, Box, DPMSolver, FunctionSpaceSDE, GaussianRandomField, Matern
            >>> from fnodiff.sde import GaussianDenoiser
            >>> field = GaussianRandomField(Box(2), Matern(1.0, 0.3))
            >>> sampler = DPMSolver(GaussianDenoiser(field, FunctionSpaceSDE(field, EDM())), 12)
            >>> coarse, fine = (sampler.draw((1, n, n), seeds=[7, 8]) for n in (16, 32))
            >>> bool((Box(2).resample(fine, (16, 16)) - coarse).abs().max() < 1e-3)  # one seed is one function
            True
        """
        return torch.cat(list(self.chunks(shape, seeds, **options)))

    def _noise(self, x: Tensor, generator: Generators) -> Tensor:
        """A fresh draw of x's shape."""
        return self.sde.noise.sample(x.shape, generator=generator, device=x.device, dtype=x.dtype)

    @torch.no_grad()
    def __call__(
        self, x: Tensor, *, generator: Generators = None, progress: bool = False, **condition: Tensor
    ) -> Tensor:
        """Samples (B, C, *spatial) in data units.

        Args:
            x: The state at t = 1, from `sde.prior(shape)`; its grid is the samples' grid.
            generator: For stochastic samplers: one, or one per sample.
            progress: Show a bar.
            condition: Given to the denoiser at every evaluation.
        """
        x = self.solve(x, generator=generator, progress=progress, **condition)
        return self.denoiser.normalization.inverse(self.denoiser(x, self.times(x)[-1], **condition))


class DDIM(Sampler):
    """First order: Euler's step of the ODE at eta = 0, ancestral sampling at eta = 1.

        x_s = alpha_s x_hat + sqrt(sigma_s^2 - n^2) z_hat + n z,    n = eta sqrt(1 - (s_s / s_t)^2) sigma_s

    with x_hat = D(x_t, t), z_hat = (x_t - alpha_t x_hat) / sigma_t and noise levels s_t = sigma_t / alpha_t.

    Args:
        denoiser: E[x | x_t].
        steps: Number of noise levels.
        eta: 0 to 1, the share of fresh noise.
        spacing: As for `Sampler`, with its rho and compile.

    Source: Song, Meng, Ermon (2021), Denoising diffusion implicit models.

    Examples:
        >>> from fnodiff import DDIM, EDM, FunctionSpaceSDE, GaussianRandomField, Matern, Torus
        >>> from fnodiff.sde import GaussianDenoiser
        >>> field = GaussianRandomField(Torus(1), Matern(1.0, 0.01))
        >>> denoiser = GaussianDenoiser(field, FunctionSpaceSDE(field, EDM()))
        >>> x = DDIM(denoiser, steps=100).draw((1, 256), seeds=range(8))
        >>> bool(0.8 < x.var() < 1.2)  # the data's is 1
        True
    """

    def __init__(self, denoiser: Denoiser, steps: int, eta: float = 0.0, **spacing: Any) -> None:
        super().__init__(denoiser, steps, **spacing)
        self.eta = _share("DDIM", eta)

    def step(self, x_t: Tensor, t: Tensor, s: Tensor, *, generator: Generators = None, **condition: Tensor) -> Tensor:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.sde.marginal(x_t, t), self.sde.marginal(x_t, s)
        x_hat = self.denoiser(x_t, t, **condition)
        z_hat = (x_t - alpha_t * x_hat) / sigma_t
        if self.eta == 0:
            return alpha_s * x_hat + sigma_s * z_hat
        fresh = self.eta * sigma_s * (1 - (sigma_s * alpha_t / (sigma_t * alpha_s)).square()).sqrt()
        return (
            alpha_s * x_hat + (sigma_s.square() - fresh.square()).sqrt() * z_hat + fresh * self._noise(x_t, generator)
        )


class Heun(Sampler):
    """Second order: Heun's step of dy / ds = (y - D) / s; 2 steps - 1 evaluations in all.

    With churn, each step first adds noise, which lets later evaluations correct the errors of earlier ones.

    Args:
        denoiser: E[x | x_t].
        steps: Number of noise levels.
        churn: S_churn: before each step the noise level rises by a factor 1 + min(churn / steps, sqrt(2) - 1), though
            not above that of t = 1. 0: deterministic.
        churn_min: S_tmin: no churn below this sigma / alpha.
        churn_max: S_tmax: nor above this one.
        churn_noise: S_noise: the added noise's standard deviation, 1 or a little more.
        spacing: As for `Sampler`, with its rho and compile.

    Raises:
        ValueError: If a churn setting is negative.

    Source: Karras et al. (2022), algorithms 1 and 2.

    Examples:
        >>> from fnodiff import EDM, FunctionSpaceSDE, GaussianRandomField, Heun, Matern, Torus
        >>> from fnodiff.sde import GaussianDenoiser
        >>> field = GaussianRandomField(Torus(1), Matern(1.0, 0.01))
        >>> denoiser = GaussianDenoiser(field, FunctionSpaceSDE(field, EDM()))
        >>> x = Heun(denoiser, steps=18).draw((1, 256), seeds=range(8))
        >>> bool(0.8 < x.var() < 1.2)  # the data's is 1
        True
    """

    def __init__(
        self,
        denoiser: Denoiser,
        steps: int,
        churn: float = 0.0,
        churn_min: float = 0.0,
        churn_max: float = math.inf,
        churn_noise: float = 1.0,
        **spacing: Any,
    ) -> None:
        super().__init__(denoiser, steps, **spacing)
        if min(churn, churn_min, churn_max, churn_noise) < 0:
            raise ValueError(
                f"Heun: expected churn, churn_min, churn_max and churn_noise >= 0, got {churn!r}, {churn_min!r}, "
                f"{churn_max!r}, {churn_noise!r}; 0 is no churn."
            )
        self.churn, self.churn_min, self.churn_max, self.churn_noise = churn, churn_min, churn_max, churn_noise

    def step(self, x_t: Tensor, t: Tensor, s: Tensor, *, generator: Generators = None, **condition: Tensor) -> Tensor:
        if self.churn > 0 and self.churn_min <= float(self.sde.schedule.ratio(t)) <= self.churn_max:
            x_t, t = self._raise_noise(x_t, t, generator)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.sde.marginal(x_t, t), self.sde.marginal(x_t, s)
        level_t, level_s = sigma_t / alpha_t, sigma_s / alpha_s
        y_t = x_t / alpha_t
        slope_t = (y_t - self.denoiser(x_t, t, **condition)) / level_t
        y_s = y_t + (level_s - level_t) * slope_t
        slope_s = (y_s - self.denoiser(alpha_s * y_s, s, **condition)) / level_s
        return alpha_s * (y_t + (level_s - level_t) * 0.5 * (slope_t + slope_s))

    @property
    def evaluations(self) -> int:
        return 2 * self.steps - 1

    def _raise_noise(self, x_t: Tensor, t: Tensor, generator: Generators) -> tuple[Tensor, Tensor]:
        """The state at a higher noise level, and its time."""
        level, highest = self.sde.schedule.ratio(torch.stack([t, torch.ones_like(t)]))
        raised = torch.minimum(level * (1 + min(self.churn / self.steps, math.sqrt(2) - 1)), highest)
        time = torch.maximum(self.sde.schedule.time(raised).clamp(0, 1), t)
        added = (raised.square() - level.square()).clamp(min=0).sqrt().to(x_t) * self.churn_noise
        y = x_t / self.sde.marginal(x_t, t)[0] + added * self._noise(x_t, generator)
        return y * self.sde.marginal(x_t, time)[0], time


class DPMSolver(Sampler):
    """DPM-Solver++ (2M): second order at one evaluation a step, by the estimates of the last two; its SDE form at eta = 1.

        x_s = (sigma_s / sigma_t) e^(-eta h) x_t + alpha_s (1 - e^(-(1 + eta) h)) D + sigma_s sqrt(1 - e^(-2 eta h)) z,
        D = x_hat_t + (x_hat_t - x_hat_u) h / (2 h_u)

    with h = ln(alpha_s / sigma_s) - ln(alpha_t / sigma_t), and h_u the step before, from u to t. Its first step is DDIM's.

    Args:
        denoiser: E[x | x_t].
        steps: Number of noise levels.
        eta: 0 for the ODE, 1 for the reverse SDE, or between.
        spacing: As for `Sampler`, with its rho and compile.

    Source: Lu et al. (2022), DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models.

    Examples:
        >>> from fnodiff import EDM, DPMSolver, FunctionSpaceSDE, GaussianRandomField, Matern, Torus
        >>> from fnodiff.sde import GaussianDenoiser
        >>> field = GaussianRandomField(Torus(1), Matern(1.0, 0.01))
        >>> denoiser = GaussianDenoiser(field, FunctionSpaceSDE(field, EDM()))
        >>> x = DPMSolver(denoiser, steps=18).draw((1, 256), seeds=range(8))
        >>> bool(0.8 < x.var() < 1.2)  # the data's is 1
        True
    """

    def __init__(self, denoiser: Denoiser, steps: int, eta: float = 0.0, **spacing: Any) -> None:
        super().__init__(denoiser, steps, **spacing)
        self.eta = _share("DPMSolver", eta)

    def step(self, x_t: Tensor, t: Tensor, s: Tensor, *, generator: Generators = None, **condition: Tensor) -> Tensor:
        return self._step(x_t, t, s, None, generator, condition)[0]

    def _solve(
        self, x: Tensor, times: Tensor | None, progress: bool, generator: Generators, condition: dict[str, Tensor]
    ) -> Tensor:
        before = None
        for t, s in self._pairs(x, times, progress):
            x, before = self._step(x, t, s, before, generator, condition)
        return x

    def _step(
        self,
        x_t: Tensor,
        t: Tensor,
        s: Tensor,
        before: tuple[Tensor, Tensor] | None,
        generator: Generators,
        condition: dict[str, Tensor],
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x_s, and (h, x_hat) for the next step."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.sde.marginal(x_t, t), self.sde.marginal(x_t, s)
        h = (alpha_s * sigma_t / (sigma_s * alpha_t)).log()
        x_hat = self.denoiser(x_t, t, **condition)
        estimate = x_hat
        if before is not None:
            h_before, x_hat_before = before
            estimate = x_hat + (x_hat - x_hat_before) * (h / (2 * h_before))
        x = sigma_s / sigma_t * (-self.eta * h).exp() * x_t - alpha_s * torch.expm1(-(1 + self.eta) * h) * estimate
        if self.eta > 0:
            x = x + sigma_s * (-torch.expm1(-2 * self.eta * h)).sqrt() * self._noise(x, generator)
        return x, (h, x_hat)


def _share(name: str, eta: float) -> float:
    """eta, if it is a share of fresh noise."""
    if not 0 <= eta <= 1:
        raise ValueError(
            f"{name}: expected eta in [0, 1], got {eta!r}; 0 is deterministic, 1 has all of the noise fresh."
        )
    return eta
