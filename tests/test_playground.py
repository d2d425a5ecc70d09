"""What the page to play with computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fnodiff import DFU, EDM, Box, EDMScaling, FunctionSpaceSDE, Matern, Model, SpectralScaling, Torus, WhiteNoise
from fnodiff.page import shown
from fnodiff.playground import Playground
from fnodiff.sde import Normalization

BOX = Box(2)


def untrained(domain=BOX, channels=3, zero_init=False, **options):
    torch.manual_seed(0)
    small = {"num_blocks": 0, "channel_mult": (1,), "hidden_channels": 8, "spectral_levels": 1, "zero_init": zero_init}
    net = DFU.tiny(channels, channels, domain=domain, **small, **options)
    sde = FunctionSpaceSDE(WhiteNoise(domain, (8,) * domain.dim), EDM())
    model = Model(net, sde, EDMScaling(), cell_averages=channels == 3).eval()
    model.training_shapes = ((8,) * domain.dim, (16,) * domain.dim)
    return model


@pytest.fixture(scope="module")
def play():
    return Playground(untrained())


def test_one_seed_is_one_function_on_every_grid():
    bare, spectrum = untrained(zero_init=True), Matern(1.0, 0.3)  # a network of zeros: the model of a Gaussian field
    model = Model(bare.network, bare.sde, SpectralScaling(16), spectrum=spectrum, normalization=Normalization(0.0, 0.2))
    model.cell_averages, model.training_shapes = True, bare.training_shapes
    play = Playground(model)
    first, second = (dict(play.resolutions(seed, 32)) for seed in (0, 1))
    assert [(name, picture.size) for name, picture in first.items()] == [
        ("8x8, trained on", (8, 8)),
        ("16x16, trained on", (16, 16)),
        ("32x32, not trained on", (32, 32)),
    ]
    fine, other, coarse = (
        torch.from_numpy(np.asarray(figures[name], float)).movedim(-1, 0)[None]
        for figures, name in (
            (first, "32x32, not trained on"),
            (second, "32x32, not trained on"),
            (first, "16x16, trained on"),
        )
    )
    near, far = (float((Box(2).resample(x, (16, 16)) - coarse).abs().mean()) for x in (fine, other))
    assert near < far / 10


def test_a_picture_is_averaged_and_several_samples_fit_it(play, tmp_path):
    levels = np.repeat(np.repeat(np.array([[40, 200], [120, 80]], np.uint8), 12, 0), 12, 1)
    Image.fromarray(levels).resize((30, 24)).save(tmp_path / "a.png")  # cropped to 24x24, each quarter of one grey
    figures = dict(play.upscaled(tmp_path / "a.png", 8, 16, seed=3, count=2))
    assert list(figures) == ["8x8, given", "16x16, bicubic", "16x16, seed 3", "16x16, seed 4"]
    given = np.asarray(figures["8x8, given"], float)
    assert given[0, 0] == pytest.approx(40, abs=1) and given[0, -1] == pytest.approx(200, abs=1)
    one, two = (np.asarray(figures[f"16x16, seed {s}"], float) for s in (3, 4))
    assert np.abs(one - two).max() > 5
    for x in (one, two):
        assert np.abs(x.mean((0, 1)) - given.mean((0, 1))).max() < 8


def test_sensors_pull_the_mean_and_lower_the_spread(play):
    sensors = play.toggled([], (6 * 48 + 3, 2 * 48 + 20), 8)
    assert play.truth([], 0, 8).size == (384, 384)
    assert [int(8 * part) for part in sensors[0]] == [2, 6]
    assert play.toggled(sensors, (6 * 48, 2 * 48), 8) == [], "a second click on its grid point takes it away"
    sensors = play.toggled(sensors, (383, 0), 8)
    truth = np.asarray(play.resolutions(0, 8)[0][1], float)
    mean, spread = (np.asarray(picture, float) for _, picture in play.posterior(sensors, 0, 8, 0.02)[:2])
    at = (np.array([2, 0]), np.array([6, 7]))
    assert np.abs(mean - truth)[at].mean() < np.abs(mean - truth).mean() / 4
    assert spread.sum(-1)[at].max() < spread.sum(-1).mean() / 2


def test_fields_have_one_scale_and_one_channel_is_measured():
    play = Playground(untrained(Torus(2), 2, zero_init=True))  # whose channels have nothing to do with each other
    (one, coarse), (two, _) = play.resolutions(0, 16, 1)
    assert not play.pictures and one.split("colours")[1] == two.split("colours")[1]
    light = np.asarray(coarse, float).sum(-1)
    place = np.unravel_index(light.argmax(), light.shape)
    ((_, mean), *_) = play.posterior([tuple(i / 8 for i in place)], 0, 8, 0.02, 0, 1)
    assert np.asarray(mean, float).sum(-1)[place] < light.max() - 100, (
        "the largest value of the other one stays unknown"
    )
    assert "cannot upscale" in shown(play.upscaled, "a.png", 8, 16, 0, 1)


def test_guidance_and_labels_are_heeded():
    play = Playground(untrained(num_classes=2))
    ask = lambda *asked: np.asarray(play.resolutions(0, 16, 0, *asked)[-1][1], float)  # noqa: E731
    assert np.abs(ask(1.0, 0) - ask(1.0, 1)).max() > 0 and np.abs(ask(1.0, 0) - ask(3.0, 0)).max() > 0
    assert "expected a label from -1 to 1" in shown(play.resolutions, 0, 16, 0, 1.0, 2)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: untrained(Torus(3), 1), "one on Torus"),
        (lambda: untrained(condition_channels=1), "one of a field"),
    ],
)
def test_models_that_the_page_cannot_show(model, message):
    with pytest.raises(ValueError, match=f"expected a model of fields in two dimensions.*{message}"):
        Playground(model())


def test_what_is_wrong_stands_on_the_page(play, tmp_path):
    Image.new("RGB", (7, 7)).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("<b>no picture</b>")
    for said, compute, *values in (
        ("expected a picture, got none", play.upscaled, None, 8, 16, 0, 1),
        ("8x8 pixels; the one on the page: is 7x7", play.upscaled, tmp_path / "small.png", 8, 16, 0, 1),
        ("its bytes are not those of a PNG", play.upscaled, tmp_path / "text.png", 8, 16, 0, 1),
        ("expected a grid finer than (4, 4)", play.upscaled, tmp_path / "small.png", 4, 4, 0, 1),
        ("expected a sensor or more", play.posterior, [], 0, 16, 0.1),
        ("expected seeds", play.resolutions, None, 16),
        ("expected a size of 4", play.resolutions, 0, 2.5),
    ):
        page = shown(compute, *values)
        assert said in page and page.startswith('<p role="alert">') and "<img" not in page
