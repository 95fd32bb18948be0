"""The lines of a large text file by number, at no memory a line: where they begin is found once and mapped from then on.

What is found of a large file is kept beside it, or in the cache folder where nothing can be written there, for each split. It
belongs to exactly that file, by its size, its times and a hash of pieces of its content; where any of them is another it is
made anew.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, overload

import numpy as np

from xmodal.data.packed import Packed, Spool, pack
from xmodal.files import own_cache, write_whole

LARGE = 1 << 26  # bytes; lines of smaller files are found at each opening
PIECE = 1 << 21  # bytes
SAMPLES, SAMPLE = 64, 4096  # pieces of the content whose hash tells files apart, and bytes of each
FORMAT = 1
UNKNOWN, THIS, OTHER = 0, 1, 2
MARK = b"\xef\xbb\xbf"  # the byte order mark that some editors put in front
# Names that people write for a split; another name of one's own is as good as any.
MISTAKEN = {
    "training": "train", "val": "validation", "valid": "validation", "dev": "validation", "testing": "test", "eval": "test"
}  # fmt: skip


class Lines(Sequence[bytes]):
    """Lines of JSON that are not empty, of one split or all; ``path`` is a file on this machine.

    With ``split``, lines that name no split are among them. Raises ValueError for a line that is left out because its split is
    misspelt, and RuntimeError for a file that is changed while it is in use.
    """

    def __init__(self, path: Path, split: str | None = None) -> None:
        self.path, self.split, self._kept = path, split, Path()
        self._counted = (0, 1)
        self.state = self._open()
        self._starts = self._known() if self.state["size"] > LARGE else None
        if self._starts is None:
            spool = Spool(np.int64)
            _find(path, split, spool)
            self._starts = spool.array()
            if self.state["size"] > LARGE:
                self._keep()

    def __len__(self) -> int:
        return len(self._starts)  # type: ignore[arg-type]

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        start = self._start(index)
        end = self._bytes.find(b"\n", start)
        if start and self._bytes[start - 1] != ord("\n"):
            raise RuntimeError(f"{self.path} has changed while it was in use: start again")
        line = self._bytes[start : end if end >= 0 else len(self._bytes)]
        return line.removeprefix(MARK) if start == 0 else line

    def number(self, index: int) -> int:
        """Line of the file, from 1; counted when it is asked for, since only errors ask."""
        start = self._start(index)
        at, number = self._counted if self._counted[0] <= start else (0, 1)
        while at < start:
            piece = self._bytes[at : min(at + PIECE, start)]
            at, number = at + len(piece), number + piece.count(b"\n")
        self._counted = (at, number)
        return number

    def __getstate__(self) -> dict[str, Any]:
        """A map of a file cannot travel to worker processes: it is mapped again there."""
        left = {"_bytes", "_starts"} if self._kept.name else {"_bytes"}
        return {key: value for key, value in vars(self).items() if key not in left}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        if self._open() != self.state:
            raise RuntimeError(f"{self.path} has changed while it was in use: start again")
        if self._kept.name:
            self._starts = self._known()
            if self._starts is None:
                raise RuntimeError(f"{self._kept} was taken away while it was in use: start again")

    def _start(self, index: int) -> int:
        return int(self._starts[index])  # type: ignore[index]

    def _open(self) -> dict[str, Any]:
        """Map the file; returns what tells it from any other."""
        with self.path.open("rb") as file:
            state = os.fstat(file.fileno())
            size = state.st_size
            self._bytes: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
            digest = hashlib.blake2b(digest_size=16)
            for place in np.linspace(0, max(0, size - SAMPLE), SAMPLES if size > SAMPLE else 1).astype(np.int64).tolist():
                file.seek(place)
                digest.update(file.read(SAMPLE))
        return {"size": size, "changed": [state.st_mtime_ns, state.st_ctime_ns], "content": digest.hexdigest()}

    def _places(self) -> list[Path]:
        """Where the starts of these lines may be kept."""
        split = "" if self.split is None else "." + hashlib.sha256(self.split.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        place = hashlib.sha256(os.fsencode(self.path.resolve())).hexdigest()[:16]
        return [
            self.path.with_name(f".{self.path.name}{split}.lines"),
            own_cache() / "lines" / f"{place}.{self.path.name}{split}.lines",
        ]

    def _known(self) -> np.ndarray | None:
        for place in self._places():
            try:
                found = Packed(place)
                if found.content["of"] == self._content():
                    self._kept = place
                    return found.arrays["starts"]
            except (OSError, ValueError, KeyError):  # none, or not whole: it is made of the file, and made again
                continue
        return None

    def _keep(self) -> None:
        for place in self._places():
            with suppress(OSError):  # a folder that cannot be written to
                write_whole(place, pack({"of": self._content()}, {"starts": self._starts}))  # type: ignore[dict-item]
                if (mapped := self._known()) is not None:
                    self._starts = mapped
                return

    def _content(self) -> dict[str, Any]:
        return {**self.state, "format": FORMAT, "split": self.split}


def _find(path: Path, split: str | None, spool: Spool) -> None:
    """Put the starts of the wanted lines into the spool, reading piece after piece."""
    with path.open("rb") as file:
        begin, lines, rest = 0, 0, b""
        while True:
            block = file.read(PIECE)
            text = rest + block
            # A piece ends with a line; what is behind its last break begins the next one.
            end = len(text) if not block else text.rfind(b"\n") + 1
            piece, rest = text[:end], text[end:]
            if piece:
                breaks = np.flatnonzero(np.frombuffer(piece, np.uint8) == ord("\n"))
                spool.add(begin + _wanted(piece, breaks, split, f"{path}", lines))
                begin, lines = begin + len(piece), lines + len(breaks)
            if not block:
                return


def _wanted(piece: bytes, breaks: np.ndarray, split: str | None, place: str, before: int) -> np.ndarray:
    """Where in a piece of whole lines the wanted ones begin; ``before`` is the number of lines before it."""
    starts = np.concatenate([[0], breaks + 1])
    ends = np.concatenate([breaks, [len(piece)]])
    wanted = ends > starts
    if split is not None:
        known = _splits_by_ending(np.frombuffer(piece, np.uint8), starts, ends, split)
        wanted &= known != OTHER
        unsure = np.flatnonzero(known == UNKNOWN)
        others = _of_others(piece, starts, ends, unsure, split)
        wanted[others] = False
        _check_misspelt(piece, starts, ends, others, place, before)
    found = np.flatnonzero(wanted)
    blank = [n for n in found[(ends - starts)[found] < 3].tolist() if not piece[starts[n] : ends[n]].removeprefix(MARK).strip()]
    return starts[np.setdiff1d(found, blank) if blank else found]


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


def _of_others(piece: bytes, starts: np.ndarray, ends: np.ndarray, lines: np.ndarray, split: str) -> np.ndarray:
    """Those of ``lines`` that name another split; inside a text the quotation marks would be escaped."""
    if not len(lines):
        return lines
    name = b"|".join(re.escape(json.dumps(split, ensure_ascii=plain)[1:-1].encode()) for plain in (True, False))
    pattern = re.compile(rb'"split"\s*:\s*"(?!(?:%b)?")' % name)
    places = [match.start() for match in pattern.finditer(piece, int(starts[lines[0]]), int(ends[lines[-1]]))]
    return np.intersect1d(lines, np.searchsorted(starts, np.array(places, np.int64), "right") - 1)


def _check_misspelt(piece: bytes, starts: np.ndarray, ends: np.ndarray, lines: np.ndarray, place: str, before: int) -> None:
    """Refuse lines that are left out only because their split is misspelt: nobody would miss them otherwise."""
    pattern = re.compile(rb'"split"\s*:\s*"( *[A-Za-z]+ *)"')
    for number in lines.tolist():
        for match in pattern.finditer(piece, int(starts[number]), int(ends[number])):
            try:
                check_split(match[1].decode())
            except ValueError as error:
                raise ValueError(f"{place}:{before + number + 1}: {error}") from error


def check_split(name: str) -> None:
    """Raise ValueError for a split that is nearly one of those that are read."""
    meant = MISTAKEN.get(name.strip().lower(), name.strip().lower())
    if name != meant and meant in ("train", "validation", "test"):
        raise ValueError(f"the split {name!r} is none that anything reads: did you mean {meant!r}?")
