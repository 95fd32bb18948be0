"""Published layouts at reduced width: true folders, file names, key names and dtypes, random numbers.

`LAYOUTS` writes each card that a full-size recipe or one of its overlays names, and returns what that recipe's ``card`` takes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xmodal.foundation.painter_parts import tiny_parts

SOUND, SEEN, WORDS, SIZE = 16, 64, 16, 32  # CLAP's, CLIP L/14's, other CLIPs' embeddings; side of pictures
OPENAI = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}


def _json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _vocabulary(folder: Path, tokens: list[str], **config: Any) -> None:
    """vocab.json, merges.txt and tokenizer_config.json, as published before transformers had tokenizer.json."""
    _json(folder / "vocab.json", {token: index for index, token in enumerate(tokens)})
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    _json(folder / "tokenizer_config.json", config)


def _letters() -> list[str]:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def _clip_tokenizer(folder: Path) -> None:
    letters = _letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    marks = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    _vocabulary(folder, tokens, tokenizer_class="CLIPTokenizer", model_max_length=77, unk_token="<|endoftext|>", **marks)


def _roberta_tokenizer(folder: Path) -> int:
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *_letters(), "<mask>"]
    _vocabulary(folder, tokens, tokenizer_class="RobertaTokenizer", model_max_length=512, trim_offsets=True)
    return len(tokens)


# ---- pictures


def _painter(place: Path, parts: dict[str, Any], kind: str, **beside: Any) -> Path:
    """A diffusers pipeline's folder, with what a recipe does not need beside it."""
    entries = {"_class_name": kind, "_diffusers_version": "0.2.2"}
    for name, part in {**parts, **beside}.items():
        if name.startswith("tokenizer"):
            _clip_tokenizer(place / name)
        else:
            part.save_pretrained(place / name)
        entries |= {name: ["transformers" if name.startswith("t") else "diffusers", type(part).__name__]}
    _json(place / "model_index.json", entries)
    (place / "README.md").write_text("# not needed\n")
    return place


def stable_diffusion(place: Path) -> Path:
    from diffusers import PNDMScheduler

    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1,
        set_alpha_to_one=False,
    )  # fmt: skip
    return _painter(place, tiny_parts() | {"scheduler": scheduler}, "StableDiffusionPipeline")


def stable_diffusion_2(place: Path) -> Path:
    """Velocities, linear projections and another number of heads in each level."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    parts = tiny_parts(use_linear_projection=True, attention_head_dim=(1, 2))
    return _painter(place, parts | {"scheduler": scheduler}, "StableDiffusionPipeline")


def stable_diffusion_xl(place: Path) -> Path:
    """In both precisions, as its publisher has it."""
    from diffusers import EulerDiscreteScheduler
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    parts = tiny_parts(
        cross_attention_dim=40, addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=36, use_linear_projection=True,
    )  # fmt: skip
    first = parts["text_encoder"].config
    ends: dict[str, Any] = {name: getattr(first, name) for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    sizes: dict[str, Any] = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    parts["text_encoder_2"] = CLIPTextModelWithProjection(CLIPTextConfig(**sizes, **ends, projection_dim=12))
    parts["tokenizer_2"] = None
    parts["scheduler"] = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    )
    folder = _painter(place, parts, "StableDiffusionXLPipeline")
    for name in ("vae", "unet", "text_encoder", "text_encoder_2"):
        parts[name].half().save_pretrained(folder / name, variant="fp16")
    return folder


def stable_unclip(place: Path, dim: int) -> Path:
    from diffusers import DDIMScheduler, DDPMScheduler
    from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer

    parts = tiny_parts(class_embed_type="projection", projection_class_embeddings_input_dim=2 * dim)
    parts["scheduler"] = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    normalizer = StableUnCLIPImageNormalizer(dim)
    normalizer.std.data.fill_(0.5)
    beside = {"image_normalizer": normalizer, "image_noising_scheduler": DDPMScheduler(beta_schedule="squaredcos_cap_v2")}
    return _painter(place, parts, "StableUnCLIPImg2ImgPipeline", **beside)


# ---- what is seen and read


def clip(place: Path, dim: int) -> Path:
    """A transformers folder of OpenAI's: both towers, vocabulary and preprocessing."""
    from transformers import CLIPConfig, CLIPModel

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    config = CLIPConfig(
        vision_config={**sizes, "image_size": SIZE, "patch_size": 8, "projection_dim": dim},
        text_config={**sizes, **ends, "projection_dim": dim}, projection_dim=dim,
    )  # fmt: skip
    CLIPModel(config).save_pretrained(place)
    _clip_tokenizer(place)
    side = {"size": SIZE, "crop_size": SIZE, "do_resize": True, "do_center_crop": True, "do_normalize": True, "resample": 3}
    _json(place / "preprocessor_config.json", {**side, **OPENAI, "feature_extractor_type": "CLIPFeatureExtractor"})
    return place


