"""Where a sound stands: a head beside a mapper guesses the stereo pan from the picture. Beyond the paper, whose sounds are mono.

Letters: B batch, d1 source width, d2 target width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.vision2audio.mapper import Mapper
from xmodal.vision2audio.regression import RegressionMapper


class StereoPan(Mapper):
    """A mapper with a pan head; both read the same source, and neither changes the other.

    Args:
        in_dim, out_dim: d1 and d2.
        mapper: factory ``(d1, d2) -> Mapper`` of what gives the target embeddings; default `RegressionMapper`.
        hidden_dim: of the head: linear, SiLU, linear, tanh.
        weight: of the head's loss in the task's sum; the head has its own parameters, so only clipping feels it.

    Raises ValueError for options that cannot work.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        mapper: Callable[[int, int], Mapper] | None = None,
        hidden_dim: int = 128,
        weight: float = 1.0,
    ) -> None:
        inner = (mapper or RegressionMapper)(in_dim, out_dim)
        super().__init__(in_dim, out_dim, inner.source_norm)
        if hidden_dim < 1 or weight <= 0:
            raise ValueError(f"hidden_dim {hidden_dim} must be at least 1 and weight {weight} above 0")
        self.mapper, self.weight = inner, weight
        self.head = nn.Sequential(nn.Linear(in_dim, hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, 1), nn.Tanh())

    @property
    def quick(self) -> dict[str, Any]:
        """The mapper's own."""
        return self.mapper.quick

    def loss(self, source: Tensor, target: Tensor) -> Tensor:
        """The mapper's own."""
        return self.mapper.loss(source, target)

    def sample(self, source: Tensor, generator: Any = None, **options: Any) -> Tensor:
        """The mapper's own."""
        return self.mapper.sample(source, generator=generator, **options)

    def pan(self, source: Tensor) -> Tensor:
        """Sources (B, d1) -> pans (B,) from -1, all left, to 1, all right."""
        self.check(source, self.in_dim, "sources")
        return self.head(F.normalize(source.float(), dim=-1) * math.sqrt(self.in_dim)).squeeze(-1).float()

    def pan_loss(self, source: Tensor, pan: Tensor) -> Tensor:
        """Weighted mean squared error (scalar) to pans (B,); clips of unknown pan (NaN) do not count."""
        known = torch.isfinite(pan)
        error = (self.pan(source) - torch.where(known, pan, 0.0)).square() * known
        return self.weight * error.sum() / known.sum().clamp(min=1)
