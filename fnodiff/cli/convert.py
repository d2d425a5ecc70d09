"""fnodiff convert: models of format 2, the first house's, as models of today's format."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

import fnodiff
from fnodiff.cli.arguments import General


def convert(
    old: Path,
    new: Path,
    *,
    cell_averages: Annotated[bool | None, Parameter(negative="--points")] = None,
    general: General = General(),  # noqa: B008 (frozen settings)
) -> Any:
    """Write a model of the old format in today's; in Python it is returned.

    fnodiff convert old-run new-run

    Args:
        old: The old model's folder.
        new: A folder to write, which must not hold a model yet.
        cell_averages: Whether fields are averages over cells or values at points. By default averages if they are pictures.

    Raises:
        ValueError: If the old folder holds no model of format 2, or the new one holds a model.
    """
    import safetensors.torch

    from fnodiff.checkpoint import CONFIG, FORMAT, MODEL, read_config, read_tensors

    if (new / CONFIG).exists():
        raise ValueError(f"convert: expected a folder without a model, got {new}; name another one.")
    for name in (CONFIG, MODEL):
        if not (old / name).is_file():
            raise ValueError(f"convert: expected {name} in {old}, found none; name a model's folder.")
    config = read_config(old)
    found = config.get("format") if isinstance(config, dict) else None
    if found != 2:
        raise ValueError(f"convert: expected a model of format 2 in {old}, got format {found!r}; name another folder.")
    try:
        described = {"format": FORMAT, "model": _model(config["model"], cell_averages)}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"convert: expected the entries of a model of format 2 in {old / CONFIG}, got others "
            f"({type(error).__name__}: {error}); save the old model again."
        ) from error
    described["training_shapes"] = config.get("training_shapes", [])
    weights = {
        name.replace("backbone.", "network.", 1).replace(".operator.", ".local."): value
        for name, value in read_tensors(old / MODEL).items()
        if not name.startswith(("normalization.", "field_normalization."))
    }
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / CONFIG).write_text(json.dumps(described))
        safetensors.torch.save_file(weights, Path(folder) / MODEL)
        model = fnodiff.Model.from_pretrained(folder)
    model.save_pretrained(new)
    if not general.quiet:
        kind = "averages over cells" if model.cell_averages else "values at points"
        print(f"{new}: a model of {model.channels} channels on {model.sde.domain}, {kind}")
    return model


def _model(old: dict[str, Any], cell_averages: bool | None) -> dict[str, Any]:
    """The description of a model, translated."""
    net, domain = old["backbone"], old["sde"]["noise"]["domain"]
    if net.get("antialias") or net["local"] == "both" or (net["levels"] == "moving" and net["local"] == "operator"):
        raise ValueError(
            "convert: expected a DFU without antialias, without local='both', and with taps on fixed levels, got one with; "
            "today's networks have no such options: train it anew."
        )
    network = {name: value for name, value in net.items() if name not in ("levels", "antialias", "recompute")}
    network["reference"] = net["reference"] if net["levels"] == "fixed" else None
    network["boundary"] = "periodic"
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
        longest = max(domain.get("lengths") or [2 * math.pi])
        scaling = {"class": "SpectralScaling", "reference": old["reference"]}
        scaling["cutoff"] = None if old["cutoff"] is None else old["cutoff"] * longest
        scaling["linear_estimate"] = old.get("shown", False)
    images = domain["class"] == "Box" and network["out_channels"] == 3
    return {
        "class": "Model",
        "network": network,
        "sde": old["sde"],
        "scaling": scaling,
        "normalization": old["normalization"],
        "condition_normalization": {"field": old["field_normalization"]} if network["condition_channels"] else {},
        "spectrum": old.get("spectrum"),
        "cell_averages": images if cell_averages is None else cell_averages,
        "channels": network["out_channels"],
    }
