"""What the pages show: snippets run, or name what is there (examples in docstrings are tests of their own)."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import Tensor

import fnodiff
from fnodiff import DFU, EDM, Box, FunctionSpaceSDE, GaussianRandomField, Matern, Preconditioned
from fnodiff.checkpoint import from_pretrained, save_pretrained
from fnodiff.sde import GaussianDenoiser, Sampler

ROOT = Path(__file__).parent.parent


def snippets(name):
    """The blocks of Python on a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))]


@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page)])
def test_what_snippets_import_is_there(page):
    imports = [
        node
        for text in snippets(page)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "fnodiff"
    ]
    missing = [
        f"{node.module}.{alias.name}"
        for node in imports
        for alias in node.names
        if not hasattr(importlib.import_module(node.module), alias.name)
    ]
    assert not missing


def test_the_readme_runs():
    (text,) = snippets("README.md")
    assert "(16, 3, 160, 160)" in text and "steps=18" in text
    names = {}
    exec(text.replace("(16, 3, 160, 160)", "(1, 3, 24, 20)").replace("steps=18", "steps=2"), names)
    assert names["x"].shape == (1, 3, 24, 20) and bool(names["x"].isfinite().all())


def test_what_contributors_are_shown_works(tmp_path):
    names = {"dataclass": dataclass, "Tensor": Tensor, "Sampler": Sampler, "__name__": __name__}
    for text in snippets("CONTRIBUTING.md"):
        exec(text, names)
    noise = GaussianRandomField(Box(2), names["Exponential"](0.3))
    assert noise.variance((64, 64)) == pytest.approx(1, abs=0.01)
    sde = FunctionSpaceSDE(noise, EDM())
    save_pretrained(Preconditioned(DFU.tiny(1, 1, num_blocks=0), sde), tmp_path)
    assert from_pretrained(tmp_path, classes=[names["Exponential"]]).sde == sde

    class Midpoint(names["Midpoint"]):
        def step(self, x_t, t, s, *, generator=None, **condition):
            return x_t * (self.sde.schedule(s)[1] / self.sde.schedule(t)[1]).to(x_t)

    run = Midpoint(GaussianDenoiser(GaussianRandomField(Box(2), Matern(1.0, 0.3)), sde), 3)
    assert float(run.draw((1, 8, 8), [0]).abs().max()) < 10 < float(sde.prior((1, 1, 8, 8)).abs().max())


@pytest.mark.parametrize("name", fnodiff.__all__)
def test_every_public_name_has_an_example(name):
    (found,) = (t for t in doctest.DocTestFinder(recurse=False).find(getattr(fnodiff, name), name))
    assert any(example.want for example in found.examples), "one that prints something"


def test_examples_are_run(pytestconfig):
    assert "fnodiff" in pytestconfig.getini("testpaths") and "--doctest-modules" in pytestconfig.getini("addopts")
