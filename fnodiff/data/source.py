"""What a source of fields is, and what a source made of another one shares with it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fnodiff.domain import Domain, Shape
from fnodiff.expected import WrongKind, as_tensor, described


@contextmanager
def reading(path: str | os.PathLike[str], name: str = "", *passing: type[Exception]) -> Iterator[None]:
    """Within it, what a reader raises is a ValueError that names the file, as damaged bytes make readers raise errors of nearly
    every kind; those of the kinds `passing`, and a missing package, stay what they are."""
    try:
        yield
    except (ImportError, *passing):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ValueError(
            f"{name}{path} cannot be read, damaged or not what its name says: {reason}; write it again, or name another."
        ) from error


class Fields(Protocol):
    """A source of fields that exist at several resolutions: `ImageFolder`, `HDF5Fields`, `ArrayFields`, or your own.

    Your own needs a length, `channels` and `batch`. It may have these attributes too, and without them its values are those
    at points, without labels:

    - `cell_averages`: whether values are averages over the cells of a grid, as an image's, rather than values at points;
    - `num_classes`: how many classes the labels name;
    - `condition_channels`: channels of the conditioning field;
    - `condition_names`: of the numbers that condition a sample, one name for each;
    - `domain`: what its fields are functions on.
    """

    @property
    def channels(self) -> int:
        """C."""

    def __len__(self) -> int:
        """Number of samples."""

    def batch(self, indices: Sequence[int], shape: Shape) -> dict[str, Tensor]:
        """{"x": (B, channels, *shape)} in data units, and what conditions it: "label" (B,) or shares of the classes
        (B, num_classes), "field" (B, C, *any), "condition" (B, K) numbers.

        "mask" (B, 1 or C, *shape), if there is one, is 1 where x was measured and 0 where it is missing.

        A source of which some samples are read faster together may say in which order an epoch takes them: `order(rng)`, a
        permutation of all indices by a NumPy generator.
        """


class _Source:
    """A source made of another one, `fields`, with that one's attributes."""

    fields: Fields

    def __init__(self, fields: Fields) -> None:
        check_source(type(self).__name__, fields)
        self.fields, self.channels = fields, getattr(fields, "channels", None)

    @property
    def cell_averages(self) -> bool:
        return bool(getattr(self.fields, "cell_averages", False))

    @property
    def pictures(self) -> bool:
        """Whether the samples are pictures in [-1, 1], which 8 bits hold."""
        return bool(getattr(self.fields, "pictures", False))

    @property
    def num_classes(self) -> int:
        return int(getattr(self.fields, "num_classes", 0))

    @property
    def condition_channels(self) -> int:
        return int(getattr(self.fields, "condition_channels", 0))

    @property
    def condition_names(self) -> tuple[str, ...]:
        return tuple(getattr(self.fields, "condition_names", ()))

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """The samples of an epoch, in the source's order if it has one."""
        return epoch(self.fields, rng)


def epoch(fields: Fields, rng: np.random.Generator) -> np.ndarray:
    """A source's indices in a random order: its own, or any."""
    own = getattr(fields, "order", None)
    return rng.permutation(len(fields)) if own is None else np.asarray(own(rng))


def check_source(owner: str, fields: Any) -> None:
    """Raise a ValueError unless something is a source of fields: a path, an array or a class of sources is none."""
    if isinstance(fields, type) or not callable(getattr(fields, "batch", None)) or not hasattr(fields, "__len__"):
        got = repr(fields) if isinstance(fields, str | type) else type(fields).__name__
        raise ValueError(
            f"{owner}: expected a source of fields, with a length and batch(indices, shape), got {got}; write such as "
            f'ImageFolder("pictures") or ArrayFields(x, domain=Box(2)).'
        )


