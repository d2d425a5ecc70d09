"""Draws on grids far from square: one seed is one function on all of them, and cost grows with the number of modes."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fnodiff import Box, GaussianRandomField, Matern, Product, Torus
from fnodiff.domain import normals


def draw(shape: tuple[int, ...], seed: int = 7) -> Tensor:
    return normals((1, 2), shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("large", "small"),
    [
        ((150, 300), (150, 9)),
        ((150, 300), (3, 300)),
        ((150, 300), (150, 150)),
        ((150, 300), (128, 128)),
        ((150, 300), (131, 290)),
        ((40, 7, 70), (7, 7, 7)),
        ((40, 7, 70), (40, 7, 5)),
        ((40, 7, 70), (33, 1, 60)),
        ((48, 36, 40), (36, 36, 36)),
        ((48, 36, 40), (32, 36, 17)),
        ((3000,), (17,)),
    ],
)
def test_a_smaller_grid_has_the_first_numbers_of_a_larger_one(large: tuple[int, ...], small: tuple[int, ...]) -> None:
    assert torch.equal(draw(small), draw(large)[(..., *(slice(n) for n in small))])


@pytest.mark.parametrize("shape", [(150, 300), (40, 36, 40)])
def test_no_number_comes_twice(shape: tuple[int, ...]) -> None:
    both = torch.cat([draw(shape), draw(shape, seed=8)])  # two seeds, two channels
    assert both.unique().numel() == 4 * math.prod(shape)
    assert float(both.mean()) == pytest.approx(0, abs=4 / math.sqrt(both.numel()))
    assert float(both.var()) == pytest.approx(1, abs=4 * math.sqrt(2 / both.numel()))


@pytest.mark.parametrize(
    ("shape", "total", "last"),
    [  # version 1's, written down before there was a second
        ((300,), -32.28383416914717, 0.942616259821898),
        ((100, 60), -241.9968314174011, -1.1017044046337356),
        ((128, 128), -347.4587597248186, 0.06662504241773612),
        ((32, 32, 32), -352.01515105412795, 0.4910085642204862),
    ],
)
def test_seeds_stay_what_they_were_on_cubes(shape: tuple[int, ...], total: float, last: float) -> None:
    x = draw(shape)
    assert float(x[0, 1].flatten()[-1]) == last
    assert float(x.sum()) == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize(
    ("shape", "last"),
    [((2, 200), -1.328770544341368), ((200, 200), 1.459027300728624), ((3, 50, 4), -0.2695825224789741)],
    ids=["long", "square", "deep"],
)
def test_seeds_stay_what_they_are_beyond(shape: tuple[int, ...], last: float) -> None:
    assert float(draw(shape)[0, 1].flatten()[-1]) == last


class Counting(np.random.Generator):
    """NumPy's, which counts."""

    drawn = 0

    def standard_normal(self, size: Any) -> Any:
        Counting.drawn += int(np.prod(size))
        return super().standard_normal(size)


@pytest.mark.parametrize("shape", [(64, 2048), (2048, 64), (9, 4096), (16, 16, 256), (256, 16, 16)])
def test_long_grids_cost_as_many_numbers_and_as_much_memory(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np.random, "Generator", Counting)
    draw(shape)  # which places the blocks
    Counting.drawn = 0
    tracemalloc.start()
    draw(shape)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    points = 2 * math.prod(shape)  # of two channels
    assert points <= Counting.drawn <= 2 * points
    assert peak <= 2 * 8 * points


@pytest.mark.parametrize("domain", [Torus(2), Box(2), Product([Torus(1), Box(1)])], ids=str)
def test_one_seed_is_one_function_on_a_long_grid_too(domain: Any) -> None:
    field = GaussianRandomField(domain, Matern(1.0))
    long, small = (
        field.sample((1, 1, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        for shape in ((9, 300), (9, 21))
    )
    torch.testing.assert_close(domain.resample(long, (9, 21)), small, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "domain", [Torus(2, (1.0, 64.0)), Torus(3, (1.0, 1.0, 5.0)), Product([Torus(1, (40.0,)), Box(1)])], ids=str
)
def test_the_trace_on_a_long_domain(domain: Any) -> None:
    # exp(-a lambda) is a product of theta functions, one for each axis: sum over k of exp(-a (step k)^2).
    a, k = 0.3, torch.arange(-400, 401, dtype=torch.float64)
    expected = 1.0
    for length, edge in zip(domain.lengths, domain.edges, strict=True):
        if edge == "periodic":
            expected *= float((-a * (2 * math.pi * k / length).square()).exp().sum())
        else:
            expected *= (1 + float((-a * (math.pi * k / length).square()).exp().sum())) / 2
    assert domain.trace(lambda eigenvalues: (-a * eigenvalues).exp()) == pytest.approx(expected, rel=1e-12)
