"""Fashion-MNIST above the training resolution: trained at 7, 14 and 20, sampled at its own 28, where the truth is known.

    python datasets/fashion_mnist.py FOLDER fashion.h5
    python datasets/fashion_mnist.py FOLDER fashion-test.h5 --held-out
    python -m benchmarks.fashion --data fashion.h5 --test fashion-test.h5 --minutes 20    # an hour of one core

Two models are trained for the same processor time, with labels: one on 7x7, 14x14 and 20x20 alone, one on 28x28. Both sample
the same seeds and labels at 28x28. A small network that tells the ten classes apart, trained on the true pictures at 28x28,
is the judge:

    distance    Frechet distance of its last hidden layer from that of the 10,000 held-out pictures, in units of its spread
    floor       the same of as many true pictures that it was trained on
    right       how often it finds the label that was asked for

Models, samples and the judge stay in --out: what is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from fnodiff import DFU, Box, DPMSolver, Model, MultiResolution, fit, metrics, sample
from fnodiff.cost import keep_freed_memory
from fnodiff.data import HDF5Fields, InMemory
from fnodiff.sde import Direct
from fnodiff.train import Adam, Logging

NATIVE = (28, 28)
MODELS = {"trained at 7, 14, 20": [(7, 7), (14, 14), (20, 20)], "trained at 28": [NATIVE]}
NAMES = ["top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]


class Judge(nn.Module):
    """Pictures (B, 1, 28, 28) to the logits of their classes, (B, 10), by way of features (B, 64)."""

    def __init__(self) -> None:
        super().__init__()
        layers, channels = [], 1
        for width, stride in ((24, 1), (48, 2), (48, 1), (96, 2), (96, 1)):
            layers += [nn.Conv2d(channels, width, 3, stride, 1), nn.BatchNorm2d(width), nn.SiLU()]
            channels = width
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(channels * 49, 64), nn.SiLU())
        self.last = nn.Linear(64, len(NAMES))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x))

    @torch.no_grad()
    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, 64) and the likeliest classes (N,)."""
        features = torch.cat([self.body(part) for part in x.split(500)])
        return features, self.last(features).argmax(1)


