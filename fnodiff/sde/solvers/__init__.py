"""Solvers: how a state goes from one noise level to the next. Each is a frozen dataclass of settings in a file of its own."""

from fnodiff.sde.solvers.base import Solver
from fnodiff.sde.solvers.ddim import DDIM
from fnodiff.sde.solvers.dpm_solver import DPMSolver
from fnodiff.sde.solvers.euler_maruyama import EulerMaruyama
from fnodiff.sde.solvers.heun import Heun
from fnodiff.sde.solvers.langevin import AnnealedLangevin, PredictorCorrector
from fnodiff.sde.solvers.spacing import EvenLogSNR, EvenRho, EvenTime, Spacing

__all__ = [
    "DDIM",
    "AnnealedLangevin",
    "DPMSolver",
    "EulerMaruyama",
    "EvenLogSNR",
    "EvenRho",
    "EvenTime",
    "Heun",
    "PredictorCorrector",
    "Solver",
    "Spacing",
]
