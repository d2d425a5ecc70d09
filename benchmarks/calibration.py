"""Whether posteriors of trained models are calibrated, and if not, what is to blame: the model, the guidance or the solver.

Each truth is seen at a few random places of its own, with errors, and an ensemble is drawn given that. Rows are ways to draw:

    default         `posterior` as it comes: MomentMatching by the denoiser's derivative, DPMSolver(12)
    more steps      the same in four times as many steps
    fresh noise     the same with eta = 1
    fresh, more     the same with eta = 1 in four times as many steps
    short           six backward passes a step, DDIM with eta = 1: what the examples do
    spectrum        MomentMatching by one spectrum for each channel: the network is never differentiated
    annealed        decoupled annealing, in twice as many levels
    exact           draws of the Gaussian law's own posterior: what the scores say if all is right

and of each way there are truths of three sources, which tell the causes apart:

    data            true fields, which the model was not trained on: model, guidance and solver may all be wrong
    model           fields that the model made, in the same way with sensors that say nothing: the prior is exact
    gaussian        draws of a Gaussian law with the mean and the covariance of true fields, and its exact denoiser: Gaussian
                    guidance is exact too, and what is left is the solver's (annealed and spectrum also neglect what ties
                    channels and places)

Printed for each channel: how much of the area has the truth in the central 50%, 80% and 95% of the members, with the interval
of 95% by drawing truths anew; nominal is what `metrics.coverage` says for so many members, exactly these for 39. Then CRPS in
the channel's standard deviations, spread / error (1 if calibrated), the reliability index of the area-weighted ranks, what 95%
of calibrated ensembles stay below by chance, and processor seconds for each member. "widened" rows have the same members moved
away from their mean, by a factor found on the other half of the truths. "either value" rows are of fields of two values, each
cell set to the nearer of them; "uncertain" are the cells where truth and members do not all agree. Lines that begin with
"cause" have the distance from nominal in percentage points, in parts: model = data - model, guidance = model - gaussian,
solver = gaussian.

    python -m benchmarks.calibration --out calibration             # hours: goes on where it was stopped, and several may run
    python -m benchmarks.calibration --out small --problems Darcy vorticity --size 16 --truths 20 --rows default annealed
    python -m benchmarks.calibration --out calibration --problems permeability --size 16 --rows "fresh noise"
    python -m benchmarks.calibration --out calibration --problems winds --model winds=FOLDER --data winds=winds-test.h5

Terrain's held-out strip holds three windows that lie apart, so its intervals are too narrow. The data of Darcy, vorticity and
water are solved here; those of other models are read from a file by --data. "permeability" is Darcy's a by a model of it alone:
its sensors see u through the solver, and rows take MomentMatching's spectrum. Members are kept in --out, truth by truth, and
more truths may be added; other options want another --out. Runs of one --out may share the work by --rows or --problems.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.calibration_problems import (
    CHANNELS,
    SHIPPED,
    SOURCES,
    TWO_VALUED,
    Permeability,
    Problem,
    once,
    seeded,
    true_fields,
)
from benchmarks.calibration_scores import LEVELS, Scores, covered, draw, index, interval, sides, widened
from fnodiff import Box, Model
from fnodiff.inverse import MomentMatching, Observation, annealed, posterior
from fnodiff.sde import DDIM, Denoiser, DPMSolver
from fnodiff.train import keep_freed_memory

Draw = Callable[[Denoiser, Observation, Sequence[int]], Tensor]


def ways(args: argparse.Namespace, problem: Problem) -> dict[str, Draw]:
    """By the row's name, what draws members for seeds, in data units."""
    steps, shape, full = args.steps, problem.shape, partial(MomentMatching, iterations=args.iterations)

    def guided(method: Callable, solver: DPMSolver | DDIM) -> Draw:
        def members(d: Denoiser, seen: Observation, seeds: Sequence[int]) -> Tensor:
            suited = method if seen.linear else partial(method, spectrum=problem.spectrum)  # as `posterior` itself does
            return posterior(d, seen, shape, seeds, method=suited, solver=solver, batch=args.batch)

        return members

    def decoupled(d: Denoiser, seen: Observation, seeds: Sequence[int]) -> Tensor:
        return annealed(d, seen, shape, seeds, steps=2 * steps, spectrum=problem.spectrum, batch=args.batch)

    def spectral(d: Denoiser, seen: Observation, seeds: Sequence[int]) -> Tensor:
        return guided(partial(full, spectrum=problem.spectrum), DPMSolver(steps))(d, seen, seeds)

    return {
        "default": guided(full, DPMSolver(steps)),
        "more steps": guided(full, DPMSolver(4 * steps)),
        "fresh noise": guided(full, DPMSolver(steps, eta=1.0)),
        "fresh, more": guided(full, DPMSolver(4 * steps, eta=1.0)),
        "short": guided(partial(MomentMatching, iterations=min(6, args.iterations)), DDIM(steps, eta=1.0)),
        "spectrum": spectral,
        "annealed": decoupled,
        "exact": lambda d, seen, seeds: problem.exact(seen, seeds),
    }


