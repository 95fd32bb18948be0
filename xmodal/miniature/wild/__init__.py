"""Sounds for training ears: many kinds of each of the world's things, recorded as strangers record them.

The world's own sounds (:mod:`xmodal.miniature.sounds`) are one kind of each thing, and stay as they are; an ear that heard
nothing else takes a real bark for a frog. :func:`render` draws one of several kinds (:data:`KINDS`), with pitch, rhythm and
timbre drawn far more widely, and passes it through :func:`field.capture`.
"""

from __future__ import annotations

from xmodal.miniature.sounds import SOUNDS
from xmodal.miniature.studio import SAMPLES
from xmodal.miniature.synth import SAMPLE_RATE, Rng, Wave
from xmodal.miniature.wild import animals, field, instruments, machines, weather
from xmodal.miniature.wild.tools import Kind, between

# What is named more than once is drawn more often: it is what one mostly meets.
KINDS: dict[str, tuple[Kind, ...]] = {
    "bell": (*(instruments.church_bell, instruments.hand_bell) * 2, instruments.chime, instruments.cow_bell),
    "drum": (*(instruments.drum_strokes,) * 3, instruments.beat, instruments.drum_roll),
    "bird": (*(animals.song,) * 3, *(animals.dawn, animals.trill, animals.caw) * 2)
    + (animals.quack, animals.rooster, animals.hoot, animals.chicks),
    "dog": (*(animals.bark,) * 5, animals.yap, animals.growl, animals.howl),
    "cat": (*(animals.meow,) * 5, animals.yowl, animals.purr),
    "frog": (animals.ribbit, animals.croak, animals.bullfrog, animals.peeper, animals.pond),
    "bee": (*(animals.buzz,) * 3, animals.passing_fly, animals.swarm, animals.mosquito),
    "clock": (*(instruments.ticking,) * 3, instruments.pendulum),
    "siren": (*(machines.wail,) * 3, machines.two_tones, machines.alarm),
    "train": (*(machines.steam_whistle, machines.train_horn, machines.chuffing, machines.rolling) * 2,)
    + (machines.diesel, machines.crossing),
    "telephone": (*(machines.bell_telephone,) * 3, machines.warble, machines.line_tones),
    "guitar": (*(instruments.guitar_notes, instruments.guitar_chords) * 2, instruments.electric_guitar),
    "heart": (instruments.heartbeats,),
    "fire": (*(weather.campfire,) * 3, weather.blaze, weather.flare),
    "rain": (*(weather.downpour,) * 2, weather.drops, weather.rain_on_roof),
    "thunder": (weather.near_thunder, weather.far_thunder, weather.broad_thunder, weather.rolling_thunder),
    "wave": (*(weather.surf,) * 3, weather.far_sea, weather.lapping),
    "car": (*(machines.car_horn,) * 3, machines.engine, machines.starter, machines.passing_car),
}


def render(thing: str, rng: Rng, samples: int = SAMPLES) -> Wave:
    """Synthesise and record one kind of ``thing``: float32 (samples,) in [-1, 1], mono, 16 kHz; seeded by ``rng``.

    Raises ValueError for a thing that the world does not have.
    """
    if thing not in KINDS:
        raise ValueError(f"unknown thing {thing!r}: expected one of {', '.join(KINDS)}")
    length = samples / SAMPLE_RATE
    seconds = length * rng.uniform(1, 1.3) if rng.random() < 0.55 else between(rng, 0.35, length)
    if rng.random() < 0.08:  # the world's own kind, played by strangers
        wave = SOUNDS[thing](seconds, between(rng, 0.6, 1.7), rng)
    else:
        kinds = KINDS[thing]
        wave = kinds[int(rng.integers(len(kinds)))](seconds, rng)
    return field.framed(field.capture(wave, rng), rng, samples)


def again(recording: Wave, rng: Rng, samples: int = SAMPLES) -> Wave:
    """Record a recording (T,) anew: another part of it, another speed, room, microphone and codec; as :func:`render`."""
    length = int(between(rng, 0.5, 1.0) * len(recording)) if rng.random() < 0.3 else len(recording)
    length = max(min(len(recording), 3200), min(length, int(1.5 * samples)))
    start = int(rng.integers(len(recording) - length + 1))
    wave = field.stretched(recording[start : start + length], between(rng, 0.72, 1.4))
    return field.framed(field.capture(wave, rng), rng, samples)
