"""Weights of spectral convolutions: how they lie in memory, and how factorised ones multiply without becoming dense.

With coefficients c (modes, B, in) and a weight W (in, out, modes) given by factors, per mode m

    Tucker   c_m U_in K_m U_out^T,               K_m = core contracted with the factors of the modes
    CP       (c_m U_in  w_m) U_out^T,            w_m = weights times the factors of the modes
    TT       c_m G_in K_m,                       K_m = G_out contracted with the cores of the modes

Source: Kossaifi et al. (2023), Multi-grid tensorized Fourier neural operator for high-resolution PDEs (the factorisations).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from numbers import Real
from typing import Any

import torch
from tltorch.factorized_tensors.complex_factorized_tensors import ComplexDenseTensor
from tltorch.factorized_tensors.factorized_tensors import CPTensor, FactorizedTensor, TTTensor, TuckerTensor
from torch import Tensor, nn


def check_rank(name: str, rank: float | Sequence[int]) -> None:
    """Raise unless it is a share of the dense weights' number, or ranks."""
    if isinstance(rank, Real) and not 0 < rank <= 1e6:
        raise ValueError(f"{name}: expected a rank above 0, got {rank!r}; 0.1 is a tenth of the dense weights' number.")


class ModeMajorDense(ComplexDenseTensor, name="ModeMajorComplexDense"):
    """tltorch's `ComplexDense` with memory in the order (modes, 2, in, out) of the products that use it.

    Shape (in, out, *modes, 2), values and state_dict key are `ComplexDense`'s; only strides differ, and survive copying, moving
    and loading. In `ComplexDense`'s own order every step would transpose all weights, and their gradients back.

    Args:
        tensor: Complex weight (in, out, *modes).
    """

    def __init__(self, tensor: Tensor) -> None:
        super().__init__(nn.Parameter(tensor.detach()))
        dim = tensor.ndim
        real = torch.view_as_real(tensor.detach()).permute(*range(2, dim), dim, 0, 1).contiguous()
        self._parameters["tensor"] = nn.Parameter(real.permute(dim - 1, dim, *range(dim - 2), dim - 2))

    @property
    def matrices(self) -> Tensor:
        """(*modes, 2, in, out), a view."""
        real = self._parameters["tensor"]
        return real.permute(*range(2, real.ndim), 0, 1)

    def normal_(self, mean: float = 0.0, std: float = 1.0) -> ModeMajorDense:
        """As torch's, for complex numbers: the standard deviation is that of both parts together."""
        with torch.no_grad():
            self._parameters["tensor"].normal_(mean, std * math.sqrt(0.5))
        return self

    # tltorch's show every parameter as complex, and take every new one for complex; FSDP reads and sets real ones.
    __getattr__ = nn.Module.__getattr__
    __setattr__ = nn.Module.__setattr__

    def to_tensor(self) -> Tensor:
        """The complex weight (in, out, *modes)."""
        return torch.view_as_complex(self._parameters["tensor"].contiguous())

    @property
    def decomposition(self) -> Tensor:
        """The same."""
        return self.to_tensor()

    def __getitem__(self, indices: Any) -> Tensor:
        return self.to_tensor()[indices]


