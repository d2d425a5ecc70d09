"""Denoisers: E[x | x_t].

With y = x_t / alpha_t = x + (sigma_t / alpha_t) z, let s = sqrt(v) sigma_t / alpha_t be the standard deviation of y's noise at
a point, where v is the noise's variance per point on the grid at hand. EDM's preconditioning is

    D(x_t, t) = c_skip y + c_out F(c_in y, c_noise),
    c_skip = sd^2 / (s^2 + sd^2),  c_out = s sd / sqrt(s^2 + sd^2),  c_in = 1 / sqrt(s^2 + sd^2),  c_noise = ln(s) / 4,

where sd = sigma_data. White noise has v = 1 at its reference grid and more on finer ones; PixelNoise has v = 1 everywhere, and
EDM's formulas. With v in all four, F's input and target have unit variance on every grid, and as the grid is refined
c_skip -> 0 and c_out -> sd: D becomes a function although y does not. With s = sigma_t / alpha_t in c_skip and c_out
instead, F would have to cancel noise that grows with the grid.

What the network is told is ln(s) / 4, the noise level "per point" as here, or "per mode", ln(sigma_t / alpha_t) / 4: the first
moves with the grid, the second stays with what can be seen in the picture. They are one for noises that are functions.

Source: Karras, Aittala, Aila, Laine (2022), Elucidating the design space of diffusion-based generative models.
"""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fnodiff.domain import Shape
from fnodiff.sde.noise import GaussianRandomField, Spectrum
from fnodiff.sde.normalization import Normalization
from fnodiff.sde.process import FunctionSpaceSDE, noise_law


class Denoiser(nn.Module, abc.ABC):
    """E[x | x_t], the one thing that samplers need. Subclasses define `forward`.

    Attributes:
        sde: The process that made x_t.
        normalization: Maps data units to those of x; samplers undo it at the end.
        field_normalization: Maps a conditioning field's units to those that the network sees; the denoiser applies it itself.
        training_shapes: Spatial shapes that the model was trained on, as `fnodiff.train.fit` left them.
    """

    def __init__(
        self,
        sde: FunctionSpaceSDE,
        normalization: Normalization | None = None,
        field_normalization: Normalization | None = None,
    ) -> None:
        super().__init__()
        self.sde = sde
        self.training_shapes: tuple[Shape, ...] = ()
        self.normalization = Normalization() if normalization is None else normalization
        self.field_normalization = Normalization() if field_normalization is None else field_normalization

    @abc.abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        """The denoised estimate, of x_t's shape (B, C, *spatial), given t in [0, 1], () or (B,)."""

    def without(
        self, condition: dict[str, Tensor], names: Sequence[str], where: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Conditions with some of them left out: labels become -1, a field its mean, other numbers 0.

        Args:
            condition: By name, each (B, ...).
            names: Which to leave out.
            where: (B,) bool, of which samples; None for all.
        """
        condition = dict(condition)
        for name in names:
            value = condition[name]
            if name == "field":
                nothing = self.field_normalization.inverse(torch.zeros_like(value))
            elif value.is_floating_point():
                nothing = torch.zeros_like(value)
            else:
                nothing = torch.full_like(value, -1)
            if where is not None:
                nothing = torch.where(where.reshape(-1, *(1,) * (value.ndim - 1)), nothing, value)
            condition[name] = nothing
        return condition

    def _normalized(self, condition: dict[str, Tensor]) -> dict[str, Tensor]:
        """Conditions as the network sees them."""
        if "field" not in condition:
            return condition
        return {**condition, "field": self.field_normalization(condition["field"])}


class Wrapper(Denoiser):
    """A denoiser made of another one, with that one's units. Subclasses define `forward`.

    Args:
        denoiser: The other one.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser.sde, denoiser.normalization, denoiser.field_normalization)
        self.denoiser, self.training_shapes = denoiser, denoiser.training_shapes


def known(denoiser: Denoiser, name: str) -> Any:
    """What a model, or the model within wrappers, knows by this name (`spectrum`, `sigma_data`); None if it does not."""
    value = getattr(denoiser, name, None)
    return known(denoiser.denoiser, name) if value is None and isinstance(denoiser, Wrapper) else value


