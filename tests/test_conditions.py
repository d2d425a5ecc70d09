"""Numbers as conditions, through data, units, training, guidance, sampling, reports and files."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from neuralop.models import FNO

from fnodiff import (
    DFU,
    EDM,
    Box,
    ClassifierFree,
    DenoisingLoss,
    Direct,
    DPMSolver,
    EDMScaling,
    FunctionSpaceSDE,
    Model,
    MultiResolution,
    Torus,
    WhiteNoise,
    fit,
    sample,
)
from fnodiff.data import ArrayFields, HDF5Fields, Part, write_fields
from fnodiff.hub import model_card
from fnodiff.nn import NeuralOperator
from fnodiff.report import invariance_report
from fnodiff.sde import GaussianDenoiser, GaussianRandomField, Given, Matern, Normalization
from fnodiff.sde.denoiser import condition_rows
from fnodiff.train import Adam, Logging

NAMES = ("viscosity", "lead time")
SOLVER, QUIET = DPMSolver(4), Logging(progress=False)


def numbers(count=32):
    """A viscosity from 0.001 to 0.003, and lead times of 0 to 48 hours."""
    random = torch.Generator().manual_seed(0)
    return torch.rand(count, 2, generator=random) * torch.tensor([0.002, 48.0]) + torch.tensor([0.001, 0.0])


def batches(count=32, **options):
    given = {"condition": numbers(count), "condition_names": NAMES, **options}
    x = torch.randn(count, 1, 24, 24, generator=torch.Generator().manual_seed(1))
    return MultiResolution(ArrayFields(x, domain=Torus(2), **given), Torus(2), [16, 24], batch_size=16)


def small_model(network=DFU.tiny, **options):
    model = Model.for_data(batches(**options), network, noise=WhiteNoise(Torus(2), (24, 24)), schedule=EDM())
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


class TestRows:
    """What `condition=` may be, and what a model of two numbers makes of it for three samples."""

    model = Model(
        DFU.tiny(1, 1, condition_numbers=2), FunctionSpaceSDE(WhiteNoise(Box(2), (16, 16)), EDM()), EDMScaling()
    )
    model.condition_names = NAMES
    one = Model(DFU.tiny(1, 1, condition_numbers=1), model.sde, EDMScaling())

    @pytest.mark.parametrize(
        ("given", "rows"),
        [
            ([1.0, 2.0], [[1, 2]] * 3),
            (np.array([1, 2]), [[1, 2]] * 3),
            ([[1.0, 2.0]], [[1, 2]] * 3),
            ([[1, 2], [3, 4], [5, 6]], [[1, 2], [3, 4], [5, 6]]),
            ({"viscosity": 1.0, "lead time": 2}, [[1, 2]] * 3),
            ({"lead time": [1, 2, 3], "viscosity": 5.0}, [[5, 1], [5, 2], [5, 3]]),
            ({"lead time": np.float64(2)}, [[math.nan, 2]] * 3),
            ([math.nan, 2.0], [[math.nan, 2]] * 3),
        ],
        ids=str,
    )
    def test_two_numbers(self, given, rows):
        found = condition_rows(Given(self.model), {"condition": given}, 3)["condition"]
        torch.testing.assert_close(found, torch.tensor(rows, dtype=found.dtype), equal_nan=True)

    @pytest.mark.parametrize(
        ("given", "rows"),
        [(0.5, [[0.5]] * 3), (2, [[2]] * 3), ([1, 2, 3], [[1], [2], [3]]), (torch.ones(3, 1), [[1]] * 3)],
        ids=str,
    )
    def test_one_number(self, given, rows):
        found = condition_rows(self.one, {"condition": given}, 3)["condition"]
        torch.testing.assert_close(found, torch.tensor(rows, dtype=found.dtype))

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ([1.0, 2.0, 3.0], r"expected 2 numbers \(viscosity, lead time\)"),
            (0.1, r"expected 2 numbers"),
            ([[1.0, 2.0]] * 2, "one row for each of the 3 seeds"),
            ({"vicosity": 1.0}, r"among \['viscosity', 'lead time'\], got \['vicosity'\]"),
            ({"viscosity": [1.0, 2.0]}, "one for each of 3 samples"),
            ([math.inf, 0.0], "got infinite ones"),
        ],
        ids=str,
    )
    def test_what_does_not_fit_is_refused(self, given, message):
        with pytest.raises(ValueError, match=message):
            condition_rows(self.model, {"condition": given}, 3)


class TestUnits:
    def test_numbers_are_scaled_by_the_data_for_the_network(self):
        model, given = small_model(), numbers()
        assert model.condition_names == NAMES and model.network.condition_numbers == 2
        units = model.condition_normalization["condition"]
        assert units.mean == pytest.approx(given.mean(0).tolist(), rel=0.05)
        assert units.std == pytest.approx(given.std(0).tolist(), rel=0.05)
        seen = {}
        model.network.embed_numbers.register_forward_hook(lambda _, inputs, out: seen.update(x=inputs[0]))
        sample(model, (16, 16), [0, 1], solver=SOLVER, plan=Direct(), condition={"viscosity": 0.002, "lead time": 24})
        assert float(seen["x"].abs().max()) < 0.3 and seen["x"].shape == (2, 2)

    @pytest.mark.parametrize(
        "network", [DFU.tiny, NeuralOperator.of(FNO, n_modes=(8, 8), hidden_channels=8)], ids=["DFU", "FNO"]
    )
    def test_each_number_changes_samples_and_so_does_leaving_it_out(self, network):
        model = small_model(network)
        run = {"solver": SOLVER, "plan": Direct()}
        usual = sample(model, (16, 16), [0], condition=[0.002, 24.0], **run)
        for other in ([0.003, 24.0], [0.002, 0.0], [math.nan, 24.0], [0.002, math.nan]):
            changed = sample(model, (16, 16), [0], condition=other, **run)
            assert bool(changed.isfinite().all()) and float((changed - usual).abs().max()) > 1e-4, other

    def test_one_for_each_sample_is_the_same_as_each_alone(self):
        model = small_model()
        run = {"solver": SOLVER, "plan": Direct()}
        values = [[0.001, 0.0], [0.003, 12.0], [0.002, 48.0]]
        together = sample(model, (16, 16), range(3), condition=values, batch=2, **run)
        alone = [sample(model, (16, 16), [i], condition=value, **run) for i, value in enumerate(values)]
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


class TestGuidance:
    def test_numbers_are_left_out_as_not_given_rather_than_as_their_mean(self):
        model = small_model()
        mean = torch.tensor(model.condition_normalization["condition"].mean)[None]
        left_out = model.without({"condition": mean}, ["condition"])["condition"]
        assert bool(left_out.isnan().all())
        x, t = torch.randn(1, 1, 16, 16), torch.tensor(0.5)
        apart = model(x, t, condition=left_out) - model(x, t, condition=mean)
        assert float(apart.abs().max()) > 1e-4
        where = torch.tensor([True, False])
        half = model.without({"condition": mean.repeat(2, 1)}, ["condition"], where)["condition"]
        assert half.isnan().all(1).tolist() == [True, False]

    def test_training_drops_them_and_guidance_runs(self):
        model, seen = small_model(), []
        model.network.embed_numbers.register_forward_hook(lambda _, inputs, out: seen.append(inputs[0].isnan().all(1)))
        loss = DenoisingLoss(model, drop_condition=0.3)
        batch = {"x": torch.randn(64, 1, 16, 16), "condition": numbers(64)}
        assert bool(loss(**batch, generator=torch.Generator().manual_seed(0)).isfinite().all())
        assert 0.3 < float(seen[0].float().mean()) < 0.7, "1 - 0.7 ** 2 = 0.51"
        guided = ClassifierFree(model, 2.0)
        x = sample(guided, (16, 16), [0, 1], solver=SOLVER, condition={"viscosity": [0.001, 0.002], "lead time": 3})
        assert bool(x.isfinite().all())


class TestLabelShares:
    """Labels as shares of the classes, (N, K) floats: EDM's one-hot labels and mixtures of them."""

    def test_a_one_hot_label_is_the_class(self):
        net = DFU.tiny(1, 1, num_classes=3, zero_init=False).eval()
        x, level, label = torch.randn(3, 1, 16, 16), torch.zeros(3), torch.tensor([0, 2, -1])
        shares = torch.cat([torch.eye(3)[label[:2]], torch.zeros(1, 3)])
        torch.testing.assert_close(net(x, level, label=shares), net(x, level, label=label))

    def test_data_with_shares_are_trained_on_and_sampled(self):
        fields = ArrayFields(torch.randn(8, 16, 16), label=torch.rand(8, 2).softmax(1), domain=Box(2))
        assert fields.num_classes == 2
        data = MultiResolution(fields, Box(2), [12, 16], batch_size=4)
        model = fit(Model.for_data(data, DFU.tiny), data, 5, logging=QUIET)
        for shape in ((12, 12), (20, 16)):
            assert sample(model, shape, [0, 1], solver=SOLVER, label=[[0.2, 0.8]]).shape == (2, 1, *shape)
            assert sample(model, shape, [0, 1], solver=SOLVER, label=1).shape == (2, 1, *shape)

    def test_left_out_they_are_zero(self):
        model = Model(
            DFU.tiny(1, 1, num_classes=2), FunctionSpaceSDE(WhiteNoise(Box(2), (16, 16)), EDM()), EDMScaling()
        )
        assert model.without({"label": torch.rand(3, 2)}, ["label"])["label"].abs().max() == 0


