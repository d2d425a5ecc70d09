"""Which files of a folder or a zip are pictures, and what their folders and lists say of them."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fnodiff.data import pixels

LABELS = "dataset.json"
SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "images", "pictures", "img"}
"""Folders that are called so are no classes."""


def is_zip(path: Path) -> bool:
    """Whether pictures are in a zip file, not in a folder; ValueError if they are in neither."""
    if path.is_dir():
        return False
    if not path.exists():
        raise ValueError(f"ImageFolder: {path} does not exist; pass a directory of images or a .zip of them.")
    if path.suffix.lower() != ".zip":
        raise ValueError(f"ImageFolder: expected a directory or a .zip file, got {path}.")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"ImageFolder: {path} is not a zip file, or not a complete one; fetch or write it again.")
    return True


def walk(folder: Path, prefix: str, above: tuple[str, ...]) -> Iterator[str]:
    """The names below a folder, links followed."""
    real = os.path.realpath(folder)
    if real in above:
        raise ValueError(f"ImageFolder: {folder} is a link to a folder that it lies in; remove the link.")
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from walk(folder / entry.name, f"{prefix}{entry.name}/", (*above, real))
            else:
                yield prefix + entry.name


def only_folder(files: set[str]) -> str:
    """The folders, with "/", around all images, if there are no others and no labels beside them."""
    shown = [name for name in files if not is_hidden(name)]
    parts = [name.split("/")[:-1] for name in shown if is_image(name)]
    depth = 0
    while parts and all(len(p) > depth for p in parts) and len({p[depth] for p in parts}) == 1:
        depth += 1
    while depth and any(name == "/".join([*parts[0][:i], LABELS]) for name in shown for i in range(depth)):
        depth -= 1
    return "".join(f"{part}/" for part in parts[0][:depth]) if parts else ""


def classes(names: list[str], asked: bool, listed: bool) -> list[str] | None:
    """The folders that are classes."""
    folders = sorted({name.split("/")[0] for name in names if "/" in name})
    every = all("/" in name for name in names)
    if asked and not (every and len(folders) > 1):
        raise ValueError(
            f'ImageFolder: expected all images in two folders or more with labels="folders", got folders {folders[:5]}; sort '
            f"them, or leave labels out."
        )
    parts = all(folder.isdigit() and len(folder) > 1 for folder in folders)
    splits = any(folder.lower() in SPLITS for folder in folders)
    return folders if asked or (every and len(folders) > 1 and not parts and not splits and not listed) else None


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder that it is in, is hidden."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def is_image(name: str) -> bool:
    """Whether a file is a picture, by its name."""
    return not is_hidden(name) and name.lower().endswith(pixels.SUFFIXES)


def label_tensor(labels: list[Any], path: Path) -> Tensor:
    """Labels of a dataset.json: classes, int64 (N,), or shares of K classes, float32 (N, K)."""
    if all(type(label) is int for label in labels):
        return torch.tensor(labels, dtype=torch.int64)
    vectors = all(isinstance(label, list) and all(type(v) in (int, float) for v in label) for label in labels)
    if vectors and len({len(label) for label in labels}) == 1 and labels[0]:
        return torch.tensor(labels, dtype=torch.float32)
    raise ValueError(
        f"ImageFolder: {LABELS} of {path}: expected an integer for every image, or a list of equally many numbers for "
        f"every image, got such as {labels[:3]}; mend the list."
    )
