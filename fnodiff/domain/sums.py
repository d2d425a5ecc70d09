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
    Along axes of small steps the same holds of ever larger windows: far out every second term is taken, then every fourth.
    """
    dim = len(steps)
    zero = torch.zeros(1, dtype=torch.float64)
    if dim == 0:
        return float(f(zero).sum())
    terms = {1: 2000, 2: 200, 3: 40}[dim]
    radius = max(steps) * terms
    lattice, weight = zero, zero + 1
    for i, step in enumerate(steps):
        k, w = _line(step, terms, radius)
        lattice, weight = lattice + along(k.square(), i, dim), weight * along(w, i, dim)
    near = float((f(lattice) * weight * _window(lattice.sqrt(), radius)).sum())

    sphere = 2 * math.pi ** (dim / 2) / math.gamma(dim / 2)
    far = _integral(
        lambda r: sphere / math.prod(steps) * r ** (dim - 1) * f(r.square()) * (1 - _window(r, radius)), 0.1 * radius
    )
    return near + far


def _window(r: Tensor, radius: float) -> Tensor:
    """From 1 to 0 about 0.6 radius."""
    return 0.5 * torch.erfc(12 * (r / radius - 0.6))


def _line(step: float, terms: int, radius: float) -> tuple[Tensor, Tensor]:
    """Places k step up to 1.1 radius with weights: each of about the first `terms`, then every second, every fourth, ..."""
    places, weights, stride, reach = [], [], 1, 0.0
    while reach < radius * (1 - 1e-9):
        inner, reach = reach, step * stride * terms
        count = math.ceil(1.1 * min(reach, radius) / (step * stride))
        k = step * stride * torch.arange(-count, count + 1, dtype=torch.float64)
        outside = _window(k.abs(), reach) if reach < radius * (1 - 1e-9) else torch.ones_like(k)
        w = stride * (outside - _window(k.abs(), inner) if inner else outside)
        places.append(k[w > 1e-16])
        weights.append(w[w > 1e-16])
        stride *= 2
    return torch.cat(places), torch.cat(weights)


def degree_sum(f: Callable[[Tensor], Tensor], terms: int = 20000) -> float:
    """The sum over degrees l of (2 l + 1) f(l (l + 1)), that over the sphere's modes.

    Beyond some terms it is the integral of f(u) from u = terms^2 - 1/4, by the midpoint rule, as (2 l + 1) dl = du.
    """
    degree = torch.arange(terms, dtype=torch.float64)
    return float(((2 * degree + 1) * f(degree * (degree + 1))).sum()) + _integral(f, terms**2 - 0.25)


def _integral(f: Callable[[Tensor], Tensor], start: float) -> float:
    """The integral of f(r) from `start` to infinity, in the logarithm of r over 43 decades; beyond, by its power law."""
    u = torch.linspace(0, 100, 20001, dtype=torch.float64)
    r = start * u.exp()
    integrand = r * f(r)
    total = float(torch.trapezoid(integrand, u))
    if float(integrand[-1]) > 0:
        rate = math.log(float(integrand[-2001] / integrand[-1])) / 10
        if rate < 1e-3:
            return math.inf
        total += float(integrand[-1]) / rate
    return total


def check_trace(total: float) -> float:
    """`total`, or a ValueError unless it is finite and positive."""
    if not (math.isfinite(total) and total > 0):
        raise ValueError(
            f"expected a spectrum with a finite, positive sum over all modes, got {total}; use a smoother one (Matern: "
            f"smoothness > 0), or WhiteNoise(domain, reference) for noise that is white."
        )
    return total
