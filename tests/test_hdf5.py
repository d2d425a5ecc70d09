"""HDF5 files of fields: what was written is what is read, in any order, in any process and after any interruption."""

from __future__ import annotations

import functools
import importlib.util
import pickle
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from fnodiff.data import ArrayFields, HDF5Fields, ImageFolder, write_fields
from fnodiff.domain import Box

ATTRIBUTES = {"source": "waves", "licence": "none", "grid": "points", "seed": 3}
GRIDS = [(4, 6), (3, 3)]


class Waves:
    """Samples that depend on their index and the grid alone, in [-1, 1]."""

    channels = 2

    def __init__(self, length: int = 10, *, label: str = "class", field: bool = True, change: Callable = dict) -> None:
        self.length, self.label, self.field, self.change = length, label, field, change
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.length

    def batch(self, indices: Sequence[int], shape: tuple[int, ...]) -> dict[str, Tensor]:
        self.asked += indices
        n = torch.tensor(list(indices))
        out = {"x": torch.stack([self.wave(int(i), 2, shape) for i in n])}
        if self.label:
            out["label"] = n**2 if self.label == "class" else torch.stack([1 / (1 + n), n / (1 + n)], dim=1)
        if self.field:
            out["field"] = torch.stack([self.wave(-int(i) - 1, 1, shape) for i in n])
        return self.change(out)

    def wave(self, index: int, channels: int, shape: tuple[int, ...]) -> Tensor:
        generator = torch.Generator().manual_seed(1000 + index)
        return torch.rand((channels, *shape), generator=generator) * 2 - 1


def write(
    path: Path, source: Waves | None = None, shapes: Sequence[tuple[int, ...]] = GRIDS, **options: object
) -> Path:
    options = {"attributes": ATTRIBUTES, "chunk": 3, "progress": False, **options}
    write_fields(path, Waves() if source is None else source, shapes, **options)
    return path


def contents(path: Path) -> dict[str, bytes]:
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()].tobytes()} if hasattr(item, "shape") else {}))
        return found | {name: str(value).encode() for name, value in file.attrs.items()}


# ---- there and back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", GRIDS)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_masks_come_back_with_their_samples(channels: int, dtype: str, shape: Sequence[int], tmp_path: Path) -> None:
    source = Waves(change=lambda batch: {**batch, "mask": (batch["x"][:, :channels] > 0).float()})
    fields = HDF5Fields(write(tmp_path / "a.h5", source, dtype=dtype))
    assert fields.masked and not HDF5Fields(write(tmp_path / "b.h5")).masked
    expected = source.batch([7, 2, 2], shape)["mask"]
    assert 0 < float(expected.mean()) < 1
    assert torch.equal(fields.batch([7, 2, 2], shape)["mask"], expected)


@pytest.mark.parametrize("shape", [(6, 6), (3, 3)])
def test_arrays_with_missing_values_are_stored_with_their_mask(shape: tuple[int, int], tmp_path: Path) -> None:
    x = torch.rand(4, 1, 6, 6)
    x[1, 0, :3] = torch.nan
    source = ArrayFields(x, domain=Box(2))
    write(tmp_path / "a.h5", source, [(6, 6), (3, 3)], dtype="float32")
    stored, given = HDF5Fields(tmp_path / "a.h5").batch([3, 1], shape), source.batch([3, 1], shape)
    assert stored.keys() == given.keys()
    assert all(torch.equal(stored[key], value) for key, value in given.items())


INDICES = [7, 2, 2, 9, 0, 7]


