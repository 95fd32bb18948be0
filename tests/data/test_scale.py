"""Many rows: what an opened manifest, a store and the order of an epoch hold of them, and to which file an index belongs."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xmodal.data import index, lines, packed
from xmodal.data.features import FeatureStore, Key
from xmodal.data.loading import Loader, Resident
from xmodal.data.manifest import Manifest, valid_rows
from xmodal.data.media import PairedMediaSet
from xmodal.data.module import ClipNames

ROWS = 100_000
RANKS = 4


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is done with large files, done with small ones."""
    monkeypatch.setattr(lines, "LARGE", 0)
    monkeypatch.setattr(lines, "PIECE", 1 << 16)
    monkeypatch.setattr(index, "PART", 1 << 12)
    monkeypatch.setattr(packed, "IN_MEMORY", 1 << 16)
    monkeypatch.setenv("XMODAL_CACHE", str(tmp_path / "own"))


def write(path: Path, count: int, splits: Sequence[str] = ("train", "train", "test")) -> Path:
    path.write_text("".join(f'{{"id": "{n:06d}", "split": "{splits[n % len(splits)]}"}}\n' for n in range(count)))
    return path


def grown(do: Callable[[], Any], before: bool = True) -> tuple[Any, int, int]:
    """What is made, the bytes that are held of it, and the peak on the way."""
    if before:  # what is imported and compiled the first time is no part of it
        do()
    tracemalloc.start()
    try:
        made = do()
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return made, held, peak


def test_an_opened_manifest_holds_nothing_by_the_row(tmp_path: Path, small_memory: None) -> None:
    path = write(tmp_path / "m.jsonl", ROWS)
    rows, held, peak = grown(lambda: Manifest(path, "train"))
    assert held < 100_000
    assert peak < 2_000_000
    assert len(rows) == 66_667
    assert [rows[n].id for n in (0, 1, 2, -1)] == ["000000", "000001", "000003", "099999"]
    again = pickle.loads(pickle.dumps(rows))  # noqa: S301
    assert again[12_345] == rows[12_345]
    assert len(pickle.dumps(rows)) < 2000


def test_making_the_index_takes_little_memory(tmp_path: Path, small_memory: None) -> None:
    path = write(tmp_path / "m.jsonl", ROWS)

    def anew() -> Manifest:
        for each in tmp_path.glob(".*.lines"):
            each.unlink()
        return Manifest(path)

    rows, held, peak = grown(anew)
    assert (len(rows), rows[99_999].id) == (ROWS, "099999")
    assert held < 100_000
    assert peak < 3_000_000  # a piece of the file, whatever its length


def test_an_index_belongs_to_exactly_that_file(tmp_path: Path, small_memory: None) -> None:
    path = write(tmp_path / "m.jsonl", 300)
    first = Manifest(path, "test")
    kept = {each: each.stat().st_mtime_ns for each in tmp_path.glob(".*.lines")}
    assert len(kept) == 1
    assert len(Manifest(path, "test")) == 100
    assert {each: each.stat().st_mtime_ns for each in tmp_path.glob(".*.lines")} == kept
    # Other content of the same size and time: the hash tells.
    state = path.stat()
    path.write_text(path.read_text().replace('"test"', '"tesx"', 7))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert len(Manifest(path, "test")) == 93
    with pytest.raises(RuntimeError, match="has changed while it was in use"):
        pickle.loads(pickle.dumps(first))  # noqa: S301
    # A damaged index is made anew.
    (only,) = kept
    only.write_bytes(only.read_bytes()[:100])
    assert len(Manifest(path, "test")) == 93
    assert len(Manifest(path, "train")) == len(Manifest(path, "train")) == 200
    assert len(list(tmp_path.glob(".*.lines"))) == 2


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, small_memory: None, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "m.jsonl", 300)
    whole = lines.write_whole

    def refuse(target: Path, pieces: Any) -> Path:
        if target.parent == tmp_path:
            raise OSError(13, "Permission denied")
        return whole(target, pieces)

    monkeypatch.setattr(lines, "write_whole", refuse)
    for _ in range(2):
        rows = Manifest(path, "test")
        assert pickle.loads(pickle.dumps(rows))[99].id == "000299"  # noqa: S301
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []
    (kept,) = (tmp_path / "own" / "lines").iterdir()
    monkeypatch.setattr(lines, "write_whole", lambda target, pieces: refuse(path, pieces))
    kept.unlink()
    rows = Manifest(path, "test")
    assert pickle.loads(pickle.dumps(rows))[99].id == "000299"  # noqa: S301