def own_domain(fields: Fields) -> Domain | None:
    """What a source, or the one that it is made of, says that its fields are functions on."""
    inner = getattr(fields, "fields", None) if isinstance(fields, _Source) else None
    own = getattr(fields, "domain", None)
    return own_domain(inner) if own is None and inner is not None else own if isinstance(own, Domain) else None


def check_domain(owner: str, fields: Fields, domain: Domain) -> None:
    """Raise a ValueError if a source says that its fields are functions on a domain of other places."""
    own = own_domain(fields)
    if own is not None and not same_places(own, domain):
        raise ValueError(
            f"{owner}: expected fields on {domain}, got {type(fields).__name__} on {own}; use one domain for both."
        )


def same_places(one: Domain, other: Domain) -> bool:
    """Whether grids on two domains have their points at the same places, up to the lengths of the sides."""
    if one.dim != other.dim:
        return False
    places = []
    for domain in (one, other):
        points = domain.points(domain.shape_of(4))
        places.append(points / torch.tensor(domain.lengths or (1.0,) * domain.dim).reshape(-1, *(1,) * domain.dim))
    return places[0].shape == places[1].shape and bool(torch.isclose(*places).all())


def checked(
    owner: str, fields: Fields, indices: Sequence[int], shape: Shape | int, channels: int | None
) -> dict[str, Tensor]:
    """A source's samples on one grid, (len(indices), channels, *shape), and what belongs to them.

    Raises:
        ValueError: If it gives something else, in the owner's name. Of an int as shape only the source knows the grid, and
            without `channels` nobody knows these.
    """
    batch, count = fields.batch(indices, shape), len(indices)
    grid = ("*grid",) if isinstance(shape, Integral) else tuple(shape)
    x = batch.get("x") if isinstance(batch, Mapping) else None
    fits = isinstance(x, Tensor) and x.is_floating_point() and x.ndim > 2
    if fits:
        grid = tuple(x.shape[2:]) if isinstance(shape, Integral) else grid
        expected = (count, x.shape[1] if channels is None else channels, *grid)
        fits, mask = tuple(x.shape) == expected, batch.get("mask")
        if fits and isinstance(mask, Tensor) and tuple(mask.shape) not in (expected, (count, 1, *grid)):
            raise ValueError(
                f"{owner}: expected {type(fields).__name__}.batch to return a mask (B, 1 or C, *shape) on the grid of x, got "
                f"{_described(batch)}; mend the source: a mask of all samples is mask.expand_as(x)."
            )
        fits = fits and all(isinstance(v, Tensor) and v.shape[:1] == (count,) for v in batch.values())
    if not fits:
        expected = ", ".join(map(str, (count, "C" if channels is None else channels, *grid)))
        raise ValueError(
            f"{owner}: expected {type(fields).__name__}.batch to return a dict with x, floats of shape ({expected}), and "
            f"tensors of {count} rows beside it, got {_described(batch)}; mend the source."
        )
    if "label" in batch and batch["label"].ndim == 2 and batch["label"].is_floating_point():
        check_shares(owner, batch["label"], indices)
    return batch


def check_ends(owner: str, x: Tensor, domain: Domain) -> None:
    """Raise a ValueError if fields (B, C, *grid) have the first points of a periodic axis once more as its last."""
    for axis, closes in enumerate(domain.periodic):
        if closes and x.shape[axis + 2] > 2:
            first, last, before = (x.select(axis + 2, i) for i in (0, -1, -2))
            tolerance = 1e-6 * (x.max() - x.min())
            same, flat = ((v - last).abs().max() <= tolerance for v in (first, before))
            if first.max() - first.min() > tolerance and same and not flat:
                raise ValueError(
                    f"{owner}: expected each point of a period once, got a grid {tuple(x.shape[2:])} whose last points along "
                    f"axis {axis} of {domain} are its first ones; leave the last out: x[..., :-1]."
                )


