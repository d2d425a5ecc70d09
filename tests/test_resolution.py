"""Sampling across resolutions, and guidance."""

from __future__ import annotations

import math
import warnings
from functools import partial

import pytest
import torch
from torch import nn

from fnodiff import DFU
from fnodiff.domain import Box, Torus
from fnodiff.sde import (
    DDIM,
    EDM,
    Autoguided,
    ClassifierFree,
    Denoiser,
    DenoisingLoss,
    DPMSolver,
    FunctionSpaceSDE,
    GaussianDenoiser,
    GaussianRandomField,
    Heun,
    KnownModes,
    Matern,
    Normalization,
    Preconditioned,
    Progressive,
    SpectralPreconditioned,
    WhiteNoise,
    noise_levels,
    upscale,
)

DOMAIN = Box(2)


def oracle(domain=DOMAIN, smoothness=1.0):
    data = GaussianRandomField(domain, Matern(smoothness, 0.3))
    sde = FunctionSpaceSDE(WhiteNoise(domain, (16,) * domain.dim), EDM(0.001, 500.0))
    return GaussianDenoiser(data, sde), lambda eigenvalues, dim: data.std(eigenvalues).square()


class TestProgressive:
    def test_other_samplers_keep_their_history_and_their_law(self):
        denoiser, spectrum = oracle(Box(1))
        sampler = Progressive(DDIM(denoiser, 150, eta=1.0), [(4,), (8,)], spectrum)
        x = sampler.solve(denoiser.sde.prior((2000, 1, 16)))
        eigenvalues = DOMAIN.eigenvalues((16, 1))[:, 0]
        expected = denoiser.data.std(eigenvalues) ** 2 + 1e-6 * denoiser.sde.noise.std(eigenvalues) ** 2
        ratio = (Box(1).analyze(x) ** 2).mean((0, 1)) / expected
        assert bool(((ratio - 1).abs() < 0.06 + 4 * (2 / 2000) ** 0.5).all()), ratio
        # 2M starts anew at each switch: still near the flow's end.
        x = denoiser.sde.prior((4, 1, 16))
        exact = Progressive(Heun(denoiser, 400), [(4,)], spectrum, switch_times=[0.5])(x)
        found = Progressive(DPMSolver(denoiser, 100), [(4,)], spectrum, switch_times=[0.5])(x)
        assert float((Box(1).norm(found - exact) / Box(1).norm(exact)).max()) < 0.02

    def test_takes_the_denoisers_own_spectrum(self):
        _, spectrum = oracle()
        net = DFU.tiny(1, 1, domain=DOMAIN)
        denoiser = SpectralPreconditioned(net, oracle()[0].sde, spectrum, (16, 16))
        x = Progressive(Heun(denoiser, 3), [(8, 8)])(denoiser.sde.prior((2, 1, 16, 16)), progress=True)
        assert x.shape == (2, 1, 16, 16)
        assert bool(x.isfinite().all())

    def test_bad_input(self):
        denoiser, spectrum = oracle()
        heun = Heun(denoiser, 5)
        with pytest.raises(ValueError, match="expected the data's spectrum"):
            Progressive(heun, [(8, 8)])
        with pytest.raises(ValueError, match="budget"):
            Progressive(heun, [(8, 8)], spectrum, budget=0)
        with pytest.raises(ValueError, match="one coarser grid"):
            Progressive(heun, [], spectrum)
        for times in ([0.5, 0.4], [1.5], [-0.1]):
            with pytest.raises(ValueError, match="switch_times"):
                Progressive(heun, [(8, 8)], spectrum, switch_times=times)
        x = denoiser.sde.prior((1, 1, 12, 12))
        for shapes in ([(8, 16)], [(8, 8), (6, 9)]):
            with pytest.raises(ValueError, match="hold the one before"):
                Progressive(heun, shapes, spectrum)(x)
        with pytest.raises(ValueError, match="2 positive sizes"):
            Progressive(heun, [(8,)], spectrum)
        with pytest.raises(ValueError, match="its plan"):
            Progressive(heun, [(8, 8)], spectrum).solve(x, times=torch.tensor([1.0, 0.0]))


