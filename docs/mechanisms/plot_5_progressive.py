r"""
Plans of grids: progressive and cascade
=======================================

While a band of modes is nearly all noise, a coarser grid without them is enough. The plan `Progressive` starts there and
moves to finer grids as modes emerge. At noise level :math:`s = \sigma_t / \alpha_t`, mode :math:`k` of :math:`y = x_t /
\alpha_t` has variance :math:`S_k + s^2 C_k`, and

.. math:: \mathrm{SNR}_k(t) = \frac{S_k}{s^2 C_k}.

**The change of grid.** The state is brought to the finer grid by its modes. Each mode :math:`k` of the band :math:`B` that
the coarse grid lacked is added as :math:`y_k = \sqrt{S_k + s^2 C_k}\; w_k`, where :math:`w_k = z_k / \sqrt{C_k}` comes from
the noise :math:`z` that the run started with. So one seed remains one function. For stationary Gaussian data modes are
independent, and this is exact in law at any time.

**The bound.** For other data the added modes should depend on the others, and do not. Let :math:`p` be the law of the state on
the finer grid, and :math:`q` that of the state after the change, from an exact one before it. They differ in :math:`y_B` given
the rest. Under :math:`q` it is Gaussian, of the right variances. Under :math:`p` its entropy is no less than that of its noise
:math:`s z_B`. So

.. math:: \mathrm{KL}(p \,\|\, q) \le \sum_{k \in B} \tfrac12 \ln \frac{S_k + s^2 C_k}{s^2 C_k}
   = \tfrac12 \sum_{k \in B} \ln(1 + \mathrm{SNR}_k) \le \tfrac12 \sum_{k \in B} \mathrm{SNR}_k.

A grid takes over at the last time at which the sum of SNR over its band is below `budget`, 1 by default. The bound is for a
denoiser that is exact on each grid, on fields cut to the grid's modes. Pictures of fewer pixels are averages over larger cells,
which lowers their highest modes and folds others onto them.

**Cascade** samples the coarse grid to its end, and then the finer grid given the result. From the change on, the estimates
of the coarse grid's modes are replaced by the finished ones (`ReplaceModes`), or of pictures the averages over its cells
(`ReplaceCells`, :doc:`upscaling </mechanisms_gallery/plot_7_upscale>`). Along the flow they then follow :math:`c_k +
s z_k`, and the network is asked for the rest alone. A model of images does well on its training grids, and need not
repeat that on a grid that it has not seen. A cascade costs the evaluations of both grids (:doc:`the study </study>`).

**PixelNoise** has :math:`C_k = n^{-d}` on a grid of :math:`n` points per side. So noise level :math:`s` on the finest grid
of :math:`n` is level :math:`s\, (m / n)^{d / 2}` on a grid of :math:`m`. A plan translates the times, and every mode keeps
its noise.
"""

import itertools
import math

import matplotlib.pyplot as plt
import torch

from fnodiff import EDM, Box, FunctionSpaceSDE, GaussianRandomField, Heun, Matern, PixelNoise, WhiteNoise
from fnodiff.sde import Direct, GaussianDenoiser, Progressive, noise_levels, run

domain, grids = Box(2), [(16, 16), (32, 32), (64, 64)]
finest, solver = grids[-1], Heun(40)
data = GaussianRandomField(domain, Matern(smoothness=0.7))
eigenvalues = domain.eigenvalues(finest, dtype=torch.float64)
s = data.std(eigenvalues).square()


def added(noise, coarse, fine):
    """The sum of S / C over the modes of a grid that a coarser one lacks; over s^2 it is the sum of SNR."""
    ratio = s / noise.on(finest).std(eigenvalues).square()
    return float(ratio[: fine[0], : fine[1]].sum() - ratio[: coarse[0], : coarse[1]].sum())


# %%
# A plan is data: a list of stages, made from a denoiser, a grid and a solver's times. Here are the stages of 40 levels of
# `Heun`, for two noises that are the same on the finest grid:

