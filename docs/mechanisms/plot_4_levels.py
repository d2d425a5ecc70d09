r"""
Levels and local operators
==========================

A convolution over pixels is not an operator on functions: refine the grid, and both its support and the levels of a UNet
shrink. Two options of `DFU` keep them in place.

**Taps.** A 3x3 convolution on a grid of spacing :math:`h` is

.. math:: (K f)(x) = \sum_{j \in \{-1, 0, 1\}^2} w_j\, f(x + h j),

and tends to :math:`(\sum_j w_j) f(x)` as :math:`h \to 0`. `local="operator"` takes :math:`h = h_\mathrm{ref}`, the spacing of
the `reference` grid, on every grid: by dilation where the grid's points allow it, else by cubic interpolation. On the reference
grid it is the plain convolution.

**Levels.** With `levels="moving"`, level :math:`l` has :math:`\lceil n / 2^l \rceil` points of an input of :math:`n`. With
`levels="fixed"` it has :math:`\lceil n_\mathrm{ref} / 2^l \rceil` whatever the input, and exact resampling leads there. The
first level stays on the input's own grid, so the output has all of its modes.

The spectral branches act on modes, and are operators in any case; normalisation and attention average over the domain. What is
left is measured by `metrics.discretization_error`: one smooth function :math:`f` is given on the reference grid and on a finer
one, and the outputs are compared in the modes that both have,

.. math:: e(n) = \frac{\lVert P F(f_n) - F(f_\mathrm{ref}) \rVert}{\lVert F(f_\mathrm{ref}) \rVert}.
"""

from functools import partial

import matplotlib.pyplot as plt
import torch

from fnodiff import DFU, Box, Torus
from fnodiff.metrics import discretization_error

reference, sides = (32, 32), [48, 64, 96, 128]

# %%
# Untrained networks, with weights drawn at random everywhere: `zero_init=False`, as otherwise the output is almost zero. The
# field has all modes up to four cycles, equally strong. The mean over two draws of the weights:

networks = {
    "moving levels, pixels": (Box(2), {"levels": "moving"}),
    "fixed levels, pixels": (Box(2), {"levels": "fixed"}),
    "moving levels, taps": (Box(2), {"levels": "moving", "local": "operator"}),
    "fixed levels, taps": (Box(2), {"levels": "fixed", "local": "operator"}),
    "the same on a Torus": (Torus(2), {"levels": "fixed", "local": "operator"}),
    "the same, antialiased": (Torus(2), {"levels": "fixed", "local": "operator", "antialias": True}),
}
print(f"{'difference from 32x32, at':<26}", *(f"{f'{n}x{n}':>9}" for n in sides))
errors = {}
for name, (domain, options) in networks.items():
    smooth, draws = torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(0)), []
    for seed in range(2):
        torch.manual_seed(seed)
        net = DFU.small(3, 3, domain=domain, reference=reference, zero_init=False, **options).eval()
        model, shapes = partial(net, noise_level=torch.tensor(0.0)), [reference, *((n, n) for n in sides)]
        draws.append(discretization_error(model, partial(domain.resample, smooth), shapes, domain))
    errors[name] = 100 * torch.tensor(draws).mean(0)
    print(f"{name:<26}", *(f"{e:>8.2f}%" for e in errors[name].tolist()))

# %%
# Either option alone leaves the other's error. With both, what is left on the `Box` comes from its edges, where the spectral
# branch takes a field for periodic and taps make fields of nonzero slope, which its cosines resolve slowly: on a `Torus`, which
# has none, less is left. There the rest is cubic interpolation, on grids that are no multiple of the reference, and the
# frequencies that activations make and a grid cannot hold, which `antialias=True` reduces. These are networks before training;
# training at several resolutions changes the errors, but not where they come from.

figure, axis = plt.subplots(figsize=(7.6, 3.2))
for name, marker in zip(errors, "osD^v<", strict=True):
    dashed = "--" if isinstance(networks[name][0], Torus) else "-"
    axis.semilogy(sides, errors[name], dashed, marker=marker, markersize=5, label=name)
axis.set(xlabel="side of the finer grid", ylabel="difference from 32x32 (%)", xticks=sides, ylim=(0.01, 100))
axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
plt.show()
