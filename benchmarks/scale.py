"""50 million rows: a manifest and a feature store opened, split over ranks, read.  python benchmarks/scale.py [--rows 50000000]

Synthetic: rows of a few words, features of a few bytes, 10,000 in a shard. Each step is a process of its own. Memory is what the
process itself holds at its peak (RssAnon, looked at every 5 ms); what is mapped of files is not in it, since the system takes it
back when it is needed. Seconds are processor seconds. `train` is 98 of 100 rows. Names of parsed rows, and checks of whole rows,
are timed with a million. Writes benchmarks/results/scale.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
SPLITS = ("train",) * 98 + ("validation", "test")
SHARD = 10_000  # rows
RANKS = 8
SAMPLE = 1_000_000  # rows


class Peak:
    """Megabytes that the process grows by at its peak while something is done, and the seconds that it takes."""

    def __enter__(self) -> Peak:
        self.before = self.most = held()
        self.over = threading.Event()
        self.watcher = threading.Thread(target=self._watch)
        self.watcher.start()
        self.start = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = round(time.process_time() - self.start, 3)
        self.over.set()
        self.watcher.join()
        self.most = max(self.most, held())
        self.megabytes = round((self.most - self.before) / 1e6, 1)

    def _watch(self) -> None:
        while not self.over.wait(0.005):
            self.most = max(self.most, held())

    def told(self) -> dict[str, float]:
        return {"seconds": self.seconds, "peak_growth_mb": self.megabytes}


def held() -> int:
    """Bytes of memory that belong to no file."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))


def write_rows(path: Path, count: int) -> None:
    """The manifest, as `write_manifest` writes rows."""
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, count, 100_000):
            numbers = range(start, min(start + 100_000, count))
            file.write(
                "".join(
                    f'{{"id": "{number:08d}", "audio": "a/{number % 1000}.wav", "split": "{SPLITS[number % 100]}"}}\n'
                    for number in numbers
                )
            )


def write_store(folder: Path, count: int) -> None:
    """The store: a row is its own number and 4 small ones."""
    from xmodal.data.features import FeatureStore, Key

    store = FeatureStore(folder, Key("numbers", "none"))
    for start in range(0, count, SHARD):
        numbers = np.arange(start, min(start + SHARD, count), dtype=np.int32)
        names = [f"{number:08d}" for number in numbers]
        store.write(names, names, {"number": numbers, "vector": np.zeros((len(numbers), 4), np.float16)})


def opened(folder: Path) -> dict[str, Any]:
    """The training rows of the manifest."""
    from xmodal.data.manifest import Manifest

    with Peak() as peak:
        rows = Manifest(folder / "manifest.jsonl", "train")
        last = rows[len(rows) - 1].id
    return {**peak.told(), "rows": len(rows), "last": last}


def store_opened(folder: Path) -> dict[str, Any]:
    """The store."""
    from xmodal.data.features import stores

    (store,) = stores(folder / "store")
    with Peak() as peak:
        rows = len(store)
    return {**peak.told(), "rows": rows, "shards": len(store.index.shards)}


class Names:
    """Names of the training rows without parsing them: what parsing takes is measured on a sample."""

    def __init__(self, count: int) -> None:
        self.numbers = np.flatnonzero(np.arange(count) % len(SPLITS) < SPLITS.count("train")).astype(np.int32)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, part: slice) -> list[str]:
        return [f"{number:08d}" for number in self.numbers[part].tolist()]


