"""AudioToken's embedder: audio features become one pseudo-word (arXiv 2305.13050; pooling after arXiv 1904.05880), or several.

Parameter names and shapes equal those of the published files, so that their 13 tensors load as they are. Several words are ours.
Letters: B batch, L audio tokens, k pseudo-words, d word-embedding width.
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
        num_tokens: k, pseudo-words that one sound becomes.
        token_norm: Euclidean length that every pseudo-word is scaled to (ours); default: as the layers make it, as published.
            Unscaled ones grow far longer than words, and the text encoder reads little of what stands beside them. The
            length of words is ``generator.label_embeds(names).norm(dim=-1).mean()``.

    Raises ValueError for ``num_tokens`` below 1, or a ``token_norm`` that is not positive.
    """

    def __init__(
        self, in_dim: int, out_dim: int, hidden_dim: int | None = None, num_tokens: int = 1, token_norm: float | None = None
    ) -> None:
        super().__init__()
        if num_tokens < 1:
            raise ValueError(f"num_tokens {num_tokens} makes no pseudo-word: give 1 or more")
        if token_norm is not None and not 0 < token_norm < float("inf"):
            raise ValueError(f"token_norm {token_norm} is no length: give a positive number")
        hidden_dim = in_dim if hidden_dim is None else hidden_dim
        self.out_dim, self.num_tokens, self.token_norm = out_dim, num_tokens, token_norm
        self.fc1, self.fc2 = nn.Linear(in_dim, hidden_dim), nn.Linear(hidden_dim, num_tokens * out_dim)

    def project(self, features: Tensor) -> Tensor:
        """(B, L, in_dim) -> (B, L, k * d); raises ValueError for another shape."""
        if features.ndim != 3 or features.shape[-1] != self.fc1.in_features or not features.shape[1]:
            expected = f"(B, L, {self.fc1.in_features}) with L at least 1"
            raise ValueError(f"features have the shape {tuple(features.shape)}, but the embedder expects {expected}")
        return self.fc2(F.gelu(self.fc1(features)))  # the exact GELU

    def pool(self, values: Tensor, word: int) -> Tensor:
        """What pseudo-word number ``word`` makes of its own values of all audio tokens: (B, L, d) -> (B, d)."""
        return values.mean(1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, L, in_dim) -> (B, d), or (B, k, d) with more than one pseudo-word."""
        values = self.project(features).split(self.out_dim, -1)
        words = [self.pool(value, word) for word, value in enumerate(values)]
        if self.token_norm is not None:
            words = [self.token_norm * F.normalize(each, dim=-1) for each in words]
        return words[0] if self.num_tokens == 1 else torch.stack(words, 1)


class AudioTokenEmbedder(MeanPoolEmbedder):
    """Two layers per token, then attentive pooling: 8,853,507 parameters from 2304 to 768.

    Args:
        in_dim: width of the audio features.
        out_dim: d, width of a word embedding of the text encoder.
        hidden_dim: between the two layers; default ``in_dim``, as published.
        dropout: inside the attention's unary potential.
        dropout_at_inference: keep that dropout on in eval mode. The public code does, by a missing flag, so its
            pictures are not reproducible; set it only to compare with them.
        num_tokens: k, pseudo-words that one sound becomes (ours; the paper has one): each has its own values and its own
            attention, so that one may tell the thing, another its number.
        token_norm: Euclidean length that every pseudo-word is scaled to, see :class:`MeanPoolEmbedder`.

    Raises ValueError for a dropout outside [0, 1], ``num_tokens`` below 1, or a ``token_norm`` that is not positive.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        hidden_dim: int | None = None,
        dropout: float = 0.5,
        dropout_at_inference: bool = False,
        num_tokens: int = 1,
        token_norm: float | None = None,
    ) -> None:
        super().__init__(in_dim, out_dim, hidden_dim, num_tokens, token_norm)
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout {dropout} is not a probability: give a number from 0 to 1")
        self.fga = FactorGraphAttention(out_dim, dropout, dropout_at_inference)
        further = (FactorGraphAttention(out_dim, dropout, dropout_at_inference) for _ in range(num_tokens - 1))
        self.further_fga = nn.ModuleList(further)  # empty as published

    def pool(self, values: Tensor, word: int) -> Tensor:
        """Attentive pooling, by pseudo-word number ``word``'s own attention: (B, L, d) -> (B, d)."""
        return (self.further_fga[word - 1] if word else self.fga)(values)
