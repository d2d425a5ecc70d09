r"""
Coupled seeds
=============

One seed is one function, and a solver carries it from the noise to the sample. With a generator, coefficient :math:`w_k` of

.. math:: z = \sum_k \sqrt{C_k}\, w_k\, \varphi_k

depends on the seed, the channel and :math:`k` alone. A finer grid draws the coarse grid's coefficients again, and more of
them. Let :math:`P_n` restrict a function to a grid's modes. If the denoiser is an operator, :math:`D_n(P_n x_t) = P_n
D(x_t)`, then so is every step of a deterministic solver. The samples of one seed on two grids then agree in the modes that
both have:

.. math:: P_m\, x^{(n)} = x^{(m)}, \qquad m < n.

The exact denoiser of stationary Gaussian data acts on each mode alone, and the relation holds to rounding. For other data it
mixes modes, and finer modes say something about coarse ones: samples agree as far as they do not. For a trained
network its discretization error comes on top. `PixelNoise` is another function on each grid, and nothing agrees.
"""

import matplotlib.pyplot as plt

from fnodiff import EDM, Box, FunctionSpaceSDE, GaussianRandomField, Heun, Matern, PixelNoise, WhiteNoise, sample
from fnodiff.metrics import relative_l2
from fnodiff.sde import GaussianDenoiser, noise_levels

domain, sides = Box(2), [32, 48, 64, 96]
data = GaussianRandomField(domain, Matern(smoothness=0.7))

# %%
# Samples of two seeds on four grids, by 30 levels of `Heun`, and their relative difference from the 32x32 sample in its modes:

samples = {}
for name, noise in (("WhiteNoise", WhiteNoise(domain, reference=(96, 96))), ("PixelNoise", PixelNoise(domain))):
    levels = noise_levels(noise, lambda eigenvalues, dim: data.std(eigenvalues).square(), (96, 96))
    denoiser = GaussianDenoiser(data, FunctionSpaceSDE(noise, EDM(*levels)))
    samples[name] = {n: sample(denoiser, (n, n), seeds=[0, 1], solver=Heun(30)) for n in sides}
    coarse = samples[name][32]
    for n in sides[1:]:
        difference = relative_l2(domain.resample(samples[name][n], (32, 32)), coarse, domain)
        print(f"{name}, {n}x{n}: " + ", ".join(f"seed {seed}: {d:.1e}" for seed, d in enumerate(difference.tolist())))

# %%
# One row per seed and noise, one column per grid.

rows = [("WhiteNoise", 0), ("WhiteNoise", 1), ("PixelNoise", 0)]
figure, axes = plt.subplots(len(rows), len(sides), figsize=(7.6, 6.0))
for line, (name, seed) in zip(axes, rows, strict=True):
    limit = float(samples[name][96][seed].abs().max())
    for axis, n in zip(line, sides, strict=True):
        axis.imshow(samples[name][n][seed, 0], cmap="gray", vmin=-limit, vmax=limit, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
    line[0].set_ylabel(f"{name}, seed {seed}")
for axis, n in zip(axes[0], sides, strict=True):
    axis.set_title(f"{n}x{n}")
plt.show()
