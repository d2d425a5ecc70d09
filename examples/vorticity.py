"""
Vorticity: one function on three grids, and a posterior
=======================================================

A model of vorticity that was trained on 16 to 48 points per side. One seed is one function, at 32, 64 and 128 points; and from
40 noisy sensors the same model gives the mean of what is possible, and its spread::

    python examples/vorticity.py    # half a minute on one core
"""

import argparse
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from fnodiff import Model, metrics, sample
from fnodiff.inverse import MomentMatching, PointObservation
from fnodiff.sde import DDIM
from fnodiff.train import keep_freed_memory

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--seed", type=int, default=0, help="of the function")
parser.add_argument("--samples", type=int, default=16, help="of the posterior")
parser.add_argument("--out", type=Path, default=Path("."), help="folder of the figure")
parser.add_argument("--smoke", action="store_true", help="all of it in seconds, to see that it runs")
args = parser.parse_args()
members, steps = (2, 2) if args.smoke else (args.samples, 16)

# %%
# The same seed on three grids. The finer fields, cut to the modes of 32 points, are set beside the coarsest.

keep_freed_memory()
model = Model.from_pretrained(Path(sys.argv[0]).parent / "models" / "navier_stokes" / "pair")
domain = model.sde.domain
fields = {n: sample(model, (n, n), [args.seed])[:, :1] for n in (32, 64, 128)}
for n in (64, 128):
    apart = float(metrics.relative_l2(domain.resample(fields[n], (32, 32)), fields[32], domain))
    print(f"seed {args.seed} at {n} differs from 32 by {apart:.1%}")

# %%
# The field at 64 is the truth, seen at 40 random points with an error of 2%. `MomentMatching` makes of the model one of the
# posterior.

generator, truth = torch.Generator().manual_seed(1), fields[64]
points, noise_std = torch.rand(2, 40, generator=generator), 0.02 * float(truth.std())
values = domain.evaluate(truth, points) + noise_std * torch.randn(1, 1, 40, generator=generator)
seen = PointObservation(points, values, noise_std, channels=0)
posterior = MomentMatching(model, seen, iterations=1 if args.smoke else 6)
found = sample(posterior, (64, 64), range(1000, 1000 + members), solver=DDIM(steps, eta=1.0))[:, :1]
mean, spread = found.mean(0), found.std(0)
error = float(metrics.relative_l2(mean[None], truth, domain))
print(
    f"posterior of {members} samples from 40 sensors: the mean is {error:.0%} from the truth, the spread {spread.mean():.2f}"
)

# %%
# One function on three grids; the sensors, the posterior's mean, and its spread.

pictures = {f"seed {args.seed} at {n}x{n}": x[0, 0] for n, x in fields.items()}
pictures |= {"40 sensors": truth[0, 0], "posterior mean": mean[0], "spread": spread[0]}
figure, axes = plt.subplots(1, 6, figsize=(12, 2.3), layout="constrained", subplot_kw={"xticks": [], "yticks": []})
for axis, (title, picture) in zip(axes, pictures.items(), strict=True):
    scale = {"cmap": "magma", "vmin": 0} if title == "spread" else {"cmap": "RdBu", "vmin": -3, "vmax": 3}
    axis.imshow(picture, interpolation="nearest", **scale)
    axis.set_title(title, fontsize=10)
for axis in axes[3:]:
    axis.scatter(*((points.flip(0) * 64 + 0.5) % 64 - 0.5), s=5, c="black", linewidths=0)
args.out.mkdir(parents=True, exist_ok=True)
figure.savefig(args.out / "vorticity.png", dpi=100)
print(f"figure: {args.out / 'vorticity.png'}")
