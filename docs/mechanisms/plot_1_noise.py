r"""
Noise as a function
===================

A noise is a random function, not an array of pixels. A seed fixes its coefficients, and a grid only decides how many of them
are seen. With eigenfunctions :math:`\varphi_k` of the Laplacian and independent standard normals :math:`w_k`,

.. math:: z(x) = \sum_k \sqrt{C_k}\, w_k\, \varphi_k(x).

- `WhiteNoise`: :math:`C_k = 1 / M` for every mode on every grid, with :math:`M` the number of modes of the reference grid. The
  variance per point is one there and grows on finer grids.
- `GaussianRandomField(domain, Matern(nu))`: :math:`C_k \propto (1 + \ell^2 \lambda_k / 2\nu)^{-(\nu + d/2)}`, so
  :math:`C_k \sim k^{-q}` with :math:`q = 2\nu + d`; one grid shows the same values as another.
- `PixelNoise`: one unit of variance per point on every grid, so :math:`C_k = 1 / n^d` depends on the grid. It is another
  process on each grid, and not a function.
"""

import sys
import textwrap
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from fnodiff import EDM, Box, FunctionSpaceSDE, GaussianRandomField, Matern, PixelNoise, WhiteNoise
from fnodiff.metrics import relative_l2
from fnodiff.sde import fit_spectrum, noise_levels

sys.path.append(str(Path(sys.argv[0]).resolve().parents[2] / "datasets"))
from portraits import Portraits

domain, finest = Box(2), (64, 64)
shapes = [(16, 16), (32, 32), (64, 64), (45, 64)]
noises = {
    "WhiteNoise": WhiteNoise(domain, reference=finest),
    "Matern(1.0)": GaussianRandomField(domain, Matern(smoothness=1.0)),
    "PixelNoise": PixelNoise(domain),
}

# %%
# One seed on four grids, the last of them not square. The numbers are the relative difference from the 16x16 draw, in its
# modes. The first two noises are one function on all grids:

draws = {
    name: [noise.sample((1, 1, *n), generator=torch.Generator().manual_seed(0)) for n in shapes]
    for name, noise in noises.items()
}
for name, fields in draws.items():
    differences = [float(relative_l2(domain.resample(x, shapes[0]), fields[0], domain)) for x in fields[1:]]
    print(f"{name:<12}" + ", ".join(f"{d:.1e} at {n}x{m}" for d, (n, m) in zip(differences, shapes[1:], strict=True)))

# %%
# Which noise suits which data
# ----------------------------
#
# In mode :math:`k` the data, of variance :math:`S_k`, are visible at noise level :math:`\sigma` (with :math:`\alpha = 1`) when
# :math:`\mathrm{SNR}_k = S_k / (\sigma^2 C_k)` is large. The largest level should leave no mode visible, the smallest should
# leave none hidden. `noise_levels` returns
#
# .. math:: \sigma_\min = \sqrt{\varepsilon \min_k S_k / C_k}, \qquad \sigma_\max = \sqrt{\max_k S_k / (\varepsilon\, C_k)},
#    \qquad \varepsilon = 0.005.
#
# With :math:`S_k \sim k^{-p}`, :math:`S_k / C_k \sim k^{q - p}`. For :math:`q < p` coarse modes emerge first as :math:`\sigma`
# falls. For :math:`q > p` the noise is smoother than the data: detail comes first and structure last.
# `FunctionSpaceSDE.check` measures both exponents on a grid and warns. Here are two kinds of data: drawn portraits, and
# smooth fields.

portraits = Portraits(count=192).batch(range(192), finest)["x"]
smooth = GaussianRandomField(domain, Matern(smoothness=3.0))
spectra = {
    "portraits": fit_spectrum(portraits - portraits.mean((0, 2, 3), keepdim=True), domain, cell_averages=True),
    "smooth fields": lambda eigenvalues, dim: smooth.std(eigenvalues).square(),
}
print(f"{'data':<14}{'noise':<14}    p     q   sigma_min  sigma_max   their ratio")
for data, spectrum in spectra.items():
    for name in ("WhiteNoise", "Matern(1.0)"):
        noise = noises[name]
        low, high = noise_levels(noise, spectrum, finest, eps=0.005)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = FunctionSpaceSDE(noise, EDM(low, high)).check(spectrum, finest)
        p, q = found["data_exponent"], found["noise_exponent"]
        print(f"{data:<14}{name:<14}{p:5.1f} {q:5.1f}   {low:9.2g} {high:10.3g} {high / low:13.2g}")
        for warning in said:
            print(textwrap.indent(textwrap.fill(str(warning.message).split(": ", 1)[1], 80), "    "))

# %%
# Left: the draws, each in its own grey scale. The fifth is the 64x64 draw cut to the modes of a 16x16 grid. It is the first
# again, unless the noise is not a function. Right: the portraits' :math:`S` per mode, between :math:`\sigma^2 C` at both ends.
# Lines show it as a 64x64 grid sees it, circles as a 16x16 grid does. In the second row the distance from :math:`S` to the
# lower line grows with :math:`k`: detail emerges before structure. In the third row a circle lies off its line: there a noise
# level means something else on the other grid.

figure = plt.figure(figsize=(7.6, 4.4))
grid = figure.add_gridspec(3, 6, width_ratios=[1, 1, 1, 1, 1, 2.4])
titles = ["16x16", "32x32", "64x64", "45x64", "64x64, cut"]
for row, (name, noise) in enumerate(noises.items()):
    for column, x in enumerate([*draws[name], domain.resample(draws[name][2], shapes[0])]):
        axis = figure.add_subplot(grid[row, column])
        axis.imshow(x[0, 0], cmap="gray", extent=(0, 1, 1, 0), interpolation="nearest")
        axis.set(xticks=[], yticks=[], title=titles[column] if row == 0 else "")
        axis.set_ylabel(name if column == 0 else "")
    axis = figure.add_subplot(grid[row, 5])
    ends = noise_levels(noise, spectra["portraits"], finest, eps=0.005)
    for n, style in ((64, "-"), (16, "o")):
        eigenvalues = domain.eigenvalues((n, n), dtype=torch.float64)[1:, 0]
        k, c = range(1, n), noise.on((n, n)).std(eigenvalues).square()
        for sigma, color, label in zip(ends, ("C0", "C1"), (r"\sigma_\min", r"\sigma_\max"), strict=True):
            label = f"${label}^2 C$" if n == 64 else None
            axis.loglog(k, sigma**2 * c, style, color=color, label=label, markersize=4, fillstyle="none")
    axis.loglog(range(1, 64), spectra["portraits"](domain.eigenvalues(finest)[1:, 0]), "k", label="$S$")
    axis.set(ylim=(1e-12, 1e9), yticks=[1e-10, 1e-5, 1, 1e5], xlabel="mode $k$ along one axis" if row == 2 else "")
    axis.tick_params(labelbottom=row == 2)
    axis.set_title("variance per mode" if row == 0 else "")
    if row == 0:
        axis.legend(ncols=3, loc="upper center", handlelength=1, columnspacing=0.8, borderaxespad=0)
plt.show()
