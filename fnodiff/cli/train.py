# ruff: noqa: B008 (defaults that are frozen settings)
"""fnodiff train: a model of the user's own pictures or fields."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cyclopts import Parameter

from fnodiff.cli import began
from fnodiff.cli.data import DATA, DomainOptions, TrainingData
from fnodiff.cli.recipe import NetworkOptions, NoiseOptions, ScalingOptions
from fnodiff.cli.training import General, OptimizerOptions, RunOptions, done
from fnodiff.cli.words import Reals, Words, size_name, sizes_of

if TYPE_CHECKING:
    from fnodiff import Model, MultiResolution


@Parameter(name="*", group=DATA)
@dataclass(frozen=True)
class GridOptions:
    """The grids of training, and how often each comes up."""

    shapes: Words | None = None
    """The grids: 16, or 16x24. By default all of an .h5 of fields."""

    weights: Reals | None = None
    """How often each grid comes up, in the order of --shapes. By default alike."""

    batch: int = 32
    """Samples per step."""

    warmup: int = 0
    """Steps over which the grids join, the smallest first."""


def command(
    data: str,
    *,
    grids: GridOptions = GridOptions(),
    arrays: TrainingData = TrainingData(),
    domain: DomainOptions = DomainOptions(),
    network: NetworkOptions = NetworkOptions(),
    noise: NoiseOptions = NoiseOptions(),
    scaling: ScalingOptions = ScalingOptions(),
    optimizer: OptimizerOptions = OptimizerOptions(),
    run: RunOptions = RunOptions(),
    general: General = General(),
) -> None:
    """Train a model on pictures or fields, on several grids at once.

    fnodiff train pictures --shapes 16 24 32 --minutes 60 --out run

    While it runs, the loss of each grid stands beside that of the best linear estimate: a model that is no better has learnt
    nothing but the spectrum. Ctrl-C leaves a checkpoint, and the same command goes on from there.

    Args:
        data: A folder or zip of pictures, an .h5 of `fnodiff.data.write_fields`, or a file of arrays.
    """
    import torch

    from fnodiff import DenoisingLoss, Model
    from fnodiff.train import fit, keep_freed_memory

    keep_freed_memory()
    adam, options = optimizer.make(), run.fit_options(general.quiet)
    main = options["execution"].accelerator.is_main_process
    source = _batches(data, grids, arrays, domain, run.seed)
    reference = max(source.native_shapes, key=math.prod)
    named = {"noise": noise.make_noise(source.domain, reference), "schedule": noise.make_schedule()}
    named["scaling"] = scaling.make(reference)
    going_on = began.goes_on(run.out, run.resume)
    source.fields = arrays.keep(source.fields, source.shapes, not general.quiet and main)  # all else is known to fit
    if going_on:
        model = began.resumed(run.out, network, noise, scaling)
    else:
        torch.manual_seed(run.seed)
        model = Model.for_data(source, network.make(), **named)
        if main:
            groups = grids, arrays, domain, network, noise, scaling, optimizer, run
            began.write(run.out, {"data": data, **began.flat(*groups)})
    if run.recompute:
        model.network.recompute = True
    if main and not general.quiet:
        print(_described(model, source, data), flush=True)
    loss = DenoisingLoss(model, scaling.p_mean, scaling.p_std, drop_condition=scaling.drop_condition)
    fit(model, source, loss=loss, optimizer=adam, **options)
    if main:
        print(done(model, run.out, max(model.training_shapes, key=math.prod)))


def _batches(data: str, grids: GridOptions, arrays: TrainingData, options: DomainOptions, seed: int) -> MultiResolution:
    """The data on the grids of training."""
    from fnodiff import MultiResolution

    domain = options.make(data, arrays)
    fields = arrays.load(data, domain)
    domain = getattr(fields, "domain", domain)
    own = getattr(getattr(fields, "fields", fields), "shapes", None)
    if grids.shapes is None and not own:
        raise ValueError("expected --shapes, such as --shapes 16 24 32, got none; name the grids to train on.")
    shapes = list(own) if grids.shapes is None else sizes_of(grids.shapes, domain)
    return MultiResolution(fields, domain, shapes, grids.weights, grids.batch, warmup=grids.warmup, seed=seed)


def _described(model: Model, data: MultiResolution, path: str) -> str:
    """What is trained on what, in two lines."""
    grids = ", ".join(map(size_name, data.shapes))
    count = sum(p.numel() for p in model.parameters()) / 1e6
    noise, schedule = str(model.sde.noise), str(model.sde.schedule)
    noise = noise if len(noise) < 100 else type(model.sde.noise).__name__
    classes = f" of {data.num_classes} classes" if data.num_classes else ""
    return (
        f"data: {len(data.fields)} samples of {path}{classes} on {data.domain}, at {grids}, {data.batch_size} a step\n"
        f"model: {count:.1f} million parameters, {noise}, {schedule}, {model.scaling}"
    )
