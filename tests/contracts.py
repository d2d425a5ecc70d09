"""What every domain, noise, schedule, scaling, solver, plan, wrapper and observation promises.

A new one joins by a line in one of these lists.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fnodiff import Model
from fnodiff.domain import Box, Domain, Sphere, Torus
from fnodiff.inverse import (
    DPS,
    Linear,
    Linearised,
    Masked,
    MomentMatching,
    Observation,
    PiGDM,
    PointObservation,
    Restriction,
)
from fnodiff.sde import (
    DDIM,
    EDM,
    RBF,
    VE,
    VP,
    AnnealedLangevin,
    Autoguided,
    Cascade,
    ClassifierFree,
    Cosine,
    Denoiser,
    DenoisingLoss,
    Direct,
    DPMSolver,
    EDMScaling,
    EulerMaruyama,
    FunctionSpaceSDE,
    GaussianDenoiser,
    GaussianRandomField,
    Given,
    Heun,
    Matern,
    Noise,
    Normalization,
    PixelNoise,
    Plan,
    PredictorCorrector,
    Progressive,
    ReplaceModes,
    Scaling,
    Schedule,
    Solver,
    SpectralScaling,
    Stage,
    SubVP,
    WhiteNoise,
    Wrapper,
    default_plan,
    integrate,
    run,
    sample,
    upscale,
)

DOMAINS = [Torus(1), Torus(2), Torus(2, (1.0, 2.5)), Torus(3), Box(1), Box(2), Box(2, (1.0, 2.5)), Box(3)]
DOMAINS += [Sphere(), Sphere("equiangular")]
NOISES = [
    lambda domain: GaussianRandomField(domain, Matern(smoothness=1.0, length_scale=0.3)),
    lambda domain: GaussianRandomField(domain, RBF(length_scale=0.1)),
    lambda domain: GaussianRandomField(domain, lambda eigenvalues, dim: (30 + eigenvalues) ** -(0.3 + dim / 2)),
    lambda domain: WhiteNoise(domain, reference=(32,) * domain.dim),
]
SCHEDULES = [EDM(), EDM(sigma_min=0.01, sigma_max=50.0, rho=3.0), VE(), VP(), SubVP(), Cosine()]


@dataclass(frozen=True)
class AdamsBashforth(Solver):
    """A user's solver: second order by the slope of the step before, which it remembers."""

    def step(self, denoiser, x_t, t, s, memory, noise):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (denoiser.sde.marginal(x_t, time) for time in (t, s))
        y, h = x_t / alpha_t, sigma_s / alpha_s - sigma_t / alpha_t
        slope = average = (y - denoiser(x_t, t)) * alpha_t / sigma_t
        if memory is not None:
            h_before, slope_before = memory
            average = slope + (slope - slope_before) * h / (2 * h_before)
        return alpha_s * (y + h * average), (h, slope)


SOLVERS = [(Heun, 2.0), (DDIM, 1.0), (DPMSolver, 2.0), (AdamsBashforth, 2.0)]
STOCHASTIC = [
    partial(DDIM, eta=1.0),
    partial(DDIM, eta=0.5),
    partial(Heun, churn=60.0),
    partial(DPMSolver, eta=1.0),
    EulerMaruyama,
    partial(PredictorCorrector, corrections=1, snr=0.15),
    partial(AnnealedLangevin, corrections=3, snr=0.4),
]
EVERY_SOLVER = [solver for solver, _ in SOLVERS] + STOCHASTIC
# Of the shape of the reference grid.
SCALINGS = [
    lambda shape: EDMScaling(0.7),
    lambda shape: EDMScaling(0.7, linear_estimate=True),
    lambda shape: SpectralScaling(shape, None),
    lambda shape: SpectralScaling(shape, 4.0, linear_estimate=True),
]

# What is seen of two channels, on grids that hold (9,) * dim points.
OBSERVATIONS = [
    lambda domain: PointObservation(_inside(domain, 5), torch.zeros(2, 5), 0.5),
    lambda domain: PointObservation(_inside(domain, 5), torch.zeros(1, 5), torch.rand(5) + 0.5, channels=1),
    lambda domain: Restriction((3,) * domain.dim, torch.zeros(2, *(3,) * domain.dim), 0.5),
    lambda domain: Masked(_two_thirds(domain), torch.zeros(2, *(9,) * domain.dim), 0.5),
    lambda domain: Linear(lambda x: domain.evaluate(x, _inside(domain, 4)).sum(1), torch.zeros(4), 0.5),
]

SHAPES = {1: [(8,), (9,)], 2: [(8, 8), (9, 12), (16, 5)], 3: [(4, 5, 6), (7, 4, 4)]}
SPHERE_SHAPES = [(8, 16), (9, 17), (16, 9)]
DOMAIN_SHAPES = [
    (domain, shape)
    for domain in DOMAINS
    for shape in (SPHERE_SHAPES if isinstance(domain, Sphere) else SHAPES[domain.dim])
]
FLAT = [Torus(1), Torus(2), Box(1), Box(2), Sphere(), Sphere("equiangular")]


