"""Data assimilation on Navier-Stokes: an ensemble is carried along a flow that a few sensors see, with errors.

The flow is the vorticity on the torus, with friction and a random forcing: in a unit of time

    w(t + 1) = 0.9 Phi(w(t)) + e,    e ~ (1 - 0.81) of the initial law,

with Phi the solver (nu = 5e-4, three halves of the grid's points, no other forcing). So the law of w is nearly steady, and a
state says of the next all but e. Ensembles begin with draws of that law. Rows:

    free run              members move by the solver and forcings of their own, without sensors
    next state            a model of x_{t+1} | x_t, each step sampled under its sensors (`assimilate`)
    next state, spectrum  the same, whose correction takes what a state leaves open as a stationary Gaussian field: of the
                          spectrum by which two samples of one state's next differ. The network is not differentiated
    windows, alone        a model of W states, each time under the sensors of the last W (`assimilate`)
    windows, composed     score-based data assimilation: those windows made a trajectory of all times (`smooth`); it is given
                          the sensors of later times too, as a smoother is
    EnKF, solver          an ensemble Kalman filter, localised and inflated, whose forecasts are the true solver's, with
                          forcings of the true law: it knows the equation, which the models have to learn
    EnKF, next state      the same filter, whose forecasts are samples of the model
    EnKF, 200 members     the same with --large members, not tuned (radius 0.5, no inflation): nearly what sensors allow

Of each row and time, means over the truths: error of the ensemble's mean, |mean - truth|, and spread, both as root mean squares
in units of the flow's standard deviation; spread / error, times sqrt((N + 1) / N), which is 1 for a calibrated ensemble of N;
CRPS in the same units; and processor seconds for each time and truth. Truths and sensors are fixed by --seed. The filters'
radius and inflation are tuned on other truths, by the CRPS or with `--tune error` by the error of the mean.

    python -m benchmarks.assimilation
    python -m benchmarks.assimilation --rows "next state" "EnKF, solver"
    python -m benchmarks.assimilation --train 2000 --models OUT    # trains both models first, so many steps each
"""

from __future__ import annotations

import argparse
import itertools
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.enkf import EnKF
from fnodiff import DFU, EDM, EDMScaling, GaussianRandomField, Matern, Model, MultiResolution, Torus, fit, sample
from fnodiff.data import ArrayFields, Augmented
from fnodiff.equations import navier_stokes
from fnodiff.inverse import MomentMatching, PointObservation, Trajectory, assimilate, smooth
from fnodiff.metrics import crps
from fnodiff.sde import Denoiser, DPMSolver, EvenLogSNR, Normalization, Solver, fit_spectrum
from fnodiff.train import Adam, Execution, Logging, keep_freed_memory

TORUS, KEPT, SCALE = Torus(2), 0.9, 25.0
SHIPPED = Path(__file__).parent.parent / "examples" / "models" / "assimilation"
STATES = 3
"""Of a window."""


