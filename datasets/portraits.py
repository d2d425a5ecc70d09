"""Drawn portraits at several resolutions in one HDF5 file: vector drawings that an artist made, put together by a seed.

    pip install 'fnodiff[datasets]'
    python datasets/portraits.py portraits.h5 --count 16384
    python datasets/portraits.py portraits-test.h5 --count 2048 --held-out --resolutions 16 24 32 48 64 96 128
    python datasets/check.py portraits.h5 portraits-test.h5

Each picture is drawn at 384 x 384 pixels, or a little more for grids that do not divide it, and averaged over the cells of each
grid, in float32, so the grids show one function.
A picture is known by its style and its seed. Pictures that are held out have other seeds, and `check.py` makes sure that no
picture is in both files. Interrupted, the same command continues where it stopped.
"""

from __future__ import annotations

import argparse
import io
import json
import math
from collections.abc import Sequence
from importlib import import_module
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fnodiff import Box
from fnodiff.data import write_fields

SIZE = 384  # least pixels a side of the drawing; it is a multiple of 16, 24, 32, 48, 64, 96 and 128
BACKGROUNDS = ["#b6e3f4", "#c0aede", "#d1d4f9", "#ffd5dc", "#ffdfbf", "#e8f0d8"]
# Of a style's options: small moves and scalings, without which one picture in twenty of a held-out set is a training picture.
OPTIONS: dict[str, dict[str, Any]] = {
    "micah": {"scale": [0.94, 1.06], "translateX": [-4, 4], "translateY": [-3, 3]},
    # The head alone: its parts are then twice as large.
    "open-peeps": {"scale": [1.47, 1.63], "translateX": [-4, 4], "translateY": [11, 15]},
}


class Portraits:
    """Drawings of one style, as functions on the unit square.

    Args:
        style: The name of a style of the package `dicebear-styles`.
        count: How many.
        held_out: Take the seeds of the pictures that are not to be trained on.
        size: Pixels a side of the drawings.

    Attributes:
        channels: 3, for red, green and blue from -1 to 1.

    Raises:
        ValueError: If the packages are missing, or the style is unknown.
    """

    channels, cell_averages, num_classes, condition_channels = 3, True, 0, 0

    def __init__(self, style: str = "micah", count: int = 16384, *, held_out: bool = False, size: int = SIZE) -> None:
        if style not in OPTIONS:
            raise ValueError(f"Portraits: expected a style of {sorted(OPTIONS)}, got {style!r}.")
        self.name, self.count, self.held_out, self.size = style, count, held_out, size
        try:
            import_module("dicebear")
            text = files("dicebear_styles").joinpath(f"{style}.json").read_text("utf-8")
        except ImportError as error:
            raise ValueError(
                "Portraits: expected the packages that draw, but they are missing: pip install 'fnodiff[datasets]'."
            ) from error
        self._definition, self._style, self._box = json.loads(text), None, Box(2)
        meta = self._definition["meta"]
        self.source = f"{meta['source']['name']} by {meta['creator']['name']}, drawn by dicebear-core"
        self.licence = f"{meta['license']['name']}: {meta['license'].get('text', meta['license']['url'])}"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_style": None}

    def __len__(self) -> int:
        return self.count

    def options(self, index: int) -> dict[str, Any]:
        """What the drawing shows: the variants, colours and places of its parts."""
        return self._avatar(index).to_json()["options"]

    def picture(self, index: int) -> Tensor:
        """The drawing, float32 (3, size, size) from -1 to 1."""
        import resvg_py

        png = resvg_py.svg_to_bytes(svg_string=self._avatar(index).to_string(), skip_system_fonts=True)
        image = Image.open(io.BytesIO(bytes(png)))
        pixels = torch.from_numpy(np.array(image, dtype=np.float32))
        if pixels.shape != (self.size, self.size, 4) or pixels[..., 3].min() < 255:
            raise ValueError(f"Portraits: expected {self.size} x {self.size} opaque pixels, got {tuple(pixels.shape)}.")
        return (pixels[..., :3] / 127.5 - 1).movedim(-1, 0)

    def batch(self, indices: Sequence[int], shape: tuple[int, ...]) -> dict[str, Tensor]:
        """{"x": (B, 3, *shape)}: averages over the cells of this grid."""
        return self.batches(indices, [shape])[0]

    def batches(self, indices: Sequence[int], shapes: Sequence[tuple[int, ...]]) -> list[dict[str, Tensor]]:
        """One batch for each grid, from one drawing of each picture."""
        drawn = torch.stack([self.picture(i) for i in indices])
        return [{"x": self._box.average(drawn, shape)} for shape in shapes]

    def _made_of(self) -> Any:
        """What the package makes of the style: once in each process, as it cannot be given to another."""
        if self._style is None:
            from dicebear import Style

            self._style = Style(self._definition)
        return self._style

    def _avatar(self, index: int) -> Any:
        from dicebear import Avatar

        if not 0 <= index < self.count:
            raise ValueError(f"Portraits: expected an index from 0 to {self.count - 1}, got {index}.")
        seed = f"{self.name} {'held out' if self.held_out else 'train'} {index}"
        return Avatar(
            self._made_of(), {"seed": seed, "size": self.size, "backgroundColor": BACKGROUNDS, **OPTIONS[self.name]}
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the file; a mistake ends the program with a message."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("out", metavar="OUT.h5", help="the file to write, or to continue")
    parser.add_argument("--style", choices=sorted(OPTIONS), default="micah", help="who drew them")
    parser.add_argument("--count", type=int, default=16384, metavar="N", help="number of pictures")
    parser.add_argument("--held-out", action="store_true", help="pictures of other seeds, which are not trained on")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[16, 24, 32, 48, 64], metavar="N")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that draw; -1 for all cores")
    args = parser.parse_args(arguments)
    try:
        common = math.lcm(*args.resolutions) or 1
        size = common * math.ceil(SIZE / common)
        portraits = Portraits(args.style, args.count, held_out=args.held_out, size=size)
        attributes = {
            "source": portraits.source,
            "licence": portraits.licence,
            "grid": "cell averages",
            # So that an interrupted file is never continued with other pictures.
            "pictures": json.dumps(
                {"style": args.style, "held_out": args.held_out, **OPTIONS[args.style]}
                | ({} if size == SIZE else {"size": size})
            ),
        }
        shapes = [(n, n) for n in args.resolutions]
        write_fields(
            args.out, portraits, shapes, attributes=attributes, dtype="float32", chunk=32, workers=args.workers
        )
    except ValueError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
