"""The data's spectrum, the best linear estimate that follows from it, and the scalings that use it."""

from __future__ import annotations

import math
import warnings
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import nn

from fnodiff import DFU
from fnodiff.domain import Box, Product, Sphere, Torus
from fnodiff.model import Model
from fnodiff.sde import (
    EDM,
    RBF,
    VP,
    ChannelSpectra,
    DataSpectrum,
    DenoisingLoss,
    DPMSolver,
    EDMScaling,
    FunctionSpaceSDE,
    GaussianDenoiser,
    GaussianRandomField,
    Heun,
    Matern,
    PixelNoise,
    Progressive,
    SpectralScaling,
    WhiteNoise,
    fit_spectra,
    fit_spectrum,
    noise_law,
    noise_levels,
    sample,
)
from fnodiff.sde.process import has_data
from fnodiff.sde.spectrum import linear_error, linear_estimate, residual_variance, wiener_gain

CHANNEL = Product([Torus(1), Box(1)])


class Zero(nn.Module):
    """A network that returns zero, in as many channels as a field has; it remembers what it saw."""

    def __init__(self, channels=None):
        super().__init__()
        self.channels = channels

    def forward(self, x, noise_level):
        self.seen = x, noise_level
        return torch.zeros_like(x[:, : self.channels])


class Impulse(nn.Module):
    def forward(self, x, noise_level):
        out = torch.zeros_like(x)
        out[(..., *(0,) * (x.ndim - 2))] = 1
        return out


class Level(nn.Module):
    """A network of x and the noise level."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, noise_level):
        return self.net(x) * noise_level.cos().reshape(-1, *(1,) * (x.ndim - 1))


def law(field):
    """A field's variance per mode, as a spectrum."""
    return lambda eigenvalues, dim: field.std(eigenvalues).square()


def spectral(network, sde, spectrum, reference, *settings, **options):
    return Model(network, sde, SpectralScaling(reference, *settings, **options), spectrum=spectrum)


def two_channels(domain, shape):
    """A rough and large channel and a smooth one: their fields, their spectra, their standard deviations on a grid."""
    fields = [GaussianRandomField(domain, Matern(nu, 0.2)) for nu in (0.5, 3.0)]
    spectra = ChannelSpectra((lambda e, dim: 1e4 * law(fields[0])(e, dim), law(fields[1])))
    return fields, spectra, torch.tensor([1e4 * fields[0].variance(shape), fields[1].variance(shape)]).sqrt()


