"""What a network sees in the portraits: features for a Frechet distance, in place of Inception's, which would be downloaded.

A small network reads from pictures of any size what they were drawn with (the options of `datasets/portraits.py`: hair, mouth,
glasses, colours, place, ...), the size that they were drawn at, and how much noise was added to them. Its last hidden layer
holds the features. It comes trained::

    python -m benchmarks.attributes --test portraits-test.h5      # how well it reads at every size; the floors
    python datasets/portraits.py middle.h5 --count 8192 --resolutions 48 64
    python datasets/portraits.py fine.h5 --count 3072 --resolutions 96 128
    python -m benchmarks.attributes --train 5 --count 10240 --data portraits.h5 middle.h5 fine.h5   # as it was trained

Pictures of all sizes are brought to one size first, so that a blurred picture looks to it like one drawn on fewer pixels.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from tqdm.auto import tqdm

from benchmarks.drawings import Drawings
from fnodiff import metrics
from fnodiff.data import InMemory

FILE = Path(__file__).parent / "models" / "attributes.safetensors"
SIZES = (16, 24, 32, 48, 64, 96, 128)
SHAPES = [(n, n) for n in SIZES]
# The variants of the drawing's parts; the first may be missing, None.
CLASSES: dict[str, list[str | None]] = {
    "hair": ["dannyPhantom", "dougFunny", "fonze", "full", "mrClean", "mrT", "pixie", "turban"],
    "mouth": ["frown", "laughing", "nervous", "pucker", "sad", "smile", "smirk", "surprised"],
    "eyebrows": ["down", "eyelashesDown", "eyelashesUp", "up"],
    "eyes": ["eyes", "eyesShadow", "round", "smiling", "smilingShadow"],
    "nose": ["curve", "pointed", "tound"],
    "ears": ["attached", "detached"],
    "clothes": ["collared", "crew", "open"],
    "glasses": [None, "round", "square"],
    "earrings": [None, "hoop", "stud"],
    "facialHair": [None, "beard", "scruff"],
}
COLOURS = ["background", "base", "hair", "shirt", "glasses"]  # "base" is the skin
PLACES = ["scale", "translateX", "translateY"]
NUMBERS = [f"{name} colour" for name in COLOURS] + PLACES + ["size drawn at", "noise added"]
WIDTHS = [3] * len(COLOURS) + [1] * (len(PLACES) + 2)
QUIET = 0.01  # the least noise that counts
RATE = 2e-3


def convolutions(*widths: int, first: int) -> nn.Sequential:
    """Each halves the grid, but for the first, which divides it by `first`; then a row of numbers."""
    layers, channels = [], 3
    for i, wide in enumerate(widths):
        shape = (
            {"kernel_size": 4, "stride": 4} if i == 0 and first == 4 else {"kernel_size": 3, "stride": 2, "padding": 1}
        )
        layers += [nn.Conv2d(channels, wide, **shape), nn.BatchNorm2d(wide), nn.SiLU()]
        channels = wide
    return nn.Sequential(*layers, nn.Flatten())


class Reader(nn.Module):
    """Portraits (B, 3, n, n) in [-1, 1] to features (B, 48), and to what they show.

    It sees each at 128 x 128: the whole, and once more the square where the face is, more closely.

    Attributes:
        mean, std: Of the numbers among the attributes, which `forward` gives in units of their spread.
    """

    side, face = 128, (slice(26, 90), slice(32, 96))

    def __init__(self, count: int = 48) -> None:
        super().__init__()
        self.whole, self.near = convolutions(32, 64, 64, first=4), convolutions(24, 48, 64, first=2)
        self.last = nn.Sequential(nn.Dropout(0.1), nn.Linear(2 * 64 * 8 * 8, count), nn.SiLU())
        self.numbers = nn.Linear(count, sum(WIDTHS))
        self.classes = nn.ModuleDict({name: nn.Linear(count, len(kinds)) for name, kinds in CLASSES.items()})
        self.register_buffer("mean", torch.zeros(sum(WIDTHS)))
        self.register_buffer("std", torch.ones(sum(WIDTHS)))
        self.to(memory_format=torch.channels_last)

    def features(self, x: Tensor) -> Tensor:
        """(B, 48)."""
        shape = (self.side, self.side)
        if x.shape[2:] != shape:
            x = interpolate(x, size=shape, mode="bicubic", antialias=x.shape[2] > self.side)
        x = x.contiguous(memory_format=torch.channels_last)
        return self.last(torch.cat([self.whole(x), self.near(x[:, :, *self.face])], 1))

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Numbers (B, count), normalised, and the logits of each class."""
        h = self.features(x)
        return self.numbers(h), {name: layer(h) for name, layer in self.classes.items()}


