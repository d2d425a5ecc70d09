"""The finer modes given the coarse ones: of a picture that is there (`upscale`), or of one that is drawn first (`Cascade`).

A known mode c is held along the probability flow, at c + s z at noise level s = sigma_t / alpha_t, by replacing it in the
denoised estimate; the other modes see it through that noise, as they saw it in training.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fnodiff.domain import Domain, Generators, Shape
from fnodiff.sde.denoise import Denoiser, Wrapper
from fnodiff.sde.noise import Spectrum
from fnodiff.sde.resolution import Progressive, Rung
from fnodiff.sde.sample import DPMSolver, Sampler

_USUAL = partial(DPMSolver, steps=36)


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