@pytest.mark.usefixtures("float64")
class TestUpscale:
    @pytest.mark.parametrize("domain", [Box(1), Box(2), Torus(2)], ids=str)
    def test_low_modes_are_kept_and_the_rest_has_its_law(self, domain):
        denoiser, _ = oracle(domain)
        small, shape = (5, 6)[: domain.dim], (12, 13)[: domain.dim]
        low = denoiser.data.sample((400, 1, *small))
        x = upscale(denoiser, low, shape, cell_averages=False, sampler=partial(Heun, steps=80))
        torch.testing.assert_close(
            domain.resample(x, small), domain.synthesize(domain.analyze(low), small), rtol=1e-4, atol=1e-4
        )
        new = domain.analyze(x - domain.resample(domain.resample(x, small), shape)).abs().square().mean((0, 1))
        expected = denoiser.data.std(domain.eigenvalues(shape)).square()
        there = new > 1e-9
        held = int(domain.multiplicity(shape).sum() - domain.multiplicity(small).sum())
        assert int((domain.multiplicity(shape) * there).sum()) == held
        ratio = (new / expected)[there]
        # The last step gives the estimate, without the noise of sigma(0): a share S / (S + s^2 C) of the deviation.
        assert bool(((ratio - 1).abs() < 0.02 + 5 * (2 / 400) ** 0.5).all()), ratio

    def test_images_are_averages(self):
        denoiser, _ = oracle()
        small, shape, finest = (8, 8), (16, 16), (64, 64)
        # A function without modes above the small grid, as the averages over both grids' cells show it.
        truth = DOMAIN.resample(denoiser.data.sample((3, 1, 6, 6)), finest)
        low, high = (
            DOMAIN.resample(DOMAIN.synthesize(DOMAIN.analyze(truth) * DOMAIN.attenuation(finest, n), finest), n)
            for n in (small, shape)
        )
        torch.testing.assert_close(DOMAIN.average(DOMAIN.resample(truth, (512, 512)), small), low, rtol=1e-3, atol=1e-3)
        x = upscale(denoiser, low, shape)
        torch.testing.assert_close(DOMAIN.resample(x, small), DOMAIN.resample(high, small), rtol=1e-4, atol=1e-4)
        assert float(DOMAIN.norm(DOMAIN.resample(high, small) - low).min()) > 1e-3, "or the test could not fail"

    def test_data_units_and_seeds(self):
        denoiser, _ = oracle()
        denoiser.normalization = Normalization([3.0], [2.0])
        low = 3 + 2 * denoiser.data.sample((2, 1, 8, 8))
        seeds = [[torch.Generator().manual_seed(s) for s in pair] for pair in ((0, 1), (0, 2), (0, 1))]
        a, b, c = (upscale(denoiser, low, (16, 16), cell_averages=False, generator=g) for g in seeds)
        torch.testing.assert_close(DOMAIN.resample(a, (8, 8)), low, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(a, c)
        torch.testing.assert_close(a[0], b[0])
        assert float(DOMAIN.norm(a[1:] - b[1:])) > 0.05

    def test_bad_input(self):
        denoiser, _ = oracle()
        low = torch.randn(2, 1, 8, 8)
        for shape in ((8, 8), (4, 16)):
            with pytest.raises(ValueError, match="finer than"):
                upscale(denoiser, low, shape)
        with pytest.raises(ValueError, match="where the known modes fit"):
            KnownModes(denoiser, low)(torch.randn(3, 1, 16, 16), torch.ones(()))
        with pytest.raises(ValueError, match="where the known modes fit"):
            KnownModes(denoiser, low)(torch.randn(2, 1, 6, 16), torch.ones(()))


class Told(Denoiser):
    """Gaussian data whose mean is its label plus its field's mean; told nothing, the middle."""

    def __init__(self, inner):
        super().__init__(inner.sde)
        self.inner = inner

    def forward(self, x_t, t, *, label, field):
        mean = torch.where(label < 0, 0.0, label - 1.0).reshape(-1, 1, 1, 1) + field.mean((1, 2, 3), keepdim=True)
        alpha = self.sde.marginal(x_t, t)[0]
        return mean + self.inner(x_t - alpha * mean, t)


class TestClassifierFree:
    label, field = (
        torch.tensor([0, 2, 1, 2]),
        torch.tensor([1.0, -1.0, 2.0, 0.0]).reshape(-1, 1, 1, 1).expand(4, 1, 3, 3),
    )

    def mean(self, scale, drop=None):
        denoiser, _ = oracle()
        model = Told(denoiser) if scale is None else ClassifierFree(Told(denoiser), scale, drop)
        x = denoiser.sde.prior((4, 1, 8, 8), generator=torch.Generator().manual_seed(0))
        guided = Heun(model, 60)(x, label=self.label, field=self.field)
        return (guided - Heun(denoiser, 60)(x)).mean((1, 2, 3))

    def test_scales(self):
        both = self.label - 1.0 + self.field[:, 0, 0, 0]
        for scale in (0.0, 1.0, 2.5):
            torch.testing.assert_close(self.mean(scale), scale * both, rtol=2e-2, atol=2e-2)
        torch.testing.assert_close(self.mean(None), self.mean(1.0))

    def test_one_condition_of_two(self):
        expected = 3 * (self.label - 1.0) + self.field[:, 0, 0, 0]
        torch.testing.assert_close(self.mean(3.0, ["label"]), expected, rtol=2e-2, atol=2e-2)
        expected = self.label - 1.0 + 3 * self.field[:, 0, 0, 0]
        torch.testing.assert_close(self.mean(3.0, ["field"]), expected, rtol=2e-2, atol=2e-2)

    def test_bad_input(self):
        denoiser, _ = oracle()
        x, t = torch.randn(4, 1, 8, 8), torch.ones(())
        with pytest.raises(ValueError, match="label=labels"):
            ClassifierFree(denoiser, 2.0)(x, t)
        with pytest.raises(ValueError, match=r"got \['field'\]"):
            ClassifierFree(denoiser, 2.0, ["label"])(x, t, field=self.field)


class Off(Denoiser):
    """The exact denoiser, with an error."""

    def __init__(self, inner, error):
        super().__init__(inner.sde)
        self.inner, self.error, self.calls = inner, error, 0

    def forward(self, x_t, t):
        self.calls += 1
        return self.inner(x_t, t) + self.error


class TestAutoguided:
    def test_an_error_that_the_guide_has_twice_is_gone_within_the_levels(self):
        exact, _ = oracle()
        model, guide = Off(exact, 0.1), Off(exact, 0.2)
        level = torch.tensor([0.1, 0.29, 0.31, 1.0, 2.9, 3.1, 100.0])
        t, x = exact.sde.schedule.time(level), torch.randn(7, 1, 8, 8)
        error = Autoguided(model, guide, 2.0)(x, t) - exact(x, t)
        expected = torch.where((level > 0.3) & (level < 3), 0.0, 0.1).reshape(-1, 1, 1, 1)
        torch.testing.assert_close(error, expected.expand_as(error), atol=1e-5, rtol=0)

    def test_the_guide_is_asked_where_it_acts(self):
        exact, _ = oracle()
        for scale, calls in ((1.7, 3), (1.0, 0)):
            model, guide = Off(exact, 0.0), Off(exact, 0.0)
            run = DPMSolver(Autoguided(model, guide, scale, levels=(0.3, 3.0)), 20)
            ratio = exact.sde.schedule.ratio(run.times(torch.empty(1, 1, 8, 8)))
            assert int(((ratio > 0.3) & (ratio < 3)).sum()) == 3
            run(exact.sde.prior((1, 1, 8, 8)))
            assert (model.calls, guide.calls) == (20, calls)

    def test_on_the_way_up(self):
        exact, spectrum = oracle()
        rough, _ = oracle(smoothness=0.2)
        guided = Autoguided(exact, rough, 1.5, levels=(0.0, 1000.0))
        x = exact.sde.prior((64, 1, 24, 24), generator=torch.Generator().manual_seed(0))
        spread = {
            d: float(DOMAIN.norm(Progressive(Heun(d, 12), [(8, 8)], spectrum)(x)).mean()) for d in (exact, guided)
        }
        assert 1.02 < spread[guided] / spread[exact] < 1.5, (
            "away from the rough one, which has less in the coarse modes"
        )

    def test_bad_input(self):
        exact, _ = oracle()
        other = oracle(Box(1))[0]
        units = oracle()[0]
        units.normalization = Normalization(0.0, 2.0)
        for guide in (other, units):
            with pytest.raises(ValueError, match="train it as the model was"):
                Autoguided(exact, guide)
        for scale, levels in ((2.0, (3.0, 0.3)), (2.0, (-1.0, 1.0)), (math.nan, (0.3, 3.0))):
            with pytest.raises(ValueError, match="are usual"):
                Autoguided(exact, exact, scale, levels)


class Recorder(nn.Module):
    """A network that remembers what it was told."""

    def __init__(self):
        super().__init__()
        self.labels, self.fields = [], []

    def forward(self, x, noise_level, *, label, field):
        self.labels.append(label)
        self.fields.append(field)
        return torch.zeros_like(x)


class TestTraining:
    def test_conditions_are_dropped_alone_and_together(self):
        net = Recorder()
        loss = DenoisingLoss(Preconditioned(net, oracle()[0].sde), drop_condition=0.2)
        for _ in range(40):
            loss(torch.randn(100, 1, 8, 8), label=torch.ones(100, dtype=torch.int64), field=torch.ones(100, 2, 4, 4))
        no_label, no_field = torch.cat(net.labels) == -1, (torch.cat(net.fields) == 0).flatten(1).all(1)
        assert bool(((torch.cat(net.fields) != 0).flatten(1).all(1) | no_field).all())
        kept = {"both": 0.8**3, "label": 0.8 * 0.8 * 0.2, "none": 0.2 + 0.8 * 0.2 * 0.2}
        found = {"both": ~no_label & ~no_field, "label": ~no_label & no_field, "none": no_label & no_field}
        for name, share in kept.items():
            assert float(found[name].float().mean()) == pytest.approx(share, abs=4 * (share / 4000) ** 0.5), name

    def test_dropping_depends_on_the_seed_alone(self):
        net = Recorder()
        loss = DenoisingLoss(Preconditioned(net, oracle()[0].sde), drop_condition=0.3)
        condition = {"label": torch.arange(6), "field": torch.ones(6, 1, 4, 4)}
        for part in (slice(0, 6), slice(2, 5)):
            generators = [torch.Generator().manual_seed(i) for i in range(6)][part]
            loss(torch.zeros(6, 1, 8, 8)[part], generator=generators, **{k: v[part] for k, v in condition.items()})
        assert torch.equal(net.labels[0][2:5], net.labels[1])
        assert torch.equal(net.fields[0][2:5], net.fields[1])
        assert len(net.labels[0].unique()) > 2

    def test_a_dfu_takes_no_label_and_both_conditions(self):
        net = DFU.tiny(1, 1, domain=DOMAIN, num_classes=3, condition_channels=2, zero_init=False).eval()
        x, level, field = torch.randn(4, 1, 12, 12), torch.zeros(()), torch.randn(4, 2, 8, 9)
        label = torch.tensor([0, -1, 2, -1])
        out = net(x, level, label=label, field=field)
        net.embed_label.weight.data.zero_()
        nothing = net(x, level, label=label, field=field)
        torch.testing.assert_close(out[label < 0], nothing[label < 0])
        assert float((out - nothing).detach()[label >= 0].abs().amax((1, 2, 3)).min()) > 1e-4
        with pytest.raises(ValueError, match="or -1 for none"):
            net(x, level, label=label - 1, field=field)
        guided = ClassifierFree(Preconditioned(net, oracle()[0].sde), 2.0)
        assert Heun(guided, 3)(x, label=label, field=field).shape == x.shape

    @pytest.mark.parametrize("domain", [Box(2), Torus(2), Box(1)], ids=str)
    @pytest.mark.parametrize("spectral", [False, True])
    def test_octaves_weigh_what_they_promise(self, domain, spectral):
        # The linear estimate alone, on Gaussian data: each octave's expected loss is its weight.
        data, sde = (
            GaussianRandomField(domain, Matern(1.0, 0.2)),
            FunctionSpaceSDE(WhiteNoise(domain, (16,) * domain.dim), EDM()),
        )
        shape = (17, 16)[: domain.dim]

        class Zero(nn.Module):
            def forward(self, x, noise_level):
                return torch.zeros_like(x)

        if spectral:
            model = SpectralPreconditioned(Zero(), sde, lambda e, dim: data.std(e).square(), shape)
        else:
            model = Preconditioned(Zero(), sde)
        t = torch.tensor([0.2, 0.6])
        plain, half, alike = (DenoisingLoss(model, octaves=g) for g in (0.0, 0.5, 1.0))
        weight = model.loss_weight(t, shape)
        variance = model.target_variance(t, shape).to(torch.get_default_dtype())
        mult = domain.multiplicity(shape)
        torch.testing.assert_close((variance * mult).flatten(1).sum(1) * weight, torch.ones(2))
        last = {Box(2): 4, Torus(2): 3, Box(1): 5}[domain]  # the last octave that the grid begins in every direction
        octave = domain.octaves(shape).clamp(max=last)
        count = last + 1
        shares = []
        for o in range(count):
            # A field with each mode of octave o at its expected size: its weighted square is the octave's weight.
            c = (variance.sqrt() * (octave == o))[:, None].to(domain.white((1, 1), shape).dtype)
            error = domain.synthesize(c, shape)
            a, b, c = (loss._square(error, t, weight[:, None]) for loss in (plain, half, alike))
            torch.testing.assert_close(c, torch.full((2,), 1 / count), rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(b, (a / count).sqrt(), rtol=1e-4, atol=1e-6)
            shares.append(a)
        torch.testing.assert_close(sum(shares), torch.ones(2), rtol=1e-4, atol=1e-4)
        assert float(shares[0].min()) < 0.1

    def test_noise_laws(self):
        _, spectrum = oracle()
        sde = oracle()[0].sde
        flat = SpectralPreconditioned(nn.Identity(), sde, lambda e, dim: torch.full_like(e, 0.25 / 256), (16, 16))
        assert flat.noise_law == pytest.approx((torch.tensor(0.5).log().item(), torch.pi / 12**0.5))
        # Octaves of 1, 2 and 4 modes that turn at ln(sigma) of 0, 1 and 2 count by the root of their number.
        line = FunctionSpaceSDE(WhiteNoise(Torus(1), (7,)), EDM())
        octave = Torus(1).octaves((7,))
        steps = SpectralPreconditioned(nn.Identity(), line, lambda e, dim: (2.0 * octave).exp() / 7, (7,))
        weights = torch.tensor([1.0, math.sqrt(2), 2.0])
        turns, weights = torch.arange(3.0), weights / weights.sum()
        mean = float((weights * turns).sum())
        spread = math.sqrt(float((weights * (turns - mean) ** 2).sum()) + math.pi**2 / 12)
        assert steps.noise_law == pytest.approx((mean, spread), rel=1e-5)
        # Twice as strong data turn to noise at a level twice as high.
        weak, strong = (
            DenoisingLoss(SpectralPreconditioned(nn.Identity(), sde, lambda e, d, a=a: a * spectrum(e, d), (16, 16)))
            for a in (1.0, 4.0)
        )
        assert strong.p_mean - weak.p_mean == pytest.approx(torch.tensor(2.0).log().item())
        assert strong.p_std == pytest.approx(weak.p_std)
        assert weak.p_std > 1.2, "a spectrum that falls spreads the levels"
        given = DenoisingLoss(Preconditioned(nn.Identity(), sde), -0.5, 0.7)
        assert (given.p_mean, given.p_std) == (-0.5, 0.7)
        plain = DenoisingLoss(Preconditioned(nn.Identity(), sde))
        assert (plain.p_mean, plain.p_std) == (-1.2, 1.2)

    def test_levels_that_suit_the_data(self):
        denoiser, spectrum = oracle()
        noise = denoiser.sde.noise
        low, high = noise_levels(noise, spectrum, (16, 16), eps=0.01)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = FunctionSpaceSDE(noise, EDM(low, high)).check(spectrum, (16, 16))
        assert found["snr_end"] == pytest.approx(0.01)
        assert found["snr_start"] == pytest.approx(100)
        for eps in (0.0, 1.0, -1.0):
            with pytest.raises(ValueError, match="eps"):
                noise_levels(noise, spectrum, (16, 16), eps=eps)
        with pytest.raises(ValueError, match="every mode"):
            noise_levels(noise, lambda e, dim: torch.zeros_like(e), (16, 16))

    def test_what_the_network_is_told(self):
        class Told(nn.Module):
            def forward(self, x, noise_level):
                self.level = noise_level
                return x

        sde, t = oracle()[0].sde, torch.tensor([0.3, 0.8])
        sigma = sde.schedule.ratio(t)
        _, spectrum = oracle()
        for make in (Preconditioned, partial(SpectralPreconditioned, spectrum=spectrum, reference=(16, 16))):
            for told, factor in (("point", 2.0), ("mode", 1.0)):
                net = Told()
                make(net, sde, told=told)(torch.randn(2, 1, 32, 32), t)
                torch.testing.assert_close(net.level, (sigma * factor).log() / 4)
            with pytest.raises(ValueError, match="point"):
                make(Told(), sde, told="pixel")

    @pytest.mark.parametrize(
        "bad", [{"octaves": 2.0}, {"drop_condition": 1.0}, {"p_std": 0.0}, {"p_mean": float("nan")}]
    )
    def test_bad_options(self, bad):
        with pytest.raises(ValueError, match=next(iter(bad))):
            DenoisingLoss(Preconditioned(nn.Identity(), oracle()[0].sde), **bad)

    def test_levels_outside_of_the_schedule(self):
        with pytest.raises(ValueError, match="choose p_mean between"):
            DenoisingLoss(Preconditioned(nn.Identity(), oracle()[0].sde), 60.0, 1.0).times(2)
