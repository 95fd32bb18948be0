"""Kaldi's filter bank, the front end of BEATs and ImageBind: 128 mel bands, frames of 25 ms every 10 ms, at 16 kHz.

Letters: B batch, T samples, F frames.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

SAMPLE_RATE = 16_000
MEL_BINS = 128
WINDOW, HOP, FFT = 400, 160, 512  # samples: 25 ms, 10 ms, the next power of two


def _mel(hertz: np.ndarray) -> np.ndarray:
    return 1127.0 * np.log1p(hertz / 700.0)


@lru_cache(maxsize=2)
def _filters(window: str) -> tuple[np.ndarray, np.ndarray]:
    """Window (400,) and triangles (257, 128), even in mel from 20 Hz to 8 kHz; numpy, so no torch mode can taint them."""
    curve = np.hanning(WINDOW) if window == "hanning" else np.hanning(WINDOW) ** 0.85
    low, high = _mel(np.array([20.0, SAMPLE_RATE / 2]))
    edges = np.linspace(low, high, MEL_BINS + 2)
    bins = _mel(np.arange(FFT // 2 + 1) * SAMPLE_RATE / FFT)[:, None]
    rise = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    triangles = np.clip(np.minimum(rise, fall), 0, None)
    triangles[-1] = 0  # Kaldi leaves the Nyquist bin out
    return curve.astype(np.float32), triangles.astype(np.float32)


def fbank(waveform: Tensor, window: str = "povey") -> Tensor:
    """Log mel energies (B, F, 128) of 16 kHz waveforms (B, T), F = (T - 400) // 160 + 1; float32 even under autocast.

    ``window`` is "povey" or "hanning". Kaldi's own waveforms are whole numbers of 16 bits: scale by 2^15 for its values.
    """
    kind = waveform.device.type
    with torch.autocast(kind if torch.amp.is_autocast_available(kind) else "cpu", enabled=False):
        curve, triangles = (torch.from_numpy(array).to(waveform.device) for array in _filters(window))
        frames = waveform.float().unfold(-1, WINDOW, HOP)
        frames = frames - frames.mean(-1, keepdim=True)
        previous = torch.cat((frames[..., :1], frames[..., :-1]), -1)
        spectrum = torch.view_as_real(torch.fft.rfft((frames - 0.97 * previous) * curve, FFT)).square().sum(-1)
        return (spectrum @ triangles).clamp(min=torch.finfo(torch.float32).eps).log()
