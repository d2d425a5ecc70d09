"""Distances between sets of fields: Frechet distances of features,

    |m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)),

with means m and covariances S over the samples. They are biased upwards at finite sample sizes: compare equal counts, and
print the distance between two true sets beside them.

Source: Heusel et al. (2017), GANs trained by a two time-scale update rule (the distance, there on Inception features).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fnodiff.domain import Domain, Shape, in_double, normals
from fnodiff.expected import at_least, kinds_checked


@kinds_checked
def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Frechet distance of two sets of features, each (N, D), in float64.

    Raises:
        ValueError: If the features differ in number, or a set has fewer than two members.

    Examples:
        >>> import torch
        >>> from fnodiff.metrics import frechet_distance
        >>> x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
        >>> round(frechet_distance(x + torch.tensor([3.0, 4.0, 0.0]), x), 3)
        25.0
    """
    _check_features("frechet_distance", x, y)
    (mean_x, cov_x), (mean_y, cov_y) = _moments(x), _moments(y)
    values, vectors = torch.linalg.eigh(cov_x)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_y @ root).clamp(min=0).sqrt().sum()
    return float((mean_x - mean_y).square().sum() + cov_x.trace() + cov_y.trace() - 2 * cross)


def _check_features(name: str, x: Tensor, y: Tensor) -> None:
    """ValueError unless these are two sets of finite features."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(
            f"{name}: expected two sets (N, D) with the same D and N >= 2, got {tuple(x.shape)} and "
            f"{tuple(y.shape)}; flatten each member to a row, and draw more."
        )
    if not bool(x.isfinite().all() and y.isfinite().all()):
        raise ValueError(f"{name}: expected finite features, got some that are not; look at the samples first.")


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    mean, gram = torch.zeros(x.shape[1], dtype=torch.float64), torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for part in x.split(65536):
        mean += in_double(part).sum(0).cpu() / len(x)
    for part in x.split(65536):
        centred = in_double(part).cpu() - mean
        gram += centred.T @ centred / (len(x) - 1)
    return mean, gram


@kinds_checked
def sliced_wasserstein(x: Tensor, y: Tensor, *, projections: int = 256, seed: int = 0) -> float:
    """Sliced Wasserstein-2 distance of two sets of as many members: the root mean square over random directions of the
    distance between the sorted projections, per coordinate of the flattened members.

    Args:
        x, y: (N, ...), of the same shape.
        projections: Directions, drawn from `seed`.

    Raises:
        ValueError: If the shapes differ, or there are fewer than two members.

    Source: Rabin, Peyre, Delon, Bernot (2012), Wasserstein barycenter and its application to texture mixing.

    Examples:
        >>> import torch
        >>> from fnodiff.metrics import sliced_wasserstein
        >>> x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
        >>> round(sliced_wasserstein(x + 1.0, x), 1)  # per coordinate
        1.0
    """
    if x.shape != y.shape or x.ndim < 2 or len(x) < 2:
        raise ValueError(
            f"sliced_wasserstein: expected two sets of one shape with two members or more, got {tuple(x.shape)} and "
            f"{tuple(y.shape)}; take as many of both, on one grid."
        )
    at_least("sliced_wasserstein", 1, projections=projections)
    a, b = (in_double(v.flatten(1)) for v in (x, y))
    generator = torch.Generator().manual_seed(seed)
    directions = normals((1, projections), (a.shape[1],), generator=generator, dtype=torch.float64)[0].T.to(a.device)
    directions = directions / directions.norm(dim=0)
    a, b = ((v @ directions).sort(0).values for v in (a, b))
    return float((a - b).square().mean().sqrt())


@kinds_checked
def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Kernel distance of two sets of features, (N, D) and (M, D): the unbiased estimate of the squared maximum mean
    discrepancy under the kernel k(a, b) = (a . b / D + 1)^3, which is KID's on Inception features,

        mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j).

    Its expectation does not depend on N and M, other than the Frechet distance's. It may be negative.

    Raises:
        ValueError: As of `frechet_distance`.

    Source: Binkowski, Sutherland, Arbel, Gretton (2018), Demystifying MMD GANs.

    Examples:
        >>> import torch
        >>> from fnodiff.metrics import kernel_distance
        >>> kernel_distance(torch.tensor([[1.0], [1.0]]), torch.tensor([[0.0], [0.0]]))  # 8 + 1 - 2
        7.0
    """
    _check_features("kernel_distance", x, y)

    def total(a: Tensor, b: Tensor) -> float:
        return float(sum((part @ b.T / b.shape[1] + 1).pow(3).sum() for part in a.split(4096)))

    x, y = in_double(x).cpu(), in_double(y).cpu()
    within = [
        (total(v, v) - float((v.square().sum(1) / v.shape[1] + 1).pow(3).sum())) / (len(v) * (len(v) - 1))
        for v in (x, y)
    ]
    return sum(within) - 2 * total(x, y) / (len(x) * len(y))


