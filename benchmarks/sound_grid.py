"""The README's pictures: sounds as spectrograms, and what AudioToken paints of them.

python benchmarks/sound_grid.py                                      the rendered sounds of examples/sounds
python benchmarks/sound_grid.py --real outputs/real_sounds/test      of each thing the first recording by name, of those that
                                                                     benchmarks/real_sounds.py fetches

Writes docs/images/sound_to_picture.png, with --real docs/images/real_to_picture.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

import xmodal
from xmodal.data.audio import load_audio

CELL, COLUMNS, PICTURES = 112, 2, 4


def spectrogram(path: Path) -> Image.Image:
    """Log power over time (left to right) and frequency (bottom to top)."""
    power = torch.stft(load_audio(path, 16000), 512, 160, window=torch.hann_window(512), return_complex=True).abs().square()
    decibels = (10 * (power + 1e-10).log10()).flip(0)
    shade = ((decibels - decibels.max() + 70) / 70).clamp(0, 1).numpy()
    colours = np.stack([shade**0.6, shade**1.6, 0.35 + 0.5 * shade - 0.6 * shade**3], -1).clip(0, 1)
    return Image.fromarray((colours * 255).astype(np.uint8)).resize((2 * CELL, CELL), Image.Resampling.LANCZOS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sounds", type=Path, default=Path("examples/sounds"))
    parser.add_argument("--real", type=Path, help="folder with a folder of recordings for each thing, in place of --sounds")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.real is None:
        named = {path.name: path for path in sorted(options.sounds.glob("*.wav"))}
    else:
        last_to_first = sorted(options.real.glob("*/*.wav"), reverse=True)  # the first of each thing stays
        named = dict(sorted((f"{thing}, a recording", path) for thing, path in {p.parent.name: p for p in last_to_first}.items()))
    out = options.out or Path("docs/images") / ("sound_to_picture.png" if options.real is None else "real_to_picture.png")
    files = list(named.values())
    pipe = xmodal.pipeline("audiotoken-mini")
    noise = [torch.Generator().manual_seed(seed) for _ in files for seed in range(PICTURES)]
    pictures = pipe(files, num_images_per_prompt=PICTURES, generator=noise).images
    rows = -(-len(files) // COLUMNS)
    width = (2 + PICTURES) * CELL + 24
    canvas = Image.new("RGB", (COLUMNS * width, rows * (CELL + 26)), "white")
    for index, (name, path) in enumerate(named.items()):
        x, y = index // rows * width, index % rows * (CELL + 26)
        ImageDraw.Draw(canvas).text((x + 4, y + 6), name, fill="black")
        canvas.paste(spectrogram(path), (x, y + 22))
        for number in range(PICTURES):
            picture = pictures[index * PICTURES + number].resize((CELL, CELL), Image.Resampling.LANCZOS)
            canvas.paste(picture, (x + (2 + number) * CELL + 8, y + 22))
    out.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(out, optimize=True)
    print(out)


if __name__ == "__main__":
    main()
