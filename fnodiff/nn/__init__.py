"""Networks assembled from operators: `DFU` and its layers, and neuralop's models. Importing this room loads neuralop."""

from fnodiff.nn.cosine import CosineConv
from fnodiff.nn.dfu import DFU
from fnodiff.nn.dual import DualConv
from fnodiff.nn.integrals import Attention, GroupNorm
from fnodiff.nn.local import LocalConv
from fnodiff.nn.mixed import MixedConv
from fnodiff.nn.neural_operator import NeuralOperator
from fnodiff.nn.spectral import SpectralConv

__all__ = [
    "DFU",
    "Attention",
    "CosineConv",
    "DualConv",
    "GroupNorm",
    "LocalConv",
    "MixedConv",
    "NeuralOperator",
    "SpectralConv",
]
