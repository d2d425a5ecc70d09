"""Observations: what is known of a function, y = A(x) + noise, in data units and on any grid.

An observation is a likelihood: `values` were measured with independent errors of standard deviation `noise_std` each, so
its logarithm is a sum over sensors,

    ln p(y | x) = -sum_i (y_i - A_i(x))^2 / (2 noise_std_i^2) + constant,

and means the same whatever the grid of x and however many sensors there are. Guided denoisers take it from here.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fnodiff.domain import Box, Domain, Sphere
from fnodiff.sde.normalization import Normalization


class Observation(abc.ABC):
    """Values measured with errors. Subclasses define `observe`.

    Args:
        values: (*m), seen in every sample of a batch, or (B, *m), one observation per sample.
        noise_std: Standard deviation of each value's error: one number, or a tensor that broadcasts to the values, such as
            (C, 1) for one number per channel of values (C, P).
        channels: Which channels of the field are observed; None for all, in their order.

    Attributes:
        linear: Whether `observe` is linear in x.

    Raises:
        ValueError: If a value is not finite, or noise_std is not positive.
    """

    linear = True

    def __init__(
        self, values: Tensor, noise_std: float | Tensor, *, channels: Sequence[int] | int | None = None
    ) -> None:
        self.values, self.noise_std = torch.as_tensor(values), torch.as_tensor(noise_std)
        self.channels = [channels] if isinstance(channels, int) else None if channels is None else list(channels)
        name = type(self).__name__
        if not self.values.is_floating_point() or not bool(self.values.isfinite().all()):
            raise ValueError(
                f"{name}: expected finite floating-point values, got {self.values.dtype} with "
                f"{int((~self.values.isfinite()).sum())} that are not finite; leave out what was not measured."
            )
        if not bool((self.noise_std > 0).all() and self.noise_std.isfinite().all()):
            raise ValueError(
                f"{name}: expected noise_std > 0, the standard deviation of the measurements' errors, got {noise_std}; give "
                f"exact values a small one, such as a hundredth of the data's standard deviation."
            )

        if self.noise_std.ndim > self.values.ndim or any(
            n not in (1, m) for n, m in zip(reversed(self.noise_std.shape), reversed(self.values.shape), strict=False)
        ):
            raise ValueError(
                f"{name}: expected noise_std to be one number or to broadcast to the values, {tuple(self.values.shape)}, got "
                f"{tuple(self.noise_std.shape)}; for one per channel write noise_std[:, None]."
            )

    @abc.abstractmethod
    def observe(self, x: Tensor, domain: Domain) -> Tensor:
        """A(x): what would be measured without errors, (B, *m), of fields (B, C, *any grid) in data units."""

    def __call__(self, x: Tensor, domain: Domain) -> Tensor:
        """A(x) of the observed channels, (B, *m)."""
        if self.channels is not None:
            if not all(-x.shape[1] <= c < x.shape[1] for c in self.channels):
                raise ValueError(
                    f"{type(self).__name__}: expected channels among the field's {x.shape[1]}, got {self.channels}."
                )
            x = x[:, self.channels]
        return self.observe(x, domain)

    def targets(self, predicted: Tensor) -> Tensor:
        """The values, as (1, *m) or (B, *m), for a prediction (B, *m).

        Raises:
            ValueError: If they do not have the prediction's shape.
        """
        if self.values.shape == predicted.shape[1:]:
            return self.values[None].to(predicted)
        if self.values.shape == predicted.shape:
            return self.values.to(predicted)
        raise ValueError(
            f"{type(self).__name__}: expected values of shape {tuple(predicted.shape[1:])}, or one observation for each of the "
            f"{len(predicted)} samples, got {tuple(self.values.shape)}; name the observed channels by channels=, and draw as "
            f"many samples at a time as there are observations."
        )


class PointObservation(Observation):
    """Values at arbitrary points: of the function itself, by `domain.evaluate`, not of the nearest grid point.

    Args:
        points: (dim, P), in the units of the domain's `lengths`; colatitudes and longitudes, in radians, on the sphere.
        values: (C, P) or (B, C, P), C the observed channels.
        noise_std: Standard deviation of the errors, in the values' units.
        channels: As for `Observation`.

    Raises:
        ValueError: If the points are not finite or do not fit the values; when used, if they lie outside of the domain.

    Examples:
        >>> import torch
        >>> from fnodiff import Box
        >>> from fnodiff.sde import PointObservation
        >>> seen = PointObservation(points=torch.tensor([[0.25, 0.75]]), values=torch.zeros(1, 2), noise_std=0.1)
        >>> x = (torch.pi * Box(1).points((16,))[None]).cos()
        >>> seen(x, Box(1)).round(decimals=3)
        tensor([[[ 0.7070, -0.7070]]])
    """

    def __init__(self, points: Tensor, values: Tensor, noise_std: float | Tensor, **channels: Any) -> None:
        super().__init__(values, noise_std, **channels)
        self.points = points
        if not points.is_floating_point() or not bool(points.isfinite().all()):
            raise ValueError(
                f"PointObservation: expected finite coordinates in the units of the domain's lengths, got {points.dtype}; "
                f"grid indices i are points (i + 0.5) / n on Box and i / n on Torus, times the side's length."
            )
        if points.ndim != 2 or points.shape[1] != self.values.shape[-1]:
            raise ValueError(
                f"PointObservation: expected points (dim, P) and values (C, P), got {tuple(points.shape)} and "
                f"{tuple(self.values.shape)}; transpose points that are stored one per row."
            )

    def observe(self, x: Tensor, domain: Domain) -> Tensor:
        lengths = torch.tensor(domain.lengths, dtype=self.points.dtype, device=self.points.device)[:, None]
        if isinstance(domain, Box) and not bool(((self.points >= 0) & (self.points <= lengths)).all()):
            raise ValueError(
                f"PointObservation: expected points within the box of sides {domain.lengths}, got coordinates from "
                f"{float(self.points.min()):g} to {float(self.points.max()):g}; scale them, or give the Box its lengths."
            )
        if isinstance(domain, Sphere) and not bool(((self.points[0] - math.pi / 2).abs() <= math.pi / 2 + 1e-6).all()):
            raise ValueError(
                f"PointObservation: expected colatitudes from 0, the north pole, to pi, got {float(self.points[0].min()):g} to "
                f"{float(self.points[0].max()):g}; colatitude = (90 - latitude in degrees) * pi / 180, longitude second."
            )
        return domain.evaluate(x, self.points)


class Restriction(Observation):
    """The field on a coarser grid: its cell averages on Box, its lowest modes on Torus (`domain.pool`).

    Args:
        shape: The coarse grid.
        values: (C, *shape) or (B, C, *shape).
        noise_std: Standard deviation of each coarse value's error.
        channels: As for `Observation`.

    Examples:
        >>> import torch
        >>> from fnodiff import Box
        >>> from fnodiff.sde import Restriction
        >>> seen = Restriction((2,), values=torch.zeros(1, 2), noise_std=0.1)
        >>> seen(torch.tensor([[[1.0, 2.0, 3.0, 5.0]]]), Box(1))
        tensor([[[1.5000, 4.0000]]])
    """

    def __init__(self, shape: Sequence[int], values: Tensor, noise_std: float | Tensor, **channels: Any) -> None:
        super().__init__(values, noise_std, **channels)
        self.shape = tuple(shape)
        if tuple(self.values.shape[-len(self.shape) :]) != self.shape:
            raise ValueError(
                f"Restriction: expected values (C, {', '.join(map(str, self.shape))}), got {tuple(self.values.shape)}."
            )

    def observe(self, x: Tensor, domain: Domain) -> Tensor:
        if any(
            n < m for n, m in zip(x.shape[2:], self.shape, strict=True)
        ):  # a coarser state is a function all the same
            x = domain.resample(x, [max(n, m) for n, m in zip(x.shape[2:], self.shape, strict=True)])
        return domain.pool(x, self.shape)


class Masked(Observation):
    """A field on its own grid, where a mask says that it was measured; a state on another grid is resampled to it.

    Args:
        mask: (*shape) for all channels or (C, *shape), bool: True where measured.
        values: (C, *shape) or (B, C, *shape); what is not measured may be anything, NaN included.
        noise_std: Standard deviation of the errors: one number, or a tensor that broadcasts to the values.
        channels: As for `Observation`.

    Examples:
        >>> import torch
        >>> from fnodiff import Box
        >>> from fnodiff.sde import Masked
        >>> x = torch.tensor([[[1.0, 2.0, 3.0, 5.0]]])
        >>> seen = Masked(x[0, 0] > 2.5, values=x[0], noise_std=0.1)
        >>> seen(x, Box(1))
        tensor([[[3., 5.]]])
    """

    def __init__(self, mask: Tensor, values: Tensor, noise_std: float | Tensor, **channels: Any) -> None:
        if mask.dtype != torch.bool or not bool(mask.any()):
            raise ValueError(
                f"Masked: expected a bool mask that is True somewhere, got {mask.dtype} with "
                f"{int(mask.count_nonzero())} entries set; write mask > 0.5, or leave the observation out."
            )
        if values.ndim < mask.ndim or tuple(values.shape[-mask.ndim :]) != tuple(mask.shape):
            raise ValueError(
                f"Masked: expected values (C, *shape) with the mask's shape {tuple(mask.shape)}, got {tuple(values.shape)}."
            )
        self.mask = mask
        noise_std = torch.as_tensor(noise_std)
        if noise_std.ndim:
            noise_std = noise_std.expand(values.shape)[..., mask]
        super().__init__(values[..., mask], noise_std, **channels)

    def observe(self, x: Tensor, domain: Domain) -> Tensor:
        fits = [tuple(self.mask.shape), (x.shape[1], *self.mask.shape[-domain.dim :])]
        if self.mask.ndim - domain.dim not in (0, 1) or fits[self.mask.ndim - domain.dim] != tuple(self.mask.shape):
            raise ValueError(
                f"Masked: expected a mask (*shape), or ({x.shape[1]}, *shape) as {x.shape[1]} channels are observed, got "
                f"{tuple(self.mask.shape)}; one mask serves all samples of a batch."
            )
        return domain.resample(x, self.mask.shape[-domain.dim :])[..., self.mask.to(x.device)]


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
        return self.operator(x) if self.adjoint is None else _WithAdjoint.apply(x, self.operator, self.adjoint)


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


class _WithAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: Callable, adjoint: Callable) -> Tensor:
        ctx.adjoint, ctx.shape = adjoint, x.shape
        return operator(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        out = ctx.adjoint(gradient, tuple(ctx.shape[2:]))
        if out.shape != ctx.shape:
            raise ValueError(
                f"Linear: expected an adjoint that returns fields {tuple(ctx.shape)}, got {tuple(out.shape)}."
            )
        return out, None, None


class Linearised:
    """An observation near an estimate: A(x_hat + u) = A(x_hat) + A' u, with A' and its transpose, in the model's units.

    Args:
        observation: In data units.
        x_hat: (B, C, *shape), normalised.
        normalization: Of the model.
        domain: Of the fields.

    Attributes:
        residual: (values - A(x_hat)) / noise_std, (B, m): of unit variance if x_hat is the truth.
    """

    def __init__(self, observation: Observation, x_hat: Tensor, normalization: Normalization, domain: Domain) -> None:
        self._at = x_hat.detach().requires_grad_()
        self._linear, self._normalization = observation.linear, normalization
        self._apply = lambda x: observation(x, domain)
        with torch.enable_grad():
            self._predicted = self._observe(self._at)
        if not self._predicted.requires_grad:
            raise ValueError(
                f"{type(observation).__name__}: expected an operator that PyTorch can differentiate, got one whose result does "
                f"not depend on its input; pass its adjoint= to Linear."
            )
        self._noise = observation.noise_std.to(self._predicted)
        difference = (observation.targets(self._predicted.detach()) - self._predicted.detach()) / self._noise
        self.residual = difference.reshape(len(difference), -1)

    def _observe(self, x: Tensor) -> Tensor:
        return self._apply(self._normalization.inverse(x))

    def forward(self, u: Tensor) -> Tensor:
        """A' u / noise_std: (B, C, *shape) -> (B, m)."""
        if self._linear:
            out = self._apply(self._normalization.scale(u))
        else:
            out = torch.func.jvp(self._observe, (self._at.detach(),), (u,))[1]
        return (out / self._noise).reshape(len(out), -1)

    def transpose(self, v: Tensor) -> Tensor:
        """A'^T (v / noise_std): (B, m) -> (B, C, *shape)."""
        v = v.to(self._predicted).view_as(self._predicted) / self._noise
        return torch.autograd.grad(self._predicted, self._at, v, retain_graph=True)[0]


