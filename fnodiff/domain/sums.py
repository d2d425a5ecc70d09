"""Sums over infinitely many modes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fnodiff.domain.base import along


def lattice_sum(f: Callable[[Tensor], Tensor], steps: Sequence[float]) -> float:
    """The sum over all integers k of f(sum (k_i step_i)^2).

    A smooth window splits it: the window's part is summed term by term; the rest varies slowly over a lattice cell, so
    that it equals its integral almost to rounding (Poisson summation), a radial one, taken in the logarithm of the radius.
    """
    dim = len(steps)
    zero = torch.zeros(1, dtype=torch.float64)
    if dim == 0:
        return float(f(zero).sum())
    radius = max(steps) * {1: 2000, 2: 200, 3: 40}[dim]

    def window(r: Tensor) -> Tensor:
        return 0.5 * torch.erfc(12 * (r / radius - 0.6))

    lattice = zero
    for i, step in enumerate(steps):
        k = torch.arange(-math.ceil(1.1 * radius / step), math.ceil(1.1 * radius / step) + 1, dtype=torch.float64)
        lattice = lattice + along((k * step) ** 2, i, dim)
    near = float((f(lattice) * window(lattice.sqrt())).sum())

    sphere = 2 * math.pi ** (dim / 2) / math.gamma(dim / 2)
    u = torch.linspace(0, 100, 20001, dtype=torch.float64)  # r = 0.1 radius e^u: 43 decades
    r = 0.1 * radius * u.exp()
    integrand = sphere / math.prod(steps) * r**dim * f(r.square()) * (1 - window(r))
    far = float(torch.trapezoid(integrand, u))
    if float(integrand[-1]) > 0:  # what is left beyond follows its power law
        rate = math.log(float(integrand[-2001] / integrand[-1])) / 10
        if rate < 1e-3:
            return math.inf
        far += float(integrand[-1]) / rate
    return near + far


def check_trace(total: float) -> float:
    """`total`, or a ValueError unless it is finite and positive."""
    if not (math.isfinite(total) and total > 0):
        raise ValueError(
            f"expected a spectrum with a finite, positive sum over all modes, got {total}; use a smoother one (Matern: "
            f"smoothness > 0), or WhiteNoise(domain, reference) for noise that is white."
        )
    return total
