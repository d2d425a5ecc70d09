"""The example on the sphere: trained for a second, its truths are right and its model is not."""

from __future__ import annotations

import re

import pytest
from PIL import Image


def numbers(output, label):
    """The numbers of the first line that starts with this label, after it."""
    line = re.search(rf"^   {re.escape(label)}[: ](.*)$", output, flags=re.M)[1]
    return [float(v) for v in re.findall(r"-?[\d.]+(?:e[-+]?\d+)?", line)]


def test_sphere_trains_once_and_answers_three_questions(tmp_path, run_here):
    first = run_here("sphere_shallow_water", "--smoke", "--quiet")
    again = run_here("sphere_shallow_water", "--smoke", "--quiet", "--model", "sphere_shallow_water", "--out", "again")
    for label in ("height, sampled", "vorticity, sampled", "vorticity"):
        assert numbers(first, label) == numbers(again, label), "the model that was kept"

    (mean, spread, error, beyond), sampled = numbers(first, "height, true"), numbers(first, "height, sampled")
    assert 1500 < mean < 2500 and 100 < spread < 1000 and error == 0 and beyond < 1e-4, "metres of water"
    assert sampled[2] > 0.3, "an untrained model has another spectrum"
    assert 0 < numbers(first, "height")[0] < 30, "and yet is nearly the same operator on both grids"

    for name in ("samples", "stations"):
        width, height = Image.open(tmp_path / f"sphere_{name}.png").size
        assert width > 800 and height > 500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nowhere"], "make one with --train"),
        (["--ensemble", "9"], "--ensemble of 10 or more"),
        (["--stations", "0"], "--stations of 1 or more"),
        (["--device", "tpu"], "invalid choice"),
    ],
)
def test_bad_arguments_end_in_a_message(run_here, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        run_here("sphere_shallow_water", *arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
