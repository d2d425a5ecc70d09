"""What networks cost on a GPU: forward, training step, samples a second and memory, beside diffusers' UNet2D; one command.

    python -m benchmarks.gpu

prints the machine, its driver and the versions, then tables within about ten minutes, and writes all of it to gpu.txt. The
first is of training steps by CUDA graphs, and `--only steps` ends there. Networks of the others are those of `benchmarks.speed`
at 32, 64, 96 and 128 points, and the paper's 128 channels at 96 and 160. A batch is the largest power of two, up to a limit,
that fits into memory for each network of a table. A step is forward, backward and Adam's. Samples a second are steps'
(training) and those of `DPMSolver(12)` without what goes around the network (sampling). What does not fit, or would take longer
than is left of the time, is a line that says so.

Without CUDA it says what it needs, with exit status 2. `--device cpu --quick` tries the code on tiny versions of all tables.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor, nn

from benchmarks.networks import MODES, WIDTH, evaluate, interleaved, makers
from benchmarks.speed import layer_table
from fnodiff import DFU
from fnodiff.cost import keep_freed_memory, measure
from fnodiff.sde import DPMSolver
from fnodiff.train.graphs import recorded

PAPER = {"hidden_channels": 128, "channel_mult": (1, 2, 2, 2), "num_blocks": 4}
EVALUATIONS = DPMSolver(12).evaluations
PEER = "diffusers UNet2D"
WAYS: dict[str, tuple[torch.dtype, bool]] = {
    "float32": (torch.float32, False),
    "bfloat16": (torch.bfloat16, False),
    "bfloat16, compiled": (torch.bfloat16, True),
    "float32, compiled": (torch.float32, True),
}


@dataclass(frozen=True)
class Networks:
    """Networks of one width: by name what makes them, and the largest batch that is tried."""

    name: str
    rows: dict[str, Callable[[], nn.Module]]
    largest_batch: int


@dataclass
class Clock:
    """The time that is left, and how long a row of its kind has taken at most."""

    end: float
    eager: float = 10.0
    compiled: float = 100.0

    def allows(self, compiled: bool) -> bool:
        """Whether another row is likely to end in time."""
        return time.monotonic() + (self.compiled if compiled else self.eager) < self.end

    def note(self, compiled: bool, seconds: float) -> None:
        """A row that was run."""
        if compiled:
            self.compiled = max(self.compiled, seconds)
        else:
            self.eager = max(self.eager, seconds)


class Both:
    """Text for the screen and for a file."""

    def __init__(self, *streams: TextIO) -> None:
        self.streams = streams

    def write(self, text: str) -> int:
        """To all of them."""
        for stream in self.streams:
            stream.write(text)
        return len(text)

    def flush(self) -> None:
        """All of them."""
        for stream in self.streams:
            stream.flush()


def machine(device: str) -> str:
    """The device, its driver, and the versions of what is measured."""
    lines = []
    if device == "cuda":
        found = torch.cuda.get_device_properties(0)
        lines.append(
            f"{found.name}, {found.total_memory / 2**30:.0f} GiB, compute capability {found.major}.{found.minor}"
        )
        driver = "unknown, as there is no nvidia-smi"
        if (program := shutil.which("nvidia-smi")) is not None:
            command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
            answer = subprocess.run(command, capture_output=True, text=True, check=False)
            driver = answer.stdout.strip().splitlines()[0] if answer.stdout.strip() else "unknown"
        lines.append(f"driver {driver}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
    else:
        lines.append(f"{device}, {platform.machine()}, {torch.get_num_threads()} threads")
    packages = ("torch", "neuraloperator", "torch-harmonics", "diffusers")
    lines.append(f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in packages))
    lines.append("float32: products and convolutions in TF32 where the device has it; bfloat16: under autocast")
    return "\n".join(lines)


def version(package: str) -> str:
    """Of a package, or that there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def train(net: nn.Module, adam: torch.optim.Optimizer, x: Tensor, level: Tensor) -> None:
    """Forward, backward and Adam's step."""
    net(x, level).square().mean().backward()
    adam.step()
    adam.zero_grad(set_to_none=True)


