"""Where a stereo sound stands, told to the painter in words: "a photo of {}" becomes "a photo of {} on the left". Ours.

AudioToken hears a mono mix, so its pseudo-word knows no place; the two channels do, by their levels (`xmodal.data.pan`). Nothing
is trained: the words steer the painter as any others of the prompt.
"""

from __future__ import annotations

import math

from torch import Tensor

from xmodal.data.pan import heard_pan

SIDES = (" on the left", " in the centre", " on the right")
EDGE = 0.375  # beyond it a sound is to one side: half way to where the miniature world's stand


def side(channels: Tensor) -> str:
    """Channels (C, T) of a sound -> what is said of its place; mono, and two equal channels, are in the centre."""
    pan = float(heard_pan(channels))
    return SIDES[1 if math.isnan(pan) else (pan > EDGE) - (pan < -EDGE) + 1]


def placed(prompt: str, channels: Tensor) -> str:
    """A prompt whose ``{}`` is said to stand where the sound does."""
    return prompt.replace("{}", "{}" + side(channels))
