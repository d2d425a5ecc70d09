"""Above the training resolution: what each ingredient gives, from the paper's setting to ours.

Every row is trained for the same processor time on pictures of 16, 24 and 32 pixels, drawn portraits or others, with the same
seeds, and sampled at 16 to 128, from half to four times its largest size. The row "trained at 64 alone" has what the others
never see. Mixed fine-tuning starts from the paper's row and takes a quarter more, and a model that guides another a sixth.
`benchmarks.drawings` says where the portraits come from.
Distances, against as many true pictures of that size, are

    features   of a small network that reads what drawn portraits show (`benchmarks.attributes`); of other pictures none;
    high band  of patches of the detail that 32 pixels cannot hold, by the true detail's energy; and the ratio of energies;
    patches    of 7 x 7 pixels;
    global     of images averaged to 8 x 8;

and each size has rows of other true pictures and, above 32, of our samples at 32, upsampled. The last table says how many
times as far as ours each row is, with the distances of other true pictures taken off or not. One command prints all::

    python datasets/portraits.py portraits.h5 --count 8192 --resolutions 16 24 32 64
    FILES="--data portraits.h5 --test portraits-test.h5"
    python -m benchmarks.scale $FILES --minutes 10 --dry   # what it would cost
    python -m benchmarks.scale $FILES --minutes 10         # trains, samples, prints, draws; goes on where it was stopped

Models and samples stay in --out, by row and seed: a row that is there is not trained again, and other options want another
--out. Several may run at a time (`--only ROW`), each on its own thread, but for rows that start from one another; what
counts is processor time. `--kept` prints what is there, whichever rows, seeds and sizes that is. Rows of options that lost
(octaves that count alike, half of the kernels at fixed places) are in commit 62f379b.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks import attributes
from benchmarks.drawings import Drawings, add_files
from benchmarks.scale_figures import draw_curves, draw_grid
from benchmarks.scale_measures import FLOOR, SEED, compare, measure, upsampled
from fnodiff import (
    DFU,
    EDM,
    Box,
    Cascade,
    DPMSolver,
    FunctionSpaceSDE,
    GaussianRandomField,
    Matern,
    Model,
    PixelNoise,
    Progressive,
    WhiteNoise,
)
from fnodiff.data import Augmentation, InMemory, MultiResolution
from fnodiff.sde import (
    Autoguided,
    Denoiser,
    DenoisingLoss,
    Direct,
    EDMScaling,
    Normalization,
    Plan,
    SpectralScaling,
    fit_spectrum,
    measure_normalization,
    noise_law,
    noise_levels,
    sample,
)
from fnodiff.train import Adam, Execution, Logging, fit, keep_freed_memory, mixed_finetune

DOMAIN, TRAIN, NATIVE = Box(2), (16, 24, 32), 64
SMALLEST, REFERENCE = (min(TRAIN), min(TRAIN)), (max(TRAIN), max(TRAIN))
NOISES = {
    "pixel": PixelNoise(DOMAIN),
    "white": WhiteNoise(DOMAIN, REFERENCE),
    "smooth": GaussianRandomField(DOMAIN, Matern(smoothness=0.25, length_scale=0.05)),
}
SAVE_EVERY = 200
SIZES = dict.fromkeys((16, 20, 24, 28, 32, 40, 48, 56, 64), 512) | dict.fromkeys((96, 128), 128)  # samples at each


@dataclass(frozen=True)
class Row:
    """A model, how it is trained, and how it is sampled."""

    name: str
    sizes: tuple[int, ...] = TRAIN
    network: dict[str, Any] = field(default_factory=dict)
    noise: str = "pixel"  # or "white": of the box; or "smooth": its fine modes weaker, nearly as the portraits' are
    scaling: str = "edm"  # or "spectral"
    linear_estimate: bool = False  # whether the network sees it
    sampling: str = "plain"  # or "progressive", or "cascade": by way of training grids
    keep: float | None = None  # of a cascade
    start: str | None = None  # the row whose model this one samples, or with `finetune` goes on from
    finetune: bool = False
    minutes: float = 1.0  # of training, in --minutes
    guide: str | None = None  # the row whose model guides this one's: `Autoguided`
    augment: bool = False  # whether it sees the portraits mirrored, moved, turned and scaled, and how

    @property
    def emerging(self) -> bool:
        """Whether the noise levels are those at which the portraits' modes emerge, instead of EDM's."""
        return self.scaling == "spectral" or self.noise == "smooth"


PAPER = Row("DFU, the paper's setting")
FUNCTIONS = replace(PAPER, name="+ function-space noise", noise="white")
SPECTRAL = replace(FUNCTIONS, name="+ spectral scaling", scaling="spectral")
ESTIMATE = replace(FUNCTIONS, name="+ linear estimate", linear_estimate=True)
FIXED = {"reference": REFERENCE}
OURS = replace(ESTIMATE, name="+ fixed levels", network=FIXED)
CASCADE = replace(OURS, name="+ cascade", sampling="cascade", start=OURS.name)
GUIDE = replace(OURS, name="guide", minutes=1 / 6)
GUIDED = replace(CASCADE, name="+ autoguidance", guide=GUIDE.name)
ROWS = [
    Row("UNet, one resolution", sizes=TRAIN[-1:], network={"spectral_levels": 0}),
    Row("UNet", network={"spectral_levels": 0}),
    Row("DFU, one resolution", sizes=TRAIN[-1:]),
    PAPER,
    replace(PAPER, name="+ mixed fine-tuning", start=PAPER.name, finetune=True, minutes=0.25),
    FUNCTIONS,
    SPECTRAL,
    replace(SPECTRAL, name="+ spectral, linear estimate", linear_estimate=True),
    ESTIMATE,
    OURS,
    replace(OURS, name="+ progressive sampling", sampling="progressive", start=OURS.name),
    CASCADE,
    replace(CASCADE, name="+ cascade, all modes kept", keep=1.0),
    GUIDED,
    replace(OURS, name="+ operator kernels", network=FIXED | {"local": "operator"}),
    replace(OURS, name="+ more sizes", sizes=(12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32)),  # kernels at more scales
    replace(OURS, name="+ smoother noise", noise="smooth"),
    replace(OURS, name="+ augmentation", augment=True, sampling="cascade"),
    replace(OURS, name="+ trained at 64 alone", sizes=(NATIVE,)),
]


def named(name: str) -> Row:
    """The row of this name."""
    return next(row for row in (*ROWS, GUIDE) if row.name == name)


def write_once(file: Path, content: Any) -> None:
    """As JSON, whole at once and only where there is none: others may read it meanwhile."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(content))
        part.replace(file)