@kinds_checked
def global_coherence(x: Tensor, y: Tensor, domain: Domain, *, shape: Shape = (8, 8)) -> float:
    """Frechet distance of images averaged to a coarse grid: does the picture hold together as a whole?

    Raises:
        ValueError: If the domain is none that averages over cells, as the sphere.
    """
    if not domain.averages_cells:
        raise ValueError(f"global_coherence: expected a Box, which averages over cells, got {domain}; compare spectra.")
    return frechet_distance(*(domain.average(v, shape).flatten(1) for v in (x, y)))


@kinds_checked
def patches(x: Tensor, size: int = 7, *, stride: int = 2, limit: int = 200_000) -> Tensor:
    """Square patches of images (B, C, H, W) as rows (N, C size^2), evenly thinned to at most `limit`."""
    at_least("patches", 1, size=size, stride=stride, limit=limit)
    if x.ndim != 4 or min(x.shape[2:]) < size:
        raise ValueError(
            f"patches: expected images (B, C, H, W) of {size} x {size} or more, got {tuple(x.shape)}; "
            f"take smaller patches."
        )
    rows = x.unfold(2, size, stride).unfold(3, size, stride).permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)
    return rows[:: -(-len(rows) // limit)]


@kinds_checked
def patch_distance(x: Tensor, y: Tensor, *, size: int = 7) -> float:
    """Frechet distance of patches of `size` x `size` pixels: is the picture locally right? Blind to incoherence."""
    return frechet_distance(patches(x, size), patches(y, size))


class NoDetail(ValueError):
    """True fields hold nothing that the coarser grid could not."""


@kinds_checked
def high_band_distance(
    x: Tensor, y: Tensor, domain: Domain, band: Sequence[int], *, size: int = 7
) -> tuple[float, float]:
    """How right the detail above the training band is: what a grid of shape `band` could not hold.

    Images minus their part below that grid's band limit, in patches: (distance, energy), the Frechet distance divided by
    the true detail's energy, and the ratio of energies. No detail at all is (1.0, 0.0); the truth is (0.0, 1.0).

    Raises:
        ValueError: If `band` holds all that the fields' grid does, if the true fields have no detail above it, or on the
            sphere, whose patches are not alike.

    Examples:
        >>> import torch
        >>> from fnodiff import Torus
        >>> from fnodiff.metrics import high_band_distance
        >>> x = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> smooth = Torus(2).resample(Torus(2).resample(x, (8, 8)), (16, 16))
        >>> [round(v, 3) for v in high_band_distance(smooth, x, Torus(2), (8, 8))]
        [1.005, 0.0]
    """
    if not domain.uniform:
        raise ValueError(
            f"high_band_distance: expected a domain whose patches are alike, got {domain}; compare spectra."
        )
    shape = domain.check_field(x)
    if domain.check_field(y) != shape:
        raise ValueError(
            f"high_band_distance: expected two sets on one grid, got {shape} and {tuple(y.shape[2:])}; resample one."
        )
    if all(n <= m for n, m in zip(shape, band, strict=True)):
        raise ValueError(
            f"high_band_distance: expected fields finer than {tuple(band)}, got {shape}; they have nothing above it."
        )
    whole = y
    x, y = (v - domain.resample(domain.resample(v, band), shape) for v in (x, y))
    rows = patches(x, size), patches(y, size)
    energy = [float(in_double(r).square().sum(1).mean()) for r in rows]
    least = (10 * torch.finfo(y.dtype).eps) ** 2 * float(in_double(whole).square().mean()) * rows[1].shape[1]
    if energy[1] <= least:
        raise NoDetail(
            f"high_band_distance: expected true fields with detail finer than {tuple(band)}, got none; they may have been "
            f"resampled from a coarser grid."
        )
    return frechet_distance(*rows) / energy[1], energy[0] / energy[1]
