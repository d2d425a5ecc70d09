"""How well models denoise held-out fields: the numbers that trials of networks are compared by.

    python -m benchmarks.denoising RUN ... --test portraits-test.h5 --sizes 32 64 96

Each number is the root mean square error of the denoised estimate, of normalised fields, at one noise level. The fields and
the noise are the same for every model, so differences of models are sharper than the numbers.
"""

from __future__ import annotations

import argparse

import torch

from fnodiff import Model
from fnodiff.cost import keep_freed_memory
from fnodiff.data import HDF5Fields
from fnodiff.domain import Shape

LEVELS = (0.1, 0.5, 5.0)


@torch.no_grad()
def errors(model: Model, fields: HDF5Fields, shape: Shape, count: int, batch: int = 32) -> list[float]:
    """The error at each noise level, sigma / alpha of the model's schedule."""
    found = []
    for level in LEVELS:
        t = model.sde.schedule.time(torch.tensor(level, dtype=torch.float64)).float()
        squares = []
        for first in range(0, count, batch):
            rows = range(first, min(first + batch, count))
            x = model.normalization(fields.batch(rows, shape)["x"]).float()
            generators = [torch.Generator().manual_seed(1000 + i) for i in rows]
            x_t, _ = model.sde.perturb(x, t, generator=generators)
            squares.append((model(x_t, t) - x).square().flatten(1).mean(1))
        found.append(float(torch.cat(squares).mean().sqrt()))
    return found


def main() -> None:
    """Print a row for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="their folders, or names of models that come with fnodiff")
    parser.add_argument("--test", required=True, metavar="TEST.h5", help="fields that none was trained on")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 96])
    parser.add_argument("--count", type=int, default=128, help="fields at each size")
    args = parser.parse_args()
    keep_freed_memory()
    fields = HDF5Fields(args.test)
    levels = " ".join(f"{level:g}" for level in LEVELS)
    print(f"error of denoised estimates of {args.count} fields at noise levels {levels}")
    for name in args.models:
        model = Model.from_pretrained(name)
        cells = []
        for size in args.sizes:
            found = errors(model, fields, model.sde.domain.shape_of(size), args.count)
            cells.append(f"{size}: " + " ".join(f"{error:.4f}" for error in found))
        print(f"{name:<24}{'   '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
