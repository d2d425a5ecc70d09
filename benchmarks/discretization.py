"""The discretization error of untrained networks: one smooth function, given on finer and finer grids.

Weights are drawn at random everywhere (no layer starts at zero), four draws; the field is band-limited to 4 cycles.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch

from fnodiff import DFU, Box, GaussianRandomField, Matern
from fnodiff.domain import Domain, Shape
from fnodiff.metrics import discretization_error

SHAPES: list[Shape] = [(32, 32), (64, 64), (96, 96), (128, 128)]


def table(networks: dict[str, dict[str, object]], domain: Domain, draws: int) -> dict[str, list[float]]:
    """The mean error over draws of weights and noise levels, per network: one number per finer grid."""
    smooth = GaussianRandomField(domain, Matern(3.0, 0.4)).sample(
        (1, 3, 64, 64), generator=torch.Generator().manual_seed(0)
    )
    smooth = domain.resample(smooth, (9, 9))  # on Box: half-waves 0 to 8, 4 cycles
    rows = {}
    for name, options in networks.items():
        errors = []
        for draw in range(draws):
            torch.manual_seed(draw)
            net = partial(
                DFU.small(3, 3, domain=domain, zero_init=False, **options).eval(), noise_level=torch.tensor(0.0)
            )
            errors.append(discretization_error(net, partial(domain.resample, smooth), SHAPES, domain))
        rows[name] = torch.tensor(errors).mean(0).tolist()
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=4)
    args = parser.parse_args()
    networks = {"UNet": {"spectral_levels": 0}, "DFU": {}}
    rows = table(networks, Box(2), args.draws)
    print(f"{'against 32x32':<16}" + "".join(f"{f'{n}x{m}':>10}" for n, m in SHAPES[1:]))
    for name, values in rows.items():
        print(f"{name:<16}" + "".join(f"{100 * v:>9.1f}%" for v in values))


if __name__ == "__main__":
    main()
