"""What a network sees in the portraits: features for a Frechet distance, in place of Inception's, which would be downloaded.

A small network reads from pictures of any size what `fnodiff.data.face_attributes` knows of them (hair, glasses, colours, pose,
light, ...), the size that they were drawn at, and how much noise was added to them; its last hidden layer holds the
features. It comes trained (of what it is asked for, the smile alone it does not read)::

    python -m benchmarks.attributes               # how well it reads, at every size
    python -m benchmarks.attributes --train 7     # as it was trained: 7 minutes of one core, seed 0

Pictures of all sizes are brought to one size first, so that a blurred picture looks to it like one drawn on fewer pixels.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from tqdm.auto import tqdm

from fnodiff import metrics
from fnodiff.data import Faces, InMemory

FILE = Path(__file__).parent / "models" / "attributes.safetensors"
SIZES = (16, 24, 32, 48, 64, 96, 128)
CLASSES = {"hair_style": 7, "glasses": 2, "beard": 2}
NUMBERS = (
    "hair_colour skin_tone iris_colour clothes_colour background smile mouth_open head_x head_y head_size face_width turn roll "
    "light"
).split()


WIDTHS = [3 if name in NUMBERS[:5] else 1 for name in NUMBERS] + [1, 1]  # colours; then the size and the noise
QUIET = 0.01  # the least noise that counts


class Reader(nn.Module):
    """Portraits (B, 3, n, n) in [-1, 1] to features (B, 32), and to what they show.

    Attributes:
        mean, std: Of the numbers among the attributes, which `forward` gives in units of their spread.
    """

    def __init__(self, width: int = 24, side: int = 96) -> None:
        super().__init__()
        self.side, layers, channels = side, [], 3
        for wide in (width, 2 * width, 3 * width, 4 * width):
            layers += [nn.Conv2d(channels, wide, 3, stride=2, padding=1), nn.GroupNorm(8, wide), nn.SiLU()]
            channels = wide
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.GroupNorm(8, channels), nn.SiLU()]
        wide = channels * (side // 16) ** 2
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.1), nn.Linear(wide, 32), nn.SiLU())
        count = sum(WIDTHS)
        self.numbers = nn.Linear(32, count)
        self.classes = nn.ModuleDict({name: nn.Linear(32, n) for name, n in CLASSES.items()})
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("std", torch.ones(count))

    def features(self, x: Tensor) -> Tensor:
        """(B, 32)."""
        shape = (self.side, self.side)
        if x.shape[2:] != shape:
            x = interpolate(x, size=shape, mode="bicubic", antialias=x.shape[2] > self.side)
        return self.body(x)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Numbers (B, count), normalised, and the logits of each class."""
        h = self.features(x)
        return self.numbers(h), {name: layer(h) for name, layer in self.classes.items()}


def known(faces: Faces, indices: range | list[int], size: int) -> tuple[Tensor, dict[str, Tensor]]:
    """What the portraits show: numbers (B, count), the logarithms of size and noise last, and classes (B,) by name."""
    drawn = faces.attributes(indices)
    numbers = [drawn[name].reshape(len(indices), -1).float() for name in NUMBERS]
    numbers += [torch.full((len(indices), 1), math.log2(v)) for v in (size, QUIET)]
    return torch.cat(numbers, 1), {name: drawn[name].long() for name in CLASSES}


def noisy(x: Tensor) -> tuple[Tensor, Tensor]:
    """Portraits, half of them with noise of some strength, and log2 of it, (B,)."""
    noise = QUIET * (0.3 / QUIET) ** torch.rand(len(x))
    noise = torch.where(torch.rand(len(x)) < 0.5, QUIET, noise)
    return x + (noise.square() - QUIET**2).clamp(min=0).sqrt()[:, None, None, None] * torch.randn_like(x), noise.log2()


def train(minutes: float, count: int = 6144, batch: int = 32) -> Reader:
    """Adam, the learning rate falling to zero along half a cosine."""
    torch.manual_seed(0)
    faces, net = Faces(count, seed=2), Reader()
    pictures = InMemory(faces, [(n, n) for n in SIZES], progress=True)
    labels = {n: known(faces, range(count), n) for n in SIZES}
    every = torch.cat([numbers for numbers, _ in labels.values()])
    net.mean, net.std = every.mean(0), every.std(0)
    net.std[-1] = 2.0  # the noise: of those that `noisy` draws
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.9, 0.99))
    start, bar = time.monotonic(), tqdm(desc="training")
    while (done := (time.monotonic() - start) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * done))
        size, rows = SIZES[int(torch.randint(len(SIZES), ()))], torch.randint(count, (batch,))
        x, noise = noisy(pictures.batch(rows.tolist(), (size, size))["x"])
        numbers, logits = net(x)
        true, classes = labels[size]
        true = torch.cat([true[rows][:, :-1], noise[:, None]], 1)
        loss = (numbers - (true - net.mean) / net.std).square().mean()
        loss = loss + sum(cross_entropy(logits[name], classes[name][rows]) for name in CLASSES) / len(CLASSES)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bar.update()
    return net.eval()


def load() -> Reader:
    """The trained network."""
    net = Reader()
    net.load_state_dict(load_file(FILE))
    return net.eval()


@torch.no_grad()
def features(net: Reader, x: Tensor) -> Tensor:
    """Of many portraits, (N, 32)."""
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
def main() -> None:
    """Print how well the network reads portraits that it was not trained on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=float, help="minutes; writes the network that the other benchmarks load")
    parser.add_argument("--test", type=int, default=512)
    args = parser.parse_args()
    if args.train is not None:
        with torch.enable_grad():
            net = train(args.train)
        FILE.parent.mkdir(exist_ok=True)
        save_file(net.state_dict(), FILE)
    net, held = load(), Faces(args.test, seed=3)
    torch.manual_seed(0)
    print(f"{args.test} portraits; torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    print(f"{'':<24}" + "".join(f"{n:>9}" for n in SIZES))
    right, explained = {name: [] for name in CLASSES}, {name: [] for name in (*NUMBERS, "size drawn at", "noise added")}
    for size in SIZES:
        x, (true, classes) = held.batch(range(args.test), (size, size))["x"], known(held, range(args.test), size)
        x[1::2], true[1::2, -1] = noisy(x[1::2])  # a quarter of them, on the whole
        parts = [net(part) for part in x.split(64)]
        numbers = torch.cat([n for n, _ in parts]) * net.std + net.mean
        for name in CLASSES:
            guess = torch.cat([logits[name] for _, logits in parts]).argmax(1)
            right[name].append(float((guess == classes[name]).float().mean()))
        error = (numbers - true).square().mean(0)
        spread = true.var(0)
        spread[-2] = torch.tensor(SIZES).log2().var()
        for name, e, s in zip(explained, error.split(WIDTHS), spread.split(WIDTHS), strict=True):
            explained[name].append(1 - float(e.sum() / s.sum()))
    for name, values in right.items():
        print(f"{name + ', right':<24}" + "".join(f"{v:>9.1%}" for v in values))
    for name, values in explained.items():
        print(f"{name + ', R^2':<24}" + "".join(f"{v:>9.2f}" for v in values))


if __name__ == "__main__":
    main()
