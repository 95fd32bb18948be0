"""Manifests: one clip per line of JSON (or CSV), paths relative to the manifest and never outside its folder."""

from __future__ import annotations

import csv
import json
import math
import mmap
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, overload

import numpy as np

from xmodal.files import write_whole

PIECE = 1 << 24  # bytes
UNKNOWN, THIS, OTHER = 0, 1, 2
MARK = b"\xef\xbb\xbf"  # the byte order mark that some editors put in front
# Names that people write for a split; another name of one's own is as good as any.
MISTAKEN = {
    "training": "train", "val": "validation", "valid": "validation", "dev": "validation", "testing": "test", "eval": "test"
}  # fmt: skip
FIELDS = ("id", "audio", "image", "video", "start", "duration", "text", "label", "split")
FIELDS_KNOWN = {*FIELDS, "factors"}  # the miniature world writes what it has drawn


@dataclass(frozen=True)
class Row:
    """One clip. ``audio``, ``image`` and ``video`` are absolute paths; ``start`` and ``duration`` are seconds within the sound.

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
    """The rows of a JSON-lines manifest, parsed when asked for: a million of them open in an instant.

    ``split`` keeps its rows and those that name no split. A row that is not valid raises ValueError with file and line
    when it is read. CSV files are read whole.

    Raises FileNotFoundError for a missing manifest, ValueError where no row is left.
    """

    def __init__(self, path: str | Path, split: str | None = None) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            expected = "expected a JSON-lines or CSV file with id, audio and image per line"
            raise FileNotFoundError(f"there is no manifest {self.path}: {expected}")
        self.root = self.path.parent.resolve()
        self._inside_folder: dict[str, bool] = {}
        if self.path.suffix.lower() == ".csv":
            self._lines: list[bytes] | None = [json.dumps(row).encode() for row in _csv_rows(self.path)]
            self._numbers = np.arange(len(self._lines))
            if split is not None:
                self._numbers = np.array([n for n in self._numbers if self[int(n)].split in ("", split)], np.int64)
        else:
            self._lines = None
            self._index(split)
        if not len(self._numbers):
            raise ValueError(f"{self.path} has no rows" + (f" of split {split!r}" if split else ""))

    def _index(self, split: str | None) -> None:
        """Find where the lines begin, and by their bytes alone which belong to the split."""
        with self.path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                self._numbers = np.empty(0, np.int64)
                return
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        content = np.frombuffer(self._bytes, np.uint8)
        # By pieces: comparing all at once would take as much memory as the file has bytes.
        pieces = (np.flatnonzero(content[at : at + PIECE] == ord("\n")) + at for at in range(0, len(content), PIECE))
        breaks = np.concatenate(list(pieces))
        self._starts = np.concatenate([[0], breaks + 1])
        self._ends = np.concatenate([breaks, [len(self._bytes)]])
        wanted = self._ends > self._starts
        if split is not None:
            known = _splits_by_ending(content, self._starts, self._ends, split)
            wanted &= known != OTHER
            self._unsure = np.flatnonzero(known == UNKNOWN)
            wanted[self._search(split, self._unsure)] = False
        self._numbers = np.flatnonzero(wanted)
        self._check_splits(split)
        blank = [n for n in self._numbers[(self._ends - self._starts)[self._numbers] < 3] if not self._line(n).strip()]
        self._numbers = np.setdiff1d(self._numbers, blank)

    def _search(self, split: str, lines: np.ndarray) -> np.ndarray:
        """Those of ``lines`` that name another split; inside a text the quotation marks would be escaped."""
        if not len(lines):
            return lines
        name = b"|".join(re.escape(json.dumps(split, ensure_ascii=plain)[1:-1].encode()) for plain in (True, False))
        pattern = re.compile(rb'"split"\s*:\s*"(?!(?:%b)?")' % name)
        begin, end = int(self._starts[lines[0]]), int(self._ends[lines[-1]])
        places = np.array([match.start() for match in pattern.finditer(self._bytes, begin, end)], np.int64)
        return np.intersect1d(lines, np.searchsorted(self._starts, places, "right") - 1)

    def _check_splits(self, split: str | None) -> None:
        """Refuse lines that are left out only because their split is misspelt: nobody would miss them otherwise."""
        if split is None:
            return
        pattern = re.compile(rb'"split"\s*:\s*"([A-Za-z]+)"')
        left_out = np.setdiff1d(self._unsure, self._numbers)
        for number in left_out.tolist():
            for match in pattern.finditer(self._line(number)):
                _check_split(match[1].decode(), f"{self.path}:{number + 1}")

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self._row(int(number)) for number in self._numbers[index]]
        return self._row(int(self._numbers[index]))

    def __iter__(self) -> Iterator[Row]:
        return (self._row(int(number)) for number in self._numbers)

    def __getstate__(self) -> dict[str, Any]:
        """A map of a file cannot travel to worker processes; its bytes are mapped again there."""
        return {key: value for key, value in vars(self).items() if key != "_bytes"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        if self._lines is None:
            with self.path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _line(self, number: int) -> bytes:
        if self._lines is not None:
            return self._lines[number]
        line = self._bytes[self._starts[number] : self._ends[number]]
        return line.removeprefix(MARK) if number == 0 else line

    def line(self, number: Any) -> int:
        """The line of the file on which a row stands, from 1."""
        return int(number) + 1 + (self._lines is not None)

    def _row(self, number: int) -> Row:
        place = f"{self.path}:{self.line(number)}"
        try:
            fields = json.loads(self._line(number))
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{place}: not a line of JSON ({getattr(error, 'msg', error)})") from error
        name = fields.get("id") if isinstance(fields, dict) else None
        if not isinstance(name, str) or not name:
            raise ValueError(f'{place}: expected an object with a text "id", found {str(fields)[:60]!r}')
        if Path(name).name != name or name in (".", "..") or "\0" in name:
            raise ValueError(f"{place}: the id {name!r} cannot be a file name; leave out slashes")
        for unknown in fields.keys() - FIELDS_KNOWN:
            _check_field(str(unknown), place, self.path)
        start, duration = _seconds(fields, "start", place), _seconds(fields, "duration", place)
        if start is not None and start < 0:
            raise ValueError(f"{place}: start is {start:g} s, but a clip starts at 0 or later")
        if duration is not None and duration <= 0:
            raise ValueError(f"{place}: duration is {duration:g} s, but a clip lasts longer than 0")
        _check_split(str(fields.get("split") or ""), place)
        return Row(
            id=name,
            audio=self._inside(fields.get("audio"), place),
            image=self._inside(fields.get("image"), place),
            video=self._inside(fields.get("video"), place),
            text=str(fields.get("text") or ""),
            label=str(fields.get("label") or ""),
            split=str(fields.get("split") or ""),
            start=start or 0.0,
            duration=duration,
        )

    def _inside(self, name: str | None, place: str) -> Path | None:
        if not name:
            return None
        if not isinstance(name, str):
            raise ValueError(f"{place}: expected the path of a file, found {name!r}")
        if "\0" in name:
            raise ValueError(f"{place}: the path {name!r} holds a zero byte, which no file's name has")
        path = self.root / name
        folder = os.path.dirname(path)
        # Folders are few and files many: a folder is resolved once, a file only if it is itself a link.
        if folder not in self._inside_folder:
            self._inside_folder[folder] = Path(folder).resolve().is_relative_to(self.root)
        inside = self._inside_folder[folder] and Path(name).name not in ("", ".", "..")
        if not inside or (os.path.islink(path) and not path.resolve().is_relative_to(self.root)):
            raise ValueError(f"{place}: {name!r} lies outside the manifest's folder {self.root}")
        return path


def _splits_by_ending(content: np.ndarray, starts: np.ndarray, ends: np.ndarray, split: str) -> np.ndarray:
    """Tell of each line whether it is of THIS split or an OTHER, where it ends in ``"split": "train"}`` or the like.

    That is how `write_manifest` and most programs write it, and comparing a few bytes is many times faster than searching.
    """
    known = np.full(len(starts), UNKNOWN, np.uint8)
    for name in dict.fromkeys((split, "train", "validation", "test")):
        ending = np.frombuffer(b'"split": ' + json.dumps(name).encode() + b"}", np.uint8)
        candidates = np.flatnonzero((ends - starts > len(ending)) & (known == UNKNOWN))
        for offset in range(1, len(ending) + 1):  # from the end: the first bytes decide for most
            candidates = candidates[content[ends[candidates] - offset] == ending[-offset]]
        known[candidates] = THIS if name == split else OTHER
    return known


def _seconds(fields: Mapping[str, Any], name: str, place: str) -> float | None:
    value = fields.get(name)
    if value is None or value == "":
        return None
    try:
        if isinstance(value, bool):
            raise TypeError(f"{name} is {value}")
        seconds = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{place}: {error}: start and duration are seconds") from error
    if not math.isfinite(seconds):
        raise ValueError(f"{place}: {name} is {seconds}, but start and duration are seconds")
    return seconds


def _check_split(name: str, place: str) -> None:
    meant = MISTAKEN.get(name.strip().lower(), name.strip().lower())
    if name != meant and meant in ("train", "validation", "test"):
        raise ValueError(f"{place}: the split {name!r} is none that anything reads: did you mean {meant!r}?")


def _check_field(name: str, place: str, path: Path) -> None:
    """A field that no manifest has: refused where it is nearly one that they have, said once otherwise."""
    if close := get_close_matches(name.lower(), FIELDS, n=1, cutoff=0.75):
        raise ValueError(f"{place}: a manifest has no field {name!r}: did you mean {close[0]!r}?")
    warnings.warn(f"{path} has a field {name!r}, which nothing reads (known are {', '.join(FIELDS)})", stacklevel=2)


def valid_rows(path: str | Path) -> tuple[list[Row], list[str]]:
    """The rows that `read_manifest` takes, and one sentence, with file and line, for each that it refuses.

    Raises ValueError or FileNotFoundError for what is wrong with the whole file, or where no row is valid.
    """
    manifest, wrong, seen = Manifest(path), [], set()
    rows: list[Row] = []
    for index, number in enumerate(manifest._numbers):
        try:
            row = manifest[index]
        except ValueError as error:
            wrong.append(str(error))
            continue
        if row.id in seen:
            wrong.append(f"{path}:{manifest.line(number)}: the id {row.id!r} stands on an earlier line too; ids must be unique")
            continue
        seen.add(row.id)
        rows.append(row)
    if not rows:
        raise ValueError(wrong[0])
    return rows, wrong


def read_manifest(path: str | Path, split: str | None = None) -> list[Row]:
    """Read and check all rows of ``split`` (all rows if None, and rows that name no split always).

    Raises FileNotFoundError for a missing manifest and ValueError, with file and line, for a row that is not JSON, has
    no or a repeated id, or names a path outside the manifest's folder; also where no row is left.
    """
    rows, seen = [], set()
    manifest = Manifest(path)
    for number, row in zip(manifest._numbers, manifest, strict=True):
        if row.id in seen:
            raise ValueError(
                f"{path}:{manifest.line(number)}: the id {row.id!r} stands on an earlier line too; ids must be unique"
            )
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
            for name in ("start", "duration"):
                _seconds(row, name, f"the clip {row['id']!r}")
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
