"""Of several pictures the nearest is kept: the towers' own order, and what a pipeline makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler
from torch import Tensor
from torch.nn import functional as F

import xmodal
from xmodal.__main__ import run
from xmodal.adapter_task import AdapterTask
from xmodal.audio2image import AudioToken, AudioTokenPipeline, LabelTextPipeline, PictureRanker
from xmodal.diffusion.sampling import children
from xmodal.foundation import clip, imagebind, wav2clip
from xmodal.foundation.clip import ImageTower, TextTower
from xmodal.foundation.stable_diffusion import StableDiffusion
from xmodal.foundation.wav2clip import Wav2CLIP
from xmodal.miniature import world
from xmodal.registry.build import late_parts

ROOT = Path(__file__).parent.parent.parent
BELL = ROOT / "examples" / "sounds" / "bell.wav"


def by_sound() -> PictureRanker:
    return PictureRanker(ImageTower(card="mini"), Wav2CLIP(card="mini"))


@pytest.fixture(scope="module")
def pipe() -> AudioTokenPipeline:
    return xmodal.pipeline("audiotoken-mini")


class Redness(PictureRanker):
    """Ranks by the red of pictures alone, whose order no rounding changes."""

    def __init__(self) -> None:
        super().__init__(ImageTower(card="mini"), Wav2CLIP(card="mini"))

    def best(self, pixels: Tensor, wanted: Tensor, batch_size: int | None = None) -> Tensor:
        several = pixels.unflatten(0, (len(wanted), -1))
        return torch.stack([each[each[:, 0].mean((1, 2)).argmax()] for each in several])


def test_the_choice_is_that_of_transformers_own_clip() -> None:
    from transformers import CLIPModel, CLIPTokenizer

    clips = [world.sample("test", index, seed=1) for index in range(12)]
    pixels = torch.stack([torch.tensor(world.picture(each)).permute(2, 0, 1) / 255 for each in clips])
    texts = [world.caption(each) for each in clips[::3]]
    ranker = PictureRanker(ImageTower(card="mini"), TextTower(card="mini"))
    chosen = ranker.best(pixels, ranker.read(texts), batch_size=5)

    folder = clip.CARDS["mini"].folder()
    model, tokenizer = CLIPModel.from_pretrained(folder).float().eval(), CLIPTokenizer.from_pretrained(folder)
    with torch.no_grad():
        ready = ranker.eye.preprocess(pixels)  # type: ignore[operator]
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt"), pixel_values=ready).logits_per_text
    expected = [3 * row + int(logits[row, 3 * row : 3 * row + 3].argmax()) for row in range(4)]
    assert torch.equal(chosen, pixels[expected])
    assert expected == [0, 3, 6, 9]  # a caption's own picture is nearer than two others


def test_a_sound_finds_the_picture_of_its_clip() -> None:
    clips = [world.sample("test", index, seed=1) for index in range(32)]
    waveforms = torch.stack([torch.from_numpy(world.sound(each)).mean(0) for each in clips[::4]])
    pixels = torch.stack([torch.tensor(world.picture(each)).permute(2, 0, 1) / 255 for each in clips])
    ranker = by_sound()
    wanted = ranker.heard(waveforms, world.sounds.SAMPLE_RATE)
    assert wanted.norm(dim=-1).allclose(torch.ones(8))
    found = ranker.best(pixels, wanted)
    assert sum(bool(torch.equal(one, own)) for one, own in zip(found, pixels[::4], strict=True)) >= 7


def test_the_best_of_what_its_own_noise_gives_is_kept() -> None:
    painter = StableDiffusion("mini", algorithm_type="dpmsolver++")  # what its first noise gives, and no other
    pipe = xmodal.pipeline("audiotoken-mini", generator=painter, ranker=Redness(), candidates=3)
    options: dict[str, Any] = {"num_inference_steps": 2, "output_type": "pt"}
    sounds = [BELL, ROOT / "examples" / "sounds" / "dog.wav"]

    def noise(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    def drawn(seed: int) -> Tensor:
        unet = pipe.generator.unet.config
        shape = (1, unet.in_channels, unet.sample_size, unet.sample_size)
        return torch.cat([torch.randn(shape, generator=own) for own in children(*noise(seed), 3)])

    made = pipe(sounds, generator=noise(5, 6), **options).images
    assert len(made) == 2
    for row, (sound, seed) in enumerate(zip(sounds, (5, 6), strict=True)):
        three = pipe([sound] * 3, latents=drawn(seed), **options).images
        reddest = three[three[:, 0].mean((1, 2)).argmax()]
        assert torch.allclose(made[row], reddest, atol=1e-4)
        assert (three - made[row]).abs().amax((1, 2, 3)).gt(0.05).sum() == 2  # the others look otherwise
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)  # draws in each step
    made = pipe(sounds, generator=noise(5, 6), **options).images
    for batch_size in (1, 2, 4):
        assert torch.allclose(pipe(sounds, generator=noise(5, 6), batch_size=batch_size, **options).images, made, atol=1e-3)
    assert pipe(BELL, generator=noise(1, 2), num_images_per_prompt=2, **options).images.shape == (2, 3, 64, 64)
    with pytest.raises(ValueError, match="3 generators for 2 results"):
        pipe(sounds, generator=noise(1, 2, 3), **options)


def test_what_is_kept_is_nearer_to_its_sound_for_another_ear() -> None:
    """ImageBind's, which had no word in the choice; few steps, and no new noise in them, so that single pictures are poor."""
    pipe = xmodal.pipeline("audiotoken-mini", generator=StableDiffusion("mini", algorithm_type="dpmsolver++"))
    clips = [world.sample("test", index, seed=1) for index in range(8)]
    waveforms = torch.stack([torch.from_numpy(world.sound(each)).mean(0) for each in clips])
    ear = PictureRanker(ImageTower(card="mini"), imagebind.AudioTower(card="mini"))
    wanted = ear.heard(waveforms, world.sounds.SAMPLE_RATE)

    def nearness(candidates: int) -> float:
        noise = [torch.Generator().manual_seed(number) for number in range(len(clips))]
        options: dict[str, Any] = {"sampling_rate": world.sounds.SAMPLE_RATE, "num_inference_steps": 2, "output_type": "pt"}
        pictures = pipe(list(waveforms), generator=noise, candidates=candidates, **options).images
        return float(F.cosine_similarity(ear.eye.embed(pictures), wanted).mean())

    one, five = nearness(1), nearness(5)
    assert five > one + 0.02


