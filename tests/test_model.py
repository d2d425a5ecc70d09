"""Model: what it takes, what it chooses for data, and that what is saved is what is read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
from waves import FIELD_UNITS, SMALLEST, UNITS, model

from fnodiff import (
    DFU,
    EDM,
    RBF,
    VP,
    Box,
    DPMSolver,
    EDMScaling,
    FunctionSpaceSDE,
    GaussianRandomField,
    Heun,
    Matern,
    Model,
    MultiResolution,
    PixelNoise,
    SpectralScaling,
    Sphere,
    Torus,
    WhiteNoise,
    checkpoint,
    sample,
)
from fnodiff.cli.convert import convert
from fnodiff.data import ArrayFields
from fnodiff.model import included
from fnodiff.sde import (
    ChannelSpectra,
    DataSpectrum,
    Noise,
    Normalization,
    Scaled,
    Scaling,
    fit_spectra,
    fit_spectrum,
    noise_levels,
)

BOX = Box(2)
SDE = FunctionSpaceSDE(WhiteNoise(BOX, (12, 12)), EDM())
LAW = Matern(1.0, 0.3)
tiny = partial(DFU.tiny, **SMALLEST)
periodic = partial(tiny, boundary="periodic")  # as the first house's


def fields(domain, shape, channels=1, count=32, law=LAW):
    field = GaussianRandomField(domain, law)
    return field.sample((count, channels, *shape), generator=torch.Generator().manual_seed(0))


class Recorder(torch.nn.Module):
    """A network that keeps what it is built with and what it sees."""

    def __init__(self, inputs, outputs, **told):
        super().__init__()
        self.inputs, self.outputs, self.told, self.seen = inputs, outputs, told, {}
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, x, noise_level, **condition):
        self.seen = {"x": x, "noise_level": noise_level, **condition}
        return self.weight * x[:, : self.outputs]


def recorded(channels=1, scaling=None, **options):
    """A model of a recorder."""
    scaling = EDMScaling() if scaling is None else scaling
    return Model(Recorder(scaling.inputs(channels), channels), SDE, scaling, channels=channels, **options)


class TestModel:
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: Model(DFU, SDE, EDMScaling()), r"expected a network, got .*DFU.small\(3, 3\)"),
            (lambda: Model("DFU", SDE, EDMScaling()), r"expected a network, got 'DFU'; pass such as DFU.small"),
            (lambda: Model(tiny(1, 1), SDE, EDMScaling), r"expected a scaling, got .*EDMScaling\(sigma_data=0.5\)"),
            (lambda: Model(tiny(1, 1, domain=Torus(2)), SDE, EDMScaling()), "one domain for both"),
            (
                lambda: Model(tiny(2, 1), SDE, EDMScaling(linear_estimate=True)),
                "as EDMScaling needs it.*Model.for_data",
            ),
            (lambda: Model(tiny(1, 1), SDE, SpectralScaling((12, 12))), "as SpectralScaling needs it"),
            (lambda: Model(tiny(3, 2), SDE, EDMScaling()), "takes 2 channels for fields of 2.*got 3; build it with 2"),
            (
                lambda: Model(tiny(3, 3), SDE, EDMScaling(linear_estimate=True), spectrum=LAW),
                "takes 6 channels for fields of 3.*build it with 6 input channels",
            ),
            (lambda: Model(tiny(1, 1), SDE, EDMScaling(), channels=2), "takes 2 channels for fields of 2"),
            (
                lambda: Model(tiny(1, 1), SDE, EDMScaling(), condition_normalization={"label": UNITS}),
                r"for field and condition, got \['label'\]; labels have no units",
            ),
        ],
    )
    def test_what_does_not_fit_is_refused_with_the_mend(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()

    def test_channels_are_the_networks_where_it_has_any(self):
        assert Model(tiny(2, 2), SDE, EDMScaling()).channels == 2
        assert Model(torch.nn.Identity(), SDE, EDMScaling()).channels is None

    def test_conditions_reach_the_network_in_its_units(self):
        made = recorded(condition_normalization={"field": FIELD_UNITS})
        field, label, free = torch.full((2, 1, 12, 12), 430.0), torch.tensor([0, 1]), torch.full((2, 3), 7.0)
        made(torch.zeros(2, 1, 12, 12), torch.full((2,), 0.5), field=field, label=label, condition=free)
        torch.testing.assert_close(made.network.seen["field"], torch.full((2, 1, 12, 12), 2.0))  # (430 - 350) / 40
        assert torch.equal(made.network.seen["label"], label)
        assert torch.equal(made.network.seen["condition"], free)

    def test_conditions_come_in_the_networks_precision(self):
        made = recorded(condition_normalization={"field": FIELD_UNITS}).to(torch.bfloat16)
        field, label = torch.zeros(2, 1, 12, 12, dtype=torch.float64), torch.tensor([0, 1])
        made(torch.zeros(2, 1, 12, 12), torch.full((2,), 0.5), field=field, label=label)
        precisions = {name: value.dtype for name, value in made.network.seen.items()}
        assert precisions == {**dict.fromkeys(("x", "noise_level", "field"), torch.bfloat16), "label": torch.int64}

    def test_conditions_left_out_are_their_mean(self):
        made = recorded(condition_normalization={"field": FIELD_UNITS})
        left_out = made.without({"field": torch.zeros(2, 1, 12, 12), "label": torch.tensor([1, 2])}, ["field", "label"])
        made(torch.zeros(2, 1, 12, 12), torch.full((2,), 0.5), **left_out)
        torch.testing.assert_close(made.network.seen["field"], torch.zeros(2, 1, 12, 12))
        assert made.network.seen["label"].tolist() == [-1, -1]

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
    @pytest.mark.parametrize("scaling", [EDMScaling(0.5, linear_estimate=True), SpectralScaling((12, 12))], ids=str)
    def test_it_works_in_every_precision(self, dtype, scaling):
        torch.manual_seed(0)
        net = tiny(scaling.inputs(1), 1, condition_channels=1, zero_init=False)
        units = {"field": Normalization(101_325.0, 1000.0)}  # infinite in half precision, if it were applied there
        made = Model(net, SDE, scaling, spectrum=LAW, condition_normalization=units).eval()
        x_t, t = SDE.prior((2, 1, 12, 12), generator=torch.Generator().manual_seed(0)), torch.full((2,), 0.6)
        field = 101_325 + 1000 * torch.randn(2, 1, 12, 12)
        with torch.no_grad():
            expected = made(x_t, t, field=field)
            out = made.to(dtype)(x_t, t, field=field)
        assert out.dtype == torch.float32, "the state's own"
        precision = {torch.float64: 1e-4, torch.float32: 0.0, torch.bfloat16: 0.1, torch.float16: 0.02}[dtype]
        assert float((out - expected).norm() / expected.norm()) <= precision

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_large_units_survive_half_precision(self, dtype):
        torch.manual_seed(0)
        units = Normalization(101_325.0, 1000.0)
        made = Model(tiny(1, 1), SDE, EDMScaling(1.0), normalization=units).eval()
        expected = sample(made, (12, 12), [0], solver=DPMSolver(3))
        out = sample(made.to(dtype), (12, 12), [0], solver=DPMSolver(3))
        assert 101_325 - 5000 < float(out.mean()) < 101_325 + 5000
        torch.testing.assert_close(out, expected, rtol=0, atol=100.0)  # a tenth of the standard deviation


def images(**options):
    x = 3 + 2 * fields(BOX, (16, 16), channels=2)
    return MultiResolution(ArrayFields(x, **options, domain=BOX), BOX, [16, 12], batch_size=4)


def series(channels=1, smoothness=1.0):
    x = fields(Torus(1), (32,), channels, count=64, law=Matern(smoothness, 0.1))
    return MultiResolution(ArrayFields(x, domain=Torus(1)), Torus(1), [16, 32], batch_size=8)


def spread(made, batches):
    return float(made.normalization(batches.samples(99, max(batches.shapes))["x"]).std())


class TestForData:
    def test_images_have_white_noise_and_the_linear_estimate(self):
        batches = images()
        made = Model.for_data(batches, Recorder)
        assert made.sde == FunctionSpaceSDE(WhiteNoise(BOX, (16, 16)), EDM())
        assert made.scaling == EDMScaling(0.5, linear_estimate=True)
        assert made.cell_averages and made.channels == 2 and made.training_shapes == ((16, 16), (12, 12))
        assert (made.network.inputs, made.network.outputs) == (4, 2)
        assert made.network.told == {"domain": BOX, "reference": (16, 16), "num_classes": 0, "condition_channels": 0}
        assert made.normalization.mean == pytest.approx((3, 3), abs=0.5)
        assert spread(made, batches) == pytest.approx(0.5, rel=0.1)
        x = made.normalization(batches.samples(99, (16, 16))["x"])
        assert made.spectrum == fit_spectrum(x, BOX, cell_averages=True)
        assert made.spectrum != fit_spectrum(x, BOX)

    def test_values_at_points_have_noise_about_as_rough_as_they_are(self):
        batches = series()
        made = Model.for_data(batches, Recorder)
        noise, spectrum = made.sde.noise, made.spectrum
        assert isinstance(spectrum, DataSpectrum) and spectrum.exponent == pytest.approx(3, abs=0.3)  # 2 * 1 + 1
        assert isinstance(noise, GaussianRandomField)
        assert noise.spectrum.smoothness == pytest.approx((spectrum.exponent - 1) / 2 - 0.25), "a little rougher"
        assert noise.spectrum.length_scale == pytest.approx(0.1, rel=0.5)
        assert made.sde.schedule == EDM(*noise_levels(noise, spectrum, (32,)))
        assert made.scaling == EDMScaling(0.5, linear_estimate=True)
        assert not made.cell_averages and made.training_shapes == ((16,), (32,))
        assert made.network.told["reference"] == (32,)

    def test_channels_have_spectra_of_their_own(self):
        batches = series(channels=2)
        made = Model.for_data(batches, Recorder)
        assert isinstance(made.spectrum, ChannelSpectra)
        assert made.spectrum == fit_spectra(made.normalization(batches.samples(99, (32,))["x"]), Torus(1))
        assert isinstance(made.sde.noise.spectrum, ChannelSpectra) and len(made.sde.noise.spectrum.channels) == 2

    @pytest.mark.parametrize("shapes", [[16, 32], [16]], ids=["as stored", "coarser"])
    def test_a_channel_that_is_constant_over_each_sample_has_no_spectrum_of_its_own(self, shapes):
        x = torch.cat([fields(Torus(1), (32,)), torch.randn(32, 1, 1).expand(-1, -1, 32)], 1)
        made = Model.for_data(MultiResolution(ArrayFields(x, domain=Torus(1)), Torus(1), shapes), Recorder)
        assert isinstance(made.spectrum, DataSpectrum) and made.channels == 2

    def test_rough_values_have_white_noise(self):
        assert Model.for_data(series(smoothness=0.2), Recorder).sde.noise == WhiteNoise(Torus(1), (32,))

    def test_fields_on_a_sphere_are_weighed_by_area(self):
        domain, shape = Sphere("equiangular"), (17, 32)
        x = fields(domain, shape) + 10 * domain.points(shape)[0].cos().abs()
        batches = MultiResolution(ArrayFields(x, domain=domain), domain, [shape, (9, 16)], batch_size=16)
        made = Model.for_data(batches, Recorder)
        assert made.normalization.mean == pytest.approx((5.0,), abs=0.3)  # a plain mean is 6.2
        assert made.sde.domain == domain and made.network.told["domain"] == domain
        assert made.training_shapes == ((17, 32), (9, 16)) and made.network.told["reference"] == (17, 32)
        x_t = made.sde.prior((1, 1, *shape))
        assert bool(made(x_t, torch.ones(())).isfinite().all())

    def test_a_conditioning_field_has_units_and_channels(self):
        field = torch.cat([300 + 10 * fields(BOX, (16, 16)), fields(BOX, (16, 16))], dim=1)
        made = Model.for_data(images(field=field), Recorder)
        assert made.network.told["condition_channels"] == 2
        units = made.condition_normalization["field"]
        assert units.mean == pytest.approx((300, 0), abs=3)
        assert units.std == pytest.approx((10, 1), rel=0.3)

    def test_missing_values_count_as_the_mean(self):
        x = 300 + 2 * fields(BOX, (16, 16))
        x[:, :, :3, :3] = torch.nan
        made = Model.for_data(MultiResolution(ArrayFields(x, domain=BOX), BOX, [16]), Recorder)
        variance = BOX.multiplicity((16, 16)) * made.spectrum(BOX.eigenvalues((16, 16)))
        assert float(variance.sum()) == pytest.approx(0.25, rel=0.3)

    def test_classes_are_counted(self):
        made = Model.for_data(images(label=torch.arange(32) % 5), Recorder)
        assert made.network.told["num_classes"] == 5 and made.condition_normalization == {}

    def test_what_is_named_is_not_chosen(self):
        noise, schedule, scaling = PixelNoise(BOX), VP(), SpectralScaling((16, 16), cutoff=8.0)
        batches = images()
        made = Model.for_data(batches, Recorder, noise=noise, schedule=schedule, scaling=scaling)
        assert made.sde == FunctionSpaceSDE(noise, schedule) and made.scaling == scaling
        assert spread(made, batches) == pytest.approx(1.0, rel=0.1), "the scaling's unit"
        assert made.network.inputs == 2

    def test_noise_levels_follow_a_noise_that_is_named(self):
        noise = WhiteNoise(Torus(1), (32,))
        made = Model.for_data(series(), Recorder, noise=noise)
        assert made.sde.schedule == EDM(*noise_levels(noise, made.spectrum, (32,)))

    @pytest.mark.parametrize("batches", [images, series], ids=["images", "series"])
    def test_a_network_for_it_runs_on_any_grid(self, batches):
        made = Model.for_data(batches(), tiny).eval()
        shape = (20, 24)[: made.sde.domain.dim]
        assert sample(made, shape, [0], solver=Heun(2)).shape == (1, made.channels, *shape)


@dataclass(frozen=True)
class Half(Noise):
    """A noise of the user's own."""

    domain: Torus

    def std(self, eigenvalues):
        return torch.full_like(eigenvalues, 0.5)


