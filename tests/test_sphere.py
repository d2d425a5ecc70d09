"""The sphere beyond the contracts: grids, rotations, layers, and what else only it has."""

from __future__ import annotations

import math

import pytest
import torch
from torch_harmonics import DiscreteContinuousConvS2, InverseRealSHT, RealSHT

from fnodiff import (
    DFU,
    EDM,
    DPMSolver,
    EDMScaling,
    FunctionSpaceSDE,
    GaussianRandomField,
    Matern,
    Model,
    PixelNoise,
    Sphere,
    WhiteNoise,
    metrics,
    sample,
)
from fnodiff.data import ArrayFields, MultiResolution
from fnodiff.inverse import MomentMatching, PointObservation
from fnodiff.nn.blocks import positions
from fnodiff.nn.spherical import SphericalConv, SphericalLocalConv, neuralop_spherical
from fnodiff.sde import Direct, GaussianDenoiser, fit_spectrum, measure_normalization, run

GRIDS = ["legendre-gauss", "equiangular"]


def cartesian(points):
    """(2, P) colatitudes and longitudes to (3, P)."""
    theta, phi = points
    return torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()])


def spherical(x):
    return torch.stack([x[2].clamp(-1, 1).arccos(), torch.atan2(x[1], x[0]) % (2 * math.pi)])


def rotation(seed=0):
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    return q * torch.linalg.det(q)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.usefixtures("float64")
class TestGrid:
    def test_rows_go_from_north_to_south_and_the_equiangular_ones_from_pole_to_pole(self, grid):
        theta, phi = Sphere(grid).points((5, 8))
        assert bool((theta[1:] > theta[:-1]).all())
        torch.testing.assert_close(phi, (torch.arange(8.0) / 8 * 2 * math.pi).expand(5, 8))
        if grid == "equiangular":
            torch.testing.assert_close(theta[:, 0], torch.linspace(0, math.pi, 5))
        else:
            torch.testing.assert_close(theta + theta.flip(0), torch.full((5, 8), math.pi))
            assert float(theta.min()) > 0

    @pytest.mark.parametrize(("shape", "degrees"), [((32, 64), (32, 16)), ((33, 64), (32, 17)), ((8, 9), (5, 4))])
    def test_degrees_that_it_holds(self, grid, shape, degrees):
        assert Sphere(grid).degrees(shape) == degrees[GRIDS.index(grid)]

    def test_coefficients_are_those_of_torch_harmonics(self, grid):
        domain, shape = Sphere(grid), (12, 24)
        count = domain.degrees(shape)
        x = domain.synthesize(torch.randn(1, 1, count, count), shape)
        c, theirs = domain.analyze(x)[0, 0], RealSHT(*shape, lmax=count, mmax=count, grid=grid)(x)[0, 0]
        for degree, m in [(0, 0), (1, 0), (1, 1), (3, 2), (count - 1, count - 1)]:
            sign = (-1) ** m * (math.sqrt(2) if m else 1) / math.sqrt(4 * math.pi)
            assert float(c[degree, m]) == pytest.approx(float(theirs[degree, m].real) * sign, abs=1e-9)
            if m:
                assert float(c[m - 1, degree]) == pytest.approx(-float(theirs[degree, m].imag) * sign, abs=1e-9)
        back = InverseRealSHT(*shape, lmax=count, mmax=count, grid=grid)(theirs)
        torch.testing.assert_close(back, x[0, 0])

    def test_one_number_names_latitudes(self, grid):
        assert Sphere(grid).shape_of(16) == (16, 32)

    def test_from_one_kind_of_grid_to_the_other(self, grid):
        here, other = Sphere(grid), Sphere(GRIDS[1 - GRIDS.index(grid)])
        x = here.synthesize(torch.randn(2, 1, 6, 6), (16, 32))
        there = other.synthesize(here.analyze(x), (13, 24))
        torch.testing.assert_close(there, here.evaluate(x, other.points((13, 24))))

    def test_noise_has_one_law_everywhere_and_in_every_orientation(self, grid):
        domain, count = Sphere(grid), 4000
        noise = GaussianRandomField(domain, Matern(1.0, 0.5))
        z = noise.sample((count, 1, 17, 32))
        pole, equator, here = torch.tensor([[0.0], [1.0]]), torch.tensor([[math.pi / 2], [2.0]]), rotation()
        variance = [float(domain.evaluate(z, p).var()) for p in (pole, equator)]
        assert abs(variance[0] / variance[1] - 1) < 4 * math.sqrt(4 / count)
        # The covariance of any two points is that of their rotated images.
        places = spherical(
            torch.nn.functional.normalize(torch.randn(3, 6, generator=torch.Generator().manual_seed(1)), dim=0)
        )
        a, b = (domain.evaluate(z, p)[:, 0] for p in (places, spherical(here @ cartesian(places))))
        error = (a.T @ a - b.T @ b) / count
        assert float(error.abs().max()) < 5 * math.sqrt(4 / count) * variance[1]
        assert float((a.T @ a / count)[0].abs().max()) > 0.3, "and not by vanishing"


