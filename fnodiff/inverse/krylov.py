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
