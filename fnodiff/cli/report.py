# ruff: noqa: B008 (defaults that are frozen settings)
"""fnodiff report: how far the grid still matters to a model."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING

from fnodiff.cli.data import ArrayOptions, true_fields
from fnodiff.cli.sampling import DrawOptions
from fnodiff.cli.training import General
from fnodiff.cli.words import Words, sizes_of

if TYPE_CHECKING:
    from fnodiff import Model
    from fnodiff.domain import Shape


def command(
    model: str,
    *,
    data: str | None = None,
    shapes: Words | None = None,
    samples: int = 64,
    seed: int = 0,
    inception: bool = False,
    out: Path = Path("invariance_report.png"),
    arrays: ArrayOptions = ArrayOptions(),
    how: DrawOptions = DrawOptions(),
    general: General = General(),
) -> None:
    """Measure how far the grid still matters to a model: the invariance report.

    fnodiff report run --data pictures --shapes 32 48 64

    The same seeds are sampled on every grid, and what is made of them is compared on the coarsest. With data, each grid's
    samples are compared with the truth too, and the truth with other true fields.

    Args:
        model: A folder that `train` wrote, the name of a model that comes with fnodiff, or a hub id.
        data: True fields that it was not trained on: a folder or zip of pictures, an .h5 of fields, or a file of arrays.
        shapes: The grids, the coarsest first. By default the largest that the model was trained on, 1.5 times that, and twice.
        samples: How many on each grid; the data need twice as many.
        seed: Other seeds are other samples.
        inception: FID and KID too: wants `pip install fnodiff[fid]` and Inception's weights.
        out: The figure, of fields in two dimensions.
    """
    solver = how.solver.make()
    sizes_of(shapes or ())
    check_inception(inception)

    from fnodiff.cli.samples import guided
    from fnodiff.report import invariance_report
    from fnodiff.train import keep_freed_memory

    keep_freed_memory()
    trained, _ = how.reading.load(model)
    denoiser, given = guided(trained, how.condition)
    domain = trained.sde.domain
    grids = beyond(trained) if shapes is None else sizes_of(shapes, domain)
    reference = None if data is None else true_fields(data, arrays, domain, 2 * samples, how.condition.label)
    found = invariance_report(
        denoiser,
        grids,
        reference,
        samples=samples,
        solver=solver,
        plan=how.plan.make(domain),
        seed=seed,
        batch=how.reading.batch,
        inception=inception,
        progress=not general.quiet,
        **given,
    )
    print(found)
    if domain.dim == 2:
        out.parent.mkdir(parents=True, exist_ok=True)
        found.plot(out)
        print(f"figure: {out}")


def check_inception(asked: bool) -> None:
    """Raise if FID and KID are asked for where they cannot be computed."""
    if asked and importlib.util.find_spec("torch_fidelity") is None:
        raise ValueError(
            "expected torch-fidelity for --inception, got none; pip install fnodiff[fid], or leave it out."
        )


def beyond(model: Model) -> list[Shape]:
    """The largest training grid, one of 1.5 times as many points a side, and one of twice as many."""
    if not model.training_shapes:
        raise ValueError("expected sizes, as the model does not know its training grids, got none; name them.")
    largest = max(model.training_shapes, key=math.prod)
    return [largest, tuple(3 * n // 2 for n in largest), tuple(2 * n for n in largest)]
