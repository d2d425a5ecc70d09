"""DFU: the dual Fourier UNet, a score network that reads any grid.

A DDPM++ UNet in which every convolution is a `DualConv`, a local convolution plus a spectral one. Level l of a grid of n
points has ceil(n / 2^l) points per axis; each size is remembered on the way down and restored on the way up, so odd and
non-square grids work. The spectral branch changes size by its modes, the local branch by cell averages.

    residual block:  h = conv(silu(norm(x)));  h = h + embedding;  h = conv(dropout(silu(norm(h))));  (h + skip(x)) / sqrt(2)

Source: Havrilla, Rojas, Liao, Tao (2024), DFU: scale-robust diffusion model for zero-shot super-resolution; Song et al.
(2021), Score-based generative modeling through SDEs (DDPM++).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu
from torch.utils.checkpoint import checkpoint

from fnodiff.domain import Box, Domain, Shape, Sphere
from fnodiff.expected import at_least, kinds_checked
from fnodiff.nn.blocks import ResidualBlock, place_counts, position_channels, positions, usual_places
from fnodiff.nn.conditions import Conditioned
from fnodiff.nn.dual import DualConv
from fnodiff.nn.integrals import GroupNorm

SMALLEST_GRID = 4


def modes_of(domain: Domain, n_modes: Sequence[int] | int) -> tuple[int, ...]:
    """A number of modes for each axis; of one number as many along each, (L, 2 L) on a sphere."""
    if isinstance(n_modes, Integral):
        return (n_modes, 2 * n_modes) if isinstance(domain, Sphere) else (n_modes,) * domain.dim
    return tuple(n_modes)


@kinds_checked
class DFU(Conditioned):
    """The dual Fourier UNet.

    Args:
        in_channels: Channels of the field, without those of a conditioning field.
        out_channels: Channels of the result.
        n_modes: Modes per axis at the finest level, in neuralop's convention (both signs), halved at each level down; on
            Sphere (L, 2 L) for L degrees. Modes that the smallest training grid cannot hold learn nothing from it; `fit`
            refuses those that no training grid holds.
        hidden_channels: Width of the first level.
        channel_mult: Width of each level, in units of `hidden_channels`; one entry per level.
        num_blocks: Residual blocks per level on the way down; one more on the way up.
        spectral_levels: How many levels, from the finest, have spectral branches. 0, with the
            other arguments as they are, is exactly the baseline UNet: pixel convolutions alone.
        attention_levels: Levels with self-attention, 0 the finest; the bottleneck always has it.
        domain: Box (images and fields with edges), Torus (periodic fields), Product (some of both) or Sphere.
        reference: Spatial shape of the largest grid trained on, which fixes the grids of the coarser levels: the first level
            lives on the input's own grid and level l on reference / 2^l points, whatever the input's, reached by
            `domain.resample`. None, the paper's way: level l has half as many points as the level above, ceil(n / 2^l).
        local: "conv", 3 x 3 pixels; "operator", nine taps that keep the reference grid's spacing; "point", 1 x 1 as in a
            Fourier neural operator, for smooth fields; or None for spectral branches alone (then every level needs one). On
            Sphere "conv" reaches two rows of the grid at hand, "operator" as far as two rows of the reference.
        boundary: Of the spectral branches where there are walls. "even", the default there, or "all": a field is taken as
            reflected at its walls, and the branch is an operator, with even kernels or with any (`CosineConv`, `MixedConv`).
            "periodic", the paper's: a field is taken as periodic. Elsewhere leave it out.
        dropout: Probability, in every residual block.
        num_classes: Number of class labels; 0 for none.
        condition_channels: Channels of a conditioning field; 0 for none.
        condition_numbers: How many numbers condition a sample, such as a viscosity; 0 for none.
        augmentation_numbers: How many numbers say how a sample was augmented (`fnodiff.data.Augmentation`); 0 for none.
        positional_modes: Tell the network where it is: this many waves per axis (half-waves between walls) as further input
            channels, functions that every grid samples; or a number for each axis; on Sphere the harmonics up to this degree.
            Without them a network knows a place by its walls alone, and one on Torus or Sphere, which have no place of their
            own, not at all. `tiny` and `small` have 4 along axes with walls and 2 on Sphere.
        zero_init: Start each block's last convolution, the network's, and attention near zero, as for training.
        spectral: Options for the spectral layers, such as dict(factorization="ComplexTucker", rank=0.1).

    Attributes:
        recompute: Set it to True to keep each block's input alone in training and compute the rest again for the gradient:
            less memory, more time (activation checkpointing).

    Raises:
        ValueError: If a level is named that does not exist, or n_modes does not fit the domain.

    Examples:
        >>> import torch
        >>> from fnodiff import DFU
        >>> net = DFU.tiny(in_channels=3, out_channels=3)
        >>> net(torch.randn(1, 3, 33, 48), noise_level=torch.zeros(())).shape
        torch.Size([1, 3, 33, 48])
        >>> round(sum(p.numel() for p in DFU.small(3, 3).parameters()) / 1e6, 1)  # millions
        2.1
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        n_modes: Sequence[int] | int,
        hidden_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        num_blocks: int = 4,
        spectral_levels: int = 3,
        attention_levels: Sequence[int] = (2,),
        domain: Domain | None = None,
        *,
        reference: Sequence[int] | None = None,
        local: str | None = "conv",
        boundary: str | None = None,
        dropout: float = 0.13,
        num_classes: int = 0,
        condition_channels: int = 0,
        condition_numbers: int = 0,
        augmentation_numbers: int = 0,
        positional_modes: int | Sequence[int] = 0,
        zero_init: bool = True,
        spectral: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        domain = Box(2) if domain is None else domain
        if boundary is None:
            boundary = "even" if "wall" in domain.edges else "periodic"
        n_modes = modes_of(domain, n_modes)
        self.config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        for name in ("condition_numbers", "augmentation_numbers"):  # as in runs that were begun without them
            if not self.config[name]:
                del self.config[name]
        channel_mult, count = tuple(channel_mult), len(tuple(channel_mult))
        at_least("DFU", 1, 2**16, in_channels=in_channels, out_channels=out_channels, hidden_channels=hidden_channels)
        at_least("DFU", 1, 2**16, **{f"n_modes[{i}]": n for i, n in enumerate(n_modes)})
        given = {"num_blocks": num_blocks, "num_classes": num_classes, "condition_channels": condition_channels}
        given |= {"condition_numbers": condition_numbers, "augmentation_numbers": augmentation_numbers}
        at_least("DFU", 0, 2**16, **given)
        if not 0 <= dropout < 1:
            raise ValueError(f"DFU: expected dropout from 0 to below 1, got {dropout!r}; 0.1 is usual, 0 is none.")
        if not count or not 0 <= spectral_levels <= count or not all(0 <= i < count for i in attention_levels):
            raise ValueError(
                f"DFU: expected spectral_levels from 0 to {count} and attention_levels among {list(range(count))}, as "
                f"channel_mult={channel_mult} has {count} levels, got {spectral_levels} and {tuple(attention_levels)}; "
                f"count levels from 0, the finest."
            )
        if len(n_modes) != domain.dim:
            raise ValueError(f"DFU: expected n_modes with one number per axis of {domain}, got {n_modes}.")
        places = place_counts(domain, positional_modes)
        if min(places) < 0 or hidden_channels % 4 or not all(m > 0 for m in channel_mult):
            raise ValueError(
                f"DFU: expected hidden_channels divisible by 4, channel_mult of positive integers and positional_modes >= 0, "
                f"got {hidden_channels}, {channel_mult} and {positional_modes}; round them up."
            )
        self.domain, self.in_channels, self.out_channels = domain, in_channels, out_channels
        self.spectral_modes = n_modes if spectral_levels else None
        self.num_classes, self.condition_channels = num_classes, condition_channels
        self.condition_numbers, self.augmentation_numbers = condition_numbers, augmentation_numbers
        self.positional_modes = places
        if reference is None and local == "operator":
            raise ValueError(
                f'DFU: expected a reference with local="operator", whose taps keep its spacing, got {reference!r}; pass the '
                f"largest grid trained on."
            )
        self.levels = count
        references = [None] * count
        if reference is not None:
            references = self._levels(domain.check_shape(reference))
        self.fixed = None if reference is None else references
        self.recompute = False

        widths = [hidden_channels * m for m in channel_mult]
        modes = [tuple(max(1, n >> i) for n in n_modes) if i < spectral_levels else None for i in range(count)]
        if isinstance(domain, Sphere):
            if n_modes[1] != 2 * n_modes[0]:
                raise ValueError(
                    f"DFU: expected n_modes (L, 2 L) for L degrees on {domain}, got {n_modes}; pass "
                    f"{(n_modes[0], 2 * n_modes[0])}."
                )
            modes = [None if m is None else (m[0], 2 * m[0]) for m in modes]
        embedding = 4 * hidden_channels
        self._make_embeddings(hidden_channels, embedding)

        resize = "pool" if reference is None else "resample"
        conv = partial(DualConv, domain=domain, local=local, resize=resize, boundary=boundary, spectral=spectral)
        at = [{"n_modes": m, "reference": r} for m, r in zip(modes, references, strict=True)]
        last = {"init_scale": 1e-5 if zero_init else 1.0}
        block = partial(
            ResidualBlock,
            embedding=embedding,
            conv=conv,
            domain=domain,
            dropout=dropout,
            last=last,
            resize=resize,
        )

        width = widths[0]
        self.stem = conv(in_channels + condition_channels + position_channels(domain, places), width, **at[0])
        skips = [width]
        self.down = nn.ModuleList()
        for level in range(count):
            blocks = nn.ModuleList()
            if level > 0:  # the first block of a level brings the field to its grid
                blocks.append(block(width, width, **at[level]))
                skips.append(width)
            for _ in range(num_blocks):
                blocks.append(block(width, widths[level], **at[level], attention=level in attention_levels))
                width = widths[level]
                skips.append(width)
            self.down.append(blocks)

        self.middle = nn.ModuleList([block(width, width, **at[-1], attention=a) for a in (True, False)])
        self.up = nn.ModuleList()
        for level in reversed(range(count)):
            blocks = nn.ModuleList()
            for i in range(num_blocks + 1):
                attention = level in attention_levels and i == num_blocks
                blocks.append(block(width + skips.pop(), widths[level], **at[level], attention=attention))
                width = widths[level]
            if level > 0:  # the last block of a level brings the field to the grid above
                blocks.append(block(width, width, **at[level - 1]))
            self.up.append(blocks)
        self.head_norm = GroupNorm(width, domain)
        self.head = conv(width, out_channels, **at[0], **last)

    def forward(
        self,
        x: Tensor,
        noise_level: Tensor,
        *,
        label: Tensor | None = None,
        field: Tensor | None = None,
        condition: Tensor | None = None,
        augmentation: Tensor | None = None,
    ) -> Tensor:
        """The network's output (B, out_channels, *spatial) on x's own grid.

        Args:
            x: (B, in_channels, *spatial), at least 4 points per axis; odd and non-square included.
            noise_level: (B,) or (), such as ln(sigma) / 4.
            label: Class labels (B,), int64, for a model with classes; -1 for none. Or shares of the classes, floats
                (B, num_classes).
            field: Conditioning field (B, condition_channels, *any grid), brought to x's grid by the domain.
            condition: Numbers (B, condition_numbers); NaN for one that is not given.
            augmentation: Numbers (B, augmentation_numbers) of the maps that the samples were seen under; none for as they are.

        Raises:
            ValueError: If the channels, the grid, the device or the condition are not what the model was made for.
        """
        shape = self.domain.check_field(x)
        if min(shape) < SMALLEST_GRID:
            raise ValueError(f"DFU: expected a finer grid, got {shape}; take at least {SMALLEST_GRID} points per axis.")
        self._check_field(x)
        x = self._with_field(x, field)
        if any(self.positional_modes):
            places = positions(self.domain, self.positional_modes, shape, x.dtype, x.device)
            x = torch.cat([x, places.expand(x.shape[0], *places.shape)], dim=1)
        emb = self._embedding(x, noise_level, label, condition, augmentation)
        shapes = self._levels(shape)
        if self.fixed is not None:
            shapes[1:] = self.fixed[1:]

        x = self.stem(x)
        skips = [x]
        for level, blocks in enumerate(self.down):
            for block in blocks:
                x = self._run(block, x, emb, shapes[level])
                skips.append(x)
        for block in self.middle:
            x = self._run(block, x, emb, shapes[-1])
        for level, blocks in zip(reversed(range(self.levels)), self.up, strict=True):
            for block in blocks:
                if block is blocks[-1] and level > 0:
                    x = self._run(block, x, emb, shapes[level - 1])
                else:
                    x = self._run(block, torch.cat([x, skips.pop()], dim=1), emb, shapes[level])
        return self.head(silu(self.head_norm(x)))

    def _levels(self, shape: Shape) -> list[Shape]:
        """Half as many points at each level down, rounded up; on a sphere two latitudes or more."""
        least = 2 if isinstance(self.domain, Sphere) else 1
        return [tuple(max(least, -(-n // 2**i)) for n in shape) for i in range(self.levels)]

    def parameter_groups(self) -> dict[str, tuple[int | None, str]]:
        """Where each parameter belongs, by name: its level (0 the finest; None if to none) and its part.

        Parts are "spectral", "local", "norm", "attention" and "embedding". The stem and the head belong to level 0, the
        bottleneck to the last. See `fnodiff.train.freeze`.
        """
        parts = {name: getattr(module, "part", None) for name, module in self.named_modules()}
        found = {}
        for name, _ in self.named_parameters():
            path = name.split(".")
            above = [".".join(path[:i]) for i in range(1, len(path))]
            part = next((parts[prefix] for prefix in above if parts[prefix] is not None), "embedding")
            level = {"stem": 0, "head": 0, "head_norm": 0, "middle": self.levels - 1}.get(path[0])
            if path[0] in ("down", "up"):
                level = int(path[1]) if path[0] == "down" else self.levels - 1 - int(path[1])
            found[name] = level, part
        return found

    def _run(self, block: ResidualBlock, *inputs: Any) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    @classmethod
    def tiny(cls, in_channels: int, out_channels: int, **options: Any) -> DFU:
        """0.7M parameters on Box(2) with 3 channels: for tests and first steps. `options` override the preset's arguments."""
        preset = {
            "hidden_channels": 16,
            "channel_mult": (1, 2),
            "num_blocks": 1,
            "spectral_levels": 2,
            "attention_levels": (),
            "positional_modes": usual_places(options.get("domain") or Box(2)),
        }
        return cls._preset(in_channels, out_channels, options, 8, **preset)

    @classmethod
    def small(cls, in_channels: int, out_channels: int, **options: Any) -> DFU:
        """2.1M parameters on Box(2) with 3 channels: trains on a CPU. `options` override the preset's arguments."""
        preset = {
            "hidden_channels": 32,
            "channel_mult": (1, 1, 2),
            "num_blocks": 1,
            "dropout": 0.0,
            "positional_modes": usual_places(options.get("domain") or Box(2)),
        }
        return cls._preset(in_channels, out_channels, options, 8, **preset)

    @classmethod
    def paper(cls, in_channels: int, out_channels: int, **options: Any) -> DFU:
        """The paper's configuration: 705.7M parameters on Box(2) with 3 channels, 61.5M of them in the UNet.

        The paper's count is 630.6M, 61.8M of them in the UNet: it keeps 8 columns of modes where neuralop's convention has
        9. Dropout, widths, levels and attention are the paper's. `options` override the preset's arguments;
        spectral=dict(factorization="ComplexTucker", rank=0.1) brings it to 128.2M.
        """
        return cls._preset(in_channels, out_channels, options, (32, 16), boundary="periodic")

    @classmethod
    def _preset(
        cls, in_channels: int, out_channels: int, options: dict[str, Any], n_modes: int | tuple[int, ...], **preset: Any
    ) -> DFU:
        domain = options.get("domain") or Box(2)
        n_modes = modes_of(domain, n_modes[0] if isinstance(domain, Sphere) and isinstance(n_modes, tuple) else n_modes)
        return cls(in_channels, out_channels, **{"n_modes": n_modes, **preset, **options})
