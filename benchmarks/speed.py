"""What a DFU costs: layer by layer and whole, against the same UNet and other networks, side by side in one run.

Every time is the median of interleaved repetitions after a warm-up, so that all rows see the same machine; read the ratios, as
milliseconds belong to a machine. The network is that of the speed target: 32 channels, multipliers 1-2-2-2, 2 blocks per level,
the paper's modes.

`--peer FILE.py` adds a row for another implementation. The file defines

    def make(in_channels, out_channels, hidden_channels, channel_mult, num_blocks): ...

which returns a module that is called as net(x, noise_level), (B, C, H, W), (B,) -> (B, C, H, W).
"""

from __future__ import annotations

import argparse
import math
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.networks import MODES, Stock, evaluate, interleaved, networks, step
from fnodiff import EDM, Box, EDMScaling, FunctionSpaceSDE, GaussianRandomField, Matern, Model, SpectralScaling
from fnodiff.cost import measure
from fnodiff.nn import CosineConv, DualConv, LocalConv, SpectralConv
from fnodiff.nn.modes import Modes
from fnodiff.sde import DenoisingLoss
from fnodiff.train import keep_freed_memory

WAYS = ("product", "axes", "fft")
KINDS = {
    "GEMM": ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm"),
    "FFT": ("aten::_fft_r2c", "aten::_fft_c2r", "aten::_fft_c2c"),
    "convolution": (
        "aten::mkldnn_convolution",
        "aten::convolution_backward",
        "aten::cudnn_convolution",
        "aten::_slow_conv2d_forward",
        "aten::_slow_conv2d_backward",
    ),
}


def layer_table(
    sizes: list[int], batch: int, repeats: int, device: str, channels: int = 32, backend: str | None = None
) -> None:
    """A convolution, our spectral convolution and neuralop's, channels to channels; with a compiler's backend, compiled."""
    rows = {
        "3x3 convolution": LocalConv(channels, channels, domain=Box(2)),
        "SpectralConv": SpectralConv(channels, channels, MODES, domain=Box(2), bias=False),
        "CosineConv, even": CosineConv(channels, channels, MODES, domain=Box(2), bias=False),
        "CosineConv, all": CosineConv(channels, channels, MODES, domain=Box(2), kernels="all", bias=False),
        "neuralop's SpectralConv": Stock(channels, channels, MODES, domain=Box(2), bias=False),
    }
    rows = {name: layer.to(device) for name, layer in rows.items()}
    if backend is not None:
        del rows["neuralop's SpectralConv"]  # its complex numbers are not compiled
        rows = {name: torch.compile(layer, dynamic=False, backend=backend) for name, layer in rows.items()}
    how = "" if backend is None else f", compiled ({backend})"
    print(f"\none layer, {channels} channels, batch {batch}{how}; ms forward / forward and backward")
    print(f"{'':<26}" + "".join(f"{n:>16}" for n in sizes))
    found: dict[str, list[str]] = {name: [] for name in rows}
    for n in sizes:
        x = torch.randn(batch, channels, n, n, device=device, requires_grad=True)
        both = [
            interleaved({name: partial(f, layer, x) for name, layer in rows.items()}, repeats) for f in (evaluate, step)
        ]
        for name in rows:
            found[name].append(f"{1e3 * both[0][name]:.2f} / {1e3 * both[1][name]:.2f}")
    for name, cells in found.items():
        print(f"{name:<32}" + "".join(f"{cell:>16}" for cell in cells), flush=True)


