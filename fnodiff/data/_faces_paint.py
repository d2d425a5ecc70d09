"""The layers of a portrait, back to front, painted on a canvas of cell averages.

Every function takes the canvas (b, 3, h, w), a frame (u right, v down, the head between v = -1 and 1) and the
parameters p of `_faces_params`, scalars as (b, 1, 1) and colours as (b, 3, 1, 1). Colours lie in [0, 1] and every
layer is a convex combination, so nothing leaves that range.
"""

from types import SimpleNamespace

import torch
from torch import Tensor

from fnodiff.data._faces_shapes import (
    Frame,
    across,
    blend,
    cover,
    disc,
    glow,
    inset,
    norm,
    paint,
    plane_wave,
    radius,
    stroke,
    wave,
)

# (frequency in cycles per side, strength) of the background's waves; strengths sum to 1.
_WAVES = ((2.3, 0.30), (4.1, 0.22), (7.6, 0.16), (13.9, 0.12), (24.7, 0.09), (43.0, 0.065), (77.0, 0.045))
# (cycles per unit of the strand coordinate, strength).
_STRANDS = ((1.9, 0.08), (4.7, 0.07), (11.3, 0.08), (23.5, 0.07))


def _rgb(red: float, green: float, blue: float) -> Tensor:
    return torch.tensor((red, green, blue))[:, None, None]


def _wave(grid: SimpleNamespace, a: Tensor, b: Tensor, phase: Tensor) -> Tensor:
    return plane_wave(grid.x, grid.y, grid.cell, a.flatten(), b.flatten(), phase.flatten())


def background(grid: SimpleNamespace, p: SimpleNamespace) -> Tensor:
    """A new canvas: a colour gradient, a few out-of-focus discs, and waves up to 77 cycles per side."""
    angle = 2 * torch.pi * p.sky_angle.double()
    c, s = torch.cos(angle).float(), torch.sin(angle).float()
    weight = 0.5 + 0.35 * (c * (2 * grid.x - 1) + s * (2 * grid.y - 1)[:, None])
    for i, (frequency, strength) in enumerate(_WAVES):
        turn = 2 * torch.pi * (p.wave_angle + (i % 3 - 1) * p.wave_spread).double()
        f = frequency * p.wave_scale
        w = _wave(grid, f * torch.cos(turn), f * torch.sin(turn), p.wave_phase * (i + 1) ** 2)
        weight.add_(w.mul_(0.24 * strength * p.wave_strength))
    canvas = blend(p.sky_low, p.sky_high, weight.clamp_(0, 1))
    for i in range(2):
        r = getattr(p, f"disc_r_{i}")
        x, y = (grid.x - getattr(p, f"disc_x_{i}")) / r, (grid.y[:, None] - getattr(p, f"disc_y_{i}")) / r
        spot = disc(x.expand_as(weight), y.expand_as(weight), grid.cell[1] / r, grid.cell[0] / r)
        paint(canvas, p.sky_high if i else p.stripe_colour, spot.mul_(0.35))
    return canvas


def torso(canvas: Tensor, grid: SimpleNamespace, fr: Frame, p: SimpleNamespace, skin: Tensor) -> None:
    """Shoulders in a patterned fabric with a fine weave, a neck line in skin, its collar and a seam."""
    x = grid.x - p.body_x
    y = grid.y[:, None] - (p.head_y + 1.22 * p.head_size)
    body = cover(across(norm(x / p.body_width, y / 0.62 - 1, 1.2).sub_(1)))

    f, phase, tilt = p.pattern_scale, p.pattern_phase, p.pattern_tilt
    checks = p.pattern == 3
    hoops = 0.5 * (p.pattern == 1) + 0.26 * checks
    stripes = 0.5 * (p.pattern == 2) + 0.26 * checks
    weight = (0.5 * (p.pattern > 0)).expand_as(body).contiguous()
    for odd, gain in ((1, 1.0), (3, -1 / 3)):  # a softened square wave: cos X - cos 3X / 3, within 0.943
        weight.addcmul_(_wave(grid, odd * f * tilt, odd * f, odd * phase), gain * hoops)
        weight.addcmul_(_wave(grid, odd * f, -odd * f * tilt, odd * phase), gain * stripes)
    weave = _wave(grid, p.weave, p.weave * 0.9, phase).add_(_wave(grid, p.weave * 0.9, -p.weave, phase)).mul_(0.07)
    cloth = blend(p.clothes_colour, p.stripe_colour, weight.clamp_(0, 1).mul_(0.6))
    cloth.mul_((0.80 + 0.25 * p.light * x).clamp(max=0.86).sub(weave).unsqueeze(1))

    na, nb = p.neck_width * p.head_size * 1.2 + 0.02, p.neckline
    r = norm(x / na, (y + 0.01) / nb, torch.where(p.neckline_u < 0.4, -10.0, 0.0))
    seam = stroke(x / grid.cell[1], 0.004 / grid.cell[1]).mul(cover((nb * 1.1 - y) / grid.cell[0]))
    paint(cloth, p.clothes_colour * 0.45, seam * (p.neckline_u > 0.5))
    edge = across(r - 1)
    paint(cloth, p.stripe_colour, cover(edge - 0.012 / grid.cell[0]))
    inset(cloth, skin, cover(edge), p.stripe_colour)
    paint(canvas, cloth, body)


