"""Small networks and checks of `xmodal.foundation.diffusion_prior`. Letters: B batch, N known rows, L words, d width."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.foundation.base import Prior


class Shift(nn.Module):
    """Moves by the difference of two means."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mean_text, self.mean_image = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, text: Tensor) -> Tensor:
        """(B, d) -> (B, d)."""
        return text - self.mean_text + self.mean_image


class Bank(nn.Module):
    """Unit vectors of known pictures (N, d), and how soft the choice among them is."""

    def __init__(self, dim: int, count: int, temperature: float = 0.02) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(count, dim))
        self.temperature = nn.Parameter(torch.tensor(temperature))

    def forward(self, text: Tensor) -> Tensor:
        """(B, d) -> (B, d): the known vectors' mean, weighted by a softmax over their cosines to the text."""
        return (text @ self.rows.T / self.temperature).softmax(-1) @ self.rows


def as_of(module: nn.Module, x: Any) -> Any:
    """Give a tensor of floating point the precision of a module's weights."""
    return x.to(next(module.parameters()).dtype) if isinstance(x, Tensor) and x.is_floating_point() else x


def check(prior: Prior, text: Tensor, tokens: Tensor | None = None, candidates: int = 1) -> None:
    """Raise ValueError, with what was expected, for inputs that a prior cannot take."""
    if text.ndim != 2 or text.shape[1] != prior.dim:
        raise ValueError(f"text embeddings have the shape {tuple(text.shape)}, but the prior expects (B, {prior.dim})")
    if candidates < 1:
        raise ValueError(f"candidates must be at least 1, not {candidates}")
    if prior.reads_tokens and tokens is None:
        raise ValueError(
            f"{type(prior).__name__} also reads the words: give the text tower's tokens (B, L, {prior.dim}) and mask"
        )
    if tokens is not None and (tokens.ndim != 3 or tokens.shape[::2] != text.shape):
        raise ValueError(f"tokens have the shape {tuple(tokens.shape)}, but expected ({len(text)}, L, {prior.dim})")


def check_class(config: Mapping[str, Any], name: str, folder: Path) -> None:
    """Raise ValueError where a folder holds another kind of prior."""
    if config.get("class") != name:
        raise ValueError(f"{folder} holds a {config.get('class', 'model unknown here')}, not a {name}: name the class that fits")