def known(options: list[dict[str, Any]], size: int) -> tuple[Tensor, dict[str, Tensor]]:
    """What the portraits show: numbers (B, count), and classes (B,) by name.

    Colours are from 0 to 1, those of missing parts nan. The logarithms of size and noise are last.
    """
    rows = []
    for drawing in options:
        row = []
        for name in COLOURS:
            colour = drawing.get(f"{name}Color")
            row += [int(colour[0][i : i + 2], 16) / 255 for i in (1, 3, 5)] if colour else [math.nan] * 3
        rows.append(row + [drawing[name] for name in PLACES] + [math.log2(size), math.log2(QUIET)])
    classes = {
        name: torch.tensor([kinds.index(drawing.get(f"{name}Variant")) for drawing in options])
        for name, kinds in CLASSES.items()
    }
    return torch.tensor(rows), classes


def noisy(x: Tensor) -> tuple[Tensor, Tensor]:
    """Portraits, half of them with noise of some strength, and log2 of it, (B,)."""
    noise = QUIET * (0.3 / QUIET) ** torch.rand(len(x))
    noise = torch.where(torch.rand(len(x)) < 0.5, QUIET, noise)
    return x + (noise.square() - QUIET**2).clamp(min=0).sqrt()[:, None, None, None] * torch.randn_like(x), noise.log2()


def train(drawings: list[Drawings], minutes: float, batch: int = 32) -> Reader:
    """Adam, for so much processor time, the learning rate falling to zero along half a cosine.

    Each size comes from the first of the drawings that has it.
    """
    torch.manual_seed(0)
    net, pictures, labels = Reader(), {}, {}
    for some in drawings:
        new = [n for n in SIZES if n not in pictures and some.has((n, n))]
        kept, options = InMemory(some, [(n, n) for n in new], progress=True), some.options() if new else []
        pictures |= dict.fromkeys(new, kept)
        labels |= {n: known(options, n) for n in new}
    if missing := set(SIZES) - set(pictures):
        raise ValueError(
            f"train: expected files with portraits at {sorted(missing)} too; write another with these sizes."
        )
    every = torch.cat([numbers for numbers, _ in labels.values()])
    net.mean = every.nanmean(0)
    net.std = (every - net.mean).square().nanmean(0).sqrt()
    net.std[-1] = 2.0  # the noise: of those that `noisy` draws
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE, betas=(0.9, 0.99))
    start, bar = time.process_time(), tqdm(desc="training")
    while (done := (time.process_time() - start) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * done))
        size = SIZES[int(torch.randint(len(SIZES), ()))]
        rows = torch.randint(len(pictures[size]), (batch,))
        x, noise = noisy(pictures[size].batch(rows.tolist(), (size, size))["x"])
        numbers, logits = net(x)
        true, classes = labels[size]
        true = torch.cat([true[rows][:, :-1], noise[:, None]], 1)
        there = ~true.isnan()
        wrong = torch.where(there, numbers - (true - net.mean) / net.std, 0).square().sum(0) / there.sum(0).clamp(min=1)
        loss = sum(part.mean() for part in wrong.split(WIDTHS))
        loss = 0.5 * (loss + sum(cross_entropy(logits[name], classes[name][rows]) for name in CLASSES))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bar.set_postfix(loss=f"{float(loss):.2f}", refresh=False)
        bar.update()
    return net.eval()


