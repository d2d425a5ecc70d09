"""Images from a folder or a zip, made smaller by area averaging.

An image is a grid of cell averages: cell (i, j) of an (n, m) grid holds the mean of the picture over that cell. Smaller
grids of the same picture are therefore exact means of its pixels, cells that overlap in part counted in proportion
(`Box.average`), taken of the code values as they are stored (no gamma, no colour profile) and then scaled,

    x = value / 127.5 - 1,    value in [0, 255].
"""

from __future__ import annotations

import io
import json
import operator
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from fnodiff.domain import Box

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_LABELS = "dataset.json"
_DOMAIN = Box(2)


class ImageFolder:
    """The PNG, JPEG and WebP images of a folder or a zip, as RGB fields on any grid no finer than they are.

    Images come in the order of their sorted names and look as in a viewer: EXIF orientation applied, transparency
    composited on white, grey, palette, 16-bit and CMYK files turned into RGB. Embedded colour profiles are ignored, of
    an animation the first frame is taken, and 16-bit colour (not grey) is read to 8 bits. Zip members are read in
    memory. A damaged JPEG or WebP that still decodes to its full size is noticed in a zip only, by its checksum.

    A file `dataset.json` at the root, {"labels": [["00000/img00000000.png", 3], ...]}, gives every image a class or, as
    a list of numbers, a vector; {"labels": null} gives none. (Its layout: Karras et al., 2022, "Elucidating the Design
    Space of Diffusion-Based Generative Models", the dataset tool that goes with it.)

    The object can be pickled and forked: each process opens the zip for itself.

    Args:
        path: A directory, nested or flat, or a .zip file.
        on_error: "raise" reads nothing now, and a broken image is a ValueError when it is asked for. "skip" decodes
            every image once, now, and leaves the broken ones out, so that the length and the indices stay true: expect
            some 40 ms per image of a megapixel. One that breaks later, or cannot be opened at all, is an error still.

    Attributes:
        channels: 3.
        names: The images' names relative to `path`, with "/", in the order of the indices.
        labels: int64 (N,), float32 (N, K) or None.
        num_classes: How many classes the labels name; 0 without.
        ignored: How many files were left alone: without an image suffix, hidden (.name), or in __MACOSX.
        broken: One message for each image left out by "skip".

    Raises:
        ValueError: If there is no image at `path`, or it is neither a directory nor a zip, or the labels do not match.

    Examples:
        >>> import tempfile
        >>> from PIL import Image
        >>> from fnodiff.data import ImageFolder
        >>> folder = tempfile.TemporaryDirectory()
        >>> Image.new("RGB", (48, 48), "red").save(folder.name + "/red.png")
        >>> images = ImageFolder(folder.name)
        >>> images.names, images.batch([0], (16, 16))["x"].mean((2, 3))
        (['red.png'], tensor([[ 1., -1., -1.]]))
    """

    channels = 3
    cell_averages = True
    condition_channels = 0

    def __init__(self, path: str | os.PathLike[str], *, on_error: Literal["raise", "skip"] = "raise") -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f'ImageFolder: expected on_error="raise" or "skip", got {on_error!r}.')
        self.path = Path(path)
        self._zipped = _is_zip(self.path)
        self._zip: tuple[int, zipfile.ZipFile] | None = None
        files = self._files()
        self.names = sorted(name for name in files if _is_image(name))
        self.ignored = len(files) - len(self.names) - (_LABELS in files)
        if not self.names:
            raise ValueError(
                f"ImageFolder: no image in {self.path}: expected files ending in {', '.join(_SUFFIXES)}, got {self.ignored} "
                f"other or hidden files; pass the folder or zip that holds the images."
            )
        labels = self._read_labels() if _LABELS in files else None
        self.broken: list[str] = []
        if on_error == "skip":
            self._leave_out_broken()
        self.labels = None if labels is None else _label_tensor([labels[name] for name in self.names], self.path)

    @property
    def num_classes(self) -> int:
        return 0 if self.labels is None or self.labels.is_floating_point() else int(self.labels.max()) + 1

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"ImageFolder({str(self.path)!r}): {len(self)} images, {self.ignored} ignored, {self.skipped} skipped"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_zip": None}

    @property
    def skipped(self) -> int:
        """How many broken images were left out."""
        return len(self.broken)

    def image(self, index: int) -> Tensor:
        """The whole image (3, n, n), cropped at its centre to the largest square, values in [-1, 1].

        Raises:
            ValueError: If the image is broken or the index out of range.
        """
        return _scale(_crop(self._levels(self._name(index)), (1, 1)))

    def batch(self, indices: Sequence[int], shape: tuple[int, int]) -> dict[str, Tensor]:
        """Images on one grid: cropped at the centre to the aspect ratio of `shape`, then averaged over its cells.

        The crop is the largest with that ratio, in whole pixels: its shorter extent is rounded down.

        Args:
            indices: B of them, in any order, repeated or not.
            shape: (height, width), no finer than the crop of any of the images.

        Returns:
            "x", float32 (B, 3, *shape) in [-1, 1], and "label", int64 (B,) or float32 (B, K), if there are labels.

        Raises:
            ValueError: If an image is broken or smaller than `shape`, or an index out of range.
        """
        return self.batches(indices, [shape])[0]

    def batches(self, indices: Sequence[int], shapes: Sequence[tuple[int, int]]) -> list[dict[str, Tensor]]:
        """`batch(indices, shape)` for each of the shapes, every file decoded only once."""
        grids = [_DOMAIN.check_shape(shape) for shape in shapes]
        names = [self._name(index) for index in indices]
        if not names:
            raise ValueError("ImageFolder: expected at least one index, got none.")
        averages = [self._averages(name, grids) for name in names]
        label = {} if self.labels is None else {"label": self.labels[torch.tensor([int(i) for i in indices])]}
        return [{"x": torch.stack(x), **label} for x in zip(*averages, strict=True)]

    def _averages(self, name: str, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        levels = self._levels(name)
        out = []
        for shape in shapes:
            crop = _crop(levels, shape)
            if crop.shape[1] < shape[0]:  # and then the width is too small as well, the ratios being the same
                whole, cropped, asked = ("x".join(map(str, size)) for size in (levels.shape[1:], crop.shape[1:], shape))
                raise ValueError(
                    f"ImageFolder: {self._where(name)} is {whole}, {cropped} after cropping, got {asked} to fill: "
                    f"averaging cannot invent detail; choose smaller resolutions, leave the file out, or upsample it."
                )
            out.append(_scale(_DOMAIN.average(crop[None], shape)[0]))
        return out

    def _name(self, index: int) -> str:
        if not 0 <= operator.index(index) < len(self.names):
            raise ValueError(f"ImageFolder: expected an index in 0 .. {len(self) - 1}, got {index} ({self.path}).")
        return self.names[index]

    def _where(self, name: str) -> str:
        return f"{name} in {self.path}" if self._zipped else str(self.path / name)

    def _levels(self, name: str) -> Tensor:
        """Code values (3, height, width) from 0 to 255."""
        try:
            return torch.from_numpy(_decode(self._read(name)))
        except ValueError as error:
            raise ValueError(
                f"ImageFolder: {self._where(name)} cannot be read: {error}; "
                f'mend or remove the file, or pass on_error="skip".'
            ) from error

    def _leave_out_broken(self) -> None:
        good = []
        for name in tqdm(self.names, desc="checking images", unit="image", delay=5, disable=None):
            try:
                self._levels(name)
            except ValueError as error:
                self.broken.append(str(error))
            else:
                good.append(name)
        if not good:
            raise ValueError(f"ImageFolder: all {len(self.names)} images are broken. The first: {self.broken[0]}")
        self.names = good

    # ---- files ----------------------------------------------------------------------------------------------------

    def _files(self) -> set[str]:
        if not self._zipped:
            return set(_walk(self.path, "", ()))
        members = [info.filename for info in self._archive().infolist() if not info.is_dir()]
        files = set(members)
        if len(files) < len(members):
            twice = next(name for name in sorted(files) if members.count(name) > 1)
            raise ValueError(f"ImageFolder: {self.path} holds {twice} more than once; write the zip again without.")
        return files

    def _archive(self) -> zipfile.ZipFile:
        # A forked process shares the file position of an inherited handle, so it opens its own.
        if self._zip is None or self._zip[0] != os.getpid():
            self._zip = os.getpid(), zipfile.ZipFile(self.path)
        return self._zip[1]

    def _read(self, name: str) -> bytes:
        """The file's bytes; a ValueError if the zip is damaged there. Other failures stay an OSError."""
        if not self._zipped:
            try:
                return (self.path / name).read_bytes()
            except FileNotFoundError as error:
                raise ValueError("the file is gone, or a link to a file that is not there") from error
        size, limit = self._archive().getinfo(name).file_size, Image.MAX_IMAGE_PIXELS
        # Pillow refuses images beyond twice its limit, and a pixel needs 8 bytes at most.
        if limit is not None and size > 16 * limit:
            raise ValueError(f"{size} bytes are more than an image below PIL.Image.MAX_IMAGE_PIXELS = {limit} can have")
        try:
            return self._archive().read(name)
        # RuntimeError: encrypted, or packed by a method unknown here
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise ValueError(str(error)) from error

    def _read_labels(self) -> dict[str, Any] | None:
        where = self._where(_LABELS)
        try:
            labels = json.loads(self._read(_LABELS))["labels"]
            if labels is None:
                return None
            pairs = [(str(name).replace("\\", "/"), label) for name, label in labels]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'ImageFolder: {where}: expected {{"labels": [["name.png", label], ...]}} or null labels, got '
                f"something else ({type(error).__name__}: {error}); mend the file, or rename it if it holds no labels."
            ) from error
        named = dict(pairs)
        if len(named) < len(pairs):
            raise ValueError(
                f"ImageFolder: {where}: expected one label per image, got {len(pairs)} for {len(named)} names."
            )
        missing, extra = sorted(set(self.names) - set(named)), sorted(set(named) - set(self.names))
        if missing or extra:
            raise ValueError(
                f"ImageFolder: {where}: expected a label for each of the {len(self.names)} images and for no other, "
                f"got {len(missing)} images without a label {missing[:3]} and {len(extra)} labels without an image "
                f"{extra[:3]}; complete the images, or mend the list."
            )
        return named


