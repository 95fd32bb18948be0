"""Several sounds in one picture, on the way from one to another, a picture changed by a sound, and long recordings."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.test_matrix import painter
from tests.vision2audio.parts import Ears
from xmodal.__main__ import run
from xmodal.audio2image import AudioToken, AudioTokenPipeline
from xmodal.commands.combining import Together, check, combine, targets
from xmodal.data.audio import load_audio
from xmodal.data.inputs import Asked
from xmodal.data.slides import sheet, write_slides
from xmodal.data.soundfiles import write_sound
from xmodal.data.video import load_frames

RATE = 4_000
CALL: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 1.0}


@pytest.fixture(scope="module")
def pipe() -> AudioTokenPipeline:
    torch.manual_seed(0)
    return AudioToken(Ears(), painter(), seconds=1.0).eval().pipeline()


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sounds")
    noise = 0.2 * torch.randn(2, RATE, generator=torch.Generator().manual_seed(1))
    return [write_sound(folder / f"{name}.wav", each, RATE) for name, each in zip("ab", noise, strict=True)]


def noise(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_mixing_is_a_weighted_mean_of_words(pipe: AudioTokenPipeline, sounds: list[Path]) -> None:
    words = pipe.encode(sounds)
    torch.testing.assert_close(pipe.mix(sounds, [3, 1]), 0.75 * words[:1] + 0.25 * words[1:])
    torch.testing.assert_close(pipe.mix(sounds), words.mean(0, keepdim=True))
    torch.testing.assert_close(pipe.mix(sounds, [0, 2]), words[1:])
    steps = pipe.between(*sounds, 3)
    torch.testing.assert_close(steps, torch.stack((words[0], words.mean(0), words[1])))
    alone = pipe(sounds[1], generator=noise(0), output_type="pt", **CALL).images
    torch.testing.assert_close(pipe(tokens=steps[2:], generator=noise(0), output_type="pt", **CALL).images, alone)
    for wrong in ([1.0], [0, 0], [-1, 2], [float("nan"), 1]):
        with pytest.raises(ValueError, match="2 sounds need 2 weights"):
            pipe.mix(sounds, wrong)
    with pytest.raises(ValueError, match="count must be at least 2"):
        pipe.between(*sounds, 1)
    with pytest.raises(ValueError, match="give sounds, or tokens"):
        pipe(sounds[0], tokens=words)


def test_a_picture_is_changed_by_a_sound(pipe: AudioTokenPipeline, sounds: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(pipe.generator), "decode", lambda _, latents: latents)  # an untrained VAE hides what is near
    shown = Image.fromarray(np.full((20, 30, 3), 200, np.uint8))
    options: dict[str, Any] = {**CALL, "output_type": "pt", "num_inference_steps": 10}
    made = {
        strength: pipe(sounds[0], image=shown, strength=strength, generator=noise(0), **options).images
        for strength in (0.1, 0.5, 1.0)
    }
    size = pipe.generator.image_size
    start = pipe.generator.encode(torch.full((1, 3, size, size), 200 / 255))[0] * pipe.generator.scaling_factor
    far = {strength: float((each - start).abs().mean()) for strength, each in made.items()}
    assert far[0.1] < far[0.5] < far[1.0]
    with pytest.raises(ValueError, match="strength must be above 0 and at most 1, not 2"):
        pipe(sounds[0], image=shown, strength=2.0, **CALL)
    with pytest.raises(ValueError, match="2 images for 1 inputs"):
        pipe(sounds[0], image=[shown, shown], **CALL)


def test_windows(pipe: AudioTokenPipeline) -> None:
    long = torch.arange(1, 10_401) / 20_000
    assert [len(each) for each in pipe.windows(long, 1.0, RATE)] == [4_000, 4_000, 2_400]
    assert [len(each) for each in pipe.windows(long[:9_600], 1.0, RATE)] == [4_000, 4_000]
    assert [len(each) for each in pipe.windows(long[:1_600], 1.0, RATE)] == [1_600]


def test_files(pipe: AudioTokenPipeline, sounds: list[Path], tmp_path: Path) -> None:
    asked = [Asked("audio", path, path.stem) for path in sounds]
    (mixed,) = combine(pipe, Together(mix=True), asked, tmp_path, 1, 0, CALL)
    assert mixed.name == "a+b.png"
    ways = list(combine(pipe, Together(between=3), asked, tmp_path, 1, 0, CALL))
    assert [each.name for each in ways] == ["a-to-b-1.png", "a-to-b-2.png", "a-to-b-3.png"]
    long = [Asked("audio", write_sound(tmp_path / "long.wav", load_audio(sounds[0], RATE).repeat(3), RATE), "long")]
    (contact,) = combine(pipe, Together(windows=1.0), long, tmp_path, 1, 0, CALL)
    side = pipe.generator.image_size
    assert Image.open(contact).size == (2 * side, 2 * side)


class Colours:
    """Paints loud stretches red and others blue."""

    encoder = SimpleNamespace(sample_rate=RATE)

    def __init__(self, sound: torch.Tensor) -> None:
        self.sound = sound

    def windows(self, sound: Path, seconds: float) -> list[torch.Tensor]:
        return list(self.sound.split(round(seconds * RATE)))

    def mono(self, sound: Path) -> torch.Tensor:
        return self.sound

    def __call__(self, sounds: list[torch.Tensor], **options: Any) -> Any:
        colours = ["red" if each.abs().max() > 0.5 else "blue" for each in sounds]
        return SimpleNamespace(images=[Image.new("RGB", (32, 32), colour) for colour in colours])


def test_a_film_shows_each_picture_for_its_stretch_and_silence_the_one_before(tmp_path: Path) -> None:
    tone = torch.sin(torch.arange(RATE) / 3)
    sound = torch.cat((0 * tone, 0.9 * tone, 0 * tone, 0.1 * tone))
    asked = [Asked("audio", Path("walk.wav"), "walk")]
    (film,) = combine(Colours(sound), Together(windows=1.0, video=True), asked, tmp_path, 1, 0, {})
    assert film.name == "walk.mp4"
    assert load_audio(film, RATE).shape[0] == pytest.approx(4 * RATE, rel=0.1)
    red = [bool(frame[0].mean() > frame[2].mean()) for frame in load_frames(film, [0.5, 1.5, 2.5, 3.5])]
    assert red == [True, True, True, False]


@pytest.mark.parametrize(
    ("how", "count", "message"),
    [
        (Together(mix=True), 1, "--mix needs several inputs, not 1"),
        (Together(between=3), 3, "--between needs two inputs, not 3"),
        (Together(mix=True, weights=(1.0,)), 2, "--weights has 1 numbers for 2 inputs"),
    ],
)
def test_inputs_that_cannot_be_put_together(how: Together, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(how, [Asked("audio", Path("a.wav"), "a")] * count, AudioTokenPipeline)


def test_options_that_do_not_go_together() -> None:
    assert "exclude each other" in Together(mix=True, windows=1.0).problem()
    assert Together(weights=(1.0,), windows=2.0).problem() == "--weights are those of --mix"
    assert Together(mix=True, video=True).problem() == "--video is one of --windows"
    assert "at least 2" in Together(between=1).problem()
    assert Together(windows=2.0, video=True).problem() == ""
    assert not Together().asked
    assert targets(Together(mix=True), [Asked("audio", Path("a"), "a")] * 2, 2) == [Path("a+a-1.png"), Path("a+a-2.png")]


def test_a_sheet_and_a_film_refuse_nothing_and_no_length(tmp_path: Path) -> None:
    red = Image.new("RGB", (4, 6), "red")
    assert sheet([red] * 5).size == (12, 12)
    assert sheet([red] * 5, columns=5).size == (20, 6)
    with pytest.raises(ValueError, match="at least one picture"):
        sheet([])
    with pytest.raises(ValueError, match="a length of each above 0"):
        write_slides([red], 0, torch.zeros(10), RATE, tmp_path / "a.mp4")


@pytest.mark.parametrize("more", [["--mix"], ["--between", "3"], ["--windows", "2"]])
def test_a_place_is_of_one_sound(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(["generate", "a.wav", "b.wav", "--to", "image", "--position", *more])
    assert stopped.value.code == 2
    assert "--position is of one sound's own picture" in capsys.readouterr().err
