"""Layers that integrate over the domain: normalisation and attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from fnodiff.domain import Domain


class GroupNorm(nn.GroupNorm):
    """Normalisation by the mean and the variance of groups of channels, both integrals over the domain.

    Args:
        channels: Split into at most 32 groups of at least 4.
        domain: Its quadrature weights; where they are all equal this is torch's GroupNorm.

    Source: Wu, He (2018), Group normalization.

    Examples:
        >>> import torch
        >>> from fnodiff import Sphere
        >>> from fnodiff.nn import GroupNorm
        >>> x = GroupNorm(8, Sphere())(torch.rand(1, 8, 6, 12))
        >>> round(Sphere().norm(x).square().item() / 8, 3)  # the mean square over the sphere
        1.0
    """

    part = "norm"

    def __init__(self, channels: int, domain: Domain) -> None:
        groups = next(g for g in range(max(1, min(32, channels // 4)), 0, -1) if channels % g == 0)
        super().__init__(groups, channels, eps=1e-6)
        self.domain = domain

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *spatial) -> the same shape."""
        if self.domain.uniform:
            return super().forward(x)
        weights = self.domain.weights(x.shape[2:], device=x.device, dtype=x.dtype) * (self.num_groups / x.shape[1])
        grouped, axes = x.unflatten(1, (self.num_groups, -1)), tuple(range(2, x.ndim + 1))
        centred = grouped - (weights * grouped).sum(axes, keepdim=True)
        scale = ((weights * centred.square()).sum(axes, keepdim=True) + self.eps).rsqrt()
        gain, bias = (v.reshape(-1, *(1,) * (x.ndim - 2)) for v in (self.weight, self.bias))
        return (centred * scale).flatten(1, 2) * gain + bias


class Attention(nn.Module):
    """Self-attention over the points of the grid, with a residual; heads of 64 channels, or one head.

    The softmax is an integral: a point counts by its quadrature weight, which is to say by the logarithm of the weight added
    to its logit. Where the weights are all equal they cancel.

    Args:
        channels: Of input and output.
        domain: Its quadrature weights.
        init_scale: Factor of the last map's initial weights; 0 starts it as the identity.

    Source: Vaswani et al. (2017), Attention is all you need; the residual is scaled as in Song et al. (2021).
    """

    part = "attention"

    def __init__(self, channels: int, domain: Domain, init_scale: float = 1.0) -> None:
        super().__init__()
        self.domain, self.heads = domain, channels // 64 if channels % 64 == 0 else 1
        self.norm = GroupNorm(channels, domain)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.out = nn.Conv1d(channels, channels, 1)
        with torch.no_grad():
            for parameter in self.out.parameters():
                parameter.mul_(init_scale)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *spatial) -> the same shape."""
        mask = None
        if not self.domain.uniform:
            mask = self.domain.weights(x.shape[2:], device=x.device, dtype=x.dtype).log().flatten()[None]
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        qkv = functional.linear(tokens, self.qkv.weight.squeeze(2), self.qkv.bias).unflatten(2, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # a token's channels lie side by side, as the fast kernels ask
        if (
            torch.is_grad_enabled() and not torch.compiler.is_compiling()
        ):  # those know neither jvp nor second derivatives
            logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
            a = (logits if mask is None else logits + mask).softmax(-1).to(v.dtype) @ v
        else:
            a = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        a = a.transpose(1, 2).flatten(2)
        a = functional.linear(a, self.out.weight.squeeze(2), self.out.bias).transpose(1, 2)
        return (x + a.reshape(x.shape)) * math.sqrt(0.5)
