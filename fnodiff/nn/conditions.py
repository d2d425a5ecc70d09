"""What networks share: how the noise level, labels, numbers and fields come in.

The embedding e of a sample is the sum of the embeddings of its noise level, its label and its numbers. A network modulates its
features by e at every block: the features depend on all of these in every channel, whatever the grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from fnodiff.domain import Domain
from fnodiff.nn.blocks import NoiseEmbedding


class NumbersEmbedding(nn.Module):
    """Numbers (B, K) -> (B, channels). NaN is a number that is not given: each number has a flag that says so.

    Args:
        numbers: K.
        channels: Of the embedding.
    """

    def __init__(self, numbers: int, channels: int) -> None:
        super().__init__()
        self.maps = nn.Sequential(nn.Linear(2 * numbers, channels), nn.SiLU(), nn.Linear(channels, channels))

    def forward(self, numbers: Tensor) -> Tensor:
        """(B, K) -> (B, channels)."""
        given = numbers.isfinite()
        return self.maps(torch.cat([torch.where(given, numbers, 0.0), given.to(numbers.dtype)], dim=1))


class Conditioned(nn.Module):
    """A network that is called as net(x, noise_level, label=, field=, condition=). Subclasses call `_make_embeddings`.

    Attributes:
        domain: What its fields are functions on.
        in_channels, out_channels: Of the field, without those of a conditioning field.
        num_classes: Number of class labels; 0 for none.
        condition_channels: Channels of a conditioning field; 0 for none.
        condition_numbers: How many numbers condition a sample; 0 for none.
        augmentation_numbers: How many numbers say how a sample was augmented in training; 0 for none.
    """

    domain: Domain
    in_channels: int
    out_channels: int
    num_classes: int
    condition_channels: int
    condition_numbers: int
    augmentation_numbers: int = 0

    def _make_embeddings(self, waves: int, channels: int) -> None:
        """The maps from noise level (by so many waves), label and numbers to an embedding of so many channels."""
        self.embed_noise = nn.Sequential(
            NoiseEmbedding(waves), nn.Linear(waves, channels), nn.SiLU(), nn.Linear(channels, channels)
        )
        self.embed_label = nn.Embedding(self.num_classes, channels) if self.num_classes else None
        self.embed_numbers = NumbersEmbedding(self.condition_numbers, channels) if self.condition_numbers else None
        if self.augmentation_numbers:  # without a bias: zeros, or none, stand for a sample as it is
            self.embed_augmentation = nn.Linear(self.augmentation_numbers, channels, bias=False)

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _check_field(self, x: Tensor) -> None:
        """Raise unless x has the network's channels and device."""
        if x.shape[1] != self.in_channels:
            raise ValueError(
                f"{self._name}: expected {self.in_channels} channels, got a field of shape {tuple(x.shape)}; check the "
                f"channel axis."
            )
        device = next(self.buffers()).device
        if device.type != "meta" and x.device != device:  # meta: offloaded, until a layer needs it
            raise ValueError(
                f"{self._name}: expected a field on {device}, as the network is, got one on {x.device}; move either."
            )

    def _with_field(self, x: Tensor, field: Tensor | None) -> Tensor:
        """x with the conditioning field as further channels."""
        if field is not None and not self.condition_channels:
            raise ValueError(
                f"{self._name}: expected no conditioning field, got one of shape {tuple(field.shape)}; leave it out, or build "
                f"the network with condition_channels={field.shape[1] if field.ndim > 1 else 1}."
            )
        if self.condition_channels and (field is None or field.shape[:2] != (len(x), self.condition_channels)):
            got = "none" if field is None else tuple(field.shape)
            raise ValueError(
                f"{self._name}: expected a conditioning field ({len(x)}, {self.condition_channels}, *grid), got {got}; pass "
                f"field= with a batch axis and a channel axis."
            )
        return x if field is None else torch.cat([x, self.domain.resample(field, x.shape[2:]).to(x.dtype)], dim=1)

    def _embedding(
        self,
        x: Tensor,
        noise_level: Tensor,
        label: Tensor | None,
        condition: Tensor | None,
        augmentation: Tensor | None = None,
    ) -> Tensor:
        """e, (B, channels)."""
        noise_level = torch.as_tensor(noise_level, device=x.device)
        if noise_level.ndim > 1 or (noise_level.ndim == 1 and noise_level.shape[0] != x.shape[0]):
            raise ValueError(
                f"{self._name}: expected noise_level () or ({x.shape[0]},), got shape {tuple(noise_level.shape)}; "
                f"pass one for all samples or one for each."
            )
        emb = self.embed_noise(noise_level.to(x.dtype).expand(x.shape[0]))
        if (label is None) == (self.num_classes > 0):
            raise ValueError(
                f"{self._name}: expected {'a label' if self.num_classes else 'no label'}, as num_classes={self.num_classes}, "
                f"got {'none' if label is None else tuple(label.shape)}; pass label=(B,) int64 exactly when the model has "
                f"classes."
            )
        if label is not None:
            emb = emb + self._labelled(x, label).to(emb.dtype)
        wanted = (x.shape[0], self.condition_numbers)
        if (condition is None) == (self.condition_numbers > 0) or (
            condition is not None and tuple(condition.shape) != wanted
        ):
            expected = f"condition= of {wanted} numbers" if self.condition_numbers else "no condition="
            raise ValueError(
                f"{self._name}: expected {expected}, as condition_numbers={self.condition_numbers}, got "
                f"{'none' if condition is None else tuple(condition.shape)}; pass a row of numbers for each sample, NaN for "
                f"what is not given, exactly when the network is built with condition_numbers=."
            )
        if condition is not None:
            emb = emb + self.embed_numbers(condition.to(emb.dtype))
        if augmentation is not None:
            if augmentation.shape != (x.shape[0], self.augmentation_numbers) or not self.augmentation_numbers:
                raise ValueError(
                    f"{self._name}: expected augmentation= of ({x.shape[0]}, {self.augmentation_numbers}) numbers, got "
                    f"{tuple(augmentation.shape)}; build the network with augmentation_numbers= as the data have them."
                )
            emb = emb + self.embed_augmentation(augmentation.to(emb.dtype))
        return silu(emb)

    def _labelled(self, x: Tensor, label: Tensor) -> Tensor:
        """The embedding of labels: of one class each, of none (-1), or of several in shares."""
        if label.is_floating_point() and tuple(label.shape) == (x.shape[0], self.num_classes):
            return label.to(self.embed_label.weight.dtype) @ self.embed_label.weight
        if label.shape != x.shape[:1] or label.is_floating_point():
            raise ValueError(
                f"{self._name}: expected {x.shape[0]} integer labels, one for each sample, or shares of the classes "
                f"({x.shape[0]}, {self.num_classes}), got {label.dtype} {tuple(label.shape)}; pass label=(B,) int64."
            )
        # A compiled network, and one that is being recorded, has no branch on values; its embedding refuses what is too large.
        looks = not torch.compiler.is_compiling() and not (label.is_cuda and torch.cuda.is_current_stream_capturing())
        if looks and not bool(((label >= -1) & (label < self.num_classes)).all()):
            raise ValueError(
                f"{self._name}: expected labels from 0 to {self.num_classes - 1}, or -1 for none, got {int(label.min())} to "
                f"{int(label.max())}; relabel, or build the network with more num_classes."
            )
        embedded = self.embed_label(label.clamp(min=0).long())
        return embedded * (label >= 0)[:, None].to(embedded.dtype)
