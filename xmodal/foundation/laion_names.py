"""LAION's own CLAP files (Wu et al., arXiv 2211.06687) in transformers' terms: names, sizes, tables that no file needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.registry.checkpoint import assign, only_tensors, read_pickle, unfilled

LAION = "https://huggingface.co/lukewys/laion_clap"
TABLES = ("relative_position_index", "position_ids", "token_type_ids", "attn_mask")  # computed, though some files list them
# LAION's names in the order of replacement; qkv is split besides.
RENAMED = (
    (r"^audio_branch\.bn0\.", "audio_model.audio_encoder.batch_norm."),
    (r"^audio_branch\.", "audio_model.audio_encoder."),
    (r"^text_branch\.", "text_model."),
    (r"_projection\.0\.", "_projection.linear1."),
    (r"_projection\.2\.", "_projection.linear2."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.", ".attention.self."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
# The original's front end, its AudioSet classifier, and two perceptrons that only its training used.
DROPPED = re.compile(r"audio_branch\.(spectrogram_extractor|logmel_extractor|tscam_conv|head)\.|(audio|text)_transform\.")


def read(file: Path) -> dict[str, Tensor]:
    """Return the tensors of one of LAION's files by its own names; raises FileNotFoundError or ValueError."""
    content = read_pickle(file, LAION, arrays=True)  # single numbers stand beside the weights
    inner = "state_dict" if isinstance(content, Mapping) and "state_dict" in content else None
    return {key.removeprefix("module."): value for key, value in only_tensors(content, file, inner).items()}


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return LAION's tensors by transformers' names, without the tables and what `DROPPED` matches."""
    made: dict[str, Tensor] = {}
    for name, value in state.items():
        if DROPPED.match(name) or name.endswith(TABLES):
            continue
        for pattern, new in RENAMED:
            name = re.sub(pattern, new, name)
        if ".self.qkv." in name:
            made |= {name.replace("qkv", row): part for row, part in zip(("query", "key", "value"), value.chunk(3))}
        else:
            made[name] = value
    return made


def audio_sizes(state: Mapping[str, Tensor], file: Path) -> dict[str, Any]:
    """Read HTSAT's sizes off its weights, as ClapAudioConfig names them; ValueError for another network.

    The published ones differ in nothing else.
    """
    top, inside = "audio_model.audio_encoder.", "attention.self.relative_position_bias_table"
    try:
        stages = next(index for index in count() if f"{top}layers.{index}.blocks.0.{inside}" not in state)
        deep = [sum(key.startswith(f"{top}layers.{index}.") and key.endswith(inside) for key in state) for index in range(stages)]
        heads = [state[f"{top}layers.{index}.blocks.0.{inside}"].shape[1] for index in range(stages)]
        return {
            "patch_embeds_hidden_size": len(state[f"{top}patch_embed.proj.weight"]), "depths": deep,
            "num_attention_heads": heads, "num_hidden_layers": stages, "hidden_size": len(state[f"{top}norm.weight"]),
            "num_mel_bins": len(state[f"{top}batch_norm.weight"]), "enable_fusion": f"{top}patch_embed.mel_conv2d.bias" in state,
            "fusion_type": "aff_2d" if f"{top}patch_embed.mel_conv2d.bias" in state else None,
            "projection_dim": len(state["audio_projection.linear2.weight"]),
        }  # fmt: skip
    except KeyError as error:
        pann = ": it is one with PANN, which only the model laion_clap loads" if f"{top}conv_block1.conv1.weight" in state else ""
        raise ValueError(f"{file} is no CLAP with HTSAT{pann}, it lacks {error}; give an unmodified file from {LAION}") from error


def text_sizes(state: Mapping[str, Tensor], file: Path) -> dict[str, Any]:
    """Read RoBERTa's sizes off its weights, whose heads are 64 wide; ValueError for another network."""
    try:
        vocabulary, width = state["text_model.embeddings.word_embeddings.weight"].shape
        return {
            "vocab_size": vocabulary, "hidden_size": width, "num_attention_heads": max(width // 64, 1),
            "max_position_embeddings": len(state["text_model.embeddings.position_embeddings.weight"]),
            "intermediate_size": len(state["text_model.encoder.layer.0.intermediate.dense.weight"]),
            "num_hidden_layers": len({key.split(".")[3] for key in state if key.startswith("text_model.encoder.layer.")}),
            "layer_norm_eps": 1e-5, "projection_dim": len(state["text_projection.linear2.weight"]),
        }  # fmt: skip
    except KeyError as error:
        raise ValueError(f"{file} is no CLAP with RoBERTa: it lacks {error}; give an unmodified file from {LAION}") from error


SIZES_OF: dict[str, Callable[[Mapping[str, Tensor], Path], dict[str, Any]]] = {"audio": audio_sizes, "text": text_sizes}


def convert(file: Path) -> nn.Module:
    """Return the ClapModel of one of LAION's files; raises as `read`, or ValueError where a tensor lacks or is unknown."""
    from transformers import ClapConfig, ClapModel

    state = renamed(read(file))
    sizes: dict[str, Any] = {f"{part}_config": found(state, file) for part, found in SIZES_OF.items()}
    with unfilled():
        model = ClapModel(ClapConfig(**sizes, projection_dim=sizes["audio_config"]["projection_dim"]))
    assign(model, state | tables(model), file, "a CLAP of HTSAT and RoBERTa")
    return model.eval()


def tables(model: nn.Module) -> dict[str, Tensor]:
    """Return what files list beside the weights though it follows from the sizes, by the model's names."""
    found: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if hasattr(module, "create_relative_position_index"):
            found[f"{name}.relative_position_index"] = module.create_relative_position_index()
        elif "position_ids" in module._buffers:
            positions = module.position_embeddings.num_embeddings  # type: ignore[union-attr]
            found[f"{name}.position_ids"] = torch.arange(positions)[None]
            found[f"{name}.token_type_ids"] = torch.zeros(1, positions, dtype=torch.long)
    return found