def compile_networks(denoiser: nn.Module) -> None:
    """Compile, in place, the network of every denoiser within: statically, once for each grid that it meets."""
    backbones = [m.backbone for m in denoiser.modules() if isinstance(getattr(m, "backbone", None), nn.Module)]
    if not backbones:
        raise ValueError(
            f"expected a denoiser with a network, its `backbone`, to compile, got {type(denoiser).__name__}."
        )
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)  # grids, not mistakes
    for backbone in backbones:
        backbone.compile(dynamic=False)


def _check_backbone(backbone: nn.Module, sde: FunctionSpaceSDE) -> None:
    if not callable(backbone):
        raise ValueError(f"expected a network, got {backbone!r}; pass such as DFU.small(3, 3).")
    domain = getattr(backbone, "domain", sde.domain)
    if domain != sde.domain:
        raise ValueError(
            f"expected a network on {sde.domain}, as the noise is, got one on {domain}; use one domain for both."
        )


def _check_shown(denoiser: Denoiser, backbone: nn.Module, without: str) -> None:
    taken, given = (getattr(backbone, name, None) for name in ("in_channels", "out_channels"))
    if None not in (taken, given) and taken != 2 * given:
        raise ValueError(
            f"{type(denoiser).__name__}: expected a network of {2 * given} to {given} channels, which is shown the linear "
            f"estimate beside x_t, got {taken} to {given}; build it with twice as many input channels, or pass {without}."
        )


def _check_told(told: str) -> str:
    if told not in ("point", "mode"):
        raise ValueError(
            f'expected told="point" or "mode", the noise level that the network is given, got {told!r}; "point" is usual.'
        )
    return told


def _told(denoiser: Preconditioned | SpectralPreconditioned, x_t: Tensor, t: Tensor) -> Tensor:
    """ln(noise level) / 4 of each sample, (B,), per point or per mode."""
    sde = denoiser.sde
    alpha_t, sigma_t = sde.marginal(x_t, t)
    level = sigma_t / alpha_t
    if denoiser.told == "point":
        level = math.sqrt(sde.noise.variance(tuple(x_t.shape[2:]))) * level
    return (level.log() / 4).flatten().expand(x_t.shape[0])


