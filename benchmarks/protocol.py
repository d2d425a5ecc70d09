"""Surrogates trained on 16 and 32 points per side, asked at 16, 32, 64 and 128: Burgers, Darcy and Navier-Stokes.

The protocol of Sakarvadia et al. (2026), The false promise of zero-shot super-resolution in machine-learned operators
(2510.06646), on equations that are solved here, with less data and minutes of training. Each network is trained on 32 points
alone, and on 16 and 32 in turn, for the same processor time (half of it in one dimension), one after the other, on one thread:
Adam, batches of 8 (32 in one dimension), the loss the relative error. Rows are

    FNO                     neuralop's, 24 modes per axis (|k| <= 12) as all have
    FNO, resampled          the same weights, asked on the largest training grid: fields are cut or padded to it in modes, and
                            back. CROP's remedy (Gao et al. 2025), without its layer on the input's own grid
    CNO                     convolutional neural operator (Raonic et al. 2023), small: activations on a grid twice as fine;
                            always on the largest training grid, as above
    UNet                    the DFU without spectral branches
    DFU, the paper's        levels that halve the input's grid, kernels that take the square as periodic
    DFU, fixed levels       levels on the grids of the largest that is trained on; even kernels
    DFU, taps               the same, whose 3 x 3 taps keep the spacing of that grid

and columns, all on functions that were not trained on,

    16, 32, 64, 128         mean relative L2 error of u
    spectrum                the largest share of the labels' energy, over shells of modes at 128, that the residual has: above
                            1, predicting nothing would be better there
    32's at 64, 128         the error on finer grids of the functions that a grid of 32 holds: nothing is new but the grid
    new modes               the error in the modes that 32 points lack, at 128; 1 is no better than nothing

    python -m benchmarks.protocol
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from neuralop.models import FNO
from torch import Tensor, nn
from torch.nn.functional import gelu

from benchmarks.surrogate import Regression, fitted
from fnodiff import Box, Torus, metrics
from fnodiff.domain import Domain, Shape
from fnodiff.equations import Burgers, Darcy, NavierStokes
from fnodiff.nn import LocalConv
from fnodiff.train import keep_freed_memory


@dataclass(frozen=True)
class Equation:
    """Pairs (a, u) on many grids.

    Args:
        name: Of the table.
        domain: Where they are.
        source: Makes the samples, of their count, seed and `fine`.
        fine: Points of the solve, over those of the finest grid that is asked for: in training, and in the tests.
        time: Of the training, over that of others.
        batch: Pairs per step.
    """

    name: str
    domain: Domain
    source: Callable[..., Any]
    fine: tuple[float, float]
    time: float = 1.0
    batch: int = 8

    def pairs(self, count: int, sizes: Sequence[int], *, test: bool = False) -> dict[int, Tensor]:
        """(count, 2, *grid) for each size."""
        source = self.source(count, seed=int(test), fine=round(self.fine[test] * max(sizes)))
        batches = source.batches(range(count), [(n,) * self.domain.dim for n in sizes])
        return {n: torch.cat([batch["field"], batch["x"]], 1) for n, batch in zip(sizes, batches, strict=True)}


EQUATIONS = [
    Equation("Burgers", Torus(1), Burgers, (16, 4), 0.5, 32),
    Equation("Darcy", Box(2), partial(Darcy, target="solution", scale=3.0, constant_mode=False), (4, 2)),
    Equation("Navier-Stokes", Torus(2), partial(NavierStokes, time=1.0, viscosity=1e-4, scale=25.0), (2.5, 1.5)),
]


class Resampled(nn.Module):
    """A network that is asked on one grid, to and from which fields go by their modes."""

    def __init__(self, net: nn.Module, domain: Domain, grid: Shape) -> None:
        super().__init__()
        self.net, self.domain, self.grid = net, domain, grid

    def forward(self, a: Tensor) -> Tensor:
        return self.domain.resample(self.net(self.domain.resample(a, self.grid)), tuple(a.shape[2:]))


class CNO(nn.Module):
    """A UNet of 3 x 3 convolutions whose activations act on a grid twice as fine."""

    def __init__(self, domain: Domain, width: int = 32, levels: int = 3) -> None:
        super().__init__()
        self.domain, wide = domain, [width * 2**i for i in range(levels)]
        conv = partial(LocalConv, domain=domain)
        self.lift, self.middle, self.head = conv(1, width), conv(wide[-1], wide[-1]), conv(2 * width, 1)
        self.down = nn.ModuleList(conv(a, b) for a, b in pairwise(wide))
        self.up = nn.ModuleList(conv(b * (1 + (b < wide[-1])), a) for a, b in pairwise(wide))

    def act(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """The activation of x, on a grid."""
        return self.domain.resample(gelu(self.domain.resample(x, [2 * n for n in x.shape[2:]])), shape)

    def forward(self, a: Tensor) -> Tensor:
        x, kept = self.act(self.lift(a), a.shape[2:]), []
        for conv in self.down:
            kept.append(x)
            x = self.act(conv(x), [-(-n // 2) for n in x.shape[2:]])
        x = x + self.act(self.middle(x), x.shape[2:])
        for conv in reversed(self.up):
            skip = kept.pop()
            x = torch.cat([self.act(conv(x), skip.shape[2:]), skip], 1)
        return self.head(x)


def networks(domain: Domain, grid: Shape) -> dict[str, Callable[[], nn.Module]]:
    """What makes each row's network, which is trained on `grid` and coarser ones."""
    modes, walls = (24,) * domain.dim, "wall" in domain.edges
    paper: dict[str, Any] = {"boundary": "periodic"} if walls else {}
    common = {"domain": domain, "n_modes": modes, "hidden_channels": 24, "reference": grid}
    common |= {"positional_modes": 4 if walls else 1}
    dfu = lambda **options: partial(Regression, common | {"local": "conv"} | options)  # noqa: E731
    return {
        "FNO": partial(FNO, n_modes=modes, in_channels=1, out_channels=1, hidden_channels=32, n_layers=4),
        "CNO": lambda: Resampled(CNO(domain), domain, grid),
        "UNet": dfu(spectral_levels=0, reference=None, channel_mult=(1, 2, 2)),
        "DFU, the paper's": dfu(reference=None, **paper),
        "DFU, fixed levels": dfu(),
        "DFU, taps": dfu(local="operator"),
    }


