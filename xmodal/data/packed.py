"""Shards: named arrays with one row for a clip, in one safetensors file that is mapped, not read.

How many files are mapped at a time is bounded by what the process may open, whatever the number of shards.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import struct
from array import array as Ints
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import IO, Any, overload

import numpy as np

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

SHARD = ".safetensors"
DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32, "U8": np.uint8}
NAMES = {np.dtype(kind): name for name, kind in DTYPES.items()}
MAX_HEADER = 100_000_000
IN_MEMORY = 1 << 24  # bytes of an array; larger ones are filled on disk
AGAIN = "remove it and extract again"
Arrays = dict[str, np.ndarray]


class Packed:
    """One packed file, of which only the header has been read.

    Raises ValueError for one that is damaged, and OSError, which says nothing about the file, for one that cannot be read.
    """

    what = "is damaged or not a shard of features"

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                head = file.read(8)
                (length,) = struct.unpack("<Q", head)
                if length > MAX_HEADER:
                    raise ValueError(f"header of {length} bytes")
                text = file.read(length)
                self.size = file.seek(0, 2)
            self.head, self.start = head + text, 8 + length
            header = json.loads(text)
            self.content: dict[str, Any] = json.loads(header.pop("__metadata__")["xmodal"])
            self.entries: dict[str, dict[str, Any]] = header
            self.end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
            for entry in header.values():
                size = int(np.prod(entry["shape"])) * np.dtype(DTYPES[entry["dtype"]]).itemsize
                if entry["data_offsets"][1] - entry["data_offsets"][0] != size or self.size < self.start + self.end:
                    raise ValueError("it ends too early")
            if "header" in self.content and self.content["header"] != _header_hash(self.content, header):
                raise ValueError("its header has changed")
            self.take()
        except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            reason = str(error) or type(error).__name__
            raise ValueError(f"{path} {self.what} ({reason}): {AGAIN}") from error
        except OSError as error:
            raise cannot_open(path, error) from error

    def take(self) -> None:
        """Read what the content must hold; raises KeyError where it does not."""

    @property
    def arrays(self) -> Arrays:
        """All arrays, mapped anew."""
        return mapped(self.path, self.size, self.start, self.entries)


class Shard(Packed):
    """The rows of one group of clips."""

    def take(self) -> None:
        """Names of the rows, reasons of the failures, hashes of the arrays."""
        self.clips: list[str] = self.content["clips"]
        self.failed: dict[str, str] = self.content["failed"]
        self.hashes: dict[str, str] = self.content["sha256"]

    def verify(self) -> None:
        """Raise ValueError if any byte is not what was written."""
        if "header" not in self.content:
            raise ValueError(f"{self.path} has no hash of its names: an older version wrote it; extract again")
        if self.head != head(self.content, self.entries) or self.size != self.start + self.end:
            raise ValueError(f"{self.path}: the bytes of its header have changed: remove the file and extract again")
        for name, array in self.arrays.items():
            if hashlib.sha256(np.ascontiguousarray(array).data).hexdigest() != self.hashes.get(name):
                raise ValueError(f"{self.path}: the bytes of {name!r} have changed: remove the file and extract again")


def pack_shard(clips: list[str], arrays: Mapping[str, np.ndarray], failed: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """The bytes of a shard; equal content gives equal bytes."""
    hashes = {name: hashlib.sha256(np.ascontiguousarray(arrays[name]).data).hexdigest() for name in sorted(arrays)}
    return pack({"clips": clips, "failed": dict(sorted(failed.items())), "sha256": hashes}, arrays)


def pack(content: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Iterator[bytes | memoryview]:
    """The bytes of a file in the safetensors layout, with a hash of its header in it."""
    ready = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    entries: dict[str, dict[str, Any]] = {}
    offset = 0
    for name, array in ready.items():
        ends = [offset, offset + array.nbytes]
        entries[name] = {"dtype": NAMES[array.dtype], "shape": list(array.shape), "data_offsets": ends}
        offset = ends[1]
    yield head({**content, "header": _header_hash(content, entries)}, entries)
    yield from (array.reshape(-1).view(np.uint8).data for array in ready.values())


def head(content: Mapping[str, Any], entries: Mapping[str, Any]) -> bytes:
    """Length and header."""
    text = json.dumps({"__metadata__": {"xmodal": json.dumps(content)}, **entries}).encode()
    text += b" " * (-len(text) % 8)  # rows then start at a multiple of eight bytes
    return struct.pack("<Q", len(text)) + text


def _header_hash(content: Mapping[str, Any], entries: Mapping[str, Any]) -> str:
    plain = {name: value for name, value in content.items() if name != "header"}
    return hashlib.sha256(json.dumps([plain, entries], sort_keys=True).encode()).hexdigest()


def mapped(path: Path, size: int, start: int, entries: Mapping[str, Mapping[str, Any]]) -> Arrays:
    """Arrays of a file, by one mapping; raises OSError where it cannot be opened, or has another size than it had."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            if os.fstat(descriptor).st_size != size:
                raise OSError(errno.ESTALE, "it has changed while it was in use: start again")
            base = np.frombuffer(mmap.mmap(descriptor, size, access=mmap.ACCESS_READ), np.uint8)
        finally:
            os.close(descriptor)  # the mapping has its own
    except OSError as error:
        raise cannot_open(path, error) from error
    found = {}
    for name, entry in entries.items():
        begin, end = entry["data_offsets"]
        found[name] = base[start + begin : start + end].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return found


