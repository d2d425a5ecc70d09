"""Any operator, linear or not, that PyTorch can differentiate or that comes with its adjoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fnodiff.domain import Domain
from fnodiff.expected import kinds_checked
from fnodiff.inverse.observation import Observation


@kinds_checked
class Linear(Observation):
    """Any linear operator.

    Args:
        operator: (B, C, *any grid) -> (B, *m), linear.
        values: (*m) or (B, *m).
        noise_std: Standard deviation of the errors.
        adjoint: (B, *m), spatial shape -> (B, C, *shape): the operator's transpose (the sums' plain dot products, not the
            domain's integral), for operators that PyTorch cannot differentiate; by default it is derived.
        channels: As for `Observation`.
    """

    def __init__(
        self,
        operator: Callable[[Tensor], Tensor],
        values: Tensor,
        noise_std: float | Tensor,
        adjoint: Callable[[Tensor, tuple[int, ...]], Tensor] | None = None,
        **channels: Any,
    ) -> None:
        super().__init__(values, noise_std, **channels)
        self.operator, self.adjoint = operator, adjoint

    def observe(self, x: Tensor, domain: Domain) -> Tensor:
        return self.operator(x) if self.adjoint is None else apply(self.operator, self.adjoint, x)


@kinds_checked
class Nonlinear(Observation):
    """Any function that PyTorch can differentiate, forwards (`torch.func.jvp`) and backwards; guided denoisers linearise it at
    their estimate.

    Args:
        function: (B, C, *any grid) -> (B, *m).
        values: (*m) or (B, *m).
        noise_std: Standard deviation of the errors.
        channels: As for `Observation`.
    """

    linear = False

    def __init__(
        self, function: Callable[[Tensor], Tensor], values: Tensor, noise_std: float | Tensor, **channels: Any
    ) -> None:
        super().__init__(values, noise_std, **channels)
        self.function = function

    def observe(self, x: Tensor, domain: Domain) -> Tensor:
        return self.function(x)


def apply(operator: Callable, adjoint: Callable[[Tensor, tuple[int, ...]], Tensor], x: Tensor) -> Tensor:
    """A linear operator of x, whose gradient is by its adjoint."""
    return _WithAdjoint.apply(x, operator, adjoint)


class _WithAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, operator: Callable, adjoint: Callable) -> Tensor:
        return operator(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Callable, Callable], output: Tensor) -> None:
        x, ctx.operator, ctx.adjoint = inputs
        ctx.shape = x.shape

    @staticmethod
    def jvp(ctx: Any, x: Tensor, *_: None) -> Tensor:
        return ctx.operator(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        out = ctx.adjoint(gradient, tuple(ctx.shape[2:]))
        if out.shape != ctx.shape:
            raise ValueError(
                f"Linear: expected an adjoint that returns fields {tuple(ctx.shape)}, got {tuple(out.shape)}."
            )
        return out, None, None
