"""The source of Poisson's or Helmholtz's equation from values of the solution at 500 of 128 x 128 cells.

Both are linear, and the source is a Gaussian field, so the posterior is known. No estimate has smaller errors than its mean,
on average. Its draws are the right samples, and have errors sqrt(2) times as large. Printed are mean relative L2 errors over
the truths, in percent, of

    exact                 the posterior's mean, and draws of it: the floor
    exact denoiser        our samplers, which know the prior by its denoiser: what they add to the floor
    the model             a folder given by --model, of the source alone or of pairs (source, solution)
    FunDPS, published     on data of the same kind: its training pictures have no constant mode (and, Helmholtz's, a source that
                          is zero on the edge)

and the processor time of each sample. A mean of 8 samples has errors sqrt(1 + 1/8) times as large as the mean's.

`--floors 180` prints instead what the floor depends on: how much it differs between truths, and with other laws of the source.

    python -m benchmarks.linear
    python -m benchmarks.linear --floors 180
    python datasets/poisson.py source.h5 --target source --count 8192 --resolutions 32 64 128
    fnodiff train source.h5 --domain box --minutes 120 --out source            # serves both equations
    python -m benchmarks.linear --model source
    python datasets/poisson.py poisson.h5 --count 8192 --resolutions 32 64 128
    fnodiff train poisson.h5 --domain box --minutes 120 --out poisson          # pairs, for one; --helmholtz for the other
    python -m benchmarks.linear --equation poisson --model poisson
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.oracles import Posterior
from fnodiff import EDM, Box, FunctionSpaceSDE, GaussianRandomField, Matern, Model
from fnodiff.equations.poisson import solve, source
from fnodiff.inverse import Linear, Masked, MomentMatching, Observation, annealed, posterior
from fnodiff.metrics import relative_l2
from fnodiff.sde import Denoiser, EvenLogSNR, GaussianDenoiser
from fnodiff.sde.solvers import DPMSolver

SQUARE = Box(2)
LAW = GaussianRandomField(SQUARE, Matern(1.0, math.sqrt(2) / 3))  # that of `source`
LAWS = ("a constant mode", "no constant mode", "zero on the edge")
WAVENUMBERS = {"poisson": 0.0, "helmholtz": 1.0}
PUBLISHED = {"poisson": 20.47, "helmholtz": 17.16}  # FunDPS (2505.17004), 500 steps


@dataclass
class Problem:
    """Truths, and what is seen of their solutions.

    Args:
        wavenumber: Of the equation.
        truths: (T, 1, n, n), float64.
        cells: Where the solution is seen, flat indices (m,).
        noise_std: Of the values' errors.
        values: (T, m).
    """

    wavenumber: float
    truths: Tensor
    cells: Tensor
    noise_std: float
    values: Tensor

    @classmethod
    def drawn(cls, wavenumber: float, size: int, sensors: int, truths: int, errors: float, seed: int) -> Problem:
        generator = torch.Generator().manual_seed(seed)
        a = source((truths, 1, size, size), generator=generator)
        u = solve(a, wavenumber).flatten(1)
        cells = torch.randperm(size * size, generator=generator)[:sensors]
        noise_std = errors * float(u.square().mean().sqrt())
        noise = torch.randn(truths, sensors, generator=generator, dtype=torch.float64)
        return cls(wavenumber, a, cells, noise_std, u[:, cells] + noise_std * noise)

    def oracle(self) -> Posterior:
        """The exact posterior."""
        unit = torch.zeros(len(self.cells), self.truths[0].numel(), dtype=torch.float64)
        unit[torch.arange(len(self.cells)), self.cells] = 1
        return Posterior(LAW, solve(unit.view(-1, *self.truths.shape[1:]), self.wavenumber), self.noise_std)

    def observation(self, channels: int, members: int) -> Observation:
        """Of each truth, `members` times: of the source alone through the equation, or of pairs."""
        values = self.values.repeat_interleave(members, 0).float()[:, None]
        if channels == 1:
            return Linear(lambda a: solve(a, self.wavenumber).flatten(2)[..., self.cells], values, self.noise_std)
        mask = torch.zeros(self.truths[0].numel(), dtype=torch.bool)
        mask[self.cells] = True
        seen = torch.zeros(*values.shape[:2], len(mask))
        seen[..., mask] = values[..., self.cells.argsort()]
        shape = self.truths.shape[2:]
        return Masked(mask.view(shape), seen.unflatten(-1, shape), self.noise_std, channels=1)


def exact(problem: Problem, members: int, seed: int) -> tuple[Tensor, Tensor]:
    """The posterior's mean (T, ...), and draws (T, members, ...)."""
    oracle, generator = problem.oracle(), torch.Generator().manual_seed(seed)
    draws = oracle.draw(problem.values.repeat_interleave(members, 0), generator)
    return oracle.mean(problem.values), draws.unflatten(0, (-1, members))


