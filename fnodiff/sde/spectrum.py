"""The spectrum of data: S(lambda), the variance that a mode has across samples, and what follows from it and the noise's.

`fit_spectrum` measures it on training fields, shell by shell of modes, and continues it beyond their grid by a power law.
With C the noise's variance per mode, a mode of x_t = alpha x + sigma z has the best linear estimate

    x_hat = G x_t,    G = alpha S / (alpha^2 S + sigma^2 C)         (Wiener's gain: `wiener_gain`)

of x, with an error of variance V = S sigma^2 C / (alpha^2 S + sigma^2 C) (`residual_variance`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fnodiff.domain import Domain, Shape, has_double, in_double
from fnodiff.expected import kinds_checked
from fnodiff.sde.noise import ChannelSpectra, Noise, Spectrum, on_domain
from fnodiff.sde.process import FunctionSpaceSDE, has_data

TINY = 1e-30
"""What the tail of a spectrum ends in."""


def wiener_gain(s: Tensor, c: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """G, what the best linear estimate of x from alpha x + sigma z multiplies a mode with, of variances S and C."""
    return alpha * s / _total(s, c, alpha, sigma)


def residual_variance(s: Tensor, c: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """V, the variance of that estimate's error."""
    return s * sigma.square() * c / _total(s, c, alpha, sigma)


def _total(s: Tensor, c: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The variance of a mode of x_t; of one that has neither data nor noise the least that there is, not zero."""
    total = alpha.square() * s + sigma.square() * c
    return total.clamp(min=torch.finfo(total.dtype).tiny)


def spectra(
    sde: FunctionSpaceSDE, spectrum: Spectrum, eigenvalues: Tensor, shape: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """S and C of the modes, as a grid of this shape sees them: (*modes), or (C, *modes) if channels differ."""
    s = on_domain(spectrum, sde.domain)(eigenvalues, sde.domain.dim)
    return torch.broadcast_tensors(s, sde.noise.on(shape).std(eigenvalues).square())


def linear_estimate(sde: FunctionSpaceSDE, spectrum: Spectrum, x_t: Tensor, t: Tensor) -> Tensor:
    """G x_t, the best linear estimate of x of this spectrum, of x_t's shape."""
    shape, (alpha_t, sigma_t) = tuple(x_t.shape[2:]), sde.marginal(x_t, t)
    return sde.domain.filter(x_t, lambda e: wiener_gain(*spectra(sde, spectrum, e, shape), alpha_t, sigma_t))


def linear_error(sde: FunctionSpaceSDE, spectrum: Spectrum, t: Tensor, shape: Sequence[int]) -> Tensor:
    """tr V, the mean square error at a point of the best linear estimate: of t's shape, or (*t.shape, C) if channels differ."""
    shape = sde.domain.check_shape(shape)
    there = t.device if has_double(t.device) else torch.device("cpu")
    eigenvalues, mult = (
        f(shape, device=there, dtype=torch.float64) for f in (sde.domain.eigenvalues, sde.domain.multiplicity)
    )
    s, c = spectra(sde, spectrum, eigenvalues, shape)
    level = sde.schedule.ratio(in_double(t)).reshape(*t.shape, *(1,) * s.ndim)
    error = (mult * residual_variance(s, c, torch.ones_like(level), level)).flatten(-mult.ndim).sum(-1)
    return error if has_double(t.device) else error.float().to(t.device)


@kinds_checked
@dataclass(frozen=True)
class DataSpectrum:
    """S(lambda), interpolated between measured wavenumbers, there nowhere below a floor, and S ~ k^-exponent beyond the last.

    The mean stands apart, as fields may have none: below the first shell S rises towards the mean's power if that is greater,
    and is the shell's own if not.

    Args:
        wavenumbers: sqrt(lambda) of the shells, rising from 0, the mean.
        powers: Variance per mode there.
        exponent: Of the tail.
        floor: The least variance up to the last wavenumber, so that nothing divides by zero.

    Raises:
        ValueError: If the wavenumbers do not rise from 0, or a power is not positive.
    """

    wavenumbers: tuple[float, ...]
    powers: tuple[float, ...]
    exponent: float
    floor: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "wavenumbers", tuple(self.wavenumbers))
        object.__setattr__(self, "powers", tuple(self.powers))
        k = self.wavenumbers
        if len(k) < 2 or len(k) != len(self.powers) or k[0] != 0 or not all(a < b for a, b in itertools.pairwise(k)):
            raise ValueError(
                f"DataSpectrum: expected two or more wavenumbers rising from 0 and a power for each, got {k} and "
                f"{self.powers}; use fit_spectrum."
            )
        if not (min(self.powers) > 0 < self.floor and math.isfinite(sum(self.powers) + self.exponent + self.floor)):
            raise ValueError(
                f"DataSpectrum: expected positive, finite powers and floor, and a finite exponent, got {self.powers}, "
                f"{self.floor}, {self.exponent}."
            )

    def __call__(self, eigenvalues: Tensor, dim: int = 0) -> Tensor:
        """S at these eigenvalues of -Laplacian, of their shape and dtype; `dim` is not needed."""
        wanted = in_double(eigenvalues)
        k = torch.tensor(self.wavenumbers, dtype=torch.float64, device=wanted.device)
        k[0] = 0.5 * k[1]  # on a logarithmic axis
        x, y = k.log(), torch.tensor(self.powers, dtype=torch.float64, device=k.device).log()
        mean, y[0] = y[0].clone(), y[:2].max()
        at = wanted.sqrt().clamp(min=float(k[0])).log()
        right = torch.searchsorted(x, at.contiguous()).clamp(1, len(x) - 1)
        share = (at - x[right - 1]) / (x[right] - x[right - 1])
        inside = torch.lerp(y[right - 1], y[right], share.clamp(max=1))
        tail = -self.exponent * (at - x[-1]).clamp(min=0)
        measured = torch.where(wanted == 0, mean, inside).clamp(min=math.log(self.floor))
        return (measured + tail).exp().clamp(min=TINY).to(eigenvalues.dtype).to(eigenvalues.device)


