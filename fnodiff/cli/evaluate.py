# ruff: noqa: B008 (defaults that are frozen settings)
"""fnodiff evaluate: distances of samples from true fields at each size, as a table and as the paper's curve."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from fnodiff.cli.data import ArrayOptions, true_fields
from fnodiff.cli.report import beyond, check_inception
from fnodiff.cli.sampling import DrawOptions
from fnodiff.cli.training import General
from fnodiff.cli.words import Words, seeds_of, size_name, sizes_of

if TYPE_CHECKING:
    from fnodiff import Model
    from fnodiff.cli.samples import Drawing
    from fnodiff.data import Fields
    from fnodiff.domain import Shape

Rows = dict[tuple[str, ...], dict[str, float]]
"""(size, of what) -> distances by name."""

SAMPLED, UPSAMPLED, TRUE = "sampled", "upsampled", "other true"


def command(
    model: str,
    *,
    data: str,
    sizes: Words | None = None,
    seeds: str = "0-255",
    out: Path = Path("evaluated"),
    inception: bool = False,
    arrays: ArrayOptions = ArrayOptions(),
    how: DrawOptions = DrawOptions(),
    general: General = General(),
) -> None:
    """Measure how far samples are from true fields, at each size.

    fnodiff evaluate run --data pictures --sizes 32 48 64 --seeds 0-255 --out evaluated

    Samples are compared with as many true fields on the same grid. So are as many other true fields, which is the least that so
    many can reach, and above the training grids the samples of the largest one, upsampled (bicubic on a box). The table is
    printed, and written as `OUT/distances.json`; `OUT/distances.png` shows each distance against the size. Samples that are in
    OUT already are not drawn again.

    Args:
        model: A folder that `train` wrote, the name of a model that comes with fnodiff, or a hub id.
        data: True fields that it was not trained on, twice as many as seeds: a folder or zip of pictures, an .h5 of fields, or
            a file of arrays.
        sizes: By default the training grids, and 1.5 times and twice the largest, as far as the data have them.
        seeds: Such as 0-255.
        out: Folder of samples, table and figure.
        inception: FID and KID too: wants `pip install fnodiff[fid]` and Inception's weights.
    """
    chosen = seeds_of(seeds)
    sizes_of(sizes or ())
    check_inception(inception)
    solver = how.solver.make()
    if len(chosen) < 2:
        raise ValueError(f"expected two seeds or more, got {seeds}; distances are of sets.")

    from fnodiff.cli.samples import Drawing
    from fnodiff.report import table

    drawing = Drawing(model, out, how.reading, how.condition, None, general.quiet)
    trained, domain = drawing.model, drawing.model.sde.domain
    true = true_fields(data, arrays, domain, 2 * len(chosen), how.condition.label)
    if true.channels != trained.channels:
        raise ValueError(
            f"expected fields of {trained.channels} channels, as the model's, got {true.channels} in {data}; name another."
        )
    shapes = usual_sizes(trained, true) if sizes is None else sizes_of(sizes, domain)
    for shape in shapes:
        true.batch([0], shape)  # a grid that the data lack is known before samples are drawn
    largest = max(trained.training_shapes, key=math.prod, default=None)
    above = [shape for shape in shapes if largest is not None and _finer(shape, largest)]
    drawing.draw(shapes + [largest] * bool(above and largest not in shapes), chosen, solver, how.plan.make(domain))
    if not drawing.main:
        return
    rows = _distances(drawing, true, shapes, chosen, largest, inception)
    count = f"{len(chosen)} samples at each size, {2 * len(chosen)} true fields of {data}"
    print(f"{count}\n{table(rows)}")
    known = {size: {kind: row for (other, kind), row in rows.items() if other == size} for size, _ in rows}
    (out / "distances.json").write_text(
        json.dumps({"samples": len(chosen), "data": data, "sizes": known}, indent=2) + "\n"
    )
    _draw(rows, {size_name(shape): shape for shape in shapes}, largest, count, out / "distances.png")
    print(f"figure: {out / 'distances.png'}")


def usual_sizes(model: Model, true: Fields) -> list[Shape]:
    """The training grids and those beyond, as far as the data have them."""
    wanted = dict.fromkeys([*sorted(model.training_shapes, key=math.prod), *beyond(model)])
    found = []
    for shape in wanted:
        try:
            true.batch([0], shape)
        except ValueError:
            continue
        found.append(shape)
    if not found:
        raise ValueError(
            f"expected data on one of the grids {', '.join(map(size_name, wanted))}, got none; name --sizes."
        )
    return found


def _finer(shape: Shape, than: Shape) -> bool:
    return shape != than and all(n >= m for n, m in zip(shape, than, strict=True))


def _distances(
    drawing: Drawing, true: Fields, shapes: list[Shape], seeds: list[int], largest: Shape | None, inception: bool
) -> Rows:
    """The distances of samples, of upsampled samples and of other true fields, on each grid."""
    from fnodiff.cli.picture import upsampled
    from fnodiff.report import distances

    domain, count, rows = drawing.model.sde.domain, len(seeds), {}
    for shape in shapes:
        y = true.batch(range(2 * count), shape)["x"]
        kinds = {SAMPLED: drawing.folder.load(shape, seeds)}
        if largest is not None and _finer(shape, largest):
            kinds[UPSAMPLED] = upsampled(drawing.folder.load(largest, seeds), shape, domain)
        kinds[TRUE] = y[count:]
        for kind, x in kinds.items():
            found = distances(x, y[:count], domain, drawing.model.training_shapes, inception)
            rows[size_name(shape), kind] = found
    return rows


def _draw(rows: Rows, sizes: dict[str, Shape], largest: Shape | None, title: str, path: Path) -> None:
    """Each distance against the size."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    figure = Figure(figsize=(3.4 * len(names), 3.2), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)

    def side(shape: Shape) -> float:
        return math.prod(shape) ** (1 / len(shape))

    looks = {
        SAMPLED: {"marker": "o"},
        UPSAMPLED: {"marker": "s", "ls": "--"},
        TRUE: {"color": "gray", "ls": ":", "marker": "."},
    }
    for axis, name in zip(axes[0], names, strict=True):
        for kind, look in looks.items():
            points = sorted(
                (side(sizes[size]), row[name]) for (size, of), row in rows.items() if of == kind and name in row
            )
            if points:
                label = f"{kind} from {size_name(largest)}" if kind == UPSAMPLED else kind
                axis.plot(*zip(*points, strict=True), label=label, **look)
        if largest is not None:
            axis.axvline(side(largest), color="black", lw=0.8, ls=(0, (1, 3)))
        axis.set(title=name, xlabel="points per side", ylim=(0, None))
    axes[0, 0].legend(fontsize=8)
    figure.suptitle(f"{title}; the vertical line is the largest training grid", fontsize=9)
    figure.savefig(path, dpi=130)