def conjugate_residuals(
    operator: Callable[[Tensor], Tensor], b: Tensor, *, iterations: int, tolerance: float
) -> Tensor:
    """v with operator(v) = b per sample, (B, m), by the smallest residual that some applications of the operator can reach.

    The operator should be positive definite, as covariances are; where a network's is not quite, nor symmetric, conjugate
    gradients diverge, and this still lowers the residual at every step. It stops when every sample's is below `tolerance`
    times |b|, or after `iterations`: up to m are needed. Its own arithmetic is in float64.

    Source: Eisenstat, Elman, Schultz (1983), Variational iterative methods for nonsymmetric systems of linear equations.
    """
    dtype, b = b.dtype, b.double()
    v, r = torch.zeros_like(b), b.clone()
    directions: list[tuple[Tensor, Tensor]] = []
    enough = tolerance * b.norm(dim=1)
    for _ in range(iterations):
        if bool((r.norm(dim=1) <= enough).all()):
            break
        p, q = r, operator(r.to(dtype)).double()
        for _ in range(2):  # once more against rounding
            for old_p, old_q in directions:
                share = (q * old_q).sum(1, keepdim=True)
                p, q = p - share * old_p, q - share * old_q
        length = q.norm(dim=1, keepdim=True).clamp(min=torch.finfo(q.dtype).tiny)
        p, q = p / length, q / length
        directions.append((p, q))
        step = (r * q).sum(1, keepdim=True)
        v, r = v + step * p, r - step * q
    return v.to(dtype)