def hair_colour(fr: Frame, p: SimpleNamespace) -> Tensor:
    """(b, 3, h, w): strands that fan out from the parting, with a gloss."""
    w = fr.u - p.brow_line - p.hair_part * p.part_share
    spread = (fr.v + 1.25).mul_(0.36).clamp_(min=0).add_(0.34)
    s = (w + wave(fr.v * 0.9 + p.hair_phase, 0.9 * fr.dv).mul_(0.06 * p.hair_wave)) / spread
    per_cell = fr.du / spread
    tone = glow((fr.u + 0.3 * p.light) * 1.3, (fr.v + 0.72) * 3.4).mul_(p.hair_gloss).add_(0.46 - 0.10 * p.light * fr.u)
    s.add_(wave(0.9 * s + 0.8 * fr.v + 3 * p.hair_phase, per_cell).mul_(0.04))
    for i, (f, strength) in enumerate(_STRANDS):
        tone.add_(wave(f * s + (i + 1) * p.hair_phase, f * per_cell).mul_(strength))
    return blend(p.hair_colour * 0.45, 0.82 * p.hair_colour + 0.18, tone.clamp_(0, 1))


def tufts(grid: SimpleNamespace, p: SimpleNamespace) -> Tensor:
    """A lattice of bumps that shifts the outline of the hair."""
    f = 0.8 * p.bump_scale / p.head_size
    return _wave(grid, f, 0.6 * f, p.hair_phase).add_(_wave(grid, 0.7 * f, -f, 3 * p.hair_phase)).mul_(p.bump)


def cap(fr: Frame, p: SimpleNamespace, bumps: Tensor) -> Tensor:
    """Coverage by the hair around the skull."""
    a = p.face_width + p.cap_width + 0.05 * p.hair_volume
    top, bottom = -1 - p.cap_top - 0.06 * p.hair_volume, p.cap_bottom
    b, middle = (bottom - top) / 2, (bottom + top) / 2
    return cover(across(norm(fr.u / a, (fr.v - middle) / b, 0.2).add_(bumps).sub_(1)))


def drape(fr: Frame, p: SimpleNamespace, bumps: Tensor) -> Tensor:
    """Coverage by the long hair behind the neck."""
    a, down = p.face_width + 0.20 + 0.12 * p.hair_volume, 1.35 + 0.75 * p.hair_length
    b, middle = (down + 0.9) / 2, (down - 0.9) / 2
    return cover(across(norm(fr.u / a, (fr.v - middle) / b, 1.3).add_(bumps).sub_(1)))


def bun(fr: Frame, p: SimpleNamespace, bumps: Tensor) -> Tensor:
    """Coverage by a bun on the head, or by pigtails."""
    r = norm((fr.u.abs() - p.bun_x) / p.bun_a, (fr.v - p.bun_y) / p.bun_b)
    return cover(across(r.add_(bumps).sub_(1)))


