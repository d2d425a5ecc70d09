"""Records of Hugging Face, torchvision and webdataset, indexed or streamed, are the pictures and arrays that they hold."""

from __future__ import annotations

import io

import hugging_face as by_name
import numpy as np
import pytest
import torch
from PIL import Image

from fnodiff import DFU, Box, Model, MultiResolution, Torus, fit
from fnodiff.data import ImageFolder, Records, Stream, WithNumbers
from fnodiff.train import Execution, Logging

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (10, 12, 16, 3), dtype=np.uint8)
WAVES = RANDOM.normal(size=(10, 2, 8, 8))


def png(pixels):
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    """The pictures as files, which say what is right."""
    (tmp_path / "pictures").mkdir()
    for i, pixels in enumerate(PIXELS):
        (tmp_path / "pictures" / f"{i}.png").write_bytes(png(pixels))
    return ImageFolder(tmp_path / "pictures")


def hugging_face():
    datasets = by_name.package()
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(3), "wave": datasets.Array3D((2, 8, 8), "float64")}
    )
    rows = {"image": [{"bytes": png(p), "path": None} for p in PIXELS], "label": [i % 3 for i in range(10)]}
    return datasets.Dataset.from_dict({**rows, "wave": list(WAVES)}, features=features)


def torchvision(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    for i, pixels in enumerate(PIXELS):
        (tmp_path / "classes" / "abc"[i % 3]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "classes" / "abc"[i % 3] / f"{i}.png").write_bytes(png(pixels))
    return torchvision.datasets.ImageFolder(str(tmp_path / "classes"))


def shards(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(str(tmp_path / "shard-%02d.tar"), maxcount=4, verbose=0) as writer:
        for i, pixels in enumerate(PIXELS):
            writer.write({"__key__": f"{i}", "png": png(pixels), "cls": i % 3, "wave.npy": WAVES[i], "id": str(i)})
    return webdataset.WebDataset(str(tmp_path / "shard-{00..02}.tar"), shardshuffle=False)


def same(fields, folder, labels):
    """Pictures and labels of samples 7, 0 and 7 again, on two grids."""
    for shape in [(6, 8), (5, 5)]:
        batch = fields.batch([7, 0, 7], shape)
        torch.testing.assert_close(batch["x"], folder.batch([7, 0, 7], shape)["x"], rtol=0, atol=0)
    assert batch["label"].tolist() == labels and (fields.num_classes, fields.pictures) == (3, True)


@pytest.mark.parametrize("decoded", [True, False])
def test_image_columns_of_hugging_face(folder, decoded):
    rows = hugging_face()
    if not decoded:
        rows = rows.cast_column("image", by_name.package().Image(decode=False))
    same(Records(rows, "image", "label"), folder, [1, 0, 1])


def test_images_of_hugging_face_that_are_paths(tmp_path, folder):
    """As a folder of images gives them with decode=False."""
    places = [{"bytes": None, "path": str(tmp_path / "pictures" / f"{i}.png")} for i in range(10)]
    rows = [{"image": place, "label": i % 3} for i, place in enumerate(places)]
    same(Records(rows, label="label", classes=3), folder, [1, 0, 1])
    rows[4]["image"] = {"bytes": None, "path": "gone.png"}
    with pytest.raises(ValueError, match=r"record 4, 'image': .*No such file.*gone\.png"):
        Records(rows, "image").batch([4], (6, 8))


def test_printed():
    assert repr(Records([{"x": np.zeros((2, 8, 8))}], domain=Torus(2))) == "Records: 1 samples, 2 channels"
    assert repr(Records([PICTURE], "image", "label", classes=3)) == "Records: 1 samples, 3 channels, 3 classes"
    assert repr(Stream(Passes(4), length=4, domain=Torus(1))) == "Stream: 4 samples, 1 channels"


def test_array_columns_of_hugging_face():
    fields = Records(hugging_face(), "wave", domain=Torus(2))
    torch.testing.assert_close(fields.batch([4], (8, 8))["x"][0], torch.from_numpy(WAVES[4]))
    assert (fields.channels, fields.pictures, fields.cell_averages, fields.num_classes) == (2, False, False, 0)


@pytest.mark.parametrize("kind", [">f4", ">f8", ">u2"])
def test_arrays_of_any_byte_order(kind):
    fields = Records([{"u": np.arange(64).reshape(8, 8).astype(kind)}], domain=Torus(2))
    assert fields.batch([0], (8, 8))["x"].flatten().tolist() == list(range(64))
    numbers = np.array([[0.5, 2.0]], dtype=">f4")
    assert WithNumbers(fields, numbers).batch([0], (8, 8))["condition"].tolist() == [[0.5, 2.0]]


def test_streams_of_hugging_face(folder):
    same(
        Stream(hugging_face().to_iterable_dataset(num_shards=2), "image", "label", length=10, shuffle=2),
        folder,
        [1, 0, 1],
    )


def test_data_sets_of_torchvision(tmp_path, folder):
    fields = Records(torchvision(tmp_path), label=1)
    order = [int(path.rpartition("/")[2][:-4]) for path, _ in fields.records.samples]  # by class
    x = fields.batch(range(10), (6, 8))["x"]
    torch.testing.assert_close(x, folder.batch(order, (6, 8))["x"], rtol=0, atol=0)
    assert fields.num_classes == 3 and fields.batch([0, 9], (6, 8))["label"].tolist() == [0, 2]


def test_shards_of_webdataset(tmp_path, folder):
    pictures = shards(tmp_path)
    fields = Stream(pictures, "jpg;png", "cls", classes=3, length=10, shuffle=2, scan=1, condition="id")
    same(fields, folder, [1, 0, 1])
    assert fields.batch([9], (6, 8))["condition"].tolist() == [[9.0]] and fields.condition_names == ("id",)
    waves = Stream(pictures, "wave.npy", domain=Torus(2), length=10)
    torch.testing.assert_close(waves.batch([3], (8, 8))["x"][0], torch.from_numpy(WAVES[3]))


class Passes:
    """Numbers as constant fields, and how many were read."""

    def __init__(self, count):
        self.count, self.read, self.begun = count, 0, 0

    def __iter__(self):
        self.begun += 1
        for i in range(self.count):
            self.read += 1
            yield {"x": np.full((8,), float(i), dtype=np.float32)}


@pytest.mark.parametrize("batch_size", [3, 5])
def test_an_epoch_of_a_stream_is_one_pass(batch_size):
    passes = Passes(30)
    data = MultiResolution(
        Stream(passes, length=30, shuffle=4, scan=2, domain=Torus(1)), Torus(1), [8], batch_size=batch_size
    )
    passes.read = passes.begun = 0
    epochs = [
        [int(v) for step in range(a, b) for v in data[step]["x"][:, 0, 0]] for a, b in [(0, 30 // batch_size)] * 2
    ]
    assert sorted(epochs[0]) == list(range(30)) and epochs[0] == epochs[1], "the same steps, the same batches"
    assert {v // 4 for v in epochs[0][:4]} == {0} and epochs[0] != sorted(epochs[0])
    assert passes.begun == 1 and 56 <= passes.read <= 60, "the first went on where the source had looked"


def test_what_is_measured_is_measured_on_the_first_records():
    passes = Passes(30)
    data = MultiResolution(Stream(passes, length=30, scan=6, shuffle=1, domain=Torus(1)), Torus(1), [8], batch_size=2)
    assert data.samples(2048, (8,))["x"][:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    before = passes.read
    data.samples(4, (8,))
    assert passes.read == before, "they are in memory"


def test_a_model_trains_on_a_stream():
    records = [{"picture": Image.fromarray(pixels)} for pixels in PIXELS]
    data = MultiResolution(Stream(records, shuffle=4), Box(2), [(12, 12)], batch_size=4)
    model = fit(
        Model.for_data(data, DFU.tiny), data, 1, logging=Logging(progress=False), execution=Execution(workers=0)
    )
    assert model.cell_averages and model.training_shapes == ((12, 12),)


def test_a_stream_that_cannot_begin_again_is_refused():
    with pytest.raises(ValueError, match="gone through again, got generator"):
        Stream(({"x": WAVES[i]} for i in range(10)), domain=Torus(2), length=10)
    with pytest.raises(ValueError, match="expected length, shuffle and scan >= 1, got None"):
        Stream(Passes(3), domain=Torus(1))
    with pytest.raises(ValueError, match="ended after 3; pass length=3"):
        Stream(Passes(3), length=4, domain=Torus(1)).batch([3], (8,))


def test_workers_of_a_stream_would_each_see_some_shards(monkeypatch):
    fields = Stream(Passes(3), length=3, domain=Torus(1))
    worker = type("Worker", (), {"num_workers": 2})
    monkeypatch.setattr("fnodiff.data.stream.get_worker_info", lambda: worker)
    with pytest.raises(ValueError, match="one worker at most, got 2"):
        fields.batch([0], (8,))


PICTURE = {"image": Image.fromarray(PIXELS[0]), "label": 2, "wave": WAVES[0]}


@pytest.mark.parametrize(
    ("records", "options", "message"),
    [
        ([PICTURE], {}, r"expected x.*\['image', 'label', 'wave'\]; name one"),
        ([PICTURE], {"x": "picture"}, r"expected 'picture' in a record, which has \['image', 'label', 'wave'\]"),
        ([PICTURE], {"x": "wave"}, "expected a domain, as 'wave' holds arrays.*or read pictures without transforms"),
        ([PICTURE], {"x": "image", "label": "label"}, "expected classes="),
        ([PICTURE], {"x": "image", "label": "label", "classes": 2}, "record 0: expected a label from 0 to 1, got 2"),
        ([PICTURE], {"x": "image", "channels": 4}, "expected channels 1 or 3"),
        ([3.0], {}, "expected x"),
        ([], {}, r"got list; for those that are read one after another write Stream\(records\)"),
        (Passes(3), {}, r"got Passes; for those that are read one after another write Stream\(records\)"),
        ([{"image": b"nothing"}], {"x": "image"}, "record 0, 'image': its bytes are not those of a PNG"),
        ([{"u": np.full((8, 8), np.nan)}], {"domain": Torus(2)}, "record 0, 'u': expected 1 channels of finite values"),
        ([{"u": np.zeros((4, 4))}], {"domain": Torus(2)}, r"expected a grid no finer than \(4, 4\)"),
    ],
)
def test_wrong_records_are_named(records, options, message):
    with pytest.raises(ValueError, match=message):
        Records(records, **options).batch([0], (6, 8))


def test_a_small_picture_is_named():
    with pytest.raises(ValueError, match=r"record 1, 'image': is 12x16, 12x12 after cropping, got 16x16 to fill"):
        Records([PICTURE, PICTURE], "image").batch([1], (16, 16))


def test_grey_and_transparent_pictures():
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    x = Records([{"image": clear}], channels=1).batch([0], (4, 4))["x"]
    assert torch.equal(x, torch.ones(1, 1, 4, 4)), "transparency is white"
    assert Records([(clear, 1)]).channels == 3