def _inside(domain: Domain, count: int) -> Tensor:
    """Points of the domain, (dim, count)."""
    places = torch.rand(domain.dim, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return places * torch.tensor(domain.lengths, dtype=torch.float64)[:, None]


def _two_thirds(domain: Domain) -> Tensor:
    """A mask on a grid of 9 points a side."""
    return torch.arange(9**domain.dim).reshape((9,) * domain.dim) % 3 > 0


# ---- independent definitions --------------------------------------------------------------------------------------


def eigenfunctions(domain: Domain, shape: tuple[int, ...], points: Tensor) -> tuple[Tensor, Tensor]:
    """All real eigenfunctions a grid holds, at points (dim, P), written out: (modes, P); and their eigenvalues."""
    if isinstance(domain, Sphere):
        return harmonics(domain, shape, points)
    per_axis = []
    for n, length, x in zip(shape, domain.lengths, points, strict=True):
        axis = [(torch.ones_like(x), 0.0)]
        if isinstance(domain, Torus):
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
        nodes = np.polynomial.legendre.legvander(np.cos(np.linspace(0, np.pi, rows)), rows - 1)
        weights = torch.from_numpy(np.linalg.solve(nodes.T, np.eye(rows)[0]))
    return (x * weights[:, None] / columns).flatten(2) @ phi.T


def on_grid(domain: Domain, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Those functions on the grid, (modes, points), and their eigenvalues."""
    return eigenfunctions(domain, shape, domain.points(shape).flatten(1))


# ---- domains ------------------------------------------------------------------------------------------------------


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
        assert torch.autograd.gradcheck(lambda v: domain.resample(domain.filter(v, lambda e: 1 / (1 + e)), finer), x)

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
@pytest.mark.parametrize("domain", DOMAINS, ids=str)
class TestTrace:
    def test_against_the_sum_itself(self, domain):
        shape = (300, 599) if isinstance(domain, Sphere) else (61,) * domain.dim

        def f(value: Tensor) -> Tensor:
            return (-value / 300).exp()

        brute = float((domain.multiplicity(shape) * f(domain.eigenvalues(shape))).sum())
        assert domain.trace(f) == pytest.approx(brute, rel=1e-6)

    @pytest.mark.parametrize("excess", [0.5, 0.1, 0.01])
    def test_slow_tails_are_summed_to_the_end(self, domain, excess):
        # Between two exponents the derivative of the trace is known by finite differences only if the tail is right.
        def trace(decay: float, scale: float) -> float:
            return domain.trace(lambda value: (scale + value) ** -decay)

        decay = domain.dim / 2 + excess
        h = 1e-3
        slope = (trace(decay, 40 + h) - trace(decay, 40 - h)) / (2 * h)
        assert slope == pytest.approx(-decay * trace(decay + 1, 40), rel=1e-4)

    def test_divergence_is_an_error(self, domain):
        with pytest.raises(ValueError, match="smoother"):
            domain.trace(lambda value: (1 + value) ** -(domain.dim / 2))


# ---- noises -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("make", NOISES)
@pytest.mark.parametrize("domain", FLAT, ids=str)
class TestNoise:
    @pytest.mark.parametrize("seeded", [False, True])
    @pytest.mark.parametrize("shape", [(32, 32), (64, 64), (45, 64)], ids=str)
    def test_variance_per_shell_of_modes(self, domain, make, shape, seeded):
        noise: Noise = make(domain)
        shape, samples = shape[: domain.dim], 200
        generator = torch.Generator().manual_seed(3) if seeded else None
        c = domain.analyze(noise.sample((samples, 2, *shape), generator=generator))
        eigenvalues = domain.eigenvalues(shape)
        ratio = (c.abs() / noise.std(eigenvalues)) ** 2
        if float(noise.std(eigenvalues).min()) < 1e-12:  # the field's rounding drowns what lies below
            ratio = ratio[..., noise.std(eigenvalues) > 1e-8]
            eigenvalues = eigenvalues[noise.std(eigenvalues) > 1e-8]
        ratio, eigenvalues = ratio.flatten(2), eigenvalues.flatten()
        shell = (eigenvalues.sqrt() / math.pi / 2).round().long()
        shells = shell.unique()
        mean = torch.stack([ratio[..., shell == s].mean() for s in shells])
        # |c|^2 / C of a complex mode has variance 1, of a real one 2: 2 covers both.
        error = torch.stack([(2 / ratio[..., shell == s].numel()) ** torch.tensor(0.5) for s in shells])
        normal = torch.distributions.Normal(0.0, 1.0)
        z = normal.icdf(torch.tensor(1 - (1 - normal.cdf(torch.tensor(4.0)).item()) / len(shells)))
        assert bool(((mean - 1).abs() < z * error).all()), ((mean - 1) / error).tolist()

    @pytest.mark.parametrize("other", [(64, 64), (45, 64), (32, 32), (7, 16)])
    def test_one_seed_is_one_function_on_every_grid_and_in_any_batch(self, domain, make, other):
        noise: Noise = make(domain)
        shape, other = (32,) * domain.dim, other[: domain.dim]
        seed = torch.Generator().manual_seed(5)
        first, second = (noise.sample((3, 2, *shape), generator=seed) for _ in range(2))
        seeds = [torch.Generator().manual_seed(5) for _ in range(3)]
        alone = noise.sample((1, 3, *other), generator=seeds[:1])
        common = tuple(min(n, m) for n, m in zip(shape, other, strict=True))
        same = domain.resample(first[:1], common)
        torch.testing.assert_close(domain.resample(alone[:, :2], common), same)
        seed = torch.Generator().manual_seed(5)
        again, later = (noise.sample((3, 1, *other), generator=seed) for _ in range(2))
        torch.testing.assert_close(domain.resample(again, common), domain.resample(first[:, :1], common))
        torch.testing.assert_close(domain.resample(later, common), domain.resample(second[:, :1], common))
        assert float(domain.norm(first[:1] - first[1:2])) > 0.1, "samples differ"
        assert float(domain.norm(first[:, :1] - first[:, 1:]).min()) > 0.1, "channels differ"
        assert float(domain.norm(first - second).min()) > 0.1, "draws differ"
        equal = noise.sample(
            (3, 1, *shape), generator=seeds[1:2] + [torch.Generator().manual_seed(5) for _ in range(2)]
        )
        torch.testing.assert_close(equal[1], equal[0], msg="one generator per sample: same seed, same sample")

    def test_variance_per_point(self, domain, make):
        noise: Noise = make(domain)
        shape = (32,) * domain.dim
        phi, eigenvalues = on_grid(domain, shape)
        mean_square = project(domain, phi.square().reshape(1, -1, *shape), torch.ones(1, math.prod(shape)))
        covariance_trace = float((mean_square.flatten() * noise.std(eigenvalues).square()).sum())
        assert noise.variance(shape) == pytest.approx(covariance_trace)

    def test_mean_variance_is_one(self, domain, make):
        noise: Noise = make(domain)
        if isinstance(noise, WhiteNoise):
            assert noise.variance(noise.reference) == pytest.approx(1.0)
            return
        assert domain.trace(lambda e: noise.std(e).square()) == pytest.approx(1, rel=1e-6)
        coarse, fine = (noise.variance((n,) * domain.dim) for n in (64, 512))
        assert coarse <= fine + 1e-9 <= 1 + 2e-9
        if float(noise.std(domain.eigenvalues((64,) * domain.dim)).min()) < 1e-6:
            assert coarse == pytest.approx(1, abs=1e-6)  # a smooth field: all of it is on the grid

    def test_float32_is_the_same_function(self, domain, make):
        noise: Noise = make(domain)
        draws = [
            noise.sample((2, 1, *(16,) * domain.dim), generator=torch.Generator().manual_seed(1), dtype=dtype)
            for dtype in (torch.float32, torch.float64)
        ]
        assert draws[0].dtype == torch.float32
        torch.testing.assert_close(draws[0].double(), draws[1], atol=1e-5, rtol=1e-4)


# ---- schedules ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
class TestSchedule:
    def test_noise_grows_from_a_positive_level(self, schedule: Schedule):
        t = torch.linspace(0, 1, 101)
        ratio = schedule.ratio(t)
        assert float(ratio[0]) > 0
        assert bool((ratio.diff() > 0).all())
        assert float(ratio[-1]) > 20 * float(ratio[0])

    def test_time_inverts_the_ratio(self, schedule: Schedule):
        t = torch.linspace(0, 1, 101)
        torch.testing.assert_close(schedule.time(schedule.ratio(t)), t)

    def test_forward_sde_has_these_marginals(self, schedule: Schedule):
        # d Var / dt = 2 f Var + g^2 for unit data variance, against finite differences of alpha^2 + sigma^2.
        sde = FunctionSpaceSDE(PixelNoise(Box(1)), schedule)
        t, h = torch.linspace(0.1, 0.9, 9), 1e-6

        def variance(t: Tensor) -> Tensor:
            alpha, sigma = schedule(t)
            return alpha**2 + sigma**2

        x = torch.ones(9, 1, 4)
        f = sde.drift(x, t)[:, 0, 0]
        expected = (variance(t + h) - variance(t - h)) / (2 * h)
        torch.testing.assert_close(2 * f * variance(t) + sde.diffusion(t) ** 2, expected, rtol=1e-5, atol=1e-5)


# ---- scalings and the loss ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("schedule", [EDM(), VP()], ids=str)
@pytest.mark.parametrize("noise", [NOISES[0], NOISES[3]])
@pytest.mark.parametrize("make", SCALINGS)
@pytest.mark.parametrize("domain", [Torus(1), Box(2), Sphere()], ids=str)
class TestScaling:
    def setup(self, domain, make, noise, schedule) -> tuple[Scaling, tuple[int, ...], Matern, FunctionSpaceSDE]:
        shape = (10, 19) if isinstance(domain, Sphere) else (9, 8)[: domain.dim]
        return make(shape), shape, Matern(1.0, 0.3), FunctionSpaceSDE(noise(domain), schedule)

    def test_shapes_and_channels(self, domain, make, noise, schedule):
        scaling, shape, spectrum, sde = self.setup(domain, make, noise, schedule)
        scaled = scaling(sde, spectrum, torch.randn(3, 2, *shape), torch.tensor(0.4))
        assert scaled.input.shape == (3, scaling.inputs(2), *shape)
        assert scaled.noise_level.shape == (3,)
        assert scaled.skip.shape == scaled.out(torch.randn(3, 2, *shape)).shape == (3, 2, *shape)

    def test_loss_weight_makes_the_networks_errors_count_alike(self, domain, make, noise, schedule):
        # An error of variance one at a point of the reference grid, the same in every mode, at every noise level.
        scaling, shape, spectrum, sde = self.setup(domain, make, noise, schedule)
        error = torch.ones(1, 1, *domain.coefficient_shape(shape), dtype=domain.white((1, 1), shape).dtype)
        error = domain.synthesize(error, shape)
        x_t, t = torch.zeros(5, 1, *shape), torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0])
        out = scaling(sde, spectrum, x_t, t).out((error / domain.norm(error)).expand_as(x_t))
        weight = scaling.loss_weight(sde, spectrum, t, shape)
        torch.testing.assert_close(domain.norm(out).square() * weight, torch.ones(5))

    def test_noise_law_is_within_the_schedule(self, domain, make, noise, schedule):
        scaling, _, spectrum, sde = self.setup(domain, make, noise, schedule)
        mean, std = scaling.noise_law(sde, spectrum)
        low, high = schedule.ratio(torch.tensor([0.0, 1.0])).log()
        assert float(low) < mean < float(high)
        assert std > 0.9  # a mode alone turns from noise to data within pi / sqrt(12)


class Zero(nn.Module):
    """A network that returns zero."""

    def forward(self, x, noise_level):
        return torch.zeros_like(x)


class ExactlyLinear(nn.Module):
    """What a network under EDM's scalars must return for the linear estimate, which it is given, to be the result."""

    def __init__(self, sigma_data):
        super().__init__()
        self.sigma_data = sigma_data

    def forward(self, x, noise_level):
        y, estimate = x.chunk(2, dim=1)  # c_in y, G x_t / sd
        s, sd = (4 * noise_level).exp().reshape(-1, *(1,) * (x.ndim - 1)), self.sigma_data
        return (estimate * (s.square() + sd**2).sqrt() - sd * y) / s


LINEAR = [
    lambda shape: (Zero(), SpectralScaling(shape, None)),
    lambda shape: (ExactlyLinear(0.7), EDMScaling(0.7, linear_estimate=True)),
]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("make", [NOISES[0], NOISES[3], PixelNoise])
@pytest.mark.parametrize("model", LINEAR)
@pytest.mark.parametrize(("domain", "shape"), [(Torus(1), (15,)), (Box(2), (5, 8))], ids=str)
def test_the_linear_loss_is_that_of_the_exact_linear_estimator(domain, shape, model, make):
    data, count = GaussianRandomField(domain, Matern(1.0, 0.3)), 8000
    network, scaling = model(shape)
    spectrum = lambda eigenvalues, dim: data.std(eigenvalues).square()  # noqa: E731
    loss = DenoisingLoss(Model(network, FunctionSpaceSDE(make(domain), EDM()), scaling, spectrum=spectrum))
    values = loss(data.sample((count, 1, *shape)))
    assert float(values.mean()) == pytest.approx(loss.linear(shape), abs=4 * float(values.std()) / math.sqrt(count))


# ---- solvers ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("schedule", [EDM(), VP()], ids=str)
@pytest.mark.parametrize(("solver", "order"), SOLVERS)
@pytest.mark.parametrize("domain", FLAT, ids=str)
class TestSolver:
    def test_order_against_the_closed_form_flow(self, domain, solver: type[Solver], order, schedule):
        sde = FunctionSpaceSDE(GaussianRandomField(domain, Matern(0.7, 0.3)), schedule)
        denoiser = GaussianDenoiser(GaussianRandomField(domain, Matern(1.5, 0.2)), sde)
        x = sde.prior((2, 1, *(12, 9)[: domain.dim]), generator=torch.Generator().manual_seed(0))
        exact = denoiser.flow(x, torch.ones(()), torch.zeros(()))
        coarse, fine = (
            float(domain.norm(integrate(denoiser, solver(n + 1), x, solver(n + 1).times(schedule)) - exact).max())
            for n in (32, 64)
        )
        assert fine < 0.06 * float(domain.norm(exact).max())
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.2)

    def test_last_step_is_the_denoised_estimate(self, domain, solver: type[Solver], order, schedule):
        sde = FunctionSpaceSDE(WhiteNoise(domain, (8,) * domain.dim), schedule)
        denoiser = GaussianDenoiser(GaussianRandomField(domain, Matern(1.5)), sde)
        x, times = sde.prior((2, 1, *(8,) * domain.dim)), solver(5).times(schedule)
        end = run(denoiser, solver(5), [Stage((8,) * domain.dim, times)], x)
        torch.testing.assert_close(end, denoiser(integrate(denoiser, solver(5), x, times), torch.zeros(())))


def one_deviation(sde: FunctionSpaceSDE, shape: tuple[int, ...]) -> Tensor:
    """A draw of the noise whose modes have one standard deviation each."""
    domain = sde.domain
    noise = sde.noise.on(shape).std(domain.eigenvalues(shape))
    return domain.synthesize(noise[None, None].to(domain.white((1, 1), shape).dtype), shape)


def variances(denoiser: Denoiser, solver: Solver, stages: list[Stage]) -> Tensor:
    """The variance of each mode of the samples, exactly.

    On Gaussian data a solver is linear in every draw of noise, and so are changes of grid: each draw of one deviation is
    followed on its own, as a sample of a batch, and the squares of what becomes of them add up.
    """
    shape, rows = stages[-1].shape, itertools.count(1)
    draws = {stage.shape: one_deviation(denoiser.sde, stage.shape) for stage in stages}

    def impulse(x: Tensor) -> Tensor:
        out, row = torch.zeros_like(x), next(rows)
        out[row : row + 1] = draws[tuple(x.shape[2:])]
        return out

    most = sum(stage.steps for stage in stages) * solver.evaluations_per_step
    start = denoiser.sde.schedule(torch.ones(()))[1] * draws[shape]
    end = run(denoiser, solver, stages, torch.cat([start, torch.zeros(most, 1, *shape)]), noise=impulse)
    assert next(rows) <= most + 1
    return denoiser.sde.domain.analyze(end)[:, 0].abs().square().sum(0)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("domain", "schedule"), [(Torus(1), VE()), (Box(1), SubVP())], ids=str)
