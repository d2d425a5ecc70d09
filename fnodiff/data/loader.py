"""Training batches at several resolutions.

One resolution per batch, drawn with a weight for each; the small ones first, if asked. A batch is a pure function of
(seed, step): a run that stops and goes on, or loads with more workers, sees the same batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from numbers import Integral

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from fnodiff.data.augmentation import Augmentation
from fnodiff.data.source import Fields, _Source, check_domain, check_ends, checked, epoch, selected
from fnodiff.data.steps import Steps
from fnodiff.domain import Domain, Shape
from fnodiff.expected import at_least, kinds_checked

SMALLEST_GRID = 4
"""Points on each side of the smallest grid to train on: coarser ones have no spectrum to speak of, and networks no levels."""


@kinds_checked
class MultiResolution(_Source, Dataset):
    """Batches for training, by step: `data[step]` is {"x": (B, C, *shape), ...} with shape one of `shapes`.

    A map-style dataset of batches. Its length is an epoch; steps beyond it are further epochs, each in a new order. For a
    `DataLoader` use batch_size=None and `data.steps(start, stop)` as sampler.

    Args:
        fields: Where the samples come from.
        domain: What they are functions on; it checks the shapes.
        shapes: Spatial shapes, each a tuple, or an int for `Domain.shape_of`: n points per side, or n latitudes; 4 points on
            each side at least. A single int is a single shape.
        weights: Relative frequency of each shape; equal by default.
        batch_size: Samples per batch. Every epoch visits all samples once, in a new order; its last batch is filled up from
            the next epoch.
        warmup: Over this many steps, shapes join from the smallest to the largest, at equal intervals.
        seed: Fixes the order of samples and shapes.
        augmentation: Random maps under which samples are seen; their numbers are the batch's "augmentation", which a model of
            these data gives to its network.

    Raises:
        ValueError: If shapes, weights or sizes do not fit each other or the domain, or the source is none, is of another domain
            or does not give what it is asked for: two samples are read on each grid, and every batch is looked at.

    Examples:
        >>> import torch
        >>> from fnodiff import Box
        >>> from fnodiff.data import ArrayFields, MultiResolution
        >>> fields = ArrayFields(torch.rand(100, 3, 24, 24), domain=Box(2))
        >>> data = MultiResolution(fields, Box(2), shapes=[16, (24, 24)], batch_size=4)
        >>> [tuple(data[step]["x"].shape) for step in range(4)]
        [(4, 3, 24, 24), (4, 3, 16, 16), (4, 3, 24, 24), (4, 3, 24, 24)]
    """

    def __init__(
        self,
        fields: Fields,
        domain: Domain,
        shapes: Sequence[int | Sequence[int]] | int,
        weights: Sequence[float] | None = None,
        batch_size: int = 32,
        *,
        warmup: int = 0,
        seed: int = 0,
        augmentation: Augmentation | None = None,
    ) -> None:
        super().__init__(fields)
        if not isinstance(domain, Domain):
            raise ValueError(f"MultiResolution: expected a domain, got {domain!r}; pass such as Box(2).")
        check_domain("MultiResolution", fields, domain)
        self.domain = domain
        self.shapes = [domain.check_shape(s) for s in ([shapes] if isinstance(shapes, Integral) else shapes)]
        self.weights = [1.0] * len(self.shapes) if weights is None else [float(w) for w in weights]
        if not self.shapes or len(self.weights) != len(self.shapes) or len(set(self.shapes)) != len(self.shapes):
            raise ValueError(
                f"MultiResolution: expected different shapes and one weight for each, got {len(self.shapes)} shapes "
                f"{self.shapes} and {len(self.weights)} weights; name each shape once."
            )
        if min(self.weights) < 0 or not 0 < sum(self.weights) < math.inf:
            raise ValueError(
                f"MultiResolution: expected weights >= 0 with a positive sum, got {self.weights}; "
                f"a shape that is never drawn has weight 0."
            )
        if len(fields) == 0 or batch_size < 1 or warmup < 0 or seed < 0:
            raise ValueError(
                f"MultiResolution: expected samples, batch_size >= 1, warmup >= 0 and seed >= 0, got {len(fields)} samples, "
                f"batch_size={batch_size}, warmup={warmup}, seed={seed}; change those."
            )
        if min(map(min, self.shapes)) < SMALLEST_GRID:
            raise ValueError(
                f"MultiResolution: expected at least {SMALLEST_GRID} points on each side, got {min(self.shapes)}; take a finer "
                f"grid."
            )
        if augmentation is not None and not isinstance(augmentation, Augmentation):
            raise ValueError(f"MultiResolution: expected an Augmentation, got {augmentation!r}; pass Augmentation().")
        self.batch_size, self.warmup, self.seed, self.augmentation = batch_size, warmup, seed, augmentation
        self._epoch: tuple[int, np.ndarray] | None = None
        for shape in self.shapes:  # what the source lacks is known before training
            # of one sample, a mask for all would look like one for each
            check_ends("MultiResolution", self.take([0, min(1, len(fields) - 1)], shape)["x"], domain)

    def __len__(self) -> int:
        """Steps in an epoch: those after which every sample has been seen once."""
        return -(-len(self.fields) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (self[step] for step in range(len(self)))

    def steps(self, start: int = 0, stop: int | None = None, every: int = 1) -> Steps:
        """The steps of a run from `start` to `stop`, without end if that is None: a sampler.

            loader = DataLoader(data, batch_size=None, sampler=data.steps(0, 10_000))

        Steps beyond the first epoch are further epochs, each in an order of its own. In a loop of your own with several
        processes each takes its own ones, `data.steps(rank, 10_000, every=processes)`. Accelerate's `prepare` is for the model
        and the optimizer: of a loader without a batch size it loses the sampler.
        """
        return Steps(start, stop, every)

    def samples(self, count: int, shape: Shape) -> dict[str, Tensor]:
        """`count` samples of the source, or all if it has fewer, chosen at random by the seed: for measuring. Of a source that
        says how many to look at (`scan`), as `Stream`, no more than these, the first."""
        if (scan := getattr(self.fields, "scan", None)) is not None:
            return self.take(range(min(count, scan)), self.domain.check_shape(shape))
        order = epoch(self.fields, self._rng(2, 0))[:count]
        return self.take(sorted(int(i) for i in order), self.domain.check_shape(shape))

    def take(self, indices: Sequence[int], shape: Shape) -> dict[str, Tensor]:
        """These samples of the source on one grid, (len(indices), C, *shape) and what belongs to them.

        Raises:
            ValueError: If the source gives something else.
        """
        batch = checked("MultiResolution", self.fields, indices, shape, self.channels)
        self.channels = batch["x"].shape[1]
        return batch

    @property
    def native_shapes(self) -> tuple[Shape, ...]:
        """The shapes that are drawn, and on which the samples are not upsampled ones."""
        drawn = [s for s, weight in zip(self.shapes, self.weights, strict=True) if weight > 0]
        return tuple(s for s in drawn if not isinstance(self.fields, Upsampled) or self.fields.holds(s))

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        return self.rows(step, range(self.batch_size))

    def rows(self, step: int, rows: Sequence[int]) -> dict[str, Tensor]:
        """Some rows of the batch at this step, as each of several processes takes its own."""
        indices = self.indices(step)
        batch = self.take([indices[row] for row in rows], self.shape(step))
        return (
            batch if self.augmentation is None else self._augmented(batch, [step * self.batch_size + i for i in rows])
        )

    def _augmented(self, batch: dict[str, Tensor], places: Sequence[int]) -> dict[str, Tensor]:
        """The samples at these places of the run under random maps, with their numbers as "augmentation" (B, K)."""
        others = [name for name in ("field", "mask") if name in batch]
        if "mask" in batch and not self.augmentation.mirrors_only:
            raise ValueError(
                "MultiResolution: expected samples without a mask, or maps that mirror alone, as missing values would be mixed "
                "with their neighbours; pass Augmentation(shift=0, turn=0, scale=0)."
            )
        rows = [
            self.augmentation(x, self.domain, self._rng(3, place), tuple(batch[name][i] for name in others))
            for i, (x, place) in enumerate(zip(batch["x"], places, strict=True))
        ]
        return batch | {
            name: torch.stack(part)
            for name, part in zip(("x", "augmentation", *others), zip(*rows, strict=True), strict=True)
        }

    def shape(self, step: int) -> Shape:
        """The shape of the batch at this step."""
        by_size = sorted(range(len(self.shapes)), key=lambda i: math.prod(self.shapes[i]))
        weights = np.zeros(len(self.shapes))
        for rank, i in enumerate(by_size):
            if step * len(by_size) >= rank * self.warmup:
                weights[i] = self.weights[i]
        if weights.sum() == 0:  # the shapes that have joined all have weight zero
            weights = np.array(self.weights)
        return self.shapes[int(self._rng(0, step).choice(len(weights), p=weights / weights.sum()))]

    def indices(self, step: int) -> list[int]:
        """The samples of the batch at this step."""
        first = step * self.batch_size
        return [self._sample(i) for i in range(first, first + self.batch_size)]

    def _sample(self, position: int) -> int:
        turn, i = divmod(position, len(self.fields))
        if self._epoch is None or self._epoch[0] != turn:
            self._epoch = turn, epoch(self.fields, self._rng(1, turn))
        return int(self._epoch[1][i])

    def _rng(self, stream: int, count: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream, count])


@kinds_checked
class InMemory(_Source):
    """A source's samples on given grids, prepared once and kept: for sources that are slow to read or draw.

    Memory is that of all samples on all shapes, in float32.

    Args:
        fields: The source.
        shapes: Spatial shapes, or ints for as many points on each side.
        chunk: Samples prepared at a time.
        progress: Show a bar.

    Raises:
        ValueError: If a batch is asked for on a shape that was not prepared.

    Examples:
        >>> import torch
        >>> from fnodiff import Box
        >>> from fnodiff.data import ArrayFields, InMemory
        >>> kept = InMemory(ArrayFields(torch.rand(3, 3, 24, 24), domain=Box(2)), [(16, 16), (24, 24)])
        >>> kept.batch([2, 0], (24, 24))["x"].shape
        torch.Size([2, 3, 24, 24])
    """

    def __init__(
        self,
        fields: Fields,
        shapes: Sequence[Sequence[int] | int] | int,
        *,
        chunk: int = 256,
        progress: bool = False,
    ) -> None:
        super().__init__(fields)
        self._length = len(fields)
        self._kept: dict[Shape, dict[str, Tensor]] = {}
        listed = [shapes] if isinstance(shapes, Integral) else shapes
        shapes = [s if isinstance(s, Integral) else tuple(s) for s in listed]  # the source knows what an int is
        at_least("InMemory", 1, chunk=chunk)
        parts = [range(i, min(i + chunk, len(fields))) for i in range(0, len(fields), chunk)]
        with tqdm(total=len(shapes) * len(fields), disable=not progress, desc="preparing data") as bar:
            for shape in shapes:
                batches = []
                for part in parts:
                    batches.append(checked("InMemory", fields, part, shape, self.channels))
                    bar.update(len(part))
                kept = {name: torch.cat([b[name] for b in batches]) for name in batches[0]}
                self._kept[tuple(kept["x"].shape[2:])] = kept

    def __len__(self) -> int:
        return self._length

    def batch(self, indices: Sequence[int], shape: Shape) -> dict[str, Tensor]:
        """As the source's, from memory."""
        if isinstance(shape, Integral):  # as many points on each side, or the one grid of so many rows
            alike, square = [s for s in self._kept if s[0] == shape], (int(shape),) * len(next(iter(self._kept)))
            shape = alike[0] if len(alike) == 1 else square
        shape = tuple(shape)
        if shape not in self._kept:
            raise ValueError(f"InMemory: expected one of the prepared shapes {list(self._kept)}, got {shape}; add it.")
        rows = torch.tensor(selected("InMemory", indices, len(self)), dtype=torch.long)
        return {name: value[rows] for name, value in self._kept[shape].items()}


