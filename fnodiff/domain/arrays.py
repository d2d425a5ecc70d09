"""Devices without float64."""

from __future__ import annotations

import torch
from torch import Tensor

WITHOUT_DOUBLE = ("mps",)
"""Kinds of devices without float64."""


def has_double(device: torch.device) -> bool:
    """Whether a device computes in float64."""
    return device.type not in WITHOUT_DOUBLE


def in_double(x: Tensor) -> Tensor:
    """x in float64: where it is, or on the CPU if its device has none."""
    return x.double() if has_double(x.device) else x.cpu().double()


def on_device(x: Tensor, device: torch.device) -> Tensor:
    """x, such as times in float64, on a device, or on the CPU if that has no float64."""
    return x.to(device) if has_double(device) else x.cpu()


def moved(x: Tensor, device: torch.device) -> Tensor:
    """x on a device, as float32 if it is float64 and the device has none."""
    return (x.float() if x.dtype == torch.float64 and not has_double(device) else x).to(device)
