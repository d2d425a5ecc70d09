"""Domains: where functions live, and every grid, quadrature and transform that fnodiff uses.

A function f on a domain is expanded in the eigenfunctions of the Laplacian,

    f(x) = sum_k c_k phi_k(x),    -Laplacian phi_k = lambda_k phi_k,    mean over the domain of |phi_k|^2 = 1,

so that Parseval reads |f|^2 = sum_k mult_k |c_k|^2 (mult_k = 2 where a stored complex coefficient also stands for its
conjugate). A field is a tensor (B, C, *shape) of values on the grid that its shape names; its coefficients do not
depend on the grid:

    analyze: field -> c,    synthesize: c -> field on any grid,    synthesize(analyze(x), x.shape[2:]) projects.

====== ==================== ===================================================== ==========================
domain grid of n points     eigenfunctions                                        modes kept on n points
====== ==================== ===================================================== ==========================
Torus  i / n                exp(2 pi i k x)                                       abs(k) < n / 2
Box    (i + 1/2) / n        1, sqrt(2) cos(pi k x) (zero slope at the edges)      k = 0 .. n - 1
====== ==================== ===================================================== ==========================
"""

from __future__ import annotations

import abc
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Shape = tuple[int, ...]
Generators = torch.Generator | Sequence[torch.Generator] | None


