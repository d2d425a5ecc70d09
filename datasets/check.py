"""Whether two files of fields share a sample: no sample of a held-out set may be one that is trained on.

    python datasets/check.py portraits.h5 portraits-test.h5

Samples are compared on the finest grid that both files have: equal to a thousandth of the fields' spread is the same. The
command ends with status 1 if any is, and names the pairs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from fnodiff.data import HDF5Fields


def shared(first: HDF5Fields, second: HDF5Fields, tolerance: float = 1e-3) -> list[tuple[int, int]]:
    """Pairs (i, j) of samples of the two files that are the same, to `tolerance` of the fields' standard deviation.

    Raises:
        ValueError: If the files have no grid in common.
    """
    shapes = [shape for shape in first.shapes if shape in second.shapes]
    if not shapes:
        raise ValueError(f"expected a grid that both files have, got {first.shapes} and {second.shapes}.")
    a, b = (fields.batch(range(len(fields)), shapes[-1])["x"].flatten(1) for fields in (first, second))
    spread = float(a.std())
    order = a.mean(1).sort()  # the same samples have the same mean
    reach = tolerance * spread
    low = torch.searchsorted(order.values, b.mean(1) - reach)
    high = torch.searchsorted(order.values, b.mean(1) + reach)
    pairs = []
    for j, (start, stop) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        candidates = order.indices[start:stop]
        same = (a[candidates] - b[j]).square().mean(1).sqrt() <= reach
        pairs += [(int(i), j) for i in candidates[same]]
    return pairs


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and compare the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("first", metavar="TRAIN.h5")
    parser.add_argument("second", metavar="TEST.h5")
    args = parser.parse_args(arguments)
    try:
        first, second = (HDF5Fields(path, allow_incomplete=True) for path in (args.first, args.second))
        pairs = shared(first, second)
    except ValueError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    print(f"{len(first)} and {len(second)} samples; in both: {len(pairs)}")
    if pairs:
        parser.exit(1, f"{parser.prog}: the same samples (first, second): {pairs[:20]}\n")


if __name__ == "__main__":
    main()