@kinds_checked
def fit_spectra(fields: Tensor, domain: Domain, *, cell_averages: bool = False, floor: float = 1e-8) -> ChannelSpectra:
    """The spectrum of each channel of (N, C, *spatial), by `fit_spectrum`."""
    options = {"cell_averages": cell_averages, "floor": floor}
    return ChannelSpectra(tuple(fit_spectrum(channel, domain, **options) for channel in fields.split(1, dim=1)))


@kinds_checked
def fit_spectrum(fields: Tensor, domain: Domain, *, cell_averages: bool = False, floor: float = 1e-8) -> DataSpectrum:
    """The spectrum of fields: per shell, the mean square of the modes over samples and channels.

    The shells that the grid holds in full are kept as they are; beyond them S falls as a power of the wavenumber, fitted to
    the upper half of the shells (printed as the result's `exponent`). Shells without energy, at the floor, are left out of the
    fit; where all of these are, it is the fall at the last shell that has some.

    Of averages over cells only the lower 70% of the shells are kept: what averaging folds back from above the grid is a tenth
    of the power at three quarters of the band, and half of it at its end, which would flatten the tail.

    Args:
        fields: (N, C, *spatial), normalised as they are trained on: `denoiser.normalization(x)`.
        domain: What they are functions on.
        cell_averages: The values are averages over grid cells, as an image's are, rather than values at points: the
            average's attenuation, sinc(k / 2n) per axis between walls and sinc(k / n) per periodic one, is divided out.
        floor: The least S of a measured shell, relative to the largest; the tail beyond them falls below it.

    Raises:
        ValueError: If the fields are not finite or constant over the domain, or the grid is too small to fit a tail.

    Examples:
        >>> import torch
        >>> from fnodiff import GaussianRandomField, Matern, Torus
        >>> from fnodiff.sde import fit_spectrum
        >>> field = GaussianRandomField(Torus(2), Matern(smoothness=1.0, length_scale=1.0))
        >>> x = field.sample((64, 1, 32, 32), generator=torch.Generator().manual_seed(0))
        >>> round(fit_spectrum(x, Torus(2)).exponent, 1)  # 2 smoothness + dim
        4.1
    """
    shape = domain.check_field(fields)
    (shell, wavenumber), mult = _shells(domain, shape), domain.multiplicity(shape, dtype=torch.float64)
    if len(wavenumber) < 4 or not bool(fields.isfinite().all()):
        raise ValueError(
            f"fit_spectrum: expected finite fields on a grid of 4 shells or more, got {tuple(fields.shape)} on {domain}, "
            f"{int((~fields.isfinite()).sum())} values not finite; use a finer grid, or clean the data."
        )
    power = in_double(domain.analyze(fields).abs()).square().mean((0, 1)).cpu()
    kept = len(wavenumber)
    if cell_averages:
        kept = max(4, int(0.7 * kept) + 1)
        power = power / domain.attenuation(shape, dtype=torch.float64).square()
    if not 0 < floor < 1:
        raise ValueError(f"fit_spectrum: expected a floor in (0, 1), as a share of the largest power, got {floor!r}.")
    if not 0 < float(power.max()) < math.inf:
        raise ValueError("fit_spectrum: expected fields that vary, got zeros; check the normalisation.")
    inside, least = shell < len(wavenumber), floor * float(power.max())

    def average(values: Tensor) -> Tensor:
        """The mean over the modes of each shell."""
        total = torch.zeros(len(wavenumber), dtype=torch.float64)
        return total.index_add(0, shell[inside], (values * mult)[inside]) / modes

    modes = torch.zeros(len(wavenumber), dtype=torch.float64).index_add(0, shell[inside], mult[inside])
    powers, eigenvalues = average(power).clamp(min=least), domain.eigenvalues(shape, dtype=torch.float64)
    for _ in range(3):  # S falls within a shell too: average what is left when the last estimate is divided out
        pilot = DataSpectrum(tuple(wavenumber.tolist()), tuple(powers.tolist()), 0.0, least)
        powers = (powers * average(power / pilot(eigenvalues))).clamp(min=least)

    wavenumber, powers, modes = wavenumber[:kept], powers[:kept], modes[:kept]
    held, upper = powers > 1.001 * least, torch.arange(kept) >= kept // 2
    if not bool(held.any()):
        raise ValueError(f"fit_spectrum: expected a floor below the shells' power, got {floor!r}; 1e-8 is usual.")
    if not bool(held[1:].any()):
        raise ValueError(
            f"fit_spectrum: expected fields that vary over the domain, got constant ones, or such as vary by less than "
            f"{floor:g} of the mean's power; leave them out, or normalise them."
        )
    last = int(held.nonzero().max())
    if int((held & upper).sum()) < 2:  # band-limited: how it falls where the energy ends
        held, upper = torch.ones_like(held), (torch.arange(kept) - last).abs() <= 1
    fitted = held & upper & (wavenumber > 0)
    k, s, weight = wavenumber[fitted].log(), powers[fitted].log(), modes[fitted]
    k_mean, s_mean = ((v * weight).sum() / weight.sum() for v in (k, s))
    slope = (weight * (k - k_mean) * (s - s_mean)).sum() / (weight * (k - k_mean).square()).sum()
    return DataSpectrum(tuple(wavenumber.tolist()), tuple(powers.tolist()), float(-slope), least)


