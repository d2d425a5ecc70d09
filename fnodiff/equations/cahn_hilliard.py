"""Phase separation: two liquids that part, by the Cahn-Hilliard equation on a periodic box of 1 to 3 dimensions,

    du/dt = Delta (u^3 - u - width^2 Delta u),

u = -1 in one liquid and 1 in the other, with interfaces tanh(x / (sqrt(2) width)) between them. The mean of u is kept, and the
free energy

    E(u) = mean of (u^2 - 1)^2 / 4 + width^2 |grad u|^2 / 2

falls. Small waves of length 2 pi sqrt(2) width grow fastest, as exp(t / (4 width^2)); then domains coarsen.

Fourier modes, the cube by its values on the grid. Time steps are the fourth-order exponential Runge-Kutta method of Cox and
Matthews for du/dt = L u + N(u) with L = -2 k^2 - width^2 k^4 and N = -k^2 (u^3 - 3 u), whose slope is zero in either liquid;
where steps are long for the stiff modes, its order is about 2.7. Lengths are in the domain's units, times in units of length^2
(the mobility is one).

Sources: Cahn and Hilliard (1958), Free energy of a nonuniform system; Cox and Matthews (2002), Exponential time differencing
for stiff systems; Kassam and Trefethen (2005), Fourth-order time-stepping for stiff PDEs (its coefficients, by contour
integrals).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fnodiff.domain import Domain, Generators, Shape, Torus
from fnodiff.equations.solved import Solved, check_bounded, check_saves, check_scale
from fnodiff.expected import kinds_checked

_CONTOUR = 64


def initial_mixture(
    domain: Torus,
    shape: Sequence[int],
    width: float,
    *,
    mean: float = 0.0,
    scale: float = 0.1,
    generator: Generators = None,
) -> Tensor:
    """Nearly mixed liquids: a Gaussian field about the mean, of the spectrum exp(-(2 width)^2 lambda).

    Args:
        domain: Where they are.
        shape: (B, C, *grid); channels are independent.
        width: As of the equation: the field is smooth on this scale.
        mean: Of each sample, exactly, in (-1, 1): 0 parts into two alike, others into drops of the rarer.
        scale: Standard deviation of the field about it.
        generator: One generator, or one per sample: the same seed is the same function on every grid. None: plain draws.

    Returns:
        (B, C, *grid), float64.

    Raises:
        ValueError: If the shape does not fit, or an argument is out of its range.
    """
    check_scale("initial_mixture", scale)
    _check_numbers("initial_mixture", 1.0, width)
    _check_mean("initial_mixture", mean)

    def law(eigenvalues: Tensor) -> Tensor:
        return (eigenvalues > 0) * (-((2 * width) ** 2) * eigenvalues).exp()

    white = domain.white(shape[:2], shape[2:], generator=generator, dtype=torch.float64)
    std = scale * (law(domain.eigenvalues(shape[2:], dtype=torch.float64)) / domain.trace(law)).sqrt()
    return mean + domain.synthesize(white * std, shape[2:])


def solve(
    u0: Tensor,
    time: float,
    width: float,
    *,
    domain: Torus,
    dt: float | None = None,
    save: Sequence[float] | None = None,
) -> Tensor:
    """The mixture at a later time, computed in float64.

    Args:
        u0: At time 0, (B, 1, *grid). Interfaces need two points or more in a width: a grid of 2 / width points a side has them.
        time: How long to solve, > 0, in length^2.
        width: Of the interfaces, > 0, in lengths.
        domain: Where the liquids are: a Torus.
        dt: Largest time step; width^2 / 4 by default, which errs by 1e-4 of u or less.
        save: Times to return, increasing, the last at most `time`; by default `time` alone.

    Returns:
        (B, len(save), *grid) in u0's dtype.

    Raises:
        ValueError: If an argument is not as above, or the solution blows up because dt is too large.
    """
    shape = domain.check_field(u0)
    _check_numbers("solve", time, width, dt)
    if u0.shape[1] != 1 or not bool(u0.isfinite().all()):
        raise ValueError(f"solve: expected finite u0 of shape (B, 1, *grid), got {tuple(u0.shape)}; pass one channel.")
    largest = width**2 / 4 if dt is None else dt
    c, t, saved = domain.analyze(u0.double()), 0.0, []
    bound = u0.detach().double().abs().flatten(1).amax(1).clamp(min=1)
    k2 = domain.eigenvalues(shape, device=c.device, dtype=torch.float64)
    for until in check_saves(time, save):
        if until > t:
            steps = math.ceil((until - t) / largest - 1e-9)
            flow = _Flow(domain, shape, k2, width, (until - t) / steps)
            for _ in range(steps):
                c = flow.step(c)
            t = until
        saved.append(check_bounded(domain.synthesize(c, shape), bound, until, largest))
    return torch.cat(saved, dim=1).to(u0.dtype)


def free_energy(u: Tensor, width: float, domain: Torus) -> Tensor:
    """E of each sample (B,), of mixtures (B, 1, *grid) on the domain."""
    shape = domain.check_field(u)
    c, lam = domain.analyze(u), domain.eigenvalues(shape, device=u.device, dtype=u.dtype)
    slopes = (domain.multiplicity(shape, device=u.device, dtype=u.dtype) * lam * c.abs().square()).flatten(1).sum(1)
    return (u.square() - 1).square().flatten(1).mean(1) / 4 + width**2 / 2 * slopes


class _Flow:
    """Time steps of one size."""

    def __init__(self, domain: Torus, shape: Shape, k2: Tensor, width: float, dt: float) -> None:
        self.domain, self.shape, self.k2, self.dt = domain, shape, k2, dt
        z = dt * -(2 * k2 + width**2 * k2.square())
        self.half, self.whole = (z / 2).exp(), z.exp()
        # Means over a circle about z of radius one, as these differences cancel near z = 0.
        angle = math.pi * (torch.arange(_CONTOUR // 2, dtype=torch.float64, device=k2.device) + 0.5) / (_CONTOUR // 2)
        sums = [torch.zeros_like(z) for _ in range(4)]
        for turn in torch.polar(torch.ones_like(angle), angle):
            w = z + turn
            e = w.exp()
            parts = (
                ((w / 2).exp() - 1) / w,
                (-4 - w + e * (4 - 3 * w + w**2)) / w**3,
                (2 + w + e * (w - 2)) / w**3,
                (-4 - 3 * w - w**2 + e * (4 - w)) / w**3,
            )
            for total, part in zip(sums, parts, strict=True):
                total += part.real / len(angle)
        self.q, self.first, self.middle, self.last = (dt * total for total in sums)

    def change(self, c: Tensor) -> Tensor:
        """N(u)."""
        u = self.domain.synthesize(c, self.shape)
        return -self.k2 * self.domain.analyze(u * (u.square() - 3))

    def step(self, c: Tensor) -> Tensor:
        """From one time to the next."""
        n = self.change(c)
        a = self.half * c + self.q * n
        n_a = self.change(a)
        n_b = self.change(self.half * c + self.q * n_a)
        n_c = self.change(self.half * a + self.q * (2 * n_b - n))
        return self.whole * c + self.first * n + 2 * self.middle * (n_a + n_b) + self.last * n_c


def _check_numbers(owner: str, time: float, width: float, dt: float | None = None) -> None:
    if not (0 < time < math.inf and 0 < width < math.inf) or (dt is not None and not 0 < dt < math.inf):
        raise ValueError(f"{owner}: expected time, width and dt > 0, got {time!r}, {width!r} and {dt!r}.")


def _check_mean(owner: str, mean: float) -> None:
    if not -1 < mean < 1:
        raise ValueError(f"{owner}: expected a mean in (-1, 1), got {mean!r}; 0 is as much of each.")


@kinds_checked
class CahnHilliard(Solved):
    """Mixtures of two liquids u(time) that were nearly mixed at time 0, in (-1, 1): solved on a fine grid, seen on coarser
    ones by `Torus.resample`.

    Samples are solved one at a time, so that none depends on its batch.

    Args:
        count, seed: Number of samples, and what fixes all of them.
        domain: A Torus; of three dimensions by default.
        width: Of the interfaces, in the domain's lengths; 0.03 of the longest side by default.
        time: When the mixtures are seen, in units of length^2; 0.03 of the longest side's square by default.
        mean: The share of the second liquid is (1 + mean) / 2.
        fine: Points per side of the solve.
        dt: Largest time step; see `solve`.
        keep: Fine solutions to keep in memory, 0.4 MB each by default; the longest unused goes first.

    Raises:
        ValueError: For arguments out of their range; from `batch`, for an index that is none of the samples' or a finer grid.

    Examples:
        >>> from fnodiff import Torus
        >>> from fnodiff.equations import CahnHilliard
        >>> x = CahnHilliard(1, domain=Torus(2), time=0.03, fine=32).batch([0], (24, 24))["x"]
        >>> bool(x.mean().abs() < 1e-3), bool(x.max() > 0.9)
        (True, True)
    """

    channels, smallest = 1, 4

    def __init__(
        self,
        count: int,
        seed: int = 0,
        *,
        domain: Domain | None = None,
        width: float | None = None,
        time: float | None = None,
        mean: float = 0.0,
        fine: int = 48,
        dt: float | None = None,
        keep: int = 1000,
    ) -> None:
        super().__init__(count, seed, fine=fine, keep=keep)
        domain = Torus(3) if domain is None else domain
        if set(domain.edges) != {"periodic"}:
            raise ValueError(f"CahnHilliard: expected a Torus, got {domain}; the equation is solved on periodic boxes.")
        width = 0.03 * max(domain.lengths) if width is None else width
        time = 0.03 * max(domain.lengths) ** 2 if time is None else time
        _check_numbers("CahnHilliard", time, width, dt)
        _check_mean("CahnHilliard", mean)
        self.domain, self.width, self.time, self.mean, self.dt = domain, width, time, mean, dt

    @property
    def fine_shape(self) -> Shape:
        """The solver's grid."""
        return (self.fine,) * self.domain.dim

    def solution(self, generator: torch.Generator) -> Tensor:
        """Draw and solve one sample: (1, *fine_shape)."""
        shape = (1, 1, *self.fine_shape)
        u0 = initial_mixture(self.domain, shape, self.width, mean=self.mean, generator=generator)
        return solve(u0, self.time, self.width, domain=self.domain, dt=self.dt)[0]

    def view(self, solutions: Tensor, shape: Shape) -> dict[str, Tensor]:
        """A batch on a grid, of solutions (B, 1, *fine_shape)."""
        return {"x": self.domain.resample(solutions, shape)}
