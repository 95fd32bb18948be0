"""Does extraction stand processes that come and go?  python benchmarks/elastic.py [--clips 512] [--files 64]

`xmodal cache` itself, embeddings for V2A-Mapper in miniature: once in one process, then in eight, none of which knows of the
others. Three of the eight are killed with SIGKILL, each while it holds a claim, and two more join late. What is in the stores
at the end is compared byte by byte. Clips are rows of a manifest over fewer files, each named many times. The processes are
forks of one that has imported everything, so that on few cores the imports do not decide who finds something to do.
Writes benchmarks/results/elastic.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path
from threading import RLock

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a process that has begun to use a GPU cannot be forked
# MKL otherwise adds in an order that depends on where the memory lies.
os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", MKL_CBWR="COMPATIBLE")

import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

from xmodal.__main__ import run  # noqa: E402
from xmodal.miniature.render import render  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "elastic.json"
FIRST, KILLED, LATE = 8, 3, 2
RECIPE = """
model:
  class_path: xmodal.vision2audio.V2AMapper
  init_args:
    encoder:   {class_path: xmodal.foundation.clip.ImageTower, init_args: {card: mini}}
    target:    {class_path: xmodal.foundation.clap.AudioTower, init_args: {card: mini}}
    generator: {class_path: xmodal.foundation.audioldm.AudioLDM, init_args: {card: mini}}
    adapter:   {class_path: xmodal.vision2audio.RegressionMapper, init_args: {depth: 2}}
    seconds: 2.5
data:
  class_path: xmodal.data.PairedMedia
  init_args: {crop: loudest, seconds: 2.5, width: 64, height: 64, batch_size: 16, num_workers: 0, rows_per_shard: 32}
trainer: {enable_progress_bar: false, enable_model_summary: false, accelerator: cpu, logger: false}
"""


def cache(folder: Path, store: str, manifest: str = "many") -> None:
    words = ["--config", str(folder / "recipe.yaml"), "--data.manifest", str(folder / "world" / f"{manifest}.jsonl")]
    run(["cache", *words, "--data.cache", str(folder / store)])


def start(folder: Path, store: str) -> int:
    """Run the command in a child, which writes what it says into a file of its number; returns that."""
    tqdm.set_lock(RLock())  # its own is one lock of all forks: killed while it made a bar, one would hold it for ever
    if child := os.fork():
        return child
    status = 1
    try:
        torch.set_num_threads(1)  # a child's first threads race for a new pool, and one finds none, unless it is made before them
        told = os.open(folder / f"{os.getpid()}.txt", os.O_CREAT | os.O_WRONLY)
        os.dup2(told, 1)
        os.dup2(told, 2)
        cache(folder, store)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def finish(folder: Path, children: list[int]) -> set[str]:
    """What they have said of the stores."""
    every = {child: (folder / f"{child}.txt").read_text() for child in children}
    return {"\n".join(line for line in text.splitlines() if " clips in " in line) for text in every.values()}


def used() -> float:
    """Processor seconds of all children that have ended."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def ended(children: list[int]) -> list[int]:
    """Remove from the list those that have ended; ends where one has failed."""
    for child in list(children):
        found, status = os.waitpid(child, os.WNOHANG)
        if found and os.WIFEXITED(status) and os.WEXITSTATUS(status):
            sys.exit(f"process {child} has failed")
        if found:
            children.remove(child)
    return children


def holders(store: Path) -> dict[int, str]:
    """Process and claim."""
    found = {}
    for path in store.glob("*/.*.claim"):
        with suppress(OSError):
            words = path.read_text().split()
            found |= {int(words[2]): path.name} if words else {}
    return found


def shards(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.glob("*/*.safetensors")}


