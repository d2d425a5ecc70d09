# ruff: noqa: B008 (defaults that are frozen settings)
"""fnodiff sample: samples into a folder, and the options of drawing them: model, solver, plan of grids."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

import fnodiff
from fnodiff.cli.arguments import (
    General,
    MaybeWhole,
    Source,
    Whole,
    Words,
    named,
    option,
    options,
    seeds_of,
    size_name,
    sizes_of,
)

if TYPE_CHECKING:
    from accelerate import PartialState
    from torch import Tensor

    from fnodiff.domain import Domain
    from fnodiff.sde import Plan, Solver

STEPS = {"dpm": 12, "heun": 18, "ddim": 50, "euler-maruyama": 200, "predictor-corrector": 100, "langevin": 100}
"""How many a solver takes where no number is named."""


@options("Model", 1)
class ModelOptions:
    """How the model is read and run, and what its samples are asked to be."""

    classes_from: str | None = option("A Python file or module, which is run, with classes that config.json names.")
    device: Literal["cpu", "cuda"] | None = option("By default a GPU, if there is one.")
    batch: Whole = option("Samples at a time.", 16)
    label: MaybeWhole = option("The class, of a model that has classes; -1 for none.")
    condition: Words | None = option(
        "Numbers, of a model that has some: viscosity=1e-3 lead-time=6; nan for one not given."
    )
    condition_file: Path | None = option(
        "Conditions for each seed, in the order of --seeds, or one for all: an .h5 of fields (field, condition, label), a .csv "
        "of numbers below their names, or arrays of such names."
    )
    guidance: float | None = option("Classifier-free guidance by what the samples are conditioned on: 1 is none.")

    def load(self, name: str) -> tuple[fnodiff.Model, PartialState]:
        """The model on its device, and the processes that share the work."""
        import torch
        from accelerate import PartialState

        from fnodiff.cost import keep_freed_memory

        keep_freed_memory()
        if self.batch < 1:
            raise ValueError(f"expected --batch of 1 or more, got {self.batch}; 16 is usual.")
        check_gpu(self.device)
        state = PartialState(cpu=self.device == "cpu" or not torch.cuda.is_available())
        model = read_model(name, self.classes_from).to(state.device)
        if model.channels is None:
            raise ValueError(f"expected a model that knows its channels, got {name}; save it with channels=.")
        return model, state

    def conditions(self, model: fnodiff.Model, count: int) -> dict[str, Tensor]:
        """What was named of the conditions of so many samples, a row for each."""
        from fnodiff.cli.conditions import conditions_of

        return conditions_of(model, count, self.label, self.condition or (), self.condition_file)


@options("Solver", 3)
class SolverOptions:
    """How a sample is computed from noise."""

    solver: Literal["dpm", "heun", "ddim", "euler-maruyama", "predictor-corrector", "langevin"] = option(
        "DPM-Solver++ (2M), Heun, DDIM, the reverse SDE, that with corrections, or annealed Langevin.", "dpm"
    )
    steps: MaybeWhole = option(
        "Noise levels. By default 12 of dpm (36 to `upscale` values at points), 18 of heun, 50 of ddim, 200 of euler-maruyama, "
        "else 100."
    )
    spacing: Literal["time", "log-snr", "rho"] | None = option(
        "Even in time (by default, of EDM and VE), in ln(alpha^2 / sigma^2) (of the others), or in sigma^(1 / rho)."
    )
    rho: float | None = option("Of --spacing rho. By default 7.")
    eta: float | None = option(
        "Of dpm and ddim: the share of fresh noise, 0 to 1. By default 0. Where no option of the solver is named, it is 1 "
        "for pictures on finer grids than those of training, and to `upscale` them."
    )
    churn: float | None = option("Of heun: noise that is added before each step (S_churn). By default 0.")
    corrections: MaybeWhole = option("Of predictor-corrector and langevin: Langevin steps per level. By default 1.")
    snr: float | None = option("Of the same two: their length. By default 0.16.")

    def make(self) -> Solver | None:
        """The solver; None where nothing is named, for the library's."""
        if self == type(self)():
            return None
        from fnodiff.sde import EvenLogSNR, EvenRho, EvenTime

        classes = [fnodiff.DPMSolver, fnodiff.Heun, fnodiff.DDIM, fnodiff.EulerMaruyama, fnodiff.PredictorCorrector]
        made = dict(zip(STEPS, [*classes, fnodiff.AnnealedLangevin], strict=True))[self.solver]
        rho = named(self, "spacing", {"rho": ("rho",)})
        spacings = {"time": EvenTime, "log-snr": EvenLogSNR, "rho": EvenRho}
        spacing = None if self.spacing is None else spacings[self.spacing](**rho)
        langevin = ("predictor-corrector", "langevin")
        fits = {"eta": ("dpm", "ddim"), "churn": ("heun",), "corrections": langevin, "snr": langevin}
        steps = STEPS[self.solver] if self.steps is None else self.steps
        return made(steps, spacing, **named(self, "solver", fits))


