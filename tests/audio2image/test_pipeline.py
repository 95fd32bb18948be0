"""The shipped AudioToken: what a user calls, what the command line writes, what `predict` resumes."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import xmodal
from xmodal.audio2image import AudioTokenPipeline
from xmodal.audio2image.position import placed, side
from xmodal.data.pan import panned
from xmodal.foundation.picture_tagger import PictureTagger
from xmodal.miniature import world

ROOT = Path(__file__).parent.parent.parent
BELL = ROOT / "examples" / "sounds" / "bell.wav"


@pytest.fixture(scope="module")
def pipe() -> AudioTokenPipeline:
    """Without candidates: two processors may choose others of two that are nearly alike."""
    return xmodal.pipeline("audiotoken-mini", candidates=1)


def noise(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_files_and_waveforms_give_the_same_picture(pipe: AudioTokenPipeline) -> None:
    array, rate = soundfile.read(BELL, dtype="float32")
    from_file = pipe(BELL, generator=noise(0), num_inference_steps=4).images[0]
    from_array = pipe(array.T, sampling_rate=rate, generator=noise(0), num_inference_steps=4).images[0]
    assert from_file.size == (64, 64)
    assert np.abs(np.asarray(from_file, int) - np.asarray(from_array, int)).max() <= 2


def test_a_picture_depends_on_its_own_sound_and_noise_only(pipe: AudioTokenPipeline) -> None:
    options = {"num_inference_steps": 4, "output_type": "pt"}
    alone = pipe(BELL, generator=noise(3), **options).images
    together = pipe([ROOT / "examples" / "sounds" / "dog.wav", BELL], generator=noise(1, 3), **options).images
    assert torch.allclose(alone[0], together[1], atol=1e-3)


def test_output_types_and_number(pipe: AudioTokenPipeline) -> None:
    assert pipe(BELL, num_images_per_prompt=2, num_inference_steps=2, output_type="np").images.shape == (2, 64, 64, 3)
    assert pipe(BELL, num_images_per_prompt=2, num_inference_steps=2, output_type="pt").images.shape == (2, 3, 64, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "a photo"}, "exactly one {}"),
        ({"num_inference_steps": 0}, "num_inference_steps must be at least 1, not 0"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt must be at least 1"),
        ({"output_type": "jpg"}, "output_type must be one of pil, np, pt"),
    ],
)
def test_bad_calls(pipe: AudioTokenPipeline, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe(BELL, **options)


def test_an_array_in_any_layout_is_the_file_that_it_was_read_from(pipe: AudioTokenPipeline) -> None:
    dog = ROOT / "examples" / "sounds" / "dog.wav"
    expected = pipe.encode(dog)
    for kind in ("float32", "float64", "int16", "int32"):
        array, rate = soundfile.read(dog, dtype=kind, always_2d=True)
        for given in (array, array.T, torch.from_numpy(array)):
            found = pipe.encode([given], sampling_rate=rate)
            assert torch.allclose(found, expected, atol=1e-2 * float(expected.abs().max())), (kind, given.shape)
    for bad, message in ((np.zeros((8000, 2)), "silent"), (np.full(8000, np.nan), "finite"), (np.ones(1), "at least 0.2 s")):
        with pytest.raises(ValueError, match=message):
            pipe.encode([bad], sampling_rate=16000)


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_guidance_that_is_no_number(pipe: AudioTokenPipeline, scale: float) -> None:
    with pytest.raises(ValueError, match="guidance_scale must be a finite number"):
        pipe(BELL, guidance_scale=scale)


def test_words_for_the_place_of_a_sound() -> None:
    mono = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    for pan, words in ((-0.75, " on the left"), (-0.2, " in the centre"), (0.3, " in the centre"), (0.75, " on the right")):
        assert side(panned(mono, torch.tensor([pan]))[0]) == words
    long = torch.cat([panned(0.1 * mono, torch.tensor([-0.9]))[0].repeat(1, 5), panned(mono, torch.tensor([0.9]))[0]], 1)
    assert side(long, 4000) == " on the right"  # the loudest stretch, which is the one that is heard
    assert side(mono) == side(mono.expand(2, -1)) == " in the centre"  # no place is told
    assert placed("a photo of {}, at night", panned(mono, torch.tensor([1.0]))[0]) == "a photo of {} on the right, at night"


def test_the_thing_stands_where_its_sound_does(pipe: AudioTokenPipeline, tmp_path: Path) -> None:
    mono = torch.from_numpy(soundfile.read(BELL, dtype="float32", always_2d=True)[0].mean(1))[None]
    rate = soundfile.info(BELL).samplerate
    files = [tmp_path / f"{name}.wav" for name in ("left", "right", "mono")]
    for file, pan in zip(files, (-0.8, 0.8), strict=False):
        soundfile.write(file, panned(mono, torch.tensor([pan]))[0].T.numpy(), rate)
    soundfile.write(files[2], mono[0].numpy(), rate)
    made = pipe(files, position=True, num_images_per_prompt=3, generator=noise(*range(9)), output_type="pt").images
    found = PictureTagger().tag(made)["place"]
    asked = ["left"] * 3 + ["right"] * 3 + ["centre"] * 3
    assert sum(one == other for one, other in zip(found, asked, strict=True)) >= 7
    with pytest.raises(ValueError, match="position needs sounds"):
        pipe(tokens=torch.zeros(1, 3, 128), position=True)


def test_a_waveform_needs_its_rate(pipe: AudioTokenPipeline) -> None:
    with pytest.raises(ValueError, match="sampling_rate"):
        pipe(torch.zeros(40000))


@pytest.mark.slow
def test_the_pseudo_words_mean_what_is_heard(pipe: AudioTokenPipeline) -> None:
    clips = [world.sample("test", index, seed=2) for index in range(72)]
    tokens = pipe.encode([torch.from_numpy(world.sound(clip)) for clip in clips], sampling_rate=16000)
    phrases = [world.caption(clip, ("count", "size")).split()[-3:] for clip in clips]  # "two large bells"
    for place, least in ((1, 50), (2, 58)):  # of 72: seven of ten sizes (chance is 24), four of five things (chance is 4)
        known = sorted({phrase[place] for phrase in phrases})
        words = pipe.generator.label_embeds(known)
        nearest = torch.nn.functional.cosine_similarity(tokens[:, None, place], words[None], dim=-1).argmax(-1)
        right = [known[index].rstrip("s") == phrase[place].rstrip("s") for index, phrase in zip(nearest, phrases, strict=True)]
        assert sum(right) >= least


@pytest.mark.slow
def test_command_line(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "xmodal",
        "generate",
        str(BELL),
        "--to",
        "image",
        "-n",
        "2",
        "--steps",
        "3",
        "-o",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bell-1.png", "bell-2.png"]


@pytest.mark.slow
def test_predict_resumes(tmp_path: Path) -> None:
    from xmodal.miniature.render import render

    manifest = render(tmp_path / "world", "test", 3)
    out = tmp_path / "pictures"
    recipes = ["--config", "recipes/miniature/audiotoken.yaml", "--config", "recipes/overlays/predict_manifest.yaml"]
    options = [f"--data.manifest={manifest}", f"--model.predictions={out}", "--model.num_inference_steps=2"]
    command = [sys.executable, "-m", "xmodal", "predict", *recipes, *options]

    def run() -> dict[Path, tuple[int, bytes]]:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(out.iterdir())}

    first = run()
    assert len(first) == 3
    lost, *kept = first
    lost.unlink()
    second = run()
    assert list(second) == list(first)
    assert all(second[path] == first[path] for path in kept)
    before, after = (np.asarray(Image.open(io.BytesIO(each[lost][1])), int) for each in (first, second))
    assert np.abs(before - after).max() <= 2  # painted alone this time: sums round differently
