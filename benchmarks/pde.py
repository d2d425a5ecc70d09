"""Whole fields from 3% of them: Darcy and Navier-Stokes, forward (output from input) and inverse (input from output).

The layout is that of FunDPS' table: the mean relative L2 error over test cases, except that of Darcy's inverse, where the
unknown has two values: the share of cells with the wrong one. Of each way there are the errors of single samples, as in the
published rows, those of the mean of an ensemble, which is the better estimate, and how far the samples' spectrum is off. Ways:

    joint         a model of pairs (input, output), by MomentMatching
    surrogate     a model of the input alone, seen through a network that was trained to be the equation, by annealed
    solver        the same, seen through the equation's solver
    law           the same, of the law that the inputs are drawn from in place of a model: what better training can reach

    python -m benchmarks.pde                 # the shipped models of pairs, on the largest grid that they were trained on
    python -m benchmarks.pde --ways joint surrogate solver law --size 64 --darcy-prior a --flow-prior w
    python -m benchmarks.pde --size 128 --cases 20 --viscosity 1e-3 ...          # the published setting

Models are made by `examples/darcy_flow.py` and `examples/navier_stokes.py`, pairs and surrogates, and priors by

    python datasets/darcy.py a.h5 --target coefficient --count 8192 --scale 3 --no-constant-mode --resolutions 32 64 128
    fnodiff train a.h5 --minutes 120 --out a
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fnodiff import DDIM, EDM, FunctionSpaceSDE, GaussianRandomField, Matern, Model, metrics, sample
from fnodiff.domain import Box, Domain, Torus
from fnodiff.equations import Darcy, NavierStokes, darcy, navier_stokes
from fnodiff.inverse import MomentMatching, Nonlinear, PointObservation, annealed, posterior
from fnodiff.sde import Denoiser, EvenLogSNR, GaussianDenoiser, Normalization

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


Map = Callable[[Tensor], Tensor]


@dataclass
class Prior:
    """What is known of a problem's input alone."""

    denoiser: Denoiser
    forward: Map  # input -> output, (B, 1, n, n)
    input: Map | None = None  # prior's field -> input; None if it is that


@dataclass
class Problem:
    """Test cases (cases, 2, n, n), pairs of input and output, a model of such pairs, and priors of the input by name."""

    name: str
    model: Denoiser
    cases: Tensor
    given: int  # the input's channel
    wrong: Callable[[Tensor, Tensor, Domain], Tensor]  # the inverse's error
    priors: dict[str, Prior] = field(default_factory=dict)

    @property
    def domain(self) -> Domain:
        return self.model.sde.domain


def wrong_cells(x: Tensor, y: Tensor, domain: Domain) -> Tensor:
    """Share of the cells where a is on the wrong side of the middle of 3 and 12, (B,)."""
    return ((x > 7.5) != (y > 7.5)).to(x).flatten(1).mean(1)


def law(domain: Domain, tau: float, alpha: float, std: float | None = None) -> GaussianDenoiser:
    """The exact denoiser of N(0, std^2 (-Delta + tau^2)^-alpha) without a constant mode; std None for unit variance."""
    data = GaussianRandomField(domain, lambda e, dim: torch.where(e > 0, (e + tau**2) ** -alpha, 0.0))
    units = Normalization() if std is None else Normalization(0.0, std * data.trace**0.5)
    noise = GaussianRandomField(domain, Matern(0.5, 0.2))
    return GaussianDenoiser(data, FunctionSpaceSDE(noise, EDM()), normalization=units)


def priors(exact: Prior, solver: Map, model: Path | None, surrogate: Path | None, device: str) -> dict[str, Prior]:
    """By the way's name."""
    found = {"law": exact}
    if model:
        denoiser = Model.from_pretrained(model).to(device).eval()
        found["solver"] = Prior(denoiser, solver)
        if surrogate:
            net, one = Model.from_pretrained(surrogate).to(device).eval(), torch.ones((), device=device)
            found["surrogate"] = Prior(denoiser, lambda x: net.normalization.inverse(net(0 * x, one, field=x)))
    return found


def pressure(a: Tensor) -> Tensor:
    """Darcy's u of samples of a, which may leave the two values, and have to stay positive."""
    return darcy.solve(a.clamp(1.5, 24.0))


