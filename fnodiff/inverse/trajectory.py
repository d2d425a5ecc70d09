"""Trajectories out of windows: a denoiser of many consecutive states, made of one of few.

Of a Markov chain, what x_t at time i says about state i comes by its neighbours. So state i's estimate is taken from the
window of W states in whose middle it stands, or, near the ends, from the first or the last window:

    E[x_i | x_t of all L states] = E[x_i | x_t of the window], nearly.

It is exact as the noise vanishes, and where the windows hold what the chain remembers.
"""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from fnodiff.expected import kinds_checked
from fnodiff.sde.channels import ChannelNoise
from fnodiff.sde.denoiser import Denoiser, Wrapper, channels_of
from fnodiff.sde.noise import ChannelSpectra, Spectrum
from fnodiff.sde.normalization import Normalization


@kinds_checked(but=("denoiser",))
class Trajectory(Wrapper):
    """A denoiser of `length` consecutive states, of one of windows of `states`; both have the states as channels.

    Each evaluation is one of length - states + 1 windows, side by side in a batch.

    Args:
        denoiser: Of windows, without conditions; all its channels have one unit and one law of the noise.
        length: L, states of a trajectory.
        states: W, states of a window.

    Raises:
        ValueError: If the trajectory is shorter than a window, the channels are no such windows, or states differ in units.

    Source: Rozet, Louppe (2023), Score-based data assimilation.

    Examples:
        >>> from fnodiff import EDM, FunctionSpaceSDE, GaussianRandomField, Matern, Torus, sample
        >>> from fnodiff.inverse import Trajectory
        >>> from fnodiff.sde import GaussianDenoiser
        >>> field = GaussianRandomField(Torus(1), Matern(1.0, 0.3))
        >>> denoiser = GaussianDenoiser(field, FunctionSpaceSDE(field, EDM()))
        >>> sample(Trajectory(denoiser, length=5), (16,), seeds=[0]).shape
        torch.Size([1, 5, 16])
    """

    def __init__(self, denoiser: Denoiser, length: int, states: int = 1) -> None:
        super().__init__(denoiser)
        channels = channels_of(denoiser)
        if isinstance(states, bool) or not isinstance(states, Integral) or states < 1 or channels % states:
            raise ValueError(
                f"Trajectory: expected windows of {states!r} states as channels, got a model of {channels} channels; pass "
                f"states= as many as a sample has."
            )
        if isinstance(length, bool) or not isinstance(length, Integral) or length < states:
            raise ValueError(f"Trajectory: expected a length of {states} states or more, got {length!r}.")
        self.length, self.states, self.each = int(length), int(states), channels // states
        units = denoiser.normalization
        for name, value in {"mean": units.mean, "std": units.std}.items():
            if isinstance(value, tuple) and value != value[: self.each] * self.states:
                raise ValueError(
                    f"Trajectory: expected the same {name} for all states of a window, got {value}; before training set "
                    f"model.normalization = Normalization(mean, std), with one number for all."
                )
        noise = denoiser.sde.noise
        apart = isinstance(noise, ChannelNoise) or isinstance(getattr(noise, "spectrum", None), ChannelSpectra)
        if apart or noise.channel_std is not None:
            raise ValueError(
                "Trajectory: expected one law of the noise for all states, got one for each channel; pass such as "
                "noise=GaussianRandomField(domain, Matern(1.0)) to Model.for_data."
            )

    def forward(self, x_t: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        if condition:
            raise ValueError(f"Trajectory: expected no condition, got {sorted(condition)}; leave it out.")
        c, w, count = self.each, self.states, self.length - self.states + 1
        if x_t.shape[1] != self.channels:
            raise ValueError(f"Trajectory: expected {self.channels} channels, got {tuple(x_t.shape)}.")
        windows = torch.cat([x_t[:, j * c : (j + w) * c] for j in range(count)])
        x_hat = self.denoiser(windows, t.repeat(count) if t.ndim else t).unflatten(0, (count, -1))
        out = []
        for i in range(self.length):
            j = min(max(i - (w - 1) // 2, 0), count - 1)
            out.append(x_hat[j, :, (i - j) * c : (i - j + 1) * c])
        return torch.cat(out, 1)

    @property
    def channels(self) -> int:
        return self.length * self.each

    @property
    def normalization(self) -> Normalization:
        units = self.denoiser.normalization
        if not isinstance(units.mean, tuple):
            return units
        return Normalization(units.mean[: self.each] * self.length, units.std[: self.each] * self.length)

    @property
    def spectrum(self) -> Spectrum | None:
        spectrum = self.denoiser.spectrum
        if not isinstance(spectrum, ChannelSpectra):
            return spectrum
        return ChannelSpectra(spectrum.channels[: self.each] * self.length)
