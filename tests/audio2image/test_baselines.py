"""The baselines of AudioToken's table: they fit, are saved and paint as any adapter; what cannot work is refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

import xmodal
from tests.test_matrix import painter, part
from tests.vision2audio.parts import Ears, Eyes
from xmodal.adapter_task import AdapterTask
from xmodal.audio2image import LabelText, LinearBridge, PictureSpace, SoundUnCLIP
from xmodal.foundation.base import Classifier
from xmodal.foundation.painter_parts import tiny_parts
from xmodal.foundation.stable_diffusion import StableDiffusion
from xmodal.foundation.stable_unclip import StableUnCLIP

RATE = 4_000
SOUNDS = 0.3 * torch.randn(6, RATE, generator=torch.Generator().manual_seed(1)).cumsum(-1).sin()


class Ear(Ears):
    """Six bands, which lie with the pictures of a CLIP."""

    picture_space = ""


class Namer(Ears, Classifier):
    """Calls loud sounds bells and others dogs."""

    labels = ["bell", "dog"]

    def class_logits(self, inputs: Tensor) -> Tensor:
        loud = inputs.abs().amax(-1)
        return torch.stack((loud - 0.1, 0.1 - loud), -1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable unCLIP of embeddings of six numbers, with statistics of its own."""
    from diffusers import DDPMScheduler
    from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer

    place = tmp_path_factory.mktemp("unclip")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        normalizer = StableUnCLIPImageNormalizer(6)
        normalizer.mean.data, normalizer.std.data = torch.randn(1, 6), torch.rand(1, 6) + 0.5
        parts = tiny_parts(class_embed_type="projection", projection_class_embeddings_input_dim=12)
    more = {"image_normalizer": normalizer, "image_noising_scheduler": DDPMScheduler(beta_schedule="squaredcos_cap_v2")}
    for name, one in {**parts, **more}.items():
        one.save_pretrained(place / name)
    return place


@pytest.fixture
def unclip(folder: Path) -> StableUnCLIP:
    return StableUnCLIP(str(folder))


def batch() -> dict[str, Any]:
    pixels = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    return {"waveform": SOUNDS, "pixels": pixels, "name": ["bell"] * 6, "id": list("abcdef")}


def fit(task: AdapterTask, steps: int = -1) -> Trainer:
    options: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=1, max_steps=steps, enable_checkpointing=False, **options)
    rows = [{name: values[row] for name, values in batch().items()} for row in range(6)]
    trainer.fit(task, DataLoader(rows, batch_size=2), DataLoader(rows, batch_size=3))  # type: ignore[arg-type]
    return trainer


def task(unclip: StableUnCLIP, **options: Any) -> SoundUnCLIP:
    return SoundUnCLIP(Ear(), unclip, seconds=1.0, num_inference_steps=2, guidance_scale=1.0, **options)


@pytest.mark.parametrize("match", ["length", "mean", "moments"])
@pytest.mark.parametrize("target", [None, partial(Eyes, 6)], ids=["painter's statistics", "own statistics"])
def test_a_fit_gathers_statistics_and_trains_nothing(unclip: StableUnCLIP, match: Any, target: Any) -> None:
    made = task(unclip, adapter=partial(PictureSpace, match=match), target=target)
    before = made.generator.fingerprint()
    fit(made)
    assert made.generator.fingerprint() == before
    assert not list(made.adapter.parameters())
    heard = F.normalize(Ear().embed(SOUNDS), dim=-1)
    seen = None if target is None or match == "length" else made.target.embed(batch()["pixels"])
    mean = unclip.embedding_mean[0] if seen is None else seen.mean(0)
    std = unclip.embedding_std[0] if seen is None else seen.std(0, correction=0)
    length = (mean.square() + std.square()).sum().sqrt()
    expected = {
        "length": heard * length,
        "mean": (heard - heard.mean(0)) * length + mean,
        "moments": (heard - heard.mean(0)) / heard.std(0, correction=0) * std + mean,
    }[match]
    torch.testing.assert_close(made.adapter(3 * heard), expected, rtol=1e-3, atol=1e-4)


def test_without_its_statistics_it_refuses(unclip: StableUnCLIP) -> None:
    made = task(unclip, adapter=partial(PictureSpace, match="mean"))
    with pytest.raises(ValueError, match="needs the statistics of sounds.*xmodal fit"):
        made.pipeline()(SOUNDS[0], sampling_rate=RATE)


def test_it_is_saved_and_loaded_as_any_adapter(unclip: StableUnCLIP, folder: Path, tmp_path: Path) -> None:
    made = task(unclip, adapter=partial(PictureSpace, match="mean"))
    fit(made)
    made.save_adapter(tmp_path / "one")
    pipe = xmodal.pipeline(tmp_path / "one")
    assert type(pipe).__name__ == "SoundUnCLIPPipeline"
    noise = [torch.Generator().manual_seed(0)]
    found = pipe(SOUNDS[0], sampling_rate=RATE, generator=noise, output_type="pt")
    noise = [torch.Generator().manual_seed(0)]
    own = made.pipeline()(SOUNDS[0], sampling_rate=RATE, generator=noise, output_type="pt")
    torch.testing.assert_close(found.images, own.images, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.tokens, own.tokens)
    other = pipe(SOUNDS[0], sampling_rate=RATE, generator=[torch.Generator().manual_seed(0)], prompt="a dog", output_type="pt")
    assert not torch.equal(other.images, found.images)
    with pytest.raises(ValueError, match=r"must hold no \{\}"):
        pipe(SOUNDS[0], sampling_rate=RATE, prompt="a photo of {}")


