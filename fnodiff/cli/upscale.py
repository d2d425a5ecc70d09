# ruff: noqa: B008 (defaults that are frozen settings)
"""fnodiff upscale: finer pictures of a coarse one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from fnodiff.cli.sampling import STEPS, ConditionOptions, ModelOptions, SolverOptions
from fnodiff.cli.training import General
from fnodiff.cli.words import Words, seeds_of, size_name, sizes_of

if TYPE_CHECKING:
    from fnodiff.cli.picture import Coarse
    from fnodiff.cli.samples import Drawing
    from fnodiff.domain import Shape

SHOWN = 4
"""Samples in the picture that compares."""


@Parameter(name="*")
@dataclass(frozen=True)
class CoarseOptions:
    """What is upscaled of a file."""

    start: Annotated[str | None, Parameter(name="--from")] = None
    """Make the picture smaller first, by averages over cells, 32 or 24x32. By default its own pixels are the coarse grid; of an
    .h5 its finest grid that is coarser than --size."""

    index: int = 0
    """Of the field in an .h5."""


def command(
    model: str,
    picture: Path,
    *,
    size: Words,
    seeds: str = "0-3",
    out: Path = Path("upscaled"),
    coarse: CoarseOptions = CoarseOptions(),
    format: Literal["png", "hdf5"] | None = None,
    options: ModelOptions = ModelOptions(),
    solver: SolverOptions = SolverOptions(),
    condition: ConditionOptions = ConditionOptions(),
    general: General = General(),
) -> None:
    """Draw finer pictures of a coarse one: zero-shot super-resolution.

    fnodiff upscale run photo.png --size 128 --seeds 0-3 --out upscaled

    The low modes are the picture's, the rest is sampled: other seeds are other pictures that fit. `OUT/128x128` has a picture
    for each seed. Beside it are `low.png`, `bicubic-128x128.png`, and all of them side by side in `comparison-128x128.png`.

    Args:
        model: A folder that `train` wrote, the name of a model that comes with fnodiff, or a hub id.
        picture: A PNG, JPEG or WebP, which is cropped at its centre to the proportions of --size; or an .h5 of fields.
        size: The finer grid, 128 or 96x128; several draw several.
        seeds: Such as 0-3 or 0-3,7.
        out: Folder of the pictures.
        format: By default png for pictures (three channels of cell averages on a box), hdf5 for other fields.
    """
    chosen = seeds_of(seeds)
    sizes_of(size)
    steps = solver.make({**STEPS, "dpm": 36})

    from fnodiff.cli.picture import read_coarse
    from fnodiff.cli.samples import Drawing

    drawing = Drawing(model, out, options, condition, format, general.quiet)
    domain, channels = drawing.model.sde.domain, drawing.model.channels
    shapes = sizes_of(size, domain)
    small = None if coarse.start is None else sizes_of([coarse.start], domain)[0]
    if len({tuple(n / max(shape) for n in shape) for shape in shapes}) > 1:
        raise ValueError(f"expected sizes of the same proportions, got {' '.join(size)}; upscale to each by itself.")
    low = read_coarse(picture, domain, shapes[0], small, coarse.index)
    if low.x.shape[0] != channels:
        raise ValueError(
            f"expected {channels} channels, as the model's, got {low.x.shape[0]} in {picture}; name another."
        )
    if drawing.main and not general.quiet:
        print(low.said, flush=True)
    drawing.draw(shapes, chosen, steps, None, low.x)
    if drawing.main:
        if drawing.folder.kind == "png":
            for shape in shapes:
                _compare(drawing, low, shape, chosen)
        names = ", ".join(map(size_name, shapes))
        print(f"{out}: {len(chosen)} samples at {names} of {size_name(low.x.shape[1:])}")


def _compare(drawing: Drawing, coarse: Coarse, shape: Shape, seeds: list[int]) -> None:
    """The coarse picture, a bicubic one, and some samples, each as a file and side by side."""
    import torch

    from fnodiff.cli.folder import write_picture
    from fnodiff.cli.picture import upsampled

    out, low = drawing.folder.path, coarse.x[None]
    domain, name = drawing.model.sde.domain, size_name(shape)
    bicubic = upsampled(low, shape, domain)
    write_picture(out / "low.png", low[0])
    write_picture(out / f"bicubic-{name}.png", bicubic[0])
    cells = domain.pool(low, shape)
    row = torch.cat([cells, bicubic, drawing.folder.load(shape, seeds[:SHOWN])])
    write_picture(out / f"comparison-{name}.png", torch.cat(list(row), dim=-1))
