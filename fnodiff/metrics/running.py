"""Scores as torchmetrics' classes, which gather over batches and processes: for Lightning, or a loop of your own.

    score = CRPS(domain)
    for samples, y in batches:
        score.update(samples, y)
    score.compute()

They are the means of `fnodiff.metrics`' functions over all fields, and are saved, moved and reduced as any of torchmetrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from fnodiff.domain import Domain
from fnodiff.metrics.ensembles import crps, energy_score
from fnodiff.metrics.spectra import radial_spectrum


class _OfEnsembles(Metric):
    """The mean over fields of a score of ensembles."""

    higher_is_better, full_state_update = False, False
    score: Any
    total: Tensor
    count: Tensor

    def __init__(self, domain: Domain, **options: Any) -> None:
        super().__init__(**options)
        self.domain = domain
        for name in ("total", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, samples: Tensor, y: Tensor, mask: Tensor | None = None) -> None:
        """Add samples (S, B, C, *shape) of B fields, and the truth (B, C, *shape), on any grid."""
        self.total += type(self).score(samples, y, self.domain, mask=mask).double().sum().to(self.total.device)
        self.count += len(y)

    def compute(self) -> Tensor:
        """The mean over all fields; NaN before there are any."""
        return self.total / self.count


class CRPS(_OfEnsembles):
    """The mean of `fnodiff.metrics.crps` over all fields.

    Args:
        domain: What they are functions on.
        options: Of torchmetrics' Metric.

    Examples:
        >>> import torch
        >>> from fnodiff import Box
        >>> from fnodiff.metrics.running import CRPS
        >>> score = CRPS(Box(1))
        >>> score.update(torch.tensor([0.0, 2.0]).reshape(2, 1, 1, 1).expand(2, 1, 1, 4), torch.full((1, 1, 4), 3.0))
        >>> float(score.compute())  # (3 + 1) / 2 - 2 / 2
        1.0
    """

    score = staticmethod(crps)


class EnergyScore(_OfEnsembles):
    """The mean of `fnodiff.metrics.energy_score` over all fields; arguments as of `CRPS`."""

    score = staticmethod(energy_score)


class SpectrumError(Metric):
    """`fnodiff.metrics.spectrum_error` of all fields: the mean over shells of |ln(power of x / power of y)|.

    Args:
        domain: What the fields are functions on.
        shape: Their grid.
        options: Of torchmetrics' Metric.

    Raises:
        ValueError: From `update`, if fields are on another grid.
    """

    higher_is_better, full_state_update = False, False
    x: Tensor
    y: Tensor
    count: Tensor

    def __init__(self, domain: Domain, shape: Sequence[int] | int, **options: Any) -> None:
        super().__init__(**options)
        self.domain, self.shape = domain, domain.check_shape(shape)
        shells = len(radial_spectrum(torch.zeros(1, 1, *self.shape), domain)[1])
        for name, size in (("x", (shells,)), ("y", (shells,)), ("count", (2,))):
            self.add_state(name, torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add fields (B, C, *shape), and true ones, as many or not."""
        for fields in (x, y):  # both, before one is added
            if self.domain.check_field(fields) != self.shape:
                raise ValueError(
                    f"SpectrumError: expected fields on {self.shape}, got {tuple(fields.shape)}; resample them."
                )
        for fields, power, number in ((x, self.x, 0), (y, self.y, 1)):
            power += len(fields) * radial_spectrum(fields, self.domain)[1].to(power.device)
            self.count[number] += len(fields)

    def compute(self) -> Tensor:
        """The error; `spectra` has the two spectra."""
        x, y = self.spectra()
        return (x / y).log().abs().mean()

    def spectra(self) -> tuple[Tensor, Tensor]:
        """Variance per mode of x and of y, at the shells of `radial_spectrum`."""
        return self.x / self.count[0], self.y / self.count[1]
