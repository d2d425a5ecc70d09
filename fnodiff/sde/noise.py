"""Noise as a process on a domain.

A noise z is a random function with independent coefficients, z = sum_k sqrt(C_k) w_k phi_k with w white, so that its
law on a grid is that of one function seen there. For a Gaussian random field, C = c(-Laplacian) / trace, and

    mean over the domain of Var z(x) = sum_k C_k = 1.

White noise has no such function: its variance per mode is the same for every mode, and it grows with the grid per
point. `PixelNoise`, one per point on every grid, is the noise of most published diffusion models; it is a different
process on each grid.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Self

import torch
from torch import Tensor

from fnodiff.domain import Domain, Generators
from fnodiff.expected import kinds_checked, plain

Spectrum = Callable[[Tensor, int], Tensor]


def on_domain(spectrum: Spectrum | None, domain: Domain) -> Spectrum | None:
    """The spectrum with what it leaves to the domain: a length scale that was not given."""
    return spectrum.on(domain) if isinstance(spectrum, _Scaled | ChannelSpectra) else spectrum


class _Scaled:
    """A spectrum with a length scale."""

    length_scale: float | None

    def on(self, domain: Domain) -> Self:
        """With a length scale of a fifth of the domain's longest side, if none was given."""
        if self.length_scale is not None or domain.lengths is None:
            return self
        return dataclasses.replace(self, length_scale=0.2 * max(domain.lengths))

    @property
    def _length(self) -> float:
        if self.length_scale is None:
            raise ValueError(
                f"{type(self).__name__}: expected a length scale in the domain's units, got None; pass length_scale=, or "
                f"write {self}.on(domain) for a fifth of its longest side."
            )
        return self.length_scale


