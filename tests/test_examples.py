"""The examples run to the end: with models that are trained for a moment, and with those of the repository."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fnodiff import Box, Model
from fnodiff.data import ArrayFields, write_fields

EXAMPLES = Path(__file__).parent.parent / "examples"
MODELS = {
    "ffhq_superres": ["ffhq_superres"],
    "darcy_flow": ["darcy_flow/pair", "darcy_flow/surrogate", "darcy_flow/prior"],
    "navier_stokes": ["navier_stokes/pair", "navier_stokes/step"],
    "terrain_superres": ["terrain_superres"],
    "sphere_shallow_water": ["sphere_shallow_water"],
    "phase_separation": ["phase_separation"],
}


def numbers(output: str, label: str) -> list[float]:
    """The numbers of all lines that begin with this label, after it."""
    lines = re.findall(rf"^{label}(.*)$", output, flags=re.M)
    return [float(v) for line in lines for v in re.findall(r"(?<![\w.])-?\d+\.\d+", line)]


def table(output: str) -> dict[tuple[int, str], list[float]]:
    """{(size, row): [pictures, spectrum, global, patches, ...]} of the portraits."""
    lines = re.findall(r"^ *(\d+)  (.{22})(.*)$", output, flags=re.M)
    return {
        (int(size), name.strip()): [float(v) for v in rest.replace("/", " ").split() if v != "-"]
        for size, name, rest in lines
    }


@pytest.mark.parametrize("name", [*MODELS, "vorticity"])
def test_an_example_is_one_screen(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    assert text.count("\n") <= 125
    assert ast.get_docstring(ast.parse(text)).count("\n=") == 1, "a title, for the gallery"


@pytest.mark.slow
def test_vorticity_of_the_repositorys_model(tmp_path, run_here):
    output = run_here("vorticity", "--smoke")
    first, second = (float(v) for v in re.findall(r"from 32 by (.*)%", output))
    assert 0 < first < 3 and 0 < second < 3
    assert Image.open(tmp_path / "vorticity.png").size == (1200, 230)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_it_trains_measures_and_draws(name, tmp_path, run_here):
    if name == "ffhq_superres":
        pytest.importorskip("resvg_py")
    output = run_here(name, "--smoke", "--train")
    found = numbers(output, "") if name == "ffhq_superres" else numbers(output, r"\d\. ")
    assert len(found) >= 4 and np.isfinite(found).all()
    width, height = Image.open(tmp_path / f"{name}.png").size
    assert width > 800 and height > 400
    for folder in MODELS[name]:
        assert Model.from_pretrained(tmp_path / folder).training_shapes, (
            "what was trained is there, to be sampled again"
        )


def test_portraits_of_the_packages_model(tmp_path, run_here):
    pytest.importorskip("resvg_py")
    rows = table(run_here("ffhq_superres", "--smoke"))
    assert {size for size, _ in rows} == {48, 96}
    assert all(np.isfinite(values).all() and min(values) > 0 for values in rows.values())
    assert [len(rows[size, "sampled"]) for size in (48, 96)] == [4, 6]
    # Upsampling has next to none of the detail above the training band; samples have about the truth's.
    bicubic, sampled = rows[96, "bicubic of sampled 48"], rows[96, "sampled"]
    assert bicubic[5] < 0.2 < 0.5 < sampled[5] < 2
    width, height = Image.open(tmp_path / "ffhq_superres.png").size
    assert width > 700 and height > 500


@pytest.mark.slow
def test_portraits_at_four_times_the_training_size(tmp_path, run_here):
    pytest.importorskip("resvg_py")
    rows = table(run_here("ffhq_superres", "--samples", 8))
    assert [len(rows[size, "sampled"]) for size in (48, 96, 192)] == [4, 6, 6]
    assert all(np.isfinite(values).all() and min(values) > 0 for values in rows.values())
    assert rows[192, "bicubic of sampled 48"][5] < 0.2 < 0.5 < rows[192, "sampled"][5] < 2
    assert Image.open(tmp_path / "ffhq_superres.png").height > 700


def test_portraits_need_the_packages_that_draw(run_here, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "dicebear", None)
    with pytest.raises(SystemExit) as stopped:
        run_here("ffhq_superres", "--smoke")
    assert stopped.value.code == 1 and "pip install 'fnodiff[datasets]'" in capsys.readouterr().err


def test_portraits_may_be_pictures_of_ones_own(tmp_path, run_here):
    about = {"source": "a test", "licence": "none", "grid": "cell averages"}
    own, shapes = ArrayFields(torch.rand(160, 3, 64, 64) * 2 - 1, domain=Box(2)), [(n, n) for n in (16, 24, 32, 64)]
    write_fields(tmp_path / "own.h5", own, shapes, attributes=about, progress=False)
    rows = table(run_here("ffhq_superres", "--smoke", "--train", "--data", tmp_path / "own.h5"))
    assert {size for size, _ in rows} == {32, 64}, "those that the file has"
    assert Model.from_pretrained(tmp_path / "ffhq_superres").training_shapes == ((16, 16), (24, 24), (32, 32))


@pytest.mark.slow
def test_darcy_flow_of_the_repositorys_models(tmp_path, run_here):
    output = run_here("darcy_flow", "--smoke")
    assert numbers(output, "1. pairs at 96x96")[0] < 30, "u of a sampled pair is near the solver's, in %"
    at_48, at_96 = (numbers(output, rf"2. u given a at {n}: DFU")[0] for n in (48, 96))
    assert at_48 < 3 and at_96 < 1.5 * at_48
    wrong, covered, nominal = (float(v) for v in re.findall(r"([\d.]+)%", output.split("3. a from u:")[1]))
    assert wrong < 12 and 20 < covered <= 100 and 80 <= nominal <= 90
