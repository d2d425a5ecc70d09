"""What every domain, noise, schedule and sampler promises. A new one joins by a line in one of these lists."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from fnodiff.domain import Box, Domain, Sphere, Torus
from fnodiff.sde import (
    DDIM,
    EDM,
    RBF,
    VE,
    VP,
    AnnealedLangevin,
    Cascade,
    Cosine,
    DPMSolver,
    EulerMaruyama,
    FunctionSpaceSDE,
    GaussianDenoiser,
    GaussianRandomField,
    Heun,
    KnownModes,
    Linear,
    Masked,
    Matern,
    Noise,
    Normalization,
    Observation,
    PixelNoise,
    PointObservation,
    PredictorCorrector,
    Progressive,
    Restriction,
    Sampler,
    Schedule,
    SubVP,
    WhiteNoise,
    cascade,
)
from fnodiff.sde.observe import Linearised

DOMAINS = [Torus(1), Torus(2), Torus(2, (1.0, 2.5)), Torus(3), Box(1), Box(2), Box(2, (1.0, 2.5)), Box(3)]
DOMAINS += [Sphere(), Sphere("equiangular")]
NOISES = [
    lambda domain: GaussianRandomField(domain, Matern(smoothness=1.0, length_scale=0.3)),
    lambda domain: GaussianRandomField(domain, RBF(length_scale=0.1)),
    lambda domain: GaussianRandomField(domain, lambda eigenvalues, dim: (30 + eigenvalues) ** -(0.3 + dim / 2)),
    lambda domain: WhiteNoise(domain, reference=(32,) * domain.dim),
]
SCHEDULES = [EDM(), EDM(sigma_min=0.01, sigma_max=50.0, rho=3.0), VE(), VP(), SubVP(), Cosine()]
SAMPLERS = [(Heun, 2.0), (DDIM, 1.0), (DPMSolver, 2.0)]
STOCHASTIC = [
    partial(DDIM, eta=1.0),
    partial(DDIM, eta=0.5),
    partial(Heun, churn=60.0),
    partial(DPMSolver, eta=1.0),
    EulerMaruyama,
    partial(PredictorCorrector, corrections=2, snr=0.1),
    partial(AnnealedLangevin, corrections=10, snr=0.2),
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


# ---- samplers -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("schedule", [EDM(), VP()], ids=str)
@pytest.mark.parametrize(("sampler", "order"), SAMPLERS)
@pytest.mark.parametrize("domain", FLAT, ids=str)
class TestSampler:
    def test_order_against_the_closed_form_flow(self, domain, sampler: type[Sampler], order, schedule):
        sde = FunctionSpaceSDE(GaussianRandomField(domain, Matern(0.7, 0.3)), schedule)
        denoiser = GaussianDenoiser(GaussianRandomField(domain, Matern(1.5, 0.2)), sde)
        x = sde.prior((2, 1, *(12, 9)[: domain.dim]), generator=torch.Generator().manual_seed(0))
        exact = denoiser.flow(x, torch.ones(()), torch.zeros(()))
        intervals = (256, 512)
        errors = [float(domain.norm(sampler(denoiser, n + 1).solve(x) - exact).max()) for n in intervals]
        assert errors[1] < 0.02 * float(domain.norm(exact).max())
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)

    def test_last_step_is_the_denoised_estimate(self, domain, sampler: type[Sampler], order, schedule):
        sde = FunctionSpaceSDE(WhiteNoise(domain, (8,) * domain.dim), schedule)
        denoiser = GaussianDenoiser(GaussianRandomField(domain, Matern(1.5)), sde)
        x = sde.prior((2, 1, *(8,) * domain.dim))
        s = sampler(denoiser, 5)
        torch.testing.assert_close(s(x), denoiser(s.solve(x), torch.zeros(())))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("domain", "schedule"), [(Torus(1), VE()), (Box(1), SubVP())], ids=str)
@pytest.mark.parametrize("sampler", STOCHASTIC, ids=str)
def test_stochastic_samplers_have_the_right_law_on_gaussian_data(domain, sampler, schedule):
    # Per mode, the state at t = 0 has variance alpha^2 S + sigma^2 C: within 4 standard errors and 8% for finite steps.
    sde = FunctionSpaceSDE(GaussianRandomField(domain, Matern(0.5, 0.3)), schedule)
    denoiser = GaussianDenoiser(GaussianRandomField(domain, Matern(1.5, 0.2)), sde)
    count = 3000
    x = sampler(denoiser, 200).solve(sde.prior((count, 1, 6)))
    phi, eigenvalues = on_grid(domain, (6,))
    coefficients = (x[:, 0] @ phi.T) / phi.square().sum(1)
    (alpha, sigma), zero = schedule(torch.zeros(())), coefficients.mean(0)
    expected = alpha**2 * denoiser.data.std(eigenvalues) ** 2 + sigma**2 * sde.noise.std(eigenvalues) ** 2
    ratio = coefficients.square().mean(0) / expected
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=0.08 + 4 * math.sqrt(2 / count))
    assert bool((zero.square() / expected < 16 / count + 1e-4).all())
    assert bool((expected[0] > 2 * expected[-1]).all()), "modes differ: a law that ignored the spectra would fail"


# ---- progressive sampling -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("schedule", [EDM(0.01, 1000.0), VP(beta_max=60.0)], ids=str)
@pytest.mark.parametrize("kind", ["matern", "white", "pixel"])
@pytest.mark.parametrize("domain", FLAT, ids=str)
class TestProgressive:
    def setup(self, domain, kind, schedule):
        if kind == "pixel" and isinstance(domain, Sphere):
            pytest.skip("points of different areas: PixelNoise is no process there, and says so")
        noise = {
            "matern": GaussianRandomField(domain, Matern(0.5, 0.3)),
            "white": WhiteNoise(domain, (8,) * domain.dim),
        }.get(kind) or PixelNoise(domain)
        sde = FunctionSpaceSDE(noise, schedule)
        data = GaussianRandomField(domain, Matern(1.5, 0.3))
        ladder = [(4, 7), (8, 15), (10, 19)] if isinstance(domain, Sphere) else [(4, 5), (8, 7), (12, 13)]
        *shapes, shape = (grid[: domain.dim] for grid in ladder)
        return sde, GaussianDenoiser(data, sde), lambda e, dim: data.std(e).square(), shapes, shape

    @pytest.mark.parametrize("switches", [(0.8, 0.5), (0.3, 0.1), (0.6, 0.6), (1.0, 0.0)])
    def test_exact_in_law_at_any_switch(self, domain, kind, schedule, switches):
        # Every step is linear and diagonal in the modes: modes of one standard deviation each end with theirs.
        sde, denoiser, spectrum, shapes, shape = self.setup(domain, kind, schedule)
        if kind == "pixel" and switches[1] == 0:
            with pytest.raises(
                ValueError, match="switch earlier"
            ):  # less noise a mode than the coarse grid's schedule has
                Progressive(Heun(denoiser, 9), shapes, spectrum, switch_times=switches).plan(sde.prior((1, 1, *shape)))
            return
        eigenvalues = domain.eigenvalues(shape)
        noise = sde.noise.on(shape).std(eigenvalues)
        (alpha, sigma), (_, sigma_1) = schedule(torch.zeros(())), schedule(torch.ones(()))
        start = domain.synthesize((sigma_1 * noise)[None, None].to(domain.white((1, 1), shape).dtype), shape)
        seen = []
        denoiser.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
        end = Progressive(Heun(denoiser, 400, spacing="log_snr"), shapes, spectrum, switch_times=switches).solve(start)
        expected = alpha**2 * denoiser.data.std(eigenvalues) ** 2 + sigma**2 * noise**2
        ratio = domain.analyze(end)[0, 0].abs() ** 2 / expected
        torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=5e-3)
        assert seen == sorted(seen), "coarse grids first"
        assert (shapes[0] in seen) == (switches[0] < 1)

    def test_one_seed_is_one_function(self, domain, kind, schedule):
        if kind == "pixel":
            return  # another process on each grid
        sde, denoiser, spectrum, shapes, shape = self.setup(domain, kind, schedule)
        sampler, finer = Progressive(Heun(denoiser, 30), shapes, spectrum), tuple(2 * n for n in shape)
        coarse, fine = (
            sampler.solve(sde.prior((2, 1, *n), generator=torch.Generator().manual_seed(0))) for n in (shape, finer)
        )
        torch.testing.assert_close(domain.resample(fine, shapes[0]), domain.resample(coarse, shapes[0]))

    def test_a_cascade_is_exact_in_law_and_keeps_what_it_has_drawn(self, domain, kind, schedule):
        if isinstance(schedule, VP) and isinstance(domain, Sphere):
            return  # a minute for what the others show
        sde, denoiser, spectrum, shapes, shape = self.setup(domain, kind, schedule)
        eigenvalues, (_, sigma_1) = domain.eigenvalues(shape), schedule(torch.ones(()))
        noise = sde.noise.on(shape).std(eigenvalues)
        start = domain.synthesize((sigma_1 * noise)[None, None].to(domain.white((1, 1), shape).dtype), shape)
        run = partial(Cascade, Heun(denoiser, 300, spacing="log_snr"), spectrum=spectrum, cell_averages=False)
        seen, switches = [], (0.8, 0.5)
        denoiser.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
        end = run(shapes, switch_times=switches)(start)
        assert seen[-1] == shape and seen.count(shapes[0]) > 500, "the first grid to its end"
        # The last step on each grid gives the estimate there, from what noise is left in a mode.
        low, data = float(schedule.ratio(torch.zeros(()))), denoiser.data.std(eigenvalues).square()
        left = noise
        for grid in reversed(shapes):
            held = domain.analyze(domain.resample(domain.resample(start, grid), shape))[0, 0].abs() > 1e-9
            left = torch.where(held, sde.noise.on(grid).std(eigenvalues), left)
        ratio = domain.analyze(end)[0, 0].abs() ** 2 * (data + (low * left).square()) / data.square()
        torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=1e-2)
        if kind != "pixel":  # whose levels are those of the finest grid
            middle = run(shapes[:1], switch_times=switches[:1])(domain.resample(start, shapes[1]))
            torch.testing.assert_close(domain.resample(end, shapes[1]), middle)

    def test_a_cascade_keeps_the_share_of_modes_that_it_should(self, domain, kind, schedule, monkeypatch):
        sde, denoiser, spectrum, shapes, shape = self.setup(domain, kind, schedule)
        x, known = sde.prior((1, 1, *shape), generator=torch.Generator().manual_seed(0)), []

        def note(denoiser, values):
            known.append(values)
            return KnownModes(denoiser, values)

        monkeypatch.setattr(cascade, "KnownModes", note)
        run = partial(Cascade, Heun(denoiser, 10), shapes[1:], spectrum)
        ends = [run(cell_averages=False, keep=keep)(x) for keep in (None, 0.5)]
        shares = (1.0, 0.5) if isinstance(domain, Sphere) else (1.0, 0.5, 0.75)
        if not isinstance(domain, Sphere):  # which averages over no cells
            run()(x)
        kept = [tuple(round(share * n) for n in shapes[1]) for share in shares]
        assert [tuple(values.shape[2:]) for values in known] == kept
        torch.testing.assert_close(
            domain.resample(ends[1], kept[1]), domain.resample(known[1], kept[1]), rtol=1e-3, atol=1e-3
        )

    def test_a_cascade_reaches_its_first_grid_through_coarser_ones(self, domain, kind, schedule):
        sde, denoiser, spectrum, shapes, shape = self.setup(domain, kind, schedule)
        inner, seed = Heun(denoiser, 30), lambda: torch.Generator().manual_seed(0)
        run = Cascade(inner, shapes[1:], spectrum, first=shapes[:1], cell_averages=False)
        x = sde.prior((2, 1, *shape), generator=seed())
        seen = []
        denoiser.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
        end = run(x)
        assert [grid for grid, _ in itertools.groupby(seen)] == [*shapes, shape]
        planned = [(grid, sum(n for _, n in same)) for grid, same in itertools.groupby(run.grids(x), lambda g: g[0])]
        assert planned == [(grid, len(list(same))) for grid, same in itertools.groupby(seen)]
        if kind != "pixel":
            coarse = sde.prior((2, 1, *shapes[1]), generator=seed())
            torch.testing.assert_close(
                domain.resample(end, shapes[1]), Progressive(inner, shapes[:1], spectrum)(coarse)
            )

    def test_switches_when_the_new_modes_reach_the_budget(self, domain, kind, schedule):
        sde, denoiser, spectrum, shapes, shape = self.setup(domain, kind, schedule)
        sampler, x = Progressive(Heun(denoiser, 200), shapes, spectrum, budget=0.1), sde.prior((1, 1, *shape))
        rungs, times = sampler.plan(x), sampler.times(x)
        assert [r.shape for r in rungs] == [*shapes, shape]
        assert sum(r.steps for r in rungs) == len(times) - 1
        ladder = [*shapes, shape]
        for coarse, fine, rung in zip(ladder, ladder[1:], rungs[1:], strict=False):
            # The sum over modes of the finer grid that the coarser one lacks, by a field of their standard deviations.
            eigenvalues = domain.eigenvalues(fine)
            c = sde.noise.on(shape).std(eigenvalues)
            roots = spectrum(eigenvalues, domain.dim).sqrt() / c
            field = domain.synthesize(roots[None, None].to(domain.white((1, 1), fine).dtype), fine)
            band = field - domain.resample(domain.resample(field, coarse), fine)
            total = float(domain.norm(band).square())
            at = int((times - rung.time).abs().argmin())
            assert rung.snr == pytest.approx(total / float(schedule.ratio(times[at])) ** 2)
            assert rung.snr <= 0.1 or at == 0
            later = total / float(schedule.ratio(times[at + 1])) ** 2
            assert later > 0.1 or at + 1 >= len(times) - 1


@pytest.mark.parametrize("make", OBSERVATIONS)
@pytest.mark.parametrize("domain", [d for d in DOMAINS if d.dim < 3], ids=repr)
class TestObservation:
    def near(self, seen: Observation, x: Tensor, domain: Domain) -> Linearised:
        return Linearised(seen, x, Normalization([0.5, -1.0], [2.0, 3.0]).to(x), domain)

    def test_transpose_is_the_transpose(self, domain, make):
        seen, x = make(domain), torch.randn(3, 2, *(9,) * domain.dim)
        near, u = self.near(seen, x, domain), torch.randn_like(x)
        v = torch.randn_like(near.residual)
        torch.testing.assert_close((near.forward(u) * v).sum(1), (u * near.transpose(v)).flatten(1).sum(1))

    def test_residual_is_in_standard_deviations_and_falls_as_predicted(self, domain, make):
        seen, x = make(domain), torch.randn(3, 2, *(9,) * domain.dim)
        near, u = self.near(seen, x, domain), torch.randn_like(x)
        torch.testing.assert_close(self.near(seen, x + u, domain).residual, near.residual - near.forward(u))
        units = Normalization([0.5, -1.0], [2.0, 3.0]).to(x)
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
