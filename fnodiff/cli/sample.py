# ruff: noqa: B008 (defaults that are frozen settings)
"""fnodiff sample: samples into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fnodiff.cli.sampling import DrawOptions
from fnodiff.cli.training import General
from fnodiff.cli.words import Words, seeds_of, size_name, sizes_of


def command(
    model: str,
    *,
    size: Words,
    seeds: str = "0-63",
    out: Path = Path("samples"),
    format: Literal["png", "hdf5"] | None = None,
    how: DrawOptions = DrawOptions(),
    general: General = General(),
) -> None:
    """Draw samples of a model into a folder.

    fnodiff sample run --size 64 --seeds 0-15 --out pictures

    Seed i is sample i, whatever else is drawn, and one seed is one sample at every size. Pictures become
    `OUT/64x64/seed-000012.png`, other fields a file that `fnodiff.data.HDF5Fields` reads, in the data's units. A run that was
    stopped goes on where it was, and several processes share the seeds.

    Args:
        model: A folder that `train` wrote, the name of a model that comes with fnodiff, or a hub id.
        size: 64 for as many points on each side (latitudes on the globe), or 64x96; several draw several.
        seeds: Such as 0-63 or 0-3,7.
        out: Folder of the samples.
        format: By default png for pictures (three channels of cell averages on a box), hdf5 for other fields.
    """
    chosen = seeds_of(seeds)
    sizes_of(size)  # what is misspelt is known before torch is loaded
    solver = how.solver.make()

    from fnodiff.cli.samples import Drawing

    drawing = Drawing(model, out, how.reading, how.condition, format, general.quiet)
    domain = drawing.model.sde.domain
    shapes = sizes_of(size, domain)
    drawing.draw(shapes, chosen, solver, how.plan.make(domain))
    if drawing.main:
        print(f"{out}: {len(chosen)} samples at {', '.join(map(size_name, shapes))}")
