"""Windows of measured terrain at several resolutions in one HDF5 file: an elevation model that matplotlib ships.

    python datasets/terrain.py terrain.h5 --count 4096 --resolutions 24 32 48 96
    python datasets/terrain.py terrain-test.h5 --count 512 --held-out

Every window is averaged over the cells of each grid, in metres less the window's mean and divided by --scale, as float32.
Windows to train on never touch a strip at the western edge, and those held out lie inside it. Interrupted, the same command
continues where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fnodiff.data import write_fields
from fnodiff.data.terrain import CELL, Terrain

SOURCE = "SRTM, 3 arc-seconds, around the Jacksboro fault, Tennessee: matplotlib's sample data jacksboro_fault_dem.npz"
LICENCE = "public domain (NASA/USGS), distributed with matplotlib"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the file; a mistake ends the program with a message."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("out", type=Path, metavar="OUT.h5", help="the file to write, or to continue")
    parser.add_argument("--count", type=int, default=4096, metavar="N", help="number of windows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--window", type=int, default=96, metavar="CELLS", help="side of a window, in cells of 3 seconds"
    )
    parser.add_argument("--resolutions", type=int, nargs="+", default=[24, 32, 48, 96], metavar="N")
    parser.add_argument("--held-out", action="store_true", help="windows inside the strip that is held out")
    parser.add_argument("--scale", type=float, default=100.0, metavar="METRES", help="metres per unit of the samples")
    parser.add_argument("--absolute", action="store_true", help="keep the windows' mean elevation")
    parser.add_argument("--flip", action="store_true", help="mirror windows at random")
    args = parser.parse_args(arguments)
    try:
        terrain = Terrain(
            args.count,
            args.seed,
            window=args.window,
            held_out=args.held_out,
            centre=not args.absolute,
            scale=args.scale,
            flip=args.flip,
        )
        attributes = {
            "source": SOURCE,
            "licence": LICENCE,
            "grid": "cell averages",
            "unit": f"{args.scale:g} m above " + ("the sea" if args.absolute else "the window's mean"),
            "window": args.window,
            "cell_height_m": CELL[0],
            "cell_width_m": CELL[1],
            # So that an interrupted file is never continued with other windows.
            "windows": f"seed {args.seed}, strip {terrain.strip}, held out {args.held_out}, flipped {args.flip}",
        }
        write_fields(args.out, terrain, [(n, n) for n in args.resolutions], attributes=attributes, dtype="float32")
    except ValueError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
