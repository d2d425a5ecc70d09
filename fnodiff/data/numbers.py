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
        fields: The source: pictures, files, or your own.
        condition: Finite numbers (N,) or (N, K), a row for each sample.
        names: One for each of the K; by default "condition", or "condition 0", "condition 1", ...

    Raises:
        ValueError: If there are not as many rows as samples, or not as many names as numbers.

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
        self._names = number_names("WithNumbers", self._numbers, names)
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
        return {**self.fields.batch(rows, shape), "condition": self._numbers[torch.as_tensor(rows)]}
