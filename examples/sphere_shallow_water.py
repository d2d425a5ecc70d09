"""
Weather on a sphere: shallow water
==================================

Height and vorticity of a layer of water on the rotating earth, solved by torch-harmonics. One model of both, trained on grids
of 16 x 32 to 32 x 64 points, is asked three things:

1. Samples, zero-shot at 64 x 128: their angular power spectra against those of solved fields.
2. The same seeds at 32 x 64 and at 64 x 128: how far the grid still matters.
3. A field from the height at 200 stations: what it was, and how sure one can be. The model was not trained for this.

The repository has a trained model; training takes under 20 minutes on 2 cores, four of them to solve the flows::

    python examples/sphere_shallow_water.py             # a minute
    python examples/sphere_shallow_water.py --train     # solves and trains first, into the folder sphere_shallow_water
"""

import argparse
import math
import platform
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from fnodiff import (
    DDIM,
    DFU,
    EDM,
    DPMSolver,
    FunctionSpaceSDE,
    GaussianRandomField,
    Matern,
    Sphere,
    metrics,
)
from fnodiff.checkpoint import from_pretrained, save_pretrained
from fnodiff.data import MultiResolution
from fnodiff.equations import ShallowWater
from fnodiff.sde import (
    ChannelSpectra,
    MomentMatching,
    PointObservation,
    SpectralPreconditioned,
    fit_spectra,
    noise_levels,
)
from fnodiff.train import fit, measure_normalization

