"""Do sampled pairs obey their equation? How far the output of a sampled pair is from what a solver makes of its input.

    python -m benchmarks.consistency                                    # the repository's models, at 48 and 96
    python -m benchmarks.consistency --darcy FOLDER --flow FOLDER --sizes 32 64 --samples 16

Of Darcy's pairs (a, u) it is |u - solve(a)| / |u|, a between its two values; of flows (w(1), w(0)) the same of w(1), by the
Navier-Stokes equations of `examples/navier_stokes.py`. Medians over the samples, and their mean; of true pairs for comparison,
which coarse grids do not hold exactly. "between" is the share of a's cells more than 1 from both of its values: at edges there
must be some.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.pde import SHIPPED
from fnodiff import Box, Model, Torus, metrics, sample
from fnodiff.equations import Darcy, navier_stokes
from fnodiff.equations.darcy import solve
from fnodiff.sde import Direct, DPMSolver
from fnodiff.train import keep_freed_memory

FINE = 96


def darcy_error(x: Tensor) -> Tensor:
    """|u - solve(a)| / |u| of pairs (B, 2, n, n)."""
    return metrics.relative_l2(x[:, 1:], solve(x[:, :1].clamp(3, 12)), Box(2))


def flow_error(x: Tensor) -> Tensor:
    """The same of w(1), beside what the flow makes of w(0)."""
    torus, grid = Torus(2), tuple(x.shape[2:])
    w = torus.resample(x[:, 1:].double(), tuple(max(FINE, n) for n in grid))
    w = navier_stokes.solve(w, 1, 1e-4, forcing=navier_stokes.benchmark_forcing, dt=0.02)
    return metrics.relative_l2(x[:, :1], torus.resample(w, grid).float(), torus)


def between(x: Tensor) -> float:
    """The share of cells of a that have neither value."""
    a = x[:, :1]
    return float(((a - 3).abs().minimum((a - 12).abs()) > 1).float().mean())


def true_pairs(name: str, count: int, n: int) -> Tensor:
    """Pairs of a solver, (count, 2, n, n)."""
    if name == "Darcy":
        source = Darcy(count, seed=1, scale=3.0, constant_mode=False)
        return source.batch(range(count), (n, n))["x"]
    fine = max(FINE, n)
    start = navier_stokes.initial_vorticity(
        (count, 1, fine, fine), generator=torch.Generator().manual_seed(1), scale=25.0
    )
    w = navier_stokes.solve(start, 1, 1e-4, forcing=navier_stokes.benchmark_forcing, save=(0.0, 1.0), dt=0.02)
    return Torus(2).resample(w, (n, n)).float()[:, [1, 0]]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--darcy", type=Path, default=SHIPPED[0], help="the folder of a model of pairs (a, u)")
    add("--flow", type=Path, default=SHIPPED[1], help="the folder of a model of pairs (w(1), w(0))")
    add("--sizes", type=int, nargs="+", default=[48, 96])
    add("--samples", type=int, default=16)
    add("--steps", type=int, default=24, help="of DPMSolver, directly on each grid")
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    print(f"{'':<36}{'median':>10}{'mean':>10}{'between':>10}{'std':>18}")
    problems: dict[str, tuple[Path, Callable[[Tensor], Tensor]]] = {
        "Darcy": (args.darcy, darcy_error),
        "Navier-Stokes": (args.flow, flow_error),
    }
    for name, (folder, error) in problems.items():
        model = Model.from_pretrained(folder)
        for n in args.sizes:
            sampled = sample(model, (n, n), range(args.samples), solver=DPMSolver(args.steps), plan=Direct())
            for row, x in {"sampled": sampled, "true": true_pairs(name, args.samples, n)}.items():
                e, spread = error(x), x.transpose(0, 1).flatten(1).std(1).tolist()
                apart = f"{between(x):>10.1%}" if name == "Darcy" else f"{'-':>10}"
                spreads = ", ".join(f"{value:.3g}" for value in spread)
                print(
                    f"{f'{name}, {row}, {n}x{n}':<36}{e.median():>10.2%}{e.mean():>10.2%}{apart}{spreads:>18}",
                    flush=True,
                )
    print(f"{args.samples} samples, DPMSolver({args.steps}); torch {torch.__version__}, 1 thread, {platform.machine()}")


if __name__ == "__main__":
    main()
