"""AudioToken's embedder: audio features become one pseudo-word (arXiv 2305.13050; pooling after arXiv 1904.05880).

Parameter names and shapes equal those of the published files, so that their 13 tensors load as they are.
Letters: B batch, L audio tokens, d word-embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodal.foundation.base import Adapter


class UnaryPotential(nn.Module):
    """How much each token matters by itself: a two-layer network with dropout on its hidden layer."""

    def __init__(self, dim: int, dropout: float, dropout_at_inference: bool) -> None:
        super().__init__()
        self.embed = nn.Conv1d(dim, dim, 1)
        self.feature_reduce = nn.Conv1d(dim, 1, 1)
        self.dropout, self.dropout_at_inference = dropout, dropout_at_inference

    def forward(self, values: Tensor) -> Tensor:
        """(B, d, L) -> (B, L)."""
        active = self.training or self.dropout_at_inference
        return self.feature_reduce(F.dropout(self.embed(values).relu(), self.dropout, active)).squeeze(1)


class PairwisePotential(nn.Module):
    """How much each token agrees with all of them: its mean cosine to every token, itself included."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.embed_X = nn.Conv1d(dim, dim, 1)
        self.embed_Y = nn.Conv1d(dim, dim, 1)

    def forward(self, values: Tensor) -> Tensor:
        """(B, d, L) -> (B, L).

        The mean of dot products is the dot product with the mean: linear in L, no (L, L) table.
        """
        query, key = F.normalize(self.embed_X(values), dim=1), F.normalize(self.embed_Y(values), dim=1)
        return (query * key.mean(-1, keepdim=True)).sum(1)


class FactorGraphAttention(nn.Module):
    """Attentive pooling of one sequence: softmax of a weighted sum of the unary and the pairwise potential.

    Lists of length one and the names follow the general method, which attends over several sequences.
    """

    def __init__(self, dim: int, dropout: float, dropout_at_inference: bool) -> None:
        super().__init__()
        self.un_models = nn.ModuleList([UnaryPotential(dim, dropout, dropout_at_inference)])
        self.pp_models = nn.ModuleList([PairwisePotential(dim)])
        self.reduce_potentials = nn.ModuleList([nn.Conv1d(2, 1, 1, bias=False)])

    def attention(self, values: Tensor) -> Tensor:
        """(B, L, d) -> weights (B, L) that sum to one."""
        channels_first = values.transpose(1, 2)
        potentials = [self.un_models[0](channels_first), self.pp_models[0](channels_first)]
        return self.reduce_potentials[0](torch.stack(potentials, 1)).squeeze(1).softmax(-1)

    def forward(self, values: Tensor) -> Tensor:
        """(B, L, d) -> (B, d)."""
        return (self.attention(values)[:, None] @ values).squeeze(1)


class MeanPoolEmbedder(Adapter):
    """The same network with a plain mean in place of the attention, to measure what attentive pooling brings.

    Args:
        in_dim: width of the audio features.
        out_dim: d, width of a word embedding of the text encoder.
        hidden_dim: between the two layers; default ``in_dim``.
    """

    def __init__(self, in_dim: int, out_dim: int, hidden_dim: int | None = None) -> None:
        super().__init__()
        hidden_dim = in_dim if hidden_dim is None else hidden_dim
        self.fc1, self.fc2 = nn.Linear(in_dim, hidden_dim), nn.Linear(hidden_dim, out_dim)

    def project(self, features: Tensor) -> Tensor:
        """(B, L, in_dim) -> (B, L, d); raises ValueError for another shape."""
        if features.ndim != 3 or features.shape[-1] != self.fc1.in_features or not features.shape[1]:
            expected = f"(B, L, {self.fc1.in_features}) with L at least 1"
            raise ValueError(f"features have the shape {tuple(features.shape)}, but the embedder expects {expected}")
        return self.fc2(F.gelu(self.fc1(features)))  # the exact GELU

    def forward(self, features: Tensor) -> Tensor:
        """(B, L, in_dim) -> (B, d)."""
        return self.project(features).mean(1)


class AudioTokenEmbedder(MeanPoolEmbedder):
    """Two layers per token, then attentive pooling: 8,853,507 parameters from 2304 to 768.

    Args:
        in_dim: width of the audio features.
        out_dim: d, width of a word embedding of the text encoder.
        hidden_dim: between the two layers; default ``in_dim``, as published.
        dropout: inside the attention's unary potential.
        dropout_at_inference: keep that dropout on in eval mode. The public code does, by a missing flag, so its
            pictures are not reproducible; set it only to compare with them.

    Raises ValueError for a dropout outside [0, 1].
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        hidden_dim: int | None = None,
        dropout: float = 0.5,
        dropout_at_inference: bool = False,
    ) -> None:
        super().__init__(in_dim, out_dim, hidden_dim)
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout {dropout} is not a probability: give a number from 0 to 1")
        self.fga = FactorGraphAttention(out_dim, dropout, dropout_at_inference)

    def forward(self, features: Tensor) -> Tensor:
        """(B, L, in_dim) -> (B, d)."""
        return self.fga(self.project(features))
