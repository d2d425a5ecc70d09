"""
Navier-Stokes: rollout and forecast
===================================

The vorticity w of a periodic two-dimensional flow, dw/dt + (u, v) . grad w = nu Delta w + f, with the initial law and the
forcing of the neural-operator papers, solved by `fnodiff.equations.navier_stokes`. Models that were trained on 16 to 48 points
per side are asked for six time steps, at 48 and at 96, and for w(0) and w(1) given w(0) at 3% of the points. There the truth
is known: w(0) is Gaussian, so its posterior has a closed form, and the solver carries samples of it to time 1::

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
from fnodiff.equations.navier_stokes import benchmark_forcing, initial_vorticity, solve
from fnodiff.inverse import MomentMatching, PointObservation
from fnodiff.sde import DDIM, EDM, DenoisingLoss, EDMScaling, GaussianDenoiser, Normalization
from fnodiff.train import Adam, keep_freed_memory

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
add = parser.add_argument
add("--train", action="store_true", help="train the models first, or train those in --checkpoint further")
add("--minutes", type=float, default=11.0, help="of training, for each of the two")
add("--checkpoint", type=Path, help="the models' folder; by default the repository's, with --train OUT/navier_stokes")
add("--samples", type=int, default=10, help="of each posterior, 10 or more")
add("--out", type=Path, default=Path("."), help="folder of the figure")
add("--smoke", action="store_true", help="all of it in seconds, to see that it runs")
args = parser.parse_args()
shipped = Path(sys.argv[0]).parent / "models" / "navier_stokes"
folder = args.checkpoint or (args.out / "navier_stokes" if args.train else shipped)
minutes, samples, many, truths, steps = (0.01, 10, 10, 1, 2) if args.smoke else (args.minutes, args.samples, 39, 2, 16)

# %%
# The flow is ten times less viscous and six times as strong as the benchmark's: in a time unit half of the field becomes
# another, and yet 48 points hold nearly all of it. The forcing depends on x + y alone: a flow shifted along (1, -1) is a flow.

keep_freed_memory()
domain, error = Torus(2), partial(metrics.relative_l2, domain=Torus(2))  # |x - y| / |y|, of each sample


def starts(count: int, seed: int) -> torch.Tensor:
    """w(0) of some flows, the same functions whatever the grid that they are then brought to."""
    generators = [torch.Generator().manual_seed(1_000_003 * seed + i) for i in range(count)]
    return initial_vorticity((count, 1, 144, 144), generator=generators, scale=25.0)


def evolve(w0: torch.Tensor, last: int, fine: int) -> torch.Tensor:
    """w at 0, 1, .., last, solved on fine x fine points: (B, last + 1, fine, fine)."""
    options = {"save": range(1, last + 1), "forcing": benchmark_forcing, "dt": 1.6 / fine}
    w0 = domain.resample(w0.double(), (fine, fine))
    return torch.cat([w0, torch.cat([solve(part, last, 1e-4, **options) for part in w0.split(32)])], dim=1).float()


if args.train:
    torch.manual_seed(0)
    w = domain.resample(evolve(starts(4 if args.smoke else 512, seed=1), 4, 80), (48, 48))
    now, later = (x.reshape(-1, 1, 48, 48) for x in (w[:, :-1], w[:, 1:]))
    sources = {"step": ArrayFields(later, field=now, domain=domain), "pair": ArrayFields(w[:, [1, 0]], domain=domain)}
    shifts = [lambda x, k=k: x.roll((k * x.shape[-1] // 8, -k * x.shape[-1] // 8), (-2, -1)) for k in range(8)]
    process = {"noise": GaussianRandomField(domain, Matern(1.5, 3**0.5 / 7)), "schedule": EDM(0.01, 10.0)}  # as w(0) is
    network = partial(DFU.tiny, n_modes=(28, 28), channel_mult=(1, 1, 1), spectral_levels=3, dropout=0.0)
    network = partial(network, local="operator", positional_modes=1)
    for name, levels in {"step": (2.2, 0.1), "pair": (-0.5, 1.0)}.items():  # mean and spread of ln(noise level)
        data = MultiResolution(Augmented(sources[name], shifts), domain, [16, 24, 32, 48], batch_size=8)
        model = Model.for_data(data, network, scaling=EDMScaling(sigma_data=1.0), **process)
        options = {"loss": DenoisingLoss(model, *levels), "optimizer": Adam(lr=3e-3, decay=True), "resume": "auto"}
        fit(model, data, minutes=minutes, folder=folder / name, **options)
pair, step = (Model.from_pretrained(folder / name) for name in ("pair", "step"))
true = evolve(starts(2 if args.smoke else 6, seed=2), 2 if args.smoke else 6, 96 if args.smoke else 144)
low, high = (domain.resample(true, (n, n)) for n in (48, 96))

# %%
# 1. One step after another, each from the last. A step is the estimate at pure noise, which says nothing: a regression.


@torch.no_grad()
def advance(w: torch.Tensor) -> torch.Tensor:
    """w(t + 1) from w(t), on any grid."""
    noise = step.sde.prior(w.shape, generator=torch.Generator().manual_seed(0))
    return step.normalization.inverse(step(noise, torch.ones(()), field=w))


for w in (low, high):
    rollout = w[:, :1]
    while rollout.shape[1] < w.shape[1]:
        rollout = torch.cat([rollout, advance(rollout[:, -1:])], dim=1)
    errors = [float(error(x, y).mean()) for x, y in zip(rollout.split(1, 1), w.split(1, 1), strict=True)]
    print(f"1. rollout at {w.shape[2]}, errors at t = 1, 2, ..: {', '.join(f'{e:.1%}' for e in errors[1:])}")

# %%
# 2. `MomentMatching` makes of the model of pairs (w(1), w(0)) one of the posterior, for which it was not trained; w(1) is then
# a step from w(0). In place of the model, the exact denoiser of w(0)'s law gives the true posterior.

generator, noise_std, truth = torch.Generator().manual_seed(0), 0.02 * float(low[:, 0].std()), low[:truths, :2]
points = torch.rand(2, 69, generator=generator, dtype=torch.float64).float()
values = domain.evaluate(truth[:, :1], points)
values = values + noise_std * torch.randn(values.shape, generator=generator, dtype=torch.float64).float()
law = GaussianRandomField(domain, lambda eigenvalues, dim: (eigenvalues > 0) * (eigenvalues + 49) ** -2.5)
oracle = GaussianDenoiser(law, pair.sde, normalization=Normalization(0.0, 25 * 7**0.75 * law.trace**0.5))
found = {}
for name, (model, count, options) in {"models": (pair, samples, {"channels": 1}), "exact": (oracle, many, {})}.items():
    seen = PointObservation(points, values.repeat(count, 1, 1), noise_std, **options)
    posterior = MomentMatching(model, seen, iterations=1 if args.smoke else 6 if model is pair else 69)
    x = sample(posterior, (48, 48), [s for s in range(count) for _ in truth], solver=DDIM(steps, eta=1.0))[:, -1:]
    then = advance(x) if model is pair else domain.resample(evolve(x, 1, 80)[:, 1:], (48, 48))
    found[name] = torch.cat([x, then], dim=1).unflatten(0, (count, truths))
for i in range(2):
    ours, exact, y = found["models"][:, :, [i]], found["exact"][:, :, [i]], truth[:, [i]]
    print(error(ours.mean(0), y).mean(), error(exact.mean(0), y).mean(), error(ours.mean(0), exact.mean(0)).mean())
