"""Known low modes, or averages over coarse cells, held while the rest is sampled: the replacement method."""

from __future__ import annotations

from torch import Tensor

from fnodiff.domain import Shape
from fnodiff.expected import kinds_checked
from fnodiff.sde.denoiser import Denoiser, Wrapper, check_count


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

    def among(self, count: int) -> Denoiser:
        check_count(self, count, {len(self.low)})
        return super().among(count)

    def rows(self, part: slice) -> Denoiser:
        return type(self)(self.denoiser.rows(part), self.low[part])


@kinds_checked
class ReplaceCells(ReplaceModes):
    """The same for cell averages: averages over a coarse grid's cells are held, and what varies within them is sampled.

    A coarse picture is the average of a finer one to the last bit, while its highest modes hold what averaging folded onto
    them, and ring beside sharp edges. So nothing is thrown away here, and flat ground stays flat. What varies within cells is
    not independent of their averages for stationary Gaussian laws, where `ReplaceModes` is exact.

    Args:
        denoiser: Of fields without anything known.
        low: (B, C, *small), normalised: averages over the cells of that grid.

    Raises:
        ValueError: If the values are no field on the domain; when called, if the coarse cells are not made of whole fine ones.

    Examples:
        >>> import torch
        >>> from fnodiff import EDM, Box, FunctionSpaceSDE, GaussianRandomField, Matern, WhiteNoise
        >>> from fnodiff.sde import GaussianDenoiser, ReplaceCells
        >>> sde = FunctionSpaceSDE(WhiteNoise(Box(2), (4, 4)), EDM())
        >>> denoiser, low = GaussianDenoiser(GaussianRandomField(Box(2), Matern(1.0, 0.3)), sde), torch.randn(1, 1, 4, 4)
        >>> x_hat = ReplaceCells(denoiser, low)(torch.randn(1, 1, 8, 8), torch.tensor(0.5))
        >>> torch.allclose(Box(2).average(x_hat, (4, 4)), low, atol=1e-5)
        True
    """

    def forward(self, x_t: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        domain, shape, low = self.sde.domain, self.check(x_t), self.low.to(x_t)
        x_hat = self.denoiser(x_t, t, **condition)
        return x_hat + domain.average(low - domain.average(x_hat, self.small), shape)

    def check(self, x_t: Tensor) -> Shape:
        shape = super().check(x_t)
        if not self.sde.domain.whole_cells(self.small, shape):
            raise ValueError(
                f"ReplaceCells: expected walls on all sides and a whole number of cells of {shape} in each of {self.small}, on "
                f"{self.sde.domain}; hold modes by ReplaceModes."
            )
        return shape
