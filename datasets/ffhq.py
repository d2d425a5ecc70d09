"""Images at several resolutions in one HDF5 file, from a folder or a zip of them: FFHQ, LSUN Church, or any other.

    python datasets/ffhq.py ffhq-images1024x1024 ffhq.h5 --resolutions 32 48 64 80 96

Every image is cropped to its central square and averaged over the cells of each grid, never interpolated. Interrupted,
the same command continues where it stopped. Nothing is downloaded: README.md says where the images come from.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

from fnodiff.data import ImageFolder, write_fields

SOURCE = "Flickr-Faces-HQ (FFHQ), NVIDIA; Karras, Laine and Aila, 2019"
LICENCE = "CC BY-NC-SA 4.0 (NVIDIA); the individual images are under their own licences"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the file; a mistake ends the program with a message."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("images", type=Path, metavar="SOURCE", help="a folder or a .zip of PNG, JPEG or WebP images")
    parser.add_argument("out", type=Path, metavar="OUT.h5", help="the file to write, or to continue")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[32, 48, 64, 80, 96], metavar="N")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N images only, in the order of their names")
    parser.add_argument("--on-error", choices=("raise", "skip"), default="raise", help="what to do with broken images")
    parser.add_argument("--name", help="what the images are, with --licence; FFHQ if neither is given")
    parser.add_argument("--licence", help="the licence of the images, with --name")
    args = parser.parse_args(arguments)
    if (args.name is None) != (args.licence is None):
        parser.error("expected both --name and --licence, or neither for FFHQ")
    try:
        images = ImageFolder(args.images, on_error=args.on_error)
        print(images, *images.broken, sep="\n")
        attributes = {
            "source": args.name or SOURCE,
            "licence": args.licence or LICENCE,
            "grid": "cell averages",
            # So that an interrupted file is never continued with other images.
            "names_sha256": hashlib.sha256("\n".join(images.names).encode()).hexdigest(),
        }
        shapes = [(n, n) for n in args.resolutions]
        write_fields(args.out, images, shapes, attributes=attributes, length=args.limit)
    except ValueError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
