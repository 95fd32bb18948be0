"""Real files, good and bad."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from xmodal.data.audio import list_audio, load_audio, resample, sound_seconds

RATE = 16000


def tone(seconds: float = 1.0, rate: int = RATE, channels: int = 1, hertz: float = 440.0) -> np.ndarray:
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave[:, None], channels, axis=1).astype(np.float32)


def pitch(waveform: torch.Tensor, rate: int) -> float:
    return float(torch.fft.rfft(waveform).abs().argmax()) * rate / len(waveform)


def write_container(
    path: Path, codec: str, seconds: float = 1.0, rate: int = 48000, layout: str = "stereo", video: bool = False
) -> None:
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mpeg4", rate=10) if video else None
        stream = container.add_stream(codec, rate=rate, layout=layout)
        if pictures is not None:
            pictures.width = pictures.height = 64
            for _ in range(round(10 * seconds)):
                container.mux(pictures.encode(av.VideoFrame(64, 64, "yuv420p")))
            container.mux(pictures.encode())
        frame = av.AudioFrame.from_ndarray(tone(seconds, rate, 2).T.copy(), format="fltp", layout=layout)
        frame.sample_rate = rate
        fifo = av.AudioFifo()
        fifo.write(frame)
        resampler = av.AudioResampler(
            format=stream.format.name, layout=layout, rate=rate, frame_size=stream.codec_context.frame_size or 960
        )
        for piece in [*resampler.resample(fifo.read()), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode())


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_rates_and_channels(tmp_path: Path, rate: int, channels: int) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1.0, rate, channels), rate)
    waveform = load_audio(tmp_path / "a.wav", RATE)
    assert waveform.dtype == torch.float32
    assert waveform.shape == (RATE,)
    assert pitch(waveform, RATE) == pytest.approx(440, abs=1)
    assert float(waveform[2000:-2000].abs().max()) == pytest.approx(0.5, abs=0.01)
    assert load_audio(tmp_path / "a.wav", RATE, mono=False).shape == (channels, RATE)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_sample_formats(tmp_path: Path, subtype: str) -> None:
    soundfile.write(tmp_path / "a.wav", tone(), RATE, subtype=subtype)
    assert torch.allclose(load_audio(tmp_path / "a.wav", RATE), torch.from_numpy(tone()[:, 0]), atol=0.01)


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.mp3"])
def test_compressed(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, tone(2.0, 44100, 2), 44100)
    waveform = load_audio(tmp_path / name, RATE)
    assert abs(len(waveform) - 2 * RATE) < 0.1 * RATE
    assert pitch(waveform, RATE) == pytest.approx(440, abs=1)


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "aac"), ("a.m4a", "aac"), ("a.mkv", "ac3"), ("a.webm", "libopus")])
@pytest.mark.parametrize("disguised", [False, True])
def test_containers(tmp_path: Path, name: str, codec: str, disguised: bool) -> None:
    path = tmp_path / name
    write_container(path, codec, 2.0, video=name == "a.mp4")
    if disguised:
        path = path.rename(tmp_path / "b.wav")
    waveform = load_audio(path, RATE)
    assert abs(len(waveform) - 2 * RATE) < 0.1 * RATE
    assert pitch(waveform, RATE) == pytest.approx(440, abs=1)
    part = load_audio(path, RATE, start=1.0, duration=0.5)
    assert part.shape == (RATE // 2,)
    assert sound_seconds(path) == pytest.approx(2.0, abs=0.1)


def test_part_of_a_file(tmp_path: Path) -> None:
    ramp = np.linspace(0, 0.9, 2 * RATE, dtype=np.float32)
    soundfile.write(tmp_path / "a.wav", ramp, RATE, subtype="FLOAT")
    part = load_audio(tmp_path / "a.wav", RATE, start=0.5, duration=1.0)
    assert torch.equal(part, torch.from_numpy(ramp[RATE // 2 : RATE // 2 + RATE]))
    assert len(load_audio(tmp_path / "a.wav", RATE, start=1.5, duration=9.0)) == RATE // 2
    with pytest.raises(ValueError, match="ends after 2.00 s"):
        load_audio(tmp_path / "a.wav", RATE, start=2.0)


def test_seek_in_a_container_is_exact(tmp_path: Path) -> None:
    chirp = (0.5 * np.sin(np.cumsum(np.linspace(0.01, 0.5, 3 * 48000)))).astype(np.float32)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(chirp[None].copy(), format="flt", layout="mono")
        frame.sample_rate = 48000
        for first in range(0, len(chirp), 4800):
            piece = av.AudioFrame.from_ndarray(chirp[None, first : first + 4800].copy(), format="flt", layout="mono")
            piece.sample_rate, piece.pts = 48000, first
            container.mux(stream.encode(piece))
        container.mux(stream.encode())
    part = load_audio(tmp_path / "a.mkv", 48000, start=1.25, duration=0.5)
    assert torch.allclose(part, torch.from_numpy(chirp[60000:84000]), atol=1e-6)


def bad_files(folder: Path) -> dict[str, str]:
    """Bad file -> a word of the sentence that must be given."""
    (folder / "empty.wav").write_bytes(b"")
    soundfile.write(folder / "nothing.wav", np.zeros((0, 1)), RATE)
    (folder / "folder.wav").mkdir()
    (folder / "text.wav").write_text("this is not a sound at all\n" * 50)
    Image.new("RGB", (64, 64)).save(folder / "picture.png")
    (folder / "picture.png").rename(folder / "picture.wav")
    soundfile.write(folder / "nan.wav", np.where(np.arange(RATE) == 7, np.nan, tone()[:, 0]), RATE, subtype="FLOAT")
    soundfile.write(folder / "inf.wav", np.where(np.arange(RATE) == 7, np.inf, tone()[:, 0]), RATE, subtype="FLOAT")
    soundfile.write(folder / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(folder / "whisper.wav", tone() * 1e-4, RATE, subtype="FLOAT")
    soundfile.write(folder / "integers.wav", tone() * 32768, RATE, subtype="FLOAT")
    soundfile.write(folder / "cancel.wav", tone(channels=2) * [1, -1], RATE)
    soundfile.write(folder / "short.wav", tone(0.1), RATE)
    for name in ("cut.wav", "cut.flac"):
        soundfile.write(folder / name, tone(5.0) + 0.1 * np.random.default_rng(0).normal(size=(5 * RATE, 1)), RATE)
        (folder / name).write_bytes((folder / name).read_bytes()[: (folder / name).stat().st_size // 3])
    write_container(folder / "cut.mp4", "aac", 2.0)
    (folder / "cut.mp4").write_bytes((folder / "cut.mp4").read_bytes()[:4000])
    return {
        "missing.wav": "no file",
        "folder.wav": "folder",
        "empty.wav": "empty",
        "nothing.wav": "empty",
        "text.wav": "not a readable sound file",
        "picture.wav": "no audio stream",
        "nan.wav": "not finite",
        "inf.wav": "not finite",
        "silent.wav": "silent",
        "whisper.wav": "silent",
        "integers.wav": "integers",
        "cancel.wav": "cancel",
        "short.wav": "0.10 s",
        "cut.wav": "truncated",
        "cut.flac": "truncated|damaged",
        "cut.mp4": "not a readable sound file",
    }


def test_bad_files_get_one_sentence(tmp_path: Path) -> None:
    for name, words in bad_files(tmp_path).items():
        with pytest.raises((ValueError, OSError), match=words) as caught:
            load_audio(tmp_path / name, RATE)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_three_hours_are_refused_at_once(tmp_path: Path) -> None:
    with soundfile.SoundFile(tmp_path / "long.wav", "w", 8000, 1, subtype="PCM_U8") as file:
        for _ in range(180):
            file.write(tone(60.0, 8000))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="10800 s"):
            load_audio(tmp_path / "long.wav", RATE)
        assert load_audio(tmp_path / "long.wav", RATE, start=7200, duration=1.0).shape == (RATE,)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000  # the whole would be 345 MB
    finally:
        tracemalloc.stop()
    assert sound_seconds(tmp_path / "long.wav") == 10800


def test_resample_takes_coprime_rates() -> None:
    made = resample(torch.from_numpy(tone(1.0, 44101)[:, 0]), 44101, RATE)
    assert abs(len(made) - RATE) <= 1
    assert pitch(made, RATE) == pytest.approx(440, abs=1)


def test_list_audio(tmp_path: Path) -> None:
    for name in ("b.wav", "a.mp3", "note.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in list_audio([tmp_path, tmp_path / "note.txt"])] == ["a.mp3", "b.wav", "note.txt"]
    with pytest.raises(FileNotFoundError, match="absent"):
        list_audio([tmp_path / "absent.wav"])
    with pytest.raises(ValueError, match="no sound files"):
        list_audio([])
