r"""
Upscaling a given field
=======================

A run can hold the coarse modes of the field that it makes. Let :math:`c` be the given part, with the modes of a coarse
grid, and :math:`P` the projection on them. The replacement method (`ReplaceModes`) replaces those modes of a denoiser's
estimate,

.. math:: \tilde D(x_t, t) = D(x_t, t) + P\,(c - D(x_t, t)).

With :math:`y = x_t / \alpha_t`, :math:`s = \sigma_t / \alpha_t` and :math:`P \tilde D = c`, a held mode obeys
:math:`\mathrm{d}y / \mathrm{d}s = (y - c) / s`. It begins at :math:`c + s\, P z`, and the solution is

.. math:: P y_s = c + s\, P z

exactly, whatever the solver's steps. So it has the noise that the other modes' denoiser expects, and ends at :math:`c`.

**Cells.** A picture is averages over its cells. Where these are made of whole cells of the finer grid, as 32x32 of 64x64,
:math:`P` may as well be the averaging, and :math:`c` the picture itself (`ReplaceCells`). Nothing is lost: averaged again, the
result is the picture. That is what `upscale` and `Cascade` do with pictures, unless they are told how to `hold`. Modes ring
beside sharp edges, cells do not. Fields without edges, such as those below, are upscaled a little better by their modes.

**Modes of averages.** On other grids modes are held. Averages over the cells of a grid of :math:`m` points multiply mode
:math:`k` by :math:`\mathrm{sinc}(k / 2m)` per axis, with :math:`\mathrm{sinc}\, u = \sin(\pi u) / \pi u`. On a grid of
:math:`n > m` points the mode of the same function is larger:

.. math:: c_k = \frac{\mathrm{sinc}(k_1 / 2n)\, \mathrm{sinc}(k_2 / 2n)}{\mathrm{sinc}(k_1 / 2m)\, \mathrm{sinc}(k_2 / 2m)}\;
   \mathrm{low}_k.

Averaging also folds modes from above the coarse grid onto those below it. That part of the picture cannot be separated, and
stays in :math:`c`. The denoiser says what its fields are. With `cell_averages=False` they are values at points, cut to the
coarse grid's modes, and :math:`c` is the field.

**What is exact.** For stationary Gaussian data modes are independent: the sampled modes do not depend on the given ones, and
the samples have the conditional law. What varies within cells does depend on the averages.

For other data, Gaussian or not, the denoiser sees the given modes with their noise,
:math:`c + s P z`, at every time, and not :math:`c`. In the early steps, where :math:`s` is large, the other modes are sampled
without most of what :math:`c` says. `hold=MatchModes` lets them learn it: `python -m benchmarks.exactness` has the numbers.
"""

import matplotlib.pyplot as plt
import torch

from fnodiff import EDM, Box, DPMSolver, FunctionSpaceSDE, GaussianRandomField, Heun, Matern, WhiteNoise, upscale
from fnodiff.metrics import relative_l2
from fnodiff.sde import GaussianDenoiser, ReplaceModes, noise_levels

domain, small, shape = Box(2), (16, 16), (64, 64)
data = GaussianRandomField(domain, Matern(smoothness=0.7))
noise = WhiteNoise(domain, reference=shape)
levels = noise_levels(noise, lambda eigenvalues, dim: data.std(eigenvalues).square(), shape)
sde = FunctionSpaceSDE(noise, EDM(*levels))
denoisers = {
    "averages": GaussianDenoiser(data, sde, cell_averages=True),
    "points": GaussianDenoiser(data, sde, cell_averages=False),
}

# %%
# A picture of 64x64 cells is made smaller in both ways, by averages and by cutting its modes. Each is upscaled with three
# seeds, the averages by holding cells and by holding modes. Made smaller again, do the results agree with what was given, and
# their low modes with the truth's?

truth = data.sample((1, 1, *shape), generator=torch.Generator().manual_seed(1))
smaller = {"averages": lambda x: domain.average(x, small), "points": lambda x: domain.resample(x, small)}
ways = {"averages, cells": None, "averages, modes": ReplaceModes, "points, modes": None}
samples = {}
for name, hold in ways.items():
    kind = name.split(",")[0]
    reduce = smaller[kind]
    given = reduce(truth)
    samples[name] = upscale(denoisers[kind], given, shape, seeds=[2, 3, 4], solver=DPMSolver(72), hold=hold)
    again = relative_l2(reduce(samples[name]), given.expand(3, -1, -1, -1), domain).mean()
    modes = domain.resample(samples[name], small), domain.resample(truth, small).expand(3, -1, -1, -1)
    print(f"{name}: difference from the given {float(again):.1e},", end=" ")
    print(f"of the low modes from the truth's {float(relative_l2(*modes, domain).mean()):.1e}")

# %%
# Held cells agree with what was given. With modes of averages, what remains is the folding: the samples' own fine modes fold
# back when they are averaged, and the truth's are still in what was given. With points there is none.
#
# The sampled modes should have variance :math:`S`. Their mean ratio over 60 samples shows the error of the solver's steps.
# `upscale` takes `DPMSolver(36)` by default; `Heun` with half the levels costs the same:

sampled = torch.ones(shape, dtype=torch.bool)
sampled[:16, :16] = False
low = domain.resample(truth, small)
for solver in (Heun(18), DPMSolver(36), Heun(36), DPMSolver(72)):
    x = upscale(denoisers["points"], low, shape, seeds=range(60), solver=solver, batch=60)
    ratio = domain.analyze(x).square().mean((0, 1)) / data.std(domain.eigenvalues(shape)).square()
    name = f"{type(solver).__name__} with {solver.steps} levels"
    print(f"{name}: variance of the sampled modes / exact {float(ratio[sampled].mean()):.3f}")

# %%
# Above: what was given, three fields that fit, and the truth. Below: each averaged over the given cells. It is the same
# picture.

pictures = {
    "given": smaller["averages"](truth),
    **{f"sample {i + 1}": samples["averages, cells"][i : i + 1] for i in range(3)},
    "truth": truth,
}
figure, axes = plt.subplots(2, 5, figsize=(7.6, 3.3))
limit = float(truth.abs().max())
for (name, x), column in zip(pictures.items(), axes.T, strict=True):
    for axis, picture in zip(column, (x, domain.average(x, small)), strict=True):
        axis.imshow(picture[0, 0], cmap="gray", vmin=-limit, vmax=limit, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
    column[0].set_title(name)
axes[0, 0].set_ylabel("the field")
axes[1, 0].set_ylabel("16x16 averages")
plt.show()
