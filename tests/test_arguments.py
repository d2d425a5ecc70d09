"""Arguments as people have them: NumPy's numbers and arrays, lists, plain numbers, one for all samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drawn import Drawn
from refused import BOX, ORACLE, SDE, draw, net, refused

from fnodiff import (
    DFU,
    EDM,
    DPMSolver,
    EDMScaling,
    FunctionSpaceSDE,
    GaussianRandomField,
    Heun,
    Matern,
    Model,
    MultiResolution,
    PredictorCorrector,
    Torus,
    WhiteNoise,
    fit,
    log_likelihood,
    metrics,
    sample,
    upscale,
)
from fnodiff.domain import as_tensor
from fnodiff.inverse import Linear, Masked, MomentMatching, PointObservation, Restriction, twisted
from fnodiff.sde import Normalization, fit_spectra, fit_spectrum
from fnodiff.sde.denoiser import condition_rows
from fnodiff.sde.sampling import seed_list
from fnodiff.train import Adam, Execution, Logging

WHOLE, REAL = np.int64, np.float32
LOW = np.random.default_rng(0).normal(size=(1, 8, 8)).astype("f4")
POINTS = np.random.default_rng(1).random((2, 3))


def with_network(**options):
    torch.manual_seed(0)
    return Model(net(zero_init=False, **options), SDE, EDMScaling())


@pytest.fixture(scope="module")
def classes():
    return with_network(num_classes=3)


@pytest.fixture(scope="module")
def field():
    return with_network(condition_channels=1)


@pytest.mark.parametrize(
    "seeds",
    [3, WHOLE(3), torch.tensor(3), [3], (3,), {3: "x"}.keys(), iter([3]), np.array([3], "u1"), torch.tensor([3])],
    ids=lambda seeds: type(seeds).__name__,
)
def test_seeds_of_every_kind(seeds):
    assert seed_list([3]) == [3] == (found := seed_list(seeds)) and type(found[0]) is int


@pytest.mark.parametrize("seeds", [{1, 2}, "3", 1.0, [], [[1]], None, [True], -1], ids=repr)
def test_what_are_no_seeds(seeds):
    refused(lambda: seed_list(seeds), "expected seeds as whole numbers")


LOWS = {
    "one field": LOW,
    "an axis of one": LOW[None],
    "lists": LOW.tolist(),
    "other bytes": LOW.astype(">f4"),
    "backwards": np.ascontiguousarray(LOW[..., ::-1])[..., ::-1],
    "double": LOW.astype("f8"),
    "a list of arrays": [LOW, LOW],
    "a list of tensors": [torch.from_numpy(LOW)] * 2,
}


@pytest.mark.parametrize("low", LOWS.values(), ids=LOWS)
def test_upscaled_fields_of_every_kind(low):
    expected = upscale(ORACLE, torch.from_numpy(LOW)[None], (16, 16), [0, 1], solver=DPMSolver(2))
    found = upscale(ORACLE, low, WHOLE(16), range(2), solver=DPMSolver(2))
    torch.testing.assert_close(found, expected)


LABELS = {
    "a number": 1,
    "NumPy's": WHOLE(1),
    "an array": np.array([1]),
    "bytes": np.array([1, 1], "u1"),
    "a list": [1, WHOLE(1)],
    "shares for all": [0.0, 1.0, 0.0],
    "shares": np.array([[0, 1.0, 0], [0, 1, 0]]),
}


@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS)
def test_labels_of_every_kind(classes, label):
    expected = draw(classes, [0, 1], label=torch.tensor([1, 1]))
    torch.testing.assert_close(draw(classes, [0, 1], label=label), expected)


FIELDS = {
    "one for all": np.full((1, 16, 16), 2.0, "f4"),
    "one for each": np.full((2, 1, 16, 16), 2.0, "f4"),
    "whole numbers": np.full((1, 16, 16), 2),
    "lists": np.full((1, 8, 8), 2).tolist(),
    "a number": 2,
    "NumPy's number": REAL(2),
}


@pytest.mark.parametrize("value", FIELDS.values(), ids=FIELDS)
def test_fields_of_every_kind(field, value):
    expected = draw(field, [0, 1], field=torch.full((2, 1, 16, 16), 2.0))
    torch.testing.assert_close(draw(field, [0, 1], field=value), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("value", [1, WHOLE(1), REAL(1), [1], np.array([[1]]), {"condition": WHOLE(1)}], ids=repr)
def test_numbers_of_every_kind(value):
    rows = condition_rows(with_network(condition_numbers=1), {"condition": value, "field": None}, 2)
    assert list(rows) == ["condition"] and rows["condition"].tolist() == [[1.0], [1.0]]


WRONG = {
    "a word as label": ({"label": "cat"}, "expected label as numbers"),
    "words as numbers": ({"condition": ["a", "b"]}, "expected condition as numbers"),
    "lists of other lengths": ({"field": [[1, 2], [3]]}, "expected field as numbers"),
    "labels that are real": ({"label": [1.0, 2.0]}, "expected label as whole numbers"),
    "complex numbers": ({"field": np.zeros((1, 8, 8), complex)}, "expected field as real numbers"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_are_no_conditions(name):
    given, message = WRONG[name]
    refused(lambda: condition_rows(ORACLE, given, 2), message)


SEEN = {
    "points": (lambda v: PointObservation(POINTS, v, WHOLE(1)), [[1, 2, 3]]),
    "points of one channel": (lambda v: PointObservation(POINTS.tolist(), v, [1, 1, 1], channels=WHOLE(0)), [1, 2, 3]),
    "averages": (lambda v: Restriction(np.array([8, 8]), v, REAL(1)), (10 * LOW).astype(int)),
    "a mask": (lambda v: Masked(np.eye(8) > 0, v, np.ones(8)), (10 * LOW).astype(int)),
    "a mask of 0 and 1": (lambda v: Masked(np.eye(8, dtype="u1").tolist(), v, 1), (10 * LOW).astype(int)),
    "a masked array": (
        lambda v: Masked(np.eye(8) > 0, np.ma.masked_array(v, np.eye(8)[None] == 0), 1),
        (10 * LOW).astype(int),
    ),
    "an operator": (lambda v: Linear(lambda x: x.mean((2, 3)), v, 1), np.array([1])),
}


@pytest.mark.parametrize("name", SEEN)
def test_observations_of_every_kind(name):
    make, values = SEEN[name]
    seen = make(values)
    assert seen.values.is_floating_point() and seen.noise_std.is_floating_point()
    x = torch.randn(1, 1, 16, 16)
    wanted = torch.as_tensor(np.asarray(values)).float()
    if isinstance(seen, Masked):
        wanted = wanted[:, torch.eye(8).bool()]
    torch.testing.assert_close(seen.targets(seen(x, BOX)), wanted.reshape(1, *seen(x, BOX).shape[1:]))


def test_a_posterior_of_plain_arguments():
    given = {"points": torch.tensor(POINTS), "values": torch.tensor([[1.0, 2.0, 3.0]]), "noise_std": 0.5}
    expected = draw(MomentMatching(ORACLE, PointObservation(**given)), [0, 1])
    plain = PointObservation(POINTS, [1, 2, 3], REAL(0.5))
    torch.testing.assert_close(draw(MomentMatching(ORACLE, plain, iterations=WHOLE(100)), np.arange(2)), expected)
    x = twisted(ORACLE, plain, WHOLE(16), WHOLE(0), particles=WHOLE(4), steps=WHOLE(2))
    assert torch.equal(x, twisted(ORACLE, PointObservation(**given), (16, 16), [0], particles=4, steps=2))


def test_a_log_density_of_one_field():
    both = log_likelihood(ORACLE, torch.from_numpy(LOW)[None], steps=2, seed=1)
    assert torch.equal(both, log_likelihood(ORACLE, LOW, steps=WHOLE(2), seed=WHOLE(1), batch=WHOLE(1)))


SETS = np.random.default_rng(2).normal(size=(2, 6, 1, 16, 16)).astype("f4")
METRICS = {
    "relative_l2": (BOX,),
    "spectrum_error": (BOX,),
    "frechet_distance": (),
    "sliced_wasserstein": (),
    "global_coherence": (BOX,),
    "patch_distance": (),
    "high_band_distance": (BOX, (8, 8)),
}


@pytest.mark.parametrize("name", METRICS)
def test_metrics_of_arrays(name):
    x, y = SETS[..., 0] if name == "frechet_distance" else SETS
    x, y = (v.reshape(6, -1) if name == "frechet_distance" else v for v in (x, y))
    measure = getattr(metrics, name)
    expected = measure(torch.from_numpy(x), torch.from_numpy(y), *METRICS[name])
    torch.testing.assert_close(measure(x, list(y), *METRICS[name]), expected)


@pytest.mark.parametrize("name", ["crps", "energy_score"])
def test_scores_of_arrays(name):
    measure, mask = getattr(metrics, name), np.eye(16)[None, None].repeat(6, 0) > 0
    expected = measure(torch.from_numpy(SETS), torch.from_numpy(SETS[0]) + 1, BOX, mask=torch.from_numpy(mask))
    torch.testing.assert_close(measure([*SETS], SETS[0] + 1, BOX, mask=mask), expected)


def test_spectra_of_arrays():
    assert fit_spectrum(SETS[0], BOX) == fit_spectrum(torch.from_numpy(SETS[0]), BOX)
    assert fit_spectra(SETS[0], BOX).channels[0] == fit_spectrum(SETS[0], BOX)


def test_a_model_of_numpy_s_numbers_is_saved(tmp_path):
    domain = Torus(WHOLE(2), REAL(2.0))
    noise = GaussianRandomField(domain, Matern(REAL(1), torch.tensor(0.25)))
    sizes = {"n_modes": WHOLE(4), "hidden_channels": WHOLE(8), "channel_mult": np.array([1, 2]), "num_blocks": WHOLE(0)}
    network = DFU.tiny(WHOLE(1), WHOLE(1), domain=domain, dropout=REAL(0.5), reference=torch.tensor([16, 16]), **sizes)
    units = Normalization(np.array([1]), torch.tensor([2]))
    model = Model(
        network, FunctionSpaceSDE(noise, EDM(REAL(0.5), WHOLE(50))), EDMScaling(REAL(0.5)), normalization=units
    )
    read = Model.from_pretrained(model.save_pretrained(tmp_path))
    assert read.sde == FunctionSpaceSDE(GaussianRandomField(Torus(2, (2.0, 2.0)), Matern(1.0, 0.25)), EDM(0.5, 50))
    assert read.normalization == Normalization((1.0,), (2.0,)) and read.network.spectral_modes == (4, 4)
    torch.testing.assert_close(draw(read, 0), draw(model, 0))


def test_a_run_of_numpy_s_numbers(tmp_path):
    data = MultiResolution(Drawn(4), BOX, np.array([16]), np.array([1]), batch_size=WHOLE(2), seed=WHOLE(1))
    model = Model(DFU.tiny(3, 3, num_blocks=0), SDE, EDMScaling())
    adam = Adam(REAL(1e-3), WHOLE(3), REAL(0.5), WHOLE(1), WHOLE(100), np.array([0.5, 0.75]))
    options = {"optimizer": adam, "logging": Logging(progress=False), "folder": tmp_path}
    fit(model, data, WHOLE(1), minutes=REAL(1), execution=Execution(None, WHOLE(2), WHOLE(0), WHOLE(1)), **options)
    assert Model.from_pretrained(tmp_path).training_shapes == ((16, 16),)


def test_solvers_of_numpy_s_numbers():
    assert PredictorCorrector(WHOLE(2), None, WHOLE(1), REAL(0.25)) == PredictorCorrector(2, None, 1, 0.25)
    expected = sample(ORACLE, (16, 16), [0], solver=Heun(2, churn=0.5))
    found = sample(ORACLE, np.array([16, 16]), WHOLE(0), solver=Heun(WHOLE(2), churn=REAL(0.5)), batch=WHOLE(1))
    torch.testing.assert_close(found, expected)


def test_values_that_are_masked_are_not_numbers():
    masked = np.ma.masked_array([1, 2, 3], [False, True, False])
    assert as_tensor(masked).isnan().tolist() == [False, True, False]
    assert as_tensor(np.ma.masked_array([1, 2])).tolist() == [1, 2]


def test_a_grid_of_every_kind():
    for shape in (8, WHOLE(8), torch.tensor(8), [8, 8], np.array([8, 8]), torch.tensor([8, 8]), torch.Size([8, 8])):
        assert WhiteNoise(BOX, shape).reference == (8, 8)
