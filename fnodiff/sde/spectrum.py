"""The spectrum of data: S(lambda), the variance that a mode has across samples.

`fit_spectrum` measures it on training fields, shell by shell of modes, and continues it beyond their grid by a power law;
the preconditioner and the check of the SDE compare it with the noise's.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fnodiff.domain import Domain, Shape
from fnodiff.sde.noise import ChannelSpectra


@dataclass(frozen=True)
class DataSpectrum:
    """S(lambda), interpolated between measured wavenumbers, S ~ k^-exponent beyond the last, and nowhere below a floor.

    The mean stands apart, as fields may have none: below the first shell S rises towards the mean's power if that is greater,
    and is the shell's own if not.

    Args:
        wavenumbers: sqrt(lambda) of the shells, rising from 0, the mean.
        powers: Variance per mode there.
        exponent: Of the tail.
        floor: The least variance, so that nothing divides by zero.

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
        if not (min(self.powers) > 0 and self.floor > 0 and math.isfinite(sum(self.powers) + self.exponent)):
            raise ValueError(
                f"DataSpectrum: expected positive, finite powers and floor, got {self.powers}, {self.floor}."
            )

    def __call__(self, eigenvalues: Tensor, dim: int = 0) -> Tensor:
        """S at these eigenvalues of -Laplacian, of their shape and dtype; `dim` is not needed."""
        k = torch.tensor(self.wavenumbers, dtype=torch.float64, device=eigenvalues.device)
        k[0] = 0.5 * k[1]  # on a logarithmic axis
        x, y = k.log(), torch.tensor(self.powers, dtype=torch.float64, device=k.device).log()
        mean, y[0] = y[0].clone(), y[:2].max()
        at = eigenvalues.double().sqrt().clamp(min=float(k[0])).log()
        right = torch.searchsorted(x, at.contiguous()).clamp(1, len(x) - 1)
        share = (at - x[right - 1]) / (x[right] - x[right - 1])
        inside = torch.lerp(y[right - 1], y[right], share.clamp(max=1))
        tail = -self.exponent * (at - x[-1]).clamp(min=0)
        return torch.where(eigenvalues == 0, mean, inside + tail).exp().clamp(min=self.floor).to(eigenvalues.dtype)


def fit_spectra(fields: Tensor, domain: Domain, *, cell_averages: bool = False, floor: float = 1e-8) -> ChannelSpectra:
    """The spectrum of each channel of (N, C, *spatial), by `fit_spectrum`."""
    options = {"cell_averages": cell_averages, "floor": floor}
    return ChannelSpectra(tuple(fit_spectrum(channel, domain, **options) for channel in fields.split(1, dim=1)))


def fit_spectrum(fields: Tensor, domain: Domain, *, cell_averages: bool = False, floor: float = 1e-8) -> DataSpectrum:
    """The spectrum of fields: per shell, the mean square of the modes over samples and channels.

    The shells that the grid holds in full are kept as they are; beyond them S falls as a power of the wavenumber, fitted to
    the upper half of the shells (printed as the result's `exponent`).

    Of averages over cells only the lower 70% of the shells are kept: what averaging folds back from above the grid is a tenth
    of the power at three quarters of the band, and half of it at its end, which would flatten the tail.

    Args:
        fields: (N, C, *spatial), normalised as they are trained on: `denoiser.normalization(x)`.
        domain: What they are functions on.
        cell_averages: The values are averages over grid cells, as an image's are, rather than values at points: the
            average's attenuation, sinc(k / 2n) per axis on Box and sinc(k / n) on Torus, is divided out.
        floor: The least S, relative to its largest value.

    Raises:
        ValueError: If the fields are not finite, are all zero, or the grid is too small to fit a tail.

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
    power = domain.analyze(fields).abs().double().square().mean((0, 1)).cpu()
    kept = len(wavenumber)
    if cell_averages:
        kept = max(4, int(0.7 * kept) + 1)
        power = power / domain.attenuation(shape, dtype=torch.float64).square()
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
    upper = slice(kept // 2, None)
    k, s, weight = wavenumber[upper].log(), powers[upper].log(), modes[upper]
    k_mean, s_mean = ((v * weight).sum() / weight.sum() for v in (k, s))
    slope = (weight * (k - k_mean) * (s - s_mean)).sum() / (weight * (k - k_mean).square()).sum()
    return DataSpectrum(tuple(wavenumber.tolist()), tuple(powers.tolist()), float(-slope), least)


def _shells(domain: Domain, shape: Shape) -> tuple[Tensor, Tensor]:
    """`Domain.shells`, with the mean alone in the first: on elongated domains the lowest modes have shells of their own."""
    shell, wavenumber = domain.shells(shape)
    eigenvalues = domain.eigenvalues(shape, dtype=torch.float64)
    low = (shell == 0) & (eigenvalues > 0)
    own = eigenvalues[low].sqrt().unique()
    shell = torch.where(shell > 0, shell + len(own), shell)
    shell[low] = 1 + torch.searchsorted(own, eigenvalues[low].sqrt())
    return shell, torch.cat([wavenumber[:1], own, wavenumber[1:]])
