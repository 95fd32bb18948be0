"""What several pseudo-words are bound to, and what the miniature tells of its sounds."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import xmodal
from tests.test_matrix import painter, part
from tests.vision2audio.parts import Ears
from xmodal.audio2image import AudioToken, AudioTokenEmbedder
from xmodal.audio2image.losses import classification_loss
from xmodal.foundation.lora import LoRA
from xmodal.foundation.painter_parts import tiny_parts
from xmodal.foundation.stable_diffusion import StableDiffusion
from xmodal.miniature import world
from xmodal.miniature.data import Clips


def task(num_tokens: int) -> AudioToken:
    adapter = partial(AudioTokenEmbedder, num_tokens=num_tokens)
    return AudioToken(part("beats.BEATs"), painter(), adapter, classification_weight=1.0, classification_target="phrase")


def test_pseudo_words_are_bound_to_a_labels_last_words() -> None:
    made = task(3)
    token = torch.randn(3, 3, made.generator.token_dim)
    bound, words = made._bound(token, ["bell", "two_large bells", "one very small bell"])
    assert torch.equal(bound, token[[0, 1, 1, 1, 2, 2, 2], [2, 0, 1, 2, 0, 1, 2]])
    expected = made.generator.label_embeds(["bell", "two", "large", "bells", "very", "small", "bell"])
    assert torch.equal(words, expected)
    perfect = made.generator.label_embeds(["very", "small", "bell"])[None]
    assert float(classification_loss(*made._bound(perfect, ["one very small bell"]))) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="has no tokens"):
        made._bound(token, ["bell", "", "bell"])


def test_one_pseudo_word_is_bound_to_the_whole_label() -> None:
    made = task(1)
    token = torch.randn(2, made.generator.token_dim)
    bound, words = made._bound(token, ["two large bells", "bell"])
    assert bound is token
    assert torch.equal(words, made.generator.label_embeds(["two large bells", "bell"]))


def test_the_loss_reads_the_target_that_was_named() -> None:
    made = task(2).eval()
    batch = {"waveform": torch.randn(2, 16_000), "pixels": torch.rand(2, 3, 32, 32)}
    terms = made.losses({**batch, "phrase": ["two bells", "one dog"], "name": ["x", "x"]})
    assert float(terms["classification"]) > 0
    with pytest.raises(KeyError, match="phrase"):
        made.losses({**batch, "name": ["bell", "dog"]})


def test_the_world_tells_what_is_heard_in_few_words() -> None:
    clips = Clips("train", 40, ("phrase", "name"))
    for index in range(40):
        number, size, *_ = clips[index]["phrase"].split()
        clip = world.sample("train", index)
        assert (number, size) == ({1: "one", 2: "two", 3: "three"}[clip.count], clip.size)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sd")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, one in tiny_parts().items():
            one.save_pretrained(place / name)
    return place


def test_low_rank_weights_are_trained_beside_the_embedder_and_saved_with_it(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = AudioToken(Ears(), StableDiffusion(str(folder)), lora_rank=2, seconds=1.0, num_inference_steps=2)
    before = made.generator.fingerprint()
    batch = {"waveform": torch.rand(2, 4_000) - 0.5, "pixels": torch.rand(2, 3, 32, 32)}
    optimizer: Any = made.configure_optimizers()
    for group in optimizer.param_groups:
        group["lr"] = 0.05
    for _ in range(2):
        optimizer.zero_grad()
        torch.stack(list(made.losses(batch).values())).sum().backward()
        optimizer.step()
    assert made.generator.fingerprint() == before
    assert all(value.any() for value in made.adapter.low_rank.state_dict().values())
    made.save_adapter(tmp_path / "lora")

    options: dict[str, Any] = {"sampling_rate": 4_000, "output_type": "pt", "guidance_scale": 1.0}
    own = made.pipeline()(batch["waveform"][0], generator=[torch.Generator().manual_seed(1)], **options).images
    pipe = xmodal.pipeline(tmp_path / "lora")
    found = pipe(batch["waveform"][0], generator=[torch.Generator().manual_seed(1)], **options)
    torch.testing.assert_close(found.images, own, rtol=0, atol=1e-4)
    # diffusers' file, merged into the bare painter, is the same; without it the picture is another
    file = tmp_path / "lora" / "pytorch_lora_weights.safetensors"
    assert all(key.startswith("unet.") and ".lora." in key for key in load_file(file))
    bare = StableDiffusion(str(folder))
    embeds = bare.prompt_embeds(["a photo of {}"], found.tokens)
    call: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 1.0}
    without = bare.generate(embeds, generator=[torch.Generator().manual_seed(1)], **call)
    assert LoRA.read(file).merge(bare.unet) == len(bare.projections())
    merged = bare.generate(embeds, generator=[torch.Generator().manual_seed(1)], **call)
    torch.testing.assert_close(merged, own, rtol=0, atol=1e-4)
    assert not torch.allclose(without, own, atol=1e-3)
    bare.enable_gradient_checkpointing()
    with pytest.raises(ValueError, match="gradient checkpointing cannot go together"):
        AudioToken(Ears(), bare, lora_rank=2)
