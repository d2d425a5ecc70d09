"""
Zero-shot super-resolution of faces
===================================

Train a score operator on portraits of 16, 24 and 32 pixels, then sample the same seeds at 32, 48 and 64. By default the
portraits are drawn by `fnodiff.data.faces`, which exist at every resolution, so that truth is known above the training
resolution too; `--data` takes a folder or a zip of real images (FFHQ, LSUN Church, yours)::

    python examples/ffhq_superres.py                            # about 8 minutes on 2 cores
    python examples/ffhq_superres.py --data ffhq.zip --resolutions 32 48 64 96 --sample-at 96 160 --minutes 600
"""

import argparse
import platform
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from accelerate import Accelerator
from torch.nn.functional import interpolate

from fnodiff import DFU, EDM, Box, FunctionSpaceSDE, Heun, PixelNoise, Preconditioned, WhiteNoise, metrics
from fnodiff.checkpoint import from_pretrained
from fnodiff.data import Faces, HDF5Fields, ImageFolder, InMemory, MultiResolution, Part
from fnodiff.train import fit

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument(
    "--data", type=Path, help="a folder or zip of images, or an .h5 of datasets/ffhq.py (default: drawn portraits)"
)
parser.add_argument("--resolutions", type=int, nargs="+", default=[16, 24, 32], help="train on these")
parser.add_argument("--sample-at", type=int, nargs="+", default=[32, 48, 64], help="sample at these")
parser.add_argument("--minutes", type=float, default=6.0, help="training time")
parser.add_argument("--steps", type=int, help="training steps, instead of --minutes")
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--samples", type=int, default=64, help="samples per resolution")
parser.add_argument(
    "--noise", choices=["white", "pixel"], default="white", help="function-space white noise, or one per pixel"
)
parser.add_argument("--checkpoint", type=Path, help="sample this model instead of training one")
parser.add_argument("--device", choices=["cpu", "cuda"], help="default: a GPU where there is one")
parser.add_argument("--out", type=Path, default=Path("."), help="folder for ffhq_superres.png and the trained model")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--smoke", action="store_true", help="all of it in under a minute: sets steps, samples and batch")
args = parser.parse_args()
if args.smoke:
    args.steps, args.samples, args.batch = 20, 8, 8
if args.samples < 2:
    parser.error(f"expected --samples of 2 or more, got {args.samples}: distances compare sets")
if args.device == "cuda" and not torch.cuda.is_available():
    parser.error("expected --device cpu, got cuda: torch finds no GPU here")

# %%
# Functions on the unit box: image pixels are its cell averages, and the noise is white noise *on the box*, with the same
# variance in a mode on every grid and one unit per pixel at the largest training resolution.

torch.manual_seed(args.seed)
accelerator = Accelerator(cpu=args.device == "cpu")
domain = Box(2)
trained = None if args.checkpoint is None else from_pretrained(args.checkpoint).to(accelerator.device)
resolutions = args.resolutions if trained is None else sorted(shape[0] for shape in trained.training_shapes)
largest, finest = max(resolutions), max(args.sample_at)

if args.data is None:
    train, held_out = Faces(8192, seed=0), Faces(512 + args.samples, seed=1)
