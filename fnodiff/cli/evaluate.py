# ruff: noqa: B008 (defaults that are frozen settings)
"""fnodiff evaluate: distances of samples from true fields at each size; and fnodiff report: how far the grid matters."""

from __future__ import annotations

import importlib.util
import json
import math
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fnodiff
from fnodiff.cli.arguments import General, Source, Whole, Words, is_finer, seeds_of, size_name, sizes_of
from fnodiff.cli.data import ArrayOptions, true_fields
from fnodiff.cli.sample import ModelOptions, PlanOptions, SolverOptions

if TYPE_CHECKING:
    from fnodiff.cli.drawing import Drawing
    from fnodiff.data import Fields
    from fnodiff.domain import Shape

FIGURES = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".eps", ".ps")
"""What a figure can be written as."""
LOOKS = {
    "sampled": {"marker": "o"},
    "upsampled": {"marker": "s", "ls": "--"},
    "other true": {"color": "gray", "ls": ":", "marker": "."},
}
"""What is compared with true fields, and its line in the figure."""


def evaluate(
    model: Source,
    *,
    data: str,
    sizes: Words | None = None,
    seeds: str = "0-255",
    out: Path = Path("evaluated"),
    inception: bool = False,
    arrays: ArrayOptions = ArrayOptions(),
    reading: ModelOptions = ModelOptions(),
    solver: SolverOptions = SolverOptions(),
    plan: PlanOptions = PlanOptions(),
    general: General = General(),
) -> None:
    """Measure how far samples are from true fields, at each size.

    fnodiff evaluate run --data pictures --sizes 32 48 64 --seeds 0-255 --out evaluated

    Samples are compared with as many true fields on the same grid. So are other true fields, which is the least that so many
    can reach, and above the training grids the samples of the largest one, upsampled (bicubic on a box). The table is written
    as `OUT/distances.json` too, and drawn as `OUT/distances.png`. Samples that are in OUT already are not drawn again.

    Args:
        data: Unseen true fields, twice as many as seeds: a folder or zip of pictures, an .h5 of fields, a file of arrays, or
            files of The Well.
        sizes: By default the training grids, and 1.5 times and twice the largest, as far as the data have them.
        seeds: Such as 0-255.
        out: Folder of samples, table and figure.
        inception: FID and KID too, resized as torch-fidelity does: wants `pip install fnodiff[fid]` and Inception's weights.
    """
    chosen = seeds_of(seeds)
    check_inception(inception)
    if len(chosen) < 2:
        raise ValueError(f"expected two seeds or more, got {seeds}; distances are of sets.")

    from fnodiff.cli.drawing import Drawing
    from fnodiff.report import own_conditions, table

    drawing = Drawing(model, out, reading, solver.make(), None, general.quiet)
    trained, domain = drawing.model, drawing.model.sde.domain
    classes = getattr(trained.network, "num_classes", 0)
    true = true_fields(data, arrays, domain, 2 * len(chosen), reading.label, classes)
    if true.channels != trained.channels:
        got = f"{true.channels} in {data}"
        raise ValueError(f"expected fields of {trained.channels} channels, as the model's, got {got}; name another.")
    shapes = usual_sizes(trained, true) if sizes is None else sizes_of(sizes, domain)
    for shape in shapes:
        true.batch([0], shape)  # a grid that the data lack is known before samples are drawn
    largest = max(trained.training_shapes, key=math.prod, default=None)
    above = largest is not None and any(is_finer(shape, largest) for shape in shapes)
    grids = shapes + [largest] * (above and largest not in shapes)
    given = own_conditions("--numbers", trained, true, len(chosen), shapes[0])
    drawing.draw(grids, chosen, plan.make(domain), condition=given)
    if not drawing.main:
        return
    rows = _distances(drawing, true, shapes, chosen, largest, inception)
    count = f"{len(chosen)} samples at each size, {2 * len(chosen)} true fields of {data}"
    print(f"{count}\n{table(rows)}")
    found = {"samples": len(chosen), "data": data, "sizes": defaultdict(dict)}
    for (size, kind), row in rows.items():
        found["sizes"][size][kind] = row
    (out / "distances.json").write_text(json.dumps(found, indent=2) + "\n")
    _draw(rows, largest, count, out / "distances.png")
    print(f"figure: {out / 'distances.png'}")


def usual_sizes(model: fnodiff.Model, true: Fields) -> list[Shape]:
    """The training grids and those beyond, as far as the data have them."""
    wanted = dict.fromkeys([*sorted(model.training_shapes, key=math.prod), *beyond(model)])
    found = []
    for shape in wanted:
        with suppress(ValueError):
            true.batch([0], shape)
            found.append(shape)
    if not found:
        raise ValueError(
            f"expected data on one of {', '.join(map(size_name, wanted))}, got none; name sizes that they have."
        )
    return found


def usual_grids(model: fnodiff.Model, true: Fields | None) -> list[Shape]:
    """Those of `beyond` that the data have; the training grids if that is one only."""
    if true is None:
        return beyond(model)
    known = usual_sizes(model, true)
    found = [shape for shape in beyond(model) if shape in known]
    return found if len(found) > 1 else known


