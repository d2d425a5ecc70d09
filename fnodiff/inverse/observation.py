"""Observations: what is known of a function, y = A(x) + noise, in data units and on any grid.

An observation is a likelihood: `values` were measured with independent errors of standard deviation `noise_std` each, so
its logarithm is a sum over sensors,

    ln p(y | x) = -sum_i (y_i - A_i(x))^2 / (2 noise_std_i^2) + constant,

and means the same whatever the grid of x and however many sensors there are. Guided denoisers take it from here.
"""

from __future__ import annotations

import abc
import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from fnodiff.domain import Domain, as_floats
from fnodiff.expected import kinds_checked


@kinds_checked
class Observation(abc.ABC):
    """Values measured with errors. Subclasses define `observe`.

    Args:
        values: (*m), seen in every sample of a batch, or (B, *m), one observation per sample: tensors, arrays or lists.
        noise_std: Standard deviation of each value's error: one number, or what broadcasts to the values, such as (C, 1) for
            one number per channel of values (C, P).
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
        self.values, self.noise_std = as_floats(values, "values"), as_floats(noise_std, "noise_std")
        self._parts: tuple[slice | Tensor, ...] = ()
        self._shared, self._count, self._apart = False, None, False
        self.channels = [channels] if isinstance(channels, int) else None if channels is None else list(channels)
        name = type(self).__name__
        if not self.values.numel():
            raise ValueError(
                f"{name}: expected one value or more, got values {tuple(self.values.shape)}; where nothing was seen, sample "
                f"the model alone."
            )
        if not bool(self.values.isfinite().all()):
            raise ValueError(
                f"{name}: expected finite values, got {int((~self.values.isfinite()).sum())} that are not; leave out what was "
                f"not measured."
            )
        if self.noise_std.is_complex() or not bool((self.noise_std > 0).all() and self.noise_std.isfinite().all()):
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
        out = self.observe(x, domain)
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        if not isinstance(out, Tensor) or not out.ndim or len(out) != len(x):
            raise ValueError(
                f"{type(self).__name__}: expected what is seen of each of the {len(x)} fields, a tensor ({len(x)}, ...), got "
                f"{got}; let the function keep the batch axis, the first."
            )
        if out.ndim == 1 and len(x) > 1 and not self._apart:  # or several values of one field, by chance as many
            other = self.observe(torch.cat([x[1:2], x[1:]]), domain)
            if bool(((other[1:] - out[1:]).abs() > 1e-3 * out.abs().max()).any()):
                raise ValueError(
                    f"{type(self).__name__}: expected one value of each of the {len(x)} fields, got {got} that all change with "
                    f"the first; let the function keep the batch axis, the first."
                )
            self._apart = True
        return out

    def rows(self, part: slice | Tensor) -> Observation:
        """What was seen of some samples of a batch: itself, but for values that are one observation for each sample."""
        new = copy.copy(self)
        new._parts = (*self._parts, part)
        return new

    def among(self, count: int) -> Observation:
        """The same for so many samples, of which `rows` takes parts: as many as there are observations, if not one."""
        new = copy.copy(self)
        new._count = count
        return new

    def alone(self, index: int) -> Observation:
        """What was seen of one sample, as an observation that any number of samples share."""
        new = self.rows(slice(index, index + 1))
        new._shared = True
        return new

    def errors(self, predicted: Tensor) -> Tensor:
        """noise_std, to divide a prediction (B, *m) by."""
        own = self.noise_std.ndim == predicted.ndim and len(self.noise_std) > 1
        return (self._cut(self.noise_std) if own else self.noise_std).to(predicted)

    def targets(self, predicted: Tensor) -> Tensor:
        """The values, as (1, *m) or (B, *m), for a prediction (B, *m); those of one sample serve all.

        Raises:
            ValueError: If they do not have the prediction's shape.
        """
        if self.values.shape == predicted.shape[1:]:
            return self.values[None].to(predicted)
        rows = self._cut(self.values) if self.values.ndim else self.values[None]
        serves = len(rows) == len(predicted) or (len(rows) == 1 and (self._shared or self.values.shape[:1] == (1,)))
        count = len(predicted) if self._count is None else self._count
        right = self._count is None or not self._parts or len(self.values) in (1, count)
        if self.values.shape[1:] == predicted.shape[1:] and serves and right:
            return rows.to(predicted)
        raise ValueError(
            f"{type(self).__name__}: expected values of shape {tuple(predicted.shape[1:])}, or one observation for each of the "
            f"{count} samples, got {tuple(self.values.shape)}; name the observed channels by channels=, and sample as "
            f"many samples at a time as there are observations."
        )

    def residual(self, predicted: Tensor) -> Tensor:
        """(values - A(x)) / noise_std of a prediction A(x), (B, m): of unit variance if x is the truth."""
        return ((self.targets(predicted) - predicted) / self.errors(predicted)).reshape(len(predicted), -1)

    def _cut(self, values: Tensor) -> Tensor:
        for part in self._parts if len(values) > 1 else ():
            values = values[part if isinstance(part, slice) else part.to(values.device)]
        return values
