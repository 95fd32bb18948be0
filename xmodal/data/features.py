"""The feature store: what frozen models make of clips, computed once, in memory-mapped shards.

A store is a folder named by its :class:`Key`: whatever changes a number (model, weights, preprocessing, decoder, crop
policy) is part of the key, so another setting is another folder and nothing stale can be served.

A shard is one safetensors file with the rows of one *group* of clips. Groups follow the order of the manifest and the
shard's name is the hash of its rows' names, so two writers of one group write the same bytes to the same name. A shard
appears by renaming a whole file: a process killed at any byte leaves complete shards and a temporary file, nothing else.
A rerun computes the groups that are not there and ends with the very files of an undisturbed run. Groups are dealt to any
number of processes by claims in the folder (`xmodal.data.claims`). Of many shards an index is kept beside them
(`xmodal.data.index`); it is not part of what was extracted.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xmodal.data.claims import Claims, clear
from xmodal.data.index import CHUNK, INDEX, Index
from xmodal.data.packed import DTYPES, NAMES, SHARD, Shard, pack_shard
from xmodal.files import clean_up, write_whole

if TYPE_CHECKING:  # it imports torch, which listing stores does without
    from xmodal.frozen import Later

PRINTS = "fingerprints.json"
KEY, FORMAT = "key.json", "2"  # 2: shards hold a hash of their own header


@dataclass(frozen=True)
class Key:
    """Everything that decides the numbers of a store; plain values only, so that it can be read and compared.

    ``model`` names class and card, ``weights`` is their hash, ``preprocessing`` what is done to the input (crop policy,
    length, sizes), ``decoder`` what reads the files.
    """

    model: str
    weights: str
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    decoder: str = ""

    def text(self) -> str:
        """Canonical JSON."""
        content = {"format": FORMAT, "model": self.model, "weights": self.weights, "decoder": self.decoder}
        return json.dumps({**content, "preprocessing": dict(self.preprocessing)}, sort_keys=True, indent=1) + "\n"

    def name(self) -> str:
        """Folder name: the model's last word and 16 hexadecimal digits."""
        word = "".join(letter if letter.isalnum() else "-" for letter in self.model.rpartition(".")[2])
        return f"{word}-{hashlib.sha256(self.text().encode()).hexdigest()[:16]}"


class FeatureStore:
    """Rows of named arrays, found by clip.

    Args:
        folder: parent of all stores, such as ``outputs/cache``.
        key: see :class:`Key`; its folder is made when the first shard is written.

    Raises ValueError if the folder holds a store of another key (a collision, or an edited ``key.json``).
    """

    def __init__(self, folder: str | Path, key: Key) -> None:
        self.root = Path(folder) / key.name()
        self.key = key
        if (self.root / KEY).is_file() and (self.root / KEY).read_text(encoding="utf-8") != key.text():
            raise ValueError(f"{self.root / KEY} does not describe this store: move the folder away and extract again")

    @classmethod
    def open(cls, root: str | Path) -> FeatureStore:
        """Open a store by its own folder; raises FileNotFoundError or ValueError where that is none."""
        path = Path(root) / KEY
        if not path.is_file():
            raise FileNotFoundError(f"{root} is not a feature store: it has no {KEY}")
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            key = Key(fields["model"], fields["weights"], fields["preprocessing"], fields["decoder"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}): move the folder away and extract again") from error
        store = cls.__new__(cls)
        store.root, store.key = Path(root), key
        return store

    # Writing

    def claims(self, clips: Sequence[str], rows_per_shard: int, seen: Callable[[int], object] = lambda number: None) -> Claims:
        """The groups of ``clips`` whose shard is not there yet, dealt to all who work on them; see :class:`Claims`."""
        starts = range(0, len(clips), rows_per_shard)
        return Claims(self.root, [f"{_shard_name(clips[start : start + rows_per_shard])}{SHARD}" for start in starts], seen=seen)

    def write(
        self,
        group: Sequence[str],
        clips: Sequence[str],
        arrays: Mapping[str, np.ndarray],
        failed: Mapping[str, str] | None = None,
    ) -> Path:
        """Write the shard of one group, atomically; returns its path.

        Args:
            group: names of all clips of the group, in the manifest's order.
            clips: those that have a row, in the rows' order; the others stand in ``failed`` with a reason.
            arrays: (len(clips), ...) each, of a type in ``DTYPES``.

        Raises ValueError where rows and names disagree, or a number is not finite.
        """
        failed = dict(failed or {})
        if sorted([*clips, *failed]) != sorted(group):
            raise ValueError(
                f"a group of {len(group)} clips got {len(clips)} rows and {len(failed)} failures: give each clip one"
            )
        for name, array in arrays.items():
            if len(array) != len(clips) or array.dtype not in NAMES:
                raise ValueError(
                    f"{name} has {len(array)} rows of {array.dtype}, but expected {len(clips)} of {', '.join(DTYPES)}"
                )
            if not (finite := finite_rows(array)).all():
                bad = clips[int(np.flatnonzero(~finite)[0])]
                raise ValueError(f"the {name} of clip {bad!r} is not finite: cache it in float32, or leave the clip out")
        if not (self.root / KEY).is_file():
            write_whole(self.root / KEY, [self.key.text().encode()])
        target = write_whole(self.root / f"{_shard_name(group)}{SHARD}", pack_shard(list(clips), arrays, failed))
        self.__dict__.pop("index", None)
        return target

    def extract(
        self,
        clips: Sequence[str],
        compute: Callable[[Sequence[int]], tuple[list[int], Mapping[str, np.ndarray], Mapping[int, str]]],
        rows_per_shard: int = 1024,
    ) -> int:
        """Compute and write what is missing of ``clips``; returns the number of shards written by this process.

        ``compute`` gets positions in ``clips`` and returns those that succeeded, their arrays, and reasons for the
        others. Any number of processes may do this at a time; each returns when all shards are there.
        """
        self.clean_up()
        written = 0
        with self.claims(clips, rows_per_shard) as claims:
            for number in claims:
                group = range(number * rows_per_shard, min((number + 1) * rows_per_shard, len(clips)))
                kept, arrays, failed = compute(group)
                reasons = {clips[i]: reason for i, reason in failed.items()}
                self.write([clips[i] for i in group], [clips[i] for i in kept], arrays, reasons)
                written += 1
        return written

    def clean_up(self) -> int:
        """Remove what killed writers left, files and claims, and nothing of those that live; returns the number of files."""
        return clean_up(self.root) + clear(self.root)

    # Reading

    @cached_property
    def index(self) -> Index:
        """Where each clip is; as of its first use, and after each write."""
        return Index.of(self.root)

    def __len__(self) -> int:
        return len(self.index)

    def failures(self) -> dict[str, str]:
        """Reason by clip, of all clips that could not be computed."""
        return self.index.failures

    def holds(self, clips: Sequence[str]) -> bool:
        """Whether every clip has a row."""
        return all(bool((self.index.find(part) >= 0).all()) for _, part in _parts(clips))

    def places(self, clips: Sequence[str]) -> tuple[Rows, np.ndarray]:
        """Find rows by clip, once, and tell which clips (bool) are recorded as failures.

        A clip that is not there is in shard -1. ``clips`` may be as many as there are: they are asked for in parts.
        """
        shard, row = np.empty(len(clips), np.int32), np.empty(len(clips), np.int32)
        failed, failures = np.zeros(len(clips), bool), self.failures()
        for start, part in _parts(clips):
            found, here = self.index.find(part), slice(start, start + len(part))
            shard[here], row[here] = -1, -1
            shard[here][found >= 0] = self.index.shard[found[found >= 0]]
            row[here][found >= 0] = self.index.row[found[found >= 0]]
            if failures:
                failed[here] = [clip in failures for clip in part]
        return Rows(self.index, shard, row), failed

    def locate(self, clips: Sequence[str]) -> Rows:
        """Find rows by clip, once; raises KeyError that counts and names the clips that have none."""
        rows = self.places(clips)[0]
        absent = np.flatnonzero(rows.shard < 0)
        if len(absent):
            first = clips[int(absent[0])]
            raise KeyError(f"{len(absent)} of {len(clips)} clips are not in {self.root}, first {first!r}: extract them first")
        return rows

    def verify(self) -> Iterator[tuple[Path, str]]:
        """Yield each damaged shard with the reason; reads everything. The index is made anew when it is next needed."""
        (self.root / INDEX).unlink(missing_ok=True)
        self.__dict__.pop("index", None)
        for path in sorted(self.root.glob(f"*{SHARD}")):
            try:
                Shard(path).verify()
            except ValueError as error:
                yield path, str(error)


