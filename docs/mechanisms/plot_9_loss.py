r"""
Loss weights and the noise law
==============================

Which scales of a picture does the loss see at which noise level, and how often is each level drawn? The denoising loss is

.. math:: \mathbb{E}\; w(t)\, \lVert D(\alpha_t x + \sigma_t z, t) - x \rVert^2,
   \qquad w = \frac{1}{\operatorname{tr} V}, \qquad V = \frac{S\, \sigma^2 C}{\alpha^2 S + \sigma^2 C},

with :math:`V` the error per mode that the network starts from (here that of `SpectralPreconditioned`). An octave :math:`o` of
modes has the share :math:`v_o / \operatorname{tr} V` of it, :math:`v_o = \operatorname{tr}_o V`. At small noise :math:`V`
tends to :math:`\sigma^2 C / \alpha^2`, most of which is in the many modes of the finest octave. `DenoisingLoss(octaves=g)` is

.. math:: \sum_{o=1}^{n} \Bigl( \frac{n\, v_o}{\operatorname{tr} V} \Bigr)^{-g}
   \frac{\lVert D - x \rVert_o^2}{\operatorname{tr} V},

so that an octave whose error is still :math:`v_o` contributes :math:`n^{-g}\, (v_o / \operatorname{tr} V)^{1 - g}`: its share
of :math:`V` for :math:`g = 0`, and :math:`1 / n` for :math:`g = 1`.

**The noise law.** :math:`\ln(\sigma / \alpha)` is drawn from a normal law, restricted to the schedule's levels. That of
`Preconditioned` is EDM's. `SpectralPreconditioned` derives its own: mode :math:`k` turns from noise to data around
:math:`\sigma / \alpha = \sqrt{S_k / C_k}`, and `noise_law` has the mean of the logarithms of these turns, each octave counted
by the square root of its number of modes, and their variance plus :math:`\pi^2 / 12`, that of a single turn.

**What the network is told** is :math:`\tfrac14 \ln` of the level: of :math:`\sigma / \alpha` itself with `told="mode"`, or
times the noise's standard deviation at a point of the grid at hand with `told="point"`. White noise grows per point as the grid
is refined, so the second moves with the grid, and the first stays with what can be seen in the picture.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

from fnodiff import EDM, Box, FunctionSpaceSDE, Preconditioned, WhiteNoise
from fnodiff.data import Faces
from fnodiff.sde import DenoisingLoss, SpectralPreconditioned, fit_spectrum


class Zero(nn.Module):
    """A network that adds nothing, and remembers what it is told."""

    def forward(self, x, noise_level):
        self.told = float(noise_level.mean())
        return torch.zeros_like(x)


torch.manual_seed(0)
domain, shape = Box(2), (64, 64)
portraits = Faces(256).batch(range(256), shape)["x"]
portraits = portraits - portraits.mean((0, 2, 3), keepdim=True)
sde = FunctionSpaceSDE(WhiteNoise(domain, reference=shape), EDM(0.002, 200.0))

# %%
# The loss of the linear estimate, a network of zeros, on portraits, for two choices of :math:`S`. With the pixels' own spectrum
# it is about one at :math:`g = 0` and :math:`g = 1`, and less in between. With that of the portraits as functions
# (`cell_averages=True`) it is lower, as pixels have less of the finest modes than the functions that they average.

models = {
    averages: SpectralPreconditioned(Zero(), sde, fit_spectrum(portraits, domain, cell_averages=averages), shape)
    for averages in (False, True)
}
for averages, model in models.items():
    print(f"cell_averages={averages}:", end="")
    for g in (0.0, 0.5, 1.0):
        losses = torch.cat([DenoisingLoss(model, octaves=g)(portraits[:100]) for _ in range(4)])
        print(f"  g = {g:g}: {float(losses.mean()):.2f} +- {float(losses.std()) / len(losses) ** 0.5:.2f}", end="")
    print()

# %%
# The two noise laws, and what a network is told at :math:`\sigma = 1`:

laws = {"EDM's": Preconditioned.noise_law, "of the spectra": model.noise_law}
for name, (mean, std) in laws.items():
    print(f"{name}: mean of ln(sigma / alpha) {mean:.2f}, standard deviation {std:.2f}")
for told in ("point", "mode"):
    denoiser, levels = Preconditioned(Zero(), sde, told=told), []
    for n in (32, 64, 128):
        denoiser(torch.zeros(1, 1, n, n), sde.schedule.time(torch.tensor(1.0)))
        levels.append(f"{denoiser.backbone.told:.3f} at {n}x{n}")
    print(f'told="{told}": ' + ", ".join(levels))

# %%
# The expected loss by octaves at :math:`g = 0`, averaged over the two laws: EDM's looks at the finest more.

sigma = torch.logspace(-2.5, 2, 150, dtype=torch.float64)
variance = model.target_variance(sde.schedule.time(sigma), shape).flatten(1)
octave = domain.octaves(shape).flatten().clamp(max=6)  # the mean and six octaves; corners count with the sixth
share = torch.zeros(len(sigma), 7, dtype=torch.float64).index_add(1, octave, variance)
share = share / share.sum(1, keepdim=True)
densities = {name: torch.distributions.Normal(*law).log_prob(sigma.log()).exp() for name, law in laws.items()}
for name, density in densities.items():
    finest = (density * share[:, -2:].sum(1)).sum() / density.sum()
    print(f"{name}: {100 * float(finest):.0f}% of the loss in the two finest octaves")

# %%
# Above: what each octave contributes to the expected loss, coarse octaves at the bottom, named by their half-waves per side.
# Below: the two noise laws.

names, colors = (
    ["mean", "1", "2 to 3", "4 to 7", "8 to 15", "16 to 31", "32 to 63"],
    plt.cm.viridis(torch.linspace(0, 1, 7)),
)
figure, axes = plt.subplots(2, 3, figsize=(7.6, 4.2), sharex=True, sharey="row", height_ratios=[3, 1])
for (top, bottom), g in zip(axes.T, (0.0, 0.5, 1.0), strict=True):
    top.stackplot(sigma, (share.pow(1 - g) / 7**g).T, labels=names, colors=colors)
    top.set(title=f"$g = {g:g}$", ylim=(0, 1))
    for name, density in densities.items():
        bottom.plot(sigma, density, label=name)
    bottom.set(xscale="log", xlabel=r"$\sigma / \alpha$")
axes[0, 0].set_ylabel("expected loss")
axes[1, 0].set_ylabel("noise law")
top.legend(loc="center left", bbox_to_anchor=(1, 0.5), reverse=True, title="octave")
bottom.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
