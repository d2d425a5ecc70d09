"""Operator calls of a forward pass, beside diffusers' UNet2D of the same widths."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("diffusers")

from benchmarks.calls import Calls, calls, rows

# All calls, beside diffusers'. Three products to the modes and back, and what lies between, take spectral branches above 1.3.
MOST = {
    "UNet": 1.05,
    "DFU, half the grid a level": 2.9,
    "DFU, levels by a reference": 2.9,
    "DFU by reference, even kernels": 2.45,
}


def test_calls_and_views_are_counted():
    with Calls() as counted:
        (torch.ones(2, 3) + 1).view(6).unsqueeze(0)
    assert counted.counts == {"ones": 1, "add": 1, "view": 1, "unsqueeze": 1} and counted.views == 2
    assert counted.total == 4


@pytest.fixture(scope="module")
def peer():
    return calls(rows()["diffusers UNet2D"](), 32).total


@pytest.mark.slow
@pytest.mark.parametrize("n", [32, 64])
@pytest.mark.parametrize("name", [name for name in MOST if name != "UNet"])
def test_spectral_branches_call_few_operators(peer, name, n):
    assert calls(rows()[name](), n).total <= MOST[name] * peer


def test_our_unet_calls_as_few_operators_as_diffusers(peer):
    assert calls(rows()["UNet"](), 32).total <= MOST["UNet"] * peer
