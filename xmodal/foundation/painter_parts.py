"""The five parts of a diffusers folder that `xmodal.foundation.stable_diffusion` and its kin are made of: read, checked, tiny."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from xmodal.foundation.base import check_vocabulary
from xmodal.registry.checkpoint import read_json, read_module, read_scheduler

PARTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
AUTOENCODERS = ("AutoencoderKL", "AutoencoderDC")


def check_widths(vae: Any, tokenizer: Any, text_encoder: Any, unet: Any, found: int) -> None:
    """Raise ValueError with both numbers for the first pair of parts that does not fit; ``found`` is c."""
    check_vocabulary(len(tokenizer), text_encoder.config.vocab_size, "text encoder")
    expected = unet.config.cross_attention_dim
    if found != expected:
        raise ValueError(f"the text encoder gives {found} numbers a token, but the UNet reads {expected}: take both of one model")
    found, expected = vae.config.latent_channels, unet.config.in_channels
    if found != expected:
        mend = "use a text-to-image model (no inpainting, no upscaling)"
        raise ValueError(f"the VAE has {found} latent channels, but the UNet reads {expected}: {mend}")


def read_parts(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Read the five parts of a diffusers folder, weights cast to ``dtype``."""
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)}: a diffusers folder holds {', '.join(PARTS)}, copy them all"
        )
    import diffusers
    from transformers import CLIPTextModel, CLIPTokenizer

    autoencoder = read_json(folder / "vae" / "config.json", "its publisher").get("_class_name")
    if autoencoder not in AUTOENCODERS:
        raise ValueError(f"{folder / 'vae'} holds a {autoencoder}, but expected {' or '.join(AUTOENCODERS)}")
    return {
        "vae": read_module(getattr(diffusers, autoencoder), folder / "vae", torch_dtype=dtype, low_cpu_mem_usage=False),
        "text_encoder": read_module(CLIPTextModel, folder / "text_encoder", dtype=dtype),
        "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
        "unet": read_module(diffusers.UNet2DConditionModel, folder / "unet", torch_dtype=dtype, low_cpu_mem_usage=False),
        "scheduler": read_scheduler(folder / "scheduler"),
    }


def tiny_parts(**changed: Any) -> dict[str, Any]:
    """The components of `tiny`; ``changed`` are options of the UNet."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from tokenizers import pre_tokenizers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends: dict[str, Any] = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    kinds = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
    unet: dict[str, Any] = {
        "sample_size": 32, "layers_per_block": 1, "block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 2,
        "cross_attention_dim": 16, **kinds, **changed,
    }  # fmt: skip
    return {
        "vae": AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=32),
        "text_encoder": CLIPTextModel(CLIPTextConfig(vocab_size=len(words), **sizes, **ends)),
        "tokenizer": CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=77),
        "unet": UNet2DConditionModel(**unet),
        "scheduler": DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    }
