"""How time and memory grow: the tables are printed, and slopes are exponents."""

import pytest

from benchmarks import growth
from fnodiff import Torus


def test_a_slope_is_an_exponent():
    assert growth.slope([1, 2, 4], [3, 12, 48]) == pytest.approx(2)


def test_large_grids_stand_beside_a_pair_of_ffts(capsys):
    growth.large(Torus(1), (64,))
    first, *rows = capsys.readouterr().out.strip().splitlines()
    assert first.endswith("64 points, one channel: 0 MiB")
    assert len(rows) == 5 and rows[0].split()[-3] == "1.0"
