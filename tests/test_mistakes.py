"""Mistakes of a first hour: what once went on in silence is refused, warned of, or simply works."""

from __future__ import annotations

import os
import signal
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import Drawn
from refused import BOX, FIELD, NAN, ORACLE, SDE, TORUS, T, X, data, draw, model, net, refused

from fnodiff import (
    DFU,
    EDM,
    Box,
    Cascade,
    DenoisingLoss,
    DPMSolver,
    EDMScaling,
    FunctionSpaceSDE,
    GaussianRandomField,
    Matern,
    Model,
    MultiResolution,
    Progressive,
    Sphere,
    Torus,
    WhiteNoise,
    fit,
    sample,
    upscale,
)
from fnodiff.cli.app import main
from fnodiff.data import ArrayFields, ImageFolder, InMemory, Part, Upsampled
from fnodiff.sde import ChannelSpectra, GaussianDenoiser, Solver, fit_spectrum
from fnodiff.sde.denoiser import evaluating
from fnodiff.train import Logging, MovingAverage, Preview

LABELS = torch.zeros(2).long()
QUIET = Logging(progress=False)


class Given:
    """A source that gives what a function makes of indices and shape."""

    channels = 1

    def __init__(self, make) -> None:
        self.make = make

    def __len__(self) -> int:
        return 4

    def batch(self, indices, shape):
        return self.make(len(indices), shape)


@dataclass(frozen=True)
class Steps(Solver):
    """A solver whose steps are those of a function."""

    make: object = None

    def step(self, denoiser, x_t, t, s, memory, noise):
        return self.make(x_t)


def trained(make):
    return MultiResolution(Given(make), BOX, [8, 16], batch_size=2)


def x_of(count, shape, channels=1):
    return torch.randn(count, channels, *shape)


def arrays(domain, **options):
    return ArrayFields(np.random.default_rng(0).normal(size=(4, 1, 16, 16)).astype("float32"), domain=domain, **options)


def spectrum_of(law):
    return lambda: GaussianRandomField(BOX, law).sample((1, 1, 8, 8))


def paired():
    """A model with a conditioning field."""
    return Model.for_data(MultiResolution(arrays(BOX, field=X.new_ones(4, 1, 16, 16).normal_()), BOX, [16]), tiny())


def tiny():
    return partial(DFU.tiny, num_blocks=0)


