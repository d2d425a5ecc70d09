"""Models on the hub, uploaded with a card that says what was measured; Spaces that show a model's page."""

from __future__ import annotations

import os
import tempfile
from importlib.metadata import version
from pathlib import Path

import huggingface_hub
from huggingface_hub import ModelCardData, SpaceCardData

from fnodiff.sde import Denoiser

_CARD = """---
{metadata}
---

# {title}

{description}

Trained on {grids}; parameters: {parameters:,}. One seed is one function on every grid, also those that it was not trained on.

```python
from fnodiff import Model, sample

model = Model.from_pretrained("{repo}")
x = sample(model, shape=({example}), seeds=range(8){given})
```

## What was measured

```
{measured}
```

## What it is

| | |
|---|---|
| domain | `{domain}` |
| noise | `{noise}` |
| schedule | `{schedule}` |
| network | `{network}` |
| scaling | `{scaling}` |
| conditions | {conditions} |
"""

_SPACE = """from fnodiff import Model
from fnodiff.page import serve

serve(Model.from_pretrained({source!r}), {name!r})
"""
_GRADIO = "6.31.0"  # which the page was tried with


def model_card(model: Denoiser, repo: str, measured: object, *, licence: str, description: str) -> str:
    """The text of a model's card (README.md), its metadata included.

    Args:
        model: A trained model.
        repo: "owner/name".
        measured: The table: a text, or what prints as one, such as `invariance_report` returns.
        licence: Of the weights, as the hub names licences ("mit", "cc-by-4.0", "other").
        description: What was trained, on which data, by which command.

    Raises:
        ValueError: If the repository's name is none, nothing was measured, licence or description are empty, or the model has
            no training_shapes, which `Model.for_data` notes.
    """
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise ValueError(f'model_card: expected a repository "owner/name", got {repo!r}.')
    table = str(measured).strip("\n")
    empty = [
        name
        for name, text in (("measured", table), ("licence", licence), ("description", description))
        if not text.strip()
    ]
    if empty:
        raise ValueError(
            f"model_card: expected {', '.join(empty)}, got nothing; measured can be str(invariance_report(...)) or what "
            f"`fnodiff evaluate` prints."
        )
    if not model.training_shapes:
        raise ValueError(
            "model_card: expected a model with training_shapes, got none; make it with Model.for_data, or set them."
        )
    shapes, sde = sorted(model.training_shapes), model.sde
    metadata = ModelCardData(license=licence, library_name="fnodiff", tags=["diffusion", "neural-operator"])
    return _CARD.format(
        metadata=metadata.to_yaml(),
        title=repo.split("/")[1],
        description=description.strip(),
        grids=", ".join("x".join(map(str, shape)) for shape in shapes),
        parameters=sum(p.numel() for p in model.parameters()),
        repo=repo,
        example=", ".join(str(2 * n) for n in shapes[-1]),
        measured=table,
        domain=sde.domain,
        noise=sde.noise,
        schedule=sde.schedule,
        network=type(model.network).__name__,
        scaling=model.scaling,
        given=_given(model),
        conditions=_conditions(model) or "none",
    )


def _conditions(model: Denoiser) -> str:
    """What samples are conditioned on, in words; numbers by name, with mean and spread in the data."""
    network, units, found = model.network, model.condition_normalization.get("condition"), []
    if classes := getattr(network, "num_classes", 0):
        found.append(f"a label of {classes} classes")
    if channels := getattr(network, "condition_channels", 0):
        found.append(f"a field of {channels} channel{'s' if channels > 1 else ''}")
    for i, name in enumerate(model.condition_names):
        known = units is not None and isinstance(units.mean, tuple)
        found.append(f"{name} ({units.mean[i]:.3g} ± {units.std[i]:.2g} in the data)" if known else name)
    return ", ".join(found)


def _given(model: Denoiser) -> str:
    """The arguments of `sample` that such a model needs."""
    network, units, text = model.network, model.condition_normalization.get("condition"), ""
    if getattr(network, "num_classes", 0):
        text += ", label=0"
    if getattr(network, "condition_channels", 0):
        text += ", field=field"
    if model.condition_names:
        means = (
            units.mean if units is not None and isinstance(units.mean, tuple) else [0.0] * len(model.condition_names)
        )
        pairs = ", ".join(f'"{name}": {mean:.3g}' for name, mean in zip(model.condition_names, means, strict=True))
        text += f", condition={{{pairs}}}"
    return text


def push_to_hub(
    model: Denoiser,
    repo: str,
    measured: object,
    *,
    licence: str,
    description: str,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Upload a model with its card; `Model.from_pretrained(repo)` reads it back. Returns the commit's address.

    Args:
        model: A trained model; what cannot be saved is refused before anything is created.
        repo: "owner/name", made if it is not there.
        measured: As for `model_card`, like licence and description.
        private: For a repository that is made.
        token: Of the hub; by default the one that `hf auth login` left.

    Raises:
        ValueError: As `model_card` and `Model.save_pretrained`.
    """
    card = model_card(model, repo, measured, licence=licence, description=description)
    api = huggingface_hub.HfApi(token=token)
    with tempfile.TemporaryDirectory() as name:
        folder = model.save_pretrained(name)
        (folder / "README.md").write_text(card)
        api.create_repo(repo_id=repo, private=private, exist_ok=True)
        return str(
            api.upload_folder(
                repo_id=repo, folder_path=folder, commit_message="Upload a model trained with fnodiff"
            ).commit_url
        )


def write_space(
    folder: str | os.PathLike[str], model: Denoiser | str, *, licence: str, title: str | None = None
) -> Path:
    """Write the files of a Space that shows the page of `fnodiff.page`: README.md, app.py and requirements.txt.

    Upload the folder by `hf upload you/portraits FOLDER --repo-type space`.

    Args:
        folder: Where to, new or not.
        model: A hub id "owner/name", the name of a model that comes with fnodiff, or a model, whose weights are written into
            `model` below the folder.
        licence: Of the Space, as the hub names licences ("mit", "cc-by-4.0", "other").
        title: Of the page; by default the model's name.

    Returns:
        The folder.

    Raises:
        ValueError: If there is no licence, or the model cannot be saved.
    """
    if not licence.strip():
        raise ValueError("write_space: expected a licence, got nothing; name one, such as mit or other.")
    folder, named = Path(folder), isinstance(model, str)
    folder.mkdir(parents=True, exist_ok=True)
    title = title or (model.split("/")[-1] if named else "fnodiff")
    if not named:
        model.save_pretrained(folder / "model")
    card = SpaceCardData(
        title=title,
        sdk="gradio",
        sdk_version=_GRADIO,
        python_version="3.12",
        app_file="app.py",
        license=licence,
        models=[model] if named and "/" in model else None,
    )
    text = f"---\n{card.to_yaml()}\n---\n\n# {title}\n\nOne seed is one function on every grid: a page made with fnodiff.\n"
    (folder / "README.md").write_text(text)
    (folder / "app.py").write_text(_SPACE.format(source=model if named else "./model", name=title))
    (folder / "requirements.txt").write_text(f"fnodiff[app]>={version('fnodiff')}\n")
    return folder
