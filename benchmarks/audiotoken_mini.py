"""Does the shipped AudioToken paint what it hears?  python benchmarks/audiotoken_mini.py [--split heldout]

Paints one picture for each of 256 unseen sounds and asks the picture tagger, which was trained on rendered pictures only,
what it shows. Ceilings: what Stable Diffusion's VAE leaves of the real pictures, and captions through the same Stable Diffusion.
Floor: the sounds in another order. Intervals: Wilson, 95 %. Writes benchmarks/results/audiotoken_mini_SPLIT.json.
"""

from __future__ import annotations

import argparse
import json
from math import sqrt
from pathlib import Path

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

import xmodal
from xmodal.foundation.picture_tagger import PictureTagger
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
    heard = paint(pipe, sounds)
    prompts = ["a photo of " + world.caption(clip, ("count", "size")) for clip in clips]
    captioned = torch.cat([paint_captions(pipe, prompts[i : i + 64], i) for i in range(0, len(clips), 64)])
    others = clips[1:] + clips[:1]
    kept = torch.cat([through_vae(pipe, rendered[i : i + 64]) for i in range(0, len(clips), 64)])
    decibels = peak_signal_noise_ratio(kept, rendered, data_range=1.0).item()

    rows = {
        "real pictures": (rendered, clips),
        "real pictures, through the VAE": (kept, clips),
        "captions (ceiling)": (captioned, clips),
        "sounds": (heard, clips),
        "shuffled sounds (floor)": (heard, others),
    }
    table = {
        row: {factor: accuracy(tagger, pixels, truth, factor) for factor in ("thing", "size", "count")}
        for row, (pixels, truth) in rows.items()
    }
    print(f"{options.count} clips of split {options.split!r}, world {world.VERSION}; percent right [95 % interval]")
    for row, cells in table.items():
        print(f"{row:<31}" + "   ".join(f"{f} {c['percent']:5.1f} {c['interval']}" for f, c in cells.items()))
    print(f"PSNR of real pictures through the VAE: {decibels:.1f} dB")
    RESULTS.mkdir(exist_ok=True)
    report = {"adapter": options.adapter, "split": options.split, "count": options.count, "world": world.VERSION, "table": table}
    report["vae_psnr_db"] = round(decibels, 2)
    (RESULTS / f"audiotoken_mini_{options.split}.json").write_text(json.dumps(report, indent=1) + "\n")


def paint(pipe: object, sounds: list[Tensor]) -> Tensor:
    """One picture per sound, in batches of 64: (B, 3, 64, 64)."""
    streams = generators(len(sounds))
    batches = range(0, len(sounds), 64)
    return torch.cat(
        [pipe(sounds[i : i + 64], sampling_rate=16000, generator=streams[i : i + 64], output_type="pt").images for i in batches]
    )


def through_vae(pipe: object, pixels: Tensor) -> Tensor:
    """Pictures (B, 3, 64, 64), encoded and decoded."""
    painter = pipe.generator
    return painter.decode(painter.encode(pixels)[0] * painter.scaling_factor)


@torch.no_grad()
def paint_captions(pipe: object, prompts: list[str], first: int) -> Tensor:
    """The same Stable Diffusion, guided by words."""
    return pipe.generator.generate(
        pipe.generator.prompt_embeds(prompts),
        num_inference_steps=pipe.num_inference_steps,
        guidance_scale=pipe.guidance_scale,
        generator=generators(first + len(prompts))[first:],
    )


if __name__ == "__main__":
    main()
