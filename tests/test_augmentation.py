"""Augmentation that does not leak: the maps, their numbers, and models that are told."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fnodiff import DFU, Box, DenoisingLoss, Model, MultiResolution, Sphere, Torus, fit, sample
from fnodiff.data import ArrayFields, Augmentation
from fnodiff.domain import Product
from fnodiff.train import Logging
from fnodiff.train.loop import _Share

ALWAYS = {"probability": 1.0, "mirror": False, "shift": 0.0, "turn": 0.0, "scale": 0.0}
DOMAINS = [Box(1), Box(2), Box(3), Torus(1), Torus(2), Product([Torus(1), Box(1)]), Sphere()]


def smooth(domain, shape, seed=0):
    """A sample (2, *shape) with few modes, the same function on every grid."""
    coarse = domain.shape_of(8)
    x = domain.synthesize(domain.white((1, 2), coarse, generator=torch.Generator().manual_seed(seed)), coarse)
    return domain.resample(x.double(), shape)[0]


def seen(augmentation, x, domain, seed=0):
    return augmentation(x, domain, np.random.default_rng(seed))


class TestMaps:
    @pytest.mark.parametrize("domain", DOMAINS, ids=str)
    def test_the_same_map_on_two_grids_is_the_same_function(self, domain):
        # Turns and scales fold the field at the walls, which takes more modes than a grid has: they are tried below.
        augmentation, small, large = Augmentation(1.0, turn=0.0, scale=0.0), domain.shape_of(25), domain.shape_of(50)
        augmentation = Augmentation(1.0, shift=0.0, turn=0.0, scale=0.0) if "wall" in domain.edges else augmentation
        (x, a), (y, b) = (seen(augmentation, smooth(domain, shape), domain) for shape in (small, large))
        torch.testing.assert_close(domain.resample(y[None], small)[0], x, rtol=0, atol=1e-6)
        assert torch.equal(a, b)

    @pytest.mark.parametrize(
        ("domain", "shape"), [(Box(2), (9, 12)), (Torus(2), (9, 12)), (Sphere(), (8, 16))], ids=str
    )
    def test_mirrored_is_f_at_the_mirrored_points(self, domain, shape):
        x = smooth(domain, shape)
        y, numbers = seen(Augmentation(**ALWAYS | {"mirror": True}), x, domain)
        points = torch.stack(
            [length - p for p, length in zip(domain.points(shape, dtype=torch.float64), domain.lengths, strict=True)]
        )
        torch.testing.assert_close(y, domain.evaluate(x[None], points)[0], rtol=0, atol=1e-5)
        assert numbers.tolist() == [1.0, 1.0]

    @pytest.mark.parametrize("domain", [Torus(1), Torus(2, lengths=(2.0, 3.0))], ids=str)
    def test_shifted_by_the_numbers_that_are_given(self, domain):
        shape = domain.shape_of(16) if domain.dim == 1 else (16, 24)
        x = smooth(domain, shape)
        y, numbers = seen(Augmentation(**ALWAYS | {"shift": 1.0}), x, domain)
        points = domain.points(shape, dtype=torch.float64)
        for axis, length in enumerate(domain.lengths):
            cos, sin = numbers[2 * axis : 2 * axis + 2].double() + torch.tensor([1.0, 0.0])
            points[axis] -= float(torch.atan2(sin, cos)) / (2 * math.pi) * length
        torch.testing.assert_close(y, domain.evaluate(x[None], points)[0], rtol=0, atol=1e-5)

    def test_turned_and_scaled_as_the_numbers_say(self):
        x = smooth(Box(2), (32, 32))
        options = {"turn": 30.0, "scale": 0.3}
        y, numbers = seen(Augmentation(**ALWAYS | options), x, Box(2))
        cos, sin, factor = float(numbers[0]) + 1, float(numbers[1]), 2 ** (0.3 * float(numbers[2]))
        assert abs(math.degrees(math.atan2(sin, cos))) <= 30
        assert cos**2 + sin**2 == pytest.approx(1, abs=1e-6)
        centre = Box(2).points((32, 32), dtype=torch.float64)[:, 10:22, 10:22] - 0.5
        back = torch.stack([cos * centre[0] + sin * centre[1], cos * centre[1] - sin * centre[0]]) / factor + 0.5
        torch.testing.assert_close(y[:, 10:22, 10:22], Box(2).evaluate(x[None], back)[0], rtol=0, atol=1e-4)

    def test_walls_reflect(self):
        x = torch.linspace(0, 1, 64, dtype=torch.float64)[None]
        y, (number,) = seen(Augmentation(**ALWAYS | {"shift": 0.25}), x, Box(1), seed=1)
        shift = 0.25 * float(number)
        places = (Box(1).points((64,), dtype=torch.float64)[0] - shift).abs()
        expected = torch.where(places > 1, 2 - places, places)
        assert abs(shift) > 0.05
        assert float((y[0] - expected).abs().max()) < 0.02

    def test_each_map_as_often_as_it_should_be(self):
        augmentation, domain = Augmentation(0.3), Box(2)
        rng, x = np.random.default_rng(0), torch.zeros(1, 4, 4)
        numbers = torch.stack([augmentation(x, domain, rng)[1] for _ in range(1000)])
        shares = (numbers != 0).double().mean(0)
        names = augmentation.names(domain)
        assert names == ("mirror 0", "shift 0", "mirror 1", "shift 1", "cos turn - 1", "sin turn", "scale")
        assert float((shares - 0.3).abs().max()) < 4 * math.sqrt(0.3 * 0.7 / 1000)
        together = torch.corrcoef((numbers != 0).double().T)
        together[4:6, 4:6] = 0  # both of the turn
        assert float((together - together.diag().diag()).abs().max()) < 4 / math.sqrt(1000), "each happens on its own"

    @pytest.mark.parametrize(
        "options",
        [{"probability": 0.0}, {"probability": 1.5}, {"shift": -1.0}, {"turn": 200.0}, {"scale": math.inf}],
        ids=str,
    )
    def test_bad_numbers(self, options):
        with pytest.raises(ValueError, match="Augmentation: expected"):
            Augmentation(**options)


BOX = Box(2)


def batches(domain=BOX, mask=None, **options):
    x = torch.stack([smooth(domain, domain.shape_of(16), seed).float() for seed in range(8)])
    fields = ArrayFields(x, field=x[:, :1], domain=domain, mask=mask)
    return MultiResolution(fields, domain, [8, 16], batch_size=4, augmentation=Augmentation(0.5, **options))


class TestBatches:
    def test_a_batch_is_the_same_each_time_and_its_field_goes_the_same_way(self):
        data = batches()
        first, again, plain = data[3], data[3], data.take(data.indices(3), data.shape(3))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert first["augmentation"].shape == (4, 7)
        torch.testing.assert_close(first["field"], first["x"][:, :1])
        same = (first["augmentation"] == 0).all(1)
        for i in range(4):
            assert torch.equal(first["x"][i], plain["x"][i]) == bool(same[i])
        assert not bool(same.all())

    def test_processes_share_the_batch_and_its_maps(self):
        data = batches()
        whole = data[3]
        for rank in range(2):
            rows = range(rank, 4, 2)
            share = data.rows(3, rows)
            assert all(torch.equal(share[name], whole[name][list(rows)]) for name in whole)
            trained = _Share(data, rank, 2, 1, None)[3]
            assert all(torch.equal(trained[name], share[name]) for name in whole)

    def test_masks_are_mirrored_and_refused_otherwise(self):
        mask = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.5
        assert set(batches(mask=mask, shift=0.0, turn=0.0, scale=0.0)[0]["mask"].unique().tolist()) <= {0.0, 1.0}
        with pytest.raises(ValueError, match="maps that mirror alone"):
            batches(mask=mask)[0]

    def test_something_else(self):
        with pytest.raises(ValueError, match=r"pass Augmentation\(\)"):
            MultiResolution(ArrayFields(torch.rand(4, 1, 16, 16), domain=Box(2)), Box(2), 16, augmentation=0.12)


class TestModels:
    def test_trained_sampled_and_saved(self, tmp_path):
        data = batches(Torus(2))
        model = Model.for_data(data, DFU.tiny)
        assert model.network.augmentation_numbers == 6
        fit(model, data, steps=3, logging=Logging(progress=False))
        field = torch.zeros(2, 1, 16, 16)
        x = sample(model, (16, 16), [0, 1], field=field)
        model.save_pretrained(tmp_path / "model")
        again = Model.from_pretrained(tmp_path / "model")
        torch.testing.assert_close(sample(again, (16, 16), [0, 1], field=field), x)

    def test_a_run_says_that_it_goes_on_under_other_maps(self, tmp_path):
        options = {"folder": tmp_path, "logging": Logging(progress=False)}
        fit(Model.for_data(batches(), DFU.tiny), batches(), 1, **options)
        again = Model.from_pretrained(tmp_path)
        with pytest.warns(UserWarning, match=r"augmentation .*turn=5.0.* \(before .*turn=15.0"):
            fit(again, batches(turn=5.0), 2, resume=True, **options)

    def test_guidance_leaves_conditions_out_and_not_the_maps(self):
        data = batches(Torus(2))
        model = Model.for_data(data, DFU.tiny)
        batch, seen = data[3], []
        model.network.register_forward_pre_hook(lambda net, args, given: seen.append(given), with_kwargs=True)
        DenoisingLoss(model, drop_condition=0.9)(**batch, generator=torch.Generator().manual_seed(0))
        assert torch.equal(seen[0]["augmentation"], batch["augmentation"])
        assert bool((seen[0]["field"] == 0).all((1, 2, 3)).any())

    def test_zeros_stand_for_samples_as_they_are(self):
        net = DFU.tiny(1, 1, augmentation_numbers=7, zero_init=False).eval()
        x, level = torch.randn(2, 1, 16, 16), torch.zeros(2)
        torch.testing.assert_close(net(x, level, augmentation=torch.zeros(2, 7)), net(x, level))
        assert float((net(x, level, augmentation=torch.ones(2, 7)) - net(x, level)).detach().abs().max()) > 1e-3

    def test_a_network_without_them_refuses_them(self):
        net = DFU.tiny(1, 1)
        assert "augmentation_numbers" not in net.config
        with pytest.raises(ValueError, match="build the network with augmentation_numbers="):
            net(torch.randn(2, 1, 16, 16), torch.zeros(2), augmentation=torch.zeros(2, 7))
