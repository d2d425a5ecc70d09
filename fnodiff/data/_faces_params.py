"""What a portrait is made of: named parameters, each a pure function of the seed.

A uniform is a counter-based hash, so no generator exists and nothing depends on the batch or on the grid:

    u(seed, name) = mix(mix(seed) + golden * crc32(name)) / 2^64,

with `mix` the finaliser of splitmix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"),
in int64 arithmetic that wraps around. Streams are keyed by name: a new parameter leaves the others as they are.

Lengths that belong to the head are in half heights of the head; `head_*` and `body_*` are in sides of the image.
"""

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

# Signed forms of 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9 and 0x94D049BB133111EB.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX2 = 0x94D049BB133111EB - (1 << 64)

HAIR_STYLES = ("receding", "short", "fringe", "long", "bun", "pigtails", "afro")

# name: (low, high) of a uniform draw.
RANGES: dict[str, tuple[float, float]] = {
    # pose
    "head_x": (0.44, 0.56),
    "head_y": (0.435, 0.485),
    "head_size": (0.28, 0.34),
    "roll": (-0.16, 0.16),
    "turn": (-1.0, 1.0),
    "nod": (-0.04, 0.04),
    "light": (-1.0, 1.0),
    # head
    "face_width": (0.72, 0.86),
    "jaw": (-0.20, 0.05),
    "skin_depth": (0.0, 1.0),
    "skin_warmth": (-1.0, 1.0),
    "ear_size": (0.85, 1.2),
    "blush": (0.1, 0.5),
    "freckles_u": (0.0, 1.0),
    "earrings_u": (0.0, 1.0),
    # eyes and brows
    "eye_size_u": (0.265, 0.305),
    "eye_round": (0.62, 0.88),
    "eye_gap_u": (0.455, 0.49),
    "eye_open": (0.62, 1.1),
    "gaze_x": (-0.3, 0.3),
    "gaze_y": (-0.2, 0.25),
    "iris_size": (0.60, 0.70),
    "pupil_size": (0.36, 0.52),
    "iris_u": (0.0, 1.0),
    "iris_shade": (0.85, 1.15),
    "lash": (0.016, 0.036),
    "brow_tilt": (-0.05, 0.07),
    "brow_height": (0.09, 0.17),
    "brow_thickness": (0.026, 0.06),
    "brow_arch": (0.01, 0.06),
    # nose and mouth
    "nose_width": (0.10, 0.17),
    "nose_length": (0.30, 0.42),
    "smile": (-0.6, 1.0),
    "mouth_width": (0.25, 0.37),
    "mouth_open_u": (0.0, 1.0),
    "mouth_height": (0.56, 0.61),
    "lip_upper": (0.02, 0.055),
    "lip_lower": (0.03, 0.085),
    "lip_red": (0.2, 0.75),
    # hair, on the head and in the face
    "hair_style_u": (0.0, 1.0),
    "hair_u": (0.0, 1.0),
    "hair_shade": (0.8, 1.2),
    "hair_part": (-0.45, 0.45),
    "hair_volume": (0.0, 1.0),
    "hair_length": (0.0, 1.0),
    "hair_line": (-0.06, 0.06),
    "hair_wave": (0.0, 1.0),
    "hair_phase": (0.0, 1.0),
    "hair_gloss": (0.10, 0.28),
    "beard_u": (0.0, 1.0),
    "beard_kind": (0.0, 1.0),
    # glasses
    "glasses_u": (0.0, 1.0),
    "rim_square": (0.0, 1.0),
    "rim_width": (0.016, 0.042),
    "rim_u": (0.0, 1.0),
    "rim_size": (0.29, 0.34),
    "lens": (0.06, 0.16),
    # clothes
    "body_shift": (-0.015, 0.015),
    "body_width": (0.36, 0.47),
    "neck_width": (0.34, 0.46),
    "clothes_hue": (0.0, 1.0),
    "clothes_value": (0.0, 1.0),
    "stripe_hue": (0.0, 1.0),
    "pattern_u": (0.0, 1.0),
    "pattern_scale": (9.0, 20.0),
    "pattern_phase": (0.0, 1.0),
    "pattern_tilt": (-0.25, 0.25),
    "weave": (48.0, 80.0),
    "neckline": (0.06, 0.16),
    "neckline_u": (0.0, 1.0),
    # background
    "sky_hue": (0.0, 1.0),
    "sky_step": (-0.3, 0.3),
    "sky_value": (0.0, 1.0),
    "sky_angle": (0.0, 1.0),
    "wave_angle": (0.0, 1.0),
    "wave_spread": (0.02, 0.25),
    "wave_scale": (0.75, 1.3),
    "wave_strength": (0.5, 1.0),
    "wave_phase": (0.0, 1.0),
    **{f"disc_{k}_{i}": r for i in range(2) for k, r in {"x": (0, 1), "y": (0, 0.8), "r": (0.05, 0.16)}.items()},
}