class Rows:
    """Rows of a store in a chosen order; reads by batch, straight from the mapped files."""

    def __init__(self, index: Index, shard: np.ndarray, row: np.ndarray) -> None:
        self.index, self.shard, self.row = index, shard, row

    def __len__(self) -> int:
        return len(self.row)

    def chosen(self, indices: np.ndarray) -> Rows:
        """Some of the rows, by number."""
        return Rows(self.index, self.shard[indices], self.row[indices])

    def kinds(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape of one row, and type, of every array."""
        # Not of the first shard of all: a group of unreadable clips has a shard without arrays.
        first = self.index.arrays(int(self.shard[0])) if len(self.shard) else {}
        return {name: (array.shape[1:], array.dtype) for name, array in first.items()}

    def read(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """Rows ``indices`` of every array, (len(indices), ...) each, copied into memory."""
        indices = np.asarray(indices)
        shard, row = self.shard[indices], self.row[indices]
        order = np.argsort(shard, kind="stable")
        cuts = np.flatnonzero(np.diff(shard[order])) + 1
        parts = np.split(order, cuts) if len(order) else []
        out = {name: np.empty((len(indices), *shape), dtype) for name, (shape, dtype) in self.kinds().items()}
        for part in parts:
            source = self.index.arrays(int(shard[part[0]]))
            for name, array in out.items():
                array[part] = source[name][row[part]]
        return out


def finite_rows(array: np.ndarray) -> np.ndarray:
    """Whether all numbers of a row are finite, (rows,) bool."""
    rows = array.reshape(len(array), math.prod(array.shape[1:]))
    if array.dtype == np.float16:  # numpy would make float32 of each number: forty times as long
        exponent = np.uint16(0x7C00)
        return ((rows.view(np.uint16) & exponent) != exponent).all(1)
    return np.isfinite(rows).all(1)


def remembered(folder: Path, part: Later) -> str:
    """Fingerprint of a part whose weights are what they were when it was last built beside these stores; else it is built."""
    path = folder / PRINTS
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found := known.get(part.identity), str):
            return found
    except (OSError, ValueError, AttributeError):
        known = {}
    found = part.fingerprint()
    with suppress(OSError):  # a folder that cannot be written to: it is built again the next time
        write_whole(path, [json.dumps({**known, part.identity: found}, indent=1, sort_keys=True).encode()])
    return found


def stores(folder: str | Path) -> list[FeatureStore]:
    """All stores below a folder."""
    return [FeatureStore.open(path.parent) for path in sorted(Path(folder).glob(f"*/{KEY}"))]


def _parts(clips: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    return ((start, clips[start : start + CHUNK]) for start in range(0, len(clips), CHUNK))


def _shard_name(clips: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(clips).encode()).hexdigest()[:32]