@kinds_checked
class Upsampled(_Source):
    """A source seen at `shape` at best: on finer grids, its fields there, upsampled.

    Where there are walls linearly along each axis, from the centres of cells; elsewhere by `domain.resample`. A conditioning
    field stays as the source gives it at `shape`.

    Mixed with native fields in training they teach a model what a picture looks like as a whole on a grid for which there
    is no data, at the price of its detail: `fnodiff.train.mixed_finetune`.

    Args:
        fields: The source.
        shape: The finest grid that it is asked for.
        domain: What the fields are functions on.

    Raises:
        ValueError: If a batch is asked for on a grid that is finer along one axis and coarser along another, or if a batch has
            a mask, which cannot be upsampled.

    Examples:
        >>> import torch
        >>> from fnodiff import Box
        >>> from fnodiff.data import ArrayFields, Upsampled
        >>> source = Upsampled(ArrayFields(torch.rand(3, 3, 32, 32), domain=Box(2)), (16, 16), Box(2))
        >>> source.batch([0], (32, 32))["x"].shape, source.holds((32, 32))
        (torch.Size([1, 3, 32, 32]), False)
    """

    def __init__(self, fields: Fields, shape: Shape | int, domain: Domain) -> None:
        super().__init__(fields)
        self.domain = domain
        self.shape = domain.check_shape(shape)

    def __len__(self) -> int:
        return len(self.fields)

    def holds(self, shape: Shape) -> bool:
        """Whether fields on this grid are the source's own."""
        return all(n <= m for n, m in zip(shape, self.shape, strict=True))

    def batch(self, indices: Sequence[int], shape: Shape) -> dict[str, Tensor]:
        """As the source's on grids up to `shape`; beyond, {"x": (B, C, *shape), ...} with x upsampled."""
        shape = self.domain.check_shape(shape)
        if self.holds(shape):
            return self.fields.batch(indices, shape)
        batch = self.fields.batch(indices, self.shape)
        if not all(n >= m for n, m in zip(shape, self.shape, strict=True)) or "mask" in batch:
            raise ValueError(
                f"Upsampled: expected a grid as fine as {self.shape} along every axis, or as coarse, and no mask, got "
                f"{shape} and {sorted(batch)}; name another grid, or fill in what is missing first."
            )
        return {**batch, "x": self.domain.upsample(batch["x"], shape)}


