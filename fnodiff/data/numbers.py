"""A source with numbers that condition its samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fnodiff.data.source import Fields, _Source, as_numbers, number_names, selected
from fnodiff.domain import Shape
from fnodiff.expected import kinds_checked


@kinds_checked
class WithNumbers(_Source):
    """A source whose samples are conditioned on numbers, such as a viscosity, a Reynolds number or a lead time.

    Args:
        fields: The source: pictures, files, or your own. Numbers that it has come first.
        condition: Finite numbers (N,) or (N, K), a row for each sample.
        names: One for each of the K; by default "condition", or "condition 0", "condition 1", ...

    Raises:
        ValueError: If there are not as many rows as samples, or not as many names as numbers, or a name is the source's.

    Examples:
        >>> import torch
        >>> from fnodiff import Torus
        >>> from fnodiff.data import ArrayFields, WithNumbers
        >>> flows = ArrayFields(torch.randn(3, 16, 16), domain=Torus(2))
        >>> WithNumbers(flows, [0.5, 1.0, 2.0], "viscosity").batch([2, 0], (16, 16))["condition"].tolist()
        [[2.0], [0.5]]
    """

    def __init__(
        self, fields: Fields, condition: Tensor | np.ndarray | Sequence[float], names: Sequence[str] | str | None = None
    ) -> None:
        super().__init__(fields)
        self._numbers = as_numbers("WithNumbers", condition)
        own = number_names("WithNumbers", self._numbers, names)
        self._names = (*getattr(fields, "condition_names", ()), *own)
        if len(set(self._names)) < len(self._names):
            raise ValueError(f"WithNumbers: expected names other than the source's, got {self._names}; pass names=.")
        if len(self._numbers) != len(fields):
            raise ValueError(
                f"WithNumbers: expected a row for each of {len(fields)} samples, got {len(self._numbers)}; cut the longer."
            )

    @property
    def condition_names(self) -> tuple[str, ...]:
        return self._names

    def __len__(self) -> int:
        return len(self.fields)

    def batch(self, indices: Sequence[int], shape: Shape) -> dict[str, Tensor]:
        """As the source's, with "condition", (B, K)."""
        rows = selected("WithNumbers", indices, len(self))
        batch, own = self.fields.batch(rows, shape), self._numbers[torch.as_tensor(rows)]
        return {**batch, "condition": torch.cat([batch["condition"], own], 1) if "condition" in batch else own}
