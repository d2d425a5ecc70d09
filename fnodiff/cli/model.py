"""The options that make a model: network, noise, schedule, scaling. What is not named is `Model.for_data`'s choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

import fnodiff
from fnodiff.cli.arguments import MaybeWhole, Numbers, named, option, options

if TYPE_CHECKING:
    from torch import nn

    from fnodiff.domain import Domain, Shape
    from fnodiff.sde import Noise, Scaling, Schedule


@options("Network", 2)
class NetworkOptions:
    """A DFU. What is not named is the preset's."""

    network: Literal["tiny", "small", "paper"] = option("Of 0.7, 2.1 and 706 million parameters for pictures.", "small")
    n_modes: Numbers | None = option("Modes per axis of the finest level's spectral branch; one number for all axes.")
    hidden_channels: MaybeWhole = option("Width of the first level, a multiple of 4.")
    channel_mult: Numbers | None = option("Width of each level, in units of --hidden-channels.")
    num_blocks: MaybeWhole = option("Residual blocks per level.")
    spectral_levels: MaybeWhole = option("Levels with spectral branches, from the finest; 0 for a plain UNet.")
    attention_levels: Annotated[Numbers | None, Parameter(negative="--no-attention-levels")] = option(
        "Levels with attention, 0 the finest."
    )
    local: Literal["conv", "operator", "point", "none"] | None = option(
        "The local branch: 3x3 pixels, nine taps at fixed distances, 1x1, or none."
    )
    levels: Literal["reference", "moving"] = option(
        "Coarser grids: those of the largest training grid, or half the input's (the paper's).", "reference"
    )
    boundary: Literal["even", "all", "periodic"] | None = option(
        "On a box, how spectral branches take a field beyond its edges; periodic is the paper's."
    )
    dropout: float | None = option("Probability, in every block.")
    positional_modes: MaybeWhole = option("Waves per axis that tell the network where it is.")
    rank: float | None = option("Factorise the spectral weights (Tucker) to this share of their number.")

    def make(self) -> Callable[..., nn.Module]:
        """The constructor, as `Model.for_data` calls it."""
        special = ("network", "n_modes", "levels", "rank")
        chosen = {name: value for name, value in vars(self).items() if value is not None and name not in special}
        if self.local == "none":
            chosen["local"] = None
        if self.levels == "moving":
            chosen["reference"] = None
        if self.rank is not None:
            chosen["spectral"] = {"factorization": "ComplexTucker", "rank": self.rank}

        def construct(inputs: int, outputs: int, *, domain: Domain, **given: Any) -> nn.Module:
            sides = self.n_modes or ()
            modes = {"n_modes": domain.shape_of(*sides) if len(sides) == 1 else sides} if sides else {}
            return getattr(fnodiff.DFU, self.network)(inputs, outputs, domain=domain, **{**given, **chosen, **modes})

        return construct


@options("Noise", 3)
class NoiseOptions:
    """The noise and its schedule."""

    noise: Literal["white", "pixel", "matern", "rbf"] | None = option(
        "The same in a mode on every grid; the same at a point (EDM's and the paper's); or smooth. By default white for cell "
        "averages such as pictures, else Matern, a little rougher than the data."
    )
    smoothness: float | None = option("Of --noise matern: about how many derivatives. By default 0.5.")
    length_scale: float | None = option("Of --noise matern and rbf. By default a fifth of the domain's longest side.")
    schedule: Literal["edm", "ve", "vp", "sub-vp", "cosine", "rectified-flow"] | None = option(
        "How noise grows with time. By default EDM's, for values at points between the levels that the data ask for."
    )
    sigma_min: float | None = option("Lowest noise level, sigma / alpha, of edm, ve, cosine and rectified-flow.")
    sigma_max: float | None = option("Highest noise level.")

    def make_noise(self, domain: Domain, reference: Shape) -> Noise | None:
        """The noise that is named, if one is."""
        smooth = named(self, "noise", {"smoothness": ("matern",), "length_scale": ("matern", "rbf")})
        if self.noise == "matern":
            return fnodiff.GaussianRandomField(domain, fnodiff.Matern(**{"smoothness": 0.5, **smooth}))
        if self.noise == "rbf":
            return fnodiff.GaussianRandomField(domain, fnodiff.RBF(**smooth))
        if self.noise == "pixel":
            return fnodiff.PixelNoise(domain)
        return None if self.noise is None else fnodiff.WhiteNoise(domain, reference)

    def make_schedule(self) -> Schedule | None:
        """The schedule that is named, if one is."""
        having = (None, "edm", "ve", "cosine", "rectified-flow")
        levels = named(self, "schedule", {"sigma_min": having, "sigma_max": having})
        if self.schedule is None and not levels:
            return None
        kinds = {"ve": fnodiff.VE, "vp": fnodiff.VP, "sub-vp": fnodiff.SubVP, "cosine": fnodiff.Cosine}
        kinds["rectified-flow"] = fnodiff.RectifiedFlow
        return kinds.get(self.schedule, fnodiff.EDM)(**levels)


@options("Scaling and loss", 4)
class ScalingOptions:
    """How the network's numbers become an estimate, and at which noise levels it is trained."""

    scaling: Literal["edm", "spectral", "flow"] = option(
        "One number for all modes, or one for each; or the network is a velocity, as in flow matching.", "edm"
    )
    linear_estimate: bool | None = option("Show the network the best linear estimate. By default with --scaling edm.")
    sigma_data: float | None = option("Of --scaling edm: standard deviation of normalised data. By default 0.5.")
    cutoff: float | None = option("Of --scaling spectral: damp input above so many cycles a side. By default 16.")
    p_mean: float | None = option("Mean of ln(sigma) in training. By default the scaling's: -1.2 of edm.")
    p_std: float | None = option("Spread of ln(sigma). By default the scaling's: 1.2 of edm.")
    drop_condition: float = option("How often to train without label or field, for guidance: 0.1 is usual.", 0.0)

    def make(self, reference: Shape) -> Scaling:
        """The scaling."""
        given = named(self, "scaling", {"sigma_data": ("edm",), "cutoff": ("spectral",)})
        if self.scaling == "edm":
            return fnodiff.EDMScaling(linear_estimate=self.linear_estimate is not False, **given)
        if self.scaling == "flow":
            return fnodiff.FlowScaling(bool(self.linear_estimate))
        return fnodiff.SpectralScaling(reference, linear_estimate=bool(self.linear_estimate), **given)
