"""From a grid to its lowest Fourier modes, and from them to any grid.

Coefficients are real tensors (B, 2, modes, C): real parts, then imaginary parts, the modes of all axes in one. The samples of a
batch stay apart, as small products run on several cores by the sample only. Three ways lead to the same numbers:

    product   one product with a matrix (2 modes, points): for small grids;
    axes      a product per axis with a matrix (2 modes of the axis, 2 points of the axis), the last axis first: each reads its
              input and writes its result as they lie in memory, so that nothing is ever transposed;
    fft       fast Fourier transforms that drop each axis's unwanted modes before the next axis: for many modes.

Scale, phase and the weight of both signs are in the matrices. With the same matrices `down` and `up` are each other's
transposes, and so each other's gradients.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from fnodiff.domain import Shape
from fnodiff.domain.base import along
from fnodiff.domain.constants import cached

_FORWARD = {"forward": lambda n: 1 / n, "ortho": lambda n: n**-0.5, "backward": lambda n: 1.0}
_INVERSE = {"forward": lambda n: 1.0, "ortho": lambda n: n**-0.5, "backward": lambda n: 1 / n}

# The cost model: multiplications per channel that take as long as what a way does besides. Set from the table of ways that
# `python -m benchmarks.speed` prints, which shows where the choice is not the fastest.
AXIS_OVERHEAD = 20_000.0
FFT_OVERHEAD = 50_000.0
FFT_PER_POINT = 80.0


Matrices = tuple[Any, ...]
"""Of each axis but the last a pair of matrices, which multiply real and imaginary parts; of the last axis one matrix."""


@dataclass(frozen=True)
class Modes:
    """The Fourier modes that a spectral convolution carries from one grid to another.

    Args:
        shape: The input's grid.
        output_shape: The output's.
        bands: Modes -low .. high per axis, (low, high); those of the last axis, 0 .. high, stand for both signs. Modes that one
            of the grids cannot hold are zero; only "fft" needs bands without such modes.
        norm: torch.fft's normalisation of both transforms.
        centred: Of each axis: grid points are cell centres, (i + 1/2) / n, rather than i / n.
    """

    shape: Shape
    output_shape: Shape
    bands: tuple[tuple[int, int], ...]
    norm: str
    centred: tuple[bool, ...]

    @property
    def counts(self) -> Shape:
        """How many modes each axis has."""
        return tuple(low + high + 1 for low, high in self.bands)

    @property
    def nyquist(self) -> Shape:
        """The largest |k| per axis below both grids' Nyquist frequencies."""
        return tuple((min(n, m) - 1) // 2 for n, m in zip(self.shape, self.output_shape, strict=True))

    def held(self) -> Modes:
        """The same with bands that both grids hold."""
        bands = tuple(tuple(min(k, n) for k in band) for band, n in zip(self.bands, self.nyquist, strict=True))
        return replace(self, bands=bands)

    def way(self, shape: Shape) -> str:
        """The cheapest way between this grid and the modes: "product", "axes" or "fft"."""
        points, modes = math.prod(shape), math.prod(self.counts)
        axes, left, done = 0.0, points, 1
        for n, k in zip(reversed(shape), reversed(self.counts), strict=True):
            axes += (2.0 if done == 1 else 4.0) * left * k * done
            left, done = left // n, done * k
        costs = {
            "product": 2.0 * points * modes,
            "axes": axes + AXIS_OVERHEAD if len(shape) > 1 else math.inf,
            "fft": FFT_PER_POINT * points + FFT_OVERHEAD,
        }
        return min(costs, key=costs.__getitem__)

    def analyze(self, x: Tensor, way: str | None = None) -> Tensor:
        """(B, C, *shape) -> (B, 2, modes, C)."""
        way = self.way(self.shape) if way is None else way
        if way == "fft":
            return self._analyze_by_fft(x)
        return down(x, self.analysis(way, x))

    def synthesize(self, c: Tensor, way: str | None = None) -> Tensor:
        """(B, 2, modes, C) -> (B, C, *output_shape)."""
        way = self.way(self.output_shape) if way is None else way
        if way == "fft":
            return self._synthesize_by_fft(c)
        return up(c, self.synthesis(way, c), self.output_shape)

    def analysis(self, way: str, like: Tensor) -> Matrices:
        """The matrices of `down`."""
        return self._matrices(self.shape, way, _FORWARD[self.norm](math.prod(self.shape)), False, like)

    def synthesis(self, way: str, like: Tensor) -> Matrices:
        """The matrices of `up`."""
        return self._matrices(self.output_shape, way, _INVERSE[self.norm](math.prod(self.output_shape)), True, like)

    def _matrices(self, shape: Shape, way: str, scale: float, twice: bool, like: Tensor) -> Matrices:
        return _matrices(
            shape, self.bands, self.nyquist, self.centred, way == "axes", scale, twice, like.dtype, like.device
        )

    def _analyze_by_fft(self, x: Tensor) -> Tensor:
        c = torch.fft.rfft(x, norm=self.norm)[..., : self.bands[-1][1] + 1]
        for axis, (low, high) in enumerate(self.bands[:-1], start=2):
            c = torch.fft.fft(c, dim=axis, norm=self.norm)
            c = torch.cat([c.narrow(axis, c.shape[axis] - low, low), c.narrow(axis, 0, high + 1)], dim=axis)
        for axis, (low, high) in enumerate(self.bands):
            if self.centred[axis]:
                k = torch.arange(-low, high + 1, device=x.device, dtype=x.dtype)
                shift = -math.pi / self.shape[axis]
                c = c * along(torch.polar(torch.ones_like(k), k * shift), axis, len(self.bands))
        return torch.view_as_real(c.flatten(2)).permute(0, 3, 2, 1)

    def _synthesize_by_fft(self, c: Tensor) -> Tensor:
        c = torch.view_as_complex(c.permute(0, 3, 2, 1).contiguous()).unflatten(2, self.counts)
        for axis, (low, high) in enumerate(self.bands):
            if self.centred[axis]:
                k = torch.arange(-low, high + 1, device=c.device, dtype=c.real.dtype)
                shift = math.pi / self.output_shape[axis]
                c = c * along(torch.polar(torch.ones_like(k), k * shift), axis, len(self.bands))
        for axis, (low, high) in enumerate(self.bands[:-1], start=2):
            gap = self.output_shape[axis - 2] - low - high - 1
            zeros = c.new_zeros([gap if i == axis else n for i, n in enumerate(c.shape)])
            c = torch.cat([c.narrow(axis, low, high + 1), zeros, c.narrow(axis, 0, low)], dim=axis)
            c = torch.fft.ifft(c, dim=axis, norm=self.norm)
        return torch.fft.irfft(c, n=self.output_shape[-1], norm=self.norm)


# ---- products -----------------------------------------------------------------------------------------------------


def down(x: Tensor, matrices: Matrices) -> Tensor:
    """(B, C, *shape) -> (B, 2, modes, C): the last axis by a matrix (2 k, n), the others by pairs of such matrices."""
    batch, channels = x.shape[:2]
    *others, last = for_all(matrices, batch)
    c = torch.bmm(last, x.reshape(batch, -1, last.shape[-1]).transpose(1, 2))
    for of_re, of_im in reversed(others):  # c: B x (2, k) x (modes so far, C, further axes)
        re, im = c.reshape(batch, 2, -1, of_re.shape[-1]).transpose(2, 3).unbind(1)
        c = torch.baddbmm(torch.bmm(of_re, re), of_im, im)
    return c.reshape(batch, 2, -1, channels)


def up(c: Tensor, matrices: Matrices, shape: Shape) -> Tensor:
    """The transpose of `down`: (B, 2, modes, C) -> (B, C, *shape)."""
    batch, channels = c.shape[0], c.shape[-1]
    *others, last = for_all(matrices, batch)
    for parts in others:
        rows = c.reshape(batch, parts[0].shape[1], -1).transpose(1, 2)
        c = torch.stack([torch.bmm(rows, part) for part in parts], 1)
    rows = c.reshape(batch, last.shape[1], -1).transpose(1, 2)
    return torch.bmm(rows, last).reshape(batch, channels, *shape)


def signed(function: type[torch.autograd.Function]) -> type[torch.autograd.Function]:
    """Keep the signature of `forward`: torch asks for it at each call, and would work it out anew."""
    forward: Any = function.forward
    forward.__signature__ = inspect.signature(forward)
    return function


def for_all(matrices: Matrices, batch: int) -> Matrices:
    """The same constant matrices for every sample, without a copy."""
    expanded = _expanded.__wrapped__ if torch.compiler.is_compiling() else _expanded
    return expanded(matrices, batch)


@cached
def _expanded(matrices: Matrices, batch: int) -> Matrices:
    return tuple(
        _expanded.__wrapped__(m, batch) if isinstance(m, tuple) else m.expand(batch, *m.shape) for m in matrices
    )


def _waves(n: int, band: tuple[int, int], nyquist: int, centred: bool) -> Tensor:
    """exp(-2 pi i k x) at the points of one axis, for its modes: (modes, points), complex128."""
    x = (torch.arange(n, dtype=torch.float64) + (0.5 if centred else 0.0)) / n
    k = torch.arange(-band[0], band[1] + 1, dtype=torch.float64)[:, None]
    return torch.polar((k.abs() <= nyquist).double(), -2 * math.pi * k * x)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    """Waves of two axes: (modes, points), (modes, points) -> (pairs of modes, pairs of points)."""
    return (a[:, None, :, None] * b[None, :, None, :]).flatten(2).flatten(0, 1)


def _on_parts(waves: Tensor) -> Tensor:
    """A complex matrix (modes, points) as it acts on real and on imaginary parts: (2, 2 modes, points)."""
    return torch.stack([torch.cat([waves.real, waves.imag]), torch.cat([-waves.imag, waves.real])])


@cached
def _matrices(
    shape: Shape,
    bands: tuple[tuple[int, int], ...],
    nyquist: Shape,
    centred: tuple[bool, ...],
    axes: bool,
    scale: float,
    twice: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> Matrices:
    """What `down` and `up` multiply by, one matrix for all axes or one for each, the last scaled.

    Re(exp(i p) c) = cos(p) re c - sin(p) im c is the transpose of exp(-i p), so one set of matrices serves both ways. On the
    way up (`twice`) modes of the last axis above 0 count twice, for both signs.
    """
    waves = [_waves(*axis) for axis in zip(shape, bands, nyquist, centred, strict=True)]
    if not axes:
        waves = [reduce(_outer, waves)]
    *others, last = map(_on_parts, waves)
    both = torch.full((bands[-1][1] + 1,), 2.0 * scale if twice else scale, dtype=torch.float64)
    both[0] = scale
    last = last[0] * both.repeat(last.shape[1] // len(both))[:, None]
    pairs = [tuple(part.to(device, dtype, copy=True) for part in pair) for pair in others]
    return (*pairs, last.to(device, dtype))
