"""The options that make a model: network, noise, schedule, scaling. What is not named is `Model.for_data`'s choice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from fnodiff.cli.words import Numbers

if TYPE_CHECKING:
    from torch import nn

    from fnodiff.domain import Domain, Shape
    from fnodiff.sde import Noise, Scaling, Schedule


@Parameter(name="*", group=Group("Network", sort_key=2))
@dataclass(frozen=True)
class NetworkOptions:
    """A DFU. What is not named is the preset's."""

    network: Literal["tiny", "small", "paper"] = "small"
    """Of 0.8, 2.6 and 706 million parameters for pictures."""

    n_modes: Numbers | None = None
    """Modes per axis of the spectral branch at the finest level; one number for all axes."""

    hidden_channels: int | None = None
    """Width of the first level, a multiple of 4."""

    channel_mult: Numbers | None = None
    """Width of each level, in units of --hidden-channels."""

    num_blocks: int | None = None
    """Residual blocks per level."""

    spectral_levels: int | None = None
    """Levels with spectral branches, from the finest; 0 for a plain UNet."""

    attention_levels: Annotated[Numbers | None, Parameter(negative="--no-attention-levels")] = None
    """Levels with attention, 0 the finest."""

    local: Literal["conv", "operator", "point", "none"] | None = None
    """The local branch: 3x3 pixels, nine taps at fixed distances, 1x1, or none."""

    levels: Literal["reference", "moving"] = "reference"
    """Grids of the coarser levels: those of the largest training grid, or half the input's (the paper's)."""

    dropout: float | None = None
    """Probability, in every block."""

    positional_modes: int | None = None
    """Waves per axis that tell the network where it is."""

    rank: float | None = None
    """Factorise the spectral weights (Tucker) to this share of their number."""

    def make(self) -> Callable[..., nn.Module]:
        """The constructor, as `Model.for_data` calls it."""
        from fnodiff.nn import DFU

        preset = getattr(DFU, self.network)
        plain = ("hidden_channels", "channel_mult", "num_blocks", "spectral_levels", "attention_levels", "dropout")
        options: dict[str, Any] = {name: getattr(self, name) for name in (*plain, "positional_modes")}
        options = {name: value for name, value in options.items() if value is not None}
        if self.local is not None:
            options["local"] = None if self.local == "none" else self.local
        if self.levels == "moving":
            options["reference"] = None
        if self.rank is not None:
            options["spectral"] = {"factorization": "ComplexTucker", "rank": self.rank}

        def construct(inputs: int, outputs: int, *, domain: Domain, **given: Any) -> nn.Module:
            modes = {} if self.n_modes is None else {"n_modes": self.n_modes}
            if modes and len(self.n_modes) == 1:
                modes = {"n_modes": domain.shape_of(*self.n_modes)}
            return preset(inputs, outputs, domain=domain, **{**given, **options, **modes})

        return construct


@Parameter(name="*", group=Group("Noise", sort_key=3))
@dataclass(frozen=True)
class NoiseOptions:
    """The noise and its schedule."""

    noise: Literal["white", "pixel", "matern", "rbf"] | None = None
    """The same in a mode on every grid; the same at a point on every grid (EDM's and the paper's); or smooth. By default white
    for cell averages such as pictures, else Matern, a little rougher than the data."""

    smoothness: float | None = None
    """Of --noise matern: about how many derivatives. By default 0.5."""

    length_scale: float | None = None
    """Of --noise matern and rbf, in the domain's units. By default a fifth of its longest side."""

    schedule: Literal["edm", "ve", "vp", "sub-vp", "cosine"] | None = None
    """How noise grows with time. By default EDM's, for values at points between the levels that the data ask for."""

    sigma_min: float | None = None
    """Lowest noise level, sigma / alpha, of edm, ve and cosine."""

    sigma_max: float | None = None
    """Highest noise level."""

    def make_noise(self, domain: Domain, reference: Shape) -> Noise | None:
        """The noise that is named, if one is."""
        from fnodiff.sde import RBF, GaussianRandomField, Matern, PixelNoise, WhiteNoise

        smooth = {"--smoothness": self.smoothness, "--length-scale": self.length_scale}
        fits = {"matern": ("--smoothness", "--length-scale"), "rbf": ("--length-scale",)}.get(self.noise, ())
        _check("--noise", self.noise, smooth, fits)
        length = 0.2 * max(domain.lengths) if self.length_scale is None else self.length_scale
        if self.noise == "matern":
            return GaussianRandomField(domain, Matern(0.5 if self.smoothness is None else self.smoothness, length))
        if self.noise == "rbf":
            return GaussianRandomField(domain, RBF(length))
        if self.noise == "pixel":
            return PixelNoise(domain)
        return None if self.noise is None else WhiteNoise(domain, reference)

    def make_schedule(self) -> Schedule | None:
        """The schedule that is named, if one is."""
        from fnodiff.sde import EDM, VE, VP, Cosine, SubVP

        levels = {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max}
        levels = {name: value for name, value in levels.items() if value is not None}
        if self.schedule is None and not levels:
            return None
        flags = {f"--{name.replace('_', '-')}": value for name, value in levels.items()}
        name = self.schedule or "edm"
        _check("--schedule", name, flags, flags if name in ("edm", "ve", "cosine") else ())
        return {"edm": EDM, "ve": VE, "vp": VP, "sub-vp": SubVP, "cosine": Cosine}[name](**levels)


@Parameter(name="*", group=Group("Scaling and loss", sort_key=4))
@dataclass(frozen=True)
class ScalingOptions:
    """How the network's numbers become an estimate, and at which noise levels it is trained."""

    scaling: Literal["edm", "spectral"] = "edm"
    """One number for all modes, or one for each."""

    linear_estimate: bool | None = None
    """Whether the network sees the best linear estimate too. By default with --scaling edm."""

    sigma_data: float | None = None
    """Of --scaling edm: standard deviation of the data in the model's units. By default 0.5."""

    cutoff: float | None = None
    """Of --scaling spectral: cycles over the longest side above which the network's input is damped. By default 16."""

    p_mean: float | None = None
    """Mean of ln(sigma) in training. By default the scaling's: -1.2 of edm."""

    p_std: float | None = None
    """Spread of ln(sigma). By default the scaling's: 1.2 of edm."""

    drop_condition: float = 0.0
    """How often label or field are left out in training, for guidance: 0.1 is usual."""

    def make(self, reference: Shape) -> Scaling:
        """The scaling."""
        from fnodiff.sde import EDMScaling, SpectralScaling

        own = {"edm": ("--sigma-data",), "spectral": ("--cutoff",)}[self.scaling]
        _check("--scaling", self.scaling, {"--sigma-data": self.sigma_data, "--cutoff": self.cutoff}, own)
        if self.scaling == "edm":
            sigma_data = 0.5 if self.sigma_data is None else self.sigma_data
            return EDMScaling(sigma_data, linear_estimate=self.linear_estimate is not False)
        cutoff = 16.0 if self.cutoff is None else self.cutoff
        return SpectralScaling(reference, cutoff, linear_estimate=bool(self.linear_estimate))


def _check(flag: str, chosen: str | None, given: dict[str, float | None], fits: Any) -> None:
    """Raise if an option is given that the choice does not have."""
    wrong = [name for name, value in given.items() if value is not None and name not in fits]
    if wrong:
        raise ValueError(
            f"expected {' and '.join(fits) or 'no such option'} with {flag} {chosen or '(none)'}, got {wrong[0]}; leave it "
            f"out, or choose another {flag}."
        )
