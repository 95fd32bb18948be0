"""Stable Diffusion against tensors of AudioToken's public code (tests/golden), its loader, and its promises."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.rounding import agree
from tests.tiny import tiny_sd_parts, tiny_stable_diffusion, tiny_tokenizer, tiny_vocabulary
from xmodal.audio2image import AudioTokenEmbedder
from xmodal.audio2image.losses import l1_loss
from xmodal.foundation.base import ImageGenerator
from xmodal.foundation.lora import LoRA
from xmodal.foundation.stable_diffusion import CARDS, StableDiffusion

GOLDEN = Path(__file__).parent.parent / "golden"
WORD = {index: token.removesuffix("</w>") for token, index in tiny_vocabulary()[0].items()}


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def load_text(model: StableDiffusion, tensors: dict[str, Tensor], prefix: str) -> None:
    state = part(tensors, f"{prefix}text_model.")
    state.pop("embeddings.position_ids")
    model.text_encoder.load_state_dict(state)


def prompts_of(ids: Tensor) -> list[str]:
    """Write the sentences that the tiny tokenizer turns into these ids (49408 is the public code's placeholder)."""
    return [" ".join("{}" if i == 49408 else WORD[i] for i in row if i not in (60, 61)) for row in ids.tolist()]


def golden(name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"audiotoken_{name}.safetensors")


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    return tiny_stable_diffusion()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder in the form of the shipped one: standard layout, float16 safetensors."""
    from diffusers import StableDiffusionPipeline

    parts = tiny_sd_parts()
    halves = {name: value.half() if name in ("vae", "unet", "text_encoder") else value for name, value in parts.items()}
    options = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    path = tmp_path_factory.mktemp("sd") / "folder"
    StableDiffusionPipeline(**halves, **options).save_pretrained(path)
    return path


# Against the public code


def test_spliced_prompt_equals_the_public_code() -> None:
    tensors, model = golden("text_injection"), tiny_stable_diffusion()
    load_text(model, tensors, "state.")
    token = tensors["audio_token"].requires_grad_()
    table = model.text_encoder.get_input_embeddings().weight.clone()
    prompts = prompts_of(tensors["input_ids"])
    embeds = model.prompt_embeds(prompts, token)
    (embeds * tensors["cotangent"]).sum().backward()
    close(embeds, tensors["output"], 2e-5)
    close(token.grad, tensors["grad.audio_token"], 5e-5)
    assert torch.equal(table, model.text_encoder.get_input_embeddings().weight)
    assert not torch.allclose(model.prompt_embeds(prompts, token.flip(0)), tensors["output"], atol=1e-2)


def before_step(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The embedder before the golden step.

    The fixture's ``embedder.*`` were stored after the step (they equal ``after_step.embedder.*``), so AdamW's first
    update is taken back with the fixture's own gradients; that the result gives ``audio_token`` proves it right.
    """
    lr, decay, eps = 1.6e-4, 0.01, 1e-8
    after, grad = part(tensors, "after_step.embedder."), part(tensors, "grad.embedder.")
    steps = {key: lr * value.double() / (value.double().abs() + eps) for key, value in grad.items()}
    return {key: ((after[key].double() + step) / (1 - lr * decay)).float() for key, step in steps.items()}


def golden_step() -> tuple[dict[str, Tensor], StableDiffusion, AudioTokenEmbedder]:
    tensors, model, embedder = golden("train_step"), tiny_stable_diffusion(), AudioTokenEmbedder(72, 32, dropout=0.0)
    load_text(model, tensors, "text.")
    model.unet.load_state_dict(part(tensors, "unet."))
    embedder.load_state_dict(before_step(tensors))
    return tensors, model, embedder


def test_training_step_equals_the_public_code() -> None:
    tensors, model, embedder = golden_step()
    optimizer = torch.optim.AdamW(embedder.parameters(), lr=1.6e-4, weight_decay=0.01)
    token = embedder(tensors["features"])
    embeds = model.prompt_embeds(prompts_of(tensors["input_ids"]), token)
    denoising = model.loss(tensors["latents"], embeds, noise=tensors["noise"], timesteps=tensors["timesteps"])
    loss = denoising + 0.01 * l1_loss(token)
    loss.backward()
    close(token, tensors["audio_token"], 2e-5)
    close(embeds, tensors["encoder_hidden_states"], 2e-5)
    close(denoising, tensors["loss_ldm"][0], 1e-6)
    close(loss, tensors["loss"][0], 1e-6)
    optimizer.step()
    for name, parameter in embedder.named_parameters():
        if name == "fga.un_models.0.feature_reduce.bias":
            continue  # softmax ignores it: its gradient is rounding noise
        close(parameter.grad, tensors[f"grad.embedder.{name}"], 5e-5)
        # Adam's first step is lr * sign(gradient): a gradient that rounds to either side of zero moves 2 * lr
        firm = tensors[f"grad.embedder.{name}"].abs() > 1e-6
        close(parameter.detach()[firm], tensors[f"after_step.embedder.{name}"][firm], 2e-6)


def test_frozen_parts_receive_no_gradient_and_save_nothing() -> None:
    tensors, model, embedder = golden_step()
    embeds = model.prompt_embeds(prompts_of(tensors["input_ids"]), embedder(tensors["features"]))
    model.train().loss(tensors["latents"], embeds).backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.state_dict()
    assert not model.unet.training


def test_merged_lora_equals_the_public_code() -> None:
    step, model, _ = golden_step()
    tensors = golden("lora")
    before = model.unet.conv_in.weight.clone()
    assert LoRA.of(part(tensors, "lora."), Path("lora")).merge(model.unet) == 32
    noisy = step["noisy_latents"]
    found = model.unet(noisy, step["timesteps"], encoder_hidden_states=step["encoder_hidden_states"]).sample
    close(found, tensors["model_pred"], 2e-5)
    assert torch.equal(before, model.unet.conv_in.weight)


# Text


def test_places_start_end_and_padding(model: StableDiffusion) -> None:
    ids, place = model._token_ids("a dog of {}, the photo", 1)
    plain = model.tokenizer("a dog of", add_special_tokens=False).input_ids
    after = model.tokenizer(", the photo", add_special_tokens=False).input_ids
    assert (ids[0], place) == (60, 1 + len(plain))
    assert ids[: place + 1 + len(after) + 1] == [60, *plain, 60, *after, 61]
    assert ids[place + 2 + len(after) :] == [61] * (77 - place - 2 - len(after))


def test_padding_is_the_tokenizers_own() -> None:
    parts = tiny_sd_parts()
    parts["tokenizer"] = tiny_tokenizer(pad_token="z")  # as Stable Diffusion 2 pads with a word, not with the end
    ids, _ = StableDiffusion.from_parts(**parts)._token_ids("a", 0)
    assert ids[1:4] == [5, 61, parts["tokenizer"].pad_token_id]
    assert parts["tokenizer"].pad_token_id != 61


def test_plain_prompts_equal_the_tokenizer(model: StableDiffusion) -> None:
    prompts = ["a dog of the photo, 4k.", ""]
    ids = model.tokenizer(prompts, padding="max_length", return_tensors="pt").input_ids
    assert agree(model.prompt_embeds(prompts), model.text_encoder(ids).last_hidden_state)


def test_a_words_own_embedding_spliced_gives_the_plain_prompt(model: StableDiffusion) -> None:
    token = model.label_embeds(["dog"])
    close(model.prompt_embeds(["a photo of {}, 4k"], token), model.prompt_embeds(["a photo of dog, 4k"]), 1e-6)


def test_several_words_own_embeddings_give_the_plain_prompts(model: StableDiffusion) -> None:
    prompts, words, table = ["a photo of {}, 4k", "the {}"], ["a b c", "g a f"], model.text_encoder.get_input_embeddings().weight
    ids = torch.tensor([model.tokenizer(word, add_special_tokens=False).input_ids for word in words])
    tokens, plain = table[ids], [prompt.format(word) for prompt, word in zip(prompts, words, strict=True)]
    assert tokens.shape == (2, 3, 32)
    close(model.prompt_embeds(prompts, tokens), model.prompt_embeds(plain), 1e-6)


@pytest.mark.parametrize(
    ("prompts", "tokens", "words"),
    [
        (["a {}"], torch.zeros(2, 32), r"\(2, 1, 32\).*\(1, k, 32\)"),
        (["a {}"], torch.zeros(1, 31), r"\(1, 1, 31\).*\(1, k, 32\)"),
        (["a {}"], torch.zeros(32), r"\(32,\).*\(1, k, 32\)"),
        (["a {}"], torch.zeros(1, 0, 32), r"\(1, 0, 32\).*\(1, k, 32\)"),
        (["a " * 74 + "{}"], torch.zeros(1, 2, 32), "78 tokens.*77"),
        (["a dog"], torch.zeros(1, 32), "holds 0"),
        (["{} and {}"], torch.zeros(1, 32), "holds 2"),
        (["a {}"], None, "holds 1"),
        (["a " * 75 + "{}"], torch.zeros(1, 32), "78 tokens.*77"),
        (["a " * 76], None, "78 tokens.*77"),
    ],
)
def test_prompt_errors(model: StableDiffusion, prompts: list[str], tokens: Tensor | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        model.prompt_embeds(prompts, tokens)
    assert not model.text_encoder.get_input_embeddings()._forward_hooks


def test_longest_prompt_fits(model: StableDiffusion) -> None:
    assert model.prompt_embeds(["a " * 74 + "{}"], torch.zeros(1, 32)).shape == (1, 77, 32)


def test_label_embeddings_are_means_of_rows(model: StableDiffusion) -> None:
    table = model.text_encoder.get_input_embeddings().weight
    close(model.label_embeds(["a", "b c"]), torch.stack([table[5], (table[6] + table[7]) / 2]), 0)
    with pytest.raises(ValueError, match="label ' ' has no tokens"):
        model.label_embeds(["a", " "])


# Pictures


def test_encode_is_the_posterior_and_builds_no_graph(model: StableDiffusion) -> None:
    pixels = torch.rand(2, 3, 32, 64, requires_grad=True)
    mean, logvar = model.encode(pixels)
    posterior = model.vae.encode(pixels * 2 - 1).latent_dist
    assert mean.shape == (2, 4, 16, 32)
    assert not mean.requires_grad
    close(mean, posterior.mean.detach(), 1e-6)
    close(logvar, posterior.logvar.detach(), 1e-6)
    assert model.scaling_factor == model.vae.config.scaling_factor == 0.18215
    assert (model.image_size, model.token_dim) == (32, 32)
    with pytest.raises(ValueError, match="height 31"):
        model.encode(torch.rand(1, 3, 31, 32))


def test_loss_follows_the_prediction_type() -> None:
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 2, 4, 8, 8, generator=generator)
    timesteps = torch.tensor([37, 811])
    for kind in ("epsilon", "v_prediction"):
        model = tiny_stable_diffusion(prediction_type=kind)
        embeds = model.prompt_embeds(["a", "dog"])
        kept = model.noise_scheduler.alphas_cumprod[timesteps][:, None, None, None]
        noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
        target = noise if kind == "epsilon" else kept.sqrt() * noise - (1 - kept).sqrt() * latents
        expected = (model.unet(noisy, timesteps, embeds).sample - target).square().mean()
        close(model.loss(latents, embeds, noise=noise, timesteps=timesteps), expected, 1e-6)


def test_loss_repeats_under_a_generator(model: StableDiffusion) -> None:
    embeds, latents = model.prompt_embeds(["a"]), torch.zeros(1, 4, 8, 8)
    first, second = (model.loss(latents, embeds, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first == second != model.loss(latents, embeds, torch.Generator().manual_seed(4))
    with pytest.raises(ValueError, match="1 latents and 2"):
        model.loss(latents, model.prompt_embeds(["a", "b"]))


def test_loss_under_autocast_is_float32_and_near(model: StableDiffusion) -> None:
    token = torch.full((1, 32), 0.1, requires_grad=True)
    options = {"noise": torch.ones(1, 4, 8, 8), "timesteps": torch.tensor([500])}
    exact = model.loss(torch.zeros(1, 4, 8, 8), model.prompt_embeds(["a {}"], token), **options)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(torch.zeros(1, 4, 8, 8), model.prompt_embeds(["a {}"], token), **options)
    loss.backward()
    assert loss.dtype == torch.float32
    assert abs(loss - exact) < 0.02
    assert token.grad.isfinite().all()


def test_gradient_checkpointing_changes_nothing_but_memory() -> None:
    grads = []
    for checkpointing in (False, True):
        model = tiny_stable_diffusion()
        if checkpointing:
            model.enable_gradient_checkpointing()
        assert model.unet.is_gradient_checkpointing == checkpointing
        token = torch.full((1, 32), 0.1, requires_grad=True)
        embeds = model.prompt_embeds(["a {}"], token)
        model.loss(torch.ones(1, 4, 8, 8), embeds, torch.Generator().manual_seed(0)).backward()
        grads.append(token.grad)
    close(grads[0], grads[1], 1e-7)


def test_a_pictures_own_generator_makes_it_independent_of_the_batch(model: StableDiffusion) -> None:
    from diffusers import DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler

    embeds = model.prompt_embeds(["a", "dog", "of"])
    drawing = DPMSolverMultistepScheduler.from_config(model.scheduler.config, algorithm_type="sde-dpmsolver++")
    for scheduler in (None, drawing, EulerAncestralDiscreteScheduler.from_config(model.scheduler.config)):
        options = {"num_inference_steps": 4, "scheduler": scheduler}
        many = model.generate(embeds, generator=[torch.Generator().manual_seed(i) for i in range(3)], **options)
        alone = model.generate(embeds[1:2], generator=[torch.Generator().manual_seed(1)], **options)
        close(many[1:2], alone, 1e-4)
        assert many.shape == (3, 3, 32, 32)
        assert 0 <= many.min() < many.max() <= 1
        assert (many[0] - many[1]).abs().max() > 1e-2


def test_generation_equals_the_diffusers_pipeline(model: StableDiffusion) -> None:
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline

    parts = tiny_sd_parts()
    for scheduler in (
        model.default_scheduler(),
        DPMSolverMultistepScheduler.from_config(parts["scheduler"].config, algorithm_type="sde-dpmsolver++"),
        parts["scheduler"],
        DDIMScheduler.from_config(parts["scheduler"].config, clip_sample=False),
    ):
        parts["scheduler"] = scheduler
        options = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipe = StableDiffusionPipeline(**parts, **options)
        pipe.set_progress_bar_config(disable=True)
        common = {"num_inference_steps": 5, "guidance_scale": 3.0, "height": 32, "width": 48}
        expected = pipe("a dog", negative_prompt="of", generator=torch.Generator().manual_seed(5), output_type="pt", **common)
        found = model.generate(
            model.prompt_embeds(["a dog"]), model.prompt_embeds(["of"]),
            generator=torch.Generator().manual_seed(5), scheduler=scheduler, **common,
        )  # fmt: skip
        close(found, expected.images, 1e-4)


def test_guidance(model: StableDiffusion) -> None:
    embeds, calls = model.prompt_embeds(["a", "dog"]), []
    hook = model.unet.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    options: dict[str, Any] = {"num_inference_steps": 2}

    def run(**more: Any) -> Tensor:
        return model.generate(embeds, generator=torch.Generator().manual_seed(0), **options, **more)

    plain, guided, named = (
        run(guidance_scale=1.0),
        run(guidance_scale=5.0),
        run(guidance_scale=5.0, negative_prompt_embeds=embeds),
    )
    hook.remove()
    assert calls == [2, 2, 4, 4, 4, 4]
    assert not torch.allclose(plain, guided, atol=1e-3)
    close(plain, named, 1e-4)  # guided away from itself: nowhere
    close(guided, run(guidance_scale=5.0, negative_prompt_embeds=model.prompt_embeds([""])), 1e-6)


def test_callback_counts(model: StableDiffusion) -> None:
    seen: list[tuple[int, int]] = []
    model.generate(model.prompt_embeds(["a"]), num_inference_steps=3, callback=lambda *step: seen.append(step))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_default_scheduler_starts_from_noise_even_in_folders_that_say_otherwise() -> None:
    scheduler = tiny_stable_diffusion(timestep_spacing="leading").default_scheduler()
    scheduler.set_timesteps(25)
    assert type(scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert scheduler.timesteps[0] == 999
    assert tiny_stable_diffusion(prediction_type="v_prediction").default_scheduler().config.prediction_type == "v_prediction"


def test_the_algorithm_of_the_default_scheduler(folder: Path, tmp_path: Path) -> None:
    from diffusers import DPMSolverMultistepScheduler

    def algorithm(place: Path, asked: str | None = None) -> str:
        name: str = StableDiffusion(str(place), algorithm_type=asked).default_scheduler().config.algorithm_type
        return name

    told = shutil.copytree(folder, tmp_path / "told")
    DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++").save_pretrained(told / "scheduler")
    assert algorithm(folder) == "dpmsolver++"
    assert algorithm(folder, "sde-dpmsolver++") == algorithm(told) == "sde-dpmsolver++"
    assert algorithm(told, "dpmsolver++") == "dpmsolver++"
    with pytest.raises(ValueError, match="algorithm_type 'euler' is not one of dpmsolver[+]{2}, sde-dpmsolver[+]{2}"):
        algorithm(folder, "euler")


def test_generate_errors(model: StableDiffusion) -> None:
    embeds = model.prompt_embeds(["a", "b"])
    other = tiny_stable_diffusion(prediction_type="v_prediction").scheduler
    for options, words in [
        ({"height": 31}, "height 31 and width 32 must both be multiples of 2"),
        ({"height": 0}, "height 0"),
        ({"num_inference_steps": 0}, "at least 1, not 0"),
        ({"generator": [torch.Generator()]}, "1 generators.*batch of 2"),
        ({"scheduler": other}, "v_prediction.*epsilon"),
        ({"negative_prompt_embeds": torch.zeros(3, 77, 32)}, r"\(3, 77, 32\) and \(2, 77, 32\)"),
        ({"negative_prompt_embeds": torch.zeros(2, 77, 31)}, r"negative_prompt_embeds has the shape \(2, 77, 31\)"),
    ]:
        with pytest.raises(ValueError, match=words):
            model.generate(embeds, **options)
    with pytest.raises(ValueError, match=r"prompt_embeds has the shape \(2, 77, 16\)"):
        model.generate(embeds[..., :16])


# Loading


def test_folder_loads_in_float32_and_equals_its_parts(folder: Path) -> None:
    loaded, expected = StableDiffusion(str(folder)), tiny_stable_diffusion()
    assert isinstance(loaded, ImageGenerator)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert type(loaded.scheduler).__name__ == "PNDMScheduler"
    token = torch.full((1, 32), 0.1)
    close(loaded.prompt_embeds(["a dog {}"], token), expected.prompt_embeds(["a dog {}"], token), 5e-3)
    for name in ("unet", "vae", "text_encoder"):
        for key, value in getattr(expected, name).state_dict().items():
            close(getattr(loaded, name).state_dict()[key], value.half().float(), 0)


def test_lower_precision_on_demand(folder: Path) -> None:
    model = StableDiffusion(str(folder), dtype="bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    embeds = model.prompt_embeds(["a {}"], torch.zeros(1, 32))
    assert model.loss(torch.zeros(1, 4, 16, 16), embeds).dtype == torch.float32
    assert model.generate(embeds, num_inference_steps=2).dtype == torch.float32
    assert model.encode(torch.rand(1, 3, 32, 32))[0].dtype == torch.float32
    with pytest.raises(ValueError, match="float8.*float32"):
        StableDiffusion(str(folder), dtype="float8")


def test_construction_leaves_the_seed_alone(folder: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    StableDiffusion(str(folder))
    assert torch.equal(torch.rand(3), expected)


def test_incomplete_folder(folder: Path, tmp_path: Path) -> None:
    for name in ("vae", "unet", "text_encoder", "scheduler"):
        (tmp_path / name).symlink_to(folder / name)
    with pytest.raises(FileNotFoundError, match="lacks tokenizer"):
        StableDiffusion(str(tmp_path))
    (tmp_path / "tokenizer").mkdir()  # transformers 5 makes an empty tokenizer of this without an error
    with pytest.raises(ValueError, match="tokenizer knows . tokens, but the text encoder 64"):
        StableDiffusion(str(tmp_path))


def test_missing_weights_are_never_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for card, name in (("sd-1.4", "CompVis/stable-diffusion-v1-4"), ("nobody/nothing", "nobody/nothing")):
        with pytest.raises(FileNotFoundError, match=f"{name}' are not on this machine.*`xmodal pull stable_diffusion:{card}`"):
            StableDiffusion(card)
    with pytest.raises(ValueError, match="no card 'sd-9'.*mini, sd-1.4"):
        StableDiffusion("sd-9")


def test_weights_that_do_not_fit_are_refused_and_old_names_accepted(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    file = copy / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}  # names in the Stable Diffusion 1.x files

    def renamed(key: str) -> str:
        for new, name in old.items() if "attentions" in key else ():
            key = key.replace(new, name)
        return key

    save_file({renamed(key): value for key, value in weights.items()}, file, metadata={"format": "pt"})
    loaded = StableDiffusion(str(copy)).vae.state_dict()
    assert all(torch.equal(loaded[key], value.float()) for key, value in weights.items())
    for name, first in (("vae/diffusion_pytorch_model", "decoder.conv_in.bias"), ("text_encoder/model", "final_layer_norm.bias")):
        file = copy / f"{name}.safetensors"
        kept = load_file(file)
        save_file({key: value for key, value in kept.items() if not key.endswith(first)}, file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=f"{name.split('/')[0]} do not fit its config.json: 1 are missing.*{first}"):
            StableDiffusion(str(copy))
        save_file(kept, file, metadata={"format": "pt"})


def test_parts_that_do_not_fit() -> None:
    parts, wide = tiny_sd_parts(), tiny_sd_parts()
    wide["unet"].register_to_config(cross_attention_dim=48)
    with pytest.raises(ValueError, match=r"32 numbers .* 48"):
        StableDiffusion.from_parts(**parts | {"unet": wide["unet"]})
    wide["vae"].register_to_config(latent_channels=16)
    with pytest.raises(ValueError, match="16 latent channels.*4"):
        StableDiffusion.from_parts(**parts | {"vae": wide["vae"]})


@pytest.mark.slow
def test_full_size_parameter_counts() -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8, sample_size=64)
        text = CLIPTextModel(CLIPTextConfig(
            hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, max_position_embeddings=77,
        ))  # fmt: skip
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
        )  # fmt: skip
    counts = [sum(parameter.numel() for parameter in module.parameters()) for module in (unet, text, vae)]
    assert [round(count / 1e6, 2) for count in counts] == [859.52, 123.06, 83.65]
    assert sum(counts) == CARDS["sd-1.4"].parameters == CARDS["sd-1.5"].parameters
