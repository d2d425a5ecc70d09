"""What is tried with bad input, and what a message owes to whoever reads it."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from drawn import Drawn

from fnodiff import (
    DFU,
    EDM,
    Box,
    DPMSolver,
    EDMScaling,
    FunctionSpaceSDE,
    GaussianRandomField,
    Matern,
    Model,
    MultiResolution,
    Sphere,
    Torus,
    WhiteNoise,
    sample,
)
from fnodiff.data import ArrayFields
from fnodiff.inverse import Restriction
from fnodiff.sde import GaussianDenoiser, Stage
from fnodiff.train import Logging

BOX, TORUS, NAN = Box(2), Torus(2), float("nan")
SDE = FunctionSpaceSDE(WhiteNoise(BOX, (16, 16)), EDM())
FIELD = GaussianRandomField(BOX, Matern(1.0, 0.3))
ORACLE = GaussianDenoiser(FIELD, SDE)
X, T = torch.zeros(2, 1, 16, 16), torch.full((2,), 0.5)
QUIET = Logging(progress=False)


def spectrum(eigenvalues, dim):
    return FIELD.std(eigenvalues).square()


def net(**options):
    return DFU.tiny(1, 1, domain=BOX, **{"num_blocks": 0, **options})


def model(**options):
    torch.manual_seed(0)
    return Model(net(), SDE, EDMScaling(0.5), **options)


def globe(**options):
    sde = FunctionSpaceSDE(WhiteNoise(Sphere(), (16, 32)), EDM())
    return Model(DFU.tiny(3, 3, domain=Sphere(), num_blocks=0, **options), sde, EDMScaling(0.5))


def data(**options):
    return MultiResolution(Drawn(4), BOX, **{"shapes": [16], "batch_size": 2, **options})


def draw(denoiser=ORACLE, seeds=(0,), shape=(16, 16), **options):
    """Samples of the oracle, or of what is given, with the fewest steps."""
    return sample(denoiser, shape, seeds, **{"solver": DPMSolver(2), **options})


def stages(*grids):
    return [Stage(grid, torch.tensor([1.0, 0.0], dtype=torch.float64)) for grid in grids]


def flat(value=0.0):
    """Data that are the same everywhere."""
    return MultiResolution(ArrayFields(np.full((4, 1, 16, 16), value, "float32"), domain=BOX), BOX, [16], batch_size=2)


def seeded(device="cpu"):
    return torch.Generator(device).manual_seed(0)


def cells(batch: tuple[int, ...] = (), noise_std: float = 0.1, value: float = 0.0):
    """Averages over 8 x 8 cells."""
    return Restriction((8, 8), torch.full((*batch, 1, 8, 8), value), noise_std)


def says_the_mend(error):
    """Behind what was expected and what came: "...; use ..." or a sentence of its own."""
    return re.search(r"; \S|\. [A-Z`]", str(error)) is not None and "weights_only" not in str(error)


def refused(call, message: str) -> None:
    """A call is a ValueError that says this, and how to mend it."""
    with pytest.raises(ValueError, match=message) as raised:
        call()
    assert says_the_mend(raised.value), raised.value
