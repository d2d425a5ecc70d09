"""The terrain example runs to the end, and its tables hold what they say."""

from __future__ import annotations

import re
import shutil

import pytest
from PIL import Image

from fnodiff.checkpoint import from_pretrained

FIGURES = ("terrain_samples.png", "terrain_spectra.png", "terrain_upscaled.png")
TINY = ("--samples", 4, "--test", 16, "--truths", 1, "--members", 10, "--evaluations", 3)


def tables(output):
    """{(size, row): numbers} of the samples and of the upscaled windows; a "-" is None."""
    found = []
    for part in re.split(r"^2\. ", output, flags=re.M):
        rows = re.findall(r"^   (\d\d)  (.{26})(.*)$", part, flags=re.M)
        values = [[None if v == "-" else float(v.rstrip("%")) for v in re.findall(r"[\d.%-]+", row[2])] for row in rows]
        found.append({(int(n), name.strip()): v for (n, name, _), v in zip(rows, values, strict=True)})
    return found


def test_smoke_trains_samples_upscales_and_draws(tmp_path, run_here):
    first = run_here("terrain_superres", "--smoke", "--quiet")
    samples, upscaled = tables(first)
    assert len(samples) == 9 and len(upscaled) == 10

    # What is known of the terrain: the strip is steeper, its detail has a steep spectrum, and finer cells are rougher.
    for n in (48, 96):
        assert samples[n, "held out"][1] > 1.2 * samples[n, "training side"][1]
        assert 3.5 < samples[n, "held out"][4] < 5
    assert samples[96, "held out"][1] > 1.1 * samples[48, "held out"][1]
    assert 5 < samples[96, "held out"][5] < 7
    assert samples[96, "held out"][6:] == [0, 1], "no distance from itself, and its own energy"
    distance, energy = samples[96, "training side"][6:]
    assert distance < 0.1 and energy == pytest.approx(1, abs=0.3)

    # Interpolants have no spread, and know more of 48 x 48 cells than of 24 x 24.
    for name in ("bicubic", "Fourier"):
        score, error, covered, _kept, *_slopes, _distance, energy = upscaled[24, name]
        assert score == error and covered is None and energy < 0.5
        assert upscaled[48, name][0] < 0.5 * score
    # Modes that are fixed come back, whatever the model; a model that has learnt nothing is the Gaussian process.
    assert upscaled[48, "known modes"][3] < upscaled[48, "Fourier"][3]
    for n in (24, 48):
        process, moments = upscaled[n, "Gaussian process"], upscaled[n, "moment matching"]
        assert moments[0] == pytest.approx(process[0], rel=0.1)
        assert process[2] is not None and moments[2] is not None

    for name in FIGURES:
        width, height = Image.open(tmp_path / name).size
        assert width > 1000 and height > 350
    model = from_pretrained(tmp_path / "terrain_superres")
    assert model.training_shapes == ((24, 24), (32, 32), (48, 48))
    assert (tmp_path / "terrain_superres" / "model.safetensors").stat().st_size < 15 * 2**20

    again = run_here(
        "terrain_superres", "--quiet", *TINY, "--models", "terrain_superres", "--out", "again", "--count", 9
    )
    assert tables(again) == [samples, upscaled], "the model that was kept"
    assert {path.name for path in (tmp_path / "again").iterdir()} == set(FIGURES)
    shutil.rmtree(tmp_path / "terrain_superres")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "nowhere"], "--train trains one"),
        (["--smoke", "--device", "tpu"], "invalid choice"),
        (["--train", "--samples", "1"], "2 or more"),
        (["--train", "--members", "5"], "--members of 10"),
        (["--train", "--evaluations", "2"], "--evaluations of 3"),
    ],
)
def test_bad_arguments_end_in_a_message(run_here, capsys, arguments, message):
    with pytest.raises(SystemExit):
        run_here("terrain_superres", *arguments)
    assert message in capsys.readouterr().err
