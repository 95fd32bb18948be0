"""The README's picture: example sounds as spectrograms, and what AudioToken paints of them.

python benchmarks/sound_grid.py [--out docs/images/sound_to_picture.png]
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sounds", type=Path, default=Path("examples/sounds"))
    parser.add_argument("--out", type=Path, default=Path("docs/images/sound_to_picture.png"))
    options = parser.parse_args()
    files = sorted(options.sounds.glob("*.wav"))
    pipe = xmodal.pipeline("audiotoken-mini")
    noise = [torch.Generator().manual_seed(seed) for _ in files for seed in range(PICTURES)]
    pictures = pipe(files, num_images_per_prompt=PICTURES, generator=noise).images
    rows = -(-len(files) // COLUMNS)
    width = (2 + PICTURES) * CELL + 24
    canvas = Image.new("RGB", (COLUMNS * width, rows * (CELL + 26)), "white")
    for index, path in enumerate(files):
        x, y = index // rows * width, index % rows * (CELL + 26)
        ImageDraw.Draw(canvas).text((x + 4, y + 6), path.name, fill="black")
        canvas.paste(spectrogram(path), (x, y + 22))
        for number in range(PICTURES):
            picture = pictures[index * PICTURES + number].resize((CELL, CELL), Image.Resampling.LANCZOS)
            canvas.paste(picture, (x + (2 + number) * CELL + 8, y + 22))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(options.out)
    print(options.out)


if __name__ == "__main__":
    main()
