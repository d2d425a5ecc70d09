"""Fields as xarray has them: with names, units, and the coordinates of their grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fnodiff.data.labelled import require
from fnodiff.data.rows import Axis
from fnodiff.data.source import Fields, own_domain
from fnodiff.domain import Domain, Shape
from fnodiff.expected import as_tensor, kinds_checked

if TYPE_CHECKING:
    import xarray

_ATTRIBUTES = {
    "latitude": {"units": "degrees_north", "standard_name": "latitude"},
    "longitude": {"units": "degrees_east", "standard_name": "longitude"},
}
CONVENTIONS = "CF-1.11"


@kinds_checked(but=("samples",))
def to_xarray(
    samples: Tensor | np.ndarray | Mapping[str, Tensor],
    domain: Domain | Fields,
    *,
    names: Sequence[str] | str | None = None,
    units: Sequence[str | None] | str | None = None,
    seeds: Sequence[int] | None = None,
    mask: Tensor | np.ndarray | None = None,
) -> xarray.Dataset:
    """Fields as an xarray dataset, with coordinates, names and units.

    Its dimensions are sample and those of the grid, `Domain.coordinates`: latitude and longitude in degrees on the sphere, from
    north to south. Given a source that `from_xarray` made, a box or torus has that file's coordinates, on any grid.

        to_xarray(x, model.sde.domain, names=["u", "v"], units="m/s").to_netcdf("samples.nc")
        xarray.open_dataset("samples.nc")

    Args:
        samples: (B, C, *shape) in data units, as of `sample`; or a batch of a source, {"x": ..., "mask": ...}; or ensembles
            (S, B, C, *shape), which have a dimension member before the others.
        domain: What they are functions on; or a source of such fields, whose names, units and coordinates they get.
        names: Of the channels, each a variable. Without, x is the only one; with several channels it has a dimension channel.
        units: Of each channel, or one for all.
        seeds: Of the samples: a coordinate.
        mask: (B, 1 or C, *shape), 1 where measured: elsewhere the dataset has NaN.

    Raises:
        ValueError: If the samples are no fields on the domain, or names, units or seeds are of another number.
        ImportError: If xarray is not installed: pip install fnodiff[xarray].

    Examples:
        >>> import torch
        >>> from fnodiff import Sphere
        >>> from fnodiff.data import to_xarray
        >>> data = to_xarray(torch.zeros(2, 1, 3, 4), Sphere("equiangular"), names=["t"], units="K", seeds=[7, 8])
        >>> dict(data.t.sizes), data.latitude.values, data.t.units
        ({'sample': 2, 'latitude': 3, 'longitude': 4}, array([ 90.,   0., -90.]), 'K')
    """
    require("xarray")
    import xarray

    if isinstance(samples, Mapping):
        samples, mask = samples.get("x"), samples.get("mask") if mask is None else mask
    axes = None
    if not isinstance(domain, Domain):
        source, domain = domain, own_domain(domain)
        if domain is None:
            raise ValueError(
                f"to_xarray: expected a domain, or a source that knows its own, got {type(source).__name__}; pass such as "
                f"Box(2)."
            )
        axes = getattr(source, "axes", None)
        names = getattr(source, "channel_names", None) if names is None else names
        units = getattr(source, "units", None) if units is None else units
    if not isinstance(samples, Tensor | np.ndarray):
        raise ValueError(
            f"to_xarray: expected a tensor, an array, or a batch with x, got {type(samples).__name__}; pass what sample "
            f"returns."
        )
    x = as_tensor(samples, "samples").detach().cpu()
    members = ("member",) if x.ndim == domain.dim + 3 else ()
    ensemble, x = x.shape[: len(members)], x.flatten(0, 1) if members else x
    shape, channels, count = domain.check_field(x), x.shape[1], len(x) // (ensemble[0] if members else 1)
    names = [names] if isinstance(names, str) else names
    units = [units] * channels if units is None or isinstance(units, str) else list(units)
    wrong = {
        "names": names is not None and (len(names) != channels or len(set(names)) != channels),
        "units": len(units) != channels,
        "seeds": seeds is not None and len(seeds) != count,
    }
    for what, bad in wrong.items():
        if bad:
            raise ValueError(
                f"to_xarray: expected {what} for {count} samples of {channels} channels, each its own, got "
                f"{ {'names': names, 'units': units, 'seeds': seeds}[what]!r}; pass one for each."
            )
    if mask is not None:
        there = as_tensor(mask, "mask").cpu()
        there = there.repeat(len(x) // count, *(1,) * (x.ndim - 1)) if there.shape[:1] == (count,) else there
        if there.is_complex() or there.shape not in ((len(x), 1, *shape), x.shape):
            raise ValueError(
                f"to_xarray: expected a mask (B, 1 or C, *shape) for fields {tuple(x.shape)}, got {tuple(there.shape)}; "
                f"expand it."
            )
        x = torch.where(there > 0, x, torch.nan)
    coordinates = grid_coordinates(domain, shape, axes)
    x = x.reshape(*ensemble, count, *x.shape[1:])
    dims = (*members, "sample", *coordinates)
    known: dict[str, Any] = {name: (name, values, attributes) for name, (values, attributes) in coordinates.items()}
    if seeds is not None:
        known["seed"] = ("sample", np.asarray(seeds))
    if names is None:
        alike = {"units": units[0]} if units[0] is not None and len(set(units)) == 1 else {}
        fields = {"x": ((*members, "sample", "channel", *coordinates), x.numpy(), alike)}
        if channels == 1:
            fields = {"x": (dims, x.select(-1 - domain.dim, 0).numpy(), alike)}
    else:
        fields = {
            name: (dims, x.select(-1 - domain.dim, i).numpy(), {} if unit is None else {"units": unit})
            for i, (name, unit) in enumerate(zip(names, units, strict=True))
        }
    return xarray.Dataset(fields, known, {"Conventions": CONVENTIONS})


def grid_coordinates(
    domain: Domain, shape: Shape, axes: Sequence[Axis] | None = None
) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    """The points of each axis of a grid and their attributes, by its name: the domain's, or in a file's units."""
    found = domain.coordinates(shape)
    if axes is None:
        return {name: (values.numpy(), _ATTRIBUTES.get(name, {})) for name, values in found.items()}
    places = zip(axes, found.values(), domain.lengths, strict=True)
    return {a.name: (a.origin + values.numpy() * (a.length / side), a.attributes) for a, values, side in places}