_NAMES = tuple(RANGES)
_KEYS = torch.tensor([zlib.crc32(name.encode()) for name in _NAMES], dtype=torch.int64)
_LOW = torch.tensor([low for low, _ in RANGES.values()], dtype=torch.float64)
_SPAN = torch.tensor([high - low for low, high in RANGES.values()], dtype=torch.float64)

# Colours are (red, green, blue) in [0, 1].
_SKIN = (
    (0.99, 0.86, 0.77),
    (0.95, 0.75, 0.60),
    (0.82, 0.60, 0.43),
    (0.62, 0.41, 0.28),
    (0.43, 0.27, 0.19),
    (0.30, 0.185, 0.135),
)
_HAIR = (
    (0.10, 0.08, 0.09),
    (0.24, 0.15, 0.10),
    (0.42, 0.26, 0.14),
    (0.62, 0.27, 0.11),
    (0.86, 0.66, 0.34),
    (0.76, 0.75, 0.76),
    (0.15, 0.52, 0.58),
    (0.83, 0.38, 0.56),
    (0.42, 0.30, 0.70),
)
_HAIR_ODDS = (0.18, 0.17, 0.16, 0.13, 0.14, 0.09, 0.045, 0.045, 0.04)
_IRIS = (
    (0.33, 0.19, 0.10),
    (0.52, 0.33, 0.13),
    (0.28, 0.52, 0.24),
    (0.22, 0.50, 0.80),
    (0.42, 0.52, 0.60),
    (0.10, 0.58, 0.58),
)
_IRIS_ODDS = (0.24, 0.18, 0.17, 0.20, 0.11, 0.10)
_RIMS = (
    (0.08, 0.08, 0.10),
    (0.38, 0.20, 0.09),
    (0.80, 0.62, 0.22),
    (0.72, 0.12, 0.16),
    (0.12, 0.24, 0.60),
    (0.92, 0.92, 0.94),
)
_RIM_ODDS = (0.36, 0.2, 0.14, 0.12, 0.1, 0.08)
_STYLE_ODDS = (0.10, 0.20, 0.16, 0.18, 0.12, 0.12, 0.12)

# One column per hair style. The cap is an ellipse around the skull; the face shows below the hair line
# v = line + slope |w| + bow w^2 with w = u - part, and within |u| < side; the drape falls behind the neck.
_STYLE = {
    #             receding short  fringe long   bun    pigtails afro
    "cap_width":  (0.08,   0.10,  0.13,  0.14,  0.06,  0.07,  0.36),
    "cap_top":    (0.03,   0.16,  0.16,  0.15,  0.12,  0.12,  0.46),
    "cap_bottom": (0.35,   0.30,  0.75,  0.95,  0.25,  0.25,  0.42),
    "line":       (-3.4,   -0.62, -0.44, -0.74, -0.66, -0.68, -0.62),
    "slope":      (0.0,    0.12,  0.0,   0.50,  0.10,  0.22,  0.0),
    "bow":        (6.8,    0.70,  0.10,  0.25,  0.80,  0.55,  0.75),
    "side":       (3.0,    3.0,   0.66,  0.70,  3.0,   3.0,   3.0),
    "jag":        (0.0,    0.026, 0.022, 0.0,   0.0,   0.0,   0.02),
    "ear":        (1.0,    1.0,   0.0,   0.0,   1.0,    1.0,   1.0),
    "part_share": (0.0,    0.8,   0.0,   1.0,   0.5,   0.6,   0.0),
    "bump":       (0.0,    0.014, 0.006, 0.010, 0.004, 0.008, 0.028),
    "bump_scale": (1.0,    1.3,   1.0,   1.0,   1.0,    1.0,   2.2),
    "drape":      (0.0,    0.0,   0.0,   1.0,   0.0,    0.0,   0.0),
    "bun":        (0.0,    0.0,   0.0,   0.0,   1.0,   1.0,   0.0),
    "bun_x":      (0.0,    0.0,   0.0,   0.0,   0.0,   1.04,  0.0),
    "bun_y":      (0.0,    0.0,   0.0,   0.0,   -1.20, 0.30,  0.0),
    "bun_a":      (0.3,    0.3,   0.3,   0.3,   0.33,  0.25,  0.3),
    "bun_b":      (0.3,    0.3,   0.3,   0.3,   0.28,  0.50,  0.3),
}  # fmt: skip