def spectrum_of(fields: Tensor, domain: Domain, *, cell_averages: bool) -> DataSpectrum | ChannelSpectra:
    """One law for all channels of cell averages that fall alike, as those of pictures do; of other fields one for each.

    Alike are exponents less than 1 apart; from fewer than 32 samples they are not known so well, and are taken for alike. A
    channel that is constant over each sample has none: all channels then have one law.
    """
    points = fields.flatten(2)
    varies = (points.amax(2) - points.amin(2)).amax(0)
    flat = bool((varies <= 1e-5 * points.abs().amax((0, 2))).any())  # but for a resampled constant's rounding
    if flat or fields.shape[1] == 1 or (cell_averages and len(fields) < 32):
        return fit_spectrum(fields, domain, cell_averages=cell_averages)
    each = fit_spectra(fields, domain, cell_averages=cell_averages)
    falls = [law.exponent for law in each.channels]
    alike = cell_averages and max(falls) - min(falls) < 1
    return fit_spectrum(fields, domain, cell_averages=cell_averages) if alike else each


def _shells(domain: Domain, shape: Shape) -> tuple[Tensor, Tensor]:
    """`Domain.shells`, with the mean alone in the first: on elongated domains the lowest modes have shells of their own."""
    shell, wavenumber = domain.shells(shape)
    eigenvalues = domain.eigenvalues(shape, dtype=torch.float64)
    low = (shell == 0) & (eigenvalues > 0)
    own = eigenvalues[low].sqrt().unique()
    shell = torch.where(shell > 0, shell + len(own), shell)
    shell[low] = 1 + torch.searchsorted(own, eigenvalues[low].sqrt())
    return shell, torch.cat([wavenumber[:1], own, wavenumber[1:]])