@pytest.mark.usefixtures("float64")
class TestLinearEstimate:
    @pytest.mark.parametrize("schedule", [EDM(), VP()], ids=str)
    def test_gain_and_error_are_those_of_two_gaussian_variables(self, schedule):
        s, c = torch.tensor([[2.0], [0.3], [1e-6]]), torch.tensor([[1.0], [0.02], [5.0]])
        alpha, sigma = schedule(torch.linspace(0, 1, 7))
        # The covariance of (x, x_t), x_t = alpha x + sigma z: regression on x_t, and the Schur complement.
        both = alpha * s
        covariance = torch.stack([torch.stack([s + 0 * both, both]), torch.stack([both, alpha**2 * s + sigma**2 * c])])
        regression, left = (
            covariance[0, 1] / covariance[1, 1],
            covariance.movedim((0, 1), (-2, -1)).det() / covariance[1, 1],
        )
        torch.testing.assert_close(wiener_gain(s, c, alpha, sigma), regression)
        torch.testing.assert_close(residual_variance(s, c, alpha, sigma), left, rtol=1e-6, atol=0)

    def test_without_noise_or_data(self):
        s, c, alpha, sigma = (torch.tensor(v) for v in ([2.0, 0.0], [0.0, 3.0], 0.5, 0.7))
        torch.testing.assert_close(wiener_gain(s, c, alpha, sigma), torch.tensor([2.0, 0.0]))
        torch.testing.assert_close(residual_variance(s, c, alpha, sigma), torch.zeros(2))

    @pytest.mark.parametrize("schedule", [EDM(0.1, 10.0), VP()], ids=str)
    @pytest.mark.parametrize(
        "make", [lambda d: GaussianRandomField(d, Matern(0.5, 0.2)), lambda d: WhiteNoise(d, (9,) * d.dim)]
    )
    @pytest.mark.parametrize(
        ("domain", "shape"), [(Torus(1), (15,)), (Box(2), (5, 8)), (CHANNEL, (5, 8)), (Sphere(), (6, 11))], ids=str
    )
    def test_its_error_is_that_of_samples(self, domain, shape, make, schedule):
        fields, spectra, _ = two_channels(domain, shape)
        sde, count, t = FunctionSpaceSDE(make(domain), schedule), 1000, torch.tensor([0.1, 0.4, 0.9])
        x = torch.cat([100 * fields[0].sample((3 * count, 1, *shape)), fields[1].sample((3 * count, 1, *shape))], 1)
        each = t.repeat_interleave(count)
        error = linear_estimate(sde, spectra, sde.perturb(x, each)[0], each) - x
        error = torch.stack([domain.norm(channel).square() for channel in error.split(1, 1)], 1).unflatten(
            0, (3, count)
        )
        expected = linear_error(sde, spectra, t, shape)
        assert expected.shape == (3, 2)
        off = (error.mean(1) - expected).abs() / (error.std(1) / math.sqrt(count))
        assert float(off.max()) < 4, f"{float(off.max()):.1f} standard errors"
        torch.testing.assert_close(linear_error(sde, spectra.channels[1], t, shape), expected[:, 1])

    def test_of_all_linear_estimates_its_error_is_the_least(self):
        domain, t = Torus(1), torch.tensor(0.5)
        data, sde = GaussianRandomField(domain, Matern(1.0)), FunctionSpaceSDE(WhiteNoise(domain, (15,)), VP())
        x = data.sample((4000, 1, 15))
        x_t, _ = sde.perturb(x, t)
        best, *others = (
            float(domain.norm(domain.filter(linear_estimate(sde, law(data), x_t, t), tilt) - x).square().mean())
            for tilt in (torch.ones_like, *(partial(lambda a, e: 1 + a * (e > 0), a) for a in (-0.3, 0.3)))
        )
        assert best < min(others)


