"""What samples are asked to be, on the command line: a label, numbers by name, and what a file holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import fnodiff

KINDS = ("label", "field", "condition")


def conditions_of(
    model: fnodiff.Model, count: int, label: int | None, words: Sequence[str], file: Path | None
) -> dict[str, Any]:
    """The conditions of `count` samples, by name, a row for each; ValueError if the model has others."""
    from fnodiff.sde.denoiser import condition_rows

    given: dict[str, Any] = {} if file is None else _read(file, model)
    if label is not None:
        given["label"] = label
    if words and list(given) == ["condition"]:
        raise ValueError(f"expected --condition, or numbers in {file}, got both; leave one out.")
    if words:
        given["condition"] = _numbers(words, model)
    wanted = needed(model)
    for name, value in list(given.items()):
        if name not in wanted:
            raise ValueError(f"expected {_listed(wanted)}, as the model has, got a {name}; leave it out.")
        given[name] = _first(name, value, count)
    return condition_rows(model, given, count)


def _first(name: str, value: Any, count: int) -> Any:
    """What a file holds for the first so many seeds, if it has more rows."""
    if isinstance(value, dict):
        return {key: _first("label", column, count) for key, column in value.items()}
    axes = {"label": 1, "field": 3, "condition": 2}[name]
    return value[:count] if getattr(value, "ndim", int(isinstance(value, list))) >= axes else value


def needed(model: fnodiff.Model) -> list[str]:
    """Which conditions a model has."""
    network = model.network
    found = {
        "label": getattr(network, "num_classes", 0),
        "field": getattr(network, "condition_channels", 0),
        "condition": len(model.condition_names),
    }
    return [name for name, there in found.items() if there]


def check_given(model: fnodiff.Model, given: dict[str, Any], of_data: bool = False) -> None:
    """Raise unless every condition of the model is given, numbers perhaps apart, which may be left out."""
    missing = [name for name in needed(model) if name not in given]
    if "field" in missing:
        raise ValueError(
            "expected --condition-file with the conditioning field, as the model has one, got none; name an .h5 or .npz."
        )
    if "condition" in missing:
        names = [name.replace(" ", "-") for name in model.condition_names]
        example, data = " ".join(f"{name}=0.1" for name in names), " or --numbers of the data" if of_data else ""
        raise ValueError(
            f"expected --condition {example}{data}, as the model has these numbers, got none; nan for none."
        )


def _listed(names: Sequence[str]) -> str:
    return f"conditions among {', '.join(names)}" if names else "no condition"


def _numbers(words: Sequence[str], model: fnodiff.Model) -> dict[str, float]:
    """ "viscosity=1e-3" by name; a plain number is that of a model with one."""
    names, found = model.condition_names, {}
    for word in words:
        name, _, text = word.rpartition("=")
        name = name or (names[0] if len(names) == 1 else "")
        name = next((n for n in names if n.replace(" ", "-") == name), name)
        if name in found:
            raise ValueError(
                f"expected each number once, got {name} twice in --condition {' '.join(words)}; leave one out."
            )
        try:
            found[name] = float(text)
        except ValueError:
            name = ""
        if name not in names:
            wanted = " ".join(f"{n.replace(' ', '-')}=0.1" for n in names) or "none, as the model has no numbers"
            raise ValueError(f"expected --condition {wanted}, got {word}; name the number and its value.")
    return found


def _read(file: Path, model: fnodiff.Model) -> dict[str, Any]:
    """A file's conditions: an .h5 of fields, a table of numbers with a line of names, or arrays by name."""
    if not file.is_file():
        raise ValueError(f"expected a file after --condition-file, got {file}, which is not there; name another one.")
    from fnodiff.sde.denoiser import check_names

    suffix = file.suffix.lower()
    if suffix in (".csv", ".txt"):
        return {"condition": _table(file)}
    if suffix in (".h5", ".hdf5"):
        from fnodiff.data import HDF5Fields

        try:
            fields = HDF5Fields(file)
        except ValueError:
            pass  # other arrays, by name
        else:
            batch = fields.batch(range(len(fields)), fields.shapes[-1])
            check_names("--condition-file", model, fields.condition_names)
            if wanted := [name for name in KINDS if name in batch and name in needed(model)]:
                return {name: batch[name] for name in wanted}
            return {"field": batch["x"]} if "field" in needed(model) else {}
    from fnodiff.data.files import list_arrays, read_arrays

    arrays = list_arrays(file)
    named = {name: name for name in arrays if name in (*KINDS, *model.condition_names)}
    if not named and len(arrays) == 1:
        (only,) = arrays
        wanted = needed(model)
        named = {only: wanted[0] if len(wanted) == 1 else "field" if len(arrays[only]) > 2 else "condition"}
    if not named:
        raise ValueError(
            f"expected arrays called {', '.join((*KINDS, *model.condition_names))} in {file}, got {', '.join(arrays)}; "
            f"rename them."
        )
    read = read_arrays(file, list(named))
    found: dict[str, Any] = {}
    for name, kind in named.items():
        if kind in KINDS:
            found[kind] = read[name]
        else:
            found.setdefault("condition", {})[kind] = read[name]
    return found


def _table(file: Path) -> dict[str, list[float]]:
    """Columns of numbers below a line of their names."""
    import csv

    try:
        with file.open(newline="") as lines:
            rows = [row for row in csv.reader(lines, skipinitialspace=True) if row]
        if len(rows) < 2:
            raise ValueError(f"{len(rows)} lines")
        columns = zip(*[[float(value) for value in row] for row in rows[1:]], strict=True)
        names = [name.strip() for name in rows[0]]
        if len(set(names)) < len(names):
            raise ValueError("a name twice")
        found = dict(zip(names, map(list, columns), strict=True))
    except (ValueError, csv.Error) as error:
        raise ValueError(
            f"expected a line of names and rows of numbers, as many, separated by commas in {file}, got others ({error})."
        ) from error
    return found
