"""Where a run is watched: accelerate's trackers, with its losses and with pictures of samples."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fnodiff.cli.arguments import option, options, seeds_of
from fnodiff.cli.conditions import needed

if TYPE_CHECKING:
    from accelerate import Accelerator

    import fnodiff
    from fnodiff.data import Fields
    from fnodiff.domain import Shape
    from fnodiff.train import Preview

PROJECT = "fnodiff"


@options("Tracking", 7)
class TrackingOptions:
    """Where a run is watched."""

    tracker: Literal["tensorboard", "wandb", "mlflow"] | None = option(
        "Send losses and pictures of samples there. Files of TensorBoard and wandb lie in --out, MLflow has its own place."
    )
    preview_every: int = option("Steps between two pictures of samples.", 1000)
    preview_seeds: str = option("The samples of each picture.", "0-7")

    def check(self) -> None:
        """ValueError if the tracker is not installed, or there is nothing to draw."""
        seeds_of(self.preview_seeds, "--preview-seeds")
        if self.preview_every < 1:
            raise ValueError(f"expected --preview-every >= 1, got {self.preview_every}; 1000 is usual.")
        if self.tracker is not None and importlib.util.find_spec(self.tracker) is None:
            raise ValueError(f"expected {self.tracker} for --tracker, got none; pip install {self.tracker}.")

    def begin(self, accelerator: Accelerator, out: Path, flags: Mapping[str, Any]) -> None:
        """Begin the tracker's run, with what the command was given."""
        if self.tracker is None:
            return
        plain = {k.removeprefix("--"): v for k, v in flags.items() if isinstance(v, int | float | str)}
        plain |= {k.removeprefix("--"): " ".join(map(str, v)) for k, v in flags.items() if isinstance(v, list)}
        named = {"wandb": {"dir": str(out), "name": out.name}, "mlflow": {"run_name": out.name}}
        accelerator.init_trackers(
            "tensorboard" if self.tracker == "tensorboard" else PROJECT, config=plain, init_kwargs=named
        )

    def preview(self, model: fnodiff.Model, fields: Fields, shapes: Sequence[Shape]) -> Preview | None:
        """Pictures of samples on some grids, under the conditions of the data's first ones; None of other than 2-D fields."""
        from fnodiff.train import Preview

        if self.tracker is None or model.sde.domain.dim != 2:
            return None
        seeds, wanted = seeds_of(self.preview_seeds, "--preview-seeds"), needed(model)
        rows = [i % len(fields) for i in range(len(seeds))]
        own = fields.batch(rows, model.training_shapes[0]) if wanted else {}
        return Preview(shapes, seeds, self.preview_every, condition={name: own[name] for name in wanted if name in own})
