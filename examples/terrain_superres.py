"""
Terrain: sampled and upscaled at twice the training resolution
==============================================================

Measured elevation, from NASA's Shuttle Radar Topography Mission: the hills around the Jacksboro fault in Tennessee, which
matplotlib ships. A model trains on windows of about 9 x 7 km seen at 24, 32 and 48 cells per side, and is asked for the same
windows at 96, a grid that it has not seen:

1. Samples at 96: are they as rough and as steep as the terrain?
2. Windows of a strip that was held out, given at 24 or 48 cells and upscaled to 96: an ensemble of terrains that fit what
   is given, judged by the truth, beside bicubic interpolation, Fourier interpolation and a Gaussian process.

Both are judged beside a Gaussian field of the same spectrum. The model that comes with the repository, trained for 25 minutes
on one core, has slopes nearer than that field's to those of the side that it was trained on (the held-out strip is steeper),
but no ridges and valleys yet, and its upscaled ensembles are as good as the Gaussian process, not better: most of what is
gained over interpolation is the spectrum's doing.

The trained model is in the repository; sampling it takes about a minute on 2 cores, training it under 20::

    python examples/terrain_superres.py
    python examples/terrain_superres.py --train
"""

import argparse
import platform
import sys
import time
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from accelerate import Accelerator
from matplotlib.colors import LightSource
from torch.nn.functional import interpolate

from fnodiff import DFU, EDM, DPMSolver, FunctionSpaceSDE, WhiteNoise, metrics
from fnodiff.checkpoint import from_pretrained, save_pretrained
from fnodiff.data import InMemory, MultiResolution, Terrain
from fnodiff.sde import (
    Linear,
    MomentMatching,
    SpectralPreconditioned,
    fit_spectrum,
    noise_levels,
    upscale,
)
from fnodiff.train import fit, measure_normalization

