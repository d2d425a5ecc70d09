"""The study's figures: distances against the size, and the portraits."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator
from torch import Tensor


def draw_curves(table: dict[tuple[str, int], list[float]], path: Path) -> None:
    """Distances against the size, a line for each row: the paper's second figure."""
    names = list(dict.fromkeys(name for name, _ in table))
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), layout="constrained")
    for axis, (column, title) in zip(axes, ((0, "features"), (1, "high band"), (4, "global")), strict=True):
        for i, name in enumerate(names):
            points = [
                (n, row[column]) for (other, n), row in table.items() if other == name and row[column] == row[column]
            ]
            if points:
                look = {"color": "black", "ls": ":"} if name.startswith("other true") else {"color": f"C{i % 10}"}
                look["ls"] = look.get("ls", "--" if i >= 10 else "-")
                axis.plot(*zip(*points, strict=True), marker=".", label=name, **look)
        axis.set(title=title, xlabel="pixels per side", yscale="log", xscale="log")
        sizes = sorted({n for _, n in table})
        far = [n for n in sizes if n in (16, 24, 32, 48, 64, 96, 128) or len(sizes) < 8]
        axis.set_xticks(far, labels=[str(n) for n in far])
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
    axes[0].set_ylabel("Frechet distance")
    figure.legend(*axes[2].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=130)
    print(f"figure: {path}")


def draw_grid(pictures: dict[str, dict[int, Tensor]], path: Path) -> None:
    """The same seeds, a line for each row, a block for each size: the paper's first and third figures."""
    sizes, few = list(next(iter(pictures.values()))), 3
    figure, axes = plt.subplots(
        len(pictures), few * len(sizes), figsize=(1.25 * few * len(sizes), 1.32 * len(pictures) + 0.3), squeeze=False
    )
    for line, (name, by_size) in zip(axes, pictures.items(), strict=True):
        for i, n in enumerate(sizes):
            for j in range(few):
                axis = line[few * i + j]
                axis.imshow(by_size[n][j].movedim(0, -1).numpy() / 2 + 0.5, interpolation="nearest")
                axis.set(xticks=[], yticks=[])
                if axis in axes[0] and j == 1:
                    axis.set_title(f"{n} x {n}", fontsize=9)
        line[0].set_ylabel(name.replace(", ", ",\n"), fontsize=6.5)
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=130)
    print(f"figure: {path}")
