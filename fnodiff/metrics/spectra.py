"""Spectra of fields, and slopes of rough surfaces."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fnodiff.domain import Domain, in_double
from fnodiff.expected import kinds_checked


@kinds_checked
def radial_spectrum(x: Tensor, domain: Domain) -> tuple[Tensor, Tensor]:
    """Variance per mode, averaged over samples, channels and shells of modes of nearly equal wavenumber.

    Returns:
        (wavenumber, power): each (shells,), the wavenumber in cycles per unit length; shells that the grid does not hold
        in full are left out, and so is the mean.

    Raises:
        ValueError: If the grid holds no shell in full, as one with a single point along an axis.

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
    if len(wavenumber) < 2:
        raise ValueError(
            f"expected a grid that holds some shell of modes in full, got {shape}; compare fields on a finer one."
        )
    power = in_double(domain.analyze(x).abs()).square().mean((0, 1)).cpu() * mult
    bins = max(len(wavenumber), int(shell.max()) + 1)
    total, modes = (
        torch.zeros(bins, dtype=torch.float64).index_add_(0, shell.flatten(), v.flatten()) for v in (power, mult)
    )
    full = slice(1, len(wavenumber))
    return wavenumber[full].to(x.device) / (2 * torch.pi), (total / modes)[full].to(x.device)


@kinds_checked
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
    if not bool(((power_x > 0) & (power_y > 0)).all()):
        raise ValueError("spectrum_error: expected power in every shell, got none in some; compare fields that vary.")
    return float((power_x / power_y).log().abs().mean())


@kinds_checked
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


@kinds_checked
def slope_statistics(x: Tensor, domain: Domain, quantiles: Sequence[float] = (0.5, 0.9, 0.99)) -> tuple[Tensor, Tensor]:
    """Mean (B,) and quantiles (B, Q) of |grad x| over each field's points and channels, by central differences.

    The domain's lengths fix the distance between points; at the edges of a Box differences are one-sided. A rough surface
    is the steeper the finer its cells: compare fields on one grid.

    Raises:
        ValueError: On a domain without straight axes, or if an axis has a single point.
    """
    shape = domain.check_field(x)
    square = sum(domain.derivative(x, axis).square() for axis in range(len(shape)))
    slope = square.sqrt().float().flatten(1) if square.dtype.itemsize < 4 else square.sqrt().flatten(1)
    if not all(0 <= q <= 1 for q in quantiles):
        raise ValueError(f"slope_statistics: expected quantiles from 0 to 1, got {quantiles}.")
    return slope.mean(1), torch.quantile(slope, torch.tensor(quantiles).to(slope), dim=1).T
