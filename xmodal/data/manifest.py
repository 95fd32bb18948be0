"""Manifests: one clip per line of JSON (or CSV), paths relative to the manifest and never outside its folder."""

from __future__ import annotations

import csv
import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, overload

import numpy as np

from xmodal.data.lines import Lines, check_split
from xmodal.data.opening import MEMBER, Member, Remote, is_url, located
from xmodal.files import own_cache, write_whole

FIELDS = ("id", "audio", "image", "video", "start", "duration", "text", "label", "split")
FIELDS_KNOWN = {*FIELDS, "factors"}  # the miniature world writes what it has drawn


@dataclass(frozen=True)
class Row:
    """One clip. ``audio``, ``image`` and ``video`` are absolute paths, or what has their methods (`xmodal.data.opening.Source`).

    ``start`` and ``duration`` are seconds within the sound.
    A clip with a video and no audio or image of its own takes them from the video.
    """

    id: str
    audio: Path | None = None
    image: Path | None = None
    video: Path | None = None
    text: str = ""
    label: str = ""
    split: str = ""
    start: float = 0.0
    duration: float | None = None


class Manifest(Sequence[Row]):
    """The rows of a JSON-lines manifest, parsed when asked for: it holds no object for a row, whatever their number.

    ``split`` keeps its rows and those that name no split. A row that is not valid raises ValueError with file and line
    when it is read. CSV files are read whole. A manifest at a URL is copied into the cache folder, and its media lie beside it.
    A row that names a URL elsewhere is valid with ``remote`` alone (default: where ``XMODAL_REMOTE`` is 1).

    Raises FileNotFoundError for a missing manifest, ValueError where no row is left.
    """

    def __init__(self, path: str | Path, split: str | None = None, remote: bool | None = None) -> None:
        self.path = located(path)
        self.remote = os.environ.get("XMODAL_REMOTE") == "1" if remote is None else remote
        if not self.path.is_file():
            expected = "expected a JSON-lines or CSV file with id, audio and image per line"
            raise FileNotFoundError(f"there is no manifest {self.path}: {expected}")
        self.root = self.path.parent.resolve()
        file = self.path.fetched(own_cache() / "manifests") if isinstance(self.path, Remote) else self.path
        self._folders: dict[str, Path | None] = {}
        self._chosen: np.ndarray | None = None
        self._lines: Sequence[bytes]
        if self.path.suffix.lower() == ".csv":
            self._lines = [json.dumps(row).encode() for row in _csv_rows(file)]
            if split is not None:
                self._chosen = np.array([n for n, row in enumerate(self) if row.split in ("", split)], np.int64)
        else:
            self._lines = Lines(file, split)
        if not len(self):
            raise ValueError(f"{self.path} has no rows" + (f" of split {split!r}" if split else ""))

    def chosen(self, indices: np.ndarray) -> Manifest:
        """A manifest of these rows alone, by their indices."""
        made = copy(self)
        made._chosen = indices if self._chosen is None else self._chosen[indices]
        return made

    def of(self, split: str) -> Manifest:
        """A manifest of the rows of a split, and those that name none; each row is read for it."""
        wanted = np.fromiter((row.split in ("", split) for row in self), bool, len(self))
        return self.chosen(np.flatnonzero(wanted))

    def __len__(self) -> int:
        return len(self._lines) if self._chosen is None else len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return self._row(index if self._chosen is None else int(self._chosen[index]))

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    def line(self, index: int) -> int:
        """The line of the file on which a row stands, from 1."""
        return self._line(index if self._chosen is None else int(self._chosen[index]))

    def _line(self, number: int) -> int:
        number = range(len(self._lines))[number]
        return self._lines.number(number) if isinstance(self._lines, Lines) else number + 2

    def _row(self, number: int) -> Row:
        try:
            return self._parsed(self._lines[number])
        except ValueError as error:
            raise ValueError(f"{self.path}:{self._line(number)}: {error}") from error

    def _parsed(self, line: bytes) -> Row:
        try:
            fields = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"not a line of JSON ({getattr(error, 'msg', error)})") from error
        name = fields.get("id") if isinstance(fields, dict) else None
        if not isinstance(name, str) or not name:
            raise ValueError(f'expected an object with a text "id", found {str(fields)[:60]!r}')
        if os.path.basename(name) != name or name in (".", "..") or "\0" in name:
            raise ValueError(f"the id {name!r} cannot be a file name; leave out slashes")
        for unknown in fields.keys() - FIELDS_KNOWN:
            _check_field(str(unknown), self.path)
        if not isinstance(fields.get("split") or "", str):
            raise ValueError(f'"split" is {fields["split"]!r}, but a split is a text, such as "train"')
        start, duration = _seconds(fields, "start"), _seconds(fields, "duration")
        if start is not None and start < 0:
            raise ValueError(f"start is {start:g} s, but a clip starts at 0 or later")
        if duration is not None and duration <= 0:
            raise ValueError(f"duration is {duration:g} s, but a clip lasts longer than 0")
        check_split(str(fields.get("split") or ""))
        return Row(
            id=name,
            audio=self._inside(fields.get("audio")),
            image=self._inside(fields.get("image")),
            video=self._inside(fields.get("video")),
            text=str(fields.get("text") or ""),
            label=str(fields.get("label") or ""),
            split=str(fields.get("split") or ""),
            start=start or 0.0,
            duration=duration,
        )

    def _inside(self, name: str | None) -> Path | None:
        if not name:
            return None
        if not isinstance(name, str):
            raise ValueError(f"expected the path of a file, found {name!r}")
        if "\0" in name:
            raise ValueError(f"the path {name!r} holds a zero byte, which no file's name has")
        if ".tar#" in name and (match := MEMBER.fullmatch(name)):
            tar = self._inside(match["tar"])
            return tar and Member(tar, match["name"], int(match["at"]) if match["at"] else None, int(match["size"] or 0))
        if is_url(name):
            return self._fetched(name)
        if isinstance(self.root, Remote):
            if (found := self.root.inside(name)) is None:
                raise ValueError(f"{name!r} lies outside the manifest's folder {self.root}")
            return found
        folder, last = os.path.split(name)
        # Folders are few and files many: a folder is resolved once, a file only if it is itself a link.
        if folder not in self._folders:
            below = self.root / folder
            self._folders[folder] = below if below.resolve().is_relative_to(self.root) else None
        place = self._folders[folder]
        path = None if place is None or last in ("", ".", "..") else place / last
        if path is None or (os.path.islink(path) and not path.resolve().is_relative_to(self.root)):
            raise ValueError(f"{name!r} lies outside the manifest's folder {self.root}")
        return path

    def _fetched(self, url: str) -> Path:
        found = Remote(url)
        if not self.remote and not (isinstance(self.root, Remote) and self.root.holds(found)):
            raise ValueError(f"{url} would be fetched from the network: allow it with --data.remote true, or XMODAL_REMOTE=1")
        return found


