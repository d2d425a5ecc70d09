"""Training: in place, resumed to the bit, heard by trackers, and written down in a loop of one's own."""

from __future__ import annotations

import inspect
import math
import os
import signal
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from accelerate.tracking import GeneralTracker
from parts import quick
from PIL import Image
from torch._dynamo.testing import CompileCounter
from torch.utils.data import DataLoader
from waves import FAST, QUIET, SMALLEST, UNITS, Waves, data, model

from fnodiff import DFU, EDM, RBF, Box, EDMScaling, Heun, Model, MultiResolution, Torus, WhiteNoise, fit, sample
from fnodiff.data import ArrayFields
from fnodiff.sde import DenoisingLoss, FunctionSpaceSDE, GaussianRandomField, measure_normalization
from fnodiff.train import STATE, Adam, Execution, Logging, MovingAverage, Preview
from fnodiff.train.bar import Bar


def told(callback, **options):
    """Quiet, but for a callback."""
    return Logging(progress=False, callback=callback, **options)


def weights(module):
    return [p.detach().clone() for p in module.parameters()]


class TestFit:
    def test_it_learns_and_leaves_the_averaged_weights(self):
        torch.manual_seed(0)
        trained, losses, raw = model(), [], []

        def callback(step, shape, value):
            losses.append((shape, value))
            raw[:] = weights(trained) if step == 90 else []

        assert fit(trained, data(), 90, optimizer=Adam(lr=3e-3, rampup=10), logging=told(callback)) is trained
        first, last = (torch.tensor([v for _, v in part]).mean() for part in (losses[:20], losses[-40:]))
        assert float(last) < 0.85 * float(first)
        assert {shape for shape, _ in losses} == {(8,), (12,), (16,)}
        assert not trained.training and trained.training_shapes == ((8,), (12,), (16,))
        difference = [float((a - b).norm() / b.norm()) for a, b in zip(weights(trained), raw, strict=True)]
        assert 0 < max(difference) < 1

    def test_the_average_follows_its_half_life(self):
        trained, history = model(), []
        expected = weights(trained)
        callback = told(lambda *_: history.append(weights(trained)))
        fit(trained, data(), 3, optimizer=Adam(rampup=10, ema_halflife=4.0), logging=callback)
        # Half-lives of a twentieth of the samples seen, but at least 1 and at most 4 samples; 4 samples per step.
        decays = [0.5 ** (4 / min(4.0, max(1.0, seen / 20))) for seen in (4, 8, 12)]
        for decay, now in zip(decays, history, strict=True):
            expected = [decay * e + (1 - decay) * n for e, n in zip(expected, now, strict=True)]
        torch.testing.assert_close(weights(trained), expected)
        assert not torch.equal(expected[0], history[-1][0])

    def test_modes_that_no_grid_holds_are_refused(self):
        with pytest.raises(ValueError, match="would learn nothing"):
            fit(model(n_modes=(32,)), data(shapes=[8]), 1)

    @pytest.mark.parametrize(
        ("options", "trained_on"),
        [({"spectral_levels": 0}, ()), ({}, ((32,),))],
        ids=["no spectral branches", "trained elsewhere"],
    )
    def test_modes_that_no_grid_holds_matter_to_new_spectral_weights_alone(self, tmp_path, options, trained_on):
        trained = model(n_modes=(32,), **options)
        trained.training_shapes, before = trained_on, weights(trained)
        fit(trained, data(shapes=[8]), 1, folder=tmp_path, logging=QUIET)
        assert any(not torch.equal(a, b) for a, b in zip(before, trained.parameters(), strict=True))
        again = Model.from_pretrained(tmp_path)
        assert again.training_shapes == ((8,),)
        fit(again, data(shapes=[8]), 2, folder=tmp_path, resume=True, logging=QUIET)

    @pytest.mark.parametrize("interruption", ["steps", "signal"])
    def test_resuming_continues_to_the_bit(self, tmp_path, interruption):
        field, options = (True, {"condition_channels": 1}) if interruption == "steps" else (False, {})
        whole_state, part_state = tmp_path / "whole", tmp_path / "part"

        def run(steps, folder, callback=None, **more):
            return fit(
                model(**options),
                data(field=field),
                steps,
                folder=folder,
                optimizer=FAST,
                logging=told(callback),
                **more,
            )

        torch.manual_seed(3)
        whole = run(12, whole_state)
        torch.manual_seed(3)
        if interruption == "steps":
            run(5, part_state)
        else:
            with pytest.raises(KeyboardInterrupt, match="resume from"):
                run(12, part_state, lambda step, *_: os.kill(os.getpid(), signal.SIGINT) if step == 5 else None)
        torch.manual_seed(99)  # whatever happened in between
        part = run(12, part_state, resume=True)
        assert_same(part.state_dict(), whole.state_dict())
        states = [torch.load(f / STATE, weights_only=True) for f in (whole_state, part_state)]
        assert states[0]["step"] == states[1]["step"] == 12
        assert_same(states[1]["weights"], states[0]["weights"])
        assert_same(Model.from_pretrained(part_state).state_dict(), whole.state_dict())

    def test_auto_begins_and_then_goes_on(self, tmp_path):
        steps = []
        options = {"folder": tmp_path, "resume": "auto", "logging": told(lambda step, *_: steps.append(step))}
        fit(model(), data(), 2, **options)
        fit(model(), data(), 4, **options)
        assert steps == [1, 2, 3, 4]

    def test_a_run_is_not_written_over(self, tmp_path):
        fit(model(), data(), 2, folder=tmp_path, logging=QUIET)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(ValueError, match="which holds one; pass resume=True"):
            fit(model(), data(), 4, folder=tmp_path, logging=QUIET)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_a_run_that_is_over_comes_back_as_it_was(self, tmp_path):
        whole = fit(model(), data(), 3, folder=tmp_path, logging=QUIET)
        again = fit(model(), data(), 3, folder=tmp_path, resume=True, logging=QUIET)
        assert_same(again.state_dict(), whole.state_dict())

    @pytest.mark.parametrize(
        ("decay", "rate"),
        [
            (False, 1e-3),
            (True, 1e-3 * 0.5 * (1 + math.cos(7 * math.pi / 8))),
            (0.25, 1e-3 * 0.5 * (1 + math.cos(math.pi / 2))),  # the second of its two last steps
        ],
        ids=["flat", "decay", "its last quarter"],
    )
    def test_decay_lets_the_learning_rate_fall_to_zero(self, tmp_path, decay, rate):
        fit(model(), data(), 8, optimizer=Adam(lr=1e-3, rampup=1, decay=decay), folder=tmp_path, logging=QUIET)
        state = torch.load(tmp_path / STATE, weights_only=True)
        assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(rate)

    def test_a_loss_that_is_not_finite_names_step_and_grid(self, tmp_path):
        bad = MultiResolution(Waves(bad=data().indices(3)[1]), Torus(1), [8, 12, 16], batch_size=4)
        with pytest.raises(FloatingPointError, match=rf"nan at step 3, grid \({data().shape(3)[0]},\)"):
            fit(model(), bad, 10, folder=tmp_path, logging=QUIET, execution=Execution(save_every=1))
        assert torch.load(tmp_path / STATE, weights_only=True)["step"] == 3

    def test_minutes_stop_it(self):
        steps = []
        fit(model(), data(), minutes=0.01, logging=told(lambda step, *_: steps.append(step)))
        assert 1 <= len(steps) < 2000

    def test_a_compiled_network_trains_alike(self):
        torch._dynamo.reset()
        counter, (plain, compiled) = CompileCounter(), (blurred(), blurred())
        compiled.network.compile(dynamic=False, backend=counter)
        fit(plain, data(), 4, logging=QUIET, execution=Execution(seed=0))
        fit(compiled, data(), 4, logging=QUIET, execution=Execution(seed=0))
        assert counter.frame_count > 0
        torch.testing.assert_close(weights(compiled), weights(plain), rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda p: fit(model(), data()), "steps or minutes"),
            (lambda p: fit(model(), data(), 1, loss=DenoisingLoss(model())), "another"),
            (lambda p: fit(model(), data(), 3, folder=p, resume=True), STATE),
            (lambda p: fit(model(), data(), 3, resume=True), "with a folder="),
            (lambda p: fit(model(), data(), 3, folder=p, resume="yes"), "resume as True or False or 'auto'"),
            (lambda p: resumed(p, model(num_classes=2), data()), "resume its own model"),
            (lambda p: fit(model(), data(), 1, logging=told(None, preview=Preview([(8, 8)]))), "a tracker that shows"),
            (lambda p: fit(model(), data(), 1, execution=Execution(shard=True)), "several processes"),
            (lambda p: Execution(save_every=0), "save_every >= 1"),
            (lambda p: Execution(seed=-1), "seed >= 0"),
            (lambda p: Adam(lr=0.0), "lr > 0"),
            (lambda p: Adam(betas=(0.9, 1.0)), r"betas in \[0, 1\)"),
            (lambda p: Preview([(8,)]), r"\(height, width\)"),
            (lambda p: Preview([]), r"\(height, width\)"),
            (lambda p: Preview([(8, 8)], seeds=[]), "0 seeds"),
            (lambda p: Preview([(8, 8)], every=0), "every >= 1"),
        ],
    )
    def test_bad_input(self, tmp_path, call, message):
        with pytest.raises(ValueError, match=message):
            call(tmp_path)


