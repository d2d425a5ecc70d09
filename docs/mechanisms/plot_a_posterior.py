r"""
Posteriors: a prior, and what was measured
==========================================

Values :math:`y = A(x) + \text{noise}` were measured: a function at a few points, its averages over coarse cells, part of a
picture. A model that samples the prior can sample the posterior too, without training again. It needs the posterior's denoiser,

.. math:: \mathbb{E}[x \mid x_t, y] = \hat x + \frac{\sigma_t^2}{\alpha_t}\, C \nabla \ln p(y \mid x_t).

:math:`p(y \mid x_t)` is an average over all :math:`x` that may have become :math:`x_t`. Each method approximates it. `DPS`
puts :math:`\hat x` in their place. `PiGDM` gives them independent errors at the points of the grid. `MomentMatching` gives
them their covariance, :math:`(\sigma_t^2 / \alpha_t)\, C J^\top` with the denoiser's Jacobian :math:`J`, and is exact for
Gaussian priors. A guided denoiser is a denoiser: every solver takes it, on any grid. The likelihood is a sum over sensors
with a stated error, which no grid changes.

Here the prior is a Gaussian field on an interval, so that the posterior is known in closed form.
"""

import math

import matplotlib.pyplot as plt
import torch

from fnodiff import DDIM, EDM, Box, FunctionSpaceSDE, GaussianRandomField, Heun, Matern, sample
from fnodiff.inverse import DPS, MomentMatching, PiGDM, PointObservation, twisted
from fnodiff.metrics import coverage, rank_histogram
from fnodiff.sde import Denoiser, EvenLogSNR, GaussianDenoiser

double = {"dtype": torch.float64}
domain, n, sensors, noise_std, truths, members = Box(1), 48, 8, 0.1, 64, 39
data = GaussianRandomField(domain, Matern(smoothness=1.0, length_scale=0.2))
sde = FunctionSpaceSDE(GaussianRandomField(domain, Matern(smoothness=0.5, length_scale=0.2)), EDM(0.01, 80.0))
prior = GaussianDenoiser(data, sde)

generator = torch.Generator().manual_seed(4)
points = torch.rand(1, sensors, generator=generator, **double)
truth = data.sample((truths, 1, n), generator=generator, **double)
values = domain.evaluate(truth, points)
values = values + noise_std * torch.randn(values.shape, generator=generator, **double)

# %%
# The posterior by linear algebra: covariances between grid points and sensors.

unit = torch.eye(n, **double)[:, None]
covariance = domain.filter(n * unit, lambda k: data.std(k).square())[:, 0]
sensing = domain.evaluate(unit, points)[:, 0].T
seen = sensing @ covariance @ sensing.T + noise_std**2 * torch.eye(sensors, **double)
gain = torch.linalg.solve(seen, sensing @ covariance).T
mean = values[:, 0] @ gain.T
std = (covariance - gain @ sensing @ covariance).diagonal().sqrt()

# %%
# An ensemble of 39 for each of 64 truths, by each method. Every truth has its own values: one observation for each sample,
# which `sample` cuts for its batches. Means and spreads are in posterior standard deviations.

methods = {
    "DPS": DPS,
    "PiGDM": lambda denoiser, observation: PiGDM(denoiser, observation, sigma_data=1.0),
    "MomentMatching": MomentMatching,
}
ensembles = {}
for name, method in methods.items():
    guided = method(prior, PointObservation(points, values.repeat(members, 1, 1), noise_std))
    x = sample(guided, n, seeds=range(members * truths), solver=Heun(20), batch=13 * truths)
    ensembles[name] = x.double().unflatten(0, (members, truths))
    error = (ensembles[name].mean(0)[:, 0] - mean) / std
    _, covered = coverage(ensembles[name], truth, domain)
    spread = (ensembles[name].var(0) / std.square()).mean().sqrt()
    print(
        f"{name:<16}mean off by {error.square().mean().sqrt():.2f} (chance: 0.16), spread {spread:.2f}, "
        f"covered {covered.mean():.0%} of 90%"
    )

# %%
# Above: one of the truths, the posterior in grey, two standard deviations wide, and the ensembles. Below: where the truth ranks
# among the samples, over all truths and points. The ranks are flat if the truth is as likely as they are.

grid = domain.points((n,))[0].numpy()
figure, axes = plt.subplots(2, 3, figsize=(9, 4.6), sharex="row", sharey="row", height_ratios=[1.4, 1])
for (name, x), above, below in zip(ensembles.items(), *axes, strict=True):
    above.fill_between(grid, mean[0] - 2 * std, mean[0] + 2 * std, color="0.85", label="posterior")
    above.plot(grid, truth[0, 0], color="black", lw=1, label="truth")
    middle, half = x[:, 0, 0].mean(0), 2 * x[:, 0, 0].std(0)
    above.plot(grid, middle, color="C0", label="ensemble")
    for sign in (-1, 1):
        above.plot(grid, middle + sign * half, color="C0", lw=0.8, ls="--")
    above.plot(points[0], values[0, 0], "o", ms=4, color="C1", label="measured")
    above.set(title=name, xlabel="x")
    shares = rank_histogram(x, truth, domain)
    below.bar(range(members + 1), shares / shares.mean(), width=1, color="C0")
    below.axhline(1, color="black", lw=0.8)
    below.set_xlabel("rank of the truth")