def two_valued(g: Tensor) -> Tensor:
    """Darcy's a of g, of unit variance, with jumps that are blurred: a sharp one has no derivative to follow."""
    return 3 + 9 * torch.sigmoid(g / 0.3)


def problems(args: argparse.Namespace) -> list[Problem]:
    """The models, and cases that they were not trained on, of solves that are twice as fine."""
    models = [Model.from_pretrained(folder).to(args.device).eval() for folder in (args.darcy, args.navier_stokes)]
    sizes = [(args.size,) * 2 if args.size else max(model.training_shapes) for model in models]
    everything, fine = range(args.cases), [max(192, *(2 * n for n in sizes[0])), max(80, *(2 * n for n in sizes[1]))]
    pairs = Darcy(args.cases, seed=1, scale=3.0, constant_mode=False, fine=fine[0]).batch(everything, sizes[0])["x"]
    settings = {"time": 1.0, "viscosity": args.viscosity}
    flows = NavierStokes(args.cases, seed=1, scale=25.0, fine=fine[1], dt=1.6 / fine[1], **settings)
    flows = flows.batch(everything, sizes[1])
    flows = torch.cat([flows["x"], flows["field"]], 1)  # (w(T), w(0)), as the example has them

    def flow(w: Tensor) -> Tensor:
        forcing = navier_stokes.benchmark_forcing
        return navier_stokes.solve(w, **settings, dt=1.6 / max(48, *w.shape[2:]), forcing=forcing)

    of_darcy = Prior(law(Box(2), 3.0, 2.0), pressure, two_valued)
    of_flow = Prior(law(Torus(2), 7.0, 2.5, 25.0 * 7**0.75), flow)
    given = priors(of_darcy, pressure, args.darcy_prior, args.darcy_surrogate, args.device)
    initial = priors(of_flow, flow, args.flow_prior, args.flow_surrogate, args.device)
    return [
        Problem("Darcy", models[0], pairs.to(args.device), 0, wrong_cells, given),
        Problem("Navier-Stokes", models[1], flows.to(args.device), 1, metrics.relative_l2, initial),
    ]


def solve(problem: Problem, seen: int, args: argparse.Namespace, way: str = "joint") -> tuple[Tensor, float]:
    """Samples (members, cases, 2, n, n) of every case, channel `seen` known at points; and the seconds per sample."""
    domain, shape = problem.domain, tuple(problem.cases.shape[2:])
    generator = torch.Generator().manual_seed(args.seed)
    points = torch.rand(2, round(args.share * shape[0] * shape[1]), generator=generator).to(args.device)
    exact = domain.evaluate(problem.cases[:, seen : seen + 1], points)
    noise_std = args.noise * float(problem.cases[:, seen].std())
    values = exact + noise_std * torch.randn(exact.shape, generator=generator).to(exact)
    start, ensembles = time.perf_counter(), []
    for value in values:
        if way == "joint":
            observation = PointObservation(points, value, noise_std, channels=seen)
            guided = MomentMatching(problem.model, observation, iterations=args.iterations)
            solver = DDIM(args.evaluations, eta=1.0)
            x = sample(guided, shape, range(args.members), solver=solver, device=args.device)
        else:
            x = decoupled(problem, problem.priors[way], seen, points, value, noise_std, args)
        ensembles.append(x.to(args.device))
    seconds = (time.perf_counter() - start) / (args.members * len(values))
    return torch.stack(ensembles, 1), seconds


