"""Whether a model repeats what it was trained on: the distance of each sample to its nearest training portrait.

    python -m benchmarks.memorisation portraits --data portraits.h5 --test portraits-test.h5

Beside it stands the same distance of held-out portraits, which nobody repeats. Samples that are copies are much nearer.
Two distances: the root mean square over the pixels of 32 x 32, in units of [-1, 1], and that of the features of
`benchmarks.attributes`, in units of their spread.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from benchmarks import attributes
from benchmarks.drawings import Drawings, add_files
from fnodiff import Model, sample

SHAPE = (32, 32)
SHARES = (0.01, 0.1, 0.5, 0.9)


def nearest(x: Tensor, y: Tensor) -> Tensor:
    """The distance of each row of x to the nearest of y, (N, D) and (M, D) to (N,), as a root mean square."""
    distances = [torch.cdist(x.flatten(1), part.flatten(1)).amin(1) for part in y.split(1024)]
    return torch.stack(distances).amin(0) / x[0].numel() ** 0.5


def main() -> None:
    """Print the quantiles of the distances."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="its folder, or the name of one that comes with fnodiff")
    add_files(parser)
    parser.add_argument("--count", type=int, help="portraits that it was trained on; by default all of the file")
    parser.add_argument("--samples", type=int, default=256)
    args = parser.parse_args()
    trained, held = Drawings(args.data, args.count), Drawings(args.test, args.samples, held_out=True)
    parts = [range(i, min(i + 256, len(trained))) for i in range(0, len(trained), 256)]
    training = torch.cat([trained.batch(part, SHAPE)["x"] for part in parts])
    pictures = {
        "held-out portraits": held.batch(range(args.samples), SHAPE)["x"],
        "samples": sample(Model.from_pretrained(args.model), SHAPE, range(args.samples)).clamp(-1, 1),
    }
    net = attributes.load()
    known = attributes.features(net, training)
    mean, std = known.mean(0), known.std(0).clamp(min=1e-3)
    print(f"{args.samples} of each; distance to the nearest of {len(training)} training portraits, at 32 x 32\n")
    print(f"{'':<32}{'least':>8}" + "".join(f"{f'{share:.0%}':>8}" for share in SHARES))
    for name, x in pictures.items():
        seen = (attributes.features(net, x) - mean) / std
        for what, found in (("pixels", nearest(x, training)), ("features", nearest(seen, (known - mean) / std))):
            values = [found.min(), *found.quantile(torch.tensor(SHARES))]
            print(f"{f'{name}, {what}':<32}" + "".join(f"{float(v):>8.3f}" for v in values))


if __name__ == "__main__":
    main()
