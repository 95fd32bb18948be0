"""Does the shipped AudioToken paint what it hears?  python benchmarks/audiotoken_mini.py [--split heldout]

Paints a picture for each of 256 unseen sounds and asks the picture tagger, which was trained on rendered pictures only, what it
shows: one picture of each, and the best of the pipeline's own number of candidates, which CLIP and Wav2CLIP rank. Ceilings: what
Stable Diffusion's VAE leaves of the real pictures, and captions through the same Stable Diffusion, also by the sampler that draws
no new noise in its steps. Floor: the sounds in another order. Intervals: Wilson, 95 %. Writes
benchmarks/results/audiotoken_mini_SPLIT.json.
"""

from __future__ import annotations

import argparse
import json
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

import xmodal
from xmodal.foundation.picture_tagger import PictureTagger
from xmodal.foundation.stable_diffusion import StableDiffusion
from xmodal.miniature import world

RESULTS = Path(__file__).parent / "results"


def wilson(right: int, total: int) -> tuple[float, float]:
    """95 % interval of a proportion, in percent."""
    z, p = 1.959964, right / total
    centre, spread = p + z * z / (2 * total), z * sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return 100 * (centre - spread) / (1 + z * z / total), 100 * (centre + spread) / (1 + z * z / total)


def accuracy(tagger: PictureTagger, pixels: Tensor, clips: list[world.Clip], factor: str) -> dict[str, float | list[float]]:
    """Share of pictures (in percent) whose most likely label of ``factor`` is the clip's."""
    tags = tagger.tag(pixels)[factor]
    right = sum(tag == str(getattr(clip, factor)) for tag, clip in zip(tags, clips, strict=True))
    return {"percent": round(100 * right / len(clips), 1), "interval": [round(x, 1) for x in wilson(right, len(clips))]}


def generators(count: int) -> list[torch.Generator]:
    """One seeded stream of noise per picture."""
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", default="test", choices=world.SPLITS)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--adapter", default="audiotoken-mini")
    options = parser.parse_args()

    clips = [world.sample(options.split, index, seed=1) for index in range(options.count)]
    tagger, pipe = PictureTagger(), xmodal.pipeline(options.adapter)
    rendered = torch.stack([torch.tensor(world.picture(clip)).permute(2, 0, 1) / 255 for clip in clips])
    sounds = [torch.from_numpy(world.sound(clip)) for clip in clips]
    painter = xmodal.pipeline("stable-diffusion-mini")
    plain = xmodal.pipeline("stable-diffusion-mini", generator=StableDiffusion("mini", algorithm_type="dpmsolver++"))
    prompts = ["a photo of " + world.caption(clip, ("count", "size")) for clip in clips]
    heard = paint(pipe, sounds)
    others = clips[1:] + clips[:1]
    kept = torch.cat([through_vae(pipe, rendered[i : i + 64]) for i in range(0, len(clips), 64)])
    decibels = peak_signal_noise_ratio(kept, rendered, data_range=1.0).item()

    rows = {
        "real pictures": (rendered, clips),
        "real pictures, through the VAE": (kept, clips),
        "captions, no noise in the steps": (paint(plain, prompts), clips),
        "captions (ceiling)": (paint(painter, prompts), clips),
        f"captions, best of {painter.candidates}": (paint(painter, prompts, painter.candidates), clips),
        "sounds": (heard, clips),
        f"sounds, best of {pipe.candidates}": (paint(pipe, sounds, pipe.candidates), clips),
        "shuffled sounds (floor)": (heard, others),
    }
    table = {
        row: {factor: accuracy(tagger, pixels, truth, factor) for factor in ("thing", "size", "count")}
        for row, (pixels, truth) in rows.items()
    }
    print(f"{options.count} clips of split {options.split!r}, world {world.VERSION}; percent right [95 % interval]")
    for row, cells in table.items():
        print(f"{row:<33}" + "   ".join(f"{f} {c['percent']:5.1f} {c['interval']}" for f, c in cells.items()))
    print(f"PSNR of real pictures through the VAE: {decibels:.1f} dB")
    RESULTS.mkdir(exist_ok=True)
    report = {"adapter": options.adapter, "split": options.split, "count": options.count, "world": world.VERSION, "table": table}
    report["vae_psnr_db"] = round(decibels, 2)
    (RESULTS / f"audiotoken_mini_{options.split}.json").write_text(json.dumps(report, indent=1) + "\n")


def paint(pipe: Any, asked: list[Any], candidates: int = 1) -> Tensor:
    """One picture for each sound or text, in batches of 64: (B, 3, 64, 64)."""
    streams = generators(len(asked))
    own: dict[str, Any] = {"candidates": candidates, "batch_size": 64, "output_type": "pt"}
    if isinstance(asked[0], Tensor):
        own["sampling_rate"] = world.sounds.SAMPLE_RATE
    batches = range(0, len(asked), 64)
    return torch.cat([pipe(asked[i : i + 64], generator=streams[i : i + 64], **own).images for i in batches])


def through_vae(pipe: Any, pixels: Tensor) -> Tensor:
    """Pictures (B, 3, 64, 64), encoded and decoded."""
    painter = pipe.generator
    return painter.decode(painter.encode(pixels)[0] * painter.scaling_factor)


if __name__ == "__main__":
    main()
