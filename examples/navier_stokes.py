"""
Navier-Stokes: forecast, rollout, refinement
============================================

The vorticity w of a periodic two-dimensional flow, dw/dt + (u, v) . grad w = nu Delta w + f, with the initial law and the
forcing of the neural-operator papers, solved here by `fnodiff.equations.navier_stokes`. Models train on grids of 16 to 48 points
per side, and are asked three things:

1. The distribution of w(T) given w(0) at 3% of the points, with errors. Here the truth is known: w(0) is Gaussian, so its
   posterior has a closed form, and the solver carries samples of it to time T.
2. An autoregressive rollout, w(0) to w(T) to w(2T) and on, by a model of one step: at 48, and zero-shot at 96.
3. Zero-shot refinement: the same seeds at 48 and at 96 points per side.

The repository has trained models; training takes under 20 minutes on 2 cores::

    python examples/navier_stokes.py                # a minute
    python examples/navier_stokes.py --train        # trains first, into the folder navier_stokes
"""

import argparse
import platform
import sys
import time
from itertools import product
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
    Preconditioned,
    Torus,
    metrics,
)
from fnodiff.checkpoint import from_pretrained, save_pretrained
from fnodiff.data import MultiResolution
from fnodiff.equations.navier_stokes import benchmark_forcing, initial_vorticity, solve
from fnodiff.sde import DenoisingLoss, MomentMatching, PointObservation
from fnodiff.train import fit

