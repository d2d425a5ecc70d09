"""Windows of the Earth's relief at several resolutions in one HDF5 file: ETOPO5, land and sea floor, in metres.

    apt-get install ferret-datasets         # or any copy of etopo5.cdf
    python datasets/relief.py etopo5.cdf relief.h5 --count 8192
    python datasets/relief.py etopo5.cdf relief-test.h5 --count 512 --held-out

A window has 64 x 64 cells of 5 arc-minutes, at a random place between 60 degrees south and north, mirrored at random. Its
cells are averaged over those of each grid, in float32, so the grids show one function. Two spans of longitude are held out,
60 to 90 degrees east and 60 to 90 degrees west: no window to train on touches them. Interrupted, the same command continues
where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.io import netcdf_file
from torch import Tensor

from fnodiff import Box
from fnodiff.data import write_fields

SOURCE = "ETOPO5, NOAA National Geophysical Data Center (1988), etopo5.cdf as the ferret datasets have it"
LICENCE = "public domain (U.S. government)"
PER_DEGREE = 12
HIGHEST = 60
HELD_OUT = ((60, 90), (270, 300))  # degrees east


class Relief:
    """Windows of a global relief in metres at random places, as functions on the unit square.

    Window i depends on (seed, held_out, i) alone.

    Args:
        path: The netCDF file, with the relief as ROSE (latitude, longitude) every 5 arc-minutes from the south pole.
        count, seed: How many, and what fixes their places.
        window: Cells a side.
        held_out: Within the spans that are held out, instead of clear of them.

    Raises:
        ValueError: If the file is not that relief.
    """

    channels, cell_averages, num_classes, condition_channels = 1, True, 0, 0

    def __init__(
        self, path: str | Path, count: int = 8192, seed: int = 0, *, window: int = 64, held_out: bool = False
    ) -> None:
        if not Path(path).is_file():
            raise ValueError(
                f"Relief: expected a file etopo5.cdf, got {path}; apt-get install ferret-datasets brings one."
            )
        with netcdf_file(path, "r", mmap=False) as file:
            if "ROSE" not in file.variables or file.variables["ROSE"].shape != (180 * PER_DEGREE + 1, 360 * PER_DEGREE):
                raise ValueError(
                    f"Relief: expected ROSE on 2161 x 4320 points in {path}, found {list(file.variables)}."
                )
            heights = file.variables["ROSE"].data.astype(np.float32)
        if not np.isfinite(heights).all() or heights.min() < -12_000 or heights.max() > 9_000:
            raise ValueError(f"Relief: expected metres from -12,000 to 9,000, got {heights.min()} to {heights.max()}.")
        middle = 90 * PER_DEGREE
        self._heights = torch.from_numpy(
            heights[middle - HIGHEST * PER_DEGREE : middle + HIGHEST * PER_DEGREE][::-1].copy()
        )
        self.count, self.seed, self.window, self.held_out = count, seed, window, held_out

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Sequence[int], shape: tuple[int, ...]) -> dict[str, Tensor]:
        """{"x": (B, 1, *shape)}: averages over the cells of this grid, in metres."""
        x = torch.stack([self._cut(index) for index in indices])[:, None]
        return {"x": Box(2).average(x, shape)}

    def _cut(self, index: int) -> Tensor:
        if not 0 <= index < self.count:
            raise ValueError(f"Relief: expected an index from 0 to {self.count - 1}, got {index}.")
        rng = np.random.default_rng([self.seed, int(self.held_out), index])
        rows, columns = self._heights.shape
        top = int(rng.integers(rows - self.window + 1))
        while True:
            left = int(rng.integers(columns))
            west, east = left / PER_DEGREE, (left + self.window) / PER_DEGREE
            inside = any(a <= west and east <= b for a, b in HELD_OUT)
            clear = not any(west < b + turn and a + turn < east for a, b in HELD_OUT for turn in (0, 360))
            if inside if self.held_out else clear:
                break
        across = torch.arange(left, left + self.window) % columns
        x = self._heights[top : top + self.window].index_select(1, across)
        return x.flip([axis for axis in (0, 1) if rng.random() < 0.5])


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the file; a mistake ends the program with a message."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("relief", metavar="etopo5.cdf", help="the relief; Debian's ferret-datasets has it")
    parser.add_argument("out", metavar="OUT.h5", help="the file to write, or to continue")
    parser.add_argument("--count", type=int, default=8192, metavar="N", help="number of windows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--window", type=int, default=64, metavar="CELLS", help="side of a window, in cells of 5 minutes"
    )
    parser.add_argument("--held-out", action="store_true", help="windows within the spans that are held out")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[16, 24, 32, 64], metavar="N")
    args = parser.parse_args(arguments)
    try:
        relief = Relief(args.relief, args.count, args.seed, window=args.window, held_out=args.held_out)
        attributes = {"source": SOURCE, "licence": LICENCE, "grid": "cell averages", "unit": "m", "window": args.window}
        attributes |= {"places": f"seed {args.seed}, held out {args.held_out}, spans {HELD_OUT}"}
        write_fields(args.out, relief, [(n, n) for n in args.resolutions], attributes=attributes, dtype="float32")
    except ValueError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
