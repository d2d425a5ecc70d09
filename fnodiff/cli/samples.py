"""Samples of a model as a source of fields, and drawn into a folder by one process or several."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fnodiff import Model, checkpoint
from fnodiff.cli.folder import SampleFolder
from fnodiff.cli.sampling import ConditionOptions, ModelOptions
from fnodiff.cost import keep_freed_memory
from fnodiff.domain import Shape
from fnodiff.sde import ClassifierFree, Denoiser, Plan, Solver, default_plan, sample, upscale
from fnodiff.sde.stages import describe


class Samples:
    """Samples as a source of fields: index i is the i-th seed.

    Args:
        denoiser: The model, guided or not.
        seeds: One for each sample.
        solver, plan: As of `fnodiff.sample`.
        low: For finer fields of a coarse one, that one, (C, *small) in data units.
        condition: Of each sample.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        seeds: Sequence[int],
        solver: Solver,
        plan: Plan | None = None,
        low: Tensor | None = None,
        **condition: int,
    ) -> None:
        self.denoiser, self.channels, self.seeds = denoiser, denoiser.channels, list(seeds)
        self.solver, self.plan, self.low, self.condition = solver, plan, low, condition

    def __len__(self) -> int:
        return len(self.seeds)

    def batch(self, indices: Sequence[int], shape: Shape) -> dict[str, Tensor]:
        """Samples of these seeds on one grid, (B, C, *shape) in data units."""
        seeds = [self.seeds[i] for i in indices]
        options: dict[str, Any] = {"solver": self.solver, "batch": len(seeds), **self.condition}
        try:
            if self.low is None:
                return {"x": sample(self.denoiser, shape, seeds, plan=self.plan, **options)}
            return {"x": upscale(self.denoiser, self.low, shape, seeds, **options)}
        except FloatingPointError as error:
            raise FloatingPointError(f"seeds {seeds[0]} to {seeds[-1]} on {shape}: {error}") from error


class Drawing:
    """A model, how its samples are drawn, and the folder that they go to.

    Args:
        name: Of the model.
        out: The folder.
        options, condition: Of the command.
        kind: What a sample is stored as; by default PNG for pictures, HDF5 for other fields.
        quiet: No bars.

    Raises:
        ValueError: If the model cannot be read, or something does not fit it.
    """

    def __init__(
        self,
        name: str,
        out: Path,
        options: ModelOptions,
        condition: ConditionOptions,
        kind: Literal["png", "hdf5"] | None = None,
        quiet: bool = False,
    ) -> None:
        keep_freed_memory()
        self.name, self.quiet, self.batch = name, quiet, options.batch
        self.model, self.state = options.load(name)
        self.denoiser, self.condition = guided(self.model, condition)
        domain, channels = self.model.sde.domain, self.model.channels
        if kind == "png" and (domain.dim != 2 or channels not in (1, 3)):
            raise ValueError(
                f"expected 1 or 3 channels in two dimensions with --format png, got {channels} on {domain}; use hdf5."
            )
        pictures = domain.dim == 2 and domain.averages_cells and self.model.cell_averages and channels == 3
        self.folder = SampleFolder(out, kind or ("png" if pictures else "hdf5"))
        self.settings = {"model": fingerprint(self.model), "guidance": condition.guidance, "format": self.folder.kind}
        self.settings["label"] = -1 if condition.label is None else condition.label

    @property
    def main(self) -> bool:
        """Whether this process is the one that speaks."""
        return self.state.is_main_process

    def draw(
        self,
        shapes: Sequence[Shape],
        seeds: Sequence[int],
        solver: Solver,
        plan: Plan | None,
        low: Tensor | None = None,
    ) -> None:
        """Draw what is missing of these seeds; with `low`, (C, *small), finer fields of it."""
        settings = {**self.settings, "solver": repr(solver), "plan": "the library's" if plan is None else repr(plan)}
        if low is not None:
            settings["upscaled"] = hashlib.sha256(low.contiguous().numpy().tobytes()).hexdigest()[:16]
        if self.main:
            self.folder.check(settings)
            if low is None and not self.quiet:
                for shape in shapes:
                    stages = (plan or default_plan(self.denoiser, shape)).plan(
                        self.denoiser, shape, solver.times(self.model.sde.schedule)
                    )
                    print(f"{type(solver).__name__}: {describe(stages)}", file=sys.stderr)
        self.state.wait_for_everyone()
        grid = "cell averages" if self.model.cell_averages else "points"
        about = {"source": f"samples of {self.name}", "licence": "the model's", "grid": grid}
        about |= {key: value for key, value in settings.items() if value is not None}
        with self.state.split_between_processes(list(seeds)) as mine:
            source = Samples(self.denoiser, mine, solver, plan, low, **self.condition)
            for shape in shapes if source.seeds else []:
                options = {"batch": self.batch, "progress": not self.quiet, "attributes": about}
                self.folder.fill(source, source.seeds, shape, **options)
        self.state.wait_for_everyone()


def guided(model: Model, options: ConditionOptions) -> tuple[Denoiser, dict[str, int]]:
    """The model with its guidance, and the condition of each sample."""
    classes, label = getattr(model.network, "num_classes", 0), options.label
    if classes and (label is None or not -1 <= label < classes):
        raise ValueError(f"expected --label from 0 to {classes - 1}, or -1 for no class, got {label}; name one.")
    if not classes and (label is not None or options.guidance is not None):
        raise ValueError("expected no --label and no --guidance, as the model has no classes, got one; leave it out.")
    if options.guidance is None:
        return model, {} if label is None else {"label": label}
    if label < 0:
        raise ValueError(f"expected --label of 0 or more with --guidance, got {label}; name the class to guide by.")
    return ClassifierFree(model, options.guidance), {"label": label}


def fingerprint(model: Model) -> str:
    """Of all tensors, and of what the model is made of."""
    digest = hashlib.sha256(json.dumps(checkpoint.describe(model)).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
