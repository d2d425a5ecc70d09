"""How far the resolution still matters to a model: one call, a table and a figure.

    print(invariance_report(model, [(32, 32), (48, 48), (64, 64)], pictures))
    fnodiff report MODEL --shapes 32 48 64 --data PICTURES          # the same as a command

The same seeds are sampled on every grid, and what is made of them is compared on the coarsest, to which `Domain.resample`
brings it: the same modes, exactly. An operator whose samples are functions makes the same ones on every grid. Of a model of
cell averages (images) a part of the difference is that a finer cell averages less: on Box up to a third in the last modes.
Columns:

- samples: |x_n - x_0| / |x_0 - mean|, the samples of grid n against those of the coarsest grid, seed by seed, each channel in
  units of its own spread.
- denoiser: the same of single denoised estimates. x_t is a noisy field on the finest grid, resampled to grid n; root mean
  squares over five times.
- sliced: sliced Wasserstein distance to the truth, both brought to the coarsest grid, in spreads of the truth.
- spectrum, global, patches, high band and its energy: against the truth on grid n, see `fnodiff.metrics`; images only but for
  the first. The high band is the detail above the training band, which the largest training grid cannot hold.
- FID, KID: where torchmetrics' Inception is at hand (pip install fnodiff[fid], and its weights), for images of 3 channels.

Without a truth, the samples of the coarsest grid stand in for it on that grid, and the columns that need more are left out.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fnodiff import metrics
from fnodiff.data import Fields
from fnodiff.data.source import check_domain
from fnodiff.domain import Domain, Shape, grid_name
from fnodiff.metrics.distances import NoDetail
from fnodiff.sde import Denoiser, Plan, Solver, sample
from fnodiff.sde.denoiser import Wrapper, check_names, condition_rows, evaluating
from fnodiff.sde.given import Given
from fnodiff.sde.pictures import are_pictures
from fnodiff.sde.sampling import device_of

TIMES = (0.2, 0.35, 0.5, 0.65, 0.8)
"""The times at which single estimates are compared."""


@dataclass
class InvarianceReport:
    """What `invariance_report` found; `print` it.

    Attributes:
        rows: For each shape the columns' values, by name; the truth's own, between two halves of it, under `truth`.
        samples: (N, C, *shape) for each shape, the same seeds.
        truth: Values of another true set against the truth, for each shape, by name; empty without a truth.
        grey: Whether samples of one channel are pictures in [-1, 1].
        spectra: (wavenumber, power) of the samples for each shape; and of the truth on the finest, under None.
    """

    rows: dict[Shape, dict[str, float]]
    samples: dict[Shape, Tensor]
    truth: dict[Shape, dict[str, float]] = field(default_factory=dict)
    grey: bool = False
    spectra: dict[Shape | None, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __str__(self) -> str:
        kinds = {"sampled": self.rows, "true": self.truth}
        rows = {(grid_name(shape), kind): row for kind, found in kinds.items() for shape, row in found.items()}
        count = len(next(iter(self.samples.values())))
        return f"{count} samples on each grid, the same seeds\n{table(rows)}"

    def plot(self, path: str | Path | None = None) -> Any:
        """A figure: a few seeds on every grid, the spectra, and the two errors by grid. Written to `path`, if given.

        Raises:
            ValueError: If the fields are not two-dimensional.
        """
        import matplotlib.pyplot as plt

        shapes, few = list(self.samples), 4
        if len(shapes[0]) != 2:
            raise ValueError(f"plot: expected fields in two dimensions, got {shapes[0]}; print the report instead.")
        figure = plt.figure(figsize=(11, 1.35 * max(3, len(shapes)) + 0.6), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(5, 6))
        axes = left.subplots(len(shapes), few, squeeze=False)
        low, high = (float(self.samples[shapes[0]][:few, 0].quantile(q)) for q in (0.01, 0.99))
        for line, (shape, x) in zip(axes, self.samples.items(), strict=True):
            for axis, one in zip(line, x, strict=False):
                if one.shape[0] == 3:
                    axis.imshow(one.movedim(0, -1).clamp(-1, 1).numpy() / 2 + 0.5, interpolation="nearest")
                elif self.grey:
                    axis.imshow(one[0].numpy(), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
                else:
                    axis.imshow(one[0].numpy(), vmin=low, vmax=high, interpolation="nearest")
            for axis in line:
                axis.set(xticks=[], yticks=[])
            line[0].set_ylabel(grid_name(shape), fontsize=9)
        left.suptitle("One seed per column", fontsize=10)
        spectra, errors = right.subplots(1, 2)
        for shape, (k, power) in self.spectra.items():
            name, look = ("truth", {"color": "black", "ls": ":"}) if shape is None else (grid_name(shape), {})
            spectra.loglog(k.cpu(), power.cpu(), label=name, **look)
        spectra.set(title="variance per mode", xlabel="cycles per unit length")
        spectra.legend(fontsize=8)
        for name in ("samples", "denoiser"):
            points = [
                (math.prod(shape) ** (1 / len(shape)), row[name]) for shape, row in self.rows.items() if name in row
            ]
            errors.plot(*zip(*points, strict=True), marker="o", label=name)
        errors.set(title=f"distance from {grid_name(shapes[0])}", xlabel="points per side", ylim=(0, None))
        errors.legend(fontsize=8)
        if path is not None:
            figure.savefig(path, dpi=130)
            plt.close(figure)
        return figure


def invariance_report(
    denoiser: Denoiser,
    shapes: Sequence[Sequence[int]],
    reference: Fields | None = None,
    *,
    samples: int = 64,
    solver: Solver | None = None,
    plan: Plan | None = None,
    seed: int = 0,
    batch: int = 16,
    inception: bool = False,
    device: torch.device | str | None = None,
    progress: bool = False,
    **condition: Any,
) -> InvarianceReport:
    """Sample the same seeds on several grids, and measure what the grid changes: see the head of this module.

    Args:
        denoiser: The model.
        shapes: Spatial shapes, the coarsest first: each at least as fine along every axis as the first.
        reference: True fields that exist on every grid, at least twice `samples` of them.
        samples: How many on each grid.
        solver, plan: As of `fnodiff.sample`. With `Direct()` the samples of each grid depend on the network alone; the default
            plan holds low modes of images above the training grids.
        seed: The seeds are 10,000 seed, 10,000 seed + 1, ...
        batch: Samples at a time.
        inception: Compute FID and KID too.
        device: Where to sample; by default where the model is.
        progress: Show bars.
        condition: As of `fnodiff.sample`, one row per sample or one for all. What is not named is that of the true fields,
            sample by sample, if they come with it and the model has it.

    Raises:
        ValueError: If the shapes are not at least two different ones, the first the coarsest; or there are too few samples
            or true fields.
    """
    domain = denoiser.sde.domain
    shapes = [domain.check_shape(shape) for shape in shapes]
    coarsest, finest = shapes[0], max(shapes, key=math.prod)
    nested = all(n <= m for shape in shapes for n, m in zip(coarsest, shape, strict=True))
    if len(set(shapes)) != len(shapes) or len(shapes) < 2 or not nested:
        raise ValueError(f"invariance_report: expected two or more different shapes, the coarsest first, got {shapes}.")
    if samples < 2 or (reference is not None and len(reference) < 2 * samples):
        raise ValueError(
            f"invariance_report: expected two samples or more and twice as many true fields, got samples={samples} and "
            f"{'none' if reference is None else len(reference)}; draw fewer."
        )
    channels = _channels(denoiser, reference)
    if inception and (reference is None or channels != 3 or not domain.pictures):
        raise ValueError(
            f"invariance_report: expected images of 3 channels on Box(2) and true ones for FID and KID, got {channels} "
            f"channels on {domain} and {'no' if reference is None else 'some'} true fields; leave inception out."
        )
    device = device_of(denoiser, device)
    denoiser = denoiser.to(device)
    seeds = range(10_000 * seed, 10_000 * seed + samples)
    if reference is not None:
        condition = {**own_conditions("invariance_report", denoiser, reference, samples, coarsest), **condition}
    options = {"solver": solver, "plan": plan, "batch": batch, "device": device, "progress": progress, **condition}
    batches = {} if reference is None else {shape: reference.batch(range(2 * samples), shape) for shape in shapes}
    sampled = {shape: sample(denoiser, shape, seeds, **options) for shape in shapes}
    true = {shape: filled(batch["x"], batch) for shape, batch in batches.items()}
    seen = {shape: filled(x, batches.get(shape, {})) for shape, x in sampled.items()}
    rows: dict[Shape, dict[str, float]] = {shape: {} for shape in shapes}
    truth: dict[Shape, dict[str, float]] = {shape: {} for shape in true}

    first, noisy = sampled[coarsest], (true or sampled)[finest][:samples]
    spread = _units((true or sampled)[coarsest], domain)[1]
    rest = condition_rows(denoiser, condition, samples)
    with evaluating(denoiser):
        errors = _denoiser_errors(denoiser, shapes, noisy, batch, device, rest)
    for shape, error in errors.items():
        x, alike = (domain.resample(fields[shape], coarsest) for fields in (sampled, seen))
        apart, own = (domain.norm(v / spread).square().mean() for v in (x - first, first - first.mean(0)))
        rows[shape]["samples"] = float((apart / own).sqrt())
        rows[shape]["denoiser"] = error
        target = domain.resample(true[shape][:samples], coarsest) if true else first
        rows[shape]["sliced"] = _sliced(alike, target, domain)
    for shape, fields in true.items():
        half, other = (domain.resample(part, coarsest) for part in fields.chunk(2))
        truth[shape]["sliced"] = _sliced(other, half, domain)
        for row, x in ((rows[shape], seen[shape]), (truth[shape], fields[samples:])):
            row.update(distances(x, fields[:samples], domain, denoiser.training_shapes, inception))
    spectra: dict[Shape | None, Any] = {shape: metrics.radial_spectrum(x, domain) for shape, x in sampled.items()}
    if true:
        spectra[None] = metrics.radial_spectrum(true[finest], domain)
    return InvarianceReport(rows, sampled, truth, are_pictures(denoiser) and channels == 1, spectra)


def filled(x: Tensor, true: Mapping[str, Tensor]) -> Tensor:
    """Fields as the true ones of a batch were measured: the mean of these where their mask is 0, else as they are.

    Distances of sets compare samples that lack what the truth lacks. x are its fields, or as many of its first as there are.
    """
    if "mask" not in true:
        return x
    there, axes = (true["mask"] > 0).expand_as(true["x"]), (0, *range(2, x.ndim))
    count = there.sum(axes, keepdim=True).clamp(min=1)
    mean = torch.where(there, true["x"], 0.0).double().sum(axes, keepdim=True) / count
    return torch.where(there[: len(x)], x, mean.to(x.dtype))


def _channels(denoiser: Denoiser, reference: Fields | None) -> int:
    """How many channels the samples have."""
    channels = denoiser.channels
    if channels is None:
        raise ValueError(
            "invariance_report: expected a denoiser that knows its channels, got one without; make it with channels=."
        )
    if reference is not None:
        check_domain("invariance_report", reference, denoiser.sde.domain)
    if reference is not None and reference.channels != channels:
        raise ValueError(
            f"invariance_report: expected true fields of {channels} channels, as the model's, got {reference.channels}; pass "
            f"those that it was made for."
        )
    return channels


def own_conditions(owner: str, denoiser: Denoiser, reference: Fields, count: int, shape: Shape) -> dict[str, Tensor]:
    """What the first true fields come with, of the conditions that a model, guided or not, has and that are not bound."""
    inner, bound = denoiser, set()
    while isinstance(inner, Wrapper):
        bound |= set(inner.condition) if isinstance(inner, Given) else set()
        inner = inner.denoiser
    network = getattr(inner, "network", None)
    has = {"field": getattr(network, "condition_channels", 0), "label": getattr(network, "num_classes", 0)}
    has["condition"] = denoiser.condition_names
    wanted = [name for name, there in has.items() if there and name not in bound]
    check_names(owner, denoiser, getattr(reference, "condition_names", ()))
    batch = reference.batch(range(count), shape) if wanted else {}
    return {name: batch[name] for name in wanted if name in batch}


@torch.no_grad()
def _denoiser_errors(
    denoiser: Denoiser, shapes: list[Shape], x: Tensor, batch: int, device: torch.device, condition: dict[str, Tensor]
) -> dict[Shape, float]:
    """Of single estimates, for each shape."""
    domain, sde = denoiser.sde.domain, denoiser.sde
    totals = {shape: [0.0, 0.0] for shape in shapes}
    for number, time in enumerate(TIMES):
        t = torch.tensor(time, device=device)
        found: dict[Shape, list[Tensor]] = {shape: [] for shape in shapes}
        for start in range(0, len(x), batch):
            part = denoiser.normalization(x[start : start + batch]).float().to(device)
            given = {name: value[start : start + batch].to(device) for name, value in condition.items()}
            generator = [torch.Generator().manual_seed(1000 * number + start + i) for i in range(len(part))]
            x_t, _ = sde.perturb(part, t, generator=generator)
            for shape in shapes:
                estimate = denoiser(domain.resample(x_t, shape), t, **given)
                found[shape].append(domain.resample(estimate, shapes[0]).cpu())
        first = torch.cat(found[shapes[0]])
        for shape, parts in found.items():
            totals[shape][0] += float(domain.norm(torch.cat(parts) - first).square().mean())
            totals[shape][1] += float(domain.norm(first - first.mean(0)).square().mean())
    return {shape: math.sqrt(error / size) for shape, (error, size) in totals.items()}


def _sliced(x: Tensor, target: Tensor, domain: Domain) -> float:
    """Sliced Wasserstein distance, points weighed by their area, each channel in units of the target's spread."""
    weights = domain.weights(target.shape[2:]).to(target)
    root = (weights * weights.numel()).sqrt()
    mean, spread = _units(target, domain)
    return metrics.sliced_wasserstein((x - mean) / spread * root, (target - mean) / spread * root)


