"""Domains beyond the contract: conventions, area averages, random numbers, bad input."""

from __future__ import annotations

import math

import pytest
import torch

from fnodiff.domain import Box, Product, Sphere, Torus, normals
from fnodiff.sde import GaussianRandomField, Matern


def test_grids_are_points_on_the_torus_and_cell_centres_on_the_box():
    torch.testing.assert_close(Torus(1).points((4,)), torch.tensor([[0.0, 0.25, 0.5, 0.75]]))
    torch.testing.assert_close(Box(1, (2.0,)).points((4,)), torch.tensor([[0.25, 0.75, 1.25, 1.75]]))
    y, x = Box(2, (1.0, 3.0)).points((2, 3))
    torch.testing.assert_close(y, torch.tensor([[0.25] * 3, [0.75] * 3]))
    torch.testing.assert_close(x, torch.tensor([[0.5, 1.5, 2.5]] * 2))
    x, y = Product([Torus(1, (3.0,)), Box(1)]).points((3, 2))
    torch.testing.assert_close(x, torch.tensor([[0.0] * 2, [1.0] * 2, [2.0] * 2]))
    torch.testing.assert_close(y, torch.tensor([[0.25, 0.75]] * 3))


def test_a_product_is_its_axes_however_they_are_grouped():
    plates = Product([Torus(2, (2.0, 1.0)), Box(1)])
    assert (
        plates
        == Product([Torus(1, (2.0,)), Torus(1), Box(1)])
        == Product([Torus(1, (2.0,)), Product([Torus(1), Box(1)])])
    )
    assert (plates.dim, plates.lengths, plates.edges) == (3, (2.0, 1.0, 1.0), ("periodic", "periodic", "wall"))
    assert plates != Product([Torus(2), Box(1)]) and hash(plates) == hash(Product([Torus(2, (2.0, 1.0)), Box(1)]))


@pytest.mark.parametrize(("domain", "frequency"), [(Torus(1, (2.0,)), math.pi), (Box(1, (2.0,)), math.pi / 2)])
def test_eigenvalues_are_those_of_the_side_lengths(domain, frequency):
    torch.testing.assert_close(domain.eigenvalues((8,))[1], torch.tensor(frequency**2))


def test_an_even_torus_grid_drops_its_nyquist_mode():
    x = torch.tensor([1.0, -1.0, 1.0, -1.0]).reshape(1, 1, 4)
    torch.testing.assert_close(Torus(1).filter(x, torch.ones_like), torch.zeros_like(x))
    torch.testing.assert_close(Box(1).filter(x, torch.ones_like), x)


MIXED = Product([Torus(1, (2.0,)), Box(1, (5.0,))])


class TestAverage:
    @pytest.mark.parametrize("shape", [(3, 5), (7, 4), (12, 8), (5, 16), (24, 3)])
    def test_is_the_exact_mean_over_each_new_cell(self, shape):
        x = torch.randn(2, 3, 12, 8, dtype=torch.float64)
        common = x.repeat_interleave(shape[0], 2).repeat_interleave(shape[1], 3)  # a grid that both divide
        expected = common.unflatten(2, (shape[0], 12)).unflatten(4, (shape[1], 8)).mean((3, 5))
        torch.testing.assert_close(Box(2).average(x, shape), expected)

    def test_multiplies_modes_by_the_sinc(self):
        fine, coarse, k = 1200, 24, 5
        x = (math.pi * k * Box(1).points((fine,), dtype=torch.float64)).cos()[None]
        c = Box(1).analyze(Box(1).average(x, (coarse,)))[0, 0, k] / Box(1).analyze(x)[0, 0, k]
        assert float(c) == pytest.approx(math.sin(math.pi * k / (2 * coarse)) / (math.pi * k / (2 * coarse)), rel=1e-4)

    @pytest.mark.parametrize(("fine", "coarse"), [(40, 8), (40, 9), (9, 12), (12, 24)])
    def test_cells_of_a_periodic_axis_lie_around_its_points(self, fine, coarse):
        # A cosine that is constant on fine cells, integrated over each coarse one by a fine sum.
        x = torch.rand(1, 1, fine, 2, dtype=torch.float64)
        channel, parts = Product([Torus(1), Box(1)]), 2 * 3 * 5 * 8 * 9
        places = (torch.arange(parts, dtype=torch.float64) + 0.5) / parts
        steps = x[0, 0, :, 0][((places * fine + 0.5).floor().long()) % fine]
        cell = (places * coarse + 0.5).floor().long() % coarse
        expected = torch.zeros(coarse, dtype=torch.float64).index_add(0, cell, steps) / (parts / coarse)
        found = channel.average(x, (coarse, 2))
        torch.testing.assert_close(found[0, 0, :, 0], expected)
        torch.testing.assert_close(found.mean(2), x.mean(2))

    def test_of_a_smooth_field_is_what_the_attenuation_says(self):
        channel = Product([Torus(1), Box(1)])
        c = channel.white((1, 1), (9, 8), dtype=torch.float64)
        finest, shape = (512, 512), (16, 16)
        cells = channel.average(channel.synthesize(c, finest), shape)
        expected = channel.synthesize(c * channel.attenuation((9, 8), shape, dtype=torch.float64), shape)
        torch.testing.assert_close(cells, expected, atol=2e-3, rtol=2e-3)
        assert float((channel.synthesize(c, shape) - expected).abs().max()) > 0.05

    def test_upsampling_along_a_channel_is_linear_and_crosses_the_seam(self):
        channel = Product([Torus(1), Box(1)])
        x = torch.tensor([1.0, 3.0, 5.0, 9.0])[None, None, :, None].expand(1, 1, 4, 2)
        found = channel.upsample(x, (8, 4))
        torch.testing.assert_close(found[0, 0, :, 0], torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 9.0, 5.0]))
        y = torch.tensor([1.0, 3.0]).expand(1, 1, 4, 2)
        torch.testing.assert_close(channel.upsample(y, (8, 4))[0, 0, 0], torch.tensor([1.0, 1.5, 2.5, 3.0]))

    def test_survives_inference_mode(self):
        with torch.inference_mode():
            Box(1).average(torch.randn(1, 1, 11), (7,))
        x = torch.randn(1, 1, 11, requires_grad=True)
        Box(1).average(x, (7,)).sum().backward()
        torch.testing.assert_close(x.grad, torch.full_like(x, 7 / 11))


