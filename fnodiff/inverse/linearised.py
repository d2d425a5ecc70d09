"""An observation near an estimate."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fnodiff.domain import Domain
from fnodiff.inverse.observation import Observation
from fnodiff.sde.normalization import Normalization

MOST_NUMBERS = 2**19
"""Of gradients in one backward pass."""

OF_NETWORK = 8
"""Tensors of parameters, from which on a function is taken for a network rather than a solver with a few."""


class Linearised:
    """An observation near an estimate: A(x_hat + u) = A(x_hat) + A' u, with A' and its transpose, in the model's units.

    Args:
        observation: In data units.
        x_hat: (B, C, *shape), normalised.
        normalization: Of the model.
        domain: Of the fields.

    Raises:
        FloatingPointError: If the observation of finite fields is not finite.
        ValueError: If it has no derivative.

    Attributes:
        residual: (values - A(x_hat)) / noise_std, (B, m): of unit variance if x_hat is the truth.
    """

    def __init__(self, observation: Observation, x_hat: Tensor, normalization: Normalization, domain: Domain) -> None:
        self._at = x_hat.detach().requires_grad_()
        self._linear, self._normalization, self._given = observation.linear, normalization, (observation, domain)
        self._apply = lambda x: observation(x, domain)
        with torch.enable_grad():
            self._predicted = self._observe(self._at)
        if not self._predicted.requires_grad:
            raise ValueError(
                f"{type(observation).__name__}: expected an operator that PyTorch can differentiate, got one whose result does "
                f"not depend on its input; pass its adjoint= to Linear."
            )
        bad = int((~self._predicted.detach().isfinite()).reshape(len(x_hat), -1).any(1).sum())
        if bad and bool(x_hat.isfinite().all()):
            largest = float(normalization.inverse(x_hat.detach()).abs().max())
            raise FloatingPointError(
                f"{type(observation).__name__}: expected finite values of what is seen, got NaN or infinite ones in {bad} of "
                f"{len(x_hat)} samples, of estimates up to {largest:.3g}; let the function take such fields, by smaller steps "
                f"of a solver or by a smooth map to what it can take, as `darcy.positive` is: a clamp has no derivative."
            )
        self._noise = observation.errors(self._predicted.detach())
        self.residual = observation.residual(self._predicted.detach())

    def _observe(self, x: Tensor) -> Tensor:
        return self._apply(self._normalization.inverse(x))

    @property
    def estimate(self) -> Tensor:
        """x_hat."""
        return self._at.detach()

    def at(self, u: Tensor) -> Linearised:
        """The same near x_hat + u."""
        observation, domain = self._given
        return Linearised(observation, self.estimate + u.to(self._at), self._normalization, domain)

    def part(self, samples: Tensor) -> Linearised:
        """Of some of the samples, by their numbers."""
        observation, domain = self._given
        return Linearised(observation.rows(samples), self.estimate[samples], self._normalization, domain)

    def check_derivatives(self, w: Tensor) -> None:
        """That A'^T v, (B, C, *shape), is finite where the estimate is.

        Raises:
            FloatingPointError: If it is not.
        """
        estimated, found = (x.isfinite().flatten(1).all(1) for x in (self.estimate, w))
        bad = estimated & ~found
        if bool(bad.any()):
            raise FloatingPointError(
                f"{type(self._given[0]).__name__}: expected finite derivatives of what is seen, got NaN or infinite ones in "
                f"{int(bad.sum())} of {len(w)} samples; let the function have a derivative there: sqrt and norms have none at "
                f"0, so add a small number."
            )

    def change(self, u: Tensor) -> Tensor:
        """(A(x_hat + u) - A(x_hat)) / noise_std: (B, C, *shape) -> (B, m); by the function itself, linear or not."""
        moved = self._observe(self.estimate + u) - self._predicted.detach()
        return (moved / self._noise).reshape(len(moved), -1)

    def forward(self, u: Tensor) -> Tensor:
        """A' u / noise_std: (B, C, *shape) -> (B, m)."""
        if self._linear:
            out = self._apply(self._normalization.scale(u))
        else:
            with sdpa_kernel(SDPBackend.MATH):  # a network's attention: others know no forward derivative
                out = torch.func.jvp(self._observe, (self._at.detach(),), (u,))[1]
        return (out / self._noise).reshape(len(out), -1)

    def transpose(self, v: Tensor) -> Tensor:
        """A'^T (v / noise_std): (B, m) -> (B, C, *shape)."""
        v = v.to(self._predicted).view_as(self._predicted) / self._noise
        return torch.autograd.grad(self._predicted, self._at, v, retain_graph=True)[0]

    def rows(self) -> Tensor:
        """All of A' / noise_std, (B, m, C, *shape): the transpose of each value, many in one backward pass if that is faster.

        A solver gains from it, and a GPU. A network on a CPU takes 2.4 times as long with 64 of its gradients at once.
        """
        each = torch.eye(self.residual.shape[1], device=self.residual.device)[:, None].expand(
            -1, len(self.residual), -1
        )
        if self._at.device.type == "cpu" and self._parameters() >= OF_NETWORK:
            return torch.stack([self.transpose(v) for v in each], 1)
        try:
            with sdpa_kernel(SDPBackend.MATH):
                back = torch.func.vjp(self._observe, self._at.detach())[1]
                many = torch.vmap(lambda v: back(v.to(self._predicted).view_as(self._predicted) / self._noise)[0])
                found = [many(part) for part in each.split(max(1, MOST_NUMBERS // self._at.numel()))]
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError):  # some operation has no rule for it: one after the other
            return torch.stack([self.transpose(v) for v in each], 1)
        return torch.cat(found).transpose(0, 1)

    def _parameters(self) -> int:
        """How many tensors, other than the field, what is seen could be differentiated by."""
        todo, known, found = [self._predicted.grad_fn], set(), 0
        while todo:
            node = todo.pop()
            if node is None or node in known:
                continue
            known.add(node)
            found += getattr(node, "variable", self._at) is not self._at
            todo += [parent for parent, _ in node.next_functions]
        return found
