"""How long the page to play with takes for an answer, of the models that come with fnodiff and its examples.

Seconds of one core, which other work on the machine does not count in: the first of each, nothing remembered.

    python -m benchmarks.playground
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from fnodiff import Model
from fnodiff.playground import Playground

EXAMPLES = Path(__file__).parent.parent / "examples" / "models"
MODELS = ("portraits", *(EXAMPLES / name for name in ("terrain_superres", "navier_stokes/pair", "darcy_flow/pair")))
SENSORS = [(0.5, 0.5), (0.2, 0.7), (0.8, 0.3)]


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"{'':24}{'size':>6}{'resolutions':>14}{'upscale, 4':>14}{'size':>8}{'sensors':>10}")
    for source in (*MODELS, EXAMPLES / "sphere_shallow_water"):
        play = Playground(Model.from_pretrained(source))
        top, middle = play.sizes[-1], play.sizes[len(play.sizes) // 2]
        first = seconds(play.resolutions, 0, 2 * top)
        with TemporaryDirectory() as folder:
            play.resolutions(0, 2 * top)[-1][1].save(file := Path(folder) / "a.png")
            again = f"{seconds(play.upscaled, file, top, 2 * top, 0, 4):.1f}" if play.pictures else "-"
        last = seconds(play.posterior, SENSORS, 0, middle, 0.05)
        name = source if isinstance(source, str) else source.relative_to(EXAMPLES).as_posix()
        print(f"{name:24}{2 * top:6}{first:14.1f}{again:>14}{middle:8}{last:10.1f}", flush=True)


def seconds(compute, *values: object) -> float:
    """Of the processor, that a call takes."""
    start = time.process_time()
    compute(*values)
    return time.process_time() - start


if __name__ == "__main__":
    main()
