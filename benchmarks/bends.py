"""Observations that bend, seen at one place: the table `python -m benchmarks.exactness --only bends`, against quadrature."""

from __future__ import annotations

import torch

from benchmarks.laws import BOX
from fnodiff import EDM, DPMSolver, FunctionSpaceSDE, GaussianRandomField, Matern
from fnodiff.inverse import MomentMatching, Nonlinear, annealed, posterior
from fnodiff.sde import GaussianDenoiser


def print_bends(count: int = 256) -> None:
    """What bends, seen at one place, of a Gaussian field: the value there, by quadrature and by each way."""
    print(
        "Seen at one place of a Gaussian field: error of the mean in posterior standard deviations / spread over theirs"
    )
    place, field = torch.tensor([[0.5]]), GaussianRandomField(BOX, Matern(1.0, 0.3))
    oracle = GaussianDenoiser(field, FunctionSpaceSDE(field, EDM()))
    modes = (
        BOX.synthesize(torch.eye(16, dtype=torch.float64)[:, None], (16,))
        * field.std(BOX.eigenvalues((16,)))[:, None, None]
    )
    variance = float(BOX.evaluate(modes, place.double()).square().sum())
    functions = {
        "z, seen 2 +- 0.1": (lambda z: z, 2.0, 0.1),
        "exp(2 z), 20 +- 1": (lambda z: (2 * z).exp(), 20.0, 1.0),
        "exp(4 z), 100 +- 5": (lambda z: (4 * z).exp(), 100.0, 5.0),
        "z^3, 8 +- 0.5": (lambda z: z**3, 8.0, 0.5),
    }
    ways: dict[str, dict[str, object]] = {
        "default: Gauss-Newton, 24 levels": {},
        "the same, 96 levels": {"solver": DPMSolver(96, eta=1.0)},
        "MomentMatching by derivatives, 24 levels": {"method": MomentMatching, "solver": DPMSolver(24, eta=1.0)},
        "annealed": {"method": annealed},
    }
    print(" " * 42 + "".join(f"{name:>20}" for name in functions))
    for name, options in ways.items():
        cells = ""
        for function, value, std in functions.values():
            z = torch.linspace(-8, 8, 100_001, dtype=torch.float64) * variance**0.5
            weights = (-z.square() / (2 * variance) - (value - function(z)).square() / (2 * std**2)).softmax(0)
            mean = float((weights * z).sum())
            deviation = float((weights * (z - mean).square()).sum()) ** 0.5
            seen = Nonlinear(lambda x, f=function: f(BOX.evaluate(x, place)), torch.tensor([[value]]), std)
            found = BOX.evaluate(posterior(oracle, seen, 16, range(count), batch=count, **options), place).flatten()
            error, spread = (float(found.mean()) - mean) / deviation, float(found.std()) / deviation
            cells += f"{f'{error:.2f} / {spread:.2f}':>20}"
        print(f"{name:<42}{cells}", flush=True)
