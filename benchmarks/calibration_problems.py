"""The problems of `benchmarks.calibration`: of each a trained model, true fields, sensors, and a Gaussian law beside it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.oracles import Law, Mixture
from benchmarks.pde import MODELS, pressure
from fnodiff import Model, Sphere
from fnodiff.data import HDF5Fields, Terrain
from fnodiff.domain import Domain, Shape
from fnodiff.equations import Darcy, NavierStokes
from fnodiff.equations.shallow_water import ShallowWater
from fnodiff.inverse import Nonlinear, Observation, PointObservation
from fnodiff.sde import fit_spectra

SHIPPED = {
    "Darcy": MODELS / "darcy_flow" / "pair",
    "permeability": MODELS / "darcy_flow" / "prior",
    "vorticity": MODELS / "navier_stokes" / "pair",
    "terrain": MODELS / "terrain_superres",
    "water": MODELS / "sphere_shallow_water",
}
CHANNELS = {
    "Darcy": ("a", "u"),
    "permeability": ("a",),
    "vorticity": ("w(1)", "w(0)"),
    "terrain": ("height",),
    "water": ("height", "vorticity"),
    "winds": ("east", "north"),
}
SEEN = {"Darcy": [1], "vorticity": [0], "terrain": [0], "water": [0]}
"""The channels that sensors see; of other problems all."""

TWO_VALUED = {("Darcy", "a"): 7.5, ("permeability", "a"): 7.5}
"""Channels that have two values, and the middle of these."""

SOURCES = ("data", "model", "gaussian")
"""Of truths."""

Fields = Callable[[Sequence[int]], Tensor]


@dataclass
class Problem:
    """A trained model, and true fields (N, C, *shape) by their numbers, of which there are `count`."""

    name: str
    model: Model
    shape: Shape
    fields: Fields
    count: int
    law_of: int = 256  # fields that the Gaussian law has its mean and covariance of
    kept: Path | None = None  # the file of these
    sources: tuple[str, ...] = SOURCES

    @property
    def domain(self) -> Domain:
        return self.model.sde.domain

    @property
    def seen(self) -> list[int]:
        return SEEN.get(self.name, list(range(self.model.channels)))

    @property
    def channels(self) -> tuple[str, ...]:
        return CHANNELS.get(self.name, tuple(str(i) for i in range(self.model.channels)))

    @cached_property
    def law(self) -> Law:
        """Gaussian, of the mean and the covariance of the last true fields, normalised."""
        numbers = range(max(0, self.count - self.law_of), self.count)
        if self.kept is not None and not self.kept.exists():
            once(self.kept, lambda part: save_file({"x": self.fields(numbers).contiguous()}, part))
        x = self.fields(numbers) if self.kept is None else load_file(self.kept)["x"]
        x = self.model.normalization(x.double())
        return Law(self.domain, (x - x.mean(0)) / math.sqrt(len(x) - 1), x.mean(0))

    @cached_property
    def spectrum(self) -> Callable:
        """The model's, or that of the law."""
        if self.model.spectrum is not None:
            return self.model.spectrum
        return fit_spectra(self.law.factors.float() * math.sqrt(len(self.law.factors)), self.domain)

    @cached_property
    def oracle(self) -> Mixture:
        """The exact denoiser of the Gaussian law."""
        known = {"normalization": self.model.normalization, "spectrum": self.spectrum}
        return Mixture([self.law], self.model.sde, **known)

    @property
    def units(self) -> Tensor:
        """Standard deviation of each channel, (C,)."""
        one = torch.ones(1, self.model.channels, *[1] * self.domain.dim)
        return self.model.normalization.scale(one).flatten()

    def drawn(self, generator: torch.Generator) -> Tensor:
        """A draw of the Gaussian law in data units, (C, *shape)."""
        return self.model.normalization.inverse(self.law.sample(1, self.shape, generator))[0]

    def observed(self, truth: Tensor | None, sensors: int, noise: float, generator: torch.Generator) -> Observation:
        """What random sensors see of a truth (C, *shape), or what says nothing."""
        points, std = places(self.domain, sensors, generator), noise * self.units[self.seen][:, None]
        if truth is None:
            silent = self.model.normalization.inverse(torch.zeros(1, self.model.channels, *[1] * self.domain.dim))
            values = silent[0].flatten(1)[self.seen].expand(-1, sensors).clone()
            return PointObservation(points, values, 1e6 * self.units[self.seen][:, None], channels=self.seen)
        exact = self.domain.evaluate(truth[None, self.seen], points)[0]
        errors = torch.randn(exact.shape, generator=generator, dtype=torch.float64).to(exact)
        return PointObservation(points, exact + std * errors, std, channels=self.seen)

    def exact(self, observation: PointObservation, seeds: Sequence[int]) -> Tensor:
        """Draws of the Gaussian law's posterior, in data units: by the random numbers xi of its factors."""
        factors, mean = (self.domain.resample(f, self.shape) for f in (self.law.factors, self.law.mean[None]))
        scale = self.units[self.seen][:, None].double()
        points, errors = observation.points.double(), (observation.noise_std / scale).double()
        sensing = self.domain.evaluate(factors[:, self.seen], points).flatten(1).T
        there = self.model.normalization.inverse(mean)[:, self.seen]
        values = ((observation.values - self.domain.evaluate(there, points)[0]) / scale).flatten()
        r = errors.expand(len(self.seen), points.shape[1]).flatten()
        gain = torch.linalg.solve(sensing @ sensing.T + r.square().diag(), sensing).T
        xi = torch.stack([torch.randn(len(factors) + len(r), generator=seeded(s), dtype=torch.float64) for s in seeds])
        xi, e = xi[:, : len(factors)], r * xi[:, len(factors) :]
        xi = xi + (values - xi @ sensing.T - e) @ gain.T
        return self.model.normalization.inverse(mean + torch.tensordot(xi, factors, 1))


