"""Whole fields from 3% of them: Darcy and Navier-Stokes, forward (output from input) and inverse (input from output).

The layout is that of FunDPS' table: the mean relative L2 error over test cases, except that of Darcy's inverse, where the
unknown has two values: the share of cells with the wrong one. Ours are two rows for each problem: of single samples, as in
the published rows, and of the mean of an ensemble, which is the better estimate. Models are those of `examples/`.

    python -m benchmarks.pde                 # the shipped models, on the largest grid that they were trained on
    python -m benchmarks.pde --size 128      # on the published grid: zero-shot, or with --darcy and --navier-stokes models
                                             # trained there, as in examples/darcy_flow.py with other grids
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fnodiff import DDIM, Model, metrics, sample
from fnodiff.domain import Domain
from fnodiff.equations import Darcy, NavierStokes
from fnodiff.inverse import MomentMatching, PointObservation
from fnodiff.sde import Denoiser

MODELS = Path(__file__).parent.parent / "examples" / "models"
SHIPPED = MODELS / "darcy_flow" / "pair", MODELS / "navier_stokes" / "pair"
PUBLISHED = """\
Published, on 128x128 with 500 points (3.05%) seen without errors; both may also minimise the equation's residual, FunDPS here
for Navier-Stokes only:
FunDPS (2505.17004)              500      2.49%      5.18%      3.32%      8.48%
FunDPS                           200      2.88%      6.78%      3.99%      9.87%
DiffusionPDE (2406.17763)       2000      6.07%      7.87%      3.78%      9.63%
FunDPS trained each model on 10 million images, at 64 and then 128, in batches of 32 on one RTX 4090 (its repository's
configuration)."""


@dataclass
class Problem:
    """Test cases (cases, 2, n, n), pairs of input and output, and a model of such pairs."""

    name: str
    model: Denoiser
    cases: Tensor
    given: int  # the input's channel
    wrong: Callable[[Tensor, Tensor, Domain], Tensor]  # the inverse's error

    @property
    def domain(self) -> Domain:
        return self.model.sde.domain


def wrong_cells(x: Tensor, y: Tensor, domain: Domain) -> Tensor:
    """Share of the cells where a is on the wrong side of the middle of 3 and 12, (B,)."""
    return ((x > 7.5) != (y > 7.5)).to(x).flatten(1).mean(1)


def problems(args: argparse.Namespace) -> list[Problem]:
    """The models, and cases that they were not trained on."""
    models = [Model.from_pretrained(folder).to(args.device).eval() for folder in (args.darcy, args.navier_stokes)]
    sizes = [(args.size,) * 2 if args.size else max(model.training_shapes) for model in models]
    everything = range(args.cases)
    pairs = Darcy(args.cases, seed=1, scale=3.0, constant_mode=False).batch(everything, sizes[0])["x"]
    fine = max(80, *sizes[1])
    flows = NavierStokes(args.cases, seed=1, time=1.0, viscosity=1e-4, scale=25.0, fine=fine, dt=1.6 / fine)
    flows = flows.batch(everything, sizes[1])
    flows = torch.cat([flows["x"], flows["field"]], 1)  # (w(T), w(0)), as the example has them
    return [
        Problem("Darcy", models[0], pairs.to(args.device), 0, wrong_cells),
        Problem("Navier-Stokes", models[1], flows.to(args.device), 1, metrics.relative_l2),
    ]


def solve(problem: Problem, seen: int, args: argparse.Namespace) -> tuple[Tensor, float]:
    """Samples (members, cases, 2, n, n) of every case, channel `seen` known at points; and the seconds per sample."""
    domain, shape = problem.domain, tuple(problem.cases.shape[2:])
    generator = torch.Generator().manual_seed(args.seed)
    points = torch.rand(2, round(args.share * shape[0] * shape[1]), generator=generator).to(args.device)
    exact = domain.evaluate(problem.cases[:, seen : seen + 1], points)
    noise_std = args.noise * float(problem.cases[:, seen].std())
    values = exact + noise_std * torch.randn(exact.shape, generator=generator).to(exact)
    start, ensembles = time.perf_counter(), []
    for value in values:
        guided = MomentMatching(
            problem.model, PointObservation(points, value, noise_std, channels=seen), iterations=args.iterations
        )
        x = sample(guided, shape, range(args.members), solver=DDIM(args.evaluations, eta=1.0), device=args.device)
        ensembles.append(x.to(args.device))
    seconds = (time.perf_counter() - start) / (args.members * len(values))
    return torch.stack(ensembles, 1), seconds


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--darcy", type=Path, default=SHIPPED[0], help="model of pairs (a, u)")
    add("--navier-stokes", type=Path, default=SHIPPED[1], help="model of pairs (w(T), w(0))")
    add("--size", type=int, help="grid; by default 128 with a GPU, else the largest that the model was trained on")
    add("--share", type=float, default=0.03, help="of the cells that is seen")
    add("--noise", type=float, default=0.01, help="errors of the values, relative to the field's standard deviation")
    add("--cases", type=int, default=10)
    add("--members", type=int, default=8, help="samples per case")
    add("--evaluations", type=int, default=16, help="steps of the solver")
    add("--iterations", type=int, default=8, help="backward passes of the network per step")
    add("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    add("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.size is None and args.device == "cuda":
        args.size = 128
    return args


def main() -> None:
    """Print the table."""
    args = options()
    columns = "".join(f"{name:>11}" for name in ("forward", "inverse") * 2)
    print(f"{'':<30}{'steps':>6}{'Darcy':>17}{'Navier-Stokes':>24}\n{'':<36}{columns}")
    single, mean, spent = [], [], []
    cases = problems(args)
    for problem in cases:
        for seen in (problem.given, 1 - problem.given):  # forward, inverse
            ensemble, seconds = solve(problem, seen, args)
            error = metrics.relative_l2 if seen == problem.given else problem.wrong
            truth, guess = problem.cases[:, 1 - seen, None], ensemble[:, :, 1 - seen, None]
            every = torch.stack([error(x, truth, problem.domain) for x in guess])
            single.append(f"{every.mean():.2%}")
            mean.append(f"{error(guess.mean(0), truth, problem.domain).mean():.2%}")
            spent.append(f"{seconds:.2f} s")
    size = "x".join(map(str, cases[0].cases.shape[2:]))
    for name, cells in (
        ("ours, a sample", single),
        (f"ours, mean of {args.members}", mean),
        ("time per sample", spent),
    ):
        print(f"{f'{name} at {size}':<30}{args.evaluations:>6}" + "".join(f"{cell:>11}" for cell in cells))
    machine = f"{args.device}, {torch.get_num_threads()} threads, {platform.machine()}"
    print(
        f"{args.cases} cases, {args.share:.0%} seen with errors of {args.noise:.0%}, {args.iterations} backward passes a step; "
        f"torch {torch.__version__} on {machine}"
    )
    for problem in cases:
        count = sum(p.numel() for p in problem.model.parameters()) / 1e6
        grids = ", ".join(str(s[0]) for s in problem.model.training_shapes)
        print(f"{problem.name}: {count:.1f}M parameters, trained on {grids}")
    if (args.darcy, args.navier_stokes) == SHIPPED:
        print("Trained for 12 minutes (Darcy) and 11 (Navier-Stokes) on one CPU core (examples/models/TRAINED.md)")
    print("Ours: Darcy with FNO's law; Navier-Stokes at nu = 1e-4, T = 1; the published at nu = 1e-3: another problem")
    print(PUBLISHED)


if __name__ == "__main__":
    main()
