"""Networks and schedules at equal time: DFU and neuralop's models, EDM and flow matching; portraits and Darcy flow.

    python -m benchmarks.operators --portraits portraits.h5 --minutes 30          # DFU, FNO, TFNO, UNO, CODANO and GINO
    python -m benchmarks.operators --portraits portraits.h5 --minutes 30 --flow   # EDM and rectified flow, paired and not
    python -m benchmarks.operators --minutes 30                                   # Darcy alone
    python datasets/darcy.py pairs.h5 --count 2048 --scale 3 --no-constant-mode --resolutions 24 32 64   # solved once
    python -m benchmarks.operators --pairs pairs.h5 --minutes 30                  # and read from there

Each row is trained for as long, in processor time of one thread, on the same grids, and sampled directly on the largest of them
(1x) and on twice that (2x). How many steps that is, is measured by some steps of a copy.
The portraits are a file of `datasets/portraits.py` with the grids 16, 24, 32 and 64; Darcy's pairs (a, u) are solved here, on
24, 32 and 64, or read. A quarter of the samples is held out.

- loss: on held-out samples on the largest training grid, beside that of the best linear estimate (1.00 is no better). Of
  velocities it is a loss of its own.
- sliced, spectrum: `fnodiff.report.distances`' and the sliced Wasserstein distance, 0 is best, for as many true fields in the
  last row.
"""

from __future__ import annotations

import argparse
import copy
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from neuralop.models import CODANO, FNO, GINO, TFNO, UNO

from fnodiff import (
    DFU,
    Box,
    DenoisingLoss,
    Direct,
    DPMSolver,
    EDMScaling,
    FlowScaling,
    Model,
    MultiResolution,
    RectifiedFlow,
    fit,
    metrics,
    sample,
)
from fnodiff.data import Fields, HDF5Fields, InMemory, Part
from fnodiff.equations import Darcy
from fnodiff.nn import NeuralOperator
from fnodiff.sde import OptimalTransport
from fnodiff.train import Adam, Logging, keep_freed_memory

GINO_OPTIONS = {
    "fno_n_modes": (12, 12),
    "fno_hidden_channels": 32,
    "fno_n_layers": 4,
    "in_gno_radius": 0.75 / 32,  # each point of the finest training grid is its own neighbour: no blur
    "out_gno_radius": 0.75 / 32,
}
NETWORKS: dict[str, dict[str, Any]] = {
    "DFU.small": {"network": DFU.small},
    "FNO": {"network": NeuralOperator.of(FNO, n_modes=(16, 16), hidden_channels=48, n_layers=4)},
    "FNO, reflected": {
        "network": NeuralOperator.of(FNO, n_modes=(16, 16), hidden_channels=48, n_layers=4, boundary="even")
    },
    "TFNO": {"network": NeuralOperator.of(TFNO, n_modes=(16, 16), hidden_channels=64, n_layers=4, rank=0.2)},
    "UNO": {"network": NeuralOperator.of(UNO, n_modes=(12, 12), hidden_channels=48)},
    "CODANO": {"network": NeuralOperator.of(CODANO, n_modes=(12, 12), n_layers=3, hidden_variable_codimension=16)},
    "GINO": {"network": NeuralOperator.of(GINO, **GINO_OPTIONS)},
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "EDM": {},
    "rectified flow, EDM's scaling": {"schedule": RectifiedFlow(), "scaling": EDMScaling(linear_estimate=True)},
    "rectified flow, velocity": {"schedule": RectifiedFlow(), "scaling": FlowScaling()},
    "the same, linear estimate": {"schedule": RectifiedFlow(), "scaling": FlowScaling(linear_estimate=True)},
    "the same, paired": {"schedule": RectifiedFlow(), "scaling": FlowScaling(linear_estimate=True), "paired": True},
}


