"""A picture, or a field of an .h5, to be upscaled; and what it looks like without a model."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from fnodiff.cli.words import size_name
from fnodiff.data import HDF5Fields, ImageFolder
from fnodiff.domain import Domain, Shape


@dataclass(frozen=True)
class Coarse:
    """What is upscaled.

    Attributes:
        x: (C, *shape), in data units.
        said: How it was made of the file.
    """

    x: Tensor
    said: str


def read_coarse(path: Path, domain: Domain, finer: Shape, shape: Shape | None, index: int) -> Coarse:
    """The picture or field at a path.

    Args:
        path: A PNG, JPEG or WebP, or an .h5 of fields.
        domain: The model's.
        finer: The grid to upscale to; a picture is cropped at its centre to its proportions.
        shape: The grid that it is averaged to first; by default a picture's own pixels, or the finest grid of the .h5 that is
            coarser than `finer`.
        index: Of the sample in an .h5.

    Raises:
        ValueError: If there is none, or it does not fit.
    """
    if not path.is_file():
        raise ValueError(f"expected a picture, or an .h5 of fields, got {path}, which is no file; name one.")
    if path.suffix.lower() in (".h5", ".hdf5"):
        return _field(path, finer, shape, index)
    if domain.dim != 2 or not domain.averages_cells:
        raise ValueError(
            f"expected an .h5 of fields, as the model is one on {domain}, got {path}; write such with write_fields."
        )
    try:
        with Image.open(path) as image:
            width, height = ImageOps.exif_transpose(image).size
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(
            f"expected a PNG, JPEG or WebP picture, got {path}, which cannot be read: {error}; name another."
        ) from error
    ratio = min(height / finer[0], width / finer[1])
    crop = tuple(min(n, max(1, int(ratio * m + 1e-9))) for n, m in zip((height, width), finer, strict=True))
    shape = crop if shape is None else shape
    if any(n > m for n, m in zip(shape, crop, strict=True)):
        raise ValueError(
            f"expected --from no finer than the picture, {size_name(crop)}, got {size_name(shape)}; take a smaller one."
        )
    with tempfile.TemporaryDirectory() as folder:  # a source of this one picture
        copy = Path(folder) / f"picture{path.suffix}"
        shutil.copy(path, copy)
        try:
            x = ImageFolder(folder).batch([0], shape)["x"][0]
        except ValueError as error:
            raise ValueError(str(error).replace(str(copy), str(path)).replace(folder, str(path.parent))) from error
    said = f"{path}: {height}x{width} pixels"
    said += f", cropped at the centre to {size_name(crop)}" if crop != (height, width) else ""
    return Coarse(x, said + (f", averaged to {size_name(shape)}" if shape != crop else ""))


def _field(path: Path, finer: Shape, shape: Shape | None, index: int) -> Coarse:
    fields = HDF5Fields(path)
    coarser = [
        s
        for s in fields.shapes
        if len(s) == len(finer) and s != finer and all(n <= m for n, m in zip(s, finer, strict=True))
    ]
    if shape is None and not coarser:
        grids = ", ".join(map(size_name, fields.shapes))
        raise ValueError(
            f"expected {path} to have a grid coarser than {size_name(finer)}, got {grids}; name a larger --size."
        )
    shape = coarser[-1] if shape is None else shape
    return Coarse(fields.batch([index], shape)["x"][0], f"{path}: sample {index} at {size_name(shape)}")


def upsampled(x: Tensor, shape: Shape, domain: Domain) -> Tensor:
    """Fields (B, C, *small) on a finer grid without new detail: bicubic on a box of two dimensions, else the domain's way."""
    if domain.dim == 2 and domain.averages_cells:
        return interpolate(x, size=shape, mode="bicubic")
    return domain.upsample(x, shape)
