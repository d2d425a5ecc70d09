# HELPER NOTE: another helper converts this file now; leave it alone.
"""The spectrum of data, and the preconditioner that knows it."""

from __future__ import annotations

import math
import warnings
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from fnodiff import DFU
from fnodiff.checkpoint import from_pretrained, save_pretrained
from fnodiff.domain import Box, Torus
from fnodiff.sde import (
    EDM,
    RBF,
    VP,
    ChannelSpectra,
    DataSpectrum,
    DenoisingLoss,
    DPMSolver,
    FunctionSpaceSDE,
    GaussianDenoiser,
    GaussianRandomField,
    Heun,
    Matern,
    PixelNoise,
    Preconditioned,
    Progressive,
    SpectralPreconditioned,
    WhiteNoise,
    fit_spectra,
    fit_spectrum,
    noise_levels,
)
from fnodiff.sde.process import has_data


class Zero(nn.Module):
    def forward(self, x, noise_level):
        self.seen = x, noise_level
        return torch.zeros_like(x)


class Impulse(nn.Module):
    def forward(self, x, noise_level):
        out = torch.zeros_like(x)
        out[(..., *(0,) * (x.ndim - 2))] = 1
        return out


def law(field):
    """A field's variance per mode, as a spectrum."""
    return lambda eigenvalues, dim: field.std(eigenvalues).square()