class Blur(torch.nn.Module):
    """A network of one convolution."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular")

    def forward(self, x, noise_level):
        return self.conv(x) + noise_level[:, None, None]


def blurred():
    torch.manual_seed(1)
    sde = FunctionSpaceSDE(WhiteNoise(Torus(1), (16,)), EDM())
    return Model(Blur(), sde, EDMScaling(), normalization=UNITS, channels=2)


def resumed(folder, other, batches):
    """Go on from a run with another model, or other data."""
    fit(model(), data(), 2, folder=folder, logging=QUIET)
    return fit(other, batches, 3, folder=folder, resume=True, logging=QUIET)


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert [key for key, value in theirs.items() if not torch.equal(ours[key], value)] == []


class Measured(DenoisingLoss):
    """A loss beside that of a linear estimate which is given."""

    best = 0.0

    def linear(self, shape):
        return self.best


class TestNote:
    """What is said of a run whose loss is no better than the best linear estimate's."""

    NOTE = "that of the best linear estimate: "

    def test_of_an_untrained_model(self, capsys):
        batches = data()
        fit(Model.for_data(batches, partial(DFU.tiny, **SMALLEST)), batches, 3)
        assert self.NOTE in capsys.readouterr().err

    def test_not_where_nothing_is_shown(self, capsys):
        batches = data()
        fit(Model.for_data(batches, partial(DFU.tiny, **SMALLEST)), batches, 3, logging=QUIET)
        assert capsys.readouterr().err == ""

    WORSE, ALIKE = (
        "times " + NOTE + "not even the data's spectrum is learnt",
        "no better than " + NOTE + "beyond the data's",
    )

    @pytest.mark.parametrize(("best", "said"), [(0.01, WORSE), (100.0, None), (None, None)])
    def test_where_the_loss_is_above_the_estimates(self, capsys, best, said):
        trained = model()
        loss = Measured(trained)
        loss.best = best
        fit(trained, data(), 3, loss=loss)
        err = capsys.readouterr().err
        assert (self.NOTE in err) == (said is not None) and (said or "") in err

    @pytest.mark.parametrize(("value", "said"), [(1.25, WORSE), (1.1, ALIKE), (0.97, ALIKE), (0.9, "")])
    def test_how_much_above_it(self, capsys, value, said):
        loss = Measured(model())
        loss.best = 1.0
        with Bar(loss, None, 0, math.inf, shown=True) as bar:
            bar.note((16, 16), value)
        err = capsys.readouterr().err
        assert (self.NOTE in err) == bool(said) and said in err