def rows(flow: bool, only: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    """What is compared, by name."""
    found = {name: {"network": DFU.small, **row} for name, row in SCHEDULES.items()} if flow else NETWORKS
    return {name: row for name, row in found.items() if only is None or name in only}


def measure(row: dict[str, Any], fields: Fields, grids: list[int], args: argparse.Namespace) -> list[str]:
    """One row of a table: trained, measured on held-out samples, sampled on two grids."""
    options = {name: value for name, value in row.items() if name != "paired"}
    count = len(fields)
    train, held = Part(fields, range(count // 4, count), ["x"]), Part(fields, range(count // 4), ["x"])
    torch.manual_seed(args.seed)
    data = MultiResolution(train, Box(2), grids, batch_size=args.batch, seed=args.seed)
    model = Model.for_data(data, **options)
    coupling = OptimalTransport() if row.get("paired") else None
    steps = steps_within(60 * args.minutes, model, data, coupling)
    torch.manual_seed(args.seed)
    loss, quiet = DenoisingLoss(model, coupling=coupling), Logging(progress=False)
    fit(model, data, steps, loss=loss, optimizer=Adam(decay=0.3), logging=quiet)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    largest = max(data.shapes)
    size = min(args.samples, len(held))
    x = held.batch(range(size), largest)["x"]
    plain = DenoisingLoss(model)
    with torch.no_grad():
        value = float(plain(x, generator=[torch.Generator().manual_seed(i) for i in range(size)]).mean())
    cells = [f"{parameters:.2f}M", f"{steps}", f"{value / plain.linear(largest):.3f}"]
    for shape in (largest, tuple(2 * n for n in largest)):
        made = sample(model, shape, range(size), solver=DPMSolver(args.steps), plan=Direct())
        cells += distances(made, held.batch(range(size), shape)["x"])
    return cells


def steps_within(seconds: float, model: Model, data: MultiResolution, coupling: OptimalTransport | None) -> int:
    """How many steps take so much processor time."""
    for few in (8, 32):  # the first ones also make what is kept
        trial, start = copy.deepcopy(model), time.process_time()
        fit(trial, data, few, loss=DenoisingLoss(trial, coupling=coupling), logging=Logging(progress=False))
        each = (time.process_time() - start) / few
    return max(1, round(seconds / each))


def distances(made: torch.Tensor, true: torch.Tensor) -> list[str]:
    """Sliced Wasserstein distance, in spreads of each channel, and the error of the spectrum."""
    mean, spread = true.mean((0, 2, 3), keepdim=True), true.std((0, 2, 3), keepdim=True)
    sliced = metrics.sliced_wasserstein((made - mean) / spread, (true - mean) / spread)
    return [f"{sliced:.3f}", f"{metrics.spectrum_error(made, true, Box(2)):.3f}"]


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--portraits", type=Path, help="an .h5 with the grids 16, 24, 32 and 64")
    add("--pairs", type=Path, help="an .h5 of Darcy's pairs with the grids 24, 32 and 64, instead of solving")
    add("--flow", action="store_true", help="compare schedules rather than networks")
    add("--rows", nargs="+", help="only these")
    add("--minutes", type=float, default=30.0, help="processor time of each row's training")
    add("--darcy", type=int, default=2048, help="pairs; 0 for none")
    add("--samples", type=int, default=256)
    add("--steps", type=int, default=12, help="of DPM-Solver")
    add("--batch", type=int, default=16)
    add("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    args = options(argv)
    torch.set_num_threads(1)
    keep_freed_memory()
    sources: dict[str, tuple[Fields, list[int]]] = {}
    if args.portraits is not None:
        sources["portraits"] = HDF5Fields(args.portraits), [16, 24, 32]
    if args.pairs is not None:
        sources["Darcy"] = HDF5Fields(args.pairs), [24, 32]
    elif args.darcy:
        solved = Darcy(args.darcy, seed=0, scale=3.0, constant_mode=False, keep=args.darcy)
        sources["Darcy"] = InMemory(solved, [(n, n) for n in (24, 32, 64)], progress=True), [24, 32]
    for name, (fields, grids) in sources.items():
        heads = ("parameters", "steps", "loss", "sliced 1x", "spectrum", "sliced 2x", "spectrum")
        print(f"\n{name}, {args.minutes:g} minutes a row on {grids}")
        print(" " * 32 + "".join(f"{head:>12}" for head in heads), flush=True)
        for row, chosen in rows(args.flow, args.rows).items():
            cells = measure(chosen, fields, grids, args)
            print(f"{row:<32}" + "".join(f"{cell:>12}" for cell in cells), flush=True)
        size, least = min(args.samples, len(fields) // 4), []
        for shape in ((max(grids),) * 2, (2 * max(grids),) * 2):
            halves = [fields.batch(range(i * size, (i + 1) * size), shape)["x"] for i in (0, 1)]
            least += distances(halves[1], halves[0])
        print(f"{'other true fields':<32}" + "".join(f"{cell:>12}" for cell in ("", "", "", *least)), flush=True)
    machine = f"torch {torch.__version__}, 1 thread, {platform.machine()}"
    print(f"Minutes of processor time, batches of {args.batch}, DPM-Solver of {args.steps}; {machine}")


if __name__ == "__main__":
    main()
