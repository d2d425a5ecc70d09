"""Known low modes, held while the others are sampled: the replacement method."""

from __future__ import annotations

from torch import Tensor

from fnodiff.sde.denoiser import Denoiser, Wrapper


class ReplaceModes(Wrapper):
    """The replacement method: a denoiser whose estimate has a field's low modes replaced by known ones.

    Along the probability flow a known mode c is held at c + s z at noise level s, and the others see it through that noise,
    as they saw it in training. It ends at c. Exact for stationary Gaussian laws, whose modes are independent; for other laws
    the other modes do not learn all that the known ones say.

    Args:
        denoiser: Of fields without anything known.
        low: (B, C, *small), normalised: point values of the field's part below that grid's band limit.

    Raises:
        ValueError: If the values are no field on the domain; when called, if the grid does not hold them.

    Source: Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole (2021), Score-based generative modeling through SDEs (inpainting
    by replacement).
    """

    def __init__(self, denoiser: Denoiser, low: Tensor) -> None:
        super().__init__(denoiser)
        self.small = denoiser.sde.domain.check_field(low)
        self.low = low

    def forward(self, x_t: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        domain = self.sde.domain
        shape, low = domain.check_field(x_t), self.low.to(x_t)
        if not all(n <= m for n, m in zip(self.small, shape, strict=True)) or low.shape[:2] != x_t.shape[:2]:
            raise ValueError(
                f"ReplaceModes: expected a batch of {tuple(low.shape[:2])} samples and channels on a grid of {self.small} "
                f"or finer, got {tuple(x_t.shape)}; sample where the known modes fit."
            )
        x_hat = self.denoiser(x_t, t, **condition)
        return x_hat + domain.resample(low - domain.resample(x_hat, self.small), shape)

    def rows(self, part: slice) -> Denoiser:
        return ReplaceModes(self.denoiser.rows(part), self.low[part])
