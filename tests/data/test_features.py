"""The feature store: atomic, resumable, never stale, fast to read."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from threading import Barrier, Thread, local
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.forks import Forks
from xmodal.data import index
from xmodal.data.claims import CLAIM, STALE
from xmodal.data.features import FeatureStore, Key, Shard, stores
from xmodal.data.index import INDEX
from xmodal.data.packed import Mappings, head
from xmodal.files import clean_up

ROOT = Path(__file__).parent.parent.parent
KEY = Key("xmodal.foundation.clip.ImageTower:mini", "0123", {"size": 224, "crop": "centre"}, "pillow 12")
CLIPS = [f"clip {i} é" for i in range(100)]
Computed = tuple[list[int], Mapping[str, np.ndarray], Mapping[int, str]]


def compute(positions: Sequence[int]) -> Computed:
    """Row i is filled with i; every clip that ends in 7 is broken."""
    kept = [i for i in positions if i % 10 != 7]
    pooled = np.repeat(np.array(kept, np.float16)[:, None], 5, 1)
    return kept, {"pooled": pooled, "grid": np.arange(6, dtype=np.float32).reshape(2, 3) + pooled[:, :1, None]}, {
        i: "no sound" for i in positions if i % 10 == 7
    }  # fmt: skip


def filled(folder: Path, rows: int = 16) -> FeatureStore:
    store = FeatureStore(folder, KEY)
    store.extract(CLIPS, compute, rows_per_shard=rows)
    return store


def contents(store: FeatureStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.root.iterdir()}


def test_rows_come_back_in_any_order(tmp_path: Path) -> None:
    store = filled(tmp_path)
    assert len(store) == 90
    assert store.failures() == {CLIPS[i]: "no sound" for i in range(7, 100, 10)}
    wanted = [93, 0, 51, 51, 2, 16]
    rows = store.locate([CLIPS[i] for i in range(100) if i % 10 != 7])
    position = {clip: i for i, clip in enumerate(i for i in range(100) if i % 10 != 7)}
    read = rows.read([position[i] for i in wanted])
    assert read["pooled"].dtype == np.float16
    assert read["pooled"][:, 0].tolist() == wanted
    assert read["grid"].shape == (6, 2, 3)
    assert read["grid"][0, 1, 2] == 98


def test_a_shard_is_a_safetensors_file(tmp_path: Path) -> None:
    path = sorted(filled(tmp_path).root.glob("*.safetensors"))[0]
    ours = Shard(path).arrays
    theirs = load_file(path)
    assert sorted(ours) == sorted(theirs) == ["grid", "pooled"]
    assert all((ours[name] == theirs[name]).all() for name in ours)


def test_a_rerun_computes_nothing_and_two_share_the_work(tmp_path: Path) -> None:
    whole = filled(tmp_path / "whole")
    assert whole.extract(CLIPS, compute, rows_per_shard=16) == 0
    shared = [FeatureStore(tmp_path / "shared", KEY) for _ in range(2)]
    counts: list[int] = []
    both, begun = Barrier(2), local()

    def slowly(positions: Sequence[int]) -> Computed:
        if not hasattr(begun, "here"):  # neither may have made all of it before the other begins
            begun.here = both.wait(60)
        return compute(positions)

    threads = [Thread(target=lambda store=store: counts.append(store.extract(CLIPS, slowly, 16))) for store in shared]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 7
    assert min(counts) > 0
    assert contents(shared[0]) == contents(whole)


def test_another_key_is_another_store(tmp_path: Path) -> None:
    store = filled(tmp_path)
    for other in (
        Key("m", "0123"),
        Key(KEY.model, "4567", KEY.preprocessing, KEY.decoder),
        Key(KEY.model, "0123", {"size": 256}),
    ):
        assert len(FeatureStore(tmp_path, other)) == 0
    (store.root / "key.json").write_text(Key("edited", "").text())
    with pytest.raises(ValueError, match="does not describe this store"):
        FeatureStore(tmp_path, KEY)


def test_stores_are_found_again(tmp_path: Path) -> None:
    filled(tmp_path)
    (found,) = stores(tmp_path)
    assert found.key.text() == KEY.text()
    assert len(found) == 90


def test_absent_clips_are_named(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="2 of 3 clips are not in .*first 'clip 7 é'"):
        filled(tmp_path).locate([CLIPS[7], CLIPS[8], "nobody"])


def test_rows_that_disagree_or_are_not_finite_are_refused(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, KEY)
    with pytest.raises(ValueError, match="2 clips got 1 rows and 0 failures"):
        store.write(["a", "b"], ["a"], {"x": np.zeros((1, 2), np.float32)})
    with pytest.raises(ValueError, match="the x of clip 'b' is not finite"):
        store.write(["a", "b"], ["a", "b"], {"x": np.array([[1.0], [np.inf]], np.float16)})
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "header", "flipped", "longer"])
def test_damage_is_found_and_named(tmp_path: Path, damage: str) -> None:
    store = filled(tmp_path)
    path = sorted(store.root.glob("*.safetensors"))[0]
    content = bytearray(path.read_bytes())
    content[-3] ^= damage == "flipped"
    broken = {
        "truncated": content[:-9],
        "empty": b"",
        "text": b"hello, this is no shard",
        "header": b"\xff" * 64,
        "flipped": content,
        "longer": content + b"x",
    }
    path.write_bytes(broken[damage])
    ((where, reason),) = store.verify()
    assert where == path
    assert str(path) in reason
    if damage not in ("flipped", "longer"):
        with pytest.raises(ValueError, match="is damaged or not a shard"):
            FeatureStore(tmp_path, KEY).failures()


@pytest.mark.parametrize("hashed", [True, False])
def test_names_in_another_order_are_found(tmp_path: Path, hashed: bool) -> None:
    store = filled(tmp_path)
    path = sorted(store.root.glob("*.safetensors"))[0]
    shard = Shard(path)
    content = {**shard.content, "clips": shard.clips[::-1]}
    if not hashed:
        del content["header"]  # as the version before wrote them
    path.write_bytes(head(content, shard.entries) + path.read_bytes()[shard.start :])
    ((where, reason),) = store.verify()
    assert where == path
    assert ("header has changed" if hashed else "no hash of its names") in reason
    if hashed:
        with pytest.raises(ValueError, match="its header has changed"):
            FeatureStore(tmp_path, KEY).holds(CLIPS[:1])


@pytest.mark.parametrize("byte", range(0, 60, 7))
def test_every_byte_of_a_header_is_covered(tmp_path: Path, byte: int) -> None:
    store = filled(tmp_path)
    path = sorted(store.root.glob("*.safetensors"))[0]
    content = bytearray(path.read_bytes())
    content[Shard(path).start - 1 - byte] ^= 0x01
    path.write_bytes(content)
    assert [where for where, _ in store.verify()] == [path]


def many(folder: Path, shards: int = 100) -> tuple[FeatureStore, list[str]]:
    store, clips = FeatureStore(folder, KEY), [f"clip {number}" for number in range(2 * shards)]
    store.extract(clips, lambda p: (list(p), {"x": np.repeat(np.array(p, np.float32)[:, None], 3, 1)}, {}), rows_per_shard=2)
    return store, clips


def test_an_index_belongs_to_its_shards(tmp_path: Path) -> None:
    store, clips = many(tmp_path)
    assert not (store.root / INDEX).exists()
    assert len(store) == 200
    assert (store.root / INDEX).exists()
    before = (store.root / INDEX).read_bytes()
    again = FeatureStore.open(store.root)
    assert again.locate(clips[::-1]).read([0, 7])["x"][:, 0].tolist() == [199, 192]
    assert (store.root / INDEX).read_bytes() == before
    store.write(["new"], [], {}, {"new": "no sound"})
    assert FeatureStore.open(store.root).failures() == {"new": "no sound"}
    (store.root / INDEX).write_bytes(b"damaged")
    assert FeatureStore.open(store.root).holds(clips)
    assert not FeatureStore.open(store.root).holds([*clips, "nobody"])
    removed = sorted(store.root.glob("*.safetensors"))[0]
    lost = Shard(removed).clips
    removed.unlink()
    with pytest.raises(KeyError, match="are not in"):
        FeatureStore.open(store.root).locate(clips)
    assert not FeatureStore.open(store.root).holds(lost)
    assert list(store.verify()) == []


def test_another_process_reads_the_same_clips_or_none(tmp_path: Path) -> None:
    store = filled(tmp_path)
    rows = pickle.dumps(store.locate(CLIPS[:3]))
    assert pickle.loads(rows).read([0, 1, 2])["pooled"][:, 0].tolist() == [0, 1, 2]
    store.extract([f"late {number}" for number in range(8)], compute, rows_per_shard=2)
    with pytest.raises(RuntimeError, match="has changed while it was in use"):  # numbers of shards are others now
        pickle.loads(rows)


def test_an_index_that_another_process_replaced_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, clips = many(tmp_path)

    def write(path: Path, pieces: Any) -> Path:
        made = index.pack({"format": index.FORMAT, "shards": []}, {"first": np.zeros(1, np.int64)})
        path.write_bytes(b"".join(made))
        return path

    monkeypatch.setattr(index, "write_whole", write)
    assert store.locate(clips).read(range(len(clips)))["x"][:, 0].tolist() == list(range(len(clips)))


def test_names_whose_hashes_begin_alike_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xmodal.data import index

    plain = index._hashes

    def alike(clips: Sequence[str]) -> np.ndarray:
        found = plain(clips).copy()
        found[:, 0] %= 3
        return found

    monkeypatch.setattr(index, "_hashes", alike)
    store, clips = many(tmp_path)
    assert store.locate(clips).read(np.arange(200))["x"][:, 0].tolist() == list(range(200))
    assert not store.holds(["nobody"])


def test_a_bounded_number_of_files_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xmodal.data import index

    monkeypatch.setattr(index, "MAPPINGS", few := Mappings(4))
    store, clips = many(tmp_path)
    assert store.locate(clips).read(np.arange(200))["x"][:, 0].tolist() == list(range(200))
    assert len(few) == 4


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
from xmodal.data.features import FeatureStore
for root in sys.argv[1:]:
    store = FeatureStore.open(root)
    clips = [f"clip {number}" for number in range(len(store))]
    found = store.locate(clips).read(np.random.default_rng(0).permutation(len(store)))["x"]
    assert sorted(found[:, 0].tolist()) == list(range(len(store)))
    assert list(store.verify()) == []
held = []
try:
    while True:
        held.append(open("/dev/null"))
except OSError:
    pass
try:
    list(FeatureStore.open(sys.argv[1]).verify())
except OSError as error:
    held.clear()
    print(error)
"""


