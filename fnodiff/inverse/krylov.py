"""Linear systems that are known by what they do to a vector."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fnodiff.domain import in_double


def conjugate_residuals(
    operator: Callable[[Tensor], Tensor], b: Tensor, *, iterations: int, tolerance: float
) -> Tensor:
    """v with operator(v) = b per sample, (B, m), by the smallest residual that some applications of the operator can reach.

    The operator should be positive definite, as covariances are; where a network's is not quite, nor symmetric, conjugate
    gradients diverge, and this still lowers the residual at every step. It stops when every sample's is below `tolerance`
    times |b|, or after `iterations`: up to m are needed. Its own arithmetic is in float64, on the CPU if the
    device has none.

    Source: Eisenstat, Elman, Schultz (1983), Variational iterative methods for nonsymmetric systems of linear equations.
    """
    dtype, device, b = b.dtype, b.device, in_double(b)
    v, r = torch.zeros_like(b), b.clone()
    directions: list[tuple[Tensor, Tensor]] = []
    enough = tolerance * b.norm(dim=1)
    for _ in range(iterations):
        if bool((r.norm(dim=1) <= enough).all()):
            break
        p, q = r, in_double(operator(r.to(dtype).to(device)))
        for _ in range(2):  # once more against rounding
            for old_p, old_q in directions:
                share = (q * old_q).sum(1, keepdim=True)
                p, q = p - share * old_p, q - share * old_q
        length = q.norm(dim=1, keepdim=True).clamp(min=torch.finfo(q.dtype).tiny)
        p, q = p / length, q / length
        directions.append((p, q))
        step = (r * q).sum(1, keepdim=True)
        v, r = v + step * p, r - step * q
    return v.to(dtype).to(device)


def solve_with_covariance(
    covariance: Callable[[Tensor], tuple[Tensor, Tensor]],
    b: Tensor,
    largest: Tensor,
    *,
    iterations: int,
    tolerance: float,
) -> tuple[Tensor, Tensor]:
    """v, (B, m), and d = P H^T v, where v + H P H^T v = b: per sample, for a linear H and a P that is nearly a covariance.

    As a network's derivatives are. The more exactly the system is solved as it stands, the farther d is off where P's errors
    decide. But d also minimises

        |b - H d|^2 + R,    R = <H^T v, P H^T v> = <d, P^-1 d>,

    and R is mended by what every covariance obeys: it is symmetric and not negative, and at least |d|^2 / `largest`. For a
    true covariance that is no larger nothing changes.

    It stops when every sample's residual outside of the directions that were tried is below `tolerance` times |b|, or after
    `iterations`; more than m are not needed. Its own arithmetic is in float64, on the CPU if the device has none. Samples
    that are not finite come back as NaN, and others are not moved by them.

    Args:
        covariance: v -> P H^T v, (B, ...), and H P H^T v, (B, m), linear in v.
        b: (B, m).
        largest: A bound of P's eigenvalues, () or (B,).
        iterations: At most, each one call.
        tolerance: Relative.

    Source: Saad (2003), Iterative methods for sparse linear systems, 6.4 (Krylov subspaces by full orthogonalization); R is
    the library's own.
    """
    dtype, device, b, largest = b.dtype, b.device, in_double(b), in_double(largest).reshape(-1, 1, 1)
    bad = ~b.isfinite().all(1, keepdim=True)
    b = torch.where(bad, 0.0, b)
    size, most = b.norm(dim=1, keepdim=True), max(1, min(iterations, b.shape[1]))
    basis = _units(b, size, 0.0)[:, None]  # (B, k, m), orthonormal
    seen, moves = b.new_zeros(len(b), 0, b.shape[1]), None
    lengths = b.new_zeros(len(b), 0, 0)  # <d_i, d_j>
    for k in range(1, most + 1):
        d, new = covariance(basis[:, -1].to(dtype).to(device))
        shape, d, new = d.shape, d.flatten(1)[:, None], in_double(new)
        bad = bad | ~(new.isfinite().all(1, keepdim=True) & in_double(d).isfinite().all(2))
        d, new = torch.where(bad[..., None].to(d.device), 0.0, d), torch.where(bad, 0.0, new)
        moves = d if moves is None else torch.cat([moves, d], dim=1)
        row = in_double(moves @ d.mT)  # (B, k, 1)
        lengths = torch.cat([torch.cat([lengths, row[:, :-1]], dim=2), row.mT], dim=1)
        seen, least = torch.cat([seen, new[:, None]], dim=1), 1e-12 * new.norm(dim=1, keepdim=True)
        for _ in range(2):  # once more against rounding
            new = new - ((new[:, None] * basis).sum(2)[..., None] * basis).sum(1)
        left = new.norm(dim=1, keepdim=True)
        if k <= 8 or k % 4 == 0 or k == most:
            root = _root(_penalty(basis @ seen.mT, lengths / largest))
            system, wanted = torch.cat([seen.mT, root], dim=1), torch.cat([b, b.new_zeros(len(b), k)], dim=1)
            shares = torch.linalg.pinv(system, rtol=1e-14) @ wanted[..., None]  # (B, k, 1)
            if k == most or bool((left * shares[:, -1].abs() <= tolerance * size).all()):
                break
        basis = torch.cat([basis, _units(new, left, least)[:, None]], dim=1)
    v, d = ((in_double(x).mT @ shares)[..., 0] for x in (basis, moves))
    v, d = (torch.where(bad, torch.nan, x).to(dtype).to(device) for x in (v, d))
    return v, d.reshape(shape)


def _penalty(within: Tensor, least: Tensor) -> Tensor:
    """R on the directions, (B, k, k), from <q_i, H P H^T q_j> and what it is at least, which is not negative."""
    symmetric = (within + within.mT) / 2
    values, vectors = torch.linalg.eigh(least - symmetric)
    return symmetric + (vectors * values.clamp(min=0)[:, None]) @ vectors.mT


def _root(matrix: Tensor) -> Tensor:
    """A with A^T A = matrix, which is symmetric and not negative."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()[:, None]).mT


def _units(vectors: Tensor, length: Tensor, least: Tensor | float) -> Tensor:
    """(B, m) of length one, or 0 where no more than rounding is left."""
    return torch.where(length > least, vectors / length.clamp(min=torch.finfo(vectors.dtype).tiny), 0.0)