def _seconds(fields: Mapping[str, Any], name: str) -> float | None:
    value = fields.get(name)
    if value is None or value == "":
        return None
    try:
        if isinstance(value, bool):
            raise TypeError(f"{name} is {value}")
        seconds = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{error}: start and duration are seconds") from error
    if not math.isfinite(seconds):
        raise ValueError(f"{name} is {seconds}, but start and duration are seconds")
    return seconds


def _check_field(name: str, path: Path) -> None:
    """A field that no manifest has: refused where it is nearly one that they have, said once otherwise."""
    if close := get_close_matches(name.lower(), FIELDS, n=1, cutoff=0.75):
        raise ValueError(f"a manifest has no field {name!r}: did you mean {close[0]!r}?")
    warnings.warn(f"{path} has a field {name!r}, which nothing reads (known are {', '.join(FIELDS)})", stacklevel=2)


def valid_rows(path: str | Path, split: str | None = None, remote: bool | None = None) -> tuple[Manifest, list[str]]:
    """The rows of ``split`` that `read_manifest` takes, and one sentence, with file and line, for each that it refuses.

    Every row is read once, none is kept. Raises ValueError or FileNotFoundError for what is wrong with the whole file, or where
    no row is valid.
    """
    manifest = Manifest(path, split, remote)
    wrong: dict[int, str] = {}

    def prints() -> Iterator[int]:
        for index in range(len(manifest)):
            try:
                yield hash(manifest[index].id)
            except ValueError as error:
                wrong[index] = str(error)
                yield 0

    hashes = np.fromiter(prints(), np.int64, len(manifest))
    for index in _repeated(manifest, hashes, wrong):
        wrong[index] = _twice(manifest, index)
    if len(wrong) == len(manifest):
        raise ValueError(wrong[0])
    told = [wrong[index] for index in sorted(wrong)]
    return (manifest.chosen(np.delete(np.arange(len(manifest)), sorted(wrong))) if wrong else manifest), told


