"""The parts of a UNet that are no convolutions: residual blocks, the embedding of the noise level, waves that say the place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from fnodiff.domain import Domain, Shape, Sphere
from fnodiff.domain.constants import cached
from fnodiff.nn.integrals import Attention, GroupNorm
from fnodiff.nn.local import LocalConv


class ResidualBlock(nn.Module):
    """A residual block of two convolutions, with the noise embedding between them and self-attention after.

    The first convolution also brings the field to another grid, when one is asked for.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        embedding: int,
        conv: Any,
        n_modes: Sequence[int] | None,
        reference: Shape | None,
        domain: Domain,
        dropout: float,
        last: dict[str, float],
        resize: str,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.resize = getattr(domain, resize)
        self.norm_in, self.norm_out = GroupNorm(in_channels, domain), GroupNorm(out_channels, domain)
        self.conv_in = conv(in_channels, out_channels, n_modes=n_modes, reference=reference)
        self.conv_out = conv(out_channels, out_channels, n_modes=n_modes, reference=reference, **last)
        self.embed = nn.Linear(embedding, out_channels)
        self.dropout = nn.Dropout(dropout)
        self.skip = (
            None if in_channels == out_channels else LocalConv(in_channels, out_channels, domain=domain, kernel_size=1)
        )
        self.attention = Attention(out_channels, domain, **last) if attention else None

    def forward(self, x: Tensor, emb: Tensor, shape: tuple[int, ...]) -> Tensor:
        """(B, in_channels, *any) -> (B, out_channels, *shape), with an embedding (B, embedding)."""
        target = None if tuple(x.shape[2:]) == shape else shape
        h = self.conv_in(silu(self.norm_in(x)), target)
        h = h + self.embed(emb).reshape(*h.shape[:2], *(1,) * (h.ndim - 2))
        h = self.conv_out(self.dropout(silu(self.norm_out(h))))
        x = x if target is None else self.resize(x, target)
        x = (h + (x if self.skip is None else self.skip(x))) * math.sqrt(0.5)
        return x if self.attention is None else self.attention(x)


class NoiseEmbedding(nn.Module):
    """Sines and cosines of a scalar at frequencies from 0.1 to 100 radians per unit, (B,) -> (B, channels)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(-1, 2, channels // 2))

    def forward(self, noise_level: Tensor) -> Tensor:
        """(B,) -> (B, channels)."""
        phase = noise_level[:, None] * self.frequencies.to(noise_level)
        return torch.cat([phase.cos(), phase.sin()], dim=1)


@cached
def positions(
    domain: Domain, counts: tuple[int, ...], shape: Shape, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The first waves along each axis, so many, or harmonics, of mean square one: (channels, *shape)."""
    if isinstance(domain, Sphere):
        (count,) = counts
        harmonics = torch.eye((count + 1) ** 2, dtype=torch.float64).unflatten(1, (count + 1, count + 1))
        degree = torch.arange(count + 1)
        order = (
            torch.maximum(degree[:, None], degree).flatten().argsort(stable=True)
        )  # by degree; the first is constant
        return domain.synthesize(harmonics[order[1:], None], shape)[:, 0].to(device, dtype)
    waves = []
    coordinates = domain.points(shape, dtype=torch.float64)
    for points, length, edge, count in zip(coordinates, domain.lengths, domain.edges, counts, strict=True):
        for k in range(1, count + 1):
            if edge == "wall":
                waves.append((math.pi * k * points / length).cos())
            else:
                waves += [(2 * math.pi * k * points / length).cos(), (2 * math.pi * k * points / length).sin()]
    return (math.sqrt(2) * torch.stack(waves)).to(device, dtype)


def position_channels(domain: Domain, counts: tuple[int, ...]) -> int:
    """How many channels `positions` gives."""
    if isinstance(domain, Sphere):
        return (counts[0] + 1) ** 2 - 1
    return sum(count if edge == "wall" else 2 * count for count, edge in zip(counts, domain.edges, strict=True))


def place_counts(domain: Domain, count: int | Sequence[int]) -> tuple[int, ...]:
    """Numbers of waves, one for each axis, or of degrees on a sphere, given as such or as one number."""
    given = (count,) if isinstance(count, Integral) else tuple(count)
    axes = 1 if isinstance(domain, Sphere) else domain.dim
    if len(given) not in (1, axes):
        raise ValueError(f"DFU: expected positional_modes as one number, or one per axis of {domain}, got {count!r}.")
    return given if len(given) == axes else given * axes


def usual_places(domain: Domain) -> int | tuple[int, ...]:
    """positional_modes of the small presets: a periodic axis has no place of its own; the earth turns about an axis."""
    counts = tuple(4 if edge == "wall" else 0 for edge in domain.edges)
    return 2 if isinstance(domain, Sphere) else counts[0] if len(set(counts)) == 1 else counts
