"""Training, resuming, checkpoints and the loader."""

from __future__ import annotations

import json
import math
import os
import signal
from collections import Counter
from dataclasses import dataclass
from functools import partial
from unittest import mock

import numpy as np
import pytest
import safetensors.torch
import torch
from accelerate.tracking import GeneralTracker
from PIL import Image

from fnodiff import checkpoint
from fnodiff.data.loader import InMemory, MultiResolution, Part
from fnodiff.domain import Box, Torus
from fnodiff.nn import DFU
from fnodiff.sde import (
    EDM,
    RBF,
    VP,
    DenoisingLoss,
    FunctionSpaceSDE,
    GaussianRandomField,
    Heun,
    Matern,
    Noise,
    Normalization,
    PixelNoise,
    Preconditioned,
    SpectralPreconditioned,
    WhiteNoise,
    fit_spectrum,
)
from fnodiff.train import STATE, Preview, fit, measure_normalization


class Waves:
    """Random smooth fields that exist at every resolution, with labels."""

    channels = 2

    def __init__(self, count=64, bad=None, field=False):
        self.noise, self.count, self.bad, self.field = GaussianRandomField(Torus(1), RBF(0.2)), count, bad, field

    def __len__(self):
        return self.count

    def batch(self, indices, shape):
        x = self.noise.sample((len(indices), 2, *shape), generator=[torch.Generator().manual_seed(i) for i in indices])
        x = x * torch.tensor([[2.0], [0.1]]) + torch.tensor([[5.0], [0.0]])
        if self.bad in indices:
            x[indices.index(self.bad), 0, 0] = float("nan")
        return {"x": x, "field": 300 + 10 * x[:, :1]} if self.field else {"x": x}


def data(field=False, **options):
    return MultiResolution(Waves(field=field), Torus(1), **{"shapes": [8, 12, 16], "batch_size": 4, **options})


def model(**options):
    torch.manual_seed(1)
    net = DFU.tiny(2, 2, domain=Torus(1), hidden_channels=8, **options)
    return Preconditioned(net, FunctionSpaceSDE(WhiteNoise(Torus(1), (16,)), EDM()))


def quiet(*args, **kwargs):
    return fit(*args, **{"progress": False, "rampup": 10, **kwargs})