@pytest.mark.parametrize("solver", STOCHASTIC, ids=str)
def test_stochastic_solvers_have_the_right_law_on_gaussian_data(domain, solver, schedule):
    # Samples are the estimates at t = 0: of variance S^2 / (S + s^2 C) in a mode, but for an error that falls with the step.
    sde, shape = FunctionSpaceSDE(GaussianRandomField(domain, Matern(0.5, 0.3)), schedule), (6,)
    denoiser = GaussianDenoiser(GaussianRandomField(domain, Matern(1.5, 0.2)), sde)
    eigenvalues, low = domain.eigenvalues(shape), schedule.ratio(torch.zeros(()))
    data, noise = denoiser.data.std(eigenvalues).square(), sde.noise.std(eigenvalues).square()
    expected = data.square() / (data + low.square() * noise)
    coarse, fine = (
        variances(denoiser, solver(n + 1), [Stage(shape, solver(n + 1).times(schedule))]) / expected - 1
        for n in (24, 48)
    )
    assert bool((fine.abs() < 0.6 * coarse.abs() + 0.02).all()), (coarse, fine)
    assert bool((expected[0] > 2 * expected[-1]).all()), "modes differ: a law that ignored the spectra would fail"


# ---- plans of stages ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exact(Solver):
    """The probability flow in closed form: of the oracle, and of what these tests wrap around it."""

    def step(self, denoiser, x_t, t, s, memory, noise):
        return flow(denoiser, x_t, t, s), None


