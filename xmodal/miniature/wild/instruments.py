"""Several kinds of what is struck, plucked or beats: bells, drums, guitars, clocks, hearts. Each function is a kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xmodal.miniature.synth import SAMPLE_RATE, Rng, Wave, decay, instants, sine, swell
from xmodal.miniature.wild.tools import between, click, curve, noise, peak, resonate, ringing, strokes, times_of

CHURCH = ((0.5, 0.6, 1.6), (1, 1, 1.0), (1.19, 0.8, 0.9), (1.5, 0.4, 0.7), (2, 0.9, 0.8), (2.5, 0.3, 0.4), (2.67, 0.4, 0.4),
          (3, 0.4, 0.35), (4.1, 0.35, 0.25), (5.4, 0.25, 0.18), (6.8, 0.15, 0.1))  # fmt: skip
CUP = ((1, 1, 1.0), (2.32, 0.5, 0.7), (2.76, 0.5, 0.6), (4.25, 0.4, 0.4), (5.4, 0.4, 0.35), (8.1, 0.2, 0.2))
BAR = ((1, 1, 1.0), (2.76, 0.35, 0.5), (5.4, 0.15, 0.25), (8.93, 0.08, 0.1))


def bell_stroke(base: float, ring: float, shape: Sequence[tuple[float, float, float]], seconds: float, rng: Rng) -> Wave:
    """One stroke of a bell of ``base`` Hz whose partials are ``shape``: ratio, weight, and share of ``ring`` seconds to 1/e."""
    modes = []
    for ratio, weight, length in shape:
        hertz, level = base * ratio * rng.uniform(0.985, 1.015), weight * rng.uniform(0.3, 1.4)
        split = rng.uniform(0, 2.5)  # a bell is never quite round, and beats
        modes += [(hertz, level, ring * length), (hertz + split, level * rng.uniform(0, 0.8), ring * length)]
    return peak(ringing(instants(seconds), modes))


def church_bell(seconds: float, rng: Rng) -> Wave:
    base, ring, gap = between(rng, 180, 900), between(rng, 0.5, 2.5), between(rng, 0.6, 2.5)
    once = bell_stroke(base, ring, CHURCH, seconds, rng)
    knock = peak(click(rng, 300, 5000, 0.006)) * np.float32(rng.uniform(0, 0.4))
    once[: len(knock)] += knock[: len(once)]
    return strokes(seconds, times_of(seconds, gap, rng), lambda number: once, rng)


def hand_bell(seconds: float, rng: Rng) -> Wave:
    """Struck or shaken: at a desk, on a door, on a bicycle, on a ship."""
    base, ring = between(rng, 650, 3800), between(rng, 0.08, 1.2)
    gap = between(rng, 0.12, 1.5)
    once = bell_stroke(base, ring, (CUP, BAR, CHURCH[1:])[int(rng.integers(3))], min(seconds, 1.8), rng)
    return strokes(seconds, times_of(seconds, gap, rng, 0.2), lambda number: once, rng)


def chime(seconds: float, rng: Rng) -> Wave:
    """Tubes and bars in a row of notes: ding dong, glockenspiel, a clock tower."""
    base, ring = between(rng, 250, 2000), between(rng, 0.3, 1.6)
    notes = base * 2 ** (rng.choice((0, 2, 4, 5, 7, 9, 12, -3, -5), 4) / 12)
    made = [bell_stroke(float(note), ring, (BAR, CHURCH)[int(rng.integers(2))], seconds, rng) for note in notes[:3]]
    return strokes(seconds, times_of(seconds, between(rng, 0.25, 1.0), rng), lambda number: made[number % 3], rng)


def cow_bell(seconds: float, rng: Rng) -> Wave:
    base, ring = between(rng, 350, 1100), between(rng, 0.03, 0.2)
    shape = ((1, 1, 1.0), (1.5, 0.9, 0.9), (2.3, 0.5, 0.6), (3.6, 0.5, 0.5), (4.7, 0.4, 0.3))
    once = bell_stroke(base, ring, shape, 0.8, rng)
    return strokes(seconds, times_of(seconds, between(rng, 0.15, 0.9), rng, 0.2), lambda number: once, rng)


def _kick(rng: Rng) -> Wave:
    times = instants(between(rng, 0.15, 0.8))
    base, depth = between(rng, 38, 110), rng.uniform(0.5, 4)
    skin = sine((base * (1 + depth * np.exp(-times / rng.uniform(0.01, 0.06)))).astype(np.float32), times)
    return skin * decay(times, times[-1] / 3.5, 0.001) + np.float32(rng.uniform(0.05, 0.6)) * _onto(
        click(rng, 200, 6000, 0.005), times
    )


def _onto(wave: Wave, times: Wave) -> Wave:
    return np.pad(wave, (0, max(0, len(times) - len(wave))))[: len(times)]


def _snare(rng: Rng) -> Wave:
    times = instants(between(rng, 0.12, 0.5))
    base, ring = between(rng, 150, 330), between(rng, 0.02, 0.12)
    body = ringing(times, [(base, 1, ring), (base * 1.6, 0.7, ring * 0.7), (base * 2.2, 0.4, ring * 0.5)])
    wires = noise(len(times), between(rng, 400, 2000), 7600, rng) * decay(times, times[-1] / rng.uniform(2.5, 6), 0.001)
    return body + np.float32(rng.uniform(0.4, 2)) * wires


def _tom(rng: Rng) -> Wave:
    times = instants(between(rng, 0.2, 1.6))
    base, ring = between(rng, 55, 260), times[-1] / rng.uniform(3, 6)
    bend = 1 + rng.uniform(0, 0.5) * np.exp(-times / 0.04)
    wave = np.zeros_like(times)
    for ratio, weight in ((1, 1), (1.59, 0.5), (2.14, 0.35), (2.65, 0.2), (3.6, 0.1)):  # of a round skin
        wave += (
            np.float32(weight * rng.uniform(0.3, 1.2))
            * sine((base * ratio * bend).astype(np.float32), times)
            * np.exp(-times * ratio / ring)
        )
    return wave * swell(times, 0.001, 0.02) + np.float32(rng.uniform(0.1, 0.9)) * _onto(
        click(rng, 200, 5000, between(rng, 0.003, 0.03)), times
    )


def _hand_drum(rng: Rng) -> Wave:
    times = instants(between(rng, 0.08, 0.5))
    base = between(rng, 140, 520)
    modes = [
        (base * r, w * rng.uniform(0.3, 1.3), times[-1] / rng.uniform(3, 8))
        for r, w in ((1, 1), (1.6, 0.4), (2.1, 0.5), (3.0, 0.3), (4.1, 0.2))
    ]
    return ringing(times, modes) + np.float32(rng.uniform(0.1, 1)) * _onto(
        click(rng, 400, 7000, between(rng, 0.002, 0.015)), times
    )


def drum_strokes(seconds: float, rng: Rng) -> Wave:
    made = peak((_kick, _snare, _tom, _hand_drum)[int(rng.integers(4))](rng))
    return strokes(seconds, times_of(seconds, between(rng, 0.12, 1.6), rng, 0.06), lambda number: made, rng)


def beat(seconds: float, rng: Rng) -> Wave:
    """A drummer: kick, snare, hats or toms in a pattern."""
    step = between(rng, 0.09, 0.28)
    voices = [peak(_kick(rng)), peak(_snare(rng)), peak((_tom, _hand_drum)[int(rng.integers(2))](rng)),
              peak(click(rng, 4500, 7900, between(rng, 0.01, 0.06))) * np.float32(0.4)]  # fmt: skip
    order = rng.choice(4, 8, p=(0.3, 0.25, 0.2, 0.25))
    return strokes(seconds, times_of(seconds, step, rng, 0.03), lambda number: voices[order[number % 8]], rng)


def drum_roll(seconds: float, rng: Rng) -> Wave:
    made = [peak((_snare, _tom, _hand_drum)[int(rng.integers(3))](rng))] * 2
    wave = strokes(seconds, times_of(seconds, 1 / between(rng, 9, 26), rng, 0.15), lambda number: made[number % 2], rng)
    return wave * curve(instants(seconds)[: len(wave)], rng.uniform(0.2, 1), 1.0, rng.uniform(0.3, 1))[: len(wave)]


def _string(base: float, seconds: float, ring: float, bright: float, pluck: float, rng: Rng) -> Wave:
    times = instants(seconds)
    k = np.arange(1, max(2, min(22, int(7600 / base))) + 1)
    stiff = 10 ** rng.uniform(-4.5, -3.5)
    hertz = base * k * np.sqrt(1 + stiff * k * k)
    weights = np.abs(np.sin(np.pi * k * pluck)) / k**bright * rng.uniform(0.6, 1.2, len(k))
    waves = np.sin(np.float32(2 * np.pi) * np.outer(hertz.astype(np.float32), times))
    falls = np.exp(-np.outer((1 + 0.25 * k).astype(np.float32) / ring, times))
    return (weights.astype(np.float32) @ (waves * falls)) * swell(times, 0.002, 0.03)


def guitar_notes(seconds: float, rng: Rng) -> Wave:
    """Single plucked notes: nylon, steel, bass, electric."""
    base, gap, ring = between(rng, 62, 420), between(rng, 0.15, 1.6), between(rng, 0.25, 2.5)
    bright, pluck = rng.uniform(0.5, 1.6), rng.uniform(0.08, 0.35)
    scale = base * 2 ** (rng.choice((0, 2, 3, 4, 5, 7, 9, 10, 12), 3) / 12)
    made = [peak(_string(float(note), min(seconds, 1.8), ring, bright, pluck, rng)) for note in scale]
    for note in made:
        finger = peak(click(rng, 500, 5000, 0.004)) * np.float32(rng.uniform(0, 0.25))
        note[: len(finger)] += finger
    return _body(strokes(seconds, times_of(seconds, gap, rng), lambda number: made[number % 3], rng), rng)


def _body(wave: Wave, rng: Rng) -> Wave:
    return resonate(wave, (between(rng, 90, 130), between(rng, 180, 260), between(rng, 350, 600)), 0.35, rng.uniform(0.3, 1))


def guitar_chords(seconds: float, rng: Rng) -> Wave:
    base, gap, spread = between(rng, 78, 220), between(rng, 0.18, 1.6), between(rng, 0.004, 0.045)
    third = (3, 4)[int(rng.integers(2))]
    notes = base * 2 ** (np.array((0, 7, 12, 12 + third, 19, 24)[: int(rng.integers(3, 7))]) / 12)
    ring, bright, pluck = between(rng, 0.4, 2.5), rng.uniform(0.5, 1.4), rng.uniform(0.1, 0.3)
    strings = [peak(_string(float(note), min(seconds, 1.6), ring, bright, pluck, rng)) for note in notes]
    once = strokes(min(seconds, 1.9), [n * spread for n in range(len(strings))], lambda n: strings[n])
    return _body(strokes(seconds, times_of(seconds, gap, rng), lambda number: once, rng), rng)


def electric_guitar(seconds: float, rng: Rng) -> Wave:
    """Overdriven notes and power chords through a cabinet."""
    base, gap, ring = between(rng, 70, 330), between(rng, 0.2, 2.5), between(rng, 0.8, 4)
    chord = ((1.0,), (1.0, 1.5), (1.0, 1.5, 2.0))[int(rng.integers(3))]
    once = sum(_string(base * ratio, seconds, ring, 0.8, rng.uniform(0.1, 0.3), rng) for ratio in chord)
    wave = strokes(seconds, times_of(seconds, gap, rng), lambda number: once, rng)  # type: ignore[arg-type,return-value]
    wave = np.tanh(peak(wave) * np.float32(between(rng, 2, 60))).astype(np.float32)
    return resonate(wave, (120, 500, between(rng, 1800, 3200)), 0.8, 0.04)


def ticking(seconds: float, rng: Rng) -> Wave:
    """Watches, alarm clocks, wall clocks, pendulums: small hard knocks, of one kind or in pairs."""
    rate, pair = between(rng, 1, 9), rng.random() < 0.6
    knocks = []
    for _ in range(2):
        times, base = instants(0.12), between(rng, 700, 6500)
        modes = [
            (base * r, rng.uniform(0.2, 1), between(rng, 0.001, 0.015))
            for r in (1, rng.uniform(1.2, 2.2), rng.uniform(2.3, 3.8), 0.45)
        ]
        knock = ringing(times, modes, 0.0003) + np.float32(rng.uniform(0.1, 1.5)) * _onto(
            click(rng, between(rng, 300, 3000), 7900, between(rng, 0.0008, 0.005)), times
        )
        again = int(rng.uniform(0.003, 0.05) * SAMPLE_RATE)  # the escapement knocks twice or thrice
        knock[again:] += np.float32(rng.uniform(0, 0.7)) * knock[: len(knock) - again]
        knocks.append(peak(knock))
    swing = rng.uniform(0, 0.25) if pair else 0.0
    starts = [(n + (swing if n % 2 else 0)) / rate + 0.02 for n in range(max(1, int(seconds * rate)))]
    levels = 1.0, rng.uniform(0.5, 1)
    return strokes(seconds, starts, lambda n: knocks[n % 2 if pair else 0] * np.float32(levels[n % 2]))


def pendulum(seconds: float, rng: Rng) -> Wave:
    """A large clock: woody tick and tock with a body."""
    gap, body = between(rng, 0.3, 1.1), between(rng, 180, 900)
    made = []
    for ratio in (1.0, rng.uniform(0.7, 1.3)):
        times = instants(0.25)
        modes = [
            (body * ratio * r, w, between(rng, 0.008, 0.05)) for r, w in ((1, 1), (1.9, 0.6), (3.1, 0.5), (5.2, 0.4), (7.7, 0.3))
        ]
        made.append(peak(ringing(times, modes, 0.0005) + _onto(click(rng, 1500, 7900, 0.003), times)))
    return strokes(seconds, times_of(seconds, gap, rng, 0.02), lambda n: made[n % 2], rng)


def heartbeats(seconds: float, rng: Rng) -> Wave:
    """Lub-dub as a stethoscope, a film or a scanner gives it."""
    beat_gap = 60 / between(rng, 45, 150)
    apart, base, swish = min(rng.uniform(0.14, 0.38), 0.45 * beat_gap), between(rng, 28, 130), rng.random() < 0.2
    made = []
    for ratio, level in ((1.0, 1.0), (rng.uniform(0.9, 1.6), rng.uniform(0.3, 1.0))):
        times = instants(between(rng, 0.08, 0.3))
        thump = sine((base * ratio * (1 + rng.uniform(0, 0.8) * np.exp(-times / 0.03))).astype(np.float32), times)
        thump = thump + np.float32(rng.uniform(0, 1.0)) * noise(len(times), 20, between(rng, 100, 500), rng)
        if swish:
            thump = noise(len(times), 100, 1200, rng)
        made.append(thump * decay(times, times[-1] / 4, 0.006) * np.float32(level))
    starts = []
    for n in range(int(seconds / beat_gap) + 1):
        starts += [(n + rng.uniform(-0.03, 0.03)) * beat_gap + 0.02, n * beat_gap + apart]
    return strokes(seconds, [max(0.0, s) for s in starts], lambda n: made[n % 2])
