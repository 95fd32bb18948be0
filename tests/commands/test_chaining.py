"""Ways of several steps, texts as inputs of every kind, and how near a result is to what it came from."""

from __future__ import annotations

import json
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

import pytest
import soundfile
from PIL import Image

import xmodal
from xmodal.__main__ import run
from xmodal.commands import chaining
from xmodal.commands.chaining import adapters, chain, closes, steps
from xmodal.miniature.render import render
from xmodal.routes import handed_on, route, ways


def test_steps_are_named() -> None:
    assert steps("image") == ("image",)
    assert steps("audio,image,audio") == ("audio", "image", "audio")
    with pytest.raises(ArgumentTypeError, match="makes the same twice in a row"):
        steps("image,image")
    with pytest.raises(ArgumentTypeError, match="cannot make 'video'"):
        steps("image,video")


def test_each_step_has_its_adapter() -> None:
    assert adapters(("image", "audio"), None) == [None, route("audio", "image")]
    assert adapters(("image", "audio"), ",v2a-regression-mini") == [None, "v2a-regression-mini"]
    assert adapters(("image",), "a,b") == ["a,b"]
    with pytest.raises(ValueError, match="3 adapters for 2 steps"):
        adapters(("image", "audio"), "a,b,c")


def test_what_a_step_makes_is_the_next_ones_input() -> None:
    asked = []

    def make(number: int, kind: str, given: list[Any]) -> Any:
        asked.append((number, kind, list(given)))
        yield from (Path(f"{number}/{name}") for name in ({0: ["a.spectrogram.png", "a.wav"], 1: ["a.png"]}[number]))

    made = [str(path) for path in handed_on(make, ["cat.png"], ("audio", "image"))]
    assert made == ["0/a.spectrogram.png", "0/a.wav", "1/a.png"]
    assert asked == [(0, "audio", ["cat.png"]), (1, "image", [Path("0/a.wav")])]


def test_options_go_to_the_steps_that_have_use_for_them(tmp_path: Path) -> None:
    calls = []

    def generate(inputs: Any, kind: str, folder: Path, adapter: str | None, num: int, **options: Any) -> Any:
        calls.append((kind, folder.name, num, options))
        yield folder / ("a.png" if kind == "image" else "a.wav")

    given = {"prompt": "a {}", "spectrogram": True, "steps": 3}
    list(chain(generate, ["a.wav"], ("image", "audio"), tmp_path, None, 2, **given))
    assert calls == [
        ("image", "1-image", 2, {"prompt": "a {}", "steps": 3}),
        ("audio", "2-audio", 1, {"spectrogram": True, "steps": 3}),
    ]
    calls.clear()
    list(chain(generate, ["a.wav"], ("image", "audio"), tmp_path, candidates=3))
    assert [options for *_, options in calls] == 2 * [{"candidates": 3, "lenient": ("candidates",)}]


def test_baselines_stand_behind_what_was_trained() -> None:
    assert route("audio", "text") == "clipsonic-mini"
    assert route("image", "text") == "stable-diffusion-mini"
    assert "audioldm-mini" in ways()["text", "audio"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return next(iter(sorted(render(tmp_path_factory.mktemp("clip"), "test", 1).parent.glob("*.wav"))))


def test_a_sound_comes_back_from_its_picture(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", str(clip), "--to", "image,audio", "--steps", "4", "--seconds", "2", "--score", "-o", str(tmp_path)]
    run(words)
    told = capsys.readouterr().out
    assert Image.open(tmp_path / "1-image" / f"{clip.stem}.png").size[0] > 10
    assert soundfile.info(tmp_path / "2-audio" / f"{clip.stem}.wav").duration == pytest.approx(2, abs=0.01)
    (found,) = json.loads((tmp_path / "scores.json").read_text("utf-8"))
    assert -1 <= found["cosine"] <= 1
    assert found["input_is"] == clip.stem.partition("_")[2]
    assert f"cosine {found['cosine']:.3f} to {clip}" in told


def test_a_thing_is_nearest_to_itself(clip: Path, tmp_path: Path) -> None:
    same = tmp_path / f"{clip.stem}-1.wav"
    same.write_bytes(clip.read_bytes())
    (found,) = chaining.scores([clip], [same])
    assert found["cosine"] == pytest.approx(1, abs=1e-5)
    assert found["input_is"] == found["result_is"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--to", "image", "--score"], "--score compares a result with its input"),
        (["--to", "image,audio", "--mix"], "--mix is of no use"),
        (["--to", "image,image"], "makes the same twice in a row"),
        (["--to", "video"], "cannot make 'video'"),
    ],
)
def test_what_makes_no_sense_is_refused(clip: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(["generate", str(clip), *words])
    assert stop.value.code == 2
    assert told in capsys.readouterr().err
    assert not closes(["a bell"], ("image", "audio"))


def test_texts_are_painted_and_sound() -> None:
    painter = xmodal.pipeline("stable-diffusion-mini")
    made = painter(["a red bell", "a blue drum"], num_inference_steps=2, num_images_per_prompt=2)
    assert len(made.images) == 4
    with pytest.raises(ValueError, match="a text to paint is empty"):
        painter(" ")
    voice = xmodal.pipeline("audioldm-mini")
    made = voice(["a bell", "rain"], num_inference_steps=2)
    assert made.audios.shape[0] == 2
    assert made.embeddings.norm(dim=-1).tolist() == pytest.approx([1, 1], abs=1e-5)
    with pytest.raises(ValueError, match="give texts that are not empty"):
        voice("")
