"""Image folders and zips: every file is read as a viewer shows it, and its averages are exact."""

from __future__ import annotations

import functools
import io
import json
import pickle
import shutil
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torch import Tensor
from torch.utils.data import DataLoader

from fnodiff.data import ImageFolder

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (4, 4), dtype=np.uint8)
RGB = RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (4, 4), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (4, 4), dtype=np.uint16)
CODES = (np.arange(16, dtype=np.uint8) % 3).reshape(4, 4)
PALETTE = np.array([[200, 10, 60], [0, 255, 90], [17, 34, 51]], dtype=np.uint8)
CMYK = (30, 200, 90, 40)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(bits: int, colour: int, rows: list[bytes], width: int, transparent: bytes) -> bytes:
    """A PNG of the depths that Pillow does not write."""

    def piece(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    pieces = piece(b"IHDR", header), piece(b"tRNS", transparent), piece(b"IDAT", pixels), piece(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(pieces)


def paletted() -> Image.Image:
    image = Image.fromarray(CODES).convert("P")
    image.frombytes(CODES.tobytes())
    image.putpalette(PALETTE.tobytes())
    return image


def grey(levels: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(levels, dtype=np.float64)[..., None], 3, axis=2)


def on_white(levels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = np.asarray(alpha, dtype=np.float64)[..., None] / 255
    return levels * share + 255 * (1 - share)


def levels(x: Tensor) -> np.ndarray:
    """Code values (height, width, 3) of a field (3, height, width)."""
    return x.permute(1, 2, 0).double().numpy() * 127.5 + 127.5


def smooth(size: int) -> np.ndarray:
    ramp = np.linspace(20, 230, size)
    return np.stack(np.broadcast_arrays(ramp, ramp[:, None], 0.5 * (ramp + ramp[:, None])), axis=-1).astype(np.uint8)


def rgba(kind: str, **options: object) -> bytes:
    return encode(Image.fromarray(np.dstack([RGB, ALPHA])), kind, **options)


FILES = {
    "RGB.png": (lambda: encode(Image.fromarray(RGB), "PNG"), RGB, 0),
    "RGB.webp": (lambda: encode(Image.fromarray(RGB), "WEBP", lossless=True), RGB, 0),
    "RGB.JPG": (lambda: encode(Image.fromarray(smooth(32)), "JPEG", quality=100, subsampling=0), smooth(32), 3),
    "L.jpeg": (lambda: encode(Image.fromarray(smooth(32)[..., 0]), "JPEG", quality=100), grey(smooth(32)[..., 0]), 3),
    "CMYK.jpg": (
        lambda: encode(Image.new("CMYK", (16, 16), CMYK), "JPEG", quality=100),
        np.full((16, 16, 3), [(1 - ink / 255) * (1 - CMYK[3] / 255) * 255 for ink in CMYK[:3]]),
        3,
    ),
    "L.PNG": (lambda: encode(Image.fromarray(GREY), "PNG"), grey(GREY), 0),
    "1.png": (lambda: encode(Image.fromarray(GREY > 127), "PNG"), grey((GREY > 127) * 255), 0),
    "LA.png": (
        lambda: encode(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]), "PNG"),
        on_white(grey(GREY), ALPHA),
        0,
    ),
    "RGBA.png": (lambda: rgba("PNG"), on_white(RGB, ALPHA), 0),
    "RGBA.webp": (lambda: rgba("WEBP", lossless=True, exact=True), on_white(RGB, ALPHA), 0),
    "P.png": (lambda: encode(paletted(), "PNG"), PALETTE[CODES], 0),
    "P with one clear.png": (
        lambda: encode(paletted(), "PNG", transparency=1),
        on_white(PALETTE[CODES], np.where(CODES == 1, 0, 255)),
        0,
    ),
    "P with alphas.png": (
        lambda: encode(paletted(), "PNG", transparency=bytes([255, 100, 0])),
        on_white(PALETTE[CODES], np.array([255, 100, 0])[CODES]),
        0,
    ),
    "L with one clear.png": (
        lambda: encode(Image.fromarray(CODES), "PNG", transparency=2),
        on_white(grey(CODES), np.where(CODES == 2, 0, 255)),
        0,
    ),
    "RGB with one clear.png": (
        lambda: encode(Image.fromarray(PALETTE[CODES]), "PNG", transparency=tuple(PALETTE[2].tolist())),
        on_white(PALETTE[CODES], np.where(CODES == 2, 0, 255)),
        0,
    ),
    "16 bits.png": (lambda: encode(Image.fromarray(DEEP), "PNG"), grey(DEEP / 257), 1e-4),
    "16 bits with one clear.png": (
        lambda: encode(Image.fromarray(DEEP), "PNG", transparency=int(DEEP[1, 2])),
        on_white(grey(DEEP / 257), np.where(DEEP == DEEP[1, 2], 0, 255)),
        1e-4,
    ),
    "2 bits with one clear.png": (
        lambda: png(2, 0, [bytes([0b00_01_10_11])] * 4, 4, b"\0\1"),
        grey([[0, 255, 170, 255]] * 4),
        0,
    ),
    "4 bits with one clear.png": (lambda: png(4, 0, [b"\x3a"] * 2, 2, b"\0\3"), grey([[255, 170]] * 2), 0),
    "1 bit with the black clear.png": (lambda: png(1, 0, [b"\x80"] * 2, 2, b"\0\0"), grey([[255, 255]] * 2), 0),
    "1 bit with the white clear.png": (lambda: png(1, 0, [b"\x80"] * 2, 2, b"\0\1"), grey([[255, 0]] * 2), 0),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_as_a_viewer_shows_it(name: str, tmp_path: Path) -> None:
    data, expected, tolerance = FILES[name]
    (tmp_path / name).write_bytes(data())
    x = ImageFolder(tmp_path).image(0)
    assert x.dtype == torch.float32
    np.testing.assert_allclose(levels(x), expected, rtol=0, atol=tolerance + 1e-4)


def test_a_transparent_colour_at_16_bits_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deep.png").write_bytes(png(16, 2, [bytes(6)], 1, bytes(6)))
    with pytest.raises(ValueError, match=r"deep.png cannot be read: .*transparent colour"):
        ImageFolder(tmp_path).image(0)


STORED = [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
UPRIGHT = {
    1: STORED,
    2: [[2, 1, 0], [5, 4, 3], [8, 7, 6]],
    3: [[8, 7, 6], [5, 4, 3], [2, 1, 0]],
    4: [[6, 7, 8], [3, 4, 5], [0, 1, 2]],
    5: [[0, 3, 6], [1, 4, 7], [2, 5, 8]],
    6: [[6, 3, 0], [7, 4, 1], [8, 5, 2]],
    7: [[8, 5, 2], [7, 4, 1], [6, 3, 0]],
    8: [[2, 5, 8], [1, 4, 7], [0, 3, 6]],
}


def turned(kind: str, orientation: int, pixels: np.ndarray, **options: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(Image.fromarray(pixels), kind, exif=exif, **options)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_the_orientation_in_exif_turns_the_pixels(orientation: int, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(turned("PNG", orientation, np.array(STORED, dtype=np.uint8) * 30))
    expected = grey(np.array(UPRIGHT[orientation]) * 30)
    np.testing.assert_allclose(levels(ImageFolder(tmp_path).image(0)), expected, atol=1e-4)


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp")])
def test_the_orientation_turns_an_oblong_image_in_every_format(kind: str, suffix: str, tmp_path: Path) -> None:
    pixels = np.zeros((32, 16), dtype=np.uint8)
    pixels[:16] = 200  # stored upright, bright above; orientation 6 shows the upper half on the right
    (tmp_path / f"a.{suffix}").write_bytes(turned(kind, 6, pixels, quality=100))
    x = ImageFolder(tmp_path).batch([0], (1, 2))["x"]
    np.testing.assert_allclose(levels(x[0]), grey([[0, 200]]), atol=3)


# ---- crops and averages -------------------------------------------------------------------------------------------


def write(folder: Path, name: str, pixels: np.ndarray) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(Image.fromarray(pixels), "PNG"))


def averages(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Every pixel repeated until whole blocks of them fill each new cell."""
    fine = pixels.astype(np.float64).repeat(shape[0], 0).repeat(shape[1], 1)
    blocks = fine.reshape(shape[0], pixels.shape[0], shape[1], pixels.shape[1], 3)
    return blocks.mean(axis=(1, 3))


@pytest.mark.parametrize("size", [(6, 10), (10, 6), (7, 10), (5, 5)])
def test_an_image_is_the_central_square(size: tuple[int, int], tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    write(tmp_path, "a.png", pixels)
    n = min(size)
    top, left = (size[0] - n) // 2, (size[1] - n) // 2
    expected = pixels[top : top + n, left : left + n]
    np.testing.assert_allclose(levels(ImageFolder(tmp_path).image(0)), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [
        ((12, 12), slice(0, 12), slice(4, 16)),  # the crop itself
        ((4, 4), slice(0, 12), slice(4, 16)),  # whole pixels per cell
        ((5, 5), slice(0, 12), slice(4, 16)),  # cells that cover pixels in part
        ((7, 11), slice(0, 12), slice(1, 19)),  # 12 * 11 / 7 = 18.9 columns
        ((2, 5), slice(2, 10), slice(0, 20)),  # 20 * 2 / 5 = 8 rows
        ((9, 2), slice(0, 12), slice(9, 11)),  # 12 * 2 / 9 = 2.7 columns
    ],
)
def test_a_batch_is_the_exact_average_of_the_central_crop(
    shape: tuple[int, int], rows: slice, columns: slice, tmp_path: Path
) -> None:
    pixels = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)
    write(tmp_path, "a.png", pixels)
    x = ImageFolder(tmp_path).batch([0], shape)["x"]
    assert x.dtype == torch.float32
    np.testing.assert_allclose(levels(x[0]), averages(pixels[rows, columns], shape), atol=1e-3)


def test_white_stays_one_at_every_resolution(tmp_path: Path) -> None:
    write(tmp_path, "a.png", np.full((30, 30, 3), 255, dtype=np.uint8))
    assert float(ImageFolder(tmp_path).batch([0], (7, 7))["x"].max()) <= 1 + 1e-6


@pytest.mark.parametrize("shape", [(13, 13), (12, 21), (1, 25), (20, 12)])
def test_a_grid_finer_than_the_image_is_refused(shape: tuple[int, int], tmp_path: Path) -> None:
    write(tmp_path, "small.png", np.zeros((12, 20, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match=rf"small.png is 12x20, .* got {shape[0]}x{shape[1]} to fill.*smaller resol"):
        ImageFolder(tmp_path).batch([0], shape)


def test_batches_at_several_resolutions_are_the_single_ones(tmp_path: Path) -> None:
    write(tmp_path, "a.png", RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8))
    write(tmp_path, "b.png", RNG.integers(0, 256, (16, 9, 3), dtype=np.uint8))
    images = ImageFolder(tmp_path)
    first, second = images.batches([1, 0, 1], [(5, 5), (4, 8)])
    assert torch.equal(first["x"], images.batch([1, 0, 1], (5, 5))["x"])
    assert torch.equal(second["x"][1], images.batch([0], (4, 8))["x"][0])
    assert torch.equal(first["x"][0], first["x"][2])


# ---- folders and zips ---------------------------------------------------------------------------------------------

NAMES = ["00000/img00000000.png", "00000/img00000001.png", "00001/img00000002.png", "z.png"]


def fill(folder: Path, labels: object = None) -> Path:
    """Four images, labels, and four files that are to be ignored."""
    rng = np.random.default_rng(1)
    for name in reversed(NAMES):
        write(folder, name, rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    (folder / "README.txt").write_text("not an image")
    (folder / "00000/._img00000000.png").write_bytes(b"the shadow of a file")
    (folder / ".thumbnails").mkdir()
    write(folder, ".thumbnails/z.png", GREY)
    write(folder, "__MACOSX/z.png", GREY)
    return folder


def packed(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder), "zip", folder))


def unpacked(folder: Path) -> Path:
    return folder


either = pytest.mark.parametrize("place", [unpacked, packed])
CLASSES = [[name, k] for k, name in enumerate(NAMES)]


@either
def test_images_come_in_the_order_of_their_names_and_others_are_counted(
    place: Callable[[Path], Path], tmp_path: Path
) -> None:
    images = ImageFolder(place(fill(tmp_path / "in")))
    assert images.names == NAMES
    assert (len(images), images.ignored, images.skipped, images.channels) == (4, 4, 0, 3)
    assert "label" not in images.batch([0], (3, 3))


def test_a_zip_and_its_folder_hold_the_same(tmp_path: Path) -> None:
    folder = fill(tmp_path / "in", CLASSES)
    indices = [3, 0, 2, 2]
    zipped, plain = ImageFolder(packed(folder)), ImageFolder(folder)
    a, b = zipped.batch(indices, (4, 5)), plain.batch(indices, (4, 5))
    assert torch.equal(a["x"], b["x"])
    assert torch.equal(a["label"], b["label"])
    assert torch.equal(zipped.image(1), plain.image(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "in.zip"]  # nothing is extracted


@either
@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (CLASSES, torch.tensor([3, 0, 0])),
        ([[name, [k / 4, 1 - k / 4]] for name, k in CLASSES], torch.tensor([[0.75, 0.25], [0.0, 1.0], [0.0, 1.0]])),
        ([[name.replace("/", "\\"), k] for name, k in CLASSES], torch.tensor([3, 0, 0])),
    ],
)
def test_labels_follow_their_images(
    place: Callable[[Path], Path], labels: list, expected: Tensor, tmp_path: Path
) -> None:
    images = ImageFolder(place(fill(tmp_path / "in", list(reversed(labels)))))
    label = images.batch([3, 0, 0], (3, 3))["label"]
    assert label.dtype == expected.dtype
    assert torch.equal(label, expected)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (CLASSES[1:], "1 images without a label .*img00000000"),
        ([*CLASSES, ["gone.png", 1]], "1 labels without an image .*gone.png"),
        ([*CLASSES, CLASSES[0]], "one label per image"),
        ([*CLASSES[1:], [NAMES[0], 1.5]], "an integer for every image"),
        ([*CLASSES[1:], [NAMES[0], [1]]], "an integer for every image"),
        ([*[[name, [1, 2]] for name in NAMES[1:]], [NAMES[0], [1]]], "equally many numbers"),
        ([[name, None] for name in NAMES], "an integer for every image"),
        ("text", "dataset.json: expected .*labels"),
    ],
)
def test_labels_that_do_not_match_are_refused(labels: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        ImageFolder(fill(tmp_path / "in", labels))


@pytest.mark.parametrize("text", ["{", "[1, 2]", '{"classes": []}'])
def test_another_dataset_json_is_refused(text: str, tmp_path: Path) -> None:
    (fill(tmp_path / "in") / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=r"dataset.json: expected .* rename it"):
        ImageFolder(tmp_path / "in")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone", None, "does not exist"),
        ("list.txt", b"text", "expected a directory or a .zip"),
        ("not.zip", b"text", "is not a zip file"),
        ("empty.zip", b"PK\5\6" + bytes(18), "no image in .*empty.zip"),
    ],
)
def test_a_path_without_images_is_refused(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content) if content is not None else None
    with pytest.raises(ValueError, match=message):
        ImageFolder(tmp_path / name)


def test_an_empty_folder_is_refused_and_says_what_it_ignored(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(ValueError, match=r"no image in .*expected files ending in .png.* got 1 other or hidden files"):
        ImageFolder(tmp_path)


def test_a_zip_that_holds_a_name_twice_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        warnings.simplefilter("ignore", UserWarning)
        archive.writestr("a.png", encode(Image.fromarray(RGB), "PNG"))
        archive.writestr("a.png", encode(Image.fromarray(GREY), "PNG"))
    with pytest.raises(ValueError, match=r"holds a.png more than once"):
        ImageFolder(tmp_path / "a.zip")


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "disk", "a.png", GREY)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/part").symlink_to(tmp_path / "disk")
    assert ImageFolder(tmp_path / "in").names == ["a.png"]  # the root is where the pictures are


def test_a_link_that_leads_in_a_circle_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.png", GREY)
    (tmp_path / "again").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=r"again is a link to a folder that it lies in"):
        ImageFolder(tmp_path)


@pytest.mark.parametrize("index", [-5, 4])
def test_an_index_out_of_range_is_refused(index: int, tmp_path: Path) -> None:
    images = ImageFolder(fill(tmp_path / "in"))
    with pytest.raises(ValueError, match=rf"indices from 0 to 3, got .*{index}"):
        images.batch([0, index], (3, 3))


def test_an_empty_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one index"):
        ImageFolder(fill(tmp_path / "in")).batch([], (3, 3))


def test_an_unknown_way_to_treat_errors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='expected on_error="raise" or "skip", got \'ignore\''):
        ImageFolder(fill(tmp_path / "in"), on_error="ignore")


# ---- broken files -------------------------------------------------------------------------------------------------

PHOTO = RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8)
BROKEN = {
    "img.png": lambda: encode(Image.fromarray(PHOTO), "PNG")[:-900],
    "img.jpg": lambda: encode(Image.fromarray(PHOTO), "JPEG")[:-40],
    "img.webp": lambda: encode(Image.fromarray(PHOTO), "WEBP")[:-40],
    "img.jpeg": lambda: b"<html>404</html>",
    "empty.png": lambda: b"",
    "ppm.png": lambda: encode(Image.fromarray(GREY), "PPM"),
}


@either
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_image_is_named(place: Callable[[Path], Path], name: str, tmp_path: Path) -> None:
    folder = fill(tmp_path / "in")
    (folder / name).write_bytes(BROKEN[name]())
    path = place(folder)
    images = ImageFolder(path)
    with pytest.raises(ValueError, match=rf"{name}.* cannot be read") as error:
        images.batch([images.names.index(name)], (4, 4))
    assert str(path) in str(error.value)


@either
@pytest.mark.parametrize("name", BROKEN)
def test_skipping_leaves_broken_images_out_and_keeps_length_and_labels_true(
    place: Callable[[Path], Path], name: str, tmp_path: Path
) -> None:
    folder = fill(tmp_path / "in", [*CLASSES, [name, 99]])
    whole = ImageFolder(packed(fill(tmp_path / "whole", CLASSES))).batch(range(4), (4, 4))
    (folder / name).write_bytes(BROKEN[name]())
    images = ImageFolder(place(folder), on_error="skip")
    assert (len(images), images.skipped, images.ignored) == (4, 1, 4)
    assert name in images.broken[0]
    batch = images.batch(range(4), (4, 4))
    assert torch.equal(batch["x"], whole["x"])
    assert torch.equal(batch["label"], whole["label"])


def test_nothing_but_broken_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"all 1 images are broken.*a.png"):
        ImageFolder(tmp_path, on_error="skip")


def test_a_damaged_zip_member_is_named(tmp_path: Path) -> None:
    pixels = encode(Image.fromarray(PHOTO), "JPEG")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("b/a.jpg", pixels)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[data.index(pixels) + len(pixels) // 2] ^= 0x10  # in the scan, where JPEG itself notices nothing
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(ValueError, match=r"b/a.jpg in .*a.zip cannot be read: .*CRC"):
        ImageFolder(tmp_path / "a.zip").image(0)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (-1, 0xFF, "Error -3 while decompressing"),  # all of the packed bytes
        (8, 0x01, "encrypted"),  # the directory's flags of the member
        (10, 0x63, "compression"),  # its method
    ],
)
def test_a_zip_member_that_cannot_be_unpacked_is_named(offset: int, value: int, message: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", encode(Image.fromarray(PHOTO), "PNG"))
    data = bytearray((tmp_path / "a.zip").read_bytes())
    directory = data.index(b"PK\1\2")
    start, stop = (30 + len("a.png"), directory) if offset < 0 else (directory + offset, directory + offset + 1)
    data[start:stop] = bytes([value]) * (stop - start)
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(ValueError, match=rf"a.png in .*a.zip cannot be read: .*{message}"):
        ImageFolder(tmp_path / "a.zip").image(0)


def test_pillow_may_not_be_set_to_hide_truncation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    write(tmp_path, "a.png", GREY)
    with pytest.raises(ValueError, match="LOAD_TRUNCATED_IMAGES is set"):
        ImageFolder(tmp_path).image(0)


@either
def test_a_decompression_bomb_is_named(
    place: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in", "bomb.png", np.zeros((40, 40, 3), dtype=np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)  # Pillow raises above twice as many
    with pytest.raises(ValueError, match=r"bomb.png.* cannot be read: .*decompression bomb"):
        ImageFolder(place(tmp_path / "in")).image(0)


def test_a_zip_member_larger_than_any_image_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(16_001))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"bomb.png in .* cannot be read: 16001 bytes are more"):
        ImageFolder(tmp_path / "a.zip").image(0)


# ---- processes ----------------------------------------------------------------------------------------------------


def read(images: ImageFolder, indices: list[int]) -> dict[str, Tensor]:
    return images.batch(indices, (9, 9))


def many(folder: Path) -> Path:
    rng = np.random.default_rng(2)
    for i in range(40):
        write(folder, f"{i:02}.png", rng.integers(0, 256, (99, 99, 3), dtype=np.uint8))
    return packed(folder)


def test_workers_read_a_zip_that_is_open_already(tmp_path: Path) -> None:
    images = ImageFolder(many(tmp_path / "in"))
    expected = read(images, list(range(40)))["x"]
    collate = functools.partial(read, images)
    loader = DataLoader(range(40), batch_size=4, num_workers=2, collate_fn=collate, multiprocessing_context="fork")
    assert torch.equal(torch.cat([batch["x"] for batch in loader]), expected)


def test_a_pickled_copy_reads_the_same(tmp_path: Path) -> None:
    images = ImageFolder(packed(fill(tmp_path / "in", CLASSES)))
    batch = read(images, [2, 0])
    copy = read(pickle.loads(pickle.dumps(images)), [2, 0])
    assert torch.equal(batch["x"], copy["x"])
    assert torch.equal(batch["label"], copy["label"])
