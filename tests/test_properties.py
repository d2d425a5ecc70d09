"""Properties that hold for every shape, type, number of modes and schedule, on inputs that hypothesis chooses."""

from __future__ import annotations

import math
import tempfile
from functools import partial
from types import FunctionType

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, given, settings

from fnodiff import Model, metrics, sample
from fnodiff.checkpoint import describe
from fnodiff.domain import Box, Product, Sphere, Torus
from fnodiff.nn import DFU, SpectralConv
from fnodiff.sde import (
    DDIM,
    EDM,
    RBF,
    VE,
    VP,
    Cascade,
    ChannelSpectra,
    Cosine,
    Direct,
    DPMSolver,
    EDMScaling,
    EulerMaruyama,
    FunctionSpaceSDE,
    GaussianRandomField,
    Heun,
    Matern,
    Normalization,
    PixelNoise,
    Progressive,
    SpectralScaling,
    SubVP,
    WhiteNoise,
)

settings.register_profile("fnodiff", deadline=None, derandomize=True)
settings.load_profile("fnodiff")


def holds(*strategies, often=40):
    """The test on inputs of these strategies: on a third as many as `often`, and on all in a slow twin of its name."""

    def make(test):
        twin = FunctionType(test.__code__, test.__globals__, f"{test.__name__}_often", None, test.__closure__)
        test.__globals__[twin.__name__] = pytest.mark.slow(settings(max_examples=often)(given(*strategies)(twin)))
        return settings(max_examples=math.ceil(often / 3))(given(*strategies)(test))

    return make


TORI = [Torus(1), Torus(2), Torus(3)]
CHANNEL = Product([Torus(1), Box(1)])
EVERY = (*TORI, Box(1), Box(2), Box(3), CHANNEL, Product([Box(1), Torus(2)]), Sphere(), Sphere("equiangular"))
DTYPES = {torch.float32: 1e-4, torch.float64: 1e-10}


@st.composite
def grids(draw, domains=EVERY, count=1, smallest=4, largest=20):
    """A domain and `count` grids on it."""
    domain = draw(st.sampled_from(domains))
    if isinstance(domain, Sphere):
        sizes = [draw(st.integers(smallest, largest)) for _ in range(count)]
        shapes = [domain.shape_of(n) for n in sizes]
    else:
        top = largest if domain.dim < 3 else 9
        side = st.integers(smallest, top)
        shapes = [tuple(draw(side) for _ in range(domain.dim)) for _ in range(count)]
    return (domain, *shapes)


def finer(shape, other):
    """The grid that holds both."""
    return tuple(max(n, m) for n, m in zip(shape, other, strict=True))


def fields(domain, shape, dtype=torch.float64, channels=1):
    """What a grid holds, exactly: white noise on it."""
    noise = WhiteNoise(domain, tuple(shape))
    return noise.sample((2, channels, *shape), generator=torch.Generator().manual_seed(0), dtype=dtype)


@holds(grids(count=2), st.sampled_from(list(DTYPES)))
def test_what_a_grid_holds_survives_every_finer_grid(case, dtype):
    domain, shape, other = case
    x = fields(domain, shape, dtype)
    fine = domain.resample(x, finer(shape, other))
    assert fine.dtype == dtype and bool(fine.isfinite().all())
    back = domain.resample(fine, shape)
    torch.testing.assert_close(back, x, rtol=0, atol=DTYPES[dtype] * float(x.abs().max()))


SPECTRA = st.one_of(
    st.tuples(st.floats(0.3, 3.0), st.floats(0.1, 1.0)).map(lambda v: Matern(*v)),
    st.floats(0.1, 0.5).map(RBF),
)


@st.composite
def noises(draw, domain, channels=1):
    """A noise that is a function, on this domain."""
    kind = draw(st.sampled_from(["white", "field", "channels"]))
    if kind == "white":
        return WhiteNoise(domain, domain.shape_of(draw(st.integers(4, 32))))
    if kind == "field":
        return GaussianRandomField(domain, draw(SPECTRA))
    return GaussianRandomField(domain, ChannelSpectra(tuple(draw(SPECTRA) for _ in range(channels))))


