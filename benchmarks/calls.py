"""How many operators a forward pass calls, by network: on a GPU each one that computes starts a kernel.

Calls are those that torch dispatches below autograd, without gradients. Views are calls that compute nothing: another shape, or
a part, of a tensor that is there. Networks are those of `benchmarks.speed`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.networks import MODES, WIDTH, makers, stock_layers
from fnodiff import DFU


class Calls(TorchDispatchMode):
    """Counts operators within a `with` block. Attributes: counts, by name; views, how many of all calls were views."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.views = 0

    @property
    def total(self) -> int:
        """Of all names."""
        return self.counts.total()

    def __torch_dispatch__(self, operator: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = operator.overloadpacket.__name__
        self.counts[name] += 1
        self.views += operator.is_view or name == "_unsafe_view"
        return operator(*args, **(kwargs or {}))


@torch.no_grad()
def calls(net: nn.Module, n: int) -> Calls:
    """The calls of a forward pass, the second: the first makes constants."""
    x, level = torch.randn(2, 3, n, n), torch.zeros(2)
    net.eval()(x, level)
    with Calls() as counted:
        net(x, level)
    return counted


def rows() -> dict[str, Callable[[], nn.Module]]:
    """The networks of the tables of speed, and those with cosines."""
    made = makers()
    fixed = partial(DFU, 3, 3, n_modes=MODES, reference=(32, 32), **WIDTH)
    made["DFU by reference, even kernels"] = partial(fixed, boundary="even")
    made["DFU by reference, all kernels"] = partial(fixed, boundary="all")

    def stock() -> nn.Module:
        with stock_layers():
            return DFU(3, 3, n_modes=MODES, boundary="periodic", **WIDTH)

    made["DFU on neuralop's layer"] = stock
    return {name: made[name] for name in sorted(made, key=lambda name: not name.startswith("diffusers"))}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--names", action="store_true", help="print which operators they are")
    args = parser.parse_args()
    print("operator calls of a forward pass: all / those that compute, and both beside diffusers'")
    print(f"{'':<30}" + "".join(f"{f'{n}x{n}':>30}" for n in args.sizes))
    first: dict[int, Calls] = {}
    for name, make in rows().items():
        net, cells = make(), []
        for n in args.sizes:
            counted = calls(net, n)
            peer = first.setdefault(n, counted)
            computing, theirs = counted.total - counted.views, peer.total - peer.views
            cells.append(
                f"{counted.total:>5} /{computing:>5} {counted.total / peer.total:>7.2f} /{computing / theirs:>5.2f}"
            )
        print(f"{name:<30}" + "".join(f"{cell:>30}" for cell in cells), flush=True)
        if args.names:
            print("    " + ", ".join(f"{count} {operator}" for operator, count in counted.counts.most_common()))


if __name__ == "__main__":
    main()