def _units(x: Tensor, domain: Domain) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over samples and domain, (C, 1, ..., 1)."""
    weights, axes = domain.weights(x.shape[2:], dtype=torch.float64), tuple(range(2, x.ndim))
    mean = (weights * x).sum(axes, keepdim=True).mean(0)
    spread = (weights * (x - mean).square()).sum(axes, keepdim=True).mean(0).sqrt()
    varies = (spread > 1e-6 * mean.abs()) & (spread > 0)
    return mean, torch.where(varies, spread, 1.0)


def distances(
    x: Tensor, y: Tensor, domain: Domain, trained: Sequence[Shape] = (), inception: bool = False
) -> dict[str, float]:
    """The distances of fields (N, C, *shape) from true ones on the same grid, by the names of the report's columns.

    Args:
        x, y: The fields, and the true ones.
        domain: Theirs.
        trained: The training shapes: the high band is what the largest cannot hold.
        inception: FID and KID too.
    """
    found, shape = {"spectrum": metrics.spectrum_error(x, y, domain)}, tuple(x.shape[2:])
    if not domain.pictures:
        return found
    found["global"], found["patches"] = metrics.global_coherence(x, y, domain), metrics.patch_distance(x, y)
    largest = max(trained, key=math.prod, default=None)
    if largest is not None and all(n > m for n, m in zip(shape, largest, strict=True)):
        with contextlib.suppress(NoDetail):  # a dash in the table
            found["high band"], found["energy"] = metrics.high_band_distance(x, y, domain, largest)
    if inception:
        found["FID"], found["KID"] = metrics.inception_distances(x, y)
    return found


def table(rows: Mapping[tuple[str, str], Mapping[str, float]]) -> str:
    """(size, of what) -> numbers by name, as lines of text, the names on top and "-" where there is none."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [f"{'':<22}" + "".join(f"{name:>10}" for name in names)]
    for (size, kind), row in rows.items():
        cells = [f"{row[name]:>10.3f}" if name in row else f"{'-':>10}" for name in names]
        lines.append(f"{size:<10}{kind:<12}" + "".join(cells))
    return "\n".join(lines)