SHIPPED = Path(sys.argv[0]).parent / "models" / "navier_stokes"
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
add = parser.add_argument
add("--train", action="store_true", help="solve the flows and train the models")
add("--minutes", type=float, default=7.5, help="training time of each of the two models")
add("--count", type=int, default=512, help="flows to train on")
add("--test", type=int, default=6, help="flows to test on")
add("--truths", type=int, default=2, help="posteriors to draw")
add("--samples", type=int, default=10, help="of each posterior")
add("--exact", type=int, default=39, help="samples of each exact posterior")
add("--evaluations", type=int, default=16, help="of the network, per sample")
add("--iterations", type=int, default=6, help="of the solver in each evaluation for a posterior")
add("--models", type=Path, help="folder of the trained models; by default those shipped, with --train navier_stokes")
add("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
add("--out", type=Path, default=Path("."), help="folder for the figures")
add("--quiet", action="store_true", help="no progress bars")
add("--seed", type=int, default=0)
add("--smoke", action="store_true", help="all of it in seconds; without --models, of models that learnt nothing")
args = parser.parse_args()
if args.smoke:
    args.train, args.minutes, args.count = args.train or args.models is None, 0.01, 4
    args.test, args.truths, args.samples, args.exact, args.evaluations, args.iterations = 3, 1, 10, 10, 2, 1
if min(args.samples, args.exact) < 10 or args.test < 3 or not 1 <= args.truths <= args.test:
    parser.error("expected --samples and --exact of 10 or more, --test of 3 or more and --truths from 1 to --test")
if args.models is None:
    args.models = Path("navier_stokes") if args.train else SHIPPED
if not args.train and not all((args.models / name).is_dir() for name in ("pair", "step")):
    parser.error(f"no models in {args.models}: expected the folders pair and step; make them with --train")

# %%
# The flow is ten times less viscous and six times as strong as the benchmark's: by the time T vortices have moved and filaments
# have formed, half of the field is another, and yet 48 points hold nearly all of it (both are printed below). Each flow is
# solved on more points than it is seen on, enough for every mode that those hold. The forcing depends on x + y alone: a flow
# shifted along (1, -1) is a flow, and training sees eight shifts of each.

torch.manual_seed(args.seed)
accelerator = Accelerator(cpu=args.device == "cpu")
domain, trained_on, finest = Torus(2), [16, 24, 32, 48], 96
reference = (max(trained_on), max(trained_on))
viscosity, scale, T = 1e-4, 25.0, 1.0
names = "w(0)", f"w({T:g})"
solve_on = {48: 80, 96: 144}  # what is seen on fewer points is solved on more
frames, rolled, shifts = 4, 6, 8  # steps of T in training, steps of a rollout, shifts of each flow
if args.smoke:
    solve_on, frames, rolled = {48: 72, 96: 96}, 2, 2


def evolve(w0: torch.Tensor, steps: int, fine: int, name: str = "") -> torch.Tensor:
    """w at 0, T, .., steps T on the grid fine x fine, from w(0) on any grid: (B, steps + 1, fine, fine), float32."""
    w0, times = domain.resample(w0.double().cpu(), (fine, fine)), [k * T for k in range(1, steps + 1)]
    options = {"forcing": benchmark_forcing, "save": times, "dt": 1.6 / fine}
    parts = tqdm(w0.split(32), desc=name, disable=args.quiet or not name)
    w = torch.cat([solve(part, times[-1], viscosity, **options) for part in parts])
    return torch.cat([w0, w], dim=1).float()


def starts(count: int, fine: int, seed: int) -> torch.Tensor:
    """Draws of w(0), the same functions on every grid."""
    generators = [torch.Generator().manual_seed(1_000_003 * seed + i) for i in range(count)]
    return initial_vorticity((count, 1, fine, fine), generator=generators, scale=scale)


class Flows:
    """Pairs of what is now and what is T later, from solved flows (N, frames, fine, fine): (w(T), w(0)) as two channels, or,
    for one step, w((k + 1) T) with w(k T) as the field, for every k."""

    def __init__(self, w: torch.Tensor, *, steps: bool):
        self.w = {n: domain.resample(w, (n, n)) for n in trained_on}
        self.steps, self.channels = steps, 1 if steps else 2
        self.starts = w.shape[1] - 1 if steps else 1

    def __len__(self):
        return len(self.w[trained_on[0]]) * self.starts * shifts

    def batch(self, indices, shape):
        pairs = []
        for i in indices:
            (i, shift), n = divmod(i, shifts), shape[0]
            flow, k = divmod(i, self.starts)
            by = shift * n // shifts
            pairs.append(self.w[n][flow, k : k + 2].roll((by, -by), dims=(1, 2)))
        x = torch.stack(pairs)
        return {"x": x[:, 1:], "field": x[:, :1]} if self.steps else {"x": x.flip(1)}


# %%
# Two DFUs with fixed levels and taps, operators on functions; waves tell them where they are, as the forcing does not move.
# The noise has the law of w(0), but for its mean: all modes of w(0) are lost at the same level. The step is learnt at pure
# noise alone, a regression, which is quick; the model of pairs starts from what the step has learnt.


def network(channels: int, **options) -> DFU:
    return DFU(
        channels,
        channels,
        n_modes=(28, 28),
        hidden_channels=16,
        channel_mult=(1, 1, 1),
        num_blocks=1,
        attention_levels=(),
        dropout=0.0,
        domain=domain,
        local="operator",
        levels="fixed",
        reference=reference,
        positional_modes=1,
        **options,
    )


def grown(step: Preconditioned) -> DFU:
    """The pairs' network, starting as the step's: where that has noise and the field w(0), this has noisy (w(T), w(0)); what it
    says of w(0) starts at zero."""
    net, old = network(2), step.backbone.state_dict()
    for name, value in net.state_dict().items():
        value.zero_()[tuple(slice(n) for n in old[name].shape)] = old[name].to(value)
    return net


def train_denoiser(name: str, net: DFU, flows: Flows, p_mean: float, p_std: float) -> Preconditioned:
    noise = GaussianRandomField(domain, Matern(smoothness=1.5, length_scale=3**0.5 / 7))
    denoiser = Preconditioned(net, FunctionSpaceSDE(noise, EDM(sigma_min=0.01, sigma_max=10.0)), sigma_data=1.0)
    data = MultiResolution(flows, domain, trained_on, batch_size=8, seed=args.seed)
    loss = DenoisingLoss(denoiser, p_mean, p_std)
    options = {"lr": 3e-3, "decay": True, "normalize": True, "progress": not args.quiet}
    trained = fit(denoiser, data, minutes=args.minutes, loss=loss, accelerator=accelerator, **options)
    save_pretrained(trained, args.models / name)
    return trained


@torch.no_grad()
def advance(w: torch.Tensor) -> torch.Tensor:
    """w(t + T) from w(t), on any grid: the estimate at pure noise, which tells nothing. One evaluation, a regression."""
    x = step.sde.prior(w.shape, generator=torch.Generator().manual_seed(0), device=w.device)
    return step.normalization.inverse(step(x, torch.ones((), device=w.device), field=w))


if args.train:
    solved = evolve(starts(args.count, solve_on[reference[0]], seed=1), frames, solve_on[reference[0]], "solving")
    step = train_denoiser("step", network(1, condition_channels=1), Flows(solved, steps=True), 2.2, 0.1)
    pair = train_denoiser("pair", grown(step), Flows(solved, steps=False), -0.5, 1.0)
else:
    pair, step = (from_pretrained(args.models / name) for name in ("pair", "step"))
pair, step = (model.to(args.device).eval() for model in (pair, step))
test = evolve(starts(args.test, solve_on[finest], seed=2), rolled, solve_on[finest], "solving truths")
low, high = (domain.resample(test, (n, n)) for n in (reference[0], finest))
machine = f"{args.device}, {torch.get_num_threads()} threads, {platform.machine()}"
print(f"\n{args.test} flows to test on, w(0) of spread {low[:, 0].std():.1f}; torch {torch.__version__} on {machine}")


def relative(x: torch.Tensor, y: torch.Tensor) -> float:
    """The mean of |x - y| / |y|."""
    return float(metrics.relative_l2(x, y, domain).mean())


def save(figure, name: str) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out / name, dpi=130)
    print(f"figure: {args.out / name}")


