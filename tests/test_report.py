"""The report of what the grid changes, and its distances; the command is in test_cli_evaluate.py."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

from fnodiff import (
    DFU,
    EDM,
    Box,
    ClassifierFree,
    EDMScaling,
    FunctionSpaceSDE,
    GaussianRandomField,
    Matern,
    Model,
    MultiResolution,
    PixelNoise,
    Product,
    Sphere,
    Torus,
    WhiteNoise,
    metrics,
    sample,
)
from fnodiff.data import ArrayFields
from fnodiff.report import _sliced, invariance_report, table
from fnodiff.sde import (
    Cascade,
    DataSpectrum,
    Direct,
    DPMSolver,
    GaussianDenoiser,
    Given,
    Normalization,
    Progressive,
    Wrapper,
)


class Draws:
    """Gaussian fields, the same on every grid."""

    channels = 1

    def __init__(self, field, count=400):
        self.field, self.count = field, count

    def __len__(self):
        return self.count

    def batch(self, indices, shape):
        generator = [torch.Generator().manual_seed(50_000 + int(i)) for i in indices]
        return {"x": self.field.sample((len(indices), 1, *shape), generator=generator)}


DATA = GaussianRandomField(Torus(2), Matern(1.0, 0.2))


@pytest.mark.parametrize("domain", [Torus(2), Box(2), Product([Torus(1), Box(1)])], ids=str)
def test_an_operator_makes_the_same_functions_on_every_grid_and_pixel_noise_does_not(domain):
    errors, data = {}, GaussianRandomField(domain, Matern(1.0, 0.2))
    for noise in (GaussianRandomField(domain, Matern(0.5, 0.2)), PixelNoise(domain)):
        oracle = GaussianDenoiser(data, FunctionSpaceSDE(noise, EDM()))
        found = invariance_report(
            oracle, [(12, 12), (18, 12), (24, 24)], Draws(data), samples=100, solver=DPMSolver(30), batch=100
        )
        assert list(found.rows) == [(12, 12), (18, 12), (24, 24)]
        errors[type(noise)] = found.rows[24, 24]
        for shape, row in found.rows.items():
            assert row["spectrum"] < 0.1 and 0 < found.truth[shape]["spectrum"] < 0.1
            assert row["sliced"] < 2 * found.truth[shape]["sliced"]
    exact, pixel = errors.values()
    assert exact["samples"] < 1e-4 and exact["denoiser"] < 1e-5
    assert pixel["samples"] > 0.1 and pixel["denoiser"] > 0.05


def test_a_model_that_knows_the_grid_is_found_out():
    class Grid(nn.Module):
        """Adds its number of points."""

        out_channels = 1

        def forward(self, x, noise_level):
            return x + x.shape[-1] / 16

    sde = FunctionSpaceSDE(GaussianRandomField(Box(2), Matern(1.0, 0.2)), EDM())
    found = invariance_report(Model(Grid(), sde, EDMScaling(1.0)), [(16, 16), (32, 32)], samples=8)
    assert found.rows[16, 16]["denoiser"] == 0 and found.rows[32, 32]["denoiser"] > 0.1
    assert set(found.rows[32, 32]) == {"samples", "denoiser", "sliced"} and not found.truth
    assert "8 samples" in str(found) and "truth" not in str(found)


def test_one_dimension_and_its_figure(tmp_path):
    domain = Torus(1)
    data = GaussianRandomField(domain, Matern(1.0, 0.2))
    found = invariance_report(
        GaussianDenoiser(data, FunctionSpaceSDE(data, EDM())), [(16,), (32,)], Draws(data), samples=20
    )
    assert "16" in str(found)
    with pytest.raises(ValueError, match="two dimensions"):
        found.plot()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shapes": [(16, 16)]}, "two or more different"),
        ({"shapes": [(16, 16), (16, 16)]}, "two or more different"),
        ({"shapes": [(16, 16), (8, 32)]}, "coarsest first"),
        ({"samples": 1}, "two samples or more"),
        ({"samples": 250}, "twice as many"),
        ({"inception": True}, "images of 3 channels"),
        ({"reference": ArrayFields(torch.zeros(8, 16, 16), domain=Box(2))}, "fields on Torus.*got ArrayFields on Box"),
    ],
)
def test_bad_input(options, message):
    oracle = GaussianDenoiser(DATA, FunctionSpaceSDE(DATA, EDM()))
    with pytest.raises(ValueError, match=message):
        invariance_report(oracle, **{"shapes": [(12, 12), (16, 16)], "reference": Draws(DATA), "samples": 4, **options})


def test_a_grid_that_the_truth_lacks_is_known_before_samples_are_drawn(monkeypatch):
    monkeypatch.setattr("fnodiff.report.sample", lambda *_, **__: pytest.fail("sampled"))
    truth = ArrayFields(torch.zeros(8, 12, 12), domain=Torus(2))
    with pytest.raises(ValueError, match=r"no finer than \(12, 12\)"):
        invariance_report(GaussianDenoiser(DATA, FunctionSpaceSDE(DATA, EDM())), [(12, 12), (16, 16)], truth, samples=4)


def test_channels_are_the_denoisers():
    oracle = GaussianDenoiser(DATA, FunctionSpaceSDE(DATA, EDM()), channels=None)
    with pytest.raises(ValueError, match="expected a denoiser that knows its channels"):
        invariance_report(oracle, [(12, 12), (16, 16)], samples=2)
    oracle.channels = 3
    with pytest.raises(ValueError, match="true fields of 3 channels, as the model's, got 1"):
        invariance_report(oracle, [(12, 12), (16, 16)], Draws(DATA), samples=2)


def test_a_network_that_sees_the_linear_estimate_samples_as_many_channels_as_it_gives():
    sde = FunctionSpaceSDE(GaussianRandomField(Torus(2), Matern(1.0, 0.2)), EDM())
    spectrum = DataSpectrum((0.0, 1.0, 10.0), (1e-2, 1e-2, 1e-3), 3.0, 1e-8)
    net = DFU.tiny(4, 2, domain=Torus(2), num_blocks=0)
    model = Model(net, sde, EDMScaling(linear_estimate=True), spectrum=spectrum).eval()
    found = invariance_report(model, [(12, 12), (16, 16)], samples=4, solver=DPMSolver(2))
    assert {shape: x.shape[1] for shape, x in found.samples.items()} == {(12, 12): 2, (16, 16): 2}


@pytest.mark.parametrize("plan", [None, Direct(), Progressive([(12, 12)]), Cascade([(12, 12)])], ids=str)
def test_solver_plan_and_seeds_are_those_that_are_given(plan):
    oracle = GaussianDenoiser(DATA, FunctionSpaceSDE(WhiteNoise(Torus(2), (24, 24)), EDM()), cell_averages=True)
    oracle.training_shapes = ((8, 8),)
    found = invariance_report(oracle, [(12, 12), (24, 24)], samples=3, solver=DPMSolver(5), plan=plan, seed=2)
    expected = sample(oracle, 24, range(20_000, 20_003), solver=DPMSolver(5), plan=plan)
    assert torch.equal(found.samples[24, 24], expected)


def test_a_condition_is_one_for_all_or_one_for_each():
    class Shifted(GaussianDenoiser):
        """Moved by its label."""

        def forward(self, x_t, t, *, label):
            return super().forward(x_t, t) + label[:, None, None, None]

    shifted = Shifted(DATA, FunctionSpaceSDE(DATA, EDM()))
    plain, all_, each = (
        invariance_report(shifted, [(8, 8), (12, 12)], samples=4, batch=3, solver=DPMSolver(12), label=label)
        for label in (0, 2, torch.tensor([0, 2, 0, 2]))
    )
    assert torch.equal(each.samples[8, 8][[0, 2]], plain.samples[8, 8][[0, 2]])
    torch.testing.assert_close(each.samples[8, 8][[1, 3]], all_.samples[8, 8][[1, 3]])
    assert float((all_.samples[8, 8] - plain.samples[8, 8]).mean()) > 1
    assert each.rows[12, 12]["denoiser"] < 1e-4


def test_guided_samples_have_the_conditions_of_the_true_fields_unless_others_are_bound():
    x = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    fields = ArrayFields(x, field=x, domain=Box(2))
    data = MultiResolution(fields, Box(2), [8, 16], batch_size=4)
    model = Model.for_data(data, partial(DFU.tiny, zero_init=False)).eval()
    own, others = (Given(model, field=fields.batch(rows, (8, 8))["field"]) for rows in ([0, 1], [2, 3]))
    alone, guided, bound, other = (
        invariance_report(denoiser, [8, 16], fields, samples=2, solver=DPMSolver(2)).samples
        for denoiser in (model, ClassifierFree(model, 1.0), own, others)
    )
    for shape, expected in alone.items():
        assert torch.equal(guided[shape], expected) and torch.equal(bound[shape], expected)
        assert (other[shape] - expected).abs().max() > 0.01


def test_a_model_in_training_is_reported_on_without_dropout_and_stays_in_training():
    sde = FunctionSpaceSDE(WhiteNoise(Box(2), (8, 8)), EDM())
    model = Model(DFU.tiny(1, 1, dropout=0.5, zero_init=False), sde, EDMScaling()).train()
    first, again = (invariance_report(model, [8, 12], samples=2, solver=DPMSolver(2)) for _ in range(2))
    assert model.training and first.rows == again.rows


def test_the_high_band_is_what_the_largest_training_grid_lacks():
    data = GaussianRandomField(Box(2), Matern(1.0, 0.2))
    oracle = GaussianDenoiser(data, FunctionSpaceSDE(data, EDM()))
    oracle.training_shapes = ((8, 8), (12, 12))
    found = invariance_report(oracle, [(12, 12), (16, 20)], Draws(data), samples=40)
    assert "high band" not in found.rows[12, 12] and found.rows[16, 20]["energy"] == pytest.approx(1.0, abs=0.3)
    assert found.rows[16, 20]["high band"] < 0.3 and found.truth[16, 20]["high band"] < 0.3
    x, y = found.samples[16, 20], Draws(data).batch(range(40), (16, 20))["x"]
    assert found.rows[16, 20]["high band"] == metrics.high_band_distance(x, y, Box(2), (12, 12))[0]


def test_a_table_has_a_dash_where_there_is_no_number():
    rows = {("16x16", "sampled"): {"spectrum": 0.25}, ("32x32", "sampled"): {"spectrum": 1.5, "high band": 0.125}}
    lines = [line.split() for line in table(rows).splitlines()]
    assert lines[0] == ["spectrum", "high", "band"]
    assert lines[1:] == [["16x16", "sampled", "0.250", "-"], ["32x32", "sampled", "1.500", "0.125"]]


def test_the_poles_count_by_their_area():
    # Noise of variance one, and a difference at the poles alone, where many points share little area.
    domain, shape = Sphere(), (16, 32)
    x = torch.randn(64, 2, *shape, generator=torch.Generator().manual_seed(0))
    there = torch.zeros(shape)
    there[[0, -1]] = 1.0
    share = float((domain.weights(shape) * there).sum())
    assert share < 0.4 * float(there.mean())
    found = _sliced(x + 3 * there, x, domain)
    assert found == pytest.approx(3 * math.sqrt(share), rel=0.25)
    assert _sliced(2 * x + 7, 2 * x, domain) == pytest.approx(3.5, rel=0.2), "in spreads, about the mean"


def test_a_channel_of_small_units_counts_as_much():
    class Broken(Wrapper):
        """On finer grids its second channel is noise."""

        def forward(self, x_t, t, **condition):
            x = self.denoiser(x_t, t, **condition)
            return x if x.shape[-1] < 16 else torch.cat([x[:, :1], 5 * torch.randn_like(x[:, 1:])], dim=1)

    units = Normalization((0.0, 0.0), (1.0, 0.001))
    oracle = GaussianDenoiser(DATA, FunctionSpaceSDE(DATA, EDM()), channels=2, normalization=units)
    shapes = [(12, 12), (16, 16)]
    good, bad = (invariance_report(v, shapes, samples=16).rows[16, 16] for v in (oracle, Broken(oracle)))
    assert good["samples"] < 1e-3 < 1.0 < bad["samples"] and bad["sliced"] > good["sliced"] + 0.5


def test_a_constant_channel_does_not_blow_up():
    x = torch.full((4, 2, 48, 48), 0.1)
    x[:, 0] = torch.randn(4, 48, 48, generator=torch.Generator().manual_seed(0))
    y = x.clone()
    y[:, 1] += 1e-3
    assert _sliced(y, x, Box(2)) < 0.01


def test_sliced_wasserstein():
    torch.manual_seed(0)
    x = torch.randn(2000, 2, 3, 3)
    assert metrics.sliced_wasserstein(x, x.flip(0)) == 0
    assert metrics.sliced_wasserstein(x, x + 0.5) == pytest.approx(0.5, rel=0.15)
    assert metrics.sliced_wasserstein(x, 3 * x) == pytest.approx(2.0, rel=0.05)
    assert metrics.sliced_wasserstein(x, torch.randn_like(x)) < 0.1
    with pytest.raises(ValueError, match="as many of both"):
        metrics.sliced_wasserstein(x, x[:5])


def test_inception_distances_of_given_features():
    class Means(nn.Module):
        """Mean colours, in [0, 1]."""

        num_features = 3

        def forward(self, x):
            assert x.dtype == torch.uint8
            return x.double().mean((2, 3)) / 255

    torch.manual_seed(0)
    x, y = torch.rand(300, 3, 8, 8) - 0.2, torch.rand(300, 3, 8, 8)
    fid, kid = metrics.inception_distances(x, y, feature=Means())
    assert fid == pytest.approx(metrics.frechet_distance((x.mean((2, 3)) + 1) / 2, (y.mean((2, 3)) + 1) / 2), rel=0.05)
    assert fid == pytest.approx(3 * 0.1**2, rel=0.05) and kid > 0
    assert abs(metrics.inception_distances(y[:150], y[150:], feature=Means())[1]) < kid / 10
    with pytest.raises(ValueError, match="3 channels"):
        metrics.inception_distances(x[:, :1], y, feature=Means())
    assert math.isfinite(kid)
