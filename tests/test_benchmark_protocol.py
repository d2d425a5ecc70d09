"""The protocol of sizes: what its columns say of networks that are known, and that the table is printed."""

from __future__ import annotations

import re

import pytest
import torch
from parts import quick

from benchmarks import protocol
from fnodiff import Box, Torus
from fnodiff.equations import Burgers

TORUS = Torus(1)


@pytest.fixture(scope="module")
def pairs() -> dict[int, torch.Tensor]:
    """u = 2 a, with as much in the modes that 8 points lack."""
    a = TORUS.white((16, 1), (32,), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a = TORUS.synthesize(a, (32,))
    return {n: TORUS.resample(torch.cat([a, 2 * a], 1), (n,)) for n in (4, 8, 16, 32)}


def test_the_operator_itself_has_no_error(pairs):
    assert max(protocol.measured(lambda a: 2 * a, pairs, 8, TORUS)) < 1e-12


def test_nothing_has_all_of_it(pairs):
    assert protocol.measured(lambda a: 0 * a, pairs, 8, TORUS) == pytest.approx([1.0] * 8)


def test_half_of_what_a_grid_holds(pairs):
    """Half of u in the modes that 8 points hold, nothing else: errors are 1/2 on that grid, on any grid of its functions."""
    resampled = protocol.Resampled(torch.nn.Identity(), TORUS, (8,))
    four, eight, _, finest, spectrum, *same, new = protocol.measured(resampled, pairs, 8, TORUS)
    assert [four, eight, *same, spectrum, new] == pytest.approx([0.5, 0.5, 0.5, 0.5, 1.0, 1.0])
    energy = [float(TORUS.norm(pairs[n][:, 1:]).square().mean()) for n in (8, 32)]
    assert finest**2 == pytest.approx(1 - 0.75 * energy[0] / energy[1], abs=0.05)


@pytest.mark.parametrize("domain", [Torus(1), Box(2)])
def test_the_cno_is_an_operator_on_one_grid(domain):
    torch.manual_seed(0)
    net = protocol.Resampled(protocol.CNO(domain, width=4), domain, (12,) * domain.dim).double()
    a = torch.randn(1, 1, *(12,) * domain.dim, dtype=torch.float64)
    a = domain.filter(a, torch.ones_like)
    fine = net(domain.resample(a, (30,) * domain.dim))
    assert net(a).std() > 1e-3
    torch.testing.assert_close(
        domain.resample(fine, (12,) * domain.dim),
        net(a) if domain.edges[0] == "wall" else domain.filter(net(a), torch.ones_like),
    )


def test_pairs_are_input_and_output():
    equation = protocol.EQUATIONS[0]
    pairs = equation.pairs(2, [8, 16], test=True)
    batch = Burgers(2, 1, fine=64).batch([0, 1], (8,))
    assert torch.equal(pairs[8], torch.cat([batch["field"], batch["x"]], 1)) and list(pairs) == [8, 16]


@pytest.mark.parametrize("name", quick(("Burgers", "Darcy", "Navier-Stokes"), "Burgers"))
def test_the_table(name, capsys):
    small = ["--train", "8", "12", "--finer", "16", "24", "--count", "8", "--test", "2", "--minutes", "0.0005"]
    protocol.main([*small, "--equations", name, "--rows", "FNO", "DFU, taps"])
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if re.match(r"(FNO|DFU, taps)", line)]
    assert len(rows) == 6 and all(len(re.findall(r"[\d.]+%", row)) == 6 for row in rows)
    assert sum("FNO, resampled: 8 and 12" in row for row in rows) == 1
    assert [line.split(",")[0] for line in lines if "trained on" in line] == [name]
