"""Samples of a model in a folder, which several processes can fill: a picture a seed, or a file of fields a process."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm.auto import tqdm

from fnodiff import Model, checkpoint
from fnodiff.checkpoint import replace_file
from fnodiff.cli.arguments import size_name
from fnodiff.cli.conditions import check_given, needed
from fnodiff.cli.sample import ModelOptions
from fnodiff.data import HDF5Fields, write_fields
from fnodiff.domain import Domain, Shape
from fnodiff.sde import ClassifierFree, Denoiser, Plan, Solver, default_plan, default_solver, sample, upscale
from fnodiff.sde.pictures import are_pictures
from fnodiff.sde.stages import describe


@dataclass(frozen=True)
class Samples:
    """Samples as a source of fields: index i is the i-th seed. With `low`, (C, *small) in data units, finer fields of it.

    `condition` has a row for each seed, by name.
    """

    denoiser: Denoiser
    seeds: Sequence[int]
    solver: Solver | None
    plan: Plan | None = None
    low: Tensor | None = None
    condition: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        return self.denoiser.channels

    @property
    def domain(self) -> Domain:
        return self.denoiser.sde.domain

    def __len__(self) -> int:
        return len(self.seeds)

    def batch(self, indices: Sequence[int], shape: Shape) -> dict[str, Tensor]:
        """Samples of these seeds on one grid, (B, C, *shape) in data units."""
        seeds = [self.seeds[i] for i in indices]
        rows = torch.as_tensor(list(indices))
        condition = {name: value[rows] for name, value in self.condition.items()}
        options: dict[str, Any] = {"solver": self.solver, "batch": len(seeds), **condition}
        try:
            if self.low is None:
                return {"x": sample(self.denoiser, shape, seeds, plan=self.plan, **options)}
            return {"x": upscale(self.denoiser, self.low, shape, seeds, **options)}
        except FloatingPointError as error:
            raise FloatingPointError(f"seeds {seeds[0]} to {seeds[-1]} on {shape}: {error}") from error


@dataclass(frozen=True)
class SampleFolder:
    """Samples on disk: `SIZE/seed-000012.png`, or `SIZE-seeds-0-63.h5` in the data's units, and how they are drawn."""

    path: Path
    kind: Literal["png", "hdf5"]

    def check(self, settings: Mapping[str, Any], conditions: Mapping[str, str]) -> None:
        """Write down how the samples are drawn, and each seed's condition; ValueError if those that are there have others."""
        file, now = self.path / "sampling.json", json.loads(json.dumps(settings))
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            there = dict(json.loads(file.read_text())) if file.is_file() else now
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"expected the settings of samples in {file}, got something else ({error}); name another --out."
            ) from error
        known = {}  # a file for each call: several may draw into one folder
        for each in sorted(self.path.glob("conditions-*.json")):
            known |= json.loads(each.read_text())
        for seed, condition in conditions.items():
            if known.get(seed, condition) != condition:
                raise ValueError(
                    f"expected seed {seed} with the condition that it has in {self.path}, got another; name another --out."
                )
        for name in sorted({*there, *now}):
            was, got = there.get(name), now.get(name)
            if was != got:
                raise ValueError(f"expected {name} {was}, as {self.path} has, got {name} {got}; name another --out.")
        replace_file(file, lambda new: new.write_text(json.dumps(now, indent=2) + "\n"))
        if conditions:
            names = list(conditions)
            file = self.path / f"conditions-{names[0]}-{names[-1]}.json"
            own = {**(json.loads(file.read_text()) if file.is_file() else {}), **conditions}
            replace_file(file, lambda new: new.write_text(json.dumps(own, indent=2) + "\n"))

    def fill(self, source: Samples, shape: Shape, *, batch: int, progress: bool, attributes: Mapping[str, Any]) -> None:
        """Draw what is missing, `batch` at a time. The attributes are those of a file of fields."""
        if self.kind == "png":
            return self._fill_pictures(source, shape, batch, progress)
        file = self.path / f"{size_name(shape)}-seeds-{source.seeds[0]}-{source.seeds[-1]}.h5"
        about = {**attributes, "seeds": ",".join(map(str, source.seeds))}
        write_fields(file, source, [shape], attributes=about, chunk=batch, progress=progress)

    def load(self, shape: Shape, seeds: Sequence[int]) -> Tensor:
        """What is there of these seeds, (len(seeds), C, *shape) in data units."""
        if self.kind == "png":
            return torch.stack([read_picture(self._picture(shape, seed)) for seed in seeds])
        found: dict[int, Tensor] = {}
        for file in sorted(self.path.glob(f"{size_name(shape)}-seeds-*.h5")):
            fields = HDF5Fields(file)
            x = fields.batch(range(len(fields)), shape)["x"]
            found |= zip(map(int, str(fields.attributes["seeds"]).split(",")), x, strict=True)
        return torch.stack([found[seed] for seed in seeds])

    def _picture(self, shape: Shape, seed: int) -> Path:
        return self.path / size_name(shape) / f"seed-{seed:06d}.png"

    def _fill_pictures(self, source: Samples, shape: Shape, batch: int, progress: bool) -> None:
        """Each picture is replaced in one move; those that are there stay."""
        name, seeds, beyond, count = size_name(shape), source.seeds, 0, 0
        (self.path / name).mkdir(parents=True, exist_ok=True)
        missing = [i for i, seed in enumerate(seeds) if not self._picture(shape, seed).is_file()]
        with tqdm(total=len(seeds), initial=len(seeds) - len(missing), desc=name, disable=not progress) as bar:
            for start in range(0, len(missing), batch):
                rows = missing[start : start + batch]
                x = source.batch(rows, shape)["x"]
                beyond, count = beyond + int((x.abs() > 1).sum()), count + x.numel()
                for i, one in zip(rows, x, strict=True):
                    write_picture(self._picture(shape, seeds[i]), one)
                bar.update(len(rows))
        if beyond:
            print(f"{self.path / name}: {beyond / count:.2%} of the values lay beyond [-1, 1] and were clipped to it")


