"""Known low modes, held while the others are sampled: the replacement method."""

from __future__ import annotations

from torch import Tensor

from fnodiff.domain import Shape
from fnodiff.expected import kinds_checked
from fnodiff.sde.denoiser import Denoiser, Wrapper


@kinds_checked
class ReplaceModes(Wrapper):
    """The replacement method: a denoiser whose estimate has a field's low modes replaced by known ones.

    Along the probability flow a known mode c is held at c + s z at noise level s, and the others see it through that noise,
    as they saw it in training. It ends at c. Exact for stationary Gaussian laws, whose modes are independent and say nothing
    of each other. For other laws the other modes learn a part of what the known ones say, often the smaller part:
    `fnodiff.inverse.MatchModes` is exact for all Gaussian laws, at a backward pass or more each step.

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
        domain, shape, low = self.sde.domain, self.check(x_t), self.low.to(x_t)
        x_hat = self.denoiser(x_t, t, **condition)
        return x_hat + domain.resample(low - domain.resample(x_hat, self.small), shape)

    def check(self, x_t: Tensor) -> Shape:
        """The grid of x_t, if it holds the known modes, of as many samples and channels."""
        shape = self.sde.domain.check_field(x_t)
        if not all(n <= m for n, m in zip(self.small, shape, strict=True)) or self.low.shape[:2] != x_t.shape[:2]:
            raise ValueError(
                f"{type(self).__name__}: expected a batch of {tuple(self.low.shape[:2])} samples and channels on a grid of "
                f"{self.small} or finer, got {tuple(x_t.shape)}; sample where the known modes fit."
            )
        return shape

    def rows(self, part: slice) -> Denoiser:
        return ReplaceModes(self.denoiser.rows(part), self.low[part])