def open_clip(place: Path) -> str:
    from open_clip import CLIP
    from safetensors.torch import save_file

    model_cfg = {
        "embed_dim": WORDS, "vision_cfg": {"image_size": SIZE, "layers": 2, "width": 64, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 514, "width": 64, "heads": 1, "layers": 2},
    }  # fmt: skip
    settings = {"mean": OPENAI["image_mean"], "std": OPENAI["image_std"], "interpolation": "bicubic"}
    _json(place / "open_clip_config.json", {"model_cfg": model_cfg, "preprocess_cfg": settings})
    state = {key: value.contiguous() for key, value in CLIP(**model_cfg).state_dict().items()}  # type: ignore[arg-type]
    save_file(state, place / "open_clip_model.safetensors")
    return f"local-dir:{place}"


def prior(place: Path) -> Path:
    """What dalle2-pytorch's trainer saves, optimizer and averaged weights and all."""
    from tests.foundation.test_diffusion_prior import golden, trainer_file

    file = place / "prior" / "best.pth"
    file.parent.mkdir(parents=True)
    torch.save(trainer_file(golden("prior_four_tokens")[2]), file)
    return file


def own_prior(place: Path) -> Path:
    from xmodal.diffusion.prior_network import PriorConfig, PriorNetwork
    from xmodal.foundation.diffusion_prior import DiffusionPrior, save

    sizes = PriorConfig(dim=SEEN, depth=1, heads=2, dim_head=8, ff_mult=2, timesteps=100)
    return save(DiffusionPrior.from_model(PriorNetwork(sizes)), place)


def own_mean_shift(place: Path) -> Path:
    from xmodal.foundation.diffusion_prior import MeanShift, Shift

    return MeanShift.from_model(Shift(SEEN), dim=SEEN).save(place)


def pe_av(place: Path) -> Path:
    from xmodal.foundation.pe_av import _tiny_model, _tiny_tokenizer

    _tiny_model().save_pretrained(place)
    _tiny_tokenizer().save_pretrained(place)
    return place


# ---- what is heard


def beats(place: Path) -> Path:
    """``cfg``, ``model`` and ``label_dict``; the shared position table is listed under every layer."""
    from dataclasses import asdict

    from tests.foundation.test_beats import checkpoint
    from xmodal.foundation.beats import BEATsConfig, BEATsModel

    cfg = BEATsConfig(
        embed_dim=8, encoder_layers=12, encoder_embed_dim=16, encoder_ffn_embed_dim=24, encoder_attention_heads=2, conv_pos=8,
        conv_pos_groups=4, relative_position_embedding=True, gru_rel_pos=True, deep_norm=True, max_distance=800,
        finetuned_model=True, predictor_class=5,
    )  # fmt: skip
    place.mkdir(parents=True)
    file = place / "BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt"
    checkpoint(file, asdict(cfg), BEATsModel(cfg).state_dict(), {index: f"/m/{index}" for index in range(5)})
    return file


