"""Equations: solvers whose solutions are data and tests. Each is a source of fields on many grids."""

from fnodiff.equations.burgers import Burgers
from fnodiff.equations.cahn_hilliard import CahnHilliard
from fnodiff.equations.darcy import Darcy
from fnodiff.equations.navier_stokes import NavierStokes
from fnodiff.equations.poisson import Poisson
from fnodiff.equations.shallow_water import ShallowWater
from fnodiff.equations.solved import Solved

__all__ = ["Burgers", "CahnHilliard", "Darcy", "NavierStokes", "Poisson", "ShallowWater", "Solved"]
