"""Quality against the number of network evaluations, on a trained model of portraits: how few are enough?

    python -m benchmarks.evaluations portraits --test portraits-test.h5
    python -m benchmarks.evaluations MODEL FEW --test portraits-test.h5    # beside a model distilled to few evaluations

The same seeds for every row, at the largest size that the models were trained on; distances of samples from as many true
portraits:

    features   of a small network that reads what the portraits show (`benchmarks.attributes`)
    patches    of 7 x 7 pixels
    global     of images averaged to 8 x 8
    spectrum   of the mean spectra

The last line of each model says the fewest evaluations within 2% of its best features distance, floor and all.
"""

from __future__ import annotations

import argparse
import platform
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import attributes
from benchmarks.drawings import Drawings
from fnodiff import DDIM, Box, Direct, DPMSolver, Heun, Model, metrics, sample
from fnodiff.cost import keep_freed_memory
from fnodiff.sde import EvenLogSNR, EvenTime, Solver

COLUMNS = ("features", "patches", "global", "spectrum")
ENOUGH = 1.02


def solvers(evaluations: list[int]) -> dict[str, list[Solver]]:
    """The solvers, by name, for each number of evaluations that they can have."""
    rows: dict[str, list[Solver]] = {
        "DPMSolver, even log-SNR": [DPMSolver(count, EvenLogSNR()) for count in evaluations],
        "DPMSolver, even time": [DPMSolver(count, EvenTime()) for count in evaluations],
        "DPMSolver, eta=1": [DPMSolver(count, eta=1.0) for count in evaluations],
        "DDIM": [DDIM(count) for count in evaluations],
        "Heun": [Heun((count + 1) // 2) for count in evaluations if count > 4],
    }
    return rows


def measure(net: attributes.Reader, x: Tensor, true: Tensor) -> list[float]:
    """The columns."""
    return [
        attributes.distance(net, x, true),
        metrics.patch_distance(x, true),
        metrics.global_coherence(x, true, Box(2)),
        metrics.spectrum_error(x, true, Box(2)),
    ]


def table(name: str, seeds: range, evaluations: list[int], true: Tensor, net: attributes.Reader) -> None:
    """Print a model's rows."""
    model = Model.from_pretrained(name).to("cuda" if torch.cuda.is_available() else "cpu")
    shape = max(model.training_shapes)
    draw = partial(sample, model, shape, seeds, plan=Direct(), batch=32)
    found: dict[tuple[str, int], float] = {}
    print(f"\n{Path(name).name}, samples")
    for kind, some in solvers(evaluations).items():
        for solver in some:
            row = measure(net, draw(solver=solver).cpu(), true)
            found[kind, solver.evaluations] = row[0]
            print(f"{kind:<26}{solver.evaluations:>12}" + "".join(f"{cell:>11.3f}" for cell in row), flush=True)
    best = min(found.values())
    count, kind = min((count, kind) for (kind, count), value in found.items() if value <= ENOUGH * best)
    print(f"the fewest within 2% of the best features distance, {best:.2f}: {count} ({kind})", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="folders, or names of models that come with fnodiff")
    parser.add_argument("--test", type=Path, metavar="TEST.h5", help="true portraits; by default they are drawn")
    parser.add_argument("--evaluations", type=int, nargs="+", default=[4, 6, 8, 12, 18, 35])
    parser.add_argument("--samples", type=int, default=512)
    args = parser.parse_args()
    keep_freed_memory()
    shapes = {max(Model.from_pretrained(name).training_shapes) for name in args.models}
    if len(shapes) > 1:
        parser.error(f"expected models of one largest training grid, got {sorted(shapes)}")
    (shape,), net = shapes, attributes.load()
    held = Drawings(args.test, 2 * args.samples, held_out=True)
    true, other = (held.batch(range(i, i + args.samples), shape)["x"] for i in (0, args.samples))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    print(f"{args.samples} samples at {shape[0]}x{shape[1]} against as many true ones")
    print(f"{'':<26}{'evaluations':>12}" + "".join(f"{name:>11}" for name in COLUMNS))
    print(f"{'other true portraits':<26}{'-':>12}" + "".join(f"{cell:>11.3f}" for cell in measure(net, other, true)))
    for name in args.models:
        table(name, range(args.samples), args.evaluations, true, net)


if __name__ == "__main__":
    main()
