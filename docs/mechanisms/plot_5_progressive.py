r"""
Progressive sampling
====================

While a band of modes is noise to all intents, a coarser grid without them will do. `Progressive` starts there and moves to
finer grids as modes emerge. At noise level :math:`s = \sigma_t / \alpha_t`, mode :math:`k` of :math:`y = x_t / \alpha_t` has
variance :math:`S_k + s^2 C_k` and

.. math:: \mathrm{SNR}_k(t) = \frac{S_k}{s^2 C_k}.

**The switch.** The state is brought to the finer grid by its modes, and each mode :math:`k` of the new band :math:`B` is added
as :math:`y_k = \sqrt{S_k + s^2 C_k}\; w_k`, with :math:`w_k = z_k / \sqrt{C_k}` from the noise :math:`z` that the run started
with: one seed remains one function. For Gaussian data modes are independent, and that is exact in law at any switch.

**The bound.** For other data the added modes should depend on the others, and do not. Let :math:`p` be the law of the state on
the finer grid and :math:`q` that of the state after the switch, from an exact one before it. They differ in
:math:`y_B` given the rest alone, which is Gaussian under :math:`q`, of the right variances, and has under :math:`p` no less
entropy than its noise :math:`s z_B`, so

.. math:: \mathrm{KL}(p \,\|\, q) \le \sum_{k \in B} \tfrac12 \ln \frac{S_k + s^2 C_k}{s^2 C_k}
   = \tfrac12 \sum_{k \in B} \ln(1 + \mathrm{SNR}_k) \le \tfrac12 \sum_{k \in B} \mathrm{SNR}_k.

A grid takes over at the last time at which the sum of SNR of its band is below `budget`, 1 by default. The bound is for a
denoiser that is exact on each grid, which means on fields cut to the grid's modes; pictures of fewer pixels are averages over
larger cells, which lowers their highest modes and folds others onto them.

**Cascade** samples the coarse grid to its end instead, and then the finer grid given what it has drawn: from the switch on, the
estimates of the coarse grid's modes are replaced by the drawn ones, so that along the flow they follow
:math:`c_k + s z_k`, and the network is asked for the new modes alone. A model of images does well on its training grids, and
is spared to do the same again on a grid that it has not seen; it costs the evaluations of both (:doc:`study </study>`).

**PixelNoise** has :math:`C_k = n^{-d}` on a grid of :math:`n` points per side, so noise level :math:`s` on the finest grid of
:math:`n` is level :math:`s\, (m / n)^{d / 2}` on a grid of :math:`m`: the time is translated, and every mode keeps its noise.
"""

import math

import matplotlib.pyplot as plt
import torch

from fnodiff import EDM, Box, FunctionSpaceSDE, GaussianRandomField, Heun, Matern, PixelNoise, WhiteNoise
from fnodiff.sde import GaussianDenoiser, Progressive, noise_levels

domain, ladder = Box(2), [(16, 16), (32, 32), (64, 64)]
data = GaussianRandomField(domain, Matern(smoothness=0.7))


def spectrum(eigenvalues, dim):
    return data.std(eigenvalues).square()


# %%
# The plan of 40 levels of `Heun`, for two noises that are the same on the finest grid:

samplers = {}
for noise in (PixelNoise(domain), WhiteNoise(domain, reference=ladder[-1])):
    sde = FunctionSpaceSDE(noise, EDM(*noise_levels(noise, spectrum, ladder[-1])))
    plain = Heun(GaussianDenoiser(data, sde), steps=40)
    start = sde.prior((1, 1, *ladder[-1]), dtype=torch.float64)
    for budget in (1.0, 1000.0):
        samplers[budget] = Progressive(plain, ladder[:-1], spectrum, budget=budget)
        plan = samplers[budget].plan(start)
        share = sum(rung.steps * math.prod(rung.shape) for rung in plan) / (39 * math.prod(ladder[-1]))
        print(
            f"{type(noise).__name__}, budget {budget:g}: {100 * (1 - share):.0f}% of the grid-point evaluations saved"
        )
        print("     grid  steps   from t    sigma  on its grid  added sum of SNR")
        for rung in plan:
            level = float(sde.schedule.ratio(torch.tensor(rung.time, dtype=torch.float64)))
            own = level * math.sqrt(noise.on(ladder[-1]).mode_variance / noise.on(rung.shape).mode_variance)
            print(f"    {rung.shape[0]}x{rung.shape[1]} {rung.steps:>6} {rung.time:>8.3f} {level:>8.3g}", end=" ")
            print(f"{own:>12.3g} {rung.snr:>17.3g}")

# %%
# How it ends, mode by mode. All steps are linear and act on each mode alone, so a start whose modes all have exactly their
# standard deviation shows what becomes of it, without sampling. What is left is the error of `Heun`'s steps, which plain
# sampling has too. A budget of 1000 is harmless for Gaussian data only; for others the bound then promises nothing.

eigenvalues = domain.eigenvalues(ladder[-1], dtype=torch.float64)
(_, low), (_, high) = (sde.schedule(torch.tensor(t, dtype=torch.float64)) for t in (0.0, 1.0))
s, c = spectrum(eigenvalues, 2), sde.noise.std(eigenvalues).square()
start = domain.synthesize((high * c.sqrt())[None, None], ladder[-1])
runs = {"plain": plain, **{f"progressive, budget {budget:g}": run for budget, run in samplers.items()}}
ratios = {}
for name, run in runs.items():
    ratios[name] = ratio = domain.analyze(run.solve(start)).square()[0, 0] / (s + low**2 * c)
    print(f"{name}: variance / exact, from {float(ratio.min()):.4f} to {float(ratio.max()):.4f}")

# %%
# Left: the sum of SNR of the two bands, the two budgets, and where the finer grids take over. Right: the variance at the end
# for modes along one axis; modes that are added late go through fewer steps, and through fewer errors.

times = torch.linspace(0.18, 1, 200, dtype=torch.float64)
figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.3))
for i, (small, large) in enumerate(((16, 32), (32, 64))):
    total = float((s / c)[:large, :large].sum() - (s / c)[:small, :small].sum())
    left.semilogy(
        times,
        total / sde.schedule.ratio(times).square(),
        f"C{i}",
        label=f"modes of {large}x{large} not of {small}x{small}",
    )
    for sampler in samplers.values():
        rung = sampler.plan(start)[i + 1]
        left.plot(rung.time, rung.snr, f"C{i}o", markersize=5)
for budget in samplers:
    left.axhline(budget, color="0.6", linewidth=0.8, linestyle="--", label="budgets" if budget == 1 else None)
left.set(xlabel="time $t$ (sampling goes from 1 to 0)", ylabel="sum of SNR over the band", xlim=(1, 0.18))
left.legend(loc="lower right")
for (name, ratio), style in zip(ratios.items(), ("C0-", "C1--", "C2:"), strict=True):
    right.semilogx(range(1, 64), ratio[1:, 0], style, label=name)
right.set(xlabel="mode along one axis (half-waves per side)", ylabel="variance at the end / exact")
right.legend(loc="upper left")
plt.show()
