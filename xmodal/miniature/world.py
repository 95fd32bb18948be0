"""A procedural audio-visual world: paired pictures, sounds and captions, seeded and unlimited.

*Shared* factors are both seen and heard: the thing, its size (pitch), its place (stereo pan) and its count
(repetitions). *Private* factors are seen only (colour, background, jitter) or heard only (tempo, timbre, noise, room).
One picture therefore has many right sounds and the reverse, and every metric has a ground truth.

Every shipped weight is trained on this world: change it only together with ``VERSION`` and all weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import numpy as np
from PIL import Image, ImageDraw

from xmodal.miniature import sounds
from xmodal.miniature.icons import ICONS, RGB, Pen

VERSION = "1"
IMAGE_SIZE = 64
SUPERSAMPLING = 4

THINGS = tuple(ICONS)
SIZES = ("small", "medium", "large")
PLACES = ("left", "centre", "right")
COUNTS = (1, 2, 3)
COLOURS: dict[str, RGB] = {
    "red": (222, 48, 48),
    "orange": (246, 140, 30),
    "yellow": (248, 220, 60),
    "green": (58, 170, 74),
    "blue": (48, 96, 220),
    "purple": (150, 66, 190),
}
BACKGROUNDS: dict[str, RGB] = {
    "white": (246, 246, 244),
    "grey": (158, 160, 164),
    "black": (30, 30, 36),
    "cyan": (168, 226, 236),
    "beige": (236, 216, 176),
    "pink": (250, 196, 214),
}
FACTORS: dict[str, tuple[str, ...]] = {
    "thing": THINGS,
    "size": SIZES,
    "place": PLACES,
    "count": tuple(str(count) for count in COUNTS),
    "colour": tuple(COLOURS),
    "background": tuple(BACKGROUNDS),
}
SPLITS = ("train", "validation", "test", "heldout")
SYNONYMS = {
    "rain": "rain cloud",
    "thunder": "thunderbolt",
    "telephone": "phone",
    "heart": "heartbeat",
    "train": "steam train",
    "wave": "ocean wave",
    "fire": "campfire",
    "siren": "alarm",
}
MASS_NOUNS = {"rain", "thunder", "fire"}

# Side of one thing as a share of the picture, by count and size: three large things must still fit beside each other.
_SIDE = {
    1: {"small": 0.32, "medium": 0.48, "large": 0.68},
    2: {"small": 0.27, "medium": 0.36, "large": 0.46},
    3: {"small": 0.22, "medium": 0.28, "large": 0.34},
}
_CENTRE = {"left": 0.3, "centre": 0.5, "right": 0.7}
_OFFSETS = {1: ((0.0, 0.5),), 2: ((-0.08, 0.29), (0.08, 0.71)), 3: ((-0.09, 0.19), (0.09, 0.5), (-0.09, 0.81))}


@dataclass(frozen=True)
class Clip:
    """The factors of one clip; ``seed`` draws everything that no factor names (jitter, tempo, timbre, noise)."""

    thing: str
    size: str
    place: str
    count: int
    colour: str
    background: str
    seed: int

    @property
    def held_out(self) -> bool:
        """Whether this (thing, size, place) never occurs in training: one in nine, a different one for each thing."""
        thing = THINGS.index(self.thing)
        return (SIZES.index(self.size), PLACES.index(self.place)) == (thing % 3, thing // 3 % 3)


def sample(split: str, index: int, seed: int = 0) -> Clip:
    """Draw clip ``index`` of ``split``; equal arguments give equal clips on every machine.

    Raises ValueError for an unknown split. ``heldout`` holds only the combinations that the other splits never show.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    rng = np.random.default_rng([crc32(f"{VERSION}/{split}".encode()), seed, index])
    while True:
        clip = Clip(
            thing=THINGS[rng.integers(len(THINGS))],
            size=SIZES[rng.integers(3)],
            place=PLACES[rng.integers(3)],
            count=int(rng.choice(COUNTS, p=(0.5, 0.28, 0.22))),
            colour=list(COLOURS)[rng.integers(len(COLOURS))],
            background=list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))],
            seed=int(rng.integers(2**31)),
        )
        if clip.held_out == (split == "heldout"):
            return clip


