"""The options of drawing samples: solver, plan of grids, condition, model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from fnodiff.cli.words import Words, classes_from, sizes_of

if TYPE_CHECKING:
    from accelerate import PartialState

    from fnodiff import Model
    from fnodiff.domain import Domain
    from fnodiff.sde import Plan, Solver

STEPS = {
    "dpm": 12,
    "heun": 18,
    "ddim": 50,
    "euler-maruyama": 200,
    "predictor-corrector": 100,
    "langevin": 100,
}
"""How many steps a solver takes where no number is named."""

TAKES = {
    "eta": ("dpm", "ddim"),
    "churn": ("heun",),
    "corrections": ("predictor-corrector", "langevin"),
    "snr": ("predictor-corrector", "langevin"),
}
"""Which solvers have a setting."""


@Parameter(name="*", group=Group("Solver", sort_key=3))
@dataclass(frozen=True)
class SolverOptions:
    """How a sample is computed from noise."""

    solver: Literal["dpm", "heun", "ddim", "euler-maruyama", "predictor-corrector", "langevin"] = "dpm"
    """DPM-Solver++ (2M), Heun, DDIM, the reverse SDE, that with corrections, or annealed Langevin."""

    steps: int | None = None
    """Noise levels. By default 12 of dpm (36 of `upscale`), 18 of heun, 50 of ddim, 200 of euler-maruyama, else 100."""

    spacing: Literal["time", "log-snr", "rho"] | None = None
    """Where they lie: even in the schedule's time (by default, for EDM and VE), in ln(alpha^2 / sigma^2) (by default, for VP,
    SubVP and Cosine), or in sigma^(1 / rho)."""

    rho: float | None = None
    """Of --spacing rho. By default 7."""

    eta: float | None = None
    """Of dpm and ddim: the share of fresh noise, 0 to 1. By default 0."""

    churn: float | None = None
    """Of heun: noise that is added before each step (S_churn). By default 0."""

    corrections: int | None = None
    """Of predictor-corrector and langevin: Langevin steps per level. By default 1."""

    snr: float | None = None
    """Of the same two: their length. By default 0.16."""

    def make(self, steps: dict[str, int] = STEPS) -> Solver:
        """The solver."""
        from fnodiff import sde

        classes = [sde.DPMSolver, sde.Heun, sde.DDIM, sde.EulerMaruyama, sde.PredictorCorrector, sde.AnnealedLangevin]
        given = {name: getattr(self, name) for name in TAKES if getattr(self, name) is not None}
        for name in given:
            if self.solver not in TAKES[name]:
                raise ValueError(
                    f"expected --{name} with --solver {' or '.join(TAKES[name])}, got it with {self.solver}; leave it out."
                )
        if self.rho is not None and self.spacing != "rho":
            raise ValueError(f"expected --rho with --spacing rho, got it with {self.spacing or 'none'}; leave it out.")
        rho = sde.EvenRho() if self.rho is None else sde.EvenRho(self.rho)
        spacing = {"time": sde.EvenTime(), "log-snr": sde.EvenLogSNR(), "rho": rho, None: None}[self.spacing]
        made = dict(zip(STEPS, classes, strict=True))[self.solver]
        return made(steps[self.solver] if self.steps is None else self.steps, spacing, **given)


@Parameter(name="*", group=Group("Plan of grids", sort_key=4))
@dataclass(frozen=True)
class PlanOptions:
    """Which grids a run goes through."""

    plan: Literal["direct", "progressive", "cascade"] | None = None
    """One grid; coarse grids first; or coarse grids to their end, their low modes then held. By default, of cell averages such
    as pictures, progressive up to the largest training grid and cascade above it; of values at points direct."""

    grids: Words | None = None
    """The coarser grids of progressive and cascade. By default the smallest and the largest that the model was trained on; of
    cascade the largest."""

    through: Annotated[Words | None, Parameter(negative="--no-through")] = None
    """Of cascade: grids on the way to the first of --grids. By default the smallest that the model was trained on."""

    keep: float | None = None
    """Of cascade: the share of modes that are held. By default 0.75 of cell averages, else 1."""

    budget: float | None = None
    """The largest sum of signal-to-noise ratios that new modes may have when they are added. By default 1."""

    def make(self, domain: Domain) -> Plan | None:
        """The plan that is named, if one is."""
        from fnodiff.sde import Cascade, Direct, Progressive

        fits = {"progressive": ("grids", "budget"), "cascade": ("grids", "through", "keep", "budget")}.get(
            self.plan, ()
        )
        given = {name: getattr(self, name) for name in ("grids", "through", "keep", "budget")}
        given = {name: value for name, value in given.items() if value is not None}
        for name in given:
            if name not in fits:
                plans = "progressive or cascade" if name in ("grids", "budget") else "cascade"
                raise ValueError(
                    f"expected --{name} with --plan {plans}, got {self.plan or 'no plan'}; leave it out, or name the plan."
                )
        given |= {name: sizes_of(given[name], domain) for name in ("grids", "through") if name in given}
        return {None: lambda: None, "direct": Direct, "progressive": Progressive, "cascade": Cascade}[self.plan](
            **given
        )


@Parameter(name="*", group=Group("Condition", sort_key=5))
@dataclass(frozen=True)
class ConditionOptions:
    """What samples are asked to be."""

    label: int | None = None
    """The class, of a model that has classes; -1 for none."""

    guidance: float | None = None
    """Classifier-free guidance by the label: 1 is none, more shows more of the class."""


@Parameter(name="*", group=Group("Model", sort_key=1))
@dataclass(frozen=True)
class ModelOptions:
    """How the model is read and run."""

    classes_from: str | None = None
    """A Python file or module with classes of yours that the model's config.json names; it is run."""

    device: Literal["cpu", "cuda"] | None = None
    """By default a GPU, if there is one."""

    batch: int = 16
    """Samples at a time."""

    def load(self, name: str) -> tuple[Model, PartialState]:
        """The model on its device, and the processes that share the work."""
        import torch
        from accelerate import PartialState

        from fnodiff import Model

        if self.batch < 1:
            raise ValueError(f"expected --batch of 1 or more, got {self.batch}; 16 is usual.")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("expected --device cpu, as there is no GPU here, got cuda; leave it out.")
        state = PartialState(cpu=self.device == "cpu" or not torch.cuda.is_available())
        try:
            model = Model.from_pretrained(name, classes=classes_from(self.classes_from)).to(state.device)
        except ValueError as error:  # what a class of the user's own needs in Python
            mended = re.sub(r"pass it: from_pretrained\(.*\)\.", "name its file: --classes-from FILE.py.", str(error))
            raise ValueError(mended) from error
        if model.channels is None:
            raise ValueError(f"expected a model that knows its channels, got {name}; save it with channels=.")
        if getattr(model.network, "condition_channels", 0):
            raise ValueError(
                f"expected a model without a conditioning field, whose samples would each need one, got {name}; call "
                f"fnodiff.sample in Python with field=."
            )
        return model, state


@Parameter(name="*")
@dataclass(frozen=True)
class DrawOptions:
    """How samples are drawn: the model's reading, the solver, the plan and the condition."""

    reading: ModelOptions = ModelOptions()

    solver: SolverOptions = SolverOptions()

    plan: PlanOptions = PlanOptions()

    condition: ConditionOptions = ConditionOptions()
