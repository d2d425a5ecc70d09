"""Measures of fields, as functions of (x, y, domain): x what is judged, y the truth.

Distances between sets of samples are Frechet distances of features,

    |m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)),

with means m and covariances S over the samples. They are biased upwards at finite sample sizes: compare equal counts, and
print the distance between two true sets beside them.

Source: Heusel et al. (2017), GANs trained by a two time-scale update rule (the distance, there on Inception features).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fnodiff.domain import Box, Domain, Shape


def relative_l2(x: Tensor, y: Tensor, domain: Domain) -> Tensor:
    """|x - y| / |y| per sample, (B,).

    Raises:
        ValueError: If the shapes differ.
    """
    if x.shape != y.shape:
        raise ValueError(
            f"relative_l2: expected equal shapes, got {tuple(x.shape)} and {tuple(y.shape)}; resample one of them."
        )
    return domain.norm(x - y) / domain.norm(y)


def radial_spectrum(x: Tensor, domain: Domain) -> tuple[Tensor, Tensor]:
    """Variance per mode, averaged over samples, channels and shells of modes of nearly equal wavenumber.

    Returns:
        (wavenumber, power): each (shells,), the wavenumber in cycles per unit length; shells that the grid does not hold
        in full are left out, and so is the mean.
    """
    shape = domain.check_field(x)
    (shell, wavenumber), mult = domain.shells(shape), domain.multiplicity(shape, dtype=torch.float64)
    power = domain.analyze(x).abs().double().square().mean((0, 1)).cpu() * mult
    bins = max(len(wavenumber), int(shell.max()) + 1)
    total, modes = (
        torch.zeros(bins, dtype=torch.float64).index_add_(0, shell.flatten(), v.flatten()) for v in (power, mult)
    )
    full = slice(1, len(wavenumber))
    return wavenumber[full].to(x.device) / (2 * torch.pi), (total / modes)[full].to(x.device)


def spectrum_error(x: Tensor, y: Tensor, domain: Domain) -> float:
    """The mean over shells of |ln(power of x / power of y)|: 0.1 means 10% too much or too little variance per mode."""
    if domain.check_field(x) != domain.check_field(y):
        raise ValueError(
            f"spectrum_error: expected two sets on one grid, got {tuple(x.shape[2:])} and {tuple(y.shape[2:])}; resample one."
        )
    (_, power_x), (_, power_y) = radial_spectrum(x, domain), radial_spectrum(y, domain)
    return float((power_x / power_y).log().abs().mean())


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Frechet distance of two sets of features, each (N, D), in float64.

    Raises:
        ValueError: If the features differ in number, or a set has fewer than two members.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(
            f"frechet_distance: expected two sets (N, D) with the same D and N >= 2, got {tuple(x.shape)} and {tuple(y.shape)}."
        )
    if not bool(x.isfinite().all() and y.isfinite().all()):
        raise ValueError(
            "frechet_distance: expected finite features, got some that are not; look at the samples first."
        )
    (mean_x, cov_x), (mean_y, cov_y) = _moments(x), _moments(y)
    values, vectors = torch.linalg.eigh(cov_x)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_y @ root).clamp(min=0).sqrt().sum()
    return float((mean_x - mean_y).square().sum() + cov_x.trace() + cov_y.trace() - 2 * cross)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    mean, gram = torch.zeros(x.shape[1], dtype=torch.float64), torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for part in x.split(65536):
        mean += part.double().sum(0).cpu() / len(x)
    for part in x.split(65536):
        centred = part.double().cpu() - mean
        gram += centred.T @ centred / (len(x) - 1)
    return mean, gram


def global_coherence(x: Tensor, y: Tensor, domain: Box, *, shape: Shape = (8, 8)) -> float:
    """Frechet distance of images averaged to a coarse grid: does the picture hold together as a whole?"""
    return frechet_distance(*(domain.average(v, shape).flatten(1) for v in (x, y)))


def patches(x: Tensor, size: int = 7, *, stride: int = 2, limit: int = 200_000) -> Tensor:
    """Square patches of images (B, C, H, W) as rows (N, C size^2), evenly thinned to at most `limit`."""
    if x.ndim != 4 or min(x.shape[2:]) < size:
        raise ValueError(f"patches: expected images (B, C, H, W) of {size} x {size} or more, got {tuple(x.shape)}.")
    rows = x.unfold(2, size, stride).unfold(3, size, stride).permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)
    return rows[:: -(-len(rows) // limit)]


def patch_distance(x: Tensor, y: Tensor, *, size: int = 7) -> float:
    """Frechet distance of patches of `size` x `size` pixels: is the picture locally right? Blind to incoherence."""
    return frechet_distance(patches(x, size), patches(y, size))


def new_band(x: Tensor, y: Tensor, domain: Domain, band: Sequence[int], *, size: int = 7) -> tuple[float, float]:
    """How right the detail is that a grid of shape `band` could not hold.

    Images minus their part below that grid's band limit, in patches: (distance, energy), the Frechet distance divided by
    the true detail's energy, and the ratio of energies. No detail at all is (1.0, 0.0); the truth is (0.0, 1.0).

    Raises:
        ValueError: If `band` holds all that the fields' grid does.
    """
    shape = domain.check_field(x)
    if domain.check_field(y) != shape:
        raise ValueError(
            f"new_band: expected two sets on one grid, got {shape} and {tuple(y.shape[2:])}; resample one."
        )
    if all(n <= m for n, m in zip(shape, band, strict=True)):
        raise ValueError(
            f"new_band: expected fields finer than {tuple(band)}, got {shape}; there is no new band on them."
        )
    x, y = (v - domain.resample(domain.resample(v, band), shape) for v in (x, y))
    rows = patches(x, size), patches(y, size)
    energy = [float(r.double().square().sum(1).mean()) for r in rows]
    return frechet_distance(*rows) / energy[1], energy[0] / energy[1]


def discretization_error(
    model: Callable[[Tensor], Tensor],
    field: Callable[[Shape], Tensor],
    shapes: Sequence[Shape],
    domain: Domain | None = None,
) -> list[float]:
    """How far a model's output on finer grids is from its output on the first: 0 for an operator.

    Args:
        model: Field (B, C, *shape) -> field (B, C', *shape), such as `lambda x: net(x, noise_level)`.
        field: The same function on any grid: shape -> (B, C, *shape).
        shapes: Grids, the reference first; the others are brought to it by `domain.resample`.
        domain: What the fields are functions on; the model's, if it has one.

    Returns:
        The mean relative L2 difference from the first, one number for each other shape.

    Raises:
        ValueError: If no domain is given and the model has none.
    """
    domain = getattr(model, "domain", None) if domain is None else domain
    if domain is None:
        raise ValueError(f"discretization_error: expected a domain, as {model!r} has none; pass domain=.")
    with torch.no_grad():
        outputs = [domain.resample(model(field(tuple(shape))), shapes[0]) for shape in shapes]
    return [float(relative_l2(out, outputs[0], domain).mean()) for out in outputs[1:]]
