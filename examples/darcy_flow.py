"""
Darcy flow: pairs, surrogate, posterior
=======================================

The pressure u in a medium of permeability a, -div(a grad u) = 1 on the unit square with u = 0 on its edge: the benchmark of
the neural-operator papers, solved here by `fnodiff.equations.darcy`. Models train on grids of 16 to 48 cells per side, and are asked
three things:

1. Pairs (a, u) drawn at 96, above the training resolution: does u solve the equation for its a?
2. u given a, by a DFU in one evaluation, beside a Fourier neural operator trained for the same time: at 48, and zero-shot
   at 96.
3. a given u at 3% of the cells: samples of the posterior, whose spread is checked against the truth.

The models that come with the repository answer in about a minute on 2 cores; how they were trained stands beside them::

    python examples/darcy_flow.py
    python examples/darcy_flow.py --train       # trains others, into ./darcy_flow: under 20 minutes on 2 cores
"""

import argparse
import platform
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from accelerate import Accelerator
from neuralop.models import FNO
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from fnodiff import (
    DDIM,
    DFU,
    EDM,
    Box,
    DPMSolver,
    FunctionSpaceSDE,
    GaussianRandomField,
    Matern,
    Preconditioned,
    metrics,
)
from fnodiff.checkpoint import from_pretrained, save_pretrained
from fnodiff.data import InMemory, MultiResolution
from fnodiff.equations import Darcy
from fnodiff.equations.darcy import residual, solve
from fnodiff.sde import (
    ChannelSpectra,
    DenoisingLoss,
    Masked,
    MomentMatching,
    Normalization,
    PointObservation,
)
from fnodiff.train import fit, measure_normalization

