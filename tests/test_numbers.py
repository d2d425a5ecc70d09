"""Numbers keep their meaning: any bytes and strides, selections of every kind, masks, float64, and end points given twice."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from fnodiff import (
    DFU,
    EDM,
    Box,
    DenoisingLoss,
    DPMSolver,
    FunctionSpaceSDE,
    GaussianRandomField,
    Matern,
    Model,
    MultiResolution,
    Sphere,
    Torus,
    sample,
)
from fnodiff.data import ArrayFields, Augmented, InMemory, Part, Terrain
from fnodiff.equations import Darcy
from fnodiff.report import filled, invariance_report
from fnodiff.sde import GaussianDenoiser, Normalization, measure_normalization
from fnodiff.sde.pictures import are_pictures
from fnodiff.train.preview import montage

COUNTING = np.arange(4 * 6 * 8).reshape(4, 6, 8)


@pytest.fixture
def strict():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def read_only(x):
    x = x.copy()
    x.setflags(write=False)
    return x


LAYOUTS = {
    "big-endian": lambda x: x.astype(">f4"),
    "big-endian whole": lambda x: x.astype(">i2"),
    "unsigned": lambda x: x.astype(np.uint16),
    "unsigned, 32 bits": lambda x: x.astype(">u4"),
    "unsigned, 64 bits": lambda x: x.astype(np.uint64),
    "extended": lambda x: x.astype(np.longdouble),
    "half": lambda x: x.astype(np.float16),
    "columns first": lambda x: np.asfortranarray(x.astype(np.float64)),
    "backwards": lambda x: np.ascontiguousarray(x[::-1, :, ::-1])[::-1, :, ::-1],
    "every other": lambda x: np.repeat(x, 2, axis=2)[:, :, ::2],
    "transposed": lambda x: np.ascontiguousarray(x.transpose(2, 0, 1)).transpose(1, 2, 0),
    "read-only": read_only,
    "broadcast": lambda x: np.broadcast_to(x, x.shape),
    "lists": lambda x: x.tolist(),
    "a transposed tensor": lambda x: torch.from_numpy(x.transpose(2, 1, 0).copy()).permute(2, 1, 0),
    "bfloat16": lambda x: torch.from_numpy(x).bfloat16(),  # which holds whole numbers up to 256
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_an_array_in_memory_may_lie_in_any_way(kind: str, strict: None) -> None:
    fields = ArrayFields(LAYOUTS[kind](COUNTING), domain=Box(2))
    x = fields.batch([3, 0, 3], (6, 8))["x"]
    assert x.dtype == torch.float32
    assert x[:, 0].tolist() == COUNTING[[3, 0, 3]].tolist()


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected x as an array, got list that is none.*the same grid"):
        ArrayFields([[1.0, 2.0], [3.0]], domain=Box(1))


@pytest.mark.parametrize("values", [["a", "b"], [[1, None]], np.array(["2020-01-01"], "M8[D]"), COUNTING + 1j])
def test_what_is_no_array_of_numbers_is_refused(values: object) -> None:
    with pytest.raises(ValueError, match="expected x as real numbers"):
        ArrayFields(np.asarray(values), domain=Box(1))


SELECTIONS = {
    "slice": (slice(1, 3), [1, 2]),
    "slice backwards": (slice(None, None, -2), [3, 1]),
    "list": ([2, 0], [2, 0]),
    "negative": ([-1, -4], [3, 0]),
    "range": (range(3, 0, -2), [3, 1]),
    "booleans": ([True, False, False, True], [0, 3]),
    "array of booleans": (np.array([False, True, False, True]), [1, 3]),
    "tensor of booleans": (torch.tensor([False, False, True, False]), [2]),
    "array": (np.array([1, -1], np.int16), [1, 3]),
    "tensor": (torch.tensor([2]), [2]),
    "number": (np.int64(-2), [2]),
    "tuple": ((0,), [0]),
}


@pytest.mark.parametrize("kind", SELECTIONS)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda fields: fields,
        lambda fields: InMemory(fields, [(6, 8)]),
        lambda fields: Part(fields, range(4)),
        lambda fields: Augmented(fields, [lambda x: x]),
    ],
    ids=["arrays", "in memory", "part", "augmented"],
)
def test_samples_are_selected_as_numpy_does(wrap: object, kind: str) -> None:
    indices, expected = SELECTIONS[kind]
    x = wrap(ArrayFields(COUNTING, domain=Box(2))).batch(indices, (6, 8))["x"]
    assert x[:, 0].tolist() == COUNTING[expected].tolist()


@pytest.mark.parametrize("kind", SELECTIONS)
def test_a_part_is_selected_as_numpy_does(kind: str) -> None:
    indices, expected = SELECTIONS[kind]
    part = Part(ArrayFields(COUNTING, domain=Box(2)), indices)
    assert part.batch(range(len(part)), (6, 8))["x"][:, 0].tolist() == COUNTING[expected].tolist()


@pytest.mark.parametrize("fields", [Terrain(4, window=8), Darcy(4, fine=16)], ids=["terrain", "darcy"])
def test_sources_that_make_samples_select_them_alike(fields: object) -> None:
    x = fields.batch(range(4), (8, 8))["x"]
    for indices, expected in SELECTIONS.values():
        assert torch.equal(fields.batch(indices, (8, 8))["x"], x[expected])


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([0.0], "integer indices"),
        ([True, False], "a boolean for each of 4"),
        ([-5], "0 to 3, got -5"),
        ([[0]], "sequence"),
    ],
)
def test_selections_that_mean_nothing_are_refused(indices: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArrayFields(COUNTING, domain=Box(2)).batch(indices, (6, 8))


# ---- float64 ------------------------------------------------------------------------------------------------------


def ripples(mean: float, size: float, count: int = 64) -> np.ndarray:
    """Ripples on blocks of four points, about a mean."""
    rng = np.random.default_rng(0)
    return mean + rng.normal(0, size, (count, 4, 4)).repeat(4, 1).repeat(4, 2)


@pytest.mark.parametrize(
    ("mean", "size", "dtype"),
    [
        (101325.0, 0.02, torch.float64),
        (0.0, 1.0, torch.float32),
        (288.0, 15.0, torch.float32),
        (-1e9, 3.0, torch.float64),
    ],
)
def test_batches_are_float64_where_float32_would_lose_the_signal(mean: float, size: float, dtype: torch.dtype) -> None:
    x = ripples(mean, size)
    for shape in ((16, 16), (8, 8)):
        assert ArrayFields(x, domain=Box(2)).batch([0], shape)["x"].dtype == dtype
    data = MultiResolution(InMemory(ArrayFields(x, domain=Box(2)), [16]), Box(2), [16], batch_size=8)
    found = measure_normalization(data, batches=8)
    assert found.mean[0] == pytest.approx(x.mean(), abs=1e-9 * abs(mean) + 1e-6 * size)
    assert found.std[0] == pytest.approx(x.std(), rel=1e-5)


def test_whole_numbers_beyond_float32_keep_their_steps() -> None:
    x = (2**30 + np.arange(4 * 8 * 8).reshape(4, 8, 8) % 7).astype(np.int32)
    assert ArrayFields(x, domain=Box(2)).batch([1], (8, 8))["x"][0, 0].tolist() == x[1].tolist()


def test_a_model_of_small_ripples_on_a_large_mean_trains_and_samples() -> None:
    data = MultiResolution(ArrayFields(ripples(101325.0, 0.02), domain=Box(2)), Box(2), [8, 16], batch_size=16)
    model = Model.for_data(data, DFU.tiny)
    loss = DenoisingLoss(model)(**data[0], generator=torch.Generator().manual_seed(0))
    assert loss.dtype == torch.float32
    assert bool((loss < 10).all())
    x = sample(model, (16, 16), range(4))
    assert x.dtype == torch.float64
    assert 0.002 < float(x.std()) < 0.2


def test_normalised_values_come_back() -> None:
    units = Normalization([101325.0], [0.02])
    z = torch.linspace(-3, 3, 101)[None, None]
    torch.testing.assert_close(units(units.inverse(z)).float(), z, rtol=0, atol=1e-6)
    assert Normalization([288.0], [15.0]).inverse(z).dtype == torch.float32


# ---- masks --------------------------------------------------------------------------------------------------------


def test_a_masked_array_is_a_mask() -> None:
    x = np.ma.masked_greater(np.array([[[1.0, 2.0], [3.0, 1e20]]]), 1e10)
    batch = ArrayFields(x, domain=Box(2)).batch([0], (2, 2))
    assert batch["mask"].tolist() == [[[[1, 1], [1, 0]]]]
    assert batch["x"].tolist() == [[[[1, 2], [3, 0]]]]
    assert "mask" not in ArrayFields(np.ma.array(np.ones((1, 2, 2))), domain=Box(2)).batch([0], (2, 2))


def test_masks_of_every_kind_together() -> None:
    x = np.ma.array([[[1.0, 2.0, 3.0, np.nan]], [[5.0, 6.0, 7.0, 8.0]]], mask=[[[1, 0, 0, 0]], [[0, 0, 0, 0]]])
    fields = ArrayFields(x, domain=Box(1), mask=np.array([True, True, False, True]))
    assert fields.batch([0, 1], (4,))["mask"].tolist() == [[[0, 1, 0, 0]], [[1, 1, 0, 1]]]


def test_masked_whole_numbers() -> None:
    x = np.ma.array(np.arange(8).reshape(1, 8), mask=np.arange(8).reshape(1, 8) == 3, dtype=np.int16)
    batch = ArrayFields(x, domain=Box(1)).batch([0], (4,))
    assert batch["x"].tolist() == [[[0.5, 0.0, 4.5, 6.5]]]  # half of the second cell is missing


def test_on_the_sphere_measured_values_count_by_area() -> None:
    x = np.full((1, 5, 8), 7.0)
    x[0, 0], x[0, 2, 0] = 3.0, np.nan
    fields = ArrayFields(x, domain=Sphere("equiangular"))
    batch = fields.batch([0], (3, 4))
    assert batch["mask"].min() == 1
    north, row, _ = batch["x"][0, 0]
    # Clenshaw and Curtis: rows of 5 stand for 1, 8, 12, 8, 1 of 30 parts, rows of 3 for 5, 20, 5. The northern belt has the
    # first row in full and 4 of the 8 parts of the second.
    assert north.tolist() == pytest.approx([(1 * 3 + 4 * 7) / 5] * 4)
    assert row.tolist() == pytest.approx([7.0] * 4)
    far = ArrayFields(np.where(np.arange(5)[:, None] == 2, np.nan, x), domain=Sphere("equiangular")).batch([0], (3, 4))
    assert far["mask"][0, 0, 1].tolist() == [0] * 4  # 12 of 20 parts are missing


@pytest.mark.parametrize("domain", [Box(1), Torus(1)], ids=str)
def test_what_is_missing_does_not_reach_the_loss(domain: object) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(5, 2, (32, 16))
    there = rng.random((32, 16)) < 0.9
    holes = [np.ma.array(np.where(there, x, other), mask=~there) for other in (0.0, -1e6)]
    models, losses = [], []
    for hole in holes:
        data = MultiResolution(ArrayFields(hole, domain=domain), domain, [8, 16], batch_size=32)
        torch.manual_seed(0)
        models.append(Model.for_data(data, DFU.tiny))
        losses.append(DenoisingLoss(models[-1])(**data[0], generator=torch.Generator().manual_seed(0)).mean())
    assert models[0].normalization == models[1].normalization
    assert losses[0] == losses[1]


def test_samples_are_compared_with_what_was_measured() -> None:
    true = {
        "x": torch.tensor([[[1.0, 0.0, 3.0]], [[5.0, 7.0, 0.0]]]),
        "mask": torch.tensor([[[1.0, 0, 1]], [[1, 1, 0]]]),
    }
    assert filled(true["x"], true).tolist() == [[[1, 4, 3]], [[5, 7, 4]]]  # the mean of what was measured
    assert filled(torch.full((1, 1, 3), 9.0), true).tolist() == [[[9, 4, 9]]]
    assert filled(true["x"], {"x": true["x"]}) is true["x"]


def test_a_report_leaves_out_what_was_not_measured() -> None:
    field = GaussianRandomField(Box(2), Matern(1.0, 0.3))
    model = GaussianDenoiser(field, FunctionSpaceSDE(field, EDM()), channels=1)
    x = field.sample((16, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    spectra = []
    for missing in (0.0, -1e4):  # what stands where nothing was measured
        holes = torch.where(torch.arange(16) < 4, missing, x)
        reference = ArrayFields(holes, domain=Box(2), mask=(torch.arange(16) >= 4).expand(16, 16))
        found = invariance_report(model, [8, 16], reference, samples=4, solver=DPMSolver(4), seed=1)
        spectra.append([row["spectrum"] for row in found.rows.values()])
    assert spectra[0] == spectra[1]


@pytest.mark.parametrize(
    ("mean", "spread", "grey"), [(0.0, 0.5, True), (0.0, 1.0, False), (0.01, 0.004, False), (9, 3, False)]
)
def test_one_channel_is_a_grey_picture_if_its_values_can_be(mean: float, spread: float, grey: bool) -> None:
    x = mean + spread * torch.randn(32, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    model = Model.for_data(MultiResolution(ArrayFields(x, domain=Box(2)), Box(2), [16]), DFU.tiny)
    assert are_pictures(model) == grey
    picture = montage(torch.tensor([[[[-2.0, -1.0], [0.0, 1.0]]]]), grey=True)
    assert picture[..., 0].tolist() == picture[..., 2].tolist() == [[0, 0], [128, 255]]


def test_a_denoiser_of_unknown_spread_is_reported_on() -> None:
    field = GaussianRandomField(Box(2), Matern(1.0, 0.3))
    exact = GaussianDenoiser(field, FunctionSpaceSDE(field, EDM()), cell_averages=True)
    assert exact.sigma_data is None
    assert invariance_report(exact, [8, 16], samples=2, solver=DPMSolver(2)).grey


# ---- end points ---------------------------------------------------------------------------------------------------


def waves(count: int, n: int, endpoint: bool) -> np.ndarray:
    phase = np.random.default_rng(0).uniform(0, 6, (count, 1))
    return np.sin(2 * np.pi * np.linspace(0, 1, n, endpoint=endpoint) + phase)


def test_a_period_that_is_closed_is_served_once() -> None:
    with pytest.warns(UserWarning, match=r"the grid \(17,\) .*twice: along axis \[0\].*the grid is \(16,\)"):
        fields = ArrayFields(waves(5, 17, True), waves(5, 17, True) ** 2, domain=Torus(1))
    assert fields.shape == (16,)
    batch = fields.batch([0], (16,))
    assert batch["x"][0, 0].numpy() == pytest.approx(waves(5, 16, False)[0], abs=1e-6)
    assert batch["field"].shape == (1, 1, 16)
    with pytest.raises(ValueError, match="no finer than"):
        fields.batch([0], (17,))


def test_waves_that_are_zero_at_both_ends_are_closed_too() -> None:
    x = np.linspace(0, 1, 33)
    x = np.sin(2 * np.pi * x * np.arange(1, 5)[:, None])  # 1e-16 to 1e-15 at the ends
    with pytest.warns(UserWarning, match="the grid is \\(32,\\)"):
        ArrayFields(x, domain=Torus(1))


def test_one_of_two_axes_is_closed() -> None:
    x = waves(3, 9, True)[:, :, None] * waves(3, 8, False)[:, None] + 1
    with pytest.warns(UserWarning, match=r"along axis \[0\]"):
        assert ArrayFields(x, domain=Torus(2)).shape == (8, 8)


@pytest.mark.parametrize(
    ("x", "domain"),
    [
        (waves(5, 16, False), Torus(1)),
        (waves(5, 17, True), Box(1)),
        (np.pad(waves(5, 12, False), ((0, 0), (2, 2))), Torus(1)),  # nothing near the edges
        (np.ones((2, 8)), Torus(1)),
    ],
    ids=["open", "a box", "margins", "constant"],
)
def test_other_grids_keep_their_points(x: np.ndarray, domain: object, strict: None) -> None:
    assert ArrayFields(x, domain=domain).shape == x.shape[1:]


def test_another_source_that_is_closed_is_never_trained_on() -> None:
    class Closed:
        channels, num_classes = 1, 0

        def __len__(self):
            return 5

        def batch(self, indices, shape):
            return {"x": torch.tensor(waves(5, *shape, True)[list(indices), None])}

    with pytest.raises(ValueError, match="each point of a period once"):
        MultiResolution(Closed(), Torus(1), [16])
    MultiResolution(Closed(), Box(1), [16])
