"""Who imports whom: the directions between rooms, and what loads late."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

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
    "hub": {"sde", "checkpoint"},
    "model": {"domain", "sde", "checkpoint", "hub"},
    "train": {"domain", "sde", "nn", "data", "checkpoint", "cost", "model", "train"},
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
    "denoiser": BASIC | {"process"},
    "scaling": BASIC | {"process", "spectrum"},
    "loss": BASIC | {"process", "spectrum", "denoiser"},
    "gaussian": BASIC | {"process", "spectrum", "denoiser"},
    "guidance": BASIC | {"process", "denoiser"},
    "replace": {"denoiser"},
    "solvers": {"schedule", "denoiser", "solvers"},
    "stages": {"denoiser"},
    "sampling": {"denoiser", "replace", "solvers", "stages"},
}
DOMAINS = {"Box", "Sphere", "Torus", "Product"}
LONGEST = 400


def imported(path):
    """Every module that a file names in an import, at any depth, but those for type checkers only."""
    tree = ast.parse(path.read_text())
    names = []
    for node in ast.walk(tree):
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
    assert [n.lineno for n in ast.walk(ast.parse(path.read_text())) if asks_which_domain(n)] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_is_two_nouns(path):
    assert path.read_text().count("\n") <= LONGEST


@pytest.mark.parametrize("package", ["neuralop", "torch_harmonics"])
def test_few_modules_import_the_slow_packages(package):
    users = {str(p.relative_to(ROOT)) for p in MODULES if any(n.split(".")[0] == package for n in imported(p))}
    allowed = {
        "neuralop": {"nn/spectral.py", "nn/spherical.py"},
        "torch_harmonics": {"nn/spherical.py", "domain/sphere.py", "equations/shallow_water.py"},
    }
    assert users == allowed[package]


LATE = {
    "import fnodiff": False,
    "from fnodiff import FunctionSpaceSDE, Box, WhiteNoise, EDM, Model, Heun, sample, fit": False,
    "import fnodiff.metrics, fnodiff.data, fnodiff.checkpoint, fnodiff.train, fnodiff.report": False,
    "from fnodiff import DFU": True,
}


def test_neuralop_loads_only_when_dfu_is_asked_for():
    """One process, which imports one after the other: each says what is loaded by then."""
    loaded = "print(*[m for m in ('neuralop', 'torch_harmonics') if m in sys.modules], sep=',')"
    code = "\n".join(["import sys", *(f"{statement}\n{loaded}" for statement in LATE)])
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    ).stdout
    found = dict(zip(LATE, out.split("\n"), strict=False))
    assert {statement: "neuralop" in there for statement, there in found.items()} == LATE
    assert [statement for statement, there in found.items() if "torch_harmonics" in there and not LATE[statement]] == []


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
