"""Names of the same weights in diffusers' modules and in the original latent-diffusion code (Rombach et al., arXiv 2112.10752).

Stable Diffusion, AudioLDM and their kin were published in the original's names. Each function takes the diffusers (or
transformers) names and returns the original name of each, so a caller that asks for every one misses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
UNET = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "class_embedding": "film_emb",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2", "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1", "mid_block.resnets.1": "middle_block.2",
}  # fmt: skip
VAE = {
    "conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut", "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2", "mid_block.attentions.0": "mid.attn_1", "group_norm": "norm", "to_q": "q", "to_k": "k",
    "to_v": "v", "to_out.0": "proj_out",
}  # fmt: skip


def unet_names(names: Iterable[str], layers: int, attention_up: Sequence[bool]) -> dict[str, str]:
    """Original names of a UNet's weights.

    Args:
        names: of diffusers' UNet2DConditionModel.
        layers: residual blocks of a level (one more on the way up).
        attention_up: whether each level on the way up has attention: it moves the upsampler's place by one.
    """

    def block(match: re.Match[str]) -> str:
        way, level, kind, index = match[1], int(match[2]), match[3], int(match[4])
        if way == "down":
            place = 1 + level * (layers + 1) + (layers if kind == "downsamplers" else index)
            return f"input_blocks.{place}." + {"resnets": "0", "attentions": "1", "downsamplers": "0.op"}[kind]
        place = level * (layers + 1) + (layers if kind == "upsamplers" else index)
        last = f"{1 + attention_up[level]}.conv"
        return f"output_blocks.{place}." + {"resnets": "0", "attentions": "1", "upsamplers": last}[kind]

    pattern = r"^(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)(?:\.conv(?=\.))?"
    found = {}
    for name in names:
        new = _replace(re.sub(pattern, block, name), UNET)
        # An attention block's norms have the names of a residual block's, and stay.
        found[name] = _replace(new, RESNET) if ".transformer_blocks." not in new else new
    return found


def vae_names(names: Iterable[str], levels: int) -> dict[str, str]:
    """Original names of the weights of diffusers' AutoencoderKL; the original counts its way up from the finest level."""

    def block(match: re.Match[str]) -> str:
        way, level, kind, index = match[1], int(match[2]), match[3], match[4]
        level = level if way == "down" else levels - 1 - level
        return f"{way}.{level}." + (f"block.{index}" if kind == "resnets" else f"{way}sample")

    pattern = r"(down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)"
    return {name: _replace(re.sub(pattern, block, name), VAE) for name in names}


def hifigan_names(names: Iterable[str]) -> dict[str, str]:
    """Original names of the weights of transformers' SpeechT5HifiGan, without its two buffers."""
    return {name: re.sub(r"^upsampler\.", "ups.", name) for name in names if name not in ("mean", "scale")}


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return what lies below a prefix, without the prefix."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def renamed(state: Mapping[str, Tensor], names: Mapping[str, str], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of original names by the new ones; names that no function above gave stay as they are.

    The original's VAE makes its attention of 1x1 convolutions: they are flattened where ``wanted`` is a matrix.
    """
    own = {original: name for name, original in names.items()}
    found = {own.get(key, key): value for key, value in state.items()}
    flat = {key for key in found.keys() & wanted.keys() if wanted[key].ndim == 2 and found[key].shape[2:] == (1, 1)}
    return {key: value.flatten(1) if key in flat else value for key, value in found.items()}


def _replace(name: str, pairs: dict[str, str]) -> str:
    for new, original in pairs.items():
        name = re.sub(rf"(^|\.){re.escape(new)}(?=\.)", rf"\g<1>{original}", name)
    return name
