"""The log density of a model's law relative to its noise, by the probability flow.

In y = x_t / alpha_t and s = sigma_t / alpha_t the flow is dy / ds = (y - D) / s. Relative to N(0, s^2 C), the law that noise
alone has at level s, the log density l of the flow's law changes along a path by

    dl / d ln s = tr(dD / dy) - <y, D>_C / s^2,    <a, b>_C = <a, C^-1 b>,

and <y, D>_C / s^2 is minus the change of <y, y>_C / (2 s^2). At the highest level l = 0, so that at the lowest, s_0,

    l(y_0) = <y_0, y_0>_C / (2 s_0^2) - <y_1, y_1>_C / (2 s_1^2) - integral of tr(dD / dy) d ln s.

Both sums and the trace are over the modes that the grid holds. The trace is stochastic, E <v, (dD / dy) v> over white v, about
that of the best linear estimate, which is known, if the model knows its spectrum.

For Gaussian data of variance S per mode, S ~ k^-p and C ~ k^-q in d dimensions, l stays finite as the grid is refined if and
only if p - q > d / 2: otherwise data and noise are mutually singular, and l grows with the grid.

Source: Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole (2021), Score-based generative modeling through SDEs, appendix D.2;
Feldman (1958) and Hajek (1958) on when Gaussian measures are equivalent.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from fnodiff.domain import as_floats, has_double, in_double
from fnodiff.expected import at_least, kinds_checked
from fnodiff.sde.denoiser import Denoiser, condition_rows, evaluating
from fnodiff.sde.given import Given
from fnodiff.sde.spectrum import linear_estimate, spectra, wiener_gain


@kinds_checked
def log_likelihood(
    denoiser: Denoiser,
    x: Tensor,
    *,
    steps: int = 64,
    probes: int = 1,
    noisy: bool = False,
    seed: int = 0,
    batch: int = 32,
    **condition: Any,
) -> Tensor:
    """log p(y) / r(y) of y = x + s_0 z: p the model's law at its lowest noise level s_0, r = N(0, s_0^2 C); in total.

    It is a number of the function, not of its pixels: on finer grids it converges, where data and noise are equivalent, and a
    density per pixel grows. It is positive, on the average, for what the model samples, and negative for noise alone.

    Args:
        denoiser: A model, or an exact denoiser.
        x: Fields (B, C, *spatial), or one (C, *spatial), in data units.
        noisy: Whether x has the noise of the lowest level in it already; by default it is added, by the seed: one seed is one
            function on every grid, and without it l would be that of a field which the law at s_0 never draws.
        steps: Of the probability flow, evenly in ln s, each of two estimates and `probes` gradients.
        probes: Draws of the stochastic trace. Its error falls as one over their root.
        seed: Of the noise and the trace's draws.
        batch: Fields at a time.
        condition: As of `sample`: one for all fields, or one for each.

    Returns:
        (B,), float64, on the CPU.

    Raises:
        ValueError: If x is no field on the domain or not finite, or steps or probes are not positive.

    Warns:
        UserWarning: If the spectrum says that it grows with the grid: p - q <= d / 2.

    Examples:
        >>> import torch
        >>> from fnodiff import EDM, FunctionSpaceSDE, GaussianRandomField, Matern, Torus, WhiteNoise
        >>> from fnodiff.sde import GaussianDenoiser, log_likelihood
        >>> field = GaussianRandomField(Torus(1), Matern(1.0, 0.3))
        >>> exact = GaussianDenoiser(field, FunctionSpaceSDE(WhiteNoise(Torus(1), (16,)), EDM(sigma_min=0.1)))
        >>> x = field.sample((1, 1, 32), generator=torch.Generator().manual_seed(0))
        >>> bool(log_likelihood(exact, x) > 0), bool(log_likelihood(exact, 0 * x) > 0)  # data, and noise alone
        (True, False)
    """
    at_least("log_likelihood", 1, batch=batch)
    at_least("log_likelihood", 0, seed=seed)
    sde, domain = denoiser.sde, denoiser.sde.domain
    x = as_floats(x, "x")
    x = x[None] if x.ndim == domain.dim + 1 else x
    shape = domain.check_field(x)
    if not bool(x.isfinite().all()) or steps < 1 or probes < 1:
        raise ValueError(
            f"log_likelihood: expected finite fields, steps >= 1 and probes >= 1, got {int((~x.isfinite()).sum())} values not "
            f"finite, steps={steps!r} and probes={probes!r}; mend those."
        )
    if denoiser.spectrum is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = sde.check(denoiser.spectrum, shape)
        apart = found["data_exponent"] - found["noise_exponent"]
        if apart <= domain.dim / 2:
            warnings.warn(
                f"log_likelihood: the data's modes fall as k^-{found['data_exponent']:.2f} and the noise's as "
                f"k^-{found['noise_exponent']:.2f}, apart by {apart:.2f}, no more than half the dimension, {domain.dim / 2:g}: "
                f"the log density grows with the grid without end; compare on one grid, or take a rougher noise.",
                stacklevel=3,
            )
    given = condition_rows(denoiser, condition, len(x)) if condition else {}
    device = next(denoiser.parameters(), x).device
    out = []
    denoiser = denoiser.among(len(x)) if len(x) > batch else denoiser
    with torch.inference_mode(False), evaluating(denoiser):
        for first in range(0, len(x), batch):
            part = slice(first, first + batch)
            rows = denoiser.rows(part) if len(x) > batch else denoiser
            inner = Given(rows, **{name: value[part] for name, value in given.items()}) if given else rows
            y = denoiser.normalization(x[part].clone().to(device))
            generators = [torch.Generator().manual_seed(int(seed) + 1000003 * i) for i in range(first, first + len(y))]
            if not noisy:
                lowest = sde.schedule.ratio(torch.zeros((), dtype=torch.float64)).to(y)
                y = y + lowest * sde.noise.sample(y.shape, generator=generators, device=device, dtype=y.dtype)
            out.append(_along(inner, y, steps, probes, generators))
    return torch.cat(out)


def _along(denoiser: Denoiser, y: Tensor, steps: int, probes: int, generators: list[torch.Generator]) -> Tensor:
    """l of states y at the lowest level, (B,) on the CPU, by Heun's method in w = y / s, for which dw / d(1 / s) = D."""
    sde, domain = denoiser.sde, denoiser.sde.domain
    y = domain.resample(y, tuple(y.shape[2:]))  # the modes that the grid holds
    ends = sde.schedule.ratio(torch.tensor([0.0, 1.0], dtype=torch.float64)).log()
    levels = torch.linspace(float(ends[0]), float(ends[1]), steps + 1, dtype=torch.float64).exp()
    times = sde.schedule.time(levels).clamp(0, 1)
    w, dtype, device = in_double(y) / levels[0], y.dtype, y.device
    times = times.to(w.device)
    lowest, total = _energy(denoiser, y) / levels[0] ** 2, torch.zeros(len(y), dtype=torch.float64)
    estimate, trace = _estimate(denoiser, y, times[0], probes, generators)
    for i in range(steps):
        s, change = levels[i + 1], 1 / levels[i + 1] - 1 / levels[i]
        with torch.no_grad():
            ahead = (s * (w + change * in_double(estimate))).to(dtype).to(device)
            there = _call(denoiser, ahead, times[i + 1])
        w = w + 0.5 * change * in_double(estimate + there)
        estimate, following = _estimate(denoiser, (s * w).to(dtype).to(device), times[i + 1], probes, generators)
        total += 0.5 * (trace + following) * float((levels[i + 1] / levels[i]).log())
        trace = following
    return (lowest - _energy(denoiser, w)).cpu() - total


