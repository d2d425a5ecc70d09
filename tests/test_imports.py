"""Who imports whom: the directions between rooms, and what loads late."""

from __future__ import annotations

import ast
import functools
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import fnodiff

ROOT = Path(fnodiff.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

# Each room, and the rooms that it may import.
ALLOWED = {
    "domain": {"domain"},
    "cost": {"domain", "sde"},
    "sde": {"domain", "sde"},
    "inverse": {"domain", "sde", "inverse"},
    "nn": {"domain", "nn"},
    "data": {"domain", "data"},
    "equations": {"domain", "data", "equations"},
    "metrics": {"domain", "metrics"},
    "checkpoint": {"domain", "sde", "nn"},
    "exchange": {"domain", "sde"},
    "hub": {"sde", "checkpoint"},
    "model": {"domain", "sde", "nn", "checkpoint", "hub"},  # nn for models of neuralop's, once one of these is there
    "train": {"domain", "sde", "nn", "data", "checkpoint", "cost", "model", "train"},
    "playground": {"domain", "sde", "inverse", "data", "model"},
    "page": {"model", "playground"},
    "report": {"domain", "sde", "data", "metrics", "model"},
    "cli": {
        "domain",
        "sde",
        "inverse",
        "nn",
        "data",
        "metrics",
        "checkpoint",
        "cost",
        "hub",
        "model",
        "train",
        "report",
        "page",
        "cli",
    },
    "__main__": {"cli"},
}
# Within sde: {noise, schedule, normalization} <- process <- {spectrum, denoiser} <- {scaling, loss, gaussian, guidance,
# replace}; solvers and stages know a denoiser and not each other, and sampling joins them.
BASIC = {"noise", "schedule", "normalization"}
SDE = {
    "noise": set(),
    "schedule": set(),
    "normalization": set(),
    "process": {"noise", "schedule"},
    "spectrum": {"noise", "process"},
    "white": {"noise"},
    "channels": {"noise", "white"},
    "suited_noise": {"noise", "white", "process", "spectrum"},
    "denoiser": BASIC | {"process"},
    "scaling": BASIC | {"process", "spectrum"},
    "flow": BASIC | {"process", "spectrum", "scaling"},
    "likelihood": {"spectrum", "denoiser", "given"},
    "loss": BASIC | {"process", "spectrum", "denoiser", "flow"},
    "gaussian": BASIC | {"process", "spectrum", "denoiser"},
    "guidance": BASIC | {"process", "denoiser"},
    "given": {"denoiser"},
    "replace": {"denoiser"},
    "pictures": {"denoiser"},
    "solvers": {"schedule", "denoiser", "solvers"},
    "stages": {"denoiser"},
    "usual": {"denoiser", "solvers", "stages"},
    "sampling": {"denoiser", "given", "replace", "solvers", "stages", "usual"},
}
DOMAINS = {"Box", "Sphere", "Torus", "Product"}
LONGEST = 400


@functools.cache
def nodes(path):
    """All of a file's syntax tree."""
    return list(ast.walk(ast.parse(path.read_text())))


@functools.cache
def imported(path):
    """Every module that a file names in an import, at any depth, but those for type checkers only."""
    names = []
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = ("fnodiff", *path.relative_to(ROOT).parts[: len(path.relative_to(ROOT).parts) - node.level])
            module = ".".join(filter(None, [*(package if node.level else ()), node.module]))
            names += [module] + [f"{module}.{alias.name}" for alias in node.names]
    return names


def rooms(path):
    return {name.split(".")[1] for name in imported(path) if name.startswith("fnodiff.")} & set(ALLOWED)


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.parent != ROOT or p.stem in ALLOWED], ids=lambda p: str(p.relative_to(ROOT))
)
def test_rooms_import_only_what_they_may(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert rooms(path) <= ALLOWED[room]


@pytest.mark.parametrize("path", sorted((ROOT / "sde").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_directions_within_sde(path):
    name = path.relative_to(ROOT / "sde").parts[0].removesuffix(".py")
    used = {n.split(".")[2] for n in imported(path) if n.startswith("fnodiff.sde.")} & set(SDE)
    assert name == "__init__" or used - {name} <= SDE[name]


def asks_which_domain(node):
    """Whether a call is an isinstance with one of the domains."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance"):
        return False
    return bool({n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)} & DOMAINS)


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if p.relative_to(ROOT).parts[0] not in ("domain", "nn")],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_only_domain_and_nn_ask_which_domain_it_is(path):
    assert [n.lineno for n in nodes(path) if asks_which_domain(n)] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_is_two_nouns(path):
    assert path.read_text().count("\n") <= LONGEST


@pytest.mark.parametrize("package", ["neuralop", "torch_harmonics"])
def test_few_modules_import_the_slow_packages(package):
    users = {str(p.relative_to(ROOT)) for p in MODULES if any(n.split(".")[0] == package for n in imported(p))}
    allowed = {
        "neuralop": {"nn/spectral.py", "nn/exact.py", "nn/families.py", "nn/neural_operator.py"},
        "torch_harmonics": {"equations/shallow_water.py"},  # for its type; the others by `harmonics`
    }
    assert users == allowed[package]


LATE = {
    "import fnodiff": set(),
    "from fnodiff import FunctionSpaceSDE, Box, WhiteNoise, EDM, Model, Heun, sample, fit": set(),
    "import fnodiff.metrics, fnodiff.data, fnodiff.checkpoint, fnodiff.train, fnodiff.report": set(),
    "from fnodiff import DFU": {"neuralop"},
}


class Refuser:
    """Finds no package of these names, and remembers which of them were asked for."""

    def __init__(self, *names):
        self.names, self.asked = names, set()

    def find_spec(self, name, path=None, target=None):
        if name in self.names:
            self.asked.add(name)
            raise ModuleNotFoundError(name)


@pytest.fixture
def anew():
    """Nothing of the library is loaded, as in a new process, which would take seconds to import torch; and it is undone."""
    ours = lambda: {name for name in sys.modules if name.split(".")[0] == "fnodiff"}  # noqa: E731
    before = {name: sys.modules.pop(name) for name in ours()}
    yield
    for name in ours():
        del sys.modules[name]
    sys.modules.update(before)


def test_neuralop_loads_only_when_dfu_is_asked_for(anew, monkeypatch):
    slow = ("neuralop", "torch_harmonics")
    for name in [name for name in sys.modules if name.split(".")[0] in slow]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [refuser := Refuser(*slow), *sys.meta_path])
    for statement, asked in LATE.items():
        with pytest.raises(ModuleNotFoundError, match="neuralop") if asked else nullcontext():
            exec(statement, {})
        assert refuser.asked == asked, statement
    assert sys.modules["fnodiff"] is not fnodiff, "it was imported anew"


def test_all_but_the_sphere_works_without_torch_harmonics(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "torch_harmonics"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("fnodiff.nn.spherical", "neuralop.layers.spherical_convolution"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refuser("torch_harmonics"), *sys.meta_path])
    x = torch.zeros(1, 1, 8, 16)
    assert fnodiff.DFU.tiny(1, 1)(x, torch.ones(1)).shape == x.shape
    match = r"Sphere: expected torch-harmonics compiled for torch .*, got torch-harmonics .* does not load.*install versions"
    with pytest.raises(ImportError, match=match):
        fnodiff.DFU.tiny(1, 1, domain=fnodiff.Sphere())(x, torch.ones(1))


def test_every_public_name_is_there():
    assert all(getattr(fnodiff, name) is not None for name in fnodiff.__all__)
    assert set(fnodiff.__all__) <= set(dir(fnodiff))
    with pytest.raises(AttributeError, match="nothing"):
        fnodiff.nothing  # noqa: B018


def test_the_stub_is_the_one_list_of_public_names():
    stub = ast.parse((ROOT / "__init__.pyi").read_text())
    named = [alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(named) == sorted(fnodiff.__all__)
    assert len(set(named)) == len(named)
