"""Eigenfunctions of the Laplacian on a grid, written out: what a domain's transforms are held against."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from fnodiff.domain import Domain, Sphere


def eigenfunctions(domain: Domain, shape: tuple[int, ...], points: Tensor) -> tuple[Tensor, Tensor]:
    """All real eigenfunctions a grid holds, at points (dim, P), written out: (modes, P); and their eigenvalues."""
    if isinstance(domain, Sphere):
        return harmonics(domain, shape, points)
    per_axis = []
    for n, edge, length, x in zip(shape, domain.edges, domain.lengths, points, strict=True):
        axis = [(torch.ones_like(x), 0.0)]
        if edge == "periodic":
            for k in range(1, (n + 1) // 2):
                w = 2 * math.pi * k / length
                axis += [(math.sqrt(2) * (w * x).cos(), w * w), (math.sqrt(2) * (w * x).sin(), w * w)]
        else:
            axis += [
                (math.sqrt(2) * (math.pi * k / length * x).cos(), (math.pi * k / length) ** 2) for k in range(1, n)
            ]
        per_axis.append(axis)
    modes = list(itertools.product(*per_axis))
    functions = torch.stack([math.prod([f for f, _ in mode[1:]], start=mode[0][0]) for mode in modes])
    return functions, torch.tensor([sum(value for _, value in mode) for mode in modes])


def harmonics(domain: Sphere, shape: tuple[int, ...], points: Tensor) -> tuple[Tensor, Tensor]:
    """Real spherical harmonics from derivatives of Legendre's polynomials, (1 - x^2)^(m/2) d^m P_l / dx^m."""
    rows, columns = shape
    degrees = min(rows if domain.grid == "legendre-gauss" else (rows + 1) // 2, (columns + 1) // 2)
    x, functions, eigenvalues = points[0].cos(), [], []
    for degree in range(degrees):
        for m in range(degree + 1):
            derivative = np.polynomial.legendre.Legendre.basis(degree).deriv(m)
            norm = math.sqrt((2 * degree + 1) * math.factorial(degree - m) / math.factorial(degree + m))
            p = torch.from_numpy(derivative(x.numpy())) * norm * (1 - x.square()).clamp(min=0) ** (m / 2)
            waves = [(m * points[1]).cos(), (m * points[1]).sin()] if m else [torch.ones_like(x)]
            functions += [(math.sqrt(2) if m else 1) * p * wave for wave in waves]
            eigenvalues += [float(degree * (degree + 1))] * len(waves)
    return torch.stack(functions), torch.tensor(eigenvalues)


def project(domain: Domain, x: Tensor, phi: Tensor) -> Tensor:
    """Coefficients (B, C, modes) by quadrature: uniform on straight domains, written out on the sphere."""
    if not isinstance(domain, Sphere):
        return x.flatten(2) @ phi.T / math.prod(x.shape[2:])
    rows, columns = x.shape[2:]
    if domain.grid == "legendre-gauss":
        weights = torch.from_numpy(np.polynomial.legendre.leggauss(rows)[1]) / 2
    else:  # the weights that integrate all polynomials of cos(theta) up to the grid's degree
        centres = domain.grid == "cell-centred"
        theta = (np.arange(rows) + 0.5) * np.pi / rows if centres else np.linspace(0, np.pi, rows)
        nodes = np.polynomial.legendre.legvander(np.cos(theta), rows - 1)
        weights = torch.from_numpy(np.linalg.solve(nodes.T, np.eye(rows)[0]))
    return (x * weights[:, None] / columns).flatten(2) @ phi.T


def on_grid(domain: Domain, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Those functions on the grid, (modes, points), and their eigenvalues."""
    return eigenfunctions(domain, shape, domain.points(shape).flatten(1))
