"""Whether data keep up with training: samples per second that can be read, and that a training step takes.

Portraits, drawn or of a file, are written as PNG files and as a prepared HDF5 file into a temporary folder, then read at 32x32
in batches of 16.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader
from tqdm import tqdm

from benchmarks.drawings import Drawings
from fnodiff import DFU, EDM, Box, EDMScaling, FunctionSpaceSDE, Model, WhiteNoise
from fnodiff.data import HDF5Fields, ImageFolder, InMemory, MultiResolution, write_fields
from fnodiff.sde import DenoisingLoss
from fnodiff.train import keep_freed_memory

SHAPE, BATCH = (32, 32), 16


def rate(fields, workers: int, batches: int) -> float:
    """Samples per second of a training loader."""
    data = MultiResolution(fields, Box(2), [SHAPE], batch_size=BATCH)
    loader = DataLoader(data, batch_size=None, sampler=data.steps(), num_workers=workers)
    it = iter(loader)
    next(it)
    start = time.perf_counter()
    count = sum(len(batch["x"]) for batch in islice(it, batches))
    return count / (time.perf_counter() - start)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, metavar="PORTRAITS.h5", help="the portraits; by default they are drawn")
    parser.add_argument("--size", type=int, help="side of the image files; by default the file's finest, or 256")
    parser.add_argument("--count", type=int, default=256)
    args = parser.parse_args()
    keep_freed_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    drawings = Drawings(args.data, args.count)
    size = args.size or (256 if args.data is None else drawings.file.shapes[-1][0])
    with tempfile.TemporaryDirectory() as folder:
        images, prepared = Path(folder) / "images", Path(folder) / "fields.h5"
        images.mkdir()
        for i in tqdm(range(args.count), desc="writing images"):
            x = drawings.batch([i], (size, size))["x"][0]
            array = ((x.movedim(0, -1) + 1) * 127.5).round().clamp(0, 255).byte().numpy()
            Image.fromarray(array).save(images / f"{i:05}.png")
        write_fields(
            prepared,
            ImageFolder(images),
            [SHAPE],
            attributes={"source": "drawn", "licence": "none", "grid": "cell averages"},
        )
        sources = {
            f"PNG files of {size}x{size}": ImageFolder(images),
            "prepared HDF5": HDF5Fields(prepared),
            "in memory": InMemory(HDF5Fields(prepared), [SHAPE]),
        }
        if args.data is None:
            sources["drawn when asked for"] = drawings
        print(f"samples per second at {SHAPE[0]}x{SHAPE[1]}, {device}, {torch.get_num_threads()} threads")
        print(f"{'':<26}{'no worker':>12}{'1 worker':>12}{'2 workers':>12}")
        for name, fields in sources.items():
            batches = 4 if fields is drawings else 40
            found = (rate(fields, workers, batches) for workers in (0, 1, 2))
            print(f"{name:<26}" + "".join(f"{v:>12.0f}" for v in found), flush=True)

    domain = Box(2)
    net = DFU.small(3, 3, domain=domain, reference=SHAPE).to(device)
    loss = DenoisingLoss(Model(net, FunctionSpaceSDE(WhiteNoise(domain, SHAPE), EDM()), EDMScaling()))
    x = torch.randn(BATCH, 3, *SHAPE, device=device)
    for i in range(8):
        if i == 2:
            start = time.perf_counter()
        loss(x).mean().backward()
        net.zero_grad(set_to_none=True)
    if device == "cuda":
        torch.cuda.synchronize()
    print(
        f"{'a training step takes':<26}{6 * BATCH / (time.perf_counter() - start):>12.0f}   (DFU.small, batch {BATCH})"
    )


if __name__ == "__main__":
    main()
