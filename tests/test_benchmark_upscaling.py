"""The table of given coarse fields: it trains, samples and counts, on a box and on the sphere."""

from __future__ import annotations

import re
import sys
from functools import partial

import pytest
import torch

from benchmarks import upscaling
from fnodiff import DFU, Box, Sphere
from fnodiff.data import write_fields


class Smooth:
    """Fields of two channels on nested grids."""

    channels, num_classes, condition_channels = 2, 0, 0

    def __init__(self, domain, shape, seed):
        self.domain, self.cell_averages = domain, isinstance(domain, Box)
        self.x = domain.resample(torch.randn(6, 2, *shape, generator=torch.Generator().manual_seed(seed)), shape)

    def __len__(self):
        return len(self.x)

    def batch(self, indices, shape):
        return {"x": self.domain.resample(self.x[list(indices)], shape)}


def written(path, domain, shapes, seed):
    """A file of them."""
    grid = "cell averages" if isinstance(domain, Box) else "points"
    about = {"source": "a test", "licence": "generated", "grid": grid}
    write_fields(path, Smooth(domain, shapes[-1], seed), shapes, attributes=about, dtype="float32", progress=False)
    return path


ROWS = {"upscale": "upscale", "modes": "modes held", "MatchModes": "MatchModes", "rest": "pairs + rest"}


@pytest.mark.parametrize(
    ("name", "only"),
    [
        pytest.param("box", tuple(ROWS), marks=pytest.mark.slow),
        pytest.param("equiangular", ("upscale", "MatchModes"), marks=pytest.mark.slow),
        ("equiangular", ("rest",)),
        ("box", ("upscale",)),
    ],
)
def test_table(name, only, tmp_path, monkeypatch, capsys):
    """Winds are values at points of a sphere: what their regression leaves is so too, and has no averages over cells."""
    domain = Box(2) if name == "box" else Sphere("equiangular")
    shapes = [(6, 6), (8, 8), (16, 16)] if name == "box" else [(5, 8), (7, 12), (13, 24)]
    files = [written(tmp_path / f"{k}.h5", domain, shapes, k) for k in range(2)]
    monkeypatch.setattr(upscaling.DFU, "small", staticmethod(partial(DFU.tiny, n_modes=(3, 6))))
    monkeypatch.setattr(upscaling, "TIMED", 2)
    low = ["--domain", name, "--shapes", str(shapes[0][0]), str(shapes[1][0]), "--low", str(shapes[1][0])]
    options = [
        *low,
        "--high",
        str(shapes[2][0]),
        "--minutes",
        "0.01",
        "--members",
        "2",
        "--count",
        "1",
        "--only",
        *only,
    ]
    monkeypatch.setattr(sys, "argv", ["upscaling", *map(str, files), *options, "--out", str(tmp_path / "out")])
    upscaling.main()
    out = capsys.readouterr().out
    rows = {line[:16].strip(): re.findall(r"[\d.]+|nan", line[16:]) for line in out.splitlines()[2:]}
    wanted = {"bicubic", "pairs"} | {ROWS[row] for row in only}
    assert set(rows) == wanted and all(len(row) == 6 for row in rows.values())
    assert all("nan" in row for key, row in rows.items() if key in ("bicubic", "pairs"))
    assert not any("nan" in row for key, row in rows.items() if key not in ("bicubic", "pairs"))
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    upscaling.main()
    assert capsys.readouterr().out == out and kept == {path: path.stat().st_mtime_ns for path in kept}
