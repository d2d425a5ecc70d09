"""White noise: as a function, the same in a mode on every grid; and as the paper and EDM have it, the same at a point."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fnodiff.domain import Domain, Generators, Shape, normals
from fnodiff.expected import kinds_checked
from fnodiff.sde.noise import Noise, check_channel_std, split_shape


@kinds_checked
@dataclass(frozen=True)
class WhiteNoise(Noise):
    """The same variance for every mode on every grid; mean variance one per point on the reference grid.

    On a grid n times finer per side it has n^dim as much variance per point, as white noise must: a network trained
    at one sigma then sees the same signal-to-noise ratio in a mode on every grid.

    Args:
        domain: Where the field lives.
        reference: Spatial shape of the grid with unit variance per point.
        channel_std: As of `GaussianRandomField`. Beside even noise a smooth channel's waves are large: let its number be large
            too, such as 100.

    Raises:
        ValueError: If the shape is none of the domain's, or a number is not positive.

    Examples:
        >>> from fnodiff import Box, WhiteNoise
        >>> noise = WhiteNoise(Box(2), reference=(32, 32))
        >>> [round(noise.variance((n, n)), 6) for n in (16, 32, 64)]  # per point
        [0.25, 1.0, 4.0]
    """

    domain: Domain
    reference: Shape | int
    channel_std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "reference", self.domain.check_shape(self.reference))
        object.__setattr__(self, "channel_std", check_channel_std("WhiteNoise", self.channel_std))

    @functools.cached_property
    def mode_variance(self) -> float:
        """The variance of each mode: one over the number of modes of the reference grid."""
        return 1.0 / float(self.domain.multiplicity(self.reference, dtype=torch.float64).sum())

    def std(self, eigenvalues: Tensor) -> Tensor:
        return self._of_channels(torch.full_like(eigenvalues, math.sqrt(self.mode_variance)), eigenvalues.ndim)


@kinds_checked
@dataclass(frozen=True)
class PixelNoise(Noise):
    """Independent unit normals at the points of whatever grid: not a function, and so different on each grid.

    The noise of EDM and of the DFU paper's experiments. Refining the grid by r leaves r^dim less of it in each mode, so
    one sigma means different things at different resolutions. Here for comparison with published settings.

    Raises:
        ValueError: On a domain whose points stand for areas of different size, as the sphere's: white in no sense there.

    Examples:
        >>> from fnodiff import Box, PixelNoise
        >>> [round(PixelNoise(Box(2)).variance((n, n)), 6) for n in (16, 32, 64)]
        [1.0, 1.0, 1.0]
    """

    domain: Domain

    def __post_init__(self) -> None:
        if not self.domain.uniform:
            raise ValueError(
                f"PixelNoise: expected a domain whose points have equal areas, got {self.domain}; use "
                f"WhiteNoise(domain, reference)."
            )

    def std(self, eigenvalues: Tensor) -> Tensor:
        raise ValueError(
            "PixelNoise has a spectrum only on a given grid; write noise.on(shape).std(eigenvalues), "
            "or use WhiteNoise(domain, reference)."
        )

    def on(self, shape: Sequence[int]) -> Noise:
        return _PixelNoiseOn(self.domain, self.domain.check_shape(shape))

    @kinds_checked(but=("shape",))
    def sample(
        self, shape: Sequence[int], *, generator: Generators = None, device=None, dtype: torch.dtype | None = None
    ) -> Tensor:
        batch, spatial = split_shape(shape, self.domain)
        return normals(batch, spatial, generator=generator, device=device, dtype=dtype)


@dataclass(frozen=True)
class _PixelNoiseOn(WhiteNoise):
    """White noise with one unit of variance shared among a grid's points, those of a Nyquist mode included."""

    @functools.cached_property
    def mode_variance(self) -> float:
        return 1.0 / math.prod(self.reference)
