"""How fast are cached features read?  python benchmarks/feature_store.py [--clips 20000]

Pooled pairs (768 + 512 float16) read in batches of 256, shuffled where the format allows it: our store, our whole loader over
it (from files and from memory), one .npz file per clip, a WebDataset tar of .npy members (read by webdataset if it is
installed, and by Python's tarfile), litdata if it is installed (in its own order, without workers).

Then stores that are large: two of 2,000 shards in a process that may open 128 files, and ten million rows, opened in a fresh
process (--only reads or --only large leaves out the other half).

Every ratio compares two numbers of this run. Seconds are processor seconds of this process (files come from the page cache),
which others at work on the machine change little. Writes benchmarks/results/feature_store.json.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from xmodal.data.features import FeatureStore, Key, Rows

RESULTS = Path(__file__).parent / "results"
BATCH = 256


def pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.standard_normal((count, 768)).astype(np.float16), random.standard_normal((count, 512)).astype(np.float16)


def rate(batches: Iterator[int], limit: float = 2.0) -> float:
    """Rows per second of an iterator of batch sizes, for at most ``limit`` seconds."""
    rows, start = 0, time.process_time()
    for size in batches:
        rows += size
        if time.process_time() - start > limit:
            break
    return rows / (time.process_time() - start)


def reads(count: int) -> dict[str, float]:
    """Rows per second by format."""
    image, sound = pairs(count)
    names = [f"clip {number}" for number in range(count)]
    order = np.random.default_rng(1).permutation(count)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store = FeatureStore(folder / "store", Key("pairs", "none"))
        store.extract(names, lambda p: (list(p), {"image": image[list(p)], "sound": sound[list(p)]}, {}), rows_per_shard=4096)
        rows = store.locate(names)

        def from_store() -> Iterator[int]:
            while True:
                for start in range(0, count, BATCH):
                    batch = {name: torch.from_numpy(array) for name, array in rows.read(order[start : start + BATCH]).items()}
                    yield len(batch["image"])

        (folder / "files").mkdir()
        for number in range(count):
            np.savez(folder / "files" / f"{number}.npz", image=image[number], sound=sound[number])

        def from_files() -> Iterator[int]:
            for start in range(0, count, BATCH):
                items = [np.load(folder / "files" / f"{number}.npz") for number in order[start : start + BATCH]]
                batch = {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in ("image", "sound")}
                yield len(batch["image"])

        with tarfile.open(folder / "pairs.tar", "w") as tar:
            for number in range(count):
                for name, array in (("image", image), ("sound", sound)):
                    content = io.BytesIO()
                    np.save(content, array[number])
                    member = tarfile.TarInfo(f"{number:08d}.{name}.npy")
                    member.size = content.tell()
                    content.seek(0)
                    tar.addfile(member, content)
        return {
            "store": rate(from_store()),
            **loader_rates(rows, names),
            "one file per clip": rate(from_files()),
            **tar_rate(folder / "pairs.tar"),
            **litdata_rate(folder / "litdata", image, sound),
        }


def loader_rates(rows: Rows, names: list[str]) -> dict[str, float]:
    """Rows per second through the loader that training uses, with ids and labels, in shuffled epochs."""
    from xmodal.data.loading import Loader, Resident
    from xmodal.data.manifest import Row
    from xmodal.data.media import PairedMediaSet

    media = PairedMediaSet([Row(name, label="thing") for name in names], 16000, 1.0, "pad", (8, 8), inputs=(), stored=(rows,))

    def epochs(source: PairedMediaSet | Resident) -> Iterator[int]:
        loader = Loader(source, BATCH, shuffle=True)
        while True:
            for batch in loader:
                yield len(batch["image"])

    memory = Resident(media, torch.device("cpu"))
    return {"loader over the store": rate(epochs(media)), "loader over memory": rate(epochs(memory))}


def litdata_rate(folder: Path, image: np.ndarray, sound: np.ndarray) -> dict[str, float]:
    """Rows per second of litdata, written by its own writer in this process: `optimize` starts workers for each run."""
    try:
        from litdata import StreamingDataLoader, StreamingDataset
        from litdata.streaming.writer import BinaryWriter
    except ImportError:
        return {}
    folder.mkdir()
    writer = BinaryWriter(str(folder), chunk_bytes="64MB")
    for number in range(len(image)):
        writer[number] = {"image": image[number], "sound": sound[number]}
    writer.done()
    writer.merge()

    def stream() -> Iterator[int]:
        for batch in StreamingDataLoader(StreamingDataset(str(folder), shuffle=True), batch_size=BATCH, num_workers=0):
            yield len(batch["image"]) + 0 * len(batch["sound"])

    return {"litdata": rate(stream())}


def tar_rate(path: Path) -> dict[str, float]:
    """Rows per second from a tar of .npy members, in its own order."""

    def plain() -> Iterator[int]:
        images, sounds = [], []
        with tarfile.open(path) as tar:
            for member in tar:
                array = np.load(io.BytesIO(tar.extractfile(member).read()))  # type: ignore[union-attr]
                (images if ".image." in member.name else sounds).append(torch.from_numpy(array))
                if len(sounds) == BATCH:
                    yield len(torch.stack(images)) + 0 * len(torch.stack(sounds))
                    images, sounds = [], []

    try:
        import webdataset
    except ImportError:
        return {"tar (tarfile)": rate(plain())}

    def web() -> Iterator[int]:
        data = webdataset.WebDataset(str(path), shardshuffle=False).decode().to_tuple("image.npy", "sound.npy").batched(BATCH)
        for image, sound in data:
            yield len(torch.as_tensor(image)) + 0 * len(torch.as_tensor(sound))

    return {"tar (tarfile)": rate(plain()), "tar (webdataset)": rate(web())}


OPENED = """
import json, resource, sys, time
roots, limit = sys.argv[2:], int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
import numpy as np
from xmodal.data.features import FeatureStore
def peak():
    with open("/proc/self/status") as file:  # the peak that getrusage tells is inherited from the parent
        return int(next(line for line in file if line.startswith("VmHWM")).split()[1]) / 1024
