"""datasets/portraits.py draws functions, fixed by style and seed; datasets/check.py finds what two files share."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from fnodiff import Box
from fnodiff.data import ArrayFields, HDF5Fields, MultiResolution, write_fields

FOLDER = Path(__file__).parents[1] / "datasets"
BOX = Box(2)


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"datasets_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# ---- portraits ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def portraits() -> Iterator[ModuleType]:
    """The script; a style, which takes most of a second to read, is read once."""
    dicebear, read = pytest.importorskip("dicebear"), {}
    pytest.importorskip("resvg_py")
    style = dicebear.Style

    def once(definition: dict) -> object:
        text = json.dumps(definition)
        if text not in read:
            read[text] = style(definition)
        return read[text]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dicebear, "Style", once)
        yield script("portraits")


@pytest.fixture(params=["micah", "open-peeps"])
def style(request: pytest.FixtureRequest) -> str:
    return request.param


class TestPortraits:
    def test_a_coarse_grid_is_the_mean_of_a_fine_one(self, portraits: ModuleType, style: str) -> None:
        source = portraits.Portraits(style, 5)
        coarse, odd, fine = source.batches([4, 0], [(16, 16), (24, 24), (48, 48)])
        torch.testing.assert_close(BOX.average(fine["x"], (16, 16)), coarse["x"], atol=1e-5, rtol=0)
        torch.testing.assert_close(BOX.average(fine["x"], (24, 24)), odd["x"], atol=1e-5, rtol=0)
        assert torch.equal(source.batch([0], (16, 16))["x"], coarse["x"][1:])
        torch.testing.assert_close(source.picture(4).mean((1, 2)), coarse["x"][0].mean((1, 2)), atol=1e-5, rtol=0)
        assert float(fine["x"].abs().max()) <= 1 and float(fine["x"].std()) > 0.3

    def test_the_same_arguments_are_the_same_pictures(self, portraits: ModuleType, style: str) -> None:
        first = portraits.Portraits(style, 3).batch([2, 1], (48, 48))["x"]
        assert torch.equal(portraits.Portraits(style, 99).batch([1], (48, 48))["x"], first[1:])
        assert float((first[0] - first[1]).std()) > 0.1

    def test_held_out_pictures_are_others(self, portraits: ModuleType, style: str) -> None:
        seen, held_out = (portraits.Portraits(style, 3, held_out=held) for held in (False, True))
        x, y = (source.batch(range(2), (24, 24))["x"] for source in (seen, held_out))
        distances = torch.cdist(x.flatten(1), y.flatten(1))
        assert float(distances.min()) > 1
        assert not set(map(str, map(seen.options, range(3)))) & set(map(str, map(held_out.options, range(3))))

    def test_styles_differ(self, portraits: ModuleType) -> None:
        x, y = (portraits.Portraits(style, 1).batch([0], (24, 24))["x"] for style in portraits.OPTIONS)
        assert float((x - y).std()) > 0.1

    def test_it_is_a_source_of_cell_averages(self, portraits: ModuleType) -> None:
        source = portraits.Portraits("micah", 4)
        data = MultiResolution(source, BOX, [16], batch_size=2)
        assert data.cell_averages and data[0]["x"].shape == (2, source.channels, 16, 16)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda p: p.Portraits("oil"), "expected a style of .*micah.*, got 'oil'"),
            (lambda p: p.Portraits("micah", 3).picture(3), "index from 0 to 2, got 3"),
            (lambda p: p.Portraits("micah", 3).picture(-1), "got -1"),
        ],
    )
    def test_bad_input(self, portraits: ModuleType, call, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            call(portraits)

    def test_missing_packages_are_named(self, portraits: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "dicebear", None)
        with pytest.raises(ValueError, match=r"pip install 'fnodiff\[datasets\]'"):
            portraits.Portraits("micah")

    def test_the_script_writes_the_pictures_and_says_whose_they_are(
        self, portraits: ModuleType, style: str, tmp_path: Path
    ) -> None:
        portraits.main([str(tmp_path / "a.h5"), "--style", style, "--count", "2", "--resolutions", "16", "24"])
        fields, source = HDF5Fields(tmp_path / "a.h5"), portraits.Portraits(style, 2)
        assert fields.shapes == [(16, 16), (24, 24)] and fields.cell_averages
        assert torch.equal(fields.batch([1], (24, 24))["x"], source.batch([1], (24, 24))["x"])
        assert (fields.attributes["source"], fields.attributes["licence"]) == (source.source, source.licence)
        assert "drawn by dicebear" in source.source and source.licence.strip(": ")

    def test_the_script_continues_with_the_same_pictures_alone(
        self, portraits: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        arguments = [str(tmp_path / "a.h5"), "--count", "1", "--resolutions", "16"]
        portraits.main(arguments)
        before = (tmp_path / "a.h5").read_bytes()
        portraits.main(arguments)
        with pytest.raises(SystemExit) as stopped:
            portraits.main([*arguments, "--held-out"])
        assert stopped.value.code == 1 and "attribute pictures is" in capsys.readouterr().err
        assert (tmp_path / "a.h5").read_bytes() == before


# ---- check --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def check() -> ModuleType:
    return script("check")


def written(path: Path, x: Tensor, shapes: list[tuple[int, int]]) -> Path:
    about = {"source": "a test", "licence": "none", "grid": "cell averages"}
    write_fields(path, ArrayFields(x, domain=BOX), shapes, attributes=about, dtype="float32", progress=False)
    return path


def files(folder: Path, *planted: tuple[int, int], change: float = 0.0) -> list[str]:
    """Two files of random fields, all of mean zero, with samples (i, j) planted: j of the second is i of the first."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(n, 2, 8, 8, generator=generator) for n in (20, 12))
    first, second = (x - x.mean((1, 2, 3), keepdim=True) for x in (first, second))
    for i, j in planted:
        second[j] = first[i] + change * torch.randn(2, 8, 8, generator=generator)
    paths = written(folder / "a.h5", first, [(4, 4), (8, 8)]), written(folder / "b.h5", second, [(8, 8)])
    return [str(path) for path in paths]