figure.legend(*axes[0, 0].get_legend_handles_labels(), ncols=4, loc="outside lower center")
axes[1, 0].set_ylabel("frequency")
plt.show()

# %%
# `DPS` and `PiGDM` land near the measurements. Between them, neither their middle nor their spread is the posterior's.
# Their intervals still hold the truth about as often as they should, because the two errors make up for each other. `python
# -m benchmarks.posterior` has the figures on one- and two-dimensional domains, at two resolutions each.
#
# Fields of two kinds
# -------------------
# What is right for Gaussian priors need not be right for others. There `MomentMatching` still matches the first two moments of
# :math:`x` given :math:`x_t`, and no more. Take fields of two kinds, with means :math:`\pm m` and one covariance. Two sensors
# leave open which kind it is. The posterior is a mixture too. Its weights are the evidence of each kind.

bump = 1.5 * math.sqrt(2) * (math.pi * domain.points((n,))[0]).cos()[None]  # 1.5 times mode 1


class TwoKinds(Denoiser):
    """Exact for fields of mean bump and of mean -bump, equally likely."""

    def __init__(self):
        super().__init__(sde, channels=1, spectrum=lambda e, dim: data.std(e).square() + 1.5**2 * (e == e_1))

    def forward(self, x_t, t):
        alpha, sigma = sde.marginal(x_t, t)
        means = torch.stack([bump, -bump]).to(x_t)[:, None]  # (kind, 1, channel, point)

        def whiten(e):
            return ((alpha * data.std(e)).square() + (sigma * sde.noise.std(e)).square()).rsqrt()

        each = means + torch.stack([prior(x_t - alpha * mean, t) for mean in means])
        apart = torch.stack([domain.norm(domain.filter(x_t - alpha * mean, whiten)) for mean in means])
        return ((-0.5 * apart.square()).softmax(0)[..., None, None] * each).sum(0)


e_1 = domain.eigenvalues((n,)).flatten()[1]
few, found, error = torch.tensor([[0.2, 0.7]]), torch.tensor([[0.5, 0.1]]), 0.5
unit = unit.float()
sensing, covariance = domain.evaluate(unit, few)[:, 0].T, covariance.float()
seen = sensing @ covariance @ sensing.T + error**2 * torch.eye(2)
gain = torch.linalg.solve(seen, sensing @ covariance).T
apart = torch.stack([found[0] - sensing @ mean[0] for mean in (bump, -bump)])
weights = (-0.5 * (apart @ torch.linalg.inv(seen) * apart).sum(1)).softmax(0)

# %%
# `twisted` follows several particles at once. `MomentMatching` of a stationary Gaussian proposes their steps. Their weights
# make up for what the proposal gets wrong, and particles of little weight give way to others. In the limit of many particles
# the result is exact: the posterior of the learned model, as its sampler in so many steps has it. The effective sample size
# says how many particles the weights leave, and so whether they were enough. Printed is the probability of the first kind:

observation = PointObservation(few, found, error)
several = {
    name: sample(method(TwoKinds(), observation), n, range(400), solver=DDIM(50, EvenLogSNR(), eta=1.0), batch=400)
    for name, method in methods.items()
}
x, sizes = twisted(
    TwoKinds(), observation, n, range(20), steps=50, spacing=EvenLogSNR(), all_particles=True, return_ess=True
)
several["twisted"] = x.flatten(0, 1)
print(f"{'exact':<16}{float(weights[0]):.2f}")
for name, x in several.items():
    apart = [domain.filter(x - mean, lambda e: 1 / data.std(e)) for mean in (bump, -bump)]
    kind = torch.stack([-0.5 * domain.norm(a).square() for a in apart]).softmax(0)[0]
    print(f"{name:<16}{float(kind.mean()):.2f}")
lowest, last = float(sizes.min(1).values.mean()), float(sizes[:, -1].mean())
print(f"effective sample size, of 64: {lowest:.0f} at its lowest, {last:.0f} at the end")

# %%
# The samples by their first mode, beside the exact density. `MomentMatching` blends the kinds while noise hides which it is;
# `twisted` keeps both, in their shares. It took 1280 particles for 20 independent runs, where the others took 400 samples.

mode = domain.analyze(unit)[:, 0, 1]
grid = torch.linspace(-2, 2.5, 200)
spread = (mode @ (covariance - gain @ sensing @ covariance) @ mode).sqrt()
density = sum(
    weight
    * torch.distributions.Normal(mode @ (mean[0] + gain @ (found[0] - sensing @ mean[0])), spread).log_prob(grid).exp()
    for weight, mean in zip(weights, (bump, -bump), strict=True)
)
figure, axes = plt.subplots(1, 4, figsize=(9, 2.6), sharey=True)
for axis, (name, x) in zip(axes, several.items(), strict=True):
    axis.hist(domain.analyze(x)[:, 0, 1], bins=36, range=(-2, 2.5), density=True, color="C0", alpha=0.6)
    axis.plot(grid, density, color="black", lw=1)
    axis.set(title=name, xlabel="mode 1")
axes[0].set_ylabel("density")
plt.show()

# %%
# For fields of one kind, or where sensors leave no doubt, `MomentMatching` is as good and takes a fraction of the time.
# `python -m benchmarks.exactness` measures both on other mixtures.