def flow(denoiser: Denoiser, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (denoiser.sde.marginal(x_t, time) for time in (t, s))
    if isinstance(denoiser, Shifted):
        shift = denoiser.shift
        return alpha_s * shift + flow(denoiser.denoiser, x_t - alpha_t * shift, t, s)
    if isinstance(denoiser, ReplaceModes):  # a mode c that is held is c + s z on the way
        domain, shape, small = denoiser.sde.domain, tuple(x_t.shape[2:]), denoiser.small
        x_s = flow(denoiser.denoiser, x_t, t, s)
        z = (domain.resample(x_t, small) - alpha_t * denoiser.low) / sigma_t
        return x_s + domain.resample(alpha_s * denoiser.low + sigma_s * z - domain.resample(x_s, small), shape)
    return denoiser.flow(x_t, t, s)


class Shifted(Wrapper):
    """A user's wrapper: data of another mean."""

    def __init__(self, denoiser: Denoiser, shift: float) -> None:
        super().__init__(denoiser)
        self.shift = shift

    def forward(self, x_t, t, **condition):
        alpha_t = self.sde.marginal(x_t, t)[0]
        return self.shift + self.denoiser(x_t - alpha_t * self.shift, t, **condition)


class Unchanged(Wrapper):
    """A user's wrapper that changes nothing."""

    def forward(self, x_t, t, **condition):
        return self.denoiser(x_t, t, **condition)


@dataclass(frozen=True)
class Delegating(Solver):
    """A user's solver that leaves its steps to another one."""

    inner: Solver = DPMSolver()

    @property
    def evaluations_per_step(self):
        return self.inner.evaluations_per_step

    def step(self, denoiser, x_t, t, s, memory, noise):
        return self.inner.step(denoiser, x_t, t, s, memory, noise)


def oracle(domain: Domain, kind: str, schedule: Schedule | None = None) -> tuple[GaussianDenoiser, list[tuple]]:
    """Gaussian data under one kind of noise, and three grids."""
    noise = {
        "matern": lambda: GaussianRandomField(domain, Matern(0.5, 0.3)),
        "white": lambda: WhiteNoise(domain, (8,) * domain.dim),
        "pixel": lambda: PixelNoise(domain),
    }[kind]()
    grids = [(4, 7), (8, 15), (10, 19)] if isinstance(domain, Sphere) else [(4, 5), (8, 7), (12, 13)]
    sde = FunctionSpaceSDE(noise, EDM(0.01, 1000.0) if schedule is None else schedule)
    return GaussianDenoiser(GaussianRandomField(domain, Matern(1.5, 0.3)), sde), [grid[: domain.dim] for grid in grids]


def level_share(sde: FunctionSpaceSDE, grid: tuple[int, ...], finest: tuple[int, ...]) -> float:
    """The noise level on a grid that leaves a mode the noise of level one on the finest: PixelNoise puts 1 / points in each."""
    return math.sqrt(math.prod(grid) / math.prod(finest)) if isinstance(sde.noise, PixelNoise) else 1.0


def on_its_grid(sde: FunctionSpaceSDE, times: Tensor, grid: tuple[int, ...], finest: tuple[int, ...]) -> Tensor:
    """Times of the finest grid, as those of another one."""
    part = level_share(sde, grid, finest)
    return times if part == 1 else sde.schedule.time(part * sde.schedule.ratio(times))


def moving_on(sde: FunctionSpaceSDE, grids: list[tuple], changes: tuple[float, ...], steps: int = 1) -> list[Stage]:
    """The state goes on from grid to grid at these times of the finest."""
    ends = itertools.pairwise([1.0, *changes, 0.0])
    times = [torch.linspace(a, b, steps + 1) if a > b else torch.tensor([a]) for a, b in ends]
    return [Stage(grid, on_its_grid(sde, t, grid, grids[-1])) for grid, t in zip(grids, times, strict=True)]


def finishing(sde: FunctionSpaceSDE, grids: list[tuple], changes: tuple[float, ...], steps: int = 1) -> list[Stage]:
    """Each grid is sampled to its end, and held on the next, which begins at that time of the finest."""
    starts = [on_its_grid(sde, torch.tensor(a), grid, grids[-1]) for a, grid in zip(changes, grids[1:], strict=True)]
    first = Stage(grids[0], torch.linspace(1, 0, steps + 1))
    finer = zip(starts, grids[1:], grids, strict=False)
    return [first, *(Stage(grid, torch.linspace(float(a), 0, steps + 1), held) for a, grid, held in finer)]


def first(sde: FunctionSpaceSDE, shape: tuple[int, ...]) -> Tensor:
    """A start whose modes have one standard deviation each."""
    return sde.schedule(torch.ones(()))[1] * one_deviation(sde, shape)


KINDS = [(domain, kind) for domain in FLAT for kind in ("matern", "white", "pixel")]
KINDS = [(domain, kind) for domain, kind in KINDS if domain.uniform or kind != "pixel"]
FEW_KINDS = [(Torus(1), "matern"), (Box(2), "pixel"), (Sphere(), "white")]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("schedule", [EDM(0.01, 1000.0), VP(beta_max=60.0)], ids=str)
@pytest.mark.parametrize(("domain", "kind"), KINDS, ids=str)
class TestStages:
    """Every step is linear and diagonal in the modes: modes of one standard deviation each end with theirs."""

    @pytest.mark.parametrize("changes", [(0.8, 0.5), (0.3, 0.1), (0.6, 0.6), (1.0, 0.2)])
    def test_going_on_is_exact_in_law_at_any_change_of_grid(self, domain, kind, schedule, changes):
        denoiser, grids = oracle(domain, kind, schedule)
        sde, eigenvalues = denoiser.sde, domain.eigenvalues(grids[-1])
        end = run(denoiser, Exact(), moving_on(sde, grids, changes), first(sde, grids[-1]))
        low, noise = schedule.ratio(torch.zeros(())), sde.noise.on(grids[-1]).std(eigenvalues)
        data = denoiser.data.std(eigenvalues)
        expected = data.square() / (data.square() + (low * noise).square()).sqrt()
        torch.testing.assert_close(domain.analyze(end)[0, 0].abs(), expected, rtol=1e-4, atol=1e-9)

    def test_a_grid_may_take_over_at_the_end(self, domain, kind, schedule):
        denoiser, grids = oracle(domain, kind, schedule)
        if kind == "pixel":  # less noise in a mode than the coarser grid's levels reach
            with pytest.raises(ValueError, match=r"\[0, 1\]"):
                run(denoiser, Exact(), moving_on(denoiser.sde, grids, (1.0, 0.0)), first(denoiser.sde, grids[-1]))
            return
        self.test_going_on_is_exact_in_law_at_any_change_of_grid(domain, kind, schedule, (1.0, 0.0))

    def test_holding_is_exact_in_law_and_keeps_what_was_sampled(self, domain, kind, schedule):
        denoiser, grids = oracle(domain, kind, schedule)
        sde, start, changes = denoiser.sde, first(denoiser.sde, grids[-1]), (0.8, 0.5)
        end = run(denoiser, Exact(), finishing(sde, grids, changes), start)
        # A mode ends on the first grid that has it, with what noise is left there.
        eigenvalues, low = domain.eigenvalues(grids[-1]), schedule.ratio(torch.zeros(()))
        left = sde.noise.on(grids[-1]).std(eigenvalues)
        for grid in reversed(grids[:-1]):
            there = domain.analyze(domain.resample(domain.resample(start, grid), grids[-1]))[0, 0].abs() > 1e-9
            left = torch.where(there, sde.noise.on(grid).std(eigenvalues), left)
        data = denoiser.data.std(eigenvalues)
        expected = data.square() / (data.square() + (low * left).square()).sqrt()
        torch.testing.assert_close(domain.analyze(end)[0, 0].abs(), expected, rtol=1e-4, atol=1e-9)
        if kind != "pixel":  # whose start on a coarser grid is another
            coarse = domain.resample(start, grids[1])
            middle = run(denoiser, Exact(), finishing(sde, grids[:2], changes[:1]), coarse)
            torch.testing.assert_close(domain.resample(end, grids[1]), middle)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("domain", "kind"), FEW_KINDS, ids=str)
