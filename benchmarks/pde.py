"""Whole fields from 3% of them: Darcy and Navier-Stokes, forward (output from input) and inverse (input from output).

The layout is that of FunDPS' table: the mean relative L2 error over test cases, except that of Darcy's inverse, where the
unknown has two values: the share of cells with the wrong one. Of each way there are the errors of single samples, as in the
published rows, those of the mean of an ensemble, which is the better estimate, and how far the samples' spectrum is off. Ways:

    joint         a model of pairs (input, output), by MomentMatching
    DPS           the same model, by diffusion posterior sampling
    surrogate     a model of the input alone by MomentMatching with its spectrum, seen through a network trained as the equation
    solver        the same, seen through the equation's solver
    law           the same with the law that the inputs are drawn from in place of a model: no training, and where the law is
                  Gaussian and the observation nearly linear the posterior itself, which no model can beat
    direct        a network from the values to the unknown, trained here for --minutes; an estimate of the mean, and no sample

    python -m benchmarks.pde                 # the shipped models of pairs, on the largest grid that they were trained on
    python -m benchmarks.pde --ways joint DPS surrogate solver law direct --size 64 --flow-prior w
    python -m benchmarks.pde --ways solver --size 128 --cases 20 --viscosity 1e-3 --vorticity 4.3     # the published setting
    python -m benchmarks.pde --problems Layered --ways law direct                # Darcy's equation in layers

Test cases are fixed by their seeds; with --folder they are solved once, and kept in files. Models are made by
`examples/darcy_flow.py` and `examples/navier_stokes.py`; the prior of Darcy's a that comes with the repository by

    python datasets/darcy.py a.h5 --target coefficient --count 8192 --scale 3 --no-constant-mode --resolutions 16 32 64
    fnodiff train a.h5 --shapes 16 32 64 --weights 1 1 1 --batch 16 --lr 2e-3 --decay 1 --minutes 48 --out prior
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.surrogate import Regression, fitted
from fnodiff import DDIM, EDM, DPMSolver, FunctionSpaceSDE, GaussianRandomField, Matern, Model, metrics, sample
from fnodiff.data import Fields, HDF5Fields, write_fields
from fnodiff.domain import Box, Domain, Shape, Torus
from fnodiff.equations import Darcy, NavierStokes, Solved, darcy, navier_stokes
from fnodiff.inverse import DPS, MomentMatching, Nonlinear, PointObservation, posterior
from fnodiff.sde import Denoiser, GaussianDenoiser, Normalization

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


WAYS = ("joint", "DPS", "surrogate", "solver", "law", "direct")
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
    model: Denoiser | None
    cases: Tensor
    given: int  # the input's channel
    wrong: Callable[[Tensor, Tensor, Domain], Tensor]  # the inverse's error
    priors: dict[str, Prior] = field(default_factory=dict)
    others: Callable[[int], Tensor] | None = None  # so many more pairs, to train on

    @property
    def domain(self) -> Domain:
        return Box(2) if self.model is None else self.model.sde.domain

    def has(self, way: str) -> bool:
        """Whether there is what this way takes."""
        return {"direct": self.others, "joint": self.model, "DPS": self.model}.get(
            way, self.priors.get(way)
        ) is not None


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
    """Darcy's u of samples of a, which may leave the two values."""
    return darcy.solve(darcy.positive(a, 3.0))


def two_valued(g: Tensor) -> Tensor:
    """Darcy's a of g, of unit variance, with jumps that are blurred: a sharp one has no derivative to follow."""
    return 3 + 9 * torch.sigmoid(g / 0.3)


