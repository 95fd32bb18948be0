"""Clips for training an ear: the world's own, wild kinds of its things, and recordings, in a fixed mixture."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from xmodal.data.window import window
from xmodal.miniature import wild, world
from xmodal.miniature.data import LABELS, Clips, World
from xmodal.miniature.sounds import SECONDS
from xmodal.miniature.synth import SAMPLE_RATE


class WildClips(Dataset[dict[str, Any]]):
    """Waveforms float32 (40000,) and ``attributes`` float32 (24,) as of :class:`Clips`, where NaN stands for what nobody knows.

    Size and count are known of the world's own clips alone: of a stranger's dog no one can tell whether it is a large one.

    Args:
        clips: the world's own, with parts ``waveform`` and ``attributes``.
        strange: share of wild kinds (:func:`xmodal.miniature.wild.render`).
        recorded: share of recordings; a thing of which there is none gives a wild kind.
        recordings: float32 waveforms (T,) at 16 kHz of each thing.
        seconds: of every clip; of an own one that is shorter than the world's no count is known.
    """

    def __init__(
        self, clips: Clips, strange: float, recorded: float, recordings: dict[str, list[np.ndarray]], seconds: float = SECONDS
    ) -> None:
        self.clips, self.strange, self.recorded, self.recordings = clips, strange, recorded, recordings
        self.samples = round(seconds * SAMPLE_RATE)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng([crc32(b"wild"), self.clips.seed, index])
        chance = rng.random()
        if chance >= self.strange + self.recorded:
            return self._own(self.clips[index])
        thing = world.THINGS[rng.integers(len(world.THINGS))]
        recordings = self.recordings.get(thing, [])
        if chance < self.recorded and recordings:
            waveform = wild.again(recordings[int(rng.integers(len(recordings)))], rng, self.samples)
        else:
            waveform = wild.render(thing, rng, self.samples)
        return {"clip": index, "waveform": torch.from_numpy(waveform), "attributes": _thing_alone(thing)}

    def _own(self, clip: dict[str, Any]) -> dict[str, Any]:
        if self.samples >= len(clip["waveform"]):
            return clip
        counts = torch.tensor([label.isdigit() for label in LABELS])
        attributes = clip["attributes"].masked_fill(counts, float("nan"))
        return {**clip, "waveform": window(clip["waveform"], self.samples), "attributes": attributes}


def _thing_alone(thing: str) -> Tensor:
    """Attributes (24,) of which only the thing is known."""
    row = torch.full((len(LABELS),), float("nan"))
    row[: len(world.THINGS)] = 0.0
    row[world.THINGS.index(thing)] = 1.0
    return row


class WildWorld(World):
    """The world for training an ear; only training clips are wild, the others are the world's own.

    Args:
        strange, recorded, seconds: of the training clips, see :class:`WildClips`.
        recordings: folder with sounds at 16 kHz as ``THING/NAME.wav``, see ``benchmarks/real_sounds.py``; none by default.
        **world: options of :class:`World`; its parts are ``waveform`` and ``attributes``.

    Raises:
        FileNotFoundError: the folder of recordings holds none.
    """

    def __init__(
        self, strange: float = 0.4, recorded: float = 0.0, recordings: Path | None = None, seconds: float = SECONDS, **world: Any
    ) -> None:
        super().__init__(parts=["waveform", "attributes"], **world)
        self.strange, self.recorded, self.folder, self.seconds = strange, recorded, recordings, seconds

    def _dataset(self, split: str) -> Dataset[dict[str, Any]]:
        clips = Clips(split, self.counts[split], self.parts, self.seed)
        if split != "train":
            return clips
        recordings = read_recordings(self.folder) if self.folder else {}
        return WildClips(clips, self.strange, self.recorded, recordings, self.seconds)


def read_recordings(folder: Path) -> dict[str, list[np.ndarray]]:
    """Sounds of each thing in ``folder/THING/*.wav``: float32 (T,), mono, 16 kHz; FileNotFoundError if there is none."""
    from xmodal.data.audio import load_audio

    found = {thing: sorted((Path(folder) / thing).glob("*.wav")) for thing in world.THINGS}
    if not any(found.values()):
        raise FileNotFoundError(
            f"{folder} holds no recordings THING/NAME.wav: fetch them with python benchmarks/real_sounds.py fetch"
        )
    rate = world.sounds.SAMPLE_RATE
    return {thing: [load_audio(path, rate).numpy() for path in paths] for thing, paths in found.items()}
