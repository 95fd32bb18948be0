"""Mappers from one embedding space to another by regression: one guess for each source, the mean of what may be right.

Among them are the floors under an ablation (`LinearMapper`, `MeanShift`).
Letters: B batch, d1 source width, d2 target width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.registry.checkpoint import load_into, only_tensors, read_file
from xmodal.vision2audio.mapper import Mapper, SourceNorm

LOSSES = ("mse", "cosine")
LIBRARY = re.compile(r"net\.\d+(\.\d+)?\.(weight|bias)")  # keys of dalle2-pytorch's MLP


class _Regression(Mapper):
    """One forward pass, ``net``."""

    net: nn.Module

    def __init__(self, in_dim: int, out_dim: int, source_norm: SourceNorm, loss: str, scale_target: bool) -> None:
        super().__init__(in_dim, out_dim, source_norm)
        if loss not in LOSSES:
            raise ValueError(f"loss {loss!r} is not one of {', '.join(LOSSES)}")
        self.loss_kind, self.scale_target = loss, scale_target

    def forward(self, source: Tensor) -> Tensor:
        """Sources (B, d1) -> guesses (B, d2) of any length."""
        return self.net(self.prepare(source))

    def loss(self, source: Tensor, target: Tensor) -> Tensor:
        """Mean squared error to the unit target (times sqrt(d2) if ``scale_target``), or 1 - cosine; scalar, float32."""
        self.check_pair(source, target)
        guess, target = self(source).float(), F.normalize(target.float(), dim=-1)
        if self.loss_kind == "cosine":
            return 1 - F.cosine_similarity(guess, target).mean()
        return F.mse_loss(guess, target * (math.sqrt(self.out_dim) if self.scale_target else 1.0))

    def sample(self, source: Tensor, generator: Any = None, **options: Any) -> Tensor:
        """Sources (B, d1) -> normalized guesses (B, d2); nothing is drawn, so a sampler's arguments are read by no one."""
        return F.normalize(self(source).float(), dim=-1)


class RegressionMapper(_Regression):
    """V2A-Mapper's regression variant (arXiv 2308.09300): 2,103,808 parameters from 512 to 512.

    The paper states the loss but neither depth nor width; these are those of dalle2-pytorch's MLP and of the public
    re-implementation jh5-6/V2A-Mapper. Layers are Linear, SiLU, LayerNorm, ``depth`` times, then Linear.

    Args:
        in_dim, out_dim: d1 and d2.
        hidden_dim: width between; default ``expansion`` times d2.
        expansion: see ``hidden_dim``.
        depth: hidden layers.
        residual: add the source to the guess; needs d1 = d2.
        source_norm: see `Mapper`.
        loss: ``mse`` or ``cosine``.
        scale_target: give the targets of ``mse`` the length sqrt(d2), so that the loss is of the order of 1.

    Raises ValueError for options that cannot work.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        hidden_dim: int | None = None,
        expansion: float = 4.0,
        depth: int = 1,
        residual: bool = False,
        source_norm: SourceNorm = "scaled",
        loss: Literal["mse", "cosine"] = "mse",
        scale_target: bool = True,
    ) -> None:
        super().__init__(in_dim, out_dim, source_norm, loss, scale_target)
        hidden = int(expansion * out_dim) if hidden_dim is None else hidden_dim
        if depth < 1 or hidden < 1:
            raise ValueError(f"depth {depth} and hidden_dim {hidden} must both be at least 1")
        if residual and in_dim != out_dim:
            raise ValueError(f"residual needs sources and targets of one width, not {in_dim} and {out_dim}: set it to false")
        widths = [in_dim, *[hidden] * depth]
        layers: list[nn.Module] = [
            nn.Sequential(nn.Linear(before, after), nn.SiLU(), nn.LayerNorm(after))
            for before, after in zip(widths, widths[1:], strict=False)
        ]
        self.net, self.residual = nn.Sequential(*layers, nn.Linear(hidden, out_dim)), residual

    def forward(self, source: Tensor) -> Tensor:
        """Sources (B, d1) -> guesses (B, d2) of any length."""
        x = self.prepare(source)
        return x + self.net(x) if self.residual else self.net(x)

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> Self:
        """Read the weights of jh5-6/V2A-Mapper (``linear``, ``layer_norm``, ``linear2``), or of dalle2-pytorch's MLP (``net``).

        Such a mapper reads CLIP vectors as CLIP gives them and was fitted to unit targets; sizes follow from the tensors.
        Raises FileNotFoundError or ValueError.
        """
        state = _rename(_read(Path(path)), Path(path))
        last = max(int(key.split(".")[1]) for key in state)
        first, final = state.get("net.0.0.weight"), state.get(f"net.{last}.weight")
        if first is None or final is None:
            raise ValueError(f"{path} holds no regression mapper: the first or the last linear layer is missing")
        widths = first.shape[1], final.shape[0]
        mapper = cls(*widths, hidden_dim=first.shape[0], depth=last, source_norm="none", scale_target=False)
        load_into(mapper, state, Path(path))
        return mapper


def _read(path: Path) -> dict[str, Tensor]:
    content, _ = read_file(path, "whoever published it")
    wrapped = isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping)
    state = only_tensors(content, path, "state_dict" if wrapped else None)
    if wrong := [key for key, value in state.items() if not value.is_floating_point()]:
        raise ValueError(
            f"{path} holds {wrong[0]} as {state[wrong[0]].dtype}, but expected real numbers: it is another model's file"
        )
    return {key.removeprefix("module."): value.float() for key, value in state.items()}


def _rename(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    places = {"linear": "net.0.0", "layer_norm": "net.0.2", "linear2": "net.1"}
    renamed = {}
    for key, value in state.items():
        head, _, tail = key.rpartition(".")
        if head not in places and not LIBRARY.fullmatch(key):
            raise ValueError(
                f"{path} holds {key!r}, but expected linear, layer_norm, linear2, or net: it is another mapper's file"
            )
        renamed[f"{places.get(head, head)}.{tail}"] = value
    return renamed


class LinearMapper(_Regression):
    """One affine map, the floor that a deeper mapper must beat to be worth its parameters; arguments as `RegressionMapper`."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        source_norm: SourceNorm = "scaled",
        loss: Literal["mse", "cosine"] = "mse",
        scale_target: bool = True,
    ) -> None:
        super().__init__(in_dim, out_dim, source_norm, loss, scale_target)
        self.net = nn.Linear(in_dim, out_dim)


class MeanShift(_Regression):
    """The source moved by one learned vector: the gap between two clouds and nothing else. It learns from unit vectors.

    Between CLIP and CLAP, whose axes have nothing to do with each other, it amounts to guessing the mean target.
    Raises ValueError where d1 and d2 differ.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__(in_dim, out_dim, "scaled", "mse", True)
        if in_dim != out_dim:
            raise ValueError(f"MeanShift needs sources and targets of one width, not {in_dim} and {out_dim}: use LinearMapper")
        self.shift = nn.Parameter(torch.zeros(out_dim))

    def forward(self, source: Tensor) -> Tensor:
        """Sources (B, d) -> (B, d)."""
        return self.prepare(source) + self.shift
