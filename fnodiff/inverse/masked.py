"""A field where a mask says that it was measured."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fnodiff.domain import Domain, as_floats, as_tensor
from fnodiff.inverse.observation import Observation


class Masked(Observation):
    """A field on its own grid, where a mask says that it was measured; a state on another grid is resampled to it.

    Args:
        mask: (*shape) for all channels or (C, *shape), booleans or 0 and 1: True where measured.
        values: (C, *shape) or (B, C, *shape); what is not measured may be anything, NaN included.
        noise_std: Standard deviation of the errors: one number, or a tensor that broadcasts to the values.
        channels: As for `Observation`.

    Examples:
        >>> import torch
        >>> from fnodiff import Box
        >>> from fnodiff.inverse import Masked
        >>> x = torch.tensor([[[1.0, 2.0, 3.0, 5.0]]])
        >>> seen = Masked(x[0, 0] > 2.5, values=x[0], noise_std=0.1)
        >>> seen(x, Box(1))
        tensor([[[3., 5.]]])
    """

    def __init__(self, mask: Tensor, values: Tensor, noise_std: float | Tensor, **channels: Any) -> None:
        mask, values, noise_std = (
            as_tensor(mask, "mask"),
            as_floats(values, "values"),
            as_floats(noise_std, "noise_std"),
        )
        if not bool(((mask == 0) | (mask == 1)).all() and mask.any()):
            raise ValueError(
                f"Masked: expected a mask of booleans, or of 0 and 1, that is set somewhere, got {mask.dtype} with "
                f"{int(mask.count_nonzero())} entries set; write mask > 0.5, or leave the observation out."
            )
        mask = mask.bool()
        if values.ndim < mask.ndim or tuple(values.shape[-mask.ndim :]) != tuple(mask.shape):
            raise ValueError(
                f"Masked: expected values (C, *shape) with the mask's shape {tuple(mask.shape)}, got {tuple(values.shape)}."
            )
        self.mask = mask
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