@pytest.mark.parametrize(("solver", "order"), SOLVERS)
@pytest.mark.parametrize("stages", [moving_on, finishing])
def test_order_through_stages_and_a_wrapper_against_the_closed_form(domain, kind, solver, order, stages):
    denoiser, grids = oracle(domain, kind, EDM(0.01, 50.0))
    wrapped = Shifted(denoiser, 2.0)
    start = denoiser.sde.prior((2, 1, *grids[-1]), generator=torch.Generator().manual_seed(0))
    exact = run(wrapped, Exact(), stages(denoiser.sde, grids, (0.8, 0.5)), start)
    coarse, fine = (
        float(domain.norm(run(wrapped, solver(9), stages(denoiser.sde, grids, (0.8, 0.5), n), start) - exact).max())
        for n in (16, 32)
    )
    assert fine < 0.05 * float(domain.norm(exact).max())
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.3)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("solver", STOCHASTIC, ids=str)
@pytest.mark.parametrize(("kind", "stages"), [("white", moving_on), ("pixel", finishing)])
def test_stochastic_solvers_have_the_right_law_through_stages(solver, kind, stages):
    denoiser, _ = oracle(Box(1), kind, EDM(0.01, 50.0))
    expected = denoiser.data.std(Box(1).eigenvalues((6,))).square()
    coarse, fine = (
        variances(denoiser, solver(n + 1), stages(denoiser.sde, [(3,), (6,)], (0.6,), n)) / expected - 1
        for n in (16, 32)
    )
    assert bool((fine.abs() < 0.6 * coarse.abs() + 0.02).all()), (coarse, fine)


PLANS = {
    "direct": lambda grids: Direct(),
    "progressive": lambda grids: Progressive(grids[:-1], budget=0.3),
    "cascade": lambda grids: Cascade(grids[1:-1], through=grids[:1], budget=0.3),
}


SEEDS = [3, 5, 8]


def planned(kind: str, plan: str) -> tuple[GaussianDenoiser, Plan, tuple[int, ...]]:
    """A model, a plan and the samples' grid."""
    denoiser, grids = oracle(Box(2), kind)
    return denoiser, PLANS[plan](grids), grids[-1]


def stages_of(denoiser: Denoiser, plan: Plan, shape: tuple[int, ...], solver: Solver) -> list[Stage]:
    """The stages, which are several unless the plan is direct."""
    stages = plan.plan(denoiser, shape, solver.times(denoiser.sde.schedule))
    assert (len(stages) > 1) != isinstance(plan, Direct)
    assert min(stage.steps for stage in stages) > 0
    return stages


@functools.cache
def plain(kind: str, plan: str, solver: Solver) -> tuple[Tensor, int]:
    """Samples of a solver alone, and how often the model was asked."""
    (denoiser, made, shape), calls = planned(kind, plan), []
    denoiser.register_forward_pre_hook(lambda *_: calls.append(1))
    return sample(denoiser, shape, SEEDS, solver=solver, plan=made), len(calls)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("solver", EVERY_SOLVER, ids=str)