def hair_front(behind: Tensor, canvas: Tensor, fr: Frame, p: SimpleNamespace, cap: Tensor, face: Tensor) -> None:
    """`canvas`, with the face, seen through the opening of the cap; elsewhere `behind`, which holds the hair."""
    w = fr.u - p.brow_line
    near = (w - p.hair_part * p.part_share).abs_()
    jag = wave(w * 4.5 + p.hair_phase, 4.5 * fr.du).add_(wave(w * 9.7 + p.hair_phase, 9.7 * fr.du)).mul_(p.jag)
    edge = (p.bow * near).add_(p.slope).mul_(near).add_(jag).add_(p.line + p.hair_line)
    # Locks narrower than a cell soften the edge by their variance.
    lost = (fr.dv * fr.dv).addcmul(p.jag, 6 * p.jag * (fr.du * fr.du * 60).clamp(max=1))
    slope = (near.mul_(2 * p.bow).add_(p.slope)).mul_(fr.du).square_().add_(lost).sqrt_()
    below = (fr.v - edge).div_(slope)
    beside = cover((w.abs_() - p.side - 0.05 * p.hair_volume) / fr.du)
    shade = cover((0.07 / fr.dv - below).neg_()).mul_(cap).mul_(face).mul_(0.35)
    paint(canvas, p.skin_tone * 0.5, shade)
    # What hides the head is nested with it, not independent of it: their edges meet at the temples.
    front = (1 - cover(below.neg_()).mul_(beside)).mul_(cap).add_(face).sub_(1).clamp_(min=0).div_(face.add_(1e-6))
    canvas.lerp_(behind, front.unsqueeze(1))


def _egg(fr: Frame, p: SimpleNamespace) -> Tensor:
    """1 on the contour of the head, whose half width is face_width (1 + jaw v - 0.06 v^2)."""
    grow = (fr.v * -0.06).add_(p.jaw).mul_(fr.v).add_(1).mul_(p.face_width)
    return norm(fr.u / grow, fr.v, 0.35)


def complexion(fr: Frame, p: SimpleNamespace) -> Tensor:
    """(b, 3, h, w): skin lit from the side `light` and from above, darker to the contour, with cheeks and freckles."""
    shade = (0.30 - 0.42 * p.light * fr.u).add_(0.16 * fr.v).clamp_(0, 1)
    skin = blend(p.skin_tone, p.skin_tone * p.skin_shadow, shade)
    rim = _egg(fr, p).sub_(0.60).div_(0.40).clamp_(0, 1).square_().mul_(0.38)
    paint(skin, p.skin_tone * p.skin_shadow * 0.9, rim)
    shine = glow((fr.u - 0.30 * p.light - 0.5 * p.brow_line) * 2.6, (fr.v + 0.42) * 4.0)
    paint(skin, 0.75 * p.skin_tone + 0.25, shine.mul_(0.55))
    f = fold(fr, p)
    cheek = glow((f.out - 0.35) * 0.95, (f.y - 0.36) * 5.5)
    paint(skin, 0.45 * p.skin_tone + _rgb(0.50, 0.16, 0.14), cheek * p.blush)
    spots = (
        wave(f.out * 1.9 + f.y * 2.2 + 0.2, 1.9 * f.du).add_(1).mul_(wave(f.y * 7.0 - f.out * 0.9, 7.0 * fr.dv).add_(1))
    )
    paint(skin, p.skin_tone * _rgb(0.62, 0.45, 0.36), spots.mul_(cheek).mul_(0.25 * p.freckles).clamp_(0, 1))
    return skin


def contour(fr: Frame, p: SimpleNamespace) -> Tensor:
    """Signed distance to the outline of the head, in cells."""
    return across(_egg(fr, p).sub_(1))


def neck(canvas: Tensor, grid: SimpleNamespace, fr: Frame, p: SimpleNamespace, skin: Tensor) -> None:
    """The neck, shaded under the chin."""
    a = p.neck_width
    shadow = disc(fr.u / 0.62, (fr.v - 0.62) / 0.58, fr.du / 0.62, fr.dv / 0.58)
    column = skin.lerp(p.skin_tone * p.skin_shadow * 0.82, shadow.mul_(0.7).unsqueeze(1))
    paint(canvas, column, cover(across(norm(fr.u / a, (fr.v - 0.95) / 0.72, 1.5).sub_(1))))


