"""What a computation costs: seconds, and bytes at the peak beyond what was there before."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


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

    Activations and gradients come and go with every step, and each page that comes back costs a fault. Training and `draw`
    call it.
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
