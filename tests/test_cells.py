"""Cells around a grid's points, and means over those of a coarser grid: local, and by area."""

from __future__ import annotations

import pytest
import torch

from fnodiff import Box, Sphere, Torus
from fnodiff.domain import Domain, Product

DOMAINS = [
    (Box(1), (6,), (4,)),
    (Box(2, (2.0, 3.0)), (6, 5), (3, 2)),
    (Torus(1), (8,), (3,)),
    (Torus(2), (8, 6), (4, 5)),
    (Sphere(), (9, 18), (5, 8)),
    (Sphere("equiangular"), (9, 16), (5, 8)),
]


@pytest.mark.parametrize(("domain", "fine", "coarse"), DOMAINS, ids=str)
def test_the_integral_over_the_domain_stays(domain, fine, coarse):
    x = torch.rand(2, 1, *fine, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    means = domain.average(x, coarse)
    before, after = ((v * domain.weights(v.shape[2:], dtype=v.dtype)).sum() for v in (x, means))
    torch.testing.assert_close(after, before)
    torch.testing.assert_close(domain.average(torch.ones_like(x), coarse), torch.ones_like(means))


@pytest.mark.parametrize(("domain", "fine", "coarse"), DOMAINS, ids=str)
def test_a_point_is_within_its_cell(domain, fine, coarse):
    for bounds, n in zip(domain.cells(fine), fine, strict=True):
        assert len(bounds) == n + 1
        assert bool((bounds.diff() > 0).all())
        assert float(bounds[-1] - bounds[0]) == pytest.approx(1)


@pytest.mark.parametrize("domain", [Box(2), Torus(2), Product([Torus(1), Box(1)])], ids=str)
@pytest.mark.parametrize("shape", [(4, 3), (3, 9), (12, 5)])
def test_the_quick_way_of_straight_axes_is_that_of_all_domains(domain, shape):
    x = torch.rand(1, 2, 6, 9, dtype=torch.float64)
    torch.testing.assert_close(domain.average(x, shape), Domain.average(domain, x, shape))


def test_on_a_periodic_axis_the_neighbours_count_by_half():
    x = torch.tensor([[[1.0, 2.0, 3.0, 6.0]]])
    # around 0: half of 6, all of 1, half of 2; around 1/2: half of 2, all of 3, half of 6
    expected = [(0.5 * 6 + 1 + 0.5 * 2) / 2, (0.5 * 2 + 3 + 0.5 * 6) / 2]
    torch.testing.assert_close(Torus(1).average(x, (2,)), torch.tensor([[expected]]))


def test_on_the_sphere_belts_count_by_their_area():
    x = torch.zeros(1, 1, 3, 4, dtype=torch.float64)
    x[..., 0, :] = 1.0  # the north pole, a sixth of the area by the rule of three points
    assert Sphere("equiangular").cells((3, 4))[0].tolist() == pytest.approx([0, 1 / 6, 5 / 6, 1])
    two = Sphere("equiangular").average(x, (2, 4))
    assert two[0, 0, :, 0].tolist() == pytest.approx([1 / 3, 0])
