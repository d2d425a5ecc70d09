"""Pictures as people have them: modes, formats, animations, damaged metadata, folders that are classes, small ones."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fnodiff.data import ImageFolder

GREY = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
COLOUR = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def save(folder: Path, name: str, image: Image.Image, **options: object) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    image.save(folder / name, **options)
    return folder


def shown(path: Path, **options: object) -> np.ndarray:
    """The levels (8, 8, channels) of the only picture of a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = ImageFolder(path, **options).batch([0], (8, 8))["x"][0]
    return ((x + 1) * 127.5).movedim(0, -1).numpy()


def sixteen(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.astype(np.uint16))


def palette() -> Image.Image:
    image = Image.fromarray((np.arange(64).reshape(8, 8) % 4).astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    return image


REPEATED = np.repeat(GREY[..., None], 3, 2)
FLAGS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]])[np.arange(64).reshape(8, 8) % 4]
ALPHA = Image.fromarray(np.dstack([COLOUR, np.full((8, 8), 51, np.uint8)]), "RGBA")
KINDS = {
    "grey": ("a.png", Image.fromarray(GREY), REPEATED),
    "grey tiff": ("a.tif", Image.fromarray(GREY), REPEATED),
    "bits": ("a.png", Image.fromarray(GREY > 99), 255 * (REPEATED > 99)),
    "bits tiff": ("a.tiff", Image.fromarray(GREY > 99), 255 * (REPEATED > 99)),
    "grey with alpha": (
        "a.png",
        Image.fromarray(np.dstack([GREY, np.full((8, 8), 51, np.uint8)]), "LA"),
        255 + 0.2 * (REPEATED - 255.0),
    ),
    "alpha": ("a.png", ALPHA, 255 + 0.2 * (COLOUR - 255.0)),
    "alpha tiff": ("a.tif", ALPHA, 255 + 0.2 * (COLOUR - 255.0)),
    "16 bit": ("a.png", sixteen(GREY * 257.0 + 128), REPEATED + 128 / 257),
    "16 bit tiff": ("a.tif", sixteen(GREY * 257.0 + 128), REPEATED + 128 / 257),
    "palette": ("a.png", palette(), FLAGS),
    "palette tiff": ("a.tif", palette(), FLAGS),
    "gif": ("a.gif", palette(), FLAGS),
    "bmp": ("a.bmp", Image.fromarray(COLOUR), COLOUR),
    "tiff": ("a.TIF", Image.fromarray(COLOUR), COLOUR),
    "cmyk tiff": (
        "a.tif",
        Image.fromarray(np.full((8, 8, 4), [255, 0, 0, 51], np.uint8), "CMYK"),
        np.full((8, 8, 3), [0, 204, 204]),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_shown_as_it_is_meant(kind: str, tmp_path: Path) -> None:
    name, image, levels = KINDS[kind]
    save(tmp_path, name, image, **({"format": "TIFF"} if "TIF" in name else {}))
    np.testing.assert_allclose(shown(tmp_path), levels, atol=0.51)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_may_be_asked_for_in_grey(kind: str, tmp_path: Path) -> None:
    name, image, levels = KINDS[kind]
    save(tmp_path, name, image, **({"format": "TIFF"} if "TIF" in name else {}))
    np.testing.assert_allclose(shown(tmp_path, channels=1)[..., 0], levels @ [0.299, 0.587, 0.114], atol=0.51)


@pytest.mark.parametrize(("order", "photometric"), [("<", 0), ("<", 1), (">", 1)])
def test_16_bit_tiffs_of_any_byte_order_and_polarity(order: str, photometric: int, tmp_path: Path) -> None:
    values = (GREY * 257.0).astype(f"{order}u2")
    tags = [
        (256, 3, 8),
        (257, 3, 8),
        (258, 3, 16),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8),
        (277, 3, 1),
        (278, 3, 8),
    ]
    tags += [(279, 4, 128)]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + 128)
    pack = {3: f"{order}HHIHH", 4: f"{order}HHII"}
    entries = b"".join(
        struct.pack(pack[kind], tag, kind, 1, value, *([0] if kind == 3 else [])) for tag, kind, value in tags
    )
    file = head + values.tobytes() + struct.pack(f"{order}H", len(tags)) + entries + b"\0\0\0\0"
    (tmp_path / "a.tif").write_bytes(file)
    expected = REPEATED if photometric == 1 else 255 - REPEATED
    np.testing.assert_allclose(shown(tmp_path), expected, atol=0.01)


