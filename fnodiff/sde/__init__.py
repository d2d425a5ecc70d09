"""Score-operator diffusion over function-space noise: noises, schedules, the SDE, denoisers, the loss, samplers."""

from fnodiff.sde.cascade import Cascade, KnownModes, upscale
from fnodiff.sde.denoise import Denoiser, GaussianDenoiser, Preconditioned, SpectralPreconditioned
from fnodiff.sde.guidance import DPS, Autoguided, ClassifierFree, Guided, MomentMatching, PiGDM
from fnodiff.sde.loss import DenoisingLoss
from fnodiff.sde.noise import RBF, ChannelSpectra, GaussianRandomField, Matern, Noise, PixelNoise, WhiteNoise
from fnodiff.sde.normalization import Normalization
from fnodiff.sde.observe import Linear, Masked, Nonlinear, Observation, PointObservation, Restriction
from fnodiff.sde.process import FunctionSpaceSDE, noise_law, noise_levels
from fnodiff.sde.resolution import Progressive, Rung
from fnodiff.sde.sample import DDIM, DPMSolver, Heun, Sampler
from fnodiff.sde.schedule import EDM, VE, VP, Cosine, Schedule, SubVP
from fnodiff.sde.spectrum import DataSpectrum, fit_spectra, fit_spectrum
from fnodiff.sde.stochastic import AnnealedLangevin, EulerMaruyama, PredictorCorrector

__all__ = [
    "DDIM",
    "DPS",
    "EDM",
    "RBF",
    "VE",
    "VP",
    "AnnealedLangevin",
    "Autoguided",
    "Cascade",
    "ChannelSpectra",
    "ClassifierFree",
    "Cosine",
    "DPMSolver",
    "DataSpectrum",
    "Denoiser",
    "DenoisingLoss",
    "EulerMaruyama",
    "FunctionSpaceSDE",
    "GaussianDenoiser",
    "GaussianRandomField",
    "Guided",
    "Heun",
    "KnownModes",
    "Linear",
    "Masked",
    "Matern",
    "MomentMatching",
    "Noise",
    "Nonlinear",
    "Normalization",
    "Observation",
    "PiGDM",
    "PixelNoise",
    "PointObservation",
    "Preconditioned",
    "PredictorCorrector",
    "Progressive",
    "Restriction",
    "Rung",
    "Sampler",
    "Schedule",
    "SpectralPreconditioned",
    "SubVP",
    "WhiteNoise",
    "fit_spectra",
    "fit_spectrum",
    "noise_law",
    "noise_levels",
    "upscale",
]