def modes(law: str, n: int) -> tuple[Tensor, Tensor]:
    """A law of sources: its modes, (n, n) with one of each axis in a row, of mean square one; and their standard deviations."""
    k, x = torch.arange(n, dtype=torch.float64), (torch.arange(n, dtype=torch.float64) + 0.5) / n
    if law == "zero on the edge":
        k = k + 1
        basis = (math.pi * k[:, None] * x).sin()
    else:
        basis = (math.pi * k[:, None] * x).cos()
    std = 1 / (math.pi**2 * (k[:, None].square() + k.square()) + 9)
    if law == "no constant mode":
        std[0, 0] = 0.0
    return basis / basis.square().mean(1, keepdim=True).sqrt(), std / std.square().sum().sqrt()


def floors(
    law: str, wavenumber: float, size: int, sensors: int, count: int, relative: float, own: bool, seed: int
) -> Tensor:
    """Relative errors of the exact posterior means of `count` truths, in percent; new sensors for every 36.

    The sensors' errors are relative to each truth's own solution, or to the mean square of all.
    """
    generator, (basis, std), found = torch.Generator().manual_seed(seed), modes(law, size), []
    normals = {"generator": generator, "dtype": torch.float64}
    while len(found) < count:
        cells, unit = (
            torch.randperm(size**2, generator=generator)[:sensors],
            torch.zeros(sensors, size**2, dtype=torch.float64),
        )
        unit[torch.arange(sensors), cells] = 1.0
        rows = solve(unit.view(-1, 1, size, size), wavenumber)[:, 0]  # it is its own adjoint
        rows = (basis @ rows @ basis.T * std).flatten(1)
        gram, xi = rows @ rows.T, torch.randn(36, size**2, **normals)
        values, u = xi @ rows.T, solve((basis.T @ (xi.view(-1, size, size) * std) @ basis)[:, None], wavenumber)
        square = u.square().mean((1, 2, 3)) if own else u.square().mean().expand(36)
        for x, y, noise_std in zip(xi, values, relative * square.sqrt(), strict=True):
            factor = torch.linalg.cholesky(gram + noise_std**2 * torch.eye(sensors, dtype=torch.float64))
            y = y + noise_std * torch.randn(sensors, **normals)
            error = (rows.T @ torch.cholesky_solve(y[:, None], factor)[:, 0] - x) * std.flatten()
            found.append(100 * float(error.norm() / (x * std.flatten()).norm()))
    return torch.tensor(found[:count])


def sampled(problem: Problem, denoiser: Denoiser, members: int, method: Callable, **options) -> Tensor:
    """Samples (T, members, 1, n, n) of the source, float64."""
    seen = problem.observation(denoiser.channels, members)
    seeds, shape = range(len(problem.truths) * members), tuple(problem.truths.shape[2:])
    x = posterior(denoiser, seen, shape, seeds, method=method, **options)
    return x[:, :1].double().unflatten(0, (-1, members))


def errors(samples: Tensor, truths: Tensor) -> tuple[float, float]:
    """Of the means of samples (T, members, ...), and of the samples; in percent."""
    each = relative_l2(samples.flatten(0, 1), truths.repeat_interleave(samples.shape[1], 0), SQUARE)
    return 100 * float(relative_l2(samples.mean(1), truths, SQUARE).mean()), 100 * float(each.mean())


