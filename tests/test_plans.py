"""Plans, upscaling, guidance by conditions and by a worse model, dropped conditions and noise laws."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn

from fnodiff import DFU
from fnodiff.domain import Box, Product, Torus
from fnodiff.model import Model
from fnodiff.sde import (
    EDM,
    Autoguided,
    Cascade,
    ClassifierFree,
    Denoiser,
    DenoisingLoss,
    DPMSolver,
    EDMScaling,
    FunctionSpaceSDE,
    GaussianDenoiser,
    GaussianRandomField,
    Heun,
    Matern,
    Normalization,
    Progressive,
    ReplaceCells,
    ReplaceModes,
    SpectralScaling,
    Stage,
    WhiteNoise,
    Wrapper,
    default_solver,
    noise_levels,
    run,
    sample,
    upscale,
)

DOMAIN = Box(2)


def oracle(domain=DOMAIN, smoothness=1.0, **known):
    data = GaussianRandomField(domain, Matern(smoothness, 0.3))
    sde = FunctionSpaceSDE(WhiteNoise(domain, (16,) * domain.dim), EDM(0.001, 500.0))
    return GaussianDenoiser(data, sde, **known)


def spectrum_of(denoiser):
    return lambda eigenvalues, dim: denoiser.data.std(eigenvalues).square()


def edm(network, sde, **known):
    return Model(network, sde, EDMScaling(), **{"channels": 1, **known})


class TestPlans:
    def test_a_multistep_solver_starts_anew_on_each_grid_and_ends_near_the_flows_end(self):
        denoiser = oracle(Box(1))
        x = denoiser.sde.prior((4, 1, 16))

        def end(solver):
            times = solver.times(denoiser.sde.schedule)
            half = int((times >= 0.5).sum())
            return run(denoiser, solver, [Stage((4,), times[:half]), Stage((16,), times[half - 1 :])], x)

        exact, found = end(Heun(400)), end(DPMSolver(100))
        assert float((Box(1).norm(found - exact) / Box(1).norm(exact)).max()) < 0.02

    def test_a_model_under_spectral_scaling_goes_through_grids_by_its_spectrum(self):
        denoiser, net = oracle(), DFU.tiny(1, 1, domain=DOMAIN)
        model = Model(net, denoiser.sde, SpectralScaling((16, 16)), spectrum=spectrum_of(denoiser)).eval()
        # An untrained network's last layer is zero nearly: what comes out is Gaussian of the spectrum.
        x, exact = (sample(d, 16, range(2), solver=Heun(9), plan=Progressive([(8, 8)])) for d in (model, denoiser))
        torch.testing.assert_close(x, exact, rtol=0, atol=5e-3)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (
                lambda d: sample(d, 12, 0, plan=Progressive([(8, 8)])),
                "expected a denoiser that knows the data's spectrum",
            ),
            (lambda d: Progressive([(8, 8)], budget=0), "budget"),
            (lambda d: Cascade([(8, 8)], keep=1.5), "keep above 0"),
            (lambda d: sample(oracle(), 12, 0, plan=Progressive()), "knows its training shapes"),
            (lambda d: sample(oracle(), (12, 12), 0, plan=Progressive([(8, 16)])), "hold the one before"),
            (lambda d: sample(oracle(), (12, 12), 0, plan=Cascade([(8, 8), (6, 9)])), "hold the one before"),
            (lambda d: sample(oracle(), 12, 0, plan=Progressive([(8,)])), "2 positive sizes"),
            (lambda d: Stage((8, 8), torch.tensor([0.1, 0.5])), "times that decrease"),
        ],
    )
    def test_bad_input(self, call, message):
        with pytest.raises(ValueError, match=message):
            call(oracle(spectrum=None))


@pytest.mark.usefixtures("float64")
class TestUpscale:
    @pytest.mark.parametrize("domain", [Box(1), Box(2), Torus(2), Product([Torus(1), Box(1)])], ids=str)
    def test_low_modes_are_kept_and_the_rest_has_its_law(self, domain):
        denoiser = oracle(domain)
        small, shape = (5, 6)[: domain.dim], (12, 13)[: domain.dim]
        count = 200
        low = denoiser.data.sample((count, 1, *small))
        x = upscale(denoiser, low, shape, range(count), solver=Heun(60), batch=count)
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
        assert bool(((ratio - 1).abs() < 0.02 + 5 * (2 / count) ** 0.5).all()), ratio

    def test_images_are_averages(self):
        denoiser = oracle(cell_averages=True)
        small, shape, finest = (8, 8), (16, 16), (64, 64)
        # A function without modes above the small grid, as the averages over both grids' cells show it.
        truth = DOMAIN.resample(denoiser.data.sample((3, 1, 6, 6)), finest)
        low, high = (
            DOMAIN.resample(DOMAIN.synthesize(DOMAIN.analyze(truth) * DOMAIN.attenuation(finest, n), finest), n)
            for n in (small, shape)
        )
        torch.testing.assert_close(DOMAIN.average(DOMAIN.resample(truth, (512, 512)), small), low, rtol=1e-3, atol=1e-3)
        x = upscale(denoiser, low, shape, range(3), hold=ReplaceModes)
        torch.testing.assert_close(DOMAIN.resample(x, small), DOMAIN.resample(high, small), rtol=1e-4, atol=1e-4)
        assert float(DOMAIN.norm(DOMAIN.resample(high, small) - low).min()) > 1e-3, "or the test could not fail"

    def test_averages_over_whole_cells_are_held(self):
        low = torch.randn(3, 1, 8, 8)
        x = upscale(oracle(cell_averages=True), low, (16, 16), range(3), batch=2)
        torch.testing.assert_close(DOMAIN.average(x, (8, 8)), low)
        assert float(DOMAIN.norm(x - DOMAIN.average(low, (16, 16))).min()) > 0.01, "what varies within cells is sampled"

    def test_held_cells_have_their_noise_on_the_way(self):
        seen = []

        class Watched(Wrapper):
            def forward(self, x_t, t):
                seen.append((x_t, t))
                return self.denoiser(x_t, t)

        low = torch.randn(20, 1, 8, 8)
        upscale(Watched(oracle(cell_averages=True)), low, (16, 16), range(20), solver=DPMSolver(5))
        for x_t, t in seen:
            apart = DOMAIN.average(x_t, (8, 8)) - low
            # White noise of one per point at 16x16: a quarter of its variance in the mean of four.
            assert float(apart.std() / oracle().sde.schedule.ratio(t)) == pytest.approx(0.5, rel=0.1)

    def test_a_cascade_holds_cells_where_it_can(self):
        pictures, times = oracle(cell_averages=True), DPMSolver(12).times(oracle().sde.schedule)

        def held(denoiser, shape, **options):
            return Cascade([(8, 8)], through=(), **options).plan(denoiser, shape, times)[-1]

        assert held(pictures, (16, 16)).cells and held(pictures, (16, 16)).held == (6, 6)
        assert not held(oracle(), (16, 16)).cells, "values at points"
        assert not held(pictures, (20, 20)).cells, "no whole cells"
        assert not held(pictures, (16, 16), keep=0.75).cells
        trained = oracle(cell_averages=True)
        trained.training_shapes = ((8, 8),)
        grids = [stage.shape for stage in Cascade(through=()).plan(trained, (32, 32), times) if stage.held]
        assert grids == [(16, 16), (32, 32)], "doubles of the training grid"
        assert len(Cascade(through=()).plan(trained, (24, 24), times)) == 2, "24 is no multiple of 16"
        low, high = sample(pictures, 8, range(2)), sample(pictures, 16, range(2), plan=Cascade([(8, 8)], through=()))
        torch.testing.assert_close(DOMAIN.average(high, (8, 8)), low, rtol=1e-3, atol=1e-3)

    def test_finer_grids_of_trained_pictures_are_sampled_with_fresh_noise(self):
        trained = oracle(cell_averages=True)
        trained.training_shapes = ((8, 8),)
        low, high, named = (
            sample(trained, 8, [3]),
            sample(trained, 16, [3]),
            sample(trained, 16, [3], solver=DPMSolver(12)),
        )
        for x in (high, named):
            torch.testing.assert_close(DOMAIN.average(x, (8, 8)), low, rtol=1e-3, atol=1e-3)
        assert float(DOMAIN.norm(high - named)) > 0.01
        assert default_solver(trained, upscaling=True).eta == 1 and default_solver(trained).eta == 0
        assert default_solver(oracle(), upscaling=True) == DPMSolver(36)

    @pytest.mark.parametrize(("domain", "small"), [(Box(2), (6, 6)), (Torus(2), (8, 8))], ids=str)
    def test_cells_that_are_not_made_of_whole_ones(self, domain, small):
        with pytest.raises(ValueError, match=r"hold modes by ReplaceModes"):
            ReplaceCells(oracle(domain), torch.randn(2, 1, *small))(torch.randn(2, 1, 16, 16), torch.ones(()))

    def test_data_units_and_seeds(self):
        denoiser = oracle(normalization=Normalization([3.0], [2.0]))
        low = 3 + 2 * denoiser.data.sample((2, 1, 8, 8))
        a, b, c = (upscale(denoiser, low, (16, 16), seeds) for seeds in ((0, 1), (0, 2), (0, 1)))
        torch.testing.assert_close(DOMAIN.resample(a, (8, 8)), low, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(a, c)
        torch.testing.assert_close(a[0], b[0])
        assert float(DOMAIN.norm(a[1:] - b[1:])) > 0.05

    @pytest.mark.parametrize("shape", [(8, 8), (4, 16)])
    def test_a_grid_that_is_not_finer(self, shape):
        with pytest.raises(ValueError, match="finer than"):
            upscale(oracle(), torch.randn(2, 1, 8, 8), shape, range(2))

    @pytest.mark.parametrize("x", [torch.randn(3, 1, 16, 16), torch.randn(2, 1, 6, 16)], ids=["batch", "grid"])
    def test_known_modes_that_do_not_fit(self, x):
        with pytest.raises(ValueError, match="where the known modes fit"):
            ReplaceModes(oracle(), torch.randn(2, 1, 8, 8))(x, torch.ones(()))


class Conditional(Denoiser):
    """Gaussian data whose mean is its label plus its field's mean; without a condition, the middle."""

    def __init__(self, inner):
        super().__init__(inner.sde, channels=1)
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
        denoiser = oracle()
        model = Conditional(denoiser) if scale is None else ClassifierFree(Conditional(denoiser), scale, drop)
        guided = sample(model, 8, range(4), solver=Heun(30), label=self.label, field=self.field)
        return (guided - sample(denoiser, 8, range(4), solver=Heun(30))).mean((1, 2, 3))

    @pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
    def test_scales(self, scale):
        both = self.label - 1.0 + self.field[:, 0, 0, 0]
        torch.testing.assert_close(self.mean(scale), scale * both, rtol=2e-2, atol=2e-2)

    def test_scale_one_is_the_conditional_model(self):
        torch.testing.assert_close(self.mean(None), self.mean(1.0))

    def test_one_condition_of_two(self):
        expected = 3 * (self.label - 1.0) + self.field[:, 0, 0, 0]
        torch.testing.assert_close(self.mean(3.0, ["label"]), expected, rtol=2e-2, atol=2e-2)
        expected = self.label - 1.0 + 3 * self.field[:, 0, 0, 0]
        torch.testing.assert_close(self.mean(3.0, ["field"]), expected, rtol=2e-2, atol=2e-2)

    def test_bad_input(self):
        denoiser = oracle()
        x, t = torch.randn(4, 1, 8, 8), torch.ones(())
        with pytest.raises(ValueError, match="label=labels"):
            ClassifierFree(denoiser, 2.0)(x, t)
        with pytest.raises(ValueError, match=r"got \['field'\]"):
            ClassifierFree(denoiser, 2.0, ["label"])(x, t, field=self.field)


