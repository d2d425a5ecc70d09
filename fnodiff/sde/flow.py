"""Flow matching: a network that is trained on velocities, and pairs of data and noise that optimal transport makes.

With x_t = alpha x + sigma z the velocity of a straight path is v = z - x. Its best estimate and that of x say the same,

    D = (x_t - sigma V) / (alpha + sigma),    V = E[z - x | x_t],    D = E[x | x_t],

so that a network trained on velocities is a denoiser like any other: the same solvers, plans and guidance.

Source: Lipman, Chen, Ben-Hamu, Nickel, Le (2023), Flow matching for generative modeling; Kerrigan, Migliorini, Smyth (2023),
Functional flow matching.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fnodiff.domain import Domain, Shape, in_double
from fnodiff.sde.noise import Spectrum
from fnodiff.sde.process import FunctionSpaceSDE
from fnodiff.sde.scaling import Scaled, Scaling
from fnodiff.sde.spectrum import linear_estimate


@dataclass(frozen=True)
class FlowScaling(Scaling):
    """The network is the velocity, F(x_t, u) = V with u = sigma / (alpha + sigma), trained at times evenly in [0, 1].

    With the schedule `RectifiedFlow` and a Gaussian random field as noise it is functional flow matching: the loss is
    |F - (z - x)|^2 at uniform times. Normalised data have standard deviation one.

    Args:
        linear_estimate: Whether the network sees the best linear estimate of x beside x_t: it then maps 2 C channels to C.

    Source: Kerrigan, Migliorini, Smyth (2023), Functional flow matching.

    Examples:
        >>> from fnodiff import DFU, FlowScaling, FunctionSpaceSDE, GaussianRandomField, Matern, Model, RectifiedFlow, Torus
        >>> noise = GaussianRandomField(Torus(1), Matern(0.5))
        >>> sde = FunctionSpaceSDE(noise, RectifiedFlow())
        >>> model = Model(DFU.tiny(1, 1, domain=Torus(1)), sde, FlowScaling())
        >>> model.uniform_time
        True
    """

    linear_estimate: bool = False

    uniform_time = True

    @property
    def needs_spectrum(self) -> bool:
        return self.linear_estimate

    def __call__(self, sde: FunctionSpaceSDE, spectrum: Spectrum | None, x_t: Tensor, t: Tensor) -> Scaled:
        alpha_t, sigma_t = sde.marginal(x_t, t)
        total = alpha_t + sigma_t
        seen = x_t / total
        if self.linear_estimate:
            seen = torch.cat([seen, linear_estimate(sde, spectrum, x_t, t)], dim=1)
        level = (sigma_t / total).flatten().expand(x_t.shape[0])
        return Scaled(x_t / total, seen, level, lambda out: -sigma_t / total * out)

    def loss_weight(self, sde: FunctionSpaceSDE, spectrum: Spectrum | None, t: Tensor, shape: Shape) -> Tensor:
        """((alpha + sigma) / sigma)^2: that of |V - v|^2."""
        alpha_t, sigma_t = sde.schedule(t)
        return ((alpha_t + sigma_t) / sigma_t).square()

    def noise_law(self, sde: FunctionSpaceSDE, spectrum: Spectrum | None) -> tuple[float, float]:
        """Mean and standard deviation of ln(sigma / alpha) at uniform times of the straight path: a logistic law's."""
        return 0.0, torch.pi / 3**0.5

    def inputs(self, channels: int) -> int:
        return 2 * channels if self.linear_estimate else channels


@dataclass(frozen=True)
class OptimalTransport:
    """Pairs the noise of a batch with its data so that the sum of |x - z|^2 is least.

    Paths cross less, and fewer steps of an ODE solver do. The flow from noise to data is right as before, but x and z are no
    longer independent: sample with ODE solvers (not the reverse SDE), and without observations, whose guidance takes x and z
    for independent. Pairs are made within a batch, so they depend on its size.

    Source: Shi, Gao, Ross, Azizzadenesheli (2025), Stochastic process learning via operator flow matching (arXiv 2501.04126);
    Tong et al. (2024), Improving and generalizing flow-based generative models with minibatch optimal transport.

    Examples:
        >>> import torch
        >>> from fnodiff import Torus
        >>> from fnodiff.sde import OptimalTransport
        >>> x, z = torch.tensor([[[0.0]], [[5.0]]]), torch.tensor([[[4.0]], [[1.0]]])
        >>> OptimalTransport()(x.expand(2, 1, 8), z.expand(2, 1, 8), Torus(1))[:, 0, 0]
        tensor([1., 4.])
    """

    def __call__(self, x: Tensor, z: Tensor, domain: Domain) -> Tensor:
        """The noise z (B, C, *spatial) in the order in which it is paired with x."""
        a, b = in_double(x), in_double(z)
        weights = domain.weights(x.shape[2:], device=a.device, dtype=torch.float64)
        inner = (a * weights).flatten(1) @ b.flatten(1).T  # |x|^2 + |z|^2 is the same for all pairings
        return z[torch.as_tensor(linear_sum_assignment(inner.cpu().numpy(), maximize=True)[1], device=z.device)]