MODELS = {"pair": "pair", "surrogate": "surrogate", "fno": "fno.safetensors"}
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
add = parser.add_argument
add("--train", nargs="*", choices=MODELS, help="train the three models first, or only the ones named here")
add("--minutes", type=float, default=5.0, help="training time of each of the three models")
add("--count", type=int, default=768, help="pairs to train on")
add("--grids", type=int, nargs="+", default=[16, 24, 32, 48], help="cells per side of the grids to train on")
add("--test", type=int, default=32, help="pairs to test on")
add("--truths", type=int, default=3, help="posteriors to draw")
add("--samples", type=int, default=12, help="of each posterior")
add("--evaluations", type=int, default=16, help="of the network, per sample")
add("--iterations", type=int, default=6, help="of the solver in each evaluation for a posterior")
add(
    "--models",
    type=Path,
    help="folder of the trained models; by default those that come with the example, or with --train ./darcy_flow",
)
add("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
add("--out", type=Path, default=Path("."), help="folder for the figures")
add("--quiet", action="store_true", help="no progress bars")
add("--seed", type=int, default=0)
add("--smoke", action="store_true", help="all of it in a minute, with models that have learnt next to nothing")
args = parser.parse_args()
if args.smoke:
    args.train, args.minutes, args.count, args.test, args.truths, args.samples = [], 0.02, 16, 4, 1, 10
    args.evaluations, args.iterations = 4, 2
train = [] if args.train is None else args.train or list(MODELS)
if args.models is None:
    args.models = Path("darcy_flow") if train else Path(sys.argv[0]).parent / "models" / "darcy_flow"
missing = [name for name, path in MODELS.items() if name not in train and not (args.models / path).exists()]
if missing:
    parser.error(f"expected {', '.join(missing)} in {args.models}; train them with --train {' '.join(missing)}")
if args.samples < 10 or not 1 <= args.truths <= args.test - 2:
    parser.error("expected --samples of 10 or more and --truths from 1 to --test - 2")

# %%
# One fine solve of 192 x 192 cells per pair; every grid here shows its averages, so that truths at 48 and 96 agree. The law of
# a is that of FNO's data: 12 where a Gaussian field is positive, 3 elsewhere.

torch.manual_seed(args.seed)
accelerator = Accelerator(cpu=args.device == "cpu")
if "pair" not in train:
    args.grids = [shape[0] for shape in from_pretrained(args.models / "pair").training_shapes]
domain, reference = Box(2), (max(args.grids), max(args.grids))
finest = 2 * max(args.grids)
law = {"constant_mode": False, "scale": 3.0}
(low, high) = (
    b["x"].to(args.device)
    for b in Darcy(args.test, seed=1, **law).batches(range(args.test), [reference, (finest, finest)])
)


class Turned:
    """Pairs under the square's eight symmetries, which are the equation's too: eight times as many.

    If `conditional`, as u with a as the field that it is conditioned on.
    """

    def __init__(self, pairs: InMemory, conditional: bool) -> None:
        self.pairs, self.conditional, self.channels = pairs, conditional, 1 if conditional else 2

    def __len__(self) -> int:
        return 8 * len(self.pairs)

    def batch(self, indices, shape):
        x = self.pairs.batch([i // 8 for i in indices], shape)["x"]
        x = torch.stack([torch.rot90(pair, i % 4, (1, 2)) for i, pair in zip(indices, x, strict=True)])
        x = torch.stack([pair.flip(1) if i % 8 > 3 else pair for i, pair in zip(indices, x, strict=True)])
        return {"x": x[:, 1:], "field": x[:, :1]} if self.conditional else {"x": x}


# %%
# Two DFUs with fixed levels, operators on functions, and an FNO. The noise is a function as rough as a: all of a's
# modes are lost at about the same level. u is smoother by far, and so is its noise in the pairs' model: of modes above the
# training grids the network knows nothing, and u takes them from the noise. The surrogate trains at pure noise alone, which
# tells nothing about u: its one evaluation is a regression. As u is smooth, its local branches mix channels point by point, as
# an FNO's do; the pairs' have taps, for the edges of a.


def network(channels: int, local: str, **options) -> DFU:
    return DFU(
        channels,
        channels,
        n_modes=(24, 24),
        hidden_channels=16,
        channel_mult=(1, 1),
        spectral_levels=2,
        attention_levels=(),
        num_blocks=1,
        dropout=0.0,
        domain=domain,
        local=local,
        levels="fixed",
        reference=reference,
        positional_modes=4,
        **options,
    )


rough, smooth = Matern(smoothness=0.5, length_scale=0.3), Matern(smoothness=1.5, length_scale=0.3)


def train_denoiser(name: str, net: DFU, spectrum, data: MultiResolution, p_mean: float, p_std: float) -> None:
    sde = FunctionSpaceSDE(GaussianRandomField(domain, spectrum), EDM(sigma_min=0.005, sigma_max=30.0))
    denoiser = Preconditioned(net, sde, sigma_data=1.0)
    loss = DenoisingLoss(denoiser, p_mean, p_std)
    options = {"lr": 3e-3, "decay": True, "normalize": True, "progress": not args.quiet}
    trained = fit(denoiser, data, minutes=args.minutes, loss=loss, accelerator=accelerator, **options)
    save_pretrained(trained, args.models / name)


class NormalizedFNO(torch.nn.Module):
    """u of a, both in their units."""

    def __init__(self) -> None:
        super().__init__()
        self.fno = FNO(n_modes=(24, 24), in_channels=1, out_channels=1, hidden_channels=32, n_layers=4)
        self.a_units, self.u_units = Normalization([0.0], [1.0]), Normalization([0.0], [1.0])

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        return self.u_units.inverse(self.fno(self.a_units(a)))


def train_fno(data: MultiResolution) -> None:
    """Mean relative L2 error, Adam, the learning rate falling to zero along a cosine."""
    net = NormalizedFNO()
    net.a_units, net.u_units = (measure_normalization(data, key=key) for key in ("field", "x"))
    net.to(args.device)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    start, step, bar = time.monotonic(), 0, tqdm(desc="training the FNO", disable=args.quiet)
    while (done := (time.monotonic() - start) / (60 * args.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * done)).item())
        batch = {k: v.to(args.device) for k, v in data[step].items()}
        optimizer.zero_grad()
        metrics.relative_l2(net(batch["field"]), batch["x"], domain).mean().backward()
        optimizer.step()
        step, _ = step + 1, bar.update()
    args.models.mkdir(parents=True, exist_ok=True)
    tensors = {
        k: v.contiguous() for k, v in net.state_dict().items() if torch.is_tensor(v)
    }  # neuralop adds its version
    save_file(tensors, args.models / MODELS["fno"])


if train:
    pairs = InMemory(Darcy(args.count, seed=0, **law), [(n, n) for n in args.grids], progress=not args.quiet)
    joint, surrogate = (
        MultiResolution(Turned(pairs, conditional), domain, args.grids, batch_size=8, seed=args.seed)
        for conditional in (False, True)
    )
    for name in train:
        if name == "fno":
            train_fno(surrogate)
        elif name == "surrogate":
            train_denoiser(name, network(1, "point", condition_channels=1), rough, surrogate, 3.4, 0.1)
        else:
            train_denoiser(name, network(2, "operator"), ChannelSpectra((rough, smooth)), joint, 0.2, 1.2)
pair, forward = (from_pretrained(args.models / name) for name in ("pair", "surrogate"))
fno = NormalizedFNO()
fno.load_state_dict(load_file(args.models / MODELS["fno"]))
pair, forward, fno = (model.to(args.device).eval() for model in (pair, forward, fno))
machine = f"{args.device}, {torch.get_num_threads()} threads, {platform.machine()}"
print(f"\n{args.test} pairs to test on; torch {torch.__version__} on {machine}")


def save(figure, name: str) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out / name, dpi=130)
    print(f"figure: {args.out / name}")


def show(axis, x, title: str = "", **look) -> None:
    axis.imshow(x.detach().cpu().numpy(), interpolation="nearest", **look)
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=9)


