"""The report of what the grid changes, its distances, and its command."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn

from fnodiff import (
    DFU,
    EDM,
    Box,
    FunctionSpaceSDE,
    GaussianRandomField,
    Matern,
    PixelNoise,
    Preconditioned,
    Sphere,
    Torus,
    metrics,
    report,
)
from fnodiff.checkpoint import save_pretrained
from fnodiff.data import write_fields
from fnodiff.report import _sliced, invariance_report
from fnodiff.sde import DPMSolver, GaussianDenoiser, Heun, SpectralPreconditioned


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


@pytest.mark.parametrize("domain", [Torus(2), Box(2)], ids=str)
def test_an_operator_makes_the_same_functions_on_every_grid_and_pixel_noise_does_not(domain):
    errors, data = {}, GaussianRandomField(domain, Matern(1.0, 0.2))
    for noise in (GaussianRandomField(domain, Matern(0.5, 0.2)), PixelNoise(domain)):
        oracle = GaussianDenoiser(data, FunctionSpaceSDE(noise, EDM()))
        found = invariance_report(
            oracle, [(12, 12), (18, 12), (24, 24)], Draws(data), samples=200, sampler=lambda d: Heun(d, 24), chunk=100
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
    found = invariance_report(Preconditioned(Grid(), sde, 1.0), [(16, 16), (32, 32)], samples=8)
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
        ({"reference": None}, "to know the channels"),
        ({"inception": True}, "images of 3 channels"),
    ],
)
def test_bad_input(options, message):
    oracle = GaussianDenoiser(DATA, FunctionSpaceSDE(DATA, EDM()))
    with pytest.raises(ValueError, match=message):
        invariance_report(oracle, **{"shapes": [(12, 12), (16, 16)], "reference": Draws(DATA), "samples": 4, **options})


@pytest.mark.parametrize("data", ["faces", "fields", None])
def test_command(tmp_path, capsys, data):
    channels = 3 if data == "faces" else 1
    sde = FunctionSpaceSDE(GaussianRandomField(Box(2), Matern(0.5, 0.2)), EDM())
    model = Preconditioned(DFU.tiny(channels, channels), sde)
    model.training_shapes = ((12, 12),)
    save_pretrained(model, tmp_path / "model")
    options = [] if data is None else ["--data", "faces"]
    if data == "fields":
        field, kind = GaussianRandomField(Box(2), Matern(1.0)), {"source": "here", "licence": "none", "grid": "points"}
        write_fields(
            tmp_path / "f.h5", Draws(field, 16), [(12, 12), (16, 20)], attributes=kind, dtype="float32", progress=False
        )
        options = ["--data", str(tmp_path / "f.h5")]
    few = ["--samples", "4", "--evaluations", "3", "--out", str(tmp_path / "r.png")]
    report.main([str(tmp_path / "model"), "--shapes", "12", "16x20", *options, *few])
    out = capsys.readouterr().out
    assert re.search(r"^16x20 +sampled +\d+\.\d+", out, flags=re.M)
    assert ("new band" in out) == (data is not None)
    assert (tmp_path / "r.png").stat().st_size > 20_000
    with pytest.raises(SystemExit):
        report.main([str(tmp_path / "model"), "--shapes", "big"])


def test_a_network_that_is_shown_the_estimate_draws_as_many_channels_as_it_gives():
    sde = FunctionSpaceSDE(GaussianRandomField(Torus(2), Matern(1.0, 0.2)), EDM())
    spectrum = lambda e, dim: DATA.std(e).square()  # noqa: E731
    net = DFU.tiny(4, 2, domain=Torus(2))
    model = SpectralPreconditioned(net, sde, spectrum, (12, 12), shown=True).eval()
    found = invariance_report(model, [(12, 12), (16, 16)], samples=8, sampler=lambda d: DPMSolver(d, 3))
    assert set(found.rows) == {(12, 12), (16, 16)}


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
