"""What every domain promises: transforms, filters, changes of grid, traces."""

from __future__ import annotations

import math

import pytest
import torch
from eigenfunctions import eigenfunctions, on_grid, project
from parts import DOMAINS, pairwise
from torch import Tensor

from fnodiff.domain import Sphere

SHAPES = {1: [(8,), (9,)], 2: [(8, 8), (9, 12), (16, 5)], 3: [(4, 5, 6), (7, 4, 4)]}
SPHERE_SHAPES = [(8, 16), (9, 17), (16, 9)]
DOMAIN_SHAPES = [
    (domain, shape)
    for domain in DOMAINS
    for shape in (SPHERE_SHAPES if isinstance(domain, Sphere) else SHAPES[domain.dim])
]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("domain", "shape"), DOMAIN_SHAPES, ids=str)
class TestDomain:
    def test_synthesize_analyze_projects_on_the_modes_of_the_grid(self, domain, shape):
        x = torch.randn(2, 3, *shape)
        phi, _ = on_grid(domain, shape)
        coefficients = project(domain, x, phi)
        projected = domain.synthesize(domain.analyze(x), shape)
        torch.testing.assert_close(projected, (coefficients @ phi).unflatten(-1, shape))
        torch.testing.assert_close(domain.synthesize(domain.analyze(projected), shape), projected)

    def test_parseval_on_what_it_keeps(self, domain, shape):
        x = torch.randn(2, 3, *shape)
        c = domain.analyze(x)
        assert c.shape == (2, 3, *domain.coefficient_shape(shape))
        kept = domain.synthesize(c, shape)
        torch.testing.assert_close(
            (domain.multiplicity(shape) * c.abs() ** 2).flatten(1).sum(1).sqrt(), domain.norm(kept)
        )
        mean_square = project(domain, kept.square(), torch.ones(1, math.prod(shape))).sum((1, 2))
        torch.testing.assert_close(domain.norm(kept).square(), mean_square)
        torch.testing.assert_close(domain.weights(shape).sum(), torch.tensor(1.0))

    def test_filter_is_a_function_of_the_laplacian(self, domain, shape):
        x = torch.randn(2, 3, *shape)
        phi, eigenvalues = on_grid(domain, shape)

        def f(value: Tensor) -> Tensor:
            return 1 / (1 + value / 50)

        expected = (project(domain, x, phi) * f(eigenvalues)) @ phi
        torch.testing.assert_close(domain.filter(x, f), expected.unflatten(-1, shape))
        gain = torch.rand(2, 3, *(1,) * domain.dim)
        torch.testing.assert_close(
            domain.filter(x, lambda value: gain * f(value)), gain * domain.filter(x, f), msg="per sample and channel"
        )

    def test_resample_is_exact_up_and_back(self, domain, shape):
        x = domain.synthesize(domain.analyze(torch.randn(2, 1, *shape)), shape)
        finer = tuple(n + 3 + 4 * i for i, n in enumerate(shape))
        phi, _ = on_grid(domain, shape)
        phi_finer, _ = eigenfunctions(domain, shape, domain.points(finer).flatten(1))
        up = domain.resample(x, finer)
        torch.testing.assert_close(up, (project(domain, x, phi) @ phi_finer).unflatten(-1, finer))
        torch.testing.assert_close(domain.resample(up, shape), x)

    def test_resample_truncates_on_the_way_down(self, domain, shape):
        finer = tuple(2 * n + 1 for n in shape)
        x = torch.randn(2, 1, *finer)
        down = domain.resample(x, shape)
        torch.testing.assert_close(domain.resample(domain.resample(down, finer), shape), down)
        phi, _ = eigenfunctions(domain, shape, domain.points(finer).flatten(1))
        residual = project(domain, x - domain.resample(down, finer), phi)
        torch.testing.assert_close(residual, torch.zeros_like(residual))

    def test_filter_commutes_with_resample(self, domain, shape):
        x = domain.synthesize(domain.analyze(torch.randn(2, 1, *shape)), shape)
        finer = tuple(n + 5 for n in shape)

        def f(value: Tensor) -> Tensor:
            return (-value / 200).exp()

        torch.testing.assert_close(
            domain.filter(domain.resample(x, finer), f), domain.resample(domain.filter(x, f), finer)
        )

    def test_evaluate_anywhere(self, domain, shape):
        x = domain.synthesize(domain.analyze(torch.randn(2, 3, *shape)), shape)
        points = torch.rand(domain.dim, 5, 2) * torch.tensor(domain.lengths)[:, None, None]
        phi, _ = on_grid(domain, shape)
        there, _ = eigenfunctions(domain, shape, points.flatten(1))
        expected = (project(domain, x, phi) @ there).unflatten(-1, (5, 2))
        torch.testing.assert_close(domain.evaluate(x, points), expected)
        torch.testing.assert_close(domain.evaluate(x, domain.points(shape)), x)

    def test_gradients(self, domain, shape):
        x = torch.randn(1, 1, *shape, requires_grad=True)
        finer = tuple(n + 2 for n in shape)

        def both(v: Tensor) -> Tensor:
            return domain.resample(domain.filter(v, lambda e: 1 / (1 + e)), finer)

        # The map is linear: a random direction of the Jacobian, which fast_mode compares, tells it from any other.
        assert torch.autograd.gradcheck(both, x, fast_mode=True)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_other_precisions_agree(self, domain, shape, dtype):
        x = torch.randn(1, 1, *shape).to(dtype)
        out = domain.filter(x, lambda e: 1 / (1 + e))
        assert out.dtype == dtype
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(
            out.double(), domain.filter(x.double(), lambda e: 1 / (1 + e)), atol=tolerance, rtol=tolerance
        )

    def test_white_noise_coefficients_have_unit_variance_and_are_those_of_a_real_field(self, domain, shape):
        c = domain.white((4000, 1), shape)
        torch.testing.assert_close(domain.analyze(domain.synthesize(c, shape)), c)
        error = (c.abs() ** 2).mean((0, 1)) - 1
        assert float(error.abs().max()) < 5.5 * math.sqrt(2 / 4000)


@pytest.mark.usefixtures("float64")
class TestTrace:
    @pytest.mark.parametrize("domain", DOMAINS, ids=str)
    def test_against_the_sum_itself(self, domain):
        shape = (300, 599) if isinstance(domain, Sphere) else (61,) * domain.dim

        def f(value: Tensor) -> Tensor:
            return (-value / 300).exp()

        brute = float((domain.multiplicity(shape) * f(domain.eigenvalues(shape))).sum())
        assert domain.trace(f) == pytest.approx(brute, rel=1e-6)

    @pytest.mark.parametrize(("domain", "excess"), pairwise(DOMAINS, [0.01, 0.1, 0.5]), ids=str)
    def test_slow_tails_are_summed_to_the_end(self, domain, excess):
        # Between two exponents the derivative of the trace is known by finite differences only if the tail is right.
        def trace(decay: float, scale: float) -> float:
            return domain.trace(lambda value: (scale + value) ** -decay)

        decay = domain.dim / 2 + excess
        h = 1e-3
        slope = (trace(decay, 40 + h) - trace(decay, 40 - h)) / (2 * h)
        assert slope == pytest.approx(-decay * trace(decay + 1, 40), rel=1e-4)

    @pytest.mark.parametrize("domain", DOMAINS, ids=str)
    def test_divergence_is_an_error(self, domain):
        with pytest.raises(ValueError, match="smoother"):
            domain.trace(lambda value: (1 + value) ** -(domain.dim / 2))
