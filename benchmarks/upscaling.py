"""Given coarse fields, what is fine? On pictures, relief or winds, against bicubic and against a network trained for it.

    python -m benchmarks.upscaling portraits.h5 portraits-test.h5 --low 32 --high 64 --model portraits --minutes 20
    python -m benchmarks.upscaling relief.h5 relief-test.h5 --low 32 --high 64 --minutes 20
    python -m benchmarks.upscaling winds.h5 winds-test.h5 --domain equiangular --shapes 10 13 19 --low 19 --high 37 --minutes 20

Rows, each network trained for the same processor time:

    bicubic       of the coarse field; on the sphere its modes
    pairs         a UNet that learnt from pairs of coarse and fine fields: the mean of what is possible
    upscale       a diffusion model that has never seen a pair, nor a grid finer than the coarse one
    modes held    the same with `hold=ReplaceModes`, where `upscale` holds averages over cells
    MatchModes    the same with `hold=MatchModes`
    pairs + rest  the UNet's mean, and a diffusion model of what it leaves, as CorrDiff has it

Columns, on held-out fields in units of their standard deviation:

    one, mean     root mean square error of one sample, and of the mean of --members
    CRPS          of the members at each point; of a single field its mean absolute error
    spread        of the members over the error of their mean, with the factor that makes 1 right
    patches       Frechet distance of 7 x 7 patches from the true ones
    detail        energy of the modes that the coarse grid does not hold, over the true one

Source: Mardani et al. (2023), Residual corrective diffusion modeling for km-scale atmospheric downscaling.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fnodiff import DFU, Box, DPMSolver, Model, MultiResolution, Sphere, fit, metrics, sample, upscale
from fnodiff.cost import keep_freed_memory
from fnodiff.data import HDF5Fields, InMemory
from fnodiff.domain import Domain, Shape
from fnodiff.inverse import MatchModes
from fnodiff.sde import EvenLogSNR, ReplaceModes
from fnodiff.train import Adam

RATE = 1e-3
TIMED = 24  # steps, which say how many fit into the time


def refined(domain: Domain, low: Tensor, shape: Shape) -> Tensor:
    """The coarse field on the fine grid, by nothing but smoothness."""
    if isinstance(domain, Box):
        return interpolate(low, size=shape, mode="bicubic")
    return domain.resample(low, shape)


def grid_of(fields: HDF5Fields, rows: int) -> Shape:
    """The file's grid of so many rows: on the sphere the file says how many longitudes there are.

    Raises:
        ValueError: If it has none.
    """
    found = [shape for shape in fields.shapes if shape[0] == rows]
    if not found:
        raise ValueError(
            f"upscaling: expected a grid of {rows} rows in {fields.path}, which has {fields.shapes}; write it again "
            f"with that grid among them, or choose --low, --high and --shapes of these."
        )
    return found[0]


class Pairs(nn.Module):
    """Coarse fields to fine ones, normalised: the refined field, and what a UNet adds."""

    def __init__(self, channels: int, domain: Domain, shape: Shape) -> None:
        super().__init__()
        self.domain, self.shape = domain, shape
        self.net = DFU.small(channels, channels, domain=domain, reference=None, spectral_levels=0, dropout=0.0)

    def forward(self, low: Tensor) -> Tensor:
        up = refined(self.domain, low, self.shape)
        return up + self.net(up, up.new_zeros(len(up)))


class Rest:
    """A source of what the network of pairs leaves, with its mean as the conditioning field; normalised."""

    num_classes = 0

    def __init__(self, fine: Tensor, mean: Tensor, domain: Domain, cell_averages: bool) -> None:
        self.fine, self.mean, self.domain, self.cell_averages = fine, mean, domain, cell_averages
        self.channels = self.condition_channels = fine.shape[1]

    def __len__(self) -> int:
        return len(self.fine)

    def batch(self, indices: Sequence[int], shape: Shape) -> dict[str, Tensor]:
        rows = list(indices)
        return {"x": self.fine[rows] - self.mean[rows], "field": self.mean[rows]}


class Study:
    """The data, normalised, and what is trained on them; kept in a folder."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.minutes, self.out, self.members = args.minutes, args.out, args.members
        data, held = HDF5Fields(args.data), HDF5Fields(args.test)
        self.domain = Box(2) if args.domain == "box" else Sphere(args.domain)
        self.small, self.shape = (grid_of(data, n) for n in (args.low, args.high))
        self.data, count = data, min(args.count, len(held))
        everything = range(min(args.train_count, len(data)))
        self.low, self.fine = (data.batch(everything, shape)["x"] for shape in (self.small, self.shape))
        self.low_test, self.fine_test = (held.batch(range(count), shape)["x"] for shape in (self.small, self.shape))
        dims = (0, *range(2, self.fine.ndim))
        self.mean, self.std = self.fine.mean(dims, keepdim=True), self.fine.std(dims, keepdim=True)

    def units(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std

    def pairs(self, batch: int = 8) -> Pairs:
        """The network of pairs: Adam for so much processor time, the rate falling along half a cosine."""
        torch.manual_seed(0)
        net, file = Pairs(self.fine.shape[1], self.domain, self.shape), self.out / "pairs.safetensors"
        if not file.exists():
            low, fine = self.units(self.low), self.units(self.fine)
            optimizer = torch.optim.Adam(net.parameters(), lr=RATE, betas=(0.9, 0.99))
            start = time.process_time()
            while (done := (time.process_time() - start) / (60 * self.minutes)) < 1:
                for group in optimizer.param_groups:
                    group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * done))
                rows = torch.randint(len(low), (batch,))
                loss = self.domain.norm(net(low[rows]) - fine[rows]).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            save_file(net.state_dict(), file)
        net.load_state_dict(load_file(file))
        return net.eval()

    def trained(self, name: str, fields, shapes: list[Shape], batch: int = 8) -> Model:
        """A diffusion model of a source, for as many steps as fit into the time, by the first of them."""
        folder = self.out / name
        if not (folder / "done.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            data = MultiResolution(fields, self.domain, shapes, batch_size=batch)
            optimizer, plan = Adam(lr=RATE, decay=True), folder / "plan.json"
            if not plan.exists():
                torch.manual_seed(0)
                start = time.process_time()
                fit(Model.for_data(data, DFU.small), data, steps=TIMED, optimizer=optimizer)
                steps = max(1, int(60 * self.minutes * TIMED / (time.process_time() - start)))
                plan.write_text(json.dumps({"steps": steps}))
            torch.manual_seed(0)
            model, steps = Model.for_data(data, DFU.small), json.loads(plan.read_text())["steps"]
            fit(model, data, steps=steps, folder=folder / "run", resume="auto", optimizer=optimizer)
            (folder / "done.json").write_text(json.dumps({"steps": steps}))
        return Model.from_pretrained(folder / "run")

    def upscaled(self, model: Model, **options) -> Tensor:
        """(members, B, C, *shape), normalised."""
        low = self.low_test.repeat_interleave(self.members, 0)
        x = upscale(model, low, self.shape, range(len(low)), progress=True, **options)
        return self.units(x).unflatten(0, (-1, self.members)).transpose(0, 1)

    def corrected(self) -> Tensor:
        """(members, B, C, *shape), normalised: the network of pairs, and samples of what it leaves."""
        net = self.pairs()
        with torch.no_grad():
            mean, test = (
                torch.cat([net(part) for part in self.units(low).split(64)]) for low in (self.low, self.low_test)
            )
        rest = Rest(self.units(self.fine), mean, self.domain, self.data.cell_averages)
        model = self.trained("rest", rest, [self.shape])
        field = test.repeat_interleave(self.members, 0)
        x = sample(model, self.shape, range(len(field)), solver=DPMSolver(12, EvenLogSNR()), field=field, progress=True)
        return (field + x).unflatten(0, (-1, self.members)).transpose(0, 1)

    def measure(self, x: Tensor) -> list[float]:
        """One, mean, CRPS, spread, patches, detail of members (M, B, C, *shape)."""
        domain, true, count = self.domain, self.units(self.fine_test), len(x)

        def error(y: Tensor) -> float:
            return float((domain.norm(y - true).square() / true.shape[1]).mean().sqrt())

        def detail(y: Tensor) -> float:
            fine = y - domain.resample(domain.resample(y, self.small), self.shape)
            return float(domain.norm(fine).square().mean())

        mean, spread = x.mean(0), float("nan")
        if count > 1:
            apart = sum(domain.norm(each - mean).square() for each in x) / (count - 1)
            deviation = float((apart / true.shape[1]).mean().sqrt())
            spread = deviation * math.sqrt(1 + 1 / count) / error(mean)
        alone = (x[0] - true).abs() * domain.weights(self.shape)
        absolute = metrics.crps(x, true, domain).mean() if count > 1 else alone.sum((-2, -1)).mean()
        return [
            error(x[0]),
            error(mean),
            float(absolute),
            spread,
            metrics.patch_distance(x[0], true),
            detail(x[0]) / detail(true),
        ]


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="FIELDS.h5")
    parser.add_argument("test", type=Path, metavar="TEST.h5", help="held out")
    parser.add_argument("--domain", choices=("box", "legendre-gauss", "equiangular"), default="box")
    parser.add_argument("--low", type=int, default=32)
    parser.add_argument("--high", type=int, default=64)
    parser.add_argument(
        "--shapes", type=int, nargs="+", help="of the diffusion model's training; up to --low by default"
    )
    parser.add_argument("--model", help="a diffusion model that is trained already")
    parser.add_argument("--minutes", type=float, default=20.0, help="processor time of each network")
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--count", type=int, default=64, help="held-out fields")
    parser.add_argument("--train-count", type=int, default=4096, help="pairs to train on")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=("upscale", "modes", "MatchModes", "rest"),
        default=["upscale", "modes", "MatchModes", "rest"],
    )
    parser.add_argument("--out", type=Path, default=Path("upscaling"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    args.out.mkdir(parents=True, exist_ok=True)
    study = Study(args)
    print(
        f"{len(study.low_test)} fields of {args.test.name}, {'x'.join(map(str, study.small))} to "
        f"{'x'.join(map(str, study.shape))}, {args.members} members; {args.minutes:g} minutes of a core each; torch "
        f"{torch.__version__}, 1 thread, {platform.machine()}"
    )
    print(f"{'':<16}" + "".join(f"{name:>9}" for name in ("one", "mean", "CRPS", "spread", "patches", "detail")))

    def show(name: str, x: Tensor) -> None:
        print(f"{name:<16}" + "".join(f"{v:>9.3f}" for v in study.measure(x)), flush=True)

    show("bicubic", refined(study.domain, study.units(study.low_test), study.shape)[None])
    net = study.pairs()
    with torch.no_grad():
        show("pairs", torch.cat([net(part) for part in study.units(study.low_test).split(32)])[None])
    if {"upscale", "modes", "MatchModes"} & set(args.only):
        shapes = [grid_of(study.data, n) for n in args.shapes or sorted({args.low // 2, 3 * args.low // 4, args.low})]
        model = (
            Model.from_pretrained(args.model)
            if args.model
            else study.trained("model", InMemory(study.data, shapes), shapes)
        )
        if "upscale" in args.only:
            show("upscale", study.upscaled(model))
        if "modes" in args.only and model.cell_averages:
            show("modes held", study.upscaled(model, hold=ReplaceModes))
        if "MatchModes" in args.only:
            show("MatchModes", study.upscaled(model, solver=DPMSolver(24, EvenLogSNR()), hold=MatchModes))
    if "rest" in args.only:
        show("pairs + rest", study.corrected())


if __name__ == "__main__":
    main()
