"""What generating costs beside the networks.  python benchmarks/overhead.py [--count 8] [--rounds 5] [--profile]

Processor seconds of `xmodal.pipeline("audiotoken-mini")` from sound files to written PNG files, against the bare calls of the
same frozen networks on inputs of the same sizes: BEATs and the embedder once for each sound, the text encoder for each prompt and
once for the empty one, the UNet in each step with guidance, the VAE's decoder. In one process, in turns, medians of the rounds;
batches of 1, and of 8 as `xmodal generate` makes them. --profile prints where the pipeline's own time goes.
Writes benchmarks/results/overhead.json.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import soundfile
import torch

import xmodal
from xmodal.miniature import world

RESULTS = Path(__file__).parent / "results"
STEPS = 25


def seconds(compute: Callable[[], object]) -> float:
    """Of this process's threads."""
    began = time.process_time()
    compute()
    return time.process_time() - began


@torch.no_grad()
def bare(pipe: Any, count: int, batch: int) -> None:
    """The networks alone."""
    painter = pipe.generator
    samples = round(pipe.seconds * pipe.encoder.sample_rate)
    sounds = torch.randn(count, samples) / 9
    tokens = pipe.adapter(pipe.encoder.tokens(sounds))
    ids = torch.zeros(batch, painter.max_length, dtype=torch.long)
    timesteps = torch.linspace(999, 0, STEPS).long()
    side = painter.image_size // painter.factor
    for _ in range(0, count, batch):
        text = painter.text_encoder(ids).last_hidden_state
        empty = painter.text_encoder(ids[:1]).last_hidden_state
        both, latents = (
            torch.cat([empty.expand_as(text), text]),
            torch.randn(2 * batch, painter.unet.config.in_channels, side, side),
        )
        for timestep in timesteps:
            painter.unet(latents, timestep, encoder_hidden_states=both)
        painter.vae.decode(latents[:batch])
    del tokens


def whole(pipe: Any, files: list[Path], batch: int, folder: Path) -> None:
    """What a user does."""
    noise = [torch.Generator().manual_seed(number) for number in range(len(files))]
    made = pipe(files, generator=noise, num_inference_steps=STEPS, candidates=1, batch_size=batch)
    for number in range(len(files)):
        made.save(number, folder / f"{number}.png")


def main() -> None:
    """Print the ratios and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    pipe = xmodal.pipeline("audiotoken-mini")
    report: dict[str, Any] = {"count": options.count, "steps": STEPS, "threads": torch.get_num_threads(), "batches": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [folder / f"{number}.wav" for number in range(options.count)]
        for number, path in enumerate(files):
            soundfile.write(path, world.sound(world.sample("test", number, seed=1)).T, world.sounds.SAMPLE_RATE)
        for batch in (1, 8):
            ours, theirs = partial(whole, pipe, files, batch, folder), partial(bare, pipe, options.count, batch)
            ours(), theirs()  # what is made once
            rounds = [(seconds(ours), seconds(theirs)) for _ in range(options.rounds)]
            mine, least = (median(side) for side in zip(*rounds, strict=True))
            row = {"pipeline_seconds": round(mine, 3), "networks_seconds": round(least, 3), "ratio": round(mine / least, 3)}
            report["batches"][str(batch)] = row
            print(f"batches of {batch}: {mine:.2f} s, the networks alone {least:.2f} s: x {mine / least:.3f}")
        if options.profile:
            profile = cProfile.Profile()
            profile.runcall(ours)
            pstats.Stats(profile).sort_stats("cumulative").print_stats(60)
    (RESULTS / "overhead.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
