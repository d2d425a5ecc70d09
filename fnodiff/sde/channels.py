"""Noise of another kind in each channel: white noise beside a smooth field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fnodiff.domain import Domain
from fnodiff.expected import kinds_checked
from fnodiff.sde.noise import ChannelSpectra, GaussianRandomField, Noise, check_channel_std
from fnodiff.sde.white import WhiteNoise


@kinds_checked(but=("channels",))
@dataclass(frozen=True)
class ChannelNoise(Noise):
    """One noise for each channel, all on one domain: of pairs (a, u), white for a with jumps and smooth for a solution u.

    The noise level that `EDMScaling` shows a network is that of the first channel. Put a white one first, which has more noise
    at a point on finer grids.

    Args:
        channels: The noise of each: `WhiteNoise`, or `GaussianRandomField` of one spectrum.
        channel_std: As of `GaussianRandomField`, times what each noise has.

    Raises:
        ValueError: If there is none, one has no modes of its own (`PixelNoise`) or is of several channels, the domains differ,
            or there are not as many numbers as channels.

    Examples:
        >>> from fnodiff import Box, GaussianRandomField, Matern, WhiteNoise
        >>> from fnodiff.sde import ChannelNoise
        >>> box = Box(2)
        >>> noise = ChannelNoise((WhiteNoise(box, (16, 16)), GaussianRandomField(box, Matern(1.5, 0.3))), channel_std=(1, 8))
        >>> [round(float(std), 1) for std in noise.point_std((32, 32))]
        [2.0, 8.0]
    """

    channels: tuple[Noise, ...]
    channel_std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        if not self.channels:
            raise ValueError("ChannelNoise: expected a noise for each channel, got none.")
        for noise in self.channels:
            known = isinstance(noise, WhiteNoise | GaussianRandomField)
            several = isinstance(getattr(noise, "spectrum", None), ChannelSpectra)
            if not known or several or noise.channel_std is not None:
                raise ValueError(
                    f"ChannelNoise: expected WhiteNoise or GaussianRandomField of one channel, got {noise}; give each channel "
                    f"its own, and channel_std to ChannelNoise."
                )
            if noise.domain != self.domain:
                raise ValueError(
                    f"ChannelNoise: expected noises on one domain, got {self.domain} and {noise.domain}; name one for all."
                )
        checked = check_channel_std("ChannelNoise", self.channel_std, len(self.channels))
        object.__setattr__(self, "channel_std", checked)

    @property
    def domain(self) -> Domain:
        """Where all of them live."""
        return self.channels[0].domain

    def std(self, eigenvalues: Tensor) -> Tensor:
        return self._of_channels(torch.stack([noise.std(eigenvalues) for noise in self.channels]), eigenvalues.ndim)

    def point_std(self, shape: Sequence[int]) -> Tensor:
        alone = torch.stack([noise.point_std(shape) for noise in self.channels])
        return alone if self.channel_std is None else alone * torch.tensor(self.channel_std, dtype=torch.float64)
