"""Images from a folder or a zip, made smaller by area averaging.

An image is a grid of cell averages: cell (i, j) of an (n, m) grid holds the mean of the picture over that cell. Smaller
grids of the same picture are therefore exact means of its pixels, cells that overlap in part counted in proportion
(`Box.average`), taken of the code values as they are stored (no gamma, no colour profile) and then scaled,

    x = value / 127.5 - 1,    value in [0, 255].
"""

from __future__ import annotations

import json
import operator
import os
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from fnodiff.data import folders, pixels
from fnodiff.data.source import selected
from fnodiff.domain import Box, Shape, grid_name
from fnodiff.expected import kinds_checked

_DOMAIN = Box(2)


@kinds_checked
class ImageFolder:
    """The pictures of a folder or a zip (PNG, JPEG, WebP, TIFF, GIF, BMP), as fields on any grid no finer than they are.

    Images come in the order of their sorted names and look as in a viewer: EXIF orientation applied, transparency
    composited on white, grey, palette, 16-bit and CMYK files turned into RGB, or all of them into grey. Embedded colour
    profiles are ignored, and damaged metadata too. Of an animation the first frame is taken, and a warning says so. 16-bit
    colour (not grey) is read to 8 bits. Zip members are read in memory. A damaged JPEG or WebP that still decodes to its full
    size is noticed in a zip only, by its checksum.

    A file `dataset.json` at the root, {"labels": [["00000/img00000000.png", 3], ...]}, gives every image a class or, as a
    list of numbers, its shares of classes; {"labels": null} gives none. (Its layout: Karras et al., 2022, "Elucidating the
    Design Space of Diffusion-Based Generative Models", the dataset tool that goes with it.) Without one, two or more
    folders that hold all images are classes, in the order of their names, unless they are called by numbers of several
    digits, as parts of large sets are, or train, test and the like. One folder around everything is no class, but where the
    root is.

    The object can be pickled and forked: each process opens the zip for itself.

    Args:
        path: A directory, nested or flat, or a .zip file.
        channels: 3 for colour, 1 for grey (ITU-R BT.601 of coloured ones).
        labels: "folders": the outermost folders are the classes, whatever they are called. "none": there are no labels.
        smallest: A grid (height, width), or an int for both, that every image must fill: sizes are read now. Smaller ones are
            an error that names them, or left out with on_error="skip".
        on_error: "raise" reads nothing now, and a broken image is a ValueError when it is asked for. "skip" decodes
            every image once, now, and leaves the broken ones out, so that the length and the indices stay true: expect
            some 40 ms per image of a megapixel. One that breaks later, or cannot be opened at all, is an error still.

    Attributes:
        channels: 3 or 1.
        names: The images' names relative to the root, with "/", in the order of the indices.
        labels: int64 (N,), float32 (N, K) or None.
        classes: The names of the folders that are classes, in the order of the labels; None without.
        num_classes: How many classes the labels name; 0 without.
        ignored: How many files were left alone: without an image suffix, hidden (.name), or in __MACOSX.
        broken: One message for each image left out by "skip", those that are too small among them.

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

    cell_averages = True
    condition_channels = 0
    pictures = True
    domain = _DOMAIN

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        channels: Literal[1, 3] = 3,
        labels: Literal["folders", "none"] | None = None,
        smallest: int | Sequence[int] | None = None,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> None:
        if on_error not in ("raise", "skip") or channels not in (1, 3) or labels not in (None, "folders", "none"):
            raise ValueError(
                f'ImageFolder: expected on_error="raise" or "skip", got {on_error!r}; channels 1 or 3, got {channels!r}; '
                f'labels None, "folders" or "none", got {labels!r}; change those.'
            )
        self.path, self.channels = Path(path), channels
        self._zipped = folders.is_zip(self.path)
        self._zip: tuple[int, zipfile.ZipFile] | None = None
        files, self._said = self._files(), False
        self._root = folders.only_folder(files)
        count = len(files)
        files = {name.removeprefix(self._root) for name in files if name.startswith(self._root)}
        self.names = sorted(name for name in files if folders.is_image(name))
        self.ignored = count - len(self.names) - (folders.LABELS in files)
        if not self.names:
            raise ValueError(
                f"ImageFolder: no image in {self.path}: expected files ending in {', '.join(pixels.SUFFIXES)}, got "
                f"{self.ignored} other or hidden files; pass the folder or zip that holds the images."
            )
        self.classes = (
            None if labels == "none" else folders.classes(self.names, labels == "folders", folders.LABELS in files)
        )
        if self.classes is not None:
            known = {name: self.classes.index(name.split("/")[0]) for name in self.names}
        else:
            known = self._read_labels() if folders.LABELS in files and labels is None else None
        self.broken: list[str] = []
        if smallest is not None:
            self._check_sizes(_DOMAIN.check_shape(smallest), on_error)
        if on_error == "skip":
            self._leave_out_broken()
        self.labels = None if known is None else folders.label_tensor([known[name] for name in self.names], self.path)

    @property
    def num_classes(self) -> int:
        if self.labels is None:
            return 0
        return self.labels.shape[1] if self.labels.is_floating_point() else int(self.labels.max()) + 1

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        found = f"{len(self)} images, {self.ignored} ignored, {self.skipped} skipped"
        return f"ImageFolder({str(self.path)!r}): {found}" + (
            f", {self.num_classes} classes" if self.num_classes else ""
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_zip": None}

    @property
    def skipped(self) -> int:
        """How many broken images were left out."""
        return len(self.broken)

    def image(self, index: int) -> Tensor:
        """The whole image (channels, n, n), cropped at its centre to the largest square, values in [-1, 1].

        Raises:
            ValueError: If the image is broken or the index out of range.
        """
        return pixels.scale(pixels.crop(self._levels(self._name(index)), (1, 1)))

    def batch(self, indices: Sequence[int], shape: Shape) -> dict[str, Tensor]:
        """Images on one grid: cropped at the centre to the aspect ratio of `shape`, then averaged over its cells.

        The crop is the largest with that ratio, in whole pixels: its shorter extent is rounded down.

        Args:
            indices: B of them, in any order, repeated or not; or a slice, or a boolean for each image.
            shape: (height, width), no finer than the crop of any of the images.

        Returns:
            "x", float32 (B, channels, *shape) in [-1, 1], and "label", int64 (B,) or float32 (B, K), if there are labels.

        Raises:
            ValueError: If an image is broken or smaller than `shape`, or an index out of range.
        """
        return self.batches(indices, [shape])[0]

    def batches(self, indices: Sequence[int], shapes: Sequence[tuple[int, int]]) -> list[dict[str, Tensor]]:
        """`batch(indices, shape)` for each of the shapes, every file decoded only once."""
        grids = [_DOMAIN.check_shape(shape) for shape in shapes]
        indices = selected("ImageFolder", indices, len(self))
        names = [self.names[index] for index in indices]
        if not names:
            raise ValueError("ImageFolder: expected at least one index, got none.")
        averages = [self._averages(name, grids) for name in names]
        label = {} if self.labels is None else {"label": self.labels[torch.tensor(indices)]}
        return [{"x": torch.stack(x), **label} for x in zip(*averages, strict=True)]

    def _averages(self, name: str, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        levels = self._levels(name)
        try:
            return [pixels.averaged(levels, shape) for shape in shapes]
        except ValueError as error:
            raise ValueError(
                f"ImageFolder: {self._where(name)} {error}, or leave the file out: ImageFolder(path, "
                f'smallest={tuple(max(shapes))}, on_error="skip").'
            ) from error

    def _name(self, index: int) -> str:
        (row,) = selected("ImageFolder", operator.index(index), len(self))
        return self.names[row]

    def _where(self, name: str) -> str:
        return f"{self._root}{name} in {self.path}" if self._zipped else str(self.path / self._root / name)

    def _levels(self, name: str) -> Tensor:
        """Code values (channels, height, width) from 0 to 255."""
        try:
            levels, more = pixels.decode(self._read(name), self.channels)
            if more and not self._said:
                self._said = True
                warnings.warn(
                    f"ImageFolder: {self._where(name)} has several frames or pages: of it, and of others like it, the first is "
                    f"taken.",
                    stacklevel=2,
                )
            return torch.from_numpy(levels)
        except ValueError as error:
            raise ValueError(
                f"ImageFolder: {self._where(name)} cannot be read: {error}; "
                f'mend or remove the file, or pass on_error="skip".'
            ) from error

    def _check_sizes(self, shape: tuple[int, ...], on_error: str) -> None:
        """Refuse pictures that do not fill a grid, or leave them out."""
        good, small = [], []
        for name in tqdm(self.names, desc="reading sizes", unit="image", delay=5, disable=None):
            try:
                with closing(self._file(name)) as file:
                    height, width = pixels.size(file)
            except ValueError:
                height, width = shape  # a broken one is known when it is read
            fits = min(height, width * shape[0] // shape[1]) >= shape[0]
            (good if fits else small).append(f"{self._where(name)} is {height}x{width}" if not fits else name)
        wanted = grid_name(shape)
        if small and (on_error == "raise" or not good):
            listed = ", ".join(small[:5]) + (f" and {len(small) - 5} more" if len(small) > 5 else "")
            raise ValueError(
                f"ImageFolder: expected images that fill {wanted} after cropping, got {len(small)} of {len(self.names)} that "
                f'do not: {listed}; choose smaller resolutions, or leave them out with on_error="skip".'
            )
        self.names, self.broken = good, [f"ImageFolder: {one}, smaller than {wanted}." for one in small]

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
            return set(folders.walk(self.path, "", ()))
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
                return (self.path / self._root / name).read_bytes()
            except FileNotFoundError as error:
                raise ValueError("the file is gone, or a link to a file that is not there") from error
        member = self._root + name
        size, limit = self._archive().getinfo(member).file_size, Image.MAX_IMAGE_PIXELS
        # Pillow refuses images beyond twice its limit, and a pixel needs 8 bytes at most.
        if limit is not None and size > 16 * limit:
            raise ValueError(f"{size} bytes are more than an image below PIL.Image.MAX_IMAGE_PIXELS = {limit} can have")
        try:
            return self._archive().read(member)
        # RuntimeError: encrypted, or packed by a method unknown here
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise ValueError(str(error)) from error

    def _file(self, name: str) -> Any:
        """The file, opened; its beginning is enough for a picture's size."""
        try:
            return (
                self._archive().open(self._root + name) if self._zipped else open(self.path / self._root / name, "rb")
            )
        except (FileNotFoundError, zipfile.BadZipFile, RuntimeError) as error:
            raise ValueError(str(error)) from error

    def _read_labels(self) -> dict[str, Any] | None:
        where = self._where(folders.LABELS)
        try:
            labels = json.loads(self._read(folders.LABELS))["labels"]
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
