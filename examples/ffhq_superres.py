"""
Zero-shot super-resolution of portraits
=======================================

A model that was trained on small drawn portraits samples the same seeds at its largest training size, at twice and at four
times that. The drawings are vectors, so the truth is known there too. Drawing them takes `pip install 'fnodiff[datasets]'`::

    python examples/ffhq_superres.py                          # samples the model that comes with fnodiff: under two minutes
    python examples/ffhq_superres.py --train                  # draws 4096 portraits and trains another model on them first
    python examples/ffhq_superres.py --train --data ffhq.h5   # the same for a file of datasets/ffhq.py, or of your own

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
from fnodiff.data import HDF5Fields, InMemory, Part
from fnodiff.train import Adam, keep_freed_memory

sys.path.append(str(Path(sys.argv[0]).resolve().parents[1] / "datasets"))
import portraits

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
add = parser.add_argument
add("--train", action="store_true", help="train a model first, or train the one in --checkpoint further")
add("--minutes", type=float, default=20.0, help="of training")
add("--data", type=Path, help="an .h5 of pictures to use instead of drawn ones; its last tenth is held out")
add("--checkpoint", help="the model's folder or name; by default portraits, with --train OUT/ffhq_superres")
add("--samples", type=int, default=48, help="at 1x and at 2x; a quarter of them at 4x")
add("--out", type=Path, default=Path("."), help="folder of the figure")
add("--smoke", action="store_true", help="all of it in seconds, to see that it runs")
args = parser.parse_args()
if args.smoke:
    args.minutes, args.samples = 0.01, 4
folder = args.checkpoint or (args.out / "ffhq_superres" if args.train else "portraits")
args.out.mkdir(parents=True, exist_ok=True)
keep_freed_memory()

# %%
# Pictures are functions on a box, seen as averages over its cells. `Model.for_data` measures their units and spectrum, and
# takes white noise *on the box*: with the same variance in a mode on every grid.

domain, trained_on = Box(2), [16, 24, 32]
if args.train and args.data is None:
    count = ["--count", "32" if args.smoke else "4096", "--resolutions", *map(str, trained_on)]
    portraits.main([str(args.out / "portraits.h5"), *count])
if args.train:
    pictures = HDF5Fields(args.data or args.out / "portraits.h5")
    pictures = InMemory(Part(pictures, range(len(pictures) * 9 // 10)), trained_on)
    torch.manual_seed(0)
    data = MultiResolution(pictures, domain, shapes=trained_on, batch_size=8)
    model = Model.for_data(data, network=DFU.tiny if args.smoke else DFU.small)
    fit(model, data, minutes=args.minutes, folder=folder, resume="auto", optimizer=Adam(lr=2e-3, decay=True))

# %%
# True pictures that the model has not seen: other drawings, or the last tenth of the file.
device = "cuda" if torch.cuda.is_available() else "cpu"
model = Model.from_pretrained(folder).to(device)
largest, *_ = sizes = [n * max(model.training_shapes)[0] for n in ((1, 2) if args.smoke else (1, 2, 4))]
count = (16 if args.smoke else 192) + args.samples
if args.data is None:
    try:
        held_out = portraits.Portraits(count=count, held_out=True)
    except ValueError as error:
        parser.exit(1, f"{error}\n")
    batches = held_out.batches(range(count), [(n, n) for n in sizes])
    truth = {n: batch["x"] for n, batch in zip(sizes, batches, strict=True)}
else:
    pictures = HDF5Fields(args.data)
    if (largest, largest) not in pictures.shapes:
        parser.exit(1, f"expected {args.data} to have {largest}x{largest}, the model's largest training size; add it\n")
    sizes = [n for n in sizes if (n, n) in pictures.shapes]
    held_out = range(len(pictures) * 9 // 10, len(pictures))[:count]
    truth = {n: pictures.batch(held_out, (n, n))["x"] for n in sizes}

# %%
# One seed is one noise function: the same person at every resolution. By default finer grids add to what coarser ones show.

solver = DPMSolver(4) if args.smoke else None
counts = {n: min(args.samples, max(8, args.samples // 4)) if n > 2 * largest else args.samples for n in sizes}
sampled = {n: sample(model, (n, n), range(counts[n]), solver=solver, progress=True).cpu() for n in sizes}

# %%
# Four distances to the truth: of the spectrum; of whole pictures, averaged to 8x8; of patches; and of the detail above the
# training band, beside its energy (no detail at all: 1.00 / 0.00). Other true pictures are the floor that so many can reach.

machine = f"torch {torch.__version__} on {device}, {torch.get_num_threads()} threads, {platform.machine()}"
print(f"Against {len(truth[sizes[0]]) - args.samples} true pictures; {machine}")
print(f"{'size':>4}  {'':<22}{'pictures':>9}{'spectrum':>10}{'global':>8}{'patches':>9}{'high band / energy':>20}")
for n, count in counts.items():
    rows = {"other true pictures": truth[n][-args.samples :][:count], "sampled": sampled[n]}
    if n > largest:
        rows[f"bicubic of sampled {largest}"] = interpolate(sampled[largest][:count], size=(n, n), mode="bicubic")
    for name, x in rows.items():
        true = truth[n][: -args.samples]
        distances = [f(x, true, domain) for f in (metrics.spectrum_error, metrics.global_coherence)]
        band = metrics.high_band_distance(x, true, domain, (largest, largest)) if n > largest else None
        print(
            f"{n:>4}  {name:<22}{count:>9}{distances[0]:>10.3f}{distances[1]:>8.2f}{metrics.patch_distance(x, true):>9.3f}"
            + (f"{'-':>20}" if band is None else f"{'{:.3f} / {:.2f}'.format(*band):>20}")
        )

# %%
# The same seeds at every resolution, above true pictures.

lines = {f"{n} x {n}\n{n / largest:g}x": x for n, x in sampled.items()} | {"true\ndrawings": truth[sizes[-1]]}
columns = min(8, args.samples)
figure, axes = plt.subplots(len(lines), columns, figsize=(1.65 * columns, 1.62 * len(lines)), layout="constrained")
figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, hspace=0, wspace=0)
for line, (name, images) in zip(axes, lines.items(), strict=True):
    for axis, image in zip(line, images, strict=False):
        axis.imshow(image.movedim(0, -1).clamp(-1, 1) / 2 + 0.5, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    line[0].set_ylabel(name, fontsize=13, rotation=0, ha="right", va="center", labelpad=8)
figure.savefig(args.out / "ffhq_superres.png", dpi=130)
print(f"\nfigure: {args.out / 'ffhq_superres.png'}")
