"""Upsampled fields, frozen parameters, and the paper's mixed fine-tuning made of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from waves import QUIET

from fnodiff import (
    DFU,
    EDM,
    Box,
    EDMScaling,
    FunctionSpaceSDE,
    GaussianRandomField,
    Matern,
    Model,
    MultiResolution,
    Torus,
    WhiteNoise,
    fit,
)
from fnodiff.data import Upsampled
from fnodiff.train import PARTS, Adam, Logging, freeze, mixed_finetune

DOMAIN = Box(2)


class Fields:
    """Rough fields that exist at every resolution; it notes the shapes that it is asked for."""

    channels = 1

    def __init__(self, mask=False):
        self.noise, self.asked, self.mask = GaussianRandomField(DOMAIN, Matern(1.0)), [], mask

    def __len__(self):
        return 32

    def batch(self, indices, shape):
        self.asked.append(tuple(shape))
        generator = [torch.Generator().manual_seed(int(i)) for i in indices]
        x = self.noise.sample((len(indices), 1, *shape), generator=generator)
        return {"x": x, "mask": torch.ones_like(x)} if self.mask else {"x": x}


def model(**options):
    torch.manual_seed(0)
    net = DFU.tiny(1, 1, domain=DOMAIN, **{"hidden_channels": 8, **options})
    made = Model(net, FunctionSpaceSDE(WhiteNoise(DOMAIN, (16, 16)), EDM()), EDMScaling(1.0))
    made.training_shapes = ((8, 8), (12, 12))
    return made


def tune(tuned, source, steps, callback=None, lr=1e-4, **options):
    """Fine-tuning to 24 x 24, quietly."""
    logging = Logging(progress=False, callback=callback)
    return mixed_finetune(tuned, source, (24, 24), steps, optimizer=Adam(lr=lr, rampup=5), logging=logging, **options)


class TestUpsampled:
    @pytest.mark.parametrize("shape", [(8, 8), (12, 12)])
    def test_native_up_to_its_shape(self, shape):
        fields = Upsampled(Fields(), (12, 12), DOMAIN)
        assert len(fields) == 32 and fields.channels == 1 and fields.holds(shape)
        assert torch.equal(fields.batch([3, 5], shape)["x"], Fields().batch([3, 5], shape)["x"])

    def test_no_new_detail_beyond(self):
        source = Fields()
        fields = Upsampled(source, (12, 12), DOMAIN)
        fine = fields.batch([3, 5], (24, 36))
        assert source.asked == [(12, 12)] and fine["x"].shape == (2, 1, 24, 36)
        coarse = source.batch([3, 5], (12, 12))["x"]
        assert 0.05 < (DOMAIN.average(fine["x"], (12, 12)) - coarse).norm() / coarse.norm() < 0.3, "linear, not Fourier"
        assert fine["x"].max() <= coarse.max() and fine["x"].min() >= coarse.min()

    @pytest.mark.parametrize(("shape", "mask"), [((8, 24), False), ((24, 24), True)])
    def test_what_cannot_be_upsampled(self, shape, mask):
        with pytest.raises(ValueError, match="as fine as"):
            Upsampled(Fields(mask), (12, 12), DOMAIN).batch([0], shape)

    def test_it_mixes_with_native_fields(self):
        data = MultiResolution(
            Upsampled(Fields(), (12, 12), DOMAIN), DOMAIN, [8, 12, 24], [0.35, 0.35, 0.3], batch_size=2
        )
        assert {tuple(data[step]["x"].shape[2:]) for step in range(20)} == {(8, 8), (12, 12), (24, 24)}

    def test_points_of_a_torus_stay_where_they_are(self):
        class Wave:
            channels = 1

            def __len__(self):
                return 1

            def batch(self, indices, shape):
                return {"x": (2 * torch.pi * Torus(1).points(shape)).cos()[None]}

        fine = Upsampled(Wave(), (16,), Torus(1)).batch([0], (32,))["x"]
        torch.testing.assert_close(fine, Wave().batch([0], (32,))["x"], rtol=0, atol=1e-5)


class TestFreeze:
    def test_every_parameter_has_a_level_and_a_part(self):
        net = DFU.small(3, 3, num_classes=2)
        groups = net.parameter_groups()
        assert set(groups) == {name for name, _ in net.named_parameters()}
        assert {part for _, part in groups.values()} == set(PARTS)
        assert {level for level, _ in groups.values()} == {0, 1, 2, None}
        assert {group for group in groups.values() if group[1] == "attention"} == {(2, "attention")}
        assert {name for name, (level, _) in groups.items() if level is None} == {
            name for name in groups if name.startswith(("embed_noise", "embed_label"))
        }
        assert groups["stem.spectral.weight"] == groups["head.spectral.weight"] == (0, "spectral")
        assert groups["head_norm.weight"] == (0, "norm")
        assert groups["down.0.0.norm_in.weight"] == groups["up.2.0.norm_in.weight"] == (0, "norm")
        assert (
            groups["down.2.0.conv_in.local.conv.weight"] == groups["up.0.0.conv_in.local.conv.weight"] == (2, "local")
        )

    def test_only_what_is_named(self):
        made = model()
        frozen = freeze(made, [0, None], ["norm", "embedding"])
        still = {name for name, p in made.named_parameters() if not p.requires_grad}
        groups = made.network.parameter_groups()
        expected = {
            f"network.{n}"
            for n, (level, part) in groups.items()
            if level in (0, None) and part in ("norm", "embedding")
        }
        assert set(frozen) == still == expected
        freeze(made, parts=["spectral"])
        assert not made.network.middle[0].conv_in.spectral.weight.requires_grad
        assert len(freeze(made)) == len(list(made.parameters()))

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: freeze(nn.Linear(2, 2)), "with a DFU in it"),
            (lambda: freeze(model(), [2]), "levels among"),
            (lambda: freeze(model(), parts=["weights"]), "parts among"),
        ],
    )
    def test_bad_input(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()


class TestMixedFinetune:
    def test_trains_what_the_paper_trains_on_what_it_trains_on(self):
        made, source, seen = model(channel_mult=(1, 1, 1, 1), spectral_levels=3, zero_init=False), Fields(), []
        before = {name: p.clone() for name, p in made.named_parameters()}
        tuned = tune(made, source, 12, lambda step, shape, loss: seen.append(shape), lr=1e-2, batch_size=2)
        assert tuned is made and not made.training
        assert set(seen) == {(8, 8), (12, 12), (24, 24)} and set(source.asked) == {(8, 8), (12, 12)}
        groups = made.network.parameter_groups()
        frozen = {
            name
            for name, (level, part) in groups.items()
            if level == 0 or (level in (1, 2) and part in ("norm", "spectral"))
        }
        same = {name for name, p in made.named_parameters() if torch.equal(p, before[name])}
        assert same == {f"network.{name}" for name in frozen} and len(same) < len(before)
        assert all(p.requires_grad for p in made.parameters()), "all of it can be trained again"
        assert made.training_shapes == ((8, 8), (12, 12))

    @pytest.mark.slow
    def test_it_fits_the_upsampled_grid(self):
        torch.manual_seed(0)
        source, made = Fields(), model(reference=(12, 12), num_blocks=0, positional_modes=0)
        fit(
            made,
            MultiResolution(source, DOMAIN, [8, 12], batch_size=4),
            20,
            optimizer=Adam(lr=3e-3, rampup=5),
            logging=QUIET,
        )
        x = Upsampled(source, (12, 12), DOMAIN).batch(range(16), (24, 24))["x"]
        t = torch.full((16,), 0.5)
        x_t, _ = made.sde.perturb(x, t, generator=torch.Generator().manual_seed(0))

        def error():
            with torch.no_grad():
                return float((made(x_t, t) - x).square().mean())

        before = error()
        tune(made, source, 30, lr=1e-2, weight=0.5, batch_size=4)
        assert error() < 0.97 * before

    def test_what_it_leaves_in_a_folder_knows_its_native_grids_and_goes_on(self, tmp_path):
        tune(model(), Fields(), 4, batch_size=2, folder=tmp_path)
        kept = Model.from_pretrained(tmp_path)
        assert kept.training_shapes == ((8, 8), (12, 12))
        seen = []
        tune(kept, Fields(), 6, lambda step, *_: seen.append(step), batch_size=2, folder=tmp_path, resume=True)
        assert seen == [5, 6]

    def test_a_network_without_spectral_branches_and_what_was_frozen_before(self):
        made = model(spectral_levels=0)
        frozen = freeze(made, [1], ["embedding"])
        tune(made, Fields(), 1, batch_size=2)
        assert {name for name, p in made.named_parameters() if not p.requires_grad} == set(frozen)

    def test_it_comes_back_whole_from_a_failure(self):
        made = model()
        with pytest.raises(ValueError, match="steps or minutes"):
            mixed_finetune(made, Fields(), (24, 24))
        assert all(p.requires_grad for p in made.parameters()) and made.training_shapes == ((8, 8), (12, 12))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"shape": (12, 12)}, "finer than those"),
            ({"shape": (24, 8)}, "finer than those"),
            ({"shape": (24, 24), "weight": 1.0}, "weight between 0 and 1"),
        ],
    )
    def test_bad_input(self, options, message):
        with pytest.raises(ValueError, match=message):
            mixed_finetune(model(), Fields(), steps=1, **options)

    def test_the_share_of_upsampled_batches_and_the_rate(self, monkeypatch):
        given = []
        monkeypatch.setattr("fnodiff.train.finetune.fit", lambda made, data, *_, **more: given.append((data, more)))
        mixed_finetune(model(), Fields(), (24, 24), 1, weight=0.2)
        ((data, options),) = given
        assert dict(zip(data.shapes, data.weights, strict=True)) == {(8, 8): 0.4, (12, 12): 0.4, (24, 24): 0.2}
        assert data.native_shapes == ((8, 8), (12, 12))
        assert options["optimizer"] == Adam(lr=1e-4)

    def test_a_model_that_was_not_trained(self):
        made = model()
        made.training_shapes = ()
        with pytest.raises(ValueError, match="train it with fit first"):
            mixed_finetune(made, Fields(), (24, 24), 1)