# %%
# 1. Pairs at 96, twice what was trained on. A pair is right if u is what the solver says for its a. The residual weighs the
# finest scales most, and true pairs, being averages of a finer solve, have one of their own: both rows are printed.

sampled = DPMSolver(pair, args.evaluations).draw(
    (2, finest, finest), range(8), device=args.device, progress=not args.quiet
)
print(
    f"\n1. pairs at {finest}x{finest}{'':<22}{'|u - solve(a)| / |u|':>22}{'residual':>12}{'mean u':>10}{'share of a = 12':>18}"
)
for name, x in {"true": high[: len(sampled)].cpu(), "sampled": sampled}.items():
    a, u = x[:, :1].clamp(3, 12), x[:, 1:]
    row = metrics.relative_l2(u, solve(a), domain), residual(a, u), u.mean(), (a > 7.5).float().mean()
    print(f"   {name:<36}{row[0].median():>22.3f}{row[1].median():>12.2f}{row[2]:>10.4f}{row[3]:>17.0%}")
figure, axes = plt.subplots(3, 6, figsize=(9, 4.8), layout="constrained")
for column, x in zip(axes.T, sampled, strict=False):
    solved = solve(x[None, :1].clamp(3, 12))[0, 0]
    show(column[0], x[0], vmin=3, vmax=12, cmap="cividis")
    show(column[1], x[1], vmin=0, vmax=float(high[:, 1].max()))
    show(column[2], solved, vmin=0, vmax=float(high[:, 1].max()))
for axis, name in zip(axes[:, 0], ("sampled a", "sampled u", "solver's u for that a"), strict=True):
    axis.set_ylabel(name, fontsize=9)
figure.suptitle(f"Pairs sampled at {finest}x{finest}; trained on {', '.join(map(str, args.grids))}", fontsize=11)
save(figure, "darcy_pairs.png")

# %%
# 2. The surrogate: the estimate at pure noise. Samples of u given a come from the pairs' model, shown a in every cell.


@torch.no_grad()
def by_dfu(a: torch.Tensor) -> torch.Tensor:
    x = forward.sde.prior((len(a), 1, *a.shape[2:]), generator=torch.Generator().manual_seed(0), device=a.device)
    return forward.normalization.inverse(forward(x, torch.ones((), device=a.device), field=a))


@torch.no_grad()
def by_fno(a: torch.Tensor) -> torch.Tensor:
    return fno(a)


def sample(a: torch.Tensor, seed: int) -> torch.Tensor:
    """u of pairs that have this a, up to errors of 0.1: one sample for each a (1, n, m)."""
    seen = Masked(torch.ones(a.shape[2:], dtype=torch.bool, device=a.device), a, 0.1, channels=0)
    posterior = MomentMatching(pair, seen, iterations=args.iterations)
    x = pair.sde.prior((len(a), 2, *a.shape[2:]), generator=torch.Generator().manual_seed(seed), device=a.device)
    return DDIM(posterior, args.evaluations, eta=1.0)(x, generator=torch.Generator().manual_seed(seed))[:, 1:]


models = {"DFU": by_dfu, "FNO": by_fno}
print(f"\n2. u given a: relative L2 error{'':<7}{reference[0]:>10}{finest:>10}{'ratio':>10}")
found = {}
for name, model in models.items():
    guesses = [torch.cat([model(a) for a in x[:, :1].split(16)]) for x in (low, high)]
    errors = [float(metrics.relative_l2(g, x[:, 1:], domain).mean()) for g, x in zip(guesses, (low, high), strict=True)]
    print(f"   {name:<35}{errors[0]:>9.2%}{errors[1]:>10.2%}{errors[1] / errors[0]:>10.2f}")
    found[name] = guesses[1]