@holds(grids(count=2), st.integers(1, 3), st.sampled_from(list(DTYPES)), st.data())
def test_coupled_noise_is_one_function_in_any_company(case, channels, dtype, data):
    domain, shape, other = case
    fine, noise = finer(shape, other), data.draw(noises(domain, channels))
    seeds = data.draw(st.lists(st.integers(0, 2**40), min_size=1, max_size=3))

    def draws(shape, seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return noise.sample((len(seeds), channels, *shape), generator=generators, dtype=dtype)

    coarse = draws(shape, seeds)
    assert coarse.dtype == dtype
    rounding = 0.01 * DTYPES[dtype] * float(coarse.abs().max())
    torch.testing.assert_close(draws(shape, seeds[-1:]), coarse[-1:], rtol=0, atol=rounding)
    modes = domain.analyze(coarse)
    found = domain.analyze(domain.resample(draws(fine, seeds), shape))
    torch.testing.assert_close(found, modes, rtol=0, atol=DTYPES[dtype] * float(modes.abs().max()))


@holds(grids(), st.data())
def test_a_noise_has_the_variance_that_it_names(case, data):
    """The mean square of its modes' standard deviations, at the points: pixel noise one, fields no more than one."""
    domain, shape = case
    noise = data.draw(noises(domain))
    mult = domain.multiplicity(shape, dtype=torch.float64)
    std = noise.on(shape).std(domain.eigenvalues(shape, dtype=torch.float64))
    assert noise.variance(shape) == pytest.approx(float((mult * std.square()).sum()), rel=1e-12)
    if isinstance(noise, GaussianRandomField):
        assert 0 < noise.variance(shape) < 1 + 1e-4
    else:
        points, reference = (float(domain.multiplicity(s, dtype=torch.float64).sum()) for s in (shape, noise.reference))
        assert noise.variance(shape) == pytest.approx(points / reference, rel=1e-12)
    if domain.uniform and all(n % 2 for n in shape):
        assert PixelNoise(domain).variance(shape) == pytest.approx(1, rel=1e-12)


@holds(grids())
def test_weights_are_shares_of_the_domain_and_the_norm_is_theirs(case):
    domain, shape = case
    weights = domain.weights(shape, dtype=torch.float64)
    x = fields(domain, shape)
    assert weights.shape == shape and float(weights.min()) >= 0
    assert float(weights.sum()) == pytest.approx(1.0, rel=1e-12)
    torch.testing.assert_close(domain.norm(x).square(), (weights * x.square()).flatten(1).sum(1))


@holds(grids(TORI, count=2), st.data())
def test_spectral_convolutions_are_linear_and_do_not_see_the_grid(case, data):
    domain, shape, other = case
    modes = tuple(data.draw(st.integers(1, n)) for n in shape)
    in_channels, out_channels = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    torch.manual_seed(0)
    layer = SpectralConv(in_channels, out_channels, modes, domain=domain, bias=False).double()
    x = fields(domain, shape, channels=in_channels)
    y = fields(domain, shape, channels=in_channels).flip(0)
    once = layer(x)
    assert once.shape == (2, out_channels, *shape)
    torch.testing.assert_close(layer(2 * x - 3 * y), 2 * once - 3 * layer(y))
    assume(all(m < n for m, n in zip(modes, shape, strict=True)))  # an even grid cannot tell its last mode's sign
    fine = finer(shape, other)
    torch.testing.assert_close(domain.resample(layer(domain.resample(x, fine)), shape), once)


SCHEDULES = st.one_of(
    st.tuples(st.floats(1e-3, 0.1), st.floats(2.0, 200.0)).map(lambda s: EDM(*s)),
    st.tuples(st.floats(1e-3, 0.1), st.floats(2.0, 200.0)).map(lambda s: VE(*s)),
    st.tuples(st.floats(0.01, 0.2), st.floats(5.0, 30.0)).map(lambda s: VP(*s)),
    st.tuples(st.floats(0.01, 0.2), st.floats(5.0, 30.0)).map(lambda s: SubVP(*s)),
    st.just(Cosine()),
)


@holds(SCHEDULES, st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_schedules_rise_and_time_undoes_them(schedule, a, b):
    assume(abs(a - b) > 1e-3)
    t = torch.tensor([min(a, b), max(a, b)], dtype=torch.float64)
    alpha, sigma = schedule(t)
    ratio = schedule.ratio(t)
    assert bool((alpha > 0).all() and (sigma > 0).all()) and float(ratio[1]) > float(ratio[0])
    torch.testing.assert_close(ratio, sigma / alpha)
    torch.testing.assert_close(schedule.time(ratio), t, rtol=1e-6, atol=1e-6)


@holds(grids(), SCHEDULES, st.floats(0, 1), st.data())
def test_the_score_of_what_is_known_points_back_along_the_noise(case, schedule, time, data):
    domain, shape = case
    sde, x = FunctionSpaceSDE(data.draw(noises(domain)), schedule), fields(domain, shape)
    t = torch.tensor([time, 1 - time], dtype=torch.float64)
    x_t, z = sde.perturb(x, t, generator=torch.Generator().manual_seed(0))
    sigma_t = sde.marginal(x, t)[1]
    torch.testing.assert_close(sigma_t * sde.score(x_t, t, x), -z, rtol=0, atol=1e-9 / float(sigma_t.min()))


@st.composite
def networks(draw, inputs):
    """A network of random make and its conditions, on a small grid: `inputs` channels to two."""
    domain = draw(st.sampled_from([Torus(1), Torus(2), Box(1), Box(2), CHANNEL, Sphere()]))
    shape = (12,) * domain.dim if not isinstance(domain, Sphere) else (12, 24)
    factorization = draw(st.sampled_from(["ComplexDense", "ComplexTucker", "ComplexCP"]))
    options = {
        "hidden_channels": 4 * draw(st.integers(1, 2)),
        "channel_mult": draw(st.sampled_from([(1,), (1, 2)])),
        "spectral_levels": 1,
        "num_blocks": draw(st.integers(0, 1)),
        "local": draw(st.sampled_from(["conv", "operator", "point"])),
        "reference": shape,
        "num_classes": draw(st.sampled_from([0, 3])),
        "condition_channels": draw(st.integers(0, 1)),
        "positional_modes": draw(st.integers(0, 2)),
        "zero_init": False,
        "spectral": {} if factorization == "ComplexDense" else {"factorization": factorization, "rank": 0.5},
    }
    n = draw(st.integers(1, 6))
    modes = (n, 2 * n) if isinstance(domain, Sphere) else (n,) * domain.dim
    if options["local"] != "operator" and draw(st.booleans()):
        options["reference"] = None
    net = DFU(inputs, 2, modes, attention_levels=draw(st.sampled_from([(), (0,)])), domain=domain, **options)
    condition = {"label": torch.tensor([1])} if net.num_classes else {}
    if net.condition_channels:
        condition["field"] = torch.ones(1, 1, *shape)
    return net, shape, condition


@holds(SCHEDULES, st.booleans(), st.data(), often=10)
def test_a_model_that_was_saved_is_the_same(schedule, spectral, data):
    estimate = data.draw(st.booleans())
    net, shape, condition = data.draw(networks(4 if estimate else 2))
    if spectral:
        scaling = SpectralScaling(shape, data.draw(st.sampled_from([None, 4.0])), linear_estimate=estimate)
    else:
        scaling = EDMScaling(data.draw(st.floats(0.1, 2.0)), linear_estimate=estimate)
    known = {
        "normalization": Normalization([1.0, -2.0], [data.draw(st.floats(0.1, 10.0)), 3.0]),
        "condition_normalization": {"field": Normalization(data.draw(st.floats(-1.0, 1.0)), 2.0)},
        "spectrum": ChannelSpectra((data.draw(SPECTRA), data.draw(SPECTRA))),
        "cell_averages": data.draw(st.booleans()),
    }
    model = Model(net, FunctionSpaceSDE(data.draw(noises(net.domain, 2)), schedule), scaling, **known).eval()
    model.training_shapes = (shape,)
    with tempfile.TemporaryDirectory() as folder:
        again = Model.from_pretrained(model.save_pretrained(folder))
    assert describe(again) == describe(model) and again.sde == model.sde and again.training_shapes == (shape,)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    x = fields(net.domain, shape, torch.float32, channels=2)[:1]
    with torch.no_grad():
        once, twice = (m(x, torch.tensor(0.5), **condition) for m in (model, again))
    assert bool(once.isfinite().all()) and torch.equal(once, twice)


@holds(grids(smallest=8, largest=16), st.floats(0.1, 10.0), st.floats(-3.0, 3.0), often=25)
def test_measures_do_not_hang_on_units_and_places(case, factor, shift):
    domain, shape = case
    x, y = fields(domain, shape), fields(domain, shape).flip(0) + 0.5
    close = pytest.approx
    assert metrics.relative_l2(factor * x, factor * y, domain).tolist() == close(
        metrics.relative_l2(x, y, domain).tolist(), rel=1e-9
    )
    assert metrics.spectrum_error(factor * x, x, domain) == close(2 * abs(math.log(factor)), abs=1e-9)
    assert metrics.spectrum_error(x, y, domain) == close(metrics.spectrum_error(y, x, domain), rel=1e-9)
    if isinstance(domain, Torus):
        (_, here), (_, there) = (metrics.radial_spectrum(v, domain) for v in (x, x.roll(3, -1)))
        torch.testing.assert_close(there, here)
    samples = torch.stack([x, y, x - y])
    for score in (metrics.crps, metrics.energy_score):
        moved = score(factor * samples + shift, factor * y + shift, domain)
        torch.testing.assert_close(moved, factor * score(samples, y, domain), rtol=1e-9, atol=1e-9)
    rows, others = (torch.randn(20, 3, dtype=torch.float64) for _ in range(2))
    distance = metrics.frechet_distance(rows, others)
    turned = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    assert metrics.frechet_distance(others @ turned, rows.flip(0) @ turned) == close(distance, rel=1e-6)
    assert metrics.frechet_distance(factor * rows + shift, factor * others + shift) == close(
        factor**2 * distance, rel=1e-6
    )
    assert metrics.frechet_distance(rows + shift, rows) == close(3 * shift**2, abs=1e-6)
    assert metrics.sliced_wasserstein(factor * rows, factor * others) == close(
        factor * metrics.sliced_wasserstein(others, rows), rel=1e-9
    )


PLANS = [lambda grid: Direct(), lambda grid: Progressive([grid], 100.0), lambda grid: Cascade([grid], through=())]


@holds(
    grids([Torus(1), Box(2), CHANNEL, Sphere()], smallest=8, largest=12),
    st.sampled_from(list(DTYPES)),
    st.data(),
    often=8,
)
def test_networks_keep_shape_and_type_and_samples_do_not_depend_on_their_company(case, dtype, data):
    domain, shape = case
    torch.manual_seed(0)
    net = DFU.tiny(1, 1, domain=domain, hidden_channels=8, zero_init=False).eval()
    sde = FunctionSpaceSDE(WhiteNoise(domain, shape), EDM())
    model = Model(net, sde, EDMScaling(), spectrum=Matern(1.0, 0.3)).to(dtype).eval()
    x = fields(domain, shape, dtype)
    assert net.to(dtype)(x, torch.zeros((), dtype=dtype)).shape == x.shape
    if dtype == torch.float64:
        torch.set_default_dtype(dtype)
    try:
        solver = data.draw(st.sampled_from([DPMSolver, Heun, DDIM, EulerMaruyama]))(4)
        plan = data.draw(st.sampled_from(PLANS))(domain.shape_of(8))
        seeds = data.draw(st.lists(st.integers(0, 10**9), min_size=2, max_size=4, unique=True))
        drawn = partial(sample, model, shape, solver=solver, plan=plan)
        together, again = (drawn(seeds, batch=len(seeds)) for _ in range(2))
        alone, apart = drawn(seeds[-1]), drawn(seeds, batch=data.draw(st.integers(1, len(seeds))))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(again, together), "the same bits from run to run"
    tolerance = 1e-5 if dtype == torch.float64 else 2e-3  # the untrained network passes float32's rounding on, grown
    for one, other in ((alone, together[-1:]), (apart, together)):
        assert float((one - other).abs().max()) <= tolerance * float(together.abs().max())
    assert math.isfinite(float(together.abs().max()))
