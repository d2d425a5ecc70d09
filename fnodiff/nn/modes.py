"""From a grid to its lowest Fourier modes, and from them to any grid.

Two ways to the same numbers. With few modes the transform is one product with a real matrix of cosines and sines, (points,
2 modes): a cost per point that does not depend on the grid, no complex tensors, and every scale and phase folded into the
matrix. With many modes, fast Fourier transforms that drop each axis's unwanted modes before the next axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fnodiff.domain import Shape
from fnodiff.domain.base import along, cached

MOST_PRODUCT_MODES = 96
"""Up to as many modes the matrix product is used: the paper's wide transforms stay with FFTs."""
_FORWARD = {"forward": lambda n: 1 / n, "ortho": lambda n: n**-0.5, "backward": lambda n: 1.0}
_INVERSE = {"forward": lambda n: 1.0, "ortho": lambda n: n**-0.5, "backward": lambda n: 1 / n}


@dataclass(frozen=True)
class Modes:
    """The Fourier modes that a spectral convolution carries from one grid to another.

    Args:
        shape: The input's grid.
        output_shape: The output's.
        bands: Modes -low .. high per axis, (low, high); those of the last axis, 0 .. high, stand for both signs.
        norm: torch.fft's normalisation of both transforms.
        centred: Grid points are cell centres, (i + 1/2) / n, rather than i / n.
    """

    shape: Shape
    output_shape: Shape
    bands: tuple[tuple[int, int], ...]
    norm: str
    centred: bool

    @property
    def counts(self) -> Shape:
        """How many modes each axis has."""
        return tuple(low + high + 1 for low, high in self.bands)

    @property
    def by_products(self) -> bool:
        """Whether matrix products are the faster way."""
        return math.prod(self.counts) <= MOST_PRODUCT_MODES

    def analyze(self, x: Tensor) -> Tensor:
        """(B, C, *shape) -> real and imaginary parts (B, C, modes, 2)."""
        return self._analyze_by_product(x) if self.by_products else self._analyze_by_fft(x)

    def synthesize(self, c: Tensor) -> Tensor:
        """(B, C, modes, 2) -> (B, C, *output_shape)."""
        return self._synthesize_by_product(c) if self.by_products else self._synthesize_by_fft(c)

    def _analyze_by_product(self, x: Tensor) -> Tensor:
        return (x.flatten(2) @ _analysis_matrix(self, x.dtype, x.device)).unflatten(2, (-1, 2))

    def _synthesize_by_product(self, c: Tensor) -> Tensor:
        return (c.flatten(2) @ _synthesis_matrix(self, c.dtype, c.device)).unflatten(2, self.output_shape)

    def _analyze_by_fft(self, x: Tensor) -> Tensor:
        c = torch.fft.rfft(x, norm=self.norm)[..., : self.bands[-1][1] + 1]
        for axis, (low, high) in enumerate(self.bands[:-1], start=2):
            c = torch.fft.fft(c, dim=axis, norm=self.norm)
            c = torch.cat([c.narrow(axis, c.shape[axis] - low, low), c.narrow(axis, 0, high + 1)], dim=axis)
        if self.centred and self.shape != self.output_shape:  # on equal grids the two offsets cancel
            for axis, (low, high) in enumerate(self.bands):
                k = torch.arange(-low, high + 1, device=x.device, dtype=x.dtype)
                shift = math.pi * (1 / self.output_shape[axis] - 1 / self.shape[axis])
                c = c * along(torch.polar(torch.ones_like(k), k * shift), axis, len(self.bands))
        return torch.view_as_real(c.flatten(2))

    def _synthesize_by_fft(self, c: Tensor) -> Tensor:
        c = torch.view_as_complex(c.contiguous()).unflatten(2, self.counts)
        for axis, (low, high) in enumerate(self.bands[:-1], start=2):
            gap = self.output_shape[axis - 2] - low - high - 1
            zeros = c.new_zeros([gap if i == axis else n for i, n in enumerate(c.shape)])
            c = torch.cat([c.narrow(axis, low, high + 1), zeros, c.narrow(axis, 0, low)], dim=axis)
            c = torch.fft.ifft(c, dim=axis, norm=self.norm)
        return torch.fft.irfft(c, n=self.output_shape[-1], norm=self.norm)


def _phases(modes: Modes, shape: Shape) -> Tensor:
    """2 pi k . x at every point of a grid, for every mode: (points, modes), float64."""
    dim = len(shape)
    phases = torch.zeros((1,) * (2 * dim), dtype=torch.float64)
    for axis, (n, (low, high)) in enumerate(zip(shape, modes.bands, strict=True)):
        x = (torch.arange(n, dtype=torch.float64) + (0.5 if modes.centred else 0.0)) / n
        k = torch.arange(-low, high + 1, dtype=torch.float64)
        phases = phases + 2 * math.pi * along(x, axis, 2 * dim) * along(k, dim + axis, 2 * dim)
    return phases.reshape(math.prod(shape), -1)


@cached
def _analysis_matrix(modes: Modes, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(points, 2 modes): the forward transform."""
    phases = _phases(modes, modes.shape)
    matrix = torch.stack([phases.cos(), -phases.sin()], dim=-1) * _FORWARD[modes.norm](math.prod(modes.shape))
    return matrix.flatten(1).to(device, dtype)


@cached
def _synthesis_matrix(modes: Modes, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(2 modes, points): the inverse transform's real part; modes of the last axis above 0 count twice, for both signs."""
    phases = _phases(modes, modes.output_shape)
    twice = torch.full(modes.counts, 2.0, dtype=torch.float64)
    twice[..., 0] = 1.0
    matrix = torch.stack([phases.cos(), -phases.sin()], dim=-1) * twice.flatten()[:, None]
    return (matrix * _INVERSE[modes.norm](math.prod(modes.output_shape))).flatten(1).t().contiguous().to(device, dtype)
