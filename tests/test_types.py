"""The type information that the package ships: a checker accepts the ten lines of the docs, and its stub names everything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_documentation import blocks

pytest.importorskip("mypy")

GIVEN = """
import torch
from torch import Tensor

photograph, points, values = torch.zeros(1, 3, 64, 64), torch.zeros(5, 2), torch.zeros(5, 3)
"""


WRONG = "network: int = model.network"


@pytest.mark.slow
def test_a_type_checker_accepts_the_ten_lines_and_refuses_wrong_ones(tmp_path: Path) -> None:
    code = next(block for block in blocks("docs/index.md", "python") if "posterior(" in block)
    script = tmp_path / "ten_lines.py"
    script.write_text(GIVEN + code + f"z: Tensor = big\n{WRONG}\nfit(model, 3, steps=1)\n")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--follow-imports=silent",
        "--cache-dir",
        str(tmp_path / "cache"),
        str(script),
    ]
    found = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False).stdout
    lines = script.read_text().splitlines()
    errors = [int(line.split(":")[1]) for line in found.splitlines() if ": error:" in line]
    assert [lines[n - 1].split("=")[0] for n in errors] == ["network: int ", "fit(model, 3, steps"], found