shipped = Path(sys.argv[0]).parent / "models" / "terrain_superres"
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
add = parser.add_argument
add("--train", action="store_true", help="train a model instead of loading one")
add("--minutes", type=float, default=18.0, help="training time")
add("--count", type=int, default=4096, help="windows to train on")
add("--samples", type=int, default=24, help="samples at 48 and at 96")
add("--test", type=int, default=256, help="windows that samples are compared with")
add("--truths", type=int, default=3, help="held-out windows to upscale")
add("--members", type=int, default=10, help="of each ensemble")
add("--evaluations", type=int, default=12, help="of the network, per sample")
add("--models", type=Path, help="folder of the model (default: the shipped one, or ./terrain_superres with --train)")
add("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
add("--out", type=Path, default=Path("."), help="folder for the figures")
add("--quiet", action="store_true", help="no progress bars")
add("--seed", type=int, default=0)
add("--smoke", action="store_true", help="all of it in seconds, with a model that has learnt next to nothing")
args = parser.parse_args()
if args.smoke:
    args.train, args.minutes, args.count, args.samples, args.test = True, 0.02, 32, 4, 16
    args.truths, args.members, args.evaluations = 1, 10, 3
if args.models is None:
    args.models = Path("terrain_superres") if args.train else shipped
if not args.train and not args.models.is_dir():
    parser.error(f"expected a model in {args.models}, found none; --train trains one")
if args.samples < 2 or args.test < 2 or args.truths < 1 or args.members < 10 or args.evaluations < 3:
    parser.error(
        "expected --samples and --test of 2 or more, --truths of 1, --members of 10 and --evaluations of 3 or more"
    )
if args.device == "cuda" and not torch.cuda.is_available():
    parser.error("expected --device cpu, got cuda: torch finds no GPU here")

# %%
# Windows at random places, their mean elevation subtracted, in metres. Those to train on never touch the strip in the west
# that is held out; the domain is a box of the window's height and width in metres. What a grid shows are averages over its
# cells, which lack a mode's amplitude the more, the coarser the cells. The model is one of functions: it trains on windows
# whose modes have been given back what averaging took, and its samples are averaged over their cells before they are judged.

torch.manual_seed(args.seed)
windows = Terrain(args.count, seed=args.seed, centre=True, flip=True)
domain, trained_on, finest = windows.domain, [24, 32, 48], (96, 96)
reference = (max(trained_on), max(trained_on))


def cells(x: torch.Tensor, power: int = 1) -> torch.Tensor:
    """A function's averages over the cells of its grid, from its values at their centres; with power -1 the other way."""
    shape = tuple(x.shape[2:])
    return domain.synthesize(domain.analyze(x) * domain.attenuation(shape, device=x.device) ** power, shape)


class Functions:
    """The windows, seen at the centres of cells instead of averaged over them."""

    channels = 1

    def __len__(self):
        return len(windows)

    def batch(self, indices, shape):
        return {"x": cells(windows.batch(indices, shape)["x"], -1)}


# %%
# A spectral preconditioner knows from the training windows how much a mode varies, and continues that as a power law above
# their grid. The network adds what a Gaussian field of that spectrum lacks. (The mean, which centred windows have not got, is
# given a variance too, that of the windows' mean elevations: else it would need a noise level of its own.)


def train() -> SpectralPreconditioned:
    data = InMemory(Functions(), [(n, n) for n in trained_on], progress=not args.quiet)
    data = MultiResolution(data, domain, trained_on, batch_size=8, seed=args.seed)
    normalization = measure_normalization(data)
    x = Terrain(args.count, seed=args.seed).batch(range(args.count), reference)["x"]
    spectrum = fit_spectrum(normalization(x - x.mean()), domain, cell_averages=True)
    noise = WhiteNoise(domain, reference)
    net = DFU(
        1,
        1,
        n_modes=(16, 16),
        hidden_channels=4 if args.smoke else 16,
        channel_mult=(1, 2, 2),
        num_blocks=1,
        dropout=0.0,
        domain=domain,
        local="operator",
        levels="fixed",
        reference=reference,
    )
    denoiser = SpectralPreconditioned(
        net,
        FunctionSpaceSDE(noise, EDM(*noise_levels(noise, spectrum, finest))),
        spectrum,
        reference,
        cutoff=4 / max(domain.lengths),
        normalization=normalization,
    )
    accelerator = Accelerator(cpu=args.device == "cpu")
    options = {"lr": 3e-3, "decay": True, "accelerator": accelerator, "progress": not args.quiet}
    trained = fit(denoiser, data, minutes=args.minutes, **options)
    save_pretrained(trained, args.models)
    return trained


model = (train() if args.train else from_pretrained(args.models)).to(args.device).eval()
start = time.perf_counter()
machine = f"{args.device}, {torch.get_num_threads()} threads, {platform.machine()}"
print(f"\ntrained on {', '.join(map(str, trained_on))} cells per side; torch {torch.__version__} on {machine}")


def save(figure, name: str) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out / name, dpi=130)
    print(f"figure: {args.out / name}")


def relief(axis, x, title: str = "", most: float = 450.0) -> None:
    """Elevation as colour, lit from the north-west, twice as high as it is."""
    sides = [length / n for length, n in zip(domain.lengths, x.shape, strict=True)]
    look = {"cmap": plt.get_cmap("gist_earth"), "vmin": -most, "vmax": most, "blend_mode": "soft"}
    shaded = LightSource(315, 45).shade(x.numpy(), dy=sides[0], dx=sides[1], vert_exag=2, **look)
    axis.imshow(shaded, interpolation="nearest", aspect=sides[0] / sides[1])
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=9)


def bicubic(x: torch.Tensor) -> torch.Tensor:
    return interpolate(x, size=finest, mode="bicubic")


# %%
# 1. Samples at 48 and 96, one seed the same terrain on both, and those of a network that says nothing: a Gaussian field with
# the terrain's spectrum. Terrain is not the same everywhere: the row of the side that was trained on says how near to the
# strip a perfect model would come.


class Nothing(torch.nn.Module):
    def forward(self, x, noise_level):
        return torch.zeros_like(x)


gaussian = SpectralPreconditioned(
    Nothing(), model.sde, model.spectrum, model.reference, normalization=model.normalization
)
solver = partial(DPMSolver, steps=args.evaluations, spacing="log_snr")


def draw(prior, n: int) -> torch.Tensor:
    run = solver(prior)
    return cells(run.draw((1, n, n), range(args.samples), device=args.device, progress=not args.quiet))