def trained(folder: Path) -> dict[str, Any]:
    """What a training holds: rows found in the store by their names, the order of an epoch over ranks, batches."""
    import torch  # noqa: F401  (not part of what is measured)

    from xmodal.data.features import stores
    from xmodal.data.loading import Loader
    from xmodal.data.manifest import Manifest
    from xmodal.data.media import PairedMediaSet
    from xmodal.data.module import ClipNames

    before = held()
    rows = Manifest(folder / "manifest.jsonl", "train")
    (store,) = stores(folder / "store")
    count, sample = len(store), np.arange(min(SAMPLE, len(rows)))
    with Peak() as parsed:
        store.locate(ClipNames(rows.chosen(sample), (), rows.root))
    names = Names(count)
    with Peak() as found:
        places = store.locate(names)  # type: ignore[arg-type]
    del names
    media = PairedMediaSet(rows, 16000, 1.0, "pad", (8, 8), inputs=(), stored=(places,))
    held_by_rows = held() - before
    given, orders = 0, []
    for rank in range(RANKS):
        loader = Loader(media, 256, shuffle=True, rank=rank, world_size=RANKS)
        with Peak() as order:
            turn = loader._batches(0, 0)
        orders.append(order)
        loader._turn.become(turn, slice(rank, None, RANKS))
        given += int((loader._turn.ends - loader._turn.begins).sum())
        del turn, loader
    loader, read = Loader(media, 256, shuffle=True, rank=3, world_size=RANKS), 0
    batches = iter(loader)
    next(batches)
    with Peak() as batch:
        until = time.process_time() + 10
        for each in batches:
            read += len(each["id"])
            if [int(name) for name in each["id"]] != each["number"].tolist():
                raise ValueError("a row of the store is not that of its clip")
            if time.process_time() > until:
                break
    random, only = np.random.default_rng(0), 0
    with Peak() as stored:
        until = time.process_time() + 10
        while time.process_time() < until:
            only += len(places.read(random.integers(0, len(places), 256))["number"])
    return {
        "rows_parsed_and_found_per_second": round(len(sample) / parsed.seconds),
        "rows_found_per_second": round(len(rows) / found.seconds),
        "finding_peak_growth_mb": found.megabytes,
        "held_bytes_a_row": round(held_by_rows / len(rows), 1),
        "order_of_an_epoch": {
            "ranks": RANKS,
            "seconds_of_each": round(max(each.seconds for each in orders), 2),
            "peak_growth_mb_of_each": max(each.megabytes for each in orders),
            "clips_given": given,
        },
        "random_batches_of_256": {"rows_per_second": round(read / batch.seconds), "peak_growth_mb": batch.megabytes},
        "features_alone_rows_per_second": round(only / stored.seconds),
    }


def checked(folder: Path) -> dict[str, Any]:
    """Rows read and compared with all others, as `xmodal cache` does before it begins."""
    from xmodal.data.manifest import valid_rows

    with Peak() as peak:
        rows, wrong = valid_rows(folder / "sample.jsonl")
    return {**peak.told(), "rows_per_second": round(len(rows) / peak.seconds), "wrong": len(wrong)}


STEPS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "opened": opened,
    "store_opened": store_opened,
    "trained": trained,
    "checked": checked,
}


def alone(step: str, folder: Path) -> dict[str, Any]:
    """A step in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--step", step, "--folder", folder], check=True, capture_output=True, text=True
    )
    found = json.loads(done.stdout)
    print(f"{step}: {found}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000_000)
    parser.add_argument("--folder", type=Path, help="scratch (default: a temporary folder)")
    parser.add_argument("--step", choices=STEPS)
    parser.add_argument("--output", type=Path, default=RESULTS / "scale.json")
    options = parser.parse_args()
    if options.step:
        print(json.dumps(STEPS[options.step](options.folder)))
        return
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        report: dict[str, Any] = {"rows": options.rows, "cores": os.cpu_count(), "load_before": round(os.getloadavg()[0], 1)}
        write_rows(folder / "manifest.jsonl", options.rows)
        report["manifest_mb"] = round((folder / "manifest.jsonl").stat().st_size / 1e6)
        report["manifest_opened_first"], report["manifest_opened_again"] = (alone("opened", folder) for _ in range(2))
        report["manifest_index_mb"] = round(sum(each.stat().st_size for each in folder.glob(".*.lines")) / 1e6)
        write_rows(folder / "sample.jsonl", min(SAMPLE, options.rows))
        report["sample_checked"] = alone("checked", folder)
        write_store(folder / "store", options.rows)
        report["store_mb"] = round(sum(each.stat().st_size for each in (folder / "store").rglob("*") if each.is_file()) / 1e6)
        report["store_opened_first"], report["store_opened_again"] = (alone("store_opened", folder) for _ in range(2))
        report["training"] = alone("trained", folder)
    finally:
        shutil.rmtree(folder)
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
