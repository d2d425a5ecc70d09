"""Score-operator diffusion over function-space noise: noises, schedules, the SDE, denoisers, the loss, samplers."""

from fnodiff.sde.denoise import Denoiser, GaussianDenoiser, Normalization, Preconditioned, SpectralPreconditioned
from fnodiff.sde.loss import DenoisingLoss
from fnodiff.sde.noise import RBF, GaussianRandomField, Matern, Noise, PixelNoise, WhiteNoise
from fnodiff.sde.process import FunctionSpaceSDE
from fnodiff.sde.sample import DDIM, AnnealedLangevin, DPMSolver, EulerMaruyama, Heun, PredictorCorrector, Sampler
from fnodiff.sde.schedule import EDM, VE, VP, Cosine, Schedule, SubVP
from fnodiff.sde.spectrum import DataSpectrum, fit_spectrum

__all__ = [
    "DDIM",
    "EDM",
    "RBF",
    "VE",
    "VP",
    "AnnealedLangevin",
    "Cosine",
    "DPMSolver",
    "DataSpectrum",
    "Denoiser",
    "DenoisingLoss",
    "EulerMaruyama",
    "FunctionSpaceSDE",
    "GaussianDenoiser",
    "GaussianRandomField",
    "Heun",
    "Matern",
    "Noise",
    "Normalization",
    "PixelNoise",
    "Preconditioned",
    "PredictorCorrector",
    "Sampler",
    "Schedule",
    "SpectralPreconditioned",
    "SubVP",
    "WhiteNoise",
    "fit_spectrum",
]
