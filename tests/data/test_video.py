"""Frames and soundtracks of real, small videos made here."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from xmodal.data.audio import load_audio
from xmodal.data.video import even_times, load_frames, video_duration, write_soundtrack

RATE, FPS, GOP = 16000, 10, 8


def write_video(path: Path, seconds: float = 4.0, codec: str = "mpeg4", sound: bool = False) -> Path:
    """Frame n is a grey of value 6 n, so that a frame tells its number."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options={"sc_threshold": "1000000000", "bf": "0"})
        stream.codec_context.gop_size = GOP
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.bit_rate = 4_000_000
        audio = container.add_stream("aac", rate=RATE, layout="mono") if sound else None
        for number in range(round(seconds * FPS)):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 6 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio is not None:
            tone = 0.3 * np.sin(np.arange(round(seconds * RATE)) * 0.2).astype(np.float32)[None]
            part = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            part.sample_rate, part.pts = RATE, 0
            container.mux(audio.encode(part))
            container.mux(audio.encode())
    return path


def numbers(frames: torch.Tensor) -> list[int]:
    return [round(float(frame.mean()) * 255 / 6) for frame in frames]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("film") / "grey scale.mp4")


def test_frames_at_times_in_the_order_asked(film: Path) -> None:
    frames = load_frames(film, [3.95, 0.0, 1.0, 1.049, 0.0, 2.31])
    assert frames.shape == (6, 3, 48, 64)
    assert frames.dtype == torch.float32
    assert numbers(frames) == [39, 0, 10, 10, 0, 23]


def test_evenly_spaced_frames(film: Path) -> None:
    assert video_duration(film) == pytest.approx(4.0, abs=0.05)
    assert even_times(4.0, 4) == [0.5, 1.5, 2.5, 3.5]
    assert numbers(load_frames(film, 4)) == [5, 15, 25, 35]
    assert numbers(load_frames(film)) == [20]


def test_key_frames_stand_at_or_before_the_time(film: Path) -> None:
    found = numbers(load_frames(film, [0.75, 2.0, 3.9], policy="key"))
    assert found == [GOP * (number // GOP) for number in (7, 20, 39)]


def test_a_container_without_durations(tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.mkv")
    assert numbers(load_frames(film, [1.5])) == [15]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize("sound", [False, True])
def test_a_soundtrack_replaces_the_sound_and_keeps_the_pictures(tmp_path: Path, suffix: str, sound: bool) -> None:
    film = write_video(tmp_path / "film.mp4", sound=sound)
    waveform = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(6 * RATE) / RATE)
    target = write_soundtrack(film, torch.stack([waveform, 0.5 * waveform]), RATE, tmp_path / f"with sound.{suffix}")
    assert torch.equal(load_frames(target, [0.0, 1.0, 3.9]), load_frames(film, [0.0, 1.0, 3.9]))
    heard = load_audio(target, RATE, mono=False)
    assert heard.shape[0] == 2
    assert heard.shape[1] / RATE == pytest.approx(4.0, abs=0.15)
    left, right = heard[:, 8000:40000]
    assert float(torch.fft.rfft(left).abs().argmax()) * RATE / 32000 == pytest.approx(440, abs=2)
    assert float(right.square().mean().sqrt() / left.square().mean().sqrt()) == pytest.approx(0.5, abs=0.02)


def test_bad_files_and_times_end_in_one_sentence(tmp_path: Path, film: Path) -> None:
    cases = {"text.mp4": b"no video at all", "empty.mp4": b"", "cut.mp4": film.read_bytes()[:900]}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            load_frames(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="there is no video"):
        load_frames(tmp_path / "none.mp4")
    with pytest.raises(ValueError, match="lasts 4.00 s, but frames were asked for at"):
        load_frames(film, [4.5])
    with pytest.raises(ValueError, match="policy 'best' is not one of at, key"):
        load_frames(film, policy="best")


def test_a_container_that_cannot_hold_the_codec(tmp_path: Path, film: Path) -> None:
    with pytest.raises(ValueError, match="cannot hold these pictures.*ends in .mkv"):
        write_soundtrack(film, torch.zeros(RATE), RATE, tmp_path / "film.webm")
    assert not list(tmp_path.iterdir())
