"""Two-dimensional incompressible flow on the unit torus, by its vorticity w = dv/dx - du/dy:

    dw/dt + (u, v) . grad w = nu Delta w + f,    (u, v) = (d psi/dy, -d psi/dx),    -Delta psi = w.

Fourier-Galerkin: of n points, modes |k| < n/3 are kept, so that products do not alias. The advection is

    -(u, v) . grad w = (d^2/dy^2 - d^2/dx^2)(u v) - d^2/dxdy (v^2 - u^2),

which takes four transforms. Time steps are fourth-order Runge-Kutta on exp(nu |k|^2 t) w_k, which is exact for the
viscosity. x is the first axis of the grid, y the second; lengths, times and velocities are in units of the side.

Sources: Li et al. (2021), Fourier neural operator for parametric partial differential equations (initial law, forcing);
Orszag (1971), On the elimination of aliasing in finite-difference schemes by filtering high-wavenumber components (2/3);
Basdevant (1983), Technical improvements for direct numerical simulation of homogeneous three-dimensional turbulence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from fnodiff.domain import Generators, Shape, Torus
from fnodiff.equations.solved import Solved, check_bounded, check_saves, check_scale
from fnodiff.expected import kinds_checked

Forcing = Callable[[Tensor], Tensor] | Tensor | None
Target = Literal["final", "initial"]
_TORUS = Torus(2)
_COURANT = 0.5


def benchmark_forcing(points: Tensor) -> Tensor:
    """0.1 (sin 2 pi (x + y) + cos 2 pi (x + y)), FNO's forcing, at points (2, *shape): (*shape)."""
    phase = 2 * math.pi * points.sum(0)
    return 0.1 * (phase.sin() + phase.cos())


def initial_vorticity(shape: Sequence[int], *, generator: Generators = None, scale: float = 1.0) -> Tensor:
    """Draw vorticities from N(0, scale^2 7^(3/2) (-Delta + 49)^-5/2).

    The law of FNO's paper, without its constant mode, as the vorticity of a periodic velocity has mean zero: a standard
    deviation of 0.04, which FNO's forcing drowns. At time 10 and nu = 1e-3 vorticities are of size 0.7 and differ by 0.03
    between samples. The code that made FNO's data has 7^3 in place of 7^(3/2): for that law pass scale=7**0.75, with which
    they differ by 0.14 (`python -m benchmarks.physics`).

    Args:
        shape: (B, C, n, m); channels are independent.
        generator: One generator, or one per sample: the same seed is the same function on every grid. None: plain draws.
        scale: Factor of the field.

    Returns:
        (B, C, n, m), float64.

    Raises:
        ValueError: If the shape does not fit, or the scale is not positive.
    """
    check_scale("initial_vorticity", scale)
    white = _TORUS.white(shape[:2], shape[2:], generator=generator, dtype=torch.float64)
    std = scale * 7**0.75 * (_TORUS.eigenvalues(shape[2:], dtype=torch.float64) + 49) ** -1.25
    std[0, 0] = 0.0
    return _TORUS.synthesize(white * std, shape[2:])


def solve(
    w0: Tensor,
    time: float,
    viscosity: float,
    *,
    dt: float | None = None,
    forcing: Forcing = None,
    save: Sequence[float] | None = None,
) -> Tensor:
    """The vorticity at a later time, computed in float64.

    Its mean moves nothing: it is kept, and grows by that of the forcing.

    Args:
        w0: Initial vorticity (B, 1, n, m), n and m at least 4; its modes |k| >= n/3 are dropped.
        time: How long to solve, > 0.
        viscosity: nu >= 0; the Reynolds number is about |velocity| / nu.
        dt: Largest time step. By default each step moves nothing by more than half a cell, in the fastest sample of the
            batch: results then differ between batches, by the error of the time steps.
        forcing: Steady f: a function of the grid's points (2, n, m), or a tensor that broadcasts to (B, 1, n, m).
            None: no forcing.
        save: Times to return, increasing, the last at most `time`; by default `time` alone.

    Returns:
        (B, len(save), n, m) in w0's dtype: channel i is the vorticity at save[i].

    Raises:
        ValueError: If an argument is not as above, or the solution blows up because dt is too large.
    """
    _check_field(w0)
    _check_numbers("solve", time, viscosity, dt)
    flow = _Flow(w0, viscosity, forcing)
    c, t, saved = flow.start, 0.0, []
    first = w0.detach().double().abs().flatten(1).amax(1)  # at no point does more than the forcing come to it
    for until in check_saves(time, save):
        while t < until:
            change, speed = flow.change(c)
            largest = flow.largest_step(float(speed)) if dt is None else dt
            steps = max(1, math.ceil((until - t) / largest - 1e-9))
            c = flow.step(c, change, (until - t) / steps)
            t = until if steps == 1 else t + (until - t) / steps
        saved.append(check_bounded(flow.domain.synthesize(c, w0.shape[2:]), first + until * flow.source, until, dt))
    return torch.cat(saved, dim=1).to(w0.dtype)


