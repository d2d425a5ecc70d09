# ruff: noqa: B008 (defaults that are frozen settings)
"""fnodiff finetune: the paper's mixed fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cyclopts import Group, Parameter

from fnodiff.cli import began
from fnodiff.cli.data import TrainingData
from fnodiff.cli.training import General, OptimizerOptions, RunOptions, done
from fnodiff.cli.words import classes_from, size_name, sizes_of


@Parameter(name="*", group=Group("Mixture", sort_key=2))
@dataclass(frozen=True)
class MixtureOptions:
    """What is mixed with the data."""

    size: str
    """The finer grid: 160, or 160x96."""

    weight: float = 0.3
    """The share of batches that are upsampled to it."""

    batch: int = 32
    """Samples per step."""

    classes_from: str | None = None
    """A Python file or module with classes of yours that the model's config.json names; it is run."""


def command(
    model: str,
    data: str,
    *,
    mixture: MixtureOptions,
    arrays: TrainingData = TrainingData(),
    optimizer: OptimizerOptions = OptimizerOptions(lr=1e-4),
    run: RunOptions = RunOptions(out=Path("finetuned")),
    general: General = General(),
) -> None:
    """Go on training a model for a finer grid: the paper's mixed fine-tuning.

    fnodiff finetune run pictures --size 160 --weight 0.3 --minutes 60

    Some batches are the data, upsampled to the finer grid: they teach what a sample looks like as a whole there. The others
    keep the detail. The first level of the network stays as it is, and so do norms and spectral weights of the next two.

    Args:
        model: A folder that `train` wrote, the name of a model that comes with fnodiff, or a hub id.
        data: What it was trained on: a folder or zip of pictures, an .h5 of fields, or a file of arrays.
    """
    import torch

    from fnodiff import Model
    from fnodiff.train import keep_freed_memory, mixed_finetune

    keep_freed_memory()
    adam, options = optimizer.make(), run.fit_options(general.quiet)
    main = options["execution"].accelerator.is_main_process
    trained = Model.from_pretrained(model, classes=classes_from(mixture.classes_from))
    domain = trained.sde.domain
    (shape,) = sizes_of([mixture.size], domain)
    fields = arrays.load(data, domain)
    began.goes_on(run.out, run.resume)  # or refuses
    trained.network.recompute = run.recompute
    torch.manual_seed(run.seed)
    if main and not general.quiet:
        native = ", ".join(map(size_name, trained.training_shapes))
        print(f"data: {len(fields)} samples of {data}, at {native}, and upsampled to {size_name(shape)}", flush=True)
    own = {"weight": mixture.weight, "batch_size": mixture.batch, "seed": run.seed}
    mixed_finetune(trained, fields, shape, optimizer=adam, **own, **options)
    if main:
        print(done(trained, run.out, shape))
