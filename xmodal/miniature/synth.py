"""Oscillators, noise and envelopes: what the sounds of the miniature world are made of.

Everything is float32 and mono; frequencies are in Hz and lengths in seconds unless a name says samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

SAMPLE_RATE = 16_000

Rng = np.random.Generator
Wave = np.ndarray  # float32, mono

_TABLE = 2048


def instants(seconds: float) -> Wave:
    """Return the times of the samples of an event, in seconds."""
    return np.arange(max(64, int(seconds * SAMPLE_RATE)), dtype=np.float32) / SAMPLE_RATE


def phase(frequency: Wave | float, times: Wave) -> Wave:
    """Turns (not radians) of an oscillator at ``frequency`` Hz; exact over the length of an event."""
    if isinstance(frequency, float):
        return (frequency * times).astype(np.float32)
    return (np.cumsum(frequency, dtype=np.float64) / SAMPLE_RATE % 1.0).astype(np.float32)


def sine(frequency: Wave | float, times: Wave) -> Wave:
    """Return a sine of constant or moving frequency."""
    return np.sin(np.float32(2 * np.pi) * phase(frequency, times))


def tone(frequency: Wave, times: Wave, weights: Sequence[float] | np.ndarray) -> Wave:
    """A harmonic tone by wavetable; harmonics above 7.6 kHz are left out, so nothing aliases audibly."""
    weights = np.asarray(weights, np.float32)
    weights = weights[: max(1, int(7600 / float(np.max(frequency))))]
    turn = np.arange(_TABLE, dtype=np.float32) * np.float32(2 * np.pi / _TABLE)
    table = (weights[:, None] * np.sin(np.arange(1, len(weights) + 1)[:, None] * turn)).sum(0).astype(np.float32)
    return table[(phase(frequency, times) % 1 * _TABLE).astype(np.int32) % _TABLE] / np.float32(np.abs(table).max() + 1e-6)


@cache
def bank() -> np.ndarray:
    """Complex Gaussian numbers to slice noise from: drawing them afresh would be the dearest part of a clip."""
    rng = np.random.default_rng(20230505)
    return (rng.standard_normal(1 << 17) + 1j * rng.standard_normal(1 << 17)).astype(np.complex64)


def noise(count: int, low: float, high: float, rng: Rng, tilt: float = 0.0) -> Wave:
    """Noise between two frequencies in Hz, unit peak; ``tilt`` -1 is pink, -2 brown (power over frequency)."""
    bins = count // 2 + 1
    hertz = np.arange(bins, dtype=np.float32) * (SAMPLE_RATE / count)
    start = int(rng.integers(len(bank()) - bins))
    edge = np.clip((hertz - low) / (0.3 * low + 20) + 1, 0, 1) * np.clip((high - hertz) / (0.3 * high) + 1, 0, 1)
    if tilt:
        edge = edge * np.maximum(hertz, 20) ** (tilt / 2)
    wave = np.fft.irfft(bank()[start : start + bins] * edge.astype(np.float32), count).astype(np.float32)
    return wave / np.float32(np.abs(wave).max() + 1e-9)


def swell(times: Wave, attack: float, release: float) -> Wave:
    """Rise in ``attack`` seconds, fall in the last ``release`` seconds."""
    return np.clip(np.minimum(times / attack, (times[-1] - times) / release), 0, 1).astype(np.float32)


def decay(times: Wave, seconds: float, attack: float = 0.002) -> Wave:
    """Fall to 1/e in ``seconds``, after a short rise; the very end is faded out."""
    return np.exp(-times / np.float32(seconds)) * swell(times, attack, 0.02)


def formants(fundamental: float, centres: Sequence[float], width: float = 0.35, tilt: float = 0.7) -> np.ndarray:
    """Weights of the harmonics of ``fundamental`` (Hz) under resonances at ``centres`` (Hz)."""
    hertz = fundamental * np.arange(1, max(2, int(7600 / fundamental)) + 1)
    peaks = sum(np.exp(-0.5 * (np.log2(hertz / centre) / width) ** 2) for centre in centres)
    return (peaks + 0.04) * (hertz / hertz[0]) ** -tilt