@pytest.mark.parametrize("shapes", [[(5,), (8,)], GRIDS, [(2, 3, 4), (3, 3, 3)]])
def test_float32_comes_back_as_it_was_in_any_order(shapes: list[tuple[int, ...]], tmp_path: Path) -> None:
    fields = HDF5Fields(write(tmp_path / "a.h5", shapes=shapes, dtype="float32"))
    batch, expected = fields.batch(INDICES, shapes[0]), Waves().batch(INDICES, shapes[0])
    assert batch["x"].dtype == batch["field"].dtype == torch.float32
    assert torch.equal(batch["x"], expected["x"])
    assert torch.equal(batch["field"], expected["field"])
    assert torch.equal(batch["label"], torch.tensor([49, 4, 4, 81, 0, 49]))


def test_uint8_comes_back_rounded_to_the_nearest_level(tmp_path: Path) -> None:
    fields = HDF5Fields(write(tmp_path / "a.h5", dtype="uint8"))
    x, expected = fields.batch(INDICES, (4, 6))["x"], Waves().batch(INDICES, (4, 6))["x"]
    assert x.dtype == torch.float32
    assert float((x - expected).abs().max()) <= 0.5 / 127.5 + 1e-6
    assert torch.equal(x, ((expected.double() + 1) * 127.5).round().float() / 127.5 - 1)


def test_shares_of_classes_come_back_as_they_were(tmp_path: Path) -> None:
    fields = HDF5Fields(write(tmp_path / "a.h5", Waves(label="shares")))
    label = fields.batch(INDICES, (3, 3))["label"]
    assert label.dtype == torch.float32
    assert torch.equal(label, Waves(label="shares").batch(INDICES, (3, 3))["label"])


def test_a_file_says_what_it_holds(tmp_path: Path) -> None:
    fields = HDF5Fields(write(tmp_path / "a.h5"))
    assert (len(fields), fields.channels, fields.condition_channels) == (10, 2, 1)
    assert {key: fields.attributes[key] for key in ATTRIBUTES} == ATTRIBUTES
    assert torch.equal(fields.image(4), fields.batch([4], (4, 6))["x"][0])


def test_the_grids_come_coarsest_first(tmp_path: Path) -> None:
    fields = HDF5Fields(write(tmp_path / "a.h5", shapes=[(10, 10), (9, 3), (6, 6)]))
    assert fields.shapes == [(9, 3), (6, 6), (10, 10)]


def test_what_a_source_lacks_is_not_in_the_batch(tmp_path: Path) -> None:
    fields = HDF5Fields(write(tmp_path / "a.h5", Waves(label="", field=False)))
    assert fields.condition_channels == 0
    assert list(fields.batch([0], (3, 3))) == ["x"]


def test_a_length_writes_the_first_samples(tmp_path: Path) -> None:
    fields = HDF5Fields(write(tmp_path / "a.h5", length=4))
    assert len(fields) == 4
    assert torch.equal(fields.batch(range(4), (3, 3))["label"], torch.tensor([0, 1, 4, 9]))