class TestTrackers:
    def test_they_get_each_grids_loss(self, accelerators):
        tracker, losses = Kept(), {}
        accelerator = accelerators(log_with=tracker)
        accelerator.init_trackers("run")
        callback = told(lambda step, shape, v: losses.setdefault(shape, []).append(v))
        fit(model(), data(), 25, optimizer=FAST, logging=callback, execution=Execution(accelerator=accelerator))
        assert [step for step, _ in tracker.heard] == [10, 20, 25]
        last = tracker.heard[-1][1]
        assert set(last) == {"loss/8", "loss/12", "loss/16", "lr"} and last["lr"] == 1e-3
        assert all(min(seen) <= last[f"loss/{n}"] <= max(seen) for (n,), seen in losses.items())

    @pytest.mark.parametrize("channels", [2, 3])
    def test_previews_show_the_same_seeds_and_change_nothing(self, accelerators, channels):
        tracker = Album()
        accelerator = accelerators(log_with=tracker)
        accelerator.init_trackers("run")

        def trained(**options):
            batches = MultiResolution(Flat(channels), Torus(2), [8, 12], batch_size=4)
            execution = Execution(accelerator=accelerator)
            return fit(flat(channels), batches, 5, logging=told(None, **options), execution=execution)

        preview = Preview([(8, 8), (16, 12)], seeds=[3, 4, 5], every=2, solver=Heun(3))
        shown = trained(preview=preview)
        assert [step for step, _ in tracker.shown] == [2, 4, 5]
        rows = 1 if channels == 3 else channels
        for n, m in ((8, 8), (16, 12)):
            pictures = [pictures[f"samples/{n}x{m}"] for _, pictures in tracker.shown]
            assert all(p.shape == (1, rows * n, 3 * m, 3) and p.dtype == np.uint8 for p in pictures)
            assert (pictures[0] != pictures[1]).any(), "the model has moved on"
            x = sample(shown, (n, m), [3, 4, 5], solver=Heun(3))
            if channels == 3:
                expected = ((x.clamp(-1, 1) + 1) * 127.5).round()
                found = torch.from_numpy(pictures[-1][0]).unflatten(1, (3, m)).permute(1, 3, 0, 2)
                assert float((found - expected).abs().max()) <= 1
            else:
                assert pictures[-1][0, :n].reshape(-1, 3).sum(1).argmax() == int(x[:, 0].permute(1, 0, 2).argmax())
        assert_same(shown.state_dict(), trained().state_dict())

    @pytest.mark.parametrize("kind", quick(("tensorboard", "wandb"), "tensorboard"))
    def test_files_hold_losses_and_pictures_of_every_grid(self, tmp_path, accelerators, monkeypatch, kind):
        pytest.importorskip(kind)
        monkeypatch.setenv("WANDB_SILENT", "true")
        accelerator = accelerators(log_with=kind, project_dir=tmp_path)
        options = {"wandb": {"mode": "offline", "dir": str(tmp_path)}} if kind == "wandb" else {}
        accelerator.init_trackers("run", init_kwargs=options)
        preview = Preview([(8, 8), (8, 12)], seeds=range(2), every=2, solver=Heun(2))
        batches = MultiResolution(Flat(3), Torus(2), [8, 12], batch_size=4)
        run = accelerator.get_tracker(kind, unwrap=True)
        name = {"tensorboard": "add_scalar", "wandb": "log"}[kind]
        real = getattr(type(run), name)
        with mock.patch.object(type(run), name, autospec=True, side_effect=real) as heard:
            execution = Execution(accelerator=accelerator)
            fit(flat(3), batches, 4, logging=told(None, preview=preview), execution=execution)
        read = {"tensorboard": tensorboard_files, "wandb": wandb_files}[kind]
        losses, pictures = read(accelerator, tmp_path, heard)
        assert losses == {"loss/8x8", "loss/12x12", "lr"}
        assert pictures == {("samples/8x8", step, 8, 16) for step in (2, 4)} | {
            ("samples/8x12", step, 8, 24) for step in (2, 4)
        }


