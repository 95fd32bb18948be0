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
    """Clips of which some sound as strangers' do: another kind of their thing, or a recording of one.

    Size and count are known of the world's own sounds alone: of a stranger's dog no one can tell whether it is a large one. So
    of the others ``attributes`` (24,) hold NaN for both, and ``phrase`` is the thing's name. The picture stays the clip's.

    Args:
        clips: the world's own.
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
        kept = tuple(part for part in clips.parts if part not in ("waveform", "attributes", "phrase"))
        self.rest = Clips(clips.split, clips.count, kept, clips.seed)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng([crc32(b"wild"), self.clips.seed, index])
        chance = rng.random()
        if chance >= self.strange + self.recorded:
            return self._own(self.clips[index])
        thing = world.sample(self.clips.split, index, self.clips.seed).thing
        told = {"attributes": _thing_alone(thing), "phrase": thing}
        item = {**self.rest[index], **{part: told[part] for part in told if part in self.clips.parts}}
        if "waveform" not in self.clips.parts:
            return item
        recordings = self.recordings.get(thing, [])
        if chance < self.recorded and recordings:
            waveform = wild.again(recordings[int(rng.integers(len(recordings)))], rng, self.samples)
        else:
            waveform = wild.render(thing, rng, self.samples)
        return {**item, "waveform": torch.from_numpy(waveform)}

    def _own(self, clip: dict[str, Any]) -> dict[str, Any]:
        if "waveform" not in clip or self.samples >= len(clip["waveform"]):
            return clip
        made = {**clip, "waveform": window(clip["waveform"], self.samples)}
        if "attributes" in clip:
            counts = torch.tensor([label.isdigit() for label in LABELS])
            made["attributes"] = clip["attributes"].masked_fill(counts, float("nan"))
        return made


def _thing_alone(thing: str) -> Tensor:
    """Attributes (24,) of which only the thing is known."""
    row = torch.full((len(LABELS),), float("nan"))
    row[: len(world.THINGS)] = 0.0
    row[world.THINGS.index(thing)] = 1.0
    return row


class WildWorld(World):
    """The world for training ears on strangers' sounds; only training clips are wild, the others are the world's own.

    Args:
        strange, recorded, seconds: of the training clips, see :class:`WildClips`.
        recordings: folder with sounds at 16 kHz as ``THING/NAME.wav``, see ``benchmarks/real_sounds.py``; none by default.
        parts: see :class:`World`; default ``waveform`` and ``attributes``.
        **world: further options of :class:`World`.

    Raises:
        FileNotFoundError: the folder of recordings holds none.
    """

    def __init__(
        self,
        strange: float = 0.4,
        recorded: float = 0.0,
        recordings: Path | None = None,
        seconds: float = SECONDS,
        parts: list[str] | None = None,
        **world: Any,
    ) -> None:
        super().__init__(parts=["waveform", "attributes"] if parts is None else parts, **world)
        self.strange, self.recorded, self.folder, self.seconds = strange, recorded, recordings, seconds

    def clips(self, split: str, parts: tuple[str, ...]) -> Dataset[dict[str, Any]]:
        """See :meth:`World.clips`."""
        own = Clips(split, self.counts[split], parts, self.seed)
        if split != "train":
            return own
        recordings = read_recordings(self.folder) if self.folder else {}
        return WildClips(own, self.strange, self.recorded, recordings, self.seconds)


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