@pytest.mark.parametrize("length", [0, 11])
def test_a_length_beyond_the_source_is_refused(length: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"from 1 to the source's 10, got {length}"):
        write(tmp_path / "a.h5", length=length)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([-11], "got -11 to -11"),
        ([0, 10], "got 0 to 10"),
        ([], "at least one"),
        ([0.5], "integer"),
        ([True], "integer"),
    ],
)
def test_wrong_indices_are_refused(indices: list, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        HDF5Fields(write(tmp_path / "a.h5")).batch(indices, (3, 3))


def test_a_grid_that_the_file_lacks_is_refused_with_those_it_has(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no grid 5x5, only 3x3, 4x6"):
        HDF5Fields(write(tmp_path / "a.h5")).batch([0], (5, 5))


# ---- processes ----------------------------------------------------------------------------------------------------


def read(fields: HDF5Fields, indices: list[int]) -> dict[str, Tensor]:
    return fields.batch(indices, (4, 6))


def test_workers_read_a_file_that_is_open_already(tmp_path: Path) -> None:
    fields = HDF5Fields(write(tmp_path / "a.h5", Waves(40)))
    expected = read(fields, list(range(40)))
    collate = functools.partial(read, fields)
    loader = DataLoader(range(40), batch_size=4, num_workers=2, collate_fn=collate, multiprocessing_context="fork")
    batches = list(loader)
    assert torch.equal(torch.cat([batch["x"] for batch in batches]), expected["x"])
    assert torch.equal(torch.cat([batch["label"] for batch in batches]), expected["label"])


def test_a_pickled_copy_reads_the_same(tmp_path: Path) -> None:
    fields = HDF5Fields(write(tmp_path / "a.h5"))
    expected = read(fields, [3, 1])["x"]
    assert torch.equal(read(pickle.loads(pickle.dumps(fields)), [3, 1])["x"], expected)


# ---- interruption -------------------------------------------------------------------------------------------------


class Stopped(RuntimeError):
    pass


def stop_at(sample: int) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Interrupts on the second grid, so that the chunk has been half prepared."""

    def change(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if sample**2 in batch["label"] and batch["x"].shape[2:] == GRIDS[1]:
            raise Stopped
        return batch

    return change


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A file of ten samples, interrupted within the third chunk of three."""
    with pytest.raises(Stopped):
        write(tmp_path / "stopped.h5", Waves(change=stop_at(7)))
    return tmp_path / "stopped.h5"


def test_an_incomplete_file_is_refused(stopped: Path) -> None:
    with pytest.raises(ValueError, match=r"incomplete: 6 of 10 samples.*allow_incomplete"):
        HDF5Fields(stopped)


def test_an_incomplete_file_gives_what_it_has_if_allowed(stopped: Path, tmp_path: Path) -> None:
    fields, whole = HDF5Fields(stopped, allow_incomplete=True), HDF5Fields(write(tmp_path / "whole.h5"))
    assert len(fields) == 6
    assert torch.equal(fields.batch(range(6), (4, 6))["x"], whole.batch(range(6), (4, 6))["x"])
    with pytest.raises(ValueError, match=r"indices from 0 to 5, got 6"):
        fields.batch([6], (4, 6))


def test_an_interrupted_file_continues_where_it_stopped(stopped: Path, tmp_path: Path) -> None:
    source = Waves()
    write(stopped, source)
    assert sorted(set(source.asked)) == [0, 6, 7, 8, 9]  # 0 only to compare the layout
    assert contents(stopped) == contents(write(tmp_path / "whole.h5"))


def test_a_complete_file_is_left_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5")
    before, source = path.read_bytes(), Waves()
    with h5py.File(path):  # a reader does not mind
        write(path, source)
    assert set(source.asked) == {0}  # to compare the layout
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (Waves(11), {}, r"3x3/x is \(\(10, 2, 3, 3\).*expected \(\(11, 2, 3, 3\)"),
        (Waves(), {"shapes": [(4, 6)]}, r"3x3/x is .* expected None"),
        (Waves(), {"shapes": [*GRIDS, (5, 5)]}, r"5x5/x is None"),
        (Waves(), {"dtype": "uint8"}, "uint8"),
        (Waves(), {"attributes": {**ATTRIBUTES, "seed": 4}}, "attribute seed is 3, expected 4"),
        (Waves(), {"attributes": {**ATTRIBUTES, "label": "x"}}, "attribute label is None, expected x"),
        (Waves(label=""), {}, "label is "),
        (Waves(label="shares"), {}, "label is "),
        (Waves(field=False), {}, "3x3/field is "),
    ],
)
def test_a_file_is_not_continued_with_something_else(source: Waves, options: dict, message: str, stopped: Path) -> None:
    before = contents(stopped)
    with pytest.raises(ValueError, match=f"not the beginning of the same: .*{message}"):
        write(stopped, source, **options)
    assert contents(stopped) == before


def test_another_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("mine")
    with pytest.raises(ValueError, match="exists and is not an HDF5 file"):
        write(tmp_path / "a.h5")
    assert (tmp_path / "a.h5").read_text() == "mine"


