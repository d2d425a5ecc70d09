"""What the pages show: programs run, commands parse, links lead somewhere, and words are the field's."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import shlex
from collections import Counter
from dataclasses import dataclass
from inspect import ismodule
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import fnodiff
from fnodiff import (
    DFU,
    EDM,
    Box,
    EDMScaling,
    FunctionSpaceSDE,
    GaussianRandomField,
    Matern,
    Model,
    MultiResolution,
    sample,
)
from fnodiff.cli.app import application
from fnodiff.data import ArrayFields
from fnodiff.sde import GaussianDenoiser, Solver

ROOT = Path(__file__).parent.parent
DOCS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "docs").rglob("*.md")
    if not {"_build", "gallery", "mechanisms_gallery"} & set(path.parts)
)
PAGES = ["README.md", "CONTRIBUTING.md", *DOCS]
SMALLER = {
    "DFU.small": "partial(DFU.tiny, hidden_channels=8, channel_mult=(1,), spectral_levels=1, num_blocks=0)",
    "minutes=60": "steps=1",
    "minutes=5": "steps=1",
    "0, 10_000": "0, 2",
    "range(16)": "range(2)",
    "range(4)": "range(1)",
    "range(8)": "range(2)",
    "(64, 64)": "(33, 33)",
    "(96, 96)": "(49, 49)",
    "(128, 128)": "(33, 33)",
    "progress=True": "progress=False",
}
"""What makes a page's program one of seconds."""


