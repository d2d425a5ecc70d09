r"""
Spectral scaling
================

Each mode of noisy data has its own share of signal. `SpectralScaling` splits every mode in two: what a linear estimate already
knows, and what a network has to add. With :math:`S` the data's and :math:`C` the noise's variance per mode and
:math:`N = \alpha^2 S + \sigma^2 C`,

.. math:: D(x_t, t) = G x_t + \sqrt{m V}\; F\!\left( \sqrt{\frac{R}{m N}}\; x_t,\ \tfrac14 \ln \frac{\sigma}{\alpha} \right),
   \qquad G = \frac{\alpha S}{N}, \qquad V = \frac{S\, \sigma^2 C}{N}.

:math:`G`, :math:`V` and :math:`N` are functions of :math:`-\Delta`, so they act on any grid.

- :math:`G x_t` is the best linear (Wiener) estimate, and :math:`V` is the variance of its error. :math:`F = 0` is exact on
  stationary Gaussian data of this spectrum, and the target of :math:`F` has equal variance in every mode. :math:`m` is the
  number of modes of the reference grid.
- :math:`R = (1 + (\kappa / \kappa_c)^2)^{-3}`, with :math:`\kappa` in cycles over the domain's longest side, scaled to mean
  one. Without it the input of :math:`F` would be white, and would change with the grid all over. With it the input is a
  function.
- :math:`V \le S`: what :math:`F` gets wrong in modes that it was never trained on is damped to their size in the data.

:math:`S` comes from training fields. `fit_spectrum` averages the squares of their modes shell by shell, and continues the
result by a power law beyond their grid. A picture's pixels are averages over cells. Averaging multiplies mode :math:`k` by
:math:`\mathrm{sinc}(k / 2n)` per axis, with :math:`\mathrm{sinc}\, u = \sin(\pi u) / \pi u`. `cell_averages=True` divides
that out. It also leaves out the upper shells, where what averaging folds back from above the grid is not small.
"""

import math
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from fnodiff import EDM, Box, FunctionSpaceSDE, WhiteNoise
from fnodiff.sde import fit_spectrum
from fnodiff.sde.spectrum import residual_variance

sys.path.append(str(Path(sys.argv[0]).resolve().parents[2] / "datasets"))
from portraits import Portraits

domain, reference = Box(2), (32, 32)

# %%
# The spectrum is fitted on portraits of 32x32 pixels. It is compared with that of other portraits at 64x64 and 128x128, which
# only those grids can see. Printed is the predicted variance over the measured, by octave of half-waves per side; the first is
# inside the training grid. The other number is of a fit that takes the pixels for values at points. The drawings have outlines,
# whose modes fall as slowly as :math:`k^{-2}`; the tail overestimates them by a fifth to a third.

count = 160
train = Portraits(count=count).batch(range(count), reference)["x"]
mean = train.mean((0, 2, 3), keepdim=True)
spectrum, naive = (fit_spectrum(train - mean, domain, cell_averages=averages) for averages in (True, False))
print(f"fitted at 32x32: {len(spectrum.wavenumbers)} shells, then k^-{spectrum.exponent:.2f}; as points: ", end="")
print(f"{len(naive.wavenumbers)} shells, then k^-{naive.exponent:.2f}")
measured = {}
others = Portraits(count=count, held_out=True).batches(range(count), [(64, 64), (128, 128)])
for n, batch in zip((64, 128), others, strict=True):
    measured[n] = fit_spectrum(batch["x"] - mean, domain, cell_averages=True)
    kappa, power = torch.tensor(measured[n].wavenumbers), torch.tensor(measured[n].powers)
    for low in (11, 22, 44):
        band = (kappa >= low * math.pi) & (kappa < 2 * low * math.pi)
        if 2 * low * math.pi <= kappa[-1]:
            ratios = [float((s(kappa.square()) / power)[band].log().mean().exp()) for s in (spectrum, naive)]
            print(f"{n:>3}x{n:<3} half-waves {low} to {2 * low}: {ratios[0]:.2f}; as points: {ratios[1]:.2f}")

# %%
# Left: the fit with its tail, and what finer grids measure, times :math:`k^2`: variance per octave, up to a factor. Right:
# :math:`V / S`, the share of a mode's variance that the linear estimate leaves to the network, for white noise at four levels.
# A mode turns from data to noise at :math:`\sigma^2 C = S`: the finer the mode, the lower the level. To the right of its turn
# nothing is seen of it, and the network is asked for its whole variance :math:`S`, however large the noise.

sde = FunctionSpaceSDE(WhiteNoise(domain, reference), EDM())
figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.4))
for (n, found), marker in zip(measured.items(), "os", strict=True):
    k, power = torch.tensor(found.wavenumbers[1:]) / math.pi, torch.tensor(found.powers[1:])
    left.loglog(
        k, k.square() * power, marker, markersize=3, fillstyle="none", color=f"C{n // 64}", label=f"measured at {n}x{n}"
    )
k = torch.logspace(0, math.log10(127), 400)
inside = k <= spectrum.wavenumbers[-1] / math.pi
s, points = (k.square() * f((k * math.pi).square()) for f in (spectrum, naive))
left.loglog(k[inside], s[inside], "k", label="fitted at 32x32")
left.loglog(k[~inside], s[~inside], "k--", label="its tail")
left.loglog(k[~inside], points[~inside], "k:", label="pixels as points")
left.set(xlabel="wavenumber (half-waves per side)", ylabel="$k^2 S$", ylim=(0.003, 0.5))
left.legend(loc="lower right")
eigenvalues = domain.eigenvalues((128, 128), dtype=torch.float64)
s, c = spectrum(eigenvalues), sde.noise.std(eigenvalues).square()
for sigma in (4.0, 1.0, 0.25, 0.05):
    v = residual_variance(s, c, torch.tensor(1.0), torch.tensor(sigma))  # alpha = 1
    right.semilogx(range(1, 128), (v / s)[1:, 0], label=rf"$\sigma = {sigma:g}$")
right.axvline(31, color="0.6", linewidth=0.8, linestyle="--")
right.annotate("training grid's end", (31, 0.0), rotation=90, ha="right", va="bottom", fontsize=8, color="0.4")
right.set(xlabel="mode along one axis (half-waves per side)", ylabel="$V / S$")
right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, handlelength=1, columnspacing=1)
plt.show()
