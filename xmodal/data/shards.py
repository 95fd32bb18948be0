"""WebDataset shards: tar files whose members ``KEY.wav``, ``KEY.jpg``, ``KEY.json``, ``KEY.txt`` make up one clip."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any
from uuid import uuid4

from xmodal.files import cannot_write

TEXTS = {".txt": "text", ".cls": "label"}
WORDS = {"text": ("text", "caption"), "label": ("label", "class"), "split": ("split",)}
SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
LONGEST = 1_000_000  # bytes of a text or json member


def unpack(shard: Path, target: Path, kinds: dict[str, str]) -> list[dict[str, Any]]:
    """Unpack the media of one shard into the folder ``target`` and describe its clips.

    The folder appears when it is complete; one that exists is believed. Files lie in it directly, whatever folders the
    members name. ``kinds`` maps suffixes to ``audio``, ``image`` and ``video``; other members are passed over.

    Returns a row for each key, with absolute paths. Raises ValueError for a shard that is damaged or has a member that
    would land outside (``..``, an absolute name, a link), before anything is written; OSError for a full disk.
    """
    try:
        with tarfile.open(shard) as tar:
            members = list(_members(shard, tar))
            if not target.is_dir():
                _write(tar, [(name, member) for name, member in members if _suffix(name) in kinds], target)
            return _rows(tar, members, shard, target, kinds)
    except (tarfile.TarError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{shard} is not a readable tar file ({error}): fetch it again") from error


def _members(shard: Path, tar: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Flat file name and member, of all files."""
    for member in tar:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or "\\" in member.name or member.issym() or member.islnk():
            raise ValueError(f"{shard} has the member {member.name!r}, which would land outside its folder: do not use this file")
        if member.isfile() and not path.name.startswith("."):
            yield "-".join(part for part in path.parts if part != "."), member


def _rows(
    tar: tarfile.TarFile, members: list[tuple[str, tarfile.TarInfo]], shard: Path, target: Path, kinds: dict[str, str]
) -> list[dict[str, Any]]:
    clips: dict[str, dict[str, Any]] = {}
    for name, member in members:
        key, suffix = name.split(".")[0], _suffix(name)
        clip = clips.setdefault(key, {"id": key, "split": SPLITS.get(shard.stem.replace("_", "-").split("-")[0], "")})
        if suffix in kinds:
            clip.setdefault(kinds[suffix], target / name)
        elif suffix in TEXTS:
            clip[TEXTS[suffix]] = _read(shard, tar, member).decode("utf-8").strip()
        elif suffix == ".json":
            clip |= _fields(shard, member, _read(shard, tar, member))
    return [clip for clip in clips.values() if clip.keys() & {"audio", "image", "video"}]


def _fields(shard: Path, member: tarfile.TarInfo, content: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{shard}: the member {member.name!r} is not JSON ({error})") from error
    if not isinstance(fields, dict):
        return {}
    found = {name: fields[word] for name, words in WORDS.items() for word in words if isinstance(fields.get(word), str)}
    if "split" in found:
        found["split"] = SPLITS.get(found["split"], found["split"])
    return found | {name: fields[name] for name in ("start", "duration") if isinstance(fields.get(name), (int, float))}


def _write(tar: tarfile.TarFile, media: list[tuple[str, tarfile.TarInfo]], target: Path) -> None:
    """Write members into a folder beside ``target`` and rename it."""
    if not media:
        return
    partial = target.with_name(f".{target.name}.{uuid4().hex[:12]}.partial")
    try:
        partial.mkdir(parents=True)
        for name, member in media:
            with _open(tar, member) as source, (partial / name).open("xb") as file:
                shutil.copyfileobj(source, file)
        os.rename(partial, target)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _read(shard: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > LONGEST:
        raise ValueError(f"{shard}: the member {member.name!r} has {member.size} bytes of text; at most {LONGEST} are read")
    with _open(tar, member) as file:
        return file.read()


def _open(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(member)
    if file is None:
        raise tarfile.TarError(f"{member.name} is no file")
    return file


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()
