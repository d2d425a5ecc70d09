"""Scores of ensembles. Samples x_1 .. x_S of a posterior are judged against the truth y by scores in their fair form, whose
expectation does not depend on S and is least when x_i and y have the same law (|.| a number's modulus for crps, a field's norm
for energy_score),

    mean_i |x_i - y| - sum_{i<j} |x_i - x_j| / (S (S - 1)),

and by the rank of y among them, which is uniform on 0 .. S if y and the x_i are exchangeable. A `mask` is 1 where y was
measured, 0 elsewhere, (B, 1 or C, *shape): values where it is 0 count for nothing, whatever they are.

Sources: Gneiting and Raftery (2007), Strictly proper scoring rules, prediction, and estimation; Ferro (2014), Fair scores for
ensemble forecasts; Hamill (2001), Interpretation of rank histograms for verifying ensemble forecasts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fnodiff.domain import Domain, has_double, in_double
from fnodiff.expected import kinds_checked
from fnodiff.metrics.errors import measured


@kinds_checked
def crps(samples: Tensor, y: Tensor, domain: Domain, *, mask: Tensor | None = None) -> Tensor:
    """Continuous ranked probability score, fair, point by point: its mean over the domain and the channels, (B,).

    In the units of y, smaller is better; that of a single truth may be negative.

    Args:
        samples, y: (S, B, C, *shape), S >= 2, and the truth, (B, C, *shape).
        mask: Where y was measured: the mean is over that part.

    Raises:
        ValueError: If the shapes do not fit, a measured value is not finite, or a field has no measured values.

    Examples:
        >>> import torch
        >>> from fnodiff import Box
        >>> from fnodiff.metrics import crps
        >>> samples = torch.randn(50, 1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> [round(float(crps(samples, torch.full((1, 1, 16, 16), y), Box(2))), 2) for y in (0.0, 2.0)]
        [0.23, 1.47]
    """
    samples, y, weights = _ensemble("crps", samples, y, domain, mask)
    count = len(samples)
    rank = torch.arange(1 - count, count, 2, device=y.device, dtype=y.dtype)  # sum_{i<j} |x_i - x_j| by sorting
    spread = torch.tensordot(rank, samples.sort(0).values, 1) / (count * (count - 1))
    return (((samples - y).abs().mean(0) - spread) * weights).flatten(1).sum(1)


@kinds_checked
def energy_score(samples: Tensor, y: Tensor, domain: Domain, *, mask: Tensor | None = None) -> Tensor:
    """Energy score, fair: the CRPS of whole fields, by the domain's norm, (B,). It sees correlations in space too.

    Arguments and errors as of `crps`. With a mask, |x|^2 is the mean over the measured part of the sum over channels.
    """
    samples, y, weights = _ensemble("energy_score", samples, y, domain, mask)
    count, root = len(samples), (weights * y.shape[1]).sqrt()

    def norms(x: Tensor) -> Tensor:
        return (x * root).flatten(2).norm(dim=2)

    pairs = sum(norms(samples[i + 1 :] - samples[i]).sum(0) for i in range(count - 1))
    return norms(samples - y).mean(0) - pairs / (count * (count - 1))


@kinds_checked
def coverage(
    samples: Tensor,
    y: Tensor,
    domain: Domain,
    level: float = 0.9,
    *,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[float, Tensor]:
    """How much of the area should have y in the samples' central interval, and how much has.

    The interval from the k-th smallest to the k-th largest of S samples holds y with probability 1 - 2k / (S + 1) exactly if
    they are exchangeable, however small S is; k is chosen to come closest to `level`. Compare the two numbers returned,
    never `level` with the second: S = 16 and level 0.9 have 0.882. Other arguments as of `rank_histogram`.

    Returns:
        (nominal, observed): 1 - 2k / (S + 1), and (B,), the fraction of the measured area, averaged over channels.

    Raises:
        ValueError: As `crps`, or if no interval of S samples comes close to the level.

    Examples:
        >>> import torch
        >>> from fnodiff import Box
        >>> from fnodiff.metrics import coverage
        >>> x = torch.randn(20, 1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> nominal, observed = coverage(x[1:], x[0], Box(2), level=0.9)
        >>> round(nominal, 2), round(float(observed), 2)
        (0.9, 0.9)
    """
    samples, y, weights = _ensemble("coverage", samples, y, domain, mask)
    count = len(samples)
    k = round((1 - level) / 2 * (count + 1)) if 0 < level < 1 else 0
    if not 1 <= k <= count / 2:
        raise ValueError(
            f"coverage: expected a level near one that {count} samples can have, {1 - 2 * (count // 2) / (count + 1):.3f} to "
            f"{1 - 2 / (count + 1):.3f}, got {level}; draw more samples, or choose another level."
        )
    rank = _rank(samples, y, generator)
    inside = ((rank >= k) & (rank <= count - k)).to(weights.dtype)
    return 1 - 2 * k / (count + 1), (inside * weights).flatten(1).sum(1)


@kinds_checked
def rank_histogram(
    samples: Tensor,
    y: Tensor,
    domain: Domain,
    *,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """How often y has each rank among the samples: shares (S + 1,) of the measured area, float64, of all channels and fields.

    1 / (S + 1) each if calibrated; a valley means samples too close together, a hill too far apart, a slope bias. The points
    of a field are correlated: judge deviations by the number of independent fields, not that of points. Arguments and errors
    as of `crps`; the generator breaks ties at random: y takes any of the ranks open to it.
    """
    samples, y, weights = _ensemble("rank_histogram", samples, y, domain, mask)
    rank = _rank(samples, y, generator).flatten()
    weights = in_double(weights.flatten())
    return torch.bincount(rank.to(weights.device), weights / len(y), minlength=len(samples) + 1)


def _rank(samples: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
    double = has_double(y.device)
    device = generator.device if generator is not None else y.device if double else torch.device("cpu")
    draw = torch.rand(y.shape, generator=generator, device=device, dtype=torch.float64)
    draw = draw.to(torch.float64 if double else torch.float32).to(y.device)
    return (samples < y).sum(0) + (draw * ((samples == y).sum(0) + 1)).long()


def _ensemble(name: str, samples: Tensor, y: Tensor, domain: Domain, mask: Tensor | None) -> tuple[Tensor, ...]:
    """Samples and truth, 0 where not measured, and weights (B, C, *shape) there, which sum to 1 for each field."""
    if samples.shape[1:] != y.shape or y.ndim < 3 or len(samples) < 2:
        raise ValueError(
            f"{name}: expected samples (S, B, C, *shape), S >= 2, and y (B, C, *shape), got {tuple(samples.shape)} and "
            f"{tuple(y.shape)}; stack the samples along a first axis."
        )
    weights = domain.weights(domain.check_field(y), device=y.device, dtype=y.dtype).expand_as(y)
    if mask is not None:
        there = measured(mask, y)
        samples, y, weights = (torch.where(there, v, 0.0) for v in (samples, y, weights))
    total = weights.flatten(1).sum(1).reshape(-1, *[1] * (y.ndim - 1))
    if not bool((total > 0).all() and samples.isfinite().all() and y.isfinite().all()):
        raise ValueError(
            f"{name}: expected finite values, and some of them measured in every field; mask the others, drop fields without."
        )
    return samples, y, weights / total
