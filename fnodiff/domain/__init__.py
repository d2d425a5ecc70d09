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
Sphere latitude, longitude  real spherical harmonics                              degrees l < L(grid)
====== ==================== ===================================================== ==========================

`Product` has axes of both kinds, those of a Torus and those of a Box.
"""

from fnodiff.domain.arrays import has_double, in_double, moved, on_device
from fnodiff.domain.base import Domain, Shape, grid_name
from fnodiff.domain.box import Box
from fnodiff.domain.draws import Generators, normals, seeds, uniforms
from fnodiff.domain.product import Product
from fnodiff.domain.sphere import Sphere
from fnodiff.domain.torus import Torus
from fnodiff.expected import as_floats, as_tensor, native

__all__ = [
    "Box",
    "Domain",
    "Generators",
    "Product",
    "Shape",
    "Sphere",
    "Torus",
    "as_floats",
    "as_tensor",
    "grid_name",
    "has_double",
    "in_double",
    "moved",
    "native",
    "normals",
    "on_device",
    "seeds",
    "uniforms",
]