@pytest.mark.parametrize("kind", ["matern", "pixel"])
@pytest.mark.parametrize("plan", PLANS)
class TestEverySolverInEveryPlan:
    def test_a_solver_that_delegates_gives_the_same_samples(self, plan, kind, solver):
        expected, _ = plain(kind, plan, solver(10))
        denoiser, plan, shape = planned(kind, plan)
        delegating = Delegating(10, inner=solver(10))
        assert torch.equal(sample(denoiser, shape, SEEDS, solver=delegating, plan=plan), expected)

    def test_a_wrapper_that_changes_nothing_gives_the_same_samples(self, plan, kind, solver):
        expected, _ = plain(kind, plan, solver(10))
        denoiser, plan, shape = planned(kind, plan)
        wrapped = Unchanged(Unchanged(denoiser))
        assert torch.equal(sample(wrapped, shape, SEEDS, solver=solver(10), plan=plan), expected)

    def test_a_wrapper_that_shifts_the_data_shifts_the_samples(self, plan, kind, solver):
        expected, _ = plain(kind, plan, solver(10))
        denoiser, plan, shape = planned(kind, plan)
        shifted = sample(Shifted(denoiser, 3.0), shape, SEEDS, solver=solver(10), plan=plan) - expected
        torch.testing.assert_close(shifted, torch.full_like(shifted, 3.0), rtol=0, atol=0.15)

    def test_a_sample_depends_on_its_seed_alone(self, plan, kind, solver):
        expected, _ = plain(kind, plan, solver(10))
        denoiser, plan, shape = planned(kind, plan)
        apart = sample(denoiser, shape, SEEDS, solver=solver(10), plan=plan, batch=2)
        torch.testing.assert_close(apart, expected)
        assert float((apart[0] - apart[1]).abs().max()) > 0.1

    def test_evaluations_are_those_of_the_steps_and_one_for_each_grid_that_is_finished(self, plan, kind, solver):
        _, calls = plain(kind, plan, solver(10))
        stages = stages_of(*planned(kind, plan), solver(10))
        finished = 1 + sum(stage.held is not None for stage in stages)
        assert calls == sum(stage.steps for stage in stages) * solver(10).evaluations_per_step + finished
        assert solver(10).evaluations == 9 * solver(10).evaluations_per_step + 1


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ["matern", "white", "pixel"])
@pytest.mark.parametrize("plan", PLANS)
class TestPlan:
    def test_memory_is_what_the_last_step_returned_and_none_at_a_stages_first(self, plan, kind):
        (denoiser, plan, shape), seen = planned(kind, plan), []

        @dataclass(frozen=True)
        class Counting(Solver):
            def step(self, denoiser, x_t, t, s, memory, noise):
                seen.append((tuple(x_t.shape[2:]), float(t), float(s), memory))
                return x_t, 1 if memory is None else memory + 1

        sample(denoiser, shape, [0], solver=Counting(16), plan=plan)
        stages = stages_of(denoiser, plan, shape, Counting(16))
        steps = [
            (stage.shape, t, s, number or None)
            for stage in stages
            for number, (t, s) in enumerate(itertools.pairwise(stage.times.tolist()))
        ]
        assert seen == steps

    def test_stages_meet_and_end_with_the_schedule(self, plan, kind):
        # The noise of a mode is the same on both sides of a change of grid: its level over that grid's share.
        denoiser, plan, shape = planned(kind, plan)
        sde, stages, low = denoiser.sde, stages_of(denoiser, plan, shape, Heun(16)), 0.01
        share = [level_share(sde, stage.shape, shape) for stage in stages]
        first = [float(sde.schedule.ratio(stage.times[0])) / part for stage, part in zip(stages, share, strict=True)]
        last = [float(sde.schedule.ratio(stage.times[-1])) / part for stage, part in zip(stages, share, strict=True)]
        finished = [after.held is not None for after in stages[1:]] + [True]
        visited = sde.schedule.ratio(Heun(16).times(sde.schedule))
        # In a cascade the first grids have times as if the samples were on the last of them.
        whole = next((stage.shape for stage, done in zip(stages, finished, strict=True) if done), shape)
        assert first[0] == pytest.approx(1000.0 / level_share(sde, whole, shape))
        assert last[-1] == pytest.approx(low)
        assert [b == pytest.approx(a) for a, b in zip(last, first[1:], strict=False)] == [not f for f in finished[:-1]]
        assert all(float((visited / first[i + 1] - 1).abs().min()) < 1e-9 for i, f in enumerate(finished[:-1]) if f)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("schedule", [EDM(0.01, 1000.0), VP(beta_max=60.0)], ids=str)
@pytest.mark.parametrize(("domain", "kind"), KINDS, ids=str)
class TestPlannedStages:
    @pytest.mark.parametrize("budget", [0.1, 1e-9, 1e9])
    def test_a_grid_takes_over_when_its_new_modes_reach_the_budget(self, domain, kind, schedule, budget):
        denoiser, grids = oracle(domain, kind, schedule)
        times, sde = Heun(200).times(schedule), denoiser.sde
        starts = [0]
        for coarse, fine in itertools.pairwise(grids):
            # The sum over modes of the finer grid that the coarser one lacks, by a field of their standard deviations.
            eigenvalues = domain.eigenvalues(fine)
            roots = denoiser.data.std(eigenvalues) / sde.noise.on(grids[-1]).std(eigenvalues)
            field = domain.synthesize(roots[None, None].to(domain.white((1, 1), fine).dtype), fine)
            band = field - domain.resample(domain.resample(field, coarse), fine)
            snr = float(domain.norm(band).square()) / schedule.ratio(times).square()
            reached = schedule.ratio(times) * level_share(sde, coarse, grids[-1]) >= schedule.ratio(torch.zeros(()))
            starts.append(max(0, int(((snr <= budget) & reached).sum()) - 1))
        starts = [min(starts[i:]) for i in range(len(starts))]
        ends = [*starts[1:], 199]
        expected = [
            (grid, on_its_grid(sde, times[a : b + 1], grid, grids[-1]))
            for grid, a, b in zip(grids, starts, ends, strict=True)
            if b > a or grid == grids[-1]
        ]
        stages = Progressive(grids[:-1], budget).plan(denoiser, grids[-1], times)
        assert [stage.shape for stage in stages] == [grid for grid, _ in expected]
        torch.testing.assert_close(torch.cat([s.times for s in stages]), torch.cat([t for _, t in expected]))

    def test_one_seed_is_one_function(self, domain, kind, schedule):
        if kind == "pixel":
            return  # another process on each grid
        denoiser, grids = oracle(domain, kind, schedule)
        draw = partial(sample, denoiser, seeds=[0, 1], solver=Heun(20), plan=Progressive(grids[:-1]))
        coarse, fine = (draw(shape) for shape in (grids[-1], tuple(2 * n for n in grids[-1])))
        torch.testing.assert_close(domain.resample(fine, grids[0]), domain.resample(coarse, grids[0]))

    @pytest.mark.parametrize(("keep", "averages", "share"), [(None, False, 1.0), (0.5, False, 0.5), (None, True, 0.75)])
    def test_a_cascade_holds_the_share_of_modes_that_it_should(self, domain, kind, schedule, keep, averages, share):
        if averages and not domain.averages_cells:
            return  # whose fields are none
        (denoiser, grids), held = oracle(domain, kind, schedule), []
        denoiser.cell_averages = averages

        def note(denoiser, low):
            held.append(low)
            return ReplaceModes(denoiser, low)

        plan = Cascade(grids[1:-1], through=(), keep=keep)
        x = sample(denoiser, grids[-1], [0], solver=Heun(10), plan=plan, hold=note)
        small = tuple(round(share * n) for n in grids[1])
        assert [tuple(low.shape[2:]) for low in held] == [small]
        torch.testing.assert_close(domain.resample(x, small), held[0])

    def test_a_cascade_reaches_its_first_grid_through_coarser_ones(self, domain, kind, schedule):
        denoiser, grids = oracle(domain, kind, schedule)
        plan, through = Cascade(grids[1:-1], through=grids[:1]), Progressive(grids[:1])
        times = Heun(20).times(schedule)
        stages, first = plan.plan(denoiser, grids[-1], times), through.plan(denoiser, grids[1], times)
        assert [(s.shape, s.held) for s in stages] == [(grids[0], None), (grids[1], None), (grids[2], grids[1])]
        assert all(torch.equal(a.times, b.times) for a, b in zip(first, stages, strict=False))
        if kind != "pixel":
            end, coarse = (
                sample(denoiser, shape, [0, 1], solver=Heun(20), plan=p)
                for shape, p in ((grids[2], plan), (grids[1], through))
            )
            torch.testing.assert_close(domain.resample(end, grids[1]), coarse)


