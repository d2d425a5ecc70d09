"""Score-operator diffusion over function-space noise: noises, schedules, the SDE, denoisers, the loss, solvers and sampling."""

from fnodiff.sde.channels import ChannelNoise
from fnodiff.sde.denoiser import Denoiser, Wrapper
from fnodiff.sde.flow import FlowScaling, OptimalTransport
from fnodiff.sde.gaussian import GaussianDenoiser
from fnodiff.sde.given import Given
from fnodiff.sde.guidance import Autoguided, ClassifierFree
from fnodiff.sde.likelihood import log_likelihood
from fnodiff.sde.loss import DenoisingLoss
from fnodiff.sde.noise import RBF, ChannelSpectra, GaussianRandomField, Matern, Noise
from fnodiff.sde.normalization import Normalization, measure_normalization
from fnodiff.sde.process import FunctionSpaceSDE
from fnodiff.sde.replace import ReplaceCells, ReplaceModes
from fnodiff.sde.sampling import integrate, run, sample, samples, upscale
from fnodiff.sde.scaling import EDMScaling, Scaled, Scaling, SpectralScaling
from fnodiff.sde.schedule import EDM, VE, VP, Cosine, RectifiedFlow, Schedule, SubVP
from fnodiff.sde.solvers import (
    DDIM,
    AnnealedLangevin,
    DPMSolver,
    EulerMaruyama,
    EvenLogSNR,
    EvenRho,
    EvenTime,
    Heun,
    PredictorCorrector,
    Solver,
    Spacing,
)
from fnodiff.sde.spectrum import DataSpectrum, fit_spectra, fit_spectrum, noise_law, noise_levels
from fnodiff.sde.stages import Cascade, Direct, Plan, Progressive, Stage
from fnodiff.sde.usual import default_plan, default_solver
from fnodiff.sde.white import PixelNoise, WhiteNoise

__all__ = [
    "DDIM",
    "EDM",
    "RBF",
    "VE",
    "VP",
    "AnnealedLangevin",
    "Autoguided",
    "Cascade",
    "ChannelNoise",
    "ChannelSpectra",
    "ClassifierFree",
    "Cosine",
    "DPMSolver",
    "DataSpectrum",
    "Denoiser",
    "DenoisingLoss",
    "Direct",
    "EDMScaling",
    "EulerMaruyama",
    "EvenLogSNR",
    "EvenRho",
    "EvenTime",
    "FlowScaling",
    "FunctionSpaceSDE",
    "GaussianDenoiser",
    "GaussianRandomField",
    "Given",
    "Heun",
    "Matern",
    "Noise",
    "Normalization",
    "OptimalTransport",
    "PixelNoise",
    "Plan",
    "PredictorCorrector",
    "Progressive",
    "RectifiedFlow",
    "ReplaceCells",
    "ReplaceModes",
    "Scaled",
    "Scaling",
    "Schedule",
    "Solver",
    "Spacing",
    "SpectralScaling",
    "Stage",
    "SubVP",
    "WhiteNoise",
    "Wrapper",
    "default_plan",
    "default_solver",
    "fit_spectra",
    "fit_spectrum",
    "integrate",
    "log_likelihood",
    "measure_normalization",
    "noise_law",
    "noise_levels",
    "run",
    "sample",
    "samples",
    "upscale",
]
