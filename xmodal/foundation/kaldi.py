"""Kaldi's filter bank, the front end of BEATs and ImageBind: 128 mel bands, frames of 25 ms every 10 ms, at 16 kHz.

Letters: B batch, T samples, F frames.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmodal.foundation.mel import triangles

SAMPLE_RATE = 16_000
MEL_BINS = 128
WINDOW, HOP, FFT = 400, 160, 512  # samples: 25 ms, 10 ms, the next power of two


@lru_cache(maxsize=2)
def _filters(window: str) -> tuple[np.ndarray, np.ndarray]:
    """Window (400,) and triangles (257, 128), even in mel from 20 Hz to 8 kHz, step by step in float32 as torchaudio makes them.

    Made in float64 and rounded they are off by up to 1e-5, which the logarithm of a weak bin beside a strong one turns into
    3e-3. Kept as numpy arrays, so no torch mode can taint them.
    """
    options: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
    with torch.inference_mode(False), torch.no_grad():
        curve = torch.hann_window(WINDOW, periodic=False, **options)
        low, high = (1127.0 * math.log(1.0 + hertz / 700.0) for hertz in (20.0, SAMPLE_RATE / 2))
        step = (high - low) / (MEL_BINS + 1)
        edges = low + torch.arange(MEL_BINS + 2, **options) * step
        bins = 1127.0 * (1.0 + SAMPLE_RATE / FFT * torch.arange(FFT // 2, **options) / 700.0).log()
        filters = np.pad(triangles(edges.numpy(), bins.numpy()), ((0, 1), (0, 0)))  # Kaldi leaves the Nyquist bin out
        return (curve if window == "hanning" else curve.pow(0.85)).numpy(), filters


def fbank(waveform: Tensor, window: str = "povey") -> Tensor:
    """Log mel energies (B, F, 128) of 16 kHz waveforms (B, T), F = (T - 400) // 160 + 1; float32 even under autocast.

    ``window`` is "povey" or "hanning". Kaldi's own waveforms are whole numbers of 16 bits: scale by 2^15 for its values.
    """
    kind = waveform.device.type
    with torch.autocast(kind if torch.amp.is_autocast_available(kind) else "cpu", enabled=False):
        curve, filters = (torch.from_numpy(array).to(waveform.device) for array in _filters(window))
        frames = waveform.float().unfold(-1, WINDOW, HOP)
        frames = frames - frames.mean(-1, keepdim=True)
        previous = torch.cat((frames[..., :1], frames[..., :-1]), -1)
        spectrum = torch.view_as_real(torch.fft.rfft((frames - 0.97 * previous) * curve, FFT)).square().sum(-1)
        return (spectrum @ filters).clamp(min=torch.finfo(torch.float32).eps).log()