@pytest.mark.usefixtures("float64")
def test_degrees_are_kept_by_rotations():
    """What a rotated function has in each degree is what it had; and a filter commutes with the rotation."""
    domain = Sphere()
    x = domain.synthesize(torch.randn(1, 1, 9, 9), (9, 17))

    def rotate(v):
        points = spherical(rotation() @ cartesian(domain.points((9, 17)).flatten(1)))
        return domain.evaluate(v, points).unflatten(-1, (9, 17))

    degree = domain.shells((9, 17))[0].flatten()
    power = [torch.bincount(degree, domain.analyze(v).square().flatten()) for v in (x, rotate(x))]
    torch.testing.assert_close(power[0], power[1])
    smooth = lambda v: domain.filter(v, lambda e: 1 / (1 + e))  # noqa: E731
    torch.testing.assert_close(rotate(smooth(x)), smooth(rotate(x)))


class TestBadInput:
    def test_another_grid(self):
        with pytest.raises(ValueError, match="legendre-gauss"):
            Sphere("healpix")

    def test_noise_per_point(self):
        with pytest.raises(ValueError, match="WhiteNoise"):
            PixelNoise(Sphere())

    def test_averages_over_cells(self):
        x = torch.randn(4, 1, 16, 32)
        with pytest.raises(ValueError, match="cell_averages=False"):
            fit_spectrum(x, Sphere(), cell_averages=True)

    def test_averages_are_in_full_precision_under_autocast(self):
        x = torch.rand(1, 1, 16, 32)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = Sphere().average(x, (8, 16))
        assert torch.equal(found, Sphere().average(x, (8, 16)))

    def test_one_latitude(self):
        with pytest.raises(ValueError, match="2 latitudes"):
            Sphere("equiangular").points((1, 8))

    @pytest.mark.parametrize("colatitude", [-0.1, math.pi + 0.1])
    def test_points_beyond_the_poles(self, colatitude):
        seen = PointObservation(torch.tensor([[colatitude], [0.0]]), torch.zeros(1, 1), 0.1)
        with pytest.raises(ValueError, match="colatitude"):
            seen(torch.randn(1, 1, 16, 32), Sphere())

    def test_the_poles_are_points(self):
        poles = torch.deg2rad(torch.tensor([[0.0, 180.0], [0.0, 0.0]])).double()  # rounded beyond pi
        seen = PointObservation(poles, torch.zeros(1, 2), 0.1)
        assert bool(seen(torch.randn(1, 1, 16, 32), Sphere()).isfinite().all())

    def test_points_with_a_gradient(self):
        with pytest.raises(ValueError, match="detach"):
            Sphere().evaluate(torch.randn(1, 1, 8, 16), torch.ones(2, 3, requires_grad=True))

    @pytest.mark.parametrize("option", ["resolution_scaling_factor", "sht_grids", "fno_block_precision"])
    def test_options_that_the_domain_decides(self, option):
        with pytest.raises(ValueError, match=option):
            SphericalConv(1, 1, (4, 8), **{option: "mixed"})

    @pytest.mark.parametrize("n_modes", [(8, 8), (8,), (8.0, 16.0)])
    def test_modes_that_are_no_degrees(self, n_modes):
        with pytest.raises(ValueError, match=r"\(L, 2 L\)"):
            SphericalConv(1, 1, n_modes)


