"""Whether data keep up with training: samples per second that can be read, that a step takes, and that `fit` trains on.

Portraits, drawn or of a file, are written as PNG files and as a prepared HDF5 file into a temporary folder, then read at 32x32
in batches of 16. The last table sets `fit`, with its loader, clipping, moving average and progress bar, beside the step alone
(loss, gradient, Adam) on the same batches of 16, 24 and 32 pixels: medians of rounds in which all rows take turns. Of batches
in 4 parts it tells the passes of 4 samples alone, whose gradients are dropped, from the sum of their gradients, and from `fit`.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stderr
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator
from PIL import Image
from torch.utils.data import DataLoader
from tqdm import tqdm

from benchmarks.drawings import Drawings
from fnodiff import DFU, EDM, Box, EDMScaling, FunctionSpaceSDE, Model, WhiteNoise, fit
from fnodiff.data import Fields, HDF5Fields, ImageFolder, InMemory, MultiResolution, write_fields
from fnodiff.domain import Shape
from fnodiff.sde import DenoisingLoss
from fnodiff.train import Adam, Execution, Logging, keep_freed_memory
from fnodiff.train.weights import MovingAverage

SHAPE, BATCH = (32, 32), 16
SHAPES = [(16, 16), (24, 24), (32, 32)]
NETWORK = DFU.small
WARM = 3
"""Steps that are not timed: one of each grid."""


def rate(fields, workers: int, batches: int) -> float:
    """Samples per second of a training loader."""
    data = MultiResolution(fields, Box(2), [SHAPE], batch_size=BATCH)
    loader = DataLoader(data, batch_size=None, sampler=data.steps(), num_workers=workers)
    it = iter(loader)
    next(it)
    start = time.perf_counter()
    count = sum(len(batch["x"]) for batch in islice(it, batches))
    return count / (time.perf_counter() - start)


def alone(
    loss: DenoisingLoss,
    batches: list[dict],
    clip: bool = False,
    average: MovingAverage | None = None,
    parts: int = 1,
    summed: bool = True,
) -> float:
    """Seconds of steps on batches that are there: loss, gradient and Adam, and what else is asked for.

    Not `summed`, only the gradients of a batch's last part are kept.
    """
    device = next(loss.parameters()).device
    adam = torch.optim.Adam(loss.parameters(), lr=1e-4, fused=True)
    loss.train()
    start = time.perf_counter()
    for number, batch in enumerate(batches):
        if number == WARM:
            start = _now(device)
        inputs = {name: value.to(device).chunk(parts) for name, value in batch.items()}
        for part in range(parts):
            if not summed:
                adam.zero_grad(set_to_none=True)
            loss(**{name: values[part] for name, values in inputs.items()}).mean().backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(loss.parameters(), 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)
        if average is not None:
            average.update(loss.model, 0.999)
    return _now(device) - start


def whole(model: Model, data: MultiResolution, steps: int, workers: int, progress: bool, parts: int = 1) -> float:
    """Seconds of as many steps of `fit`, with each batch in so many parts."""
    device, ends = next(model.parameters()).device, []
    logging = Logging(progress=progress, callback=lambda *_: ends.append(time.perf_counter()))
    execution = Execution(Accelerator(cpu=device.type == "cpu", gradient_accumulation_steps=parts), workers=workers)
    with redirect_stderr(io.StringIO()):
        fit(model, data, steps, logging=logging, optimizer=Adam(lr=1e-4), execution=execution)
    return _now(device) - ends[WARM - 1]


def fit_table(name: str, source: Fields, shapes: Sequence[Shape], steps: int, rounds: int, device: str) -> None:
    """What goes around a training step, for one source of data."""
    domain = Box(2)
    data = MultiResolution(source, domain, shapes, batch_size=BATCH)
    net = NETWORK(3, 3, domain=domain, reference=shapes[-1])
    model = Model(net, FunctionSpaceSDE(WhiteNoise(domain, shapes[-1]), EDM()), EDMScaling()).to(device)
    loss, average = DenoisingLoss(model), MovingAverage(model, device)
    batches = [data[step] for step in range(steps)]
    rows = {
        "the step alone": partial(alone, loss, batches),
        "and clipping": partial(alone, loss, batches, True),
        "and the moving average": partial(alone, loss, batches, True, average),
        "fit, no worker, no bar": partial(whole, model, data, steps, 0, False),
        "fit, no worker": partial(whole, model, data, steps, 0, True),
        "fit, 1 worker": partial(whole, model, data, steps, 1, True),
        "4 parts, not summed": partial(alone, loss, batches, True, average, 4, False),
        "4 parts, summed": partial(alone, loss, batches, True, average, 4),
        "fit, batches in 4 parts": partial(whole, model, data, steps, 0, True, 4),
    }
    seconds: dict[str, list[float]] = {row: [] for row in rows}
    for _ in range(rounds):
        for row, run in rows.items():
            seconds[row].append(run())
    first = statistics.median(seconds["the step alone"])
    print(f"{name:<26}{'samples/s':>12}{'more time':>12}")
    for row, found in seconds.items():
        median = statistics.median(found)
        print(f"  {row:<24}{(steps - WARM) * BATCH / median:>12.1f}{100 * (median / first - 1):>11.1f}%", flush=True)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, metavar="PORTRAITS.h5", help="the portraits; by default they are drawn")
    parser.add_argument("--size", type=int, help="side of the image files; by default the file's finest, or 256")
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--steps", type=int, default=40, help="of each row and round of the last table")
    parser.add_argument("--rounds", type=int, default=5)
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
            SHAPES,
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

        print(
            f"\nsamples per second in training: {NETWORK.__qualname__}, batches of {BATCH} at {', '.join(map(str, SHAPES))}"
        )
        training = {"in memory": InMemory(HDF5Fields(prepared), SHAPES)}
        training |= {name: source for name, source in sources.items() if name.startswith("PNG")}
        for name, source in training.items():
            fit_table(name, source, SHAPES, args.steps, args.rounds, device)


if __name__ == "__main__":
    main()