def keeping_order(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What `nn.Module.to` does to a tensor, done to its numbers in one row, as they lie in memory.

    So spectral weights change their device and their type, and keep their order. torch.channels_last is for the weights of
    pixel convolutions: torch refuses it for five axes.

    Args:
        fn: As `nn.Module._apply` gets it from `to`, `half`, `cuda` and others; nothing public sees the memory format.
    """

    def kept(t: Tensor) -> Tensor:
        order = sorted(range(t.ndim), key=lambda axis: (-t.stride(axis), -t.shape[axis]))
        ordered = t.permute(order)
        if t.ndim < 4 or not ordered.is_contiguous():
            return fn(t)
        back = sorted(range(t.ndim), key=order.__getitem__)
        return fn(ordered.view(-1)).view(ordered.shape).permute(back)

    return kept


def by_factors(weight: FactorizedTensor, batch: int) -> bool:
    """Whether multiplying by the factors takes fewer products than building the dense weight and multiplying by it.

    Per mode, and without what both ways need, for coefficients (batch, in).
    """
    if isinstance(weight, TuckerTensor):
        inputs, outputs, (a, b, *_) = *weight.shape[:2], weight.core.shape
        factors, dense = batch * (inputs * a + a * b + b * outputs), (inputs * a + inputs * outputs) * b
    elif isinstance(weight, CPTensor):
        inputs, outputs, rank = *weight.shape[:2], weight.factors[0].shape[1]
        factors, dense = batch * (inputs + outputs) * rank, inputs * outputs * rank
    elif isinstance(weight, TTTensor):
        inputs, outputs, rank = *weight.shape[:2], weight.factors[0].shape[2]
        factors, dense = batch * (inputs + outputs) * rank, inputs * outputs * rank
    else:
        return False
    return factors < dense + batch * inputs * outputs


def multiply_factors(c: Tensor, weight: FactorizedTensor, corner: Sequence[slice]) -> Tensor:
    """(B, 2, modes, in) -> (B, 2, modes, out), by the factors of Tucker, CP or TT weights.

    Args:
        c: Real and imaginary parts.
        weight: (in, out, *modes).
        corner: Which modes of each axis.
    """
    dtype = torch.complex128 if c.dtype == torch.float64 else torch.complex64  # dtype.to_complex() does not compile
    first, second, *others = (f.to(dtype) for f in weight.factors)
    chosen = [f[(slice(None),) * (f.ndim == 3) + (window,)] for f, window in zip(others, corner, strict=True)]
    if isinstance(weight, TTTensor):
        chain = reduce(_chain, chosen)[..., 0].t()  # (modes, r)
        kernel = _of_modes([chain], second.permute(2, 0, 1))
        return unrows(torch.bmm(rows(unrows(rows(c) @ _parts(first[0]))), kernel))
    if isinstance(weight, CPTensor):
        scale = reduce(lambda a, b: (a[:, None] * b).flatten(0, 1), chosen) * weight.weights.to(first.dtype)
        scaled = scale_modes(unrows(rows(c) @ _parts(first)), torch.view_as_real(scale).permute(2, 0, 1))
        return unrows(rows(scaled) @ _parts(second.t()))
    core = weight.core.to(first.dtype)
    kernel = _of_modes(chosen, core.permute(*range(2, core.ndim), 0, 1))
    return unrows(rows(unrows(torch.bmm(rows(unrows(rows(c) @ _parts(first))), kernel))) @ _parts(second.t()))


def rows(c: Tensor) -> Tensor:
    """(B, 2, modes, C) -> (modes, B 2, 2 C): [[re, -im], [im, re]], which times [[re W], [im W]] is the complex product."""
    re, im = c.permute(1, 2, 0, 3).unbind(0)
    return torch.stack([re, -im, im, re], 2).view(len(re), -1, 2 * re.shape[-1])


def unrows(products: Tensor) -> Tensor:
    """Such products (modes, B 2, C) -> (B, 2, modes, C)."""
    return products.unflatten(1, (-1, 2)).permute(1, 2, 0, 3)


def scale_modes(c: Tensor, weight: Tensor) -> Tensor:
    """(B, 2, modes, C), (2, modes, C) -> (B, 2, modes, C): a complex number per channel and mode."""
    (a, b), (re, im) = c.unbind(1), weight.unbind(0)
    return torch.stack([a * re - b * im, a * im + b * re], 1)


def _parts(matrix: Tensor) -> Tensor:
    """Complex (in, out) -> (2 in, out): [[re W], [im W]]."""
    return torch.cat([matrix.real, matrix.imag])


def _of_modes(factors: Sequence[Tensor], core: Tensor) -> Tensor:
    """Factors (modes of an axis, r) per axis and a core (*r, in, out) -> (modes, 2 in, out): the core's matrix at each mode."""
    kernel = torch.view_as_real(core).movedim(-1, 0).flatten()
    done = 1
    for factor in factors:  # (modes so far, 2 r, the rest) -> (modes so far, modes of this axis, 2, the rest)
        re, im = factor.real, factor.imag
        block = torch.stack([torch.cat([re, -im], 1), torch.cat([im, re], 1)], 1).flatten(0, 1)
        kernel = torch.bmm(block.expand(done, *block.shape), kernel.reshape(done, block.shape[1], -1))
        done *= len(factor)
    return kernel.reshape(done, 2 * core.shape[-2], core.shape[-1])


def _chain(a: Tensor, b: Tensor) -> Tensor:
    """(r, modes, s), (s, more, t) -> (r, pairs of modes, t)."""
    return torch.tensordot(a, b, ([2], [0])).flatten(1, 2)
