"""Inverse problems: observations, and denoisers that heed them."""

from fnodiff.inverse.annealed import annealed
from fnodiff.inverse.assimilate import assimilate, smooth
from fnodiff.inverse.deepinv import DeepinvObservation
from fnodiff.inverse.dps import DPS
from fnodiff.inverse.guided import Guided
from fnodiff.inverse.linearised import Linearised
from fnodiff.inverse.masked import Masked
from fnodiff.inverse.match_modes import MatchModes
from fnodiff.inverse.moment_matching import MomentMatching
from fnodiff.inverse.observation import Observation
from fnodiff.inverse.operators import Linear, Nonlinear
from fnodiff.inverse.pigdm import PiGDM
from fnodiff.inverse.point import PointObservation
from fnodiff.inverse.posterior import posterior
from fnodiff.inverse.restriction import Restriction
from fnodiff.inverse.trajectory import Trajectory
from fnodiff.inverse.twisted import twisted

__all__ = [
    "DPS",
    "DeepinvObservation",
    "Guided",
    "Linear",
    "Linearised",
    "Masked",
    "MatchModes",
    "MomentMatching",
    "Nonlinear",
    "Observation",
    "PiGDM",
    "PointObservation",
    "Restriction",
    "Trajectory",
    "annealed",
    "assimilate",
    "posterior",
    "smooth",
    "twisted",
]