def test_stores_of_more_shards_than_a_process_may_open(tmp_path: Path) -> None:
    roots = [str(many(tmp_path / name, 300)[0].root) for name in ("one", "two")]
    command = [sys.executable, "-c", LIMITED, *roots]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "remove" not in done.stdout
    assert "damaged" not in done.stdout
    assert "Too many open files" in done.stdout or "raise `ulimit -n`, which is 128" in done.stdout


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path)
    before = contents(store)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="cannot be written .No space left on device.: free the disk"):
        store.write(["new"], ["new"], {"pooled": np.zeros((1, 5), np.float16)})
    assert contents(store) == before


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path)
    before = contents(store)
    store.root.chmod(0o500)
    opened = Path.open

    def refuse(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if "r" not in mode:  # root writes where it may not: the mode alone would prove nothing then
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, mode, *args, **options)

    try:
        monkeypatch.setattr(Path, "open", refuse)
        with pytest.raises(OSError, match="cannot be written .Permission denied.: free the disk or choose another folder"):
            store.write(["new"], ["new"], {"pooled": np.zeros((1, 5), np.float16)})
    finally:
        monkeypatch.undo()
        store.root.chmod(0o700)
    assert contents(store) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written .Not a directory.|cannot be written .File exists."):
        FeatureStore(tmp_path / "file", KEY).write(["new"], ["new"], {"pooled": np.zeros((1, 5), np.float16)})


