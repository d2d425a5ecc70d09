"""Models at the command line.

    python -m fnodiff sample CHECKPOINT --size 160x160 --seeds 0-63 --out samples
    python -m fnodiff evaluate CHECKPOINT --size 32 48 --seeds 0-255 --data faces --out samples
    python -m fnodiff report CHECKPOINT --shapes 32 48 64 --data faces

CHECKPOINT is a folder of `save_pretrained` or a hub id. Seed i is sample i, whatever else is drawn. Images (three channels on a
Box, in [-1, 1]) become `SIZE/seed-000012.png`, all else, or with --format hdf5, a file of `fnodiff.data.HDF5Fields` in the
data's units. A run that was stopped goes on where it was. Several processes share the seeds: `accelerate launch -m fnodiff
sample ...` on GPUs, `torchrun --nproc_per_node 2 -m fnodiff sample ...` on CPUs.

`evaluate` draws what is missing and compares it with as many true fields on the same grid, and those with as many others;
`report` is `python -m fnodiff.report`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from fnodiff import report
from fnodiff.checkpoint import from_pretrained, replace_file
from fnodiff.data import HDF5Fields, write_fields
from fnodiff.domain import Box, Shape
from fnodiff.sde import DDIM, Denoiser, DPMSolver, Heun, Sampler

SAMPLERS = {"dpm": DPMSolver, "heun": Heun, "ddim": DDIM}
SETTINGS = "sampling.json"


class Drawn:
    """Samples of a model as a source of fields: index i is the i-th seed."""

    def __init__(self, sampler: Sampler, channels: int, seeds: Sequence[int], label: int | None, device: str) -> None:
        self.sampler, self.channels, self.seeds, self.label, self.device = sampler, channels, seeds, label, device

    def __len__(self) -> int:
        return len(self.seeds)

    def batch(self, indices: Sequence[int], shape: Shape) -> dict[str, Tensor]:
        seeds = [self.seeds[i] for i in indices]
        told = {} if self.label is None else {"label": torch.full((len(seeds),), self.label)}
        x = self.sampler.draw((self.channels, *shape), seeds, chunk=len(seeds), device=self.device, **told)
        if not bool(x.isfinite().all()):
            bad = [seed for seed, one in zip(seeds, x, strict=True) if not bool(one.isfinite().all())]
            raise ValueError(
                f"samples of seeds {bad} on {shape} are not finite; the model or the sampler diverged there."
            )
        return {"x": x}


def seeds_of(text: str) -> list[int]:
    """ "0-3,7" as [0, 1, 2, 3, 7]."""
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise argparse.ArgumentTypeError(f"expected seeds such as 0-63 or 0-3,7, got {text!r}")
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    if not seeds or len(set(seeds)) != len(seeds):
        raise argparse.ArgumentTypeError(f"expected each seed once, the smaller one first, got {text!r}")
    return seeds


def size_of(text: str) -> Shape:
    """ "160x160" as (160, 160), and "160" as (160,)."""
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text):
        raise argparse.ArgumentTypeError(f"expected a size such as 160x160 or 160, got {text!r}")
    return tuple(map(int, text.split("x")))


def save_images(source: Drawn, shape: Shape, folder: Path, chunk: int, progress: bool) -> None:
    """One PNG per seed, each replaced in one move; those that are there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [i for i, seed in enumerate(source.seeds) if not _file(folder, seed).is_file()]
    beyond, count = 0, 0
    bar = tqdm(total=len(source), initial=len(source) - len(missing), desc=folder.name, disable=not progress)
    with bar:
        for start in range(0, len(missing), chunk):
            rows = missing[start : start + chunk]
            x = source.batch(rows, shape)["x"]
            beyond, count = beyond + int((x.abs() > 1).sum()), count + x.numel()
            levels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(1, -1).numpy()
            for i, image in zip(rows, levels, strict=True):
                replace_file(
                    _file(folder, source.seeds[i]), lambda new, image=image: Image.fromarray(image).save(new, "png")
                )
            bar.update(len(rows))
    if beyond:
        print(f"{folder}: {beyond / count:.2%} of the values lay beyond [-1, 1] and were clipped to it")


def _file(folder: Path, seed: int) -> Path:
    return folder / f"seed-{seed:06d}.png"


