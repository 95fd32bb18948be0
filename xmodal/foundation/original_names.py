"""Names of the same weights in diffusers' modules and in the original latent-diffusion code (Rombach et al., arXiv 2112.10752).

Stable Diffusion, AudioLDM and their kin were published in the original's names. Each function takes the diffusers (or
transformers) names and returns the original name of each, so a caller that asks for every one misses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Self

import torch
from torch import Tensor

from xmodal.diffusion.prior_network import PriorConfig, rotary_frequencies

VERSION_CLASSES = ("version.Version", "version._Version", "_structures.InfinityType", "_structures.NegativeInfinityType")
IGNORED = ("clip.", "noise_scheduler.", "_dummy")
"""What a file of the whole prior holds besides the network: CLIP itself, tables of the schedule, a device marker."""
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


# ---- dalle2-pytorch


class _Ignored:
    """Stands in for an object that is not wanted."""

    def __new__(cls, *args: object) -> Self:
        return super().__new__(cls)

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def version_ignored() -> AbstractContextManager[Any]:
    """While open, the safe reader of pickles passes over the package version that the library's trainer puts into its files."""
    stand_ins: list[Any] = [(type(name, (_Ignored,), {}), f"packaging.{name}") for name in VERSION_CLASSES]
    return torch.serialization.safe_globals(stand_ins)


def read_library_state(state: Mapping[str, Tensor]) -> tuple[PriorConfig, dict[str, Tensor]]:
    """Sizes and our parameters of a state dict of the library's network or whole prior (CLIP and schedule are left out).

    Load the result strictly: only names are changed here. Raises ValueError where it is no such state, or where its rotary
    frequencies are not the usual ones.
    """
    whole = any(key.startswith("net.") for key in state)
    kept = {key: value for key, value in state.items() if not key.startswith(IGNORED)}
    kept = {key.removeprefix("net.") if whole else key: value for key, value in kept.items()}
    causal = any(key.startswith("causal_transformer.") for key in kept)
    kept = {key.removeprefix("causal_"): value for key, value in kept.items()}
    first = "transformer.layers.0."
    needed = ("learned_query", "null_text_embeds", f"{first}0.to_kv.weight", f"{first}1.1.weight",
              "transformer.rel_pos_bias.relative_attention_bias.weight")  # fmt: skip
    missing = [key for key in needed if key not in kept]
    if missing:
        raise ValueError(f"it holds no diffusion prior of the expected form: {', '.join(missing)} missing")
    dim, channels = len(kept["learned_query"]), len(kept[f"{first}0.to_kv.weight"]) // 2
    frequencies = [kept.pop(key) for key in sorted(kept) if key.endswith("rotary_emb.freqs")]
    expected = rotary_frequencies(channels)
    if any(each.shape != expected.shape or not torch.allclose(each.float(), expected, atol=1e-3) for each in frequencies):
        raise ValueError("its rotary frequencies are not those of the library's priors: use an unmodified file")
    if "null_text_encodings" in kept and not kept["null_text_encodings"].numel():
        del kept["null_text_encodings"]
    table, words = kept.get("to_time_embeds.0.weight"), kept.get("null_text_encodings")
    wide = kept["to_time_embeds.0.1.net.2.bias"].shape[0] if table is None else table.shape[1]
    config = PriorConfig(
        dim=dim,
        depth=1 + max(int(key.split(".")[2]) for key in kept if key.startswith("transformer.layers.")),
        heads=kept[needed[-1]].shape[1],
        dim_head=channels,
        ff_mult=len(kept[f"{first}1.1.weight"]) // (2 * dim),
        timesteps=None if table is None else len(table),
        time_tokens=wide // dim,
        noisy_tokens=len(kept.get("to_image_embeds.0.weight", kept["learned_query"])) // dim,
        condition_tokens=kept["null_text_embeds"].shape[1],
        text_tokens=0 if words is None else words.shape[1],
        causal=causal,
        norm_in="transformer.init_norm.g" in kept,
        normformer=f"{first}1.3.g" in kept,
        norm_out="transformer.norm.g" in kept,
        final_proj="transformer.project_out.weight" in kept,
        rotary=bool(frequencies),
    )
    return config, kept
