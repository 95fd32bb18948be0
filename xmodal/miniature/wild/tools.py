"""What the wild kinds of sounds are made of beyond :mod:`xmodal.miniature.synth`: resonances, ringing modes, curves, voices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from xmodal.miniature.synth import SAMPLE_RATE, Rng, Wave, bank, decay, instants, phase, swell, tone

Kind = Callable[[float, Rng], Wave]  # an event of about so many seconds, mono, of any level


def between(rng: Rng, low: float, high: float) -> float:
    """A number whose logarithm is uniform: pitches and lengths are heard by their ratios."""
    return float(low * (high / low) ** rng.random())


def peak(wave: Wave) -> Wave:
    """Scale to unit peak; silence stays silence."""
    return (wave / np.float32(np.abs(wave).max() + 1e-9)).astype(np.float32)


def noise(count: int, low: float, high: float, rng: Rng, tilt: float = 0.0) -> Wave:
    """Noise between two frequencies in Hz, unit peak, with the gentle skirts of nature; ``tilt`` as of :func:`synth.noise`."""
    size = fast_length(count)
    hertz = np.maximum(np.arange(size // 2 + 1, dtype=np.float32) * (SAMPLE_RATE / size), 5)
    start = int(rng.integers(len(bank()) - len(hertz)))
    steep = float(rng.uniform(2, 5))
    gain = 1 / np.sqrt((1 + (low / hertz) ** steep) * (1 + (hertz / high) ** steep))
    if tilt:
        gain = gain * np.maximum(hertz, 20) ** (tilt / 2)
    return peak(np.fft.irfft(bank()[start : start + len(hertz)] * gain.astype(np.float32), size)[:count])


def resonate(wave: Wave, centres: Sequence[float], octaves: float = 0.25, floor: float = 0.05, tilt: float = 0.0) -> Wave:
    """Filter with resonances at ``centres`` (Hz) over a flat ``floor``; ``tilt`` is the slope of the power over frequency."""
    size = fast_length(len(wave))
    hertz = np.maximum(np.arange(size // 2 + 1) * (SAMPLE_RATE / size), 20)
    place = np.log2(hertz)
    gain = floor + sum(0.8**n * np.exp(-0.5 * ((place - np.log2(c)) / octaves) ** 2) for n, c in enumerate(centres))
    gain = gain * (hertz / 500) ** (tilt / 2) if tilt else gain
    return np.fft.irfft(np.fft.rfft(wave, size) * gain, size)[: len(wave)].astype(np.float32)


def fast_length(count: int) -> int:
    """A length near above that FFTs like."""
    step = 1 << max(5, count.bit_length() - 4)
    return -(-count // step) * step


def ringing(times: Wave, modes: Sequence[tuple[float, float, float]], attack: float = 0.001) -> Wave:
    """Modes (Hz, weight, seconds to 1/e), struck together; those above 7.8 kHz are left out."""
    wave = np.zeros_like(times)
    for hertz, weight, seconds in modes:
        if hertz < 7800:
            wave += np.float32(weight) * np.sin(np.float32(2 * np.pi * hertz) * times) * np.exp(-times / np.float32(seconds))
    return wave * swell(times, attack, 0.01)


def curve(times: Wave, *values: float) -> Wave:
    """A smooth line through ``values``, evenly spaced over the event."""
    turn = times / times[-1] * (len(values) - 1)
    whole = np.minimum(turn.astype(np.int64), len(values) - 2)
    part = 0.5 - 0.5 * np.cos(np.pi * (turn - whole))
    points = np.asarray(values, np.float32)
    return (points[whole] * (1 - part) + points[whole + 1] * part).astype(np.float32)


def wander(times: Wave, rate: float, rng: Rng) -> Wave:
    """A slow random line of about unit height, with ``rate`` turns a second."""
    count = max(3, int(times[-1] * rate) + 2)
    return curve(times, *rng.uniform(-1, 1, count))


def throat(
    times: Wave, pitch: Wave, first: Sequence[float], last: Sequence[float], rng: Rng, breath: float, rough: float, tilt: float
) -> Wave:
    """A voice: a buzz of harmonics and breath under formants (Hz) that move from ``first`` to ``last``.

    ``rough`` is how much the glottis jitters and halves its period; ``tilt`` the slope of the harmonics.
    """
    shaken = pitch * (1 + 0.04 * rough * noise(len(times), 10, 400, rng))
    weights = np.arange(1, 61.0) ** -tilt
    buzz = tone(shaken.astype(np.float32), times, weights)
    if rough > 0.3:
        buzz = buzz * (1 + np.float32(rough) * np.sin(np.pi * np.cumsum(shaken) / SAMPLE_RATE).astype(np.float32))
    source = buzz + np.float32(breath) * noise(len(times), 200, 7500, rng)
    turn = curve(times, 0.0, float(rng.uniform(0.4, 1)), 1.0)
    width = float(rng.uniform(0.16, 0.3))
    return resonate(source, first, width, 0.03) * (1 - turn) + resonate(source, last, width, 0.03) * turn


def train_of(times: Wave, rate: Wave | float, sharp: float) -> Wave:
    """Pulses at ``rate`` a second that rise at once and fall as exp(-sharp * turn)."""
    moving = rate if isinstance(rate, np.ndarray) else np.full_like(times, rate)
    return np.exp(-np.float32(sharp) * (phase(moving.astype(np.float32), times) % 1)).astype(np.float32)


def strokes(seconds: float, starts: Sequence[float], stroke: Callable[[int], Wave], levels: Rng | None = None) -> Wave:
    """Lay ``stroke(number)`` at every start (seconds); what runs over the end is cut off."""
    wave = np.zeros(max(64, int(seconds * SAMPLE_RATE)), np.float32)
    for number, start in enumerate(starts):
        first = int(start * SAMPLE_RATE)
        if first >= len(wave):
            break
        part = stroke(number)[: len(wave) - first]
        wave[first : first + len(part)] += part * np.float32(1 if levels is None else levels.uniform(0.5, 1))
    return wave


def times_of(seconds: float, gap: float, rng: Rng, swing: float = 0.05) -> list[float]:
    """Starts of a rhythm with ``gap`` seconds between strokes, each off by up to ``swing`` of it."""
    return [max(0.0, (n + rng.uniform(-swing, swing)) * gap) for n in range(max(1, int(seconds / gap)))]


def click(rng: Rng, low: float, high: float, seconds: float) -> Wave:
    """A short burst of noise between two frequencies."""
    times = instants(6 * seconds)
    return noise(len(times), low, high, rng) * decay(times, seconds, 0.0005)
