"""The same fields on a domain of other lengths are the same problem, to rounding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from parts import quick
from torch import Tensor

from fnodiff import (
    DFU,
    EDM,
    RBF,
    Box,
    FunctionSpaceSDE,
    GaussianRandomField,
    Matern,
    Model,
    MultiResolution,
    Product,
    SpectralScaling,
    Torus,
    WhiteNoise,
    fit,
    sample,
    upscale,
)
from fnodiff.data import ArrayFields
from fnodiff.domain import Domain
from fnodiff.equations import CahnHilliard
from fnodiff.inverse import MomentMatching, PointObservation
from fnodiff.sde import ChannelSpectra, GaussianDenoiser, noise_law, noise_levels

SIDES: dict[str, Callable[[float], Domain]] = {
    "torus": lambda side: Torus(2, (side, side)),
    "box": lambda side: Box(2, (side, side)),
    "channel": lambda side: Product([Torus(1, (side,)), Box(1, (side,))]),
}


def ten_lines(domain: Domain, folder: Path) -> list[Tensor]:
    """The README's."""
    torch.manual_seed(0)
    fields = torch.nn.functional.avg_pool2d(torch.randn(8, 1, 16, 16), 5, 1) * 5
    places = torch.tensor([[0.2, 0.7, 0.4], [0.3, 0.1, 0.9]]) * torch.tensor(domain.lengths)[:, None]
    data = MultiResolution(ArrayFields(fields, domain=domain), domain, shapes=[6, 12], batch_size=4)
    network = partial(
        DFU.tiny, hidden_channels=8, channel_mult=(1,), spectral_levels=1, positional_modes=1, local="operator"
    )
    model = Model.for_data(data, network=network)
    fit(model, data, steps=2, folder=folder)
    x = sample(model, shape=(12, 12), seeds=[0])
    big = upscale(model, fields[0], shape=(18, 18), seeds=[0])
    known = PointObservation(places, torch.tensor([[0.5, -0.3, 0.1]]), noise_std=0.1)
    return [x, big, sample(MomentMatching(model, known), shape=(12, 12), seeds=[0])]


@pytest.mark.parametrize("name", quick(SIDES, "channel"))
def test_the_ten_lines_on_other_lengths(name: str, tmp_path: Path) -> None:
    one, thousand = (ten_lines(SIDES[name](side), tmp_path / str(side)) for side in (1.0, 1000.0))
    for a, b in zip(one, thousand, strict=True):
        assert float(a.std()) > 0.1
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("spectrum", [Matern(1.0), RBF(), ChannelSpectra((Matern(0.5), RBF()))])
def test_noise_of_default_length_scale(spectrum: Callable) -> None:
    def draw(side: float) -> Tensor:
        field = GaussianRandomField(Box(2, (side, side / 2)), spectrum)
        return field.sample((2, 2, 16, 8), generator=torch.Generator().manual_seed(0))

    torch.testing.assert_close(draw(4e6), draw(1.0), rtol=1e-4, atol=1e-5)
    assert GaussianRandomField(Box(1, (10.0,)), Matern(1.0)).spectrum == Matern(1.0, 2.0)  # a fifth


def test_a_default_length_scale_is_the_domains_wherever_a_spectrum_is_given() -> None:
    domain = Torus(1, (10.0,))
    noise, bare, said = WhiteNoise(domain, (16,)), Matern(1.0), Matern(1.0, 2.0)
    assert noise_levels(noise, bare, (16,)) == noise_levels(noise, said, (16,))
    assert noise_law(noise, bare, (16,)) == noise_law(noise, said, (16,))
    sde = FunctionSpaceSDE(noise, EDM())
    assert sde.check(bare, (16,)) == sde.check(said, (16,))
    assert GaussianDenoiser(GaussianRandomField(domain, said), sde, spectrum=bare).spectrum == said
    with pytest.raises(ValueError, match=r"expected a length scale in the domain's units, got None; .*\.on\(domain\)"):
        bare(torch.ones(3), 1)


class Sees(torch.nn.Module):
    def forward(self, x: Tensor, noise_level: Tensor) -> Tensor:
        self.x = x
        return torch.zeros_like(x)


@pytest.mark.parametrize("length", [1e-3, 1.0, 1e6])
def test_what_a_network_sees_has_unit_variance_on_every_length(length: float) -> None:
    domain, network = Torus(1, (length,)), Sees()
    sde = FunctionSpaceSDE(WhiteNoise(domain, (32,)), EDM())
    model = Model(network, sde, SpectralScaling((32,)), spectrum=Matern(1.0))
    model(sde.prior((400, 1, 32), generator=torch.Generator().manual_seed(0)), torch.ones(()))
    assert float(network.x.square().mean()) == pytest.approx(1.0, abs=0.05)  # 400 samples of 31 modes


def test_shells_do_not_hang_on_rounding() -> None:
    for length in (1.0, 1000.0, 0.3):  # modes half-way between two shells
        shell, _ = Product([Torus(1, (2 * length,)), Box(1, (2 * length,))]).shells((4, 8))
        assert shell[0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]  # the walls' first wave is half of the period's


def test_mixtures_on_another_length_are_the_same() -> None:
    one, ten = (CahnHilliard(1, domain=Torus(1, (side,)), fine=32).batch([0], (16,))["x"] for side in (1.0, 10.0))
    torch.testing.assert_close(one, ten, rtol=0, atol=1e-5)