@dataclass(frozen=True)
class Plain(Scaling):
    """A scaling of the user's own: the network is the estimate."""

    def __call__(self, sde, spectrum, x_t, t):
        return Scaled(torch.zeros_like(x_t), x_t, t.expand(x_t.shape[0]), lambda out: out)

    def loss_weight(self, sde, spectrum, t, shape):
        return torch.ones_like(t)

    def noise_law(self, sde, spectrum):
        return 0.0, 1.0


def assert_same_model(loaded, made):
    """The same in all that it says, and its estimates to the bit."""
    said = ("sde", "scaling", "normalization", "condition_normalization", "spectrum", "cell_averages", "channels")
    for name in (*said, "training_shapes", "sigma_data", "noise_law"):
        assert getattr(loaded, name) == getattr(made, name), name
    assert not loaded.training
    x_t, t = made.sde.prior((2, made.channels, *(14,) * made.sde.domain.dim)), torch.tensor([0.2, 0.9])
    with torch.no_grad():
        assert torch.equal(loaded(x_t, t), made.eval()(x_t, t))


class TestCheckpoint:
    @pytest.mark.parametrize(
        "scaling",
        [
            EDMScaling(0.7),
            EDMScaling(0.5, linear_estimate=True),
            SpectralScaling((12, 12), cutoff=8.0),
            SpectralScaling((12, 12), cutoff=None, linear_estimate=True),
        ],
        ids=str,
    )
    def test_what_is_read_is_what_was_saved(self, tmp_path, scaling):
        spectrum = fit_spectra(fields(BOX, (12, 12), 2), BOX)
        units = {"normalization": Normalization([1.0, 2.0], [3.0, 0.1]), "condition_normalization": {"field": UNITS}}
        made = Model(
            tiny(scaling.inputs(2), 2, zero_init=False), SDE, scaling, spectrum=spectrum, cell_averages=True, **units
        )
        made.training_shapes = ((16, 16), (24, 24))
        folder = made.save_pretrained(tmp_path / "model")
        assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
        assert_same_model(Model.from_pretrained(folder), made)

    @pytest.mark.parametrize(
        "noise",
        [
            WhiteNoise(Torus(1), (16,)),
            PixelNoise(Torus(1, (2.0,))),
            GaussianRandomField(Torus(1), Matern(0.5, 0.1)),
            GaussianRandomField(Box(1), RBF(0.1)),
            GaussianRandomField(Box(1), ChannelSpectra((Matern(0.5, 0.1), Matern(1.0, 0.3)))),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("schedule", [EDM(rho=5.0), VP()], ids=str)
    def test_every_noise_and_schedule(self, tmp_path, noise, schedule):
        factors = {"factorization": "ComplexTucker", "rank": 0.3}
        net = tiny(2, 2, domain=noise.domain, spectral=factors, zero_init=False)
        made = Model(net, FunctionSpaceSDE(noise, schedule), EDMScaling())
        assert_same_model(Model.from_pretrained(made.save_pretrained(tmp_path)), made)

    def test_half_the_bytes_are_loaded_as_float32(self, tmp_path):
        made = Model(tiny(2, 2, zero_init=False), SDE, EDMScaling(0.7))
        half, whole = (
            made.save_pretrained(tmp_path / str(d), dtype=d) / "model.safetensors" for d in (torch.float16, None)
        )
        assert half.stat().st_size < 0.6 * whole.stat().st_size
        loaded = Model.from_pretrained(half.parent)
        assert {p.dtype for p in loaded.parameters()} == {torch.float32}
        for a, b in zip(loaded.parameters(), made.parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)

    def test_the_portraits_come_with_the_package_and_are_in_range(self):
        model = Model.from_pretrained("portraits")
        assert "portraits" in included()
        x = sample(model, 24, [0, 1], solver=DPMSolver(6))
        assert x.shape == (2, 3, 24, 24) and 0.2 < float(x.std()) < 1 and float(x.abs().max()) < 2

    def test_a_model_for_data_comes_back(self, tmp_path):
        made = Model.for_data(images(field=fields(BOX, (16, 16)), label=torch.arange(32) % 3), tiny).eval()
        loaded = Model.from_pretrained(made.save_pretrained(tmp_path))
        condition = {"label": [1, 2], "field": fields(BOX, (16, 16), count=2)}
        x = [sample(m, (20, 20), [0, 1], solver=Heun(3), **condition) for m in (loaded, made)]
        assert torch.equal(*x)
        assert loaded.condition_normalization == made.condition_normalization != {}

    def test_another_model_takes_the_place_of_the_old(self, tmp_path):
        model().save_pretrained(tmp_path)
        model(num_classes=2).save_pretrained(tmp_path)
        assert Model.from_pretrained(tmp_path).network.num_classes == 2

    def test_a_failed_save_leaves_the_old_model_whole(self, tmp_path, monkeypatch):
        model().save_pretrained(tmp_path)

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(safetensors.torch, "save_file", full)
        with pytest.raises(OSError, match="No space"):
            model(num_classes=2).save_pretrained(tmp_path)
        assert Model.from_pretrained(tmp_path).network.num_classes == 0

    def test_a_crash_between_the_two_files_leaves_no_mixture(self, tmp_path, monkeypatch):
        model().save_pretrained(tmp_path)
        other, real = model(), Path.replace
        other.normalization = Normalization([0.0, 0.0], [1.0, 1.0])  # another model with tensors of the same shapes

        def crash(path, target):
            if target.name == checkpoint.MODEL:
                raise OSError("power failure")
            return real(path, target)

        with monkeypatch.context() as patch, pytest.raises(OSError, match="power failure"):
            patch.setattr(Path, "replace", crash)
            other.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"expected config.json and model.safetensors, found"):
            Model.from_pretrained(tmp_path)

    @pytest.mark.parametrize(
        ("noise", "scaling", "own"),
        [(Half(Torus(1)), EDMScaling(), Half), (WhiteNoise(Torus(1), (16,)), Plain(), Plain)],
        ids=["noise", "scaling"],
    )
    def test_own_classes_are_allowed_when_named(self, tmp_path, noise, scaling, own):
        made = Model(tiny(2, 2, domain=Torus(1)), FunctionSpaceSDE(noise, EDM()), scaling)
        made.save_pretrained(tmp_path)
        name = own.__name__
        with pytest.raises(ValueError, match=rf"'{name}' is not allowed.*classes=\[{name}\]"):
            Model.from_pretrained(tmp_path)
        assert_same_model(Model.from_pretrained(tmp_path, classes=[own]), made)

    def test_what_cannot_be_described_is_an_error(self, tmp_path):
        noise = GaussianRandomField(Torus(1), lambda e, d: 1 / (1 + e))
        made = Model(tiny(2, 2, domain=Torus(1)), FunctionSpaceSDE(noise, EDM()), EDMScaling())
        with pytest.raises(ValueError, match="dataclass"):
            made.save_pretrained(tmp_path)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda p: (p / "config.json").unlink(), "found"),
            (lambda p: (p / "model.safetensors").unlink(), "found"),
            (lambda p: (p / "config.json").write_text("{"), "not valid JSON"),
            (lambda p: (p / "config.json").write_text("[]"), "format 3"),
            (lambda p: edit(p, lambda c: c.update(format=4)), r"format 3, got .*'format': 4.*that wrote it"),
            (lambda p: edit(p, lambda c: c["model"].update({"class": "os.system"})), "os.system"),
            (lambda p: edit(p, lambda c: c["model"].update({"extra": 1})), "does not take"),
            (lambda p: edit(p, lambda c: c.update({"model": {"class": "EDM"}})), "expected a Model"),
            (lambda p: edit(p, lambda c: c["model"]["network"].update({"hidden_channels": 16})), "does not fit"),
            (lambda p: tensors(p, lambda t: t.popitem()), "missing"),
            (lambda p: tensors(p, lambda t: t.update(new=torch.ones(1))), "left over new"),
            (lambda p: (p / "model.safetensors").write_bytes(b"\x80\x04garbage"), "not a readable safetensors"),
            (
                lambda p: (p / "model.safetensors").write_bytes((p / "model.safetensors").read_bytes()[:-50]),
                "not a readable",
            ),
        ],
    )
    def test_broken_models(self, tmp_path, spoil, message):
        model().save_pretrained(tmp_path)
        spoil(tmp_path)
        with pytest.raises(ValueError, match=message):
            Model.from_pretrained(tmp_path)

    def test_no_such_folder(self, tmp_path):
        with pytest.raises(ValueError, match="expected a folder"):
            Model.from_pretrained(tmp_path / "missing")

    def test_interrupted_writing_leaves_the_old_file(self, tmp_path):
        model().save_pretrained(tmp_path)
        before = (tmp_path / "model.safetensors").read_bytes()

        def fail(new):
            new.write_bytes(b"half")
            raise OSError("disk full")

        with pytest.raises(OSError, match="disk full"):
            checkpoint.replace_file(tmp_path / "model.safetensors", fail)
        assert (tmp_path / "model.safetensors").read_bytes() == before
        assert len(list(tmp_path.iterdir())) == 2


