"""From a clean sound to what a stranger's recording of it is like: room, microphone, background, level, recorder, codec."""

from __future__ import annotations

import numpy as np

from xmodal.miniature.studio import SAMPLES
from xmodal.miniature.synth import SAMPLE_RATE, Rng, Wave
from xmodal.miniature.wild.tools import between, fast_length, noise, peak, wander


def stretched(wave: Wave, ratio: float) -> Wave:
    """Play ``ratio`` times as fast: shorter and higher."""
    count = max(64, int(len(wave) / ratio))
    return np.interp(np.arange(count) * ratio, np.arange(len(wave)), wave).astype(np.float32)


def capture(wave: Wave, rng: Rng) -> Wave:
    """Pass a sound through a random room, microphone, background, recorder and codec: of equal length, peak below 1."""
    wave = peak(wave - wave.mean())
    if rng.random() < 0.75:  # else a studio's
        wave = _background(peak(_room_and_microphone(wave, rng)), rng)
    chance = rng.random()
    if chance < 0.06:
        wave = np.tanh(peak(wave) * np.float32(between(rng, 1.2, 6)))
    elif chance < 0.12:
        wave = np.clip(peak(wave) * np.float32(between(rng, 1.1, 4)), -1, 1)
    elif chance < 0.18:
        wave = _coarse(peak(wave), rng)
    elif chance < 0.32:
        wave = _codec(wave, rng)
    sign = rng.choice((-1, 1))
    return (peak(wave) * np.float32(sign * 0.99 * 10 ** (-rng.uniform(0, 36) / 20))).astype(np.float32)


def _room_and_microphone(wave: Wave, rng: Rng) -> Wave:
    """Reverberation whose treble dies first, an uneven response, and band limits: one FFT each way."""
    size = fast_length(len(wave) + (SAMPLE_RATE if rng.random() < 0.35 else 0))
    hertz = np.maximum(np.arange(size // 2 + 1) * (SAMPLE_RATE / size), 10)
    octaves = np.log2(hertz / 30)
    decibels = np.interp(octaves, np.arange(9), rng.normal(0, rng.uniform(0.5, 5), 9)) + rng.normal(0, 1) * (octaves - 4)
    if rng.random() < 0.2:
        decibels -= rng.uniform(6, 24) * np.clip(np.log2(between(rng, 60, 700) / hertz), 0, 4)
    if rng.random() < 0.25:
        decibels -= rng.uniform(15, 60) * np.clip(np.log2(hertz / between(rng, 2200, 7500)), 0, 2)
    gain = 10 ** (np.clip(decibels, -90, 24) / 20)
    if size > len(wave) + SAMPLE_RATE // 2:
        gain = gain * np.fft.rfft(_impulse(rng), size)
    return np.fft.irfft(np.fft.rfft(wave, size) * gain, size)[: len(wave)].astype(np.float32)


def _impulse(rng: Rng) -> Wave:
    """Direct sound, a few early reflections, and two tails of noise, of which the bright one dies sooner."""
    count = int(between(rng, 0.06, 0.95) * SAMPLE_RATE)
    times = np.arange(count, dtype=np.float32) / count
    tail = noise(count, 100, 1500, rng) * np.exp(-6 * times) + noise(count, 800, 7500, rng) * np.exp(-rng.uniform(8, 20) * times)
    tail = tail * np.clip(np.arange(count) / (0.004 * SAMPLE_RATE), 0, 1)
    tail *= np.float32(between(rng, 0.05, 1.2) / np.sqrt(np.square(tail).sum() + 1e-9))
    for _ in range(int(rng.integers(0, 6))):
        tail[int(rng.integers(min(count, 600)))] += np.float32(rng.uniform(-0.4, 0.4))
    tail[0] += 1
    return tail.astype(np.float32)


def _background(wave: Wave, rng: Rng) -> Wave:
    power = np.sqrt(np.square(wave).mean() + 1e-12)
    if rng.random() < 0.55:
        hiss = noise(len(wave), between(rng, 10, 300), between(rng, 2500, 8000), rng, rng.uniform(-2.2, 0.4))
        hiss = hiss * (1 + rng.uniform(0, 0.4) * wander(np.arange(len(wave)) / SAMPLE_RATE, 2, rng))
        level = power * 10 ** (-rng.uniform(12, 60) / 20)
        wave = wave + hiss * np.float32(level / np.sqrt(np.square(hiss).mean() + 1e-12))
    if rng.random() < 0.1:
        times = np.arange(len(wave), dtype=np.float32) / SAMPLE_RATE
        hum = sum(np.sin(2 * np.pi * rng.choice((50, 60)) * k * times) / k for k in (1, 2, 3, 4))
        wave = wave + np.float32(power * 10 ** (-rng.uniform(12, 40) / 20)) * hum.astype(np.float32)
    return wave.astype(np.float32)


def _coarse(wave: Wave, rng: Rng) -> Wave:
    """Few bits, linear or mu-law, and sometimes a low sampling rate without a filter."""
    step = int(rng.integers(1, 4))
    held = np.repeat(wave[::step], step)[: len(wave)]
    if rng.random() < 0.5:
        steps = 2 ** rng.integers(4, 8)
        return (np.round(held * steps) / steps).astype(np.float32)
    compressed = np.round(np.sign(held) * np.log1p(255 * np.abs(held)) / np.log(256) * 127) / 127
    return (np.sign(compressed) * np.expm1(np.abs(compressed) * np.log(256)) / 255).astype(np.float32)


def _codec(wave: Wave, rng: Rng) -> Wave:
    """What a lossy codec at a low rate does: bins far below the loudest of their frame are gone, and the top of the band."""
    frame, hop = 512, 256
    count = -(-len(wave) // hop) + 1
    padded = np.pad(wave, (hop, count * hop + frame - len(wave)))
    curtain = np.sin(np.pi * (np.arange(frame) + 0.5) / frame).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(padded, frame)[: count * hop + 1 : hop] * curtain
    spectra = np.fft.rfft(frames, axis=1)
    loud = np.abs(spectra)
    slope = np.linspace(0, rng.uniform(0, 25), loud.shape[1])
    spectra[loud < loud.max(1, keepdims=True) * 10 ** (-(rng.uniform(28, 55) - slope) / 20)] = 0
    spectra[:, int(rng.uniform(110, 257)) :] = 0
    made = np.zeros(len(padded) + frame, np.float32)
    for number, piece in enumerate(np.fft.irfft(spectra, frame, axis=1) * curtain):
        made[number * hop : number * hop + frame] += piece
    return made[hop : hop + len(wave)]


def framed(wave: Wave, rng: Rng, samples: int = SAMPLES) -> Wave:
    """A clip of ``samples`` as a listener cuts it: a part of a longer sound; a shorter one with silence behind it, or around."""
    if len(wave) >= samples:
        start = int(rng.integers(len(wave) - samples + 1))
        return wave[start : start + samples].copy()
    start = 0 if rng.random() < 0.75 else int(rng.integers(samples - len(wave) + 1))
    return np.pad(wave, (start, samples - start - len(wave)))