@dataclass
class Permeability(Problem):
    """A model of Darcy's a alone, whose sensors see u: what the solver makes of a, on the same grid."""

    sources: tuple[str, ...] = ("data", "model")

    @cached_property
    def spread(self) -> float:
        """Standard deviation of u."""
        return float(pressure(self.fields(range(max(0, self.count - 64), self.count))).std())

    def observed(self, truth: Tensor | None, sensors: int, noise: float, generator: torch.Generator) -> Observation:
        if truth is None:
            return super().observed(None, sensors, noise, generator)
        points, std = places(self.domain, sensors, generator), noise * self.spread
        exact = self.domain.evaluate(pressure(truth[None]), points)[0]
        values = exact + std * torch.randn(exact.shape, generator=generator, dtype=torch.float64).to(exact)
        return Nonlinear(lambda a: self.domain.evaluate(pressure(a), points), values, std)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def places(domain: Domain, count: int, generator: torch.Generator) -> Tensor:
    """Random places, evenly over the area, (dim, count)."""
    u = torch.rand(domain.dim, count, generator=generator, dtype=torch.float64)
    if isinstance(domain, Sphere):
        return torch.stack([(1 - 2 * u[0]).arccos(), 2 * math.pi * u[1]]).float()
    return (u * torch.tensor(domain.lengths, dtype=torch.float64)[:, None]).float()


def true_fields(name: str, model: Model, shape: Shape, file: Path | None) -> tuple[Fields, int]:
    """Fields that the model was not trained on, and how many there are."""
    if file is not None:
        opened = HDF5Fields(file)
        return lambda numbers: opened.batch(list(numbers), shape)["x"], len(opened)
    many, double = 100_000, 2 * max(shape)
    if name in ("Darcy", "permeability"):
        target = "pair" if name == "Darcy" else "coefficient"
        source = Darcy(many, 1, scale=3.0, constant_mode=False, fine=max(192, double), target=target)
    elif name == "vorticity":
        fine = max(80, double)
        source = NavierStokes(many, 1, scale=25.0, time=1.0, viscosity=1e-4, fine=fine, dt=1.6 / fine)
    elif name == "terrain":
        source = Terrain(many, 2, centre=True, held_out=True)
    elif name == "water":
        source = ShallowWater(many, 2, snapshots=2)
    else:
        raise SystemExit(
            f"{name}: expected fields to test on; pass --data {name}=FILE.h5, as `write_fields` makes them."
        )

    def fields(numbers: Sequence[int]) -> Tensor:
        batch = source.batch(list(numbers), shape)
        if name == "terrain":  # the model is one of functions, not of averages over cells
            domain = model.sde.domain
            return domain.synthesize(domain.analyze(batch["x"]) / domain.attenuation(shape), shape)
        return torch.cat([batch["x"], batch["field"]], 1) if name == "vorticity" else batch["x"]

    return fields, many


def once(file: Path, write: Callable[[Path], None]) -> None:
    """A file that is whole at once: others may read it meanwhile."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}")
    write(part)
    part.replace(file)
