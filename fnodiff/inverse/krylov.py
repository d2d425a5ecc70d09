"""Linear systems that are known by what they do to a vector."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fnodiff.domain import in_double

LARGEST = 4.0  # how much larger than what a first direction shows a covariance's eigenvalues may be


def solve_with_covariance(
    covariance: Callable[[Tensor], tuple[Tensor, Tensor]], b: Tensor, *, iterations: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """v with v + H P H^T v = b per sample, (B, m), and d = P H^T v, for a covariance P and a linear H.

    The covariance that a network's Jacobian gives is one only nearly. Then the solution of the system itself may be far
    off, and d with it, the more so the better the system is solved. But v also minimises

        |b - H d|^2 + R(v),    R(v) = <H^T v, P H^T v> = <d, P^-1 d>,

    and what every covariance obeys mends R: it is symmetric and not negative, and at least |d|^2 over the largest eigenvalue
    of P. For a true covariance v is the system's solution, found as by conjugate gradients. Of the largest eigenvalue is
    known what the directions show; `LARGEST` times that is taken.

    It stops when every sample's residual outside of the directions is below `tolerance` times |b|, or after `iterations`;
    more than m are not needed.
    Its own arithmetic is in float64, on the CPU if the device has none.

    Args:
        covariance: v -> P H^T v, (B, ...), and H P H^T v, (B, m).
        b: (B, m).
        iterations: At most, each one call.
        tolerance: Relative.

    Source: Saad (2003), Iterative methods for sparse linear systems, 6.4 (Krylov subspaces by full orthogonalization); R is
    the library's own.
    """
    dtype, device, b = b.dtype, b.device, in_double(b)
    size, most = b.norm(dim=1, keepdim=True), min(iterations, b.shape[1])
    basis = _units(b, size, 0.0)[:, None]  # (B, k, m), orthonormal
    seen, moves = b.new_zeros(len(b), 0, b.shape[1]), None
    for k in range(1, most + 1):
        d, new = covariance(basis[:, -1].to(dtype).to(device))
        shape, d, new = d.shape, in_double(d).flatten(1)[:, None], in_double(new)
        moves = d if moves is None else torch.cat([moves, d], dim=1)
        seen, least = torch.cat([seen, new[:, None]], dim=1), 1e-12 * new.norm(dim=1, keepdim=True)
        for _ in range(2):  # once more against rounding
            new = new - ((new[:, None] * basis).sum(2)[..., None] * basis).sum(1)
        left = new.norm(dim=1, keepdim=True)
        if k <= 8 or k % 4 == 0 or k == most:
            root = _root(_penalty(basis @ seen.mT, moves @ moves.mT))
            system, wanted = torch.cat([seen.mT, root], dim=1), torch.cat([b, b.new_zeros(len(b), k)], dim=1)
            shares = torch.linalg.pinv(system, rtol=1e-14) @ wanted[..., None]  # (B, k, 1)
            if k == most or bool((left * shares[:, -1].abs() <= tolerance * size).all()):
                break
        basis = torch.cat([basis, _units(new, left, least)[:, None]], dim=1)
    v, moved = b - (seen.mT @ shares)[..., 0], (moves.mT @ shares).reshape(shape)
    return v.to(dtype).to(device), moved.to(dtype).to(device)


def _penalty(within: Tensor, lengths: Tensor) -> Tensor:
    """R on the directions, (B, k, k), from <q_i, H P H^T q_j> and <P H^T q_i, P H^T q_j>."""
    values, vectors = torch.linalg.eigh((within + within.mT) / 2)
    covariance = _matrix(vectors, values)
    top, most = vectors[..., -1:], values[:, -1, None, None]
    largest = LARGEST * (top.mT @ lengths @ top) / most.clamp(min=torch.finfo(most.dtype).tiny)
    values, vectors = torch.linalg.eigh(lengths / largest.clamp(min=torch.finfo(most.dtype).tiny) - covariance)
    return covariance + _matrix(vectors, values)


def _matrix(vectors: Tensor, values: Tensor) -> Tensor:
    """Of these eigenvectors and the eigenvalues above 0."""
    return (vectors * values.clamp(min=0)[:, None]) @ vectors.mT


def _root(matrix: Tensor) -> Tensor:
    """A with A^T A = matrix, which is symmetric and not negative."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()[:, None]).mT


def _units(vectors: Tensor, length: Tensor, least: Tensor | float) -> Tensor:
    """(B, m) of length one, or 0 where no more than rounding is left."""
    return torch.where(length > least, vectors / length.clamp(min=torch.finfo(vectors.dtype).tiny), 0.0)
