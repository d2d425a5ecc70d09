"""Burgers' equation on the circle of length one: a velocity u that steepens into shocks, which the viscosity keeps smooth,

    du/dt + u du/dx = nu d^2u/dx^2.

The mean of u is kept: with mean V, u is the solution without it, carried along at speed V. A shock in which u falls by d has
the shape of a tanh, -d / 2 tanh(x d / (4 nu)).

Fourier-Galerkin: of n points, modes |k| < n/3 are kept, so that u^2 does not alias. Time steps are fourth-order Runge-Kutta on
exp(nu k^2 t) u_k, which is exact for the viscosity. Lengths, times and velocities are in units of the circle.

Sources: Cole (1951), On a quasi-linear parabolic equation occurring in aerodynamics (solutions in closed form); Li et al.
(2021), Fourier neural operator for parametric partial differential equations (the initial law).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fnodiff.domain import Generators, Shape, Torus
from fnodiff.equations.solved import Solved, check_bounded, check_saves, check_scale
from fnodiff.expected import kinds_checked

_CIRCLE = Torus(1)
_COURANT = 0.5
_AT_ONCE = 64


def initial_velocity(shape: Sequence[int], *, generator: Generators = None, scale: float = 1.0) -> Tensor:
    """Draw velocities from N(0, scale^2 625 (-Delta + 25)^-2), the law of FNO's paper without its constant mode: a standard
    deviation of 0.59, slopes of 5.4.

    Args:
        shape: (B, C, n); channels are independent.
        generator: One generator, or one per sample: the same seed is the same function on every grid. None: plain draws.
        scale: Factor of the field.

    Returns:
        (B, C, n), float64.

    Raises:
        ValueError: If the shape does not fit, or the scale is not positive.
    """
    check_scale("initial_velocity", scale)
    white = _CIRCLE.white(shape[:2], shape[2:], generator=generator, dtype=torch.float64)
    std = scale * 25 / (_CIRCLE.eigenvalues(shape[2:], dtype=torch.float64) + 25)
    std[0] = 0.0
    return _CIRCLE.synthesize(white * std, shape[2:])


def solve(
    u0: Tensor, time: float, viscosity: float, *, dt: float | None = None, save: Sequence[float] | None = None
) -> Tensor:
    """The velocity at a later time, computed in float64, and differentiable.

    Args:
        u0: Initial velocity (B, 1, n), n at least 4; its modes |k| >= n/3 are dropped. With four points in 4 nu / d, the
            width of a shock in which u falls by d, a grid errs by some 1e-5, with two by 3e-3.
        time: How long to solve, > 0.
        viscosity: nu > 0.
        dt: Largest time step. By default nothing moves by more than half a cell in a step, in the fastest sample of the
            batch: results then differ between batches, by the error of the time steps.
        save: Times to return, increasing, the last at most `time`; by default `time` alone.

    Returns:
        (B, len(save), n) in u0's dtype: channel i is the velocity at save[i].

    Raises:
        ValueError: If an argument is not as above, or the solution blows up because dt is too large.
    """
    shape = _CIRCLE.check_field(u0)
    if u0.shape[1] != 1 or shape[0] < 4 or not bool(u0.isfinite().all()):
        raise ValueError(
            f"solve: expected finite u0 of shape (B, 1, n) with n at least 4, got {tuple(u0.shape)}; pass one channel."
        )
    _check_numbers("solve", time, viscosity, dt)
    k = 2 * math.pi * _CIRCLE.wavenumbers(shape)[0].to(u0.device)
    kept = k <= 2 * math.pi * ((shape[0] - 1) // 3)
    c, t, saved = _CIRCLE.analyze(u0.double()) * kept, 0.0, []
    bound = u0.detach().double().abs().flatten(1).amax(1)  # no point ever moves faster
    if dt is None:  # the fastest point only slows down
        dt = _COURANT / (shape[0] * max(float(_CIRCLE.synthesize(c.detach(), shape).abs().max()), 1e-9))

    def change(c: Tensor) -> Tensor:
        return -0.5j * k * kept * _CIRCLE.analyze(_CIRCLE.synthesize(c, shape).square())

    for until in check_saves(time, save):
        steps = math.ceil((until - t) / dt - 1e-9)
        h = (until - t) / max(steps, 1)
        half = (-0.5 * h * viscosity * k**2).exp()
        for _ in range(steps):
            first, ahead = change(c), half * c
            second = change(ahead + 0.5 * h * half * first)
            third = change(ahead + 0.5 * h * second)
            fourth = change(half * (ahead + h * third))
            c = half * (ahead + h / 6 * (half * first + 2 * (second + third))) + h / 6 * fourth
        t = until
        saved.append(check_bounded(_CIRCLE.synthesize(c, shape), bound, until, dt))
    return torch.cat(saved, dim=1).to(u0.dtype)


def _check_numbers(owner: str, time: float, viscosity: float, dt: float | None) -> None:
    if not (0 < time < math.inf and 0 < viscosity < math.inf):
        raise ValueError(f"{owner}: expected time and viscosity > 0, got {time!r} and {viscosity!r}; shocks need some.")
    if dt is not None and not 0 < dt < math.inf:
        raise ValueError(f"{owner}: expected dt > 0, or None for the default, got {dt!r}.")


@kinds_checked
class Burgers(Solved):
    """Velocities x = u(time), with u(0) as the "field": solved on `fine` points, and seen on any coarser grid by
    `Torus.resample`. Values are in the units of the equation.

    Args:
        count, seed: Number of samples, and what fixes all of them.
        time: When x is seen: by default when most samples have had shocks for a while.
        viscosity: nu.
        scale: See `initial_velocity`.
        condition: Whether batches have the "field".
        fine: Points of the solve, at least 4: 512 is right to 1e-6 at nu = 2e-3.
        dt: Largest time step; by default that in which a speed of 1, or of `scale` if it is more, moves by half a cell,
            whatever the sample.
        keep: Fine solutions to keep in memory, 4 kB each by default; the longest unused goes first.

    Raises:
        ValueError: For arguments out of their range, or a solution that blows up; from `batch`, for an index that is none of
            the samples' or a finer grid.

    Examples:
        >>> from fnodiff.equations import Burgers
        >>> batch = Burgers(1).batch([0], (64,))
        >>> batch["x"].shape, bool(batch["x"].abs().max() < batch["field"].abs().max())
        (torch.Size([1, 1, 64]), True)
    """

    domain, channels, smallest = _CIRCLE, 1, 4

    def __init__(
        self,
        count: int,
        seed: int = 0,
        *,
        time: float = 0.5,
        viscosity: float = 2e-3,
        scale: float = 1.0,
        condition: bool = True,
        fine: int = 512,
        dt: float | None = None,
        keep: int = 16384,
    ) -> None:
        super().__init__(count, seed, fine=fine, keep=keep)
        _check_numbers("Burgers", time, viscosity, dt)
        check_scale("Burgers", scale)
        self.time, self.viscosity, self.scale, self.condition = time, viscosity, scale, condition
        self.condition_channels, self.dt = int(condition), _COURANT / (fine * max(1, scale)) if dt is None else dt

    @property
    def fine_shape(self) -> Shape:
        return (self.fine,)

    def solve(self, indices: Sequence[int]) -> dict[int, Tensor]:
        """These samples, 64 at a time."""
        found: dict[int, Tensor] = {}
        for start in range(0, len(indices), _AT_ONCE):
            part = indices[start : start + _AT_ONCE]
            found |= dict(zip(part, self._solutions([self.generator(i) for i in part]), strict=True))
        return found

    def solution(self, generator: torch.Generator) -> Tensor:
        return self._solutions([generator])[0]

    def _solutions(self, generators: Sequence[torch.Generator]) -> Tensor:
        u0 = initial_velocity((len(generators), 1, self.fine), generator=list(generators), scale=self.scale)
        return solve(u0, self.time, self.viscosity, dt=self.dt, save=(0.0, self.time))

    def view(self, solutions: Tensor, shape: Shape) -> dict[str, Tensor]:
        u = _CIRCLE.resample(solutions, shape)
        return {"x": u[:, 1:], "field": u[:, :1]} if self.condition else {"x": u[:, 1:]}