# ---- the plan where none is named ---------------------------------------------------------------------------------


class TestDefaultPlan:
    """`Direct` where coarser grids are not known to help; for images through the training grids, and held above them."""

    def images(self, **known: Any) -> GaussianDenoiser:
        sde = FunctionSpaceSDE(WhiteNoise(Box(2), (16, 16)), EDM())
        data = GaussianRandomField(Box(2), Matern(1.0, 0.3))
        denoiser = GaussianDenoiser(data, sde, **{"cell_averages": True, **known})
        denoiser.training_shapes = ((16, 16), (8, 8), (12, 16))
        return denoiser

    @pytest.mark.parametrize("shape", [(16, 16), (12, 16), (8, 8), (4, 4), (8, 32)])
    def test_images_up_to_the_largest_training_grid(self, shape):
        assert default_plan(self.images(), shape) == Progressive()

    @pytest.mark.parametrize("shape", [(32, 32), (16, 17)])
    def test_images_above_the_largest_training_grid(self, shape):
        assert default_plan(self.images(), shape) == Cascade()

    @pytest.mark.parametrize("known", [{"cell_averages": False}, {"spectrum": None}])
    def test_values_at_points_and_an_unknown_spectrum(self, known):
        assert default_plan(self.images(**known), (32, 32)) == Direct()

    def test_no_training_grids(self):
        denoiser = self.images()
        denoiser.training_shapes = ()
        assert default_plan(denoiser, (32, 32)) == Direct()

    @pytest.mark.parametrize("wrap", [lambda guided: guided, Unchanged])
    def test_an_observation_also_within_a_wrapper(self, wrap):
        seen = PointObservation(torch.tensor([[0.5], [0.5]]), torch.zeros(1, 1), 0.1)
        assert default_plan(wrap(MomentMatching(self.images(), seen)), (32, 32)) == Direct()
        assert default_plan(wrap(self.images()), (32, 32)) == Cascade()

    @pytest.mark.parametrize(
        ("shape", "route"),
        [
            ((32, 32), [((8, 8), None), ((16, 16), None), ((32, 32), (12, 12))]),
            ((16, 16), [((8, 8), None), ((16, 16), None)]),
            ((12, 14), [((8, 8), None), ((12, 14), None)]),
            ((8, 8), [((8, 8), None)]),
            ((8, 32), [((8, 8), None), ((8, 32), None)]),
        ],
    )
    def test_goes_through_the_smallest_and_the_largest_training_grid(self, shape, route):
        denoiser, times = self.images(), DPMSolver(24).times(EDM())
        assert [(s.shape, s.held) for s in default_plan(denoiser, shape).plan(denoiser, shape, times)] == route

    def test_is_what_sample_takes(self):
        denoiser = self.images()
        named = sample(denoiser, 24, [0], solver=Heun(8), plan=Cascade([(16, 16)], through=[(8, 8)], keep=0.75))
        assert torch.equal(sample(denoiser, (24, 24), [0], solver=Heun(8)), named)


# ---- wrappers -----------------------------------------------------------------------------------------------------


class Labelled(GaussianDenoiser):
    """A user's model: Gaussian data whose mean is the label, 0 without one."""

    def forward(self, x_t, t, label=None):
        mean = torch.zeros(len(x_t)) if label is None else label.clamp(min=0)
        mean = mean.to(x_t).reshape(-1, *(1,) * (x_t.ndim - 1))
        return mean + super().forward(x_t - self.sde.marginal(x_t, t)[0] * mean, t)


class Moved(Wrapper):
    """A user's wrapper that holds something for each sample."""

    def __init__(self, denoiser: Denoiser, by: Tensor) -> None:
        super().__init__(denoiser)
        self.by = by

    def forward(self, x_t, t, **condition):
        return self.denoiser(x_t, t, **condition) + self.by.reshape(-1, 1, 1)

    def rows(self, part):
        return Moved(self.denoiser.rows(part), self.by[part])


def labelled() -> Labelled:
    sde = FunctionSpaceSDE(WhiteNoise(Torus(1), (9,)), EDM(0.01, 100.0))
    denoiser = Labelled(GaussianRandomField(Torus(1), Matern(1.0, 0.3)), sde)
    denoiser.sigma_data = 1.0
    return denoiser