class TestMultiResolution:
    def test_every_epoch_visits_all_samples_once(self):
        loader = data(batch_size=5)
        seen = [i for step in range(13) for i in loader.indices(step)]
        assert sorted(seen[:64]) == list(range(64))
        assert seen[:64] != list(range(64))
        second = [loader._sample(i) for i in range(64, 128)]
        assert sorted(second) == list(range(64)) and second != seen[:64]

    def test_one_resolution_per_batch_with_its_weight(self):
        loader = data(shapes=[16, 8, 12], weights=[0.6, 0.1, 0.3])
        counts = Counter(loader.shape(step) for step in range(3000))
        assert counts[(16,)] / 3000 == pytest.approx(0.6, abs=0.04)
        assert counts[(8,)] / 3000 == pytest.approx(0.1, abs=0.025)
        assert loader[0]["x"].shape == (4, 2, *loader.shape(0))

    def test_warm_up_starts_small(self):
        loader = data(shapes=[16, 8, 12], warmup=300)
        assert {loader.shape(step) for step in range(100)} == {(8,)}
        assert {loader.shape(step) for step in range(100, 200)} == {(8,), (12,)}
        assert {loader.shape(step) for step in range(200, 400)} == {(8,), (12,), (16,)}

    def test_a_batch_is_a_function_of_seed_and_step(self):
        torch.testing.assert_close(data()[7]["x"], data()[7]["x"], rtol=0, atol=0)
        assert [data(seed=1).indices(s) for s in range(3)] != [data().indices(s) for s in range(3)]

    def test_in_memory_gives_what_the_source_gives(self):
        kept = InMemory(Waves(10), [(8,), (12,)], chunk=4)
        assert (len(kept), kept.channels) == (10, 2)
        for shape in ((8,), (12,)):
            torch.testing.assert_close(kept.batch([9, 0, 5], shape)["x"], Waves().batch([9, 0, 5], shape)["x"])
        with pytest.raises(ValueError, match="prepared shapes"):
            kept.batch([0], (9,))

    def test_part_is_a_source_of_its_own(self):
        part = Part(Waves(), range(10, 20))
        assert len(part) == 10
        torch.testing.assert_close(part.batch([0, 3], (8,))["x"], Waves().batch([10, 13], (8,))["x"])

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: data(shapes=[(8, 8)]), "1 positive sizes"),
            (lambda: data(shapes=[8, 8]), "each shape once"),
            (lambda: data(weights=[1.0]), "one weight for each"),
            (lambda: data(weights=[0.0, 0.0, 0.0]), "positive sum"),
            (lambda: data(batch_size=0), "batch_size >= 1"),
            (lambda: MultiResolution(Waves(0), Torus(1), [8]), "0 samples"),
            (lambda: Part(Waves(), [64]), "0 to 63"),
            (lambda: Part(Waves(), [3, 4]).batch([-1], (8,)), "0 to 1"),
            (lambda: InMemory(Waves(4), [(8,)]).batch([4], (8,)), "0 to 3"),
        ],
    )
    def test_bad_input(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()


class TestFit:
    @pytest.mark.parametrize("kind", ["no spectral branches", "trained elsewhere"])
    def test_modes_that_no_grid_holds_matter_to_new_spectral_weights_alone(self, kind):
        denoiser, coarse = model(n_modes=(32,)), data(shapes=[8])
        with pytest.raises(ValueError, match="would learn nothing"):
            quiet(denoiser, coarse, 1)
        if kind == "no spectral branches":
            denoiser = model(n_modes=(32,), spectral_levels=0)
        else:
            denoiser.training_shapes = ((32,),)
        before = [p.clone() for p in denoiser.parameters()]
        quiet(denoiser, coarse, 1)
        assert any(not torch.equal(a, b) for a, b in zip(before, denoiser.parameters(), strict=True))

    def test_learns_and_averages(self):
        torch.manual_seed(0)
        denoiser, losses = model(), []
        ema = quiet(
            denoiser, data(), 300, normalize=True, lr=3e-3, callback=lambda s, shape, v: losses.append((shape, v))
        )
        first, last = (torch.tensor([v for _, v in part]).mean() for part in (losses[:30], losses[-100:]))
        assert float(last) < 0.85 * float(first)
        assert {shape for shape, _ in losses} == {(8,), (12,), (16,)}
        assert not ema.training and ema is not denoiser
        assert ema.training_shapes == ((8,), (12,), (16,))
        difference = [
            float((a - b).norm() / b.norm()) for a, b in zip(ema.parameters(), denoiser.parameters(), strict=True)
        ]
        assert 0 < max(difference) < 1

    def test_normalization_is_measured_and_kept(self):
        denoiser = model()
        ema = quiet(denoiser, data(), 1, normalize=True)
        torch.testing.assert_close(ema.normalization.mean, torch.tensor([5.0, 0.0]), atol=0.8, rtol=0)
        torch.testing.assert_close(ema.normalization.std, torch.tensor([4.0, 0.2]), rtol=0.15, atol=0)
        x = torch.cat([data()[step]["x"].transpose(0, 1).flatten(1) for step in range(16)], dim=1)
        assert float(ema.normalization(x[None])[0, 0].std()) == pytest.approx(0.5, rel=0.1)

    def test_ema_follows_its_half_life(self):
        denoiser = model()
        start = [p.detach().clone() for p in denoiser.parameters()]
        history = []
        ema = quiet(
            denoiser,
            data(),
            3,
            ema_halflife=4.0,
            callback=lambda *_: history.append([p.detach().clone() for p in denoiser.parameters()]),
        )
        # Half-lives of a twentieth of the samples seen, but at least 1 and at most 4 samples; 4 samples per step.
        expected = start
        for seen, now in zip((4, 8, 12), history, strict=True):
            decay = 0.5 ** (4 / min(4.0, max(1.0, seen / 20)))
            expected = [decay * e + (1 - decay) * n for e, n in zip(expected, now, strict=True)]
        for a, b in zip(ema.parameters(), expected, strict=True):
            torch.testing.assert_close(a, b)

    @pytest.mark.parametrize("interruption", ["steps", "field", "signal"])
    def test_resuming_continues_to_the_bit(self, tmp_path, interruption):
        field, options = interruption == "field", {"condition_channels": 1} if interruption == "field" else {}
        whole_state, part_state = tmp_path / "whole", tmp_path / "part"
        torch.manual_seed(3)
        whole = quiet(model(**options), data(field=field), 12, normalize=True, folder=whole_state)
        torch.manual_seed(3)
        if interruption in ("steps", "field"):
            quiet(model(**options), data(field=field), 5, normalize=True, folder=part_state)
        else:
            with pytest.raises(KeyboardInterrupt, match="resume from"):
                quiet(
                    model(**options),
                    data(field=field),
                    12,
                    normalize=True,
                    folder=part_state,
                    callback=lambda step, *_: os.kill(os.getpid(), signal.SIGINT) if step == 5 else None,
                )
        torch.manual_seed(99)  # whatever happened in between
        part = quiet(model(**options), data(field=field), 12, normalize=True, folder=part_state, resume=part_state)
        for key, value in whole.state_dict().items():
            assert torch.equal(part.state_dict()[key], value), key
        states = [torch.load(f / STATE, weights_only=True) for f in (whole_state, part_state)]
        assert states[0]["step"] == states[1]["step"] == 12
        for key, value in states[0]["denoiser"].items():
            assert torch.equal(states[1]["denoiser"][key], value), key
        loaded = checkpoint.from_pretrained(part_state)
        assert all(torch.equal(loaded.state_dict()[k], v) for k, v in whole.state_dict().items())

    def test_decay_lets_the_learning_rate_fall_to_zero(self, tmp_path):
        for decay, rate in ((False, 1e-3), (True, 1e-3 * 0.5 * (1 + math.cos(7 * math.pi / 8)))):
            quiet(model(), data(), 8, rampup=1, lr=1e-3, decay=decay, folder=tmp_path)
            state = torch.load(tmp_path / STATE, weights_only=True)
            assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(rate)

    def test_non_finite_loss_names_step_and_resolution(self, tmp_path):
        bad = MultiResolution(Waves(bad=data().indices(3)[1]), Torus(1), [8, 12, 16], batch_size=4)
        quiet(model(), data(), 2, folder=tmp_path / "run")
        with pytest.raises(FloatingPointError, match=rf"nan at step 3, resolution \({data().shape(3)[0]},\)"):
            quiet(model(), bad, 10, folder=tmp_path / "run2", save_every=1)
        assert torch.load(tmp_path / "run2" / STATE, weights_only=True)["step"] == 3

    def test_trackers_get_each_resolutions_loss(self, accelerators):
        tracker = Kept()
        accelerator = accelerators(log_with=tracker)
        accelerator.init_trackers("run")
        losses = {}
        quiet(
            model(),
            data(),
            25,
            lr=1e-3,
            accelerator=accelerator,
            callback=lambda step, shape, v: losses.setdefault(shape, []).append(v),
        )
        assert [step for step, _ in tracker.told] == [10, 20, 25]
        last = tracker.told[-1][1]
        assert set(last) == {"loss/8", "loss/12", "loss/16", "lr"} and last["lr"] == 1e-3
        for (n,), seen in losses.items():
            assert min(seen) <= last[f"loss/{n}"] <= max(seen)

    @pytest.mark.parametrize("channels", [2, 3])
    def test_previews_show_the_same_seeds_and_change_nothing(self, accelerators, channels):
        def trained(**options):
            torch.manual_seed(1)
            net = DFU.tiny(channels, channels, domain=Torus(2), hidden_channels=8, num_blocks=0)
            denoiser = Preconditioned(net, FunctionSpaceSDE(WhiteNoise(Torus(2), (16, 16)), EDM()))
            data = MultiResolution(Flat(channels), Torus(2), [8, 12], batch_size=4)
            return quiet(denoiser, data, 5, accelerator=accelerator, **options)

        tracker = Album()
        accelerator = accelerators(log_with=tracker)
        accelerator.init_trackers("run")
        shapes = [(channels, 8, 8), (channels, 16, 12)]
        ema = trained(preview=Preview(shapes, seeds=[3, 4, 5], every=2, sampler=partial(Heun, steps=3)))
        assert [step for step, _ in tracker.shown] == [2, 4, 5]
        rows = 1 if channels == 3 else channels
        for n, m in ((8, 8), (16, 12)):
            pictures = [pictures[f"samples/{n}x{m}"] for _, pictures in tracker.shown]
            assert all(p.shape == (1, rows * n, 3 * m, 3) and p.dtype == np.uint8 for p in pictures)
            assert (pictures[0] != pictures[1]).any(), "the model has moved on"
            x = Heun(ema, 3).draw((channels, n, m), [3, 4, 5])
            if channels == 3:
                expected = ((x.clamp(-1, 1) + 1) * 127.5).round()
                found = torch.from_numpy(pictures[-1][0]).unflatten(1, (3, m)).permute(1, 3, 0, 2)
                assert float((found - expected).abs().max()) <= 1
            else:
                assert pictures[-1][0, :n].reshape(-1, 3).sum(1).argmax() == int(x[:, 0].permute(1, 0, 2).argmax())
        plain = trained()
        assert all(torch.equal(v, plain.state_dict()[k]) for k, v in ema.state_dict().items())

    @pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
    def test_files_hold_losses_and_pictures_of_every_grid(self, tmp_path, accelerators, monkeypatch, kind):
        monkeypatch.setenv("WANDB_SILENT", "true")
        accelerator = accelerators(log_with=kind, project_dir=tmp_path)
        options = {"wandb": {"mode": "offline", "dir": str(tmp_path)}} if kind == "wandb" else {}
        accelerator.init_trackers("run", init_kwargs=options)
        preview = Preview([(3, 8, 8), (3, 8, 12)], seeds=range(2), every=2, sampler=partial(Heun, steps=2))
        batches = MultiResolution(Flat(3), Torus(2), [8, 12], batch_size=4)
        run = accelerator.get_tracker(kind, unwrap=True)
        name = {"tensorboard": "add_scalar", "wandb": "log"}[kind]
        real = getattr(type(run), name)
        with mock.patch.object(type(run), name, autospec=True, side_effect=real) as told:
            quiet(colours(), batches, 4, accelerator=accelerator, preview=preview)
        read = {"tensorboard": tensorboard_files, "wandb": wandb_files}[kind]
        losses, pictures = read(accelerator, tmp_path, told)
        assert losses == {"loss/8x8", "loss/12x12", "lr"}
        assert pictures == {("samples/8x8", step, 8, 16) for step in (2, 4)} | {
            ("samples/8x12", step, 8, 24) for step in (2, 4)
        }

    def test_minutes_stop_it(self):
        steps = []
        quiet(model(), data(), minutes=0.02, callback=lambda s, *_: steps.append(s))
        assert 1 <= len(steps) < 2000

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda p: quiet(model(), data()), "steps or minutes"),
            (lambda p: quiet(model(), data(), 1, loss=DenoisingLoss(model())), "another"),
            (lambda p: quiet(model(), data(), 3, resume=p), STATE),
            (
                lambda p: quiet(model(), data(), 2, folder=p) and quiet(model(num_classes=2), data(), 3, resume=p),
                "resume model",
            ),
            (
                lambda p: quiet(model(), data(), 2, folder=p) and quiet(model(), data(seed=1), 3, resume=p),
                "resume data",
            ),
            (lambda p: quiet(model(), data(), 1, preview=Preview([(2, 8, 8)])), "a tracker that shows"),
            (lambda p: quiet(model(), data(), 1, shard=True), "several processes"),
            (lambda p: quiet(model(), data(), 1, shard=True, compile=True), "leave one out"),
            (lambda p: Preview([(2, 8)]), r"\(C, height, width\)"),
            (lambda p: Preview([]), r"\(C, height, width\)"),
            (lambda p: Preview([(2, 8, 8)], seeds=[]), "0 seeds"),
            (lambda p: Preview([(2, 8, 8)], every=0), "every >= 1"),
            (lambda p: measure_normalization(MultiResolution(Constant(), Torus(1), [8])), "vary"),
        ],
    )
    def test_bad_input(self, tmp_path, call, message):
        with pytest.raises(ValueError, match=message):
            call(tmp_path)


