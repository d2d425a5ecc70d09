"""Cartoon portraits as functions on the unit square, to train on any grid.

A seed is one function: every parameter is a hash of the seed (`_faces_params`), none of the grid or of the batch.
A picture holds its averages over the cells of a grid: layers are composited back to front,

    canvas <- canvas + coverage (colour - canvas),

with analytic coverages (`_faces_shapes`, layers in `_faces_paint`), so a coarse picture is close to the area average of
a fine one: within 2.9 percent at 32x32 and 2.1 percent at 48x48 (L2, relative to each picture less its mean).
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from types import SimpleNamespace

import torch
from torch import Tensor

import fnodiff.data._faces_paint as layer
from fnodiff.data._faces_params import HAIR_STYLES, as_seeds, mix, parameters
from fnodiff.data._faces_shapes import Frame, frame

__all__ = ["HAIR_STYLES", "Faces", "face_attributes", "faces"]

# Attributes that are classes, and how many.
_CLASSES = {"hair_style": len(HAIR_STYLES), "glasses": 2, "beard": 2}
# Cells painted at once: planes that fit in a core's cache, and enough to hide what a torch call costs.
_CHUNK = 131072
# Half the height and width of a patch that holds a feature, whatever the pose, in sides of the image.
_PATCHES = {
    "left_eye": (0.135, 0.145),
    "right_eye": (0.135, 0.145),
    "nose": (0.13, 0.125),
    "mouth": (0.10, 0.155),
    "left_ear": (0.14, 0.11),
    "right_ear": (0.14, 0.11),
    "brows": (0.14, 0.33),
    "glasses": (0.19, 0.37),
}
_SMALLEST = 8
_ATTRIBUTES = (
    "glasses beard hair_style hair_colour skin_tone iris_colour clothes_colour background smile mouth_open "
    "head_x head_y head_size face_width turn roll light"
).split()
_ALL = ((0.0, 1.0), (0.0, 1.0))
# Rows and columns that hold the head, the neck and the shoulders, whatever the pose.
_HEAD = ((0.08, 0.87), (0.11, 0.89))
_NECK = ((0.46, 1.0), (0.14, 0.86))
_TORSO = ((0.74, 1.0), (0.0, 1.0))
# Below this size an iris spans a few cells, and several edges meet in one.
_FINE = 100


@dataclass
class _Window:
    """Rows and columns of a grid of `shape` cells on the unit square, and the cells' centres there."""

    shape: tuple[int, int]
    rows: slice
    columns: slice

    @staticmethod
    def of(shape: tuple[int, int], box: tuple[tuple[float, float], tuple[float, float]] = _ALL) -> "_Window":
        """The cells that `box` = ((top, bottom), (left, right)) touches."""
        rows, columns = (slice(int(low * n), math.ceil(high * n)) for (low, high), n in zip(box, shape, strict=True))
        return _Window(shape, rows, columns)

    def split(self, factor: int) -> "_Window":
        """The same part of the square on cells `factor` times smaller."""
        rows, columns = (slice(s.start * factor, s.stop * factor) for s in (self.rows, self.columns))
        return _Window((self.shape[0] * factor, self.shape[1] * factor), rows, columns)

    def cut(self, x: Tensor) -> Tensor:
        return x[..., self.rows, self.columns]

    @property
    def grid(self) -> SimpleNamespace:
        """x (w,), y (h,) and the (height, width) of a cell."""
        y, x = ((torch.arange(n, dtype=torch.float64) + 0.5) / n for n in self.shape)
        cell = (1 / self.shape[0], 1 / self.shape[1])
        return SimpleNamespace(x=x[self.columns].float(), y=y[self.rows].float(), cell=cell)


