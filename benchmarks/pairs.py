"""Can an eye tell samples from true drawings? Sheets of pairs in random order and their key; and sheets of samples alone.

    python -m benchmarks.pairs portraits --test portraits-test.h5 --sizes 48 96 --out pairs
    python -m benchmarks.pairs portraits --test portraits-test.h5 --sizes 48 96 --out pairs --answers 48=answers.txt

The first command writes, for each size, pairs-SIZE-K.png with numbered pairs, a sample and a held-out drawing each, and
samples-SIZE.png with the samples by their seeds, whatever they look like. The key stays in key.json, for the second command.
ANSWERS is a text of one word for each pair, in their order: "left" or "right" for where the sample is thought to be.
It prints how many were told apart, with the interval in which 95 of 100 such shares of as many guesses lie.
Pixels are drawn as squares, and nothing is smoothed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from scipy.stats import binom
from torch import Tensor

from benchmarks.drawings import Drawings
from fnodiff import Model, sample

SIDES = ("left", "right")
COLUMNS, ROWS, ABREAST = 4, 5, 10  # pairs of a sheet; samples of a line


def bytes_of(x: Tensor) -> Tensor:
    """(B, 3, n, n) in [-1, 1] as bytes, which is what an eye is shown of both kinds."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def sheet(cells: Sequence[tuple[str, Sequence[Tensor]]], columns: int, zoom: int) -> Image.Image:
    """Captions and the pictures (3, n, n) below each, side by side, in lines of so many cells."""
    n, abreast = cells[0][1][0].shape[-1] * zoom, len(cells[0][1])
    width, height = abreast * n + 4 * (abreast + 1), n + 22
    whole = Image.new("RGB", (columns * width, -(-len(cells) // columns) * height), "white")
    draw = ImageDraw.Draw(whole)
    for i, (caption, pictures) in enumerate(cells):
        left, top = i % columns * width, i // columns * height
        draw.text((left + 4, top + 3), caption, fill="black")
        for j, x in enumerate(pictures):
            picture = Image.fromarray(x.movedim(0, -1).contiguous().numpy())
            whole.paste(picture.resize((n, n), Image.Resampling.NEAREST), (left + 4 + j * (n + 4), top + 18))
    return whole


def write_sheets(made: Tensor, true: Tensor, seeds: Sequence[int], out: Path, random: torch.Generator) -> list[str]:
    """The sheets of one size; the key."""
    size, zoom = made.shape[-1], max(1, 144 // made.shape[-1])
    key = [SIDES[int(torch.randint(2, (), generator=random))] for _ in made]
    pairs = [(x, y) if side == "left" else (y, x) for x, y, side in zip(made, true, key, strict=True)]
    cells = [(str(i + 1), pair) for i, pair in enumerate(pairs)]
    each = COLUMNS * ROWS
    for k in range(0, len(cells), each):
        sheet(cells[k : k + each], COLUMNS, zoom).save(out / f"pairs-{size}-{k // each}.png")
    alone = [(str(seed), [x]) for seed, x in zip(seeds, made, strict=True)]
    sheet(alone, ABREAST, 2 if size < 64 else 1).save(out / f"samples-{size}.png")
    return key


def told_apart(key: Sequence[str], text: str) -> str:
    """A line that says how often the answers are right.

    Raises:
        ValueError: If there is not one answer for each pair, or another word.
    """
    answers = text.split()
    if len(answers) != len(key) or set(answers) - set(SIDES):
        raise ValueError(
            f"expected {len(key)} words, each left or right, got {len(answers)}: {sorted(set(answers))[:4]}; mend the answers."
        )
    right = sum(a == b for a, b in zip(answers, key, strict=True))
    low, high = (binom.ppf(share, len(key), 0.5) / len(key) for share in (0.025, 0.975))
    return f"{right} of {len(key)} pairs told apart, {right / len(key):.0%}; guessing: {low:.0%} to {high:.0%}"


def main(argv: Sequence[str] | None = None) -> None:
    """Write the sheets, or count the answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="its folder, or the name of one that comes with fnodiff")
    parser.add_argument("--test", type=Path, metavar="TEST.h5", help="true portraits; by default they are drawn")
    parser.add_argument("--sizes", type=int, nargs="+", default=[48, 96])
    parser.add_argument("--first", type=int, default=100, help="seed")
    parser.add_argument("--count", type=int, default=100, help="pairs of each size")
    parser.add_argument("--out", type=Path, default=Path("pairs"))
    parser.add_argument("--answers", nargs="+", metavar="SIZE=ANSWERS", help="count these answers instead")
    args = parser.parse_args(argv)
    if args.answers:
        key = json.loads((args.out / "key.json").read_text())
        for size, _, file in (one.partition("=") for one in args.answers):
            if size not in key or not file:
                parser.error(f"expected --answers SIZE=ANSWERS of a size among {sorted(key)}, got {size}={file}")
            print(f"{size} x {size}: {told_apart(key[size], Path(file).read_text())}")
        return
    model, seeds = Model.from_pretrained(args.model), range(args.first, args.first + args.count)
    drawings = Drawings(args.test, args.count, held_out=True)
    args.out.mkdir(parents=True, exist_ok=True)
    made, options = args.out / "options.json", {"model": args.model, "first": args.first, "count": args.count}
    if made.exists() and json.loads(made.read_text()) != options:
        raise ValueError(f"{args.out}: expected options {made.read_text()}, got {options}; name another --out.")
    made.write_text(json.dumps(options))
    kept = args.out / "key.json"
    key = json.loads(kept.read_text()) if kept.exists() else {}
    for size in args.sizes:
        random = torch.Generator().manual_seed(args.first + size)
        kept = args.out / f"samples-{size}.safetensors"
        if not kept.exists():
            save_file({"x": bytes_of(sample(model, (size, size), seeds, progress=True))}, kept)
        true = bytes_of(drawings.batch(range(args.count), (size, size))["x"])
        key[str(size)] = write_sheets(load_file(kept)["x"], true, seeds, args.out, random)
    (args.out / "key.json").write_text(json.dumps(key))


if __name__ == "__main__":
    main()
