"""Whether samples of a model are pictures, which are saved and shown as such."""

from __future__ import annotations

from fnodiff.sde.denoiser import Denoiser


def are_pictures(denoiser: Denoiser) -> bool:
    """Whether a model's samples are colour or grey pictures in [-1, 1].

    They are cell averages on a box in two dimensions. Three channels are taken for colours. One channel is taken for grey if
    its mean m and standard deviation s are such as values in [-1, 1] have, m^2 + s^2 <= 0.95, and s is at least 0.05;
    where the spread of normalised data is not known, 0.5 is taken for it.
    """
    domain, channels = denoiser.sde.domain, denoiser.channels
    if not (domain.pictures and denoiser.cell_averages and channels in (1, 3)):
        return False
    if channels == 3:
        return True
    units, sigma_data = denoiser.normalization, 0.5 if denoiser.sigma_data is None else denoiser.sigma_data
    mean, std = (value[0] if isinstance(value, tuple) else value for value in (units.mean, units.std))
    spread = std * sigma_data
    return mean**2 + spread**2 <= 0.95 and spread >= 0.05