def test_what_cannot_be_ranked_is_refused(pipe: AudioTokenPipeline) -> None:
    tokens = pipe.encode(BELL)
    assert len(pipe(tokens=tokens, num_inference_steps=1).images) == 1  # nothing to rank by: one
    for given, told in (
        ({"candidates": 0}, "candidates must be at least 1"),
        ({"candidates": 2, "tokens": tokens}, "with latents or tokens there is 1"),
        ({"candidates": 2, "latents": torch.randn(1, 4, 16, 16)}, "with latents or tokens there is 1"),
    ):
        with pytest.raises(ValueError, match=told):
            pipe(None if "tokens" in given else BELL, **given)  # type: ignore[arg-type]
    parts = {name: getattr(pipe, name) for name in ("encoder", "generator", "adapter")}
    with pytest.raises(ValueError, match="AudioTokenPipeline has no ranker, which would choose from candidates: add one"):
        AudioTokenPipeline(**parts)(BELL, candidates=2)
    for candidates, told in (
        (2, "2 candidates need a ranker: give one"),
        (0, "at least 1, not 0"),
        (None, "at least 1, not None"),
    ):
        with pytest.raises(ValueError, match=told):
            AudioTokenPipeline(**parts, candidates=candidates)  # type: ignore[arg-type]
    reader = PictureRanker(ImageTower(card="mini"), TextTower(card="mini"))
    with pytest.raises(ValueError, match="a ranker whose reader is an AudioEncoder"):
        AudioTokenPipeline(**parts, ranker=reader)(BELL, candidates=2)
    with pytest.raises(ValueError, match="a ranker whose reader is a TextEncoder"):
        LabelTextPipeline(parts["generator"], ranker=by_sound)(BELL, labels="bell", candidates=2)


def test_towers_of_two_spaces_are_refused() -> None:
    with pytest.raises(ValueError, match="take two towers of one space"):
        PictureRanker(ImageTower(card="mini"), wav2clip.tiny()["Wav2CLIP"]())
    from xmodal.foundation.beats import BEATs

    with pytest.raises(ValueError, match="the embedding of BEATs does not lie with pictures"):
        PictureRanker(ImageTower(card="mini"), BEATs(card="mini"))
    eye = ImageTower(card="mini")
    eye.constructed_with = {"card": "vit-b-16"}  # as wide as vit-b-32, and another space
    with pytest.raises(ValueError, match=r"clip:mini and wav2clip:mini, but ImageTower of clip:vit-b-16: take two towers of one"):
        PictureRanker(eye, Wav2CLIP(card="mini"))
    assert PictureRanker(ImageTower(card="mini"), imagebind.AudioTower(card="mini")).hears
    somewhere = ImageTower(card="mini")
    somewhere.constructed_with = {"card": "/weights/clip"}  # a folder: nobody knows whose
    assert PictureRanker(somewhere, Wav2CLIP(card="mini")).hears
    with pytest.raises(ValueError, match="not of a TextTower and a ImageTower"):
        PictureRanker(TextTower(card="mini"), ImageTower(card="mini"))  # type: ignore[arg-type]


def test_an_eye_that_fails_does_not_choose() -> None:
    ranker = PictureRanker(ImageTower(card="mini"), TextTower(card="mini"))
    ranker.eye.embed = lambda pixels: torch.tensor([[0.0] * 128, [float("nan")] * 128])  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="the ranker's embeddings hold NaN or infinity"):
        ranker.best(torch.rand(2, 3, 8, 8), torch.ones(1, 128))