def clap(place: Path, pickled: bool) -> Path:
    from transformers import ClapConfig, ClapModel

    vocabulary = _roberta_tokenizer(place)
    audio = {"patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [2, 2], "hidden_size": 16}
    text = {**_roberta(vocabulary), "layer_norm_eps": 1e-5}
    model = ClapModel(ClapConfig(audio_config=audio, text_config=text, projection_dim=SOUND))
    model.save_pretrained(place)
    if pickled:
        torch.save(model.state_dict(), place / "pytorch_model.bin")
        (place / "model.safetensors").unlink()
    from xmodal.foundation.clap import FrontEnd

    _json(place / "preprocessor_config.json", FrontEnd().settings())
    return place


def _roberta(vocabulary: int) -> dict[str, Any]:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return {**sizes, "vocab_size": vocabulary, "max_position_embeddings": 514, "pad_token_id": 1}


def imagebind(place: Path) -> Path:
    """The official file states no sizes, so at another width it goes through `import_checkpoint`, key by key as published."""
    from xmodal.foundation.imagebind import MODALITIES, ImageBindConfig, ImageBindModel, import_checkpoint

    sizes: dict[str, Any] = {f"{name}_embed_dim": 16 for name in MODALITIES}
    sizes |= {f"{name}_num_heads": 2 for name in MODALITIES} | {f"{name}_num_blocks": 1 for name in MODALITIES}
    config = ImageBindConfig(out_embed_dim=12, **sizes)
    place.mkdir(parents=True)
    file = place / "imagebind_huge.pth"
    others = {"modality_trunks.depth.blocks.0.norm_1.weight": torch.ones(16), "modality_heads.imu.0.weight": torch.ones(16)}
    torch.save(ImageBindModel(config).state_dict() | others, file)
    return import_checkpoint(file, place / "imported", config)


def panns(place: Path) -> Path:
    """With the front end's tensors, which the reader compares with its own."""
    from xmodal.foundation import panns as kind

    config = kind.Cnn14Config(widths=(4, 4, 4, 4, 8, 8))
    real, imaginary = kind._fourier(config)
    front = {kind.STFT_KEY.format("real"): real, kind.STFT_KEY.format("imag"): imaginary, kind.MEL_KEY: kind._filters(config)[1]}
    state = kind.Cnn14Model(config).state_dict() | {key: torch.as_tensor(value) for key, value in front.items()}
    return _saved(place / "Cnn14_mAP=0.431.pth", {"iteration": 600000, "model": state})


def vggish(place: Path) -> Path:
    from xmodal.foundation.vggish import VGGishConfig, VGGishModel

    return _saved(place / "vggish-10086976.pth", VGGishModel(VGGishConfig((4, 4, 4, 4), 8, 6)).state_dict(), zipped=False)


def wav2clip(place: Path) -> Path:
    """With the picture's half of its training."""
    from xmodal.foundation.wav2clip import Wav2CLIPConfig, Wav2CLIPModel

    state = Wav2CLIPModel(Wav2CLIPConfig((4, 4, 8, 8), 8, WORDS)).state_dict()
    return _saved(place / "Wav2CLIP.pt", {**state, "image_transform.sequential.0.weight": torch.zeros(2, 2)})


def _saved(file: Path, content: Any, zipped: bool = True) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file


# ---- what sounds


def audioldm(place: Path) -> Path:
    """UNet, VAE, vocoder, scheduler, and CLAP's text encoder, of which the empty text's embedding is made."""
    from transformers import ClapTextConfig, ClapTextModelWithProjection

    from xmodal.foundation.audioldm import _ddim, _networks
    from xmodal.foundation.vocoder import hifigan

    vocabulary = _roberta_tokenizer(place / "tokenizer")
    made = _networks((8, 16), (4, 8, 8), heads=(1, 2), layers=1, dim=SOUND, latent=8, groups=4)
    blocks = {"resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3]], "upsample_initial_channel": 32}
    made |= {"vocoder": hifigan(**blocks), "scheduler": _ddim()}
    made["text_encoder"] = ClapTextModelWithProjection(ClapTextConfig(**_roberta(vocabulary), projection_dim=SOUND))
    for name, part in made.items():
        part.save_pretrained(place / name)
    _json(place / "model_index.json", {"_class_name": "AudioLDMPipeline", "_diffusers_version": "0.15.0"})
    return place


def bigvgan(place: Path) -> Path:
    """NVIDIA's two files, the weights with weight norm as its trainer saves them."""
    from tests.foundation.test_vocoder import BIGVGAN_CONFIG, tiny_bigvgan, with_weight_norm

    state: dict[str, Tensor] = with_weight_norm(tiny_bigvgan(), old_names=True)
    _json(place / "config.json", BIGVGAN_CONFIG)
    return _saved(place / "bigvgan_generator.pt", {"generator": state}).parent


LAYOUTS: dict[str, Callable[[Path], Path | str]] = {
    "stable_diffusion:sd-1.4": stable_diffusion,
    "stable_diffusion:sd-1.5": stable_diffusion,
    "stable_diffusion:sd-2.1": stable_diffusion_2,
    "stable_diffusion_xl:sdxl-base-1.0": stable_diffusion_xl,
    "stable_unclip:sd-2.1-unclip": lambda place: stable_unclip(place, 12),
    "stable_unclip:sd-2.1-unclip-small": lambda place: stable_unclip(place, SEEN),
    "clip:vit-b-32": lambda place: clip(place, WORDS),
    "clip:vit-b-16": lambda place: clip(place, WORDS),
    "clip:vit-l-14": lambda place: clip(place, SEEN),
    "clip:open_clip:ViT-B-32/laion2b_s34b_b79k": open_clip,
    "diffusion_prior:laion": prior,
    "diffusion_prior:outputs/prior": own_prior,
    "diffusion_prior:outputs/mean_shift": own_mean_shift,
    "pe_av:small": pe_av,
    "beats:iter3-plus-as2m-cpt2": beats,
    "clap:htsat-unfused": lambda place: clap(place, pickled=True),
    "clap:audioldm": lambda place: clap(place, pickled=False),
    "imagebind:huge": imagebind,
    "panns:cnn14": panns,
    "vggish:vggish": vggish,
    "wav2clip:wav2clip": wav2clip,
    "audioldm:audioldm-s-full-v2": audioldm,
    "audioldm:audioldm-s-full": audioldm,
    "vocoder:bigvgan-22k-80": bigvgan,
    "vocoder:audioldm": audioldm,
    "mel_vae:audioldm": audioldm,
}


def write(name: str, place: Path) -> Path | str:
    """Write a card's layout into a folder that does not exist yet; the numbers are the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(name))
        return LAYOUTS[name](place)
