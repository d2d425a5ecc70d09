"""Measures of fields: distances of sets, spectra, scores of ensembles. They are functions of (x, y, domain), y the truth."""

from fnodiff.metrics.distances import (
    frechet_distance,
    global_coherence,
    high_band_distance,
    kernel_distance,
    patch_distance,
    patches,
    sliced_wasserstein,
)
from fnodiff.metrics.ensembles import coverage, crps, energy_score, rank_histogram
from fnodiff.metrics.errors import discretization_error, relative_l2
from fnodiff.metrics.inception import inception_distances
from fnodiff.metrics.spectra import radial_spectrum, slope_statistics, spectral_slope, spectrum_error

__all__ = [
    "coverage",
    "crps",
    "discretization_error",
    "energy_score",
    "frechet_distance",
    "global_coherence",
    "high_band_distance",
    "inception_distances",
    "kernel_distance",
    "patch_distance",
    "patches",
    "radial_spectrum",
    "rank_histogram",
    "relative_l2",
    "sliced_wasserstein",
    "slope_statistics",
    "spectral_slope",
    "spectrum_error",
]
