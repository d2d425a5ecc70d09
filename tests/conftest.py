"""Shared by all tests: one seed, float64 where asked for, examples run."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def float64() -> Iterator[None]:
    """float64 as the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, a file of options, and a model that the command trained on them."""
    from command import trained

    return trained(tmp_path_factory.mktemp("room"))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of the command that were not trained."""
    from command import untrained

    return untrained(tmp_path_factory.mktemp("models"))


@pytest.fixture
def accelerators() -> Iterator[Callable[..., Accelerator]]:
    """Accelerators with other settings: accelerate keeps the first ones for the whole process."""

    def make(**options: Any) -> Accelerator:
        GradientState._reset_state()
        AcceleratorState._reset_state(True)
        return Accelerator(cpu=True, **options)

    yield make
    make()


@pytest.fixture
def run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """An example within this process, which has its imports behind it, in an empty folder: what it printed."""

    def run(name: str, *arguments: object) -> str:
        path = EXAMPLES / f"{name}.py"
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr().out

    return run