def right_ear(canvas: Tensor, fr: Frame, p: SimpleNamespace) -> None:
    """The ear on the right of the picture."""
    _ear(canvas, fr, p, 1)


def left_ear(canvas: Tensor, fr: Frame, p: SimpleNamespace) -> None:
    """The ear on the left of the picture."""
    _ear(canvas, fr, p, -1)


def _ear(canvas: Tensor, fr: Frame, p: SimpleNamespace, side: int) -> None:
    """The ear that is turned away is narrower."""
    a, b = 0.14 * p.ear_size / (1 + side * 0.35 * p.turn), 0.22 * p.ear_size
    out = (fr.u - p.ear_shift).mul_(side).sub_(p.face_width + 0.05)
    r, cells = radius(out / a, (fr.v - 0.06) / b, fr.du / a, fr.dv / b)
    paint(canvas, p.skin_tone * (0.3 * p.skin_shadow + 0.7), cover((r - 1) * cells).mul_(p.ear))
    paint(canvas, p.skin_tone * p.skin_shadow * 0.85, stroke((r - 0.60).mul_(cells), 0.10 * cells).mul_(p.ear))
    ring = disc(out.sub_(0.02) / 0.065, (fr.v - 0.36) / 0.075, fr.du / 0.065, fr.dv / 0.075)
    paint(canvas, _rgb(0.93, 0.80, 0.36), ring.mul_(p.earrings * p.ear))


def beard(canvas: Tensor, fr: Frame, p: SimpleNamespace, edge: Tensor, colour: Tensor) -> None:
    """A full beard or a goatee, from under the nose to just below the chin."""
    w = (fr.u - 0.9 * p.mouth_mid).abs_()
    full = (p.beard_kind > 0.4).float()
    top = p.nose_low + 0.09 - full * 0.85 * (w * w) + (1 - full) * 0.1 * w
    area = cover(edge - 0.07 / fr.dv).mul_(cover((top - fr.v) / fr.dv))
    area.mul_(cover((w - 0.36 - 3 * full) / fr.du))
    paint(canvas, colour, area.mul_(0.93))


def fold(fr: Frame, p: SimpleNamespace) -> SimpleNamespace:
    """The frame of the eyes, folded at `eye_mid` so that a cell belongs to one eye and both sides are painted at once.

    out points away from the nose, in half widths of that eye; y down from the eyes' line, in units of the head.
    """
    e = fr.u - p.eye_mid
    sign = torch.sign(e)
    mean, half = (1 / p.eye_width_right + 1 / p.eye_width_left) / 2, (1 / p.eye_width_right - 1 / p.eye_width_left) / 2
    inverse = half * sign + mean
    out = e.mul_(sign).sub_(p.eye_right).mul_(inverse)
    return SimpleNamespace(out=out, y=fr.v - p.eye_high, du=inverse.mul_(fr.du), dv=fr.dv)


def right_eye(canvas: Tensor, fr: Frame, p: SimpleNamespace) -> None:
    """The eye on the right of the picture."""
    _eye(canvas, fr, p, p.eye_mid + p.eye_right, p.eye_width_right)


def left_eye(canvas: Tensor, fr: Frame, p: SimpleNamespace) -> None:
    """The eye on the left of the picture."""
    _eye(canvas, fr, p, p.eye_mid - p.eye_right, p.eye_width_left)


