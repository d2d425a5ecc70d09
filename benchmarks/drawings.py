"""The drawn portraits that the benchmarks measure on: from files of `datasets/portraits.py`, or drawn by it when asked for.

    python datasets/portraits.py portraits.h5 --count 16384
    python datasets/portraits.py portraits-test.h5 --count 2048 --held-out --resolutions 16 24 32 48 64 96 128

Drawing takes a tenth of a second a picture, and the packages of `pip install 'fnodiff[datasets]'`. Files need neither.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from fnodiff import Box
from fnodiff.data import HDF5Fields

SCRIPT = Path(__file__).parents[1] / "datasets" / "portraits.py"


def drawn(style: str, count: int, held_out: bool) -> Any:
    """`datasets/portraits.py`'s `Portraits`.

    Raises:
        ValueError: If the packages that draw are missing.
    """
    name = "datasets_portraits"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, SCRIPT)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name].Portraits(style, count, held_out=held_out)


class Drawings:
    """Portraits on any grid: of a file, or drawn.

    A grid that the file lacks is averaged from its finest one, which has to be twice as fine.

    Args:
        path: The file; None to draw.
        count: How many; None for all of the file, or as many as one may draw.
        held_out: Draw pictures that are not trained on. A file says for itself.
        at_most: Take a file that has fewer than `count`.

    Raises:
        ValueError: If the file has fewer, or the packages that draw are missing.
    """

    channels, cell_averages, num_classes, condition_channels = 3, True, 0, 0

    def __init__(
        self, path: Path | None, count: int | None = None, *, held_out: bool = False, at_most: bool = False
    ) -> None:
        self.file = None if path is None else HDF5Fields(path)
        self.count = count or (len(self.file) if self.file else 16384)
        if at_most and self.file:
            self.count = min(self.count, len(self.file))
        if self.file and len(self.file) < self.count:
            raise ValueError(
                f"Drawings: expected {self.count} portraits, got {len(self.file)} in {path}; take fewer, or write more by "
                f"datasets/portraits.py."
            )
        self.portraits = None if self.file else drawn("micah", self.count, held_out)

    def __len__(self) -> int:
        return self.count

    @property
    def drawings(self) -> bool:
        """Whether they are drawn portraits, which `benchmarks.attributes` reads, rather than other pictures."""
        return self.file is None or "pictures" in self.file.attributes

    def has(self, shape: tuple[int, ...]) -> bool:
        """Whether they are on this grid, without averages of averages."""
        return self.file is None or shape in self.file.shapes

    def batch(self, indices: Sequence[int], shape: tuple[int, ...]) -> dict[str, Tensor]:
        """{"x": (B, 3, *shape)}: averages over the cells of this grid.

        Raises:
            ValueError: If the file has neither this grid nor one that is twice as fine.
        """
        if self.file is None:
            return self.portraits.batch(indices, shape)
        if self.has(shape):
            return {"x": self.file.batch(indices, shape)["x"]}
        finest = self.file.shapes[-1]
        if any(2 * n > fine for n, fine in zip(shape, finest, strict=True)):
            raise ValueError(
                f"Drawings: expected portraits at {shape[0]}x{shape[1]}, got {self.file.path}, whose finest grid is "
                f"{finest[0]}x{finest[1]}; write it again with --resolutions {shape[0]} among them."
            )
        return {"x": Box(2).average(self.file.batch(indices, finest)["x"], shape)}

    def batches(self, indices: Sequence[int], shapes: Sequence[tuple[int, ...]]) -> list[dict[str, Tensor]]:
        """One batch for each grid; what is drawn is drawn once."""
        if self.file is None:
            return self.portraits.batches(indices, shapes)
        return [self.batch(indices, shape) for shape in shapes]

    def options(self) -> list[dict[str, Any]]:
        """What each drawing shows, as its style says. A file's are those of its seeds.

        Raises:
            ValueError: If the file was not written by `datasets/portraits.py`, or the packages that draw are missing.
        """
        portraits = self.portraits
        if portraits is None:
            if "pictures" not in self.file.attributes:
                raise ValueError(
                    f"Drawings: expected a file of datasets/portraits.py, got {self.file.path}, which does not name its "
                    f"pictures; write it by that script."
                )
            said = json.loads(self.file.attributes["pictures"])
            portraits = drawn(said["style"], self.count, said["held_out"])
        return [portraits.options(i) for i in range(self.count)]


def add_files(parser: argparse.ArgumentParser) -> None:
    """The options that name the files."""
    parser.add_argument("--data", type=Path, metavar="PORTRAITS.h5", help="to train on; by default they are drawn")
    parser.add_argument("--test", type=Path, metavar="TEST.h5", help="held out; by default they are drawn")