def many(folder: Path, files: int, clips: int) -> int:
    """Write a manifest that names each file many times; returns the number of its clips."""
    rows = [json.loads(line) for line in render(folder / "world", "train", files).read_text().splitlines()]
    lines = [{**row, "id": f"{row['id']}-{again}", "split": "train"} for again in range(-(-clips // len(rows))) for row in rows]
    (folder / "world" / "many.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "world" / "few.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:4]))
    (folder / "recipe.yaml").write_text(RECIPE)
    return len(lines)


def disturbed(folder: Path, total: int) -> dict[str, object]:
    """Eight processes, three of which are killed, and two that join when a fifth is stored."""
    store, began, before = folder / "shared", time.monotonic(), used()
    first = [start(folder, "shared") for _ in range(FIRST)]
    every, running, late = list(first), list(first), []
    claimed: dict[int, set[str]] = {}
    killed: list[int] = []
    while ended(running):
        held = holders(store)
        for pid, claim in held.items():
            claimed.setdefault(pid, set()).add(claim)
        present = len(list(store.glob("*/*.safetensors")))
        if not late and present > total / 5:
            late = [start(folder, "shared") for _ in range(LATE)]
            every, running = every + late, running + late
        doomed = [pid for pid in first if pid in held and pid in running]
        if present > total / 10 * (1 + len(killed)) and len(killed) < KILLED and doomed:
            os.kill(doomed[0], signal.SIGKILL)
            killed.append(doomed[0])
            os.waitpid(doomed[0], 0)
            running.remove(doomed[0])
        time.sleep(0.01)
    took = time.monotonic() - began
    told = finish(folder, [pid for pid in every if pid not in killed])
    of_the_late = sum(len(claimed.get(pid, ())) for pid in late)
    if len(killed) < KILLED or not of_the_late:
        sys.exit(f"{len(killed)} were killed, and the late ones had {of_the_late} groups: give more --clips")
    return {
        "seconds": round(took, 1),
        "processor_seconds": round(used() - before, 1),
        "killed_while_holding_a_claim": len(killed),
        "groups_seen_with_the_late": of_the_late,
        "reports": sorted(told),
        "left_beside_the_shards": sorted(path.name for path in store.glob("*/.*")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=512)
    parser.add_argument("--files", type=int, default=64)
    options = parser.parse_args()
    load = round(os.getloadavg()[0], 1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        clips = many(folder, options.files, options.clips)
        cache(folder, "warm", "few")  # imports what it needs
        began, alone = time.monotonic(), [start(folder, "alone")]
        while ended(alone):
            time.sleep(0.01)
        seconds, processor = time.monotonic() - began, used()
        whole = shards(folder / "alone")
        found = disturbed(folder, len(whole))
        same = shards(folder / "shared") == whole
        found["reports"] = [line.replace(scratch, "") for line in found["reports"]]
    told = {
        name: {"clips_per_second": round(clips / seconds, 1), "clips_per_processor_second": round(clips / processor, 1)}
        for name, seconds, processor in (
            ("one process", seconds, processor),
            ("eight, three killed, two late", found["seconds"], found["processor_seconds"]),
        )
    }
    print(
        f"{clips} clips of {options.files} files, two features, {len(whole)} shards, {os.cpu_count()} cores, load before {load}"
    )
    for name, each in told.items():
        both = f"{each['clips_per_second']:>8.1f} clips/s{each['clips_per_processor_second']:>8.1f} in a processor second"
        print(f"  {name:<32}{both}, from the first start to the last end")
    deaths, joined = found["killed_while_holding_a_claim"], found["groups_seen_with_the_late"]
    print(f"  {deaths} killed while they held a claim; the late had {joined} groups")
    print(f"  shards and their bytes are the same: {same}; left beside them: {found['left_beside_the_shards'] or 'nothing'}")
    print(f"  all who ended say: {found['reports']}")
    report = {"clips": clips, "shards": len(whole), "cores": os.cpu_count(), "load_before": load, **told}
    RESULTS.write_text(json.dumps({**report, **found, "same_bytes": same}, indent=1) + "\n")
    if not same:
        sys.exit("violation: the stores differ")


if __name__ == "__main__":
    main()
