"""The shallow-water equations on the rotating earth, by torch-harmonics' spectral solver.

    d zeta/dt  = -div ((zeta + f) v),    d delta/dt = curl ((zeta + f) v) - Delta (Phi + |v|^2 / 2),    d Phi/dt = -div (Phi v)

for vorticity zeta, divergence delta and geopotential Phi = g h, f = 2 Omega cos(colatitude), with hyperdiffusion (the highest
degree in two hours, three quarters of it in a week). Degrees below two thirds of the grid's are kept, so that products do not
alias; third-order Adams-Bashforth in time, float64.

A trajectory starts from a random vorticity, its height in balance with it (no divergence at first, nor a tendency to one), and
by the third day has filaments and gravity waves of its own. The mean depth, 2 km, is between those of the atmosphere's whole
and of its first internal mode: its waves are slower, and its eddies smaller, than at 10 km.

Sources: Williamson et al. (1992), A standard test set for numerical approximations to the shallow water equations in spherical
geometry; Bonev et al. (2023), Spherical Fourier neural operators, whose solver torch-harmonics has in its examples.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fnodiff.domain import Shape, Sphere
from fnodiff.domain.harmonics import harmonics
from fnodiff.equations.solved import Solved

if TYPE_CHECKING:
    from torch_harmonics.examples import ShallowWaterSolver

DAY = 86_400.0
_RADIUS, _GRAVITY = 6.37122e6, 9.80616
_AT_ONCE = 8
_DEGREE = 12.0


def balance(x: Tensor, domain: Sphere, *, degrees: int = 20) -> Tensor:
    """How nearly winds are in balance with the height: the correlation of f zeta and g Laplacian h, (B,).

    In geostrophic balance both are the same. Compared is what the flow's large parts have, beyond 30 degrees from the equator,
    where f is not small. Solved flows have 0.88, Gaussian fields of the same spectra 0.04 (`examples/sphere_shallow_water.py`).

    Args:
        x: Height and vorticity, (B, 2, *shape), in any units: a correlation has none.
        domain: The sphere.
        degrees: The highest degree that is compared.

    Raises:
        ValueError: If the fields have other channels.
    """
    shape = domain.check_field(x)
    if x.shape[1] != 2:
        raise ValueError(f"balance: expected height and vorticity, (B, 2, *shape), got {tuple(x.shape)}; stack them.")
    h, zeta = domain.filter(x, lambda e: (e <= degrees * (degrees + 1) + 0.5).to(e.dtype)).split(1, dim=1)
    sine = domain.points(shape, device=x.device, dtype=x.dtype)[0].cos()  # of the latitude
    weights = domain.weights(shape, device=x.device, dtype=x.dtype) * (sine.abs() > 0.5)
    pair = torch.cat([zeta * sine, -domain.filter(h, lambda e: e)], dim=1)
    pair = pair - (pair * weights).sum((2, 3), keepdim=True) / weights.sum()
    covariance = torch.einsum("bchw,bdhw,hw->bcd", pair, pair, weights)
    return covariance[:, 0, 1] / (covariance[:, 0, 0] * covariance[:, 1, 1]).sqrt()


class ShallowWater(Solved):
    """Height (metres) and relative vorticity (1/s), x = (h, zeta), on grids of (latitudes, 2 latitudes) points or others.

    Trajectories are solved on fine x 2 fine points of a Legendre-Gauss grid and seen on `domain`'s grids, whose degrees they
    hold below two thirds of `fine`. Sample i is snapshot i % snapshots of trajectory i // snapshots: those of one trajectory
    are half a day apart, and neither the same nor independent. The time stepping starts anew, with one step of lower order, at
    each: other snapshots are slightly other flows.

    Args:
        count, seed: Number of samples, and what fixes all of them.
        first: Day of a trajectory's first snapshot.
        every: Days from one snapshot to the next.
        snapshots: How many each trajectory has.
        wind: Root mean square, over trajectories, of the wind that they start with, in m/s; some have twice as much.
        depth: Mean depth, in metres.
        domain: The sphere, whose grids samples are seen on.
        fine: Latitudes of the solve, at least 16.
        keep: Samples to keep in memory, 66 kB each by default; the longest unused goes first.

    Raises:
        ValueError: For arguments out of their range, or a flow that blows up; from `batch`, for an index that is none of the
            samples' or a grid finer than the solver's.
    """

    channels, smallest = 2, 16

    def __init__(
        self,
        count: int,
        seed: int = 0,
        *,
        first: float = 3.0,
        every: float = 0.5,
        snapshots: int = 8,
        wind: float = 15.0,
        depth: float = 2000.0,
        domain: Sphere | None = None,
        fine: int = 64,
        keep: int = 16384,
    ) -> None:
        super().__init__(count, seed, fine=fine, keep=keep)
        for name, value in {"first": first, "every": every, "wind": wind, "depth": depth}.items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"ShallowWater: expected {name} > 0, got {value!r}.")
        if not isinstance(snapshots, Integral) or snapshots < 1:
            raise ValueError(f"ShallowWater: expected one snapshot or more of each trajectory, got {snapshots!r}.")
        self.first, self.every, self.snapshots = float(first), float(every), snapshots
        self.wind, self.depth = float(wind), float(depth)
        self.domain = Sphere() if domain is None else domain

    @property
    def fine_shape(self) -> Shape:
        return self.fine, 2 * self.fine

    def solve(self, indices: Sequence[int]) -> dict[int, Tensor]:
        """All snapshots of these samples' trajectories, solved eight at a time."""
        numbers, out = sorted({i // self.snapshots for i in indices}), {}
        for start in range(0, len(numbers), _AT_ONCE):
            chosen = numbers[start : start + _AT_ONCE]
            for t, path in zip(chosen, self.trajectories([self.generator(t) for t in chosen]).float(), strict=True):
                out |= {t * self.snapshots + i: snapshot for i, snapshot in enumerate(path)}
        return out

    def solution(self, generator: torch.Generator) -> Tensor:
        return self.trajectories([generator])[0, 0]

    def trajectories(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Draw and solve: (B, snapshots, 2, fine, 2 fine), float64."""
        # What moves fastest, gravity waves on a wind, crosses 1 / degree of a radian in a radius over speed times degree.
        largest = 0.5 * _RADIUS / ((2 * self.fine // 3) * (math.sqrt(_GRAVITY * self.depth) + 5 * self.wind))
        state, before, saved = None, [], []
        for duration in [self.first] + [self.every] * (self.snapshots - 1):
            steps = math.ceil(duration * DAY / largest)
            flow = _Flow(self.fine, duration * DAY / steps, self.depth)
            state, before = flow.start(generators, self.wind) if state is None else state, []
            for _ in range(steps):
                state, before = flow.step(state, before)
            saved.append(flow.seen(state))
        out = torch.stack(saved, dim=1)
        if not bool(out.isfinite().all()) or float(out[:, :, 0].min()) <= 0:
            raise ValueError(
                f"ShallowWater: the flow blew up or fell dry; lower the wind, {self.wind} m/s, or raise the depth, "
                f"{self.depth} m."
            )
        return out

    def view(self, solutions: Tensor, shape: Shape) -> dict[str, Tensor]:
        grid = Sphere()  # the solver's
        return {"x": self.domain.synthesize(grid.analyze(solutions), shape)}


class _Flow:
    """The equations in coefficients (B, 3, degrees, orders) of geopotential, vorticity and divergence."""

    def __init__(self, fine: int, dt: float, depth: float) -> None:
        self.solver, self.dt, self.fine = _solver(fine, dt, depth), dt, fine

    def start(self, generators: Sequence[torch.Generator], wind: float) -> Tensor:
        """Balanced flows with vorticity of a random law, E |zeta_lm|^2 ~ (1 + l^2 / 12^2)^-4 for l > 0."""
        solver, domain = self.solver, Sphere()
        shape = (self.fine, 2 * self.fine)
        white = domain.white((len(generators), 1), shape, generator=list(generators), dtype=torch.float64)
        eigenvalues = domain.eigenvalues(shape, dtype=torch.float64)
        power = (1 + eigenvalues / _DEGREE**2) ** -4 * (eigenvalues > 0)
        vorticity = solver.grid2spec(domain.synthesize(white * power.sqrt(), shape))
        rotational = torch.cat([vorticity, torch.zeros_like(vorticity)], dim=1)
        speed = solver.getuv(rotational)
        mean_square = (power / eigenvalues.clamp(min=1)).sum() * float(
            solver.radius
        ) ** 2  # of the law, not of the sample
        scale = wind / mean_square.sqrt()
        rotational, speed = scale * rotational, scale * speed
        flux = solver.vrtdivspec(speed * (scale * solver.spec2grid(vorticity) + solver.coriolis))
        kinetic = solver.grid2spec(0.5 * speed.square().sum(1, keepdim=True))
        geopotential = solver.invlap * flux[:, :1] - kinetic
        geopotential[..., 0, 0] = math.sqrt(4 * math.pi) * float(solver.gravity * solver.havg)
        return torch.cat([geopotential, rotational], dim=1)

    def change(self, u: Tensor) -> Tensor:
        """The time derivative: torch-harmonics' `dudtspec`, for a batch."""
        solver = self.solver
        grid, wind = solver.spec2grid(u), solver.getuv(u[:, 1:])
        geopotential, vorticity = grid[:, :1], grid[:, 1:2]
        absolute = solver.vrtdivspec(wind * (vorticity + solver.coriolis))
        transport = solver.vrtdivspec(wind * geopotential)
        head = solver.grid2spec(geopotential + 0.5 * wind.square().sum(1, keepdim=True))
        return torch.cat([-transport[:, 1:], -absolute[:, 1:], absolute[:, :1] - solver.lap * head], dim=1)

    def step(self, u: Tensor, before: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Third-order Adams-Bashforth, of lower order in the first two steps."""
        slopes = [self.change(u), *before][:3]
        weights = {1: (1.0,), 2: (1.5, -0.5), 3: (23 / 12, -16 / 12, 5 / 12)}[len(slopes)]
        u = u + self.dt * sum(w * s for w, s in zip(weights, slopes, strict=True))
        return torch.cat([u[:, :1], self.solver.hyperdiff * u[:, 1:]], dim=1), slopes[:2]

    def seen(self, u: Tensor) -> Tensor:
        """Height and vorticity, (B, 2, fine, 2 fine)."""
        geopotential, vorticity = self.solver.spec2grid(u[:, :2]).unbind(1)
        return torch.stack([geopotential / self.solver.gravity, vorticity], dim=1)


@functools.lru_cache(maxsize=4)
def _solver(fine: int, dt: float, depth: float) -> ShallowWaterSolver:
    degrees = 2 * fine // 3
    solver = harmonics("examples").ShallowWaterSolver(
        fine,
        2 * fine,
        dt,
        lmax=degrees,
        mmax=degrees,
        grid="legendre-gauss",
        radius=_RADIUS,
        gravity=_GRAVITY,
        havg=depth,
    )
    solver = solver.double()
    # torch-harmonics' fourth power of the Laplacian damps three quarters of the highest degree in a day; the eighth, in a week.
    solver.hyperdiff = (-dt / 7200 * (solver.lap / solver.lap[-1, 0]) ** 8).exp()
    return solver