def room(count: int, dtype: Any) -> np.ndarray:
    """An array to fill; one of many rows lies in a file without a name, not in memory."""
    if count * np.dtype(dtype).itemsize <= IN_MEMORY:
        return np.empty(count, dtype)
    with TemporaryFile() as file:
        return np.memmap(file, dtype, "w+", shape=(count,))


class Spool:
    """Rows that are added one after the other and then are one array; many of them lie in a file without a name."""

    def __init__(self, dtype: Any, *shape: int) -> None:
        self.dtype, self.shape = np.dtype(dtype), shape
        self._parts: list[np.ndarray] = [np.empty((0, *shape), dtype)]
        self._held = 0
        self._file: IO[bytes] | None = None

    def add(self, rows: np.ndarray) -> None:
        """Add rows (n, ...)."""
        self._parts.append(np.ascontiguousarray(rows, self.dtype))
        self._held += self._parts[-1].nbytes
        if self._held > IN_MEMORY:
            self._file = self._file or TemporaryFile()  # noqa: SIM115 (`array` closes it)
            for part in self._parts:
                part.tofile(self._file)
            self._parts, self._held = [], 0

    def array(self) -> np.ndarray:
        """All rows; nothing is added afterwards."""
        if self._file is None:
            return np.concatenate(self._parts)
        with self._file as file:
            for part in self._parts:
                part.tofile(file)
            file.flush()
            return np.memmap(file, self.dtype, "r").reshape(-1, *self.shape)


class Texts(Sequence[str]):
    """Texts held as their bytes; an object is made of one when it is asked for, and a slice is a list."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._bytes, self._ends = bytearray(), Ints("q", [0])
        for text in texts:
            self._bytes += text.encode("utf-8", "surrogatepass")
            self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        numbers = range(len(self))[index]
        if isinstance(numbers, range):
            return [self[number] for number in numbers]
        return self._bytes[self._ends[numbers] : self._ends[numbers + 1]].decode("utf-8", "surrogatepass")


class Mappings:
    """The mapped files of this process, the longest unused of which is unmapped when there are too many."""

    def __init__(self, most: int | None = None) -> None:
        self.most = most or _most()
        self._open: OrderedDict[tuple[Path, int], Arrays] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._open)

    def arrays(self, path: Path, size: int, changed: int, start: int, entries: Mapping[str, Any]) -> Arrays:
        """Arrays of a file of this size, last changed at this time."""
        with self._lock:
            found = self._open.get((path, changed))
            if found is None:
                while len(self._open) >= self.most:
                    self._open.popitem(last=False)
                try:
                    found = mapped(path, size, start, entries)
                except OSError as error:
                    if not _used_up(error):
                        raise
                    self._open.clear()  # the rest of the process needs what we hold
                    found = mapped(path, size, start, entries)
                self._open[path, changed] = found
            self._open.move_to_end((path, changed))
            return found


def cannot_open(path: Path, error: OSError) -> OSError:
    """The error in one sentence, which does not blame the file."""
    if _used_up(error):
        reason = f"this process has too many files open: raise `ulimit -n`, which is {_limit()}"
    else:
        reason = error.strerror or str(error)
    return OSError(error.errno, f"{path} cannot be read ({reason})")


def _used_up(error: OSError) -> bool:
    return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def _limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] if resource is not None else 512


def _most() -> int:
    """A quarter of the files that this process may open: a mapping keeps one."""
    limit = _limit()
    return 1024 if limit < 0 else min(1024, max(4, limit // 4))


MAPPINGS = Mappings()
