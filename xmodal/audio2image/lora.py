"""The low-rank weights that AudioToken once trained beside its embedder (its public code, before December 2023)."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

KEY = re.compile(r"(.+)\.processor\.(to_[qkv]|to_out)_lora\.down\.weight")


@torch.no_grad()
def merge_lora(unet: nn.Module, state: Mapping[str, Tensor]) -> int:
    """Add old-style attention LoRA weights to a UNet's projections in place; returns how many were changed.

    ``state`` has the keys ``BLOCK.attnN.processor.to_{q,k,v,out}_lora.{down,up}.weight``, down (rank, in) and up
    (out, rank); the rule is W += up @ down, without a scale. Nothing is changed unless all fits: raises ValueError
    for a key of another form, one half without the other, or a projection that is missing or of another shape.
    """
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for key, down in state.items():
        match = KEY.fullmatch(key)
        if match:
            up = state.get(key.replace("_lora.down.", "_lora.up."))
            if up is None:
                raise ValueError(f"{key} has no up matrix beside it: the file is incomplete")
            pairs[f"{match[1]}.{match[2]}" + (".0" if match[2] == "to_out" else "")] = (up, down)
    if not pairs or 2 * len(pairs) != len(state):
        raise ValueError(
            f"{len(state)} tensors hold {len(pairs)} pairs: expected keys like *.processor.to_q_lora.down.weight and .up."
        )
    modules = dict(unet.named_modules())
    for name, (up, down) in pairs.items():
        found = tuple(modules[name].weight.shape) if name in modules else None  # type: ignore[arg-type]
        if found != (up.shape[0], down.shape[1]) or up.shape[1] != down.shape[0]:
            raise ValueError(
                f"{name}: {tuple(up.shape)} @ {tuple(down.shape)} cannot be added to {found}: use its own base model"
            )
    for name, (up, down) in pairs.items():
        weight = modules[name].weight
        weight += (up.float() @ down.float()).to(weight)  # type: ignore[operator]
    return len(pairs)