def problems(args: argparse.Namespace) -> list[Problem]:
    """The models, and cases that they were not trained on, of solves that are twice as fine."""
    folders = {"Darcy": args.darcy, "Layered": None, "Navier-Stokes": args.navier_stokes}
    models = {n: Model.from_pretrained(f).to(args.device).eval() if f else None for n, f in folders.items()}
    sizes = {
        n: (args.size,) * 2 if args.size else max(m.training_shapes if m else [(48, 48)]) for n, m in models.items()
    }
    settings = {"time": 1.0, "viscosity": args.viscosity}
    torus = Torus(2)
    slow = min(25.0 / args.vorticity, 8.0)  # what moves less takes longer steps

    def pressures(kind: darcy.Kind, count: int, seed: int, size: Shape) -> Solved:
        law = {"kind": kind, "scale": 3.0, "constant_mode": False}
        return Darcy(count, seed, fine=max(192 if seed else 0, *(2 * n for n in size)), **law)

    def flows(count: int, seed: int, size: Shape) -> Solved:
        fine = max(80, *(2 * n for n in size))
        return NavierStokes(count, seed, scale=args.vorticity, fine=fine, dt=1.6 * slow / fine, **settings)

    def flow(w: Tensor) -> Tensor:
        # Modes finer than 64 points hold have all but died at time 1.
        forcing, size = navier_stokes.benchmark_forcing, min(64, max(w.shape[2:]))
        found = navier_stokes.solve(
            torus.resample(w, (size,) * 2), **settings, dt=1.6 * slow / max(48, size), forcing=forcing
        )
        return torus.resample(found, tuple(w.shape[2:]))

    of_darcy = Prior(law(Box(2), 3.0, 2.0), pressure, two_valued)
    of_layers = Prior(law(Box(2, (1.0, 1 / 3)), 3.0, 2.0), pressure, two_valued)
    of_flow = Prior(law(torus, 7.0, 2.5, args.vorticity * 7**0.75), flow)
    found = {
        "Darcy": (
            partial(pressures, "two-valued"),
            (0, wrong_cells, priors(of_darcy, pressure, args.darcy_prior, args.darcy_surrogate, args.device)),
        ),
        "Layered": (
            partial(pressures, "layered"),
            (0, wrong_cells, priors(of_layers, pressure, args.layered_prior, None, args.device)),
        ),
        "Navier-Stokes": (
            flows,
            (1, metrics.relative_l2, priors(of_flow, flow, args.flow_prior, args.flow_surrogate, args.device)),
        ),
    }
    out = []
    for name in args.problems:
        make, rest = found[name]
        cases = kept(make(args.cases, 1, sizes[name]), sizes[name], args.folder, name)
        others = lambda count, make=make, size=sizes[name]: pairs_of(make(count, 0, size), size)  # noqa: E731
        out.append(Problem(name, models[name], cases.to(args.device), *rest, others))
    return out


def pairs_of(fields: Fields, size: Shape) -> Tensor:
    """(count, 2, n, n): of flows (w(T), w(0)), as the example has them."""
    batch = fields.batch(range(len(fields)), size)
    return torch.cat([batch["x"], batch["field"]], 1) if "field" in batch else batch["x"]


def kept(fields: Solved, size: Shape, folder: Path | None, name: str) -> Tensor:
    """The pairs, from the file in the folder, if there is one; it is made if it is not there, and checked if it is."""
    if folder is None:
        return pairs_of(fields, size)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.lower()}-{size[0]}.h5"
    grid = "cell averages" if fields.cell_averages else "points"
    about = {"source": "fnodiff.equations", "licence": "generated", "grid": grid, "seed": fields.seed}
    about |= {"fine": fields.fine, "viscosity": getattr(fields, "viscosity", 0.0)}
    write_fields(path, fields, [size], attributes=about, dtype="float32", chunk=1, progress=False)
    return pairs_of(HDF5Fields(path), size)


def solve(problem: Problem, seen: int, args: argparse.Namespace, way: str = "joint") -> tuple[Tensor, float]:
    """Samples (members, cases, 2, n, n) of every case, channel `seen` known at points; and the seconds per sample."""
    domain, shape = problem.domain, tuple(problem.cases.shape[2:])
    generator = torch.Generator().manual_seed(args.seed)
    points = torch.rand(2, round(args.share * shape[0] * shape[1]), generator=generator).to(args.device)
    exact = domain.evaluate(problem.cases[:, seen : seen + 1], points)
    noise_std = args.noise * float(problem.cases[:, seen].std())
    values = exact + noise_std * torch.randn(exact.shape, generator=generator).to(exact)
    estimate = direct(problem, seen, points.shape[1], noise_std, args) if way == "direct" else None
    start, ensembles = time.perf_counter(), []
    for value in values:
        if estimate is not None:
            found = estimate(raster(domain, points, value[None], shape))
            x = torch.zeros(1, 2, *shape).to(found).index_copy(1, torch.tensor([1 - seen], device=found.device), found)
        elif way in ("joint", "DPS"):
            observation = PointObservation(points, value, noise_std, channels=seen)
            if way == "DPS":
                guided = DPS(problem.model, observation)
            else:
                guided = MomentMatching(problem.model, observation, iterations=args.iterations)
            solver = DDIM(args.evaluations, eta=1.0)
            x = sample(guided, shape, range(args.members), solver=solver, device=args.device)
        else:
            x = decoupled(problem, way, seen, points, value, noise_std, args)
        ensembles.append(x.to(args.device))
    seconds = (time.perf_counter() - start) / (len(ensembles[0]) * len(values))
    return torch.stack(ensembles, 1), seconds


