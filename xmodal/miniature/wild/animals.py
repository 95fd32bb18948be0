"""Several kinds of every animal of the world. Each function is a kind: ``(seconds, rng) -> mono event``."""

from __future__ import annotations

import numpy as np

from xmodal.miniature.synth import Rng, Wave, instants, sine, swell, tone
from xmodal.miniature.wild.tools import between, curve, noise, peak, resonate, strokes, throat, times_of, train_of, wander


def bark(seconds: float, rng: Rng) -> Wave:
    """One to many barks: a noisy burst whose pitch rises and falls, under formants that fall with the closing jaw."""
    size = between(rng, 0.6, 2.0)  # of the animal: small ones are higher
    base, length = between(rng, 170, 420) * size**0.8, between(rng, 0.08, 0.32)
    rise, fall, breath = rng.uniform(1.05, 1.8), rng.uniform(0.5, 0.95), between(rng, 0.1, 1.6)
    rough, tilt = rng.uniform(0.1, 1), rng.uniform(0.2, 1.0)

    def once(number: int) -> Wave:
        times = instants(length * rng.uniform(0.85, 1.15))
        turn = base * rng.uniform(0.95, 1.05)
        pitch = curve(times, 0.8 * turn, rise * turn, turn, fall * turn)
        opened, closed = (np.array((560, 1250, 2700, 4200)) * size**0.5 * rng.uniform(0.9, 1.15, 4) for _ in range(2))
        wave = throat(times, pitch, opened * 1.25, closed * 0.8, rng, breath, rough, tilt)
        return peak(wave * swell(times, between(rng, 0.004, 0.03), rng.uniform(0.4, 0.8) * times[-1]) ** 1.4)

    gap = between(rng, 0.24, 0.9) + length
    return strokes(seconds, times_of(seconds, gap, rng, 0.12), once, rng)


def yap(seconds: float, rng: Rng) -> Wave:
    """A small dog: short, high, close together."""
    base = between(rng, 480, 1200)

    def once(number: int) -> Wave:
        times = instants(between(rng, 0.05, 0.15))
        pitch = curve(times, base, base * rng.uniform(1.2, 1.7), base * rng.uniform(0.6, 0.9))
        formants = np.array((1100, 2300, 4300)) * rng.uniform(0.8, 1.25, 3)
        return peak(
            throat(times, pitch, formants, formants * 0.85, rng, rng.uniform(0.1, 0.8), 0.3, 0.3) * swell(times, 0.006, 0.05)
        )

    return strokes(seconds, times_of(seconds, between(rng, 0.17, 0.6), rng, 0.15), once, rng)


def growl(seconds: float, rng: Rng) -> Wave:
    times = instants(seconds)
    pitch = between(rng, 55, 120) * (1 + 0.12 * wander(times, 3, rng))
    voice = throat(times, pitch, (450, 1100, 2500), (600, 1350, 2600), rng, rng.uniform(0.2, 0.7), 0.9, rng.uniform(0.3, 0.8))
    return voice * (0.7 + 0.3 * wander(times, 6, rng)) * swell(times, 0.15, 0.25)


def howl(seconds: float, rng: Rng) -> Wave:
    times = instants(max(seconds, 1.0))
    base = between(rng, 280, 700)
    pitch = curve(times, 0.7 * base, base * 1.05, base, base * 0.98, 0.75 * base) * (1 + 0.008 * np.sin(2 * np.pi * 5.5 * times))
    return throat(times, pitch.astype(np.float32), (500, 1000), (650, 1100), rng, 0.06, 0.05, 1.1) * swell(times, 0.15, 0.3)


def meow(seconds: float, rng: Rng) -> Wave:
    """The mouth opens from m to a and closes to w: the formants rise and fall again, the pitch with them."""
    base, size = between(rng, 260, 900), between(rng, 0.8, 1.35)
    length = min(seconds, between(rng, 0.3, 1.3))
    contour = rng.uniform(0.75, 1), rng.uniform(1.05, 1.5), rng.uniform(0.95, 1.4), rng.uniform(0.6, 1)
    rough, breath, tilt = rng.uniform(0, 0.35), between(rng, 0.02, 0.3), rng.uniform(0.3, 1.1)

    def once(number: int) -> Wave:
        times = instants(length)
        pitch = base * curve(times, *contour) * (1 + rng.uniform(0, 0.015) * np.sin(2 * np.pi * rng.uniform(4, 8) * times))
        m, a, w = np.array((350, 1800, 3200)) * size, np.array((1000, 1900, 3600)) * size, np.array((500, 1100, 3000)) * size
        first = throat(times, pitch.astype(np.float32), m, a, rng, breath, rough, tilt)
        second = throat(times, pitch.astype(np.float32), a, w, rng, breath, rough, tilt)
        turn = curve(times, 0.0, *(0.0, 1.0) if rng.random() < 0.5 else (1.0,), 1.0)
        return peak((first * (1 - turn) + second * turn) * swell(times, rng.uniform(0.02, 0.15), rng.uniform(0.08, 0.3)))

    return strokes(seconds, times_of(seconds, length + between(rng, 0.2, 1.2), rng), once, rng)