ROWS = ("default", "more steps", "fresh noise", "fresh, more", "short", "spectrum", "annealed", "exact")


@dataclass
class Ensembles:
    """Truths (T, C, *shape), members (T, S, C, *shape), and processor seconds for each member."""

    truths: Tensor
    members: Tensor
    seconds: float


def folder_of(problem: Problem, row: str, source: str, args: argparse.Namespace) -> Path:
    """Where the members of a row are, with the options that they were drawn by; SystemExit if these are others."""
    folder = args.out / problem.name / f"{row} {source}".replace(", ", "-").replace(" ", "-")
    names, file = ("members", "sensors", "noise", "steps", "iterations", "seed", "fields"), args.data.get(problem.name)
    weights = sum(float(p.detach().double().abs().sum()) for p in problem.model.parameters())
    meaning = {name: getattr(args, name) for name in names} | {"shape": list(problem.shape)}
    meaning |= {"weights": f"{weights:.6e}", "data": file.name if file else "solved"}
    if not (folder / "options.json").exists():
        once(folder / "options.json", lambda part: part.write_text(json.dumps(meaning)))
    if json.loads((folder / "options.json").read_text()) != meaning:
        raise SystemExit(f"{folder}: expected {meaning}, found members of other options; name another --out.")
    return folder


def drawn(problem: Problem, way: Draw, source: str, number: int, args: argparse.Namespace) -> dict[str, Tensor]:
    """A truth, its members, and the processor seconds for each."""
    begin, first = time.process_time(), 2**20 * args.seed + 1024 * (number + 1)
    denoiser, generator = problem.oracle if source == "gaussian" else problem.model, seeded(first)
    if source == "gaussian":
        truth = problem.drawn(generator)
    elif source == "model":
        truth = way(denoiser, problem.observed(None, args.sensors, args.noise, seeded(first)), [first])[0]
    else:
        truth = problem.fields([number])[0]
    seen = problem.observed(truth, args.sensors, args.noise, generator)
    members = way(denoiser, seen, [first + 1 + j for j in range(args.members)])
    seconds = torch.tensor((time.process_time() - begin) / args.members)
    return {"truth": truth.float().contiguous(), "members": members.float().contiguous(), "seconds": seconds}


def ensembles(problem: Problem, row: str, source: str, args: argparse.Namespace) -> Ensembles:
    """What is in --out, and what is not there yet."""
    way, folder, found = ways(args, problem)[row], folder_of(problem, row, source, args), []
    for number in range(args.truths):
        file = folder / f"{number:04}.safetensors"
        if not file.exists():
            content = drawn(problem, way, source, number, args)
            once(file, partial(save_file, content))
        found.append(load_file(file))
    truths, members, seconds = (torch.stack([one[key] for one in found]) for key in ("truth", "members", "seconds"))
    return Ensembles(truths, members, float(seconds.mean()))


