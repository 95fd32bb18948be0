"""How fast is extraction, and how much memory does it take?  python benchmarks/extraction.py [--clips 192] [--rounds 3]

AudioToken's features in miniature (BEATs tokens, VAE latents) of clips in wav + png files: `xmodal cache`'s own function,
which decodes, computes in batches and writes the shards, against computing the same in a loader, clip by clip as its
``__getitem__`` would, and against the loader with the models called on whole batches (nothing is stored by either). One
process, no workers; processor seconds, which others at work on the machine change little; medians of rounds that take turns,
after one that is not counted. One more round is profiled, to see where the time goes. Then the largest memory of a process
that extracts groups of 64, and of 512, clips of half a minute of 48 kHz stereo.
Writes benchmarks/results/extraction.json.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import logging
import os
import pstats
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from lightning.pytorch import Trainer

from xmodal.audio2image import AudioToken
from xmodal.data import extraction
from xmodal.data.module import PairedMedia
from xmodal.foundation.beats import BEATs
from xmodal.foundation.stable_diffusion import StableDiffusion
from xmodal.frozen import Feature
from xmodal.miniature.render import render

RESULTS = Path(__file__).parent / "results"
STEPS = {"models": "_compute", "reading": "__getitem__", "hashing and writing": "write"}
LONG, COPIES = 16, 32  # files of half a minute, and how often each is named


def media(manifest: Path, cache: Path | None, batch_size: int) -> PairedMedia:
    return PairedMedia(
        manifest, seconds=2.5, short="pad", width=64, height=64, crop="loudest", batch_size=batch_size, num_workers=0, cache=cache
    )


def trainer() -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return Trainer(accelerator="cpu", **quiet)  # type: ignore[arg-type]


def speeds(folder: Path, clips: int, group: int, rounds: int) -> tuple[dict[str, float], dict[str, float], int]:
    """Clips in a processor second by way, shares of extraction's time, and bytes of a clip."""
    task = AudioToken(BEATs(), StableDiffusion(), seconds=2.5, short="pad")
    manifest = render(folder / "world", "train", clips)
    stores = iter(range(10**6))

    def extract() -> int:
        data = media(manifest, folder / f"cache {next(stores)}", 16)
        extraction.extract(task.frozen_features(), data, trainer(), group, ("train",))
        return clips

    def loader(batch_size: int) -> int:
        # The last batch is left out as in training; what counts is what was read.
        return sum(len(task.features(batch)["audio_tokens"]) for batch in media(manifest, None, batch_size).train_dataloader())

    ways: dict[str, Callable[[], int]] = {
        "extraction": extract,
        "in the loader, clip by clip": lambda: loader(1),
        "in the loader, batches of 16": lambda: loader(16),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for name, way in ways.items():
                start = time.process_time()
                read = way()
                found[name].append(read / (time.process_time() - start))
        profile = cProfile.Profile()
        profile.runcall(extract)
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    ours = {place[2]: values[3] for place, values in stats.items() if place[0].endswith(("extraction.py", "features.py"))}
    shares = {name: round(ours[function] / ours["extract"], 3) for name, function in STEPS.items()}
    shares["the rest"] = round(1 - sum(shares.values()), 3)
    size = sum(path.stat().st_size for path in (folder / "cache 0").rglob("*") if path.is_file())
    return {name: statistics.median(values[1:]) for name, values in found.items()}, shares, size // clips


def peak(manifest: Path, cache: Path, group: int) -> int:
    """Extract how loud each sound is, and return the largest memory of this process in bytes."""
    data = PairedMedia(manifest, seconds=30, sample_rate=48000, crop="loudest", batch_size=8, num_workers=0, cache=cache)
    loud = Feature(("waveform",), ("loud",), (), lambda batch: {"loud": batch["waveform"].square().mean(1, keepdim=True)})
    extraction.extract({"loud": loud}, data, trainer(), group, ("train",))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory(folder: Path) -> dict[str, float]:
    """Largest memory in MB by clips of a group, each in a process of its own."""
    lines, random = [], np.random.default_rng(0)
    for number in range(LONG):
        soundfile.write(folder / f"{number}.wav", 0.1 * random.standard_normal((30 * 48000, 2)), 48000)
        lines += [json.dumps({"id": f"{number}-{copy}", "audio": f"{number}.wav", "split": "train"}) for copy in range(COPIES)]
    (folder / "long.jsonl").write_text("\n".join(lines))
    found = {}
    for group in (64, 512):
        words = [sys.executable, __file__, "--peak", str(folder / "long.jsonl"), str(folder / f"peak {group}"), str(group)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        found[f"groups of {group}"] = round(int(done.stdout.split()[-1]) / 1e6)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=192)
    parser.add_argument("--group", type=int, default=64, help="rows of a shard")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if options.peak:
        manifest, cache, group = options.peak
        print(peak(Path(manifest), Path(cache), int(group)))
        return
    load, clips = round(os.getloadavg()[0], 1), options.clips
    with tempfile.TemporaryDirectory() as scratch:
        found, shares, size = speeds(Path(scratch), clips, options.group, options.rounds)
    times = {name: round(found["extraction"] / speed, 2) for name, speed in found.items()}
    print(f"{clips} clips of 2.5 s and 64 x 64 pixels, one thread; {size / 1000:.0f} kB stored for each")
    for name, speed in found.items():
        print(f"  {name:<32}{speed:>8.1f} clips/s   extraction is {times[name]:.2f} times as fast")
    print("  time of extraction: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items()), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        peaks = memory(Path(scratch))
    print(f"{LONG * COPIES} clips of half a minute of 48 kHz stereo, batches of 8; largest memory of a process")
    print("  " + ", ".join(f"{name}: {size} MB" for name, size in peaks.items()))
    RESULTS.mkdir(exist_ok=True)
    report = {
        "clips": clips,
        "cores": os.cpu_count(),
        "load_before": load,
        "bytes_per_clip": size,
        "clips_per_second": {name: round(speed, 1) for name, speed in found.items()},
        "extraction_is_times_as_fast": times,
        "share_of_extraction": shares,
        "peak_mb": peaks,
    }
    (RESULTS / "extraction.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