def yowl(seconds: float, rng: Rng) -> Wave:
    times = instants(seconds)
    base = between(rng, 300, 750)
    pitch = base * (1 + 0.2 * wander(times, 2.5, rng))
    first, last = np.array((750, 1500, 3100)), np.array((1050, 2000, 3500)) * rng.uniform(0.85, 1.2)
    return throat(times, pitch, first, last, rng, rng.uniform(0.05, 0.4), rng.uniform(0.1, 0.8), 0.4) * swell(times, 0.1, 0.15)


def purr(seconds: float, rng: Rng) -> Wave:
    times = instants(seconds)
    rate = (between(rng, 20, 32) * (1 + 0.06 * wander(times, 2, rng))).astype(np.float32)
    pulses = train_of(times, rate, rng.uniform(3, 7))
    wave = resonate(noise(len(times), 40, 1800, rng, -1) * pulses, (110, 260, 600), 0.5, 0.02)
    return wave * (0.65 + 0.35 * np.sin(2 * np.pi * rng.uniform(0.3, 0.8) * times + rng.uniform(0, 6))).astype(np.float32)


def ribbit(seconds: float, rng: Rng) -> Wave:
    """Two-part calls of a tree frog: fast pulses under two resonances, the second part rising."""
    rate, low = between(rng, 28, 110), between(rng, 350, 1300)
    second = rng.uniform(1.7, 3.2)

    def once(number: int) -> Wave:
        parts = []
        for ratio, length in ((1.0, rng.uniform(0.06, 0.16)), (rng.uniform(1.0, 1.35), rng.uniform(0.08, 0.26))):
            times = instants(length)
            pulses = train_of(times, rate * ratio**0.5, rng.uniform(3, 9))
            source = pulses * (tone((low / 3 * ratio * curve(times, 0.95, 1.1)).astype(np.float32), times, np.ones(20))
                               + 0.3 * noise(len(times), 200, 6000, rng))  # fmt: skip
            parts.append(peak(resonate(source, (low * ratio, low * ratio * second), 0.18, 0.02) * swell(times, 0.015, 0.03)))
            parts.append(np.zeros(int(rng.uniform(0.0, 0.05) * 16000), np.float32))
        return np.concatenate(parts[: 3 if rng.random() < 0.7 else 1])

    return strokes(seconds, times_of(seconds, between(rng, 0.3, 1.0), rng, 0.1), once, rng)


def croak(seconds: float, rng: Rng) -> Wave:
    """One long creaking call: separate pulses that one nearly counts."""
    rate, centre, length = between(rng, 14, 70), between(rng, 300, 1800), between(rng, 0.2, 0.9)
    sharp, bend = rng.uniform(2, 12), rng.uniform(0.8, 1.3)

    def once(number: int) -> Wave:
        times = instants(length * rng.uniform(0.8, 1.2))
        source = train_of(times, rate * curve(times, 1, bend), sharp) * noise(len(times), 100, 6000, rng)
        hum = train_of(times, rate * curve(times, 1, bend), sharp) * tone(
            centre * 0.5 * curve(times, 0.95, bend**0.4), times, np.ones(9)
        )
        wave = resonate(source * np.float32(rng.uniform(0.1, 1)) + hum, (centre, 2.1 * centre), 0.25, 0.02)
        return peak(wave * swell(times, 0.03, 0.08))

    return strokes(seconds, times_of(seconds, length + between(rng, 0.15, 0.8), rng), once, rng)


def bullfrog(seconds: float, rng: Rng) -> Wave:
    base, length = between(rng, 85, 200), between(rng, 0.3, 0.9)

    def once(number: int) -> Wave:
        times = instants(length)
        wave = tone(base * curve(times, 0.9, 1.05, 0.95), times, np.arange(1, 16) ** -0.4) * (
            1 + 0.5 * np.sin(2 * np.pi * 25 * times)
        )
        return peak(resonate(wave.astype(np.float32), (2.2 * base, 6.5 * base), 0.4, 0.05) * swell(times, 0.08, 0.15))

    return strokes(seconds, times_of(seconds, length + between(rng, 0.2, 0.8), rng), once, rng)