# What is wrong, what it says.
CALLS = {
    # sources
    "a source of one grid": (
        lambda: trained(lambda n, s: {"x": x_of(n, (16, 16))}),
        r"\(2, 1, 8, 8\), and tensors of 2 rows",
    ),
    "a source of other rows": (
        lambda: trained(lambda n, s: {"x": x_of(n + 1, s)}),
        r"got x torch.float32 \(3, 1, 8, 8\)",
    ),
    "a source of other channels": (
        lambda: trained(lambda n, s: {"x": x_of(n, s, 3)}),
        r"got x torch.float32 \(2, 3, 8, 8\)",
    ),
    "a source of arrays": (lambda: trained(lambda n, s: {"x": x_of(n, s).numpy()}), r"Given.batch.*got x ndarray"),
    "a source of tensors": (lambda: trained(x_of), r"return a dict with x.*got torch.float32 \(2, 1, 8, 8\)"),
    "a source of something else": (lambda: trained(lambda n, s: {"y": x_of(n, s)}), r"dict with x.*got y"),
    "a source without a channel axis": (
        lambda: trained(lambda n, s: {"x": x_of(n, s)[:, 0]}),
        r"got x torch.float32 \(2, 8, 8\)",
    ),
    "a source of whole numbers": (lambda: trained(lambda n, s: {"x": x_of(n, s).byte()}), r"got x torch.uint8"),
    "labels of other rows": (
        lambda: trained(lambda n, s: {"x": x_of(n, s), "label": LABELS[:1]}),
        r"label torch.int64 \(1,\)",
    ),
    "one mask for all samples": (
        lambda: trained(lambda n, s: {"x": x_of(n, s), "mask": torch.ones(1, 1, *s)}),
        r"MultiResolution: expected Given.batch to return a mask \(B, .*mask torch.float32 \(1, 1, 8, 8\)",
    ),
    "one mask for all samples to keep": (
        lambda: InMemory(Given(lambda n, s: {"x": x_of(n, s), "mask": torch.ones(1, 1, *s)}), [(8, 8)]),
        r"InMemory: expected Given.batch to return a mask.*a mask of all samples is mask.expand_as\(x\)",
    ),
    "masks of another grid": (
        lambda: trained(lambda n, s: {"x": x_of(n, s), "mask": torch.ones(n, 1, 16, 16)}),
        r"a mask \(B, 1 or C, \*shape\) on the grid of x",
    ),
    "masks of other channels": (
        lambda: InMemory(Given(lambda n, s: {"x": x_of(n, s), "mask": torch.ones(n, 3, *s)}), [(8, 8)]),
        r"InMemory: expected Given.batch to return a mask",
    ),
    "a source of tensors to keep": (
        lambda: InMemory(Given(x_of), [(8, 8)]),
        r"InMemory: expected Given.batch to return a dict",
    ),
    "a path for a source": (
        lambda: MultiResolution("pictures", BOX, [16]),
        r"got 'pictures'; write such as ImageFolder",
    ),
    "a class for a source": (lambda: MultiResolution(ImageFolder, BOX, [16]), r"a source of fields.*ImageFolder\("),
    "a tensor for a source": (lambda: InMemory(X, [16]), r"InMemory: expected a source of fields.*got Tensor"),
    "periodic fields in a box": (lambda: MultiResolution(arrays(TORUS), BOX, [8]), r"ArrayFields on Torus.*one domain"),
    "part of them": (
        lambda: MultiResolution(Part(arrays(TORUS), [0]), BOX, [8]),
        r"Part on Torus.*one domain for both",
    ),
    "the other globe": (
        lambda: MultiResolution(
            ArrayFields(np.zeros((2, 8, 16), "float32"), domain=Sphere()), Sphere("equiangular"), [(8, 16)]
        ),
        r"one domain for both",
    ),
    "no samples": (lambda: ArrayFields(np.zeros((0, 1, 8, 8)), domain=BOX), r"with values, got \(0, 1, 8, 8\)"),
    "pictures on a line": (lambda: MultiResolution(arrays(BOX), Box(1), [8]), r"expected fields on Box\(dim=1"),
    "a shape for a domain": (lambda: MultiResolution(Drawn(2), (16, 16), [16]), r"pass such as Box\(2\)"),
    "points of no network": (
        lambda: data(shapes=[3, 16]),
        r"at least 4 points on each side, got \(3, 3\); take a finer",
    ),
    # shapes
    "a shape in words": (
        lambda: WhiteNoise(BOX, "16x16"),
        r"an int for as many points on each side, got '16x16'; pass",
    ),
    "shapes in words": (lambda: draw(plan=Progressive(["8x8"])), r"an int for as many points.*got '8x8'"),
    "yes for a shape": (lambda: BOX.points(True), r"2 positive sizes"),
    "halves of dimensions": (lambda: Box(2.0), r"expected dim 1, 2 or 3, got 2.0"),
    # sampling
    "a field of NaN": (lambda: draw(field=NAN * X[:1]), r"finite values in field, got 256 of 256"),
    "upscaling NaN": (lambda: upscale(ORACLE, NAN * X, 32, [0, 1]), r"finite values in low"),
    "upscaling to other proportions": (lambda: upscale(ORACLE, X, (32, 48), [0, 1]), r"same proportions as \(16, 16\)"),
    "a misspelt condition": (lambda: draw(lable=3), r"among label, field and condition, got lable"),
    "a seed below 0": (lambda: draw(seeds=[-1]), r"from 0 to 2\*\*32 - 1.*got \[-1\]"),
    "a seed too large": (lambda: draw(seeds=2**63), r"from 0 to 2\*\*32 - 1"),
    "a device of another name": (lambda: draw(device="gpu"), r'such as "cpu" or "cuda", got \'gpu\''),
    "a device that is not here": (
        lambda: draw(device="xpu"),
        r"a device that is there.*got 'xpu' \(.*XPU.*\); leave it out",
    ),
    "a step of a tensor": (
        lambda: draw(solver=Steps(3, make=lambda x: x)),
        r"Steps.step: expected.*got Tensor; end it",
    ),
    "a step to another grid": (
        lambda: draw(solver=Steps(3, make=lambda x: (x[..., :8], None))),
        r"Steps.step: expected a state of shape \(1, 1, 16, 16\).*got \(1, 1, 16, 8\)",
    ),
    "a field without channels": (
        lambda: sample(paired(), 16, [0], field=X[0, 0]),
        r"expected field with one row for each of the 1 seeds, or one for all",
    ),
    "a field for nobody": (lambda: net()(X, T, field=X), r"expected no conditioning field.*leave it out"),
    "a field of fewer samples": (
        lambda: net(condition_channels=1)(X, T, field=X[:1]),
        r"\(2, 1, \*grid\), got \(1, 1, 16",
    ),
    "labels of fewer samples": (lambda: net(num_classes=2)(X, T, label=LABELS[:1]), r"2 integer labels, one for each"),
    "fields of other channels": (lambda: model()(X.expand(-1, 3, -1, -1), T), r"Model: expected fields of 1 channels"),
    "samples of few points": (lambda: sample(model(), 3, [0]), r"got \(3, 3\); take at least 4 points per axis"),
    # training
    "a batch for fields": (lambda: DenoisingLoss(model())({"x": X}), r"write loss\(\*\*batch\)"),
    "fields of NaN": (lambda: DenoisingLoss(model())(NAN * X), r"finite x, got 512 of 512"),
    "steps below nothing": (lambda: fit(model(), data(), -1), r"steps >= 1 or minutes > 0, got steps=-1"),
    "minutes below nothing": (lambda: fit(model(), data(), minutes=-1), r"got steps=None and minutes=-1"),
    "torch's optimizer": (
        lambda: fit(model(), data(), 1, optimizer=torch.optim.Adam(model().parameters())),
        r"expected fnodiff.train.Adam, got torch.optim.adam.Adam; write such as Adam\(\)",
    ),
    "more than all of the average": (lambda: MovingAverage(net()).update(net(), decay=2.0), r"from 0 to 1, got 2.0"),
    # models
    "a spectrum for a law": (lambda: GaussianDenoiser(Matern(1.0), SDE), r"GaussianRandomField\(sde.domain, Matern"),
    "a source for batches": (lambda: Model.for_data(Drawn(4), DFU.tiny), r"got Drawn; write such as MultiResolution"),
    "a class of sources for batches": (lambda: Model.for_data(ImageFolder, DFU.tiny), r"got ImageFolder; write such"),
    "a class of networks": (lambda: Model.for_data(data(), DFU), r"got DFU with other arguments.*'n_modes'"),
    "a network that is made": (lambda: Model.for_data(data(), net()), r"got DFU; pass DFU.small, or write Model\("),
    "data of NaN": (
        lambda: Model.for_data(trained(lambda n, s: {"x": NAN * x_of(n, s)}), DFU.tiny),
        r"finite values of x, got NaN or infinite ones in batch 0",
    ),
    "levels that fall": (lambda: EDM(80.0, 0.002), r"got sigma_min=80.0, sigma_max=0.002; give the smaller one first"),
    "no steps": (lambda: DPMSolver(0), r"got 0; 12 is usual"),
    # spectra
    "a spectrum of one argument": (
        spectrum_of(lambda e: 1 / (1 + e) ** 2),
        r"map \(eigenvalues, dim\).*def spectrum\(",
    ),
    "a spectrum of a number": (spectrum_of(lambda e, dim: 1.0), r"of their shape \(4, 4\), got float"),
    "a spectrum below 0": (spectrum_of(lambda e, dim: -1 / (1 + e) ** 2), r"finite and >= 0, got -1.0 at 0"),
    "a spectrum without end": (spectrum_of(lambda e, dim: e**-2), r"finite and >= 0, got inf at 0; add a constant"),
    # files
    "a path that is not there": (lambda: Model.from_pretrained(Path("runs/mine")), r"got 'runs/mine', which is none"),
    "a text that is a path": (lambda: Model.from_pretrained("./mine"), r"got './mine', which is none of these"),
    "a file that is not there": (lambda: Model.from_pretrained("a/model.safetensors"), r"which is none of these"),
}


