"""deepinv's physics as observations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fnodiff.domain import Domain, as_floats
from fnodiff.inverse.observation import Observation
from fnodiff.inverse.operators import apply
from fnodiff.inverse.restriction import at_grid


class DeepinvObservation(Observation):
    """What a physics of deepinv measures: y = A(x) + noise, of a picture on the grid of its pixels.

    Pictures in [0, 1] there are fields in [-1, 1] here. A state on another grid is brought to the picture's as by
    `Restriction`: by its cell averages where there are walls.

    Args:
        physics: deepinv's, linear (with an `A_adjoint`) or not: Blur, Inpainting, Tomography, ...
        values: What it measured, as `physics(x)` returns it: (B, *m), one observation per sample, or (1, *m) for all.
        noise_std: Standard deviation of the errors; by default that of the physics' Gaussian noise.
        img_size: (C, *grid) of the picture; by default the physics' own.
        zero_one: Whether its pictures are in [0, 1], as deepinv's convention is; False for the data's units.
        adjoint: Take the physics' `A_adjoint` for the transpose, where PyTorch cannot differentiate A. It must be exact.

    Raises:
        ValueError: If the picture's size or the noise is not known, or the values are not what the physics measures.

    Source: Tachella et al. (2025), DeepInverse: a Python package for solving imaging inverse problems with deep learning.

    Examples:
        >>> import torch
        >>> from fnodiff import Box
        >>> from fnodiff.inverse import DeepinvObservation
        >>> class Halved:  # as deepinv's physics are
        ...     img_size = (1, 4)
        ...     def A(self, x): return x / 2
        ...     def A_adjoint(self, y): return y / 2
        >>> seen = DeepinvObservation(Halved(), torch.full((1, 1, 4), 0.25), noise_std=0.1)  # a grey picture, 0.5
        >>> x = torch.zeros(1, 1, 4)  # grey in [-1, 1]
        >>> (seen.targets(seen(x, Box(1))) - seen(x, Box(1))).abs().max()
        tensor(0.)
    """

    def __init__(
        self,
        physics: Any,
        values: Tensor,
        noise_std: float | Tensor | None = None,
        *,
        img_size: Sequence[int] | None = None,
        zero_one: bool = True,
        adjoint: bool = False,
        **channels: Any,
    ) -> None:
        values = as_floats(values, "values")
        size = getattr(physics, "img_size", None) if img_size is None else img_size
        spread = getattr(getattr(physics, "noise_model", None), "sigma", None) if noise_std is None else noise_std
        self.linear = hasattr(physics, "A_adjoint")
        if (
            not callable(getattr(physics, "A", None))
            or not isinstance(size, Sequence)
            or spread is None
            or (adjoint and not self.linear)
        ):
            raise ValueError(
                f"DeepinvObservation: expected a physics with A, and with A_adjoint for adjoint=True, its img_size and its "
                f"Gaussian noise, or img_size=(C, height, width) and noise_std=, got {type(physics).__name__} with {size} and "
                f"{spread}; pass what is missing."
            )
        self.physics, self.adjoint, self.img_size = physics, adjoint, tuple(map(int, size))
        self.scale, self.shift = (0.5, 0.5) if zero_one else (1.0, 0.0)
        with torch.no_grad():
            of_shift = physics.A(torch.full((1, *self.img_size), self.shift, dtype=values.dtype, device=values.device))
        if not isinstance(of_shift, Tensor) or of_shift.shape[1:] != values.shape[1:]:
            got = tuple(of_shift.shape) if isinstance(of_shift, Tensor) else type(of_shift).__name__
            raise ValueError(
                f"DeepinvObservation: expected values as the physics measures a picture {self.img_size}, {got}, got "
                f"{tuple(values.shape)}; pass img_size=, or the values of physics(x)."
            )
        # A of half the field is linear, and what A makes of grey belongs to the values
        super().__init__(values - of_shift if self.linear else values, spread, **channels)

    def observe(self, x: Tensor, domain: Domain) -> Tensor:
        x = at_grid(x, self.img_size[1:], domain).to(self.values.dtype)
        if not self.linear:
            return self.physics.A(self.scale * x + self.shift)
        if not self.adjoint:
            return self.physics.A(self.scale * x)
        return apply(lambda x: self.physics.A(self.scale * x), lambda y, _: self.scale * self.physics.A_adjoint(y), x)
