"""Stable Diffusion XL against tensors of diffusers' own pipeline (tests/golden/sdxl), from a folder, and what it refuses."""

from __future__ import annotations

import json
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tests.rounding import agree
from xmodal.foundation.stable_diffusion_xl import StableDiffusionXL, tiny

GOLDEN = Path(__file__).parent.parent / "golden"


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def tokenizer_of(told: dict[str, Any], pad: str) -> CLIPTokenizer:
    merges = [tuple(each.split()) if isinstance(each, str) else tuple(each) for each in told["merges"]]
    return CLIPTokenizer(vocab=told["vocab"], merges=merges, model_max_length=77, pad_token=pad)


def watched(scheduler: Any) -> list[Tensor]:
    """The latents after each step of a scheduler, as they come."""
    seen: list[Tensor] = []
    step = scheduler.step

    def watching(*given: Any, **options: Any) -> Any:
        made = step(*given, **options)
        seen.append(made.prev_sample)
        return made

    scheduler.step = watching
    watching.__signature__ = signature(step)  # type: ignore[attr-defined]
    return seen


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    return json.loads((GOLDEN / "sdxl.json").read_text())


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return load_file(GOLDEN / "sdxl.safetensors")


@pytest.fixture(scope="module")
def model(told: dict[str, Any], tensors: dict[str, Tensor]) -> StableDiffusionXL:
    first, second = CLIPTextConfig(**told["text_encoder"]), CLIPTextConfig(**told["text_encoder_2"])
    parts: dict[str, Any] = {
        "vae": AutoencoderKL(**told["vae"]),
        "unet": UNet2DConditionModel(**told["unet"]),
        "text_encoder": CLIPTextModel(first),
        "text_encoder_2": CLIPTextModelWithProjection(second),
    }
    for name, network in parts.items():
        state = part(tensors, f"{name}.")
        if name == "text_encoder":
            state = part(state, "text_model.")
        known = network.state_dict().keys()
        network.load_state_dict({key: value for key, value in state.items() if key in known or "position_ids" not in key})
    pads = {"tokenizer": "<|endoftext|>", "tokenizer_2": "!"}
    tokenizers = {name: tokenizer_of(told["tokenizer"], pad) for name, pad in pads.items()}
    return StableDiffusionXL.from_parts(**parts, **tokenizers, scheduler=DDIMScheduler(**told["scheduler"]))


def sizes(told: dict[str, Any], negative: bool = False) -> dict[str, Any]:
    names = ("original_size", "crops_coords_top_left", "target_size")
    found = {name: tuple(told[name]) for name in names}
    return found | ({f"negative_{name}": tuple(told[f"negative_{name}"]) for name in names} if negative else {})


def paint(
    model: Any, told: dict[str, Any], tensors: dict[str, Tensor], embeds: Tensor, kind: Any = DDIMScheduler, **more: Any
) -> Any:
    scheduler = kind.from_config(model.scheduler.config)
    seen = watched(scheduler)
    images = model.generate(
        embeds, num_inference_steps=told["num_inference_steps"], guidance_scale=told["guidance_scale"], scheduler=scheduler,
        latents=tensors["start_latents"], height=16, width=24, **more,
    )  # fmt: skip
    return torch.stack(seen), images


