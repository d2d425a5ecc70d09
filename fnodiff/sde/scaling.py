"""Scalings: how a network's numbers become an estimate of x from x_t.

With y = x_t / alpha_t = x + (sigma_t / alpha_t) z, a network F and a scaling give

    D(x_t, t) = skip + out(F(input, noise_level)).

`EDMScaling` has one number for all modes. Let s = sqrt(v) sigma_t / alpha_t be the standard deviation of y's noise at a point,
v the noise's variance per point on the grid at hand, for each channel if they differ in it, and sd = sigma_data; then

    D = c_skip y + c_out F(c_in y, c_noise),
    c_skip = sd^2 / (s^2 + sd^2),  c_out = s sd / sqrt(s^2 + sd^2),  c_in = 1 / sqrt(s^2 + sd^2),  c_noise = ln(s) / 4.

White noise has v = 1 at its reference grid and more on finer ones; PixelNoise has v = 1 everywhere, and EDM's formulas. With v
in all four, F's input and target have unit variance on every grid, and as the grid is refined c_skip -> 0 and c_out -> sd: D
becomes a function although y does not.

`SpectralScaling` has one number for each mode.

Source: Karras, Aittala, Aila, Laine (2022), Elucidating the design space of diffusion-based generative models.
"""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from fnodiff.domain import Domain, Shape
from fnodiff.expected import kinds_checked
from fnodiff.sde.noise import Spectrum
from fnodiff.sde.process import FunctionSpaceSDE
from fnodiff.sde.spectrum import linear_error, linear_estimate, noise_law, residual_variance, spectra


@dataclass(frozen=True)
class Scaled:
    """What a scaling makes of x_t.

    Attributes:
        skip: What is added to the network's part, (B, C, *spatial).
        input: What the network sees, (B, inputs(C), *spatial).
        noise_level: (B,), what it sees of t.
        out: Makes the network's part of F's output, (B, C, *spatial) -> (B, C, *spatial).
    """

    skip: Tensor
    input: Tensor
    noise_level: Tensor
    out: Callable[[Tensor], Tensor]


class Scaling(abc.ABC):
    """How a network's numbers become an estimate. Subclasses are frozen dataclasses, and define all of these.

    Attributes:
        needs_spectrum: Whether it needs the data's spectrum.
        uniform_time: Whether training times are even in [0, 1] rather than log-normal in sigma / alpha, as `noise_law` says.
        sigma_data: Standard deviation of the normalised data.
    """

    needs_spectrum: bool = False
    uniform_time: bool = False
    sigma_data: float = 1.0

    @abc.abstractmethod
    def __call__(self, sde: FunctionSpaceSDE, spectrum: Spectrum | None, x_t: Tensor, t: Tensor) -> Scaled:
        """What the network sees of x_t (B, C, *spatial) at t, () or (B,), and how its output is used."""

    @abc.abstractmethod
    def loss_weight(self, sde: FunctionSpaceSDE, spectrum: Spectrum | None, t: Tensor, shape: Shape) -> Tensor:
        """The weight of |D - x|^2 under which F's error counts alike at all t: of t's shape, or (*t.shape, C)."""

    @abc.abstractmethod
    def noise_law(self, sde: FunctionSpaceSDE, spectrum: Spectrum | None) -> tuple[float, float]:
        """Mean and standard deviation of ln(sigma / alpha) to train at."""

    def inputs(self, channels: int) -> int:
        """Channels that the network sees of a field of so many."""
        return channels