def _eye(canvas: Tensor, fr: Frame, p: SimpleNamespace, middle: Tensor, width: Tensor) -> None:
    x, y, du, dv = (fr.u - middle) / width, fr.v - p.eye_high, fr.du / width, fr.dv
    b = p.eye_size * p.eye_round
    r, cells = radius(x, y / b, du, dv / b)
    socket = (r - 1).mul_(cells)
    upper = cover((y - 0.05 * b) / dv)
    paint(canvas, p.skin_tone * p.skin_shadow * 0.92, cover(socket - 0.035 / dv))

    # The ball is painted whole, then seen between the lids.
    ball = blend(_rgb(0.96, 0.96, 0.95), _rgb(0.74, 0.76, 0.82), cover((y + b * 0.45) / dv))
    s = b * p.iris_size
    k = p.eye_size / s
    xi, yi, dx, dy = (x - p.gaze_x) * k, (y - p.gaze_y * b) / s, du * k, dv / s
    r, cells = radius(xi, yi, dx, dy)
    paint(ball, p.iris_colour * 0.45, cover((r - 1) * cells))
    # Fibres: the real part of z^16 is cos(16 angle), by four squarings; it fades where a cell is wider than a fibre.
    inverse = 1 / (r + 1e-3)
    re, im = xi * inverse, yi * inverse
    for _ in range(4):
        re, im = re * re - im * im, 2 * re * im
    fade = (inverse * (16 / 6.2832 * dy)).square_().neg_().add_(1).clamp_(0, 1)
    fibres = re.mul_(fade).mul_(0.18).add_(0.22 * yi).add_(0.76).clamp_(0, 1)
    inset(ball, 0.9 * p.iris_colour + 0.1, cover((r - 0.86) * cells).mul_(fibres), p.iris_colour * 0.45)
    paint(ball, _rgb(0.04, 0.04, 0.05), cover((r - p.pupil_size).mul_(cells)))
    for place, size, strength in ((-0.34, 0.26, 0.95), (0.38, 0.13, 0.7)):
        spot = disc((xi + place * p.glint) / size, (yi - place) / size, dx / size, dy / size)
        paint(ball, _rgb(0.98, 0.98, 0.98), spot.mul_(strength))

    lid = (1 - 0.25 * x * x).mul_(b * (2 * p.eye_open - 1)).add_(y).div_(-dv)  # positive above the lid
    edge = torch.maximum(socket, lid)
    half = upper.mul_(p.lash - 0.006).add_(0.006).div_(dv)
    paint(canvas, p.lash_colour, cover(edge - half))
    inset(canvas, ball, cover(edge.add_(half)), p.lash_colour)
    crease = stroke(socket - 0.075 / dv, 0.008 / dv).mul_(cover((y + 0.5 * b) / dv))
    paint(canvas, p.skin_tone * 0.5, crease.mul_(0.6))


def brows(canvas: Tensor, fr: Frame, p: SimpleNamespace) -> None:
    """Both brows."""
    f = fold(fr, p)
    y = f.y + p.eye_size * p.eye_round + p.brow_height + 0.03
    m = f.out - 0.02
    y = (y + p.brow_tilt * m).addcmul_(m, m * p.brow_arch, value=-1)
    half = p.brow_thickness * (1 - 0.3 * m)
    hairs = wave(m * 6.3 + y * 4.0, 6.3 * f.du).mul_(0.18).add_(0.80)
    line = stroke(y / f.dv, half / f.dv).mul_(cover((m.abs_() - 1.05) / f.du)).mul_(hairs)
    paint(canvas, p.brow_colour, line)


def nose(canvas: Tensor, fr: Frame, p: SimpleNamespace) -> None:
    """The nose: its shadow, its tip and its nostrils."""
    n, low = fr.u - p.nose_mid, p.nose_low
    a = p.nose_width
    side = torch.where(p.light > 0, -1.0, 1.0)
    t = ((fr.v - p.eye_high) / (low - p.eye_high)).clamp_(0, 1)
    # The bridge runs from between the eyes to the tip; its far side lies in shade.
    bridge = (p.eye_mid + 0.4 * (p.nose_mid - p.eye_mid)) * (1 - t) + p.nose_mid * t
    reach = (fr.u - bridge) * side
    wedge = cover(-reach / fr.du) - cover((a * (0.25 + 0.8 * t * t) - reach) / fr.du)
    wedge.mul_(cover((p.eye_high - 0.02 - fr.v) / fr.dv)).mul_(cover((fr.v - low) / fr.dv))
    paint(canvas, p.skin_tone * p.skin_shadow * 0.92, wedge.clamp_(0, 1).mul_(t).mul_(0.75))
    paint(
        canvas,
        0.6 * p.skin_tone + 0.4,
        glow((n + side * 0.02) * 13, (fr.v - low + 0.09) * 13).sub_(0.05).clamp_(min=0).mul_(0.5),
    )
    # The curve under the tip, and nostrils.
    x = n / a
    under = (fr.v - low) + 0.06 * x * x
    line = stroke(under / fr.dv, 0.018 / fr.dv * (1.2 - (x * x).clamp(max=1))).mul_(cover((x.abs() - 1) * a / fr.du))
    paint(canvas, p.skin_tone * p.skin_shadow * 0.62, line.mul_(0.9))
    m, y = (x.abs() - 0.48) * a / 0.038, (fr.v - low + 0.005) / 0.024
    paint(canvas, p.skin_tone * 0.25, disc(m, y, fr.du / 0.038, fr.dv / 0.024).mul_(0.8))