class Study:
    """Models and samples of the rows, made when they are not there yet."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.minutes, self.out, self.batch = args.minutes, args.out, args.batch
        self.samples = {n: min(count, args.samples or count) for n, count in SIZES.items() if n in args.sizes}
        self.evaluations, self.progress = args.evaluations, not args.quiet
        self.drawings = Drawings(args.data, args.count)
        self.held_out = Drawings(args.test, 2 * max(self.samples.values()), held_out=True)
        self._pictures: dict[tuple[int, ...], InMemory] = {}

    def pictures(self, sizes: tuple[int, ...] = TRAIN) -> InMemory:
        """What is trained on, drawn once on these sizes."""
        if sizes not in self._pictures:
            self._pictures[sizes] = InMemory(self.drawings, [(n, n) for n in sizes], progress=self.progress)
        return self._pictures[sizes]

    def place(self, row: Row, seed: int) -> Path:
        """Where a row's files are, or would be."""
        return self.out / f"{row.name.strip('+ ').replace(', ', '-').replace(' ', '-')}-{seed}"

    def folder(self, row: Row, seed: int) -> Path:
        """Where a row's files are, made where there is none."""
        folder = self.place(row, seed)
        file, meaning = folder / "row.json", json.loads(json.dumps(asdict(row)))
        if file.exists() and json.loads(file.read_text()) != meaning:
            raise ValueError(f"{folder}: expected {meaning}, got {file.read_text()}: an older row; name another --out.")
        write_once(file, meaning)
        return folder

    def build(self, row: Row) -> Model:
        """An untrained model."""
        scaling = EDMScaling(0.5, row.linear_estimate)
        if row.scaling == "spectral":
            scaling = SpectralScaling(REFERENCE, linear_estimate=row.linear_estimate)
        numbers = {"augmentation_numbers": Augmentation().count(DOMAIN)} if row.augment else {}
        net = DFU.small(scaling.inputs(3), 3, domain=DOMAIN, **row.network, **numbers)
        units = measure_normalization(MultiResolution(self.pictures(), DOMAIN, TRAIN, batch_size=64), 0.5)
        noise, spectrum, finest = NOISES[row.noise], self.spectrum(units), (2 * REFERENCE[0], 2 * REFERENCE[1])
        sde = FunctionSpaceSDE(noise, EDM(*noise_levels(noise, spectrum, finest)) if row.emerging else EDM())
        return Model(net, sde, scaling, normalization=units, spectrum=spectrum, cell_averages=True)

    def loss(self, row: Row, model: Model) -> DenoisingLoss:
        """The loss, at EDM's noise levels or those of the modes."""
        law = noise_law(model.sde.noise, model.spectrum, REFERENCE) if row.emerging else ()
        return DenoisingLoss(model, *law)

    def spectrum(self, units: Normalization) -> Any:
        """S of the normalised portraits."""
        return fit_spectrum(
            units(self.pictures().batch(range(min(2048, len(self.drawings))), REFERENCE)["x"]),
            DOMAIN,
            cell_averages=True,
        )

    def model(self, row: Row, seed: int) -> Denoiser:
        """The trained model."""
        if row.start is not None and not row.finetune:
            model = self.model(named(row.start), seed)
            return model if row.guide is None else Autoguided(model, self.model(named(row.guide), seed))
        folder = self.folder(row, seed)
        if not (folder / "done.json").exists():
            self.train(row, seed, folder)
        return Model.from_pretrained(folder)

    def train(self, row: Row, seed: int, folder: Path) -> None:
        """Train for the steps that fit into the time, measured first; a run that was stopped goes on."""
        torch.manual_seed(seed)
        sizes = [(n, n) for n in row.sizes]
        own = row.sizes if set(row.sizes) - set(TRAIN) else TRAIN
        augmentation = Augmentation() if row.augment else None
        options = {"batch_size": self.batch, "seed": seed, "augmentation": augmentation}
        data = MultiResolution(self.pictures(own), DOMAIN, sizes, **options)
        if row.finetune:
            model = self.model(named(row.start), seed)
            run = partial(mixed_finetune, model, self.pictures(), (2 * REFERENCE[0],) * 2, batch_size=self.batch)
            run = partial(run, weight=0.3, optimizer=Adam(lr=2e-4))
        else:
            model = self.build(row)
            run = partial(fit, model, data, optimizer=Adam(lr=2e-3, decay=True), loss=self.loss(row, model))
        plan = folder / "plan.json"
        if not plan.exists():
            plan.write_text(json.dumps({"steps": self.count_steps(run, self.minutes * row.minutes)}))
            return self.train(row, seed, folder)  # anew, as counting trained the model
        steps, start = json.loads(plan.read_text())["steps"], time.process_time()
        logging, execution = Logging(progress=self.progress), Execution(save_every=SAVE_EVERY)
        run(steps=steps, folder=folder, resume="auto", logging=logging, execution=execution)
        (folder / "done.json").write_text(json.dumps({"steps": steps, "seconds": time.process_time() - start}))
        (folder / "training.pt").unlink()
        return None

    @staticmethod
    def count_steps(run: Any, minutes: float, trial: int = 24) -> int:
        """How many steps take this processor time, by the median of some of each size."""
        times: dict[Any, list[float]] = {}
        last = time.process_time()

        def note(step: int, shape: Any, loss: float) -> None:
            nonlocal last
            now = time.process_time()
            times.setdefault(shape, []).append(now - last)
            last = now

        run(steps=trial, logging=Logging(progress=False, callback=note))
        seconds = sum(torch.tensor(v).median().item() * len(v) for v in times.values()) / trial
        return max(1, int(60 * minutes / seconds))

    def kept(self, row: Row, seed: int, size: int) -> bool:
        """Whether there are as many samples as are asked for."""
        file = self.place(row, seed) / f"samples-{size}.safetensors"
        return file.exists() and len(load_file(file)["x"]) >= self.samples[size]

    def sample(self, row: Row, seed: int, size: int) -> Tensor:
        """Samples (count, 3, size, size), the same seeds for every row."""
        file, count = self.folder(row, seed) / f"samples-{size}.safetensors", self.samples[size]
        kept = load_file(file)["x"].float() / 127.5 - 1 if file.exists() else torch.empty(0, 3, size, size)
        if len(kept) < count:
            # Without a solver a cascade's finer grids have fresh noise at each step.
            solver = DPMSolver(self.evaluations) if row.sampling != "cascade" else None
            options = {"solver": solver, "plan": plan(row, size), "progress": self.progress}
            seeds = range(10_000 + len(kept), 10_000 + count)
            kept = torch.cat([kept, sample(self.model(row, seed), size, seeds, batch=16, **options)])
            save_file({"x": ((kept.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)}, file)
            kept = load_file(file)["x"].float() / 127.5 - 1
        return kept[:count]

    def truth(self, size: int, other: bool = False) -> Tensor:
        """True portraits that no model has seen."""
        count = self.samples[size]
        return self.held_out.batch(range(count * other, count * (1 + other)), (size, size))["x"]


def plan(row: Row, size: int) -> Plan:
    """One grid; or by way of the smallest and the largest training grids, passing through both or finishing on the largest."""
    if row.sampling == "plain":
        return Direct()
    if size > REFERENCE[0] and row.sampling == "cascade":
        return Cascade([REFERENCE], through=[SMALLEST], keep=row.keep)
    return Progressive([grid for grid in (SMALLEST, REFERENCE) if grid[0] < size])


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add_files(parser)
    add("--minutes", type=float, default=10.0, help="processor time of each row's training")
    add("--only", nargs="+", choices=[row.name for row in ROWS], help="rows; default: all")
    add("--seeds", type=int, nargs="+", default=[0], help="of the training")
    add("--sizes", type=int, nargs="+", choices=SIZES, default=list(SIZES), help="to sample at")
    add("--samples", type=int, help="at most, per size; 3 or more")
    add("--evaluations", type=int, default=12, help="of the network, per sample; cascades have 12 a grid")
    add("--batch", type=int, default=8)
    add("--count", type=int, default=8192, help="portraits to train on")
    add("--out", type=Path, default=Path("scale"), help="folder for models, samples and figures")
    add("--kept", action="store_true", help="make nothing: print and draw what is in --out")
    add("--dry", action="store_true", help="say what it would cost, and stop")
    add("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(argv)
    if args.samples is not None and args.samples < 3:
        parser.error(
            f"expected --samples of 3 or more, got {args.samples}: distances compare sets, and the figure has three"
        )
    return args


def main() -> None:
    """Train and sample what is missing; print the table and draw the figures."""
    args = parse()
    torch.set_num_threads(1)
    keep_freed_memory()
    study = Study(args)
    rows = [row for row in ROWS if not args.only or row.name in args.only]
    names = {row.name for row in rows} | {name for row in rows for name in (row.start, row.guide)}
    trained = [row for row in (*ROWS, GUIDE) if row.name in names and (row.start is None or row.finetune)]
    share = sum(row.minutes for row in trained)
    points = sum(count * n**2 for n, count in study.samples.items())
    spent = args.minutes * share * len(args.seeds)
    print(
        f"{len(trained)} models for {len(args.seeds)} seeds: {spent:.0f} minutes of one core to train, and {len(rows)} times "
        f"{points / 1e6:.1f} million points to sample with {args.evaluations} evaluations, less what is in {args.out}"
    )
    if args.dry:
        return
    if args.kept and not any(study.kept(row, seed, n) for row in rows for seed in args.seeds for n in study.samples):
        raise ValueError(f"{args.out}: expected samples of some row, got none; leave --kept out to make them.")
    for size in {n for row in trained for n in row.sizes}:
        study.drawings.batch([0], (size, size))  # a grid that is missing is named before anything is trained
    args.out.mkdir(parents=True, exist_ok=True)
    kept, options = (
        args.out / "options.json",
        {name: getattr(args, name) for name in ("minutes", "batch", "count", "evaluations")},
    )
    if kept.exists() and json.loads(kept.read_text()) != options:
        raise ValueError(
            f"{args.out}: expected options {kept.read_text()}, got {json.dumps(options)}; name another --out."
        )
    write_once(kept, options)
    table, pictures = {}, {}
    for row in rows:
        for seed in args.seeds:
            name = row.name if len(args.seeds) == 1 else f"{row.name}{SEED}{seed}"
            sizes = [size for size in study.samples if not args.kept or study.kept(row, seed, size)]
            if sizes:
                pictures[name] = {size: study.sample(row, seed, size) for size in sizes}
    net = attributes.load() if study.held_out.drawings else None
    print(f"\n{args.minutes:g} minutes each; torch {torch.__version__}, 1 thread, {platform.machine()}")
    for size, count in study.samples.items():
        true = study.truth(size)
        here = {FLOOR: study.truth(size, other=True)} | {k: v[size] for k, v in pictures.items() if size in v}
        known = [name for name in pictures if REFERENCE[0] in pictures[name]]
        if size > REFERENCE[0] and known:
            ours = [name for best in (GUIDED, CASCADE) for name in known if name.startswith(best.name)]
            last = [*ours, known[-1]][0]
            for way, x in upsampled(pictures[last][32][:count], size).items():
                here[f"{way} of {last}"] = x
        heads = zip(("features", "high band", "energy", "patches", "global"), (9, 10, 8, 9, 8), strict=True)
        print(f"\n{f'{size} x {size}, {count} samples':<40}" + "".join(f"{head:>{width}}" for head, width in heads))
        for name, x in here.items():
            found = table[name, size] = measure(net, x, true, REFERENCE)
            cells = zip(found, (9, 10, 8, 9, 8), (2, 3, 2, 3, 2), strict=True)
            print(
                f"{name:<40}" + "".join(f"{v:>{w}.{d}f}" if v == v else f"{'-':>{w}}" for v, w, d in cells), flush=True
            )
    for ours in [row.name for row in (CASCADE, OURS) if any(name.split(SEED)[0] == row.name for name in pictures)][:1]:
        print("", *compare(table, ours), sep="\n")
    print()
    draw_curves(table, args.out / "scale.png")
    sizes = [size for size in study.samples if all(size in by_size for by_size in pictures.values())]
    pictures["true"] = {size: study.truth(size) for size in sizes}
    few = dict.fromkeys(sizes[round(i * (len(sizes) - 1) / 3)] for i in range(4) if sizes)  # ends, two between
    if few:
        draw_grid({name: {n: by_size[n] for n in few} for name, by_size in pictures.items()}, args.out / "pictures.png")


if __name__ == "__main__":
    main()