@pytest.mark.parametrize("objective", ["denoising", "embedding"])
def test_a_bridge_learns(unclip: StableUnCLIP, objective: Any) -> None:
    made = task(unclip, adapter=LinearBridge, target=partial(Eyes, 6), objective=objective, optimizer=torch.optim.SGD)
    before = made.adapter.linear.weight.clone()
    fit(made, steps=2)
    assert not torch.equal(before, made.adapter.linear.weight)
    assert made.make(batch(), [0, 1], [torch.Generator(), torch.Generator()]).images[0].size == (32, 32)


def test_other_spaces_are_refused(unclip: StableUnCLIP) -> None:
    def spaced(heard: str | None, seen: str) -> SoundUnCLIP:
        ear = Ear()
        ear.picture_space, unclip.picture_space = heard, seen
        return SoundUnCLIP(ear, unclip)

    spaced("clip:a", "clip:a")
    spaced("", "clip:a")
    with pytest.raises(ValueError, match="hears in the space of clip:a, but the painter sees in that of clip:b"):
        spaced("clip:a", "clip:b")
    with pytest.raises(ValueError, match="does not lie with pictures: take Wav2CLIP.*LinearBridge"):
        spaced(None, "clip:b")
    with pytest.raises(ValueError, match="from size 8 to size 6: an audio embedding of 8 numbers .*LinearBridge"):
        SoundUnCLIP(part("imagebind.AudioTower"), unclip)
    with pytest.raises(ValueError, match="embeddings of 5 numbers, but the painter reads 6"):
        _ = SoundUnCLIP(Ear(), unclip, target=Eyes).target
    with pytest.raises(ValueError, match="not denoising, nor embedding with a target"):
        SoundUnCLIP(Ear(), unclip, LinearBridge, objective="embedding")


def test_the_published_parts_name_their_spaces() -> None:
    from xmodal.foundation import imagebind, pe_av, stable_unclip, wav2clip

    assert imagebind.SPACES["huge"] == stable_unclip.SPACES["sd-2.1-unclip"] == "clip:vit-h-14"
    assert wav2clip.SPACES["wav2clip"] not in stable_unclip.SPACES.values()
    assert pe_av.AudioTower.picture_space not in stable_unclip.SPACES.values()
    for spaces, cards in ((each.SPACES, each.CARDS) for each in (imagebind, stable_unclip, wav2clip)):
        assert spaces.keys() <= cards.keys()


def test_the_ceiling_is_the_painter_told_the_label() -> None:
    sd: StableDiffusion = painter()
    made = LabelText(sd, num_inference_steps=2, guidance_scale=1.0)
    fit(made)
    told = made.make({"name": ["bell", "hot_dog"]}, [0, 1], [torch.Generator().manual_seed(i) for i in (4, 5)])
    embeds = sd.prompt_embeds(["a photo of hot dog"])
    expected = sd.generate(embeds, num_inference_steps=2, guidance_scale=1.0, generator=[torch.Generator().manual_seed(5)])
    found = torch.tensor(list(told.images[1].tobytes())).view(32, 32, 3).permute(2, 0, 1) / 255
    torch.testing.assert_close(found, expected[0], rtol=0, atol=2 / 255)
    with pytest.raises(ValueError, match="the data names no labels"):
        made.make({"waveform": SOUNDS}, [0], [torch.Generator()])
    with pytest.raises(ValueError, match="no label was given.*give labels"):
        made.pipeline()(SOUNDS[0], sampling_rate=RATE)


def test_an_ear_that_names_needs_no_label() -> None:
    made = LabelText(painter(), Namer(), told=False, seconds=1.0, num_inference_steps=2, guidance_scale=1.0)
    quiet = 0.01 * SOUNDS[:1]
    assert made.names({"waveform": torch.cat((SOUNDS[:1], quiet))}, [0, 1]) == ["bell", "dog"]
    options: dict[str, Any] = {"sampling_rate": RATE, "output_type": "pt"}
    pipe = made.pipeline()
    heard, told = (
        pipe(quiet[0], generator=[torch.Generator().manual_seed(0)], labels=labels, **options).images for labels in (None, "dog")
    )
    torch.testing.assert_close(heard, told)
    assert not torch.equal(told, pipe(quiet[0], generator=[torch.Generator().manual_seed(0)], labels="bell", **options).images)
    with pytest.raises(ValueError, match="told: false|whose weights name classes"):
        LabelText(painter(), told=False)
    Namer.labels, former = ["/m/1", "/m/2"], Namer.labels
    try:
        with pytest.raises(ValueError, match="names classes by codes such as '/m/"):
            pipe(quiet[0], sampling_rate=RATE)
    finally:
        Namer.labels = former
