"""The study above the training resolution: it trains, goes on, samples and counts; and the features that it counts with."""

from __future__ import annotations

import dataclasses
import json
import re
import sys

import pytest
import torch
from torch.nn.functional import interpolate

from benchmarks import attributes, scale
from fnodiff import Cascade, Direct, Progressive
from fnodiff.data import Faces
from fnodiff.sde import Autoguided, noise_law, noise_levels

FEW = [
    "--minutes",
    "0.005",
    "--samples",
    "4",
    "--sizes",
    "32",
    "48",
    "--count",
    "64",
    "--batch",
    "2",
    "--evaluations",
    "3",
]


def run(monkeypatch, capsys, out, *options):
    monkeypatch.setattr(sys, "argv", ["scale", *FEW, "--out", str(out), "--quiet", *options])
    scale.main()
    return capsys.readouterr().out


@pytest.mark.slow
def test_rows_are_trained_once_and_started_from_each_other(tmp_path, monkeypatch, capsys):
    rows = ["DFU, the paper's setting", "+ mixed fine-tuning", "+ fixed levels", "+ cascade"]
    assert "3 models for 1 seeds" in run(monkeypatch, capsys, tmp_path, "--dry", "--only", *rows)
    assert not any(tmp_path.iterdir()), "a dry run leaves nothing"
    first = run(monkeypatch, capsys, tmp_path, "--only", *rows)
    table = re.findall(r"^(.{40}) +([\d.]+) +([\d.]+|-) +([\d.]+|-) +([\d.]+) +([\d.]+)$", first, flags=re.M)
    names = [row[0].strip() for row in table]
    upsampled = [f"{way} of + cascade" for way in ("bicubic", "Fourier")]
    assert names == ["other true portraits", *rows, "other true portraits", *rows, *upsampled]
    assert {path.name for path in tmp_path.glob("*.png")} == {"scale.png", "faces.png"}
    trained = {path.parent.name: path.stat().st_mtime_ns for path in tmp_path.glob("*/model.safetensors")}
    assert len(trained) == 3, "the row that differs in sampling alone has no model"
    again = run(monkeypatch, capsys, tmp_path, "--only", *rows)
    assert again.split("\n", 2)[2] == first.split("\n", 2)[2], "models and samples that are there are taken"
    assert trained == {path.parent.name: path.stat().st_mtime_ns for path in tmp_path.glob("*/model.safetensors")}
    at_32 = {row[0].strip(): row[1:] for row in table[:5]}
    assert at_32[rows[0]] != at_32[rows[2]]
    at_48 = {row[0].strip(): row[1:] for row in table[5:10]}
    assert at_48[rows[2]] != at_48[rows[3]], "one model, sampled in two ways"
    assert float(table[-2][3]) < 0.5, "what is upsampled has little of the high band's energy"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A study, and the models of its rows."""
    study = scale.Study(scale.parse([*FEW, "--out", str(tmp_path_factory.mktemp("built")), "--quiet"]))
    return study, [(row, study.build(row).eval()) for row in scale.ROWS]


def test_rows_train_at_the_noise_levels_that_they_name(built):
    study, models = built
    for row, model in models:
        loss, ends = study.loss(row, model), (model.sde.schedule.sigma_min, model.sde.schedule.sigma_max)
        if row.noise == "smooth" or row.scaling == "spectral":
            spectrum = study.spectrum(model.normalization)
            law = noise_law(model.sde.noise, spectrum, (32, 32))
            assert ends == pytest.approx(noise_levels(model.sde.noise, spectrum, (64, 64))), row.name
        else:
            law = (-1.2, 1.2)
            assert ends == (0.002, 80.0), row.name
        assert (loss.p_mean, loss.p_std) == pytest.approx(law), row.name


@pytest.mark.slow
def test_the_guided_row_has_a_guide_of_less_training(tmp_path):
    study = scale.Study(scale.parse([*FEW, "--out", str(tmp_path), "--quiet"]))
    for row, steps in ((scale.OURS, 6), (scale.GUIDE, 1)):
        (study.folder(row, 0) / "plan.json").write_text(json.dumps({"steps": steps}))
    model = study.model(scale.GUIDED, 0)
    assert isinstance(model, Autoguided) and model.noise_levels == (0.3, 3.0)
    found = {path.parent.name: json.loads(path.read_text())["steps"] for path in tmp_path.glob("*/done.json")}
    assert found == {"fixed-levels-0": 6, "guide-0": 1}
    sample = study.sample(scale.GUIDED, 0, 48)
    assert not torch.equal(sample, study.sample(scale.CASCADE, 0, 48))
    assert len(list(tmp_path.glob("*/model.safetensors"))) == 2


def test_every_row_builds_a_model_that_estimates(built):
    for row, model in built[1]:
        with torch.no_grad():
            estimate = model(model.sde.prior((1, 3, 16, 16)), torch.ones(()))
        assert estimate.shape == (1, 3, 16, 16) and bool(estimate.isfinite().all()), row.name
        assert ("+" in row.name) == (row not in scale.ROWS[:4]), "one ingredient more in each row below the paper's"


@pytest.mark.parametrize(
    ("how", "size", "plan"),
    [
        ("plain", 64, Direct()),
        ("progressive", 32, Progressive([(16, 16)])),
        ("cascade", 32, Progressive([(16, 16)])),
        ("progressive", 64, Progressive([(16, 16), (32, 32)])),
        ("cascade", 64, Cascade([(32, 32)], through=[(16, 16)])),
    ],
)
def test_rows_go_by_way_of_the_training_grids(how, size, plan):
    assert scale.plan(scale.Row("", sampling=how), size) == plan


def test_the_row_says_what_a_cascade_keeps():
    rows = [row for row in scale.ROWS if row.sampling == "cascade" and row.guide is None]
    assert [scale.plan(row, 64).keep for row in rows] == [None, 1.0]


def test_what_an_older_row_left_is_not_taken(tmp_path):
    study = scale.Study(scale.parse([*FEW, "--out", str(tmp_path), "--quiet"]))
    folder = study.folder(scale.PAPER, 0)
    assert study.folder(scale.PAPER, 0) == folder
    with pytest.raises(ValueError, match="name another --out"):
        study.folder(dataclasses.replace(scale.PAPER, noise="white"), 0)


def test_what_others_may_be_reading_is_not_written_again(tmp_path):
    study = scale.Study(scale.parse([*FEW, "--out", str(tmp_path), "--quiet"]))
    file = study.folder(scale.PAPER, 0) / "row.json"
    before = file.stat().st_mtime_ns, file.stat().st_ino
    study.folder(scale.PAPER, 0)
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == before
    assert [path.name for path in file.parent.iterdir()] == ["row.json"], "nothing half written"


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on(tmp_path, monkeypatch):
    args = scale.parse([*FEW, "--out", str(tmp_path), "--quiet"])
    row, study = scale.PAPER, scale.Study(args)
    folder = study.folder(row, 0)
    (folder / "plan.json").write_text(json.dumps({"steps": 6}))
    asked, batch, last = [], study.pictures().batch, [16 + 1 + 4]  # for the units, the spectrum, and steps

    def stop(indices, shape):
        asked.append(shape)
        if len(asked) in last:
            raise KeyboardInterrupt
        return batch(indices, shape)

    monkeypatch.setattr(study.pictures(), "batch", stop)
    monkeypatch.setattr(scale, "SAVE_EVERY", 1)
    with pytest.raises(KeyboardInterrupt):
        study.model(row, 0)
    assert (folder / "training.pt").exists() and not (folder / "done.json").exists()
    asked.clear()
    last.clear()
    study.model(row, 0)
    assert len(asked) < 16 + 1 + 6, "not from the beginning"
    assert json.loads((folder / "done.json").read_text())["steps"] == 6 and not (folder / "training.pt").exists()


@pytest.fixture(scope="module")
def net():
    return attributes.load()


@pytest.fixture(scope="module")
def portraits():
    faces = Faces(512, seed=7)
    return {n: faces.batch(range(512), (n, n))["x"] for n in (32, 48, 64, 96)}


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 48, 64, 96])
def test_features_see_what_is_wrong_at_every_size(net, portraits, size):
    x, y = portraits[size].chunk(2)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    wrong = {
        "blur": interpolate(interpolate(x, scale_factor=0.5, mode="area"), size=(size, size), mode="bicubic"),
        "noise": x + 0.1 * noise,
        "shuffled halves": torch.cat([x[..., : size // 2], x.roll(1, 0)[..., size // 2 :]], -1),
    }
    least = attributes.distance(net, x, y)
    for name, z in wrong.items():
        assert attributes.distance(net, z, y) > 1.2 * least, name
    assert attributes.distance(net, x + 0.3 * noise, y) > attributes.distance(net, wrong["noise"], y)


def test_the_network_reads_portraits(net, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["attributes", "--test", "40"])
    attributes.main()
    rows = dict(re.findall(r"^(\w[\w ]*), (?:right|R\^2) +(.*)$", capsys.readouterr().out, flags=re.M))
    at_64 = {name: float(values.split()[4].rstrip("%")) for name, values in rows.items()}
    assert (
        at_64["glasses"] > 90 and at_64["hair_style"] > 60 and at_64["skin_tone"] > 0.8 and at_64["size drawn at"] > 0.8
    )


def test_distances_of_two_sizes_are_refused(net):
    with pytest.raises(ValueError, match="portraits of one size"):
        attributes.distance(net, torch.zeros(4, 3, 32, 32), torch.zeros(4, 3, 48, 48))
