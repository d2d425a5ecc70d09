"""Scores of calibration: coverage, ranks, and how far a calibrated ensemble would be off by chance.

Ensembles of S members for T truths. Of each truth there is its own histogram of ranks over the area, and those of its members,
each ranked among the truth and the other members. If all is calibrated the truth is exchangeable with its members: a histogram
of T fields, drawn one from each set of S + 1, is then as likely as that of the truths. That gives the interval in which a
calibrated histogram stays, whatever the correlation of a field's points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fnodiff import metrics
from fnodiff.domain import Domain

LEVELS = (0.5, 0.8, 0.95)
RESAMPLED = 2000


@dataclass
class Scores:
    """Of one channel, truth by truth; NaN of a level that so few members cannot have.

    Args:
        nominal: What a calibrated ensemble covers, (levels,).
        covered: What this one covers, (T, levels).
        crps: (T,), in data units.
        error: Mean square of ensemble mean - truth over the area, (T,).
        variance: Mean of the members' variance over the area, (T,).
        ranks: Histograms (T, S + 1 fields, S + 1 ranks): the truth's first.
    """

    nominal: Tensor
    covered: Tensor
    crps: Tensor
    error: Tensor
    variance: Tensor
    ranks: Tensor

    @classmethod
    def of(cls, samples: Tensor, truths: Tensor, domain: Domain) -> Scores:
        """Of members (T, S, 1, *shape) and truths (T, 1, *shape)."""
        samples, truths = samples.movedim(1, 0).double(), truths.double()
        weights = domain.weights(tuple(truths.shape[2:]), dtype=truths.dtype)
        weights = weights / weights.sum()

        def mean(x: Tensor) -> Tensor:
            return (x * weights).flatten(1).sum(1)

        generator = torch.Generator().manual_seed(0)
        covers = [covered(samples, truths, domain, level, generator) for level in LEVELS]
        fields = torch.cat([truths[None], samples]).unbind(1)
        ranks = torch.stack([everyones_ranks(one, weights, generator) for one in fields])
        return cls(
            torch.tensor([nominal for nominal, _ in covers], dtype=torch.float64),
            torch.stack([found for _, found in covers], 1),
            metrics.crps(samples, truths, domain),
            mean((samples.mean(0) - truths).square()),
            mean(samples.var(0)),
            ranks,
        )

    @property
    def ratio(self) -> float:
        """Spread over the mean's error; 1 of a calibrated ensemble."""
        count = self.ranks.shape[1] - 1
        return math.sqrt((count + 1) / count) * float(self.variance.mean() / self.error.mean()) ** 0.5

    @property
    def histogram(self) -> Tensor:
        """Of the truths' ranks, (S + 1,)."""
        return self.ranks[:, 0].mean(0)

    def calibrated(self, seed: int = 0) -> Tensor:
        """Histograms (RESAMPLED, S + 1) of as many fields, if truths and members were exchangeable."""
        generator = torch.Generator().manual_seed(seed)
        total = torch.zeros(RESAMPLED, self.ranks.shape[2], dtype=self.ranks.dtype)
        for each in self.ranks:  # one field of each truth's set
            total += each[torch.randint(len(each), (RESAMPLED,), generator=generator)]
        return total / len(self.ranks)

    def means(self, seed: int = 0) -> Tensor:
        """Coverages (RESAMPLED, levels) of truths drawn again with replacement."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(len(self.covered), (RESAMPLED, len(self.covered)), generator=generator)
        return self.covered[drawn].mean(1)


def everyones_ranks(fields: Tensor, weights: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Of each of n fields (n, 1, *shape) the histogram of its ranks among the others, by area: (n, n); ties at random."""
    count, values = len(fields), fields.flatten(1)
    shuffled = torch.rand(values.shape, generator=generator or torch.Generator().manual_seed(0)).argsort(0)
    order = values.gather(0, shuffled).argsort(dim=0, stable=True)
    ranks = torch.empty_like(order).scatter_(
        0, shuffled.gather(0, order), torch.arange(count)[:, None].expand_as(order)
    )
    share = weights.expand(fields.shape[1:]).flatten() / weights.sum()
    bins = ranks + count * torch.arange(count)[:, None]
    return torch.bincount(bins.flatten(), share.expand_as(bins).flatten(), minlength=count**2).view(count, count)