class TestDerivative:
    """Central differences along an axis, in the units of its length."""

    @pytest.mark.parametrize("axis", [0, 1])
    @pytest.mark.parametrize("domain", [Torus(2, (2.0, 5.0)), Box(2, (2.0, 5.0)), MIXED], ids=str)
    def test_of_waves_is_theirs_of_the_chord(self, domain, axis):
        shape, length = (24, 40), domain.lengths[axis]
        places = domain.points(shape, dtype=torch.float64)[axis]
        k, h = 2 * math.pi * 3 / length, length / shape[axis]
        found = domain.derivative((k * places).sin().expand(2, 1, *shape), axis).movedim(axis + 2, -1)
        expected = (k * places).cos().movedim(axis, -1) * math.sin(k * h) / h
        inside = slice(1, -1) if domain.edges[axis] == "wall" else slice(None)  # one-sided at walls
        torch.testing.assert_close(found[..., inside], expected[..., inside].expand_as(found[..., inside]))

    def test_of_a_plane_is_its_slope_up_to_the_edges(self):
        domain = Box(2, (2.0, 5.0))
        y, x = domain.points((6, 9), dtype=torch.float64)
        plane = (3 * y - 0.5 * x)[None, None]
        torch.testing.assert_close(domain.derivative(plane, 0), torch.full_like(plane, 3.0))
        torch.testing.assert_close(domain.derivative(plane, 1), torch.full_like(plane, -0.5))


class TestWhatDomainsAnswer:
    @pytest.mark.parametrize(
        ("domain", "shape", "modes"),
        [
            (Torus(2), (8, 9), (8, 9)),
            (Box(1), (7,), (7,)),
            (MIXED, (8, 9), (8, 9)),
            (Sphere(), (8, 16), (8, 16)),
            (Sphere("equiangular"), (9, 17), (5, 10)),
        ],
        ids=str,
    )
    def test_modes_that_a_grid_holds(self, domain, shape, modes):
        assert domain.modes(shape) == modes

    @pytest.mark.parametrize(
        ("domain", "averages"), [(Box(2), True), (MIXED, True), (Torus(2), False), (Sphere(), False)], ids=str
    )
    def test_measured_fields_are_coarsened_by_averages_where_cells_are_averaged(self, domain, averages):
        x = torch.randn(2, 1, 12, 24)
        expected = domain.average(x, (6, 12)) if averages else domain.resample(x, (6, 12))
        torch.testing.assert_close(domain.coarsen(x, (6, 12)), expected)
        assert domain.averages_cells == averages

    @pytest.mark.parametrize("domain", [Torus(2), Box(2), MIXED, Sphere()], ids=str)
    def test_usual_grids(self, domain):
        assert domain.is_usual(domain.shape_of(8))
        assert not domain.is_usual((8, 12))

    @pytest.mark.parametrize(
        ("domain", "points"),
        [
            (Torus(1), torch.tensor([[-3.0, 7.5]])),  # periodic: every number
            (Box(1, (2.0,)), torch.tensor([[0.0, 2.0]])),
            (MIXED, torch.tensor([[-9.0, 9.0], [0.0, 5.0]])),
            (Sphere(), torch.tensor([[0.0, math.pi], [-9.0, 9.0]])),
        ],
        ids=str,
    )
    def test_points_on_it_are_taken(self, domain, points):
        domain.check_points(points)


