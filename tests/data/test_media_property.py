"""Random films and sounds, made here, read through the doors as a plain decoding of all of them gives them.

XMODAL_MEDIA_CASES=500 tries more of them than the default.
"""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from xmodal.data.audio import read_samples
from xmodal.data.video import load_frames, upright, video_span

CASES = int(os.environ.get("XMODAL_MEDIA_CASES", "200"))
FILMS = {
    "mp4": (("libx264", "mpeg4"), ("aac",)),
    "mov": (("libx264", "mpeg4"), ("aac", "pcm_s16le")),
    "mkv": (("libx264", "mpeg4", "libvpx"), ("aac", "flac", "libopus", "pcm_s16le")),
    "webm": (("libvpx",), ("libopus",)),
    "ts": (("libx264", "mpeg2video"), ("mp2",)),
    "mpg": (("mpeg2video",), ("mp2",)),
    "avi": (("mpeg4",), ("libmp3lame", "pcm_s16le")),
    "flv": (("libx264",), ("libmp3lame",)),
    "3gp": (("mpeg4",), ("aac",)),
}
SOUNDS = ("wav", "flac", "ogg", "mp3", "aiff", "au", "caf", "opus", "w64")
FORMATS = {"libx264": ("yuv420p", "yuv444p"), "libvpx": ("yuv420p",)}


def noise(random: np.random.Generator, channels: int, rate: int, seconds: float) -> np.ndarray:
    """Tones with a slow swell: nothing that a decoder may fill with random numbers."""
    time = np.arange(round(seconds * rate)) / rate
    tones = [np.sin(2 * np.pi * random.uniform(200, 900) * time + channel) for channel in range(channels)]
    return (0.4 * np.array(tones) * (1 + 0.3 * np.sin(2 * np.pi * 0.7 * time))).astype(np.float32)


def write_film(path: Path, random: np.random.Generator, picture: str, sound: str) -> None:
    """A film of about two seconds; picture and sound begin where chance says."""
    rate = 48000 if sound == "libopus" else int(random.choice([44100, 48000]))
    channels = int(random.integers(1, 3))
    begins = [float(random.choice([0, 0, 0.5, 2.0])) + float(offset) for offset in [random.choice([0.0, 10.0])] * 2]
    if path.suffix == ".avi":  # it has no times of its own
        begins = [0.0, 0.0]
    layout = "mono" if channels == 1 else "stereo"
    with av.open(str(path), "w") as container:
        bframes = str(random.integers(0, 3)) if picture != "libvpx" else "0"
        stream = container.add_stream(picture, rate=25, options={"bf": bframes, "threads": "1"})
        stream.width, stream.height = int(random.choice([32, 48])), 32
        stream.pix_fmt = str(random.choice(FORMATS.get(picture, ("yuv420p",))))
        stream.codec_context.gop_size, stream.bit_rate = int(random.choice([5, 12, 60])), 2_000_000
        heard = container.add_stream(sound, rate=rate, layout=layout)
        packets = []
        for number in range(50):
            shade = np.full((32, stream.width, 3), 4 * number + 20, np.uint8)
            frame = av.VideoFrame.from_ndarray(shade, format="rgb24")
            frame.pts, frame.time_base = number + round(25 * begins[0]), Fraction(1, 25)
            packets += stream.encode(frame)
        packets += stream.encode()
        samples = noise(random, channels, rate, 2.0)
        given = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        given.sample_rate, given.pts, given.time_base = rate, round(begins[1] * rate), Fraction(1, rate)
        size = heard.codec_context.frame_size or 1152
        form = heard.codec_context.format.name
        resampler = av.AudioResampler(format=form, layout=layout, rate=rate, frame_size=size)
        for piece in [*resampler.resample(given), *resampler.resample(None)]:
            packets += heard.encode(piece)
        packets += heard.encode()
        for packet in sorted(packets, key=lambda each: float((each.dts or 0) * each.time_base)):
            container.mux(packet)


def first_of(stream: Any) -> float:
    start = float((stream.start_time or 0) * stream.time_base)
    return 0.0 if stream.type == "audio" and -0.1 <= start < 0 else start