def pond(seconds: float, rng: Rng) -> Wave:
    """A chorus: many frogs of one or two kinds, near and far."""
    callers = [(ribbit, croak, bullfrog, peeper)[int(rng.integers(4))] for _ in range(int(rng.integers(2, 5)))]
    return sum(np.float32(rng.uniform(0.2, 1)) * peak(_whole(caller, seconds, rng)) for caller in callers)  # type: ignore[return-value]


def _whole(kind: object, seconds: float, rng: Rng) -> Wave:
    wave = kind(seconds, rng)  # type: ignore[operator]
    return np.pad(wave, (0, max(0, int(seconds * 16000) - len(wave))))[: int(seconds * 16000)]


def peeper(seconds: float, rng: Rng) -> Wave:
    base, length, rate = between(rng, 1100, 3400), between(rng, 0.04, 0.25), between(rng, 40, 140)

    def once(number: int) -> Wave:
        times = instants(length)
        return (
            tone(base * curve(times, 0.93, 1.03), times, (1, 0.25, 0.1))
            * train_of(times, rate, rng.uniform(1, 4))
            * swell(times, 0.01, 0.03)
        )

    return strokes(seconds, times_of(seconds, length + between(rng, 0.06, 0.5), rng, 0.15), once, rng)


def buzz(seconds: float, rng: Rng) -> Wave:
    """A bee or a fly that comes and goes: the beat of its wings is a sawtooth that wavers."""
    times = instants(seconds)
    base = between(rng, 95, 330)
    pitch = base * (1 + 0.08 * wander(times, rng.uniform(1, 4), rng) + 0.015 * wander(times, 15, rng))
    weights = np.arange(1, 40) ** -rng.uniform(0.3, 1.1) * rng.uniform(0.3, 1.0, 39)
    wave = tone(pitch.astype(np.float32), times, weights)
    wave = resonate(
        wave + np.float32(between(rng, 0.01, 0.6)) * noise(len(times), 150, 7000, rng), rng.uniform(200, 3500, 3), 0.6, 0.35
    )
    near = np.exp(rng.uniform(0.2, 1.6) * wander(times, rng.uniform(0.8, 4), rng))
    return (wave * near * swell(times, 0.1, 0.15)).astype(np.float32)


def passing_fly(seconds: float, rng: Rng) -> Wave:
    times = instants(seconds)
    at, speed = rng.uniform(0.3, 0.7) * seconds, between(rng, 0.08, 0.5)
    offset = (times - at) / speed
    pitch = between(rng, 130, 300) * (1 - 0.1 * offset / np.sqrt(1 + offset**2) + 0.02 * wander(times, 8, rng))
    wave = tone(pitch.astype(np.float32), times, np.arange(1, 32) ** -rng.uniform(0.4, 0.9))
    return wave * (1 / (0.15 + offset**2) ** 0.6).astype(np.float32) * swell(times, 0.05, 0.05)


def swarm(seconds: float, rng: Rng) -> Wave:
    return sum(np.float32(rng.uniform(0.3, 1)) * peak(buzz(seconds, rng)) for _ in range(int(rng.integers(2, 5))))  # type: ignore[return-value]


def mosquito(seconds: float, rng: Rng) -> Wave:
    times = instants(seconds)
    pitch = between(rng, 380, 800) * (1 + 0.05 * wander(times, 3, rng))
    near = np.exp(1.2 * wander(times, 2, rng))
    return tone(pitch.astype(np.float32), times, np.arange(1, 14) ** -rng.uniform(0.6, 1.3)) * near * swell(times, 0.1, 0.15)


