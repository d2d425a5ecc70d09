"""Random numbers: normals and uniforms that one seed fixes on every grid, in every batch and on every device."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

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

    With a generator, entry j of channel c of a sample depends on the sample's seed, c and j alone: they are drawn by
    shells of max(j), so a larger shape continues a smaller one. Drawn on the CPU in float64 whatever device and dtype.
    """
    if generator is None:
        return torch.randn(*batch, *shape, device=device, dtype=dtype)
    side, dim = max(shape), len(shape)
    order = _shell_order(side, dim)
    out = torch.empty(*batch, side**dim, dtype=torch.float64)
    for sample, seed in zip(out, seeds(batch[0], generator), strict=True):
        for number, channel in enumerate(sample):
            channel[order] = torch.from_numpy(_stream(seed, number).standard_normal(side**dim))
    out = out.unflatten(-1, (side,) * dim)[(..., *(slice(0, n) for n in shape))]
    return out.to(device=device, dtype=dtype or torch.get_default_dtype())


def uniforms(batch: int, *, generator: Generators = None) -> Tensor:
    """Independent uniforms on [0, 1), (batch,), float64; with a generator, each depends on its sample's seed alone."""
    if generator is None:
        return torch.rand(batch, dtype=torch.float64)
    return torch.tensor([_stream(seed, 0).random() for seed in seeds(batch, generator)], dtype=torch.float64)


def _stream(seed: int, number: int) -> np.random.Generator:
    """numpy's Philox, as torch's CPU generator keeps 32 bits of a seed only, and torch.randn has no prefix property."""
    return np.random.Generator(np.random.Philox(key=[seed, number]))


@functools.lru_cache(maxsize=32)
def _shell_order(side: int, dim: int) -> Tensor:
    """Flat positions in a cube of this side, sorted by max(j), ties in lexicographic order (the same in any cube)."""
    axes = torch.meshgrid(*[torch.arange(side)] * dim, indexing="ij")
    return torch.stack(axes).amax(0).flatten().argsort(stable=True)
