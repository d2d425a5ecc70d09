"""The study above the training resolution: it trains, goes on, samples and counts; and the features that it counts with."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys

import pytest
import torch
from drawn import written
from PIL import Image
from torch.nn.functional import interpolate

from benchmarks import attributes, evaluations, loading, memorisation, pairs, scale
from benchmarks.drawings import Drawings
from benchmarks.scale_measures import compare
from fnodiff import DFU, Cascade, Direct, Progressive
from fnodiff.data import Augmentation
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


def test_distances_are_compared_with_ours_and_above_the_floor():
    table = {
        ("other true pictures", 32): [1.0, math.nan, math.nan, 0.5, 2.0],
        ("DFU, seed 0", 32): [4.0, math.nan, math.nan, 0.5, 3.0],
        ("DFU, seed 1", 32): [6.0, math.nan, math.nan, 0.5, 5.0],
        ("ours, seed 0", 32): [2.0, math.nan, math.nan, 0.25, 2.0],
        ("ours, seed 0", 40): [2.0, 0.1, 0.9, 0.25, 2.0],
    }
    lines = [line.split() for line in compare(table, "ours")]
    assert lines[0][-3:] == ["x", "32", "-floor"], "of the sizes, those that the claims are about"
    assert lines[1:] == [
        ["DFU,", "features", "2.50", "4.00"],
        ["DFU,", "patches", "2.00", "-"],
        ["DFU,", "global", "2.00", "-"],
    ]
    assert not compare({("ours", 32): [2.0] * 5}, "ours"), "nothing to compare"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What names the pictures to train on, and those that are held out."""
    folder = tmp_path_factory.mktemp("files")
    train, test = written(folder / "a.h5", 64, [16, 24, 32]), written(folder / "b.h5", 16, [32, 48, 128], seed=1)
    return ["--data", str(train), "--test", str(test)]


@pytest.fixture
def study(files, tmp_path):
    return scale.Study(scale.parse([*FEW, *files, "--out", str(tmp_path), "--quiet"]))


def printed(monkeypatch, capsys, program, *arguments):
    """What a benchmark prints with these arguments."""
    monkeypatch.setattr(sys, "argv", [program.__name__, *map(str, arguments)])
    program.main()
    return capsys.readouterr().out


@pytest.mark.slow
def test_rows_are_trained_once_and_started_from_each_other(files, tmp_path, monkeypatch, capsys):
    def run(*options):
        return printed(monkeypatch, capsys, scale, *FEW, *files, "--out", tmp_path, "--quiet", *options)

    rows = ["DFU, the paper's setting", "+ mixed fine-tuning", "+ fixed levels", "+ cascade"]
    assert "3 models for 1 seeds" in run("--dry", "--only", *rows)
    assert not any(tmp_path.iterdir()), "a dry run leaves nothing"
    first = run("--only", *rows)
    table = re.findall(r"^(.{40}) +([\d.]+|-) +([\d.]+|-) +([\d.]+|-) +([\d.]+) +([\d.]+)$", first, flags=re.M)
    names = [row[0].strip() for row in table]
    upsampled = [f"{way} of + cascade" for way in ("bicubic", "Fourier")]
    assert names == ["other true pictures", *rows, "other true pictures", *rows, *upsampled]
    assert {path.name for path in tmp_path.glob("*.png")} == {"scale.png", "pictures.png"}
    trained = {path.parent.name: path.stat().st_mtime_ns for path in tmp_path.glob("*/model.safetensors")}
    assert len(trained) == 3, "the row that differs in sampling alone has no model"
    again = run("--only", *rows)
    assert again.split("\n", 2)[2] == first.split("\n", 2)[2], "models and samples that are there are taken"
    (tmp_path / "DFU-the-paper's-setting-0" / "samples-48.safetensors").unlink()
    kept = run("--kept", "--seeds", "0", "1", "--only", *rows)
    assert kept.count("\nDFU, the paper's setting, seed 0 ") == 1 and "seed 1" not in kept, "what is there, and no more"
    assert trained == {path.parent.name: path.stat().st_mtime_ns for path in tmp_path.glob("*/model.safetensors")}
    at_32 = {row[0].strip(): row[1:] for row in table[:5]}
    assert at_32[rows[0]] != at_32[rows[2]]
    at_48 = {row[0].strip(): row[1:] for row in table[5:]}
    assert at_48[rows[2]] != at_48[rows[3]], "one model, sampled in two ways"
    bicubic, sampled = (float(at_48[name][2]) for name in ("bicubic of + cascade", "+ cascade"))
    assert bicubic < 0.5 * sampled, "what is upsampled has little of the high band's energy"


@pytest.fixture(scope="module")
def built(files, tmp_path_factory):
    """A study, and the models of its rows."""
    study = scale.Study(scale.parse([*FEW, *files, "--out", str(tmp_path_factory.mktemp("built")), "--quiet"]))
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
def test_the_guided_row_has_a_guide_of_less_training(study, tmp_path):
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
    assert [scale.plan(row, 64).keep for row in rows] == [None, 1.0, None]


