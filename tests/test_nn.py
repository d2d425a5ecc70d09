"""DFU and what it is built of: the same function on every grid, and errors that say what was expected."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import pytest
import torch
from parts import CHANNEL, PIPE

from fnodiff.cost import measure
from fnodiff.domain import Box, Product, Sphere, Torus
from fnodiff.metrics import discretization_error
from fnodiff.nn import DFU, CosineConv, DualConv, LocalConv, MixedConv, SpectralConv
from fnodiff.nn.blocks import positions
from fnodiff.nn.integrals import Attention, GroupNorm


class TestOperatorTaps:
    @pytest.mark.parametrize("domain", [Torus(1), Box(1), Torus(2), Box(2), Box(3)], ids=str)
    def test_on_its_reference_grid_it_is_the_convolution(self, domain):
        shape = (8, 9, 10)[: domain.dim]
        plain, taps = (LocalConv(2, 3, domain=domain, reference=r) for r in (None, shape))
        taps.load_state_dict(plain.state_dict())
        x = torch.randn(2, 2, *shape)
        torch.testing.assert_close(taps(x), plain(x))

    @pytest.mark.parametrize(
        ("shape", "tolerance"),
        [((16, 20), 1e-12), ((32, 40), 1e-12), ((24, 20), 0.03), ((44, 53), 0.003), ((12, 15), 0.3), ((88, 106), 2e-4)],
        ids=str,
    )
    @pytest.mark.parametrize("domain", [Torus(2), Box(2), CHANNEL], ids=str)
    def test_sums_the_function_at_fixed_offsets(self, domain, shape, tolerance):
        layer = LocalConv(2, 3, domain=domain, reference=(16, 20)).double()
        coarse = torch.randn(1, 2, 5, 5, dtype=torch.float64)  # Torus: 2 cycles, Box: 4 half-waves
        points = domain.points(shape, dtype=torch.float64).flatten(1)
        offsets = torch.cartesian_prod(*[torch.arange(-1, 2, dtype=torch.float64) / n for n in (16, 20)])
        moved = (points[:, None] + offsets.T[:, :, None]).flatten(1)
        values = domain.evaluate(coarse, moved)  # a cosine series continues beyond the edges as the layer does
        taps = layer.conv.weight.flatten(2)
        expected = torch.einsum("ock,bckp->bop", taps, values.unflatten(2, (9, -1))) + layer.conv.bias[:, None]
        out = layer(domain.resample(coarse, shape)).flatten(2)
        assert float((out - expected).detach().norm() / expected.detach().norm()) < tolerance
        plain = LocalConv(2, 3, domain=domain).double()
        plain.load_state_dict(layer.state_dict())
        pixels = plain(domain.resample(coarse, shape)).flatten(2)
        assert shape == (16, 20) or float((pixels - expected).detach().norm() / expected.detach().norm()) > 0.02

    @pytest.mark.parametrize("domain", [Torus(2), Box(2), CHANNEL], ids=str)
    def test_point_commutes_with_a_change_of_grid(self, domain):
        layer = DualConv(2, 5, domain=domain, n_modes=None, local="point", resize="resample").double()
        x = torch.randn(1, 2, 9, 11, dtype=torch.float64)
        fine = layer(domain.resample(x, (27, 16)))
        torch.testing.assert_close(fine, domain.resample(layer(x), (27, 16)))
        torch.testing.assert_close(layer(x, (27, 16)), fine)


OPERATOR = {"local": "operator", "reference": (32, 32)}


def grids_of_levels(net, shape):
    """The grid of each level below the first, as the network comes down to it from an input of this shape."""
    seen, hooks = [], []
    for blocks in net.down[1:]:
        hooks.append(blocks[-1].register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape[2:]))))
    net(torch.randn(1, 1, *shape), torch.zeros(()))
    for hook in hooks:
        hook.remove()
    return seen


class TestResolution:
    @pytest.mark.parametrize("shape", [(16, 16), (32, 32), (45, 64)])
    @pytest.mark.parametrize("options", [OPERATOR, {"reference": (32, 31)}], ids=["operator", "conv"])
    def test_a_reference_fixes_the_grids_of_the_coarser_levels(self, options, shape):
        net = DFU.tiny(1, 1, channel_mult=(1, 1, 1), num_blocks=0, **options)
        assert grids_of_levels(net, shape) == [(16, 16), (8, 8)]

    @pytest.mark.parametrize(
        ("shape", "halves"),
        [((16, 16), [(8, 8), (4, 4)]), ((45, 64), [(23, 32), (12, 16)]), ((9, 8), [(5, 4), (3, 2)])],
    )
    def test_without_a_reference_each_level_halves_the_one_above(self, shape, halves):
        assert grids_of_levels(DFU.tiny(1, 1, channel_mult=(1, 1, 1), num_blocks=0), shape) == halves

    def test_on_the_reference_grid_operator_taps_are_pixels(self):
        options = {"reference": (32, 32), "zero_init": False}
        pixels, taps = (DFU.tiny(2, 2, local=local, **options).eval() for local in ("conv", "operator"))
        taps.load_state_dict(pixels.state_dict())
        x, fine = torch.randn(1, 2, 32, 32), torch.randn(1, 2, 64, 64)
        torch.testing.assert_close(taps(x, torch.zeros(())), pixels(x, torch.zeros(())), rtol=1e-4, atol=1e-4)
        assert float((taps(fine, torch.zeros(())) - pixels(fine, torch.zeros(()))).detach().abs().max()) > 1e-2

    @pytest.mark.parametrize(
        ("cycles", "pair", "limit"),
        [
            (2, (32, 64), 0.03),
            (2, (64, 128), 0.01),
            (4, (32, 64), 0.08),
            (4, (64, 128), 0.02),
            (4, (32, 48), 0.10),
        ],
    )
    def test_operators_hardly_see_the_grid(self, cycles, pair, limit):
        domain = Box(2)
        smooth = torch.randn(1, 3, 2 * cycles + 1, 2 * cycles + 1, generator=torch.Generator().manual_seed(0))
        torch.manual_seed(1)
        net = DFU.small(3, 3, zero_init=False, **OPERATOR).eval()
        shapes = [(n, n) for n in pair]
        error = discretization_error(
            partial(net, noise_level=torch.tensor(0.0)), partial(domain.resample, smooth), shapes, domain
        )[0]
        assert 1e-6 < error < limit


def count(module):
    return sum(p.numel() for p in module.parameters())


class TestDFU:
    @pytest.mark.parametrize("options", [{}, {"local": None, "spectral_levels": 2}, {"spectral_levels": 0}], ids=str)
    @pytest.mark.parametrize("shape", [(4, 4), (7, 5), (8, 8), (9, 13), (33, 40), (16, 48)])
    def test_any_grid_from_4_points(self, shape, options):
        net = DFU.tiny(3, 2, zero_init=False, **options).eval()
        x = torch.randn(2, 3, *shape)
        out = net(x, torch.tensor([0.1, -0.5]))
        assert out.shape == (2, 2, *shape)
        torch.testing.assert_close(net(x[1:], torch.tensor(-0.5)), out[1:], rtol=1e-4, atol=1e-4)
        assert float(out.detach().std()) > 1e-2
        assert float((net(x, torch.tensor([0.1, 0.4])) - out)[1].abs().max()) > 1e-3, "it reads the noise level"

    @pytest.mark.parametrize("domain", [Torus(1), Box(1), Torus(3), Box(3), PIPE], ids=str)
    def test_one_and_three_dimensions(self, domain):
        net = DFU.tiny(1, 1, domain=domain, zero_init=False)
        x = torch.randn(2, 1, *(8, 9, 11)[: domain.dim])
        out = net(x, torch.zeros(()))
        assert out.shape == x.shape
        assert float(out.detach().std()) > 1e-2

    def test_on_a_box_it_is_told_where_it_is(self):
        # A constant field looks the same from everywhere: without positions only the edges tell.
        def centre(**options):
            net = DFU.tiny(1, 1, channel_mult=(1,), spectral_levels=0, zero_init=False, **options).eval()
            return net(torch.ones(1, 1, 64, 64), torch.zeros(())).detach()[..., 16:-16, 16:-16]

        assert float(centre(positional_modes=0).std()) < 1e-4
        assert float(centre().std()) > 1e-2

    @pytest.mark.parametrize(("domain", "waves"), [(Box(2), 4), (Torus(2), 8), (CHANNEL, 6), (Sphere(), 8)], ids=str)
    def test_positions_are_further_input_channels(self, domain, waves):
        net = DFU.tiny(1, 1, domain=domain, positional_modes=2, channel_mult=(1,), num_blocks=0, spectral_levels=1)
        assert net.stem.spectral.in_channels == 1 + waves
        assert len(positions(domain, net.positional_modes, (8, 8), torch.float32, torch.device("cpu"))) == waves

    @pytest.mark.parametrize("domain", [Box(2, (1.0, 2.0)), Torus(1, (3.0,)), CHANNEL], ids=str)
    def test_positions_are_the_same_functions_on_every_grid(self, domain):
        coarse, fine = (
            positions(domain, (3,) * domain.dim, (n, 2 * n)[: domain.dim], torch.float64, torch.device("cpu"))
            for n in (9, 20)
        )
        torch.testing.assert_close(domain.resample(coarse[None], fine.shape[1:])[0], fine)
        torch.testing.assert_close(coarse.square().flatten(1).mean(1), torch.ones(len(coarse), dtype=torch.float64))

    def test_translations_by_grid_points_commute_on_the_torus(self):
        net = DFU.tiny(1, 1, domain=Torus(2), zero_init=False, attention_levels=()).eval().double()
        x = torch.randn(1, 1, 16, 16, dtype=torch.float64)
        moved = net(x.roll((4, 6), (2, 3)), torch.zeros(()))
        torch.testing.assert_close(moved, net(x, torch.zeros(())).roll((4, 6), (2, 3)))

    @pytest.mark.parametrize(
        ("make", "options", "boundary"),
        [
            (DFU.tiny, {}, "even"),
            (DFU.small, {"domain": Box(1)}, "even"),
            (DFU.tiny, {"boundary": "periodic"}, "periodic"),
            (DFU.tiny, {"domain": Torus(2)}, "periodic"),
            (DFU.tiny, {"domain": CHANNEL}, "even"),
            (DFU.paper, {"hidden_channels": 4, "n_modes": (4, 4), "domain": CHANNEL}, "periodic"),
            (DFU.paper, {"hidden_channels": 4, "n_modes": (4, 4)}, "periodic"),
        ],
    )
    def test_the_boundary_is_even_on_a_box_and_periodic_in_the_paper(self, make, options, boundary):
        net = make(1, 1, **options)
        kinds = {type(m) for m in net.modules() if isinstance(m, CosineConv | MixedConv | SpectralConv)}
        even = MixedConv if isinstance(net.domain, Product) else CosineConv
        assert net.config["boundary"] == boundary and kinds == {even if boundary == "even" else SpectralConv}

    def test_without_spectral_levels_it_is_a_plain_unet(self):
        unet, dfu = DFU.small(3, 3, spectral_levels=0), DFU.small(3, 3)
        branches = (SpectralConv, CosineConv)
        assert not any(isinstance(m, branches) for m in unet.modules())
        spectral = sum(count(m) for m in dfu.modules() if isinstance(m, branches))
        assert count(dfu) - spectral == count(unet)
        local = {k for k in dfu.state_dict() if ".spectral." not in k}
        assert local == set(unet.state_dict())

    @pytest.mark.parametrize(("preset", "millions"), [("tiny", 0.7), ("small", 2.1), ("paper", 705.7)])
    def test_docstrings_state_the_size(self, preset, millions):
        with torch.device("meta"):
            net = getattr(DFU, preset)(3, 3)
        assert count(net) / 1e6 == pytest.approx(millions, abs=0.05)
        assert f"{millions}M" in getattr(DFU, preset).__doc__

    def test_label_and_field_condition_the_result(self):
        net = DFU.tiny(1, 1, num_classes=3, condition_channels=2, zero_init=False).eval()
        x, level = torch.randn(2, 1, 16, 16), torch.zeros(2)
        field, label = torch.randn(2, 2, 16, 16), torch.tensor([0, 1])
        out = net(x, level, label=label, field=field)
        assert float((net(x, level, label=torch.tensor([0, 2]), field=field) - out)[1].abs().max()) > 1e-3
        assert float((net(x, level, label=label, field=field.flip(0)) - out).abs().max()) > 1e-3
        finer = Box(2).resample(field, (24, 20))
        torch.testing.assert_close(net(x, level, label=label, field=finer), out, rtol=1e-3, atol=1e-3)

    def test_weights_are_random_everywhere_without_zero_init(self):
        net = DFU.small(3, 3, zero_init=False, attention_levels=(1, 2))
        weights = [p for name, p in net.named_parameters() if p.ndim > 1]
        assert min(float(p.detach().abs().mean()) for p in weights) > 1e-3
        started = dict(DFU.small(3, 3).named_parameters())
        assert float(started["middle.0.attention.out.weight"].detach().abs().max()) < 1e-4

    @pytest.mark.parametrize("channels", [24, 64, 100, 128])
    def test_attention_takes_any_width(self, channels):
        net = DFU.tiny(1, 1, hidden_channels=channels, channel_mult=(1,), spectral_levels=0, attention_levels=(0,))
        assert net(torch.randn(1, 1, 8, 8), torch.zeros(())).shape == (1, 1, 8, 8)

    def test_zero_init_starts_at_zero(self):
        assert float(DFU.tiny(3, 3)(torch.randn(2, 3, 16, 16), torch.zeros(())).detach().abs().max()) < 1e-3

    def test_every_parameter_learns(self):
        net = DFU.tiny(
            2, 2, num_classes=2, zero_init=False, channel_mult=(1, 2, 2), spectral_levels=2, attention_levels=(1,)
        )
        net(torch.randn(2, 2, 32, 32), torch.rand(2), label=torch.tensor([0, 1])).square().mean().backward()
        assert [name for name, p in net.named_parameters() if p.grad is None or not bool((p.grad != 0).any())] == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SpectralConv(1, 1, (4, 4), domain=Torus(1)), "1 positive integers"),
        (lambda: SpectralConv(1, 1, (0,)), "positive integers"),
        (lambda: SpectralConv(1, 1, (4,), complex_data=True), "real data"),
        (lambda: SpectralConv(2, 1, (4,))(torch.randn(1, 1, 8)), "2 channels"),
        (lambda: SpectralConv(1, 1, (4, 4))(torch.randn(1, 1, 8)), "B, C"),
        (lambda: DualConv(1, 1, domain=Box(2), n_modes=None, local=None), "at least one branch"),
        (lambda: DualConv(1, 1, domain=Box(2), n_modes=(4, 4), local="conv5"), "conv5"),
        (lambda: DFU.tiny(3, 3, attention_levels=(2,)), "2 levels"),
        (lambda: DFU(3, 3, (8,)), "one number per axis"),
        (lambda: DFU.tiny(3, 3, local="operator"), "expected a reference"),
        (lambda: DFU.tiny(3, 3, local="both"), "'both'"),
        (lambda: DFU.tiny(3, 3, reference=(32,)), "2"),
        (lambda: LocalConv(1, 1, domain=Box(1), reference=(2,))(torch.randn(1, 1, 1)), "finer reference"),
        (lambda: DFU.tiny(3, 3, hidden_channels=15), "divisible by 4"),
        (lambda: DFU.tiny(3, 3, positional_modes=-1), "positional_modes >= 0"),
        (lambda: DFU.tiny(3, 3, channel_mult=()), "0 levels|from 0 to 0"),
        (lambda: DFU.tiny(3, 3)(torch.randn(1, 3, 3, 8), torch.zeros(())), "at least 4 points"),
        (lambda: DFU.tiny(3, 3)(torch.randn(1, 2, 8, 8), torch.zeros(())), "3 channels"),
        (lambda: DFU.tiny(3, 3)(torch.randn(2, 3, 8, 8), torch.zeros(3)), "noise_level"),
        (lambda: DFU.tiny(3, 3)(torch.randn(1, 3, 8, 8), torch.zeros(()), label=torch.tensor([0])), "no label"),
        (lambda: DFU.tiny(3, 3, num_classes=2)(torch.randn(1, 3, 8, 8), torch.zeros(())), "a label"),
        (
            lambda: DFU.tiny(3, 3, num_classes=2)(torch.randn(1, 3, 8, 8), torch.zeros(()), label=torch.tensor([2])),
            "0 to 1",
        ),
        (
            lambda: DFU.tiny(3, 3)(torch.randn(1, 3, 8, 8), torch.zeros(()), field=torch.randn(1, 1, 8, 8)),
            "no conditioning field",
        ),
    ],
)
def test_bad_input_is_an_error_that_says_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@dataclass(frozen=True)
class Uneven(Box):
    """A box whose first row of points counts three times."""

    uniform: ClassVar[bool] = False

    def weights(self, shape, *, device=None, dtype=None):
        w = torch.ones(shape, device=device, dtype=dtype)
        w[0] = 3
        return w / w.sum()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("layer", [GroupNorm, Attention])
class TestIntegrals:
    def test_a_point_that_counts_three_times_is_three_points(self, layer):
        even, uneven = layer(16, Box(2)), layer(16, Uneven(2))
        for parameter in even.parameters():
            torch.nn.init.normal_(parameter)
        uneven.load_state_dict(even.state_dict())
        x = torch.randn(2, 16, 5, 6)
        thrice = even(torch.cat([x[:, :, :1]] * 3 + [x[:, :, 1:]], dim=2))[:, :, 2:]
        torch.testing.assert_close(uneven(x), thrice)
        assert float((even(x) - thrice).detach().abs().max()) > 0.01

    def test_equal_weights_need_no_special_path(self, layer):
        class Flagged(Box):
            uniform: ClassVar[bool] = False

        one, other = layer(16, Box(2)), layer(16, Flagged(2))
        other.load_state_dict(one.state_dict())
        x = torch.randn(2, 16, 5, 6)
        torch.testing.assert_close(one(x), other(x))


def test_a_tenth_of_the_parameters():
    with torch.device("meta"):
        dense = SpectralConv(128, 128, (32, 16), bias=False)
    tucker = SpectralConv(128, 128, (32, 16), bias=False, factorization="ComplexTucker", rank=0.09)
    assert count(dense) == 128 * 128 * 32 * 9 * 2
    assert 0.01 * count(dense) < count(tucker) <= 0.1 * count(dense)


@pytest.mark.parametrize("domain", [Box(2), Sphere()], ids=str)
def test_attention_is_the_same_with_gradients_and_without(domain):
    layer, x = Attention(128, domain), torch.randn(2, 128, 6, 12)
    with torch.no_grad():
        fast = layer(x)
    torch.testing.assert_close(layer(x), fast, rtol=1e-5, atol=1e-5)
    assert float((fast - x * 0.5**0.5).abs().max()) > 1e-2


def test_recomputing_blocks_changes_no_gradient():
    net = DFU.tiny(1, 1, zero_init=False, dropout=0.5, spectral_levels=0)
    x = torch.randn(8, 1, 16, 16)

    def step():
        torch.manual_seed(1)
        net.zero_grad()
        net(x, torch.zeros(())).square().sum().backward()

    def measured():
        peak = measure(step).bytes
        return peak, [p.grad.clone() for p in net.parameters()]

    peak, gradients = measured()
    net.recompute = True
    thrifty_peak, thrifty_gradients = measured()
    torch.testing.assert_close(thrifty_gradients, gradients, rtol=1e-4, atol=1e-5)
    assert thrifty_peak < 0.7 * peak