def train(
    net: nn.Module, pairs: dict[int, Tensor], units: tuple[Tensor, Tensor], equation: Equation, args: argparse.Namespace
) -> int:
    """Train on pairs by their size, in `units`: mean and spread of a and u, (1, 2, 1, ...). The steps that it took."""
    generator, sizes, (mean, std) = torch.Generator().manual_seed(args.seed), list(pairs), units

    def loss() -> Tensor:
        x = pairs[sizes[int(torch.randint(len(sizes), (), generator=generator))]]
        x = x[torch.randint(len(x), (equation.batch,), generator=generator)]
        a = (x[:, :1] - mean[:, :1]) / std[:, :1]
        return metrics.relative_l2(net(a) * std[:, 1:] + mean[:, 1:], x[:, 1:], equation.domain).mean()

    return fitted(net, loss, 60 * args.minutes * equation.time, lr=2e-3)


def measured(
    predict: Callable[[Tensor], Tensor], pairs: dict[int, Tensor], trained: int, domain: Domain
) -> list[float]:
    """The columns, of `predict(a)` in the equation's units."""
    finest, grid, found = max(pairs), (trained,) * domain.dim, []
    for x in pairs.values():
        u = predict(x[:, :1])
        found.append(float(metrics.relative_l2(u, x[:, 1:], domain).mean()))
    x = pairs[finest][:, 1:]  # u is the finest's
    residual, energy = (metrics.radial_spectrum(v.double(), domain)[1] for v in (u - x, x))
    found.append(float((residual / energy).max()))
    for size in (n for n in pairs if n > trained):
        same = domain.resample(pairs[trained], (size,) * domain.dim)
        found.append(float(metrics.relative_l2(predict(same[:, :1]), same[:, 1:], domain).mean()))
    new_u, new_x = (v - domain.resample(domain.resample(v, grid), tuple(v.shape[2:])) for v in (u, x))
    return [*found, float(metrics.relative_l2(new_u, new_x, domain).mean())]


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--minutes", type=float, default=2.0, help="processor time of each network's training; half of it for Burgers")
    add("--equations", nargs="+", choices=[e.name for e in EQUATIONS], default=[e.name for e in EQUATIONS])
    add("--rows", nargs="+", choices=list(networks(Box(2), (32, 32))), help="networks; all by default")
    add("--train", type=int, nargs=2, default=[16, 32], help="sizes to train on")
    add("--finer", type=int, nargs="+", default=[64, 128], help="sizes to be asked at besides")
    add("--count", type=int, default=512, help="pairs to train on")
    add("--test", type=int, default=32, help="pairs to test on")
    add("--seed", type=int, default=0)
    return parser.parse_args(argv)


@torch.no_grad()
def row(
    name: str, steps: int | str, net: nn.Module, test: dict, units: tuple[Tensor, Tensor], args: Any, domain: Domain
) -> None:
    """Print a network's."""
    mean, std = units

    def predict(a: Tensor) -> Tensor:
        return torch.cat([net(part) for part in ((a - mean[:, :1]) / std[:, :1]).split(8)]) * std[:, 1:] + mean[:, 1:]

    values = measured(predict, test, max(args.train), domain)
    errors = len(test)
    cells = [f"{v:.2%}" for v in values[:errors]] + [f"{values[errors]:.2g}"]
    cells += [f"{v:.2%}" for v in values[errors + 1 : -1]] + [f"{values[-1]:.2f}"]
    print(f"{name:<30}{steps:>7}" + "".join(f"{cell:>12}" for cell in cells), flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    args = options(argv)
    torch.set_num_threads(1)
    keep_freed_memory()
    both, largest = sorted(args.train), max(args.train)
    heads = [*both, *args.finer, "spectrum", *(f"{largest}'s at {n}" for n in args.finer), "new modes"]
    for equation in (e for e in EQUATIONS if e.name in args.equations):
        domain, grid = equation.domain, (largest,) * equation.domain.dim
        pairs = equation.pairs(args.count, both)
        test = equation.pairs(args.test, [*both, *args.finer], test=True)
        dims = (0, *range(2, 2 + domain.dim))
        units = pairs[largest].mean(dims, keepdim=True), pairs[largest].std(dims, keepdim=True)
        print(
            f"\n{equation.name + ', trained on':<30}{'steps':>7}" + "".join(f"{head:>12}" for head in heads), flush=True
        )
        for name, make in networks(domain, grid).items():
            for sizes in ([largest], both) if args.rows is None or name in args.rows else ():
                torch.manual_seed(args.seed)
                net = make()
                steps = train(net, {n: pairs[n] for n in sizes}, units, equation, args)
                on = " and ".join(map(str, sizes))
                row(f"{name}: {on}", steps, net, test, units, args, domain)
                if name == "FNO":
                    row(f"{name}, resampled: {on}", "", Resampled(net, domain, grid), test, units, args, domain)
    print(
        f"\n{args.count} pairs to train on, {args.test} to test on, {args.minutes:g} minutes each (Burgers half); "
        f"torch {torch.__version__}, 1 thread, {platform.machine()}"
    )


if __name__ == "__main__":
    main()
