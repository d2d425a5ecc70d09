"""Domains with mixed edges: the spectral branch, networks, and what is not a product of axes."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
from parts import CHANNEL, PIPE

from fnodiff import (
    DFU,
    Box,
    GaussianRandomField,
    Matern,
    Model,
    MultiResolution,
    Product,
    Sphere,
    Torus,
    WhiteNoise,
    fit,
    sample,
    upscale,
)
from fnodiff.data import ArrayFields, Augmented, Part, Upsampled
from fnodiff.inverse import MomentMatching, PointObservation, Restriction, twisted
from fnodiff.metrics import discretization_error
from fnodiff.nn import LocalConv, MixedConv
from fnodiff.report import invariance_report
from fnodiff.sde import Direct, DPMSolver
from fnodiff.train import Logging

TURNED, LAYER = Product([Box(1), Torus(1)]), Product([Torus(2), Box(1)])
CASES = [
    (CHANNEL, (6, 5), (12, 9), (17, 16)),
    (CHANNEL, (5, 6), (16, 14), (9, 10)),
    (TURNED, (5, 6), (9, 12), (9, 12)),
    (LAYER, (4, 5, 3), (7, 8, 6), (10, 9, 8)),
    (PIPE, (4, 5, 3), (7, 8, 6), (10, 9, 8)),
]


def wave(layer, k, shape, odd):
    """exp(2 pi i k x) along periodic axes, times cosines, or sines where `odd` says so, between walls: (points,)."""
    points, product = layer.domain.points(shape, dtype=torch.float64).flatten(1), torch.ones((), dtype=torch.complex128)
    for axis in layer.waves:
        product = product * torch.exp(2j * math.pi * k[axis] * points[axis])
    for axis, sine in zip(layer.walls, odd, strict=True):
        phase = math.pi * k[axis] * points[axis]
        product = product * (phase.sin() if sine else phase.cos()) * (math.sqrt(2) if k[axis] else 1)
    return product


def written_out(layer, x, shape):
    """The layer's result on a grid, as a sum over modes and parities."""
    weight = (layer.weight if torch.is_tensor(layer.weight) else layer.weight.to_tensor()).detach()
    *others, last = (layer.n_modes[i] for i in layer.waves)
    indices = [range(-(n // 2), n - n // 2) for n in others] + [range(last // 2 + 1)]
    indices += [range(layer.n_modes[i]) for i in layer.walls]
    even = (0,) * len(layer.walls)
    parities = list(itertools.product((0, 1), repeat=len(even))) if layer.parities > 1 else [even]
    total = torch.zeros(len(x), layer.out_channels, math.prod(shape), dtype=torch.float64)
    for place in itertools.product(*(range(len(values)) for values in indices)):
        k = dict(zip((*layer.waves, *layer.walls), (v[i] for v, i in zip(indices, place, strict=True)), strict=True))
        c = x.flatten(2).to(torch.complex128) @ wave(layer, k, x.shape[2:], even).conj() / x[0, 0].numel()
        re, im = weight[place].unflatten(0, (2, -1)).unflatten(2, (len(parities), -1)).unbind(0)
        for p, odd in enumerate(parities):
            there = (c @ torch.complex(re, im)[:, p])[..., None] * wave(layer, k, shape, odd)
            total += (2 if k[layer.waves[-1]] else 1) * there.real
    return total.unflatten(2, shape)


@pytest.mark.parametrize("kernels", ["even", "all"])
@pytest.mark.parametrize("factorization", [None, "ComplexTucker"])
@pytest.mark.parametrize(("domain", "n_modes", "shape", "output_shape"), CASES, ids=str)
def test_is_the_sum_over_modes_at_every_pair_of_sizes(domain, n_modes, shape, output_shape, kernels, factorization):
    layer = MixedConv(2, 3, n_modes, domain=domain, kernels=kernels, factorization=factorization, bias=False).double()
    x = torch.randn(2, 2, *shape, dtype=torch.float64)
    expected = written_out(layer, x, output_shape)
    torch.testing.assert_close(layer(x, output_shape).detach(), expected)
    single = layer.float()(x.float(), output_shape).detach().double()
    assert float((single - expected).norm() / expected.norm()) < 1e-5
    assert float(expected.norm()) > 0.1


@pytest.mark.parametrize("kernels", ["even", "all"])
def test_modes_above_the_grid_are_left_out_and_learn_nothing(kernels):
    layer = MixedConv(2, 3, (24, 20), domain=CHANNEL, kernels=kernels, bias=False).double()
    x = CHANNEL.synthesize(CHANNEL.white((1, 2), (9, 8), dtype=torch.float64), (9, 8))
    torch.testing.assert_close(layer(x), layer(CHANNEL.resample(x, (32, 30)), (9, 8)))
    layer(x).sum().backward()
    grad = layer.weight.grad
    assert float(grad[5:].abs().max()) == float(grad[:, 8:].abs().max()) == 0.0 < float(grad[:5, :8].abs().max())


@pytest.mark.parametrize("kernels", ["even", "all"])
def test_gradients(kernels):
    layer = MixedConv(2, 2, (3, 4), domain=TURNED, kernels=kernels).double()
    x = torch.randn(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *p: layer(x, (4, 7)), (x, *layer.parameters()), fast_mode=True)
    one, every = x.detach()[:1], torch.func.jacrev(layer)(x.detach()[:1])
    torch.testing.assert_close(every, torch.func.jacfwd(layer)(one))


def test_it_moves_along_the_channel_and_even_kernels_are_the_same_from_both_walls():
    x, apart = torch.randn(1, 1, 16, 12, dtype=torch.float64), {}
    for kernels in ("even", "all"):
        layer = MixedConv(1, 1, (6, 5), domain=CHANNEL, kernels=kernels, bias=False).double()
        torch.testing.assert_close(layer(x.roll(5, 2)), layer(x).roll(5, 2))
        apart[kernels] = float((layer(x.flip(3)) - layer(x).flip(3)).detach().abs().max())
    assert apart["even"] < 1e-12 < 0.01 < apart["all"]


def test_half_precision_computes_in_float32():
    layer, x = MixedConv(2, 2, (6, 6), domain=CHANNEL), torch.randn(2, 2, 12, 12)
    out = layer(x.bfloat16())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), layer(x.bfloat16().float()), atol=2e-2, rtol=2e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer(x), layer(x.float()))


@pytest.mark.parametrize("domain", [CHANNEL, TURNED, PIPE], ids=str)
def test_local_branches_wrap_along_one_axis_and_repeat_the_edge_along_another(domain):
    layer, x = LocalConv(2, 3, domain=domain), torch.randn(1, 2, *(6, 7, 8)[: domain.dim])
    extended = x
    for axis, edge in enumerate(domain.edges, start=2):
        n = x.shape[axis]
        beyond = [n - 1, *range(n), 0] if edge == "periodic" else [0, *range(n), n - 1]
        extended = extended.index_select(axis, torch.tensor(beyond))
    convolve = {2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}[domain.dim]
    torch.testing.assert_close(layer(x), convolve(extended, layer.conv.weight, layer.conv.bias))


@pytest.mark.parametrize(("options", "moves"), [({}, True), ({"positional_modes": 2}, False)], ids=str)
def test_a_network_knows_its_place_between_the_walls_and_not_along_the_channel(options, moves):
    net = DFU.tiny(1, 1, domain=CHANNEL, zero_init=False, attention_levels=(1,), **options).eval().double()
    assert net.positional_modes == ((0, 4) if moves else (2, 2))
    x, t = torch.randn(1, 1, 16, 16, dtype=torch.float64), torch.zeros(())
    apart = [float((net(x.roll(4, axis), t) - net(x, t).roll(4, axis)).detach().abs().max()) for axis in (2, 3)]
    assert (apart[0] < 1e-9) == moves and apart[1] > 1e-2


def test_a_network_of_operators_hardly_sees_the_grid_where_a_periodic_one_does():
    field = GaussianRandomField(CHANNEL, Matern(3.0, 0.3))
    smooth = field.sample((4, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    options = {"reference": (32, 32), "local": "operator", "zero_init": False, "domain": CHANNEL}
    error = {}
    for boundary in ("periodic", "even", "all"):
        torch.manual_seed(0)
        net = partial(DFU.small(1, 1, boundary=boundary, **options).eval(), noise_level=torch.zeros(()))
        with torch.no_grad():
            shapes = [(32, 32), (64, 64)]
            error[boundary] = discretization_error(net, partial(CHANNEL.resample, smooth), shapes, CHANNEL)[0]
    assert 1e-6 < error["even"] < 0.004 < 0.006 < error["periodic"]


def channel_fields(count=24):
    """Cell averages of smooth functions on a channel."""
    x = GaussianRandomField(CHANNEL, Matern(2.0, 0.3)).sample(
        (count, 1, 48, 36), generator=torch.Generator().manual_seed(1)
    )
    return ArrayFields(CHANNEL.average(x, (24, 18)), domain=CHANNEL)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Five steps on grids of both kinds of proportions, shifted along the channel, saved and loaded."""
    torch.manual_seed(0)
    fields = Augmented(channel_fields(), [lambda x, k=k: x.roll(k * x.shape[1] // 4, 1) for k in range(4)])
    data = MultiResolution(fields, CHANNEL, [(12, 9), (16, 16), (24, 18)], batch_size=4)
    network = partial(DFU.tiny, channel_mult=(1,), hidden_channels=8, num_blocks=0, spectral_levels=1)
    model = Model.for_data(data, network)
    fit(model, data, steps=5, logging=Logging(progress=False))
    folder = model.save_pretrained(tmp_path_factory.mktemp("channel"))
    return model, Model.from_pretrained(folder)


SOLVER = DPMSolver(3)


class TestEverywhere:
    def test_a_model_is_trained_saved_loaded_and_sampled_on_two_grids(self, trained):
        model, loaded = trained
        assert model.cell_averages and model.sde.noise == WhiteNoise(CHANNEL, (24, 18))
        assert loaded.sde.domain == loaded.network.domain == CHANNEL
        coarse, fine = (sample(model, shape, range(2), solver=SOLVER) for shape in ((24, 18), (40, 30)))
        torch.testing.assert_close(sample(loaded, (24, 18), range(2), solver=SOLVER), coarse)
        assert float(CHANNEL.norm(CHANNEL.resample(fine, (24, 18)) - coarse).max()) < 0.5 * float(
            CHANNEL.norm(coarse).min()
        )

    def test_given_cells_are_upscaled_and_observed(self, trained):
        low = channel_fields(2).batch([0, 1], (12, 9))["x"]
        high = upscale(trained[0], low, (24, 18), range(2), solver=SOLVER)
        assert float((CHANNEL.average(high, (12, 9)) - low).std()) < 0.1 * float(low.std())
        points, values = torch.tensor([[0.0, 0.99, 0.5], [0.1, 0.9, 0.5]]), torch.tensor([[2.0, -1.0, 1.0]])
        for seen in (PointObservation(points, values, 0.1), Restriction((12, 9), low[0], 0.1)):
            posterior = MomentMatching(trained[0], seen, iterations=40)
            x, free = (sample(d, (24, 18), range(2), solver=SOLVER, plan=Direct()) for d in (posterior, trained[0]))
            far, near = ((seen(v, CHANNEL) - seen.values).square().mean() for v in (free, x))
            assert float(near) < 0.25 * float(far)
        particles = twisted(trained[0], seen, (12, 9), [0], particles=4, steps=4)
        assert particles.shape == (1, 1, 12, 9) and bool(particles.isfinite().all())

    def test_a_report_is_made(self, trained):
        found = invariance_report(trained[0], [(16, 12), (32, 24)], samples=4, solver=SOLVER)
        assert list(found.rows) == [(16, 12), (32, 24)] and found.rows[32, 24]["samples"] < 1

    def test_missing_values_are_left_out_of_the_cells_around_a_point(self):
        x = torch.ones(1, 8, 8)
        x[0, 0, 0] = torch.nan  # in the cells around x = 0 and, by half, in no other
        x[0, 7, :] = 3.0
        batch = ArrayFields(x, domain=CHANNEL).batch([0], (4, 4))
        # A cell of four: half of point 7, all of point 0, half of point 1; measured are three quarters.
        assert float(batch["mask"].min()) == 1
        torch.testing.assert_close(batch["x"][0, 0, 0, 0], torch.tensor((3 * 0.25 + 0.25 + 0.25) / 0.75))
        torch.testing.assert_close(batch["x"][0, 0, 0, 1], torch.tensor(3 * 0.25 + 0.75))

    def test_upsampled_fields_are_mixed_with_native_ones(self):
        mixed = Upsampled(Part(channel_fields(4), range(3)), (12, 9), CHANNEL)
        assert mixed.batch([2], (24, 18))["x"].shape == (1, 1, 24, 18) and not mixed.holds((24, 18))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MixedConv(1, 1, (4,), domain=Torus(1)), "on a Torus use SpectralConv"),
        (lambda: MixedConv(1, 1, (4,), domain=CHANNEL), "for each of its axes"),
        (lambda: MixedConv(1, 1, (4, 0), domain=CHANNEL), "positive number of modes"),
        (lambda: MixedConv(1, 1, (4, 4), domain=CHANNEL, kernels="odd"), "name one of these"),
        (lambda: MixedConv(1, 1, (4, 4), domain=CHANNEL, factorization="SVD"), "name one of these"),
        (lambda: MixedConv(2, 1, (4, 4), domain=CHANNEL)(torch.zeros(1, 1, 8, 8)), "2 channels"),
        (lambda: DFU.tiny(1, 1, domain=CHANNEL, positional_modes=(1, 2, 3)), "one per axis"),
        (lambda: Product([Torus(1), Torus(1, (2.0,))]), r"write Torus\(2, \(1.0, 2.0\)\)"),
        (lambda: Product([Box(2)]), r"write Box\(2, \(1.0, 1.0\)\)"),
        (lambda: Product([Torus(1), Sphere()]), "toruses and boxes"),
        (lambda: Product(Torus(1)), "toruses and boxes"),
        (lambda: Product([Torus(2), Box(2)]), "two or three axes"),
        (lambda: Product([]), "two or three axes"),
        (lambda: CHANNEL.check_points(torch.tensor([[7.0], [1.1]])), "give the Product its lengths"),
        (lambda: CHANNEL.check_points(torch.tensor([[math.nan], [0.5]])), "leave those points out"),
    ],
)
def test_bad_input_is_an_error_that_says_what_was_expected(make, message):
    with pytest.raises(ValueError, match=message):
        make()
