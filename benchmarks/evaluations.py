"""Quality against the number of network evaluations, on a trained model of portraits.

    python -m benchmarks.evaluations portraits --test portraits-test.h5

The same seeds for every row, at the largest size that the model was trained on; distances of drawn portraits from true
ones, as in the example.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch

from benchmarks.drawings import Drawings
from fnodiff import DDIM, Box, Direct, DPMSolver, Heun, Model, metrics, sample
from fnodiff.sde import EvenLogSNR, EvenTime, Solver


def solvers(evaluations: list[int]) -> dict[tuple[str, int], Solver]:
    """The solvers, by name and number of evaluations."""
    rows: dict[tuple[str, int], Solver] = {}
    for count in evaluations:
        for name, spacing in (("time", EvenTime()), ("log-SNR", EvenLogSNR())):
            rows[f"DPMSolver, even {name}", count] = DPMSolver(count, spacing)
        rows["Heun", count] = Heun((count + 1) // 2)
        rows["DDIM", count] = DDIM(count)
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="its folder, or the name of one that comes with fnodiff")
    parser.add_argument("--test", type=Path, metavar="TEST.h5", help="true portraits; by default they are drawn")
    parser.add_argument("--evaluations", type=int, nargs="+", default=[7, 11, 17, 35])
    parser.add_argument("--samples", type=int, default=256)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    denoiser = Model.from_pretrained(args.model).to(device)
    shape, domain = max(denoiser.training_shapes), Box(2)
    held = Drawings(args.test, 2 * args.samples, held_out=True)
    true, other = (held.batch(range(i, i + args.samples), shape)["x"] for i in (0, args.samples))
    measures = (partial(metrics.spectrum_error, domain=domain), partial(metrics.global_coherence, domain=domain))
    measures = (*measures, metrics.patch_distance)

    print(f"{args.samples} samples at {shape[0]}x{shape[1]} against as many true ones")
    print(f"{'':<24}{'evaluations':>12}{'spectrum':>10}{'global':>9}{'patches':>9}")

    def show(name: str, count: int | str, x: torch.Tensor) -> None:
        a, b, c = (f(x, true) for f in measures)
        print(f"{name:<24}{count:>12}{a:>10.3f}{b:>9.2f}{c:>9.3f}", flush=True)

    show("other true images", "-", other)
    for (name, _), solver in sorted(solvers(args.evaluations).items()):
        show(
            name,
            solver.evaluations,
            sample(denoiser, shape, range(args.samples), solver=solver, plan=Direct(), batch=64),
        )


if __name__ == "__main__":
    main()
