"""
Terrain: sampled and upscaled at twice the training resolution
==============================================================

Measured elevation, from NASA's Shuttle Radar Topography Mission: the hills around the Jacksboro fault in Tennessee, which
matplotlib ships. A model that was trained on windows of about 9 x 7 km, seen at 24, 32 and 48 cells per side, is asked for
samples at 96, and for windows of a strip that was held out, given at 24 or 48 cells and upscaled to 96. A Gaussian process of
the same spectrum upscales as well as it does: most of what is gained over interpolation is the spectrum's doing::

    python examples/terrain_superres.py             # asks the model of the repository: two minutes on one core
    python examples/terrain_superres.py --train     # trains another one first, into ./terrain_superres
"""

import argparse
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import LightSource
from torch.nn.functional import interpolate

from fnodiff import DFU, FunctionSpaceSDE, Model, MultiResolution, WhiteNoise, fit, metrics, sample, upscale
from fnodiff.data import Terrain
from fnodiff.inverse import Linear, MomentMatching
from fnodiff.sde import EDM, DPMSolver, EvenLogSNR, SpectralScaling, Wrapper, measure_normalization
from fnodiff.sde.spectrum import fit_spectrum, linear_estimate, noise_levels
from fnodiff.train import Adam, keep_freed_memory

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
add = parser.add_argument
add("--train", action="store_true", help="train a model first, or train the one in --checkpoint further")
add("--minutes", type=float, default=25.0, help="of training")
add("--checkpoint", type=Path, help="the model's folder; default: the repository's, with --train OUT/terrain_superres")
add("--samples", type=int, default=24, help="at 96 cells per side")
add("--out", type=Path, default=Path("."), help="folder of the figure")
add("--smoke", action="store_true", help="all of it in seconds, to see that it runs")
args = parser.parse_args()
shipped = Path(sys.argv[0]).parent / "models" / "terrain_superres"
folder = args.checkpoint or (args.out / "terrain_superres" if args.train else shipped)
count, samples, members, steps = (32, 2, 2, 2) if args.smoke else (4096, args.samples, 10, 12)

# %%
# Windows are at random places, their mean elevation subtracted, in metres. A grid shows averages over its cells, but the model
# is one of functions: it trains on windows whose modes have been given back what averaging took, and its samples are averaged.

keep_freed_memory()
domain, reference, finest = Terrain(1).domain, (48, 48), (96, 96)


def cells(x: torch.Tensor, power: int = 1) -> torch.Tensor:
    """A function's averages over the cells of its grid, from its values at their centres; with power -1 the other way."""
    return domain.synthesize(domain.analyze(x) * domain.attenuation(x.shape[2:]) ** power, x.shape[2:])


class Functions(Terrain):  # seen at the centres of cells instead of averaged over them
    def batch(self, indices, shape):
        return {"x": cells(super().batch(indices, shape)["x"], -1)}


class Gaussian(Wrapper):  # a model without its network: the denoiser of a Gaussian field of its spectrum
    def forward(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return linear_estimate(self.sde, self.spectrum, x_t, t)


if args.train:
    torch.manual_seed(0)
    data = MultiResolution(Functions(count, centre=True, flip=True), domain, [24, 32, 48], batch_size=8)
    units, x = measure_normalization(data), Terrain(count).batch(range(count), reference)["x"]
    noise, spectrum = WhiteNoise(domain, reference), fit_spectrum(units(x - x.mean()), domain, cell_averages=True)
    sde = FunctionSpaceSDE(noise, EDM(*noise_levels(noise, spectrum, finest)))
    sizes = {"n_modes": (16, 16), "hidden_channels": 16, "channel_mult": (1, 2, 2), "positional_modes": 0}
    network = DFU.small(1, 1, domain=domain, reference=reference, local="operator", **sizes)
    model = Model(network, sde, SpectralScaling(reference, cutoff=4.0), normalization=units, spectrum=spectrum)
    minutes, optimizer = 0.01 if args.smoke else args.minutes, Adam(lr=3e-3, decay=True)
    fit(model, data, minutes=minutes, folder=folder, resume="auto", optimizer=optimizer)
model = Model.from_pretrained(folder)

# %%
# 1. How steep the land is at 96: the side that was trained on, samples, and Gaussian fields. (The held-out strip is steeper.)

solver, laws = DPMSolver(steps, EvenLogSNR()), {"model": model, "Gaussian process": Gaussian(model)}
rows = {"land": Terrain(256, seed=1, centre=True).batch(range(256), finest)["x"]}
rows |= {f"sample, {name}": cells(sample(law, finest, range(samples), solver=solver)) for name, law in laws.items()}
for name, x in rows.items():
    slopes = metrics.slope_statistics(x, domain)[1].mean(0).numpy().round(3)
    print(f"1. {name:<26}slopes that 50%, 90% and 99% of it are below: {slopes}")

# %%
# 2. Held-out windows, given as averages over cells. `upscale` replaces the modes that the given grid holds, although what
# averaging folded onto them is not theirs. `MomentMatching` takes the averages for what they are, with errors of half a metre.

strip, seeds, found = Terrain(3, seed=2, centre=True, held_out=True), range(3 * members), {}
truth = strip.batch(range(3), finest)["x"]
for n in (24, 48):
    given = strip.batch(range(3), (n, n))["x"].repeat(members, 1, 1, 1)
    found["bicubic", n] = interpolate(given, size=finest, mode="bicubic")
    found["modes replaced", n] = cells(upscale(model, cells(given, -1), finest, seeds, solver=solver))
    seen = Linear(lambda x, n=n: domain.average(cells(x), (n, n)), given, noise_std=0.5)
    for name, law in laws.items():
        posterior = MomentMatching(law, seen, model.spectrum, iterations=16)
        found[name, n] = cells(sample(posterior, finest, seeds, solver=solver))
for (name, n), x in found.items():
    score = metrics.crps(x.unflatten(0, (members, 3)), truth, domain).mean()
    print(f"2. {n} x {n} to 96 x 96, {name:<18}CRPS {score:>6.2f} m")

# %%
# Lit from the north-west, twice as high as it is.

pictures = {name: x[0] for name, x in rows.items()} | {"given, 24 x 24": strip.batch([0], (24, 24))["x"][0]}
pictures |= {f"upscaled, {name}": found[name, 24][0] for name in ("bicubic", *laws)} | {"truth": truth[0]}
figure, axes = plt.subplots(2, 4, figsize=(8.4, 5.6), layout="constrained", subplot_kw={"xticks": [], "yticks": []})
for axis, (title, z) in zip(axes.flat, pictures.items(), strict=True):
    dy, dx = (length / n for length, n in zip(domain.lengths, z.shape[1:], strict=True))
    look = {"cmap": plt.get_cmap("gist_earth"), "vmin": -450, "vmax": 450, "blend_mode": "soft", "vert_exag": 2}
    axis.imshow(LightSource(315, 45).shade(z[0].numpy(), dx=dx, dy=dy, **look), aspect=dy / dx)
    axis.set_title(title, fontsize=9)
args.out.mkdir(parents=True, exist_ok=True)
figure.savefig(args.out / "terrain_superres.png", dpi=130)
print(f"figure: {args.out / 'terrain_superres.png'}")