@options("Plan of grids", 4)
class PlanOptions:
    """Which grids a run goes through."""

    plan: Literal["direct", "progressive", "cascade"] | None = option(
        "One grid; coarse grids first; or coarse grids to their end, their low modes then held. By default, of cell averages "
        "such as pictures, progressive up to the largest training grid and cascade above it; of values at points direct."
    )
    grids: Words | None = option("By default the smallest and largest that were trained on; of cascade the largest.")
    through: Annotated[Words | None, Parameter(negative="--no-through")] = option(
        "Of cascade: grids on the way to the first of --grids. By default the smallest that was trained on."
    )
    keep: float | None = option("Of cascade: the share of modes held. By default 0.75 of cell averages, else 1.")
    budget: float | None = option("Largest sum of signal-to-noise ratios of modes when they are added. By default 1.")

    def make(self, domain: Domain) -> Plan | None:
        """The plan that is named, if one is."""
        both, cascade = ("progressive", "cascade"), ("cascade",)
        given = named(self, "plan", {"grids": both, "through": cascade, "keep": cascade, "budget": both})
        given |= {name: sizes_of(given[name], domain) for name in ("grids", "through") if name in given}
        plans = {"direct": fnodiff.Direct, "progressive": fnodiff.Progressive, "cascade": fnodiff.Cascade}
        return None if self.plan is None else plans[self.plan](**given)


def sample(
    model: Source,
    *,
    size: Words,
    seeds: str = "0-63",
    out: Path = Path("samples"),
    format: Literal["png", "hdf5"] | None = None,
    reading: ModelOptions = ModelOptions(),
    solver: SolverOptions = SolverOptions(),
    plan: PlanOptions = PlanOptions(),
    general: General = General(),
) -> None:
    """Draw samples of a model into a folder.

    fnodiff sample run --size 64 --seeds 0-15 --out pictures

    Seed i is sample i, whatever else is drawn, and one seed is one sample at every size. Pictures become
    `OUT/64x64/seed-000012.png`, other fields a file that `fnodiff.data.HDF5Fields` reads, in the data's units. A run that was
    stopped goes on where it was, and several processes share the seeds.

    Args:
        size: 64 for as many points on each side (latitudes on the globe), or 64x96; several draw several.
        seeds: Such as 0-63 or 0-3,7.
        out: Folder of the samples.
        format: By default png for pictures (cell averages on a box, of three channels, or of one within [-1, 1], in grey), hdf5
            for other fields: netCDF-4, which xarray opens.
    """
    chosen = seeds_of(seeds)

    from fnodiff.cli.drawing import Drawing

    drawing = Drawing(model, out, reading, solver.make(), format, general.quiet)
    domain = drawing.model.sde.domain
    shapes = sizes_of(size, domain)
    drawing.draw(shapes, chosen, plan.make(domain))
    if drawing.main:
        print(f"{out}: {len(chosen)} samples at {', '.join(map(size_name, shapes))}")


def check_gpu(device: str | None) -> None:
    """Raise if a GPU is asked for where there is none."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("expected --device cpu, as there is no GPU here, got cuda; leave it out.")


def read_model(name: str, classes_from: str | None) -> fnodiff.Model:
    """A model, of a folder or a hub id, with classes of the user's own from a file or module."""
    try:
        return fnodiff.Model.from_pretrained(name, classes=_classes(classes_from) if classes_from else [])
    except ValueError as error:  # which says what a class of the user's own needs in Python
        text = re.sub(r"pass it: from_pretrained\(.*\)\.", "name its file: --classes-from FILE.py.", str(error))
        raise ValueError(text) from error


def _classes(text: str) -> list[type]:
    """The classes that are defined in a Python file or a module, which is run."""
    try:
        if text.endswith(".py"):
            spec = importlib.util.spec_from_file_location(f"classes_from_{Path(text).stem}", text)
            module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
            spec.loader.exec_module(module)
        else:
            sys.path.insert(0, "")  # as `python -m` does
            try:
                module = importlib.import_module(text)
            finally:
                sys.path.remove("")
    except Exception as error:  # the file is the user's, and may fail in any way
        raise ValueError(
            f"expected --classes-from PATH.py or a module, got {text}: {type(error).__name__}: {error}; mend or name another."
        ) from error
    found = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
    if not found:
        raise ValueError(f"expected classes in {text}, got none; name the file that defines those of config.json.")
    return found
