"""Low-rank weights (LoRA, Hu et al., arXiv 2106.09685) for a UNet's projections: others' merged into it, our own trained.

Read are the files of diffusers' training scripts (``unet.MODULE.lora.down.weight`` and ``.up.``), those that peft names
(``lora_A``, ``lora_B``), and the older attention processors (``BLOCK.attnN.processor.to_q_lora.down.weight``), which AudioToken's
public code wrote until December 2023. Letters: r rank.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from xmodal.registry.checkpoint import check_finite, only_tensors, read_file

ORIGIN = "whoever published it"
PROCESSOR = re.compile(r"(?:unet\.)?(.+)\.processor\.(to_[qkv]|to_out)_lora\.(down|up)\.weight")
NAMED = re.compile(r"(?:unet\.)?(.+)\.(?:lora\.(down|up)|lora_(A|B))\.weight")
HEADER = "lora_adapter_metadata"  # peft's settings, JSON in the header of a safetensors file
VARIANTS = ("rank_pattern", "alpha_pattern", "use_rslora", "use_dora")


@dataclass(frozen=True)
class LoRA:
    """Pairs ``down`` (r, in) and ``up`` (out, r) by the name of their projection; ``scale`` is alpha / r, 1 without an alpha."""

    pairs: Mapping[str, tuple[Tensor, Tensor]]
    scale: float
    path: Path

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file of any of the layouts above; raises FileNotFoundError, or ValueError for anything else in it."""
        content, header = read_file(path, ORIGIN)
        return cls.of(only_tensors(content, path), path, header)

    @classmethod
    def of(cls, state: Mapping[str, Tensor], path: Path, header: Mapping[str, str] | None = None) -> Self:
        """Sort a file's tensors into pairs; raises ValueError for a key of another form, or a half without the other."""
        check_finite(state, path)
        halves: dict[str, dict[str, Tensor]] = {"down": {}, "up": {}}
        for key, value in state.items():
            name, half = _place(key)
            if not name or not value.is_floating_point() or value.ndim != 2:
                raise ValueError(
                    f"{path} holds {key} of shape {tuple(value.shape)} ({value.dtype}), but expected pairs of matrices of real "
                    "numbers for a UNet, such as unet.MODULE.lora.down.weight and .up.weight: other kinds of LoRA are not read"
                )
            halves[half][name] = value
        if odd := sorted(halves["down"].keys() ^ halves["up"].keys()):
            raise ValueError(f"{path} has one half of {odd[0]} without the other: the file is incomplete")
        pairs = {name: (down, halves["up"][name]) for name, down in halves["down"].items()}
        for name, (down, up) in pairs.items():
            if up.shape[1] != down.shape[0]:
                raise ValueError(
                    f"{path}: the halves of {name} are {tuple(up.shape)} and {tuple(down.shape)}: they have no rank in common"
                )
        return cls(pairs, _scale(header or {}, path), path)

    @torch.no_grad()
    def merge(self, unet: nn.Module, strength: float = 1.0) -> int:
        """Add ``strength * scale * up @ down`` to a UNet's projections in place; returns how many were changed.

        Nothing is changed unless all fits: raises ValueError for a projection that is missing or of another shape.
        """
        modules = dict(unet.named_modules())
        for name, (down, up) in self.pairs.items():
            weight = getattr(modules.get(name), "weight", None)
            if weight is not None and not isinstance(weight, nn.Parameter):  # one that is made anew at each look
                raise ValueError(f"{self.path} cannot be merged into quantized weights: give it to the generator, then quantize")
            found = None if weight is None else tuple(weight.shape)
            if found != (up.shape[0], down.shape[1]):
                raise ValueError(
                    f"{self.path} does not fit this UNet: {name} is {found or 'absent'} there, but the LoRA is of "
                    f"{(up.shape[0], down.shape[1])}: use the base model that it was trained with"
                )
        for name, (down, up) in self.pairs.items():
            target: Any = modules[name].weight
            target += (strength * self.scale * (up.float() @ down.float())).to(target)
        return len(self.pairs)


class LowRank(nn.Module):
    """Trainable pairs for a UNet's projections; its state dict is a file that diffusers' ``load_lora_weights`` reads.

    Args:
        projections: linear maps by the UNet's names.
        rank: r; alpha is r, too, so the scale is 1.

    ``up`` begins at zero: nothing changes before the first step. Raises ValueError for no projections, or a rank below 1.
    """

    def __init__(self, projections: Mapping[str, nn.Module], rank: int = 4) -> None:
        super().__init__()
        if not projections or rank < 1:
            raise ValueError(f"low-rank weights of rank {rank} for {len(projections)} projections: both must be at least 1")
        self.rank = rank
        for name, target in projections.items():
            wide: Any = target
            pair = nn.Module()
            pair.down = nn.Linear(wide.in_features, rank, bias=False)
            pair.up = nn.Linear(rank, wide.out_features, bias=False)
            nn.init.normal_(pair.down.weight, std=1 / rank)
            nn.init.zeros_(pair.up.weight)
            node: nn.Module = self
            for step in ("unet", *name.split(".")):
                if not hasattr(node, step):
                    node.add_module(step, nn.Module())
                node = getattr(node, step)
            node.add_module("lora", pair)

    @contextmanager
    def on(self, projections: Mapping[str, nn.Module], strength: float = 1.0) -> Iterator[None]:
        """While open, each projection of the UNet adds its pair's part; the UNet's own weights stay as they are.

        Not for gradient checkpointing, which would compute again when this is closed: the generator refuses it.
        """

        def adding(pair: Any) -> Any:
            def hook(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
                return output + strength * pair.up(pair.down(given[0].to(pair.down.weight.dtype))).to(output.dtype)

            return hook

        handles = [
            module.register_forward_hook(adding(self.get_submodule(f"unet.{name}.lora"))) for name, module in projections.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _place(key: str) -> tuple[str, str]:
    """The projection that a key belongs to, as the UNet names it, and ``down`` or ``up``; empty for any other key."""
    if old := PROCESSOR.fullmatch(key):
        return f"{old[1]}.{old[2]}" + (".0" if old[2] == "to_out" else ""), old[3]
    named = NAMED.fullmatch(key)
    if named is None or key.startswith("text_encoder"):
        return "", ""
    return named[1], named[2] or {"A": "down", "B": "up"}[named[3]]


def _scale(header: Mapping[str, str], path: Path) -> float:
    """The scale alpha / r by peft's settings, 1 without them; raises ValueError for settings that mean another computation."""
    try:
        settings = json.loads(header.get(HEADER, "{}"))
        settings = {str(key).removeprefix("unet."): value for key, value in settings.items()}
        alpha, rank = float(settings.get("lora_alpha") or 0), float(settings.get("r") or 0)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: its header's {HEADER} cannot be read ({error}): get the file again") from error
    if used := [name for name in VARIANTS if settings.get(name)]:
        raise ValueError(
            f"{path} was trained with {used[0]}, which is not read: only one rank and one alpha for all projections are"
        )
    if not settings:
        return 1.0
    if not (math.isfinite(alpha) and alpha > 0 and rank >= 1):
        raise ValueError(f"{path}: its header states alpha {alpha:g} and rank {rank:g}, but expected both above 0")
    return alpha / rank
