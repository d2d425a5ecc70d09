"""Portraits are functions: fixed by the seed, averaged over the cells of any grid, with every attribute in sight."""

import itertools
import sys

import pytest
import torch
from torch import Tensor

import fnodiff.data._faces_params as params
from fnodiff.data._faces_shapes import disc, plane_wave, stroke, wave
from fnodiff.data.faces import HAIR_STYLES, Faces, face_attributes, faces


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def area_average(x: Tensor, shape: tuple[int, int]) -> Tensor:
    """Averages over whole blocks of cells."""
    h, w = shape
    return x.unflatten(-1, (w, -1)).unflatten(-3, (h, -1)).mean((-3, -1))


def relative_error(x: Tensor, reference: Tensor) -> Tensor:
    """L2 error over the L2 norm of the reference less each picture's mean colour."""
    return (x - reference).norm() / (reference - reference.mean((-2, -1), keepdim=True)).norm()


def redraw(monkeypatch: pytest.MonkeyPatch, **uniforms: float) -> None:
    """Every portrait drawn from here on has these values of the uniforms, and its own of all others."""
    drawn = params.uniforms

    def fixed(seeds: Tensor) -> dict[str, Tensor]:
        draw = drawn(seeds)
        return draw | {name: torch.full_like(draw[name], value) for name, value in uniforms.items()}

    monkeypatch.setattr(params, "uniforms", fixed)


# ---- a function of the seed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(32, 32), (31, 33), pytest.param((130, 100), marks=pytest.mark.slow)])
@pytest.mark.parametrize("batch", [[7], [3, 7], [*range(40, 50), 7]])
def test_a_seed_gives_the_same_bits_in_any_batch(shape, batch):
    assert torch.equal(faces(batch, shape)[-1], faces(range(12), shape)[7])


def test_chunks_do_not_change_the_bits(monkeypatch):
    whole = faces(range(20), (32, 32))
    monkeypatch.setattr(sys.modules[Faces.__module__], "_CHUNK", 3 * 32 * 32)
    assert torch.equal(faces(range(20), (32, 32)), whole)


def test_a_seed_is_an_int_whatever_carries_it():
    seeds = torch.tensor([5, -1, 2**62])
    assert torch.equal(faces(seeds, (16, 16)), faces([5, -1, 2**62], (16, 16)))


OTHERS = [pytest.param(shape, marks=pytest.mark.slow) for shape in ((48, 48), (45, 64), (33, 31))]


@pytest.mark.parametrize("shape", [(32, 32), *OTHERS])
def test_a_coarse_picture_is_the_area_average_of_a_fine_one(shape):
    # The errors measured on 64 portraits are 2.8, 2.1, 2.0 and 2.8 percent.
    fine = faces(range(100, 116), (8 * shape[0], 8 * shape[1]))
    assert relative_error(faces(range(100, 116), shape), area_average(fine, shape)) < 0.03


@pytest.mark.slow
def test_oversampling_converges_to_the_cell_averages():
    exact = area_average(faces(range(16), (256, 256), oversample=2), (32, 32))
    plain, twice = (relative_error(faces(range(16), (32, 32), oversample=k), exact) for k in (1, 2))
    assert twice < 0.011
    assert twice < plain / 2


def test_detail_appears_as_the_grid_grows():
    """Between 64 and 256 cells a portrait gains what no interpolation of the coarse one has."""
    fine = faces(range(8), (256, 256))
    coarse = area_average(fine, (64, 64)).repeat_interleave(4, -1).repeat_interleave(4, -2)
    assert (fine - coarse).std() > 0.06