class Off(Denoiser):
    """The exact denoiser, with an error."""

    def __init__(self, inner, error):
        super().__init__(inner.sde, channels=1, spectrum=inner.spectrum)
        self.inner, self.error, self.calls = inner, error, 0

    def forward(self, x_t, t):
        self.calls += 1
        return self.inner(x_t, t) + self.error


class TestAutoguided:
    def test_an_error_that_the_guide_has_twice_is_gone_within_the_levels(self):
        exact = oracle()
        model, guide = Off(exact, 0.1), Off(exact, 0.2)
        level = torch.tensor([0.1, 0.29, 0.31, 1.0, 2.9, 3.1, 100.0])
        t, x = exact.sde.schedule.time(level), torch.randn(7, 1, 8, 8)
        error = Autoguided(model, guide, 2.0)(x, t) - exact(x, t)
        expected = torch.where((level > 0.3) & (level < 3), 0.0, 0.1).reshape(-1, 1, 1, 1)
        torch.testing.assert_close(error, expected.expand_as(error), atol=1e-5, rtol=0)

    @pytest.mark.parametrize(("scale", "calls"), [(1.7, 3), (1.0, 0)])
    def test_the_guide_is_asked_where_it_acts(self, scale, calls):
        exact = oracle()
        model, guide = Off(exact, 0.0), Off(exact, 0.0)
        ratio = exact.sde.schedule.ratio(DPMSolver(20).times(exact.sde.schedule))
        assert int(((ratio > 0.3) & (ratio < 3)).sum()) == 3
        sample(Autoguided(model, guide, scale, noise_levels=(0.3, 3.0)), 8, 0, solver=DPMSolver(20))
        assert (model.calls, guide.calls) == (20, calls)

    def test_through_coarser_grids(self):
        exact, rough = oracle(), oracle(smoothness=0.2)
        guided = Autoguided(exact, rough, 1.5, noise_levels=(0.0, 1000.0))
        own, other = (
            float(DOMAIN.norm(sample(d, 24, range(64), solver=Heun(12), plan=Progressive([(8, 8)]), batch=64)).mean())
            for d in (exact, guided)
        )
        assert 1.02 < other / own < 1.5, "away from the rough one, which has less in the coarse modes"

    @pytest.mark.parametrize("guide", [oracle(Box(1)), oracle(normalization=Normalization(0.0, 2.0))])
    def test_a_guide_of_another_process_or_units(self, guide):
        with pytest.raises(ValueError, match="train it as the model was"):
            Autoguided(oracle(), guide)

    @pytest.mark.parametrize(("scale", "levels"), [(2.0, (3.0, 0.3)), (2.0, (-1.0, 1.0)), (math.nan, (0.3, 3.0))])
    def test_bad_numbers(self, scale, levels):
        with pytest.raises(ValueError, match="are usual"):
            Autoguided(oracle(), oracle(), scale, levels)


