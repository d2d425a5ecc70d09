"""Random numbers: normals and uniforms that one seed fixes on every grid, in every batch and on every device."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

VERSION = 2
"""Of the numbers that a seed gives. Below `CUBE` they are version 1's."""

CUBE = {2: 128, 3: 32}
"""Entries below so many along every axis are drawn by shells of a cube, by dimension; those beyond in blocks along an axis."""

Generators = torch.Generator | Sequence[torch.Generator] | None


def seeds(batch: int, generator: torch.Generator | Sequence[torch.Generator]) -> list[int]:
    """One integer per sample, drawn from the generator, or from each sample's own."""
    given = [generator] if isinstance(generator, torch.Generator) else generator
    if not isinstance(given, Sequence) or not all(isinstance(one, torch.Generator) for one in given):
        raise ValueError(
            f"expected a torch.Generator, or a sequence of them, got {generator!r}; pass torch.Generator().manual_seed(seed)."
        )
    if isinstance(generator, torch.Generator):
        generator = [generator] * batch
    if len(generator) != batch:
        raise ValueError(
            f"expected one generator, or one per sample: {batch}, got {len(generator)}; "
            f"pass [torch.Generator().manual_seed(s) for s in ...] of that length."
        )
    return [int(torch.randint(2**62, (), generator=g, device=g.device)) for g in generator]


def normals(
    batch: Sequence[int], shape: Sequence[int], *, generator: Generators = None, device=None, dtype=None
) -> Tensor:
    """Independent standard normals (*batch, *shape), batch = (B, C).

    With a generator, entry j of channel c of a sample depends on the sample's seed, c and j alone, so that a larger shape
    continues a smaller one. Entries with max(j) < `CUBE` are drawn by shells of max(j). Those beyond come in blocks that each
    have a stream of their own: rows along one axis, a few beside each other, so that a long grid draws few that it has not.
    Drawn on the CPU in float64 whatever device and dtype.
    """
    if generator is None:
        return torch.randn(*batch, *shape, device=device, dtype=dtype)
    dim = len(shape)
    side = min(max(shape), CUBE.get(dim, max(shape)))
    low, order, blocks = tuple(slice(min(n, side)) for n in shape), _shell_order(side, dim), _blocks(tuple(shape), side)
    out, cube = np.empty((*batch, *shape)), np.empty((side,) * dim)
    for sample, seed in zip(out, seeds(batch[0], generator), strict=True):
        for number, channel in enumerate(sample):
            cube.reshape(-1)[order] = _stream(seed, number).standard_normal(side**dim)
            channel[low] = cube[low]
            for axis, name, place, drawn, kept in blocks:
                channel.swapaxes(axis, 0)[place] = _stream(seed, number, axis + 1, *name).standard_normal(drawn)[kept]
    return torch.from_numpy(out).to(device=device, dtype=dtype or torch.get_default_dtype())


def uniforms(batch: int, *, generator: Generators = None) -> Tensor:
    """Independent uniforms on [0, 1), (batch,), float64; with a generator, each depends on its sample's seed alone."""
    if generator is None:
        return torch.rand(batch, dtype=torch.float64)
    return torch.tensor([_stream(seed, 0).random() for seed in seeds(batch, generator)], dtype=torch.float64)


def _stream(seed: int, number: int, *block: int) -> np.random.Generator:
    """numpy's Philox, as torch's CPU generator keeps 32 bits of a seed only, and torch.randn has no prefix property."""
    counter = [0, *block, 0, 0][:4] if block else None
    return np.random.Generator(np.random.Philox(key=[seed, number], counter=counter))


@functools.lru_cache(maxsize=32)
def _shell_order(side: int, dim: int) -> Tensor:
    """Flat positions in a cube of this side, sorted by max(j), ties in lexicographic order (the same in any cube)."""
    axes = torch.meshgrid(*[torch.arange(side)] * dim, indexing="ij")
    return torch.stack(axes).amax(0).flatten().argsort(stable=True)


Block = tuple[int, tuple[int, ...], tuple[slice, ...], tuple[int, ...], tuple[slice, ...]]


@functools.lru_cache(maxsize=32)
def _blocks(shape: tuple[int, ...], side: int) -> list[Block]:
    """The blocks of entries beyond a cube: axis, name, place with that axis swapped to the front, what is drawn and kept of it.

    Along the other axes a block is a few entries wide: a quarter of their index in two dimensions, half of it in three. Along
    its own it goes on from the cube, or from the others' place where that is farther. Where two blocks meet the later counts.
    """
    edges, least = [0], 2 ** (len(shape) - 1)
    while edges[-1] < max(shape):
        edges.append(edges[-1] + max(least, least * 2 ** edges[-1].bit_length() // 16))
    found = []
    for axis, n in enumerate(shape if len(shape) in CUBE else ()):
        sizes = [shape[0] if j == axis else shape[j] for j in range(1, len(shape))]  # of the others, as they lie then
        for name in itertools.product(*([i for i, low in enumerate(edges[:-1]) if low < m] for m in sizes)):
            first = max(side, *(edges[i] for i in name))
            if first < n:
                place = (slice(first, None), *(slice(edges[i], edges[i + 1]) for i in name))
                kept = (slice(None), *(slice(m - edges[i]) for m, i in zip(sizes, name, strict=True)))
                found.append((axis, name, place, (n - first, *(edges[i + 1] - edges[i] for i in name)), kept))
    return found
