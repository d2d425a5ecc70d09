"""Data by what names them: pictures in a folder or a zip, fields in an .h5, arrays in other files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cyclopts import Group, Parameter

from fnodiff.cli.words import Reals

if TYPE_CHECKING:
    from fnodiff.data import Fields
    from fnodiff.domain import Domain, Shape

IN_MEMORY = 2**30
"""Pictures that take no more bytes than this on the training grids are kept in memory."""

DATA = Group("Data", sort_key=1)


@Parameter(name="*", group=DATA)
@dataclass(frozen=True)
class ArrayOptions:
    """Which arrays of a file (MATLAB, NumPy, PyTorch, HDF5) are meant."""

    x: str | None = None
    """Name of the array of samples, of a file with several."""

    mask: str | None = None
    """Name of the array that is 1 where x was measured."""

    latitude: str | None = None
    """Name of the latitudes of fields on the globe."""

    longitude: str | None = None
    """Name of the longitudes."""

    channel_axis: Literal["1", "-1"] | None = None
    """Where an array has its channels: after the samples, or last."""

    def open(self, path: str, domain: Domain | None, **names: str | None) -> Fields:
        """The source at this path.

        Args:
            path: Of a folder, a zip or a file.
            domain: What the samples are functions on; arrays need it, unless their latitudes are named.
            names: Of further arrays: field, label.
        """
        from fnodiff.data import ArrayFields, HDF5Fields, ImageFolder

        kind = self.kind(path)
        named = {name: getattr(self, name) for name in ArrayOptions.__dataclass_fields__} | names
        named = {name: value for name, value in named.items() if value is not None}
        if kind != "arrays":
            if named:
                raise ValueError(
                    f"expected a file of arrays with --{next(iter(named)).replace('_', '-')}, got {path}, which holds {kind}; "
                    f"leave the option out, or of an .h5 with other arrays name --x too."
                )
            return ImageFolder(path) if kind == "pictures" else HDF5Fields(path)
        if domain is None and "latitude" not in named:
            raise ValueError(f"expected --domain box, torus or sphere with the arrays of {path}, got none; name it.")
        if "channel_axis" in named:
            named["channel_axis"] = int(named["channel_axis"])
        return ArrayFields.open(path, domain=domain, **named)

    def kind(self, path: str) -> Literal["pictures", "fields", "arrays"]:
        """What is at this path: fields are an .h5 of `fnodiff.data.write_fields`."""
        from fnodiff.data.files import SUFFIXES

        file, suffix = Path(path), Path(path).suffix.lower()
        if not file.exists() or not (file.is_dir() or suffix == ".zip" or suffix in SUFFIXES):
            raise ValueError(
                f"expected a folder or zip of pictures, or a file ending in one of {', '.join(SUFFIXES)}, got {path}, which is "
                f"{'none of these' if file.exists() else 'not there'}; name another one."
            )
        if file.is_dir() or suffix == ".zip":
            return "pictures"
        return "fields" if suffix in (".h5", ".hdf5") and self.x is None else "arrays"


@Parameter(name="*", group=DATA)
@dataclass(frozen=True)
class TrainingData(ArrayOptions):
    """What a model is trained on, with what conditions it."""

    field: str | None = None
    """Name of the array that the samples are conditioned on."""

    label_name: str | None = None
    """Name of the array of labels."""

    labels: bool = True
    """Train on the data's labels, if they have some."""

    in_memory: bool | None = None
    """Keep the samples on the training grids in memory. By default pictures that take no more than 1 GiB."""

    def load(self, path: str, domain: Domain | None) -> Fields:
        """The source at this path, with what conditions it."""
        from fnodiff.data import Part

        fields = self.open(path, domain, field=self.field, label=self.label_name)
        if self.labels:
            return fields
        conditioned, masked = getattr(fields, "condition_channels", 0), getattr(fields, "masked", False)
        return Part(fields, range(len(fields)), ["x", *["field"] * bool(conditioned), *["mask"] * masked])

    def keep(self, fields: Fields, shapes: Sequence[Shape], progress: bool) -> Fields:
        """The source, in memory if it is to be kept there."""
        from fnodiff.data import ImageFolder, InMemory

        size = 4 * fields.channels * len(fields) * sum(map(math.prod, shapes))
        pictures = isinstance(getattr(fields, "fields", fields), ImageFolder)
        if self.in_memory or (self.in_memory is None and pictures and size <= IN_MEMORY):
            return InMemory(fields, shapes, progress=progress)
        return fields