def read(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(page: str, language: str) -> list[str]:
    """The blocks of a language on a page."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", read(page), flags=re.M | re.S)


def smaller(text: str) -> str:
    text = f"from functools import partial\n{text}"
    for large, small in SMALLER.items():
        text = text.replace(large, small)
    return text


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a reader: a folder with pictures in it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(20):
        coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        coarse.resize((36, 36), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_what_programs_import_is_there(page):
    imports = [
        node
        for text in blocks(page, "python")
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


def test_the_ten_lines_run(pictures):
    first, text = blocks("README.md", "python")
    seen: dict[str, object] = {}
    exec(smaller(first), seen)
    assert seen["x"].shape == (2, 3, 49, 49)
    seen = {"photograph": torch.zeros(3, 32, 32), "points": torch.full((2, 1), 0.3), "values": torch.ones(3, 1)}
    exec(smaller(text), seen)
    assert seen["x"].shape == (2, 3, 33, 33) and seen["big"].shape == (1, 3, 33, 33)
    assert seen["model"].training_shapes == ((16, 16), (24, 24), (32, 32)) and seen["model"].cell_averages
    at_points = Box(2).evaluate(seen["y"], seen["points"])
    assert (at_points - 1).abs().max() < 0.5 < (Box(2).evaluate(seen["x"], seen["points"]) - 1).abs().max()
    assert Model.from_pretrained("run").sde == seen["model"].sde


def test_the_front_page_has_the_same_ten_lines():
    (_, text), (front,) = blocks("README.md", "python"), blocks("docs/index.md", "python")
    assert re.sub(r" +#.*", "", text) == front and len(text.splitlines()) <= 12
    assert len(read("README.md").splitlines()) <= 90


def test_five_minutes_run(pictures):
    names: dict[str, object] = {}
    for text in blocks("docs/five_minutes.md", "python"):
        exec(smaller(text), names)
    assert Image.open("sample-1.png").size == (48, 48)
    assert torch.equal(sample(names["model"], (48, 48), range(2)), names["x"])


def test_the_own_loop_runs(pictures):
    (text,) = blocks("docs/own_loop.md", "python")
    names: dict[str, object] = {}
    exec(smaller(text), names)
    trained = Model.from_pretrained("run")
    pairs = list(zip(trained.parameters(), names["model"].parameters(), strict=True))
    assert all(torch.allclose(a, b, atol=0.01) for a, b in pairs), "the average follows the weights"
    assert not all(torch.equal(a, b) for a, b in pairs), "and is not the weights"
    assert len(trained.training_shapes) == 3 and sample(trained, (16, 16), seeds=[0]).shape == (1, 3, 16, 16)


def test_the_page_on_data_runs(pictures, capsys):
    pytest.importorskip("xarray")
    names: dict[str, object] = {}
    for text in blocks("docs/data.md", "python"):
        exec(text, names)
    printed = capsys.readouterr().out
    assert "12 samples, 1 channels, up to 17 x 32 Sphere(grid='equiangular') ('u',) ('m/s',)" in printed
    assert "('sample', 'channel', 'latitude', 'longitude')" in printed


def test_a_network_of_a_users_own_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (text,) = [text for text in blocks("docs/conditions.md", "python") if "class MyNetwork" in text]
    x = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    data = MultiResolution(ArrayFields(x, domain=Box(2)), Box(2), shapes=[16], batch_size=4)
    names = {"Model": Model, "data": data}
    exec(text.replace("model = Model.from", "back = Model.from"), names)
    assert torch.equal(sample(names["back"], (24, 24), 0), sample(names["model"].eval(), (24, 24), 0))


def test_the_installation_prints_what_it_says(capsys):
    (text,) = blocks("docs/install.md", "python")
    exec(text, {})
    assert capsys.readouterr().out == f"{fnodiff.__version__} torch.Size([1, 1, 32, 32])\n"


def test_what_contributors_read_works(tmp_path):
    names = {"dataclass": dataclass, "Tensor": Tensor, "Solver": Solver, "__name__": __name__}
    for text in blocks("CONTRIBUTING.md", "python"):
        exec(text, names)
    noise = GaussianRandomField(Box(2), names["Exponential"](0.3))
    assert noise.variance((64, 64)) == pytest.approx(1, abs=0.01)
    sde = FunctionSpaceSDE(noise, EDM())
    Model(DFU.tiny(1, 1, num_blocks=0), sde, EDMScaling()).save_pretrained(tmp_path)
    assert Model.from_pretrained(tmp_path, classes=[names["Exponential"]]).sde == sde
    exact = GaussianDenoiser(GaussianRandomField(Box(2), Matern(1.0, 0.3)), sde)
    x, y = (sample(exact, (8, 8), [0], solver=solver) for solver in (names["Euler"](400), fnodiff.DDIM(400)))
    torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


def commands(page: str) -> list[str]:
    """The command lines of fnodiff on a page."""
    lines = [line for text in blocks(page, "bash") for line in text.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"^    (fnodiff .*)$", read(page), flags=re.M)
    lines += [code for code in re.findall(r"`(fnodiff [a-z]+ [^`]*)`", read(page)) if "..." not in code]
    found = [re.search(r"(?:^|-m )fnodiff (.*?)(?:  +#.*)?$", " ".join(line.split("\n"))) for line in lines]
    return [match[1] for match in found if match]


PLACEHOLDERS = {"--help", "--config", "COMMAND", "MODEL", "OLD"}
"""What stands in lines that do not parse by themselves."""


@pytest.mark.parametrize(
    "line",
    sorted({line for page in PAGES for line in commands(page) if not PLACEHOLDERS & set(line.split())}),
)
def test_commands_parse(line):
    application().parse_args(shlex.split(line), exit_on_error=False, print_error=False)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", re.sub(r"```.*?```", "", read(page), flags=re.S))
    local = [target for target in targets if not re.match(r"https?:|.*(gallery|mechanisms_gallery)/", target)]
    here = (ROOT / page).parent
    assert not [t for t in local if not (here / t).exists() and not (here / f"{t}.md").exists()]


def test_the_glossary_says_each_term_once():
    terms = [
        term
        for text in blocks("docs/glossary.md", r"\{glossary\}")
        for term in re.findall(r"^(\S.*)$", text, flags=re.M)
    ]
    entries = [
        " ".join(entry.split())
        for text in blocks("docs/glossary.md", r"\{glossary\}")
        for entry in re.findall(r"^\S.*\n((?:  .*\n?)+)", text, flags=re.M)
    ]
    assert not [term for term, count in Counter(terms).items() if count > 1]
    assert len(entries) == len(terms) > 50
    assert not [entry for entry in entries if not entry.endswith(".")]


PRIVATE = {
    "told=": r"\btold=",
    "KnownModes": "KnownModes",
    "Rung": r"\bRungs?\b",
    "new_band": "new_band",
    "new band": r"\bnew bands?\b",
    "ladder": r"\bladders?\b",
    "shown=": r"\bshown=",
}
"""Words of the library's own that the field has better ones for."""
SOURCES = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "fnodiff").rglob("*.py"))]
SOURCES += [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs" / "mechanisms").glob("*.py"))]


@pytest.mark.parametrize("word", PRIVATE)
def test_no_private_word_stands_anywhere(word):
    assert not [path for path in ["README.md", *DOCS, *SOURCES] if re.search(PRIVATE[word], read(path), flags=re.I)]


@pytest.mark.parametrize("name", [name for name in fnodiff.__all__ if not ismodule(getattr(fnodiff, name))])
def test_every_public_name_has_an_example(name):
    (found,) = (t for t in doctest.DocTestFinder(recurse=False).find(getattr(fnodiff, name), name))
    assert any(example.want for example in found.examples), "one that prints something"


INNER = {
    "PARTS",
    "STATE",
    "grid_name",
    "has_double",
    "in_double",
    "moved",
    "on_device",
    "Generators",
    "Shape",
    "as_floats",
    "as_tensor",
    "native",
}
"""What rooms share that no program writes, types and names of files."""


def test_the_api_has_every_public_name_once_as_programs_import_it():
    pages = "".join(path.read_text() for path in sorted((ROOT / "docs" / "api").glob("*.md")))
    shown = re.findall(r"^\.\. auto(?:class|function|data):: (\S+)$", pages, flags=re.M)
    assert len(shown) == len(set(shown))
    for path in shown:
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path
    rooms = ["domain", "sde", "inverse", "nn", "data", "equations", "train", "metrics"]
    public = {name for room in rooms for name in importlib.import_module(f"fnodiff.{room}").__all__} | set(
        fnodiff.__all__
    )
    assert public - {path.rpartition(".")[2] for path in shown} - INNER - {"metrics"} == set()


def sentences(text: str) -> list[str]:
    """Those of the prose, of lists and of tables' cells; code and formulas on lines of their own are left out."""
    for left_out in (r"^---\n.*?^---$", r"^ *(`{3,})[^`]*?^ *\1$", r"<!--.*?-->", r"\$\$.*?\$\$", r"^    .*?$"):
        text = re.sub(left_out, "\n\n", text, flags=re.M | re.S)
    parts = re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )|\|", text)
    return [" ".join(sentence.split()) for part in parts for sentence in re.split(r"(?<=[.!?])\s+", part)]


@pytest.mark.parametrize("page", PAGES)
def test_sentences_are_short(page):
    assert not [sentence for sentence in sentences(read(page)) if len(sentence.split()) > 45]


def test_examples_are_run(pytestconfig):
    assert "fnodiff" in pytestconfig.getini("testpaths") and "--doctest-modules" in pytestconfig.getini("addopts")
