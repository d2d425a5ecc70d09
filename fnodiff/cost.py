"""What a computation costs: seconds, and bytes at the peak beyond what was there before."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from fnodiff.domain import Shape
from fnodiff.sde import Denoiser, Plan, Solver, default_plan, default_solver
from fnodiff.sde.sampling import device_of


@dataclass(frozen=True)
class Cost:
    """Attributes: seconds of wall-clock time; peak bytes of tensors made on the way."""

    seconds: float
    bytes: int

    def __str__(self) -> str:
        return f"{_time(self.seconds)}, {self.bytes / 2**20:,.0f} MiB at the peak"


def measure(f: Callable[[], Any], device: torch.device | str = "cpu") -> Cost:
    """The cost of a call of `f`, warmed up by one call whose peak memory is taken, and timed on a second."""
    device = torch.device(device)
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        f()
        peak = torch.cuda.max_memory_allocated(device) - before
    else:
        peak = _peak_on_cpu(f)
    _wait(device)
    start = time.perf_counter()
    f()
    _wait(device)
    return Cost(time.perf_counter() - start, peak)


def keep_freed_memory() -> None:
    """Tell glibc to keep what a step frees for the next one, in this process, rather than return it page by page.

    Activations and gradients come and go with every step, and each page that comes back costs a fault: call it at the head of a
    program that trains or samples on a CPU, as the `fnodiff` command does. It makes sampling some 1.3 times as fast.
    """
    try:
        libc = ctypes.CDLL(None)
        keep = libc.mallopt
    except (OSError, TypeError, AttributeError):  # not Linux, or another allocator
        return
    for option, value in ((-1, 2**31 - 1), (-3, 2**30)):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
        keep(option, value)


def _peak_on_cpu(f: Callable[[], Any]) -> int:
    """The most that torch's allocator held at once, from its own record of every allocation."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler reports missing GPUs as errors
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profiler:
        f()
    records = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for record in sorted(records, key=lambda e: e.start_ns()):
        held += record.nbytes()
        peak = max(peak, held)
    return peak


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{1e3 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def sampling_cost(
    denoiser: Denoiser,
    shape: Shape | int,
    count: int,
    *,
    solver: Solver | None = None,
    plan: Plan | None = None,
    batch: int = 32,
    **condition: torch.Tensor,
) -> Cost:
    """What `sample` will take, from one evaluation of the denoiser on each grid of the plan.

    Args:
        denoiser, shape, solver, plan, batch: As for `sample`.
        count: How many samples.
        condition: Of one batch.

    Examples:
        >>> from fnodiff import EDM, Box, FunctionSpaceSDE, GaussianRandomField, Matern
        >>> from fnodiff.cost import sampling_cost
        >>> from fnodiff.sde import GaussianDenoiser
        >>> field = GaussianRandomField(Box(2), Matern(1.0, 0.3))
        >>> cost = sampling_cost(GaussianDenoiser(field, FunctionSpaceSDE(field, EDM())), 16, count=64)
        >>> cost.seconds > 0, cost.bytes > 0
        (True, True)
    """
    domain, solver = denoiser.sde.domain, solver or default_solver(denoiser)
    shape = domain.check_shape(shape)
    stages = (plan or default_plan(denoiser, shape)).plan(denoiser, shape, solver.times(denoiser.sde.schedule))
    device = device_of(denoiser, None)
    rows, one = min(batch, count), torch.ones((), device=device)
    seconds, most, state = 0.0, 0, 0
    for number, stage in enumerate(stages):
        x = denoiser.sde.prior((rows, denoiser.channels, *stage.shape), device=device)
        with torch.no_grad():
            cost = measure(partial(denoiser, x, one, **condition), device)
        ends = number == len(stages) - 1 or stages[number + 1].held is not None
        seconds += (stage.steps * solver.evaluations_per_step + ends) * cost.seconds
        most, state = max(most, cost.bytes), x.numel() * x.element_size()
    return Cost(-(-count // rows) * seconds, most + 4 * state)
