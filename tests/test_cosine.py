"""The spectral branch of a box: one operator on every grid."""

from __future__ import annotations

import inspect
import itertools
import math

import pytest
import torch

from fnodiff import DFU, Box, Torus
from fnodiff.nn import CosineConv, DualConv, SpectralConv, cosine, local, spectral

PAIRS = {
    1: [((9,), (16,)), ((16,), (9,)), ((12,), (12,))],
    2: [((8, 9), (17, 12)), ((20, 15), (9, 10))],
    3: [((6, 7, 8),) * 2],
}
CASES = [(dim, a, b) for dim, pairs in PAIRS.items() for a, b in pairs]


@pytest.mark.parametrize("function", [cosine._Product, local._Replicated, spectral._SpectralProduct])
def test_torch_need_not_work_out_a_signature_at_each_call(function):
    assert inspect.signature(function.forward) is inspect.signature(function.forward)


def waves(counts, shape, odd):
    """(modes, points): products of 1 or sqrt(2) cos(pi k x), or of sines along the axes where `odd` says so."""
    axes = [(torch.arange(n, dtype=torch.float64) + 0.5) / n for n in shape]
    rows = []
    for k in itertools.product(*map(range, counts)):
        product = torch.ones(())
        for i, x, sine in zip(k, axes, odd, strict=True):
            wave = (math.pi * i * x).sin() if sine else (math.pi * i * x).cos()
            product = product[..., None] * wave * (math.sqrt(2) if i else 1)
        rows.append(product.flatten())
    return torch.stack(rows)


@pytest.mark.parametrize("kernels", ["even", "all"])
@pytest.mark.parametrize("factorization", [None, "Tucker"])
@pytest.mark.parametrize(("dim", "shape", "output_shape"), CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_is_the_sum_over_modes_at_every_pair_of_sizes(
    dim, shape, output_shape, kernels, factorization, dtype, tolerance
):
    counts = (5, 6, 4)[:dim]
    layer = CosineConv(2, 3, counts, domain=Box(dim), kernels=kernels, factorization=factorization, bias=False).to(
        dtype
    )
    weight = (layer.weight if factorization is None else layer.weight.to_tensor()).detach().double()
    weight = weight.reshape(math.prod(counts), 2, -1, 3)
    c = torch.randn(2, 2, math.prod(counts), dtype=torch.float64)
    parities = itertools.product((False, True), repeat=dim) if kernels == "all" else [(False,) * dim]
    expected = sum(
        torch.einsum("bik,kio,kp->bop", c, weight[:, :, p], waves(counts, output_shape, odd))
        for p, odd in enumerate(parities)
    )
    x = (c @ waves(counts, shape, (False,) * dim)).unflatten(-1, shape)
    out = layer(x.to(dtype), output_shape).detach().double().flatten(2)
    assert float((out - expected).norm() / expected.norm()) < tolerance
    assert float(expected.norm()) > 0.1


@pytest.mark.parametrize("kernels", ["even", "all"])
def test_modes_above_the_grid_are_left_out_and_learn_nothing(kernels):
    layer = CosineConv(2, 3, (20, 24), domain=Box(2), kernels=kernels, bias=False).double()
    x = Box(2).synthesize(torch.randn(1, 2, 8, 9, dtype=torch.float64), (8, 9))
    fine = layer(Box(2).resample(x, (32, 30)), (8, 9))
    torch.testing.assert_close(layer(x), fine)
    layer(x).sum().backward()
    grad = layer.weight.grad
    assert float(grad[8:].abs().max()) == float(grad[:, 9:].abs().max()) == 0.0 < float(grad[:8, :9].abs().max())


@pytest.mark.parametrize("kernels", ["even", "all"])
def test_gradients(kernels):
    layer = CosineConv(2, 2, (3, 4), domain=Box(2), kernels=kernels).double()
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *p: layer(x, (4, 6)), (x, *layer.parameters()))
    names = [name for name, _ in layer.named_parameters()]

    def function(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x, (4, 6)))

    everything = (x, *(p.detach().clone().requires_grad_() for p in layer.parameters()))
    assert torch.autograd.gradcheck(function, everything, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, everything, check_fwd_over_rev=True, fast_mode=True)

    def slope(x):  # not linear in the layer's output, so that both of its outputs have gradients
        return torch.autograd.grad(layer(x).pow(3).sum(), layer.weight, create_graph=True)[0]

    assert torch.autograd.gradcheck(slope, x)
    one, every = x.detach()[:1], torch.func.jacrev(layer)(x.detach()[:1])
    torch.testing.assert_close(every, torch.func.jacfwd(layer)(one))
    torch.testing.assert_close(every, torch.autograd.functional.jacobian(layer, one))