@pytest.mark.parametrize("grid", GRIDS)
class TestLayers:
    @pytest.mark.parametrize("options", [{}, {"factorization": "ComplexTucker", "rank": 0.5}])
    def test_spectral_is_neuralops_where_that_is_right(self, grid, options):
        layer = SphericalConv(4, 4, (8, 16), domain=Sphere(grid), **options)
        x = torch.randn(2, 4, 16, 32)
        for shape in ((16, 32), (24, 48)):
            theirs = neuralop_spherical.SphericalConv.forward(layer, x, shape)
            torch.testing.assert_close(layer(x, shape), theirs, atol=1e-5, rtol=1e-4)

    def test_separable_is_a_diagonal_of_the_dense_one(self, grid):
        dense, separable = (
            SphericalConv(3, 3, (8, 16), domain=Sphere(grid), bias=False, separable=v) for v in (False, True)
        )
        with torch.no_grad():
            diagonal = torch.diag_embed(separable.weight.to_tensor().movedim(0, -1)).movedim(0, -1)
            dense.weight.tensor.copy_(diagonal if dense.weight.tensor.is_complex() else torch.view_as_real(diagonal))
        x = torch.randn(2, 3, 16, 32)
        torch.testing.assert_close(separable(x), dense(x))

    def test_spectral_sees_the_function_alone(self, grid):
        domain, layer = Sphere(grid), SphericalConv(2, 3, (12, 24), domain=Sphere(grid)).double()
        x = domain.synthesize(torch.randn(2, 2, 5, 5, dtype=torch.float64), (10, 19))  # holds 10 or 5 degrees
        for shape in ((24, 48), (11, 21)):
            out = layer(domain.resample(x, shape), (10, 19))
            torch.testing.assert_close(out, layer(x))

    def test_spectral_gradients(self, grid):
        layer = SphericalConv(1, 2, (3, 6), domain=Sphere(grid), bias=False).double()
        x = torch.randn(1, 1, 5, 8, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda v: layer(v, (6, 9)), x)
        layer(x).square().sum().backward()
        assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in layer.parameters())

    def test_real_weights_commute_with_rotations(self, grid):
        domain, shape = Sphere(grid), (20, 40)
        layer = SphericalConv(1, 1, (8, 16), domain=domain, bias=False).double()
        with torch.no_grad():
            layer.weight.tensor.imag.zero_() if layer.weight.tensor.is_complex() else layer.weight.tensor[
                ..., 1
            ].zero_()
        x = domain.synthesize(torch.randn(1, 1, 8, 8, dtype=torch.float64), shape)

        def rotate(v):
            points = spherical(rotation() @ cartesian(domain.points(shape, dtype=torch.float64).flatten(1)))
            return domain.evaluate(v, points).unflatten(-1, shape)

        torch.testing.assert_close(layer(rotate(x)), rotate(layer(x)))

    def test_local_reaches_as_far_on_every_grid_and_no_farther(self, grid):
        domain, reference = Sphere(grid), (16, 32)
        layer = SphericalLocalConv(1, 1, domain=domain, reference=reference)
        centre = torch.tensor([math.pi / 2, math.pi])
        for shape in ((16, 32), (32, 64)):
            points = domain.points(shape).flatten(1)
            nearest = int((points - centre[:, None]).square().sum(0).argmin())
            x = torch.zeros(1, 1, math.prod(shape))
            x[..., nearest] = 1
            moved = (layer(x.unflatten(2, shape)) - layer.bias).abs().flatten() > 1e-7
            angle = (cartesian(points).T @ cartesian(points[:, [nearest]])).clamp(-1, 1).arccos().flatten()
            reach = float(angle[moved].max())
            named = 2 * math.pi / (16 - (grid == "equiangular"))
            assert named * 0.6 < reach < named * 1.01

    def test_local_is_nearly_the_same_operator_on_every_grid(self, grid):
        domain, held = Sphere(grid), (15, 32)
        layer = SphericalLocalConv(2, 2, domain=domain, reference=(32, 64))
        x = GaussianRandomField(domain, Matern(2.0, 0.5)).sample((2, 2, *held))
        x = domain.synthesize(domain.analyze(x), held)
        with torch.no_grad():
            outs = [domain.resample(layer(domain.resample(x, shape)), held) for shape in ((32, 64), (64, 128), held)]
        for out in outs[1:]:
            assert float(metrics.relative_l2(out, outs[0], domain).max()) < 0.05

    def test_on_cell_centres_they_are_what_they_are_on_gauss_grids(self, grid):
        domain, gauss, shape = Sphere("cell-centred", half_longitudes=True), Sphere(), (16, 32)
        function = torch.randn(1, 2, 6, 6)
        for kind, options in ((SphericalLocalConv, {"reference": shape}), (SphericalLocalConv, {})):
            layers = [kind(2, 3, domain=d, **options) for d in (domain, gauss)]
            layers[0].load_state_dict(layers[1].state_dict())
            ours, theirs = (
                d.analyze(f(d.synthesize(function, shape))) for d, f in zip((domain, gauss), layers, strict=True)
            )
            torch.testing.assert_close(ours, theirs[..., :8, :8])

    def test_local_is_torch_harmonics(self, grid):
        shape, ours = (12, 24), SphericalLocalConv(3, 2, domain=Sphere(grid))
        reach, grids = 2 * math.pi / (12 - (grid == "equiangular")), {"grid_in": grid, "grid_out": grid}
        theirs = DiscreteContinuousConvS2(3, 2, shape, shape, (3, 4), theta_cutoff=reach, **grids)
        theirs.load_state_dict(ours.state_dict())
        x = torch.randn(2, 3, *shape)
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-4)

    def test_local_has_second_derivatives_and_draws_no_random_numbers(self, grid):
        layer = SphericalLocalConv(1, 1, domain=Sphere(grid), reference=(5, 9)).double()
        x = torch.randn(1, 1, 5, 9, dtype=torch.float64, requires_grad=True)
        state = torch.get_rng_state()
        layer(x)  # the first on this grid
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.autograd.gradcheck(layer, x)
        assert torch.autograd.gradgradcheck(lambda v: layer(v).square(), x)