@pytest.mark.usefixtures("float64")
class TestSpectralScaling:
    @pytest.mark.parametrize("schedule", [EDM(), VP()], ids=str)
    @pytest.mark.parametrize("shape", [(8, 8), (9, 12), (16, 16)])
    @pytest.mark.parametrize("domain", [Box(2), Torus(2), CHANNEL], ids=str)
    @pytest.mark.parametrize(
        "make", [lambda d: GaussianRandomField(d, Matern(0.5, 0.1)), lambda d: WhiteNoise(d, (8, 8)), PixelNoise]
    )
    def test_without_a_network_it_is_the_gaussian_denoiser(self, make, domain, shape, schedule):
        data, sde = GaussianRandomField(domain, Matern(1.0)), FunctionSpaceSDE(make(domain), schedule)
        x_t, t = torch.randn(3, 2, *shape), torch.tensor([0.0, 0.4, 1.0])
        found = spectral(Zero(), sde, law(data), (8, 8))(x_t, t)
        torch.testing.assert_close(found, GaussianDenoiser(data, sde)(x_t, t))

    @pytest.mark.parametrize("schedule", [EDM(), VP()], ids=str)
    def test_with_flat_spectra_it_has_edms_scalars(self, schedule):
        sde, shape = FunctionSpaceSDE(PixelNoise(Box(2)), schedule), (6, 9)
        net, flat = Level(nn.Conv2d(2, 2, 3, padding=1)), lambda e, dim: torch.full_like(e, 0.5**2 / math.prod(shape))
        modes, scalar = spectral(net, sde, flat, shape, None), Model(net, sde, EDMScaling(0.5))
        x_t, t = torch.randn(3, 2, *shape), torch.tensor([0.1, 0.5, 0.9])
        torch.testing.assert_close(modes(x_t, t), scalar(x_t, t))
        torch.testing.assert_close(modes.loss_weight(t, shape), scalar.loss_weight(t, shape))

    @pytest.mark.parametrize("t", [0.1, 0.5, 0.8])
    def test_target_has_unit_variance_in_every_mode(self, t):
        domain, count = Box(1), 20000
        data = GaussianRandomField(domain, Matern(1.5))
        sde = FunctionSpaceSDE(GaussianRandomField(domain, Matern(0.5)), VP())
        x = data.sample((count, 1, 12))
        x_t, _ = sde.perturb(x, torch.tensor(t))
        linear, impulse = (spectral(net, sde, law(data), (12,))(x_t, torch.tensor(t)) for net in (Zero(), Impulse()))
        delta = torch.zeros(1, 1, 12)
        delta[..., 0] = 1
        gain = domain.analyze((impulse - linear)[:1]) / domain.analyze(delta)
        target = domain.analyze(x - linear) / gain
        variance = 12 * target.square().mean((0, 1))  # 12 modes of variance 1/12: one per point
        torch.testing.assert_close(variance, torch.ones(12), rtol=0, atol=4 * math.sqrt(2 / count))

    def test_input_has_unit_variance_on_the_reference_grid_and_becomes_a_function(self):
        domain = Box(2)
        data, noise = GaussianRandomField(domain, Matern(1.0)), WhiteNoise(domain, (16, 16))
        sde, net = FunctionSpaceSDE(noise, EDM()), Zero()

        def variance(n, count):
            seeds = [torch.Generator().manual_seed(i) for i in range(count)]  # the same functions on every grid
            x, t = data.sample((count, 1, n, n), generator=seeds), torch.linspace(0, 1, count)
            spectral(net, sde, law(data), (16, 16), 4.0)(sde.perturb(x, t, generator=seeds)[0], t)
            return float(net.seen[0].square().mean())

        assert variance(16, 400) == pytest.approx(1, abs=0.02)
        assert variance(128, 40) == pytest.approx(variance(64, 40), rel=0.02)
        assert variance(64, 40) != pytest.approx(variance(16, 40), rel=0.02), "it is the cutoff that makes it one"

    @pytest.mark.parametrize("lengths", [(1000.0, 1000.0), (1.0, 0.5), (0.1, 0.2)])
    def test_cutoff_is_in_cycles_over_the_longest_side(self, lengths):
        domain, net = Torus(2, lengths=lengths), Zero()
        sde, flat = FunctionSpaceSDE(WhiteNoise(domain, (12, 12)), VP()), lambda e, dim: torch.ones_like(e)
        x_t = torch.randn(1, 1, 12, 12)
        spectral(net, sde, flat, (12, 12), 3.0)(x_t, torch.tensor(0.5))
        whitened = domain.analyze(net.seen[0]).abs() / domain.analyze(x_t).abs()
        longest = lengths.index(max(lengths))
        three = [0, 0]
        three[longest] = 3
        found = whitened[0, 0][tuple(three)] / whitened[0, 0, 0, 0]
        torch.testing.assert_close(found, torch.tensor(2.0).pow(-1.5))  # sqrt(R) at the cutoff

    @pytest.mark.parametrize("n", [15, 31])
    def test_loss_is_one_without_a_network_on_gaussian_data(self, n):
        domain = Torus(1)
        data, noise = GaussianRandomField(domain, Matern(1.0)), GaussianRandomField(domain, Matern(0.5))
        model = spectral(Zero(), FunctionSpaceSDE(noise, VP()), law(data), (15,))
        values = DenoisingLoss(model)(data.sample((4000, 2, n)))
        assert float(values.mean()) == pytest.approx(1, abs=4 * float(values.std()) / math.sqrt(4000))

    def test_each_channel_may_have_its_own_spectrum(self):
        domain, shape = Box(2), (9, 12)
        fields, spectra, _ = two_channels(domain, shape)
        sde = FunctionSpaceSDE(GaussianRandomField(domain, Matern(0.5, 0.1)), VP())
        model, *alone = (spectral(Zero(), sde, one, shape) for one in (spectra, *spectra.channels))
        x_t, t = torch.randn(3, 2, *shape), torch.tensor([0.0, 0.4, 1.0])
        expected = torch.cat([one(x_t[:, [i]], t) for i, one in enumerate(alone)], 1)
        torch.testing.assert_close(model(x_t, t), expected)
        weights = torch.stack([one.loss_weight(t, shape) for one in alone], 1)
        torch.testing.assert_close(model.loss_weight(t, shape), weights)
        assert model.noise_law[0] == pytest.approx(sum(one.noise_law[0] for one in alone) / 2)
        # Each channel's error is weighed by its own size, so that both count alike.
        x = torch.cat([1e2 * fields[0].sample((4000, 1, *shape)), fields[1].sample((4000, 1, *shape))], 1)
        values = DenoisingLoss(model)(x)
        assert float(values.mean()) == pytest.approx(1, abs=4 * float(values.std()) / math.sqrt(4000))
        with pytest.raises(ValueError, match="as many channels as the fields have"):
            model(torch.randn(3, 1, *shape), t)


