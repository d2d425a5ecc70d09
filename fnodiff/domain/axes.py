"""Along one axis: Fourier modes of periodic ones, cosines of walled ones, averages over cells and lines between points."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fnodiff.domain.base import cell_bounds, cell_shares, product_along
from fnodiff.domain.constants import cached

MOST_BY_PRODUCT = 256
"""Axes of up to as many cells are transformed by a product with a matrix of cosines: faster there than a reflected FFT."""


# ---- periodic axes ------------------------------------------------------------------------------------------------


def signed(n: int) -> Tensor:
    """0, 1, .., K, -K, .., -1 for odd n = 2K + 1."""
    return torch.cat([torch.arange(n // 2 + 1), torch.arange(-(n // 2), 0)])


def refit(c: Tensor, axis: int, n: int) -> Tensor:
    """Coefficients in FFT order with n entries along an axis; frequencies that either length lacks become zero."""
    band = min((c.shape[axis] - 1) // 2, (n - 1) // 2)
    parts = [c.narrow(axis, 0, band + 1)]
    if gap := n - (2 * band + 1):
        parts.append(c.new_zeros([gap if i == axis else m for i, m in enumerate(c.shape)]))
    parts.append(c.narrow(axis, c.shape[axis] - band, band))
    return torch.cat(parts, dim=axis)


# ---- walled axes --------------------------------------------------------------------------------------------------


@cached
def _half_sample_shift(modes: int, n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """exp(-i pi k / 2n) for k < modes, times sqrt(2) for k > 0: from a reflected field's spectrum to the cosine basis."""
    phase = torch.arange(modes, dtype=torch.float64) * (math.pi / (2 * n))
    shift = torch.complex(phase.cos(), -phase.sin()) * math.sqrt(2)
    shift[0] = 1.0
    return shift.to(device=device, dtype=torch.complex128 if dtype == torch.float64 else torch.complex64)


@cached
def _cosines(modes: int, n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(modes, n): the basis functions at the cell centres."""
    x = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    waves = (math.pi * torch.arange(modes, dtype=torch.float64)[:, None] * x).cos() * math.sqrt(2)
    waves[0] = 1.0
    return waves.to(device=device, dtype=dtype)


@cached
def _resampling(n: int, m: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(n, m): from the values at n cell centres to those of the same cosines, as many as both hold, at m."""
    held = min(n, m)
    there, back = (_cosines(held, size, torch.device("cpu"), torch.float64) for size in (n, m))
    return (there.t() @ back / n).to(device=device, dtype=dtype)


def resample_axis(x: Tensor, axis: int, m: int) -> Tensor:
    """One product, which reads its input and writes its result as they lie in memory."""
    before, n, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    matrix = _resampling(n, m, x.device, x.dtype)
    if not after:
        return torch.mm(x.reshape(-1, n), matrix).reshape(*before, m)
    columns = x.reshape(math.prod(before), n, math.prod(after))
    return torch.bmm(matrix.t().expand(len(columns), m, n), columns).reshape(*before, m, *after)


def cosine_transform(x: Tensor, axis: int) -> Tensor:
    """Values at cell centres to coefficients of 1 and sqrt(2) cos(pi k x), along one axis."""
    x, n = x.movedim(axis, -1), x.shape[axis]
    if n <= MOST_BY_PRODUCT:
        c = x @ (_cosines(n, n, x.device, x.dtype).t() / n)
    else:
        spectrum = torch.fft.rfft(torch.cat([x, x.flip(-1)], dim=-1), norm="forward")[..., :n]
        c = (spectrum * _half_sample_shift(n, n, x.device, x.dtype)).real
    return c.movedim(-1, axis)


def inverse_cosine_transform(c: Tensor, axis: int, n: int) -> Tensor:
    """Such coefficients to values at n cell centres; coefficients that n cannot hold are dropped."""
    c = c.movedim(axis, -1)[..., :n]
    if n <= MOST_BY_PRODUCT:
        x = c @ _cosines(c.shape[-1], n, c.device, c.dtype)
    else:
        spectrum = c / _half_sample_shift(c.shape[-1], n, c.device, c.dtype)
        x = torch.fft.irfft(spectrum, n=2 * n, norm="forward")[..., :n]
    return x.movedim(-1, axis)


# ---- cells and lines ----------------------------------------------------------------------------------------------


def average_axis(x: Tensor, axis: int, n: int, periodic: bool) -> Tensor:
    """Averages over n cells of what is constant on each of its own: cells between walls, or around points i / n."""
    old = x.shape[axis]
    if old == n:
        return x
    if not periodic and old % n == 0:
        return x.unflatten(axis, (n, old // n)).mean(axis + 1)
    if not periodic and n % old == 0:
        return x.repeat_interleave(n // old, dim=axis)
    return product_along(x, axis, _overlaps(old, n, periodic))


@cached
def _overlaps(old: int, new: int, periodic: bool) -> Tensor:
    """(new, old): the share of each new cell that each old cell covers."""
    return cell_shares(cell_bounds(old, periodic), cell_bounds(new, periodic), periodic)


@cached
def lines(old: int, new: int) -> Tensor:
    """(new, old): linear interpolation between the points i / n of a periodic axis."""
    place = torch.arange(new, dtype=torch.float64) * old / new
    left = place.floor()
    matrix = torch.zeros(new, old, dtype=torch.float64)
    rows = torch.arange(new)
    matrix[rows, left.long()] += 1 - (place - left)
    matrix[rows, (left.long() + 1) % old] += place - left
    return matrix
