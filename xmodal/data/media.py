"""One clip of a manifest as tensors, and batches of them, with stored features in place of media."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from xmodal.data.audio import load_channels, mixed_down, resample, sound_seconds
from xmodal.data.features import Rows
from xmodal.data.image import load_image, resize
from xmodal.data.manifest import Row
from xmodal.data.pan import heard_pan
from xmodal.data.video import even_times, load_frames, video_span
from xmodal.data.window import window, window_start

MEDIA = ("waveform", "pixels")
INPUTS = (*MEDIA, "pan")


class PairedMediaSet(Dataset[dict[str, Any]]):
    """Rows of a manifest: ``id``, ``name`` (the label), ``caption`` (the text), and what ``inputs`` names.

    That is ``waveform`` float32 (T,), ``pixels`` float32 (3, H, W) in [0, 1], or (F, 3, H, W) with several frames, and
    ``pan`` float32 (scalar) from -1, left, to 1, right: of the file's two channels, in the very window that ``waveform``
    is; NaN where the file is mono (one channel, or two equal ones) or has more than two.

    Args:
        rows: of a manifest.
        sample_rate: Hz.
        seconds: length of every sound.
        short: what shorter sounds get: ``loop`` or ``pad``.
        size: width and height of the pictures.
        crop: of longer sounds: ``loudest`` (deterministic) or ``random`` (a new whole second of start in each epoch);
            ``augmented`` is random and changes what is read, too: see :func:`augmented_picture` and :func:`augmented_sound`.
        inputs: which of ``waveform``, ``pixels`` and ``pan`` to read.
        stored: rows of feature stores, aligned with ``rows``; a whole batch of them is read at once.
        seed: of the random crops. A crop depends on seed, epoch and clip alone, so not on who reads it.
        lengths: samples of each row's sound, in place of ``seconds``.
        backend: what decodes, see :mod:`xmodal.data.codec`.
        frames: F, evenly spaced over the clip's stretch of video; a picture is given as F equal frames. 1 is the middle one.

    Raises ValueError for less than one frame.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        sample_rate: int,
        seconds: float,
        short: str,
        size: tuple[int, int],
        crop: str = "loudest",
        inputs: Sequence[str] = MEDIA,
        stored: Sequence[Rows] = (),
        seed: int = 0,
        lengths: Sequence[int] | np.ndarray | None = None,
        backend: str = "default",
        frames: int = 1,
    ) -> None:
        if frames < 1:
            raise ValueError(f"frames must be at least 1, not {frames}")
        self.rows, self.size, self.crop, self.frames = rows, size, crop, frames
        self.sample_rate, self.seconds, self.short = sample_rate, seconds, short
        self.inputs, self.stored = tuple(inputs), tuple(stored)
        self.seed, self.lengths, self.backend = seed, lengths, backend

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.item(index)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        return self.batch(indices)

    def item(self, index: int, epoch: int = 0) -> dict[str, Any]:
        """One clip as it is read in an epoch."""
        row = self.rows[index]
        return {"id": row.id, "name": row.label, "caption": row.text, **self._media(row, index, epoch)}

    def batch(self, indices: Sequence[int], epoch: int = 0) -> dict[str, Any]:
        """Clips as they are read in an epoch, collated, with their stored features."""
        rows = [self.rows[index] for index in indices]
        words = {"id": [row.id for row in rows], "name": [row.label for row in rows], "caption": [row.text for row in rows]}
        media = [self._media(row, index, epoch) for row, index in zip(rows, indices, strict=True)] if self.inputs else []
        batch: dict[str, Any] = {**words, **(default_collate(media) if media else {})}
        for stored in self.stored:
            batch |= {name: plain(torch.from_numpy(array)) for name, array in stored.read(indices).items()}
        return batch

    def _media(self, row: Row, index: int, epoch: int) -> dict[str, torch.Tensor]:
        media = {}
        if "waveform" in self.inputs or "pan" in self.inputs:
            media = {name: value for name, value in self._sound(row, index, epoch).items() if name in self.inputs}
        if "pixels" in self.inputs:
            media["pixels"] = self._pixels(row)
        if self.crop == "augmented":
            random = np.random.default_rng([self.seed, 1, epoch, index])
            if "waveform" in media:
                media["waveform"] = augmented_sound(media["waveform"], random)
            if "pixels" in media:
                media["pixels"] = augmented_picture(media["pixels"], random, mirror="pan" not in self.inputs)
        return media

    def _sound(self, row: Row, index: int, epoch: int) -> dict[str, torch.Tensor]:
        """The clip's window of sound, and the pan of its channels there."""
        source = row.audio or row.video
        if source is None:
            raise ValueError(f"the row {row.id!r} of the manifest names neither audio nor video")
        channels, rate = load_channels(source, row.start, row.duration, backend=self.backend)
        waveform = resample(mixed_down(channels, source), rate, self.sample_rate)
        length = round(self.seconds * self.sample_rate) if self.lengths is None else int(self.lengths[index])
        if self.crop != "loudest" and len(waveform) > length:
            starts = (len(waveform) - length) // self.sample_rate + 1
            start = int(np.random.default_rng([self.seed, epoch, index]).integers(starts)) * self.sample_rate
        else:
            start = window_start(waveform, length)
        # The channels keep their own rate: resampling them too would cost as much again.
        begin, end = (each * rate // self.sample_rate for each in (start, start + length))
        return {"waveform": window(waveform[start:][:length], length, self.short), "pan": heard_pan(channels, begin, end)}

    def _pixels(self, row: Row) -> torch.Tensor:
        """The clip's picture, or frames of its stretch of video: (3, H, W), or (F, 3, H, W)."""
        if row.image is not None:
            picture = load_image(row.image, *self.size)
            return picture if self.frames == 1 else picture.expand(self.frames, -1, -1, -1)
        if row.video is None:
            raise ValueError(f"the row {row.id!r} of the manifest names neither image nor video")
        times: int | list[float] = self.frames
        if row.start or row.duration is not None:
            begin, end = video_span(row.video)
            first = max(begin, row.start)
            last = end if row.duration is None else min(end, row.start + row.duration)
            if row.start >= end:
                raise ValueError(f"{row.video} ends before {row.start:.2f} s, where the clip {row.id!r} begins")
            if first >= last:
                stretch = f"nothing of what the clip {row.id!r} is from {row.start:.2f} s on"
                raise ValueError(f"{row.video} shows pictures from {begin:.2f} to {end:.2f} s, {stretch}")
            times = [first + time for time in even_times(last - first, self.frames)]
        shown = [resize(frame, *self.size) for frame in load_frames(row.video, times, backend=self.backend)]
        return shown[0] if self.frames == 1 else torch.stack(shown)


def bucket_lengths(rows: Sequence[Row], step: float, longest: float, sample_rate: int) -> np.ndarray:
    """Samples (int64) that each row's sound gets: its seconds, rounded up to a multiple of ``step``, at most ``longest``.

    Read from the manifest's durations, or else from the files' headers; a file without a readable one gets ``longest``.
    """

    def length(row: Row) -> int:
        seconds = row.duration
        if seconds is None and (source := row.audio or row.video) is not None:
            try:
                seconds = sound_seconds(source) - row.start
            except (ValueError, OSError):
                seconds = longest  # reading it will say what is wrong
        steps = max(1, -(-round((seconds or longest) * 1000) // round(step * 1000)))
        return round(min(steps * step, longest) * sample_rate)

    return np.fromiter(map(length, rows), np.int64, len(rows))


def augmented_sound(waveform: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """(T,) up to 6 dB quieter, and moved by up to a tenth of its length, with silence where it leaves a gap."""
    shift = int(random.uniform(-0.1, 0.1) * len(waveform))
    moved = torch.nn.functional.pad(waveform, (max(shift, 0), max(-shift, 0)))[max(-shift, 0) :][: len(waveform)]
    return moved * float(10 ** (random.uniform(-6, 0) / 20))


def augmented_picture(pixels: torch.Tensor, random: np.random.Generator, mirror: bool = True) -> torch.Tensor:
    """(..., 3, H, W) cut to between 80 and 100 percent of its sides and enlarged again, mirrored every second time."""
    height, width = pixels.shape[-2:]
    share = random.uniform(0.8, 1)
    tall, wide = max(1, round(share * height)), max(1, round(share * width))
    top, left = int(random.integers(height - tall + 1)), int(random.integers(width - wide + 1))
    piece = pixels[..., top : top + tall, left : left + wide].reshape(-1, 3, tall, wide)
    made = torch.nn.functional.interpolate(piece, (height, width), mode="bicubic", antialias=True).clamp(0, 1).view_as(pixels)
    return made.flip(-1) if mirror and random.random() < 0.5 else made


def plain(stored: torch.Tensor) -> torch.Tensor:
    """float16 as float32, which models take; other types as they are."""
    return stored.float() if stored.dtype == torch.float16 else stored
