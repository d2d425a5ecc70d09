"""Darcy flow on the unit square: the pressure u in a medium of random permeability a.

    -div(a grad u) = f,    u = 0 on the edge,    a = psi(g),    g ~ N(0, (-Delta + 9)^-2),

with f = 1, zero slope of g at the edge (the cosine basis of `Box`), and psi either of

    two-valued: 12 where g >= 0, 3 elsewhere;    log-normal: exp(g).

Layered is two-valued too, of a g whose Laplacian is d^2/dx^2 + 9 d^2/dy^2: layers along the second axis, three times as long as
they are thick.

Finite volumes on cells of height h: the flux through the face between cells i and j is a_ij (u_j - u_i) / h with the
harmonic mean a_ij = 2 / (1/a_i + 1/a_j), through a face on the edge 2 a_i (0 - u_i) / h. It is of second order, at straight
jumps too. Where jumps have corners the order is lower: 1.3 on a checkerboard, 1.6 to 1.8 for two-valued a that are drawn
(`python -m benchmarks.physics`).

Source: Li et al. (2021), Fourier neural operator for parametric partial differential equations (the law and f = 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fnodiff.domain import Box, Generators, Shape
from fnodiff.equations.solved import Solved, check_choice, check_scale
from fnodiff.expected import kinds_checked

Kind = Literal["two-valued", "log-normal", "layered"]
Target = Literal["pair", "solution", "coefficient"]
_SQUARE, _STRETCHED = Box(2), Box(2, (1.0, 1 / 3))


def coefficient(
    shape: Sequence[int],
    kind: Kind = "two-valued",
    *,
    generator: Generators = None,
    scale: float = 1.0,
    constant_mode: bool = True,
) -> Tensor:
    """Draw permeabilities a = psi(scale g).

    The modes of g have the operator's own variance, (pi^2 |k|^2 + 9)^-2 (not a unit variance per point), the constant mode's
    1/81 included. That is 57 percent of the variance: at 32 x 32, 8 percent of the two-valued draws have one value only, and
    21 percent less than 5 percent of the other. The code that made FNO's data leaves the constant mode out, and has g three
    times as large: tau^(alpha - 1) with tau = 3, alpha = 2. For its law pass constant_mode=False (then no draw in 2000 is as
    one-sided) and scale=3, which the signs do not notice. `python -m benchmarks.physics` prints these figures.

    Args:
        shape: (B, C, n, m); channels are independent.
        kind: "two-valued", "log-normal" or "layered".
        generator: One generator, or one per sample: the same seed is the same g on every grid, up to the modes that the
            grid holds. None: plain draws.
        scale: Factor of g.
        constant_mode: Whether g has one.

    Returns:
        (B, C, n, m), float64: psi of g at the cell centres.

    Raises:
        ValueError: If an argument is not as above.
    """
    check_choice("coefficient", "kind", kind, get_args(Kind))
    check_scale("coefficient", scale)
    box = _STRETCHED if kind == "layered" else _SQUARE
    white = box.white(shape[:2], shape[2:], generator=generator, dtype=torch.float64)
    std = scale / (box.eigenvalues(shape[2:], dtype=torch.float64) + 9)
    if not constant_mode:
        std[0, 0] = 0.0
    g = box.synthesize(white * std, shape[2:])
    return g.exp() if kind == "log-normal" else torch.where(g >= 0, 12.0, 3.0).to(g)


def solve(a: Tensor, f: float | Tensor = 1.0) -> Tensor:
    """The pressure u, by a sparse direct solver in float64 on the CPU; differentiable once, forwards and backwards.

    A derivative takes one more solve with the same factors, of the adjoint equation backwards. That of a two-valued `a` knows
    no moving jumps: let what is differentiated be a smooth function of them.

    Args:
        a: Permeability (B, 1, n, m), positive, constant on each cell; n and m at least 2.
        f: Source, a number or cell averages that broadcast to (B, 1, n, m).

    Returns:
        (B, 1, n, m) in a's dtype and on its device.

    Raises:
        ValueError: If `a` or `f` is not as above, or not finite.
    """
    _check_coefficient("solve", a)
    return _Solution.apply(*_conductances(a.double().cpu()), _source("solve", f, a).cpu(), _Factors()).to(a)


@kinds_checked
def positive(a: Tensor, least: float) -> Tensor:
    """a where it is at least `least`, and below that least^2 / (2 least - a): positive, and smooth with its slope.

    Samples of a permeability may leave its values, on the way and in the end, and `solve` takes positive ones alone. This makes
    them so without losing sensors' hold on them: a clamped cell has no derivative, so nothing that u says moves it again.

    Args:
        a: Any shape.
        least: The smallest value that is left as it is, above 0; 3 for a two-valued a.

    Returns:
        Of a's shape and dtype, a floating one.

    Raises:
        ValueError: If a is not of floating point, or `least` not a positive number.

    Examples:
        >>> import torch
        >>> from fnodiff.equations import darcy
        >>> darcy.positive(torch.tensor([-3.0, 0.0, 3.0, 12.0]), 3.0)
        tensor([ 1.0000,  1.5000,  3.0000, 12.0000])
    """
    if not 0 < least < float("inf"):
        raise ValueError(f"positive: expected least as a positive number, got {least!r}; take a's smallest true value.")
    if not a.is_floating_point():
        raise ValueError(f"positive: expected a of floating point, got {a.dtype}; convert it by a.float().")
    return torch.where(a < least, least**2 / (2 * least - a.clamp(max=least)), a)


class _Factors:
    """Those of each sample's L, once they are known. No list, as function transforms copy lists."""

    def __init__(self) -> None:
        self.found: list[Any] = []


