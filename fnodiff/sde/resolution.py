"""Sampling across resolutions: coarse grids while there is nothing finer to see.

It rests on modes that do not mix: at noise level s = sigma_t / alpha_t, mode k of x_t / alpha_t has variance S_k + s^2 C_k,
with S the data's spectrum and C the noise's. Where the signal-to-noise ratio SNR_k = S_k / (s^2 C_k) is small, the mode is
noise to all intents, and need not be computed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fnodiff.domain import Generators, Shape
from fnodiff.sde.denoise import known
from fnodiff.sde.noise import Spectrum
from fnodiff.sde.sample import Sampler


@dataclass(frozen=True)
class Rung:
    """One grid of a progressive run.

    Attributes:
        shape: The grid.
        time: The t at which it takes over.
        steps: How many steps are taken on it.
        snr: The sum of the signal-to-noise ratios of the modes that it adds, at that time; half the sum of ln(1 + SNR), which
            is less than half of this, bounds the Kullback-Leibler divergence that the switch costs.
    """

    shape: Shape
    time: float
    steps: int
    snr: float


class Progressive(Sampler):
    """A sampler that starts on a coarse grid and moves to finer ones as their modes emerge from the noise.

    At a switch the state is brought to the finer grid, and the modes that the coarse grid lacked are added with the variance
    that they have by then, alpha^2 S + sigma^2 C: exact in law for Gaussian data at any switch. They are the modes of the
    state at t = 1, rescaled, so that one seed remains one function on every grid. For structured data a switch costs at
    most half the sum over the new modes of ln(1 + SNR) in divergence; by default a grid takes over when that sum of SNR
    reaches `budget`.

    `PixelNoise` puts less noise in a mode the finer the grid. One noise level on the finest grid of n points per side is
    then sigma (m / n)^(dim / 2) on a grid of m: the time is translated so that each mode keeps its noise.

    Args:
        sampler: What takes the steps, with its denoiser.
        shapes: Spatial shapes of the coarser grids, coarsest first; the finest is that of the state that is sampled from.
        spectrum: S, such as `fit_spectrum` returns; by default the denoiser's own, if it has one.
        budget: The largest sum of SNR that the modes of a band may have when they are added.
        switch_times: The times t at which each grid but the first takes over, instead of a budget: decreasing.

    Raises:
        ValueError: If no spectrum is known, the shapes are not nested, or the budget or the times are out of range.

    Examples:
        >>> from fnodiff import EDM, Box, DPMSolver, FunctionSpaceSDE, GaussianRandomField, Matern, Progressive, WhiteNoise
        >>> from fnodiff.sde import GaussianDenoiser
        >>> sde = FunctionSpaceSDE(WhiteNoise(Box(2), (32, 32)), EDM())
        >>> denoiser = GaussianDenoiser(GaussianRandomField(Box(2), Matern(1.0, 0.3)), sde)
        >>> sampler = Progressive(DPMSolver(denoiser, 12), [(8, 8), (16, 16)], Matern(1.0, 0.3))
        >>> sampler.grids(sde.prior((1, 1, 32, 32)))  # and the evaluations on each
        [((8, 8), 4), ((16, 16), 1), ((32, 32), 7)]
    """

    def __init__(
        self,
        sampler: Sampler,
        shapes: Sequence[Shape],
        spectrum: Spectrum | None = None,
        *,
        budget: float = 1.0,
        switch_times: Sequence[float] | None = None,
    ) -> None:
        super().__init__(sampler.denoiser, sampler.steps, spacing=sampler.spacing, rho=sampler.rho)
        self.sampler, self.budget = sampler, budget
        self.shapes = tuple(self.sde.domain.check_shape(shape) for shape in shapes)
        spectrum = known(sampler.denoiser, "spectrum") if spectrum is None else spectrum
        if spectrum is None:
            raise ValueError(
                "Progressive: expected the data's spectrum, got none; pass spectrum=fit_spectrum(fields, domain)."
            )
        self.spectrum: Spectrum = spectrum
        if not self.shapes or not 0 < budget < math.inf:
            raise ValueError(
                f"Progressive: expected one coarser grid or more and a budget > 0, got {self.shapes} and {budget!r}."
            )
        self.switch_times = None if switch_times is None else tuple(float(t) for t in switch_times)
        if self.switch_times is not None:
            falling = all(a >= b for a, b in itertools.pairwise((1.0, *self.switch_times, 0.0)))
            if len(self.switch_times) != len(self.shapes) or not falling:
                raise ValueError(
                    f"Progressive: expected {len(self.shapes)} switch_times falling from 1 to 0, one per grid but the first, "
                    f"got {self.switch_times}."
                )

    def step(self, x_t: Tensor, t: Tensor, s: Tensor, *, generator: Generators = None, **condition: Tensor) -> Tensor:
        return self.sampler.step(x_t, t, s, generator=generator, **condition)

    def times(self, x: Tensor) -> Tensor:
        return self.sampler.times(x)

    def plan(self, x: Tensor) -> list[Rung]:
        """The grids that a run from the state `x` (B, C, *spatial) goes through, coarsest first."""
        shape, times = self.sde.domain.check_field(x), self.times(x).cpu()
        ladder = [*self.shapes, shape]
        for coarse, fine in itertools.pairwise(ladder):
            if not all(n <= m for n, m in zip(coarse, fine, strict=True)):
                raise ValueError(
                    f"Progressive: expected each grid to hold the one before, got {ladder}; sort the shapes, coarsest first, "
                    f"none finer than the samples' {shape}."
                )
        ratio = self.sde.schedule.ratio(times)
        totals = [self._total(grid, shape) for grid in ladder]
        bands = [0.0, *(max(0.0, b - a) for a, b in itertools.pairwise(totals))]
        starts = []
        for i, (coarse, band) in enumerate(zip(ladder, bands[1:], strict=False)):
            lowest = float(ratio[-1]) / self._share(coarse, shape)  # below it the coarse grid's schedule ends
            if self.switch_times is None:
                lowest = max(lowest, math.sqrt(band / self.budget))
                starts.append(max(0, int((ratio >= lowest).sum()) - 1))
            else:
                starts.append(int((times >= self.switch_times[i] - 1e-12).sum()) - 1)
                if float(ratio[starts[-1]]) < lowest * (1 - 1e-9):
                    raise ValueError(
                        f"Progressive: expected to leave {coarse} before sigma / alpha = {lowest:g}, where its noise ends, got "
                        f"switch time {self.switch_times[i]}; switch earlier."
                    )
        starts = [0, *list(itertools.accumulate(reversed(starts), min))[::-1]]  # a finer grid's turn may come first
        ends = [*starts[1:], len(times) - 1]
        return [
            Rung(grid, float(times[a]), b - a, band / float(ratio[a]) ** 2)
            for grid, a, b, band in zip(ladder, starts, ends, bands, strict=True)
        ]

    @property
    def evaluations(self) -> int:
        return self.sampler.evaluations

    def grids(self, x: Tensor) -> list[tuple[Shape, int]]:
        rungs = self.plan(x)
        each = (self.evaluations - 1) // max(1, self.steps - 1)
        return [(r.shape, r.steps * each + (r is rungs[-1])) for r in rungs]

    def _solve(
        self, x: Tensor, times: Tensor | None, progress: bool, generator: Generators, condition: dict[str, Tensor]
    ) -> Tensor:
        if times is not None:
            raise ValueError(
                "Progressive: expected no times, as its plan starts at t = 1; pass them to the inner sampler."
            )
        domain, shape, first = self.sde.domain, tuple(x.shape[2:]), 0
        times, start, grid, y = self.times(x), x, None, None
        alpha = self.sde.marginal(x, times[0])[0]
        for rung in self.plan(x):
            t = times[first]
            fresh = domain.resample(self._emerged(start, t), rung.shape)
            if grid is None:
                y = domain.resample(start / alpha, rung.shape)  # at t = 1, where nothing has emerged
            else:
                kept = domain.resample(domain.resample(fresh, grid), rung.shape)
                y = domain.resample(y, rung.shape) + fresh - kept
            grid = rung.shape
            segment = self._translate(times[first : first + rung.steps + 1], grid, shape)
            state = self.sde.marginal(y, segment[0])[0] * y
            state = self.sampler.solve(state, times=segment, generator=generator, progress=progress, **condition)
            y, first = state / self.sde.marginal(state, segment[-1])[0], first + rung.steps
        return self.sde.marginal(y, times[-1])[0] * y

    def _emerged(self, start: Tensor, t: Tensor) -> Tensor:
        """x_t / alpha_t with every mode of the variance that it has at t, from the noise that the run started with."""
        shape = tuple(start.shape[2:])
        level, sigma_1 = self.sde.schedule.ratio(t).to(start), self.sde.marginal(start, torch.ones_like(t))[1]

        def gain(eigenvalues: Tensor) -> Tensor:
            c = self.sde.noise.on(shape).std(eigenvalues).square()
            return (self.spectrum(eigenvalues, self.sde.domain.dim) / c + level.square()).sqrt() / sigma_1

        return self.sde.domain.filter(start, gain)

    def _total(self, grid: Shape, finest: Shape) -> float:
        """The sum of S / C over a grid's modes, with the noise that the finest grid has in them."""
        domain = self.sde.domain
        eigenvalues, mult = (f(grid, dtype=torch.float64) for f in (domain.eigenvalues, domain.multiplicity))
        c = self.sde.noise.on(finest).std(eigenvalues).square()
        ratio = self.spectrum(eigenvalues, domain.dim) / c
        return float((mult * ratio).sum() * mult.numel() / ratio.numel())  # of a channel, on the average

    def _share(self, grid: Shape, finest: Shape) -> float:
        """The noise level on a grid that puts into each mode what level one puts on the finest: 1 for functions."""
        zero = torch.zeros(1, dtype=torch.float64)
        return float((self.sde.noise.on(finest).std(zero) / self.sde.noise.on(grid).std(zero)).max())

    def _translate(self, times: Tensor, grid: Shape, finest: Shape) -> Tensor:
        """Times on a grid, from those on the finest."""
        share = self._share(grid, finest)
        if share == 1:
            return times
        return self.sde.schedule.time(share * self.sde.schedule.ratio(times)).clamp(0, 1)  # against rounding only