def _is_zip(path: Path) -> bool:
    if path.is_dir():
        return False
    if not path.exists():
        raise ValueError(f"ImageFolder: {path} does not exist; pass a directory of images or a .zip of them.")
    if path.suffix.lower() != ".zip":
        raise ValueError(f"ImageFolder: expected a directory or a .zip file, got {path}.")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"ImageFolder: {path} is not a zip file, or not a complete one; fetch or write it again.")
    return True


def _walk(folder: Path, prefix: str, above: tuple[str, ...]) -> Iterator[str]:
    """The names below a folder, links followed."""
    real = os.path.realpath(folder)
    if real in above:
        raise ValueError(f"ImageFolder: {folder} is a link to a folder that it lies in; remove the link.")
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(folder / entry.name, f"{prefix}{entry.name}/", (*above, real))
            else:
                yield prefix + entry.name


def _is_image(name: str) -> bool:
    parts = name.split("/")
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and parts[-1].lower().endswith(_SUFFIXES)


def _label_tensor(labels: list[Any], path: Path) -> Tensor:
    if all(type(label) is int for label in labels):
        return torch.tensor(labels, dtype=torch.int64)
    vectors = all(isinstance(label, list) and all(type(v) in (int, float) for v in label) for label in labels)
    if vectors and len({len(label) for label in labels}) == 1 and labels[0]:
        return torch.tensor(labels, dtype=torch.float32)
    raise ValueError(
        f"ImageFolder: {_LABELS} of {path}: expected an integer for every image, or a list of equally many numbers for "
        f"every image, got such as {labels[:3]}; mend the list."
    )


