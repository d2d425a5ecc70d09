"""The Navier-Stokes example: trained for a second, its truths are right and its models are not."""

from __future__ import annotations

import re

import pytest
from PIL import Image


def rows(output, label):
    """The numbers of every line that starts with this label, after it."""
    lines = re.findall(rf"^   {re.escape(label)}  +(.*)$", output, flags=re.M)
    return [[float(v) for v in re.findall(r"-?[\d.]+(?:e-\d+)?", line)] for line in lines]


def by_chance(output, name):
    """How far the mean of as many samples of the exact posterior is from its own mean, in %."""
    return re.search(rf"^   {re.escape(name)}, exact posterior.*\n +([\d.]+)% by chance", output, flags=re.M)[1]


def test_navier_stokes_trains_once_and_answers_three_questions(tmp_path, run_here):
    first = run_here("navier_stokes", "--smoke", "--quiet")
    again = run_here("navier_stokes", "--smoke", "--quiet", "--models", "navier_stokes", "--out", "again")
    assert rows(first, "rollout at 96") == rows(again, "rollout at 96") != [], "the models that were kept"

    for name in ("w(0)", "w(1)"):  # error of the mean, distance from the exact mean, CRPS, spread, coverage, nominal
        prior, exact, pair = (rows(first, f"{name}, {law}")[0] for law in ("prior", "exact posterior", "pair"))
        assert exact[0] < 0.5 * prior[0] and exact[2] < 0.5 * prior[2] and exact[3] < 0.5 * prior[3], (
            "69 values tell much"
        )
        assert abs(exact[4] - exact[5]) < 20, "the exact posterior covers the truth"
        assert pair[1] > 2 * float(by_chance(first, name)), "an untrained model's is another"

    (held,), (kept,), (rolled,) = (
        rows(first, s) for s in ("what 48 points hold", "w(0) for all times", "rollout at 48")
    )
    assert max(held) < 1 and 40 < kept[0] < kept[-1], "48 points nearly hold a flow that moves on"
    assert min(rolled) > 30, "an untrained model forecasts nothing"

    errors = {name: rows(first, name)[0][0] for name in ("true, 48", "true, 96", "sampled at 48", "sampled at 96")}
    assert errors["true, 96"] < errors["true, 48"] < 1, "true pairs solve the equation"
    assert min(errors["sampled at 48"], errors["sampled at 96"]) > 30, "those of an untrained model do not"

    for name in ("forecast", "rollout", "refinement"):
        width, height = Image.open(tmp_path / f"navier_stokes_{name}.png").size
        assert width > 800 and height > 600


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "nowhere"], "make them with --train"),
        (["--samples", "9"], "--samples and --exact of 10 or more"),
        (["--test", "3", "--truths", "4"], "--truths from 1 to --test"),
        (["--device", "tpu"], "invalid choice"),
    ],
)
def test_bad_arguments_end_in_a_message(run_here, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        run_here("navier_stokes", *arguments)
    assert message in f"{caught.value}{capsys.readouterr().err}"