@kinds_checked
@dataclass(frozen=True)
class EDMScaling(Scaling):
    """EDM's scalars; see the head of this module. The noise level that the network sees is that at a point, ln(s) / 4.

    With `linear_estimate`, the network sees the best linear estimate of x as further input channels,

        F([c_in y, G x_t / sd], c_noise).

    It tells the noise on the grid at hand apart from the data before F does, on finer grids than F was trained on too.

    Args:
        sigma_data: Standard deviation of the normalised data.
        linear_estimate: Whether the network sees the linear estimate: it then maps 2 C channels to C.

    Raises:
        ValueError: If sigma_data is not positive.

    Examples:
        >>> from fnodiff import EDMScaling
        >>> EDMScaling(linear_estimate=True).inputs(3)
        6
    """

    sigma_data: float = 0.5
    linear_estimate: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.sigma_data < math.inf:
            raise ValueError(
                f"EDMScaling: expected sigma_data > 0, got {self.sigma_data!r}; pass the data's standard deviation."
            )

    @property
    def needs_spectrum(self) -> bool:
        return self.linear_estimate

    def __call__(self, sde: FunctionSpaceSDE, spectrum: Spectrum | None, x_t: Tensor, t: Tensor) -> Scaled:
        alpha_t, sigma_t = sde.marginal(x_t, t)
        y, sd = x_t / alpha_t, self.sigma_data
        std = sde.noise.point_std(tuple(x_t.shape[2:])).to(x_t).reshape(-1, *(1,) * sde.domain.dim)
        s = std * sigma_t / alpha_t
        c_skip = sd**2 / (s.square() + sd**2)
        c_in = 1 / (s.square() + sd**2).sqrt()
        c_out = s * sd * c_in
        seen = c_in * y
        if self.linear_estimate:
            seen = torch.cat([seen, linear_estimate(sde, spectrum, x_t, t) / sd], dim=1)
        level = (std.flatten()[0] / (sde.noise.channel_std or (1.0,))[0] * sigma_t / alpha_t).log() / 4
        return Scaled(c_skip * y, seen, level.flatten().expand(x_t.shape[0]), lambda out: c_out * out)

    def loss_weight(self, sde: FunctionSpaceSDE, spectrum: Spectrum | None, t: Tensor, shape: Shape) -> Tensor:
        """1 / c_out^2, of t's shape, or (*t.shape, C) if the noise's channels differ in size."""
        std, ratio, sd = sde.noise.point_std(shape), sde.schedule.ratio(t), self.sigma_data
        s = std.to(ratio) * ratio.reshape(ratio.shape + (1,) * std.ndim)
        return (s.square() + sd**2) / (s * sd).square()

    def noise_law(self, sde: FunctionSpaceSDE, spectrum: Spectrum | None) -> tuple[float, float]:
        """EDM's."""
        return -1.2, 1.2

    def inputs(self, channels: int) -> int:
        return 2 * channels if self.linear_estimate else channels


