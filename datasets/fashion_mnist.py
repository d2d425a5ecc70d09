"""Fashion-MNIST at several resolutions in one HDF5 file: 70,000 grey pictures of 28 x 28 in ten classes.

    apt-get install dataset-fashion-mnist   # puts the four files below /usr/share/datasets
    python datasets/fashion_mnist.py FOLDER fashion.h5
    python datasets/fashion_mnist.py FOLDER fashion-test.h5 --held-out

Pictures are averaged over the cells of each grid, in float32: exact means of the pixels at 14 and 7, and of parts of pixels at
other sizes. The held-out set is the publisher's own, 10,000 pictures.
"""

from __future__ import annotations

import argparse
import gzip
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fnodiff import Box
from fnodiff.data import ArrayFields, write_fields

SOURCE = "Fashion-MNIST, Zalando Research; Xiao, Rasul and Vollgraf, 2017"
LICENCE = "MIT"


def read_idx(path: Path) -> np.ndarray:
    """The array of bytes in a gzipped IDX file.

    Raises:
        ValueError: If it is not one.
    """
    if not path.is_file():
        raise ValueError(f"expected {path}, found none; Debian's package dataset-fashion-mnist brings it.")
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise ValueError(f"expected a gzipped file, got {path} ({error}); fetch it again.") from error
    zero, kind, axes = struct.unpack(">HBB", data[:4]) if len(data) >= 4 else (1, 0, 0)
    shape = struct.unpack(f">{axes}I", data[4 : 4 + 4 * axes]) if len(data) >= 4 + 4 * axes else ()
    if zero or kind != 8 or len(data) != 4 + 4 * axes + int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"expected an IDX file of bytes, got {path}; fetch it again.")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def fashion_mnist(folder: str | Path, *, held_out: bool = False) -> ArrayFields:
    """60,000 pictures to train on, or 10,000 that are held out, from -1 (black) to 1, with their classes as labels."""
    part = "t10k" if held_out else "train"
    images = read_idx(Path(folder) / f"{part}-images-idx3-ubyte.gz")
    labels = read_idx(Path(folder) / f"{part}-labels-idx1-ubyte.gz")
    return ArrayFields(images.astype(np.float32) / 127.5 - 1, label=labels.astype(np.int64), domain=Box(2))


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the file; a mistake ends the program with a message."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folder", help="with the four files ...-ubyte.gz")
    parser.add_argument("out", metavar="OUT.h5", help="the file to write, or to continue")
    parser.add_argument("--held-out", action="store_true", help="the publisher's 10,000 test pictures")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[7, 14, 20, 28], metavar="N")
    args = parser.parse_args(arguments)
    try:
        fields = fashion_mnist(args.folder, held_out=args.held_out)
        attributes = {"source": SOURCE, "licence": LICENCE, "grid": "cell averages", "held_out": str(args.held_out)}
        shapes = [(n, n) for n in args.resolutions]
        write_fields(args.out, fields, shapes, attributes=attributes, dtype="float32", chunk=1000)
    except ValueError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