@kinds_checked(but=("indices",))
class Part(_Source):
    """Some of a source's samples, such as those to train on and those held out.

    Args:
        fields: The source.
        indices: Which of its samples: numbers (negative ones from the end), a slice, or a boolean for each.
        names: Which entries of a batch to keep, such as ["x"] to train without labels; all by default.

    Raises:
        ValueError: If an index is not one of the source's, or of the part's.

    Examples:
        >>> import torch
        >>> from fnodiff import Box
        >>> from fnodiff.data import ArrayFields, Part
        >>> x = torch.rand(100, 3, 16, 16)
        >>> held_out = Part(ArrayFields(x, domain=Box(2)), range(90, 100))
        >>> len(held_out), torch.equal(held_out.batch([0], (16, 16))["x"], x[90:91])
        (10, True)
    """

    def __init__(self, fields: Fields, indices: Sequence[int], names: Sequence[str] | None = None) -> None:
        super().__init__(fields)
        self.selected, self.names = selected("Part", indices, len(fields)), names

    @property
    def num_classes(self) -> int:
        return super().num_classes if self.names is None or "label" in self.names else 0

    @property
    def condition_channels(self) -> int:
        return super().condition_channels if self.names is None or "field" in self.names else 0

    @property
    def condition_names(self) -> tuple[str, ...]:
        return super().condition_names if self.names is None or "condition" in self.names else ()

    def __len__(self) -> int:
        return len(self.selected)

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """The part's samples in the order in which the source takes them."""
        place = np.empty(len(self.fields), dtype=np.int64)
        place[epoch(self.fields, rng)] = np.arange(len(self.fields))
        return np.argsort(place[self.selected], kind="stable")

    def batch(self, indices: Sequence[int], shape: Shape) -> dict[str, Tensor]:
        """As the source's, with indices counted within the part."""
        batch = self.fields.batch([self.selected[i] for i in selected("Part", indices, len(self))], shape)
        if self.names is not None and not {"x"} <= set(self.names) <= set(batch):
            raise ValueError(f"Part: expected names among {list(batch)}, x with them, got {list(self.names)}.")
        return batch if self.names is None else {name: batch[name] for name in self.names}
