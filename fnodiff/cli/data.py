"""The options that name data: pictures in a folder or a zip, fields in an .h5, arrays in other files, files of The Well; and
their domain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import fnodiff
from fnodiff.cli.arguments import Reals, Words, flag, option, options

if TYPE_CHECKING:
    from fnodiff.data import Fields
    from fnodiff.domain import Domain, Shape

IN_MEMORY = 2**30  # bytes


@options("Data", 1)
class ArrayOptions:
    """Which arrays of a file (MATLAB, NumPy, PyTorch, HDF5, netCDF, Zarr) are meant, and how pictures are read."""

    x: Words | None = option("Name of the array of samples, of a file with several; several names are channels.")
    field: str | None = option("Name of the array of fields that the samples are conditioned on.")
    numbers: Words | None = option("Names of the arrays of numbers that the samples are conditioned on.")
    mask: str | None = option("Name of the array that is 1 where x was measured, or a file that holds it alone.")
    latitude: str | None = option("Name of the latitudes of fields on the globe.")
    longitude: str | None = option("Name of the longitudes.")
    channel_axis: Literal["1", "-1"] | None = option("Where an array has its channels: after the samples, or last.")
    channels: Literal["1", "3"] | None = option("Of pictures: 3 for colour, which is usual, or 1 for grey.")
    skip: bool = option("Leave out pictures that are broken, or too small to train on.", False)

    def open(self, path: str, domain: Domain | None, smallest: Shape | None = None, **names: Any) -> Fields:
        """The source at this path; arrays need the domain, unless their latitudes are known. `names`: further options.

        Pictures are to fill the grid `smallest`.
        """
        from fnodiff.data import ArrayFields, ImageFolder, from_well
        from fnodiff.data.opened import labelled

        kind = self.kind(path)
        if kind != "pictures" and (self.channels is not None or self.skip):
            raise ValueError(
                f"expected pictures with --channels and --skip, got {path}, which holds {kind}; leave them out."
            )
        pictures = ("channels", "skip")
        named = {
            name: getattr(self, name) for name in ArrayOptions.__dataclass_fields__ if name not in pictures
        } | names
        named = {name: value for name, value in named.items() if value is not None}
        if kind == "trajectories":
            unfit = next((name for name in named if name not in ("x", "field", "numbers", "chunks")), None)
            if unfit is not None:
                raise ValueError(
                    f"expected no {flag(unfit)} with {path}, which The Well's layout has no place for; omit it."
                )
            condition = named.pop("numbers", None)
            return from_well(path, named.pop("x", None), domain, condition=condition, **named)
        if kind != "arrays":
            if named:
                got = f"{path}, which holds {kind}; leave it out, or of an .h5 with other arrays name --x too"
                raise ValueError(f"expected a file of arrays with {flag(next(iter(named)))}, got {got}.")
            if kind == "fields":
                return _hdf5(path)
            error = "skip" if self.skip else "raise"
            try:
                return ImageFolder(path, channels=int(self.channels or 3), smallest=smallest, on_error=error)
            except ValueError as problem:
                raise ValueError(str(problem).replace('on_error="skip"', "--skip")) from problem
        if domain is None and self.latitude is None and not labelled(Path(path), named.get("x")):
            raise ValueError(
                f"expected --domain box, torus, sphere or an axis each such as torus-box with the arrays of {path}, got none; "
                f"name it."
            )
        if "x" in named:
            named["x"] = named["x"][0] if len(named["x"]) == 1 else list(named["x"])
        if "numbers" in named:
            named["condition"] = list(named.pop("numbers"))
        if self.channel_axis is not None:
            named["channel_axis"] = int(self.channel_axis)
        return ArrayFields.open(path, domain=domain, **named)

    def kind(self, path: str) -> Literal["pictures", "fields", "arrays", "trajectories"]:
        """What is at this path: fields are an .h5 of `fnodiff.data.write_fields`, trajectories The Well's files."""
        from fnodiff.data.files import SUFFIXES
        from fnodiff.data.well import in_layout

        file, suffix = Path(path), Path(path).suffix.lower()
        if in_layout(file):
            return "trajectories"
        if (file.is_dir() and suffix != ".zarr") or (file.is_file() and suffix == ".zip"):
            return "pictures"
        if not file.exists() or suffix not in SUFFIXES:
            got = f"{path}, which is {'none of these' if file.exists() else 'not there'}"
            kinds = ", ".join(SUFFIXES)
            raise ValueError(f"expected a folder or zip of pictures, or a file of {kinds}, got {got}; name another.")
        return "fields" if suffix in (".h5", ".hdf5") and self.x is None else "arrays"


