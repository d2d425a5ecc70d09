"""u from a for Darcy flow: networks trained for the same processor time, one after the other, on one thread.

Rows are the Fourier neural operator and the DFU of `examples/darcy_flow.py`, and the DFU with one thing changed. All see the
same pairs on 16 to 48 cells per side, under the square's eight symmetries unless it says otherwise, in batches of 8; Adam,
the learning rate falling to zero along half a cosine. Printed: parameters, steps taken, and mean relative L2 errors on pairs
not trained on, at 48, zero-shot at 96, and on 64 of the training pairs at 48.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from neuralop.models import FNO
from torch import Tensor, nn

from fnodiff import DFU, Box, metrics
from fnodiff.equations import Darcy
from fnodiff.train import keep_freed_memory

DOMAIN, GRIDS, FINEST = Box(2), (16, 24, 32, 48), 96


@dataclass(frozen=True)
class Row:
    """A network and how it is trained."""

    name: str
    network: dict[str, Any] | None = field(default_factory=dict)  # of the DFU; None for the FNO
    beta: float = 0.99
    symmetries: bool = True
    batch: int = 8

    def make(self) -> nn.Module:
        """The network, called as `net(a)`."""
        if self.network is None:
            return FNO(n_modes=(24, 24), in_channels=1, out_channels=1, hidden_channels=32, n_layers=4)
        return Regression(self.network)


class Regression(nn.Module):
    """A DFU that sees its input (B, condition_channels, *grid) alone: zeros where a diffusion model has the noisy state."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        options = {"channel_mult": (1, 1), "n_modes": (24, 24), "hidden_channels": 16, "local": "point"} | options
        common = {"num_blocks": 1, "dropout": 0.0, "attention_levels": (), "positional_modes": 4, "domain": DOMAIN}
        common |= {"reference": (max(GRIDS),) * 2, "spectral_levels": len(options["channel_mult"])}
        self.net = DFU(1, 1, **{"condition_channels": 1} | common | options)

    def forward(self, a: Tensor) -> Tensor:
        """u of a, (B, 1, *grid) and normalised."""
        return self.net(torch.zeros_like(a[:, :1]), a.new_zeros(()), field=a)


EXAMPLE = Row("DFU of the example")
ROWS = [
    Row("FNO", None, beta=0.999),
    EXAMPLE,
    replace(EXAMPLE, name="taps", network={"local": "operator"}),
    replace(EXAMPLE, name="taps, three levels", network={"local": "operator", "channel_mult": (1, 1, 1)}),
    replace(EXAMPLE, name="taps, levels 1-2-2 wide", network={"local": "operator", "channel_mult": (1, 2, 2)}),
    replace(EXAMPLE, name="16 modes", network={"n_modes": (16, 16)}),
    replace(EXAMPLE, name="batches of 4", batch=4),
    replace(EXAMPLE, name="beta_2 = 0.999", beta=0.999),
    replace(EXAMPLE, name="without symmetries", symmetries=False),
    Row("FNO, without symmetries", None, beta=0.999, symmetries=False),
]


def fitted(
    net: nn.Module,
    loss: Callable[[], Tensor],
    seconds: float,
    lr: float,
    *,
    beta: float = 0.999,
    clip: float | None = 1.0,
) -> int:
    """Train a network for this processor time, the rate falling to zero along half a cosine: the steps that it took."""
    optimizer = torch.optim.Adam(net.parameters(), lr=lr, betas=(0.9, beta))
    start, step = time.process_time(), 0
    while (done := (time.process_time() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * done))
        optimizer.zero_grad()
        loss().backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()
        step += 1
    net.eval()
    return step


def train(row: Row, pairs: dict[int, Tensor], seconds: float) -> tuple[nn.Module, int]:
    """The trained network, and the steps that it took."""
    torch.manual_seed(0)
    net, generator = row.make(), torch.Generator().manual_seed(0)
    mean, std = pairs[0].unbind()

    def loss() -> Tensor:
        x = pairs[GRIDS[int(torch.randint(len(GRIDS), (), generator=generator))]]
        x = x[torch.randint(len(x), (row.batch,), generator=generator)]
        if row.symmetries:
            turn, flip = (int(torch.randint(n, (), generator=generator)) for n in (4, 2))
            x = torch.rot90(x, turn, (2, 3))
            x = x.flip(2) if flip else x
        a, u = x[:, :1], x[:, 1:]
        if row.network is None:  # its own loss: the error relative to u in its units
            return metrics.relative_l2(net(a) * std[1] + mean[1], u * std[1] + mean[1], DOMAIN).mean()
        return (net(a) - u).square().mean()

    settings = {"lr": 2e-3, "clip": None} if row.network is None else {"lr": 3e-3}
    return net, fitted(net, loss, seconds, beta=row.beta, **settings)


@torch.no_grad()
def error(net: nn.Module, x: Tensor, units: Tensor) -> float:
    """Mean relative L2 error of u, of pairs (N, 2, n, n) in their units."""
    mean, std = units
    a = (x[:, :1] - mean[0]) / std[0]
    u = torch.cat([net(part) for part in a.split(16)]) * std[1] + mean[1]
    return float(metrics.relative_l2(u, x[:, 1:], DOMAIN).mean())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120, help="processor time of each row's training")
    parser.add_argument("--count", type=int, default=768, help="pairs to train on")
    parser.add_argument("--test", type=int, default=64, help="pairs to test on")
    parser.add_argument("--only", nargs="+", choices=[row.name for row in ROWS], help="rows")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    law = {"scale": 3.0, "constant_mode": False}
    shapes = [(n, n) for n in (*GRIDS, FINEST)]
    raw = [b["x"] for b in Darcy(args.count, seed=0, **law).batches(range(args.count), shapes[:-1])]
    low, high = (b["x"] for b in Darcy(args.test, seed=1, **law).batches(range(args.test), shapes[-2:]))
    units = torch.stack([raw[-1].mean((0, 2, 3)), raw[-1].std((0, 2, 3))])
    mean, std = units[:, :, None, None]
    pairs = {n: (x - mean) / std for n, x in zip(GRIDS, raw, strict=True)} | {0: units}
    print(f"{args.count} pairs, {args.seconds:g} s each; torch {torch.__version__}, 1 thread, {platform.machine()}")
    print(f"{'':<26}{'million':>9}{'steps':>8}{'at 48':>9}{'at 96':>9}{'trained on':>12}")
    for row in ROWS:
        if args.only and row.name not in args.only:
            continue
        net, steps = train(row, pairs, args.seconds)
        count = sum(p.numel() for p in net.parameters()) / 1e6
        errors = [error(net, x, units) for x in (low, high, raw[-1][:64])]
        print(f"{row.name:<26}{count:>9.2f}{steps:>8}{errors[0]:>9.2%}{errors[1]:>9.2%}{errors[2]:>12.2%}", flush=True)


if __name__ == "__main__":
    main()
