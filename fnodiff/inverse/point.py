"""Values at points."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fnodiff.domain import Domain, as_floats, as_tensor
from fnodiff.inverse.observation import Observation


class PointObservation(Observation):
    """Values at arbitrary points: of the function itself, by `domain.evaluate`, not of the nearest grid point.

    Args:
        points: (dim, P), in the units of the domain's `lengths`; colatitudes and longitudes, in radians, on the sphere.
        values: (C, P) or (B, C, P), C the observed channels; (P,) of one.
        noise_std: Standard deviation of the errors, in the values' units.
        channels: As for `Observation`.

    Raises:
        ValueError: If the points are not finite or do not fit the values; when used, if they lie outside of the domain.

    Examples:
        >>> import torch
        >>> from fnodiff import Box
        >>> from fnodiff.inverse import PointObservation
        >>> seen = PointObservation(points=torch.tensor([[0.25, 0.75]]), values=torch.zeros(1, 2), noise_std=0.1)
        >>> x = (torch.pi * Box(1).points((16,))[None]).cos()
        >>> seen(x, Box(1)).round(decimals=3)
        tensor([[[ 0.7070, -0.7070]]])
    """

    def __init__(self, points: Tensor, values: Tensor, noise_std: float | Tensor, **channels: Any) -> None:
        values, points = as_floats(values, "values"), as_tensor(points, "points")
        super().__init__(values[None] if values.ndim == 1 else values, noise_std, **channels)
        self.points = points
        if not points.is_floating_point() or not bool(points.isfinite().all()):
            raise ValueError(
                f"PointObservation: expected finite coordinates in the units of the domain's lengths, got {points.dtype}; "
                f"grid indices i are points (i + 0.5) / n between walls and i / n along periodic axes, times the side's length."
            )
        if points.ndim != 2 or points.shape[1] != self.values.shape[-1]:
            raise ValueError(
                f"PointObservation: expected points (dim, P) and values (C, P), got {tuple(points.shape)} and "
                f"{tuple(self.values.shape)}; transpose points that are stored one per row."
            )

    def observe(self, x: Tensor, domain: Domain) -> Tensor:
        domain.check_points(self.points)
        return domain.evaluate(x, self.points)
