"""Scores as others compute them: torchmetrics, clean-fid, torch-fidelity, scores and properscoring."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from fnodiff import metrics
from fnodiff.data import to_xarray
from fnodiff.domain import Box, Sphere, Torus
from fnodiff.metrics.inception import clean
from fnodiff.metrics.running import CRPS, EnergyScore, SpectrumError


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SAMPLES, TRUTH = drawn(6, 5, 2, 8, 6), drawn(5, 2, 8, 6, seed=1)


class TestKernelDistance:
    def test_is_the_mean_over_pairs(self):
        x, y = drawn(4, 3), drawn(6, 3, seed=1) + 1
        k = lambda a, b: (float(a @ b) / 3 + 1) ** 3  # noqa: E731
        within = [sum(k(a, b) for a in v for b in v if a is not b) / (len(v) * (len(v) - 1)) for v in ([*x], [*y])]
        expected = sum(within) - 2 * sum(k(a, b) for a in x for b in y) / 24
        assert metrics.kernel_distance(x, y) == pytest.approx(expected, rel=1e-10)

    def test_is_torchmetrics(self):
        kid = pytest.importorskip("torchmetrics.image.kid")
        x, y = drawn(40, 8), 1.3 * drawn(40, 8, seed=1)
        assert metrics.kernel_distance(x, y) == pytest.approx(float(kid.poly_mmd(x, y)), rel=1e-6)

    def test_its_expectation_is_zero_for_one_law_whatever_the_number(self):
        found = [metrics.kernel_distance(drawn(10, 4, seed=i), drawn(25, 4, seed=1000 + i)) for i in range(200)]
        values = torch.tensor(found)
        assert abs(float(values.mean())) < 4 * float(values.std()) / 200**0.5 and float(values.min()) < 0

    @pytest.mark.parametrize("wrong", [drawn(4, 2), drawn(1, 3), torch.full((4, 3), torch.nan)])
    def test_other_features_are_refused(self, wrong):
        with pytest.raises(ValueError, match="kernel_distance: expected"):
            metrics.kernel_distance(wrong, drawn(4, 3))


class TestInception:
    def test_clean_resizing_is_that_of_clean_fid(self):
        resize = pytest.importorskip("cleanfid.resize").build_resizer("clean")
        levels = torch.randint(0, 256, (2, 3, 40, 32), generator=torch.Generator().manual_seed(0))
        theirs = torch.stack([torch.from_numpy(resize(x.permute(1, 2, 0).numpy().astype("uint8"))) for x in levels])
        assert (clean(levels) - theirs.permute(0, 3, 1, 2).clamp(0, 255)).abs().max() <= 0.5, "but for the rounding"

    def test_a_stripe_of_one_pixel_keeps_its_share(self):
        levels = torch.zeros(1, 3, 598, 598)
        levels[..., ::2] = 255
        assert (clean(levels)[..., 4:-4] - 127.5).abs().max() <= 0.5, "the network's own sees every other pixel"

    def test_the_resizing_is_seen(self):
        seen = []

        def network(x):
            seen.append(tuple(x.shape[2:]))
            return x.double().mean((2, 3))

        images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        for resize in ("bilinear", "clean"):
            metrics.inception_distances(images, images.flip(1), feature=network, resize=resize)
        assert seen == [(16, 16), (16, 16), (299, 299), (299, 299)]
        with pytest.raises(ValueError, match="expected resize as 'bilinear', 'clean', got 'area'"):
            metrics.inception_distances(images, images, feature=network, resize="area")

    def test_figures_are_those_of_torch_fidelity(self):
        fid, kid = (pytest.importorskip(f"torch_fidelity.metric_{name}") for name in ("fid", "kid"))
        images = [
            torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(i)) ** (i + 1) * 2 - 1 for i in range(2)
        ]
        colours = lambda x: x.double().mean((2, 3)) / 255  # noqa: E731
        found = metrics.inception_distances(*images, feature=colours)
        theirs = [colours(((x + 1) * 127.5).round()) for x in images]
        figure = fid.fid_statistics_to_metric(*map(fid.fid_features_to_statistics, theirs), verbose=False)
        assert found[0] == pytest.approx(figure["frechet_inception_distance"], rel=1e-4)
        figure = kid.kid_features_to_metric(*theirs, kid_subset_size=60, kid_subsets=1, verbose=False)
        assert found[1] == pytest.approx(figure["kernel_inception_distance_mean"], rel=1e-4)


@pytest.mark.parametrize(("metric", "function"), [(CRPS, metrics.crps), (EnergyScore, metrics.energy_score)])
class TestRunningScores:
    def test_batches_are_the_whole(self, metric, function):
        score = metric(Box(2))
        for part in (slice(0, 2), slice(2, 5)):
            score.update(SAMPLES[:, part], TRUTH[part])
        assert float(score.compute()) == pytest.approx(float(function(SAMPLES, TRUTH, Box(2)).mean()), rel=1e-12)

    def test_processes_are_the_whole(self, metric, function):
        one, other = metric(Box(2)), metric(Box(2))
        one.update(SAMPLES[:, :2], TRUTH[:2]), other.update(SAMPLES[:, 2:], TRUTH[2:])
        one.merge_state(other)  # as after a reduction over processes
        assert float(one.compute()) == pytest.approx(float(function(SAMPLES, TRUTH, Box(2)).mean()), rel=1e-12)

    def test_a_mask_counts(self, metric, function):
        mask = torch.ones(5, 1, 8, 6)
        mask[:, :, :4] = 0
        value = metric(Box(2))(SAMPLES, TRUTH, mask)
        assert float(value) == pytest.approx(float(function(SAMPLES, TRUTH, Box(2), mask=mask).mean()))
        assert float(value) != pytest.approx(float(function(SAMPLES, TRUTH, Box(2)).mean()), rel=1e-3)


def test_the_spectrum_of_batches_is_that_of_the_whole():
    x, y = drawn(7, 2, 8, 8), 2 * drawn(4, 2, 8, 8, seed=1)
    score = SpectrumError(Torus(2), 8)
    score.update(x[:3], y[:1]), score.update(x[3:], y[1:])
    assert float(score.compute()) == pytest.approx(metrics.spectrum_error(x, y, Torus(2)), rel=1e-10)
    torch.testing.assert_close(score.spectra()[0], metrics.radial_spectrum(x, Torus(2))[1])
    with pytest.raises(ValueError, match=r"expected fields on \(8, 8\), got \(1, 2, 6, 6\)"):
        score.update(drawn(1, 2, 6, 6), y)


@pytest.fixture
def labelled():
    """An ensemble and the truth on the globe, and areas, as xarray has them."""
    pytest.importorskip("xarray")
    domain = Sphere("equiangular")
    samples, truth = drawn(6, 3, 1, 7, 12), drawn(3, 1, 7, 12, seed=1)
    areas = to_xarray(domain.weights((7, 12), dtype=torch.float64).expand(1, 1, 7, 12), domain).x.isel(sample=0)
    return domain, samples, truth, to_xarray(samples, domain).x, to_xarray(truth, domain).x, areas


def test_ensembles_have_a_dimension_of_members(labelled):
    _, samples, _, ensemble, one, areas = labelled
    assert ensemble.dims == ("member", "sample", "latitude", "longitude") and one.dims == ensemble.dims[1:]
    assert float(areas.sum()) == pytest.approx(1)
    assert ensemble.isel(member=4, sample=2).values.tolist() == samples[4, 2, 0].tolist()
    names = to_xarray(drawn(6, 3, 2, 7, 12), Sphere("equiangular"), names=["u", "v"], seeds=[4, 5, 6])
    assert names.v.sizes["member"] == 6 and names.seed.values.tolist() == [4, 5, 6]


def test_crps_is_that_of_scores(labelled):
    probability = pytest.importorskip("scores.probability")
    domain, samples, truth, ensemble, one, areas = labelled
    found = probability.crps_for_ensemble(ensemble, one, "member", method="fair", preserve_dims="sample", weights=areas)
    torch.testing.assert_close(torch.from_numpy(found.values), metrics.crps(samples, truth, domain))


def test_crps_is_that_of_properscoring_made_fair(labelled):
    properscoring = pytest.importorskip("properscoring")
    domain, samples, truth, ensemble, one, areas = labelled
    found = properscoring.crps_ensemble(one.values, ensemble.transpose(..., "member").values)
    pairs = (samples[:, None] - samples).abs().sum((0, 1))[:, 0] / 2
    fair = torch.from_numpy(found) + pairs * (1 / 36 - 1 / 30)  # S^2 and S (S - 1)
    torch.testing.assert_close(
        (fair * torch.from_numpy(areas.values)).sum((1, 2)), metrics.crps(samples, truth, domain)
    )


def blocks():
    page = (Path(__file__).parent.parent / "docs" / "scoring.md").read_text()
    return re.findall(r"^```python\n(.*?)^```$", page, flags=re.M | re.S)


def test_the_page_runs_within_torchmetrics():
    names = {"batches": [(drawn(4, 3, 1, 16, 16, seed=i), drawn(3, 1, 16, 16, seed=9 + i)) for i in range(2)]}
    exec(blocks()[1], names)
    expected = torch.cat([metrics.crps(x, y, Box(2)) for x, y in names["batches"]]).mean()
    assert names["found"]["crps"] == pytest.approx(float(expected)) and float(names["spectrum"].compute()) < 0.5


def test_the_page_runs_within_scores(labelled):
    pytest.importorskip("scores")
    names = dict(zip(("domain", "samples", "truth"), labelled, strict=False))
    exec(blocks()[2], names)
    assert names["theirs"].values == pytest.approx(names["ours"].numpy(), rel=1e-5)


def test_the_page_says_how_much_larger_the_other_form_is(labelled):
    probability = pytest.importorskip("scores.probability")
    _, samples, _, ensemble, one, _ = labelled
    fair, ecdf = (probability.crps_for_ensemble(ensemble, one, "member", method=m) for m in ("fair", "ecdf"))
    apart = torch.stack([(a - b).abs().mean() for i, a in enumerate(samples) for b in samples[i + 1 :]]).mean()
    assert float(ecdf - fair) == pytest.approx(float(apart) / (2 * 6))
