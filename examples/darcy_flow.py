"""
Darcy flow: pairs, surrogate, posterior
=======================================

The pressure u in a medium of permeability a, -div(a grad u) = 1 on the unit square with u = 0 on its edge: the benchmark of
the neural-operator papers, solved by `fnodiff.equations.darcy`. Models that were trained on 16 to 64 cells per side are asked
for pairs (a, u) at 96, for u given a, and, with the solver, for a given u at 3% of the cells::

    python examples/darcy_flow.py             # samples the models of the repository: two minutes on one core
    python examples/darcy_flow.py --train     # trains others first, into ./darcy_flow
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from neuralop.models import FNO
from safetensors.torch import load_file

from fnodiff import DFU, Box, GaussianRandomField, Matern, Model, MultiResolution, fit, metrics, sample
from fnodiff.data import Augmented
from fnodiff.equations.darcy import Darcy, positive, solve
from fnodiff.inverse import Nonlinear, posterior
from fnodiff.sde import EDM, ChannelSpectra, DenoisingLoss, Direct, DPMSolver, EDMScaling, Normalization
from fnodiff.train import Adam, keep_freed_memory

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
add = parser.add_argument
add("--train", action="store_true", help="train the models first, or train those in --checkpoint further")
add("--minutes", type=float, default=8.0, help="of training, for each of the three")
add("--checkpoint", type=Path, help="the models' folder; by default the repository's, with --train OUT/darcy_flow")
add("--samples", type=int, default=12, help="of each posterior, 10 or more")
add("--out", type=Path, default=Path("."), help="folder of the figure")
add("--smoke", action="store_true", help="all of it in seconds, to see that it runs")
args = parser.parse_args()
shipped = Path(sys.argv[0]).parent / "models" / "darcy_flow"
folder = args.checkpoint or (args.out / "darcy_flow" if args.train else shipped)
minutes, samples, steps = (0.01, 10, 2) if args.smoke else (args.minutes, args.samples, 16)

# %%
# a is 12 where a Gaussian field is positive, 3 elsewhere. One model learns pairs, one u with a as its condition, one a alone.
# The second is trained at pure noise (levels near 30), which says nothing of u: it estimates by regression, in one evaluation.

keep_freed_memory()
domain, trained_on, test = Box(2), [16, 24, 32, 48], 4 if args.smoke else 32
law = {"constant_mode": False, "scale": 3.0, "fine": 96 if args.smoke else 192}
if args.train:
    torch.manual_seed(0)
    turns = [partial(torch.rot90, k=k, dims=(-2, -1)) for k in range(4)]
    symmetries = turns + [lambda x, turn=turn: turn(x).flip(-1) for turn in turns]  # the square's
    network = partial(DFU.tiny, n_modes=(24, 24), channel_mult=(1, 1), dropout=0.0)
    recipes = {"pair": ("pair", "operator", ChannelSpectra((Matern(0.5, 0.3), Matern(1.5, 0.3))), 0.2, 1.2)}
    recipes["surrogate"] = ("solution", "point", Matern(0.5, 0.3), 3.4, 0.1)  # last: mean and spread of ln(noise level)
    for name, (target, local, roughness, *levels) in recipes.items():
        solved = Augmented(Darcy(8 if args.smoke else 768, target=target, **law), symmetries)
        data = MultiResolution(solved, domain, trained_on, batch_size=8)
        process = {"noise": GaussianRandomField(domain, roughness), "schedule": EDM(0.005, 30.0)}
        model = Model.for_data(data, partial(network, local=local), scaling=EDMScaling(sigma_data=1.0), **process)
        options = {"loss": DenoisingLoss(model, *levels), "optimizer": Adam(lr=3e-3, decay=True), "resume": "auto"}
        fit(model, data, minutes=minutes, folder=folder / name, **options)
    alone = Augmented(Darcy(8 if args.smoke else 768, target="coefficient", **law), symmetries)
    data = MultiResolution(alone, domain, trained_on, batch_size=8)
    model, options = Model.for_data(data, DFU.small), {"optimizer": Adam(lr=2e-3, decay=True), "resume": "auto"}
    fit(model, data, minutes=minutes, folder=folder / "prior", **options)
pair, surrogate, prior = (Model.from_pretrained(folder / name) for name in ("pair", "surrogate", "prior"))
low, high = (batch["x"] for batch in Darcy(test, seed=1, **law).batches(range(test), [(48, 48), (96, 96)]))
error = partial(metrics.relative_l2, domain=domain)  # |x - y| / |y|, of each sample

# %%
# 1. Pairs at 96, twice what was trained on: is u what the solver says for their a? (Of true pairs it is, to 0.4%.)

sampled = sample(pair, (96, 96), seeds=range(test // 4), solver=DPMSolver(steps), plan=Direct())
solved = solve(sampled[:, :1].clamp(3, 12))
print(f"1. pairs at 96x96: |u - solve(a)| / |u| = {error(sampled[:, 1:], solved).median():.1%}")

# %%
# 2. u given a, in one evaluation, asked at the noise's mean. Beside it is a Fourier neural operator, trained for as long.

tensors = load_file(shipped / "fno.safetensors")
fno = FNO(n_modes=(24, 24), hidden_channels=32, n_layers=4, in_channels=1, out_channels=1).eval()
fno.load_state_dict({name[4:]: value for name, value in tensors.items() if name.startswith("fno.")})
a_units, u_units = (Normalization(tensors[f"{name}_units.mean"], tensors[f"{name}_units.std"]) for name in "au")
for x in (low, high):
    a, u = x.split(1, dim=1)
    with torch.no_grad():
        by_dfu = surrogate.normalization.inverse(surrogate(torch.zeros_like(a), torch.ones(()), field=a))
        by_fno = u_units.inverse(fno(a_units(a)))
    print(f"2. u given a at {a.shape[2]}: DFU {error(by_dfu, u).mean():.2%}, FNO {error(by_fno, u).mean():.2%}")

# %%
# 3. a from u at 3% of the cells, with errors of 1% of u's spread: samples of the prior of a that the solver takes to these
# values. No pairs are needed for that. `positive` lets it take what samples of a may be on the way.

generator, noise_std, truth = torch.Generator().manual_seed(0), 0.01 * float(low[:, 1].std()), low[: min(3, test // 4)]
points = torch.rand(2, 69, generator=generator)
values = domain.evaluate(truth[:, 1:], points) + noise_std * torch.randn(len(truth), 1, 69, generator=generator)
sensors = lambda a: domain.evaluate(solve(positive(a, 3.0)), points)  # noqa: E731
seen = Nonlinear(sensors, values.repeat(samples, 1, 1), noise_std)
seeds = [seed for seed in range(samples) for _ in truth]
a = posterior(prior, seen, (48, 48), seeds, solver=DPMSolver(steps, eta=1.0)).unflatten(0, (samples, len(truth)))
(nominal, covered), wrong = metrics.coverage(a, truth[:, :1], domain), (a.mean(0) > 7.5) != (truth[:, :1] > 7.5)
print(
    f"3. a from u: {wrong.float().mean():.1%} wrong cells of the mean, {covered.mean():.0%} within the central {nominal:.0%}"
)

# %%
# Above: a sampled pair. Below: what is seen of a true one, and what follows for a. u is on one scale.

pictures = {"sampled a, 96x96": sampled[0, 0], "sampled u": sampled[0, 1], "solver's u": solved[0, 0]}
pictures |= {"10 |difference|": 10 * (sampled[0, 1] - solved[0, 0]).abs(), "u, and where it is seen": truth[0, 1]}
pictures |= {"true a": truth[0, 0], "posterior mean": a[:, 0, 0].mean(0), "a sample": a[0, 0, 0]}
figure, axes = plt.subplots(2, 4, figsize=(8.4, 4.6), layout="constrained", subplot_kw={"xticks": [], "yticks": []})
for axis, (title, picture) in zip(axes.flat, pictures.items(), strict=True):
    look = {"vmin": 3, "vmax": 12, "cmap": "cividis"} if picture.max() > 1 else {"vmin": 0, "vmax": 0.014}  # a, or u
    axis.imshow(picture, interpolation="nearest", **look)
    axis.set_title(title, fontsize=9)
axes[1, 0].scatter(*(points.flip(0) * 48 - 0.5), s=3, c="white")
args.out.mkdir(parents=True, exist_ok=True)
figure.savefig(args.out / "darcy_flow.png", dpi=130)
print(f"figure: {args.out / 'darcy_flow.png'}")
