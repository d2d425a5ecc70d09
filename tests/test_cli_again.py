"""A command that meets what an earlier one left: the same goes on, and what is not the same is refused or said."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from command import drawn, run, same_weights, wavy

from fnodiff import DFU, EDM, Box, EDMScaling, FunctionSpaceSDE, Model, Torus, WhiteNoise
from fnodiff.cli.data import ArrayOptions, true_fields
from fnodiff.cli.drawing import read_picture, write_picture
from fnodiff.data import HDF5Fields, ImageFolder

QUICK = ["--batch", 2, "--lr", 1e-12, "--quiet"]


def labels(folder, *values):
    file = folder / f"{'-'.join(map(str, values))}.npy"
    np.save(file, np.array(values))
    return ["--condition-file", file]


def said(capsys):
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture
def of_numbers(tmp_path):
    torch.manual_seed(0)
    process = FunctionSpaceSDE(WhiteNoise(Torus(2), (16, 16)), EDM())
    net = DFU.tiny(1, 1, domain=Torus(2), num_blocks=0, zero_init=False, condition_numbers=1)
    model = Model(net, process, EDMScaling())
    model.condition_names = ("nu",)
    model.save_pretrained(tmp_path / "numbers")
    return tmp_path / "numbers"


def test_labels_of_a_file_belong_to_their_seeds(models, tmp_path, capsys):
    options = ["sample", models / "classes", "--size", 16, "--out", tmp_path / "out"]
    assert drawn(*options, "--seeds", "0-2", *labels(tmp_path, 0, 1, 0)) == 0
    before = [read_picture(file) for file in sorted((tmp_path / "out" / "16x16").iterdir())]
    assert drawn(*options, "--seeds", "0-2", *labels(tmp_path, 1, 1, 1)) == 2
    assert "expected seed 0 with the condition that it has in" in said(capsys)
    assert drawn(*options, "--seeds", "2-4", *labels(tmp_path, 1, 0, 1)) == 2  # seed 2 is there, of class 0
    assert drawn(*options, "--seeds", "2-4", *labels(tmp_path, 0, 0, 1)) == 0  # other seeds join
    after = [read_picture(file) for file in sorted((tmp_path / "out" / "16x16").iterdir())]
    assert len(after) == 5 and all(torch.equal(a, b) for a, b in zip(before, after, strict=False))


def test_one_number_for_any_seeds(of_numbers, tmp_path, capsys):
    options = ["sample", of_numbers, "--size", 16, "--out", tmp_path / "out"]
    assert drawn(*options, "--seeds", "0-1", "--condition", "nu=1.5") == 0
    assert drawn(*options, "--seeds", "0-2", "--condition", "nu=1.5") == 0
    assert drawn(*options, "--seeds", "1-3", "--condition", "nu=2.5") == 2
    assert "expected seed 1 with the condition" in said(capsys)
    x = HDF5Fields(tmp_path / "out" / "16x16-seeds-0-1.h5").batch([0, 1], (16, 16))["x"]
    again = HDF5Fields(tmp_path / "out" / "16x16-seeds-0-2.h5").batch([0, 1], (16, 16))["x"]
    torch.testing.assert_close(x, again, rtol=1e-4, atol=1e-4)


def test_a_run_goes_on_from_the_model_that_it_began_with(room, tmp_path, capsys):
    shutil.copytree(room / "run", tmp_path / "other")
    options = ["train", room / "pictures", *QUICK, "--shapes", 12, 16, "--out", tmp_path / "run"]
    assert run(*options, "--init", room / "run", "--steps", 1) == 0
    assert run(*options, "--init", tmp_path / "other", "--steps", 2) == 2
    assert f"expected --init {room / 'run'}, as the run in" in said(capsys)
    assert run(*options, "--init", room / "run", "--steps", 2) == 0


def test_a_finetuning_goes_on_with_its_own_model(room, tmp_path, capsys):
    shutil.copytree(room / "run", tmp_path / "other")
    options = [room / "pictures", "--size", 36, *QUICK, "--device", "cpu"]
    assert run("finetune", room / "run", *options, "--steps", 1, "--out", tmp_path / "fine") == 0
    assert run("finetune", tmp_path / "other", *options, "--steps", 2, "--out", tmp_path / "fine") == 2
    assert f"expected MODEL {room / 'run'}, as the run in" in said(capsys)
    assert run("finetune", tmp_path / "other", *options, "--steps", 9, "--out", tmp_path / "other") == 2
    assert "a run of fnodiff train; name another" in said(capsys)
    assert same_weights(room / "run", tmp_path / "other")
    (tmp_path / "linked").symlink_to(room / "run")  # the same by another name
    assert run("finetune", tmp_path / "linked", *options, "--steps", 2, "--out", tmp_path / "fine") == 0


def test_other_data_are_said(room, tmp_path, capsys):
    shutil.copytree(room / "pictures", tmp_path / "moved")
    options = ["--config", room / "small.toml", "--out", tmp_path / "run"]
    assert run("train", room / "pictures", *options, "--steps", 1) == 0
    with pytest.warns(UserWarning, match="was begun with --data .*pictures, and goes on with .*moved"):
        run("train", tmp_path / "moved", *options, "--steps", 2)


def test_classes_that_may_mean_others_are_refused(tmp_path, models, capsys):
    for name in ("a", "c", "d"):
        (tmp_path / "held" / name).mkdir(parents=True)
        for i, x in enumerate(wavy(4, (16, 16), seed=len(name))):
            write_picture(tmp_path / "held" / name / f"{i}.png", x)
    options = ["--data", tmp_path / "held", "--sizes", 16, "--seeds", "0-1", "--label", 1, "--out", tmp_path / "out"]
    assert drawn("evaluate", models / "classes", *options) == 2
    assert "true fields of the model's 2 classes with --label, got 3" in said(capsys)
    shutil.rmtree(tmp_path / "held" / "d")
    assert drawn("evaluate", models / "classes", *options) == 0


def test_weights_are_not_rounded_to_integers(models, tmp_path):
    model = Model.from_pretrained(models / "images")
    with pytest.raises(ValueError, match=r"expected dtype torch.float16, .* got torch.int8"):
        model.save_pretrained(tmp_path / "small", dtype=torch.int8)
    assert Box(2) == model.sde.domain and not (tmp_path / "small").exists()


def test_calls_with_the_same_ends_keep_each_others_conditions(models, tmp_path, capsys):
    options = ["sample", models / "classes", "--size", 16, "--out", tmp_path / "out"]
    assert drawn(*options, "--seeds", "0-2", *labels(tmp_path, 0, 1, 0)) == 0
    assert drawn(*options, "--seeds", "0,2", *labels(tmp_path, 0, 0)) == 0
    assert drawn(*options, "--seeds", "1", *labels(tmp_path, 0)) == 2 and "expected seed 1" in said(capsys)


def test_of_shares_the_largest_is_the_class(tmp_path):
    shares = ([0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3])
    for number, x in enumerate(wavy(4, (16, 16))):
        write_picture(tmp_path / f"{number}.png", x)
    listed = [[f"{number}.png", share] for number, share in enumerate(shares)]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": listed}))
    found = true_fields(str(tmp_path), ArrayOptions(), Box(2), 2, 1, 2)
    expected = ImageFolder(tmp_path).batch([1, 2], (16, 16))["x"]
    assert sorted(float(x.sum()) for x in found.batch([0, 1], (16, 16))["x"]) == pytest.approx(
        sorted(float(x.sum()) for x in expected)
    )