@pytest.mark.usefixtures("float64")
class TestLinearEstimateAsInput:
    """The network sees the best linear estimate beside x_t."""

    TIMES = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64)

    @pytest.mark.parametrize("schedule", [EDM(), VP()], ids=str)
    @pytest.mark.parametrize("shape", [(8, 8), (12, 12)])
    @pytest.mark.parametrize(
        "noise", [WhiteNoise(Torus(2), (8, 8)), GaussianRandomField(Torus(2), Matern(0.3, 0.1))], ids=str
    )
    def test_under_edms_scalars(self, noise, shape, schedule):
        fields, spectra, _ = two_channels(Torus(2), shape)
        sde, net, t, sd = FunctionSpaceSDE(noise, schedule), Zero(2), self.TIMES, 0.7
        x_t = sde.perturb(torch.cat([100 * fields[0].sample((3, 1, *shape)), fields[1].sample((3, 1, *shape))], 1), t)[
            0
        ]
        skip = Model(net, sde, EDMScaling(sd, linear_estimate=True), spectrum=spectra)(x_t, t)
        alpha, sigma = (v[:, None, None, None] for v in schedule(t))
        level = (noise.variance(shape) * (sigma / alpha).square() + sd**2).sqrt()
        torch.testing.assert_close(net.seen[0][:, :2], x_t / alpha / level)
        torch.testing.assert_close(net.seen[0][:, 2:], linear_estimate(sde, spectra, x_t, t) / sd)
        torch.testing.assert_close(skip, sd**2 * x_t / alpha / level**2)

    @pytest.mark.parametrize("linear", [False, True])
    def test_it_changes_nothing_else(self, linear):
        sde, t, x_t = FunctionSpaceSDE(WhiteNoise(Torus(2), (8, 8)), VP()), self.TIMES, torch.randn(3, 2, 12, 12)
        spectra, network = two_channels(Torus(2), (8, 8))[1], Level(lambda x: x[:, :2])
        scalings = EDMScaling(0.5, linear_estimate=linear), SpectralScaling((8, 8), linear_estimate=linear)
        plain = EDMScaling(0.5), SpectralScaling((8, 8))
        found, expected = (
            [Model(network, sde, one, spectrum=spectra)(x_t, t) for one in some] for some in (scalings, plain)
        )
        torch.testing.assert_close(found, expected)

    def test_under_spectral_scaling_in_units_of_each_channel(self):
        domain, shape, t = Torus(2), (8, 8), self.TIMES
        _, spectra, spread = two_channels(domain, shape)
        sde, net = FunctionSpaceSDE(WhiteNoise(domain, shape), VP()), Zero(2)
        x_t = torch.randn(3, 2, 12, 12)
        estimate = spectral(net, sde, spectra, shape, linear_estimate=True)(x_t, t)
        torch.testing.assert_close(estimate, linear_estimate(sde, spectra, x_t, t))
        torch.testing.assert_close(net.seen[0][:, 2:], estimate / spread[:, None, None])
        whitened = net.seen[0][:, :2]
        spectral(net, sde, spectra, shape)(x_t, t)
        torch.testing.assert_close(whitened, net.seen[0])

    @pytest.mark.parametrize(
        "scaling", [EDMScaling(linear_estimate=True), SpectralScaling((8, 8), linear_estimate=True)]
    )
    def test_the_network_takes_twice_the_channels(self, scaling):
        domain, shape = Torus(2), (8, 8)
        sde, spectra = FunctionSpaceSDE(WhiteNoise(domain, shape), VP()), two_channels(domain, shape)[1]
        with pytest.raises(ValueError, match=r"a network that takes 4 channels for fields of 2.*got 2"):
            Model(DFU.tiny(2, 2, domain=domain), sde, scaling, spectrum=spectra)
        x_t = torch.randn(1, 2, *shape)
        assert (
            Model(DFU.tiny(4, 2, domain=domain), sde, scaling, spectrum=spectra)(x_t, torch.tensor(0.5)).shape
            == x_t.shape
        )

    @pytest.mark.parametrize(
        "scaling", [EDMScaling(linear_estimate=True), SpectralScaling((16, 16), linear_estimate=True)]
    )
    def test_it_survives_saving(self, tmp_path, scaling):
        spectrum = fit_spectrum(GaussianRandomField(Box(2), Matern(1.0, 0.3)).sample((64, 1, 16, 16)), Box(2))
        sde, net = FunctionSpaceSDE(WhiteNoise(Box(2), (16, 16)), EDM()), DFU.tiny(2, 1, zero_init=False)
        model = Model(net, sde, scaling, spectrum=spectrum).eval()
        again = Model.from_pretrained(model.save_pretrained(tmp_path))
        assert again.scaling == scaling and again.spectrum == spectrum
        draw = partial(sample, shape=(24, 24), seeds=[0], solver=Heun(2), plan=Progressive([(16, 16)]))
        assert torch.equal(draw(again), draw(model))


