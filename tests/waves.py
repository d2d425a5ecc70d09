"""A small data set, a small model and quiet settings, shared by the tests of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fnodiff.data import MultiResolution
from fnodiff.domain import Shape, Torus
from fnodiff.model import Model
from fnodiff.nn import DFU
from fnodiff.sde import EDM, RBF, EDMScaling, FunctionSpaceSDE, GaussianRandomField, Normalization, WhiteNoise
from fnodiff.train import Adam, Logging

UNITS = Normalization([5.0, 0.0], [4.0, 0.2])
FIELD_UNITS = Normalization([350.0], [40.0])
QUIET = Logging(progress=False)
FAST = Adam(rampup=10)
SMALLEST = {"hidden_channels": 8, "channel_mult": (1,), "num_blocks": 0, "spectral_levels": 1}


class Waves:
    """Random smooth fields that exist at every resolution: of mean 5 and 0, and standard deviation 2 and 0.1."""

    channels = 2

    def __init__(self, count: int = 64, bad: int | None = None, field: bool = False) -> None:
        self.noise, self.count, self.bad, self.field = GaussianRandomField(Torus(1), RBF(0.2)), count, bad, field
        self.condition_channels = int(field)

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Sequence[int], shape: Shape) -> dict[str, Tensor]:
        x = self.noise.sample((len(indices), 2, *shape), generator=[torch.Generator().manual_seed(i) for i in indices])
        x = x * torch.tensor([[2.0], [0.1]]) + torch.tensor([[5.0], [0.0]])
        if self.bad in indices:
            x[indices.index(self.bad), 0, 0] = float("nan")
        return {"x": x, "field": 300 + 10 * x[:, :1]} if self.field else {"x": x}


def data(field: bool = False, **options: Any) -> MultiResolution:
    """Batches of waves on grids of 8, 12 and 16 points."""
    return MultiResolution(Waves(field=field), Torus(1), **{"shapes": [8, 12, 16], "batch_size": 4, **options})


def model(**options: Any) -> Model:
    """The same weights at each call; options are those of the network."""
    torch.manual_seed(1)
    net = DFU.tiny(2, 2, domain=Torus(1), **{**SMALLEST, **options})
    sde = FunctionSpaceSDE(WhiteNoise(Torus(1), (16,)), EDM())
    conditions = {"field": FIELD_UNITS} if net.condition_channels else {}
    return Model(net, sde, EDMScaling(), normalization=UNITS, condition_normalization=conditions)
