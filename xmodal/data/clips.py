"""Which files of a folder are one clip, and under which id: never two things under one, never the first one that comes.

A clip's files have one stem and lie in one folder, or in folders that are named for a kind of media (``audio/a.wav`` and
``frames/a.jpg``). Its id is its path from the top, without such folders, so it does not depend on what else is there.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

from xmodal.data.opening import Member
from xmodal.files import KINDS, is_hidden, suffix_of

Row = dict[str, Any]
MEDIA_FOLDERS = frozenset(
    [
        "audio",
        "audios",
        "sound",
        "sounds",
        "wav",
        "wavs",
        "mp3",
        "flac",
        "frame",
        "frames",
        "image",
        "images",
        "picture",
        "pictures",
        "jpg",
        "jpgs",
        "png",
        "photo",
        "photos",
        "video",
        "videos",
        "mp4",
        "clips",
        "media",
    ]
)
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
FOREIGN = ("__MACOSX",)  # what archives made elsewhere bring along
BESIDE = frozenset({".json", ".jsonl", ".csv", ".txt", ".md", ".journal"})  # lists and notes of a data set are no media by nature


@dataclass
class Found:
    """What a builder looks for on disk: what is missing, wrong, and passed over.

    ``strict`` raises what is wrong at once; otherwise it is kept in ``errors``, and the rest goes on. ``in_place`` leaves the
    members of archives where they are.
    """

    root: Path
    strict: bool = True
    missing: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    apart: list[str] = field(default_factory=list)
    in_place: bool = False
    _ids: dict[str, str] = field(default_factory=dict)

    def wrong(self, sentence: str) -> None:
        """One thing that is wrong with the data set."""
        if self.strict:
            raise ValueError(sentence)
        self.errors.append(sentence)

    def relative(self, path: Path) -> str:
        """Path as it stands in the manifest; ValueError for one outside its folder."""
        if isinstance(path, Member):
            return f"{self.relative(path.tar)}{_encodable(path.place())}"
        resolved = path.resolve()
        if not resolved.is_relative_to(self.root):
            raise ValueError(f"{path} lies outside the manifest's folder {self.root}: write the manifest into a folder above it")
        return _encodable(str(resolved.relative_to(self.root)))

    def media(self, files: dict[str, Path]) -> Row:
        """The fields audio, image and video of a clip; its video is left out where it has both others."""
        if "audio" in files and "image" in files:
            files = {key: value for key, value in files.items() if key != "video"}
        return {key: self.relative(path) for key, path in files.items()}

    def new_id(self, name: str, place: str) -> str:
        """The id of the clip of a place: its name, with a number of the place behind it where another clip has that name."""
        if self._ids.setdefault(name, place) != place:
            name = f"{name}-{crc32(place.encode(errors='surrogateescape')):08x}"
            self._ids[name] = place
        return name


def _encodable(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the name of {name!r} is not valid UTF-8: rename the file") from error
    return name


@dataclass
class Clip:
    """Files of one stem that belong together; ``folders`` are those from the top that are not named for a kind of media."""

    stem: str
    folders: tuple[str, ...] = ()
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Folders and stem, as one path."""
        return "/".join((*self.folders, self.stem))


def walk(folder: Path, found: Found) -> Iterator[tuple[Path, str]]:
    """Media below a folder and their kinds, in the order of their paths; hidden ones are passed over, others are counted."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(each for each in folders if not is_hidden(each) and each not in FOREIGN)
        for name in sorted(names):
            suffix = suffix_of(name)
            if is_hidden(name):
                continue
            if suffix in KINDS:
                yield Path(place) / name, KINDS[suffix]
            elif suffix not in BESIDE:
                found.passed_over[suffix or "without suffix"] += 1


def clips(folder: Path, found: Found) -> list[Clip]:
    """The clips below a folder; two files of one kind for one clip are an error that names both."""
    made: dict[tuple[tuple[str, ...], str], Clip] = {}
    for path, kind in walk(folder, found):
        folders = tuple(part for part in path.parent.relative_to(folder).parts if part.lower() not in MEDIA_FOLDERS)
        add(made.setdefault((folders, path.stem), Clip(path.stem, folders)).files, kind, path, found)
    stems: dict[str, Clip] = {}
    for clip in made.values():
        if (other := stems.setdefault(clip.stem, clip)) is not clip and not (other.files.keys() & clip.files.keys()):
            found.apart.append(f"{other.place} and {clip.place}")
    return list(made.values())


def by_stem(folder: Path, found: Found) -> dict[str, dict[str, Path]]:
    """Media below a folder by stem and kind, for data sets whose files have unique names wherever they lie."""
    pairs: dict[str, dict[str, Path]] = {}
    for path, kind in walk(folder, found):
        add(pairs.setdefault(path.stem, {}), kind, path, found)
    return pairs


def add(files: dict[str, Path], kind: str, path: Path, found: Found) -> None:
    """Add a file to a clip; an error where the clip has one of this kind already."""
    if kind in files:
        found.wrong(f"{files[kind]} and {path} would be the {kind} of one clip: rename one of them, or take it away")
    else:
        files[kind] = path
