"""
Navier-Stokes: rollout and forecast
===================================

The vorticity w of a periodic flow, dw/dt + (u, v) . grad w = nu Delta w + f. Models that were trained on 16 to 48 points per
side are asked for six time steps, at 48 and at 96, and for w(0) and w(1) given w(0) at 3% of the points::

    python examples/navier_stokes.py             # asks the models of the repository: two minutes on one core
    python examples/navier_stokes.py --train     # trains others first, into ./navier_stokes
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from fnodiff import DFU, GaussianRandomField, Matern, Model, MultiResolution, Torus, fit, metrics, sample
from fnodiff.data import ArrayFields, Augmented
from fnodiff.equations import navier_stokes
from fnodiff.inverse import MomentMatching, PointObservation
from fnodiff.sde import DDIM, EDM, DenoisingLoss, DPMSolver, EDMScaling, GaussianDenoiser, Normalization
from fnodiff.train import Adam, Execution, keep_freed_memory

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
add = parser.add_argument
add("--train", action="store_true", help="train the models first, or train those in --checkpoint further")
add("--minutes", type=float, default=11.0, help="of training, for each of the two")
add("--count", type=int, default=512, help="flows to train on")
add("--batch", type=int, default=8, help="samples of a training step: 8 for a core, 64 for a GPU")
add("--checkpoint", type=Path, help="the models' folder; by default the repository's, with --train OUT/navier_stokes")
add("--samples", type=int, default=10, help="of each posterior, 10 or more")
add("--out", type=Path, default=Path("."), help="folder of the figure")
add("--smoke", action="store_true", help="all of it in seconds, to see that it runs")
args = parser.parse_args()
shipped = Path(sys.argv[0]).parent / "models" / "navier_stokes"
folder = args.checkpoint or (args.out / "navier_stokes" if args.train else shipped)
many, truths, steps, last, fine, minutes = (10, 1, 2, 3, 96, 0.01) if args.smoke else (39, 2, 16, 6, 144, args.minutes)

# %%
# The initial law and the forcing are those of the neural-operator papers, at a tenth of their viscosity, six times as strong.
# In a time unit half of w becomes another. The forcing depends on x + y alone: a flow shifted along (1, -1) is a flow.

keep_freed_memory()
domain, start = Torus(2), partial(navier_stokes.initial_vorticity, scale=25.0)
solve = partial(navier_stokes.solve, viscosity=1e-4, forcing=navier_stokes.benchmark_forcing)
if args.train:
    torch.manual_seed(0)
    w = start((4 if args.smoke else args.count, 1, 80, 80)).to("cuda" if torch.cuda.is_available() else "cpu")
    w = domain.resample(solve(w, 4, save=range(5), dt=0.02), (48, 48)).float().cpu()
    now, later = (x.reshape(-1, 1, 48, 48) for x in (w[:, :-1], w[:, 1:]))
    fields = {"step": ArrayFields(later, field=now, domain=domain), "pair": ArrayFields(w[:, [1, 0]], domain=domain)}
    make = partial(DFU.tiny, local="operator", n_modes=(28, 28), channel_mult=(1, 1, 1), spectral_levels=3)
    make = partial(make, positional_modes=1, dropout=0.0)
    shifts = [lambda x, k=k: x.roll((k * x.shape[-1] // 8, -k * x.shape[-1] // 8), (-2, -1)) for k in range(8)]
    noise = GaussianRandomField(domain, Matern(1.5, 3**0.5 / 7))  # as w(0) is
    for name, levels in {"step": (2.2, 0.1), "pair": (-0.5, 1.0)}.items():  # mean and spread of ln(noise level)
        data = MultiResolution(Augmented(fields[name], shifts), domain, [16, 24, 32, 48], batch_size=args.batch)
        model = Model.for_data(data, make, noise=noise, schedule=EDM(0.01, 10.0), scaling=EDMScaling(sigma_data=1.0))
        options = {"loss": DenoisingLoss(model, *levels), "optimizer": Adam(lr=3e-3, decay=True), "resume": "auto"}
        execution = Execution(workers=4 if args.batch > 16 else 0)
        fit(model, data, minutes=minutes, folder=folder / name, execution=execution, **options)
pair, step = (Model.from_pretrained(folder / name) for name in ("pair", "step"))
generators = [torch.Generator().manual_seed(2_000_006 + i) for i in range(last)]
true = solve(start((last, 1, fine, fine), generator=generators), last, save=range(last + 1), dt=1.6 / fine)
low, high = (domain.resample(true, (n, n)).float() for n in (48, 96))

# %%
# 1. One step after another. A step is the estimate at pure noise, which says nothing: a regression, asked at the noise's mean.


@torch.no_grad()
def advance(w: torch.Tensor) -> torch.Tensor:  # w(t + 1) from w(t), on any grid
    return step.normalization.inverse(step(torch.zeros_like(w), torch.ones(()), field=w))


for w in (low, high):
    rollout = [w[:, :1]]
    while len(rollout) <= last:
        rollout.append(advance(rollout[-1]))
    errors = [float(metrics.relative_l2(x, y, domain).mean()) for x, y in zip(rollout, w.split(1, 1), strict=True)]
    print(f"1. rollout at {w.shape[2]}, errors at t = 1, 2, ..: {', '.join(f'{e:.1%}' for e in errors[1:])}")

# %%
# 2. `MomentMatching` makes of the model of pairs (w(1), w(0)) one of the posterior, for which it was not trained; w(1) is then
# a step from w(0). The true posterior comes from the exact denoiser of w(0), which is Gaussian, and from the solver.

generator, noise_std, truth = torch.Generator().manual_seed(0), 0.02 * float(low[:, 0].std()), low[:truths, :2]
points = torch.rand(2, 69, generator=generator, dtype=torch.float64).float()
noise = noise_std * torch.randn(truths, 1, 69, generator=generator, dtype=torch.float64).float()
law = GaussianRandomField(domain, lambda eigenvalues, dim: (eigenvalues > 0) * (eigenvalues + 49) ** -2.5)
oracle = GaussianDenoiser(law, step.sde, normalization=Normalization(0.0, 25 * 7**0.75 * law.trace**0.5))
values, found = domain.evaluate(truth[:, :1], points) + noise, []
for model, count, solver in ((pair, args.samples, DDIM(steps, eta=1.0)), (oracle, many, DPMSolver(steps))):
    seen = PointObservation(points, values.repeat(count, 1, 1), noise_std, channels=-1)  # w(0)
    posterior = MomentMatching(model, seen, iterations=1 if args.smoke else 69 if model is oracle else 6)
    now = sample(posterior, (48, 48), [seed for seed in range(count) for _ in truth], solver=solver)[:, -1:]
    then = advance(now) if model is pair else solve(domain.resample(now.double(), (80, 80)), 1, dt=0.02).float()
    found.append(torch.cat([now, domain.resample(then, (48, 48))], dim=1).unflatten(0, (count, truths)))
for i in range(2):
    ours, exact = (x[:, :, [i]] for x in found)
    off = metrics.relative_l2(ours.mean(0), exact.mean(0), domain).mean()
    chance = (exact.var(0).mean() * (1 / many + 1 / args.samples) / exact.mean(0).square().mean()).sqrt()
    nominal, covered = metrics.coverage(ours, truth[:, [i]], domain)
    by_chance = f"{off:.1%} from the exact mean (by chance {chance:.1%})"
    print(f"2. w({i}): {by_chance}, {covered.mean():.0%} in the central {nominal:.0%}")

# %%
# Above: a flow, and the rollout at 96 from its start. Below: a forecast.

rows = {"solver": high[0], "model": torch.cat(rollout, dim=1)[0]}
pictures = {f"{name}, t = {t}": w[t] for name, w in rows.items() for t in range(0, last + 1, last // 3)}
pictures |= {"w(0), and where it is seen": truth[0, 0], "w(1)": truth[0, 1]}
pictures |= {f"{name} mean of w(1)": x[:, 0, 1].mean(0) for name, x in zip(("our", "exact"), found, strict=True)}
figure, axes = plt.subplots(3, 4, figsize=(8.4, 6.8), layout="constrained", subplot_kw={"xticks": [], "yticks": []})
for axis, (title, picture) in zip(axes.flat, pictures.items(), strict=True):
    axis.imshow(picture, cmap="RdBu", vmin=-4, vmax=4, interpolation="nearest")
    axis.set_title(title, fontsize=9)
axes[2, 0].scatter(*((points.flip(0) * 48 + 0.5) % 48 - 0.5), s=4, c="black", linewidths=0)
args.out.mkdir(parents=True, exist_ok=True)
figure.savefig(args.out / "navier_stokes.png", dpi=130)
print(f"figure: {args.out / 'navier_stokes.png'}")
