"""`xmodal generate`: what it takes, what it writes, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from tests.text2audio.parts import Eyes, Reader
from tests.text2audio.parts import task as make_task
from xmodal.__main__ import run
from xmodal.commands import generate as generation


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tiny CLIPSonic with random weights, in place of the built-in adapters."""
    eyes = Eyes()
    made = make_task(encoder=eyes, text_encoder=lambda: Reader(eyes)).pipeline()
    monkeypatch.setattr(generation, "pipeline", lambda _, **options: made)
    monkeypatch.setattr(generation, "route", lambda to, source: f"{source}-to-{to}")
    return made


def make(*inputs: str | Path, output: Path, **options: Any) -> list[Path]:
    return list(generation.generate(inputs, "audio", output=output, steps=2, audio_length_in_s=0.2, **options))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, colour in {"a dög": (255, 0, 0), "b": (0, 0, 255)}.items():
        Image.new("RGB", (20, 30), colour).save(folder / f"{name}.png")
    return folder


def test_pictures_become_sounds_of_the_asked_length(pipe: Any, pictures: Path, tmp_path: Path) -> None:
    made = make(pictures, output=tmp_path / "out", num=2)
    assert [path.name for path in made] == ["a dög-1.wav", "a dög-2.wav", "b-1.wav", "b-2.wav"]
    for path in made:
        waveform, rate = soundfile.read(path)
        assert rate == pipe.vocoder.sample_rate
        assert len(waveform) == round(0.2 * rate)
    first, second = (soundfile.read(path)[0] for path in made[:2])
    assert not np.array_equal(first, second)


def test_a_sound_does_not_depend_on_its_neighbours(pipe: Any, pictures: Path, tmp_path: Path) -> None:
    together = {path.name: soundfile.read(path)[0] for path in make(pictures, output=tmp_path / "all")}
    (alone,) = make(pictures / "b.png", output=tmp_path / "one")
    np.testing.assert_allclose(soundfile.read(alone)[0], together["b.wav"], atol=2e-4)


def test_texts_and_a_file_of_texts(pipe: Any, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("two red bells\n\nA rain, on a green roof!\ntwo red bells\n")
    made = make("a red dog", tmp_path / "prompts.txt", output=tmp_path / "out", query="text")
    names = [path.name for path in made]
    assert names[:2] == ["a-red-dog.wav", "two-red-bells.wav"]
    assert names[2].startswith("a-rain-on-a-green-roof-")
    assert len(names) == 3


def test_resume_passes_over_what_is_there(pipe: Any, pictures: Path, tmp_path: Path) -> None:
    make(pictures / "b.png", output=tmp_path / "out", spectrogram=True)
    (tmp_path / "out" / "b.wav").write_bytes(b"mine")
    made = make(pictures, output=tmp_path / "out", resume=True)
    assert [path.name for path in made] == ["a dög.wav"]
    assert (tmp_path / "out" / "b.wav").read_bytes() == b"mine"
    assert Image.open(tmp_path / "out" / "b.spectrogram.png").size[0] > 10
    assert not list((tmp_path / "out").glob(".partial*"))


def test_no_input_is_replaced(pipe: Any, pictures: Path) -> None:
    before = (pictures / "b.png").read_bytes()
    made = make(pictures / "b.png", output=pictures, spectrogram=True)
    assert [path.name for path in made] == ["b.spectrogram.png", "b.wav"]
    assert (pictures / "b.png").read_bytes() == before
    (pictures / "film.mp4").write_bytes(b"a film")
    with pytest.raises(ValueError, match="take the place of the input .*film.mp4: give another --output"):
        make(pictures / "film.mp4", output=pictures)
    assert (pictures / "film.mp4").read_bytes() == b"a film"


def test_a_video_gets_its_sound(pipe: Any, tmp_path: Path) -> None:
    import av

    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for index in range(10):
            picture = np.full((32, 32, 3), 20 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    pipe.seconds = 0.5  # what the adapter has learnt is shorter than the video
    made = list(generation.generate([path], "audio", output=tmp_path / "out", steps=1))
    assert [each.name for each in made] == ["clip.mp4", "clip.wav"]
    with av.open(str(made[0])) as copied:
        assert [stream.type for stream in copied.streams] == ["video", "audio"]
    waveform, rate = soundfile.read(made[1])
    assert len(waveform) == round(0.5 * rate)


@pytest.mark.parametrize(
    ("inputs", "options", "expected"),
    [
        (["no-such.png"], {}, "no-such.png"),
        (["  "], {}, "is empty"),
        (["sound.wav"], {}, "no way from audio to audio"),
        (["empty.txt"], {}, "holds no text"),
        (["red"], {"strength": 1}, "no option strength"),
        (["red"], {"audio_length_in_s": -1.0}, "audio_length_in_s must be above 0"),
        (["a b", "A b", "a b"], {}, "two inputs have the same file name 'a-b'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: list[str], options: dict[str, Any], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises((ValueError, FileNotFoundError), match=expected):
        list(generation.generate(inputs, "audio", output=tmp_path / "out", **{"query": "text", **options}))
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("words", [["a bell", "--to", "audio", "--prompt", "x {}"], ["a.wav", "--to", "image", "--seconds", "3"]])
def test_options_of_the_other_direction_are_usage_errors(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(["generate", *words])
    assert stopped.value.code == 2
    assert "is of no use with --to" in capsys.readouterr().err


def test_the_best_of_several_candidates_is_kept(tmp_path: Path) -> None:
    """By CLAP: the kept sound is at least as near to what was asked for as a sound of the same noise alone."""
    import xmodal

    Image.new("RGB", (64, 64), (255, 200, 0)).save(tmp_path / "a.png")
    asked = ["generate", str(tmp_path / "a.png"), "--to", "audio", "--steps", "2", "--adapter", "v2a-regression-mini", "-o"]
    run([*asked, str(tmp_path / "one"), "--candidates", "1"])
    run([*asked, str(tmp_path / "three"), "--candidates", "3"])
    pipe = xmodal.pipeline("v2a-regression-mini")
    sounds = [torch.from_numpy(soundfile.read(tmp_path / name / "a.wav", dtype="float32")[0])[None] for name in ("one", "three")]
    one, three = (float(pipe.closeness(sound, pipe.encode([str(tmp_path / "a.png")]))) for sound in sounds)
    assert three >= one - 1e-3
    with pytest.raises(ValueError, match="clipsonic-mini has no option candidates: leave it out"):
        run(["generate", "a bell", "--to", "audio", "--candidates", "2", "-o", str(tmp_path / "text")])


def test_noise_follows_the_seed() -> None:
    first, again, other = (torch.randn(3, generator=generation._noise(2, seed)[1]) for seed in (0, 0, 5))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