# ---- pixels -------------------------------------------------------------------------------------------------------


def _scale(levels: Tensor) -> Tensor:
    return levels / 127.5 - 1


def _crop(levels: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The largest crop at the centre whose height and width are as shape[0] to shape[1]."""
    height, width = levels.shape[1:]
    crop = min(height, width * shape[0] // shape[1]), min(width, height * shape[1] // shape[0])
    top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
    return levels[:, top : top + crop[0], left : left + crop[1]]


def _decode(data: bytes) -> np.ndarray:
    """Code values float32 (3, height, width) from 0 to 255 of an image file's bytes, or a ValueError."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ValueError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, which would hide truncated files: set it to False"
        )
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP"))
        raw = image.tile[0][3] if image.format == "PNG" else ""
        image.load()
        levels = _rgb(image, raw)
        orientation = image.getexif().get(0x0112, 1)
    except UnidentifiedImageError as error:
        raise ValueError("its bytes are not those of a PNG, JPEG or WebP file") from error
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # damaged bytes make Pillow raise errors of nearly every kind
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return np.ascontiguousarray(_turn(levels, orientation).transpose(2, 0, 1))


def _rgb(image: Image.Image, raw: str) -> np.ndarray:
    """Code values float32 (height, width, 3), transparency composited on white. `raw` is how a PNG packs its pixels."""
    key = image.info.get("transparency")
    if image.mode in ("P", "PA", "LA", "RGBA"):
        rgba = np.asarray(image.convert("RGBA"), dtype=np.float32)
        return 255 + (rgba[..., :3] - 255) * (rgba[..., 3:] / 255)
    if image.mode in ("1", "L", "I;16", "I"):  # "I" is how older Pillows read 16-bit grey
        peak = {"1": 1, "L": 255}.get(image.mode, 65535)
        values = np.asarray(image).astype(np.float32)[..., None]
        # The transparent grey is given at the file's depth, and Pillow has spread 2 and 4 bits over 8 since.
        clear = None if key is None else {"L;2": key * 85, "L;4": key * 17}.get(raw, key)
        levels = np.repeat(values * 255 / peak, 3, axis=2)
    elif image.mode in ("RGB", "CMYK"):
        values = levels = np.asarray(image.convert("RGB"), dtype=np.float32)
        clear = key
        if key is not None and raw == "RGB;16B":
            raise ValueError("a transparent colour in a 16-bit PNG is not supported: give it an alpha channel")
    else:
        raise ValueError(f"unknown pixel format {image.mode}")
    return levels if clear is None else np.where((values == clear).all(axis=2, keepdims=True), np.float32(255), levels)


def _turn(levels: np.ndarray, orientation: int) -> np.ndarray:
    """The picture upright; EXIF's orientation says where the stored rows and columns begin. Unknown values mean 1."""
    if orientation in (5, 6, 7, 8):  # rows are stored as columns
        levels = levels.transpose(1, 0, 2)
    flip_rows, flip_columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return levels[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