for noise in (PixelNoise(domain), WhiteNoise(domain, reference=finest)):
    sde = FunctionSpaceSDE(noise, EDM(*noise_levels(noise, lambda e, dim: data.std(e).square(), finest)))
    denoiser, times = GaussianDenoiser(data, sde), solver.times(sde.schedule)
    for budget in (1.0, 1000.0):
        stages = Progressive(grids[:-1], budget).plan(denoiser, finest, times)
        share = sum(stage.steps * math.prod(stage.shape) for stage in stages) / (39 * math.prod(finest))
        print(
            f"{type(noise).__name__}, budget {budget:g}: {100 * (1 - share):.0f}% of the grid-point evaluations saved"
        )
        print("     grid  steps   from t    sigma  on its grid  added sum of SNR")
        for i, stage in enumerate(stages):
            first = times[sum(before.steps for before in stages[:i])]  # on the finest grid
            level, own = (float(sde.schedule.ratio(t)) for t in (first, stage.times[0]))
            snr = added(noise, stages[i - 1].shape, stage.shape) / level**2 if i else 0.0
            print(f"    {stage.shape[0]}x{stage.shape[1]} {stage.steps:>6} {float(first):>8.3f} {level:>8.3g}", end=" ")
            print(f"{own:>12.3g} {snr:>17.3g}")

# %%
# How it ends, mode by mode. All steps are linear and act on each mode alone. So a start whose modes all have exactly their
# standard deviation shows what becomes of it, without randomness. What is left is the error of `Heun`'s steps, which a direct
# run has too. A budget of 1000 is harmless for stationary Gaussian data only; for others the bound then promises nothing.

low, high = sde.schedule.ratio(torch.tensor([0.0, 1.0], dtype=torch.float64))
c = sde.noise.std(eigenvalues).square()
start = domain.synthesize((high * c.sqrt())[None, None], finest)
plans = {"direct": Direct(), **{f"progressive, budget {b:g}": Progressive(grids[:-1], b) for b in (1.0, 1000.0)}}
ratios, stages = {}, {}
for name, plan in plans.items():
    stages[name] = plan.plan(denoiser, finest, times)
    sample = run(denoiser, solver, stages[name], start)
    ratios[name] = ratio = domain.analyze(sample).square()[0, 0] / (s**2 / (s + low**2 * c))
    print(f"{name}: variance / exact, from {float(ratio.min()):.4f} to {float(ratio.max()):.4f}")

# %%
# Left: the sum of SNR of the two bands, the two budgets, and where the finer grids take over. Right: the variance at the end
# for modes along one axis. Modes that are added late go through fewer steps, and so through fewer errors.

axis = torch.linspace(0.18, 1, 200, dtype=torch.float64)
figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.3))
for i, (small, large) in enumerate(itertools.pairwise(grids)):
    total = added(sde.noise, small, large)
    label = f"modes of {large[0]}x{large[1]} not of {small[0]}x{small[1]}"
    left.semilogy(axis, total / sde.schedule.ratio(axis).square(), f"C{i}", label=label)
    for name in list(plans)[1:]:
        t = stages[name][i + 1].times[0]
        left.plot(t, total / sde.schedule.ratio(t).square(), f"C{i}o", markersize=5)
for budget in (1.0, 1000.0):
    left.axhline(budget, color="0.6", linewidth=0.8, linestyle="--", label="budgets" if budget == 1 else None)
left.set(xlabel="time $t$ (sampling goes from 1 to 0)", ylabel="sum of SNR over the band", xlim=(1, 0.18))
left.legend(loc="lower right")
for (name, ratio), style in zip(ratios.items(), ("C0-", "C1--", "C2:"), strict=True):
    right.semilogx(range(1, 64), ratio[1:, 0], style, label=name)
right.set(xlabel="mode along one axis (half-waves per side)", ylabel="variance at the end / exact")
right.legend(loc="upper left")
plt.show()