class Recorder(nn.Module):
    """A network that remembers its conditions."""

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
        loss = DenoisingLoss(edm(net, oracle().sde), drop_condition=0.2)
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
        loss = DenoisingLoss(edm(net, oracle().sde), drop_condition=0.3)
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
        guided = ClassifierFree(edm(net, oracle().sde), 2.0)
        assert sample(guided, 12, range(4), solver=Heun(3), label=label, field=field).shape == x.shape

    def law(self, sde, spectrum, shape):
        return Model(nn.Identity(), sde, SpectralScaling(shape), spectrum=spectrum).noise_law

    def test_the_law_of_a_flat_spectrum_is_a_logistic_one(self):
        found = self.law(oracle().sde, lambda e, dim: torch.full_like(e, 0.25 / 256), (16, 16))
        assert found == pytest.approx((torch.tensor(0.5).log().item(), torch.pi / 12**0.5))

    def test_octaves_count_by_the_root_of_their_modes(self):
        # Octaves of 1, 2 and 4 modes that turn at ln(sigma) of 0, 1 and 2.
        line, octave = FunctionSpaceSDE(WhiteNoise(Torus(1), (7,)), EDM()), Torus(1).octaves((7,))
        weights = torch.tensor([1.0, math.sqrt(2), 2.0])
        turns, weights = torch.arange(3.0), weights / weights.sum()
        mean = float((weights * turns).sum())
        spread = math.sqrt(float((weights * (turns - mean) ** 2).sum()) + math.pi**2 / 12)
        found = self.law(line, lambda e, dim: (2.0 * octave).exp() / 7, (7,))
        assert found == pytest.approx((mean, spread), rel=1e-5)

    def test_data_twice_as_strong_turn_to_noise_at_a_level_twice_as_high(self):
        denoiser = oracle()
        weak, strong = (
            self.law(denoiser.sde, lambda e, d, a=a: a * denoiser.data.std(e).square(), (16, 16)) for a in (1.0, 4.0)
        )
        assert strong[0] - weak[0] == pytest.approx(torch.tensor(2.0).log().item())
        assert strong[1] == pytest.approx(weak[1])
        assert weak[1] > 1.2, "a spectrum that falls spreads the levels"

    @pytest.mark.parametrize(("given", "law"), [((-0.5, 0.7), (-0.5, 0.7)), ((), (-1.2, 1.2))])
    def test_the_loss_takes_the_models_law_or_its_own(self, given, law):
        loss = DenoisingLoss(edm(nn.Identity(), oracle().sde), *given)
        assert (loss.p_mean, loss.p_std) == law

    def test_levels_that_suit_the_data(self):
        denoiser = oracle()
        noise, spectrum = denoiser.sde.noise, spectrum_of(denoiser)
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

    @pytest.mark.parametrize(
        ("scaling", "factor"), [(EDMScaling(), 2.0), (SpectralScaling((16, 16)), 1.0)], ids=["point", "mode"]
    )
    def test_the_noise_level_given_to_the_network(self, scaling, factor):
        class Hears(nn.Module):
            def forward(self, x, noise_level):
                self.level = noise_level
                return x

        denoiser, t, net = oracle(), torch.tensor([0.3, 0.8]), Hears()
        Model(net, denoiser.sde, scaling, spectrum=spectrum_of(denoiser))(torch.randn(2, 1, 32, 32), t)
        torch.testing.assert_close(net.level, (denoiser.sde.schedule.ratio(t) * factor).log() / 4)

    @pytest.mark.parametrize("bad", [{"drop_condition": 1.0}, {"p_std": 0.0}, {"p_mean": float("nan")}])
    def test_bad_options(self, bad):
        with pytest.raises(ValueError, match=next(iter(bad))):
            DenoisingLoss(edm(nn.Identity(), oracle().sde), **bad)

    def test_levels_outside_of_the_schedule(self):
        with pytest.raises(ValueError, match="choose p_mean between"):
            DenoisingLoss(edm(nn.Identity(), oracle().sde), 60.0, 1.0).times(2)