def test_texts_are_painted_by_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    painter = xmodal.pipeline("stable-diffusion-mini")
    asked: list[list[str]] = []
    read = PictureRanker.read
    monkeypatch.setattr(PictureRanker, "read", lambda self, prompts: asked.append(list(prompts)) or read(self, prompts))
    made = painter(["two large bells", "a small dog"], num_inference_steps=1, candidates=2, output_type="pt").images
    assert made.shape == (2, 3, 64, 64)
    assert asked == [["two large bells", "a small dog"]]


def test_a_training_paints_one_and_an_adapter_keeps_its_ranker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "ranker" in late_parts("xmodal.audio2image.AudioToken")
    task: Any = AdapterTask.from_pretrained("audiotoken-mini")
    assert isinstance(task, AudioToken)
    task.defaults["num_inference_steps"] = 1
    monkeypatch.setattr(ImageTower, "__init__", lambda self, *parts, **options: pytest.fail("a training built the ranker"))
    batch = {"waveform": torch.randn(2, 40_000) / 9}
    assert len(task.make(batch, [0, 1], [torch.Generator().manual_seed(row) for row in range(2)]).images) == 2
    monkeypatch.undo()
    pipe = task.pipeline()
    assert pipe.candidates == 4
    assert isinstance(pipe.built_ranker(), PictureRanker)
    assert pipe.components["ranker"] is pipe.built_ranker()  # built once
    again = xmodal.pipeline(task.save_pretrained(tmp_path / "mine"))
    assert again.candidates == 4
    assert again.built_ranker().hears


def test_the_command_trains_without_the_rankers_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for tower in (ImageTower, Wav2CLIP):
        monkeypatch.setattr(tower, "_assemble", lambda self, *parts, **options: pytest.fail("a training built the ranker"))
    few = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--data.train_count=4", "--data.val_count=2"]
    run(["fit", "audiotoken-mini", *few, "--data.batch_size=2", "--data.strange=0", "--trainer.enable_progress_bar=false"])
    (folder,) = (tmp_path / "outputs" / "audiotoken-mini").iterdir()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    run(["export", str(folder), "-o", "mine"])
    pipe = xmodal.pipeline(str(tmp_path / "mine"))
    assert pipe.candidates == 4
    assert isinstance(pipe.built_ranker().reader, Wav2CLIP)


def test_other_painters_of_sounds_rank_too() -> None:
    from xmodal.audio2image.baseline_tasks import LabelText, SoundUnCLIP
    from xmodal.foundation.stable_unclip import StableUnCLIP

    options: dict[str, Any] = {"seconds": 2.5, "short": "pad", "num_inference_steps": 1, "candidates": 2}
    heard = SoundUnCLIP(Wav2CLIP(card="mini"), StableUnCLIP(card="mini"), ranker=by_sound, **options)
    assert len(heard.pipeline()(BELL).images) == 1
    assert isinstance(heard.ranker, type(by_sound))  # the task has what builds it
    words = LabelText(StableDiffusion(card="mini"), ranker=lambda: PictureRanker(ImageTower, TextTower), **options)
    assert len(words.pipeline()("", labels="bell").images) == 1


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    best = PictureRanker.best
    monkeypatch.setattr(
        PictureRanker, "best", lambda self, pixels, *rest: looked.append(len(pixels)) or best(self, pixels, *rest)
    )
    words = ["generate", str(BELL), "--to", "image", "--steps", "1", "-o", str(tmp_path)]
    run(words)
    run([*words, "--candidates", "3", "--num", "2"])
    run([*words, "--candidates", "1"])
    assert looked == [4, 6]
    looked.clear()
    run([*words, "--windows", "1.5"])
    assert not looked  # all under the same noise
    run(["generate", str(BELL), "--to", "image,audio", "--steps", "1", "--adapter", ",v2a-mini", "-o", str(tmp_path / "chain")])
    assert looked == [4]
    looked.clear()
    run(["generate", str(BELL), "--to", "image,audio", "--steps", "1", "--score", "-o", str(tmp_path / "cycle")])
    assert not looked  # what CLIP chose would be judged by CLIP
    for given, status in (
        (["--windows", "1", "--candidates", "2"], 2),
        (["--adapter", "clipsonic-mini", "--to", "audio", "--candidates", "2"], 1),
        (["--to", "image,audio", "--memory", "8GB", "--candidates", "2"], 1),
    ):
        error: Any = SystemExit if status == 2 else ValueError
        with pytest.raises(error, match=None if status == 2 else "candidates"):
            run([*words[:2], "--to", "image", "-o", str(tmp_path / "none"), *given])
        assert not (tmp_path / "none").exists()  # said before anything is made


def test_normalization_is_the_rankers_own() -> None:
    """Towers that do not normalize rank as those that do."""
    torch.manual_seed(0)
    pixels, wanted = torch.rand(6, 3, 64, 64), F.normalize(torch.randn(2, 128), dim=-1)
    long = PictureRanker(ImageTower(card="mini"), TextTower(card="mini"))
    unit = PictureRanker(ImageTower(card="mini", normalize=True), TextTower(card="mini", normalize=True))
    assert torch.equal(long.best(pixels, wanted), unit.best(pixels, wanted))
    assert torch.allclose(long.read(["a bell"]), unit.read(["a bell"]), atol=1e-6)
