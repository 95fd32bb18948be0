"""Every sound is seeded, well formed, and carries its place, its count and its pitch in the waveform."""

from __future__ import annotations

import numpy as np
import pytest

from xmodal.miniature import sounds

THINGS = tuple(sounds.SOUNDS)


def render(thing: str, size: str = "medium", place: str = "centre", count: int = 1, seed: int = 0) -> np.ndarray:
    return sounds.render(thing, size, place, count, np.random.default_rng(seed))


def level_difference(sound: np.ndarray) -> float:
    """Right over left, in decibels."""
    left, right = np.square(sound.astype(np.float64)).mean(1)
    return float(10 * np.log10(right / left))


def bursts(sound: np.ndarray) -> int:
    """Stretches of sound in 10 ms frames; pauses of up to 0.11 s are inside a burst."""
    level = np.sqrt(np.square(sound.mean(0)).reshape(-1, 160).mean(1))
    floor = np.percentile(level, 8)
    loud = np.flatnonzero(level > floor + 0.12 * (level.max() - floor))
    return 1 + int((np.diff(loud) > 11).sum())


@pytest.mark.parametrize("thing", THINGS)
def test_well_formed_and_repeatable(thing: str) -> None:
    for count, size in ((1, "small"), (2, "medium"), (3, "large")):
        for seed in range(4):
            sound = render(thing, size, "left", count, seed)
            assert (sound.shape, sound.dtype) == ((2, 40000), np.float32)
            assert np.isfinite(sound).all()
            assert 0.09 < np.abs(sound).max() <= 1
            assert np.array_equal(sound, render(thing, size, "left", count, seed))
    assert not np.array_equal(render(thing, seed=0), render(thing, seed=1))


@pytest.mark.parametrize("thing", THINGS)
def test_place_is_the_level_difference(thing: str) -> None:
    for seed in range(6):
        assert level_difference(render(thing, place="left", seed=seed)) < -4
        assert abs(level_difference(render(thing, place="centre", seed=seed))) < 3
        assert level_difference(render(thing, place="right", seed=seed)) > 4


@pytest.mark.parametrize("thing", ["bell", "drum", "dog", "cat", "frog", "bee", "telephone", "guitar", "rain", "car"])
def test_count_is_the_number_of_bursts(thing: str) -> None:
    right = sum(bursts(render(thing, count=count, seed=seed)) == count for count in (1, 2, 3) for seed in range(8))
    assert right >= 21  # of 24: rooms and noise blur a few gaps, and are meant to


@pytest.mark.parametrize(("thing", "pause"), [("clock", 0.2), ("heart", 0.2)])
def test_a_pair_is_one_event(thing: str, pause: float) -> None:
    """One tick-tock, one lub-dub: the clip with count 1 holds two strokes, at least ``pause`` seconds apart."""
    event = sounds.SOUNDS[thing](1.2, 1.0, np.random.default_rng(0))
    level = np.abs(event) > 0.3 * np.abs(event).max()
    onsets = np.flatnonzero(np.diff(np.flatnonzero(level)) > 0.5 * pause * sounds.SAMPLE_RATE)
    assert len(onsets) == 1


@pytest.mark.parametrize("thing", THINGS)
def test_size_is_the_pitch(thing: str) -> None:
    """The mean log frequency of the loud part of the spectrum rises as the thing gets smaller; median of twelve seeds."""
    hertz = np.fft.rfftfreq(40000, 1 / sounds.SAMPLE_RATE)

    def octave(size: str, seed: int) -> float:
        power = np.square(np.abs(np.fft.rfft(render(thing, size, seed=seed).mean(0))))
        loud = (power > 1e-3 * power.max()) & (hertz > 30)
        return float((power * np.log2(np.maximum(hertz, 1)))[loud].sum() / power[loud].sum())

    small, medium, large = (np.array([octave(size, seed) for seed in range(12)]) for size in ("small", "medium", "large"))
    assert np.median(small - medium) > 0.15
    assert np.median(medium - large) > 0.15


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (("cow", "small", "left", 1), "unknown thing 'cow'"),
        (("bell", "tiny", "left", 1), "unknown size 'tiny'"),
        (("bell", "small", "up", 1), "unknown place 'up'"),
        (("bell", "small", "left", 0), "unknown count 0"),
        (("bell", "small", "left", 4), "unknown count 4"),
    ],
)
def test_unknown_factors_are_named(call: tuple[str, str, str, int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        sounds.render(*call, np.random.default_rng(0))
