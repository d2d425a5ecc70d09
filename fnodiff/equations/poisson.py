"""Poisson's and Helmholtz's equation on the unit square: the field u of a random source a.

    Delta u + kappa^2 u = a,    u = 0 on the edge,    a ~ N(0, c (-Delta + 9)^-2),

with kappa = 0 for Poisson's, zero slope of a at the edge (the cosine basis of `Box`), and c such that a has a mean variance of
one. In sines, u_k = a_k / (kappa^2 - pi^2 |k|^2). Those of a are taken from its values at the cell centres, so u is of second
order, and exact for sources that are sines of the grid.

Source: Huang, Yang, Wang, Park (2024), DiffusionPDE: generative PDE-solving under partial observation (the equations, alpha = 2
and tau = 3; their code leaves out the constant mode of a, and sets it to zero on the edge for Helmholtz's equation).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from fnodiff.domain import Box, Generators, Shape
from fnodiff.domain.constants import cached
from fnodiff.equations.solved import Solved, check_choice
from fnodiff.expected import kinds_checked

Target = Literal["pair", "solution", "source"]
_SQUARE = Box(2)


def source(shape: Sequence[int], *, generator: Generators = None) -> Tensor:
    """Draw sources: the field `GaussianRandomField(Box(2), Matern(1.0, math.sqrt(2) / 3))`, in float64.

    Args:
        shape: (B, C, n, m); channels are independent.
        generator: One generator, or one per sample: the same seed is the same function on every grid. None: plain draws.
    """
    white = _SQUARE.white(shape[:2], shape[2:], generator=generator, dtype=torch.float64)
    std = _variance(_SQUARE.eigenvalues(shape[2:], dtype=torch.float64)).sqrt() / _trace() ** 0.5
    return _SQUARE.synthesize(white * std, shape[2:])


def solve(a: Tensor, wavenumber: float = 0.0) -> Tensor:
    """The field u of a source: linear, its own adjoint (as a matrix between grid values), and differentiable.

    Args:
        a: Source at the cell centres, (B, C, n, m), on any device.
        wavenumber: kappa, in radians per side; 0 for Poisson's equation.

    Returns:
        (B, C, n, m) in a's dtype; computed in float32 at least.

    Raises:
        ValueError: If `a` is no field on the square, or the equation has no solution: kappa^2 is an eigenvalue.

    Examples:
        >>> import torch
        >>> from fnodiff.equations.poisson import solve
        >>> u = solve(torch.ones(1, 1, 33, 33))  # the torsion of a square shaft
        >>> round(float(u[0, 0, 16, 16]), 3)
        -0.074
    """
    n, m = _SQUARE.check_field(a)
    dtype = torch.promote_types(a.dtype, torch.float32)
    rows, columns = (_sines(size).to(device=a.device, dtype=dtype) for size in (n, m))
    return (rows.T @ ((rows @ a.to(dtype) @ columns.T) / _symbol(n, m, wavenumber).to(rows)) @ columns).to(a.dtype)


def _variance(eigenvalues: Tensor) -> Tensor:
    return (eigenvalues + 9) ** -2


@functools.cache
def _trace() -> float:
    return _SQUARE.trace(_variance)


@cached
def _sines(n: int) -> Tensor:
    """(n, n), orthonormal: row k - 1 has sin(pi k x), k = 1 .. n, at the cell centres."""
    x, k = (torch.arange(n, dtype=torch.float64) + 0.5) / n, torch.arange(1, n + 1, dtype=torch.float64)
    waves = (math.pi * k[:, None] * x).sin() * math.sqrt(2 / n)
    waves[-1] /= math.sqrt(2)
    return waves


@cached
def _symbol(n: int, m: int, wavenumber: float) -> Tensor:
    """kappa^2 - pi^2 |k|^2, (n, m)."""
    k, j = (torch.arange(1, size + 1, dtype=torch.float64) for size in (n, m))
    eigenvalues = math.pi**2 * (k[:, None].square() + j.square())
    symbol = wavenumber**2 - eigenvalues
    if not bool((symbol.abs() > 1e-6 * eigenvalues).all()):
        raise ValueError(
            f"solve: expected a wavenumber whose square is no eigenvalue pi^2 (j^2 + k^2), got {wavenumber!r}, which is "
            f"resonant; below 4.4 none is."
        )
    return symbol


def _resample(u: Tensor, shape: Shape) -> Tensor:
    """A field of sines on a grid no finer than its own."""
    for axis, n in enumerate(shape, start=2):
        if (fine := u.shape[axis]) != n:
            matrix = _sines(n)[: n - 1].T @ _sines(fine)[: n - 1] * math.sqrt(n / fine)
            u = (u.movedim(axis, -1) @ matrix.T.to(u)).movedim(-1, axis)
    return u


@kinds_checked
class Poisson(Solved):
    """Pairs (a, u) of source and field, solved on fine x fine cells. Coarser grids show the same functions' values at their
    cell centres: a's cosines, and u's sines, below the grid's limit.

    Args:
        count, seed: Number of samples, and what fixes all of them.
        wavenumber: kappa; 0 for Poisson's equation, 1 for the anchors' Helmholtz equation.
        target: "pair" has x = (a, u), two channels; "solution" x = u with a as the "field"; "source" x = a alone, and nothing
            is solved.
        fine: Cells per side of the solve.
        keep: Fine solutions to keep in memory, 0.13 MB each by default; the longest unused goes first.

    Raises:
        ValueError: For arguments out of their range; from `batch`, for an index that is none of the samples' or a finer grid.

    Examples:
        >>> from fnodiff.equations import Poisson
        >>> Poisson(2, wavenumber=1.0, fine=32).batch([0, 1], (16, 16))["x"].shape
        torch.Size([2, 2, 16, 16])
    """

    domain, cell_averages = _SQUARE, False

    def __init__(
        self,
        count: int,
        seed: int = 0,
        *,
        wavenumber: float = 0.0,
        target: Target = "pair",
        fine: int = 128,
        keep: int = 1024,
    ) -> None:
        super().__init__(count, seed, fine=fine, keep=keep)
        if not 0 <= wavenumber < math.inf:
            raise ValueError(f"Poisson: expected a wavenumber >= 0, got {wavenumber!r}; 0 is Poisson's equation.")
        check_choice("Poisson", "target", target, get_args(Target))
        self.wavenumber, self.target = float(wavenumber), target
        self.channels = 2 if target == "pair" else 1
        self.condition_channels = 1 if target == "solution" else 0

    def solution(self, generator: torch.Generator) -> Tensor:
        a = source((1, 1, self.fine, self.fine), generator=generator)
        return a[0] if self.target == "source" else torch.cat([a, solve(a, self.wavenumber)], dim=1)[0]

    def view(self, solutions: Tensor, shape: Shape) -> dict[str, Tensor]:
        a = _SQUARE.resample(solutions[:, :1], shape)
        if self.target == "source":
            return {"x": a}
        u = _resample(solutions[:, 1:], shape)
        return {"x": u, "field": a} if self.target == "solution" else {"x": torch.cat([a, u], 1)}