def song(seconds: float, rng: Rng) -> Wave:
    """Phrases of whistled syllables, of which each bird has a few and repeats them."""
    base = between(rng, 1700, 5200)
    syllables = []
    for _ in range(int(rng.integers(1, 5))):
        shape = base * 2 ** rng.uniform(-0.5, 0.45, int(rng.integers(2, 5)))
        syllables.append((shape, between(rng, 0.03, 0.22), rng.uniform(0, 0.04), rng.uniform(20, 90), rng.uniform(0, 0.35)))
    gap, again = between(rng, 0.02, 0.25), int(rng.integers(1, 5))

    def once(number: int) -> Wave:
        shape, length, depth, rate, second = syllables[number // again % len(syllables)]
        times = instants(length)
        pitch = curve(times, *shape) * (1 + depth * np.sin(2 * np.pi * rate * times))
        wave = tone(np.minimum(pitch, 7400).astype(np.float32), times, (1, second))
        return wave * swell(times, 0.25 * length, 0.4 * length)

    starts, now = [], 0.0
    while now < seconds:
        starts.append(now)
        now += syllables[(len(starts) - 1) // again % len(syllables)][1] + gap * rng.uniform(0.7, 1.3)
        if rng.random() < 0.06:
            now += rng.uniform(0.2, 0.7)
    return strokes(seconds, starts, once, rng)


def dawn(seconds: float, rng: Rng) -> Wave:
    """Several birds at once, near and far."""
    singers = [
        (song, trill, caw, chicks, hoot)[int(rng.choice(5, p=(0.4, 0.2, 0.15, 0.15, 0.1)))]
        for _ in range(int(rng.integers(2, 6)))
    ]
    return sum(np.float32(between(rng, 0.1, 1)) * peak(_whole(singer, seconds, rng)) for singer in singers)  # type: ignore[return-value]


def trill(seconds: float, rng: Rng) -> Wave:
    base, rate = between(rng, 2000, 5500), between(rng, 8, 40)
    shape = base * 2 ** rng.uniform(-0.35, 0.35, 3)

    def once(number: int) -> Wave:
        times = instants(rng.uniform(0.55, 0.85) / rate)
        return tone(np.minimum(curve(times, *shape), 7500), times, (1, 0.15)) * swell(times, 0.2 / rate, 0.25 / rate)

    return strokes(min(seconds, between(rng, 0.4, 2.5)), times_of(seconds, 1 / rate, rng, 0.04), once)


def caw(seconds: float, rng: Rng) -> Wave:
    """Crow, gull, jay: a rough voice of many harmonics."""
    base, length = between(rng, 330, 1300), between(rng, 0.12, 0.6)
    bend = rng.uniform(0.7, 1.15)
    formants = np.array((1300, 2300, 4000)) * rng.uniform(0.75, 1.4, 3)
    rough = rng.uniform(0, 0.9)

    def once(number: int) -> Wave:
        times = instants(length * rng.uniform(0.8, 1.2))
        pitch = base * curve(times, 0.85, 1.1, 1.0, bend)
        return peak(
            throat(times, pitch, formants, formants * 0.9, rng, rng.uniform(0.05, 0.5), rough, 0.3) * swell(times, 0.03, 0.08)
        )

    return strokes(seconds, times_of(seconds, length + between(rng, 0.06, 0.6), rng), once, rng)


def quack(seconds: float, rng: Rng) -> Wave:
    base, length = between(rng, 180, 420), between(rng, 0.08, 0.3)
    formants = np.array((950, 1750, 3300)) * rng.uniform(0.8, 1.25, 3)

    def once(number: int) -> Wave:
        times = instants(length)
        pitch = base * curve(times, 1.1, 1.0, 0.75)
        return peak(
            throat(times, pitch, formants, formants * 0.85, rng, 0.15, rng.uniform(0, 0.5), 0.15) * swell(times, 0.01, 0.06)
        )

    return strokes(seconds, times_of(seconds, length + between(rng, 0.08, 0.4), rng), once, rng)


def rooster(seconds: float, rng: Rng) -> Wave:
    base = between(rng, 420, 800)
    formants = np.array((1150, 2100, 3600)) * rng.uniform(0.85, 1.2, 3)
    parts = []
    for length, shape in ((0.16, (0.9, 1.1)), (0.13, (1.0, 1.2)), (0.22, (1.1, 1.5)), (0.8, (1.3, 1.6, 1.5, 0.9))):
        times = instants(length * rng.uniform(0.8, 1.25))
        pitch = base * curve(times, *shape)
        parts += [peak(throat(times, pitch, formants, formants, rng, 0.1, rng.uniform(0, 0.4), 0.25) * swell(times, 0.02, 0.08)),
                  np.zeros(int(rng.uniform(0.02, 0.08) * 16000), np.float32)]  # fmt: skip
    return np.concatenate(parts)


def hoot(seconds: float, rng: Rng) -> Wave:
    """Owl, dove, cuckoo: soft low whistles in a fixed pattern."""
    base, lengths = between(rng, 300, 950), rng.uniform(0.12, 0.5, 3)
    ratios = rng.uniform(0.78, 1.1, 3)

    def once(number: int) -> Wave:
        times = instants(float(lengths[number % 3]))
        pitch = base * float(ratios[number % 3]) * curve(times, 0.95, 1.03, 0.97)
        return tone(pitch, times, (1, rng.uniform(0, 0.2), 0.05)) * swell(times, 0.05, 0.12)

    return strokes(seconds, times_of(seconds, float(lengths.mean()) + between(rng, 0.08, 0.4), rng), once, rng)


def chicks(seconds: float, rng: Rng) -> Wave:
    base = between(rng, 2600, 4800)

    def once(number: int) -> Wave:
        times = instants(between(rng, 0.05, 0.14))
        return sine(base * rng.uniform(0.85, 1.15) * curve(times, 1.15, 1.0, 0.75), times) * swell(times, 0.01, 0.05)

    return strokes(seconds, sorted(rng.uniform(0, seconds, int(rng.integers(3, 16)))), once, rng)