def _repeated(manifest: Manifest, hashes: np.ndarray, wrong: Mapping[int, str]) -> list[int]:
    """Indices of rows whose id an earlier row has. Ids of equal hash are compared as they are."""
    order = np.argsort(hashes, kind="stable")
    alike = hashes[order[1:]] == hashes[order[:-1]]
    suspects = np.unique(np.concatenate([order[1:][alike], order[:-1][alike]])).tolist()
    seen: set[str] = set()
    found = []
    for index in suspects:
        if index not in wrong:
            name = manifest[index].id
            if name in seen:
                found.append(index)
            seen.add(name)
    return found


def _twice(manifest: Manifest, index: int) -> str:
    place, name = f"{manifest.path}:{manifest.line(index)}", manifest[index].id
    return f"{place}: the id {name!r} stands on an earlier line too; ids must be unique"


def read_manifest(path: str | Path, split: str | None = None) -> list[Row]:
    """Read and check all rows of ``split`` (all rows if None, and rows that name no split always), into memory.

    Raises FileNotFoundError for a missing manifest and ValueError, with file and line, for a row that is not JSON, has
    no or a repeated id, or names a path outside the manifest's folder; also where no row is left.
    """
    rows, seen = [], set()
    manifest = Manifest(path)
    for index, row in enumerate(manifest):
        if row.id in seen:
            raise ValueError(_twice(manifest, index))
        seen.add(row.id)
        if split is None or row.split in ("", split):
            rows.append(row)
    if not rows:
        raise ValueError(f"{path} has no rows of split {split!r}")
    return rows


def write_manifest(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write JSON lines in one move and return their number; empty fields are left out.

    Raises ValueError for a field that no manifest has, or a repeated id, and OSError where it cannot be written.
    """
    seen: set[str] = set()

    def lines() -> Iterator[bytes]:
        for row in rows:
            if unknown := row.keys() - set(FIELDS):
                raise ValueError(f"a manifest has no field {', '.join(sorted(unknown))}: it has {', '.join(FIELDS)}")
            if row["id"] in seen:
                raise ValueError(f"the id {row['id']!r} occurs twice: ids must be unique")
            try:
                _seconds(row, "start"), _seconds(row, "duration")
            except ValueError as error:
                raise ValueError(f"the clip {row['id']!r}: {error}") from error
            seen.add(row["id"])
            kept = {key: row[key] for key in FIELDS if row.get(key) not in (None, "")}
            yield json.dumps(kept, ensure_ascii=False).encode() + b"\n"

    write_whole(Path(path), lines())
    return len(seen)


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(_decoded(file, path))
        unknown = set(reader.fieldnames or ()) - set(FIELDS)
        if "id" not in (reader.fieldnames or ()) or unknown:
            found = ", ".join(reader.fieldnames or ()) or "nothing"
            raise ValueError(f"{path} needs a header with id and others of {', '.join(FIELDS)}; found {found}")
        rows = list(reader)
    for number, row in enumerate(rows, 2):
        if None in row:
            raise ValueError(f"{path}:{number}: more fields than the header has: is there a comma without quotation marks?")
    return rows


def _decoded(file: Iterable[str], path: Path) -> Iterator[str]:
    try:
        yield from file
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}): save it so") from error
