"""`xmodal data prepare`: manifests from folders and public data sets as they lie on disk. Nothing is decoded.

Nothing is copied either, but from WebDataset shards, which are unpacked beside the manifest.

A builder is a function ``(source, root) -> rows``, where paths in rows are relative to ``root``, the manifest's folder.
Facts of the layouts stand with each builder; a clip whose file is missing is counted, not invented.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

from xmodal.data.manifest import write_manifest
from xmodal.data.shards import unpack

AUDIO = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".aiff", ".aif"}
IMAGE = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
VIDEO = {".mp4", ".mkv", ".webm", ".mov", ".avi"}
KINDS = {**dict.fromkeys(AUDIO, "audio"), **dict.fromkeys(IMAGE, "image"), **dict.fromkeys(VIDEO, "video")}
SECONDS = 10.0  # length of a clip of VGGSound, AudioCaps and MUSIC windows

Row = dict[str, Any]
Builder = Callable[[Path, "Found"], Iterator[Row]]


@dataclass
class Found:
    """What a builder looks for on disk, and how often in vain."""

    root: Path
    missing: list[str] = field(default_factory=list)

    def relative(self, path: Path) -> str:
        """Path as it stands in the manifest; ValueError for one outside its folder."""
        resolved = path.resolve()
        if not resolved.is_relative_to(self.root):
            raise ValueError(f"{path} lies outside the manifest's folder {self.root}: write the manifest into a folder above it")
        name = str(resolved.relative_to(self.root))
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"the name of {name!r} is not valid UTF-8: rename the file") from error
        return name

    def media(self, files: dict[str, Path]) -> Row:
        """The fields audio, image and video of a clip; its video is left out where it has both others."""
        if "audio" in files and "image" in files:
            files = {key: value for key, value in files.items() if key != "video"}
        return {key: self.relative(path) for key, path in files.items()}


def prepare(kind: str, source: Path, manifest: Path, validation: float = 0.0, test: float = 0.0) -> tuple[int, list[str]]:
    """Write the manifest of a data set; returns the number of clips and the names of those whose files are missing.

    ``validation`` and ``test`` are the shares that these splits get of the clips which have none; the others are for
    training then. A clip's split depends on its id alone, so it stays where it is when others are added.

    Raises ValueError for an unknown kind, a layout that does not fit, or where nothing is found; FileNotFoundError.
    """
    if min(validation, test) < 0 or validation + test >= 1:
        raise ValueError(f"validation {validation} and test {test} are shares of 1, and something must be left for training")
    if kind not in BUILDERS:
        raise ValueError(f"there is no data set kind {kind!r}: known are {', '.join(BUILDERS)}")
    if not source.exists():
        raise FileNotFoundError(f"there is no folder {source}")
    found = Found(manifest.parent.resolve())
    rows = list(BUILDERS[kind](source, found))
    if not rows:
        hint = f": {len(found.missing)} clips are listed, none of their files is there" if found.missing else ""
        raise ValueError(f"nothing of kind {kind!r} was found in {source}{hint} (see docs/data.md for the layout)")
    if validation or test:
        for row in rows:
            row["split"] = row.get("split") or _share(row["id"], validation, test)
    return write_manifest(manifest, rows), found.missing


def _share(name: str, validation: float, test: float) -> str:
    place = crc32(name.encode()) / 2**32
    return "validation" if place < validation else "test" if place < validation + test else "train"


def by_stem(folder: Path) -> dict[str, dict[str, Path]]:
    """Media below a folder by stem and kind; files in sub-folders such as ``audio/`` and ``frames/`` meet by their stem."""
    pairs: dict[str, dict[str, Path]] = {}
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if (kind := KINDS.get(suffix.lower())) and not name.startswith("."):
                pairs.setdefault(stem, {}).setdefault(kind, Path(place) / name)
    return pairs


def folder(source: Path, found: Found) -> Iterator[Row]:
    """Any folder: files of one stem are one clip; pictures alone and sounds alone are clips too."""
    for stem, files in by_stem(source).items():
        yield {"id": stem, **found.media(files)}


def class_folders(source: Path, found: Found) -> Iterator[Row]:
    """``videos/{train,test}/{class}/*.mp4`` or ``videos/{class}/*.mp4`` (Landscape, AVSync15), with or without lists.

    ``train.txt`` and ``test.txt`` beside ``videos`` are the lists: names of files, with or without folders; a clip that
    is in neither has no split. A class is its folder's name with spaces for underscores.
    """
    base = source / "videos" if (source / "videos").is_dir() else source
    listed: dict[str, str] = {}
    for split in ("train", "test"):
        if (source / f"{split}.txt").is_file():
            lines = (source / f"{split}.txt").read_text(encoding="utf-8").splitlines()
            listed |= {Path(line.strip()).stem: split for line in lines if line.strip()}
    seen = set()
    for path in sorted(base.rglob("*")):
        kind = KINDS.get(path.suffix.lower())
        parts = path.relative_to(base).parts
        if kind is None or len(parts) < 2:
            continue
        split = parts[0] if parts[0] in ("train", "test", "validation", "val") and len(parts) > 2 else listed.get(path.stem, "")
        seen.add(path.stem)
        label = parts[-2].replace("_", " ")
        name = path.stem if path.stem.startswith(parts[-2]) else f"{parts[-2]}-{path.stem}"
        yield {"id": name, kind: found.relative(path), "label": label, "split": "validation" if split == "val" else split}
    found.missing += sorted(set(listed) - seen)


CLIP = re.compile(r"(?P<id>.{11})_(?P<start>\d+)(?:_(?P<end>\d+))?$")


def clip_key(stem: str) -> tuple[str, int] | None:
    """(YouTube id, start in seconds) of a clip's name in either public form; None if it is in neither.

    ``ID_000012`` counts seconds, ``ID_12000_22000`` milliseconds. Ids have eleven characters, among them ``_`` and ``-``.
    """
    match = CLIP.match(stem)
    if match is None:
        return None
    start = int(match["start"])
    return match["id"], start // 1000 if match["end"] is not None else start


def vggsound(source: Path, found: Found) -> Iterator[Row]:
    """``vggsound.csv`` (no header: id, start, label, split; labels may hold commas) beside videos or wav + jpg of any depth."""
    table = _only(source, "vggsound.csv")
    files: dict[tuple[str, int], dict[str, Path]] = {}
    for stem, media in by_stem(source).items():
        if (key := clip_key(stem)) is not None:
            files.setdefault(key, {}).update(media)
    with table.open(newline="", encoding="utf-8") as lines:
        for number, fields in enumerate(csv.reader(lines, skipinitialspace=True), 1):
            if len(fields) != 4 or not fields[1].isdigit() or fields[3] not in ("train", "test"):
                raise ValueError(f"{table}:{number}: expected id, start seconds, label, train or test; found {fields}")
            identity, start, label, split = fields
            name = f"{identity}_{int(start):06d}"
            if (identity, int(start)) not in files:
                found.missing.append(name)
                continue
            yield {"id": name, **found.media(files[identity, int(start)]), "label": label, "split": split}


def audiocaps(source: Path, found: Found) -> Iterator[Row]:
    """``{train,val,test}.csv`` (audiocap_id, youtube_id, start_time, caption) and sounds of any depth.

    They are named ``Y{id}.wav``, ``{id}.wav`` or ``{id}_{start}.wav``. A clip of several captions becomes one row for
    each: its id ends in the caption's number.
    """
    files = {stem: media for stem, media in by_stem(source).items() if "audio" in media or "video" in media}
    for split in ("train", "val", "test"):
        for table in sorted(source.rglob(f"{split}.csv")):
            for row in _table(table, ("audiocap_id", "youtube_id", "start_time", "caption")):
                identity, start = row["youtube_id"], row["start_time"]
                forms = (f"{identity}_{start}", f"{identity}_{int(float(start)):06d}", f"Y{identity}", identity)
                media = next((files[form] for form in forms if form in files), None)
                if media is None:
                    found.missing.append(f"{identity}_{start}")
                    continue
                name = f"{identity}_{start}-{row['audiocap_id']}"
                yield {"id": name, **found.media(media), "text": row["caption"], "split": _split(split)}


def clotho(source: Path, found: Found) -> Iterator[Row]:
    """``clotho_captions_{development,validation,evaluation}.csv`` and a folder of sounds for each.

    Columns: file_name, caption_1 … caption_5; each caption is a row.
    """
    splits = {"development": "train", "validation": "validation", "evaluation": "test"}
    for part, split in splits.items():
        for table in sorted(source.rglob(f"*{part}*.csv")):
            if "caption" not in table.name:
                continue
            for row in _table(table, ("file_name", *(f"caption_{number}" for number in range(1, 6)))):
                path = next(iter(sorted(source.rglob(f"{part}/{_literal(row['file_name'])}"))), None)
                if path is None:
                    found.missing.append(row["file_name"])
                    continue
                for number in range(1, 6):
                    name = f"{path.stem}-{number}"
                    yield {"id": name, "audio": found.relative(path), "text": row[f"caption_{number}"], "split": split}


def music(source: Path, found: Found) -> Iterator[Row]:
    """``*.json`` ({"videos": {instrument: [ids]}}) beside ``{solo,duet}/{instrument}/{id}.mp4`` or any folder of such names."""
    files = by_stem(source)
    seen: set[str] = set()
    for table in sorted(source.rglob("*.json")):
        try:
            videos = json.loads(table.read_text(encoding="utf-8"))["videos"]
        except (ValueError, KeyError, TypeError):
            continue  # another file of the folder
        for instrument, identities in videos.items():
            for identity in identities:
                if identity in seen:
                    continue
                seen.add(identity)
                if identity not in files:
                    found.missing.append(identity)
                    continue
                yield {"id": identity, **found.media(files[identity]), "label": instrument.replace("_", " ")}


def imagehear(source: Path, found: Found) -> Iterator[Row]:
    """Flat folder of ``{class}{number}.jpg``; a test set of pictures without sound."""
    for path in sorted(source.iterdir()):
        if path.suffix.lower() in IMAGE:
            label = path.stem.rstrip("0123456789").replace("_", " ").strip()
            yield {"id": path.stem, "image": found.relative(path), "label": label, "split": "test"}


def webdataset(source: Path, found: Found) -> Iterator[Row]:
    """``*.tar`` shards of any depth, unpacked into ``media/SHARD/`` beside the manifest.

    ``KEY.json`` may hold text (or caption), label (or class), split, start and duration; ``KEY.txt`` is the text and
    ``KEY.cls`` the label. Without a split of its own a clip has that of its shard's name (``train-0003.tar``). A shard that is
    unpacked already is not unpacked again; a key that another shard has used gets its shard's name in front.
    """
    seen: set[str] = set()
    for shard in sorted(source.rglob("*.tar")):
        place = "-".join(shard.relative_to(source).with_suffix("").parts)
        for row in unpack(shard, found.root / "media" / place, KINDS):
            if row["id"] in seen:
                row["id"] = f"{place}-{row['id']}"
            seen.add(row["id"])
            media: dict[str, Path] = {key: row.pop(key) for key in ("audio", "image", "video") if key in row}
            yield {**row, **found.media(media)}


BUILDERS: dict[str, Builder] = {
    "folder": folder,
    "class-folders": class_folders,
    "vggsound": vggsound,
    "audiocaps": audiocaps,
    "clotho": clotho,
    "music": music,
    "imagehear": imagehear,
    "webdataset": webdataset,
}


def _only(source: Path, name: str) -> Path:
    tables = sorted(source.rglob(name))
    if not tables:
        raise FileNotFoundError(f"{source} has no {name}: put the data set's own list beside its clips")
    return tables[0]


def _table(path: Path, columns: Iterable[str]) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        if absent := [column for column in columns if column not in (reader.fieldnames or ())]:
            raise ValueError(f"{path} lacks the columns {', '.join(absent)}: is it the data set's own list?")
        yield from reader


def _literal(name: str) -> str:
    """A file's name as a glob pattern that means just itself."""
    return re.sub(r"([*?[])", r"[\1]", name)


def _split(name: str) -> str:
    return "validation" if name == "val" else name
