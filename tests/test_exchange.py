"""Denoisers of other libraries as ours, and ours as theirs: the same samples."""

from __future__ import annotations

import importlib

import pytest
import torch
from parts import quick

from fnodiff import DDIM, DFU, EDM, Box, EDMScaling, FunctionSpaceSDE, Heun, Model, PixelNoise, WhiteNoise, sample
from fnodiff.exchange import AzulaDenoiser, DeepinvDenoiser, DiffusersDenoiser, Timesteps, to_deepinv
from fnodiff.sde import GaussianDenoiser, GaussianRandomField, Matern, Normalization, Stage, integrate, run


def seeds(number):
    return torch.Generator().manual_seed(number)


class TestDiffusers:
    @staticmethod
    def unet(**options):
        diffusers = pytest.importorskip("diffusers")
        torch.manual_seed(0)
        blocks = {"down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D")}
        sizes = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
        return diffusers.UNet2DModel(in_channels=1, out_channels=1, **blocks, **sizes, **options).eval()

    @pytest.mark.usefixtures("float64")
    @pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
    def test_samples_are_those_of_its_scheduler(self, kind):
        diffusers, unet = pytest.importorskip("diffusers"), self.unet()
        scheduler = diffusers.DDIMScheduler(clip_sample=False, prediction_type=kind, set_alpha_to_one=True)
        scheduler.set_timesteps(10)
        denoiser = DiffusersDenoiser(unet, scheduler)
        times = scheduler.timesteps.double() / (len(scheduler.alphas_cumprod) - 1)
        start = denoiser.sde.prior((2, 1, 16, 24), generator=seeds(1))
        one = torch.ones(())
        x = start / denoiser.sde.marginal(start, one)[1] * denoiser.sde.marginal(start, times[0])[1]
        with torch.no_grad():
            for timestep in scheduler.timesteps:
                x = scheduler.step(unet(x, timestep).sample, timestep, x, eta=0.0).prev_sample
        ours = run(denoiser, DDIM(10), [Stage((16, 24), times, None)], start)
        torch.testing.assert_close(ours, x, rtol=1e-5, atol=1e-5)

    def test_a_label_is_its_class(self):
        diffusers, unet = pytest.importorskip("diffusers"), self.unet(num_class_embeds=3)
        denoiser = DiffusersDenoiser(unet, diffusers.DDPMScheduler(), clip=1.0)
        first, second = (sample(denoiser, 16, [0], solver=DDIM(3), label=label) for label in (0, 2))
        assert float((first - second).abs().max()) > 1e-4 and float(first.abs().max()) <= 1
        with pytest.raises(ValueError, match="alphas_cumprod"):
            DiffusersDenoiser(unet, diffusers.EDMEulerScheduler())

    def test_timesteps_are_the_schedulers_and_time_inverts_the_ratio(self):
        squares = torch.linspace(0.9999, 0.001, 50, dtype=torch.float64)
        schedule = Timesteps(tuple(squares.tolist()))
        t = torch.linspace(0, 1, 50, dtype=torch.float64)
        torch.testing.assert_close(schedule(t)[0].square(), squares)
        between = torch.rand(100, generator=seeds(0), dtype=torch.float64)
        torch.testing.assert_close(schedule.time(schedule.ratio(between)), between)
        with pytest.raises(ValueError, match="fall within"):
            Timesteps((0.5, 0.6))


