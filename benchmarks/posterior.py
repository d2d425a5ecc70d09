"""Guided sampling against the closed form: Gaussian priors, values at random points, posteriors known exactly.

For each method, domain and grid, many truths are drawn from the prior and observed with errors; the sampler draws an ensemble
for each. Printed, over all points and truths:

    mean       root mean square of (ensemble mean - posterior mean), in posterior standard deviations, without the
               ensembles' own sampling error
    spread     ensemble standard deviation / posterior standard deviation
    covered    how often the truth lies between the second lowest and the second highest of 39 samples: 90% if all is right
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fnodiff import EDM, Box, FunctionSpaceSDE, GaussianRandomField, Heun, Matern, Torus
from fnodiff.domain import Domain, Shape
from fnodiff.inverse import DPS, Guided, MomentMatching, PiGDM, PointObservation
from fnodiff.sde import Denoiser, Direct, GaussianDenoiser, run

MEMBERS = 39
METHODS = {
    "DPS": DPS,
    "PiGDM": lambda denoiser, observation: PiGDM(denoiser, observation, sigma_data=1.0),
    "MomentMatching": MomentMatching,
    "MomentMatching, spectrum": lambda denoiser, observation: MomentMatching(
        denoiser, observation, lambda k, dim: denoiser.data.std(k).square()
    ),
}


@dataclass
class Problem:
    """Gaussian fields observed at points, with their posterior on one grid."""

    domain: Domain
    shape: Shape
    denoiser: Denoiser
    truth: Tensor  # (pairs, 1, *shape)
    observation: PointObservation  # values (pairs, 1, P)
    mean: Tensor  # of the posterior, (pairs, 1, *shape)
    std: Tensor  # of the posterior, (1, 1, *shape)


def problem(
    domain: Domain, shape: Shape, *, pairs: int, sensors: int, noise_std: float = 0.1, seed: int = 0
) -> Problem:
    """Draw truths and observations, and solve for the posterior by dense linear algebra."""
    data = GaussianRandomField(domain, Matern(1.0, 0.2))
    sde = FunctionSpaceSDE(GaussianRandomField(domain, Matern(0.5, 0.2)), EDM(sigma_min=0.01, sigma_max=80.0))
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(domain.dim, sensors, generator=generator, dtype=torch.float64)
    truth = data.sample((pairs, 1, *shape), generator=generator, dtype=torch.float64)
    exact = domain.evaluate(truth, points)
    values = exact + noise_std * torch.randn(exact.shape, generator=generator, dtype=torch.float64)

    unit = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, 1, *shape)
    weights = domain.weights(shape, dtype=torch.float64)
    covariance = domain.filter(unit / weights, lambda k: data.std(k).square()).flatten(1)
    sensing = domain.evaluate(unit, points)[:, 0].T  # (sensors, points of the grid)
    seen = sensing @ covariance @ sensing.T + noise_std**2 * torch.eye(sensors, dtype=torch.float64)
    gain = torch.linalg.solve(seen, sensing @ covariance).T
    mean = (values[:, 0] @ gain.T).reshape(pairs, 1, *shape)
    std = (covariance - gain @ sensing @ covariance).diagonal().clamp(min=0).sqrt().reshape(1, 1, *shape)
    return Problem(
        domain, shape, GaussianDenoiser(data, sde), truth, PointObservation(points, values, noise_std), mean, std
    )


def ensemble(method, case: Problem, steps: int, members: int = MEMBERS, seed: int = 1) -> Tensor:
    """Samples (members, pairs, 1, *shape) of every pair's posterior."""
    observation = PointObservation(
        case.observation.points, case.observation.values.repeat(members, 1, 1), case.observation.noise_std
    )
    guided: Guided = method(case.denoiser, observation)
    shape = (members * len(case.truth), 1, *case.shape)
    generator = torch.Generator().manual_seed(seed)
    start, solver = guided.sde.prior(shape, generator=generator, dtype=torch.float64), Heun(steps)
    stages = Direct().plan(guided, case.shape, solver.times(guided.sde.schedule))
    return run(guided, solver, stages, start).unflatten(0, (members, -1))


def scores(samples: Tensor, case: Problem) -> tuple[float, float, float]:
    """Mean, spread and coverage, as this module says."""
    variance = samples.var(0)
    error = ((samples.mean(0) - case.mean).square() - variance / len(samples)) / case.std.square()
    spread = (variance / case.std.square()).mean().sqrt()
    ordered = samples.sort(0).values
    covered = ((case.truth > ordered[1]) & (case.truth < ordered[-2])).double().mean()
    return float(error.mean().clamp(min=0).sqrt()), float(spread), float(covered)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--steps", type=int, default=24)
    args = parser.parse_args()
    print(f"{'mean / spread / covered':<26}{'points':>10}" + "".join(f"{name:>28}" for name in METHODS))
    for domain, grids, sensors in (
        (Torus(1), [(33,), (65,)], 8),
        (Box(1), [(32,), (64,)], 8),
        (Torus(2), [(13, 13), (25, 25)], 24),
        (Box(2), [(12, 12), (24, 24)], 24),
    ):
        for shape in grids:
            case = problem(domain, shape, pairs=args.pairs, sensors=sensors)
            cells = []
            for method in METHODS.values():
                mean, spread, covered = scores(ensemble(method, case, args.steps), case)
                cells.append(f"{mean:.2f} / {spread:.2f} / {100 * covered:.0f}%")
            name = f"{type(domain).__name__}({domain.dim}), {sensors} sensors"
            print(f"{name:<26}{'x'.join(map(str, shape)):>10}" + "".join(f"{cell:>28}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
