"""Models on the hub: uploaded with a card that says what was measured."""

from __future__ import annotations

import tempfile
from pathlib import Path

import huggingface_hub
from huggingface_hub import ModelCardData

from fnodiff import checkpoint
from fnodiff.sde import Denoiser

_CARD = """---
{metadata}
---

# {title}

{description}

Trained on {grids}; parameters: {parameters:,}. One seed is one function on every grid, also those that it was not trained on.

```python
from fnodiff import DPMSolver
from fnodiff.checkpoint import from_pretrained

model = from_pretrained("{repo}")
x = DPMSolver(model, 12).draw(({channels}, {example}), seeds=range(8))
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
| denoiser | `{denoiser}` |
"""


def model_card(denoiser: Denoiser, repo: str, measured: object, *, licence: str, description: str) -> str:
    """The text of a model's card (README.md), its metadata included.

    Args:
        denoiser: A trained model.
        repo: "owner/name".
        measured: The table: a text, or what prints as one, such as `invariance_report` returns.
        licence: Of the weights, as the hub names licences ("mit", "cc-by-4.0", "other").
        description: What was trained, on which data, by which command.

    Raises:
        ValueError: If the repository's name is none, nothing was measured, licence or description are empty, or the model has
            no training_shapes, which `fit` notes.
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
            f"`python -m fnodiff evaluate` prints."
        )
    if not denoiser.training_shapes:
        raise ValueError("model_card: expected a model with training_shapes, got none; train it with fit, or set them.")
    shapes, sde = sorted(denoiser.training_shapes), denoiser.sde
    network = getattr(denoiser, "backbone", denoiser)
    metadata = ModelCardData(license=licence, library_name="fnodiff", tags=["diffusion", "neural-operator"])
    return _CARD.format(
        metadata=metadata.to_yaml(),
        title=repo.split("/")[1],
        description=description.strip(),
        grids=", ".join("x".join(map(str, shape)) for shape in shapes),
        parameters=sum(p.numel() for p in denoiser.parameters()),
        repo=repo,
        channels=getattr(network, "out_channels", "C"),
        example=", ".join(str(2 * n) for n in shapes[-1]),
        measured=table,
        domain=sde.domain,
        noise=sde.noise,
        schedule=sde.schedule,
        denoiser=f"{type(denoiser).__name__}, {type(network).__name__}",
    )


def push_to_hub(
    denoiser: Denoiser,
    repo: str,
    measured: object,
    *,
    licence: str,
    description: str,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Upload a model with its card; `from_pretrained(repo)` reads it back. Returns the commit's address.

    Args:
        denoiser: A trained model; what cannot be saved is refused before anything is created.
        repo: "owner/name", made if it is not there.
        measured: As for `model_card`, like licence and description.
        private: For a repository that is made.
        token: Of the hub; by default the one that `hf auth login` left.

    Raises:
        ValueError: As `model_card` and `checkpoint.save_pretrained`.
    """
    card = model_card(denoiser, repo, measured, licence=licence, description=description)
    api = huggingface_hub.HfApi(token=token)
    with tempfile.TemporaryDirectory() as name:
        folder = checkpoint.save_pretrained(denoiser, Path(name))
        (folder / "README.md").write_text(card)
        api.create_repo(repo_id=repo, private=private, exist_ok=True)
        return str(
            api.upload_folder(
                repo_id=repo, folder_path=folder, commit_message="Upload a model trained with fnodiff"
            ).commit_url
        )
