"""An HDF5 file that can be pickled and forked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py


class Handle:
    """An HDF5 file, which each process opens for itself when it first reads: called, it returns the open file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._open: tuple[int, h5py.File] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_open": None}

    def __call__(self) -> h5py.File:
        # A forked process inherits the handle together with the file position, so it opens its own.
        if self._open is None or self._open[0] != os.getpid():
            if self._open is not None:
                self._open[1].close()
            self._open = os.getpid(), h5py.File(self.path, "r")
        return self._open[1]
