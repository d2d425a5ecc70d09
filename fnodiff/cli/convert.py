"""fnodiff convert: models of format 2, the first house's, as models of today's format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from fnodiff.cli.training import General

if TYPE_CHECKING:
    from fnodiff.model import Model


def command(
    old: Path,
    new: Path,
    *,
    cell_averages: Annotated[bool | None, Parameter(negative="--points")] = None,
    general: General = General(),  # noqa: B008 (frozen settings)
) -> None:
    """Write a model of the old format in today's.

    fnodiff convert old-run new-run

    Args:
        old: The old model's folder.
        new: A folder to write, which must not hold a model yet.
        cell_averages: Whether its fields are averages over cells or values at points, which the old format did not say. By
            default averages of three channels on a box, as pictures are.
    """
    model = convert(old, new, cell_averages=cell_averages)
    kind = "averages over cells" if model.cell_averages else "values at points"
    if not general.quiet:
        print(f"{new}: a model of {model.channels} channels on {model.sde.domain}, {kind}")


def convert(old: Path, new: Path, *, cell_averages: bool | None = None) -> Model:
    """Read a model of format 2, write it in today's, and return it.

    Args:
        old: Its folder.
        new: The folder to write, which must not hold a model yet.
        cell_averages: Whether its fields are averages over cells, which format 2 did not say; by default if they are images:
            three channels on a box.

    Raises:
        ValueError: If the old folder holds no model of format 2, or the new one holds a model.
    """
    import safetensors.torch

    from fnodiff import checkpoint
    from fnodiff.model import Model

    if (new / checkpoint.CONFIG).exists():
        raise ValueError(f"convert: expected a folder without a model, got {new}; name another one.")
    for name in (checkpoint.CONFIG, checkpoint.MODEL):
        if not (old / name).is_file():
            raise ValueError(f"convert: expected {name} in {old}, found none; name a model's folder.")
    config = json.loads((old / checkpoint.CONFIG).read_text())
    if config.get("format") != 2:
        raise ValueError(f"convert: expected a model of format 2 in {old}, got format {config.get('format')!r}.")
    described = _model(config["model"], cell_averages)
    tensors = safetensors.torch.load_file(old / checkpoint.MODEL)
    weights = {
        name.replace("backbone.", "network.", 1).replace(".operator.", ".local."): value
        for name, value in tensors.items()
        if not name.startswith(("normalization.", "field_normalization."))
    }
    new.mkdir(parents=True, exist_ok=True)
    text = {"format": checkpoint.FORMAT, "model": described, "training_shapes": config.get("training_shapes", [])}
    try:
        (new / checkpoint.CONFIG).write_text(json.dumps(text, indent=2) + "\n")
        safetensors.torch.save_file(weights, new / checkpoint.MODEL)
        model = Model.from_pretrained(new)
    except ValueError:
        for name in (checkpoint.CONFIG, checkpoint.MODEL):
            (new / name).unlink(missing_ok=True)
        if not any(new.iterdir()):
            shutil.rmtree(new)
        raise
    model.save_pretrained(new)
    return model


def _model(old: dict[str, Any], cell_averages: bool | None) -> dict[str, Any]:
    """The description of a model, translated."""
    network, domain = _network(old["backbone"]), old["sde"]["noise"]["domain"]
    lengths = domain.get("lengths") or [3.141592653589793, 6.283185307179586]
    usual = {"Preconditioned": "point", "SpectralPreconditioned": "mode"}
    if old["class"] not in usual or old.get("told", usual[old["class"]]) != usual[old["class"]]:
        raise ValueError(
            f"convert: expected a Preconditioned model with the noise level per point, or a SpectralPreconditioned one with it "
            f"per mode, got {old['class']} with {old.get('told')!r}; today's networks see the noise level in one way each."
        )
    if old["class"] == "Preconditioned":
        scaling = {"class": "EDMScaling", "sigma_data": old["sigma_data"]}
        scaling["linear_estimate"] = old.get("spectrum") is not None
    else:
        cutoff = old["cutoff"]
        scaling = {"class": "SpectralScaling", "reference": old["reference"]}
        scaling |= {"cutoff": None if cutoff is None else cutoff * max(lengths)}
        scaling |= {"linear_estimate": old.get("shown", False)}
    images = domain["class"] == "Box" and network["out_channels"] == 3
    conditions = {"field": old["field_normalization"]} if network["condition_channels"] else {}
    return {
        "class": "Model",
        "network": network,
        "sde": old["sde"],
        "scaling": scaling,
        "normalization": old["normalization"],
        "condition_normalization": conditions,
        "spectrum": old.get("spectrum"),
        "cell_averages": images if cell_averages is None else cell_averages,
        "channels": network["out_channels"],
    }


def _network(old: dict[str, Any]) -> dict[str, Any]:
    """The description of a DFU, translated."""
    levels = old["levels"]
    gone = {"levels", "antialias", "recompute"}
    if old.get("antialias") or old["local"] == "both" or (levels == "moving" and old["local"] == "operator"):
        raise ValueError(
            "convert: expected a DFU without antialias, without local='both', and with taps on fixed levels, got one with; "
            "today's networks have no such options: train it anew."
        )
    new = {name: value for name, value in old.items() if name not in gone}
    return {**new, "reference": old["reference"] if levels == "fixed" else None}
