"""Diffusion models on function spaces: train a score operator on a few resolutions, sample it on any grid.

Names are imported when first used (PEP 562): `import fnodiff` loads neither neuralop nor torch_harmonics.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_ROOMS = {
    "fnodiff.domain": ["Box", "Sphere", "Torus"],
    "fnodiff.nn": ["DFU"],
    "fnodiff.sde": [
        "DDIM",
        "EDM",
        "RBF",
        "VE",
        "VP",
        "AnnealedLangevin",
        "Cascade",
        "Cosine",
        "DPMSolver",
        "EulerMaruyama",
        "FunctionSpaceSDE",
        "GaussianRandomField",
        "Heun",
        "Matern",
        "PixelNoise",
        "PredictorCorrector",
        "Preconditioned",
        "Progressive",
        "SubVP",
        "WhiteNoise",
    ],
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from fnodiff.domain import Box, Sphere, Torus
    from fnodiff.nn import DFU
    from fnodiff.sde import (
        DDIM,
        EDM,
        RBF,
        VE,
        VP,
        AnnealedLangevin,
        Cascade,
        Cosine,
        DPMSolver,
        EulerMaruyama,
        FunctionSpaceSDE,
        GaussianRandomField,
        Heun,
        Matern,
        PixelNoise,
        Preconditioned,
        PredictorCorrector,
        Progressive,
        SubVP,
        WhiteNoise,
    )


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fnodiff' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
