"""One list for each kind of part, which the contracts hold to its promises. A new part joins by a line in its list."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from fnodiff.domain import Box, Domain, Product, Sphere, Torus
from fnodiff.inverse import DPS, Linear, Masked, MomentMatching, PiGDM, PointObservation, Restriction
from fnodiff.sde import (
    DDIM,
    EDM,
    RBF,
    VE,
    VP,
    AnnealedLangevin,
    Autoguided,
    Cascade,
    ClassifierFree,
    Cosine,
    Denoiser,
    Direct,
    DPMSolver,
    EDMScaling,
    EulerMaruyama,
    FlowScaling,
    FunctionSpaceSDE,
    GaussianDenoiser,
    GaussianRandomField,
    Given,
    Heun,
    Matern,
    PredictorCorrector,
    Progressive,
    RectifiedFlow,
    ReplaceModes,
    Solver,
    SpectralScaling,
    SubVP,
    WhiteNoise,
    Wrapper,
)

CHANNEL, PIPE = Product([Torus(1), Box(1)]), Product([Box(1), Torus(1), Box(1)])


def name(value: Any) -> str:
    """What stands for a value in a test's name: no addresses, which differ between processes."""
    return getattr(value, "__name__", str(value))


def quick(values: Iterable, *chosen: Any) -> list[Any]:
    """`values`, of which all but the `chosen` are slow."""
    values = list(values)
    assert all(v in values for v in chosen), f"{chosen} are not all among {values}"
    return [v if v in chosen else pytest.param(v, marks=pytest.mark.slow) for v in values]


def pairwise(*axes: list) -> list[Any]:
    """All combinations of values, a tuple being several. One in `fewest` is quick, so each value comes up; others are slow."""
    fewest, cases = min(map(len, axes)), []
    for chosen in itertools.product(*map(enumerate, axes)):
        values = [v for _, value in chosen for v in (value if isinstance(value, tuple) else (value,))]
        quick = sum(i for i, _ in chosen) % fewest == 0
        cases.append(pytest.param(*values, marks=[] if quick else pytest.mark.slow))
    return cases


# ---- domains, noises, schedules, scalings -------------------------------------------------------------------------

DOMAINS = [Torus(1), Torus(2), Torus(2, (1.0, 2.5)), Torus(3), Box(1), Box(2), Box(2, (1.0, 2.5)), Box(3)]
DOMAINS += [Sphere(), Sphere("equiangular"), Sphere("cell-centred", half_longitudes=True)]
MIXED = [  # periodic along some axes, walls along others, in every order
    Product([Torus(1), Box(1)]),
    Product([Box(1, (2.5,)), Torus(1, (1.5,))]),
    Product([Torus(2), Box(1)]),
    Product([Box(1), Torus(1, (2.0,)), Box(1)]),
    Product([Torus(1), Box(1), Torus(1, (1.5,))]),
]
DOMAINS += MIXED
FLAT = [Torus(1), Torus(2), Box(1), Box(2), *MIXED[:2], Sphere(), Sphere("equiangular")]
NOISES = [
    lambda domain: GaussianRandomField(domain, Matern(smoothness=1.0, length_scale=0.3)),
    lambda domain: GaussianRandomField(domain, RBF(length_scale=0.1)),
    lambda domain: GaussianRandomField(domain, lambda eigenvalues, dim: (30 + eigenvalues) ** -(0.3 + dim / 2)),
    lambda domain: WhiteNoise(domain, reference=(32,) * domain.dim),
]
SCHEDULES = [EDM(), EDM(sigma_min=0.01, sigma_max=50.0, rho=3.0), VE(), VP(), SubVP(), Cosine(), RectifiedFlow()]
# Of the shape of the reference grid.
SCALINGS = [
    lambda shape: EDMScaling(0.7),
    lambda shape: EDMScaling(0.7, linear_estimate=True),
    lambda shape: SpectralScaling(shape, None),
    lambda shape: SpectralScaling(shape, 4.0, linear_estimate=True),
    lambda shape: FlowScaling(),
    lambda shape: FlowScaling(linear_estimate=True),
]


