"""Measures of fields, as functions of (x, y, domain): x what is judged, y the truth.

Distances between sets of samples are Frechet distances of features,

    |m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)),

with means m and covariances S over the samples. They are biased upwards at finite sample sizes: compare equal counts, and
print the distance between two true sets beside them.

Samples x_1 .. x_S of a posterior are judged against the truth y by scores in their fair form, whose expectation does not
depend on S and is least when x_i and y have the same law (|.| a number's modulus for crps, a field's norm for energy_score),

    mean_i |x_i - y| - sum_{i<j} |x_i - x_j| / (S (S - 1)),

and by the rank of y among them, which is uniform on 0 .. S if y and the x_i are exchangeable. A `mask` is 1 where y was
measured, 0 elsewhere, (B, 1 or C, *shape): values where it is 0 count for nothing, whatever they are.

Sources: Heusel et al. (2017), GANs trained by a two time-scale update rule (the distance, there on Inception features);
Gneiting and Raftery (2007), Strictly proper scoring rules, prediction, and estimation; Ferro (2014), Fair scores for ensemble
forecasts; Hamill (2001), Interpretation of rank histograms for verifying ensemble forecasts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fnodiff.domain import Box, Domain, Shape, Torus, normals


def relative_l2(x: Tensor, y: Tensor, domain: Domain, *, mask: Tensor | None = None) -> Tensor:
    """|x - y| / |y| per sample, (B,), over the part that was measured.

    Raises:
        ValueError: If the shapes differ, or the mask is not one of this shape.

    Examples:
        >>> import torch
        >>> from fnodiff import Box
        >>> from fnodiff.metrics import relative_l2
        >>> y = torch.ones(1, 1, 8, 8)
        >>> relative_l2(1.1 * y, y, Box(2))
        tensor([0.1000])
    """
    if x.shape != y.shape:
        raise ValueError(
            f"relative_l2: expected equal shapes, got {tuple(x.shape)} and {tuple(y.shape)}; resample one of them."
        )
    if mask is not None:
        measured = _measured(mask, y)
        x, y = torch.where(measured, x, 0.0), torch.where(measured, y, 0.0)
    return domain.norm(x - y) / domain.norm(y)


def radial_spectrum(x: Tensor, domain: Domain) -> tuple[Tensor, Tensor]:
    """Variance per mode, averaged over samples, channels and shells of modes of nearly equal wavenumber.

    Returns:
        (wavenumber, power): each (shells,), the wavenumber in cycles per unit length; shells that the grid does not hold
        in full are left out, and so is the mean.

    Examples:
        >>> import torch
        >>> from fnodiff import Torus, WhiteNoise
        >>> from fnodiff.metrics import radial_spectrum
        >>> x = WhiteNoise(Torus(2), (15, 15)).sample((256, 1, 15, 15), generator=torch.Generator().manual_seed(0))
        >>> wavenumber, power = radial_spectrum(x, Torus(2))
        >>> (power * 15 * 15).round(decimals=1)  # white noise: as much in each mode
        tensor([1., 1., 1., 1., 1., 1., 1.], dtype=torch.float64)
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
    """The mean over shells of |ln(power of x / power of y)|: 0.1 means 10% too much or too little variance per mode.

    Examples:
        >>> import torch
        >>> from fnodiff import Box
        >>> from fnodiff.metrics import spectrum_error
        >>> x = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> round(spectrum_error(1.1 * x, x, Box(2)), 3)  # 2 ln 1.1
        0.191
    """
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

    Examples:
        >>> import torch
        >>> from fnodiff.metrics import frechet_distance
        >>> x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
        >>> round(frechet_distance(x + torch.tensor([3.0, 4.0, 0.0]), x), 3)
        25.0
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(
            f"frechet_distance: expected two sets (N, D) with the same D and N >= 2, got {tuple(x.shape)} and "
            f"{tuple(y.shape)}; flatten each member to a row, and draw more."
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
    if x.shape != y.shape or len(x) < 2:
        raise ValueError(
            f"sliced_wasserstein: expected two sets of one shape with two members or more, got {tuple(x.shape)} and "
            f"{tuple(y.shape)}; take as many of both, on one grid."
        )
    a, b = (v.flatten(1).double() for v in (x, y))
    generator = torch.Generator().manual_seed(seed)
    directions = normals((1, projections), (a.shape[1],), generator=generator, dtype=torch.float64)[0].T.to(a.device)
    directions = directions / directions.norm(dim=0)
    a, b = ((v @ directions).sort(0).values for v in (a, b))
    return float((a - b).square().mean().sqrt())


def inception_distances(x: Tensor, y: Tensor, *, feature: int | torch.nn.Module = 2048) -> tuple[float, float]:
    """FID and KID of images (N, 3, H, W) in [-1, 1] against true ones, by torchmetrics, on the features of Inception.

    Compare only with figures of the same implementation, number of images and size: both resize images themselves.

    Args:
        x, y: The images, and the true ones.
        feature: As torchmetrics takes it: 2048 needs `pip install fnodiff[fid]` and the weights that it downloads; or a network
            that maps uint8 images to features.

    Raises:
        ValueError: If they are no such images, or fewer than two.
    """
    if x.ndim != 4 or y.ndim != 4 or x.shape[1] != 3 or y.shape[1] != 3 or min(len(x), len(y)) < 2:
        raise ValueError(
            f"inception_distances: expected two sets of two images or more of 3 channels, got {tuple(x.shape)} and "
            f"{tuple(y.shape)}."
        )
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    measures = (
        FrechetInceptionDistance(feature=feature),
        KernelInceptionDistance(feature=feature, subset_size=min(len(x), len(y), 1000), subsets=1),
    )
    for measure in measures:
        for images, real in ((y, True), (x, False)):
            for part in images.split(64):
                measure.update(((part.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8), real=real)
    fid, (kid, _) = (measure.compute() for measure in measures)
    return float(fid), float(kid)


def global_coherence(x: Tensor, y: Tensor, domain: Box, *, shape: Shape = (8, 8)) -> float:
    """Frechet distance of images averaged to a coarse grid: does the picture hold together as a whole?

    Raises:
        ValueError: If the domain is none that averages over cells, as the sphere.
    """
    if not isinstance(domain, Box):
        raise ValueError(f"global_coherence: expected a Box, which averages over cells, got {domain}; compare spectra.")
    return frechet_distance(*(domain.average(v, shape).flatten(1) for v in (x, y)))


def patches(x: Tensor, size: int = 7, *, stride: int = 2, limit: int = 200_000) -> Tensor:
    """Square patches of images (B, C, H, W) as rows (N, C size^2), evenly thinned to at most `limit`."""
    if x.ndim != 4 or min(x.shape[2:]) < size:
        raise ValueError(
            f"patches: expected images (B, C, H, W) of {size} x {size} or more, got {tuple(x.shape)}; "
            f"take smaller patches."
        )
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
        ValueError: If `band` holds all that the fields' grid does, or on the sphere, whose patches are not alike.

    Examples:
        >>> import torch
        >>> from fnodiff import Torus
        >>> from fnodiff.metrics import new_band
        >>> x = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> smooth = Torus(2).resample(Torus(2).resample(x, (8, 8)), (16, 16))
        >>> [round(v, 3) for v in new_band(smooth, x, Torus(2), (8, 8))]
        [1.005, 0.0]
    """
    if not domain.uniform:
        raise ValueError(f"new_band: expected a domain whose patches are alike, got {domain}; compare spectra.")
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

    Examples:
        >>> import torch
        >>> from fnodiff import Torus
        >>> from fnodiff.metrics import discretization_error
        >>> domain = Torus(1)
        >>> field = lambda shape: (2 * torch.pi * domain.points(shape)[None]).sin()
        >>> [round(e, 3) for e in discretization_error(lambda x: x - x.roll(1, -1), field, [(16,), (32,), (64,)], domain)]
        [0.502, 0.752]
        >>> [round(e, 3) for e in discretization_error(torch.square, field, [(16,), (32,), (64,)], domain)]
        [0.0, 0.0]
    """
    domain = getattr(model, "domain", None) if domain is None else domain
    if domain is None:
        raise ValueError(f"discretization_error: expected a domain, as {model!r} has none; pass domain=.")
    with torch.no_grad():
        outputs = [domain.resample(model(field(tuple(shape))), shapes[0]) for shape in shapes]
    return [float(relative_l2(out, outputs[0], domain).mean()) for out in outputs[1:]]


# ---- ensembles ----------------------------------------------------------------------------------------------------


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
    k = round((1 - level) / 2 * (count + 1))
    if not 1 <= k <= count / 2:
        raise ValueError(
            f"coverage: expected a level near one that {count} samples can have, {1 - 2 * (count // 2) / (count + 1):.3f} to "
            f"{1 - 2 / (count + 1):.3f}, got {level}; draw more samples, or choose another level."
        )
    rank = _rank(samples, y, generator)
    inside = ((rank >= k) & (rank <= count - k)).to(weights.dtype)
    return 1 - 2 * k / (count + 1), (inside * weights).flatten(1).sum(1)


def rank_histogram(
    samples: Tensor, y: Tensor, *, mask: Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """How often y has each rank among the samples: counts (S + 1,), int64, over all measured points, channels and fields.

    Flat if calibrated; a valley means samples too close together, a hill too far apart, a slope bias. The points of a field
    are correlated: judge deviations by the number of independent fields, not that of points. Arguments and errors as of
    `crps`; the generator breaks ties at random: y takes any of the ranks open to it.
    """
    samples, y, weights = _ensemble("rank_histogram", samples, y, None, mask)
    return torch.bincount(_rank(samples, y, generator)[weights > 0], minlength=len(samples) + 1)


def _rank(samples: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
    device = y.device if generator is None else generator.device
    draw = torch.rand(y.shape, generator=generator, device=device, dtype=torch.float64).to(y.device)
    return (samples < y).sum(0) + (draw * ((samples == y).sum(0) + 1)).long()


def _ensemble(name: str, samples: Tensor, y: Tensor, domain: Domain | None, mask: Tensor | None) -> tuple[Tensor, ...]:
    """Samples and truth, 0 where not measured, and weights (B, C, *shape) there, which sum to 1 for each field."""
    if samples.shape[1:] != y.shape or len(samples) < 2 or y.ndim < 3:
        raise ValueError(
            f"{name}: expected samples (S, B, C, *shape), S >= 2, and y (B, C, *shape), got {tuple(samples.shape)} and "
            f"{tuple(y.shape)}; stack the samples along a first axis."
        )
    weights = torch.ones_like(y)
    if domain is not None:
        weights = weights * domain.weights(domain.check_field(y), device=y.device, dtype=y.dtype)
    if mask is not None:
        measured = _measured(mask, y)
        samples, y, weights = (torch.where(measured, v, 0.0) for v in (samples, y, weights))
    total = weights.flatten(1).sum(1).reshape(-1, *[1] * (y.ndim - 1))
    if not bool((total > 0).all() and samples.isfinite().all() and y.isfinite().all()):
        raise ValueError(
            f"{name}: expected finite values, and some of them measured in every field; mask the others, drop fields without."
        )
    return samples, y, weights / total


def _measured(mask: Tensor, y: Tensor) -> Tensor:
    """The mask as booleans, of the shape of y."""
    shapes = [(len(y), channels, *y.shape[2:]) for channels in (1, y.shape[1])]
    if mask.shape not in shapes or bool(((mask != 0) & (mask != 1)).any()):
        raise ValueError(
            f"expected a mask of 1 and 0, or booleans, (B, 1 or C, *shape) for fields {tuple(y.shape)}, got {mask.dtype} "
            f"{tuple(mask.shape)}; expand it, or apply a threshold."
        )
    return (mask == 1).expand_as(y)


# ---- rough surfaces -----------------------------------------------------------------------------------------------


def slope_statistics(x: Tensor, domain: Domain, quantiles: Sequence[float] = (0.5, 0.9, 0.99)) -> tuple[Tensor, Tensor]:
    """Mean (B,) and quantiles (B, Q) of |grad x| over each field's points and channels, by central differences.

    The domain's lengths fix the distance between points; at the edges of a Box differences are one-sided. A rough surface
    is the steeper the finer its cells: compare fields on one grid.

    Raises:
        ValueError: If the domain is neither Box nor Torus, or an axis has a single point.
    """
    shape = domain.check_field(x)
    if not isinstance(domain, (Box, Torus)) or min(shape) < 2:
        raise ValueError(f"slope_statistics: expected Box or Torus, two points or more per axis, got {shape}, {domain}")
    square = torch.zeros_like(x)
    for axis, (n, length) in enumerate(zip(shape, domain.lengths, strict=True), start=2):
        if isinstance(domain, Torus):
            step = (x.roll(-1, axis) - x.roll(1, axis)) * (n / (2 * length))
        else:
            (step,) = torch.gradient(x, spacing=length / n, dim=axis)
        square = square + step.square()
    slope = square.sqrt().flatten(1)
    return slope.mean(1), torch.quantile(slope, torch.tensor(quantiles).to(slope), dim=1).T


def spectral_slope(x: Tensor, domain: Domain, *, band: tuple[float, float]) -> float:
    """The slope d ln(power) / d ln(wavenumber) of `radial_spectrum`, by least squares over the shells in a band: -p for k^-p.

    Power is per mode: in two dimensions the spectrum of a profile is flatter by one. Cell averages lack power near the
    grid's limit (`Domain.attenuation`): end the band, (lowest, highest) in cycles per unit length, well below it. Shells count
    at their modes' geometric mean wavenumber.

    Raises:
        ValueError: If the band holds fewer than three shells, or one without power.
    """
    wavenumber, power = radial_spectrum(x, domain)
    chosen = (wavenumber >= band[0]) & (wavenumber <= band[1])
    if int(chosen.sum()) < 3 or not bool((power[chosen] > 0).all()):
        raise ValueError(
            f"spectral_slope: expected a band with three shells or more, all with power, got {int(chosen.sum())} in {band}; "
            f"the grid has {len(wavenumber)} from {float(wavenumber.min()):.4g} to {float(wavenumber.max()):.4g}."
        )
    shape = tuple(x.shape[2:])
    shell, mult = domain.shells(shape)[0].flatten(), domain.multiplicity(shape, dtype=torch.float64).flatten()
    total = torch.bincount(shell, mult * domain.eigenvalues(shape, dtype=torch.float64).flatten().log() / 2)
    log_k = (total / torch.bincount(shell, mult))[1 : len(power) + 1].to(x.device)
    a, b = (v - v.mean() for v in (log_k[chosen], power[chosen].log()))
    return float((a * b).sum() / a.square().sum())