# ---- the spectrum and the range -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_spectrum_falls_like_a_face_s():
    """The variance per cosine mode, averaged over shells of k cycles per side, falls like k^-p for k = 2 to 32."""
    n = 128
    k = torch.arange(n)
    basis = torch.cos(torch.pi * (k + 0.5) * k[:, None] / n)
    power = (basis @ faces(range(64), (n, n)) @ basis.T).square().mean((0, 1))
    shell = ((k**2 + k[:, None] ** 2).sqrt() / 2).round().long().flatten()
    mean = (torch.bincount(shell, weights=power.flatten()) / torch.bincount(shell))[2:33].log()
    x = torch.arange(2, 33).log()
    slope = ((x - x.mean()) * (mean - mean.mean())).sum() / (x - x.mean()).square().sum()
    assert -3.3 < slope < -2.3


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 8), (9, 64), (32, 32), (45, 64), (256, 256)])
def test_values_stay_within_minus_one_and_one_and_use_the_range(shape):
    x = faces(range(400 * 32 * 32 // max(1024, shape[0] * shape[1])), shape)
    assert x.dtype == torch.float32
    assert x.abs().max() <= 1
    assert x.std() > 0.3


# ---- coverage -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half_width", [0.02, 0.2, 0.5, 3.0])
def test_a_stroke_has_its_width_on_any_grid(half_width):
    """A line 25 times thinner than a cell fades; it neither vanishes nor thickens."""
    offset = torch.arange(64, dtype=torch.float64)[:, None] / 64
    covered = stroke(torch.arange(-20, 20) + offset, half_width).sum(-1)
    assert covered.mean() == pytest.approx(2 * half_width, rel=1e-4)
    assert (covered / (2 * half_width) - 1).abs().max() < 0.17  # wherever it lies in a cell


@pytest.mark.parametrize("radius", [0.3, 0.5, 1.0, 4.0])
def test_a_disc_has_its_area_on_any_grid(radius):
    place = torch.arange(-8, 8.1, 1 / 8)  # the mean over all positions of the disc in a cell
    cell = torch.tensor(1 / radius)
    covered = disc(place[None] / radius, place[:, None] / radius, cell, cell).sum() / 64
    assert covered == pytest.approx(torch.pi * radius**2, rel=0.06)


@pytest.mark.slow
def test_rims_thinner_than_a_cell_keep_their_mean(monkeypatch):
    """What glasses add to a picture is the same at 32 as at 256, where the rims are wider than a cell."""
    redraw(monkeypatch, glasses_u=0.9, rim_width=0.02, lens=0.0, hair_style_u=0.0)
    bare = [faces(range(32), (n, n)).mean((-2, -1)) for n in (32, 256)]
    redraw(monkeypatch, glasses_u=0.1)
    coarse, fine = (faces(range(32), (n, n)).mean((-2, -1)) - b for n, b in zip((32, 256), bare, strict=True))
    assert (coarse - fine).norm() < 0.15 * fine.norm()


def test_a_plane_wave_is_its_exact_cell_average():
    a, b, phase = torch.tensor([3.3, -7.1]), torch.tensor([5.2, 0.4]), torch.tensor([0.1, 0.7])

    def render(h, w):
        y, x = ((torch.arange(n) + 0.5) / n for n in (h, w))
        return plane_wave(x, y, (1 / h, 1 / w), a, b, phase)

    torch.testing.assert_close(render(12, 9), area_average(render(12 * 32, 9 * 32), (12, 9)), atol=2e-5, rtol=0)


@pytest.mark.parametrize("per_cell", [0.0, 0.3, 0.7, 0.95])
def test_a_bending_wave_has_the_contrast_of_its_cell_average(per_cell):
    turns = torch.linspace(-2, 2, 101)
    exact = torch.cos(2 * torch.pi * turns) * torch.sinc(torch.tensor(per_cell))
    torch.testing.assert_close(wave(turns, torch.tensor(per_cell)), exact, atol=0.016, rtol=0)


# ---- attributes ---------------------------------------------------------------------------------------------------

# attribute: (the uniform it is drawn from, two of its values, least root mean square change of a 32x32 picture).
VISIBLE = {
    "glasses": ("glasses_u", 0.9, 0.1, 0.04),
    "beard": ("beard_u", 0.9, 0.1, 0.04),
    "hair_style": ("hair_style_u", 0.2, 0.6, 0.1),
    "hair_colour": ("hair_u", 0.05, 0.7, 0.1),
    "skin_tone": ("skin_depth", 0.0, 1.0, 0.1),
    "iris_colour": ("iris_u", 0.05, 0.65, 0.015),
    "clothes_colour": ("clothes_hue", 0.0, 0.5, 0.04),
    "background": ("sky_hue", 0.0, 0.5, 0.1),
    "smile": ("smile", -0.6, 1.0, 0.01),
    "mouth_open": ("mouth_open_u", 0.0, 1.0, 0.015),
    "head_x": ("head_x", 0.44, 0.56, 0.1),
    "head_y": ("head_y", 0.435, 0.485, 0.1),
    "head_size": ("head_size", 0.28, 0.34, 0.1),
    "face_width": ("face_width", 0.72, 0.86, 0.06),
    "turn": ("turn", -1.0, 1.0, 0.06),
    "roll": ("roll", -0.16, 0.16, 0.06),
    "light": ("light", -1.0, 1.0, 0.03),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VISIBLE)
def test_an_attribute_is_visible_at_32(name, monkeypatch):
    """With all else equal, another value of the attribute is another picture."""
    uniform, low, high, change = VISIBLE[name]
    redraw(monkeypatch, mouth_open_u=0.9, eye_open=1.0, beard_u=0.9)
    redraw(monkeypatch, **{uniform: low})
    before, x = face_attributes(range(24)), faces(range(24), (32, 32))
    redraw(monkeypatch, **{uniform: high})
    after, y = face_attributes(range(24)), faces(range(24), (32, 32))
    assert (before[name] != after[name]).any()
    assert (x - y).square().mean((1, 2, 3)).sqrt().median() > change


def test_every_attribute_is_checked_to_be_visible():
    assert face_attributes([0]).keys() == VISIBLE.keys()


def test_glasses_change_the_eyes_and_nothing_else(monkeypatch):
    redraw(monkeypatch, glasses_u=0.9, roll=0.0, head_x=0.5, head_y=0.46, head_size=0.31)
    bare = faces(range(24), (64, 64))
    redraw(monkeypatch, glasses_u=0.1)
    change = (faces(range(24), (64, 64)) - bare).abs().amax((0, 1))
    assert change[24:36, 12:52].mean() > 0.1
    assert change[:18].max() < 1e-5
    assert change[44:].max() < 1e-5


@pytest.mark.slow
def test_both_eyes_have_one_colour(monkeypatch):
    """Of portraits that look straight ahead, lit from the front, the left half mirrors the right where the eyes are."""
    straight = {"turn": 0.0, "roll": 0.0, "gaze_x": 0.0, "head_x": 0.5, "light": 0.0, "hair_part": 0.0}
    redraw(monkeypatch, **straight, glasses_u=0.9, freckles_u=0.9, hair_style_u=0.0)
    eyes = faces(range(32), (64, 64))[..., 27:33, 19:45]
    mirror = (eyes - eyes.flip(-1)).square().mean().sqrt()
    other = (eyes - eyes.roll(1, 0).flip(-1)).square().mean().sqrt()
    assert mirror < 0.35 * other


def test_attributes_have_their_documented_types_and_ranges():
    a = face_attributes(range(2000))
    colours = torch.cat([value for name, value in a.items() if value.ndim == 2])
    assert a["glasses"].dtype == a["beard"].dtype == torch.bool
    assert 0.3 < a["glasses"].float().mean() < 0.4
    assert 0.2 < a["beard"].float().mean() < 0.3
    assert torch.equal(a["hair_style"].unique(), torch.arange(len(HAIR_STYLES)))
    assert colours.shape[1] == 3
    assert colours.min() >= 0
    assert colours.max() <= 1
    assert -0.6 <= a["smile"].min() < -0.5 < 0.9 < a["smile"].max() <= 1
    assert set(a["mouth_open"][a["mouth_open"] < 0.25].tolist()) == {0.0}


# ---- the data set -------------------------------------------------------------------------------------------------


def test_a_batch_holds_the_samples_asked_for_whatever_the_size_of_the_set():
    source = Faces(1000, seed=3)
    x = source.batch([5, 900, 5], (24, 40))["x"]
    assert source.channels == 3
    assert len(source) == 1000
    assert torch.equal(x[0], x[2])
    assert not torch.equal(x[0], x[1])
    assert torch.equal(x[1], Faces(901, seed=3).batch([900], (24, 40))["x"][0])


def test_attributes_are_those_of_the_pictures():
    source = Faces(10, seed=4)
    assert torch.equal(source.attributes([2, 8])["smile"], face_attributes(source.seeds([2, 8]))["smile"])
    assert torch.equal(source.batch([2, 8], (16, 16))["x"], faces(source.seeds([2, 8]), (16, 16)))


@pytest.mark.slow
@pytest.mark.parametrize(("one", "two"), list(itertools.combinations([0, 1, 2, -1, 2**40], 2)))
def test_data_sets_of_different_seeds_are_disjoint(one, two):
    n = 20_000
    both = torch.cat([Faces(n, seed).seeds(range(n)) for seed in (one, two)])
    assert len(both.unique()) == 2 * n


def test_parameters_of_neighbouring_seeds_are_independent():
    """Uniform, and uncorrelated across names and across consecutive seeds, to five standard errors."""
    n = 20_000
    u = torch.stack([(v - v.mean()) / v.std() for v in params.uniforms(torch.arange(n)).values()])
    across_names = u @ u.T / n - torch.eye(len(u))
    across_seeds = u[:, 1:] @ u[:, :-1].T / n
    assert across_names.abs().max() < 5 / n**0.5
    assert across_seeds.abs().max() < 5 / n**0.5


# ---- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seeds", "shape", "oversample", "message"),
    [
        ([0], (32,), 1, r"expected shape = \(height, width\).*got \(32,\)"),
        ([0], (32, 32, 3), 1, "expected shape"),
        ([0], (0, 32), 1, "expected shape.*got"),
        ([0], (32, -4), 1, "expected shape"),
        ([0], (7, 32), 1, "at least 8"),
        ([0], (32.0, 32), 1, "expected shape"),
        ([0.5], (32, 32), 1, "expected integer seeds, got 0.5"),
        ([2**63], (32, 32), 1, "expected seeds in"),
        (torch.tensor([0.5]), (32, 32), 1, "integer dtype"),
        (torch.tensor([[1]]), (32, 32), 1, r"shape \(B,\)"),
        ([0], (32, 32), 0, "oversample >= 1, got 0"),
        ([0], (32, 32), 1.5, "oversample >= 1"),
    ],
)
def test_a_bad_request_says_what_was_expected(seeds, shape, oversample, message):
    with pytest.raises(ValueError, match=message):
        faces(seeds, shape, oversample=oversample)


@pytest.mark.parametrize(("count", "seed"), [(-1, 0), (1.5, 0), (3, 0.5), (True, 0)])
def test_a_bad_data_set_says_what_was_expected(count, seed):
    with pytest.raises(ValueError, match="expected"):
        Faces(count, seed)


@pytest.mark.parametrize("index", [10, -1])
def test_an_index_outside_the_set_is_an_error(index):
    with pytest.raises(ValueError, match=rf"expected indices in \[0, 10\), got {index}"):
        Faces(10).batch([0, index], (16, 16))


def test_labels_are_attributes():
    plain, labelled = Faces(50, seed=3), Faces(50, seed=3, label="hair_style")
    batch = labelled.batch(range(10, 40), (8, 8))
    assert torch.equal(batch["x"], plain.batch(range(10, 40), (8, 8))["x"])
    assert torch.equal(batch["label"], plain.attributes(range(10, 40))["hair_style"])
    assert batch["label"].dtype == torch.int64 and len(batch["label"].unique()) > 3
    assert labelled.num_classes == 7 and plain.num_classes == 0
    assert Faces(9, label="glasses").batch(range(9), (8, 8))["label"].unique().tolist() == [0, 1]
    with pytest.raises(ValueError, match="hair_style"):
        Faces(9, label="skin_tone")
