"""Pictures made of a recording's stretches: side by side on one sheet, or as a video with the sound that they were made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from xmodal.data.audio import resample
from xmodal.data.values import check_waveform
from xmodal.data.video import AAC_RATES
from xmodal.files import write_beside

if TYPE_CHECKING:
    from PIL import Image

RATE = 8  # pictures a second: each stands for seconds


def sheet(pictures: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """A contact sheet of pictures of one size, row by row; about as wide as high unless ``columns`` are given."""
    from PIL import Image

    if not pictures:
        raise ValueError("a sheet needs at least one picture")
    columns = min(columns or math.ceil(math.sqrt(len(pictures))), len(pictures))
    width, height = pictures[0].size
    made = Image.new("RGB", (columns * width, math.ceil(len(pictures) / columns) * height), "white")
    for number, picture in enumerate(pictures):
        made.paste(picture, (number % columns * width, number // columns * height))
    return made


def write_slides(pictures: Sequence[Image.Image], seconds: float, waveform: Tensor, sample_rate: int, target: Path) -> Path:
    """Write pictures, one for every ``seconds`` of a waveform (T,), with that sound, as mp4 or mkv (MPEG-4, AAC).

    The last picture stays until the sound ends. The result appears under ``target`` when it is complete. Raises ValueError for
    no pictures, no length, or a waveform that is not finite.
    """
    if not pictures or not seconds > 0:
        raise ValueError(f"a video needs pictures and a length of each above 0, not {len(pictures)} of {seconds} s")
    waveform = waveform.detach().cpu().float()
    check_waveform(waveform)
    if sample_rate not in AAC_RATES:
        waveform, sample_rate = resample(waveform, sample_rate, 48_000), 48_000
    samples = np.ascontiguousarray(waveform.clamp(-1, 1).numpy()[None])
    frames = max(1, math.ceil(samples.shape[1] / sample_rate * RATE))
    return write_beside(target, lambda partial: _film(pictures, seconds, frames, samples, sample_rate, partial))


def _film(pictures: Sequence[Image.Image], seconds: float, frames: int, samples: np.ndarray, rate: int, partial: Path) -> None:
    import av

    with av.open(str(partial), "w") as container:
        video, audio = container.add_stream("mpeg4", rate=RATE), container.add_stream("aac", rate=rate, layout="mono")
        video.width, video.height = pictures[0].size
        video.pix_fmt, video.bit_rate = "yuv420p", 4_000_000
        for number in range(frames):
            shown = pictures[min(int(number / RATE / seconds), len(pictures) - 1)]
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.asarray(shown.convert("RGB")), format="rgb24")))
        container.mux(video.encode())
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = rate
        container.mux(audio.encode(frame))
        container.mux(audio.encode())