def _arrange(drawn: dict[str, Tensor]) -> dict[str, Tensor]:
    """Parameters as float32, scalars (B, 1, 1) and colours (B, 3, 1, 1), with those that follow from others."""
    p = SimpleNamespace(
        **{name: (value if name == "pattern" else value.float())[..., None, None] for name, value in drawn.items()}
    )
    shadow, red = torch.tensor([0.70, 0.58, 0.54])[:, None, None], torch.tensor([0.74, 0.22, 0.27])[:, None, None]
    p.skin_shadow = shadow.expand_as(p.skin_tone)
    p.lip_colour = p.skin_tone * 0.82 * (1 - p.lip_red[:, None]) + red * p.lip_red[:, None]
    p.lash_colour = p.hair_colour * 0.15 + 0.02
    p.brow_colour = p.hair_colour * 0.55
    p.glint = torch.where(p.light > 0, -1.0, 1.0)
    p.eye_high = 0.02 + p.nod
    p.nose_low = p.eye_high + p.nose_length
    p.mouth_low = p.mouth_height + 0.7 * p.nod
    return vars(p)


def _head_frame(grid: SimpleNamespace, p: SimpleNamespace) -> Frame:
    return frame(grid.x, grid.y, grid.cell, (p.head_x, p.head_y), p.head_size, p.roll)


def _paint_patch(name: str, canvas: Tensor, window: _Window, p: SimpleNamespace) -> None:
    """Paints a feature on the small patch of every picture that holds it. `canvas` (b, 3, h, w) covers `window`."""
    cells, places = [], []
    for axis, part, n in zip("yx", (window.rows, window.columns), window.shape, strict=True):
        centre, half = getattr(p, f"{name}_{axis}"), _PATCHES[name]["yx".index(axis)]
        size = min(part.stop - part.start, math.ceil(2 * half * n) + 1)
        first = (centre.flatten() * n - size / 2).floor().long().clamp(part.start, part.stop - size)
        cell = first[:, None] + torch.arange(size)
        cells.append(cell - part.start)
        places.append(((cell.double() + 0.5) / n).float())
    grid = SimpleNamespace(x=places[1], y=places[0], cell=(1 / window.shape[0], 1 / window.shape[1]))
    index = (cells[0][:, :, None] * canvas.shape[-1] + cells[1][:, None, :]).flatten(1)[:, None].expand(-1, 3, -1)
    flat = canvas.flatten(2)
    patch = flat.gather(2, index)
    getattr(layer, name)(patch.unflatten(2, (places[0].shape[1], -1)), _head_frame(grid, p), p)
    flat.scatter_(2, index, patch)


def _some(flag: Tensor, p: SimpleNamespace) -> tuple[Tensor, SimpleNamespace]:
    """Numbers of the samples with `flag`, and their parameters."""
    rows = flag.flatten().nonzero().flatten()
    return rows, SimpleNamespace(**{name: value[rows] for name, value in vars(p).items()})


def _split(x: Tensor, factor: int) -> Tensor:
    """A copy with every cell cut in factor x factor."""
    fine = x.new_empty(*x.shape[:-2], x.shape[-2] * factor, x.shape[-1] * factor)
    for i, j in itertools.product(range(factor), repeat=2):  # several times faster than repeat_interleave
        fine[..., i::factor, j::factor] = x
    return fine


def _pool(x: Tensor, factor: int) -> Tensor:
    """Averages factor x factor blocks, in a fixed order of summation."""
    if factor == 1:
        return x
    rows = sum(x[..., i::factor, :] for i in range(factor))
    return sum(rows[..., i::factor] for i in range(factor)) / factor**2


def _render(p: SimpleNamespace, shape: tuple[int, int]) -> Tensor:
    """(b, 3, *shape): the head, where many edges meet, is painted on cells half as large if those of the grid are."""
    whole = _Window.of(shape)
    grid = whole.grid
    fr = _head_frame(grid, p)
    canvas, locks, skin = layer.background(grid, p), layer.hair_colour(fr, p), layer.complexion(fr, p)
    bumps = layer.tufts(grid, p)
    mass = layer.cap(fr, p, bumps)
    for flag, coverage in ((p.drape, layer.drape), (p.bun, layer.bun)):
        rows, q = _some(flag, p)
        if len(rows):
            mass[rows] = torch.maximum(mass[rows], coverage(_head_frame(grid, q), q, bumps[rows]))
    layer.paint(canvas, locks, mass)
    for name in ("left_ear", "right_ear"):
        _paint_patch(name, canvas, whole, p)

    head = _Window.of(shape, _HEAD)
    factor = 2 if min(shape) < _FINE else 1
    behind, locks_near = _split(head.cut(canvas), factor), _split(head.cut(locks), factor)
    for box, draw in ((_NECK, layer.neck), (_TORSO, layer.torso)):
        window = _Window.of(shape, box)
        draw(window.cut(canvas), window.grid, _head_frame(window.grid, p), p, window.cut(skin))

    near = _split(head.cut(canvas), factor)
    _head(near, behind, locks_near, _split(head.cut(skin), factor), head.split(factor), p)
    head.cut(canvas).copy_(_pool(near, factor))
    return canvas.mul_(2).sub_(1)


