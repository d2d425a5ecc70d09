"""
Zero-shot super-resolution of faces
===================================

A model that was trained on portraits of 16, 24 and 32 pixels samples the same seeds at 32, 48 and 64. The portraits are drawn
by `fnodiff.data.Faces`. They exist at every resolution, so the truth is known above the training resolution too::

    python examples/ffhq_superres.py             # samples the model of the repository: a minute on 2 cores
    python examples/ffhq_superres.py --train     # trains another one first, into ./ffhq_superres

For your own pictures there is a command: `fnodiff train PICTURES --out run`, then `fnodiff sample run --size 64`.
"""

import argparse
import platform
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch.nn.functional import interpolate

from fnodiff import DFU, Box, DPMSolver, Model, MultiResolution, fit, metrics, sample
from fnodiff.data import Faces, InMemory
from fnodiff.train import Adam, keep_freed_memory

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
add = parser.add_argument
add("--train", action="store_true", help="train a model first, or train the one in --checkpoint further")
add("--minutes", type=float, default=6.0, help="of training")
add("--checkpoint", type=Path, help="the model's folder; by default the repository's, with --train OUT/ffhq_superres")
add("--samples", type=int, default=64, help="at each resolution")
add("--out", type=Path, default=Path("."), help="folder of the figure")
add("--smoke", action="store_true", help="all of it in seconds, to see that it runs")
args = parser.parse_args()
if args.smoke:
    args.minutes, args.samples = 0.01, 4
shipped = Path(sys.argv[0]).parent / "models" / "ffhq_superres"
folder = args.checkpoint or (args.out / "ffhq_superres" if args.train else shipped)

# %%
# Pictures are functions on a box, seen as averages over its cells. `Model.for_data` measures their units and spectrum, and
# takes white noise *on the box*: with the same variance in a mode on every grid.

keep_freed_memory()
domain, trained_on, sizes = Box(2), [16, 24, 32], [32, 48, 64]
if args.train:
    torch.manual_seed(0)
    faces = InMemory(Faces(64 if args.smoke else 8192), [(n, n) for n in trained_on], progress=True)
    data = MultiResolution(faces, domain, shapes=trained_on, batch_size=16)
    model = Model.for_data(data, network=DFU.tiny if args.smoke else DFU.small)
    fit(model, data, minutes=args.minutes, folder=folder, resume="auto", optimizer=Adam(lr=2e-3))
device = "cuda" if torch.cuda.is_available() else "cpu"
model = Model.from_pretrained(folder).to(device)

# %%
# One seed is one noise function: the same person at every resolution. By default a cascade samples 32x32 to its end, and
# finer grids add what it lacks.

solver, seeds = DPMSolver(4 if args.smoke else 12), range(args.samples)
sampled = {n: sample(model, (n, n), seeds, solver=solver, progress=True) for n in sizes}

# %%
# Four distances to the truth: of the spectrum; of whole pictures, averaged to 8x8; of patches; and of the detail above the
# training band, beside its energy (no detail at all: 1.00 / 0.00). Other true images are the floor that so many can reach.

held_out = Faces((64 if args.smoke else 512) + args.samples, seed=1)
truth = {n: held_out.batch(range(len(held_out)), (n, n))["x"] for n in sizes}
count = len(held_out) - args.samples
machine = f"torch {torch.__version__} on {device}, {torch.get_num_threads()} threads, {platform.machine()}"
print(f"{args.samples} images per row against {count} true ones; {machine}")
print(f"{'size':>4}  {'':<24}{'spectrum':>9}{'global':>9}{'patches':>9}{'high band / energy':>20}")
for n in sizes:
    true, others = truth[n].split([count, args.samples])
    rows = {"other true images": others, "sampled": sampled[n]}
    if n > 32:
        rows["bicubic of sampled 32"] = interpolate(sampled[32], size=(n, n), mode="bicubic")
    for name, x in rows.items():
        distances = [f(x, true, domain) for f in (metrics.spectrum_error, metrics.global_coherence)]
        band = metrics.high_band_distance(x, true, domain, (32, 32)) if n > 32 else None
        print(
            f"{n:>4}  {name:<24}{distances[0]:>9.3f}{distances[1]:>9.2f}{metrics.patch_distance(x, true):>9.3f}"
            + (f"{'-':>20}" if band is None else f"{'{:.3f} / {:.2f}'.format(*band):>20}")
        )

# %%
# The same seeds at every resolution, above the truth.

rows = {f"sampled {n}x{n}": x for n, x in sampled.items()}
rows["bicubic 32 to 64"] = interpolate(sampled[32], size=(64, 64), mode="bicubic")
rows["true 64x64"] = truth[64]
figure, axes = plt.subplots(len(rows), min(8, args.samples), figsize=(1.5 * min(8, args.samples), 8.1))
for line, (name, images) in zip(axes, rows.items(), strict=True):
    for axis, image in zip(line, images, strict=False):
        axis.imshow(image.movedim(0, -1).clamp(-1, 1) / 2 + 0.5, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
    line[0].set_ylabel(name, fontsize=9)
figure.suptitle("One seed per column; trained on 16, 24, 32 pixels", fontsize=11)
figure.tight_layout(pad=0.4)
args.out.mkdir(parents=True, exist_ok=True)
figure.savefig(args.out / "ffhq_superres.png", dpi=130)
print(f"\nfigure: {args.out / 'ffhq_superres.png'}")