def test_prompts(model: StableDiffusionXL, told: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    for name, texts in (("plain", told["prompts"]), ("negative", told["negative_prompts"])):
        made = model.prompt_embeds(texts)
        close(made[:, :-1], tensors[f"{name}.prompt_embeds"], 5e-5)
        close(model.pooled(made), tensors[f"{name}.pooled"], 5e-5)
        assert not made[:, -1, 40:].any()
    ids = [model._token_ids(text, 0, model.tokenizer_2)[0] for text in told["prompts"]]
    assert ids == tensors["plain.input_ids_2"].tolist()


def test_one_call_of_the_unet(model: StableDiffusionXL, told: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    ids = model.time_ids(2, **sizes(told))
    assert torch.equal(ids, tensors["unet_call.time_ids"])
    embeds = model.prompt_embeds(told["prompts"])
    made = {}
    handle = model.unet.add_embedding.register_forward_hook(lambda _, given, out: made.update(condition=given[0], embedding=out))
    output = model._predict(tensors["unet_call.sample"], tensors["unet_call.timestep"], embeds, ids)
    handle.remove()
    close(made["condition"], tensors["unet_call.added_condition"], 3e-5)
    close(made["embedding"], tensors["unet_call.added_embedding"], 3e-5)
    close(output, tensors["unet_call.output"], 3e-5)


def test_pictures(model: StableDiffusionXL, told: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    embeds = model.prompt_embeds(told["prompts"])
    latents, images = paint(model, told, tensors, embeds, **sizes(told))
    close(latents, tensors["plain.latents"], 5e-4)
    close(images, tensors["plain.image"], 1e-4)
    negative = model.prompt_embeds(told["negative_prompts"])
    latents, images = paint(model, told, tensors, embeds, negative_prompt_embeds=negative, **sizes(told, negative=True))
    close(latents, tensors["plain_negative.latents"], 5e-4)  # each as alone, though they are one batch
    close(images, tensors["plain_negative.image"], 1e-4)
    latents, _ = paint(model, told, tensors, embeds, EulerDiscreteScheduler, **sizes(told))
    close(latents, tensors["plain_euler.latents"], 5e-4)


def test_the_pseudo_word(model: StableDiffusionXL, told: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    vectors = [tensors[f"word.vector_{place}"].clone().requires_grad_() for place in (1, 2)]
    prompts = [prompt.replace(told["word"], "{}") for prompt in told["word_prompts"]]
    embeds = model.prompt_embeds(prompts, torch.cat(vectors, -1))
    close(embeds[:, :-1], tensors["word.prompt_embeds"], 5e-5)
    close(model.pooled(embeds), tensors["word.pooled"], 5e-5)
    assert (model.pooled(embeds) - tensors["word.pooled_legacy_argmax"]).abs().max() > 1
    total = (embeds[:, :-1] * tensors["word.cotangent_prompt_embeds"]).sum()
    total = total + (model.pooled(embeds) * tensors["word.cotangent_pooled"]).sum()
    for gradient, place in zip(torch.autograd.grad(total, vectors, retain_graph=True), (1, 2), strict=True):
        close(gradient, tensors[f"word.grad_vector_{place}"], 5e-4)
    latents, images = paint(model, told, tensors, embeds.detach(), **sizes(told))
    close(latents, tensors["word.latents"], 5e-4)
    close(images, tensors["word.image"], 1e-4)


def test_training_through_it(model: StableDiffusionXL, told: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    vectors = [tensors[f"word.vector_{place}"].clone().requires_grad_() for place in (1, 2)]
    prompts = [prompt.replace(told["word"], "{}") for prompt in told["word_prompts"]]
    embeds, ids = model.prompt_embeds(prompts, torch.cat(vectors, -1)), model.time_ids(1, **sizes(told))
    train = part(tensors, "train.")
    losses = [
        model.loss(
            train["latents"][row : row + 1], embeds[row : row + 1], noise=train["noise"][row : row + 1],
            timesteps=train["timesteps"][row : row + 1], time_ids=ids,
        )
        for row in range(2)
    ]  # fmt: skip
    close(torch.stack(losses), train["loss"], 5e-6)
    for gradient, place in zip(torch.autograd.grad(sum(losses), vectors), (1, 2), strict=True):
        close(gradient, train[f"grad_vector_{place}"], 5e-6)


@pytest.mark.parametrize("count", [1, 3])
def test_the_eos_id_of_a_configuration_does_not_matter(count: int) -> None:
    made: Any = tiny()["StableDiffusionXL"]()
    token = torch.randn(2, count, made.token_dim, generator=torch.Generator().manual_seed(1))
    before = made.prompt_embeds(["a {} b", "{}"], token)
    made.text_encoder_2.config.eos_token_id = 2
    assert torch.equal(made.prompt_embeds(["a {} b", "{}"], token), before)
    alone = made.prompt_embeds(["{}"], token[1:])
    assert agree(alone, before[1:])


def test_a_folder(tmp_path: Path) -> None:
    made: Any = tiny()["StableDiffusionXL"]()
    names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler", "text_encoder_2", "tokenizer_2")
    parts = {name: getattr(made, name) for name in names}
    for name, one in parts.items():
        one.save_pretrained(tmp_path / name)
    loaded = StableDiffusionXL(str(tmp_path))
    assert loaded.fingerprint() == made.fingerprint()
    assert (loaded.token_dim, loaded.pooled_dim, loaded.image_size) == (40, 12, 32)
    half = StableDiffusionXL(str(tmp_path), dtype="float16")
    assert half.encode(torch.rand(1, 3, 32, 32, dtype=torch.float16))[0].isfinite().all()
    assert half.vae.dtype == torch.float32
    with pytest.raises(ValueError, match="needs text_encoder_2 and tokenizer_2"):
        StableDiffusionXL.from_parts(**{**parts, "text_encoder_2": None})
    with pytest.raises(ValueError, match="the text encoder gives 32 numbers a token, but the UNet reads 40"):
        StableDiffusionXL.from_parts(**{**parts, "text_encoder": CLIPTextModel(_smaller(parts["text_encoder"].config))})
    second = CLIPTextConfig.from_dict({**parts["text_encoder_2"].config.to_dict(), "projection_dim": 10})
    with pytest.raises(ValueError, match="six sizes of 24 in all, but the UNet reads 36"):
        StableDiffusionXL.from_parts(**{**parts, "text_encoder_2": CLIPTextModelWithProjection(second)})
    with pytest.raises(ValueError, match=r"\(1, 1, 16\), but expected \(1, k, 40\)"):
        made.prompt_embeds(["{}"], torch.zeros(1, 16))


def _smaller(config: Any) -> Any:
    return CLIPTextConfig.from_dict({**config.to_dict(), "hidden_size": 8})
