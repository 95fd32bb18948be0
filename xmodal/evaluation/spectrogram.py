"""A picture of a sound, with axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

LEFT, BOTTOM, TOP, RIGHT = 30, 26, 6, 14  # pixels around the picture, for the axes
STEPS = (1, 2, 5, 10, 20)


def spectrogram(waveform: np.ndarray, rate: int = 16_000, height: int = 96, width: int = 240) -> Image.Image:
    """Log power of a waveform (T,) at ``rate`` Hz over seconds (left to right) and Hz (bottom to top), 70 dB deep.

    ``height`` and ``width`` are those of the picture within its axes.
    """
    import torch
    from PIL import Image as images

    spectrum = torch.stft(torch.from_numpy(waveform), 512, 160, window=torch.hann_window(512), return_complex=True)
    decibels = (10 * (spectrum.abs().square() + 1e-10).log10()).flip(0)
    shade = ((decibels - decibels.max() + 70) / 70).clamp(0, 1).numpy()
    colours = np.stack([shade**0.6, shade**1.6, 0.35 + 0.5 * shade - 0.6 * shade**3], -1).clip(0, 1)
    inner = images.fromarray((colours * 255).astype(np.uint8)).resize((width, height), images.Resampling.LANCZOS)
    return _with_axes(inner, len(waveform) / rate, rate / 2)


def ticks(end: float, count: int) -> list[float]:
    """At most ``count`` round numbers from 0 to ``end``: multiples of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(end / count))
    step = next(each * power for each in STEPS if end / (each * power) <= count - 1 + 1e-9)
    return [float(step * index) for index in range(int(end / step + 1e-9) + 1)]


def _with_axes(inner: Image.Image, seconds: float, highest: float) -> Image.Image:
    from PIL import Image as images
    from PIL import ImageDraw, ImageFont

    width, height = inner.size
    page = images.new("RGB", (LEFT + width + RIGHT, TOP + height + BOTTOM), "white")
    page.paste(inner, (LEFT, TOP))
    draw, font, colour = ImageDraw.Draw(page), ImageFont.load_default(9), (80, 80, 80)
    for time in ticks(seconds, 6):
        x = LEFT + round(time / seconds * (width - 1))
        draw.line((x, TOP + height, x, TOP + height + 3), colour)
        draw.text((x, TOP + height + 4), f"{time:g}", colour, font, anchor="mt")
    for pitch in ticks(highest, 5):
        y = TOP + height - 1 - round(pitch / highest * (height - 1))
        draw.line((LEFT - 3, y, LEFT, y), colour)
        draw.text((LEFT - 5, y), f"{pitch / 1000:g}k" if pitch else "0", colour, font, anchor="rm")
    draw.text((LEFT + width, TOP + height + BOTTOM), "seconds", colour, font, anchor="rb")
    draw.text((0, TOP + height + BOTTOM), "Hz", colour, font, anchor="lb")
    return page
