"""What is exact, and how nearly: sampling against closed forms of laws that are not stationary.

    python -m benchmarks.exactness                # all tables, some ten minutes of one core
    python -m benchmarks.exactness --only known   # one of them: known, laws, particles, mixtures, posteriors, bends, ...

The denoisers are exact (`benchmarks.oracles`), so that what is printed is what the sampler does. Costs are in passes of a
network: one for an evaluation, and one for each backward pass, as none is needed for its weights.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.bends import print_bends
from benchmarks.laws import BOX, DOMAINS, FINE, SMALL, amplitude, drawn, one_factor, process, spectrum_of, stationary
from benchmarks.oracles import Law, Mixture, conditional
from fnodiff import (
    EDM,
    VE,
    VP,
    Cascade,
    DPMSolver,
    FunctionSpaceSDE,
    GaussianRandomField,
    Matern,
    Progressive,
    WhiteNoise,
    sample,
    upscale,
)
from fnodiff.domain import Domain, Shape
from fnodiff.inverse import DPS, MatchModes, MomentMatching, PiGDM, PointObservation, Restriction, twisted
from fnodiff.sde import (
    DDIM,
    Cosine,
    Denoiser,
    EvenLogSNR,
    EvenTime,
    GaussianDenoiser,
    PredictorCorrector,
    ReplaceModes,
    SubVP,
    Wrapper,
    integrate,
)

EVEN = EvenLogSNR()


class Counted(Wrapper):
    """Counts a network's passes: one for an evaluation, one for each gradient of one."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser)
        self.passes = 0

    def forward(self, x_t: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        self.passes += 1
        x = self.denoiser(x_t, t, **condition)
        if x.requires_grad:
            x.register_hook(self._backward)
        return x

    def _backward(self, gradient: Tensor) -> None:
        self.passes += 1


# ---- known low modes ----------------------------------------------------------------------------------------------


@dataclass
class Found:
    """How the other modes were sampled: the conditional mean's share that was reached, and the spread around it."""

    slope: float
    variance: float
    passes: int


def known(law: Law, noise: str, hold, solver, small: Shape = SMALL, pairs: int = 100, members: int = 40) -> Found:
    """Samples given the modes below a coarse grid, against the conditional law."""
    domain, shape = law.domain, tuple(law.factors.shape[2:])
    counted = Counted(Mixture([law], process(domain, noise, shape), spectrum=spectrum_of(law)))
    low = domain.resample(law.sample(pairs, shape, torch.Generator().manual_seed(1)), small)
    mean, covariance = conditional(law, low, shape)

    def high(x: Tensor) -> Tensor:
        return (x - domain.resample(domain.resample(x, small), shape)).flatten(1)

    unit = high(torch.eye(covariance.shape[0], dtype=torch.float64).reshape(-1, 1, *shape))
    variance = float((unit.T @ covariance @ unit).diagonal().sum())
    seeds = range(pairs * members)
    x = upscale(counted, low.repeat_interleave(members, 0), shape, seeds, solver=solver, hold=hold, batch=len(seeds))
    found, expected = high(x.double()).unflatten(0, (pairs, members)), high(mean)
    slope = float((found.mean(1) * expected).sum() / expected.square().sum())
    return Found(slope, float(found.var(1).sum(1).mean()) / variance, counted.passes)


HOLDS = {
    "replacement, 36 levels": (ReplaceModes, DPMSolver(36)),
    "replacement, 12 levels, 8 corrections": (
        ReplaceModes,
        PredictorCorrector(12, corrections=8, snr=0.5, predictor=DPMSolver(2)),
    ),
    "MatchModes, 24 levels": (MatchModes, DPMSolver(24, EVEN)),
    "MatchModes, 60 levels": (MatchModes, DPMSolver(60, EVEN)),
}


def print_known() -> None:
    """The two laws of which the known modes say much."""
    print("Low modes known, 8 of 32 on Box(1): share of the conditional mean of the others / their variance around it")
    names = {(law, noise): f"{law}, {noise}" for law in ("amplitude", "one factor") for noise in ("white", "Matern")}
    print(f"{'':<40}" + "".join(f"{name:>22}" for name in names.values()) + f"{'passes':>8}")
    for label, (hold, solver) in HOLDS.items():
        found = [
            known(amplitude() if law == "amplitude" else one_factor(), noise, hold, solver) for law, noise in names
        ]
        cells = "".join(f"{f'{f.slope:.3f} / {f.variance:.3f}':>22}" for f in found)
        print(f"{label:<40}{cells}{max(f.passes for f in found):>8}", flush=True)


def print_laws(count: int = 10) -> None:
    """Laws drawn by seed, on every domain."""
    print(f"The same of {count} laws drawn by seed: the least and the largest share of the mean / variance")
    for name, (domain, shape, small) in DOMAINS.items():
        rows = {label: HOLDS[label] for label in ("replacement, 36 levels", "MatchModes, 24 levels")}
        rows["MatchModes, 16 iterations"] = (partial(MatchModes, iterations=16), DPMSolver(24, EVEN))
        for label, (hold, solver) in rows.items():
            found = [
                known(drawn(domain, shape, seed), "white" if seed % 2 else "matern", hold, solver, small, 50, 24)
                for seed in range(count)
            ]
            slopes, variances = sorted(f.slope for f in found), sorted(f.variance for f in found)
            cells = f"{slopes[0]:.3f} to {slopes[-1]:.3f} / {variances[0]:.3f} to {variances[-1]:.3f}"
            print(f"{name:<12}{label:<28}{cells}{max(f.passes for f in found):>8}", flush=True)


def weighted(law: Law, noise: str, runs: int = 4, particles: int = 64, levels: int = 48) -> tuple[float, float]:
    """Particles given values at five points: how far their mean is off, and their spread, in the posterior's spread."""
    domain, shape = law.domain, tuple(law.factors.shape[2:])
    generator = torch.Generator().manual_seed(1)
    mean, covariance = law.moments(shape)
    places = domain.points(shape, dtype=torch.float64).flatten(1)
    points = places[:, torch.randperm(places.shape[1], generator=generator)[:5]]
    noise_std = 0.3 * float(covariance.diagonal().mean().sqrt())
    values = domain.evaluate(law.sample(1, shape, generator), points)[0]
    values = values + noise_std * torch.randn(values.shape, generator=generator, dtype=torch.float64)
    sensing = domain.evaluate(torch.eye(len(mean), dtype=torch.float64).reshape(-1, 1, *shape), points)[:, 0].T
    seen = sensing @ covariance @ sensing.T + noise_std**2 * torch.eye(5, dtype=torch.float64)
    gain = torch.linalg.solve(seen, sensing @ covariance).T
    mean, covariance = mean + gain @ (values[0] - sensing @ mean), covariance - gain @ sensing @ covariance

    oracle = Mixture([law], process(domain, noise, shape), spectrum=spectrum_of(law))
    options = {"particles": particles, "steps": levels, "spacing": EVEN, "batch": particles, "all_particles": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = twisted(oracle, PointObservation(points, values, noise_std), shape, range(runs), **options)
    x, weights = x.double().flatten(2), domain.weights(shape, dtype=torch.float64).expand(shape).flatten()
    means, variance = x.mean(1), (weights * covariance.diagonal()).sum()
    error = (means.mean(0) - mean).square() - means.var(0) / runs
    spread = (weights * x.flatten(0, 1).var(0)).sum() / variance
    return float(((weights * error).sum() / variance).clamp(min=0).sqrt()), float(spread.sqrt())


def print_particles(count: int = 10) -> None:
    """Laws drawn by seed, on every domain, seen at points."""
    print(f"{count} laws drawn by seed, seen at 5 points, twisted with 64 particles, 48 levels, 4 runs:")
    print("error of the mean in posterior standard deviations, without chance, at most / least and largest spread")
    for name, (domain, shape, _) in DOMAINS.items():
        found = [weighted(drawn(domain, shape, seed), "white" if seed % 2 else "matern") for seed in range(count)]
        errors, spreads = zip(*found, strict=True)
        print(f"{name:<12}{max(errors):.2f} / {min(spreads):.2f} to {max(spreads):.2f}", flush=True)


# ---- mixtures -----------------------------------------------------------------------------------------------------


class LowModes(Restriction):
    """The modes that a coarse grid holds."""

    def observe(self, x: Tensor, domain: Domain) -> Tensor:
        return domain.resample(x, self.shape)


def mixture(apart: float, noise: str) -> tuple[Mixture, Tensor]:
    """Two fields whose means differ in mode 2 and in mode 12, and low modes that one of them has with odds of 9 to 1."""
    std = GaussianRandomField(BOX, Matern(1.0, 0.1)).std(BOX.eigenvalues(FINE, dtype=torch.float64))
    mean = torch.zeros(1, 1, *FINE, dtype=torch.float64)
    mean[..., 2], mean[..., 12] = 0.5 * apart * std[2], 0.5 * apart * std[12]
    mean, factors = BOX.synthesize(mean, FINE)[0], stationary(BOX, FINE, Matern(1.0, 0.1))
    both = Law(BOX, torch.cat([factors, mean[None]]))
    laws = [Law(BOX, factors, mean), Law(BOX, factors, -mean)]
    low = torch.zeros(1, 1, *SMALL, dtype=torch.float64)
    low[..., 2] = math.log(9) / apart * std[2]
    oracle = Mixture(laws, process(BOX, noise, FINE), spectrum=spectrum_of(both))
    return oracle, BOX.synthesize(low, SMALL)


def other(oracle: Mixture, x: Tensor) -> Tensor:
    """The probability that a sample is of the second component, (B,)."""
    return oracle.components(x.double(), torch.zeros(()))[1].softmax(0)[1]


def print_mixtures(count: int = 1000) -> None:
    """A mixture of two fields, the low modes known."""
    print("A mixture of two fields, 8 of 32 modes known: probability of the other component, exactly 0.100")
    cases = {"2 sd, white": (2.0, "white"), "4 sd, white": (4.0, "white"), "4 sd, Matern": (4.0, "matern")}
    print(f"{'':<40}" + "".join(f"{name:>16}" for name in cases) + f"{'passes':>8}")
    rows: dict[str, Callable[[Counted, Tensor], Tensor]] = {}
    for label, (hold, solver) in HOLDS.items():
        rows[label] = partial(
            lambda c, low, hold, solver: upscale(c, low, FINE, range(count), solver=solver, hold=hold, batch=count),
            hold=hold,
            solver=solver,
        )
    for particles, levels in ((9, 12), (128, 50)):
        rows[f"twisted, {particles} particles, {levels} levels"] = partial(
            lambda c, low, k, n: twisted(
                c,
                LowModes(SMALL, low[0], 0.01),
                FINE,
                range(max(25, 1500 // k)),
                particles=k,
                steps=n,
                batch=k,
                all_particles=True,
            ).flatten(0, 1),
            k=particles,
            n=levels,
        )
    for label, method in rows.items():
        cells, passes = "", 0
        for apart, noise in cases.values():
            oracle, low = mixture(apart, noise)
            counted = Counted(oracle)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                x = method(counted, low)
            runs = max(25, 1500 // int(label.split()[1])) if label.startswith("twisted") else 1
            passes = counted.passes // runs * (int(label.split()[1]) if runs > 1 else 1)
            cells += f"{float(other(oracle, x).mean()):>16.3f}"
        print(f"{label:<40}{cells}{passes:>8}", flush=True)


def print_posteriors(truths: int = 12, count: int = 60) -> None:
    """A mixture seen at points: the error of the components' weights."""
    print("A mixture of two fields seen at 6 points: mean error of the probability of a component")
    oracle, _ = mixture(3.0, "white")
    generator = torch.Generator().manual_seed(3)
    points = torch.rand(1, 6, generator=generator)
    errors: dict[str, list[float]] = {}
    spectrum = oracle.spectrum
    methods = {
        "DPS": DPS,
        "PiGDM": lambda d, y: PiGDM(d, y, sigma_data=1.0),
        "MomentMatching": MomentMatching,
        "MomentMatching, spectrum": lambda d, y: MomentMatching(d, y, spectrum),
    }
    for i in range(truths):
        truth = oracle.laws[i % 2].sample(1, FINE, generator)
        values = BOX.evaluate(truth, points)[0].float()
        values = values + 0.3 * torch.randn(values.shape, generator=generator)
        seen = PointObservation(points, values, noise_std=0.3)
        exact = _weight(oracle, seen)
        for name, method in methods.items():
            x = sample(method(oracle, seen), FINE, range(count), solver=DDIM(50, EVEN, eta=1.0), batch=count)
            errors.setdefault(name, []).append(float(other(oracle, x).mean()) - exact)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x = twisted(oracle, seen, FINE, range(6), particles=100, steps=50, batch=100, all_particles=True)
        errors.setdefault("twisted, 100 particles", []).append(float(other(oracle, x.flatten(0, 1)).mean()) - exact)
        errors.setdefault(f"by chance, {count} samples", []).append(math.sqrt(exact * (1 - exact) / count))
    for name, values in errors.items():
        print(f"{name:<28}{math.sqrt(sum(v * v for v in values) / len(values)):.3f}", flush=True)


def _weight(oracle: Mixture, seen: PointObservation) -> float:
    """The posterior probability of the second component."""
    log_p = []
    for law in oracle.laws:
        sensing = BOX.evaluate(torch.eye(FINE[0], dtype=torch.float64)[:, None], seen.points)[:, 0].T
        mean, covariance = law.moments(FINE)
        total = sensing @ covariance @ sensing.T + float(seen.noise_std) ** 2 * torch.eye(len(sensing)).double()
        r = seen.values.double().flatten() - sensing @ mean
        log_p.append(-0.5 * (r @ torch.linalg.solve(total, r) + total.logdet()))
    return float(torch.stack(log_p).softmax(0)[1])


# ---- plans and steps ----------------------------------------------------------------------------------------------


def print_plans(count: int = 4000) -> None:
    """Progressive and cascade plans on the law of one factor."""
    print(
        "Plans on the law of one factor: correlation of mode 1 with mode 9 / variance of mode 9, both of the exact ones"
    )
    law = one_factor()
    exact = BOX.analyze(law.factors)[:, 0]
    covariance = exact.T @ exact
    target = covariance[1, 9] / (covariance[1, 1] * covariance[9, 9]).sqrt()
    plans = {"direct": None, "progressive, budget 1": Progressive([SMALL], 1.0)}
    plans |= {
        "progressive, budget 0.1": Progressive([SMALL], 0.1),
        "progressive, budget 0.01": Progressive([SMALL], 0.01),
    }
    plans |= {"cascade, budget 0.1": Cascade([SMALL], through=(), budget=0.1)}
    plans |= {"cascade, budget 0.1, MatchModes": plans["cascade, budget 0.1"]}
    for name, plan in plans.items():
        cells = ""
        for noise in ("white", "matern"):
            oracle = Mixture([law], process(BOX, noise, FINE), spectrum=spectrum_of(law))
            hold = MatchModes if "Match" in name else ReplaceModes
            x = sample(oracle, FINE, range(count), solver=DPMSolver(40, EVEN), plan=plan, hold=hold, batch=count)
            c = BOX.analyze(x.double())[:, 0]
            c = c - c.mean(0)
            share = (c[:, 1] * c[:, 9]).mean() / (c[:, 1].square().mean() * c[:, 9].square().mean()).sqrt() / target
            cells += f"{f'{float(share):.2f} / {float(c[:, 9].square().mean() / covariance[9, 9]):.2f}':>16}"
        print(f"{name:<36}{cells}", flush=True)


def print_steps() -> None:
    """DPM-Solver++ at few steps, by schedule and spacing."""
    print("DPMSolver: root mean square error of ln variance per mode, Gaussian data, 12 and 24 levels")
    field = GaussianRandomField(BOX, Matern(1.0, 0.1))
    for schedule in (EDM(), VE(), VP(), SubVP(), Cosine()):
        sde = FunctionSpaceSDE(WhiteNoise(BOX, FINE), schedule)
        oracle, cells = GaussianDenoiser(field, sde), ""
        for spacing in (EvenTime(), EVEN):
            for levels in (12, 24):
                unit = BOX.synthesize(torch.eye(FINE[0], dtype=torch.float64)[:, None], FINE)
                times = spacing.times(schedule, levels)
                start = sde.marginal(unit, times[0])[1] * BOX.filter(unit, sde.noise.on(FINE).std)
                end = oracle(integrate(oracle, DPMSolver(levels), start, times), times[-1])
                found = BOX.analyze(end)[:, 0].diagonal().square()
                expected = field.std(BOX.eigenvalues(FINE, dtype=torch.float64)).square()
                level = schedule.ratio(times[-1]).square() * sde.noise.on(FINE).std(BOX.eigenvalues(FINE)).square()
                expected = expected.square() / (expected + level)
                cells += f"{float((found / expected).log().square().mean().sqrt()):>12.3f}"
        print(
            f"{type(schedule).__name__:<10}{'even in time':>14}{cells[:24]}{'even in log-SNR':>18}{cells[24:]}",
            flush=True,
        )


TABLES = {
    "known": print_known,
    "laws": print_laws,
    "particles": print_particles,
    "mixtures": print_mixtures,
    "posteriors": print_posteriors,
    "bends": print_bends,
    "plans": print_plans,
    "steps": print_steps,
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=TABLES, nargs="+", default=list(TABLES))
    for name in parser.parse_args().only:
        TABLES[name]()
        print()


if __name__ == "__main__":
    main()