@pytest.mark.usefixtures("float64")
class TestSpectralPreconditioned:
    @pytest.mark.parametrize("schedule", [EDM(), VP()], ids=str)
    @pytest.mark.parametrize("shape", [(8, 8), (9, 12), (16, 16)])
    @pytest.mark.parametrize("domain", [Box(2), Torus(2)], ids=str)
    def test_without_a_network_it_is_the_gaussian_denoiser(self, domain, shape, schedule):
        data = GaussianRandomField(domain, Matern(1.0))
        for noise in (GaussianRandomField(domain, Matern(0.5, 0.1)), WhiteNoise(domain, (8, 8)), PixelNoise(domain)):
            sde = FunctionSpaceSDE(noise, schedule)
            x_t, t = torch.randn(3, 2, *shape), torch.tensor([0.0, 0.4, 1.0])
            found = SpectralPreconditioned(Zero(), sde, law(data), (8, 8))(x_t, t)
            torch.testing.assert_close(found, GaussianDenoiser(data, sde)(x_t, t))

    @pytest.mark.parametrize("schedule", [EDM(), VP()], ids=str)
    def test_with_flat_spectra_it_has_edms_scalars(self, schedule):
        sde, shape = FunctionSpaceSDE(PixelNoise(Box(2)), schedule), (6, 9)
        net, flat = nn.Conv2d(2, 2, 3, padding=1), lambda e, dim: torch.full_like(e, 0.5**2 / math.prod(shape))
        spectral = SpectralPreconditioned(Level(net), sde, flat, shape, cutoff=None)
        scalar = Preconditioned(Level(net), sde, sigma_data=0.5)
        x_t, t = torch.randn(3, 2, *shape), torch.tensor([0.1, 0.5, 0.9])
        torch.testing.assert_close(spectral(x_t, t), scalar(x_t, t))
        torch.testing.assert_close(spectral.loss_weight(t, shape), scalar.loss_weight(t, shape))

    def test_shows_the_linear_estimate_in_units_of_each_channel(self):
        domain, shape, seen = Torus(2), (8, 8), []
        fields = [GaussianRandomField(domain, Matern(0.5, 0.2)), GaussianRandomField(domain, Matern(3.0, 0.2))]
        spectra = ChannelSpectra((lambda e, dim: 1e4 * law(fields[0])(e, dim), law(fields[1])))

        class Watching(nn.Module):
            def forward(self, x, noise_level):
                seen.append(x)
                return torch.zeros_like(x[:, :2])

        sde = FunctionSpaceSDE(WhiteNoise(domain, shape), VP())
        x_t, t = torch.randn(3, 2, 12, 12), torch.tensor([0.1, 0.4, 0.9])
        model = SpectralPreconditioned(Watching(), sde, spectra, shape, shown=True)
        found = model(x_t, t)
        scale = torch.tensor([math.sqrt(1e4 * fields[0].variance(shape)), math.sqrt(fields[1].variance(shape))])
        torch.testing.assert_close(seen[0][:, 2:], found / scale[:, None, None])
        SpectralPreconditioned(Watching(), sde, spectra, shape)(x_t, t)
        torch.testing.assert_close(seen[0][:, :2], seen[1])
        assert model.config["shown"]
        with pytest.raises(ValueError, match=r"of 4 to 2 channels.*got 2 to 2"):
            SpectralPreconditioned(DFU.tiny(2, 2, domain=domain), sde, spectra, shape, shown=True)
        SpectralPreconditioned(DFU.tiny(4, 2, domain=domain), sde, spectra, shape, shown=True)(x_t, t)

    @pytest.mark.parametrize("shape", [(8, 8), (12, 12)])
    def test_edms_scalars_may_show_the_estimate_too(self, shape):
        domain, seen = Torus(2), []
        fields = [GaussianRandomField(domain, Matern(0.5, 0.2)), GaussianRandomField(domain, Matern(3.0, 0.2))]
        spectra = ChannelSpectra(tuple(law(field) for field in fields))

        class Watching(nn.Module):
            def forward(self, x, noise_level):
                seen.append(x)
                return x[:, :2]

        sde = FunctionSpaceSDE(WhiteNoise(domain, (8, 8)), VP())
        x_t, t = torch.randn(3, 2, *shape), torch.tensor([0.1, 0.4, 0.9])
        shown, plain = (Preconditioned(Watching(), sde, 0.5, spectrum=s) for s in (spectra, None))
        torch.testing.assert_close(shown(x_t, t), plain(x_t, t))
        torch.testing.assert_close(seen[0][:, :2], seen[1])
        best = SpectralPreconditioned(Zero(), sde, spectra, (8, 8))(x_t, t)
        torch.testing.assert_close(seen[0][:, 2:], best / 0.5, rtol=1e-4, atol=1e-5)
        with pytest.raises(ValueError, match=r"Preconditioned: expected a network of 4 to 2 channels.*got 2 to 2"):
            Preconditioned(DFU.tiny(2, 2, domain=domain), sde, spectrum=spectra)

    def test_a_shown_estimate_survives_saving(self, tmp_path):
        data = GaussianRandomField(Box(2), Matern(1.0, 0.3))
        spectrum = fit_spectrum(data.sample((64, 1, 16, 16)), Box(2))
        sde, net = FunctionSpaceSDE(WhiteNoise(Box(2), (16, 16)), EDM()), DFU.tiny(2, 1, zero_init=False)
        model = Preconditioned(net, sde, 0.5, spectrum=spectrum).eval()
        again = from_pretrained(save_pretrained(model, tmp_path))
        x_t, t = torch.randn(2, 1, 16, 16), torch.tensor([0.2, 0.7])
        with torch.no_grad():
            torch.testing.assert_close(again(x_t, t), model(x_t, t))
            ladder = Progressive(Heun(again, 2), [(16, 16)])
            assert ladder(again.sde.prior((1, 1, 24, 24))).shape == (1, 1, 24, 24)

    @pytest.mark.parametrize("t", [0.1, 0.5, 0.8])
    def test_target_has_unit_variance_in_every_mode(self, t):
        domain, count = Box(1), 20000
        data = GaussianRandomField(domain, Matern(1.5))
        sde = FunctionSpaceSDE(GaussianRandomField(domain, Matern(0.5)), VP())
        x = data.sample((count, 1, 12))
        x_t, _ = sde.perturb(x, torch.tensor(t))
        linear, impulse = (
            SpectralPreconditioned(net, sde, law(data), (12,))(x_t, torch.tensor(t)) for net in (Zero(), Impulse())
        )
        delta = torch.zeros(1, 1, 12)
        delta[..., 0] = 1
        gain = domain.analyze((impulse - linear)[:1]) / domain.analyze(delta)
        target = domain.analyze(x - linear) / gain
        variance = 12 * target.square().mean((0, 1))  # 12 modes of variance 1/12: one per point
        torch.testing.assert_close(variance, torch.ones(12), rtol=0, atol=4 * math.sqrt(2 / count))

    def test_input_has_unit_variance_on_the_reference_grid_and_becomes_a_function(self):
        domain = Box(2)
        data, noise = GaussianRandomField(domain, Matern(1.0)), WhiteNoise(domain, (16, 16))
        sde, net, t = FunctionSpaceSDE(noise, EDM()), Zero(), torch.rand(400)
        variances = []
        for n in (16, 32, 64, 128):
            x_t, _ = sde.perturb(data.sample((400, 1, n, n)), t)
            SpectralPreconditioned(net, sde, law(data), (16, 16), cutoff=4.0)(x_t, t)
            variances.append(float(net.seen[0].square().mean()))
        assert variances[0] == pytest.approx(1, abs=0.02)
        assert variances[3] == pytest.approx(variances[2], rel=0.02)

    def test_loss_is_one_without_a_network_on_gaussian_data(self):
        domain = Torus(1)
        data, sde = (
            GaussianRandomField(domain, Matern(1.0)),
            FunctionSpaceSDE(GaussianRandomField(domain, Matern(0.5)), VP()),
        )
        denoiser = SpectralPreconditioned(Zero(), sde, law(data), (15,))
        for n in (15, 31):
            values = DenoisingLoss(denoiser)(data.sample((4000, 2, n)))
            assert float(values.mean()) == pytest.approx(1, abs=4 * float(values.std()) / math.sqrt(4000))

    def test_each_channel_may_have_its_own_spectrum(self):
        domain, shape = Box(2), (9, 12)
        fields = [GaussianRandomField(domain, Matern(0.5, 0.2)), GaussianRandomField(domain, Matern(3.0, 0.2))]
        sde = FunctionSpaceSDE(GaussianRandomField(domain, Matern(0.5, 0.1)), VP())
        x = torch.cat([1e2 * fields[0].sample((4000, 1, *shape)), fields[1].sample((4000, 1, *shape))], 1)
        laws = (lambda e, dim: 1e4 * law(fields[0])(e, dim), law(fields[1]))
        model = SpectralPreconditioned(Zero(), sde, ChannelSpectra(laws), shape)
        x_t, t = torch.randn(3, 2, *shape), torch.tensor([0.0, 0.4, 1.0])
        alone = [SpectralPreconditioned(Zero(), sde, one, shape) for one in laws]
        expected = torch.cat([one(x_t[:, [i]], t) for i, one in enumerate(alone)], 1)
        torch.testing.assert_close(model(x_t, t), expected)
        # Each channel's error is weighed by its own size, so that both count alike.
        for octaves in (0.0, 1.0):
            values = DenoisingLoss(model, octaves=octaves)(x)
            assert float(values.mean()) == pytest.approx(1, abs=4 * float(values.std()) / math.sqrt(4000))
        assert model.loss_weight(t, shape).shape == (3, 2)
        assert model.noise_law[0] == pytest.approx(sum(one.noise_law[0] for one in alone) / 2)
        with pytest.raises(ValueError, match="as many channels as the fields have"):
            model(torch.randn(3, 1, *shape), t)

    def test_each_channel_may_have_its_own_noise(self):
        # Noise of each channel's own smoothness, under either preconditioner, is as the channels one by one.
        domain, shape = Torus(2), (12, 12)
        rough, smooth = Matern(0.5, 0.2), Matern(2.0, 0.2)
        noise = GaussianRandomField(domain, ChannelSpectra((rough, smooth)))
        apart = [GaussianRandomField(domain, one) for one in (rough, smooth)]
        assert noise.variance(shape) == pytest.approx(sum(one.variance(shape) for one in apart) / 2)
        z, seeds = noise.sample((20_000, 2, *shape)), [torch.Generator().manual_seed(i) for i in (3, 4)]
        for channel, one in enumerate(apart):
            torch.testing.assert_close(float(z[:, channel].var()), one.variance(shape), rtol=0.02, atol=0)
        again = [torch.Generator().manual_seed(i) for i in (3, 4)]
        drawn = noise.sample((2, 2, *shape), generator=seeds)
        torch.testing.assert_close(drawn[:, :1], apart[0].sample((2, 1, *shape), generator=again))
        data = GaussianRandomField(domain, Matern(1.0, 0.2))
        x_t, t = torch.randn(3, 2, *shape), torch.tensor([0.1, 0.4, 0.9])
        whole, *alone = (FunctionSpaceSDE(field, VP()) for field in (noise, *apart))
        for make in (
            lambda sde: GaussianDenoiser(data, sde),
            lambda sde: SpectralPreconditioned(Zero(), sde, law(data), shape),
        ):
            expected = torch.cat([make(sde)(x_t[:, [i]], t) for i, sde in enumerate(alone)], 1)
            torch.testing.assert_close(make(whole)(x_t, t), expected)
        law_of = [SpectralPreconditioned(Zero(), sde, law(data), shape).noise_law[0] for sde in (whole, *alone)]
        assert law_of[0] == pytest.approx(sum(law_of[1:]) / 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, *each = (sde.check(law(data), shape) for sde in (whole, *alone))
        assert found["snr_end"] == pytest.approx(max(one["snr_end"] for one in each))
        assert found["unresolved"] == pytest.approx(sum(one["unresolved"] for one in each) / 2)
        levels = [noise_levels(field, law(data), shape) for field in (noise, *apart)]
        assert levels[0] == pytest.approx((min(low for low, _ in levels[1:]), max(high for _, high in levels[1:])))
        with pytest.raises(ValueError, match="noise of 2 channels"):
            noise.sample((1, 3, *shape))

    def test_noise_level_is_edms(self):
        net = Zero()
        sde = FunctionSpaceSDE(WhiteNoise(Box(1), (8,)), VP())
        SpectralPreconditioned(net, sde, Matern(1.0), (8,))(torch.randn(2, 1, 16), torch.tensor(0.3))
        expected = VP().ratio(torch.tensor(0.3)).log() / 4
        torch.testing.assert_close(net.seen[1], expected.expand(2))


class Level(nn.Module):
    """A network of x and the noise level."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, noise_level):
        return self.net(x) * noise_level.cos().reshape(-1, *(1,) * (x.ndim - 1))


@pytest.mark.usefixtures("float64")
class TestFitSpectrum:
    @pytest.mark.parametrize("domain", [Torus(2), Box(2), Box(1)], ids=str)
    def test_finds_the_law_of_a_random_field_and_its_tail(self, domain):
        field = GaussianRandomField(domain, Matern(1.0, 0.3))
        n = 32 if domain.dim == 2 else 128
        spectrum = fit_spectrum(field.sample((400, 3, *(n,) * domain.dim)), domain)
        eigenvalues = domain.eigenvalues((2 * n,) * domain.dim)
        beyond = eigenvalues.sqrt() > spectrum.wavenumbers[-1]
        ratio = spectrum(eigenvalues) / field.std(eigenvalues).square()
        assert 0.8 < float(ratio[~beyond].min()) and float(ratio[~beyond].max()) < 1.25
        assert 0.75 < float(ratio[beyond].min()) and float(ratio[beyond].max()) < 1.33
        assert spectrum.exponent == pytest.approx(2 + domain.dim, abs=0.25)

    @pytest.mark.parametrize("domain", [Box(2), Torus(2)], ids=str)
    def test_undoes_the_average_over_cells(self, domain):
        fine = GaussianRandomField(domain, Matern(1.0, 0.3)).sample((200, 2, 64, 64))
        if domain == Box(2):
            images = domain.average(fine, (16, 16))
            found, points = fit_spectrum(images, domain, cell_averages=True), fit_spectrum(fine, domain)
        else:  # a cell of the torus reaches half a step to either side of its point
            k = domain.wavenumbers((64, 64))
            sinc = torch.sinc(k[0] / 64) * torch.sinc(k[1] / 64)
            averaged = domain.synthesize(domain.analyze(fine) * sinc, (64, 64))
            found, points = fit_spectrum(averaged, domain, cell_averages=True), fit_spectrum(fine, domain)
        at = torch.linspace(1, 0.9 * found.wavenumbers[-1], 40).square()
        torch.testing.assert_close(found(at), points(at), rtol=0.15, atol=0)
        blind = fit_spectrum(images if domain == Box(2) else averaged, domain)
        assert float((blind(at) / points(at))[-1]) < 0.8

    def test_channels_apart(self):
        domain = Torus(2)
        rough, smooth = (GaussianRandomField(domain, Matern(nu, 0.3)) for nu in (0.5, 2.0))
        x = torch.cat([field.sample((400, 1, 32, 32)) for field in (rough, smooth)], 1)
        found = fit_spectra(x, domain)
        assert [round(s.exponent) for s in found.channels] == [3, 6]
        e = domain.eigenvalues((32, 32))
        torch.testing.assert_close(found(e, 2), torch.stack([fit_spectrum(x[:, [i]], domain)(e) for i in (0, 1)]))
        sde = FunctionSpaceSDE(rough, EDM(1e-3, 80.0))
        alone = [sde.check(s, (32, 32)) for s in found.channels]
        both = sde.check(found, (32, 32))
        assert both["data_exponent"] == pytest.approx(min(one["data_exponent"] for one in alone))
        crossed = GaussianRandomField(domain, ChannelSpectra((smooth.spectrum, rough.spectrum)))
        with pytest.warns(UserWarning, match="noise smoother than the data"):
            FunctionSpaceSDE(crossed, EDM(1e-3, 80.0)).check(found, (32, 32))
        assert both["unresolved"] == pytest.approx(sum(one["unresolved"] for one in alone) / 2)
        levels = [noise_levels(rough, s, (32, 32)) for s in found.channels]
        expected = min(low for low, _ in levels), max(high for _, high in levels)
        assert noise_levels(rough, found, (32, 32)) == pytest.approx(expected)
        # Channels count by themselves: one of tiny fields keeps its mean, and equal ones switch grids where one alone does.
        tiny = ChannelSpectra((found.channels[0], lambda e, dim: 1e-9 * found.channels[1](e, dim)))
        assert bool(has_data(tiny(e, 2), e).all())
        assert noise_levels(rough, tiny, (32, 32))[0] == pytest.approx(math.sqrt(1e-9) * levels[1][0])
        plans = [
            Progressive(DPMSolver(GaussianDenoiser(rough, sde), 12), [(16, 16)], s).plan(torch.zeros(1, 2, 32, 32))
            for s in (found.channels[0], ChannelSpectra((found.channels[0],) * 2))
        ]
        assert plans[0] == plans[1] and plans[0][0].steps > 0

    @pytest.mark.parametrize("domain", [Box(2, lengths=(9.0, 7.0)), Torus(2)], ids=str)
    def test_fields_without_a_mean(self, domain):
        field = GaussianRandomField(domain, Matern(1.0, 2.0))
        x = field.sample((400, 1, 32, 32))
        whole, without = (fit_spectrum(v, domain) for v in (x, x - x.mean((2, 3), keepdim=True)))
        e = domain.eigenvalues((32, 32))
        torch.testing.assert_close(without(e)[e > 0], whole(e)[e > 0], rtol=0.15, atol=1e-7)
        assert float(without(e)[e == 0]) < 1e-6 * float(whole(e)[e == 0])
        noise = GaussianRandomField(domain, Matern(0.5, 2.0))
        least = float((without(e) / noise.std(e).square())[e > 0].min())
        assert noise_levels(noise, without, (32, 32))[0] == pytest.approx(math.sqrt(0.01 * least))
        law = SpectralPreconditioned(Zero(), FunctionSpaceSDE(noise, EDM()), without, (32, 32)).noise_law
        assert abs(law[0]) < 3 and law[1] < 3, "a mean that is not there is no noise level to train at"

    @pytest.mark.parametrize("lengths", [(2.0, 1.0), (4.0, 1.0)])
    @pytest.mark.parametrize("kind", [Box, Torus])
    def test_elongated_domains(self, kind, lengths):
        domain = kind(2, lengths=lengths)
        field, shape = GaussianRandomField(domain, Matern(2.0, 2.0)), (int(16 * lengths[0]), 16)
        x, e = field.sample((2000, 1, *shape)), domain.eigenvalues(shape)
        for fields in (x, x - x.mean((2, 3), keepdim=True)):
            ratio = (fit_spectrum(fields, domain)(e) / field.std(e).square())[e > 0]
            low = e[e > 0].sqrt() < math.pi * 6
            assert 0.7 < float(ratio[low].min()) < float(ratio[low].max()) < 1.4
        assert 0.8 < float((fit_spectrum(x, domain)(e) / field.std(e).square())[0, 0]) < 1.25

    def test_interpolates_and_has_a_floor(self):
        spectrum = DataSpectrum((0.0, 2.0, 4.0), (8.0, 4.0, 1.0), exponent=3.0, floor=1e-3)
        at = torch.tensor([0.0, 2.0, math.sqrt(8), 4.0, 8.0, 1e3])
        expected = torch.tensor([8.0, 4.0, 2.0, 1.0, 1 / 8, 1e-3])
        torch.testing.assert_close(spectrum(at.square()), expected)
        assert spectrum(at.float()).dtype == torch.float32

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: DataSpectrum((1.0, 2.0), (1.0, 1.0), 2.0, 1e-3), "rising from 0"),
            (lambda: DataSpectrum((0.0, 1.0), (1.0, 0.0), 2.0, 1e-3), "positive"),
            (lambda: fit_spectrum(torch.full((2, 1, 16), math.nan), Box(1)), "32 values not finite"),
            (lambda: fit_spectrum(torch.randn(2, 1, 3), Box(1)), "4 shells"),
            (lambda: fit_spectrum(torch.zeros(2, 1, 16), Box(1)), "got zeros"),
            (lambda: ChannelSpectra(()), "for each channel, got none"),
            (
                lambda: SpectralPreconditioned(
                    Zero(), FunctionSpaceSDE(PixelNoise(Box(1)), EDM()), RBF(), (8,), cutoff=0.0
                ),
                "cutoff > 0",
            ),
        ],
    )
    def test_bad_input(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()


@contextmanager
def _quiet():
    """No warning may come."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("domain", [Box(2), Torus(2)], ids=str)
def test_the_tail_of_averages_is_that_of_the_function_they_are_averages_of(domain):
    # White noise of a rough field, averaged over the cells of a 32 grid: what lies between 32 and 64 is predicted.
    field = GaussianRandomField(domain, lambda eigenvalues, dim: (100 + eigenvalues) ** -1.25)
    fine = field.sample((100, 1, 256, 256))
    cells = fine.unflatten(-1, (32, 8)).unflatten(-3, (32, 8)).mean((-1, -3))
    found = fit_spectrum(cells, domain, cell_averages=True)
    assert found.exponent == pytest.approx(2.5, abs=0.25)
    shells = domain.shells((64, 64))[1][1:]
    ratio = found(shells.square()) / field.std(shells.square()).square()
    assert 0.75 < float(ratio.min()) < float(ratio.max()) < 1.3


class TestCheck:
    @staticmethod
    def data(eigenvalues, dim):
        """Modes fall as k^-3."""
        return (4 * math.pi**2 + eigenvalues) ** -1.5

    def test_numbers_on_a_case_worked_by_hand(self):
        # Flat S = 4/8 and C = 1/8 on 8 modes: the ratio S / C is 4 in every mode.
        sde = FunctionSpaceSDE(PixelNoise(Box(1)), EDM(sigma_min=0.1, sigma_max=40.0))
        with _quiet():
            found = sde.check(lambda e, dim: torch.full_like(e, 0.5), (8,))
        assert found["snr_end"] == pytest.approx(4 / 1600)
        assert found["energy_lost"] == pytest.approx(0.0025 / 1.0025)
        assert found["snr_start"] == pytest.approx(400)
        assert found["unresolved"] == found["underflow"] == 0
        assert found["data_exponent"] == pytest.approx(0) and found["noise_exponent"] == pytest.approx(0)

    def test_exponents(self):
        sde = FunctionSpaceSDE(GaussianRandomField(Box(2), Matern(0.25, 1.0)), EDM())
        with _quiet():
            found = sde.check(self.data, (64, 64))
        assert found["data_exponent"] == pytest.approx(3, abs=0.05)
        assert found["noise_exponent"] == pytest.approx(2.5, abs=0.05)

    def test_noise_smoother_than_data_names_a_rougher_one(self):
        sde = FunctionSpaceSDE(GaussianRandomField(Box(2), Matern(2.0, 1.0)), EDM(sigma_max=1e4))
        with pytest.warns(UserWarning, match=r"k\^-6.* take Matern\(smoothness=0.5\) or rougher"):
            sde.check(self.data, (64, 64))

    def test_signal_left_at_the_end_names_a_level(self):
        sde = FunctionSpaceSDE(WhiteNoise(Box(2), (32, 32)), EDM(sigma_max=1.0))
        with pytest.warns(UserWarning, match=r"end at ") as caught:
            found = sde.check(self.data, (32, 32))
        needed = float(str(caught[0].message).split("end at ")[1].split(" ")[0])
        assert needed == pytest.approx(math.sqrt(found["snr_end"] / 0.01), rel=1e-2)
        with _quiet():
            again = FunctionSpaceSDE(sde.noise, EDM(sigma_max=1.01 * needed)).check(self.data, (32, 32))
        assert again["snr_end"] < 0.01

    def test_underflow(self):
        sde = FunctionSpaceSDE(GaussianRandomField(Box(1), RBF(1.0)), EDM(sigma_max=1e9))
        with (
            pytest.warns(UserWarning, match="let sigma / alpha end"),
            pytest.warns(UserWarning, match="no noise in float32"),
        ):
            assert sde.check(self.data, (64,))["underflow"] > 0.5
