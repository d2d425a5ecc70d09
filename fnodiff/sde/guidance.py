"""Guided denoisers: denoisers made of denoisers, which every sampler takes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fnodiff.sde.denoise import Denoiser, without


class ClassifierFree(Denoiser):
    """Classifier-free guidance: D(x_t | nothing) + scale (D(x_t | condition) - D(x_t | nothing)).

    At scale 1 the conditional denoiser, at 0 the unconditional one; above 1 the samples are more of what they are told to
    be, and vary less: no longer the conditional law. The model has to know what it is to be told nothing: train it with
    `DenoisingLoss(denoiser, drop_condition=0.1)`.

    Args:
        denoiser: A model of several conditions, such as `label` and `field`.
        scale: The weight of what the condition says.
        drop: What the guidance is about: these conditions are left out of the second evaluation, and others, if any, are
            given in both. By default all.

    Source: Ho, Salimans (2022), Classifier-free diffusion guidance.
    """

    def __init__(self, denoiser: Denoiser, scale: float, drop: Sequence[str] | None = None) -> None:
        super().__init__(denoiser.sde, denoiser.normalization)
        self.denoiser, self.scale, self.training_shapes = denoiser, float(scale), denoiser.training_shapes
        self.drop = None if drop is None else tuple(drop)

    def forward(self, x_t: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        names = tuple(condition) if self.drop is None else self.drop
        missing = [name for name in names if name not in condition]
        if missing or not names:
            raise ValueError(
                f"ClassifierFree: expected the conditions {list(names) or ['label or field']}, got {sorted(condition)}; give "
                f"them to the sampler when it is called, such as label=labels."
            )
        told = self.denoiser(x_t, t, **condition)
        if self.scale == 1:
            return told
        nothing = self.denoiser(x_t, t, **without(condition, names))
        return nothing + self.scale * (told - nothing)