def _check_positive(owner: object, **values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not 0 < value < 1e18:  # its square is a float32
            raise ValueError(
                f"{type(owner).__name__}: expected {name} > 0 and < 1e18, got {value!r}; take another unit."
            )


@kinds_checked
@dataclass(frozen=True)
class Matern(_Scaled):
    """The Matern spectrum, (1 + length_scale^2 lambda / (2 nu))^-(nu + dim/2) with nu = `smoothness`.

    Modes fall as k^-(2 nu + dim); sample functions have about nu derivatives.

    Args:
        smoothness: nu > 0.
        length_scale: Correlation length, in the domain's units; a fifth of its longest side by default.

    Source: Lindgren, Rue, Lindstroem (2011), An explicit link between Gaussian fields and Gaussian Markov random fields.

    Examples:
        >>> import torch
        >>> from fnodiff import Matern
        >>> Matern(smoothness=1.0, length_scale=0.3)(torch.tensor([0.0, 10.0, 1000.0]), 2)
        tensor([1.0000e+00, 4.7562e-01, 4.7259e-04])
    """

    smoothness: float
    length_scale: float | None = None

    def __post_init__(self) -> None:
        _check_positive(self, smoothness=self.smoothness, length_scale=self.length_scale)

    def __call__(self, eigenvalues: Tensor, dim: int) -> Tensor:
        scaled = eigenvalues * (self._length**2 / (2 * self.smoothness))
        return (1 + scaled) ** -(self.smoothness + dim / 2)


@kinds_checked
@dataclass(frozen=True)
class RBF(_Scaled):
    """The Gaussian spectrum exp(-length_scale^2 lambda / 2): infinitely smooth functions.

    Args:
        length_scale: Standard deviation of the squared-exponential covariance, in the domain's units; a fifth of its
            longest side by default.

    Examples:
        >>> import torch
        >>> from fnodiff import RBF
        >>> RBF(0.3)(torch.tensor([0.0, 10.0, 100.0]), 2)
        tensor([1.0000, 0.6376, 0.0111])
    """

    length_scale: float | None = None

    def __post_init__(self) -> None:
        _check_positive(self, length_scale=self.length_scale)

    def __call__(self, eigenvalues: Tensor, dim: int) -> Tensor:
        return (eigenvalues * (-0.5 * self._length**2)).exp()


@kinds_checked
@dataclass(frozen=True)
class ChannelSpectra:
    """A spectrum for each channel, (channels, *modes): of fields that differ in smoothness, as coefficient and solution do.

    As that of a `GaussianRandomField` each channel has unit variance.

    Args:
        channels: The spectrum of each: `Matern`, what `fit_spectrum` returns, or any other.

    Raises:
        ValueError: If there is none.

    Examples:
        >>> import torch
        >>> from fnodiff import Matern
        >>> from fnodiff.sde import ChannelSpectra
        >>> ChannelSpectra((Matern(0.5, 0.2), Matern(2.0, 0.2)))(torch.tensor([0.0, 100.0]), 2)
        tensor([[1.0000, 0.0894],
                [1.0000, 0.1250]])
    """

    channels: tuple[Spectrum, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        if not self.channels:
            raise ValueError("ChannelSpectra: expected a spectrum for each channel, got none.")

    def on(self, domain: Domain) -> ChannelSpectra:
        """Each with what it leaves to the domain."""
        return ChannelSpectra(tuple(on_domain(spectrum, domain) for spectrum in self.channels))

    def __call__(self, eigenvalues: Tensor, dim: int) -> Tensor:
        """S of each channel at these eigenvalues, (channels, *eigenvalues.shape)."""
        return torch.stack([spectrum(eigenvalues, dim) for spectrum in self.channels])


class Noise(abc.ABC):
    """A centred Gaussian process on a domain, diagonal in its modes. Subclasses define `std`."""

    domain: Domain
    channel_std: tuple[float, ...] | None = None  # of each channel, beside noise that is alike in all

    @abc.abstractmethod
    def std(self, eigenvalues: Tensor) -> Tensor:
        """Standard deviation of the modes with these eigenvalues of -Laplacian; or (C, *shape) if channels differ."""

    def on(self, shape: Sequence[int]) -> Noise:
        """This noise as seen on one grid; itself, if it is a function that every grid sees."""
        return self

    @kinds_checked(but=("shape",))
    def sample(
        self, shape: Sequence[int], *, generator: Generators = None, device=None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Draw fields.

        Args:
            shape: (B, C, *spatial); channels are independent.
            generator: One generator, or one per sample: the same seed is the same function on every grid, in any batch
                and on any device. None: plain draws.

        Returns:
            (B, C, *spatial).

        Raises:
            ValueError: If `shape` does not fit the domain, or the generators are not one per sample.
        """
        batch, spatial = split_shape(shape, self.domain)
        full = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype  # no transforms in half precision
        white = self.domain.white(batch, spatial, generator=generator, device=device, dtype=full)
        eigenvalues = self.domain.eigenvalues(spatial, device=white.device, dtype=white.real.dtype)
        std = self.std(eigenvalues)
        if std.ndim > eigenvalues.ndim and len(std) != batch[1]:
            raise ValueError(
                f"expected noise of {len(std)} channels, as it has a spectrum for each, got shape {tuple(shape)}."
            )
        return self.domain.synthesize(white * std, spatial).to(dtype or white.real.dtype)

    def variance(self, shape: Sequence[int]) -> float:
        """Mean variance per point and channel on a grid of this spatial shape (the modes beyond the grid are not in it)."""
        shape, known = self.domain.check_shape(shape), self.__dict__.setdefault("_variances", {})
        if shape not in known:
            mult = self.domain.multiplicity(shape, dtype=torch.float64)
            std = self.on(shape).std(self.domain.eigenvalues(shape, dtype=torch.float64))
            known[shape] = float((mult * std.square()).sum() * mult.numel() / std.numel())
        return known[shape]

    def check_channels(self, channels: int) -> None:
        """Raise a ValueError if the noise is of another number of channels."""
        domain = self.domain
        shape = domain.shape_of(4)
        std = self.on(shape).std(domain.eigenvalues(shape, dtype=torch.float64))
        if std.ndim > domain.dim and len(std) != channels:
            raise ValueError(
                f"expected noise of {channels} channels, as the fields have, got one of {len(std)}: {self}; give each channel "
                f"its own."
            )

    def _of_channels(self, std: Tensor, dim: int) -> Tensor:
        """A standard deviation that is alike in all channels, for each of them."""
        if self.channel_std is None:
            return std
        return std * torch.tensor(self.channel_std).to(std).reshape(-1, *(1,) * dim)

    def point_std(self, shape: Sequence[int]) -> Tensor:
        """Standard deviation at a point on a grid of this spatial shape, float64: (), or (C,) with `channel_std`."""
        std = torch.tensor(1.0 if self.channel_std is None else self.channel_std, dtype=torch.float64)
        return std * (self.variance(shape) / std.square().mean()).sqrt()


def check_channel_std(owner: str, std: Sequence[float] | None, count: int = 0) -> tuple[float, ...] | None:
    """One standard deviation for each channel; ValueError unless they are positive, and as many as `count` if that is known."""
    if std is None:
        return None
    each = tuple(float(value) for value in std)
    count = count or max(1, len(each))
    if len(each) != count or not all(0 < value < math.inf for value in each):
        raise ValueError(f"{owner}: expected channel_std of {count} positive numbers, got {std!r}.")
    return each


def split_shape(shape: Sequence[int], domain: Domain) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Batch and channels, and the spatial shape; ValueError if it is none."""
    shape = plain(shape)
    shape = tuple(shape) if isinstance(shape, Iterable) and not isinstance(shape, str) else (shape,)
    batch, spatial = shape[:2], shape[2:]
    if len(batch) != 2 or not all(isinstance(n, Integral) and n >= 0 for n in batch):
        raise ValueError(f"expected a shape (B, C, *spatial), got {shape}; name the batch and the channels too.")
    return batch, domain.check_shape(spatial)


@kinds_checked
@dataclass(frozen=True)
class GaussianRandomField(Noise):
    """N(0, C), C = spectrum(-Laplacian) / trace: unit mean variance in the continuum, the modes beyond the grid included.

    Args:
        domain: Where the field lives.
        spectrum: `Matern`, `RBF`, or any callable (eigenvalues, dim) -> nonnegative Tensor of the same shape, which
            accepts float64; or `ChannelSpectra` of such, for fields of as many channels.
        channel_std: Standard deviation of each channel's noise, 1 each by default. Of pairs (a, u), u a solution for a, let
            u's be larger, (1, 8): sampling then decides on a first, and u is what follows from it.

    Raises:
        ValueError: If they are something else; on first use, if the spectrum's sum over all modes is not finite and positive.

    Examples:
        >>> import torch
        >>> from fnodiff import GaussianRandomField, Matern, Torus
        >>> field = GaussianRandomField(Torus(2), Matern(1.0, 0.2))
        >>> coarse, fine = (field.sample((1, 1, n, n), generator=torch.Generator().manual_seed(0)) for n in (16, 48))
        >>> bool((Torus(2).resample(fine, (16, 16)) - coarse).abs().max() < 1e-4)  # one seed is one function
        True
    """

    domain: Domain
    spectrum: Spectrum
    channel_std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.domain, Domain) or not callable(self.spectrum) or isinstance(self.spectrum, type):
            raise ValueError(
                f"GaussianRandomField: expected a domain and a spectrum, got {self.domain!r} and {self.spectrum!r}; write such "
                f"as GaussianRandomField(Box(2), Matern(1.0))."
            )
        object.__setattr__(self, "spectrum", on_domain(self.spectrum, self.domain))
        checked = check_channel_std("GaussianRandomField", self.channel_std, len(self._channels))
        object.__setattr__(self, "channel_std", checked)

    @functools.cached_property
    def trace(self) -> float:
        """The sum of the bare spectrum over all modes, and the channels if they have their own."""
        if not self._channels:
            self._check_spectrum()
        return sum(field.trace for field in self._channels) if self._channels else self.domain.trace(self._at)

    @functools.cached_property
    def _channels(self) -> list[GaussianRandomField]:
        spectra = self.spectrum.channels if isinstance(self.spectrum, ChannelSpectra) else ()
        return [GaussianRandomField(self.domain, spectrum) for spectrum in spectra]

    def _check_spectrum(self) -> None:
        """Whether it is a function of the eigenvalues and the dimension, tried on those of a small grid."""
        eigenvalues = self.domain.eigenvalues(self.domain.shape_of(4), dtype=torch.float64)
        wanted = f"GaussianRandomField: expected {self.spectrum!r} to map (eigenvalues, dim) to variances"
        try:
            s = self._at(eigenvalues)
        except TypeError as error:
            raise ValueError(f"{wanted}, got {error}; write such as def spectrum(eigenvalues, dim): ...") from error
        if not isinstance(s, Tensor) or s.shape != eigenvalues.shape:
            got = tuple(s.shape) if isinstance(s, Tensor) else type(s).__name__
            raise ValueError(
                f"{wanted} of their shape {tuple(eigenvalues.shape)}, got {got}; compute with the eigenvalues."
            )
        bad = ~(s.isfinite() & (s >= 0))
        if bool(bad.any()):
            raise ValueError(
                f"{wanted}, finite and >= 0, got {float(s[bad][0])} at {float(eigenvalues[bad][0]):g}; add a constant to the "
                f"eigenvalues, such as (1 + eigenvalues) ** -2."
            )

    def _at(self, eigenvalues: Tensor) -> Tensor:
        return self.spectrum(eigenvalues, self.domain.dim)

    def std(self, eigenvalues: Tensor) -> Tensor:
        if self._channels:
            std = torch.stack([field.std(eigenvalues) for field in self._channels])
        else:
            trace = self.trace  # first, as it looks at the spectrum
            std = (self._at(eigenvalues) / trace).sqrt()
        return self._of_channels(std, eigenvalues.ndim)
