"""A model distilled to few evaluations, by the trajectories of a trained one.

    python -m benchmarks.distillation portraits few --data portraits.h5 --steps 10000
    python -m benchmarks.evaluations portraits few --test portraits-test.h5

The student begins with the teacher's weights. It has `--evaluations` noise levels, even in log-SNR, from the teacher's highest
down to `--last`. At each it learns the estimate whose one DDIM step ends where the teacher's probability flow ends, which is
the next level, or after the last level no noise. The teacher takes `--substeps` steps of DPMSolver for each.

Source: Salimans, Ho (2022), Progressive distillation for fast sampling of diffusion models; here in one stage.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.drawings import Drawings
from fnodiff import DPMSolver, Model, MultiResolution, fit
from fnodiff.cost import keep_freed_memory
from fnodiff.data import InMemory
from fnodiff.domain import Generators
from fnodiff.sde import DenoisingLoss, EvenLogSNR
from fnodiff.sde.denoiser import evaluating
from fnodiff.sde.process import over_space
from fnodiff.sde.sampling import integrate
from fnodiff.train import Adam, Execution


class DistillationLoss(DenoisingLoss):
    """The squared error of the student's estimate against that of the teacher's flow over a step of the student.

    Args:
        model: The student, whose schedule ends at its last level.
        teacher: A denoiser on the same noise, whose schedule goes on below that.
        evaluations: The student's levels.
        substeps: Of the teacher, for a step of the student.
    """

    def __init__(self, model: Model, teacher: Model, evaluations: int, substeps: int) -> None:
        super().__init__(model)
        self.teacher = [teacher]  # not a part: its weights stay
        self.evaluations, self.substeps = evaluations, substeps

    def forward(self, x: Tensor, *, generator: Generators = None, **_: Tensor) -> Tensor:
        """The error of each sample, (B,), of clean fields (B, C, *spatial): one level for all of a batch."""
        student, teacher = self.model, self.teacher[0]
        x = self._rounded(student.normalization(x))
        times = EvenLogSNR().times(student.sde.schedule, self.evaluations)
        i = int(torch.randint(self.evaluations, ()))
        sigma = student.sde.schedule.ratio(times[i])
        end = student.sde.schedule.ratio(times[i + 1]) if i + 1 < self.evaluations else torch.zeros(())
        t = times[i].to(x).expand(x.shape[0])
        x_t, _ = student.sde.perturb(x, t, generator=generator)
        with torch.no_grad(), evaluating(teacher):
            target = self._flow(teacher, x_t, sigma, end)
        ratio = float(end / sigma)
        target = (target - ratio * x_t) / (1 - ratio)
        weight = over_space(student.loss_weight(t, tuple(x.shape[2:])).reshape(x.shape[0]), x)
        return student.sde.domain.norm(weight.sqrt() * (student(x_t, t) - target)).square() / x.shape[1]

    def _flow(self, teacher: Model, x_t: Tensor, sigma: Tensor, end: Tensor) -> Tensor:
        """The state at noise level `end` on the teacher's flow through x_t at `sigma`."""
        schedule = teacher.sde.schedule
        low = end if end > 0 else schedule.ratio(torch.zeros((), dtype=torch.float64))
        levels = torch.linspace(float(sigma.log()), float(low.log()), self.substeps + 1, dtype=torch.float64).exp()
        times = schedule.time(levels).clamp(0, 1)
        x = integrate(teacher, DPMSolver(self.substeps + 1), x_t, times)
        return x if end > 0 else teacher(x, times[-1].to(x))


def main() -> None:
    """Train the student, and save it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", help="its folder, or the name of one that comes with fnodiff")
    parser.add_argument("out", type=Path, help="the student's folder")
    parser.add_argument("--data", type=Path, required=True, metavar="TRAIN.h5")
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--evaluations", type=int, default=4)
    parser.add_argument("--substeps", type=int, default=4)
    parser.add_argument("--last", type=float, default=0.3, help="the student's lowest noise level")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-4)
    args = parser.parse_args()
    keep_freed_memory()
    teacher = Model.from_pretrained(args.teacher)
    student = copy.deepcopy(teacher)
    student.sde = replace(teacher.sde, schedule=replace(teacher.sde.schedule, sigma_min=args.last))
    data = InMemory(Drawings(args.data), teacher.training_shapes)
    data = MultiResolution(data, teacher.sde.domain, teacher.training_shapes, batch_size=args.batch)
    loss = DistillationLoss(student, teacher, args.evaluations, args.substeps)
    execution = Execution(seed=0)
    fit(student, data, steps=args.steps, loss=loss, optimizer=Adam(lr=args.lr, decay=1), execution=execution)
    student.save_pretrained(args.out)
    print(f"{args.steps} steps took {time.process_time() / 60:.0f} minutes of {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