def exact_denoiser() -> GaussianDenoiser:
    """The prior's."""
    return GaussianDenoiser(LAW, FunctionSpaceSDE(GaussianRandomField(SQUARE, Matern(0.5, 0.2)), EDM()))


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--equation", nargs="+", choices=list(WAVENUMBERS), default=list(WAVENUMBERS))
    add("--model", type=Path, help="folder of a model of the source, or of pairs of the equation")
    add("--errors", type=float, nargs="+", default=[1e-3, 1e-4], help="of the sensors, relative to the solution")
    add("--size", type=int, default=128)
    add("--sensors", type=int, default=500)
    add("--truths", type=int, default=6)
    add("--members", type=int, default=8, help="samples of each truth")
    add("--levels", type=int, default=4, help="noise levels of annealed under the exact denoiser")
    add("--steps", type=int, default=24, help="of the solver, and of annealed under the model")
    add("--iterations", type=int, default=400, help="of MomentMatching's solver, at most, in spectra; 8 in Jacobians")
    add("--floors", type=int, help="print the floor alone, over so many truths, of several laws")
    add("--batch", type=int, default=16)
    add("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    args = options(argv)
    if args.floors:
        print(f"{'exact means, %':<52}{'mean':>8}{'lowest':>8}{'highest':>9}{'of six, sd':>12}")
        for equation in args.equation:
            for relative in args.errors:
                for law, own in [("a constant mode", True), *((law, False) for law in LAWS)]:
                    off = floors(
                        law, WAVENUMBERS[equation], args.size, args.sensors, args.floors, relative, own, args.seed
                    )
                    name = f"{equation}, {relative:.2%} of {'each' if own else 'all'}, {law}"
                    print(f"{name:<52}{off.mean():>8.2f}{off.min():>8.1f}{off.max():>9.1f}{off.std() / 6**0.5:>12.2f}")
        return
    model = Model.from_pretrained(args.model).eval() if args.model else None
    rows: dict[str, tuple[Denoiser, Callable, dict]] = {}
    for name, denoiser, levels in (
        ("exact denoiser", exact_denoiser(), args.levels),
        ("the model", model, args.steps),
    ):
        if denoiser is None:
            continue
        solver = DPMSolver(args.steps, EvenLogSNR())
        if denoiser.channels == 1:
            spectral = partial(MomentMatching, spectrum=denoiser.spectrum, iterations=args.iterations)
            rows[f"{name}, annealed"] = denoiser, annealed, {"steps": levels, "spacing": EvenLogSNR()}
            rows[f"{name}, MomentMatching"] = denoiser, spectral, {"solver": solver}
        else:
            rows[f"{name}, MomentMatching"] = denoiser, partial(MomentMatching, iterations=8), {"solver": solver}
    print(f"{'':<42}{'mean':>8}{f'mean of {args.members}':>12}{'sample':>9}{'s':>8}")
    for equation in args.equation:
        for relative in args.errors:
            problem = Problem.drawn(WAVENUMBERS[equation], args.size, args.sensors, args.truths, relative, args.seed)
            print(f"{equation}, errors of {relative:.2%}")
            mean, draws = exact(problem, args.members, args.seed + 1)
            floor = 100 * float(relative_l2(mean, problem.truths, SQUARE).mean())
            several, single = errors(draws, problem.truths)
            print(f"  {'exact':<40}{floor:>7.2f}%{several:>11.2f}%{single:>8.2f}%", flush=True)
            for name, (denoiser, method, settings) in rows.items():
                start = time.process_time()
                x = sampled(problem, denoiser, args.members, method, batch=args.batch, **settings)
                spent = (time.process_time() - start) / (args.truths * args.members)
                several, single = errors(x, problem.truths)
                print(f"  {name:<40}{'':>8}{several:>11.2f}%{single:>8.2f}%{spent:>8.2f}", flush=True)
        print(f"  {'FunDPS, published':<40}{'':>20}{PUBLISHED[equation]:>8.2f}%")
    print(
        f"{args.truths} truths on {args.size} x {args.size}, {args.sensors} sensors; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {platform.machine()}"
    )


if __name__ == "__main__":
    main()