@options("Data", 1)
class TrainingData(ArrayOptions):
    """What a model is trained on, with what conditions it."""

    label_name: str | None = option("Name of the array of labels.")
    labels: bool = option("Train on the data's labels, if they have some.", True)
    augment: float = option(
        "Probability of each random map (mirrored, shifted, turned, scaled) that samples are seen under. Its numbers are "
        "given to the network: 0.12 is usual for few pictures.",
        0.0,
    )
    chunks: bool = option("Read arrays that are larger than memory chunk by chunk, each once in an epoch.", False)
    in_memory: bool | None = option("Keep the samples on the grids in memory. By default pictures of up to 1 GiB.")

    def load(self, path: str, domain: Domain | None, smallest: Shape | None = None) -> Fields:
        """The source at this path, with what conditions it; pictures fill the grid `smallest`."""
        from fnodiff.data import Chunks, Part

        chunks = Chunks() if self.chunks else None
        fields = self.open(path, domain, smallest, label=self.label_name, chunks=chunks)
        if self.labels:
            return fields
        there = {"field": getattr(fields, "condition_channels", 0), "mask": getattr(fields, "masked", False)}
        there["condition"] = bool(getattr(fields, "condition_names", ()))
        return Part(fields, range(len(fields)), ["x", *(name for name in there if there[name])])

    def keep(self, fields: Fields, shapes: Sequence[Shape], progress: bool) -> Fields:
        """The source, in memory if it is to be kept there."""
        from fnodiff.data import InMemory

        size = 4 * fields.channels * len(fields) * sum(map(math.prod, shapes))
        wanted = getattr(fields, "pictures", False) and size <= IN_MEMORY if self.in_memory is None else self.in_memory
        return InMemory(fields, shapes, progress=progress) if wanted else fields


@options("Data", 1)
class DomainOptions:
    """What the samples are functions on."""

    domain: str | None = option(
        "box (with edges), torus (periodic), one of them for each axis as torus-box, sphere, sphere-equiangular or "
        "sphere-cell-centred. By default what the file says (globes, The Well), else a box for cell averages such as pictures."
    )
    dim: Literal["1", "2", "3"] | None = option(
        "Dimensions of box and torus. By default those of an .h5; of other arrays 2, or 1 if they have two axes."
    )
    lengths: Reals | None = option("Of the sides. By default 1 each.")

    def make(self, path: str, arrays: ArrayOptions) -> Domain | None:
        """The domain of the data at this path; None if only their latitudes will say."""
        from fnodiff.data.files import list_arrays

        if self.domain in ("sphere", "sphere-equiangular", "sphere-cell-centred"):
            if self.lengths is not None or self.dim is not None:
                raise ValueError("expected no --lengths and no --dim with a sphere, got one; leave them out.")
            return fnodiff.Sphere(self.domain.partition("-")[2] or "legendre-gauss")
        factors = (self.domain or "box").split("-")
        if set(factors) - {"box", "torus"} or len(factors) > 3:
            raise ValueError(
                f"expected --domain box, torus, an axis each such as torus-box or torus-torus-box, sphere, "
                f"sphere-equiangular or sphere-cell-centred, got {self.domain}; name one of these."
            )
        kind = arrays.kind(path)
        if kind == "pictures" and set(factors) != {"box"}:
            raise ValueError(f"expected --domain box with the pictures of {path}, got {self.domain}; leave it out.")
        sides = "--dim" if self.dim is not None else None if self.lengths is None else "--lengths"
        alone = (
            f"expected --domain with {sides}, got none; name it, or omit {sides} where {path} says its domain itself."
        )
        if kind in ("arrays", "trajectories") and self.domain is None:
            if sides:
                raise ValueError(alone)
            return None
        dim = 2
        if kind == "fields":
            fields = _hdf5(path)
            dim = len(fields.shapes[0])
            if self.domain is None and fields.domain is not None:
                if sides:
                    raise ValueError(alone)
                return fields.domain
            if self.domain is None and not fields.cell_averages:
                raise ValueError(f"expected --domain box, torus or sphere for the points of {path}, got none; name it.")
        elif kind == "arrays":
            found = list_arrays(path)
            shape = found.get(next(iter(arrays.x or found), ""), ())
            dim = 1 if len(shape) == 2 else 2
            bodies = len(shape) > 4 or (len(shape) == 4 and len({*shape[1:]}) == 1)
            lines = len(shape) == 3 and shape[1] < 4  # which is no grid to train on
            if not sides and len(factors) == 1 and (bodies or lines):
                raise ValueError(
                    f"expected --dim with an array {shape}, whose axes may be a grid's or channels, got none; say --dim "
                    f"{3 if bodies else 1} or --dim 2."
                )
        if len(factors) > 1:
            return self._by_axis(factors)
        own, dim = dim, int(self.dim) if self.dim is not None else len(self.lengths or ()) or dim
        if kind in ("fields", "pictures") and dim != own:
            raise ValueError(f"expected {own} axes and lengths, as the grids of {path} have, got {dim}; omit {sides}.")
        made = fnodiff.Torus if self.domain == "torus" else fnodiff.Box
        return made(dim) if self.lengths is None else made(dim, self.lengths)

    def _by_axis(self, factors: Sequence[str]) -> Domain:
        """The domain of one word for each axis."""
        lengths = self.lengths or (1.0,) * len(factors)
        if len(lengths) != len(factors) or self.dim not in (None, str(len(factors))):
            got = f"--lengths {self.lengths} and --dim {self.dim}"
            raise ValueError(f"expected {len(factors)} axes and lengths with --domain {self.domain}, got {got}; agree.")
        kinds = [fnodiff.Torus if name == "torus" else fnodiff.Box for name in factors]
        if len(set(kinds)) == 1:
            return kinds[0](len(kinds), lengths)
        return fnodiff.Product([kind(1, (length,)) for kind, length in zip(kinds, lengths, strict=True)])


