"""Sampling across resolutions: coarse grids while there is nothing finer to see, and the modes that an image fixes.

Both rest on modes that do not mix: at noise level s = sigma_t / alpha_t, mode k of x_t / alpha_t has variance S_k + s^2 C_k,
with S the data's spectrum and C the noise's. Where the signal-to-noise ratio SNR_k = S_k / (s^2 C_k) is small, the mode is
noise to all intents, and need not be computed.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fnodiff.domain import Domain, Generators, Shape
from fnodiff.sde.denoise import Denoiser, Wrapper, known
from fnodiff.sde.noise import Spectrum
from fnodiff.sde.sample import DPMSolver, Sampler

_USUAL = partial(DPMSolver, steps=36)


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


class Cascade(Progressive):
    """A sampler that finishes on a coarse grid, and then draws the finer modes given those that it has.

    One model does both, without having seen the finer grids. What is kept of a grid stays as drawn, so a network that was
    trained on coarse grids is asked, on finer ones, for nothing but what they add. The finer grid begins where `Progressive`
    would switch to it, with the drawn modes noised by the same function that began the run; one seed remains one function.
    Exact in law for Gaussian data, whose modes are independent; else the first finer steps see the drawn modes through
    noise (`KnownModes`).

    Args:
        sampler: As for `Progressive`, like shapes, spectrum, budget and switch_times.
        first: Grids coarser still, which the first of `shapes` is reached through as by `Progressive` with this budget, none
            of them to its end.
        cell_averages: As for `upscale`: fields are averages over the cells of their grids, as images are.
        keep: The share of a grid's modes per axis that are kept; the finer grid draws the others anew. By default 0.75 of
            cell averages, whose last modes hold what averaging folded onto them, and else 1.

    Raises:
        ValueError: As `Progressive`, or if `first` has a grid finer than the first of `shapes`, or keep is not in (0, 1].

    Source: Ho, Saharia et al. (2022), Cascaded diffusion models for high fidelity image generation (which train a model for
    each grid).

    Examples:
        >>> from fnodiff import EDM, Box, Cascade, DPMSolver, FunctionSpaceSDE, GaussianRandomField, Matern, WhiteNoise
        >>> from fnodiff.sde import GaussianDenoiser
        >>> sde = FunctionSpaceSDE(WhiteNoise(Box(2), (16, 16)), EDM())
        >>> denoiser = GaussianDenoiser(GaussianRandomField(Box(2), Matern(1.0, 0.3)), sde)
        >>> sampler = Cascade(DPMSolver(denoiser, 12), [(16, 16)], Matern(1.0, 0.3), cell_averages=False)
        >>> coarse = DPMSolver(denoiser, 12).draw((1, 16, 16), seeds=[0])
        >>> bool((Box(2).resample(sampler.draw((1, 32, 32), seeds=[0]), (16, 16)) - coarse).abs().max() < 0.01)
        True
    """

    def __init__(
        self,
        sampler: Sampler,
        shapes: Sequence[Shape],
        spectrum: Spectrum | None = None,
        *,
        first: Sequence[Shape] = (),
        cell_averages: bool = True,
        keep: float | None = None,
        budget: float = 1.0,
        switch_times: Sequence[float] | None = None,
    ) -> None:
        super().__init__(sampler, shapes, spectrum, budget=budget, switch_times=switch_times)
        self.cell_averages = cell_averages
        self.keep = (0.75 if cell_averages else 1.0) if keep is None else keep
        if not 0 < self.keep <= 1:
            raise ValueError(f"Cascade: expected keep above 0 and up to 1, got {keep!r}; 1 keeps all that was drawn.")
        self.first = Progressive(sampler, first, self.spectrum, budget=budget) if first else sampler
        if first and not all(n <= m for grid in self.first.shapes for n, m in zip(grid, self.shapes[0], strict=True)):
            raise ValueError(
                f"Cascade: expected `first` grids no finer than {self.shapes[0]}, the first of `shapes`, got "
                f"{self.first.shapes}; finer ones belong to `shapes`."
            )

    def plan(self, x: Tensor) -> list[Rung]:
        """The grids that a run from the state `x` samples to their end, coarsest first; `grids` has those of `first` too."""
        rungs = super().plan(x)
        rungs = [replace(rung, steps=sum(r.steps for r in rungs[i:])) for i, rung in enumerate(rungs)]
        return rungs[:1] + [b for a, b in itertools.pairwise(rungs) if a.shape != b.shape]

    def grids(self, x: Tensor) -> list[tuple[Shape, int]]:
        each, rungs = (self.evaluations - 1) // max(1, self.steps - 1), self.plan(x)
        start = self.first.grids(self._start(x, rungs[0].shape))
        return start + [(rung.shape, rung.steps * each + 1) for rung in rungs[1:]]

    @torch.no_grad()
    def __call__(
        self, x: Tensor, *, generator: Generators = None, progress: bool = False, **condition: Tensor
    ) -> Tensor:
        rungs, times = self.plan(x), self.times(x)
        run = {"generator": generator, "progress": progress, **condition}
        drawn = self.first(self._start(x, rungs[0].shape), **run)
        for rung in rungs[1:]:
            drawn = self._add(x, times[len(times) - 1 - rung.steps :], rung.shape, drawn, run, condition)
        return drawn

    def _start(self, x: Tensor, grid: Shape) -> Tensor:
        """The state at t = 1 on a coarser grid."""
        return self.sde.domain.resample(x, grid) / self._share(grid, tuple(x.shape[2:]))

    def _add(
        self,
        start: Tensor,
        times: Tensor,
        grid: Shape,
        drawn: Tensor,
        run: dict[str, Any],
        condition: dict[str, Tensor],
    ) -> Tensor:
        """Samples on a grid, given those on the one before."""
        domain, shape = self.sde.domain, tuple(start.shape[2:])
        sampler, sigma = copy.copy(self.sampler), self.sde.marginal(start, torch.ones_like(times[0]))[1]
        low = _on_cells(domain, drawn, grid) if self.cell_averages else drawn
        small = tuple(max(1, round(self.keep * n)) for n in domain.check_field(low))
        low = domain.resample(low, small)
        sampler.denoiser = KnownModes(self.denoiser, low).to(start.device)
        y = domain.resample(self._emerged(start, times[0]), grid)
        level = self.sde.schedule.ratio(times[0]).to(start)
        noisy = self.denoiser.normalization(low) + level * domain.resample(start / sigma, small)
        y = y + domain.resample(noisy - domain.resample(y, small), grid)
        segment = self._translate(times, grid, shape)
        segment = torch.unique_consecutive(segment)  # PixelNoise's may end before the finest's
        state = sampler.solve(self.sde.marginal(y, segment[0])[0] * y, times=segment, **run)
        return self.denoiser.normalization.inverse(sampler.denoiser(state, segment[-1], **condition))

    def _solve(
        self, x: Tensor, times: Tensor | None, progress: bool, generator: Generators, condition: dict[str, Tensor]
    ) -> Tensor:
        raise ValueError(
            "Cascade: expected to be called, as each grid but the last is sampled to its end; its samples have no state."
        )


class KnownModes(Wrapper):
    """A denoiser that is told a field's low modes: its estimate, with those modes replaced by the known ones.

    Along the probability flow a known mode follows c + s z exactly, and ends at c; the others see it as they saw it in
    training. Exact for Gaussian data, whose modes are independent; else the early steps do not use what the known modes
    say beyond their noisy values.

    Args:
        denoiser: Of fields without anything known.
        values: (B, C, *shape): point values of the field's part below that grid's band limit, in data units.

    Raises:
        ValueError: If the values are no field on the domain.
    """

    def __init__(self, denoiser: Denoiser, values: Tensor) -> None:
        super().__init__(denoiser)
        self.shape = denoiser.sde.domain.check_field(values)
        self.register_buffer("values", denoiser.normalization(values))

    def forward(self, x_t: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        domain = self.sde.domain
        shape, values = domain.check_field(x_t), self.values.to(x_t)
        if not all(n <= m for n, m in zip(self.shape, shape, strict=True)) or values.shape[:2] != x_t.shape[:2]:
            raise ValueError(
                f"KnownModes: expected a batch of {tuple(values.shape[:2])} samples and channels on a grid of {self.shape} "
                f"or finer, got {tuple(x_t.shape)}; sample where the known modes fit."
            )
        x_hat = self.denoiser(x_t, t, **condition)
        return x_hat + domain.resample(values - domain.resample(x_hat, self.shape), shape)


def upscale(
    denoiser: Denoiser,
    low_res: Tensor,
    shape: Shape,
    *,
    sampler: Callable[[Denoiser], Sampler] = _USUAL,
    cell_averages: bool = True,
    generator: Generators = None,
    progress: bool = False,
    **condition: Tensor,
) -> Tensor:
    """Zero-shot super-resolution: fields on a finer grid whose low modes are those of given ones, the rest sampled.

    Args:
        denoiser: A model of such fields; nothing in it needs to know about super-resolution.
        low_res: (B, C, *small), in data units.
        shape: The finer grid.
        sampler: Makes a sampler of a denoiser.
        cell_averages: Fields are averages over the cells of their grids, as images are: mode k of the result is that of
            `low_res` divided by what averaging over the coarse cells took, times what the fine cells take. (What the average
            folded onto a mode from above the coarse grid stays in it, and what the result's new modes fold is not in
            `low_res`: averaged again, the result is near `low_res`, not equal to it.) False: values at points.
        generator: One, or one per sample: other seeds are other fields that fit.
        progress: Show a bar.
        condition: Given to the denoiser.

    Returns:
        (B, C, *shape), in data units.

    Raises:
        ValueError: If the finer grid does not hold the modes of the coarse one.

    Examples:
        >>> import torch
        >>> from fnodiff import EDM, Box, FunctionSpaceSDE, GaussianRandomField, Matern, WhiteNoise
        >>> from fnodiff.sde import GaussianDenoiser, upscale
        >>> field = GaussianRandomField(Box(2), Matern(1.0, 0.3))
        >>> denoiser = GaussianDenoiser(field, FunctionSpaceSDE(WhiteNoise(Box(2), (16, 16)), EDM()))
        >>> low = field.sample((1, 1, 16, 16), generator=torch.Generator().manual_seed(0))
        >>> high = upscale(denoiser, low, (32, 32), cell_averages=False)
        >>> bool((Box(2).resample(high, (16, 16)) - low).abs().max() < 0.01)
        True
    """
    domain: Domain = denoiser.sde.domain
    small, shape = domain.check_field(low_res), domain.check_shape(shape)
    if not all(n <= m for n, m in zip(small, shape, strict=True)) or small == shape:
        raise ValueError(f"upscale: expected a grid finer than {small}, got {shape}; pass the shape to upscale to.")
    values = _on_cells(domain, low_res, shape) if cell_averages else low_res
    model = KnownModes(denoiser, values).to(low_res.device)
    batch = (*low_res.shape[:2], *shape)
    prior = denoiser.sde.prior(batch, generator=generator, device=low_res.device, dtype=low_res.dtype)
    return sampler(model)(prior, generator=generator, progress=progress, **condition)


def _on_cells(domain: Domain, low: Tensor, shape: Shape) -> Tensor:
    """Averages over a coarse grid's cells, as averages over a finer grid's cells show the same modes; on the coarse grid."""
    small, c = tuple(low.shape[2:]), domain.analyze(low)
    fine, coarse = (domain.attenuation(small, cells, device=c.device, dtype=c.real.dtype) for cells in (shape, small))
    return domain.synthesize(c * (fine / coarse), small).to(low.dtype)
