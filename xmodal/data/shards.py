"""WebDataset shards: tar files whose members ``KEY.wav``, ``KEY.jpg``, ``KEY.json``, ``KEY.txt`` make up one clip."""

from __future__ import annotations

import json
import math
import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any
from uuid import uuid4
from zlib import crc32

from xmodal.data.opening import Member, in_place, is_outside
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
            return _rows(tar, members, shard, lambda name, member: target / name, kinds)
    except (tarfile.TarError, EOFError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{shard} is not a readable tar file ({error}): fetch it again") from error


def describe(shard: Path, kinds: dict[str, str]) -> list[dict[str, Any]]:
    """As `unpack`, but the media stay in the shard: the rows name its members. ValueError for one that is compressed, too."""

    def within(name: str, member: tarfile.TarInfo) -> Path:
        if member.issparse():
            raise ValueError(f"{shard}: the member {member.name!r} has holes: leave --in-place out")
        return Member(shard, member.name, member.offset_data, member.size)

    with shard.open("rb") as file, in_place(shard, file) as tar:
        return _rows(tar, list(_members(shard, tar)), shard, within, kinds)


def _members(shard: Path, tar: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Flat file name and member, of all files; no two have the same."""
    taken: set[str] = set()
    for member in tar:
        path = PurePosixPath(member.name)
        if is_outside(member.name) or member.issym() or member.islnk():
            raise ValueError(f"{shard} has the member {member.name!r}, which would land outside its folder: do not use this file")
        if member.isfile() and not path.name.startswith("."):
            name = "-".join(part for part in path.parts if part != ".")
            if name in taken:  # a/1.wav and a-1.wav
                name = f"{crc32(member.name.encode(errors='surrogateescape')):08x}-{name}"
            if name in taken:
                raise ValueError(f"{shard} has the member {member.name!r} twice: fetch it again, or write it anew")
            taken.add(name)
            yield name, member


def _rows(
    tar: tarfile.TarFile,
    members: list[tuple[str, tarfile.TarInfo]],
    shard: Path,
    where: Callable[[str, tarfile.TarInfo], Path],
    kinds: dict[str, str],
) -> list[dict[str, Any]]:
    split = SPLITS.get(shard.stem.replace("_", "-").split("-")[0], "")
    keys = _keys([member.name for _, member in members], kinds)
    ids: dict[str, str] = {}
    rows: dict[str, dict[str, Any]] = {}
    for (name, member), key in zip(members, keys, strict=True):
        if key not in rows:
            identity = key.replace("/", "-")
            if ids.setdefault(identity, key) != key:
                identity = f"{identity}-{crc32(key.encode(errors='surrogateescape')):08x}"
            rows[key] = {"id": identity, "split": split}
        clip, suffix = rows[key], _suffix(name)
        if suffix in kinds:
            if kinds[suffix] in clip:
                both = f"{clip[kinds[suffix]].name} and {name}"
                raise ValueError(f"{shard}: {both} would be the {kinds[suffix]} of one clip, {clip['id']!r}")
            clip[kinds[suffix]] = where(name, member)
        elif suffix in TEXTS:
            clip[TEXTS[suffix]] = _read(shard, tar, member).decode("utf-8-sig").strip()
        elif suffix == ".json":
            clip |= _fields(shard, member, _read(shard, tar, member))
    return [clip for clip in rows.values() if clip.keys() & {"audio", "image", "video"}]


def _keys(names: list[str], kinds: dict[str, str]) -> list[str]:
    """The clip of each member: its path up to the first dot of the file's own name.

    Where that makes one clip of two files of a kind (``Song 2.0.wav``, ``Song 2.1.wav``), its members go by all but their
    last suffix.
    """
    paths = [PurePosixPath(name.removeprefix("./")) for name in names]
    keys = [str(path.with_name(path.name.split(".")[0])) for path in paths]
    counts = Counter((key, kinds.get(_suffix(path.name), "")) for key, path in zip(keys, paths, strict=True))
    several = {key for (key, kind), number in counts.items() if kind and number > 1}
    return [str(path.with_suffix("")) if key in several else key for key, path in zip(keys, paths, strict=True)]


def _fields(shard: Path, member: tarfile.TarInfo, content: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{shard}: the member {member.name!r} is not JSON ({error})") from error
    if not isinstance(fields, dict):
        return {}
    found: dict[str, Any] = {
        name: fields[word] for name, words in WORDS.items() for word in words if isinstance(fields.get(word), str)
    }
    if "split" in found:
        found["split"] = SPLITS.get(found["split"], found["split"])
    for name in ("start", "duration"):
        if (number := fields.get(name)) is None:
            continue
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
            raise ValueError(f"{shard}: {name} of the member {member.name!r} is {number!r}, but expected seconds")
        found[name] = number
    return found


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