def as_seeds(seeds: Sequence[int] | Tensor) -> Tensor:
    """(B,) int64 from a sequence of ints or an integer tensor; ValueError for anything else."""
    if not isinstance(seeds, Tensor):
        seeds = list(seeds)
        bad = next((s for s in seeds if isinstance(s, bool | float) or not hasattr(s, "__index__")), None)
        if bad is not None:
            raise ValueError(f"expected integer seeds, got {bad!r} ({type(bad).__name__}): pass ints, e.g. range(16)")
        ints = [int(s) for s in seeds]
        if any(not -(1 << 63) <= s < 1 << 63 for s in ints):
            raise ValueError("expected seeds in [-2^63, 2^63), got a larger one: reduce it, e.g. seed % 2**63")
        return torch.tensor(ints, dtype=torch.int64)
    if seeds.dtype not in (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8) or seeds.ndim != 1:
        raise ValueError(
            f"expected seeds of shape (B,) and an integer dtype, got {tuple(seeds.shape)} and {seeds.dtype}: "
            "pass seeds.long().flatten() if that is what you mean"
        )
    return seeds.detach().cpu().long()


def mix(z: Tensor) -> Tensor:
    """The finaliser of splitmix64 on int64 (two's complement, wrapping): a bijection, one flipped bit flips half."""
    z = (z ^ (z >> 30 & (1 << 34) - 1)) * _MIX1
    z = (z ^ (z >> 27 & (1 << 37) - 1)) * _MIX2
    return z ^ (z >> 31 & (1 << 33) - 1)


def uniforms(seeds: Tensor) -> dict[str, Tensor]:
    """Every name of `RANGES` to its (B,) float64 draw."""
    bits = mix(mix(seeds)[:, None] + _GOLDEN * _KEYS)
    unit = (bits >> 11 & (1 << 53) - 1).double() * 2.0**-53
    return dict(zip(_NAMES, (_LOW + _SPAN * unit).unbind(1), strict=True))


def _pick(u: Tensor, odds: Sequence[float]) -> Tensor:
    edges = torch.tensor(odds, dtype=torch.float64).cumsum(0)[:-1]
    return torch.bucketize(u.contiguous(), edges, right=True)