else:
    fields = HDF5Fields(args.data) if args.data.suffix == ".h5" else ImageFolder(args.data)
    count = min(512 + args.samples, len(fields) // 3)
    if count < args.samples + 2:
        parser.error(f"expected at least {3 * args.samples + 6} images for --samples {args.samples}, got {len(fields)}")
    train, held_out = (Part(fields, i, ["x"]) for i in (range(count, len(fields)), range(count)))
if args.smoke and args.data is None:
    train, held_out = Part(train, range(64)), Part(held_out, range(64 + args.samples))
truth = {n: held_out.batch(range(len(held_out)), (n, n))["x"] for n in sorted({largest, *args.sample_at})}

if trained is None:
    noise = WhiteNoise(domain, reference=(largest, largest)) if args.noise == "white" else PixelNoise(domain)
    net = DFU.tiny(3, 3, domain=domain) if args.smoke else DFU.small(3, 3, domain=domain)
    denoiser = Preconditioned(net, FunctionSpaceSDE(noise, EDM()))
    if args.data is None:
        train = InMemory(train, [(n, n) for n in resolutions], progress=True)
    data = MultiResolution(train, domain, resolutions, batch_size=args.batch, seed=args.seed)
    minutes = args.minutes if args.steps is None else None
    options = {"lr": 2e-3, "normalize": True, "folder": args.out / "ffhq_superres", "accelerator": accelerator}
    trained = fit(denoiser, data, args.steps, minutes=minutes, **options)

# %%
# One seed is one noise function: the same person at every resolution.


def sample(n: int) -> torch.Tensor:
    sampler, out = Heun(trained, steps=4 if args.smoke else 12), []
    for first in range(0, args.samples, 32):
        seeds = range(first, min(first + 32, args.samples))
        generators = [torch.Generator().manual_seed(10_000 * args.seed + i) for i in seeds]
        prior = trained.sde.prior((len(seeds), 3, n, n), generator=generators, device=accelerator.device)
        out.append(sampler(prior, progress=True).cpu())
    return torch.cat(out)


samples = {n: sample(n) for n in truth}

# %%
# Four distances, none of them alone: the spectrum; the picture as a whole (averaged to 8x8); patches; and the new band, the
# detail that the training grids could not hold (no detail at all: 1.00 / 0.00).

reference = {n: x[: -args.samples] for n, x in truth.items()}
print(
    f"\n{args.samples} images per row against {len(reference[largest])} true ones; torch {torch.__version__} on",
    end=" ",
)
print(f"{accelerator.device.type}, {torch.get_num_threads()} threads, {platform.machine()}")
print(f"{'size':>4}  {'':<24}{'spectrum':>9}{'global':>9}{'patches':>9}{'new band / energy':>20}")
for n in args.sample_at:
    upsampled = interpolate(samples[largest], size=(n, n), mode="bicubic")
    rows = {
        "other true images": truth[n][-args.samples :],
        "sampled": samples[n],
        f"bicubic of sampled {largest}": upsampled,
    }
    for name, x in rows.items():
        if n == largest and x is upsampled:
            continue
        row = [metrics.spectrum_error(x, reference[n], domain), metrics.global_coherence(x, reference[n], domain)]
        row.append(metrics.patch_distance(x, reference[n]))
        band = "-"
        if n > largest:
            band = "{:.3f} / {:.2f}".format(*metrics.new_band(x, reference[n], domain, (largest, largest)))
        print(f"{n:>4}  {name:<24}{row[0]:>9.3f}{row[1]:>9.2f}{row[2]:>9.3f}{band:>20}")

# %%
# The same seeds at every resolution, above the truth.

columns = min(8, args.samples)
rows = {f"sampled {n}x{n}": samples[n] for n in sorted(samples)}
rows[f"bicubic {largest} to {finest}"] = interpolate(samples[largest], size=(finest, finest), mode="bicubic")
rows[f"true {finest}x{finest}"] = truth[finest]
figure, axes = plt.subplots(len(rows), columns, figsize=(1.5 * columns, 1.62 * len(rows)), squeeze=False)
for line, (name, x) in zip(axes, rows.items(), strict=True):
    for axis, image in zip(line, x, strict=False):
        axis.imshow(image.movedim(0, -1).clamp(-1, 1) / 2 + 0.5, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
    line[0].set_ylabel(name, fontsize=9)
figure.suptitle(f"One seed per column; trained on {', '.join(map(str, resolutions))} pixels", fontsize=11)
figure.tight_layout(pad=0.4)
args.out.mkdir(parents=True, exist_ok=True)
figure.savefig(args.out / "ffhq_superres.png", dpi=130)
print(f"\nfigure: {args.out / 'ffhq_superres.png'}")