class TestAzula:
    @pytest.mark.usefixtures("float64")  # alpha ends at 1e-3, by which float32 divides rounding
    @pytest.mark.parametrize("name", quick(("VPSchedule", "VESchedule", "RectifiedSchedule"), "VPSchedule"))
    def test_samples_are_those_of_its_samplers(self, name):
        azula = pytest.importorskip("azula")
        for part in ("denoise", "noise", "sample"):
            importlib.import_module(f"azula.{part}")

        class Backbone(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.net = DFU.tiny(1, 1, zero_init=False)

            def forward(self, x, t, **condition):
                return self.net(x, t)

        torch.manual_seed(0)
        theirs = azula.denoise.KarrasDenoiser(Backbone(), getattr(azula.noise, name)()).eval()
        with pytest.raises(ValueError, match=r"AzulaDenoiser: expected channels of 1 or more, got 0; pass"):
            AzulaDenoiser(theirs, channels=0)
        ours = AzulaDenoiser(theirs, channels=1)
        start = ours.sde.prior((2, 1, 16, 16), generator=seeds(2))
        times = torch.linspace(1, 0, 9, dtype=torch.float64)
        for sampler, solver in ((azula.sample.EulerSampler, DDIM(9)), (azula.sample.HeunSampler, Heun(9))):
            expected = sampler(theirs, steps=8, silent=True, dtype=torch.float64)(start.clone())
            with torch.no_grad():
                found = integrate(ours, solver, start, times)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert sample(ours, (16, 24), [0, 1], solver=DDIM(3)).shape == (2, 1, 16, 24)
        ratios = ours.sde.schedule.ratio(torch.linspace(0.01, 0.99, 9, dtype=torch.float64))
        torch.testing.assert_close(ours.sde.schedule.time(ratios), torch.linspace(0.01, 0.99, 9, dtype=torch.float64))


class Shrink(torch.nn.Module):
    """The exact denoiser of white data of variance v about 1/2, as deepinv calls one."""

    v = 0.04

    def forward(self, x, sigma):
        gain = self.v / (self.v + sigma.reshape(-1, 1, 1, 1) ** 2)
        return 0.5 + gain * (x - 0.5)


class TestDeepinv:
    def test_theirs_samples_its_law_here(self):
        denoiser = DeepinvDenoiser(Shrink(), channels=1)
        x = sample(denoiser, (16, 16), range(64), solver=Heun(40))
        assert float(x.mean()) == pytest.approx(0.0, abs=0.02)
        assert float(x.std()) == pytest.approx(2 * 0.2, rel=0.03), "twice that in [0, 1]"

    @pytest.mark.parametrize("noise", [PixelNoise(Box(2)), WhiteNoise(Box(2), (16, 16))], ids=["pixel", "white"])
    def test_ours_is_theirs(self, noise):
        pytest.importorskip("deepinv")
        from deepinv.models import Denoiser

        exact = GaussianDenoiser(GaussianRandomField(Box(2), Matern(1.0, 0.3)), FunctionSpaceSDE(noise, EDM()))
        prior = to_deepinv(exact)
        assert isinstance(prior, Denoiser)
        x = torch.rand(3, 1, 24, 24, generator=seeds(3))
        sigma = torch.tensor([0.1, 0.2, 0.3])
        per_point = 2 * sigma / noise.variance((24, 24)) ** 0.5
        t = exact.sde.schedule.time(per_point)
        torch.testing.assert_close(prior(x, sigma), (exact(2 * x - 1, t) + 1) / 2, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(prior(x, 0.2)[1:2], prior(x[1:2], torch.tensor(0.2)))

    @pytest.mark.parametrize("sigma", [-1.0, float("nan"), torch.tensor([0.1, 0.2, 0.3])])
    def test_levels_that_mean_nothing_are_refused(self, sigma):
        pytest.importorskip("deepinv")
        field = GaussianRandomField(Box(2), Matern(1.0, 0.3))
        prior = to_deepinv(GaussianDenoiser(field, FunctionSpaceSDE(PixelNoise(Box(2)), EDM())))
        with pytest.raises(ValueError, match="sigma >= 0, one for all or for each of 2 pictures, got "):
            prior(torch.rand(2, 1, 8, 8), sigma)

    def test_there_and_back_is_the_same_denoiser(self):
        pytest.importorskip("deepinv")
        torch.manual_seed(0)
        sde = FunctionSpaceSDE(PixelNoise(Box(2)), EDM(0.02, 40.0))
        model = Model(
            DFU.tiny(1, 1, num_blocks=0, zero_init=False), sde, EDMScaling(), normalization=Normalization(0.1, 0.8)
        )
        back = DeepinvDenoiser(to_deepinv(model.eval()), channels=1)
        x_t, t = torch.randn(2, 1, 16, 16, generator=seeds(4)), torch.tensor([0.3, 0.6])
        level = model.sde.schedule.ratio(t) / 0.8
        expected = model.normalization.inverse(model(model.normalization(x_t), model.sde.schedule.time(level)))
        torch.testing.assert_close(back(x_t, t), expected, rtol=1e-4, atol=1e-4)

    def test_smooth_noise_is_refused(self):
        pytest.importorskip("deepinv")
        field = GaussianRandomField(Box(2), Matern(1.0, 0.3))
        with pytest.raises(ValueError, match="white noise"):
            to_deepinv(GaussianDenoiser(field, FunctionSpaceSDE(field, EDM())))
