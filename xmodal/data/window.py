"""Explicit, deterministic choices of a stretch of sound: never a hidden random crop."""

from __future__ import annotations

import torch
from torch import Tensor

SHORT = ("loop", "pad")


def window(waveform: Tensor, length: int, short: str = "pad") -> Tensor:
    """Cut or extend a waveform (T,) to ``length`` samples.

    A longer sound gives its loudest window (of windows that start every tenth of ``length``; the first of equals). A
    shorter one is repeated from its start (``loop``) or followed by silence (``pad``).

    Raises:
        ValueError: ``short`` is neither.
    """
    if short not in SHORT:
        raise ValueError(f"short must be one of {', '.join(SHORT)}, not {short!r}")
    total = waveform.shape[-1]
    if total < length:
        if short == "loop":
            return waveform.repeat(-(-length // total))[:length]
        return torch.nn.functional.pad(waveform, (0, length - total))
    start = window_start(waveform, length)
    return waveform[start : start + length]


def window_start(waveform: Tensor, length: int) -> int:
    """Where the window of `window` begins, in samples; 0 for a waveform (T,) that is not longer."""
    total = waveform.shape[-1]
    if total <= length:
        return 0
    starts = torch.arange(0, total - length + 1, max(1, length // 10))
    energy = torch.cat([torch.zeros(1, dtype=torch.float64), waveform.double().square().cumsum(-1)])
    return int(starts[(energy[starts + length] - energy[starts]).argmax()])