def show(axis, x, title: str = "", **look) -> None:
    look = {"cmap": "RdBu", "vmin": -4, "vmax": 4} | look
    axis.imshow(x.detach().cpu().numpy(), interpolation="nearest", **look)
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=9)


def draw_spectra(axis, fields: dict[str, torch.Tensor], title: str) -> None:
    for (name, x), style in zip(fields.items(), ("k-", "C1-", "C0--", "C2:"), strict=False):
        axis.loglog(*metrics.radial_spectrum(x, domain), style, label=name)
    axis.axvline(reference[0] / 2, color="0.7", lw=0.8)
    axis.set(xlabel="wavenumber (grey: the limit of training)", title=title)
    axis.legend(fontsize=7)


# %%
# 1. What will be, from little of what is. `MomentMatching` turns the pairs' model into one of the posterior; it was not trained
# for this. The exact posterior of w(0) takes linear algebra alone: draws from the prior, corrected by the gain times what they
# miss of the values (Matheron's rule). The solver takes them to time T.

sensors = round(0.03 * reference[0] * reference[1])
generator = torch.Generator().manual_seed(args.seed)
points = torch.rand(2, sensors, generator=generator, dtype=torch.float64)
noise_std = 0.02 * float(low[:, 0].std())
truth = low[: args.truths, :2]
exact_values = domain.evaluate(truth[:, :1].double(), points)
values = exact_values + noise_std * torch.randn(exact_values.shape, generator=generator, dtype=torch.float64)


def pairs_of(w0: torch.Tensor) -> torch.Tensor:
    """(w(0), w(T)) on the reference grid."""
    return domain.resample(evolve(w0, 1, solve_on[reference[0]]), reference)


def law_of_start(eigenvalues: torch.Tensor) -> torch.Tensor:
    """The variance of each mode of w(0)."""
    return scale**2 * 7**1.5 * (eigenvalues + 49) ** -2.5 * (eigenvalues > 0)


draws = starts(args.exact, reference[0], seed=3)
unit = torch.eye(reference[0] * reference[1], dtype=torch.float64).reshape(-1, 1, *reference)
sensing = domain.evaluate(unit, points)[:, 0].T.reshape(-1, 1, *reference)  # a row for each sensor
weights = domain.weights(reference, dtype=torch.float64)
across = domain.filter(sensing / weights, law_of_start)  # the covariance of every point with the values
seen = domain.evaluate(across, points)[:, 0] + noise_std**2 * torch.eye(sensors, dtype=torch.float64)
missed = values - domain.evaluate(draws, points)[None, :, 0]  # (truths, draws, sensors)
missed = missed + noise_std * torch.randn(missed.shape, generator=generator, dtype=torch.float64)
exact = (torch.linalg.solve(seen, missed.mT).mT @ across.flatten(1)).unflatten(2, (1, *reference)) + draws
exact = torch.stack([pairs_of(w0) for w0 in exact], dim=1)  # (draws, truths, 2, 48, 48)
prior = pairs_of(draws)[:, None].expand(-1, args.truths, -1, -1, -1)

start, ensembles = time.perf_counter(), []
for value in tqdm(values.float(), desc="posteriors", disable=args.quiet):
    observed = PointObservation(points.float().to(args.device), value.to(args.device), noise_std, channels=1)
    posterior = MomentMatching(pair, observed, iterations=args.iterations)
    sampler = DDIM(posterior, args.evaluations, eta=1.0)
    ensembles.append(sampler.draw((2, *reference), range(args.samples), device=args.device).flip(1))
