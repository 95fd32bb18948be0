"""torchcodec, where it is installed, reads what the default decoders read; where it is not, one sentence says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from tests.data.test_audio import RATE, tone, write_container
from tests.data.test_doors import film_with_sound
from tests.data.test_video import write_video
from xmodal.data.audio import load_audio, read_samples
from xmodal.data.codec import BACKENDS, codec_name
from xmodal.data.module import decoders
from xmodal.data.video import load_frames, video_span


def works() -> bool:
    try:
        codec_name()
    except ImportError:  # it needs FFmpeg's libraries, too
        return False
    return True


needed = pytest.mark.skipif(not works(), reason="torchcodec is not installed, or finds no FFmpeg")


@pytest.mark.skipif(works(), reason="torchcodec is installed")
def test_its_absence_is_said(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(), RATE)
    for call in (lambda: load_audio(tmp_path / "a.wav", RATE, backend="torchcodec"), lambda: decoders("torchcodec")):
        with pytest.raises(ImportError, match="use default|back-end default"):
            call()


def test_unknown_back_ends_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(), RATE)
    write_video(tmp_path / "a.mp4", seconds=1.0)
    with pytest.raises(ValueError, match="backend 'decord' is not one of default, torchcodec"):
        load_audio(tmp_path / "a.wav", RATE, backend="decord")
    with pytest.raises(ValueError, match="backend 'decord' is not one of"):
        load_frames(tmp_path / "a.mp4", backend="decord")
    with pytest.raises(ValueError, match="has no policy 'key'"):
        load_frames(tmp_path / "a.mp4", policy="key", backend="torchcodec")


@needed
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp4", "a.webm"])
def test_sounds_are_the_same(tmp_path: Path, name: str) -> None:
    if name in ("a.mp4", "a.webm"):
        write_container(tmp_path / name, {"a.mp4": "aac", "a.webm": "libopus"}[name], 2.0, video=name == "a.mp4")
    else:
        soundfile.write(tmp_path / name, tone(2.0, 44100, 2), 44100)
    for part in ({}, {"start": 0.5, "duration": 1.0}):
        ours = load_audio(tmp_path / name, RATE, **part)
        theirs = load_audio(tmp_path / name, RATE, **part, backend="torchcodec")
        if part and name == "a.webm":
            assert len(ours) == len(theirs)  # its clock ticks in milliseconds: where a part begins is not more certain
            continue
        length = min(len(ours), len(theirs)) - (0 if part else RATE // 8)  # codecs pad the end, each in its own way
        assert abs(len(ours) - len(theirs)) <= (0 if part else 0.1 * RATE)
        assert float((ours[:length] - theirs[:length]).abs().max()) < 2e-3


@needed
def test_frames_are_the_same(tmp_path: Path) -> None:
    film = write_video(tmp_path / "a.mp4")
    for times in (1, 4, [0.0, 3.95, 1.049]):
        assert float((load_frames(film, times) - load_frames(film, times, backend="torchcodec")).abs().max()) <= 3 / 255


@needed
def test_bad_files_get_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no sound at all")
    (tmp_path / "cut.wav").write_bytes(b"RIFF")
    for name in ("text.mp4", "cut.wav"):
        with pytest.raises(ValueError, match=name) as caught:
            load_audio(tmp_path / name, RATE, backend="torchcodec")
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="text.mp4"):
        load_frames(tmp_path / "text.mp4", backend="torchcodec")


@needed
def test_it_is_part_of_the_key() -> None:
    assert decoders("torchcodec") != decoders()
    assert "torchcodec" in decoders("torchcodec")


@needed
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("late", [{"late_sound": 2.0}, {"late_pictures": 2.0}, {"offset": 10.0}])
def test_both_share_one_clock(tmp_path: Path, suffix: str, late: dict[str, float]) -> None:
    film = film_with_sound(tmp_path / f"a.{suffix}", **late)
    end = video_span(film)[1]
    times = [0.0, 0.3 * end, 0.5 * end, 0.9 * end]
    ours, theirs = load_frames(film, times), load_frames(film, times, backend="torchcodec")
    assert float((ours - theirs).abs().mean((1, 2, 3)).max()) <= 1 / 255
    for start, duration in ((0.0, None), (0.4, 0.5), (2.3, 0.5)):
        (here, rate), (there, other) = (read_samples(film, start, duration, backend=name) for name in BACKENDS)
        assert rate == other
        shared = min(len(here), len(there))
        assert abs(len(here) - len(there)) <= 4096
        assert float(abs(here[:shared] - there[:shared]).max()) <= 1e-3
