"""neuralop's models made exact: their spectral layers and coordinates replaced by ones that see the function, not the grid."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from neuralop.layers import spectral_convolution
from neuralop.layers.embeddings import GridEmbedding2D, GridEmbeddingND
from torch import Tensor, nn

from fnodiff.domain import Domain, Product, Shape, Sphere
from fnodiff.domain.constants import cached
from fnodiff.nn.cosine import FACTORIZATIONS, CosineConv
from fnodiff.nn.mixed import MixedConv
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
        places = coordinates(self.domain, tuple(x.shape[2:]), x.dtype, x.device, self.boundaries)
        return torch.cat([x, places.expand(x.shape[0], *places.shape)], dim=1)


@cached
def coordinates(
    domain: Domain,
    shape: Shape,
    dtype: torch.dtype,
    device: torch.device,
    boundaries: tuple[tuple[float, float], ...] = (),
) -> Tensor:
    """The domain's points, along each side from its low boundary to its high one, or from 0 to 1: (dim, *shape)."""
    points = domain.points(shape, dtype=torch.float64)
    sides = torch.tensor(domain.lengths, dtype=torch.float64)
    ends = torch.tensor(boundaries or ((0.0, 1.0),) * domain.dim, dtype=torch.float64)
    low, high = ends.reshape(-1, 2, *(1,) * domain.dim).unbind(1)
    return (low + (high - low) * points / sides.reshape(-1, *(1,) * domain.dim)).to(device, dtype)


class ReflectedConv(nn.Module):
    """A convolution of fields reflected at their walls, called as neuralop's blocks call theirs.

    Args:
        conv: neuralop's, whose channels, modes and factorisation it takes, not its weights.
        domain: A Box or a Product.
        kernels: As of `CosineConv` and `MixedConv`.
    """

    transform, _output_shape = SpectralConv.transform, SpectralConv._output_shape

    def __init__(self, conv: nn.Module, domain: Domain, kernels: str) -> None:
        super().__init__()
        if conv.separable:
            raise ValueError(
                f'NeuralOperator: expected boundary="periodic" of separable spectral layers, got {kernels!r}; leave either out.'
            )
        kind = MixedConv if isinstance(domain, Product) else CosineConv
        name = (conv.factorization or "Dense").lower().removeprefix("complex")
        factorization = next(known for known in FACTORIZATIONS[1:] if known.lower() == name)
        options = {"bias": conv.bias is not None, "factorization": factorization, "rank": conv.rank}
        self.conv = kind(conv.in_channels, conv.out_channels, _modes(conv), domain=domain, kernels=kernels, **options)
        self.domain, self.resolution_scaling_factor = domain, conv.resolution_scaling_factor

    def forward(self, x: Tensor, output_shape: Sequence[int] | None = None) -> Tensor:
        """(B, in_channels, *shape) -> (B, out_channels, *output_shape), by default as the scaling factor says."""
        return self.conv(x, self._output_shape(tuple(x.shape[2:]), output_shape))


def made_exact(operator: nn.Module, domain: Domain, boundary: str = "periodic") -> None:
    """Replace, in place, a model's spectral convolutions by exact ones, and its grids of coordinates.

    With boundary="periodic" they have the same weights; otherwise they are new, with these kernels across the walls.
    """
    for module in list(operator.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, GridEmbeddingND | GridEmbedding2D):
                setattr(module, name, Coordinates(domain, child.grid_boundaries))
            elif type(child) is spectral_convolution.SpectralConv or _spherical(child):
                periodic = boundary == "periodic"
                module._modules[name] = _exact(child, domain) if periodic else ReflectedConv(child, domain, boundary)


def _exact(conv: nn.Module, domain: Domain) -> nn.Module:
    """A spectral convolution of ours with the weights of neuralop's, which are stored as real numbers."""
    sphere, kind = isinstance(domain, Sphere), SpectralConv
    if sphere:
        from fnodiff.nn.spherical import SphericalConv as kind
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
    modes = tuple(conv.max_n_modes) if sphere else _modes(conv)
    made = kind(conv.in_channels, conv.out_channels, modes, domain=domain, **options)
    with torch.no_grad():
        if conv.bias is not None:
            made.bias.copy_(conv.bias)
        theirs, ours = conv.weight.state_dict(), made.weight.state_dict()
        for key, value in theirs.items():
            ours[key].copy_(torch.view_as_real(value) if value.is_complex() else value)
    return made


def _modes(conv: nn.Module) -> Shape:
    """Modes per axis, both signs counted, of one that is not on a sphere."""
    *others, last = conv.max_n_modes
    return *others, 2 * (last - 1)  # the last axis holds 0 .. n // 2


def _spherical(module: nn.Module) -> bool:
    """Whether it is neuralop's convolution on the sphere, whose module loads only beside torch-harmonics."""
    loaded = sys.modules.get("neuralop.layers.spherical_convolution")
    return loaded is not None and type(module) is loaded.SphericalConv
