"""`fnodiff train` and `fnodiff finetune`: the model that comes of them, and how they stop and go on."""

from __future__ import annotations

import re
import signal
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from command import run, same_weights, state

from fnodiff import Box, EDMScaling, Model, Product, Torus, WhiteNoise
from fnodiff.data import InMemory
from fnodiff.train import MovingAverage


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

    @pytest.mark.parametrize(("name", "domain"), [("torus", Torus(2)), ("torus-box", Product([Torus(1), Box(1)]))])
    def test_arrays_with_labels_on_a_named_domain(self, tmp_path, name, domain):
        file, small = tmp_path / "arrays.npz", ["--network", "tiny", "--num-blocks", 0, "--hidden-channels", 8]
        np.savez(file, u=np.random.default_rng(0).normal(size=(12, 2, 16, 16)), kind=np.arange(12) % 3)
        options = ["--x", "u", "--label-name", "kind", "--domain", name, "--shapes", 8, 16, "--batch", 4, "--quiet"]
        options += ["--steps", 1, *small]
        assert run("train", file, *options, "--out", tmp_path / "a", "--drop-condition", 0.1) == 0
        model = Model.from_pretrained(tmp_path / "a")
        assert model.sde.domain == domain and model.channels == 2 and model.network.num_classes == 3
        assert run("train", file, *options, "--out", tmp_path / "b", "--no-labels", "--levels", "moving") == 0
        model = Model.from_pretrained(tmp_path / "b")
        assert model.network.num_classes == 0 and model.network.fixed is None


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


@pytest.mark.parametrize(("flags", "kept"), [([], True), (["--no-in-memory"], False)], ids=["usual", "not kept"])
def test_finetune_keeps_pictures_in_memory_as_train_does(room, tmp_path, monkeypatch, flags, kept):
    seen = []
    monkeypatch.setattr("fnodiff.train.mixed_finetune", lambda model, fields, *_, **__: seen.append(fields))
    options = ["--size", 36, "--steps", 1, "--device", "cpu", "--quiet", "--out", tmp_path / "fine", *flags]
    assert run("finetune", room / "run", room / "pictures", *options) == 0
    assert isinstance(seen[0], InMemory) == kept


def test_a_run_may_begin_with_a_trained_model(room, tmp_path, capsys):
    options = ["--init", room / "run", "--batch", 2, "--steps", 1, "--lr", 1e-12, "--out", tmp_path / "run", "--quiet"]
    assert run("train", room / "pictures", *options, "--shapes", 12, 16) == 0
    before, after = (Model.from_pretrained(folder) for folder in (room / "run", tmp_path / "run"))
    assert after.training_shapes == ((12, 12), (16, 16)) and after.sde == before.sde
    for old, new in zip(before.parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(old, new)
    for other in (["--network", "tiny"], ["--noise", "pixel"], ["--sigma-data", 0.7]):
        assert run("train", room / "pictures", *options, "--shapes", 16, *other) == 2
        assert "leave them out" in capsys.readouterr().err