@pytest.mark.usefixtures("float64")
class TestNoiseOfEachChannel:
    """Noise of each channel's own smoothness is as the channels one by one."""

    DOMAIN, SHAPE = Torus(2), (12, 12)

    def noises(self):
        laws = Matern(0.5, 0.2), Matern(2.0, 0.2)
        return [GaussianRandomField(self.DOMAIN, one) for one in (ChannelSpectra(laws), *laws)]

    def test_variances(self):
        noise, *apart = self.noises()
        each = [one.variance(self.SHAPE) for one in apart]
        assert noise.variance(self.SHAPE) == pytest.approx(sum(each) / 2)
        found = noise.sample((5000, 2, *self.SHAPE)).var((0, 2, 3))  # of 10 modes or more: to sqrt(2 / 50,000) = 0.6%
        torch.testing.assert_close(found, torch.tensor(each), rtol=0.02, atol=0)

    def test_one_seed_is_one_function(self):
        noise, *apart = self.noises()
        draw = lambda one, channels: one.sample(  # noqa: E731
            (2, channels, *self.SHAPE), generator=[torch.Generator().manual_seed(i) for i in (3, 4)]
        )
        both = torch.cat([draw(apart[0], 2)[:, :1], draw(apart[1], 2)[:, 1:]], 1)
        torch.testing.assert_close(draw(noise, 2), both)
        torch.testing.assert_close(draw(noise, 2)[:, :1], draw(apart[0], 1))

    @pytest.mark.parametrize(
        "make",
        [
            lambda sde, data: GaussianDenoiser(data, sde),
            lambda sde, data: spectral(Zero(), sde, law(data), (12, 12)),
            lambda sde, data: spectral(Level(lambda x: x), sde, law(data), (12, 12)),
        ],
    )
    def test_denoisers(self, make):
        data = GaussianRandomField(self.DOMAIN, Matern(1.0, 0.2))
        x_t, t = torch.randn(3, 2, *self.SHAPE), torch.tensor([0.1, 0.4, 0.9])
        whole, *alone = (make(FunctionSpaceSDE(one, VP()), data) for one in self.noises())
        expected = torch.cat([one(x_t[:, [i]], t) for i, one in enumerate(alone)], 1)
        torch.testing.assert_close(whole(x_t, t), expected)

    @pytest.mark.filterwarnings("ignore:.*signal-to-noise", "ignore:.*noise smoother")
    def test_its_laws_and_checks(self):
        spectrum = law(GaussianRandomField(self.DOMAIN, Matern(1.0, 0.2)))
        laws = [noise_law(one, spectrum, self.SHAPE)[0] for one in self.noises()]
        assert laws[0] == pytest.approx(sum(laws[1:]) / 2)
        found, *each = (FunctionSpaceSDE(one, VP()).check(spectrum, self.SHAPE) for one in self.noises())
        assert found["snr_end"] == pytest.approx(max(one["snr_end"] for one in each))
        assert found["unresolved"] == pytest.approx(sum(one["unresolved"] for one in each) / 2)
        levels, *apart = (noise_levels(one, spectrum, self.SHAPE) for one in self.noises())
        assert levels == pytest.approx((min(low for low, _ in apart), max(high for _, high in apart)))

    def test_it_has_as_many_channels_as_the_fields(self):
        with pytest.raises(ValueError, match="noise of 2 channels"):
            self.noises()[0].sample((1, 3, *self.SHAPE))


