"""
Weather on a sphere: shallow water
==================================

Height and vorticity of a layer of water on the rotating earth, solved by torch-harmonics. A model of both, trained on grids of
16 x 32 to 32 x 64 points, samples the same seeds at 32 x 64 and at 64 x 128, and tells a field from its height at 200 stations,
for which it was not trained::

    python examples/sphere_shallow_water.py             # asks the model of the repository: two minutes on one core
    python examples/sphere_shallow_water.py --train     # solves and trains first, into ./sphere_shallow_water
"""

import argparse
import math
import sys
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from fnodiff import DFU, GaussianRandomField, Matern, Model, MultiResolution, Sphere, fit, metrics, sample
from fnodiff.data import Augmented, InMemory
from fnodiff.equations.shallow_water import ShallowWater, balance
from fnodiff.inverse import MomentMatching, PointObservation
from fnodiff.sde import DDIM, EDM, ChannelSpectra, DPMSolver, SpectralScaling, Wrapper
from fnodiff.sde.spectrum import linear_estimate
from fnodiff.train import Adam, Execution, keep_freed_memory

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
add = parser.add_argument
add("--train", action="store_true", help="solve and train a model first, or train the one in --checkpoint further")
add("--minutes", type=float, default=26.0, help="of training")
add("--batch", type=int, default=8, help="samples of a training step: 8 for a core, 64 for a GPU")
add("--workers", type=int, default=0, help="processes that prepare batches: 4 for a GPU")
add("--checkpoint", type=Path, help="the model's folder; default: the repository's, or OUT/sphere_shallow_water")
add("--samples", type=int, default=16, help="on each grid")
add("--out", type=Path, default=Path("."), help="folder of the figure")
add("--smoke", action="store_true", help="all of it in seconds, to see that it runs")
args = parser.parse_args()
shipped = Path(sys.argv[0]).parent / "models" / "sphere_shallow_water"
folder = args.checkpoint or (args.out / "sphere_shallow_water" if args.train else shipped)
count, test, samples, steps = (8, 2, 2, 2) if args.smoke else (512, 32, args.samples, 12)
days = {"first": 0.2, "every": 0.1} if args.smoke else {}  # by default fields are from the third day on

# %%
# The domain is all that says that this is a sphere. Heights are smooth and vorticities rough, and the noise of each is about
# as rough as the channel. Flows turned about the axis are flows; so are mirror images, with the vorticity's sign changed.