def test_floating_point_pictures_are_no_pictures(tmp_path: Path) -> None:
    save(tmp_path, "a.tif", Image.fromarray(GREY.astype(np.float32)))
    with pytest.raises(ValueError, match=r"a\.tif cannot be read: .*no range.*ArrayFields"):
        shown(tmp_path)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.tif", "a.png"])
def test_of_several_frames_the_first_is_taken_and_that_is_said_once(name: str, tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), level, np.uint8)) for level in (255, 0, 128)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    images = ImageFolder(tmp_path)
    with pytest.warns(UserWarning, match=rf"{name} has several frames or pages: .*the first is taken") as said:
        x = images.batch([0, 0], (8, 8))["x"]
    assert len(said) == 1
    assert float(x.min()) > 0.97


# ---- damaged metadata ---------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes, wrong: int = 0) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ wrong)


PNG_PARTS = {
    "text with a wrong checksum": chunk(b"tEXt", b"Title\0x", 1),
    "compressed text of nonsense": chunk(b"zTXt", b"Title\0\0nonsense"),
    "text without an end": chunk(b"iTXt", b"no separator"),
    "profile of nonsense": chunk(b"iCCP", b"name\0\0nonsense"),
    "a large text": chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21))),
    "exif of nonsense": chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
    "a short gamma": chunk(b"gAMA", b"\0"),
    "a short physical size": chunk(b"pHYs", b"\0"),
}