@pytest.mark.usefixtures("float64")
class TestNoiseLevelsToTrainAt:
    def test_modes_that_turn_at_one_level(self):
        noise = WhiteNoise(Box(2), (16, 16))
        flat = lambda e, dim: torch.full_like(e, 0.25 / 256)  # noqa: E731 (S / C = 1/4 in every mode)
        assert noise_law(noise, flat, (16, 16)) == pytest.approx((math.log(0.5), math.pi / math.sqrt(12)))

    def test_an_octave_counts_by_the_root_of_its_number_of_modes(self):
        # One, two and four modes, which turn at ln(sigma) of 0, 1 and 2.
        noise, octave = WhiteNoise(Torus(1), (7,)), torch.tensor([0.0, 1.0, 2.0, 2.0])
        weight = torch.tensor([1.0, math.sqrt(2), 2.0]) / (3 + math.sqrt(2))
        mean = float(weight[1] + 2 * weight[2])
        std = math.sqrt(float(weight[1] + 4 * weight[2]) - mean**2 + math.pi**2 / 12)
        assert noise_law(noise, lambda e, dim: (2 * octave).exp() / 7, (7,)) == pytest.approx((mean, std))

    def test_data_twice_as_strong_turn_at_a_level_twice_as_high(self):
        noise, spectrum = WhiteNoise(Box(2), (16, 16)), Matern(1.0, 0.3)
        weak, strong = (noise_law(noise, lambda e, dim, a=a: a * spectrum(e, dim), (16, 16)) for a in (1.0, 4.0))
        assert strong == pytest.approx((weak[0] + math.log(2), weak[1]))
        assert weak[1] > 1.2, "a spectrum that falls spreads the levels"

    def test_a_mean_that_is_not_there_does_not_count(self):
        noise, spectrum = WhiteNoise(Box(2), (16, 16)), Matern(1.0, 0.3)
        without = lambda e, dim: torch.where(e == 0, 1e-12, spectrum(e, dim))  # noqa: E731
        low, high = noise_law(noise, spectrum, (16, 16)), noise_law(noise, without, (16, 16))
        assert high == pytest.approx(low, abs=0.3)

    def test_scalings_train_at_their_own(self):
        sde, spectrum = FunctionSpaceSDE(WhiteNoise(Box(2), (16, 16)), EDM()), Matern(1.0, 0.3)
        loss, plain, given = (
            DenoisingLoss(Model(Zero(), sde, scaling, spectrum=spectrum), *law)
            for scaling, law in ((SpectralScaling((8, 8)), ()), (EDMScaling(), ()), (EDMScaling(), (-0.5, 0.7)))
        )
        assert (loss.p_mean, loss.p_std) == pytest.approx(noise_law(sde.noise, spectrum, (8, 8)))
        assert (plain.p_mean, plain.p_std) == (-1.2, 1.2)
        assert (given.p_mean, given.p_std) == (-0.5, 0.7)

    @pytest.mark.parametrize(("scaling", "factor"), [(EDMScaling(), 2.0), (SpectralScaling((8,)), 1.0)], ids=str)
    def test_the_network_is_given_edms_noise_level(self, scaling, factor):
        """That of a point under EDM's scalars, of a mode under spectral ones; each sample has its own."""
        net, t = Zero(), torch.tensor([0.3, 0.8])
        sde = FunctionSpaceSDE(WhiteNoise(Box(1), (8,)), VP())
        Model(net, sde, scaling, spectrum=Matern(1.0))(torch.randn(2, 1, 32), t)
        torch.testing.assert_close(net.seen[1], (factor * VP().ratio(t)).log() / 4)
        Model(net, sde, scaling, spectrum=Matern(1.0))(torch.randn(2, 1, 32), t[0])
        torch.testing.assert_close(net.seen[1], (factor * VP().ratio(t[:1])).log().expand(2) / 4)