class Kept(GeneralTracker):
    """A tracker that keeps what it is told."""

    name, requires_logging_directory, tracker = "kept", False, None

    def __init__(self):
        super().__init__()
        self.told = []

    def store_init_configuration(self, values):
        pass

    def log(self, values, step, **_):
        self.told.append((step, values))


class Album(Kept):
    """A tracker that also keeps pictures."""

    name = "album"

    def __init__(self):
        super().__init__()
        self.shown = []

    def log_images(self, values, step, **_):
        self.shown.append((step, values))


class Flat:
    """Random fields in two dimensions."""

    def __init__(self, channels):
        self.channels = channels

    def __len__(self):
        return 16

    def batch(self, indices, shape):
        noise = GaussianRandomField(Torus(2), RBF(0.3))
        generators = [torch.Generator().manual_seed(i) for i in indices]
        return {"x": noise.sample((len(indices), self.channels, *shape), generator=generators)}


def colours():
    net = DFU.tiny(3, 3, domain=Torus(2), hidden_channels=8, num_blocks=0)
    return Preconditioned(net, FunctionSpaceSDE(WhiteNoise(Torus(2), (16, 16)), EDM())).eval()


def tensorboard_files(accelerator, folder, told):
    """The names of the numbers, and each picture's name, step, height and width."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accelerator.end_training()
    events = EventAccumulator(str(folder / "run")).Reload()
    tags = events.Tags()
    return set(tags["scalars"]), {(n, i.step, i.height, i.width) for n in tags["images"] for i in events.Images(n)}


def wandb_files(accelerator, folder, told):
    """Likewise: numbers and steps as wandb was told them, as offline they are in a format of its own; sizes from the files."""
    accelerator.end_training()
    (media,) = folder.glob("wandb/offline-run-*/files/media/images")
    files = list(media.rglob("*.png"))
    sizes = {file.relative_to(media).as_posix().rsplit("_", 2)[0]: Image.open(file).size[::-1] for file in files}
    calls = [(name, call.kwargs["step"]) for call in told.call_args_list for name in call.args[1]]
    shown = [(name, step, *sizes[name]) for name, step in calls if name.startswith("samples/")]
    assert len(files) == len(shown)
    return {name for name, _ in calls if not name.startswith("samples/")}, set(shown)


class Constant(Waves):
    """Fields that never change."""

    def batch(self, indices, shape):
        return {"x": torch.ones(len(indices), 2, *shape)}


@dataclass(frozen=True)
class Half(Noise):
    """A noise of the user's own."""

    domain: Torus

    def std(self, eigenvalues):
        return torch.full_like(eigenvalues, 0.5)