def raster(domain: Domain, points: Tensor, values: Tensor, shape: Shape) -> Tensor:
    """Values (B, 1, m) at points (2, m), on the nearest points of a grid, and where there are some: (B, 2, *shape)."""
    out, places = torch.zeros(len(values), 2, *shape).to(values), []
    for place, n, edge in zip(points, shape, domain.edges, strict=True):
        walls = edge == "wall"
        nearest = (place * n - 0.5 * walls).round().long()
        places.append(nearest.clamp(0, n - 1) if walls else nearest % n)
    out[:, 0, places[0], places[1]] = values[:, 0]
    out[:, 1, places[0], places[1]] = 1.0
    return out


def direct(problem: Problem, seen: int, count: int, noise_std: float, args: argparse.Namespace) -> Map:
    """A network from the raster of values, at as many points anywhere, to the other channel: trained by its squared error."""
    domain, x = problem.domain, problem.others(args.pairs).to(args.device)
    shape, generator = tuple(x.shape[2:]), torch.Generator().manual_seed(args.seed)
    mean, std = x.mean((0, 2, 3), keepdim=True)[0], x.std((0, 2, 3), keepdim=True)[0]
    torch.manual_seed(args.seed)
    net = Regression({"domain": domain, "condition_channels": 2, "local": "conv", "reference": shape}).to(args.device)

    def units(shown: Tensor) -> Tensor:
        return torch.cat([(shown[:, :1] - mean[seen] * shown[:, 1:]) / std[seen], shown[:, 1:]], 1)

    def loss() -> Tensor:
        pairs = x[torch.randint(len(x), (8,), generator=generator).to(x.device)]
        points = torch.rand(2, count, generator=generator).to(x)
        values = domain.evaluate(pairs[:, seen : seen + 1], points)
        values = values + noise_std * torch.randn(values.shape, generator=generator).to(values)
        wanted = (pairs[:, 1 - seen, None] - mean[1 - seen]) / std[1 - seen]
        return (net(units(raster(domain, points, values, shape))) - wanted).square().mean()

    fitted(net, loss, 60 * args.minutes, lr=3e-3)

    @torch.no_grad()
    def estimate(shown: Tensor) -> Tensor:
        return net(units(shown)) * std[1 - seen] + mean[1 - seen]

    return estimate