def _distances(
    drawing: Drawing, true: Fields, shapes: list[Shape], seeds: list[int], largest: Shape | None, inception: bool
) -> dict[tuple[str, str], dict[str, float]]:
    """(size, what is compared with true fields) -> distances by name."""
    from fnodiff.cli.drawing import upsampled
    from fnodiff.report import distances, filled

    domain, rows = drawing.model.sde.domain, {}
    for shape in shapes:
        batch = true.batch(range(2 * len(seeds)), shape)
        y, other = filled(batch["x"], batch).chunk(2)
        fields = {"sampled": drawing.folder.load(shape, seeds)}
        if largest is not None and is_finer(shape, largest):
            fields["upsampled"] = upsampled(drawing.folder.load(largest, seeds), shape, domain)
        fields = {kind: filled(x, batch) for kind, x in fields.items()}
        for kind, x in {**fields, "other true": other}.items():
            rows[size_name(shape), kind] = distances(x, y, domain, drawing.model.training_shapes, inception)
    return rows


def _draw(rows: dict[tuple[str, str], dict[str, float]], largest: Shape | None, title: str, path: Path) -> None:
    """Each distance against the size."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    figure = Figure(figsize=(3.4 * len(names), 3.2), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)

    sizes = [*(size for size, _ in rows), *([] if largest is None else [size_name(largest)])]
    sides = {size: math.prod(shape) ** (1 / len(shape)) for size in sizes for shape in sizes_of([size])}
    for axis, name in zip(axes[0], names, strict=True):
        for kind, look in LOOKS.items():
            found = [(sides[size], row[name]) for (size, of), row in rows.items() if of == kind and name in row]
            if found:
                label = f"{kind} from {size_name(largest)}" if kind == "upsampled" else kind
                axis.plot(*zip(*sorted(found), strict=True), label=label, **look)
        if largest is not None:
            axis.axvline(sides[size_name(largest)], color="black", lw=0.8, ls=(0, (1, 3)))
        axis.set(title=name, xlabel="points per side", ylim=(0, None))
    axes[0, 0].legend(fontsize=8)
    figure.suptitle(f"{title}; the vertical line is the largest training grid", fontsize=9)
    figure.savefig(path, dpi=130)


def report(
    model: Source,
    *,
    data: str | None = None,
    shapes: Words | None = None,
    samples: Whole = 64,
    seed: Whole = 0,
    inception: bool = False,
    out: Path = Path("invariance_report.png"),
    arrays: ArrayOptions = ArrayOptions(),
    reading: ModelOptions = ModelOptions(),
    solver: SolverOptions = SolverOptions(),
    plan: PlanOptions = PlanOptions(),
    general: General = General(),
) -> None:
    """Measure how far the grid still matters to a model: the invariance report.

    fnodiff report run --data pictures --shapes 32 48 64

    The same seeds are sampled on every grid, and what is made of them is compared on the coarsest. With data, each grid's
    samples are compared with the truth too, and the truth with other true fields.

    Args:
        data: Unseen true fields: a folder or zip of pictures, an .h5 of fields, a file of arrays, or files of The Well.
        shapes: The grids, the coarsest first. By default the largest that the model was trained on, 1.5 times that, and twice;
            with data as far as they have them, and those of training if they are no finer.
        samples: How many on each grid; the data need twice as many.
        seed: Other seeds are other samples.
        inception: FID and KID too, resized as torch-fidelity does: wants `pip install fnodiff[fid]` and Inception's weights.
        out: The figure, of fields in two dimensions.
    """
    check_inception(inception)
    if out.suffix.lower() not in FIGURES or out.is_dir():
        raise ValueError(f"expected --out as a file of {', '.join(FIGURES)}, got {out}; name such a one.")

    from fnodiff.cli.conditions import check_given
    from fnodiff.cli.drawing import guided
    from fnodiff.report import invariance_report, own_conditions

    trained, _ = reading.load(model)
    denoiser, domain = guided(trained, reading), trained.sde.domain
    run: dict[str, Any] = {"solver": solver.make(), "samples": samples, "seed": seed, "inception": inception}
    classes = getattr(trained.network, "num_classes", 0)
    reference = None if data is None else true_fields(data, arrays, domain, 2 * samples, reading.label, classes)
    grids = usual_grids(trained, reference) if shapes is None else sizes_of(shapes, domain)
    run |= {"plan": plan.make(domain), "batch": reading.batch, "progress": not general.quiet}
    given = reading.conditions(trained, samples)
    check_given(
        trained,
        given if reference is None else {**own_conditions("--numbers", trained, reference, samples, grids[0]), **given},
        of_data=reference is not None,
    )
    run |= given
    found = invariance_report(denoiser, grids, reference, **run)
    print(found)
    if domain.dim == 2:
        out.parent.mkdir(parents=True, exist_ok=True)
        found.plot(out)
        print(f"figure: {out}")
    else:
        print(f"no figure: it is of fields in two dimensions, and these have {domain.dim}")


def check_inception(asked: bool) -> None:
    """Raise if FID and KID are asked for where they cannot be computed."""
    if asked and importlib.util.find_spec("torch_fidelity") is None:
        raise ValueError("expected torch-fidelity for --inception, got none; pip install fnodiff[fid], or omit it.")


def beyond(model: fnodiff.Model) -> list[Shape]:
    """The largest training grid, one of 1.5 times as many points a side, and one of twice as many."""
    if not model.training_shapes:
        raise ValueError("expected sizes, as the model does not know its training grids, got none; name them.")
    largest = max(model.training_shapes, key=math.prod)
    return [largest, tuple(3 * n // 2 for n in largest), tuple(2 * n for n in largest)]
