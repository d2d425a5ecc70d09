"""Quality against the number of network evaluations, on a trained checkpoint of `examples/ffhq_superres.py`.

The same seeds for every row, at the largest size that the model was trained on; distances of drawn portraits from true
ones, as in the example.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch

from fnodiff import DDIM, Box, DPMSolver, Heun, metrics
from fnodiff.checkpoint import from_pretrained
from fnodiff.data import Faces
from fnodiff.sde import Sampler


def runs(denoiser, evaluations: list[int]) -> dict[tuple[str, int], Sampler]:
    """The samplers, by name and number of evaluations."""
    rows = {}
    for count in evaluations:
        for spacing in ("time", "log_snr"):
            rows[f"DPMSolver, {spacing}", count] = DPMSolver(denoiser, count, spacing=spacing)
        rows["Heun", count] = Heun(denoiser, (count + 1) // 2)
        rows["DDIM", count] = DDIM(denoiser, count)
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--evaluations", type=int, nargs="+", default=[7, 11, 17, 35])
    parser.add_argument("--samples", type=int, default=256)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    denoiser = from_pretrained(args.checkpoint).to(device)
    shape, domain = max(denoiser.training_shapes), Box(2)
    held = Faces(4 * args.samples, seed=1)
    true, other = (held.batch(range(i, i + args.samples), shape)["x"] for i in (0, args.samples))
    measures = (partial(metrics.spectrum_error, domain=domain), partial(metrics.global_coherence, domain=domain))
    measures = (*measures, metrics.patch_distance)

    print(f"{args.samples} samples at {shape[0]}x{shape[1]} against as many true ones")
    print(f"{'':<22}{'evaluations':>12}{'spectrum':>10}{'global':>9}{'patches':>9}")

    def show(name: str, count: int | str, x: torch.Tensor) -> None:
        a, b, c = (f(x, true) for f in measures)
        print(f"{name:<22}{count:>12}{a:>10.3f}{b:>9.2f}{c:>9.3f}", flush=True)

    show("other true images", "-", other)
    for (name, _), run in sorted(runs(denoiser, args.evaluations).items()):
        x = run.draw((3, *shape), range(args.samples), chunk=64, device=device)
        show(name, run.evaluations, x)


if __name__ == "__main__":
    main()
