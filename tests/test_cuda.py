"""The same results on a GPU as on the CPU; skipped where there is none."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from parts import FLAT, NOISES

from fnodiff.data import ArrayFields, MultiResolution
from fnodiff.domain import Box, Sphere, Torus
from fnodiff.model import Model
from fnodiff.nn import DFU, SpectralConv
from fnodiff.sde import (
    DDIM,
    EDM,
    DenoisingLoss,
    Direct,
    DPMSolver,
    EDMScaling,
    FunctionSpaceSDE,
    GaussianRandomField,
    Heun,
    Matern,
    Normalization,
    Progressive,
    SpectralScaling,
    WhiteNoise,
    fit_spectrum,
    sample,
    upscale,
)
from fnodiff.train import Adam, Execution, Logging, fit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("domain", [*FLAT, Torus(3), Box(3)], ids=str)
def test_transforms(domain):
    x = torch.randn(2, 3, *(9, 12, 7)[: domain.dim])
    finer = tuple(n + 3 for n in x.shape[2:])
    points = torch.rand(domain.dim, 5)

    def transforms(x, points):
        return [
            domain.filter(x, lambda e: 1 / (1 + e)),
            domain.resample(x, finer),
            domain.pool(x, finer),
            domain.evaluate(x, points),
            domain.norm(x),
        ]

    cpu, gpu = transforms(x, points), transforms(x.cuda(), points.cuda())
    assert all(y.is_cuda for y in gpu)
    torch.testing.assert_close([y.cpu() for y in gpu], cpu, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", NOISES)
@pytest.mark.parametrize("domain", FLAT, ids=str)
def test_one_seed_is_one_function_on_either_device(domain, make):
    shape = (2, 1, *(16,) * domain.dim)
    cpu, gpu = (
        make(domain).sample(shape, generator=torch.Generator().manual_seed(0), device=d) for d in ("cpu", "cuda")
    )
    torch.testing.assert_close(gpu.cpu(), cpu, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("home", ["cpu", "cuda"])
def test_generators_of_either_device_draw_alike_on_both(home):
    noise = WhiteNoise(Box(2), (16, 16))
    cpu, gpu = (
        noise.sample((2, 1, 16, 16), generator=torch.Generator(home).manual_seed(3), device=d) for d in ("cpu", "cuda")
    )
    torch.testing.assert_close(gpu.cpu(), cpu, rtol=1e-5, atol=1e-6)
    assert gpu.device.type == "cuda"


def test_a_field_on_another_device_is_refused():
    net = DFU.tiny(1, 1, num_blocks=0).cuda()
    with pytest.raises(ValueError, match=r"on cuda:0, as the network is, got one on cpu"):
        net(torch.zeros(1, 1, 16, 16), torch.zeros(()))


@pytest.mark.parametrize("domain", [Torus(2), Box(2)], ids=str)
def test_layers_and_networks(domain):
    layer, net = SpectralConv(3, 2, (8, 8), domain=domain), DFU.tiny(3, 3, domain=domain, zero_init=False).eval()
    x = torch.randn(2, 3, 17, 20)
    expected = layer(x, (24, 9)), net(x, torch.zeros(()))
    layer, net, x = layer.cuda(), net.cuda(), x.cuda()
    torch.testing.assert_close(layer(x, (24, 9)).cpu(), expected[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(net(x, torch.zeros((), device="cuda")).cpu(), expected[1], rtol=1e-2, atol=1e-2)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        torch.testing.assert_close(
            net(x, torch.zeros((), device="cuda")).float().cpu(), expected[1], rtol=0.2, atol=0.2
        )


@pytest.mark.parametrize("grid", ["legendre-gauss", "equiangular"])
@pytest.mark.parametrize(
    ("local", "reference"), [("conv", None), ("conv", (16, 32)), ("operator", (16, 32)), ("point", None)]
)
def test_networks_on_the_sphere(grid, local, reference):
    options = {"domain": Sphere(grid), "local": local, "reference": reference, "zero_init": False}
    net, x = DFU.tiny(2, 2, **options).eval(), torch.randn(2, 2, 32, 64)
    expected = net(x, torch.zeros(()))
    net, x = net.cuda(), x.cuda()
    torch.testing.assert_close(net(x, torch.zeros((), device="cuda")).cpu(), expected, rtol=1e-2, atol=1e-2)
    net(x, torch.zeros((), device="cuda")).square().mean().backward()
    assert all(p.grad is None or (p.grad.is_cuda and bool(p.grad.isfinite().all())) for p in net.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("way", ["compiled", "channels last"])
@pytest.mark.parametrize("boundary", ["periodic", "even"])
def test_compiled_and_channels_last(boundary, way):
    options = {"boundary": boundary, "reference": (16, 16), "dropout": 0.0, "zero_init": False}
    net, x = DFU.tiny(3, 3, **options).cuda(), torch.randn(2, 3, 32, 24, device="cuda")

    def results(called, x):
        y = called(x, torch.zeros((), device="cuda"))
        return y.detach(), torch.autograd.grad(y.square().mean(), list(net.parameters()))

    expected, gradients = results(net, x)
    if way == "compiled":
        ours, theirs = results(torch.compile(net, fullgraph=True, dynamic=False), x)
    else:
        net.to(memory_format=torch.channels_last)
        ours, theirs = results(net, x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(ours, expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max()))
    most = max(float(g.abs().max()) for g in gradients)
    torch.testing.assert_close(theirs, gradients, rtol=2e-2, atol=1e-2 * most)


X = GaussianRandomField(Box(2), Matern(1.0, 0.3)).sample((8, 1, 16, 16), generator=torch.Generator().manual_seed(0))
SCALINGS = [EDMScaling(), EDMScaling(linear_estimate=True), SpectralScaling((16, 16), linear_estimate=True)]


def pair(scaling):
    """A model on the CPU and its twin on the GPU."""
    net = DFU.tiny(scaling.inputs(1), 1, zero_init=False)
    options = {"spectrum": fit_spectrum(X, Box(2)), "normalization": Normalization([0.5], [2.0]), "cell_averages": True}
    model = Model(net, FunctionSpaceSDE(WhiteNoise(Box(2), (16, 16)), EDM()), scaling, **options).eval()
    return model, copy.deepcopy(model).cuda()


@pytest.mark.parametrize("scaling", SCALINGS, ids=str)
def test_training(scaling):
    model, twin = pair(scaling)
    loss, twins = (
        DenoisingLoss(m)(x, generator=torch.Generator().manual_seed(0)) for m, x in ((model, X), (twin, X.cuda()))
    )
    torch.testing.assert_close(twins.cpu(), loss, rtol=1e-2, atol=1e-3)
    gradients = [torch.autograd.grad(v.mean(), list(m.parameters())) for v, m in ((loss, model), (twins, twin))]
    difference, size = (
        torch.stack([v.cpu().norm() for v in vectors]).norm()
        for vectors in ([b.cpu() - a for a, b in zip(*gradients, strict=True)], gradients[0])
    )
    assert 0 < float(size) and float(difference / size) < 0.02


@pytest.mark.parametrize("plan", [Direct(), Progressive([(8, 8)])], ids=str)
@pytest.mark.parametrize("solver", [Heun(5), DDIM(5, eta=1.0), DPMSolver(5)], ids=str)
@pytest.mark.parametrize("scaling", SCALINGS, ids=str)
def test_sampling(scaling, solver, plan):
    model, twin = pair(scaling)
    cpu, gpu = (sample(m, (16, 16), [3, 1, 4], solver=solver, plan=plan, batch=2) for m in (model, twin))
    torch.testing.assert_close(gpu, cpu, rtol=2e-2, atol=2e-2)
    assert gpu.device.type == "cpu" and float(cpu.std()) > 0.1


def test_upscaling():
    model, twin = pair(SCALINGS[1])
    cpu, gpu = (upscale(m, X[0], (32, 32), [3, 1], solver=DPMSolver(5), batch=1) for m in (model, twin))
    torch.testing.assert_close(gpu, cpu, rtol=2e-2, atol=2e-2)
    assert float((cpu[0] - cpu[1]).abs().max()) > 1e-3


def test_recorded_training():
    """Training by CUDA graphs ends in the weights of training without, with two grids and labels."""
    noise = WhiteNoise(Box(2), (16, 16))
    x = noise.sample((16, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    fields = ArrayFields(x, label=torch.arange(16) % 2, domain=Box(2))
    data = MultiResolution(fields, Box(2), [8, 16], batch_size=4)
    trained, losses = [], []
    for cuda_graphs in (False, True):
        torch.manual_seed(0)
        model = Model.for_data(data, partial(DFU.tiny, dropout=0.0), noise=noise)
        begun = [p.detach().clone() for p in model.parameters()]
        execution, heard = Execution(seed=0, cuda_graphs=cuda_graphs), []
        logging = Logging(progress=False, callback=lambda step, shape, value, heard=heard: heard.append(value))
        optimizer = Adam(lr=4e-3, rampup=0, ema_halflife=1.0)
        trained.append(fit(model, data, 12, execution=execution, logging=logging, optimizer=optimizer))
        losses.append(heard)
    torch.testing.assert_close(losses[1], losses[0], rtol=2e-3, atol=2e-3)
    plain, played = ([p.detach().cpu() for p in model.parameters()] for model in trained)
    moved = max(float((a - b).abs().max()) for a, b in zip(plain, begun, strict=True))
    apart = max(float((a - b).abs().max()) for a, b in zip(plain, played, strict=True))
    assert moved > 0.02 and apart < moved / 5
    assert "forward" not in vars(trained[1].network)
