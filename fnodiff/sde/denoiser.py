"""What samplers ask: a denoiser, the estimate E[x | x_t] of a clean field from a noisy one.

A wrapper is a denoiser made of another one: guidance, an observation, known modes, conditions that are bound. It asks the
other one for its process, its units and all else it knows, when it is asked: nothing is copied, so nothing can differ later.
"""

from __future__ import annotations

import abc
import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from fnodiff.domain import Shape, as_floats, as_tensor
from fnodiff.sde.noise import Spectrum, on_domain
from fnodiff.sde.normalization import Normalization
from fnodiff.sde.process import FunctionSpaceSDE

CONDITIONS = ("field", "condition")
"""The conditions that have units: a field, and numbers."""


class NotFinite(ValueError):
    """Numbers that have to be finite are not."""


def check_finite(**values: Tensor) -> None:
    """Raise a `NotFinite`, by name, unless the numbers are finite."""
    for name, value in values.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise NotFinite(
                f"expected finite values in {name}, got {int((~value.isfinite()).sum())} of {value.numel()} NaN or infinite; "
                f"fill or drop them."
            )


class Denoiser(nn.Module, abc.ABC):
    """E[x | x_t], the one thing that solvers need. Subclasses define `forward`.

    Args:
        sde: The process that made x_t.
        normalization: Maps data units to those of x; sampling undoes it at the end.
        condition_normalization: By name ("field" or "condition"), maps a condition's units to those that a network sees.
        spectrum: S, the variance of the normalised data per mode, if it is known.
        cell_averages: Whether fields are averages over the cells of their grids, as images are, rather than point values.
        channels: Channels of a field, if they are known.

    Attributes:
        training_shapes: Spatial shapes that it was trained on; empty if it was not.
        condition_names: Of the numbers that condition a sample, such as ("viscosity",); empty if there are none.
        drop_condition: How often `fit` left conditions out, if it is known: guidance wants more than 0.
        sigma_data: Standard deviation of the normalised data, if it is known.
        one_grid: Whether runs should by default stay on the samples' own grid, as those that heed an observation do.
    """

    one_grid: bool = False
    sigma_data: float | None = None

    def __init__(
        self,
        sde: FunctionSpaceSDE,
        *,
        normalization: Normalization | None = None,
        condition_normalization: Mapping[str, Normalization] | None = None,
        spectrum: Spectrum | None = None,
        cell_averages: bool = False,
        channels: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(sde, FunctionSpaceSDE):
            raise ValueError(
                f"{type(self).__name__}: expected a process, got {sde!r}; pass FunctionSpaceSDE(noise, schedule)."
            )
        if spectrum is not None and (not callable(spectrum) or isinstance(spectrum, type)):
            raise ValueError(
                f"{type(self).__name__}: expected a spectrum, got {spectrum!r}; pass fit_spectrum(fields, domain)."
            )
        if channels is not None and (not isinstance(channels, Integral) or isinstance(channels, bool) or channels < 1):
            raise ValueError(
                f"{type(self).__name__}: expected channels of 1 or more, got {channels!r}; pass how many a field has."
            )
        units = [normalization, *dict(condition_normalization or {}).values()]
        if not all(unit is None or isinstance(unit, Normalization) for unit in units):
            raise ValueError(
                f"{type(self).__name__}: expected units as a Normalization, got {units}; pass Normalization(mean, std)."
            )
        given = dict(condition_normalization or {})
        if not set(given) <= set(CONDITIONS):
            raise ValueError(
                f"{type(self).__name__}: expected condition_normalization for {' and '.join(CONDITIONS)}, got {sorted(given)}; "
                f"labels have no units."
            )
        self.sde = sde
        self.normalization = normalization or Normalization()
        self.condition_normalization = given
        self.spectrum, self.cell_averages, self.channels = (
            on_domain(spectrum, sde.domain),
            bool(cell_averages),
            channels,
        )
        self.training_shapes: tuple[Shape, ...] = ()
        self.condition_names: tuple[str, ...] = ()
        self.drop_condition: float | None = None

    @abc.abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        """The denoised estimate, of x_t's shape (B, C, *spatial), given t in [0, 1], () or (B,)."""

    def rows(self, part: slice) -> Denoiser:
        """The denoiser of some samples of a batch: itself, unless it holds something for each sample."""
        return self

    def among(self, count: int) -> Denoiser:
        """The denoiser of so many samples, of which `rows` takes parts: itself, unless it holds something for each of them."""
        return self

    def without(
        self, condition: Mapping[str, Tensor], names: Sequence[str], where: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Conditions with some of them left out: labels become -1 (shares of classes 0), numbers NaN, fields their mean.

        Args:
            condition: By name, each (B, ...).
            names: Which to leave out.
            where: (B,) bool, of which samples; None for all.
        """
        condition = dict(condition)
        for name in names:
            value = condition[name]
            if name == "condition":
                nothing = torch.full_like(value, torch.nan)
            elif value.is_floating_point():
                nothing = self.condition_normalization.get(name, Normalization()).inverse(torch.zeros_like(value))
            else:
                nothing = torch.full_like(value, -1)
            if where is not None:
                nothing = torch.where(where.reshape(-1, *(1,) * (value.ndim - 1)), nothing, value)
            condition[name] = nothing
        return condition


class Wrapper(Denoiser):
    """A denoiser made of another one. Subclasses define `forward`; `rows` and `among` if they hold something for each sample.

    Args:
        denoiser: The other one. What it knows (`sde`, `normalization`, `spectrum`, ...) is read from it when it is asked for.

    Raises:
        ValueError: If it is not a denoiser.

    Examples:
        >>> from fnodiff import EDM, Box, FunctionSpaceSDE, GaussianRandomField, Matern, sample
        >>> from fnodiff.sde import GaussianDenoiser, Wrapper
        >>> class Doubled(Wrapper):
        ...     def forward(self, x_t, t, **condition):
        ...         return 2 * self.denoiser(x_t, t, **condition)
        >>> field = GaussianRandomField(Box(1), Matern(1.0, 0.3))
        >>> doubled = Doubled(GaussianDenoiser(field, FunctionSpaceSDE(field, EDM())))
        >>> sample(doubled, (16,), seeds=[0]).shape
        torch.Size([1, 1, 16])
    """

    def __init__(self, denoiser: Denoiser) -> None:
        nn.Module.__init__(self)
        if not isinstance(denoiser, Denoiser):
            raise ValueError(
                f"{type(self).__name__}: expected a Denoiser, got {type(denoiser).__name__}; make a network one: "
                f"Model(network, sde, EDMScaling())."
            )
        self.denoiser = denoiser

    @property
    def sde(self) -> FunctionSpaceSDE:
        """The other one's, like all that follows."""
        return self.denoiser.sde

    @property
    def normalization(self) -> Normalization:
        return self.denoiser.normalization

    @property
    def condition_normalization(self) -> dict[str, Normalization]:
        return self.denoiser.condition_normalization

    @property
    def spectrum(self) -> Spectrum | None:
        return self.denoiser.spectrum

    @property
    def cell_averages(self) -> bool:
        return self.denoiser.cell_averages

    @property
    def channels(self) -> int | None:
        return self.denoiser.channels

    @property
    def training_shapes(self) -> tuple[Shape, ...]:
        return self.denoiser.training_shapes

    @property
    def condition_names(self) -> tuple[str, ...]:
        return self.denoiser.condition_names

    @property
    def drop_condition(self) -> float | None:
        return self.denoiser.drop_condition

    @property
    def sigma_data(self) -> float | None:
        return self.denoiser.sigma_data

    @property
    def one_grid(self) -> bool:
        return self.denoiser.one_grid

    def rows(self, part: slice) -> Denoiser:
        inner = self.denoiser.rows(part)
        return self if inner is self.denoiser else self.around(inner)

    def among(self, count: int) -> Denoiser:
        inner = self.denoiser.among(count)
        return self if inner is self.denoiser else self.around(inner)

    def around(self, denoiser: Denoiser) -> Wrapper:
        """A copy of this wrapper around another denoiser."""
        new = copy.copy(self)
        new._modules = {**self._modules, "denoiser": denoiser}
        return new


@contextmanager
def evaluating(denoiser: nn.Module) -> Iterator[None]:
    """Within it a denoiser is in evaluation mode, without dropout; afterwards each of its parts has the mode that it had."""
    training = [module for module in denoiser.modules() if module.training]
    denoiser.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def check_count(denoiser: Denoiser, count: int, have: Set[int]) -> None:
    """ValueError unless what a denoiser holds is of so many samples."""
    if have - {count}:
        raise ValueError(
            f"{type(denoiser).__name__}: expected rows for each of {count} samples, got {min(have - {count})}; pass as many."
        )


def channels_of(denoiser: Denoiser) -> int:
    """How many channels its samples have; ValueError if it does not know."""
    if denoiser.channels is None:
        raise ValueError(
            f"sample: expected a denoiser that knows its channels, got {type(denoiser).__name__} without; make it with "
            f"channels=, as Model(network, sde, scaling, channels=3)."
        )
    return denoiser.channels


def condition_rows(denoiser: Denoiser, condition: Mapping[str, Any], count: int) -> dict[str, Tensor]:
    """Conditions with one row for each of `count` samples.

    Args:
        denoiser: What they are given to: it knows how many numbers condition a sample, and their names.
        condition: By name: label, a class or shares of the classes; field, (C, *shape) for all samples or (B, C, *shape), or a
            number for one that is the same everywhere; condition, numbers as `number_rows` takes them. One for all samples or
            one for each; None is left out.
        count: Of samples.

    Raises:
        ValueError: If a name is none of a condition's, or rows are too few, too many or not finite.
    """
    unknown = sorted(set(condition) - {"label", *CONDITIONS})
    if unknown:
        raise ValueError(
            f"expected conditions among label, field and condition, got {', '.join(unknown)}; mend the name, or leave it out."
        )
    out = {}
    kinds = {"label": _label_rows, "field": _field_rows, "condition": number_rows}
    for name, value in condition.items():
        if value is None:
            continue
        rows = kinds[name](denoiser, value, count)
        if len(rows) not in (1, count):
            raise ValueError(
                f"expected {name} with one row for each of the {count} seeds, or one for all, got {tuple(rows.shape)}; repeat "
                f"or cut it."
            )
        out[name] = rows.expand(count, *rows.shape[1:])
    check_finite(**{name: value for name, value in out.items() if name != "condition"})
    numbers = out.get("condition")
    if numbers is not None and bool(numbers.isinf().any()):
        raise NotFinite(
            "expected numbers in condition, or NaN for one that is not given, got infinite ones; mend them."
        )
    if numbers is not None and denoiser.drop_condition == 0 and bool(numbers.isnan().any()):
        warnings.warn(
            "a number of condition is left out, and the model was trained without drop_condition: it knows no samples without "
            "it; give all of them, or train with DenoisingLoss(model, drop_condition=0.1), or --drop-condition 0.1.",
            stacklevel=3,
        )
    return out


def _label_rows(denoiser: Denoiser, value: Any, count: int) -> Tensor:
    """Labels (1 or count,), int64, or shares of the classes (1 or count, K)."""
    rows = as_tensor(value, "label")
    if not rows.is_floating_point():
        return rows.long().reshape(-1) if rows.ndim == 0 else rows.long()
    shares = rows[None] if rows.ndim == 1 else rows  # for all
    total = shares.sum(-1)
    whole = (total - 1).abs() <= 1e-3 if rows.ndim < 2 else ((total - 1).abs() <= 1e-3) | (total == 0)  # 0: no class
    classes = rows.ndim == 1 and len(rows) == count > 1 and bool((rows == rows.round()).all())  # as likely as shares
    if rows.ndim == 0 or classes or bool((rows < 0).any()) or not bool(whole.all()):
        raise ValueError(
            f"expected label as whole numbers, or shares that sum to one, got {rows.tolist()}; write label=1, or "
            f"of shares a row for each sample, such as label=[[0.3, 0.7]]."
        )
    return shares


def _field_rows(denoiser: Denoiser, value: Any, count: int) -> Tensor:
    """Fields (1 or count, C, *shape)."""
    rows, domain = as_floats(value, "field"), denoiser.sde.domain
    if rows.ndim == 0:
        return rows.expand(1, 1, *domain.shape_of(4))
    return rows[None] if rows.ndim == domain.dim + 1 else rows


def check_names(owner: str, denoiser: Denoiser, names: Sequence[str]) -> None:
    """Raise if data have some of a denoiser's numbers in another order: by place, one would be taken for the other."""
    own = list(denoiser.condition_names)
    if any(name in own and own.index(name) != place for place, name in enumerate(names)):
        raise ValueError(
            f"{owner}: expected the numbers {', '.join(own)}, in the model's order, got {', '.join(names)}; name the data's "
            f"so."
        )


def number_rows(denoiser: Denoiser, value: Any, count: int) -> Tensor:
    """Numbers that condition samples, (1 or count, K).

    Args:
        denoiser: Of K numbers, if it knows: by its `condition_names`, or the units of its condition.
        value: A number if K is 1; K numbers for all samples; a row of K for each; or by name, {"viscosity": 1e-3}, each a
            number for all or one for each sample. NaN is a number that is not given, and so is a name that is left out.
        count: Of samples.

    Raises:
        ValueError: If there are other names, or another number of numbers.
    """
    names = denoiser.condition_names
    units = denoiser.condition_normalization.get("condition", Normalization()).mean
    wanted = len(names) or (len(units) if isinstance(units, tuple) else 0)
    if isinstance(value, Mapping):
        if not value or not set(value) <= set(names):
            raise ValueError(
                f"expected condition numbers among {list(names) or 'none, as the model knows no names'}, got {sorted(value)}; "
                f"mend the names."
            )
        columns = [as_floats(value.get(name, torch.nan), name).float().flatten() for name in names]
        if any(len(column) not in (1, count) for column in columns):
            raise ValueError(
                f"expected for each of {sorted(value)} one number, or one for each of {count} samples, got "
                f"{[len(column) for column in columns]}; repeat or cut them."
            )
        return torch.stack([column.expand(count) for column in columns], dim=1)
    rows = as_floats(value, "condition")
    if rows.ndim < 2 and wanted == 1:
        rows = rows.reshape(-1, 1)
    elif rows.ndim < 2 and (wanted or rows.ndim == 0):
        rows = rows.reshape(1, -1)
    if wanted and (rows.ndim != 2 or rows.shape[1] != wanted):
        named = f" ({', '.join(names)})" if names else ""
        raise ValueError(
            f"expected {wanted} numbers{named} as condition=, for all samples or in a row for each, got shape "
            f"{tuple(as_tensor(value).shape)}; pass such as condition={[0.0] * wanted}."
        )
    return rows
