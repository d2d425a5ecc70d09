"""Noise of another size in each channel: one channel is decided on before another."""

from __future__ import annotations

import pytest
import torch

from fnodiff import (
    DFU,
    EDM,
    Box,
    DenoisingLoss,
    EDMScaling,
    FunctionSpaceSDE,
    GaussianRandomField,
    Matern,
    Model,
    WhiteNoise,
    sample,
)
from fnodiff.inverse import PiGDM, PointObservation
from fnodiff.sde import ChannelSpectra, DPMSolver, GaussianDenoiser

BOX, LAW = Box(2), Matern(0.5, 0.3)
PLAIN, APART = (FunctionSpaceSDE(GaussianRandomField(BOX, LAW, std), EDM()) for std in (None, (1.0, 8.0)))


def model(sde: FunctionSpaceSDE, channels: int = 2) -> Model:
    torch.manual_seed(0)
    return Model(DFU.tiny(channels, channels, dropout=0.0), sde, EDMScaling(1.0), channels=channels).eval()


def test_each_channel_has_its_own_standard_deviation():
    seed = torch.Generator().manual_seed
    plain, apart = (sde.noise.sample((2, 2, 16, 16), generator=seed(0)) for sde in (PLAIN, APART))
    torch.testing.assert_close(apart, plain * torch.tensor([1.0, 8.0])[:, None, None])
    assert APART.noise.variance((16, 16)) == pytest.approx(PLAIN.noise.variance((16, 16)) * (1 + 64) / 2)
    torch.testing.assert_close(
        APART.noise.point_std((16, 16)), PLAIN.noise.point_std((16, 16)) * torch.tensor([1.0, 8.0]).double()
    )


def test_spectra_and_standard_deviations_go_together():
    laws = ChannelSpectra((LAW, Matern(1.5, 0.3)))
    one, other = (GaussianRandomField(BOX, laws, std) for std in (None, (0.5, 3.0)))
    eigenvalues = BOX.eigenvalues((8, 8))
    torch.testing.assert_close(other.std(eigenvalues), one.std(eigenvalues) * torch.tensor([0.5, 3.0])[:, None, None])


@pytest.mark.parametrize("level", [0.01, 0.3, 4.0])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_channel_is_scaled_as_alone_at_its_own_level(level, rows):
    x_t = torch.randn(rows, 2, 12, 12, generator=torch.Generator().manual_seed(1))
    t, later = (PLAIN.schedule.time(torch.tensor(ratio * level).double()) for ratio in (1, 8))
    if rows > 1:
        t, later = t.expand(rows), later.expand(rows)
    scaling = EDMScaling(1.0)
    both, first, second = scaling(APART, None, x_t, t), scaling(PLAIN, None, x_t, t), scaling(PLAIN, None, x_t, later)
    for part in ("skip", "input"):
        torch.testing.assert_close(getattr(both, part)[:, :1], getattr(first, part)[:, :1])
        torch.testing.assert_close(getattr(both, part)[:, 1:], getattr(second, part)[:, 1:])
    torch.testing.assert_close(both.out(x_t)[:, 1:], second.out(x_t)[:, 1:])
    torch.testing.assert_close(both.noise_level, first.noise_level)
    weights = [scaling.loss_weight(sde, None, when, (12, 12)) for sde, when in ((APART, t), (PLAIN, t), (PLAIN, later))]
    torch.testing.assert_close(weights[0], torch.stack(weights[1:], dim=-1))


