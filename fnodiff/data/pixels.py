"""The pixels of picture files as a viewer shows them: upright, transparency on white, any mode of grey, colour or palette."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from fnodiff.domain import Box, grid_name

_DOMAIN = Box(2)

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".gif", ".bmp")
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP")
LUMA = (0.299, 0.587, 0.114)
"""What red, green and blue add to grey (ITU-R BT.601)."""


def decode(data: bytes, channels: int = 3) -> tuple[np.ndarray, bool]:
    """Code values float32 (channels, height, width) from 0 to 255 of a file's bytes, and whether it has further frames.

    Raises:
        ValueError: If they are no picture, or a damaged one. Damaged metadata does no harm.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ValueError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, which would hide truncated files: set it to False"
        )
    try:
        levels, orientation, more = _read(data)
    except ValueError:
        bare = _without_metadata(data)
        if bare is None:
            raise
        levels, orientation, more = _read(bare)
    return _upright(levels, orientation, channels), more


def opened(image: Image.Image, channels: int = 3) -> np.ndarray:
    """Code values float32 (channels, height, width) from 0 to 255 of an image that Pillow has opened.

    Raises:
        ValueError: If it is damaged, or its numbers have no range.
    """
    try:
        raw = image.tile[0][3] if image.format == "PNG" and getattr(image, "tile", None) else ""
        image.load()
        return _upright(_rgb(image, raw), _orientation(image), channels)
    except OSError as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def crop(levels: Tensor, shape: Sequence[int]) -> Tensor:
    """The largest crop at the centre whose height and width are as shape[0] to shape[1]."""
    height, width = levels.shape[1:]
    size = min(height, width * shape[0] // shape[1]), min(width, height * shape[1] // shape[0])
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return levels[:, top : top + size[0], left : left + size[1]]


def scale(levels: Tensor) -> Tensor:
    """Code values in [-1, 1]."""
    return levels / 127.5 - 1


def averaged(levels: Tensor, shape: Sequence[int]) -> Tensor:
    """A picture (channels, height, width) of code values, cropped to a grid's shape and averaged over its cells, in [-1, 1].

    Raises:
        ValueError: If the picture does not fill the grid.
    """
    part = crop(levels, shape)
    if part.shape[1] < shape[0]:  # and then the width is too small as well, the ratios being the same
        whole, cropped, asked = map(grid_name, (levels.shape[1:], part.shape[1:], shape))
        raise ValueError(
            f"is {whole}, {cropped} after cropping, got {asked} to fill: averaging cannot invent detail; choose smaller "
            f"resolutions"
        )
    return scale(_DOMAIN.average(part[None], shape)[0])


def _upright(levels: np.ndarray, orientation: object, channels: int) -> np.ndarray:
    """(height, width, 3) as (channels, height, width), turned as EXIF says."""
    if channels == 1:
        levels = levels @ np.array(LUMA, dtype=np.float32)[:, None]
    return np.ascontiguousarray(_turn(levels, orientation).transpose(2, 0, 1))


def size(file: BinaryIO) -> tuple[int, int]:
    """Height and width of a picture, from its header alone.

    Raises:
        ValueError: If it has none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            with Image.open(file, formats=FORMATS) as image:
                width, height = image.size
                return (width, height) if _orientation(image) in (5, 6, 7, 8) else (height, width)
    except Exception as error:  # damaged bytes make Pillow raise errors of nearly every kind
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _read(data: bytes) -> tuple[np.ndarray, object, bool]:
    """Code values (height, width, 3), EXIF's orientation, and whether there are further frames."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of metadata
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            more = image.format != "MPO" and bool(getattr(image, "is_animated", False))
            raw = image.tile[0][3] if image.format == "PNG" and image.tile else ""
            image.load()
            return _rgb(image, raw), _orientation(image), more
    except UnidentifiedImageError as error:
        raise ValueError("its bytes are not those of a PNG, JPEG, WebP, TIFF, GIF or BMP file") from error
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # damaged bytes make Pillow raise errors of nearly every kind
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _orientation(image: Image.Image) -> object:
    """EXIF's orientation; 1, upright, where EXIF is damaged."""
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # as damaged metadata makes Pillow raise errors of nearly every kind
        return 1


def _rgb(image: Image.Image, raw: object) -> np.ndarray:
    """Code values float32 (height, width, 3), transparency composited on white. `raw` is how a PNG packs its pixels."""
    key = image.info.get("transparency")
    if image.mode in ("P", "PA", "La", "LA", "RGBa", "RGBA"):
        image = image.convert("LA") if image.mode == "La" else image
        rgba = np.asarray(image.convert("RGBA"), dtype=np.float32)
        return 255 + (rgba[..., :3] - 255) * (rgba[..., 3:] / 255)
    if image.mode in ("1", "L") or image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        values = np.asarray(image).astype(np.float32)[..., None]  # "I" is how older Pillows read 16-bit grey
        peak = {"1": 1, "L": 255}.get(image.mode, 65535)
        if image.format == "TIFF" and peak == 65535:
            bits, inverted = image.tag_v2.get(258, (16,))[0], image.tag_v2.get(262) == 0
            peak = 2**bits - 1
            values = peak - values if inverted else values
        # The transparent grey is given at the file's depth, and Pillow has spread 2 and 4 bits over 8 since.
        clear = None if key is None else {"L;2": key * 85, "L;4": key * 17}.get(raw, key)
        levels = np.repeat(values * 255 / peak, 3, axis=2)
    elif image.mode in ("RGB", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"):
        values = levels = np.asarray(image.convert("RGB"), dtype=np.float32)
        clear = key
        if key is not None and raw == "RGB;16B":
            raise ValueError("a transparent colour in a 16-bit PNG is not supported: give it an alpha channel")
    elif image.mode in ("F", "I"):
        raise ValueError(
            "its numbers have no range that says what is black and white: read it as an array, ArrayFields"
        )
    else:
        raise ValueError(f"unknown pixel format {image.mode}")
    return levels if clear is None else np.where((values == clear).all(axis=2, keepdims=True), np.float32(255), levels)


def _turn(levels: np.ndarray, orientation: object) -> np.ndarray:
    """The picture upright; EXIF's orientation says where the stored rows and columns begin. Unknown values mean 1."""
    if orientation in (5, 6, 7, 8):  # rows are stored as columns
        levels = levels.transpose(1, 0, 2)
    flip_rows, flip_columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return levels[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def _without_metadata(data: bytes) -> bytes | None:
    """A PNG or JPEG file without the parts that hold no pixels; None if nothing was left out."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        bare = _png(data)
    elif data.startswith(b"\xff\xd8"):
        bare = _jpeg(data)
    else:
        return None
    return bare if len(bare) < len(data) else None


def _png(data: bytes) -> bytes:
    """Its critical chunks and transparency; others only if they are whole."""
    kept, place = [data[:8]], 8
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        chunk, kind = data[place : place + 12 + length], data[place + 4 : place + 8]
        whole = len(chunk) == 12 + length and zlib.crc32(chunk[4:-4]) == struct.unpack(">I", chunk[-4:])[0]
        if kind[:1].isupper() or kind == b"tRNS" or (kind == b"eXIf" and whole):
            kept.append(chunk)
        place += 12 + length
    return b"".join([*kept, data[place:]])


def _jpeg(data: bytes) -> bytes:
    """Its segments but comments and those of applications; Adobe's, which says how colours are stored, stays."""
    kept, place = [data[:2]], 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        marker, length = data[place + 1], struct.unpack(">H", data[place + 2 : place + 4])[0]
        if not (marker == 0xFE or (0xE1 <= marker <= 0xEF and marker != 0xEE)):
            kept.append(data[place : place + 2 + length])
        place += 2 + length
    return b"".join([*kept, data[place:]])