@Parameter(name="*", group=DATA)
@dataclass(frozen=True)
class DomainOptions:
    """What the samples are functions on."""

    domain: Literal["box", "torus", "sphere", "sphere-equiangular"] | None = None
    """What the samples are functions on: with edges, periodic, or the globe. By default a box for pictures and for other cell
    averages."""

    dim: Literal["1", "2", "3"] | None = None
    """Dimensions of box and torus. By default those of an .h5; of other arrays 2, or 1 if they have two axes."""

    lengths: Reals | None = None
    """Of the sides of box and torus. By default 1 each."""

    def make(self, path: str, arrays: ArrayOptions) -> Domain | None:
        """The domain of the data at this path; None if only their latitudes will say."""
        from fnodiff.domain import Box, Sphere, Torus

        kind, dim = arrays.kind(path), None if self.dim is None else int(self.dim)
        if self.domain in ("sphere", "sphere-equiangular"):
            if self.lengths is not None or dim is not None:
                raise ValueError("expected no --lengths and no --dim with a sphere, got one; leave them out.")
            return Sphere() if self.domain == "sphere" else Sphere("equiangular")
        own, averages = _measured(path, kind, arrays)
        if self.domain is None and kind == "fields" and not averages:
            raise ValueError(
                f"expected --domain box, torus or sphere with {path}, whose values are at points; name it."
            )
        if self.domain is None and kind == "arrays":
            return None
        lengths = None if self.lengths is None else tuple(self.lengths)
        dim = dim or (own if lengths is None else len(lengths))
        if dim != own and kind != "arrays":
            raise ValueError(f"expected a domain of {own} dimensions for {path}, got {dim}; leave --dim out.")
        if kind == "pictures" and self.domain == "torus":
            raise ValueError(f"expected --domain box with the pictures of {path}, got torus; leave it out.")
        made = Torus if self.domain == "torus" else Box
        return made(dim) if lengths is None else made(dim, lengths)


def _measured(path: str, kind: str, arrays: ArrayOptions) -> tuple[int, bool]:
    """How many dimensions data have, and whether their values are averages over cells."""
    from fnodiff.data import HDF5Fields
    from fnodiff.data.files import list_arrays

    if kind == "pictures":
        return 2, True
    if kind == "fields":
        fields = HDF5Fields(path)
        return len(fields.shapes[0]), fields.cell_averages
    found = list_arrays(path)
    shape = found.get(arrays.x, ()) if arrays.x else next(iter(found.values()), ())
    return (1 if len(shape) == 2 else 2), False


def true_fields(path: str, arrays: ArrayOptions, domain: Domain, count: int, label: int | None) -> Fields:
    """`count` samples of the data at this path, chosen at random but alike at every call; of one class, if they have labels."""
    import numpy as np

    from fnodiff.data import Part

    fields = arrays.open(path, domain)
    chosen = np.random.default_rng(0).permutation(len(fields))
    if label is not None and label >= 0 and getattr(fields, "num_classes", 0):
        known = _labels(fields)
        chosen = [i for i in chosen if known[i] == label]
    if len(chosen) < count:
        raise ValueError(
            f"expected {count} true fields, twice as many as samples, in {path}, got {len(chosen)}; take fewer seeds."
        )
    return Part(fields, [int(i) for i in chosen[:count]], ["x"])


def _labels(fields: Fields) -> Sequence[int]:
    from fnodiff.data import ImageFolder

    if isinstance(fields, ImageFolder):
        return fields.labels.tolist()
    shape = fields.shapes[0] if hasattr(fields, "shapes") else fields.shape
    parts = [range(i, min(i + 256, len(fields))) for i in range(0, len(fields), 256)]
    return [int(label) for part in parts for label in fields.batch(part, shape)["label"]]