few = low[:4]
samples = torch.stack([sample(few[:, :1], seed) for seed in range(2)])
errors = metrics.relative_l2(samples.flatten(0, 1), few[:, 1:].repeat(2, 1, 1, 1), domain)
apart = metrics.relative_l2(samples[0], samples[1], domain)
print(f"   {'samples by the pairs model':<35}{errors.mean():>9.2%}, and {apart.mean():.2%} between two of one a")
figure, axes = plt.subplots(2, 4, figsize=(8.4, 4.4), layout="constrained")
for line, i in zip(axes, (0, 1), strict=True):
    truth = high[i, 1]
    most = float(max((found[name][i, 0] - truth).abs().max() for name in models))
    show(line[0], high[i, 0], "a", cmap="cividis")
    show(line[1], truth, "u, solved")
    for axis, name in zip(line[2:], models, strict=True):
        error = found[name][i, 0] - truth
        share = float(error.norm() / truth.norm())
        show(axis, error, f"error of {name}: {share:.1%}", cmap="RdBu", vmin=-most, vmax=most)
figure.suptitle(f"u given a at {finest}x{finest}, zero-shot from {reference[0]}x{reference[0]}", fontsize=11)
save(figure, "darcy_surrogate.png")

# %%
# 3. a from u at 3% of the cells, with errors of 1% of u's spread: `MomentMatching` turns the pairs' model into one of the
# posterior. It was not trained for this. Fresh noise at every step (eta = 1) corrects what a short training leaves wrong.

sensors = round(0.03 * reference[0] * reference[1])
generator = torch.Generator().manual_seed(args.seed)
points = torch.rand(2, sensors, generator=generator).to(args.device)
noise_std = 0.01 * float(low[:, 1].std())
exact = domain.evaluate(low[: args.truths, 1:], points)
values = exact + noise_std * torch.randn(exact.shape, generator=generator).to(args.device)
start, ensembles = time.perf_counter(), []
for value in tqdm(values, desc="posteriors", disable=args.quiet):
    seen = PointObservation(points, value, noise_std, channels=1)
    posterior = MomentMatching(pair, seen, iterations=args.iterations)
    ensembles.append(
        DDIM(posterior, args.evaluations, eta=1.0).draw((2, *reference), range(args.samples), device=args.device)
    )
ensemble = torch.stack(ensembles, dim=1)  # (samples, truths, 2, 48, 48)
truth, prior = low[: args.truths].cpu(), low[args.truths :].cpu()
print(
    f"\n3. a from u at {sensors} points, {args.truths} truths, {args.samples} samples each: "
    f"{(time.perf_counter() - start) / args.truths:.0f} s per posterior"
)
for channel, name in enumerate(("a", "u")):
    x, y = ensemble[:, :, channel : channel + 1], truth[:, channel : channel + 1]
    own = prior[:, None, channel : channel + 1].expand(-1, len(y), -1, -1, -1)
    nominal, covered = metrics.coverage(x, y, domain)
    error = metrics.relative_l2(x.mean(0), y, domain).mean(), metrics.relative_l2(own.mean(0), y, domain).mean()
    score = metrics.crps(x, y, domain).mean(), metrics.crps(own, y, domain).mean()
    print(
        f"   {name}: relative L2 error of the mean {error[0]:.1%} (prior {error[1]:.1%}); CRPS {score[0] / score[1]:.2f} of "
        f"the prior's;\n      {covered.mean():.0%} of the area within the central {nominal:.0%} of the samples"
    )
wrong = ((ensemble.mean(0)[:, 0] > 7.5) != (truth[:, 0] > 7.5)).float().mean()
print(f"   cells whose more likely value is not the true one: {wrong:.1%}")
drawn = min(3, args.truths)
figure, axes = plt.subplots(drawn, 6, figsize=(9.6, 1.75 * drawn + 0.4), squeeze=False, layout="constrained")
for i, line in enumerate(axes):
    a = {"vmin": 3, "vmax": 12, "cmap": "cividis"}
    head = i == 0
    show(line[0], truth[i, 1], "u, and where it is seen" if head else "")
    line[0].scatter(*(points.cpu().flip(0) * reference[0] - 0.5), s=3, c="white")
    show(line[1], truth[i, 0], "true a" if head else "", **a)
    show(line[2], ensemble[:, i, 0].mean(0), "posterior mean" if head else "", **a)
    show(line[3], ensemble[:, i, 0].std(0), "standard deviation" if head else "", vmin=0, vmax=4.5, cmap="magma")
    for axis, x in zip(line[4:], ensemble[:, i, 0], strict=False):
        show(axis, x, "a sample" if head else "", **a)
save(figure, "darcy_posterior.png")