keep_freed_memory()
domain, trained_on, finest = Sphere(), [(16, 32), (24, 48), (32, 64)], (64, 128)
if args.train:
    torch.manual_seed(0)
    turns = [lambda x, k=k: x.roll(k * x.shape[-1] // 8, -1) for k in range(8)]
    symmetries = turns + [lambda x, turn=turn: turn(x).flip(-2) * torch.tensor([[[1.0]], [[-1.0]]]) for turn in turns]
    solved = InMemory(ShallowWater(count, seed=1, **days), trained_on, progress=True)
    data = MultiResolution(Augmented(solved, symmetries), domain, trained_on, batch_size=args.batch)
    noise = GaussianRandomField(domain, ChannelSpectra((Matern(2.0, 1.0), Matern(0.5, 0.2))))
    network = partial(DFU.small, n_modes=(24, 48), hidden_channels=16, channel_mult=(1, 2, 2), attention_levels=())
    network, scaling = partial(network, local="operator"), SpectralScaling((32, 64), None, linear_estimate=True)
    model = Model.for_data(data, network, noise=noise, schedule=EDM(0.04, 70.0), scaling=scaling)
    minutes, optimizer = 0.01 if args.smoke else args.minutes, Adam(lr=3e-3, decay=True)
    execution = Execution(workers=args.workers)
    fit(model, data, minutes=minutes, folder=folder, resume="auto", optimizer=optimizer, execution=execution)
model = Model.from_pretrained(folder)
true = ShallowWater(test, seed=2, snapshots=2, **days).batch(range(test), finest)["x"]


class Gaussian(Wrapper):  # a model without its network: the denoiser of Gaussian fields of its spectra
    def forward(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return linear_estimate(self.sde, self.spectrum, x_t, t)


def error(x: torch.Tensor, y: torch.Tensor) -> list[float]:  # the mean of |x - y| / |y - mean|, of each channel
    z = y - (y * domain.weights(y.shape[2:])).sum((2, 3), keepdim=True)
    return [float((domain.norm((x - y)[:, [i]]) / domain.norm(z[:, [i]])).mean()) for i in (0, 1)]


# %%
# 1. One seed is one noise function on every grid. Far from the equator winds are nearly in balance with the height: vorticity
# is g / f times its Laplacian. Samples know that; Gaussian fields of the same spectra do not.

draw = partial(sample, seeds=range(samples), solver=DPMSolver(steps), batch=8)
coarse, fine, gauss = draw(model, (32, 64)), draw(model, finest), draw(Gaussian(model), finest)
apart = "height {:.1%}, vorticity {:.1%} apart".format(*error(domain.resample(fine, (32, 64)), coarse))
print(f"1. the same seeds at 64 x 128 and 32 x 64: {apart}")
for name, x in {"sampled": fine, "Gaussian": gauss, "solved": true}.items():
    print(f"1. balance of wind and height, {name}: {balance(x, domain).mean():.2f}")

# %%
# 2. Stations, scattered evenly over the sphere, tell the height there, with errors of 10 metres. `MomentMatching` makes of the
# model one of what they leave open: in height little, in vorticity, which no station sees, more.

generator, truth = torch.Generator().manual_seed(0), domain.resample(true[:1], (32, 64))
places = torch.rand(2, 200, generator=generator, dtype=torch.float64)
points = torch.stack([(1 - 2 * places[0]).arccos(), 2 * math.pi * places[1]]).float()
errors = 10 * torch.randn(1, 200, generator=generator, dtype=torch.float64).float()
seen = PointObservation(points, domain.evaluate(truth[:, :1], points)[0] + errors, noise_std=10.0, channels=0)
for name, law in {"Gaussian process": Gaussian(model), "model": model}.items():
    posterior = MomentMatching(law, seen, iterations=1 if args.smoke else 4)
    ensemble = sample(posterior, (32, 64), range(10), solver=DDIM(steps, eta=1.0), batch=5)
    for i, channel in enumerate(("height", "vorticity")):
        off = error(ensemble.mean(0, keepdim=True), truth)[i]
        nominal, covered = metrics.coverage(ensemble[:, None, [i]], truth[:, [i]], domain)
        print(f"2. {name}, mean {channel}: error {off:.1%}; {covered.mean():.0%} within the central {nominal:.0%}")

# %%
# Maps of the globe.

columns = {"sampled, 32 x 64": coarse[0], "same seed, 64 x 128": fine[0], "solved": truth[0]}
columns |= {"mean given the stations": ensemble.mean(0), "a sample given them": ensemble[0]}
figure, axes = plt.subplots(2, 5, figsize=(14, 3.8), layout="constrained", subplot_kw={"projection": "mollweide"})
for line, (title, x) in zip(axes.T, columns.items(), strict=True):
    theta, phi = domain.points(x.shape[1:])
    for axis, name, field, y in zip(line, ("height", "vorticity"), x, true.transpose(0, 1), strict=True):
        lowest, highest = y.quantile(0.005), y.quantile(0.995)
        axis.pcolormesh(phi + phi[0, 1] / 2 - math.pi, math.pi / 2 - theta, field, vmin=lowest, vmax=highest)
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"{name}, {title}", fontsize=8)
axes[0, 2].scatter(points[1] - math.pi, math.pi / 2 - points[0], s=2, c="black", linewidths=0)
args.out.mkdir(parents=True, exist_ok=True)
figure.savefig(args.out / "sphere_shallow_water.png", dpi=130)
print(f"figure: {args.out / 'sphere_shallow_water.png'}")