before, start = peak(), time.perf_counter()
stores = [FeatureStore.open(root) for root in roots]
counts = [len(store) for store in stores]
failed = [len(store.failures()) for store in stores]
opened = time.perf_counter() - start
found = {"rows": counts, "opens_in_s": round(opened, 2), "opening_takes_mb": round(peak() - before), "process_mb": round(peak())}
picked = np.random.default_rng(0).integers(0, counts[0], 20000)
rows = [store.locate([f"clip {number}" for number in picked]) for store in stores]
start = time.perf_counter()
for each in rows:
    for begin in range(0, len(picked), 256):
        read = each.read(np.arange(begin, min(begin + 256, len(picked))))
        assert (read["number"][:, 0] == picked[begin : begin + 256]).all()
found["rows_read_per_second"] = round(len(rows) * len(picked) / (time.perf_counter() - start))
if limit == 128:
    start = time.perf_counter()
    assert not [damaged for store in stores for damaged in store.verify()]
    found["verified_in_s"] = round(time.perf_counter() - start, 2)
print(json.dumps(found))
"""


def numbered(folder: Path, count: int, rows: int) -> FeatureStore:
    """A store whose every row is its number and a vector of 16."""
    store = FeatureStore(folder, Key("numbers", "none"))

    for start in range(0, count, rows):
        numbers = np.arange(start, min(start + rows, count))
        names = [f"clip {number}" for number in numbers]
        store.write(names, names, {"number": numbers[:, None], "vector": np.zeros((len(numbers), 16), np.float16)})
    return store


def opened(limit: int, *stores: FeatureStore) -> dict[str, object]:
    command = [sys.executable, "-c", OPENED, str(limit), *(str(store.root) for store in stores)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def large(million: int) -> dict[str, object]:
    """What stores cost that have many shards, or many rows."""
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as scratch:
        pair = [numbered(Path(scratch) / name, 2000 * 64, 64) for name in ("one", "two")]
        found["2 stores of 2,000 shards, at most 128 open files, first time"] = opened(128, *pair)
        for store in pair:
            len(store)  # makes the index that verifying has removed
        found["2 stores of 2,000 shards, at most 128 open files, with their index"] = opened(128, *pair)
    with tempfile.TemporaryDirectory() as scratch:
        store = numbered(Path(scratch), million * 10**6, 4096)
        start = time.perf_counter()
        len(store)
        indexed = round(time.perf_counter() - start, 1)
        found[f"{million} million rows"] = {"index_made_in_s": indexed, **opened(1024, store)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=20000)
    parser.add_argument("--million", type=int, default=10, help="rows of the large store (default: 10)")
    parser.add_argument("--only", choices=["reads", "large"])
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / "feature_store.json"
    report = json.loads(target.read_text()) if target.exists() else {}
    if options.only != "large":
        report |= compared(options.clips)
    if options.only != "reads":
        report["large"] = large(options.million)
        print(json.dumps(report["large"], indent=1))
    target.write_text(json.dumps(report, indent=1) + "\n")


def compared(count: int) -> dict[str, object]:
    """Rates of all formats, printed, and as they are reported."""
    speeds = reads(count)
    print(f"rows of 768 + 512 float16 read per second, batches of {BATCH}, {count} clips, {os.cpu_count()} cores")
    for name, speed in speeds.items():
        print(f"  {name:<24}{speed:>12,.0f}   store is {speeds['store'] / speed:,.1f} times as fast")
    for name in ("tar (webdataset)", "litdata"):
        if name not in speeds:
            print(f"  {name:<24} not installed")
    ratios = {name: round(speeds["store"] / speed, 1) for name, speed in speeds.items()}
    return {
        "clips": count,
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1),
        "rows_per_second": {name: round(speed) for name, speed in speeds.items()},
        "store_is_times_as_fast": ratios,
    }


if __name__ == "__main__":
    main()
