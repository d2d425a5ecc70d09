"""The tutorials of docs/tutorials: their cells compile, name what exists, and run from top to bottom."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

PAGES = sorted((Path(__file__).parent.parent / "docs" / "tutorials").glob("*.md"))
TUTORIALS = [page for page in PAGES if page.stem != "index"]


def cells(page: Path) -> list[str]:
    """The code cells of a page, without the options at their heads; the lines where they stand, for errors."""
    text, found = page.read_text(), []
    for match in re.finditer(r"^```\{code-cell\} ipython3\n(.*?)^```$", text, flags=re.M | re.S):
        code = re.sub(r"^:\w+:.*$", "", match[1], flags=re.M)
        found.append("\n" * (text[: match.start(1)].count("\n")) + code)
    return found


def exists(module: str, name: str) -> bool:
    """Whether a module has something of this name, or a module."""
    found = hasattr(importlib.import_module(module), name)
    return found or importlib.util.find_spec(f"{module}.{name}") is not None


def test_the_index_lists_every_page():
    index = next(page for page in PAGES if page.stem == "index").read_text()
    listed = re.search(r"^```\{toctree\}\n(.*?)^```$", index, flags=re.M | re.S)[1].split()
    assert sorted(name for name in listed if name[0] != ":" and not name.isdigit()) == [p.stem for p in TUTORIALS]


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_cells_compile_and_name_what_exists(page):
    code, missing = cells(page), []
    assert code and len(code) == len(re.findall(r"^```\{code-cell\}", page.read_text(), flags=re.M))
    assert page.read_text().startswith("---\nfile_format: mystnb\n"), "else nothing runs in the build"
    for cell in code:
        for node in ast.walk(ast.parse(cell, str(page))):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "fnodiff":
                missing += [f"{node.module}.{a.name}" for a in node.names if not exists(node.module, a.name)]
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
    assert not missing


QUICK = ["extending", "own_domain"]
"""Pages whose cells need no training and no trained model."""


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=page.stem, marks=[] if page.stem in QUICK else pytest.mark.slow) for page in TUTORIALS],
)
def test_cells_run_from_top_to_bottom(page, tmp_path, monkeypatch, capsys):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    if "from portraits import" in page.read_text():
        pytest.importorskip("resvg_py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    default = torch.get_default_dtype()
    names: dict[str, object] = {"__name__": "__main__"}
    try:
        figures = 0
        for cell in cells(page):
            exec(compile(cell, str(page), "exec"), names)
            figures += len(plt.get_fignums())
            plt.close("all")
    finally:
        torch.set_default_dtype(default)
    printed = capsys.readouterr().out
    assert figures and printed, "a tutorial shows something"
    assert "nan" not in printed.split() and "False" not in printed.split(), "no check that a page prints has failed"
    if page.stem == "extending":
        order = float(re.search(r"AdamsBashforth .* order (\S+)", printed)[1])
        shares = [float(share) for share in re.findall(r"the law's (\S+)", printed)]
        assert abs(order - 2) < 0.2 and len(shares) == 3 and all(abs(share - 1) < 0.1 for share in shares)
        assert "clipped  from -1.00 to 1.00" in printed and "moved by 0.00, 0.49, 0.99" in printed
