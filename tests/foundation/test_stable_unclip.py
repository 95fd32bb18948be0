"""Stable unCLIP against diffusers' own pipeline, from a folder, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tests.foundation.test_stable_diffusion_xl import watched
from tests.rounding import agree
from xmodal.diffusion.sampling import draw_noise
from xmodal.foundation.painter_parts import tiny_parts
from xmodal.foundation.stable_unclip import StableUnCLIP

LABELS = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 24}


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        normalizer = StableUnCLIPImageNormalizer(12)
        normalizer.mean.data, normalizer.std.data = torch.randn(1, 12), torch.rand(1, 12) + 0.5
        noising = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
        return {**tiny_parts(**LABELS), "image_normalizer": normalizer, "image_noising_scheduler": noising}


@pytest.fixture(scope="module")
def model(parts: dict[str, Any]) -> StableUnCLIP:
    return StableUnCLIP.from_parts(**parts)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("level", "scale"), [(0, 1.0), (300, 5.0)])
def test_it_is_diffusers_pipeline(model: StableUnCLIP, parts: dict[str, Any], level: int, scale: float) -> None:
    from diffusers import StableUnCLIPImg2ImgPipeline
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

    scheduler = DDIMScheduler.from_config(parts["scheduler"].config)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    eye = CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes, image_size=8, patch_size=8, projection_dim=12))
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    eye = CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes, image_size=8, patch_size=8, projection_dim=12))
    rest = {"feature_extractor": CLIPImageProcessorPil(), "image_encoder": eye, "scheduler": scheduler}
    pipe = StableUnCLIPImg2ImgPipeline(**parts | rest)
    pipe.set_progress_bar_config(disable=True)
    prompts, empty, seen = model.prompt_embeds(["a b", "c"]), model.prompt_embeds([""]), torch.randn(2, 12, generator=seeded(1))
    options: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": scale, "noise_level": level}
    known = pipe(
        image_embeds=seen, prompt_embeds=prompts, negative_prompt_embeds=empty.expand(2, -1, -1), generator=seeded(2),
        output_type="pt", height=32, width=32, **options,
    ).images  # fmt: skip
    made = model.generate(prompts, empty, image_embedding=seen, scheduler=scheduler, generator=seeded(2), **options)
    torch.testing.assert_close(made, known.float(), rtol=1e-5, atol=1e-5)
    assert ((made > 0) & (made < 1)).float().mean() > 0.5  # most of it is not merely black or white


def test_the_embedding_is_seen(model: StableUnCLIP) -> None:
    prompts, seen = model.prompt_embeds(["a"]), torch.randn(1, 12, generator=seeded(1)) * 5
    options: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 1.0}
    blind = model.generate(prompts, generator=seeded(3), **options)
    assert not torch.allclose(blind, model.generate(prompts, generator=seeded(3), image_embedding=seen, **options), atol=1e-4)
    assert agree(blind, model.generate(prompts, generator=seeded(3), **options))


def test_a_folder(model: StableUnCLIP, parts: dict[str, Any], tmp_path: Path) -> None:
    for name, part in parts.items():
        part.save_pretrained(tmp_path / name)
    loaded = StableUnCLIP(str(tmp_path))
    assert loaded.fingerprint() == model.fingerprint()
    assert (loaded.embedding_dim, loaded.token_dim, loaded.image_size) == (12, 16, 32)
    (tmp_path / "image_normalizer" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"image_normalizer/config.json does not exist"):
        StableUnCLIP(str(tmp_path))


def test_what_cannot_work(model: StableUnCLIP, parts: dict[str, Any]) -> None:
    prompts = model.prompt_embeds(["a"])
    with pytest.raises(ValueError, match=r"\(1, 7\), noise_level 0: expected \(B, 12\)"):
        model.generate(prompts, image_embedding=torch.zeros(1, 7))
    with pytest.raises(ValueError, match="noise_level 1000: expected .* from 0 to 999"):
        model.generate(prompts, image_embedding=torch.zeros(1, 12), noise_level=1000)
    with pytest.raises(ValueError, match="2 image embeddings and 1 prompt embeddings"):
        model.generate(prompts, image_embedding=torch.zeros(2, 12))
    with pytest.raises(ValueError, match="reads labels of 24 numbers, but image_normalizer is for embeddings of 5"):
        StableUnCLIP.from_parts(**{**parts, "image_normalizer": StableUnCLIPImageNormalizer(5)})
    with pytest.raises(ValueError, match="needs image_normalizer and image_noising_scheduler"):
        StableUnCLIP.from_parts(**{**parts, "image_normalizer": None})
    with pytest.raises(ValueError, match="labels of None numbers"):
        StableUnCLIP.from_parts(**{**parts, **tiny_parts()})


# Against tensors of diffusers' own pipeline, with the gradient to the embedding

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture(scope="module")
def golden() -> tuple[StableUnCLIP, dict[str, Any], dict[str, torch.Tensor]]:
    told, tensors = json.loads((GOLDEN / "unclip.json").read_text()), load_file(GOLDEN / "unclip.safetensors")
    normalizer = StableUnCLIPImageNormalizer(**told["image_normalizer"])
    parts: dict[str, Any] = {
        "vae": AutoencoderKL(**told["vae"]),
        "unet": UNet2DConditionModel(**told["unet"]),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**told["text_encoder"])),
        "image_normalizer": normalizer,
    }
    for name, network in parts.items():
        prefix = "text_encoder.text_model." if name == "text_encoder" else f"{name}."
        found = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        network.load_state_dict({key: value for key, value in found.items() if "position_ids" not in key})
    merges = [tuple(each.split()) if isinstance(each, str) else tuple(each) for each in told["tokenizer"]["merges"]]
    tokenizer = CLIPTokenizer(vocab=told["tokenizer"]["vocab"], merges=merges, model_max_length=77, pad_token="!")
    schedules = {
        "scheduler": DDIMScheduler(**told["scheduler"]),
        "image_noising_scheduler": DDPMScheduler(**told["image_noising_scheduler"]),
    }
    return StableUnCLIP.from_parts(**parts, tokenizer=tokenizer, **schedules), told, tensors


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def test_golden_labels_and_call(golden: tuple[StableUnCLIP, dict[str, Any], dict[str, torch.Tensor]]) -> None:
    model, told, tensors = golden
    seen, noise = tensors["image_embeds"], tensors["embed_noise"]
    close((seen - model.embedding_mean) / model.embedding_std, tensors["normalised_embeds"], 3e-6)
    for level in told["noise_levels"]:
        close(model.labels(seen, level, noise=noise), tensors[f"class_labels.level_{level}"], 3e-6)
    close(draw_noise(noise.shape, seeded(321)), noise, 1e-6)  # the last bits are the processor's
    embeds = model.prompt_embeds(told["prompts"])
    close(embeds, tensors["prompt_embeds"], 3e-5)
    close(model.prompt_embeds(told["negative_prompts"]), tensors["negative_prompt_embeds"], 3e-5)
    labels = model.labels(seen, told["noise_level"], noise=noise)
    close(model.unet.class_embedding(labels), tensors["unet_call.class_embedding"], 3e-5)
    output = model._predict(tensors["unet_call.sample"], tensors["unet_call.timestep"], embeds, labels)
    close(output, tensors["unet_call.output"], 3e-5)


@pytest.mark.parametrize("prompted", [True, False])
def test_golden_pictures(golden: tuple[StableUnCLIP, dict[str, Any], dict[str, torch.Tensor]], prompted: bool) -> None:
    model, told, tensors = golden
    embeds = model.prompt_embeds(told["prompts"] if prompted else ["", ""])
    negative = model.prompt_embeds(told["negative_prompts"]) if prompted else None
    scheduler = DDIMScheduler(**told["scheduler"])
    seen = watched(scheduler)
    images = model.generate(
        embeds, negative, num_inference_steps=3, guidance_scale=5.0, height=16, width=24, scheduler=scheduler,
        latents=tensors["start_latents"], image_embedding=tensors["image_embeds"], noise_level=told["noise_level"],
        generator=seeded(321),
    )  # fmt: skip
    name = "" if prompted else "no_prompt."
    close(torch.stack(seen), tensors[f"{name}latents"], 2e-4)
    close(images, tensors[f"{name}image"], 1e-4)


def test_golden_training(golden: tuple[StableUnCLIP, dict[str, Any], dict[str, torch.Tensor]]) -> None:
    model, told, tensors = golden
    seen = tensors["image_embeds"].clone().requires_grad_()
    loss = model.loss(
        tensors["train.latents"], model.prompt_embeds(told["prompts"]), noise=tensors["train.noise"],
        timesteps=tensors["train.timesteps"], image_embedding=seen, noise_level=told["noise_level"],
        embedding_noise=tensors["embed_noise"],
    )  # fmt: skip
    close(loss[None], tensors["train.loss"], 1e-6)
    close(torch.autograd.grad(loss, seen)[0], tensors["train.grad_image_embeds"], 1e-7)