@pytest.mark.parametrize("case", CALLS)
def test_is_refused_with_the_mend(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(*CALLS[case])
    assert list(tmp_path.iterdir()) == []


def test_every_batch_is_looked_at():
    """Not the first alone, and those of a process' share too."""
    calls = []

    def later(n, s):
        calls.append(n)
        return {"x": x_of(n, s, 1 if len(calls) < 4 else 2)}

    batches = trained(later)
    batches[0]
    refused(lambda: batches[1], r"\(2, 1, .*got x torch.float32 \(2, 2,")
    refused(lambda: batches.take([0], (8, 8)), r"\(1, 1, 8, 8\)")


def test_lengths_of_sides_may_differ_from_the_sources():
    assert data(shapes=[8])[0]["x"].shape == (2, 3, 8, 8)
    assert MultiResolution(arrays(BOX), Box(2, (1.0, 2.0)), [8], batch_size=2)[0]["x"].shape == (2, 1, 8, 8)


SHAPES = {
    "MultiResolution": lambda n: MultiResolution(Drawn(2), BOX, n).shapes,
    "several": lambda n: MultiResolution(Drawn(2), BOX, [n, (16, 24)]).shapes[:1],
    "InMemory": lambda n: InMemory(Drawn(2), n).batch([0], n)["x"].shape[2:],
    "InMemory, several": lambda n: InMemory(Drawn(2), [n, 16]).batch([0], (8, 8))["x"].shape[2:],
    "Upsampled": lambda n: Upsampled(Drawn(2), n, BOX).batch([0], n)["x"].shape[2:],
    "ArrayFields": lambda n: arrays(BOX).batch([0], n)["x"].shape[2:],
    "resample": lambda n: BOX.resample(X, n).shape[2:],
    "white noise": lambda n: WhiteNoise(BOX, n).reference,
    "points": lambda n: BOX.points(n).shape[1:],
    "a stage's grid": lambda n: Progressive([n]).plan(ORACLE, 16, DPMSolver(12).times(SDE.schedule))[0].shape,
    "one grid": lambda n: Cascade(n, through=()).plan(ORACLE, 16, DPMSolver(12).times(SDE.schedule))[0].shape,
    "samples": lambda n: draw(shape=n).shape[2:],
    "upscaled": lambda n: upscale(ORACLE, X[..., ::4, ::4], n, [0, 1], solver=DPMSolver(2)).shape[2:],
    "previews": lambda n: Preview([n]).shapes,
}


@pytest.mark.parametrize("what", SHAPES)
@pytest.mark.parametrize("n", [8, np.int64(8)], ids=["int", "numpy"])
def test_an_int_is_as_many_points_on_each_side(what, n):
    shape = SHAPES[what](n)
    assert tuple(shape) == (8, 8) or list(map(tuple, shape)) == [(8, 8)]


def test_losses_of_an_int():
    made = Model.for_data(data(), tiny())
    assert DenoisingLoss(made).linear(16) == DenoisingLoss(made).linear((16, 16))


def test_two_ints_are_two_grids():
    assert MultiResolution(Drawn(2), BOX, (24, 32)).shapes == [(24, 24), (32, 32)]


class TestDropout:
    @pytest.fixture
    def dropped(self):
        """A model in training, whose network drops half of its numbers."""
        made = Model.for_data(data(), partial(DFU.tiny, num_blocks=0, dropout=0.5, zero_init=False)).train()
        made.network.embed_noise.eval()  # one part is not
        return made

    def test_samples_have_none_and_every_part_keeps_its_mode(self, dropped):
        modes = [m.training for m in dropped.modules()]
        drawn = [sample(dropped, 16, [0, 1], solver=DPMSolver(2)) for _ in range(2)]
        low = drawn[0][..., ::2, ::2]
        finer = [upscale(dropped, low, 16, [0, 1], solver=DPMSolver(2)) for _ in range(2)]
        assert [m.training for m in dropped.modules()] == modes and len(set(modes)) == 2
        assert torch.equal(*drawn) and torch.equal(*finer)
        x, t = X.expand(-1, 3, -1, -1), T
        assert not torch.equal(dropped(x, t), dropped(x, t)), "the network itself drops some"

    def test_the_mode_is_put_back_after_an_error(self, dropped):
        with pytest.raises(RuntimeError, match="on the way"), evaluating(dropped):
            assert not any(m.training for m in dropped.modules())
            raise RuntimeError("on the way")
        assert dropped.training and not dropped.network.embed_noise.training


def test_a_run_that_diverges_names_the_solver():
    solver = Steps(3, make=lambda x: (torch.where(torch.arange(len(x)).reshape(-1, 1, 1, 1) == 1, NAN, x), None))
    with pytest.raises(FloatingPointError, match=r"Steps\(steps=3.*in 1 of 2"):
        draw(solver=solver, seeds=[0, 1])


def test_proportions_that_the_domain_explains():
    wide = Box(2, (1.0, 1.5))
    field = GaussianRandomField(wide, Matern(1.0, 0.3))
    oracle = GaussianDenoiser(field, FunctionSpaceSDE(field, EDM()))
    assert upscale(oracle, X, (32, 48), [0, 1], solver=DPMSolver(2)).shape == (2, 1, 32, 48)
    assert upscale(ORACLE, X[..., :11], (32, 23), [0, 1], solver=DPMSolver(2)).shape == (2, 1, 32, 23), "to a point"


class TestChoices:
    """What `Model.for_data` says of a noise that is named, and chooses of smooth data."""

    def test_a_noise_far_smoother_than_the_data_is_warned_of(self):
        smooth = GaussianRandomField(BOX, Matern(5.0, 1.0))
        with pytest.warns(UserWarning, match="noise smoother than the data") as found:
            Model.for_data(data(), tiny(), noise=smooth, schedule=EDM(0.002, 1e8))
        assert {warning.filename for warning in found} == {__file__}, "the line of whoever named it"

    def test_what_is_chosen_is_not_warned_of(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Model.for_data(data(), tiny())

    @pytest.mark.parametrize("domain", [Torus(1), Torus(2), Sphere()], ids=str)
    @pytest.mark.parametrize("channels", [1, 2])
    def test_band_limited_fields_have_smooth_noise(self, domain, channels):
        few, many = (4, 32) if domain == Sphere() else (7, 32)
        waves = WhiteNoise(domain, many).sample((64, channels, *domain.shape_of(few)))
        x = domain.resample(waves, many)
        made = Model.for_data(MultiResolution(ArrayFields(x, domain=domain), domain, [16, many], batch_size=16), tiny())
        law = made.sde.noise.spectrum
        assert {m.smoothness for m in (law.channels if isinstance(law, ChannelSpectra) else [law])} == {3.0}
        assert made.sde.schedule.sigma_min > 1e-4 and made.sde.schedule.sigma_max < 100
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert made.sde.check(made.spectrum, many)["data_exponent"] > 6.0

    def test_the_tail_is_that_of_modes_with_energy(self):
        x = TORUS.filter(FIELD.sample((400, 1, 32, 32)), lambda e: (1 + e) ** -1.5 * (e.sqrt() < 2 * torch.pi * 12))
        assert 6.5 < fit_spectrum(x.double(), TORUS, floor=1e-12).exponent < 12.0
        whole = fit_spectrum(x, TORUS)
        assert whole.exponent > 4.0, "what lies at the floor does not flatten it"


def test_the_command_names_what_it_was_given(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    for i in range(7):
        (tmp_path / "run" / f"file{i}").touch()
    said = []
    for name in ("nowhere", "run"):
        assert main(["sample", name, "--size", "16"]) == 2
        said.append(capsys.readouterr().err)
    assert "got 'nowhere'" in said[0]
    assert "in run: expected config.json" in said[1] and "file4 and 2 more, without config.json" in said[1]


def test_the_command_says_how_it_reads_a_class(tmp_path, monkeypatch, capsys):
    @dataclass(frozen=True)
    class Own:
        length: float = 0.2

        def __call__(self, eigenvalues, dim):
            return (1 + eigenvalues) ** -2

    monkeypatch.chdir(tmp_path)
    model(spectrum=Own()).save_pretrained("run")
    assert main(["sample", "run", "--size", "16"]) == 2
    said = capsys.readouterr().err
    assert "'Own' is not allowed" in said and "--classes-from FILE.py" in said and "from_pretrained" not in said


def test_a_model_is_not_saved_over_a_file(tmp_path):
    (tmp_path / "run").write_text("mine")
    refused(lambda: model().save_pretrained(tmp_path / "run"), r"got the file .*run; name another one")
    assert (tmp_path / "run").read_text() == "mine"


def test_a_hub_that_does_not_serve_is_named_with_the_folder(monkeypatch):
    def nothing(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", nothing)
    refused(
        lambda: Model.from_pretrained("runs/mine"), r"got 'runs/mine': there is no such folder, and the hub did not"
    )


def test_a_run_stopped_by_ctrl_c_leaves_the_averaged_weights(tmp_path):
    made = Model(DFU.tiny(3, 3, num_blocks=0), SDE, EDMScaling())
    stop = Logging(progress=False, callback=lambda step, *_: os.kill(os.getpid(), signal.SIGINT) if step == 3 else None)
    with pytest.raises(KeyboardInterrupt):
        fit(made, data(), 9, folder=tmp_path, logging=stop)
    assert not made.training
    for name, value in Model.from_pretrained(tmp_path).state_dict().items():
        torch.testing.assert_close(made.state_dict()[name], value)


def test_what_makes_a_network_is_no_network():
    with pytest.raises(ValueError, match=r"pass such as DFU\.small"):
        Model(DFU.tiny, SDE, EDMScaling())