class TestCheck:
    def test_it_passes_where_nothing_is_shared(
        self, check: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        check.main(files(tmp_path))
        assert "20 and 12 samples; in both: 0" in capsys.readouterr().out

    @pytest.mark.parametrize("planted", [[(3, 7)], [(0, 0), (19, 11)], [(3, 7), (3, 8)]])
    def test_it_names_what_is_shared_and_fails(
        self, check: ModuleType, planted: list[tuple[int, int]], tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        with pytest.raises(SystemExit) as stopped:
            check.main(files(tmp_path, *planted))
        said = capsys.readouterr()
        assert stopped.value.code == 1
        assert f"in both: {len(planted)}" in said.out and str(planted) in said.err

    @pytest.mark.parametrize(("change", "found"), [(0.0, 1), (3e-4, 1), (3e-3, 0)])
    def test_a_thousandth_of_the_spread_is_the_same(
        self, check: ModuleType, change: float, found: int, tmp_path: Path
    ) -> None:
        first, second = map(HDF5Fields, files(tmp_path, (5, 2), change=change))
        assert check.shared(first, second) == [(5, 2)] * found

    def test_files_are_compared_on_their_finest_common_grid(self, check: ModuleType, tmp_path: Path) -> None:
        x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        detail = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)  # that no mean over cells of four keeps
        paths = [written(tmp_path / f"{k}.h5", x + k * detail, [(4, 4), (8, 8)]) for k in range(2)]
        coarse = written(tmp_path / "coarse.h5", x, [(2, 2), (4, 4)])
        assert check.shared(HDF5Fields(paths[0]), HDF5Fields(paths[1])) == []
        assert check.shared(HDF5Fields(paths[1]), HDF5Fields(coarse)) == [(0, 0)]

    def test_files_without_a_common_grid_are_refused(
        self, check: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        paths = [str(written(tmp_path / f"{n}.h5", torch.randn(2, 1, 8, 8), [(n, n)])) for n in (4, 8)]
        with pytest.raises(SystemExit) as stopped:
            check.main(paths)
        assert stopped.value.code == 1 and "expected a grid that both files have" in capsys.readouterr().err
