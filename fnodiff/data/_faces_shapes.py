"""Coverage of grid cells by shapes, strokes and waves: the cell averages a portrait is painted with.

A shape is a signed distance D to its edge in *cells*, negative inside. Its coverage is

    cover(D) = t^2 (3 - 2 t),   t = clamp(1/2 - D/1.3, 0, 1),

close to the cell average of a half plane in any direction (along an axis that is the ramp clamp(1/2 - D), along a
diagonal a smoother one). A stroke of half width w is `cover(D - w) - cover(D + w)`: its mean is 2 w whatever the cell, so
that one thinner than a cell fades in proportion. D = f / |grad f . cell| for a shape f < 0, the gradient taken in cells.
A wave has an exact average: that of cos(2 pi (a x + b y)) on an h x w grid is the wave times sinc(a / w) sinc(b / h).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_TINY = 1e-7
# Width of the smooth ramp, in cells: the best fit to the exact coverage, over all directions of the edge.
_RAMP = 1.3


@dataclass
class Frame:
    """Coordinates u (right), v (down) of shape (b, h, w), and the extent of a cell along each, (b, 1, 1)."""

    u: Tensor
    v: Tensor
    du: Tensor
    dv: Tensor


def frame(
    x: Tensor, y: Tensor, cell: tuple[float, float], centre: tuple[Tensor, Tensor], scale: Tensor, roll: Tensor
) -> Frame:
    """The frame at `centre` = (x, y), turned by `roll` radians and measured in `scale` (each (b, 1, 1)).

    x (w,) or (b, w) and y (h,) or (b, h) are the cell centres and `cell` = (height, width) of a cell in the unit square.
    """
    c, s = torch.cos(roll.double()).float() / scale, torch.sin(roll.double()).float() / scale
    right, down = x.unsqueeze(-2) - centre[0], y.unsqueeze(-1) - centre[1]
    return Frame(
        u=c * right + s * down,
        v=c * down - s * right,
        du=((c * cell[1]).square() + (s * cell[0]).square()).sqrt(),
        dv=((c * cell[0]).square() + (s * cell[1]).square()).sqrt(),
    )


def cover(distance: Tensor) -> Tensor:
    """Coverage of a cell whose centre lies `distance` cells outside a straight edge."""
    t = torch.rsub(distance, 0.5, alpha=1 / _RAMP).clamp_(0, 1)
    return (t * t).mul_(t.mul_(-2).add_(3))


def stroke(distance: Tensor, half_width: Tensor | float) -> Tensor:
    """Coverage by the band |D| < half_width, both in cells."""
    return cover(distance - half_width).sub_(cover(distance + half_width))


def norm(x: Tensor, y: Tensor, corner: Tensor | float | None = None) -> Tensor:
    """r = |(x, y)|. With `corner` = k, r^4 = (x^2 + y^2)^2 - k x^2 y^2: an ellipse at 0, a box at 1.9, a rhombus at -12."""
    x2, y2 = x * x, y * y
    r2 = x2 + y2
    if corner is None:
        return r2.sqrt_()
    return (r2 * r2).sub_(x2 * y2 * corner).sqrt_().sqrt_()


def radius(x: Tensor, y: Tensor, dx: Tensor, dy: Tensor, corner: Tensor | float | None = None) -> tuple[Tensor, Tensor]:
    """r = |(x, y)| and the number of cells per unit of r: `(r - a) * cells` is the distance to the contour r = a.

    x, y are in radii and dx, dy the cell in radii. With `corner` = k, r^4 = (x^2 + y^2)^2 - k x^2 y^2: an ellipse at 0,
    a rounded box at 1.9, a rhombus at -12.
    """
    x2, y2 = x * x, y * y
    r2 = x2 + y2
    if corner is None:
        ratio = (r2 + _TINY) / (x2 * (dx * dx) + y2 * (dy * dy) + _TINY * (dx * dy))
        return r2.sqrt_(), ratio.sqrt_()
    r4 = r2 * r2 - corner * x2 * y2
    gx, gy = x * (r2 - 0.5 * corner * y2) * dx, y * (r2 - 0.5 * corner * x2) * dy
    r = r4.sqrt_().sqrt_()
    slope = (gx * gx).addcmul_(gy, gy).sqrt_()
    cells = (r * r).mul_(r).add_(_TINY).div_(slope.add_(_TINY * dx))
    return r, cells


def across(f: Tensor) -> Tensor:
    """f / |grad f|, in cells, by central differences: for an outline that waves."""
    gx, gy = torch.empty_like(f), torch.empty_like(f)
    torch.sub(f[..., 2:], f[..., :-2], out=gx[..., 1:-1])
    torch.sub(f[..., 2:, :], f[..., :-2, :], out=gy[..., 1:-1, :])
    gx[..., 0], gx[..., -1] = gx[..., 1], gx[..., -2]
    gy[..., 0, :], gy[..., -1, :] = gy[..., 1, :], gy[..., -2, :]
    return gx.mul_(gx).addcmul_(gy, gy).add_(_TINY).rsqrt_().mul_(f).mul_(2)


def disc(x: Tensor, y: Tensor, dx: Tensor, dy: Tensor, corner: Tensor | float | None = None) -> Tensor:
    """Coverage by r < 1, with the right area even where the disc is smaller than a cell."""
    r, cells = radius(x, y, dx, dy, corner)
    return cover((r - 1).mul_(cells)).mul_(small(dx, dy))


def small(dx: Tensor, dy: Tensor) -> Tensor:
    """Area of a disc over the sum of its ramp, for a cell of dx by dy radii; tends to 1 for a large disc."""
    cells = (dx * dy).rsqrt()
    large = cells.square() / (cells.square() + 1 / 12)
    return torch.where(cells > 0.5, large, 3 * cells.square() / (cells + 0.5) ** 3)


def glow(x: Tensor, y: Tensor) -> Tensor:
    """A soft spot of height 1 and radius about 1: (1 + r^2)^-2."""
    r2 = (x * x).add_(y * y).add_(1)
    return r2.mul_(r2).reciprocal_()


def plane_wave(x: Tensor, y: Tensor, cell: tuple[float, float], a: Tensor, b: Tensor, phase: Tensor) -> Tensor:
    """Cell averages of cos(2 pi (a x + b y + phase)), exactly: (b, h, w) from a, b, phase (b,) in cycles per side.

    cos(X + Y) is a sum of two outer products, so no transcendental function is taken per cell.
    """
    px = 2 * torch.pi * (a[:, None].double() * x.double() + phase[:, None].double())
    py = 2 * torch.pi * b[:, None].double() * y.double()
    gain = (torch.sinc(a.double() * cell[1]) * torch.sinc(b.double() * cell[0]))[:, None]
    rows = torch.stack((torch.cos(py) * gain, torch.sin(py) * gain)).float()[..., None]
    columns = torch.stack((torch.cos(px), torch.sin(px))).float()[:, :, None]
    return (rows[0] * columns[0]).addcmul_(rows[1], columns[1], value=-1)


def wave(turns: Tensor, per_cell: Tensor) -> Tensor:
    """Cell averages of cos(2 pi turns) for a slowly bending wave that makes `per_cell` turns in a cell.

    sinc(q) is taken as (1 - q^2)(1 - 0.62 q^2), within 0.015 for q < 1, and as 0 beyond. The cosine is a polynomial
    (error below 7e-5): only sums and products, so the bits do not depend on where in a batch an element stands.
    """
    q = per_cell * per_cell
    gain = (1 - q).clamp_(min=0).mul_(1 - 0.62 * q)
    t = 0.25 - (turns - turns.round()).abs_()  # cos(2 pi turns) = sin(2 pi t), |t| <= 1/4
    t2 = t * t
    return (t2 * 73.585).sub_(41.095).mul_(t2).add_(6.28128).mul_(t).clamp_(-1, 1).mul_(gain)


def paint(canvas: Tensor, colour: Tensor, coverage: Tensor) -> None:
    """Lays `colour` (b, 3, 1, 1) or (b, 3, h, w) over `canvas` (b, 3, h, w), in place, where `coverage` (b, h, w)."""
    canvas.lerp_(colour, coverage.unsqueeze(1))


def inset(canvas: Tensor, colour: Tensor, coverage: Tensor, around: Tensor) -> None:
    """Paints a shape that lies inside another, just painted in the colour `around`: exact where both edges share a cell."""
    canvas.addcmul_(colour - around, coverage.unsqueeze(1))


def blend(low: Tensor, high: Tensor, weight: Tensor) -> Tensor:
    """low + weight (high - low): (b, 3, h, w) from colours (b, 3, 1, 1) and a weight (b, h, w) in [0, 1]."""
    return torch.addcmul(low, high - low, weight.unsqueeze(1))