def decoded(path: Path) -> tuple[list[tuple[float, np.ndarray]], np.ndarray, float, int]:
    """All pictures with their times, all samples (T, C), when they begin, their rate: by nothing but decoding everything."""
    with av.open(str(path)) as container:
        streams = [*container.streams.video, *container.streams.audio]
        zero = min(map(first_of, streams))
        pictures = [(float(frame.pts * frame.time_base) - zero, upright(frame)) for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        resampler = av.AudioResampler(format="fltp", rate=frames[0].sample_rate)
        begin = max(0.0, float(frames[0].pts * frames[0].time_base) - zero)
        parts = [part.to_ndarray() for frame in frames for part in resampler.resample(frame)]
    return pictures, np.concatenate(parts, axis=1).T, begin, frames[0].sample_rate


def check_sound(path: Path, random: np.random.Generator, full: np.ndarray, begin: float, rate: int) -> None:
    whole, found = read_samples(path)
    assert found == rate
    late = round(begin * rate)
    clock = np.concatenate([np.zeros((late, full.shape[1]), np.float32), full])
    assert abs(len(whole) - len(clock)) <= 4096  # the padding of a last frame
    shared = min(len(whole), len(clock))
    assert float(np.abs(whole[:shared] - clock[:shared]).max()) <= 1e-3
    start = float(random.uniform(0, max(0.1, shared / rate - 0.5)))
    part, _ = read_samples(path, start, 0.3)
    assert float(np.abs(part - whole[round(start * rate) :][: len(part)]).max()) <= 1e-3


def check_pictures(path: Path, random: np.random.Generator, pictures: list[tuple[float, np.ndarray]]) -> None:
    times = [time for time, _ in pictures]
    begin, end = video_span(path)
    assert begin == pytest.approx(times[0], abs=0.041)
    assert end == pytest.approx(times[-1] + 0.04, abs=0.041)
    asked = sorted(float(time) for time in random.uniform(0, times[-1], 4))
    for time, frame in zip(asked, load_frames(path, asked), strict=True):
        shown = max((index for index, at in enumerate(times) if at <= time + 1e-3), default=0)
        near = pictures[max(0, shown - 1) : shown + 2]  # a clock of milliseconds may say either of two
        seen = frame.permute(1, 2, 0).numpy() * 255
        index = shown - max(0, shown - 1)
        edge = min(abs(time - at) for at in times) < 2e-3
        errors = [float(np.abs(seen - each).mean()) for _, each in near]
        assert (min(errors) if edge else errors[index]) <= 1.0, (time, times[shown], errors)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_doors_agree_with_a_plain_decoding(tmp_path: Path, part: int) -> None:
    for number in range(part, CASES, 8):
        random = np.random.default_rng(number)
        if number % 4 == 3:
            suffix = str(random.choice(SOUNDS))
            path = tmp_path / f"{number}.{suffix}"
            rate, channels = int(random.choice([16000, 44100, 48000])), int(random.integers(1, 3))
            samples = noise(random, channels, 48000 if suffix == "opus" else rate, 3.0).T
            if suffix == "opus":
                soundfile.write(path, samples, 48000, format="OGG", subtype="OPUS")
            else:
                soundfile.write(path, samples, rate)
            with av.open(str(path)) as container:
                frames = list(container.decode(audio=0))
            resampler = av.AudioResampler(format="fltp", rate=frames[0].sample_rate)
            parts = [each.to_ndarray() for frame in frames for each in resampler.resample(frame)]
            check_sound(path, random, np.concatenate(parts, axis=1).T, 0.0, frames[0].sample_rate)
            continue
        suffix = str(random.choice(list(FILMS)))
        pictures, sounds = FILMS[suffix]
        path = tmp_path / f"{number}.{suffix}"
        write_film(path, random, str(random.choice(pictures)), str(random.choice(sounds)))
        shown, full, begin, rate = decoded(path)
        check_pictures(path, random, shown)
        check_sound(path, random, full, begin, rate)
        path.unlink()
