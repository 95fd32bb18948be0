"""The world is seeded, its splits are disjoint, and its shared factors can be measured in picture and sound."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from xmodal.miniature import sounds, world
from xmodal.miniature.render import render


def clip(**factors: object) -> world.Clip:
    base = world.Clip("bell", "medium", "centre", 1, "red", "white", seed=5)
    return replace(base, **factors)  # type: ignore[arg-type]


def test_there_are_enough_things_for_chance_to_be_below_six_percent() -> None:
    assert len(world.THINGS) >= 17
    assert set(world.THINGS) == set(sounds.SOUNDS)


@pytest.mark.parametrize("thing", world.THINGS)
def test_picture_and_sound_are_well_formed_and_repeatable(thing: str) -> None:
    one = clip(thing=thing)
    picture, sound = world.picture(one), world.sound(one)
    assert (picture.shape, picture.dtype) == ((64, 64, 3), np.uint8)
    assert (sound.shape, sound.dtype) == ((2, 40000), np.float32)
    assert np.isfinite(sound).all()
    assert 0.05 < np.abs(sound).max() <= 1
    assert np.array_equal(picture, world.picture(one))
    assert np.array_equal(sound, world.sound(one))
    assert not np.array_equal(sound, world.sound(replace(one, seed=6)))


@pytest.mark.parametrize("thing", world.THINGS)
def test_place_is_heard_as_level_difference_and_seen(thing: str) -> None:
    levels, centres = [], []
    for place in world.PLACES:
        one = clip(thing=thing, place=place, size="small")
        left, right = np.square(world.sound(one)).mean(1)
        levels.append(10 * np.log10(right / left))
        grey = world.picture(one).astype(float).sum(-1)
        ink = np.abs(grey - np.median(grey, axis=1, keepdims=True)).sum(0)
        centres.append((ink * np.arange(64)).sum() / ink.sum())
    assert levels[0] < -3 < levels[1] < 3 < levels[2]
    assert centres[0] < centres[1] < centres[2]


@pytest.mark.parametrize("thing", ["bell", "dog", "siren", "guitar", "car", "bee", "cat", "telephone"])
def test_size_is_heard_as_pitch(thing: str) -> None:
    def centroid(size: str) -> float:
        found = []
        for seed in range(12):
            power = np.square(np.abs(np.fft.rfft(world.sound(clip(thing=thing, size=size, seed=seed)).mean(0))))
            hertz = np.fft.rfftfreq(40000, 1 / 16000)
            loud = power > power.max() * 1e-2
            found.append((power * hertz)[loud].sum() / power[loud].sum())
        return float(np.median(found))

    small, medium, large = (centroid(size) for size in world.SIZES)
    assert small > 1.1 * medium
    assert medium > 1.1 * large


def test_count_is_heard_as_separate_events() -> None:
    right = 0
    for thing in ("dog", "bell", "car", "rain", "siren", "cat", "bee", "wave"):
        for count in world.COUNTS:
            level = np.square(world.sound(clip(thing=thing, count=count, seed=3))).mean(0).reshape(-1, 400).mean(1)
            level = np.convolve(level, np.ones(3) / 3, "same")
            floor = np.percentile(level, 10)
            above = level > floor + 0.06 * (level.max() - floor)
            right += int((np.diff(above.astype(int)) == 1).sum() + above[0]) == count
    assert right >= 18  # of 24: rooms and noise blur some gaps, and are meant to


def test_splits_do_not_share_clips_and_hold_combinations_out() -> None:
    train = [world.sample("train", index) for index in range(600)]
    heldout = [world.sample("heldout", index) for index in range(100)]
    assert world.sample("train", 7) == train[7]
    assert not {each.seed for each in train} & {world.sample("test", index).seed for index in range(600)}
    combinations = {(each.thing, each.size, each.place) for each in train}
    assert not combinations & {(each.thing, each.size, each.place) for each in heldout}
    assert all(each.held_out for each in heldout)


def test_captions_say_what_is_asked() -> None:
    two = clip(thing="rain", count=2, size="large", place="left")
    assert world.caption(two) == "two large red rain clouds on the left, white background"
    assert world.caption(two, ()) == "rain clouds"
    assert world.caption(clip(thing="rain"), ()) == "rain"
    assert world.caption(clip(), ("colour",)) == "a red bell"


@pytest.mark.parametrize(
    "call", [("cow", "small", "left", 1), ("bell", "tiny", "left", 1), ("bell", "small", "up", 1), ("bell", "small", "left", 4)]
)
def test_unknown_factors_are_named(call: tuple[str, str, str, int]) -> None:
    with pytest.raises(ValueError, match="unknown"):
        sounds.render(*call, np.random.default_rng(0))


def test_unknown_split() -> None:
    with pytest.raises(ValueError, match="expected one of train"):
        world.sample("dev", 0)


def test_render_writes_what_the_manifest_names(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in render(tmp_path / "world", "heldout", 3).read_text().splitlines()]
    assert len(rows) == 3
    for row in rows:
        waveform, rate = soundfile.read(tmp_path / "world" / row["audio"])
        assert (waveform.shape, rate) == ((40000, 2), 16000)
        assert (tmp_path / "world" / row["image"]).is_file()
        assert row["split"] == "heldout"
