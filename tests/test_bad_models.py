"""Bad fields, noise, networks and denoisers: each is a ValueError that says how to mend it, and nothing is written."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drawn import Drawn
from refused import BOX, FIELD, NAN, SDE, TORUS, T, X, data, flat, globe, model, net, refused, seeded, spectrum

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
    PixelNoise,
    SpectralScaling,
    Sphere,
    Torus,
    WhiteNoise,
    fit,
)
from fnodiff.nn import SpectralConv
from fnodiff.sde import Normalization, fit_spectrum, measure_normalization, noise_levels


class Plain(torch.nn.Module):
    """A user's network, of no `config`."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, noise_level):
        return self.function(x)


def stretched(function):
    return lambda: Model(Plain(function), SDE, EDMScaling(), channels=1)(X, T)


# What is wrong, what it says.
CALLS = {
    # shapes, dtypes, values
    "a field without its batch axis": (lambda: BOX.analyze(X[0]), r"B, C"),
    "a field of one axis too few": (lambda: BOX.analyze(X[..., 0]), r"expected"),
    "integers as a field": (lambda: BOX.analyze(X.long()), r"x.float\(\)"),
    "complex numbers as a field": (lambda: BOX.analyze(X + 1j), r"real floating-point"),
    "an array as a field": (lambda: BOX.analyze(X.numpy()), r"torch.as_tensor"),
    "a text as a grid": (lambda: BOX.points("8"), r"2 positive sizes.*got '8'"),
    "a grid of halves": (lambda: BOX.points((8, 7.5)), r"positive sizes"),
    "an empty grid": (lambda: BOX.points((0, 8)), r"positive"),
    "a grid of other axes": (lambda: BOX.points((8,)), r"2"),
    "a sample to resample": (lambda: TORUS.resample(X[0], (8, 8)), r"expected"),
    "points of one axis": (lambda: BOX.evaluate(X, torch.rand(1, 5)), r"expected"),
    "a domain of no axes": (lambda: Box(0), r"expected"),
    "sides of other axes": (lambda: Torus(2, (1.0,)), r"expected"),
    "a side of no length": (lambda: Box(1, (0.0,)), r"expected"),
    "an unknown grid": (lambda: Sphere("healpix"), r"legendre-gauss.*got 'healpix'"),
    "one latitude with both poles": (lambda: Sphere("equiangular").points((1, 8)), r"2 latitudes"),
    "area averages on the sphere": (lambda: Sphere().attenuation((8, 16)), r"cell_averages=False"),
    "a seed for two samples of three": (
        lambda: FIELD.sample((3, 1, 8, 8), generator=[seeded()] * 2),
        r"one per sample: 3, got 2",
    ),
    "noise without channels": (lambda: FIELD.sample((3, 8)), r"expected"),
    # devices and generators
    "a field on another device": (lambda: net()(X.to("meta"), T.to("meta")), r"on cpu, as the network is.*on meta"),
    "a seed for a generator": (lambda: FIELD.sample((3, 1, 8, 8), generator=0), r"torch.Generator\(\).manual_seed"),
    "seeds for generators": (lambda: SDE.perturb(X, T, generator=[0, 1]), r"torch.Generator\(\).manual_seed"),
    "numpy's generator": (
        lambda: SDE.prior((1, 1, 8, 8), generator=np.random.default_rng(0)),
        r"torch.Generator\(\).manual_seed",
    ),
    # noise and process
    "smoothness of nothing": (lambda: Matern(0.0, 0.3), r"> 0"),
    "a length that is not a number": (lambda: Matern(1.0, NAN), r"> 0"),
    "pixel noise on the sphere": (lambda: PixelNoise(Sphere()), r"use WhiteNoise"),
    "white noise on a grid of other axes": (lambda: WhiteNoise(BOX, (16,)), r"expected"),
    "a schedule for a noise": (lambda: FunctionSpaceSDE(EDM(), EDM()), r"a Noise and a Schedule"),
    "a class for a schedule": (lambda: FunctionSpaceSDE(SDE.noise, EDM), r"EDM\(\)"),
    "a class for a spectrum": (lambda: GaussianRandomField(BOX, Matern), r"Matern\(1.0\)"),
    "a shape for a domain": (lambda: GaussianRandomField((8, 8), Matern(1.0)), r"Box\(2\)"),
    "a level without end": (lambda: EDM(0.1, float("inf")), r"< inf"),
    "levels that fall": (lambda: EDM(80.0, 0.002), r"expected"),
    "a negative level": (lambda: EDM(-1.0, 80.0), r"expected"),
    "a time before the data": (lambda: SDE.perturb(X, -T), r"\[0, 1\].*schedule.time"),
    "a time beyond the noise": (lambda: SDE.perturb(X, 3 * T), r"\[0, 1\]"),
    "a time that is not a number": (lambda: SDE.perturb(X, NAN * T), r"\[0, 1\]"),
    "a time that is no tensor": (lambda: SDE.perturb(X, 0.5), r"write torch.tensor\(0.5\)"),
    "a time without end": (lambda: SDE.perturb(X, T / 0), r"\[0, 1\]"),
    "times for other samples": (lambda: SDE.perturb(X, torch.rand(3)), r"\(2,\).*\(3,\)"),
    "levels for every eps": (lambda: noise_levels(SDE.noise, spectrum, (16, 16), eps=0.0), r"0.01 is usual"),
    # networks
    "modes for other axes": (lambda: SpectralConv(1, 1, (8,), domain=BOX), r"per spatial axis"),
    "no modes": (lambda: SpectralConv(1, 1, (0, 8), domain=BOX), r"positive integers"),
    "half a mode": (lambda: SpectralConv(1, 1, (8.5, 8), domain=BOX), r"positive integers"),
    "modes of a torus on the sphere": (lambda: SpectralConv(1, 1, (8, 8), domain=Sphere()), r"Torus or a Box"),
    "degrees that are no pair": (lambda: DFU.tiny(1, 1, domain=Sphere(), n_modes=(8, 8)), r"\(L, 2 L\)"),
    "taps of no grid": (lambda: net(local="operator"), r"largest grid trained on"),
    "branches of another name": (lambda: net(local="both"), r"'both'.*at least one branch"),
    "a reference of other axes": (lambda: net(reference=(16,)), r"2 positive sizes"),
    "channels that do not group": (lambda: net(hidden_channels=6), r"divisible by 4"),
    "attention where no level is": (lambda: net(attention_levels=(7,)), r"attention_levels among"),
    "a grid too small for the network": (lambda: net()(torch.zeros(1, 1, 3, 3), T[:1]), r"at least 4"),
    "channels of another model": (lambda: net()(torch.zeros(1, 3, 16, 16), T[:1]), r"expected 1 channels"),
    "noise levels for other samples": (lambda: net()(X, torch.rand(3)), r"noise_level"),
    "a label without classes": (lambda: net()(X, T, label=torch.zeros(2).long()), r"no label"),
    "classes without a label": (lambda: net(num_classes=2)(X, T), r"expected a label"),
    "a class and a half": (lambda: net(num_classes=2)(X, T, label=torch.tensor([0.0, 0.5])), r"integer labels"),
    "no channels": (lambda: DFU.tiny(0, 1), r"in_channels >= 1 and < 65536, got 0"),
    "channels by name": (lambda: DFU.tiny("rgb", "rgb"), r"in_channels as a whole number, got 'rgb'"),
    "blocks below 0": (lambda: net(num_blocks=-1), r"num_blocks >= 0 and < 65536, got -1"),
    "half a class": (lambda: net(num_classes=0.5), r"num_classes as a whole number, got 0.5"),
    "a dropout of nan": (lambda: net(dropout=NAN), r"dropout from 0 to below 1, got nan"),
    "a rank of 0": (lambda: net(spectral={"factorization": "Tucker", "rank": 0}), r"a rank above 0, got 0"),
    "more modes than a grid holds": (
        lambda: fit(Model(net(n_modes=(32, 8)), SDE, EDMScaling()), data(), 1),
        r"modes that one of the grids.*build it with fewer",
    ),
    "more degrees than a grid holds": (
        lambda: fit(globe(n_modes=(32, 64)), MultiResolution(Drawn(4), Sphere(), [16]), 1),
        r"modes that one of the grids",
    ),
    "a class beyond the last": (lambda: net(num_classes=2)(X, T, label=torch.tensor([0, 2])), r"from 0 to 1"),
    "a condition that nothing takes": (lambda: net()(X, T, field=X), r"condition_channels=1"),
    "a network of other channels": (
        stretched(lambda x: x.repeat(1, 2, 1, 1)),
        r"return a tensor \(2, 1, 16, 16\).*\(2, 2, 16",
    ),
    "a network of one number": (stretched(lambda x: x.mean((2, 3), keepdim=True)), r"got \(2, 1, 1, 1\)"),
    "a network of several results": (stretched(lambda x: (x, x)), r"got tuple; mend"),
    "a network that cannot be saved": (
        lambda: Model(Plain(lambda x: x), SDE, EDMScaling(), channels=1).save_pretrained("model"),
        r"cannot save Plain: .*self.config = \{",
    ),
    # denoisers
    "data without spread": (lambda: EDMScaling(0.0), r"standard deviation"),
    "a network elsewhere": (lambda: Model(DFU.tiny(1, 1, domain=TORUS), SDE, EDMScaling()), r"one domain for both"),
    "a class for a network": (lambda: Model(DFU, SDE, EDMScaling()), r"DFU.small\(3, 3\)"),
    "a number for a scaling": (lambda: Model(net(), SDE, 0.5), r"EDMScaling\(sigma_data=0.5\)"),
    "a schedule for a process": (lambda: Model(net(), EDM(), EDMScaling()), r"FunctionSpaceSDE\(noise, schedule\)"),
    "channels that the network does not take": (
        lambda: Model(net(), SDE, EDMScaling(), channels=3),
        r"takes 3 channels for fields of 3.*got 1; build it with 3",
    ),
    "a linear estimate that nothing takes": (
        lambda: Model(net(), SDE, EDMScaling(linear_estimate=True), spectrum=spectrum),
        r"takes 2 channels for fields of 1.*got 1; build it with 2",
    ),
    "a linear estimate without a spectrum": (
        lambda: Model(DFU.tiny(2, 1), SDE, EDMScaling(linear_estimate=True)),
        r"as EDMScaling needs it, got none.*Model.for_data",
    ),
    "a scaling by modes without a spectrum": (
        lambda: Model(net(), SDE, SpectralScaling((16, 16))),
        r"as SpectralScaling needs it, got none.*Model.for_data",
    ),
    "a class as the spectrum": (lambda: model(spectrum=Matern), r"pass fit_spectrum"),
    "a number as units": (lambda: model(normalization=0.5), r"Normalization\(mean, std\)"),
    "a number as units of a condition": (
        lambda: model(condition_normalization={"field": 0.5}),
        r"Normalization\(mean, std\)",
    ),
    "units of labels": (
        lambda: model(condition_normalization={"label": Normalization()}),
        r"for field and condition, got \['label'\]; labels have no units",
    ),
    "a model for data that are constant": (lambda: Model.for_data(flat(3.0), DFU.tiny), r"drop the constant ones"),
    "a model for data that are all missing": (lambda: Model.for_data(flat(NAN), DFU.tiny), r"drop the others"),
    "units of what does not vary": (lambda: measure_normalization(flat()), r"drop the constant ones"),
    "a cutoff of nothing": (lambda: SpectralScaling((16, 16), cutoff=0.0), r"cutoff > 0"),
    "a constant channel": (lambda: Normalization([0.0], [0.0]), r"leave it out"),
    "units of other channels": (lambda: Normalization([0.0, 0.0], [1.0, 1.0])(X), r"2 channels"),
    "a spectrum of NaN": (lambda: fit_spectrum(X * NAN, BOX), r"clean the data"),
    "a spectrum of infinity": (lambda: fit_spectrum(X / 0 + 1 / torch.zeros(()), BOX), r"clean the data"),
    "a spectrum of a few points": (lambda: fit_spectrum(torch.randn(4, 1, 2, 2), BOX), r"finer grid"),
}


@pytest.mark.parametrize("case", CALLS)
def test_is_refused_with_the_mend(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(*CALLS[case])
    assert list(tmp_path.iterdir()) == []
