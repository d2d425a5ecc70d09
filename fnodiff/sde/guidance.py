"""Guided denoisers: denoisers made of denoisers, which every sampler takes.

Given y = A(x) + noise, the denoiser's estimate E[x | x_t] becomes one of E[x | x_t, y]. By Bayes' rule, with the score
operator's covariance,

    E[x | x_t, y] = x_hat + (sigma^2 / alpha) C grad ln p(y | x_t),

and the methods differ in p(y | x_t), whose exact form is out of reach. Each takes the observation near x_hat as linear, A', and
x given x_t as Gaussian about x_hat with some covariance M:

    x_hat + M' A'^T (A' M A'^T + R)^-1 (y - A(x_hat)),        R = diag(noise_std^2),

    DPS              M = 0 within the brackets, M' = (sigma^2 / alpha) C J^T with the denoiser's Jacobian J
    PiGDM            M = r^2 at every grid point, M' = (sigma^2 / alpha) C J^T
    MomentMatching   M = M' = (sigma^2 / alpha) C J^T, which is the covariance of x given x_t, or a Gaussian's of known spectrum

Products with transposes are of sums, not of integrals: the grid is in them once, by C, so the result is a function.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from fnodiff.sde.denoise import Denoiser, Wrapper, known
from fnodiff.sde.noise import Spectrum
from fnodiff.sde.observe import Linearised, Observation, conjugate_residuals
from fnodiff.sde.process import over_space


class ClassifierFree(Wrapper):
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

    Examples:
        >>> import torch
        >>> from fnodiff import DFU, EDM, Box, DPMSolver, FunctionSpaceSDE, Preconditioned, WhiteNoise
        >>> from fnodiff.sde import ClassifierFree
        >>> sde = FunctionSpaceSDE(WhiteNoise(Box(2), (16, 16)), EDM())
        >>> denoiser = Preconditioned(DFU.tiny(1, 1, num_classes=2), sde).eval()
        >>> label = torch.tensor([0, 1, 1])
        >>> DPMSolver(ClassifierFree(denoiser, scale=2.0), 3).draw((1, 16, 16), seeds=range(3), label=label).shape
        torch.Size([3, 1, 16, 16])
    """

    def __init__(self, denoiser: Denoiser, scale: float, drop: Sequence[str] | str | None = None) -> None:
        super().__init__(denoiser)
        self.scale = float(scale)
        self.drop = None if drop is None else (drop,) if isinstance(drop, str) else tuple(drop)

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
        nothing = self.denoiser(x_t, t, **self.denoiser.without(condition, names))
        return nothing + self.scale * (told - nothing)