def decoupled(
    problem: Problem, way: str, seen: int, points: Tensor, value: Tensor, noise_std: float, args: argparse.Namespace
) -> Tensor:
    """Pairs (members, 2, n, n): inputs given the values, and what the equation makes of them."""
    prior = problem.priors[way]
    domain, shape, change = problem.domain, tuple(problem.cases.shape[2:]), prior.input or (lambda x: x)
    if seen != problem.given:
        observation = Nonlinear(lambda x: domain.evaluate(prior.forward(change(x)), points), value, noise_std)
    elif prior.input:
        observation = Nonlinear(lambda x: domain.evaluate(change(x), points), value, noise_std)
    else:
        observation = PointObservation(points, value, noise_std)
    if prior.denoiser.spectrum is None:
        raise ValueError(f"{problem.name}: expected a prior that knows its data's spectrum; make it by Model.for_data.")
    method = partial(MomentMatching, spectrum=prior.denoiser.spectrum)
    settings = {"method": method, "solver": DPMSolver(args.evaluations, eta=1.0)}
    x = posterior(prior.denoiser, observation, shape, range(args.members), device=args.device, **settings)
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
    prior = MODELS / "darcy_flow" / "prior"
    add("--darcy-prior", type=Path, default=prior, help="model of a alone, for the ways surrogate and solver")
    add(
        "--darcy-surrogate",
        type=Path,
        default=MODELS / "darcy_flow" / "surrogate",
        help="model of u with a as the field",
    )
    add("--flow-prior", type=Path, help="model of w(0) alone")
    add("--flow-surrogate", type=Path, help="model of w(T) with w(0) as the field, asked at pure noise")
    add("--layered-prior", type=Path, help="model of layered a alone")
    add("--problems", nargs="+", choices=["Darcy", "Layered", "Navier-Stokes"], default=["Darcy", "Navier-Stokes"])
    add("--ways", nargs="+", choices=WAYS, default=["joint"])
    add("--directions", nargs="+", choices=["forward", "inverse"], default=["forward", "inverse"])
    add("--minutes", type=float, default=10.0, help="processor time of the direct networks' training")
    add("--pairs", type=int, default=512, help="to train the direct networks on")
    add("--folder", type=Path, help="of files with the test cases, which are made if they are not there")
    add("--viscosity", type=float, default=1e-4, help="of Navier-Stokes; 1e-3 is the published")
    add("--vorticity", type=float, default=25.0, help="of Navier-Stokes, scale of w(0); 4.3 is the published")
    add("--size", type=int, help="grid; by default 128 with a GPU, else the largest that the model was trained on")
    add("--share", type=float, default=500 / 128**2, help="of the cells that is seen: by default 500 of 128x128")
    add("--noise", type=float, default=0.01, help="errors of the values, relative to the field's standard deviation")
    add("--cases", type=int, default=10)
    add("--members", type=int, default=8, help="samples per case")
    add("--evaluations", type=int, default=16, help="steps of the solver")
    add("--iterations", type=int, default=8, help="backward passes of the network per step, of the joint way")
    add("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    add("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.size is None and args.device == "cuda":
        args.size = 128
    return args


def main() -> None:
    """Print the table."""
    args = options()
    cases = problems(args)
    columns = "".join(f"{name:>11}" for name in ("forward", "inverse") * len(cases))
    print(f"{'':<36}{'steps':>6}" + "".join(f"{problem.name:>22}" for problem in cases) + f"\n{'':<42}{columns}")
    size = "x".join(map(str, cases[0].cases.shape[2:]))
    for way in args.ways:
        single, mean, spectrum, spent = [], [], [], []
        for problem in cases:
            for seen in (problem.given, 1 - problem.given):  # forward, inverse
                if not problem.has(way) or ("forward" if seen == problem.given else "inverse") not in args.directions:
                    for row in (single, mean, spectrum, spent):
                        row.append("-")
                    continue
                ensemble, seconds = solve(problem, seen, args, way)
                error = metrics.relative_l2 if seen == problem.given else problem.wrong
                truth, guess = problem.cases[:, 1 - seen, None], ensemble[:, :, 1 - seen, None]
                every = torch.stack([error(x, truth, problem.domain) for x in guess])
                single.append("-" if way == "direct" else f"{every.mean():.2%}")
                mean.append(f"{error(guess.mean(0), truth, problem.domain).mean():.2%}")
                spectrum.append(f"{metrics.spectrum_error(guess.flatten(0, 1), truth, problem.domain):.2f}")
                spent.append(f"{seconds:.2f} s")
        for name, cells in (
            (f"a sample at {size}", single),
            (f"mean of {1 if way == 'direct' else args.members} at {size}", mean),
            ("error of the log-spectrum", spectrum),
            (f"time per sample at {size}", spent),
        ):
            steps = 1 if way == "direct" else args.evaluations
            print(f"{f'{way}, {name}':<36}{steps:>6}" + "".join(f"{cell:>11}" for cell in cells), flush=True)
    machine = f"{args.device}, {torch.get_num_threads()} threads, {platform.machine()}"
    print(
        f"{args.cases} cases, {args.share:.2%} seen with errors of {args.noise:.3g} of their spread, "
        f"{args.iterations} backward passes a step; "
        f"torch {torch.__version__} on {machine}"
    )
    for problem in cases:
        if problem.model is not None:
            count = sum(p.numel() for p in problem.model.parameters()) / 1e6
            grids = ", ".join(str(s[0]) for s in problem.model.training_shapes)
            print(f"{problem.name}, joint: {count:.1f}M parameters, trained on {grids}")
    if (args.darcy, args.navier_stokes) == SHIPPED:
        print("Joint models: how they were trained is in examples/models/TRAINED.md")
    if "direct" in args.ways:
        print(f"direct: {args.minutes:g} minutes on {args.pairs} pairs for each column")
    flow = f"nu = {args.viscosity:g}, T = 1, vorticities {args.vorticity / 7**0.75:.2g} times those of FNO's code"
    print(f"Ours: Darcy with FNO's law; Navier-Stokes at {flow}; published at nu = 1e-3 and 1 times")
    print(PUBLISHED)


if __name__ == "__main__":
    main()