def test_a_grid_that_is_missing_is_named_before_anything_is_trained(files, tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match="--resolutions 64"):
        printed(
            monkeypatch,
            capsys,
            scale,
            *FEW,
            *files,
            "--out",
            tmp_path,
            "--quiet",
            "--only",
            "+ fixed levels",
            scale.ROWS[-1].name,
        )
    assert not any(tmp_path.iterdir())


def test_augmented_rows_train_on_numbered_maps(study):
    row = scale.named("+ augmentation")
    (study.folder(row, 0) / "plan.json").write_text(json.dumps({"steps": 1}))
    assert study.model(row, 0).network.config["augmentation_numbers"] == Augmentation().count(scale.DOMAIN)


def test_what_an_older_row_left_is_not_taken(study):
    folder = study.folder(scale.PAPER, 0)
    assert study.folder(scale.PAPER, 0) == folder
    with pytest.raises(ValueError, match="name another --out"):
        study.folder(dataclasses.replace(scale.PAPER, noise="white"), 0)


def test_what_others_may_be_reading_is_not_written_again(study):
    file = study.folder(scale.PAPER, 0) / "row.json"
    before = file.stat().st_mtime_ns, file.stat().st_ino
    study.folder(scale.PAPER, 0)
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == before
    assert [path.name for path in file.parent.iterdir()] == ["row.json"], "nothing half written"


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on(study, monkeypatch):
    row = scale.PAPER
    folder = study.folder(row, 0)
    (folder / "plan.json").write_text(json.dumps({"steps": 6}))
    asked, batch, saved = [], study.pictures().batch, []

    def stop(indices, shape):
        asked.append(shape)
        saved.append((folder / "training.pt").exists())
        if sum(saved) == 4:
            raise KeyboardInterrupt
        return batch(indices, shape)

    monkeypatch.setattr(study.pictures(), "batch", stop)
    monkeypatch.setattr(scale, "SAVE_EVERY", 1)
    with pytest.raises(KeyboardInterrupt):
        study.model(row, 0)
    assert (folder / "training.pt").exists() and not (folder / "done.json").exists()
    first = len(asked)
    monkeypatch.setattr(study.pictures(), "batch", lambda *arguments: asked.append(arguments) or batch(*arguments))
    study.model(row, 0)
    assert len(asked) - first < first, "not from the beginning"
    assert json.loads((folder / "done.json").read_text())["steps"] == 6 and not (folder / "training.pt").exists()


# ---- the portraits ------------------------------------------------------------------------------------------------


def test_a_grid_that_a_file_lacks_is_averaged_from_one_twice_as_fine(files):
    train, test = Drawings(files[1]), Drawings(files[3], 10)
    assert len(train) == 64 and len(test) == 10
    pairs = test.batch([3], (32, 32))["x"].unflatten(3, (16, 2)).unflatten(2, (16, 2))
    torch.testing.assert_close(test.batch([3], (16, 16))["x"], pairs.mean((3, 5)), atol=0.2, rtol=0)
    assert train.batch([3], (14, 12))["x"].shape == (1, 3, 14, 12)
    assert train.has((24, 24)) and not train.has((14, 12))
    with pytest.raises(ValueError, match="--resolutions 48 among them"):
        train.batch([3], (48, 48))
    with pytest.raises(ValueError, match="expected 65 portraits, got 64"):
        Drawings(files[1], 65)
    with pytest.raises(ValueError, match="does not name its pictures"):
        train.options()


def test_portraits_are_drawn_without_a_file(monkeypatch):
    pytest.importorskip("resvg_py")
    drawn, held_out = Drawings(None, 2), Drawings(None, 2, held_out=True)
    coarse, fine = held_out.batches([1], [(16, 16), (32, 32)])
    assert torch.equal(held_out.batch([1], (16, 16))["x"], coarse["x"]) and fine["x"].shape == (1, 3, 32, 32)
    assert not torch.equal(drawn.batch([1], (16, 16))["x"], coarse["x"])
    assert len(drawn.options()) == 2 and drawn.options() != held_out.options()
    monkeypatch.setitem(sys.modules, "dicebear", None)
    with pytest.raises(ValueError, match=r"pip install 'fnodiff\[datasets\]'"):
        Drawings(None, 2)


# ---- the features -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net():
    return attributes.load()


@pytest.fixture(scope="module")
def portraits():
    pytest.importorskip("resvg_py")
    drawings = Drawings(None, 384, held_out=True)
    sizes = (32, 48, 64, 96)
    return dict(zip(sizes, (b["x"] for b in drawings.batches(range(384), [(n, n) for n in sizes])), strict=True))


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
    pytest.importorskip("resvg_py")
    output = printed(monkeypatch, capsys, attributes, "--held", 24)
    rows = dict(re.findall(r"^(\w[\w ]*), (?:right|R\^2) +(.*)$", output, flags=re.M))
    at_64 = {name: float(values.split()[4].rstrip("%")) for name, values in rows.items()}
    assert at_64["clothes"] > 90 and at_64["hair"] > 85 and at_64["base colour"] > 0.8 and at_64["size drawn at"] > 0.8