def _table(rows: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def _hue(h: Tensor, value: Tensor, chroma: Tensor) -> Tensor:
    """(B, 3): a colour wheel around the grey `value`."""
    turns = h[:, None] + torch.tensor([0.0, -1 / 3, -2 / 3], dtype=torch.float64)
    return (value[:, None] + chroma[:, None] * torch.cos(2 * torch.pi * turns)).clamp(0.04, 0.96)


def parameters(seeds: Tensor) -> dict[str, Tensor]:
    """All parameters of the portraits `seeds` (B,), drawn and derived: (B,) or (B, 3), float64, int64 or bool.

    Derived in float64: what the vector units round differently in their tails does not survive the cast to float32.
    """
    p = uniforms(seeds)
    one = torch.ones_like(p["turn"])

    # Colours.
    place = p["skin_depth"] * (len(_SKIN) - 1)
    base = place.long().clamp(max=len(_SKIN) - 2)
    skin = torch.lerp(_table(_SKIN)[base], _table(_SKIN)[base + 1], (place - base)[:, None])
    tint = torch.tensor([0.02, 0.0, -0.03], dtype=torch.float64)
    p["skin_tone"] = (skin + p["skin_warmth"][:, None] * tint).clamp(0.05, 0.97)
    p["hair_colour"] = (_table(_HAIR)[_pick(p["hair_u"], _HAIR_ODDS)] * p["hair_shade"][:, None]).clamp(0.04, 0.92)
    p["iris_colour"] = (_table(_IRIS)[_pick(p["iris_u"], _IRIS_ODDS)] * p["iris_shade"][:, None]).clamp(0.05, 0.9)
    p["rim_colour"] = _table(_RIMS)[_pick(p["rim_u"], _RIM_ODDS)]
    light_cloth = p["clothes_value"]
    p["clothes_colour"] = _hue(
        p["clothes_hue"], 0.28 + 0.45 * light_cloth, 0.10 + 0.6 * light_cloth * (1 - light_cloth)
    )
    p["stripe_colour"] = _hue(p["stripe_hue"], 0.80 - 0.5 * light_cloth, 0.15 * one)
    value = 0.32 + 0.42 * p["sky_value"]
    p["sky_low"] = _hue(p["sky_hue"], value - 0.27, 0.20 * one)
    p["sky_high"] = _hue(p["sky_hue"] + p["sky_step"], value + 0.25, 0.16 * one)
    p["background"] = 0.5 * (p["sky_low"] + p["sky_high"])

    # Choices.
    style = _pick(p["hair_style_u"], _STYLE_ODDS)
    p["hair_style"] = style
    p.update({name: _table(column)[style] for name, column in _STYLE.items()})
    p["glasses"] = p["glasses_u"] < 0.35
    p["beard"] = (p["beard_u"] < 0.28) & (style != HAIR_STYLES.index("pigtails"))
    p["freckles"] = p["freckles_u"] < 0.22
    p["earrings"] = p["earrings_u"] < 0.3
    p["pattern"] = _pick(p["pattern_u"], (0.3, 0.3, 0.2, 0.2))  # plain, hoops, stripes, checks
    p["mouth_open"] = ((p["mouth_open_u"] - 0.55) / 0.45).clamp(min=0) * 0.75 + 0.25 * (p["mouth_open_u"] > 0.55)

    # A turned head: a feature at the angle f from the middle of the face stands at u = r sin(f + turn), and is
    # narrower by cos(f + turn) / cos f. Ears lie behind the axis and go the other way.
    angle = 0.30 * p["turn"]
    radius = p["face_width"] * 0.97
    p["eye_size"], p["eye_gap"] = p["eye_size_u"] * p["face_width"], p["eye_gap_u"] * p["face_width"]
    eye = torch.asin(p["eye_gap"] / radius)
    right, left = radius * torch.sin(angle + eye), radius * torch.sin(angle - eye)
    p["eye_mid"], p["eye_right"], p["eye_left"] = (right + left) / 2, (right - left) / 2, (right - left) / 2
    p["eye_width_right"] = p["eye_size"] * torch.cos(angle + eye) / torch.cos(eye)
    p["eye_width_left"] = p["eye_size"] * torch.cos(angle - eye) / torch.cos(eye)
    p["nose_mid"] = 1.15 * radius * torch.sin(angle)
    p["mouth_mid"] = 0.98 * radius * torch.sin(angle)
    p["brow_line"] = 0.55 * radius * torch.sin(angle)
    p["body_x"] = p["head_x"] - 1.25 * p["head_size"] * torch.sin(p["roll"]) + p["body_shift"]
    # Where the patches that hold a feature are centred, in the image.
    eyes, cos, sin = 0.02 + p["nod"], torch.cos(p["roll"]), torch.sin(p["roll"])
    for name, u, v in (
        ("right_eye", p["eye_mid"] + p["eye_right"], eyes - 0.03),
        ("left_eye", p["eye_mid"] - p["eye_right"], eyes - 0.03),
        ("nose", 0.5 * (p["eye_mid"] + p["nose_mid"]), eyes + 0.55 * p["nose_length"]),
        ("right_ear", p["face_width"] + 0.05 - 0.04 * p["turn"], 0.12),
        ("left_ear", -p["face_width"] - 0.05 - 0.04 * p["turn"], 0.12),
        ("brows", p["eye_mid"], eyes - p["eye_size"] * p["eye_round"] - p["brow_height"] - 0.03),
        ("glasses", p["eye_mid"], eyes + 0.02),
        ("mouth", p["mouth_mid"], p["mouth_height"] + 0.7 * p["nod"] + 0.07),
    ):
        p[name + "_x"] = p["head_x"] + p["head_size"] * (u * cos - v * sin)
        p[name + "_y"] = p["head_y"] + p["head_size"] * (u * sin + v * cos)
    p["ear_shift"] = -0.04 * p["turn"]
    return p
