"""The examples run to the end, on what we draw and on real images."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import cbook
from PIL import Image

from fnodiff.checkpoint import from_pretrained, save_pretrained

EXAMPLE = Path(__file__).parent.parent / "examples" / "ffhq_superres.py"


def run(*arguments, cwd):
    """The example as a process of its own."""
    command = [sys.executable, str(EXAMPLE), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def table(output):
    """{(size, row): [spectrum, global, patches, ...]}"""
    lines = re.findall(r"^ *(\d+)  (.{24})(.*)$", output, flags=re.M)
    numbers = {(size, name): rest.replace("/", " ").split() for size, name, rest in lines}
    return {(int(size), name.strip()): [float(v) for v in row if v != "-"] for (size, name), row in numbers.items()}


def test_smoke_trains_samples_measures_and_draws(tmp_path, run_here):
    rows = table(run_here("ffhq_superres", "--smoke"))
    assert {size for size, _ in rows} == {32, 48, 64}
    assert all(np.isfinite(values).all() and min(values) > 0 for values in rows.values())
    assert [len(rows[size, "sampled"]) for size in (32, 48, 64)] == [3, 5, 5]
    # The truth is nearer to the truth than an untrained model is, by every measure.
    assert all(a < b for a, b in zip(rows[64, "other true images"][:4], rows[64, "sampled"][:4], strict=True))
    width, height = Image.open(tmp_path / "ffhq_superres.png").size
    assert width > 800 and height > 600
    assert from_pretrained(tmp_path / "ffhq_superres").training_shapes == ((16, 16), (24, 24), (32, 32))

    again = ["--smoke", "--checkpoint", "ffhq_superres", "--out", "again"]
    assert table(run_here("ffhq_superres", *again)) == rows, "a saved model samples the same"
    worse = from_pretrained(tmp_path / "ffhq_superres")
    for parameter in worse.parameters():
        parameter.data.mul_(0.5)
    save_pretrained(worse, tmp_path / "worse")
    guided = table(run_here("ffhq_superres", *again, "--autoguide", "worse"))
    assert guided.keys() == rows.keys() and guided[32, "sampled"] != rows[32, "sampled"]
    assert guided[32, "other true images"] == rows[32, "other true images"]


def test_every_mechanism_has_an_option(tmp_path, run_here):
    options = [
        "--levels",
        "fixed",
        "--local",
        "operator",
        "--preconditioning",
        "spectral",
        "--shown",
        "--octaves",
        0.5,
        "--guidance",
        2,
    ]
    sampling = ["--sampler", "dpm", "--spacing", "log_snr", "--progressive", 16, 24, "--upscale", "--sample-at", 32, 48]
    out = run_here("ffhq_superres", "--smoke", *options, *sampling)
    assert {size for size, _ in table(out)} == {32, 48}
    assert re.search(r"^evaluations: [1-9] at 16, then \d at 24, then \d at 32$", out, flags=re.M)
    upscaled, bicubic, again = (float(v) for v in re.findall(r"([\d.]+)% from", out))
    assert 0 < bicubic < upscaled < 100 and 0 < again < upscaled, (
        "an untrained model adds detail, and keeps what is given"
    )
    assert (tmp_path / "ffhq_upscaled.png").stat().st_size > 20_000
    model = from_pretrained(tmp_path / "ffhq_superres")
    assert model.backbone.config["levels"] == "fixed" and model.backbone.num_classes == 7 and model.shown


def test_takes_the_model_that_comes_with_it(tmp_path, run_here):
    out = run_here("ffhq_superres", "--samples", 16, "--sample-at", 32, 48, "--quiet")
    assert re.search(r"^evaluations: \d at 16, then \d at 32, then \d at 48$", out, flags=re.M)
    rows = table(out)
    distance, energy = rows[48, "sampled"][3:]
    blurred, none = rows[48, "bicubic of sampled 32"][3:]
    assert distance < blurred / 5 and none < 0.5 < energy < 1.5, "detail that the training grids could not hold"
    assert not (tmp_path / "ffhq_superres").exists(), "nothing is trained"


@pytest.mark.parametrize("name", ["ffhq_paper", "ffhq"])
def test_options_come_from_a_file(tmp_path, run_here, name):
    few = ["--smoke", "--resolutions", 16, 24, "--weights", 1, 2, "--sample-at", 24, 32]
    out = run_here("ffhq_superres", f"@{EXAMPLE.parent / 'configs' / name}.txt", *few)
    assert {size for size, _ in table(out)} == {24, 32}
    model = from_pretrained(tmp_path / "ffhq_superres")
    ours = name == "ffhq"
    assert (model.backbone.config["levels"] == "fixed", model.spectrum is not None) == (ours, ours)
    assert type(model.sde.noise).__name__ == ("WhiteNoise" if ours else "PixelNoise")
    assert ("then" in out) == ours, "coarser grids first"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "--data", "nowhere"], "nowhere"),
        (["--data", "nowhere"], "expected --train or --checkpoint with --data"),
        (["--guidance", "2"], "expected --train or --checkpoint with --data and --guidance"),
        (["--minutes", "3", "--batch", "8"], "expected --train with --minutes, --batch"),
        (["--train", "--checkpoint", "nowhere"], "got both"),
        (["--smoke", "--checkpoint", "nowhere"], "expected a folder"),
        (["--smoke", "--resolutions", "0"], "two ints of at least 8"),
        (["--samples", "1"], "2 or more"),
        (["--device", "tpu"], "invalid choice"),
        (["--evaluations", "1"], "3 or more"),
        (["--smoke", "--octaves", "2"], "octaves in [0, 1]"),
    ],
)
def test_bad_arguments_end_in_a_message(run_here, capsys, arguments, message):
    with pytest.raises((SystemExit, ValueError, FileNotFoundError)) as caught:
        run_here("ffhq_superres", *arguments)
    assert message in f"{caught.value}{capsys.readouterr().err}"


@pytest.mark.slow
@pytest.mark.parametrize("archive", [False, True], ids=["folder", "zip"])
def test_real_images(tmp_path, archive):
    """Crops of the photograph and of the elevation map that matplotlib ships."""
    photograph = Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
    with cbook.get_sample_data("jacksboro_fault_dem.npz") as file:
        elevation = file["elevation"].astype(float)
    grey = Image.fromarray(np.uint8(255 * (elevation - elevation.min()) / np.ptp(elevation)))
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for kind, picture in (("photo", photograph), ("map", grey)):
        for i in range(30):
            x, y = (int(rng.integers(0, n - 128)) for n in picture.size)
            picture.crop((x, y, x + 128, y + 128)).save(folder / f"{kind}{i:02}.{'png' if i % 2 else 'jpg'}")
    (folder / "notes.txt").write_text("not an image")
    data = folder
    if archive:
        data = tmp_path / "images.zip"
        with zipfile.ZipFile(data, "w") as z:
            for file in folder.iterdir():
                z.write(file, file.name)
    arguments = [
        "--train",
        "--data",
        data,
        "--resolutions",
        16,
        24,
        32,
        "--sample-at",
        32,
        48,
        "--steps",
        60,
        "--samples",
        10,
    ]
    done = run(*arguments, "--batch", 8, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = table(done.stdout)
    assert rows[48, "other true images"][0] < rows[48, "sampled"][0]
    assert (tmp_path / "ffhq_superres.png").stat().st_size > 50_000
    normalization = from_pretrained(tmp_path / "ffhq_superres").normalization
    assert torch.equal(normalization.std > 0.2, torch.ones(3, dtype=torch.bool))


def test_darcy_flow_trains_once_and_answers_three_questions(tmp_path, run_here):
    first = run_here("darcy_flow", "--smoke", "--quiet")
    few = ["--test", 4, "--truths", 1, "--samples", 10, "--evaluations", 4, "--iterations", 2]
    again = run_here("darcy_flow", "--quiet", "--models", "darcy_flow", *few)
    rows = [re.findall(r"^   (DFU|FNO) +([\d.]+)% +([\d.]+)% +([\d.]+)$", out, flags=re.M) for out in (first, again)]
    assert [name for name, *_ in rows[0]] == ["DFU", "FNO"]
    assert rows[0] == rows[1], "the models that were kept"
    true, sampled = (float(re.search(rf"^   {name} +([\d.]+)", first, flags=re.M)[1]) for name in ("true", "sampled"))
    partly = run_here(
        "darcy_flow", "--train", "fno", "--minutes", 0.01, "--count", 16, "--quiet", "--models", "darcy_flow", *few
    )
    then = dict(re.findall(r"^   (DFU|FNO) +([\d.]+)%", partly, flags=re.M))
    assert then["DFU"] == rows[0][0][1] and then["FNO"] != rows[0][1][1], "one is trained again, the other kept"
    assert true < 0.01 < sampled, "true pairs solve the equation, those of an untrained model do not"
    assert len(re.findall(r"CRPS [\d.]+ of the prior's;\s+\d+% of the area within the central \d+%", first)) == 2
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "darcy_pairs.png",
        "darcy_surrogate.png",
        "darcy_posterior.png",
    }
    with pytest.raises(SystemExit):
        run_here("darcy_flow", "--models", "nowhere")
