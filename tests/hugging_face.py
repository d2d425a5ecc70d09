"""Hugging Face's datasets, which this repository's folder of that name hides where they are not installed."""

from __future__ import annotations

from types import ModuleType

import pytest


def package() -> ModuleType:
    """The package; the test is skipped without it."""
    found = pytest.importorskip("datasets")
    if not hasattr(found, "Dataset"):
        pytest.skip("could not import Hugging Face's 'datasets'")
    return found