SHIPPED = Path(sys.argv[0]).parent / "models" / "sphere_shallow_water"
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
add = parser.add_argument
add("--train", action="store_true", help="solve the flows and train the model")
add("--minutes", type=float, default=14.0, help="training time")
add("--count", type=int, default=512, help="fields to train on, eight of each trajectory")
add("--test", type=int, default=32, help="solved fields to compare with, two of each trajectory")
add("--samples", type=int, default=16, help="on each grid")
add("--stations", type=int, default=200)
add("--noise", type=float, default=10.0, help="standard deviation of the stations' errors, in metres")
add("--ensemble", type=int, default=10, help="samples of the posterior")
add("--evaluations", type=int, default=12, help="of the network, per sample")
add("--iterations", type=int, default=4, help="of the solver in each evaluation for the posterior")
add(
    "--model",
    type=Path,
    help="folder of the trained model; by default the one shipped, with --train sphere_shallow_water",
)
add("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
add("--out", type=Path, default=Path("."), help="folder for the figures")
add("--quiet", action="store_true", help="no progress bars")
add("--seed", type=int, default=0)
add("--smoke", action="store_true", help="all of it in seconds; without --model, of a model that learnt nothing")
args = parser.parse_args()
if args.smoke:
    args.train, args.minutes, args.count, args.test = args.train or args.model is None, 0.01, 8, 8
    args.samples, args.ensemble, args.evaluations, args.iterations = 3, 10, 3, 1
if args.ensemble < 10 or args.samples < 3 or args.test < 3 or args.stations < 1:
    parser.error("expected --ensemble of 10 or more, --samples and --test of 3 or more and --stations of 1 or more")
if args.model is None:
    args.model = Path("sphere_shallow_water") if args.train else SHIPPED
if not args.train and not args.model.is_dir():
    parser.error(f"no model in {args.model}; make one with --train")

# %%
# The domain is all that says that this is a sphere. Its grids are Legendre-Gauss latitudes and equal longitudes, on which
# spherical harmonics are exact: 32 x 64 points hold 32 degrees. A flow turned about the axis is a flow, and so is its mirror
# image with the vorticity's sign reversed: training sees eight turns of each, and their images.

torch.manual_seed(args.seed)
accelerator = Accelerator(cpu=args.device == "cpu")
domain, trained_on = Sphere(), [(16, 32), (24, 48), (32, 64)]
reference, finest = trained_on[-1], (64, 128)
names, units, turns, solver = ("height", "vorticity"), ("m", "1/s"), 8, {"fine": 64}
if args.smoke:
    trained_on, reference, finest = [(8, 16), (16, 32)], (16, 32), (32, 64)
    solver = {"fine": 32, "first": 0.2, "every": 0.1}
coarse, fine = ("{} x {}".format(*shape) for shape in (reference, finest))


class Turned:
    """Fields on the training grids, turned about the axis and mirrored at the equator."""

    channels = 2

    def __init__(self, fields: torch.Tensor):
        self.fields = {shape: domain.resample(fields, shape) for shape in trained_on}

    def __len__(self):
        return len(self.fields[reference]) * turns * 2

    def batch(self, indices, shape):
        fields = []
        for i in indices:
            (i, mirrored), turn = divmod(i // turns, 2), i % turns
            x = self.fields[tuple(shape)][i].roll(turn * shape[1] // turns, dims=-1)
            fields.append(x.flip(-2) * torch.tensor([1.0, -1.0])[:, None, None] if mirrored else x)
        return {"x": torch.stack(fields)}


def solve(count: int, seed: int, name: str, snapshots: int = 8) -> torch.Tensor:
    """Solved fields (count, 2, *finest)."""
    flows = ShallowWater(count, seed, snapshots=snapshots, **solver)
    parts = tqdm(range(0, count, 64), desc=name, disable=args.quiet)
    return torch.cat([flows.batch(range(i, min(i + 64, count)), finest)["x"] for i in parts])


# %%
# Heights are smooth and vorticities rough: the noise of each is about as rough as the channel, and the preconditioner knows the
# angular spectrum of each, and shows the network the best linear estimate beside the noisy fields. The network is a DFU as on
# any other domain: its spectral branches are spherical convolutions, its local ones filters that reach as far on every grid.

if args.train:
    noise = GaussianRandomField(domain, ChannelSpectra((Matern(2.0, 1.0), Matern(0.5, 0.2))))
    net = DFU(
        4,
        2,
        n_modes=(12, 24) if args.smoke else (24, 48),
        hidden_channels=16,
        channel_mult=(1, 2, 2),
        num_blocks=1,
        attention_levels=(),
        dropout=0.0,
        domain=domain,
        local="operator",
        levels="fixed",
        reference=reference,
        positional_modes=2,
    )
    fields = Turned(solve(args.count, 1, "solving"))
    data = MultiResolution(fields, domain, trained_on, batch_size=8, seed=args.seed)
    normalization = measure_normalization(data)
    spectra = fit_spectra(normalization(fields.fields[reference]), domain)
    sde = FunctionSpaceSDE(noise, EDM(*noise_levels(noise, spectra, finest)))
    denoiser = SpectralPreconditioned(
        net, sde, spectra, reference, cutoff=None, shown=True, normalization=normalization
    )
    options = {"lr": 3e-3, "decay": True, "progress": not args.quiet}
    trained = fit(denoiser, data, minutes=args.minutes, accelerator=accelerator, **options)
    save_pretrained(trained, args.model)
model = from_pretrained(args.model).to(args.device).eval()
start = time.perf_counter()
true = solve(args.test, 2, "solving truths", snapshots=2)
machine = f"{args.device}, {torch.get_num_threads()} threads, {platform.machine()}"
print(f"\n{args.test} fields solved in {time.perf_counter() - start:.0f} s; torch {torch.__version__} on {machine}")


def relative(x: torch.Tensor, y: torch.Tensor) -> float:
    """The mean of |x - y| / |y - mean|."""
    anomaly = y - (y * domain.weights(y.shape[2:])).sum((2, 3), keepdim=True)
    return float((domain.norm(x - y) / domain.norm(anomaly)).mean())


def save(figure, name: str) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out / name, dpi=130)
    print(f"figure: {args.out / name}")


def show(
    axis, x: torch.Tensor, title: str = "", latitude: float = 35.0, points=None, pixels: int = 160, **look
) -> None:
    """A field (*shape) on the globe seen from far above a latitude, at longitude 0."""
    up, right = torch.linspace(1, -1, pixels)[:, None].expand(pixels, pixels), torch.linspace(-1, 1, pixels)
    right, tilt = right.expand(pixels, pixels), math.radians(latitude)
    seen = up**2 + right**2 <= 1
    near = (1 - up**2 - right**2).clamp(min=0).sqrt()
    x_axis, z_axis = near * math.cos(tilt) - up * math.sin(tilt), near * math.sin(tilt) + up * math.cos(tilt)
    places = torch.stack([z_axis.clamp(-1, 1).arccos(), torch.atan2(right, x_axis)])
    picture = torch.full((pixels, pixels), math.nan)
    picture[seen] = domain.evaluate(x[None, None].cpu(), places[:, seen])[0, 0]
    axis.imshow(picture.numpy(), extent=(-1, 1, -1, 1), **look)
    axis.add_patch(plt.Circle((0, 0), 1, fill=False, color="0.3", lw=0.6))
    if points is not None:
        theta, phi = points
        east, north = theta.sin() * phi.sin(), theta.cos() * math.cos(tilt) - theta.sin() * phi.cos() * math.sin(tilt)
        front = theta.sin() * phi.cos() * math.cos(tilt) + theta.cos() * math.sin(tilt) > 0
        axis.scatter(east[front], north[front], s=3, c="black", linewidths=0)
    axis.axis("off")
    axis.set_title(title, fontsize=9)


def moments(x: torch.Tensor) -> tuple[float, float]:
    """Mean and standard deviation, by area, of fields (B, 1, *shape)."""
    weights = domain.weights(x.shape[2:]) / len(x)
    mean = (x * weights).sum()
    return float(mean), float(((x - mean).square() * weights).sum().sqrt())


(middle, height), (_, vorticity) = (moments(true[:, i : i + 1]) for i in (0, 1))
span = [height, vorticity]
looks = [
    {"cmap": "viridis", "vmin": middle - 2.5 * span[0], "vmax": middle + 2.0 * span[0]},
    {"cmap": "RdBu_r", "vmin": -3 * span[1], "vmax": 3 * span[1]},
]

# %%
# 1. and 2. One seed is one noise function, on every grid. Beside the samples are those of a network that says nothing: Gaussian
# fields with the same spectra. What they lack is the flow: far from the equator winds are nearly in balance with the height,
# zeta = g / f Laplacian h, and the correlation of both sides says whether samples know. The model shipped knows that, and the
# spectra; to the eye its vorticity is still blotches where the flow has rolled out filaments.


class Nothing(torch.nn.Module):
    def forward(self, x, noise_level):
        return torch.zeros_like(x)


gaussian = SpectralPreconditioned(
    Nothing(), model.sde, model.spectrum, model.reference, cutoff=None, normalization=model.normalization
)


def draw(model, shape) -> torch.Tensor:
    run = DPMSolver(model, args.evaluations)
    return run.draw((2, *shape), range(args.samples), device=args.device, chunk=8, progress=not args.quiet)


def balance(x: torch.Tensor) -> float:
    """The fields' mean correlation of f zeta and g Laplacian h beyond 30 degrees from the equator, of degrees up to 20."""
    h, zeta = domain.filter(x, lambda e: (e <= 420).to(e.dtype)).split(1, dim=1)
    sine = domain.points(x.shape[2:])[0].cos()  # of the latitude
    weights = domain.weights(x.shape[2:]) * (sine.abs() > 0.5)
    pair = torch.cat([zeta * sine, -domain.filter(h, lambda e: e)], dim=1)
    pair = pair - (pair * weights).sum((2, 3), keepdim=True) / weights.sum()
    covariance = torch.einsum("bchw,bdhw,hw->bcd", pair, pair, weights)
    return float((covariance[:, 0, 1] / (covariance[:, 0, 0] * covariance[:, 1, 1]).sqrt()).mean())


start = time.perf_counter()
sampled = {shape: draw(model, shape) for shape in (reference, finest)}
print(f"\n1. {args.samples} samples on each of two grids in {time.perf_counter() - start:.0f} s\n{'':<22}", end="")
print(
    "".join(f"{name:^30}" for name in names)
    + f"\n{'':<22}"
    + f"{'spread':>11}{'spectrum':>9}{'beyond':>9} " * 2
    + "   balance"
)
kinds = {f"sampled at {coarse}": sampled[reference], f"sampled at {fine}": sampled[finest]}
kinds |= {"Gaussian": draw(gaussian, finest), "solved": true}
for kind, x in kinds.items():
    line = ""
    for i in range(2):
        y, z = x[:, i : i + 1], true[:, i : i + 1]
        low, high = (domain.resample(v, reference) for v in (y, z))
        spread = moments(y)[1]
        beyond = float(domain.norm(y - domain.resample(low, x.shape[2:])).square().mean()) / spread**2
        line += f"{spread:>11.3g}{metrics.spectrum_error(low, high, domain):>9.2f}{beyond:>9.0e} "
    print(f"   {kind:<19}{line}{balance(x):>10.2f}")
print(
    "   (spectrum: the mean of |ln of the ratio to the solved fields'|; beyond: variance that the training grids cannot hold)"
)
brought = domain.resample(sampled[finest], reference)
print(f"\n2. the same seeds: {fine} brought to {coarse} differs from {coarse} by")
for i, name in enumerate(names):
    print(f"   {name}: {relative(brought[:, i : i + 1], sampled[reference][:, i : i + 1]):.2%}")

figure = plt.figure(figsize=(9.6, 8.6), layout="constrained")
above, below = figure.subfigures(2, 1, height_ratios=[6, 2.6])
axes = above.subplots(3, 4)
rows = {coarse: sampled[reference], fine: sampled[finest], "solved": true[:: max(1, args.test // 2)]}
for line, (kind, x) in zip(axes, rows.items(), strict=True):
    for j, axis in enumerate(line):
        show(
            axis,
            x[j % 2, j // 2],
            f"{names[j // 2]}, {'seed ' + str(j % 2) + ', ' if kind != 'solved' else ''}{kind}",
            **looks[j // 2],
        )
for i, axis in enumerate(below.subplots(1, 2)):
    for kind, style in {"solved": "k-", f"sampled at {fine}": "C1-", f"sampled at {coarse}": "C0--"}.items():
        x = kinds[kind]
        power = metrics.radial_spectrum(x[:, i : i + 1], domain)[1]
        axis.loglog(range(1, len(power) + 1), power, style, label=kind)
    limit, last = domain.degrees(reference), 2 * solver["fine"] // 3
    axis.axvline(limit - 0.5, color="0.7", lw=0.8)
    axis.set(xlabel="degree (grey: the limit of training)", title=f"variance per mode, {names[i]}", xlim=(1, last + 3))
    low = true[:, i : i + 1]
    axis.set_ylim(bottom=float(metrics.radial_spectrum(low, domain)[1][last - 2]) / 10)
    axis.legend(fontsize=7)
save(figure, "sphere_samples.png")

# %%
# 3. Stations, scattered evenly over the sphere, tell the height there, with errors. `MomentMatching` makes of the model one of
# what they leave open: in height little, in vorticity, which no station sees, more.

generator = torch.Generator().manual_seed(args.seed)
places = torch.rand(2, args.stations, generator=generator, dtype=torch.float64)
points = torch.stack([(1 - 2 * places[0]).arccos(), 2 * math.pi * places[1]])
truth = domain.resample(true[:1], reference)
values = domain.evaluate(truth[:, :1].double(), points)[0]
values = (values + args.noise * torch.randn(values.shape, generator=generator, dtype=torch.float64)).float()
observed = PointObservation(points.float().to(args.device), values.to(args.device), args.noise, channels=0)
print(f"\n3. from the height at {args.stations} stations, error {args.noise:g} m, {args.ensemble} samples each")
print(
    f"   {'':<24}{'error of the mean':>18}{'of a sample':>13}{'CRPS / prior':>14}{'spread':>10}{'covered':>9}{'of':>6}"
)
ensembles = {}
for kind, law in {"model": model, "Gaussian": gaussian}.items():
    start = time.perf_counter()
    run = DDIM(MomentMatching(law, observed, iterations=args.iterations), args.evaluations, eta=1.0)
    ensembles[kind] = run.draw(
        (2, *reference), range(args.ensemble), device=args.device, chunk=5, progress=not args.quiet
    )
    for i, name in enumerate(names):
        x, y, prior = (v[..., i : i + 1, :, :] for v in (ensembles[kind][:, None], truth, sampled[reference][:, None]))
        nominal, covered = metrics.coverage(x, y, domain)
        score = metrics.crps(x, y, domain).mean() / metrics.crps(prior, y, domain).mean()
        error, spread = relative(x.mean(0), y), float(domain.norm(x.std(0)))
        each = sum(relative(v, y) for v in x) / len(x)
        print(
            f"   {f'{name}, {kind}':<24}{error:>18.1%}{each:>13.1%}{score:>14.2f}{spread:>10.2g}"
            f"{covered.mean():>9.0%}{nominal:>6.0%}"
        )
    print(f"   {'':<24}({time.perf_counter() - start:.0f} s)")
ensemble = ensembles["model"]
figure, axes = plt.subplots(2, 4, figsize=(9.6, 5.0), layout="constrained")
for i, line in enumerate(axes):
    show(
        line[0],
        truth[0, i],
        f"{names[i]}, true" + (", and the stations" if i == 0 else ""),
        points=points if i == 0 else None,
        **looks[i],
    )
    show(line[1], ensemble[:, i].mean(0), "mean of the samples", **looks[i])
    show(line[2], ensemble[0, i], "a sample", **looks[i])
    show(
        line[3],
        ensemble[:, i].std(0),
        f"their deviation, up to {span[i]:.2g} {units[i]}",
        cmap="magma",
        vmin=0,
        vmax=span[i],
    )
save(figure, "sphere_stations.png")