def test_errors_name_the_line(tmp_path: Path, small_memory: None) -> None:
    path = write(tmp_path / "m.jsonl", 5000)
    text = path.read_text().splitlines()
    text[17], text[3000], text[4000] = '{"id": "a/b"}', '{"id": "000005"}', "{"
    path.write_text("\n".join(text) + "\n")
    rows, wrong = valid_rows(path)
    assert len(rows) == 4997
    assert [each.split(": ")[0].rpartition(":")[2] for each in wrong] == ["18", "3001", "4001"]
    assert "'000005' stands on an earlier line" in wrong[1]
    for name in ("Train", "train "):
        text[4999] = f'{{"id": "x", "split": "{name}"}}'
        path.write_text("\n".join(text) + "\n")
        with pytest.raises(ValueError, match=rf"m\.jsonl:5000: the split '{name}' is none"):
            Manifest(path, "test")


def store(folder: Path, count: int) -> FeatureStore:
    made = FeatureStore(folder / "store", Key("numbers", "none"))
    for start in range(0, count, 1000):
        numbers = np.arange(start, min(start + 1000, count), dtype=np.int32)
        names = [f"{number:06d}" for number in numbers]
        made.write(names, names, {"number": numbers})
    return made


def test_a_training_holds_a_few_bytes_of_each_row(tmp_path: Path, small_memory: None) -> None:
    path, features = write(tmp_path / "m.jsonl", ROWS), store(tmp_path, ROWS)
    found, held, _ = grown(lambda: FeatureStore.open(features.root).index)
    assert len(found) == ROWS
    assert held < 300_000  # by the shard, not by the row
    rows = Manifest(path, "train")
    places, held, peak = grown(lambda: features.locate(ClipNames(rows, (), tmp_path)), before=False)
    assert held < 10 * len(rows)
    assert peak - held < 400 * index.CHUNK  # names of one part
    media = PairedMediaSet(rows, 16000, 1.0, "pad", (8, 8), inputs=(), stored=(places,))
    given = []
    for rank in range(RANKS):
        loader = Loader(media, 256, shuffle=True, rank=rank, world_size=RANKS)
        turn, held, peak = grown(lambda loader=loader: loader._batches(0, 0))  # type: ignore[misc]
        assert held < 5 * len(rows)
        assert peak < 10 * len(rows)
        loader._turn.become(turn, slice(rank, None, RANKS))
        batches = list(loader._turn)
        assert len(batches) == len(loader)
        given += [number for _, batch in batches for number in batch]
    assert len(set(given)) == len(given) == len(rows) // (256 * RANKS) * 256 * RANKS
    batch = media.batch([5, 66_666, 0])
    assert batch["number"].tolist() == [int(name) for name in batch["id"]] == [7, 99_999, 0]


def test_features_in_memory_hold_no_object_for_a_row(tmp_path: Path, small_memory: None) -> None:
    import torch

    path, features = write(tmp_path / "m.jsonl", 5000), store(tmp_path, 5000)
    rows = Manifest(path)
    media = PairedMediaSet(rows, 16000, 1.0, "pad", (8, 8), inputs=(), stored=(features.locate(ClipNames(rows, (), tmp_path)),))
    memory, held, _ = grown(lambda: Resident(media, torch.device("cpu")))
    assert held < 50 * len(rows)
    assert memory.batch([4999, 3])["id"] == ["004999", "000003"]


def test_the_index_of_a_store_is_sorted_in_parts(tmp_path: Path, small_memory: None) -> None:
    features = store(tmp_path, 30_000)
    made = features.index
    assert (np.diff(np.asarray(made.first).astype(object)) >= 0).all()
    names = [f"{number:06d}" for number in range(30_000)]
    assert features.locate(names[::-1]).read([0, 29_999])["number"].tolist() == [29_999, 0]
    assert not features.holds([*names, "nobody"])