def judge(data: HDF5Fields, out: Path, minutes: float, batch: int = 64) -> Judge:
    """The trained judge: AdamW for so much processor time, its rate falling to zero; pictures mirrored at random."""
    torch.manual_seed(0)
    net, file = Judge(), out / "judge.safetensors"
    if not file.exists():
        everything = data.batch(range(len(data)), NATIVE)
        optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
        start = time.process_time()
        while (done := (time.process_time() - start) / (60 * minutes)) < 1:
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * (1 - done)
            rows = torch.randint(len(data), (batch,))
            x = everything["x"][rows]
            x = torch.where(torch.rand(batch, 1, 1, 1) < 0.5, x, x.flip(-1))
            loss = cross_entropy(net(x), everything["label"][rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        save_file(net.state_dict(), file)
    net.load_state_dict(load_file(file))
    return net.eval()


def trained(name: str, data: HDF5Fields, out: Path, minutes: float) -> tuple[Model, int]:
    """The model and its steps: as many as fit into the time, by the first of them."""
    folder, shapes = out / name.replace(", ", "-").replace(" ", "-"), MODELS[name]
    steps = folder / "steps.json"
    if not steps.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        fields = MultiResolution(InMemory(data, shapes), Box(2), shapes, batch_size=16, seed=0)
        optimizer = Adam(lr=1e-3, decay=True)
        start, few = time.process_time(), 24
        fit(Model.for_data(fields, DFU.small), fields, steps=few, optimizer=optimizer, logging=Logging(progress=False))
        count = int(60 * minutes * few / (time.process_time() - start))
        model = Model.for_data(fields, DFU.small)
        fit(model, fields, steps=count, folder=folder / "run", optimizer=optimizer, resume="auto")
        steps.write_text(json.dumps(count))
    return Model.from_pretrained(folder / "run"), int(json.loads(steps.read_text()))


def sampled(model: Model, shape: tuple[int, int], count: int, file: Path) -> Tensor:
    """Samples (count, 1, *shape), the classes by turns; those of the file, if it has as many."""
    kept = load_file(file)["x"] if file.exists() else torch.empty(0)
    if len(kept) < count:
        labels, options = torch.arange(count) % len(NAMES), {"plan": Direct(), "batch": 100, "progress": True}
        kept = sample(model, shape, range(count), solver=DPMSolver(12), label=labels, **options).clamp(-1, 1)
        save_file({"x": kept}, file)
    return kept[:count]


def draw(pictures: dict[str, Tensor], path: Path) -> None:
    """A line for each way, one picture of each class."""
    figure, axes = plt.subplots(len(pictures), len(NAMES), figsize=(11, 1.15 * len(pictures) + 0.3))
    for line, (name, x) in zip(axes, pictures.items(), strict=True):
        for axis, picture, kind in zip(line, x, NAMES, strict=False):
            axis.imshow(picture[0].numpy(), cmap="gray_r", vmin=-1, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            if axis in axes[0]:
                axis.set_title(kind, fontsize=9)
        line[0].set_ylabel(name.replace(", sampled", "\nsampled").replace(" of ", "\nof "), fontsize=6.5)
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=130)
    print(f"figure: {path}")


def main() -> None:
    """Train what is missing; print the table and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="FASHION.h5", help="to train on")
    parser.add_argument("--test", type=Path, required=True, metavar="TEST.h5", help="held out")
    parser.add_argument("--minutes", type=float, default=20.0, help="processor time of each model")
    parser.add_argument("--judge", type=float, default=3.0, metavar="MINUTES", help="processor time of the judge")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("fashion"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    args.out.mkdir(parents=True, exist_ok=True)
    data, held_out = HDF5Fields(args.data), HDF5Fields(args.test)
    net, count = judge(data, args.out, args.judge), args.samples
    true = held_out.batch(range(len(held_out)), NATIVE)
    features, classes = net.read(true["x"])
    spread = features.std(0).mean()
    known = data.batch(range(count), NATIVE)
    rows = {f"true pictures, {count} trained on": (known["x"], known["label"])}
    asked = torch.arange(count) % len(NAMES)
    shown = {"true, held out": torch.stack([true["x"][true["label"] == kind][0] for kind in range(len(NAMES))])}
    steps = {}
    for name in MODELS:
        model, steps[name] = trained(name, data, args.out, args.minutes)
        rows[f"{name}, sampled at 28"] = (
            sampled(model, NATIVE, count, args.out / f"{len(rows)}-28.safetensors"),
            asked,
        )
        if NATIVE not in MODELS[name]:
            coarse = sampled(model, (14, 14), count, args.out / f"{len(rows)}-14.safetensors")
            up = interpolate(coarse, size=NATIVE, mode="bicubic").clamp(-1, 1)
            rows["bicubic of samples at 14"] = (up, asked)
    rows["bicubic of true pictures at 14"] = (
        interpolate(known["x"].unflatten(2, (14, 2)).unflatten(4, (14, 2)).mean((3, 5)), size=NATIVE, mode="bicubic"),
        known["label"],
    )
    print(
        f"torch {torch.__version__}, 1 thread, {platform.machine()}; {args.minutes:g} minutes of a core each:", end=" "
    )
    print(", ".join(f"{n} steps {name}" for name, n in steps.items()))
    print(
        f"{len(true['x'])} held-out pictures: the judge is right about {float((classes == true['label']).double().mean()):.1%}"
    )
    print(f"{'':<40}{'distance':>10}{'right':>8}")
    for name, (x, labels) in rows.items():
        found, guess = net.read(x)
        distance = metrics.frechet_distance(found / spread, features / spread)
        print(f"{name:<40}{distance:>10.2f}{float((guess == labels).double().mean()):>8.1%}", flush=True)
    shown |= {name: x[: len(NAMES)] for name, (x, labels) in rows.items() if labels is asked}
    draw(shown, args.out / "fashion.png")


if __name__ == "__main__":
    main()
