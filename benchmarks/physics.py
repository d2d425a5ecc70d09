"""Facts about the data that are solved or measured, which their docstrings state: laws, resolution, time per sample."""

from __future__ import annotations

import argparse
import itertools
import time

import torch
from torch import Tensor

from fnodiff.data import Terrain
from fnodiff.equations import Darcy, NavierStokes
from fnodiff.equations.darcy import coefficient, residual, solve
from fnodiff.equations.navier_stokes import initial_vorticity
from fnodiff.metrics import relative_l2, slope_statistics

GRIDS = (24, 48, 96)


def two_valued(draws: int) -> None:
    """How often a two-valued coefficient has one value only, or hardly any of the other."""
    print(f"Darcy flow: {draws} draws of the two-valued a at 32x32")
    for constant_mode in (True, False):
        shape, generator = (draws, 1, 32, 32), torch.Generator().manual_seed(0)
        a = coefficient(shape, generator=generator, constant_mode=constant_mode)
        share = (a > 7.5).double().flatten(1).mean(1)
        rarer = torch.minimum(share, 1 - share)
        name = "with the constant mode" if constant_mode else "without it"
        print(
            f"  {name:<24}one value {(rarer == 0).double().mean():.1%}, below 5% of one {(rarer < 0.05).double().mean():.1%}"
        )
    shares = (torch.arange(4000.0)[:, None].square() + torch.arange(4000.0).square()) * torch.pi**2
    variance = (shares + 9) ** -2.0
    print(f"  the constant mode's share of the variance: {float(variance[0, 0] / variance.sum()):.0%}")


def darcy(count: int) -> None:
    """What restriction does to pairs, and what a solve costs."""
    for kind in ("two-valued", "log-normal"):
        start = time.perf_counter()
        pairs = Darcy(count, kind=kind, constant_mode=False, scale=3.0 if kind == "two-valued" else 1.0)
        batches = pairs.batches(range(count), [(n, n) for n in GRIDS])
        print(
            f"  {kind} pairs of a solve at 192, {(time.perf_counter() - start) / count:.2f} s each; medians at {GRIDS}"
        )
        found = [(b["x"][:, :1], b["x"][:, 1:]) for b in batches]
        print("    residual            " + "".join(f"{float(residual(a, u).median()):>8.2f}" for a, u in found))
        print(
            "    |u - solve(a)| / |u|"
            + "".join(f"{float(relative_l2(solve(a), u, pairs.domain).median()):>8.3f}" for a, u in found)
        )
    pairs = Darcy(count)
    x = pairs.batch(range(count), (96, 96))["x"]
    print(f"  two-valued, with the constant mode: mean {x.mean((0, 2, 3)).tolist()}, std {x.std((0, 2, 3)).tolist()}")


def darcy_order(count: int) -> None:
    """How fast the solver converges where a jumps, and how far the default grid is off."""

    def errors(a: Tensor, times: tuple[int, ...]) -> list[Tensor]:
        """|u_m - u_n| / |u_n| of solves on m and then n cells for each of a's."""
        u = [solve(a.repeat_interleave(n, 2).repeat_interleave(n, 3)) for n in times]
        u = [Darcy.domain.average(x, tuple(a.shape[2:])) for x in u]
        return [relative_l2(x, y, Darcy.domain) for x, y in itertools.pairwise(u)]

    generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
    law = {"constant_mode": False, "scale": 3.0}
    square = torch.arange(24) // 8
    board = torch.where((square[:, None] + square) % 2 == 0, 12.0, 3.0).double()[None, None]
    drawn = coefficient((count, 1, 24, 24), generator=generators, **law)
    for name, a in {"a checkerboard of 3 x 3": board, "drawn on 24 cells a side": drawn}.items():
        *_, coarse, fine = errors(a, (1, 2, 4, 8))
        orders = (coarse / fine).log2()
        print(f"  order of the solver, {name}: {float(orders.min()):.2f} to {float(orders.max()):.2f}")
    (apart,) = errors(coefficient((count, 1, 192, 192), generator=generators, **law), (1, 2))
    print(f"  u solved on 192 and on 384 cells a side: {float(apart.min()):.2%} to {float(apart.max()):.2%} apart")


def navier_stokes(count: int) -> None:
    """How much samples differ, and what a solve costs."""
    print("Navier-Stokes at time 10, nu 1e-3, 64x64")
    for scale, name in ((1.0, "the paper's law"), (7**0.75, "its code's law")):
        w0 = initial_vorticity((256, 1, 64, 64), generator=torch.Generator().manual_seed(0), scale=scale)
        start = time.perf_counter()
        x = NavierStokes(count, scale=scale).batch(range(count), (64, 64))["x"]
        seconds = (time.perf_counter() - start) / count
        spread = x.std(0).square().mean().sqrt()
        print(
            f"  {name:<16}std at time 0 {w0.std():.2f}, root mean square {x.square().mean().sqrt():.2f}, "
            f"standard deviation over samples {spread:.2f}; {seconds:.2f} s each"
        )
    grids = [NavierStokes(4, fine=fine).batch(range(4), (64, 64))["x"] for fine in (64, 96)]
    print(f"  64 against 96 points: {float(relative_l2(*grids, NavierStokes(1).domain).max()):.0e}")


def terrain(count: int) -> None:
    """Relief and slopes on either side of the line."""
    print(f"Terrain: {count} windows of 96 cells")
    for held_out in (False, True):
        windows = Terrain(count, held_out=held_out, centre=True)
        x = windows.batch(range(count), (96, 96))["x"]
        slope = slope_statistics(x, windows.domain)[0].mean()
        name = "held out" if held_out else "to train on"
        print(f"  {name:<16}{x.square().mean().sqrt():.0f} m about the mean, mean slope {slope:.2f}")


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=32, help="samples to solve, of each kind")
    args = parser.parse_args()
    two_valued(2000)
    darcy(args.count)
    darcy_order(min(args.count, 4))
    navier_stokes(args.count)
    terrain(512)


if __name__ == "__main__":
    main()