def slopes(x: torch.Tensor) -> str:
    median, steep, steepest = metrics.slope_statistics(x, domain)[1].mean(0)
    return f"{median:>12.3f}{steep:>7.3f}{steepest:>7.3f}"


def detail(x: torch.Tensor, y: torch.Tensor, n: int) -> str:
    distance, energy = metrics.new_band(x, y, domain, (n, n))
    return f"{max(distance, 0):>13.2f} / {energy:.2f}"


rows = {}
for name, held_out in {"training side": False, "held out": True}.items():
    x = Terrain(args.test, seed=args.seed + 1, centre=True, held_out=held_out).batch(range(args.test), finest)["x"]
    rows |= {(name, 48): domain.average(x, reference), (name, 96): x}
rows |= {
    (name, n): draw(prior, n) for name, prior in (("sampled", model), ("Gaussian field", gaussian)) for n in (48, 96)
}
rows["bicubic of sampled 48", 96] = bicubic(rows["sampled", 48])
limit = reference[0] / (2 * max(domain.lengths))  # of the finest training grid, in cycles per metre
bands = (0.15 * limit, 0.7 * limit), (limit, 1.9 * limit)
title = [f"{1000 * low:.1f}-{1000 * high:.1f}/km" for low, high in bands]
print(
    f"\n1. {args.samples} samples and {args.test} windows of either side{'':<15}slope{'':<21}power law k^-p\n"
    f"   size{'':<25}{'rms [m]':>9}{'50%':>12}{'90%':>7}{'99%':>7}{title[0]:>14}{title[1]:>14}{'new band / energy':>20}"
)
for (name, n), x in sorted(rows.items(), key=lambda row: row[0][1]):
    rms = (x - x.mean((2, 3), keepdim=True)).square().mean().sqrt()
    print(f"   {n}  {name:<24}{rms:>9.0f}{slopes(x)}", end="")
    for band in bands[: n // 48]:
        print(f"{-metrics.spectral_slope(x, domain, band=band):>14.2f}", end="")
    print(detail(x, rows["held out", 96], 48) if n == 96 else f"{'-':>14}{'-':>18}")

figure, axes = plt.subplots(3, 5, figsize=(8.6, 6.6), layout="constrained")
pictures = {
    "held out": rows["held out", 96],
    "sampled at 96": rows["sampled", 96],
    "the same seeds at 48": rows["sampled", 48],
}
for line, (name, x) in zip(axes, pictures.items(), strict=True):
    for axis in line:
        axis.set_axis_off()
    for axis, z in zip(line, x[:, 0], strict=False):
        axis.set_axis_on()
        relief(axis, z)
    line[0].set_ylabel(name, fontsize=9)
height, width = (length / 1000 for length in domain.lengths)
figure.suptitle(f"Windows {height:.1f} km high and {width:.1f} km wide, lit from the north-west", fontsize=11)
save(figure, "terrain_samples.png")

figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.4), layout="constrained")
looks = {
    "training side": "0.6",
    "held out": "black",
    "sampled": "C0",
    "Gaussian field": "C2",
    "bicubic of sampled 48": "C1",
}
shares = torch.linspace(0, 1, 201)[1:-1]
for name, color in looks.items():
    k, power = metrics.radial_spectrum(rows[name, 96], domain)
    left.loglog((1000 * k).numpy(), power.numpy(), label=name, color=color)
    steep = metrics.slope_statistics(rows[name, 96], domain, shares.tolist())[1].mean(0)
    right.semilogy(steep.numpy(), (1 - shares).numpy(), color=color)
left.axvspan(1000 * limit, left.get_xlim()[1], color="0.93", zorder=0)
left.set(
    xlabel="wavenumber [cycles per km]",
    ylabel="variance per mode [m$^2$]",
    title="spectrum; grey: above the training grids",
)
left.legend(fontsize=8, frameon=False)
right.set(xlabel="slope", title="slopes at 96 x 96", ylabel="share of the area that is steeper")
save(figure, "terrain_spectra.png")