def load() -> Reader:
    """The trained network."""
    net = Reader()
    net.load_state_dict({name: weight.float() for name, weight in load_file(FILE).items()})
    return net.eval()


@torch.no_grad()
def features(net: Reader, x: Tensor) -> Tensor:
    """Of many portraits, (N, 48)."""
    return torch.cat([net.features(part) for part in x.split(64)])


def distance(net: Reader, x: Tensor, y: Tensor) -> float:
    """The Frechet distance of the features of two sets of portraits of one size, those of y in units of their spread.

    Raises:
        ValueError: If the sizes differ.
    """
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"distance: expected portraits of one size, got {tuple(x.shape)} and {tuple(y.shape)}; draw the truth at that size."
        )
    a, b = features(net, x), features(net, y)
    spread = b.std(0).mean()
    return metrics.frechet_distance(a / spread, b / spread)


@torch.no_grad()
def show_reading(net: Reader, sets: dict[int, Tensor], options: list[dict[str, Any]]) -> None:
    """Print how well the network reads portraits, a quarter of them with noise."""
    count = len(options)
    print(f"{f'{count} portraits':<24}" + "".join(f"{n:>9}" for n in SIZES))
    right, explained = {name: [] for name in CLASSES}, {name: [] for name in NUMBERS}
    for size in SIZES:
        x, (true, classes) = sets[size].clone(), known(options, size)
        x[1::2], true[1::2, -1] = noisy(x[1::2])
        parts = [net(part) for part in x.split(64)]
        numbers = torch.cat([n for n, _ in parts]) * net.std + net.mean
        for name in CLASSES:
            guess = torch.cat([logits[name] for _, logits in parts]).argmax(1)
            right[name].append(float((guess == classes[name]).float().mean()))
        error, spread = ((numbers - true).square().nanmean(0), (true - true.nanmean(0)).square().nanmean(0))
        spread[-2] = torch.tensor(SIZES).log2().var()
        for name, e, s in zip(NUMBERS, error.split(WIDTHS), spread.split(WIDTHS), strict=True):
            explained[name].append(1 - float(e.sum() / s.sum()))
    for name, values in right.items():
        print(f"{name + ', right':<24}" + "".join(f"{v:>9.1%}" for v in values))
    for name, values in explained.items():
        print(f"{name + ', R^2':<24}" + "".join(f"{v:>9.2f}" for v in values))


def show_floors(net: Reader, sets: dict[int, Tensor], counts: list[int]) -> None:
    """Print the distance between two disjoint sets of true portraits, by their count."""
    print(f"{'floor, true portraits':<24}" + "".join(f"{n:>9}" for n in SIZES))
    for count in counts:
        found = [distance(net, x[:count], x[-count:]) for x in sets.values()]
        print(f"{f'{count} against {count}':<24}" + "".join(f"{v:>9.2f}" for v in found))


def main() -> None:
    """Print how well the network reads portraits that it was not trained on, and the floors of the distance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    files = {"type": Path, "metavar": "FILE.h5"}
    parser.add_argument("--data", nargs="+", default=[None], **files, help="to train on; by default they are drawn")
    parser.add_argument("--test", **files, help="held out; by default they are drawn")
    parser.add_argument("--train", type=float, help="minutes; writes the network that the other benchmarks load")
    parser.add_argument("--count", type=int, default=16384, help="portraits to train on, at most, of each file")
    parser.add_argument("--held", type=int, default=2048, help="portraits to read")
    args = parser.parse_args()
    if args.train is not None:
        weights = train([Drawings(path, args.count, at_most=True) for path in args.data], args.train).state_dict()
        FILE.parent.mkdir(exist_ok=True)
        save_file({name: weight.half().contiguous() for name, weight in weights.items()}, FILE)
    net, held = load(), Drawings(args.test, args.held, held_out=True)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    sets = {n: batch["x"] for n, batch in zip(SIZES, held.batches(range(len(held)), SHAPES), strict=True)}
    show_reading(net, sets, held.options())
    print()
    show_floors(net, sets, [n for n in (64, 128, 256, 512, 1024) if 2 * n <= len(held)])


if __name__ == "__main__":
    main()
