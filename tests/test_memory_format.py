"""torch.channels_last: networks go into it and give the same results, forward and backward."""

from __future__ import annotations

import copy

import pytest
import torch
from parts import quick

from fnodiff import DFU, EDM, Box, EDMScaling, FunctionSpaceSDE, Model, Sphere, Torus, WhiteNoise
from fnodiff.sde import DenoisingLoss

OPTIONS = {"num_blocks": 1, "zero_init": False, "dropout": 0.0, "attention_levels": (1,)}
NETWORKS = {
    "moving levels": {},
    "fixed levels": {"reference": (16, 16)},
    "even kernels": {"boundary": "even"},
    "all kernels": {"boundary": "all", "reference": (16, 16)},
    "operator": {"local": "operator", "reference": (16, 16)},
    "Tucker": {"spectral": {"factorization": "ComplexTucker", "rank": 0.2}},
    "even Tucker": {"boundary": "even", "spectral": {"factorization": "Tucker", "rank": 0.2}},
    "no spectral branch": {"spectral_levels": 0},
    "torus": {"domain": Torus(2)},
    "sphere": {"domain": Sphere()},
}


def results(net, x):
    """The output, and the gradients of its mean square with respect to the input and the weights."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = net(x, torch.full((len(x),), 0.2))
    used = [p for p in net.parameters() if p.requires_grad]
    return y.detach(), torch.autograd.grad(y.square().mean(), [x, *used], allow_unused=True)


@pytest.mark.parametrize("name", quick(NETWORKS, "all kernels", "operator", "even Tucker", "sphere"))
def test_a_network_gives_the_same_in_channels_last(name):
    options = NETWORKS[name]
    net = DFU.tiny(3, 2, **(OPTIONS | options))
    x = torch.randn(2, 3, 12, 24) if options.get("domain") == Sphere() else torch.randn(2, 3, 17, 24)
    expected, gradients = results(net, x)
    scale = max(float(g.abs().max()) for g in gradients if g is not None)
    last = copy.deepcopy(net).to(memory_format=torch.channels_last)
    for inputs in (x, x.contiguous(memory_format=torch.channels_last)):
        for module in (net, last):
            y, theirs = results(module, inputs)
            torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(theirs, gradients, rtol=1e-4, atol=1e-5 * max(1.0, scale))


@pytest.mark.parametrize("boundary", ["periodic", "even"])
def test_weights_of_pixel_convolutions_change_their_format_and_others_stay(boundary):
    net = DFU.tiny(3, 3, boundary=boundary)
    before = {name: p.detach().clone(memory_format=torch.preserve_format) for name, p in net.named_parameters()}
    net.to(memory_format=torch.channels_last)
    for name, p in net.named_parameters():
        assert torch.equal(p, before[name])
        if name.endswith("conv.weight"):
            assert p.is_contiguous(memory_format=torch.channels_last), name
        else:
            assert p.stride() == before[name].stride(), name


@pytest.mark.parametrize("change", [lambda n: n.double(), lambda n: n.half(), lambda n: n.to("meta")])
def test_spectral_weights_keep_their_order_when_they_change_their_type_or_device(change):
    net = DFU.tiny(1, 1, num_blocks=0)
    strides = {name: p.stride() for name, p in net.named_parameters()}
    values = {name: p.detach().clone() for name, p in net.named_parameters()}
    net = change(net)
    for name, p in net.named_parameters():
        assert p.stride() == strides[name], name
        assert p.is_meta or torch.equal(p, values[name].to(p.dtype)), name


def test_a_model_trains_alike_in_channels_last():
    sde = FunctionSpaceSDE(WhiteNoise(Box(2), (16, 16)), EDM())
    model = Model(DFU.tiny(3, 3, **OPTIONS), sde, EDMScaling())
    x = torch.randn(2, 3, 16, 16)

    def trained(model, x):
        loss = DenoisingLoss(model)(x, generator=torch.Generator().manual_seed(0)).mean()
        return loss.detach(), torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)

    expected = trained(model, x)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    found = trained(last, x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
