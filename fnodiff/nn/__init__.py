"""Networks assembled from operators: `DFU`, and the layers it is made of. Importing this room loads neuralop."""

from fnodiff.nn.dfu import DFU
from fnodiff.nn.integrals import Attention, GroupNorm
from fnodiff.nn.layers import DualConv, LocalConv, SpectralConv

__all__ = ["DFU", "Attention", "DualConv", "GroupNorm", "LocalConv", "SpectralConv"]