def _head(canvas: Tensor, behind: Tensor, locks: Tensor, skin: Tensor, window: _Window, p: SimpleNamespace) -> None:
    """Paints the head with all its features; `behind` is the picture without it, `locks` the colour of the hair."""
    grid = window.grid
    fr = _head_frame(grid, p)
    edge = layer.contour(fr, p)
    face = layer.cover(edge)
    layer.paint(canvas, skin, face)
    rows, q = _some(p.beard, p)
    if len(rows):
        some = canvas[rows]
        layer.beard(some, _head_frame(grid, q), q, edge[rows], locks[rows])
        canvas[rows] = some
    for name in ("left_eye", "right_eye", "nose", "mouth", "brows"):
        _paint_patch(name, canvas, window, p)
    layer.hair_front(behind, canvas, fr, p, layer.cap(fr, p, layer.tufts(grid, p)), face)
    rows, q = _some(p.glasses, p)
    if len(rows):
        some = canvas[rows]
        _paint_patch("glasses", some, window, q)
        canvas[rows] = some


def _check_shape(shape: Sequence[int], oversample: int) -> tuple[int, int]:
    shape = (shape, shape) if isinstance(shape, Integral) else tuple(shape)
    whole = all(isinstance(n, Integral) and not isinstance(n, bool) for n in shape)
    if len(shape) != 2 or not whole or min(shape) < _SMALLEST:
        raise ValueError(
            f"expected shape = (height, width), two ints of at least {_SMALLEST}, got {shape}: "
            "for a smaller picture, area-average a larger one"
        )
    if not isinstance(oversample, int) or isinstance(oversample, bool) or oversample < 1:
        raise ValueError(f"expected an integer oversample >= 1, got {oversample!r}: 1 is the plain rendering")
    return int(shape[0]), int(shape[1])