def trainable(make: Callable[[], nn.Module], device: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A network on the device, and its optimizer."""
    net = make().to(device)
    return net, torch.optim.Adam(net.parameters(), lr=1e-6, fused=True)


def inputs(batch: int, n: int, device: str) -> tuple[Tensor, Tensor]:
    """A batch of fields, and noise levels."""
    return torch.randn(batch, 3, n, n, device=device), torch.zeros(batch, device=device)


def held_bytes(net: nn.Module) -> int:
    """Weights and Adam's two averages."""
    return 3 * sum(p.numel() * p.element_size() for p in net.parameters())


def fitting(networks: Networks, n: int, device: str) -> tuple[int, dict[str, str]]:
    """The batch that fits into memory for all networks, and why those that fit none are left out; by one and two samples."""
    batch, without = networks.largest_batch, {}
    if device != "cuda":
        return batch, without
    for name, make in networks.rows.items():
        torch.cuda.empty_cache()
        free = 0.85 * torch.cuda.mem_get_info()[0]
        try:
            net, adam = trainable(make, device)
            train(net, adam, *inputs(1, n, device))  # which makes Adam's averages
            one, two = (measure(partial(train, net, adam, *inputs(b, n, device)), device).bytes for b in (1, 2))
            always, sample = held_bytes(net) + max(0, 2 * one - two), max(1, two - one)
        except torch.OutOfMemoryError:
            without[name] = f"one sample does not fit into the {free / 2**30:.1f} GiB that are free"
            continue
        finally:
            net = adam = None
        batch = min(batch, max(1, int((free - always) / sample)))
    return 1 << (batch.bit_length() - 1), without


def row(make: Callable[[], nn.Module], n: int, batch: int, way: str, repeats: int, device: str, backend: str) -> Any:
    """Seconds of a forward pass and of a step, bytes at the peak, and seconds to compile both."""
    dtype, compiled = WAYS[way]
    net, adam = trainable(make, device)
    held = held_bytes(net)
    called = torch.compile(net, dynamic=False, backend=backend) if compiled else net
    x, level = inputs(batch, n, device)
    with torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
        tasks = {"forward": partial(evaluate, called, x, level), "step": partial(train, called, adam, x, level)}
        start = time.perf_counter()
        for task in tasks.values():
            task()
        first = time.perf_counter() - start
        seconds = interleaved(tasks, repeats)
        memory = held + measure(tasks["step"], device).bytes
    return seconds["forward"], seconds["step"], memory, first


def table(
    networks: Networks, n: int, batch: int, without: dict[str, str], way: str, options: Any, clock: Clock
) -> None:
    """All networks at one size, in one way."""
    compiled = WAYS[way][1]
    print(f"\n{networks.name}, {n}x{n}, batch {batch}, {way}")
    print(
        f"  {'':<28}{'forward':>12}{'step':>12}{'sampling':>12}{'training':>12}{'memory':>12}{'step / ' + PEER:>24}"
        + f"{'compiled in':>14}" * compiled
    )
    peer = None
    for name in sorted(networks.rows, key=lambda name: name != PEER):  # first, for the ratios
        if name in without:
            print(f"  {name:<28}left out: {without[name]}", flush=True)
            continue
        if not clock.allows(compiled):
            print(f"  {name:<28}left out: less time is left than a row takes; give it more with --minutes", flush=True)
            continue
        start = time.monotonic()
        try:
            forward, step, memory, first = row(
                networks.rows[name], n, batch, way, options.repeats, options.device, options.backend
            )
        except torch.OutOfMemoryError:
            print(f"  {name:<28}left out: a batch of {batch} does not fit into memory", flush=True)
        except RuntimeError as error:  # what the compiler raises
            print(
                f"  {name:<28}failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}", flush=True
            )
        else:
            clock.note(compiled, time.monotonic() - start)
            peer = step if name == PEER else peer
            print(
                f"  {name:<28}{1e3 * forward:>9.2f} ms{1e3 * step:>9.2f} ms{batch / forward / EVALUATIONS:>10.1f}/s"
                f"{batch / step:>10.1f}/s{memory / 2**20:>8.0f} MiB{'-' if peer is None else f'{step / peer:.2f}':>24}"
                + (f"{first:>12.1f} s" if compiled else ""),
                flush=True,
            )
        if compiled:
            torch.compiler.reset()
        if options.device == "cuda":
            torch.cuda.empty_cache()


def recorded_table(n: int, batches: list[int], repeats: int, device: str) -> None:
    """A training step of `DFU.small` as it is, and by CUDA graphs; on a CPU, which has none, as it is."""
    print(f"\na training step of DFU.small at {n}x{n}, float32; of CUDA graphs: Execution(cuda_graphs=True)")
    print(f"  {'batch':<12}{'as it is':>14}{'CUDA graphs':>14}{'gain':>10}")
    for batch in batches:
        x, level = inputs(batch, n, device)
        net, adam = trainable(partial(DFU.small, 3, 3, reference=(n, n)), device)
        other, others = trainable(partial(DFU.small, 3, 3, reference=(n, n)), device)
        with recorded(other) if device == "cuda" else nullcontext():
            tasks = {"plain": partial(train, net, adam, x, level), "recorded": partial(train, other, others, x, level)}
            for task in tasks.values():
                task()
            seconds = interleaved(tasks, repeats)
        plain, graphs = (1e3 * seconds[name] for name in tasks)
        print(f"  {batch:<12}{plain:>11.2f} ms{graphs:>11.2f} ms{plain / graphs:>10.2f}", flush=True)


def tables(options: Any) -> None:
    """All tables, those that say most first."""
    small = Networks("32 channels", makers(WIDTH, MODES, (32, 32)), 256)
    paper = Networks("the paper's 128 channels", makers(PAPER, MODES, (64, 64)), 256)
    sizes, large, layers = [32, 64, 96, 128], [96, 160], {"channels": 128, "batch": 32}
    if options.quick:
        tiny = {"hidden_channels": 8, "channel_mult": (1, 1), "num_blocks": 0}
        small = Networks("8 channels", makers(tiny, (8, 8), (8, 8)), 2)
        paper = Networks("8 channels, for the paper's 128", makers(tiny, (8, 8), (8, 8)), 1)
        sizes, large, layers = [16], [24], {"channels": 4, "batch": 1}
    device, repeats, clock = options.device, options.repeats, Clock(time.monotonic() + 60 * options.minutes)
    recorded_table(sizes[0], [2] if options.quick else [16, 64, 256], repeats, device)
    if options.only == "steps":
        return
    layer_table(sizes, layers["batch"], repeats, device, layers["channels"])
    layer_table(sizes[-1:], layers["batch"], repeats, device, layers["channels"], options.backend)
    torch.compiler.reset()
    fit = {}
    for networks, grids in ((small, sizes), (paper, large)):
        for n in grids:
            fit[networks.name, n] = fitting(networks, n, device)
            for way in ("float32", "bfloat16"):
                table(networks, n, *fit[networks.name, n], way, options, clock)
    middle = 64 if 64 in sizes else sizes[0]
    order = [
        (small, middle),
        (paper, large[0]),
        *((small, n) for n in sizes if n != middle),
        *((paper, n) for n in large[1:]),
    ]
    for way in ("bfloat16, compiled", "float32, compiled")[: 1 if options.quick else 2]:
        for networks, n in order[: 1 if options.quick else None]:
            table(networks, n, *fit[networks.name, n], way, options, clock)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny networks, to try the code")
    parser.add_argument("--minutes", type=float, default=9.0, help="no row begins that would not end by then")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--only", choices=("steps",), help="the first table alone: steps as they are, and by CUDA graphs"
    )
    parser.add_argument("--backend", help="of torch.compile: inductor, on a CPU eager, which traces only")
    parser.add_argument("--out", type=Path, default=Path("gpu.txt"))
    options = parser.parse_args()
    missing = options.device == "cuda" and not torch.cuda.is_available()
    if missing or (options.device == "cpu" and not options.quick):
        sees = "none" if missing else "the CPU that was asked for"
        print(
            f"benchmarks.gpu: expected an NVIDIA GPU with its driver, and a torch built for CUDA (this is {torch.__version__}, "
            f"which sees {sees}); 16 GiB of its memory hold all networks. To try the code without one: --device cpu --quick. "
            f"For speed on a CPU: python -m benchmarks.speed.",
            file=sys.stderr,
        )
        raise SystemExit(2)
    options.backend = options.backend or ("inductor" if options.device == "cuda" else "eager")
    if options.quick:
        options.repeats = 1
    keep_freed_memory()
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    start = time.monotonic()
    with options.out.open("w") as file, redirect_stdout(Both(sys.stdout, file)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        print(machine(options.device))
        tables(options)
        print(f"\n{time.monotonic() - start:.0f} s in all")


if __name__ == "__main__":
    main()
