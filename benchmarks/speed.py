"""What a DFU's spectral branches cost: one training step, and one evaluation, against the same UNet, in one run.

The median of interleaved repetitions, after warm-up; ratios, as seconds belong to a machine.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from fnodiff import DFU


def interleaved(tasks: dict[tuple[str, str], Callable[[], None]], repeats: int) -> dict[tuple[str, str], float]:
    """Median seconds of each task; the tasks take turns, so that all see the same machine."""
    seconds: dict[tuple[str, str], list[float]] = {name: [] for name in tasks}
    for repeat in range(repeats + 2):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repeat >= 2:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def step(net: DFU, x: torch.Tensor) -> None:
    """Forward and backward."""
    net(x, torch.zeros((), device=x.device)).square().mean().backward()
    net.zero_grad(set_to_none=True)


@torch.no_grad()
def evaluate(net: DFU, x: torch.Tensor) -> None:
    """Forward alone."""
    net(x, torch.zeros((), device=x.device))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 32, 64, 96])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(
        f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {platform.machine()}, batch {args.batch}"
    )
    print(f"{'size':>5}{'UNet step':>12}{'DFU / UNet':>12}{'UNet forward':>14}{'DFU / UNet':>12}")
    networks = {"UNet": DFU.small(3, 3, spectral_levels=0).to(device), "DFU": DFU.small(3, 3).to(device)}
    for n in args.sizes:
        x = torch.randn(args.batch, 3, n, n, device=device)
        tasks = {(f.__name__, name): partial(f, net, x) for f in (step, evaluate) for name, net in networks.items()}
        t = interleaved(tasks, args.repeats)
        print(
            f"{n:>5}{1e3 * t['step', 'UNet']:>9.0f} ms{t['step', 'DFU'] / t['step', 'UNet']:>12.2f}"
            f"{1e3 * t['evaluate', 'UNet']:>11.0f} ms{t['evaluate', 'DFU'] / t['evaluate', 'UNet']:>12.2f}"
        )


if __name__ == "__main__":
    main()
