"""Gauss-Newton steps, for observations that are linear only nearby.

The estimate x_hat of x given x_t, whose covariance is M, becomes x_hat + d, where d minimises

    F(d) = |y - A(x_hat + d)|^2 + <d, M^-1 d>        in errors of the sensors,

the least unlikely field. Near x_hat + d the observation is taken as linear, which gives the next d. Of the way to it so much is
gone that F falls: all, a half, a quarter and so on, or nothing. So no field is taken that the prior does not know, because the
derivatives promised too much. Where F falls by what they promised, within a tenth, d is the last: of observations that are
nearly linear it is the only one, and costs one more evaluation.

Sources: Bell, Cathey (1993), The iterated Kalman filter update as a Gauss-Newton method; Conn, Gould, Toint (2000),
Trust-region methods (the ratio).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fnodiff.domain import in_double
from fnodiff.inverse.krylov import conjugate_residuals
from fnodiff.inverse.linearised import Linearised

OFF = 0.1
"""Of the promised fall, within which a linearisation is good enough."""

STEPS, HALVINGS = 4, 10
"""At most: linearisations, and shares of the way that are tried."""

Solve = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""From r, (B, m), to v with (A' M A'^T + 1) v = r, to w = A'^T v and to M w."""

Solver = tuple[Solve, Callable[[Tensor], Tensor]]
"""And A', (B, C, *shape) -> (B, m)."""


def by_derivatives(rows: Tensor, spread: Tensor) -> Solver:
    """From A' and A' M, both (B, m, C, *shape)."""
    shape, rows, spread = rows.shape[2:], rows.flatten(2), spread.flatten(2)
    gram = in_double(rows) @ in_double(spread).mT

    def solve(r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        v = torch.linalg.solve(gram + torch.eye(gram.shape[1]).to(gram), in_double(r))
        return v, *((v.to(rows)[:, None] @ each).view(len(rows), *shape) for each in (rows, spread))

    return solve, lambda u: (rows @ u.to(rows).flatten(1)[..., None])[..., 0]


def by_products(near: Linearised, pull: Callable[[Tensor], Tensor], *, iterations: int, tolerance: float) -> Solver:
    """From products with A', its transpose and M, which is `pull`."""

    def solve(r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        v = conjugate_residuals(
            lambda v: v + near.forward(pull(near.transpose(v))), r, iterations=iterations, tolerance=tolerance
        )
        w = near.transpose(v)
        return v, w, pull(w)

    return solve, near.forward


def step(near: Linearised, solver: Callable[[Linearised, Tensor], Solver]) -> Tensor:
    """d, (B, C, *shape).

    Args:
        near: The observation at x_hat.
        solver: From the observation near fields, and which samples these are, to what solves their linear problems, and to A'.

    Raises:
        FloatingPointError: If a derivative is not finite.
    """
    result = torch.zeros_like(near.estimate)
    todo = torch.arange(len(result), device=result.device)
    here, d, w = near, result, result
    left = in_double(near.residual).square().sum(1)  # F
    for _ in range(STEPS):
        solve, forward = solver(here, todo)
        r = here.residual + forward(d)
        v, w_new, d_new = solve(r)
        here.check_derivatives(w_new)
        promised = left - (in_double(v) * in_double(r)).sum(1)  # the linear problem's F is v r
        share = torch.ones_like(left)
        for _ in range(HALVINGS):
            found = _sum(near, _between(d, d_new, share), _between(w, w_new, share))
            worse = ~(found <= left)
            if not bool(worse.any()):
                break
            share = torch.where(worse, share / 2, share)
        share = torch.where(worse, 0.0, share)
        d, w = _between(d, d_new, share), _between(w, w_new, share)
        result[todo] = d.to(result)
        again = ~(worse | ((left - found - promised).abs() <= OFF * promised)).to(d.device)
        if not bool(again.any()):
            break
        if not bool(again.all()):
            near, todo, d, w, found = (
                near.part(again.nonzero()[:, 0]),
                *(x[again.to(x.device)] for x in (todo, d, w, found)),
            )
        left, here = found, near.at(d)
    return result


def _between(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    return a + share.to(a).view(-1, *[1] * (a.ndim - 1)) * (b - a)


def _sum(near: Linearised, d: Tensor, w: Tensor) -> Tensor:
    """F(d) where d = M w, (B,); NaN where the function cannot take the field."""
    left = in_double(near.residual) - _change(near, d)
    return left.square().sum(1) + (in_double(d) * in_double(w)).flatten(1).sum(1)


def _change(near: Linearised, u: Tensor) -> Tensor:
    """A(x_hat + u) - A(x_hat), in errors of the sensors, (B, m); NaN for samples that the function refuses."""
    try:
        return in_double(near.change(u))
    except (ArithmeticError, ValueError, torch.linalg.LinAlgError):  # a solver's: one by one, as samples stand alone
        if len(u) == 1:
            return torch.full_like(in_double(near.residual), torch.nan)
        each = torch.arange(len(u), device=u.device).split(1)
        return torch.cat([_change(near.part(one), u[one]) for one in each])
