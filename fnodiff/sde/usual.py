"""What is sampled by where nothing is named: the plan of grids, and the solver."""

from __future__ import annotations

import math

from fnodiff.domain import Shape
from fnodiff.sde.denoiser import Denoiser
from fnodiff.sde.solvers import DPMSolver, Solver
from fnodiff.sde.stages import Cascade, Direct, Plan, Progressive


def default_plan(denoiser: Denoiser, shape: Shape) -> Plan:
    """The plan of `sample` where none is named.

    `Direct` where coarser grids are not known to help: with an observation, without a spectrum or training shapes, for values
    at points. For cell averages, as images are: above the largest training grid `Cascade`, else `Progressive`.
    """
    if denoiser.one_grid or denoiser.spectrum is None or not denoiser.cell_averages or not denoiser.training_shapes:
        return Direct()
    largest = max(denoiser.training_shapes, key=math.prod)
    above = shape != largest and all(n <= m for n, m in zip(largest, shape, strict=True))
    return Cascade() if above else Progressive()


def default_solver(denoiser: Denoiser, *, upscaling: bool = False) -> DPMSolver:
    """The solver of `sample`, or with `upscaling` of `upscale` and a cascade's finer grids, where none is named.

    `DPMSolver(12)`, and 36 steps to upscale. Trained models of cell averages, as images are, upscale by
    `DPMSolver(12, eta=1.0)`: with fresh noise at each step, by the sample's seed, a network mends its earlier errors.
    """
    if not upscaling:
        return DPMSolver(12)
    pictures = denoiser.cell_averages and denoiser.training_shapes and not denoiser.one_grid
    return DPMSolver(12, eta=1.0) if pictures else DPMSolver(36)


def checked_solver(solver: Solver) -> Solver:
    """The solver; ValueError if it is none."""
    if not isinstance(solver, Solver):
        raise ValueError(f"expected a solver such as DPMSolver(12), got {solver!r}; a solver holds no denoiser.")
    return solver
