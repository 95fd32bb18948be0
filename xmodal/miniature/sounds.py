"""The sounds of the miniature world: the same eighteen things, synthesised with plain DSP so that a person names them by ear.

Each thing is one small function ``(seconds, pitch, rng) -> mono event``. ``render`` repeats the event ``count`` times,
puts it into a room, through an equaliser, a recorder and sometimes a codec, and pans it. What is drawn from ``rng`` is
private: tempo, timbre, noise, room, level. It is drawn widely, so that a real recording has a fair chance.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from xmodal.miniature.studio import SAMPLES, pan, record, through_room
from xmodal.miniature.synth import SAMPLE_RATE, Rng, Wave, decay, formants, instants, noise, sine, swell, tone

SECONDS = 2.5
PITCH = {"small": 1.5, "medium": 1.0, "large": 0.67}
PAN = {"left": -0.75, "centre": 0.0, "right": 0.75}


def bell(seconds: float, pitch: float, rng: Rng) -> Wave:
    times = instants(seconds)
    base = 560 * pitch
    wave = np.zeros_like(times)
    ring = rng.uniform(0.25, 0.7)
    for ratio, weight in (
        (0.5, 0.5),
        (1, 1),
        (1.19, 0.7),
        (1.5, 0.4),
        (2, 0.8),
        (2.66, 0.5),
        (3.01, 0.4),
        (4.1, 0.3),
        (5.4, 0.2),
    ):
        if base * ratio < 7600:
            shade = weight * rng.uniform(0.5, 1.3)
            wave += np.float32(shade) * sine(base * ratio * rng.uniform(0.997, 1.003), times) * np.exp(-times * ratio**0.7 / ring)
    return wave * swell(times, 0.002, 0.05)


def drum(seconds: float, pitch: float, rng: Rng) -> Wave:
    times = instants(min(seconds, 0.45))
    fall = rng.uniform(0.02, 0.05)
    skin = sine((115 * pitch * (1 + rng.uniform(0.6, 1.4) * np.exp(-times / fall))).astype(np.float32), times)
    wave = skin * decay(times, rng.uniform(0.07, 0.16), 0.001)
    click = noise(len(times), 300 * pitch, 4500, rng) * decay(times, rng.uniform(0.008, 0.04), 0.001)
    return wave + np.float32(rng.uniform(0.3, 0.9)) * click


def bird(seconds: float, pitch: float, rng: Rng) -> Wave:
    wave = np.zeros(int(seconds * SAMPLE_RATE), np.float32)
    start, base = 0.0, 2900 * pitch
    direction, depth, rate = rng.choice((-1.0, 1.0)), rng.uniform(0.12, 0.35), rng.uniform(18, 45)
    while True:
        length = rng.uniform(0.05, 0.11)
        if start + length > min(seconds, 0.6):
            return wave
        times = instants(length)
        sweep = base * (1 + depth * direction * (times / length - 0.5)) * (1 + 0.05 * np.sin(2 * np.pi * rate * times))
        syllable = tone(np.minimum(sweep, 7300).astype(np.float32), times, (1, rng.uniform(0, 0.2))) * swell(times, 0.012, 0.02)
        first = int(start * SAMPLE_RATE)
        part = syllable[: len(wave) - first]
        wave[first : first + len(part)] += part
        start += length + rng.uniform(0.015, 0.04)


def dog(seconds: float, pitch: float, rng: Rng) -> Wave:
    times = instants(min(seconds, rng.uniform(0.16, 0.28)))
    turn = times / times[-1]
    base = 330 * pitch
    glide = base * (0.75 + 0.5 * np.sin(np.pi * np.minimum(1, turn * 1.25)) - 0.25 * turn)
    voice = tone(
        glide.astype(np.float32), times, formants(base, (750 * pitch**0.6, 1500 * pitch**0.6), 0.4, rng.uniform(0.1, 0.5))
    )
    rough = 1 + rng.uniform(0.1, 0.4) * noise(len(times), 20, 120, rng)
    breath = noise(len(times), 500, 3500, rng) * np.float32(rng.uniform(0.15, 0.4))
    return (voice * rough + breath) * swell(times, 0.012, 0.6 * times[-1]) ** 1.3


def cat(seconds: float, pitch: float, rng: Rng) -> Wave:
    times = instants(min(seconds, rng.uniform(0.5, 0.95)))
    turn = times / times[-1]
    base = 520 * pitch
    contour = base * (0.85 + rng.uniform(0.25, 0.45) * np.sin(np.pi * turn**0.7) - 0.12 * turn)
    contour = (contour * (1 + 0.012 * np.sin(2 * np.pi * rng.uniform(5, 7) * times))).astype(np.float32)
    closed = tone(contour, times, formants(base, (400, 2500 * pitch**0.4), 0.3, 0.4))
    opened = tone(contour, times, formants(base, (950 * pitch**0.4, 1600 * pitch**0.4), 0.35, 0.1))
    opening = np.sin(np.pi * np.clip(turn * 1.15 - 0.1, 0, 1)).astype(np.float32)
    return (closed * (1 - opening) * 0.6 + opened * opening) * swell(times, 0.08, 0.2)


def frog(seconds: float, pitch: float, rng: Rng) -> Wave:
    parts = []
    rate, centre = rng.uniform(38, 60), 620 * pitch
    for length, rise in ((rng.uniform(0.1, 0.15), 0.9), (rng.uniform(0.14, 0.22), 1.15)):
        times = instants(length)
        pulses = np.exp(-((times * rate) % 1) * rng.uniform(3, 5)).astype(np.float32)
        croak = tone(np.full_like(times, centre * rise), times, (1, 0.7, 0.5, 0.25, rng.uniform(0.05, 0.3)))
        parts += [croak * pulses * swell(times, 0.02, 0.03), np.zeros(int(rng.uniform(0.02, 0.05) * SAMPLE_RATE), np.float32)]
    return np.concatenate(parts[:3])[: int(seconds * SAMPLE_RATE)]


def bee(seconds: float, pitch: float, rng: Rng) -> Wave:
    times = instants(seconds)
    drift = (
        1
        + 0.05 * np.sin(2 * np.pi * rng.uniform(1, 3) * times + rng.uniform(0, 6))
        + 0.015 * np.sin(2 * np.pi * rng.uniform(9, 14) * times)
    )
    buzz = tone((205 * pitch * drift).astype(np.float32), times, np.arange(1, 30) ** -rng.uniform(0.5, 0.9))
    wobble = 1 + rng.uniform(0.15, 0.4) * np.sin(2 * np.pi * rng.uniform(4, 9) * times)
    return buzz * wobble.astype(np.float32) * swell(times, 0.12, 0.15)


def clock(seconds: float, pitch: float, rng: Rng) -> Wave:
    gap = min(rng.uniform(0.2, 0.34), seconds - 0.08)
    wave = np.zeros(int((gap + 0.07) * SAMPLE_RATE), np.float32)
    times = instants(0.06)
    body, ring = rng.uniform(0.003, 0.007), rng.uniform(0.006, 0.012)
    for start, ratio, level in ((0.0, 1.0, 1.0), (gap, 0.78, 0.85)):
        click = sine(2300.0 * pitch * ratio, times) * decay(times, ring, 0.0005)
        click += 0.6 * sine(3900.0 * min(pitch, 1.3) * ratio, times) * decay(times, body, 0.0005)
        click += 0.5 * noise(len(times), 1200 * pitch, 6500, rng) * decay(times, 0.002, 0.0005)
        first = int(start * SAMPLE_RATE)
        wave[first : first + len(click)] += np.float32(level) * click
    return wave


def siren(seconds: float, pitch: float, rng: Rng) -> Wave:
    times = instants(seconds)
    shape = 0.5 - 0.5 * np.cos(2 * np.pi * times / times[-1])
    sweep = 520 * pitch * (1 + rng.uniform(0.9, 1.3) * shape ** rng.uniform(0.7, 1.2))
    weights = np.where(np.arange(9) % 2 == 0, 1, rng.uniform(0, 0.4)) / np.arange(1, 10) ** rng.uniform(0.9, 1.6)
    return tone(sweep.astype(np.float32), times, weights) * swell(times, 0.05, 0.08)


def train(seconds: float, pitch: float, rng: Rng) -> Wave:
    whistle = instants(0.5 * seconds)
    bend = (1 - 0.06 * np.exp(-whistle / 0.05)).astype(np.float32)
    chord = sum(tone((f * pitch) * bend, whistle, (1, 0.35, 0.2, 0.1)) for f in (480.0, 575.0, 720.0))
    chord = chord / 3 + 0.15 * noise(len(whistle), 700 * pitch, 5000, rng)
    rest = instants(0.5 * seconds)
    rate = rng.uniform(6.5, 9.5)
    chuffs = noise(len(rest), 250 * pitch, 2600 * pitch, rng, -1) * np.exp(-((rest * rate) % 1) * rng.uniform(3, 5))
    return np.concatenate([chord * swell(whistle, 0.04, 0.06), np.float32(0.9) * chuffs * swell(rest, 0.01, 0.05)]).astype(
        np.float32
    )


def telephone(seconds: float, pitch: float, rng: Rng) -> Wave:
    times = instants(min(seconds, rng.uniform(0.55, 1.1)))
    rate = rng.uniform(17, 24)
    if rng.random() < 0.6:  # two gongs and a clapper
        strokes = np.exp(-((times * rate) % 1) * 2.2).astype(np.float32)
        gongs = sum(w * sine(f * pitch, times) for f, w in ((1320.0, 1.0), (1650.0, 0.9), (2750.0, 0.5), (3900.0, 0.3)))
        return gongs * strokes * swell(times, 0.01, 0.08)
    high = ((times * rate) % 1 < 0.5).astype(np.float32)
    trill = tone((1250 * pitch * (1 + 0.28 * high)).astype(np.float32), times, (1, 0.1, 0.35, 0.05, 0.15))
    return trill * swell(times, 0.01, 0.02)


def guitar(seconds: float, pitch: float, rng: Rng) -> Wave:
    times = instants(min(seconds, 1.3))
    wave = np.zeros_like(times)
    pluck, ring = rng.uniform(0.12, 0.28), rng.uniform(0.3, 0.7)
    notes = (1.0, 1.5, 2.0, 2.52)[: int(rng.choice((1, 3, 4)))]
    for number, note in enumerate(notes):
        base, delay = 165 * pitch * note, int(number * rng.uniform(0.012, 0.03) * SAMPLE_RATE)
        string = times[: len(times) - delay]
        for k in range(1, min(10, int(7000 / base)) + 1):
            shade = np.sin(np.pi * k * pluck) / k**0.8
            wave[delay:] += (
                np.float32(shade) * sine(base * k * (1 + 2e-4 * k * k), string) * np.exp(-string * (1 + 0.35 * k) / ring)
            )
    return wave * swell(times, 0.003, 0.05)


def heart(seconds: float, pitch: float, rng: Rng) -> Wave:
    gap = min(rng.uniform(0.2, 0.3), seconds - 0.2)
    wave = np.zeros(int((gap + 0.19) * SAMPLE_RATE), np.float32)
    times = instants(0.18)
    for start, ratio, level in ((0.0, 1.0, 1.0), (gap, 1.25, rng.uniform(0.6, 0.9))):
        beat = tone((62 * pitch * ratio * (1 + 0.4 * np.exp(-times / 0.03))).astype(np.float32), times, (1, 0.6, 0.25))
        first = int(start * SAMPLE_RATE)
        wave[first : first + len(beat)] += np.float32(level) * beat * decay(times, rng.uniform(0.035, 0.06), 0.012)
    return wave


def _drops(count: int, rate: float, length: float, low: float, high: float, rng: Rng, power: float) -> Wave:
    """``rate`` short noise bursts per second, of random level (uniform to the ``power``)."""
    drop = noise(512, low, high, rng) * np.exp(-np.arange(512, dtype=np.float32) / (length * SAMPLE_RATE))
    impulses = np.zeros(count, np.float32)
    number = max(2, int(rate * count / SAMPLE_RATE))
    impulses[rng.integers(0, count, number)] = rng.choice((-1, 1), number) * rng.random(number) ** power
    size = 1 << (count + 511).bit_length()
    return np.fft.irfft(np.fft.rfft(impulses, size) * np.fft.rfft(drop, size), size)[:count].astype(np.float32)


def fire(seconds: float, pitch: float, rng: Rng) -> Wave:
    times = instants(seconds)
    crackle = _drops(len(times), rng.uniform(22, 45), rng.uniform(0.0015, 0.004), 900 * pitch, 5000 * pitch, rng, 3)
    roar = noise(len(times), 70 * pitch, 420 * pitch, rng, -1) * np.float32(rng.uniform(0.12, 0.3))
    return (crackle / np.float32(np.abs(crackle).max() + 1e-6) + roar) * swell(times, 0.03, 0.05)


def rain(seconds: float, pitch: float, rng: Rng) -> Wave:
    times = instants(seconds)
    hiss = noise(len(times), 1500 * pitch, min(7600, 5600 * pitch), rng)
    drops = _drops(len(times), rng.uniform(250, 600), rng.uniform(0.001, 0.003), 1200 * pitch, 6500, rng, 1.5)
    drops /= np.float32(np.abs(drops).max() + 1e-6)
    return (hiss + np.float32(rng.uniform(0.4, 1.2)) * drops) * swell(times, 0.05, 0.06)


def thunder(seconds: float, pitch: float, rng: Rng) -> Wave:
    times = instants(seconds)
    rolls = 1 + rng.uniform(0.3, 0.7) * noise(len(times), 2, 9, rng)
    rumble = noise(len(times), 35 * pitch, 190 * pitch, rng, -1) * rolls * np.exp(-times / (rng.uniform(0.3, 0.6) * seconds))
    crack = noise(len(times), 200 * pitch, 3500 * pitch, rng, -1) * np.exp(-times / rng.uniform(0.03, 0.09))
    return (rumble + np.float32(rng.uniform(0.4, 1.0)) * crack) * swell(times, 0.004, 0.3 * seconds)


def wave(seconds: float, pitch: float, rng: Rng) -> Wave:
    times = instants(seconds)
    peak = rng.uniform(0.4, 0.65)
    turn = times / times[-1]
    swell = np.where(turn < peak, np.sin(0.5 * np.pi * turn / peak) ** 2, np.cos(0.5 * np.pi * (turn - peak) / (1 - peak)) ** 2)
    body = noise(len(times), 150 * pitch, 900 * pitch, rng, -1)
    foam = noise(len(times), 700 * pitch, 3300 * pitch, rng, -1) * swell**2
    return ((body * (0.25 + 0.75 * swell) + np.float32(rng.uniform(0.6, 1.2)) * foam) * swell).astype(np.float32)


def car(seconds: float, pitch: float, rng: Rng) -> Wave:
    times = instants(min(seconds, rng.uniform(0.3, 0.8)))
    still = np.ones_like(times)
    weights = np.arange(1, 18) ** -rng.uniform(0.3, 0.7)
    horns = tone(405 * pitch * still, times, weights) + tone(510 * pitch * rng.uniform(0.985, 1.015) * still, times, weights)
    return horns * swell(times, 0.015, 0.03)


SOUNDS: dict[str, Callable[[float, float, Rng], Wave]] = {
    f.__name__: f
    for f in (bell, drum, bird, dog, cat, frog, bee, clock, siren)
    + (train, telephone, guitar, heart, fire, rain, thunder, wave, car)
}
# The shortest event that is still itself, in seconds; a slot leaves at least this much.
_GAP = 0.16


def render(thing: str, size: str, place: str, count: int, rng: Rng) -> np.ndarray:
    """Synthesise a clip: float32 (2, 40000) in [-1, 1], stereo, 16 kHz; equal generators give equal clips.

    Args:
        thing: one of :data:`SOUNDS`.
        size: ``small``, ``medium`` or ``large``: pitch 1.5, 1 or 0.67, give or take 4 %.
        place: ``left``, ``centre`` or ``right``: constant-power pan and up to half a millisecond between the channels.
        count: 1 to 3 repetitions, separated by silence.
        rng: draws all that is private to the sound.

    Raises:
        ValueError: a value is none of these.
    """
    for name, value, known in (
        ("thing", thing, SOUNDS),
        ("size", size, PITCH),
        ("place", place, PAN),
        ("count", count, (1, 2, 3)),
    ):
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}: expected one of {', '.join(map(str, known))}")
    mono = _repeat(SOUNDS[thing], PITCH[size] * rng.uniform(0.96, 1.04), count, rng)
    return record(pan(through_room(mono, rng), PAN[place], rng), rng)


def _repeat(event: Callable[[float, float, Rng], Wave], pitch: float, count: int, rng: Rng) -> Wave:
    """Lay ``count`` events on a line of 2.5 s, evenly but for a little swing."""
    slot = (SECONDS - 0.1) / count * (1.0 if count == 1 else rng.uniform(0.82, 1.0))
    length = min(slot - _GAP, rng.uniform(0.9, 1.9)) if count == 1 else (slot - _GAP) * rng.uniform(0.85, 1.0)
    sounding = event(length, pitch, rng).astype(np.float32)
    sounding /= np.float32(np.abs(sounding).max() + 1e-9)
    mono = np.zeros(SAMPLES, np.float32)
    room = SECONDS - (slot * (count - 1) + len(sounding) / SAMPLE_RATE)
    start = rng.uniform(0.02, max(0.021, min(room - 0.02, 0.9)))
    for number in range(count):
        first = int((start + number * slot + (rng.uniform(0, 0.03) if number else 0)) * SAMPLE_RATE)
        part = sounding[: SAMPLES - first] * np.float32(rng.uniform(0.75, 1.0))
        mono[first : first + len(part)] += part
    return mono