def _energy(denoiser: Denoiser, y: Tensor) -> Tensor:
    """<y, y>_C / 2, over the modes of the grid, (B,)."""
    domain, shape = denoiser.sde.domain, tuple(y.shape[2:])
    eigenvalues, mult = (f(shape, dtype=torch.float64) for f in (domain.eigenvalues, domain.multiplicity))
    y = in_double(y)
    variance = denoiser.sde.noise.on(shape).std(eigenvalues.to(y.device)).square()
    return 0.5 * (mult.to(y.device) * domain.analyze(y).abs().square() / variance).flatten(1).sum(1)


def _call(denoiser: Denoiser, y: Tensor, t: Tensor) -> Tensor:
    return denoiser(denoiser.sde.marginal(y, t)[0] * y, t)


def _estimate(
    denoiser: Denoiser, y: Tensor, t: Tensor, probes: int, generators: list[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """D, and the trace of dD / dy of each sample, (B,), float64, on the CPU."""
    sde, domain, spectrum = denoiser.sde, denoiser.sde.domain, denoiser.spectrum
    shape, total = tuple(y.shape[2:]), torch.zeros(len(y), dtype=torch.float64)
    weights = domain.weights(shape, device=y.device, dtype=y.dtype)
    sums = torch.float64 if has_double(y.device) else None
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        estimate = _call(denoiser, y, t)
        for probe in range(probes):
            v = domain.white(tuple(y.shape[:2]), shape, generator=generators, device=y.device, dtype=y.dtype)
            v = domain.synthesize(v, shape)
            product = (estimate * weights * v).sum()
            (gradient,) = torch.autograd.grad(product, y, retain_graph=probe < probes - 1)
            if spectrum is not None:
                alpha_t = sde.marginal(v, t)[0]
                gradient = gradient - weights * linear_estimate(sde, spectrum, alpha_t * v, t)
            total += (gradient * v).flatten(1).sum(1, dtype=sums).cpu() / probes
    if spectrum is not None:
        eigenvalues, mult = (f(shape, dtype=torch.float64) for f in (domain.eigenvalues, domain.multiplicity))
        alpha_t, sigma_t = sde.schedule(t.double().cpu())
        gain = alpha_t * wiener_gain(*spectra(sde, spectrum, eigenvalues, shape), alpha_t, sigma_t)
        total += (mult * gain).sum() * (1 if gain.ndim > mult.ndim else y.shape[1])
    return estimate.detach(), total
