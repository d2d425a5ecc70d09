"""The command `fnodiff`: what its arguments mean, what it writes, and what it says when they are wrong."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch.nn.functional import interpolate

import fnodiff
from fnodiff import (
    DFU,
    EDM,
    Box,
    Cascade,
    DPMSolver,
    EDMScaling,
    FunctionSpaceSDE,
    GaussianRandomField,
    Heun,
    Matern,
    Model,
    MultiResolution,
    PixelNoise,
    Progressive,
    Sphere,
    Torus,
    WhiteNoise,
    checkpoint,
    sample,
    sde,
    upscale,
)
from fnodiff.cli import main
from fnodiff.cli.app import COMMANDS, application, settings
from fnodiff.cli.data import ArrayOptions, true_fields
from fnodiff.cli.evaluate import usual_sizes
from fnodiff.cli.folder import SampleFolder, read_picture, write_picture
from fnodiff.cli.report import beyond
from fnodiff.cli.samples import Samples
from fnodiff.cli.words import seeds_of, sizes_of
from fnodiff.data import ArrayFields, HDF5Fields, ImageFolder, write_fields
from fnodiff.report import distances
from fnodiff.train import STATE, Adam, Execution, MovingAverage

CONFIGS = Path(__file__).parent.parent / "examples" / "configs"
SMALL = {"num_blocks": 0, "zero_init": False}
TRAIN = """
[train]
shapes = [16, 24]
steps = 3
batch = 4
network = "tiny"
hidden-channels = 8
num-blocks = 0
save_every = 2
quiet = true

[sample]
steps = 3
quiet = true
device = "cpu"
"""


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def drawn(command: str, *arguments: object, steps: int = 3) -> int:
    return run(command, *arguments, "--steps", steps, "--device", "cpu", "--quiet")


def parsed(*tokens: object) -> dict[str, object]:
    """What a command's function is called with."""
    tokens = [str(token) for token in tokens]
    bound = application(settings(tokens, tokens[0])).parse_args(tokens, exit_on_error=False, print_error=False)[1]
    bound.apply_defaults()
    return bound.arguments


def state(folder: Path) -> dict[str, object]:
    return torch.load(folder / STATE, weights_only=True)


