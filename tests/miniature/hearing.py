"""Unseen clips, and how many of the sounds made for them the tagger hears as they should be."""

from __future__ import annotations

import torch

from xmodal.foundation.beats import BEATs
from xmodal.miniature import world

CLIPS = [world.sample("test", index, seed=3) for index in range(36)]


def right(audios: torch.Tensor, clips: list[world.Clip]) -> int:
    """Number of sounds (N, T) that are heard as the thing of their clip."""
    with torch.no_grad():
        heard = BEATs().tag(audios)[:, : len(world.THINGS)].argmax(-1).tolist()
    return sum(world.THINGS[index] == clip.thing for index, clip in zip(heard, clips, strict=True))
