"""A denoiser with its conditions bound."""

from __future__ import annotations

from torch import Tensor

from fnodiff.domain import as_tensor, moved
from fnodiff.sde.denoiser import Denoiser, Wrapper, check_count


class Given(Wrapper):
    """A denoiser with its conditions bound: called as denoiser(x_t, t).

    Args:
        denoiser: The conditional one.
        condition: By name, one row for each sample: label (B,), field (B, K, *any grid), condition (B, K).

    Raises:
        ValueError: When called with a condition that is bound, or sampled with another number of seeds than rows.
    """

    def __init__(self, denoiser: Denoiser, **condition: Tensor) -> None:
        super().__init__(denoiser)
        self.condition = {name: as_tensor(value, name) for name, value in condition.items()}

    def forward(self, x_t: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        if twice := sorted(set(condition) & set(self.condition)):
            raise ValueError(
                f"Given: expected no other {', '.join(twice)} than the bound one, got a second; leave it out."
            )
        bound = {name: moved(value, x_t.device) for name, value in self.condition.items()}
        return self.denoiser(x_t, t, **bound, **condition)

    def among(self, count: int) -> Denoiser:
        check_count(self, count, {len(value) for value in self.condition.values()})
        return super().among(count)

    def rows(self, part: slice) -> Denoiser:
        return Given(self.denoiser.rows(part), **{name: value[part] for name, value in self.condition.items()})
