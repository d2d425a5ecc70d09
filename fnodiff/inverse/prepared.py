"""What the samplers that take an observation themselves have in common: their arguments, checked."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from fnodiff.domain import Shape
from fnodiff.inverse.observation import Observation
from fnodiff.sde.denoiser import Denoiser, channels_of, condition_rows
from fnodiff.sde.noise import Spectrum
from fnodiff.sde.sampling import check_denoiser, device_of, seed_list
from fnodiff.sde.solvers.spacing import Spacing, usual


@dataclass
class Prepared:
    """Checked arguments.

    Args:
        size: (C, *shape).
        seeds: One for each sample.
        spectrum: Of the normalised data.
        times: Of the noise levels, decreasing.
        rows: Conditions, one row for each seed.
        device: Where to sample.
    """

    size: Shape
    seeds: list[int]
    spectrum: Spectrum
    times: Tensor
    rows: dict[str, Tensor]
    device: torch.device


def prepare(
    name: str,
    denoiser: Denoiser,
    observation: Observation,
    shape: Shape | int,
    seeds: Any,
    *,
    spectrum: Spectrum | None,
    steps: int,
    spacing: Spacing | None,
    device: torch.device | str | None,
    condition: dict[str, Any],
    **numbers: tuple[int, int, int],
) -> Prepared:
    """The arguments of the sampler `name`.

    Args:
        numbers: By name, whole numbers: what is given, the least that may be, and what is usual.

    Raises:
        ValueError: If no spectrum is known, the denoiser has an observation of its own, or a number is too small.
    """
    check_denoiser(denoiser, None)
    spectrum = denoiser.spectrum if spectrum is None else spectrum
    if spectrum is None:
        raise ValueError(
            f"{name}: expected the data's spectrum, got none; make the model with Model.for_data, or pass "
            f"spectrum=fit_spectrum(fields, domain)."
        )
    if denoiser.one_grid:
        raise ValueError(
            f"{name}: expected a denoiser without an observation, got {type(denoiser).__name__}, which has its own; pass the "
            f"prior's."
        )
    for label, (value, least, usually) in {"steps": (steps, 2, 50), **numbers}.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name}: expected {label} >= {least}, got {value!r}; {usually} is usual.")
    domain, seeds = denoiser.sde.domain, seed_list(seeds)
    size = (channels_of(denoiser), *domain.check_shape(shape))
    if denoiser.rows(slice(0, 1)) is not denoiser:
        raise ValueError(
            f"{name}: expected a denoiser that holds nothing for each sample, got {type(denoiser).__name__}; pass conditions "
            f"by name: {name}(..., label=labels)."
        )
    seen = observation(torch.zeros(1, *size), domain)
    if observation.values.ndim == seen.ndim and len(observation.values) not in (1, len(seeds)):
        raise ValueError(
            f"{name}: expected one observation, or one for each of the {len(seeds)} seeds, got {len(observation.values)}; "
            f"pass as many seeds."
        )
    times = (spacing or usual(denoiser.sde.schedule)).times(denoiser.sde.schedule, steps)
    rows = condition_rows(denoiser, condition, len(seeds))
    return Prepared(size, seeds, spectrum, times, rows, device_of(denoiser, device))
