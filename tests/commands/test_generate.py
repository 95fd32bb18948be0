"""`xmodal generate`: what it takes, what it writes, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
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
        (["sound.wav"], {}, "is a sound, of which nothing can be made here"),
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
    with pytest.raises(ValueError, match="none of clipsonic-mini has candidates: leave --candidates out"):
        run(["generate", "a bell", "--to", "audio", "--candidates", "2", "-o", str(tmp_path / "text")])


def test_noise_follows_the_seed() -> None:
    first, again, other = (torch.randn(3, generator=generation._noise(2, seed)[1]) for seed in (0, 0, 5))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_one_bad_input_never_stops_the_others(
    pipe: Any, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "check", lambda *_, **__: None)
    monkeypatch.setattr(generation, "adapters_for", lambda *_, **__: [])
    (pictures / "bad\x1b[31m.png").write_bytes(b"no picture")
    (pictures / "._b.png").write_bytes(b"what macOS leaves")
    (pictures / "note.txt").write_text("no picture either")
    arguments = [str(pictures), "--to", "audio", "--steps", "2", "--seconds", "0.3", "-o", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stopped:
        generation.main(arguments)
    assert stopped.value.code == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a dög.wav", "b.wav"}
    said = capsys.readouterr().err
    assert "1 inputs failed, 2 files were made" in said
    assert "passed over in" in said
    assert "\x1b" not in said
    assert "is not a readable picture" in said
    heard: list[str] = []
    made = make(pictures, output=tmp_path / "again", failed=lambda asked, error: heard.append(asked.stem))
    assert len(made) == 2
    assert heard == ["bad\x1b[31m"]
    with pytest.raises(ValueError, match="not a readable picture"):
        make(pictures, output=tmp_path / "raised")


def test_what_is_shorter_than_the_trained_length_is_cut_from_it(pipe: Any, pictures: Path, tmp_path: Path) -> None:
    (whole,) = generation.generate([pictures / "b.png"], "audio", tmp_path / "whole", steps=2)
    (part,) = generation.generate([pictures / "b.png"], "audio", tmp_path / "part", steps=2, audio_length_in_s=0.3)
    (long, rate), (short, _) = soundfile.read(whole), soundfile.read(part)
    assert len(short) == round(0.3 * rate) < len(long)
    assert np.array_equal(short, long[: len(short)])


def test_a_film_shorter_than_the_trained_length_is_cut_from_it(pipe: Any, tmp_path: Path) -> None:
    from tests.data.test_video import write_video

    write_video(tmp_path / "film.mp4", 0.5)
    paths = list(generation.generate([tmp_path / "film.mp4"], "audio", tmp_path / "out", steps=2))
    assert {path.name for path in paths} == {"film.mp4", "film.wav"}
    made = pipe(
        [str(tmp_path / "film.mp4")], num_inference_steps=2, generator=generation._noise(1, 0), num_waveforms_per_prompt=1
    )
    sound, rate = soundfile.read(tmp_path / "out" / "film.wav", dtype="float32")
    assert len(sound) == round(0.5 * rate)
    assert np.allclose(sound, made.audios[0][: len(sound)], atol=1e-4)


def test_names_that_no_file_system_takes_are_refused_before_computing(pipe: Any, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / f"{'x' * 245}.png")
    with pytest.raises(ValueError, match="more than files may have"):
        make(tmp_path / f"{'x' * 245}.png", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert make("red " + "雨が降っている。" * 40, output=tmp_path / "out")[0].exists()


def test_sounds_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    from xmodal.data.soundfiles import write_sound

    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="not finite"):
            write_sound(tmp_path / "a.wav", np.array([0.0, bad]), 16000)
    assert not list(tmp_path.iterdir())


def test_a_prompt_without_its_place_is_refused_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(["generate", "bell.wav", "--to", "image", "--prompt", "no hole"])
    assert caught.value.code == 2
    assert "--prompt 'no hole' must hold exactly one {}" in capsys.readouterr().err


def test_an_adapter_of_another_kind_is_refused_before_it_is_built() -> None:
    with pytest.raises(ValueError, match="v2a-mini makes audio of image, video, not image"):
        run(["generate", "bell.wav", "--to", "image", "--adapter", "v2a-mini"])


class SmallMemory:
    """Paints each sound's name's length; more than two pictures at once do not fit."""

    takes, makes, seconds = ("audio",), "image", 1.0

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, sounds: list[Path], num_images_per_prompt: int, generator: Any, batch_size: int, **_: Any) -> Any:
        self.calls.append(len(sounds) * num_images_per_prompt)
        if min(self.calls[-1], batch_size) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if any("broken" in str(each) for each in sounds):
            raise ValueError("broken sound")
        shades = [len(Path(each).stem) for each in sounds for _ in range(num_images_per_prompt)]
        return SimpleNamespace(images=[Image.new("L", (2, 2), shade) for shade in shades])


@pytest.mark.parametrize(("num", "calls"), [(1, [5, 2, 2, 1, 1, 1]), (3, [6, 3, 3, 3, 3, 3, 3])])
def test_fewer_at_once_where_memory_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num: int, calls: list[int]) -> None:
    pipe, heard = SmallMemory(), []
    monkeypatch.setattr(generation, "pipeline", lambda _, **options: pipe)
    monkeypatch.setattr(generation, "route", lambda to, source: "any")
    for name in ("a", "bb", "ccc", "broken", "eeeee"):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(160), 16_000)
    inputs = [tmp_path / f"{name}.wav" for name in ("a", "bb", "ccc", "broken", "eeeee")]
    made = list(
        generation.generate(inputs, "image", output=tmp_path / "out", num=num, failed=lambda each, error: heard.append(each.stem))
    )
    assert heard == ["broken"]
    assert len(made) == 4 * num
    assert all(Image.open(path).getpixel((0, 0)) == len(path.stem.partition("-")[0]) for path in made)
    assert pipe.calls[: len(calls)] == calls