class TestCheckpoint:
    @pytest.mark.parametrize(
        "noise",
        [
            WhiteNoise(Box(2), (16, 16)),
            PixelNoise(Box(2, (1.0, 2.0))),
            GaussianRandomField(Torus(2), Matern(0.5, 0.1)),
            GaussianRandomField(Box(2), RBF(0.1)),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("schedule", [EDM(rho=5.0), VP()], ids=str)
    def test_round_trip_samples_the_same(self, tmp_path, noise, schedule):
        net = DFU.tiny(
            2, 2, domain=noise.domain, hidden_channels=8, spectral={"factorization": "ComplexTucker", "rank": 0.3}
        )
        denoiser = Preconditioned(
            net, FunctionSpaceSDE(noise, schedule), 0.7, normalization=Normalization([1.0, 2.0], [3.0, 0.1])
        ).eval()
        denoiser.training_shapes = ((16, 16), (24, 24))
        loaded = checkpoint.from_pretrained(checkpoint.save_pretrained(denoiser, tmp_path / "model"))
        assert loaded.sde == denoiser.sde and loaded.sigma_data == 0.7
        assert loaded.training_shapes == denoiser.training_shapes and not loaded.training
        x = denoiser.sde.prior((2, 2, 12, 12))
        torch.testing.assert_close(Heun(loaded, 3)(x), Heun(denoiser, 3)(x), rtol=0, atol=0)
        assert {p.name for p in (tmp_path / "model").iterdir()} == {"config.json", "model.safetensors"}

    def test_round_trip_of_a_spectral_preconditioner(self, tmp_path):
        domain = Box(2)
        spectrum = fit_spectrum(torch.randn(8, 2, 12, 12), domain)
        sde = FunctionSpaceSDE(WhiteNoise(domain, (12, 12)), EDM())
        denoiser = SpectralPreconditioned(DFU.tiny(2, 2, hidden_channels=8), sde, spectrum, (12, 12), cutoff=8.0).eval()
        loaded = checkpoint.from_pretrained(checkpoint.save_pretrained(denoiser, tmp_path))
        assert loaded.spectrum == spectrum
        assert (loaded.reference, loaded.cutoff) == ((12, 12), 8.0)
        x = denoiser.sde.prior((2, 2, 12, 12))
        torch.testing.assert_close(Heun(loaded, 3)(x), Heun(denoiser, 3)(x), rtol=0, atol=0)

    def test_another_model_takes_the_place_of_the_old(self, tmp_path):
        checkpoint.save_pretrained(model(), tmp_path)
        checkpoint.save_pretrained(model(num_classes=2), tmp_path)
        assert checkpoint.from_pretrained(tmp_path).backbone.num_classes == 2

    def test_a_failed_save_leaves_the_old_model_whole(self, tmp_path, monkeypatch):
        checkpoint.save_pretrained(model(), tmp_path)

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(safetensors.torch, "save_file", full)
        with pytest.raises(OSError, match="No space"):
            checkpoint.save_pretrained(model(num_classes=2), tmp_path)
        assert checkpoint.from_pretrained(tmp_path).backbone.num_classes == 0

    def test_own_classes_are_allowed_when_named(self, tmp_path):
        denoiser = Preconditioned(DFU.tiny(2, 2, domain=Torus(1)), FunctionSpaceSDE(Half(Torus(1)), EDM()))
        checkpoint.save_pretrained(denoiser, tmp_path)
        with pytest.raises(ValueError, match=r"'Half' is not allowed.*classes=\[Half\]"):
            checkpoint.from_pretrained(tmp_path)
        assert checkpoint.from_pretrained(tmp_path, classes=[Half]).sde.noise == Half(Torus(1))

    def test_what_cannot_be_described_is_an_error(self, tmp_path):
        noise = GaussianRandomField(Torus(1), lambda e, d: 1 / (1 + e))
        with pytest.raises(ValueError, match="dataclass"):
            checkpoint.save_pretrained(
                Preconditioned(DFU.tiny(2, 2, domain=Torus(1)), FunctionSpaceSDE(noise, EDM())), tmp_path
            )
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda p: (p / "config.json").unlink(), "found"),
            (lambda p: (p / "model.safetensors").unlink(), "found"),
            (lambda p: (p / "config.json").write_text("{"), "not valid JSON"),
            (lambda p: (p / "config.json").write_text("[]"), "format 2"),
            (lambda p: edit(p, lambda c: c["model"].update({"class": "os.system"})), "os.system"),
            (lambda p: edit(p, lambda c: c["model"].update({"extra": 1})), "does not take"),
            (lambda p: edit(p, lambda c: c.update({"model": {"class": "EDM"}})), "expected a Denoiser"),
            (lambda p: edit(p, lambda c: c["model"]["backbone"].update({"hidden_channels": 16})), "does not fit"),
            (lambda p: tensors(p, lambda t: t.popitem()), "missing"),
            (lambda p: tensors(p, lambda t: t.update(new=torch.ones(1))), "left over new"),
            (lambda p: (p / "model.safetensors").write_bytes(b"\x80\x04garbage"), "not a readable safetensors"),
            (
                lambda p: (p / "model.safetensors").write_bytes((p / "model.safetensors").read_bytes()[:-50]),
                "not a readable",
            ),
        ],
    )
    def test_broken_models(self, tmp_path, spoil, message):
        checkpoint.save_pretrained(model(), tmp_path)
        spoil(tmp_path)
        with pytest.raises(ValueError, match=message):
            checkpoint.from_pretrained(tmp_path)

    def test_no_such_folder(self, tmp_path):
        with pytest.raises(ValueError, match="expected a folder"):
            checkpoint.from_pretrained(tmp_path / "missing")

    def test_interrupted_writing_leaves_the_old_file(self, tmp_path):
        checkpoint.save_pretrained(model(), tmp_path)
        before = (tmp_path / "model.safetensors").read_bytes()

        def fail(new):
            new.write_bytes(b"half")
            raise OSError("disk full")

        with pytest.raises(OSError, match="disk full"):
            checkpoint.replace_file(tmp_path / "model.safetensors", fail)
        assert (tmp_path / "model.safetensors").read_bytes() == before
        assert len(list(tmp_path.iterdir())) == 2


def edit(path, change):
    config = json.loads((path / "config.json").read_text())
    change(config)
    (path / "config.json").write_text(json.dumps(config))


def tensors(path, change):
    contents = safetensors.torch.load_file(path / "model.safetensors")
    change(contents)
    safetensors.torch.save_file(contents, path / "model.safetensors")


def test_normalization_leaves_missing_values_out():
    class Gaps(Waves):
        def batch(self, indices, shape):
            x, mask = super().batch(indices, shape)["x"], torch.ones(len(indices), 1, *shape)
            mask[..., ::2] = 0
            return {"x": torch.where(mask > 0, x, torch.nan), "mask": mask}

    gaps, whole = (
        measure_normalization(MultiResolution(fields, Torus(1), [16], batch_size=64), batches=1)
        for fields in (Gaps(), Waves())
    )
    assert torch.allclose(gaps.mean, whole.mean, atol=0.5)
    assert torch.allclose(gaps.std, whole.std, rtol=0.15)