class TestKept:
    def test_a_model_keeps_names_and_units(self, tmp_path):
        model = small_model()
        back = Model.from_pretrained(model.save_pretrained(tmp_path))
        assert back.condition_names == NAMES and back.condition_normalization == model.condition_normalization
        run = {"solver": SOLVER, "plan": Direct(), "condition": {"viscosity": 0.001, "lead time": 6}}
        assert torch.equal(sample(back, (16, 16), [0], **run), sample(model, (16, 16), [0], **run))

    def test_fit_writes_them_too(self, tmp_path):
        data = batches()
        model = Model.for_data(data, DFU.tiny, noise=WhiteNoise(Torus(2), (24, 24)), schedule=EDM())
        fit(model, data, 2, folder=tmp_path, logging=QUIET)
        back = Model.from_pretrained(tmp_path)
        assert back.condition_names == NAMES
        with pytest.warns(UserWarning, match="trained without drop_condition"):
            ClassifierFree(back, 2.0)
        ClassifierFree(back, 1.0)
        with pytest.warns(UserWarning, match="left out, and the model was trained without drop_condition"):
            condition_rows(back, {"condition": {"viscosity": 0.001}}, 3)
        condition_rows(back, {"condition": {"viscosity": 0.001, "lead time": 6}}, 3)
        fit(back, data, 1, loss=DenoisingLoss(back, drop_condition=0.1), logging=QUIET)
        ClassifierFree(back, 2.0)
        condition_rows(back, {"condition": {"viscosity": 0.001}}, 3)

    def test_a_file_keeps_numbers_and_names(self, tmp_path):
        source = batches().fields
        about = {"source": "random numbers", "licence": "none", "grid": "points"}
        write_fields(tmp_path / "x.h5", source, [(16, 16), (24, 24)], attributes=about, dtype="float32", progress=False)
        back = HDF5Fields(tmp_path / "x.h5")
        assert back.condition_names == NAMES
        torch.testing.assert_close(back.batch([3, 1, 3], (16, 16))["condition"], numbers()[[3, 1, 3]])
        data = MultiResolution(Part(back, range(20)), Torus(2), [16], batch_size=4)
        assert data.condition_names == NAMES and data[0]["condition"].shape == (4, 2)
        assert Part(back, range(4), ["x"]).condition_names == ()

    def test_names_by_default(self):
        x = torch.zeros(4, 1, 16, 16)
        assert ArrayFields(x, domain=Box(2), condition=[1, 2, 3, 4]).condition_names == ("condition",)
        assert ArrayFields(x, domain=Box(2), condition=np.ones((4, 2))).condition_names == (
            "condition 0",
            "condition 1",
        )
        assert ArrayFields(x, domain=Box(2)).condition_names == ()
        for wrong in (
            {"condition": [1, 2, 3]},
            {"condition": [1, 2, 3, math.nan]},
            {"condition": [1] * 4, "condition_names": NAMES},
        ):
            with pytest.raises(ValueError, match="expected"):
                ArrayFields(x, domain=Box(2), **wrong)

    def test_the_card_names_them(self):
        text = model_card(small_model(), "me/flow", "a table", licence="mit", description="a flow")
        assert 'condition={"viscosity": ' in text and '"lead time": ' in text
        assert "conditions | viscosity (0.00" in text and "in the data), lead time (" in text


