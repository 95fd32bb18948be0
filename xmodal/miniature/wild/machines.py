"""Several kinds of every machine of the world: sirens, cars, trains, telephones. Each function is a kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xmodal.miniature.synth import SAMPLE_RATE, Rng, Wave, instants, sine, swell, tone
from xmodal.miniature.wild.instruments import CUP, bell_stroke
from xmodal.miniature.wild.tools import between, click, curve, noise, peak, resonate, strokes, times_of, train_of, wander


def wail(seconds: float, rng: Rng) -> Wave:
    """The slow rise and fall, the fast yelp, and the whoop of emergency cars and of air raids."""
    times = instants(seconds)
    low, high, period = between(rng, 250, 900), rng.uniform(1.5, 3), between(rng, 0.15, 7)
    turn = (times / period + rng.random()) % 1
    kind, rise = int(rng.integers(3)), rng.uniform(0.3, 0.7)
    shape = (
        0.5 - 0.5 * np.cos(2 * np.pi * turn),
        turn,
        np.where(turn < rise, 1 - np.exp(-4 * turn / rise), np.exp(-3 * (turn - rise) / (1 - rise))),
    )[kind]
    weights = np.where(np.arange(16) % 2 == 0, 1, rng.uniform(0, 1)) / np.arange(1, 17) ** rng.uniform(0.5, 1.8)
    wave = tone((low * high**shape).astype(np.float32), times, weights)
    if rng.random() < 0.2:
        wave = wave + tone((low * high**shape * rng.uniform(1.05, 1.35)).astype(np.float32), times, weights)
    return resonate(wave, (between(rng, 700, 2500),), 0.9, rng.uniform(0.2, 1)) * swell(times, 0.03, 0.05)


def two_tones(seconds: float, rng: Rng) -> Wave:
    times = instants(seconds)
    low, ratio, period = between(rng, 380, 1000), rng.uniform(1.12, 1.5), between(rng, 0.25, 1.6)
    high = (times / period + rng.random()) % 1 < 0.5
    pitch = low * np.where(high, ratio, 1.0)
    weights = np.arange(1, 20) ** -rng.uniform(0.4, 1.5) * rng.uniform(0.3, 1, 19)
    return tone(pitch.astype(np.float32), times, weights) * swell(times, 0.02, 0.03)


def alarm(seconds: float, rng: Rng) -> Wave:
    """Beeps and buzzes of alarms, in groups."""
    times = instants(seconds)
    base, rate, duty = between(rng, 350, 3600), between(rng, 1.2, 9), rng.uniform(0.35, 0.75)
    turn = times * rate % 1
    gate = np.clip(np.minimum(turn, duty - turn) * 60, 0, 1)
    slide = 1 + rng.choice((0.0, 0.0, 0.4, 0.9)) * turn / duty
    weights = np.where(np.arange(20) % 2 == 0, 1, rng.uniform(0, 1)) / np.arange(1, 21) ** rng.uniform(0.4, 2)
    return (tone((base * slide).astype(np.float32), times, weights) * gate).astype(np.float32)


def _engine(times: Wave, rate: Wave, rng: Rng) -> Wave:
    """Explosions at ``rate`` a second through an exhaust."""
    turns = np.cumsum(rate) / SAMPLE_RATE
    pulses = np.exp(-rng.uniform(3, 9) * (turns % 1)) * (
        1 + rng.uniform(0, 0.6) * np.sin(np.pi * turns) + rng.uniform(0, 0.5) * np.sin(np.pi * turns / 2)
    )
    source = pulses * (1 + rng.uniform(0.2, 1.5) * noise(len(times), 60, 6000, rng))
    made = resonate(
        source.astype(np.float32), (between(rng, 70, 160), between(rng, 250, 600), between(rng, 900, 2200)), 0.5, 0.06
    )
    return peak(made) + np.float32(rng.uniform(0.05, 0.5)) * noise(len(times), 100, 5000, rng, -1)


def car_horn(seconds: float, rng: Rng) -> Wave:
    base, ratio = between(rng, 260, 620), (1.0, 1.26, 1.19, 1.5)[int(rng.integers(4))] * rng.uniform(0.98, 1.02)
    weights = np.arange(1, 26) ** -rng.uniform(0.0, 1.0) * rng.uniform(0.3, 1, 25)
    centre = between(rng, 900, 3000)

    def once(number: int) -> Wave:
        times = instants(lengths[number % 3])
        pitch = base * (1 - 0.03 * np.exp(-times / 0.02))
        wave = tone(pitch.astype(np.float32), times, weights) + tone((pitch * ratio).astype(np.float32), times, weights)
        return peak(resonate(wave, (centre,), 0.8, rng.uniform(0.2, 0.8)) * swell(times, 0.01, 0.03))

    lengths = [between(rng, 0.1, 1.4) for _ in range(3)]
    starts = np.cumsum([0, lengths[0] + rng.uniform(0.05, 0.4), lengths[1] + rng.uniform(0.05, 0.4)])
    return strokes(seconds, starts[: int(rng.integers(1, 4))].tolist(), once)


def engine(seconds: float, rng: Rng) -> Wave:
    """Idling, driving off, racing."""
    times = instants(seconds)
    base = between(rng, 18, 90)
    rate = base * curve(times, *(2 ** rng.uniform(-0.7, 1.3, int(rng.integers(2, 5))))) * (1 + 0.02 * wander(times, 12, rng))
    return _engine(times, rate, rng) * swell(times, 0.05, 0.08)


def starter(seconds: float, rng: Rng) -> Wave:
    times = instants(seconds)
    turn, rate = rng.uniform(0.25, 0.6) * seconds, between(rng, 5, 14)
    crank = (0.5 + 0.5 * np.sin(2 * np.pi * rate * times)) * (
        tone(between(rng, 120, 400) * curve(times, 0.9, 1.05), times, np.arange(1, 20) ** -0.6)
        + noise(len(times), 300, 5000, rng)
    )
    runs = np.clip((times - turn) / 0.1, 0, 1)
    run = _engine(times, between(rng, 22, 60) * (1 + np.exp(-np.maximum(times - turn, 0) / 0.4)), rng)
    return (peak(crank) * (1 - runs) * 0.6 + run * runs).astype(np.float32) * swell(times, 0.02, 0.08)


def passing_car(seconds: float, rng: Rng) -> Wave:
    """Tyres and engine come near and go, the pitch falling as they pass."""
    times = instants(seconds)
    offset = (times - rng.uniform(0.25, 0.75) * seconds) / between(rng, 0.15, 1.2)
    near = 1 / (0.1 + offset**2) ** rng.uniform(0.5, 1)
    tyres = resonate(noise(len(times), 80, 7000, rng, -0.7), (between(rng, 500, 1400),), 1.2, 0.15)
    rate = between(rng, 30, 110) * (1 - 0.08 * offset / np.sqrt(1 + offset**2))
    return ((tyres + np.float32(rng.uniform(0, 0.8)) * _engine(times, rate, rng)) * near).astype(np.float32) * swell(
        times, 0.1, 0.1
    )


def _whistle(times: Wave, notes: Sequence[float], breath: float, rng: Rng) -> Wave:
    bend = 1 - rng.uniform(0, 0.15) * np.exp(-times / rng.uniform(0.03, 0.2))
    weights = np.arange(1, 12) ** -rng.uniform(0.7, 2)
    chord = sum(
        tone((note * bend * (1 + 0.004 * wander(times, 8, rng))).astype(np.float32), times, weights)
        * np.float32(rng.uniform(0.4, 1))
        for note in notes
    )
    return peak(chord) + np.float32(breath) * noise(len(times), 500, 7000, rng)  # type: ignore[arg-type]


def steam_whistle(seconds: float, rng: Rng) -> Wave:
    base, count = between(rng, 280, 1200), int(rng.integers(1, 5))
    notes = base * np.array((1, 1.2, 1.5, 1.8))[:count] * rng.uniform(0.98, 1.02, count)
    lengths = [between(rng, 0.2, 2.0) for _ in range(3)]

    def once(number: int) -> Wave:
        times = instants(lengths[number % 3])
        return _whistle(times, notes.tolist(), rng.uniform(0.05, 0.5), rng) * swell(times, 0.06, 0.12)

    return strokes(seconds, np.cumsum([0, *(length + rng.uniform(0.05, 0.3) for length in lengths[:2])]).tolist(), once)


def train_horn(seconds: float, rng: Rng) -> Wave:
    """Diesel and electric engines: a loud chord of reeds, often over a rumble."""
    base = between(rng, 200, 480)
    notes = base * np.array((1, 1.19, 1.34, 1.59, 2.0))[: int(rng.integers(1, 6))]
    lengths = [between(rng, 0.3, 2.2) for _ in range(3)]
    weights = np.arange(1, 22) ** -rng.uniform(0.2, 1.2)

    def once(number: int) -> Wave:
        times = instants(lengths[number % 3])
        wave = sum(tone(note * (1 - 0.03 * np.exp(-times / 0.05)), times, weights) for note in notes)
        return peak(wave * swell(times, 0.04, 0.12))  # type: ignore[arg-type]

    wave = strokes(seconds, np.cumsum([0, *(length + rng.uniform(0.1, 0.6) for length in lengths[:2])]).tolist(), once)
    return wave + np.float32(rng.uniform(0, 0.4)) * peak(rolling(seconds, rng))[: len(wave)]


def chuffing(seconds: float, rng: Rng) -> Wave:
    """A steam engine: bursts of steam in fours, getting faster or not."""
    times = instants(seconds)
    rate = between(rng, 1.5, 11) * curve(times, 1, rng.uniform(0.8, 1.6))
    turns = np.cumsum(rate) / SAMPLE_RATE
    accent = 1 + 0.35 * np.cos(np.pi * np.floor(turns) / 2)
    burst = np.exp(-rng.uniform(2, 6) * (turns % 1)) * np.clip(turns % 1 / 0.06, 0, 1) * accent
    steam = resonate(noise(len(times), 80, 7000, rng, -0.5), (between(rng, 250, 1400),), 1.0, 0.15)
    wave = peak((steam * burst).astype(np.float32)) + np.float32(rng.uniform(0, 0.15)) * noise(len(times), 1500, 7500, rng)
    if rng.random() < 0.35:
        wave += np.float32(rng.uniform(0.3, 1)) * steam_whistle(seconds, rng)[: len(wave)]
    return wave * swell(times, 0.03, 0.05)


def rolling(seconds: float, rng: Rng) -> Wave:
    """Wheels over the joints of the rails: a rumble, and double knocks in a rhythm."""
    times = instants(seconds)
    rumble = noise(len(times), 40, between(rng, 250, 3500), rng, -1) * (1 + 0.3 * wander(times, 5, rng))
    gap, pair = between(rng, 0.22, 1.1), between(rng, 0.07, 0.2)
    knock = [
        peak(resonate(click(rng, 80, 5000, between(rng, 0.008, 0.04)), (between(rng, 120, 900),), 0.8, 0.3)) for _ in range(2)
    ]
    starts = sorted([*(n * gap for n in range(int(seconds / gap) + 1)), *(n * gap + pair for n in range(int(seconds / gap) + 1))])
    wave = np.float32(rng.uniform(0.2, 1)) * rumble + strokes(seconds, starts, lambda n: knock[n % 2], rng)[: len(times)]
    if rng.random() < 0.3:  # flanges squeal
        squeal = sine(between(rng, 1800, 4500) * (1 + 0.01 * wander(times, 6, rng)), times)
        wave = wave + np.float32(rng.uniform(0.05, 0.3)) * squeal * (0.5 + 0.5 * wander(times, 2, rng))
    return (wave * swell(times, 0.1, 0.1)).astype(np.float32)


def diesel(seconds: float, rng: Rng) -> Wave:
    """A locomotive that idles or pulls: a drone of its engine and fans, and sometimes its horn."""
    times = instants(seconds)
    rate = between(rng, 12, 60) * curve(times, *(2 ** rng.uniform(-0.3, 0.5, 3)))
    drone = tone(
        (between(rng, 60, 240) * curve(times, 1, rng.uniform(0.85, 1.3))).astype(np.float32), times, np.arange(1, 30) ** -0.5
    )
    wave = (
        _engine(times, rate, rng)
        + np.float32(rng.uniform(0, 0.7)) * drone
        + np.float32(rng.uniform(0, 0.5)) * noise(len(times), 200, 6000, rng, -0.5)
    )
    if rng.random() < 0.35:
        horn = train_horn(seconds, rng)[: len(times)]
        wave[: len(horn)] += np.float32(rng.uniform(0.3, 1.5)) * horn
    return wave * swell(times, 0.1, 0.1)


def crossing(seconds: float, rng: Rng) -> Wave:
    """The bell of a level crossing, and the train's whistle or wheels."""
    stroke = bell_stroke(between(rng, 600, 1800), between(rng, 0.1, 0.4), CUP, 0.6, rng)
    bells = strokes(seconds, times_of(seconds, between(rng, 0.17, 0.45), rng, 0.03), lambda number: stroke, rng)
    other = (steam_whistle, train_horn, rolling)[int(rng.integers(3))](seconds, rng)[: len(bells)]
    bells[: len(other)] += np.float32(rng.uniform(0.4, 1.5)) * peak(other)
    return bells