def test_even_kernels_commute_with_a_reflection_and_the_others_need_not():
    x = torch.randn(1, 1, 12, dtype=torch.float64)
    apart = {}
    for kernels in ("even", "all"):
        layer = CosineConv(1, 1, (6,), domain=Box(1), kernels=kernels, bias=False).double()
        apart[kernels] = float((layer(x.flip(-1)) - layer(x).flip(-1)).detach().abs().max())
    assert apart["even"] < 1e-12 < 0.01 < apart["all"]


def test_a_network_of_even_kernels_hardly_sees_the_grid_where_a_periodic_one_does():
    torch.manual_seed(0)
    box, apart = Box(2), {}
    x = box.synthesize(torch.randn(4, 1, 6, 6) / (1 + torch.arange(6.0)[:, None] + torch.arange(6.0)) ** 2, (32, 32))
    for boundary in ("periodic", "even", "all"):
        net = DFU.small(1, 1, boundary=boundary, reference=(32, 32), local="point", zero_init=False).eval()
        with torch.no_grad():
            here, there = (net(v, torch.zeros(())) for v in (x, box.resample(x, (64, 64))))
        apart[boundary] = float(box.norm(box.resample(there, (32, 32)) - here).mean() / box.norm(here).mean())
    assert apart["even"] < 3e-4 < 2e-3 < apart["periodic"]
    assert apart["even"] < apart["all"] < apart["periodic"]


def test_half_precision_computes_in_float32():
    layer, x = CosineConv(2, 2, (6, 6), domain=Box(2)), torch.randn(2, 2, 12, 12)
    out = layer(x.bfloat16())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), layer(x.bfloat16().float()), atol=2e-2, rtol=2e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer(x), layer(x.float()))


@pytest.mark.parametrize("factorization", ["ComplexTucker", "CP", "TT"])
def test_a_network_of_factorised_kernels_is_saved_and_loaded(factorization):
    options = {"boundary": "all", "spectral": {"factorization": factorization, "rank": 0.1}}
    net, dense = DFU.tiny(1, 1, **options), DFU.tiny(1, 1, boundary="all")
    count = [sum(p.numel() for p in n.parameters()) for n in (net, dense)]
    assert count[0] < 0.5 * count[1]
    other = DFU.tiny(1, 1, **options)
    other.load_state_dict(net.state_dict())
    x = torch.randn(1, 1, 9, 8)
    torch.testing.assert_close(other.eval()(x, torch.zeros(())), net.eval()(x, torch.zeros(())))


def test_numbers_of_parameters():
    def count(**options):
        layer = DualConv(4, 4, domain=Box(2), n_modes=(8, 8), local=None, spectral={"bias": False}, **options)
        return sum(p.numel() for p in layer.parameters())

    assert (count(boundary="periodic"), count(boundary="even"), count(boundary="all")) == (
        2 * 8 * 5 * 16,
        64 * 16,
        256 * 16,
    )


def test_parts_of_the_network_are_named():
    net = DFU.tiny(1, 1, boundary="even")
    assert not any(isinstance(module, SpectralConv) for module in net.modules())
    assert any(part == "spectral" for _, part in net.parameter_groups().values())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CosineConv(1, 1, (4,), domain=Torus(1)), "on a Torus use SpectralConv"),
        (lambda: CosineConv(1, 1, (4,), domain=Box(2)), "for each of its axes"),
        (lambda: CosineConv(1, 1, (0,), domain=Box(1)), "positive number of modes"),
        (lambda: CosineConv(1, 1, (4,), domain=Box(1), kernels="odd"), "name one of these"),
        (lambda: CosineConv(1, 1, (4,), domain=Box(1), factorization="SVD"), "name one of these"),
        (lambda: CosineConv(2, 1, (4,), domain=Box(1))(torch.zeros(1, 1, 8)), "2 channels"),
        (lambda: DualConv(1, 1, domain=Torus(1), n_modes=(4,), boundary="even"), "where there are walls"),
        (lambda: DFU.tiny(1, 1, boundary="reflect"), 'boundary="periodic"'),
    ],
)
def test_bad_input_is_an_error_that_says_what_was_expected(make, message):
    with pytest.raises(ValueError, match=message):
        make()
