"""What does the store give a training?  python benchmarks/store_training.py [--clips 512] [--tasks audiotoken,v2a-mapper]

Steps per second of each task in miniature, with its frozen features from the store (in memory, as `device_resident: auto` has
it) against computing them in every step from the same wav and png files. One process, no reading workers: on this machine
they would take the cores that the models need. Of a few steps with the store a profiler tells what they spend. A part whose
trained weights are not embedded yet has random ones of the same sizes, which take the same time, and the report says so; a task
that cannot be built is left out with a line. Seconds are processor seconds of this process, which runs one thread: others at
work on the machine change them little.
Writes benchmarks/results/store_training.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch.profiler import ProfilerActivity, profile

from xmodal.data.extraction import extract
from xmodal.data.module import PairedMedia
from xmodal.miniature.render import render
from xmodal.task import Task

RESULTS = Path(__file__).parent / "results"
KINDS = {
    "convolutions": ("convolution",),
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "attention": ("scaled_dot_product",),
}
BATCH = {"audiotoken": 16, "v2a-mapper": 128, "clipsonic": 16}
random_parts: list[str] = []


def or_random(name: str, trained: Callable[[], Any], untrained: Callable[[], Any]) -> Any:
    """A part with its trained weights, or with random ones where these are not embedded."""
    try:
        return trained()
    except (FileNotFoundError, ValueError):
        if name not in random_parts:
            random_parts.append(name)
        return untrained()


def image_tower() -> Any:
    from transformers import CLIPVisionModelWithProjection

    from xmodal.foundation import clip

    model = lambda: CLIPVisionModelWithProjection(clip.build("mini").config.vision_config)  # noqa: E731
    return or_random("clip:mini", clip.ImageTower, lambda: clip.ImageTower.from_model(model()))


def audio_tower() -> Any:
    from transformers import ClapAudioModelWithProjection

    from xmodal.foundation import clap

    model = lambda: ClapAudioModelWithProjection(clap.build("mini").config.audio_config)  # noqa: E731
    return or_random("clap:mini", clap.AudioTower, lambda: clap.AudioTower.from_model(model(), clap.MINI))


def audiotoken() -> Task:
    from xmodal.audio2image import AudioToken
    from xmodal.foundation.beats import BEATs
    from xmodal.foundation.stable_diffusion import StableDiffusion

    return AudioToken(BEATs(), StableDiffusion(), seconds=2.5, short="pad")


def v2a_mapper() -> Task:
    from xmodal.foundation.audioldm import AudioLDM
    from xmodal.vision2audio import V2AMapper

    return V2AMapper(image_tower(), audio_tower(), AudioLDM, seconds=2.5)  # type: ignore[arg-type]


def clipsonic() -> Task:
    from functools import partial

    from xmodal.foundation.vocoder import GriffinLim
    from xmodal.text2audio import CLIPSonic, MelUNet

    return CLIPSonic(image_tower(), GriffinLim(mel="miniature"), partial(MelUNet, preset="mini"), seconds=2.56)


TASKS: dict[str, Callable[[], Task]] = {"audiotoken": audiotoken, "v2a-mapper": v2a_mapper, "clipsonic": clipsonic}


class Clock(Callback):
    """Seconds between the first steps, which warm up, and the last, after about ``limit``."""

    def __init__(self, warm: int, limit: float) -> None:
        self.warm, self.limit, self.start, self.end, self.steps = warm, limit, 0.0, 0.0, 0

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.end = time.process_time()
        if trainer.global_step == self.warm:
            self.start = self.end
        self.steps = trainer.global_step - self.warm
        trainer.should_stop = self.steps >= 2 and self.end - self.start > self.limit

    def speed(self) -> float:
        return self.steps / (self.end - self.start)


def trainer(**options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return Trainer(accelerator="cpu", limit_val_batches=0, **{**quiet, **options})


def measure(name: str, folder: Path, manifest: Path, seconds: float) -> dict[str, Any]:
    """Steps per second with and without the store, in turns, each for about ``seconds``."""
    task = TASKS[name]()

    def media(cache: Path | None) -> PairedMedia:
        return PairedMedia(
            manifest,
            seconds=2.5,
            short="pad",
            width=64,
            height=64,
            crop="loudest",
            batch_size=BATCH[name],
            num_workers=0,
            cache=cache,
        )

    start = time.process_time()
    extract(task.frozen_features(), media(folder), trainer(), splits=("train",))
    result: dict[str, Any] = {"batch": BATCH[name], "extraction_seconds": round(time.process_time() - start, 1)}
    speeds: dict[str, list[float]] = {"with_store": [], "computing": []}
    for _ in range(3):
        for kind, cache in (("with_store", folder), ("computing", None)):
            task.feature_dtype = None
            clock = Clock(warm=2, limit=seconds / 3)
            trainer(callbacks=[clock], max_epochs=-1).fit(task, media(cache))
            speeds[kind].append(clock.speed())
    best = {kind: max(found) for kind, found in speeds.items()}
    result |= {f"steps_per_second_{kind}": round(speed, 2) for kind, speed in best.items()}
    result["ratio"] = round(best["with_store"] / best["computing"], 2)
    task.feature_dtype = None
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        trainer(max_steps=8, max_epochs=-1).fit(task, media(folder))
    return result | {"share_of_steps_with_store": shares(profiled.key_averages())}


def shares(events: Any) -> dict[str, float]:
    """Of processor time, by kinds of operators; what Lightning and Python take is in the rest."""
    found = dict.fromkeys([*KINDS, "rest"], 0.0)
    for event in events:
        kind = next((kind for kind, words in KINDS.items() if any(word in event.key for word in words)), "rest")
        found[kind] += event.self_cpu_time_total
    return {kind: round(time / sum(found.values()), 2) for kind, time in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=512)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seconds", type=float, default=15.0, help="of each of a task's two measurements")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    report: dict[str, Any] = {"clips": options.clips, "cores": os.cpu_count(), "threads": 1}
    report |= {"load_before": round(os.getloadavg()[0], 1), "tasks": {}}
    with tempfile.TemporaryDirectory() as scratch:
        manifest = render(Path(scratch) / "world", "train", options.clips)
        for name in options.tasks.split(","):
            try:
                found = measure(name, Path(scratch) / name, manifest, options.seconds)
            except (ImportError, FileNotFoundError) as error:
                print(f"{name}: left out ({error})", flush=True)
                continue
            report["tasks"][name] = found
            print(
                f"{name}: {found['steps_per_second_with_store']} steps/s with the store, "
                f"{found['steps_per_second_computing']} computing ({found['ratio']} times), batch {found['batch']}; with it "
                + ", ".join(f"{kind} {share:.0%}" for kind, share in found["share_of_steps_with_store"].items()),
                flush=True,
            )
    report["random_weights"] = random_parts
    if random_parts:
        print(f"with random weights of the same sizes: {', '.join(random_parts)}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "store_training.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