def seeds(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def stations(count: int = 0, noise_std: float | Tensor = 0.1) -> PointObservation:
    """Three values: one observation, or one for each of `count` samples."""
    batch = (count,) if count else ()
    points, values = torch.rand(1, 3, generator=seeds(0)), torch.randn(*batch, 1, 3, generator=seeds(1))
    return PointObservation(points, values, noise_std)


def fields(*shape: int) -> Tensor:
    return torch.randn(shape, generator=seeds(2))


LABELS = torch.tensor([0, 3, 1])
SPECTRUM = Matern(1.0, 0.3)
WRAPPERS = {
    "Given": lambda d: Given(d, label=LABELS[:2]),
    "ReplaceModes": lambda d: ReplaceModes(d, fields(2, 1, 3)),
    "Autoguided": lambda d: Autoguided(d, labelled(), 1.5),
    "ClassifierFree": lambda d: ClassifierFree(d, 1.5),
    "the user's": lambda d: Shifted(d, 1.0),
    "one in another": lambda d: Unchanged(Given(d, label=LABELS[:2])),
}
GUIDED = {
    "DPS": lambda d: DPS(d, stations()),
    "PiGDM": lambda d: PiGDM(d, stations()),
    "MomentMatching": lambda d: MomentMatching(d, stations()),
    "MomentMatching, spectrum": lambda d: MomentMatching(d, stations(), SPECTRUM),
}
PER_SAMPLE = {
    "Given": lambda d: Given(d, label=LABELS),
    "ReplaceModes": lambda d: ReplaceModes(d, fields(3, 1, 3)),
    "the user's": lambda d: Moved(d, LABELS.double()),
    "one in another": lambda d: Unchanged(Moved(Given(d, label=LABELS), LABELS.double())),
    "a guide": lambda d: Autoguided(d, Given(d, label=LABELS), 1.5),
    "a guide and its model": lambda d: Autoguided(Moved(d, LABELS.double()), Given(d, label=LABELS), 1.5),
    "DPS": lambda d: DPS(d, stations(3)),
    "PiGDM": lambda d: PiGDM(d, stations(3)),
    "MomentMatching": lambda d: MomentMatching(d, stations(3)),
    "MomentMatching, spectrum": lambda d: MomentMatching(d, stations(3), SPECTRUM),
    "errors": lambda d: MomentMatching(d, stations(3, 0.1 + LABELS.double()[:, None, None])),
    "one observation": lambda d: MomentMatching(d, stations()),
    "one for each, one error for all": lambda d: MomentMatching(d, stations(3, torch.tensor([[0.1]]))),
    "restrictions": lambda d: MomentMatching(d, Restriction((3,), fields(3, 1, 3), 0.1)),
    "masks": lambda d: MomentMatching(d, Masked(torch.arange(9) % 3 > 0, fields(3, 1, 9), 0.1)),
    "operators": lambda d: MomentMatching(d, Linear(lambda x: x.mean(2), fields(3, 1), 0.1)),
    "wrapped": lambda d: Unchanged(MomentMatching(Given(d, label=LABELS), stations(3))),
}


@pytest.mark.usefixtures("float64")
class TestWrapper:
    @pytest.mark.parametrize("make", [*WRAPPERS.values(), *GUIDED.values()], ids=[*WRAPPERS, *GUIDED])
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("sde", FunctionSpaceSDE(WhiteNoise(Torus(1), (9,)), VE())),
            ("normalization", Normalization(3.0, 2.0)),
            ("condition_normalization", {"field": Normalization(1.0, 2.0)}),
            ("spectrum", Matern(2.0)),
            ("cell_averages", True),
            ("channels", 7),
            ("training_shapes", ((8,), (16,))),
            ("sigma_data", 0.3),
        ],
    )
    def test_reads_its_model_when_it_is_asked(self, make, name, value):
        model = labelled()
        wrapper = make(model)
        setattr(model, name, value)
        assert getattr(wrapper, name) is value

    @pytest.mark.parametrize("make", WRAPPERS.values(), ids=WRAPPERS)
    def test_samples_follow_the_models_units(self, make):
        model = labelled()
        wrapper = make(model)
        draw = partial(sample, wrapper, (9,), [0, 1], solver=DPMSolver(4))
        condition = {"label": LABELS[1:3]} if isinstance(wrapper, ClassifierFree) else {}
        before = draw(**condition)
        model.normalization = Normalization(3.0, 2.0)
        torch.testing.assert_close(draw(**condition), 3 + 2 * before)

    @pytest.mark.parametrize("plan", [Direct(), Cascade([(5,)], through=())], ids=str)
    @pytest.mark.parametrize("make", PER_SAMPLE.values(), ids=PER_SAMPLE)
    def test_what_belongs_to_a_sample_stays_with_it_in_any_batch(self, make, plan):
        wrapper = make(labelled())
        together, apart = (sample(wrapper, (9,), range(3), solver=DPMSolver(4), plan=plan, batch=n) for n in (3, 2))
        torch.testing.assert_close(apart, together, rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("plan", [Direct(), Progressive([(5,)], 10.0), Cascade([(5,)], through=())], ids=str)
    def test_conditions_have_one_row_for_each_sample_in_any_batch(self, plan):
        model = labelled()
        draw = partial(sample, model, (9,), range(3), solver=DPMSolver(12), plan=plan)
        found = draw(label=LABELS, batch=2)
        torch.testing.assert_close(draw(label=LABELS, batch=3), found)
        expected = draw() + LABELS.double()[:, None, None]
        torch.testing.assert_close(found, expected, rtol=0, atol=0.2)
        torch.testing.assert_close(draw(label=4, batch=2), draw(label=torch.full((3,), 4)))


# ---- a finer grid for given fields --------------------------------------------------------------------------------


@pytest.mark.usefixtures("float64")
class TestUpscale:
    def test_one_field_and_several_seeds_are_several_samples_for_it(self):
        denoiser, grids = oracle(Box(2), "white")
        low = denoiser.data.sample((1, 1, *grids[0]))
        up = partial(upscale, denoiser, shape=grids[-1], solver=DPMSolver(6))
        several = up(low[0], seeds=[4, 5, 6])
        assert several.shape == (3, 1, *grids[-1])
        assert torch.equal(up(low, seeds=[4, 5, 6]), several)
        torch.testing.assert_close(up(low, seeds=5), several[1:2])
        torch.testing.assert_close(up(low.expand(3, -1, -1, -1), seeds=[4, 5, 6], batch=2), several)
        held = Box(2).resample(several, grids[0])
        torch.testing.assert_close(held, low.expand_as(held))
        assert float((several[0] - several[1]).abs().max()) > 0.05

    @pytest.mark.parametrize("solver", EVERY_SOLVER, ids=str)
    def test_a_field_and_its_seed_stay_together_in_any_batch(self, solver):
        denoiser, grids = oracle(Box(2), "pixel")
        low = denoiser.data.sample((5, 1, *grids[0]))
        together, apart = (
            upscale(denoiser, low, grids[-1], range(5), solver=solver(6), batch=batch) for batch in (5, 2)
        )
        torch.testing.assert_close(apart, together)
        torch.testing.assert_close(Box(2).resample(together, grids[0]), low)


# ---- observations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", OBSERVATIONS)
@pytest.mark.parametrize("domain", [d for d in DOMAINS if d.dim < 3], ids=repr)
class TestObservation:
    def near(self, seen: Observation, x: Tensor, domain: Domain) -> Linearised:
        return Linearised(seen, x, Normalization([0.5, -1.0], [2.0, 3.0]), domain)

    def test_transpose_is_the_transpose(self, domain, make):
        seen, x = make(domain), torch.randn(3, 2, *(9,) * domain.dim)
        near, u = self.near(seen, x, domain), torch.randn_like(x)
        v = torch.randn_like(near.residual)
        torch.testing.assert_close((near.forward(u) * v).sum(1), (u * near.transpose(v)).flatten(1).sum(1))

    def test_residual_is_in_standard_deviations_and_falls_as_predicted(self, domain, make):
        seen, x = make(domain), torch.randn(3, 2, *(9,) * domain.dim)
        near, u = self.near(seen, x, domain), torch.randn_like(x)
        torch.testing.assert_close(self.near(seen, x + u, domain).residual, near.residual - near.forward(u))
        units = Normalization([0.5, -1.0], [2.0, 3.0])
        expected = (seen.values - seen(units.inverse(x), domain)) / seen.noise_std
        torch.testing.assert_close(near.residual, expected.reshape(3, -1))

    def test_sees_the_function_not_the_grid(self, domain, make):
        """A finer grid, and a coarser one that still holds the function, show the same."""
        seen, coarse = make(domain), torch.randn(2, 2, *(5,) * domain.dim)
        coarse = domain.synthesize(domain.analyze(coarse), coarse.shape[2:])
        x = domain.resample(coarse, (9,) * domain.dim)
        if isinstance(seen, Restriction) and isinstance(domain, Box):  # whose fields are cell averages
            finer = torch.randn(2, 2, *(27,) * domain.dim)
            torch.testing.assert_close(seen(finer, domain), seen(domain.average(finer, (9,) * domain.dim), domain))
            return
        for other in (coarse, domain.resample(x, (27,) * domain.dim)):
            torch.testing.assert_close(seen(other, domain), seen(x, domain))