def test_the_loss_is_the_mean_of_the_channels_losses():
    """The network's part is zero before training: x = 0 has the loss s^2 c_skip^2 / c_out^2 of each channel."""
    silent = Model(DFU.tiny(2, 2), APART, EDMScaling(1.0), channels=2)
    generator = torch.Generator().manual_seed
    loss = DenoisingLoss(silent, 0.0, 0.5)
    found = loss(torch.zeros(4, 2, 12, 12), generator=generator(2))
    t = loss.times(4, generator=generator(2))
    x_t, _ = APART.perturb(torch.zeros(4, 2, 12, 12), t, generator=_after_times(generator(2), 4))
    s = APART.noise.point_std((12, 12)).float() * APART.schedule.ratio(t).float()[:, None]
    expected = (BOX.norm(x_t.flatten(0, 1)[:, None]).unflatten(0, (4, 2)) / (s * (s**2 + 1).sqrt())).square().mean(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


def _after_times(generator: torch.Generator, count: int) -> torch.Generator:
    """As a loss leaves it for the noise."""
    DenoisingLoss(model(PLAIN), 0.0, 0.5).times(count, generator=generator)
    return generator


def test_it_is_saved_and_loaded(tmp_path):
    model(APART).save_pretrained(tmp_path)
    again = Model.from_pretrained(tmp_path)
    assert again.sde.noise.channel_std == (1.0, 8.0)
    x_t, t = torch.randn(2, 2, 12, 12), torch.tensor(0.4)
    torch.testing.assert_close(again(x_t, t), model(APART)(x_t, t))


def test_exact_denoisers_sample_the_law():
    law = GaussianRandomField(BOX, LAW)
    denoiser = GaussianDenoiser(law, APART, channels=2)
    x = sample(denoiser, (12, 12), seeds=range(512), solver=DPMSolver(48))
    torch.testing.assert_close(x.square().mean((0, 2, 3)), torch.full((2,), law.variance((12, 12))), rtol=0.1, atol=0)


def test_pigdm_heeds_each_channels_noise():
    """At high noise the second channel's law is wider: an observation of it moves it by sd^2 s^2 / (s^2 + sd^2)."""
    denoiser = GaussianDenoiser(GaussianRandomField(BOX, LAW), APART, channels=2)
    points, values = torch.tensor([[0.3, 0.7], [0.4, 0.2]]), torch.tensor([[1.0, -1.0]])
    seen = PointObservation(points, values, 0.01, channels=1)
    x = sample(PiGDM(denoiser, seen, 1.0), (12, 12), seeds=range(4), solver=DPMSolver(16))
    torch.testing.assert_close(BOX.evaluate(x[:, 1:], points)[:, 0], values.expand(4, 2), rtol=0, atol=0.2)


@pytest.mark.parametrize("std", [(), (1.0, 0.0), (1.0, -2.0), (1.0, float("nan")), (1.0, float("inf"))])
def test_bad_ones_are_refused(std):
    with pytest.raises(ValueError, match="expected channel_std of"):
        GaussianRandomField(BOX, LAW, std)


def test_there_are_as_many_as_spectra():
    with pytest.raises(ValueError, match="expected channel_std of 2 positive numbers"):
        GaussianRandomField(BOX, ChannelSpectra((LAW, LAW)), (1.0, 2.0, 3.0))


def test_fields_have_as_many_channels():
    with pytest.raises(ValueError, match="expected noise of 2 channels"):
        APART.noise.sample((1, 3, 12, 12))


def test_white_noise_may_differ_by_channel(tmp_path):
    plain, apart = (WhiteNoise(BOX, 12, std) for std in (None, (1.0, 100.0)))
    seed = torch.Generator().manual_seed
    one, other = (noise.sample((2, 2, 24, 24), generator=seed(0)) for noise in (plain, apart))
    torch.testing.assert_close(other, one * torch.tensor([1.0, 100.0])[:, None, None], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(apart.point_std((24, 24)), torch.tensor([2.0, 200.0]).double())
    made = model(FunctionSpaceSDE(apart, EDM()))
    made.save_pretrained(tmp_path)
    assert Model.from_pretrained(tmp_path).sde.noise == apart
    with pytest.raises(ValueError, match="WhiteNoise: expected channel_std of 2 positive numbers"):
        WhiteNoise(BOX, 12, (1.0, -1.0))