class Drawing:
    """A model, how its samples are drawn, and the folder `out` that they go to; by default PNG for pictures, colour or grey."""

    def __init__(
        self,
        name: str,
        out: Path,
        reading: ModelOptions,
        solver: Solver | None,
        kind: str | None = None,
        quiet: bool = False,
    ) -> None:
        self.name, self.quiet, self.batch, self.solver, self.reading = name, quiet, reading.batch, solver, reading
        self.model, self.state = reading.load(name)
        self.main = self.state.is_main_process  # the one that speaks
        self.denoiser = guided(self.model, reading)
        domain, channels = self.model.sde.domain, self.model.channels
        if kind == "png" and (domain.dim != 2 or channels not in (1, 3)):
            raise ValueError(f"expected 1 or 3 channels in 2D with --format png, got {channels} on {domain}; use hdf5.")
        self.folder = SampleFolder(out, kind or ("png" if are_pictures(self.model) else "hdf5"))
        self.settings = {"model": fingerprint(self.model), "guidance": reading.guidance, "format": self.folder.kind}
        self.settings |= {
            "label": -1 if reading.label is None else reading.label,
            "solver": "the library's" if solver is None else repr(solver),
        }

    def draw(
        self,
        shapes: Sequence[Shape],
        seeds: Sequence[int],
        plan: Plan | None = None,
        low: Tensor | None = None,
        condition: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Draw what is missing of these seeds; with `low`, (C, *small), finer fields of it.

        `condition` has rows for the seeds, of what is not named by the options.
        """
        settings = {**self.settings, "plan": "the library's" if plan is None else repr(plan)}
        given = {**(condition or {}), **self.reading.conditions(self.model, len(seeds))}
        check_given(self.model, given)
        conditions = {}  # by the seed, as other seeds may come to the folder later
        for i, seed in enumerate(seeds if given else ()):
            parts = [name.encode() + given[name][i].contiguous().numpy().tobytes() for name in sorted(given)]
            conditions[str(seed)] = hashlib.sha256(b"".join(parts)).hexdigest()[:16]
        if low is not None:
            settings["upscaled"] = hashlib.sha256(low.contiguous().numpy().tobytes()).hexdigest()[:16]
        if self.main:
            self.folder.check(settings, conditions)
            solver = default_solver(self.denoiser) if self.solver is None else self.solver
            times = solver.times(self.model.sde.schedule)
            for shape in shapes if low is None and not self.quiet else ():
                stages = (plan or default_plan(self.denoiser, shape)).plan(self.denoiser, shape, times)
                print(f"{type(solver).__name__}: {describe(stages)}", file=sys.stderr)
        self.state.wait_for_everyone()
        grid = "cell averages" if self.model.cell_averages else "points"
        about = {"source": f"samples of {self.name}", "licence": "the model's", "grid": grid}
        about |= {key: value for key, value in settings.items() if value is not None}
        with self.state.split_between_processes(list(range(len(seeds)))) as rows:
            mine, own = [seeds[i] for i in rows], torch.as_tensor(rows, dtype=torch.long)
            here = {name: value[own] for name, value in given.items()}
            source = Samples(self.denoiser, mine, self.solver, plan, low, here)
            for shape in shapes if mine else ():
                self.folder.fill(source, shape, batch=self.batch, progress=not self.quiet, attributes=about)
        self.state.wait_for_everyone()


def guided(model: Model, options: ModelOptions) -> Denoiser:
    """The model with its guidance, if the label and it fit."""
    classes, label, guidance = getattr(model.network, "num_classes", 0), options.label, options.guidance
    if not classes and label is not None:
        raise ValueError("expected no --label, as the model has no classes, got one; leave it out.")
    if guidance is not None and not needed(model):
        raise ValueError("expected no --guidance, as the model has no conditions, got one; leave it out.")
    lowest, also = (-1, ", or -1 for no class") if guidance is None else (0, " with --guidance")
    in_file = label is None and options.condition_file is not None
    if classes and not in_file and (label is None or not lowest <= label < classes):
        raise ValueError(f"expected --label from 0 to {classes - 1}{also}, got {label}; name one.")
    return model if guidance is None else ClassifierFree(model, guidance)


def upsampled(x: Tensor, shape: Shape, domain: Domain) -> Tensor:
    """Fields (B, C, *small) on a finer grid without new detail: bicubic on a box of two dimensions, else the domain's way."""
    if domain.pictures:
        return interpolate(x, size=shape, mode="bicubic")
    return domain.upsample(x, shape)


def fingerprint(model: Model) -> str:
    """Of all tensors, and of what the model is made of."""
    digest = hashlib.sha256(json.dumps(checkpoint.describe(model)).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def write_picture(path: Path, x: Tensor) -> None:
    """A field (1 or 3, height, width) in [-1, 1], clipped to it, as a PNG file, in one move."""
    levels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(0, -1).numpy()
    image = Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)
    replace_file(path, lambda new: image.save(new, "png"))


def read_picture(path: Path) -> Tensor:
    """What `write_picture` wrote."""
    levels = np.array(Image.open(path))
    return torch.from_numpy(levels.reshape(*levels.shape[:2], -1)).movedim(-1, 0).float() / 127.5 - 1