OPERATOR = {"local": "operator", "reference": (16, 32)}


class TestNetwork:
    def test_is_nearly_the_same_operator_on_every_grid(self):
        """Random weights, 32 x 64 against 64 x 128, a smooth field: below 5%."""
        torch.manual_seed(0)
        domain = Sphere()
        net = DFU.small(1, 1, domain=domain, zero_init=False, **{**OPERATOR, "reference": (32, 64)}).eval()
        smooth = GaussianRandomField(domain, Matern(2.0, 0.5))

        def field(shape):
            return smooth.sample((2, 1, *shape), generator=torch.Generator().manual_seed(0))

        with torch.no_grad():
            (error,) = metrics.discretization_error(
                lambda x: net(x, torch.zeros(())), field, [(32, 64), (64, 128)], domain
            )
        assert 1e-4 < error < 0.05

    @pytest.mark.parametrize(
        "options", [{}, OPERATOR, {"local": None}, {"local": "point"}, {**OPERATOR, "local": "conv"}]
    )
    def test_runs_with_every_kind_of_branch(self, options):
        options = {"spectral_levels": 2, **options}
        net = DFU.tiny(2, 1, domain=Sphere("equiangular"), zero_init=False, **options)
        x = torch.randn(2, 2, 17, 32)
        out = net(x, torch.zeros(2))
        assert out.shape == (2, 1, 17, 32)
        out.square().mean().backward()
        assert all(p.grad is not None for p in net.parameters() if p.requires_grad)

    def test_groups_its_parameters(self):
        net = DFU.tiny(1, 1, domain=Sphere())
        parts = {part for _, part in net.parameter_groups().values()}
        assert {"spectral", "local", "norm", "embedding"} <= parts

    def test_positions_are_harmonics(self):
        domain, shape = Sphere(), (16, 32)
        net = DFU.tiny(1, 1, domain=domain, positional_modes=2)
        assert net.stem.local.weight.shape[1] == 1 + 8
        places = positions(domain, (2,), shape, torch.float64, torch.device("cpu"))
        weights = domain.weights(shape, dtype=torch.float64)
        torch.testing.assert_close(torch.einsum("ahw,bhw,hw->ab", places, places, weights), torch.eye(8).double())
        e = torch.tensor([2.0] * 3 + [6.0] * 5).double()[:, None, None]
        torch.testing.assert_close(domain.filter(places[:, None], lambda v: v)[:, 0], e * places)

    @pytest.mark.parametrize(("n_modes", "mult"), [((20, 40), (1, 1, 1, 1)), ((5, 10), (1, 1, 1)), ((2, 4), (1, 1, 1))])
    def test_modes_are_halved_as_degrees(self, n_modes, mult):
        net = DFU(1, 1, n_modes, 8, mult, 1, len(mult), (), domain=Sphere("equiangular"))
        assert net(torch.randn(1, 1, 8, 16), torch.zeros(1)).shape == (1, 1, 8, 16)

    def test_modes_that_are_no_degrees(self):
        with pytest.raises(ValueError, match="DFU: expected n_modes"):
            DFU.tiny(1, 1, domain=Sphere(), n_modes=(8, 8))


