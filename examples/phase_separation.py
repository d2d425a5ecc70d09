"""
Phase separation in three dimensions
====================================

Two liquids part, by the Cahn-Hilliard equation on Torus(3). A model that was trained on 16 to 24 points per side is sampled
at 48, where its spectrum, its free energy and its pictures are compared with the solver's::

    python examples/phase_separation.py --train --minutes 45     # trains first, into ./phase_separation
    python examples/phase_separation.py --checkpoint phase_separation
"""

import argparse
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch.nn.functional import grid_sample, pad

from fnodiff import DFU, Model, MultiResolution, SpectralScaling, Torus, fit, metrics, sample
from fnodiff.data import Augmented, InMemory
from fnodiff.equations import CahnHilliard
from fnodiff.equations.cahn_hilliard import free_energy
from fnodiff.sde import DPMSolver, EvenLogSNR
from fnodiff.train import Adam, keep_freed_memory

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
add = parser.add_argument
add("--train", action="store_true", help="train the model first, or that in --checkpoint further")
add("--minutes", type=float, default=45.0, help="of training")
add("--checkpoint", type=Path, help="the model's folder; OUT/phase_separation by default")
add("--samples", type=int, default=16, help="at 48 points per side, and as many solutions")
add("--out", type=Path, default=Path("."), help="folder of the figure")
add("--smoke", action="store_true", help="all of it in seconds, to see that it runs")
args = parser.parse_args()
folder = args.checkpoint or args.out / "phase_separation"
count, fine, samples = (4, 24, 2) if args.smoke else (64, 48, args.samples)
domain, width = Torus(3), 0.04
mixtures = partial(CahnHilliard, width=width, time=0.05, dt=width**2 / 2)  # as much of each liquid

# %%
# The law is the same for every shift and symmetry of the cube, and for both liquids: each solution stands for 32 samples.
# `SpectralScaling` starts from the best linear estimate of each mode; the network learns what is not Gaussian.

keep_freed_memory()


