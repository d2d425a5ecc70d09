r"""
Schedules and solvers
=====================

A schedule says how much noise there is at each time. A solver goes back through it. A schedule maps :math:`t \in [0, 1]` to
:math:`(\alpha_t, \sigma_t)` with

.. math:: x_t = \alpha_t x + \sigma_t z.

In :math:`y = x_t / \alpha_t` and :math:`s = \sigma_t / \alpha_t` the probability-flow equation is the same for all of them,

.. math:: \frac{\mathrm{d} y}{\mathrm{d} s} = \frac{y - D(x_t, t)}{s}, \qquad D(x_t, t) = \mathbb{E}[x \mid x_t].

So a schedule only decides which noise levels it spans, and where equal steps of :math:`t` lie. For stationary Gaussian data
modes do not mix. With data of variance :math:`S_k` per mode, noise of variance :math:`C_k` and
:math:`N_k(t) = \alpha_t^2 S_k + \sigma_t^2 C_k`,

.. math:: D_k = \frac{\alpha_t S_k}{N_k(t)}\, x_{t,k}, \qquad x_{s,k} = \sqrt{N_k(s) / N_k(t)}\; x_{t,k}.

The second is the flow from :math:`t` to :math:`s` in closed form: `GaussianDenoiser.flow`. Solvers are measured against it.
"""

import math

import matplotlib.pyplot as plt
import torch

from fnodiff import Box, sde
from fnodiff.metrics import relative_l2

domain, shape = Box(2), (16, 16)
data = sde.GaussianRandomField(domain, sde.Matern(smoothness=1.0, length_scale=0.3))
noise = sde.WhiteNoise(domain, reference=shape)
start, end = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)

# %%
# A solver is settings. `integrate` takes it, a denoiser and a state, and steps through given times. The table has the relative
# error at the end of the flow with 8, 16, 32, 64, 128 and 256 evaluations of the denoiser. `DDIM` and `DPMSolver` use one per
# step, `Heun` two. The order is the slope between the last two numbers.

process = sde.FunctionSpaceSDE(noise, sde.EDM(0.01, 100.0))
denoiser = sde.GaussianDenoiser(data, process)
x = process.prior((4, 1, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
exact = denoiser.flow(x, start, end)
evaluations = [8, 16, 32, 64, 128, 256]
errors = {}
for kind in (sde.DDIM, sde.DPMSolver, sde.Heun):
    solvers = [kind(n // kind.evaluations_per_step + 1) for n in evaluations]  # a step lies between two levels
    found = [sde.integrate(denoiser, solver, x, solver.times(process.schedule)) for solver in solvers]
    name = kind.__name__
    errors[name] = [float(relative_l2(y, exact, domain).mean()) for y in found]
    order = math.log2(errors[name][-2] / errors[name][-1])
    print(f"{name:<10} order {order:.2f}; errors " + " ".join(f"{e:.1e}" for e in errors[name]))

# %%
# Stochastic solvers have no path to compare with: `DDIM` and `DPMSolver` with `eta=1.0`, `Heun` with churn, `EulerMaruyama`,
# `PredictorCorrector` and `AnnealedLangevin`. They are right in law: with many steps the variance of every mode tends to the
# exact one. (Langevin steps leave the noise a variance too large by the share snr^2 / (1 - snr^2).) The table has the root mean
# square deviation over the modes of a field in one dimension, beside the scatter that as many exact samples have:

torch.manual_seed(0)
line, count = Box(1), 4000
data_1d, noise_1d = sde.GaussianRandomField(line, sde.Matern(1.0, 0.3)), sde.WhiteNoise(line, (16,))
oracle = sde.GaussianDenoiser(data_1d, sde.FunctionSpaceSDE(noise_1d, process.schedule))
eigenvalues, (alpha, sigma) = line.eigenvalues((16,)), process.schedule(end)
law = (alpha * data_1d.std(eigenvalues)).square() + (sigma * noise_1d.std(eigenvalues)).square()
prior = oracle.sde.prior((count, 1, 16))
for steps in (25, 100, 400):
    row = []
    for solver in (sde.DDIM(steps, eta=1.0), sde.DPMSolver(steps, eta=1.0), sde.EulerMaruyama(steps)):
        y = sde.integrate(oracle, solver, prior, solver.times(process.schedule))
        ratio = line.analyze(y).square().mean((0, 1)) / law
        row.append(f"{type(solver).__name__} {float((ratio - 1).square().mean().sqrt()):.3f}")
    print(f"{steps:>4} steps:", ", ".join(row), f"(scatter {math.sqrt(2 / count):.3f})")

# %%
# Left: :math:`\ln \mathrm{SNR} = \ln(\alpha_t^2 / \sigma_t^2)` of the five schedules, with their default ends. Where a line is
# flat, steps are spent. Right: the errors, which fall with slopes of one and two.

t = torch.linspace(0, 1, 201, dtype=torch.float64)
figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.4))
for schedule in (sde.EDM(), sde.VE(), sde.VP(), sde.SubVP(), sde.Cosine()):
    left.plot(t, -2 * schedule.ratio(t).log(), label=type(schedule).__name__)
left.set(xlabel="time $t$", ylabel="log-SNR")
left.legend()
for name, marker in zip(errors, "os^", strict=True):
    right.loglog(evaluations, errors[name], marker=marker, markersize=4, label=name)
for order, name, shift in ((1, "DDIM", 1.6), (2, "DPMSolver", 0.6)):
    guide = [shift * errors[name][-1] * (evaluations[-1] / n) ** order for n in evaluations[3:]]
    right.loglog(evaluations[3:], guide, color="0.5", linewidth=0.8, linestyle="--")
    right.annotate(
        f"slope -{order}", (128, guide[1]), xytext=(0, 9) if order == 1 else (-48, -8), textcoords="offset points"
    )
right.set(xlabel="evaluations of the denoiser", ylabel="relative error at $t = 0$")
right.set_xticks(evaluations, map(str, evaluations))
right.minorticks_off()
right.legend(loc="lower left")
plt.show()
