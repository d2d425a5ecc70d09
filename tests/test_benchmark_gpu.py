"""The GPU's tables, tried on a CPU; the notebook that runs them; and what is said where there is no GPU."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

from benchmarks import gpu

ROOT = Path(__file__).parent.parent
ROW = r"^  (.{28}) +[\d.]+ ms +[\d.]+ ms +[\d.]+/s +[\d.]+/s +\d+ MiB +([\d.]+)( +[\d.]+ s)?$"


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["gpu", *map(str, arguments)])
    for module, name in ((torch.backends.cudnn, "allow_tf32"), (torch.backends.cudnn, "benchmark")):
        monkeypatch.setattr(module, name, getattr(module, name))
    precision = torch.get_float32_matmul_precision()
    try:
        gpu.main()
    finally:
        torch.set_float32_matmul_precision(precision)


@pytest.mark.slow
def test_every_table_is_printed_and_written(monkeypatch, capsys, tmp_path):
    run(monkeypatch, "--device", "cpu", "--quick", "--minutes", "30", "--out", tmp_path / "gpu.txt")
    printed = capsys.readouterr().out
    assert (tmp_path / "gpu.txt").read_text() == printed
    assert torch.__version__.split("+")[0] in printed and "left out" not in printed and "failed" not in printed
    titles = re.findall(r"^(.+), (\d+)x\2, batch \d+, (.+)$", printed, flags=re.M)
    assert [way for *_, way in titles] == ["float32", "bfloat16", "float32", "bfloat16", "bfloat16, compiled"]
    rows = re.findall(ROW, printed, flags=re.M)
    names = ["diffusers UNet2D", "UNet", "DFU, half the grid a level", "DFU, levels by a reference"]
    assert [name.strip() for name, *_ in rows] == 5 * names
    assert [float(ratio) for name, ratio, _ in rows if name.strip() == names[0]] == 5 * [1.0]
    assert [bool(compiled) for *_, compiled in rows] == 16 * [False] + 4 * [True]
    assert len(re.findall(r"^(?:SpectralConv|CosineConv, even)( +[\d.]+ / [\d.]+)+$", printed, flags=re.M)) == 4


def test_what_does_not_fit_or_fails_is_a_line(monkeypatch, capsys):
    options = type("Options", (), {"repeats": 1, "device": "cpu", "backend": "eager"})
    fails = {"a": torch.OutOfMemoryError(), "b": RuntimeError("no kernel\nat line 3"), "d": None}

    def row(make, *_):
        if fails[make] is not None:
            raise fails[make]
        return 0.001, 0.003, 2**21, 0.0

    monkeypatch.setattr(gpu, "row", row)
    networks = gpu.Networks("few", {"a": "a", "b": "b", "c": "c", "d": "d"}, 4)
    clock = gpu.Clock(float("inf"))
    gpu.table(networks, 16, 4, {"c": "one sample does not fit"}, "float32", options, clock)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()[-4:]]
    assert re.fullmatch(r"a +left out: a batch of 4 does not fit into memory", lines[0])
    assert re.fullmatch(r"b +failed: RuntimeError: no kernel", lines[1])
    assert re.fullmatch(r"c +left out: one sample does not fit", lines[2])
    assert re.fullmatch(r"d +1.00 ms +3.00 ms +333.3/s +1333.3/s +2 MiB +-", lines[3])
    gpu.table(networks, 16, 4, {}, "float32", options, gpu.Clock(end=0.0))
    assert capsys.readouterr().out.count("less time is left than a row takes") == 4


@pytest.mark.parametrize("arguments", [(), ("--device", "cpu")], ids=["no GPU", "a CPU's tables are others"])
def test_without_a_gpu_it_says_what_it_needs(monkeypatch, capsys, tmp_path, arguments):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, *arguments, "--out", tmp_path / "gpu.txt")
    assert stopped.value.code == 2 and not (tmp_path / "gpu.txt").exists()
    assert re.search(r"expected an NVIDIA GPU .*which sees .*--device cpu --quick", capsys.readouterr().err, flags=re.S)


def test_the_notebook_is_one_and_its_commands_are_there():
    notebook = json.loads((ROOT / "examples" / "gpu.ipynb").read_text())
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(notebook)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) == 3 and not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    text = "\n".join("".join(cell["source"]) for cell in cells)
    targets, makefile = re.findall(r"make ([\w-]+)", text), (ROOT / "Makefile").read_text()
    assert targets == ["install", "test-gpu"]
    assert all(re.search(rf"^{target}:", makefile, flags=re.M) for target in targets)
    assert re.findall(r"-m benchmarks\.(\w+)", text) == ["gpu"]
    assert re.search(r"^test-gpu:.*\n\t.*tests/test_cuda\.py$", makefile, flags=re.M)
    assert "\nbench = " in (ROOT / "pyproject.toml").read_text()