@pytest.mark.usefixtures("float64")
class TestFitSpectrum:
    @pytest.mark.parametrize("domain", [Torus(2), Box(2), CHANNEL, Box(1)], ids=str)
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

    @pytest.mark.parametrize("domain", [Box(2), CHANNEL, Torus(2)], ids=str)
    def test_undoes_the_average_over_cells(self, domain):
        fine = GaussianRandomField(domain, Matern(1.0, 0.3)).sample((200, 2, 64, 64))
        if domain.averages_cells:
            images = domain.average(fine, (16, 16))
            found, points = fit_spectrum(images, domain, cell_averages=True), fit_spectrum(fine, domain)
        else:  # a cell of the torus reaches half a step to either side of its point
            k = domain.wavenumbers((64, 64))
            sinc = torch.sinc(k[0] / 64) * torch.sinc(k[1] / 64)
            averaged = domain.synthesize(domain.analyze(fine) * sinc, (64, 64))
            found, points = fit_spectrum(averaged, domain, cell_averages=True), fit_spectrum(fine, domain)
        at = torch.linspace(1, 0.9 * found.wavenumbers[-1], 40).square()
        torch.testing.assert_close(found(at), points(at), rtol=0.15, atol=0)
        blind = fit_spectrum(images if domain.averages_cells else averaged, domain)
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

    def test_channels_count_by_themselves(self):
        """One of tiny fields keeps its mean, and equal ones change grids where one alone does."""
        domain = Torus(2)
        field = GaussianRandomField(domain, Matern(0.5, 0.3))
        one = fit_spectrum(field.sample((100, 1, 32, 32)), domain)
        e, small = domain.eigenvalues((32, 32)), lambda e, dim: 1e-9 * one(e, dim)
        tiny = ChannelSpectra((one, small))
        assert bool(has_data(tiny(e, 2), e).all())
        assert noise_levels(field, tiny, (32, 32))[0] == pytest.approx(noise_levels(field, small, (32, 32))[0])
        sde = FunctionSpaceSDE(field, EDM(1e-3, 80.0))
        plans = [
            Progressive([(16, 16)]).plan(
                GaussianDenoiser(field, sde, spectrum=s), (32, 32), DPMSolver(12).times(sde.schedule)
            )
            for s in (one, ChannelSpectra((one,) * 2))
        ]
        alone, both = ([(stage.shape, stage.times.tolist()) for stage in plan] for plan in plans)
        assert alone == both and [shape for shape, _ in alone] == [(16, 16), (32, 32)]

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
        mean, std = noise_law(noise, without, (32, 32))
        assert abs(mean) < 3 and std < 3, "a mean that is not there is no noise level to train at"

    @pytest.mark.parametrize("mean", [True, False])
    @pytest.mark.parametrize("lengths", [(2.0, 1.0), (4.0, 1.0)])
    @pytest.mark.parametrize("kind", [Box, Torus])
    def test_elongated_domains(self, kind, lengths, mean):
        domain = kind(2, lengths=lengths)
        field, shape = GaussianRandomField(domain, Matern(2.0, 2.0)), (int(16 * lengths[0]), 16)
        x, e = field.sample((1000, 1, *shape)), domain.eigenvalues(shape)  # a mode's variance to sqrt(2 / 1000) = 4.5%
        x = x if mean else x - x.mean((2, 3), keepdim=True)
        ratio, low = fit_spectrum(x, domain)(e) / field.std(e).square(), (e > 0) & (e.sqrt() < math.pi * 6)
        assert 0.7 < float(ratio[low].min()) < float(ratio[low].max()) < 1.4
        assert 0.8 < float(ratio[0, 0]) < 1.25 if mean else float(ratio[0, 0]) < 1e-6

    def test_interpolates_and_has_a_floor_below_the_tail(self):
        spectrum = DataSpectrum((0.0, 2.0, 4.0), (8.0, 4.0, 1.0), exponent=3.0, floor=1e-3)
        at = torch.tensor([0.0, 2.0, math.sqrt(8), 4.0, 8.0, 4e3])
        expected = torch.tensor([8.0, 4.0, 2.0, 1.0, 1 / 8, 1e-9])
        torch.testing.assert_close(spectrum(at.square()), expected, atol=0, rtol=1e-5)
        assert spectrum(at.float()).dtype == torch.float32
        low = DataSpectrum((0.0, 2.0, 4.0), (8.0, 4.0, 1e-6), exponent=3.0, floor=1e-3)
        torch.testing.assert_close(low(torch.tensor([16.0, 64.0])), torch.tensor([1e-3, 1e-3 / 8]), atol=0, rtol=1e-5)

    def test_the_tail_of_smooth_fields_goes_on_falling(self):
        field = GaussianRandomField(Box(1), Matern(2.0, 0.3))
        x = field.sample((256, 1, 64), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        e = Box(1).eigenvalues((257,), dtype=torch.float64)[[96, 128, 256]]
        ratio = fit_spectrum(x, Box(1))(e) / field.std(e).square()
        assert bool(((ratio > 1 / 3) & (ratio < 3)).all()), ratio

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: DataSpectrum((1.0, 2.0), (1.0, 1.0), 2.0, 1e-3), "rising from 0"),
            (lambda: DataSpectrum((0.0, 1.0), (1.0, 0.0), 2.0, 1e-3), "positive"),
            (lambda: fit_spectrum(torch.full((2, 1, 16), math.nan), Box(1)), "32 values not finite"),
            (lambda: fit_spectrum(torch.randn(2, 1, 3), Box(1)), "4 shells"),
            (lambda: fit_spectrum(torch.zeros(2, 1, 16), Box(1)), "got zeros"),
            (lambda: fit_spectrum(torch.ones(2, 1, 16), Box(1)), "got constant ones"),
            (lambda: ChannelSpectra(()), "for each channel, got none"),
            (lambda: SpectralScaling((8,), cutoff=0.0), "cutoff > 0"),
            (lambda: EDMScaling(0.0), "sigma_data > 0"),
            (
                lambda: Model(Zero(), FunctionSpaceSDE(PixelNoise(Box(1)), EDM()), SpectralScaling((8,))),
                "the data's spectrum",
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
    fine = field.sample((50, 1, 256, 256))
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