def decoupled(
    problem: Problem, prior: Prior, seen: int, points: Tensor, value: Tensor, noise_std: float, args: argparse.Namespace
) -> Tensor:
    """Pairs (members, 2, n, n): inputs given the values, and what the equation makes of them."""
    domain, shape, change = problem.domain, tuple(problem.cases.shape[2:]), prior.input or (lambda x: x)
    if seen != problem.given:
        observation = Nonlinear(lambda x: domain.evaluate(prior.forward(change(x)), points), value, noise_std)
    elif prior.input:
        observation = Nonlinear(lambda x: domain.evaluate(change(x), points), value, noise_std)
    else:
        observation = PointObservation(points, value, noise_std)
    settings = {"steps": args.evaluations, "inner": args.inner, "directions": args.directions, "spacing": EvenLogSNR()}
    x = posterior(
        prior.denoiser, observation, shape, range(args.members), method=annealed, device=args.device, **settings
    )
    given = change(x.to(args.device))
    with torch.no_grad():
        pair = [given, prior.forward(given)]
    return torch.cat(pair if problem.given == 0 else pair[::-1], 1)


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--darcy", type=Path, default=SHIPPED[0], help="model of pairs (a, u)")
    add("--navier-stokes", type=Path, default=SHIPPED[1], help="model of pairs (w(T), w(0))")
    add("--darcy-prior", type=Path, help="model of a alone, for the ways surrogate and solver")
    add(
        "--darcy-surrogate",
        type=Path,
        default=MODELS / "darcy_flow" / "surrogate",
        help="model of u with a as the field",
    )
    add("--flow-prior", type=Path, help="model of w(0) alone")
    add("--flow-surrogate", type=Path, help="model of w(T) with w(0) as the field, asked at pure noise")
    add("--ways", nargs="+", choices=["joint", "surrogate", "solver", "law"], default=["joint"])
    add("--viscosity", type=float, default=1e-4, help="of Navier-Stokes; 1e-3 is the published")
    add("--size", type=int, help="grid; by default 128 with a GPU, else the largest that the model was trained on")
    add("--share", type=float, default=500 / 128**2, help="of the cells that is seen: by default 500 of 128x128")
    add("--noise", type=float, default=0.01, help="errors of the values, relative to the field's standard deviation")
    add("--cases", type=int, default=10)
    add("--members", type=int, default=8, help="samples per case")
    add("--evaluations", type=int, default=16, help="steps of the solver")
    add("--iterations", type=int, default=8, help="backward passes of the network per step, of the joint way")
    add("--inner", type=int, default=8, help="evaluations of the equation per step, of the others")
    add("--directions", type=int, default=16, help="derivatives of the equation per step, of the others")
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
    cases = problems(args)
    size = "x".join(map(str, cases[0].cases.shape[2:]))
    for way in args.ways:
        single, mean, spectrum, spent = [], [], [], []
        for problem in cases:
            for seen in (problem.given, 1 - problem.given):  # forward, inverse
                if way != "joint" and way not in problem.priors:
                    for row in (single, mean, spectrum, spent):
                        row.append("-")
                    continue
                ensemble, seconds = solve(problem, seen, args) if way == "joint" else solve(problem, seen, args, way)
                error = metrics.relative_l2 if seen == problem.given else problem.wrong
                truth, guess = problem.cases[:, 1 - seen, None], ensemble[:, :, 1 - seen, None]
                every = torch.stack([error(x, truth, problem.domain) for x in guess])
                single.append(f"{every.mean():.2%}")
                mean.append(f"{error(guess.mean(0), truth, problem.domain).mean():.2%}")
                spectrum.append(f"{metrics.spectrum_error(guess.flatten(0, 1), truth, problem.domain):.2f}")
                spent.append(f"{seconds:.2f} s")
        for name, cells in (
            (f"ours, a sample at {size}", single),
            (f"ours, mean of {args.members} at {size}", mean),
            ("error of the log-spectrum", spectrum),
            (f"time per sample at {size}", spent),
        ):
            label = name if way == "joint" else f"{way}, {name.removeprefix('ours, ')}"
            print(f"{label:<30}{args.evaluations:>6}" + "".join(f"{cell:>11}" for cell in cells), flush=True)
    machine = f"{args.device}, {torch.get_num_threads()} threads, {platform.machine()}"
    print(
        f"{args.cases} cases, {args.share:.2%} seen with errors of {args.noise:.0%}, {args.iterations} backward passes a step; "
        f"torch {torch.__version__} on {machine}"
    )
    for problem in cases:
        count = sum(p.numel() for p in problem.model.parameters()) / 1e6
        grids = ", ".join(str(s[0]) for s in problem.model.training_shapes)
        print(f"{problem.name}: {count:.1f}M parameters, trained on {grids}")
    if (args.darcy, args.navier_stokes) == SHIPPED:
        print("Trained for 12 minutes (Darcy) and 11 (Navier-Stokes) on one CPU core (examples/models/TRAINED.md)")
    flow = f"nu = {args.viscosity:g}, T = 1"
    print(
        f"Ours: Darcy with FNO's law; Navier-Stokes at {flow}, vorticities 5.8 times those of FNO's law; published at nu = 1e-3"
    )
    print(PUBLISHED)


if __name__ == "__main__":
    main()
