"""Seconds that samples take: by plan, by batch, and what autograd costs where nothing is learnt.

    python -m benchmarks.sampling portraits --size 64 --samples 64

Rows of one table take turns, so that all see the same machine; each time is the median. A row's evaluations are those of one
sample on each grid: an evaluation on a grid of half the points costs a quarter.
"""

from __future__ import annotations

import argparse
import platform
from collections import Counter
from functools import partial

import torch

from benchmarks.speed import interleaved
from fnodiff import Cascade, Direct, DPMSolver, Model, Progressive, sample
from fnodiff.cost import keep_freed_memory
from fnodiff.sde import Plan, default_plan


def evaluations(model: Model, plan: Plan, shape: tuple[int, ...], solver: DPMSolver) -> dict[tuple[int, ...], int]:
    """Evaluations of one sample, by grid."""
    stages, found = plan.plan(model, shape, solver.times(model.sde.schedule)), Counter()
    for number, stage in enumerate(stages):
        ends = number == len(stages) - 1 or stages[number + 1].held is not None
        found[tuple(stage.shape)] += stage.steps * solver.evaluations_per_step + ends
    return dict(found)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="its folder, or the name of one that comes with fnodiff")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    keep_freed_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, solver, seeds = Model.from_pretrained(args.model).to(device), DPMSolver(12), range(args.samples)
    shape = model.sde.domain.check_shape(model.sde.domain.shape_of(args.size))
    draw = partial(sample, model, shape, seeds, solver=solver)

    def infer() -> None:
        with torch.inference_mode():
            draw()

    plans: dict[str, Plan] = {"Direct": Direct(), "Progressive": Progressive(), "Cascade": Cascade()}
    rows = {name: partial(draw, plan=plan) for name, plan in plans.items()}
    usual = type(default_plan(model, shape)).__name__
    print(
        f"{args.samples} samples at {'x'.join(map(str, shape))}, 12 noise levels, batches of 32; {usual} is the default; torch "
        f"{torch.__version__} on {device}, {torch.get_num_threads()} threads, {platform.machine()}"
    )
    seconds = interleaved(rows, args.repeats)
    for name, plan in plans.items():
        grids = ", ".join(
            f"{count} on {'x'.join(map(str, grid))}" for grid, count in evaluations(model, plan, shape, solver).items()
        )
        print(f"  {name:<28}{seconds[name]:>8.2f} s   evaluations: {grids}", flush=True)
    print("the default plan")
    rows = {f"batches of {n}": partial(draw, batch=n) for n in (8, 16, 32, 64) if n <= args.samples}
    rows["batches of 32, inference mode"] = infer
    for name, taken in interleaved(rows, args.repeats).items():
        print(f"  {name:<28}{taken:>8.2f} s", flush=True)


if __name__ == "__main__":
    main()