@kinds_checked
@dataclass(frozen=True)
class SpectralScaling(Scaling):
    """One number for each mode. With S(lambda) the data's variance per mode, C(lambda) the noise's, and per mode

        N = alpha^2 S + sigma^2 C,    G = alpha S / N,    V = S sigma^2 C / N,
        D(x_t, t) = G x_t + (m V)^(1/2) F((R / (m N))^(1/2) x_t, ln(sigma / alpha) / 4).

    G x_t is the best linear estimate, so F = 0 is exact on stationary Gaussian data of this spectrum, and F's target has unit
    variance in every mode. m is the number of modes of the reference grid. R = (1 + (k / cutoff)^2)^-3, k the mode's
    wavenumber, scaled to mean one over those modes, makes F's input a function: without it the input is white, and changes
    with the grid all over. What F gets wrong in modes it never trained on is damped by V. S may differ by channel
    (`fit_spectra`): each channel then has its own G and V, and the loss weighs its error by its own tr V.

    At high noise the best estimate is far from the linear one, and F has to take G x_t back before it says anything better:
    with `linear_estimate`, F's input has G x_t beside the whitened x_t, over the data's standard deviation.

    Args:
        reference: Spatial shape of the grid on which F's input has unit variance per point: the largest trained on.
        cutoff: Of R, in cycles over the domain's longest side, whatever its unit; None for R = 1.
        linear_estimate: Whether the network sees G x_t as well: it then maps 2 C channels to C.

    Raises:
        ValueError: If the cutoff is not positive.

    Examples:
        >>> from fnodiff import SpectralScaling
        >>> SpectralScaling(reference=(32, 32)).inputs(3)
        3
    """

    reference: Sequence[int] | int
    cutoff: float | None = 16.0
    linear_estimate: bool = False

    needs_spectrum = True

    def __post_init__(self) -> None:
        whole = isinstance(self.reference, Integral)
        object.__setattr__(self, "reference", int(self.reference) if whole else tuple(self.reference))
        if self.cutoff is not None and not self.cutoff > 0:
            raise ValueError(f"SpectralScaling: expected cutoff > 0 or None, got {self.cutoff!r}; 16 is usual.")

    def __call__(self, sde: FunctionSpaceSDE, spectrum: Spectrum | None, x_t: Tensor, t: Tensor) -> Scaled:
        domain, shape = sde.domain, tuple(x_t.shape[2:])
        alpha_t, sigma_t = sde.marginal(x_t, t)
        modes, scale = self._reference_modes(domain)

        def whiten(eigenvalues: Tensor) -> Tensor:
            s, c = spectra(sde, spectrum, eigenvalues, shape)
            n = alpha_t.square() * s + sigma_t.square() * c
            return (self._roughness(domain, eigenvalues) / (scale * modes * n)).sqrt()

        def colour(eigenvalues: Tensor) -> Tensor:
            return (modes * residual_variance(*spectra(sde, spectrum, eigenvalues, shape), alpha_t, sigma_t)).sqrt()

        seen, estimate = domain.filter(x_t, whiten), linear_estimate(sde, spectrum, x_t, t)
        if self.linear_estimate:
            seen = torch.cat([seen, estimate / self._spread(sde, spectrum).to(x_t)], dim=1)
        noise_level = ((sigma_t / alpha_t).log() / 4).flatten().expand(x_t.shape[0])
        return Scaled(estimate, seen, noise_level, lambda out: domain.filter(out, colour))

    def loss_weight(self, sde: FunctionSpaceSDE, spectrum: Spectrum | None, t: Tensor, shape: Shape) -> Tensor:
        """1 / tr V on a grid of this shape, of t's shape: the linear estimate's error, which F starts from, weighs one.

        With a spectrum for each channel (*t.shape, C).
        """
        return (1 / linear_error(sde, spectrum, t, shape)).to(t.dtype)

    def noise_law(self, sde: FunctionSpaceSDE, spectrum: Spectrum | None) -> tuple[float, float]:
        """`fnodiff.sde.noise_law` on the reference grid."""
        return noise_law(sde.noise, spectrum, self.reference)

    def inputs(self, channels: int) -> int:
        return 2 * channels if self.linear_estimate else channels

    def _roughness(self, domain: Domain, eigenvalues: Tensor) -> Tensor:
        """R, up to its scale."""
        if self.cutoff is None:
            return torch.ones_like(eigenvalues)
        highest = 2 * math.pi * self.cutoff / max(domain.lengths)
        return (1 + eigenvalues / highest**2) ** -3

    @functools.lru_cache(maxsize=8)  # noqa: B019 (frozen settings)
    def _reference_modes(self, domain: Domain) -> tuple[float, float]:
        """How many modes the reference grid has, and the mean of R over them."""
        mult, eigenvalues = (f(self.reference, dtype=torch.float64) for f in (domain.multiplicity, domain.eigenvalues))
        roughness = self._roughness(domain, eigenvalues)
        return float(mult.sum()), float((mult * roughness).sum() / mult.sum())

    def _spread(self, sde: FunctionSpaceSDE, spectrum: Spectrum | None) -> Tensor:
        """The data's standard deviation at a point of the reference grid, (C or 1, *ones)."""
        domain = sde.domain
        eigenvalues, mult = (f(self.reference, dtype=torch.float64) for f in (domain.eigenvalues, domain.multiplicity))
        s = spectra(sde, spectrum, eigenvalues, self.reference)[0]
        return (mult * s).flatten(-domain.dim).sum(-1).sqrt().reshape(-1, *(1,) * domain.dim)