def _gain(s: Tensor, c: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What the best linear estimate of x from alpha x + sigma z multiplies each mode with, of variances S and C."""
    return alpha * s / (alpha.square() * s + sigma.square() * c)


class Preconditioned(Denoiser):
    """A network under EDM's preconditioning; see the head of this module.

    With a spectrum S of the data, F is shown the best linear estimate beside the noisy field,

        F(c_in y, S / (S + (sigma / alpha)^2 C) y / sd, c_noise),

    C being the noise's: what of y is noise on the grid at hand is told apart before F sees it, on finer grids than it trained
    on too, while at high noise F still says all of the picture anew (`SpectralPreconditioned` starts from the linear estimate).

    Args:
        backbone: F, called as `F(x, noise_level, **condition)`: (B, C, *spatial), (B,) -> (B, C, *spatial); with a spectrum
            (B, 2 C, *spatial) comes in.
        sde: The process.
        sigma_data: Standard deviation of the (normalised) data.
        spectrum: S, as for `SpectralPreconditioned`; None to show x_t alone.
        told: The noise level that F is given: per "point" or per "mode".
        normalization: Per-channel; `fnodiff.train.fit` measures it when asked to.
        field_normalization: Of the conditioning field, likewise.

    Raises:
        ValueError: If sigma_data is not positive, or with a spectrum the network does not take twice as many channels as it
            gives.

    Examples:
        >>> import torch
        >>> from fnodiff import DFU, EDM, Box, FunctionSpaceSDE, Preconditioned, WhiteNoise
        >>> sde = FunctionSpaceSDE(WhiteNoise(Box(2), reference=(32, 32)), EDM())
        >>> denoiser = Preconditioned(DFU.tiny(3, 3), sde, sigma_data=0.5)
        >>> denoiser(sde.prior((1, 3, 24, 40)), torch.ones(())).shape  # any grid
        torch.Size([1, 3, 24, 40])
    """

    noise_law = (-1.2, 1.2)
    """Mean and standard deviation of ln(sigma / alpha) in training: EDM's."""

    def __init__(
        self,
        backbone: nn.Module,
        sde: FunctionSpaceSDE,
        sigma_data: float = 0.5,
        *,
        spectrum: Spectrum | None = None,
        told: str = "point",
        normalization: Normalization | None = None,
        field_normalization: Normalization | None = None,
    ) -> None:
        super().__init__(sde, normalization, field_normalization)
        self.told = _check_told(told)
        _check_backbone(backbone, sde)
        if not 0 < sigma_data < math.inf:
            raise ValueError(
                f"Preconditioned: expected sigma_data > 0, got {sigma_data!r}; pass the data's standard deviation."
            )
        if spectrum is not None:
            _check_shown(self, backbone, "spectrum=None")
        self.backbone, self.spectrum = backbone, spectrum
        self.sigma_data = float(sigma_data)

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        names = ("backbone", "sde", "sigma_data", "spectrum", "told", "normalization", "field_normalization")
        return {name: getattr(self, name) for name in names}

    def forward(self, x_t: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        shape = self.sde.domain.check_field(x_t)
        alpha_t, sigma_t = self.sde.marginal(x_t, t)
        y, s, sd = x_t / alpha_t, math.sqrt(self.sde.noise.variance(shape)) * sigma_t / alpha_t, self.sigma_data
        c_skip = sd**2 / (s.square() + sd**2)
        c_in = 1 / (s.square() + sd**2).sqrt()
        c_out = s * sd * c_in
        c_noise = _told(self, x_t, t)
        seen = c_in * y
        if self.spectrum is not None:
            spectrum, noise, domain = self.spectrum, self.sde.noise.on(shape), self.sde.domain
            estimate = domain.filter(
                x_t, lambda e: _gain(spectrum(e, domain.dim), noise.std(e).square(), alpha_t, sigma_t)
            )
            seen = torch.cat([seen, estimate / sd], dim=1)
        return c_skip * y + c_out * self.backbone(seen, c_noise, **self._normalized(condition)).to(x_t.dtype)

    def target_variance(self, t: Tensor, shape: Shape) -> Tensor:
        """The error per mode that F starts from, c_out^2 shared among the modes: (*t.shape, *coefficient_shape)."""
        mult = self.sde.domain.multiplicity(shape, device=t.device, dtype=t.dtype)
        return torch.ones_like(mult) / (self.loss_weight(t, shape).reshape(*t.shape, *(1,) * mult.ndim) * mult.sum())

    def loss_weight(self, t: Tensor, shape: Shape) -> Tensor:
        """1 / c_out^2 on a grid of this shape, of t's shape: the weight of |D - x|^2 under which F's error counts alike."""
        s, sd = math.sqrt(self.sde.noise.variance(shape)) * self.sde.schedule.ratio(t), self.sigma_data
        return (s.square() + sd**2) / (s * sd).square()


class SpectralPreconditioned(Denoiser):
    """A network under a preconditioner that knows each mode's share of data and noise.

    With S(lambda) the data's variance per mode, C(lambda) the noise's, and per mode

        N = alpha^2 S + sigma^2 C,    G = alpha S / N,    V = S sigma^2 C / N,
        D(x_t, t) = G x_t + (m V)^(1/2) F((R / (m N))^(1/2) x_t, ln(sigma / alpha) / 4).

    G x_t is the best linear estimate, so F = 0 is exact on Gaussian data of this spectrum, and F's target has unit
    variance in every mode. m is the number of modes of the reference grid. R = (1 + (kappa / cutoff)^2)^-3, kappa in cycles
    per unit length, scaled to mean one over those modes, makes F's input a function: without it the input is white, and
    changes with the grid all over. What F gets wrong in modes it never trained on is damped by V. S may differ by channel
    (`fit_spectra`): each channel then has its own G and V, and the loss weighs its error by its own tr V.

    At high noise the best estimate is far from the linear one, and F has to take G x_t back before it says anything better:
    with `shown`, F's input has G x_t beside the whitened x_t, over the data's standard deviation.

    Args:
        backbone: F, called as `F(x, noise_level, **condition)`: (B, C, *spatial), (B,) -> (B, C, *spatial).
        sde: The process.
        spectrum: S, such as `fit_spectrum` or, for each channel, `fit_spectra` returns; any callable of the eigenvalues and
            the dimension that gives (*modes) or (C, *modes).
        reference: Spatial shape of the grid on which F's input has unit variance per point: the largest trained on.
        cutoff: Of R, in cycles per unit length; None for R = 1.
        shown: Whether F is given G x_t as well: it then maps 2 C channels to C.
        told: The noise level that F is given: per "point" or per "mode".
        normalization: Per-channel; `fnodiff.train.fit` measures it when asked to.
        field_normalization: Of the conditioning field, likewise.

    Raises:
        ValueError: If the cutoff is not positive, or with `shown` the network does not take twice as many channels as it gives.

    Examples:
        >>> import torch
        >>> from fnodiff import DFU, EDM, Box, FunctionSpaceSDE, Matern, WhiteNoise
        >>> from fnodiff.sde import SpectralPreconditioned
        >>> sde = FunctionSpaceSDE(WhiteNoise(Box(2), (32, 32)), EDM())
        >>> denoiser = SpectralPreconditioned(DFU.tiny(1, 1), sde, Matern(1.0, 0.3), reference=(32, 32))
        >>> denoiser(sde.prior((1, 1, 24, 40)), torch.ones(())).shape
        torch.Size([1, 1, 24, 40])
    """

    def __init__(
        self,
        backbone: nn.Module,
        sde: FunctionSpaceSDE,
        spectrum: Spectrum,
        reference: Shape,
        cutoff: float | None = 16.0,
        *,
        shown: bool = False,
        told: str = "mode",
        normalization: Normalization | None = None,
        field_normalization: Normalization | None = None,
    ) -> None:
        super().__init__(sde, normalization, field_normalization)
        self.told = _check_told(told)
        _check_backbone(backbone, sde)
        if cutoff is not None and not cutoff > 0:
            raise ValueError(f"SpectralPreconditioned: expected cutoff > 0 or None, got {cutoff!r}; 16 is usual.")
        if shown:
            _check_shown(self, backbone, "shown=False")
        self.backbone, self.spectrum, self.cutoff, self.shown = backbone, spectrum, cutoff, shown
        self.reference = sde.domain.check_shape(reference)
        mult = sde.domain.multiplicity(self.reference, dtype=torch.float64)
        roughness = self._roughness(sde.domain.eigenvalues(self.reference, dtype=torch.float64))
        self._modes, self._scale = float(mult.sum()), float((mult * roughness).sum() / mult.sum())

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        names = ("backbone", "sde", "spectrum", "reference", "cutoff", "shown", "told", "normalization")
        return {name: getattr(self, name) for name in (*names, "field_normalization")}

    def forward(self, x_t: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        shape = self.sde.domain.check_field(x_t)
        alpha_t, sigma_t = self.sde.marginal(x_t, t)

        def spectra(eigenvalues: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            s, c = self._spectra(eigenvalues, shape)
            return s, sigma_t.square() * c, alpha_t.square() * s + sigma_t.square() * c

        def linear(eigenvalues: Tensor) -> Tensor:
            return _gain(*self._spectra(eigenvalues, shape), alpha_t, sigma_t)

        def whiten(eigenvalues: Tensor) -> Tensor:
            return (self._roughness(eigenvalues) / (self._scale * self._modes * spectra(eigenvalues)[2])).sqrt()

        def colour(eigenvalues: Tensor) -> Tensor:
            s, noise, n = spectra(eigenvalues)
            return (self._modes * s * noise / n).sqrt()

        domain, condition = self.sde.domain, self._normalized(condition)
        seen, estimate = domain.filter(x_t, whiten), domain.filter(x_t, linear)
        if self.shown:
            seen = torch.cat([seen, estimate / self._spread.to(x_t)], dim=1)
        out = self.backbone(seen, _told(self, x_t, t), **condition).to(x_t.dtype)
        return estimate + domain.filter(out, colour)

    @functools.cached_property
    def _spread(self) -> Tensor:
        """The data's standard deviation at a point of the reference grid, (C or 1, *ones)."""
        domain = self.sde.domain
        eigenvalues, mult = (f(self.reference, dtype=torch.float64) for f in (domain.eigenvalues, domain.multiplicity))
        variance = (mult * self._spectra(eigenvalues, self.reference)[0]).flatten(-domain.dim).sum(-1)
        return variance.sqrt().reshape(-1, *(1,) * domain.dim)

    @functools.cached_property
    def noise_law(self) -> tuple[float, float]:
        """Mean and standard deviation of ln(sigma / alpha) in training: `fnodiff.sde.noise_law` on the reference grid."""
        return noise_law(self.sde.noise, self.spectrum, self.reference)

    def target_variance(self, t: Tensor, shape: Shape) -> Tensor:
        """V, the error per mode that F starts from: (*t.shape, *coefficient_shape), float64.

        With a spectrum for each channel (*t.shape, C, *coefficient_shape).
        """
        eigenvalues = self.sde.domain.eigenvalues(shape, device=t.device, dtype=torch.float64)
        s, c = self._spectra(eigenvalues, shape)
        noise = self.sde.schedule.ratio(t.double()).reshape(*t.shape, *(1,) * s.ndim).square() * c
        return s * noise / (s + noise)

    def loss_weight(self, t: Tensor, shape: Shape) -> Tensor:
        """1 / tr V on a grid of this shape, of t's shape: the linear estimate's error, which F starts from, weighs one.

        With a spectrum for each channel (*t.shape, C).
        """
        mult = self.sde.domain.multiplicity(shape, device=t.device, dtype=torch.float64)
        return (1 / (mult * self.target_variance(t, shape)).flatten(-mult.ndim).sum(-1)).to(t.dtype)

    def _spectra(self, eigenvalues: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
        """S and C of the modes, as a grid of this shape sees them."""
        s = self.spectrum(eigenvalues, self.sde.domain.dim)
        return torch.broadcast_tensors(s, self.sde.noise.on(shape).std(eigenvalues).square())

    def _roughness(self, eigenvalues: Tensor) -> Tensor:
        """R, up to its scale."""
        if self.cutoff is None:
            return torch.ones_like(eigenvalues)
        return (1 + eigenvalues / (2 * math.pi * self.cutoff) ** 2) ** -3


class GaussianDenoiser(Denoiser):
    """Exact for data ~ N(0, S): per mode, alpha S / (alpha^2 S + sigma^2 C) x_t. The oracle of the tests.

    Args:
        data: The law of the data, on the same domain as the noise.
        sde: The process.

    Raises:
        ValueError: If the two domains differ.

    Examples:
        >>> import torch
        >>> from fnodiff import EDM, Box, FunctionSpaceSDE, GaussianRandomField, Matern, WhiteNoise
        >>> from fnodiff.sde import GaussianDenoiser
        >>> field = GaussianRandomField(Box(2), Matern(1.0, 0.3))
        >>> denoiser = GaussianDenoiser(field, FunctionSpaceSDE(WhiteNoise(Box(2), (16, 16)), EDM()))
        >>> x, t = field.sample((1, 1, 16, 16), generator=torch.Generator().manual_seed(0)), torch.tensor(0.3)
        >>> x_t, _ = denoiser.sde.perturb(x, t, generator=torch.Generator().manual_seed(1))
        >>> [round(float(Box(2).norm(v - x) / Box(2).norm(x)), 2) for v in (x_t, denoiser(x_t, t))]
        [0.33, 0.17]
    """

    def __init__(self, data: GaussianRandomField, sde: FunctionSpaceSDE) -> None:
        super().__init__(sde)
        if data.domain != sde.domain:
            raise ValueError(
                f"GaussianDenoiser: expected data on {sde.domain}, got {data.domain}; use one domain for both."
            )
        self.data = data

    def forward(self, x_t: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        if condition:
            raise ValueError(f"GaussianDenoiser: expected no condition, got {sorted(condition)}; leave it out.")
        shape = self.sde.domain.check_field(x_t)
        alpha_t, sigma_t = self.sde.marginal(x_t, t)

        def gain(eigenvalues: Tensor) -> Tensor:
            data, noise = self.data.std(eigenvalues), self.sde.noise.on(shape).std(eigenvalues)
            return _gain(data.square(), noise.square(), alpha_t, sigma_t)

        return self.sde.domain.filter(x_t, gain)

    def flow(self, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The probability-flow ODE's solution at s from x_t at t, in closed form: per mode, sqrt(N_s / N_t) x_t."""
        shape = self.sde.domain.check_field(x_t)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.sde.marginal(x_t, t), self.sde.marginal(x_t, s)

        def gain(eigenvalues: Tensor) -> Tensor:
            data = self.data.std(eigenvalues).square()
            noise = self.sde.noise.on(shape).std(eigenvalues).square()
            n_t = alpha_t.square() * data + sigma_t.square() * noise
            return ((alpha_s.square() * data + sigma_s.square() * noise) / n_t).sqrt()

        return self.sde.domain.filter(x_t, gain)