def _described(batch: Any) -> str:
    """What a source gave, in a few words."""

    def one(value: Any) -> str:
        kind = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
        return f"{kind} {tuple(value.shape)}" if hasattr(value, "shape") else kind

    return ", ".join(f"{k} {one(v)}" for k, v in batch.items()) or "{}" if isinstance(batch, Mapping) else one(batch)


def selected(owner: str, indices: Any, count: int) -> list[int]:
    """Which of `count` samples are meant: by a number, a slice, numbers (negative ones from the end), or a boolean for each.

    Raises:
        ValueError: If they are something else, or none of the samples'.
    """
    if isinstance(indices, slice):
        return list(range(count)[indices])
    try:
        array = np.asarray(indices.cpu() if isinstance(indices, Tensor) else indices)
    except ValueError:  # lists of different lengths
        array = np.zeros((0, 0))
    array = array.reshape(1) if array.ndim == 0 else array
    if array.dtype == bool and array.shape == (count,):
        return np.flatnonzero(array).tolist()
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(
            f"{owner}: expected a sequence of integer indices, a slice, or a boolean for each of {count} samples, got "
            f"{array.dtype} {array.shape}; select such as [0, 2] or slice(0, {count})."
        )
    if array.size and not (array.min() >= -count and array.max() < count):
        raise ValueError(
            f"{owner}: expected indices from 0 to {count - 1}, got {array.min()} to {array.max()}; it has {count} samples, and "
            f"-1 is the last."
        )
    return [i if i >= 0 else i + count for i in array.tolist()]


def as_numbers(owner: str, values: Any) -> Tensor:
    """Numbers that condition samples, float32 (N, K), of (N,) or (N, K); ValueError unless they are finite."""
    try:
        numbers = as_tensor(values)
    except WrongKind as error:
        raise WrongKind(f"{owner}: expected condition as numbers (N,) or (N, K), got {described(values)}.") from error
    if not numbers.numel() or numbers.is_complex() or numbers.ndim not in (1, 2) or not bool(numbers.isfinite().all()):
        raise ValueError(
            f"{owner}: expected condition as finite numbers (N,) or (N, K), got {numbers.dtype} {tuple(numbers.shape)}, "
            f"{int((~numbers.isfinite()).sum())} of them not finite; a field on a grid is field=."
        )
    return numbers.float().reshape(len(numbers), -1)


def numbers_together(owner: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays of numbers by name as `ArrayFields` takes them: its condition and condition_names."""
    columns = {name: as_numbers(owner, values) for name, values in arrays.items()}
    wide = {name: column.shape[1] for name, column in columns.items()}
    return {
        "condition": torch.cat(list(columns.values()), dim=1),
        "condition_names": [name if k == 1 else f"{name} {i}" for name, k in wide.items() for i in range(k)],
    }


def check_shares(owner: str, label: Tensor, indices: Sequence[int] | None = None) -> Tensor:
    """Labels (N, K) of these samples, if they are shares of K classes: each at least 0, and of a sample one in all, or none."""
    total = label.sum(1)
    right = (label >= 0).all(1) & (((total - 1).abs() <= 1e-3) | (total == 0))
    if not bool(right.all()):
        wrong = int((~right).nonzero()[0, 0])
        raise ValueError(
            f"{owner}: expected labels of floats as shares of classes that sum to one, got {label[wrong].tolist()} of sample "
            f"{wrong if indices is None else indices[wrong]}; divide by the sum, leave labels out, or pass condition=."
        )
    return label


def number_names(owner: str, numbers: Any, names: Sequence[str] | str | None) -> tuple[str, ...]:
    """A name for each of the numbers (N, K) that condition samples; ValueError unless there are K different ones."""
    count = 0 if numbers is None else numbers.shape[1]
    if names is None:
        return ("condition",) if count == 1 else tuple(f"condition {i}" for i in range(count))
    names = (names,) if isinstance(names, str) else tuple(names)
    if len(names) != count or len(set(names)) != count:
        raise ValueError(f"{owner}: expected {count} different condition_names, got {names}; one for each number.")
    return names