ensemble = torch.stack(ensembles, dim=1)  # (samples, truths, 2, 48, 48)
stepped = advance(ensemble[:, :, :1].flatten(0, 1).to(args.device)).cpu().unflatten(0, ensemble.shape[:2])
laws = {"prior": prior, "exact posterior": exact, "pair": ensemble}
laws["pair, then step"] = torch.cat([ensemble[:, :, :1], stepped], dim=2)
print(
    f"\n1. {names[0]} and {names[1]} from {names[0]} at {sensors} points, {args.truths} truths, {args.samples} samples each: "
    f"{(time.perf_counter() - start) / args.truths:.0f} s per posterior\n"
    f"{'':<26}{'error of the mean':>18}{'from exact':>12}{'CRPS / prior':>14}{'spread':>9}{'covered':>9}{'of':>6}"
)
for (channel, quantity), law in product(enumerate(names), laws):
    if channel == 0 and law == "pair, then step":
        continue
    x, y = laws[law][:, :, channel : channel + 1], truth[:, channel : channel + 1]
    own, ideal = (laws[name][:, :, channel : channel + 1] for name in ("prior", "exact posterior"))
    nominal, covered = metrics.coverage(x, y, domain)
    score = metrics.crps(x, y, domain).mean() / metrics.crps(own, y, domain).mean()
    print(
        f"   {f'{quantity}, {law}':<23}{relative(x.mean(0), y):>18.1%}{relative(x.mean(0), ideal.mean(0)):>12.1%}{score:>14.2f}"
        f"{x.std(0).mean():>9.3f}{covered.mean():>9.0%}{nominal:>6.0%}"
    )
    chance = (ideal.var(0).mean() * (1 / len(ideal) + 1 / args.samples)).sqrt() / ideal.mean(0).square().mean().sqrt()
    if law == "exact posterior":
        print(f"   {'':<23}{'':>18}{chance:>12.1%} by chance, for {args.samples} samples of it")
figure, axes = plt.subplots(3, 4, figsize=(8.4, 6.4), layout="constrained")
spread = {"vmin": 0, "vmax": float(exact[:, 0, 1].std(0).quantile(0.995)), "cmap": "magma"}
best = laws["pair, then step"]
for line, x, title in zip(axes[:2], (best, exact), ("models", "exact posterior"), strict=True):
    show(line[1], x[:, 0, 1].mean(0), f"{title}: mean of w({T:g})")
    show(line[2], x[:, 0, 1].std(0), "standard deviation", **spread)
    show(line[3], x[0, 0, 1], "a sample")
show(axes[0, 0], truth[0, 0], "true w(0), and where it is seen")
axes[0, 0].scatter(*((points.flip(0) * reference[0] + 0.5) % reference[0] - 0.5), s=5, c="black", linewidths=0)
show(axes[1, 0], truth[0, 1], f"true w({T:g})")
for i in range(2):
    show(axes[2, 2 * i], best[i + 1, 0, 0], "pair: a sample of w(0)")
    show(axes[2, 2 * i + 1], best[i + 1, 0, 1], f"step: its w({T:g})")
save(figure, "navier_stokes_forecast.png")

# %%
# 2. One step after another, each from the last: errors add up, and the flow moves on to states that training has seen less of.
# What 48 points cannot hold of the truth is the least error that a model blind to it could have at 96.

rollouts, errors = {}, {}
for n, w in ((reference[0], low), (finest, high)):
    states = [w[:, :1].to(args.device)]
    for _ in range(rolled):
        states.append(advance(states[-1]))
    rollouts[n] = torch.cat(states, dim=1).cpu()
    errors[f"rollout at {n}"] = rollouts[n], w
held = domain.resample(domain.resample(high, reference), high.shape[2:])
errors |= {"w(0) for all times": (high[:, :1].expand_as(high), high), "what 48 points hold": (held, high)}
errors = {
    name: [relative(x[:, k : k + 1], y[:, k : k + 1]) for k in range(1, rolled + 1)] for name, (x, y) in errors.items()
}
print(f"\n2. rollout: relative L2 error{'':<6}" + "".join(f"{f't = {k * T:g}':>9}" for k in range(1, rolled + 1)))
for name, row in errors.items():
    print(f"   {name:<31}" + "".join(f"{error:>9.1%}" for error in row))
