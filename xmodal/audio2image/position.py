"""Where a stereo sound stands, told to the painter in words: "a photo of {}" becomes "a photo of {} on the left". Ours.

AudioToken hears a mono mix, so its pseudo-word knows no place; the two channels do, by their levels (`xmodal.data.pan`). Nothing
is trained: the words steer the painter as any others of the prompt.
"""

from __future__ import annotations

import math

from torch import Tensor

from xmodal.data.pan import heard_pan
from xmodal.data.window import window_start

SIDES = (" on the left", " in the centre", " on the right")
EDGE = 0.375  # beyond it a sound is to one side: half way to where the miniature world's stand


def side(channels: Tensor, length: int | None = None) -> str:
    """Channels (C, T) of a sound -> what is said of its place; mono, and two equal channels, are in the centre.

    ``length`` samples, the loudest (`xmodal.data.window`), are listened to; None: all.
    """
    start = 0 if length is None else window_start(channels.mean(0), length)
    pan = float(heard_pan(channels, start, None if length is None else start + length))
    return SIDES[1 if math.isnan(pan) else (pan > EDGE) - (pan < -EDGE) + 1]


def placed(prompt: str, channels: Tensor, length: int | None = None) -> str:
    """A prompt whose ``{}`` is said to stand where the sound does; as `side`."""
    return prompt.replace("{}", "{}" + side(channels, length))