def symmetry(seed: int):
    generator = torch.Generator().manual_seed(seed)
    order, quarters = (torch.randperm(n, generator=generator)[:3] for n in (3, 4))
    flips = [axis for axis in (1, 2, 3) if torch.rand((), generator=generator) < 0.5]
    sign = 1 - 2 * (seed % 2)

    def moved(x: torch.Tensor) -> torch.Tensor:  # (1, n, n, n)
        x = x.permute(0, *(order + 1)).flip(flips)
        return sign * x.roll([int(k) * x.shape[-1] // 4 for k in quarters], (1, 2, 3))

    return moved


if args.train:
    torch.manual_seed(0)
    shapes = [(n, n, n) for n in (16, 20, 24)]
    solved = InMemory(
        mixtures(count, seed=0, fine=24 if args.smoke else 32, keep=count), shapes, progress=not args.smoke
    )
    data = MultiResolution(Augmented(solved, [symmetry(seed) for seed in range(32)]), domain, shapes, batch_size=4)
    network = partial(
        DFU.tiny, n_modes=(14, 14, 14), hidden_channels=16, channel_mult=(1, 1), local="point", dropout=0.0
    )
    model = Model.for_data(data, network, scaling=SpectralScaling((24, 24, 24), linear_estimate=True))
    options = {"optimizer": Adam(lr=3e-3, decay=True), "folder": folder, "resume": "auto"}
    fit(model, data, minutes=0.02 if args.smoke else args.minutes, **options)
model = Model.from_pretrained(folder)

# %%
# At 48 points, twice the finest training grid.

solver = DPMSolver(2 if args.smoke else 16, EvenLogSNR())
truth = mixtures(2 * samples, seed=1, fine=fine, keep=2 * samples).batch(range(2 * samples), (fine,) * 3)["x"]
true, other = truth.split(samples)
coarse, x = (sample(model, (n,) * 3, range(samples), solver=solver, batch=2) for n in (24, fine))

(wavenumber, power), (_, power_x), (_, chance) = (metrics.radial_spectrum(v, domain) for v in (true, x, other))
modes = torch.bincount(domain.shells(x.shape[2:])[0].flatten(), domain.multiplicity(x.shape[2:]).flatten())
variance = power * modes[1 : len(power) + 1]
held = variance.flip(0).cumsum(0).flip(0) > 1e-3 * variance.sum()  # the shells that hold 99.9% of the variance


def apart(power_x: torch.Tensor) -> float:
    return float((power_x / power).log().abs()[held].mean())


print(f"1. spectrum at {fine}, to {wavenumber[held].max():.0f} cycles: {apart(power_x):.1%} off, ", end="")
print(f"two sets of solutions {apart(chance):.1%}")
energies = [float(free_energy(v.double(), width, domain).mean()) for v in (x, true)]
print(f"2. free energy at {fine}: sampled {energies[0]:.4f}, solved {energies[1]:.4f}")
shares = [float((v.abs() > 0.8).float().mean()) for v in (x, true)]
print(f"3. share of the volume with |u| > 0.8: sampled {shares[0]:.3f}, solved {shares[1]:.3f}")
brought = domain.resample(x, (24,) * 3)
print(f"4. the same seeds at {fine} and at 24: {float(metrics.relative_l2(brought, coarse, domain).mean()):.1%} apart")

# %%
# One liquid, as a camera sees it: a ray ends where u turns positive, in the light of the camera; pale where the box is cut.


def picture(u: torch.Tensor, pixels: int = 300) -> torch.Tensor:
    view = torch.linalg.qr(torch.tensor([[0.8, 0.5, 0.35], [-0.5, 0.8, 0.0], [0.0, 0.0, 1.0]]).T)[
        0
    ].T  # away, right, up
    line = torch.linspace(-0.85, 0.85, pixels)
    depth, up, right = torch.meshgrid(torch.linspace(0.9, -0.9, 200), -line, line, indexing="ij")
    places = 0.5 - torch.stack([depth, right, up], -1) @ view  # (depth, height, width, 3), in the unit cube where seen
    inside = ((places >= 0) & (places <= 1)).all(-1)
    stack = torch.stack([u, *(domain.derivative(u[None, None], axis)[0, 0] for axis in range(3))])
    stack = pad(stack[None], (0, 1) * 3, mode="circular")
    values = grid_sample(stack, (2 * places - 1).flip(-1)[None], align_corners=True)[0]
    solid = inside & (values[0] > 0)
    first = solid.float().argmax(0)[None]
    u, *slope = values.gather(1, first.expand(4, 1, pixels, pixels))[:, 0]
    light = (torch.stack(slope, -1) @ view[0]).abs() / torch.stack(slope).norm(dim=0).clamp(min=1e-6)
    cut = u > 0.15  # what lies behind the box's face
    colour = torch.where(
        cut[..., None], torch.tensor([0.93, 0.86, 0.72]), light[..., None] * torch.tensor([0.2, 0.5, 0.75])
    )
    return torch.where(solid.any(0)[..., None], colour, 1.0)


figure = plt.figure(figsize=(8.4, 5.6), layout="constrained")
above, below = figure.subfigures(2, 1, height_ratios=(3, 2))
shown = {f"solver, {fine}": true[0, 0], "sample, 24": coarse[0, 0], f"the same seed, {fine}": x[0, 0]}
for axis, (title, u) in zip(above.subplots(1, 3, subplot_kw={"xticks": [], "yticks": []}), shown.items(), strict=True):
    axis.imshow(picture(u.float()))
    axis.set_title(title, fontsize=9)
axis = below.subplots()
axis.loglog(wavenumber, power, "k", label="solver")
axis.loglog(wavenumber, power_x, label="model")
axis.axvline(12, color="grey", lw=0.8, label="the finest training grid ends")
axis.set(xlabel="cycles per side", ylabel="power of a mode", ylim=(1e-5 * float(power.max()), 3 * float(power.max())))
axis.legend(fontsize=8)
args.out.mkdir(parents=True, exist_ok=True)
figure.savefig(args.out / "phase_separation.png", dpi=130)
print(f"figure: {args.out / 'phase_separation.png'}")