def edit(path, change):
    config = json.loads((path / "config.json").read_text())
    change(config)
    (path / "config.json").write_text(json.dumps(config))


def tensors(path, change):
    contents = safetensors.torch.load_file(path / "model.safetensors")
    change(contents)
    safetensors.torch.save_file(contents, path / "model.safetensors")


# ---- models of the format before ----------------------------------------------------------------------------------


def old_dfu(net, **change):
    """The description of a DFU in format 2."""
    described = checkpoint.describe(net)
    assert described.pop("boundary") == "periodic"  # there was no other
    levels = "moving" if described["reference"] is None else "fixed"
    return {**described, "levels": levels, "antialias": False, "recompute": False, **change}


def old_model(net, **change):
    """The description of a model with a noise level per point in format 2."""
    plain = {"class": "Normalization", "mean": 0.0, "std": 1.0}
    described = {
        "class": "Preconditioned",
        "backbone": old_dfu(net),
        "sde": checkpoint.describe(SDE),
        "sigma_data": 0.5,
    }
    described |= {"spectrum": None, "told": "point", "normalization": plain, "field_normalization": plain}
    return {**described, **change}


def written(folder, described, net, shapes=((12, 12),)):
    """A folder of format 2, as the first house left it."""
    folder.mkdir()
    config = {"format": 2, "model": described, "training_shapes": [list(shape) for shape in shapes]}
    (folder / "config.json").write_text(json.dumps(config))
    taps = net.config["local"] == "operator"
    old = {
        "backbone." + (name.replace(".local.", ".operator.") if taps else name): value.contiguous()
        for name, value in net.state_dict().items()
    }
    units = {f"{owner}normalization.{part}": torch.ones(1) for owner in ("", "field_") for part in ("mean", "std")}
    safetensors.torch.save_file({**old, **units}, folder / "model.safetensors")
    return folder