def _name(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _check_settings(out: Path, settings: dict[str, object]) -> None:
    """Write down how the samples in a folder were drawn, or compare."""
    file, text = out / SETTINGS, json.dumps(settings, indent=2) + "\n"
    if file.is_file():
        if file.read_text() != text:
            raise ValueError(
                f"{out}: holds samples drawn otherwise ({file.read_text().strip()}, now {text.strip()}); name another --out."
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    replace_file(file, lambda new: new.write_text(text))


def _fingerprint(model: Denoiser) -> str:
    """Of all tensors."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def draw(args: argparse.Namespace) -> tuple[Denoiser, list[Shape]]:
    """Draw what is missing in --out; returns the model and the shapes."""
    state = PartialState(cpu=args.device == "cpu")
    model = from_pretrained(args.checkpoint).to(args.device)
    domain = model.sde.domain
    backbone = getattr(model, "backbone", None)
    channels, classes = getattr(backbone, "out_channels", None), getattr(backbone, "num_classes", None)
    if channels is None:
        raise ValueError(f"{args.checkpoint}: expected a model with a DFU, to know the samples' channels.")
    if getattr(backbone, "condition_channels", 0):
        raise ValueError(
            f"{args.checkpoint}: expected a model without a conditioning field, whose samples would each need one; "
            f"call a sampler in Python with field=."
        )
    if classes and (args.label is None or not -1 <= args.label < classes):
        raise ValueError(f"--label: expected 0 to {classes - 1}, or -1 for no class, got {args.label}; name one.")
    if not classes and args.label is not None:
        raise ValueError(f"--label: expected none, as the model has no classes, got {args.label}; leave it out.")
    shapes = [domain.shape_of(*size) if len(size) == 1 else domain.check_shape(size) for size in args.size]
    images = channels == 3 and isinstance(domain, Box) and domain.dim == 2
    kind = args.format or ("png" if images else "hdf5")
    if kind == "png" and not images:
        raise ValueError(
            f"--format png: expected 3 channels on a Box in 2 dimensions, got {channels} on {domain}; use hdf5."
        )
    settings = {"model": _fingerprint(model), "sampler": args.sampler, "steps": args.steps, "label": args.label}
    settings |= {"format": kind}
    if state.is_main_process:
        _check_settings(args.out, settings)
    state.wait_for_everyone()
    with state.split_between_processes(args.seeds) as mine:
        source = Drawn(SAMPLERS[args.sampler](model, args.steps), channels, list(mine), args.label, args.device)
        for shape in shapes if source.seeds else []:
            if kind == "png":
                save_images(source, shape, args.out / _name(shape), args.chunk, not args.quiet)
                continue
            file = args.out / f"{_name(shape)}-seeds-{source.seeds[0]}-{source.seeds[-1]}.h5"
            told = {
                **settings,
                "seeds": ",".join(map(str, source.seeds)),
                "label": -1 if args.label is None else args.label,
            }
            grid = "cell averages" if images else "points"
            told |= {"source": f"samples of {args.checkpoint}", "licence": "the model's", "grid": grid}
            options = {"dtype": "float32", "chunk": args.chunk, "progress": not args.quiet}
            write_fields(file, source, [shape], attributes=told, **options)
    state.wait_for_everyone()
    return model, shapes


def load(folder: Path, shape: Shape, seeds: Sequence[int]) -> Tensor:
    """What `draw` left of these seeds, (len(seeds), C, *shape)."""
    if (folder / _name(shape)).is_dir():
        files = [_file(folder / _name(shape), seed) for seed in seeds]
        levels = np.stack([np.asarray(Image.open(file)) for file in files])
        return torch.from_numpy(levels).movedim(-1, 1).float() / 127.5 - 1
    found: dict[int, Tensor] = {}
    for file in sorted(folder.glob(f"{_name(shape)}-seeds-*.h5")):
        fields = HDF5Fields(file)
        here = [int(seed) for seed in str(fields.attributes["seeds"]).split(",")]
        x = fields.batch(range(len(fields)), shape)["x"]
        found |= {seed: one for seed, one in zip(here, x, strict=True) if seed in set(seeds)}
    return torch.stack([found[seed] for seed in seeds])


def evaluate(args: argparse.Namespace) -> None:
    """Distances of samples from true fields, on each grid."""
    count = len(args.seeds)
    reference = report.open_fields(args.data, 2 * count)
    if len(reference) < 2 * count:
        raise ValueError(
            f"{args.data}: expected twice as many true fields as samples, got {len(reference)} for {count}."
        )
    model, shapes = draw(args)
    if not PartialState().is_main_process:
        return
    for shape in shapes:
        true = reference.batch(range(2 * count), shape)["x"]
        x = load(args.out, shape, args.seeds)
        if x.shape[1] != true.shape[1]:
            raise ValueError(
                f"{args.data}: expected fields of {x.shape[1]} channels, as the samples, got {true.shape[1]}."
            )
        print(f"\n{_name(shape)}, {count} samples")
        for kind, fields in (("sampled", x), ("other true", true[count:])):
            row = report.distances(fields, true[:count], model.sde.domain, model.training_shapes)
            print(f"  {kind:<12}" + "".join(f"{name:>12} {value:<8.3f}" for name, value in row.items()))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line of `sample` and `evaluate`."""
    parser = argparse.ArgumentParser(
        prog="python -m fnodiff", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("report", help="how far the grid still matters (python -m fnodiff.report)", add_help=False)
    for name, text in (("sample", "draw samples into a folder"), ("evaluate", "compare samples with true fields")):
        add = commands.add_parser(name, help=text).add_argument
        add("checkpoint", help="a folder of save_pretrained, or a hub id")
        add("--size", type=size_of, nargs="+", required=True, help="such as 160x160, or 160 for as many on each side")
        add("--seeds", type=seeds_of, default=seeds_of("0-63"), help="such as 0-63 or 0-3,7")
        add("--out", type=Path, required=True, help="folder of the samples")
        add("--sampler", choices=SAMPLERS, default="dpm", help="DPM-Solver++ (2M), Heun or DDIM")
        add("--steps", type=int, default=12)
        add("--label", type=int, help="the class to draw, of a model that has classes")
        add("--format", choices=["png", "hdf5"], help="default: png for images, hdf5 for other fields")
        add("--chunk", type=int, default=16, help="samples at a time")
        add("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
        add("--quiet", action="store_true", help="no progress bars")
        if name == "evaluate":
            add(
                "--data",
                required=True,
                help='"faces" (drawn portraits), a folder or zip of images, or an .h5 of fields',
            )
    args = parser.parse_args(argv)
    if args.command != "report" and (args.chunk < 1 or args.steps < 1):
        parser.error(f"expected --chunk and --steps of 1 or more, got {args.chunk} and {args.steps}")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv[:1] == ["report"]:
        return report.main(argv[1:])
    args = parse(argv)
    try:
        return evaluate(args) if args.command == "evaluate" else draw(args) and None
    except ValueError as error:
        sys.exit(f"python -m fnodiff {args.command}: {error}")


if __name__ == "__main__":
    main()