# ---- solvers and plans --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AdamsBashforth(Solver):
    """A user's solver: second order by the slope of the step before, which it remembers."""

    def step(self, denoiser, x_t, t, s, memory, noise):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (denoiser.sde.marginal(x_t, time) for time in (t, s))
        y, h = x_t / alpha_t, sigma_s / alpha_s - sigma_t / alpha_t
        slope = average = (y - denoiser(x_t, t)) * alpha_t / sigma_t
        if memory is not None:
            h_before, slope_before = memory
            average = slope + (slope - slope_before) * h / (2 * h_before)
        return alpha_s * (y + h * average), (h, slope)


SOLVERS = [(Heun, 2.0), (DDIM, 1.0), (DPMSolver, 2.0), (AdamsBashforth, 2.0)]
STOCHASTIC = [
    partial(DDIM, eta=1.0),
    partial(DDIM, eta=0.5),
    partial(Heun, churn=60.0),
    partial(DPMSolver, eta=1.0),
    EulerMaruyama,
    partial(PredictorCorrector, corrections=1, snr=0.15),
    partial(AnnealedLangevin, corrections=3, snr=0.4),
]
EVERY_SOLVER = [solver for solver, _ in SOLVERS] + STOCHASTIC
PLANS = {
    "direct": lambda grids: Direct(),
    "progressive": lambda grids: Progressive(grids[:-1], budget=0.3),
    "cascade": lambda grids: Cascade(grids[1:-1], through=grids[:1], budget=0.3),
}


# ---- wrappers -----------------------------------------------------------------------------------------------------


class Shifted(Wrapper):
    """A user's wrapper: data of another mean."""

    def __init__(self, denoiser: Denoiser, shift: float) -> None:
        super().__init__(denoiser)
        self.shift = shift

    def forward(self, x_t, t, **condition):
        alpha_t = self.sde.marginal(x_t, t)[0]
        return self.shift + self.denoiser(x_t - alpha_t * self.shift, t, **condition)


class Unchanged(Wrapper):
    """A user's wrapper that changes nothing."""

    def forward(self, x_t, t, **condition):
        return self.denoiser(x_t, t, **condition)


class Labelled(GaussianDenoiser):
    """A user's model: Gaussian data whose mean is the label, 0 without one."""

    def forward(self, x_t, t, label=None):
        mean = torch.zeros(len(x_t)) if label is None else label.clamp(min=0)
        mean = mean.to(x_t).reshape(-1, *(1,) * (x_t.ndim - 1))
        return mean + super().forward(x_t - self.sde.marginal(x_t, t)[0] * mean, t)


class Moved(Wrapper):
    """A user's wrapper that holds something for each sample."""

    def __init__(self, denoiser: Denoiser, by: Tensor) -> None:
        super().__init__(denoiser)
        self.by = by

    def forward(self, x_t, t, **condition):
        return self.denoiser(x_t, t, **condition) + self.by.reshape(-1, 1, 1)

    def rows(self, part):
        return Moved(self.denoiser.rows(part), self.by[part])


def labelled() -> Labelled:
    sde = FunctionSpaceSDE(WhiteNoise(Torus(1), (9,)), EDM(0.01, 100.0))
    denoiser = Labelled(GaussianRandomField(Torus(1), Matern(1.0, 0.3)), sde)
    denoiser.sigma_data = 1.0
    return denoiser