class _Inverse(torch.autograd.Function):
    """L^-1 f, (B, 1, n, m), by factors of L."""

    @staticmethod
    def forward(f: Tensor, factors: _Factors) -> Tensor:
        solved = [factor.solve(part.flatten().numpy()) for factor, part in zip(factors.found, f.detach(), strict=True)]
        return torch.from_numpy(np.stack(solved)).view_as(f)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, None], f: Tensor, factors: _Factors) -> tuple[Tensor, int]:
        """Many right hand sides in one go."""
        each = f.movedim(in_dims[0], -1).detach()  # (B, 1, n, m, K)
        solved = [factor.solve(part.flatten(0, -2).numpy()) for factor, part in zip(factors.found, each, strict=True)]
        return torch.from_numpy(np.stack(solved)).view_as(each).movedim(-1, 0), 0


class _Solution(torch.autograd.Function):
    """u with -div(flux) = f, of the conductances of faces across rows and columns, and the source; L u = f for short."""

    @staticmethod
    def forward(rows: Tensor, columns: Tensor, source: Tensor, factors: _Factors) -> Tensor:
        from scipy.sparse import diags_array
        from scipy.sparse.linalg import splu

        m = source.shape[-1]
        for across, along in zip(rows[:, 0], columns[:, 0], strict=True):
            diagonal = across[:-1] + across[1:] + along[:, :-1] + along[:, 1:]
            down = across[1:-1].flatten()  # between a cell and the next row's
            right = torch.nn.functional.pad(along[:, 1:-1], (0, 1)).flatten()[:-1]  # no row's last cell has one
            bands = [band.numpy() for band in (-down, -right, diagonal.flatten(), -right, -down)]
            matrix = diags_array(bands, offsets=[-m, -1, 0, 1, m], format="csc")
            options = {"diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}
            factors.found.append(splu(matrix, permc_spec="MMD_AT_PLUS_A", **options))
        return _Inverse.forward(source, factors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.factors = inputs[3]
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        adjoint = _Inverse.apply(g, ctx.factors)
        pairs = zip(_steps(adjoint), _steps(ctx.saved_tensors[0]), strict=True)
        rows, columns = (-a * b for a, b in pairs)
        return rows, columns, adjoint, None

    @staticmethod
    def jvp(ctx: Any, rows: Tensor | None, columns: Tensor | None, source: Tensor | None, _: None) -> Tensor:
        (u,) = ctx.saved_tensors
        change = torch.zeros_like(u) if source is None else source
        for axis, (conductance, step) in enumerate(zip((rows, columns), _steps(u), strict=True), start=-2):
            if conductance is not None:
                change = change + (conductance * step).diff(dim=axis)
        return _Inverse.apply(change, ctx.factors)


def _steps(u: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of u through the faces across each axis, zero beyond the edge."""
    outside = torch.nn.functional.pad(u, (1, 1, 1, 1))
    return outside[..., 1:-1].diff(dim=-2), outside[..., 1:-1, :].diff(dim=-1)


def residual(a: Tensor, u: Tensor, f: float | Tensor = 1.0) -> Tensor:
    """|-div(a grad u) - f| / |f| with the finite volumes of `solve`: zero for its solutions.

    Differentiable, computed in float64. It belongs to one grid. On another the exact pair has a residual of its own, as
    |.| weighs the finest scales most: for smooth a it falls; for averages of a two-valued a it grows, with medians 0.33, 0.45
    and 0.68 at 24, 48 and 96 cells per side of a solve at 192. So compare with true pairs, never with zero;
    |u - solve(a)| / |u|, 0.011, 0.007 and 0.004 there, does fall (`python -m benchmarks.physics`).

    Args:
        a: Permeability (B, 1, n, m), positive; n and m at least 2.
        u: Pressure, of the same shape.
        f: Source as in `solve`, not zero everywhere.

    Returns:
        (B,), in u's dtype.

    Raises:
        ValueError: If `a`, `u` or `f` is not as above, or `a` or `f` not finite.
    """
    _check_coefficient("residual", a)
    if u.shape != a.shape:
        shapes = f"{tuple(a.shape)} and {tuple(u.shape)}"
        raise ValueError(f"residual: expected a and u of one shape, got {shapes}; split a pair (B, 2, n, m) first.")
    source = _source("residual", f, a)
    if not bool((source.flatten(1) != 0).any(1).all()):
        raise ValueError("residual: expected an f that is not zero everywhere, as the residual is relative to it.")
    (rows, columns), (down, right) = _conductances(a.double()), _steps(u.double())
    divergence = (rows * down).diff(dim=-2) + (columns * right).diff(dim=-1)
    return (_SQUARE.norm(divergence + source) / _SQUARE.norm(source)).to(u.dtype)


def _conductances(a: Tensor) -> tuple[Tensor, Tensor]:
    """Flux per difference of u and cell height, through the faces across each axis: (.., n + 1, m) and (.., n, m + 1)."""
    out = []
    for axis in (-2, -1):
        n = a.shape[axis]
        first, last = a.narrow(axis, 0, 1), a.narrow(axis, n - 1, 1)  # half a cell from the edge
        inner = 1 / (1 / a.narrow(axis, 0, n - 1) + 1 / a.narrow(axis, 1, n - 1))
        out.append(torch.cat([first, inner, last], dim=axis) * (2 * n**2))
    return out[0], out[1]


def _source(owner: str, f: float | Tensor, a: Tensor) -> Tensor:
    f = torch.as_tensor(f, device=a.device).double()
    if f.ndim > 4 or any(n not in (1, m) for n, m in zip(reversed(f.shape), reversed(a.shape), strict=False)):
        shapes = f"{tuple(a.shape)}, got {tuple(f.shape)}"
        raise ValueError(f"{owner}: expected f that broadcasts to a's shape {shapes}; draw it on that grid.")
    if not bool(f.isfinite().all()):
        raise ValueError(f"{owner}: expected a finite f, got values that are not.")
    return f.expand(a.shape)


def _check_coefficient(owner: str, a: Tensor) -> None:
    shape = _SQUARE.check_field(a)
    if a.shape[1] != 1 or min(shape) < 2:
        raise ValueError(f"{owner}: expected a of shape (B, 1, n, m) with n and m at least 2, got {tuple(a.shape)}.")
    if not bool(((a > 0) & a.isfinite()).all()):
        raise ValueError(
            f"{owner}: expected a positive, finite a, got values from {float(a.min()):.3g} to {float(a.max()):.3g}; "
            f"`darcy.positive(a, least)` makes a generated one so, with a derivative everywhere."
        )


@kinds_checked
class Darcy(Solved):
    """Pairs (a, u) of permeability and pressure, solved with f = 1 on fine x fine cells and averaged over those of any
    coarser grid, of any size: grids of one data set show one truth.

    The average of a two-valued a over a coarser cell lies between the two values, and u does not solve the coarse grid's own
    equations with it: see `residual`. Values are in the units of the equation: two-valued, a has a mean
    near 7.5 and a standard deviation near 4.5, and u both of 0.005 to 0.007.

    Args:
        count, seed: Number of samples, and what fixes all of them.
        kind, scale, constant_mode: See `coefficient`.
        target: "pair" has x = (a, u), two channels; "solution" x = u with a as the "field"; "coefficient" x = a alone, and
            nothing is solved.
        fine: Cells per side of the solve. The default is divisible by 16, 24, 32, 48, 64 and 96. For two-valued a, u is some
            0.1% from that of a solve with twice as many (`python -m benchmarks.physics`).
        keep: Fine solutions to keep in memory, 0.3 MB each by default; the longest unused goes first.

    Raises:
        ValueError: For arguments out of their range; from `batch`, for an index that is none of the samples' or a finer grid.

    Examples:
        >>> from fnodiff.equations import Darcy
        >>> a, u = Darcy(1, fine=32).batch([0], (16, 16))["x"][0]
        >>> round(float(a.max())), bool(u.min() > 0)
        (12, True)
    """

    domain = _SQUARE

    def __init__(
        self,
        count: int,
        seed: int = 0,
        *,
        kind: Kind = "two-valued",
        target: Target = "pair",
        fine: int = 192,
        scale: float = 1.0,
        constant_mode: bool = True,
        keep: int = 1024,
    ) -> None:
        super().__init__(count, seed, fine=fine, keep=keep)
        check_choice("Darcy", "kind", kind, get_args(Kind))
        check_choice("Darcy", "target", target, get_args(Target))
        check_scale("Darcy", scale)
        self.kind, self.target, self.scale, self.constant_mode = kind, target, scale, constant_mode
        self.channels = 2 if target == "pair" else 1
        self.condition_channels = 1 if target == "solution" else 0

    def solution(self, generator: torch.Generator) -> Tensor:
        shape = (1, 1, self.fine, self.fine)
        a = coefficient(shape, self.kind, generator=generator, scale=self.scale, constant_mode=self.constant_mode)
        return a[0] if self.target == "coefficient" else torch.cat([a, solve(a)], dim=1)[0]

    def view(self, solutions: Tensor, shape: Shape) -> dict[str, Tensor]:
        x = _SQUARE.average(solutions, shape)
        return {"x": x[:, 1:], "field": x[:, :1]} if self.target == "solution" else {"x": x}