def way_table(sizes: list[int], batch: int, repeats: int, device: str) -> None:
    """The ways between a grid and its modes; the cost model of `fnodiff.nn.modes` is right where its choice is the fastest."""
    print(f"\nto the modes and back, 32 channels, batch {batch}; ms forward and backward, * the way that is chosen")
    print(f"{'grid and modes':<26}" + "".join(f"{way:>12}" for way in WAYS) + f"{'chosen / best':>16}")
    for n in sizes:
        for count in sorted({8, 16, 32, n // 2, n}):
            if count > n:
                continue
            low = count // 2
            bands = ((low, count - low - 1), (0, low))
            modes = Modes((n, n), (n, n), bands, "forward", centred=(True, True)).held()
            x = torch.randn(batch, 32, n, n, device=device, requires_grad=True)

            def there_and_back(way: str, modes: Modes = modes, x: Tensor = x) -> None:
                modes.synthesize(modes.analyze(x, way), way).square().sum().backward()

            ways = [way for way in WAYS if way != "product" or n * n * math.prod(modes.counts) < 2**22]
            seconds = interleaved({way: partial(there_and_back, way) for way in ways}, repeats)
            chosen = modes.way((n, n))
            cells = [
                f"{1e3 * seconds[way]:.2f}{'*' if way == chosen else ' '}" if way in seconds else "-" for way in WAYS
            ]
            print(
                f"{f'{n}x{n}, {modes.counts[0]}x{modes.counts[1]} modes':<26}"
                + "".join(f"{cell:>12}" for cell in cells)
                + f"{seconds[chosen] / min(seconds.values()):>16.2f}",
                flush=True,
            )


def gflops(net: nn.Module, x: Tensor, level: Tensor) -> float:
    """Of a forward pass, a sample; products and convolutions are counted, FFTs are not."""
    with FlopCounterMode(display=False) as counter:
        evaluate(net, x, level)
    return counter.get_total_flops() / 1e9 / len(x)


def network_table(rows: dict[str, nn.Module], sizes: list[int], batches: list[int], repeats: int, device: str) -> None:
    """Forward, step and memory of every network, beside diffusers' where it is installed, and how they grow."""
    base = "diffusers UNet2D" if "diffusers UNet2D" in rows else "UNet"
    per_sample: dict[str, dict[int, float]] = {name: {} for name in rows}
    print(f"\nnetworks; / is the row's time over that of {base}; GFLOP of a forward pass, a sample, without FFTs")
    for n, batch in zip(sizes, batches, strict=True):
        x, level = torch.randn(batch, 3, n, n, device=device), torch.zeros(batch, device=device)
        forward, both = (
            interleaved({name: partial(f, net, x, level) for name, net in rows.items()}, repeats if n < 128 else 2)
            for f in (evaluate, step)
        )
        print(f"\n{f'{n}x{n}, batch {batch}':<34}{'GFLOP':>8}{'forward':>11}{'/':>6}{'step':>11}{'/':>6}{'memory':>12}")
        for name, net in rows.items():
            memory = measure(partial(step, net, x, level), device).bytes if n <= 128 else None
            per_sample[name][n] = both[name] / batch
            print(
                f"  {name:<32}{gflops(net, x, level):>8.2f}{1e3 * forward[name]:>8.0f} ms{forward[name] / forward[base]:>6.2f}"
                f"{1e3 * both[name]:>8.0f} ms{both[name] / both[base]:>6.2f}"
                + (f"{memory / 2**20:>8.0f} MiB" if memory is not None else ""),
                flush=True,
            )
    large = [n for n in sizes if n >= 64]
    if len(large) > 1:
        print(f"\na step's time per sample grows from {large[0]} to {large[-1]} as n to the power")
        for name, times in per_sample.items():
            k, t = torch.tensor(large).double().log(), torch.tensor([times[n] for n in large]).double().log()
            slope = ((k - k.mean()) * (t - t.mean())).sum() / (k - k.mean()).square().sum()
            print(f"  {name:<32}{float(slope):>8.2f}")


def share_table(rows: dict[str, nn.Module], n: int, batch: int, device: str) -> None:
    """Where a step's time goes, and how much of the machine's peak it reaches."""
    a = torch.randn(1024, 1024, device=device)
    peak = 2 * 1024**3 / interleaved({"gemm": lambda: a @ a}, 20)["gemm"]
    print(f"\nwhere a step goes at {n}x{n}, batch {batch}; the machine's GEMM reaches {peak / 1e9:.0f} GFLOP/s")
    print(f"  {'':<24}" + "".join(f"{kind:>13}" for kind in (*KINDS, "the rest", "of the peak")))
    x, level = torch.randn(batch, 3, n, n, device=device), torch.zeros(batch, device=device)
    for name, net in rows.items():
        step(net, x, level)
        with torch.profiler.profile() as profiler:
            step(net, x, level)
        cuda = device == "cuda"
        events = [
            e for e in profiler.key_averages() if e.device_type == torch.autograd.DeviceType.CPU
        ]  # not kernels too
        times = {e.key: e.self_device_time_total if cuda else e.self_cpu_time_total for e in events}
        total = sum(times.values())
        shares = [sum(times.get(key, 0) for key in keys) / total for keys in KINDS.values()]
        with FlopCounterMode(display=False) as counter:
            step(net, x, level)
        seconds = interleaved({"step": partial(step, net, x, level)}, 3)["step"]
        cells = [*shares, 1 - sum(shares), counter.get_total_flops() / seconds / peak]
        print(f"  {name:<24}" + "".join(f"{100 * cell:>12.0f}%" for cell in cells), flush=True)


class Nothing(nn.Module):
    """A network that costs next to nothing: what is left of a training step is all that goes around the network."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, noise_level: Tensor) -> Tensor:
        return self.gain * x


def around_table(net: nn.Module, sizes: list[int], batch: int, repeats: int, device: str) -> None:
    """What function-space noise and preconditioning cost around a network, beside a training step of the whole."""
    domain = Box(2)
    noise = GaussianRandomField(domain, Matern(0.1, 0.1))
    sde = FunctionSpaceSDE(noise, EDM())

    def spectrum(eigenvalues: Tensor, dim: int) -> Tensor:
        return (100 + eigenvalues) ** -1.25

    nothing = Nothing().to(device)
    around = {
        "EDM's scalars": DenoisingLoss(Model(nothing, sde, EDMScaling())),
        "per mode": DenoisingLoss(Model(nothing, sde, SpectralScaling((32, 32)), spectrum=spectrum)),
    }
    whole = DenoisingLoss(Model(net, sde, EDMScaling()))
    print(f"\nnoise, preconditioning and loss without the network, batch {batch}: share of a training step")
    print(f"  {'':<24}" + "".join(f"{n:>10}" for n in sizes))
    cells: dict[str, list[float]] = {"drawing the field": [], **{name: [] for name in around}}
    for n in sizes:
        x = torch.randn(batch, 3, n, n, device=device)

        def train(loss: DenoisingLoss, x: Tensor = x) -> None:
            loss(x).mean().backward()
            loss.zero_grad(set_to_none=True)

        tasks = {name: partial(train, loss) for name, loss in around.items()}
        tasks["drawing the field"] = lambda x=x: noise.sample(x.shape, device=device)
        found = interleaved(tasks, 3 * repeats) | interleaved({"whole": partial(train, whole)}, repeats)
        for name in cells:
            cells[name].append(found[name] / found["whole"])
    for name, shares in cells.items():
        print(f"  {name:<24}" + "".join(f"{100 * share:>9.1f}%" for share in shares))


def factor_table(batch: int, repeats: int, device: str) -> None:
    """Factorised weights beside dense ones, in a layer of the paper's width and modes, with its 3x3 convolution."""
    print(
        f"\na dual convolution of 128 channels with the paper's modes, 32x32, batch {batch}; the last two with Adam's step"
    )
    print(
        f"  {'weights':<16}{'parameters':>12}{'forward':>12}{'and back':>12}{'/ dense':>9}{'training':>12}{'/ dense':>9}"
    )
    x = torch.randn(batch, 128, 32, 32, device=device, requires_grad=True)
    tasks: dict[str, dict[str, Callable[[], None]]] = {}
    parameters = {}
    for name in ("ComplexDense", "ComplexTucker", "ComplexTT"):
        options = {"factorization": name, **({} if name == "ComplexDense" else {"rank": 0.095})}
        layer = DualConv(128, 128, domain=Box(2), n_modes=MODES, spectral=options).to(device)
        optimizer = torch.optim.Adam(layer.parameters(), fused=True)

        def train(layer: nn.Module = layer, optimizer: torch.optim.Optimizer = optimizer) -> None:
            layer(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        tasks[name] = {"forward": partial(evaluate, layer, x), "back": partial(step, layer, x), "training": train}
        parameters[name] = sum(p.numel() for p in layer.spectral.parameters())
    ms = {
        kind: {k: 1e3 * v for k, v in interleaved({name: tasks[name][kind] for name in tasks}, repeats).items()}
        for kind in ("forward", "back", "training")
    }
    for name in tasks:
        print(
            f"  {name:<16}{parameters[name]:>12,}{ms['forward'][name]:>9.1f} ms"
            + "".join(
                f"{ms[k][name]:>9.1f} ms{ms[k][name] / ms[k]['ComplexDense']:>9.2f}" for k in ("back", "training")
            )
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 96, 128, 160, 256])
    parser.add_argument("--batch", type=int, default=8, help="up to 96 points a side; a quarter of it above")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--peer", type=Path, help="a file that makes another implementation's network")
    cuda, switch = torch.cuda.is_available(), argparse.BooleanOptionalAction
    parser.add_argument("--bf16", action=switch, default=cuda, help="networks under autocast to bfloat16")
    parser.add_argument("--compile", action=switch, default=cuda, help="compiled networks: minutes of waiting on a CPU")
    args = parser.parse_args()
    device = "cuda" if cuda else "cpu"
    keep_freed_memory()
    torch.manual_seed(0)
    rows = {name: net.to(device) for name, net in networks(args.peer).items()}
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {platform.machine()}")
    print(
        "parameters: " + ", ".join(f"{k} {sum(p.numel() for p in v.parameters()) / 1e6:.1f}M" for k, v in rows.items())
    )
    small = [n for n in args.sizes if n <= 96]
    layer_table(small, args.batch, args.repeats, device)
    way_table([8, 16, 32, 64, 96, 128], args.batch, args.repeats, device)
    batches = [args.batch if n <= 96 else math.ceil(args.batch / 4) for n in args.sizes]
    network_table(rows, args.sizes, batches, args.repeats, device)
    if args.bf16 or args.compile:
        how = [name for name, wanted in (("bfloat16", args.bf16), ("compiled", args.compile)) if wanted]
        print(f"\nthe same, {' and '.join(how)}")
        fast = {name: torch.compile(net, dynamic=False) if args.compile else net for name, net in rows.items()}
        with torch.autocast(device, torch.bfloat16, enabled=args.bf16):
            network_table(fast, args.sizes, batches, args.repeats, device)
    around_table(rows["DFU, half the grid a level"], small, args.batch, args.repeats, device)
    factor_table(args.batch, 3 * args.repeats, device)
    share_table(rows, min(args.sizes), args.batch, device)


if __name__ == "__main__":
    main()
