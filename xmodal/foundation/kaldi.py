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


def filters(mel_bins: int, fft: int, sample_rate: int, low: float, high: float) -> np.ndarray:
    """Triangles (fft // 2 + 1, mel_bins), even in mel from ``low`` to ``high`` Hz.

    Step by step in float32, as torchaudio makes them: made in float64 and rounded they are off by up to 1e-5, which the
    logarithm of a weak bin beside a strong one turns into 3e-3.
    """
    options: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
    with torch.inference_mode(False), torch.no_grad():
        first, last = (1127.0 * math.log(1.0 + hertz / 700.0) for hertz in (low, high))
        step = (last - first) / (mel_bins + 1)
        edges = first + torch.arange(mel_bins + 2, **options) * step
        bins = 1127.0 * (1.0 + sample_rate / fft * torch.arange(fft // 2, **options) / 700.0).log()
        return np.pad(triangles(edges.numpy(), bins.numpy()), ((0, 1), (0, 0)))  # Kaldi leaves the Nyquist bin out


@lru_cache(maxsize=2)
def _filters(window: str) -> tuple[np.ndarray, np.ndarray]:
    """Window (400,) and triangles (257, 128) from 20 Hz to 8 kHz; numpy arrays, so no torch mode can taint them."""
    with torch.inference_mode(False), torch.no_grad():
        curve = torch.hann_window(WINDOW, periodic=False, dtype=torch.float32, device="cpu")
        bank = filters(MEL_BINS, FFT, SAMPLE_RATE, 20.0, SAMPLE_RATE / 2)
        return (curve if window == "hanning" else curve.pow(0.85)).numpy(), bank


def fbank(waveform: Tensor, window: str = "povey") -> Tensor:
    """Log mel energies (B, F, 128) of 16 kHz waveforms (B, T), F = (T - 400) // 160 + 1; float32 even under autocast.

    ``window`` is "povey" or "hanning". Kaldi's own waveforms are whole numbers of 16 bits: scale by 2^15 for its values.
    """
    kind = waveform.device.type
    with torch.autocast(kind if torch.amp.is_autocast_available(kind) else "cpu", enabled=False):
        curve, bank = (torch.from_numpy(array).to(waveform.device) for array in _filters(window))
        frames = waveform.float().unfold(-1, WINDOW, HOP)
        frames = frames - frames.mean(-1, keepdim=True)
        previous = torch.cat((frames[..., :1], frames[..., :-1]), -1)
        spectrum = torch.view_as_real(torch.fft.rfft((frames - 0.97 * previous) * curve, FFT)).square().sum(-1)
        return (spectrum @ bank).clamp(min=torch.finfo(torch.float32).eps).log()
