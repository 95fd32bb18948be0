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

from xmodal.data.packed import MAPPINGS, SHARD, Arrays, Packed, Shard, pack
from xmodal.files import write_whole

INDEX = "index.bin"
MANY = 64  # shards; the headers of fewer are read faster than a file is worth
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
        return Index.of, (self.root,)  # another process maps the files itself

    @classmethod
    def of(cls, root: Path) -> Index:
        """Of a folder as it is now. Raises ValueError for a damaged shard, OSError for one that cannot be read."""
        present = _present(root)
        if len(present) < MANY:
            return cls(root, *_made(root, present))
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
        with suppress(OSError):  # a folder that cannot be written to is read all the same
            write_whole(root / INDEX, pack({"format": FORMAT, "shards": shards}, arrays))
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
    """Shards and arrays, of the headers."""
    shards, hashes = [], [np.zeros((0, 2), np.uint64)]
    failed: dict[str, str] = {}
    for name, size, changed in present:
        shard = Shard(root / f"{name}{SHARD}")
        shards.append([name, size, changed, len(shard.clips), shard.start, shard.entries])
        hashes.append(_hashes(shard.clips))
        failed |= shard.failed
    both = np.concatenate(hashes)
    order = np.argsort(both[:, 0], kind="stable")
    counts = [shard[3] for shard in shards]
    number = np.repeat(np.arange(len(shards), dtype=np.int32), counts)
    row = np.concatenate([np.zeros(0, np.int32), *(np.arange(count, dtype=np.int32) for count in counts)])
    arrays = {"first": both[order, 0].view(np.int64), "second": both[order, 1].view(np.int64)}
    text = np.frombuffer(json.dumps(failed).encode(), np.uint8)
    return shards, {**arrays, "shard": number[order], "row": row[order], "failed": text}


def _hashes(clips: Sequence[str]) -> np.ndarray:
    """128 bits for each name, (n, 2): so many that no two of them meet."""

    def digests() -> Iterator[bytes]:
        return (hashlib.blake2b(clip.encode("utf-8", "surrogatepass"), digest_size=16).digest() for clip in clips)

    return np.frombuffer(b"".join(digests()), "<u8").astype(np.uint64, copy=False).reshape(-1, 2)
