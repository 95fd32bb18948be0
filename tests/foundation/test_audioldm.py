"""AudioLDM against diffusers' pipeline and the official UNet (tests/golden), its folders, and its promises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from tests.rounding import agree
from xmodal.diffusion import sampling
from xmodal.foundation import audioldm, vocoder
from xmodal.foundation.audioldm import CARDS, OFFICIAL_HEADS, AudioLDM, import_checkpoint, save_null_embedding
from xmodal.foundation.mel import MINIATURE, log_mel
from xmodal.foundation.original_names import hifigan_names, unet_names, vae_names
from xmodal.foundation.vocoder import GriffinLim, save

GOLDEN = Path(__file__).parent.parent / "golden"


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value.float() for key, value in tensors.items() if key.startswith(prefix)}


def settings(name: str) -> dict[str, Any]:
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        return {key: json.loads(value) if value[0] in "{[" else value for key, value in file.metadata().items()}


def close(actual: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN / "audioldm_tiny.safetensors")


def parts(golden: dict[str, Tensor]) -> dict[str, Any]:
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    config = settings("audioldm_tiny")
    made = {
        "unet": UNet2DConditionModel(**config["unet"]),
        "vae": AutoencoderKL(**config["vae"]),
        "vocoder": SpeechT5HifiGan(SpeechT5HifiGanConfig(**config["vocoder"])),
    }
    for name, module in made.items():
        module.load_state_dict(part(golden, f"{name}."))
    return made | {"scheduler": DDIMScheduler(**config["scheduler"])}


@pytest.fixture(scope="module")
def model(golden: dict[str, Tensor]) -> AudioLDM:
    return AudioLDM.from_parts(**parts(golden), null_embedding=golden["uncond"][0])


@pytest.fixture
def small() -> AudioLDM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return audioldm.tiny()["AudioLDM"]()  # type: ignore[return-value]


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


def vectors(count: int, width: int = 32) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def folder(golden: dict[str, Tensor], tmp_path: Path) -> Path:
    """A diffusers folder of the golden components."""
    made = parts(golden)
    for name, each in made.items():
        each.save_pretrained(tmp_path / "ldm" / name)
    return tmp_path / "ldm"


# ---- fidelity


@pytest.mark.parametrize(("guidance", "name"), [(2.5, "audio"), (1.0, "audio_no_guidance")])
def test_sound_of_the_pipeline(
    guidance: float, name: str, golden: dict[str, Tensor], model: AudioLDM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "draw_noise", lambda shape, *_: golden["init_latents"].reshape(shape))
    made = model.generate(3 * golden["cond"], golden["uncond"], 1.28, 6, guidance, scheduler=model.scheduler)
    close(made, golden[name], 1e-5)


def test_each_step_of_the_pipeline(golden: dict[str, Tensor], model: AudioLDM) -> None:
    guided = sampling.with_guidance(model._predict, golden["cond"], golden["uncond"], 2.5)
    model.scheduler.set_timesteps(6)
    assert torch.equal(model.scheduler.timesteps, golden["timesteps"])
    path = golden["latents_trajectory"]
    for timestep, now, then in zip(model.scheduler.timesteps, path, path[1:], strict=False):
        with torch.no_grad():
            close(model.scheduler.step(guided(now, timestep), timestep, now).prev_sample, then, 1e-5)


def test_mel_and_waveform_of_the_latents(golden: dict[str, Tensor], model: AudioLDM) -> None:
    latents = golden["latents_trajectory"][-1]
    close(model.decode_mel(latents), golden["mel"][:, 0].transpose(1, 2), 1e-5)
    close(model.decode(latents), golden["audio"], 1e-5)


def test_official_unet_with_official_heads_and_with_eight(golden: dict[str, Tensor]) -> None:
    from diffusers import UNet2DConditionModel

    tensors, config = load_file(GOLDEN / "audioldm_unet_official.safetensors"), settings("audioldm_unet_official")["cfg"]
    made = {}
    for heads in (config["attention_head_dim"], 8):
        unet = UNet2DConditionModel(**config | {"attention_head_dim": heads}).eval()
        unet.load_state_dict(part(tensors, "weights."))
        with torch.no_grad():
            made[str(heads)] = unet(tensors["sample"], tensors["timesteps"], None, class_labels=tensors["class_labels"]).sample
    close(made["[4, 8, 12]"], tensors["out"], 5e-5)
    assert (made["8"] - tensors["out"]).abs().max() > 0.5


# ---- generation


@pytest.mark.parametrize("seconds", [0.01, 0.1, 0.1234, 0.5])
def test_exact_length(seconds: float, model: AudioLDM) -> None:
    made = model.generate(vectors(2), seconds=seconds, num_inference_steps=1, guidance_scale=1)
    assert made.shape == (2, round(seconds * 16_000))
    assert made.abs().max() <= 1


def test_default_length_is_the_unets_own(model: AudioLDM) -> None:
    assert model.seconds == 1.28
    assert model.generate(vectors(1), num_inference_steps=1).shape == (1, 20_480)


def test_a_sound_depends_on_its_own_generator_only(model: AudioLDM) -> None:
    for scheduler in (model.default_scheduler, model.original_scheduler):
        options: dict[str, Any] = {"seconds": 0.1, "num_inference_steps": 3}
        three = model.generate(vectors(3), generator=seeds(5, 6, 7), scheduler=scheduler(), **options)
        one = model.generate(vectors(3)[1:2], generator=seeds(6), scheduler=scheduler(), **options)
        close(one[0], three[1], 1e-5)
        other = model.generate(vectors(3)[1:2], generator=seeds(9), scheduler=scheduler(), **options)
        assert (other - one).abs().max() > 1e-4


def test_original_scheduler_adds_noise(model: AudioLDM) -> None:
    runs = []
    for scheduler in (model.scheduler, model.original_scheduler(), model.original_scheduler()):
        runs.append(model.generate(vectors(1), None, 0.1, 3, generator=seeds(1), scheduler=scheduler))
    assert agree(runs[1], runs[2])
    assert (runs[0] - runs[1]).abs().max() > 1e-4


def test_candidates_and_ranker(model: AudioLDM) -> None:
    options: dict[str, Any] = {"seconds": 0.1, "num_inference_steps": 2, "num_waveforms_per_embedding": 3}
    all_six = model.generate(vectors(2), generator=seeds(1, 2), **options)
    assert all_six.shape == (6, 1_600)
    assert len({row.sum().item() for row in all_six}) == 6
    alone = model.generate(vectors(2)[1:], generator=seeds(2), **options)
    close(alone, all_six[3:], 1e-5)
    seen = {}

    def loudest(waveforms: Tensor, embeddings: Tensor) -> Tensor:
        seen["embeddings"] = embeddings
        return waveforms.square().mean(1)

    best = model.generate(vectors(2), generator=seeds(1, 2), ranker=loudest, **options)
    close(seen["embeddings"], F.normalize(vectors(2), dim=-1).repeat_interleave(3, 0), 1e-6)
    loudness = all_six.square().mean(1).view(2, 3)
    assert agree(best, torch.stack([all_six[loudness[0].argmax()], all_six[3 + loudness[1].argmax()]]))
    with pytest.raises(ValueError, match=r"\(6, 1\) scores for 6 waveforms"):
        model.generate(vectors(2), ranker=lambda waveforms, _: waveforms[:, :1], **options)


def test_conditions_are_normalized_and_the_default_negative_is_the_null(golden: dict[str, Tensor], model: AudioLDM) -> None:
    def make(embedding: Tensor, **options: Any) -> Tensor:
        return model.generate(embedding, seconds=0.1, num_inference_steps=2, generator=seeds(1), **options)

    plain = make(vectors(1))
    close(make(7 * vectors(1)), plain, 1e-5)
    close(make(vectors(1), negative=5 * golden["uncond"][:1]), plain, 1e-6)
    assert (make(vectors(1), negative=-golden["uncond"][:1]) - plain).abs().max() > 1e-5
    assert (make(vectors(1), guidance_scale=1.0) - plain).abs().max() > 1e-5
    steps: list[tuple[int, int]] = []
    make(vectors(1), callback=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 2), (2, 2)]


def test_impossible_arguments_before_anything_is_computed(golden: dict[str, Tensor], small: AudioLDM) -> None:
    def refused(words: str, *arguments: Any, **options: Any) -> None:
        def spent(*_: int) -> None:
            raise AssertionError("computed")

        with pytest.raises(ValueError, match=words):
            small.generate(*arguments, callback=spent, **options)

    refused(r"\(1, 13\).*\(B, 12\)", vectors(1, 13))
    refused(r"embedding has the shape \(12,\)", vectors(1, 12)[0])
    refused(r"negative has the shape \(1, 4\)", vectors(1, 12), vectors(1, 4))
    refused("same shape", vectors(3, 12), vectors(2, 12))
    refused("seconds 0", vectors(1, 12), seconds=0)
    refused("num_waveforms_per_embedding 0", vectors(1, 12), num_waveforms_per_embedding=0)
    refused("2 generators for a batch of 1", vectors(1, 12), generator=seeds(1, 2))
    other = type(small.scheduler).from_config(small.scheduler.config, prediction_type="v_prediction")
    refused("'v_prediction'.*'epsilon'", vectors(1, 12), scheduler=other)
    small.null_embedding = None
    refused("no null_embedding and no text encoder", vectors(1, 12))


# ---- latents and training


def test_encode_pads_to_whole_steps_and_scales(model: AudioLDM) -> None:
    waveform = torch.randn(2, 20_000, generator=torch.Generator().manual_seed(0)) * 0.1
    latents = model.encode(waveform)
    assert latents.shape == (2, 4, 32, 4)  # 125 frames, in steps of 8
    mel = log_mel(F.pad(waveform, (0, 480)), model.mel)[..., :128]
    with torch.no_grad():
        mean = model.vae.encode(mel.transpose(1, 2)[:, None]).latent_dist.mean
    close(latents, mean * 0.9227914214134216, 1e-5)
    drawn = model.encode(waveform, sample=True, generator=seeds(1, 2))
    assert (drawn - latents).abs().mean() > 1e-3
    close(model.encode(waveform[1:], sample=True, generator=seeds(2))[0], drawn[1], 1e-4)
    assert model.decode(latents).shape == (2, 128 * 160)
    with pytest.raises(ValueError, match=r"\(20000,\)"):
        model.encode(waveform[0])


def test_loss_is_the_error_of_the_predicted_noise(golden: dict[str, Tensor], model: AudioLDM) -> None:
    latents, noise, steps = golden["latents_trajectory"][-1], golden["init_latents"], torch.tensor([10, 900])
    found = model.loss(latents, 5 * golden["cond"], noise=noise, timesteps=steps)
    ratio = model.noise_scheduler.alphas_cumprod[steps].view(2, 1, 1, 1)
    predicted = model._predict(ratio.sqrt() * latents + (1 - ratio).sqrt() * noise, steps, golden["cond"])
    close(found, (predicted - noise).square().mean(), 1e-5)
    dropped = model.loss(latents, golden["cond"], noise=noise, timesteps=steps, dropout=1.0)
    close(dropped, model.loss(latents, golden["uncond"], noise=noise, timesteps=steps), 1e-6)
    assert (dropped - found).abs() > 1e-5
    with pytest.raises(ValueError, match="2 latents and 1 embeddings"):
        model.loss(latents, golden["cond"][:1])


def test_gradients_reach_the_condition_and_an_unfrozen_unet(small: AudioLDM) -> None:
    embedding = vectors(2, 12).requires_grad_()
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    small.loss(latents, embedding, torch.Generator().manual_seed(0)).backward()
    assert embedding.grad is not None
    assert embedding.grad.abs().sum() > 0
    assert all(p.grad is None for p in small.parameters())
    assert small.state_dict() == {}
    small.unet.requires_grad_(True)
    optimizer = torch.optim.Adam(small.unet.parameters(), 5e-3)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = small.loss(latents, vectors(2, 12), torch.Generator().manual_seed(0), dropout=0.1)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    waveform = (torch.randn(1, 2_560) * 0.1).requires_grad_()
    small.decode(small.encode(waveform)).square().sum().backward()
    assert waveform.grad is not None
    assert waveform.grad.abs().sum() > 0


# ---- files


def test_folder_and_heads(folder: Path, golden: dict[str, Tensor], model: AudioLDM, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps(config | {"attention_head_dim": 8}))
    monkeypatch.setitem(OFFICIAL_HEADS, (16, 32), (2, 4))
    official, as_saved = (AudioLDM(str(folder), heads=heads) for heads in ("official", "as_saved"))
    latents, timestep = golden["init_latents"], torch.tensor(500)
    with torch.no_grad():
        wanted = model._predict(latents, timestep, golden["cond"])
        close(official._predict(latents, timestep, golden["cond"]), wanted, 1e-6)
        assert (as_saved._predict(latents, timestep, golden["cond"]) - wanted).abs().max() > 1e-3
    monkeypatch.delitem(OFFICIAL_HEADS, (16, 32))
    assert AudioLDM(str(folder)).unet.config.attention_head_dim == 8
    with pytest.raises(ValueError, match="'eight' is not one of official, as_saved"):
        AudioLDM(str(folder), heads="eight")
    close(official.decode(golden["latents_trajectory"][-1]), golden["audio"], 1e-5)


def test_vocoder_may_be_replaced_by_one_of_the_same_mel(folder: Path, golden: dict[str, Tensor], model: AudioLDM) -> None:
    latents = golden["latents_trajectory"][-1]
    assert AudioLDM(str(folder), vocoder=GriffinLim.from_spec(model.mel, 2)).decode(latents).shape == (2, 20_480)
    with pytest.raises(ValueError, match="disagree on n_mels"):
        AudioLDM(str(folder), vocoder=GriffinLim(mel="audioldm"))
    save(model.vocoder.model, model.mel, folder / "vocoder")
    assert AudioLDM(str(folder)).mel == model.mel


def test_null_embedding_stored_or_made_by_the_text_encoder(folder: Path, golden: dict[str, Tensor]) -> None:
    from transformers import ClapTextConfig, ClapTextModelWithProjection

    text = settings("audioldm_tiny")["text"]
    encoder = ClapTextModelWithProjection(ClapTextConfig(**text)).eval()
    encoder.save_pretrained(folder / "text_encoder")
    model = AudioLDM(str(folder))
    assert model.null_embedding is None
    with torch.inference_mode():
        made = model.unconditional()
    with torch.no_grad():
        wanted = F.normalize(encoder(torch.tensor([[0, 2]])).text_embeds[0], dim=-1)
    close(made, wanted, 1e-6)
    model.loss(golden["init_latents"], golden["cond"].clone().requires_grad_(), dropout=0.5).backward()
    save_null_embedding(3 * golden["uncond"][0], folder)
    close(AudioLDM(str(folder)).unconditional(), golden["uncond"][0], 1e-6)


def test_embedded_model_sounds_through_griffin_lim() -> None:
    model = AudioLDM()
    assert isinstance(model.vocoder, GriffinLim)
    assert (model.cond_dim, model.sample_rate, model.mel) == (CARDS["mini"].dim, 16_000, MINIATURE)
    assert sum(parameter.numel() for parameter in model.parameters()) == CARDS["mini"].parameters
    made = model.generate(vectors(1, 128), seconds=0.3, num_inference_steps=2, generator=seeds(0))
    assert made.shape == (1, 4_800)
    assert made.isfinite().all()
    with pytest.raises(ValueError, match="the vocoder given and that of mini disagree on"):
        AudioLDM(vocoder=GriffinLim(mel="audioldm"))


def test_wrong_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="lacks unet, vae, scheduler|lacks vocoder"):
        AudioLDM(str(tmp_path))
    with pytest.raises(ValueError, match="has no card 'nothing'.*audioldm-s-full-v2"):
        AudioLDM("nothing")
    with pytest.raises(FileNotFoundError, match="cvssp/audioldm-m-full"):
        AudioLDM("audioldm-m-full")
    with pytest.raises(FileNotFoundError, match="nobody/nothing"):
        AudioLDM("nobody/nothing")
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps(config | {"layers_per_block": 2}))
    with pytest.raises(ValueError, match="unet are damaged or do not fit its config.json .size mismatch"):
        AudioLDM(str(folder))


def test_parts_that_do_not_fit(golden: dict[str, Tensor]) -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    config = settings("audioldm_tiny")

    def refused(words: str, **changed: Any) -> None:
        with pytest.raises(ValueError, match=words):
            AudioLDM.from_parts(**parts(golden) | changed)

    refused("8 latent channels.*reads 4", vae=AutoencoderKL(**config["vae"] | {"latent_channels": 8}))
    plain = config["unet"] | {"class_embed_type": None, "projection_class_embeddings_input_dim": None}
    refused("class_embed_type is None", unet=UNet2DConditionModel(**plain | {"class_embeddings_concat": False}))
    refused(r"null_embedding has the shape \(1, 5\)", null_embedding=torch.ones(5))


@pytest.mark.parametrize("name", [name for name in CARDS if name != "mini"])
def test_published_sizes(name: str) -> None:
    with torch.device("meta"):
        made = audioldm.build(name)
    assert made is not None
    sizes = {key: sum(p.numel() for p in module.parameters()) for key, module in made.items()}  # type: ignore[operator]
    assert sum(sizes.values()) == CARDS[name].parameters
    assert round(sizes["vae"] / 1e6, 2) == 55.38
    assert round(sizes["unet"] / 1e6, 2) in (185.04, 415.95, 739.14)
    assert CARDS[name].licence == "CC-BY-NC-SA-4.0"
    assert not CARDS[name].commercial


# ---- official checkpoints


def test_original_names_known_from_the_official_code() -> None:
    with torch.device("meta"):
        made = audioldm._networks((128, 256, 384, 640))
    unet = unet_names(made["unet"].state_dict(), 2, (True, True, True, False))
    vae = vae_names(made["vae"].state_dict(), 3)
    assert len(set(unet.values())) == len(unet)
    assert len(set(vae.values())) == len(vae)
    known = {
        "class_embedding.weight": "film_emb.weight",
        "time_embedding.linear_2.bias": "time_embed.2.bias",
        "down_blocks.0.resnets.1.conv1.bias": "input_blocks.2.0.in_layers.2.bias",
        "down_blocks.0.downsamplers.0.conv.weight": "input_blocks.3.0.op.weight",
        "down_blocks.1.attentions.0.transformer_blocks.0.norm1.weight": "input_blocks.4.1.transformer_blocks.0.norm1.weight",
        "mid_block.attentions.0.proj_in.weight": "middle_block.1.proj_in.weight",
        "mid_block.resnets.1.norm2.bias": "middle_block.2.out_layers.0.bias",
        "up_blocks.0.upsamplers.0.conv.bias": "output_blocks.2.2.conv.bias",
        "up_blocks.3.resnets.2.time_emb_proj.weight": "output_blocks.11.0.emb_layers.1.weight",
        "conv_norm_out.weight": "out.0.weight",
    }
    assert {name: unet[name] for name in known} == known
    known = {
        "encoder.down_blocks.1.resnets.0.conv_shortcut.weight": "encoder.down.1.block.0.nin_shortcut.weight",
        "encoder.down_blocks.1.downsamplers.0.conv.bias": "encoder.down.1.downsample.conv.bias",
        "decoder.up_blocks.0.upsamplers.0.conv.weight": "decoder.up.2.upsample.conv.weight",
        "decoder.up_blocks.2.resnets.2.norm1.weight": "decoder.up.0.block.2.norm1.weight",
        "encoder.mid_block.attentions.0.to_out.0.weight": "encoder.mid.attn_1.proj_out.weight",
        "decoder.mid_block.attentions.0.group_norm.bias": "decoder.mid.attn_1.norm.bias",
        "decoder.mid_block.resnets.1.conv2.bias": "decoder.mid.block_2.conv2.bias",
        "decoder.conv_norm_out.weight": "decoder.norm_out.weight",
    }
    assert {name: vae[name] for name in known} == known


def official(made: dict[str, Any], text: Any) -> dict[str, Tensor]:
    """The layout of an official file."""
    names = {
        "model.diffusion_model.": ("unet", unet_names(made["unet"].state_dict(), 2, (True, True, True, False))),
        "first_stage_model.": ("vae", vae_names(made["vae"].state_dict(), 3)),
        "first_stage_model.vocoder.": ("vocoder", hifigan_names(made["vocoder"].state_dict())),
    }
    state = {"scale_factor": torch.tensor(0.9), "betas": torch.ones(3), "first_stage_model.loss.logvar": torch.zeros(1)}
    for prefix, (part_name, own) in names.items():
        weights = made[part_name].state_dict()
        state |= {prefix + original: weights[name] for name, original in own.items()}
    for key, value in state.items():
        if ".mid.attn_1." in key and value.ndim == 2:
            state[key] = value[:, :, None, None]
    clap = {f"cond_stage_model.model.{key}": value for key, value in text.state_dict().items()}
    renames = {"text_model.": "text_branch.", "linear1": "0", "linear2": "2"}
    for key, value in clap.items():
        for new, old in renames.items():
            key = key.replace(new, old)
        state[key] = value
    return state


def test_official_checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from transformers import ClapTextConfig, ClapTextModelWithProjection

    channels = (32, 64, 96, 160)
    monkeypatch.setitem(OFFICIAL_HEADS, channels, (1, 2, 3, 5))
    made = audioldm._networks(channels, (32, 64, 128), dim=24, latent=4)
    made["vocoder"] = vocoder.hifigan(upsample_initial_channel=32)
    sizes = {"vocab_size": 30, "hidden_size": 64, "intermediate_size": 40, "num_hidden_layers": 1, "layer_norm_eps": 1e-5}
    config = ClapTextConfig(**sizes, num_attention_heads=1, projection_dim=24)
    text = ClapTextModelWithProjection(config).eval()
    state = official(made, text)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "audioldm.ckpt")
    folder = import_checkpoint(tmp_path / "audioldm.ckpt", tmp_path / "imported")
    model = AudioLDM(str(folder))
    for name, module in {"unet": model.unet, "vae": model.vae, "vocoder": model.vocoder.model}.items():
        wanted = made[name].state_dict()
        assert all(torch.equal(value, wanted[key]) for key, value in module.state_dict().items())
        assert len(module.state_dict()) == len(wanted)
    assert tuple(model.unet.config.attention_head_dim) == (1, 2, 3, 5)
    assert round(model.scaling_factor, 6) == 0.9
    assert model.scheduler.config.beta_end == 0.0195
    with torch.no_grad():
        close(model.unconditional(), F.normalize(text(torch.tensor([[0, 2]])).text_embeds[0], dim=-1), 1e-6)
    for change, words in (
        ({"model.diffusion_model.strange.weight": torch.ones(1)}, "the unet of AudioLDM.*1 unknown"),
        ({"first_stage_model.decoder.norm_out.weight": None}, "the vae of AudioLDM.*1 missing"),
        ({"model.diffusion_model.film_emb.weight": None}, "no AudioLDM 1 checkpoint.*film_emb"),
        ({"model.diffusion_model.input_blocks.0.0.weight": torch.ones(48, 4, 3, 3)}, "48 channels.*128, 192, 256"),
    ):
        kept = {key: value for key, value in (state | change).items() if value is not None}
        torch.save({"state_dict": kept}, tmp_path / "wrong.ckpt")
        with pytest.raises(ValueError, match=words):
            import_checkpoint(tmp_path / "wrong.ckpt", tmp_path / "out")
    assert not (tmp_path / "out").exists()