@kinds_checked
def noise_levels(noise: Noise, spectrum: Spectrum, shape: Sequence[int], *, eps: float = 0.01) -> tuple[float, float]:
    """The ends of sigma / alpha that suit data of this spectrum on a grid: `EDM(*noise_levels(...))`, or VE, or Cosine.

    At the first every mode's signal-to-noise ratio S / (s^2 C) is at least 1 / eps, at the second at most eps (the mean of
    fields that have none does not count, nor do modes where a measured spectrum is at its floor, as they hold no energy):

        sigma_min = sqrt(eps min S / C),    sigma_max = sqrt(max S / C / eps).

    Args:
        noise: C.
        spectrum: S, such as `fit_spectrum` returns.
        shape: Spatial shape of the finest grid.
        eps: What may remain.

    Raises:
        ValueError: If eps is not in (0, 1), or a mode has no noise or no data.

    Examples:
        >>> from fnodiff import Box, Matern, WhiteNoise
        >>> from fnodiff.sde import noise_levels
        >>> low, high = noise_levels(WhiteNoise(Box(2), (32, 32)), Matern(1.0, 0.3), (32, 32))
        >>> round(low, 4), round(high)
        (0.0037, 320)
    """
    if not 0 < eps < 1:
        raise ValueError(f"noise_levels: expected eps in (0, 1), got {eps!r}; 0.01 is usual.")
    eigenvalues = noise.domain.eigenvalues(noise.domain.check_shape(shape), dtype=torch.float64)
    spectrum = on_domain(spectrum, noise.domain)
    s = spectrum(eigenvalues, noise.domain.dim)
    ratio = s / noise.on(shape).std(eigenvalues).square()
    ratio = ratio[has_data(s, eigenvalues, spectrum).expand_as(ratio)]
    low, high = float(ratio.min()), float(ratio.max())
    if not 0 < low <= high < math.inf:
        raise ValueError(
            f"noise_levels: expected data and noise in every mode, got S / C from {low:g} to {high:g}; take a rougher noise."
        )
    return math.sqrt(eps * low), math.sqrt(high / eps)


@kinds_checked
def noise_law(noise: Noise, spectrum: Spectrum, shape: Sequence[int]) -> tuple[float, float]:
    """Mean and standard deviation of ln(sigma / alpha) to train at: `DenoisingLoss(model, *noise_law(...))`.

    Mode k turns from noise to data around sqrt(S_k / C_k), its share s^2 C / (S + s^2 C) of noise being a logistic function of
    2 ln(s), of standard deviation pi / sqrt(12) in ln(s). The law is that of such turns with an octave of modes counted by the
    square root of their number: octaves alike are too many of high noise, modes alike too many of low.

    Args:
        noise: C.
        spectrum: S, such as `fit_spectrum` returns.
        shape: Spatial shape of the largest grid trained on.

    Examples:
        >>> from fnodiff import Box, Matern, WhiteNoise
        >>> from fnodiff.sde import noise_law
        >>> [round(v, 2) for v in noise_law(WhiteNoise(Box(2), (32, 32)), Matern(1.0, 0.3), (32, 32))]
        [-1.28, 1.9]
    """
    domain = noise.domain
    spectrum = on_domain(spectrum, domain)
    eigenvalues, mult = (
        f(domain.check_shape(shape), dtype=torch.float64) for f in (domain.eigenvalues, domain.multiplicity)
    )
    s, c = torch.broadcast_tensors(spectrum(eigenvalues, domain.dim), noise.on(shape).std(eigenvalues).square())
    turn, octave = 0.5 * (s / c).log(), domain.octaves(shape)
    counts = torch.zeros(int(octave.max()) + 1, dtype=torch.float64).index_add(0, octave.flatten(), mult.flatten())
    weight = mult / counts[octave].sqrt() * has_data(s, eigenvalues, spectrum)
    weight = weight / weight.sum()
    mean = (weight * turn).sum()
    return float(mean), math.sqrt(float((weight * (turn - mean).square()).sum()) + math.pi**2 / 12)