class Kept(GeneralTracker):
    """A tracker that keeps what it hears."""

    name, requires_logging_directory, tracker = "kept", False, None

    def __init__(self):
        super().__init__()
        self.heard = []

    def store_init_configuration(self, values):
        pass

    def log(self, values, step, **_):
        self.heard.append((step, values))


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


def flat(channels):
    """A model of fields in two dimensions, the same at each call."""
    torch.manual_seed(1)
    net = DFU.tiny(channels, channels, domain=Torus(2), **SMALLEST)
    return Model(net, FunctionSpaceSDE(WhiteNoise(Torus(2), (16, 16)), EDM()), EDMScaling())


def tensorboard_files(accelerator, folder, heard):
    """The names of the numbers, and each picture's name, step, height and width."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accelerator.end_training()
    events = EventAccumulator(str(folder / "run")).Reload()
    tags = events.Tags()
    return set(tags["scalars"]), {(n, i.step, i.height, i.width) for n in tags["images"] for i in events.Images(n)}


def wandb_files(accelerator, folder, heard):
    """Likewise: numbers and steps as wandb heard them, as offline they are in a format of its own; sizes from the files."""
    accelerator.end_training()
    (media,) = folder.glob("wandb/offline-run-*/files/media/images")
    files = list(media.rglob("*.png"))
    sizes = {file.relative_to(media).as_posix().rsplit("_", 2)[0]: Image.open(file).size[::-1] for file in files}
    calls = [(name, call.kwargs["step"]) for call in heard.call_args_list for name in call.args[1]]
    shown = [(name, step, *sizes[name]) for name, step in calls if name.startswith("samples/")]
    assert len(files) == len(shown)
    return {name for name, _ in calls if not name.startswith("samples/")}, set(shown)


def loop(data, folder):
    """A training loop of one's own."""
    model = Model.for_data(data, partial(DFU.tiny, **SMALLEST))
    loss, average = DenoisingLoss(model), MovingAverage(model)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    for batch in DataLoader(data, batch_size=None, sampler=data.steps(0, 20)):
        adam.zero_grad()
        loss(**batch).mean().backward()
        adam.step()
        average.update(model, decay=0.9)
    average.model().save_pretrained(folder)
    return average


