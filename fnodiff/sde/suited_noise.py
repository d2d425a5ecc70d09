"""The noise that suits data of a spectrum: a little rougher than they are."""

from __future__ import annotations

import torch

from fnodiff.domain import Domain, Shape
from fnodiff.sde.noise import ChannelSpectra, GaussianRandomField, Matern, Noise, Spectrum
from fnodiff.sde.process import has_data
from fnodiff.sde.spectrum import DataSpectrum
from fnodiff.sde.white import WhiteNoise


def suited_noise(domain: Domain, spectrum: Spectrum, reference: Shape) -> Noise:
    """Noise a little rougher than each channel, which falls as the data's spectrum does: all modes are lost at like levels.

    Modes without energy do not count: data that are band-limited have the smoothest noise.
    """
    if isinstance(spectrum, ChannelSpectra):
        laws = [_rough_law(domain, channel, reference) for channel in spectrum.channels]
        return (
            WhiteNoise(domain, reference) if None in laws else GaussianRandomField(domain, ChannelSpectra(tuple(laws)))
        )
    law = _rough_law(domain, spectrum, reference)
    return WhiteNoise(domain, reference) if law is None else GaussianRandomField(domain, law)


def _rough_law(domain: Domain, spectrum: DataSpectrum, reference: Shape) -> Matern | None:
    """The Matern law of a quarter less smoothness than the data's and the best length scale; None if they are rougher."""
    smoothness = min(3.0, (spectrum.exponent - domain.dim) / 2 - 0.25)
    if smoothness < 0.1:
        return None
    eigenvalues, octave = domain.eigenvalues(reference, dtype=torch.float64), domain.octaves(reference)
    inside = (eigenvalues > 0) & has_data(spectrum(eigenvalues), eigenvalues, spectrum)
    weight = 1 / octave.flatten().bincount()[octave][inside]  # octaves alike
    found = []
    for length in max(domain.lengths) * 2.0 ** torch.arange(-6, 0.5, 0.5, dtype=torch.float64):
        law = Matern(smoothness, float(length))
        ratio = (spectrum(eigenvalues, domain.dim) / law(eigenvalues, domain.dim)).log()[inside]
        mean = (weight * ratio).sum() / weight.sum()
        found.append((float((weight * (ratio - mean).square()).sum()), law))
    return min(found, key=lambda pair: pair[0])[1]
