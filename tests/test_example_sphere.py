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
    for label in ("sampled at 32 x 64", "vorticity, model"):
        assert numbers(first, label) == numbers(again, label), "the model that was kept"

    solved, sampled, gaussian = (numbers(first, kind)[-7:] for kind in ("solved", "sampled at 32 x 64", "Gaussian"))
    assert 100 < solved[0] < 1000 and solved[1] == 0 and solved[2] < 1e-4, "metres of water, smooth"
    assert solved[-1] > 0.8 > 0.4 > abs(sampled[-1]), "flows are balanced, and an untrained model does not know"
    assert sampled == pytest.approx(gaussian, rel=0.1, abs=0.1), "it says nothing yet"
    height, gaussian = (numbers(first, f"height, {law}") for law in ("model", "Gaussian"))
    assert height[0] < 80 and height[0] == pytest.approx(gaussian[0], rel=0.1), "but stations tell it something"
    assert numbers(first, "vorticity")[0] < 1, "and it is the same on both grids"

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
