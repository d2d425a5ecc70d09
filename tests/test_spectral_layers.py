"""The spectral layers: exact on every grid, equal to neuralop where neuralop is right."""

from __future__ import annotations

import copy
import itertools
import math
from functools import partial

import neuralop.layers.spectral_convolution as neuralop_spectral
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from fnodiff.domain import Box, Product, Sphere, Torus
from fnodiff.nn import DFU, DualConv, LocalConv, SpectralConv
from fnodiff.nn.factors import ModeMajorDense, by_factors
from fnodiff.nn.modes import Modes


def periodic(domain, coefficients, shape):
    """The band-limited periodic function with Fourier coefficients |k| <= K on each axis, on the domain's grid, float64."""
    x = coefficients
    for axis in reversed(range(domain.dim)):
        n, k = shape[axis], (x.shape[2 + axis] - 1) // 2
        points = (torch.arange(n, dtype=torch.float64) + (0.5 if domain.edges[axis] == "wall" else 0.0)) / n
        waves = torch.exp(2j * math.pi * torch.arange(-k, k + 1, dtype=torch.float64)[:, None] * points)
        x = torch.movedim(torch.movedim(x, 2 + axis, -1) @ waves, -1, 2 + axis)
    return x.real


def multiply(layer, coefficients):
    """The same coefficients after the layer's per-mode matrices, written as sums over modes."""
    weight, bands = layer.weight.to_tensor().to(torch.complex128), [(n - 1) // 2 for n in coefficients.shape[2:]]
    c = (coefficients + torch.flip(coefficients, tuple(range(2, coefficients.ndim))).conj()) / 2  # of the real part
    out = torch.zeros(c.shape[0], weight.shape[1], *c.shape[2:], dtype=torch.complex128)
    for k in itertools.product(*[range(-b, b + 1) for b in bands]):
        index = tuple(i + b for i, b in zip(k, bands, strict=True))
        sign = 1 if k[-1] >= 0 else -1
        low, last = tuple(sign * i for i in k[:-1]), sign * k[-1]
        row = tuple(i + n // 2 for i, n in zip(low, layer.max_n_modes[:-1], strict=True))
        if last >= weight.shape[-1] or any(not 0 <= r < n for r, n in zip(row, weight.shape[2:-1], strict=True)):
            continue
        w = weight[(slice(None), slice(None), *row, last)]
        out[(..., *index)] = c[(..., *index)] @ (w if sign > 0 else w.conj())
    # A real result: on the plane where the last index is 0 both signs are stored, and their Hermitian part counts.
    return (out + torch.flip(out, tuple(range(2, out.ndim))).conj()) / 2


SIZES = {
    1: [((16,), (16,)), ((9,), (9,)), ((16,), (33,)), ((33,), (8,))],
    2: [((16, 16), (16, 16)), ((9, 12), (9, 12)), ((7, 11), (24, 9)), ((33, 20), (8, 15)), ((16, 16), (32, 32))],
    3: [((8, 9, 10), (8, 9, 10)), ((7, 8, 9), (12, 7, 8))],
}


CASES = [(dim, a, b) for dim, pairs in SIZES.items() for a, b in pairs]


def mixed(dim):
    """A wall along the first axis; one dimension has no two kinds."""
    return Product([Box(1), Torus(dim - 1)]) if dim > 1 else Box(1)


class TestSpectralConv:
    @pytest.mark.parametrize("factorization", ["ComplexDense", "ComplexTucker"])
    @pytest.mark.parametrize("domain_class", [Torus, Box, mixed])
    @pytest.mark.parametrize(("dim", "shape", "output_shape"), CASES)
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
    def test_is_exact_at_every_pair_of_sizes(
        self, dim, shape, output_shape, domain_class, factorization, dtype, tolerance
    ):
        domain = domain_class(dim)
        layer = SpectralConv(
            2, 3, (6, 8, 4)[:dim], domain=domain, factorization=factorization, rank=0.5, bias=False
        ).to(dtype)
        coefficients = torch.randn(2, 2, *(5, 7, 5)[:dim], dtype=torch.complex128)
        expected = periodic(domain, multiply(layer, coefficients), output_shape)
        out = layer(periodic(domain, coefficients, shape).to(dtype), output_shape).double()
        assert float((out - expected).detach().norm() / expected.detach().norm()) < tolerance
        assert float(expected.detach().norm()) > 0.1

    @pytest.mark.parametrize("shape", [(16, 16), (15, 9), (32, 20)])
    def test_n_modes_above_the_grid(self, shape):
        layer = SpectralConv(2, 3, (40, 40), bias=False).double()
        coefficients = torch.randn(2, 2, 9, 9, dtype=torch.complex128)
        fine = layer(periodic(Torus(2), coefficients, (64, 48)), (9, 9))
        torch.testing.assert_close(layer(periodic(Torus(2), coefficients, shape), (9, 9)), fine)
        assert float(fine.detach().abs().mean()) > 1e-2

    @pytest.mark.parametrize("output_shape", [(8, 8), (12, 20)])
    def test_nyquist_modes_of_either_grid_are_left_out(self, output_shape):
        layer = SpectralConv(1, 1, (16, 16), bias=False)
        sign = (-1.0) ** torch.arange(8)
        waves = torch.stack([sign[:, None].expand(8, 8), sign[None].expand(8, 8), sign[:, None] * sign])[:, None]
        assert float(layer(waves, output_shape).detach().abs().max()) < 1e-6
        fine = Torus(2).resample(torch.randn(1, 1, 7, 7), (16, 16)) + (-1.0) ** torch.arange(16)[:, None].expand(16, 16)
        coarse = layer(fine, (8, 8)).detach()  # holds |k| < 4 alone
        torch.testing.assert_close(Torus(2).filter(coarse, torch.ones_like), coarse)
        assert float(coarse.abs().mean()) > 1e-3

    @pytest.mark.parametrize("factorization", ["ComplexDense", "ComplexTucker", None])
    @pytest.mark.parametrize(
        ("n_modes", "shape"), [((8,), (32,)), ((8, 12), (32, 20)), ((7, 5), (16, 16)), ((4, 6, 8), (8, 8, 10))]
    )
    def test_equals_neuralop_at_fixed_even_sizes_with_its_weights(self, n_modes, shape, factorization):
        ours = SpectralConv(3, 4, n_modes, factorization=factorization)
        theirs = neuralop_spectral.SpectralConv(3, 4, n_modes, factorization=factorization)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        theirs.load_state_dict(ours.state_dict())
        x = torch.randn(2, 3, *shape)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
        assert float(theirs(x).detach().abs().mean()) > 1e-2

    def test_separable_and_scaling_options_are_neuralops(self):
        ours = SpectralConv(3, 3, (8, 8), separable=True)
        theirs = neuralop_spectral.SpectralConv(3, 3, (8, 8), separable=True, factorization="ComplexDense")
        theirs.load_state_dict(ours.state_dict())
        x = torch.randn(2, 3, 16, 16)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
        assert SpectralConv(3, 4, (8, 8), resolution_scaling_factor=2)(x).shape == (2, 4, 32, 32)

    def test_weights_are_stored_real_and_half_precision_computes_in_float32(self):
        layer = SpectralConv(2, 2, (6, 6))
        assert all(not p.is_complex() for p in layer.parameters())
        x = torch.randn(2, 2, 12, 12)
        out = layer(x.bfloat16())
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.float(), layer(x.bfloat16().float()), atol=2e-2, rtol=2e-2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(layer(x), layer(x.float()))
        assert float(out.detach().float().abs().mean()) > 1e-3

    @pytest.mark.parametrize("domain", [Torus(2), Box(2)], ids=str)
    def test_gradients(self, domain):
        layer = SpectralConv(2, 2, (4, 4), domain=domain).double()
        x = torch.randn(1, 2, 6, 7, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda v, *_: layer(v, (9, 5)), (x, *layer.parameters()))
        assert float(layer(x, (9, 5)).detach().abs().mean()) > 1e-3


norms = pytest.mark.parametrize("norm", ["forward", "ortho", "backward"])


@pytest.mark.parametrize("centred", [(False,) * 3, (True,) * 3, (True, False, True)], ids=str)
@pytest.mark.parametrize(
    ("shape", "output_shape", "bands"),
    [
        ((9,), (16,), ((0, 3),)),
        ((12, 9), (12, 9), ((2, 3), (0, 4))),
        ((12, 9), (7, 20), ((3, 2), (0, 3))),
        ((8, 7, 6), (9, 8, 7), ((1, 2), (3, 1), (0, 2))),
    ],
)
class TestModes:
    @norms
    @pytest.mark.parametrize("way", ["product", "axes"])
    def test_every_way_gives_the_same(self, shape, output_shape, bands, centred, norm, way):
        modes = Modes(shape, output_shape, bands, norm, centred[: len(shape)])
        x = torch.randn(2, 3, *shape, dtype=torch.float64)
        c = torch.randn(2, 2, math.prod(modes.counts), 3, dtype=torch.float64)
        torch.testing.assert_close(modes.analyze(x, way), modes.analyze(x, "fft"))
        torch.testing.assert_close(modes.synthesize(c, way), modes.synthesize(c, "fft"))

    @pytest.mark.parametrize("way", ["product", "axes", "fft"])
    @pytest.mark.parametrize("name", ["analyze", "synthesize"])
    def test_gradients_of_all_orders(self, shape, output_shape, bands, centred, name, way):
        modes = Modes(shape, output_shape, bands, "forward", centred[: len(shape)])
        sizes = {"analyze": (1, 2, *shape), "synthesize": (1, 2, math.prod(modes.counts), 2)}
        argument = torch.randn(sizes[name], dtype=torch.float64, requires_grad=True)
        f = partial(getattr(modes, name), way=way)
        assert torch.autograd.gradcheck(f, argument, fast_mode=True, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(f, argument, fast_mode=True)

    @norms
    def test_modes_that_a_grid_cannot_hold_are_zero(self, shape, output_shape, bands, centred, norm):
        centred, more = centred[: len(shape)], tuple((low + 4 * (low > 0), high + 4) for low, high in bands)
        held, wide = (Modes(shape, output_shape, kept, norm, centred) for kept in (bands, more))
        assert wide.held().held() == wide.held()
        x = torch.randn(2, 3, *shape, dtype=torch.float64)
        c = wide.analyze(x, "axes").unflatten(2, wide.counts)
        centre = [low for low, _ in wide.bands]
        window = tuple(slice(m - low, m + high + 1) for m, (low, high) in zip(centre, held.bands, strict=True))
        torch.testing.assert_close(
            c[(slice(None), slice(None), *window)], held.analyze(x, "fft").unflatten(2, held.counts)
        )
        k = torch.meshgrid(*[torch.arange(-low, high + 1).abs() for low, high in wide.bands], indexing="ij")
        beyond = torch.stack([a > n for a, n in zip(k, wide.nyquist, strict=True)]).any(0)
        assert bool(beyond.any()) and float(c[:, :, beyond].abs().max()) == 0


def test_the_cheapest_way():
    assert Modes((8, 8), (8, 8), ((4, 3), (0, 2)), "forward", (True, True)).way((8, 8)) == "product"
    assert Modes((64, 64), (64, 64), ((16, 15), (0, 8)), "forward", (True, True)).way((64, 64)) == "axes"
    assert Modes((256, 256), (256, 256), ((128, 127), (0, 127)), "forward", (True, True)).way((256, 256)) == "fft"


class TestLocalConv:
    @pytest.mark.parametrize("dim", [1, 2, 3])
    def test_edges_follow_the_domain(self, dim):
        torus, box = LocalConv(2, 3, domain=Torus(dim)), LocalConv(2, 3, domain=Box(dim))
        x = torch.randn(1, 2, *(6,) * dim)
        axes = tuple(range(2, 2 + dim))
        torch.testing.assert_close(torus(x.roll((1,) * dim, axes)), torus(x).roll((1,) * dim, axes))
        rows = torch.tensor([0, 0, 1, 2, 3, 4, 5, 5])  # reflected with the edge repeated: the result must agree inside
        extended = x[(..., *torch.meshgrid(*[rows] * dim, indexing="ij"))]
        inside = box(extended)[(..., *(slice(1, -1),) * dim)]
        torch.testing.assert_close(box(x), inside)

    def test_dual_conv_is_the_sum_of_its_branches(self):
        layer = DualConv(2, 3, domain=Box(2), n_modes=(4, 4))
        x = torch.randn(2, 2, 9, 12)
        torch.testing.assert_close(layer(x, (5, 6)), layer.local(x, (5, 6)) + layer.spectral(x, (5, 6)))
        pooled = Box(2).average(x, (5, 6))
        torch.testing.assert_close(layer.local(x, (5, 6)), layer.local.conv(pooled))
        assert min(float(branch(x).detach().abs().mean()) for branch in (layer.local, layer.spectral)) > 1e-3


@pytest.mark.parametrize("domain", [Box(1), Torus(2), Box(3)], ids=str)
@pytest.mark.parametrize("factorization", ["ComplexTucker", "ComplexCP", "ComplexTT", "Tucker"])
class TestFactors:
    def layer(self, domain, factorization):
        layer = SpectralConv(6, 5, (8, 6, 4)[: domain.dim], factorization=factorization, rank=0.5, domain=domain)
        return layer, torch.randn(2, 6, *(16, 7, 9)[: domain.dim])

    def test_multiply_as_the_dense_weight_does(self, domain, factorization, monkeypatch):
        layer, x = self.layer(domain, factorization)
        assert by_factors(layer.weight, batch=1)

        def result(way):
            monkeypatch.setattr("fnodiff.nn.spectral.by_factors", lambda *args, **options: way)
            y = layer(x)
            return y, torch.autograd.grad(y.square().sum(), list(layer.parameters()))

        (ours, our_gradients), (dense, dense_gradients) = result(True), result(False)
        torch.testing.assert_close(ours, dense, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(our_gradients, dense_gradients, rtol=1e-3, atol=1e-4)
        assert float(ours.detach().std()) > 1e-3

    def test_dense_for_large_batches(self, domain, factorization):
        layer, _ = self.layer(domain, factorization)
        assert not by_factors(layer.weight, batch=10_000)


class TestMemoryOrder:
    def test_is_kept(self, tmp_path):
        net = DFU.tiny(1, 1, boundary="periodic")
        weights = [m.weight for m in net.modules() if isinstance(m, SpectralConv)]
        assert weights and all(isinstance(w, ModeMajorDense) and w.matrices.is_contiguous() for w in weights)
        other = copy.deepcopy(net)
        torch.save(net.state_dict(), tmp_path / "net.pt")
        other.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
        other.double().float()
        net(torch.randn(2, 1, 8, 8), torch.zeros(())).sum().backward()
        parameters = [next(w.parameters()) for w in weights]
        assert [p.grad.stride() for p in parameters] == [p.stride() for p in parameters]
        assert all(m.weight.matrices.is_contiguous() for m in other.modules() if isinstance(m, SpectralConv))

    def test_is_that_of_complex_dense_to_everybody_else(self):
        layer = SpectralConv(3, 4, (6, 5))
        assert layer.weight.to_tensor().shape == (3, 4, 6, 3) and layer.weight.to_tensor().is_complex()
        assert list(layer.state_dict()) == ["bias", "weight.tensor"]
        assert layer.state_dict()["weight.tensor"].shape == (3, 4, 6, 3, 2)
        re, im = layer.weight.matrices.unbind(2)
        torch.testing.assert_close(torch.complex(re, im).permute(2, 3, 0, 1), layer.weight.to_tensor())
        layer.weight.normal_(0, 3.0)
        assert float(layer.weight.to_tensor().detach().abs().square().mean().sqrt()) == pytest.approx(3.0, rel=0.2)


class TestTransforms:
    """What torch does to functions, done to the spectral convolution."""

    layer, x = SpectralConv(4, 4, (8, 8), domain=Box(2)), torch.randn(3, 4, 16, 12)

    def test_vmap_and_jvp(self):
        expected = self.layer(self.x)
        torch.testing.assert_close(torch.func.vmap(self.layer)(self.x[:, None])[:, 0], expected)
        primal, tangent = torch.func.jvp(self.layer, (self.x,), (torch.ones_like(self.x),))
        torch.testing.assert_close(primal, expected)
        torch.testing.assert_close(tangent, self.layer(torch.ones_like(self.x)) - self.layer(torch.zeros_like(self.x)))

    def test_gradients_agree_with_what_functorch_derives(self):
        def loss(x):
            return self.layer(x).pow(3).sum()

        x = self.x.clone().requires_grad_()
        loss(x).backward()
        torch.testing.assert_close(torch.func.grad(loss)(self.x), x.grad, rtol=1e-4, atol=1e-5)

    def test_gradients_of_all_orders(self):
        layer = SpectralConv(2, 3, (4, 4), domain=Box(2)).double()
        x = torch.randn(1, 2, 7, 6, dtype=torch.float64, requires_grad=True)
        inputs = (x, *layer.parameters())

        def f(x, *parameters):
            return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x, (6, 9)))

        names = [name for name, _ in layer.named_parameters()]
        assert torch.autograd.gradcheck(f, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(f, inputs, fast_mode=True)

    def test_half_precision_computes_in_float32(self):
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(self.layer(self.x), self.layer(self.x.float()))
            assert self.layer(self.x.bfloat16()).dtype == torch.bfloat16

    def test_compiles_whole(self):
        torch._dynamo.reset()
        compiled = torch.compile(self.layer, fullgraph=True, backend="aot_eager")

        def result(f):
            x = self.x.clone().requires_grad_()
            y = f(x)
            return y, torch.autograd.grad(y.square().sum(), x)[0]

        (ours, our_gradient), (eager, eager_gradient) = result(compiled), result(self.layer)
        torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(our_gradient, eager_gradient, rtol=1e-4, atol=1e-4)

    @pytest.mark.slow
    def test_a_dfu_compiles_whole_once_per_grid(self):
        torch._dynamo.reset()
        counter = CompileCounter()
        net = DFU.tiny(1, 1, reference=(16, 16), num_blocks=0, zero_init=False).eval()
        compiled = torch.compile(net, fullgraph=True, dynamic=False, backend=counter)
        inputs = [torch.randn(2, 1, n, n) for n in (16, 12, 16, 12, 16)]
        expected = [net(x, torch.zeros(())) for x in inputs]
        torch.testing.assert_close([compiled(x, torch.zeros(())) for x in inputs], expected)
        assert counter.frame_count == 2

    @pytest.mark.parametrize(
        ("domain", "local"),
        [
            (Box(2), "conv"),
            (Sphere(), "operator"),
            pytest.param(Box(2), "operator", marks=pytest.mark.slow),
            pytest.param(Sphere(), "conv", marks=pytest.mark.slow),
        ],
        ids=str,
    )
    def test_layers_compile_and_transform_from_the_first_call_on(self, domain, local):
        # Grids of no other test, so that what is cached is made inside of the transform.
        rows, columns = shape = {"conv": (10, 18), "operator": (14, 22)}[local]
        reference = shape if local == "operator" else None
        layer = DualConv(2, 2, domain=domain, n_modes=(4, 8), local=local, reference=reference).double()
        x = torch.randn(2, 2, *shape, dtype=torch.float64)
        tangent = torch.func.jvp(layer, (x,), (x,))[1]
        torch.testing.assert_close(tangent, layer(x) - layer(0 * x))  # it is affine
        torch._dynamo.reset()
        compiled = torch.compile(layer, fullgraph=True, dynamic=False, backend="aot_eager")
        finer = torch.randn(2, 2, rows + 2, columns + 4, dtype=torch.float64, requires_grad=True)
        ours = compiled(finer)
        (gradient,) = torch.autograd.grad(ours.square().sum(), finer)
        theirs = layer(finer)
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(gradient, torch.autograd.grad(theirs.square().sum(), finer)[0])
        assert float(theirs.detach().std()) > 1e-2

    @pytest.mark.slow
    @pytest.mark.parametrize("domain", [Box(2), Sphere()], ids=str)
    def test_networks_compile_and_transform_from_the_first_call_on(self, domain):
        shape = (18, 26)  # of no other test
        options = {"reference": shape, "num_blocks": 0, "local": "operator", "zero_init": False}
        options |= {"channel_mult": (1,), "attention_levels": (), "spectral_levels": 1}
        net, level = DFU.tiny(1, 1, domain=domain, **options).eval().double(), torch.full((), 0.3, dtype=torch.float64)
        x = torch.randn(2, 1, *shape, dtype=torch.float64)
        tangent = torch.func.jvp(lambda v: net(v, level), (x,), (x,))[1]
        step = (net(x * (1 + 1e-5), level) - net(x * (1 - 1e-5), level)) / 2e-5
        torch.testing.assert_close(tangent, step, rtol=1e-5, atol=1e-6)
        torch._dynamo.reset()
        finer = torch.randn(2, 1, shape[0] + 2, shape[1] + 4, dtype=torch.float64)
        compiled = torch.compile(net, fullgraph=True, dynamic=False, backend="aot_eager")
        torch.testing.assert_close(compiled(finer, level), net(finer, level))
