"""How time and memory grow: a network with points, batch and modes; draws, transforms and changes of grid on large grids.

    python -m benchmarks.growth

A slope is the exponent of time, or of memory, in what grows, by least squares in logarithms; of points it is asked from 64
points a side on. Large grids are measured beside one pair of real FFTs of the same fields, the least that any transform costs.
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from fnodiff import DFU, Box, GaussianRandomField, Matern, Torus, WhiteNoise
from fnodiff.cost import Cost, keep_freed_memory, measure
from fnodiff.domain import Domain

WIDTH = {"hidden_channels": 32, "channel_mult": (1, 2, 2, 2), "num_blocks": 2, "dropout": 0.0}


def slope(numbers: Sequence[float], values: Sequence[float]) -> float:
    """The exponent of a power law, by least squares in logarithms."""
    return statistics.linear_regression([math.log(n) for n in numbers], [math.log(v) for v in values]).slope


def cost(f: Callable[[], object], repeats: int = 5) -> Cost:
    """Of a call: the peak of its memory, and its time at best."""
    costs = [measure(f)]
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        costs.append(Cost(time.perf_counter() - start, 0))
    return Cost(min(c.seconds for c in costs), costs[0].bytes)


def step(net: nn.Module, points: int, batch: int) -> Cost:
    """Of a training step."""
    x, level = torch.randn(batch, 3, points, points), torch.zeros(batch)

    def once() -> None:
        net(x, level).square().mean().backward()
        net.zero_grad(set_to_none=True)

    return cost(once)


def line(name: str, numbers: Sequence[int], costs: Sequence[Cost], grows: Sequence[float], first: int = 0) -> None:
    """One network's seconds, MiB and their slopes."""
    cells = "".join(f"{1e3 * c.seconds:>8.0f} /{c.bytes / 2**20:>6.0f}" for c in costs)
    kept = slice(first, None)
    slopes = [slope(grows[kept], [getattr(c, name) for c in costs[kept]]) for name in ("seconds", "bytes")]
    print(f"  {name:<32}{cells}{slopes[0]:>9.2f} /{slopes[1]:>5.2f}", flush=True)


def networks(sizes: Sequence[int], batches: Sequence[int], modes: Sequence[int]) -> None:
    """A step against points, batch and modes."""
    make = partial(DFU, 3, 3, n_modes=(32, 16), **WIDTH)
    rows = {
        "UNet": make(spectral_levels=0),
        "DFU, half the grid a level": make(boundary="periodic"),
        "DFU, levels by a reference": make(boundary="periodic", reference=(32, 32)),
        "DFU by reference, even kernels": make(reference=(32, 32)),
    }
    head = "ms / MiB of a training step"
    print(f"\n{head}, one sample, against points a side; slopes in points, from 64 a side\n  {'':<32}", end="")
    print("".join(f"{n:>16}" for n in sizes) + f"{'slopes':>16}")
    first = next((i for i, n in enumerate(sizes) if n >= 64), 0)
    for name, net in rows.items():
        line(name, sizes, [step(net, n, 1) for n in sizes], [n * n for n in sizes], min(first, len(sizes) - 2))
    print(f"\n{head}, 32 points a side, against the batch\n  {'':<32}", end="")
    print("".join(f"{n:>16}" for n in batches) + f"{'slopes':>16}")
    for name, net in rows.items():
        line(name, batches, [step(net, 32, n) for n in batches], batches)
    print(f"\n{head}, one sample of 64 points a side, against modes per axis; slopes in modes\n  {'':<32}", end="")
    print("".join(f"{n:>16}" for n in modes) + f"{'slopes':>16}")
    for name, boundary in (("DFU, levels by a reference", "periodic"), ("DFU by reference, even kernels", "even")):
        costs = []
        for n in modes:
            net = DFU(3, 3, n_modes=(n, n), boundary=boundary, reference=(64, 64), **WIDTH)
            costs.append(step(net, 64, 1))
        line(name, modes, costs, [n * n for n in modes])


def large(domain: Domain, shape: tuple[int, ...]) -> None:
    """Draws, transforms and a change of grid, beside a pair of FFTs."""
    x, half = torch.randn(1, 1, *shape), tuple(n // 2 for n in shape)
    smooth, white = GaussianRandomField(domain, Matern(1.0, 0.1)), WhiteNoise(domain, half)
    axes = tuple(range(2, x.ndim))
    tasks: dict[str, Callable[[], object]] = {
        "a pair of real FFTs": lambda: torch.fft.irfftn(torch.fft.rfftn(x, dim=axes), s=shape, dim=axes),
        "a draw of white noise": lambda: white.sample(x.shape),
        "a draw of Matern noise": lambda: smooth.sample(x.shape),
        "to modes and back": lambda: domain.synthesize(domain.analyze(x), shape),
        "to half the points": lambda: domain.resample(x, half),
    }
    print(f"\n{domain}, {'x'.join(map(str, shape))} points, one channel: {x.numel() * 4 / 2**20:.0f} MiB")
    costs = {name: cost(task) for name, task in tasks.items()}
    least = costs["a pair of real FFTs"]
    for name, found in costs.items():
        print(
            f"  {name:<24}{1e3 * found.seconds:>8.0f} ms{found.seconds / least.seconds:>7.1f}{found.bytes / 2**20:>8.0f} MiB",
            flush=True,
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--modes", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--plane", type=int, default=1024, help="points a side of the large plane")
    parser.add_argument("--cube", type=int, default=128, help="points a side of the large cube")
    args = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    networks(args.sizes, args.batches, args.modes)
    for domain in (Box, Torus):
        large(domain(2), (args.plane,) * 2)
        large(domain(3), (args.cube,) * 3)


if __name__ == "__main__":
    main()
