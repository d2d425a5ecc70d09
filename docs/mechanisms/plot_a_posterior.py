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

import matplotlib.pyplot as plt
import torch

from fnodiff import EDM, Box, FunctionSpaceSDE, GaussianRandomField, Heun, Matern, sample
from fnodiff.inverse import DPS, MomentMatching, PiGDM, PointObservation
from fnodiff.metrics import coverage, rank_histogram
from fnodiff.sde import GaussianDenoiser

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
# -m benchmarks.posterior` has the figures on one- and two-dimensional domains, at two resolutions each. What is right for
# Gaussian priors need not be right for others. There `MomentMatching` still matches the first two moments of :math:`x`
# given :math:`x_t`, and no more.
