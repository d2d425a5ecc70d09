# ruff: noqa: B008 (defaults that are frozen settings)
"""fnodiff upscale: finer pictures of a coarse one."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from fnodiff.cli.arguments import General, Source, Whole, Words, is_finer, seeds_of, size_name, sizes_of
from fnodiff.cli.data import ArrayOptions
from fnodiff.cli.sample import ModelOptions, SolverOptions

if TYPE_CHECKING:
    from torch import Tensor

    from fnodiff.cli.drawing import Drawing
    from fnodiff.domain import Domain, Shape


def upscale(
    model: Source,
    picture: Path,
    *,
    size: Words,
    seeds: str = "0-3",
    out: Path = Path("upscaled"),
    start: Annotated[str | None, Parameter(name="--from")] = None,
    x: Words | None = None,
    channel_axis: Literal["1", "-1"] | None = None,
    index: Whole = 0,
    format: Literal["png", "hdf5"] | None = None,
    reading: ModelOptions = ModelOptions(),
    solver: SolverOptions = SolverOptions(),
    general: General = General(),
) -> None:
    """Draw finer pictures of a coarse one: zero-shot super-resolution.

    fnodiff upscale run photo.png --size 128 --seeds 0-3 --out upscaled

    The low modes are the picture's, the rest is sampled: other seeds are other pictures that fit. `OUT/128x128` has a picture
    for each seed. Beside it are `low.png`, `bicubic-128x128.png`, and all of them side by side in `comparison-128x128.png`.

    Args:
        picture: A PNG, JPEG, WebP or TIFF, which is cropped at its centre to the proportions of --size; or a file of
            fields that train reads: an .h5 of `write_fields`, or arrays.
        size: The finer grid, 128 or 96x128; several draw several.
        seeds: Such as 0-3 or 0-3,7.
        out: Folder of the pictures.
        start: Average to this grid first, 32 or 24x32. By default a picture's pixels, or a file's finest coarser grid.
        x: Name of the array of samples, of a file with several; several names are channels.
        channel_axis: Where an array has its channels: after the samples, or last.
        index: Of the field in a file, from 0.
        format: By default png for pictures, in colour or grey, hdf5 for other fields.
    """
    chosen = seeds_of(seeds)

    from fnodiff.cli.drawing import Drawing
    from fnodiff.data.files import SUFFIXES

    drawing = Drawing(model, out, reading, solver.make(), format, general.quiet)
    domain, channels = drawing.model.sde.domain, drawing.model.channels
    shapes = sizes_of(size, domain)
    small = None if start is None else sizes_of([start], domain)[0]
    if len({tuple(n / max(shape) for n in shape) for shape in shapes}) > 1:
        raise ValueError(f"expected sizes of the same proportions, got {' '.join(size)}; upscale to each by itself.")
    if picture.suffix.lower() in SUFFIXES:
        low, said = _read_field(picture, domain, shapes[0], small, ArrayOptions(x=x, channel_axis=channel_axis), index)
    else:
        low, said = _read_picture(picture, domain, shapes[0], small, 1 if channels == 1 else 3)
    if low.shape[0] != channels:
        raise ValueError(f"expected {channels} channels, as the model's, got {low.shape[0]} in {picture}.")
    if drawing.main and not general.quiet:
        print(said, flush=True)
    drawing.draw(shapes, chosen, low=low)
    if drawing.main:
        for shape in shapes if drawing.folder.kind == "png" else ():
            _compare(drawing, low[None], shape, chosen)
        names = ", ".join(map(size_name, shapes))
        print(f"{out}: {len(chosen)} samples at {names} of {size_name(low.shape[1:])}")


def _read_picture(
    path: Path, domain: Domain, finer: Shape, shape: Shape | None, channels: Literal[1, 3]
) -> tuple[Tensor, str]:
    """A picture (channels, *shape), cropped at its centre to the proportions of `finer`, and how it was made of the file."""
    from PIL import Image, ImageOps

    from fnodiff.data import ImageFolder

    if not domain.pictures:
        raise ValueError(f"expected a file of fields on {domain}, as the model's, got {path}; name such a one.")
    try:
        with Image.open(path) as image:
            width, height = ImageOps.exif_transpose(image).size
    except OSError as error:
        raise ValueError(f"expected a PNG, JPEG, WebP or TIFF, got {path}, which cannot be read: {error}.") from error
    crop = min(height, width * finer[0] // finer[1]), min(width, height * finer[1] // finer[0])
    shape = crop if shape is None else shape
    with tempfile.TemporaryDirectory() as folder:  # a source of this one picture
        copy = shutil.copy(path, Path(folder) / f"picture{path.suffix}")
        try:
            x = ImageFolder(folder, channels=channels).batch([0], shape)["x"][0]
        except ValueError as error:
            raise ValueError(str(error).replace(str(copy), str(path)).replace(folder, str(path.parent))) from error
    cropped = f", cropped at the centre to {size_name(crop)}" if crop != (height, width) else ""
    averaged = f", averaged to {size_name(shape)}" if shape != crop else ""
    return x, f"{path}: {height}x{width} pixels{cropped}{averaged}"


def _read_field(
    path: Path, domain: Domain, finer: Shape, shape: Shape | None, arrays: ArrayOptions, index: int
) -> tuple[Tensor, str]:
    """A field (C, *shape) of a file, and what it is."""
    from fnodiff.data.source import check_domain

    fields = arrays.open(str(path), domain)
    check_domain("upscale", fields, domain)
    if not 0 <= index < len(fields):
        raise ValueError(f"expected --index from 0 to {len(fields) - 1}, the samples of {path}, got {index}; name one.")
    grids = getattr(fields, "shapes", None) or [fields.shape]
    coarser = [grid for grid in grids if len(grid) == len(finer) and is_finer(finer, grid)]
    if shape is None and not coarser:
        got = ", ".join(map(size_name, grids))
        raise ValueError(f"expected a grid coarser than {size_name(finer)} in {path}, got {got}; name a larger --size.")
    shape = coarser[-1] if shape is None else shape
    batch = fields.batch([index], shape)
    if "mask" in batch and batch["mask"].min() == 0:
        raise ValueError(
            f"expected a field that is known everywhere, got missing values in sample {index}; name another."
        )
    return batch["x"][0], f"{path}: sample {index} at {size_name(shape)}"


def _compare(drawing: Drawing, low: Tensor, shape: Shape, seeds: list[int]) -> None:
    """The coarse picture, a bicubic one, and some samples, each as a file and side by side."""
    import torch

    from fnodiff.cli.drawing import upsampled, write_picture

    out, domain, name = drawing.folder.path, drawing.model.sde.domain, size_name(shape)
    bicubic = upsampled(low, shape, domain)
    write_picture(out / "low.png", low[0])
    write_picture(out / f"bicubic-{name}.png", bicubic[0])
    row = torch.cat([domain.pool(low, shape), bicubic, drawing.folder.load(shape, seeds[:4])])
    write_picture(out / f"comparison-{name}.png", torch.cat(list(row), dim=-1))
