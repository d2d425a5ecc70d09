"""The bar that a training run shows."""

from __future__ import annotations

import math
import sys
import time
from collections import defaultdict

from tqdm.auto import tqdm

from fnodiff.domain import Shape, grid_name
from fnodiff.sde import DenoisingLoss


class Bar:
    """The bar of a run, with each grid's loss beside that of the best linear estimate, and the time that is left."""

    def __init__(self, loss: DenoisingLoss, total: int | None, initial: int, deadline: float, shown: bool) -> None:
        self.loss, self.deadline, self.shown = loss, deadline, shown
        self.recent: dict[Shape, float] = defaultdict(float)
        self.linear: dict[Shape, float | None] = {}
        self.bar = tqdm(total=total, initial=initial, disable=not shown, desc="training", mininterval=1.0)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        known = [(self.recent[shape], linear) for shape, linear in self.linear.items() if linear is not None]
        if self.shown and known and all(value > 0.95 * linear for value, linear in known):
            times = max(value / linear for value, linear in known)
            told = (
                f"is {times:.1f} times that of the best linear estimate: not even the data's spectrum is learnt yet. Train "
                f"it longer, or a smaller network, or from the linear estimate: SpectralScaling, linear_estimate=True."
                if times > 1.2
                else "is no better than that of the best linear estimate: beyond the data's spectrum nothing is learnt yet. "
                "Train it longer."
            )
            tqdm.write(f"The loss {told}", file=sys.stderr)

    def note(self, shape: Shape, value: float) -> None:
        """A step's loss."""
        self.recent[shape] = value if shape not in self.recent else 0.98 * self.recent[shape] + 0.02 * value
        self.bar.update()
        if not self.shown:
            return
        if shape not in self.linear:
            self.linear[shape] = self.loss.linear(shape)
        words = {}
        for grid, recent in sorted(self.recent.items()):
            linear = self.linear.get(grid)
            words[grid_name(grid)] = f"{recent:.3f}" + ("" if linear is None else f" (linear {linear:.3f})")
        if math.isfinite(self.deadline):
            words["left"] = tqdm.format_interval(max(0.0, self.deadline - time.monotonic()))
        self.bar.set_postfix(words, refresh=False)

    def losses(self, prefix: str) -> dict[str, float]:
        """Each grid's loss, by name."""
        return {prefix + grid_name(s): v for s, v in sorted(self.recent.items())}
