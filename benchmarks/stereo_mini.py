"""Does a picture's CLIP embedding tell where its sound stands?  python benchmarks/stereo_mini.py

Trains a `StereoPan` round a `RegressionMapper` on the miniature world (3,000 clips, embeddings of the mini CLIP and CLAP
computed once), three seeds, and guesses the pan of 256 unseen pictures of split test, and of 256 of split heldout (things
of a size at a place that training never shows). A side is right where the guess, cut at half of the world's outermost pan,
is the clip's place. Ceiling: the pan that is heard, cut in the same way. Floors: pictures in another order, and always
the mean of the training pans. Intervals: Wilson, 95 %. Writes benchmarks/results/stereo_mini.json.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from audiotoken_mini import wilson
from torch import Tensor
from torch.utils.data import default_collate

from xmodal.foundation.clap import AudioTower
from xmodal.foundation.clip import ImageTower
from xmodal.miniature import world
from xmodal.miniature.data import Clips
from xmodal.miniature.sounds import PAN
from xmodal.vision2audio import RegressionMapper, StereoPan, V2AMapper

RESULTS = Path(__file__).parent / "results" / "stereo_mini.json"
SPLITS = {"train": (3000, 0), "test": (256, 1), "heldout": (256, 1)}  # number of clips, seed of the world
STEPS, BATCH, RATE, SEEDS = 1500, 128, 1e-3, (0, 1, 2)


@torch.no_grad()
def read(split: str, eye: ImageTower, ear: AudioTower) -> dict[str, Any]:
    """Embeddings (N, d), pans (N,) and places of a split's clips."""
    count, seed = SPLITS[split]
    clips = Clips(split, count, ("pixels", "waveform", "pan"), seed)
    rows: list[dict[str, Tensor]] = []
    for start in range(0, count, 64):
        batch = default_collate([clips[index] for index in range(start, min(start + 64, count))])
        seen, heard = eye.embed(batch["pixels"]), ear.embed(batch["waveform"])
        rows.append({"image_embedding": seen, "audio_embedding": heard, "pan": batch["pan"]})
    places = [world.PLACES.index(world.sample(split, index, seed).place) for index in range(count)]
    return {**{name: torch.cat([row[name] for row in rows]) for name in rows[0]}, "place": torch.tensor(places)}


def train(data: dict[str, Any], seed: int, head: bool, eye: ImageTower, ear: AudioTower) -> V2AMapper:
    """A mapper, with or without the head, that has seen the same batches under the same seed."""
    torch.manual_seed(seed)
    adapter = partial(StereoPan, mapper=RegressionMapper) if head else RegressionMapper
    task = V2AMapper(eye, ear, generator=lambda: None, adapter=adapter)  # type: ignore[arg-type, return-value]
    optimizer = torch.optim.AdamW(task.adapter.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS, pct_start=0.1)
    order = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        chosen = torch.randint(len(data["pan"]), (BATCH,), generator=order)
        losses = task.losses({name: data[name][chosen] for name in ("image_embedding", "audio_embedding", "pan")})
        optimizer.zero_grad()
        sum(losses.values()).backward()  # type: ignore[union-attr]
        optimizer.step()
        schedule.step()
    return task.eval()


def score(guess: Tensor, data: dict[str, Any]) -> dict[str, Any]:
    """Mean absolute error and correlation with the pan that is heard, and the share of sides (percent) that are right."""
    side = (guess > PAN["right"] / 2).long() - (guess < PAN["left"] / 2).long() + 1
    right = int((side == data["place"]).sum())
    correlation = float(torch.corrcoef(torch.stack([guess, data["pan"]]))[0, 1]) if guess.std() > 1e-6 else None
    return {
        "error": round(float((guess - data["pan"]).abs().mean()), 3),
        "correlation": None if correlation is None else round(correlation, 3),
        "side": round(100 * right / len(guess), 1),
        "interval": [round(each, 1) for each in wilson(right, len(guess))],
    }


@torch.no_grad()
def main() -> None:
    eye, ear = ImageTower(card="mini"), AudioTower(card="mini")
    data = {split: read(split, eye, ear) for split in SPLITS}
    tests = [split for split in SPLITS if split != "train"]
    table: dict[str, dict[str, Any]] = {split: {"heard (ceiling)": score(data[split]["pan"], data[split])} for split in tests}
    difference = 0.0
    for seed in SEEDS:
        with torch.enable_grad():
            task, plain = (train(data["train"], seed, head, eye, ear) for head in (True, False))
        for split in tests:
            source = data[split]["image_embedding"]
            guess = task.adapter.pan(source)  # type: ignore[operator]
            table[split][f"guessed, seed {seed}"] = score(guess, data[split])
            table[split][f"shuffled pictures, seed {seed}"] = score(guess.roll(1), data[split])
            apart = task.adapter.sample(source) - plain.adapter.sample(source)
            difference = max(difference, float(apart.abs().max()))
    for split in tests:
        mean = data["train"]["pan"].mean().expand(len(data[split]["pan"]))
        table[split]["always the mean"] = score(mean, data[split])
        print(f"split {split}, {len(mean)} clips: error of the pan, correlation, percent of sides right [95 % interval]")
        for row, cells in table[split].items():
            correlation = "    -" if cells["correlation"] is None else f"{cells['correlation']:5.2f}"
            print(f"{row:<28}{cells['error']:6.3f}  {correlation}  {cells['side']:5.1f} {cells['interval']}")
    print(f"largest difference that the head makes to the mapper's embeddings: {difference:g}")
    options = {"clips": SPLITS, "steps": STEPS, "batch": BATCH, "learning_rate": RATE, "world": world.VERSION}
    report = {**options, "table": table, "difference of the mapper's embeddings": difference}
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
