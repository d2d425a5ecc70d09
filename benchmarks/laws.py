"""The laws that exactness is measured on: named ones, and ones drawn by seed on every domain; none is stationary."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.oracles import Law
from fnodiff import EDM, Box, FunctionSpaceSDE, GaussianRandomField, Matern, Sphere, Torus, WhiteNoise
from fnodiff.domain import Domain, Shape

BOX, FINE, SMALL = Box(1), (32,), (8,)
DOMAINS = {
    "Box(1)": (Box(1), (32,), (8,)),
    "Torus(1)": (Torus(1), (32,), (9,)),
    "Box(2)": (Box(2), (12, 12), (6, 6)),
    "Torus(2)": (Torus(2), (12, 12), (5, 5)),
    "Sphere()": (Sphere(), (10, 20), (5, 10)),
}
"""Where laws are drawn: the domain, its grid, and the grid of the known modes."""


def stationary(domain: Domain, shape: Shape, spectrum: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Factors of a stationary law, one for each value on the grid."""
    field = GaussianRandomField(domain, spectrum)
    unit = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, 1, *shape)
    return domain.filter(unit / domain.weights(shape, dtype=torch.float64).sqrt(), field.std)


def amplitude(domain: Domain = BOX, shape: Shape = FINE) -> Law:
    """Of amplitude 1 in one half of the domain and 0.1 in the other."""
    x = domain.points(shape, dtype=torch.float64)[-1]
    return Law(domain, stationary(domain, shape, Matern(1.0, 0.1)) * torch.where(x < x.mean(), 1.0, 0.1))


def one_factor() -> Law:
    """One random number in mode 1 and in modes 9 to 12, beside independent modes."""
    common = torch.zeros(1, 1, *FINE, dtype=torch.float64)
    common[..., 1], common[..., 9:13] = 1.0, 0.5
    independent = 0.3 * stationary(BOX, FINE, Matern(1.0, 0.1))
    return Law(BOX, torch.cat([independent, BOX.synthesize(common, FINE)]))


def drawn(domain: Domain, shape: Shape, seed: int) -> Law:
    """A stationary law of random smoothness, its amplitude a random function, and three random functions of all modes."""
    generator = torch.Generator().manual_seed(seed)
    smoothness, length = (0.5 + torch.rand((), generator=generator).item() for _ in range(2))
    factors = stationary(domain, shape, Matern(smoothness, 0.3 * length))
    smooth, rough = (GaussianRandomField(domain, Matern(nu, 0.2)) for nu in (2.0, 0.5))
    field = smooth.sample((1, 1, *shape), generator=generator, dtype=torch.float64)
    common = rough.sample((3, 1, *shape), generator=generator, dtype=torch.float64)
    return Law(domain, torch.cat([factors * field.exp(), common]))


def spectrum_of(law: Law) -> Callable[[Tensor, int], Tensor]:
    """The mean variance of the modes of one eigenvalue."""
    domain, shape = law.domain, tuple(law.factors.shape[2:])
    power = domain.analyze(law.factors).abs().square().sum((0, 1)).flatten()
    eigenvalues = domain.eigenvalues(shape, dtype=torch.float64).flatten()
    keys, where = eigenvalues.mul(1e6).round().unique(return_inverse=True)
    mean = torch.zeros(len(keys), dtype=torch.float64).index_add(0, where, power)
    mean = mean / torch.bincount(where).clamp(min=1)
    between = 0.5 * (keys[1:] + keys[:-1])

    def spectrum(eigenvalues: Tensor, dim: int) -> Tensor:
        at = torch.searchsorted(between, eigenvalues.double().mul(1e6).contiguous())
        return mean[at].clamp(min=1e-9).to(eigenvalues.dtype)

    return spectrum


def process(domain: Domain, noise: str, shape: Shape) -> FunctionSpaceSDE:
    """EDM's schedule with white noise or with a Matern field."""
    field = WhiteNoise(domain, shape) if noise == "white" else GaussianRandomField(domain, Matern(0.5, 0.2))
    return FunctionSpaceSDE(field, EDM())