def bell_telephone(seconds: float, rng: Rng) -> Wave:
    """Two gongs and a clapper: rings of a second or two, with pauses."""
    times = instants(seconds)
    rate, first = between(rng, 14, 30), between(rng, 900, 2400)
    strike = 1 - (times * rate % 1)
    wave = np.zeros_like(times)
    for gong, ratio in enumerate((1.0, rng.uniform(1.1, 1.45))):
        for r, w, _ in CUP[:5]:
            if first * ratio * r < 7600:
                wave += (
                    np.float32(w * rng.uniform(0.3, 1.2))
                    * sine(first * ratio * r, times)
                    * (strike ** rng.uniform(0.5, 3) if gong else (1 - strike) ** 0.5).astype(np.float32)
                )
    wave = peak(wave) + np.float32(rng.uniform(0, 0.25)) * noise(len(times), 1000, 7000, rng) * train_of(times, 2 * rate, 8)
    period, duty = between(rng, 1.0, 4.0), rng.uniform(0.4, 0.8)
    turn = times / period % 1 if rng.random() < 0.6 else np.zeros_like(times)
    gate = np.where(turn < duty, 1.0, np.exp(-(turn - duty) * period / rng.uniform(0.05, 0.25)))
    return (wave * gate * swell(times, 0.01, 0.1)).astype(np.float32)


