"""The discretization error of untrained networks: one smooth function, given on finer and finer grids.

Weights are drawn at random everywhere (no layer starts at zero), four draws; the field holds all modes up to 2 or
4 cycles, equally strong. On the sphere, of 32 x 64 points and finer, it holds the degrees up to 4 or 8: as many cycles around
it, and half as many from pole to pole. Rows of options that lost (activations on a finer grid, half of the taps at fixed
places, taps without a reference for the levels) are in commit 62f379b.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch

from fnodiff import DFU, Box, Sphere
from fnodiff.domain import Domain, Shape
from fnodiff.metrics import discretization_error

PAIRS = [(32, 48), (32, 64), (32, 96), (32, 128), (64, 128)]
PERIODIC = {"boundary": "periodic"}
FIXED = {"reference": (32, 32)}
TAPS = {"reference": (32, 32), "local": "operator"}
NETWORKS: dict[str, dict[str, object]] = {
    "UNet": {"spectral_levels": 0},
    "DFU": PERIODIC,
    "DFU, fixed levels": FIXED | PERIODIC,
    "UNet, taps, fixed levels": TAPS | {"spectral_levels": 0},
    "DFU, taps, fixed levels": TAPS | PERIODIC,
    "even kernels": FIXED,
    "even kernels, taps": TAPS,
    "even kernels, points": TAPS | {"local": "point"},
    "all kernels, taps": TAPS | {"boundary": "all"},
}
SPHERE_PAIRS = [(16, 32), (32, 48), (32, 64)]
SPHERE_FIXED = {"reference": (32, 64)}
SPHERE_NETWORKS: dict[str, dict[str, object]] = {
    "DFU": {},
    "DFU, fixed levels": SPHERE_FIXED,
    "DFU, taps, fixed levels": SPHERE_FIXED | {"local": "operator"},
}


def table(networks: dict[str, dict[str, object]], domain: Domain, cycles: int, draws: int) -> dict[str, list[float]]:
    """The mean error over draws of weights, per network: one number per pair of grids."""
    side = 2 * cycles + 1  # on Box: half-waves 0 to 2 cycles, all of equal strength; on Sphere degrees 0 to 2 cycles
    coefficients = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    sphere = isinstance(domain, Sphere)
    smooth = domain.synthesize(coefficients, (side, 2 * side)) if sphere else coefficients
    rows = {}
    for name, options in networks.items():
        errors = []
        for draw in range(draws):
            torch.manual_seed(draw)
            net = DFU.small(3, 3, domain=domain, zero_init=False, **options).eval()
            model, field = partial(net, noise_level=torch.tensor(0.0)), partial(domain.resample, smooth)
            pairs = SPHERE_PAIRS if sphere else PAIRS
            shapes: list[list[Shape]] = [[(n, 2 * n if sphere else n) for n in pair] for pair in pairs]
            errors.append([discretization_error(model, field, pair, domain)[0] for pair in shapes])
        rows[name] = torch.tensor(errors).mean(0).tolist()
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=4)
    args = parser.parse_args()
    print("even kernels, all kernels: of the spectral branch (boundary=), with fixed levels")
    for cycles in (2, 4):
        print(f"{f'up to {cycles} cycles':<26}" + "".join(f"{f'{n} / {m}':>10}" for n, m in PAIRS))
        for name, values in table(NETWORKS, Box(2), cycles, args.draws).items():
            print(f"{name:<26}" + "".join(f"{100 * v:>9.2f}%" for v in values))
    for cycles in (2, 4):
        header = f"sphere, up to degree {2 * cycles}"
        print(f"{header:<26}" + "".join(f"{f'{n} / {m}':>10}" for n, m in SPHERE_PAIRS))
        for name, values in table(SPHERE_NETWORKS, Sphere(), cycles, args.draws).items():
            print(f"{name:<26}" + "".join(f"{100 * v:>9.1f}%" for v in values))


if __name__ == "__main__":
    main()
