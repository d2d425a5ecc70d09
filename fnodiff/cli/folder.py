"""A folder of samples: one picture for each seed, or one file of fields for each process, and the settings of all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from fnodiff.checkpoint import replace_file
from fnodiff.cli.words import size_name
from fnodiff.data import Fields, HDF5Fields, write_fields
from fnodiff.domain import Shape

SETTINGS = "sampling.json"


class SampleFolder:
    """Samples on disk: `SIZE/seed-000012.png`, or `SIZE-seeds-0-63.h5` in the data's units.

    Args:
        path: The folder; it is made when something is written.
        kind: What a sample is stored as.

    Raises:
        ValueError: If the path is a file.
    """

    def __init__(self, path: Path, kind: Literal["png", "hdf5"]) -> None:
        if path.exists() and not path.is_dir():
            raise ValueError(f"expected --out to be a folder, got the file {path}; name another one.")
        self.path, self.kind = path, kind

    def check(self, settings: Mapping[str, Any]) -> None:
        """Write down how the samples are drawn, or compare with how those that are there were.

        Raises:
            ValueError: If they were drawn otherwise.
        """
        file, now = self.path / SETTINGS, json.loads(json.dumps(settings))
        if file.is_file():
            there = json.loads(file.read_text())
            for name in sorted({*there, *now}):
                if there.get(name) != now.get(name):
                    raise ValueError(
                        f"expected samples of the same settings in {self.path}, got {name} {now.get(name)}, and there "
                        f"{there.get(name)}; name another --out."
                    )
            return
        self.path.mkdir(parents=True, exist_ok=True)
        replace_file(file, lambda new: new.write_text(json.dumps(now, indent=2) + "\n"))

    def fill(
        self,
        source: Fields,
        seeds: Sequence[int],
        shape: Shape,
        *,
        batch: int,
        progress: bool,
        attributes: Mapping[str, str | int],
    ) -> None:
        """Draw what is missing of these seeds; `source` has a sample for each."""
        if self.kind == "png":
            self._fill_pictures(source, seeds, shape, batch, progress)
            return
        file = self.path / f"{size_name(shape)}-seeds-{seeds[0]}-{seeds[-1]}.h5"
        about = {**attributes, "seeds": ",".join(map(str, seeds))}
        options = {"dtype": "float32", "chunk": batch, "progress": progress}
        write_fields(file, source, [shape], attributes=about, **options)

    def load(self, shape: Shape, seeds: Sequence[int]) -> Tensor:
        """What is there of these seeds, (len(seeds), C, *shape) in data units."""
        if self.kind == "png":
            return torch.stack([read_picture(self._picture(shape, seed)) for seed in seeds])
        found: dict[int, Tensor] = {}
        for file in sorted(self.path.glob(f"{size_name(shape)}-seeds-*.h5")):
            fields = HDF5Fields(file)
            here = [int(seed) for seed in str(fields.attributes["seeds"]).split(",")]
            x = fields.batch(range(len(fields)), shape)["x"]
            found |= {seed: one for seed, one in zip(here, x, strict=True) if seed in set(seeds)}
        return torch.stack([found[seed] for seed in seeds])

    def _picture(self, shape: Shape, seed: int) -> Path:
        return self.path / size_name(shape) / f"seed-{seed:06d}.png"

    def _fill_pictures(self, source: Fields, seeds: Sequence[int], shape: Shape, batch: int, progress: bool) -> None:
        """Each picture is replaced in one move; those that are there stay."""
        (self.path / size_name(shape)).mkdir(parents=True, exist_ok=True)
        missing = [i for i, seed in enumerate(seeds) if not self._picture(shape, seed).is_file()]
        beyond, count = 0, 0
        with tqdm(
            total=len(seeds), initial=len(seeds) - len(missing), desc=size_name(shape), disable=not progress
        ) as bar:
            for start in range(0, len(missing), batch):
                rows = missing[start : start + batch]
                x = source.batch(rows, shape)["x"]
                beyond, count = beyond + int((x.abs() > 1).sum()), count + x.numel()
                for i, one in zip(rows, x, strict=True):
                    write_picture(self._picture(shape, seeds[i]), one)
                bar.update(len(rows))
        if beyond:
            where = self.path / size_name(shape)
            print(f"{where}: {beyond / count:.2%} of the values lay beyond [-1, 1] and were clipped to it")


def write_picture(path: Path, x: Tensor) -> None:
    """A field (1 or 3, height, width) in [-1, 1], clipped to it, as a PNG file, in one move."""
    levels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(0, -1).numpy()
    image = Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)
    replace_file(path, lambda new: image.save(new, "png"))


def read_picture(path: Path) -> Tensor:
    """What `write_picture` wrote."""
    levels = np.array(Image.open(path))
    return torch.from_numpy(levels.reshape(*levels.shape[:2], -1)).movedim(-1, 0).float() / 127.5 - 1
