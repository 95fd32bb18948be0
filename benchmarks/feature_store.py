"""How fast are cached features read, and what does that give a training?  python benchmarks/feature_store.py [--clips 20000]

1. Pooled pairs (768 + 512 float16) read in shuffled batches of 256: our store, one .npy file per clip, a WebDataset tar of
   .npy members (read by webdataset if it is installed, else by Python's tarfile).
2. AudioToken in miniature: training steps with features from the store against computing them in every step.

Every ratio compares two numbers of this run. Writes benchmarks/results/feature_store.json.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import tarfile
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"
BATCH = 256


def pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.standard_normal((count, 768)).astype(np.float16), random.standard_normal((count, 512)).astype(np.float16)


def rate(batches: Iterator[int], limit: float = 10.0) -> float:
    """Rows per second of an iterator of batch sizes, for at most ``limit`` seconds."""
    rows, start = 0, time.perf_counter()
    for size in batches:
        rows += size
        if time.perf_counter() - start > limit:
            break
    return rows / (time.perf_counter() - start)


def reads(count: int) -> dict[str, float]:
    """Rows per second by format."""
    from xmodal.data.features import FeatureStore, Key

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
        return {"store": rate(from_store()), "one file per clip": rate(from_files()), **tar_rate(folder / "pairs.tar")}


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

    return {"tar (webdataset)": rate(web())}


def training(clips: int, steps: int) -> dict[str, float]:
    """Steps per second of AudioToken in miniature, batch 16, with and without the store; seconds of extraction."""
    from lightning.pytorch import Trainer

    from xmodal.audio2image import AudioToken
    from xmodal.data.module import PairedMedia
    from xmodal.extraction import extract
    from xmodal.foundation.beats import BEATs
    from xmodal.foundation.stable_diffusion import StableDiffusion
    from xmodal.miniature.render import render

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}

    def task() -> AudioToken:
        return AudioToken(BEATs(), StableDiffusion(), seconds=2.5, short="pad")

    def trainer(**options: int) -> Trainer:
        return Trainer(accelerator="cpu", limit_val_batches=0, **quiet, **options)  # type: ignore[arg-type]

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        manifest = render(folder / "world", "train", clips)

        def media(cache: Path | None) -> PairedMedia:
            return PairedMedia(
                manifest, seconds=2.5, short="pad", width=64, height=64, crop="loudest", batch_size=16, num_workers=0, cache=cache
            )

        start = time.perf_counter()
        extract(task(), media(folder / "cache"), trainer(), splits=("train",))
        result = {"extraction_clips_per_second": clips / (time.perf_counter() - start)}
        for name, cache in (("with_store", folder / "cache"), ("computing", None)):
            part = task()
            trainer(max_steps=2).fit(part, media(cache))  # warm
            start = time.perf_counter()
            trainer(max_steps=steps).fit(part, media(cache))
            result[f"steps_per_second_{name}"] = steps / (time.perf_counter() - start)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=20000)
    parser.add_argument("--training-clips", type=int, default=512)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    speeds = reads(options.clips)
    print(f"rows of 768 + 512 float16 read per second, batches of {BATCH}, {options.clips} clips")
    for name, speed in speeds.items():
        print(f"  {name:<20}{speed:>12,.0f}   store is {speeds['store'] / speed:,.1f} times as fast")
    steps = training(options.training_clips, options.steps)
    ratio = steps["steps_per_second_with_store"] / steps["steps_per_second_computing"]
    print(
        f"AudioToken in miniature, batch 16: {steps['steps_per_second_with_store']:.2f} steps/s with the store, "
        f"{steps['steps_per_second_computing']:.2f} computing ({ratio:.2f} times); extraction "
        f"{steps['extraction_clips_per_second']:.0f} clips/s"
    )
    RESULTS.mkdir(exist_ok=True)
    report = {"clips": options.clips, "rows_per_second": speeds, "audiotoken_mini": {**steps, "ratio": ratio}}
    (RESULTS / "feature_store.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