figure = plt.figure(figsize=(8.4, 7.0), layout="constrained")
above, below = figure.subfigures(2, 1, height_ratios=[4.4, 2.6])
axes, (left, right) = above.subplots(2, 4), below.subplots(1, 2)
for column, k in zip(axes.T, torch.linspace(0, rolled, 4).round().int().tolist(), strict=True):
    show(column[0], high[0, k], f"t = {k * T:g}")
    show(column[1], rollouts[finest][0, k])
for axis, name in zip(axes[:, 0], ("solver", f"model at {finest}"), strict=True):
    axis.set_ylabel(name, fontsize=9)
for (name, row), style in zip(errors.items(), ("C0.--", "C1.-", "0.6", "k:"), strict=True):
    left.plot([k * T for k in range(1, rolled + 1)], row, style, label=name)
left.set(xlabel="t", ylim=(0, 1.1), title="relative L2 error")
left.legend(fontsize=7)
spectra = {"solver": high[:, -1:], f"model at {finest}": rollouts[finest][:, -1:], "w(0)": high[:, :1]}
draw_spectra(right, spectra, f"variance per mode, t = {rolled * T:g}")
save(figure, "navier_stokes_rollout.png")

# %%
# 3. Noise is a function: a seed is the same one on every grid, and so should its sample be, with finer detail at 96. A pair is
# right if w(T) is what the solver makes of w(0), which it is told on 80 points for samples at 48, and on 144 at 96.

sampler = DPMSolver(pair, args.evaluations)
sampled = {
    n: sampler.draw((2, n, n), range(args.test), device=args.device, progress=not args.quiet).flip(1)
    for n in (reference[0], finest)
}
solved = {n: domain.resample(evolve(x[:, :1], 1, solve_on[n]), (n, n))[:, 1:] for n, x in sampled.items()}


def beyond(x: torch.Tensor) -> float:
    """The share of variance that the reference grid cannot hold."""
    return relative(domain.resample(domain.resample(x, reference), x.shape[2:]), x) ** 2


again = domain.resample(evolve(low[:, :1], 1, solve_on[reference[0]]), reference)[:, 1:]
print(f"\n3. pairs, of as many seeds{'':<12}{'|w(T) - solve(w(0))|':>24}{'|w(T) - w(0)|':>17}   / |w(T)|")
rows = {f"true, {reference[0]}": (low[:, :2], again), f"true, {finest}": (high[:, :2], high[:, 1:2])}
rows |= {f"sampled at {n}": (x, solved[n]) for n, x in sampled.items()}
for name, (x, y) in rows.items():
    print(f"   {name:<29}{relative(x[:, 1:], y):>24.1%}{relative(x[:, :1], x[:, 1:]):>17.1%}")
for channel, name in enumerate(names):
    fine, coarse = (x[:, channel : channel + 1] for x in (sampled[finest], sampled[reference[0]]))
    true = high[:, channel : channel + 1]
    print(
        f"   {name}: {finest} brought to {reference[0]} differs from {reference[0]} by "
        f"{relative(domain.resample(fine, reference), coarse):.3%}; variance beyond {reference[0]}: "
        f"{beyond(fine):.1e} of all, {beyond(true):.1e} of the truth's"
    )
figure = plt.figure(figsize=(9.6, 6.8), layout="constrained")
above, below = figure.subfigures(2, 1, height_ratios=[4.2, 2.6])
axes = above.subplots(2, 5)
for row, line in enumerate(axes):
    for i, (channel, n) in enumerate(product((0, 1), sampled)):
        show(line[i], sampled[n][row, channel], f"{names[channel]} at {n}" if row == 0 else "")
    show(line[4], solved[finest][row, 0], f"solver's, from w(0) at {finest}" if row == 0 else "")
for channel, axis in enumerate(below.subplots(1, 2)):
    fields = {"true": high, **{f"sampled at {n}": sampled[n] for n in (finest, reference[0])}}
    fields = {name: x[:, channel : channel + 1] for name, x in fields.items()}
    draw_spectra(axis, fields, f"variance per mode, {names[channel]}")
above.suptitle(f"Two seeds, each on two grids; trained on {', '.join(map(str, trained_on))}", fontsize=11)
save(figure, "navier_stokes_refinement.png")
