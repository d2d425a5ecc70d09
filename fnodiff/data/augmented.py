"""A source's samples under symmetries of their law."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fnodiff.data.source import Fields, _Source, epoch, selected
from fnodiff.domain import Shape
from fnodiff.expected import kinds_checked


@kinds_checked
class Augmented(_Source):
    """A source's samples under maps that leave their law as it is: `len(maps)` times as many.

    Such are the turns of a square, or the shifts of a periodic field. Sample i is the source's i // len(maps), under map
    i % len(maps); a conditioning field and a mask go the same way.

    Args:
        fields: The source.
        maps: Each takes fields (C, *shape), of any grid, and returns such. The identity is one of them, if the samples as they
            are should be there too.

    Raises:
        ValueError: If there are no maps, or an index is none of the samples'.

    Examples:
        >>> import torch
        >>> from fnodiff import Box
        >>> from fnodiff.data import ArrayFields, Augmented
        >>> mirrored = Augmented(ArrayFields(torch.rand(3, 3, 16, 16), domain=Box(2)), [lambda x: x, lambda x: x.flip(-1)])
        >>> x = mirrored.batch([4, 5], (16, 16))["x"]
        >>> len(mirrored), bool((x[1] == x[0].flip(-1)).all())
        (6, True)
    """

    def __init__(self, fields: Fields, maps: Sequence[Callable[[Tensor], Tensor]]) -> None:
        if not len(maps):
            raise ValueError("Augmented: expected one map or more, got none; lambda x: x leaves samples as they are.")
        super().__init__(fields)
        self.maps = list(maps)

    def __len__(self) -> int:
        return len(self.maps) * len(self.fields)

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """As often through the source's order as there are maps, each sample under another of them."""
        count = len(self.maps)
        maps = rng.permuted(np.tile(np.arange(count), (len(self.fields), 1)), axis=1)
        return np.concatenate([count * (rows := epoch(self.fields, rng)) + maps[rows, turn] for turn in range(count)])

    def batch(self, indices: Sequence[int], shape: Shape) -> dict[str, Tensor]:
        """As the source's, each sample under its map."""
        indices = selected("Augmented", indices, len(self))
        count = len(self.maps)
        batch = dict(self.fields.batch([i // count for i in indices], shape))
        for name in {"x", "field", "mask"} & set(batch):
            mapped = [self.maps[i % count](sample) for i, sample in zip(indices, batch[name], strict=True)]
            batch[name] = torch.stack(mapped)
        return batch
