"""`fnodiff train --tracker`: what trackers are given, read from their own files."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from command import run


def written(folder):
    """The names of the numbers, and each picture's name, step, height and width."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "tensorboard")).Reload()
    tags = events.Tags()
    return set(tags["scalars"]), {(n, i.step, i.height, i.width) for n in tags["images"] for i in events.Images(n)}


class TestTracker:
    def test_tensorboard_has_losses_and_pictures(self, room, tmp_path):
        options = ["--config", room / "small.toml", "--out", tmp_path / "run", "--steps", 1, "--tracker", "tensorboard"]
        assert run("train", room / "pictures", *options, "--preview-seeds", "3,5") == 0
        losses, pictures = written(tmp_path / "run")
        assert {"lr"} < losses <= {"loss/16x16", "loss/24x24", "lr"}
        assert pictures == {(f"samples/{n}x{n}", 1, n, 2 * n) for n in (16, 24)}

    def test_pictures_are_under_the_conditions_of_the_data(self, tmp_path):
        x = np.random.default_rng(0).normal(size=(12, 2, 16, 16))
        np.savez(tmp_path / "arrays.npz", u=x, f=x[:, :1], kind=np.arange(12) % 3)
        options = [
            "--x",
            "u",
            "--field",
            "f",
            "--label-name",
            "kind",
            "--domain",
            "torus",
            "--shapes",
            8,
            16,
            "--batch",
            4,
        ]
        options += ["--steps", 1, "--quiet", "--network", "tiny", "--num-blocks", 0, "--hidden-channels", 8]
        options += ["--out", tmp_path / "run", "--tracker", "tensorboard", "--preview-seeds", "0-13"]
        assert run("train", tmp_path / "arrays.npz", *options) == 0
        assert ("samples/8x8", 1, 16, 14 * 8) in written(tmp_path / "run")[1]

    def test_finetuning_is_watched_too(self, room, tmp_path):
        options = ["--size", 32, "--steps", 1, "--batch", 2, "--quiet", "--device", "cpu", "--preview-seeds", "1"]
        out = tmp_path / "fine"
        assert run("finetune", room / "run", room / "pictures", *options, "--out", out, "--tracker", "tensorboard") == 0
        _, pictures = written(out)
        assert {name for name, *_ in pictures} == {"samples/16x16", "samples/24x24", "samples/32x32"}

    @pytest.mark.slow
    def test_mlflow_has_losses_and_pictures(self, room, tmp_path, monkeypatch):
        mlflow = pytest.importorskip("mlflow")
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        place = (tmp_path / "mlruns").as_uri()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
        options = ["--config", room / "small.toml", "--out", tmp_path / "run", "--steps", 1, "--tracker", "mlflow"]
        assert run("train", room / "pictures", *options, "--preview-seeds", "3,5") == 0
        client = mlflow.MlflowClient(place)
        (found,) = client.search_runs([client.get_experiment_by_name("fnodiff").experiment_id])
        assert {"lr"} < set(found.data.metrics) and found.data.params["batch"] == "4"
        names = [file.path for file in client.list_artifacts(found.info.run_id, "images")]
        assert any("16x16" in name for name in names) and any("24x24" in name for name in names)

    def test_wandb_is_imported_only_when_asked_for(self, room, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "wandb", None)  # an import fails
        options = ["--config", room / "small.toml", "--steps", 1, "--out", tmp_path / "run"]
        assert run("train", room / "pictures", *options) == 0

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--preview-seeds", "a"], "expected --preview-seeds such as 0-63"),
            (["--preview-every", 0], "expected --preview-every >= 1, got 0"),
        ],
    )
    def test_wrong_previews_are_named(self, room, tmp_path, capsys, options, message):
        given = ["--config", room / "small.toml", "--out", tmp_path / "run", "--tracker", "tensorboard", *options]
        assert run("train", room / "pictures", *given) != 0
        assert message in capsys.readouterr().err and not (tmp_path / "run").exists()

    def test_a_tracker_that_is_not_there_is_named(self, room, tmp_path, capsys, monkeypatch):
        import importlib.util

        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "mlflow" else find(name, *a))
        options = ["--config", room / "small.toml", "--out", tmp_path / "run", "--tracker", "mlflow"]
        assert run("train", room / "pictures", *options) != 0
        assert "expected mlflow for --tracker, got none; pip install mlflow" in capsys.readouterr().err