def index(histogram: Tensor) -> Tensor:
    """Reliability index: the sum over ranks of |share - 1 / (S + 1)|; 0 if flat, near 2 at most."""
    return (histogram - 1 / histogram.shape[-1]).abs().sum(-1)


def interval(x: Tensor) -> tuple[Tensor, Tensor]:
    """The central 95% of the first axis."""
    low, high = torch.nanquantile(x, torch.tensor([0.025, 0.975], dtype=x.dtype), dim=0)
    return low, high


def widened(samples: Tensor, truths: Tensor, domain: Domain) -> tuple[Tensor, Tensor]:
    """Members moved from their mean by the factor that makes spread and error equal, and the factors (2,).

    The factor of every other truth is found on the rest, so that no truth has a part in its own.
    """
    out, factors = samples.clone(), []
    weights = domain.weights(tuple(truths.shape[2:]), dtype=samples.dtype)
    mean, count = samples.mean(1, keepdim=True), samples.shape[1]
    for part in (0, 1):
        rest = slice(1 - part, None, 2)
        error = ((mean[rest, 0] - truths[rest]).square() * weights).sum()
        variance = (samples[rest].var(1) * weights).sum() * (count + 1) / count
        factors.append((error / variance).sqrt())
        own = slice(part, None, 2)
        out[own] = mean[own] + factors[-1] * (samples[own] - mean[own])
    return out, torch.stack(factors)


def sides(samples: Tensor, truths: Tensor, middle: float) -> tuple[tuple[Tensor, Tensor], float]:
    """Members (T, S, 1, *shape) and truths as 0 and 1, below and above the middle; and the share of cells with both."""
    above, true = (samples > middle).to(samples), (truths > middle).to(truths)
    return (above, true), float((above != true[:, None]).any(1).to(truths).mean())


def draw(panels: Mapping[str, Mapping[str, Scores]], path: Path) -> None:
    """A panel for each channel: histograms of ranks, relative to a flat one, and the interval of a calibrated one."""
    import matplotlib.pyplot as plt

    columns = min(len(panels), 4)
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.4 * columns, 2.9 * lines), layout="constrained", squeeze=False
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, rows) in zip(axes.flat, panels.items(), strict=False):
        for number, (name, scores) in enumerate(rows.items()):
            count = scores.ranks.shape[2]
            edges = torch.arange(count + 1).numpy() - 0.5
            if not number:
                low, high = interval(count * scores.calibrated())
                look = {"fill": True, "color": "0.88", "label": "calibrated: 95%"}
                axis.stairs(high.numpy(), edges, baseline=low.numpy(), **look)
            axis.stairs((count * scores.histogram).numpy(), edges, label=name)
        axis.axhline(1, color="0.6", lw=0.7)
        axis.set(title=title, xlabel="rank of the truth", ylim=(0, None))
        axis.legend(fontsize=6)
    axes[0, 0].set_ylabel("share of the area, times ranks")
    figure.savefig(path, dpi=130)
    plt.close(figure)
    print(f"figure: {path}")


def covered(
    samples: Tensor, truths: Tensor, domain: Domain, level: float, generator: torch.Generator
) -> tuple[float, Tensor]:
    """As `metrics.coverage`; NaN of a level for which there are too few samples."""
    if not round((1 - level) / 2 * (len(samples) + 1)):
        return math.nan, truths.new_full((len(truths),), math.nan)
    return metrics.coverage(samples, truths, domain, level, generator=generator)