def test_a_loop_of_ones_own_is_short_and_its_model_is_whole(tmp_path):
    assert len(inspect.getsource(loop).splitlines()) <= 15
    x = torch.randn(16, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    average = loop(MultiResolution(ArrayFields(x, domain=Box(2)), Box(2), [8, 16], batch_size=4), tmp_path)
    loaded = Model.from_pretrained(tmp_path)
    assert loaded.training_shapes == ((8, 8), (16, 16))
    assert_same(loaded.state_dict(), average.model().state_dict())
    assert sample(loaded, (24, 24), [0], solver=Heun(2)).shape == (1, 1, 24, 24)


class Scalar(torch.nn.Module):
    """One weight, and a buffer."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(1.0))
        self.register_buffer("count", torch.zeros(()))


def test_a_moving_average_weighs_by_its_decay_and_copies_buffers():
    module = Scalar()
    average = MovingAverage(module)
    module.weight.data.fill_(5.0)
    module.count.fill_(7.0)
    average.update(module, decay=0.75)
    averaged = average.model()
    assert (float(averaged.weight), float(averaged.count)) == (2.0, 7.0)
    assert not averaged.training and not averaged.weight.requires_grad and float(module.weight.detach()) == 5.0


class Constant(Waves):
    """Fields that never change."""

    def batch(self, indices, shape):
        return {"x": torch.ones(len(indices), 2, *shape)}


class Gaps(Waves):
    """Waves of which every other point is missing."""

    def batch(self, indices, shape):
        x, mask = super().batch(indices, shape)["x"], torch.ones(len(indices), 1, *shape)
        mask[..., ::2] = 0
        return {"x": torch.where(mask > 0, x, torch.nan), "mask": mask}


class TestNormalization:
    def test_is_measured_by_channel(self):
        measured = measure_normalization(data(), std=0.5)
        assert measured.mean == pytest.approx((5.0, 0.0), abs=0.8)
        assert measured.std == pytest.approx((4.0, 0.2), rel=0.15)
        x = torch.cat([data()[step]["x"].transpose(0, 1).flatten(1) for step in range(16)], dim=1)
        assert float(measured(x[None])[0, 0].std()) == pytest.approx(0.5, rel=0.1)

    def test_leaves_missing_values_out(self):
        gaps, whole = (
            measure_normalization(MultiResolution(fields, Torus(1), [16], batch_size=64), batches=1)
            for fields in (Gaps(), Waves())
        )
        assert gaps.mean == pytest.approx(whole.mean, abs=0.5)
        assert gaps.std == pytest.approx(whole.std, rel=0.15)

    def test_a_constant_channel_is_refused(self):
        with pytest.raises(ValueError, match="vary"):
            measure_normalization(MultiResolution(Constant(), Torus(1), [8]))
