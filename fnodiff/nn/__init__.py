"""Networks assembled from operators: `DFU`, and the layers it is made of. Importing this room loads neuralop."""

from fnodiff.nn.cosine import CosineConv
from fnodiff.nn.dfu import DFU
from fnodiff.nn.dual import DualConv
from fnodiff.nn.integrals import Attention, GroupNorm
from fnodiff.nn.local import LocalConv
from fnodiff.nn.mixed import MixedConv
from fnodiff.nn.spectral import SpectralConv

__all__ = ["DFU", "Attention", "CosineConv", "DualConv", "GroupNorm", "LocalConv", "MixedConv", "SpectralConv"]
