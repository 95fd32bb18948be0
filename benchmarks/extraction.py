"""How fast is extraction?  python benchmarks/extraction.py [--clips 192] [--group 64]

AudioToken's features in miniature (BEATs tokens, VAE latents) of clips in wav + png files: `xmodal cache`'s own function,
which decodes, computes in batches and writes the shards, against computing the same in a loader, clip by clip as its
``__getitem__`` would, and against the loader with the models called on whole batches (nothing is stored by either). One
process, no workers; processor seconds, which others at work on the machine change little.
Writes benchmarks/results/extraction.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from xmodal.audio2image import AudioToken
from xmodal.data.extraction import extract
from xmodal.data.module import PairedMedia
from xmodal.foundation.beats import BEATs
from xmodal.foundation.stable_diffusion import StableDiffusion
from xmodal.miniature.render import render

RESULTS = Path(__file__).parent / "results"


def media(manifest: Path, cache: Path | None, batch_size: int) -> PairedMedia:
    return PairedMedia(
        manifest, seconds=2.5, short="pad", width=64, height=64, crop="loudest", batch_size=batch_size, num_workers=0, cache=cache
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=192)
    parser.add_argument("--group", type=int, default=64, help="rows of a shard")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    load, clips = round(os.getloadavg()[0], 1), options.clips
    task = AudioToken(BEATs(), StableDiffusion(), seconds=2.5, short="pad")
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    speeds = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        manifest = render(folder / "world", "train", clips)
        item = media(manifest, None, 16).train_dataloader().source.batch([0])  # warm
        with torch.inference_mode():
            task.features(item)
            start = time.process_time()
            extract(
                task.frozen_features(),
                media(manifest, folder / "cache", 16),
                Trainer(accelerator="cpu", **quiet),
                options.group,
                ("train",),
            )  # type: ignore[arg-type]
            speeds["extraction"] = clips / (time.process_time() - start)
            start = time.process_time()
            # The last group is left out as in training; what counts is what was read.
            read = sum(len(task.features(batch)["audio_tokens"]) for batch in media(manifest, None, 1).train_dataloader())
            speeds["in the loader, clip by clip"] = read / (time.process_time() - start)
            start = time.process_time()
            read = sum(len(task.features(batch)["audio_tokens"]) for batch in media(manifest, None, 16).train_dataloader())
            speeds["in the loader, batches of 16"] = read / (time.process_time() - start)
        size = sum(path.stat().st_size for path in (folder / "cache").rglob("*") if path.is_file())
    print(f"{clips} clips of 2.5 s and 64 x 64 pixels, one thread; {size / clips / 1000:.0f} kB stored for each")
    for name, speed in speeds.items():
        print(f"  {name:<32}{speed:>8.1f} clips/s   extraction is {speeds['extraction'] / speed:.2f} times as fast")
    RESULTS.mkdir(exist_ok=True)
    report = {
        "clips": clips,
        "cores": os.cpu_count(),
        "load_before": load,
        "bytes_per_clip": round(size / clips),
        "clips_per_second": {name: round(speed, 1) for name, speed in speeds.items()},
        "extraction_is_times_as_fast": {name: round(speeds["extraction"] / speed, 2) for name, speed in speeds.items()},
    }
    (RESULTS / "extraction.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
