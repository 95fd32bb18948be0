"""Files to judge: the items of a folder or a manifest, and what judges make of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from xmodal.data.audio import load_audio
from xmodal.data.manifest import read_manifest
from xmodal.data.video import even_times, load_frames, video_duration
from xmodal.files import AUDIO, IMAGE, VIDEO, stems
from xmodal.metrics.features import normalized

SAME = 1e-5  # mean of one minus the cosine of two items: what lies below has no spread
LOGITS = "_logits"
Progress = Callable[[int, int], None]


def judge_of(source: str) -> str:
    """The judge that gives a source: logits come from one that gives embeddings, too."""
    return "tagger" if source == "logits" else source.removesuffix(LOGITS)


@dataclass(frozen=True)
class Item:
    """One made or real thing: its file, and what is known of its clip ("" or None where nothing is).

    A video may stand for a picture, which is then its middle frame, or for a sound. ``start`` and ``duration`` (seconds) are
    the clip's stretch of its sound and video.
    """

    id: str
    path: Path
    label: str = ""
    text: str = ""
    image: Path | None = None
    audio: Path | None = None
    start: float = 0.0
    duration: float | None = None

    def stretch(self, path: Path) -> tuple[float, float | None]:
        """Start and duration within a file: a manifest names a stretch of the clip's own; what was made has none."""
        return (self.start, self.duration) if path in (self.image, self.audio) else (0.0, None)


@dataclass
class Judgement:
    """What one judge makes of some items: by id a row (d,) or several (K, d), logits, and why an item has none."""

    rows: dict[str, Tensor] = field(default_factory=dict)
    logits: dict[str, Tensor] = field(default_factory=dict)
    lacking: dict[str, str] = field(default_factory=dict)


@dataclass
class View:
    """What the judges make of some items: the rows by source and id, and reasons why an item has none.

    Sources are ``tagger``, ``logits``, ``image``, ``audio``, or a suite's own.
    """

    items: list[Item]
    rows: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    lacking: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def ids(self) -> list[str]:
        """The items' names."""
        return [item.id for item in self.items]

    def add(self, source: str, found: Judgement) -> None:
        """Take over what a judge found; its logits become a source of their own."""
        self.rows[source], self.lacking[source] = found.rows, found.lacking
        if found.logits:
            name = "logits" if source == "tagger" else f"{source}{LOGITS}"
            self.rows[name], self.lacking[name] = found.logits, found.lacking

    def pick(self, order: Sequence[int], items: Sequence[Item]) -> View:
        """The rows of other items, under the names of ``items``."""
        from_id = [(self.items[row].id, item.id) for row, item in zip(order, items, strict=True)]

        def moved(table: dict) -> dict:
            return {name: {new: each[old] for old, new in from_id if old in each} for name, each in table.items()}

        return View(list(items), moved(self.rows), moved(self.lacking))


def middle_frame(item: Item, path: Path) -> Tensor:
    """Pixels (3, H, W) in [0, 1] of the middle of the clip's stretch of a video; errors as `load_frames`."""
    start, duration = item.stretch(path)
    if not start and duration is None:
        return load_frames(path, 1)[0]
    left = video_duration(path) - start
    return load_frames(path, [start + even_times(left if duration is None else min(left, duration), 1)[0]])[0]


def first(item: Item, path: Path, sample_rate: int, seconds: float) -> Tensor:
    """The first ``seconds`` of an item's sound (T,) less their mean, so read as av-benchmark reads; errors as `load_audio`."""
    start, duration = item.stretch(path)
    waveform = load_audio(path, sample_rate, start=start, duration=min(seconds, duration or seconds))
    waveform = waveform[: round(seconds * sample_rate)]
    return waveform - waveform.mean()


def spread(rows: Sequence[Tensor]) -> float:
    """Mean of one minus the cosine over all pairs of rows (each with itself, too), in float64; 0 for rows of one direction."""
    plain = torch.cat([row.reshape(-1, row.shape[-1]) for row in rows]).double()
    return 1 - float(normalized(plain).mean(0).square().sum())


def collect(source: Path, modality: str, split: str | None = None) -> list[Item]:
    """The items of a folder (id: a file's stem) or of a manifest (its rows of ``split``), in the order of their ids.

    In a folder, a picture and a sound of the same stem belong to one clip; a video stands for what is not there beside it.
    Raises ValueError where there are none or two of one name, FileNotFoundError where the source does not exist.
    """
    if source.is_dir():
        pictures = {**stems(source, VIDEO), **stems(source, IMAGE)}
        sounds = {**stems(source, VIDEO), **stems(source, AUDIO)}
        own = pictures if modality == "image" else sounds
        items = [Item(stem, path, image=pictures.get(stem), audio=sounds.get(stem)) for stem, path in own.items()]
    elif source.is_file():
        items = []
        for row in read_manifest(source, split):
            files = {"image": row.image or row.video, "audio": row.audio or row.video}
            path = files[modality]
            if path is not None:
                items.append(Item(row.id, path, row.label, row.text, files["image"], files["audio"], row.start, row.duration))
        if len({item.id for item in items}) < len(items):
            raise ValueError(f"two rows of {source} have the same id: each clip needs a name of its own")
    else:
        raise FileNotFoundError(
            f"there is no folder and no manifest {source}: give a folder of files, or a manifest (docs/data.md)"
        )
    if not items:
        raise ValueError(f"{source} holds no {'pictures' if modality == 'image' else 'sounds'}")
    return sorted(items, key=lambda item: item.id)