@dataclass(frozen=True)
class Domain(abc.ABC):
    """A bounded domain with its grids, its Laplacian and its transforms.

    Args:
        dim: Number of spatial dimensions, 1 to 3.
        lengths: Side lengths, in the units of `points`; one per dimension, 1 by default. Square pixels on a
            non-square grid need lengths in the ratio of the grid's sides.

    Raises:
        ValueError: If `dim` is not 1, 2 or 3, or the lengths are not `dim` positive numbers.
    """

    dim: int
    lengths: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.dim not in (1, 2, 3):
            raise ValueError(
                f"{self._name}: expected dim 1, 2 or 3, got {self.dim!r}; pass the number of spatial axes."
            )
        lengths = (1.0,) * self.dim if self.lengths is None else tuple(float(v) for v in self.lengths)
        if len(lengths) != self.dim or not all(math.isfinite(v) and v > 0 for v in lengths):
            raise ValueError(
                f"{self._name}: expected {self.dim} positive side lengths, got {self.lengths!r}; "
                f"pass one per dimension, such as lengths={(1.0,) * self.dim}."
            )
        object.__setattr__(self, "lengths", lengths)

    # ---- what a domain defines ------------------------------------------------------------------------------------

    @abc.abstractmethod
    def points(self, shape: Sequence[int], *, device=None, dtype: torch.dtype | None = None) -> Tensor:
        """Coordinates of the grid's points, (dim, *shape), in [0, length]."""

    @abc.abstractmethod
    def coefficient_shape(self, shape: Sequence[int]) -> Shape:
        """Shape of the coefficients of one channel on a grid of this shape."""

    @abc.abstractmethod
    def wavenumbers(self, shape: Sequence[int]) -> list[Tensor]:
        """Integer mode indices along each axis of the coefficients, float64, shaped to broadcast."""

    @abc.abstractmethod
    def multiplicity(self, shape: Sequence[int], *, device=None, dtype: torch.dtype | None = None) -> Tensor:
        """How many modes each stored coefficient stands for, (*coefficient_shape)."""

    @abc.abstractmethod
    def white(
        self, batch: Sequence[int], shape: Sequence[int], *, generator: Generators = None, device=None, dtype=None
    ) -> Tensor:
        """Coefficients of white noise, E|c_k|^2 = 1, of shape (*batch, *coefficient_shape).

        Args:
            batch: (B, C).
            shape: The grid's shape: it decides which modes are drawn, never their values.
            generator: One generator, or one per sample. Each call takes one integer per sample from it; that seed, the
                channel and the mode fix the coefficient, on every grid, in every batch, on every device. None: plain
                draws from torch's global generator.

        Raises:
            ValueError: If `generator` is a sequence whose length is not B.
        """

    @abc.abstractmethod
    def analyze(self, x: Tensor) -> Tensor:
        """Coefficients (B, C, *coefficient_shape) of a real field (B, C, *shape); half precision is computed in float32.

        Raises:
            ValueError: If `x` is not a real field of this dimension.
        """

    @abc.abstractmethod
    def synthesize(self, c: Tensor, shape: Sequence[int]) -> Tensor:
        """The field (B, C, *shape) with coefficients `c`, of whatever grid; modes that `shape` cannot hold are dropped."""

    @abc.abstractmethod
    def basis(self, x: Tensor, shape: Sequence[int]) -> list[Tensor]:
        """Eigenfunctions at points `x` (dim, P), one factor (modes, P) per axis, as `evaluate` contracts them."""

    @abc.abstractmethod
    def trace(self, f: Callable[[Tensor], Tensor]) -> float:
        """The sum of f(lambda_k) over all modes of the domain, infinitely many, to about 1e-6 for smooth f.

        Raises:
            ValueError: If the sum diverges, is not positive or is not finite.
        """

    # ---- what follows from it -------------------------------------------------------------------------------------

    def weights(self, shape: Sequence[int], *, device=None, dtype: torch.dtype | None = None) -> Tensor:
        """Quadrature weights (*shape), which sum to 1."""
        shape = self.check_shape(shape)
        return torch.full(shape, 1.0 / math.prod(shape), device=device, dtype=dtype)

    def eigenvalues(self, shape: Sequence[int], *, device=None, dtype: torch.dtype | None = None) -> Tensor:
        """Eigenvalues of -Laplacian, in 1 / length^2, one per coefficient of a grid of this shape."""
        total = sum((k * step) ** 2 for k, step in zip(self.wavenumbers(shape), self._steps, strict=True))
        return total.to(device=device, dtype=dtype or torch.get_default_dtype())

    def filter(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """f(-Laplacian) x, projected on the grid's modes.

        Args:
            x: Field (B, C, *shape).
            f: Maps the eigenvalues (*coefficient_shape) to a multiplier that broadcasts against (B, C, *coefficient_shape):
                it may differ per sample and channel.
        """
        shape = self.check_field(x)
        c = self.analyze(x)
        gain = f(self.eigenvalues(shape, device=c.device, dtype=c.real.dtype))
        return self.synthesize(c * gain.to(c.real.dtype), shape).to(x.dtype)

    def resample(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """The same function on a grid of another shape; exact where both grids hold its modes, else truncated.

        For states, noise and comparisons. Images to train on are cell averages: see `Box.average`.
        """
        if tuple(shape) == self.check_field(x):
            return x
        return self.synthesize(self.analyze(x), shape).to(x.dtype)

    def pool(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """The change of grid for a network's local branches: cell averages on Box, `resample` elsewhere."""
        return self.resample(x, shape)

    def evaluate(self, x: Tensor, points: Tensor) -> Tensor:
        """The band-limited function with values `x`, at any points.

        Args:
            x: Field (B, C, *shape).
            points: (dim, *P), in the units of `lengths`.

        Returns:
            (B, C, *P).
        """
        shape = self.check_field(x)
        if points.ndim < 1 or points.shape[0] != self.dim:
            raise ValueError(
                f"{self._name}.evaluate: expected points of shape ({self.dim}, ...), one row per coordinate, "
                f"got {tuple(points.shape)}; transpose them if they are stored one point per row."
            )
        c = self.analyze(x)
        flat = points.to(device=c.device, dtype=c.real.dtype).flatten(1)
        chunk = max(1, 2**24 // max(1, c.numel() // c.shape[-1]))  # bounds the largest intermediate
        with torch.autocast(c.device.type, enabled=False):
            parts = [self._evaluate(c, self.basis(p, shape)) for p in flat.split(chunk, dim=1)]
        return torch.cat(parts, dim=-1).unflatten(-1, points.shape[1:]).to(x.dtype)

    @staticmethod
    def _evaluate(c: Tensor, basis: list[Tensor]) -> Tensor:
        values = c @ basis[-1]  # (B, C, k_1, .., k_{d-1}, P)
        for factor in reversed(basis[:-1]):
            values = (values * factor).sum(-2)
        return values.real if values.is_complex() else values

    def norm(self, x: Tensor) -> Tensor:
        """The L2 norm of each sample, (B,): the root of the mean over the domain of the sum over channels of |x|^2."""
        shape = self.check_field(x)
        return (x.square() * self.weights(shape, device=x.device, dtype=x.dtype)).flatten(1).sum(1).sqrt()

    # ---- checks ---------------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return type(self).__name__

    @property
    @abc.abstractmethod
    def _steps(self) -> tuple[float, ...]:
        """Spacing of the frequencies along each axis: eigenvalues are sum (k_i * step_i)^2."""

    def check_shape(self, shape: Sequence[int]) -> Shape:
        """`shape` as a tuple, or a ValueError unless it is `dim` positive integers."""
        out = tuple(shape)
        if len(out) != self.dim or not all(isinstance(n, int) and n > 0 for n in out):
            raise ValueError(
                f"{self._name}(dim={self.dim}): expected a grid of {self.dim} positive sizes, got {out}; "
                f"pass the spatial shape alone, without batch and channels."
            )
        return out

    def check_field(self, x: Tensor) -> Shape:
        """The spatial shape of a field (B, C, *shape), or a ValueError if `x` is not a real one of this dimension."""
        if x.ndim != self.dim + 2:
            raise ValueError(
                f"{self._name}(dim={self.dim}): expected a field (B, C, *spatial) with {self.dim} spatial axes, got shape "
                f"{tuple(x.shape)}; add the missing batch or channel axis, or choose the domain of that dimension."
            )
        if not x.is_floating_point():
            raise ValueError(
                f"{self._name}: expected a real floating-point field, got dtype {x.dtype}; convert it first, such as x.float()."
            )
        return self.check_shape(x.shape[2:])


@dataclass(frozen=True)
class Torus(Domain):
    """The periodic box; points i / n and the Fourier basis.

    Coefficients are `rfftn(norm="forward")` without an even grid's Nyquist frequency: complex, in FFT order
    (0, 1, .., K, -K, .., -1) with K = (n - 1) // 2 on all axes but the last, which holds 0 .. K.
    """

    def points(self, shape: Sequence[int], *, device=None, dtype: torch.dtype | None = None) -> Tensor:
        shape = self.check_shape(shape)
        axes = [torch.arange(n, device=device, dtype=dtype or torch.get_default_dtype()) / n for n in shape]
        return torch.stack(torch.meshgrid(*[a * v for a, v in zip(axes, self.lengths, strict=True)], indexing="ij"))

    def coefficient_shape(self, shape: Sequence[int]) -> Shape:
        *rest, last = ((n - 1) // 2 for n in self.check_shape(shape))
        return (*(2 * k + 1 for k in rest), last + 1)

    def wavenumbers(self, shape: Sequence[int]) -> list[Tensor]:
        *rest, last = self.coefficient_shape(shape)
        axes = [_signed(n) for n in rest] + [torch.arange(last)]
        return [_along(a.double(), i, self.dim) for i, a in enumerate(axes)]

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
        c = torch.fft.rfftn(_full_precision(x), dim=tuple(range(-self.dim, 0)), norm="forward")
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
        return _check_trace(_lattice_sum(f, self._steps))

    @property
    def _steps(self) -> tuple[float, ...]:
        return tuple(2 * math.pi / v for v in self.lengths)


@dataclass(frozen=True)
class Box(Domain):
    """The box with zero slope at its edges; cell centres (i + 1/2) / n and the cosine basis.

    Coefficients are real, k = 0 .. n - 1 on each axis (the type II cosine transform of the field, which is the Fourier
    transform of the field reflected at its edges with the edge repeated).
    """

    def points(self, shape: Sequence[int], *, device=None, dtype: torch.dtype | None = None) -> Tensor:
        shape = self.check_shape(shape)
        axes = [(torch.arange(n, device=device, dtype=dtype or torch.get_default_dtype()) + 0.5) / n for n in shape]
        return torch.stack(torch.meshgrid(*[a * v for a, v in zip(axes, self.lengths, strict=True)], indexing="ij"))

    def coefficient_shape(self, shape: Sequence[int]) -> Shape:
        return self.check_shape(shape)

    def wavenumbers(self, shape: Sequence[int]) -> list[Tensor]:
        return [_along(torch.arange(n).double(), i, self.dim) for i, n in enumerate(self.check_shape(shape))]

    def multiplicity(self, shape: Sequence[int], *, device=None, dtype: torch.dtype | None = None) -> Tensor:
        return torch.ones(self.check_shape(shape), device=device, dtype=dtype)

    def white(
        self, batch: Sequence[int], shape: Sequence[int], *, generator: Generators = None, device=None, dtype=None
    ) -> Tensor:
        return normals(batch, self.check_shape(shape), generator=generator, device=device, dtype=dtype)

    def analyze(self, x: Tensor) -> Tensor:
        shape = self.check_field(x)
        c = _full_precision(x)
        for axis, n in enumerate(shape, start=2):
            c = _cosine_transform(c.movedim(axis, -1), n).movedim(-1, axis)
        return c

    def synthesize(self, c: Tensor, shape: Sequence[int]) -> Tensor:
        for axis, n in enumerate(self.check_shape(shape), start=2):
            c = _inverse_cosine_transform(c.movedim(axis, -1), n).movedim(-1, axis)
        return c

    def basis(self, x: Tensor, shape: Sequence[int]) -> list[Tensor]:
        factors = []
        for k, coordinate, step in zip(self.wavenumbers(shape), x, self._steps, strict=True):
            factor = (k.flatten().to(x)[:, None] * (coordinate * step)).cos() * math.sqrt(2)
            factors.append(torch.cat([torch.ones_like(factor[:1]), factor[1:]]))
        return factors

    def trace(self, f: Callable[[Tensor], Tensor]) -> float:
        # A sum over k >= 0 is, axis by axis, half the sum over all k plus half the term k = 0.
        subsets = itertools.chain.from_iterable(itertools.combinations(self._steps, m) for m in range(self.dim + 1))
        return _check_trace(sum(_lattice_sum(f, steps) for steps in subsets) / 2**self.dim)

    def average(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Cell averages on another grid of a field that is constant on each of its own cells.

        The exact mean over each new cell, cells that overlap it in part counted in proportion: the way images are
        made smaller. It multiplies mode k by sinc(k / 2n) per axis and folds what lies above the new grid.

        Args:
            x: Field (B, C, *old).
            shape: The new grid, of any size.

        Returns:
            (B, C, *shape).
        """
        self.check_field(x)
        for axis, n in enumerate(self.check_shape(shape), start=2):
            x = _average(x, axis, n)
        return x

    def pool(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        return self.average(x, shape)

    @property
    def _steps(self) -> tuple[float, ...]:
        return tuple(math.pi / v for v in self.lengths)


# ---- random numbers -----------------------------------------------------------------------------------------------


def seeds(batch: int, generator: torch.Generator | Sequence[torch.Generator]) -> list[int]:
    """One integer per sample, drawn from the generator, or from each sample's own."""
    if isinstance(generator, torch.Generator):
        generator = [generator] * batch
    if len(generator) != batch:
        raise ValueError(
            f"expected one generator, or one per sample: {batch}, got {len(generator)}; "
            f"pass [torch.Generator().manual_seed(s) for s in ...] of that length."
        )
    return [int(torch.randint(2**62, (), generator=g, device=g.device)) for g in generator]


def normals(
    batch: Sequence[int], shape: Sequence[int], *, generator: Generators = None, device=None, dtype=None
) -> Tensor:
    """Independent standard normals (*batch, *shape), batch = (B, C).

    With a generator, entry j of channel c of a sample depends on the sample's seed, c and j alone: they are drawn by
    shells of max(j), so a larger shape continues a smaller one. Drawn on the CPU in float64 whatever device and dtype.
    """
    if generator is None:
        return torch.randn(*batch, *shape, device=device, dtype=dtype)
    side, dim = max(shape), len(shape)
    order = _shell_order(side, dim)
    out = torch.empty(*batch, side**dim, dtype=torch.float64)
    for sample, seed in zip(out, seeds(batch[0], generator), strict=True):
        for number, channel in enumerate(sample):
            channel[order] = torch.from_numpy(_stream(seed, number).standard_normal(side**dim))
    out = out.unflatten(-1, (side,) * dim)[(..., *(slice(0, n) for n in shape))]
    return out.to(device=device, dtype=dtype or torch.get_default_dtype())


def uniforms(batch: int, *, generator: Generators = None) -> Tensor:
    """Independent uniforms on [0, 1), (batch,), float64, on the CPU; with a generator, each depends on its sample's seed alone."""
    if generator is None:
        return torch.rand(batch, dtype=torch.float64)
    return torch.tensor([_stream(seed, 0).random() for seed in seeds(batch, generator)], dtype=torch.float64)


def _stream(seed: int, number: int) -> np.random.Generator:
    """numpy's Philox, as torch's CPU generator keeps 32 bits of a seed only, and torch.randn has no prefix property."""
    return np.random.Generator(np.random.Philox(key=[seed, number]))


def _cached(make: Callable) -> Callable:
    """Remember constant tensors; made outside inference mode, so that autograd may use them later."""
    return functools.lru_cache(maxsize=128)(torch.inference_mode(False)(make))


@_cached
def _shell_order(side: int, dim: int) -> Tensor:
    """Flat positions in a cube of this side, sorted by max(j), ties in lexicographic order (the same in any cube)."""
    axes = torch.meshgrid(*[torch.arange(side)] * dim, indexing="ij")
    return torch.stack(axes).amax(0).flatten().argsort(stable=True)


# ---- transforms ---------------------------------------------------------------------------------------------------


def _full_precision(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()  # FFTs know no bfloat16, and only some float16 sizes


def _signed(n: int) -> Tensor:
    """0, 1, .., K, -K, .., -1 for odd n = 2K + 1."""
    return torch.cat([torch.arange(n // 2 + 1), torch.arange(-(n // 2), 0)])


def _along(a: Tensor, axis: int, dim: int) -> Tensor:
    return a.reshape([-1 if i == axis else 1 for i in range(dim)])


def _refit(c: Tensor, axis: int, n: int) -> Tensor:
    """Coefficients in FFT order with n entries along an axis; frequencies that either length lacks become zero."""
    band = min((c.shape[axis] - 1) // 2, (n - 1) // 2)
    parts = [c.narrow(axis, 0, band + 1)]
    if gap := n - (2 * band + 1):
        parts.append(c.new_zeros([gap if i == axis else m for i, m in enumerate(c.shape)]))
    parts.append(c.narrow(axis, c.shape[axis] - band, band))
    return torch.cat(parts, dim=axis)


@_cached
def _half_sample_shift(modes: int, n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """exp(-i pi k / 2n) for k < modes, times sqrt(2) for k > 0: from a reflected field's spectrum to the cosine basis."""
    phase = torch.arange(modes, dtype=torch.float64) * (math.pi / (2 * n))
    shift = torch.complex(phase.cos(), -phase.sin()) * math.sqrt(2)
    shift[0] = 1.0
    return shift.to(device=device, dtype=torch.complex128 if dtype == torch.float64 else torch.complex64)


def _cosine_transform(x: Tensor, n: int) -> Tensor:
    spectrum = torch.fft.rfft(torch.cat([x, x.flip(-1)], dim=-1), norm="forward")[..., :n]
    return (spectrum * _half_sample_shift(n, n, x.device, x.dtype)).real


def _inverse_cosine_transform(c: Tensor, n: int) -> Tensor:
    c = c[..., :n]
    spectrum = c / _half_sample_shift(c.shape[-1], n, c.device, c.dtype)
    return torch.fft.irfft(spectrum, n=2 * n, norm="forward")[..., :n]


def _average(x: Tensor, axis: int, n: int) -> Tensor:
    old = x.shape[axis]
    if old == n:
        return x
    if old % n == 0:
        return x.unflatten(axis, (n, old // n)).mean(axis + 1)
    if n % old == 0:
        return x.repeat_interleave(n // old, dim=axis)
    overlap = _overlaps(old, n).to(device=x.device, dtype=_full_precision(x).dtype)
    with torch.autocast(x.device.type, enabled=False):
        return (_full_precision(x).movedim(axis, -1) @ overlap.T).movedim(-1, axis).to(x.dtype)


@_cached
def _overlaps(old: int, new: int) -> Tensor:
    """(new, old): the share of each new cell that each old cell covers."""
    edges = torch.arange(new, dtype=torch.float64)[:, None] * old, torch.arange(old, dtype=torch.float64) * new
    overlap = torch.minimum(edges[0] + old, edges[1] + new) - torch.maximum(edges[0], edges[1])
    return overlap.clamp(min=0) / old


# ---- sums over infinitely many modes ------------------------------------------------------------------------------


def _lattice_sum(f: Callable[[Tensor], Tensor], steps: Sequence[float]) -> float:
    """The sum over all integers k of f(sum (k_i step_i)^2).

    A smooth window splits it: the window's part is summed term by term; the rest varies slowly over a lattice cell, so
    that it equals its integral almost to rounding (Poisson summation), a radial one, taken in the logarithm of the radius.
    """
    dim = len(steps)
    zero = torch.zeros(1, dtype=torch.float64)
    if dim == 0:
        return float(f(zero).sum())
    radius = max(steps) * {1: 2000, 2: 200, 3: 40}[dim]

    def window(r: Tensor) -> Tensor:
        return 0.5 * torch.erfc(12 * (r / radius - 0.6))

    lattice = zero
    for i, step in enumerate(steps):
        k = torch.arange(-math.ceil(1.1 * radius / step), math.ceil(1.1 * radius / step) + 1, dtype=torch.float64)
        lattice = lattice + _along((k * step) ** 2, i, dim)
    near = float((f(lattice) * window(lattice.sqrt())).sum())

    sphere = 2 * math.pi ** (dim / 2) / math.gamma(dim / 2)
    u = torch.linspace(0, 100, 20001, dtype=torch.float64)  # r = 0.1 radius e^u: 43 decades
    r = 0.1 * radius * u.exp()
    integrand = sphere / math.prod(steps) * r**dim * f(r.square()) * (1 - window(r))
    far = float(torch.trapezoid(integrand, u))
    if float(integrand[-1]) > 0:  # what is left beyond follows its power law
        rate = math.log(float(integrand[-2001] / integrand[-1])) / 10
        if rate < 1e-3:
            return math.inf
        far += float(integrand[-1]) / rate
    return near + far


def _check_trace(total: float) -> float:
    if not (math.isfinite(total) and total > 0):
        raise ValueError(
            f"expected a spectrum with a finite, positive sum over all modes, got {total}; use a smoother one (Matern: "
            f"smoothness > 0), or WhiteNoise(domain, reference) for noise that is white."
        )
    return total
