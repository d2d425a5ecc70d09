"""Data: sources of samples on many grids, and the loader that trains on several resolutions at once.

A source ("fields") has `channels`, a length and `batch(indices, shape)`, which returns {"x": (B, C, *shape)}, with a
"label", a conditioning "field" or numbers, "condition", if there are some.
"""

from fnodiff.data.arrays import ArrayFields
from fnodiff.data.augmentation import Augmentation
from fnodiff.data.augmented import Augmented
from fnodiff.data.chunks import Chunks
from fnodiff.data.exported import to_xarray
from fnodiff.data.hdf5 import HDF5Fields
from fnodiff.data.images import ImageFolder
from fnodiff.data.latlon import LatLon
from fnodiff.data.loader import InMemory, MultiResolution, Part, Upsampled
from fnodiff.data.named import from_xarray
from fnodiff.data.numbers import WithNumbers
from fnodiff.data.records import Records
from fnodiff.data.source import Fields
from fnodiff.data.stream import Stream
from fnodiff.data.terrain import Terrain
from fnodiff.data.well import from_well
from fnodiff.data.write import write_fields

__all__ = [
    "ArrayFields",
    "Augmentation",
    "Augmented",
    "Chunks",
    "Fields",
    "HDF5Fields",
    "ImageFolder",
    "InMemory",
    "LatLon",
    "MultiResolution",
    "Part",
    "Records",
    "Stream",
    "Terrain",
    "Upsampled",
    "WithNumbers",
    "from_well",
    "from_xarray",
    "to_xarray",
    "write_fields",
]