def line(name: str, scores: Scores, unit: float, seconds: float | None) -> str:
    """A row of the table."""
    low, high = interval(scores.means())
    cells = "".join(
        f"{'-':>16}" if math.isnan(n) else f"{100 * c:>6.1f} [{100 * a:.0f}, {100 * b:.0f}]".rjust(16)
        for n, c, a, b in zip(scores.nominal, scores.covered.mean(0), low, high, strict=True)
    )
    chance = float(index(scores.calibrated()).quantile(0.95))
    rest = f"{float(scores.crps.mean()) / unit:>8.3f}{scores.ratio:>8.2f}"
    ranks = f"{float(index(scores.histogram)):>8.2f}{chance:>8.2f}"
    return f"{name:<44}{cells}{rest}{ranks}{'' if seconds is None else f'{seconds:>8.2f}'}"


def nominals(members: int) -> list[str]:
    """What a calibrated ensemble covers at each level."""
    x, generator = torch.zeros(members + 1, 1, 1, 2), seeded(0)
    found = [covered(x[1:], x[0], Box(1), level, generator)[0] for level in LEVELS]
    return ["" if math.isnan(nominal) else f"{nominal:.1%}" for nominal in found]


def causes(scores: dict[str, Scores]) -> list[str]:
    """Lines for each level: the distance from nominal, in the parts that the sources there are tell apart."""
    have = [source for source in SOURCES if source in scores]
    if len(have) < 2:
        return []
    names = {"data": "model", "model": "guidance", "gaussian": "solver"}
    parts = [
        [
            names[each]
            for each in SOURCES[SOURCES.index(source) : (SOURCES.index(have[i + 1]) if i + 1 < len(have) else 3)]
        ]
        for i, source in enumerate(have)
    ]
    off = [scores[s].covered.mean(0) - scores[s].nominal for s in have]
    drawn = [scores[s].means(seed=SOURCES.index(s)) - scores[s].nominal for s in have]
    lines = []
    for k in range(len(LEVELS)):
        if any(math.isnan(scores[s].nominal[k]) for s in have):
            continue
        cells = [f"{100 * float(off[0][k]):+.1f}"]
        for i, part in enumerate(parts):
            last = i + 1 == len(have)
            value = off[i][k] if last else off[i][k] - off[i + 1][k]
            low, high = interval(drawn[i][:, k] if last else drawn[i][:, k] - drawn[i + 1][:, k])
            cells.append(f"{' and '.join(part)} {100 * float(value):+.1f} [{100 * low:+.0f}, {100 * high:+.0f}]")
        lines.append(f"{float(scores[have[0]].nominal[k]):.0%}: off by {cells[0]}: " + ", ".join(cells[1:]))
    return lines


