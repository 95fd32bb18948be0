"""Pictures, the spectrograms of the sounds that V2A-Mapper makes of them, and what a tagger hears.

python benchmarks/picture_sounds.py [--adapter v2a-mini] [--count 16]

Writes docs/images/picture_sounds.png: each unseen picture of the miniature world, the log-mel of its real sound and that
of the made one. With --sounds the sounds themselves, too, below docs/sounds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from trial import pixels, streams, unseen, waveforms

import xmodal
from xmodal.data.soundfiles import write_sound
from xmodal.foundation.beats import BEATs
from xmodal.foundation.mel import MINIATURE, log_mel
from xmodal.miniature import world

DOCS = Path(__file__).parent.parent / "docs"
SCALE, MARGIN, TEXT = 2, 8, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", default="v2a-mini")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--sounds", action="store_true", help="also write the sounds, docs/sounds/NUMBER_THING.wav")
    options = parser.parse_args()
    chosen, seen = [], set()
    for clip in unseen(200):  # one of each thing, as long as there are things
        if clip.thing not in seen and len(chosen) < options.count:
            chosen.append(clip)
            seen.add(clip.thing)
    pictures, pipe = pixels(chosen), xmodal.pipeline(options.adapter)
    made = pipe(list(pictures), generator=streams(len(chosen)), output_type="pt").audios
    with torch.no_grad():
        likely = BEATs().tag(made)[:, : len(world.THINGS)].argmax(-1).tolist()
    heard = [world.THINGS[index] for index in likely]
    mels = [log_mel(each, MINIATURE)[..., :156] for each in (waveforms(chosen), made)]
    cells = [cell(*parts) for parts in zip(pictures, *mels, (clip.thing for clip in chosen), heard, strict=True)]
    columns = 4
    width, height = cells[0].size
    page = Image.new("RGB", (columns * width, -(-len(cells) // columns) * height), "white")
    for index, each in enumerate(cells):
        page.paste(each, (index % columns * width, index // columns * height))
    (DOCS / "images").mkdir(exist_ok=True)
    page.save(DOCS / "images" / "picture_sounds.png", optimize=True)
    right = sum(clip.thing == name for clip, name in zip(chosen, heard, strict=True))
    print(f"{right} of {len(chosen)} sounds are heard as what the picture shows; docs/images/picture_sounds.png")
    print(
        "| picture | heard |\n|---|---|\n" + "\n".join(f"| {c.thing} | {name} |" for c, name in zip(chosen, heard, strict=True))
    )
    if options.sounds:
        (DOCS / "sounds").mkdir(exist_ok=True)
        for index, (sound, clip) in enumerate(zip(made, chosen, strict=True)):
            write_sound(DOCS / "sounds" / f"{index:02d}_{clip.thing}.wav", sound, pipe.generator.sample_rate)


def cell(picture: torch.Tensor, real: torch.Tensor, made: torch.Tensor, thing: str, heard: str) -> Image.Image:
    """A picture with its name, and two spectrograms below one another with what was heard."""
    side = 64 * SCALE
    page = Image.new("RGB", (side + 156 * SCALE + 3 * MARGIN, 2 * (side + TEXT) + 2 * MARGIN), "white")
    pen = ImageDraw.Draw(page)
    shown = Image.fromarray((picture.permute(1, 2, 0) * 255).round().byte().numpy()).resize((side, side))
    page.paste(shown, (MARGIN, MARGIN + TEXT))
    pen.text((MARGIN, MARGIN), thing, fill="black")
    for index, (mel, name) in enumerate(((real, "real"), (made, f"made, heard as {heard}"))):
        top = MARGIN + index * (side + TEXT)
        pen.text((side + 2 * MARGIN, top), name, fill="black" if index == 0 or heard == thing else "red")
        levels = ((mel.flip(0) - MINIATURE.silence) / (2.5 - MINIATURE.silence)).clamp(0, 1).numpy()
        drawn = Image.fromarray((255 * levels).astype(np.uint8)).resize((156 * SCALE, side))
        page.paste(drawn, (side + 2 * MARGIN, top + TEXT))
    return page


if __name__ == "__main__":
    main()
