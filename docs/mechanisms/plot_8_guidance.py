r"""
Guidance without a classifier
=============================

A model that was trained with a condition, and also without, can be pushed towards the condition. `ClassifierFree` is the
denoiser

.. math:: D_w(x_t, t) = D(x_t, t \mid \varnothing) + w\, \bigl( D(x_t, t \mid c) - D(x_t, t \mid \varnothing) \bigr),

at two evaluations each. By :math:`C \nabla \ln p_t = (\alpha_t D - x_t) / \sigma_t^2` its score is that of

.. math:: p_t(x_t)\, p_t(c \mid x_t)^w \,/\, \text{constant}

at each time by itself. At :math:`w = 1` that is the conditional law, at :math:`w = 0` the unconditional one. For :math:`w >
1` it is sharpened towards the condition. The densities at different times then do not belong to one diffusion, so the
samples do not even have that law at :math:`t = 0`.

A network learns both denoisers at once when the condition is left out of some samples: `DenoisingLoss(model,
drop_condition=0.1)` gives label -1, or the field's mean. Here both are known in closed form. The data are three classes of
functions on an interval, equally likely, with means :math:`m_j` and one covariance :math:`S`. With
:math:`N = \alpha_t^2 S + \sigma_t^2 C`,

.. math:: D(x_t, t \mid j) = m_j + \alpha_t S N^{-1} (x_t - \alpha_t m_j), \qquad
   D(x_t, t \mid \varnothing) = \sum_j \pi_j\, D(x_t, t \mid j),

.. math:: \pi_j \propto \exp\bigl( -\tfrac12 \lVert N^{-1/2} (x_t - \alpha_t m_j) \rVert^2 \bigr).
"""

import math

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Ellipse
from torch.nn.functional import one_hot

from fnodiff import EDM, Box, DPMSolver, FunctionSpaceSDE, GaussianRandomField, Matern, WhiteNoise, sample
from fnodiff.sde import ClassifierFree, Denoiser, GaussianDenoiser

domain, n = Box(1), 64
data = GaussianRandomField(domain, Matern(smoothness=1.0, length_scale=0.2))
sde = FunctionSpaceSDE(WhiteNoise(domain, reference=(n,)), EDM(0.01, 100.0))
x = domain.points((n,))[0]
angles = torch.tensor([0.5, 7 / 6, 11 / 6]) * math.pi  # of the means, in the plane of modes 1 and 2
radius = 0.8
cosines = math.sqrt(2) * (math.pi * x).cos(), math.sqrt(2) * (2 * math.pi * x).cos()
means = radius * (angles.cos()[:, None] * cosines[0] + angles.sin()[:, None] * cosines[1])


class Mixture(Denoiser):
    """Exact for three classes of functions; label -1 is none."""

    def __init__(self):
        super().__init__(sde, channels=1)
        self.centred = GaussianDenoiser(data, sde)

    def forward(self, x_t, t, *, label):
        alpha, sigma = sde.marginal(x_t, t)
        apart = x_t - alpha * means[:, None, None]  # (class, sample, channel, point)
        each = means[:, None, None] + torch.stack([self.centred(a, t) for a in apart])

        def whiten(eigenvalues):
            return (
                alpha.square() * data.std(eigenvalues) ** 2 + sigma.square() * sde.noise.std(eigenvalues) ** 2
            ).rsqrt()

        distance = torch.stack([domain.norm(domain.filter(a, whiten)).square() for a in apart], dim=1)
        named = one_hot(label.clamp(min=0), len(means)).to(x_t)
        weight = torch.where(label[:, None] >= 0, named, (-0.5 * distance).softmax(1))
        return torch.einsum("bj,jbcx->bcx", weight, each)


# %%
# Samples of the three classes at three scales, from the same seeds. Printed are the length of the class means in the plane of
# modes 1 and 2, and the standard deviations around them in those modes and in the others, all over the true ones:

label = torch.arange(3).repeat(300)
std = data.std(domain.eigenvalues((n,)))
samples = {}
for scale in (0.0, 1.0, 3.0):
    guided = ClassifierFree(Mixture(), scale)
    samples[scale] = sample(guided, n, range(900), solver=DPMSolver(60), batch=900, label=label)
    c = domain.analyze(samples[scale])[:, 0].unflatten(0, (-1, 3))  # (sample, class, mode)
    length = c.mean(0)[:, 1:3].norm(dim=-1).mean() / radius
    spread = (c.var(0).mean(0) / std.square()).sqrt()
    print(f"scale {scale:g}: means {float(length):.2f}; spread in mode 1 {float(spread[1]):.2f},", end=" ")
    print(f"in mode 2 {float(spread[2]):.2f}, in modes 3 to 20 {float(spread[3:21].mean()):.2f}")

# %%
# Above: functions of each class (thin), the mean of all of its samples (dashed), and the true mean (thick). Below: modes 1 and
# 2 of all samples, with ellipses of one and two standard deviations of the true classes. At scale 0 the label says nothing. At
# scale 1 the samples fill the ellipses. At scale 3 they have left the side of their class that faces the others. Modes in which
# the classes do not differ are not changed.

figure, axes = plt.subplots(2, 3, figsize=(7.6, 5.0), sharex="row", sharey="row")
for (top, bottom), (scale, fields) in zip(axes.T, samples.items(), strict=True):
    c = domain.analyze(fields)[:, 0]
    for j in range(3):
        mine = fields[label == j][:, 0]
        top.plot(x, means[j], color=f"C{j}", linewidth=4, alpha=0.35)
        top.plot(x, mine[:3].T, color=f"C{j}", linewidth=0.5)
        top.plot(x, mine.mean(0), "--", color=f"C{j}", linewidth=1.5)
        bottom.scatter(*c[label == j][:, 1:3].T, s=1.5, color=f"C{j}")
        centre = radius * torch.stack([angles[j].cos(), angles[j].sin()])
        for width in (2, 4):
            bottom.add_patch(Ellipse(centre, *(width * std[1:3]), fill=False, linewidth=0.8))
    top.set(title=f"scale {scale:g}", xlabel="$x$", xticks=[0, 0.5, 1])
    bottom.set(xlabel="mode 1", xticks=[-2, 0, 2], aspect="equal")
axes[0, 0].set_ylabel("samples")
axes[1, 0].set_ylabel("mode 2")
plt.show()
