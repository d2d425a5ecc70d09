"""Diffusion models on function spaces: train a score operator on a few resolutions, sample it on any grid.

The public names stand in `__init__.pyi`, and are imported when first used (SPEC 1): `import fnodiff` loads neither neuralop
nor torch_harmonics.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
