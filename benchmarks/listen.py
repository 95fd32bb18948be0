"""Sounds to listen to: of pictures by V2A-Mapper, and of sentences by CLIPSonic, with what a tagger hears.

python benchmarks/listen.py [--count 16]

Writes docs/listen.md with docs/sounds/*.mp3, and docs/images/picture_sounds.png: each unseen picture of the miniature world, the
log-mel of its real sound and that of the made one. The first clip of each thing is taken, whatever came out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image, ImageDraw
from trial import pixels, streams, unseen, waveforms

import xmodal
from xmodal.foundation.beats import BEATs
from xmodal.foundation.mel import MINIATURE, log_mel
from xmodal.miniature import world

DOCS = Path(__file__).parent.parent / "docs"
SCALE, MARGIN, TEXT = 2, 8, 16
TEXTS = (
    "a photo of a large bell",
    "a photo of three small birds",
    "a photo of two medium dogs",
    "a photo of a medium train",
    "a photo of two small clocks",
    "a photo of three small frogs",
    "a photo of a large siren",
    "a photo of a medium guitar",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=16)
    options = parser.parse_args()
    chosen: dict[str, world.Clip] = {}
    for clip in unseen(200):
        if len(chosen) < options.count:
            chosen.setdefault(clip.thing, clip)
    things, clips = list(chosen), list(chosen.values())
    pictures, real = pixels(clips), waveforms(clips)
    mapper, sonic = xmodal.pipeline("v2a-mini"), xmodal.pipeline("clipsonic-mini")
    made = mapper(list(pictures), generator=streams(len(clips)), output_type="pt").audios
    said = sonic(list(TEXTS), generator=streams(len(TEXTS)), output_type="pt").audios
    heard, understood = named(made), named(said)
    draw(pictures, real, made, things, heard)
    for index, thing in enumerate(things):
        keep(f"{thing}_real", real[index])
        keep(f"{thing}_made", made[index])
        shown = Image.fromarray((pictures[index].permute(1, 2, 0) * 255).round().byte().numpy())
        shown.resize((96, 96)).save(DOCS / "sounds" / f"{thing}.png", optimize=True)
    for index, sound in enumerate(said):
        keep(f"said_{index + 1}", sound)
    right = sum(thing == name for thing, name in zip(things, heard, strict=True))
    (DOCS / "listen.md").write_text(page(things, heard, understood, right), encoding="utf-8")
    print(f"{right} of {len(things)} sounds are heard as what the picture shows; docs/listen.md, docs/images/picture_sounds.png")


def named(sounds: torch.Tensor) -> list[str]:
    """The thing that the tagger hears in each of the sounds (N, T)."""
    with torch.no_grad():
        return [world.THINGS[index] for index in BEATs().tag(sounds)[:, : len(world.THINGS)].argmax(-1).tolist()]


def keep(name: str, sound: torch.Tensor) -> None:
    """Write docs/sounds/NAME.mp3, which every browser plays."""
    (DOCS / "sounds").mkdir(exist_ok=True)
    soundfile.write(DOCS / "sounds" / f"{name}.mp3", sound.clamp(-1, 1).numpy(), MINIATURE.sample_rate, format="MP3")


PAGE = """# Listen

Written by `python benchmarks/listen.py`. All sounds are the miniature's: 16 kHz, from weights of a few megabytes.

## Pictures to sounds

The first unseen clip of each thing, whatever came out: its picture, its rendered sound, and what `v2a-mini` makes of the picture.
A tagger hears the right thing in {right} of {count}.

| picture | its own sound | made of the picture | the tagger hears |
|---|---|---|---|
{seen}

## Sentences to sounds

What `clipsonic-mini` makes of sentences, through the prior. It never read a sentence beside a sound: it learnt from
pictures and their sounds.

| sentence | made of it | the tagger hears |
|---|---|---|
{said}
"""


def page(things: list[str], heard: list[str], understood: list[str], right: int) -> str:
    """The page's Markdown; a reader without players, as GitHub's, shows links."""
    seen = [
        f"| ![{thing}](sounds/{thing}.png) | {player(f'{thing}_real')} | {player(f'{thing}_made')} | {verdict(thing, name)} |"
        for thing, name in zip(things, heard, strict=True)
    ]
    said = [
        f"| {text} | {player(f'said_{index}')} | {verdict(next(each for each in world.THINGS if each in text), name)} |"
        for index, (text, name) in enumerate(zip(TEXTS, understood, strict=True), 1)
    ]
    return PAGE.format(right=right, count=len(things), seen="\n".join(seen), said="\n".join(said))


def player(name: str) -> str:
    return f'<audio controls preload="none" src="sounds/{name}.mp3"></audio> [file](sounds/{name}.mp3)'


def verdict(thing: str, heard: str) -> str:
    return heard if heard == thing else f"**{heard}**"


def draw(pictures: torch.Tensor, real: torch.Tensor, made: torch.Tensor, things: list[str], heard: list[str]) -> None:
    """Write docs/images/picture_sounds.png."""
    mels = [log_mel(each, MINIATURE)[..., :156] for each in (real, made)]
    cells = [cell(*parts) for parts in zip(pictures, *mels, things, heard, strict=True)]
    columns = 4
    width, height = cells[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(cells) // columns) * height), "white")
    for index, each in enumerate(cells):
        sheet.paste(each, (index % columns * width, index // columns * height))
    sheet.save(DOCS / "images" / "picture_sounds.png", optimize=True)


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