class _Flow:
    """The equation in Fourier coefficients (B, 1, *modes) on the grid of w0."""

    domain = _TORUS

    def __init__(self, w0: Tensor, viscosity: float, forcing: Forcing) -> None:
        self.shape, device = w0.shape[2:], w0.device
        kx, ky = ((2 * math.pi * k).to(device) for k in self.domain.wavenumbers(self.shape))
        n, m = self.shape
        kept = (kx.abs() <= 2 * math.pi * ((n - 1) // 3)) & (ky.abs() <= 2 * math.pi * ((m - 1) // 3))
        laplacian = kx**2 + ky**2
        inverse = torch.where(laplacian > 0, 1 / laplacian.clamp(min=1.0), 0.0)
        self.decay_rate = viscosity * laplacian
        self.velocity = 1j * torch.stack([ky * inverse, -kx * inverse])
        self.fluxes = torch.stack([kx**2 - ky**2, kx * ky]) * kept
        self.start = self.domain.analyze(w0.double()) * kept
        self.forcing = self._forcing(forcing, w0) * kept
        self.source = self.domain.synthesize(self.forcing.detach(), self.shape).abs().flatten(1).amax(1)
        self.acceleration = float(self._speed(self.domain.synthesize(self.forcing * self.velocity, self.shape)))

    def _forcing(self, forcing: Forcing, w0: Tensor) -> Tensor:
        if callable(forcing):
            forcing = forcing(self.domain.points(self.shape, device=w0.device, dtype=torch.float64))
        f = torch.as_tensor(0.0 if forcing is None else forcing, dtype=torch.float64, device=w0.device)
        try:
            f = f.expand(w0.shape)
        except RuntimeError:
            raise ValueError(
                f"solve: expected a forcing that broadcasts to w0's shape {tuple(w0.shape)}, got {tuple(f.shape)}; "
                f"draw it on the grid of w0, or pass a function of the points (2, n, m)."
            ) from None
        if not bool(f.isfinite().all()):
            raise ValueError("solve: expected a finite forcing, got values that are not.")
        return self.domain.analyze(f)

    def _speed(self, velocity: Tensor) -> Tensor:
        """The largest speed in the batch, in cells per unit time, |u| n + |v| m."""
        cells = torch.tensor(self.shape, dtype=velocity.dtype, device=velocity.device)[:, None, None]
        return (velocity.abs() * cells).sum(1).amax()

    def change(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """Advection and forcing, and the largest speed."""
        velocity = self.domain.synthesize(c * self.velocity, self.shape)
        u, v = velocity.unbind(1)
        products = self.domain.analyze(torch.stack([u * v, v**2 - u**2], dim=1))
        return (products * self.fluxes).sum(1, keepdim=True) + self.forcing, self._speed(velocity)

    def largest_step(self, speed: float) -> float:
        """The time in which the flow, and one that starts from rest, move by half a cell."""
        if not math.isfinite(speed):
            raise ValueError("solve: the solution blew up; pass a dt smaller than the default, or a finer grid.")
        rate = max(speed / _COURANT, math.sqrt(self.acceleration / (2 * _COURANT)))
        return 1 / rate if rate > 0 else math.inf

    def step(self, c: Tensor, first: Tensor, dt: float) -> Tensor:
        """Runge-Kutta for d/dt (e^(rate t) c) = e^(rate t) change(c), from the change at c."""
        half = (-0.5 * dt * self.decay_rate).exp()
        ahead = half * c
        second, _ = self.change(ahead + (0.5 * dt) * half * first)
        third, _ = self.change(ahead + (0.5 * dt) * second)
        fourth, _ = self.change(half * (ahead + dt * third))
        return half * (ahead + (dt / 6) * (half * first + 2 * (second + third))) + (dt / 6) * fourth


def _check_field(w0: Tensor) -> None:
    shape = _TORUS.check_field(w0)
    if w0.shape[1] != 1 or min(shape) < 4:
        raise ValueError(
            f"solve: expected w0 of shape (B, 1, n, m) with n and m at least 4, got {tuple(w0.shape)}; "
            f"a smaller grid keeps no mode but the mean."
        )
    if not bool(w0.isfinite().all()):
        raise ValueError("solve: expected a finite w0, got values that are not.")


def _check_numbers(owner: str, time: float, viscosity: float, dt: float | None) -> None:
    if not (0 < time < math.inf and 0 <= viscosity < math.inf):
        raise ValueError(f"{owner}: expected time > 0 and viscosity >= 0, got {time!r} and {viscosity!r}.")
    if dt is not None and not 0 < dt < math.inf:
        raise ValueError(f"{owner}: expected dt > 0, or None for steps of half a cell, got {dt!r}.")


@kinds_checked
class NavierStokes(Solved):
    """Vorticities x = w(time), with w(0) as the "field": each solved on fine x fine points, and seen on any coarser grid by
    `Torus.resample`.

    Grids of at least 2/3 fine points per side hold all modes that the solver keeps, and are exact; coarser ones truncate.
    Samples are solved one at a time, so that none depends on its batch. Values are in the units of the equation.

    Args:
        count, seed: Number of samples, and what fixes all of them.
        time: When x is seen.
        viscosity: nu.
        forcing: See `solve`; FNO's by default.
        scale: See `initial_vorticity`; the law of FNO's data by default.
        condition: Whether batches have the "field".
        target: "final" has x = w(time), and "initial" x = w(0) alone, of which nothing is solved: it has all modes of the fine
            grid, and the "field" of "final" those that the solver keeps.
        fine: Points per side of the solve, at least 4: 64 is right to 1e-6 at nu = 1e-3.
        dt: Largest time step; see `solve`.
        keep: Fine solutions to keep in memory, 33 kB each by default; the longest unused goes first.

    Raises:
        ValueError: For arguments out of their range; from `batch`, for an index that is none of the samples' or a finer grid.

    Examples:
        >>> from fnodiff.equations import NavierStokes
        >>> batch = NavierStokes(1, time=0.1, fine=16).batch([0], (16, 16))
        >>> batch["field"].shape, bool((batch["x"] - batch["field"]).abs().max() < 0.1)
        (torch.Size([1, 1, 16, 16]), True)
    """

    domain, channels, smallest = _TORUS, 1, 4

    def __init__(
        self,
        count: int,
        seed: int = 0,
        *,
        time: float = 10.0,
        viscosity: float = 1e-3,
        forcing: Forcing = benchmark_forcing,
        scale: float = 7**0.75,
        condition: bool = True,
        target: Target = "final",
        fine: int = 64,
        dt: float | None = None,
        keep: int = 16384,
    ) -> None:
        super().__init__(count, seed, fine=fine, keep=keep)
        _check_numbers("NavierStokes", time, viscosity, dt)
        check_scale("NavierStokes", scale)
        self.time, self.viscosity, self.forcing, self.scale = time, viscosity, forcing, scale
        if target not in get_args(Target):
            raise ValueError(
                f'NavierStokes: expected a target among {get_args(Target)}, got {target!r}; "final" is what the flow becomes.'
            )
        self.target, self.condition, self.dt = target, condition and target == "final", dt
        self.condition_channels = int(self.condition)

    def solution(self, generator: torch.Generator) -> Tensor:
        w0 = initial_vorticity((1, 1, self.fine, self.fine), generator=generator, scale=self.scale)
        if self.target == "initial":
            return w0[0]
        return solve(w0, self.time, self.viscosity, dt=self.dt, forcing=self.forcing, save=(0.0, self.time))[0]

    def view(self, solutions: Tensor, shape: Shape) -> dict[str, Tensor]:
        w = _TORUS.resample(solutions, shape)
        if self.target == "initial":
            return {"x": w}
        return {"x": w[:, 1:], "field": w[:, :1]} if self.condition else {"x": w[:, 1:]}
