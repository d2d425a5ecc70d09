r"""
Levels and local operators
==========================

A convolution over pixels is not an operator on functions. When the grid is refined, its support shrinks, and so do the
levels of a UNet. Two options of `DFU` keep them in place.

**Taps.** A 3x3 convolution on a grid of spacing :math:`h` is

.. math:: (K f)(x) = \sum_{j \in \{-1, 0, 1\}^2} w_j\, f(x + h j),

and tends to :math:`(\sum_j w_j) f(x)` as :math:`h \to 0`. With `local="operator"` the spacing is :math:`h_\mathrm{ref}`,
that of the `reference` grid, on every grid. The library does it by dilation where the grid's points allow it, else by cubic
interpolation. On the reference grid it is the plain convolution.

**Levels.** Without a reference, level :math:`l` has :math:`\lceil n / 2^l \rceil` points of an input of :math:`n`: the paper's
way. With `reference=` it has :math:`\lceil n_\mathrm{ref} / 2^l \rceil` points whatever the input, and exact resampling leads
there. The first level stays on the input's own grid, so the output has all of its modes.

The spectral branches act on modes, and are operators in any case. Normalisation and attention average over the domain.
`metrics.discretization_error` measures what is left. One smooth function :math:`f` is given on the reference grid and on a
finer one, and the outputs are compared in the modes that both have,

.. math:: e(n) = \frac{\lVert P F(f_n) - F(f_\mathrm{ref}) \rVert}{\lVert F(f_\mathrm{ref}) \rVert}.
"""

from functools import partial

import matplotlib.pyplot as plt
import torch

from fnodiff import DFU, Box, Torus
from fnodiff.metrics import discretization_error

reference, sides = (32, 32), [48, 64, 96, 128]

# %%
# The networks are untrained, with random weights everywhere. (`zero_init=False`, as otherwise the output is almost zero.) The
# field has all modes up to four cycles, equally strong. Printed is the mean over two draws of the weights:

networks = {
    "no reference, pixels": (Box(2), {}),
    "reference, pixels": (Box(2), {"reference": reference}),
    "reference, taps": (Box(2), {"reference": reference, "local": "operator"}),
    "the same on a Torus": (Torus(2), {"reference": reference, "local": "operator"}),
}
print(f"{'difference from 32x32, at':<26}", *(f"{f'{n}x{n}':>9}" for n in sides))
errors = {}
for name, (domain, options) in networks.items():
    smooth, draws = torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(0)), []
    for seed in range(2):
        torch.manual_seed(seed)
        net = DFU.small(3, 3, domain=domain, zero_init=False, **options).eval()
        model, shapes = partial(net, noise_level=torch.tensor(0.0)), [reference, *((n, n) for n in sides)]
        draws.append(discretization_error(model, partial(domain.resample, smooth), shapes, domain))
    errors[name] = 100 * torch.tensor(draws).mean(0)
    print(f"{name:<26}", *(f"{e:>8.2f}%" for e in errors[name].tolist()))

# %%
# Fixed levels alone leave the error of the pixels. With both, what is left on the `Box` comes from its edges. There the
# spectral branch takes a field for periodic, and taps make fields of nonzero slope, which its cosines resolve slowly. A
# `Torus` has no edges, and less is left. There the rest comes from cubic interpolation, on grids that are no multiple of
# the reference, and from the frequencies that activations make and a grid cannot hold. These are networks before training.
# Training at several resolutions changes the errors, but not where they come from.

figure, axis = plt.subplots(figsize=(7.6, 3.2))
for name, marker in zip(errors, "osD^", strict=True):
    dashed = "--" if isinstance(networks[name][0], Torus) else "-"
    axis.semilogy(sides, errors[name], dashed, marker=marker, markersize=5, label=name)
axis.set(xlabel="side of the finer grid", ylabel="difference from 32x32 (%)", xticks=sides, ylim=(0.01, 100))
axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
plt.show()