LIVING = """
import sys, time
from pathlib import Path
from xmodal.files import write_whole
def pieces():
    yield b"first"
    print("begun", flush=True)
    time.sleep(60)
write_whole(Path(sys.argv[1]), pieces())
"""


def test_what_a_killed_writer_left_is_cleaned_and_a_living_one_spared(tmp_path: Path) -> None:
    target = tmp_path / "a é.bin"
    writers = [subprocess.Popen([sys.executable, "-c", LIVING, str(target)], stdout=subprocess.PIPE) for _ in range(2)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"begun\n"
    assert clean_up(tmp_path) == 0
    assert len(list(tmp_path.iterdir())) == 2
    writers[0].kill()
    writers[0].wait()
    assert clean_up(tmp_path) == 1
    assert len(list(tmp_path.iterdir())) == 1
    writers[1].kill()
    writers[1].wait()
    assert clean_up(tmp_path) == 1
    assert clean_up(tmp_path / "nothing") == 0


def test_an_extraction_cleans_up_first(tmp_path: Path) -> None:
    store = filled(tmp_path)
    (store.root / ".0.safetensors.0123.partial").write_bytes(b"half a shard")
    assert store.extract(CLIPS, compute, rows_per_shard=16) == 0
    assert not list(store.root.glob(".*"))


def test_rows_are_read_beside_groups_that_failed_whole(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, KEY)
    for number in range(8):  # names are hashes: some failed group sorts first
        group = [f"{number} a", f"{number} b"]
        if number % 2:
            store.write(group, group, {"x": np.full((2, 3), number, np.float32)})
        else:
            store.write(group, [], {}, dict.fromkeys(group, "no sound"))
    rows = store.locate(["5 b", "1 a"])
    assert rows.kinds() == {"x": ((3,), np.dtype(np.float32))}
    assert rows.read([1, 0])["x"][:, 0].tolist() == [1, 5]


EXTRACT = """
import sys, time
import numpy as np
from tests.data.test_features import CLIPS, KEY, compute
from xmodal.data.features import FeatureStore
def slow(positions):
    time.sleep(0.002)
    return compute(positions)
FeatureStore(sys.argv[1], KEY).extract(CLIPS, slow, rows_per_shard=2)
"""


@pytest.mark.slow
def test_killed_thirty_times_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole = FeatureStore(tmp_path / "whole", KEY)
    whole.extract(CLIPS, compute, rows_per_shard=2)
    random, kills = Random(0), 0
    broken = tmp_path / "broken"
    with Forks(["tests.data.test_features"], PYTHONPATH=str(ROOT)) as forks:
        for _ in range(30):
            forks.start(["extract", str(broken)], tmp_path, EXTRACT)
            seen = len(list(broken.rglob("*.safetensors")))
            deadline = time.monotonic() + 60
            # Kill soon after it has written something, at a moment that it cannot know.
            while len(list(broken.rglob("*.safetensors"))) == seen and forks.running() and time.monotonic() < deadline:
                time.sleep(0.0005)
            time.sleep(random.uniform(0, 0.004))
            forks.kill()
            kills += forks.wait() == -signal.SIGKILL
            for path in broken.rglob("*.safetensors"):
                Shard(path).verify()
            if len(list(broken.rglob("*.safetensors"))) >= 45:  # nearly done: take a few away, so that all thirty kills count
                for path in sorted(broken.rglob("*.safetensors"))[::3]:
                    path.unlink()
        assert all(claim.read_bytes() for claim in broken.rglob(f".*{CLAIM}"))  # whose they were is known: nobody waits for them
        forks.start(["extract", str(broken)], tmp_path, EXTRACT)
        assert forks.wait() == 0
    assert kills >= 25
    assert contents(FeatureStore(broken, KEY)) == contents(whole)


JOIN = """
import sys, time
from pathlib import Path
from tests.data.test_features import CLIPS, KEY, compute
from xmodal.data.features import FeatureStore
folder, gate, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
def slow(positions):
    time.sleep(seconds)
    return compute(positions)
print("ready", flush=True)
while not gate.exists():
    time.sleep(0.005)
print(FeatureStore(folder, KEY).extract(CLIPS, slow, rows_per_shard=2))
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="locks and boot ids of Linux tell at once that a holder is dead")
def test_eight_processes_three_killed_and_two_late_end_with_the_bytes_of_one(tmp_path: Path) -> None:
    alone, shared = FeatureStore(tmp_path / "alone", KEY), FeatureStore(tmp_path / "shared", KEY)
    alone.extract(CLIPS, compute, rows_per_shard=2)

    def start(gate: str, seconds: float = 0.2) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", JOIN, str(tmp_path / "shared"), str(tmp_path / gate), str(seconds)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    doomed = [start("doomed", 90) for _ in range(3)]  # they are killed in the midst of a group
    others, late = [start("first") for _ in range(5)], [start("late") for _ in range(2)]
    for process in (*doomed, *others, *late):
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    def holders() -> dict[int, Path]:
        found = {}
        for path in shared.root.glob(f".*{CLAIM}"):
            with suppress(FileNotFoundError):
                words = path.read_text().split()
                found |= {int(words[2]): path} if words else {}
        return found

    (tmp_path / "doomed").touch()
    began = time.monotonic()
    while not {process.pid for process in doomed} <= (held := holders()).keys() and time.monotonic() < began + 60:
        time.sleep(0.005)
    lost = [held[process.pid] for process in doomed]  # looked up while they live: the others free a dead one's claim at once
    (tmp_path / "first").touch()
    for process in doomed:
        process.kill()
        process.wait()
    (tmp_path / "late").touch()
    counts = [int(process.communicate(timeout=60)[0]) for process in (*others, *late)]
    assert time.monotonic() - began < STALE / 2  # nobody waited until the claims of the dead were old
    assert sum(counts) == 50
    assert min(counts[-2:]) > 0
    assert not any(path.exists() for path in lost)
    assert contents(shared) == contents(alone)
