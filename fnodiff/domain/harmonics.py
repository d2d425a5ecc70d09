"""torch-harmonics, which the sphere alone needs, and which has to be compiled for the torch that is there."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import torch


def harmonics(name: str, package: str = "torch_harmonics") -> ModuleType:
    """A module that needs torch-harmonics.

    Args:
        name: Within the package, such as "legendre".
        package: Another one that imports torch-harmonics.

    Raises:
        ImportError: If torch-harmonics is missing, or compiled for another torch.
    """
    try:
        return importlib.import_module(f"{package}.{name}")
    except (ImportError, OSError) as error:
        if f"{package}.{name}" in sys.modules:  # its compiled code alone failed, after this module
            return sys.modules[f"{package}.{name}"]
        try:
            found = (
                f"torch-harmonics {version('torch-harmonics')}, which does not load: {str(error).splitlines()[0][:160]}"
            )
        except PackageNotFoundError:
            found = "none"
        raise ImportError(
            f"Sphere: expected torch-harmonics compiled for torch {torch.__version__}, got {found}; install versions that fit "
            f"each other, such as torch 2.14 with torch-harmonics 0.9.3, or torch 2.11 with 0.9.2. Other domains need none."
        ) from error
