"""Sounds for training ears: many kinds of each of the world's things, recorded as strangers record them.

The world's own sounds (:mod:`xmodal.miniature.sounds`) are one kind of each thing, and stay as they are; an ear that heard
nothing else takes a real bark for a frog. :func:`render` draws one of several kinds (:data:`KINDS`), with pitch, rhythm and
timbre drawn far more widely, and passes it through :func:`field.capture`.
"""

from __future__ import annotations

from xmodal.miniature.sounds import SOUNDS
from xmodal.miniature.synth import Rng, Wave
from xmodal.miniature.wild import animals, field, instruments, machines, weather
from xmodal.miniature.wild.tools import Kind, between

KINDS: dict[str, tuple[Kind, ...]] = {
    "bell": (instruments.church_bell, instruments.hand_bell, instruments.hand_bell, instruments.chime, instruments.cow_bell),
    "drum": (instruments.drum_strokes, instruments.drum_strokes, instruments.beat, instruments.drum_roll),
    "bird": (
        animals.song,
        animals.song,
        animals.dawn,
        animals.trill,
        animals.caw,
        animals.quack,
        animals.rooster,
        animals.hoot,
        animals.chicks,
    ),
    "dog": (animals.bark, animals.bark, animals.bark, animals.yap, animals.growl, animals.howl),
    "cat": (animals.meow, animals.meow, animals.meow, animals.yowl, animals.purr),
    "frog": (animals.ribbit, animals.croak, animals.bullfrog, animals.peeper, animals.pond),
    "bee": (animals.buzz, animals.buzz, animals.passing_fly, animals.swarm, animals.mosquito),
    "clock": (instruments.ticking, instruments.ticking, instruments.pendulum),
    "siren": (machines.wail, machines.wail, machines.two_tones, machines.alarm),
    "train": (
        machines.steam_whistle,
        machines.train_horn,
        machines.chuffing,
        machines.rolling,
        machines.diesel,
        machines.crossing,
    ),
    "telephone": (machines.bell_telephone, machines.bell_telephone, machines.warble, machines.line_tones),
    "guitar": (instruments.guitar_notes, instruments.guitar_chords, instruments.electric_guitar),
    "heart": (instruments.heartbeats,),
    "fire": (weather.campfire, weather.campfire, weather.blaze, weather.flare),
    "rain": (weather.downpour, weather.drops, weather.rain_on_roof),
    "thunder": (weather.near_thunder, weather.far_thunder, weather.broad_thunder, weather.rolling_thunder),
    "wave": (weather.surf, weather.surf, weather.far_sea, weather.lapping),
    "car": (machines.car_horn, machines.car_horn, machines.engine, machines.starter, machines.passing_car),
}


def render(thing: str, rng: Rng) -> Wave:
    """Synthesise and record one kind of ``thing``: float32 (40000,) in [-1, 1], mono, 16 kHz; equal generators give equal clips.

    Raises ValueError for a thing that the world does not have.
    """
    if thing not in KINDS:
        raise ValueError(f"unknown thing {thing!r}: expected one of {', '.join(KINDS)}")
    seconds = rng.uniform(2.5, 3.5) if rng.random() < 0.55 else between(rng, 0.35, 2.5)
    if rng.random() < 0.1:  # the world's own kind, played by strangers
        wave = SOUNDS[thing](seconds, between(rng, 0.6, 1.7), rng)
    else:
        kinds = KINDS[thing]
        wave = kinds[int(rng.integers(len(kinds)))](seconds, rng)
    return field.framed(field.capture(wave, rng), rng)


def again(recording: Wave, rng: Rng) -> Wave:
    """Record a recording (T,) anew: another part of it, another speed, room, microphone and codec; as :func:`render`."""
    length = int(between(rng, 0.5, 1.0) * len(recording)) if rng.random() < 0.3 else len(recording)
    length = max(min(len(recording), 3200), min(length, 60_000))
    start = int(rng.integers(len(recording) - length + 1))
    wave = field.stretched(recording[start : start + length], between(rng, 0.72, 1.4))
    return field.framed(field.capture(wave, rng), rng)