def seeds(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def stations(count: int = 0, noise_std: float | Tensor = 0.1) -> PointObservation:
    """Three values: one observation, or one for each of `count` samples."""
    batch = (count,) if count else ()
    points, values = torch.rand(1, 3, generator=seeds(0)), torch.randn(*batch, 1, 3, generator=seeds(1))
    return PointObservation(points, values, noise_std)


def fields(*shape: int) -> Tensor:
    return torch.randn(shape, generator=seeds(2))


LABELS = torch.tensor([0, 3, 1])
SPECTRUM = Matern(1.0, 0.3)
WRAPPERS = {
    "Given": lambda d: Given(d, label=LABELS[:2]),
    "ReplaceModes": lambda d: ReplaceModes(d, fields(2, 1, 3)),
    "Autoguided": lambda d: Autoguided(d, labelled(), 1.5),
    "ClassifierFree": lambda d: ClassifierFree(d, 1.5),
    "the user's": lambda d: Shifted(d, 1.0),
    "one in another": lambda d: Unchanged(Given(d, label=LABELS[:2])),
}
GUIDED = {
    "DPS": lambda d: DPS(d, stations()),
    "PiGDM": lambda d: PiGDM(d, stations()),
    "MomentMatching": lambda d: MomentMatching(d, stations()),
    "MomentMatching, spectrum": lambda d: MomentMatching(d, stations(), SPECTRUM),
}
PER_SAMPLE = {
    "Given": lambda d: Given(d, label=LABELS),
    "ReplaceModes": lambda d: ReplaceModes(d, fields(3, 1, 3)),
    "the user's": lambda d: Moved(d, LABELS.double()),
    "one in another": lambda d: Unchanged(Moved(Given(d, label=LABELS), LABELS.double())),
    "a guide": lambda d: Autoguided(d, Given(d, label=LABELS), 1.5),
    "a guide and its model": lambda d: Autoguided(Moved(d, LABELS.double()), Given(d, label=LABELS), 1.5),
    "DPS": lambda d: DPS(d, stations(3)),
    "PiGDM": lambda d: PiGDM(d, stations(3)),
    "MomentMatching": lambda d: MomentMatching(d, stations(3)),
    "MomentMatching, spectrum": lambda d: MomentMatching(d, stations(3), SPECTRUM),
    "errors": lambda d: MomentMatching(d, stations(3, 0.1 + LABELS.double()[:, None, None])),
    "one observation": lambda d: MomentMatching(d, stations()),
    "one for each, one error for all": lambda d: MomentMatching(d, stations(3, torch.tensor([[0.1]]))),
    "restrictions": lambda d: MomentMatching(d, Restriction((3,), fields(3, 1, 3), 0.1)),
    "masks": lambda d: MomentMatching(d, Masked(torch.arange(9) % 3 > 0, fields(3, 1, 9), 0.1)),
    "operators": lambda d: MomentMatching(d, Linear(lambda x: x.mean(2), fields(3, 1), 0.1)),
    "wrapped": lambda d: Unchanged(MomentMatching(Given(d, label=LABELS), stations(3))),
}


# ---- observations -------------------------------------------------------------------------------------------------


def _inside(domain: Domain, count: int) -> Tensor:
    """Points of the domain, (dim, count)."""
    places = torch.rand(domain.dim, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return places * torch.tensor(domain.lengths, dtype=torch.float64)[:, None]


def _two_thirds(domain: Domain) -> Tensor:
    """A mask on a grid of 9 points a side."""
    return torch.arange(9**domain.dim).reshape((9,) * domain.dim) % 3 > 0


# What is seen of two channels, on grids that hold (9,) * dim points.
OBSERVATIONS = [
    lambda domain: PointObservation(_inside(domain, 5), torch.zeros(2, 5), 0.5),
    lambda domain: PointObservation(_inside(domain, 5), torch.zeros(1, 5), torch.rand(5) + 0.5, channels=1),
    lambda domain: Restriction((3,) * domain.dim, torch.zeros(2, *(3,) * domain.dim), 0.5),
    lambda domain: Masked(_two_thirds(domain), torch.zeros(2, *(9,) * domain.dim), 0.5),
    lambda domain: Linear(lambda x: domain.evaluate(x, _inside(domain, 4)).sum(1), torch.zeros(4), 0.5),
]