# %%
# 2. Held-out windows, given as averages over 24 x 24 or 48 x 48 cells, and upscaled in two ways. `KnownModes` fixes the modes
# that the given grid holds, although what averaging folded onto them is not theirs. `MomentMatching` takes the averages for
# what they are, here with errors of half a metre, and its covariance from the spectrum. The Gaussian process is the second
# way with a network that says nothing: the posterior of a Gaussian field that has the terrain's spectrum. The CRPS of a
# single field is its mean absolute error.


def by_known_modes(given: torch.Tensor, generators) -> torch.Tensor:
    x = upscale(model, cells(given, -1), finest, sampler=solver, cell_averages=False, generator=generators)
    return cells(x)


def by_moments(prior, given: torch.Tensor, generators) -> torch.Tensor:
    seen = Linear(lambda x: domain.average(cells(x), given.shape[2:]), given, noise_std=0.5)
    posterior = MomentMatching(prior, seen, model.spectrum, iterations=16)
    x = model.sde.prior((*given.shape[:2], *finest), generator=generators, device=given.device)
    return cells(solver(posterior)(x, generator=generators))


strip = Terrain(args.truths, seed=args.seed + 2, centre=True, held_out=True)
truth = strip.batch(range(args.truths), finest)["x"]
print(
    f"\n2. {args.truths} held-out windows, upscaled to 96; ensembles of {args.members}{'':<39}slope\n   given{'':<24}"
    f"{'CRPS [m]':>9}{'MAE of mean':>13}{'coverage':>10}{'kept to [m]':>13}{'50%':>12}{'90%':>7}{'99%':>7}"
    f"{'new band / energy':>20}\n       {'truth':<67}{slopes(truth)}"
)
shown = {}
for n in (24, 48):
    given = strip.batch(range(args.truths), (n, n))["x"]
    repeated = given.repeat(args.members, 1, 1, 1).to(args.device)
    ways = {
        "bicubic": lambda x, _: bicubic(x),
        "Fourier": lambda x, _: domain.resample(x, finest),
        "Gaussian process": partial(by_moments, gaussian),
        "known modes": by_known_modes,
        "moment matching": partial(by_moments, model),
    }
    for name, way in ways.items():
        generators = [torch.Generator().manual_seed(args.seed + i) for i in range(len(repeated))]
        x = way(repeated, generators).cpu().unflatten(0, (args.members, args.truths))
        shown[name, n] = x
        nominal, covered = metrics.coverage(x, truth, domain)
        kept = (domain.average(x.flatten(0, 1), (n, n)) - repeated.cpu()).square().mean().sqrt()
        inside = f"{covered.mean():.0%}" if bool((x[0] != x[1]).any()) else "-"
        print(
            f"   {n}  {name:<24}{metrics.crps(x, truth, domain).mean():>9.2f}{(x.mean(0) - truth).abs().mean():>13.2f}",
            end="",
        )
        print(f"{inside:>10}{kept:>13.2f}{slopes(x.flatten(0, 1))}{detail(x.flatten(0, 1), truth, n)}")
print(f"   (a calibrated ensemble covers {nominal:.0%})")

figure, axes = plt.subplots(2, 6, figsize=(10.2, 4.6), layout="constrained")
for line, n in zip(axes, (24, 48), strict=True):
    x = shown["moment matching", n][:, 0, 0]
    relief(line[0], strip.batch([0], (n, n))["x"][0, 0], f"given, {n} x {n}")
    relief(line[1], shown["bicubic", n][0, 0, 0], "bicubic")
    relief(line[2], x[0], "a member, 96 x 96")
    relief(line[3], x[1], "another")
    relief(line[4], truth[0, 0], "held-out truth")
    axis = line[5]
    shade = axis.imshow(x.std(0).numpy(), cmap="magma", vmin=0, aspect=domain.lengths[0] / domain.lengths[1])
    axis.set(xticks=[], yticks=[])
    axis.set_title("standard deviation [m]", fontsize=9)
    figure.colorbar(shade, ax=axis, shrink=0.8)
figure.suptitle("A window of the held-out strip, upscaled by a model that has seen 48 x 48 at most", fontsize=11)
save(figure, "terrain_upscaled.png")
print(f"all but the training: {time.perf_counter() - start:.0f} s")