def _hdf5(path: str) -> Fields:
    """The fields of an .h5; ValueError that says how other arrays in it are named."""
    from fnodiff.data import HDF5Fields

    try:
        return HDF5Fields(path)
    except ValueError as problem:
        raise ValueError(f"{problem} If it holds other arrays, name --x.") from problem


def true_fields(
    path: str, arrays: ArrayOptions, domain: Domain, count: int, label: int | None, classes: int = 0
) -> Fields:
    """`count` samples of the data at this path, chosen at random but alike at every call; of one class, if they have labels.

    `classes` is the number that the model knows.
    """
    import numpy as np

    from fnodiff.data import Part
    from fnodiff.data.source import check_domain

    fields = arrays.open(path, domain)
    check_domain("true fields", fields, domain)
    chosen = np.random.default_rng(0).permutation(len(fields)).tolist()
    if label is not None and label >= 0 and getattr(fields, "num_classes", 0):
        named = getattr(fields, "classes", None) is not None  # of integers the last may be missing
        if classes and (fields.num_classes > classes or (named and fields.num_classes < classes)):
            raise ValueError(
                f"expected true fields of the model's {classes} classes with --label, got {fields.num_classes} in {path}, "
                f"whose numbers may mean others; pass data of all classes, or those of this one without labels."
            )
        labels = fields.labels if hasattr(fields, "labels") else _labels(fields)  # pictures need not be opened
        labels = labels.argmax(1) if getattr(labels, "ndim", 1) > 1 else labels
        chosen = [i for i in chosen if labels[i] == label]
    if len(chosen) < count:
        got = f"{len(chosen)} in {path}"
        raise ValueError(f"expected {count} true fields, twice as many as samples, got {got}; take fewer seeds.")
    names = ["mask"] * bool(getattr(fields, "masked", False))
    names += ["field"] * bool(getattr(fields, "condition_channels", 0))
    names += ["condition"] * bool(getattr(fields, "condition_names", ()))
    return Part(fields, chosen[:count], ["x", *names])


def _labels(fields: Fields) -> list[int]:
    shape = fields.shapes[0] if hasattr(fields, "shapes") else fields.shape
    parts = [range(len(fields))[i : i + 256] for i in range(0, len(fields), 256)]
    labels = (fields.batch(part, shape)["label"] for part in parts)
    return [int(n) for label in labels for n in (label.argmax(1) if label.ndim > 1 else label)]  # of shares the largest
