"""The periodic box."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fnodiff.domain.base import Shape, along, full_precision
from fnodiff.domain.draws import Generators, normals
from fnodiff.domain.product import Product
from fnodiff.domain.sums import check_trace, lattice_sum


@dataclass(frozen=True)
class Torus(Product):
    """The periodic box; points i / n and the Fourier basis.

    Coefficients are `rfftn(norm="forward")` without an even grid's Nyquist frequency: complex, in FFT order
    (0, 1, .., K, -K, .., -1) with K = (n - 1) // 2 on all axes but the last, which holds 0 .. K.

    Examples:
        >>> import torch
        >>> from fnodiff import Torus
        >>> torus = Torus(1)
        >>> x = (2 * torch.pi * torus.points((8,))[None]).cos()
        >>> torus.analyze(x).abs().round(decimals=3)
        tensor([[[0.0000, 0.5000, 0.0000, 0.0000]]])
    """

    @property
    def periodic(self) -> tuple[bool, ...]:
        return (True,) * self.dim

    def points(self, shape: Sequence[int], *, device=None, dtype: torch.dtype | None = None) -> Tensor:
        shape = self.check_shape(shape)
        axes = [torch.arange(n, device=device, dtype=dtype or torch.get_default_dtype()) / n for n in shape]
        return torch.stack(torch.meshgrid(*[a * v for a, v in zip(axes, self.lengths, strict=True)], indexing="ij"))

    def derivative(self, x: Tensor, axis: int) -> Tensor:
        n, length = self.check_field(x)[axis], self.lengths[axis]
        if n < 2:
            raise ValueError(f"derivative: expected two points or more along axis {axis}, got {tuple(x.shape)}.")
        return (x.roll(-1, axis + 2) - x.roll(1, axis + 2)) * (n / (2 * length))

    def coefficient_shape(self, shape: Sequence[int]) -> Shape:
        *rest, last = ((n - 1) // 2 for n in self.check_shape(shape))
        return (*(2 * k + 1 for k in rest), last + 1)

    def wavenumbers(self, shape: Sequence[int]) -> list[Tensor]:
        *rest, last = self.coefficient_shape(shape)
        axes = [_signed(n) for n in rest] + [torch.arange(last)]
        return [along(a.double(), i, self.dim) for i, a in enumerate(axes)]

    def multiplicity(self, shape: Sequence[int], *, device=None, dtype: torch.dtype | None = None) -> Tensor:
        mult = torch.full(self.coefficient_shape(shape), 2.0, device=device, dtype=dtype)
        mult[..., 0] = 1.0
        return mult

    def white(
        self, batch: Sequence[int], shape: Sequence[int], *, generator: Generators = None, device=None, dtype=None
    ) -> Tensor:
        bands = [(n - 1) // 2 for n in self.check_shape(shape)]
        r = normals(batch, [2 * k + 1 for k in bands], generator=generator, device=device, dtype=dtype)
        # Mode k reads normal number 0, 1, 2, 3, .. for k = 0, 1, -1, 2, ..: the same one on every grid.
        for axis, k in enumerate(bands, start=2):
            signed = _signed(2 * k + 1).to(r.device)
            r = r.index_select(axis, 2 * signed.abs() - (signed > 0).long())
        mirrored = r
        for axis, k in enumerate(bands, start=2):
            mirrored = mirrored.index_select(axis, -torch.arange(2 * k + 1, device=r.device) % (2 * k + 1))
        half = slice(0, bands[-1] + 1)
        r, mirrored = r[..., half], mirrored[..., half]
        return torch.complex(r + mirrored, r - mirrored) / 2

    def analyze(self, x: Tensor) -> Tensor:
        shape = self.check_field(x)
        c = torch.fft.rfftn(full_precision(x), dim=tuple(range(-self.dim, 0)), norm="forward")
        for axis, n in enumerate(self.coefficient_shape(shape)[:-1], start=2):
            c = _refit(c, axis, n)
        return c[..., : (shape[-1] - 1) // 2 + 1]

    def synthesize(self, c: Tensor, shape: Sequence[int]) -> Tensor:
        shape = self.check_shape(shape)
        for axis, n in enumerate(shape[:-1], start=2):
            c = _refit(c, axis, n)
        c = c[..., : (shape[-1] - 1) // 2 + 1]  # never the Nyquist frequency; irfftn pads the rest with zeros
        return torch.fft.irfftn(c, s=shape, dim=tuple(range(-self.dim, 0)), norm="forward")

    def basis(self, x: Tensor, shape: Sequence[int]) -> list[Tensor]:
        factors = []
        for k, coordinate, step in zip(self.wavenumbers(shape), x, self._steps, strict=True):
            phase = k.flatten().to(x)[:, None] * (coordinate * step)
            factors.append(torch.complex(phase.cos(), phase.sin()))
        factors[-1] = torch.cat([factors[-1][:1], 2 * factors[-1][1:]])  # each stands for its conjugate too
        return factors

    def trace(self, f: Callable[[Tensor], Tensor]) -> float:
        return check_trace(lattice_sum(f, self._steps))

    @property
    def _steps(self) -> tuple[float, ...]:
        return tuple(2 * math.pi / v for v in self.lengths)


def _signed(n: int) -> Tensor:
    """0, 1, .., K, -K, .., -1 for odd n = 2K + 1."""
    return torch.cat([torch.arange(n // 2 + 1), torch.arange(-(n // 2), 0)])


def _refit(c: Tensor, axis: int, n: int) -> Tensor:
    """Coefficients in FFT order with n entries along an axis; frequencies that either length lacks become zero."""
    band = min((c.shape[axis] - 1) // 2, (n - 1) // 2)
    parts = [c.narrow(axis, 0, band + 1)]
    if gap := n - (2 * band + 1):
        parts.append(c.new_zeros([gap if i == axis else m for i, m in enumerate(c.shape)]))
    parts.append(c.narrow(axis, c.shape[axis] - band, band))
    return torch.cat(parts, dim=axis)
