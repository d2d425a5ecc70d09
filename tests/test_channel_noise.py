"""Noise of another kind in each channel."""

from __future__ import annotations

import pytest
import torch
from drawn import Drawn

from fnodiff import (
    DFU,
    EDM,
    Box,
    EDMScaling,
    FunctionSpaceSDE,
    GaussianRandomField,
    Matern,
    Model,
    MultiResolution,
    PixelNoise,
    SpectralScaling,
    Torus,
    WhiteNoise,
    fit,
    sample,
)
from fnodiff.data import ArrayFields
from fnodiff.inverse import MomentMatching, PointObservation, Trajectory
from fnodiff.sde import ChannelNoise, ChannelSpectra, DPMSolver, GaussianDenoiser
from fnodiff.train import Logging

BOX = Box(2)
WHITE, SMOOTH = WhiteNoise(BOX, (16, 16)), GaussianRandomField(BOX, Matern(1.5, 0.3))
NOISE = ChannelNoise((WHITE, SMOOTH))
SDE = FunctionSpaceSDE(NOISE, EDM())
SEED = torch.Generator().manual_seed


def test_each_channel_is_its_own_noise():
    x = NOISE.sample((4000, 2, 16, 16), generator=SEED(0))
    torch.testing.assert_close(
        x.square().mean((0, 2, 3)), torch.tensor([1.0, SMOOTH.variance((16, 16))]), rtol=0.03, atol=0
    )
    power = BOX.analyze(x.double()).square().mean(0)
    eigenvalues = BOX.eigenvalues((16, 16), dtype=torch.float64)
    for channel, noise in enumerate((WHITE, SMOOTH)):
        torch.testing.assert_close(power[channel], noise.std(eigenvalues).square(), rtol=0.15, atol=0)


@pytest.mark.parametrize("std", [None, (0.5, 6.0)])
def test_point_std_on_every_grid(std):
    noise = ChannelNoise((WHITE, SMOOTH), std)
    factor = torch.tensor(std or (1.0, 1.0)).double()
    for n in (8, 16, 40):
        expected = torch.tensor([n / 16, SMOOTH.variance((n, n)) ** 0.5]).double() * factor
        torch.testing.assert_close(noise.point_std((n, n)), expected, rtol=1e-6, atol=0)
        assert noise.variance((n, n)) == pytest.approx(float(expected.square().mean()))


def test_one_seed_is_one_function_on_every_grid():
    coarse, fine = (NOISE.sample((2, 2, n, n), generator=[SEED(3), SEED(4)]) for n in (12, 30))
    torch.testing.assert_close(BOX.resample(fine, (12, 12)), coarse, rtol=0, atol=1e-4)


@pytest.mark.parametrize("std", [None, (0.5, 6.0)])
def test_a_channel_is_scaled_as_alone(std):
    """Each channel of EDM's scaling is what a model of that noise alone has, at the level of its own size."""
    x_t, level = torch.randn(3, 2, 12, 12, generator=SEED(1)), 0.7
    sde, scaling = FunctionSpaceSDE(ChannelNoise((WHITE, SMOOTH), std), EDM()), EDMScaling(1.0)
    t = sde.schedule.time(torch.tensor(level).double()).expand(3)
    both = scaling(sde, None, x_t, t)
    for channel, noise in enumerate((WHITE, SMOOTH)):
        own = FunctionSpaceSDE(noise, EDM())
        when = own.schedule.time(torch.tensor(level * (std or (1, 1))[channel]).double()).expand(3)
        alone, at = scaling(own, None, x_t, when), slice(channel, channel + 1)
        for part in ("skip", "input"):
            torch.testing.assert_close(getattr(both, part)[:, at], getattr(alone, part)[:, at])
        torch.testing.assert_close(both.out(x_t)[:, at], alone.out(x_t)[:, at])
        torch.testing.assert_close(
            scaling.loss_weight(sde, None, t, (12, 12))[:, channel], scaling.loss_weight(own, None, when, (12, 12))
        )


@pytest.mark.parametrize("posterior", [False, True])
def test_exact_denoisers_sample_the_law(posterior):
    """A Gaussian law of white and smooth channels is sampled as it is, and a sensor of the smooth channel is heeded."""
    law = GaussianRandomField(BOX, ChannelSpectra((Matern(0.3, 0.3), Matern(2.0, 0.3))))
    denoiser = GaussianDenoiser(law, SDE, channels=2)
    if not posterior:
        x = sample(denoiser, (12, 12), seeds=range(512), solver=DPMSolver(48))
        found = BOX.analyze(x.double()).square().mean(0)[:, :3, :3]
        torch.testing.assert_close(
            found, law.std(BOX.eigenvalues((12, 12)).double()).square()[:, :3, :3], rtol=0.3, atol=0
        )
        return
    points, values = torch.tensor([[0.3, 0.7], [0.4, 0.2]]), torch.tensor([[1.0, -1.0]])
    seen = PointObservation(points, values, 0.01, channels=1)
    x = sample(MomentMatching(denoiser, seen, iterations=8), (12, 12), seeds=range(4), solver=DPMSolver(24))
    torch.testing.assert_close(BOX.evaluate(x[:, 1:], points)[:, 0], values.expand(4, 2), rtol=0, atol=0.1)


