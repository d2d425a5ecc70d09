# ruff: noqa: B008 (defaults that are frozen settings)
"""fnodiff train: a model of the user's own pictures or fields; and fnodiff finetune, the paper's mixed fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import fnodiff
from fnodiff.cli.arguments import (
    General,
    MaybeWhole,
    Reals,
    Source,
    Whole,
    Words,
    flag,
    option,
    options,
    size_name,
    sizes_of,
)
from fnodiff.cli.begun import BEGUN, TUNED, check_begun, check_tuned, say_other_data, write_begun
from fnodiff.cli.data import DomainOptions, TrainingData
from fnodiff.cli.model import NetworkOptions, NoiseOptions, ScalingOptions
from fnodiff.cli.sample import check_gpu, read_model
from fnodiff.cli.tracking import TrackingOptions

if TYPE_CHECKING:
    from fnodiff.domain import Shape
    from fnodiff.train import Adam, Preview


@options("Data", 1)
class GridOptions:
    """The grids of training, and how often each comes up."""

    shapes: Words | None = option("The grids: 16, or 16x24. By default all of an .h5 of fields.")
    weights: Reals | None = option("How often each grid comes up, in the order of --shapes. By default alike.")
    batch: Whole = option("Samples per step.", 32)
    warmup: Whole = option("Steps over which the grids join, the smallest first.", 0)


@options("Optimizer", 5)
class OptimizerOptions:
    """Adam, and the moving average of the weights."""

    lr: float = option("Learning rate.", 1e-3)
    rampup: Whole = option("Steps over which it rises linearly.", 100)
    decay: float = option("The last share of the run, over which it falls to zero; 1 for all of it.", 0.0)
    clip: float = option("Largest norm of the gradient.", 1.0)
    ema_halflife: float = option("Half-life of the moving average of the weights, in samples.", 20_000)

    def make(self) -> Adam:
        """As `fit` takes it."""
        from fnodiff.train import Adam

        return Adam(**vars(self))


@options("Run", 6)
class RunOptions:
    """How long a run takes, where it goes, and how it is carried out."""

    steps: MaybeWhole = option("Stop after so many in all.")
    minutes: float | None = option("Stop after so many from now; with --steps, whichever comes first.")
    out: Path = option("Folder of the model and of the run's state.", Path("run"))
    resume: Literal["auto", "always", "never"] = option(
        "Go on with the run in --out, if there is one; refuse if there is none; or if there is one.", "auto"
    )
    save_every: Whole = option("Steps between checkpoints.", 1000)
    seed: Whole = option("Of the first weights, the order of the data and the noise.", 0)
    reproducible: bool = option("The same run on any number of processes: noise from --seed, step and place.", False)
    workers: Whole = option("Processes that prepare batches.", 0)
    device: Literal["cpu", "cuda"] | None = option("By default a GPU, if there is one.")
    precision: Literal["no", "bf16", "fp16"] | None = option("Mixed precision; by default as `accelerate launch` says.")
    parts: Whole = option("Go through each batch in so many parts, which takes less memory.", 1)
    recompute: bool = option("Keep less for the gradient and compute it again: less memory, more time.", False)
    shard: bool = option("Leave each of several processes its share of the weights (FSDP).", False)
    cuda_graphs: bool = option("Start all of a network's kernels by one call, on one GPU.", False)

    def fit_options(self, quiet: bool, tracking: TrackingOptions) -> dict[str, Any]:
        """What `fit` takes beside model, data, loss and optimizer."""
        import torch
        from accelerate import Accelerator

        from fnodiff.train import Execution, Logging, keep_freed_memory

        keep_freed_memory()
        ends = [value for value in (self.steps, self.minutes) if value is not None]
        if not ends or not min(ends) > 0:  # `fit` says so too, but after the data were read
            got = f"{self.steps} and {self.minutes}"
            raise ValueError(f"expected --steps >= 1 or --minutes above 0, got {got}; say when to stop.")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"expected --seed from 0 to 2**63 - 1, got {self.seed}; 0 is usual.")
        if self.parts < 1:
            raise ValueError(f"expected --parts >= 1, got {self.parts}; 1 is the whole batch at once.")
        check_gpu(self.device)
        tracking.check()
        # without cpu=True accelerate takes several processes on CPUs for as many runs
        cpu = self.device == "cpu" or not torch.accelerator.is_available()
        seed = self.seed if self.reproducible else None
        parts, tracker = self.parts, tracking.tracker
        accelerator = Accelerator(
            cpu=cpu,
            mixed_precision=self.precision,
            gradient_accumulation_steps=parts,
            log_with=tracker,
            project_dir=self.out,
        )
        execution = Execution(accelerator, self.save_every, self.workers, seed, self.shard, self.cuda_graphs)
        fitting = {"steps": self.steps, "minutes": self.minutes, "folder": self.out, "execution": execution}
        resume = {"auto": "auto", "always": True, "never": False}[self.resume]
        return {**fitting, "resume": resume, "logging": Logging(progress=not quiet)}

    def goes_on(self) -> bool:
        """Whether the folder, which is made, holds a run that is to go on; ValueError if what it holds is not as wished."""
        from fnodiff.checkpoint import CONFIG
        from fnodiff.train import STATE

        there = (self.out / STATE).is_file()
        if self.resume == ("never" if there else "always"):
            wanted, got = ("no run", "holds one") if there else ("a run", "holds none")
            raise ValueError(f"expected {wanted} in --out, got {self.out}, which {got}; name another, or no --resume.")
        if not there and (self.out / CONFIG).is_file():
            raise ValueError(f"expected a new --out, got {self.out}, which holds a model alone; name another.")
        self.out.mkdir(parents=True, exist_ok=True)
        return there

    def done(self, model: fnodiff.Model, shape: Shape) -> str:
        """What to say at the end: where the model is, and how it is sampled on a grid."""
        extra = " --label 0" if getattr(model.network, "num_classes", 0) else ""
        extra += " --condition-file FILE" if getattr(model.network, "condition_channels", 0) else ""
        units = model.condition_normalization.get("condition")
        if model.condition_names and units is not None:
            names = (name.replace(" ", "-") for name in model.condition_names)
            extra += " --condition " + " ".join(f"{n}={m:.3g}" for n, m in zip(names, units.mean, strict=True))
        return f"{self.out}: trained. Next: fnodiff sample {self.out} --size {size_name(shape)}{extra} --out samples"


def train(
    data: str,
    *,
    init: Source | None = None,
    classes_from: str | None = None,
    grids: GridOptions = GridOptions(),
    arrays: TrainingData = TrainingData(),
    domain: DomainOptions = DomainOptions(),
    network: NetworkOptions = NetworkOptions(),
    noise: NoiseOptions = NoiseOptions(),
    scaling: ScalingOptions = ScalingOptions(),
    optimizer: OptimizerOptions = OptimizerOptions(),
    run: RunOptions = RunOptions(),
    tracking: TrackingOptions = TrackingOptions(),
    general: General = General(),
) -> None:
    """Train a model on pictures or fields, on several grids at once.

    fnodiff train pictures --shapes 16 24 32 --minutes 60 --out run

    While it runs, the loss of each grid stands beside that of the best linear estimate: a model that is no better has learnt
    nothing but the spectrum. Ctrl-C leaves a checkpoint, and the same command goes on from there.

    Args:
        data: A folder or zip of pictures, an .h5 of `fnodiff.data.write_fields`, a file of arrays, or files of The Well.
        init: Begin with this trained model instead of a new one: a folder of train, a name, or a hub id. Its network, noise,
            scaling and units stay; the grids may be others.
        classes_from: A Python file or module, which is run, with classes that its config.json names.
    """
    import torch

    of_loss = {name: getattr(scaling, name) for name in ("p_mean", "p_std", "drop_condition")}
    if init is not None and (network, noise, scaling) != (NetworkOptions(), NoiseOptions(), ScalingOptions(**of_loss)):
        raise ValueError(
            f"expected no options of network, noise or scaling with --init {init}, which has its own; leave them out."
        )
    fitting = {"optimizer": optimizer.make(), **run.fit_options(general.quiet, tracking)}
    main = fitting["execution"].accelerator.is_main_process
    source = _batches(data, grids, arrays, domain, run.seed)
    reference = max(source.native_shapes, key=math.prod)
    chosen = {"noise": noise.make_noise(source.domain, reference), "schedule": noise.make_schedule()}
    chosen["scaling"] = scaling.make(reference)
    going_on = run.goes_on()
    everything = {
        "--data": data,
        "--init": init,
        "--classes-from": classes_from,
        **_flags(grids, arrays, domain, network, noise, scaling, optimizer, run, tracking),
    }
    source.fields = arrays.keep(source.fields, source.shapes, not general.quiet and main)  # all else is known to fit
    if going_on:
        check_begun(
            run.out,
            {"--init": init, **_flags(network, noise, scaling)},
            _flags(NetworkOptions(), NoiseOptions(), ScalingOptions()),
        )
        say_other_data(run.out / BEGUN, "train", data, main)
        model = read_model(str(run.out), classes_from)
    else:
        torch.manual_seed(run.seed)
        model = (
            fnodiff.Model.for_data(source, network.make(), **chosen) if init is None else read_model(init, classes_from)
        )
        if main:
            write_begun(run.out / BEGUN, "train", {**everything, "--out": None, "--resume": None})
    if run.recompute:
        model.network.recompute = True
    if main and not general.quiet:
        _describe(model, source, data)
    loss = fnodiff.DenoisingLoss(model, scaling.p_mean, scaling.p_std, drop_condition=scaling.drop_condition)
    with _watched(fitting, run.out, everything, tracking, tracking.preview(model, source.fields, source.shapes)):
        fnodiff.fit(model, source, loss=loss, **fitting)
    if main:
        print(run.done(model, max(model.training_shapes, key=math.prod)))


@options("Optimizer", 5)
class SlowerOptimizer(OptimizerOptions):
    """With the rate of fine-tuning."""

    lr: float = option("Learning rate.", 1e-4)


@options("Run", 6)
class RunElsewhere(RunOptions):
    """In the folder of fine-tuning."""

    out: Path = option("Folder of the model and of the run's state.", Path("finetuned"))


def finetune(
    model: Source,
    data: str,
    *,
    size: str,
    weight: float = 0.3,
    batch: Whole = 32,
    classes_from: str | None = None,
    arrays: TrainingData = TrainingData(),
    optimizer: SlowerOptimizer = SlowerOptimizer(),
    run: RunElsewhere = RunElsewhere(),
    tracking: TrackingOptions = TrackingOptions(),
    general: General = General(),
) -> None:
    """Go on training a model for a finer grid: the paper's mixed fine-tuning.

    fnodiff finetune run pictures --size 160 --weight 0.3 --minutes 60

    Some batches are the data, upsampled to the finer grid: they teach what a sample looks like as a whole there. The others
    keep the detail. The first level of the network stays as it is, and so do norms and spectral weights of the next two.

    Args:
        data: What it was trained on: a folder or zip of pictures, an .h5 of fields, a file of arrays, or files of The Well.
        size: The finer grid: 160, or 160x96.
        weight: The share of batches that are upsampled to it.
        batch: Samples per step.
        classes_from: A Python file or module, which is run, with classes that config.json names.
    """
    import torch

    from fnodiff.train import mixed_finetune

    if arrays.augment:
        raise ValueError(
            f"expected no --augment with finetune, which sees samples as they are, got {arrays.augment}; omit it."
        )
    fitting = {"optimizer": optimizer.make(), **run.fit_options(general.quiet, tracking)}
    main = fitting["execution"].accelerator.is_main_process
    trained = read_model(model, classes_from)
    (shape,) = sizes_of([size], trained.sde.domain)
    fields = arrays.load(data, trained.sde.domain)
    going_on = run.goes_on()  # or refuses
    fields = arrays.keep(fields, trained.training_shapes, not general.quiet and main)
    everything = {"--model": model, "--data": data, **_flags(arrays, optimizer, run, tracking)}
    if going_on:
        check_tuned(run.out, model)
        say_other_data(run.out / TUNED, "finetune", data, main)
    elif main:
        write_begun(run.out / TUNED, "finetune", {**everything, "--out": None, "--resume": None})
    trained.network.recompute = run.recompute
    torch.manual_seed(run.seed)
    if main and not general.quiet:
        native = ", ".join(map(size_name, trained.training_shapes))
        print(f"data: {len(fields)} samples of {data}, at {native}, and upsampled to {size_name(shape)}", flush=True)
    shapes = [*trained.training_shapes, shape]
    with _watched(fitting, run.out, everything, tracking, tracking.preview(trained, fields, shapes)):
        mixed_finetune(trained, fields, shape, weight=weight, batch_size=batch, seed=run.seed, **fitting)
    if main:
        print(run.done(trained, shape))


@contextmanager
def _watched(
    fitting: dict[str, Any], out: Path, flags: dict[str, Any], tracking: TrackingOptions, preview: Preview | None
) -> Iterator[None]:
    """Within it the tracker hears of the run, whose logging gets the preview; at the end all is written."""
    accelerator = fitting["execution"].accelerator
    tracking.begin(accelerator, out, flags)
    fitting["logging"] = replace(fitting["logging"], preview=preview)
    try:
        yield
    finally:
        if tracking.tracker is not None:
            accelerator.end_training()


def _batches(
    data: str, grids: GridOptions, arrays: TrainingData, options: DomainOptions, seed: int
) -> fnodiff.MultiResolution:
    """The data on the grids of training."""
    from fnodiff.data import Augmentation
    from fnodiff.data.source import own_domain

    domain = options.make(data, arrays)
    pictures = domain is not None and arrays.kind(data) == "pictures" and grids.shapes is not None
    smallest = tuple(map(max, zip(*sizes_of(grids.shapes, domain), strict=True))) if pictures else None
    fields = arrays.load(data, domain, smallest)
    domain = own_domain(fields) if domain is None else domain
    own = getattr(getattr(fields, "fields", fields), "shapes", None)
    if grids.shapes is None and not own:
        raise ValueError("expected --shapes, such as --shapes 16 24 32, got none; name the grids to train on.")
    shapes = list(own) if grids.shapes is None else sizes_of(grids.shapes, domain)
    augmentation = Augmentation(arrays.augment) if arrays.augment else None
    options = {"warmup": grids.warmup, "seed": seed, "augmentation": augmentation}
    return fnodiff.MultiResolution(fields, domain, shapes, grids.weights, grids.batch, **options)


def _describe(model: fnodiff.Model, data: fnodiff.MultiResolution, path: str) -> None:
    """Say what is trained on what."""
    grids, sde = ", ".join(map(size_name, data.shapes)), model.sde
    count = sum(p.numel() for p in model.parameters()) / 1e6
    noise = sde.noise if len(str(sde.noise)) < 100 else type(sde.noise).__name__
    of = f"{path} of {data.num_classes} classes" if data.num_classes else path
    channels = data.fields.channels
    of += "" if getattr(data.fields, "pictures", False) else f" ({channels} channel{'s' * (channels > 1)})"
    print(f"data: {len(data.fields)} samples of {of} on {data.domain}, at {grids}, {data.batch_size} a step")
    print(f"model: {count:.1f} million parameters, {noise}, {sde.schedule}, {model.scaling}", flush=True)


def _flags(*groups: Any) -> dict[str, Any]:
    """The options of all groups by the names of their flags, as TOML has them; None for one that was left out."""
    found = {name: value for group in groups for name, value in vars(group).items()}
    return {flag(name): list(value) if isinstance(value, tuple) else value for name, value in found.items()}
