"""From a dry sound to a recording: room, equaliser, pan, background noise, recorder and codec."""

from __future__ import annotations

from functools import cache

import numpy as np

from xmodal.miniature.synth import SAMPLE_RATE, Rng, Wave, bank, noise

SAMPLES = 40_000
_FFT = 46_080  # 2^10 * 45: fast, and leaves 0.38 s for the tail of the room


@cache
def _octaves() -> np.ndarray:
    """Position of every FFT bin between 60 Hz (0) and 8 kHz (6), in octaves above 60 Hz."""
    hertz = np.arange(_FFT // 2 + 1, dtype=np.float32) * (SAMPLE_RATE / _FFT)
    return np.clip(np.log2(np.maximum(hertz, 1) / 60), 0, 7).astype(np.float32)


def through_room(mono: Wave, rng: Rng) -> Wave:
    """Reverberation (often none), a random smooth equaliser, sometimes a band limit: one FFT each way."""
    spectrum = np.fft.rfft(mono, _FFT)
    decibels = np.interp(_octaves(), np.arange(8), rng.uniform(-5, 5, 8)).astype(np.float32)
    if rng.random() < 0.2:  # the top of the band is cut off, as codecs and telephones do
        decibels = decibels - np.float32(30) * np.clip(_octaves() - np.log2(rng.uniform(3600, 7000) / 60), 0, 1)
    spectrum = spectrum * np.exp(decibels * np.float32(np.log(10) / 20))
    if rng.random() < 0.55:
        length = int(rng.uniform(0.05, 0.35) * SAMPLE_RATE)
        offset = int(rng.integers(1 << 16))
        tail = bank()[offset : offset + length].real * np.exp(-np.arange(length, dtype=np.float32) * (5.0 / length))
        tail *= np.float32(rng.uniform(0.05, 0.45) / np.sqrt(np.square(tail).sum()))
        tail[0] += 1
        spectrum = spectrum * np.fft.rfft(tail, _FFT)
    return np.fft.irfft(spectrum, _FFT)[:SAMPLES].astype(np.float32)


def pan(mono: Wave, pan: float, rng: Rng) -> np.ndarray:
    """Constant-power pan with jitter, and the delay of the farther ear: (2, T)."""
    pan = float(np.clip(pan + rng.uniform(-0.12, 0.12), -0.95, 0.95))
    angle = (pan + 1) * np.pi / 4
    delay = int(abs(pan) * 8)
    far = np.concatenate([np.zeros(delay, np.float32), mono[: len(mono) - delay]])
    left, right = (mono, far) if pan < 0 else (far, mono)
    return np.stack([left * np.float32(np.cos(angle)), right * np.float32(np.sin(angle))])


@cache
def _hiss() -> tuple[np.ndarray, ...]:
    """Long stretches of white, pink and brown noise and of mains hum, unit power."""
    rng = np.random.default_rng(9309)
    noises = [noise(1 << 17, 30, 7900, rng, tilt) for tilt in (0.0, -1.0, -2.0)]
    times = np.arange(1 << 17, dtype=np.float32) / SAMPLE_RATE
    hum = sum(np.sin(2 * np.pi * 50 * k * times) / k for k in (1, 2, 3, 5)).astype(np.float32)
    return tuple((wave / np.sqrt(np.square(wave).mean())).astype(np.float32) for wave in (*noises, hum))


def record(stereo: np.ndarray, rng: Rng) -> np.ndarray:
    """Background noise, level, now and then an overdriven or coarse recorder."""
    stereo /= np.float32(np.abs(stereo).max() + 1e-9)
    if rng.random() < 0.8:
        power = np.square(stereo).mean()
        level = np.float32(np.sqrt(power) * 10 ** (-rng.uniform(10, 60) / 20))
        noise = _hiss()[int(rng.choice(4, p=(0.35, 0.35, 0.2, 0.1)))]
        starts = rng.integers(0, (1 << 17) - SAMPLES, 2)
        stereo = stereo + level * np.stack([noise[start : start + SAMPLES] for start in starts])
    chance = rng.random()
    if chance < 0.12:
        stereo = np.tanh(stereo * np.float32(rng.uniform(1.5, 4)))
    elif chance < 0.18:
        stereo = np.clip(stereo * np.float32(rng.uniform(1.2, 2.5)), -1, 1)
    elif chance < 0.26:  # 8-bit mu-law
        compressed = np.sign(stereo) * np.log1p(255 * np.minimum(np.abs(stereo), 1)) / np.float32(np.log(256))
        coarse = np.round(compressed * 127) / 127
        stereo = np.sign(coarse) * np.expm1(np.abs(coarse) * np.float32(np.log(256))) / 255
    gain = 10 ** (-rng.uniform(0, 20) / 20) / (np.abs(stereo).max() + 1e-9)
    return (stereo * np.float32(gain)).astype(np.float32)
