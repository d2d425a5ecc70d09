"""Plans of grids on a trained model of portraits, at twice its largest training size: distances, and hatching on flat ground.

    python -m benchmarks.plans portraits --test portraits-test.h5
    python -m benchmarks.plans portraits --test portraits-test.h5 --sizes 48 64 96 --above 32 --default   # to compare models

"Detail" is what lies above the largest training size, or above --above, of sizes beyond it.
"Rough" is the root mean square of what a 3x3 mean leaves in the upper corners, which are plain in true portraits, of 255.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from benchmarks.drawings import Drawings
from fnodiff import Box, Cascade, Direct, DPMSolver, Model, Progressive, metrics, sample

PLANS = {
    "no plan, no solver named": (None, None),
    "Cascade()": (Cascade(), DPMSolver(12)),
    "Cascade(), eta=1": (Cascade(), DPMSolver(12, eta=1.0)),
    "Cascade(), 24 levels, eta=1": (Cascade(), DPMSolver(24, eta=1.0)),
    "Cascade(keep=0.75)": (Cascade(keep=0.75), DPMSolver(12)),
    "Cascade(keep=0.75), eta=1": (Cascade(keep=0.75), DPMSolver(12, eta=1.0)),
    "Cascade(keep=0.5)": (Cascade(keep=0.5), DPMSolver(12)),
    "Progressive()": (Progressive(), DPMSolver(12)),
    "Direct()": (Direct(), DPMSolver(12)),
}


def rough(x: Tensor) -> float:
    """What a 3x3 mean leaves in the upper corners of (B, 3, n, n) in [-1, 1], of 255."""
    side, found = x.shape[-1] // 8, []
    for corner in (x[..., :side, :side], x[..., :side, -side:]):
        left = (corner - avg_pool2d(corner, 3, 1, 1))[..., 1:-1, 1:-1]
        found.append(float(left.square().mean().sqrt()) * 127.5)
    return sum(found) / 2


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="its folder, or the name of one that comes with fnodiff")
    parser.add_argument("--test", type=Path, metavar="TEST.h5", help="true portraits; by default they are drawn")
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--sizes", type=int, nargs="+", help="to sample at; by default twice the largest training size")
    parser.add_argument(
        "--above", type=int, help="detail is above so many pixels; by default the largest training size"
    )
    parser.add_argument("--default", action="store_true", help="no other plans than what `sample` takes by itself")
    args = parser.parse_args()
    model, domain = Model.from_pretrained(args.model), Box(2)
    largest = max(model.training_shapes)[0]
    low, plans = (args.above or largest,) * 2, dict(list(PLANS.items())[:1]) if args.default else PLANS
    drawings = Drawings(args.test, 4 * args.samples, held_out=True)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    for size in args.sizes or [2 * largest]:
        true = drawings.batch(range(4 * args.samples), (size, size))["x"]
        print(
            f"{args.samples} samples at {size}x{size} against {len(true)} true ones, whose roughness is {rough(true):.2f}"
        )
        print(f"{'':<30}{'rough':>7}{'spectrum':>10}{'global':>8}{'patches':>9}{'detail / energy':>17}")
        for name, (plan, solver) in plans.items():
            x = sample(model, (size, size), range(args.samples), plan=plan, solver=solver)
            detail, energy = metrics.high_band_distance(x, true, domain, low) if size > low[0] else (float("nan"),) * 2
            distances = metrics.spectrum_error(x, true, domain), metrics.global_coherence(x, true, domain)
            cells = f"{rough(x):>7.2f}{distances[0]:>10.3f}{distances[1]:>8.2f}{metrics.patch_distance(x, true):>9.3f}"
            print(f"{name:<30}{cells}{f'{detail:.3f} / {energy:.2f}':>17}", flush=True)


if __name__ == "__main__":
    main()