def same_weights(first: Path, second: Path) -> bool:
    a, b = (Model.from_pretrained(folder).state_dict() for folder in (first, second))
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def wavy(count: int, shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    field = GaussianRandomField(Box(2), Matern(1.0, 0.3))
    return 0.3 * field.sample((count, 3, *shape), generator=torch.Generator().manual_seed(seed)).clamp(-3, 3)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """Pictures, a file of options, and a model that was trained on them by the command."""
    folder = tmp_path_factory.mktemp("room")
    (folder / "pictures").mkdir()
    for i, x in enumerate(wavy(40, (40, 36))):
        write_picture(folder / "pictures" / f"{i:02}.png", x)
    (folder / "small.toml").write_text(TRAIN)
    options = ["--config", folder / "small.toml", "--out", folder / "run", "--reproducible"]
    assert run("train", folder / "pictures", *options) == 0
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of untrained models: of pictures, of fields, with classes, with a conditioning field."""
    folder = tmp_path_factory.mktemp("models")
    for name, domain, channels, more in (
        ("images", Box(2), 3, {}),
        ("fields", Torus(2), 2, {}),
        ("classes", Box(2), 3, {"num_classes": 2}),
        ("conditioned", Box(2), 3, {"condition_channels": 1}),
    ):
        torch.manual_seed(0)
        net = DFU.tiny(channels, channels, domain=domain, **SMALL, **more)
        process = FunctionSpaceSDE(WhiteNoise(domain, (16, 16)), EDM())
        Model(net, process, EDMScaling(), cell_averages=channels == 3).save_pretrained(folder / name)
    return folder


class TestTrain:
    def test_the_model_is_the_one_that_the_options_say(self, room):
        model = Model.from_pretrained(room / "run")
        assert model.training_shapes == ((16, 16), (24, 24)) and model.cell_averages and model.channels == 3
        assert model.network.config["hidden_channels"] == 8 and model.network.config["num_blocks"] == 0
        assert model.sde.noise == WhiteNoise(Box(2), (24, 24)) and model.scaling == EDMScaling(
            0.5, linear_estimate=True
        )
        assert state(room / "run")["step"] == 3 and state(room / "run")["data"]["batch_size"] == 4

    def test_a_flag_comes_before_the_file(self, room, tmp_path):
        options = ["--config", room / "small.toml", "--out", tmp_path / "run", "--steps", 1, "--batch", 2, "--no-quiet"]
        assert run("train", room / "pictures", *options, "--shapes", 16) == 0
        assert state(tmp_path / "run")["step"] == 1 and state(tmp_path / "run")["data"]["batch_size"] == 2
        written = tomllib.loads((tmp_path / "run" / "train.toml").read_text())["train"]
        expected = {"shapes": ["16"], "steps": 1, "batch": 2, "hidden-channels": 8, "save-every": 2}
        assert {name: written[name] for name in expected} == expected

    def test_a_run_is_repeated_from_what_it_wrote(self, room, tmp_path):
        assert run("train", "--config", room / "run" / "train.toml", "--out", tmp_path / "again", "--quiet") == 0
        assert same_weights(room / "run", tmp_path / "again")

    def test_a_run_goes_on_to_the_bit(self, room, tmp_path):
        for steps in (2, 3):
            options = ["--config", room / "small.toml", "--reproducible", "--steps", steps, "--out", tmp_path / "run"]
            assert run("train", room / "pictures", *options) == 0 and state(tmp_path / "run")["step"] == steps
        assert same_weights(room / "run", tmp_path / "run")

    def test_ctrl_c_leaves_a_checkpoint_and_says_where(self, room, tmp_path, monkeypatch, capsys):
        update, calls = MovingAverage.update, []

        def stopped(self, *arguments):
            calls.append(1)
            if len(calls) == 3:
                signal.raise_signal(signal.SIGINT)
            return update(self, *arguments)

        monkeypatch.setattr(MovingAverage, "update", stopped)
        options = ["--config", room / "small.toml", "--steps", 9, "--out", tmp_path / "run"]
        assert run("train", room / "pictures", *options) == 130
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said == f"fnodiff train: stopped after step 3; resume from {tmp_path / 'run'}"
        assert state(tmp_path / "run")["step"] == 3

    def test_progress_says_data_model_loss_and_the_time_that_is_left(self, room, tmp_path, capsys):
        options = ["--config", room / "small.toml", "--minutes", 10, "--no-quiet", "--out", tmp_path / "run"]
        assert run("train", room / "pictures", *options) == 0
        said = capsys.readouterr()
        assert re.search(r"data: 40 samples of .*pictures on Box.*, at 16x16, 24x24, 4 a step", said.out)
        assert re.search(r"model: 0\.\d million parameters, WhiteNoise", said.out)
        assert re.search(r"24x24=\d\.\d+ \(linear 0\.\d+\), left=0\d:\d\d", said.err)
        assert f"fnodiff sample {tmp_path / 'run'} --size 24x24 --out samples" in said.out

    def test_arrays_with_labels_on_a_torus(self, tmp_path):
        file, small = tmp_path / "arrays.npz", ["--network", "tiny", "--num-blocks", 0, "--hidden-channels", 8]
        np.savez(file, u=np.random.default_rng(0).normal(size=(12, 2, 16, 16)), kind=np.arange(12) % 3)
        options = ["--x", "u", "--label-name", "kind", "--domain", "torus", "--shapes", 8, 16, "--batch", 4, "--quiet"]
        options += ["--steps", 1, *small]
        assert run("train", file, *options, "--out", tmp_path / "a", "--drop-condition", 0.1) == 0
        model = Model.from_pretrained(tmp_path / "a")
        assert model.sde.domain == Torus(2) and model.channels == 2 and model.network.num_classes == 3
        assert run("train", file, *options, "--out", tmp_path / "b", "--no-labels", "--levels", "moving") == 0
        model = Model.from_pretrained(tmp_path / "b")
        assert model.network.num_classes == 0 and model.network.fixed is None

    @pytest.mark.parametrize(
        ("grid", "options", "domain"),
        [
            ("cell averages", [], Box(2)),
            ("points", ["--domain", "torus", "--lengths", 1, 2], Torus(2, (1.0, 2.0))),
            ("points", ["--domain", "sphere-equiangular"], Sphere("equiangular")),
        ],
    )
    def test_the_domain_is_the_files_or_the_one_that_is_named(self, tmp_path, grid, options, domain):
        source, about = ArrayFields(torch.randn(4, 1, 8, 16), domain=Torus(2)), {"source": "here", "licence": "none"}
        write_fields(
            tmp_path / "f.h5", source, [(8, 16)], attributes={**about, "grid": grid}, progress=False, dtype="float32"
        )
        given = parsed("train", tmp_path / "f.h5", *options)
        assert given["domain"].make(given["data"], given["arrays"]) == domain

    def test_defaults_are_the_librarys(self):
        from fnodiff.cli.train import GridOptions
        from fnodiff.cli.training import OptimizerOptions, RunOptions

        assert OptimizerOptions().make() == Adam()
        assert RunOptions().save_every == Execution().save_every and RunOptions().workers == Execution().workers
        source = ArrayFields(torch.randn(4, 1, 8), domain=Box(1))
        assert GridOptions().batch == MultiResolution(source, Box(1), [8]).batch_size


@pytest.mark.parametrize(
    ("options", "noise", "schedule", "scaling"),
    [
        ([], None, None, EDMScaling(0.5, True)),
        (["--noise", "white"], WhiteNoise(Box(2), (16, 16)), None, EDMScaling(0.5, True)),
        (["--noise", "pixel", "--no-linear-estimate"], PixelNoise(Box(2)), None, EDMScaling(0.5, False)),
        (["--noise", "matern"], GaussianRandomField(Box(2), Matern(0.5, 0.2)), None, EDMScaling(0.5, True)),
        (
            ["--noise", "matern", "--smoothness", 0.7, "--length-scale", 0.1, "--sigma-data", 1],
            GaussianRandomField(Box(2), Matern(0.7, 0.1)),
            None,
            EDMScaling(1.0, True),
        ),
        (["--noise", "rbf"], GaussianRandomField(Box(2), sde.RBF(0.2)), None, EDMScaling(0.5, True)),
        (["--sigma-max", 10], None, EDM(sigma_max=10.0), EDMScaling(0.5, True)),
        (["--schedule", "cosine", "--sigma-min", 0.1], None, sde.Cosine(sigma_min=0.1), EDMScaling(0.5, True)),
        (["--schedule", "sub-vp"], None, sde.SubVP(), EDMScaling(0.5, True)),
        (["--scaling", "spectral", "--cutoff", 8], None, None, sde.SpectralScaling((16, 16), 8.0)),
        (["--scaling", "spectral", "--linear-estimate"], None, None, sde.SpectralScaling((16, 16), 16.0, True)),
    ],
)
def test_the_options_of_a_model(options, noise, schedule, scaling):
    given = parsed("train", "pictures", *options)
    assert given["noise"].make_noise(Box(2), (16, 16)) == noise
    assert given["noise"].make_schedule() == schedule and given["scaling"].make((16, 16)) == scaling


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {"hidden_channels": 16, "reference": (16, 16), "n_modes": (8, 8), "attention_levels": ()}),
        (["--n-modes", 6], {"n_modes": (6, 6)}),
        (["--n-modes", 6, 4, "--channel-mult", 1, 2, 1], {"n_modes": (6, 4), "channel_mult": (1, 2, 1)}),
        (["--levels", "moving", "--dropout", 0.5], {"reference": None, "dropout": 0.5}),
        (["--local", "none"], {"local": None}),
        (["--local", "operator", "--attention-levels", 0, 1], {"local": "operator", "attention_levels": (0, 1)}),
        (
            ["--rank", 0.5, "--num-blocks", 2],
            {"spectral": {"factorization": "ComplexTucker", "rank": 0.5}, "num_blocks": 2},
        ),
        (["--spectral-levels", 0, "--positional-modes", 0], {"spectral_levels": 0, "positional_modes": 0}),
    ],
)
def test_the_options_of_a_network(options, expected):
    network = parsed("train", "pictures", "--network", "tiny", *options)["network"].make()
    made = network(6, 3, domain=Box(2), reference=(16, 16), num_classes=0, condition_channels=0)
    assert {name: made.config[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("options", "solver", "plan"),
    [
        ([], DPMSolver(12), None),
        (["--steps", 5, "--eta", 0.5], DPMSolver(5, eta=0.5), None),
        (["--solver", "heun", "--churn", 5], Heun(18, churn=5.0), None),
        (["--solver", "ddim", "--spacing", "log-snr"], sde.DDIM(50, sde.EvenLogSNR()), None),
        (["--solver", "euler-maruyama"], sde.EulerMaruyama(200), None),
        (
            ["--solver", "langevin", "--snr", 0.2, "--corrections", 3],
            sde.AnnealedLangevin(100, corrections=3, snr=0.2),
            None,
        ),
        (["--solver", "predictor-corrector"], sde.PredictorCorrector(100), None),
        (["--spacing", "rho", "--rho", 3], DPMSolver(12, sde.EvenRho(3.0)), None),
        (["--plan", "direct"], DPMSolver(12), sde.Direct()),
        (["--plan", "progressive", "--grids", 8, "12x8"], DPMSolver(12), Progressive([(8, 8), (12, 8)])),
        (["--plan", "cascade", "--grids", 16, "--keep", 0.5], DPMSolver(12), Cascade([(16, 16)], keep=0.5)),
        (["--plan", "cascade", "--no-through", "--budget", 2], DPMSolver(12), Cascade(through=(), budget=2.0)),
    ],
)
def test_the_options_of_sampling(options, solver, plan):
    given = parsed("sample", "model", "--size", 16, *options)
    assert given["how"].solver.make() == solver and given["how"].plan.make(Box(2)) == plan


class TestSample:
    def test_images_are_the_samplers_and_a_stopped_run_goes_on(self, models, tmp_path, capsys):
        options = ["--seeds", "0-2,7", "--out", tmp_path, "--batch", 3]
        assert drawn("sample", models / "images", "--size", 16, "24x16", *options) == 0
        files = sorted(file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.png"))
        assert files == [f"{size}/seed-{i:06d}.png" for size in ("16x16", "24x16") for i in (0, 1, 2, 7)]
        said = capsys.readouterr().out
        assert "of the values lay beyond [-1, 1] and were clipped" in said and "4 samples at 16x16, 24x16" in said
        x = sample(Model.from_pretrained(models / "images"), (24, 16), [0, 1, 2, 7], solver=DPMSolver(3))
        found = torch.stack([read_picture(tmp_path / file) for file in files[4:]])
        assert float((found - x.clamp(-1, 1)).abs().max()) <= 1.01 / 127.5
        lost, kept = tmp_path / "16x16" / "seed-000001.png", tmp_path / "16x16" / "seed-000002.png"
        before, stamp = lost.read_bytes(), kept.stat().st_mtime_ns
        lost.unlink()
        assert drawn("sample", models / "images", "--size", "16", *options) == 0
        assert lost.read_bytes() == before and kept.stat().st_mtime_ns == stamp

    def test_fields_keep_their_values_and_a_stopped_run_goes_on(self, models, tmp_path, monkeypatch, capsys):
        arguments = [
            models / "fields",
            "--size",
            16,
            "--seeds",
            "3-7",
            "--out",
            tmp_path,
            "--solver",
            "heun",
            "--batch",
            2,
        ]
        draw, calls = Samples.batch, []

        def stopped(self, indices, shape):
            calls.append([self.seeds[i] for i in indices])
            if len(calls) == 3:
                raise KeyboardInterrupt
            return draw(self, indices, shape)

        monkeypatch.setattr(Samples, "batch", stopped)
        assert drawn("sample", *arguments) == 130
        assert capsys.readouterr().err == "fnodiff sample: stopped; the same command goes on where it was\n"
        calls.extend([[]] * 3)
        assert drawn("sample", *arguments) == 0
        assert [3, 4] in calls[:3] and [3, 4] not in calls[6:] and [5, 6] in calls[6:], (
            "what is there is not drawn again"
        )
        x = sample(Model.from_pretrained(models / "fields"), 16, range(3, 8), solver=Heun(3))
        there = SampleFolder(tmp_path, "hdf5")
        torch.testing.assert_close(there.load((16, 16), range(3, 8)), x, rtol=1e-3, atol=2e-3)
        torch.testing.assert_close(there.load((16, 16), [6, 4]), x[[3, 1]], rtol=1e-3, atol=2e-3)
        fields = HDF5Fields(tmp_path / "16x16-seeds-3-7.h5")
        assert fields.attributes["seeds"] == "3,4,5,6,7" and fields.attributes["solver"] == repr(Heun(3))
        assert fields.attributes["grid"] == "points"

    def test_the_plan_is_the_librarys_unless_another_is_named(self, room, tmp_path, capsys):
        model, options = (
            Model.from_pretrained(room / "run"),
            ["--config", room / "small.toml", "--seeds", 0, "--no-quiet"],
        )
        for name, more, plan in (("a", [], None), ("b", ["--plan", "direct"], sde.Direct())):
            assert run("sample", room / "run", "--size", 32, *options, *more, "--out", tmp_path / name) == 0
            x = sample(model, 32, [0], solver=DPMSolver(3), plan=plan)[0]
            found = read_picture(tmp_path / name / "32x32" / "seed-000000.png")
            assert float((found - x.clamp(-1, 1)).abs().max()) <= 1.01 / 127.5
        said = capsys.readouterr().err
        assert (
            "24x24 (1 steps, then its modes below 18x18 held), 32x32" in said and "DPMSolver: 32x32 (2 steps)" in said
        )

    def test_progress_counts_what_was_there(self, models, tmp_path, capsys):
        command = ["sample", models / "images", "--size", 16, "--steps", 1, "--device", "cpu", "--out", tmp_path]
        assert run(*command, "--seeds", 0) == 0
        assert re.search(r"16x16: 100%.* 1/1 ", capsys.readouterr().err)
        assert run(*command, "--seeds", "0-2") == 0
        assert re.search(r"16x16:  33%.* 1/3 .*16x16: 100%.* 3/3 ", capsys.readouterr().err, re.DOTALL)

    def test_classes_and_guidance(self, models, tmp_path):
        conditions = {
            "0": [0],
            "1": [1],
            "none": [-1],
            "guided": [1, "--guidance", 3],
            "unguided": [1, "--guidance", 1],
        }
        for name, (label, *more) in conditions.items():
            options = ["--size", 16, "--seeds", 0, "--format", "hdf5", "--out", tmp_path / name]
            assert drawn("sample", models / "classes", *options, "--label", label, *more) == 0
        x = {name: SampleFolder(tmp_path / name, "hdf5").load((16, 16), [0]) for name in conditions}
        assert torch.equal(x["unguided"], x["1"])
        others = [x[name] for name in ("0", "1", "none", "guided")]
        assert min(float((a - b).abs().max()) for i, a in enumerate(others) for b in others[:i]) > 1e-3
        model = sde.ClassifierFree(Model.from_pretrained(models / "classes"), 3.0)
        torch.testing.assert_close(
            x["guided"], sample(model, 16, [0], solver=DPMSolver(3), label=1), rtol=1e-3, atol=2e-3
        )

    @pytest.mark.parametrize("more", [["--steps", 4], ["--eta", 0.5], ["--plan", "direct"], ["--format", "hdf5"]])
    def test_other_settings_want_another_folder(self, models, tmp_path, capsys, more):
        options = ["--size", 16, "--seeds", 0, "--out", tmp_path, "--quiet", "--device", "cpu"]
        assert run("sample", models / "images", *options, "--steps", 3) == 0
        assert run("sample", models / "images", *options, *(["--steps", 3] if more[0] != "--steps" else []), *more) == 2
        assert "name another --out" in capsys.readouterr().err

    def test_another_model_wants_another_folder(self, models, tmp_path, capsys):
        model = Model.from_pretrained(models / "images")
        next(model.parameters()).data.mul_(1.001)
        model.save_pretrained(tmp_path / "other")
        assert drawn("sample", models / "images", "--size", 16, "--seeds", 0, "--out", tmp_path / "out") == 0
        assert drawn("sample", tmp_path / "other", "--size", 16, "--seeds", 0, "--out", tmp_path / "out") == 2
        assert "got model" in capsys.readouterr().err

    def test_classes_of_the_users_own(self, tmp_path, capsys, monkeypatch):
        code = "from dataclasses import dataclass\nfrom fnodiff import WhiteNoise\n\n"
        code += "@dataclass(frozen=True)\nclass Half(WhiteNoise):\n    def std(self, e):\n        return 0.5 * super().std(e)\n"
        (tmp_path / "own_noise.py").write_text(code)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        from own_noise import Half

        process = FunctionSpaceSDE(Half(Box(2), (16, 16)), EDM())
        Model(DFU.tiny(3, 3, **SMALL), process, EDMScaling()).save_pretrained(tmp_path / "model")
        options = ["--size", 16, "--seeds", 0, "--out"]
        assert drawn("sample", "model", *options, "a") == 2
        assert "'Half' is not allowed" in capsys.readouterr().err
        assert drawn("sample", "model", *options, "b", "--classes-from", "own_noise.py") == 0
        assert drawn("sample", "model", *options, "c", "--classes-from", "own_noise") == 0
        files = [tmp_path / name / "16x16-seeds-0-0.h5" for name in "bc"]
        assert all(file.is_file() for file in files)


class TestUpscale:
    def test_a_picture(self, room, tmp_path, capsys):
        picture = room / "pictures" / "03.png"
        options = ["--size", 48, "--from", 16, "--seeds", "4,5", "--out", tmp_path]
        assert drawn("upscale", room / "run", picture, *options) == 0
        whole = read_picture(picture)
        low = Box(2).average(whole[None, :, 2:38], (16, 16))
        x = upscale(Model.from_pretrained(room / "run"), low, 48, [4, 5], solver=DPMSolver(3))
        for seed, one in zip((4, 5), x, strict=True):
            assert close(tmp_path / "48x48" / f"seed-{seed:06d}.png", one)
        assert close(tmp_path / "low.png", low[0])
        assert close(tmp_path / "bicubic-48x48.png", interpolate(low, size=(48, 48), mode="bicubic")[0])
        assert Image.open(tmp_path / "comparison-48x48.png").size == (4 * 48, 48)

    def test_the_crop_is_said_and_the_picture_is_not_made_smaller(self, room, tmp_path, capsys):
        options = ["--size", "48x72", "--seeds", 0, "--steps", 1, "--device", "cpu", "--out", tmp_path]
        assert run("upscale", room / "run", room / "pictures" / "00.png", *options) == 0
        assert "00.png: 40x36 pixels, cropped at the centre to 24x36\n" in capsys.readouterr().out
        assert close(tmp_path / "low.png", read_picture(room / "pictures" / "00.png")[:, 8:32])

    def test_a_field(self, models, tmp_path):
        x = GaussianRandomField(Torus(2), Matern(1.0)).sample((3, 2, 16, 16))
        about = {"source": "here", "licence": "none", "grid": "points"}
        source = ArrayFields(x, domain=Torus(2))
        write_fields(tmp_path / "f.h5", source, [(8, 8), (16, 16)], attributes=about, dtype="float32", progress=False)
        options = ["--size", 32, "--seeds", "0-1", "--index", 2, "--out", tmp_path / "out"]
        assert drawn("upscale", models / "fields", tmp_path / "f.h5", *options) == 0
        found = SampleFolder(tmp_path / "out", "hdf5").load((32, 32), [0, 1])
        expected = upscale(Model.from_pretrained(models / "fields"), x[2], 32, [0, 1], solver=DPMSolver(3))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-3)

    def test_another_picture_wants_another_folder(self, room, tmp_path, capsys):
        options = ["--size", 48, "--from", 16, "--seeds", 0, "--out", tmp_path]
        assert drawn("upscale", room / "run", room / "pictures" / "03.png", *options, steps=1) == 0
        assert drawn("upscale", room / "run", room / "pictures" / "04.png", *options, steps=1) == 2
        assert "got upscaled" in capsys.readouterr().err


def close(file: Path, x: torch.Tensor) -> bool:
    """Whether a file shows a picture, to the levels of its pixels."""
    return float((read_picture(file) - x.clamp(-1, 1)).abs().max()) <= 1.01 / 127.5


class TestEvaluate:
    def test_distances_are_a_table_a_file_and_a_curve(self, room, tmp_path, capsys):
        options = ["--data", room / "pictures", "--sizes", 16, 28, "--seeds", "0-15", "--out", tmp_path]
        assert drawn("evaluate", room / "run", *options) == 0
        said = capsys.readouterr().out
        sizes = json.loads((tmp_path / "distances.json").read_text())["sizes"]
        assert {size: list(rows) for size, rows in sizes.items()} == {
            "16x16": ["sampled", "other true"],
            "28x28": ["sampled", "upsampled", "other true"],
        }
        true = true_fields(str(room / "pictures"), ArrayOptions(), Box(2), 32, None).batch(range(32), (28, 28))["x"]
        there = SampleFolder(tmp_path, "png")
        upsampled = interpolate(there.load((24, 24), range(16)), size=(28, 28), mode="bicubic")
        kinds = {"sampled": there.load((28, 28), range(16)), "upsampled": upsampled, "other true": true[16:]}
        for kind, x in kinds.items():
            expected = distances(x, true[:16], Box(2), ((24, 24),))
            assert sizes["28x28"][kind] == pytest.approx(expected)
            assert re.search(
                rf"^28x28 +{kind} +{expected['spectrum']:.3f} +{expected['global']:.3f} ", said, re.MULTILINE
            )
        assert sizes["16x16"]["sampled"]["patches"] > 2 * sizes["16x16"]["other true"]["patches"], "it is untrained"
        assert Image.open(tmp_path / "distances.png").size[0] > 1000

    def test_the_usual_sizes_are_those_that_the_data_have(self, room):
        model, true = Model.from_pretrained(room / "run"), ImageFolder(room / "pictures")
        assert usual_sizes(model, true) == [(16, 16), (24, 24), (36, 36)], "48x48 is finer than the pictures"
        assert beyond(model) == [(24, 24), (36, 36), (48, 48)]

    def test_true_fields_are_some_at_random_and_of_the_class(self):
        fields = ArrayFields(torch.arange(40.0)[:, None].expand(40, 8), label=torch.arange(40) // 20, domain=Box(1))
        options = Given(fields)
        some = true_fields("", options, Box(1), 20, None).batch(range(20), (8,))["x"][:, 0, 0]
        assert len(some.unique()) == 20 and 5 < float((some < 20).sum()) < 15
        of_class = true_fields("", options, Box(1), 20, 1).batch(range(20), (8,))["x"][:, 0, 0]
        assert float(of_class.min()) == 20 and len(of_class.unique()) == 20
        with pytest.raises(ValueError, match="expected 21 true fields"):
            true_fields("", options, Box(1), 21, 1)


class Given:
    """Options that open one source, whatever the path."""

    def __init__(self, fields):
        self.open = lambda path, domain: fields


def test_report(room, tmp_path, capsys):
    few = ["--samples", 4, "--steps", 2, "--device", "cpu", "--quiet", "--out", tmp_path / "r.png"]
    assert run("report", room / "run", "--data", room / "pictures", "--shapes", 16, "28x30", *few) == 0
    said = capsys.readouterr().out
    assert re.search(r"^28x30 +sampled +\d+\.\d+", said, re.MULTILINE) and "high band" in said
    assert (tmp_path / "r.png").stat().st_size > 20_000


def test_finetune(room, tmp_path, capsys):
    options = ["--size", 36, "--weight", 0.9, "--steps", 2, "--batch", 2, "--device", "cpu", "--quiet"]
    assert run("finetune", room / "run", room / "pictures", *options, "--out", tmp_path / "fine") == 0
    before, after = (Model.from_pretrained(folder) for folder in (room / "run", tmp_path / "fine"))
    data = state(tmp_path / "fine")["data"]
    assert data["shapes"] == [[16, 16], [24, 24], [36, 36]] and data["weights"] == pytest.approx([0.05, 0.05, 0.9])
    assert after.training_shapes == before.training_shapes
    moved = {
        group
        for name, group in before.network.parameter_groups().items()
        if not torch.equal(before.network.state_dict()[name], after.network.state_dict()[name])
    }
    assert (1, "local") in moved and not {group for group in moved if group[0] == 0 or group == (1, "spectral")}


@pytest.mark.parametrize(("flags", "averages"), [([], True), (["--points"], False), (["--cell-averages"], True)])
def test_convert(models, tmp_path, flags, averages):
    old_format(models / "images", tmp_path / "old")
    assert run("convert", tmp_path / "old", tmp_path / "new", *flags, "--quiet") == 0
    old, new = Model.from_pretrained(models / "images"), Model.from_pretrained(tmp_path / "new")
    assert new.cell_averages is averages and new.scaling == old.scaling
    assert torch.equal(*(sample(m, 16, [0], solver=DPMSolver(2), plan=sde.Direct()) for m in (old, new)))


def old_format(model: Path, folder: Path) -> None:
    """Write a model as format 2 had it."""
    folder.mkdir()
    config = json.loads((model / "config.json").read_text())["model"]
    network = {**config["network"], "levels": "moving", "antialias": False, "recompute": False}
    old = {"class": "Preconditioned", "backbone": network, "sde": config["sde"], "sigma_data": 0.5, "spectrum": None}
    old |= {"told": "point", "normalization": config["normalization"], "field_normalization": config["normalization"]}
    (folder / "config.json").write_text(json.dumps({"format": 2, "model": old, "training_shapes": []}))
    tensors = safetensors.torch.load_file(model / "model.safetensors")
    tensors = {name.replace("network.", "backbone.", 1): value for name, value in tensors.items()}
    safetensors.torch.save_file(tensors, folder / "model.safetensors")


WRONG = {
    "no such command": (["trian"], "got 'trian'"),
    "no data": (["train"], "expected DATA, got none"),
    "no end": (["train", "{pictures}", "--shapes", 16], "expected --steps or --minutes"),
    "no grids": (["train", "{pictures}", "--steps", 1], "expected --shapes"),
    "no such folder": (["train", "nowhere", "--steps", 1], "which is not there"),
    "no data at all": (["train", "{file}", "--steps", 1], "which is none of these"),
    "an empty folder": (["train", "{empty}", "--shapes", 16, "--steps", 1], "no image in"),
    "a broken picture": (["train", "{broken}", "--shapes", 16, "--steps", 1], "a.png cannot be read"),
    "a word for a grid": (["train", "{pictures}", "--shapes", "big", "--steps", 1], "got 'big'"),
    "a grid twice": (["train", "{pictures}", "--shapes", 16, 16, "--steps", 1], "name each once"),
    "a grid finer than the data": (["train", "{pictures}", "--shapes", 64, "--steps", 1], "got 64x64 to fill"),
    "no steps": (["train", "{pictures}", "--shapes", 16, "--steps", 0], "expected --steps >= 1"),
    "a word for a number": (
        ["train", "{pictures}", "--steps", "many"],
        "expected --steps to be a whole number, got 'many'",
    ),
    "no value": (["train", "{pictures}", "--steps"], "expected a value after --steps"),
    "no values": (["train", "{pictures}", "--shapes", "--steps", 1], "expected values after --shapes"),
    "a misspelt option": (["train", "{pictures}", "--bathc", 3], "got --bathc; take --batch"),
    "no such network": (["train", "{pictures}", "--network", "big"], "one of tiny, small, paper, got 'big'"),
    "one argument too many": (["sample", "{images}", "more", "--size", 16], "more"),
    "a rate below 0": (["train", "{pictures}", "--shapes", 16, "--steps", 1, "--lr", -1], "expected lr > 0"),
    "two weights": (["train", "{pictures}", "--shapes", 16, "--steps", 1, "--weights", 1, 2], "2 weights"),
    "no batch": (["train", "{pictures}", "--shapes", 16, "--steps", 1, "--batch", 0], "batch_size=0"),
    "out is a file": (["train", "{pictures}", "--shapes", 16, "--steps", 1, "--out", "{file}"], "got the file"),
    "out below a file": (["train", "{pictures}", "--shapes", 16, "--steps", 1, "--out", "{file}/a"], "ot a directory"),
    "out is a model": (
        ["train", "{pictures}", "--shapes", 16, "--steps", 1, "--out", "{images}"],
        "holds a model alone",
    ),
    "a run that is not there": (
        ["train", "{pictures}", "--shapes", 16, "--steps", 1, "--resume", "always"],
        "holds none",
    ),
    "a run that is there": (["train", *"{pictures} --config {toml} --out {run} --resume never".split()], "holds one"),
    "a run of another network": (
        ["train", *"{pictures} --config {toml} --out {run} --num-blocks 1".split()],
        "--num-blocks 0",
    ),
    "smooth white noise": (["train", *"{pictures} --shapes 16 --steps 1 --smoothness 1".split()], "got --smoothness"),
    "levels of vp": (
        ["train", *"{pictures} --shapes 16 --steps 1 --schedule vp --sigma-min 1".split()],
        "got --sigma-min",
    ),
    "an array of pictures": (["train", "{pictures}", "--x", "u", "--steps", 1], "which holds pictures"),
    "no such array": (
        ["train", *"{arrays} --x v --domain box --shapes 8 --steps 1".split()],
        "which has u (4, 1, 8, 8)",
    ),
    "arrays without a domain": (["train", "{arrays}", "--x", "u", "--shapes", 8, "--steps", 1], "expected --domain"),
    "no file of options": (["train", "{pictures}", "--config", "nowhere.toml"], "which is no file"),
    "no TOML": (["train", "{pictures}", "--config", "{file}"], "expected a TOML file"),
    "no table": (["sample", "{images}", "--config", "{other}"], "with a table [sample]"),
    "a table of no command": (["train", "{pictures}", "--config", "{unknown}"], "got train, trian"),
    "an unknown key": (["train", "{pictures}", "--config", "{key}"], "got [lrr] in"),
    "a key of another type": (["train", "{pictures}", "--config", "{type}"], "got 'many' in"),
    "no model": (["sample", "nowhere", "--size", 16], "none of these"),
    "a folder without a model": (["sample", "{empty}", "--size", 16], "expected config.json"),
    "no size": (["sample", "{images}"], "expected --size, got none"),
    "a size of 0": (["sample", "{images}", "--size", "16x0"], "160x96"),
    "three axes": (["sample", "{images}", "--size", "16x16x16"], "a grid of 2 positive sizes"),
    "too small a size": (["sample", "{images}", "--size", 4], "at least 8 points"),
    "seeds backwards": (["sample", "{images}", "--size", 16, "--seeds", "3-1"], "smaller one first"),
    "a seed twice": (["sample", "{images}", "--size", 16, "--seeds", "1,1"], "each seed once"),
    "a seed below 0": (["sample", "{images}", "--size", 16, "--seeds", "-1"], "such as 0-63"),
    "no batches": (["sample", "{images}", "--size", 16, "--batch", 0], "1 or more"),
    "no noise levels": (["sample", "{images}", "--size", 16, "--steps", 0], "expected steps >= 1"),
    "a label of no class": (["sample", "{images}", "--size", 16, "--label", 1], "leave it out"),
    "no label": (["sample", "{classes}", "--size", 16], "expected --label from 0 to 1"),
    "a label too high": (["sample", "{classes}", "--size", 16, "--label", 2], "from 0 to 1"),
    "guidance by no class": (
        ["sample", *"{classes} --size 16 --label -1 --guidance 2".split()],
        "0 or more with --guidance",
    ),
    "a model of a field": (["sample", "{conditioned}", "--size", 16], "without a conditioning field"),
    "pictures of fields": (["sample", "{fields}", "--size", 16, "--format", "png"], "use hdf5"),
    "eta of heun": (["sample", *"{images} --size 16 --solver heun --eta 1".split()], "--solver dpm or ddim"),
    "eta of 2": (["sample", *"{images} --size 16 --eta 2".split()], "expected eta in [0, 1]"),
    "rho of no spacing": (["sample", *"{images} --size 16 --rho 3".split()], "expected --rho with --spacing rho"),
    "grids of no plan": (["sample", *"{images} --size 16 --grids 8".split()], "expected --grids with --plan"),
    "a plan without a spectrum": (
        ["sample", *"{images} --size 16 --plan cascade --grids 8".split()],
        "data's spectrum",
    ),
    "samples into a file": (["sample", "{images}", "--size", 16, "--out", "{file}"], "got the file"),
    "no GPU": (["sample", "{images}", "--size", 16, "--device", "tpu"], "one of cpu, cuda"),
    "classes from nowhere": (["sample", *"{images} --size 16 --classes-from nowhere.py".split()], "FileNotFoundError"),
    "classes that fail": (
        ["sample", *"{images} --size 16 --classes-from {boom}.py".split()],
        "boom.py: RuntimeError: two lines; mend",
    ),
    "no classes": (
        ["sample", *"{images} --size 16 --classes-from json.tool".split()],
        "expected classes in json.tool, got none",
    ),
    "no picture": (["upscale", "{run}", "nowhere.png", "--size", 48], "which is no file"),
    "a picture of text": (["upscale", "{run}", "{file}", "--size", 48], "cannot be read"),
    "a picture too large": (["upscale", "{run}", "{picture}", "--size", 24], "expected a grid finer"),
    "a finer start": (["upscale", *"{run} {picture} --size 48 --from 64".split()], "expected --from no finer"),
    "sizes of other proportions": (["upscale", *"{run} {picture} --size 48 48x64".split()], "the same proportions"),
    "a picture for fields": (["upscale", "{fields}", "{picture}", "--size", 48], "expected an .h5 of fields"),
    "no truth": (["evaluate", "{run}"], "expected --data, got none"),
    "too little truth": (["evaluate", "{run}", "--data", "{pictures}"], "expected 512 true fields"),
    "truth of other channels": (
        ["evaluate", *"{run} --data {h5} --seeds 0-1".split()],
        "expected fields of 3 channels",
    ),
    "one seed": (["evaluate", *"{run} --data {pictures} --seeds 0".split()], "two seeds or more"),
    "finer than the truth": (
        ["evaluate", *"{run} --data {pictures} --sizes 64 --seeds 0-1".split()],
        "got 64x64 to fill",
    ),
    "one grid": (["report", "{run}", "--shapes", 16, "--samples", 2, "--steps", 1], "two or more different shapes"),
    "the finest first": (["report", "{run}", "--shapes", 24, 16], "the coarsest first"),
    "unknown grids": (["report", "{images}"], "does not know its training grids"),
    "no old model": (["convert", "nowhere", "new"], "found none"),
    "no old format": (["convert", "{images}", "new"], "expected a model of format 2"),
    "no finer grid": (["finetune", *"{run} {pictures} --size 16 --steps 1".split()], "a grid finer than"),
    "a weight of 2": (["finetune", *"{run} {pictures} --size 48 --weight 2 --steps 1".split()], "between 0 and 1"),
}


@pytest.fixture(scope="module")
def places(room, models, tmp_path_factory):
    """What the wrong arguments name, by the names in braces."""
    folder = tmp_path_factory.mktemp("wrong")
    for name in ("empty", "broken"):
        (folder / name).mkdir()
    (folder / "broken" / "a.png").write_bytes(b"no picture")
    (folder / "file").write_text("text")
    (folder / "boom.py").write_text("raise RuntimeError('two\\nlines')\n")
    tables = {"other": "[train]\nsteps = 1\n", "unknown": "[train]\n[trian]\n", "key": "[train]\nlrr = 1\n"}
    tables["type"] = '[train]\nsteps = "many"\n'
    for name, text in tables.items():
        (folder / name).write_text(text)
    np.savez(folder / "arrays.npz", u=np.zeros((4, 1, 8, 8)), v2=np.zeros((4, 1, 8, 8)))
    about = {"source": "here", "licence": "none", "grid": "cell averages"}
    source = ArrayFields(torch.randn(8, 1, 16, 16), domain=Box(2))
    write_fields(folder / "f.h5", source, [(16, 16)], attributes=about, dtype="float32", progress=False)
    made = {name: folder / name for name in ("empty", "broken", "file", *tables)}
    made |= {name: models / name for name in ("images", "fields", "classes", "conditioned")}
    made |= {
        "boom": folder / "boom",
        "pictures": room / "pictures",
        "picture": room / "pictures" / "00.png",
        "run": room / "run",
    }
    return made | {"toml": room / "small.toml", "arrays": folder / "arrays.npz", "h5": folder / "f.h5"}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line(places, tmp_path, capsys, monkeypatch, name):
    arguments, message = WRONG[name]
    monkeypatch.chdir(tmp_path)
    assert run(*[str(argument).format(**places) for argument in arguments]) == 2
    said = [
        line for line in capsys.readouterr().err.split("\n") if line and "%|" not in line and "DPMSolver: " not in line
    ]
    command = f"fnodiff {arguments[0]}: " if arguments[0] in COMMANDS else "fnodiff: "
    assert len(said) == 1 and said[0].startswith(command) and message in said[0], said
    assert not list(tmp_path.rglob("*.png"))


def test_a_folder_without_permission_is_one_line(room, tmp_path, capsys, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied", str(tmp_path / "run"))

    monkeypatch.setattr(Path, "mkdir", refused)
    options = ["--config", room / "small.toml", "--out", tmp_path / "run"]
    assert run("train", room / "pictures", *options) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        said.startswith("fnodiff train: expected a file or folder that can be used, got ")
        and "Permission denied" in said
    )


def test_a_run_that_diverges_fails_in_one_line(room, tmp_path, capsys):
    options = ["--config", room / "small.toml", "--out", tmp_path / "run", "--lr", 1e30, "--rampup", 0, "--clip", 1e30]
    assert run("train", room / "pictures", *options, "--steps", 20) == 1
    assert re.search(r"fnodiff train: the loss is (nan|inf) at step", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("file", "name", "expected"),
    [
        (
            "ffhq_paper",
            "train",
            {"grids.batch": 256, "noise.noise": "pixel", "network.levels": "moving", "run.steps": 421_875},
        ),
        ("ffhq_paper", "train", {"grids.shapes": ("32", "48", "64", "80", "96"), "scaling.linear_estimate": False}),
        ("ffhq_paper", "finetune", {"mixture.weight": 0.3, "mixture.size": "160", "optimizer.lr": 1e-4}),
        ("ffhq_paper", "sample", {"how.solver.solver": "heun", "how.solver.steps": 18, "how.plan.plan": "direct"}),
        ("ffhq_paper", "evaluate", {"sizes": ("32", "48", "64", "80", "96", "128", "160", "192")}),
        ("lsun_church_paper", "train", {"data": "church.h5", "optimizer.ema_halflife": 500_000}),
        ("lsun_church_paper", "sample", {"how.solver.solver": "heun"}),
        ("portraits", "train", {"grids.shapes": ("16", "24", "32"), "network.n_modes": (8,)}),
        ("portraits", "sample", {"size": ("32", "64", "128")}),
        ("portraits", "evaluate", {"data": "portraits-test.h5"}),
    ],
)
def test_the_files_of_options_are_read(file, name, expected):
    positional = {"train": [], "finetune": ["model", "data"]}.get(name, ["model"])
    given = parsed(name, *positional, "--config", CONFIGS / f"{file}.toml")
    for key, value in expected.items():
        first, *rest = key.split(".")
        assert functools.reduce(getattr, rest, given[first]) == value, key


def test_the_portraits_file_says_what_is_chosen_anyway():
    """Its options make the model that a command without them makes."""
    data = MultiResolution(ArrayFields(wavy(8, (32, 32)), domain=Box(2)), Box(2), [16, 24, 32])
    described = []
    for tokens in (["train", "pictures"], ["train", "--config", str(CONFIGS / "portraits.toml")]):
        given = parsed(*tokens)
        noise, scaling = given["noise"], given["scaling"].make((32, 32))
        chosen = {"noise": noise.make_noise(Box(2), (32, 32)), "schedule": noise.make_schedule(), "scaling": scaling}
        described.append(checkpoint.describe(Model.for_data(data, given["network"].make(), **chosen)))
    for network in (found["network"] for found in described):  # what a preset leaves out is the constructor's default
        network.setdefault("attention_levels", [2])
    assert described[0] == described[1]


def test_what_the_arguments_mean():
    assert seeds_of("0-3,7") == [0, 1, 2, 3, 7]
    assert sizes_of(["160x96", "32"]) == [(160, 96), (32,)] and sizes_of(["8"], Sphere()) == [(8, 16)]


def test_help_and_version_are_there_without_torch():
    code = (
        "import sys\nfrom fnodiff.cli import main\nmain(['--help']), main(['train', '--help']), main(['--version'])\n"
    )
    code += "print([name for name in ('torch', 'neuralop', 'matplotlib', 'h5py') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (
        all(name in done.stdout for name in COMMANDS)
        and "By default a GPU" in done.stdout
        and "default:" in done.stdout
    )
    assert done.stdout.endswith(f"fnodiff {fnodiff.__version__}\n[]\n")


def test_python_m_fnodiff_is_the_command():
    done = subprocess.run([sys.executable, "-m", "fnodiff", "sample"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("fnodiff sample: expected MODEL, got none")


def count_samples(folder):
    """How many samples are there, whoever is writing them."""
    count = len(list(folder.rglob("seed-*.png")))
    for file in folder.glob("*.h5"):
        try:
            with h5py.File(file, "r", locking=False) as opened:
                count += int(opened.attrs["complete"])
        except (OSError, KeyError, RuntimeError, ValueError):  # caught in the middle of writing
            pass
    return count


@pytest.mark.slow
@pytest.mark.parametrize("model", ["images", "fields"])
def test_a_run_that_was_killed_goes_on(models, tmp_path, model):
    """SIGKILL at random moments; with batches of one the bits are the same."""
    draw, start = random.Random(0), multiprocessing.get_context("forkserver")
    start.set_forkserver_preload(["fnodiff.nn", "fnodiff.cli.samples"])  # torch is loaded once
    arguments = [str(models / model), "--size", "16", "--seeds", "0-199", "--batch", "1"]
    whole = ["sample", *arguments, "--steps", "3", "--device", "cpu", "--quiet", "--out", str(tmp_path / "killed")]
    for _ in range(6):
        job, before = start.Process(target=main, args=(whole,)), count_samples(tmp_path / "killed")
        job.start()
        while count_samples(tmp_path / "killed") < before + 3:
            assert job.is_alive(), f"it ended with code {job.exitcode}"
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.02))
        job.kill()
        job.join()
    assert count_samples(tmp_path / "killed") < 200
    for name in ("killed", "whole"):
        assert drawn("sample", *arguments, "--out", tmp_path / name) == 0
    kind = "png" if model == "images" else "hdf5"
    killed, whole = (SampleFolder(tmp_path / name, kind).load((16, 16), range(200)) for name in ("killed", "whole"))
    assert torch.equal(killed, whole) and not list(tmp_path.rglob("*.new"))


def shared(*arguments):
    """What two processes of the command print."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "fnodiff"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


TRAINED = Path(__file__).parent.parent / "examples" / "models" / "sphere_shallow_water"
QUICK = ["--steps", "3", "--device", "cpu", "--quiet"]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["images", "fields", "trained"])
def test_processes_share_the_seeds(models, tmp_path, model):
    folder, size = (TRAINED, (16, 32)) if model == "trained" else (models / model, (16, 16))
    arguments = [folder, "--size", "x".join(map(str, size)), "--seeds", "0-4"]
    shared("sample", *arguments, *QUICK, "--out", tmp_path / "two")
    assert drawn("sample", *arguments, "--out", tmp_path / "one") == 0
    assert model == "images" or len(list((tmp_path / "two").glob("*.h5"))) == 2, "each process writes its own file"
    kind = "png" if model == "images" else "hdf5"
    two, one = (SampleFolder(tmp_path / name, kind).load(size, range(5)) for name in ("two", "one"))
    # Networks that have learnt nothing pass float32's rounding on, grown; those that have do not.
    tolerance = {"images": 0.0079, "fields": 2e-3, "trained": 1e-5}[model]
    worst = (two - one).abs().amax((0, 2, 3)) / one.abs().amax((0, 2, 3))
    assert float(worst.max()) < tolerance, worst


@pytest.mark.slow
def test_processes_share_an_evaluation(room, tmp_path, capsys):
    arguments = [
        "evaluate",
        room / "run",
        "--sizes",
        "16",
        "--seeds",
        "0-15",
        "--data",
        room / "pictures",
        *QUICK,
        "--out",
    ]
    two = shared(*arguments, tmp_path / "two")
    assert run(*arguments, tmp_path / "one") == 0
    assert two.count("16x16     sampled") == 1, "printed once"
    two, one = (json.loads((tmp_path / name / "distances.json").read_text())["sizes"] for name in ("two", "one"))
    assert two["16x16"]["sampled"] == pytest.approx(one["16x16"]["sampled"], rel=0.01)


@pytest.mark.slow
def test_processes_share_a_training(room, tmp_path):
    options = ["--config", room / "small.toml", "--reproducible", "--dropout", 0, "--device", "cpu", "--out"]
    shared("train", room / "pictures", *options, tmp_path / "two")
    assert run("train", room / "pictures", *options, tmp_path / "one") == 0
    two, one = (Model.from_pretrained(tmp_path / name).state_dict() for name in ("two", "one"))
    assert state(tmp_path / "two")["step"] == 3
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-5)
