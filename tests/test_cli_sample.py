"""`fnodiff sample` and `fnodiff upscale`: what they write, and how they go on."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from command import SMALL, close, drawn, run
from PIL import Image
from torch.nn.functional import interpolate

from fnodiff import (
    DFU,
    EDM,
    Box,
    DPMSolver,
    EDMScaling,
    FunctionSpaceSDE,
    GaussianRandomField,
    Heun,
    Matern,
    Model,
    Torus,
    sample,
    sde,
    upscale,
)
from fnodiff.cli.drawing import SampleFolder, Samples, read_picture
from fnodiff.data import ArrayFields, HDF5Fields, write_fields


class TestSample:
    def test_images_are_the_samplers_and_a_stopped_run_goes_on(self, models, tmp_path, capsys):
        options = ["--seeds", "0-2,7", "--out", tmp_path, "--batch", 3]
        assert drawn("sample", models / "images", "--size", 16, "24x16", *options) == 0
        files = sorted(file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.png"))
        assert files == [f"{size}/seed-{i:06d}.png" for size in ("16x16", "24x16") for i in (0, 1, 2, 7)]
        said = capsys.readouterr().out
        assert "of the values lay beyond [-1, 1] and were clipped" in said and "4 samples at 16x16, 24x16" in said
        x = sample(Model.from_pretrained(models / "images"), (24, 16), [0, 1, 2, 7], solver=DPMSolver(3))
        found = torch.stack([read_picture(tmp_path / file) for file in files[4:]])
        assert float((found - x.clamp(-1, 1)).abs().max()) <= 1.01 / 127.5
        lost, kept = tmp_path / "16x16" / "seed-000001.png", tmp_path / "16x16" / "seed-000002.png"
        before, stamp = read_picture(lost), kept.stat().st_mtime_ns
        lost.unlink()
        assert drawn("sample", models / "images", "--size", "16", *options) == 0
        apart = (read_picture(lost) - before).abs()  # alone in its batch: the same but for rounding
        assert float(apart.max()) <= 1.01 / 127.5 and float((apart > 0).float().mean()) < 0.01
        assert kept.stat().st_mtime_ns == stamp

    def test_fields_keep_their_values_and_a_stopped_run_goes_on(self, models, tmp_path, monkeypatch, capsys):
        arguments = [models / "fields", *"--size 16 --seeds 3-7 --solver heun --batch 2 --out".split(), tmp_path]
        draw, calls = Samples.batch, []

        def stopped(self, indices, shape):
            calls.append([self.seeds[i] for i in indices])
            if len(calls) == 3:
                raise KeyboardInterrupt
            return draw(self, indices, shape)

        monkeypatch.setattr(Samples, "batch", stopped)
        assert drawn("sample", *arguments) == 130
        assert capsys.readouterr().err == "fnodiff sample: stopped; the same command goes on where it was\n"
        calls.extend([[]] * 3)
        assert drawn("sample", *arguments) == 0
        assert [3, 4] in calls[:3] and [3, 4] not in calls[6:] and [5, 6] in calls[6:], (
            "what is there is not drawn again"
        )
        x = sample(Model.from_pretrained(models / "fields"), 16, range(3, 8), solver=Heun(3))
        there = SampleFolder(tmp_path, "hdf5")
        torch.testing.assert_close(there.load((16, 16), range(3, 8)), x, rtol=1e-3, atol=2e-3)
        torch.testing.assert_close(there.load((16, 16), [6, 4]), x[[3, 1]], rtol=1e-3, atol=2e-3)
        fields = HDF5Fields(tmp_path / "16x16-seeds-3-7.h5")
        assert fields.attributes["seeds"] == "3,4,5,6,7" and fields.attributes["solver"] == repr(Heun(3))
        assert fields.attributes["grid"] == "points"

    def test_the_plan_is_the_librarys_unless_another_is_named(self, room, tmp_path, capsys):
        model = Model.from_pretrained(room / "run")
        options = ["--config", room / "small.toml", "--seeds", 0, "--no-quiet"]
        for name, more, plan in (("a", [], None), ("b", ["--plan", "direct"], sde.Direct())):
            assert run("sample", room / "run", "--size", 32, *options, *more, "--out", tmp_path / name) == 0
            x = sample(model, 32, [0], solver=DPMSolver(3), plan=plan)[0]
            found = read_picture(tmp_path / name / "32x32" / "seed-000000.png")
            assert float((found - x.clamp(-1, 1)).abs().max()) <= 1.01 / 127.5
        said = capsys.readouterr().err
        assert (
            "24x24 (1 steps, then its modes below 18x18 held), 32x32" in said and "DPMSolver: 32x32 (2 steps)" in said
        )

    def test_progress_counts_what_was_there(self, models, tmp_path, capsys):
        command = ["sample", models / "images", "--size", 16, "--steps", 1, "--device", "cpu", "--out", tmp_path]
        assert run(*command, "--seeds", 0) == 0
        assert re.search(r"16x16: 100%.* 1/1 ", capsys.readouterr().err)
        assert run(*command, "--seeds", "0-2") == 0
        assert re.search(r"16x16:  33%.* 1/3 .*16x16: 100%.* 3/3 ", capsys.readouterr().err, re.DOTALL)

    def test_classes_and_guidance(self, models, tmp_path):
        conditions = {
            "0": [0],
            "1": [1],
            "none": [-1],
            "guided": [1, "--guidance", 3],
            "unguided": [1, "--guidance", 1],
        }
        for name, (label, *more) in conditions.items():
            options = ["--size", 16, "--seeds", 0, "--format", "hdf5", "--out", tmp_path / name]
            assert drawn("sample", models / "classes", *options, "--label", label, *more) == 0
        x = {name: SampleFolder(tmp_path / name, "hdf5").load((16, 16), [0]) for name in conditions}
        assert torch.equal(x["unguided"], x["1"])
        others = [x[name] for name in ("0", "1", "none", "guided")]
        assert min(float((a - b).abs().max()) for i, a in enumerate(others) for b in others[:i]) > 1e-3
        model = sde.ClassifierFree(Model.from_pretrained(models / "classes"), 3.0)
        torch.testing.assert_close(
            x["guided"], sample(model, 16, [0], solver=DPMSolver(3), label=1), rtol=1e-3, atol=2e-3
        )

    def test_other_settings_want_another_folder(self, models, tmp_path, capsys):
        options = [models / "images", "--size", 16, "--seeds", 0, "--out", tmp_path]
        assert drawn("sample", *options) == 0
        for more in ([], ["--eta", 0.5], ["--plan", "direct"], ["--format", "hdf5"]):
            assert drawn("sample", *options, *more, steps=3 if more else 4) == 2
            assert "name another --out" in capsys.readouterr().err

    def test_another_model_wants_another_folder(self, models, tmp_path, capsys):
        model = Model.from_pretrained(models / "images")
        next(model.parameters()).data.mul_(1.001)
        model.save_pretrained(tmp_path / "other")
        assert drawn("sample", models / "images", "--size", 16, "--seeds", 0, "--out", tmp_path / "out") == 0
        assert drawn("sample", tmp_path / "other", "--size", 16, "--seeds", 0, "--out", tmp_path / "out") == 2
        assert "got model" in capsys.readouterr().err

    def test_classes_of_the_users_own(self, room, tmp_path, capsys, monkeypatch):
        code = "from dataclasses import dataclass\nfrom fnodiff import WhiteNoise\n\n"
        code += "@dataclass(frozen=True)\nclass Half(WhiteNoise):\n    def std(self, e):\n        return 0.5 * super().std(e)\n"
        (tmp_path / "own_noise.py").write_text(code)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        from own_noise import Half

        process = FunctionSpaceSDE(Half(Box(2), (16, 16)), EDM())
        Model(DFU.tiny(3, 3, **SMALL), process, EDMScaling()).save_pretrained(tmp_path / "model")
        options = ["--size", 16, "--seeds", 0, "--out"]
        assert drawn("sample", "model", *options, "a") == 2
        assert "'Half' is not allowed" in capsys.readouterr().err
        assert drawn("sample", "model", *options, "b", "--classes-from", "own_noise.py") == 0
        assert drawn("sample", "model", *options, "c", "--classes-from", "own_noise") == 0
        files = [tmp_path / name / "16x16-seeds-0-0.h5" for name in "bc"]
        assert all(file.is_file() for file in files)
        train = ["--shapes", 16, "--batch", 2, "--init", "model", "--out", "run", "--classes-from", "own_noise.py"]
        for steps in (1, 2):
            assert drawn("train", room / "pictures", *train, steps=steps) == 0


class TestUpscale:
    def test_a_picture(self, room, tmp_path, capsys):
        picture = room / "pictures" / "03.png"
        options = ["--size", 48, "--from", 16, "--seeds", "4,5", "--out", tmp_path]
        assert drawn("upscale", room / "run", picture, *options) == 0
        whole = read_picture(picture)
        low = Box(2).average(whole[None, :, 2:38], (16, 16))
        x = upscale(Model.from_pretrained(room / "run"), low, 48, [4, 5], solver=DPMSolver(3))
        for seed, one in zip((4, 5), x, strict=True):
            assert close(tmp_path / "48x48" / f"seed-{seed:06d}.png", one)
        assert close(tmp_path / "low.png", low[0])
        assert close(tmp_path / "bicubic-48x48.png", interpolate(low, size=(48, 48), mode="bicubic")[0])
        assert Image.open(tmp_path / "comparison-48x48.png").size == (4 * 48, 48)

    def test_the_crop_is_said_and_the_picture_is_not_made_smaller(self, room, tmp_path, capsys):
        options = ["--size", "48x72", "--seeds", 0, "--steps", 1, "--device", "cpu", "--out", tmp_path]
        assert run("upscale", room / "run", room / "pictures" / "00.png", *options) == 0
        assert "00.png: 40x36 pixels, cropped at the centre to 24x36\n" in capsys.readouterr().out
        assert close(tmp_path / "low.png", read_picture(room / "pictures" / "00.png")[:, 8:32])

    def test_a_field(self, models, tmp_path):
        x = GaussianRandomField(Torus(2), Matern(1.0)).sample((3, 2, 16, 16))
        about = {"source": "here", "licence": "none", "grid": "points"}
        source = ArrayFields(x, domain=Torus(2))
        write_fields(tmp_path / "f.h5", source, [(8, 8), (16, 16)], attributes=about, dtype="float32", progress=False)
        options = ["--size", 32, "--seeds", "0-1", "--index", 2, "--out", tmp_path / "out"]
        assert drawn("upscale", models / "fields", tmp_path / "f.h5", *options) == 0
        found = SampleFolder(tmp_path / "out", "hdf5").load((32, 32), [0, 1])
        expected = upscale(Model.from_pretrained(models / "fields"), x[2], 32, [0, 1], solver=DPMSolver(3))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-3)
        np.savez(tmp_path / "f.npz", u=x.movedim(1, -1).numpy(), other=np.zeros(2))
        options[-1] = tmp_path / "arrays"
        assert (
            drawn("upscale", models / "fields", tmp_path / "f.npz", "--x", "u", "--channel-axis", "-1", *options) == 0
        )
        torch.testing.assert_close(SampleFolder(options[-1], "hdf5").load((32, 32), [0, 1]), found)

    @pytest.mark.parametrize(
        ("place", "index", "said"), [((), 3, "--index from 0 to 2"), ((2, 0, 4, 4), 2, "missing values in sample 2")]
    )
    def test_a_field_that_is_not_there(self, place, index, said, models, tmp_path, capsys):
        x = np.zeros((3, 2, 16, 16))
        x[place] = np.nan if place else 0.0
        np.save(tmp_path / "f.npy", x)
        options = ["--size", 32, "--seeds", 0, "--index", index, "--out", tmp_path / "out"]
        assert drawn("upscale", models / "fields", tmp_path / "f.npy", *options) == 2
        assert said in capsys.readouterr().err

    def test_another_picture_wants_another_folder(self, room, tmp_path, capsys):
        options = ["--size", 48, "--from", 16, "--seeds", 0, "--out", tmp_path]
        assert drawn("upscale", room / "run", room / "pictures" / "03.png", *options, steps=1) == 0
        assert drawn("upscale", room / "run", room / "pictures" / "04.png", *options, steps=1) == 2
        assert "got upscaled" in capsys.readouterr().err