class TestNormals:
    def test_are_standard_and_independent(self):
        z = normals((500, 2), (9, 7), generator=torch.Generator().manual_seed(0)).flatten()
        assert abs(float(z.mean())) < 4 / math.sqrt(len(z))
        assert abs(float(z.square().mean()) - 1) < 4 * math.sqrt(2 / len(z))
        assert abs(float((z[1:] * z[:-1]).mean())) < 4 / math.sqrt(len(z))

    def test_a_sample_depends_on_its_seed_alone(self):
        whole = normals((4, 2), (5,), generator=torch.Generator().manual_seed(3))
        generator = torch.Generator().manual_seed(3)
        chunks = torch.cat([normals((2, 2), (5,), generator=generator) for _ in range(2)])
        torch.testing.assert_close(whole, chunks, rtol=0, atol=0)

    def test_seeds_that_agree_in_32_bits_differ(self, monkeypatch):
        # torch's own CPU generator keeps the lowest 32 bits of a seed: collisions among some 60,000 samples.
        monkeypatch.setattr("fnodiff.domain.draws.seeds", lambda batch, generator: [5, 5 + 2**32])
        z = normals((2, 1), (9,), generator=torch.Generator())
        assert float((z[0] - z[1]).abs().min()) > 0


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        (Torus(2), (0.363259, -0.390326, -0.07434)),
        (Box(2), (0.708562, 0.077071, -1.641039)),
        (Sphere(), (0.588374, -0.174868, -0.826253)),
        (Product([Torus(1), Box(1)]), (0.608689, 1.076584, 1.013399)),
    ],
    ids=str,
)
def test_a_seed_is_the_same_function_in_every_version(domain, expected):
    # What docs/stability.md promises: recorded with version 0.1.
    noise, generator = GaussianRandomField(domain, Matern(1.0, 0.3)), torch.Generator().manual_seed(7)
    z = noise.sample((1, 2, 9, 17), generator=generator, dtype=torch.float64)
    assert (float(z[0, 0, 0, 0]), float(z[0, 1, 4, 8]), float(z[0, 0, 8, 16])) == pytest.approx(expected, abs=1e-6)


def test_isotropy_on_the_torus():
    x = GaussianRandomField(Torus(2), Matern(1.0, 0.15)).sample((1500, 1, 40, 40), dtype=torch.float64)
    products = torch.stack([(x * x.roll(shift, (2, 3))).mean((1, 2, 3)) for shift in [(5, 0), (0, 5), (3, 4), (4, -3)]])
    difference = products[1:] - products[:1]
    assert bool((difference.mean(1).abs() < 4 * difference.std(1) / math.sqrt(1500)).all())
    assert float(products.mean()) > 0.2  # and there is something to compare


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Torus(4), "dim 1, 2 or 3"),
        (lambda: Box(2, (1.0,)), "2 positive side lengths"),
        (lambda: Box(1, (-1.0,)), "positive side lengths"),
        (lambda: Box(2).analyze(torch.randn(3, 8, 8)), "B, C"),
        (lambda: Torus(1).filter(torch.ones(1, 1, 8, dtype=torch.long), torch.ones_like), "real floating-point"),
        (lambda: Torus(1).analyze(torch.ones(1, 1, 8, dtype=torch.complex64)), "real floating-point"),
        (lambda: Box(2).resample(torch.randn(1, 1, 8, 8), (8,)), "2 positive sizes"),
        (lambda: Box(2).weights((0, 8)), "positive sizes"),
        (lambda: Box(2).evaluate(torch.randn(1, 1, 8, 8), torch.rand(7, 2)), "one row per coordinate"),
        (lambda: Box(1).white((3, 1), (8,), generator=[torch.Generator()]), "one per sample: 3, got 1"),
        (lambda: Torus(1).check_points(torch.tensor([[0.1, math.nan]])), "leave those points out"),
        (lambda: Box(1, (2.0,)).check_points(torch.tensor([[0.0, 2.1]])), "give the Box its lengths"),
        (lambda: Box(1).check_points(torch.tensor([[math.nan]])), "leave those points out"),
        (lambda: Sphere().check_points(torch.tensor([[-0.1], [0.0]])), "colatitudes from 0"),
        (lambda: Sphere().derivative(torch.randn(1, 1, 8, 16), 0), "straight axes"),
        (lambda: Box(2).derivative(torch.randn(1, 1, 8, 1), 1), "two points or more along axis 1"),
        (lambda: Torus(2).derivative(torch.randn(1, 1, 1, 8), 0), "two points or more along axis 0"),
    ],
)
def test_bad_input_is_an_error_that_says_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
