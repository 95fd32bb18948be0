"""The contract that every mapper keeps: from one embedding space to another.

Letters: B batch, d1 source width, d2 target width.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, Literal

from torch import Tensor
from torch.nn import functional as F

from xmodal.foundation.base import Adapter

SourceNorm = Literal["scaled", "unit", "none"]


class Mapper(Adapter):
    """Learns the way from source embeddings (B, d1) to target embeddings (B, d2) of the same clips.

    Args:
        in_dim: d1.
        out_dim: d2.
        source_norm: what is done to a source first: ``scaled`` (unit vector times sqrt(d1), so that its numbers have about
            unit variance), ``unit``, or ``none`` (as the encoder gives it).

    Raises ValueError for an unknown ``source_norm``.
    """

    def __init__(self, in_dim: int, out_dim: int, source_norm: SourceNorm = "scaled") -> None:
        super().__init__()
        if source_norm not in ("scaled", "unit", "none"):
            raise ValueError(f"source_norm {source_norm!r} is not one of scaled, unit, none")
        self.in_dim, self.out_dim, self.source_norm = in_dim, out_dim, source_norm

    @property
    def quick(self) -> dict[str, Any]:
        """Options of :meth:`sample` for validation, which asks for a trend at little cost; by default none."""
        return {}

    @abstractmethod
    def loss(self, source: Tensor, target: Tensor) -> Tensor:
        """Sources (B, d1) and their targets (B, d2), of any length -> scalar. Neither argument is changed."""

    @abstractmethod
    def sample(self, source: Tensor, generator: Any = None, **options: Any) -> Tensor:
        """Sources (B, d1) -> normalized guesses (B, d2), float32; ``generator`` is one, or one for each row."""

    def prepare(self, source: Tensor) -> Tensor:
        """Sources (B, d1) as the network reads them, float32; raises ValueError for another shape."""
        self.check(source, self.in_dim, "sources")
        if self.source_norm == "none":
            return source.float()
        return F.normalize(source.float(), dim=-1) * (math.sqrt(self.in_dim) if self.source_norm == "scaled" else 1.0)

    def check_pair(self, source: Tensor, target: Tensor) -> None:
        """Raise ValueError where the targets are not (B, d2) for the same B."""
        self.check(target, self.out_dim, "targets")
        if len(source) != len(target):
            raise ValueError(f"{len(source)} sources and {len(target)} targets were given: give one for one")

    @staticmethod
    def check(vectors: Tensor, dim: int, name: str) -> None:
        """Raise ValueError where ``vectors`` are not (B, dim)."""
        if vectors.ndim != 2 or vectors.shape[1] != dim:
            raise ValueError(f"{name} have the shape {tuple(vectors.shape)}, but the mapper expects (B, {dim})")