def test_a_conditioned_model_is_reported_on_with_the_data_s_own_numbers():
    data, model = batches(), small_model()
    seen = []
    model.network.embed_numbers.register_forward_hook(lambda _, inputs, out: seen.append(inputs[0]))
    found = invariance_report(model, [(16, 16), (24, 24)], data.fields, samples=4, solver=DPMSolver(2), batch=4)
    assert "spectrum" in str(found)
    units = model.condition_normalization["condition"]
    torch.testing.assert_close(seen[0], units(numbers()[:4]))
    named = invariance_report(model, [(16, 16), (24, 24)], samples=3, solver=DPMSolver(2), condition=[0.001, 0.0])
    assert named.rows[16, 16]["samples"] == 0


def test_data_whose_numbers_lie_in_another_order_are_refused():
    model, swapped = small_model(), batches(condition_names=NAMES[::-1])
    with pytest.raises(ValueError, match="the numbers viscosity, lead time, in the model's order, got lead time, visc"):
        fit(model, swapped, 1)
    with pytest.raises(ValueError, match="in the model's order"):
        invariance_report(model, [(16, 16), (24, 24)], swapped.fields, samples=2)


@pytest.mark.slow
def test_a_number_is_learnt_and_wanted_values_come_out():
    """Waves whose height is the number, from 1 to 3: the samples' heights follow it, on two grids."""
    height = 1 + 2 * torch.rand(512, generator=torch.Generator().manual_seed(0))
    phase = torch.rand(512, 1, generator=torch.Generator().manual_seed(1))
    x = height[:, None] * math.sqrt(2) * torch.cos(2 * math.pi * (torch.arange(24) / 24 + phase))
    data = MultiResolution(
        ArrayFields(x, domain=Torus(1), condition=height, condition_names="height"), Torus(1), [16, 24]
    )
    fno = NeuralOperator.of(FNO, n_modes=(8,), hidden_channels=16, n_layers=2, embedding_channels=32)
    model = Model.for_data(data, fno, noise=WhiteNoise(Torus(1), (24,)), schedule=EDM())
    fit(model, data, 200, optimizer=Adam(5e-3, ema_halflife=1000), logging=QUIET)
    for shape in ((16,), (31,)):
        made = sample(model, shape, range(24), solver=DPMSolver(8), plan=Direct(), condition=[1.0] * 12 + [3.0] * 12)
        low, high = made.square().mean((1, 2)).sqrt().reshape(2, 12).mean(1).tolist()
        assert 0.6 < low < 1.5 and 2.3 < high < 3.5, (shape, low, high)


def test_a_users_denoiser_without_names_takes_rows_as_they_are():
    field = GaussianRandomField(Torus(1), Matern(1.0, 0.3))
    plain = GaussianDenoiser(field, FunctionSpaceSDE(field, EDM()))
    assert condition_rows(plain, {"condition": torch.ones(3, 7)}, 3)["condition"].shape == (3, 7)
    plain.condition_normalization["condition"] = Normalization([0.0, 1.0], [1.0, 1.0])
    assert condition_rows(plain, {"condition": [1.0, 2.0]}, 3)["condition"].shape == (3, 2)
