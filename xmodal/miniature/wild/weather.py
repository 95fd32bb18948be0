"""Several kinds of fire, rain, thunder and sea. Each function is a kind: ``(seconds, rng) -> mono event``."""

from __future__ import annotations

import numpy as np

from xmodal.miniature.synth import SAMPLE_RATE, Rng, Wave, instants, swell, tone
from xmodal.miniature.wild.tools import between, click, curve, noise, peak, resonate, ringing, strokes, wander


def _pops(seconds: float, rate: float, rng: Rng, low: float, high: float, length: float, power: float, kinds: int = 5) -> Wave:
    """``rate`` bursts a second of ``kinds`` shapes, at random times and levels (uniform to the ``power``)."""
    count = max(64, int(seconds * SAMPLE_RATE))
    size = 1 << (count + 2048).bit_length()
    total = np.zeros(size // 2 + 1, np.complex64)
    for _ in range(kinds):
        impulses = np.zeros(count, np.float32)
        number = max(1, int(rate * seconds / kinds * rng.uniform(0.6, 1.4)))
        impulses[rng.integers(0, count, number)] = rng.choice((-1, 1), number) * rng.random(number) ** power
        pop = peak(click(rng, between(rng, low, 2.5 * low), high, length * between(rng, 0.5, 2)))[:2048]
        total += np.fft.rfft(impulses, size) * np.fft.rfft(pop, size)
    return np.fft.irfft(total, size)[:count].astype(np.float32)


def campfire(seconds: float, rng: Rng) -> Wave:
    """Crackling wood: sharp pops of every size, alone and in volleys, over a soft hiss and flutter."""
    times = instants(seconds)
    crackle = _pops(
        seconds, between(rng, 6, 90), rng, between(rng, 300, 2000), 7900, between(rng, 0.0006, 0.005), rng.uniform(2, 5)
    )
    volley = np.exp(rng.uniform(0, 1.2) * wander(times, 5, rng))
    roar = noise(len(times), 40, between(rng, 200, 900), rng, -1) * (1 + 0.5 * wander(times, 8, rng))
    hiss = noise(len(times), between(rng, 500, 2500), 7500, rng)
    return (
        peak((crackle * volley).astype(np.float32))
        + np.float32(between(rng, 0.02, 0.5)) * roar
        + np.float32(between(rng, 0.005, 0.12)) * hiss
    ).astype(np.float32)


def blaze(seconds: float, rng: Rng) -> Wave:
    """A large fire: a fluttering roar with some crackle."""
    times = instants(seconds)
    flutter = np.exp(rng.uniform(0.3, 1.1) * wander(times, rng.uniform(5, 14), rng))
    roar = noise(len(times), 50, between(rng, 500, 4000), rng, -rng.uniform(0.6, 1.6)) * flutter
    crackle = _pops(seconds, between(rng, 15, 120), rng, 500, 7900, between(rng, 0.001, 0.006), 3)
    return (peak(roar.astype(np.float32)) + np.float32(rng.uniform(0.15, 0.8)) * peak(crackle)) * swell(times, 0.05, 0.1)


def flare(seconds: float, rng: Rng) -> Wave:
    """A flame that catches: a whoosh that rises and dies down into crackling."""
    times = instants(min(seconds, between(rng, 0.6, 2.5)))
    rise = rng.uniform(0.05, 0.4)
    envelope = curve(times, 0.05, 1, rise, 0.1) * np.exp(0.4 * wander(times, 10, rng))
    wave = noise(len(times), 80, between(rng, 900, 6000), rng, -1) * envelope
    crackle = _pops(times[-1] + 0.1, 40, rng, 600, 7900, 0.002, 3)[: len(times)]
    return (peak(wave.astype(np.float32)) + np.float32(rng.uniform(0, 0.5)) * peak(crackle)).astype(np.float32)


def downpour(seconds: float, rng: Rng) -> Wave:
    """Steady rain: a hiss without a beat, in which drops can be told apart or not."""
    times = instants(seconds)
    hiss = noise(len(times), between(rng, 80, 1500), between(rng, 4500, 7900), rng, rng.uniform(-0.8, 0.3))
    drops = _pops(
        seconds, between(rng, 100, 1500), rng, between(rng, 400, 2500), 7900, between(rng, 0.0006, 0.004), rng.uniform(1, 3)
    )
    wave = hiss + np.float32(between(rng, 0.1, 2)) * peak(drops)
    return (wave * (1 + 0.1 * wander(times, 2, rng))).astype(np.float32)


def drops(seconds: float, rng: Rng) -> Wave:
    """Light rain: single drops on leaves, stone and puddles; puddles ring, rising in pitch."""
    wave = _pops(seconds, between(rng, 15, 120), rng, between(rng, 500, 2500), 7900, between(rng, 0.0008, 0.006), 2)
    plinks = []
    for _ in range(4):
        times, base = instants(0.06), between(rng, 700, 3500)
        plinks.append(
            tone((base * curve(times, 0.9, rng.uniform(1.05, 1.5))).astype(np.float32), times, (1.0,))
            * np.exp(-times / between(rng, 0.005, 0.02))
        )
    starts = sorted(rng.uniform(0, seconds, int(seconds * between(rng, 2, 25))))
    wave = peak(wave) + np.float32(rng.uniform(0, 0.8)) * strokes(seconds, starts, lambda n: plinks[n % 4], rng)[: len(wave)]
    return wave + np.float32(between(rng, 0.01, 0.3)) * noise(len(wave), 500, 7800, rng, -0.3)


def rain_on_roof(seconds: float, rng: Rng) -> Wave:
    """Patter on tin, canvas or an umbrella: the surface has a resonance."""
    wave = _pops(seconds, between(rng, 60, 500), rng, 200, 6500, between(rng, 0.001, 0.006), 2)
    surface = (between(rng, 200, 900), between(rng, 900, 2500))
    return peak(resonate(wave, surface, 0.7, 0.2)) + np.float32(between(rng, 0.05, 0.5)) * noise(len(wave), 200, 7000, rng, -0.5)


def _rumble(times: Wave, rng: Rng) -> Wave:
    top = between(rng, 100, 900)
    rolls = np.exp(rng.uniform(0.5, 1.5) * wander(times, rng.uniform(2, 7), rng))
    return peak((noise(len(times), 25, top, rng, -rng.uniform(0.8, 2)) * rolls).astype(np.float32))


def near_thunder(seconds: float, rng: Rng) -> Wave:
    """A crack that tears, and the boom after it."""
    times = instants(seconds)
    bang = rng.uniform(0, 0.35) * seconds
    after = np.maximum(times - bang, 0)
    tearing = (times >= bang) * np.exp(-after / between(rng, 0.04, 0.5)) * np.exp(0.8 * wander(times, 40, rng))
    crack = noise(len(times), between(rng, 40, 400), between(rng, 1500, 7900), rng, -rng.uniform(0.2, 1.2)) * tearing
    boom = _rumble(times, rng) * np.clip((times - bang) / 0.05, 0.1, 1) * np.exp(-after / between(rng, 0.4, 2.5))
    return (
        peak(crack.astype(np.float32)) * np.float32(rng.uniform(0.3, 1))
        + boom
        + np.float32(rng.uniform(0, 0.1)) * _rain(times, rng)
    ).astype(np.float32)


def _rain(times: Wave, rng: Rng) -> Wave:
    return noise(len(times), 500, 7500, rng, -0.3)


def far_thunder(seconds: float, rng: Rng) -> Wave:
    times = instants(seconds)
    envelope = curve(times, *rng.uniform(0.15, 1, int(rng.integers(3, 6))))
    return (_rumble(times, rng) * envelope + np.float32(rng.uniform(0, 0.12)) * _rain(times, rng)).astype(np.float32) * swell(
        times, 0.05, 0.2
    )


def broad_thunder(seconds: float, rng: Rng) -> Wave:
    """A storm overhead: noise of every pitch that shudders and thins out slowly."""
    times = instants(seconds)
    shudder = np.exp(
        rng.uniform(0.3, 0.9) * wander(times, rng.uniform(6, 30), rng) + rng.uniform(0.2, 0.8) * wander(times, 3, rng)
    )
    bright = noise(len(times), 40, between(rng, 1500, 7900), rng, -rng.uniform(0.2, 1.2)) * curve(
        times, *sorted(rng.uniform(0.05, 1, 3))[::-1]
    )
    return peak((bright * shudder).astype(np.float32)) * swell(times, between(rng, 0.005, 0.3), 0.2) + np.float32(
        rng.uniform(0, 0.8)
    ) * _rumble(times, rng)


def rolling_thunder(seconds: float, rng: Rng) -> Wave:
    """Several claps one after another, broad and then dull."""
    times = instants(seconds)
    wave = np.zeros_like(times)
    for _ in range(int(rng.integers(2, 6))):
        after = times - rng.uniform(-0.2, 0.85) * seconds
        clap = noise(len(times), 30, between(rng, 300, 5000), rng, -rng.uniform(0.6, 1.8))
        wave += (
            clap
            * np.float32(rng.uniform(0.3, 1))
            * np.where(after > 0, np.exp(-after / between(rng, 0.1, 0.9)), np.exp(np.minimum(after, 0) / 0.03)).astype(np.float32)
        )
    return peak(wave * np.exp(0.5 * wander(times, 15, rng)).astype(np.float32)) + np.float32(rng.uniform(0, 0.5)) * _rumble(
        times, rng
    )


def surf(seconds: float, rng: Rng) -> Wave:
    """A breaker: it swells, crashes and runs up the sand; what one hears is often only a part of it."""
    times = instants(seconds)
    period, shift = between(rng, 1.5, 9), rng.random()
    turn = (times / period + shift) % 1
    crest = rng.uniform(0.25, 0.6)
    envelope = np.where(
        turn < crest, (turn / crest) ** rng.uniform(1, 3), (1 - (turn - crest) / (1 - crest)) ** rng.uniform(0.8, 2)
    )
    floor = rng.uniform(0.03, 0.5)
    body = noise(len(times), 60, between(rng, 500, 1600), rng, -1.2)
    foam = noise(len(times), between(rng, 300, 900), between(rng, 3500, 7800), rng, -rng.uniform(0.3, 1.2))
    lively = 1 + 0.15 * wander(times, 6, rng)
    return ((body * (floor + envelope) + np.float32(rng.uniform(0.4, 1.5)) * foam * (floor + envelope**2)) * lively).astype(
        np.float32
    )


def far_sea(seconds: float, rng: Rng) -> Wave:
    """The steady roar of a beach from afar."""
    times = instants(seconds)
    wave = noise(len(times), 50, between(rng, 900, 5000), rng, -rng.uniform(0.8, 1.6))
    return (wave * (1 + rng.uniform(0.1, 0.5) * wander(times, rng.uniform(0.5, 1.5), rng))).astype(np.float32)


def lapping(seconds: float, rng: Rng) -> Wave:
    """Small waves at a shore or a hull: slaps, gurgles and bubbles."""
    times = instants(seconds)
    wash = noise(len(times), 150, between(rng, 1500, 5000), rng, -0.8) * np.exp(
        rng.uniform(0.6, 1.6) * wander(times, rng.uniform(1, 3), rng)
    )
    bubbles = []
    for _ in range(5):
        bubble, base = instants(0.09), between(rng, 250, 1500)
        bubbles.append(ringing(bubble, [(base, 1, between(rng, 0.008, 0.03)), (1.3 * base, 0.3, 0.01)], 0.004))
    starts = sorted(rng.uniform(0, seconds, int(seconds * between(rng, 1, 18))))
    return (
        peak(wash.astype(np.float32))
        + np.float32(rng.uniform(0.05, 0.7)) * strokes(seconds, starts, lambda n: bubbles[n % 5], rng)[: len(times)]
    )
