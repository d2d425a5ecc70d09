"""What the tables of speed compare: networks of equal widths, and how a forward pass and a step are timed."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from neuralop.layers.spectral_convolution import SpectralConv as StockSpectralConv
from torch import Tensor, nn

from fnodiff import DFU, Box

WIDTH = {"hidden_channels": 32, "channel_mult": (1, 2, 2, 2), "num_blocks": 2}
MODES = (32, 16)


class Stock(StockSpectralConv):
    """neuralop's own forward, with our constructor's extra argument."""

    def __init__(
        self, in_channels: int, out_channels: int, n_modes: tuple[int, ...], *, domain: Box, **options
    ) -> None:
        super().__init__(in_channels, out_channels, n_modes, factorization="ComplexDense", **options)

    def forward(self, x: Tensor, output_shape: tuple[int, ...] | None = None) -> Tensor:
        return super().forward(x, output_shape=None if output_shape is None else list(output_shape))


class Diffusers(nn.Module):
    """A diffusers UNet2D of equal width, with attention at level 2 and at the bottleneck as ours, called as ours."""

    def __init__(self, hidden_channels: int, channel_mult: Sequence[int], num_blocks: int) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        attends = [level == 2 for level in range(len(channel_mult))]
        self.net = UNet2DModel(
            in_channels=3,
            out_channels=3,
            layers_per_block=num_blocks,
            block_out_channels=tuple(hidden_channels * m for m in channel_mult),
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
            norm_num_groups=min(32, hidden_channels // 4),
            attention_head_dim=min(64, hidden_channels * channel_mult[-1]),
        )

    def forward(self, x: Tensor, noise_level: Tensor) -> Tensor:
        return self.net(x, noise_level.expand(len(x))).sample


@contextmanager
def stock_layers():
    """DFUs made here have neuralop's spectral convolution."""
    with mock.patch("fnodiff.nn.dual.SpectralConv", Stock):
        yield


def makers(
    width: dict[str, Any] | None = None, n_modes: tuple[int, int] = MODES, reference: tuple[int, int] = (32, 32)
) -> dict[str, Callable[[], nn.Module]]:
    """The networks that are compared, by name, each to be made when it is needed; diffusers' last, where it is installed.

    Ours without dropout, as diffusers' has none by default.
    """
    width = WIDTH if width is None else width
    levels = len(width["channel_mult"])
    options = {"spectral_levels": min(3, levels), "attention_levels": (2,) if levels > 2 else (), "dropout": 0.0}
    make = partial(DFU, 3, 3, n_modes=n_modes, boundary="periodic", **options, **width)
    rows: dict[str, Callable[[], nn.Module]] = {
        "UNet": partial(make, spectral_levels=0),
        "DFU, half the grid a level": make,
        "DFU, levels by a reference": partial(make, reference=reference),
    }
    if importlib.util.find_spec("diffusers") is None:
        print("(no row for diffusers: pip install 'fnodiff[bench]')")
    else:
        rows["diffusers UNet2D"] = partial(Diffusers, **width)
    return rows


def networks(peer: Path | None) -> dict[str, nn.Module]:
    """The rows of the tables of speed, with cosine kernels, neuralop's layer and another implementation's network."""
    rows = {name: make() for name, make in makers().items()}
    make = partial(DFU, 3, 3, n_modes=MODES, dropout=0.0, **WIDTH)
    rows |= {f"DFU by reference, {kind} kernels": make(reference=(32, 32), boundary=kind) for kind in ("even", "all")}
    with stock_layers():
        rows["DFU on neuralop's layer"] = make(boundary="periodic")
    if peer is not None:
        spec = importlib.util.spec_from_file_location("peer", peer)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        rows[peer.stem] = module.make(3, 3, **WIDTH)
    return rows


def interleaved(tasks: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median seconds of each task; the tasks take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for repeat in range(repeats + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repeat >= 1:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def step(net: nn.Module, x: Tensor, *rest: Tensor) -> None:
    """Forward and backward."""
    net(x, *rest).square().mean().backward()
    net.zero_grad(set_to_none=True)


@torch.no_grad()
def evaluate(net: nn.Module, x: Tensor, *rest: Tensor) -> None:
    """Forward alone."""
    net(x, *rest)
