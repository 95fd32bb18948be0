"""Where a stereo sound stands: constant-power pan from -1, all left, to 1, all right. Letters: B batch, T samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def panned(mono: Tensor, pan: Tensor) -> Tensor:
    """Sounds (B, T) at pans (B,) -> (B, 2, T), left and right, of the same power at every pan."""
    angle = (pan.clamp(-1, 1) + 1) * (math.pi / 4)
    return torch.stack((angle.cos(), angle.sin()), 1)[..., None] * mono[:, None]


def pan_of(stereo: Tensor) -> Tensor:
    """Sounds (..., 2, T) -> pans (...), the inverse of `panned`; NaN for silence."""
    left, right = stereo.float().square().mean(-1).sqrt().unbind(-1)
    pan = torch.atan2(right, left) * (4 / math.pi) - 1
    return torch.where(left + right > 0, pan, torch.nan)


def heard_pan(channels: Tensor, begin: int = 0, end: int | None = None) -> Tensor:
    """Pan (scalar) of the samples from ``begin`` to ``end`` of a file's channels (C, T).

    NaN for silence, and for what tells no place: other than two channels, or two equal ones, which is a mono recording in
    a stereo file.
    """
    if len(channels) != 2 or torch.equal(channels[0], channels[1]):
        return torch.tensor(torch.nan)
    return pan_of(channels[:, begin:end])


def known_pan(pan: Tensor) -> Tensor:
    """Pans (B,) -> (B, 2), each with 1 behind it, and 0 and 0 for NaN, which a feature store refuses."""
    known = torch.isfinite(pan)
    return torch.stack([torch.where(known, pan, 0.0), known.to(pan.dtype)], 1)


def from_known_pan(stored: Tensor) -> Tensor:
    """The inverse of `known_pan`."""
    return torch.where(stored[:, 1] > 0, stored[:, 0], torch.nan)