@pytest.mark.parametrize(
    "scaling", [EDMScaling(1.0), EDMScaling(1.0, True), SpectralScaling((16, 16), None, True)], ids=str
)
def test_it_trains_samples_and_is_saved(scaling, tmp_path):
    fields = ArrayFields(Drawn(24).batch(range(24), (16, 16))["x"][:, :2], domain=BOX)
    data = MultiResolution(fields, BOX, [8, 16], batch_size=4)
    torch.manual_seed(0)
    model = Model.for_data(data, DFU.tiny, noise=ChannelNoise((WHITE, SMOOTH), (1, 8)), scaling=scaling)
    fit(model, data, 3, folder=tmp_path, logging=Logging(progress=False))
    again = Model.from_pretrained(tmp_path)
    assert again.sde.noise == model.sde.noise
    one, other = (sample(m, (20, 20), seeds=[1], solver=DPMSolver(2)) for m in (model, again))
    torch.testing.assert_close(one, other)
    assert bool(one.isfinite().all())


@pytest.mark.parametrize(
    ("channels", "told"),
    [
        ((), "expected a noise for each channel, got none"),
        ((WHITE, PixelNoise(BOX)), "WhiteNoise or GaussianRandomField of one channel, got PixelNoise"),
        ((NOISE, WHITE), "of one channel, got ChannelNoise"),
        ((WHITE, GaussianRandomField(BOX, Matern(1.0), (1.0, 2.0))), "channel_std to ChannelNoise"),
        ((GaussianRandomField(BOX, ChannelSpectra((Matern(1.0), Matern(2.0)))),), "of one channel"),
        ((WHITE, WhiteNoise(Torus(2), (16, 16))), "expected noises on one domain"),
        ((WHITE, Matern(1.0)), "WhiteNoise or GaussianRandomField of one channel, got Matern"),
    ],
)
def test_bad_ones_are_refused(channels, told):
    with pytest.raises(ValueError, match=told):
        ChannelNoise(channels)


def test_other_mistakes():
    with pytest.raises(ValueError, match="expected channel_std of 2 positive numbers"):
        ChannelNoise((WHITE, SMOOTH), (1.0,))
    with pytest.raises(ValueError, match="expected noise of 2 channels"):
        NOISE.sample((1, 3, 16, 16))
    with pytest.raises(ValueError, match="expected noise of 3 channels, as the fields have, got one of 2"):
        Model(DFU.tiny(3, 3), SDE, EDMScaling(1.0))
    fields = ArrayFields(torch.rand(40, 3, 16, 16), domain=BOX)
    with pytest.raises(ValueError, match="expected noise of 3 channels, as the fields have, got one of 2"):
        Model.for_data(MultiResolution(fields, BOX, [8, 16], batch_size=4), DFU.tiny, noise=NOISE)
    denoiser = GaussianDenoiser(GaussianRandomField(BOX, Matern(1.0)), SDE, channels=2)
    with pytest.raises(ValueError, match="one law of the noise for all states"):
        Trajectory(denoiser, length=4, states=2)


def averaged(*smoothness):
    """A model of cell averages on 8 and 16 points, with channels of these Matern laws."""
    law = GaussianRandomField(BOX, ChannelSpectra(tuple(Matern(nu, 0.3) for nu in smoothness)))
    x = law.sample((64, len(smoothness), 48, 48), generator=SEED(5))
    fields = ArrayFields(BOX.average(x, (16, 16)), domain=BOX)
    return Model.for_data(MultiResolution(fields, BOX, [8, 16], batch_size=4), DFU.tiny)


def test_cell_averages_have_a_spectrum_each_where_channels_fall_differently():
    alike, apart = averaged(0.5, 0.6), averaged(0.3, 1.8)
    assert not isinstance(alike.spectrum, ChannelSpectra)
    first, second = (law.exponent for law in apart.spectrum.channels)
    assert first == pytest.approx(2.6, abs=0.5) and second == pytest.approx(5.6, abs=0.8)
    for shape in ((8, 8), (12, 12), (32, 32)):  # the default plans: coarse grids first, and a cascade
        assert bool(sample(apart, shape, seeds=[0, 1]).isfinite().all())


def test_channels_whose_fall_is_not_known_have_one_law():
    """Few samples, and a channel that is constant over each of them."""
    few = WHITE.sample((8, 3, 8, 8), generator=SEED(0))
    constant = WHITE.sample((64, 2, 16, 16), generator=SEED(0))
    constant[:, 1] = torch.randn(64, 1, 1, generator=SEED(1))
    for x in (few, constant):
        data = MultiResolution(ArrayFields(x, domain=BOX), BOX, [x.shape[-1]], batch_size=4)
        assert not isinstance(Model.for_data(data, DFU.tiny, noise=WHITE).spectrum, ChannelSpectra)
