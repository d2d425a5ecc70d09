"""Errors of fields x against the truth y, and of a model between grids."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fnodiff.domain import Domain, Shape
from fnodiff.expected import kinds_checked


@kinds_checked
def relative_l2(x: Tensor, y: Tensor, domain: Domain, *, mask: Tensor | None = None) -> Tensor:
    """|x - y| / |y| per sample, (B,), over the part that was measured.

    Raises:
        ValueError: If the shapes differ, or the mask is not one of this shape.

    Examples:
        >>> import torch
        >>> from fnodiff import Box
        >>> from fnodiff.metrics import relative_l2
        >>> y = torch.ones(1, 1, 8, 8)
        >>> relative_l2(1.1 * y, y, Box(2))
        tensor([0.1000])
    """
    if x.shape != y.shape:
        raise ValueError(
            f"relative_l2: expected equal shapes, got {tuple(x.shape)} and {tuple(y.shape)}; resample one of them."
        )
    if mask is not None:
        there = measured(mask, y)
        x, y = torch.where(there, x, 0.0), torch.where(there, y, 0.0)
    return domain.norm(x - y) / domain.norm(y)


def discretization_error(
    model: Callable[[Tensor], Tensor],
    field: Callable[[Shape], Tensor],
    shapes: Sequence[Shape],
    domain: Domain | None = None,
) -> list[float]:
    """How far a model's output on finer grids is from its output on the first: 0 for an operator.

    Args:
        model: Field (B, C, *shape) -> field (B, C', *shape), such as `lambda x: net(x, noise_level)`.
        field: The same function on any grid: shape -> (B, C, *shape).
        shapes: Grids, the reference first; the others are brought to it by `domain.resample`.
        domain: What the fields are functions on; the model's, if it has one.

    Returns:
        The mean relative L2 difference from the first, one number for each other shape.

    Raises:
        ValueError: If no domain is given and the model has none.

    Examples:
        >>> import torch
        >>> from fnodiff import Torus
        >>> from fnodiff.metrics import discretization_error
        >>> domain = Torus(1)
        >>> field = lambda shape: (2 * torch.pi * domain.points(shape)[None]).sin()
        >>> [round(e, 3) for e in discretization_error(lambda x: x - x.roll(1, -1), field, [(16,), (32,), (64,)], domain)]
        [0.502, 0.752]
        >>> [round(e, 3) for e in discretization_error(torch.square, field, [(16,), (32,), (64,)], domain)]
        [0.0, 0.0]
    """
    domain = getattr(model, "domain", None) if domain is None else domain
    if domain is None:
        raise ValueError(f"discretization_error: expected a domain, as {model!r} has none; pass domain=.")
    with torch.no_grad():
        grids = [domain.check_shape(shape) for shape in shapes]
        outputs = [domain.resample(model(field(shape)), grids[0]) for shape in grids]
    return [float(relative_l2(out, outputs[0], domain).mean()) for out in outputs[1:]]


def measured(mask: Tensor, y: Tensor) -> Tensor:
    """The mask as booleans, of the shape of y."""
    shapes = [(len(y), channels, *y.shape[2:]) for channels in (1, y.shape[1])]
    if mask.shape not in shapes or bool(((mask != 0) & (mask != 1)).any()):
        raise ValueError(
            f"expected a mask of 1 and 0, or booleans, (B, 1 or C, *shape) for fields {tuple(y.shape)}, got {mask.dtype} "
            f"{tuple(mask.shape)}; expand it, or apply a threshold."
        )
    return (mask == 1).expand_as(y)
