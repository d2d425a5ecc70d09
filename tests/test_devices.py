"""Precisions of models, and devices without float64: what wants it is computed on the CPU."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import no_double
import pytest
import torch
from drawn import Drawn
from no_double import There, WithoutDouble, there
from parts import quick
from refused import BOX, QUIET, SDE, draw

from fnodiff import (
    DDIM,
    DFU,
    EDM,
    VP,
    Box,
    Cascade,
    ClassifierFree,
    Cosine,
    DenoisingLoss,
    Direct,
    DPMSolver,
    EDMScaling,
    FlowScaling,
    FunctionSpaceSDE,
    GaussianRandomField,
    Heun,
    Matern,
    Model,
    MultiResolution,
    PixelNoise,
    Product,
    Progressive,
    RectifiedFlow,
    SpectralScaling,
    Sphere,
    Torus,
    WhiteNoise,
    fit,
    log_likelihood,
    metrics,
    sample,
    upscale,
)
from fnodiff.domain import arrays, constants, in_double
from fnodiff.inverse import DPS, MatchModes, MomentMatching, PiGDM, PointObservation, twisted
from fnodiff.sde import (
    Autoguided,
    Normalization,
    OptimalTransport,
    fit_spectrum,
)

SPECTRUM = fit_spectrum(Drawn(16).batch(range(16), (16, 16))["x"][:, :1], BOX, cell_averages=True)
SEEN = PointObservation([[0.5], [0.5]], [[1.0]], 0.1)
FEW = DPMSolver(3)


class Here(nullcontext):
    """Work that is handed to another thread, done in this one."""

    def __enter__(self):
        return self

    def submit(self, function, *arguments):
        result = function(*arguments)
        return SimpleNamespace(result=lambda: result)


@pytest.fixture
def device(monkeypatch):
    """One without float64: see no_double.py."""
    monkeypatch.setattr(arrays, "WITHOUT_DOUBLE", ("meta",))
    autocast = torch.autocast  # which knows no such device
    here = lambda kind, **options: nullcontext() if kind == "meta" else autocast(kind, **options)  # noqa: E731
    monkeypatch.setattr(torch, "autocast", here)
    tensor = torch.tensor  # which leaves the mode out
    made = lambda *args, device=None, **options: tensor(*args, **options).to(device)  # noqa: E731
    monkeypatch.setattr(torch, "tensor", made)
    monkeypatch.setattr(constants, "ThreadPoolExecutor", Here)  # in another thread there is no such device
    with WithoutDouble():
        yield torch.device("meta")


def trained(sde=SDE, scaling=None, domain=BOX, **options):
    """A model that knows all that can be known."""
    torch.manual_seed(0)
    scaling = scaling or EDMScaling(0.5, linear_estimate=True)
    network = DFU.tiny(scaling.inputs(1), 1, domain=domain, num_blocks=0, n_modes=4, zero_init=False, **options)
    units = Normalization([0.0], [0.5])
    model = Model(network, sde, scaling, normalization=units, spectrum=SPECTRUM, cell_averages=domain == BOX)
    model.training_shapes = ((8, 8), (16, 16))
    return model.eval()


def field(domain):
    return FunctionSpaceSDE(GaussianRandomField(domain, Matern(1.0, 0.3)), EDM())


DRAWN = {
    "directly": (trained, partial(sample, shape=(16, 16), plan=Direct())),
    "DDIM": (trained, partial(sample, shape=(16, 16), solver=DDIM(3, eta=0.5))),
    "Heun": (trained, partial(sample, shape=(16, 16), solver=Heun(3, churn=1.0))),
    "progressively": (trained, partial(sample, shape=(16, 16), plan=Progressive([8]))),
    "in a cascade": (trained, partial(sample, shape=(32, 32), plan=Cascade())),
    "upscaled": (trained, lambda m, seeds, solver: upscale(m, torch.zeros(1, 8, 8), 16, seeds, solver=solver)),
    "of two channels of units": (
        lambda: trained(scaling=SpectralScaling((16, 16), linear_estimate=True)),
        partial(sample, shape=(16, 16)),
    ),
    "pixel noise": (lambda: trained(FunctionSpaceSDE(PixelNoise(BOX), VP())), partial(sample, shape=(16, 16))),
    "a flow": (
        lambda: trained(FunctionSpaceSDE(WhiteNoise(BOX, (16, 16)), RectifiedFlow()), FlowScaling(True)),
        partial(sample, shape=(16, 16)),
    ),
    "cosine": (lambda: trained(FunctionSpaceSDE(WhiteNoise(BOX, 16), Cosine())), partial(sample, shape=(16, 16))),
    "a torus": (lambda: trained(field(Torus(2)), domain=Torus(2)), partial(sample, shape=(16, 16))),
    "a channel": (
        lambda: trained(field(Product([Torus(1), Box(1)])), domain=Product([Torus(1), Box(1)])),
        partial(sample, shape=(16, 16)),
    ),
    "a sphere": (lambda: trained(field(Sphere()), domain=Sphere()), partial(sample, shape=(8, 16))),
    "guided by a class": (
        lambda: ClassifierFree(trained(num_classes=2), 2.0),
        partial(sample, shape=(16, 16), label=1),
    ),
    "guided by a field": (
        lambda: trained(condition_channels=1),
        partial(sample, shape=(16, 16), field=torch.zeros(1, 8, 8, dtype=torch.float64)),
    ),
    "autoguided": (lambda: Autoguided(trained(), trained()), partial(sample, shape=(16, 16))),
    "moment matching": (lambda: MomentMatching(trained(), SEEN, iterations=3), partial(sample, shape=(16, 16))),
    "of a known spectrum": (lambda: MomentMatching(trained(), SEEN, SPECTRUM), partial(sample, shape=(16, 16))),
    "DPS": (lambda: DPS(trained(), SEEN), partial(sample, shape=(16, 16))),
    "PiGDM": (lambda: PiGDM(trained(), SEEN, iterations=3), partial(sample, shape=(16, 16))),
    "matched modes": (
        trained,
        lambda m, seeds, solver: upscale(m, torch.zeros(1, 8, 8), 16, seeds, solver=solver, hold=MatchModes),
    ),
    "twisted": (trained, lambda m, seeds, solver: twisted(m, SEEN, 16, seeds, particles=4, steps=3)),
    "a log density": (trained, lambda m, seeds, solver: log_likelihood(m, torch.zeros(1, 16, 16), steps=3)),
}


@pytest.mark.parametrize("name", quick(DRAWN, "directly", "guided by a field", "a log density"))
def test_samples_without_float64_on_the_device_are_those_of_the_cpu(device, name):
    make, call = DRAWN[name]
    options = {"solver": FEW} if "solver" not in getattr(call, "keywords", {}) else {}
    expected = call(make(), seeds=[0, 1], **options)
    found = call(there(make()), seeds=[0, 1], **options)
    assert not isinstance(found, There) and bool(found.isfinite().all())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", quick(DRAWN, "directly"))
def test_samples_on_a_device_with_float64_are_those_of_the_cpu(device, monkeypatch, name):
    monkeypatch.setattr(no_double, "DOUBLES", ())
    monkeypatch.setattr(arrays, "WITHOUT_DOUBLE", ())
    test_samples_without_float64_on_the_device_are_those_of_the_cpu(device, name)


TAUGHT = {
    "EDM's scaling": (trained, {}),
    "scaling by mode": (
        lambda: trained(scaling=SpectralScaling((16, 16))),
        {"mask": torch.eye(16).expand(4, 1, 16, 16)},
    ),
    "pairs": (partial(DenoisingLoss, coupling=OptimalTransport()), {}),
    "conditions left out": (partial(DenoisingLoss, drop_condition=0.5), {"label": torch.tensor([0, 1, 1, 0])}),
}


@pytest.mark.parametrize("name", quick(TAUGHT, "pairs"))
def test_a_step_of_training_without_float64_on_the_device_is_that_of_the_cpu(device, name):
    make, given = TAUGHT[name]
    seen = []
    for place in (torch.device("cpu"), device):
        model = trained(num_classes=2) if "label" in given else trained() if isinstance(make, partial) else make()
        model = there(model) if place == device else model
        loss = make(model) if isinstance(make, partial) else DenoisingLoss(model)
        x = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        x = x if place != device else There(x.float())
        generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
        value = loss(x, **{k: v.to(place) for k, v in given.items()}, generator=generators).mean()
        value.backward()
        adam = torch.optim.Adam(model.parameters(), 0.1, fused=False, foreach=False)
        adam.step()
        weights = next(p for p in model.parameters() if p.grad is not None)
        seen.append((value.item(), weights.detach().cpu()))
    (on_cpu, cpu_weights), (on_device, device_weights) = seen
    assert on_cpu == pytest.approx(on_device, rel=1e-3)
    torch.testing.assert_close(device_weights, cpu_weights, rtol=1e-3, atol=1e-2)


def test_measures_without_float64_on_the_device(device):
    x, y = (torch.randn(6, 1, 16, 16) for _ in range(2))
    fields = torch.stack([x, y]), x + 1
    for measure in (metrics.crps, metrics.energy_score, metrics.rank_histogram):
        torch.testing.assert_close(measure(*map(There, fields), BOX).cpu(), measure(*fields, BOX), atol=0.1, rtol=1e-3)
    for measure in (metrics.sliced_wasserstein, metrics.patch_distance):
        assert measure(There(x), There(y)) == pytest.approx(measure(x, y), rel=1e-3)
    rows = x.flatten(1), y.flatten(1)
    assert metrics.kernel_distance(*map(There, rows)) == pytest.approx(metrics.kernel_distance(*rows), rel=1e-3)
    assert fit_spectrum(There(x), BOX).powers == pytest.approx(fit_spectrum(x, BOX).powers, rel=1e-3)
    units = Normalization([101325.0], [1.0])
    assert not isinstance(units.inverse(There(x)), There), "in float64, on the CPU"


def test_the_stand_in_refuses_doubles(device):
    with pytest.raises(TypeError, match="has none"):
        torch.zeros(2, device=device).double()
    assert in_double(torch.zeros(2, device=device)).device.type == "cpu"


# ---- precisions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_every_precision_sample_as_in_float32(dtype):
    model = trained()
    expected = draw(model, [0, 1])
    found = draw(trained().to(dtype), [0, 1])
    tolerance = {torch.float16: 0.02, torch.bfloat16: 0.1, torch.float64: 1e-4}[dtype]
    assert float(BOX.norm(found.float() - expected).max() / BOX.norm(expected).max()) < tolerance


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_every_precision_train(dtype):
    data = MultiResolution(Drawn(4), BOX, [16], batch_size=2)
    model = Model(DFU.tiny(3, 3, num_blocks=0), SDE, EDMScaling()).to(dtype)
    before = [p.detach().clone() for p in model.parameters()]
    fit(model, data, 2, logging=QUIET)
    after = list(model.parameters())
    assert all(p.dtype == dtype and bool(p.isfinite().all()) for p in after)
    assert not all(map(torch.equal, before, after))