def mouth(canvas: Tensor, fr: Frame, p: SimpleNamespace) -> None:
    """Regions between graphs over x: exact cell averages along v."""
    x = (fr.u - p.mouth_mid) / p.mouth_width
    y = fr.v - p.mouth_low + p.smile * 0.13 * (x * x - 0.3)
    taper = (1 - x * x).clamp_(min=0)
    dv = fr.dv * (1 + (0.26 * p.smile * x / p.mouth_width).square_()).sqrt_()
    gap_up, gap_down = 0.05 * p.mouth_open, (0.13 + 0.05 * p.smile) * p.mouth_open

    def between(low: Tensor, high: Tensor) -> Tensor:
        return (cover((y - high * taper) / dv) - cover((y - low * taper) / dv)).clamp_(0, 1)

    # The inside of the mouth, then the lips around it, then the whole on the face.
    inside = blend(_rgb(0.28, 0.05, 0.07), _rgb(0.80, 0.36, 0.38), cover((0.62 * gap_down * taper - y) / dv))
    gaps = wave(x * 3.5, 3.5 * fr.du / p.mouth_width).clamp_(0, 1).square_().square_().mul_(0.3)
    teeth = blend(_rgb(0.95, 0.94, 0.90), _rgb(0.55, 0.50, 0.48), gaps)
    paint(inside, teeth, cover((y - 0.38 * gap_down * taper) / dv))
    bow = p.lip_upper * (0.75 + wave(1.2 * x + 0.5, 1.2 * fr.du / p.mouth_width) * 0.25)
    lips = blend(p.lip_colour * 0.86, p.lip_colour, cover(-y / dv))
    shine = glow(x * 2.2, (y - gap_down - 0.5 * p.lip_lower) / (0.4 * p.lip_lower))
    paint(lips, 0.5 * p.lip_colour + 0.5, shine.mul_(0.35).mul_(cover((gap_down * taper - y) / dv)))
    paint(lips, inside, between(-gap_up, gap_down))
    paint(canvas, lips, between(-gap_up - bow, gap_down + p.lip_lower))
    line = stroke((y + gap_up * taper) / dv, 0.017 / fr.dv).mul_(cover((x.abs() - 1.04) * p.mouth_width / fr.du))
    paint(canvas, p.lip_colour * 0.32, line)


def glasses(canvas: Tensor, fr: Frame, p: SimpleNamespace) -> None:
    """Two rims, a bridge, temples, tinted lenses with a streak of light."""
    f = fold(fr, p)
    a, b = p.rim_size / p.eye_size, p.rim_size * 0.86
    corner = torch.where(p.rim_square > 0.5, 1.7, 0.0)
    r, cells = radius((f.out - 0.04) / a, (f.y - 0.02) / b, f.du / a, f.dv / b, corner)
    d = (r - 1).mul_(cells)
    lens = cover(d)
    paint(canvas, _rgb(0.78, 0.88, 0.95), lens * p.lens)
    streak = (f.out + f.y * 3.0) / (f.du * f.du + 9 * f.dv * f.dv).sqrt_()
    per = 1 / (f.du * f.du + 9 * f.dv * f.dv).sqrt_()
    paint(canvas, _rgb(0.98, 0.98, 0.98), stroke(streak + 0.75 * per, 0.16 * per).mul_(lens).mul_(0.4))
    rim = stroke(d, p.rim_width / f.dv)
    thin = 0.8 * p.rim_width / f.dv
    bar = stroke((f.y + 0.06) / f.dv, thin) * (1 - cover(d)).mul_(
        cover((fr.u - p.ear_shift).abs_().sub_(p.face_width - 0.02).div_(fr.du))
    )
    paint(canvas, p.rim_colour, torch.maximum(rim, bar))
