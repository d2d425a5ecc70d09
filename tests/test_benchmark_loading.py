"""The table of what goes around a training step: its rows run, and are compared with the step alone."""

from __future__ import annotations

import re

import pytest
from drawn import Drawn

from benchmarks import loading
from fnodiff import DFU
from fnodiff.data import InMemory


@pytest.mark.slow
def test_fit_is_set_beside_the_step_alone(monkeypatch, capsys):
    monkeypatch.setattr(loading, "NETWORK", DFU.tiny)
    monkeypatch.setattr(loading, "BATCH", 4)
    shapes = [(8, 8), (12, 12), (16, 16)]
    loading.fit_table("in memory", InMemory(Drawn(8), shapes), shapes, steps=5, rounds=1, device="cpu")
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.startswith("in memory")
    rows = [re.fullmatch(r"  (.{24}) +([\d.]+) +(-?[\d.]+)%", line).groups() for line in lines]
    assert [name.strip() for name, *_ in rows][:2] == ["the step alone", "and clipping"] and len(rows) == 9
    assert float(rows[0][2]) == 0 and all(float(rate) > 0 for _, rate, _ in rows)
    first, *others = ((float(rate), float(more)) for _, rate, more in rows)
    for rate, more in others:
        rounding = 0.05 / rate * (1 + first[0] / rate)  # of rates to a decimal
        assert first[0] / rate - 1 == pytest.approx(more / 100, abs=0.01 + rounding)
