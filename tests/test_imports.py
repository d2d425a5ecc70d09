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
    "cost": set(),
    "sde": {"domain", "sde", "cost"},
    "nn": {"domain", "nn"},
    "data": {"domain", "data"},
    "metrics": {"domain"},
    "checkpoint": {"domain", "sde", "nn"},
    "hub": {"sde", "checkpoint"},
    "train": {"domain", "sde", "nn", "data", "checkpoint", "cost", "train"},
    "report": {"domain", "sde", "data", "metrics", "checkpoint"},
    "__main__": {"domain", "sde", "data", "checkpoint", "report"},
}
# Within sde: domain <- noise <- process <- denoise <- {loss, observe <- guidance, sample <- {stochastic, resolution}}; and
# resolution <- cascade.
SDE = {
    "noise": set(),
    "schedule": set(),
    "spectrum": {"noise"},
    "normalization": set(),
    "process": {"noise", "schedule"},
    "denoise": {"noise", "schedule", "process", "normalization"},
    "loss": {"noise", "schedule", "process", "denoise"},
    "sample": {"noise", "schedule", "process", "denoise"},
    "observe": {"normalization"},
    "guidance": {"noise", "schedule", "process", "denoise", "observe"},
    "stochastic": {"noise", "schedule", "process", "denoise", "sample"},
    "resolution": {"noise", "schedule", "process", "denoise", "sample"},
    "cascade": {"noise", "schedule", "process", "denoise", "sample", "resolution"},
}


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


@pytest.mark.parametrize("name", SDE)
def test_directions_within_sde(name):
    used = {n.split(".")[2] for n in imported(ROOT / "sde" / f"{name}.py") if n.startswith("fnodiff.sde.")}
    assert used & set(SDE) <= SDE[name]


@pytest.mark.parametrize("package", ["neuralop", "torch_harmonics"])
def test_few_modules_import_the_slow_packages(package):
    users = {str(p.relative_to(ROOT)) for p in MODULES if any(n.split(".")[0] == package for n in imported(p))}
    allowed = {
        "neuralop": {"nn/layers.py", "nn/spherical.py"},
        "torch_harmonics": {"nn/spherical.py", "domain/sphere.py", "data/shallow_water.py"},
    }
    assert users == allowed[package]


LATE = {
    "import fnodiff": False,
    "from fnodiff import FunctionSpaceSDE, Box, WhiteNoise, EDM, Preconditioned, Heun": False,
    "import fnodiff.metrics, fnodiff.data, fnodiff.checkpoint, fnodiff.train, fnodiff.report": False,
    "from fnodiff import DFU": True,
}


def test_neuralop_loads_only_when_dfu_is_asked_for():
    """One process, which imports one after the other: each says what is loaded by then."""
    told = "print(*[m for m in ('neuralop', 'torch_harmonics') if m in sys.modules], sep=',')"
    code = "\n".join(["import sys", *(f"{statement}\n{told}" for statement in LATE)])
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    ).stdout
    for (statement, expected), loaded in zip(LATE.items(), out.split("\n"), strict=False):
        assert ("neuralop" in loaded) == expected, statement
        assert expected or "torch_harmonics" not in loaded, statement


def test_every_public_name_is_there():
    assert all(getattr(fnodiff, name) is not None for name in fnodiff.__all__)
    assert set(fnodiff.__all__) <= set(dir(fnodiff))
    with pytest.raises(AttributeError, match="it has"):
        fnodiff.nothing  # noqa: B018