def pair(text: str) -> tuple[str, Path]:
    """NAME=PATH."""
    name, _, path = text.partition("=")
    if not (name and path):
        raise argparse.ArgumentTypeError(f"expected NAME=PATH, got {text}")
    return name, Path(path)


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the members, which are not made again")
    add(
        "--problems",
        nargs="+",
        default=[name for name in SHIPPED if name != "permeability"],
        help=f"of {', '.join(CHANNELS)}, or another NAME by --model and --data",
    )
    add(
        "--model",
        type=pair,
        nargs="+",
        default=[],
        metavar="NAME=FOLDER",
        help="a problem's model, if not the repository's",
    )
    add("--data", type=pair, nargs="+", default=[], metavar="NAME=FILE.h5", help="a problem's true fields")
    add("--rows", nargs="+", choices=ROWS, default=["default", "more steps", "fresh noise", "annealed"])
    add("--sources", nargs="+", choices=SOURCES, default=list(SOURCES), help="of the truths")
    add("--size", type=int, help="points a side, or rows; by default the second largest grid of training")
    add("--truths", type=int, default=100)
    add("--members", type=int, default=39)
    add("--sensors", type=int, default=16)
    add("--noise", type=float, default=0.05, help="of the sensors' errors, in the channel's standard deviations")
    add("--steps", type=int, default=12, help="of the solver")
    add("--iterations", type=int, default=100, help="of MomentMatching, at most")
    add("--fields", type=int, default=256, help="that the Gaussian law is made of")
    add("--batch", type=int, default=39)
    add("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    add("--figure", type=Path, metavar="FILE.png", help="draw the histograms of ranks")
    add("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    args.model, args.data = SHIPPED | dict(args.model), dict(args.data)
    missing = [name for name in args.problems if name not in args.model]
    if missing:
        parser.error(f"--problems: expected a model of {', '.join(missing)}; pass --model {missing[0]}=FOLDER.")
    if args.members < 3 or args.members > 1000 or args.truths < 2 or args.truths > 1000:
        parser.error("expected 3 to 1000 --members and 2 to 1000 --truths; 39 and 100 are usual.")
    return args


def problem_of(name: str, args: argparse.Namespace) -> Problem:
    """By its name."""
    model = Model.from_pretrained(args.model[name]).to(args.device).eval()
    shapes = sorted(model.training_shapes)
    known = [each for each in shapes if each[0] == args.size]  # on a sphere so many rows
    shape = model.sde.domain.check_shape(known[0] if known else args.size or shapes[max(0, len(shapes) - 2)])
    fields, count = true_fields(name, model, shape, args.data.get(name))
    if count < args.truths and "data" in args.sources:
        raise SystemExit(f"{name}: expected {args.truths} true fields, found {count}; lower --truths.")
    grid = "x".join(map(str, shape))
    return (Permeability if name == "permeability" else Problem)(
        name, model, shape, fields, count, args.fields, args.out / name / f"law-{grid}-{args.fields}.safetensors"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    args = options(argv)
    torch.set_num_threads(1)
    keep_freed_memory()
    heads = "".join(f"{head:>16}" for head in nominals(args.members))
    print(f"{'':<44}{heads}{'CRPS':>8}{'ratio':>8}{'ranks':>8}{'chance':>8}{'s':>8}")
    panels: dict[str, dict[str, Scores]] = {}
    grids = []
    for name in args.problems:
        problem = problem_of(name, args)
        grids.append(f"{name} {' x '.join(map(str, problem.shape))}")
        for row in args.rows:
            scores: dict[str, dict[str, Scores]] = {channel: {} for channel in problem.channels}
            wanted = ("gaussian",) if row == "exact" else SOURCES
            for source in (s for s in args.sources if s in wanted and s in problem.sources):
                made = ensembles(problem, row, source, args)
                for i, channel in enumerate(problem.channels):
                    part, truths, unit = made.members[:, :, [i]], made.truths[:, [i]], float(problem.units[i])
                    found = Scores.of(part, truths, problem.domain)
                    scores[channel][source] = found
                    panels.setdefault(f"{name}, {channel}", {})[f"{row}, {source}"] = found
                    title = f"{name} {channel}: {row}, {source}"
                    print(line(title, found, unit, made.seconds), flush=True)
                    if (name, channel) in TWO_VALUED and row != "exact" and source != "gaussian":
                        either, share = sides(part, truths, TWO_VALUED[name, channel])
                        title = f"  either value; {share:.0%} uncertain"
                        print(line(title, Scores.of(*either, problem.domain), 1.0, None))
                    if source == "data" and row != "exact":
                        wide, factors = widened(part, truths, problem.domain)
                        times = " and ".join(f"{float(f):.2f}" for f in factors)
                        print(line(f"  widened {times} times", Scores.of(wide, truths, problem.domain), unit, None))
            for channel, by_source in scores.items():
                for text in causes(by_source):
                    print(f"cause, {name} {channel}, {row}, {text}", flush=True)
    print(
        f"{args.truths} truths, {args.members} members, {args.sensors} sensors with errors of {args.noise:g}, "
        f"{args.steps} steps, at most {args.iterations} iterations; {', '.join(grids)}"
    )
    print(f"torch {torch.__version__} on {args.device}, {torch.get_num_threads()} threads, {platform.machine()}")
    if args.figure:
        draw(panels, args.figure)


if __name__ == "__main__":
    main()
