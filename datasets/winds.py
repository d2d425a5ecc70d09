"""Monthly surface winds on the sphere at several resolutions in one HDF5 file: the U.S. Navy's analyses, 1982 to 1992.

    apt-get install ferret-datasets         # or any copy of monthly_navy_winds.cdf
    python datasets/winds.py monthly_navy_winds.cdf winds.h5
    python datasets/winds.py monthly_navy_winds.cdf winds-test.h5 --held-out

A field has two channels, the wind to the east and to the north in m/s, on 73 x 144 points from pole to pole, which is
`Sphere("equiangular")`. Coarser grids hold the same degrees, as far as they can. The last 24 of the 132 months are held out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.io import netcdf_file

from fnodiff.data import ArrayFields, write_fields

SOURCE = "Fleet Numerical Oceanography Center's monthly winds, monthly_navy_winds.cdf as the ferret datasets have it"
LICENCE = "public domain (U.S. government)"
MONTHS_HELD_OUT = 24


def winds(path: str | Path, *, held_out: bool = False) -> ArrayFields:
    """The months to train on, or those that are held out.

    Raises:
        ValueError: If the file is not that of the winds.
    """
    if not Path(path).is_file():
        raise ValueError(
            f"winds: expected a file monthly_navy_winds.cdf, got {path}; apt-get install ferret-datasets brings one."
        )
    with netcdf_file(path, "r", mmap=False) as file:
        missing = [name for name in ("UWND", "VWND", "FNOCX", "FNOCY") if name not in file.variables]
        if missing:
            raise ValueError(f"winds: expected {missing} in {path}, found {list(file.variables)}.")
        u, v, longitudes, latitudes = (
            file.variables[name].data.astype(np.float32) for name in ("UWND", "VWND", "FNOCX", "FNOCY")
        )
    x = np.stack([u, v], axis=1)
    if not np.abs(x).max() < 99:  # -99.9 stands for missing
        raise ValueError(
            f"winds: expected speeds below 99 m/s, got {np.abs(x).max()}; the file may have missing values."
        )
    months = x[-MONTHS_HELD_OUT:] if held_out else x[:-MONTHS_HELD_OUT]
    return ArrayFields(months, latitudes=latitudes, longitudes=longitudes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the file; a mistake ends the program with a message."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("winds", metavar="monthly_navy_winds.cdf", help="the winds; Debian's ferret-datasets has them")
    parser.add_argument("out", metavar="OUT.h5", help="the file to write, or to continue")
    parser.add_argument("--held-out", action="store_true", help=f"the last {MONTHS_HELD_OUT} months")
    parser.add_argument("--latitudes", type=int, nargs="+", default=[19, 37, 73], metavar="N", help="rows of each grid")
    args = parser.parse_args(arguments)
    try:
        attributes = {"source": SOURCE, "licence": LICENCE, "grid": "points", "unit": "m/s"}
        attributes |= {"months": f"held out {args.held_out}"}
        shapes = [(n, 2 * (n - 1)) for n in args.latitudes]
        fields = winds(args.winds, held_out=args.held_out)
        write_fields(args.out, fields, shapes, attributes=attributes, dtype="float32")
    except ValueError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