def warble(seconds: float, rng: Rng) -> Wave:
    """Electronic ringers: two or three tones in fast exchange, in bursts."""
    times = instants(seconds)
    base, rate = between(rng, 450, 2400), between(rng, 8, 30)
    steps = base * 2 ** (rng.uniform(0, 0.7, 3))
    count = int(rng.integers(2, 4))
    pitch = steps[(times * rate).astype(np.int64) % count]
    weights = np.where(np.arange(10) % 2 == 0, 1, rng.uniform(0, 1)) / np.arange(1, 11) ** rng.uniform(0.6, 2.5)
    period, duty = between(rng, 0.4, 3), rng.uniform(0.4, 0.95)
    gate = np.clip(np.minimum(times % period, duty * period - times % period) * 100, 0, 1)
    return (tone(pitch.astype(np.float32), times, weights) * gate).astype(np.float32)


def line_tones(seconds: float, rng: Rng) -> Wave:
    """What the receiver says: dial tone, ringing tone, busy, and dialled digits."""
    times = instants(seconds)
    if rng.random() < 0.3:
        pairs = [(float(rng.choice((697, 770, 852, 941))), float(rng.choice((1209, 1336, 1477)))) for _ in range(12)]
        length = between(rng, 0.07, 0.25)

        def digit(number: int) -> Wave:
            beep = instants(length)
            return (sine(pairs[number % 12][0], beep) + sine(pairs[number % 12][1], beep)) * swell(beep, 0.004, 0.004)

        return strokes(seconds, times_of(seconds, length * rng.uniform(1.3, 2.2), rng, 0.1), digit)
    low, high = ((440, 480), (425, 425), (400, 450), (350, 440), (480, 620))[int(rng.integers(5))]
    period, duty = between(rng, 0.4, 4), rng.uniform(0.4, 1.0)
    gate = np.clip(np.minimum(times % period, duty * period - times % period) * 200, 0, 1)
    return ((sine(float(low), times) + sine(float(high), times)) * gate).astype(np.float32)