def test_another_hdf5_file_is_not_overwritten(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["3x3/x"] = np.zeros((10, 2, 3, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="is not from write_fields"):
        write(tmp_path / "a.h5")


# ---- what cannot be stored ----------------------------------------------------------------------------------------


def put(
    key: str, value: Callable[[Tensor], Tensor], sample: int = 0
) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Changes one entry of the batches that hold a sample."""
    return lambda b: {**b, key: value(b.get(key, b["x"]))} if sample**2 in b["label"] else b


def spoil(value: float) -> Callable[[Tensor], Tensor]:
    def change(x: Tensor) -> Tensor:
        x = x.clone()
        x[-1, 1, 2, 2] = value
        return x

    return change


@pytest.mark.parametrize(
    ("change", "dtype", "message"),
    [
        (put("x", spoil(1.002), 5), "uint8", r"4x6/x, sample 5: expected finite values in \[-1, 1\].* got 1.00"),
        (put("x", spoil(-1.002), 5), "uint8", r"4x6/x, sample 5: .*got -1.00"),
        (put("x", spoil(float("nan")), 5), "uint8", "4x6/x, sample 5: .*nan"),
        (put("x", spoil(float("inf")), 5), "float32", "4x6/x, sample 5: expected finite values, got inf"),
        (put("x", Tensor.long), "uint8", "expected 4x6/x as floats, got int64"),
        (put("x", lambda x: x[:, :1]), "uint8", r"expected 4x6/x of shape \(1, 2, 4, 6\), got \(1, 1, 4, 6\)"),
        (put("x", lambda x: x[..., :3]), "uint8", r"expected 4x6/x of shape"),
        (put("field", lambda x: x[..., :2]), "uint8", r"expected 4x6/field of shape \(1, 1, 4, 6\)"),
        (put("label", Tensor.double), "uint8", "expected labels as integers"),
        (put("label", lambda n: n[:, None] * torch.nan), "uint8", "finite floats"),
        (put("label", lambda n: n.repeat(2)), "uint8", r"expected label of shape \(1,\), got \(2,\)"),
        (put("time", torch.ones_like), "uint8", r"got \['field', 'label', 'time', 'x'\]"),
        (put("mask", lambda x: x * 0.5), "uint8", "expected 4x6/mask of 1 and 0 alone"),
        (put("mask", lambda x: (x > 0).repeat(1, 3, 1, 1)), "uint8", "expected 4x6/mask of 1 or 2 channels, got 6"),
        (put("mask", lambda x: x[..., :2] > 0), "uint8", r"expected 4x6/mask of shape \(1, 2, 4, 6\)"),
        (
            put("field", lambda x: x.repeat(1, 2, 1, 1), 5),
            "uint8",
            r"samples 3 .. 5 have .*4x6/field uint8 \(2, 4, 6\)",
        ),
        (lambda b: b if 0 in b["label"] else {"x": b["x"], "label": b["label"]}, "uint8", "and the first has .*field"),
        (
            lambda b: b if b["x"].shape[-1] == 6 else {**b, "label": b["label"] + 1},
            "uint8",
            "same label on every grid",
        ),
    ],
)
def test_what_would_be_lost_is_refused(change: Callable, dtype: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "a.h5", Waves(change=change), dtype=dtype)


@pytest.mark.parametrize(("value", "level"), [(1.0009, 1.0), (-1.0009, -1.0)])
def test_rounding_errors_beyond_one_are_forgiven(value: float, level: float, tmp_path: Path) -> None:
    fields = HDF5Fields(write(tmp_path / "a.h5", Waves(1, change=put("x", spoil(value))), dtype="uint8"))
    assert float(fields.image(0)[1, 2, 2]) == level


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attributes": {"source": "a", "grid": "points"}}, "expected attributes source, licence and grid"),
        ({"attributes": {**ATTRIBUTES, "grid": "pixels"}}, "one of .*cell averages"),
        ({"attributes": {**ATTRIBUTES, "complete": 3}}, "no version or complete"),
        ({"attributes": {**ATTRIBUTES, "list": [1]}}, "text or numbers"),
        ({"shapes": []}, "shapes of 1 to 3 positive sizes"),
        ({"shapes": [(3, 0)]}, "positive sizes"),
        ({"shapes": [(3, 3), (3,)]}, "as many axes"),
        ({"shapes": [(3, 3), (3, 3)]}, "none twice"),
        ({"dtype": "float16"}, r"expected dtype among .*got 'float16'"),
        ({"chunk": 0}, "at least one sample"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "a.h5", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the folder .*gone does not exist"):
        write(tmp_path / "gone/a.h5")


# ---- files of other hands -----------------------------------------------------------------------------------------

GOOD = {"3x3/x": np.zeros((5, 2, 3, 3), np.uint8), "4x4/x": np.ones((5, 2, 4, 4), np.uint8)}


def by_hand(path: Path, data: dict[str, np.ndarray], **attributes: object) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in data.items():
            file[name] = values
        file.attrs.update(attributes)
    return path


def test_a_file_of_this_layout_made_by_hand_is_read(tmp_path: Path) -> None:
    data = {**GOOD, "label": np.arange(5, dtype=np.uint8)}
    batch = HDF5Fields(by_hand(tmp_path / "a.h5", data)).batch([4, 3], (4, 4))
    assert torch.equal(batch["x"], torch.full((2, 2, 4, 4), 1 / 127.5 - 1))
    assert torch.equal(batch["label"], torch.tensor([4, 3]))


@pytest.mark.parametrize(
    ("data", "attributes", "message"),
    [
        ({}, {}, "found no dataset"),
        ({"images": np.zeros((5, 3))}, {}, r'named "32x32/x".* found images \(5, 3\) float64'),
        ({"label": np.arange(5)}, {}, 'at least one dataset "<shape>/x"'),
        ({**GOOD, "time/3x3": GOOD["3x3/x"]}, {}, "found .*time/3x3"),
        ({**GOOD, "3x3/mask": GOOD["3x3/x"]}, {}, "a mask, on every grid"),
        ({"3x3/x": GOOD["3x3/x"], "3x3/mask": GOOD["3x3/x"][:4]}, {}, "as many samples in x, field, mask"),
        ({"3x3/x": GOOD["3x3/x"], "3x3/mask": np.ones((5, 3, 3, 3), np.uint8)}, {}, "a mask of 1 or 2 channels"),
        ({"3x3/x": GOOD["3x3/x"], "3x3/mask": np.ones((5, 1, 3, 3), np.float32)}, {}, r"3x3/mask as uint8 \(N"),
        (
            {"3x4/x": GOOD["3x3/x"]},
            {},
            r"expected 3x4/x as uint8 or float32 or float64 \(N, C, 3, 4\), found 3x4/x \(5, 2, 3, 3\)",
        ),
        ({"3x3/x": np.zeros((5, 2, 3, 3), np.int32)}, {}, "uint8 or float32"),
        ({**GOOD, "5x5/x": np.zeros((4, 2, 5, 5), np.uint8)}, {}, "as many samples, channels"),
        ({**GOOD, "5x5/x": np.zeros((5, 3, 5, 5), np.uint8)}, {}, "as many samples, channels"),
        ({**GOOD, "5/x": np.zeros((5, 2, 5), np.uint8)}, {}, "axes on every grid"),
        ({**GOOD, "3x3/field": GOOD["3x3/x"]}, {}, "a field, and a mask, on every grid"),
        ({"3x3/x": GOOD["3x3/x"], "3x3/field": GOOD["3x3/x"][:4]}, {}, "as many samples in x, field"),
        ({**GOOD, "label": np.arange(4)}, {}, "as many samples in x, field, mask and label"),
        ({**GOOD, "label": np.zeros(5)}, {}, "labels as integers"),
        ({**GOOD, "label": np.zeros((5, 2), np.int64)}, {}, "labels as integers"),
        (GOOD, {"grid": "pixels"}, "grid one of"),
        (GOOD, {"version": 3}, "attributes version 1 or 2"),
        (GOOD, {"complete": 6}, "complete from 0 to 5"),
    ],
)
def test_a_file_of_another_layout_is_refused_with_what_was_found(
    data: dict, attributes: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        HDF5Fields(by_hand(tmp_path / "a.h5", data, **attributes))


def test_a_path_that_is_not_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a file"):
        HDF5Fields(tmp_path)


def test_a_file_that_is_not_hdf5_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("text")
    with pytest.raises(ValueError, match="is not an HDF5 file"):
        HDF5Fields(tmp_path / "a.h5")


# ---- datasets/ffhq.py ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ffhq() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ffhq", Path(__file__).parents[1] / "datasets/ffhq.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "in/00000").mkdir(parents=True)
    for i in range(5):
        Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(tmp_path / f"in/00000/{i:05}.png")
    return tmp_path / "in"


def test_the_script_writes_the_averages_of_a_folder_or_zip(ffhq: ModuleType, photos: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(photos), "zip", photos)
    ffhq.main([str(photos), str(tmp_path / "a.h5"), "--resolutions", "5", "8"])
    ffhq.main([archive, str(tmp_path / "b.h5"), "--resolutions", "5", "8"])
    fields, images = HDF5Fields(tmp_path / "a.h5"), ImageFolder(photos)
    assert (len(fields), fields.shapes, fields.attributes["grid"]) == (5, [(5, 5), (8, 8)], "cell averages")
    difference = fields.batch(range(5), (5, 5))["x"] - images.batch(range(5), (5, 5))["x"]
    assert float(difference.abs().max()) <= 0.5 / 127.5 + 1e-5
    assert contents(tmp_path / "a.h5") == contents(tmp_path / "b.h5")


def test_the_script_skips_limits_and_states_what_the_images_are(
    ffhq: ModuleType, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (photos / "00000/00001.png").write_bytes(b"broken")
    out = tmp_path / "a.h5"
    names = ["--name", "LSUN Church", "--licence", "see its site"]
    ffhq.main([str(photos), str(out), "--resolutions", "5", "--limit", "3", "--on-error", "skip", *names])
    fields, images = HDF5Fields(out), ImageFolder(photos)
    assert (len(fields), fields.attributes["source"], fields.attributes["licence"]) == (3, names[1], names[3])
    expected = images.batch([0, 2, 3], (5, 5))["x"]
    assert float((fields.batch(range(3), (5, 5))["x"] - expected).abs().max()) <= 0.5 / 127.5 + 1e-5
    assert "00001.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--resolutions", "13"], "averaging cannot invent detail"),
        (["--resolutions", "5", "--limit", "6"], "from 1 to the source's 5"),
        (["--resolutions", "5", "--name", "LSUN"], "both --name and --licence"),
    ],
)
def test_the_script_ends_with_a_message_on_a_mistake(
    extra: list[str], message: str, ffhq: ModuleType, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stop:
        ffhq.main([str(photos), str(tmp_path / "a.h5"), *extra])
    assert stop.value.code != 0
    assert message in capsys.readouterr().err


def test_the_script_does_not_continue_with_other_images(
    ffhq: ModuleType, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = [str(photos), str(tmp_path / "a.h5"), "--resolutions", "5"]
    ffhq.main(arguments)
    (photos / "00000/00003.png").rename(photos / "00000/99999.png")
    with pytest.raises(SystemExit):
        ffhq.main(arguments)
    assert "attribute names_sha256 is" in capsys.readouterr().err
