"""`fnodiff evaluate`, `fnodiff report` and `fnodiff convert`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from command import SMALL, drawn, run
from PIL import Image
from torch.nn.functional import interpolate

from fnodiff import DFU, EDM, Box, DPMSolver, EDMScaling, FunctionSpaceSDE, Model, Torus, WhiteNoise, sample, sde
from fnodiff.cli.data import ArrayOptions, true_fields
from fnodiff.cli.drawing import SampleFolder
from fnodiff.cli.evaluate import beyond, usual_grids, usual_sizes
from fnodiff.data import ArrayFields, ImageFolder
from fnodiff.report import distances


class TestEvaluate:
    def test_distances_are_a_table_a_file_and_a_curve(self, room, tmp_path, capsys):
        options = ["--data", room / "pictures", "--sizes", 16, 28, "--seeds", "0-7", "--out", tmp_path]
        assert drawn("evaluate", room / "run", *options) == 0
        said = capsys.readouterr().out
        sizes = json.loads((tmp_path / "distances.json").read_text())["sizes"]
        assert {size: list(rows) for size, rows in sizes.items()} == {
            "16x16": ["sampled", "other true"],
            "28x28": ["sampled", "upsampled", "other true"],
        }
        true = true_fields(str(room / "pictures"), ArrayOptions(), Box(2), 16, None).batch(range(16), (28, 28))["x"]
        there = SampleFolder(tmp_path, "png")
        upsampled = interpolate(there.load((24, 24), range(8)), size=(28, 28), mode="bicubic")
        kinds = {"sampled": there.load((28, 28), range(8)), "upsampled": upsampled, "other true": true[8:]}
        for kind, x in kinds.items():
            expected = distances(x, true[:8], Box(2), ((24, 24),))
            assert sizes["28x28"][kind] == pytest.approx(expected)
            assert re.search(
                rf"^28x28 +{kind} +{expected['spectrum']:.3f} +{expected['global']:.3f} ", said, re.MULTILINE
            )
        assert sizes["16x16"]["sampled"]["patches"] > 2 * sizes["16x16"]["other true"]["patches"], "it is untrained"
        assert Image.open(tmp_path / "distances.png").size[0] > 1000

    def test_the_usual_sizes_are_those_that_the_data_have(self, room):
        model, true = Model.from_pretrained(room / "run"), ImageFolder(room / "pictures")
        assert usual_sizes(model, true) == [(16, 16), (24, 24), (36, 36)], "48x48 is finer than the pictures"
        assert beyond(model) == usual_grids(model, None) == [(24, 24), (36, 36), (48, 48)]
        assert usual_grids(model, true) == [(24, 24), (36, 36)]
        no_finer = ArrayFields(torch.zeros(2, 24, 24), domain=Box(2))
        assert usual_grids(model, no_finer) == [(16, 16), (24, 24)], "those of training"

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


def test_a_report_on_lines_says_that_it_has_no_figure(tmp_path, capsys):
    net, process = DFU.tiny(1, 1, domain=Torus(1), **SMALL), FunctionSpaceSDE(WhiteNoise(Torus(1), (8,)), EDM())
    Model(net, process, EDMScaling()).save_pretrained(tmp_path / "line")
    assert drawn("report", tmp_path / "line", "--shapes", 8, 12, "--samples", 2, "--out", tmp_path / "r.png") == 0
    assert "no figure: " in capsys.readouterr().out and not (tmp_path / "r.png").exists()


def test_report(room, tmp_path, capsys):
    few = ["--samples", 4, "--steps", 2, "--device", "cpu", "--quiet", "--out", tmp_path / "r.png"]
    assert run("report", room / "run", "--data", room / "pictures", "--shapes", 16, "28x30", *few) == 0
    said = capsys.readouterr().out
    assert re.search(r"^28x30 +sampled +\d+\.\d+", said, re.MULTILINE) and "high band" in said
    assert (tmp_path / "r.png").stat().st_size > 20_000


@pytest.mark.parametrize(("flags", "averages"), [([], True), (["--points"], False), (["--cell-averages"], True)])
def test_convert(models, tmp_path, flags, averages):
    old_format(models / "periodic", tmp_path / "old")
    assert run("convert", tmp_path / "old", tmp_path / "new", *flags, "--quiet") == 0
    old, new = Model.from_pretrained(models / "periodic"), Model.from_pretrained(tmp_path / "new")
    assert new.cell_averages is averages and new.scaling == old.scaling
    assert torch.equal(*(sample(m, 16, [0], solver=DPMSolver(2), plan=sde.Direct()) for m in (old, new)))


def old_format(model: Path, folder: Path) -> None:
    """Write a model as format 2 had it."""
    folder.mkdir()
    config = json.loads((model / "config.json").read_text())["model"]
    network = {**config["network"], "levels": "moving", "antialias": False, "recompute": False}
    assert network.pop("boundary") == "periodic"  # there was no other
    old = {"class": "Preconditioned", "backbone": network, "sde": config["sde"], "sigma_data": 0.5, "spectrum": None}
    old |= {"told": "point", "normalization": config["normalization"], "field_normalization": config["normalization"]}
    (folder / "config.json").write_text(json.dumps({"format": 2, "model": old, "training_shapes": []}))
    tensors = safetensors.torch.load_file(model / "model.safetensors")
    tensors = {name.replace("network.", "backbone.", 1): value for name, value in tensors.items()}
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