class Autoguided(Wrapper):
    """Guidance by a worse model of the same: G(x_t) + scale (D(x_t) - G(x_t)).

    What a model of little training gets wrong, a better one gets wrong too, by less: the difference points away from both.
    Samples show more of what tells one from another, and their law is no longer the model's. It acts at noise levels
    sigma_t / alpha_t within `levels`, where a picture's shape is decided; elsewhere D is asked alone, which is what
    `Sampler.estimate` sees.

    Args:
        denoiser: The model, D.
        guide: The worse one, G: the same network after some sixth of the training, or a smaller one.
        scale: The weight of what D says beyond G; 1 for D alone.
        levels: The lowest and the highest noise level at which it acts.

    Raises:
        ValueError: If the guide has another process or other units, or the levels are not in order.

    Source: Karras, Aittala, Kynkaanniemi, Lehtinen, Aila, Laine (2024), Guiding a diffusion model with a bad version of
    itself; Kynkaanniemi, Aittala, Karras, Laine, Aila, Lehtinen (2024), Applying guidance in a limited interval.

    Examples:
        >>> from fnodiff import EDM, Box, DPMSolver, FunctionSpaceSDE, GaussianRandomField, Matern
        >>> from fnodiff.sde import Autoguided, GaussianDenoiser
        >>> sde = FunctionSpaceSDE(GaussianRandomField(Box(2), Matern(1.0, 0.3)), EDM())
        >>> true, rough = (GaussianRandomField(Box(2), Matern(nu, 0.3)) for nu in (1.0, 0.5))
        >>> guided = Autoguided(GaussianDenoiser(true, sde), GaussianDenoiser(rough, sde))
        >>> DPMSolver(guided, 12).draw((1, 16, 16), seeds=[0]).shape
        torch.Size([1, 1, 16, 16])
    """

    def __init__(
        self, denoiser: Denoiser, guide: Denoiser, scale: float = 1.7, levels: tuple[float, float] = (0.3, 3.0)
    ) -> None:
        super().__init__(denoiser)
        units = denoiser.normalization, guide.normalization
        same = all(
            a.shape == b.shape and torch.allclose(a, b.to(a), rtol=1e-3, atol=1e-5)
            for a, b in zip(*(u.state_dict().values() for u in units), strict=True)
        )
        if guide.sde != denoiser.sde or not same:
            raise ValueError(
                f"Autoguided: expected a guide of the same process and units, {denoiser.sde} and {units[0].config}, got "
                f"{guide.sde} and {units[1].config}; train it as the model was, for less time."
            )
        if not (0 <= levels[0] < levels[1] and math.isfinite(scale)):
            raise ValueError(
                f"Autoguided: expected a lowest noise level of 0 or more, a higher one and a finite scale, got {levels} and "
                f"{scale!r}; (0.3, 3) and 1.7 are usual."
            )
        self.guide, self.scale, self.levels = guide, float(scale), (float(levels[0]), float(levels[1]))

    def forward(self, x_t: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        x_hat, level = self.denoiser(x_t, t, **condition), self.sde.schedule.ratio(t)
        acts = (level >= self.levels[0]) & (level <= self.levels[1])
        if self.scale == 1 or not bool(acts.any()):
            return x_hat
        worse = self.guide(x_t, t, **condition)
        return torch.where(over_space(acts, x_hat), worse + self.scale * (x_hat - worse), x_hat)


class Guided(Wrapper, abc.ABC):
    """A denoiser that also knows an observation. Subclasses define `correction`.

    Its samples follow the prior where the observation says nothing; conditions, if the model takes any, are given as ever.

    Args:
        denoiser: The prior's.
        observation: What was measured, in data units.
    """

    def __init__(self, denoiser: Denoiser, observation: Observation) -> None:
        super().__init__(denoiser)
        if any(isinstance(module, Guided) for module in denoiser.modules()):
            raise ValueError(
                f"{type(self).__name__}: expected a denoiser without an observation, got one that has its own; put both into "
                f"one, such as Linear with an operator that concatenates what is seen."
            )
        self.observation = observation

    @abc.abstractmethod
    def correction(self, near: Linearised, pull: Callable[[Tensor], Tensor], x_t: Tensor, t: Tensor) -> Tensor:
        """What the observation adds to x_hat, of x_t's shape.

        Args:
            near: The observation near x_hat.
            pull: g -> (sigma^2 / alpha) C J^T g, for g of x_t's shape.
            x_t: The state.
            t: Its times.
        """

    def forward(self, x_t: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        shape = self.sde.domain.check_field(x_t)
        with torch.inference_mode(False), torch.enable_grad(), _frozen(self.denoiser):
            x_t, t = x_t.detach().clone().requires_grad_(), t.detach().clone()
            x_hat = self.denoiser(x_t, t, **condition)
            (alpha_t, sigma_t), noise = self.sde.marginal(x_t.detach(), t), self.sde.noise.on(shape)

            def pull(g: Tensor) -> Tensor:
                (g,) = torch.autograd.grad(x_hat, x_t, g, retain_graph=True)
                return sigma_t.square() / alpha_t * self._covariance(g, lambda k: noise.std(k).square())

            return self._corrected(x_hat, pull, x_t.detach(), t)

    @torch.no_grad()
    def _corrected(self, x_hat: Tensor, pull: Callable[[Tensor], Tensor], x_t: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(x_t.device.type, enabled=False):
            near = Linearised(self.observation, x_hat.detach(), self.normalization, self.sde.domain)
            return x_hat.detach() + self.correction(near, pull, x_t, t).to(x_hat)

    def _covariance(self, g: Tensor, spectrum: Callable[[Tensor], Tensor]) -> Tensor:
        """The covariance matrix, between grid points, of a process with this variance per mode, times g."""
        weights = self.sde.domain.weights(tuple(g.shape[2:]), device=g.device, dtype=g.dtype)
        return self.sde.domain.filter(g / weights, spectrum)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Parameters want no gradients within."""
    wanted = [p for p in module.parameters() if p.requires_grad]
    try:
        for p in wanted:
            p.requires_grad_(False)
        yield
    finally:
        for p in wanted:
            p.requires_grad_(True)


class DPS(Guided):
    """Diffusion posterior sampling: p(y | x_t) as if x were x_hat, N(y; A(x_hat), noise_std^2).

    As it takes x_hat for certain, its gradient is far too long at high noise; published settings divide it by
    |y - A(x_hat)| and tune a factor for each problem, number of sensors and number of steps. Here the step along it is the
    likelihood's own, but at most `scale` times the one that fits the values best along that direction.

    Samples fit the values and look plausible; their spread is not the posterior's. On Gaussian priors with 8 or 24 sensors
    ensembles' means were 0.4 to 0.75 posterior standard deviations off, and their spread 1.1 to 1.3 times the posterior's
    (`python -m benchmarks.posterior`).

    Args:
        denoiser: The prior's.
        observation: What was measured.
        scale: Of the longest step, up to 2; from about 2 on samplers oscillate.

    Source: Chung, Kim, Mccann, Klasky, Ye (2023), Diffusion posterior sampling for general noisy inverse problems.
    """

    def __init__(self, denoiser: Denoiser, observation: Observation, scale: float = 1.0) -> None:
        super().__init__(denoiser, observation)
        if not 0 < scale <= 2:
            raise ValueError(
                f"DPS: expected scale in (0, 2], got {scale!r}; 1 fits the values best along its gradient."
            )
        self.scale = float(scale)

    def correction(self, near: Linearised, pull: Callable[[Tensor], Tensor], x_t: Tensor, t: Tensor) -> Tensor:
        gradient = pull(near.transpose(near.residual))
        effect = near.forward(gradient)
        best = (near.residual * effect).sum(1) / effect.square().sum(1).clamp(min=torch.finfo(effect.dtype).tiny)
        return over_space((self.scale * best).clamp(0, 1), gradient) * gradient


class PiGDM(Guided):
    """Pseudoinverse-guided diffusion: x given x_t as x_hat plus independent errors of variance r^2 at every grid point.

    r^2 = s^2 sd^2 / (s^2 + sd^2), with s the noise level per point and sd = sigma_data. Errors of functions are not
    independent between points, so the spread is not the posterior's, and depends on the grid. On Gaussian priors
    means were 0.3 to 0.8 posterior standard deviations off, and the spread 1.1 to 1.5 times the posterior's
    (`python -m benchmarks.posterior`).

    Args:
        denoiser: The prior's.
        observation: What was measured.
        sigma_data: Standard deviation of the normalised data; by default the denoiser's own.
        iterations: At most, of the solver for (r^2 A A^T + R)^-1; they cost no evaluations of the network.

    Raises:
        ValueError: If sigma_data is neither given nor known.

    Source: Song, Vahdat, Mardani, Kautz (2023), Pseudoinverse-guided diffusion models for inverse problems.
    """

    def __init__(
        self, denoiser: Denoiser, observation: Observation, sigma_data: float | None = None, *, iterations: int = 100
    ) -> None:
        super().__init__(denoiser, observation)
        sigma_data = known(denoiser, "sigma_data") if sigma_data is None else sigma_data
        if sigma_data is None or not sigma_data > 0:
            raise ValueError(
                f"PiGDM: expected sigma_data > 0, got {sigma_data!r}; pass the standard deviation of the normalised data."
            )
        self.sigma_data, self.iterations = float(sigma_data), _check_iterations("PiGDM", iterations)

    def correction(self, near: Linearised, pull: Callable[[Tensor], Tensor], x_t: Tensor, t: Tensor) -> Tensor:
        alpha_t, sigma_t = self.sde.marginal(x_t, t)
        s2 = self.sde.noise.variance(tuple(x_t.shape[2:])) * (sigma_t / alpha_t).square()
        r2 = s2 * self.sigma_data**2 / (s2 + self.sigma_data**2)
        v = conjugate_residuals(
            lambda v: v + near.forward(r2 * near.transpose(v)),
            near.residual,
            iterations=self.iterations,
            tolerance=1e-4,
        )
        return pull(near.transpose(v))


class MomentMatching(Guided):
    """x given x_t as a Gaussian of the right mean and covariance; the posterior itself where the prior is Gaussian.

    By Tweedie's formula the covariance of x given x_t is (sigma^2 / alpha) C J^T, with J the denoiser's Jacobian: products
    with it take one backward pass of the network, and the solver takes a few. With `spectrum` the covariance is that of a
    stationary Gaussian prior, S sigma^2 C / (alpha^2 S + sigma^2 C) per mode, which weights the adjoint A'^T, and the network
    is never differentiated: exact for such a prior, blind to what ties one channel to another. On Gaussian
    priors means are within 0.03 posterior standard deviations and the spread within 3% (`python -m benchmarks.posterior`).

    Args:
        denoiser: The prior's.
        observation: What was measured.
        spectrum: Of the normalised data, such as `fit_spectrum` returns; None to use the denoiser's Jacobian.
        iterations: At most, of the solver. With the Jacobian each costs a backward pass of the network; 5 is usual for large
            networks, and few sensors need few.
        tolerance: Where the solver stops, relative.

    Source: Rozet, Andry, Lanusse, Louppe (2024), Learning diffusion priors from observations by expectation maximization; Boys,
    Girolami, Pidstrigach, Reich, Mosca, Akyildiz (2023), Tweedie moment projected diffusions for inverse problems.

    Examples:
        >>> import torch
        >>> from fnodiff import EDM, Box, DPMSolver, FunctionSpaceSDE, GaussianRandomField, Matern, WhiteNoise
        >>> from fnodiff.sde import GaussianDenoiser, MomentMatching, PointObservation
        >>> field = GaussianRandomField(Box(2), Matern(1.0, 0.3))
        >>> denoiser = GaussianDenoiser(field, FunctionSpaceSDE(WhiteNoise(Box(2), (16, 16)), EDM()))
        >>> seen = PointObservation(points=torch.tensor([[0.5], [0.5]]), values=torch.tensor([[2.0]]), noise_std=0.1)
        >>> x = DPMSolver(MomentMatching(denoiser, seen), 12).draw((1, 16, 16), seeds=range(8))
        >>> round(float(Box(2).evaluate(x, torch.tensor([[0.5], [0.5]])).mean()), 1)
        2.0
    """

    def __init__(
        self,
        denoiser: Denoiser,
        observation: Observation,
        spectrum: Spectrum | None = None,
        *,
        iterations: int = 100,
        tolerance: float = 1e-3,
    ) -> None:
        super().__init__(denoiser, observation)
        if not 0 < tolerance < 1:
            raise ValueError(f"MomentMatching: expected tolerance in (0, 1), got {tolerance!r}; 0.001 is usual.")
        self.spectrum, self.tolerance = spectrum, tolerance
        self.iterations = _check_iterations("MomentMatching", iterations)

    def forward(self, x_t: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        if self.spectrum is None:
            return super().forward(x_t, t, **condition)
        self.sde.domain.check_field(x_t)
        with torch.inference_mode(False), torch.no_grad():
            x_t, t = x_t.clone(), t.clone()
            (alpha_t, sigma_t), noise = self.sde.marginal(x_t, t), self.sde.noise.on(tuple(x_t.shape[2:]))

            def variance(eigenvalues: Tensor) -> Tensor:
                s = self.spectrum(eigenvalues, self.sde.domain.dim)
                c = sigma_t.square() * noise.std(eigenvalues).square()
                return s * c / (alpha_t.square() * s + c)

            x_hat = self.denoiser(x_t, t, **condition)
            return self._corrected(x_hat, partial(self._covariance, spectrum=variance), x_t, t)

    def correction(self, near: Linearised, pull: Callable[[Tensor], Tensor], x_t: Tensor, t: Tensor) -> Tensor:
        v = conjugate_residuals(
            lambda v: v + near.forward(pull(near.transpose(v))),
            near.residual,
            iterations=self.iterations,
            tolerance=self.tolerance,
        )
        return pull(near.transpose(v))


def _check_iterations(name: str, iterations: int) -> int:
    if not isinstance(iterations, int) or iterations < 1:
        raise ValueError(f"{name}: expected iterations >= 1, got {iterations!r}.")
    return iterations