def flowed(w: Tensor) -> Tensor:
    """Phi(w) of vorticities (B, 1, n, n)."""
    fine = tuple(3 * n // 2 for n in w.shape[2:])
    solved = navier_stokes.solve(TORUS.resample(w, fine), 1.0, 5e-4, dt=1.6 / max(fine))
    return TORUS.resample(solved, w.shape[2:])


def step(w: Tensor, generators: list[torch.Generator]) -> Tensor:
    """w(t + 1) of w(t), with forcings of the generators."""
    forcing = navier_stokes.initial_vorticity(w.shape, generator=generators, scale=SCALE)
    return KEPT * flowed(w) + math.sqrt(1 - KEPT**2) * forcing.to(w)


def flows(count: int, times: int, size: int, seed: int, begin: int = 6) -> Tensor:
    """Trajectories (times, count, 1, size, size) that have run for `begin` units of time."""
    generators = [torch.Generator().manual_seed(10_000 * seed + i) for i in range(count)]
    w = navier_stokes.initial_vorticity((count, 1, size, size), generator=generators, scale=SCALE).float()
    found = []
    for t in range(begin + times):
        w = step(w, generators) if t else w
        found.append(w)
    return torch.stack(found[begin:])


@dataclass
class Case:
    """Truths (T + 1, B, 1, n, n), from time 0, what was seen of each at 1 .. T, and members to begin with (B, N, 1, n, n)."""

    truths: Tensor
    points: Tensor
    values: Tensor  # (T, B, 1, P)
    noise_std: float
    every: int
    start: Tensor

    @classmethod
    def drawn(cls, args: argparse.Namespace, count: int, members: int, seed: int) -> Case:
        """Fixed by the seed; truths and members have no random number in common."""
        truths = flows(count, args.times + 1, args.size, seed)
        start = flows(count * members, 1, args.size, seed + 1)[0].unflatten(0, (count, members))
        generator = torch.Generator().manual_seed(seed)
        points = torch.rand(2, args.sensors, generator=generator)
        exact = TORUS.evaluate(truths[1:].flatten(0, 1), points).unflatten(0, truths[1:].shape[:2])
        noise_std = args.noise * float(truths.std())
        noise = torch.randn(exact.shape, generator=generator)
        return cls(truths, points, exact + noise_std * noise, noise_std, args.every, start)

    def seen(self, truth: int | None = None) -> list[PointObservation | None]:
        """Of one truth; None: of all of them, each as often as it has members, as a batch of samples is."""
        own = self.values[:, truth] if truth is not None else self.values.repeat_interleave(self.start.shape[1], 1)
        found = [PointObservation(self.points, values, self.noise_std) for values in own]
        return [one if t % self.every == 0 else None for t, one in enumerate(found, 1)]

    def by_truth(self, x: Tensor) -> Tensor:
        """Members (T, B N, ...) as (N, T, B, ...)."""
        return x.unflatten(1, self.start.shape[:2]).permute(2, 0, 1, *range(3, x.ndim + 1))


Scores = dict[str, Tensor]


def scores(x: Tensor, truths: Tensor) -> Scores:
    """Of members (N, T, B, 1, n, n) and truths (T, B, 1, n, n), at each time: (T,), in units of the truths' deviation."""
    unit, count = float(truths.std()), len(x)
    error = (x.mean(0) - truths).square().flatten(1).mean(1).sqrt() / unit
    spread = x.var(0).flatten(1).mean(1).sqrt() / unit
    score = crps(x.flatten(1, 2), truths.flatten(0, 1), TORUS).view(truths.shape[:2]).mean(1) / unit
    return {"error": error, "spread": spread, "ratio": math.sqrt((count + 1) / count) * spread / error, "CRPS": score}


def free(case: Case, seed: int) -> Tensor:
    """Members (N, T, B, ...) that no sensor moves."""
    x = case.start.flatten(0, 1)
    generators = [torch.Generator().manual_seed(10_000 * seed + i) for i in range(len(x))]
    return case.by_truth(torch.stack([x := step(x, generators) for _ in case.truths[1:]]))


def filtered(case: Case, forecast: Callable[[Tensor, int], Tensor] | None, filter_: EnKF, seed: int) -> Tensor:
    """Members (N, T, B, ...) of the EnKF; forecast None: the solver's."""
    found = []
    for truth, start in enumerate(case.start):
        generators = [torch.Generator().manual_seed(10_000 * seed + 1000 * truth + i) for i in range(len(start))]
        move = forecast or (lambda x, t, own=generators: step(x, own))
        found.append(filter_.run(start, case.seen(truth), move, torch.Generator().manual_seed(seed + truth)))
    return torch.stack(found, 2).transpose(0, 1)


def tuned(case: Case, radii: Sequence[float], inflations: Sequence[float], seed: int, by: str) -> EnKF:
    """The filter of the least CRPS, or error of the mean, over all times."""
    filters = [EnKF(TORUS, radius, inflation) for radius, inflation in itertools.product(radii, inflations)]
    return min(filters, key=lambda f: float(scores(filtered(case, None, f, seed), case.truths[1:])[by].mean()))


def turned(x: Tensor, shift: tuple[int, int], turn: int, mirror: bool) -> Tensor:
    """A symmetry of the flow: eighths of the side along both axes, quarters of a turn, and a mirror, which turns vorticity."""
    x = x.rot90(turn, (-2, -1))
    x = -x.flip(-1) if mirror else x
    return x.roll((shift[0] * x.shape[-2] // 8, shift[1] * x.shape[-1] // 8), (-2, -1))


def trained(folder: Path, steps: int, count: int, times: int, size: int) -> None:
    """Write both models, of flows that are solved here."""
    keep_freed_memory()
    torch.manual_seed(0)
    w = flows(count, times, size, seed=1)[:, :, 0].transpose(0, 1)
    shifts = itertools.product(range(8), range(8))
    maps = [partial(turned, shift=s, turn=k, mirror=m) for s in shifts for k in range(4) for m in (False, True)]
    network = partial(
        DFU.tiny, n_modes=(12, 12), dropout=0.0, channel_mult=(1, 1), local="operator", positional_modes=0
    )
    noise = GaussianRandomField(TORUS, Matern(1.5, 3**0.5 / 7))  # as the forcing is
    for name, states in {"next": 1, "window": STATES}.items():
        windows = torch.stack([w[:, i : times - states + i] for i in range(states + 1)], 2).flatten(0, 1)
        before = windows[:, :1] if name == "next" else None
        fields = Augmented(ArrayFields(windows[:, 1:], field=before, domain=TORUS), maps)
        data = MultiResolution(fields, TORUS, [size // 2, size], batch_size=16)
        scaling = EDMScaling(1.0, linear_estimate=True)
        model = Model.for_data(data, network, noise=noise, schedule=EDM(0.01, 10.0), scaling=scaling)
        model.normalization = Normalization((0.0,) * states, (float(w.std()),) * states)  # one unit for all states
        settings = {"optimizer": Adam(lr=3e-3, decay=True, ema_halflife=3000), "logging": Logging(progress=False)}
        fit(model, data, steps, folder=folder / name, resume="auto", execution=Execution(save_every=100), **settings)


def left_open(model: Model, x: Tensor, solver: Solver) -> Callable[..., MomentMatching]:
    """MomentMatching with the spectrum of what states x leave open of the next, by two samples for each."""
    twice = sample(model, tuple(x.shape[2:]), range(2 * len(x)), solver=solver, field=torch.cat([x, x]))
    apart = model.normalization(twice[: len(x)]) - model.normalization(twice[len(x) :])
    return partial(MomentMatching, spectrum=fit_spectrum(apart / math.sqrt(2), TORUS))


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", type=Path, default=SHIPPED, help="folder of the models next and window")
    add(
        "--train",
        type=int,
        metavar="STEPS",
        help="train both for so many steps, into --models; go on if they are there",
    )
    add("--flows", type=int, nargs=2, default=(32, 80), help="trajectories and times to train on")
    add("--size", type=int, default=32)
    add("--sensors", type=int, default=32)
    add("--noise", type=float, default=0.1, help="of the sensors' errors, in standard deviations of the flow")
    add("--every", type=int, default=1, help="times between two that sensors see")
    add("--times", type=int, default=10)
    add("--truths", type=int, default=4)
    add("--members", type=int, default=20)
    add("--large", type=int, default=200, help="members of the large EnKF; 0 for none")
    add("--steps", type=int, default=10, help="of the solver")
    add("--iterations", type=int, default=6, help="of MomentMatching")
    add("--rows", nargs="+", help="some of the rows, by their names or how these begin")
    add("--radii", type=float, nargs="+", default=[0.15, 0.2, 0.3], help="of the localisation")
    add("--inflations", type=float, nargs="+", default=[1.0, 1.15, 1.3, 1.5])
    add("--tune", choices=("CRPS", "error"), default="CRPS", help="what the filters are tuned by, on other truths")
    add("--seed", type=int, default=100)
    args = parser.parse_args(argv)
    if args.train and args.models == SHIPPED:
        parser.error("--train: expected --models, a folder to write the models into.")
    return args


def rows(args: argparse.Namespace, case: Case, best: EnKF) -> dict[str, Callable[[], Tensor]]:
    """By name, what makes the members (N, T, B, ...); `best` is the tuned filter."""
    size, start, solver = args.size, case.start.flatten(0, 1), DPMSolver(args.steps, EvenLogSNR())
    jacobian, seed = partial(MomentMatching, iterations=args.iterations), args.seed

    def run(
        model: Denoiser, method: Callable[..., MomentMatching] = jacobian, call: Callable = assimilate, **more: Any
    ) -> Tensor:
        x = call(model, case.seen(), size, range(len(start)), method=method, solver=solver, batch=40, **more)
        return case.by_truth(x)

    found = {"free run": lambda: free(case, seed + 5)}
    if (args.models / "next").is_dir():
        following = Model.from_pretrained(args.models / "next")

        def forecast(x: Tensor, t: int) -> Tensor:
            return sample(following, size, range(1000 * t, 1000 * t + len(x)), solver=solver, field=x)

        found["next state, spectrum"] = lambda: run(following, left_open(following, start[:16], solver), start=start)
        found["next state"] = lambda: run(following, start=start)
        found["EnKF, next state"] = lambda: filtered(case, forecast, best, seed + 6)
    if (args.models / "window").is_dir():
        window, times = Model.from_pretrained(args.models / "window"), len(case.truths) - 1
        found["windows, alone"] = lambda: run(window, states=STATES)
        if times >= STATES:
            found["windows, composed"] = lambda: run(Trajectory(window, times, states=STATES), call=smooth)
    found["EnKF, solver"] = lambda: filtered(case, None, best, seed + 7)
    if args.large:
        found[f"EnKF, {args.large} members"] = lambda: filtered(
            large(case, args, seed + 8), None, EnKF(TORUS, 0.5), seed + 9
        )
    return found


def large(case: Case, args: argparse.Namespace, seed: int) -> Case:
    """The case with more members."""
    many = flows(len(case.start) * args.large, 1, args.size, seed)[0]
    return replace(case, start=many.unflatten(0, (-1, args.large)))


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    args = options(argv)
    if args.train:
        trained(args.models, args.train, *args.flows, args.size)
    case = Case.drawn(args, args.truths, args.members, args.seed)
    best = EnKF(TORUS)
    names, wanted = list(rows(args, case, best)), tuple(args.rows or [""])
    if not any(name.startswith(wanted) for name in names):
        raise SystemExit(f"--rows: expected some of {', '.join(names)}, got {', '.join(wanted)}.")
    if {"EnKF, next state", "EnKF, solver"} & {name for name in names if name.startswith(wanted)}:
        others = Case.drawn(args, args.truths, args.members, args.seed + 2)
        best = tuned(others, args.radii, args.inflations, args.seed + 4, args.tune)
        print(f"EnKF: radius {best.radius:g}, inflation {best.inflation:g}, tuned by {args.tune}")
    times = sorted({t for t in (1, 2, 3, 4, 6, 8, 10, 15, 20, 30) if t <= args.times} | {args.times})
    print(f"{'time':<12}{''.join(f'{t:>7}' for t in times)}{'mean':>9}")
    for name, make in rows(args, case, best).items():
        if not name.startswith(wanted):
            continue
        begin = time.process_time()
        x = make()
        seconds = (time.process_time() - begin) / (args.times * args.truths)
        print(f"{name}: {seconds:.2f} s")
        for label, value in scores(x, case.truths[1:]).items():
            print(
                f"  {label:<10}{''.join(f'{float(value[t - 1]):>7.2f}' for t in times)}{float(value.mean()):>9.3f}",
                flush=True,
            )
    print(
        f"{args.truths} truths at {args.size} x {args.size}, {args.sensors} sensors with errors of {args.noise:g} at every "
        f"{args.every} of {args.times} times, {args.members} members; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {platform.machine()}"
    )


if __name__ == "__main__":
    main()
