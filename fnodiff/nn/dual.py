"""The layer of DFU: a local convolution plus a spectral one."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fnodiff.domain import Domain, Product, Sphere
from fnodiff.nn.cosine import KERNELS, CosineConv
from fnodiff.nn.local import LocalConv
from fnodiff.nn.mixed import MixedConv
from fnodiff.nn.spectral import SpectralConv


class DualConv(nn.Module):
    """A local convolution plus a spectral convolution of the same input; either may be left out.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        domain: Torus, Box, Product or Sphere.
        n_modes: Of the spectral branch (neuralop's convention); None: no such branch.
        local: "conv", 3 x 3 pixels; "operator", taps at the spacing of `reference`; "point", one by one, as in a Fourier
            neural operator; or None: no such branch.
        reference: Spatial shape of the grid whose spacing the operator's taps keep.
        resize: How the local branch reaches another grid: "pool" or "resample".
        boundary: Of the spectral branch where there are walls: "even", the default there, or "all", the kernels of
            `CosineConv` and `MixedConv`, or "periodic", as the paper's `SpectralConv`.
        init_scale: The initial weights' factor; 0 starts the layer at zero.
        spectral: Options for the spectral layer, such as dict(factorization="ComplexTucker", rank=0.1).

    Raises:
        ValueError: If both branches are left out, `local` or `boundary` is unknown, or the domain has no boundary to name.

    Source: Havrilla, Rojas, Liao, Tao (2024), DFU: scale-robust diffusion model for zero-shot super-resolution.

    Examples:
        >>> import torch
        >>> from fnodiff import Box
        >>> from fnodiff.nn import DualConv
        >>> layer = DualConv(2, 4, domain=Box(2), n_modes=(6, 6))
        >>> layer(torch.randn(1, 2, 15, 20), (8, 10)).shape  # any grid to any
        torch.Size([1, 4, 8, 10])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        domain: Domain,
        n_modes: Sequence[int] | None,
        local: str | None = "conv",
        reference: Sequence[int] | None = None,
        resize: str = "pool",
        boundary: str | None = None,
        init_scale: float = 1.0,
        spectral: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        walls = "wall" in domain.edges
        if boundary is None:
            boundary = "even" if walls else "periodic"
        if boundary not in ("periodic", *KERNELS) or (boundary != "periodic" and not walls):
            raise ValueError(
                f'DualConv: expected boundary="periodic", or "even" or "all" where there are walls, got {boundary!r} on '
                f"{domain}; leave it out on other domains."
            )
        if local not in ("conv", "operator", "point", None) or (local is None and n_modes is None):
            raise ValueError(
                f'DualConv: expected local="conv", "operator" or "point", or local=None with n_modes given, got '
                f"local={local!r} and n_modes={n_modes!r}; a layer needs at least one branch."
            )
        if local == "operator" and reference is None:
            raise ValueError(f"DualConv: expected a reference with local={local!r}, got none; name the taps' grid.")
        self.local = None
        if local is not None:
            kind = _spherical().SphericalLocalConv if isinstance(domain, Sphere) and local != "point" else LocalConv
            options = (
                {"kernel_size": 1} if local == "point" else {"reference": reference if local == "operator" else None}
            )
            self.local = kind(in_channels, out_channels, domain=domain, resize=resize, **options)
        self.spectral = None
        if n_modes is not None:
            options = {"bias": local is None, **(spectral or {})}
            if boundary != "periodic":
                options["kernels"] = boundary
            if boundary == "periodic":
                kind = _spherical().SphericalConv if isinstance(domain, Sphere) else SpectralConv
            else:
                kind = MixedConv if isinstance(domain, Product) else CosineConv
            self.spectral = kind(in_channels, out_channels, n_modes, domain=domain, **options)
        if init_scale != 1:
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.mul_(init_scale)

    def forward(self, x: Tensor, output_shape: Sequence[int] | None = None) -> Tensor:
        """(B, in_channels, *shape) -> (B, out_channels, *output_shape), by default on the same grid."""
        if self.local is None:
            return self.spectral(x, output_shape)
        out = self.local(x, output_shape)
        return out if self.spectral is None else out + self.spectral(x, output_shape)


def _spherical() -> ModuleType:
    """The layers that need torch-harmonics."""
    from fnodiff.nn import spherical

    return spherical
