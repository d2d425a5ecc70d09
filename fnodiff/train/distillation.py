"""Models of few evaluations, distilled from the trajectories of a trained one.

A student has N noise levels, even in log-SNR. At each it learns the estimate whose one DDIM step ends where the teacher's
probability flow ends: at the next level, or after the last one without noise. For the step from s to r < s that is

    D = (y_r - (r / s) y_s) / (1 - r / s),    y = x_t / alpha_t, from the teacher's flow.

Source: Salimans, Ho (2022), Progressive distillation for fast sampling of diffusion models; here in one stage.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fnodiff.domain import Generators, uniforms
from fnodiff.expected import at_least
from fnodiff.model import Model
from fnodiff.sde.denoiser import evaluating
from fnodiff.sde.given import Given
from fnodiff.sde.loss import DenoisingLoss
from fnodiff.sde.sampling import integrate
from fnodiff.sde.solvers import DPMSolver, EvenLogSNR


def student_of(teacher: Model, last: float = 0.3) -> Model:
    """A copy of a trained model whose noise levels end at `last`, sigma / alpha, as few levels should.

    Args:
        teacher: A model whose schedule has a `sigma_min` below that, such as `EDM`.
        last: The lowest level, in the units of the normalised data.

    Raises:
        ValueError: If the schedule has no such level to raise.

    Examples:
        >>> from fnodiff import Model
        >>> from fnodiff.train import student_of
        >>> student_of(Model.from_pretrained("portraits")).sde.schedule
        EDM(sigma_min=0.3, sigma_max=80.0, rho=7.0)
    """
    schedule = teacher.sde.schedule
    if not hasattr(schedule, "sigma_min") or not schedule.sigma_min < last < schedule.sigma_max:
        raise ValueError(
            f"student_of: expected a schedule with sigma_min < {last!r} < sigma_max, got {schedule}; take a teacher with EDM()."
        )
    student = copy.deepcopy(teacher)
    student.sde = replace(teacher.sde, schedule=replace(schedule, sigma_min=last))
    return student


class DistillationLoss(DenoisingLoss):
    """The squared error of the student's estimate against that of the teacher's flow over one step of the student.

    Args:
        model: The student, such as `student_of(teacher)`.
        teacher: On the same noise and in the same units; its weights stay.
        evaluations: The student's levels: afterwards sample with `DPMSolver(evaluations, EvenLogSNR())`.
        substeps: Of the teacher, DPMSolver's, for each step of the student.

    Raises:
        ValueError: If a count is below one, or noise, units or channels differ.

    Examples:
        >>> import torch
        >>> from fnodiff import Model
        >>> from fnodiff.train import DistillationLoss, student_of
        >>> teacher = Model.from_pretrained("portraits")
        >>> student = student_of(teacher)
        >>> DistillationLoss(student, teacher)(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2])
    """

    def __init__(self, model: Model, teacher: Model, evaluations: int = 4, substeps: int = 4) -> None:
        super().__init__(model)
        at_least("DistillationLoss", 1, evaluations=evaluations, substeps=substeps)
        if teacher.sde.noise != model.sde.noise or teacher.normalization != model.normalization or teacher is model:
            raise ValueError(
                f"DistillationLoss: expected another model as teacher, on the noise {model.sde.noise} and in the units "
                f"{model.normalization}, got {teacher.sde.noise} and {teacher.normalization}; make the student with student_of."
            )
        self._teacher = [teacher]  # no part of what is trained
        self.evaluations, self.substeps = evaluations, substeps

    def forward(
        self, x: Tensor, *, mask: Tensor | None = None, generator: Generators = None, **condition: Tensor
    ) -> Tensor:
        """The error of each sample, (B,), of clean fields (B, C, *spatial): one level for all, by the first one's generator.

        Raises:
            ValueError: If there is a mask: the teacher's flow needs whole fields.
        """
        if mask is not None:
            raise ValueError("DistillationLoss: expected fields without a mask, got one; leave incomplete samples out.")
        student, teacher = self.model, self._teacher[0].to(x.device)
        x = self._rounded(student.normalization(x))
        times = EvenLogSNR().times(student.sde.schedule, self.evaluations)
        first = generator[:1] if isinstance(generator, Sequence) else generator
        i = int(self.evaluations * uniforms(1, generator=first))
        levels = torch.cat([student.sde.schedule.ratio(times), torch.zeros(1, dtype=torch.float64)])
        ratio = float(levels[i + 1] / levels[i])
        t = times[i].to(x).expand(x.shape[0])
        x_t, _ = student.sde.perturb(x, t, generator=generator)
        y = x_t / student.sde.marginal(x_t, t)[0]
        with torch.no_grad(), evaluating(teacher):
            target = (self._flow(Given(teacher, **condition), y, *levels[i : i + 2]) - ratio * y) / (1 - ratio)
        return self._weighted(student(x_t, t, **condition) - target, t)

    def _flow(self, teacher: Given, y: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """y at noise level `end` on the teacher's flow through y at `start`."""
        sde = teacher.sde
        low = end if end > 0 else sde.schedule.ratio(torch.zeros((), dtype=torch.float64))
        levels = torch.linspace(float(start.log()), float(low.log()), self.substeps + 1, dtype=torch.float64).exp()
        times = sde.schedule.time(levels).clamp(0, 1)
        x = integrate(teacher, DPMSolver(self.substeps + 1), sde.marginal(y, times[0])[0] * y, times)
        return x / sde.marginal(x, times[-1])[0] if end > 0 else teacher(x, times[-1].to(x))
