"""The index of a store: in which row of which shard a clip is, found without reading the shards.

It is made of the shards' headers, once, and belongs to exactly those files: by their names, sizes and times. Where any of
them is another, it is made anew. It holds hashes of the clips' names, so it may be as large as it likes: it is mapped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from xmodal.data.packed import MAPPINGS, SHARD, Arrays, Packed, Shard, Spool, pack, room
from xmodal.files import write_whole

INDEX = "index.bin"
MANY = 64  # shards; the headers of fewer are read faster than a file is worth, unless they hold many rows
MANY_ROWS = 100_000
PART = 1 << 18  # rows that are sorted at a time
CHUNK = 1 << 16  # names that are looked for at a time
FORMAT = 1


class Index:
    """Places of clips in the shards of one folder.

    ``shards`` has a row for each: name, size, time of its last change, number of rows, where these begin, and their layout.
    """

    def __init__(self, root: Path, shards: list[Any], arrays: Arrays) -> None:
        self.root, self.shards = root, shards
        self.first, self.second = arrays["first"].view(np.uint64), arrays["second"].view(np.uint64)
        self.shard, self.row, self._failed = arrays["shard"], arrays["row"], arrays["failed"]

    def __reduce__(self) -> tuple[Any, ...]:
        return Index._again, (self.root, self.shards)

    @classmethod
    def _again(cls, root: Path, shards: list[Any]) -> Index:
        """In another process, which maps the files itself: places are numbers of these very shards."""
        found = cls.of(root)
        if found.shards != shards:
            raise RuntimeError(f"{root} has changed while it was in use: start again")
        return found

    @classmethod
    def of(cls, root: Path) -> Index:
        """Of a folder as it is now. Raises ValueError for a damaged shard, OSError for one that cannot be read."""
        present = _present(root)
        try:
            found = Packed(root / INDEX)
            if found.content["format"] == FORMAT and [shard[:3] for shard in found.content["shards"]] == present:
                return cls(root, found.content["shards"], found.arrays)
        except (ValueError, KeyError, FileNotFoundError):
            pass  # it is made of the shards, and is made again
        except OSError as error:
            if (root / INDEX).exists():
                raise error
        shards, arrays = _made(root, present)
        if len(present) >= MANY or len(arrays["first"]) >= MANY_ROWS:
            # A folder that cannot be written to is read all the same, and so is one whose index another process has replaced.
            with suppress(OSError, ValueError, KeyError):
                write_whole(root / INDEX, pack({"format": FORMAT, "shards": shards}, arrays))
                written = Packed(root / INDEX)
                if (written.content["format"], written.content["shards"]) == (FORMAT, shards):
                    return cls(root, shards, written.arrays)
        return cls(root, shards, arrays)

    def __len__(self) -> int:
        return sum(shard[3] for shard in self.shards)

    @cached_property
    def failures(self) -> dict[str, str]:
        """Reason by clip."""
        return json.loads(self._failed.tobytes())

    def find(self, clips: Sequence[str]) -> np.ndarray:
        """Positions of clips in the index, -1 for those that are not there."""
        wanted = _hashes(clips)
        found = np.searchsorted(self.first, wanted[:, 0], "right") - 1  # of one clip in several shards the last counts
        while True:
            alike = (found >= 0) & (self.first[found] == wanted[:, 0]) if len(self.first) else np.zeros(len(found), bool)
            other = alike & (self.second[found] != wanted[:, 1]) if alike.any() else alike
            if not other.any():
                return np.where(alike, found, -1)
            found[other] -= 1

    def arrays(self, shard: int) -> Arrays:
        """Arrays of one shard, mapped for as long as there is room."""
        name, size, changed, _, start, entries = self.shards[shard]
        return MAPPINGS.arrays(self.root / f"{name}{SHARD}", size, changed, start, entries)


def _present(root: Path) -> list[list[Any]]:
    """Name, size and time of each shard, by name."""
    if not root.is_dir():
        return []
    with os.scandir(root) as entries:
        files = [entry for entry in entries if entry.name.endswith(SHARD) and not entry.name.startswith(".")]
    found = [[file.name.removesuffix(SHARD), state.st_size, state.st_mtime_ns] for file in files for state in [file.stat()]]
    return sorted(found)


def _made(root: Path, present: list[list[Any]]) -> tuple[list[Any], Arrays]:
    """Shards and arrays, of the headers; what takes memory by the row lies on disk."""
    shards, counts = [], [0]
    hashes = Spool(np.uint64, 2)
    failed: dict[str, str] = {}
    for name, size, changed in present:
        shard = Shard(root / f"{name}{SHARD}")
        shards.append([name, size, changed, len(shard.clips), shard.start, shard.entries])
        counts.append(len(shard.clips))
        hashes.add(_hashes(shard.clips))
        failed.update(shard.failed)
    both, begins = hashes.array(), np.cumsum(counts)
    kinds = {"first": np.int64, "second": np.int64, "shard": np.int32, "row": np.int32}
    arrays = {name: room(len(both), kind) for name, kind in kinds.items()}
    done = 0
    for order in _sorted(both[:, 0]):
        number = np.searchsorted(begins, order, "right") - 1
        rows = (both[order, 0].view(np.int64), both[order, 1].view(np.int64), number, order - begins[number])
        for array, values in zip(arrays.values(), rows, strict=True):
            array[done : done + len(order)] = values
        done += len(order)
    text = np.frombuffer(json.dumps(failed).encode(), np.uint8)
    return shards, {**arrays, "failed": text}


def _sorted(values: np.ndarray) -> Iterator[np.ndarray]:
    """The stable order of uint64 values that lie evenly, in parts, so that no more than one part is in memory."""
    bits = min(8, (len(values) // PART).bit_length())
    if not bits:
        yield np.argsort(values, kind="stable")
        return
    part = np.empty(len(values), np.uint8)
    for at in range(0, len(values), PART):
        part[at : at + PART] = values[at : at + PART] >> np.uint64(64 - bits)
    for number in range(1 << bits):
        chosen = np.flatnonzero(part == number)
        yield chosen[np.argsort(values[chosen], kind="stable")]


def _hashes(clips: Sequence[str]) -> np.ndarray:
    """128 bits for each name, (n, 2): so many that no two of them meet."""

    def digests() -> Iterator[bytes]:
        return (hashlib.blake2b(clip.encode("utf-8", "surrogatepass"), digest_size=16).digest() for clip in clips)

    return np.frombuffer(b"".join(digests()), "<u8").astype(np.uint64, copy=False).reshape(-1, 2)
