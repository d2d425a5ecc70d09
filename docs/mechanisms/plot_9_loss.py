r"""
Loss weights and noise levels
=============================

Which scales of a picture does the loss see at which noise level? How often does training visit each level? And what does the
network see of it? The denoising loss is

.. math:: \mathbb{E}\; w(t)\, \lVert D(\alpha_t x + \sigma_t z, t) - x \rVert^2.

**The weight** makes the network's own error count alike at all times. It belongs to the scaling. Under `EDMScaling` it is
:math:`1 / c_\mathrm{out}^2`. Under `SpectralScaling` it is :math:`1 / \operatorname{tr} V`, with

.. math:: V = \frac{S\, \sigma^2 C}{\alpha^2 S + \sigma^2 C}

the variance per mode of the error that the network starts from. An octave :math:`o` of modes has the share
:math:`\operatorname{tr}_o V / \operatorname{tr} V` of that loss. At small noise :math:`V` tends to
:math:`\sigma^2 C / \alpha^2`, most of which is in the many modes of the finest octave.

**The law of the noise levels.** Training draws :math:`\ln(\sigma / \alpha)` from a normal law, restricted to the schedule's
levels. `EDMScaling` has EDM's. `SpectralScaling` derives its own. Mode :math:`k` turns from noise to data around
:math:`\sigma / \alpha = \sqrt{S_k / C_k}`. `noise_law` takes the mean of the logarithms of these turns, each octave counted
by the square root of its number of modes, and their variance plus :math:`\pi^2 / 12`, that of a single turn.

**The noise level given to the network** is :math:`\tfrac14 \ln` of a level. `EDMScaling` takes the level at a point:
:math:`\sigma / \alpha` times the noise's standard deviation at a point of the grid at hand. White noise grows per point as
the grid is refined, so this moves with the grid. `SpectralScaling` takes :math:`\sigma / \alpha` itself, the level in a
mode, which stays.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn

from fnodiff import EDM, Box, EDMScaling, FunctionSpaceSDE, Model, SpectralScaling, WhiteNoise
from fnodiff.sde import DenoisingLoss, fit_spectrum, noise_law
from fnodiff.sde.spectrum import residual_variance

sys.path.append(str(Path(sys.argv[0]).resolve().parents[2] / "datasets"))
from portraits import Portraits


class Zero(nn.Module):
    """A network that adds nothing, and remembers the noise level that it was given."""

    def forward(self, x, noise_level):
        self.noise_level = float(noise_level.mean())
        return torch.zeros_like(x)


torch.manual_seed(0)
domain, shape = Box(2), (64, 64)
portraits = Portraits(count=192).batch(range(192), shape)["x"]
portraits = portraits - portraits.mean((0, 2, 3), keepdim=True)
sde = FunctionSpaceSDE(WhiteNoise(domain, reference=shape), EDM(0.002, 200.0))

# %%
# A network of zeros under `SpectralScaling` is the linear estimate. Its loss on portraits, for two choices of :math:`S`:
# with the spectrum of the pixels it is about one. With that of the portraits as functions (`cell_averages=True`) it is
# lower, as pixels have less of the finest modes than the functions that they average. `DenoisingLoss.linear` computes the
# expected value.

for averages in (False, True):
    spectrum = fit_spectrum(portraits, domain, cell_averages=averages)
    model = Model(Zero(), sde, SpectralScaling(shape), spectrum=spectrum, channels=3)
    loss = DenoisingLoss(model)
    losses = torch.cat([loss(portraits[:100]) for _ in range(4)])
    print(f"cell_averages={averages}: {losses.mean():.2f} +- {losses.std() / len(losses) ** 0.5:.2f}", end="")
    print(f", expected of data with this spectrum {loss.linear(shape):.2f}")

# %%
# The two laws of the noise levels, and the noise level that a network is given at :math:`\sigma = 1`:

laws = {"EDM's": EDMScaling().noise_law(sde, None), "of the spectra": noise_law(sde.noise, spectrum, shape)}
for name, (mean, std) in laws.items():
    print(f"{name}: mean of ln(sigma / alpha) {mean:.2f}, standard deviation {std:.2f}")
for scaling in (EDMScaling(), SpectralScaling(shape)):
    model, levels = Model(Zero(), sde, scaling, spectrum=spectrum), []
    for n in (32, 64, 128):
        model(torch.zeros(1, 3, n, n), sde.schedule.time(torch.tensor(1.0)))
        levels.append(f"{model.network.noise_level:.3f} at {n}x{n}")
    print(f"{type(scaling).__name__}: " + ", ".join(levels))

# %%
# The expected loss by octaves, averaged over the two laws: how much of it is in the finest?

sigma = torch.logspace(-2.5, 2, 150, dtype=torch.float64)
eigenvalues = domain.eigenvalues(shape, dtype=torch.float64).flatten()
s, c = spectrum(eigenvalues), sde.noise.std(eigenvalues).square()
variance = residual_variance(s, c, torch.tensor(1.0), sigma[:, None])  # alpha = 1
octave = domain.octaves(shape).flatten().clamp(max=6)  # the mean and six octaves; corners count with the sixth
share = torch.zeros(len(sigma), 7, dtype=torch.float64).index_add(1, octave, variance)
share = share / share.sum(1, keepdim=True)
densities = {name: torch.distributions.Normal(*law).log_prob(sigma.log()).exp() for name, law in laws.items()}
for name, density in densities.items():
    finest = (density * share[:, -2:].sum(1)).sum() / density.sum()
    print(f"{name}: {100 * float(finest):.0f}% of the loss in the two finest octaves")

# %%
# Above: the share of each octave in the loss, coarse octaves at the bottom, named by their half-waves per side. Below: the two
# laws of the noise levels.

names, colors = (
    ["mean", "1", "2 to 3", "4 to 7", "8 to 15", "16 to 31", "32 to 63"],
    plt.cm.viridis(torch.linspace(0, 1, 7)),
)
figure, (top, bottom) = plt.subplots(2, 1, figsize=(7.6, 4.2), sharex=True, height_ratios=[3, 1])
top.stackplot(sigma, share.T, labels=names, colors=colors)
top.set(ylabel="share of the loss", ylim=(0, 1))
for name, density in densities.items():
    bottom.plot(sigma, density, label=name)
bottom.set(xscale="log", xlabel=r"$\sigma / \alpha$", ylabel="density")
top.legend(loc="center left", bbox_to_anchor=(1, 0.5), reverse=True, title="octave")
bottom.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
