"""
Phase separation in three dimensions
====================================

Two liquids part, by the Cahn-Hilliard equation on Torus(3). A model that was trained on 16 to 24 points per side is sampled
at 48, where its spectrum, its free energy and its pictures are compared with the solver's::

    python examples/phase_separation.py           # the repository's model: two minutes
    python examples/phase_separation.py --train   # trains another first, into ./phase_separation
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch.nn.functional import grid_sample, pad

from fnodiff import DFU, EDMScaling, Model, MultiResolution, Torus, fit, metrics, sample
from fnodiff.data import Augmented, InMemory
from fnodiff.equations import CahnHilliard
from fnodiff.equations.cahn_hilliard import free_energy
from fnodiff.sde import DPMSolver, EvenLogSNR, GaussianRandomField, Matern
from fnodiff.train import Adam, keep_freed_memory

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
add = parser.add_argument
add("--train", action="store_true", help="train the model first, or that in --checkpoint further")
add("--minutes", type=float, default=15.0, help="of training")
add("--solutions", type=int, default=128, help="to train on")
add(
    "--checkpoint", type=Path, help="the model's folder; by default the repository's, with --train OUT/phase_separation"
)
add("--samples", type=int, default=16, help="at 48 points per side; there are twice as many solutions")
add("--out", type=Path, default=Path("."), help="folder of the figure")
add("--smoke", action="store_true", help="all of it in seconds, to see that it runs")
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
shipped = Path(sys.argv[0]).parent / "models"
folder = args.checkpoint or (args.out if args.train else shipped) / "phase_separation"
count, minutes, samples = (4, 0.02, 2) if args.smoke else (args.solutions, args.minutes, args.samples)
domain, width, fine, steps = Torus(3), 0.035, *((24, 2) if args.smoke else (48, 16))
mixtures = partial(CahnHilliard, width=width, time=0.035, dt=width**2 / 2, keep=2 * max(count, samples))

# %%
# The law is the same for every shift and turn of the cube, and for both liquids: each solution stands for 32 samples. EDM's
# scaling counts errors by their energy, which is in large waves; `SpectralScaling` counts all modes alike, and most are hardly
# there. The noise is smooth enough to be nearly as large at a point of 48 as of 24.


def symmetry(seed: int):
    generator = torch.Generator().manual_seed(seed)
    axes, quarters = (torch.randperm(n, generator=generator)[:3] for n in (3, 4))

    def moved(x: torch.Tensor) -> torch.Tensor:  # (1, n, n, n)
        x = x.permute(0, *(axes + 1)).roll([int(k) * x.shape[-1] // 4 for k in quarters], (1, 2, 3))
        return x if seed % 2 else -x.flip(1)

    return moved


if args.train:
    torch.manual_seed(0)
    keep_freed_memory()
    shapes = [(n, n, n) for n in (16, 20, 24)]
    solved = InMemory(mixtures(count, seed=0, fine=24 if args.smoke else 32), shapes, progress=not args.smoke)
    data = MultiResolution(Augmented(solved, [symmetry(seed) for seed in range(32)]), domain, shapes, batch_size=4)
    network = partial(DFU.tiny, n_modes=(8, 8, 8), channel_mult=(1, 1), local="point", dropout=0.0)
    noise, scaling = GaussianRandomField(domain, Matern(0.25, 0.1)), EDMScaling(linear_estimate=True)
    model = Model.for_data(data, network, noise=noise, scaling=scaling)
    fit(model, data, minutes=minutes, optimizer=Adam(lr=3e-3, decay=True), folder=folder, resume="auto")
model = Model.from_pretrained(folder)

# %%
# At 48 points, twice the finest training grid.
solver = DPMSolver(steps, EvenLogSNR())
true, other = mixtures(2 * samples, seed=1, fine=fine).batch(range(2 * samples), (fine,) * 3)["x"].split(samples)
coarse, x = (sample(model, (n,) * 3, range(samples), solver=solver, batch=2) for n in (24, fine))
(wavenumber, power), *others = (metrics.radial_spectrum(v, domain) for v in (true, x, other))
variance = power * wavenumber**2  # of a shell, up to a factor
held = variance.flip(0).cumsum(0).flip(0) > 1e-3 * variance.sum()
off, chance = (float((p / power).log().abs()[held].mean()) for _, p in others)
print(f"1. spectrum at {fine}, where 99.9% of the variance is: {off:.1%} off; two sets of solutions: {chance:.1%}")
for name, v in {"2. sampled": x, "2. solved": true}.items():
    energy, volume = free_energy(v.double(), width, domain).mean(), (v.abs() > 0.8).float().mean()
    print(f"{name} at {fine}: free energy {float(energy):.4f}, volume with |u| > 0.8 {float(volume):.1%}")
apart = metrics.relative_l2(domain.resample(x, (24,) * 3), coarse, domain).mean()
print(f"3. the same seeds at {fine} and at 24: {float(apart):.1%} apart")

# %%
# One liquid, as a camera sees it: a ray ends where u turns positive, in the light of the camera; pale where the cube is cut.


def picture(u: torch.Tensor, pixels: int = 300) -> torch.Tensor:
    view = torch.linalg.qr(torch.tensor([[0.8, 0.5, 0.35], [-0.5, 0.8, 0], [0, 0, 1]]).T)[0].T  # ahead, right, up
    line = torch.linspace(-0.85, 0.85, pixels)
    places = 0.5 + torch.stack(torch.meshgrid(line[::2], -line, line, indexing="ij"), -1)[..., [0, 2, 1]] @ view
    values = torch.stack([u, *(domain.derivative(u[None, None], axis)[0, 0] for axis in range(3))])
    around, seen = pad(values[None], (0, 1) * 3, mode="circular"), (2 * places - 1).flip(-1)[None]
    values = grid_sample(around, seen, align_corners=True)[0]
    solid = ((places >= 0) & (places <= 1)).all(-1) & (values[0] > 0)
    first = solid.float().argmax(0).expand(4, 1, pixels, pixels)
    u, *slope = values.gather(1, first)[:, 0]
    light = (torch.stack(slope, -1) @ view[0]).abs() / torch.stack(slope).norm(dim=0).clamp(min=1e-6)
    colour = (0.3 + 0.7 * light[..., None]) * torch.tensor([0.35, 0.6, 0.85])
    colour = torch.where((u > 0.2)[..., None], torch.tensor([0.93, 0.86, 0.72]), colour)
    return torch.where(solid.any(0)[..., None], colour, 1.0)


figure = plt.figure(figsize=(8.4, 5.4), layout="constrained")
above, below = figure.subfigures(2, 1, height_ratios=(3, 2))
shown = {f"solver, {fine}": true[0, 0], "sample, 24": coarse[0, 0], f"the same seed, {fine}": x[0, 0]}
for axis, (title, u) in zip(above.subplots(1, 3, subplot_kw={"xticks": [], "yticks": []}), shown.items(), strict=True):
    axis.imshow(picture(u))
    axis.set_title(title, fontsize=9)
axis = below.subplots()
axis.loglog(wavenumber, power, "k", label="solver")
axis.loglog(wavenumber, others[0][1], label="model")
axis.axvline(12, color="grey", lw=0.8, label="end of the finest training grid")
axis.set(xlabel="cycles per side", ylabel="power of a mode", ylim=(1e-6 * float(power.max()), 3 * float(power.max())))
axis.legend(fontsize=8)
figure.savefig(args.out / "phase_separation.png", dpi=130)
print(f"figure: {args.out / 'phase_separation.png'}")