@pytest.mark.parametrize("part", PNG_PARTS)
def test_a_png_with_damaged_metadata(part: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(COLOUR).save(buffer, "PNG")
    data = buffer.getvalue()
    (tmp_path / "a.png").write_bytes(data[:33] + PNG_PARTS[part] + data[33:])  # behind the header
    np.testing.assert_allclose(shown(tmp_path), COLOUR, atol=0.01)


def segment(marker: int, data: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


JPEG_PARTS = {
    "exif of nonsense": segment(0xE1, b"Exif\0\0nonsense"),
    "exif that is cut": segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff"),
    "exif that points beyond": segment(0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff"),
    "profile of nonsense": segment(0xE2, b"ICC_PROFILE\0\x05\x01nonsense"),
    "several pictures of nonsense": segment(0xE2, b"MPF\0nonsense"),
    "photoshop's of nonsense": segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0"),
}


@pytest.mark.parametrize("part", JPEG_PARTS)
def test_a_jpeg_with_damaged_metadata(part: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(REPEATED).save(buffer, "JPEG", quality=95)
    data = buffer.getvalue()
    (tmp_path / "a.jpg").write_bytes(data[:2] + JPEG_PARTS[part] + data[2:])
    np.testing.assert_allclose(shown(tmp_path), np.asarray(Image.open(buffer)), atol=0.01)


def test_damaged_pixels_are_still_an_error(tmp_path: Path) -> None:
    save(tmp_path, "a.png", Image.fromarray(COLOUR))
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[60] ^= 255
    (tmp_path / "a.png").write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"a\.png cannot be read"):
        shown(tmp_path)


# ---- folders ------------------------------------------------------------------------------------------------------


def classes(folder: Path, names: list[str]) -> Path:
    for name in names:
        save(folder, f"{name}.png", Image.fromarray(COLOUR))
    return folder


def zipped(folder: Path, path: Path, top: str = "", extra: dict[str, str] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, top + file.relative_to(folder).as_posix())
        for name, text in (extra or {}).items():
            archive.writestr(name, text)
    return path


@pytest.mark.parametrize("top", ["", "animals/", "data/animals/"])
def test_folders_are_classes_in_a_folder_and_in_a_zip(top: str, tmp_path: Path) -> None:
    folder = classes(tmp_path / "in", ["dog/1", "cat/1", "cat/2", "bird/x/1"])
    path = zipped(folder, tmp_path / "a.zip", top, {"__MACOSX/._a.png": "x", ".DS_Store": "x"})
    for images in (ImageFolder(folder), ImageFolder(path)):
        assert images.classes == ["bird", "cat", "dog"]
        assert images.names == ["bird/x/1.png", "cat/1.png", "cat/2.png", "dog/1.png"]
        assert images.batch([3, 0], (8, 8))["label"].tolist() == [2, 0]
        assert (images.num_classes, images.labels.dtype) == (3, torch.int64)
        assert "3 classes" in repr(images)
    assert ImageFolder(folder, labels="none").num_classes == 0


@pytest.mark.parametrize(
    "names",
    [["a", "b"], ["a", "cat/b"], ["00000/1", "01000/2"], ["train/1", "test/2"], ["cat/1", "cat/2"]],
    ids=["flat", "mixed", "parts", "splits", "one"],
)
def test_other_folders_are_no_classes(names: list[str], tmp_path: Path) -> None:
    images = ImageFolder(classes(tmp_path, names))
    assert (images.classes, images.labels, images.num_classes) == (None, None, 0)


def test_folders_called_by_numbers_are_classes_when_asked_for(tmp_path: Path) -> None:
    assert ImageFolder(classes(tmp_path, ["00/1", "01/1", "01/2"]), labels="folders").labels.tolist() == [0, 1, 1]
    assert ImageFolder(classes(tmp_path / "digits", ["0/1", "1/1"])).num_classes == 2
    with pytest.raises(ValueError, match="two folders or more"):
        ImageFolder(classes(tmp_path / "flat", ["a", "b"]), labels="folders")


@pytest.mark.parametrize("top", ["", "set/"])
def test_a_list_of_labels_may_lie_in_the_only_folder_of_a_zip(top: str, tmp_path: Path) -> None:
    folder = classes(tmp_path / "in", ["00000/a", "00000/b"])
    labels = json.dumps({"labels": [["00000/a.png", 1], ["00000/b.png", 4]]})
    images = ImageFolder(zipped(folder, tmp_path / "a.zip", top, {f"{top}dataset.json": labels}))
    assert images.labels.tolist() == [1, 4]
    assert images.batch([1], (4, 4))["x"].shape == (1, 3, 4, 4)


# ---- small ones ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=["folder", "zip"])
def mixed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    for name, (width, height) in {"a": (20, 20), "small": (6, 40), "b": (16, 30), "tiny": (4, 4)}.items():
        save(folder, f"{name}.png", Image.new("RGB", (width, height)))
    return folder if request.param == "folder" else zipped(folder, tmp_path / "a.zip")


def test_small_pictures_are_named_or_left_out(mixed: Path) -> None:
    with pytest.raises(
        ValueError, match=r"fill 8x8 .*got 2 of 4 that do not: .*small\.png.* is 40x6, .*tiny\.png.* is 4x4"
    ):
        ImageFolder(mixed, smallest=8)
    images = ImageFolder(mixed, smallest=(8, 8), on_error="skip")
    assert (images.names, images.skipped) == (["a.png", "b.png"], 2)
    assert any("tiny.png" in message and "is 4x4, smaller than 8x8" in message for message in images.broken)
    assert images.batch(slice(None), (8, 8))["x"].shape == (2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"smallest=\(8, 8\), on_error=\"skip\""):
        ImageFolder(mixed).batch([2], (8, 8))


def test_turned_pictures_are_measured_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path, "a.jpg", Image.new("RGB", (16, 8)), exif=exif)  # upright 16 high, 8 wide
    assert len(ImageFolder(tmp_path, smallest=(16, 8))) == 1
    with pytest.raises(ValueError, match="is 16x8"):
        ImageFolder(tmp_path, smallest=(8, 16))