def picture(clip: Clip) -> np.ndarray:
    """Draw the clip: uint8 (64, 64, 3)."""
    rng = np.random.default_rng([clip.seed, 1])
    side = IMAGE_SIZE * SUPERSAMPLING
    image = Image.fromarray(_backdrop(BACKGROUNDS[clip.background], rng))
    canvas = ImageDraw.Draw(image)
    for dx, y in _OFFSETS[clip.count]:
        radius = 0.5 * _SIDE[clip.count][clip.size] * rng.uniform(0.94, 1.06)
        x = _CENTRE[clip.place] + dx + rng.uniform(-0.03, 0.03)
        # A large thing at the edge of the frame moves inwards rather than losing a part.
        x, y = (min(max(value, radius * 1.04), 1 - radius * 1.04) for value in (x, y + rng.uniform(-0.03, 0.03)))
        colour: RGB = tuple(int(min(255, max(0, c + rng.uniform(-12, 12)))) for c in COLOURS[clip.colour])  # type: ignore[assignment]
        ICONS[clip.thing](Pen(canvas, x * side, y * side, radius * side / 1.06, rng.uniform(-0.12, 0.12), colour))
    return np.asarray(image.reduce(SUPERSAMPLING))


def _backdrop(colour: RGB, rng: np.random.Generator) -> np.ndarray:
    """A plain wall, a little darker towards one end: uint8 (256, 256, 3)."""
    side = IMAGE_SIZE * SUPERSAMPLING
    shade = 1 + rng.uniform(-0.06, 0.06) * np.linspace(-1, 1, side)[:, None]
    rows = np.clip((np.asarray(colour) + rng.uniform(-5, 5, 3)) * shade, 0, 255).astype(np.uint8)
    return np.repeat(rows[:, None], side, axis=1)


def sound(clip: Clip) -> np.ndarray:
    """Synthesise the clip: float32 (2, 40000) in [-1, 1], stereo, 16 kHz."""
    return sounds.render(clip.thing, clip.size, clip.place, clip.count, np.random.default_rng([clip.seed, 2]))


def counted(noun: str) -> str:
    """The noun that stands with a number or an adjective: one flame, not one fire."""
    return SYNONYMS[noun] if noun in MASS_NOUNS else noun


def caption(clip: Clip, attributes: tuple[str, ...] = ("count", "size", "colour", "place", "background"), noun: str = "") -> str:
    """Describe the clip by the named attributes only: "two large red bells on the left, white background"."""
    noun = noun or clip.thing
    words = [getattr(clip, name) for name in ("size", "colour") if name in attributes]
    if clip.count > 1:
        number = {2: "two", 3: "three"}[clip.count] if "count" in attributes else ""
        text = " ".join([number, *words, counted(noun) + "s"]).strip()
    elif noun in MASS_NOUNS and not words:
        text = noun
    else:
        text = " ".join([*words, counted(noun)])
        text = f"one {text}" if "count" in attributes else ("an " if text[0] in "aeiou" else "a ") + text
    if "place" in attributes:
        text += {"left": " on the left", "centre": " in the centre", "right": " on the right"}[clip.place]
    return f"{text}, {clip.background} background" if "background" in attributes else text


def random_caption(clip: Clip, rng: np.random.Generator) -> str:
    """A caption with a random choice of attributes and nouns, as people write prompts."""
    keep = rng.choice((0.0, 0.5, 1.0), p=(0.2, 0.5, 0.3))
    attributes = tuple(name for name in ("count", "size", "colour", "place", "background") if rng.random() < keep)
    noun = SYNONYMS.get(clip.thing, "") if rng.random() < 0.25 else ""
    return ("a photo of " if rng.random() < 0.7 else "") + caption(clip, attributes, noun)
