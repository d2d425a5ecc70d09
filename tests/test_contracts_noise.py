"""What every noise and every schedule promises."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from eigenfunctions import on_grid, project
from parts import FLAT, NOISES, SCHEDULES, name, pairwise
from torch import Tensor

from fnodiff.domain import Box
from fnodiff.sde import FunctionSpaceSDE, Noise, PixelNoise, Schedule, WhiteNoise

each_noise = pytest.mark.parametrize(("domain", "make"), list(itertools.product(FLAT, NOISES)), ids=name)


@pytest.mark.usefixtures("float64")
class TestNoise:
    @pytest.mark.parametrize(
        ("domain", "make", "sides", "seeded"),
        pairwise(FLAT, NOISES, [([32, 32], False), ([64, 64], False), ([45, 64], True)]),
        ids=name,
    )
    def test_variance_per_shell_of_modes(self, domain, make, sides, seeded):
        noise: Noise = make(domain)
        shape, samples = sides[: domain.dim], 100  # the tolerance is that of the samples
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

    @pytest.mark.parametrize(
        ("domain", "make", "sides"), pairwise(FLAT, NOISES, [[64, 64], [45, 64], [32, 32], [7, 16]]), ids=name
    )
    def test_one_seed_is_one_function_on_every_grid_and_in_any_batch(self, domain, make, sides):
        noise: Noise = make(domain)
        shape, other = (32,) * domain.dim, tuple(sides[: domain.dim])
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

    @each_noise
    def test_variance_per_point(self, domain, make):
        noise: Noise = make(domain)
        shape = (32,) * domain.dim
        phi, eigenvalues = on_grid(domain, shape)
        mean_square = project(domain, phi.square().reshape(1, -1, *shape), torch.ones(1, math.prod(shape)))
        covariance_trace = float((mean_square.flatten() * noise.std(eigenvalues).square()).sum())
        assert noise.variance(shape) == pytest.approx(covariance_trace)

    @each_noise
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

    @each_noise
    def test_float32_is_the_same_function(self, domain, make):
        noise: Noise = make(domain)
        draws = [
            noise.sample((2, 1, *(16,) * domain.dim), generator=torch.Generator().manual_seed(1), dtype=dtype)
            for dtype in (torch.float32, torch.float64)
        ]
        assert draws[0].dtype == torch.float32
        torch.testing.assert_close(draws[0].double(), draws[1], atol=1e-5, rtol=1e-4)


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