def faces(seeds: Sequence[int] | Tensor, shape: tuple[int, int], *, oversample: int = 1) -> Tensor:
    """Portraits of the functions `seeds`, as averages over the cells of a grid.

    Arguments:
        seeds: (B,) integers; each is one function on [0, 1]^2, the same at any size and in any batch.
        shape: (height, width), each at least 8. The picture is the whole square: cells are 1/height by 1/width.
        oversample: renders at k times the size and averages k x k cells, which is closer to the exact cell averages:
            k = 1 is within 2.9 percent of them at 32x32 (relative L2), k = 2 within 1, at k^2 times the cost.

    Returns:
        (B, 3, *shape) float32 red, green, blue in [-1, 1].

    Raises:
        ValueError: seeds that are not integers, a shape that is not two sizes of at least 8, oversample < 1.

    Examples:
        >>> from fnodiff.data import faces
        >>> x = faces([1, 2], (32, 32))
        >>> x.shape, bool((x.abs() <= 1).all())
        (torch.Size([2, 3, 32, 32]), True)
    """
    shape = _check_shape(shape, oversample)
    drawn = _arrange(parameters(as_seeds(seeds)))
    count = len(drawn["turn"])
    height, width = (n * oversample for n in shape)
    step = max(1, _CHUNK // (height * width))
    out = torch.empty(count, 3, *shape)
    for start in range(0, count, step):
        rows = slice(start, start + step)
        p = SimpleNamespace(**{name: value[rows] for name, value in drawn.items()})
        out[rows] = _pool(_render(p, (height, width)), oversample)
    return out


def face_attributes(seeds: Sequence[int] | Tensor) -> dict[str, Tensor]:
    """What was drawn for `seeds` (B,), and can be seen in a 32x32 picture. Colours are red, green, blue in [0, 1].

    ============== ========== ===============================================================================
    glasses, beard bool (B,)  worn or not: 35 and about 25 percent
    hair_style     int64 (B,) index into `HAIR_STYLES`: receding, short, fringe, long, bun, pigtails, afro
    hair_colour    (B, 3)     also of brows and beard
    skin_tone      (B, 3)     before shading
    iris_colour    (B, 3)
    clothes_colour (B, 3)     the ground of the fabric
    background     (B, 3)     mean of the two colours of the gradient
    smile          (B,)       -0.6 (corners of the mouth down) to 1 (up)
    mouth_open     (B,)       0 (closed, 55 percent) or 0.25 to 1
    head_x, head_y (B,)       centre of the head, in sides of the image: 0.44 to 0.56, 0.435 to 0.485
    head_size      (B,)       half the height of the head, in sides of the image: 0.28 to 0.34
    face_width     (B,)       half the width of the head over half its height: 0.72 to 0.86
    turn           (B,)       -1 (to the left of the picture) to 1 (to the right)
    roll           (B,)       -0.16 to 0.16 radians, clockwise
    light          (B,)       -1 (from the left) to 1 (from the right)
    ============== ========== ===============================================================================

    Raises ValueError for seeds that are not integers.

    Examples:
        >>> from fnodiff.data import face_attributes
        >>> face_attributes(range(6))["glasses"]
        tensor([False, False, False, False,  True, False])
    """
    drawn = parameters(as_seeds(seeds))
    return {name: drawn[name].float() if drawn[name].is_floating_point() else drawn[name] for name in _ATTRIBUTES}


class Faces:
    """A data set of `count` portraits; sample i is a fixed function of (seed, i), rendered on the grid asked for.

    Data sets of different `seed` are disjoint in practice: sample seeds are 64-bit hashes of (seed, i), and two
    sets of a million share any with a probability of 1e-13.

    With `label`, one of "hair_style" (7 classes), "glasses" and "beard" (2 each), batches have that attribute as labels.

    Raises ValueError for a negative count, a seed that is not an integer, or a label that is none of these.

    Examples:
        >>> from fnodiff.data import Faces
        >>> batch = Faces(100, label="glasses").batch([3, 5], (16, 24))
        >>> batch["x"].shape, batch["label"]
        (torch.Size([2, 3, 16, 24]), tensor([0, 1]))
    """

    channels = 3
    cell_averages = True
    condition_channels = 0

    def __init__(self, count: int, seed: int = 0, *, label: str | None = None) -> None:
        if label is not None and label not in _CLASSES:
            raise ValueError(
                f"expected a label among {sorted(_CLASSES)}, got {label!r}: colours and places are no classes"
            )
        self.label, self.num_classes = label, _CLASSES.get(label, 0)
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ValueError(f"expected an integer count >= 0, got {count!r}: it is the number of portraits")
        self.count = count
        self.seed = seed
        self._base = mix(mix(as_seeds([seed])) + 1)

    def __len__(self) -> int:
        return self.count

    def seeds(self, indices: Sequence[int] | Tensor) -> Tensor:
        """(B,) int64, what `faces` draws samples `indices` from. ValueError for an index outside 0 <= i < count."""
        indices = as_seeds(indices)
        outside = indices[(indices < 0) | (indices >= self.count)]
        if len(outside):
            raise ValueError(
                f"Faces: expected indices in [0, {self.count}), got {outside[0].item()}; make `count` larger."
            )
        return mix(self._base + indices)

    def batch(self, indices: Sequence[int] | Tensor, shape: tuple[int, int]) -> dict[str, Tensor]:
        """{"x": (B, 3, *shape)} in [-1, 1], see `faces`; and "label" (B,) int64, if there is one."""
        seeds = self.seeds(indices)
        batch = {"x": faces(seeds, shape)}
        if self.label is not None:
            batch["label"] = face_attributes(seeds)[self.label].long()
        return batch

    def attributes(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """See `face_attributes`."""
        return face_attributes(self.seeds(indices))