def test_what_is_known_of_a_portrait():
    drawing = {f"{name}Variant": kinds[-1] for name, kinds in attributes.CLASSES.items()}
    drawing |= {"hairColor": ["#ff0033"], "scale": 0.9, "translateX": -1, "translateY": 2}
    del drawing["glassesVariant"]
    numbers, classes = attributes.known([drawing], 64)
    assert classes["glasses"].tolist() == [0] and classes["hair"].tolist() == [7]
    named = dict(zip(attributes.NUMBERS, numbers[0].split(attributes.WIDTHS), strict=True))
    torch.testing.assert_close(named["hair colour"], torch.tensor([1.0, 0.0, 0.2]))
    assert named["glasses colour"].isnan().all() and named["translateY"] == 2 and named["size drawn at"] == 6


def test_distances_of_two_sizes_are_refused(net):
    with pytest.raises(ValueError, match="portraits of one size"):
        attributes.distance(net, torch.zeros(4, 3, 32, 32), torch.zeros(4, 3, 48, 48))


def test_copies_are_nearer_than_held_out_pictures(files, monkeypatch, capsys):
    x, y = (Drawings(path).batch(range(16), (32, 32))["x"] for path in (files[1], files[3]))
    copied, own = memorisation.nearest(x[:5] + 0.01, x), memorisation.nearest(y, x)
    torch.testing.assert_close(copied, torch.full((5,), 0.01), atol=1e-4, rtol=0)
    assert own.min() > 0.05
    brute = (y[:, None] - x[None]).square().mean((2, 3, 4)).sqrt().amin(1)
    torch.testing.assert_close(own, brute, atol=1e-4, rtol=1e-4)
    output = printed(monkeypatch, capsys, memorisation, "portraits", *files, "--count", 16, "--samples", 2)
    rows = dict(re.findall(r"^(held-out portraits|samples), pixels +([\d.]+)", output, flags=re.M))
    assert len(rows) == 2 and float(rows["held-out portraits"]) == pytest.approx(float(own[:2].min()), abs=1e-3)


@pytest.mark.slow
def test_other_benchmarks_read_the_same_files(files, monkeypatch, capsys):
    rows = printed(monkeypatch, capsys, evaluations, "portraits", *files[2:], "--samples", 4, "--evaluations", 3)
    assert len(re.findall(r"^(DPMSolver|Heun|DDIM|other true).* [\d.]+$", rows, flags=re.M)) == 5
    monkeypatch.setattr(loading, "NETWORK", DFU.tiny)
    monkeypatch.setattr(loading, "BATCH", 4)
    rows = printed(monkeypatch, capsys, loading, *files[:2], "--count", 20, "--steps", 5, "--rounds", 1)
    assert re.findall(r"^(\S.*?)  +\d+", rows, flags=re.M)[:3] == ["PNG files of 32x32", "prepared HDF5", "in memory"]


def test_looking_for_what_is_kept_makes_nothing(study, tmp_path):
    assert not study.kept(scale.OURS, 0, 32) and not any(tmp_path.iterdir())


class TestPairs:
    """Sheets of samples beside true drawings, for an eye."""

    def test_the_key_says_where_each_sample_is(self, tmp_path):
        made, true = torch.full((25, 3, 8, 8), 10, dtype=torch.uint8), torch.full((25, 3, 8, 8), 200, dtype=torch.uint8)
        key = pairs.write_sheets(made, true, range(25), tmp_path, torch.Generator().manual_seed(0))
        assert set(key) == {"left", "right"} and len(key) == 25
        assert {path.name for path in tmp_path.iterdir()} == {"pairs-8-0.png", "pairs-8-1.png", "samples-8.png"}
        picture = Image.open(tmp_path / "pairs-8-1.png")  # the last five pairs
        n = 8 * 18
        for i, side in enumerate(key[20:]):
            left, top = i % 4 * (2 * n + 12) + 4, i // 4 * (n + 22) + 18
            seen = [picture.getpixel((left + n // 2 + j * (n + 4), top + n // 2))[0] for j in range(2)]
            assert seen == ([10, 200] if side == "left" else [200, 10])

    def test_answers_are_counted(self):
        key = ["left", "right", "right", "left"]
        assert pairs.told_apart(key, "left right\nleft left").startswith(
            "3 of 4 pairs told apart, 75%; guessing: 0% to 100%"
        )
        with pytest.raises(ValueError, match="expected 4 words, each left or right, got 3"):
            pairs.told_apart(key, "left right left")
        with pytest.raises(ValueError, match="each left or right"):
            pairs.told_apart(key, "left right left neither")

    def test_samples_of_another_model_are_not_taken_for_its_own(self, files, tmp_path):
        (tmp_path / "options.json").write_text(json.dumps({"model": "another", "first": 100, "count": 4}))
        with pytest.raises(ValueError, match=r"expected options .*another.*; name another --out"):
            pairs.main(["portraits", "--test", files[3], "--count", "4", "--out", str(tmp_path)])