def test_normalization_counts_areas():
    """A field that is one around the pole and zero elsewhere has the cap's share as its mean."""
    domain = Sphere()
    x = (domain.points((16, 32))[0] < 0.5).float().expand(4, 1, 16, 32).contiguous()
    share = float(domain.weights((16, 32))[x[0, 0] > 0].sum())
    data = MultiResolution(ArrayFields(x, domain=domain, mask=torch.ones(16, 32)), domain, [16], batch_size=2)
    units = measure_normalization(data)
    assert share < 0.08
    assert units.mean == pytest.approx((share,), rel=1e-3)
    assert units.std == pytest.approx((math.sqrt(share * (1 - share)),), rel=1e-3)


def test_saved_model_samples_the_same(tmp_path):
    domain = Sphere()
    net = DFU.tiny(1, 1, domain=domain, zero_init=False, **OPERATOR)
    model = Model(net, FunctionSpaceSDE(WhiteNoise(domain, (16, 32)), EDM()), EDMScaling()).eval()
    again = Model.from_pretrained(model.save_pretrained(tmp_path))
    once, twice = (sample(m, (16, 32), [7], solver=DPMSolver(3)) for m in (model, again))
    torch.testing.assert_close(once, twice)


@pytest.mark.usefixtures("float64")
def test_posterior_of_stations_is_the_gaussian_one():
    """Stations see the field at points; the mean of guided samples is that of conditioning a Gaussian law on them."""
    domain, shape, stations, std = Sphere(), (10, 19), 12, 0.1
    data = GaussianRandomField(domain, Matern(1.5, 1.0))
    sde = FunctionSpaceSDE(GaussianRandomField(domain, Matern(0.5, 0.5)), EDM(0.002, 200.0))
    generator = torch.Generator().manual_seed(0)
    points = spherical(torch.nn.functional.normalize(torch.randn(3, stations, generator=generator), dim=0))
    truth = data.sample((1, 1, *shape), generator=generator)
    values = domain.evaluate(truth, points)[0] + std * torch.randn(1, stations, generator=generator)

    count = domain.degrees(shape) ** 2
    basis = domain.synthesize(torch.eye(count).unflatten(1, (10, 10))[:, None], shape)
    seen = domain.evaluate(basis, points)[:, 0].T  # (stations, modes)
    prior = data.std(domain.eigenvalues(shape)).square().flatten()
    gram = (seen * prior) @ seen.T + std**2 * torch.eye(stations)
    mean = (prior * (seen.T @ torch.linalg.solve(gram, values[0]))).unflatten(0, (10, 10))
    expected = domain.synthesize(mean[None, None], shape)

    guided = MomentMatching(GaussianDenoiser(data, sde), PointObservation(points, values, std))
    start = sde.prior((1, 1, *shape), generator=generator)
    start = torch.cat([start, -start])  # samples are linear in it: the mean of these is that of all
    solver = DPMSolver(20)
    x = run(guided, solver, Direct().plan(guided, shape, solver.times(sde.schedule)), start)
    error = float(metrics.relative_l2(x.mean(0, keepdim=True), expected, domain))
    assert error < 0.03
    assert float(metrics.relative_l2(torch.zeros_like(expected), expected, domain)) > 5 * error


class TestMetrics:
    def test_those_of_pictures_say_that_they_are_none_of_the_sphere(self):
        x = torch.randn(4, 1, 16, 32)
        with pytest.raises(ValueError, match="expected a Box"):
            metrics.global_coherence(x, x, Sphere())
        with pytest.raises(ValueError, match="patches are alike"):
            metrics.high_band_distance(x, x, Sphere(), (8, 16))

    def test_spectrum_is_per_degree(self):
        domain = Sphere()
        c = torch.zeros(1, 1, 8, 8)
        c[..., 3, 2] = 2.0
        wavenumber, power = metrics.radial_spectrum(domain.synthesize(c, (8, 16)), domain)
        assert float(wavenumber[2]) == pytest.approx(math.sqrt(12) / (2 * math.pi))  # degree 3: the mean is left out
        assert float(power[2]) == pytest.approx(4.0 / 7, rel=1e-5)
        assert float(power.sum()) == pytest.approx(4.0 / 7, rel=1e-5)

    def test_averages_count_areas(self):
        domain, y = Sphere(), torch.zeros(1, 1, 16, 32)
        y[:, :, 0] = 1.0  # wrong around the pole alone
        share = float(domain.weights((16, 32))[0].sum())
        assert share < 0.02
        samples = torch.zeros(4, 1, 1, 16, 32)
        assert float(metrics.crps(samples, y, domain).mean()) == pytest.approx(share, rel=1e-4)
        assert float(domain.norm(y)) == pytest.approx(math.sqrt(share), rel=1e-4)
