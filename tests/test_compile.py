"""Networks compile whole, and give the same as they are: forward and backward, on every domain, with every condition."""

from __future__ import annotations

import pytest
import torch
from parts import quick

from fnodiff import DFU, Box, Product, Sphere, Torus
from fnodiff.nn import DualConv, GroupNorm

OPTIONS = {"channel_mult": (1, 1), "num_blocks": 0, "hidden_channels": 8, "dropout": 0.0, "zero_init": False}
PIXELS = {"spectral_levels": 0, "channel_mult": (1,), "positional_modes": 0}
NETWORKS = {
    "moving levels": {},
    "fixed levels": {"reference": (16, 16), "attention_levels": (0,)},
    "even kernels": {"boundary": "even", "reference": (16, 16)},
    "all kernels": {"boundary": "all"},
    "operator": {"local": "operator", "reference": (16, 16)},
    "Tucker": {"spectral": {"factorization": "ComplexTucker", "rank": 0.1}},
    "torus": {"domain": Torus(2)},
    "torus, fixed levels": {"domain": Torus(2), "reference": (16, 16)},
    "channel": {"domain": Product([Torus(1), Box(1)]), "reference": (16, 16), "boundary": "all", "local": "operator"},
    "sphere": {"domain": Sphere(), "reference": (12, 24)},
}


def check(backend, options, shape=(17, 20), **condition):
    """A compiled network's output and gradients are the network's."""
    torch._dynamo.reset()
    net = DFU.tiny(2, 2, **(OPTIONS | options))
    x, level = torch.randn(2, 2, *shape), torch.tensor([0.1, -0.4])

    def results(called):
        seen = x.clone().requires_grad_()
        y = called(seen, level, **condition)
        gradients = torch.autograd.grad(y.square().mean(), [seen, *net.parameters()], allow_unused=True)
        return y.detach(), [g for g in gradients if g is not None]

    (ours, our_gradients), (eager, gradients) = (
        results(f) for f in (torch.compile(net, fullgraph=True, dynamic=False, backend=backend), net)
    )
    torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-5 * float(eager.abs().max()))
    assert len(our_gradients) == len(gradients)
    most = max(float(g.abs().max()) for g in gradients)
    torch.testing.assert_close(our_gradients, gradients, rtol=1e-4, atol=1e-5 * most)


@pytest.mark.slow
@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
def test_networks_compile_whole(options):
    check("eager", options, (18, 36) if isinstance(options.get("domain"), Sphere) else (17, 20))


@pytest.mark.slow
def test_gradients_that_the_compiler_derives_are_ours():
    check("aot_eager", {"reference": (16, 16)})


@pytest.mark.parametrize("condition", quick(("label", "field"), "field"))
def test_conditions_compile_whole(condition):
    if condition == "label":
        check("eager", PIXELS | {"num_classes": 3}, label=torch.tensor([2, -1]))
    else:
        check("eager", PIXELS | {"condition_channels": 1}, field=torch.randn(2, 1, 12, 24))


def test_labels_are_still_checked_where_nothing_is_compiled():
    net = DFU.tiny(1, 1, **(OPTIONS | PIXELS), num_classes=3)
    with pytest.raises(ValueError, match=r"labels from 0 to 2, or -1 for none, got 0 to 3"):
        net(torch.zeros(2, 1, 8, 8), torch.zeros(()), label=torch.tensor([0, 3]))


@pytest.mark.slow
def test_generated_code_gives_the_same():
    torch._dynamo.reset()
    layer = torch.nn.Sequential(GroupNorm(4, Box(2)), torch.nn.SiLU(), DualConv(4, 4, domain=Box(2), n_modes=(6, 6)))
    x = torch.randn(2, 4, 9, 12)

    def results(called):
        y = called(x)
        return y.detach(), torch.autograd.grad(y.square().mean(), list(layer.parameters()))

    torch.testing.assert_close(
        results(torch.compile(layer, fullgraph=True, dynamic=False)), results(layer), rtol=1e-4, atol=1e-5
    )
