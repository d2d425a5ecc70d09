"""Properties that hold for every shape, type, number of modes and schedule, on inputs that hypothesis chooses."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, given, settings

from fnodiff.domain import Box, Sphere, Torus
from fnodiff.nn import DFU, SpectralConv
from fnodiff.sde import (
    DDIM,
    EDM,
    VE,
    VP,
    Cosine,
    DPMSolver,
    EulerMaruyama,
    FunctionSpaceSDE,
    GaussianRandomField,
    Heun,
    Matern,
    Preconditioned,
    SubVP,
    WhiteNoise,
)

settings.register_profile("fnodiff", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("fnodiff")

TORI = [Torus(1), Torus(2), Torus(3)]
EVERY = (*TORI, Box(1), Box(2), Box(3), Sphere(), Sphere("equiangular"))
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


@given(grids(count=2), st.sampled_from(list(DTYPES)))
def test_what_a_grid_holds_survives_every_finer_grid(case, dtype):
    domain, shape, other = case
    x = fields(domain, shape, dtype)
    fine = domain.resample(x, finer(shape, other))
    assert fine.dtype == dtype and bool(fine.isfinite().all())
    back = domain.resample(fine, shape)
    torch.testing.assert_close(back, x, rtol=0, atol=DTYPES[dtype] * float(x.abs().max()))


@given(grids(count=2))
def test_coupled_noise_is_one_function(case):
    domain, shape, other = case
    fine, noise = finer(shape, other), GaussianRandomField(domain, Matern(1.5, 0.3))
    on = [
        noise.sample((2, 1, *s), generator=torch.Generator().manual_seed(1), dtype=torch.float64) for s in (shape, fine)
    ]
    coarse = domain.analyze(on[0])
    torch.testing.assert_close(
        domain.analyze(domain.resample(on[1], shape)), coarse, rtol=0, atol=1e-10 * float(coarse.abs().max())
    )


@given(grids())
def test_weights_are_shares_of_the_domain_and_the_norm_is_theirs(case):
    domain, shape = case
    weights = domain.weights(shape, dtype=torch.float64)
    x = fields(domain, shape)
    assert weights.shape == shape and float(weights.min()) >= 0
    assert float(weights.sum()) == pytest.approx(1.0, rel=1e-12)
    torch.testing.assert_close(domain.norm(x).square(), (weights * x.square()).flatten(1).sum(1))


@given(grids(TORI, count=2), st.data())
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


@given(SCHEDULES, st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_schedules_rise_and_time_undoes_them(schedule, a, b):
    assume(abs(a - b) > 1e-3)
    t = torch.tensor([min(a, b), max(a, b)], dtype=torch.float64)
    alpha, sigma = schedule(t)
    ratio = schedule.ratio(t)
    assert bool((alpha > 0).all() and (sigma > 0).all()) and float(ratio[1]) > float(ratio[0])
    torch.testing.assert_close(ratio, sigma / alpha)
    torch.testing.assert_close(schedule.time(ratio), t, rtol=1e-6, atol=1e-6)


@given(grids([Torus(1), Box(2), Sphere()], smallest=8, largest=12), st.sampled_from(list(DTYPES)), st.data())
@settings(max_examples=15)
def test_networks_keep_shape_and_type_and_samples_do_not_depend_on_their_company(case, dtype, data):
    domain, shape = case
    torch.manual_seed(0)
    net = DFU.tiny(1, 1, domain=domain, hidden_channels=8, zero_init=False).eval()
    model = Preconditioned(net, FunctionSpaceSDE(WhiteNoise(domain, shape), EDM())).to(dtype).eval()
    x = fields(domain, shape, dtype)
    assert net.to(dtype)(x, torch.zeros((), dtype=dtype)).shape == x.shape
    if dtype == torch.float64:
        torch.set_default_dtype(dtype)
    try:
        kind = data.draw(st.sampled_from([DPMSolver, Heun, DDIM, EulerMaruyama]))
        run, seeds = kind(model, 4), data.draw(st.lists(st.integers(0, 10**9), min_size=2, max_size=5, unique=True))
        together = run.draw((1, *shape), seeds, chunk=len(seeds))
        again = run.draw((1, *shape), seeds, chunk=len(seeds))
        alone = run.draw((1, *shape), seeds[-1:], chunk=1)
        apart = run.draw((1, *shape), seeds, chunk=data.draw(st.integers(1, len(seeds))))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(again, together), "the same bits from run to run"
    tolerance = 1e-5 if dtype == torch.float64 else 2e-3  # the untrained network passes float32's rounding on, grown
    for one, other in ((alone, together[-1:]), (apart, together)):
        assert float((one - other).abs().max()) <= tolerance * float(together.abs().max())
    assert math.isfinite(float(together.abs().max()))
