"""Posterior sampling against the closed form: Gaussian priors, values at random points, posteriors known exactly.

For each method, domain and grid, many truths are drawn from the prior and observed with errors; the sampler draws an ensemble
for each. Printed, over all points and truths:

    mean       root mean square of (ensemble mean - posterior mean), in posterior standard deviations, without the
               ensembles' own sampling error
    spread     ensemble standard deviation / posterior standard deviation
    covered    how often the truth lies between the second lowest and the second highest of 39 samples: 90% if all is right
    ESS        of twisted sampling: the effective sample size, at its lowest and at the end, of so many particles
    ms         of processor time for each sample; of twisted sampling for each run, which is one independent sample

An ensemble is 39 samples of a guided denoiser by Heun's method, or all particles of 4 runs of `twisted`, which takes as many
evaluations for each of them; that is for a quarter of the truths only.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from fnodiff import EDM, Box, FunctionSpaceSDE, GaussianRandomField, Heun, Matern, Torus
from fnodiff.domain import Domain, Shape
from fnodiff.inverse import DPS, Guided, MomentMatching, PiGDM, PointObservation, twisted
from fnodiff.sde import Denoiser, Direct, EvenLogSNR, GaussianDenoiser, run

MEMBERS, RUNS = 39, 4
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


def particles(case: Problem, steps: int, count: int) -> tuple[Tensor, Tensor]:
    """Particles (RUNS, count, pairs, 1, *shape) of twisted sampling, and the effective sample sizes (runs, steps)."""
    pairs = len(case.truth)
    observation = PointObservation(
        case.observation.points, case.observation.values.repeat(RUNS, 1, 1), case.observation.noise_std
    )
    options = {"particles": count, "steps": steps, "spacing": EvenLogSNR(), "all_particles": True, "return_ess": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the table shows where particles are few
        x, ess = twisted(case.denoiser, observation, case.shape, range(RUNS * pairs), batch=count, **options)
    return x.double().unflatten(0, (RUNS, pairs)).movedim(2, 1), ess


def scores(samples: Tensor, case: Problem) -> tuple[float, float, float]:
    """Mean, spread and coverage, as this module says, of samples (members, pairs, ...), or of runs of them (RUNS, ...)."""
    dependent = samples.ndim > case.truth.ndim + 1
    means = samples.mean(1) if dependent else samples
    samples = samples.flatten(0, 1) if dependent else samples
    error = ((samples.mean(0) - case.mean).square() - means.var(0) / len(means)) / case.std.square()
    spread = (samples.var(0) / case.std.square()).mean().sqrt()
    ordered = samples[torch.linspace(0, len(samples) - 1, MEMBERS).long()].sort(0).values
    covered = ((case.truth > ordered[1]) & (case.truth < ordered[-2])).double().mean()
    return float(error.mean().clamp(min=0).sqrt()), float(spread), float(covered)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--particles", type=int, default=64)
    args = parser.parse_args()
    print(f"{'':<58}{'mean':>6}{'spread':>8}{'covered':>9}{'ESS':>16}{'ms':>8}")
    for domain, grids, sensors in (
        (Torus(1), [(33,), (65,)], 8),
        (Box(1), [(32,), (64,)], 8),
        (Torus(2), [(13, 13), (25, 25)], 24),
        (Box(2), [(12, 12), (24, 24)], 24),
    ):
        for shape in grids:
            name = f"{type(domain).__name__}({domain.dim}), {sensors} sensors"
            rows = {**METHODS, f"twisted, {args.particles} particles": None}
            for label, method in rows.items():
                case = problem(domain, shape, pairs=args.pairs if method else -(-args.pairs // 4), sensors=sensors)
                start, size = time.process_time(), ""
                if method:
                    samples = ensemble(method, case, args.steps)
                    count = MEMBERS * len(case.truth)
                else:
                    samples, ess = particles(case, 2 * args.steps, args.particles)
                    size = f"{float(ess.min(1).values.mean()):.0f}, {float(ess[:, -1].mean()):.0f}"
                    size, count = f"{size} of {args.particles}", len(ess)
                each = 1000 * (time.process_time() - start) / count
                mean, spread, covered = scores(samples, case)
                cells = f"{mean:>6.2f}{spread:>8.2f}{100 * covered:>8.0f}%{size:>16}{each:>8.1f}"
                print(f"{name:<22}{'x'.join(map(str, shape)):>8}  {label:<26}{cells}", flush=True)


if __name__ == "__main__":
    main()
