"""
Zero-shot super-resolution of faces
===================================

A score operator that was trained on portraits of 16, 24 and 32 pixels samples the same seeds at 32, 48 and 64. The portraits
are drawn by `fnodiff.data.faces`, which exist at every resolution, so that truth is known above the training resolution too.
The repository has a trained model; `--train` trains another, on the same portraits or with `--data` on a folder or a zip of
real images (FFHQ, LSUN Church, yours)::

    python examples/ffhq_superres.py                            # a minute on 2 cores
    python examples/ffhq_superres.py --sample-at 32 64 128      # four times the largest training size
    python examples/ffhq_superres.py --train                    # trains for 6 minutes first
    python examples/ffhq_superres.py --train --data ffhq.zip --resolutions 32 48 64 96 --sample-at 96 160 --minutes 600

On GPUs, with the options in a file: the paper's configuration, which took its authors 69 hours on 8 GPUs, and ours::

    accelerate launch examples/ffhq_superres.py @examples/configs/ffhq_paper.txt --data ffhq.h5
    accelerate launch examples/ffhq_superres.py @examples/configs/ffhq.txt --data ffhq.h5

Every mechanism has an option (`--help`), and each works with a trained model, without training again, where it can::

    python examples/ffhq_superres.py --no-cascade --progressive 16 32 --upscale
    python examples/ffhq_superres.py --train --guidance 2 --steps 3000
"""

import argparse
import platform
import sys
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from accelerate import Accelerator
from torch.nn.functional import interpolate

import fnodiff
from fnodiff import DFU, Box, Cascade, FunctionSpaceSDE, Preconditioned, Progressive, metrics
from fnodiff.checkpoint import from_pretrained
from fnodiff.data import Faces, HDF5Fields, ImageFolder, InMemory, MultiResolution, Part
from fnodiff.sde import (
    Autoguided,
    ClassifierFree,
    DenoisingLoss,
    SpectralPreconditioned,
    fit_spectrum,
    noise_levels,
    upscale,
)
from fnodiff.train import fit, measure_normalization

SHIPPED = Path(sys.argv[0]).parent / "models" / "ffhq_superres"
parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, fromfile_prefix_chars="@"
)
parser.convert_arg_line_to_args = lambda line: line.partition("#")[0].split()
flag = argparse.BooleanOptionalAction
add = parser.add_argument
add("--data", type=Path, help="a folder or zip of images, or an .h5 of datasets/ffhq.py (default: drawn portraits)")
add("--train", action="store_true", help="train a model instead of taking the one that comes with the example")
add("--checkpoint", type=Path, help="sample this model (default: the one that comes with the example)")
add("--sample-at", type=int, nargs="+", default=[32, 48, 64], help="sample at these")
add("--samples", type=int, default=64, help="samples per resolution")
add("--sampler", choices=["heun", "ddim", "dpm", "sde", "pc", "langevin"], default="dpm")
add("--spacing", choices=["time", "log_snr", "rho"], default="time", help="of the steps")
add("--churn", type=float, default=0.0, help="for heun: noise added before its steps")
add("--evaluations", type=int, default=12, help="of the network, per sample, on each grid that is sampled to its end")
add("--progressive", type=int, nargs="*", help="pass through these grids (default: smallest and largest trained on)")
add(
    "--cascade",
    action=flag,
    default=True,
    help="above the largest training grid: sample it, and those of --progressive above it, to the end first",
)
add("--guidance", type=float, help="with a model trained with --guidance: the scale")
add(
    "--autoguide",
    type=Path,
    help="guide the model by this one, trained alike for less time, as in `fnodiff.sde.Autoguided`",
)
add("--upscale", action="store_true", help="also upscale true images from the largest training size to the finest")
add("--device", choices=["cpu", "cuda"], help="default: a GPU where there is one")
add("--out", type=Path, default=Path("."), help="folder for ffhq_superres.png and the trained model")
add("--quiet", action="store_true", help="no progress bars")
add("--seed", type=int, default=0)
add("--smoke", action="store_true", help="all in under a minute: sets steps, samples, batch, evaluations, network")
training = parser.add_argument_group("with --train")
add = training.add_argument
add("--resolutions", type=int, nargs="+", default=[16, 24, 32], help="train on these")
add("--minutes", type=float, default=6.0, help="training time")
add("--steps", type=int, help="training steps, instead of --minutes")
add("--batch", type=int, default=16)
add("--weights", type=float, nargs="+", help="how often each of --resolutions is trained on (default: alike)")
add("--lr", type=float, default=2e-3, help="learning rate")
add("--ema-halflife", type=float, default=20_000, help="of the average of weights that is kept, in samples")
add("--network", choices=["tiny", "small", "paper"], default="small", help="0.8, 2.6 or 706 million parameters")
add("--noise", choices=["white", "matern", "pixel"], default="white", help="a process, or one number per pixel")
add("--schedule", choices=["edm", "ve", "vp", "subvp", "cosine"], default="edm")
add("--told", choices=["point", "mode"], help="the noise level that the network is told (default: the denoiser's)")
add("--preconditioning", choices=["edm", "spectral"], default="edm", help="one number for all modes, or each its own")
add("--shown", action=flag, default=True, help="show the network the best linear estimate beside the noisy picture")
add("--levels", choices=["moving", "fixed"], default="fixed", help="a level's grid moves with the input's, or does not")
add("--local", choices=["conv", "operator", "both"], default="conv", help="taps one pixel apart, or at fixed places")
add("--antialias", action="store_true", help="evaluate activations on a grid twice as fine")
add("--octaves", type=float, default=0.0, help="loss: 0 as EDM's, 1 with all octaves of modes counted alike")
args = parser.parse_args()
asked = [a.option_strings[0] for a in training._group_actions if getattr(args, a.dest) != a.default]
if args.train and args.checkpoint is not None:
    parser.error("expected --train or --checkpoint, got both: a model is trained, or is there")
