"""The study's distances, and what the paper's claims come to in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks import attributes
from fnodiff import Box, metrics

DOMAIN = Box(2)
FLOOR, SEED = "other true pictures", ", seed "
TIMES = (32, 48, 64, 128)  # once, one and a half times, twice and four times the training grid
HEADS = {"features": 0, "high band": 1, "patches": 3, "global": 4}


def measure(net: attributes.Reader | None, x: Tensor, true: Tensor, reference: tuple[int, int]) -> list[float]:
    """Distances of features, of the band above the reference grid, its energy, of patches, and of the whole.

    NaN where there is none: features without a network that reads the pictures, a band up to the reference grid.
    """
    band = (math.nan,) * 2
    if x.shape[2] > reference[0]:
        band = metrics.high_band_distance(x, true, DOMAIN, reference)
    features = math.nan if net is None else attributes.distance(net, x, true)
    return [features, *band, metrics.patch_distance(x, true), metrics.global_coherence(x, true, DOMAIN)]


def upsampled(x: Tensor, size: int) -> dict[str, Tensor]:
    """x on a finer grid, in the two ways that know nothing."""
    return {
        "bicubic": interpolate(x, size=(size, size), mode="bicubic").clamp(-1, 1),
        "Fourier": DOMAIN.resample(x, (size, size)).clamp(-1, 1),
    }


def compare(table: Mapping[tuple[str, int], Sequence[float]], ours: str) -> list[str]:
    """Lines that say how many times as far as ours the others are, and the same of distances less the floor's.

    Rows of several seeds, "NAME, seed K", count by their mean. "-" where ours is at the floor or nothing was measured.
    """
    lines, sizes = [], sorted({size for _, size in table} & set(TIMES))
    others = dict.fromkeys(name.split(SEED)[0] for name, _ in table)
    for other in [name for name in others if name not in (FLOOR, ours)]:
        for head, column in HEADS.items():
            cells = []
            for size in sizes:
                far, near, least = (_mean(table, name, size, column) for name in (other, ours, FLOOR))
                above = (far - least) / (near - least) if near > least else math.nan
                cells.append("".join("-".rjust(8) if v != v else f"{v:8.2f}" for v in (far / near, above)))
            if any(cell.strip("- ") for cell in cells):
                lines.append(f"{other + ', ' + head:<40}" + "".join(cells))
    if lines:
        heads = "".join(f"{f'{size} x {size}':>9}{'-floor':>7}" for size in sizes)
        lines = [f"{'times as far as ' + ours:<40}" + heads, *lines]
    return lines


def _mean(table: Mapping[tuple[str, int], Sequence[float]], name: str, size: int, column: int) -> float:
    """Of a row's seeds; NaN if there is none."""
    found = [row[column] for (key, n), row in table.items() if n == size and key.split(SEED)[0] == name]
    return sum(found) / len(found) if found else math.nan