def spectral(net, shown, **change):
    """The description of a model with a noise level per mode in format 2, on a box of sides 1 and 2."""
    sde = FunctionSpaceSDE(WhiteNoise(Box(2, (1.0, 2.0)), (12, 12)), EDM())
    described = {"class": "SpectralPreconditioned", "reference": [12, 12], "cutoff": 8.0, "shown": shown}
    described |= {"sde": checkpoint.describe(sde), "spectrum": checkpoint.describe(LAW)}
    left = {"backbone": old_dfu(net), "normalization": None, "field_normalization": None}
    return {**described, **left, **change}


class TestConvert:
    def test_the_format_before_is_refused_with_the_command(self, tmp_path):
        net = periodic(1, 1)
        folder = written(tmp_path / "old", old_model(net), net)
        with pytest.raises(ValueError, match=rf"got format 2; convert it: fnodiff convert {folder} NEW_FOLDER"):
            Model.from_pretrained(folder)

    @pytest.mark.parametrize(
        "options",
        [{}, {"reference": (12, 12)}, {"reference": (12, 12), "local": "operator"}, {"condition_channels": 1}],
        ids=str,
    )
    def test_a_level_per_point(self, tmp_path, options):
        net = periodic(2, 1, zero_init=False, **options)
        spectrum, units = LAW, Normalization([2.0], [3.0])
        parts = {"spectrum": spectrum, "normalization": units, "field_normalization": FIELD_UNITS}
        described = old_model(net, **{name: checkpoint.describe(part) for name, part in parts.items()})
        made = convert(written(tmp_path / "old", described, net, [(8, 8), (12, 12)]), tmp_path / "new")
        assert made.scaling == EDMScaling(0.5, linear_estimate=True) and made.spectrum == spectrum
        assert made.normalization == units and made.training_shapes == ((8, 8), (12, 12))
        assert made.condition_normalization == ({"field": FIELD_UNITS} if net.condition_channels else {})
        assert checkpoint.describe(made.network) == checkpoint.describe(net)
        assert all(torch.equal(value, net.state_dict()[name]) for name, value in made.network.state_dict().items())
        loaded = Model.from_pretrained(tmp_path / "new")
        assert all(torch.equal(value, made.state_dict()[name]) for name, value in loaded.state_dict().items())

    def test_levels_that_moved_have_no_reference(self, tmp_path):
        net = periodic(1, 1)
        described = old_model(net, backbone=old_dfu(net, reference=[12, 12], levels="moving"))
        assert convert(written(tmp_path / "old", described, net), tmp_path / "new").network.config["reference"] is None

    @pytest.mark.parametrize("shown", [False, True])
    def test_a_level_per_mode(self, tmp_path, shown):
        net = periodic(2 if shown else 1, 1, domain=Box(2, (1.0, 2.0)))
        made = convert(written(tmp_path / "old", spectral(net, shown), net), tmp_path / "new")
        # 8 cycles per unit length are 16 over the longest side.
        assert made.scaling == SpectralScaling((12, 12), cutoff=16.0, linear_estimate=shown)

    @pytest.mark.parametrize(("channels", "given", "averages"), [(3, None, True), (1, None, False), (1, True, True)])
    def test_images_are_cell_averages(self, tmp_path, channels, given, averages):
        net = periodic(channels, channels)
        folder = written(tmp_path / "old", old_model(net), net)
        assert convert(folder, tmp_path / "new", cell_averages=given).cell_averages == averages

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda m: m.update(told="mode"), "noise level per point"),
            (lambda m: m.update({"class": "Other"}), "got Other"),
            (lambda m: m["backbone"].update(antialias=True), "train it anew"),
            (lambda m: m["backbone"].update(local="both"), "train it anew"),
            (lambda m: m["backbone"].update(hidden_channels=16), "does not fit"),
        ],
    )
    def test_what_cannot_be_converted_leaves_nothing(self, tmp_path, change, message):
        net = periodic(1, 1)
        described = old_model(net)
        change(described)
        with pytest.raises(ValueError, match=message):
            convert(written(tmp_path / "old", described, net), tmp_path / "new")
        assert not (tmp_path / "new").exists()

    def test_a_folder_with_a_model_is_not_written_over(self, tmp_path):
        net = periodic(1, 1)
        folder = written(tmp_path / "old", old_model(net), net)
        convert(folder, tmp_path / "new")
        with pytest.raises(ValueError, match="a folder without a model"):
            convert(folder, tmp_path / "new")

    def test_what_is_no_old_model_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"expected config.json in"):
            convert(tmp_path, tmp_path / "new")
        model().save_pretrained(tmp_path / "now")
        with pytest.raises(ValueError, match=r"of format 2 in .*, got format 3"):
            convert(tmp_path / "now", tmp_path / "new")