if args.smoke:
    args.steps, args.samples, args.batch, args.evaluations = 20, 8, 8, 8
    args.train, args.network = args.checkpoint is None, "tiny"
if not args.train and asked:
    parser.error(f"expected --train with {', '.join(asked)}, which say how a model is trained")
if not args.train and args.checkpoint is None:
    args.checkpoint = SHIPPED
    if args.data is not None or args.guidance is not None:
        parser.error(
            "expected --train or --checkpoint with --data and --guidance: the example's model knows portraits alone"
        )
if args.samples < 2:
    parser.error(f"expected --samples of 2 or more, got {args.samples}: distances compare sets")
if args.evaluations < 3:
    parser.error(f"expected --evaluations of 3 or more, got {args.evaluations}")
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
smallest, largest, finest = min(resolutions), max(resolutions), max(args.sample_at)
reference, guided = (largest, largest), args.guidance is not None

if args.data is None:
    label = "hair_style" if guided else None
    train, held_out = Faces(8192, seed=0, label=label), Faces(512 + args.samples, seed=1, label=label)
else:
    fields = HDF5Fields(args.data) if args.data.suffix == ".h5" else ImageFolder(args.data)
    count = min(512 + args.samples, len(fields) // 3)
    if count < args.samples + 2:
        parser.error(f"expected at least {3 * args.samples + 6} images for --samples {args.samples}, got {len(fields)}")
    names = ["x", "label"] if guided else ["x"]
    train, held_out = (Part(fields, i, names) for i in (range(count, len(fields)), range(count)))
if args.smoke and args.data is None:
    train, held_out = Part(train, range(64)), Part(held_out, range(64 + args.samples))
held = {n: held_out.batch(range(len(held_out)), (n, n)) for n in sorted({largest, *args.sample_at})}
truth = {n: batch["x"] for n, batch in held.items()}
if args.data is None and trained is None:
    train = InMemory(train, [(n, n) for n in resolutions], progress=not args.quiet)
some = train.batch(range(min(2048, len(train))), reference)

if trained is None:
    noise = {
        "pixel": fnodiff.PixelNoise(domain),
        "white": fnodiff.WhiteNoise(domain, reference),
        "matern": fnodiff.GaussianRandomField(domain, fnodiff.Matern(smoothness=0.1, length_scale=0.1)),
    }[args.noise]
    options = {"levels": args.levels, "local": args.local, "antialias": args.antialias}
    if args.levels == "fixed" or args.local != "conv":
        options["reference"] = reference
    if guided:
        options["num_classes"] = int(some["label"].max()) + 1
    net = getattr(DFU, args.network)(6 if args.shown else 3, 3, domain=domain, **options)
    data = MultiResolution(train, domain, resolutions, args.weights, batch_size=args.batch, seed=args.seed)
    normalization = measure_normalization(data, 0.5)
    spectrum = fit_spectrum(normalization(some["x"]), domain, cell_averages=True)
    schedules = {name.lower(): getattr(fnodiff, name) for name in ("EDM", "VE", "VP", "SubVP", "Cosine")}
    make_schedule, options = schedules[args.schedule], {} if args.told is None else {"told": args.told}
    if args.preconditioning == "spectral":
        spans = args.schedule in ("edm", "ve", "cosine")  # those are made from the noise levels at their ends
        schedule = make_schedule(*noise_levels(noise, spectrum, (finest, finest))) if spans else make_schedule()
        sde = FunctionSpaceSDE(noise, schedule)
        options["shown"] = args.shown
        denoiser = SpectralPreconditioned(net, sde, spectrum, reference, normalization=normalization, **options)
    else:
        sde = FunctionSpaceSDE(noise, make_schedule())
        options["spectrum"] = spectrum if args.shown else None
        denoiser = Preconditioned(net, sde, 0.5, normalization=normalization, **options)
    loss = DenoisingLoss(denoiser, octaves=args.octaves, drop_condition=0.1 if guided else 0.0)
    minutes = args.minutes if args.steps is None else None
    options = {"folder": args.out / "ffhq_superres", "accelerator": accelerator, "progress": not args.quiet}
    options |= {"lr": args.lr, "ema_halflife": args.ema_halflife}
    trained = fit(denoiser, data, args.steps, minutes=minutes, loss=loss, **options)

if not accelerator.is_main_process:  # with `accelerate launch`: one process samples
    sys.exit()

# %%
# One seed is one noise function: the same person at every resolution.

count, half = args.evaluations, max(2, args.evaluations // 2)
sampler = {
    "heun": partial(fnodiff.Heun, steps=half, churn=args.churn),
    "ddim": partial(fnodiff.DDIM, steps=count),
    "dpm": partial(fnodiff.DPMSolver, steps=count),
    "sde": partial(fnodiff.EulerMaruyama, steps=count),
    "pc": partial(fnodiff.PredictorCorrector, steps=half),
    "langevin": partial(fnodiff.AnnealedLangevin, steps=count),
}[args.sampler]
sampler = partial(sampler, spacing=args.spacing)
spectrum = getattr(trained, "spectrum", None)
if spectrum is None:
    spectrum = fit_spectrum(trained.normalization.cpu()(some["x"]), domain, cell_averages=True)
denoiser = trained if args.autoguide is None else Autoguided(trained, from_pretrained(args.autoguide))
denoiser = ClassifierFree(denoiser, args.guidance) if guided else denoiser
denoiser.to(accelerator.device)
labels = {"label": held[largest]["label"][-args.samples :]} if guided else {}
seeds = range(10_000 * args.seed, 10_000 * args.seed + args.samples)


def sample(n: int) -> torch.Tensor:
    run = sampler(denoiser)
    coarser = [smallest, largest] if args.progressive is None else args.progressive
    coarser = [(m, m) for m in sorted(set(coarser)) if m < n]
    if args.cascade and n > largest:
        first, above = [g for g in coarser if g < reference], [g for g in coarser if g > reference]
        run = Cascade(run, [reference, *above], spectrum, first=first)
    elif coarser:
        run = Progressive(run, coarser, spectrum)
    plan = run.grids(trained.sde.prior((1, 3, n, n)))
    print("evaluations: " + ", then ".join(f"{count} at {grid[0]}" for grid, count in plan))
    return run.draw((3, n, n), seeds, device=accelerator.device, progress=not args.quiet, **labels)


samples = {n: sample(n) for n in truth}

# %%
# Four distances, none of them alone: the spectrum; the picture as a whole (averaged to 8x8); patches; and the new band, the
# detail that the training grids could not hold (no detail at all: 1.00 / 0.00).

true = {n: x[: -args.samples] for n, x in truth.items()}
machine = f"{accelerator.device.type}, {torch.get_num_threads()} threads, {platform.machine()}"
print(f"\n{args.samples} images per row against {len(true[largest])} true ones; torch {torch.__version__} on {machine}")
print(f"{'size':>4}  {'':<24}{'spectrum':>9}{'global':>9}{'patches':>9}{'new band / energy':>20}")
bicubic = f"bicubic of sampled {largest}"
for n in args.sample_at:
    rows = {"other true images": truth[n][-args.samples :], "sampled": samples[n]}
    if n > largest:
        rows[bicubic] = interpolate(samples[largest], size=(n, n), mode="bicubic")
    for name, x in rows.items():
        row = [metrics.spectrum_error(x, true[n], domain), metrics.global_coherence(x, true[n], domain)]
        row.append(metrics.patch_distance(x, true[n]))
        band = "{:.3f} / {:.2f}".format(*metrics.new_band(x, true[n], domain, reference)) if n > largest else "-"
        print(f"{n:>4}  {name:<24}{row[0]:>9.3f}{row[1]:>9.2f}{row[2]:>9.3f}{band:>20}")


# %%
# The same seeds at every resolution, above the truth.


def draw(rows: dict[str, torch.Tensor], title: str, path: Path) -> None:
    columns = min(8, args.samples)
    figure, axes = plt.subplots(len(rows), columns, figsize=(1.5 * columns, 1.62 * len(rows)), squeeze=False)
    for line, (name, x) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(line, x, strict=False):
            axis.imshow(image.movedim(0, -1).clamp(-1, 1).numpy() / 2 + 0.5, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, fontsize=9)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout(pad=0.4)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    print(f"\nfigure: {path}")


rows = {f"sampled {n}x{n}": samples[n] for n in sorted(samples)}
rows[f"bicubic {largest} to {finest}"] = interpolate(samples[largest], size=(finest, finest), mode="bicubic")
rows[f"true {finest}x{finest}"] = truth[finest]
draw(
    rows,
    f"One seed per column; trained on {', '.join(map(str, resolutions))} pixels",
    args.out / "ffhq_superres.png",
)

# %%
# With `--upscale`, the other way to use the same model: the modes of a given picture are kept, the rest is sampled.

if args.upscale:
    columns = min(8, args.samples)
    low, high = (truth[n][-columns:] for n in (largest, finest))
    condition = {name: value[-columns:].to(accelerator.device) for name, value in labels.items()}
    x = upscale(
        denoiser,
        low.to(accelerator.device),
        (finest, finest),
        sampler=sampler,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds[:columns]],
        progress=not args.quiet,
        **condition,
    ).cpu()
    rows = {f"given {largest}x{largest}": low, f"upscaled to {finest}": x}
    rows[f"bicubic to {finest}"] = interpolate(low, size=(finest, finest), mode="bicubic")
    rows["true"] = high
    again = domain.average(x, reference) if finest % largest == 0 else domain.resample(x, reference)
    for name, y in list(rows.items())[1:3]:
        print(f"{name}: {100 * float(metrics.relative_l2(y, high, domain).mean()):.1f}% from the true picture")
    print(
        f"averaged again, the upscaled is {100 * float(metrics.relative_l2(again, low, domain).mean()):.1f}% from the given"
    )
    draw(rows, "Zero-shot super-resolution of given pictures", args.out / "ffhq_upscaled.png")
