"""neuralop's models made exact: their spectral layers and coordinates replaced by ones that see the function, not the grid."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from neuralop.layers import spectral_convolution
from neuralop.layers.embeddings import GridEmbedding2D, GridEmbeddingND
from torch import Tensor, nn

from fnodiff.domain import Domain, Shape, Sphere
from fnodiff.domain.base import cached
from fnodiff.nn.spectral import SpectralConv


class Coordinates(nn.Module):
    """The coordinates of the domain's points as further channels, each from `low` to `high` along its axis.

    Args:
        domain: Whose points.
        boundaries: (low, high) of each axis.
    """

    def __init__(self, domain: Domain, boundaries: Sequence[Sequence[float]]) -> None:
        super().__init__()
        self.domain, self.boundaries = domain, tuple((float(low), float(high)) for low, high in boundaries)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *shape) -> (B, C + dim, *shape)."""
        low, high = torch.tensor(self.boundaries, dtype=x.dtype, device=x.device).T
        places = coordinates(self.domain, tuple(x.shape[2:]), x.dtype, x.device)
        places = low.reshape(-1, *(1,) * (x.ndim - 2)) + (high - low).reshape(-1, *(1,) * (x.ndim - 2)) * places
        return torch.cat([x, places.expand(x.shape[0], *places.shape)], dim=1)


@cached
def coordinates(domain: Domain, shape: Shape, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The domain's points as shares of its sides, (dim, *shape)."""
    points = domain.points(shape, dtype=torch.float64)
    sides = torch.tensor(domain.lengths or (torch.pi, 2 * torch.pi), dtype=torch.float64)
    return (points / sides.reshape(-1, *(1,) * domain.dim)).to(device, dtype)


def made_exact(operator: nn.Module, domain: Domain) -> None:
    """Replace, in place, a model's spectral convolutions by exact ones of the same weights, and its grids of coordinates."""
    for module in list(operator.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, GridEmbeddingND | GridEmbedding2D):
                setattr(module, name, Coordinates(domain, child.grid_boundaries))
            elif type(child) is spectral_convolution.SpectralConv or _spherical(child):
                module._modules[name] = _exact(child, domain)


def _exact(conv: nn.Module, domain: Domain) -> nn.Module:
    """A spectral convolution of ours with the weights of neuralop's, which are stored as real numbers."""
    sphere, kind = isinstance(domain, Sphere), SpectralConv
    if sphere:
        from fnodiff.nn.spherical import SphericalConv as kind
    modes = list(conv.max_n_modes)
    if not sphere:
        modes[-1] = 2 * (modes[-1] - 1)  # the last axis holds 0 .. n // 2
    name = conv.factorization or "Dense"
    options = {
        "factorization": name if name.lower().startswith("complex") else f"Complex{name.capitalize()}",
        "rank": conv.rank,
        "implementation": conv.implementation,
        "separable": conv.separable,
        "bias": conv.bias is not None,
    }
    if not sphere and conv.resolution_scaling_factor is not None:
        options["resolution_scaling_factor"] = conv.resolution_scaling_factor
    made = kind(conv.in_channels, conv.out_channels, tuple(modes), domain=domain, **options)
    with torch.no_grad():
        if conv.bias is not None:
            made.bias.copy_(conv.bias)
        theirs, ours = conv.weight.state_dict(), made.weight.state_dict()
        for key, value in theirs.items():
            ours[key].copy_(torch.view_as_real(value) if value.is_complex() else value)
    return made


def _spherical(module: nn.Module) -> bool:
    """Whether it is neuralop's convolution on the sphere, whose module loads only beside torch-harmonics."""
    loaded = sys.modules.get("neuralop.layers.spherical_convolution")
    return loaded is not None and type(module) is loaded.SphericalConv
