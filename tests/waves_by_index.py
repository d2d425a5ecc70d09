"""A source in a module of its own, as other processes import it."""

from __future__ import annotations

import torch


class ByIndex:
    """Samples that depend on their index and the grid alone."""

    channels = 2

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def batch(self, indices, shape):
        made = [torch.randn(2, *shape, generator=torch.Generator().manual_seed(int(i))) for i in indices]
        return {"x": torch.stack(made), "label": torch.tensor(list(indices)) ** 2}


class Broken(ByIndex):
    """One of which sample 5 fails."""

    def batch(self, indices, shape):
        if 5 in indices:
            raise ValueError("sample 5 cannot be solved")
        return super().batch(indices, shape)
